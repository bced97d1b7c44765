//! What the outside can make us hold is bounded.

use std::time::Duration;

use super::*;
use crate::{
    config::{Federation, Transport},
    federation::Policy,
};

fn request(branch: usize) -> Req {
    Req::new("MESSAGE", "fabrikam.example", "contoso.example").branch(&branch.to_string())
}

#[test]
fn beyond_the_bound_requests_get_503() {
    type Bound = fn(&mut Bounds);
    let bounds: [(&str, Bound, bool); 3] = [
        ("transactions", |bounds| bounds.transactions = 6, true),
        ("waiting", |bounds| bounds.waiting = 12, false),
        ("waiting bytes", |bounds| bounds.waiting_bytes = 700, false),
    ];
    for (why, bound, answered) in bounds {
        let mut world = World::new();
        world.configure(CONTOSO, |config| bound(&mut config.bounds));
        if !answered {
            world.dns.clear();
        }
        let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["sip.fabrikam.example"]);
        for branch in 0..8 {
            world.say(CONTOSO, partner, &request(branch).text());
        }
        let refused = world.mail(CONTOSO);
        let refused = refused.iter().filter(|(at, _)| *at == partner).collect::<Vec<_>>();
        assert_eq!(refused.len(), 5, "{why}: {refused:#?}");
        assert!(refused.iter().all(|(_, got)| got.starts_with("SIP/2.0 503 ")), "{why}");
        for (_, got) in refused {
            let wait: u64 = headers(got, "Retry-After")[0].parse().unwrap();
            assert!((5..=15).contains(&wait), "{why}: {wait}");
        }
        assert_eq!(world.refused(CONTOSO, Refusal::Overload), 5);
        world.pass(Duration::from_secs(60));
        assert_eq!(world.live(), 0, "{why}");
        let counters = world.edges[CONTOSO].proxy.counters();
        assert_eq!(counters.waiting, 0, "{why}");
    }
}

#[test]
fn the_fuller_it_is_the_fewer_new_dialogs_begin_and_those_that_stand_go_on() {
    let mut call = dialogs::call(FABRIKAM);
    let [ack, info, bye] = [("ACK", 1), ("INFO", 2), ("BYE", 3)]
        .map(|(method, cseq)| call.by_caller(method, cseq).text());
    let world = &mut call.world;
    let lists = Federation {
        discovery: true,
        ..federation(&[allow("fabrikam.example"), allow("third.example")], &[])
    };
    let lists = Policy::new(&[domain("contoso.example")], &lists);
    world.set_policy(CONTOSO, std::sync::Arc::new(lists));
    let (to, callee) = call.callee;
    world.say(FABRIKAM, call.caller.1, &ack);
    world.expect(to, callee, "ACK ");
    world.reconfigure(CONTOSO, |config| config.bounds.transactions = 20);
    let known = [("fabrikam.example", "203.0.113.20:5000"), ("third.example", "203.0.113.30:5000")]
        .map(|(name, at)| (name, world.partner(CONTOSO, at, &[name])));
    let stranger = world.partner(CONTOSO, "203.0.113.40:5000", &["stranger.example"]);
    let live = |world: &World| world.edges[CONTOSO].proxy.counters().transactions;
    let mut number = 0;
    // Whether a new request goes through.
    let mut new = |world: &mut World, from: &str, at| {
        number += 1;
        let request = Req::new("MESSAGE", from, "contoso.example").branch(&format!("n{number}"));
        let before = live(world);
        world.say(CONTOSO, at, &request.text());
        let refused = world.mail(CONTOSO).into_iter().any(|(_, got)| got.contains(" 503 "));
        assert_eq!(live(world) > before, !refused);
        !refused
    };
    while live(world) < 16 {
        let (name, at) = known[live(world) % 2];
        assert!(new(world, name, at), "at {}", live(world));
    }
    assert!(new(world, "stranger.example", stranger), "at 80 % everybody");
    assert!(!new(world, "stranger.example", stranger), "above 80 % nothing new of strangers");
    assert!(!new(world, "third.example", stranger), "nor of who only says that it is a partner");
    assert!(new(world, "third.example", known[1].1), "but of partners with an entry");
    assert!(new(world, "fabrikam.example", known[0].1), "up to 90 %");
    assert!(!new(world, "third.example", known[1].1), "and then nothing new of anybody");
    world.say(FABRIKAM, call.caller.1, &info);
    world.expect(to, callee, "INFO ");
    assert_eq!(live(world), 20);
    world.say(FABRIKAM, call.caller.1, &bye);
    // Our 503 ends at the partner's edge (RFC 3261 section 16.7).
    world.expect(FABRIKAM, call.caller.1, "SIP/2.0 500 ");
    assert_eq!(world.refused(CONTOSO, Refusal::Overload), 4);
}

#[test]
fn many_partners_together_wait_within_the_bound() {
    let mut world = World::new();
    world.configure(CONTOSO, |config| config.bounds.waiting = 2);
    let partners = ["one.example", "two.example", "three.example"];
    world.set_policy(CONTOSO, policy("contoso.example", &partners.map(allow), &[]));
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    for (partner, refused) in partners.into_iter().zip([0, 0, 1]) {
        let request = Req::new("MESSAGE", "contoso.example", partner).branch(partner);
        world.say(CONTOSO, alice, &request.text());
        assert_eq!(world.refused(CONTOSO, Refusal::Overload), refused, "{partner}");
    }
    world.expect(CONTOSO, alice, "SIP/2.0 503 ");
}

