//! Changes to a message as a list over its original bytes: what is not named stays as it came,
//! byte for byte (RFC 3261 section 16.6: a proxy must not change what it need not).
//!
//! What is put in is checked: no control characters, so nothing that a caller copies from a
//! message can become a header of its own.

use std::ops::Range;

use bytes::Bytes;

use super::{
    class::is_token,
    header::HeaderName,
    message::{Element, Message},
    scan::is_clean,
};

/// Changes to one message. Texts put in at the same place keep the order of the calls.
#[derive(Debug)]
pub struct Edit<'m> {
    message: &'m Message,
    changes: Vec<Change>,
    /// The new texts, one after the other.
    texts: Vec<u8>,
    fault: Option<EditError>,
}

/// Bytes of the message that a text takes the place of.
#[derive(Clone, Debug)]
struct Change {
    at: Range<usize>,
    text: Range<usize>,
}

/// Why an edit cannot be done. Both are faults of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// Two changes touch the same bytes.
    #[error("two changes touch the same bytes")]
    Overlap,
    /// A header, a line or an element that the message does not have.
    #[error("no such place in the message")]
    NoSuchPlace,
    /// A text with a line end or another control character, or a bad header name.
    #[error("a header that would break the message")]
    Injection,
}

impl<'m> Edit<'m> {
    /// No changes yet.
    pub fn new(message: &'m Message) -> Self {
        Self {
            message,
            changes: Vec::with_capacity(12),
            texts: Vec::with_capacity(512),
            fault: None,
        }
    }

    fn refuse(&mut self, error: EditError) -> &mut Self {
        self.fault.get_or_insert(error);
        self
    }

    fn change(&mut self, at: Option<Range<usize>>, text: &[&[u8]]) -> &mut Self {
        let Some(at) = at else { return self.refuse(EditError::NoSuchPlace) };
        let start = self.texts.len();
        for part in text {
            self.texts.extend_from_slice(part);
        }
        let text = start..self.texts.len();
        self.changes.push(Change { at, text });
        self
    }

    fn value(&mut self, at: Option<Range<usize>>, value: &[u8]) -> &mut Self {
        if is_safe(value) { self.change(at, &[value]) } else { self.refuse(EditError::Injection) }
    }

    fn line(&mut self, at: Option<usize>, name: &str, value: &[u8]) -> &mut Self {
        if name.is_empty() || !name.bytes().all(is_token) || !is_safe(value) {
            return self.refuse(EditError::Injection);
        }
        self.change(at.map(|at| at..at), &[name.as_bytes(), b": ", value, b"\r\n"])
    }

    /// Puts another Request-URI in.
    pub fn request_uri(&mut self, uri: &str) -> &mut Self {
        if uri.is_empty() || !uri.bytes().all(|b| b.is_ascii_graphic()) {
            return self.refuse(EditError::Injection);
        }
        self.change(self.message.request_uri_range(), &[uri.as_bytes()])
    }

    /// A header line before all others.
    pub fn prepend(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        self.line(Some(self.message.headers_start()), name, value.as_ref())
    }

    /// A header line after all others.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        self.line(self.message.body_start().checked_sub(2), name, value.as_ref())
    }

    /// A header line before line `index` ([`super::Header::index`]).
    pub fn insert_before(
        &mut self,
        index: usize,
        name: &str,
        value: impl AsRef<[u8]>,
    ) -> &mut Self {
        self.line(self.message.line_range(index).map(|line| line.start), name, value.as_ref())
    }

    /// A header line after line `index`.
    pub fn insert_after(&mut self, index: usize, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        self.line(self.message.line_range(index).map(|line| line.end), name, value.as_ref())
    }

    /// Another value for line `index`.
    pub fn replace_value(&mut self, index: usize, value: impl AsRef<[u8]>) -> &mut Self {
        self.value(self.message.value_range(index), value.as_ref())
    }

    /// Another value for one element of a list.
    pub fn replace_element(&mut self, element: &Element<'_>, value: impl AsRef<[u8]>) -> &mut Self {
        self.value(Some(element.range.clone()), value.as_ref())
    }

    /// Sets a header that stands once: replaces its value, or appends it.
    pub fn set(&mut self, name: HeaderName, value: impl AsRef<[u8]>) -> &mut Self {
        match self.message.header(name) {
            Some(header) => self.replace_value(header.index, value),
            None => self.append(name.as_str(), value),
        }
    }

    /// Takes line `index` away.
    pub fn remove_line(&mut self, index: usize) -> &mut Self {
        self.change(self.message.line_range(index), &[])
    }

    /// Takes every line with a name away.
    pub fn remove(&mut self, name: HeaderName) -> &mut Self {
        let message = self.message;
        for header in message.headers(name) {
            self.remove_line(header.index);
        }
        self
    }

    /// Takes every line away that has a name which is no [`HeaderName`]; case does not matter.
    pub fn remove_named(&mut self, name: &str) -> &mut Self {
        let message = self.message;
        for header in message.headers_named(name) {
            self.remove_line(header.index);
        }
        self
    }

    /// Takes the first `count` elements of a list away, and the lines that become empty.
    pub fn remove_front(&mut self, name: HeaderName, count: usize) -> &mut Self {
        let message = self.message;
        let mut elements = message.list(name).peekable();
        let mut left = count;
        while left > 0 {
            let Some(first) = elements.next() else { return self.refuse(EditError::NoSuchPlace) };
            left -= 1;
            let mut rest = elements.next_if(|next| next.header == first.header);
            while left > 0 && rest.is_some() {
                left -= 1;
                rest = elements.next_if(|next| next.header == first.header);
            }
            match rest {
                None => self.remove_line(first.header),
                Some(rest) => self.change(Some(first.range.start..rest.range.start), &[]),
            };
        }
        self
    }

    /// Another body, with its Content-Length.
    pub fn body(&mut self, body: &[u8]) -> &mut Self {
        let length = body.len().to_string();
        self.set(HeaderName::ContentLength, length.as_bytes());
        let start = self.message.body_start();
        self.change(Some(start..self.message.bytes().len()), &[body])
    }

    /// The changed message.
    pub fn finish(&mut self) -> Result<Bytes, EditError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let source = self.message.bytes();
        if self.changes.is_empty() {
            return Ok(source.clone());
        }
        self.changes.sort_by_key(|change| (change.at.start, change.at.end));
        let mut out = Vec::with_capacity(source.len() + self.texts.len());
        let mut done = 0;
        for change in &self.changes {
            let kept = source.get(done..change.at.start).ok_or(EditError::Overlap)?;
            out.extend_from_slice(kept);
            out.extend_from_slice(self.texts.get(change.text.clone()).unwrap_or(&[]));
            done = change.at.end;
        }
        out.extend_from_slice(source.get(done..).ok_or(EditError::Overlap)?);
        Ok(Bytes::from(out))
    }
}

/// No control characters but the tab: what is put in stays on its line.
pub(super) fn is_safe(value: &[u8]) -> bool {
    is_clean(value)
}
