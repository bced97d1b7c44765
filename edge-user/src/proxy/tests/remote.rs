//! Remote users: whom they may write to, and how they are found again.

mod registrations;
mod relay;

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    config::{Federation, Rights, Transport, UserPattern, UserPolicy},
    federation::Policy,
};

/// Where alice sits.
pub(super) const HOME: &str = "198.51.100.7:50000";

/// Users below alice's and carol's names sign in from outside, and bob not.
pub(super) fn outside_policy(allowed: &[&str], blocked: &[&str]) -> Arc<Policy> {
    policy_for(&[("alice", true), ("carol", false)], allowed, blocked)
}

/// These users sign in from outside, and federate or not.
pub(super) fn policy_for(
    users: &[(&str, bool)],
    allowed: &[&str],
    blocked: &[&str],
) -> Arc<Policy> {
    let allowed: Vec<_> = allowed.iter().map(|name| allow(name)).collect();
    let may = |(name, federation): &(&str, bool)| UserPolicy {
        users: vec![UserPattern::User((*name).into(), domain("contoso.example"))],
        rights: Rights { outside: true, federation: *federation, ..Rights::default() },
    };
    let users = users.iter().map(may).collect();
    let federation = Federation { users, ..federation(&allowed, blocked) };
    Arc::new(Policy::new(&[domain("contoso.example")], &federation))
}

/// contoso, whose alice is at home.
pub(super) fn world() -> (World, ConnectionId) {
    let mut world = World::new();
    world.set_policy(CONTOSO, outside_policy(&["fabrikam.example"], &[]));
    let alice = world.remote(CONTOSO, HOME);
    (world, alice)
}

pub(super) fn register(user: &str) -> Req {
    let mut request = Req::new("REGISTER", "contoso.example", "contoso.example")
        .with("Contact: <sip:alice@192.168.1.5:5061;transport=tls>;expires=600;reg-id=1")
        .with("Supported: path, outbound")
        .with("Authorization: Digest username=\"alice\", response=\"0\"");
    request.uri = "sip:contoso.example".into();
    request.from = format!("<sip:{user}@contoso.example>;tag=a1");
    request.to = format!("<sip:{user}@contoso.example>");
    request
}

/// alice registers; the server's connection, and the Path that it got.
pub(super) fn registered(world: &mut World, alice: ConnectionId) -> (ConnectionId, String) {
    registered_as(world, alice, "alice")
}

/// The same for another user.
pub(super) fn registered_as(
    world: &mut World,
    alice: ConnectionId,
    user: &str,
) -> (ConnectionId, String) {
    let text = register(user).branch(user).text();
    let text = text.replace("username=\"alice\"", &format!("username=\"{user}\""));
    world.say(CONTOSO, alice, &text);
    let (server, got) = world.one(CONTOSO);
    let path = headers(&got, "Path");
    assert_eq!(path.len(), 1, "{got}");
    let path = path[0].to_owned();
    let ok = answer(&got, "200 OK", Some("r1")).replace(
        "Content-Length",
        "Contact: <sip:alice@192.168.1.5:5061;transport=tls>;expires=300\r\nContent-Length",
    );
    world.say(CONTOSO, server, &ok);
    world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
    (server, path)
}

/// A call to alice by way of her Path.
pub(super) fn invite_by(path: &str) -> Req {
    let mut invite = Req::new("INVITE", "fabrikam.example", "contoso.example")
        .with(format!("Route: {path}"))
        .with("Contact: <sip:bob@10.0.0.21:5060;transport=tcp>")
        .with("ms-diagnostics: 1;source=\"inside\"");
    invite.uri = "sip:alice@192.168.1.5:5061;transport=tls".into();
    invite.from = "<sip:bob@fabrikam.example>;tag=b1".into();
    invite.to = "<sip:alice@contoso.example>".into();
    invite.transport = "TCP";
    invite
}

