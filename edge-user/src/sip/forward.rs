//! What a proxy changes in a message that it forwards (RFC 3261 sections 16.6 and 16.7, 18.2.1;
//! RFC 3581 section 4).

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    ops::Range,
};

use bytes::Bytes;

use super::{
    class::is_token,
    edit::{EditError, is_safe},
    facts::place,
    head::Entry,
    header::{HeaderName, set},
    message::{Element, Message},
    via::Via,
};

/// The address a request came from, for its top Via.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Source address.
    pub address: IpAddr,
    /// Source port.
    pub port: u16,
}

/// What of a request may change whatever is taken away.
const TOUCHED: [HeaderName; 4] =
    [HeaderName::Via, HeaderName::Route, HeaderName::MaxForwards, HeaderName::ContentLength];

/// Changes to a request on its way (RFC 3261 section 16.6).
#[derive(Clone, Debug)]
pub struct ForwardRequest<'a> {
    /// Our Via's value: `SIP/2.0/TLS edge.contoso.example;branch=z9hG4bK...`.
    pub via: &'a str,
    /// Max-Forwards as it goes out.
    pub max_forwards: u8,
    /// Where it came from: noted in the Via that was on top.
    pub received: Option<Received>,
    /// Record-Route values of ours, the topmost first.
    pub record_routes: &'a [&'a str],
    /// Another Request-URI.
    pub request_uri: Option<&'a str>,
    /// How many Route values to take off the front.
    pub remove_routes: usize,
    /// Headers to take away.
    pub remove: &'a [HeaderName],
    /// Headers to add at the end.
    pub add: &'a [(&'a str, &'a str)],
    /// Another body; its length is said whatever the message said.
    pub body: Option<&'a [u8]>,
}

impl<'a> ForwardRequest<'a> {
    /// A new Via and a new Max-Forwards; everything else stays.
    pub fn new(via: &'a str, max_forwards: u8) -> Self {
        Self {
            via,
            max_forwards,
            received: None,
            record_routes: &[],
            request_uri: None,
            remove_routes: 0,
            remove: &[],
            add: &[],
            body: None,
        }
    }

    /// The request as it goes out: written twice, once to count, so that its memory is asked for
    /// once and fits.
    pub fn apply(&self, message: &Message) -> Result<Bytes, EditError> {
        let safe = self.record_routes.iter().all(|value| is_safe(value.as_bytes()));
        if !safe || !is_safe(self.via.as_bytes()) || !are_safe(self.add) {
            return Err(EditError::Injection);
        }
        if self
            .request_uri
            .is_some_and(|u| u.is_empty() || !u.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(EditError::Injection);
        }
        let noted = self.received.and_then(|source| {
            let top = message.list(HeaderName::Via).next()?;
            let noted = Noted::new(top.value, &message.via().ok()?, source)?;
            Some((top, noted))
        });
        let mut length = Length(0);
        self.write(message, noted.as_ref(), &mut length)?;
        let mut out = Vec::with_capacity(length.0);
        self.write(message, noted.as_ref(), &mut out)?;
        Ok(Bytes::from(out))
    }

    fn write(
        &self,
        message: &Message,
        noted: Option<&(Element<'_>, Noted<'_>)>,
        out: &mut impl Sink,
    ) -> Result<(), EditError> {
        let mut copy = Copy { source: message.bytes(), done: 0 };
        if let Some(uri) = self.request_uri {
            let range = message.request_uri_range().ok_or(EditError::NoSuchPlace)?;
            copy.replace(out, range);
            out.put(uri.as_bytes());
        }
        copy.up_to(out, message.headers_start());
        known_line(out, b"Via: ", self.via.as_bytes());
        for value in self.record_routes {
            known_line(out, b"Record-Route: ", value.as_bytes());
        }
        let removed = bits(self.remove) & !HeaderName::Other.bit();
        let touched = removed | set(&TOUCHED);
        let mut routes = self.remove_routes;
        let mut hops = Decimal::new(self.max_forwards.into());
        let mut hops = Some(&mut hops);
        for (index, entry) in message.entries().iter().enumerate() {
            if touched & entry.name.bit() == 0 {
                continue;
            }
            if removed & entry.name.bit() != 0 {
                copy.replace(out, entry.line());
                continue;
            }
            match entry.name {
                HeaderName::Via => {
                    if let Some((top, noted)) = noted.filter(|(top, _)| top.header == index) {
                        copy.replace(out, top.range.clone());
                        noted.write(out);
                    }
                }
                HeaderName::Route if routes > 0 => {
                    let taken = front(message, entry, &mut routes);
                    copy.replace(out, taken);
                }
                HeaderName::MaxForwards => {
                    if let Some(hops) = hops.take() {
                        copy.replace(out, entry.value_range());
                        out.put(hops.text());
                    }
                }
                HeaderName::ContentLength => copy.length(out, entry, self.body),
                _ => {}
            }
        }
        if routes > 0 {
            return Err(EditError::NoSuchPlace);
        }
        copy.up_to(out, message.body_start().checked_sub(2).ok_or(EditError::NoSuchPlace)?);
        if let Some(hops) = hops {
            line(out, HeaderName::MaxForwards.as_str(), hops.text());
        }
        finish_headers(out, message, self.add, self.body);
        copy.body(out, self.body);
        Ok(())
    }
}

