//! Strict routers (RFC 2543) before us and after us: RFC 3261 sections 16.4 and 16.6 step 6.

use super::{
    dialogs::{Call, call, call_through},
    *,
};

/// The caller's BYE as the callee's edge gets it, when a strict router stands between: our URI in
/// the place of the Request-URI, and that as the last Route.
fn strict_bye(call: &Call) -> Req {
    let mut bye = call.by_caller("BYE", 2);
    // The first two Routes are the caller's edge's.
    let mut routes: Vec<String> =
        bye.headers.iter().filter(|h| h.starts_with("Route:")).skip(2).cloned().collect();
    bye.headers.retain(|header| !header.starts_with("Route:"));
    let ours = routes.remove(0);
    let target = std::mem::replace(
        &mut bye.uri,
        ours.trim_start_matches("Route: <").trim_end_matches('>').to_owned(),
    );
    routes.push(format!("Route: <{target}>"));
    bye.headers.extend(routes);
    bye
}

/// Without the other of our two Route values, which verifies too.
fn alone(bye: &mut Req) {
    let other = bye.headers.iter().position(|header| header.starts_with("Route:")).unwrap();
    bye.headers.remove(other);
}

#[test]
fn a_strict_router_before_us_is_understood() {
    for one_line in [false, true] {
        let mut call = call(FABRIKAM);
        let to = call.callee.0;
        let mut bye = strict_bye(&call);
        if one_line {
            let routes: Vec<String> = bye
                .headers
                .extract_if(.., |header| header.starts_with("Route:"))
                .map(|header| header["Route: ".len()..].to_owned())
                .collect();
            bye.headers.push(format!("Route: {}", routes.join(" , ")));
        }
        let partner = call.world.partner(to, "203.0.113.20:7000", &["sip.fabrikam.example"]);
        call.world.say(to, partner, &bye.text());
        let (at, got) = call.world.one(to);
        assert_eq!(at, call.callee.1, "to the server of the dialog: {got}");
        assert!(got.starts_with("BYE sip:bob@10.9.9.9:5060 SIP/2.0\r\n"), "{got}");
        assert_eq!(headers(&got, "Route").len(), 0, "{got}");
        call.world.say(to, at, &answer(&got, "200 OK", None));
        let ok = call.world.expect(to, partner, "SIP/2.0 200 OK");
        assert_eq!(headers(&ok, "Via").len(), 1);
    }
}

#[test]
fn a_strict_router_opens_nothing_that_a_token_does_not() {
    type Change = fn(&mut Req);
    let changes: &[(&str, Change)] = &[
        ("another dialog", |bye| bye.call_id = "call-2".into()),
        ("another tag", |bye| bye.to = bye.to.replace("b1", "b2")),
        ("no Route at all", |bye| bye.headers.retain(|h| !h.starts_with("Route:"))),
        ("a changed token", |bye| {
            alone(bye);
            bye.uri = bye.uri.replacen('@', "A@", 1);
        }),
        ("a token without lr", |bye| {
            alone(bye);
            bye.uri = bye.uri.replace(";lr", "");
        }),
        ("another host", |bye| {
            alone(bye);
            let (token, rest) = bye.uri.split_once('@').unwrap();
            let (_, params) = rest.split_once(';').unwrap();
            bye.uri = format!("{token}@10.0.0.21:5060;{params}");
        }),
        ("us as the target", |bye| {
            bye.headers.pop();
            bye.headers.push("Route: <sip:edge.contoso.example:5061;lr>".into());
        }),
    ];
    for (what, change) in changes {
        let mut call = call(FABRIKAM);
        let to = call.callee.0;
        let mut bye = strict_bye(&call);
        change(&mut bye);
        let connects = call.world.edges[to].connects.len();
        let partner = call.world.partner(to, "203.0.113.20:7000", &["sip.fabrikam.example"]);
        call.world.say(to, partner, &bye.text());
        let mail = call.world.mail(to);
        assert!(mail.len() == 1 && mail[0].0 == partner, "{what}: {mail:?}");
        assert!(mail[0].1.starts_with("SIP/2.0 403 "), "{what}: {mail:?}");
        assert_eq!(call.world.edges[to].connects.len(), connects, "{what}");
    }
    // And not for another partner.
    let mut call = call(FABRIKAM);
    let to = call.callee.0;
    let bye = strict_bye(&call);
    let stranger = call.world.partner(to, "203.0.113.99:7000", &["third.example"]);
    call.world.say(to, stranger, &bye.text());
    call.world.expect(to, stranger, "SIP/2.0 403 ");
    assert_eq!(call.world.refused(to, Refusal::WrongDialogPeer), 1);
}

#[test]
fn a_strict_router_after_us_gets_what_it_expects() {
    for (next, expected_uri, expected_routes) in [
        (
            vec!["<sip:old.contoso.example>", "<sip:new.contoso.example;lr>"],
            "sip:old.contoso.example",
            vec!["<sip:new.contoso.example;lr>", "<sip:bob@10.9.9.9:5060>"],
        ),
        (
            vec!["<sip:old.contoso.example:5070;transport=tcp>;x=1"],
            "sip:old.contoso.example:5070;transport=tcp",
            vec!["<sip:bob@10.9.9.9:5060>"],
        ),
        (
            vec!["<sip:new.contoso.example;lr>", "<sip:old.contoso.example>"],
            "sip:bob@10.9.9.9:5060",
            vec!["<sip:new.contoso.example;lr>", "<sip:old.contoso.example>"],
        ),
        (
            vec!["<sip:[2001:db8::9];maddr=10.0.0.1>"],
            "sip:[2001:db8::9];maddr=10.0.0.1",
            vec!["<sip:bob@10.9.9.9:5060>"],
        ),
    ] {
        // What is before the callee recorded itself: the topmost is the nearest to it.
        let recorded: Vec<&str> = next.iter().rev().copied().collect();
        let mut call = call_through(FABRIKAM, [&[], &recorded]);
        let (to, callee) = call.callee;
        let bye = call.by_caller("BYE", 2);
        call.world.say(FABRIKAM, call.caller.1, &bye.text());
        // Where it goes is the token's business, whatever the Routes say.
        let (at, got) = call.world.one(to);
        assert_eq!(at, callee);
        assert!(got.starts_with(&format!("BYE {expected_uri} SIP/2.0\r\n")), "{got}");
        assert_eq!(headers(&got, "Route"), expected_routes);
        call.world.say(to, at, &answer(&got, "200 OK", None));
        call.world.expect(FABRIKAM, call.caller.1, "SIP/2.0 200 OK");
    }
}
