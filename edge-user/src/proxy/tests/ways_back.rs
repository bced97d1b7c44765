//! Answers whose connection is lost (RFC 3261 section 18.2.2).

use std::time::Duration;

use super::{
    policy_table::{lists, world_with},
    *,
};
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

/// A call from each of these domains over one connection, which is lost; the servers inside and what
/// they got.
fn calls_over_one(
    world: &mut World,
    remote: &str,
    sans: &[&str],
    domains: &[&str],
) -> Vec<(ConnectionId, String)> {
    let first = world.partner(CONTOSO, remote, sans);
    let mut calls = vec![];
    for from in domains {
        let mut request = Req::new("INVITE", from, "contoso.example").branch(from);
        request.call_id = (*from).into();
        world.say(CONTOSO, first, &request.text());
        calls.push(world.mail(CONTOSO).pop().unwrap());
    }
    world.cut(CONTOSO, first);
    calls
}

/// A server behind it says this to each of the calls.
fn say_to_all(world: &mut World, calls: &[(ConnectionId, String)], status: &str) {
    for (server, got) in calls {
        world.say(CONTOSO, *server, &answer(got, status, Some("b1")));
    }
}

#[test]
fn all_for_whom_a_connection_spoke_hear_their_answers() {
    // A provider, for a domain that is listed and for those whose SRV record names it; one partner
    // with two domains.
    let rows: [(&[&str], &[&str]); 2] = [
        (&["cloud.example"], &["listed.example", "plain.example", "unknown.example"]),
        (&["two.example", "plain.example"], &["two.example", "plain.example"]),
    ];
    for (sans, domains) in rows {
        for by_itself in [false, true] {
            let mut world = world_with(&lists(true));
            let at = |name: &str| Ok(vec![host(name, &["203.0.113.40"])]);
            for name in domains {
                let edge = if sans.contains(name) { *name } else { sans[0] };
                world.dns.insert(Question::Federation(domain(name)), at(edge));
            }
            let cloud = Question::Host(domain("cloud.example"), 5061);
            world.dns.insert(cloud, at("cloud.example"));
            world.listeners.insert(address("203.0.113.40:5061"), Listener::Silent);
            let calls = calls_over_one(&mut world, "203.0.113.40:5000", sans, domains);
            say_to_all(&mut world, &calls, "180 Ringing");
            let (attempt, target) = world.edges[CONTOSO].attempts.pop().unwrap();
            let back = match by_itself {
                false => world.script_opens(CONTOSO, attempt, &target, names(sans)),
                true => world.partner(CONTOSO, "203.0.113.40:5001", sans),
            };
            say_to_all(&mut world, &calls, "486 Busy Here");
            let mail = world.mail(CONTOSO);
            let mail: Vec<_> =
                mail.into_iter().filter(|(_, got)| !got.starts_with("ACK ")).collect();
            assert!(mail.iter().all(|(to, _)| *to == back), "{mail:?}");
            let said = ["180", "486"].map(|status| vec![status; domains.len()]).concat();
            assert_eq!(statuses(&mail), said, "{sans:?}");
        }
    }
}

/// The members of a pool may share a certificate: who is at another address is not who asked.
#[test]
fn another_member_with_the_same_certificate_hears_it_only_when_the_sender_cannot_be_had() {
    for lives in [true, false] {
        let mut world = World::new();
        world.listeners.insert(address(EDGE), Listener::Silent);
        let member = world.partner(CONTOSO, "203.0.113.21:5001", &SANS);
        let calls = calls_over_one(&mut world, "203.0.113.20:5000", &SANS, &["fabrikam.example"]);
        say_to_all(&mut world, &calls, "180 Ringing");
        assert_eq!(world.mail(CONTOSO), []);
        let (attempt, target) = world.edges[CONTOSO].attempts.pop().unwrap();
        let hears = match lives {
            true => world.script_opens(CONTOSO, attempt, &target, names(&SANS)),
            false => {
                let error = ConnectError::Tcp("refused".into());
                world.input(CONTOSO, Input::ConnectFailed { attempt, error });
                member
            }
        };
        world.expect(CONTOSO, hears, "SIP/2.0 180 Ringing");
        say_to_all(&mut world, &calls, "200 OK");
        world.expect(CONTOSO, hears, "SIP/2.0 200 OK");
    }
    // From the same address another connection is as good.
    let mut world = World::new();
    world.listeners.insert(address(EDGE), Listener::Silent);
    let other = world.partner(CONTOSO, "203.0.113.20:5001", &SANS);
    world.partner(CONTOSO, "203.0.113.21:5001", &SANS);
    let calls = calls_over_one(&mut world, "203.0.113.20:5000", &SANS, &["fabrikam.example"]);
    assert!(world.edges[CONTOSO].attempts.is_empty());
    say_to_all(&mut world, &calls, "200 OK");
    world.expect(CONTOSO, other, "SIP/2.0 200 OK");
}

/// Exchanges are many, and so are strangers that come and go.
#[test]
fn a_connection_over_which_nothing_goes_is_let_go_without_a_look_at_all_exchanges() {
    let mut world = World::new();
    let first = world.partner(CONTOSO, "203.0.113.20:5000", &SANS);
    world.say(CONTOSO, first, &inbound("INVITE").text());
    let looked = |world: &World| world.edges[CONTOSO].proxy.exchanges.looked_through.get();
    let before = looked(&world);
    for number in 0..100 {
        let remote = format!("198.51.100.7:{}", 1000 + number);
        let user = world.remote(CONTOSO, &remote);
        let stranger = world.partner(CONTOSO, &remote, &["third.example"]);
        world.cut(CONTOSO, user);
        world.cut(CONTOSO, stranger);
    }
    assert_eq!(looked(&world), before);
    world.cut(CONTOSO, first);
    assert!(looked(&world) > before);
}

/// What was dialled may show another certificate of the same partner.
#[test]
fn what_took_another_connections_answers_over_is_missed_when_it_is_lost_too() {
    let (mut world, server, got) = lost("INVITE", "203.0.113.20:5000");
    world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
    let (attempt, target) = world.edges[CONTOSO].attempts.pop().unwrap();
    let back = world.script_opens(CONTOSO, attempt, &target, names(&["sip.fabrikam.example"]));
    world.expect(CONTOSO, back, "SIP/2.0 180 Ringing");
    world.listeners.remove(&address(EDGE));
    world.cut(CONTOSO, back);
    world.expect(CONTOSO, server, "CANCEL ");
}
