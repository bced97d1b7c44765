//! Who may speak to whom.

use super::*;
use crate::config::BlockedDomain;

#[test]
fn a_sip_user_speaks_only_from_here_and_to_partners() {
    let cases: &[(&'static str, &'static str, u16, &[XmppRefusal])] = &[
        ("sip:ann@contoso.example", "sip:rob@nobody.example", 404, &[XmppRefusal::UnknownDomain]),
        ("sip:noxmpp@contoso.example", "sip:rob@montague.example", 403, &[XmppRefusal::UserNoXmpp]),
        (
            "sip:NoXmpp;x=1@contoso.example",
            "sip:rob@montague.example",
            403,
            &[XmppRefusal::UserNoXmpp],
        ),
        ("sip:rob@montague.example", "sip:rob@montague.example", 403, &[]),
        ("sip:eve@jabber.contoso.example", "sip:rob@montague.example", 403, &[]),
        ("sip:contoso.example", "sip:rob@montague.example", 400, &[]),
        ("sip:ann@contoso.example", "sip:montague.example", 404, &[]),
        ("sip:ann@contoso.example", "sip:rob@192.0.2.1", 404, &[]),
        ("sip:ann@contoso.example", "sip:a%0d%0ab@montague.example", 404, &[]),
    ];
    for (from, to, status, events) in cases {
        for method in ["MESSAGE", "SUBSCRIBE", "INVITE"] {
            let mut world = World::new();
            let ask = Ask { from, to, ..Ask::new(method) }.with("Event: presence");
            world.ask(ask.text("hi"));
            assert_eq!(world.status(), *status, "{method} {from} {to}");
            assert_eq!(world.events, *events, "{method} {from} {to}");
            world.silent();
        }
    }
}

#[test]
fn an_xmpp_user_finds_only_users_that_may() {
    let mut world = World::new();
    world.stanza(message("hi").with("to", "noxmpp@contoso.example"));
    assert_eq!(condition(&world.one_stanza()), "service-unavailable");
    assert_eq!(world.events, [XmppRefusal::UserNoXmpp]);
    world.stanza(presence(Some("subscribe")).with("to", "noxmpp@contoso.example"));
    assert_eq!(world.one_stanza().attribute("type"), Some("unsubscribed"));
    world.silent();
}

#[test]
fn what_lies_outside_of_the_pair_or_is_not_served_goes_nowhere() {
    let mut world = World::new();
    let pair = Pair { local: domain("contoso.example"), remote: domain("montague.example") };
    for (from, to) in [
        ("rob@other.example", "ann@contoso.example"),
        ("rob@montague.example", "ann@elsewhere.example"),
    ] {
        let stanza = message("hi").with("from", from).with("to", to);
        world.input(GatewayInput::Stanza { pair: pair.clone(), stanza });
    }
    world.stanza(message("hi").with("to", "ann@jabber.contoso.example"));
    world.silent();
    assert_eq!(world.events, [XmppRefusal::InvalidFrom; 3]);
    world.stanza(message("hi").with("from", "rob@nobody.example"));
    world.silent();
    world.stanza(message("hi").with("to", "a\\5cb@contoso.example"));
    assert_eq!(condition(&world.one_stanza()), "jid-malformed");
}

#[test]
fn users_of_an_unverified_partner_must_be_invited_first() {
    let begin: [fn(&mut World); 2] = [
        |world| world.ask(Ask::new("MESSAGE").text("hi")),
        |world| world.ask(Ask::new("SUBSCRIBE").with("Event: presence")),
    ];
    for begin in begin {
        let mut world =
            World::of(policy(XmppPartnerKind::PublicUnverified), GatewayLimits::default());
        world.stanza(message("hi"));
        assert_eq!(condition(&world.one_stanza()), "service-unavailable");
        world.stanza(presence(Some("subscribe")));
        assert_eq!(world.one_stanza().attribute("type"), Some("unsubscribed"));
        assert_eq!(world.events, [XmppRefusal::NotInvited; 2]);
        assert!(world.sip.is_empty());
        begin(&mut world);
        world.forget();
        world.stanza(message("hi"));
        assert_eq!(world.one_sip().method(), Some(Method::Message));
        // Another user was not invited, nor was this one by another.
        world.stanza(message("hi").with("from", "eve@montague.example"));
        world.stanza(message("hi").with("to", "bea@contoso.example"));
        assert_eq!(world.stanzas.len(), 2);
        assert_eq!(world.gateway.status().invited, 1);
    }
}

#[test]
fn a_block_ends_what_was_open() {
    let mut world = World::new();
    world.ask(Ask::new("SUBSCRIBE").with("Event: presence"));
    world.stanza(presence(Some("subscribe")));
    world.forget();
    assert_eq!((world.gateway.status().watched, world.gateway.status().subscriptions), (1, 1));
    let mut blocked = policy(XmppPartnerKind::Federated);
    let entry = BlockedDomain { domain: domain("montague.example"), subdomains: false };
    let federation =
        Federation { enabled: true, blocked_domains: vec![entry], ..Federation::default() };
    blocked.federation = Arc::new(Policy::new(&[domain("contoso.example")], &federation));
    let mut out = Vec::new();
    world.gateway.set_policy(world.now, blocked, &mut out);
    world.sort(out);
    let notify = world.one_sip();
    assert_eq!(text(&notify, "Subscription-State"), "terminated;reason=rejected");
    assert!(notify.body().is_empty());
    let status = world.gateway.status();
    assert_eq!((status.watched, status.subscriptions, status.dialogs), (0, 0, 0));
    assert!(world.stanzas.is_empty());
    world.stanza(message("hi"));
    world.silent();
    assert_eq!(world.events.last(), Some(&XmppRefusal::DomainBlocked));
}

