//! What the guard reads.

use super::{Attribute, Element, Name, XmlFault};

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XmlEvent {
    /// The header of the stream.
    StreamOpen(StreamHeader),
    /// A child of the stream: a stanza or anything else.
    Stanza(Element),
    /// One that passes a bound, on a stream that has proved something: its first tag, with
    /// addresses, id and type, and which bound. A user may have written it, whose server must not
    /// lose its stream for that.
    PassedOver(Element, XmlFault),
    /// The end of the stream. What comes after it is thrown away.
    StreamClose,
}

/// A stream header (RFC 6120 section 4.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// Its attributes, namespace declarations apart.
    pub attributes: Vec<Attribute>,
    /// The default namespace: that of stanzas.
    pub default_ns: Name,
}

impl StreamHeader {
    /// An attribute without a namespace.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let plain = |a: &&Attribute| a.ns.as_str().is_empty() && a.name.as_str() == name;
        self.attributes.iter().find(plain).map(|a| a.value.as_str())
    }
}
