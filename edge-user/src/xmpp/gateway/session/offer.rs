//! What an INVITE offers: messages within the dialog (`m=message 5060 sip null`), as Lync and Live
//! Communications Server (`m=x-ms-message`) write it.

use bytes::Bytes;

use crate::{
    media::{
        body,
        sdp::{MediaKind, Sdp, SdpBounds, Transport},
    },
    sip::{HeaderName, Message},
    xmpp::gateway::{address::Party, content},
};

/// The type of a session description.
pub const SDP: &str = "application/sdp";
/// What is taken in a session.
const TYPES: &str = "text/plain text/html multipart/alternative application/im-iscomposing+xml";

/// An offer that can be taken.
#[derive(Debug)]
pub struct Offer {
    /// Each m-line's words, and whether it is taken.
    media: Vec<(String, bool)>,
    /// The other end takes isComposing.
    pub is_composing: bool,
}

impl Offer {
    /// Of a request; `None`: nothing in it that can be taken (488).
    pub fn of(request: &Message) -> Option<Self> {
        let found = body::descriptions(request).ok()?;
        let text = found.sdp.first().and_then(|range| request.body().get(range.clone()))?;
        let sdp = Sdp::parse(Bytes::copy_from_slice(text), &SdpBounds::default()).ok()?;
        let lines: Vec<&str> = std::str::from_utf8(text).ok()?.lines().map(str::trim_end).collect();
        let words = lines.iter().filter_map(|line| line.strip_prefix("m="));
        let mut taken = false;
        let mut media = Vec::new();
        for (words, line) in words.zip(sdp.media()) {
            let fits =
                line.kind == MediaKind::Message && line.protocol == Transport::Sip && line.is_on();
            media.push((words.to_owned(), fits && !taken));
            taken |= fits;
        }
        taken.then_some(Self { media, is_composing: lines_take_is_composing(&lines) })
    }

    /// The answer: the messages are taken, everything else is not.
    pub fn answer(&self, user: &Party) -> Vec<u8> {
        let mut sdp = head();
        for (words, taken) in &self.media {
            let mut words = words.split_ascii_whitespace();
            let name = words.next().unwrap_or("message");
            let rest: Vec<&str> = words.skip(1).collect();
            match taken {
                true => push_message(&mut sdp, name, user.sip.as_ref()),
                false => sdp.push_str(&format!("m={name} 0 {}\r\n", rest.join(" "))),
            }
        }
        sdp.into_bytes()
    }
}

fn lines_take_is_composing(lines: &[&str]) -> bool {
    let mut types = lines
        .iter()
        .filter_map(|line| line.strip_prefix("a=accept-types:"))
        .flat_map(|types| types.split(' '));
    types.any(|kind| kind == "*" || content::media_type(kind).0 == "application/im-iscomposing+xml")
}

/// Whether the answer to an offer of ours takes isComposing.
pub fn takes_is_composing(answer: &Message) -> bool {
    let Ok(found) = body::descriptions(answer) else { return false };
    let text = found.sdp.first().and_then(|range| answer.body().get(range.clone()));
    let text = text.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    lines_take_is_composing(&text.lines().map(str::trim_end).collect::<Vec<_>>())
}

/// An offer of ours.
pub fn offer() -> Vec<u8> {
    let mut sdp = head();
    push_message(&mut sdp, "message", "null");
    sdp.into_bytes()
}

fn head() -> String {
    // There is no media, so there is no address.
    "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=session\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n".to_owned()
}

fn push_message(sdp: &mut String, name: &str, format: &str) {
    sdp.push_str(&format!("m={name} 5060 sip {format}\r\na=accept-types:{TYPES}\r\n"));
}

/// The first message, which Lync puts into the INVITE: `ms-text-format: type;...;ms-body=base64`.
pub fn first_message(request: &Message) -> Option<String> {
    let header = request.headers_named("ms-text-format").next()?;
    let header = std::str::from_utf8(header.value).ok()?;
    let body = header.split(';').find_map(|part| part.trim().strip_prefix("ms-body="))?;
    let kind: Vec<&str> =
        header.split(';').filter(|part| !part.trim().starts_with("ms-body=")).collect();
    let text = content::text_of(&kind.join(";"), &base64(body)?)?;
    (!text.is_empty()).then_some(text)
}

/// Whether an INVITE has any body but a description that is not one.
pub fn has_none(request: &Message) -> bool {
    request.body().is_empty() || request.header(HeaderName::ContentType).is_none()
}

/// RFC 4648 section 4; padding may be missing.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for b in text.trim_end_matches('=').bytes() {
        let value = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("SGk=", Some(b"Hi")),
            ("SGk", Some(b"Hi")),
            ("SGVsbG8h", Some(b"Hello!")),
            ("/+8=", Some(b"\xff\xef")),
            ("a b", None),
            ("\u{fc}", None),
        ] {
            assert_eq!(base64(text).as_deref(), bytes, "{text}");
        }
    }
}