#[test]
fn requests_that_are_not_served_are_refused_by_name() {
    for (method, header, status) in [
        ("REFER", "Refer-To: <sip:x@y.example>", 405),
        ("REGISTER", "X: y", 405),
        ("PUBLISH", "X: y", 405),
        ("SERVICE", "X: y", 405),
        ("NEGOTIATE", "X: y", 405),
        ("FROBNICATE", "X: y", 501),
        ("BYE", "X: y", 481),
        ("INFO", "X: y", 481),
        ("UPDATE", "X: y", 481),
        ("PRACK", "X: y", 481),
        ("CANCEL", "X: y", 481),
        ("NOTIFY", "Event: presence", 481),
        ("NOTIFY", "Event: dialog", 489),
        ("SUBSCRIBE", "X: y", 489),
        ("SUBSCRIBE", "Event: dialog", 489),
        ("MESSAGE", "Require: a, b", 420),
        ("OPTIONS", "X: y", 200),
    ] {
        let mut world = World::new();
        world.ask(Ask::new(method).with(header));
        let answer = world.one_sip();
        assert_eq!(answer.status(), Some(status), "{method} {header}");
        match status {
            405 | 501 => assert!(text(&answer, "Allow").contains("MESSAGE")),
            420 => assert_eq!(text(&answer, "Unsupported"), "a, b"),
            489 => assert_eq!(text(&answer, "Allow-Events"), "presence"),
            _ => {}
        }
        world.silent();
    }
    let mut world = World::new();
    world.ask(Ask::new("ACK"));
    world.ask(Ask::new("BENOTIFY").with("Event: presence"));
    world.silent();
}

/// Many sessions of ann's, acknowledged.
fn many(world: &mut World, count: usize) {
    let sdp = "v=0\r\no=- 0 0 IN IP4 10.0.0.9\r\ns=session\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\n\
        m=message 5060 sip null\r\na=accept-types:text/plain\r\n";
    let ask = |method| Ask::new(method).body("application/sdp", sdp.as_bytes());
    for n in 0..count {
        let call = format!("call-{n}@inside");
        let (uri, from) = ("sip:rob@montague.example", "<sip:ann@contoso.example>;tag=f1");
        world.send(&ask("INVITE"), uri, from, &format!("<{uri}>"), &call, 1);
        let tag = world.one_sip().to().unwrap().tag().unwrap().to_owned();
        world.send(&Ask::new("ACK"), uri, from, &format!("<{uri}>;tag={tag}"), &call, 1);
    }
    world.silent();
}

/// Nobody is a partner any more; what is said at once, and how often there was more to do.
fn close(world: &mut World) -> usize {
    let mut policy = policy(XmppPartnerKind::Federated);
    Arc::make_mut(&mut policy.settings).partners.clear();
    let mut out = Vec::new();
    world.gateway.set_policy(world.now, policy, &mut out);
    world.sort(out);
    world.sip.len()
}

#[test]
fn what_policy_ends_is_ended_in_slices_and_whole() {
    let mut world = World::new();
    many(&mut world, 900);
    let first = close(&mut world);
    assert!((1..=SLICE).contains(&first), "{first} at once");
    let mut calls: Vec<String> =
        world.sip.drain(..).map(|bye| bye.call_id().unwrap().to_owned()).collect();
    // Whose turn has not come is not spoken for, either.
    let left = (0..900).find(|n| !calls.contains(&format!("call-{n}@inside"))).unwrap();
    let session = world.gateway.sessions_of_call(&format!("call-{left}@inside")).unwrap();
    let to = format!("<sip:rob@montague.example>;tag={session}");
    let from = "<sip:ann@contoso.example>;tag=f1";
    let call = format!("call-{left}@inside");
    world.send(&Ask::new("MESSAGE").text("x"), "sip:rob@montague.example", from, &to, &call, 2);
    assert_eq!(world.status(), 481);
    assert!(world.stanzas.is_empty());
    world.seconds(1);
    calls.extend(world.sip.drain(..).map(|bye| {
        assert_eq!(bye.method(), Some(Method::Bye));
        bye.call_id().unwrap().to_owned()
    }));
    calls.sort();
    calls.dedup();
    assert_eq!(calls.len(), 900);
    assert_eq!(world.gateway.status().sessions, 0);
    assert!(
        world.gateway.next_timeout().is_some_and(|at| at > world.now + Duration::from_secs(20))
    );
}

#[test]
fn what_has_no_room_to_be_ended_is_ended_when_there_is() {
    let limits = GatewayLimits { transactions: 40, ..GatewayLimits::default() };
    let mut world = World::of(policy(XmppPartnerKind::Federated), limits);
    many(&mut world, 35);
    close(&mut world);
    let mut ended = 0;
    for _ in 0..200 {
        for bye in std::mem::take(&mut world.sip) {
            ended += 1;
            world.respond(&bye, 200, &[]);
        }
        world.pass(Duration::from_millis(500));
    }
    assert_eq!((ended, world.gateway.status().sessions), (35, 0));
}

#[test]
fn a_changed_name_of_ours_is_used_at_once() {
    let mut world = World::new();
    let via = |world: &mut World| {
        let body = Element::new(ns::SERVER, "body").with_text("hi");
        world.stanza(
            Element::new(ns::SERVER, "message")
                .with("from", "rob@montague.example/lab")
                .with("to", "ann@contoso.example")
                .with_child(body),
        );
        text(&world.one_sip(), "Via").to_owned()
    };
    assert!(via(&mut world).contains(" gw.contoso.example;"));
    world.gateway.set_host(domain("sip.contoso.example"));
    assert!(via(&mut world).contains(" sip.contoso.example;"));
}
