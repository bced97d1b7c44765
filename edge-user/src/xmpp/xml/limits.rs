//! The bounds that the guard puts before every part of XML, and what it says when one is passed.

use std::borrow::Cow;

use crate::xmpp::{io::XmppRefusal, settings::XmppLimits};

/// Bounds of what is read from one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XmlLimits {
    /// Bytes of a stanza, from its `<` to its last `>`.
    pub stanza_bytes: usize,
    /// Bytes of everything up to the end of the stream header.
    pub header_bytes: usize,
    /// Elements within elements; a stanza itself is the first.
    pub depth: usize,
    /// Elements of a stanza.
    pub elements: usize,
    /// Attributes of one element, namespace declarations apart.
    pub attributes: usize,
    /// Namespace declarations in force at one time within one stanza, or in the stream header.
    pub namespaces: usize,
    /// Bytes of a namespace.
    pub namespace_bytes: usize,
    /// Bytes of the name of an element or an attribute, and of a prefix.
    pub name_bytes: usize,
}

impl XmlLimits {
    /// A stream header is never longer: names, an id and a few namespaces.
    const HEADER_BYTES: usize = 4096;
    /// An element costs memory, however short it is: a stanza has one for so many of its bytes.
    const BYTES_OF_AN_ELEMENT: usize = 64;
    /// The longest namespace that is in use has about 70 bytes.
    const NAMESPACE_BYTES: usize = 256;
    /// The longest name that is in use has about 40 bytes.
    const NAME_BYTES: usize = 128;

    /// What the settings say.
    pub fn new(limits: &XmppLimits) -> Self {
        Self {
            stanza_bytes: limits.stanza_bytes,
            header_bytes: Self::HEADER_BYTES,
            depth: limits.depth,
            elements: limits.stanza_bytes / Self::BYTES_OF_AN_ELEMENT,
            attributes: limits.attributes,
            namespaces: limits.namespaces,
            namespace_bytes: Self::NAMESPACE_BYTES,
            name_bytes: Self::NAME_BYTES,
        }
    }
}

const NO_URI: &str = "a namespace is no URI";

/// Why the guard ended a stream. Nothing that came after the fault is read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{condition}: {text}")]
pub struct XmlFault {
    /// The stream error (RFC 6120 section 4.9.3).
    pub condition: &'static str,
    /// For log and counters.
    pub reason: XmppRefusal,
    /// What is wrong, and what would be right.
    pub text: Cow<'static, str>,
}

impl XmlFault {
    pub(super) fn xml(condition: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { condition, reason: XmppRefusal::Xml, text: text.into() }
    }

    pub(super) fn limit(text: impl Into<Cow<'static, str>>) -> Self {
        Self { condition: "policy-violation", reason: XmppRefusal::XmlLimit, text: text.into() }
    }

    /// A namespace with characters that no URI has.
    pub(super) fn no_uri() -> Self {
        Self::xml("invalid-namespace", NO_URI)
    }

    /// Whether it is that: a user may have written it.
    pub(super) fn is_no_uri(&self) -> bool {
        self.text == NO_URI
    }

    /// What rxml found.
    pub(super) fn found(error: rxml::Error) -> Self {
        use rxml::Error;
        let condition = match error {
            // A name or value longer than a token may be.
            Error::RestrictedXml(text) if text.starts_with("long ") => {
                return Self::limit("a name or an attribute's value is too long");
            }
            Error::RestrictedXml(text) if text.contains("encoding") => "unsupported-encoding",
            Error::InvalidUtf8Byte(_) => "unsupported-encoding",
            Error::RestrictedXml(_) | Error::UndeclaredEntity => "restricted-xml",
            // `<!` and neither CDATA nor a comment: a document type.
            Error::InvalidSyntax(text) if text.contains("cdata or comment") => "restricted-xml",
            Error::UndeclaredNamespacePrefix(_) | Error::ReservedNamespacePrefix => {
                "bad-namespace-prefix"
            }
            Error::ReservedNamespaceName | Error::EmptyNamespaceUri => "invalid-namespace",
            _ => "not-well-formed",
        };
        Self::xml(condition, error.to_string())
    }
}
