//! The decision table of federation, played through: kind, verification level, certificate, users'
//! rights and direction, against a second judge that is written from the trust rules alone; then
//! rows by hand for providers and whom they may speak for.

use super::verification::{policy_of, world_of};
use super::*;
use crate::{
    config::{
        AllowedDomain, BlockedDomain, DefaultRoute, Federation, HostingProvider, PeerOptions,
        PublicImProvider, Rights, Transport, UserPattern, UserPolicy, Verification,
    },
    federation::{CertificateNames, PartnerKind, Policy},
    media::policy::Modalities,
    xmpp::settings::{XmppLimits, XmppPartner, XmppPartnerKind, XmppSettings},
};

/// What a certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certificate {
    Domain,
    Uri,
    SrvHost,
    PeerHost,
    OtherHost,
    LookAlike,
    Wildcard,
    Expired,
    Nothing,
    /// None: it is the gateway of the appliance itself.
    Gateway,
}

const CERTIFICATES: [Certificate; 10] = [
    Certificate::Domain,
    Certificate::Uri,
    Certificate::SrvHost,
    Certificate::PeerHost,
    Certificate::OtherHost,
    Certificate::LookAlike,
    Certificate::Wildcard,
    Certificate::Expired,
    Certificate::Nothing,
    Certificate::Gateway,
];

impl Certificate {
    /// For `p.example`, whose SRV record names `sip.p.example` and whose peer, where there is one,
    /// is `peer.example`.
    fn names(self, unix: u64) -> CertificateNames {
        let dns = |list: &[&str]| (*names(list)).clone();
        match self {
            Certificate::Domain => dns(&["p.example"]),
            Certificate::Uri => {
                CertificateNames { sip_uris: vec![domain("p.example")], ..dns(&["x.example"]) }
            }
            Certificate::SrvHost => dns(&["sip.p.example"]),
            Certificate::PeerHost => dns(&["peer.example"]),
            Certificate::OtherHost => dns(&["www.p.example", "www.peer.example"]),
            Certificate::LookAlike => dns(&[
                "xp.example",
                "sip.p.example.evil.example",
                "p.example.evil.example",
                "peer.example.evil.example",
                "xpeer.example",
            ]),
            Certificate::Wildcard => CertificateNames {
                wildcards: vec![domain("p.example"), domain("peer.example")],
                ..dns(&[])
            },
            Certificate::Expired => CertificateNames {
                expires_at: Some(unix - 1),
                ..dns(&["p.example", "sip.p.example", "peer.example"])
            },
            Certificate::Nothing | Certificate::Gateway => dns(&[]),
        }
    }
}

const ALL: Rights = Rights {
    federation: true,
    public_im: true,
    public_av: true,
    xmpp: true,
    outside: true,
    modalities: Modalities::ALL,
};
const NONE: Rights = Rights {
    federation: false,
    public_im: false,
    public_av: false,
    xmpp: false,
    outside: false,
    modalities: Modalities::ALL,
};
const RIGHTS: [Option<Rights>; 7] = [
    None,
    Some(ALL),
    Some(NONE),
    Some(Rights { public_im: true, ..NONE }),
    Some(Rights { federation: false, ..ALL }),
    Some(Rights { xmpp: false, ..ALL }),
    Some(Rights { federation: true, xmpp: true, ..NONE }),
];

/// One combination.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: PartnerKind,
    level: Option<Verification>,
    certificate: Certificate,
    rights: Option<Rights>,
    video: bool,
    inbound: bool,
}

