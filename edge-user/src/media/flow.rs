//! Media flows: the contract between the calls, which decide what is open, and the firewall,
//! which writes it into the kernel.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use edge_ebpf::abi::{ZONE_EXTERNAL, ZONE_INTERNAL, media_port_index};
use ipnet::IpNet;

/// A call, as the kernel's entries name it: a keyed hash of Call-ID and the caller's tag, the same
/// after a restart. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

impl fmt::Display for CallId {
    /// 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A flow: a slot of the kernel's `MEDIA_STATES`. Never 0. Used again some time after it was
/// closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u32);

/// A side of the appliance: where packets of a flow come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MediaSide {
    /// The external zone.
    Outside,
    /// The internal zone.
    Inside,
}

impl MediaSide {
    /// The other one.
    pub const fn across(self) -> Self {
        match self {
            MediaSide::Outside => MediaSide::Inside,
            MediaSide::Inside => MediaSide::Outside,
        }
    }

    /// The side that what comes in on this one leaves on; `turns`: see [`Flow::turns`].
    pub const fn leaves(self, turns: bool) -> Self {
        if turns { self } else { self.across() }
    }

    /// Number of its zone.
    pub const fn zone(self) -> u8 {
        match self {
            MediaSide::Outside => ZONE_EXTERNAL,
            MediaSide::Inside => ZONE_INTERNAL,
        }
    }
}

/// One of the two components of an m-line (RFC 3550 section 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// RTP, or all there is (RFC 5761).
    Rtp,
    /// RTCP on a port of its own.
    Rtcp,
}

/// How packets are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They are sent to an address of ours, and go on from another address of ours.
    Relay {
        /// Ours, where they come in.
        local: SocketAddr,
        /// Ours, where they leave from, of the family of the flow's `to`.
        from: SocketAddr,
    },
    /// They are sent to the endpoint itself, the flow's `to`, and go on unchanged.
    Pinhole,
}

impl Way {
    /// The port of ours that packets from this side come in at, by the kernel's index
    /// ([`media_port_index`]); `None`: they come in at none.
    pub const fn port_index(&self, side: MediaSide) -> Option<u32> {
        match self {
            Way::Relay { local, .. } => {
                Some(media_port_index(side.zone(), local.is_ipv6(), local.port()))
            }
            Way::Pinhole => None,
        }
    }
}

/// What the first byte of a packet may say (RFC 7983).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowContent {
    /// Whatever RFC 7983 knows: RTP, RTCP, STUN, DTLS, ZRTP.
    Media,
    /// Anything: no RTP (UDPTL).
    Any,
}

/// A flow as it should be: one direction of one component of one transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its name.
    pub id: FlowId,
    /// Its call.
    pub call: CallId,
    /// Which of the transports of its call: the number, from 0, of the m-line that began it, or of
    /// another where that was in use.
    pub line: u8,
    /// Component.
    pub component: Component,
    /// Where packets come from.
    pub side: MediaSide,
    /// How they are forwarded.
    pub way: Way,
    /// Where they come from: a host's address, or a prefix to learn one in (a remote behind NAT,
    /// by the partner's entry).
    pub source: IpNet,
    /// The port they are expected from, when it is known.
    pub source_port: Option<u16>,
    /// How long another port of the source, or another source of the prefix, may still be
    /// learned.
    pub learn: Duration,
    /// How often what was learned of the source was to be forgotten, modulo [`LEARNED_ANEW_END`].
    pub learned_anew: u8,
    /// Where they go.
    pub to: SocketAddr,
    /// What they may begin with.
    pub content: FlowContent,
    /// RTP clock, Hz, when it is known and this is RTP.
    pub clock: Option<u32>,
    /// Packets a second at most; the burst is a second's worth.
    pub packets_per_second: u32,
    /// Bytes of frames a second at most.
    pub bytes_per_second: u32,
    /// The latest end.
    pub expires: Duration,
    /// That end is the session timer's (RFC 4028): a refresh puts it off.
    pub timed: bool,
    /// The leg is on hold: silence does not end it.
    pub held: bool,
    /// It leaves on the side that it came from: both ends are outside.
    pub turns: bool,
}

/// End of [`Flow::learned_anew`]: the kernel's entry has five bits for it.
pub const LEARNED_ANEW_END: u8 = 32;

impl Flow {
    /// The side that packets leave on.
    pub fn leaves(&self) -> MediaSide {
        self.side.leaves(self.turns)
    }

    /// What was learned of the source counts no longer.
    pub fn learn_anew(&mut self) {
        self.learned_anew = (self.learned_anew + 1) % LEARNED_ANEW_END;
    }
}

/// What the calls ask of the kernel. In order; in force when the firewall returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaChange {
    /// Open a flow, or put what is open under this name in force as it is here. What was learned
    /// of the source stays, unless `source`, `source_port` or `learned_anew` changed.
    Open(Flow),
    /// Close a flow.
    Close(FlowId),
    /// Close all flows of a call: also those that only the kernel knows of.
    CloseCall(CallId),
    /// A flow will soon go to this address, which is on this side: the way there is looked up, so
    /// that it is known by then.
    Expect(IpAddr, MediaSide),
}

/// What the kernel counted for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowStatus {
    /// Its name.
    pub id: FlowId,
    /// Its call.
    pub call: CallId,
    /// Packets let through.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// When the last packet was let through.
    pub last_seen: Option<SystemTime>,
    /// The source, once it is learned.
    pub source: Option<SocketAddr>,
    /// SSRC.
    pub ssrc: Option<u32>,
    /// RTP packets that should have come, by their sequence numbers.
    pub expected: u32,
    /// RTP packets that came.
    pub received: u32,
    /// Interarrival jitter (RFC 3550 section 6.4.1), when the clock is known.
    pub jitter: Option<Duration>,
    /// A way to `to` is known.
    pub routed: bool,
}

#[cfg(test)]
impl FlowStatus {
    /// So many packets of a flow whose way is known, and nothing learned of them.
    pub fn counted(flow: &Flow, packets: u64) -> Self {
        Self {
            id: flow.id,
            call: flow.call,
            packets,
            bytes: 0,
            dropped: 0,
            last_seen: None,
            source: None,
            ssrc: None,
            expected: 0,
            received: 0,
            jitter: None,
            routed: true,
        }
    }
}

/// What became of a call's flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTally {
    /// Opened.
    pub opened: usize,
    /// Put in force otherwise.
    pub changed: usize,
    /// Closed.
    pub closed: usize,
}
