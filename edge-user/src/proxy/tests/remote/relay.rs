//! What a remote user may not do: the listener is no open relay, and no Path is written by others.

use super::*;

/// What alice, or whoever says so, sends; what becomes of it; and that nobody is connected to.
#[test]
fn nobody_uses_the_remote_listener_as_an_open_relay() {
    type Change = fn(&mut Req);
    let table: &[(&str, Change, &str, Refusal)] = &[
        (
            "a user without the right",
            |r| r.from = "<sip:bob@contoso.example>;tag=1".into(),
            "403",
            Refusal::UserNoOutside,
        ),
        ("no user", |r| r.from = "<sip:contoso.example>;tag=1".into(), "403", Refusal::NotOurUser),
        (
            "another domain's user",
            |r| r.from = "<sip:alice@fabrikam.example>;tag=1".into(),
            "403",
            Refusal::NotOurUser,
        ),
        (
            "a domain below ours",
            |r| r.from = "<sip:alice@it.contoso.example>;tag=1".into(),
            "403",
            Refusal::NotOurUser,
        ),
        (
            "an address as From",
            |r| r.from = "<sip:alice@10.0.0.21>;tag=1".into(),
            "403",
            Refusal::NotOurUser,
        ),
        (
            "a number as From",
            |r| r.from = "<tel:+15551234>;tag=1".into(),
            "403",
            Refusal::NotOurUser,
        ),
        (
            "userinfo tricks",
            |r| r.from = "<sip:alice@contoso.example@fabrikam.example>;tag=1".into(),
            "400",
            Refusal::Malformed,
        ),
        (
            "nobody",
            |r| r.from = "<sip:anonymous@anonymous.invalid>;tag=1".into(),
            "433",
            Refusal::Anonymous,
        ),
        (
            "nobody with an asserted identity",
            |r| {
                r.from = "<sip:anonymous@anonymous.invalid>;tag=1".into();
                r.headers.push("P-Asserted-Identity: <sip:alice@contoso.example>".into());
            },
            "433",
            Refusal::Anonymous,
        ),
        (
            "a second From",
            |r| r.headers.push("From: <sip:alice@contoso.example>;tag=2".into()),
            "400",
            Refusal::Malformed,
        ),
        (
            "a domain that is no partner",
            |r| r.uri = "sip:bob@third.example".into(),
            "403",
            Refusal::DomainNotAllowed,
        ),
        (
            "a blocked domain",
            |r| r.uri = "sip:bob@bad.example".into(),
            "403",
            Refusal::DomainBlocked,
        ),
        (
            "a host of ours",
            |r| r.uri = "sip:bob@pool.contoso.example".into(),
            "403",
            Refusal::Transit,
        ),
        ("this edge", |r| r.uri = "sip:bob@edge.contoso.example".into(), "403", Refusal::Transit),
        (
            "this edge by address",
            |r| r.uri = "sip:bob@203.0.113.10:443".into(),
            "403",
            Refusal::Transit,
        ),
        ("a server inside", |r| r.uri = "sip:bob@10.0.0.21:5060".into(), "403", Refusal::Transit),
        ("loopback", |r| r.uri = "sip:bob@127.0.0.1".into(), "403", Refusal::Transit),
        ("loopback, IPv6", |r| r.uri = "sip:bob@[::1]:5060".into(), "403", Refusal::Transit),
        (
            "a partner's edge by address",
            |r| r.uri = "sip:bob@203.0.113.20:5061".into(),
            "403",
            Refusal::Transit,
        ),
        (
            "a user who may not federate",
            |r| {
                r.from = "<sip:carol@contoso.example>;tag=1".into();
                r.uri = "sip:bob@fabrikam.example".into();
            },
            "403",
            Refusal::UserNoFederation,
        ),
        (
            "a foreign Route",
            |r| r.headers.push("Route: <sip:203.0.113.20:5061;lr>".into()),
            "403",
            Refusal::ForeignRoute,
        ),
        (
            "a Route inside",
            |r| r.headers.push("Route: <sip:10.0.0.21:5060;lr>".into()),
            "403",
            Refusal::ForeignRoute,
        ),
        (
            "us, then a foreign Route",
            |r| {
                r.headers.push(
                    "Route: <sip:edge.contoso.example:443;lr>, <sip:x@203.0.113.20;lr>".into(),
                )
            },
            "403",
            Refusal::ForeignRoute,
        ),
        (
            "a token that nobody signed",
            |r| {
                r.headers
                    .push(format!("Route: <sip:{}@edge.contoso.example:443;lr>", "A".repeat(80)))
            },
            "403",
            Refusal::ForeignRoute,
        ),
        (
            "a registration elsewhere",
            |r| {
                r.method = "REGISTER";
                r.uri = "sip:fabrikam.example".into();
            },
            "403",
            Refusal::Transit,
        ),
        (
            "a registration at a host of ours",
            |r| {
                r.method = "REGISTER";
                r.uri = "sip:pool.contoso.example".into();
            },
            "403",
            Refusal::Transit,
        ),
        (
            "a registration inside",
            |r| {
                r.method = "REGISTER";
                r.uri = "sip:10.0.0.21".into();
            },
            "403",
            Refusal::Transit,
        ),
        (
            "a registration for a partner's user",
            |r| {
                r.method = "REGISTER";
                r.uri = "sip:contoso.example".into();
                r.to = "<sip:bob@fabrikam.example>".into();
            },
            "403",
            Refusal::NotOurUser,
        ),
        (
            "a registration for a user without the right",
            |r| {
                r.method = "REGISTER";
                r.uri = "sip:contoso.example".into();
            },
            "403",
            Refusal::UserNoOutside,
        ),
        (
            "a registration with a Path of its own",
            |r| {
                r.method = "REGISTER";
                r.uri = "sip:contoso.example".into();
                r.to = "<sip:alice@contoso.example>".into();
                r.headers.push("Path: <sip:10.0.0.99;lr>".into());
            },
            "403",
            Refusal::ForeignRoute,
        ),
        ("compression", |r| r.method = "NEGOTIATE", "405", Refusal::Transit),
    ];
    for (what, change, status, reason) in table {
        let (mut world, alice) = world();
        world.set_policy(CONTOSO, outside_policy(&["fabrikam.example"], &["bad.example"]));
        let mut request = Req::new("MESSAGE", "contoso.example", "contoso.example");
        change(&mut request);
        world.say(CONTOSO, alice, &request.text());
        let got = world.expect(CONTOSO, alice, &format!("SIP/2.0 {status} "));
        assert_eq!(world.edges[CONTOSO].connects, [], "{what}");
        assert_eq!(world.edges[CONTOSO].questions, [], "{what}");
        if *status != "405" {
            assert_eq!(world.refused(CONTOSO, *reason), 1, "{what}: {got}");
            let public = headers(&got, "ms-diagnostics-public");
            let named = public.iter().any(|value| value.contains(reason.name()));
            assert!(named || *reason == Refusal::Malformed, "{what}: {got}");
        }
        assert_eq!(headers(&got, "ms-diagnostics").len(), 0, "{what}: {got}");
    }
}