/// The second judge: from the trust rules and the decision table, without a look at the first.
fn verdict(case: &Case) -> Result<(), (&'static str, u16)> {
    let proved = match case.kind {
        // 2a or 2c.
        PartnerKind::DiscoveredDomain | PartnerKind::AllowedDomain => matches!(
            case.certificate,
            Certificate::Domain | Certificate::Uri | Certificate::SrvHost
        ),
        // 2a or 2b.
        PartnerKind::AllowedServer => matches!(
            case.certificate,
            Certificate::Domain | Certificate::Uri | Certificate::PeerHost
        ),
        // The peer's own host, and nothing else.
        PartnerKind::HostingProvider
        | PartnerKind::PublicImProvider
        | PartnerKind::DefaultRoute => case.certificate == Certificate::PeerHost,
        // No certificate makes a SIP peer an XMPP partner, and the gateway is nobody else.
        PartnerKind::Xmpp => case.certificate == Certificate::Gateway,
    };
    let stranger = matches!(case.kind, PartnerKind::DiscoveredDomain | PartnerKind::DefaultRoute);
    let xmpp = case.kind == PartnerKind::Xmpp;
    let silent = case.level == Some(Verification::UseSource) && !stranger && !xmpp;
    let rights = case.rights.unwrap_or(Rights { federation: true, ..NONE });
    let user = match case.kind {
        PartnerKind::PublicImProvider if !rights.public_im => Err(("user-no-public-im", 403)),
        PartnerKind::PublicImProvider if case.video && !rights.public_av => {
            Err(("user-no-public-av", 488))
        }
        PartnerKind::PublicImProvider => Ok(()),
        PartnerKind::Xmpp if rights.federation && !rights.xmpp => Err(("user-no-xmpp", 403)),
        _ if rights.federation => Ok(()),
        _ => Err(("user-no-federation", 403)),
    };
    // Over XMPP there are messages and presence, and nothing else.
    let no_video = || match xmpp && case.video {
        true => Err(("modality-forbidden", 488)),
        false => Ok(()),
    };
    if case.inbound {
        if !proved {
            return Err(("identity-not-proved", 403));
        }
        if silent {
            return Err(("unverified-source", 403));
        }
        user?;
        return no_video();
    }
    // Going out, the user is judged before anybody is dialled.
    user?;
    match (proved, xmpp) {
        (true, _) => no_video(),
        (false, false) => Err(("identity-not-proved", 504)),
        // Nobody is dialled: the gateway is not there.
        (false, true) => Err(("unreachable", 504)),
    }
}

/// These domains are an XMPP partner's, and contoso.example's users are the gateway's.
pub(super) fn xmpp_settings(partner: &[&str]) -> XmppSettings {
    let (first, rest) = partner.split_first().unwrap();
    let partner = XmppPartner {
        additional: rest.iter().map(|name| domain(name)).collect(),
        kind: XmppPartnerKind::Federated,
        ..XmppPartner::new(domain(first))
    };
    XmppSettings {
        enabled: true,
        domains: vec![domain("contoso.example")],
        inside: vec![],
        chats: Default::default(),
        partners: vec![std::sync::Arc::new(partner)],
        limits: XmppLimits::default(),
    }
}

