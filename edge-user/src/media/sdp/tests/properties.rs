//! For any text: no panic, nothing changed by no change, and what is read again is what was put in.

use proptest::prelude::*;

use super::*;
use crate::media::invariants::description as check;

#[test]
fn truncation_at_every_byte_never_panics() {
    for text in TEXTS {
        let text = wire(text);
        for end in 0..=text.len() {
            check(&text.as_bytes()[..end]);
        }
    }
}

#[test]
fn any_byte_may_be_another() {
    for text in TEXTS {
        let text = wire(text).into_bytes();
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] = [b'\n', b' ', b'0', b':', 0xff][at % 5];
            check(&changed);
        }
    }
}

/// Lines that mean something, in any order.
const LINES: &[&str] = &[
    "c=IN IP4 192.0.2.1",
    "c=IN IP6 2001:db8::1",
    "c=IN IP4 0.0.0.0",
    "c=IN IP4 host.fabrikam.example",
    "b=AS:64",
    "b=TIAS:64000",
    "t=0 0",
    "i=x",
    "a=sendonly",
    "a=group:BUNDLE a b",
    "a=group:BUNDLE b a",
    "a=group:LS b",
    "m=audio 4000 RTP/AVP 0",
    "m=video 0 UDP/TLS/RTP/SAVPF 96",
    "m=image 65535 udptl t38",
    "m=message 5060 sip null",
    "m=audio 9 RTP/SAVP 0",
    "m=audio 5000/2 RTP/AVP 0",
    "a=mid:a",
    "a=mid:b",
    "a=bundle-only",
    "a=rtcp-mux",
    "a=rtcp:4001",
    "a=rtcp:4001 IN IP4 192.0.2.1",
    "a=ice-ufrag:F7gI",
    "a=candidate:1 1 UDP 1 192.0.2.1 4000 typ host",
    "a=candidate:u 1 p UDP 0.1 192.0.2.1 4000",
    "a=x-candidate-ipv6:1",
    "a=end-of-candidates",
    "",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lines_in_any_order(
        picks in proptest::collection::vec(0..LINES.len(), 0..14),
        crlf in any::<bool>(),
        last in any::<bool>(),
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let lines = ["v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-"];
        let lines = lines.into_iter().chain(picks.iter().map(|pick| LINES[*pick]));
        let mut text = lines.collect::<Vec<_>>().join(end);
        if last {
            text.push_str(end);
        }
        check(text.as_bytes());
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes);
        check(&[b"v=0\no=- 1 1 IN IP4 192.0.2.1\nm=", &*bytes].concat());
    }
}
