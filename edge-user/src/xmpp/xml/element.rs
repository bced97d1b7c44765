//! A tree of XML, read by the guard or made here, and how it is written.

use std::{borrow::Cow, fmt, sync::Arc};

use crate::xmpp::ns;

/// A name or namespace: known at build time, or shared.
#[derive(Clone)]
pub enum Name {
    /// Known at build time.
    Static(&'static str),
    /// Came from outside.
    Shared(Arc<str>),
}

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Name::Static(text) => text,
            Name::Shared(text) => text,
        }
    }
}

impl From<&'static str> for Name {
    fn from(text: &'static str) -> Self {
        Name::Static(text)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An attribute. `ns` is empty for attributes without a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Namespace.
    pub ns: Name,
    /// Local name.
    pub name: Name,
    /// Value, without escapes.
    pub value: String,
}

/// What stands inside an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Text, without escapes.
    Text(String),
}

/// An element with what is in it. How deep it may be is bounded by the guard.
#[derive(Clone, PartialEq, Eq)]
pub struct Element {
    ns: Name,
    name: Name,
    attributes: Vec<Attribute>,
    children: Vec<Node>,
}

impl Element {
    /// An empty element.
    pub fn new(ns: impl Into<Name>, name: impl Into<Name>) -> Self {
        Self { ns: ns.into(), name: name.into(), attributes: Vec::new(), children: Vec::new() }
    }

    /// An element as the guard read it: every attribute once.
    pub(super) fn from_parts(ns: Name, name: Name, attributes: Vec<Attribute>) -> Self {
        Self { ns, name, attributes, children: Vec::new() }
    }

    /// Nothing is in it any more.
    pub(super) fn clear(&mut self) {
        self.children = Vec::new();
    }

    /// With this attribute.
    #[must_use]
    pub fn with(mut self, name: impl Into<Name>, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// With this attribute, when there is a value.
    #[must_use]
    pub fn with_some(self, name: impl Into<Name>, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// With this child after the others.
    #[must_use]
    pub fn with_child(mut self, child: Element) -> Self {
        self.push(child);
        self
    }

    /// With this text after the other children.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.push_text(text);
        self
    }

    /// Its namespace.
    pub fn ns(&self) -> &str {
        self.ns.as_str()
    }

    /// Its local name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Whether it is this element.
    pub fn is(&self, ns: &str, name: &str) -> bool {
        self.name.as_str() == name && self.ns.as_str() == ns
    }

    /// An attribute without a namespace.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attribute_ns("", name)
    }

    /// An attribute of a namespace.
    pub fn attribute_ns(&self, ns: &str, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|a| a.name.as_str() == name && a.ns.as_str() == ns)
            .map(|a| a.value.as_str())
    }

    /// `xml:lang`.
    pub fn lang(&self) -> Option<&str> {
        self.attribute_ns(ns::XML, "lang")
    }

    /// Every attribute.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// Sets an attribute without a namespace.
    pub fn set(&mut self, name: impl Into<Name>, value: impl Into<String>) {
        self.set_ns("", name, value);
    }

    /// Sets an attribute of a namespace.
    pub fn set_ns(&mut self, ns: impl Into<Name>, name: impl Into<Name>, value: impl Into<String>) {
        let (ns, name, value) = (ns.into(), name.into(), value.into());
        match self.attributes.iter_mut().find(|a| a.name == name && a.ns == ns) {
            Some(there) => there.value = value,
            None => self.attributes.push(Attribute { ns, name, value }),
        }
    }

    /// Takes an attribute without a namespace out.
    pub fn unset(&mut self, name: &str) {
        self.attributes.retain(|a| a.name.as_str() != name || !a.ns.as_str().is_empty());
    }

    /// Adds an element after the other children.
    pub fn push(&mut self, child: Element) {
        self.add(Node::Element(child));
    }

    /// Many elements hold one node: room for more is made when they come.
    fn add(&mut self, node: Node) {
        if self.children.is_empty() {
            self.children.reserve_exact(1);
        }
        self.children.push(node);
    }

    /// Adds text after the other children; joined to text that stands there.
    pub fn push_text(&mut self, text: impl Into<String>) {
        let text = text.into();
        match self.children.last_mut() {
            Some(Node::Text(before)) => before.push_str(&text),
            _ => self.add(Node::Text(text)),
        }
    }

    /// Everything in it, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.children
    }

    /// The elements in it.
    pub fn children(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The first element in it of this name.
    pub fn child(&self, ns: &str, name: &str) -> Option<&Element> {
        self.children().find(|child| child.is(ns, name))
    }

    /// Takes elements out for which `keep` says no.
    pub fn retain_children(&mut self, mut keep: impl FnMut(&Element) -> bool) {
        self.children.retain(|node| match node {
            Node::Element(element) => keep(element),
            Node::Text(_) => true,
        });
    }

    /// The text directly in it.
    pub fn text(&self) -> Cow<'_, str> {
        let mut texts = self.children.iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.as_str()),
            Node::Element(_) => None,
        });
        match (texts.next(), texts.next()) {
            (None, _) => Cow::Borrowed(""),
            (Some(one), None) => Cow::Borrowed(one),
            (Some(one), Some(two)) => {
                let mut all = String::from(one);
                all.push_str(two);
                texts.for_each(|more| all.push_str(more));
                Cow::Owned(all)
            }
        }
    }

    /// Writes it into a stream between servers whose header declares `jabber:server` as the default
    /// namespace and the prefixes `stream` and `db`.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_in(ns::SERVER, out);
    }

    /// Writes it where `default` is the default namespace, and the prefixes `stream` and `db` are
    /// declared.
    pub fn write_in(&self, default: &str, out: &mut Vec<u8>) {
        self.put_in(default, out);
    }

    /// How many bytes [`write`](Self::write) writes. They may be many more than were read: what was
    /// declared once for many elements is written with each of them.
    pub fn written_length(&self) -> usize {
        let mut length = Length(0);
        self.put_in(ns::SERVER, &mut length);
        length.0
    }

    fn put_in(&self, default: &str, out: &mut impl Sink) {
        let prefix: &[u8] = match self.ns.as_str() {
            ns::STREAMS => b"stream:",
            ns::DIALBACK => b"db:",
            _ => b"",
        };
        let inner = if prefix.is_empty() { self.ns.as_str() } else { default };
        out.put(b"<");
        out.put(prefix);
        out.put(self.name.as_str().as_bytes());
        if inner != default {
            out.put(b" xmlns='");
            escape(inner, in_attribute, out);
            out.put(b"'");
        }
        for (index, attribute) in self.attributes.iter().enumerate() {
            write_attribute(index, attribute, out);
        }
        if self.children.is_empty() {
            out.put(b"/>");
            return;
        }
        out.put(b">");
        for node in &self.children {
            match node {
                Node::Element(element) => element.put_in(inner, out),
                Node::Text(text) => escape(text, in_text, out),
            }
        }
        out.put(b"</");
        out.put(prefix);
        out.put(self.name.as_str().as_bytes());
        out.put(b">");
    }
}

