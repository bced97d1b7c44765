//! SIP users who watch XMPP users.

use super::*;

/// ann subscribed, rob's server was asked; the tags of the dialog: ours.
fn asked() -> (World, String) {
    let mut world = World::new();
    let route = "Record-Route: <sip:p1.contoso.example;lr>, <sip:p2.contoso.example;lr>";
    world.ask(subscribe().with(route));
    let [answer, notify] = std::mem::take(&mut world.sip).try_into().unwrap();
    assert_eq!(answer.status(), Some(200));
    assert_eq!(text(&answer, "Expires"), "600");
    assert!(text(&answer, "Record-Route").contains("p1.contoso.example"));
    assert_eq!(state(&notify), "pending;expires=600");
    assert!(notify.body().is_empty());
    assert_eq!(
        notify.request_uri().unwrap().unwrap().as_str(),
        "sip:ann@10.0.0.9:5061;transport=tls"
    );
    let routes: Vec<_> = notify.list(HeaderName::Route).map(|r| r.value.to_vec()).collect();
    assert_eq!(routes, [&b"<sip:p1.contoso.example;lr>"[..], b"<sip:p2.contoso.example;lr>"]);
    assert_eq!(notify.to().unwrap().tag(), Some("f1"));
    let tag = notify.from().unwrap().tag().unwrap().to_owned();
    assert_eq!(answer.to().unwrap().tag(), Some(tag.as_str()));
    let stanza = world.one_stanza();
    assert_eq!(kind(&stanza), "subscribe");
    assert_eq!(stanza.attribute("to"), Some("rob@montague.example"));
    world.respond(&notify, 200, &[]);
    (world, tag)
}

fn refresh(world: &mut World, tag: &str, expires: &str, cseq: u32) {
    let ask = Ask::new("SUBSCRIBE").with("Event: presence").with(&format!("Expires: {expires}"));
    let to = format!("<sip:rob@montague.example>;tag={tag}");
    let from = "<sip:ann@contoso.example>;tag=f1";
    world.send(&ask, "sip:rob@montague.example", from, &to, "call-1@inside", cseq);
}

#[test]
fn approved_then_told() {
    let (mut world, _) = asked();
    // Not before rob approved.
    world.stanza(show("away"));
    world.silent();
    world.stanza(presence(Some("subscribed")));
    let notify = world.one_sip();
    assert_eq!(state(&notify), "active;expires=600");
    assert!(String::from_utf8_lossy(notify.body()).contains("<basic>open</basic>"));
}

#[test]
fn an_approval_without_presence_is_an_empty_notify() {
    let (mut world, _) = asked();
    world.stanza(presence(Some("subscribed")));
    let notify = world.one_sip();
    assert_eq!(state(&notify), "active;expires=600");
    assert!(notify.body().is_empty());
    // One after the other.
    let mut online = show("dnd").with_child(Element::new(ns::SERVER, "status").with_text("<busy>"));
    online.set_ns(ns::XML, "lang", "en");
    world.stanza(online.with_child(Element::new(ns::SERVER, "priority").with_text("127")));
    world.silent();
    world.respond(&notify, 200, &[]);
    let notify = world.one_sip();
    assert_eq!(text(&notify, "Content-Type"), "application/pidf+xml");
    assert_eq!(text(&notify, "Content-Language"), "en");
    let body = String::from_utf8(notify.body().to_vec()).unwrap();
    for part in [
        "entity='pres:rob@montague.example'",
        "<tuple id='ID-balcony'>",
        "<basic>open</basic>",
        "<show xmlns='jabber:client'>dnd</show>",
        "<contact priority='1.000'>sip:rob@montague.example</contact>",
        "<note xml:lang='en'>&lt;busy&gt;</note>",
        "<busy/>",
    ] {
        assert!(body.contains(part), "{part}: {body}");
    }
    world.respond(&notify, 200, &[]);
    world.stanza(presence(Some("unavailable")));
    let notify = world.one_sip();
    assert!(String::from_utf8_lossy(notify.body()).contains("<basic>closed</basic>"));
    assert_eq!(state(&notify), "active;expires=600");
}

