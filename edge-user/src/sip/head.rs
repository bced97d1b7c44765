//! The head of a message: start line and headers, found and indexed in one pass that can stop at
//! any byte and go on later (RFC 3261 sections 7.1 to 7.3).
//!
//! The one place where a control character may stand is after a backslash between quotes
//! (`quoted-pair`, section 25.1); CR and LF may not even there.
//!
//! Two kinds of fault. A lexical one (a bare CR or LF, a control character, a line without a
//! colon, a limit) ends the pass: nothing after it can be trusted, so nobody is answered. A
//! fault of meaning (a header twice, a bad Content-Length) is kept, the pass goes on, and the
//! caller gets the index beside the fault, enough to answer 400.

use std::ops::Range;

use super::{
    class::{TOKEN, all, is_token},
    header::{HeaderName, SHORT, SINGLETONS, set},
    message::Limits,
    method::{MAX_METHOD, Method},
    scan::{equal, first_control, is_clean},
};

/// Why bytes are no SIP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// The head is longer than allowed.
    #[error("the head is too long")]
    HeadTooLong,
    /// A line of the head is longer than allowed.
    #[error("a line of the head is too long")]
    LineTooLong,
    /// More headers than allowed.
    #[error("too many headers")]
    TooManyHeaders,
    /// The body is longer than allowed.
    #[error("the body is too long")]
    BodyTooLong,
    /// A CR without LF or an LF without CR in the head.
    #[error("a line of the head does not end in CRLF")]
    BareLineEnd,
    /// NUL or another control character in the head.
    #[error("a control character in the head")]
    ControlCharacter,
    /// Neither a request line nor a status line.
    #[error("the start line is neither a request line nor a status line")]
    StartLine,
    /// Another version than SIP/2.0.
    #[error("not SIP version 2.0")]
    Version,
    /// A line that is no header: no colon, or a name that is no token.
    #[error("a line of the head is no header")]
    HeaderLine,
    /// A continuation line with nothing to continue, or with nothing on it.
    #[error("a folded line that continues nothing or holds nothing")]
    Folding,
    /// A header that may stand once stands twice.
    #[error("more than one {} header", .0.as_str())]
    Duplicate(HeaderName),
    /// A header without which a message cannot be handled.
    #[error("no {} header", .0.as_str())]
    Missing(HeaderName),
    /// Content-Length is not a number.
    #[error("Content-Length is not a number")]
    ContentLength,
    /// The datagram ends before its body does.
    #[error("the datagram is shorter than its Content-Length")]
    Truncated,
    /// The datagram ends inside the head.
    #[error("the head has no end")]
    Unfinished,
    /// The stream had a fault before; where a message begins is no longer known.
    #[error("the stream is out of step")]
    OutOfStep,
}

impl Fault {
    /// The status code that says so to the peer (RFC 3261 section 21.4).
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Fault::BodyTooLong => (413, "Request Entity Too Large"),
            Fault::Version => (505, "Version Not Supported"),
            Fault::Duplicate(_) => (400, "Duplicate Header"),
            Fault::Missing(_) => (400, "Missing Header"),
            Fault::ContentLength => (400, "Bad Content-Length"),
            Fault::StartLine => (400, "Bad Request Line"),
            _ => (400, "Bad Request"),
        }
    }
}

/// A header line: offsets from the first byte of the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub name: HeaderName,
    /// First byte of the name.
    pub start: u32,
    /// One past the name.
    pub name_end: u32,
    /// The value, without white space around it.
    pub value: u32,
    pub value_end: u32,
    /// One past the line's CRLF.
    pub end: u32,
}

impl Entry {
    /// From its name to past its CRLF.
    pub fn line(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Its value.
    pub fn value_range(&self) -> Range<usize> {
        self.value as usize..self.value_end as usize
    }
}

/// The start line: offsets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Start {
    #[default]
    None,
    Request {
        /// The method, when it is one that has a name here.
        method: Option<Method<'static>>,
        method_end: u32,
        uri: u32,
        uri_end: u32,
    },
    Response {
        status: u16,
        reason: u32,
        reason_end: u32,
    },
}

/// Progress through a head.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    pub start: Start,
    pub entries: Vec<Entry>,
    /// Some header is folded: its line ends must become spaces.
    pub folded: bool,
    /// The first fault of meaning.
    pub fault: Option<Fault>,
    /// Where the message ends is in doubt too: of what follows in a stream nothing can be told.
    pub endless: bool,
    pub content_length: Option<usize>,
    /// End of the start line, CRLF included.
    pub start_end: u32,
    /// The names that were seen, as a set.
    pub seen: u64,
    line: usize,
    searched: usize,
    /// The header in progress was read for quotes up to here, and whether one is open there.
    quotes: (usize, bool),
}

