//! XMPP servers: a blocked domain's are blocked too, a partner's are protected.

use std::sync::Arc;

use super::{tests::*, *};
use crate::{config::BlockedDomain, xmpp::settings::XmppPartner};

fn partner(domain: &str, proxy: Option<&str>) -> Arc<XmppPartner> {
    let proxy = proxy.map(|host| (name(host), 5269));
    Arc::new(XmppPartner { proxy, ..XmppPartner::new(name(domain)) })
}

fn servers(domain: &str) -> Question {
    Question::Xmpp(name(domain))
}

/// The blocks last told of a domain.
fn blocked(world: &World, domain: &str) -> Vec<IpAddr> {
    let report = world.blocks.report();
    report.into_iter().find(|r| r.domain.domain == name(domain)).unwrap().blocked
}

#[test]
fn a_blocked_domain_s_xmpp_servers_are_asked_for_where_xmpp_is_served_and_blocked() {
    let mut world = World::new(&["bad.example"], &[]);
    assert!(!world.asked().contains(&servers("bad.example")));
    world.set(|setting| setting.xmpp = Some(vec![]));
    assert!(world.asked().contains(&servers("bad.example")));
    world.pass(START_WAIT);
    world.answer(ask("bad.example"), &["8.8.8.1"], 300);
    world.answer(servers("bad.example"), &["8.8.8.2", "10.0.0.1"], 300);
    assert_eq!(blocked(&world, "bad.example"), [ip("8.8.8.1"), ip("8.8.8.2")]);
    // DNS that fails for the one kind takes nothing from the other.
    world.fail(ask("bad.example"), ResolveError::Unavailable);
    assert_eq!(blocked(&world, "bad.example").len(), 2);
    // A name below it that was seen on a stream is asked for in both ways.
    world.proved(1 << 63 | 7, "chat.bad.example", "8.8.8.9");
    let asked = world.asked();
    assert!(asked.contains(&servers("chat.bad.example")), "{asked:?}");
    assert!(blocked(&world, "bad.example").contains(&ip("8.8.8.9")));
    world.set(|setting| setting.xmpp = None);
    assert!(!blocked(&world, "bad.example").contains(&ip("8.8.8.2")));
}

#[test]
fn an_xmpp_partner_s_servers_are_protected_by_name_and_by_what_is_connected() {
    let mut world = World::new(&["bad.example"], &[]);
    world.set(|setting| {
        setting.xmpp =
            Some(vec![partner("p.example", None), partner("q.example", Some("x.q.example"))]);
    });
    world.pass(START_WAIT);
    world.answer(servers("p.example"), &["8.8.8.1"], 300);
    world.answer(Question::Host(name("x.q.example"), 5269), &["8.8.8.2"], 300);
    world.proved(1 << 63 | 1, "p.example", "8.8.8.3");
    let shared = ["8.8.8.1", "8.8.8.2", "8.8.8.3", "8.8.8.4"];
    world.answer(servers("bad.example"), &shared, 300);
    assert_eq!(blocked(&world, "bad.example"), [ip("8.8.8.4")]);
    let report = world.blocks.report();
    let why: Vec<String> = report[0].refused.iter().map(|r| r.why.to_string()).collect();
    assert!(why[0].contains("XMPP partner p.example"), "{why:?}");
    assert!(why[1].contains("XMPP partner q.example"), "{why:?}");
    assert!(why[2].contains("partner p.example is connected"), "{why:?}");
    // A stream that ends protects no more.
    world.put(Input::Closed { connection: ConnectionId(1 << 63 | 1) });
    assert!(blocked(&world, "bad.example").contains(&ip("8.8.8.3")));
    // Blocked itself, a partner is not protected from its own block.
    world.set(|setting| {
        let entry = BlockedDomain { domain: name("p.example"), subdomains: true };
        setting.federation.blocked_domains.push(entry);
    });
    world.answer(servers("p.example"), &["8.8.8.1"], 300);
    assert_eq!(blocked(&world, "p.example"), [ip("8.8.8.1")]);
    let now: Vec<IpAddr> = blocked(&world, "bad.example");
    assert!(now.contains(&ip("8.8.8.1")), "{now:?}");
}
