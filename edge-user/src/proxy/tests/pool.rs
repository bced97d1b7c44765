//! Several appliances that are one to the outside: each routes what belongs to dialogs that began
//! at another, and one that is drained takes nothing new.

use super::*;
use crate::config::Transport;

/// Another member beside contoso's edge, with this key; the servers inside are the same.
const MEMBER: usize = 2;

fn with_member(key: [u8; 32], former: Option<[u8; 32]>) -> World {
    let mut world = World::new();
    let mut config = world.edges[CONTOSO].proxy.config.clone();
    config.fqdn = domain("edge2.contoso.example");
    config.outside = vec![address("203.0.113.11:5061")];
    for (_, inside) in &mut config.inside {
        inside.set_ip("10.0.0.11".parse().unwrap());
    }
    (config.token_secret, config.former_secret) = (key, former);
    let policy = policy("contoso.example", &[allow("fabrikam.example")], &[]);
    world.add(config, policy, &["edge2.contoso.example"]);
    world
}

/// A server inside that stays on the way.
const HUB: &str = "<sip:10.0.0.31;lr>";

/// A call from fabrikam through contoso's first edge and its hub: the 200 as the caller got it.
fn call(world: &mut World) -> String {
    let caller = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let invite = Req::new("INVITE", "fabrikam.example", "contoso.example");
    world.say(CONTOSO, caller, &invite.text());
    let (callee, got) = world.mail(CONTOSO).remove(1);
    world.say(CONTOSO, callee, &answer_through(&got, "200 OK", Some("b1"), &[HUB]));
    world.expect(CONTOSO, caller, "SIP/2.0 200 ")
}

/// The caller's BYE, with the route of the 200.
fn bye(ok: &str) -> Req {
    let mut bye = Req::new("BYE", "fabrikam.example", "contoso.example").branch("bye");
    bye.uri = "sip:bob@10.9.9.9".into();
    bye.to = headers(ok, "To")[0].to_owned();
    bye.cseq = 2;
    let routes = headers(ok, "Record-Route");
    routes.iter().rev().fold(bye, |bye, route| bye.with(format!("Route: {route}")))
}

#[test]
fn a_member_with_the_same_key_routes_what_belongs_to_anothers_dialog() {
    let own = World::new().edges[CONTOSO].proxy.config.token_secret;
    for (key, former, goes) in [
        (own, None, true),
        ([99; 32], Some(own), true),
        ([99; 32], None, false),
        ([99; 32], Some([98; 32]), false),
    ] {
        let mut world = with_member(key, former);
        let ok = call(&mut world);
        let partner = world.partner(MEMBER, "203.0.113.20:5001", &["fabrikam.example"]);
        world.say(MEMBER, partner, &bye(&ok).text());
        let (at, got) = world.one(MEMBER);
        if goes {
            assert!(at != partner && got.starts_with("BYE sip:bob@10.9.9.9 "), "{got}");
            assert_eq!(headers(&got, "Route"), [HUB], "both of ours are off");
            world.say(MEMBER, at, &answer(&got, "200 OK", None));
            world.expect(MEMBER, partner, "SIP/2.0 200 ");
        } else {
            assert!(at == partner && got.starts_with("SIP/2.0 403 "), "{got}");
            assert_eq!(world.refused(MEMBER, Refusal::ForeignRoute), 1);
        }
        // The callee's own, through the member it knows.
        let inside = world.inside(MEMBER, Transport::Tcp, "10.0.0.21:40000");
        let mut back = Req::new("BYE", "contoso.example", "fabrikam.example").branch("back");
        (back.from, back.to) =
            (headers(&ok, "To")[0].to_owned(), headers(&ok, "From")[0].to_owned());
        let routes = headers(&ok, "Record-Route");
        let back =
            routes[1..].iter().fold(back, |back, route| back.with(format!("Route: {route}")));
        world.say(MEMBER, inside, &back.text());
        let (at, got) = world.one(MEMBER);
        assert_eq!(at == partner && got.starts_with("BYE "), goes, "{got}");
    }
}

#[test]
fn another_members_key_proves_nobody() {
    let own = World::new().edges[CONTOSO].proxy.config.token_secret;
    let mut world = with_member(own, None);
    let ok = call(&mut world);
    let other = world.partner(MEMBER, "203.0.113.66:5001", &["third.example"]);
    world.say(MEMBER, other, &bye(&ok).text());
    let (at, got) = world.one(MEMBER);
    assert!(at == other && got.starts_with("SIP/2.0 403 "), "{got}");
    assert_eq!(world.refused(MEMBER, Refusal::WrongDialogPeer), 1);
}

