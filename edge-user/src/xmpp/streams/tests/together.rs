//! Two ends that mean well.

use std::time::Duration;

use super::world::{World, domain, pair, partner, policy, settings};
use crate::xmpp::{
    io::{XmppRefusal, XmppSide},
    ns,
    settings::{Negotiation, XmppLimits, XmppPartner},
    streams::{Certificate, Role},
    xml::Element,
};

fn two(certificate: Certificate) -> (World, usize, usize) {
    let mut world = World::new();
    let a =
        world.add(certificate, settings(&["a.example", "aa.example"], vec![partner("b.example")]));
    let mut of_a = partner("a.example");
    of_a.additional = vec![domain("aa.example")];
    let b = world.add(certificate, settings(&["b.example"], vec![of_a]));
    (world, a, b)
}

#[test]
fn stanzas_go_both_ways_on_one_connection_when_certificates_are_good() {
    let (mut world, a, b) = two(Certificate::Valid);
    for n in 0..3 {
        world.send(a, "u@a.example", "v@b.example", &format!("{n}"));
    }
    world.run();
    world.send(b, "v@b.example", "u@a.example", "back");
    world.run();
    assert_eq!(world.ends[b].bodies(), ["0", "1", "2"]);
    assert_eq!(world.ends[a].bodies(), ["back"]);
    assert_eq!((world.dials, world.lookups), (1, 1));
    let [status] = &world.ends[a].streams.status(world.now)[..] else { panic!("one stream") };
    assert_eq!(status.role, Role::Initiating);
    assert!(status.bidi && status.acknowledged);
    assert_eq!(status.tls, Some(("TLSv1.3", "TLS13_AES_256_GCM_SHA384")));
    assert_eq!((status.traffic.stanzas_out, status.traffic.stanzas_in), (3, 1));
    assert_eq!(status.proved[0].0, pair("a.example", "b.example"));
    assert_eq!(world.ends[b].proved, [(pair("b.example", "a.example"), "sasl-external")]);
}

#[test]
fn dialback_takes_a_connection_back_and_both_are_used() {
    let (mut world, a, b) = two(Certificate::Invalid);
    world.send(a, "u@a.example", "v@b.example", "there");
    world.run();
    world.send(b, "v@b.example", "u@a.example", "back");
    world.run();
    assert_eq!(world.ends[b].bodies(), ["there"]);
    assert_eq!(world.ends[a].bodies(), ["back"]);
    assert_eq!(world.dials, 2, "one each way, which also verify for one another");
    assert!(world.ends[b].proved.contains(&(pair("b.example", "a.example"), "dialback")));
    // The operator sees why certificates did not do.
    let status = world.ends[a].streams.status(world.now);
    assert!(status[0].certificate_fault.as_ref().unwrap().contains("unknown issuer"));
}

#[test]
fn a_second_local_domain_shares_the_stream_by_dialback() {
    let (mut world, a, b) = two(Certificate::Invalid);
    world.send(a, "u@a.example", "v@b.example", "one");
    world.run();
    let dials = world.dials;
    world.send(a, "u@aa.example", "v@b.example", "two");
    world.run();
    assert_eq!(world.ends[b].bodies(), ["one", "two"]);
    assert_eq!(world.ends[b].delivered[1].0, pair("b.example", "aa.example"));
    // None from a: b asks the server of the second domain.
    assert_eq!(world.dials - dials, 1);
}

#[test]
fn servers_are_tried_in_the_order_of_dns() {
    let (mut world, a, b) = two(Certificate::Valid);
    let real = world.ends[b].address;
    let dead = "192.0.2.99:5269".parse().unwrap();
    world.dns.insert(domain("b.example"), vec![(dead, true), (dead, false), (real, true)]);
    world.send(a, "u@a.example", "v@b.example", "x");
    world.run();
    assert_eq!(world.dials, 3);
    assert_eq!(world.ends[b].bodies(), ["x"]);
    assert!(world.ends[a].streams.status(world.now)[0].direct_tls);
}

#[test]
fn a_failure_is_told_shown_and_not_repeated_at_once() {
    let (mut world, a, _) = two(Certificate::Valid);
    world.dns.remove(&domain("b.example"));
    let mut gaps = Vec::new();
    for n in 0..4 {
        world.send(a, "u@a.example", "v@b.example", "x");
        world.run();
        let (_, _, condition, text) = world.ends[a].undelivered.last().unwrap().clone();
        assert_eq!(condition, "remote-server-not-found", "{text}");
        let [backoff] = &world.ends[a].streams.backoffs(world.now)[..] else { panic!("{n}") };
        assert!(backoff.text.contains("b.example"), "{}", backoff.text);
        gaps.push(backoff.wait.as_secs());
        // Told at once meanwhile, without a look-up.
        let lookups = world.lookups;
        world.send(a, "u@a.example", "v@b.example", "x");
        world.run();
        assert_eq!(world.lookups, lookups);
        assert!(world.ends[a].undelivered.last().unwrap().3.contains("tried again in"));
        world.pass(backoff.wait);
    }
    assert_eq!(gaps, [5, 10, 20, 40]);
    // An administrator's reset.
    world.send(a, "u@a.example", "v@b.example", "x");
    world.run();
    let mut out = Vec::new();
    let ended = world.ends[a].streams.close_domain(world.now, &domain("b.example"), &mut out);
    assert_eq!(ended, (0, 1));
    assert!(world.ends[a].streams.backoffs(world.now).is_empty());
}

