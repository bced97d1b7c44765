//! Names and namespaces that are known at build time: an element that has them costs no memory for
//! them, and comparing them is cheap.

use std::sync::Arc;

use super::Name;
use crate::xmpp::ns;

/// Sorted.
const NAMES: &[&str] = &[
    "a",
    "active",
    "actor",
    "auth",
    "authcid",
    "bidi",
    "body",
    "c",
    "code",
    "composing",
    "delay",
    "enable",
    "enabled",
    "error",
    "failed",
    "failure",
    "features",
    "feature",
    "from",
    "gone",
    "h",
    "html",
    "id",
    "idle-seconds",
    "identity",
    "inactive",
    "iq",
    "item",
    "lang",
    "limits",
    "max-bytes",
    "mechanism",
    "mechanisms",
    "message",
    "node",
    "nick",
    "p",
    "paused",
    "ping",
    "presence",
    "priority",
    "proceed",
    "query",
    "r",
    "received",
    "request",
    "required",
    "resource",
    "result",
    "show",
    "since",
    "sm",
    "stamp",
    "starttls",
    "status",
    "store",
    "stream",
    "subject",
    "success",
    "text",
    "thread",
    "to",
    "type",
    "var",
    "ver",
    "verify",
    "version",
    "x",
];

/// Those that are not for streams alone, and are often seen.
const NAMESPACES: &[&str] = &[
    ns::SERVER,
    ns::CHAT_STATES,
    ns::RECEIPTS,
    ns::STANZA_ERRORS,
    ns::DISCO_INFO,
    ns::PING,
    ns::SM,
    ns::STREAMS,
    ns::DIALBACK,
    ns::TLS,
    ns::SASL,
    ns::STREAM_ERRORS,
    ns::DIALBACK_FEATURE,
    ns::BIDI,
    ns::BIDI_FEATURE,
    ns::STREAM_LIMITS,
    ns::XML,
    ns::VERSION,
    "http://jabber.org/protocol/caps",
    "http://jabber.org/protocol/nick",
    "http://jabber.org/protocol/xhtml-im",
    "jabber:x:oob",
    "urn:xmpp:chat-markers:0",
    "urn:xmpp:delay",
    "urn:xmpp:hints",
    "urn:xmpp:sid:0",
    "vcard-temp:x:update",
];

/// The name of an element or attribute.
pub(super) fn local(text: &str) -> Name {
    match NAMES.iter().find(|known| **known == text) {
        Some(known) => Name::Static(known),
        None => Name::Shared(Arc::from(text)),
    }
}

/// A namespace.
pub(super) fn namespace(text: &str) -> Name {
    if text.is_empty() {
        return Name::Static("");
    }
    match NAMESPACES.iter().find(|known| **known == text) {
        Some(known) => Name::Static(known),
        None => Name::Shared(Arc::from(text)),
    }
}
