//! What we write into streams beside stanzas.

use crate::{
    domain::Domain,
    xmpp::{ns, settings::XmppLimits, xml::Element},
};

/// The header of a stream (RFC 6120 section 4.7). Domains need no escapes, and the ids are ours.
pub(super) fn header(
    out: &mut Vec<u8>,
    (from, to): (Option<&Domain>, Option<&Domain>),
    id: Option<&str>,
    with_version: bool,
) {
    out.extend_from_slice(
        b"<?xml version='1.0'?><stream:stream xmlns='jabber:server' \
          xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback'",
    );
    let mut attribute = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            out.extend_from_slice(format!(" {name}='{value}'").as_bytes());
        }
    };
    attribute("from", from.map(Domain::as_str));
    attribute("to", to.map(Domain::as_str));
    attribute("id", id);
    attribute("version", with_version.then_some("1.0"));
    out.extend_from_slice(b" xml:lang='en'>");
}

/// The error that ends a stream (RFC 6120 section 4.9), and the end itself.
pub(super) fn stream_error(out: &mut Vec<u8>, condition: &'static str, text: &str) {
    Element::new(ns::STREAMS, "error")
        .with_child(Element::new(ns::STREAM_ERRORS, condition))
        .with_child(Element::new(ns::STREAM_ERRORS, "text").with_text(text))
        .write(out);
    end(out);
}

/// The end of a stream.
pub(super) fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"</stream:stream>");
}

/// What is offered on a stream that the other end opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) starttls: bool,
    pub(super) starttls_required: bool,
    pub(super) external: bool,
    pub(super) bidi: bool,
    pub(super) dialback: bool,
    pub(super) management: bool,
}

/// Stream features.
pub(super) fn features(offer: Offer, limits: &XmppLimits) -> Element {
    let mut features = Element::new(ns::STREAMS, "features");
    if offer.starttls {
        let mut starttls = Element::new(ns::TLS, "starttls");
        if offer.starttls_required {
            starttls.push(Element::new(ns::TLS, "required"));
        }
        features.push(starttls);
    }
    if offer.external {
        let external = Element::new(ns::SASL, "mechanism").with_text("EXTERNAL");
        features.push(Element::new(ns::SASL, "mechanisms").with_child(external));
    }
    if offer.bidi {
        features.push(Element::new(ns::BIDI_FEATURE, "bidi"));
    }
    if offer.dialback {
        let errors = Element::new(ns::DIALBACK_FEATURE, "errors");
        features.push(Element::new(ns::DIALBACK_FEATURE, "dialback").with_child(errors));
    }
    if offer.management {
        features.push(Element::new(ns::SM, "sm"));
    }
    if !offer.starttls_required {
        features.push(stream_limits(limits));
    }
    features
}

/// XEP-0478.
pub(super) fn stream_limits(limits: &XmppLimits) -> Element {
    let number =
        |name: &'static str, value: String| Element::new(ns::STREAM_LIMITS, name).with_text(value);
    Element::new(ns::STREAM_LIMITS, "limits")
        .with_child(number("max-bytes", limits.stanza_bytes.to_string()))
        .with_child(number("idle-seconds", limits.idle.as_secs().to_string()))
}

/// `db:result` and `db:verify` (XEP-0220).
pub(super) fn dialback(name: &'static str, from: &Domain, to: &Domain) -> Element {
    Element::new(ns::DIALBACK, name).with("from", from.as_str()).with("to", to.as_str())
}

/// A dialback answer that says why not, for peers that know `errors` and those that do not.
pub(super) fn dialback_error(
    name: &'static str,
    (from, to): (&Domain, &Domain),
    condition: &'static str,
) -> Element {
    let error = Element::new(ns::SERVER, "error")
        .with("type", "cancel")
        .with_child(Element::new(ns::STANZA_ERRORS, condition));
    dialback(name, from, to).with("type", "error").with_child(error)
}

/// The error for a stanza that could not be handed on (RFC 6120 section 8.3). `None`: it is an
/// error, or an answer, itself.
pub(super) fn stanza_error(
    stanza: &Element,
    condition: &'static str,
    text: &str,
) -> Option<Element> {
    let kind = stanza.attribute("type");
    let is_answer = matches!(kind, Some("error" | "result"));
    let name = match stanza.name() {
        "message" => "message",
        "presence" => "presence",
        "iq" => "iq",
        _ => return None,
    };
    if is_answer {
        return None;
    }
    let error_type = match condition {
        "remote-server-timeout" | "resource-constraint" => "wait",
        "forbidden" => "auth",
        "policy-violation" | "jid-malformed" => "modify",
        _ => "cancel",
    };
    let mut error = Element::new(ns::SERVER, "error")
        .with("type", error_type)
        .with_child(Element::new(ns::STANZA_ERRORS, condition));
    if !text.is_empty() {
        error.push(Element::new(ns::STANZA_ERRORS, "text").with_text(text));
    }
    Some(
        Element::new(ns::SERVER, name)
            .with("type", "error")
            .with_some("from", stanza.attribute("to"))
            .with_some("to", stanza.attribute("from"))
            .with_some("id", stanza.attribute("id"))
            .with_child(error),
    )
}

/// Base64 (RFC 4648 section 4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let six = (bits >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= group.len() { char::from(DIGITS[six]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
