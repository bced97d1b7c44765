//! Messages without a session.

use super::*;

fn body(stanza: &Element) -> String {
    stanza.child(ns::SERVER, "body").unwrap().text().into_owned()
}

fn receipt(id: &str) -> Element {
    Element::new(ns::SERVER, "message")
        .with_child(Element::new(ns::RECEIPTS, "received").with("id", id))
}

fn error(id: &str, condition: &str, text: &str) -> Element {
    Element::new(ns::SERVER, "message")
        .with("type", "error")
        .with("id", id)
        .with_child(errors::element(condition, text))
}

#[test]
fn a_message_of_a_sip_user_becomes_a_stanza() {
    let mut world = World::new();
    let ask = Ask::new("MESSAGE").with("Subject: Lunch").with("Content-Language: en-GB");
    world.ask(ask.text("Hello <you> & \u{fc}\u{7}\r\nthere"));
    let stanza = world.one_stanza();
    assert_eq!(stanza.attribute("from"), Some("ann@contoso.example"));
    assert_eq!(stanza.attribute("to"), Some("rob@montague.example"));
    assert_eq!((stanza.attribute("type"), stanza.lang()), (None, Some("en-GB")));
    assert_eq!(body(&stanza), "Hello <you> & \u{fc}\nthere");
    assert_eq!(stanza.child(ns::SERVER, "subject").unwrap().text(), "Lunch");
    assert!(stanza.child(ns::SERVER, "thread").is_some());
    world.silent();
    // No stream can be had.
    world.seconds(19);
    world.silent();
    world.seconds(1);
    assert_eq!(world.status(), 202);
    assert_eq!(world.gateway.status().held, 0);
}

/// A message of ann's, and what the streams say of it.
fn passes(world: &mut World, acknowledged: bool) -> Element {
    world.ask(Ask::new("MESSAGE").text("hi"));
    let stanza = world.one_stanza();
    let pair = Pair { local: domain("contoso.example"), remote: domain("montague.example") };
    let id = stanza.attribute("id").unwrap().to_owned();
    world.input(GatewayInput::Passed { pair, stanza: id, acknowledged });
    world.silent();
    stanza
}

#[test]
fn an_ack_of_the_partners_server_ends_the_wait_and_an_error_right_behind_it_is_told() {
    let mut world = World::new();
    passes(&mut world, true);
    world.pass(Duration::from_millis(299));
    world.silent();
    world.pass(Duration::from_millis(1));
    assert_eq!(world.status(), 200);
    let stanza = passes(&mut world, true);
    world.pass(Duration::from_millis(100));
    world.stanza(failed(&stanza, "item-not-found"));
    assert_eq!(world.status(), 604);
    world.seconds(30);
    world.silent();
}

#[test]
fn without_acks_a_message_that_was_written_is_taken_a_second_later() {
    let mut world = World::new();
    passes(&mut world, false);
    world.pass(Duration::from_millis(999));
    world.silent();
    world.pass(Duration::from_millis(1));
    assert_eq!(world.status(), 202);
    // Both: the ack counts, and nothing makes the wait longer.
    let stanza = passes(&mut world, false);
    let id = stanza.attribute("id").unwrap().to_owned();
    let pair = |remote| Pair { local: domain("contoso.example"), remote: domain(remote) };
    let passed = |remote| GatewayInput::Passed {
        pair: pair(remote),
        stanza: id.clone(),
        acknowledged: true,
    };
    world.pass(Duration::from_millis(900));
    world.input(passed("other.example"));
    world.input(passed("montague.example"));
    world.pass(Duration::from_millis(100));
    assert_eq!(world.status(), 200);
    world.input(passed("montague.example"));
    world.seconds(30);
    world.silent();
}

fn failed(stanza: &Element, condition: &str) -> Element {
    error(stanza.attribute("id").unwrap(), condition, "")
}

#[test]
fn call_ids_and_threads_are_not_for_the_other_side_to_choose_or_to_read() {
    let mut world = World::new();
    let thread = |stanza: &Element| stanza.child(ns::SERVER, "thread").unwrap().text().into_owned();
    world.ask(Ask::new("MESSAGE").text("one"));
    let first = thread(&world.one_stanza());
    assert!(!first.contains("call-1") && !first.contains("inside"), "{first}");
    world.ask(Ask::new("MESSAGE").text("two"));
    assert_eq!(thread(&world.one_stanza()), first, "one talk");
    let to = "sip:bob@montague.example";
    world.ask(Ask { to, ..Ask::new("MESSAGE") }.text("three"));
    assert_ne!(thread(&world.one_stanza()), first, "nobody learns who else is talked to");
    let said = |world: &mut World, from: &'static str, thread: &str| {
        let thread = Element::new(ns::SERVER, "thread").with_text(thread);
        world.forget();
        world.stanza(message("hi").with("from", from).with_child(thread));
        world.one_sip().call_id().unwrap().to_owned()
    };
    let rob = said(&mut world, "rob@montague.example/x", "call-9@victim");
    assert!(rob.ends_with("@gw.contoso.example") && !rob.contains("call-9"), "{rob}");
    assert_eq!(said(&mut world, "rob@montague.example/y", "call-9@victim"), rob, "one talk");
    assert_ne!(said(&mut world, "rob@montague.example/x", "call-9@other"), rob);
    assert_ne!(said(&mut world, "eve@montague.example/x", "call-9@victim"), rob);
}