#[test]
fn with_discovery_hosts_of_ours_are_named_by_nobody_all_the_same() {
    let (mut world, alice) = world();
    let mut federation = Federation { discovery: true, ..federation(&[], &[]) };
    federation.users.push(UserPolicy {
        users: vec![UserPattern::Everyone],
        rights: Rights { outside: true, ..Rights::default() },
    });
    world.set_policy(CONTOSO, Arc::new(Policy::new(&[domain("contoso.example")], &federation)));
    for (uri, passes) in [
        ("sip:bob@anybody.example", true),
        ("sip:bob@pool.contoso.example", false),
        ("sip:bob@edge.contoso.example", false),
    ] {
        let mut request = Req::new("MESSAGE", "contoso.example", "contoso.example").branch(uri);
        request.uri = uri.into();
        world.say(CONTOSO, alice, &request.text());
        let (at, got) = world.one(CONTOSO);
        assert_eq!(at != alice, passes, "{uri}: {got}");
    }
}

#[test]
fn a_path_is_for_our_own_servers_only_and_nobody_writes_one() {
    let (mut world, alice) = world();
    let (server, path) = registered(&mut world, alice);
    // Who is outside and knows it gets nothing for it.
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let eve = world.remote(CONTOSO, "198.51.100.66:50000");
    for (at, from) in [
        (partner, "bob@fabrikam.example"),
        (eve, "alice@contoso.example"),
        (alice, "alice@contoso.example"),
    ] {
        let mut invite = invite_by(&path).branch(from);
        invite.from = format!("<sip:{from}>;tag=x");
        world.say(CONTOSO, at, &invite.text());
        world.expect(CONTOSO, at, "SIP/2.0 403 ");
    }
    assert_eq!(world.refused(CONTOSO, Refusal::ForeignRoute), 3);
    // Each changed character makes it nobody's.
    let user = path.split(['@', ':']).nth(1).unwrap().to_owned();
    for place in [0, 5, 20, user.len() - 1] {
        let mut forged = user.clone().into_bytes();
        forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
        let forged = path.replace(&user, std::str::from_utf8(&forged).unwrap());
        world.say(CONTOSO, server, &invite_by(&forged).branch(&format!("f{place}")).text());
        world.expect(CONTOSO, server, "SIP/2.0 403 ");
    }
}
