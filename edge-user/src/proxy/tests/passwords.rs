//! Passwords of remote users: what counts as a wrong one, and whom that shuts out.

use std::time::Duration;

use super::{
    remote::{HOME, register, world},
    *,
};

/// A registration with this account's password, and what the server says to it.
fn guess(world: &mut World, at: ConnectionId, account: &str, number: usize, reply: &str) {
    let text = register("alice").branch(&format!("g{account}{number}{}", at.0)).text();
    let text = text.replace("username=\"alice\"", &format!("username=\"{account}\""));
    world.say(CONTOSO, at, &text);
    let (to, got) = world.one(CONTOSO);
    assert_ne!(to, at, "{got}");
    let (status, header) = reply.split_once('\n').unwrap_or((reply, "X: y"));
    let answered = answer(&got, status, Some("r1"))
        .replace("Content-Length", &format!("{header}\r\nContent-Length"));
    world.say(CONTOSO, to, &answered);
    world.expect(CONTOSO, at, &format!("SIP/2.0 {}", &status[..3]));
}

#[test]
fn wrong_passwords_are_a_ban_and_nobody_else_feels_it() {
    for reply in ["401 Unauthorized", "407 Proxy Authentication Required", "403 Forbidden"] {
        let (mut world, alice) = world();
        let other = world.remote(CONTOSO, "[2001:db8::7]:50000");
        let second = world.remote(CONTOSO, "198.51.100.7:50001");
        for number in 0..10 {
            assert!(!world.edges[CONTOSO].proxy.refuses(world.now, address(HOME).ip()));
            guess(&mut world, alice, "alice", number, reply);
        }
        let banned = world.edges[CONTOSO].proxy.refuses(world.now, address(HOME).ip());
        assert!(banned, "{reply}");
        let mut closed = world.edges[CONTOSO].closed.clone();
        closed.sort_unstable_by_key(|(id, _)| *id);
        assert_eq!(closed, [(alice, Refusal::Banned), (second, Refusal::Banned)]);
        let banned = |event: &&Event| matches!(event, Event::Banned { seconds: 600, .. });
        assert_eq!(world.edges[CONTOSO].events.iter().filter(banned).count(), 1);
        guess(&mut world, other, "alice", 0, "200 OK");
        assert_eq!(world.edges[CONTOSO].proxy.bans(world.now).len(), 1);
        let home = "198.51.100.0/24".parse().unwrap();
        let now = world.now;
        // Nothing of it is connected: it may be dropped.
        let shut = world.edges[CONTOSO].proxy.shut_sources(now);
        assert_eq!(shut, [(address(HOME).ip(), Duration::from_secs(600))]);
        assert_eq!(world.edges[CONTOSO].proxy.forgive_source(now, &home), 1);
        assert!(!world.edges[CONTOSO].proxy.refuses(world.now, address(HOME).ip()));
        assert_eq!(world.edges[CONTOSO].proxy.shut_sources(now), []);
    }
}

#[test]
fn what_is_no_wrong_password_is_no_failure() {
    for reply in [
        "401 Unauthorized\nWWW-Authenticate: Digest realm=\"c\", nonce=\"2\", stale=true",
        "407 Proxy Authentication Required\nProxy-Authenticate: NTLM realm=\"c\", gssapi-data=\"x\"",
        "404 Not Found",
        "500 Server Internal Error",
    ] {
        let (mut world, alice) = world();
        for number in 0..30 {
            guess(&mut world, alice, "alice", number, reply);
        }
        assert_eq!(world.edges[CONTOSO].proxy.bans(world.now), [], "{reply}");
    }
    // Without credentials a challenge is what begins every sign-in; and what we refuse ourselves
    // says nothing of a password.
    let (mut world, alice) = world();
    for number in 0..30 {
        let mut request = register("alice").branch(&format!("n{number}"));
        request.headers.retain(|header| !header.starts_with("Authorization"));
        world.say(CONTOSO, alice, &request.text());
        let (server, got) = world.one(CONTOSO);
        world.say(CONTOSO, server, &answer(&got, "401 Unauthorized", Some("r")));
        world.expect(CONTOSO, alice, "SIP/2.0 401");
        world.say(CONTOSO, alice, &register("bob").branch(&format!("b{number}")).text());
        world.expect(CONTOSO, alice, "SIP/2.0 403");
    }
    assert_eq!(world.edges[CONTOSO].proxy.bans(world.now), []);
}

