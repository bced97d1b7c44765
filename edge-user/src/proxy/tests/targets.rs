//! What fails is tried last, asked whether it lives, and used again; addresses are tried beside
//! each other (RFC 8305).

use std::time::Duration;

use super::*;
use crate::{config::Transport, proxy::Output};

const V6: &str = "[2001:db8::31]:5061";
const V4: &str = "203.0.113.31:5061";
pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn outward(branch: &str) -> String {
    Req::new("MESSAGE", "contoso.example", "fabrikam.example").branch(branch).text()
}

fn fabrikam() -> Listener {
    Listener::Script(names(&["sip1.fabrikam.example"]))
}

/// fabrikam with one host of two families; alice's connection.
fn two_families(world: &mut World) -> ConnectionId {
    let hosts = vec![host("sip1.fabrikam.example", &["2001:db8::31", "203.0.113.31"])];
    world.dns.insert(Question::Federation(domain("fabrikam.example")), Ok(hosts));
    world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000")
}

/// fabrikam, both of whose addresses are tried and say nothing yet.
fn both_tried() -> World {
    let mut world = World::new();
    let alice = two_families(&mut world);
    for at in [V6, V4] {
        world.listeners.insert(address(at), Listener::Silent);
    }
    world.say(CONTOSO, alice, &outward("1"));
    world.pass(Duration::from_millis(250));
    assert_eq!(world.edges[CONTOSO].attempts.len(), 2);
    world
}

fn opened(world: &mut World, at: usize) -> ConnectionId {
    let (attempt, target) = world.edges[CONTOSO].attempts.remove(at);
    world.script_opens(CONTOSO, attempt, &target, names(&["sip1.fabrikam.example"]))
}

#[test]
fn beside_a_dead_first_address_the_second_is_tried_after_250_ms() {
    let mut world = World::new();
    let alice = two_families(&mut world);
    world.listeners.insert(address(V6), Listener::Silent);
    world.listeners.insert(address(V4), fabrikam());
    world.say(CONTOSO, alice, &outward("1"));
    assert_eq!(world.edges[CONTOSO].connects, [address(V6)]);
    world.pass(Duration::from_millis(249));
    assert_eq!(world.edges[CONTOSO].connects, [address(V6)]);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.edges[CONTOSO].connects, [V6, V4].map(address));
    let (used, got) = world.one(CONTOSO);
    assert!(got.starts_with("MESSAGE "));
    world.say(CONTOSO, used, &answer(&got, "200 OK", Some("b")));
    world.expect(CONTOSO, alice, "SIP/2.0 200 ");
    // The first fails at last: it is the last from now on.
    world.cut(CONTOSO, used);
    let (attempt, _) = world.edges[CONTOSO].attempts.remove(0);
    let error = ConnectError::Tcp("timed out".into());
    world.input(CONTOSO, Input::ConnectFailed { attempt, error });
    world.say(CONTOSO, alice, &outward("2"));
    assert_eq!(world.edges[CONTOSO].connects[2..], [address(V4)]);
}

#[test]
fn at_a_failure_the_next_address_is_tried_at_once() {
    let mut world = World::new();
    let alice = two_families(&mut world);
    world.listeners.insert(address(V4), fabrikam());
    world.say(CONTOSO, alice, &outward("1"));
    assert_eq!(world.edges[CONTOSO].connects, [V6, V4].map(address));
    assert!(world.one(CONTOSO).1.starts_with("MESSAGE "));
}

#[test]
fn the_first_that_proves_the_domain_is_used_and_the_other_is_closed() {
    for first_wins in [false, true] {
        let mut world = both_tried();
        let winner = opened(&mut world, usize::from(!first_wins));
        assert_eq!(world.one(CONTOSO).0, winner);
        let loser = opened(&mut world, 0);
        assert_eq!(world.edges[CONTOSO].released, [loser]);
        assert_eq!(world.mail(CONTOSO), [], "sent once");
        assert_eq!(world.edges[CONTOSO].proxy.counters().partner_connections, 1);
    }
}

#[test]
fn one_that_does_not_prove_the_domain_does_not_win() {
    let mut world = both_tried();
    let (attempt, target) = world.edges[CONTOSO].attempts.remove(0);
    let other = names(&["sip1.fabrikam.example.evil.example"]);
    world.script_opens(CONTOSO, attempt, &target, other);
    assert_eq!(world.mail(CONTOSO), []);
    let winner = opened(&mut world, 0);
    assert_eq!(world.one(CONTOSO).0, winner);
    assert_eq!(world.refused(CONTOSO, Refusal::IdentityNotProved), 1);
}

