//! Answers whose connection is lost (RFC 3261 section 18.2.2).

use std::time::Duration;

use super::*;
use crate::config::Transport;

const EDGE: &str = "203.0.113.20:5061";
const SANS: [&str; 1] = ["fabrikam.example"];

fn inbound(method: &'static str) -> Req {
    Req::new(method, "fabrikam.example", "contoso.example")
}

/// A request of fabrikam's edge whose connection was lost, and which is dialled at `EDGE`, where
/// nothing is heard yet; the server inside that has the request, and the request.
fn lost(method: &'static str, remote: &str) -> (World, ConnectionId, String) {
    let mut world = World::new();
    world.listeners.insert(address(EDGE), Listener::Silent);
    let first = world.partner(CONTOSO, remote, &SANS);
    world.say(CONTOSO, first, &inbound(method).text());
    let (server, got) = world.mail(CONTOSO).pop().unwrap();
    world.cut(CONTOSO, first);
    (world, server, got)
}

fn statuses(mail: &[(ConnectionId, String)]) -> Vec<&str> {
    mail.iter().map(|(_, text)| text.split_whitespace().nth(1).unwrap_or_default()).collect()
}

#[test]
fn the_sender_is_dialled_and_hears_what_was_said_meanwhile() {
    for method in ["MESSAGE", "INVITE"] {
        let (mut world, server, got) = lost(method, "203.0.113.20:5000");
        assert_eq!(world.edges[CONTOSO].connects.pop(), Some(address(EDGE)), "{method}");
        world.say(CONTOSO, server, &answer(&got, "183 Progress", Some("b1")));
        world.say(CONTOSO, server, &answer(&got, "486 Busy Here", Some("b1")));
        let mail = world.mail(CONTOSO);
        assert!(mail.iter().all(|(at, text)| *at == server && text.starts_with("ACK")), "{mail:?}");
        let (attempt, target) = world.edges[CONTOSO].attempts.pop().unwrap();
        let back = world.script_opens(CONTOSO, attempt, &target, names(&SANS));
        let mail = world.mail(CONTOSO);
        assert!(mail.iter().all(|(at, _)| *at == back), "{mail:?}");
        let said = if method == "INVITE" { &["183", "486"][..] } else { &["486"] };
        assert_eq!(statuses(&mail), said);
        assert!(headers(&mail[0].1, "Via")[0].contains(";received=203.0.113.20;rport=5000"));
        world.pass(Duration::from_secs(40));
        assert_eq!(world.live(), 0);
    }
}

#[test]
fn what_is_said_after_the_way_is_found_takes_it() {
    let (mut world, server, got) = lost("INVITE", "203.0.113.20:5000");
    let (attempt, target) = world.edges[CONTOSO].attempts.pop().unwrap();
    let back = world.script_opens(CONTOSO, attempt, &target, names(&SANS));
    world.say(CONTOSO, server, &answer(&got, "200 OK", Some("b1")));
    world.expect(CONTOSO, back, "SIP/2.0 200 OK");
}

#[test]
fn a_sender_that_connects_by_itself_need_not_be_dialled() {
    for (sans, takes) in [(&SANS[..], true), (&["third.example"], false)] {
        let (mut world, server, got) = lost("INVITE", "203.0.113.20:5000");
        world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
        let back = world.partner(CONTOSO, "203.0.113.20:5001", sans);
        if !takes {
            assert_eq!(world.mail(CONTOSO), []);
            continue;
        }
        world.expect(CONTOSO, back, "SIP/2.0 180 Ringing");
        // What was dialled all the same changes nothing.
        let (attempt, target) = world.edges[CONTOSO].attempts.pop().unwrap();
        world.script_opens(CONTOSO, attempt, &target, names(&SANS));
        world.say(CONTOSO, server, &answer(&got, "200 OK", Some("b1")));
        world.expect(CONTOSO, back, "SIP/2.0 200 OK");
    }
}

