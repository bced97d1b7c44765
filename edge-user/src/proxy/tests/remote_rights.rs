//! Remote users: how much one of them may have open, and what ends with the right to be outside.

use std::time::Duration;

use super::{
    remote::{
        HOME, invite_by, outside_policy, policy_for, register, registered, registered_as, world,
    },
    *,
};

#[test]
fn a_user_who_loses_the_right_loses_the_connection() {
    let (mut world, alice) = world();
    registered(&mut world, alice);
    let bystander = world.remote(CONTOSO, "[2001:db8::7]:50000");
    world.set_policy(CONTOSO, policy("contoso.example", &[], &[]));
    assert_eq!(world.edges[CONTOSO].closed, [(alice, Refusal::UserNoOutside)]);
    // Who is not registered is judged by what it sends.
    world.say(CONTOSO, bystander, &register("alice").text());
    world.expect(CONTOSO, bystander, "SIP/2.0 403 ");
}

#[test]
fn one_user_s_connection_holds_a_small_share_of_the_transactions() {
    let (mut world, alice) = world();
    world.configure(CONTOSO, |config| config.bounds.transactions = 2000);
    world.set_policy(CONTOSO, outside_policy(&["fabrikam.example"], &[]));
    let alice = {
        let _ = alice;
        world.remote(CONTOSO, HOME)
    };
    let other = world.remote(CONTOSO, "[2001:db8::7]:50000");
    for number in 0..6 {
        let request = Req::new("MESSAGE", "contoso.example", "contoso.example");
        world.say(CONTOSO, alice, &request.branch(&format!("m{number}")).text());
    }
    let refused = world.mail(CONTOSO).iter().filter(|(at, _)| *at == alice).count();
    assert_eq!(refused, 1, "five of 2000 are its share");
    world.say(CONTOSO, other, &Req::new("MESSAGE", "contoso.example", "contoso.example").text());
    assert_ne!(world.one(CONTOSO).0, other, "somebody else's go on");
}

#[test]
fn what_ends_a_dialog_passes_over_its_connections_bound_only_as_far_again() {
    let mut world = World::new();
    world.configure(CONTOSO, |config| config.bounds.transactions = 2000);
    world.set_policy(CONTOSO, outside_policy(&["fabrikam.example"], &[]));
    let alice = world.remote(CONTOSO, HOME);
    let send = |world: &mut World, at, method: &'static str, number: usize| {
        let request = Req::new(method, "contoso.example", "contoso.example");
        world.say(CONTOSO, at, &request.branch(&format!("{method}{number}")).text());
        world.mail(CONTOSO).iter().all(|(to, _)| *to != at)
    };
    for number in 0..5 {
        assert!(send(&mut world, alice, "MESSAGE", number));
    }
    assert!(!send(&mut world, alice, "MESSAGE", 5), "five of 2000 are its share");
    for number in 0..5 {
        assert!(send(&mut world, alice, "BYE", number), "as far again");
    }
    for number in 5..60 {
        assert!(!send(&mut world, alice, "BYE", number), "and no farther");
    }
    let same_source = world.remote(CONTOSO, "198.51.100.7:50001");
    assert!(send(&mut world, same_source, "MESSAGE", 99), "others there go on");
}

#[test]
fn the_remote_users_of_one_source_hold_a_small_share_of_the_transactions() {
    for (source, other) in
        [("198.51.100.7", "[2001:db8::7]:1"), ("[2001:db8::7]", "198.51.100.7:1")]
    {
        let mut world = World::new();
        world.configure(CONTOSO, |config| config.bounds.transactions = 2000);
        world.set_policy(CONTOSO, outside_policy(&["fabrikam.example"], &[]));
        let message = || Req::new("MESSAGE", "contoso.example", "contoso.example");
        let mut refused = 0;
        for port in 0..9 {
            let at = world.remote(CONTOSO, &format!("{source}:{}", 50000 + port));
            for number in 0..5 {
                world.say(CONTOSO, at, &message().branch(&format!("m{port}-{number}")).text());
                refused += world.mail(CONTOSO).iter().filter(|(to, _)| *to == at).count();
            }
        }
        assert_eq!(refused, 5, "forty of 2000 are the share of a source");
        let other = world.remote(CONTOSO, other);
        world.say(CONTOSO, other, &message().text());
        assert_ne!(world.one(CONTOSO).0, other, "somebody else's go on");
        // What is done counts no more.
        world.pass(Duration::from_secs(70));
        world.mail(CONTOSO);
        let again = world.remote(CONTOSO, &format!("{source}:51000"));
        world.say(CONTOSO, again, &message().branch("again").text());
        assert!(world.mail(CONTOSO).iter().all(|(to, _)| *to != again));
    }
}