/// RFC 8048 section 7: a negative priority has no counterpart; RPID has one word for two shows.
#[test]
fn a_negative_priority_is_left_out_and_away_is_written_as_rpid_has_it() {
    for (shown, activity) in [("away", "<away/>"), ("xa", "<away/>"), ("dnd", "<busy/>")] {
        for (priority, contact) in [("-1", false), ("-128", false), ("0", true)] {
            let (mut world, _) = asked();
            world.stanza(presence(Some("subscribed")));
            let first = world.one_sip();
            let priority = Element::new(ns::SERVER, "priority").with_text(priority);
            world.stanza(show(shown).with_child(priority));
            world.respond(&first, 200, &[]);
            let body = String::from_utf8(world.one_sip().body().to_vec()).unwrap();
            assert!(body.contains(activity) && body.contains("<basic>open</basic>"), "{body}");
            assert!(body.contains(&format!(">{shown}</show>")), "{body}");
            assert_eq!(body.contains("<contact priority='0.000'>"), contact, "{body}");
            assert_eq!(body.contains("<contact"), contact, "{body}");
        }
    }
}

#[test]
fn the_most_available_resource_comes_first_and_speaks_for_the_person() {
    let (mut world, _) = asked();
    world.stanza(presence(Some("subscribed")));
    let first = world.one_sip();
    world.stanza(show("away").with("from", "rob@montague.example/phone_1"));
    world.stanza(presence(None).with("from", "rob@montague.example/garden"));
    world.respond(&first, 200, &[]);
    let notify = world.one_sip();
    let body = String::from_utf8(notify.body().to_vec()).unwrap();
    let (garden, phone) = (body.find("ID-garden"), body.find("ID-phone_5F1"));
    assert!(garden.is_some() && garden < phone, "{body}");
    assert!(!body.contains("activities"), "{body}");
    // What is the same is not told again.
    world.respond(&notify, 200, &[]);
    world.stanza(presence(None).with("from", "rob@montague.example/garden"));
    world.silent();
}

#[test]
fn refused_and_taken_back() {
    for before in [false, true] {
        let (mut world, _) = asked();
        if before {
            world.stanza(presence(Some("subscribed")));
            let notify = world.one_sip();
            world.respond(&notify, 200, &[]);
        }
        world.stanza(presence(Some("unsubscribed")));
        assert_eq!(state(&world.one_sip()), "terminated;reason=rejected");
        assert_eq!(world.gateway.status().dialogs, 0);
        world.stanza(show("away"));
        world.silent();
    }
}

#[test]
fn an_error_ends_what_was_not_approved() {
    for (condition, reason) in [
        ("item-not-found", "terminated;reason=noresource"),
        ("remote-server-not-found", "terminated;reason=noresource"),
        ("forbidden", "terminated;reason=rejected"),
        ("remote-server-timeout", "terminated;reason=probation;retry-after=300"),
    ] {
        let (mut world, _) = asked();
        world.stanza(presence(Some("error")).with_child(errors::element(condition, "")));
        assert_eq!(state(&world.one_sip()), reason);
    }
    let (mut world, _) = asked();
    let pair = Pair { local: domain("contoso.example"), remote: domain("montague.example") };
    let stanza = presence(Some("subscribe"))
        .with("from", "ann@contoso.example")
        .with("to", "rob@montague.example");
    let condition = "remote-server-not-found";
    world.input(GatewayInput::Undelivered { pair, stanza, condition, text: String::new() });
    assert_eq!(state(&world.one_sip()), "terminated;reason=noresource");
}

