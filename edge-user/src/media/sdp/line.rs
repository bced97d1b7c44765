//! A text's lines. Each ends with CRLF or LF; the last one may end with the text.

use super::{SdpBounds, SdpError, SdpFault};

/// One line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// Its letter; 0: an empty line at the end.
    pub kind: u8,
    /// Where it begins.
    pub start: u32,
    /// Where its value ends.
    pub end: u32,
    /// Where the next one begins.
    pub next: u32,
}

impl Line {
    /// Where its value begins.
    pub(super) fn value_start(&self) -> u32 {
        self.end.min(self.start + 2)
    }
}

/// The letters of RFC 8866 section 5.
const LETTERS: &[u8] = b"vosiuepcbtrzkam";

/// Cuts a text into lines.
pub(super) fn lines(text: &[u8], bounds: &SdpBounds) -> Result<Vec<Line>, SdpError> {
    if text.len() > bounds.bytes || u32::try_from(text.len()).is_err() {
        return Err(SdpError::whole(SdpFault::TooLong));
    }
    let mut lines = Vec::with_capacity(32);
    let (mut start, mut number) = (0, 0);
    let mut empty = None;
    while start < text.len() {
        if lines.len() >= bounds.lines {
            return Err(SdpError::at(number, SdpFault::TooManyLines));
        }
        let rest = text.get(start..).unwrap_or_default();
        let (mut end, next) = match memchr::memchr(b'\n', rest) {
            Some(feed) => (start + feed, start + feed + 1),
            None => (text.len(), text.len()),
        };
        if next > end && text.get(start..end).is_some_and(|line| line.ends_with(b"\r")) {
            end -= 1;
        }
        let line = text.get(start..end).unwrap_or_default();
        if line.iter().any(|b| matches!(b, 0..=8 | 10..=31 | 127)) {
            return Err(SdpError::at(number, SdpFault::Control));
        }
        if let (Some(empty), false) = (empty, line.is_empty()) {
            return Err(SdpError::at(empty, SdpFault::EmptyLine));
        }
        let kind = match line {
            [] => {
                empty = empty.or(Some(number));
                0
            }
            [letter, b'=', ..] if LETTERS.contains(letter) => *letter,
            [letter, b'=', ..] if letter.is_ascii_alphabetic() => {
                return Err(SdpError::at(number, SdpFault::UnknownType));
            }
            _ => return Err(SdpError::at(number, SdpFault::NoLine)),
        };
        lines.push(Line { kind, start: start as u32, end: end as u32, next: next as u32 });
        start = next;
        number += 1;
    }
    Ok(lines)
}

/// A number: digits only, without leading zeros, up to a bound.
pub(super) fn number(text: &[u8], most: u64) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || (text.len() > 1 && text.first() == Some(&b'0')) {
        return None;
    }
    text.iter()
        .try_fold(0u64, |sum, b| {
            let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
            sum.checked_mul(10)?.checked_add(digit)
        })
        .filter(|number| *number <= most)
}

/// A port, 0 included.
pub(super) fn port(text: &[u8]) -> Option<u16> {
    number(text, u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
}

/// Bytes of RFC 8866's `token`.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'{'..=b'~')
        })
}

/// Words between single spaces, with where they begin; spaces at the end do not count.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let text = text.trim_ascii_end();
    let mut at = 0;
    text.split(|b| *b == b' ').map(move |word| {
        let start = at;
        at += word.len() + 1;
        (start, word)
    })
}
