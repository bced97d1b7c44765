//! What must hold for any bytes, as a session description and as a body that may hold some. The
//! property tests and libFuzzer's target share it.

use std::net::IpAddr;

use bytes::Bytes;
use edge_user::media::{
    body::of,
    policy::{Judged, Modalities, judge, modality_of},
    sdp::{Candidates, LineChange, Media, Rewrite, Sdp, SdpBounds},
};

const MIXED: &[u8] = b"multipart/mixed;boundary=b1";

/// What must hold for any bytes as a session description.
pub fn description(bytes: &[u8]) {
    let bounds = SdpBounds::default();
    let text = Bytes::copy_from_slice(bytes);
    let Ok(sdp) = Sdp::parse(text.clone(), &bounds) else { return };
    let count = sdp.media().len();
    judged(&sdp);
    let keep = Rewrite { lines: vec![LineChange::Keep; count], ..Rewrite::default() };
    assert_eq!(sdp.rewrite(&keep).unwrap(), text);
    for candidates in [Candidates::Keep, Candidates::Strip, Candidates::Replace] {
        for address in ["192.0.2.200", "2001:db8::200"] {
            let address: IpAddr = address.parse().unwrap();
            anchored(&sdp, address, candidates);
            mixed(&sdp, address, candidates);
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
        if old.is_on() && old.ports == 1 {
            assert_eq!(new.rtcp_mux, old.rtcp_mux);
            // One that is for a bundle only has the port of who had it, once that is rejected.
            let without = old.port == 0 && new.bundle_only;
            assert_eq!(new.port, if without { 0 } else { 20_000 + 2 * at });
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

/// Every second m-line is rejected: the others are as they were, and what one of them takes over from a
/// rejected one can be read.
fn mixed(sdp: &Sdp, address: IpAddr, candidates: Candidates) {
    let bounds = SdpBounds { lines: 4_000, attributes: 1_200, ..SdpBounds::default() };
    let bounds = SdpBounds { bytes: 1 << 20, ..bounds };
    let anchor = LineChange::Anchor { address, rtp: 20_000, rtcp: None };
    for (odd, other) in [(0, anchor), (1, anchor), (0, LineChange::Keep), (1, LineChange::Keep)] {
        let change = |(at, media): (usize, &Media)| match other {
            _ if at % 2 == odd => LineChange::Reject,
            LineChange::Anchor { .. } if media.ports > 1 => LineChange::Reject,
            other => other,
        };
        let lines: Vec<LineChange> = sdp.media().iter().enumerate().map(change).collect();
        let origin = (other == anchor).then_some(address);
        let rewrite = Rewrite { origin, lines: lines.clone(), candidates };
        let new = Sdp::parse(sdp.rewrite(&rewrite).unwrap(), &bounds).unwrap();
        for ((old, new), line) in sdp.media().iter().zip(new.media()).zip(lines) {
            assert_eq!(new.is_on(), old.is_on() && line != LineChange::Reject);
            assert_eq!((new.kind, new.protocol), (old.kind, old.protocol));
        }
    }
}

/// What must hold for any bytes as a body of several parts.
pub fn body(body: &[u8]) {
    let Ok(found) = of(MIXED, false, body) else { return };
    let old: Vec<Bytes> =
        found.sdp.iter().map(|range| Bytes::copy_from_slice(&body[range.clone()])).collect();
    assert_eq!(found.replace(body, &old).unwrap(), body);
    let new = vec![Bytes::from_static(b"v=0\r\n"); old.len()];
    let changed = found.replace(body, &new).unwrap();
    let again = of(MIXED, false, &changed).unwrap();
    assert!(again.sdp.iter().all(|range| &changed[range.clone()] == b"v=0\r\n"));
    assert_eq!(again.sdp.len(), old.len());
}

/// A verdict names the m-lines that are on and forbidden, and no others.
fn judged(sdp: &Sdp) {
    for bits in 0..64u8 {
        let all = Modalities::ALL.iter().enumerate();
        let allowed: Modalities =
            all.filter(|(at, _)| bits & (1 << at) != 0).map(|(_, modality)| modality).collect();
        let on = |media: &&Media| media.is_on();
        let good = |media: &Media| allowed.allows(modality_of(media, false));
        match judge(sdp, false, allowed) {
            Judged::AllAllowed => assert!(sdp.media().iter().filter(on).all(good)),
            Judged::NoneAllowed(first) => {
                assert!(sdp.media().iter().any(|media| media.is_on()));
                assert!(!sdp.media().iter().filter(on).any(good));
                assert!(!allowed.allows(first));
            }
            Judged::SomeForbidden(lines) => {
                let wrong = |at: &usize| {
                    let media = &sdp.media()[*at];
                    media.is_on() && !good(media)
                };
                assert!(lines.iter().all(wrong));
                let left = (0..sdp.media().len()).filter(|at| !lines.contains(at));
                assert!(!left.into_iter().any(|at| wrong(&at)));
            }
        }
    }
}
