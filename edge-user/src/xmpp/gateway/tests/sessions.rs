//! Sessions.

use super::*;

const OFFER: &str = "v=0\r\no=- 0 0 IN IP4 10.0.0.9\r\ns=session\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\n\
    m=message 5060 sip null\r\na=accept-types:text/plain multipart/alternative text/rtf\r\n";

fn invite(sdp: &str) -> Ask {
    Ask::new("INVITE").body("application/sdp", sdp.as_bytes())
}

fn body(stanza: &Element) -> String {
    stanza.child(ns::SERVER, "body").map(|body| body.text().into_owned()).unwrap_or_default()
}

fn state(stanza: &Element) -> &str {
    stanza
        .children()
        .find(|child| child.ns() == ns::CHAT_STATES)
        .map(Element::name)
        .unwrap_or_default()
}

/// ann began a session and acknowledged it; our tag.
fn up(sdp: &str) -> (World, String) {
    let mut world = World::new();
    world.ask(invite(sdp));
    let answer = world.one_sip();
    assert_eq!(answer.status(), Some(200));
    let tag = answer.to().unwrap().tag().unwrap().to_owned();
    inside(&mut world, &tag, Ask::new("ACK"), 1);
    world.silent();
    (world, tag)
}

/// A request of ann's in the session.
fn inside(world: &mut World, tag: &str, ask: Ask, cseq: u32) {
    let to = format!("<sip:rob@montague.example>;tag={tag}");
    let from = "<sip:ann@contoso.example>;tag=f1";
    world.send(&ask, "sip:rob@montague.example", from, &to, "call-1@inside", cseq);
}

#[test]
fn an_invite_for_messages_is_answered_until_it_is_acknowledged() {
    let mut world = World::new();
    world.ask(invite(OFFER).with("Record-Route: <sip:p1.contoso.example;lr>"));
    let answer = world.one_sip();
    assert_eq!(answer.status(), Some(200));
    assert_eq!(text(&answer, "Record-Route"), "<sip:p1.contoso.example;lr>");
    assert_eq!(uri_of(text(&answer, "Contact")), "sip:rob@montague.example");
    let sdp = String::from_utf8(answer.body().to_vec()).unwrap();
    assert!(sdp.contains("m=message 5060 sip sip:rob@montague.example\r\n"), "{sdp}");
    assert!(sdp.contains("a=accept-types:text/plain "), "{sdp}");
    let mut times = Vec::new();
    for tick in 0..40 {
        world.pass(Duration::from_millis(500));
        times.extend(world.sip.drain(..).map(|again| {
            assert_eq!(again.bytes(), answer.bytes());
            (tick + 1) * 500
        }));
    }
    assert_eq!(times, [500, 1500, 3500, 7500, 11500, 15500, 19500]);
    let tag = answer.to().unwrap().tag().unwrap().to_owned();
    inside(&mut world, &tag, Ask::new("ACK"), 1);
    world.seconds(60);
    world.silent();
    // Without an ACK it ends.
    let mut world = World::new();
    world.ask(invite(OFFER));
    world.forget();
    world.seconds(32);
    assert_eq!(world.sip.pop().unwrap().method(), Some(Method::Bye));
    assert_eq!(state(&world.one_stanza()), "gone");
    assert_eq!(world.gateway.status().sessions, 0);
}

#[test]
fn messages_go_both_ways_in_it() {
    let (mut world, tag) = up(OFFER);
    inside(&mut world, &tag, Ask::new("MESSAGE").text("hi"), 2);
    let stanza = world.one_stanza();
    assert_eq!((stanza.attribute("type"), body(&stanza)), (Some("chat"), "hi".to_owned()));
    assert!(!stanza.child(ns::SERVER, "thread").unwrap().text().contains("inside"));
    world.seconds(20);
    assert_eq!(world.status(), 200);
    world.stanza(message("hello").with_child(Element::new(ns::RECEIPTS, "request")));
    let request = world.one_sip();
    assert_eq!((request.method(), request.body()), (Some(Method::Message), &b"hello"[..]));
    assert_eq!(request.call_id().unwrap(), "call-1@inside");
    assert_eq!(
        request.request_uri().unwrap().unwrap().as_str(),
        "sip:ann@10.0.0.9:5061;transport=tls"
    );
    assert_eq!(request.from().unwrap().tag(), Some(tag.as_str()));
    assert_eq!(request.to().unwrap().tag(), Some("f1"));
    world.respond(&request, 200, &[]);
    assert!(world.one_stanza().child(ns::RECEIPTS, "received").is_some());
    // What is too long for a MESSAGE alone is not too long here; and it goes to whom wrote last.
    world.stanza(message(&"x".repeat(5000)));
    assert_eq!(world.one_sip().body().len(), 5000);
    inside(&mut world, &tag, Ask::new("MESSAGE").text("still there?"), 3);
    assert_eq!(world.one_stanza().attribute("to"), Some("rob@montague.example/balcony"));
}

