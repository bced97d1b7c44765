//! For any text: no panic, nothing changed by no change, and what is read again is what was put in.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// What must hold for any bytes.
fn check(bytes: &[u8]) {
    let bounds = SdpBounds::default();
    let text = Bytes::copy_from_slice(bytes);
    let Ok(sdp) = Sdp::parse(text.clone(), &bounds) else { return };
    let count = sdp.media().len();
    let keep = Rewrite { lines: vec![LineChange::Keep; count], ..Rewrite::default() };
    assert_eq!(sdp.rewrite(&keep).unwrap(), text);
    for candidates in [Candidates::Keep, Candidates::Strip, Candidates::Replace] {
        for address in ["192.0.2.200", "2001:db8::200"] {
            let address: IpAddr = address.parse().unwrap();
            anchored(&sdp, address, candidates);
            let rejected = Rewrite {
                origin: Some(address),
                lines: vec![LineChange::Reject; count],
                candidates,
            };
            let new = Sdp::parse(sdp.rewrite(&rejected).unwrap(), &bounds).unwrap();
            assert!(new.media().iter().all(|media| !media.is_on()));
        }
    }
}

fn anchored(sdp: &Sdp, address: IpAddr, candidates: Candidates) {
    let lines = (0..sdp.media().len() as u16)
        .zip(sdp.media())
        .map(|(at, media)| match media.ports {
            1 => LineChange::Anchor {
                address,
                rtp: 20_000 + 2 * at,
                rtcp: (!media.rtcp_mux).then_some(20_001 + 2 * at),
            },
            _ => LineChange::Reject,
        })
        .collect();
    let rewrite = Rewrite { origin: Some(address), lines, candidates };
    // Room for the lines that are put in.
    let bounds =
        SdpBounds { bytes: 1 << 20, lines: 4_000, attributes: 600, ..SdpBounds::default() };
    let new = Sdp::parse(sdp.rewrite(&rewrite).unwrap(), &bounds).unwrap();
    assert_eq!(new.media().len(), sdp.media().len());
    assert_eq!(new.origin_version(), sdp.origin_version());
    assert_eq!(new.origin_address(), Some(address));
    for (at, (old, new)) in (0u16..).zip(sdp.media().iter().zip(new.media())) {
        let same = |media: &Media| {
            (media.kind, media.protocol, media.direction, media.clock, media.bits_per_second)
        };
        assert_eq!(new.rtcp_mux, old.rtcp_mux);
        if old.is_on() && old.ports == 1 {
            assert_eq!(new.port, if old.port == 0 { 0 } else { 20_000 + 2 * at });
            let held = old.held_by_address();
            assert_eq!(new.address, if held { old.address } else { Some(address) });
            if candidates != Candidates::Strip {
                assert_eq!(same(new), same(old));
            }
        } else {
            assert!(!new.is_on());
        }
    }
}

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
