//! What the decision asks: kernel maps and sockets in the program, plain collections on the host.

use core::ops::Deref;

use super::{Asked, BucketName, Family, Found, Judged, Packed, Walk, questions};
use crate::{
    abi::{
        Block, Bucket, Flood, FlowKey, Fragment, FragmentKey, Interface, Limit, PinholeKey, Rule,
        RuleLimits, SetMask, Settings, VlanKey,
    },
    packet::{self, Frame, Ip, Link, Piece},
    verdict::Reason,
};

/// Two ends of a connection as a packet from the other side shows them. The layout is that of
/// the kernel's `struct bpf_sock_tuple`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<A> {
    /// The other side's address: the packet's source.
    pub remote: A,
    /// Our address: the packet's destination.
    pub local: A,
    /// The other side's port, big-endian.
    pub remote_port: [u8; 2],
    /// Our port, big-endian.
    pub local_port: [u8; 2],
}

impl<A: Family> Tuple<A> {
    /// The ends of a flow, ports in host order.
    #[inline(always)]
    pub fn new(remote: A, remote_port: u16, local: A, local_port: u16) -> Self {
        let (remote_port, local_port) = (remote_port.to_be_bytes(), local_port.to_be_bytes());
        Self { remote, local, remote_port, local_port }
    }

    /// The key this flow has in `FLOWS`.
    #[inline(always)]
    pub fn flow(&self, protocol: u8) -> FlowKey {
        FlowKey {
            local: self.local.mapped(),
            remote: self.remote.mapped(),
            local_port: self.local_port,
            remote_port: self.remote_port,
            protocol,
            reserved: [0; 3],
        }
    }
}

