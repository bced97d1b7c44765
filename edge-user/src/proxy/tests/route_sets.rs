//! Which Routes may follow ours in a request from outside: what our own servers recorded when the
//! dialog was formed, and nothing else (trust rules, section 4).

use super::{
    dialogs::{Call, call, call_through},
    *,
};
use crate::config::Transport;

/// What a server inside writes: two values for two sides (Kamailio), a strict router, a token of
/// its own.
const SETS: [&[&str]; 5] = [
    &[],
    &["<sip:10.0.0.31;lr>"],
    &["<sip:10.0.0.32:5070;transport=tcp;r2=on;lr=on>", "<sip:10.0.0.31;r2=on;lr=on;ftag=a1>"],
    &["<sip:old.contoso.example>", "<sip:s-Ab12@[2001:db8::31]:5061;transport=tls;lr>"],
    &["<sip:p3.contoso.example;lr>", "<sip:p2.contoso.example;lr>", "<sip:p1.contoso.example;lr>"],
];

fn routes(request: &Req) -> Vec<String> {
    let value = |header: &String| Some(header.strip_prefix("Route: ")?.to_owned());
    request.headers.iter().filter_map(value).collect()
}

fn set_routes(request: &mut Req, routes: &[String]) {
    request.headers.retain(|header| !header.starts_with("Route: "));
    request.headers.extend(routes.iter().map(|route| format!("Route: {route}")));
}

/// A request of one end, as the other end's edge is to get it from a hostile edge: without what the
/// sender's own edge takes off. Who sends it as, on which connection, and to whom it goes.
fn from_outside(call: &mut Call, by_caller: bool, cseq: u32) -> (usize, ConnectionId, Req) {
    let (mut request, (edge, _)) = match by_caller {
        true => (call.by_caller("INFO", cseq), call.callee),
        false => (call.by_callee("INFO", cseq), call.caller),
    };
    let routes = routes(&request);
    set_routes(&mut request, &routes[2..]);
    let sans = if edge == CONTOSO { "fabrikam.example" } else { "contoso.example" };
    let at = call.world.partner(edge, "203.0.113.20:7000", &[sans]);
    (edge, at, request)
}

#[test]
fn what_servers_inside_recorded_leads_back_to_them() {
    for (from, set) in [CONTOSO, FABRIKAM].into_iter().flat_map(|f| SETS.map(|set| (f, set))) {
        for by_caller in [true, false] {
            // On both sides; each is to be asked by the other end.
            let mut call = call_through(from, [set, set]);
            let (at, sender) = if by_caller { call.caller } else { call.callee };
            let far = if by_caller { call.callee } else { call.caller };
            let request = match by_caller {
                true => call.by_caller("UPDATE", 2),
                false => call.by_callee("UPDATE", 2),
            };
            // What was written on the way there is read on the way back.
            let mut expected: Vec<&str> = set.to_vec();
            if by_caller {
                expected.reverse();
            }
            assert_eq!(routes(&request)[4..], expected);
            call.world.say(at, sender, &request.text());
            let (connection, got) = call.world.one(far.0);
            assert_eq!(connection, far.1, "{got}");
            let left = headers(&got, "Route").len();
            assert_eq!(left, set.len(), "{got}");
            call.world.say(far.0, connection, &answer(&got, "200 OK", None));
            call.world.expect(at, sender, "SIP/2.0 200 OK");
        }
    }
}