#[test]
fn typing_goes_both_ways_as_each_side_knows_it() {
    let (mut world, tag) = up(OFFER);
    let keyboard = |status: &str| {
        let xml = format!(
            "<?xml version=\"1.0\"?>\r\n<KeyboardActivity>\r\n<status status=\"{status}\" />\r\n</KeyboardActivity>"
        );
        Ask::new("INFO").body("application/xml", xml.as_bytes())
    };
    for (cseq, status, expected) in [(2, "type", "composing"), (3, "idle", "paused")] {
        inside(&mut world, &tag, keyboard(status), cseq);
        assert_eq!(world.status(), 200);
        let stanza = world.one_stanza();
        assert_eq!((state(&stanza), stanza.attribute("type")), (expected, Some("chat")));
    }
    inside(&mut world, &tag, Ask::new("INFO").body("application/xml", b"<other/>"), 4);
    assert_eq!(world.status(), 415);
    let chat = |state: &'static str| {
        Element::new(ns::SERVER, "message").with_child(Element::new(ns::CHAT_STATES, state))
    };
    world.stanza(chat("active"));
    world.silent();
    world.stanza(chat("composing"));
    let info = world.one_sip();
    assert_eq!(
        (info.method(), text(&info, "Content-Type")),
        (Some(Method::Info), "application/xml")
    );
    assert!(String::from_utf8_lossy(info.body()).contains("status=\"type\""));
    world.stanza(chat("composing"));
    world.silent();
    world.stanza(chat("paused"));
    assert!(String::from_utf8_lossy(world.one_sip().body()).contains("status=\"idle\""));

    let (mut world, tag) = up(&OFFER.replace("text/rtf", "application/im-iscomposing+xml"));
    let xml = "<isComposing xmlns='urn:ietf:params:xml:ns:im-iscomposing'><state>active</state></isComposing>";
    let ask = Ask::new("MESSAGE").body("application/im-iscomposing+xml", xml.as_bytes());
    inside(&mut world, &tag, ask, 2);
    assert_eq!(world.status(), 200);
    assert_eq!(state(&world.one_stanza()), "composing");
    world.stanza(chat("composing"));
    let request = world.one_sip();
    assert_eq!(request.method(), Some(Method::Message));
    assert!(String::from_utf8_lossy(request.body()).contains("<state>active</state>"));
}

/// In a session that we begin, the answer says how typing is told.
#[test]
fn typing_in_a_session_of_ours_goes_as_the_answer_takes_it() {
    for (types, method) in [
        ("text/plain", Method::Info),
        ("text/plain application/im-iscomposing+xml", Method::Message),
        ("*", Method::Message),
    ] {
        let (mut world, invite) = calling();
        let answer = OFFER.replace("text/plain multipart/alternative text/rtf", types);
        world.respond_with(&invite, answer.as_bytes());
        for request in std::mem::take(&mut world.sip) {
            if request.method() == Some(Method::Message) {
                world.respond(&request, 200, &[]);
            }
        }
        world.forget();
        let composing = Element::new(ns::CHAT_STATES, "composing");
        world.stanza(Element::new(ns::SERVER, "message").with_child(composing));
        assert_eq!(world.one_sip().method(), Some(method), "{types}");
    }
}

