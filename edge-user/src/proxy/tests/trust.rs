//! The trust rules, sections 1 to 3: who may say what.

use super::*;
use crate::{
    config::{AllowedDomain, Transport},
    federation::CertificateNames,
};

/// A partner's script at contoso, whose SRV record names `sip.fabrikam.example`.
fn partner(sans: &[&str]) -> (World, ConnectionId) {
    let mut world = World::new();
    let at = world.partner(CONTOSO, "203.0.113.20:5000", sans);
    (world, at)
}

/// Whether a MESSAGE reached the inside, or why not.
fn outcome(world: &mut World, at: ConnectionId, request: &Req) -> Result<(), String> {
    // A 100 for what nobody answered before.
    world.mail(CONTOSO);
    world.say(CONTOSO, at, &request.text());
    let (connection, got) = world.one(CONTOSO);
    if connection != at {
        return Ok(());
    }
    let warning = headers(&got, "Warning");
    Err(warning.first().map_or(got.clone(), |text| text.split('"').nth(1).unwrap().to_owned()))
}

/// What it names itself would be a user of ours to whoever calls that user.
#[test]
fn a_partner_registers_nobody() {
    let (mut world, at) = partner(&["fabrikam.example"]);
    for (to, number) in [("alice@contoso.example", 0), ("bob@fabrikam.example", 1)] {
        let branch = format!("r{number}");
        let mut request =
            Req::new("REGISTER", "fabrikam.example", "contoso.example").branch(&branch);
        request.to = format!("<sip:{to}>");
        assert_eq!(outcome(&mut world, at, &request), Err("registration".to_owned()), "{to}");
    }
    assert_eq!(world.refused(CONTOSO, Refusal::Registration), 2);
}

#[test]
fn what_a_connection_proves_decides_what_it_may_say() {
    let pinned = AllowedDomain {
        proxy_fqdn: Some(domain("edge.hoster.example")),
        ..allow("fabrikam.example")
    };
    let relaxed = AllowedDomain { relax_srv_domain: true, ..allow("fabrikam.example") };
    let plain = allow("fabrikam.example");
    const NO: Result<(), &str> = Err("identity-not-proved");
    #[expect(clippy::type_complexity, reason = "a table")]
    let rows: &[(&str, &AllowedDomain, &[&str], &str, Result<(), &str>)] = &[
        ("the domain itself", &plain, &["fabrikam.example"], "sip.fabrikam.example", Ok(())),
        (
            "host-only, SRV target",
            &plain,
            &["sip.fabrikam.example"],
            "sip.fabrikam.example",
            Ok(()),
        ),
        (
            "another host of the domain",
            &plain,
            &["www.fabrikam.example"],
            "sip.fabrikam.example",
            NO,
        ),
        (
            "neighbour by prefix",
            &plain,
            &["sip.fabrikam.example.evil.example"],
            "sip.fabrikam.example",
            NO,
        ),
        ("neighbour by suffix", &plain, &["xfabrikam.example"], "sip.fabrikam.example", NO),
        ("a stranger", &plain, &["stranger.example"], "sip.fabrikam.example", NO),
        ("no name at all", &plain, &[], "sip.fabrikam.example", NO),
        ("SRV target elsewhere", &plain, &["edge.hoster.example"], "edge.hoster.example", NO),
        ("elsewhere, relaxed", &relaxed, &["edge.hoster.example"], "edge.hoster.example", Ok(())),
        ("relaxed, no target", &relaxed, &["www.hoster.example"], "edge.hoster.example", NO),
        ("pinned host", &pinned, &["edge.hoster.example"], "sip.fabrikam.example", Ok(())),
        (
            "neighbour of the pinned host",
            &pinned,
            &["www.hoster.example"],
            "sip.fabrikam.example",
            NO,
        ),
        (
            "pinned elsewhere, SRV target",
            &pinned,
            &["sip.fabrikam.example"],
            "sip.fabrikam.example",
            NO,
        ),
    ];
    for (why, entry, sans, target, expected) in rows {
        let (mut world, at) = partner(sans);
        let hosts = Ok(vec![host(target, &["203.0.113.20"])]);
        world.dns.insert(Question::Federation(domain("fabrikam.example")), hosts);
        world.set_policy(CONTOSO, policy("contoso.example", &[(*entry).clone()], &[]));
        let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
        let got = outcome(&mut world, at, &request);
        assert_eq!(got, expected.map_err(str::to_owned), "{why}");
    }
}