/// The tables. An implementation looks up and nothing else: every rule is in the decision. What
/// it may remember of the block tables changes no answer.
pub trait Tables: Sized {
    /// The interface with this index.
    fn interface(&self, ifindex: u32) -> Option<Interface>;
    /// The VLAN of a trunk.
    fn vlan(&self, key: &VlanKey) -> Option<Interface>;
    /// The word of a port; 0 when there is none.
    fn port_word(&self, generation: u32, index: u32) -> u32;
    /// The word of a protocol; 0 when there is none.
    fn protocol_word(&self, generation: u32, index: u32) -> u32;
    /// The rule at this index.
    fn rule(&self, generation: u32, index: u32) -> Option<impl Deref<Target = Rule>>;
    /// The sets of the longest prefix that holds this source.
    fn sources4(&self, generation: u32, source: &[u8; 4]) -> SetMask;
    /// The sets of the longest prefix that holds this source.
    fn sources6(&self, generation: u32, source: &[u8; 16]) -> SetMask;
    /// The sets that this address of ours is in (IPv4 as `::ffff:a.b.c.d`).
    fn destinations(&self, generation: u32, destination: &[u8; 16]) -> SetMask;
    /// A word of the IPv4 presence bitmap.
    fn presence4(&self, slot: u32) -> u64;
    /// A word of the IPv6 presence bitmap.
    fn presence6(&self, slot: u32) -> u64;
    /// A word of what tells where IPv6 prefixes shorter than /48 are.
    fn presence6_short(&self, slot: u32) -> u64;
    /// The block of exactly this address.
    fn blocked4(&self, source: &[u8; 4]) -> Option<Block>;
    /// The block of the longest prefix that holds this address.
    fn blocked4_prefix(&self, source: &[u8; 4]) -> Option<Block>;
    /// The block of exactly this address.
    fn blocked6(&self, source: &[u8; 16]) -> Option<Block>;
    /// The block of the longest prefix that holds this address.
    fn blocked6_prefix(&self, source: &[u8; 16]) -> Option<Block>;
    /// A block that [`Tables::remember_block4`] was given for exactly this address and epoch, if
    /// it is still known, with its `AT_ONCE_*`.
    #[inline(always)]
    fn remembered_block4(&self, _epoch: u64, _source: &[u8; 4]) -> Option<(Block, u16)> {
        None
    }
    /// The block tables said this of the address. It may be remembered under the epoch, no longer.
    #[inline(always)]
    fn remember_block4(&self, _epoch: u64, _source: &[u8; 4], _block: Block, _at_once: u16) {}
    /// As [`Tables::remembered_block4`].
    #[inline(always)]
    fn remembered_block6(&self, _epoch: u64, _source: &[u8; 16]) -> Option<(Block, u16)> {
        None
    }
    /// As [`Tables::remember_block4`].
    #[inline(always)]
    fn remember_block6(&self, _epoch: u64, _source: &[u8; 16], _block: Block, _at_once: u16) {}
    /// Whether there is a TCP socket for this connection that is not listening.
    fn tcp_socket<A: Family>(&self, tuple: &Tuple<A>) -> bool;
    /// Whether there is a UDP socket that is connected to exactly this other side.
    fn udp_socket<A: Family>(&self, tuple: &Tuple<A>) -> bool;
    /// When a packet of this flow last left, in seconds since boot.
    fn flow(&self, key: &FlowKey) -> Option<u64>;
    /// Remembers the sequence number of a connection's first byte (but not in a trial).
    fn set_beginning(&self, key: &FlowKey, sequence: u32);
    /// The sequence number of a connection's first byte.
    fn beginning(&self, key: &FlowKey) -> Option<u32>;
    /// Looks for the signature of a scanner: always [`packet::is_scanner`]; as
    /// [`Tables::content`].
    #[inline(always)]
    fn is_scanner(&self, frame: &Frame<'_>, payload: u32) -> bool {
        packet::is_scanner(frame, payload as usize)
    }
    /// Remembers a SYN that has passed: always [`questions::begun`]; as [`Tables::content`].
    #[inline(always)]
    fn begun(&self, judged: &Judged, frame: &Frame<'_>) {
        if judged.six {
            questions::begun::<Self, [u8; 16]>(self, judged, frame);
        } else {
            questions::begun::<Self, [u8; 4]>(self, judged, frame);
        }
    }
    /// What the payload begins with: always [`questions::content`], which the kernel
    /// program calls as a function that the verifier proves by itself.
    #[inline(always)]
    fn content(&self, _settings: &Settings, judged: &Judged, frame: &Frame<'_>) -> Option<Reason> {
        if judged.six {
            questions::content::<Self, [u8; 16]>(self, judged, frame)
        } else {
            questions::content::<Self, [u8; 4]>(self, judged, frame)
        }
    }
    /// The rule's limits: always [`questions::limited`], which the kernel
    /// program calls as a function that the verifier proves by itself.
    #[inline(always)]
    fn limited(&self, settings: &Settings, judged: &Judged, frame: &Frame<'_>) -> Option<Reason> {
        if judged.six {
            questions::limited::<Self, [u8; 16]>(self, settings, judged, frame)
        } else {
            questions::limited::<Self, [u8; 4]>(self, settings, judged, frame)
        }
    }
    /// Floods and the zone's ceiling: always [`questions::flooded`], which the kernel
    /// program calls as a function that the verifier proves by itself.
    #[inline(always)]
    fn flooded(&self, settings: &Settings, judged: &Judged, frame: &Frame<'_>) -> Option<Reason> {
        if judged.six {
            questions::flooded::<Self, [u8; 16]>(self, settings, judged, frame)
        } else {
            questions::flooded::<Self, [u8; 4]>(self, settings, judged, frame)
        }
    }
    /// Remembers a first fragment: always [`questions::first_fragment`], which the kernel
    /// program calls as a function that the verifier proves by itself.
    #[inline(always)]
    fn first_fragment(
        &self,
        _settings: &Settings,
        judged: &Judged,
        frame: &Frame<'_>,
    ) -> Option<Reason> {
        if judged.six {
            questions::first_fragment::<Self, [u8; 16]>(self, judged, frame)
        } else {
            questions::first_fragment::<Self, [u8; 4]>(self, judged, frame)
        }
    }
    /// Judges a later fragment: always [`super::later`], called as [`Tables::content`] is.
    #[inline(always)]
    fn later4(&self, settings: &Settings, zone: u8, _link: &Link, piece: &Piece<[u8; 4]>) -> Found {
        super::later(self, settings, zone, piece)
    }
    /// As [`Tables::later4`].
    #[inline(always)]
    fn later6(
        &self,
        settings: &Settings,
        zone: u8,
        _link: &Link,
        piece: &Piece<[u8; 16]>,
    ) -> Found {
        super::later(self, settings, zone, piece)
    }
    /// Seconds since boot (`CLOCK_MONOTONIC`, coarse).
    fn now_seconds(&self) -> u64;
    /// Nanoseconds since boot, likewise.
    fn now_nanoseconds(&self) -> u64;
    /// The generation to judge by: the one in force, or the shadow.
    #[inline(always)]
    fn generation(&self, settings: &Settings) -> u32 {
        settings.generation_now()
    }
    /// The limits at this index.
    fn limits(&self, generation: u32, index: u32) -> Option<impl Deref<Target = RuleLimits>>;
    /// Looks at a bucket, and changes it (but not in a trial). `None`: there is no such bucket.
    fn bucket<R>(&self, name: BucketName, change: impl FnOnce(&mut Bucket) -> R) -> Option<R>;
    /// When the next unit of a limit is due: always [`super::conforms`]; as [`Tables::content`].
    #[inline(always)]
    fn conforms(&self, limit: &Limit, due: u64, now: u64, units: u64) -> Option<u64> {
        super::conforms(limit, due, now, units)
    }
    /// Looks at what this CPU sees of a zone, and changes it (but not in a trial).
    fn flood<R>(&self, zone: u8, change: impl FnOnce(&mut Flood) -> R) -> Option<R>;
    /// Counts new connections, and tells whether there is a flood: always [`super::in_flood`]; as
    /// [`Tables::content`].
    #[inline(always)]
    fn in_flood(&self, threshold: u32, zone: u8, syn: bool, second: u32) -> bool {
        super::in_flood(self, threshold, zone, syn, second)
    }
    /// Looks at what all CPUs have told of new connections in a zone (see
    /// [`crate::abi::zone_bucket`]), and changes it (but not in a trial). The lower half of what it
    /// becomes.
    fn new_connections(&self, zone: u8, change: impl FnOnce(u64) -> u64) -> u32;
    /// Whether this CPU sends, or has just sent, SYN cookies in a zone.
    fn sends_cookies(&self, zone: u8) -> bool;
    /// The media flow that comes in at a port of ours, by [`crate::abi::media_port_index`]; 0:
    /// none.
    fn media_port(&self, index: u32) -> u32;
    /// The media flow to an endpoint behind us; 0: none.
    fn pinhole(&self, key: &PinholeKey) -> u32;
    /// The media flow of a plain IPv4 datagram: always [`super::plain_flow`]; as
    /// [`Tables::content`].
    #[inline(always)]
    fn plain_flow4(&self, frame: &Frame<'_>, zone: u8, doors: u32) -> u32 {
        super::plain_flow::<Self, [u8; 4]>(self, frame, zone, doors)
    }
    /// As [`Tables::plain_flow4`].
    #[inline(always)]
    fn plain_flow6(&self, frame: &Frame<'_>, zone: u8, doors: u32) -> u32 {
        super::plain_flow::<Self, [u8; 16]>(self, frame, zone, doors)
    }
    /// What is known of a fragmented packet.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Remembers a fragmented packet (but not in a trial).
    fn set_fragment(&self, key: &FragmentKey, fragment: Fragment);
    /// Judges a later fragment by what is known of its packet: always [`super::follow`].
    fn later_fragment(&self, key: &FragmentKey, offset: u32, length: u32) -> Reason;
    /// Whether a segment for a listening socket brings a good SYN cookie.
    fn cookie_is_good<A: Family>(&self, judged: &Judged, tuple: &Tuple<A>) -> bool;
    /// The length of the whole frame.
    fn frame_length(&self, frame: &Frame<'_>) -> u32;
    /// Whether an IPv4 source is blocked: always [`super::blocked`]; as [`Tables::content`].
    #[inline(always)]
    fn is_blocked4(
        &self,
        settings: &Settings,
        (word, present): (u32, u32),
        source: [u8; 4],
    ) -> Option<Reason> {
        super::blocked(self, source, (word, present), settings)
    }
    /// As [`Tables::is_blocked4`].
    #[inline(always)]
    fn is_blocked6(
        &self,
        settings: &Settings,
        (word, present): (u32, u32),
        source: [u8; 16],
    ) -> Option<Reason> {
        super::blocked(self, source, (word, present), settings)
    }
    /// Judges an IPv4 packet: always [`super::decide`]; as [`Tables::content`].
    #[inline(always)]
    fn decide4(&self, settings: &Settings, _link: &Link, facts: Packed, source: [u8; 4]) -> Found {
        super::decide(self, settings, facts, source)
    }
    /// As [`Tables::decide4`].
    #[inline(always)]
    fn decide6(&self, settings: &Settings, _link: &Link, facts: Packed, source: [u8; 16]) -> Found {
        super::decide(self, settings, facts, source)
    }
    /// Whether an IPv4 packet answers something of ours: always [`super::replies`]; as
    /// [`Tables::content`].
    #[inline(always)]
    fn replies4(
        &self,
        settings: &Settings,
        _place: (&Link, u8),
        ip: &Ip<'_, [u8; 4]>,
    ) -> Option<Reason> {
        super::replies(self, settings, ip)
    }
    /// As [`Tables::replies4`].
    #[inline(always)]
    fn replies6(
        &self,
        settings: &Settings,
        _place: (&Link, u8),
        ip: &Ip<'_, [u8; 16]>,
    ) -> Option<Reason> {
        super::replies(self, settings, ip)
    }
    /// What a plain IPv4 packet answers: always [`super::plain_answer`]; as [`Tables::content`].
    #[inline(always)]
    fn plain_answer4(&self, settings: &Settings, frame: &Frame<'_>) -> Option<Reason> {
        super::plain_answer::<Self, [u8; 4]>(self, settings, frame)
    }
    /// As [`Tables::plain_answer4`].
    #[inline(always)]
    fn plain_answer6(&self, settings: &Settings, frame: &Frame<'_>) -> Option<Reason> {
        super::plain_answer::<Self, [u8; 16]>(self, settings, frame)
    }
    /// Asks the flows and rules of a word of the generation to judge by, IPv4: always
    /// [`super::walk`], called as [`Tables::content`] is.
    #[inline(always)]
    fn walk4(
        &self,
        settings: &Settings,
        (_link, asked): (&Link, Asked),
        word: u32,
        source: [u8; 4],
        destination: [u8; 4],
    ) -> Found {
        let find = || super::flow_of(self, asked, word, destination);
        super::walk(self, settings, asked, word, find, || Some((source, destination)))
    }
    /// As [`Tables::walk4`].
    #[inline(always)]
    fn walk6(
        &self,
        settings: &Settings,
        (_link, asked): (&Link, Asked),
        word: u32,
        source: [u8; 16],
        destination: [u8; 16],
    ) -> Found {
        let find = || super::flow_of(self, asked, word, destination);
        super::walk(self, settings, asked, word, find, || Some((source, destination)))
    }
    /// Walks the rules of a word for an IPv4 packet: always [`super::rules`].
    #[inline(always)]
    fn rules4(&self, generation: u32, word: u32, source: [u8; 4], destination: [u8; 4]) -> Found {
        super::rules(self, generation, word, source, destination)
    }
    /// As [`Tables::rules4`], IPv6.
    #[inline(always)]
    fn rules6(&self, generation: u32, word: u32, source: [u8; 16], destination: [u8; 16]) -> Found {
        super::rules(self, generation, word, source, destination)
    }
    /// One rule of a walk over the rules of a word, IPv4: always [`super::rule`]; as
    /// [`Tables::content`].
    #[inline(always)]
    fn rule4(&self, walk: &mut Walk<[u8; 4]>, position: u32) -> Option<Found> {
        super::rule(self, walk, position)
    }
    /// As [`Tables::rule4`], IPv6.
    #[inline(always)]
    fn rule6(&self, walk: &mut Walk<[u8; 16]>, position: u32) -> Option<Found> {
        super::rule(self, walk, position)
    }
}