#[test]
fn either_side_ends_it_and_silence_does() {
    let (mut world, tag) = up(OFFER);
    inside(&mut world, &tag, Ask::new("BYE"), 2);
    assert_eq!(world.status(), 200);
    assert_eq!(state(&world.one_stanza()), "gone");
    inside(&mut world, &tag, Ask::new("MESSAGE").text("late"), 3);
    assert_eq!(world.status(), 481);

    let (mut world, _) = up(OFFER);
    let gone =
        Element::new(ns::SERVER, "message").with_child(Element::new(ns::CHAT_STATES, "gone"));
    world.stanza(gone);
    assert_eq!(world.one_sip().method(), Some(Method::Bye));
    assert!(world.stanzas.is_empty());

    let (mut world, _) = up(OFFER);
    world.seconds(599);
    world.silent();
    world.seconds(1);
    assert_eq!(world.one_sip().method(), Some(Method::Bye));
    assert_eq!(state(&world.one_stanza()), "gone");
    let status = world.gateway.status();
    assert_eq!((status.sessions, status.dialogs), (0, 0));
}

#[test]
fn the_first_message_may_come_in_the_invite() {
    let mut world = World::new();
    let header = "ms-text-format: text/plain; charset=UTF-8;msgr=WAAtAE0A;ms-body=SGkgPHlvdT4=";
    world.ask(invite(OFFER).with(header));
    assert_eq!(text(&world.one_sip(), "Supported"), "ms-text-format");
    assert_eq!(body(&world.one_stanza()), "Hi <you>");
    for bad in ["ms-text-format: text/rtf;ms-body=SGk=", "ms-text-format: text/plain;ms-body=%%"] {
        let mut world = World::new();
        world.ask(invite(OFFER).with(bad));
        assert_eq!(text(&world.one_sip(), "Supported"), "");
        world.silent();
    }
}

#[test]
fn other_media_is_refused() {
    let audio = "m=audio 50000 RTP/AVP 0\r\n";
    let msrp = OFFER.replace("5060 sip null", "7654 TCP/MSRP *");
    let off = OFFER.replace("message 5060", "message 0");
    let head = OFFER.split("m=").next().unwrap().to_owned();
    for sdp in [msrp.as_str(), &off, &format!("{head}{audio}"), "nonsense", ""] {
        let mut world = World::new();
        world.ask(invite(sdp));
        assert_eq!(world.status(), 488, "{sdp}");
        assert_eq!(world.gateway.status().dialogs, 0);
        world.seconds(60);
        world.silent();
    }
    // Of several the messages are taken.
    let mut world = World::new();
    world.ask(invite(
        &format!("{OFFER}{audio}m=message 5060 sip null\r\n")
            .replace("m=message", "m=x-ms-message"),
    ));
    let answer = world.one_sip();
    let sdp = String::from_utf8(answer.body().to_vec()).unwrap();
    let media: Vec<&str> = sdp.lines().filter(|line| line.starts_with("m=")).collect();
    let expected = [
        "m=x-ms-message 5060 sip sip:rob@montague.example",
        "m=audio 0 RTP/AVP 0",
        "m=x-ms-message 0 sip null",
    ];
    assert_eq!(media, expected);
}

#[test]
fn refreshed_and_not_extended() {
    let (mut world, tag) = up(OFFER);
    inside(&mut world, &tag, invite(OFFER), 2);
    let answer = world.one_sip();
    assert_eq!(answer.status(), Some(200));
    inside(&mut world, &tag, invite(OFFER), 3);
    assert_eq!(world.status(), 491);
    inside(&mut world, &tag, Ask::new("ACK"), 2);
    inside(&mut world, &tag, Ask::new("INVITE"), 4);
    assert!(String::from_utf8_lossy(world.one_sip().body()).contains("m=message 5060 sip null"));
    inside(&mut world, &tag, Ask::new("ACK"), 4);
    let audio = OFFER.replace("message 5060 sip null", "audio 5000 RTP/AVP 0");
    inside(&mut world, &tag, invite(&audio), 5);
    assert_eq!(world.status(), 488);
    inside(&mut world, &tag, Ask::new("UPDATE"), 6);
    assert_eq!(world.status(), 200);
    inside(&mut world, &tag, Ask::new("UPDATE").body("application/sdp", audio.as_bytes()), 7);
    assert_eq!(world.status(), 488);
    inside(&mut world, &tag, Ask::new("REFER"), 8);
    assert_eq!(world.status(), 405);
    inside(&mut world, &tag, Ask::new("OPTIONS"), 9);
    assert_eq!(world.status(), 200);
    inside(&mut world, &tag, Ask::new("MESSAGE").text("old"), 2);
    assert_eq!(world.status(), 500);
    world.seconds(32);
    world.silent();
}

