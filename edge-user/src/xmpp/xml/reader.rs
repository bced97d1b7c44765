//! The guard: bytes of a stream become stanzas, or the stream ends.
//!
//! rxml finds the tokens of restricted XML (RFC 6120 section 11.1: no comments, no processing
//! instructions, no document types, no entities but the five). Everything that it does not bound is
//! bounded here, each part before memory is spent for it: slices of at most 8 KiB, and no more of
//! them than the stanza may still have; depth; elements; attributes; namespaces, their number and length;
//! names; the bytes before anything is proved. Namespaces are resolved here, over a list that is as
//! short as the bounds say, and not in rxml, where each look-up walks all the elements that are open.
//!
//! A stanza past a bound ends a stream that has proved nothing. On one that has, it is passed over: a
//! user of the other end may have written it, and must not cost all others their stream.
//!
//! Where a limit strikes does not depend on how the bytes are cut: between two stanzas white space
//! is taken off before rxml sees it, so that a stanza is counted from its `<`, and no byte past a
//! limit is ever read.
//!
//! Names of namespaces that are no URI (with blanks, controls, or the characters that some parsers
//! put between a namespace and a name) are refused: what we read, every parser behind us reads alike.

use rxml::{
    Options, Parse, RawEvent, RawParser, WithOptions, error::EndOrError, parser::RawQName,
    strings::NcName,
};

use super::{Attribute, Element, Name, StreamHeader, XmlEvent, XmlFault, XmlLimits, names};
use crate::xmpp::{io::XmppRefusal, ns};

/// rxml is slow over longer ones.
const SLICE: usize = 8 << 10;
/// A stanza that is passed over has at most so many times the bytes of one that is read.
const PASSED_OVER: usize = 8;

/// Before anything is proved, nothing has more elements: the features of a stream have about 20.
const FIRST_ELEMENTS: usize = 64;

/// A prefix, and what it stands for; the default namespace has the empty prefix.
struct Scope {
    prefix: Option<NcName>,
    ns: Name,
}

/// An element whose start tag is being read.
struct StartTag {
    name: RawQName,
    attributes: Vec<(RawQName, String)>,
    /// Declarations in force before it.
    scopes: usize,
}

/// An element that is open.
struct Open {
    element: Element,
    /// Declarations in force outside of it.
    scopes: usize,
}

/// Where in a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Between,
    Stanza,
    Closed,
}

/// Reads one stream; after STARTTLS and SASL, [`restart`](Self::restart) begins the next one.
pub struct XmlReader {
    parser: RawParser,
    limits: XmlLimits,
    /// Bytes that may still come before something is proved.
    allowance: Option<usize>,
    place: Place,
    /// Bytes of the header or stanza that is being read.
    size: usize,
    scopes: Vec<Scope>,
    /// Declarations of the header: in force in every stanza.
    header_scopes: usize,
    tag: Option<StartTag>,
    open: Vec<Open>,
    /// Elements that are open, built or passed over.
    level: usize,
    /// Elements of the stanza that is being read.
    elements: usize,
    /// Why this stanza is passed over.
    over: Option<XmlFault>,
    fault: Option<XmlFault>,
}

impl XmlReader {
    /// `allowance`: bytes that may come before [`lift`](Self::lift).
    pub fn new(limits: XmlLimits, allowance: usize) -> Self {
        Self {
            parser: parser(&limits),
            limits,
            allowance: Some(allowance),
            place: Place::Header,
            size: 0,
            scopes: Vec::new(),
            header_scopes: 0,
            tag: None,
            open: Vec::new(),
            level: 0,
            elements: 0,
            over: None,
            fault: None,
        }
    }

    /// The other end proved something: only the bounds of each stanza hold from now on.
    pub fn lift(&mut self) {
        self.allowance = None;
    }

    /// A new stream begins on the same connection.
    pub fn restart(&mut self) {
        let allowance = self.allowance;
        *self = Self::new(self.limits, 0);
        self.allowance = allowance;
    }

    /// Whether nothing is half read.
    pub fn is_between(&self) -> bool {
        self.size == 0 && matches!(self.place, Place::Between | Place::Header)
    }

