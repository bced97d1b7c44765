//! Media flows: one direction of one component (RTP or RTCP) of one m-line of one call.
//!
//! A packet finds its flow by the port of ours that it was sent to ([`media_port_index`]), or,
//! where the appliance routes and does not anchor, by the address and port it is for
//! ([`PinholeKey`]). What the daemon says of a flow stands in [`MediaFlow`], what the program
//! learns of it in [`MediaState`]. A flow that changes gets a new [`MediaFlow`] in another slot
//! and keeps its [`MediaState`]: one store of the slot's number makes the change visible.

use super::{Limit, ZONES};

/// Slots of `MEDIA_FLOWS`; slot 0 stays unused.
pub const MEDIA_FLOW_SLOTS: u32 = 65_536;
/// Slots of `MEDIA_STATES`; slot 0 stays unused. Half as many as there are slots of flows, so that
/// every flow may change at once.
pub const MEDIA_STATE_SLOTS: u32 = 32_768;
/// Slots of `MEDIA_PORTS`: zone, family, port.
pub const MEDIA_PORT_SLOTS: u32 = ZONES * 2 * 65_536;
/// Entries of `MEDIA_PINHOLES`.
pub const MAX_PINHOLES: u32 = MEDIA_STATE_SLOTS;

/// Index into `MEDIA_PORTS`: the slot of the flow that comes in at this port of ours; 0: none.
pub const fn media_port_index(zone: u8, six: bool, port: u16) -> u32 {
    ((zone as u32 & 1) << 17) | ((six as u32) << 16) | port as u32
}

/// What stands in `MEDIA_PORTS` and `MEDIA_PINHOLES`: a flow's slot in `MEDIA_FLOWS`, above it that
/// of its state in `MEDIA_STATES`, which the program may fetch without waiting for the flow; 0:
/// nothing comes in here.
pub const fn media_door(flow: u32, state: u32) -> u32 {
    flow & 0xffff | state << 16
}

/// Where the flow that comes in at this [`media_port_index`] stands, if the daemon found the place
/// free: its slot and that of its state. The program fetches both while it waits for the door. A place
/// of no port, as 0 is, is nobody's.
pub const fn media_home(index: u32) -> (u32, u32) {
    // Of each zone and family, ports that begin alike have a quarter of their own.
    let slot = (index ^ (index >> 16) << 14) & 0xffff;
    // RTP has even ports; RTCP, which comes seldom, odd ones.
    (slot, slot >> 1 ^ (slot & 1) << 13)
}

/// The ports that a slot is [`media_home`] to: one of each zone and family.
pub const fn media_home_of(slot: u32) -> [u32; 4] {
    let slot = slot & 0xffff;
    [slot, 1 << 16 | slot ^ 1 << 14, 2 << 16 | slot ^ 2 << 14, 3 << 16 | slot ^ 3 << 14]
}

/// The flow's slot of a [`media_door`]; 0: none.
pub const fn media_door_flow(door: u32) -> u32 {
    door & 0xffff
}

/// The state's slot of a [`media_door`].
pub const fn media_door_state(door: u32) -> u32 {
    door >> 16
}

/// Key of `MEDIA_PINHOLES`: where a packet is for that is not for us.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PinholeKey {
    /// Destination; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Destination port, big-endian.
    pub port: [u8; 2],
    /// The zone it comes from.
    pub zone: u8,
    /// Zero.
    pub reserved: u8,
}

/// The packet's addresses and ports are rewritten (relay); else it goes on as it is (pinhole).
pub const MEDIA_REWRITE: u16 = 1;
/// It leaves as IPv6, else as IPv4.
pub const MEDIA_OUT_IPV6: u16 = 1 << 1;
/// The source may be any within `source_bits`, and any port, until one is learned (a remote
/// behind NAT). Without it the address is `source`, and the port `source_port` or, when another
/// is learned within the window, that.
pub const MEDIA_BEHIND_NAT: u16 = 1 << 2;
/// It carries RTP: SSRC, sequence and jitter are looked at.
pub const MEDIA_RTP: u16 = 1 << 3;
/// The packet goes to the daemon, which forwards it.
pub const MEDIA_BY_DAEMON: u16 = 1 << 4;
/// For the daemon: it leaves on the side that it came from.
pub const MEDIA_TURNS: u16 = 1 << 5;
/// For the daemon: it ends with its call's session timer, which a refresh puts off.
pub const MEDIA_TIMED: u16 = 1 << 6;