fn play(case: &Case) -> Result<(), (String, u16)> {
    let mut lists = policy_of(case.kind, case.level);
    let peer = domain("peer.example");
    for entry in &mut lists.allowed_domains {
        entry.proxy_fqdn = entry.proxy_fqdn.as_ref().map(|_| peer.clone());
    }
    lists.hosting_providers.iter_mut().for_each(|p| p.proxy_fqdn = peer.clone());
    lists.public_im_providers.iter_mut().for_each(|p| p.proxy_fqdn = peer.clone());
    lists.default_route.iter_mut().for_each(|route| route.proxy_fqdn = peer.clone());
    let users = vec![UserPattern::Domain(domain("contoso.example"))];
    lists.users = case.rights.map(|rights| UserPolicy { users, rights }).into_iter().collect();
    let mut world = world_of(&lists);
    if case.kind == PartnerKind::Xmpp {
        let policy = Policy::new(&[domain("contoso.example")], &lists);
        let policy = policy.with_xmpp(Some(&xmpp_settings(&["p.example"])));
        world.set_policy(CONTOSO, std::sync::Arc::new(policy));
    }
    let edge = vec![host("peer.example", &["203.0.113.30"])];
    world.dns.insert(Question::Host(peer, 5061), Ok(edge));
    let unix = world.edges[CONTOSO].proxy.config.unix_time;
    let certificate = case.certificate.names(unix);
    let (from, to) = match case.inbound {
        true => ("p.example", "contoso.example"),
        false => ("contoso.example", "p.example"),
    };
    let mut request = Req::new(if case.video { "INVITE" } else { "MESSAGE" }, from, to);
    if case.video {
        request = request.with("Content-Type: application/sdp");
        request.body = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\nc=IN IP4 192.0.2.1\r\n\
                        m=video 5000 RTP/AVP 34\r\n"
            .into();
    }
    let gateway = (case.certificate == Certificate::Gateway).then(|| world.gateway(CONTOSO));
    let at = if case.inbound {
        gateway.unwrap_or_else(|| world.partner_named(CONTOSO, "203.0.113.30:5000", certificate))
    } else {
        let listener = Listener::Script(std::sync::Arc::new(certificate));
        world.listeners.insert(address("203.0.113.30:5061"), listener);
        world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000")
    };
    world.say(CONTOSO, at, &request.text());
    let mail = world.mail(CONTOSO);
    if mail.iter().any(|(to, _)| *to != at) {
        return Ok(());
    }
    let (_, got) = mail.last().unwrap();
    let status = got.split(' ').nth(1).unwrap().parse().unwrap();
    Err((headers(got, "Warning")[0].split('"').nth(1).unwrap().to_owned(), status))
}

#[test]
fn every_combination_is_decided_as_the_rules_say() {
    let levels = [
        None,
        Some(Verification::AlwaysVerifiable),
        Some(Verification::AlwaysUnverifiable),
        Some(Verification::UseSource),
    ];
    let mut passed = 0;
    for &kind in PartnerKind::ALL {
        for level in levels {
            for certificate in CERTIFICATES {
                for rights in RIGHTS {
                    for (video, inbound) in
                        [(false, false), (false, true), (true, false), (true, true)]
                    {
                        let case = Case { kind, level, certificate, rights, video, inbound };
                        let expected = verdict(&case);
                        passed += usize::from(expected.is_ok());
                        let expected = expected.map_err(|(name, status)| (name.to_owned(), status));
                        assert_eq!(play(&case), expected, "{case:?}");
                    }
                }
            }
        }
    }
    // The table would be worth nothing if all of it were refusals.
    assert!(passed > 300, "{passed}");
}

/// `cloud` hosts listed.example; `pic` is public and has pub.example; `off` is out of use and has
/// off-listed.example; plain.example is an allowed domain, server.example an allowed server.
pub(super) fn lists(discovery: bool) -> Federation {
    let hosting = |name: &str, host: &str, enabled, listed: &str| HostingProvider {
        name: name.into(),
        proxy_fqdn: domain(host),
        port: 5061,
        enabled,
        shared_address_space: false,
        domains: vec![domain(listed)],
        options: PeerOptions::default(),
    };
    let server = AllowedDomain {
        proxy_fqdn: Some(domain("edge.server.example")),
        ..allow("server.example")
    };
    Federation {
        enabled: true,
        discovery,
        allowed_domains: vec![
            allow("listed.example"),
            allow("off-listed.example"),
            allow("plain.example"),
            server,
        ],
        blocked_domains: vec![BlockedDomain { domain: domain("bad.example"), subdomains: true }],
        hosting_providers: vec![
            hosting("cloud", "cloud.example", true, "listed.example"),
            hosting("off", "off.example", false, "off-listed.example"),
            hosting("other", "other-cloud.example", true, "refused.example"),
        ],
        public_im_providers: vec![PublicImProvider {
            name: "pic".into(),
            proxy_fqdn: domain("pic.example"),
            port: 5061,
            enabled: true,
            domains: vec![domain("pub.example")],
            options: PeerOptions::default(),
        }],
        users: vec![UserPolicy { users: vec![UserPattern::Everyone], rights: ALL }],
        ..Federation::default()
    }
}

