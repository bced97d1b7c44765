//! What is known of a packet on its way through the decision, and what is found for it.

use super::Family;
use crate::{
    abi::CONTENT_ANY,
    packet::{self, Ip, Kind, Link, Transport},
    verdict::{Reason, Verdict},
};

/// No rule decided.
pub const NO_RULE: u32 = u32::MAX;

/// What happens to a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens; in monitor mode never drop.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Id of the rule that decided, or [`NO_RULE`]; of [`Reason::MediaRelayed`] the flow's slot.
    pub rule: u32,
    /// Zone of the packet, or [`ZONE_NONE`] when it was dropped before that was known.
    pub zone: u8,
    /// Slot of the interface in the counters, or 0 when it was dropped before that was known.
    pub slot: u8,
}

/// What was found for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Why it is passed or dropped.
    pub reason: Reason,
    /// Id of the rule, or [`NO_RULE`]; of a media flow its slot.
    pub rule: u32,
    /// The rule's limits, see [`crate::abi::Rule::limits`].
    pub limits: u16,
    /// What the payload must look like, see [`crate::abi::Rule::content`].
    pub content: u8,
}

pub(super) const fn without_rule(reason: Reason) -> Found {
    Found { reason, rule: NO_RULE, limits: 0, content: CONTENT_ANY }
}

/// Where a packet came in.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Zone.
    pub zone: u8,
    /// Slot of the interface in the counters.
    pub slot: u8,
}

/// Facts of an IP packet that stand in one number, so that a function of BPF can take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed(pub u64);

impl Packed {
    /// Packs the transport header, the protocol and the zone.
    #[inline(always)]
    pub fn new<A>(ip: &Ip<'_, A>, zone: u8) -> Self {
        let transport = &ip.transport;
        Self(
            u64::from(transport.destination_port)
                | u64::from(transport.source_port) << 16
                | u64::from(transport.detail) << 32
                | u64::from(ip.protocol) << 40
                | (transport.kind as u64) << 48
                | u64::from(ip.fragment) << 52
                | u64::from(zone & 1) << 56,
        )
    }

    /// The transport header.
    #[inline(always)]
    pub fn transport(self) -> Transport {
        Transport {
            kind: match self.0 >> 48 & 3 {
                0 => Kind::Tcp,
                1 => Kind::Udp,
                2 => Kind::Icmp,
                _ => Kind::Other,
            },
            detail: (self.0 >> 32) as u8,
            source_port: (self.0 >> 16) as u16,
            destination_port: self.0 as u16,
        }
    }

    /// The protocol.
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// Whether it is a first fragment.
    #[inline(always)]
    pub const fn fragment(self) -> bool {
        self.0 >> 52 & 1 != 0
    }

    /// Whether it is a datagram and no fragment.
    #[inline(always)]
    pub const fn is_datagram(self) -> bool {
        self.0 >> 48 & 0x13 == Kind::Udp as u64
    }

    /// The zone.
    #[inline(always)]
    pub const fn zone(self) -> u8 {
        (self.0 >> 56) as u8
    }
}

/// In [`Found::content`]: the flows and rules of the word that stands in [`Found::rule`] are still to
/// be asked, for the port that stands in [`Found::limits`]. A function of its own does that, so that
/// the functions of the kernel program do not lie too deep: all their frames together have 512
/// bytes.
pub(super) const ASK: u8 = 8;
/// With [`ASK`]: it is a datagram and no fragment, which may belong to a flow.
pub(super) const ASK_DATAGRAM: u8 = 4;
/// What is asked of flows and rules beside the word: port, zone, and which flows there may be, in one
/// number, so that a function of BPF can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(pub u32);

impl Asked {
    #[inline(always)]
    pub(super) fn new(found: &Found, zone: u8, pinholes: bool) -> Self {
        let datagram = found.content & ASK_DATAGRAM != 0;
        let flags = u32::from(datagram) << 16 | u32::from(datagram && pinholes) << 18;
        Self(u32::from(found.limits) | flags | u32::from(zone & 1) << 17)
    }

    /// The port, in host order.
    #[inline(always)]
    pub const fn port(self) -> u16 {
        self.0 as u16
    }

    /// Whether it is a datagram and no fragment.
    #[inline(always)]
    pub const fn datagram(self) -> bool {
        self.0 >> 16 & 1 != 0
    }

    /// The zone.
    #[inline(always)]
    pub const fn zone(self) -> u8 {
        (self.0 >> 17) as u8 & 1
    }

    /// Whether it may be for an endpoint behind us.
    #[inline(always)]
    pub const fn pinholes(self) -> bool {
        self.0 >> 18 & 1 != 0
    }
}

/// What was found, and what the rest of the judgement asks about the packet.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// What was found.
    pub found: Found,
    /// Where it came in.
    pub place: Place,
    /// Transport header, protocol and zone.
    pub packed: Packed,
    /// Where the IP header begins in the frame.
    pub network: u32,
    /// Where the upper-layer header begins in the frame; 0: there is none.
    pub upper: u32,
    /// Of a first fragment: identification.
    pub fragment_id: u32,
    /// Of a first fragment: bytes of the packet.
    pub fragment_length: u32,
    /// IPv6.
    pub six: bool,
}

impl Judged {
    #[inline(always)]
    pub(super) const fn new(found: Found, place: Place) -> Self {
        let (packed, fragment_id, fragment_length) = (Packed(0), 0, 0);
        Self {
            found,
            place,
            packed,
            network: 0,
            upper: 0,
            fragment_id,
            fragment_length,
            six: false,
        }
    }

    #[inline(always)]
    pub(super) fn about<A: Family>(
        found: Found,
        place: Place,
        link: &Link,
        ip: &Ip<'_, A>,
    ) -> Self {
        Self {
            found,
            place,
            packed: Packed::new(ip, place.zone),
            network: u32::from(link.length),
            upper: u32::from(link.length) + u32::from(ip.header_length),
            fragment_id: ip.fragment_id,
            fragment_length: ip.fragment_length,
            six: A::ICMP == packet::PROTOCOL_ICMPV6,
        }
    }
}