#[test]
fn dns_is_asked_only_when_it_could_prove_something() {
    for (sans, asked) in
        [(&["sip.fabrikam.example"][..], 1), (&["fabrikam.example"], 0), (&["stranger.example"], 0)]
    {
        let (mut world, at) = partner(sans);
        for branch in ["1", "2", "3"] {
            let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example").branch(branch);
            let _ = outcome(&mut world, at, &request);
        }
        assert_eq!(world.edges[CONTOSO].questions.len(), asked, "{sans:?}");
    }
}

#[test]
fn a_proof_by_dns_ends_with_its_record() {
    let (mut world, at) = partner(&["sip.fabrikam.example"]);
    let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
    assert_eq!(outcome(&mut world, at, &request), Ok(()));
    let moved = Ok(vec![host("new.fabrikam.example", &["203.0.113.21"])]);
    world.dns.insert(Question::Federation(domain("fabrikam.example")), moved);
    assert_eq!(outcome(&mut world, at, &request.clone().branch("2")), Ok(()));
    world.pass(std::time::Duration::from_secs(301));
    let got = outcome(&mut world, at, &request.branch("3"));
    assert_eq!(got, Err("identity-not-proved".into()));
}

#[test]
fn a_certificate_that_expires_proves_nothing_any_more_on_a_live_connection() {
    for sans in [&["fabrikam.example"][..], &["sip.fabrikam.example"]] {
        let mut world = World::new();
        let unix = world.edges[CONTOSO].proxy.config.unix_time;
        let names = CertificateNames { expires_at: Some(unix + 600), ..(*names(sans)).clone() };
        let at = world.partner_named(CONTOSO, "203.0.113.20:5000", names);
        let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
        let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
        assert_eq!(outcome(&mut world, at, &request), Ok(()), "{sans:?}");
        world.pass(std::time::Duration::from_secs(590));
        assert_eq!(outcome(&mut world, at, &request.clone().branch("2")), Ok(()), "{sans:?}");
        world.pass(std::time::Duration::from_secs(11));
        let got = outcome(&mut world, at, &request.branch("3"));
        assert_eq!(got, Err("identity-not-proved".into()), "{sans:?}");
        // Nor is it used the other way.
        let back = Req::new("MESSAGE", "contoso.example", "fabrikam.example");
        world.say(CONTOSO, alice, &back.text());
        assert!(world.mail(CONTOSO).iter().all(|(to, _)| *to != at), "{sans:?}");
    }
}