#[test]
fn a_cancel_comes_too_late_but_is_answered() {
    let mut world = World::new();
    world.ask(invite(OFFER));
    world.forget();
    world.branches -= 1;
    world.ask(Ask::new("CANCEL"));
    assert_eq!(world.status(), 200);
}

/// rob wrote something long: the INVITE.
fn calling() -> (World, Message) {
    let mut world = World::new();
    world.stanza(message(&"long ".repeat(300)));
    let request = world.one_sip();
    assert_eq!(request.method(), Some(Method::Invite));
    (world, request)
}

const CONTACT: (&str, &str) = ("Contact", "<sip:ann@10.0.0.9:5061>");
const ROUTES: (&str, &str) =
    ("Record-Route", "<sip:p2.contoso.example;lr>, <sip:p1.contoso.example;lr>");

#[test]
fn what_is_too_long_for_a_message_alone_begins_a_session() {
    let (mut world, request) = calling();
    assert_eq!(request.request_uri().unwrap().unwrap().as_str(), "sip:ann@contoso.example");
    assert!(String::from_utf8_lossy(request.body()).contains("m=message 5060 sip null"));
    world.stanza(message("more"));
    world.silent();
    world.respond(&request, 180, &[]);
    world.silent();
    world.respond(&request, 200, &[CONTACT, ROUTES]);
    let [ack, first, second] = std::mem::take(&mut world.sip).try_into().unwrap();
    assert_eq!(ack.method(), Some(Method::Ack));
    assert_eq!(ack.cseq().unwrap().number, request.cseq().unwrap().number);
    let routes: Vec<_> = ack.list(HeaderName::Route).map(|route| route.value.to_vec()).collect();
    assert_eq!(routes, [&b"<sip:p1.contoso.example;lr>"[..], b"<sip:p2.contoso.example;lr>"]);
    assert_eq!(first.body().len(), 1500);
    assert_eq!(second.body(), b"more");
    assert_eq!(first.call_id().unwrap(), request.call_id().unwrap());
    assert_eq!(first.to().unwrap().tag(), Some("inside"));
    // The 2xx comes again; another fork's is ended.
    world.respond(&request, 200, &[CONTACT]);
    assert_eq!(world.one_sip().method(), Some(Method::Ack));
    let other = crate::sip::build::Response {
        to_tag: Some("fork"),
        headers: &[CONTACT],
        ..crate::sip::build::Response::new(200, "OK")
    };
    world.input(GatewayInput::Sip(parse(crate::sip::build::response(&request, &other).unwrap())));
    let [ack, bye] = std::mem::take(&mut world.sip).try_into().unwrap();
    assert_eq!((ack.method(), bye.method()), (Some(Method::Ack), Some(Method::Bye)));
    assert_eq!(bye.to().unwrap().tag(), Some("fork"));
    // The session is a session like any other.
    world.ask_back(&request, Ask::new("MESSAGE").text("hm"), 1);
    assert_eq!(body(&world.one_stanza()), "hm");
}

#[test]
fn a_user_without_messages_but_in_sessions_gets_a_session() {
    for status in [405, 501] {
        let mut world = World::new();
        world.stanza(message("hi"));
        let request = world.one_sip();
        world.respond(&request, status, &[]);
        let request = world.one_sip();
        assert_eq!(request.method(), Some(Method::Invite));
        world.respond(&request, 200, &[CONTACT]);
        let [ack, sent] = std::mem::take(&mut world.sip).try_into().unwrap();
        assert_eq!((ack.method(), sent.body()), (Some(Method::Ack), &b"hi"[..]));
        assert!(world.stanzas.is_empty());
    }
}

#[test]
fn a_refused_session_gives_everything_back() {
    for (status, expected) in
        [(486, "service-unavailable"), (488, "not-acceptable"), (603, "service-unavailable")]
    {
        let (mut world, request) = calling();
        world.stanza(message("more"));
        world.respond(&request, status, &[]);
        let ack = world.one_sip();
        assert_eq!(ack.method(), Some(Method::Ack));
        assert_eq!(ack.via().unwrap().branch, request.via().unwrap().branch);
        let conditions: Vec<_> = world.stanzas.drain(..).map(|stanza| condition(&stanza)).collect();
        assert_eq!(conditions, [expected; 2]);
        assert_eq!(world.gateway.status().dialogs, 0);
    }
}

