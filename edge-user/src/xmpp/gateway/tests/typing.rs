//! Typing without a session.

use super::*;

const IS_COMPOSING: &str = "application/im-iscomposing+xml";

fn state(name: &'static str) -> Element {
    Element::new(ns::SERVER, "message").with_child(Element::new(ns::CHAT_STATES, name))
}

fn writes(state: &str) -> Ask {
    let xml = format!(
        "<isComposing xmlns='urn:ietf:params:xml:ns:im-iscomposing'><state>{state}</state>\
         <contenttype>text/plain</contenttype></isComposing>"
    );
    Ask::new("MESSAGE").body(IS_COMPOSING, xml.as_bytes())
}

/// Both have written to one another.
fn speaking(chats: Chats) -> World {
    let mut policy = policy(XmppPartnerKind::Federated);
    Arc::make_mut(&mut policy.settings).chats = chats;
    let mut world = World::of(policy, GatewayLimits::default());
    world.ask(Ask::new("MESSAGE").text("hi"));
    world.seconds(20);
    world.forget();
    world
}

#[test]
fn a_sip_user_who_types_is_seen() {
    let mut world = World::new();
    for (says, expected) in [("active", "composing"), ("idle", "paused")] {
        world.ask(writes(says));
        assert_eq!(world.status(), 200);
        let stanza = world.one_stanza();
        let child = stanza.children().find(|child| child.ns() == ns::CHAT_STATES).unwrap();
        assert_eq!((child.name(), stanza.attribute("type")), (expected, Some("chat")));
        assert!(stanza.child(ns::SERVER, "body").is_none());
    }
    // What is none says nothing, and is no message.
    world.ask(Ask::new("MESSAGE").body(IS_COMPOSING, b"<x/>"));
    assert_eq!(world.status(), 200);
    world.silent();
}

#[test]
fn an_xmpp_user_who_types_is_seen_while_the_two_speak() {
    // Nobody is told of strangers.
    let mut world = World::new();
    world.stanza(state("composing"));
    world.silent();
    // Nor, without a session, where sessions are what is wanted.
    let mut world = speaking(Chats::Sessions);
    world.stanza(state("composing"));
    world.silent();

    let mut world = speaking(Chats::Messages);
    world.stanza(state("paused"));
    world.silent();
    world.stanza(state("composing"));
    let request = world.one_sip();
    assert_eq!(request.method(), Some(Method::Message));
    assert_eq!(text(&request, "Content-Type"), IS_COMPOSING);
    assert_eq!(request.request_uri().unwrap().unwrap().as_str(), "sip:ann@contoso.example");
    assert!(String::from_utf8_lossy(request.body()).contains("<state>active</state>"));
    world.respond(&request, 200, &[]);
    world.stanza(state("composing"));
    world.silent();
    world.stanza(state("paused"));
    let request = world.one_sip();
    assert!(String::from_utf8_lossy(request.body()).contains("<state>idle</state>"));
    world.respond(&request, 200, &[]);
    // A message ends it, on both sides.
    world.stanza(state("composing"));
    let request = world.one_sip();
    world.respond(&request, 200, &[]);
    world.stanza(message("there"));
    let request = world.one_sip();
    world.respond(&request, 200, &[]);
    world.stanza(state("paused"));
    world.silent();
    // Who has been silent for long is a stranger again.
    world.seconds(600);
    world.stanza(state("composing"));
    world.silent();
}

#[test]
fn who_does_not_take_it_is_not_told_again() {
    let mut world = speaking(Chats::Messages);
    world.stanza(state("composing"));
    let request = world.one_sip();
    world.respond(&request, 415, &[]);
    // Nobody asked: the XMPP user is not told.
    world.silent();
    for name in ["paused", "composing"] {
        world.stanza(state(name));
        world.silent();
    }
    // Nor after the next message.
    world.stanza(message("there"));
    let request = world.one_sip();
    world.respond(&request, 200, &[]);
    world.stanza(state("composing"));
    world.silent();
}

/// Nor is anybody who may not be written to, and what is kept is bounded.
#[test]
fn typing_is_bounded_and_under_policy() {
    let limits = GatewayLimits { held: 3, ..GatewayLimits::default() };
    let mut world = World::of(policy(XmppPartnerKind::Federated), limits);
    for user in ["a", "b", "c", "d"] {
        let to: &'static str = match user {
            "a" => "sip:a@montague.example",
            "b" => "sip:b@montague.example",
            "c" => "sip:c@montague.example",
            _ => "sip:d@montague.example",
        };
        let mut ask = Ask::new("MESSAGE").text("hi");
        ask.to = to;
        world.ask(ask);
    }
    world.seconds(20);
    world.forget();
    for (user, told) in [("a", false), ("b", true), ("d", true)] {
        world.stanza(state("composing").with("from", format!("{user}@montague.example/r")));
        assert_eq!(world.sip.len(), usize::from(told), "{user}");
        world.forget();
    }
    let mut policy = policy(XmppPartnerKind::Federated);
    Arc::make_mut(&mut policy.settings).enabled = false;
    let mut out = Vec::new();
    world.gateway.set_policy(world.now, policy, &mut out);
    world.stanza(state("paused").with("from", "d@montague.example/r"));
    assert!(world.sip.is_empty());
}