/// What the daemon says of a flow. Addresses of IPv4 as `::ffff:a.b.c.d`; ports big-endian.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaFlow {
    /// Which call, see the daemon's `CallId`; 0: the slot is free.
    pub call: u64,
    /// Packets a second that it may carry.
    pub packets: Limit,
    /// Bytes of frames a second that it may carry.
    pub bytes: Limit,
    /// The source that it is expected from.
    pub source: [u8; 16],
    /// The address the packet must be for: one of ours (relay), or an endpoint's (pinhole).
    pub local: [u8; 16],
    /// Where it goes (relay).
    pub to: [u8; 16],
    /// Our address that it leaves from (relay).
    pub from: [u8; 16],
    /// Port of `source`; 0: not known.
    pub source_port: [u8; 2],
    /// Port of `local`.
    pub local_port: [u8; 2],
    /// Port of `to`.
    pub to_port: [u8; 2],
    /// Port of `from`.
    pub from_port: [u8; 2],
    /// Next hop's link address.
    pub next_hop: [u8; 6],
    /// Link address of the device it leaves by.
    pub device: [u8; 6],
    /// `MEDIA_*` bits.
    pub flags: u16,
    /// Bits of `source` that count; 128 unless [`MEDIA_BEHIND_NAT`].
    pub source_bits: u8,
    /// `CONTENT_*`.
    pub content: u8,
    /// Device it leaves by; 0: no way is known (yet).
    pub ifindex: u32,
    /// Slot in `MEDIA_STATES`.
    pub state: u32,
    /// Another number whenever what was learned of the source no longer counts.
    pub epoch: u32,
    /// Seconds since boot at which it ends whatever else happens.
    pub expires_at_seconds: u32,
    /// Seconds since boot until which a source may be learned that is not `source`:`source_port`.
    pub learn_until_seconds: u32,
    /// RTP clock, Hz; 0: not known.
    pub clock: u32,
    /// VLAN tags it leaves with: outer id, 0 for none.
    pub vlan: u16,
    /// For the daemon: m-line, from 0.
    pub line: u8,
    /// For the daemon: bits, see the daemon's `media::flow`.
    pub about: u8,
    /// Bytes of an IP packet that the device takes; 0: not known.
    pub mtu: u16,
    /// Slot of another flow that comes in by the same door, from another source; 0: none.
    pub next: u16,
}

/// Flows that may share a door: calls of one endpoint's port (pinhole).
pub const MEDIA_SHARED: u32 = 8;

/// Nothing learned.
pub const MEDIA_NOTHING: u32 = 0;
/// A source was seen once; the same again confirms it.
pub const MEDIA_CANDIDATE: u32 = 1;
/// The source is learned: no other is let in.
pub const MEDIA_LEARNED: u32 = 2;

/// What the program knows of a flow. Written by the program only, but for a fresh flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaState {
    /// Packets that were let through.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Packets that were dropped: source, content, rate, no way.
    pub dropped: u64,
    /// Arrival times of the two limits, see [`super::Bucket`].
    pub next_packet: u64,
    /// See `next_packet`.
    pub next_byte: u64,
    /// Nanoseconds since boot (coarse clock) of the last packet let through.
    pub last_seen: u64,
    /// Nanoseconds since boot of the packet that the jitter is measured from.
    pub arrival: u64,
    /// Source learned or candidate.
    pub source: [u8; 16],
    /// [`MediaFlow::epoch`] that all this was learned under.
    pub epoch: u32,
    /// `MEDIA_NOTHING`, `MEDIA_CANDIDATE` or `MEDIA_LEARNED`.
    pub learned: u32,
    /// SSRC of the source, host order.
    pub ssrc: u32,
    /// RTP timestamp of the packet that the jitter is measured from.
    pub timestamp: u32,
    /// First sequence number, extended by cycles (RFC 3550 appendix A.1).
    pub first_sequence: u32,
    /// Highest sequence number, extended by cycles.
    pub highest_sequence: u32,
    /// RTP packets counted since `first_sequence`.
    pub received: u32,
    /// Interarrival jitter in RTP clock units, times 16 (RFC 3550 section 6.4.1).
    pub jitter: u32,
    /// Port of the source, big-endian.
    pub source_port: [u8; 2],
    /// Sequence number of the packet that the jitter is measured from.
    pub jitter_sequence: u16,
    /// 1 in bit 16 and the sequence number with which the source would count anew; 0: none.
    pub strange: u32,
    /// Nanoseconds since boot (coarse clock) before which nobody is told that a packet was too long.
    pub next_error: u64,
    /// Zero: two cache lines hold an entry.
    pub reserved: u64,
}

/// An entry of the ring `MEDIA_EVENTS`: a source was learned.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaLearned {
    /// The call.
    pub call: u64,
    /// Its source.
    pub source: [u8; 16],
    /// Slot in `MEDIA_STATES`.
    pub state: u32,
    /// [`MediaFlow::epoch`].
    pub epoch: u32,
    /// Port, big-endian.
    pub source_port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 6],
}

const _: () = {
    // `MediaFlow::next` holds a slot, and half of a door either.
    assert!(MEDIA_FLOW_SLOTS - 1 == u16::MAX as u32);
    assert!(MEDIA_STATE_SLOTS <= 1 << 16);
    assert!(size_of::<PinholeKey>() == 20);
    assert!(size_of::<MediaFlow>() == 160);
    assert!(size_of::<MediaState>() == 128);
    assert!(size_of::<MediaLearned>() == 40);
};