pub(super) fn world_with(lists: &Federation) -> World {
    let mut world = World::new();
    let policy = Policy::new(&[domain("contoso.example")], lists);
    world.set_policy(CONTOSO, std::sync::Arc::new(policy));
    world
}

#[expect(clippy::type_complexity, reason = "a table")]
#[test]
fn a_provider_speaks_for_what_is_listed_or_names_it_in_dns_and_for_nothing_else() {
    const NOBODY: Result<&str, ResolveError> = Err(ResolveError::NotFound);
    let rows: &[(bool, &str, &str, Result<&str, ResolveError>, Result<(), &str>)] = &[
        // Listed.
        (false, "listed.example", "cloud.example", NOBODY, Ok(())),
        (false, "LISTED.example", "cloud.example", NOBODY, Ok(())),
        (false, "listed.example", "listed.example", NOBODY, Err("identity-not-proved")),
        (false, "listed.example", "sip.cloud.example", NOBODY, Err("identity-not-proved")),
        (false, "listed.example", "cloud.example.evil.example", NOBODY, Err("identity-not-proved")),
        (false, "listed.example", "pic.example", NOBODY, Err("bound-elsewhere")),
        (false, "listed.example", "other-cloud.example", NOBODY, Err("bound-elsewhere")),
        (false, "sub.listed.example", "cloud.example", NOBODY, Err("domain-not-allowed")),
        (false, "pub.example", "pic.example", NOBODY, Ok(())),
        (false, "pub.example", "cloud.example", NOBODY, Err("bound-elsewhere")),
        (false, "pub.example", "stranger.example", NOBODY, Err("identity-not-proved")),
        // A hosting provider is subject to the allowed list.
        (false, "refused.example", "other-cloud.example", NOBODY, Err("domain-not-allowed")),
        (true, "refused.example", "other-cloud.example", NOBODY, Ok(())),
        // An allowed server is its one host.
        (false, "server.example", "edge.server.example", NOBODY, Ok(())),
        (false, "server.example", "cloud.example", Ok("cloud.example"), Err("bound-elsewhere")),
        (false, "server.example", "pic.example", Ok("pic.example"), Err("bound-elsewhere")),
        (false, "server.example", "www.server.example", NOBODY, Err("identity-not-proved")),
        // By its SRV record.
        (false, "plain.example", "cloud.example", Ok("cloud.example"), Ok(())),
        (false, "plain.example", "cloud.example", Ok("sip.plain.example"), Err("not-carried")),
        (false, "plain.example", "cloud.example", NOBODY, Err("not-carried")),
        (
            false,
            "plain.example",
            "cloud.example",
            Err(ResolveError::Unavailable),
            Err("unreachable"),
        ),
        (false, "plain.example", "other-cloud.example", Ok("cloud.example"), Err("not-carried")),
        (false, "plain.example", "pic.example", Ok("pic.example"), Err("not-carried")),
        (false, "plain.example", "sip.plain.example", Ok("sip.plain.example"), Ok(())),
        (false, "plain.example", "evil.example", Ok("evil.example"), Err("identity-not-proved")),
        (false, "unknown.example", "cloud.example", Ok("cloud.example"), Err("domain-not-allowed")),
        (true, "unknown.example", "cloud.example", Ok("cloud.example"), Ok(())),
        (true, "unknown.example", "pic.example", Ok("pic.example"), Ok(())),
        (true, "unknown.example", "pic.example", Ok("cloud.example"), Err("not-carried")),
        (true, "unknown.example", "cloud.example", Ok("sip.unknown.example"), Err("not-carried")),
        (true, "unknown.example", "evil.example", Ok("evil.example"), Err("identity-not-proved")),
        (true, "unknown.example", "unknown.example", NOBODY, Ok(())),
        (true, "unknown.example", "sip.unknown.example", Ok("sip.unknown.example"), Ok(())),
        (true, "unknown.example", "sip.unknown.example", NOBODY, Err("identity-not-proved")),
        // Out of use.
        (false, "off-listed.example", "off.example", NOBODY, Err("provider-disabled")),
        (false, "off-listed.example", "cloud.example", NOBODY, Err("bound-elsewhere")),
        (true, "unknown.example", "off.example", Ok("off.example"), Err("provider-disabled")),
        // A provider's own host is nobody else's domain.
        (true, "cloud.example", "cloud.example", NOBODY, Ok(())),
        (
            true,
            "cloud.example",
            "sip.cloud.example",
            Ok("sip.cloud.example"),
            Err("identity-not-proved"),
        ),
        (true, "off.example", "off.example", NOBODY, Err("provider-disabled")),
        // Blocked and ours, through whomever.
        (true, "it.bad.example", "cloud.example", Ok("cloud.example"), Err("domain-blocked")),
        (true, "contoso.example", "cloud.example", Ok("cloud.example"), Err("spoofed")),
        (true, "contoso.example", "contoso.example", NOBODY, Err("spoofed")),
    ];
    for (discovery, from, certificate, srv, expected) in rows {
        let why = format!("{from} by {certificate}, SRV {srv:?}, discovery {discovery}");
        let mut world = world_with(&lists(*discovery));
        let answer = srv.map(|target| vec![host(target, &["203.0.113.40"])]);
        world.dns.insert(Question::Federation(domain(from)), answer);
        let at = world.partner(CONTOSO, "203.0.113.40:5000", &[certificate]);
        world.say(CONTOSO, at, &Req::new("MESSAGE", from, "contoso.example").text());
        let (to, got) = world.one(CONTOSO);
        match expected {
            Ok(()) => assert_ne!(to, at, "{why}: {got}"),
            Err(reason) => {
                assert_eq!(to, at, "{why}: {got}");
                let told = headers(&got, "Warning")[0].split('"').nth(1).unwrap();
                assert_eq!(told, *reason, "{why}");
            }
        }
    }
}