#[test]
fn a_registration_goes_inside_with_path_and_who_it_is_is_left_to_our_servers() {
    let (mut world, alice) = world();
    let request = register("alice")
        .with("ms-edge-proxy-message-trust: ms-source-type=AuthorizedServer")
        .with("P-Asserted-Identity: <sip:boss@contoso.example>")
        .with("Remote-Party-ID: <sip:boss@contoso.example>");
    world.say(CONTOSO, alice, &request.text());
    let (server, got) = world.one(CONTOSO);
    assert!(got.starts_with("REGISTER sip:contoso.example SIP/2.0\r\n"), "{got}");
    assert_eq!(world.edges[CONTOSO].connects, [address("10.0.0.21:5060")]);
    let path = headers(&got, "Path");
    assert_eq!(path.len(), 1);
    assert!(path[0].ends_with("@10.0.0.10:5060;transport=tcp;lr;ob>"), "{path:?}");
    assert_eq!(headers(&got, "Record-Route").len(), 0);
    assert_eq!(
        headers(&got, "ms-edge-proxy-message-trust"),
        ["ms-source-type=InternetUser;ms-ep-fqdn=edge.contoso.example;\
          ms-source-verified-user=unverified"]
    );
    for gone in ["P-Asserted-Identity", "Remote-Party-ID"] {
        assert_eq!(headers(&got, gone).len(), 0, "{gone}");
    }
    assert_eq!(
        headers(&got, "Authorization"),
        ["Digest username=\"alice\", response=\"0\""],
        "credentials go through as they are"
    );
    // A challenge passes, and what is for our own servers does not.
    let challenge = answer(&got, "401 Unauthorized", Some("r1")).replace(
        "Content-Length",
        "WWW-Authenticate: Digest realm=\"contoso.example\", nonce=\"n\"\r\n\
         ms-diagnostics: 1;source=\"registrar\"\r\nContent-Length",
    );
    world.say(CONTOSO, server, &challenge);
    let back = world.expect(CONTOSO, alice, "SIP/2.0 401 ");
    assert_eq!(headers(&back, "WWW-Authenticate").len(), 1);
    assert_eq!(headers(&back, "ms-diagnostics").len(), 0);
    // Nothing of it is shown to anybody.
    let shown =
        format!("{:?} {:?}", world.edges[CONTOSO].events, world.edges[CONTOSO].proxy.status());
    assert!(!shown.contains("Digest") && !shown.contains("response"), "{shown}");
}

#[test]
fn a_proxy_before_us_takes_the_ob_away() {
    let (mut world, alice) = world();
    let text = register("alice").text();
    let text = text.replacen("Via: ", "Via: SIP/2.0/TLS home.invalid;branch=z9hG4bK-0\r\nVia: ", 1);
    world.say(CONTOSO, alice, &text);
    let (_, got) = world.one(CONTOSO);
    assert!(headers(&got, "Path")[0].ends_with(";transport=tcp;lr>"), "{got}");
}

#[test]
fn who_is_registered_is_known_until_it_signs_off_or_goes() {
    let (mut world, alice) = world();
    let users = |world: &World| {
        let status = world.edges[CONTOSO].proxy.status();
        status.into_iter().find(|c| c.side == Side::Remote).map(|c| c.users)
    };
    assert_eq!(users(&world), Some(vec![]));
    registered(&mut world, alice);
    assert_eq!(users(&world), Some(vec!["alice@contoso.example".to_owned()]));
    let counters = world.edges[CONTOSO].proxy.counters();
    assert_eq!((counters.remote_connections, counters.registered), (1, 1));
    let text = register("alice").branch("2").text().replace("expires=600", "expires=0");
    world.say(CONTOSO, alice, &text);
    let (server, got) = world.one(CONTOSO);
    world.say(CONTOSO, server, &answer(&got, "200 OK", Some("r2")));
    world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
    assert_eq!(users(&world), Some(vec![]));
    world.cut(CONTOSO, alice);
    assert_eq!(users(&world), None);
}

