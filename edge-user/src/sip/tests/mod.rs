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
                    Frame::Faulty(error) => panic!("{error}"),
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

/// What is wrong with a message is no fault of those behind it, as long as it is known where it ends.
#[test]
fn a_stream_goes_on_behind_a_faulty_message_whose_end_is_known() {
    let with = |line: &str| INVITE.replacen("CSeq:", &format!("{line}\r\nCSeq:"), 1);
    let without = |name: &str| {
        let line = INVITE.split("\r\n").find(|line| line.starts_with(name)).unwrap();
        INVITE.replacen(&format!("{line}\r\n"), "", 1)
    };
    let start = |line: &str| INVITE.replacen("INVITE sip:bob@contoso.example SIP/2.0", line, 1);
    for (faulty, fault, goes_on) in [
        (with("f: <sip:x@y.example>"), Fault::Duplicate(HeaderName::From), true),
        (with("CSeq: 8 INVITE"), Fault::Duplicate(HeaderName::CSeq), true),
        (without("Call-ID"), Fault::Missing(HeaderName::CallId), true),
        (without("Via"), Fault::Missing(HeaderName::Via), true),
        (start("INVITE sip:bob@contoso.example; lr SIP/2.0"), Fault::StartLine, true),
        (start("INVITE  sip:bob@contoso.example SIP/2.0"), Fault::StartLine, true),
        (start("INVITE sip:bob@contoso.example HTTP/1.1"), Fault::StartLine, false),
        (start("INVITE sip:bob@contoso.example SIP/3.0"), Fault::Version, false),
        (with("l: 4"), Fault::Duplicate(HeaderName::ContentLength), false),
        (with("f: <sip:x@y.example>\r\nl: 4"), Fault::Duplicate(HeaderName::From), false),
        (
            with("f: <sip:x@y.example>").replace("Length: 4", "Length: x"),
            Fault::Duplicate(HeaderName::From),
            false,
        ),
        (
            with("f: <sip:x@y.example>").replace("Length: 4", "Length: 9999999"),
            Fault::Duplicate(HeaderName::From),
            false,
        ),
        (without("Content-Length"), Fault::Missing(HeaderName::ContentLength), false),
    ] {
        let stream = format!("{faulty}{INVITE}");
        for chunk in [1, 7, stream.len()] {
            let mut framer = Framer::new(Limits::default());
            let mut buffer = BytesMut::new();
            let (mut faults, mut messages) = (vec![], 0);
            for part in stream.as_bytes().chunks(chunk) {
                buffer.extend_from_slice(part);
                loop {
                    match framer.next(&mut buffer) {
                        Ok(Some(Frame::Message(message))) => {
                            assert_eq!(message.bytes(), INVITE.as_bytes());
                            messages += 1;
                        }
                        Ok(Some(Frame::Ping)) => panic!("no ping"),
                        Ok(Some(Frame::Faulty(error))) => {
                            let empty = error.answerable().is_none_or(|m| m.body().is_empty());
                            assert!(goes_on && empty);
                            faults.push(error.fault);
                        }
                        Ok(None) => break,
                        Err(error) => {
                            assert!(!goes_on, "{faulty}");
                            faults.push(error.fault);
                            break;
                        }
                    }
                }
            }
            assert_eq!(faults.first(), Some(&fault), "{faulty}");
            let rest = if goes_on { 1 } else { faults.len() };
            assert_eq!((faults.len(), messages), (rest, usize::from(goes_on)), "{faulty}");
        }
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
