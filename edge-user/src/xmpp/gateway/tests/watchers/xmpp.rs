//! XMPP users who watch SIP users.

mod restart;

use super::*;

fn pidf(tuples: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" \
         xmlns:dm='urn:ietf:params:xml:ns:pidf:data-model' xmlns:r='urn:ietf:params:xml:ns:pidf:rpid' \
         entity=\"pres:ann@contoso.example\">{tuples}</presence>"
    )
}

fn open(id: &str, more: &str) -> String {
    format!("<tuple id=\"{id}\"><status><basic>open</basic></status>{more}</tuple>")
}

fn notify(state: &str, body: &str) -> Ask {
    let ask =
        Ask::new("NOTIFY").with("Event: presence").with(&format!("Subscription-State: {state}"));
    match body {
        "" => ask,
        body => ask.body("application/pidf+xml", body.as_bytes()),
    }
}

/// rob asked for ann's presence: the SUBSCRIBE.
fn asked() -> (World, Message) {
    let mut world = World::new();
    world.stanza(presence(Some("subscribe")).with("from", "rob@montague.example"));
    let request = world.one_sip();
    assert_eq!(request.method(), Some(Method::Subscribe));
    assert_eq!(request.request_uri().unwrap().unwrap().as_str(), "sip:ann@contoso.example");
    assert_eq!(text(&request, "Event"), "presence");
    assert_eq!(text(&request, "Accept"), "application/pidf+xml");
    assert_eq!(text(&request, "Expires"), "3600");
    assert_eq!(uri_of(text(&request, "From")), "sip:rob@montague.example");
    (world, request)
}

/// And was let: nothing is left to look at.
fn approved() -> (World, Message) {
    let (mut world, request) = asked();
    world.respond(&request, 200, &[("Expires", "3600"), ("Contact", "<sip:ann@10.0.0.9>")]);
    world.ask_back(&request, notify("active", &pidf(&open("ID-desk", ""))), 1);
    assert_eq!(world.status(), 200);
    let kinds: Vec<_> = world
        .stanzas
        .drain(..)
        .map(|s| (kind(&s).to_owned(), s.attribute("from").map(str::to_owned)))
        .collect();
    let (user, desk) = ("ann@contoso.example".to_owned(), "ann@contoso.example/desk".to_owned());
    assert_eq!(kinds, [("subscribed".to_owned(), Some(user)), (String::new(), Some(desk))]);
    (world, request)
}

#[test]
fn pending_says_nothing_and_active_says_yes() {
    for notify_first in [false, true] {
        let (mut world, request) = asked();
        if !notify_first {
            world.respond(&request, 202, &[]);
        }
        world.ask_back(&request, notify("pending;expires=600", ""), 1);
        assert_eq!(world.status(), 200);
        assert!(world.stanzas.is_empty());
        world.ask_back(&request, notify("active;expires=600", ""), 2);
        assert_eq!(world.status(), 200);
        let stanza = world.one_stanza();
        assert_eq!(
            (kind(&stanza), stanza.attribute("to")),
            ("subscribed", Some("rob@montague.example"))
        );
        if notify_first {
            world.respond(&request, 200, &[]);
            world.silent();
        }
    }
}

#[test]
fn documents_become_presence_of_each_tuple() {
    let (mut world, request) = approved();
    let note = "<note xml:lang='de'>Mittag &lt;bis 2&gt;</note>";
    let busy = "<dm:person id='p'><r:activities><r:meeting/><r:away/></r:activities></dm:person>";
    let both = open("t1", note) + &open("ID-desk", "<show xmlns='jabber:client'>chat</show>");
    world.ask_back(&request, notify("active", &pidf(&(both + busy))), 2);
    assert_eq!(world.status(), 200);
    let [desk, t1] = std::mem::take(&mut world.stanzas).try_into().unwrap();
    assert_eq!(desk.attribute("from"), Some("ann@contoso.example/desk"));
    assert_eq!(desk.child(ns::SERVER, "show").unwrap().text(), "chat");
    assert_eq!(t1.attribute("from"), Some("ann@contoso.example/t1"));
    assert_eq!(t1.child(ns::SERVER, "show").unwrap().text(), "dnd");
    assert_eq!(t1.child(ns::SERVER, "status").unwrap().text(), "Mittag <bis 2>");
    assert_eq!(t1.lang(), Some("de"));
    // What is the same is not told again; what is gone is.
    world.ask_back(&request, notify("active", &pidf(&open("t1", note))), 3);
    assert_eq!(world.status(), 200);
    let [gone, changed] = std::mem::take(&mut world.stanzas).try_into().unwrap();
    assert_eq!(
        (kind(&gone), gone.attribute("from")),
        ("unavailable", Some("ann@contoso.example/desk"))
    );
    assert!(changed.child(ns::SERVER, "show").is_none());
    let closed = "<tuple id='t1'><status><basic>closed</basic></status></tuple>";
    world.ask_back(&request, notify("active", &pidf(closed)), 4);
    assert_eq!(kind(&world.one_stanza()), "unavailable");
}

