//! Another body, and what is said of its length.

use bytes::Bytes;

use crate::sip::{ForwardRequest, ForwardResponse, HeaderName, Limits, Message};

const VIA: &str = "SIP/2.0/TLS edge.contoso.example;branch=z9hG4bKx";

/// The line that says how long the body is, before and after.
const LENGTHS: [(&str, &str); 4] = [
    ("Content-Length: 4\r\n", "Content-Length: 11\r\n"),
    ("l:  4\r\n", "l:  11\r\n"),
    ("X: y\r\nl: 4\r\nY: z\r\n", "X: y\r\nl: 11\r\nY: z\r\n"),
    ("", "Content-Length: 11\r\n"),
];

fn datagram(text: &str) -> Message {
    Message::parse_datagram(Bytes::copy_from_slice(text.as_bytes()), &Limits::default()).unwrap()
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn head(start: &str, vias: &str, length: &str) -> String {
    format!(
        "{start}\r\n{vias}From: <sip:a@b.example>;tag=1\r\nTo: <sip:b@c.example>\r\nCall-ID: 1\r\n\
         CSeq: 1 INVITE\r\nMax-Forwards: 9\r\n{length}"
    )
}

#[test]
fn a_request_takes_another_body_with_its_length() {
    let start = "INVITE sip:b@c.example SIP/2.0";
    let theirs = "Via: SIP/2.0/TLS a.example;branch=z9hG4bK1\r\n";
    for (before, after) in LENGTHS {
        let request = datagram(&format!("{}\r\nv=0\n", head(start, theirs, before)));
        let expected = head(start, &format!("Via: {VIA}\r\n{theirs}"), after);
        for body in ["longer body", "", "v=0\n"] {
            let mut forward = ForwardRequest::new(VIA, 9);
            forward.body = Some(body.as_bytes());
            let sent = forward.apply(&request).unwrap();
            let expected = expected.replace("11\r\n", &format!("{}\r\n", body.len()));
            assert_eq!(text(&sent), format!("{expected}\r\n{body}"));
        }
    }
}

#[test]
fn a_response_takes_another_body_with_its_length() {
    let theirs = "v: SIP/2.0/TLS a.example;branch=z9hG4bK1\r\n";
    let both = format!("Via: {VIA}\r\n{theirs}");
    for (before, after) in LENGTHS {
        let response = datagram(&format!("{}\r\nv=0\n", head("SIP/2.0 200 OK", &both, before)));
        let forward = ForwardResponse { body: Some(b"longer body"), ..Default::default() };
        let sent = forward.apply(&response).unwrap();
        let expected = head("SIP/2.0 200 OK", theirs, after);
        assert_eq!(text(&sent), format!("{expected}\r\nlonger body"));
    }
}

#[test]
fn a_body_is_taken_out_with_what_says_what_it_is() {
    let both = format!("Via: {VIA}\r\nVia: SIP/2.0/TLS a.example\r\n");
    let kind = "c: application/sdp\r\nl: 4\r\n";
    let response = datagram(&format!("{}\r\nv=0\n", head("SIP/2.0 488 No", &both, kind)));
    let remove = [HeaderName::ContentType];
    let forward = ForwardResponse { remove: &remove, body: Some(b""), ..Default::default() };
    let sent = forward.apply(&response).unwrap();
    let expected = head("SIP/2.0 488 No", "Via: SIP/2.0/TLS a.example\r\n", "l: 0\r\n");
    assert_eq!(text(&sent), format!("{expected}\r\n"));
}
