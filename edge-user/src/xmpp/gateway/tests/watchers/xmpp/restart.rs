//! What is known of watchers after a restart, and for how long.

use super::*;

#[test]
fn who_subscribed_is_known_after_a_restart_and_who_did_not_is_not() {
    let (world, _) = approved();
    let saved = world.gateway.save(1_800_000_000);
    assert!(saved.is_within_bounds());
    let pair = ("ann@contoso.example".to_owned(), "rob@montague.example".to_owned());
    assert_eq!(saved.subscriptions, [(pair.0, pair.1, 1_800_000_000)]);
    let after = |unix| {
        let mut world = World::new();
        world.gateway.restore(unix, saved.clone());
        world
    };
    let day = 86_400;
    let mut world = after(1_800_000_000 + 80 * day);
    assert_eq!(world.gateway.save(0), saved, "kept until the watcher comes");
    world.stanza(presence(Some("probe")).with("from", "eve@montague.example/x"));
    assert_eq!(text(&world.one_sip(), "Expires"), "0", "somebody else");
    world.stanza(presence(Some("probe")));
    let request = world.one_sip();
    assert_eq!(text(&request, "Expires"), "3600");
    world.respond(&request, 200, &[]);
    world.ask_back(&request, notify("active", &pidf(&open("ID-desk", ""))), 1);
    assert_eq!(world.status(), 200);
    // Nobody asked to be told so: it was before.
    assert_eq!(world.one_stanza().attribute("from"), Some("ann@contoso.example/desk"));
    assert_eq!(world.gateway.save(7).subscriptions.len(), 1);
    // What is taken back is gone, also of one that did not come yet.
    let mut world = after(1_800_000_000);
    let before = world.gateway.changes();
    world.stanza(presence(Some("unsubscribe")));
    assert!(world.gateway.changes() > before);
    assert_eq!(world.gateway.save(0).subscriptions, []);
    // And what nobody used for long.
    let world = after(1_800_000_000 + 90 * day);
    assert_eq!(world.gateway.save(0).subscriptions, []);
    // Who only looked is not kept.
    let mut world = World::new();
    world.stanza(presence(Some("probe")));
    let look = world.one_sip();
    world.ask_back(&look, notify("active", &pidf(&open("ID-desk", ""))), 1);
    assert_eq!(world.gateway.save(0).subscriptions, []);
    let strange = SavedGateway {
        subscriptions: vec![("ann@contoso.example/x".into(), "rob@montague.example".into(), 1)],
        ..SavedGateway::default()
    };
    assert!(!strange.is_within_bounds());
    for (hash, good) in [("0123456789abcdef0123456789abcdef", true), ("0123", false)] {
        let invited_inside = vec![hash.to_owned()];
        let saved = SavedGateway { invited_inside, ..SavedGateway::default() };
        assert_eq!(saved.is_within_bounds(), good);
    }
}

#[test]
fn whom_users_of_ours_invited_may_write_after_a_restart_too() {
    let new = || World::of(policy(XmppPartnerKind::PublicUnverified), GatewayLimits::default());
    let mut world = new();
    world.stanza(message("hi"));
    assert_eq!(condition(&world.one_stanza()), "service-unavailable");
    world.ask(Ask::new("MESSAGE").text("hello"));
    // A partner whose users need none is not written down.
    world.ask(Ask { to: "sip:x@other.example", ..Ask::new("MESSAGE") }.text("hello"));
    let saved = world.gateway.save(1);
    assert_eq!(saved.invited.len(), 1);
    let mut world = new();
    world.gateway.restore(1, saved);
    world.stanza(message("hi"));
    assert_eq!(world.one_sip().method(), Some(Method::Message));
    world.stanza(message("hi").with("from", "eve@montague.example/x"));
    assert_eq!(condition(&world.one_stanza()), "service-unavailable");
}

