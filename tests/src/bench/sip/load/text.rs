//! The generator's messages: as small a reading and writing of SIP as one known dialogue needs.

use std::{io::Write as _, net::SocketAddr};

use memchr::memmem;

/// The caller's domain: the partner's.
pub const CALLER: &str = "fabrikam.example";
/// The callee's domain: ours.
pub const CALLEE: &str = "contoso.example";

/// Description of the caller's media, as a phone sends it.
const OFFER: &str = "v=0\r\no=alice 53655765 2353687637 IN IP4 203.0.113.1\r\ns=-\r\n\
    c=IN IP4 203.0.113.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\n";
const ANSWER: &str = "v=0\r\no=bob 53655765 2353687637 IN IP4 10.1.0.20\r\ns=-\r\n\
    c=IN IP4 10.1.0.20\r\nt=0 0\r\nm=audio 40002 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n";
const WORDS: &str = "The quick brown fox jumps over the lazy dog while the phones ring.";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// INVITE, 180, 200, ACK, BYE, 200.
    Call,
    /// INVITE, 180, 200, ACK: the dialog stays.
    Dialog,
    /// MESSAGE, 200.
    Message,
    /// OPTIONS, 200.
    Options,
}

impl Scenario {
    /// Messages that the proxy receives for one of these.
    pub const fn messages(self) -> u64 {
        match self {
            Scenario::Call => 6,
            Scenario::Dialog => 4,
            Scenario::Message | Scenario::Options => 2,
        }
    }

    const fn method(self) -> &'static str {
        match self {
            Scenario::Call | Scenario::Dialog => "INVITE",
            Scenario::Message => "MESSAGE",
            Scenario::Options => "OPTIONS",
        }
    }
}

/// Which call a message is of: its number and its run.
pub type Number = (u32, u32);

/// Writes the first request of a call, sent `from` there.
pub fn request(out: &mut Vec<u8>, scenario: Scenario, (call, run): Number, from: SocketAddr) {
    let method = scenario.method();
    let (about, body) = match scenario {
        Scenario::Call | Scenario::Dialog => (
            "Contact: <sip:alice@203.0.113.1:5061;transport=tls>\r\nSupported: timer, 100rel\r\n\
             User-Agent: bench/1.0\r\nContent-Type: application/sdp\r\n",
            OFFER,
        ),
        Scenario::Message => ("User-Agent: bench/1.0\r\nContent-Type: text/plain\r\n", WORDS),
        Scenario::Options => {
            ("Contact: <sip:alice@203.0.113.1:5061;transport=tls>\r\nAccept: */*\r\n", "")
        }
    };
    let _ = write!(
        out,
        "{method} sip:bob@{CALLEE} SIP/2.0\r\n\
         Via: SIP/2.0/TLS {from};branch=z9hG4bK{run}i{call}\r\n\
         Max-Forwards: 70\r\n\
         From: \"Alice\" <sip:alice@{CALLER}>;tag={run}t{call}\r\n\
         To: \"Bob\" <sip:bob@{CALLEE}>\r\n\
         Call-ID: {call}x{run}@203.0.113.1\r\n\
         CSeq: 1 {method}\r\n{about}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// Writes ACK and, where asked, BYE to an INVITE's 200.
pub fn inside_dialog(
    out: &mut Vec<u8>,
    answer: &[u8],
    (call, run): Number,
    from: SocketAddr,
    bye: bool,
) {
    let (mut to, mut contact, mut routes) = (&b""[..], &b""[..], Vec::new());
    for line in lines(answer) {
        if let Some(value) = value(line, b"To") {
            to = value;
        } else if let Some(value) = value(line, b"Contact") {
            contact = inner(value);
        } else if let Some(value) = value(line, b"Record-Route") {
            routes.extend(elements(value));
        }
    }
    for (method, number) in [("ACK", 1), ("BYE", 2)].into_iter().take(1 + usize::from(bye)) {
        let _ = write!(out, "{method} ");
        out.extend_from_slice(contact);
        let _ = write!(
            out,
            " SIP/2.0\r\nVia: SIP/2.0/TLS {from};branch=z9hG4bK{run}{method}{call}\r\n"
        );
        for route in routes.iter().rev() {
            out.extend_from_slice(b"Route: ");
            out.extend_from_slice(route);
            out.extend_from_slice(b"\r\n");
        }
        let _ = write!(
            out,
            "Max-Forwards: 70\r\nFrom: \"Alice\" <sip:alice@{CALLER}>;tag={run}t{call}\r\nTo: "
        );
        out.extend_from_slice(to);
        let _ = write!(
            out,
            "\r\nCall-ID: {call}x{run}@203.0.113.1\r\nCSeq: {number} {method}\r\n\
             Content-Length: 0\r\n\r\n"
        );
    }
}

/// Writes the callee's answers to a request: one of them, or 180 and 200 to an INVITE. The
/// number of messages written; `each` is told where each ends.
pub fn answers(out: &mut Vec<u8>, request: &[u8], contact: &str, mut each: impl FnMut(usize)) {
    if request.starts_with(b"ACK ") {
        return;
    }
    let invite = request.starts_with(b"INVITE ");
    if invite {
        answer(out, request, "180 Ringing", contact, "");
        each(out.len());
    }
    answer(out, request, "200 OK", if invite { contact } else { "" }, ANSWER);
    each(out.len());
}

fn answer(out: &mut Vec<u8>, request: &[u8], status: &str, contact: &str, body: &str) {
    let _ = write!(out, "SIP/2.0 {status}\r\n");
    for line in lines(request) {
        let copied = [&b"Via"[..], b"Record-Route", b"From", b"Call-ID", b"CSeq"];
        if copied.iter().any(|name| value(line, name).is_some()) {
            out.extend_from_slice(line);
        } else if value(line, b"To").is_some() {
            out.extend_from_slice(line);
            if memmem::find(line, b";tag=").is_none() {
                out.extend_from_slice(b";tag=callee");
            }
        } else {
            continue;
        }
        out.extend_from_slice(b"\r\n");
    }
    if contact.is_empty() {
        out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
        return;
    }
    let _ = write!(out, "Contact: <{contact}>\r\n");
    if !body.is_empty() {
        out.extend_from_slice(b"Content-Type: application/sdp\r\n");
    }
    let _ = write!(out, "Content-Length: {}\r\n\r\n{body}", body.len());
}

/// Length of the first message in a stream's bytes, when it is there whole.
pub fn first_message(bytes: &[u8]) -> Option<usize> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let length = after(&bytes[..head], b"\r\nContent-Length:").map_or(0, number);
    (bytes.len() >= head + length).then_some(head + length)
}

/// A response's status; nothing for a request.
pub fn status(message: &[u8]) -> Option<u16> {
    let code = message.strip_prefix(b"SIP/2.0 ")?.get(..3)?;
    Some(number(code) as u16)
}

/// Which call it is of.
pub fn call(message: &[u8]) -> Option<Number> {
    let id = after(message, b"\r\nCall-ID:")?;
    let run = &id[id.iter().position(|byte| *byte == b'x')? + 1..];
    Some((number(id) as u32, number(run) as u32))
}

/// Whether it answers a BYE.
pub fn is_of_bye(message: &[u8]) -> bool {
    after(message, b"\r\nCSeq:").is_some_and(|value| value.trim_ascii_start().starts_with(b"2 "))
}

fn after<'a>(message: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    Some(&message[memmem::find(message, name)? + name.len()..])
}

