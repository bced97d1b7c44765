//! Stand-alone requests from end to end.

use super::*;
use crate::config::Transport;

/// Alice inside contoso, connected over TCP.
fn alice(world: &mut World) -> ConnectionId {
    world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000")
}

#[test]
fn a_message_crosses_both_edges_and_its_answer_comes_back() {
    let mut world = World::new();
    let alice = alice(&mut world);
    world.say(CONTOSO, alice, &Req::new("MESSAGE", "contoso.example", "fabrikam.example").text());
    let (bob, got) = world.one(FABRIKAM);
    assert!(got.starts_with("MESSAGE sip:bob@fabrikam.example SIP/2.0\r\n"), "{got}");
    assert_eq!(headers(&got, "Max-Forwards"), ["68"]);
    let vias = headers(&got, "Via");
    assert_eq!(vias.len(), 3, "{vias:?}");
    assert!(vias[0].starts_with("SIP/2.0/TCP 10.1.0.10:5060;branch=z9hG4bK"), "{vias:?}");
    assert!(vias[1].starts_with("SIP/2.0/TLS edge.contoso.example:5061;branch="), "{vias:?}");
    assert!(vias[2].contains(";received=10.0.0.5;rport=40000"), "{vias:?}");
    assert_eq!(headers(&got, "Record-Route").len(), 0, "MESSAGE forms no dialog");

    world.say(FABRIKAM, bob, &answer(&got, "200 OK", Some("b1")));
    let back = world.expect(CONTOSO, alice, "SIP/2.0 200 OK\r\n");
    assert_eq!(headers(&back, "Via").len(), 1);
    assert_eq!(world.live(), 0, "nothing is kept on reliable transports");
    let forwarded: Vec<_> = world.edges[CONTOSO].proxy.counters().forwarded().collect();
    assert_eq!(forwarded, [("MESSAGE", false, 1)]);
    let forwarded: Vec<_> = world.edges[FABRIKAM].proxy.counters().forwarded().collect();
    assert_eq!(forwarded, [("MESSAGE", true, 1)]);
}

#[test]
fn one_connection_carries_both_directions() {
    let mut world = World::new();
    let alice = alice(&mut world);
    let bob = world.inside(FABRIKAM, Transport::Tcp, "10.1.0.5:40000");
    let there = Req::new("MESSAGE", "contoso.example", "fabrikam.example");
    world.say(CONTOSO, alice, &there.text());
    world.say(CONTOSO, alice, &there.branch("2").text());
    let back = Req::new("MESSAGE", "fabrikam.example", "contoso.example").branch("3");
    world.say(FABRIKAM, bob, &back.text());
    assert_eq!(world.mail(FABRIKAM).len(), 2);
    assert_eq!(world.mail(CONTOSO).len(), 1);
    for edge in [CONTOSO, FABRIKAM] {
        assert_eq!(world.edges[edge].proxy.counters().partner_connections, 1);
    }
    assert_eq!(world.edges[FABRIKAM].connects, [address("10.1.0.21:5060")]);
}

#[test]
fn every_method_passes() {
    for method in ["SERVICE", "BENOTIFY", "FOO", "PUBLISH", "OPTIONS", "INFO"] {
        let mut world = World::new();
        let alice = alice(&mut world);
        world.say(CONTOSO, alice, &Req::new(method, "contoso.example", "fabrikam.example").text());
        let (_, got) = world.one(FABRIKAM);
        assert!(
            got.starts_with(&format!("{method} sip:bob@fabrikam.example SIP/2.0\r\n")),
            "{got}"
        );
    }
}

#[test]
fn a_benotify_gets_no_answer_and_leaves_nothing_behind() {
    let mut world = World::new();
    let alice = alice(&mut world);
    world.say(CONTOSO, alice, &Req::new("BENOTIFY", "contoso.example", "fabrikam.example").text());
    assert_eq!(world.mail(FABRIKAM).len(), 1);
    assert_eq!(world.live(), 0);
    world.say(CONTOSO, alice, &Req::new("BENOTIFY", "contoso.example", "other.example").text());
    assert_eq!(world.mail(CONTOSO), []);
    assert_eq!(world.refused(CONTOSO, Refusal::DomainNotAllowed), 1);
}

