//! Media flows: what the program forwards, and how; what it learns; what it refuses.

mod forwarded;
mod refused;
mod words;

use std::net::IpAddr;

use edge_ebpf::{
    abi::{
        CONTENT_MEDIA, MEDIA_OUT_IPV6, MEDIA_REWRITE, MEDIA_RTP, MediaFlow, MediaState, WORD_MEDIA,
        ZONE_EXTERNAL, port_index,
    },
    verdict::Reason,
};
use edge_tests::{
    kernel::{Outcome, XDP_DROP, XDP_REDIRECT},
    packets::{self, *},
};

use crate::fixture::*;

/// The reasons that the tests of this folder reach.
pub const REACHED_HERE: [Reason; 10] = [
    Reason::MediaRelayed,
    Reason::MediaToDaemon,
    Reason::MediaSource,
    Reason::MediaExpired,
    Reason::MediaNoRoute,
    Reason::MediaRate,
    Reason::MediaLearning,
    Reason::MediaShape,
    Reason::MediaHops,
    Reason::MediaTooLong,
];

/// The port of ours that the flow comes in at.
const LOCAL: u16 = 50_000;
/// The remote's port.
const REMOTE: u16 = 4000;
/// The port of ours that it leaves from.
const FROM: u16 = 50_002;
/// The port it goes to.
const TO: u16 = 6000;
/// Its slots.
const SLOT: u32 = 17;
const STATE: u32 = 9;
/// The device it leaves by, which is not the one packets come in on.
const OUT_DEVICE: u32 = 77;
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 9, 9];
const DEVICE: [u8; 6] = [2, 0, 0, 0, 9, 1];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Our address and the endpoint's, behind us.
fn inside(six: bool) -> (IpAddr, IpAddr) {
    match six {
        false => (address("10.9.0.1"), address("10.9.0.7")),
        true => (address("fd00:9::1"), address("fd00:9::7")),
    }
}

/// From a stranger's address to ours, and on to an endpoint.
fn flow(side: Side, out_six: bool) -> MediaFlow {
    let (from, to) = inside(out_six);
    MediaFlow {
        call: 5,
        source: sixteen(side.stranger),
        source_bits: 128,
        source_port: REMOTE.to_be_bytes(),
        local: sixteen(side.me),
        local_port: LOCAL.to_be_bytes(),
        to: sixteen(to),
        to_port: TO.to_be_bytes(),
        from: sixteen(from),
        from_port: FROM.to_be_bytes(),
        next_hop: NEXT_HOP,
        device: DEVICE,
        flags: MEDIA_REWRITE | MEDIA_RTP | if out_six { MEDIA_OUT_IPV6 } else { 0 },
        content: CONTENT_MEDIA,
        ifindex: OUT_DEVICE,
        state: STATE,
        epoch: 1,
        expires_at_seconds: in_seconds(600),
        learn_until_seconds: in_seconds(600),
        clock: 8000,
        ..MediaFlow::default()
    }
}

fn in_seconds(seconds: u64) -> u32 {
    u32::try_from(now_seconds() + seconds).unwrap()
}

/// A time that is over: the program's clock may be a tick behind ours.
fn a_second_ago() -> u32 {
    in_seconds(0) - 1
}

/// An RTP packet with so many bytes after its header.
fn rtp(sequence: u16, ssrc: u32, bytes: usize) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend((0..bytes).map(|at| (at * 7 + 3) as u8));
    packet
}

/// The three ways a frame may be tagged.
const TAGS: [&[(u16, u16)]; 3] = [&[], &[(0x8100, VLAN)], &[(0x88a8, VLAN), (0x8100, INNER_VLAN)]];

/// A datagram with all its checksums.
fn datagram(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    with_udp_checksum(summed(frame(from.0, to.0, 17, &udp(from.1, to.1, payload))))
}

/// Puts tags into an untagged frame.
fn tag(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let ether_type = u16::from_be_bytes([frame[12], frame[13]]);
    packets::ethernet(tags, ether_type, &frame[14..])
}

/// The program, a rule set in which [`LOCAL`] is a media port and nothing else, and the flow.
struct Relay {
    bench: Bench,
    flow: MediaFlow,
    side: Side,
}

impl Relay {
    fn new(side: Side, out_six: bool) -> Self {
        let mut bench = Bench::new();
        bench.kernel.load_rare().unwrap();
        bench.change(|tables| {
            let words = &mut tables.generations[1].port_words;
            words.insert(port_index(ZONE_EXTERNAL, true, LOCAL), WORD_MEDIA);
        });
        let mut relay = Self { bench, flow: flow(side, out_six), side };
        relay.open(|_| ());
        relay
    }

    /// As new, for this family in and that one out.
    fn renew(&mut self, side: Side, out_six: bool) {
        let six = self.side.me.is_ipv6();
        self.bench.kernel.set_media_port(ZONE_EXTERNAL, six, LOCAL, 0).unwrap();
        self.bench.change(|all| {
            *all = tables();
            let words = &mut all.generations[1].port_words;
            words.insert(port_index(ZONE_EXTERNAL, true, LOCAL), WORD_MEDIA);
        });
        self.bench.kernel.media_learned().unwrap();
        (self.side, self.flow) = (side, flow(side, out_six));
        self.open(|_| ());
    }

    /// The flow, changed, with nothing learned.
    fn open(&mut self, change: impl FnOnce(&mut MediaFlow)) {
        self.flow = flow(self.side, self.flow.flags & MEDIA_OUT_IPV6 != 0);
        change(&mut self.flow);
        let kernel = &mut self.bench.kernel;
        kernel.set_media_flow(SLOT, &self.flow).unwrap();
        kernel.set_media_port(ZONE_EXTERNAL, self.side.me.is_ipv6(), LOCAL, SLOT).unwrap();
    }

    /// The flow, changed, with what was learned.
    fn alter(&mut self, change: impl FnOnce(&mut MediaFlow)) {
        change(&mut self.flow);
        self.bench.kernel.change_media_flow(SLOT, &self.flow).unwrap();
    }

    /// A datagram of the remote for the flow.
    fn sent(&self, payload: &[u8]) -> Vec<u8> {
        self.sent_from(self.side.stranger, REMOTE, payload)
    }

    fn sent_from(&self, source: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
        datagram((source, port), (self.side.me, LOCAL), payload)
    }

    fn outcome(&mut self, frame: &[u8]) -> Outcome {
        self.bench.kernel.outcome(frame).unwrap()
    }

    fn state(&mut self) -> MediaState {
        self.bench.kernel.media_state(STATE).unwrap()
    }

    /// It is forwarded; what leaves.
    #[track_caller]
    fn forwarded(&mut self, frame: &[u8]) -> Vec<u8> {
        let outcome = self.outcome(frame);
        assert_eq!((outcome.action, outcome.reason), (XDP_REDIRECT, Reason::MediaRelayed));
        outcome.frame
    }

    /// It is dropped, for this reason, and not changed.
    #[track_caller]
    fn dropped(&mut self, frame: &[u8], reason: Reason) {
        let outcome = self.outcome(frame);
        assert_eq!((outcome.reason, outcome.action), (reason, XDP_DROP));
        assert_eq!(outcome.frame, frame);
    }
}

/// Both families in, both out.
fn each_way(test: impl Fn(&mut Relay)) {
    let mut relay = Relay::new(sides()[0], false);
    for side in sides() {
        for out_six in [false, true] {
            relay.renew(side, out_six);
            test(&mut relay);
        }
    }
}