/// The number that a value begins with.
fn number(value: &[u8]) -> usize {
    let digits = value.trim_ascii_start().iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
}

/// Lines of the head after the first, without their ends.
fn lines(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let end = memmem::find(rest, b"\r\n")?;
        let line = &rest[..end];
        rest = &rest[end + 2..];
        Some(line)
    })
    .skip(1)
    .take_while(|line| !line.is_empty())
}

fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.get(name.len()..)?.strip_prefix(b":")?;
    line[..name.len()].eq_ignore_ascii_case(name).then(|| rest.trim_ascii())
}

/// What stands between < and >.
fn inner(value: &[u8]) -> &[u8] {
    let begin = value.iter().position(|byte| *byte == b'<').map_or(0, |at| at + 1);
    let end = value.iter().position(|byte| *byte == b'>').unwrap_or(value.len());
    value.get(begin..end).unwrap_or_default()
}

/// `<a>, <b>` in its parts.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_played_to_its_end() {
        let mut invite = Vec::new();
        let from = "203.0.113.1:4000".parse().unwrap();
        request(&mut invite, Scenario::Call, (7, 3), from);
        assert_eq!(first_message(&invite), Some(invite.len()));
        assert_eq!(first_message(&invite[..invite.len() - 1]), None);
        assert_eq!(call(&invite), Some((7, 3)));
        assert_eq!(status(&invite), None);
        let text = String::from_utf8(invite).unwrap();
        let routed = text.replace("\r\nFrom", "\r\nRecord-Route: <sip:b;lr>, <sip:a;lr>\r\nFrom");
        let (mut out, mut ends) = (Vec::new(), Vec::new());
        answers(&mut out, routed.as_bytes(), "sip:bob@10.1.0.20:5081", |end| ends.push(end));
        assert_eq!(first_message(&out), Some(ends[0]));
        let ok = &out[ends[0]..];
        assert_eq!(status(&out), Some(180));
        assert_eq!((status(ok), first_message(ok)), (Some(200), Some(ok.len())));
        assert!(!is_of_bye(ok));
        let mut rest = Vec::new();
        inside_dialog(&mut rest, ok, (7, 3), from, true);
        let text = String::from_utf8(rest).unwrap();
        assert!(text.starts_with("ACK sip:bob@10.1.0.20:5081 SIP/2.0\r\n"), "{text}");
        assert!(text.contains("Route: <sip:a;lr>\r\nRoute: <sip:b;lr>\r\n"), "{text}");
        assert!(text.contains("\r\nBYE ") || text.contains("\n\r\nBYE "), "{text}");
        assert_eq!(text.matches(";tag=callee").count(), 2);
    }
}