#[test]
fn a_key_may_change_while_calls_stand() {
    let mut world = World::new();
    let ok = call(&mut world);
    let own = world.edges[CONTOSO].proxy.config.token_secret;
    world.reconfigure(CONTOSO, |config| {
        (config.token_secret, config.former_secret) = ([99; 32], Some(own));
    });
    let partner = world.partner(CONTOSO, "203.0.113.20:5001", &["fabrikam.example"]);
    world.say(CONTOSO, partner, &bye(&ok).text());
    assert!(world.one(CONTOSO).1.starts_with("BYE "));
    world.reconfigure(CONTOSO, |config| config.former_secret = None);
    world.say(CONTOSO, partner, &bye(&ok).branch("again").text());
    world.expect(CONTOSO, partner, "SIP/2.0 403 ");
}

fn drain(world: &mut World, on: bool) -> crate::proxy::DrainStatus {
    let now = world.now;
    let proxy = &mut world.edges[CONTOSO].proxy;
    proxy.set_draining(now, on);
    proxy.drain_status(now)
}

#[test]
fn a_drained_edge_takes_nothing_new_and_what_stands_goes_on() {
    let mut world = World::new();
    let ok = call(&mut world);
    world.mail(CONTOSO);
    let status = drain(&mut world, true);
    assert!(status.since.is_some() && status.in_dialog_last_hour == 0, "{status:?}");
    let partner = world.partner(CONTOSO, "203.0.113.20:5001", &["fabrikam.example"]);
    let inside = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    let mut ping = Req::new("OPTIONS", "fabrikam.example", "contoso.example").branch("o");
    ping.uri = "sip:edge.contoso.example".into();
    ping.to = "<sip:edge.contoso.example>".into();
    let to_us = |method| Req::new(method, "fabrikam.example", "contoso.example").branch(method);
    let from_us = |method| Req::new(method, "contoso.example", "fabrikam.example").branch(method);
    let rows = [
        (partner, ping.clone()),
        (partner, to_us("OPTIONS")),
        (partner, to_us("INVITE")),
        (partner, to_us("SUBSCRIBE")),
        (inside, from_us("INVITE")),
        (inside, from_us("OPTIONS")),
    ];
    let count = rows.len() as u64;
    for (at, request) in rows {
        world.say(CONTOSO, at, &request.text());
        let got = world.expect(CONTOSO, at, "SIP/2.0 503 ");
        assert_eq!(headers(&got, "Retry-After"), ["30"], "{got}");
        assert!(got.contains("draining") || got.contains("being drained"), "{got}");
    }
    assert_eq!(world.refused(CONTOSO, Refusal::Draining), count);
    world.say(CONTOSO, partner, &bye(&ok).text());
    let (at, got) = world.one(CONTOSO);
    assert!(at != partner && got.starts_with("BYE "), "{got}");
    world.say(CONTOSO, partner, &to_us("MESSAGE").text());
    assert!(world.one(CONTOSO).1.starts_with("MESSAGE "), "no dialog begins by it");
    let status = drain(&mut world, true);
    assert_eq!((status.in_dialog_last_hour, status.in_dialog_last_minutes), (1, 1));
    assert!(status.transactions >= 2, "{status:?}");
    // And back.
    assert_eq!(drain(&mut world, false).since, None);
    world.say(CONTOSO, partner, &ping.branch("p").text());
    world.expect(CONTOSO, partner, "SIP/2.0 200 ");
}

/// Whoever is registered here can be reached in no other way: it is, until its next registration is
/// sent to another member.
#[test]
fn a_drained_edge_sends_remote_users_elsewhere_and_finds_them_until_then() {
    let (mut world, alice) = remote::world();
    let (server, path) = remote::registered(&mut world, alice);
    drain(&mut world, true);
    world.say(CONTOSO, alice, &remote::register("alice").branch("again").text());
    let got = world.expect(CONTOSO, alice, "SIP/2.0 503 ");
    assert_eq!(headers(&got, "Retry-After"), ["30"], "{got}");
    world.say(CONTOSO, server, &remote::invite_by(&path).branch("call").text());
    let got = world.mail(CONTOSO);
    assert!(got.iter().any(|(at, text)| *at == alice && text.starts_with("INVITE ")), "{got:?}");
    let mut calls = Req::new("INVITE", "contoso.example", "contoso.example").branch("calls");
    calls.from = "<sip:alice@contoso.example>;tag=c".into();
    world.say(CONTOSO, alice, &calls.text());
    world.expect(CONTOSO, alice, "SIP/2.0 503 ");
    // What it is registered as can be asked, and ended.
    let off = remote::register("alice").branch("off").text().replace("expires=600", "expires=0");
    let asks = remote::register("alice").branch("asks").text();
    let asks: String =
        asks.split_inclusive("\r\n").filter(|line| !line.starts_with("Contact")).collect();
    for text in [off, asks] {
        world.say(CONTOSO, alice, &text);
        let got = world.mail(CONTOSO);
        let passed =
            |(at, text): &(ConnectionId, String)| *at == server && text.starts_with("REGISTER ");
        assert!(got.iter().any(passed), "{got:?}");
    }
}
