//! Headers that two neighbours say to each other, and those that stay within a trust domain (RFC
//! 3325): what is taken out of a message and put into it beside what is said of users.

use super::trust_headers::Names;
use crate::sip::{HeaderName, Message, Method};

/// What a request without Max-Breadth is given (RFC 5393 section 5.3.3).
const BREADTH: (&str, &str) = ("Max-Breadth", "60");

/// Our side of a keep-alive that a neighbour offers: what it sends keeps the connection for so
/// many seconds (MS-CONMGMT; the header's words are from general knowledge).
const KEEP_ALIVE: (&str, &str) =
    ("Ms-Keep-Alive", "UAS; tcp=no; hop-hop=yes; end-end=no; timeout=300");

/// Adds to the headers that are taken out of a message.
pub(super) fn hide(message: &Message, to_outside: bool, removed: &mut Names) {
    let has = |name| message.header(name).is_some();
    // Between two neighbours only.
    if has(HeaderName::MsKeepAlive) {
        removed.push(HeaderName::MsKeepAlive);
    }
    if !to_outside {
        return;
    }
    // What a user agent asks of its own proxy, and that is not the partner's (RFC 3325 section 9.2).
    if has(HeaderName::PPreferredIdentity) {
        removed.push(HeaderName::PPreferredIdentity);
    }
    // Asserted for the inside, and its user wants it to stay there (RFC 3325 section 7).
    if has(HeaderName::PAssertedIdentity) && wants_privacy(message) {
        removed.push(HeaderName::PAssertedIdentity);
    }
}

/// `Privacy: id`, alone or among others.
fn wants_privacy(message: &Message) -> bool {
    message.headers(HeaderName::Privacy).any(|header| {
        header
            .value
            .split(|b| matches!(b, b';' | b','))
            .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"id"))
    })
}

/// What a request is given on its way.
pub(super) fn breadth(request: &Message) -> Option<(&'static str, &'static str)> {
    let has =
        request.method() == Some(Method::Ack) || request.header(HeaderName::MaxBreadth).is_some();
    (!has).then_some(BREADTH)
}

/// The answer to a neighbour's offer to keep its connection alive.
pub(super) fn keep_alive(request: &Message) -> Option<(&'static str, &'static str)> {
    let offer = request.header(HeaderName::MsKeepAlive)?.value.to_ascii_lowercase();
    let mut words = offer.split(|b| *b == b';').map(<[u8]>::trim_ascii);
    (words.next() == Some(b"uac") && words.any(|word| word == b"hop-hop=yes")).then_some(KEEP_ALIVE)
}
