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
    assert_eq!(world.edges[CONTOSO].questions.len(), 128);
    assert_eq!(world.refused(CONTOSO, Refusal::Overload), 1000 - 128);
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