#[test]
fn hostile_documents_change_nothing() {
    let deep = format!("{}{}", "<a>".repeat(5000), "</a>".repeat(5000));
    let entity =
        "<!DOCTYPE p [<!ENTITY a 'b'>]><presence xmlns='urn:ietf:params:xml:ns:pidf'/>".to_owned();
    let broken = pidf("<tuple");
    let two = format!("{}<presence/>", pidf(""));
    let close = "</stream:stream>".to_owned();
    let (mut world, request) = approved();
    for (cseq, body) in
        [pidf(&deep), entity, broken, two, close, "x".repeat(100_000)].iter().enumerate()
    {
        world.ask_back(&request, notify("active", body), 2 + cseq as u32);
        assert_eq!(world.status(), 200);
        world.silent();
    }
    let ids = pidf(&format!("{}{}", open("a/b\u{7f}", ""), open("ID-", "")));
    world.ask_back(&request, notify("active", &ids), 20);
    world.sip.clear();
    for stanza in &world.stanzas {
        domain_of(stanza.attribute("from").unwrap()).unwrap();
    }
}

#[test]
fn a_refusal_for_good_is_unsubscribed() {
    for status in [403, 489, 603, 404, 604, 405] {
        let (mut world, request) = asked();
        world.respond(&request, status, &[]);
        let stanza = world.one_stanza();
        assert_eq!(
            (kind(&stanza), stanza.attribute("from")),
            ("unsubscribed", Some("ann@contoso.example"))
        );
        assert_eq!(world.gateway.status().dialogs, 0, "{status}");
        world.seconds(100_000);
        world.silent();
    }
    let (mut world, request) = asked();
    world.respond(&request, 200, &[]);
    world.ask_back(&request, notify("terminated;reason=rejected", ""), 1);
    assert_eq!(world.status(), 200);
    assert_eq!(kind(&world.one_stanza()), "unsubscribed");
}

#[test]
fn a_failure_that_may_pass_is_tried_again() {
    for status in [480, 500, 503, 408] {
        let (mut world, request) = asked();
        world.respond(&request, status, &[("Retry-After", "100 (busy)")]);
        world.silent();
        world.seconds(99);
        world.silent();
        world.seconds(1);
        let again = world.one_sip();
        assert_ne!(again.call_id().unwrap(), request.call_id().unwrap());
    }
    let (mut world, request) = asked();
    world.respond(&request, 423, &[("Min-Expires", "7200")]);
    let again = world.one_sip();
    assert_eq!(text(&again, "Expires"), "7200");
    assert_eq!(again.cseq().unwrap().number, 2);
    // Nothing at all: timer F, then the wait.
    let (mut world, _) = asked();
    world.seconds(32);
    world.silent();
    world.seconds(60);
    world.one_sip();
    // Not for ever.
    world.seconds(1_000_000);
    assert!(world.sip.len() < 9, "{}", world.sip.len());
    assert_eq!(world.gateway.next_timeout(), None);
}

