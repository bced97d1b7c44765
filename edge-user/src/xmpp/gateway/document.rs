//! XML in bodies from inside: the guard of the streams reads it, as a stanza of a stream of its own.

use crate::xmpp::{
    ns,
    xml::{Element, XmlEvent, XmlLimits, XmlReader},
};

/// Bytes of a document.
const MAX_BYTES: usize = 64 << 10;

const LIMITS: XmlLimits = XmlLimits {
    stanza_bytes: MAX_BYTES,
    header_bytes: 4096,
    depth: 16,
    elements: MAX_BYTES / 64,
    attributes: 32,
    namespaces: 64,
    namespace_bytes: 256,
    name_bytes: 128,
};

/// The root of a document. An element without a namespace is in `jabber:server`. `None`: it is not
/// well-formed, too large, or holds what XMPP forbids.
pub fn read(text: &[u8]) -> Option<Element> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii();
    let text = match text.starts_with(b"<?xml") {
        true => text.get(memchr::memmem::find(text, b"?>")? + 2..)?,
        false => text,
    };
    let header = format!("<stream:stream xmlns='{}' xmlns:stream='{}'>", ns::SERVER, ns::STREAMS);
    let mut reader = XmlReader::new(LIMITS, MAX_BYTES + header.len());
    let mut header = header.as_bytes();
    let Ok(Some(XmlEvent::StreamOpen(_))) = reader.next(&mut header) else { return None };
    reader.lift();
    let mut rest = text.trim_ascii();
    match reader.next(&mut rest) {
        Ok(Some(XmlEvent::Stanza(element))) if rest.trim_ascii().is_empty() => Some(element),
        _ => None,
    }
}
