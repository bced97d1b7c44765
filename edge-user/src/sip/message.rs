//! A message: its bytes, and an index into them. Nothing is copied, nothing is changed, except
//! that the line ends inside folded headers become spaces (RFC 3261 section 25.1 lets a
//! recipient do so; it keeps every length), so that no value ever holds a CR or LF.

use std::{fmt, ops::Range, sync::OnceLock};

use bytes::{Bytes, BytesMut};

use super::{
    class::{self, GRAPHIC},
    facts::{CSeqAt, Facts, NameAddrAt, ViaAt, WholeUriAt},
    head::{Entry, Fault, Head, Start, number},
    header::HeaderName,
    method::Method,
    plain,
    uri::{Uri, UriError},
    value::{CSeq, ListIter, NameAddr, ValueError},
    via::Via,
};

/// What a peer may send at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Start line and headers, in bytes.
    pub head: usize,
    /// Body, in bytes.
    pub body: usize,
    /// Headers.
    pub headers: usize,
    /// One line of the head, in bytes.
    pub line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: 64 * 1024, body: 1024 * 1024, headers: 256, line: 16 * 1024 }
    }
}

/// Why bytes are no message, with as much of the message as could be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{fault}")]
pub struct FrameError {
    /// What is wrong.
    pub fault: Fault,
    partial: Option<Box<Message>>,
}

impl FrameError {
    pub(super) fn new(fault: Fault) -> Self {
        Self { fault, partial: None }
    }

    pub(super) fn with(fault: Fault, partial: Message) -> Self {
        Self { fault, partial: Some(Box::new(partial)) }
    }

    /// The request, if it can be answered: it is neither an ACK nor a BENOTIFY and has a Via. What
    /// else a response copies may be missing (RFC 4475 section 3.3.1 asks for the 400 all the
    /// same). Its body is empty and its values are not checked: good for
    /// [`super::build::response`] with [`Fault::status`], and for nothing else.
    pub fn answerable(&self) -> Option<&Message> {
        let partial = self.partial.as_deref()?;
        (!matches!(partial.method(), None | Some(Method::Ack | Method::Benotify))
            && partial.header(HeaderName::Via).is_some())
        .then_some(partial)
    }
}

/// A SIP message: its bytes and an index into them. Cheap to clone but for the index.
#[derive(Clone)]
pub struct Message {
    bytes: Bytes,
    start: Start,
    start_end: u32,
    entries: Vec<Entry>,
    /// The names of `entries`, as a set.
    seen: u64,
    body: u32,
    /// Known once [`Message::validate`] found nothing wrong.
    facts: OnceLock<Facts>,
}

/// One header line.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// Which line of the head it is, from 0: what [`super::Edit`] takes.
    pub index: usize,
    /// Its name, when the appliance knows it.
    pub name: HeaderName,
    /// Its name as it is written.
    pub raw_name: &'a str,
    /// Its value, without white space around it. No CR and LF, and no other control characters but
    /// tabs and what is escaped between quotes.
    pub value: &'a [u8],
}

/// One value of a comma-separated header (Via, Route, Record-Route, Contact).
#[derive(Clone, Debug)]
pub struct Element<'a> {
    /// The header line it stands in.
    pub header: usize,
    /// Its bytes, without white space around them.
    pub value: &'a [u8],
    /// Where they are in [`Message::bytes`].
    pub range: Range<usize>,
}

impl Message {
    /// Reads one datagram. What follows the body is ignored; without Content-Length the body
    /// goes to the end (RFC 3261 section 18.3).
    pub fn parse_datagram(bytes: Bytes, limits: &Limits) -> Result<Self, FrameError> {
        let mut bytes = bytes;
        while bytes.starts_with(b"\r\n") {
            bytes = bytes.slice(2..);
        }
        if matches!(&bytes[..], [b'\n', ..] | [b'\r', _, ..]) {
            return Err(FrameError::new(Fault::BareLineEnd));
        }
        let mut head = Head::default();
        let body = match head.advance(&bytes, limits) {
            Ok(Some(body)) => body,
            Ok(None) => return Err(unfinished(&bytes, head)),
            Err(fault) => return Err(FrameError::new(fault)),
        };
        let length = head.content_length.unwrap_or(bytes.len() - body);
        let fault = match head.fault {
            Some(fault) => Some(fault),
            None if length > limits.body => Some(Fault::BodyTooLong),
            None if length > bytes.len() - body => Some(Fault::Truncated),
            None => None,
        };
        let end = if fault.is_some() { body } else { body + length };
        let bytes = bytes.slice(..end);
        let bytes = if head.folded {
            let mut changed = BytesMut::from(bytes);
            unfold(&mut changed, &head.entries);
            changed.freeze()
        } else {
            bytes
        };
        let message = Self::assemble(bytes, head, body);
        match fault {
            None => Ok(message),
            Some(fault) => Err(FrameError::with(fault, message)),
        }
    }