#[test]
fn no_other_route_follows_ours() {
    type Change = fn(&mut Vec<String>);
    // The first two are ours.
    let changes: &[(&str, Change)] = &[
        ("one more behind", |r| r.push("<sip:10.0.0.99;lr>".into())),
        ("a strict one behind", |r| r.push("<sip:10.0.0.99>".into())),
        ("one more before", |r| r.insert(2, "<sip:10.0.0.99;lr>".into())),
        ("in the place of one of ours", |r| r[1] = "<sip:10.0.0.99;lr>".into()),
        ("without our second", |r| {
            r.remove(1);
            r.push("<sip:10.0.0.99;lr>".into());
        }),
        ("another of ours", |r| r.push("<sip:edge.contoso.example;lr>".into())),
        ("in one line", |r| {
            let last = r.pop().unwrap();
            r.push(format!("{last}, <sip:10.0.0.99;lr>"));
        }),
    ];
    let changes_of_some: &[(&str, Change)] = &[
        ("none of them", |r| r.truncate(2)),
        ("less", |r| drop(r.pop())),
        ("twice", |r| r.push(r[2].clone())),
        ("another host", |r| r[2] = "<sip:10.0.0.99;lr>".into()),
        ("another port", |r| r[2] = r[2].replacen(";", ":5999;", 1)),
        ("maddr", |r| r[2] = r[2].replacen('>', ";maddr=10.0.0.99>", 1)),
        ("a user", |r| r[2] = r[2].replacen("sip:", "sip:x@", 1)),
        ("another transport", |r| r[2] = r[2].replacen('>', ";transport=udp>", 1)),
        ("no loose router", |r| r[2] = r[2].replacen(";lr", "", 1)),
    ];
    let none: &[&str] = &[];
    for (by_caller, set) in [(true, none), (false, none), (true, SETS[1]), (false, SETS[1])] {
        let more = if set.is_empty() { &[][..] } else { changes_of_some };
        for (what, change) in changes.iter().chain(more) {
            let mut call = call_through(CONTOSO, [set, set]);
            let (edge, at, mut request) = from_outside(&mut call, by_caller, 2);
            let mut changed = routes(&request);
            change(&mut changed);
            set_routes(&mut request, &changed);
            let connects = call.world.edges[edge].connects.len();
            call.world.say(edge, at, &request.text());
            call.world.expect(edge, at, "SIP/2.0 403 ");
            assert_eq!(call.world.refused(edge, Refusal::ForeignRoute), 1, "{what}");
            assert_eq!(call.world.edges[edge].connects.len(), connects, "{what}");
            // And as it should be, it passes.
            let (_, _, request) = from_outside(&mut call, by_caller, 3);
            call.world.say(edge, at, &request.text());
            let (to, got) = call.world.one(edge);
            assert!(to != at && got.starts_with("INFO "), "{what}: {got}");
        }
    }
}

#[test]
fn a_strict_router_before_us_brings_no_other_route_either() {
    for (more, passes) in [(&[][..], true), (&["<sip:10.0.0.99;lr>"], false)] {
        let mut call = call_through(FABRIKAM, [&[], SETS[1]]);
        let (edge, at, mut request) = from_outside(&mut call, true, 2);
        let mut changed = routes(&request);
        let ours = changed.remove(0);
        changed.extend(more.iter().map(ToString::to_string));
        changed.push(format!("<{}>", request.uri));
        request.uri = ours.trim_matches(['<', '>']).to_owned();
        set_routes(&mut request, &changed);
        call.world.say(edge, at, &request.text());
        let (to, got) = call.world.one(edge);
        assert_eq!(to != at && got.starts_with("INFO sip:bob@10.9.9.9"), passes, "{got}");
    }
}

/// A call from fabrikam that two servers inside contoso answer, each behind its own hub: with the
/// tags b1 and b2. The connection that it came on, and the answers.
fn forked(status: &str, method: &'static str) -> (World, ConnectionId, Req, Vec<String>) {
    let mut world = World::new();
    let caller = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let invite = Req::new(method, "fabrikam.example", "contoso.example");
    world.say(CONTOSO, caller, &invite.text());
    let mail = world.mail(CONTOSO);
    let (server, got) = mail.iter().find(|(_, got)| got.starts_with(method)).unwrap();
    let answers = [("b1", "<sip:10.0.0.31;lr>"), ("b2", "<sip:10.0.0.32;lr>")];
    let answers = answers.map(|(tag, hub)| {
        world.say(CONTOSO, *server, &answer_through(got, status, Some(tag), &[hub]));
        world.expect(CONTOSO, caller, "SIP/2.0 ")
    });
    (world, caller, invite, answers.to_vec())
}

/// A request of the caller's in the dialog of an answer, with the Routes of another.
fn within(invite: &Req, answer: &str, set_of: &str, branch: &str) -> Req {
    let mut request = invite.clone().branch(branch);
    (request.method, request.cseq) = ("UPDATE", 2);
    request.uri = "sip:bob@10.9.9.9".into();
    request.to = headers(answer, "To")[0].to_owned();
    let mut routes: Vec<&str> = headers(answer, "Record-Route");
    routes[0] = headers(set_of, "Record-Route")[0];
    let routes: Vec<String> = routes.iter().rev().map(ToString::to_string).collect();
    set_routes(&mut request, &routes);
    request
}