#[test]
fn nobody_else_hears_the_answer_and_a_call_is_cancelled() {
    // Somebody else's certificate, nobody there.
    for sans in [Some(&["third.example"][..]), None] {
        let (mut world, server, got) = lost("INVITE", "203.0.113.20:5000");
        world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
        let (attempt, target) = world.edges[CONTOSO].attempts.pop().unwrap();
        match sans {
            Some(sans) => {
                let other = world.script_opens(CONTOSO, attempt, &target, names(sans));
                assert_eq!(world.edges[CONTOSO].closed.len(), 1, "{other:?}");
            }
            None => {
                let error = ConnectError::Tcp("refused".into());
                world.input(CONTOSO, Input::ConnectFailed { attempt, error });
            }
        }
        let (at, cancel) = world.one(CONTOSO);
        assert_eq!(at, server);
        assert!(cancel.starts_with("CANCEL "), "{cancel}");
        // Whoever comes later hears nothing of it.
        world.partner(CONTOSO, "203.0.113.20:5001", &SANS);
        world.say(CONTOSO, server, &answer(&got, "487 Request Terminated", Some("b1")));
        let (at, ack) = world.one(CONTOSO);
        assert!(at == server && ack.starts_with("ACK "), "{ack}");
    }
}

#[test]
fn only_an_address_that_dns_names_for_the_partner_is_dialled() {
    let (mut world, server, got) = lost("INVITE", "203.0.113.99:5000");
    assert_eq!(world.edges[CONTOSO].connects.iter().filter(|at| at.port() == 5061).count(), 0);
    world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
    let (_, cancel) = world.one(CONTOSO);
    assert!(cancel.starts_with("CANCEL "), "{cancel}");
}

#[test]
fn whose_connection_we_close_is_not_dialled() {
    let mut world = World::new();
    world.listeners.insert(address(EDGE), Listener::Silent);
    let first = world.partner(CONTOSO, "203.0.113.20:5000", &SANS);
    world.say(CONTOSO, first, &inbound("INVITE").text());
    let (server, got) = world.mail(CONTOSO).pop().unwrap();
    world.act(CONTOSO, |proxy, now, out| proxy.reset(now, &[domain("fabrikam.example")], out));
    assert_eq!(world.edges[CONTOSO].released, [first]);
    assert!(world.edges[CONTOSO].attempts.is_empty());
    world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
    world.expect(CONTOSO, server, "CANCEL ");
}

#[test]
fn a_server_inside_is_dialled_where_it_is_a_next_hop() {
    for (remote, dialled) in [("10.0.0.21:40000", true), ("10.0.0.5:40000", false)] {
        for method in ["MESSAGE", "INVITE"] {
            let mut world = World::new();
            let first = world.inside(CONTOSO, Transport::Tcp, remote);
            let request = Req::new(method, "contoso.example", "fabrikam.example");
            world.say(CONTOSO, first, &request.text());
            world.mail(CONTOSO);
            let (bob, got) = world.one(FABRIKAM);
            world.edges[CONTOSO].connects.clear();
            world.cut(CONTOSO, first);
            let hop = address("10.0.0.21:5060");
            assert_eq!(world.edges[CONTOSO].connects.contains(&hop), dialled, "{remote}");
            world.say(FABRIKAM, bob, &answer(&got, "480 Away", Some("b1")));
            let mail = world.mail(CONTOSO);
            assert_eq!(statuses(&mail), if dialled { &["480"][..] } else { &[] }, "{method}");
        }
    }
}

#[test]
fn what_is_held_for_a_way_is_bounded() {
    let (mut world, server, got) = lost("INVITE", "203.0.113.20:5000");
    let long = format!("{}Content-Length", format!("X: {}\r\n", "x".repeat(997)).repeat(10));
    let ringing = answer(&got, "180 Ringing", Some("b1")).replace("Content-Length", &long);
    for _ in 0..100 {
        world.say(CONTOSO, server, &ringing);
    }
    let (attempt, target) = world.edges[CONTOSO].attempts.pop().unwrap();
    world.script_opens(CONTOSO, attempt, &target, names(&SANS));
    let held: usize = world.mail(CONTOSO).iter().map(|(_, text)| text.len()).sum();
    assert!((240_000..=256 * 1024).contains(&held), "{held}");
}