    /// Joins bytes and their index. Folds are gone from `bytes` by now.
    pub(super) fn assemble(bytes: Bytes, head: Head, body: usize) -> Self {
        Self {
            bytes,
            start: head.start,
            start_end: head.start_end,
            entries: head.entries,
            seen: head.seen,
            body: u32::try_from(body).unwrap_or(u32::MAX),
            facts: OnceLock::new(),
        }
    }

    fn slice(&self, start: u32, end: u32) -> &[u8] {
        self.bytes.get(start as usize..end as usize).unwrap_or(&[])
    }

    /// The whole message.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether it is a request.
    pub fn is_request(&self) -> bool {
        matches!(self.start, Start::Request { .. })
    }

    /// A request's method.
    pub fn method(&self) -> Option<Method<'_>> {
        match self.start {
            Start::Request { method: Some(method), .. } => Some(method),
            Start::Request { method_end, .. } => {
                std::str::from_utf8(self.slice(0, method_end)).ok().map(Method::Other)
            }
            _ => None,
        }
    }

    /// A request's Request-URI; `None` for a response.
    pub fn request_uri(&self) -> Option<Result<Uri<'_>, UriError>> {
        if let Some(uri) = self.known(|facts, bytes| facts.uri?.read(bytes)) {
            return Some(Ok(uri));
        }
        let range = self.request_uri_range()?;
        let text = self.bytes.get(range).and_then(|uri| std::str::from_utf8(uri).ok());
        Some(text.ok_or(UriError::Character).and_then(Uri::parse))
    }

    /// Where the Request-URI is in [`Message::bytes`].
    pub(super) fn request_uri_range(&self) -> Option<Range<usize>> {
        match self.start {
            Start::Request { uri, uri_end, .. } => Some(uri as usize..uri_end as usize),
            _ => None,
        }
    }

    /// A response's status code, 100 to 699.
    pub fn status(&self) -> Option<u16> {
        match self.start {
            Start::Response { status, .. } => Some(status),
            _ => None,
        }
    }

    /// A response's reason phrase.
    pub fn reason(&self) -> Option<&[u8]> {
        match self.start {
            Start::Response { reason, reason_end, .. } => Some(self.slice(reason, reason_end)),
            _ => None,
        }
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(self.body as usize..).unwrap_or(&[])
    }

    /// The body, sharing the message's memory.
    pub fn body_bytes(&self) -> Bytes {
        self.bytes.slice((self.body as usize).min(self.bytes.len())..)
    }

    /// Where the first header line begins.
    pub(super) fn headers_start(&self) -> usize {
        self.start_end as usize
    }

    /// Where the body begins.
    pub(super) fn body_start(&self) -> usize {
        self.body as usize
    }

    /// Every header line, in order.
    pub fn all_headers(&self) -> impl Iterator<Item = Header<'_>> {
        self.entries.iter().enumerate().map(|(index, entry)| self.view(index, entry))
    }

    fn view(&self, index: usize, entry: &Entry) -> Header<'_> {
        Header {
            index,
            name: entry.name,
            raw_name: std::str::from_utf8(self.slice(entry.start, entry.name_end))
                .unwrap_or_default(),
            value: self.slice(entry.value, entry.value_end),
        }
    }

    /// The header lines with one name, in order.
    pub fn headers(&self, name: HeaderName) -> impl Iterator<Item = Header<'_>> {
        self.entries
            .iter()
            .enumerate()
            .filter(move |(_, entry)| entry.name == name)
            .map(|(index, entry)| self.view(index, entry))
    }

    /// The header lines with a name that is no [`HeaderName`]; case does not matter.
    pub fn headers_named<'m>(&'m self, name: &str) -> impl Iterator<Item = Header<'m>> {
        self.all_headers().filter(move |header| header.raw_name.eq_ignore_ascii_case(name))
    }

    /// The first header line with a name.
    pub fn header(&self, name: HeaderName) -> Option<Header<'_>> {
        let (index, entry) = self.first(name)?;
        Some(self.view(index, entry))
    }

    /// Whether there is a header line with a name.
    pub(super) fn has(&self, name: HeaderName) -> bool {
        self.seen & name.bit() != 0
    }

    fn first(&self, name: HeaderName) -> Option<(usize, &Entry)> {
        if !self.has(name) {
            return None;
        }
        self.entries.iter().enumerate().find(|(_, entry)| entry.name == name)
    }

    /// The value of the first header line with a name.
    fn value(&self, name: HeaderName) -> Option<&[u8]> {
        let (_, entry) = self.first(name)?;
        Some(self.slice(entry.value, entry.value_end))
    }

    /// The value of the first header line with a name, as text.
    pub fn text(&self, name: HeaderName) -> Option<&str> {
        std::str::from_utf8(self.value(name)?).ok()
    }

    /// The values of a comma-separated header over all its lines, in order. Commas inside quotes
    /// and angle brackets do not separate.
    pub fn list(&self, name: HeaderName) -> impl Iterator<Item = Element<'_>> {
        self.entries.iter().enumerate().filter(move |(_, entry)| entry.name == name).flat_map(
            move |(header, entry)| {
                self.elements(entry).map(move |range| Element {
                    header,
                    value: self.bytes.get(range.clone()).unwrap_or(&[]),
                    range,
                })
            },
        )
    }

    /// Where the values in one line are.
    pub(super) fn elements(&self, entry: &Entry) -> impl Iterator<Item = Range<usize>> {
        let base = entry.value as usize;
        ListIter::new(self.slice(entry.value, entry.value_end))
            .map(move |range| base + range.start..base + range.end)
    }

    /// Every header line, as it was found.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The line of a header: from its name to past its CRLF.
    pub(super) fn line_range(&self, index: usize) -> Option<Range<usize>> {
        self.entries.get(index).map(Entry::line)
    }

    /// The value of a header line.
    pub(super) fn value_range(&self, index: usize) -> Option<Range<usize>> {
        self.entries.get(index).map(Entry::value_range)
    }

    #[cfg(test)]
    pub(super) fn knows_its_facts(&self) -> bool {
        self.facts.get().is_some()
    }

    fn known<'m, T>(&'m self, read: impl FnOnce(&Facts, &'m [u8]) -> Option<T>) -> Option<T> {
        read(self.facts.get()?, &self.bytes)
    }

    /// The top Via.
    pub fn via(&self) -> Result<Via<'_>, ValueError> {
        if let Some(value) = self.known(|facts, bytes| facts.via.read(bytes)) {
            return Ok(value);
        }
        let element = self.list(HeaderName::Via).next().ok_or(ValueError::Missing)?;
        Via::parse(element.value)
    }

    /// From.
    pub fn from(&self) -> Result<NameAddr<'_>, ValueError> {
        if let Some(value) = self.known(|facts, bytes| facts.from.read(bytes)) {
            return Ok(value);
        }
        NameAddr::parse(self.value(HeaderName::From).ok_or(ValueError::Missing)?)
    }

    /// To.
    pub fn to(&self) -> Result<NameAddr<'_>, ValueError> {
        if let Some(value) = self.known(|facts, bytes| facts.to.read(bytes)) {
            return Ok(value);
        }
        NameAddr::parse(self.value(HeaderName::To).ok_or(ValueError::Missing)?)
    }

    /// Call-ID.
    pub fn call_id(&self) -> Result<&str, ValueError> {
        std::str::from_utf8(self.call_id_bytes()?).map_err(|_| ValueError::CallId)
    }

    fn call_id_bytes(&self) -> Result<&[u8], ValueError> {
        let value = self.value(HeaderName::CallId).ok_or(ValueError::Missing)?;
        match !value.is_empty() && class::all(value, GRAPHIC) {
            true => Ok(value),
            false => Err(ValueError::CallId),
        }
    }

    /// CSeq.
    pub fn cseq(&self) -> Result<CSeq<'_>, ValueError> {
        if let Some(value) = self.known(|facts, bytes| facts.cseq.read(bytes)) {
            return Ok(value);
        }
        CSeq::parse(self.value(HeaderName::CSeq).ok_or(ValueError::Missing)?)
    }

    /// Max-Forwards; `None` when there is none, as from an RFC 2543 sender.
    pub fn max_forwards(&self) -> Result<Option<u8>, ValueError> {
        match self.value(HeaderName::MaxForwards) {
            None => Ok(None),
            Some(value) => number(value)
                .and_then(|hops| u8::try_from(hops).ok())
                .map(Some)
                .ok_or(ValueError::MaxForwards),
        }
    }

    /// Reads every value that routing and dialogs rest on, and says what is wrong with the first
    /// bad one: all Via, From, To, Call-ID, CSeq (whose method is the request's), Max-Forwards,
    /// Route, Record-Route, and for requests the Request-URI.
    pub fn validate(&self) -> Result<(), ValueError> {
        if self.facts.get().is_some() {
            return Ok(());
        }
        let facts = Facts {
            via: self.read_vias()?,
            from: self.read_name_addr(HeaderName::From)?,
            to: self.read_name_addr(HeaderName::To)?,
            cseq: self.read_cseq()?,
            uri: self.read_request_uri()?,
        };
        self.call_id_bytes()?;
        self.max_forwards()?;
        if self.has(HeaderName::Route) || self.has(HeaderName::RecordRoute) {
            self.read_routes()?;
        }
        // Another thread may have come first, with the same.
        let _ = self.facts.set(facts);
        Ok(())
    }

    /// Every Via; where the parts of the top one are.
    fn read_vias(&self) -> Result<ViaAt, ValueError> {
        let mut top = None;
        for entry in self.entries.iter().filter(|entry| entry.name == HeaderName::Via) {
            for range in self.elements(entry) {
                let via = match plain::via(&self.bytes, range.clone()) {
                    Some(via) => via,
                    None => {
                        let value = self.bytes.get(range).unwrap_or_default();
                        ViaAt::of(&self.bytes, value, &Via::parse(value)?).ok_or(ValueError::Via)?
                    }
                };
                top.get_or_insert(via);
            }
        }
        top.ok_or(ValueError::Missing)
    }

    fn read_name_addr(&self, name: HeaderName) -> Result<NameAddrAt, ValueError> {
        let (_, entry) = self.first(name).ok_or(ValueError::Missing)?;
        if let Some(at) = plain::name_addr(&self.bytes, entry.value_range()) {
            return Ok(at);
        }
        let value = NameAddr::parse(self.slice(entry.value, entry.value_end))?;
        NameAddrAt::of(&self.bytes, &value).ok_or(ValueError::NameAddr)
    }

    /// CSeq, whose method is the request's.
    fn read_cseq(&self) -> Result<CSeqAt, ValueError> {
        let (_, entry) = self.first(HeaderName::CSeq).ok_or(ValueError::Missing)?;
        let at = match plain::cseq(&self.bytes, entry.value_range()) {
            Some(at) => at,
            None => {
                let value = self.slice(entry.value, entry.value_end);
                CSeqAt::of(&self.bytes, value, &CSeq::parse(value)?).ok_or(ValueError::CSeq)?
            }
        };
        match self.start {
            Start::Request { method_end, .. }
                if at.method(&self.bytes) != Some(self.slice(0, method_end)) =>
            {
                Err(ValueError::CSeq)
            }
            _ => Ok(at),
        }
    }

    fn read_routes(&self) -> Result<(), ValueError> {
        for entry in &self.entries {
            if matches!(entry.name, HeaderName::Route | HeaderName::RecordRoute) {
                for range in self.elements(entry) {
                    if plain::name_addr(&self.bytes, range.clone()).is_none() {
                        NameAddr::parse_bracketed(self.bytes.get(range).unwrap_or_default())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A request's URI, without headers.
    fn read_request_uri(&self) -> Result<Option<WholeUriAt>, ValueError> {
        let Some(range) = self.request_uri_range() else { return Ok(None) };
        if let Some(at) = plain::whole_uri(&self.bytes, range.clone()) {
            return Ok(Some(at));
        }
        let raw = self.bytes.get(range).and_then(|raw| std::str::from_utf8(raw).ok());
        let uri = Uri::parse(raw.ok_or(UriError::Character)?)?;
        if uri.headers().is_some() {
            return Err(UriError::Headers.into());
        }
        Ok(WholeUriAt::of(&self.bytes, &uri))
    }
}

/// A datagram that ends inside its head: the whole lines of it are enough to be told so.
fn unfinished(bytes: &Bytes, head: Head) -> FrameError {
    let end = head.lines_end();
    if matches!(head.start, Start::None) {
        return FrameError::new(Fault::Unfinished);
    }
    let mut lines = BytesMut::from(&bytes[..end]);
    unfold(&mut lines, &head.entries);
    FrameError::with(Fault::Unfinished, Message::assemble(lines.freeze(), head, end))
}

/// Makes spaces of the line ends inside folded headers.
pub(super) fn unfold(bytes: &mut [u8], entries: &[Entry]) {
    for entry in entries {
        let end = (entry.end as usize).saturating_sub(2);
        for b in bytes.get_mut(entry.start as usize..end).unwrap_or(&mut []) {
            if matches!(*b, b'\r' | b'\n') {
                *b = b' ';
            }
        }
    }
}

/// The start line only: headers and bodies are not for logs.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.slice(0, self.start_end.saturating_sub(2));
        f.debug_struct("Message")
            .field("start_line", &String::from_utf8_lossy(line))
            .field("headers", &self.entries.len())
            .field("body_bytes", &self.body().len())
            .finish()
    }
}