#[test]
fn what_waits_too_long_is_told_so() {
    let mut world = World::new();
    world.dns.clear();
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["sip.fabrikam.example"]);
    let invite = Req::new("INVITE", "contoso.example", "fabrikam.example");
    world.say(CONTOSO, alice, &invite.text());
    world.expect(CONTOSO, alice, "SIP/2.0 100 ");
    world.say(CONTOSO, partner, &request(1).text());
    world.pass(Duration::from_secs(4));
    world.expect(CONTOSO, partner, "SIP/2.0 100 ");
    world.pass(Duration::from_secs(7));
    let mail = world.mail(CONTOSO);
    assert_eq!(mail.len(), 2, "{mail:?}");
    for (at, got) in mail {
        let status = if at == alice { "SIP/2.0 408 " } else { "SIP/2.0 504 " };
        assert!(got.starts_with(status), "{got}");
    }
}

#[test]
fn a_lookup_that_ends_late_finds_nobody() {
    let mut world = World::new();
    world.dns.clear();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["sip.fabrikam.example"]);
    world.say(CONTOSO, partner, &request(1).text());
    world.cut(CONTOSO, partner);
    let valid_until = world.now + Duration::from_secs(60);
    let hosts = vec![host("sip.fabrikam.example", &["203.0.113.20"])];
    world.input(
        CONTOSO,
        Input::Resolved { query: QueryId(0), result: Ok(Resolved { hosts, valid_until }) },
    );
    assert_eq!(world.mail(CONTOSO), []);
    assert_eq!(world.live(), 0);
}

#[test]
fn answers_to_nothing_are_ignored() {
    let mut world = World::new();
    let unknown = ConnectionId(999);
    world.input(CONTOSO, Input::Closed { connection: unknown });
    world
        .input(CONTOSO, Input::Resolved { query: QueryId(9), result: Err(ResolveError::NotFound) });
    world
        .input(CONTOSO, Input::ConnectFailed { attempt: AttemptId(9), error: ConnectError::Limit });
    world.say(CONTOSO, unknown, &request(1).text());
    assert_eq!(world.mail(CONTOSO), []);
}

#[test]
fn mutated_messages_never_panic() {
    let mut world = World::new();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let alice = world.inside(CONTOSO, Transport::Udp, "10.0.0.5:5060");
    let text = Req::new("INVITE", "fabrikam.example", "contoso.example")
        .with("Route: <sip:AQAAAAAA@edge.contoso.example;lr>")
        .with("Record-Route: <sip:x@y.example;lr>")
        .text();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    for _ in 0..3000 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = (state >> 8) as usize % bytes.len();
            match state & 3 {
                0 => bytes[at] = (state >> 32) as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b";<>@,: \r"[(state >> 40) as usize % 8]),
                _ => bytes.truncate(at.max(20)),
            }
        }
        world.say_bytes(CONTOSO, partner, &bytes);
        world.say_bytes(CONTOSO, alice, &bytes);
    }
    world.pass(Duration::from_secs(400));
    assert_eq!(world.live(), 0);
}

#[test]
fn one_partner_leaves_room_for_the_others() {
    let mut world = World::new();
    world.configure(CONTOSO, |config| config.bounds.transactions = 6);
    let lists = [allow("fabrikam.example"), allow("third.example")];
    world.set_policy(CONTOSO, policy("contoso.example", &lists, &[]));
    let greedy = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let again = world.partner(CONTOSO, "203.0.113.20:5001", &["fabrikam.example"]);
    let third = world.partner(CONTOSO, "203.0.113.30:5000", &["third.example"]);
    for branch in 0..3 {
        world.say(CONTOSO, greedy, &request(branch).text());
        world.say(CONTOSO, again, &request(branch + 10).text());
    }
    let refused = world.mail(CONTOSO).iter().filter(|(_, got)| got.contains(" 503 ")).count();
    assert_eq!(refused, 3);
    let honest = Req::new("MESSAGE", "third.example", "contoso.example").branch("t");
    world.say(CONTOSO, third, &honest.text());
    assert!(world.one(CONTOSO).1.starts_with("MESSAGE "));
}

#[test]
fn a_partner_that_cannot_be_reached_leaves_room_for_the_others() {
    let mut world = World::new();
    world.configure(CONTOSO, |config| config.bounds.waiting = 12);
    let lists = [allow("fabrikam.example"), allow("third.example")];
    world.set_policy(CONTOSO, policy("contoso.example", &lists, &[]));
    world.dns.remove(&Question::Federation(domain("fabrikam.example")));
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    for branch in 0..6 {
        let request = Req::new("MESSAGE", "contoso.example", "fabrikam.example");
        world.say(CONTOSO, alice, &request.branch(&branch.to_string()).text());
    }
    assert_eq!(world.mail(CONTOSO).len(), 3, "503 for those beyond a quarter");
    let third = vec![host("sip.third.example", &["203.0.113.30"])];
    world.dns.insert(Question::Federation(domain("third.example")), Ok(third));
    let listener = Listener::Script(names(&["sip.third.example"]));
    world.listeners.insert(address("203.0.113.30:5061"), listener);
    let request = Req::new("MESSAGE", "contoso.example", "third.example").branch("t");
    world.say(CONTOSO, alice, &request.text());
    assert!(world.one(CONTOSO).1.starts_with("MESSAGE "));
}