#[test]
fn each_branch_of_a_call_has_its_own_route_set_also_while_it_rings() {
    for status in ["180 Ringing", "200 OK"] {
        let (mut world, caller, invite, answers) = forked(status, "INVITE");
        for (one, other) in [(0, 1), (1, 0)] {
            let hub = headers(&answers[one], "Record-Route")[0].to_owned();
            let branch = format!("own{one}");
            let own = within(&invite, &answers[one], &answers[one], &branch);
            world.say(CONTOSO, caller, &own.text());
            let (at, got) = world.one(CONTOSO);
            assert!(at != caller && got.starts_with("UPDATE "), "{status}: {got}");
            assert_eq!(headers(&got, "Route"), [hub]);
            let branch = format!("other{one}");
            let mixed = within(&invite, &answers[one], &answers[other], &branch);
            world.say(CONTOSO, caller, &mixed.text());
            world.expect(CONTOSO, caller, "SIP/2.0 403 ");
        }
    }
}

#[test]
fn a_2xx_by_another_way_than_its_180_has_the_routes_of_its_own() {
    let mut world = World::new();
    let caller = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let invite = Req::new("INVITE", "fabrikam.example", "contoso.example");
    world.say(CONTOSO, caller, &invite.text());
    let (server, got) = world.mail(CONTOSO).remove(1);
    // RFC 3261 section 13.2.2.4: the route set is that of the 2xx. Here it comes twice.
    let ways = [("180 Ringing", "<sip:10.0.0.31;lr>"), ("200 OK", "<sip:10.0.0.32;lr>")];
    for (number, (status, hub)) in [ways[0], ways[1], ways[1]].into_iter().enumerate() {
        world.say(CONTOSO, server, &answer_through(&got, status, Some("b1"), &[hub]));
        let back = world.expect(CONTOSO, caller, "SIP/2.0 ");
        let request = within(&invite, &back, &back, &format!("u{number}"));
        world.say(CONTOSO, caller, &request.text());
        let (at, got) = world.one(CONTOSO);
        assert!(at != caller && got.starts_with("UPDATE "), "{status}: {got}");
        assert_eq!(headers(&got, "Route"), [hub]);
    }
}

#[test]
fn answers_that_come_late_bring_their_own_routes_too() {
    let invite = Req::new("INVITE", "fabrikam.example", "contoso.example");
    for other_first in [false, true] {
        let (mut world, partner, (first, late), (second, got)) = super::failover::passed_over();
        if other_first {
            world.say(CONTOSO, second, &answer(&got, "200 OK", Some("b1")));
            world.expect(CONTOSO, partner, "SIP/2.0 200 OK");
        }
        for again in 0..2 {
            world.say(CONTOSO, first, &answer_through(&late, "200 OK", Some("l1"), &[HUB]));
            let mail = world.mail(CONTOSO);
            let (_, ok) = mail.iter().find(|(at, _)| *at == partner).unwrap();
            let request = within(&invite, ok, ok, &format!("u{again}"));
            world.say(CONTOSO, partner, &request.text());
            let (at, got) = world.one(CONTOSO);
            assert!(at == first && headers(&got, "Route") == [HUB], "{other_first} {again}: {got}");
        }
    }
}

#[test]
fn a_restarted_edge_knows_the_routes_of_dialogs_that_stand() {
    for by_caller in [true, false] {
        let mut call = call_through(CONTOSO, [SETS[2], SETS[2]]);
        for edge in [CONTOSO, FABRIKAM] {
            // Nothing is left of what it was.
            call.world.configure(edge, |_| {});
        }
        let (edge, at, request) = from_outside(&mut call, by_caller, 2);
        call.world.say(edge, at, &request.text());
        let (to, got) = call.world.one(edge);
        assert!(to != at && got.starts_with("INFO "), "{got}");
        assert_eq!(headers(&got, "Route").len(), 2);
        let (_, _, mut request) = from_outside(&mut call, by_caller, 3);
        request.headers.push("Route: <sip:10.0.0.99;lr>".into());
        call.world.say(edge, at, &request.text());
        call.world.expect(edge, at, "SIP/2.0 403 ");
    }
}