#[test]
fn from_decides_by_situation() {
    struct Row {
        why: &'static str,
        from: &'static str,
        headers: &'static [&'static str],
        anonymous: bool,
        expected: Result<(), &'static str>,
    }
    let row =
        |why, from, headers, anonymous, expected| Row { why, from, headers, anonymous, expected };
    const ANON: &str = "<sip:anonymous@anonymous.invalid>;tag=1";
    const BOB: &str = "<sip:bob@fabrikam.example>;tag=1";
    let rows = [
        row("proved", BOB, &[], false, Ok(())),
        row("case", "<sip:bob@FABRIKAM.Example>;tag=1", &[], false, Ok(())),
        row("ours", "<sip:ceo@contoso.example>;tag=1", &[], false, Err("spoofed")),
        row("ours in capitals", "<sip:ceo@CONTOSO.example.>;tag=1", &[], false, Err("spoofed")),
        row("another's", "<sip:x@other.example>;tag=1", &[], false, Err("domain-not-allowed")),
        row("blocked", "<sip:x@it.bad.example>;tag=1", &[], false, Err("domain-blocked")),
        row(
            "subdomain",
            "<sip:x@it.fabrikam.example>;tag=1",
            &[],
            false,
            Err("domain-not-allowed"),
        ),
        row("an address", "<sip:bob@203.0.113.20>;tag=1", &[], false, Err("identity-not-proved")),
        row("a number", "<tel:+15551234>;tag=1", &[], false, Err("identity-not-proved")),
        row(
            "userinfo holds the domain",
            "<sip:fabrikam.example;x=@evil.example>;tag=1",
            &[],
            false,
            Err("domain-not-allowed"),
        ),
        row(
            "two at signs",
            "<sip:a@fabrikam.example@evil.example>;tag=1",
            &[],
            false,
            Err("malformed"),
        ),
        row("anonymous alone", ANON, &[], false, Err("anonymous")),
        row("anonymous, allowed", ANON, &[], true, Ok(())),
        row(
            "anonymous, asserted",
            ANON,
            &["P-Asserted-Identity: <sip:bob@fabrikam.example>"],
            false,
            Ok(()),
        ),
        row(
            "anonymous, asserted ours",
            ANON,
            &["P-Asserted-Identity: <sip:ceo@contoso.example>"],
            true,
            Err("spoofed"),
        ),
        row(
            "anonymous, asserted another's",
            ANON,
            &["P-Asserted-Identity: <sip:x@other.example>"],
            true,
            Err("domain-not-allowed"),
        ),
        row(
            "anonymous, a number only",
            ANON,
            &["P-Asserted-Identity: <tel:+1555>"],
            false,
            Err("anonymous"),
        ),
        row(
            "anonymous, two asserted",
            ANON,
            &["P-Asserted-Identity: <sip:bob@fabrikam.example>, <sip:x@other.example>"],
            true,
            Err("identity-not-proved"),
        ),
        row(
            "asserted ours behind an honest From",
            BOB,
            &["P-Asserted-Identity: <sip:ceo@contoso.example>"],
            false,
            Err("spoofed"),
        ),
        row(
            "asserted another's behind it",
            BOB,
            &["P-Asserted-Identity: <sip:x@other.example>"],
            false,
            Err("identity-not-proved"),
        ),
        row("two From", BOB, &["From: <sip:ceo@contoso.example>;tag=2"], false, Err("malformed")),
        row(
            "two From, compact",
            BOB,
            &["f: <sip:ceo@contoso.example>;tag=2"],
            false,
            Err("malformed"),
        ),
        row("two tags", "<sip:bob@fabrikam.example>;tag=1;tag=2", &[], false, Err("malformed")),
        row(
            "control character",
            "<sip:bo\u{1}b@fabrikam.example>;tag=1",
            &[],
            false,
            Err("malformed"),
        ),
        row(
            "bare line feed",
            "<sip:bob@fabrikam.example>;tag=1\nFrom: <sip:a@b.example>",
            &[],
            false,
            Err("malformed"),
        ),
    ];
    for row in rows {
        let (mut world, at) = partner(&["fabrikam.example"]);
        let entry = AllowedDomain { allow_anonymous: row.anonymous, ..allow("fabrikam.example") };
        world.set_policy(CONTOSO, policy("contoso.example", &[entry], &["bad.example"]));
        let mut request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
        request.from = row.from.into();
        request.headers.extend(row.headers.iter().map(|header| header.to_string()));
        world.say(CONTOSO, at, &request.text());
        let mail = world.mail(CONTOSO);
        let passed = mail.iter().any(|(connection, _)| *connection != at);
        assert_eq!(passed, row.expected.is_ok(), "{}: {mail:#?}", row.why);
        if let Err(name) = row.expected {
            let reason = *Refusal::ALL.iter().find(|refusal| refusal.name() == name).unwrap();
            assert_eq!(world.refused(CONTOSO, reason), 1, "{}: {mail:#?}", row.why);
        }
    }
}

#[test]
fn from_inside_only_our_own_users_speak() {
    for (from, headers, expected) in [
        ("<sip:alice@contoso.example>;tag=1", "x: y", true),
        ("<sip:alice@fabrikam.example>;tag=1", "x: y", false),
        ("<sip:alice@it.contoso.example>;tag=1", "x: y", false),
        ("<sip:alice@10.0.0.5>;tag=1", "x: y", false),
        ("<sip:anonymous@anonymous.invalid>;tag=1", "x: y", false),
        (
            "<sip:anonymous@anonymous.invalid>;tag=1",
            "P-Asserted-Identity: <sip:alice@contoso.example>",
            true,
        ),
        (
            "<sip:anonymous@anonymous.invalid>;tag=1",
            "P-Asserted-Identity: <sip:x@fabrikam.example>",
            false,
        ),
    ] {
        let mut world = World::new();
        let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
        let mut request = Req::new("MESSAGE", "contoso.example", "fabrikam.example").with(headers);
        request.from = from.into();
        world.say(CONTOSO, alice, &request.text());
        assert_eq!(world.mail(FABRIKAM).len(), usize::from(expected), "{from}");
        assert_eq!(world.refused(CONTOSO, Refusal::NotOurUser), u64::from(!expected), "{from}");
    }
}