#[test]
fn refreshed_ended_and_run_out() {
    let (mut world, tag) = asked();
    world.seconds(500);
    refresh(&mut world, &tag, "600", 2);
    let [answer, notify] = std::mem::take(&mut world.sip).try_into().unwrap();
    assert_eq!((answer.status(), state(&notify)), (Some(200), "pending;expires=600"));
    world.respond(&notify, 200, &[]);
    // An old number.
    refresh(&mut world, &tag, "600", 2);
    assert_eq!(world.status(), 500);
    refresh(&mut world, &tag, "30", 3);
    let answer = world.one_sip();
    assert_eq!((answer.status(), text(&answer, "Min-Expires")), (Some(423), "60"));
    world.seconds(599);
    world.silent();
    world.seconds(1);
    assert_eq!(state(&world.one_sip()), "terminated;reason=timeout");
    refresh(&mut world, &tag, "600", 4);
    assert_eq!(world.status(), 481);

    let (mut world, tag) = asked();
    refresh(&mut world, &tag, "0", 2);
    let [answer, notify] = std::mem::take(&mut world.sip).try_into().unwrap();
    assert_eq!((answer.status(), state(&notify)), (Some(200), "terminated;reason=timeout"));
    // The contact's approval is the user's, not this dialog's: nothing is taken back.
    assert!(world.stanzas.is_empty());
    assert_eq!(world.gateway.status().watched, 0);
}

/// The contact's server may have died without a word: a refresh asks it, and not too often.
#[test]
fn a_refresh_asks_the_contact_s_server_again() {
    let (mut world, tag) = asked();
    world.stanza(presence(Some("subscribed")));
    let notify = world.one_sip();
    world.respond(&notify, 200, &[]);
    world.stanza(presence(None));
    let notify = world.one_sip();
    world.respond(&notify, 200, &[]);
    let refreshed = |world: &mut World, cseq| {
        refresh(world, &tag, "600", cseq);
        let [answer, notify] = std::mem::take(&mut world.sip).try_into().unwrap();
        assert_eq!((answer.status(), state(&notify)), (Some(200), "active;expires=600"));
        world.respond(&notify, 200, &[]);
    };
    world.seconds(59);
    refreshed(&mut world, 2);
    world.silent();
    world.seconds(1);
    refreshed(&mut world, 3);
    let probe = world.one_stanza();
    assert_eq!((kind(&probe), probe.attribute("to")), ("probe", Some("rob@montague.example")));
    refreshed(&mut world, 4);
    world.silent();
    // Nobody is there to answer: what was seen before is not true any more.
    let pair = Pair { local: domain("contoso.example"), remote: domain("montague.example") };
    let condition = "remote-server-timeout";
    world.input(GatewayInput::Undelivered { pair, stanza: probe, condition, text: String::new() });
    let notify = world.one_sip();
    assert!(String::from_utf8_lossy(notify.body()).contains("<basic>closed</basic>"));
}

/// What there was no room for is told when there is, the end of a subscription too.
#[test]
fn what_a_watcher_could_not_be_told_is_told_later() {
    let limits = GatewayLimits { transactions: 4, ..GatewayLimits::default() };
    let mut world = World::of(policy(XmppPartnerKind::Federated), limits);
    world.ask(subscribe());
    let [answer, notify] = std::mem::take(&mut world.sip).try_into().unwrap();
    let tag = answer.to().unwrap().tag().unwrap().to_owned();
    world.respond(&notify, 200, &[]);
    world.forget();
    // The partner's only place is taken.
    let fill = |world: &mut World| {
        world.stanza(message("hi"));
        world.one_sip()
    };
    let waits = fill(&mut world);
    world.stanza(presence(Some("subscribed")));
    world.stanza(presence(None));
    world.seconds(4);
    world.silent();
    world.respond(&waits, 200, &[]);
    world.seconds(1);
    let notify = world.one_sip();
    assert!(state(&notify).starts_with("active"), "{}", state(&notify));
    assert!(String::from_utf8_lossy(notify.body()).contains("<basic>open</basic>"));
    world.respond(&notify, 200, &[]);
    // Its end.
    let waits = fill(&mut world);
    world.stanza(presence(Some("unsubscribed")));
    world.silent();
    refresh(&mut world, &tag, "600", 2);
    assert_eq!(world.status(), 481);
    world.respond(&waits, 200, &[]);
    world.seconds(5);
    assert_eq!(state(&world.one_sip()), "terminated;reason=rejected");
    let status = world.gateway.status();
    assert_eq!((status.watched, status.dialogs), (0, 0));
}

