//! What the sides say to each other about users: `ms-edge-proxy-message-trust`, what may not cross,
//! and who is told how much about a refusal.

use super::*;
use crate::{
    config::{
        AllowedDomain, DefaultRoute, Federation, HostingProvider, PeerOptions, PublicImProvider,
        Rights, Transport, UserPattern, UserPolicy, Verification,
    },
    federation::{PartnerKind, Policy},
};

const TRUST: &str = "ms-edge-proxy-message-trust";
const ASSERTED: &str = "ms-asserted-verification-level";
const LEVELS: [Option<Verification>; 4] = [
    None,
    Some(Verification::AlwaysVerifiable),
    Some(Verification::AlwaysUnverifiable),
    Some(Verification::UseSource),
];

/// A policy under which `p.example` is a partner of this kind, its peer `sip.p.example`, and
/// everybody may do everything.
pub(super) fn policy_of(kind: PartnerKind, verification: Option<Verification>) -> Federation {
    let options = PeerOptions { verification, ..PeerOptions::default() };
    let (name, port) = ("peer".to_owned(), 5061);
    let (proxy_fqdn, domains) = (domain("sip.p.example"), vec![domain("p.example")]);
    let mut lists = federation(&[], &[]);
    let all =
        Rights { public_im: true, public_av: true, xmpp: true, outside: true, ..Rights::default() };
    lists.users = vec![UserPolicy { users: vec![UserPattern::Everyone], rights: all }];
    let allowed = AllowedDomain { options: options.clone(), ..allow("p.example") };
    match kind {
        PartnerKind::DiscoveredDomain => {
            lists.discovery = true;
            lists.discovered = options;
        }
        PartnerKind::AllowedDomain => lists.allowed_domains.push(allowed),
        PartnerKind::AllowedServer => {
            lists.allowed_domains.push(AllowedDomain { proxy_fqdn: Some(proxy_fqdn), ..allowed });
        }
        PartnerKind::HostingProvider => {
            lists.allowed_domains.push(allow("p.example"));
            lists.hosting_providers.push(HostingProvider {
                name,
                proxy_fqdn,
                port,
                enabled: true,
                shared_address_space: false,
                domains,
                options,
            });
        }
        PartnerKind::PublicImProvider => {
            let enabled = true;
            lists.public_im_providers.push(PublicImProvider {
                name,
                proxy_fqdn,
                port,
                enabled,
                domains,
                options,
            });
        }
        PartnerKind::DefaultRoute => {
            lists.default_route =
                Some(DefaultRoute { proxy_fqdn, port, public_im: false, options });
        }
        // No entry of the federation's.
        PartnerKind::Xmpp => {}
    }
    lists
}

/// Every kind that a SIP partner is.
fn sip_kinds() -> impl Iterator<Item = &'static PartnerKind> {
    PartnerKind::ALL.iter().filter(|kind| **kind != PartnerKind::Xmpp)
}

pub(super) fn world_of(lists: &Federation) -> World {
    let mut world = World::new();
    let policy = Policy::new(&[domain("contoso.example")], lists);
    world.set_policy(CONTOSO, std::sync::Arc::new(policy));
    let edge = vec![host("sip.p.example", &["203.0.113.30"])];
    world.dns.insert(Question::Federation(domain("p.example")), Ok(edge.clone()));
    world.dns.insert(Question::Host(domain("sip.p.example"), 5061), Ok(edge));
    let listener = Listener::Script(names(&["sip.p.example"]));
    world.listeners.insert(address("203.0.113.30:5061"), listener);
    world
}

/// The header's value as MS-SIPRE section 2.2.15 has it, written by hand.
fn expected(kind: PartnerKind, verified: bool) -> String {
    let (source, network, remote) = match kind {
        PartnerKind::DiscoveredDomain | PartnerKind::AllowedDomain => {
            ("AutoFederation", "federation", "")
        }
        PartnerKind::AllowedServer => ("DirectPartner", "federation", ""),
        PartnerKind::HostingProvider | PartnerKind::DefaultRoute | PartnerKind::Xmpp => {
            ("AuthorizedServer", "federation", "")
        }
        PartnerKind::PublicImProvider => {
            ("AuthorizedServer", "publiccloud", ";ms-remote-fqdn=sip.p.example")
        }
    };
    let verified = if verified { "verified" } else { "unverified" };
    format!(
        "ms-source-type={source};ms-ep-fqdn=edge.contoso.example;ms-source-verified-user={verified};\
         ms-source-network={network}{remote}"
    )
}

