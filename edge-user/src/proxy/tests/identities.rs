//! Several identities of ours: a domain's requests go out as the identity that names it.

use std::sync::Arc;

use super::*;
use crate::{config::Transport, federation::Policy};

#[test]
fn a_failed_handshake_is_told_with_its_fault() {
    let (mut world, inside) = two();
    let at = world.edges[FABRIKAM].address;
    let error = ConnectError::Tls("no-common-cipher-suite: no cipher suite in common".to_owned());
    world.listeners.insert(at, Listener::Fails(error));
    say(&mut world, inside, "contoso.example", "a");
    let mail = world.mail(CONTOSO);
    let (to, text) = mail.last().unwrap();
    assert!(*to == inside && text.starts_with("SIP/2.0 504 "), "{mail:?}");
    assert!(text.contains("tls-failed"), "{text}");
    let told = world.edges[CONTOSO].events.iter().any(|event| match event {
        Event::Refused { reason: Refusal::TlsFailed, remote, domain: Some(domain), detail } => {
            *remote == at
                && domain.as_str() == "fabrikam.example"
                && detail.contains("no-common-cipher-suite")
        }
        _ => false,
    });
    assert!(told, "{:?}", world.edges[CONTOSO].events);
}

/// contoso.example is the first identity's, second.example another's.
fn two() -> (World, ConnectionId) {
    let mut world = World::new();
    world.configure(CONTOSO, |config| {
        config.identities = vec![vec![domain("sip.second.example"), domain("second.example")]];
    });
    let ours = [domain("contoso.example"), domain("second.example")];
    let allowed = federation(&[allow("fabrikam.example")], &[]);
    world.set_policy(CONTOSO, Arc::new(Policy::new(&ours, &allowed)));
    let inside = world.inside(CONTOSO, Transport::Tcp, "10.0.0.31:5000");
    (world, inside)
}

fn say(world: &mut World, inside: ConnectionId, from: &str, branch: &str) {
    let message = Req::new("MESSAGE", from, "fabrikam.example").branch(branch);
    world.say(CONTOSO, inside, &message.text());
}

/// Our identities on connections to partners, the oldest first.
fn identities(world: &World) -> Vec<u8> {
    let proxy = &world.edges[CONTOSO].proxy;
    let partners = proxy.connections.iter().filter(|(_, c)| c.peer.side == Side::Partner);
    let mut all: Vec<_> = partners.map(|(id, c)| (id, c.peer.own)).collect();
    all.sort_unstable();
    all.into_iter().map(|(_, own)| own).collect()
}

#[test]
fn a_request_goes_out_as_the_identity_of_its_from() {
    let (mut world, inside) = two();
    for (from, branch, expected) in [
        ("second.example", "a", &[1][..]),
        ("contoso.example", "b", &[1, 0]),
        // Each has its connection now.
        ("second.example", "c", &[1, 0]),
        ("contoso.example", "d", &[1, 0]),
    ] {
        say(&mut world, inside, from, branch);
        assert_eq!(identities(&world), expected, "{from}");
    }
}

#[test]
fn a_connection_that_the_partner_made_is_used_for_the_domain_it_asked_for() {
    for (own, from, expected) in [
        (1, "second.example", &[1][..]),
        (0, "contoso.example", &[0]),
        (0, "second.example", &[0, 1]),
        (1, "contoso.example", &[1, 0]),
    ] {
        let (mut world, inside) = two();
        let partner = world.partner_asking(CONTOSO, "198.51.100.20:40000", own);
        // It speaks first: then it has proved its domain.
        let hello = Req::new("MESSAGE", "fabrikam.example", from).branch("hello");
        world.say(CONTOSO, partner, &hello.text());
        say(&mut world, inside, from, "a");
        assert_eq!(identities(&world), expected, "{own} {from}");
    }
}

#[test]
fn an_identity_that_is_gone_or_moved_is_not_taken_for_another() {
    let (mut world, inside) = two();
    say(&mut world, inside, "second.example", "a");
    assert_eq!(identities(&world), [1]);
    let third = || vec![domain("third.example")];
    world.reconfigure(CONTOSO, |config| config.identities.insert(0, third()));
    assert_eq!(identities(&world), [2]);
    say(&mut world, inside, "second.example", "b");
    assert_eq!(identities(&world), [2], "the same connection");
    world.reconfigure(CONTOSO, |config| config.identities = vec![third()]);
    say(&mut world, inside, "second.example", "c");
    assert_eq!(identities(&world), [u8::MAX, 0], "the first speaks for what no other names");
}

#[test]
fn the_first_identity_speaks_for_the_domain_of_its_own_name() {
    let (world, _) = two();
    let mut config = world.edges[CONTOSO].proxy.config.clone();
    config.identities.push(vec![domain("sip.third.example"), domain("sip.contoso.example")]);
    for (name, own) in [
        ("contoso.example", 0),
        ("second.example", 1),
        ("third.example", 2),
        ("other.example", 0),
        ("sub.third.example", 0),
    ] {
        assert_eq!(config.own_for(&domain(name)), own, "{name}");
    }
}