#[test]
fn a_watcher_that_is_gone_is_forgotten() {
    for (status, header, gone) in
        [(481, None, true), (408, None, true), (503, Some(("Retry-After", "10")), false)]
    {
        let (mut world, _) = asked();
        world.stanza(presence(Some("subscribed")));
        let notify = world.one_sip();
        world.respond(&notify, status, header.as_slice());
        assert_eq!(world.gateway.status().watched == 0, gone, "{status}");
    }
}

#[test]
fn what_cannot_be_served_is_refused() {
    for (ask, status) in [
        (Ask::new("SUBSCRIBE").with("Event: presence").with("Accept: text/xml+msrtc.pidf"), 406),
        (Ask::new("SUBSCRIBE").with("Event: presence").with("Expires: soon"), 400),
        (Ask::new("SUBSCRIBE").with("Event: presence").with("Expires: 5"), 423),
        (Ask::new("SUBSCRIBE").with("Event: presence.winfo"), 489),
    ] {
        let mut world = World::new();
        world.ask(ask);
        assert_eq!(world.status(), status);
        assert_eq!(world.gateway.status().dialogs, 0);
    }
    let lync =
        "Accept: application/msrtc-event-categories+xml, text/xml+msrtc.pidf, application/pidf+xml";
    let mut world = World::new();
    world.ask(
        Ask::new("SUBSCRIBE")
            .with("Event: presence;id=7")
            .with(lync)
            .with("Supported: ms-benotify"),
    );
    assert_eq!(world.sip[0].status(), Some(200));
    assert_eq!(text(&world.sip[1], "Event"), "presence;id=7");
}

#[test]
fn one_look_asks_for_no_approval() {
    let poll = || Ask::new("SUBSCRIBE").with("Event: presence").with("Expires: 0");
    let mut world = World::new();
    world.ask(poll());
    assert_eq!(text(&world.one_sip(), "Expires"), "0");
    assert_eq!(kind(&world.one_stanza()), "probe");
    world.stanza(show("away"));
    let notify = world.one_sip();
    assert_eq!(state(&notify), "terminated;reason=timeout");
    assert!(String::from_utf8_lossy(notify.body()).contains("ID-balcony"));
    // Nobody answers.
    let mut world = World::new();
    world.ask(poll());
    world.forget();
    world.seconds(5);
    let notify = world.one_sip();
    assert_eq!(state(&notify), "terminated;reason=timeout");
    assert!(notify.body().is_empty());
    assert_eq!(world.gateway.status().watched, 0);
}

#[test]
fn a_user_has_so_many_and_no_more() {
    let limits = GatewayLimits { per_user: 2, ..GatewayLimits::default() };
    let mut world = World::of(policy(XmppPartnerKind::Federated), limits);
    for to in ["sip:a@montague.example", "sip:b@montague.example", "sip:c@montague.example"] {
        world.ask(Ask { to, ..subscribe() });
    }
    assert_eq!(world.sip.pop().unwrap().status(), Some(480));
    assert_eq!(world.gateway.status().watched, 2);
    world.ask(Ask { from: "sip:bea@contoso.example", ..subscribe() });
    world.ask(Ask { to: "sip:a@other.example", ..subscribe() });
    assert_eq!(world.gateway.status().watched, 4);
}

#[test]
fn nobody_is_told_of_another_pair() {
    let (mut world, _) = asked();
    world.ask(Ask { from: "sip:bea@contoso.example", ..subscribe() });
    world.ask(Ask { to: "sip:eve@montague.example", ..subscribe() });
    world.forget();
    world.stanza(presence(Some("subscribed")).with("from", "eve@montague.example"));
    world.stanza(show("away").with("from", "eve@montague.example/x"));
    // ann's watch of eve alone has something to say, after its first NOTIFY.
    world.silent();
    world.stanza(presence(Some("subscribed")));
    let notify = world.one_sip();
    assert_eq!(uri_of(text(&notify, "From")), "sip:rob@montague.example");
    assert_eq!(uri_of(text(&notify, "To")), "sip:ann@contoso.example");
}