#[test]
fn nobody_federates_when_the_switch_is_off() {
    let (mut world, at) = partner(&["fabrikam.example"]);
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    let mut lists = federation(&[allow("fabrikam.example")], &[]);
    lists.enabled = false;
    let off = crate::federation::Policy::new(&[domain("contoso.example")], &lists);
    world.set_policy(CONTOSO, std::sync::Arc::new(off));
    world.say(CONTOSO, at, &Req::new("MESSAGE", "fabrikam.example", "contoso.example").text());
    world.expect(CONTOSO, at, "SIP/2.0 403 ");
    world.say(CONTOSO, alice, &Req::new("MESSAGE", "contoso.example", "fabrikam.example").text());
    world.expect(CONTOSO, alice, "SIP/2.0 403 ");
    assert_eq!(world.refused(CONTOSO, Refusal::FederationDisabled), 2);
}

#[test]
fn a_server_that_does_not_prove_the_domain_gets_no_request() {
    for sans in [&["sip.fabrikam.example.evil.example"][..], &["xfabrikam.example"], &[]] {
        let mut world = World::new();
        let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
        let evil = Listener::Script(names(sans));
        world.listeners.insert(address("203.0.113.20:5061"), evil);
        world.say(
            CONTOSO,
            alice,
            &Req::new("MESSAGE", "contoso.example", "fabrikam.example").text(),
        );
        let got = world.expect(CONTOSO, alice, "SIP/2.0 504 ");
        assert!(got.contains("identity-not-proved"), "{got}");
        assert_eq!(world.edges[CONTOSO].closed.len(), 1, "{sans:?}");
        assert_eq!(world.edges[CONTOSO].proxy.counters().partner_connections, 0);
    }
}

#[test]
fn a_response_counts_only_from_where_its_request_went() {
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    let honest = Listener::Script(names(&["sip.fabrikam.example"]));
    world.listeners.insert(address("203.0.113.20:5061"), honest);
    let other = world.partner(CONTOSO, "203.0.113.99:5000", &["other.example"]);
    world.say(CONTOSO, alice, &Req::new("MESSAGE", "contoso.example", "fabrikam.example").text());
    let (fabrikam, got) = world.one(CONTOSO);
    let reply = answer(&got, "200 OK", Some("b1"));
    world.say(CONTOSO, other, &reply);
    assert_eq!(world.mail(CONTOSO), []);
    assert_eq!(world.refused(CONTOSO, Refusal::StrayResponse), 1);
    for lie in [
        reply.replace("call-1", "call-2"),
        reply.replace("CSeq: 1", "CSeq: 2"),
        reply.replace("tag=a1", "tag=a2"),
        reply.replace("branch=z9hG4bK", "branch=z9hG4bK0"),
    ] {
        world.say(CONTOSO, fabrikam, &lie);
        assert_eq!(world.mail(CONTOSO), [], "{lie}");
    }
    world.say(CONTOSO, fabrikam, &reply);
    world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
}

#[test]
fn nobody_outside_answers_as_one_of_our_users() {
    for (asserted, stays) in [
        ("<sip:bob@fabrikam.example>", true),
        ("<sip:bob@fabrikam.example>, <tel:+1555>", true),
        ("<sip:ceo@contoso.example>", false),
        ("<sip:bob@fabrikam.example>, \"Boss\" <sip:ceo@CONTOSO.example>", false),
        ("<sip:ceo@contoso.example", false),
    ] {
        for method in ["MESSAGE", "INVITE"] {
            let mut world = World::new();
            let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
            let honest = Listener::Script(names(&["sip.fabrikam.example"]));
            world.listeners.insert(address("203.0.113.20:5061"), honest);
            let request = Req::new(method, "contoso.example", "fabrikam.example");
            world.say(CONTOSO, alice, &request.text());
            let mail = world.mail(CONTOSO);
            let (at, got) = mail.iter().find(|(at, _)| *at != alice).unwrap();
            let line = format!("P-Asserted-Identity: {asserted}\r\nContent-Length: 0");
            let reply = answer(got, "200 OK", Some("b1")).replace("Content-Length: 0", &line);
            world.say(CONTOSO, *at, &reply);
            let ok = world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
            let expected: &[&str] = if stays { &[asserted] } else { &[] };
            assert_eq!(headers(&ok, "P-Asserted-Identity"), expected, "{method}");
        }
    }
}