#[test]
fn an_asserted_identity_is_the_domain_that_the_provider_speaks_for() {
    for (asserted, expected) in [
        ("sip:a@listed.example", Ok(())),
        ("sip:ceo@contoso.example", Err("spoofed")),
        ("sip:a@plain.example", Err("identity-not-proved")),
    ] {
        let mut world = world_with(&lists(false));
        let at = world.partner(CONTOSO, "203.0.113.40:5000", &["cloud.example"]);
        let request = Req::new("MESSAGE", "listed.example", "contoso.example")
            .with(format!("P-Asserted-Identity: <{asserted}>"));
        world.say(CONTOSO, at, &request.text());
        let (to, got) = world.one(CONTOSO);
        let told = headers(&got, "Warning").first().map(|text| text.split('"').nth(1).unwrap());
        assert_eq!(told.filter(|_| to == at), expected.err(), "{asserted}");
    }
}

#[test]
fn users_of_ours_speak_from_outside_only_through_the_provider_that_shares_our_space() {
    for (shared, certificate, ok) in [
        (true, "cloud.example", true),
        (false, "cloud.example", false),
        (true, "other-cloud.example", false),
        (true, "pic.example", false),
        (true, "plain.example", false),
    ] {
        let mut lists = lists(true);
        lists.hosting_providers[0].shared_address_space = shared;
        let mut world = world_with(&lists);
        let at = world.partner(CONTOSO, "203.0.113.40:5000", &[certificate]);
        world.say(CONTOSO, at, &Req::new("MESSAGE", "contoso.example", "contoso.example").text());
        let (to, got) = world.one(CONTOSO);
        assert_eq!(to != at, ok, "{shared} {certificate}: {got}");
        assert_eq!(world.refused(CONTOSO, Refusal::Spoofed), u64::from(!ok));
        // Nor does anything go out for a domain of ours, but to that provider.
        let cloud = vec![host("cloud.example", &["203.0.113.40"])];
        world.dns.insert(Question::Host(domain("cloud.example"), 5061), Ok(cloud));
        let listener = Listener::Script(names(&["cloud.example"]));
        world.listeners.insert(address("203.0.113.40:5061"), listener);
        let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
        let request = Req::new("MESSAGE", "contoso.example", "contoso.example").branch("2");
        world.say(CONTOSO, alice, &request.text());
        let (to, got) = world.one(CONTOSO);
        assert_eq!(to != alice, shared, "{got}");
    }
}

