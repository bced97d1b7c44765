//! Parts: their Content-Type, their boundaries, their headers.

use std::ops::Range;

use super::{BodyFault, Descriptions, MAX_DEPTH, MAX_DESCRIPTIONS, MAX_PARTS};

/// Looks at one body or part: `at` is where it stands in the whole body.
pub(super) fn part(
    found: &mut Descriptions,
    kind: &[u8],
    encoded: bool,
    body: &[u8],
    at: Range<usize>,
    depth: u8,
) -> Result<(), BodyFault> {
    let kind = std::str::from_utf8(kind).map_err(|_| BodyFault::Type)?;
    let (essence, parameters) = kind.split_at(kind.find(';').unwrap_or(kind.len()));
    let (main, sub) = essence.split_once('/').ok_or(BodyFault::Type)?;
    let (main, sub) = (main.trim(), sub.trim());
    // `application/sdp charset=x` is a description to a reader who stops at the space.
    if !is_token(main) || !is_token(sub) {
        return Err(BodyFault::Type);
    }
    let is = |is_main: &str, is_sub: &str| {
        main.eq_ignore_ascii_case(is_main) && sub.eq_ignore_ascii_case(is_sub)
    };
    if is("application", "sdp") {
        if encoded {
            return Err(BodyFault::Hidden);
        }
        if found.sdp.len() >= MAX_DESCRIPTIONS {
            return Err(BodyFault::TooManyDescriptions);
        }
        found.sdp.push(at);
        return Ok(());
    }
    if is("application", "pkcs7-mime") || is("multipart", "encrypted") {
        return Err(BodyFault::Hidden);
    }
    found.file_transfer |= is("application", "ms-filetransfer+xml") || is("text", "x-msmsgsinvite");
    found.fragment |= sub.to_ascii_lowercase().ends_with("sdpfrag");
    if !main.eq_ignore_ascii_case("multipart") {
        return Ok(());
    }
    if encoded {
        return Err(BodyFault::Hidden);
    }
    if depth >= MAX_DEPTH {
        return Err(BodyFault::TooDeep);
    }
    let boundary = boundary(parameters)?;
    for whole in split(body, at, boundary.as_bytes())? {
        found.parts += 1;
        if found.parts > MAX_PARTS {
            return Err(BodyFault::TooManyParts);
        }
        let (head, content) = head_and_content(body, whole)?;
        let head = Head::read(body, head)?;
        if let Some(digits) = head.length {
            let stated = body.get(digits.clone()).unwrap_or_default();
            if stated != content.len().to_string().as_bytes() {
                return Err(BodyFault::Length);
            }
            found.lengths.push((digits, content.clone()));
        }
        // RFC 2046 section 5.1: text/plain, when nobody says.
        let kind = head.kind.unwrap_or(b"text/plain");
        part(found, kind, head.encoded, body, content, depth + 1)?;
    }
    Ok(())
}

/// RFC 2045 section 5.1 `token`.
fn is_token(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b);
    !text.is_empty() && text.bytes().all(fits)
}

