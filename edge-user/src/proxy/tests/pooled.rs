//! Connections to partners that move, and that have much to carry.

use std::time::Duration;

use super::*;
use crate::{config::Transport, proxy::Output};

const OLD: &str = "203.0.113.31:5061";
const NEW: &str = "203.0.113.32:5061";
const SECOND: Duration = Duration::from_secs(1);

fn edge_at(world: &mut World, ip: &str) {
    let hosts = vec![host("sip.fabrikam.example", &[ip])];
    world.dns.insert(Question::Federation(domain("fabrikam.example")), Ok(hosts));
}

fn world() -> (World, ConnectionId) {
    let mut world = World::new();
    edge_at(&mut world, "203.0.113.31");
    for at in [OLD, NEW] {
        // What names the domain proves it whatever DNS says; a host only as long as DNS names it.
        let edge = Listener::Script(names(&["fabrikam.example"]));
        world.listeners.insert(address(at), edge);
    }
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    (world, alice)
}

/// A request of alice's, answered; where it went.
fn exchange(world: &mut World, alice: ConnectionId, request: &Req) -> ConnectionId {
    world.say(CONTOSO, alice, &request.text());
    let mut mail = world.mail(CONTOSO);
    mail.retain(|(_, got)| !got.starts_with("SIP/2.0 100 "));
    let (at, got) = mail.remove(0);
    world.say(CONTOSO, at, &answer(&got, "200 OK", Some("b")));
    world.expect(CONTOSO, alice, "SIP/2.0 200 ");
    at
}

fn message(branch: &str) -> Req {
    Req::new("MESSAGE", "contoso.example", "fabrikam.example").branch(branch)
}

#[test]
fn a_partner_that_moves_is_followed_though_its_old_connection_lives() {
    let (mut world, alice) = world();
    let old = exchange(&mut world, alice, &message("1"));
    edge_at(&mut world, "203.0.113.32");
    // The answer in force still names it.
    for step in 0..29 {
        world.pass(SECOND * 10);
        assert_eq!(exchange(&mut world, alice, &message(&format!("a{step}"))), old);
    }
    assert_eq!(world.edges[CONTOSO].questions.len(), 1);
    // The next does not: for a minute the connection is used all the same.
    let mut turned = None;
    for step in 0..20 {
        world.pass(SECOND * 10);
        let at = exchange(&mut world, alice, &message(&format!("b{step}")));
        if at != old {
            turned = Some(step);
            break;
        }
    }
    assert!((6..=9).contains(&turned.unwrap()), "{turned:?}");
    assert_eq!(world.edges[CONTOSO].questions.len(), 2);
    assert_eq!(world.edges[CONTOSO].connects, [OLD, NEW].map(address));
    // Idle for a minute, it is closed, and nobody is blamed.
    assert!(world.edges[CONTOSO].released.is_empty());
    world.pass(SECOND * 75);
    assert_eq!(world.edges[CONTOSO].released, [old]);
    assert!(world.edges[CONTOSO].closed.is_empty());
}

#[test]
fn a_call_ends_on_the_connection_it_began_on() {
    let (mut world, alice) = world();
    let mut invite = Req::new("INVITE", "contoso.example", "fabrikam.example");
    invite.branch = "z9hG4bK-invite".into();
    world.say(CONTOSO, alice, &invite.text());
    let (old, got) = world.mail(CONTOSO).remove(1);
    world.say(CONTOSO, old, &answer(&got, "200 OK", Some("b1")));
    let ok = world.expect(CONTOSO, alice, "SIP/2.0 200 ");
    edge_at(&mut world, "203.0.113.32");
    for step in 0..45 {
        world.pass(SECOND * 10);
        exchange(&mut world, alice, &message(&format!("c{step}")));
        // The peer keeps it in use.
        world.say(CONTOSO, old, &Req::new("OPTIONS", "fabrikam.example", "x.example").text());
        world.mail(CONTOSO);
    }
    assert_eq!(world.edges[CONTOSO].connects.last(), Some(&address(NEW)));
    assert!(world.edges[CONTOSO].released.is_empty());
    let mut bye = Req::new("BYE", "contoso.example", "fabrikam.example").branch("bye");
    (bye.to, bye.cseq) = (headers(&ok, "To")[0].to_owned(), 2);
    let routes = headers(&ok, "Record-Route");
    let bye = routes.iter().rev().fold(bye, |bye, route| bye.with(format!("Route: {route}")));
    assert_eq!(exchange(&mut world, alice, &bye), old);
}

