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

/// No datagram holds it: its sender learns that at once, and nothing is sent.
#[test]
fn what_no_datagram_holds_is_refused_at_once() {
    let long = "x".repeat(70_000);
    for method in ["MESSAGE", "INVITE"] {
        let (mut world, partner) = udp_hop();
        world.listeners.insert(address("10.0.0.21:5060"), Listener::UdpOnly(names(&[])));
        let mut request = Req::new(method, "fabrikam.example", "contoso.example");
        request.body = long.clone();
        world.say(CONTOSO, partner, &request.text());
        let mail = world.mail(CONTOSO);
        assert!(mail.iter().all(|(at, _)| *at == partner), "{method}");
        assert!(mail.last().unwrap().1.starts_with("SIP/2.0 513 "), "{}", mail[0].1);
        world.pass(Duration::from_secs(60));
        assert_eq!(world.live(), 0);
    }
    // A response.
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Udp, "10.0.0.5:5060");
    world.say(CONTOSO, alice, &Req::new("OPTIONS", "contoso.example", "fabrikam.example").text());
    let (bob, got) = world.one(FABRIKAM);
    let answer = answer(&got, "200 OK", Some("b"));
    let answer = answer.replace("Content-Length: 0", "Content-Length: 70000") + &long;
    world.say(FABRIKAM, bob, &answer);
    world.expect(CONTOSO, alice, "SIP/2.0 502 ");
}

/// Longer than 1300 bytes is too long for UDP where the server takes TCP (RFC 3261 18.1.1).
#[test]
fn what_is_long_goes_by_tcp_or_by_udp_where_that_is_refused() {
    for (takes_tcp, body, expected) in [
        (true, 2000, [Transport::Tcp; 2]),
        (true, 70_000, [Transport::Tcp; 2]),
        (true, 200, [Transport::Udp; 2]),
        (false, 2000, [Transport::Udp; 2]),
    ] {
        let (mut world, partner) = udp_hop();
        if !takes_tcp {
            world.listeners.insert(address("10.0.0.21:5060"), Listener::UdpOnly(names(&[])));
        }
        let asked = |world: &World| world.edges[CONTOSO].connects.len();
        for (number, transport) in expected.into_iter().enumerate() {
            let mut request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
            request = request.branch(&number.to_string());
            request.call_id = format!("long-{number}");
            request.body = "x".repeat(body);
            world.say(CONTOSO, partner, &request.text());
            let mail = world.mail(CONTOSO);
            let [(server, got)] = &mail[..] else { panic!("{mail:#?}") };
            let via = headers(got, "Via")[0];
            let name = if transport == Transport::Tcp { "SIP/2.0/TCP " } else { "SIP/2.0/UDP " };
            assert!(via.starts_with(name), "{takes_tcp} {body}: {via}");
            assert!(headers(got, "CSeq") == ["1 MESSAGE"] && got.ends_with(&request.body));
            world.say(CONTOSO, *server, &answer(got, "200 OK", Some("b")));
            world.expect(CONTOSO, partner, "SIP/2.0 200 ");
        }
        // UDP once, and TCP once where it is wanted: who refuses is not asked again and again.
        assert_eq!(asked(&world), if body > 1000 { 2 } else { 1 });
    }
}

/// TCP that nothing is heard of is waited for once, and not for long.
#[test]
fn what_is_long_goes_by_udp_soon_where_tcp_is_silent() {
    let (mut world, partner) = udp_hop();
    world.listeners.insert(address("10.0.0.21:5060"), Listener::UdpAndSilence(names(&[])));
    for (number, wait) in [(0, Duration::from_secs(2)), (1, Duration::ZERO)] {
        let mut request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
        request = request.branch(&number.to_string());
        (request.call_id, request.body) = (format!("long-{number}"), "x".repeat(2000));
        world.say(CONTOSO, partner, &request.text());
        if !wait.is_zero() {
            assert_eq!(world.mail(CONTOSO), []);
            world.pass(wait);
        }
        let (server, got) = world.one(CONTOSO);
        assert!(headers(&got, "Via")[0].starts_with("SIP/2.0/UDP "), "{got}");
        world.say(CONTOSO, server, &answer(&got, "200 OK", Some("b")));
        world.expect(CONTOSO, partner, "SIP/2.0 200 ");
    }
}

/// UDP to the same server is no other way for who is slow over TCP.
#[test]
fn a_long_call_that_is_slow_to_be_answered_does_not_come_twice() {
    let (mut world, partner) = udp_hop();
    let mut request = Req::new("INVITE", "fabrikam.example", "contoso.example");
    request.body = "x".repeat(2000);
    world.say(CONTOSO, partner, &request.text());
    world.pass(Duration::from_secs(20));
    let mail = world.mail(CONTOSO);
    let invites: Vec<_> = mail.iter().filter(|(_, got)| got.starts_with("INVITE ")).collect();
    assert_eq!(invites.len(), 1, "{invites:#?}");
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

/// Over UDP there is one connection for each server, which is told again whenever it is dialled.
#[test]
fn a_silent_server_that_is_dialled_again_and_again_is_one_connection() {
    let mut world = World::new();
    world.configure(CONTOSO, |config| {
        config.next_hops =
            vec![hop("10.0.0.21:5060", Transport::Udp), hop("10.0.0.22:5060", Transport::Udp)];
    });
    let server = world.inside(CONTOSO, Transport::Udp, "10.0.0.21:5060");
    let peer = world.edges[CONTOSO].proxy.connections.get(server).unwrap().peer.clone();
    let hop_of = |world: &World, hop: usize| {
        let connections = &world.edges[CONTOSO].proxy.connections;
        connections.for_next_hop(hop).map(|(id, _)| id).collect::<Vec<_>>()
    };
    let tell = |world: &mut World, next_hop: Option<usize>| {
        let (now, peer) = (world.now, peer.clone());
        world.act(CONTOSO, |proxy, _, _| {
            proxy.connections.open(now, server, peer, next_hop, next_hop.is_some());
        });
    };
    assert_eq!(hop_of(&world, 0), []);
    for next_hop in [Some(0), Some(0), None, Some(0)] {
        tell(&mut world, next_hop);
        assert_eq!((hop_of(&world, 0), hop_of(&world, 1)), (vec![server], vec![]));
    }
    tell(&mut world, Some(1));
    assert_eq!((hop_of(&world, 0), hop_of(&world, 1)), (vec![], vec![server]));
    world.cut(CONTOSO, server);
    assert_eq!(hop_of(&world, 1), []);
}