#[test]
fn routes_of_the_outside_are_not_ours_to_judge() {
    // The caller's own servers beyond its edge: what our inside sends there passes as it is.
    let mut world = World::new();
    let caller = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let far = ["<sip:p2.fabrikam.example;lr>", "<sip:p1.fabrikam.example;lr>"];
    let invite = Req::new("INVITE", "fabrikam.example", "contoso.example")
        .with(format!("Record-Route: {}", far[0]))
        .with(format!("Record-Route: {}", far[1]));
    world.say(CONTOSO, caller, &invite.text());
    let (server, got) = world.mail(CONTOSO).remove(1);
    let hub = HUB;
    world.say(CONTOSO, server, &answer_through(&got, "200 OK", Some("b1"), &[hub]));
    let ok = world.expect(CONTOSO, caller, "SIP/2.0 200 ");
    let recorded: Vec<&str> = headers(&ok, "Record-Route");
    assert_eq!((recorded[0], &recorded[3..]), (hub, &far[..]));
    // The caller's proxies take their own off; what is behind ours is the hub.
    let mut bye = invite.clone().branch("bye");
    (bye.method, bye.cseq, bye.to) = ("BYE", 2, format!("{};tag=b1", invite.to));
    bye.headers = vec!["Max-Forwards: 70".into()];
    bye.headers.extend(recorded.iter().rev().skip(2).map(|route| format!("Route: {route}")));
    world.say(CONTOSO, caller, &bye.text());
    let (at, got) = world.one(CONTOSO);
    assert!(at != caller && headers(&got, "Route") == [hub], "{got}");
    // And the callee's.
    let mut bye = Req::new("BYE", "contoso.example", "fabrikam.example").branch("back");
    (bye.from, bye.to) = (format!("{};tag=b1", invite.to), invite.from.clone());
    bye.headers
        .extend(headers(&invited(&ok), "Record-Route").iter().map(|r| format!("Route: {r}")));
    world.say(CONTOSO, server, &bye.text());
    let (at, got) = world.one(CONTOSO);
    assert!(at == caller && headers(&got, "Route") == far, "{got}");
}

/// An answer without what the server inside recorded: as the callee has it.
fn invited(ok: &str) -> String {
    ok.replacen("Record-Route: <sip:10.0.0.31;lr>\r\n", "", 1)
}

#[test]
fn a_notify_that_forms_its_dialog_brings_the_routes_of_its_own() {
    // fabrikam subscribes; the NOTIFY overtakes the 200 (RFC 6665 section 4.4.1).
    let mut world = World::new();
    let watcher = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let subscribe = Req::new("SUBSCRIBE", "fabrikam.example", "contoso.example");
    world.say(CONTOSO, watcher, &subscribe.text());
    let (server, got) = world.one(CONTOSO);
    let hub = HUB;
    let mut notify = Req::new("NOTIFY", "contoso.example", "fabrikam.example").branch("n");
    notify.from = format!("{};tag=b1", subscribe.to);
    notify.to = subscribe.from.clone();
    notify.headers.push(format!("Record-Route: {hub}"));
    let recorded = headers(&got, "Record-Route");
    notify.headers.extend(recorded.iter().map(|route| format!("Route: {route}")));
    world.say(CONTOSO, server, &notify.text());
    let notified = world.expect(CONTOSO, watcher, "NOTIFY ");
    let recorded: Vec<String> =
        headers(&notified, "Record-Route").iter().map(ToString::to_string).collect();
    assert_eq!((recorded.len(), &*recorded[2]), (3, hub));
    let mut again = subscribe.clone().branch("again");
    (again.cseq, again.to) = (2, notify.from.clone());
    set_routes(&mut again, &recorded);
    world.say(CONTOSO, watcher, &again.text());
    let (at, got) = world.one(CONTOSO);
    assert!(at != watcher && headers(&got, "Route") == [hub], "{got}");
    again.branch = "z9hG4bK-more".into();
    again.headers.push("Route: <sip:10.0.0.99;lr>".into());
    world.say(CONTOSO, watcher, &again.text());
    world.expect(CONTOSO, watcher, "SIP/2.0 403 ");
}