impl Head {
    /// Reads on in `bytes`, which begin at the message's first byte and have only grown since
    /// the last call. `Some(end)` when the head is whole: `end` is where the body begins.
    pub fn advance(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Fault> {
        loop {
            self.plain_lines(bytes, limits);
            let start = self.line;
            let line = match self.clean_line(bytes) {
                Some(line) => line,
                None => match self.any_line(bytes, limits)? {
                    Some(line) => line,
                    None => return Ok(None),
                },
            };
            let newline = start + line.len() + 1;
            self.check_length(newline, limits)?;
            (self.line, self.searched) = (newline + 1, newline + 1);
            if line.is_empty() {
                self.finish()?;
                return Ok(Some(newline + 1));
            }
            if matches!(self.start, Start::None) {
                self.start_line(line)?;
                self.start_end = offset32(newline + 1);
            } else if matches!(line[0], b' ' | b'\t') {
                self.fold(bytes, newline + 1)?;
            } else {
                self.header(line, start, limits)?;
            }
        }
    }

    /// The next lines, as long as they are of the plain kind: a short name and its
    /// colon, no control character, nothing at fault. Most of a head is; the rest is for
    /// [`Head::advance`], line by line.
    fn plain_lines(&mut self, bytes: &[u8], limits: &Limits) {
        if matches!(self.start, Start::None) || self.searched != self.line {
            return;
        }
        let most = limits.head.min(MAX_OFFSET);
        let mut at = self.line;
        let mut seen = self.seen;
        while let Some(rest) = bytes.get(at..)
            && let Some((name, colon)) = short_name(rest)
            && let Some(end) = first_control(rest.get(colon..).unwrap_or_default())
            && let end = colon + end
            && rest.get(end..end + 2) == Some(b"\r\n")
        {
            let next = at + end + 2;
            let fits = next <= most && end < limits.line && self.entries.len() < limits.headers;
            if name.bit() & seen & SINGLETONS != 0 || !fits {
                break;
            }
            seen |= name.bit();
            let (value, value_end) = trim(rest, colon + 1, end);
            if name == HeaderName::ContentLength {
                self.read_content_length(rest.get(value..value_end).unwrap_or_default());
            }
            self.push(Entry {
                name,
                start: at as u32,
                name_end: (at + colon) as u32,
                value: (at + value) as u32,
                value_end: (at + value_end) as u32,
                end: next as u32,
            });
            at = next;
        }
        (self.line, self.searched, self.seen) = (at, at, seen);
    }

    fn push(&mut self, entry: Entry) {
        if self.entries.capacity() == 0 {
            self.entries = Vec::with_capacity(24);
        }
        self.entries.push(entry);
    }

    /// The next line without its CRLF, when its first control character is that CR, as mostly.
    fn clean_line<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        // What was searched before is not searched again, and may have held anything.
        if self.searched != self.line {
            return None;
        }
        let line = bytes.get(self.line..)?;
        let end = first_control(line)?;
        if line.get(end..end + 2)? == b"\r\n" { line.get(..end) } else { None }
    }