#[test]
fn the_default_route_speaks_for_every_domain_without_an_entry() {
    let mut lists = lists(false);
    lists.hosting_providers.clear();
    lists.public_im_providers.clear();
    lists.default_route = Some(DefaultRoute {
        proxy_fqdn: domain("clearing.example"),
        port: 5061,
        public_im: false,
        options: PeerOptions::default(),
    });
    for (from, certificate, expected) in [
        ("unknown.example", "clearing.example", None),
        ("unknown.example", "unknown.example", Some("identity-not-proved")),
        ("unknown.example", "sip.clearing.example", Some("identity-not-proved")),
        ("plain.example", "clearing.example", Some("not-carried")),
        ("plain.example", "plain.example", None),
        ("server.example", "clearing.example", Some("bound-elsewhere")),
        ("bad.example", "clearing.example", Some("domain-blocked")),
        ("contoso.example", "clearing.example", Some("spoofed")),
    ] {
        let mut world = world_with(&lists);
        let at = world.partner(CONTOSO, "203.0.113.40:5000", &[certificate]);
        world.say(CONTOSO, at, &Req::new("MESSAGE", from, "contoso.example").text());
        let (to, got) = world.one(CONTOSO);
        let told = headers(&got, "Warning").first().map(|text| text.split('"').nth(1).unwrap());
        assert_eq!(told.filter(|_| to == at), expected, "{from} by {certificate}: {got}");
    }
}

#[test]
fn what_goes_to_a_providers_domain_goes_to_the_provider_over_one_connection() {
    for (to, srv) in [
        ("listed.example", Err(ResolveError::NotFound)),
        ("plain.example", Ok("cloud.example")),
        ("unknown.example", Ok("cloud.example")),
    ] {
        let mut world = world_with(&lists(true));
        let at = |name: &str| vec![host(name, &["203.0.113.40"])];
        world.dns.insert(Question::Host(domain("cloud.example"), 5061), Ok(at("cloud.example")));
        world.dns.insert(Question::Federation(domain(to)), srv.map(at));
        let listener = Listener::Script(names(&["cloud.example"]));
        world.listeners.insert(address("203.0.113.40:5061"), listener);
        let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
        for branch in ["1", "2"] {
            let request = Req::new("MESSAGE", "contoso.example", to).branch(branch);
            world.say(CONTOSO, alice, &request.text());
            let (cloud, got) = world.one(CONTOSO);
            assert!(got.starts_with(&format!("MESSAGE sip:bob@{to} ")), "{to}: {got}");
            // And its answer comes back.
            world.say(CONTOSO, cloud, &answer(&got, "200 OK", Some("b1")));
            let back = world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
            let trust = headers(&back, "ms-edge-proxy-message-trust")[0];
            assert!(trust.starts_with("ms-source-type=AuthorizedServer;"), "{to}: {trust}");
        }
        // Another of its domains, and the way back, over the same connection.
        let request = Req::new("MESSAGE", "contoso.example", "listed.example").branch("3");
        world.say(CONTOSO, alice, &request.text());
        let (cloud, _) = world.one(CONTOSO);
        let request = Req::new("MESSAGE", "listed.example", "contoso.example").branch("4");
        world.say(CONTOSO, cloud, &request.text());
        assert_ne!(world.one(CONTOSO).0, cloud);
        assert_eq!(world.edges[CONTOSO].connects.len(), 2, "{:?}", world.edges[CONTOSO].connects);
    }
}