#[test]
fn a_user_whose_password_is_guessed_from_everywhere_is_slowed_and_goes_on() {
    let (mut world, alice) = world();
    guess(&mut world, alice, "alice", 0, "200 OK");
    // Ten slow her down, eight have a pace of their own, and all others one together.
    for n in 0..19 {
        let at = world.remote(CONTOSO, &format!("203.0.113.{}:5000", 100 + n));
        guess(&mut world, at, "ALICE@contoso.example", n, "401 Unauthorized");
    }
    let new = world.remote(CONTOSO, "203.0.113.99:5000");
    world.say(CONTOSO, new, &register("alice").branch("slow").text());
    let got = world.expect(CONTOSO, new, "SIP/2.0 503 ");
    assert_eq!(headers(&got, "Retry-After").len(), 1, "{got}");
    assert_eq!(world.refused(CONTOSO, Refusal::UserSlowed), 1);
    guess(&mut world, alice, "alice", 1, "200 OK");
    world.pass(Duration::from_secs(10));
    guess(&mut world, new, "alice", 2, "200 OK");
    assert_eq!(world.edges[CONTOSO].proxy.slowed_users(world.now), 1);
    assert!(world.edges[CONTOSO].proxy.forgive_user("alice", &domain("contoso.example")));
    assert_eq!(world.edges[CONTOSO].proxy.slowed_users(world.now), 0);
}

/// A request that brings alice's credentials, and what the server says to it.
fn bring(world: &mut World, at: ConnectionId, method: &'static str, branch: &str, status: &str) {
    let mut request = register("alice").branch(branch);
    if method != "REGISTER" {
        request.method = method;
        request.uri = "sip:bob@contoso.example".into();
        request.to = "<sip:bob@contoso.example>".into();
    }
    world.say(CONTOSO, at, &request.text());
    let (to, got) = world.one(CONTOSO);
    assert_ne!(to, at, "{got}");
    world.say(CONTOSO, to, &answer(&got, status, Some("r1")));
    world.expect(CONTOSO, at, &format!("SIP/2.0 {}", &status[..3]));
}

#[test]
fn credentials_that_are_not_the_sender_s_alone_go_nowhere() {
    let (alice, carol) = ("Digest username=\"alice\"", "Digest username=\"carol\"");
    let authorization = |value: &str| format!("Authorization: {value}");
    let proxy = |value: &str| format!("Proxy-Authorization: {value}");
    for (headers, passes) in [
        (vec![authorization(alice)], true),
        (vec![authorization(alice), proxy(alice)], true),
        (vec![proxy("NTLM realm=\"c\", gssapi-data=\"TlRM\"")], true),
        (vec![authorization("Digest username=\"CONTOSO\\\\Alice\"")], true),
        (vec![authorization("Digest username=\"alice@contoso.example\"")], true),
        (vec![authorization(carol)], false),
        (vec![authorization(carol), authorization(alice)], false),
        (vec![authorization(alice), authorization(carol)], false),
        (vec![authorization(alice), authorization(alice)], false),
        (vec![authorization(alice), proxy(carol)], false),
        (vec![authorization("Digest\tusername=\"carol\"")], false),
        (vec![authorization("Digest username=\"c\\arol\"")], false),
        (vec![authorization("Digest username=\"alice\", username=\"carol\"")], false),
        (vec![authorization("Digest response=\"0\"")], false),
        (vec![authorization("Basic YWxpY2U6eA==")], false),
    ] {
        let (mut world, at) = world();
        let mut request = register("alice");
        request.headers.retain(|header| !header.starts_with("Authorization"));
        request.headers.extend(headers.clone());
        world.say(CONTOSO, at, &request.text());
        let (to, got) = world.one(CONTOSO);
        assert_eq!(to != at, passes, "{headers:?}: {got}");
        if !passes {
            assert!(got.starts_with("SIP/2.0 400 "), "{headers:?}: {got}");
            assert_eq!(world.refused(CONTOSO, Refusal::Credentials), 1);
        }
    }
    // Nor does anybody register another with them.
    let (mut world, at) = world();
    let mut request = register("alice");
    request.to = "<sip:carol@contoso.example>".into();
    world.say(CONTOSO, at, &request.text());
    world.expect(CONTOSO, at, "SIP/2.0 400 ");
}

#[test]
fn nothing_but_a_registration_shows_that_a_password_is_right() {
    let (mut world, alice) = world();
    for number in 0..9 {
        guess(&mut world, alice, "alice", number, "401 Unauthorized");
        for method in ["OPTIONS", "MESSAGE"] {
            bring(&mut world, alice, method, &format!("{method}{number}"), "200 OK");
        }
    }
    assert_eq!(world.edges[CONTOSO].proxy.bans(world.now), []);
    guess(&mut world, alice, "alice", 9, "401 Unauthorized");
    assert_eq!(world.edges[CONTOSO].proxy.bans(world.now).len(), 1);
}