#[test]
fn refreshed_after_a_look_whether_the_watcher_is_there() {
    let (mut world, request) = approved();
    world.seconds(3239);
    world.silent();
    world.seconds(1);
    let probe = world.one_stanza();
    assert_eq!((kind(&probe), probe.attribute("to")), ("probe", Some("rob@montague.example")));
    assert_eq!(probe.attribute("from"), Some("ann@contoso.example"));
    assert!(world.sip.is_empty());
    world.stanza(presence(None));
    let refresh = world.one_sip();
    assert_eq!(refresh.call_id().unwrap(), request.call_id().unwrap());
    assert_eq!(refresh.to().unwrap().tag(), Some("inside"));
    assert_eq!(
        refresh.request_uri().unwrap().unwrap().as_str(),
        "sip:ann@10.0.0.9:5061;transport=tls"
    );
    world.respond(&refresh, 200, &[("Expires", "1000")]);
    // No word: refreshed all the same.
    world.seconds(900);
    assert_eq!(kind(&world.one_stanza()), "probe");
    world.seconds(10);
    let refresh = world.one_sip();
    world.respond(&refresh, 481, &[]);
    let anew = world.one_sip();
    assert_ne!(anew.call_id().unwrap(), request.call_id().unwrap());
    assert_eq!(anew.to().unwrap().tag(), None);
}

#[test]
fn a_watcher_that_is_away_is_not_subscribed_for() {
    let (mut world, _) = approved();
    world.seconds(3240);
    world.stanzas.clear();
    world.stanza(presence(Some("unavailable")));
    let end = world.one_sip();
    assert_eq!(text(&end, "Expires"), "0");
    world.respond(&end, 200, &[]);
    world.silent();
    assert_eq!(world.gateway.next_timeout(), None);
    // It comes back.
    world.stanza(presence(None));
    let anew = world.one_sip();
    assert_eq!(text(&anew, "Expires"), "3600");
    world.respond(&anew, 200, &[]);
    world.ask_back(&anew, notify("active", &pidf(&open("ID-desk", ""))), 1);
    assert_eq!(world.status(), 200);
    let stanza = world.one_stanza();
    assert_eq!((kind(&stanza), stanza.attribute("from")), ("", Some("ann@contoso.example/desk")));
}

#[test]
fn of_several_resources_the_last_one_counts() {
    let (mut world, _) = approved();
    for resource in ["a", "b"] {
        world.stanza(presence(None).with("from", format!("rob@montague.example/{resource}")));
    }
    world.stanza(presence(Some("unavailable")).with("from", "rob@montague.example/a"));
    world.silent();
    world.stanza(presence(Some("unavailable")).with("from", "rob@montague.example/b"));
    assert_eq!(text(&world.one_sip(), "Expires"), "0");
}

#[test]
fn unsubscribed_on_both_sides() {
    let (mut world, request) = approved();
    world.stanza(presence(Some("unsubscribe")).with("from", "rob@montague.example"));
    let end = world.one_sip();
    assert_eq!((text(&end, "Expires"), end.call_id().unwrap()), ("0", request.call_id().unwrap()));
    assert!(world.stanzas.is_empty());
    world.respond(&end, 200, &[]);
    assert_eq!(kind(&world.one_stanza()), "unsubscribed");
    assert_eq!(world.gateway.status().subscriptions, 0);
    world.ask_back(&request, notify("terminated;reason=timeout", ""), 9);
    assert_eq!(world.status(), 481);
    // Who never subscribed is told so.
    world.stanza(presence(Some("unsubscribe")));
    assert_eq!(kind(&world.one_stanza()), "unsubscribed");
}

#[test]
fn a_probe_is_answered_from_what_is_known_or_by_a_look() {
    let (mut world, _) = approved();
    world.stanza(presence(Some("probe")));
    let stanza = world.one_stanza();
    assert_eq!(stanza.attribute("from"), Some("ann@contoso.example/desk"));
    assert_eq!(stanza.attribute("to"), Some("rob@montague.example/balcony"));
    assert!(world.sip.is_empty());

    let mut world = World::new();
    world.stanza(presence(Some("probe")));
    let look = world.one_sip();
    assert_eq!(text(&look, "Expires"), "0");
    world.ask_back(&look, notify("terminated;reason=timeout", &pidf(&open("ID-desk", ""))), 1);
    assert_eq!(world.status(), 200);
    assert_eq!(world.one_stanza().attribute("from"), Some("ann@contoso.example/desk"));
    // Nobody subscribed, so that was all, however often it is asked.
    world.respond(&look, 200, &[]);
    world.silent();
    assert_eq!(world.gateway.status().subscriptions, 0);
    world.stanza(presence(Some("probe")));
    assert_eq!(text(&world.one_sip(), "Expires"), "0");

    let mut world = World::new();
    world.stanza(presence(Some("probe")));
    let look = world.one_sip();
    world.respond(&look, 404, &[]);
    world.silent();
    assert_eq!(world.gateway.status().dialogs, 0);
}