    /// The next line without its CRLF, whatever it holds; `None` when its end is not there yet.
    fn any_line<'b>(
        &mut self,
        bytes: &'b [u8],
        limits: &Limits,
    ) -> Result<Option<&'b [u8]>, Fault> {
        let Some(offset) = memchr::memchr(b'\n', bytes.get(self.searched..).unwrap_or(&[])) else {
            self.searched = bytes.len();
            self.check_length(bytes.len(), limits)?;
            return Ok(None);
        };
        let newline = self.searched + offset;
        self.check_length(newline, limits)?;
        let line = bytes
            .get(self.line..newline)
            .and_then(|line| line.strip_suffix(b"\r"))
            .ok_or(Fault::BareLineEnd)?;
        if let Err(fault) = check_characters(line) {
            self.quoted_pairs(bytes, self.line, newline - 1, fault)?;
        }
        Ok(Some(line))
    }

    /// One past the last whole line.
    pub(super) fn lines_end(&self) -> usize {
        self.line
    }

    fn check_length(&self, reached: usize, limits: &Limits) -> Result<(), Fault> {
        if reached > limits.head.min(MAX_OFFSET) {
            Err(Fault::HeadTooLong)
        } else if reached - self.line > limits.line {
            Err(Fault::LineTooLong)
        } else {
            Ok(())
        }
    }

    /// A line with control characters: each must be the second half of a quoted pair. Goes on where
    /// it stopped in a folded header, so that many folds cost what their bytes cost.
    fn quoted_pairs(
        &mut self,
        bytes: &[u8],
        start: usize,
        end: usize,
        fault: Fault,
    ) -> Result<(), Fault> {
        if fault != Fault::ControlCharacter || matches!(self.start, Start::None) {
            return Err(fault);
        }
        let folded = matches!(bytes.get(start), Some(b' ' | b'\t'));
        let header = match self.entries.last() {
            Some(entry) if folded => entry.start as usize,
            _ => start,
        };
        let (mut at, mut quoted) =
            if self.quotes.0 > header { self.quotes } else { (header, false) };
        while at < end {
            match (bytes[at], bytes.get(at + 1)) {
                // What is escaped is skipped, but for the line end of a fold.
                (b'\\', Some(next)) if quoted && !matches!(next, b'\r' | b'\n') => at += 1,
                (b'"', _) => quoted = !quoted,
                (b'\r' | b'\n' | b'\t', _) => {}
                (b, _) if b < 0x20 || b == 0x7f => return Err(fault),
                _ => {}
            }
            at += 1;
        }
        self.quotes = (at, quoted);
        Ok(())
    }

    fn note(&mut self, fault: Fault) {
        let length = HeaderName::ContentLength;
        self.endless |= fault == Fault::ContentLength || fault == Fault::Duplicate(length);
        self.fault.get_or_insert(fault);
    }

    fn start_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        if line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"SIP/") {
            return self.status_line(line);
        }
        let method_end = line.iter().position(|b| *b == b' ').ok_or(Fault::StartLine)?;
        let method = &line[..method_end];
        if method.is_empty() || method.len() > MAX_METHOD || !all(method, TOKEN) {
            return Err(Fault::StartLine);
        }
        let uri = method_end + 1;
        let rest = &line[uri..];
        let space = memchr::memrchr(b' ', rest).ok_or(Fault::StartLine)?;
        let (target, version) = (&rest[..space], &rest[space + 1..]);
        if !version.get(..4).is_some_and(|v| v.eq_ignore_ascii_case(b"SIP/")) {
            self.note(Fault::StartLine);
            self.endless = true;
        } else if &version[4..] != b"2.0" {
            self.note(Fault::Version);
            self.endless = true;
        }
        if target.is_empty() || target.iter().any(|b| matches!(b, b' ' | b'\t')) {
            self.note(Fault::StartLine);
        }
        self.start = Start::Request {
            method: Method::named(method),
            method_end: offset32(method_end),
            uri: offset32(uri),
            uri_end: offset32(uri + space),
        };
        Ok(())
    }

    fn status_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let rest = line[4..].strip_prefix(b"2.0 ").ok_or(Fault::Version)?;
        let (code, reason) = rest.split_at_checked(3).ok_or(Fault::StartLine)?;
        if !code.iter().all(u8::is_ascii_digit) || !(reason.is_empty() || reason[0] == b' ') {
            return Err(Fault::StartLine);
        }
        let status = code.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0'));
        if !(100..700).contains(&status) {
            return Err(Fault::StartLine);
        }
        self.start = Start::Response {
            status,
            reason: offset32((line.len() - reason.len() + 1).min(line.len())),
            reason_end: offset32(line.len()),
        };
        Ok(())
    }

    fn header(&mut self, line: &[u8], at: usize, limits: &Limits) -> Result<(), Fault> {
        if self.entries.len() >= limits.headers {
            return Err(Fault::TooManyHeaders);
        }
        let (known, name_end, colon) = any_name(line)?;
        let (value, value_end) = trim(line, colon + 1, line.len());
        self.push(Entry {
            name: known,
            start: offset32(at),
            name_end: offset32(at + name_end),
            value: offset32(at + value),
            value_end: offset32(at + value_end),
            end: offset32(at + line.len() + 2),
        });
        if self.seen & SINGLETONS & known.bit() != 0 {
            self.note(Fault::Duplicate(known));
        }
        self.seen |= known.bit();
        if known == HeaderName::ContentLength {
            self.read_content_length(line.get(value..value_end).unwrap_or_default());
        }
        Ok(())
    }

    fn fold(&mut self, bytes: &[u8], end: usize) -> Result<(), Fault> {
        let Some(entry) = self.entries.last_mut() else { return Err(Fault::Folding) };
        // Only the new line is looked at: a header of many folds costs what its bytes cost.
        let (start, line_end) = trim(bytes, entry.end as usize, end);
        // Some parsers take a line of white space for the end of the head.
        if start == line_end {
            return Err(Fault::Folding);
        }
        if entry.value == entry.value_end {
            entry.value = offset32(start);
        }
        entry.value_end = offset32(line_end);
        entry.end = offset32(end);
        let (name, value) = (entry.name, entry.value as usize..line_end);
        self.folded = true;
        if name == HeaderName::ContentLength {
            self.read_content_length(bytes.get(value).unwrap_or(&[]));
        }
        Ok(())
    }

    fn read_content_length(&mut self, value: &[u8]) {
        // An empty value may go on in a folded line; `finish` looks whether a number came.
        if value.is_empty() {
            return;
        }
        match number(value) {
            Some(length) => self.content_length = Some(length as usize),
            None => self.note(Fault::ContentLength),
        }
    }

    fn finish(&mut self) -> Result<(), Fault> {
        if matches!(self.start, Start::None) {
            return Err(Fault::StartLine);
        }
        const REQUIRED: [HeaderName; 5] = [
            HeaderName::Via,
            HeaderName::From,
            HeaderName::To,
            HeaderName::CallId,
            HeaderName::CSeq,
        ];
        if self.seen & set(&REQUIRED) != set(&REQUIRED) {
            for name in REQUIRED {
                if self.seen & name.bit() == 0 {
                    self.note(Fault::Missing(name));
                }
            }
        }
        if self.content_length.is_none() && self.seen & HeaderName::ContentLength.bit() != 0 {
            self.note(Fault::ContentLength);
        }
        Ok(())
    }
}