    /// The next event of these bytes, which are shortened by what was read. `None`: all was read,
    /// and more is needed.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<XmlEvent>, XmlFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let result = self.read(bytes);
        if let Err(fault) = &result {
            self.fault = Some(fault.clone());
            self.open.clear();
            self.tag = None;
        }
        result
    }

    fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<XmlEvent>, XmlFault> {
        loop {
            if self.place == Place::Closed {
                *bytes = &[];
                return Ok(None);
            }
            if self.size == 0 {
                match self.place {
                    Place::Between => self.skip_space(bytes)?,
                    _ => first_byte(bytes)?,
                }
            }
            let given = bytes.len().min(SLICE).min(self.room());
            let mut slice = &bytes[..given];
            let result = self.parser.parse(&mut slice, false);
            let used = given - slice.len();
            *bytes = &bytes[used..];
            self.count(used);
            match result {
                Ok(Some(event)) => {
                    if let Some(event) = self.take(event)? {
                        return Ok(Some(event));
                    }
                }
                Err(EndOrError::Error(error)) => return Err(XmlFault::found(error)),
                Ok(None) | Err(EndOrError::NeedMoreData) => {
                    if bytes.is_empty() {
                        if self.is_between() {
                            self.parser.release_temporaries();
                        }
                        return Ok(None);
                    }
                    if used == 0 {
                        let fault = self.too_long();
                        self.pass_over(fault)?;
                    }
                }
            }
        }
    }

    fn count(&mut self, used: usize) {
        self.size += used;
        if let Some(left) = &mut self.allowance {
            *left -= used;
        }
    }

    /// Bytes that may be read now.
    fn room(&self) -> usize {
        let limit = match self.place {
            Place::Header => self.limits.header_bytes,
            _ if self.over.is_some() => self.limits.stanza_bytes.saturating_mul(PASSED_OVER),
            _ => self.limits.stanza_bytes,
        };
        let room = limit.saturating_sub(self.size);
        self.allowance.map_or(room, |left| room.min(left))
    }

    fn too_long(&self) -> XmlFault {
        if self.allowance == Some(0) {
            return XmlFault::limit("too many bytes before anything was proved");
        }
        match self.place {
            Place::Header => XmlFault::limit("the stream header is too long"),
            _ => XmlFault::limit(format!(
                "a stanza has more than {} bytes",
                self.limits.stanza_bytes
            )),
        }
    }

    /// White space between stanzas keeps a connection alive and means nothing.
    fn skip_space(&mut self, bytes: &mut &[u8]) -> Result<(), XmlFault> {
        let space = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
        let mut count = bytes.iter().position(|b| !space(b)).unwrap_or(bytes.len());
        if let Some(left) = &mut self.allowance {
            count = count.min(*left);
            *left -= count;
        }
        *bytes = &bytes[count..];
        match bytes.first() {
            Some(_) if self.allowance == Some(0) => Err(self.too_long()),
            Some(b'<') | None => Ok(()),
            Some(_) => Err(XmlFault::xml("bad-format", "text stands between two stanzas")),
        }
    }

    fn take(&mut self, event: RawEvent) -> Result<Option<XmlEvent>, XmlFault> {
        match event {
            RawEvent::XmlDeclaration(..) => Ok(None),
            RawEvent::ElementHeadOpen(_, name) => self.start_tag(name).map(|()| None),
            RawEvent::Attribute(_, name, value) => self.attribute(name, value).map(|()| None),
            RawEvent::ElementHeadClose(_) => self.end_of_start_tag(),
            RawEvent::ElementFoot(_) => Ok(self.end_tag()),
            RawEvent::Text(_, text) => self.text(&text).map(|()| None),
        }
    }

    /// A bound is passed: the stream ends, or, where it has proved something and a stanza has begun,
    /// the rest of that is not kept.
    fn pass_over(&mut self, fault: XmlFault) -> Result<(), XmlFault> {
        let begun = !self.open.is_empty() || self.tag.is_some();
        if self.allowance.is_some() || self.place != Place::Stanza || !begun || self.over.is_some()
        {
            return Err(fault);
        }
        self.over = Some(fault);
        if let Some(first) = self.open.first_mut() {
            first.element.clear();
            self.tag = None;
        }
        self.open.truncate(1);
        Ok(())
    }

    fn start_tag(&mut self, name: RawQName) -> Result<(), XmlFault> {
        if self.place == Place::Between {
            self.place = Place::Stanza;
            self.elements = 0;
        }
        self.level += 1;
        if let Some(fault) = &self.over {
            // The parser below remembers each name until its element ends.
            return match self.level > self.limits.depth.saturating_mul(PASSED_OVER) {
                true => Err(fault.clone()),
                false => Ok(()),
            };
        }
        self.elements += 1;
        let most = self.allowance.map_or(self.limits.elements, |_| FIRST_ELEMENTS);
        if self.elements > most {
            let fault = XmlFault::limit(format!("a stanza has more than {most} elements"));
            return self.pass_over(fault);
        }
        if self.open.len() >= self.limits.depth {
            let depth = self.limits.depth;
            let fault = XmlFault::limit(format!("elements lie more than {depth} deep"));
            return self.pass_over(fault);
        }
        if let Err(fault) = self.check_name(&name) {
            return self.pass_over(fault);
        }
        self.tag = Some(StartTag { name, attributes: Vec::new(), scopes: self.scopes.len() });
        Ok(())
    }

    fn check_name(&self, (prefix, name): &RawQName) -> Result<(), XmlFault> {
        let most = self.limits.name_bytes;
        if name.len() > most || prefix.as_ref().is_some_and(|prefix| prefix.len() > most) {
            return Err(XmlFault::limit(format!("a name has more than {most} bytes")));
        }
        Ok(())
    }

    fn attribute(&mut self, name: RawQName, value: String) -> Result<(), XmlFault> {
        let result = match &name {
            (None, local) if **local == *"xmlns" => self.declare(None, &value),
            (Some(prefix), local) if **prefix == *"xmlns" => {
                self.declare(Some(local.clone()), &value)
            }
            _ => return self.plain_attribute(name, value),
        };
        match result {
            Err(fault) if fault.reason == XmppRefusal::XmlLimit || fault.is_no_uri() => {
                self.pass_over(fault)
            }
            result => result,
        }
    }

    fn plain_attribute(&mut self, name: RawQName, value: String) -> Result<(), XmlFault> {
        let checked = self.check_name(&name);
        let most = self.limits.attributes;
        let over = self.over.is_some();
        let Some(tag) = &mut self.tag else {
            // Of an element that is passed over.
            return Ok(());
        };
        let fault = match checked {
            Err(fault) => Some(fault),
            Ok(()) if tag.attributes.len() >= most => {
                Some(XmlFault::limit(format!("an element has more than {most} attributes")))
            }
            Ok(()) => None,
        };
        // Of the first tag of a stanza that is passed over, what names its sender is kept.
        let kept = name.0.is_none() && matches!(name.1.as_str(), "from" | "to" | "id" | "type");
        match fault {
            None if *name.1 == *"xmlns" => {
                return Err(XmlFault::xml("not-well-formed", "an attribute is named xmlns"));
            }
            None if !over => tag.attributes.push((name, value)),
            Some(fault) if !over => {
                self.pass_over(fault)?;
                return self.plain_attribute(name, value);
            }
            _ if kept => tag.attributes.push((name, value)),
            _ => {}
        }
        Ok(())
    }

    fn declare(&mut self, prefix: Option<NcName>, uri: &str) -> Result<(), XmlFault> {
        if self.over.is_some() {
            return Ok(());
        }
        if self.scopes.len() - self.header_scopes >= self.limits.namespaces {
            return Err(XmlFault::limit(format!(
                "more than {} namespaces are declared at one time",
                self.limits.namespaces
            )));
        }
        let longest = self.limits.name_bytes;
        if prefix.as_ref().is_some_and(|prefix| prefix.len() > longest) {
            return Err(XmlFault::limit(format!("a prefix has more than {longest} bytes")));
        }
        if uri.len() > self.limits.namespace_bytes {
            return Err(XmlFault::limit(format!(
                "a namespace has more than {} bytes",
                self.limits.namespace_bytes
            )));
        }
        let reserved = prefix.as_ref().is_some_and(|prefix| **prefix == *"xmlns");
        if reserved || uri == rxml::XMLNS_XMLNS {
            return Err(XmlFault::xml("bad-namespace-prefix", "xmlns is declared"));
        }
        if prefix.as_ref().is_some_and(|prefix| **prefix == *"xml") {
            return Ok(());
        }
        // rxml lets nobody else bind the namespace of `xml`.
        if !uri.chars().all(is_uri) {
            return Err(XmlFault::no_uri());
        }
        let before = self.tag.as_ref().map_or(0, |tag| tag.scopes);
        if self.scopes[before..].iter().any(|scope| scope.prefix == prefix) {
            return Err(XmlFault::xml("not-well-formed", "a prefix is declared twice"));
        }
        self.scopes.push(Scope { prefix, ns: names::namespace(uri) });
        Ok(())
    }

    /// What a prefix stands for here.
    fn resolve(&self, prefix: Option<&NcName>) -> Result<Name, XmlFault> {
        if let Some(scope) = self.scopes.iter().rev().find(|scope| scope.prefix.as_ref() == prefix)
        {
            return Ok(scope.ns.clone());
        }
        match prefix {
            None => Ok(Name::Static("")),
            Some(_) => {
                Err(XmlFault::xml("bad-namespace-prefix", "a prefix is used and not declared"))
            }
        }
    }

    fn attributes(&self, raw: Vec<(RawQName, String)>) -> Result<Vec<Attribute>, XmlFault> {
        let mut attributes: Vec<Attribute> = Vec::with_capacity(raw.len());
        for ((prefix, local), value) in raw {
            if prefix.is_some() && self.over.is_some() {
                // Its declaration may have been passed over.
                continue;
            }
            let ns = match &prefix {
                None => Name::Static(""),
                Some(prefix) if **prefix == *"xml" => Name::Static(ns::XML),
                prefix => self.resolve(prefix.as_ref())?,
            };
            let name = names::local(&local);
            if attributes.iter().any(|other| other.name == name && other.ns == ns) {
                return Err(XmlFault::xml("not-well-formed", "an attribute stands there twice"));
            }
            attributes.push(Attribute { ns, name, value });
        }
        Ok(attributes)
    }

    fn end_of_start_tag(&mut self) -> Result<Option<XmlEvent>, XmlFault> {
        let Some(StartTag { name: (prefix, local), attributes, scopes }) = self.tag.take() else {
            // Passed over.
            return Ok(None);
        };
        let element_ns = self.resolve(prefix.as_ref())?;
        let attributes = self.attributes(attributes)?;
        if self.place == Place::Header {
            return self.header(&element_ns, &local, attributes).map(Some);
        }
        let element = Element::from_parts(element_ns, names::local(&local), attributes);
        self.open.push(Open { element, scopes });
        Ok(None)
    }

    fn header(
        &mut self,
        element_ns: &Name,
        local: &str,
        attributes: Vec<Attribute>,
    ) -> Result<XmlEvent, XmlFault> {
        if element_ns.as_str() != ns::STREAMS {
            return Err(XmlFault::xml("invalid-namespace", "the stream is of no known namespace"));
        }
        if local != "stream" {
            return Err(XmlFault::xml("bad-format", "the first element is no stream"));
        }
        let default_ns = self.resolve(None)?;
        self.header_scopes = self.scopes.len();
        self.size = 0;
        self.level = 0;
        self.place = Place::Between;
        Ok(XmlEvent::StreamOpen(StreamHeader { attributes, default_ns }))
    }

    fn end_tag(&mut self) -> Option<XmlEvent> {
        let Some(level) = self.level.checked_sub(1) else {
            self.place = Place::Closed;
            return Some(XmlEvent::StreamClose);
        };
        self.level = level;
        if level > 0 && self.over.is_some() {
            return None;
        }
        let Open { element, scopes } = self.open.pop()?;
        self.scopes.truncate(scopes);
        if let Some(parent) = self.open.last_mut() {
            parent.element.push(element);
            return None;
        }
        self.size = 0;
        self.place = Place::Between;
        Some(match self.over.take() {
            None => XmlEvent::Stanza(element),
            Some(fault) => XmlEvent::PassedOver(element, fault),
        })
    }

    fn text(&mut self, text: &str) -> Result<(), XmlFault> {
        match self.open.last_mut() {
            _ if self.over.is_some() => {}
            Some(open) => open.element.push_text(text),
            None => return Err(XmlFault::xml("bad-format", "text stands between two stanzas")),
        }
        Ok(())
    }
}

