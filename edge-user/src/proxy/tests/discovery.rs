//! Discovery brings names from outside: what they can make us hold and ask is bounded.

use super::*;
use crate::{
    config::{Federation, HostingProvider, PeerOptions, Transport},
    federation::Policy,
};

/// Everybody may be discovered, and one provider may carry whatever names it in DNS.
fn world() -> World {
    let lists = Federation {
        enabled: true,
        discovery: true,
        hosting_providers: vec![HostingProvider {
            name: "cloud".into(),
            proxy_fqdn: domain("cloud.example"),
            port: 5061,
            enabled: true,
            shared_address_space: false,
            domains: vec![],
            options: PeerOptions::default(),
        }],
        ..Federation::default()
    };
    let mut world = World::new();
    let policy = Policy::new(&[domain("contoso.example")], &lists);
    world.set_policy(CONTOSO, std::sync::Arc::new(policy));
    world
}

#[test]
fn open_questions_for_names_that_one_sender_invents_are_few_and_leave_room_for_others() {
    let mut world = world();
    // DNS never answers.
    let cloud = world.partner(CONTOSO, "203.0.113.40:5000", &["cloud.example"]);
    for number in 0..1000 {
        let from = format!("d{number}.example");
        let request = Req::new("MESSAGE", &from, "contoso.example").branch(&from);
        world.say(CONTOSO, cloud, &request.text());
    }
    assert_eq!(world.edges[CONTOSO].questions.len(), 32);
    assert_eq!(world.refused(CONTOSO, Refusal::Overload), 1000 - 32);
    // Another partner is asked about, and proved, at once.
    let edge = vec![host("sip.honest.example", &["203.0.113.41"])];
    world.dns.insert(Question::Federation(domain("honest.example")), Ok(edge));
    let honest = world.partner(CONTOSO, "203.0.113.41:5000", &["sip.honest.example"]);
    world.mail(CONTOSO);
    world.say(CONTOSO, honest, &Req::new("MESSAGE", "honest.example", "contoso.example").text());
    assert_ne!(world.one(CONTOSO).0, honest);
    // When the questions have ended there is room again.
    world.pass(std::time::Duration::from_secs(60));
    assert_eq!(world.live(), 0);
}

#[test]
fn answers_for_invented_names_are_bounded() {
    let mut world = world();
    let cloud = world.partner(CONTOSO, "203.0.113.40:5000", &["cloud.example"]);
    for number in 0..20_000 {
        let from = format!("d{number}.example");
        world.dns.insert(Question::Federation(domain(&from)), Err(ResolveError::NotFound));
        let request = Req::new("MESSAGE", &from, "contoso.example").branch(&from);
        world.say(CONTOSO, cloud, &request.text());
    }
    assert_eq!(world.edges[CONTOSO].questions.len(), 20_000);
    assert_eq!(world.refused(CONTOSO, Refusal::NotCarried), 20_000);
    let kept = world.edges[CONTOSO].proxy.lookups.len();
    assert!(kept <= 8192 + 1024, "{kept}");
}

#[test]
fn names_that_users_of_ours_invent_are_bounded_too() {
    let mut world = world();
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    for number in 0..2000 {
        let to = format!("d{number}.example");
        let request = Req::new("MESSAGE", "contoso.example", &to).branch(&to);
        world.say(CONTOSO, alice, &request.text());
    }
    assert_eq!(world.edges[CONTOSO].questions.len(), 1024);
}

#[test]
fn a_discovered_domain_is_asked_about_only_when_a_name_of_the_certificate_lies_in_it() {
    let mut world = world();
    let at = world.partner(CONTOSO, "203.0.113.40:5000", &["sip.own.example"]);
    for number in 0..100 {
        let from = format!("d{number}.example");
        let request = Req::new("MESSAGE", &from, "contoso.example").branch(&from);
        world.say(CONTOSO, at, &request.text());
    }
    assert_eq!(world.edges[CONTOSO].questions, []);
    assert_eq!(world.refused(CONTOSO, Refusal::IdentityNotProved), 100);
}

/// Whoever is discovered may have as many addresses as it likes, and proves with each who it is.
#[test]
fn connections_of_discovered_partners_leave_places_for_others() {
    let mut world = world();
    world.edges[CONTOSO].proxy.config.bounds.connections = 20;
    let come = |world: &mut World, name: &str, number: usize| {
        world.pass(std::time::Duration::from_millis(10));
        let at = world.partner(CONTOSO, &format!("203.0.113.{number}:5000"), &[name]);
        let branch = format!("{name}{number}");
        let request = Req::new("MESSAGE", name, "contoso.example").branch(&branch);
        world.say(CONTOSO, at, &request.text());
        at
    };
    let honest = come(&mut world, "honest.example", 1);
    let evil: Vec<_> = (2..=40).map(|number| come(&mut world, "evil.example", number)).collect();
    let open = |world: &World, at| world.edges[CONTOSO].proxy.connections.get(at).is_some();
    let left: Vec<bool> = evil.iter().map(|at| open(&world, *at)).collect();
    assert_eq!(left.iter().filter(|open| **open).count(), 15, "with the honest one four fifths");
    assert!(left[39 - 15..].iter().all(|open| *open), "the oldest went: {left:?}");
    assert!(open(&world, honest), "who holds less stays, unused as it is");
    // Another one takes a place of who holds most.
    let other = come(&mut world, "other.example", 50);
    assert!(open(&world, other) && open(&world, honest));
    assert_eq!(evil.iter().filter(|at| open(&world, **at)).count(), 14);
    // More requests over the same connections cost no further ones.
    for number in 0..5 {
        let branch = format!("more{number}");
        let request = Req::new("MESSAGE", "evil.example", "contoso.example").branch(&branch);
        world.say(CONTOSO, evil[38], &request.text());
    }
    assert_eq!(evil.iter().filter(|at| open(&world, **at)).count(), 14);
}

