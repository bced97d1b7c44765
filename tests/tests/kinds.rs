//! Every kind of partner with one server, over real TLS and DNS: an allowed server, a hosting
//! provider, a public IM provider and the default route, each for domains that are not its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use edge_tests::{
    demo::world::{FEDERATION_PORT, contoso_access, user},
    lab::{
        Lab,
        config::EdgeConfig,
        daemon::Edge,
        dns::Record,
        layout::Site,
        sipp::{self, Agent, Carrier, Dialogue, Play, SERVER_PORT},
        stunnel::{Stunnel, Tunnel},
        tls_client::{Caller, SipClient, request},
    },
    patience::BUSY,
};

/// For a machine that is busy with other work.
const PATIENCE: Duration = BUSY;
/// The server that carries other domains.
const CARRIER: Site = Site::Adatum;
/// A domain that the entry names.
const LISTED: &str = "listed.example";
/// A domain whose SRV record names the server.
const FOUND: &str = "found.example";
/// A domain that names another server, and has an entry.
const ELSEWHERE: &str = "elsewhere.example";

/// A kind of partner.
struct Kind {
    /// As `edge partner list --kind` has it.
    kind: &'static str,
    /// By which `edge partner show` knows it.
    name: String,
    /// Lines of the configuration.
    lines: String,
    /// Domains that it speaks for.
    carried: &'static [&'static str],
    /// What a domain that it does not carry is refused with; none: it carries every one.
    refused: Option<&'static str>,
}

fn kinds() -> Vec<Kind> {
    let host = CARRIER.host();
    let provider = |table: &str| {
        format!(
            "[[federation.{table}]]\nname = \"cloud\"\nproxy_fqdn = \"{host}\"\ndomains = [\"{LISTED}\"]\n\n"
        )
    };
    let allowed =
        |domain: &str| format!("[[federation.allowed_domain]]\ndomain = \"{domain}\"\n\n");
    let public_im = "[[user_policy]]\nusers = [\"*\"]\npublic_im = true\n\n";
    vec![
        Kind {
            kind: "allowed-server",
            name: LISTED.to_owned(),
            lines: format!(
                "[[federation.allowed_domain]]\ndomain = \"{LISTED}\"\nproxy_fqdn = \"{host}\"\n\n{}",
                allowed(ELSEWHERE)
            ),
            carried: &[LISTED],
            refused: Some("identity-not-proved"),
        },
        // It is subject to the allowed list.
        Kind {
            kind: "hosting-provider",
            name: "cloud".to_owned(),
            lines: provider("hosting_provider")
                + &allowed(LISTED)
                + &allowed(FOUND)
                + &allowed(ELSEWHERE),
            carried: &[LISTED, FOUND],
            refused: Some("not-carried"),
        },
        Kind {
            kind: "public-im-provider",
            name: "cloud".to_owned(),
            lines: provider("public_im_provider") + &allowed(ELSEWHERE) + public_im,
            carried: &[LISTED],
            refused: Some("not-carried"),
        },
        Kind {
            kind: "default-route",
            name: host.clone(),
            lines: format!("[federation.default_route]\nproxy_fqdn = \"{host}\"\n\n"),
            carried: &[LISTED, FOUND, ELSEWHERE],
            refused: None,
        },
    ]
}

#[test]
fn every_kind_carries_its_domains_both_ways_over_ipv4() {
    each_kind("ki4", false);
}

#[test]
fn every_kind_carries_its_domains_both_ways_over_ipv6() {
    each_kind("ki6", true);
}

fn each_kind(tag: &str, six: bool) {
    let mut lab = Lab::raise(tag).unwrap();
    let at = CARRIER.outside()[usize::from(six)];
    lab.dns
        .replace(vec![
            Record::address(&CARRIER.host(), at),
            Record::federation(FOUND, &CARRIER.host(), FEDERATION_PORT),
            Record::federation(ELSEWHERE, &Site::Northwind.host(), FEDERATION_PORT),
        ])
        .unwrap();
    let _stunnel = carrier(&lab, six);
    let plain = EdgeConfig::new(Site::Contoso, &lab.identities.contoso, &lab.identities.trust);
    let mut edge: Option<Edge> = None;
    for kind in kinds() {
        let mut config = plain.clone();
        config.more.push_str(&kind.lines);
        match &mut edge {
            None => edge = Some(Edge::start(&lab, config).unwrap()),
            Some(edge) => {
                edge.config = config;
                edge.write_config().unwrap();
                edge.json(&["reload"]).unwrap();
            }
        }
        let edge = edge.as_ref().unwrap();
        for domain in kind.carried {
            let theirs = format!("dave@{domain}");
            message(&lab, edge, &theirs, &user(Site::Contoso), &kind);
            message(&lab, edge, &user(Site::Contoso), &theirs, &kind);
        }
        let mut session = session(&lab, six);
        let from = format!("dave@{}", kind.carried[0]);
        proves(&lab, edge, &mut session, &from);
        // It is nobody's way to somebody who is not ours.
        refuses(edge, &mut session, [&from, "carol@fourth.example"], "transit", &kind);
        is_shown(edge, &kind, at);
        if let Some(reason) = kind.refused {
            let from = format!("dave@{ELSEWHERE}");
            refuses(edge, &mut session, [&from, &user(Site::Contoso)], reason, &kind);
        }
    }
}