#[test]
fn an_invite_that_nobody_answers_or_that_rings_for_ever_ends() {
    let (mut world, _) = calling();
    world.seconds(32);
    assert_eq!(condition(&world.one_stanza()), "remote-server-timeout");
    assert!(world.sip.is_empty());

    let (mut world, request) = calling();
    world.respond(&request, 180, &[]);
    world.seconds(179);
    world.silent();
    world.seconds(1);
    let cancel = world.one_sip();
    assert_eq!(cancel.method(), Some(Method::Cancel));
    assert_eq!(cancel.via().unwrap().branch, request.via().unwrap().branch);
    world.respond(&cancel, 200, &[]);
    world.silent();
    world.respond(&request, 487, &[]);
    assert_eq!(world.one_sip().method(), Some(Method::Ack));
    assert_eq!(condition(&world.one_stanza()), "service-unavailable");
}

#[test]
fn a_session_that_the_other_side_forgot_is_made_anew() {
    let (mut world, _) = up(OFFER);
    world.stanza(message("hello"));
    let request = world.one_sip();
    world.respond(&request, 481, &[]);
    let pager = world.one_sip();
    assert_ne!(pager.call_id().unwrap(), "call-1@inside");
    assert_eq!((pager.method(), pager.body()), (Some(Method::Message), &b"hello"[..]));
    assert_eq!(world.gateway.status().sessions, 0);
    // Not for ever.
    world.respond(&pager, 405, &[]);
    let invite = world.one_sip();
    world.respond(&invite, 200, &[CONTACT]);
    let [_, sent] = std::mem::take(&mut world.sip).try_into().unwrap();
    world.respond(&sent, 481, &[]);
    let pager = world.one_sip();
    world.respond(&pager, 405, &[]);
    assert_eq!(condition(&world.one_stanza()), "service-unavailable");
    world.silent();
}

#[test]
fn policy_ends_a_session_and_says_nothing_outside() {
    let (mut world, tag) = up(OFFER);
    let mut off = policy(XmppPartnerKind::Federated);
    let settings = XmppSettings { enabled: false, ..(*off.settings).clone() };
    off.settings = Arc::new(settings);
    let mut out = Vec::new();
    world.gateway.set_policy(world.now, off, &mut out);
    world.sort(out);
    assert_eq!(world.one_sip().method(), Some(Method::Bye));
    world.silent();
    inside(&mut world, &tag, Ask::new("MESSAGE").text("hi"), 2);
    assert_eq!(world.status(), 481);
}

#[test]
fn a_user_has_so_many_sessions_and_no_more() {
    let limits = GatewayLimits { per_partner: 1, queue: 1, ..GatewayLimits::default() };
    let mut world = World::of(policy(XmppPartnerKind::Federated), limits);
    world.stanza(message(&"x".repeat(2000)));
    world.stanza(message("waits"));
    world.forget();
    world.stanza(message("one too many"));
    assert_eq!(condition(&world.one_stanza()), "resource-constraint");
    world.ask(Ask { from: "sip:bea@contoso.example", ..invite(OFFER) });
    assert_eq!(world.status(), 480);
    world.stanza(message(&"x".repeat(2000)).with("to", "bea@contoso.example"));
    assert_eq!(condition(&world.one_stanza()), "resource-constraint");
}

#[test]
fn what_waits_in_sessions_has_a_bound_in_bytes() {
    let limits = GatewayLimits { queue_bytes: 5000, ..GatewayLimits::default() };
    let mut world = World::of(policy(XmppPartnerKind::Federated), limits);
    world.stanza(message(&"x".repeat(2000)));
    world.stanza(message(&"x".repeat(2000)));
    let invite = world.one_sip();
    assert_eq!(world.gateway.status().queued, 4000);
    world.stanza(message(&"x".repeat(2000)));
    assert_eq!(condition(&world.one_stanza()), "resource-constraint");
    world.stanza(message(&"x".repeat(2000)).with("to", "bea@contoso.example"));
    assert_eq!(condition(&world.one_stanza()), "resource-constraint");
    assert_eq!(world.gateway.status().sessions, 1);
    world.respond(&invite, 486, &[]);
    assert_eq!(world.gateway.status().queued, 0);
    world.forget();
    world.stanza(message(&"x".repeat(5000)));
    let invite = world.one_sip();
    world.respond(&invite, 200, &[CONTACT]);
    assert_eq!(world.gateway.status().queued, 0);
}