/// Changes to a response on its way back (RFC 3261 section 16.7).
#[derive(Clone, Debug, Default)]
pub struct ForwardResponse<'a> {
    /// New values for Record-Route elements, by their place in the list from 0.
    pub record_routes: &'a [(usize, &'a str)],
    /// Headers to take away.
    pub remove: &'a [HeaderName],
    /// Headers to add at the end.
    pub add: &'a [(&'a str, &'a str)],
    /// Another body; its length is said whatever the message said.
    pub body: Option<&'a [u8]>,
}

impl ForwardResponse<'_> {
    /// The response without its top Via (ours) and with the other changes.
    pub fn apply(&self, message: &Message) -> Result<Bytes, EditError> {
        let safe = self.record_routes.iter().all(|(_, value)| is_safe(value.as_bytes()));
        if !safe || !are_safe(self.add) {
            return Err(EditError::Injection);
        }
        let mut length = Length(0);
        self.write(message, &mut length)?;
        let mut out = Vec::with_capacity(length.0);
        self.write(message, &mut out)?;
        Ok(Bytes::from(out))
    }

    fn write(&self, message: &Message, out: &mut impl Sink) -> Result<(), EditError> {
        let mut copy = Copy { source: message.bytes(), done: 0 };
        let removed = bits(self.remove);
        let (mut vias, mut place, mut changed) = (1, 0, 0);
        for entry in message.entries() {
            if entry.name != HeaderName::Other && removed & entry.name.bit() != 0 {
                copy.replace(out, entry.line());
                continue;
            }
            match entry.name {
                HeaderName::Via if vias > 0 => {
                    let taken = front(message, entry, &mut vias);
                    copy.replace(out, taken);
                }
                HeaderName::RecordRoute if changed < self.record_routes.len() => {
                    for range in message.elements(entry) {
                        if let Some((_, value)) =
                            self.record_routes.iter().find(|(at, _)| *at == place)
                        {
                            copy.replace(out, range);
                            out.put(value.as_bytes());
                            changed += 1;
                        }
                        place += 1;
                    }
                }
                HeaderName::ContentLength => copy.length(out, entry, self.body),
                _ => {}
            }
        }
        if vias > 0 || changed < self.record_routes.len() {
            return Err(EditError::NoSuchPlace);
        }
        copy.up_to(out, message.body_start().checked_sub(2).ok_or(EditError::NoSuchPlace)?);
        finish_headers(out, message, self.add, self.body);
        copy.body(out, self.body);
        Ok(())
    }
}

/// Where a message is written to.
pub(super) trait Sink {
    fn put(&mut self, part: &[u8]);
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, part: &[u8]) {
        self.extend_from_slice(part);
    }
}

/// Counts only.
struct Length(usize);

impl Sink for Length {
    fn put(&mut self, part: &[u8]) {
        self.0 += part.len();
    }
}

/// A message's bytes on their way, from front to back.
struct Copy<'m> {
    source: &'m [u8],
    done: usize,
}

impl Copy<'_> {
    fn up_to(&mut self, out: &mut impl Sink, at: usize) {
        out.put(self.source.get(self.done..at).unwrap_or_default());
        self.done = self.done.max(at);
    }

    /// Copies up to a range, and leaves it out.
    fn replace(&mut self, out: &mut impl Sink, range: Range<usize>) {
        self.up_to(out, range.start);
        self.done = self.done.max(range.end);
    }

    /// A length that is said, when the body is another.
    fn length(&mut self, out: &mut impl Sink, entry: &Entry, body: Option<&[u8]>) {
        if let Some(body) = body {
            self.replace(out, entry.value_range());
            out.put(Decimal::new(body.len() as u64).text());
        }
    }

    /// The end of the head, and the body.
    fn body(&mut self, out: &mut impl Sink, body: Option<&[u8]>) {
        match body {
            None => self.up_to(out, self.source.len()),
            Some(body) => {
                out.put(b"\r\n");
                out.put(body);
            }
        }
    }
}