#[test]
fn whoever_is_called_has_nobody_shut_out() {
    // Where she got in, an answer to a call is no word on her password; elsewhere a challenge is.
    for (signed_in, status, bans) in [
        (true, "401 Unauthorized", 0),
        (true, "403 Forbidden", 0),
        (true, "407 Proxy Authentication Required", 0),
        (false, "403 Forbidden", 0),
        (false, "401 Unauthorized", 1),
        (false, "407 Proxy Authentication Required", 1),
    ] {
        let (mut world, alice) = world();
        if signed_in {
            guess(&mut world, alice, "alice", 0, "200 OK");
        }
        for number in 0..10 {
            bring(&mut world, alice, "MESSAGE", &format!("m{number}"), status);
        }
        let banned = world.edges[CONTOSO].proxy.bans(world.now);
        assert_eq!(banned.len(), bans, "{signed_in} {status}");
    }
}

#[test]
fn who_is_registered_stays_when_a_neighbour_behind_the_same_address_is_banned() {
    for home in [HOME, "[2001:db8::7]:50000"] {
        let (mut world, _) = world();
        let alice = world.remote(CONTOSO, home);
        let eve = world.remote(CONTOSO, &home.replace("50000", "50001"));
        guess(&mut world, alice, "alice", 0, "200 OK");
        for number in 0..10 {
            guess(&mut world, eve, "alice", number, "401 Unauthorized");
        }
        let closed = &world.edges[CONTOSO].closed;
        assert!(closed.contains(&(eve, Refusal::Banned)), "{closed:?}");
        assert!(closed.iter().all(|(id, _)| *id != alice), "{closed:?}");
        assert!(world.edges[CONTOSO].proxy.refuses(world.now, address(home).ip()));
        // As long as she is there, what comes from there is not dropped.
        assert_eq!(world.edges[CONTOSO].proxy.shut_sources(world.now), []);
        // She renews her registration, with her password; and nobody guesses another's there.
        guess(&mut world, alice, "alice", 1, "200 OK");
        let mut request = register("carol").branch("carol");
        request.headers.retain(|header| !header.starts_with("Authorization"));
        request.headers.push("Authorization: Digest username=\"carol\"".into());
        world.say(CONTOSO, alice, &request.text());
        world.expect(CONTOSO, alice, "SIP/2.0 403 ");
        assert_eq!(world.refused(CONTOSO, Refusal::Banned), 1);
        // Who guesses on a registered connection loses it with the ban.
        guess(&mut world, alice, "alice", 2, "401 Unauthorized");
        world.say(CONTOSO, alice, &register("alice").branch("last").text());
        world.expect(CONTOSO, alice, "SIP/2.0 403 ");
        let input = Input::Closed { connection: alice };
        world.input(CONTOSO, input);
        assert_eq!(world.edges[CONTOSO].proxy.shut_sources(world.now).len(), 1);
    }
}

#[test]
fn who_does_not_wait_for_a_slowed_user_is_shut_out() {
    let (mut world, _) = world();
    for n in 0..10 {
        let at = world.remote(CONTOSO, &format!("203.0.113.{}:5000", 100 + n));
        guess(&mut world, at, "alice", n, "401 Unauthorized");
    }
    let eve = world.remote(CONTOSO, "203.0.113.99:5000");
    guess(&mut world, eve, "alice", 0, "401 Unauthorized");
    for number in 0..9 {
        assert_eq!(world.edges[CONTOSO].closed, []);
        world.say(CONTOSO, eve, &register("alice").branch(&format!("e{number}")).text());
        world.expect(CONTOSO, eve, "SIP/2.0 503 ");
    }
    assert_eq!(world.edges[CONTOSO].closed, [(eve, Refusal::Banned)]);
}

#[test]
fn who_is_never_banned_from_now_on_is_let_in_again() {
    let (mut world, alice) = world();
    for number in 0..10 {
        guess(&mut world, alice, "alice", number, "401 Unauthorized");
    }
    for (never, banned) in [("203.0.113.0/24", true), ("198.51.100.0/24", false)] {
        world.reconfigure(CONTOSO, |config| {
            config.remote.guard.never = vec![never.parse().unwrap()]
        });
        assert_eq!(world.edges[CONTOSO].proxy.refuses(world.now, address(HOME).ip()), banned);
        let ban = world.edges[CONTOSO].proxy.ban_of(world.now, address(HOME).ip());
        assert_eq!(ban.is_some(), banned, "{never}");
    }
}
