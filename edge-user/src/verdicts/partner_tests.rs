//! The partners' live set, in virtual time.

use std::time::Duration;

use ipnet::IpNet;

use super::{
    partners::{MAX_PREFIXES, PACE},
    tests::{World, allow, ask, ip, name, seconds},
    *,
};
use crate::config::AllowedDomain;

impl World {
    /// What the firewall was told of partners since the last look.
    fn partners(&mut self) -> Vec<Vec<String>> {
        let told = self.outputs.iter().filter_map(|output| match output {
            Output::Apply(Intent::SetPartners(set)) => Some(texts(set)),
            _ => None,
        });
        let told = told.collect();
        self.outputs.clear();
        told
    }

    /// A world in which a rule asks for partners.
    fn for_partners(allowed: &[&str]) -> Self {
        let mut world = World::new(&[], allowed);
        world.set(|setting| setting.partners = true);
        world
    }
}

fn texts(set: &[IpNet]) -> Vec<String> {
    set.iter().map(ToString::to_string).collect()
}

#[test]
fn partners_are_where_dns_and_their_entries_say() {
    let mut world = World::new(&["bad.example"], &["a.example"]);
    world.set(|setting| {
        setting.partners = true;
        setting.federation.allowed_domains = vec![
            AllowedDomain {
                from_addresses: vec!["198.51.100.32/28".parse().unwrap()],
                ..allow("a.example")
            },
            AllowedDomain { proxy_fqdn: Some(name("sip.b.example")), ..allow("b.example") },
        ];
    });
    assert_eq!(world.partners(), [[""; 0]; 0], "nothing before DNS had its moment");
    world.answer(ask("a.example"), &["9.9.9.1", "2620:fe::1"], 300);
    world.answer(Question::Host(name("sip.b.example"), 5061), &["9.9.9.2"], 300);
    world.answer(ask("bad.example"), &["9.9.9.66"], 300);
    world.pass(seconds(5));
    let all = ["9.9.9.1/32", "9.9.9.2/32", "198.51.100.32/28", "2620:fe::1/128"];
    assert_eq!(world.partners().last().unwrap(), &all);
    // The same again is not told again; one that is no longer allowed goes at once.
    world.set(|_| {});
    assert_eq!(world.partners(), [[""; 0]; 0]);
    world.set(|setting| setting.federation.allowed_domains.truncate(1));
    assert_eq!(world.partners(), [["9.9.9.1/32", "198.51.100.32/28", "2620:fe::1/128"]]);
    world.set(|setting| setting.federation.enabled = false);
    assert_eq!(world.partners(), [[""; 0]], "the switch is off: nobody");
}

#[test]
fn the_firewall_is_told_only_when_a_rule_asks_for_partners() {
    let mut world = World::new(&[], &["a.example"]);
    world.answer(ask("a.example"), &["9.9.9.1"], 300);
    world.pass(seconds(60));
    let persisted = world.outputs.iter().any(|o| matches!(o, Output::Persist { .. }));
    assert!(!persisted, "nor is the disk");
    assert_eq!(world.partners(), [[""; 0]; 0]);
    world.set(|setting| setting.partners = true);
    assert_eq!(world.partners(), [["9.9.9.1/32"]]);
}

#[test]
fn what_may_not_be_learned_from_outside_is_no_partner() {
    let mut world = World::for_partners(&["a.example"]);
    world.set(|setting| {
        setting.own.push(ip("9.9.9.9"));
        setting.federation.allow_addresses = vec!["10.9.0.0/16".parse().unwrap()];
    });
    let bad = [
        "127.0.0.1",
        "10.0.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "169.254.1.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "9.9.9.9",
        "::ffff:9.9.9.9",
        "2002:909:909::1",
    ];
    let good = ["9.9.9.1", "10.9.1.1"];
    world.answer(ask("a.example"), &[&bad[..], &good[..]].concat(), 300);
    world.pass(seconds(5));
    assert_eq!(world.partners().last().unwrap(), &["9.9.9.1/32", "10.9.1.1/32"]);
}

#[test]
fn an_address_that_dns_no_longer_names_stays_for_a_while() {
    let mut world = World::for_partners(&["a.example"]);
    world.answer(ask("a.example"), &["9.9.9.1", "9.9.9.2"], 60);
    world.partners();
    world.until_asked(&ask("a.example"));
    world.answer(ask("a.example"), &["9.9.9.2", "9.9.9.3"], 1_000_000);
    assert_eq!(world.partners(), [["9.9.9.1/32", "9.9.9.2/32", "9.9.9.3/32"]]);
    let left = world.now + LINGER;
    while world.now < left + seconds(2) {
        world.pass(seconds(1));
        if world.now < left {
            assert_eq!(world.partners(), [[""; 0]; 0], "{:?} too early", left - world.now);
        }
        let asked = world.outputs.iter().any(|o| matches!(o, Output::Query { .. }));
        assert!(!asked || world.now >= left - seconds(600));
    }
    assert_eq!(world.partners(), [["9.9.9.2/32", "9.9.9.3/32"]]);
}

