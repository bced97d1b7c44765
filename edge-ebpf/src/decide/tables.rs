//! What the decision asks: kernel maps and sockets in the program, plain collections on the host.

use super::Walk;
use crate::{
    abi::{Block, FlowKey, Interface, Rule, SETTING_SHORT_PREFIXES6, SetMask, VlanKey},
    abi::{RULE_DESTINATION4, RULE_DESTINATION6, mapped, presence4, presence6, word4, words6},
    packet,
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
    fn rule(&self, generation: u32, index: u32) -> Option<Rule>;
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
    /// The block of exactly this address.
    fn blocked4(&self, source: &[u8; 4]) -> Option<Block>;
    /// The block of the longest prefix that holds this address.
    fn blocked4_prefix(&self, source: &[u8; 4]) -> Option<Block>;
    /// The block of exactly this address.
    fn blocked6(&self, source: &[u8; 16]) -> Option<Block>;
    /// The block of the longest prefix that holds this address.
    fn blocked6_prefix(&self, source: &[u8; 16]) -> Option<Block>;
    /// A block that [`Tables::remember_block4`] was given for exactly this address and epoch, if
    /// it is still known.
    #[inline(always)]
    fn remembered_block4(&self, _epoch: u64, _source: &[u8; 4]) -> Option<Block> {
        None
    }
    /// The block tables said this of the address. It may be remembered under the epoch, no longer.
    #[inline(always)]
    fn remember_block4(&self, _epoch: u64, _source: &[u8; 4], _block: Block) {}
    /// As [`Tables::remembered_block4`].
    #[inline(always)]
    fn remembered_block6(&self, _epoch: u64, _source: &[u8; 16]) -> Option<Block> {
        None
    }
    /// As [`Tables::remember_block4`].
    #[inline(always)]
    fn remember_block6(&self, _epoch: u64, _source: &[u8; 16], _block: Block) {}
    /// Whether there is a TCP socket for this connection that is not listening.
    fn tcp_socket<A: Family>(&self, tuple: &Tuple<A>) -> bool;
    /// Whether there is a UDP socket that is connected to exactly this other side.
    fn udp_socket<A: Family>(&self, tuple: &Tuple<A>) -> bool;
    /// When a packet of this flow last left, in seconds since boot.
    fn flow(&self, key: &FlowKey) -> Option<u64>;
    /// Seconds since boot (`CLOCK_MONOTONIC`, coarse).
    fn now_seconds(&self) -> u64;
    /// Walks the rules of a word for an IPv4 packet: always [`super::rules`], which the kernel
    /// program calls as a function that the verifier proves by itself.
    #[inline(always)]
    fn rules4(
        &self,
        generation: u32,
        word: u32,
        source: [u8; 4],
        destination: [u8; 4],
    ) -> super::Outcome {
        super::rules(self, generation, word, source, destination)
    }
    /// Walks the rules of a word for an IPv6 packet; as [`Tables::rules4`].
    #[inline(always)]
    fn rules6(
        &self,
        generation: u32,
        word: u32,
        source: [u8; 16],
        destination: [u8; 16],
    ) -> super::Outcome {
        super::rules(self, generation, word, source, destination)
    }
    /// One rule of such a walk, IPv4: always [`super::rule`], called as [`Tables::rules4`] is.
    #[inline(always)]
    fn rule4(&self, walk: &mut Walk<[u8; 4]>, position: u32) -> Option<super::Outcome> {
        super::rule(self, walk, position)
    }
    /// As [`Tables::rule4`], IPv6.
    #[inline(always)]
    fn rule6(&self, walk: &mut Walk<[u8; 16]>, position: u32) -> Option<super::Outcome> {
        super::rule(self, walk, position)
    }
}

/// An address family: which of the tables are asked.
pub trait Family: packet::Quotable + PartialEq {
    /// The protocol number of the family's ICMP.
    const ICMP: u8;
    /// The address in the 16-byte form.
    fn mapped(self) -> [u8; 16];
    /// Whether this is the address of the destination set that the rule itself names.
    fn is_named(&self, rule: &Rule) -> bool;
    /// The sets of a source.
    fn sources<T: Tables>(&self, tables: &T, generation: u32) -> SetMask;
    /// Whether the source can be blocked at all; `false` is proof that it is not.
    fn may_be_blocked<T: Tables>(&self, tables: &T, flags: u32) -> bool;
    /// The block of exactly this address.
    fn blocked<T: Tables>(&self, tables: &T) -> Option<Block>;
    /// The block of the longest prefix that holds this address.
    fn blocked_prefix<T: Tables>(&self, tables: &T) -> Option<Block>;
    /// What was remembered of this source under this epoch.
    fn remembered_block<T: Tables>(&self, tables: &T, epoch: u64) -> Option<Block>;
    /// Gives a block away to be remembered.
    fn remember_block<T: Tables>(&self, tables: &T, epoch: u64, block: Block);
    /// Walks the rules of a word.
    fn rules<T: Tables>(
        tables: &T,
        generation: u32,
        word: u32,
        source: Self,
        destination: Self,
    ) -> super::Outcome;
    /// One rule of such a walk.
    fn rule<T: Tables>(tables: &T, walk: &mut Walk<Self>, position: u32) -> Option<super::Outcome>;
}