#[test]
fn families_are_interleaved_and_no_more_than_two_addresses_are_tried_at_one_time() {
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    let addresses = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "203.0.113.1", "203.0.113.2"];
    let hosts = vec![host("sip1.fabrikam.example", &addresses)];
    world.dns.insert(Question::Federation(domain("fabrikam.example")), Ok(hosts));
    let order = ["[2001:db8::1]", "203.0.113.1", "[2001:db8::2]", "203.0.113.2", "[2001:db8::3]"]
        .map(|ip| address(&format!("{ip}:5061")));
    for at in order {
        world.listeners.insert(at, Listener::Silent);
    }
    world.say(CONTOSO, alice, &outward("1"));
    world.pass(SECOND);
    assert_eq!(world.edges[CONTOSO].connects, order[..2]);
    for more in 3..=5 {
        let (attempt, _) = world.edges[CONTOSO].attempts.remove(0);
        let error = ConnectError::Tcp("timed out".into());
        world.input(CONTOSO, Input::ConnectFailed { attempt, error });
        assert_eq!(world.edges[CONTOSO].connects, order[..more]);
    }
}

/// Answers what was sent with this status line; gives where it went.
pub(super) fn answer_one(world: &mut World, status: &str, more: &str) -> ConnectionId {
    let (at, got) = world.one(CONTOSO);
    let text = answer(&got, status, Some("b"));
    world.say(CONTOSO, at, &text.replace("Content-Length", &format!("{more}Content-Length")));
    at
}

/// fabrikam with two hosts; alice's connection.
pub(super) fn two_hosts(world: &mut World) -> ConnectionId {
    let hosts = vec![
        host("sip1.fabrikam.example", &["203.0.113.31"]),
        host("sip2.fabrikam.example", &["203.0.113.32"]),
    ];
    world.dns.insert(Question::Federation(domain("fabrikam.example")), Ok(hosts));
    for (number, name) in [(31, "sip1"), (32, "sip2")] {
        let listener = Listener::Script(names(&[&format!("{name}.fabrikam.example")]));
        world.listeners.insert(address(&format!("203.0.113.{number}:5061")), listener);
    }
    world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000")
}

#[test]
fn a_target_that_says_503_is_left_alone_for_as_long_as_it_asks() {
    let mut world = World::new();
    let alice = two_hosts(&mut world);
    world.say(CONTOSO, alice, &outward("1"));
    // In the same transaction the other one gets it.
    let one = answer_one(&mut world, "503 Service Unavailable", "Retry-After: 120 (soon)\r\n");
    let other = answer_one(&mut world, "200 OK", "");
    assert_ne!(one, other);
    world.expect(CONTOSO, alice, "SIP/2.0 200 ");
    // New transactions too, though the first one's connection still stands.
    for branch in ["2", "3"] {
        world.pass(Duration::from_secs(50));
        world.say(CONTOSO, alice, &outward(branch));
        assert_eq!(answer_one(&mut world, "200 OK", ""), other);
        world.mail(CONTOSO);
    }
    let edge = &world.edges[CONTOSO].proxy;
    let status = edge.partner_targets(world.now, &domain("fabrikam.example")).unwrap();
    let dead: Vec<_> =
        status.targets.unwrap().iter().map(|t| t.failure.map(|f| f.cause.name())).collect();
    assert_eq!(dead, [Some("answered-503"), None]);
    // The other is lost, and no more there: what is left is used, dead or not.
    world.listeners.remove(&address("203.0.113.32:5061"));
    world.cut(CONTOSO, other);
    world.say(CONTOSO, alice, &outward("4"));
    assert_eq!(answer_one(&mut world, "200 OK", ""), one);
    world.expect(CONTOSO, alice, "SIP/2.0 200 ");
}

#[test]
fn next_hops_that_all_say_503_get_no_connection_for_each_request() {
    let mut world = World::new();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    for branch in 1..=20 {
        let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
        world.say(CONTOSO, partner, &request.branch(&branch.to_string()).text());
        let first = answer_one(&mut world, "503 Service Unavailable", "Retry-After: 300\r\n");
        let second = answer_one(&mut world, "503 Service Unavailable", "Retry-After: 300\r\n");
        assert_ne!(first, second, "each is tried");
        world.expect(CONTOSO, partner, "SIP/2.0 500 ");
        world.pass(SECOND);
    }
    let hops = [address("10.0.0.21:5060"), address("10.0.0.22:5060")];
    assert_eq!(world.edges[CONTOSO].connects, hops, "one connection each");
}

