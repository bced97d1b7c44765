//! Messages as they come: the torture tests of RFC 4475 and RFC 5118, any chunking, any bytes.

mod body;
mod fuzz;
mod ipv6;
mod plain;
mod torture;
mod values;

use bytes::{Bytes, BytesMut};

use super::*;

pub(super) const INVITE: &str = "INVITE sip:bob@contoso.example SIP/2.0\r\n\
    Via: SIP/2.0/TLS sip.fabrikam.example:5061;branch=z9hG4bK1;rport, SIP/2.0/TCP \
    10.1.1.1;branch=z9hG4bK0\r\n\
    Max-Forwards: 70\r\n\
    Route: <sip:edge.contoso.example;lr>, <sip:other.example;lr>\r\n\
    From: \"Alice, A.\" <sip:alice@fabrikam.example>;tag=a1\r\n\
    To: <sip:bob@contoso.example>\r\n\
    Call-ID: 1@fabrikam.example\r\n\
    CSeq: 7 INVITE\r\n\
    X-Foreign:   kept , as is\t\r\n\
    Content-Length: 4\r\n\
    \r\n\
    v=0\n";

fn message(text: &str) -> Message {
    Message::parse_datagram(Bytes::copy_from_slice(text.as_bytes()), &Limits::default()).unwrap()
}

#[test]
fn a_request_is_read_and_forwarded_with_nothing_else_changed() {
    let invite = message(INVITE);
    invite.validate().unwrap();
    assert_eq!(invite.method(), Some(Method::Invite));
    assert_eq!(invite.via().unwrap().unique_branch(), Some("1"));
    assert_eq!(invite.from().unwrap().tag(), Some("a1"));
    assert_eq!(invite.max_forwards().unwrap(), Some(70));
    assert_eq!(invite.cseq().unwrap().number, 7);
    assert_eq!(invite.body(), b"v=0\n");
    let forward = ForwardRequest {
        received: Some(Received { address: "192.0.2.7".parse().unwrap(), port: 4711 }),
        record_routes: &["<sip:edge.contoso.example;lr>"],
        request_uri: Some("sip:bob@inside.example"),
        remove_routes: 1,
        ..ForwardRequest::new("SIP/2.0/TLS edge.contoso.example;branch=z9hG4bKx", 69)
    };
    let expected = INVITE
        .replace("sip:bob@contoso.example SIP", "sip:bob@inside.example SIP")
        .replace(
            "Via: SIP/2.0/TLS sip.fabrikam.example:5061;branch=z9hG4bK1;rport,",
            "Via: SIP/2.0/TLS edge.contoso.example;branch=z9hG4bKx\r\n\
             Record-Route: <sip:edge.contoso.example;lr>\r\n\
             Via: SIP/2.0/TLS sip.fabrikam.example:5061;branch=z9hG4bK1;received=192.0.2.7;\
             rport=4711,",
        )
        .replace("Max-Forwards: 70", "Max-Forwards: 69")
        .replace("<sip:edge.contoso.example;lr>, <sip:other", "<sip:other");
    let got = forward.apply(&invite).unwrap();
    assert_eq!(std::str::from_utf8(&got).unwrap(), expected);
}

#[test]
fn a_stream_is_cut_at_the_same_places_however_it_arrives() {
    let stream = format!("\r\n\r\n{INVITE}{INVITE}\r\n\r\n");
    for chunk in [1, 2, 3, 7, 64, stream.len()] {
        let mut framer = Framer::new(Limits::default());
        let mut buffer = BytesMut::new();
        let (mut messages, mut pings) = (0, 0);
        for part in stream.as_bytes().chunks(chunk) {
            buffer.extend_from_slice(part);
            while let Some(frame) = framer.next(&mut buffer).unwrap() {
                match frame {
                    Frame::Ping => pings += 1,
                    Frame::Message(message) => {
                        assert_eq!(message.bytes(), INVITE.as_bytes());
                        messages += 1;
                    }
                }
            }
        }
        assert_eq!((messages, pings), (2, 2), "chunks of {chunk}");
    }
}

#[test]
fn a_duplicate_singleton_is_refused_but_can_be_answered() {
    let text = INVITE.replace("CSeq:", "f: <sip:ceo@contoso.example>;tag=z\r\nCSeq:");
    let error =
        Message::parse_datagram(Bytes::from(text.into_bytes()), &Limits::default()).unwrap_err();
    assert_eq!(error.fault, Fault::Duplicate(HeaderName::From));
    let request = error.answerable().unwrap();
    let (status, reason) = error.fault.status();
    let response = build::response(
        request,
        &build::Response { to_tag: Some("t"), ..build::Response::new(status, reason) },
    )
    .unwrap();
    let response = message(std::str::from_utf8(&response).unwrap());
    assert_eq!(response.status(), Some(400));
    assert_eq!(response.to().unwrap().tag(), Some("t"));
    assert_eq!(response.list(HeaderName::Via).count(), 2);
}