/// The name that a line begins with, and where its colon is, when it is a short token with the
/// colon right behind it: no line ends before that.
#[inline]
fn short_name(rest: &[u8]) -> Option<(HeaderName, usize)> {
    let chunk: &[u8; SHORT] = rest.first_chunk()?;
    let colon = equal(chunk, b':').trailing_zeros() as usize;
    let name = HeaderName::from_chunk(chunk, colon);
    // The names that we know are tokens.
    let token = name != HeaderName::Other
        || chunk.get(..colon).is_some_and(|name| !name.is_empty() && all(name, TOKEN));
    token.then_some((name, colon))
}

/// Any name, where it ends, and where its colon is.
fn any_name(line: &[u8]) -> Result<(HeaderName, usize, usize), Fault> {
    let name_end = line.iter().position(|b| !is_token(*b)).ok_or(Fault::HeaderLine)?;
    let (name, rest) = line.split_at(name_end);
    let spaces = rest.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(rest.len());
    if name.is_empty() || rest.get(spaces) != Some(&b':') {
        return Err(Fault::HeaderLine);
    }
    Ok((HeaderName::from_token(name), name_end, name_end + spaces))
}

/// Heads end before this, whatever their limit: offsets fit.
const MAX_OFFSET: usize = u32::MAX as usize - 2;

fn offset32(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

/// The range without white space (and, in a folded value, line ends) around it.
pub(super) fn trim(bytes: &[u8], start: usize, end: usize) -> (usize, usize) {
    let (mut start, mut end) = (start, end.min(bytes.len()));
    while start < end && bytes[start].is_ascii_whitespace() {
        start += 1;
    }
    while start < end && bytes[end - 1].is_ascii_whitespace() {
        end -= 1;
    }
    (start, end.max(start))
}

/// Decimal digits: a number of at most ten, and any zeros before it.
pub(super) fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = text.iter().take_while(|digit| **digit == b'0').count();
    let text = if text.len() > 10 { text.get(zeros..)? } else { text };
    if text.len() > 10 {
        return None;
    }
    let value = text.iter().fold(0u64, |n, digit| n * 10 + u64::from(digit - b'0'));
    u32::try_from(value).ok()
}

/// No control character but the tab.
fn check_characters(line: &[u8]) -> Result<(), Fault> {
    match is_clean(line) {
        true => Ok(()),
        false if line.contains(&b'\r') => Err(Fault::BareLineEnd),
        false => Err(Fault::ControlCharacter),
    }
}