#[test]
fn a_partner_that_only_dials_us_is_answered_over_its_connection_after_a_503_too() {
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    world.dns.insert(Question::Federation(domain("fabrikam.example")), Err(ResolveError::NotFound));
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
    world.say(CONTOSO, partner, &request.text());
    world.mail(CONTOSO);
    world.say(CONTOSO, alice, &outward("1"));
    assert_eq!(answer_one(&mut world, "503 Service Unavailable", "Retry-After: 60\r\n"), partner);
    world.expect(CONTOSO, alice, "SIP/2.0 5");
    world.say(CONTOSO, alice, &outward("2"));
    assert_eq!(answer_one(&mut world, "200 OK", ""), partner);
    world.expect(CONTOSO, alice, "SIP/2.0 200 ");
}

/// contoso, which asks its two next hops every 30 seconds.
pub(super) fn asking() -> World {
    let mut world = World::new();
    world.configure(CONTOSO, |config| config.probe = Some(Duration::from_secs(30)));
    world
}

/// Answers every probe that came; gives how many.
pub(super) fn answer_probes(world: &mut World, status: &str) -> usize {
    let mail = world.mail(CONTOSO);
    for (at, got) in &mail {
        assert!(got.starts_with("OPTIONS sip:"), "{got}");
        assert_eq!(headers(got, "Max-Forwards"), ["0"]);
        world.say(CONTOSO, *at, &answer(got, status, Some("p")));
    }
    mail.len()
}

#[test]
fn next_hops_are_asked_every_30_seconds_and_any_answer_but_503_is_life() {
    let mut world = asking();
    for status in ["200 OK", "483 Too Many Hops", "404 Not Found", "603 Decline"] {
        world.pass(SECOND);
        assert_eq!(answer_probes(&mut world, status), 2, "{status}");
        assert_eq!(answer_probes(&mut world, status), 0);
        world.pass(Duration::from_secs(29));
    }
    let hops = world.edges[CONTOSO].proxy.next_hop_targets(world.now);
    assert!(hops.iter().all(|(_, s)| s.targets.as_ref().unwrap()[0].failure.is_none()));
    assert_eq!(world.edges[CONTOSO].connects.len(), 2, "one connection each");
    assert_eq!(world.live(), 0, "no transaction is counted");
}

#[test]
fn a_next_hop_that_does_not_answer_or_says_503_is_not_the_first() {
    for says in [None, Some("503 Service Unavailable")] {
        let mut world = asking();
        world.pass(SECOND);
        for (at, got) in world.mail(CONTOSO) {
            let first = got.starts_with("OPTIONS sip:10.0.0.21");
            if let Some(status) = if first { says } else { Some("200 OK") } {
                world.say(CONTOSO, at, &answer(&got, status, Some("p")));
            }
        }
        world.pass(Duration::from_secs(9));
        let hops = world.edges[CONTOSO].proxy.next_hop_targets(world.now);
        let dead = |(_, s): &(_, crate::proxy::DestinationStatus)| {
            s.targets.as_ref().unwrap()[0].failure.map(|f| f.cause.name())
        };
        if says.is_none() {
            assert_eq!(hops.iter().map(dead).collect::<Vec<_>>(), [Some("silent"), None]);
        }
        world.mail(CONTOSO);
        let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
        let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
        world.say(CONTOSO, partner, &request.text());
        let (_, got) = world.one(CONTOSO);
        let via = headers(&got, "Via")[0].to_owned();
        assert!(got.starts_with("MESSAGE "), "{via}");
        let second = world.edges[CONTOSO]
            .proxy
            .connections
            .inside_at(Transport::Tcp, address("10.0.0.22:5060"));
        let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example").branch("2");
        world.say(CONTOSO, partner, &request.text());
        assert_eq!(Some(world.one(CONTOSO).0), second);
        // It answers when it is asked again, and is the first once more.
        world.pass(Duration::from_secs(4));
        for _ in 0..40 {
            for (at, got) in world.mail(CONTOSO) {
                if got.starts_with("OPTIONS ") {
                    world.say(CONTOSO, at, &answer(&got, "200 OK", Some("p")));
                }
            }
            world.pass(SECOND);
        }
        world.mail(CONTOSO);
        let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example").branch("3");
        world.say(CONTOSO, partner, &request.text());
        assert_ne!(Some(world.one(CONTOSO).0), second);
    }
}