impl Family for [u8; 4] {
    const ICMP: u8 = packet::PROTOCOL_ICMP;

    #[inline(always)]
    fn mapped(self) -> [u8; 16] {
        mapped(self)
    }

    #[inline(always)]
    fn is_named(&self, rule: &Rule) -> bool {
        rule.flags & RULE_DESTINATION4 != 0 && rule.destination4 == word4(*self)
    }

    #[inline(always)]
    fn sources<T: Tables>(&self, tables: &T, generation: u32) -> SetMask {
        tables.sources4(generation, self)
    }

    #[inline(always)]
    fn may_be_blocked<T: Tables>(&self, tables: &T, _flags: u32) -> bool {
        let (slot, bit) = presence4(*self);
        tables.presence4(slot) & bit != 0
    }

    #[inline(always)]
    fn blocked<T: Tables>(&self, tables: &T) -> Option<Block> {
        tables.blocked4(self)
    }

    #[inline(always)]
    fn blocked_prefix<T: Tables>(&self, tables: &T) -> Option<Block> {
        tables.blocked4_prefix(self)
    }

    #[inline(always)]
    fn remembered_block<T: Tables>(&self, tables: &T, epoch: u64) -> Option<Block> {
        tables.remembered_block4(epoch, self)
    }

    #[inline(always)]
    fn remember_block<T: Tables>(&self, tables: &T, epoch: u64, block: Block) {
        tables.remember_block4(epoch, self, block);
    }

    #[inline(always)]
    fn rules<T: Tables>(
        tables: &T,
        generation: u32,
        word: u32,
        source: Self,
        destination: Self,
    ) -> super::Outcome {
        tables.rules4(generation, word, source, destination)
    }

    #[inline(always)]
    fn rule<T: Tables>(tables: &T, walk: &mut Walk<Self>, position: u32) -> Option<super::Outcome> {
        tables.rule4(walk, position)
    }
}

impl Family for [u8; 16] {
    const ICMP: u8 = packet::PROTOCOL_ICMPV6;

    #[inline(always)]
    fn mapped(self) -> [u8; 16] {
        self
    }

    #[inline(always)]
    fn is_named(&self, rule: &Rule) -> bool {
        let [first, second] = words6(*self);
        rule.flags & RULE_DESTINATION6 != 0
            && rule.destination6[0] == first
            && rule.destination6[1] == second
    }

    #[inline(always)]
    fn sources<T: Tables>(&self, tables: &T, generation: u32) -> SetMask {
        tables.sources6(generation, self)
    }

    #[inline(always)]
    fn may_be_blocked<T: Tables>(&self, tables: &T, flags: u32) -> bool {
        let (slot, bit) = presence6(*self);
        flags & SETTING_SHORT_PREFIXES6 != 0 || tables.presence6(slot) & bit != 0
    }

    #[inline(always)]
    fn blocked<T: Tables>(&self, tables: &T) -> Option<Block> {
        tables.blocked6(self)
    }

    #[inline(always)]
    fn blocked_prefix<T: Tables>(&self, tables: &T) -> Option<Block> {
        tables.blocked6_prefix(self)
    }

    #[inline(always)]
    fn remembered_block<T: Tables>(&self, tables: &T, epoch: u64) -> Option<Block> {
        tables.remembered_block6(epoch, self)
    }

    #[inline(always)]
    fn remember_block<T: Tables>(&self, tables: &T, epoch: u64, block: Block) {
        tables.remember_block6(epoch, self, block);
    }

    #[inline(always)]
    fn rules<T: Tables>(
        tables: &T,
        generation: u32,
        word: u32,
        source: Self,
        destination: Self,
    ) -> super::Outcome {
        tables.rules6(generation, word, source, destination)
    }

    #[inline(always)]
    fn rule<T: Tables>(tables: &T, walk: &mut Walk<Self>, position: u32) -> Option<super::Outcome> {
        tables.rule6(walk, position)
    }
}
