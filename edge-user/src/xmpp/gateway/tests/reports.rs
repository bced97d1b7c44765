//! Reports of delivery (RFC 5438).

use super::*;

/// A message of ann's in an envelope that asks for this.
fn asking(wants: &str) -> Ask {
    let envelope = format!(
        "From: <sip:ann@contoso.example>\r\nTo: <sip:rob@montague.example>\r\n\
         NS: imdn <urn:ietf:params:imdn>\r\nimdn.Message-ID: 34jk324j\r\n\
         DateTime: 2026-04-04T12:16:49Z\r\nimdn.Disposition-Notification: {wants}\r\n\
         Subject: within\r\n\r\nContent-Type: text/plain;charset=utf-8\r\n\r\nhi"
    );
    Ask::new("MESSAGE").body("message/cpim", envelope.as_bytes())
}

/// The `id` of the stanza that ann's message became, which says what was in the envelope.
fn id_of(world: &mut World) -> String {
    let stanza = world.one_stanza();
    let says = |name| stanza.child(ns::SERVER, name).unwrap().text().into_owned();
    assert_eq!((says("body"), says("subject")), ("hi".to_owned(), "within".to_owned()));
    assert!(stanza.child(ns::RECEIPTS, "request").is_some());
    stanza.attribute("id").unwrap().to_owned()
}

fn receipt(id: &str) -> Element {
    Element::new(ns::SERVER, "message")
        .with_child(Element::new(ns::RECEIPTS, "received").with("id", id))
}

fn failure(id: &str) -> Element {
    let error = errors::element("item-not-found", "nobody");
    Element::new(ns::SERVER, "message").with("type", "error").with("id", id).with_child(error)
}

/// The only SIP message: a report to ann of her message, and what it says.
fn reports(world: &mut World, what: &str) -> Message {
    let report = world.one_sip();
    assert_eq!(report.method(), Some(Method::Message));
    assert_eq!(text(&report, "Content-Type"), "message/cpim");
    assert!(report.from().unwrap().uri.as_str().starts_with("sip:rob@montague.example"));
    let body = String::from_utf8(report.body().to_vec()).unwrap();
    for part in ["message/imdn+xml", "<message-id>34jk324j</message-id>", what] {
        assert!(body.contains(part), "{part}: {body}");
    }
    report
}

#[test]
fn a_receipt_becomes_the_report_that_was_asked_for() {
    for (wants, reported) in [
        ("positive-delivery", true),
        ("negative-delivery, positive-delivery", true),
        ("negative-delivery", false),
        ("display", false),
    ] {
        let mut world = World::new();
        world.ask(asking(wants));
        let id = id_of(&mut world);
        world.silent();
        world.stanza(receipt(&id));
        assert_eq!(world.sip.remove(0).status(), Some(200), "{wants}");
        if reported {
            let report = reports(&mut world, "<delivered/>");
            assert_eq!(report.request_uri().unwrap().unwrap().as_str(), "sip:ann@contoso.example");
            // A client that does not know it changes nothing.
            world.respond(&report, 415, &[]);
        }
        world.silent();
        // Once.
        world.stanza(receipt(&id));
        world.silent();
    }
}

#[test]
fn what_comes_after_the_answer_is_reported() {
    for (stanza, what) in [(receipt as fn(&str) -> Element, "<delivered/>"), (failure, "<failed/>")]
    {
        let mut world = World::new();
        world.ask(asking("positive-delivery, negative-delivery"));
        let id = id_of(&mut world);
        world.seconds(30);
        assert_eq!(world.status(), 202);
        world.stanza(stanza(&id));
        reports(&mut world, what);
        // Nothing is known of it any more.
        world.stanza(failure(&id));
        world.silent();
    }
}

#[test]
fn a_failure_that_the_answer_tells_is_told_once() {
    let mut world = World::new();
    world.ask(asking("positive-delivery, negative-delivery"));
    let id = id_of(&mut world);
    world.stanza(failure(&id));
    assert_eq!(world.status(), 604);
    world.stanza(receipt(&id));
    world.silent();
}

#[test]
fn only_the_one_who_was_written_to_reports_and_within_a_day() {
    let mut world = World::new();
    world.ask(asking("positive-delivery"));
    let id = id_of(&mut world);
    world.seconds(30);
    world.forget();
    world.stanza(receipt(&id).with("from", "eve@montague.example/x"));
    world.stanza(receipt(&id).with("from", "rob@other.example/x"));
    world.stanza(receipt(&id).with("to", "bea@contoso.example"));
    let forged = format!("{}0", id.get(..id.len() - 1).unwrap());
    world.stanza(receipt(&forged));
    world.silent();
    world.seconds(24 * 3600);
    world.stanza(receipt(&id));
    world.silent();
}

