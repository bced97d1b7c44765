//! Finds every session description in a message's body, and puts changed ones in their places.
//!
//! | what | document |
//! | --- | --- |
//! | `application/sdp` | RFC 8866 section 8.1 |
//! | parts, boundaries, their headers | RFC 2045, RFC 2046 section 5.1 |
//! | bodies of several parts in SIP | RFC 5621 |
//! | two descriptions in one `multipart/alternative` | Lync's `ms-proxy-2007fallback` |
//!
//! What is decided about a call rests on all descriptions of a message, so nothing here skips what
//! it cannot read: an encoded or encrypted part, a boundary that two readers could see in two
//! places, a part that does not end, are faults. Only bounds of this module's own are counted, and
//! no part is copied.

mod parts;

#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::Bytes;

use crate::sip::{HeaderName, Message};

/// Multipart within multipart, at most.
const MAX_DEPTH: u8 = 2;
/// Parts of a body, in all depths.
const MAX_PARTS: usize = 32;
/// Session descriptions of a body.
const MAX_DESCRIPTIONS: usize = 4;

/// Why the descriptions of a body cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// A body and no Content-Type, or two.
    #[error("a body has one Content-Type")]
    NoType,
    /// A Content-Type that cannot be read.
    #[error("a bad Content-Type")]
    Type,
    /// A boundary that RFC 2046 does not have, or none.
    #[error("multipart without a good boundary")]
    Boundary,
    /// A line that begins with the boundary, and goes on.
    #[error("a line that may be a boundary and may be none")]
    DoubtfulBoundary,
    /// The last boundary is missing.
    #[error("a part that does not end")]
    Unfinished,
    /// More depth than the bound.
    #[error("multipart within multipart within multipart")]
    TooDeep,
    /// More parts than the bound.
    #[error("too many parts")]
    TooManyParts,
    /// More descriptions than the bound.
    #[error("too many session descriptions")]
    TooManyDescriptions,
    /// A description, or what may hold one, that is compressed, encoded or encrypted.
    #[error("a session description that is encoded or encrypted")]
    Hidden,
    /// A part's header that cannot be read, or stands twice.
    #[error("a part with a bad header")]
    PartHeader,
    /// A part whose Content-Length is another than its own.
    #[error("a part with a wrong Content-Length")]
    Length,
    /// Not as many new descriptions as there were.
    #[error("not as many new session descriptions as there were")]
    Count,
}

/// What a body holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptions {
    /// Where each session description stands in the body, in order.
    pub sdp: Vec<Range<usize>>,
    /// A part offers a file as Lync (`application/ms-filetransfer+xml`) or Communicator
    /// (`text/x-msmsgsinvite`) does: the data m-lines beside it are for it.
    pub file_transfer: bool,
    /// A part has candidates of ICE and no description (`application/trickle-ice-sdpfrag`, RFC
    /// 8840).
    pub fragment: bool,
    /// Lengths that parts state: where, and of which bytes. Outer ones first.
    lengths: Vec<(Range<usize>, Range<usize>)>,
    parts: usize,
}

/// Finds the session descriptions of a message.
pub fn descriptions(message: &Message) -> Result<Descriptions, BodyFault> {
    let body = message.body();
    if body.is_empty() {
        return Ok(Descriptions::default());
    }
    let mut types = message.headers(HeaderName::ContentType);
    let (Some(kind), None) = (types.next(), types.next()) else { return Err(BodyFault::NoType) };
    let identity = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(b"identity");
    let encoded = message.headers(HeaderName::ContentEncoding).any(|h| !identity(h.value))
        || message.headers_named("Content-Transfer-Encoding").any(|h| !parts::is_plain(h.value));
    of(kind.value, encoded, body)
}

/// Finds the session descriptions of a body of this Content-Type.
pub fn of(kind: &[u8], encoded: bool, body: &[u8]) -> Result<Descriptions, BodyFault> {
    let mut found = Descriptions::default();
    parts::part(&mut found, kind, encoded, body, 0..body.len(), 0)?;
    Ok(found)
}

impl Descriptions {
    /// The body with other descriptions, one for each that was found. Every other byte is kept, but
    /// for the lengths that parts state.
    pub fn replace(&self, body: &[u8], new: &[Bytes]) -> Result<Bytes, BodyFault> {
        if new.len() != self.sdp.len() {
            return Err(BodyFault::Count);
        }
        let mut edits: Vec<(Range<usize>, Bytes)> =
            self.sdp.iter().cloned().zip(new.iter().cloned()).collect();
        // From the inside out: a length's own digits count for the part around it.
        for (digits, region) in self.lengths.iter().rev() {
            let inside = |at: &Range<usize>| region.start <= at.start && at.end <= region.end;
            let length = edits
                .iter()
                .filter(|(at, _)| inside(at))
                .fold(region.len(), |length, (at, text)| length + text.len() - at.len());
            edits.push((digits.clone(), Bytes::from(length.to_string())));
        }
        edits.sort_by_key(|(at, _)| at.start);
        let more: usize = edits.iter().map(|(_, text)| text.len()).sum();
        let mut out = Vec::with_capacity(body.len() + more);
        let mut done = 0;
        for (at, text) in &edits {
            out.extend_from_slice(body.get(done..at.start).unwrap_or_default());
            out.extend_from_slice(text);
            done = at.end;
        }
        out.extend_from_slice(body.get(done..).unwrap_or_default());
        Ok(Bytes::from(out))
    }
}