#[test]
fn what_waits_is_bounded_and_told_in_the_end() {
    let (mut world, a, b) = two(Certificate::Valid);
    let body = "x".repeat(20_000);
    for _ in 0..5 {
        world.send(a, "u@a.example", "v@b.example", &body);
    }
    let told: Vec<_> = world.ends[a].undelivered.iter().map(|u| u.2).collect();
    assert_eq!(told, ["resource-constraint", "resource-constraint"]);
    world.run();
    assert_eq!(world.ends[b].delivered.len(), 3);
}

#[test]
fn silence_is_asked_about_and_idleness_ends() {
    let (mut world, a, b) = two(Certificate::Valid);
    world.send(a, "u@a.example", "v@b.example", "x");
    world.pass(Duration::from_secs(550));
    assert_eq!(world.ends[a].streams.status(world.now).len(), 1);
    world.pass(Duration::from_secs(100));
    assert!(world.ends[a].streams.status(world.now).is_empty(), "idle");
    assert!(world.ends[b].streams.status(world.now).is_empty(), "both");
    assert!(world.ends[a].undelivered.is_empty(), "in good order");
    assert!(world.ends[a].refused.is_empty() && world.ends[b].refused.is_empty());
    world.send(a, "u@a.example", "v@b.example", "y");
    world.run();
    assert_eq!(world.ends[b].bodies(), ["x", "y"]);
}

#[test]
fn pings_keep_streams_without_acks_alive() {
    let (mut world, a, b) = two(Certificate::Invalid);
    let limits = XmppLimits { idle: Duration::from_secs(3600), ..XmppLimits::default() };
    for (end, own, other) in [(a, "a.example", "b.example"), (b, "b.example", "a.example")] {
        let mut settings = settings(&[own], vec![partner(other)]);
        settings.limits = limits.clone();
        world.set_policy(end, policy(settings, &[]));
    }
    world.send(a, "u@a.example", "v@b.example", "x");
    world.send(b, "v@b.example", "u@a.example", "y");
    world.pass(Duration::from_secs(2000));
    assert_eq!(world.ends[a].streams.status(world.now).len(), 2);
    assert!(world.ends[a].streams.status(world.now).iter().all(|s| s.silent.as_secs() < 400));
    assert_eq!(world.ends[a].bodies(), ["y"], "answers to pings are nobody's");
    // A ping of the other end is answered here.
    let ping = Element::new(ns::SERVER, "iq")
        .with("type", "get")
        .with("id", "p1")
        .with("from", "v@b.example")
        .with("to", "a.example")
        .with_child(Element::new(ns::PING, "ping"));
    world.give(
        b,
        crate::xmpp::io::XmppInput::Send {
            pair: pair("b.example", "a.example"),
            side: XmppSide::Partner,
            stanza: ping,
        },
    );
    world.run();
    let (_, pong) = world.ends[b].delivered.last().unwrap();
    assert_eq!((pong.attribute("type"), pong.attribute("id")), (Some("result"), Some("p1")));
}

#[test]
fn a_dead_end_is_noticed_and_what_it_did_not_acknowledge_is_told() {
    let (mut world, a, b) = two(Certificate::Valid);
    world.send(a, "u@a.example", "v@b.example", "x");
    world.run();
    // b's machine is gone without a word.
    world.ends[b].address = "192.0.2.77:5269".parse().unwrap();
    let mut out = Vec::new();
    let stanza = super::world::message("u@a.example", "v@b.example", "lost");
    let input = crate::xmpp::io::XmppInput::Send {
        pair: pair("a.example", "b.example"),
        side: XmppSide::Partner,
        stanza,
    };
    let now = world.now;
    world.ends[a].streams.handle(now, input, &mut out);
    let later = now + Duration::from_secs(61);
    let mut out = Vec::new();
    world.ends[a].streams.on_timeout(later, &mut out);
    world.take(a, out);
    let [(_, _, condition, _)] = &world.ends[a].undelivered[..] else {
        panic!("{:?}", world.ends[a].undelivered)
    };
    assert_eq!(*condition, "remote-server-timeout");
    assert!(world.ends[a].refused.iter().any(|(reason, _)| *reason == XmppRefusal::Slow));
}