#[test]
fn a_call_finds_a_registered_user_by_path_and_goes_to_its_end() {
    let (mut world, alice) = world();
    let (server, path) = registered(&mut world, alice);
    let invite = invite_by(&path);
    world.say(CONTOSO, server, &invite.text());
    let mail = world.mail(CONTOSO);
    let [(at, trying), (home, got)] = &mail[..] else { panic!("{mail:#?}") };
    assert!(*at == server && trying.starts_with("SIP/2.0 100 "), "{trying}");
    assert_eq!(*home, alice);
    assert!(
        got.starts_with("INVITE sip:alice@192.168.1.5:5061;transport=tls SIP/2.0\r\n"),
        "{got}"
    );
    assert_eq!((headers(got, "Route").len(), headers(got, "ms-diagnostics").len()), (0, 0));
    let routes: Vec<String> =
        headers(got, "Record-Route").iter().map(ToString::to_string).collect();
    assert_eq!(routes.len(), 2, "{got}");
    assert!(routes[0].ends_with("@edge.contoso.example:443;transport=tls;lr>"), "{routes:?}");
    assert!(routes[1].ends_with("@10.0.0.10:5060;transport=tcp;lr>"), "{routes:?}");
    assert!(headers(got, "Via")[0].starts_with("SIP/2.0/TLS edge.contoso.example:443;"), "{got}");

    let ok = answer(got, "200 OK", Some("a1"));
    world.say(
        CONTOSO,
        alice,
        &ok.replace("Content-Length", "P-Asserted-Identity: <sip:x@y.example>\r\nContent-Length"),
    );
    let ok = world.expect(CONTOSO, server, "SIP/2.0 200 OK");
    assert_eq!(headers(&ok, "P-Asserted-Identity").len(), 0);
    assert_eq!(headers(&ok, "ms-edge-proxy-message-trust").len(), 1);
    let signed: Vec<String> =
        headers(&ok, "Record-Route").iter().map(ToString::to_string).collect();

    // ACK and BYE of the caller, and a re-INVITE of alice's.
    for (method, cseq) in [("ACK", 1), ("BYE", 2)] {
        let mut request = invite.clone().branch(method);
        (request.method, request.cseq) = (method, cseq);
        request.to.push_str(";tag=a1");
        request.headers = vec!["Max-Forwards: 70".into()];
        request.headers.extend(signed.iter().rev().map(|route| format!("Route: {route}")));
        world.say(CONTOSO, server, &request.text());
        let got = world.expect(CONTOSO, alice, method);
        assert_eq!(headers(&got, "Route").len(), 0, "{got}");
    }
    let mut again = invite.clone().branch("again");
    again.method = "UPDATE";
    again.uri = "sip:bob@10.0.0.21:5060;transport=tcp".into();
    again.from = format!("{};tag=a1", invite.to);
    again.to = invite.from.clone();
    again.headers = vec!["Max-Forwards: 70".into()];
    again.headers.extend(routes.iter().map(|route| format!("Route: {route}")));
    world.say(CONTOSO, alice, &again.text());
    let (at, got) = world.one(CONTOSO);
    assert_eq!(at, server, "{got}");
    assert_eq!(headers(&got, "Route").len(), 0, "{got}");
}