#[test]
fn gr_is_the_resource() {
    let mut world = World::new();
    let to = "sip:rob@montague.example;gr=balcony";
    let from = "sip:ann@contoso.example;gr=desk";
    world.ask(Ask { to, from, ..Ask::new("MESSAGE") }.text("hi"));
    let stanza = world.one_stanza();
    assert_eq!(stanza.attribute("to"), Some("rob@montague.example/balcony"));
    assert_eq!(stanza.attribute("from"), Some("ann@contoso.example/desk"));
}

#[test]
fn what_the_xmpp_side_says_is_the_final_answer() {
    for (said, status, reason) in [
        (None, 200, "OK"),
        (Some(("service-unavailable", "Not\r\nnow")), 403, "Not  now"),
        (Some(("item-not-found", "")), 604, "Does Not Exist Anywhere"),
        (Some(("feature-not-implemented", "")), 501, "Not Implemented"),
        (Some(("recipient-unavailable", "")), 600, "Busy Everywhere"),
        (Some(("registration-required", "")), 403, "Forbidden"),
        (Some(("redirect", "")), 480, "Temporarily Unavailable"),
        (Some(("gone", "")), 410, "Gone"),
    ] {
        let mut world = World::new();
        world.ask(Ask::new("MESSAGE").text("hi"));
        let id = world.one_stanza().attribute("id").unwrap().to_owned();
        match said {
            None => world.stanza(receipt(&id)),
            Some((condition, text)) => world.stanza(error(&id, condition, text)),
        }
        let answer = world.one_sip();
        assert_eq!(answer.status(), Some(status), "{said:?}");
        assert_eq!(answer.reason().unwrap(), reason.as_bytes(), "{said:?}");
        world.seconds(60);
        world.silent();
    }
}

#[test]
fn a_full_jid_has_the_other_column() {
    let mut world = World::new();
    let to = "sip:rob@montague.example;gr=balcony";
    world.ask(Ask { to, ..Ask::new("MESSAGE") }.text("hi"));
    let id = world.one_stanza().attribute("id").unwrap().to_owned();
    world.stanza(error(&id, "feature-not-implemented", ""));
    let answer = world.one_sip();
    assert_eq!(answer.status(), Some(405));
    assert!(text(&answer, "Allow").contains("MESSAGE"));
}

#[test]
fn only_the_addressee_and_its_server_can_say_so() {
    let mut world = World::new();
    world.ask(Ask::new("MESSAGE").text("hi"));
    let id = world.one_stanza().attribute("id").unwrap().to_owned();
    for from in ["eve@montague.example/x", "other.example", "rob@other.example"] {
        world.stanza(error(&id, "forbidden", "").with("from", from));
    }
    world.stanza(error(&id, "forbidden", "").with("to", "bea@contoso.example"));
    world.stanza(error("5-0123", "forbidden", ""));
    world.silent();
    world.stanza(error(&id, "forbidden", "").with("from", "montague.example"));
    assert_eq!(world.status(), 603);
}

#[test]
fn a_message_that_could_not_be_sent_is_answered_with_why() {
    let mut world = World::new();
    world.ask(Ask::new("MESSAGE").text("hi"));
    let stanza = world.one_stanza();
    let pair = Pair { local: domain("contoso.example"), remote: domain("montague.example") };
    world.input(GatewayInput::Undelivered {
        pair,
        stanza,
        condition: "remote-server-timeout",
        text: "no stream within 60 s".to_owned(),
    });
    let answer = world.one_sip();
    assert_eq!(answer.status(), Some(504));
    assert_eq!(answer.reason().unwrap(), b"no stream within 60 s");
}

