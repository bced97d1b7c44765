//! Any bytes as a message: every accessor gives slices of it, nothing edited is nothing changed,
//! and what is forwarded or answered can be read again.

use bytes::Bytes;
use edge_user::sip::{
    Edit, Fault, ForwardRequest, ForwardResponse, HeaderName, Limits, Message, Method, NameAddr,
    Received, Via, build,
};

fn parse(bytes: Bytes) -> Message {
    Message::parse_datagram(bytes, &Limits::default()).expect("what we wrote can be read")
}

/// Whatever comes, what must hold does: else it panics.
pub fn run(data: &[u8]) {
    match Message::parse_datagram(Bytes::copy_from_slice(data), &Limits::default()) {
        Ok(message) => read(&message),
        Err(error) => {
            if let Some(request) = error.answerable() {
                answer(request, error.fault.status());
            }
        }
    }
}
fn read(message: &Message) {
    let good = message.validate().is_ok();
    let bytes = message.bytes();
    assert!(bytes.len() <= Limits::default().head + Limits::default().body);
    assert!(bytes.ends_with(message.body()));
    assert_eq!(message.body_bytes(), message.body());
    for header in message.all_headers() {
        assert!(!header.value.iter().any(|b| matches!(b, b'\r' | b'\n')), "a value is one line");
        assert_eq!(header.value, header.value.trim_ascii());
    }
    for name in HeaderName::KNOWN {
        for element in message.list(*name) {
            assert_eq!(bytes.get(element.range.clone()), Some(element.value));
            let _ = (NameAddr::parse(element.value), Via::parse(element.value));
        }
    }
    assert_eq!(Edit::new(message).finish().as_ref(), Ok(bytes), "nothing edited");
    if message.is_request() {
        forward(message, good);
        answer(message, (486, "Busy Here"));
    } else {
        give_back(message);
    }
}

fn forward(message: &Message, good: bool) {
    let forward = ForwardRequest {
        record_routes: &["<sip:token@edge.contoso.example;lr>", "<sip:token@10.0.0.1;lr>"],
        received: Some(Received { address: [192, 0, 2, 9].into(), port: 1 }),
        remove_routes: message.list(HeaderName::Route).count().min(1),
        remove: &[HeaderName::MsEdgeProxyMessageTrust],
        add: &[("Max-Breadth", "60")],
        ..ForwardRequest::new("SIP/2.0/TLS edge.contoso.example;branch=z9hG4bKours", 9)
    };
    // A Via with an escaped control character cannot be noted in: refused, not repaired.
    let Ok(sent) = forward.apply(message) else { return };
    let sent = parse(sent);
    assert_eq!(sent.body(), message.body());
    assert!(!good || sent.validate().is_ok());
    assert_eq!(sent.via().expect("ours").unique_branch(), Some("ours"));
    assert_eq!(sent.max_forwards(), Ok(Some(9)));
    let count = |message: &Message, name| message.list(name).count();
    assert_eq!(count(&sent, HeaderName::Via), count(message, HeaderName::Via) + 1);
    assert_eq!(count(&sent, HeaderName::RecordRoute), count(message, HeaderName::RecordRoute) + 2);
    assert_eq!(
        count(&sent, HeaderName::Route),
        count(message, HeaderName::Route).saturating_sub(1)
    );
    assert_eq!(sent.header(HeaderName::MsEdgeProxyMessageTrust).map(|h| h.index), None);
    for name in [HeaderName::From, HeaderName::To, HeaderName::CallId, HeaderName::CSeq] {
        let value = |message: &Message| message.header(name).map(|header| header.value.to_vec());
        assert_eq!(value(&sent), value(message));
    }
    if good && message.method() == Some(Method::Invite) {
        assert!(parse(build::cancel(message).expect("a CANCEL")).validate().is_ok());
    }
}

fn give_back(message: &Message) {
    if message.list(HeaderName::Via).count() < 2 {
        return;
    }
    let sent = parse(ForwardResponse::default().apply(message).expect("without our Via"));
    let vias = |message: &Message| -> Vec<Vec<u8>> {
        message.list(HeaderName::Via).map(|element| element.value.to_vec()).collect()
    };
    assert_eq!(vias(&sent), vias(message)[1..]);
    assert_eq!((sent.status(), sent.body()), (message.status(), message.body()));
}

fn answer(request: &Message, (status, reason): (u16, &str)) {
    let response = build::Response {
        to_tag: Some("t"),
        received: Some(Received { address: [192, 0, 2, 9].into(), port: 1 }),
        ..build::Response::new(status, reason)
    };
    let bytes = build::response(request, &response).expect("an answer");
    match Message::parse_datagram(bytes, &Limits::default()) {
        Ok(answer) => {
            assert_eq!(answer.status(), Some(status));
            let vias = |message: &Message| message.list(HeaderName::Via).count();
            assert_eq!(vias(&answer), vias(request));
        }
        // It cannot copy what its request lacks.
        Err(error) => assert!(matches!(error.fault, Fault::Missing(_)), "{}", error.fault),
    }
}