#[test]
fn foreign_headers_and_bodies_pass_byte_for_byte() {
    let mut world = World::new();
    let alice = alice(&mut world);
    let foreign =
        "x-Odd:   spaced ; \"quoted, <>\"\r\nP-Thing: a,b,, c\r\nSupported: ms-early-media";
    let mut request = Req::new("MESSAGE", "contoso.example", "fabrikam.example").with(foreign);
    request.from = "\"A, \\\"lice\" <sip:alice@contoso.example;x=1>;tag=a1;epid=0f".into();
    request.body = "line\r\n\0\u{fe}\u{1f600} end".into();
    let text = request.text();
    world.say(CONTOSO, alice, &text);
    let (bob, got) = world.one(FABRIKAM);
    assert!(got.contains(foreign), "{got}");
    // Max-Breadth is put in after them, by both edges' way: once.
    let kept = text.split_once("From:").unwrap().1;
    let (head, body) = kept.split_once("\r\n\r\n").unwrap();
    let expected = format!("{head}\r\nMax-Breadth: 60\r\n\r\n{body}");
    assert!(without_ours(&got).ends_with(&expected), "{got}");
    let reply = answer(&got, "200 OK", Some("b1"))
        .replace("Content-Length: 0\r\n\r\n", "x-Odd:  \t z\r\nContent-Length: 3\r\n\r\n\r\n\0");
    world.say(FABRIKAM, bob, &reply);
    let back = world.expect(CONTOSO, alice, "SIP/2.0 200 OK\r\n");
    let back = without_ours(&back);
    assert!(back.ends_with("x-Odd:  \t z\r\nContent-Length: 3\r\n\r\n\r\n\0"), "{back}");
}

/// A message without what an edge adds about its sender.
fn without_ours(text: &str) -> String {
    let ours = ["ms-edge-proxy-message-trust:", "ms-asserted-verification-level:"];
    let lines = text.split_inclusive("\r\n");
    lines.filter(|line| !ours.iter().any(|name| line.starts_with(name))).collect()
}

#[test]
fn max_forwards_is_counted_inserted_and_ends_at_zero() {
    for (header, expected) in
        [("Max-Forwards: 5", Some("4")), ("x: y", Some("70")), ("Max-Forwards: 0", None)]
    {
        let mut world = World::new();
        let alice = alice(&mut world);
        let mut request = Req::new("MESSAGE", "contoso.example", "fabrikam.example");
        request.headers = vec![header.into()];
        world.listeners.insert(
            address("203.0.113.20:5061"),
            Listener::Script(names(&["sip.fabrikam.example"])),
        );
        world.say(CONTOSO, alice, &request.text());
        let (_, got) = world.one(CONTOSO);
        match expected {
            Some(hops) => assert_eq!(headers(&got, "Max-Forwards"), [hops]),
            None => {
                assert!(got.starts_with("SIP/2.0 483 "), "{got}");
                assert_eq!(world.refused(CONTOSO, Refusal::TooManyHops), 1);
            }
        }
    }
}

#[test]
fn a_refused_sender_is_told_why() {
    let mut world = World::new();
    let alice = alice(&mut world);
    world.say(CONTOSO, alice, &Req::new("MESSAGE", "contoso.example", "other.example").text());
    let got = world.expect(CONTOSO, alice, "SIP/2.0 403 Forbidden\r\n");
    assert_eq!(headers(&got, "Warning"), ["399 edge.contoso.example \"domain-not-allowed\""]);
    assert_eq!(
        headers(&got, "ms-diagnostics"),
        [format!(
            "1005;source=\"edge.contoso.example\";reason=\"{}\";domain=\"other.example\"",
            Refusal::DomainNotAllowed.text()
        )]
    );
    assert!(headers(&got, "To")[0].contains(";tag="));
    assert!(matches!(
        world.edges[CONTOSO].events.last(),
        Some(Event::Refused { reason: Refusal::DomainNotAllowed, domain: Some(d), .. })
            if *d == domain("other.example")
    ));
}

#[test]
fn an_options_for_the_edge_itself_is_answered_by_it() {
    let mut world = World::new();
    let alice = alice(&mut world);
    for uri in ["sip:edge.contoso.example:5061", "sip:10.0.0.10:5060"] {
        let mut request = Req::new("OPTIONS", "contoso.example", "contoso.example");
        request.uri = uri.into();
        world.say(CONTOSO, alice, &request.text());
        let ok = world.expect(CONTOSO, alice, "SIP/2.0 200 OK\r\n");
        // RFC 3261 section 11.2.
        assert!(headers(&ok, "Allow")[0].contains("SUBSCRIBE"), "{ok}");
        for name in ["Accept", "Accept-Encoding", "Accept-Language", "Supported"] {
            assert_eq!(headers(&ok, name).len(), 1, "{name}: {ok}");
        }
    }
}

#[test]
fn what_only_an_edge_says_to_the_inside_is_taken_from_partners() {
    let mut world = World::new();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example")
        .with("ms-edge-proxy-message-trust: ms-source-type=AuthorizedServer");
    world.say(CONTOSO, partner, &request.text());
    let (_, got) = world.one(CONTOSO);
    assert!(!got.contains("AuthorizedServer"), "{got}");
    assert_eq!(headers(&got, "ms-edge-proxy-message-trust").len(), 1, "{got}");
}