#[test]
fn a_partner_that_policy_takes_away_is_gone_at_once() {
    for (blocked, partners) in [(vec!["b.example"], vec![partner("b.example")]), (vec![], vec![])] {
        let (mut world, a, b) = two(Certificate::Valid);
        world.send(a, "u@a.example", "v@b.example", "x");
        world.run();
        world.set_policy(a, policy(settings(&["a.example"], partners), &blocked));
        assert!(world.ends[a].streams.status(world.now).is_empty());
        world.send(a, "u@a.example", "v@b.example", "y");
        assert_eq!(world.ends[a].undelivered.last().unwrap().2, "forbidden");
        world.send(b, "v@b.example", "u@a.example", "z");
        world.pass(Duration::from_secs(100));
        assert!(world.ends[a].delivered.is_empty());
        assert_eq!(world.ends[b].undelivered.len(), 1);
    }
}

#[test]
fn an_entry_that_demands_more_ends_streams_that_have_less() {
    let (mut world, a, b) = two(Certificate::Invalid);
    world.send(a, "u@a.example", "v@b.example", "x");
    world.run();
    let strict = XmppPartner {
        tls: Negotiation::Required,
        sasl: Negotiation::Required,
        ..partner("a.example")
    };
    world.set_policy(b, policy(settings(&["b.example"], vec![strict]), &[]));
    assert!(world.ends[b].streams.status(world.now).is_empty());
}

/// The edge between a partner and an inside server. To the inside server the edge is the partner's
/// server: by certificate, or, as the edge has none for that domain, by dialback.
#[test]
fn partners_and_inside_servers_meet_here_and_nobody_else() {
    for trusted in [true, false] {
        let mut world = World::new();
        let good = Certificate::Valid;
        let out = world.add(good, settings(&["b.example"], vec![partner("in.example")]));
        let further = vec![partner("b.example"), partner("c.example")];
        let inside = world.add(good, settings(&["in.example"], further));
        let mut ours = settings(&["in.example"], vec![partner("b.example")]);
        ours.inside = vec![(vec![domain("in.example")], (domain("host.in.example"), 5269))];
        let edge = world.add(good, ours);
        let (edge_address, inside_address) = (world.ends[edge].address, world.ends[inside].address);
        // Outside sees the edge; so does the inside server, for every partner.
        world.dns.insert(domain("in.example"), vec![(edge_address, false)]);
        world.dns.insert(domain("host.in.example"), vec![(inside_address, false)]);
        for name in ["b.example", "c.example"] {
            world.dns_of.insert((inside, domain(name)), edge_address);
        }
        world.ends[edge].side_of.insert(inside_address, XmppSide::Inside);
        if trusted {
            world.ends[edge].certified.push("b.example".to_owned());
        }
        world.send(out, "v@b.example", "u@in.example", "to the inside");
        world.run();
        assert_eq!(world.ends[inside].bodies(), ["to the inside"], "trusted {trusted}");
        world.send(inside, "u@in.example", "v@b.example", "to the outside");
        world.run();
        assert_eq!(world.ends[out].bodies(), ["to the outside"], "trusted {trusted}");
        assert!(world.ends[edge].delivered.is_empty(), "nothing of it is the gateway's");
        // A domain that is no partner's is not carried outside.
        world.send(inside, "u@in.example", "v@c.example", "no");
        world.pass(Duration::from_secs(70));
        assert_eq!(world.ends[inside].undelivered.len(), 1);
    }
}

/// What cannot be handed to the outside comes back to the inside server as an error.
#[test]
fn an_inside_server_is_told_what_was_not_delivered() {
    let mut world = World::new();
    let inside =
        world.add(Certificate::Valid, settings(&["in.example"], vec![partner("b.example")]));
    let mut ours = settings(&["in.example"], vec![partner("b.example")]);
    ours.inside = vec![(vec![domain("in.example")], (domain("host.in.example"), 5269))];
    let edge = world.add(Certificate::Valid, ours);
    let (edge_address, inside_address) = (world.ends[edge].address, world.ends[inside].address);
    world.dns.insert(domain("host.in.example"), vec![(inside_address, false)]);
    world.dns.insert(domain("b.example"), vec![(edge_address, false)]);
    world.ends[edge].side_of.insert(inside_address, XmppSide::Inside);
    world.ends[edge].certified.push("b.example".to_owned());
    world.send(inside, "u@in.example", "v@b.example", "x");
    // The edge's own look-up finds nobody.
    for _ in 0..3 {
        world.step();
    }
    world.dns.remove(&domain("b.example"));
    world.run();
    let (_, error) = world.ends[inside].delivered.last().expect("an error comes back");
    assert_eq!(error.attribute("type"), Some("error"));
    assert_eq!(error.attribute("from"), Some("v@b.example"));
    let condition = error.child(ns::SERVER, "error").unwrap().children().next().unwrap();
    assert_eq!(condition.name(), "remote-server-not-found");
}