/// A number as text, without an allocation.
struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    fn new(mut number: u64) -> Self {
        let mut digits = [b'0'; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { digits, start };
            }
        }
    }

    fn text(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or_default()
    }
}

/// A line that begins with a name and colon known here: as many pieces fewer.
#[inline]
fn known_line<const N: usize>(out: &mut impl Sink, begin: &[u8; N], value: &[u8]) {
    out.put(begin);
    out.put(value);
    out.put(b"\r\n");
}

fn line(out: &mut impl Sink, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.put(part);
    }
}

/// Names as a set.
fn bits(names: &[HeaderName]) -> u64 {
    names.iter().fold(0, |bits, name| bits | name.bit())
}

fn are_safe(headers: &[(&str, &str)]) -> bool {
    headers.iter().all(|(name, value)| {
        !name.is_empty() && name.bytes().all(is_token) && is_safe(value.as_bytes())
    })
}

/// What goes when the first `left` values of a list go, as far as they are in this line: all of
/// the line, or its front. `left` is counted down.
fn front(message: &Message, entry: &Entry, left: &mut usize) -> Range<usize> {
    let mut start = None;
    for range in message.elements(entry) {
        let start = *start.get_or_insert(range.start);
        if *left == 0 {
            return start..range.start;
        }
        *left -= 1;
    }
    entry.line()
}

/// Adds, and says how long the body is where a datagram did not: the message may go on over a
/// stream, which needs it (RFC 3261 section 18.3).
fn finish_headers(
    out: &mut impl Sink,
    message: &Message,
    add: &[(&str, &str)],
    body: Option<&[u8]>,
) {
    if !message.has(HeaderName::ContentLength) {
        let length = Decimal::new(body.unwrap_or(message.body()).len() as u64);
        line(out, HeaderName::ContentLength.as_str(), length.text());
    }
    for (name, value) in add {
        line(out, name, value.as_bytes());
    }
}

/// A Via value with `received` and `rport` as the source says, not as the peer says.
pub(super) struct Noted<'a> {
    /// What stays of it, without the two; neither stands there twice.
    kept: [&'a [u8]; 3],
    added: Inline,
}

impl<'a> Noted<'a> {
    /// `via` is what `value` was read as. `None` when nothing changes.
    pub(super) fn new(value: &'a [u8], via: &Via<'a>, source: Received) -> Option<Self> {
        let same_host = via.host.ip() == Some(source.address);
        if same_host && via.rport.is_none() && via.received.is_none() {
            return None;
        }
        let mut kept: [&[u8]; 3] = [value, &[], &[]];
        let mut last = 0;
        if via.rport.is_some() || via.received.is_some() {
            for (name, piece) in via.params.pieces() {
                if !name.eq_ignore_ascii_case("received") && !name.eq_ignore_ascii_case("rport") {
                    continue;
                }
                let rest = *kept.get(last)?;
                let at = place(rest, piece.as_bytes())?;
                *kept.get_mut(last)? = rest.get(..at.start)?;
                last += 1;
                *kept.get_mut(last)? = rest.get(at.end..)?;
            }
        }
        let mut added = Inline { bytes: [0; 80], length: 0 };
        // RFC 3581 section 4: with rport, received is there even when the host is the same.
        if !same_host || via.rport.is_some() {
            added.put(b";received=");
            match source.address {
                IpAddr::V4(address) => {
                    for (i, octet) in address.octets().into_iter().enumerate() {
                        added.put(if i == 0 { b"" } else { b"." });
                        added.put(Decimal::new(octet.into()).text());
                    }
                }
                // An address has at most 45 characters.
                IpAddr::V6(address) => write!(added, "{address}").ok()?,
            }
        }
        if via.rport.is_some() {
            added.put(b";rport=");
            added.put(Decimal::new(source.port.into()).text());
        }
        Some(Self { kept, added })
    }

    pub(super) fn write(&self, out: &mut impl Sink) {
        for part in self.kept {
            out.put(part);
        }
        out.put(self.added.bytes.get(..self.added.length).unwrap_or_default());
    }
}

/// A short text on the stack.
pub(super) struct Inline {
    bytes: [u8; 80],
    length: usize,
}

impl Sink for Inline {
    fn put(&mut self, part: &[u8]) {
        let end = self.length + part.len();
        if let Some(free) = self.bytes.get_mut(self.length..end) {
            free.copy_from_slice(part);
            self.length = end;
        }
    }
}

impl fmt::Write for Inline {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