#[test]
fn who_moved_is_followed_only_to_a_partner() {
    for (to, status, contact) in [
        ("xmpp:rob@other.example", 301, "<sip:rob@other.example>"),
        ("xmpp:rob@nobody.example", 410, ""),
        ("https://evil.example", 410, ""),
    ] {
        let mut world = World::new();
        world.ask(Ask::new("MESSAGE").text("hi"));
        let id = world.one_stanza().attribute("id").unwrap().to_owned();
        let gone = Element::new(ns::STANZA_ERRORS, "gone").with_text(to);
        let wrapped = Element::new(ns::SERVER, "error").with("type", "cancel").with_child(gone);
        let stanza = Element::new(ns::SERVER, "message").with("type", "error").with("id", id);
        world.stanza(stanza.with_child(wrapped));
        let answer = world.one_sip();
        assert_eq!((answer.status(), text(&answer, "Contact")), (Some(status), contact), "{to}");
    }
}

#[test]
fn bodies_that_are_no_text_are_refused_with_what_would_be_taken() {
    for (kind, bytes) in [
        ("message/cpim", &b"From: x\r\n\r\nhi"[..]),
        ("message/cpim", b"\r\nContent-Type: image/png\r\n\r\nx"),
        ("message/cpim", b"\r\nContent-Type: message/cpim\r\n\r\n\r\n\r\nx"),
        ("text/rtf", b"{}"),
        ("image/png", b"x"),
        ("text/plain", b"\xff"),
    ] {
        let mut world = World::new();
        world.ask(Ask::new("MESSAGE").body(kind, bytes));
        let answer = world.one_sip();
        assert_eq!(answer.status(), Some(415), "{kind}");
        assert!(text(&answer, "Accept").contains("text/plain"));
    }
    let mut world = World::new();
    world.ask(Ask::new("MESSAGE").with("Content-Encoding: gzip").text("x"));
    assert_eq!(world.status(), 415);
}

#[test]
fn a_stanza_becomes_a_message() {
    let mut world = World::new();
    let mut stanza = message("Art thou not <Romeo>?\nAnd a Montague?");
    stanza.push(Element::new(ns::SERVER, "subject").with_text("Who\r\nVia: evil"));
    stanza.push(Element::new(ns::SERVER, "thread").with_text("thread-7"));
    stanza.set_ns(ns::XML, "lang", "en");
    world.stanza(stanza);
    let request = world.one_sip();
    assert_eq!(request.method(), Some(Method::Message));
    assert_eq!(request.request_uri().unwrap().unwrap().as_str(), "sip:ann@contoso.example");
    let from = request.from().unwrap();
    assert_eq!(from.uri.as_str(), "sip:rob@montague.example;gr=balcony");
    assert!(from.tag().is_some());
    assert_eq!(text(&request, "Subject"), "Who  Via: evil");
    assert_eq!(text(&request, "Content-Language"), "en");
    assert_eq!(text(&request, "Content-Type"), "text/plain;charset=UTF-8");
    assert_eq!(request.body(), b"Art thou not <Romeo>?\nAnd a Montague?");
    assert_eq!(request.list(HeaderName::Via).count(), 1);
    world.respond(&request, 100, &[]);
    world.respond(&request, 200, &[]);
    world.silent();
    assert_eq!(world.gateway.status().transactions, 0);
}

#[test]
fn whatever_a_thread_is_the_call_id_is_ours() {
    for thread in ["a b", "x\r\nVia: y", "<x>", "", "a@b@c", &"x".repeat(200)] {
        let mut world = World::new();
        world
            .stanza(message("hi").with_child(Element::new(ns::SERVER, "thread").with_text(thread)));
        let request = world.one_sip();
        assert!(request.call_id().unwrap().ends_with("@gw.contoso.example"), "{thread:?}");
    }
}

#[test]
fn a_receipt_that_was_asked_for_is_the_200() {
    for (status, confirmed) in [(200, true), (202, false), (404, false)] {
        let mut world = World::new();
        world.stanza(message("hi").with_child(Element::new(ns::RECEIPTS, "request")));
        let request = world.one_sip();
        world.respond(&request, status, &[]);
        let receipts: Vec<_> =
            world.stanzas.iter().filter_map(|s| s.child(ns::RECEIPTS, "received")).collect();
        assert_eq!(receipts.len(), usize::from(confirmed), "{status}");
        if confirmed {
            assert_eq!(receipts[0].attribute("id"), Some("m1"));
        }
    }
}