#[test]
fn dns_that_is_silent_or_fails_moves_nobody_and_neither_does_a_partner_that_dialled_us() {
    for fault in [None, Some(ResolveError::Unavailable), Some(ResolveError::NotFound)] {
        let (mut world, alice) = world();
        let old = exchange(&mut world, alice, &message("1"));
        let question = Question::Federation(domain("fabrikam.example"));
        match fault {
            Some(error) => drop(world.dns.insert(question, Err(error))),
            None => drop(world.dns.remove(&question)),
        }
        for step in 0..60 {
            world.pass(SECOND * 10);
            assert_eq!(exchange(&mut world, alice, &message(&format!("d{step}"))), old);
        }
    }
    let (mut world, alice) = world();
    let theirs = world.partner(CONTOSO, "203.0.113.99:5000", &["fabrikam.example"]);
    world.say(CONTOSO, theirs, &Req::new("MESSAGE", "fabrikam.example", "contoso.example").text());
    let (inside, got) = world.mail(CONTOSO).remove(0);
    world.say(CONTOSO, inside, &answer(&got, "200 OK", Some("b1")));
    world.mail(CONTOSO);
    for step in 0..60 {
        world.pass(SECOND * 10);
        assert_eq!(exchange(&mut world, alice, &message(&format!("e{step}"))), theirs);
    }
}

#[test]
fn when_dns_names_it_again_it_is_used_on() {
    let (mut world, alice) = world();
    let old = exchange(&mut world, alice, &message("1"));
    let key = domain("fabrikam.example");
    let (start, proxy) = (world.now, &mut world.edges[CONTOSO].proxy);
    assert!(proxy.connections.named(start, old, &key, false), "new");
    assert!(!proxy.connections.named(start + SECOND, old, &key, false));
    for (seconds, moved) in [(59, false), (60, true)] {
        assert_eq!(proxy.connections.has_moved(start + SECOND * seconds, old, &key), moved);
    }
    assert!(!proxy.connections.named(start + SECOND * 70, old, &key, true));
    assert!(!proxy.connections.has_moved(start + SECOND * 200, old, &key));
    assert_eq!(exchange(&mut world, alice, &message("2")), old);
}

/// Alice's requests, which nobody answers; where each went.
fn unanswered(
    world: &mut World,
    alice: ConnectionId,
    count: usize,
    mark: &str,
) -> Vec<ConnectionId> {
    for number in 0..count {
        world.say(CONTOSO, alice, &message(&format!("{mark}{number}")).text());
    }
    let mail = world.mail(CONTOSO);
    mail.into_iter().filter(|(_, got)| got.starts_with("MESSAGE ")).map(|(at, _)| at).collect()
}

#[test]
fn there_are_up_to_four_connections_to_a_partner_when_they_are_busy() {
    let (mut world, alice) = world();
    // One connection as long as it has room.
    unanswered(&mut world, alice, 65, "a");
    assert_eq!(world.edges[CONTOSO].connects.len(), 1);
    let went = unanswered(&mut world, alice, 500, "b");
    assert_eq!(went.len(), 500, "nothing waits for another connection");
    assert_eq!(world.edges[CONTOSO].connects, [address(OLD); 4]);
    let mut used = went.clone();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 4);
    for at in used {
        let share = went.iter().filter(|other| **other == at).count();
        assert!((65..200).contains(&share), "{share}");
    }
    // What is over leaves room.
    world.pass(SECOND * 40);
    unanswered(&mut world, alice, 65, "c");
    assert_eq!(world.edges[CONTOSO].connects.len(), 4);
}

#[test]
fn a_further_connection_that_cannot_be_had_delays_nobody_and_is_not_tried_at_each_request() {
    let (mut world, alice) = world();
    unanswered(&mut world, alice, 65, "a");
    world.listeners.remove(&address(OLD));
    let went = unanswered(&mut world, alice, 200, "b");
    assert_eq!(went.len(), 200);
    assert!(world.edges[CONTOSO].connects.len() <= 3, "{:?}", world.edges[CONTOSO].connects);
}

/// `edge partner reset`: the partner's connections end, whoever opened them, and nobody else's.
#[test]
fn a_reset_ends_the_connections_of_one_partner() {
    for (first, second) in
        [("203.0.113.20:5000", "203.0.113.21:5000"), ("[2001:db8::20]:5000", "[2001:db8::21]:5000")]
    {
        let mut world = World::new();
        let partner = world.partner(CONTOSO, first, &["fabrikam.example"]);
        let other = world.partner(CONTOSO, second, &["other.example"]);
        for (at, from) in [(partner, "fabrikam.example"), (other, "other.example")] {
            let request = Req::new("OPTIONS", from, "contoso.example").branch(from);
            world.say(CONTOSO, at, &request.text());
        }
        let (now, mut out) = (world.now, Vec::new());
        let proxy = &mut world.edges[CONTOSO].proxy;
        let keys = ["fabrikam.example".parse().unwrap()];
        assert_eq!(proxy.reset(now, &keys, &mut out), (1, 0));
        let released: Vec<ConnectionId> = out
            .iter()
            .filter_map(|output| match output {
                Output::Release { connection } => Some(*connection),
                _ => None,
            })
            .collect();
        assert_eq!(released, [partner]);
        assert_eq!(proxy.reset(now, &keys, &mut out), (0, 0));
    }
}