#[test]
fn who_called_and_lost_the_right_is_written_to_no_more() {
    let (mut world, alice) = world();
    let invite = Req::new("INVITE", "contoso.example", "contoso.example")
        .with("Contact: <sip:alice@192.168.1.5:5061;transport=tls>");
    world.say(CONTOSO, alice, &invite.text());
    let mail = world.mail(CONTOSO);
    let (server, got) = mail[1].clone();
    world.say(CONTOSO, server, &answer(&got, "200 OK", Some("b1")));
    world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
    let routes = headers(&got, "Record-Route");
    let mut within = invite.clone();
    within.uri = "sip:alice@192.168.1.5:5061;transport=tls".into();
    within.from = format!("{};tag=b1", invite.to);
    within.to = invite.from.clone();
    within.transport = "TCP";
    within.headers = vec!["Max-Forwards: 70".into()];
    within.headers.extend(routes.iter().map(|route| format!("Route: {route}")));
    let mut say = |method: &'static str, number: u32, branch: &str, to_alice: bool| {
        if number == 3 {
            world.set_policy(CONTOSO, policy("contoso.example", &[], &[]));
        }
        let mut request = within.clone().branch(branch);
        (request.method, request.cseq) = (method, number);
        world.say(CONTOSO, server, &request.text());
        let mail = world.mail(CONTOSO);
        assert_eq!(mail.iter().any(|(to, _)| *to == alice), to_alice, "{number}: {mail:#?}");
        world.refused(CONTOSO, Refusal::UserNoOutside)
    };
    // She is not registered: the connection stays.
    assert_eq!(say("MESSAGE", 2, "w2", true), 0);
    assert_eq!(say("MESSAGE", 3, "w3", false), 1);
    assert_eq!(say("BYE", 4, "w4", true), 1);
}

#[test]
fn who_was_called_and_lost_the_right_is_written_to_no_more_and_writes_no_more() {
    for asked in ["alice", "sales"] {
        let (mut world, alice) = world();
        // carol has been there too.
        registered_as(&mut world, alice, "carol");
        let (server, path) = registered(&mut world, alice);
        let mut invite = invite_by(&path);
        invite.to = format!("<sip:{asked}@contoso.example>");
        world.say(CONTOSO, server, &invite.text());
        let got = world.mail(CONTOSO).remove(1).1;
        world.say(CONTOSO, alice, &answer(&got, "200 OK", Some("a1")));
        world.expect(CONTOSO, server, "SIP/2.0 200 OK");
        let mut inward = invite.clone();
        inward.to.push_str(";tag=a1");
        inward.headers = vec!["Max-Forwards: 70".into()];
        let routes = headers(&got, "Record-Route");
        inward.headers.extend(routes.iter().map(|route| format!("Route: {route}")));
        let mut outward = inward.clone();
        std::mem::swap(&mut outward.from, &mut outward.to);
        outward.uri = "sip:bob@10.0.0.21:5060;transport=tcp".into();
        // Her registration ends, her call does not.
        world.pass(Duration::from_secs(700));
        let now = world.now;
        world.edges[CONTOSO].proxy.tidy_users(now);
        let mut number = 1;
        let mut passes = |world: &mut World, method: &'static str, by_alice: bool| {
            number += 1;
            let (from, to) = if by_alice { (alice, server) } else { (server, alice) };
            let request = if by_alice { &outward } else { &inward };
            let mut request = request.clone().branch(&format!("n{number}"));
            (request.method, request.cseq) = (method, number);
            world.say(CONTOSO, from, &request.text());
            let (at, got) = world.one(CONTOSO);
            assert!(at == to || got.starts_with("SIP/2.0 403 "), "{got}");
            at == to
        };
        for by_alice in [true, false] {
            assert!(passes(&mut world, "INFO", by_alice), "{asked}");
        }
        // Another's right is nothing to her, unless it may be that one who was called; hers is
        // everything but the end.
        world.set_policy(CONTOSO, policy_for(&[("alice", true)], &[], &[]));
        for by_alice in [true, false] {
            assert_eq!(passes(&mut world, "INFO", by_alice), asked == "alice");
        }
        world.set_policy(CONTOSO, policy("contoso.example", &[], &[]));
        assert_eq!(world.edges[CONTOSO].closed, []);
        for by_alice in [true, false] {
            assert!(!passes(&mut world, "INFO", by_alice), "{asked}");
        }
        assert!(passes(&mut world, "BYE", false));
    }
}
