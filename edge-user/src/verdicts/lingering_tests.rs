//! Who was connected a moment ago is kept out of the watch list's blocks, and of nothing else; and
//! the table of these is bounded.

use std::time::Duration;

use super::{
    lingering::{Lingering, MAX_LINGERING, MAX_OF_DOMAIN},
    offender_tests::{net, offender, told, why, world},
    tests::{World, ip, name, seconds},
    *,
};
use crate::config::{AllowedDomain, BlockedDomain};

const DAY: u64 = 24 * 3600;
const BAD: &str = "bad.example";
const HONEST: &str = "im.honest.example";

fn close(world: &mut World, connection: u64) {
    world.put(Input::Closed { connection: ConnectionId(connection) });
}

/// One that was connected from here, and an offender that is.
fn shared(remote: &str, source: &str) -> World {
    let mut world = world();
    world.proved(1, HONEST, remote);
    close(&mut world, 1);
    offender(&mut world, BAD, source, 7 * DAY);
    world
}

fn block(domain: &str, subdomains: bool) -> BlockedDomain {
    BlockedDomain { domain: name(domain), subdomains }
}

#[test]
fn an_address_stays_protected_for_a_day_after_the_last_connection() {
    for (remote, source, blocked) in [
        ("8.8.4.1", "8.8.4.1", "8.8.4.1/32"),
        ("2a00:1450:4001:81b::1", "2a00:1450:4001:81b::7", "2a00:1450:4001:81b::/64"),
    ] {
        let mut world = shared(remote, source);
        assert_eq!(told(&mut world, BAD).unwrap_or_default(), vec![], "{source}");
        let expected = "partner im.honest.example was connected from there within the last day";
        assert_eq!(why(&world, BAD), [expected]);
        // It comes and goes: counted from its last going.
        world.pass(seconds(DAY / 2));
        world.proved(2, HONEST, remote);
        assert_eq!(why(&world, BAD), ["partner im.honest.example is connected from there"]);
        close(&mut world, 2);
        world.pass(seconds(DAY) - Duration::from_millis(1));
        assert_eq!(told(&mut world, BAD).unwrap_or_default(), vec![]);
        world.pass(Duration::from_millis(1));
        assert_eq!(told(&mut world, BAD), Some(vec![net(blocked)]));
        assert!(why(&world, BAD).is_empty());
    }
}

#[test]
fn a_block_there_ends_when_an_honest_one_comes_and_does_not_come_back_when_it_goes() {
    let mut world = world();
    offender(&mut world, BAD, "8.8.4.1", 7 * DAY);
    assert_eq!(told(&mut world, BAD), Some(vec![net("8.8.4.1/32")]));
    world.proved(1, HONEST, "8.8.4.1");
    assert_eq!(told(&mut world, BAD), Some(vec![]));
    close(&mut world, 1);
    assert_eq!(told(&mut world, BAD), None);
}

#[test]
fn a_proof_that_is_told_after_its_connection_went_lingers() {
    let mut world = world();
    close(&mut world, 1);
    world.proved(1, HONEST, "8.8.4.1");
    offender(&mut world, BAD, "8.8.4.1", 600);
    assert_eq!(told(&mut world, BAD).unwrap_or_default(), vec![]);
}

#[test]
fn other_prefixes_and_the_offenders_own_past_protect_nothing() {
    let mut world = world();
    world.proved(1, HONEST, "8.8.4.2");
    world.proved(2, BAD, "8.8.4.1");
    close(&mut world, 1);
    close(&mut world, 2);
    offender(&mut world, BAD, "8.8.4.1", 600);
    assert_eq!(told(&mut world, BAD), Some(vec![net("8.8.4.1/32")]));
}

#[test]
fn who_is_on_the_watch_list_itself_protects_nobody_until_it_is_forgiven() {
    let mut world = shared("8.8.4.1", "8.8.4.1");
    told(&mut world, BAD);
    // Listed for what it did elsewhere.
    offender(&mut world, HONEST, "9.9.9.9", 600);
    assert_eq!(told(&mut world, BAD), Some(vec![net("8.8.4.1/32")]));
    world.put(Input::Forgiven { domain: name(HONEST), source: None });
    assert_eq!(told(&mut world, BAD), Some(vec![]));
    offender(&mut world, HONEST, "9.9.9.9", 600);
    assert_eq!(told(&mut world, BAD), Some(vec![net("8.8.4.1/32")]));
    world.pass(seconds(600));
    assert_eq!(told(&mut world, BAD), Some(vec![]), "its list ended");
    // Told with the whole list.
    offender(&mut world, HONEST, "9.9.9.9", 600);
    assert_eq!(told(&mut world, BAD), Some(vec![net("8.8.4.1/32")]));
    let only = super::offender_tests::offense(&world, BAD, "8.8.4.1", 600);
    world.put(Input::Offenders(vec![only]));
    assert_eq!(told(&mut world, BAD), Some(vec![]));
}