/// The carrier's edge: stunnel, which knows nothing of SIP.
fn carrier(lab: &Lab, six: bool) -> Stunnel {
    let inside = |address| SocketAddr::new(IpAddr::V4(address), SERVER_PORT);
    let tunnels = [
        Tunnel {
            accept: SocketAddr::new(CARRIER.outside()[usize::from(six)], FEDERATION_PORT),
            connect: inside(CARRIER.server4()),
            client: false,
        },
        Tunnel {
            accept: inside(CARRIER.edge_inside4()),
            connect: contoso_access()[usize::from(six)],
            client: true,
        },
    ];
    let ids = &lab.identities;
    let dir = lab.dir().join("stunnel");
    Stunnel::start(lab.site(CARRIER), &dir, &ids.adatum, &ids.trust, &tunnels).unwrap()
}

fn agent(lab: &Lab, site: Site) -> Agent<'_> {
    let address = IpAddr::V4(site.server4());
    Agent { namespace: lab.inside(site), address, carrier: Carrier::Tcp }
}

/// A message from one user to another; the server of either is sipp.
fn message(lab: &Lab, edge: &Edge, from: &str, to: &str, kind: &Kind) {
    let (own, other) = (agent(lab, Site::Contoso), agent(lab, CARRIER));
    let dialogue = Dialogue::once(Play::Message, from, to);
    let outcome = if from == user(Site::Contoso) {
        sipp::play(&own, edge.config.inside_address(), &other, lab.dir(), &dialogue)
    } else {
        let server = SocketAddr::new(IpAddr::V4(CARRIER.edge_inside4()), SERVER_PORT);
        sipp::play(&other, server, &own, lab.dir(), &dialogue)
    };
    let (kind, log) = (kind.kind, edge.log());
    outcome.unwrap_or_else(|error| panic!("{kind}: {from} to {to}: {error:#}\n{log}"));
}

/// The partner is listed with its kind, and shown with its connection; so is what becomes of each
/// of its domains.
fn is_shown(edge: &Edge, kind: &Kind, at: IpAddr) {
    let listed = edge.json(&["partner", "list", "--kind", kind.kind]).unwrap();
    let rows = listed.as_array().unwrap();
    assert_eq!(rows.len(), 1, "{listed:#}");
    assert_eq!((&rows[0]["name"], &rows[0]["kind"]), (&(*kind.name).into(), &kind.kind.into()));
    let host = CARRIER.host();
    let shown = edge.json(&["partner", "show", &kind.name]).unwrap();
    assert_eq!((&shown["kind"], &shown["host"]), (&kind.kind.into(), &(*host).into()), "{shown:#}");
    let connections = shown["connections"].as_array().unwrap();
    let here = |told: &serde_json::Value| {
        told["remote"].as_str().and_then(|text| text.parse().ok()).map(|at: SocketAddr| at.ip())
    };
    assert!(connections.iter().any(|told| here(told) == Some(at)), "{shown:#}");
    let text = edge.command(&["partner", "show", &kind.name]).unwrap().stdout;
    assert!(text.contains(&host) && text.contains(&at.to_string()), "{text}");
    for domain in kind.carried {
        let shown = edge.json(&["partner", "show", domain]).unwrap();
        let carrier = &shown["carried_by"];
        assert!(shown["kind"] == kind.kind || carrier["kind"] == kind.kind, "{shown:#}");
        assert!(shown["host"] == host || carrier["host"] == host, "{shown:#}");
        let connections = shown["connections"].as_array().unwrap();
        assert!(connections.iter().any(|told| here(told) == Some(at)), "{shown:#}");
        let told = |name: &str| shown[name].as_u64().unwrap();
        assert!(told("messages_in") >= 1 && told("messages_out") >= 1, "{shown:#}");
    }
}

/// The carrier's own connection.
fn session(lab: &Lab, six: bool) -> SipClient {
    let caller = Caller {
        namespace: lab.site(CARRIER),
        from: None,
        identity: Some(&lab.identities.adatum),
        trust: &lab.identities.trust,
    };
    caller.tls(contoso_access()[usize::from(six)], &Site::Contoso.host()).unwrap()
}

/// What the connection proves is known from its first message on.
fn proves(lab: &Lab, edge: &Edge, session: &mut SipClient, from: &str) {
    let dialogue = Dialogue::once(Play::Message, from, &user(Site::Contoso));
    let receiver = sipp::receiver(&agent(lab, Site::Contoso), lab.dir(), &dialogue).unwrap();
    let message = request("MESSAGE", from, &user(Site::Contoso), &CARRIER.host());
    let answer = session.ask(&message).unwrap();
    assert_eq!(answer.status, 200, "{}\n{}", answer.text, edge.log());
    receiver.finish(PATIENCE).unwrap();
}

/// This message is refused and counted under this reason.
fn refuses(edge: &Edge, session: &mut SipClient, [from, to]: [&str; 2], reason: &str, kind: &Kind) {
    let before = edge.refusals(reason).unwrap();
    let answer = session.ask(&request("MESSAGE", from, to, &CARRIER.host())).unwrap();
    assert_eq!(answer.status, 403, "{}: {}\n{}", kind.kind, answer.text, edge.log());
    assert_eq!(edge.refusals(reason).unwrap(), before + 1, "{}: {}", kind.kind, edge.log());
}