/// A name or a value may be as long as its stanza: whoever may not write so long a stanza is told, and
/// not cut off.
fn parser(limits: &XmlLimits) -> RawParser {
    let max_token_length = limits.stanza_bytes;
    RawParser::with_options(Options { max_token_length, ..Options::default() })
}

/// What begins with anything but a tag is no XML: another protocol, or another encoding.
fn first_byte(bytes: &[u8]) -> Result<(), XmlFault> {
    match bytes.first() {
        None | Some(b'<' | b' ' | b'\t' | b'\r' | b'\n') => Ok(()),
        Some(0x80..) => {
            Err(XmlFault::xml("unsupported-encoding", "this is not UTF-8, or has a mark"))
        }
        Some(_) => Err(XmlFault::xml("not-well-formed", "this is no XML")),
    }
}

/// A character that a URI or IRI may have (RFC 3986, RFC 3987). The others are blanks, controls and
/// what parsers put between a namespace and a name.
fn is_uri(c: char) -> bool {
    let barred = matches!(c, '<' | '>' | '"' | '{' | '}' | '|' | '\\' | '^' | '`');
    !barred && !c.is_whitespace() && !c.is_control()
}

impl std::fmt::Debug for XmlReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XmlReader").field("size", &self.size).finish_non_exhaustive()
    }
}