#[test]
fn a_target_in_another_domain_is_dialled_only_where_it_is_a_providers_host() {
    for (srv, reason) in [
        ("evil.example", "foreign-target"),
        ("sip.cloud.example", "foreign-target"),
        ("off.example", "foreign-target"),
    ] {
        let mut world = world_with(&lists(true));
        let answer = vec![host(srv, &["203.0.113.66"])];
        world.dns.insert(Question::Federation(domain("unknown.example")), Ok(answer));
        let listener = Listener::Script(names(&["unknown.example", srv]));
        world.listeners.insert(address("203.0.113.66:5061"), listener);
        let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
        world.say(
            CONTOSO,
            alice,
            &Req::new("MESSAGE", "contoso.example", "unknown.example").text(),
        );
        let got = world.expect(CONTOSO, alice, "SIP/2.0 504 ");
        assert!(got.contains(reason), "{srv}: {got}");
        assert_eq!(world.edges[CONTOSO].connects, []);
    }
}

#[test]
fn a_policy_change_holds_for_the_dialog_and_the_connection_that_are_there() {
    let mut world = world_with(&lists(true));
    let at = world.partner(CONTOSO, "203.0.113.40:5000", &["cloud.example"]);
    let request = Req::new("MESSAGE", "listed.example", "contoso.example");
    world.say(CONTOSO, at, &request.text());
    assert_ne!(world.one(CONTOSO).0, at);
    type Change = fn(&mut Federation);
    let changes: [(Change, &str); 4] = [
        (|l| l.hosting_providers[0].enabled = false, "provider-disabled"),
        (|l| l.hosting_providers[0].proxy_fqdn = domain("new.example"), "identity-not-proved"),
        (|l| l.users[0].rights.federation = false, "user-no-federation"),
        (|l| l.enabled = false, "federation-disabled"),
    ];
    for (number, (change, reason)) in changes.into_iter().enumerate() {
        let mut lists = lists(true);
        change(&mut lists);
        let policy = Policy::new(&[domain("contoso.example")], &lists);
        world.set_policy(CONTOSO, std::sync::Arc::new(policy));
        world.say(CONTOSO, at, &request.clone().branch(&format!("c{number}")).text());
        let got = world.expect(CONTOSO, at, "SIP/2.0 403 ");
        assert!(got.contains(reason), "{reason}: {got}");
    }
}

#[test]
fn many_anonymous_entries_cost_nothing_and_only_a_proven_one_lets_in() {
    let mut lists = federation(&[], &[]);
    for number in 0..20_000 {
        let entry = AllowedDomain { allow_anonymous: true, ..allow(&format!("d{number}.example")) };
        lists.allowed_domains.push(entry);
    }
    let mut world = world_with(&lists);
    let mut request = Req::new("MESSAGE", "x.example", "contoso.example");
    request.from = "<sip:anonymous@anonymous.invalid>;tag=1".into();
    let stranger = world.partner(CONTOSO, "203.0.113.40:5000", &["stranger.example"]);
    let known = world.partner(CONTOSO, "203.0.113.41:5000", &["d19999.example"]);
    // Of this thread alone: others may be at work beside it.
    let used = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let began = used();
    for number in 0..200 {
        let request = request.clone().branch(&format!("s{number}"));
        world.say(CONTOSO, stranger, &request.text());
    }
    // A walk over all of them for each of 200 requests takes seconds.
    let took = used() - began;
    assert!(took.tv_sec < 2, "{took:?}");
    assert_eq!(world.refused(CONTOSO, Refusal::Anonymous), 200);
    world.mail(CONTOSO);
    world.say(CONTOSO, known, &request.text());
    assert_ne!(world.one(CONTOSO).0, known);
}