#[test]
fn a_refusal_is_a_stanza_error_that_does_not_say_who_is_there() {
    for (status, expected) in [
        (404, "service-unavailable"),
        (480, "service-unavailable"),
        (604, "service-unavailable"),
        (403, "forbidden"),
        (415, "not-acceptable"),
        (500, "internal-server-error"),
        (503, "internal-server-error"),
    ] {
        let mut world = World::new();
        world.stanza(message("hi"));
        let request = world.one_sip();
        world.respond(&request, status, &[]);
        let stanza = world.one_stanza();
        assert_eq!(condition(&stanza), expected, "{status}");
        assert_eq!(stanza.attribute("id"), Some("m1"));
        assert_eq!(stanza.attribute("to"), Some("rob@montague.example/balcony"));
        // Never in the inside server's words, and in none where they would tell who is there.
        let hides = errors::private_condition_of(status) != errors::condition_of(status);
        let text = if hides { "" } else { errors::reason_of(status) };
        assert_eq!(errors::read(&stanza).1, text, "{status}");
        world.respond(&request, status, &[]);
        world.silent();
    }
}

#[test]
fn a_message_without_an_answer_times_out_once() {
    let mut world = World::new();
    world.stanza(message("hi"));
    let request = world.one_sip();
    world.respond(&request, 100, &[]);
    world.seconds(31);
    world.silent();
    world.seconds(1);
    assert_eq!(condition(&world.one_stanza()), "remote-server-timeout");
    world.respond(&request, 200, &[]);
    world.silent();
}

#[test]
fn rooms_and_headlines_are_not_served() {
    let room = Element::new("http://jabber.org/protocol/muc#user", "x");
    let direct = Element::new("jabber:x:conference", "x").with("jid", "room@muc.example");
    for (stanza, expected) in [
        (message("hi").with("type", "groupchat"), Some("service-unavailable")),
        (message("hi").with_child(room), Some("feature-not-implemented")),
        (message("hi").with_child(direct), Some("feature-not-implemented")),
        (message("hi").with("type", "headline"), None),
    ] {
        let mut world = World::new();
        world.stanza(stanza);
        match expected {
            Some(expected) => assert_eq!(condition(&world.one_stanza()), expected),
            None => world.silent(),
        }
        assert!(world.sip.is_empty());
    }
}

#[test]
fn a_stanza_that_says_nothing_is_no_message() {
    let mut world = World::new();
    world.stanza(Element::new(ns::SERVER, "message"));
    world.stanza(message(""));
    world.silent();
}

#[test]
fn without_room_a_message_is_answered_at_once() {
    let limits = GatewayLimits { held: 1, transactions: 1, ..GatewayLimits::default() };
    let mut world = World::of(policy(XmppPartnerKind::Federated), limits);
    world.ask(Ask::new("MESSAGE").text("one"));
    assert!(world.sip.is_empty());
    world.ask(Ask::new("MESSAGE").text("two"));
    assert_eq!(world.status(), 202);
    assert_eq!(world.stanzas.len(), 2);
    world.stanzas.clear();
    world.stanza(message("one"));
    world.one_sip();
    world.stanza(message("two"));
    assert_eq!(condition(&world.one_stanza()), "internal-server-error");
}

#[test]
fn a_resource_that_sip_does_not_know_is_the_user() {
    for status in [404, 410, 480] {
        let mut world = World::new();
        world.stanza(message("hi").with("to", "ann@contoso.example/phone"));
        let request = world.one_sip();
        let uri = |request: &Message| request.request_uri().unwrap().unwrap().as_str().to_owned();
        assert_eq!(uri(&request), "sip:ann@contoso.example;gr=phone");
        world.respond(&request, status, &[]);
        let again = world.one_sip();
        assert_eq!(uri(&again), "sip:ann@contoso.example");
        assert_eq!(again.body(), b"hi");
        // Once.
        world.respond(&again, status, &[]);
        let stanza = world.one_stanza();
        assert_eq!(condition(&stanza), "service-unavailable");
        assert_eq!(stanza.attribute("from"), Some("ann@contoso.example/phone"));
        world.silent();
    }
}

#[test]
fn a_slow_partner_leaves_room_for_the_others() {
    let limits = GatewayLimits { transactions: 8, ..GatewayLimits::default() };
    let mut policy = policy(XmppPartnerKind::Federated);
    two_domains(&mut policy);
    let mut world = World::of(policy, limits);
    for from in ["a@montague.example", "b@second.example"] {
        world.stanza(message("hi").with("from", from));
    }
    assert_eq!(world.sip.len(), 2);
    world.stanza(message("hi").with("from", "c@second.example"));
    assert_eq!(condition(&world.one_stanza()), "internal-server-error");
    world.stanza(message("hi").with("from", "a@other.example"));
    assert_eq!(world.sip.len(), 3);
    // What is over gives its place back.
    let first = world.sip.remove(0);
    world.respond(&first, 200, &[]);
    world.forget();
    world.stanza(message("hi").with("from", "c@second.example"));
    assert_eq!(world.one_sip().method(), Some(Method::Message));
}