/// Whether a sender is verified, or refused (`None`), as the rules say; written apart.
fn verified(
    kind: PartnerKind,
    level: Option<Verification>,
    said: Option<&str>,
    is_response: bool,
) -> Option<bool> {
    let unknown = matches!(kind, PartnerKind::DiscoveredDomain | PartnerKind::DefaultRoute);
    match (level, said) {
        (None, _) => Some(!unknown),
        (Some(Verification::AlwaysVerifiable), _) => Some(true),
        (Some(Verification::AlwaysUnverifiable), _) => Some(false),
        (Some(Verification::UseSource), None) if unknown || is_response => Some(false),
        (Some(Verification::UseSource), None) => None,
        (Some(Verification::UseSource), Some(said)) => {
            Some(said == "ms-source-verified-user=verified")
        }
    }
}

const SAID: [Option<&str>; 5] = [
    None,
    Some("ms-source-verified-user=verified"),
    Some("ms-source-verified-user=unverified"),
    Some("ms-source-verified-user=verified;ms-source-verified-user=verified"),
    Some("nonsense"),
];

#[test]
fn the_inside_learns_where_a_request_came_from_and_whether_its_sender_is_verified() {
    for &kind in sip_kinds() {
        for (level, said) in LEVELS.into_iter().flat_map(|l| SAID.map(|said| (l, said))) {
            let why = format!("{kind:?} {level:?} {said:?}");
            let mut world = world_of(&policy_of(kind, level));
            let at = world.partner(CONTOSO, "203.0.113.30:5000", &["sip.p.example"]);
            let mut request = Req::new("MESSAGE", "p.example", "contoso.example")
                .with(format!("{TRUST}: ms-source-type=InternetUser"))
                .with(format!("{}: again", TRUST.to_uppercase()))
                .with("ms-diagnostics: 1;reason=\"x\"")
                .with("ms-client-diagnostics: 2;reason=\"x\"")
                .with("P-Preferred-Identity: <sip:ceo@contoso.example>");
            if let Some(said) = said {
                request = request.with(format!("{ASSERTED}: {said}"));
            }
            world.say(CONTOSO, at, &request.text());
            let (to, got) = world.one(CONTOSO);
            let Some(verified) = verified(kind, level, said, false) else {
                assert_eq!(to, at, "{why}");
                let told = headers(&got, "ms-diagnostics-public");
                assert_eq!(told, ["1027;reason=\"unverified-source\""], "{why}");
                continue;
            };
            assert_ne!(to, at, "{why}: {got}");
            assert_eq!(headers(&got, TRUST), [expected(kind, verified)], "{why}");
            for gone in
                [ASSERTED, "ms-diagnostics", "ms-client-diagnostics", "P-Preferred-Identity"]
            {
                assert_eq!(headers(&got, gone), [""; 0], "{why}");
            }
        }
    }
}

#[test]
fn responses_are_marked_like_requests() {
    for &kind in sip_kinds() {
        for (level, said) in LEVELS.into_iter().flat_map(|l| SAID.map(|said| (l, said))) {
            for (method, status) in [("MESSAGE", "200 OK"), ("INVITE", "180 Ringing")] {
                let why = format!("{kind:?} {level:?} {said:?} {status}");
                let mut world = world_of(&policy_of(kind, level));
                let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
                world.say(CONTOSO, alice, &Req::new(method, "contoso.example", "p.example").text());
                let mail = world.mail(CONTOSO);
                let (at, got) = mail.iter().find(|(at, _)| *at != alice).expect(&why);
                let mut lines = format!("{TRUST}: forged\r\nms-diagnostics: 1;reason=\"x\"\r\n");
                if let Some(said) = said {
                    lines.push_str(&format!("{ASSERTED}: {said}\r\n"));
                }
                let reply = answer(got, status, Some("b1"));
                let reply = reply.replace("Content-Length", &format!("{lines}Content-Length"));
                world.say(CONTOSO, *at, &reply);
                let back = world.expect(CONTOSO, alice, &format!("SIP/2.0 {status}"));
                let verified = verified(kind, level, said, true).unwrap();
                assert_eq!(headers(&back, TRUST), [expected(kind, verified)], "{why}");
                assert_eq!(headers(&back, ASSERTED), [""; 0], "{why}");
                assert_eq!(headers(&back, "ms-diagnostics"), [""; 0], "{why}");
            }
        }
    }
}

