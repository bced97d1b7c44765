//! UDP inside: what is lost is sent again, what comes twice is taken once.

use std::time::Duration;

use super::*;
use crate::config::Transport;

/// contoso with one next hop over UDP.
fn udp_hop() -> (World, ConnectionId) {
    let mut world = World::new();
    world.configure(CONTOSO, |config| {
        config.next_hops = vec![hop("10.0.0.21:5060", Transport::Udp)];
    });
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    (world, partner)
}

#[test]
fn a_request_to_udp_is_sent_again_until_it_is_answered() {
    for (method, expected) in [("INVITE", 7), ("MESSAGE", 11)] {
        let (mut world, partner) = udp_hop();
        world.say(
            CONTOSO,
            partner,
            &Req::new(method, "fabrikam.example", "contoso.example").text(),
        );
        world.pass(Duration::from_millis(31_900));
        let mail = world.mail(CONTOSO);
        let sent = mail.iter().filter(|(_, got)| got.starts_with(method)).count();
        assert_eq!(sent, expected, "{method}");
    }
    let (mut world, partner) = udp_hop();
    world.say(CONTOSO, partner, &Req::new("INVITE", "fabrikam.example", "contoso.example").text());
    let (server, got) = world.mail(CONTOSO).remove(1);
    world.say(CONTOSO, server, &answer(&got, "100 Trying", None));
    world.pass(Duration::from_millis(31_900));
    assert_eq!(world.mail(CONTOSO), []);
}

#[test]
fn a_request_from_udp_that_comes_twice_is_answered_again_and_forwarded_once() {
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Udp, "10.0.0.5:5060");
    let mut request = Req::new("MESSAGE", "contoso.example", "fabrikam.example");
    request.transport = "UDP";
    world.say(CONTOSO, alice, &request.text());
    world.say(CONTOSO, alice, &request.text());
    let (bob, got) = world.one(FABRIKAM);
    assert_eq!(world.mail(CONTOSO), []);
    world.say(FABRIKAM, bob, &answer(&got, "200 OK", Some("b")));
    let first = world.expect(CONTOSO, alice, "SIP/2.0 200 ");
    world.say(CONTOSO, alice, &request.text());
    assert_eq!(world.expect(CONTOSO, alice, "SIP/2.0 200 "), first);
    assert_eq!(world.mail(FABRIKAM), []);
    world.pass(Duration::from_secs(33));
    assert_eq!(world.live(), 0);
}

#[test]
fn a_refused_invite_from_udp_is_sent_again_until_it_is_acknowledged() {
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Udp, "10.0.0.5:5060");
    let mut invite = Req::new("INVITE", "contoso.example", "fabrikam.example");
    world.say(CONTOSO, alice, &invite.text());
    world.expect(CONTOSO, alice, "SIP/2.0 100 ");
    let (bob, got) = world.one(FABRIKAM);
    world.say(FABRIKAM, bob, &answer(&got, "486 Busy Here", Some("b")));
    world.mail(FABRIKAM);
    world.pass(Duration::from_secs(4));
    let sent = world.mail(CONTOSO);
    assert_eq!(sent.len(), 4, "at once, and after 0.5, 1.5 and 3.5 s");
    invite.method = "ACK";
    invite.to = headers(&sent[0].1, "To")[0].into();
    world.say(CONTOSO, alice, &invite.text());
    world.pass(Duration::from_secs(60));
    assert_eq!(world.mail(CONTOSO), []);
    assert_eq!(world.live(), 0);
}

#[test]
fn a_call_from_udp_inside_is_hung_up_from_outside() {
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Udp, "10.0.0.5:5060");
    let invite = Req::new("INVITE", "contoso.example", "fabrikam.example");
    world.say(CONTOSO, alice, &invite.text());
    world.mail(CONTOSO);
    let (bob, got) = world.one(FABRIKAM);
    world.say(FABRIKAM, bob, &answer(&got, "200 OK", Some("b1")));
    world.mail(CONTOSO);
    // The shell forgets idle UDP peers; the token still knows the address.
    world.cut(CONTOSO, alice);
    world.listeners.insert(address("10.0.0.5:5060"), Listener::Script(names(&[])));
    let mut bye = invite.clone().branch("bye");
    bye.method = "BYE";
    bye.cseq = 2;
    bye.uri = "sip:alice@10.0.0.5".into();
    bye.from = "<sip:bob@fabrikam.example>;tag=b1".into();
    bye.to = invite.from.clone();
    bye.headers = vec![];
    for route in headers(&got, "Record-Route") {
        bye.headers.push(format!("Route: {route}"));
    }
    world.say(FABRIKAM, bob, &bye.text());
    let (_, got) = world.one(CONTOSO);
    assert!(got.starts_with("BYE sip:alice@10.0.0.5 SIP/2.0\r\n"), "{got}");
    assert!(headers(&got, "Via")[0].starts_with("SIP/2.0/UDP 10.0.0.10:5060;"), "{got}");
    assert_eq!(world.edges[CONTOSO].connects.last(), Some(&address("10.0.0.5:5060")));
}