#[test]
fn over_udp_a_probe_is_sent_again_until_patience_ends() {
    let mut world = World::new();
    world.configure(CONTOSO, |config| {
        config.probe = Some(Duration::from_secs(30));
        config.next_hops = vec![hop("10.0.0.21:5060", Transport::Udp)];
    });
    world.listeners.insert(address("10.0.0.21:5060"), Listener::Script(names(&[])));
    let start = world.now;
    let mut sent = vec![];
    for _ in 0..100 {
        world.pass(Duration::from_millis(100));
        for (_, got) in world.mail(CONTOSO) {
            sent.push(((world.now - start).as_millis() / 100, got));
        }
    }
    let times: Vec<_> = sent.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [0, 5, 15, 35, 75].map(|at| at.max(1)));
    assert!(sent.iter().all(|(_, got)| *got == sent[0].1), "the same each time");
}

#[test]
fn a_partners_dead_edge_is_asked_proves_itself_and_is_used_again() {
    let mut world = asking();
    world.configure(CONTOSO, |config| config.next_hops.clear());
    let alice = two_families(&mut world);
    world.listeners.insert(address(V4), fabrikam());
    world.say(CONTOSO, alice, &outward("1"));
    let by_v4 = answer_one(&mut world, "200 OK", "");
    world.mail(CONTOSO);
    // The dead one is asked, again and again, less and less often, while it is wanted.
    let asked = |world: &World| {
        world.edges[CONTOSO].connects.iter().filter(|at| **at == address(V6)).count()
    };
    world.pass(Duration::from_secs(5 + 1));
    assert_eq!(asked(&world), 2);
    world.pass(Duration::from_secs(10 + 2));
    assert_eq!(asked(&world), 3);
    // Whoever is there must prove it.
    let liar = Listener::Script(names(&["sip1.fabrikam.example.evil.example"]));
    world.listeners.insert(address(V6), liar);
    world.pass(Duration::from_secs(20 + 4));
    assert_eq!((asked(&world), world.mail(CONTOSO)), (4, vec![]));
    world.listeners.insert(address(V6), fabrikam());
    let mut answered = 0;
    for _ in 0..40 + 8 {
        world.pass(SECOND);
        answered += answer_probes(&mut world, "200 OK");
    }
    assert_eq!(answered, 1);
    let told = |event: &Event| matches!(event, Event::Health { cause: None, .. });
    assert!(world.edges[CONTOSO].events.iter().any(told));
    // It is first again when the other connection is gone.
    world.cut(CONTOSO, by_v4);
    world.say(CONTOSO, alice, &outward("2"));
    let v6 = world.one(CONTOSO).0;
    assert_ne!(v6, by_v4);
}

#[test]
fn a_partner_that_is_blocked_is_not_asked() {
    let mut world = asking();
    world.configure(CONTOSO, |config| config.next_hops.clear());
    let alice = two_families(&mut world);
    world.say(CONTOSO, alice, &outward("1"));
    world.mail(CONTOSO);
    let connects = world.edges[CONTOSO].connects.len();
    world.set_policy(CONTOSO, policy("contoso.example", &[], &["fabrikam.example"]));
    world.pass(Duration::from_secs(100));
    assert_eq!(world.edges[CONTOSO].connects.len(), connects);
    assert_eq!(world.edges[CONTOSO].proxy.targets.len(), 0);
}

#[test]
fn slow_dns_for_one_partner_delays_no_other() {
    let mut world = World::new();
    let allowed = [allow("fabrikam.example"), allow("slow.example")];
    world.set_policy(CONTOSO, policy("contoso.example", &allowed, &[]));
    let alice = two_families(&mut world);
    world.listeners.insert(address(V6), fabrikam());
    for number in 0..500 {
        let branch = format!("s{number}");
        let slow = Req::new("MESSAGE", "contoso.example", "slow.example").branch(&branch);
        world.say(CONTOSO, alice, &slow.text());
    }
    assert_eq!(world.edges[CONTOSO].questions.len(), 1, "asked once however many wait");
    world.say(CONTOSO, alice, &outward("f"));
    assert!(world.one(CONTOSO).1.starts_with("MESSAGE sip:bob@fabrikam.example"));
    // Those that wait are told in the end.
    world.pass(Duration::from_secs(11));
    let told = world.mail(CONTOSO);
    let said = told.iter().filter(|(at, got)| *at == alice && got.starts_with("SIP/2.0 504 "));
    assert_eq!(said.count(), 500);
}