#[test]
fn nobody_in_particular_is_never_verified() {
    let level = Some(Verification::AlwaysVerifiable);
    let mut lists = policy_of(PartnerKind::AllowedDomain, level);
    lists.allowed_domains[0].allow_anonymous = true;
    let mut world = world_of(&lists);
    let at = world.partner(CONTOSO, "203.0.113.30:5000", &["sip.p.example"]);
    let mut request = Req::new("MESSAGE", "p.example", "contoso.example");
    request.from = "<sip:anonymous@anonymous.invalid>;tag=1".into();
    world.say(CONTOSO, at, &request.text());
    let (_, got) = world.one(CONTOSO);
    assert_eq!(headers(&got, TRUST), [expected(PartnerKind::AllowedDomain, false)]);
}

#[test]
fn to_partners_goes_only_what_is_for_them() {
    for unverifiable in [false, true] {
        for disclaimer in [None, Some("ms-archiving: true")] {
            let mut lists = policy_of(PartnerKind::AllowedDomain, None);
            lists.mark_unverifiable = unverifiable;
            lists.archiving_disclaimer = disclaimer.map(str::to_owned);
            let mut world = world_of(&lists);
            let internal = format!(
                "{TRUST}: ms-source-type=InternetUser\r\n{ASSERTED}: \
                 ms-source-verified-user=verified\r\nms-diagnostics: 1;source=\"fe01\"\r\n\
                 ms-client-diagnostics: 2;reason=\"x\"\r\nms-diagnostics-public: 3;reason=\"y\""
            );
            let check = |got: &str| {
                let level = if unverifiable { "unverified" } else { "verified" };
                let level = format!("ms-source-verified-user={level}");
                assert_eq!(headers(got, ASSERTED), [level], "{got}");
                assert_eq!(headers(got, "ms-archiving").len(), disclaimer.iter().count(), "{got}");
                assert_eq!(headers(got, "ms-diagnostics-public"), ["3;reason=\"y\""], "{got}");
                for gone in [TRUST, "ms-diagnostics", "ms-client-diagnostics"] {
                    assert_eq!(headers(got, gone), [""; 0], "{got}");
                }
            };
            let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
            let out = Req::new("MESSAGE", "contoso.example", "p.example").with(&internal);
            world.say(CONTOSO, alice, &out.text());
            let (_, got) = world.one(CONTOSO);
            check(&got);
            // And what our users answer.
            let at = world.partner(CONTOSO, "203.0.113.30:5000", &["sip.p.example"]);
            let request = Req::new("MESSAGE", "p.example", "contoso.example").branch("in");
            world.say(CONTOSO, at, &request.text());
            let (server, got) = world.one(CONTOSO);
            let reply = answer(&got, "404 Not Found", Some("b1"));
            let reply = reply.replace("Content-Length", &format!("{internal}\r\nContent-Length"));
            world.say(CONTOSO, server, &reply);
            let back = world.expect(CONTOSO, at, "SIP/2.0 404 ");
            check(&back);
        }
    }
}