/// dave stayed signed in over our restart: his server asks nobody, so it is asked.
#[test]
fn watchers_of_before_a_restart_are_asked_whether_they_are_there() {
    let saved = SavedGateway {
        subscriptions: vec![("ann@contoso.example".into(), "rob@montague.example".into(), 1)],
        ..SavedGateway::default()
    };
    let after = || {
        let mut world = World::new();
        world.gateway.restore(2, saved.clone());
        world.silent();
        world.seconds(1);
        let probe = world.one_stanza();
        assert_eq!(
            (kind(&probe), probe.attribute("from"), probe.attribute("to")),
            ("probe", Some("ann@contoso.example"), Some("rob@montague.example"))
        );
        world
    };
    let up = |world: &mut World| {
        let request = world.one_sip();
        assert_eq!(
            (request.method(), text(&request, "Expires")),
            (Some(Method::Subscribe), "3600")
        );
        world.respond(&request, 200, &[]);
        world.ask_back(&request, notify("active", &pidf(&open("ID-desk", ""))), 1);
        assert_eq!(world.status(), 200);
        assert_eq!(world.one_stanza().attribute("from"), Some("ann@contoso.example/desk"));
        world.seconds(60);
        world.silent();
    };
    // He is there.
    let mut world = after();
    world.stanza(presence(None));
    up(&mut world);
    // His server says nothing to those whom he does not let see.
    let mut world = after();
    world.seconds(9);
    world.silent();
    world.seconds(1);
    up(&mut world);
    // He is away: until he comes.
    for gone in [
        presence(Some("unavailable")),
        presence(Some("error")).with_child(errors::element("remote-server-timeout", "")),
    ] {
        let mut world = after();
        world.stanza(gone);
        world.seconds(60);
        world.silent();
        world.stanza(presence(None));
        up(&mut world);
    }
    // He is no more.
    let mut world = after();
    world.stanza(presence(Some("error")).with_child(errors::element("item-not-found", "")));
    world.seconds(60);
    world.stanza(presence(None));
    world.silent();
    assert_eq!(world.gateway.save(3).subscriptions, []);
    // He came before he was asked.
    let mut world = World::new();
    world.gateway.restore(2, saved.clone());
    world.stanza(presence(Some("probe")));
    up(&mut world);
    // What policy does not allow is not asked for.
    let subscriptions = vec![("noxmpp@contoso.example".into(), "rob@montague.example".into(), 1)];
    let mut world = World::new();
    world.gateway.restore(2, SavedGateway { subscriptions, ..SavedGateway::default() });
    world.seconds(60);
    world.silent();
    assert_eq!(world.gateway.next_timeout(), None);
}

#[test]
fn many_watchers_of_before_are_asked_some_at_a_time() {
    let pair = |n| ("ann@contoso.example".to_owned(), format!("u{n}@montague.example"), 1);
    let subscriptions = (0..120).map(pair).collect();
    let mut world = World::new();
    world.gateway.restore(2, SavedGateway { subscriptions, ..SavedGateway::default() });
    world.seconds(1);
    assert_eq!(std::mem::take(&mut world.stanzas).len(), 50);
    world.pass(Duration::from_millis(250));
    assert_eq!(std::mem::take(&mut world.stanzas).len(), 50);
    world.seconds(1);
    assert_eq!(std::mem::take(&mut world.stanzas).len(), 20);
    assert!(world.sip.is_empty());
    world.seconds(20);
    assert_eq!(world.sip.len(), 120, "nobody said anything");
}

#[test]
fn what_others_write_makes_no_invitation_forgotten_and_writing_again_renews_one() {
    let mut policy = policy(XmppPartnerKind::PublicUnverified);
    two_domains(&mut policy);
    let mut world = World::of(policy, GatewayLimits { invited: 2, ..GatewayLimits::default() });
    let write = |world: &mut World, to| {
        world.ask(Ask { to, ..Ask::new("MESSAGE") }.text("hello"));
        world.forget();
    };
    write(&mut world, "sip:rob@montague.example");
    for to in ["sip:a@other.example", "sip:b@other.example", "sip:c@other.example"] {
        write(&mut world, to);
    }
    write(&mut world, "sip:eve@montague.example");
    write(&mut world, "sip:rob@montague.example");
    write(&mut world, "sip:max@second.example");
    for (from, may) in [
        ("rob@montague.example/x", true),
        ("max@second.example/x", true),
        ("eve@montague.example/x", false),
    ] {
        world.stanza(message("hi").with("from", from));
        assert_eq!(!world.sip.is_empty(), may, "{from}");
        world.forget();
    }
}
