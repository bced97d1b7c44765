//! Presence, both ways.

mod sip;
mod xmpp;

use super::*;

fn show(kind: &str) -> Element {
    presence(None).with_child(Element::new(ns::SERVER, "show").with_text(kind))
}

fn subscribe() -> Ask {
    Ask::new("SUBSCRIBE")
        .with("Event: presence")
        .with("Accept: application/pidf+xml")
        .with("Expires: 600")
}

fn kind(stanza: &Element) -> &str {
    stanza.attribute("type").unwrap_or_default()
}

fn state(request: &Message) -> &str {
    text(request, "Subscription-State")
}