/// A transfer encoding that changes nothing (RFC 2045 section 6.2).
pub(super) fn is_plain(value: &[u8]) -> bool {
    ["7bit", "8bit", "binary"]
        .iter()
        .any(|name| value.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

/// The boundary among the parameters; it stands there once.
fn boundary(parameters: &str) -> Result<&str, BodyFault> {
    let mut found = None;
    let mut rest = parameters;
    while let Some(text) = rest.trim_start().strip_prefix(';') {
        let (name, text) = match text.find(['=', ';']) {
            Some(end) => text.split_at(end),
            None => (text, ""),
        };
        let name = name.trim();
        let Some(text) = text.strip_prefix('=') else {
            rest = text;
            continue;
        };
        let text = text.trim_start();
        let value = match text.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"').ok_or(BodyFault::Type)?;
                let (value, after) = quoted.split_at(end);
                rest = after.strip_prefix('"').unwrap_or(after);
                value
            }
            None => {
                let (value, after) = text.split_at(text.find(';').unwrap_or(text.len()));
                rest = after;
                value.trim_end()
            }
        };
        if name.eq_ignore_ascii_case("boundary") && found.replace(value).is_some() {
            return Err(BodyFault::Boundary);
        }
    }
    if !rest.trim().is_empty() {
        return Err(BodyFault::Type);
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    found
        .filter(|text| (1..=70).contains(&text.len()) && !text.ends_with(' '))
        .filter(|text| text.bytes().all(good))
        .ok_or(BodyFault::Boundary)
}

/// Where the parts stand: from after one boundary's line to the line end before the next one,
/// which belongs to the boundary.
fn split(body: &[u8], at: Range<usize>, boundary: &[u8]) -> Result<Vec<Range<usize>>, BodyFault> {
    let mut parts = Vec::new();
    let mut open: Option<usize> = None;
    let mut start = at.start;
    let text = body.get(at.clone()).unwrap_or_default();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let (begin, next) = (start, start + line.len());
        start = next;
        let Some(rest) = line.strip_prefix(b"--").and_then(|rest| rest.strip_prefix(boundary))
        else {
            continue;
        };
        let last = rest.strip_prefix(b"--");
        if !last.unwrap_or(rest).trim_ascii().is_empty() {
            return Err(BodyFault::DoubtfulBoundary);
        }
        if let Some(from) = open.take() {
            let before = body.get(from..begin).unwrap_or_default();
            let cut = [&b"\r\n"[..], b"\n"].into_iter().find(|end| before.ends_with(end));
            parts.push(from..begin - cut.map_or(0, <[u8]>::len));
            if parts.len() > MAX_PARTS {
                return Err(BodyFault::TooManyParts);
            }
        }
        if last.is_some() {
            // What follows is for nobody (RFC 2046 section 5.1.1), but must not look like parts.
            let after = body.get(next..at.end).unwrap_or_default();
            return match again(after, boundary) {
                true => Err(BodyFault::DoubtfulBoundary),
                false => Ok(parts),
            };
        }
        open = Some(next);
    }
    Err(BodyFault::Unfinished)
}

/// Whether a boundary begins a line.
fn again(text: &[u8], boundary: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n')
        .any(|line| line.strip_prefix(b"--").is_some_and(|rest| rest.starts_with(boundary)))
}

/// A part's header lines, and what follows the empty line.
fn head_and_content(
    body: &[u8],
    whole: Range<usize>,
) -> Result<(Range<usize>, Range<usize>), BodyFault> {
    let mut at = whole.start;
    let text = body.get(whole.clone()).unwrap_or_default();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let next = at + line.len();
        if matches!(line, b"\r\n" | b"\n") {
            return Ok((whole.start..at, next..whole.end));
        }
        at = next;
    }
    if whole.is_empty() { Ok((whole.clone(), whole)) } else { Err(BodyFault::PartHeader) }
}

/// What a part says of itself.
#[derive(Default)]
struct Head<'b> {
    kind: Option<&'b [u8]>,
    encoded: bool,
    /// The digits of its Content-Length.
    length: Option<Range<usize>>,
}

impl<'b> Head<'b> {
    fn read(body: &'b [u8], at: Range<usize>) -> Result<Self, BodyFault> {
        let mut head = Self::default();
        let mut start = at.start;
        // Whether the line before is one that counts: then it may not be folded.
        let mut counts = false;
        for line in body.get(at).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            let begin = start;
            start += line.len();
            if line.starts_with(b" ") || line.starts_with(b"\t") {
                if counts {
                    return Err(BodyFault::PartHeader);
                }
                continue;
            }
            let line = line.trim_ascii_end();
            let colon = memchr::memchr(b':', line).ok_or(BodyFault::PartHeader)?;
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default();
            if line.iter().any(|b| matches!(b, 0 | b'\r')) {
                return Err(BodyFault::PartHeader);
            }
            counts = head.field(name.trim_ascii(), value, begin + line.len())?;
        }
        Ok(head)
    }

    /// One field, whose value ends at `end` in the body; whether it counts.
    fn field(&mut self, name: &[u8], value: &'b [u8], end: usize) -> Result<bool, BodyFault> {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        let value = value.trim_ascii();
        if is("Content-Type") || is("c") {
            return match self.kind.replace(value) {
                Some(_) => Err(BodyFault::PartHeader),
                None => Ok(true),
            };
        }
        if is("Content-Transfer-Encoding") {
            self.encoded |= !is_plain(value);
            return Ok(true);
        }
        if is("Content-Encoding") || is("e") {
            self.encoded |= !value.eq_ignore_ascii_case(b"identity");
            return Ok(true);
        }
        if is("Content-Length") || is("l") {
            return match self.length.replace(end - value.len()..end) {
                Some(_) => Err(BodyFault::PartHeader),
                None => Ok(true),
            };
        }
        Ok(false)
    }
}