#[test]
fn a_call_of_a_remote_user_goes_inside_whoever_is_called() {
    for (called, direct) in
        [("bob@contoso.example", false), ("bob@fabrikam.example", false), ("tel", false)]
    {
        let (mut world, alice) = world();
        let mut invite = Req::new("INVITE", "contoso.example", "contoso.example")
            .with("Contact: <sip:alice@192.168.1.5:5061;transport=tls>");
        invite.uri = match called {
            "tel" => "tel:+15551234".into(),
            called => format!("sip:{called}"),
        };
        world.say(CONTOSO, alice, &invite.text());
        let mail = world.mail(CONTOSO);
        let [(at, trying), (server, got)] = &mail[..] else { panic!("{called}: {mail:#?}") };
        assert!(*at == alice && trying.starts_with("SIP/2.0 100 "), "{trying}");
        assert!(
            !direct && world.edges[CONTOSO].connects == [address("10.0.0.21:5060")],
            "{called}"
        );
        assert_eq!(world.edges[CONTOSO].questions, [], "{called}: no partner is looked up");
        world.say(CONTOSO, *server, &answer(got, "200 OK", Some("b1")));
        let ok = world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
        let routes: Vec<&str> = headers(&ok, "Record-Route");
        let mut bye = invite.clone().branch("bye");
        (bye.method, bye.cseq) = ("BYE", 2);
        // The other end's own address: within a dialog it is what the other end said.
        bye.uri = "sip:bob@10.0.0.99:5060".into();
        bye.to.push_str(";tag=b1");
        bye.headers = vec!["Max-Forwards: 70".into()];
        bye.headers.extend(routes.iter().rev().map(|route| format!("Route: {route}")));
        // On another connection it is another flow, whoever knows the Route.
        let eve = world.remote(CONTOSO, "198.51.100.66:50000");
        world.say(CONTOSO, eve, &bye.text());
        world.expect(CONTOSO, eve, "SIP/2.0 430 Flow Failed");
        let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
        world.say(CONTOSO, partner, &bye.text());
        world.expect(CONTOSO, partner, "SIP/2.0 403 ");
        world.say(CONTOSO, alice, &bye.text());
        let (at, got) = world.one(CONTOSO);
        assert_eq!(at, *server);
        assert!(got.starts_with("BYE sip:bob@10.0.0.99:5060 "), "{got}");
    }
}

#[test]
fn a_flow_that_is_gone_gets_430() {
    let (mut world, alice) = world();
    let (server, path) = registered(&mut world, alice);
    // The connection breaks while a call is on its way.
    world.say(CONTOSO, server, &invite_by(&path).text());
    world.mail(CONTOSO);
    world.cut(CONTOSO, alice);
    world.expect(CONTOSO, server, "SIP/2.0 430 Flow Failed");
    // Nor is there another way afterwards, though she came again on another connection.
    let again = world.remote(CONTOSO, HOME);
    world.say(CONTOSO, server, &invite_by(&path).branch("2").text());
    let got = world.expect(CONTOSO, server, "SIP/2.0 430 Flow Failed");
    assert!(headers(&got, "ms-diagnostics")[0].contains("is gone"), "{got}");
    assert_eq!(world.refused(CONTOSO, Refusal::FlowFailed), 2);
    let (_, newer) = registered(&mut world, again);
    assert_ne!(newer, path);
}

#[test]
fn flows_die_with_the_run_that_they_are_of() {
    let (mut world, alice) = world();
    let (_, path) = registered(&mut world, alice);
    // The same key, the same connection ids, another run.
    let mut restarted = World::new();
    restarted.set_policy(CONTOSO, outside_policy(&["fabrikam.example"], &[]));
    let other = restarted.remote(CONTOSO, HOME);
    assert_eq!(other, alice, "an id that the former run gave, too");
    let server = restarted.inside(CONTOSO, Transport::Tcp, "10.0.0.21:40000");
    restarted.say(CONTOSO, server, &invite_by(&path).text());
    restarted.expect(CONTOSO, server, "SIP/2.0 430 Flow Failed");
}

#[test]
fn a_retransmitted_2xx_of_a_remote_user_keeps_its_flow() {
    let (mut world, alice) = world();
    let (server, path) = registered(&mut world, alice);
    world.say(CONTOSO, server, &invite_by(&path).text());
    let mail = world.mail(CONTOSO);
    let ok = answer(&mail[1].1, "200 OK", Some("a1"));
    let mut routes = Vec::new();
    for _ in 0..3 {
        world.say(CONTOSO, alice, &ok);
        let got = world.expect(CONTOSO, server, "SIP/2.0 200 OK");
        routes.push(headers(&got, "Record-Route").join(","));
        assert_eq!(headers(&got, "ms-edge-proxy-message-trust").len(), 1, "{got}");
        world.pass(Duration::from_secs(1));
    }
    assert!(routes.iter().all(|route| *route == routes[0]), "{routes:?}");
}