#[test]
fn the_first_notify_may_come_in_the_answer_and_benotify_has_no_answer() {
    use crate::sip::Edit;
    let (mut world, request) = asked();
    let ask = crate::sip::build::Response {
        to_tag: Some("inside"),
        ..crate::sip::build::Response::new(200, "OK")
    };
    let answer = parse(crate::sip::build::response(&request, &ask).unwrap());
    let answer = Edit::new(&answer)
        .append("Content-Type", "application/pidf+xml")
        .body(pidf(&open("ID-desk", "")).as_bytes())
        .finish();
    world.input(GatewayInput::Sip(parse(answer.unwrap())));
    assert_eq!(world.stanzas.len(), 2);
    world.stanzas.clear();
    let away = pidf(&open("ID-desk", "<r:activities><r:away/></r:activities>"));
    let benotify = Ask { method: "BENOTIFY", ..notify("active", &away) };
    world.ask_back(&request, benotify, 1);
    assert!(world.sip.is_empty());
    assert_eq!(world.one_stanza().child(ns::SERVER, "show").unwrap().text(), "away");
}

#[test]
fn a_notify_of_somebody_else_is_not_taken() {
    let (mut world, request) = approved();
    let from = "<sip:ann@contoso.example>;tag=other";
    let to = text(&request, "From").to_owned();
    let call_id = request.call_id().unwrap().to_owned();
    let forged = notify("terminated;reason=rejected", "");
    world.send(&forged, "sip:rob@montague.example", from, &to, &call_id, 50);
    assert_eq!(world.status(), 481);
    let from = "<sip:ann@contoso.example>;tag=inside";
    world.send(&forged, "sip:rob@montague.example", from, &to, "other@call", 51);
    assert_eq!(world.status(), 481);
    assert!(world.stanzas.is_empty());
}

#[test]
fn ended_by_the_sip_side_it_is_begun_again_when_that_makes_sense() {
    for (reason, again) in
        [("deactivated", 0), ("timeout", 0), ("probation;retry-after=90", 90), ("giveup", 60)]
    {
        let (mut world, request) = approved();
        world.ask_back(&request, notify(&format!("terminated;reason={reason}"), ""), 2);
        assert_eq!(world.sip.remove(0).status(), Some(200));
        if again > 0 {
            assert_eq!(kind(&world.one_stanza()), "unavailable", "{reason}");
            world.seconds(again - 1);
            world.silent();
            world.seconds(1);
        }
        assert_eq!(text(&world.one_sip(), "Expires"), "3600", "{reason}");
    }
}

#[test]
fn a_server_that_ends_every_subscription_at_once_is_not_asked_without_end() {
    let (mut world, mut request) = approved();
    for cseq in 2..20 {
        world.ask_back(&request, notify("terminated;reason=timeout", ""), cseq);
        assert_eq!(world.sip.remove(0).status(), Some(200));
        match world.sip.pop() {
            Some(again) => request = again,
            None => {
                assert_eq!(cseq, 3, "once at once, then later");
                return;
            }
        }
        world.respond(&request, 200, &[]);
    }
    panic!("without end");
}

#[test]
fn a_watcher_that_waits_for_approval_and_goes_is_still_answered() {
    let (mut world, request) = asked();
    world.respond(&request, 200, &[]);
    world.stanza(presence(Some("unavailable")));
    world.silent();
    world.ask_back(&request, notify("active", ""), 1);
    assert_eq!(world.status(), 200);
    assert_eq!(kind(&world.one_stanza()), "subscribed");
}