#[test]
fn failing_dns_takes_nothing_away() {
    let mut world = World::for_partners(&["a.example"]);
    world.put(Input::LastGood { domain: name("a.example"), addresses: vec![ip("9.9.9.1")] });
    for _ in 0..5 {
        world.fail(ask("a.example"), ResolveError::Unavailable);
        world.pass(seconds(900));
    }
    assert_eq!(world.partners(), [["9.9.9.1/32"]], "the last good set, once");
    world.pass(LINGER * 30);
    assert_eq!(world.partners(), [[""; 0]; 0]);
}

#[test]
fn a_start_without_dns_has_the_last_good_set_and_what_the_file_names() {
    let mut world = World::for_partners(&["a.example", "b.example"]);
    world.set(|setting| {
        setting.federation.allowed_domains[1].from_addresses = vec!["10.0.0.0/30".parse().unwrap()];
        setting.own.push(ip("9.9.9.9"));
    });
    let (a, gone) = (name("a.example"), name("gone.example"));
    let (one, other) = ([ip("9.9.9.1"), ip("9.9.9.9")], [ip("9.9.9.7")]);
    let last_good = [(&a, &one[..]), (&gone, &other[..])];
    let known = known_partners(&world.setting, last_good.into_iter());
    assert_eq!(texts(&known), ["9.9.9.1/32", "10.0.0.0/30"]);
}

#[test]
fn good_answers_are_kept_and_only_when_they_are_others() {
    let mut world = World::for_partners(&["a.example"]);
    let kept = |world: &mut World| {
        let count = world.outputs.iter().filter(|o| matches!(o, Output::Persist { .. })).count();
        world.outputs.clear();
        count
    };
    world.answer(ask("a.example"), &["9.9.9.1", "9.9.9.2"], 60);
    assert_eq!(kept(&mut world), 1);
    world.until_asked(&ask("a.example"));
    world.answer(ask("a.example"), &["9.9.9.2", "9.9.9.1"], 60);
    assert_eq!(kept(&mut world), 0, "another order is the same");
    world.until_asked(&ask("a.example"));
    world.answer(ask("a.example"), &["9.9.9.3"], 60);
    assert_eq!(kept(&mut world), 1);
}

#[test]
fn a_partner_has_at_most_so_many_addresses() {
    let mut world = World::for_partners(&["a.example"]);
    let many = |from: u32| -> Vec<String> {
        (from..from + 100).map(|n| format!("9.9.{}.{}", n / 200, n % 200)).collect()
    };
    for from in [0, 1000, 2000] {
        let many = many(from);
        world.answer(ask("a.example"), &many.iter().map(String::as_str).collect::<Vec<_>>(), 60);
        world.until_asked(&ask("a.example"));
        world.answer(ask("a.example"), &["9.8.8.8"], 60);
        world.until_asked(&ask("a.example"));
        world.set(|_| {});
        world.pass(PACE);
    }
    assert!(world.partners().iter().all(|told| told.len() <= MAX_ADDRESSES));
    // And all partners together at most so many as the table has room for.
    let entry = |n: u32| AllowedDomain {
        from_addresses: (0..64)
            .map(|m| IpNet::from(IpAddr::from((n * 64 + m).to_be_bytes())))
            .collect(),
        ..allow(&format!("p{n}.example"))
    };
    world.set(|setting| setting.federation.allowed_domains = (0..129).map(entry).collect());
    world.pass(seconds(5));
    let left_out = world.outputs.iter().any(|o| matches!(o, Output::PartnersLeftOut(64)));
    assert!(left_out, "said");
    assert_eq!(world.partners().last().unwrap().len(), MAX_PREFIXES);
}

#[test]
fn many_changes_are_told_together() {
    let domains: Vec<String> = (0..20).map(|n| format!("p{n}.example")).collect();
    let mut world = World::for_partners(&domains.iter().map(String::as_str).collect::<Vec<_>>());
    world.pass(START_WAIT + seconds(1));
    let before = world.partners().len();
    for (n, domain) in domains.iter().enumerate() {
        world.answer(ask(domain), &[&format!("9.9.9.{}", n + 1)], 3600);
        world.pass(Duration::from_millis(10));
    }
    world.pass(PACE);
    let told = world.partners();
    assert!(before <= 1 && told.len() <= 2, "{before} {told:?}");
    assert_eq!(told.last().unwrap().len(), 20);
}