/// Whom the caller asks for, and whether alice, who is called, is at her name or a group's member.
#[test]
fn a_remote_user_who_is_silent_or_busy_is_no_dead_server() {
    let (mut world, alice) = world();
    let (server, path) = registered(&mut world, alice);
    let before = world.edges[CONTOSO].connects.len();
    world.say(CONTOSO, server, &invite_by(&path).text());
    let mail = world.mail(CONTOSO);
    world.say(CONTOSO, alice, &answer(&mail[1].1, "503 Service Unavailable", Some("a1")));
    let mail = world.mail(CONTOSO);
    let final_answer = &mail.iter().find(|(at, _)| *at == server).unwrap().1;
    assert!(final_answer.starts_with("SIP/2.0 500 "), "{final_answer}");
    world.say(CONTOSO, server, &invite_by(&path).branch("2").text());
    world.pass(Duration::from_secs(40));
    let mail = world.mail(CONTOSO);
    let final_answer = &mail.iter().rfind(|(at, _)| *at == server).unwrap().1;
    assert!(final_answer.starts_with("SIP/2.0 408 "), "{final_answer}");
    let health = |event: &&Event| matches!(event, Event::Health { .. });
    assert_eq!(world.edges[CONTOSO].events.iter().filter(health).count(), 0);
    assert_eq!(world.edges[CONTOSO].connects.len(), before, "nobody connects to alice");
}

#[test]
fn there_is_no_registration_within_a_dialog() {
    let (mut world, alice) = world();
    let invite = Req::new("INVITE", "contoso.example", "contoso.example")
        .with("Contact: <sip:alice@192.168.1.5:5061;transport=tls>");
    world.say(CONTOSO, alice, &invite.text());
    let mail = world.mail(CONTOSO);
    world.say(CONTOSO, mail[1].0, &answer(&mail[1].1, "200 OK", Some("b1")));
    let ok = world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
    let mut request = invite.clone().branch("reg");
    (request.method, request.cseq) = ("REGISTER", 2);
    request.uri = "sip:10.0.0.99".into();
    request.to.push_str(";tag=b1");
    request.headers = vec!["Max-Forwards: 70".into(), "Path: <sip:10.0.0.99;lr>".into()];
    let routes = headers(&ok, "Record-Route");
    request.headers.extend(routes.iter().rev().map(|route| format!("Route: {route}")));
    world.say(CONTOSO, alice, &request.text());
    world.expect(CONTOSO, alice, "SIP/2.0 403 ");
}

#[test]
fn a_registration_that_ended_is_not_shown() {
    let (mut world, alice) = world();
    registered(&mut world, alice);
    let registered = |world: &mut World| {
        let now = world.now;
        world.edges[CONTOSO].proxy.tidy_users(now);
        world.edges[CONTOSO].proxy.counters().registered
    };
    assert_eq!(registered(&mut world), 1);
    world.pass(Duration::from_secs(301));
    assert_eq!(registered(&mut world), 0);
}

#[test]
fn when_it_is_crowded_who_has_not_signed_in_waits_first() {
    let mut world = World::new();
    world.configure(CONTOSO, |config| config.bounds.transactions = 100);
    world.set_policy(CONTOSO, outside_policy(&["fabrikam.example"], &[]));
    let alice = world.remote(CONTOSO, HOME);
    registered(&mut world, alice);
    let stranger = world.remote(CONTOSO, "[2001:db8::7]:50000");
    for number in 0..85 {
        let at = world.remote(CONTOSO, &format!("203.0.113.{}:5000", 100 + number));
        let request = Req::new("MESSAGE", "contoso.example", "contoso.example");
        world.say(CONTOSO, at, &request.branch(&format!("m{number}")).text());
    }
    world.mail(CONTOSO);
    // A BYE of no dialog is as new as all else.
    let mut bye = Req::new("BYE", "contoso.example", "contoso.example").branch("bye");
    bye.to.push_str(";tag=x");
    world.say(CONTOSO, stranger, &bye.text());
    world.expect(CONTOSO, stranger, "SIP/2.0 503 ");
    for (at, waits) in [(stranger, true), (alice, false)] {
        let request = Req::new("MESSAGE", "contoso.example", "contoso.example");
        world.say(CONTOSO, at, &request.branch(&format!("x{}", at.0)).text());
        let (to, got) = world.one(CONTOSO);
        assert_eq!(to == at && got.starts_with("SIP/2.0 503 "), waits, "{got}");
    }
}