#[test]
fn who_asks_during_a_look_or_an_end_is_answered() {
    let mut world = World::new();
    world.stanza(presence(Some("probe")));
    let look = world.one_sip();
    world.stanza(presence(Some("subscribe")));
    let request = world.one_sip();
    world.respond(&look, 403, &[]);
    world.silent();
    world.respond(&request, 403, &[]);
    assert_eq!(kind(&world.one_stanza()), "unsubscribed");

    let (mut world, _) = approved();
    world.stanza(presence(Some("unsubscribe")));
    let end = world.one_sip();
    world.stanza(presence(Some("subscribe")));
    world.silent();
    world.respond(&end, 200, &[]);
    let request = world.one_sip();
    assert_eq!(text(&request, "Expires"), "3600");
    world.respond(&request, 200, &[]);
    world.ask_back(&request, notify("active", ""), 1);
    assert_eq!(world.status(), 200);
    assert_eq!(kind(&world.one_stanza()), "subscribed");
}

#[test]
fn who_may_see_may_ask() {
    let (mut world, _) = approved();
    let ping = Element::new(ns::SERVER, "iq").with("type", "get").with("id", "1");
    let ping = ping.with_child(Element::new(ns::PING, "ping"));
    world.stanza(ping.clone());
    assert_eq!(kind(&world.one_stanza()), "result");
    world.stanza(ping.with("from", "eve@montague.example/x"));
    assert_eq!(condition(&world.one_stanza()), "service-unavailable");
}

/// Somebody of `from` asks for ann's presence, and the SIP side has yet to let them.
fn waits(world: &mut World, from: &str) -> Message {
    world.stanza(presence(Some("subscribe")).with("from", from.to_owned()));
    let request = world.sip.pop().unwrap();
    assert_eq!(text(&request, "Expires"), "3600", "{from}");
    world.respond(&request, 200, &[("Expires", "3600")]);
    request
}

#[test]
fn of_those_that_nobody_approved_the_oldest_gives_place() {
    let limits = GatewayLimits { per_user: 2, ..GatewayLimits::default() };
    let mut policy = policy(XmppPartnerKind::Federated);
    two_domains(&mut policy);
    let mut world = World::of(policy, limits);
    let first = waits(&mut world, "a@montague.example");
    world.ask_back(&first, notify("active", ""), 1);
    let second = waits(&mut world, "b@second.example");
    world.forget();
    // The partner's share of this user is used up, of whichever of its domains they are.
    let third = waits(&mut world, "c@montague.example");
    let end = world.sip.pop().unwrap();
    assert_eq!((text(&end, "Expires"), end.call_id()), ("0", second.call_id()));
    assert_eq!(world.gateway.status().subscriptions, 2);
    world.ask_back(&third, notify("active", ""), 1);
    world.forget();
    // Those that were let stay.
    world.stanza(presence(Some("subscribe")).with("from", "d@second.example"));
    assert_eq!(condition(&world.one_stanza()), "resource-constraint");
    assert!(world.sip.is_empty());
    waits(&mut world, "a@other.example");
    assert_eq!(world.gateway.status().subscriptions, 3);
    let status = world.gateway.status();
    assert_eq!(status.partners[&domain("montague.example")].subscriptions, 2);
}

#[test]
fn who_is_not_let_see_is_not_waited_for_without_end() {
    let mut world = World::new();
    waits(&mut world, "rob@montague.example");
    for _ in 0..80 * 120 {
        world.seconds(30);
        assert!(world.stanzas.is_empty(), "{:?}", world.stanzas);
        for request in std::mem::take(&mut world.sip) {
            world.respond(&request, 200, &[("Expires", "3600")]);
        }
        if !world.stanzas.is_empty() {
            break;
        }
    }
    assert_eq!(kind(&world.one_stanza()), "unsubscribed");
    let status = world.gateway.status();
    assert_eq!((status.subscriptions, status.dialogs, status.timers), (0, 0, 0));
    // Nor for a server that does not answer.
    let mut world = World::new();
    world.stanza(presence(Some("subscribe")));
    world.seconds(86_400);
    assert_eq!(world.gateway.status().subscriptions, 0);
}

#[test]
fn a_message_to_a_tuple_is_for_the_user() {
    let (mut world, _) = approved();
    world.stanza(message("hi").with("to", "ann@contoso.example/desk"));
    let request = world.one_sip();
    assert_eq!(request.request_uri().unwrap().unwrap().as_str(), "sip:ann@contoso.example");
    world.respond(&request, 403, &[]);
    assert_eq!(world.one_stanza().attribute("from"), Some("ann@contoso.example/desk"));
}