#[test]
fn what_is_waited_for_has_a_bound_and_the_oldest_goes() {
    let limits = GatewayLimits { held: 2, ..GatewayLimits::default() };
    let mut world = World::of(policy(XmppPartnerKind::Federated), limits);
    let ids: Vec<String> = (0..3)
        .map(|_| {
            world.ask(asking("positive-delivery"));
            id_of(&mut world)
        })
        .collect();
    world.seconds(60);
    world.forget();
    world.stanza(receipt(&ids[0]));
    world.silent();
    for id in &ids[1..] {
        world.stanza(receipt(id));
        reports(&mut world, "<delivered/>");
    }
}

#[test]
fn in_a_session_the_report_goes_within_it() {
    let mut world = World::new();
    let offer = "v=0\r\no=- 0 0 IN IP4 10.0.0.9\r\ns=-\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\n\
                 m=message 5060 sip null\r\n";
    world.ask(Ask::new("INVITE").body("application/sdp", offer.as_bytes()));
    let tag = world.one_sip().to().unwrap().tag().unwrap().to_owned();
    let to = format!("<sip:rob@montague.example>;tag={tag}");
    let inside = |world: &mut World, ask: Ask, cseq| {
        let from = "<sip:ann@contoso.example>;tag=f1";
        world.send(&ask, "sip:rob@montague.example", from, &to, "call-1@inside", cseq);
    };
    inside(&mut world, Ask::new("ACK"), 1);
    inside(&mut world, asking("positive-delivery"), 2);
    let id = id_of(&mut world);
    world.stanza(receipt(&id));
    assert_eq!(world.sip.remove(0).status(), Some(200));
    let report = reports(&mut world, "<delivered/>");
    assert_eq!(report.call_id().unwrap(), "call-1@inside");
    assert_eq!(report.from().unwrap().tag(), Some(tag.as_str()));
}

#[test]
fn where_messages_go_in_sessions_only_no_report_goes_alone() {
    let mut policy = policy(XmppPartnerKind::Federated);
    Arc::make_mut(&mut policy.settings).chats = Chats::Sessions;
    let mut world = World::of(policy, GatewayLimits::default());
    world.ask(asking("positive-delivery"));
    let id = id_of(&mut world);
    world.stanza(receipt(&id));
    assert_eq!(world.status(), 200);
}

#[test]
fn policy_ends_reports() {
    let mut world = World::new();
    world.ask(asking("negative-delivery"));
    let stanza = world.one_stanza();
    world.seconds(30);
    world.forget();
    let mut policy = policy(XmppPartnerKind::Federated);
    Arc::make_mut(&mut policy.settings).enabled = false;
    let mut out = Vec::new();
    world.gateway.set_policy(world.now, policy, &mut out);
    // The streams say so, which are not asked for their policy.
    world.input(GatewayInput::Undelivered {
        pair: Pair { local: domain("contoso.example"), remote: domain("montague.example") },
        stanza,
        condition: "remote-server-timeout",
        text: String::new(),
    });
    world.silent();
}

/// Nobody asked for them here; whoever sends one needs no more than to hear that it came.
#[test]
fn reports_that_nobody_asked_for_are_taken() {
    let wrapped =
        "NS: imdn <urn:ietf:params:imdn>\r\n\r\nContent-Type: message/imdn+xml\r\n\r\n<imdn/>";
    for (kind, body) in [
        ("application/ms-imdn+xml", "<imdn/>"),
        ("message/imdn+xml", "<imdn/>"),
        ("message/cpim", wrapped),
    ] {
        let mut world = World::new();
        world.ask(Ask::new("MESSAGE").body(kind, body.as_bytes()));
        assert_eq!(world.status(), 200, "{kind}");
        world.silent();
    }
}

#[test]
fn typing_in_an_envelope_is_typing() {
    let mut world = World::new();
    let envelope = "From: <sip:ann@contoso.example>\r\n\r\n\
        Content-Type: application/im-iscomposing+xml\r\n\r\n\
        <isComposing xmlns=\"urn:ietf:params:xml:ns:im-iscomposing\"><state>active</state></isComposing>";
    world.ask(Ask::new("MESSAGE").body("message/cpim", envelope.as_bytes()));
    assert_eq!(world.status(), 200);
    assert!(world.one_stanza().child(ns::CHAT_STATES, "composing").is_some());
}
