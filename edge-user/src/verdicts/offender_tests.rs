//! Discovered partners on the watch list: what becomes a block, what does not, and for how long.

use std::time::{Instant, SystemTime};

use ipnet::IpNet;

use super::{
    tests::{World, ip, name, seconds},
    *,
};
use crate::firewall::BlockOwner;

pub(super) fn world() -> World {
    let mut world = World::new(&[], &["good.example"]);
    world.set(|setting| setting.federation.discovery = true);
    // Nothing is told before it is known who must not be hit.
    world.pass(START_WAIT);
    world.outputs.clear();
    world
}

pub(super) fn offense(world: &World, domain: &str, source: &str, time: u64) -> Offense {
    let until = world.now + seconds(time);
    let expires_at = wall(world, until);
    Offense { domain: name(domain), source: ip(source), until, expires_at }
}

pub(super) fn offender(world: &mut World, domain: &str, source: &str, time: u64) {
    let offense = offense(world, domain, source, time);
    world.put(Input::Offender(offense));
}

/// A wall clock for virtual time.
fn wall(world: &World, at: Instant) -> SystemTime {
    SystemTime::UNIX_EPOCH + seconds(1_800_000_000) + at.duration_since(world.now)
}

/// What the firewall was told of this domain last, since the last look.
pub(super) fn told(world: &mut World, domain: &str) -> Option<Vec<IpNet>> {
    let owner = BlockOwner::Watch(name(domain));
    let told = std::mem::take(&mut world.outputs).into_iter().filter_map(|output| match output {
        Output::Apply(Intent::SetOwnerBlocks { owner: of, blocks }) if of == owner => {
            assert!(blocks.iter().all(|block| block.expires_at.is_some() && block.owner == owner));
            Some(blocks.iter().map(|block| block.prefix).collect())
        }
        _ => None,
    });
    told.last()
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn why(world: &World, domain: &str) -> Vec<String> {
    let report = world.blocks.watch_report();
    let report = report.iter().find(|report| report.domain == name(domain)).unwrap();
    report.refused.iter().map(|refused| refused.why.to_string()).collect()
}

#[test]
fn an_offender_is_blocked_by_address_or_64_until_its_list_ends() {
    let mut world = world();
    offender(&mut world, "bad.example", "8.8.4.1", 600);
    assert_eq!(told(&mut world, "bad.example"), Some(vec![net("8.8.4.1/32")]));
    offender(&mut world, "bad.example", "2a00:1450:4001:81b::7", 900);
    let both = vec![net("8.8.4.1/32"), net("2a00:1450:4001:81b::/64")];
    assert_eq!(told(&mut world, "bad.example"), Some(both.clone()));
    assert_eq!(world.blocks.watch_report()[0].blocked, both);
    // The same again is nothing new.
    offender(&mut world, "bad.example", "2a00:1450:4001:81b::8", 900);
    assert_eq!(told(&mut world, "bad.example"), None);
    world.pass(seconds(599));
    assert_eq!(told(&mut world, "bad.example"), None);
    world.pass(seconds(1));
    assert_eq!(told(&mut world, "bad.example"), Some(vec![net("2a00:1450:4001:81b::/64")]));
    world.pass(seconds(300));
    assert_eq!(told(&mut world, "bad.example"), Some(vec![]));
    assert!(world.blocks.watch_report().is_empty());
}

#[test]
fn nothing_is_told_before_it_is_known_who_must_not_be_hit() {
    let mut world = World::new(&[], &["good.example"]);
    offender(&mut world, "bad.example", "8.8.4.1", 600);
    offender(&mut world, "bad.example", "8.8.4.2", 600);
    assert_eq!(told(&mut world, "bad.example"), None);
    world.answer(Question::Federation(name("good.example")), &["8.8.4.2"], 300);
    assert_eq!(told(&mut world, "bad.example"), Some(vec![net("8.8.4.1/32")]));
}

#[test]
fn protected_addresses_are_refused_by_the_proxy_alone() {
    let mut world = world();
    world.answer(Question::Federation(name("good.example")), &["8.8.4.4", "2a00:1:2:3::4"], 300);
    let own = world.setting.own[0];
    world.set(|setting| {
        setting.own.push(ip("2a00:9:9:9::1"));
        setting.federation.allowed_domains[0].from_addresses = vec![net("9.9.0.0/16")];
        let management = Protection::Management;
        setting.fixed.push((net("2a00:5::/32"), management.clone()));
        setting.fixed.push((net("7.7.7.7/32"), management));
    });
    for (source, expected) in [
        ("8.8.4.4", "also an edge of allowed partner good.example"),
        ("2a00:1:2:3::99", "also an edge of allowed partner good.example"),
        ("9.9.9.9", "also an edge of allowed partner good.example"),
        ("2a00:5:1:2::3", "in a management prefix"),
        ("7.7.7.7", "in a management prefix"),
        ("2a00:9:9:9::5", "an address of this appliance"),
        (&own.to_string(), "an address of this appliance"),
        ("10.1.2.3", "a private address (RFC 1918)"),
        ("127.0.0.1", "a loopback address"),
    ] {
        world.outputs.clear();
        offender(&mut world, "bad.example", source, 600);
        assert_eq!(told(&mut world, "bad.example").unwrap_or_default(), vec![], "{source}");
        assert_eq!(why(&world, "bad.example"), [expected], "{source}");
        world.put(Input::Forgiven { domain: name("bad.example"), source: None });
    }
}

#[test]
fn the_offenders_own_connections_protect_nothing_anothers_do() {
    let mut world = world();
    world.proved(1, "bad.example", "8.8.4.1");
    offender(&mut world, "bad.example", "8.8.4.1", 600);
    assert_eq!(told(&mut world, "bad.example"), Some(vec![net("8.8.4.1/32")]));
    world.proved(2, "honest.example", "8.8.4.1");
    assert_eq!(told(&mut world, "bad.example"), Some(vec![]));
    assert_eq!(why(&world, "bad.example"), ["partner honest.example is connected from there"]);
}

#[test]
fn at_most_64_of_a_domain_and_so_many_in_all() {
    let mut world = world();
    for number in 0..100 {
        offender(&mut world, "bad.example", &format!("8.8.4.{number}"), 600);
    }
    assert_eq!(told(&mut world, "bad.example").unwrap().len(), 64);
    assert_eq!(why(&world, "bad.example").len(), 36);
    assert_eq!(why(&world, "bad.example")[0], "more than 64 addresses");
    for number in 0..80 {
        for host in 0..64 {
            let source = format!("8.9.{number}.{host}");
            offender(&mut world, &format!("d{number}.example"), &source, 600);
        }
    }
    let report = world.blocks.watch_report();
    let blocked: usize = report.iter().map(|report| report.blocked.len()).sum();
    assert_eq!(blocked, MAX_WATCHED);
}

#[test]
fn forgiving_and_allowing_end_the_block() {
    let mut world = world();
    for source in ["8.8.4.1", "8.8.5.1"] {
        offender(&mut world, "bad.example", source, 600);
    }
    told(&mut world, "bad.example");
    let source = Some(net("8.8.4.0/24"));
    world.put(Input::Forgiven { domain: name("bad.example"), source });
    assert_eq!(told(&mut world, "bad.example"), Some(vec![net("8.8.5.1/32")]));
    world.set(|setting| {
        setting
            .federation
            .allowed_domains
            .push(crate::config::AllowedDomain::new(name("bad.example")));
    });
    assert_eq!(told(&mut world, "bad.example"), Some(vec![]));
    // An allowed one is never watched.
    offender(&mut world, "bad.example", "8.8.4.1", 600);
    assert_eq!(told(&mut world, "bad.example"), None);
}

#[test]
fn the_whole_list_stands_for_all_that_was_told_before() {
    let mut world = world();
    for (domain, source) in [
        ("bad.example", "8.8.4.1"),
        ("bad.example", "2a00:1450:4001:81b::7"),
        ("worse.example", "8.8.5.1"),
        ("gone.example", "8.8.6.1"),
    ] {
        offender(&mut world, domain, source, 600);
        told(&mut world, domain);
    }
    // As the throttle tells it: the first address of a /64.
    let list = |world: &World, all: &[(&str, &str)]| {
        Input::Offenders(all.iter().map(|(d, s)| offense(world, d, s, 600)).collect())
    };
    let same = list(
        &world,
        &[
            ("bad.example", "8.8.4.1"),
            ("bad.example", "2a00:1450:4001:81b::"),
            ("worse.example", "8.8.5.1"),
            ("gone.example", "8.8.6.1"),
        ],
    );
    world.put(same);
    assert!(!world.outputs.iter().any(|o| matches!(o, Output::Apply(_))), "{:?}", world.outputs);
    let other = list(
        &world,
        &[
            ("bad.example", "2a00:1450:4001:81b::"),
            ("worse.example", "8.8.5.1"),
            ("new.example", "8.8.7.1"),
            ("good.example", "8.8.8.1"),
        ],
    );
    world.put(other);
    let outputs = std::mem::take(&mut world.outputs);
    for (domain, expected) in [
        ("bad.example", Some(vec![net("2a00:1450:4001:81b::/64")])),
        ("worse.example", None),
        ("gone.example", Some(vec![])),
        ("new.example", Some(vec![net("8.8.7.1/32")])),
        // It has an entry.
        ("good.example", None),
    ] {
        world.outputs.clone_from(&outputs);
        assert_eq!(told(&mut world, domain), expected, "{domain}");
    }
    world.put(Input::Offenders(vec![]));
    assert!(world.blocks.watch_report().is_empty());
}
