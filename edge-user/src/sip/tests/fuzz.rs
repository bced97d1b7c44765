//! Any bytes, any chunking: no panic, framer and parser agree, what goes out can be read again.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{super::*, torture::seeds};

/// The first frame of a stream that comes in these chunks.
fn first_frame(bytes: &[u8], chunks: &[usize]) -> Result<Option<Message>, Fault> {
    let mut framer = Framer::new(Limits::default());
    let mut buffer = BytesMut::new();
    let (mut at, mut chunks) = (0, chunks.iter().cycle());
    loop {
        match framer.next(&mut buffer) {
            Ok(Some(Frame::Message(message))) => return Ok(Some(message)),
            Ok(Some(Frame::Ping)) => continue,
            Ok(Some(Frame::Faulty(error))) => return Err(error.fault),
            Err(error) => return Err(error.fault),
            Ok(None) if at == bytes.len() => return Ok(None),
            Ok(None) => {}
        }
        let end = bytes.len().min(at + chunks.next().copied().unwrap_or(1).max(1));
        buffer.extend_from_slice(&bytes[at..end]);
        at = end;
    }
}

/// The invariants, for any bytes.
fn check(bytes: &[u8], chunks: &[usize]) {
    let datagram = Message::parse_datagram(Bytes::copy_from_slice(bytes), &Limits::default());
    let framed = first_frame(bytes, chunks);
    match (&datagram, &framed) {
        (Ok(message), Ok(Some(framed))) => assert_eq!(message.bytes(), framed.bytes()),
        (Ok(message), other) => {
            let missing = Fault::Missing(HeaderName::ContentLength);
            assert_eq!(message.header(HeaderName::ContentLength).map(|_| ()), None);
            assert_eq!(other.as_ref().err(), Some(&missing));
        }
        (Err(error), Ok(framed)) => {
            assert!(framed.is_none());
            // Of a faulty head whose end is known the body is waited for.
            assert!(matches!(
                error.fault,
                Fault::Unfinished
                    | Fault::Truncated
                    | Fault::StartLine
                    | Fault::Missing(_)
                    | Fault::Duplicate(_)
            ));
        }
        (Err(error), Err(fault)) => assert_eq!(error.fault, *fault),
    }
    match &datagram {
        Ok(message) => use_it(message),
        Err(error) => {
            if let Some(request) = error.answerable() {
                answer(request);
            }
        }
    }
}

/// Every accessor, and everything that is made of a message.
fn use_it(message: &Message) {
    let good = message.validate().is_ok();
    assert!(message.all_headers().all(|h| !h.value.iter().any(|b| matches!(b, b'\r' | b'\n'))));
    for name in HeaderName::KNOWN {
        for element in message.list(*name) {
            assert_eq!(message.bytes().get(element.range.clone()), Some(element.value));
            let _ = (NameAddr::parse(element.value), Via::parse(element.value));
        }
    }
    assert_eq!(Edit::new(message).finish().as_ref(), Ok(message.bytes()), "nothing edited");
    if message.is_request() {
        let new = "SIP/2.0/TLS edge.contoso.example;branch=z9hG4bKours";
        let forward = ForwardRequest {
            record_routes: &["<sip:edge.contoso.example;lr>"],
            received: Some(Received { address: [192, 0, 2, 9].into(), port: 1 }),
            ..ForwardRequest::new(new, 9)
        };
        let sent = forward.apply(message).unwrap();
        let sent = Message::parse_datagram(sent, &Limits::default()).unwrap();
        let added = [HeaderName::MaxForwards, HeaderName::ContentLength];
        let more = 2 + added.iter().filter(|name| message.header(**name).is_none()).count();
        assert_eq!(sent.all_headers().count(), message.all_headers().count() + more);
        assert_eq!(sent.body(), message.body());
        let other = ForwardRequest { body: Some(b"x"), ..forward }.apply(message).unwrap();
        assert_eq!(Message::parse_datagram(other, &Limits::default()).unwrap().body(), b"x");
        assert!(!good || sent.validate().is_ok());
        assert_eq!(sent.via().unwrap().unique_branch(), Some("ours"));
        answer(message);
        if good {
            let cancel = build::cancel(message).unwrap();
            Message::parse_datagram(cancel, &Limits::default()).unwrap().validate().unwrap();
        }
    } else if message.list(HeaderName::Via).count() > 1 {
        let sent = ForwardResponse::default().apply(message).unwrap();
        let sent = Message::parse_datagram(sent, &Limits::default()).unwrap();
        let vias =
            |m: &Message| m.list(HeaderName::Via).map(|e| e.value.to_vec()).collect::<Vec<_>>();
        assert_eq!(vias(&sent), vias(message)[1..]);
    }
}

fn answer(request: &Message) {
    let response =
        build::Response { to_tag: Some("t"), ..build::Response::new(400, "Bad Request") };
    let bytes = build::response(request, &response).unwrap();
    let copied = [HeaderName::From, HeaderName::To, HeaderName::CallId, HeaderName::CSeq];
    match Message::parse_datagram(bytes, &Limits::default()) {
        Ok(answer) => {
            assert_eq!(answer.status(), Some(400));
            assert_eq!(answer.list(HeaderName::Via).count(), request.list(HeaderName::Via).count());
        }
        // It cannot copy what is not there.
        Err(error) => {
            let lacks = |name: &HeaderName| error.fault == Fault::Missing(*name);
            assert!(copied.iter().any(lacks), "{:?}", error.fault);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes, &[7]);
        let _ = (NameAddr::parse(&bytes), Via::parse(&bytes), CSeq::parse(&bytes));
        let _ = Uri::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn sip_like_bytes_do_not_panic(text in "[a-cSIP/2.0 <>;:,=@\"\\\\\\[\\]\r\n\t%?*-]{0,80}") {
        check(text.as_bytes(), &[3]);
        let _ = (NameAddr::parse(text.as_bytes()), Via::parse(text.as_bytes()));
        let _ = Uri::parse(&text);
    }

    #[test]
    fn chunks_make_no_difference(
        seed in 0..7usize,
        chunks in proptest::collection::vec(1..90usize, 1..12),
    ) {
        let seeds = seeds();
        check(&seeds[seed % seeds.len()], &chunks);
    }
}

/// A small generator of our own, so that the run is the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }
}

const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b",",
    b";",
    b":",
    b"\"",
    b"<",
    b">",
    b"@",
    b"\\",
    b"\r\n ",
    b"\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"l:\r\n 3\r\n",
    b"v: SIP/2.0/UDP a;branch=z9hG4bKq,",
    b";tag=x",
    b";received=2001:db8::1",
    b";rport",
    b"[::1]",
    b"%00",
    b"\xff\xfe",
    b"SIP/2.0",
    b"sip:",
];

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes[at] = random.below(256) as u8,
            1 => drop(bytes.drain(at..(at + 1 + random.below(20)).min(bytes.len()))),
            2 => {
                let piece = PIECES[random.below(PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            3 => {
                let end = (at + random.below(60)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => {
                let other = &seeds[random.below(seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len())..]);
            }
        }
        if bytes.is_empty() {
            return bytes;
        }
    }
    bytes
}

#[test]
fn mutated_messages_keep_every_invariant() {
    let seeds = seeds();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let end = Instant::now() + Duration::from_secs(5);
    let mut runs = 0;
    while runs < 40_000 && Instant::now() < end {
        let bytes = mutate(&mut random, &seeds);
        let chunks = [1 + random.below(300), 1 + random.below(40)];
        check(&bytes, &chunks);
        runs += 1;
    }
    assert!(runs > 100, "only {runs} runs");
}