#[test]
fn a_challenge_brings_no_route_that_we_signed() {
    for (status, routes) in
        [("407 Proxy Authentication Required", 0), ("302 Moved", 0), ("180 Ringing", 2)]
    {
        let (mut world, alice) = world();
        let invite = Req::new("INVITE", "contoso.example", "contoso.example")
            .with("Contact: <sip:alice@192.168.1.5:5061;transport=tls>");
        world.say(CONTOSO, alice, &invite.text());
        let mail = world.mail(CONTOSO);
        // The server copies all it can.
        world.say(CONTOSO, mail[1].0, &answer(&mail[1].1, status, Some("b1")));
        let mail = world.mail(CONTOSO);
        let got = &mail.iter().find(|(at, _)| *at == alice).unwrap().1;
        assert!(got.starts_with(&format!("SIP/2.0 {status}")), "{got}");
        assert_eq!(headers(got, "Record-Route").len(), routes, "{got}");
    }
}

/// A telephone that follows it (RFC 3608) would be refused: its Route would be none of ours.
#[test]
fn a_registration_brings_no_service_route() {
    let (mut world, alice) = world();
    world.say(CONTOSO, alice, &register("alice").text());
    let (server, got) = world.one(CONTOSO);
    let inside = "Service-Route: <sip:10.0.0.31;lr>\r\nContent-Length";
    let ok = answer(&got, "200 OK", Some("r1")).replace("Content-Length", inside);
    world.say(CONTOSO, server, &ok);
    let got = world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
    assert!(headers(&got, "Service-Route").is_empty(), "{got}");
}

/// From outside to our servers, and from these to the partner: the same request to the same target,
/// here for the second time, and no loop.
#[test]
fn what_a_remote_user_sends_to_a_partner_passes_here_twice() {
    for method in ["INVITE", "MESSAGE", "SUBSCRIBE"] {
        let (mut world, alice) = world();
        let mut request = Req::new(method, "contoso.example", "fabrikam.example")
            .with("Contact: <sip:alice@192.168.1.5:5061;transport=tls>");
        request.from = "<sip:alice@contoso.example>;tag=a1".into();
        world.say(CONTOSO, alice, &request.text());
        let mail = world.mail(CONTOSO);
        let (server, got) = mail.iter().find(|(_, text)| text.starts_with(method)).unwrap();
        let proxied = |got: &str| {
            got.replacen(
                "\r\nVia: ",
                "\r\nVia: SIP/2.0/TCP 10.0.0.21:5060;branch=z9hG4bKserver\r\nVia: ",
                1,
            )
        };
        let again = proxied(got);
        world.say(CONTOSO, *server, &again);
        world.pass(Duration::from_secs(1));
        let fabrikam = world.mail(FABRIKAM);
        assert!(
            fabrikam.iter().any(|(_, text)| text.starts_with(method)),
            "{method}: {:#?} {fabrikam:#?}",
            world.mail(CONTOSO)
        );
        // From our servers once more it is one.
        let (_, passed) = fabrikam.iter().find(|(_, text)| text.starts_with(method)).unwrap();
        let round = proxied(passed).replacen("z9hG4bKserver", "z9hG4bKround", 1);
        world.say(CONTOSO, *server, &round);
        assert_eq!(world.refused(CONTOSO, Refusal::Loop), 1, "{method}");
    }
}
