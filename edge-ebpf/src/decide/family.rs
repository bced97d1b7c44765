//! The two address families: which of the tables each asks, and in which form.

use super::{Asked, Found, Packed, Tables, Walk};
use crate::{
    abi::{
        Block, PRESENT_ADDRESSES, PRESENT_PREFIXES, PRESENT_SHORT, RULE_DESTINATION4,
        RULE_DESTINATION6, Rule, SETTING_SHORT_PREFIXES6, SetMask, Settings, WIDE_CELLS, WIDE_HERE,
        address6, mapped, presence4, presence6, presence6_again, presence6_short, presence6_wide,
        word4, words6,
    },
    packet::{self, Frame, Ip, Link},
    verdict::Reason,
};

/// Both bits of a cell.
const PRESENT: u32 = PRESENT_ADDRESSES | PRESENT_PREFIXES;

/// An address family: which of the tables are asked.
pub trait Family: packet::Quotable + PartialEq {
    /// The protocol number of the family's ICMP.
    const ICMP: u8;
    /// The address in the 16-byte form.
    fn mapped(self) -> [u8; 16];
    /// Whether both are the same, compared in words.
    fn is(self, other: Self) -> bool;
    /// Whether this is the address of the destination set that the rule itself names.
    fn is_named(&self, rule: &Rule) -> bool;
    /// The sets of a source.
    fn sources<T: Tables>(&self, tables: &T, generation: u32) -> SetMask;
    /// Which of the block tables can have the source, as `PRESENT_*` bits; 0 is proof that none
    /// has.
    fn may_be_blocked<T: Tables>(&self, tables: &T, flags: u32) -> u32;
    /// Of these `PRESENT_*` bits, those that still stand when it is looked more closely.
    fn may_still_be_blocked<T: Tables>(&self, tables: &T, present: u32) -> u32;
    /// The block of exactly this address.
    fn blocked<T: Tables>(&self, tables: &T) -> Option<Block>;
    /// The block of the longest prefix that holds this address.
    fn blocked_prefix<T: Tables>(&self, tables: &T) -> Option<Block>;
    /// What was remembered of this source under this epoch.
    fn remembered_block<T: Tables>(&self, tables: &T, epoch: u64) -> Option<(Block, u16)>;
    /// Gives a block away to be remembered.
    fn remember_block<T: Tables>(&self, tables: &T, epoch: u64, block: Block, at_once: u16);
    /// The address as buckets know it: all of it, or the /64 with a mark.
    fn bucket(self) -> [u64; 2];
    /// The address as [`crate::abi::KnownKey`] has it.
    fn known(self) -> [u8; 16];
    /// Source and destination of the packet whose IP header begins here.
    fn addresses(frame: &Frame<'_>, network: usize) -> Option<(Self, Self)>;
    /// Where in the frame the packet ends whose IP header begins here, by its own word.
    fn end(frame: &Frame<'_>, network: usize) -> Option<usize>;
    /// Whether the source is blocked for what it asks for: the word, and
    /// [`Family::may_be_blocked`].
    fn is_blocked<T: Tables>(
        self,
        tables: &T,
        settings: &Settings,
        asked: (u32, u32),
    ) -> Option<Reason>;
    /// Judges a packet by management, blocks and rules.
    fn decide<T: Tables>(
        tables: &T,
        settings: &Settings,
        link: &Link,
        facts: Packed,
        source: Self,
    ) -> Found;
    /// Whether a packet answers something of ours.
    fn replies<T: Tables>(
        tables: &T,
        settings: &Settings,
        link: &Link,
        zone: u8,
        ip: &Ip<'_, Self>,
    ) -> Option<Reason>;
    /// What a plain packet answers.
    fn plain_answer<T: Tables>(
        tables: &T,
        settings: &Settings,
        frame: &Frame<'_>,
    ) -> Option<Reason>;
    /// The media flow of a plain datagram; 0: none.
    fn plain_flow<T: Tables>(tables: &T, frame: &Frame<'_>, zone: u8, doors: u32) -> u32;
    /// Asks the flows and rules of a word of the generation to judge by.
    fn walk<T: Tables>(
        tables: &T,
        settings: &Settings,
        about: (&Link, Asked),
        word: u32,
        source: Self,
        destination: Self,
    ) -> Found;
    /// Walks the rules of a word.
    fn rules<T: Tables>(
        tables: &T,
        generation: u32,
        word: u32,
        source: Self,
        destination: Self,
    ) -> Found;
    /// One rule of a walk over the rules of a word.
    fn rule<T: Tables>(tables: &T, walk: &mut Walk<Self>, position: u32) -> Option<Found>;
}

impl Family for [u8; 4] {
    const ICMP: u8 = packet::PROTOCOL_ICMP;

    #[inline(always)]
    fn bucket(self) -> [u64; 2] {
        [u64::from(word4(self)), 0]
    }

    #[inline(always)]
    fn known(self) -> [u8; 16] {
        mapped(self)
    }

    #[inline(always)]
    fn addresses(frame: &Frame<'_>, network: usize) -> Option<(Self, Self)> {
        let mut cursor = frame.cursor();
        cursor.skip(network & 0x1f);
        let header = cursor.take::<20>()?;
        Some((header.four::<12>(), header.four::<16>()))
    }

    #[inline(always)]
    fn end(frame: &Frame<'_>, network: usize) -> Option<usize> {
        let mut cursor = frame.cursor();
        cursor.skip(network & 0x1f);
        let header = cursor.take::<20>()?;
        Some((network & 0x1f) + header.number::<2>() as usize)
    }

    #[inline(always)]
    fn is_blocked<T: Tables>(
        self,
        tables: &T,
        settings: &Settings,
        asked: (u32, u32),
    ) -> Option<Reason> {
        tables.is_blocked4(settings, asked, self)
    }

    #[inline(always)]
    fn decide<T: Tables>(
        tables: &T,
        settings: &Settings,
        link: &Link,
        facts: Packed,
        source: Self,
    ) -> Found {
        tables.decide4(settings, link, facts, source)
    }

    #[inline(always)]
    fn replies<T: Tables>(
        tables: &T,
        settings: &Settings,
        link: &Link,
        zone: u8,
        ip: &Ip<'_, Self>,
    ) -> Option<Reason> {
        tables.replies4(settings, (link, zone), ip)
    }

    #[inline(always)]
    fn plain_answer<T: Tables>(
        tables: &T,
        settings: &Settings,
        frame: &Frame<'_>,
    ) -> Option<Reason> {
        tables.plain_answer4(settings, frame)
    }

    #[inline(always)]
    fn mapped(self) -> [u8; 16] {
        mapped(self)
    }

    #[inline(always)]
    fn is(self, other: Self) -> bool {
        word4(self) == word4(other)
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
    fn may_be_blocked<T: Tables>(&self, tables: &T, _flags: u32) -> u32 {
        let (slot, at) = presence4(*self);
        (tables.presence4(slot) >> at) as u32 & PRESENT
    }

    #[inline(always)]
    fn may_still_be_blocked<T: Tables>(&self, _tables: &T, present: u32) -> u32 {
        present
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
    fn remembered_block<T: Tables>(&self, tables: &T, epoch: u64) -> Option<(Block, u16)> {
        tables.remembered_block4(epoch, self)
    }

    #[inline(always)]
    fn remember_block<T: Tables>(&self, tables: &T, epoch: u64, block: Block, at_once: u16) {
        tables.remember_block4(epoch, self, block, at_once);
    }

    #[inline(always)]
    fn plain_flow<T: Tables>(tables: &T, frame: &Frame<'_>, zone: u8, doors: u32) -> u32 {
        tables.plain_flow4(frame, zone, doors)
    }

    #[inline(always)]
    fn walk<T: Tables>(
        tables: &T,
        settings: &Settings,
        about: (&Link, Asked),
        word: u32,
        source: Self,
        destination: Self,
    ) -> Found {
        tables.walk4(settings, about, word, source, destination)
    }

    #[inline(always)]
    fn rules<T: Tables>(
        tables: &T,
        generation: u32,
        word: u32,
        source: Self,
        destination: Self,
    ) -> Found {
        tables.rules4(generation, word, source, destination)
    }

    #[inline(always)]
    fn rule<T: Tables>(tables: &T, walk: &mut Walk<Self>, position: u32) -> Option<Found> {
        tables.rule4(walk, position)
    }
}

/// The cells do not know of prefixes shorter than /48: [`PRESENT_PREFIXES`] when there may be one.
#[inline(always)]
fn short6<T: Tables>(tables: &T, address: [u8; 16]) -> u32 {
    let (slot, at) = presence6_wide(address);
    let wide = (tables.presence6_short(slot) >> at) as u32;
    if wide & WIDE_HERE != 0 {
        return PRESENT_PREFIXES;
    }
    if wide & WIDE_CELLS == 0 {
        return 0;
    }
    let (slot, at) = presence6_short(address);
    if tables.presence6_short(slot) >> at & 1 != 0 { PRESENT_PREFIXES } else { 0 }
}

impl Family for [u8; 16] {
    const ICMP: u8 = packet::PROTOCOL_ICMPV6;

    #[inline(always)]
    fn bucket(self) -> [u64; 2] {
        // One host has a /64 to choose from.
        [words6(self)[0], 1]
    }

    #[inline(always)]
    fn known(self) -> [u8; 16] {
        address6([words6(self)[0], 0])
    }

    #[inline(always)]
    fn addresses(frame: &Frame<'_>, network: usize) -> Option<(Self, Self)> {
        let mut cursor = frame.cursor();
        cursor.skip(network & 0x1f);
        let header = cursor.take::<40>()?;
        Some((header.sixteen::<8, 16>(), header.sixteen::<24, 32>()))
    }

    #[inline(always)]
    fn end(frame: &Frame<'_>, network: usize) -> Option<usize> {
        let mut cursor = frame.cursor();
        cursor.skip(network & 0x1f);
        let header = cursor.take::<40>()?;
        Some((network & 0x1f) + 40 + header.number::<4>() as usize)
    }

    #[inline(always)]
    fn is_blocked<T: Tables>(
        self,
        tables: &T,
        settings: &Settings,
        asked: (u32, u32),
    ) -> Option<Reason> {
        tables.is_blocked6(settings, asked, self)
    }

    #[inline(always)]
    fn decide<T: Tables>(
        tables: &T,
        settings: &Settings,
        link: &Link,
        facts: Packed,
        source: Self,
    ) -> Found {
        tables.decide6(settings, link, facts, source)
    }

    #[inline(always)]
    fn replies<T: Tables>(
        tables: &T,
        settings: &Settings,
        link: &Link,
        zone: u8,
        ip: &Ip<'_, Self>,
    ) -> Option<Reason> {
        tables.replies6(settings, (link, zone), ip)
    }

    #[inline(always)]
    fn plain_answer<T: Tables>(
        tables: &T,
        settings: &Settings,
        frame: &Frame<'_>,
    ) -> Option<Reason> {
        tables.plain_answer6(settings, frame)
    }

    #[inline(always)]
    fn mapped(self) -> [u8; 16] {
        self
    }

    #[inline(always)]
    fn is(self, other: Self) -> bool {
        let ([first, second], [other_first, other_second]) = (words6(self), words6(other));
        first == other_first && second == other_second
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
    fn may_be_blocked<T: Tables>(&self, tables: &T, flags: u32) -> u32 {
        let (slot, at) = presence6(*self);
        let short = if flags & SETTING_SHORT_PREFIXES6 != 0 { PRESENT_SHORT } else { 0 };
        (tables.presence6(slot) >> at) as u32 & PRESENT | short
    }

    #[inline(always)]
    fn may_still_be_blocked<T: Tables>(&self, tables: &T, present: u32) -> u32 {
        let (slot, at) = presence6_again(*self);
        let present_here = (tables.presence6(slot) >> at) as u32 & present & PRESENT;
        if present & PRESENT_SHORT != 0 && present_here & PRESENT_PREFIXES == 0 {
            return present_here | short6(tables, *self);
        }
        present_here
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
    fn remembered_block<T: Tables>(&self, tables: &T, epoch: u64) -> Option<(Block, u16)> {
        tables.remembered_block6(epoch, self)
    }

    #[inline(always)]
    fn remember_block<T: Tables>(&self, tables: &T, epoch: u64, block: Block, at_once: u16) {
        tables.remember_block6(epoch, self, block, at_once);
    }

    #[inline(always)]
    fn plain_flow<T: Tables>(tables: &T, frame: &Frame<'_>, zone: u8, doors: u32) -> u32 {
        tables.plain_flow6(frame, zone, doors)
    }

    #[inline(always)]
    fn walk<T: Tables>(
        tables: &T,
        settings: &Settings,
        about: (&Link, Asked),
        word: u32,
        source: Self,
        destination: Self,
    ) -> Found {
        tables.walk6(settings, about, word, source, destination)
    }

    #[inline(always)]
    fn rules<T: Tables>(
        tables: &T,
        generation: u32,
        word: u32,
        source: Self,
        destination: Self,
    ) -> Found {
        tables.rules6(generation, word, source, destination)
    }

    #[inline(always)]
    fn rule<T: Tables>(tables: &T, walk: &mut Walk<Self>, position: u32) -> Option<Found> {
        tables.rule6(walk, position)
    }
}