#[test]
fn a_partner_learns_the_reason_and_the_inside_the_fault_and_its_mend() {
    let mut world = world_of(&policy_of(PartnerKind::AllowedDomain, None));
    let at = world.partner(CONTOSO, "203.0.113.30:5000", &["other.example"]);
    world.say(CONTOSO, at, &Req::new("MESSAGE", "p.example", "contoso.example").text());
    let got = world.expect(CONTOSO, at, "SIP/2.0 403 ");
    assert_eq!(headers(&got, "ms-diagnostics-public"), ["1010;reason=\"identity-not-proved\""]);
    assert_eq!(headers(&got, "ms-diagnostics"), [""; 0]);
    assert_eq!(headers(&got, TRUST), [""; 0]);
    assert!(!got.contains("source="), "{got}");

    world.dns.insert(Question::Federation(domain("p.example")), Err(ResolveError::NotFound));
    world.pass(std::time::Duration::from_secs(400));
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    for (error, reason, id) in [
        (ResolveError::NotFound, Refusal::NoSrv, 1008),
        (ResolveError::NoService, Refusal::NoSrv, 1008),
        (ResolveError::ForeignTarget, Refusal::ForeignTarget, 1009),
        (ResolveError::ForbiddenAddress, Refusal::ForbiddenAddress, 1014),
        (ResolveError::Unavailable, Refusal::Unreachable, 1014),
        (ResolveError::NotSecure, Refusal::DnsNotSecure, 1008),
    ] {
        world.dns.insert(Question::Federation(domain("p.example")), Err(error));
        let request = Req::new("MESSAGE", "contoso.example", "p.example").branch(reason.name());
        world.say(CONTOSO, alice, &request.text());
        let got = world.expect(CONTOSO, alice, "SIP/2.0 504 ");
        let text = reason.text();
        assert_eq!(
            headers(&got, "ms-diagnostics"),
            [format!(
                "{id};source=\"edge.contoso.example\";reason=\"{text}\";domain=\"p.example\""
            )],
            "{error:?}"
        );
        assert_eq!(headers(&got, "ms-diagnostics-public"), [""; 0]);
        assert_eq!(
            headers(&got, TRUST),
            ["ms-source-type=EdgeProxyGenerated;ms-ep-fqdn=edge.contoso.example;\
              ms-source-verified-user=verified;ms-source-network=federation"]
        );
        world.pass(std::time::Duration::from_secs(400));
    }
}

#[test]
fn a_failure_without_a_reason_is_said_to_come_without_one() {
    const NONE: &str = "1034;source=\"edge.contoso.example\";\
                        reason=\"The federated partner did not say why\"";
    for (status, lines, inside, public) in [
        ("404 Not Found", "", vec![NONE], vec![]),
        ("404 Not Found", "ms-diagnostics: 1;reason=\"a\"\r\n", vec![NONE], vec![]),
        (
            "404 Not Found",
            "ms-diagnostics-public: 1003;reason=\"a\"\r\n",
            vec![],
            vec!["1003;reason=\"a\""],
        ),
        (
            "404 Not Found",
            "ms-diagnostics-public: 1;reason=\"a\"\r\nms-diagnostics-public: 2;reason=\"b\"\r\n",
            vec![NONE],
            vec![],
        ),
        ("401 Unauthorized", "", vec![], vec![]),
        ("200 OK", "", vec![], vec![]),
        ("302 Moved", "", vec![], vec![]),
        ("603 Decline", "", vec![NONE], vec![]),
    ] {
        let mut world = world_of(&policy_of(PartnerKind::AllowedDomain, None));
        let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
        world.say(CONTOSO, alice, &Req::new("MESSAGE", "contoso.example", "p.example").text());
        let (at, got) = world.one(CONTOSO);
        let reply = answer(&got, status, Some("b1"));
        let reply = reply.replace("Content-Length", &format!("{lines}Content-Length"));
        world.say(CONTOSO, at, &reply);
        let back = world.expect(CONTOSO, alice, &format!("SIP/2.0 {status}"));
        assert_eq!(headers(&back, "ms-diagnostics"), inside, "{status} {lines}");
        assert_eq!(headers(&back, "ms-diagnostics-public"), public, "{status} {lines}");
    }
}

#[test]
fn every_reason_has_a_text_that_fits_a_quoted_string() {
    for reason in Refusal::ALL {
        let text = reason.text();
        assert!(text.len() > 20 && text.bytes().all(|b| b.is_ascii() && b >= b' '), "{text}");
        assert!(!text.contains(['"', '\\']) && !text.contains("  "), "{text}");
    }
}