#[test]
fn a_discovered_partner_is_slowed_watched_and_listed_an_allowed_one_is_not() {
    let allowed = Federation {
        allowed_domains: vec![allow("p.example")],
        ..Federation { enabled: true, ..Federation::default() }
    };
    let discovered = Federation { enabled: true, discovery: true, ..Federation::default() };
    for (lists, passing) in [(discovered, 20), (allowed, 1100)] {
        let mut world = World::new();
        let policy = Policy::new(&[domain("contoso.example")], &lists);
        world.set_policy(CONTOSO, std::sync::Arc::new(policy));
        let at = world.partner(CONTOSO, "203.0.113.40:5000", &["p.example"]);
        let say = |world: &mut World, user: &str| {
            let mut request = Req::new("MESSAGE", "p.example", "contoso.example").branch(user);
            request.uri = format!("sip:{user}@contoso.example");
            world.say(CONTOSO, at, &request.text());
            let mail = world.mail(CONTOSO);
            // A request that nobody answers gets a 100 after a while.
            let refused = |(to, got): &(_, String)| *to == at && !got.starts_with("SIP/2.0 100 ");
            mail.into_iter().find(refused).map(|(_, got)| got)
        };
        let told: Vec<_> = (0..1100).filter_map(|n| say(&mut world, &format!("u{n}"))).collect();
        assert_eq!(1100 - told.len(), passing);
        for got in told {
            assert!(got.starts_with("SIP/2.0 503 "), "{got}");
            assert!(got.contains("throttled") && !headers(&got, "Retry-After").is_empty(), "{got}");
        }
        if passing == 1100 {
            continue;
        }
        // One user each second: nobody is slowed, but the thousand and first lists it.
        for number in 0..981 {
            world.pass(std::time::Duration::from_secs(1));
            let got = say(&mut world, &format!("v{number}"));
            assert_eq!(got.is_some(), number == 980, "{number}: {got:?}");
            if let Some(got) = got {
                assert!(got.starts_with("SIP/2.0 403 ") && got.contains("watch-listed"), "{got}");
            }
        }
        let listed = |event: &Event| {
            matches!(event, Event::Watch { what: WatchChange::Listed { seconds: 600 }, .. })
        };
        assert!(world.edges[CONTOSO].events.iter().any(listed));
        // Its address is told once, and its connection is closed after the last answer.
        let offender = |event: &&Event| matches!(event, Event::Offender { source, .. } if source.to_string() == "203.0.113.40");
        assert_eq!(world.edges[CONTOSO].events.iter().filter(offender).count(), 1);
        world.pass(std::time::Duration::from_secs(1));
        assert!(world.edges[CONTOSO].proxy.connections.get(at).is_none());
        // A new certificate of the same domain changes nothing.
        let other = world.partner(CONTOSO, "203.0.113.40:6000", &["p.example", "x.p.example"]);
        let request = Req::new("MESSAGE", "p.example", "contoso.example").branch("other");
        world.say(CONTOSO, other, &request.text());
        let got = world.expect(CONTOSO, other, "SIP/2.0 403 ");
        assert!(got.contains("watch-listed"), "{got}");
        world.pass(std::time::Duration::from_secs(600));
        world.mail(CONTOSO);
        world.say(CONTOSO, other, &request.branch("later").text());
        assert_ne!(world.one(CONTOSO).0, other);
    }
}

#[test]
fn a_discovered_partner_is_slowed_within_a_dialog_too_where_a_server_is_called_by_its_address() {
    let mut call = dialogs::call(FABRIKAM);
    let requests: Vec<String> = (1..=40).map(|n| call.by_caller("INFO", n).text()).collect();
    assert!(requests[0].starts_with("INFO sip:bob@10.9.9.9:5060 "));
    let world = &mut call.world;
    let lists = Federation { enabled: true, discovery: true, ..Federation::default() };
    let policy = Policy::new(&[domain("contoso.example")], &lists);
    world.set_policy(CONTOSO, std::sync::Arc::new(policy));
    for request in requests {
        world.say(FABRIKAM, call.caller.1, &request);
    }
    let slowed = world.refused(CONTOSO, Refusal::Throttled);
    assert!((15..=25).contains(&slowed), "{slowed}");
    // No user of ours was named: the certificate's domain has written to the one it called.
    let report = world.edges[CONTOSO].proxy.watch_report(world.now, None);
    assert_eq!(report[0].evidence.distinct_users, 0, "{report:?}");
}
