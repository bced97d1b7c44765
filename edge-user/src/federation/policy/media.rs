//! Whether a message asks for audio or video: an `m=audio` or `m=video` line with a port in a
//! session description (RFC 8866 section 5.14), alone or in a multipart body (RFC 2046).
//!
//! What cannot be read for what it is (an encoded part that says it is a session description)
//! counts as asking: the answer decides whether a right is needed.

use crate::sip::{HeaderName, Message};

/// Multipart within multipart, at most.
const MAX_DEPTH: u8 = 4;

/// Whether this message asks for audio or video.
pub fn asks(message: &Message) -> bool {
    let body = message.body();
    if body.is_empty() {
        return false;
    }
    let encoded = message
        .header(HeaderName::ContentEncoding)
        .is_some_and(|header| !header.value.trim_ascii().eq_ignore_ascii_case(b"identity"));
    match message.text(HeaderName::ContentType) {
        Some(kind) => part(kind, encoded, body, 0),
        // Nobody says what it is: it is read as what it could be.
        None => lines(body),
    }
}

fn part(kind: &str, encoded: bool, body: &[u8], depth: u8) -> bool {
    let essence = kind.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/sdp") {
        return encoded || lines(body);
    }
    let multipart = essence.get(..10).is_some_and(|head| head.eq_ignore_ascii_case("multipart/"));
    if !multipart {
        return false;
    }
    match boundary(kind) {
        Some(boundary) if depth < MAX_DEPTH && !encoded => {
            parts(body, boundary.as_bytes()).any(|(head, body)| {
                let kind = field(head, "content-type").unwrap_or("text/plain");
                let encoding = field(head, "content-transfer-encoding").unwrap_or("binary");
                let plain = ["7bit", "8bit", "binary"];
                let encoded = !plain.iter().any(|name| encoding.eq_ignore_ascii_case(name))
                    || field(head, "content-encoding").is_some();
                part(kind, encoded, body, depth + 1)
            })
        }
        _ => true,
    }
}

fn boundary(kind: &str) -> Option<&str> {
    kind.split(';').skip(1).find_map(|param| {
        let (name, value) = param.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim().eq_ignore_ascii_case("boundary") && !value.is_empty()).then_some(value)
    })
}

/// Head and body of each part.
fn parts<'b>(body: &'b [u8], boundary: &'b [u8]) -> impl Iterator<Item = (&'b [u8], &'b [u8])> {
    let mut starts = Vec::new();
    let mut at = 0;
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if line.strip_prefix(b"--").is_some_and(|rest| rest.starts_with(boundary)) {
            starts.push((at, at + line.len()));
        }
        at += line.len();
    }
    let ends: Vec<usize> =
        starts.iter().skip(1).map(|(begin, _)| *begin).chain([body.len()]).collect();
    starts.into_iter().zip(ends).filter_map(move |((_, from), to)| {
        let whole = body.get(from..to)?;
        let mut at = 0;
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            at += line.len();
            if line.trim_ascii().is_empty() {
                return whole.split_at_checked(at);
            }
        }
        Some((whole, &[]))
    })
}

/// A header field of a part.
fn field<'b>(head: &'b [u8], wanted: &str) -> Option<&'b str> {
    let head = std::str::from_utf8(head).ok()?;
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim())
    })
}

/// An `m=audio` or `m=video` line with a port that is not 0.
fn lines(body: &[u8]) -> bool {
    body.split(|byte| matches!(byte, b'\n' | b'\r')).any(|line| {
        let rest = line.strip_prefix(b"m=audio").or_else(|| line.strip_prefix(b"m=video"));
        let Some(rest) = rest.filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace))
        else {
            return false;
        };
        let rest = rest.trim_ascii_start();
        let port = rest.split(|b| b.is_ascii_whitespace() || *b == b'/').next().unwrap_or(rest);
        port.is_empty() || port.iter().any(|digit| *digit != b'0')
    })
}