#[test]
fn ten_thousand_failed_targets_stay_bounded() {
    let mut world = asking();
    world.configure(CONTOSO, |config| config.next_hops.clear());
    let lists = crate::config::Federation {
        enabled: true,
        discovery: true,
        ..crate::config::Federation::default()
    };
    let discover = crate::federation::Policy::new(&[domain("contoso.example")], &lists);
    world.set_policy(CONTOSO, std::sync::Arc::new(discover));
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    for number in 0_u32..10_000 {
        let name = format!("d{number}.example");
        let ip = std::net::Ipv4Addr::from(0xcb00_0000 + number).to_string();
        let hosts = vec![host(&format!("sip.{name}"), &[&ip])];
        world.dns.insert(Question::Federation(domain(&name)), Ok(hosts));
        let request = Req::new("MESSAGE", "contoso.example", &name).branch(&name);
        world.say(CONTOSO, alice, &request.text());
    }
    let proxy = &world.edges[CONTOSO].proxy;
    assert_eq!(proxy.targets.len(), crate::federation::MAX_FAILED);
    assert!(proxy.lookups.len() <= 8192 + 1024);
    // They are asked for a while, and then nothing is left of them.
    world.pass(Duration::from_secs(4000));
    let proxy = &world.edges[CONTOSO].proxy;
    assert_eq!((proxy.targets.len(), proxy.targets.next_timeout()), (0, None));
}

#[test]
fn where_signed_answers_are_demanded_no_other_counts() {
    // Two partners behind one host; one wants its address signed.
    let pinned = |name: &str, dnssec: bool| {
        let mut entry = allow(name);
        entry.proxy_fqdn = Some(domain("edge.hoster.example"));
        entry.options.dnssec = dnssec;
        entry
    };
    let question = Question::Host(domain("edge.hoster.example"), 5061);
    for signed in [false, true] {
        let mut world = World::new();
        let allowed = [pinned("plain.example", false), pinned("strict.example", true)];
        world.set_policy(CONTOSO, policy("contoso.example", &allowed, &[]));
        let hosts = vec![host("edge.hoster.example", &["203.0.113.50"])];
        world.dns.insert(question.clone(), Ok(hosts));
        world.signed.extend(signed.then(|| question.clone()));
        let edge = Listener::Script(names(&["edge.hoster.example"]));
        world.listeners.insert(address("203.0.113.50:5061"), edge);
        let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
        let ask = |world: &mut World, to: &str| {
            let request = Req::new("MESSAGE", "contoso.example", to).branch(to);
            world.say(CONTOSO, alice, &request.text());
            world.one(CONTOSO)
        };
        assert!(ask(&mut world, "plain.example").1.starts_with("MESSAGE "));
        let (at, got) = ask(&mut world, "strict.example");
        match signed {
            true => assert!(got.starts_with("MESSAGE "), "{got}"),
            false => {
                assert!(at == alice && got.starts_with("SIP/2.0 504 "), "{got}");
                assert_eq!(world.refused(CONTOSO, Refusal::DnsNotSecure), 1);
            }
        }
    }
}

#[test]
fn a_host_that_only_unsigned_dns_names_proves_nobody_who_must_be_signed() {
    for signed in [false, true] {
        let mut world = World::new();
        let mut entry = allow("fabrikam.example");
        entry.options.dnssec = true;
        world.set_policy(CONTOSO, policy("contoso.example", &[entry], &[]));
        world.signed.extend(signed.then(|| Question::Federation(domain("fabrikam.example"))));
        let at = world.partner(CONTOSO, "203.0.113.20:5000", &["sip.fabrikam.example"]);
        let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
        world.say(CONTOSO, at, &request.text());
        let (to, got) = world.one(CONTOSO);
        match signed {
            true => assert!(to != at && got.starts_with("MESSAGE "), "{got}"),
            false => {
                assert!(to == at && got.starts_with("SIP/2.0 403 "), "{got}");
                assert!(got.contains("dns-not-secure"), "{got}");
            }
        }
    }
}

#[test]
fn nothing_is_asked_when_that_is_switched_off() {
    let mut world = World::new();
    let alice = two_families(&mut world);
    world.say(CONTOSO, alice, &outward("1"));
    let connects = world.edges[CONTOSO].connects.len();
    world.pass(Duration::from_secs(4000));
    assert_eq!(world.edges[CONTOSO].connects.len(), connects);
    let mut out: Vec<Output> = vec![];
    world.edges[CONTOSO].proxy.on_timeout(world.now, &mut out);
    assert!(out.is_empty());
}