#[test]
fn a_blocked_domain_and_one_that_is_no_partner_any_more_protect_nobody() {
    for entry in [block(HONEST, false), block("honest.example", true)] {
        let mut world = shared("8.8.4.1", "8.8.4.1");
        told(&mut world, BAD);
        world.set(|s| s.federation.blocked_domains.push(entry.clone()));
        assert_eq!(told(&mut world, BAD), Some(vec![net("8.8.4.1/32")]), "{entry:?}");
        world.set(|s| s.federation.blocked_domains.clear());
        assert_eq!(told(&mut world, BAD), Some(vec![]));
    }
    let mut world = shared("8.8.4.1", "8.8.4.1");
    told(&mut world, BAD);
    world.set(|s| s.federation.discovery = false);
    assert_eq!(told(&mut world, BAD), Some(vec![net("8.8.4.1/32")]));
    world.set(|s| s.federation.allowed_domains.push(AllowedDomain::new(name(HONEST))));
    assert_eq!(told(&mut world, BAD), Some(vec![]));
}

#[test]
fn an_administrators_block_of_a_domain_heeds_only_who_is_connected_now() {
    let mut world = world();
    world.set(|s| s.federation.blocked_domains.push(block("blocked.example", false)));
    world.proved(1, HONEST, "8.8.4.1");
    world.answer(Question::Federation(name("blocked.example")), &["8.8.4.1"], 300);
    assert!(world.blocks.report()[0].blocked.is_empty());
    close(&mut world, 1);
    assert_eq!(world.blocks.report()[0].blocked, [ip("8.8.4.1")]);
}

#[test]
fn the_table_is_bounded_and_drops_what_left_first() {
    let mut lingering = Lingering::default();
    let start = std::time::Instant::now();
    let at = |n: usize| start + Duration::from_millis(n as u64);
    let address = |n: usize| IpAddr::from([9, 0, (n / 256) as u8, (n % 256) as u8]);
    let prefix = |n: usize| IpNet::from(address(n));
    // Of one domain.
    for n in 0..=MAX_OF_DOMAIN {
        lingering.left(at(n), name(HONEST), address(n));
    }
    assert_eq!(lingering.at(&prefix(0)).count(), 0);
    assert_eq!(lingering.at(&prefix(1)).count(), 1);
    assert!(lingering.take_touched().contains(&address(0)), "who shared it is judged again");
    // Who comes again is the last to go, and takes no second place.
    lingering.left(at(100), name(HONEST), address(1));
    lingering.left(at(101), name(HONEST), address(200));
    assert_eq!([1, 2, 3].map(|n| lingering.at(&prefix(n)).count()), [1, 0, 1]);
    // A whole /64 is one.
    for n in 0..1000_u16 {
        let remote = std::net::Ipv6Addr::new(0x2a00, 1, 1, 1, 0, 0, 0, n);
        lingering.left(at(102), name(HONEST), remote.into());
    }
    assert_eq!(lingering.at(&prefix(4)).count(), 1);
    // In all.
    let many = |n: usize| name(&format!("d{n}.example"));
    for n in 0..MAX_LINGERING - MAX_OF_DOMAIN {
        lingering.left(at(200 + n), many(n), ip("7.7.7.7"));
    }
    assert_eq!(lingering.at(&prefix(4)).count(), 1);
    lingering.left(at(100_000), name("last.example"), ip("7.7.7.8"));
    assert_eq!(lingering.at(&prefix(4)).count(), 0);
    assert_eq!(lingering.at(&prefix(5)).count(), 1);
    assert_eq!(lingering.at(&net("7.7.7.7/32")).count(), MAX_LINGERING - MAX_OF_DOMAIN);
    lingering.end(at(100_000) + LINGER_FOR);
    assert_eq!(lingering.next_timeout(), None);
    assert_eq!(lingering.at(&net("7.7.7.7/32")).count(), 0);
}
