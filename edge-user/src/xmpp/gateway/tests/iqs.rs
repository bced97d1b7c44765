//! Questions.

use super::*;

fn iq(kind: &'static str, question: Element) -> Element {
    Element::new(ns::SERVER, "iq").with("type", kind).with("id", "q1").with_child(question)
}

fn ping() -> Element {
    iq("get", Element::new(ns::PING, "ping"))
}

fn info() -> Element {
    iq("get", Element::new(ns::DISCO_INFO, "query"))
}

#[test]
fn the_domain_answers_what_it_knows() {
    let mut world = World::new();
    world.stanza(ping().with("to", "contoso.example").with("from", "montague.example"));
    let answer = world.one_stanza();
    assert_eq!((answer.attribute("type"), answer.attribute("id")), (Some("result"), Some("q1")));
    assert_eq!(answer.attribute("from"), Some("contoso.example"));
    world.stanza(info().with("to", "contoso.example"));
    let answer = world.one_stanza();
    let query = answer.child(ns::DISCO_INFO, "query").unwrap();
    assert_eq!(
        query.child(ns::DISCO_INFO, "identity").unwrap().attribute("category"),
        Some("gateway")
    );
    world.stanza(iq("get", Element::new(ns::VERSION, "query")).with("to", "contoso.example"));
    let answer = world.one_stanza();
    let name = answer.child(ns::VERSION, "query").unwrap().child(ns::VERSION, "name").unwrap();
    assert_eq!(name.text(), "Edge");
}

#[test]
fn everything_else_is_not_served() {
    let jingle = Element::new("urn:xmpp:jingle:1", "jingle");
    let roster = Element::new("jabber:iq:roster", "query");
    for stanza in [
        iq("set", jingle),
        iq("get", roster.clone()),
        iq("set", roster),
        ping().with("to", "ann@contoso.example"),
        info().with("to", "ann@contoso.example/desk"),
        info().with("to", "nobody@contoso.example"),
    ] {
        let mut world = World::new();
        world.stanza(stanza.clone());
        assert_eq!(condition(&world.one_stanza()), "service-unavailable", "{stanza:?}");
    }
}

#[test]
fn a_question_that_is_none_is_a_bad_request_and_an_answer_has_no_answer() {
    let two = ping().with_child(Element::new(ns::PING, "ping"));
    let mut none = ping();
    none.unset("id");
    for stanza in [two, none, Element::new(ns::SERVER, "iq").with("type", "get").with("id", "1")] {
        let mut world = World::new();
        world.stanza(stanza);
        assert_eq!(condition(&world.one_stanza()), "bad-request");
    }
    let mut world = World::new();
    for kind in ["result", "error", "strange"] {
        world.stanza(ping().with("type", kind));
    }
    world.silent();
}