#[test]
fn where_chats_are_sessions_no_message_goes_alone() {
    let mut policy = policy(XmppPartnerKind::Federated);
    Arc::make_mut(&mut policy.settings).chats = Chats::Sessions;
    let mut world = World::of(policy, GatewayLimits::default());
    world.stanza(message("hi"));
    assert_eq!(world.one_sip().method(), Some(Method::Invite));
    // What is no chat is none.
    world.stanza(message("note").with("type", "normal").with("to", "bea@contoso.example"));
    assert_eq!(world.one_sip().method(), Some(Method::Message));
    let partners = world.gateway.status().partners;
    let partner = &partners[&domain("montague.example")];
    assert_eq!((partner.sessions, partner.messages_from_it, partner.messages_to_it), (1, 2, 0));
}

#[test]
fn what_comes_after_the_end_is_ended_too() {
    let (mut world, request) = calling();
    // Who closes the window at once does not take back what was written.
    world.stanza(
        Element::new(ns::SERVER, "message").with_child(Element::new(ns::CHAT_STATES, "gone")),
    );
    world.silent();
    let mut off = policy(XmppPartnerKind::Federated);
    off.settings = Arc::new(XmppSettings { enabled: false, ..(*off.settings).clone() });
    let mut out = Vec::new();
    world.gateway.set_policy(world.now, off, &mut out);
    world.sort(out);
    world.silent();
    let status = world.gateway.status();
    assert_eq!((status.sessions, status.queued), (0, 0));
    world.respond(&request, 200, &[CONTACT]);
    let [ack, bye] = std::mem::take(&mut world.sip).try_into().unwrap();
    assert_eq!((ack.method(), bye.method()), (Some(Method::Ack), Some(Method::Bye)));
    assert_eq!(world.gateway.status().dialogs, 0);
}

#[test]
fn two_messages_that_need_a_session_share_one() {
    let mut world = World::new();
    world.stanza(message("one"));
    world.stanza(message("two"));
    let [one, two] = std::mem::take(&mut world.sip).try_into().unwrap();
    world.respond(&one, 405, &[]);
    let invite = world.one_sip();
    world.respond(&two, 405, &[]);
    world.silent();
    world.respond(&invite, 200, &[CONTACT]);
    let bodies: Vec<_> = world.sip.iter().skip(1).map(|sent| sent.body().to_vec()).collect();
    assert_eq!(bodies, [b"one", b"two"]);
}

#[test]
fn what_is_longer_than_any_forms_no_dialog() {
    let long = "x".repeat(600);
    for (tag, call_id) in [(long.as_str(), "c"), ("f1", long.as_str())] {
        for ask in [invite(OFFER), Ask::new("SUBSCRIBE").with("Event: presence")] {
            let mut world = World::new();
            let from = format!("<sip:ann@contoso.example>;tag={tag}");
            let to = "<sip:rob@montague.example>";
            world.send(&ask, "sip:rob@montague.example", &from, to, call_id, 1);
            assert_eq!(world.status(), 400);
            assert_eq!(world.gateway.status().dialogs, 0);
        }
    }
}

#[test]
fn a_cancel_finds_its_invite_by_branch_and_nothing_is_kept_of_it() {
    let mut world = World::new();
    for n in 1..=3 {
        let call = format!("call-{n}@inside");
        let (uri, from) = ("sip:rob@montague.example", "<sip:ann@contoso.example>;tag=f1");
        let to = format!("<{uri}>");
        world.send(&invite(OFFER), uri, from, &to, &call, 1);
        let tag = world.one_sip().to().unwrap().tag().unwrap().to_owned();
        assert!(world.gateway.is_indexed(), "{n}: it waits for its ACK");
        // Another branch is another INVITE's.
        world.send(&Ask::new("CANCEL"), uri, from, &to, &call, 1);
        assert_eq!(world.status(), 481, "{n}");
        if n < 3 {
            let to = format!("{to};tag={tag}");
            world.send(&Ask::new("ACK"), uri, from, &to, &call, 1);
            assert!(world.gateway.is_indexed(), "{n}: it has its ACK");
        }
    }
    // Without one it ends.
    world.seconds(40);
    assert!(world.gateway.is_indexed());
}