/// What a server inside passes on, with its own Via, and without its own Route.
fn passed_on(got: &str, branch: &str) -> String {
    let via = format!("Via: SIP/2.0/TCP 10.0.0.31;branch=z9hG4bK-{branch}\r\nVia: ");
    got.replacen("Via: ", &via, 1).replacen(&format!("Route: {HUB}\r\n"), "", 1)
}

const HUB: &str = "<sip:10.0.0.31;lr>";

#[test]
fn a_call_from_one_remote_user_to_another_passes_here_twice_and_keeps_its_way() {
    let (mut world, alice) = super::remote::world();
    let carol = world.remote(CONTOSO, "198.51.100.8:50000");
    let (server, path) = super::remote::registered(&mut world, carol);
    let mut invite = Req::new("INVITE", "contoso.example", "contoso.example");
    (invite.uri, invite.to) =
        ("sip:carol@contoso.example".into(), "<sip:carol@contoso.example>".into());
    world.say(CONTOSO, alice, &invite.text());
    let (at, got) = world.mail(CONTOSO).remove(1);
    assert_eq!(at, server);
    let own = format!("Record-Route: {HUB}\r\nRoute: {path}\r\nRecord-Route: ");
    let inward = passed_on(&got, "i").replacen("Record-Route: ", &own, 1);
    world.say(CONTOSO, server, &inward);
    let (at, got) = world.mail(CONTOSO).remove(1);
    assert!(at == carol && got.starts_with("INVITE "), "{got}");
    world.say(CONTOSO, carol, &answer(&got, "200 OK", Some("b1")));
    let back = world.expect(CONTOSO, server, "SIP/2.0 200 ");
    let own = "Via: SIP/2.0/TCP 10.0.0.31;branch=z9hG4bK-i";
    let line = back.split_inclusive("\r\n").find(|line| line.starts_with(own)).unwrap().to_owned();
    world.say(CONTOSO, server, &back.replacen(&line, "", 1));
    let ok = world.expect(CONTOSO, alice, "SIP/2.0 200 ");
    assert_eq!(headers(&ok, "Record-Route").len(), 5, "{ok}");
    // Each to the other, by the server.
    let mut by_alice = invite.clone().branch("ua");
    (by_alice.method, by_alice.cseq, by_alice.to) = ("UPDATE", 2, format!("{};tag=b1", invite.to));
    let mut by_carol = by_alice.clone().branch("uc");
    std::mem::swap(&mut by_carol.from, &mut by_carol.to);
    let reverse: Vec<&str> = headers(&ok, "Record-Route").into_iter().rev().collect();
    let ends = [
        (alice, by_alice, reverse, carol),
        (carol, by_carol, headers(&got, "Record-Route"), alice),
    ];
    for (from, mut update, routes, to) in ends {
        set_routes(&mut update, &routes.iter().map(ToString::to_string).collect::<Vec<_>>());
        world.say(CONTOSO, from, &update.text());
        let got = world.expect(CONTOSO, server, "UPDATE ");
        let left = headers(&got, "Route");
        assert_eq!((left.len(), left[0]), (3, HUB), "{got}");
        world.say(CONTOSO, server, &passed_on(&got, &update.branch));
        let got = world.expect(CONTOSO, to, "UPDATE ");
        assert_eq!(headers(&got, "Route").len(), 0, "{got}");
    }
}

#[test]
fn a_dialog_of_a_remote_user_has_no_other_route_either() {
    let (mut world, alice) = super::remote::world();
    let hub = HUB;
    let invite = Req::new("INVITE", "contoso.example", "contoso.example");
    world.say(CONTOSO, alice, &invite.text());
    let (server, got) = world.mail(CONTOSO).remove(1);
    world.say(CONTOSO, server, &answer_through(&got, "200 OK", Some("b1"), &[hub]));
    let ok = world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
    for (more, passes) in [(None, true), (Some("<sip:10.0.0.99;lr>"), false)] {
        let mut update = within(&invite, &ok, &ok, if passes { "u1" } else { "u2" });
        update.headers.extend(more.map(|route| format!("Route: {route}")));
        world.say(CONTOSO, alice, &update.text());
        let (at, got) = world.one(CONTOSO);
        assert_eq!(at == server && headers(&got, "Route") == [hub], passes, "{got}");
        assert_eq!(at == alice && got.starts_with("SIP/2.0 403 "), !passes, "{got}");
    }
}