/// What an element is written to.
trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts bytes.
struct Length(usize);

impl Sink for Length {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

fn write_attribute(index: usize, attribute: &Attribute, out: &mut impl Sink) {
    out.put(b" ");
    match attribute.ns.as_str() {
        "" => {}
        ns::XML => out.put(b"xml:"),
        other => {
            let prefix = format!("a{index}");
            out.put(format!("xmlns:{prefix}='").as_bytes());
            escape(other, in_attribute, out);
            out.put(format!("' {prefix}:").as_bytes());
        }
    }
    out.put(attribute.name.as_str().as_bytes());
    out.put(b"='");
    escape(&attribute.value, in_attribute, out);
    out.put(b"'");
}

/// What cannot stand in text as it is: a reader makes a line end of a carriage return (XML 1.0
/// section 2.11).
fn in_text(byte: &u8) -> bool {
    matches!(byte, b'<' | b'>' | b'&' | b'\r')
}

/// What cannot stand in an attribute's value, between these marks: a reader makes spaces of line ends
/// and tabs (XML 1.0 section 3.3.3).
fn in_attribute(byte: &u8) -> bool {
    in_text(byte) || matches!(byte, b'\'' | b'\n' | b'\t')
}

/// Writes `special` bytes as references, and no others: who writes us many of them would make us
/// write many times that.
fn escape(text: &str, special: impl Fn(&u8) -> bool, out: &mut impl Sink) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(&special) {
        out.put(&rest[..at]);
        out.put(match rest[at] {
            b'<' => b"&lt;",
            b'>' => b"&gt;",
            b'&' => b"&amp;",
            b'\'' => b"&apos;",
            b'\r' => b"&#xd;",
            b'\n' => b"&#xa;",
            _ => b"&#x9;",
        });
        rest = &rest[at + 1..];
    }
    out.put(rest);
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::new();
        self.write(&mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(element: &Element) -> String {
        let mut out = Vec::new();
        element.write(&mut out);
        assert_eq!(out.len(), element.written_length());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_written_says_what_is_in_it_and_nothing_more() {
        let message = Element::new(ns::SERVER, "message")
            .with("to", "a'\"\n\t\r<&>b@x")
            .with_child(Element::new(ns::SERVER, "body").with_text("<&>\n\t\r'\""))
            .with_child(Element::new(ns::CHAT_STATES, "active"));
        assert_eq!(
            written(&message),
            "<message to='a&apos;\"&#xa;&#x9;&#xd;&lt;&amp;&gt;b@x'><body>&lt;&amp;&gt;\n\t&#xd;'\"</body>\
             <active xmlns='http://jabber.org/protocol/chatstates'/></message>"
        );
    }

    #[test]
    fn prefixes_of_the_stream_header_are_used() {
        let result = Element::new(ns::DIALBACK, "result").with("from", "a").with_text("key");
        assert_eq!(written(&result), "<db:result from='a'>key</db:result>");
        let inner = Element::new("urn:x", "x")
            .with_child(Element::new(ns::SERVER, "y"))
            .with_child(Element::new("urn:x", "z"));
        assert_eq!(written(&inner), "<x xmlns='urn:x'><y xmlns='jabber:server'/><z/></x>");
    }

    #[test]
    fn attributes_of_namespaces_get_prefixes() {
        let mut element = Element::new(ns::SERVER, "body");
        element.set_ns(ns::XML, "lang", "de");
        element.set_ns("urn:y", "b", "1");
        assert_eq!(written(&element), "<body xml:lang='de' xmlns:a1='urn:y' a1:b='1'/>");
    }
}
