//! What failed is known of the partner it failed for, and of nobody else at the same address.

use super::{
    targets::{SECOND, answer_one, answer_probes, asking, outward, two_hosts},
    *,
};

/// evil.example is allowed too, and its DNS names fabrikam's first edge as its own.
fn evil_names_fabrikams_edge(world: &mut World) {
    let allowed = [allow("fabrikam.example"), allow("evil.example")];
    world.set_policy(CONTOSO, policy("contoso.example", &allowed, &[]));
    let hosts = vec![host("sip.evil.example", &["203.0.113.31"])];
    world.dns.insert(Question::Federation(domain("evil.example")), Ok(hosts));
}

fn to_evil(world: &mut World, alice: ConnectionId) {
    let request = Req::new("MESSAGE", "contoso.example", "evil.example").branch("evil");
    world.say(CONTOSO, alice, &request.text());
    world.expect(CONTOSO, alice, "SIP/2.0 504 ");
}

#[test]
fn another_domains_dns_makes_no_target_dead() {
    let first = address("203.0.113.31:5061");
    let broken = [
        None,
        Some(Listener::Fails(ConnectError::Tls("no cipher suite in common".into()))),
        Some(Listener::Fails(ConnectError::Tcp("refused".into()))),
    ];
    for (fault, pooled) in broken.iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        let mut world = World::new();
        let alice = two_hosts(&mut world);
        evil_names_fabrikams_edge(&mut world);
        let whole = world.listeners[&first].clone();
        let before = pooled.then(|| {
            world.say(CONTOSO, alice, &outward("0"));
            let at = answer_one(&mut world, "200 OK", "");
            world.expect(CONTOSO, alice, "SIP/2.0 200 ");
            at
        });
        if let Some(fault) = fault {
            world.listeners.insert(first, fault.clone());
        }
        to_evil(&mut world, alice);
        world.listeners.insert(first, whole);
        let edge = &world.edges[CONTOSO].proxy;
        let dead = |name: &str| {
            let status = edge.partner_targets(world.now, &domain(name)).unwrap();
            status.targets.unwrap().first().is_some_and(|target| target.failure.is_some())
        };
        assert!(dead("evil.example"), "it is evil's that failed");
        assert!(!dead("fabrikam.example"), "and nobody else's");
        world.edges[CONTOSO].connects.clear();
        world.say(CONTOSO, alice, &outward("1"));
        let at = world.one(CONTOSO).0;
        match before {
            Some(before) => assert_eq!(at, before, "the connection that is there"),
            None => assert_eq!(world.edges[CONTOSO].connects, [first]),
        }
    }
}

#[test]
fn each_is_asked_for_its_own_whoever_else_is_at_the_address() {
    let mut world = asking();
    world.configure(CONTOSO, |config| config.next_hops.clear());
    let alice = two_hosts(&mut world);
    evil_names_fabrikams_edge(&mut world);
    let first = address("203.0.113.31:5061");
    let whole = world.listeners[&first].clone();
    world.listeners.insert(first, Listener::Fails(ConnectError::Tcp("refused".into())));
    to_evil(&mut world, alice);
    world.say(CONTOSO, alice, &outward("1"));
    answer_one(&mut world, "200 OK", "");
    world.mail(CONTOSO);
    world.listeners.insert(first, whole);
    for _ in 0..60 {
        world.pass(SECOND);
        answer_probes(&mut world, "200 OK");
    }
    let edge = &world.edges[CONTOSO].proxy;
    let dead = |name: &str| {
        let status = edge.partner_targets(world.now, &domain(name)).unwrap();
        status.targets.unwrap()[0].failure.map(|failure| failure.cause.name())
    };
    assert_eq!(dead("fabrikam.example"), None, "it answered");
    assert_eq!(dead("evil.example"), Some("identity-not-proved"), "and evil proved nothing there");
}