#[test]
fn the_token_stays_short() {
    let plain = call(CONTOSO);
    let through = call_through(CONTOSO, [SETS[4], SETS[4]]);
    let length = |call: &Call| headers(&call.ok, "Record-Route").iter().map(|r| r.len()).max();
    let (plain, through) = (length(&plain).unwrap(), length(&through).unwrap());
    assert!(through - plain <= 16, "{plain} {through}");
}

/// A request of alice's through the hub to a partner: alice, the partner's connection, and how it
/// arrives there.
fn calls_out(method: &'static str) -> (World, ConnectionId, ConnectionId, String) {
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example").branch("proof");
    world.say(CONTOSO, partner, &request.text());
    world.mail(CONTOSO);
    let request = Req::new(method, "contoso.example", "fabrikam.example")
        .with(format!("Record-Route: {HUB}"));
    world.say(CONTOSO, alice, &request.text());
    let mail = world.mail(CONTOSO);
    let (_, got) = mail.into_iter().find(|(at, _)| *at == partner).unwrap();
    (world, alice, partner, got)
}

#[test]
fn whoever_answers_chooses_no_host_inside() {
    type Change = fn(&mut Vec<String>);
    let rows: &[(&str, Change, bool)] = &[
        ("as it was", |_| {}, true),
        ("its own before ours", |set| set.insert(0, "<sip:p1.fabrikam.example;lr>".into()), true),
        ("the hub in other words", |set| *set.last_mut().unwrap() = format!("Hub {HUB};x=1"), true),
        ("one more behind", |set| set.push("<sip:10.0.0.99;lr>".into()), false),
        (
            "another in the hub's place",
            |set| *set.last_mut().unwrap() = "<sip:10.0.0.99;lr>".into(),
            false,
        ),
        ("the hub left out", |set| drop(set.pop()), false),
        ("we left out", |set| drop(set.drain(..2)), false),
        ("all left out", Vec::clear, false),
        ("only its own", |set| *set = vec!["<sip:10.0.0.99;lr>".into()], false),
    ];
    for (why, change, fits) in rows {
        for (method, status) in
            [("INVITE", "200 OK"), ("INVITE", "180 Ringing"), ("SUBSCRIBE", "200 OK")]
        {
            let (mut world, alice, partner, got) = calls_out(method);
            let mut set: Vec<String> =
                headers(&got, "Record-Route").into_iter().map(str::to_owned).collect();
            assert_eq!((set.len(), &*set[2]), (3, HUB), "{got}");
            change(&mut set);
            let plain = answer(&got, status, Some("b1"));
            let lines = plain.split("\r\n").filter(|line| !line.starts_with("Record-Route:"));
            let mut lines: Vec<String> = lines.map(str::to_owned).collect();
            for value in set.iter().rev() {
                lines.insert(1, format!("Record-Route: {value}"));
            }
            world.say(CONTOSO, partner, &lines.join("\r\n"));
            let told = world
                .mail(CONTOSO)
                .into_iter()
                .find(|(at, got)| *at == alice && !got.starts_with("SIP/2.0 100 "));
            let told = told.map(|(_, got)| got).unwrap_or_default();
            let spared = *why == "all left out" && status.starts_with("180");
            if *fits || spared {
                assert!(told.starts_with(&format!("SIP/2.0 {status}")), "{why} {method}: {told}");
                continue;
            }
            assert!(!told.contains("10.0.0.99"), "{why} {method}: {told}");
            let expected = if status.starts_with("180") { "" } else { "SIP/2.0 502 " };
            assert!(told.starts_with(expected), "{why} {method}: {told}");
            assert_eq!(told.is_empty(), expected.is_empty(), "{why} {method}: {told}");
        }
    }
}

#[test]
fn nor_does_a_second_answer_or_one_that_comes_again() {
    let (mut world, alice, partner, got) = calls_out("INVITE");
    world.say(CONTOSO, partner, &answer(&got, "200 OK", Some("b1")));
    world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
    for tag in ["b1", "b2"] {
        let good = answer(&got, "200 OK", Some(tag));
        let bad = good.replacen(HUB, "<sip:10.0.0.99;lr>", 1);
        assert_ne!(good, bad);
        world.say(CONTOSO, partner, &bad);
        assert_eq!(world.mail(CONTOSO), [], "{tag}");
        world.say(CONTOSO, partner, &good);
        world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
    }
}
