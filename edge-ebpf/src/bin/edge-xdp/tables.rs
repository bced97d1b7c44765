//! The decision's tables, as maps and sockets of the kernel.

use core::ops::Deref;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, xdp_md},
    btf_maps::lpm_trie::Key,
    helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp, bpf_xdp_get_buff_len},
};
use edge_ebpf::{
    abi::{
        Block, Bucket, Flood, FlowKey, Fragment, FragmentKey, Interface, Limit, PinholeKey,
        RememberedBlock, Rule, RuleLimits, SetMask, Settings, VlanKey, remembered4, remembered6,
        word4, words6, zone_bucket,
    },
    decide::{
        Asked, BucketName, Family, Found, Judged, NO_RULE, Packed, Tables, Tuple, Walk, follow,
    },
    packet::{Frame, Ip, Link, Piece},
    verdict::Reason,
};

use crate::{
    context::now_nanoseconds,
    cookie::brings_cookie,
    functions::{
        edge_begun, edge_blocked4, edge_blocked6, edge_conforms, edge_content, edge_decide4,
        edge_decide6, edge_first_fragment, edge_flooded, edge_in_flood, edge_limited, edge_piece4,
        edge_piece6, edge_plain_answer4, edge_plain_answer6, edge_plain_flow4, edge_plain_flow6,
        edge_replies4, edge_replies6, edge_rule4, edge_rule6, edge_scanner, edge_walk4, edge_walk6,
    },
    maps,
    media::{flow_at, flow_behind},
    numbers::{answer_of, piece_of, place_of, reason_of, step_of, unpacked},
};

const NANOSECONDS: u64 = 1_000_000_000;
/// `TCP_ESTABLISHED`, which in a UDP socket means connected.
const STATE_ESTABLISHED: u32 = 1;
/// `TCP_LISTEN`.
const STATE_LISTEN: u32 = 10;

/// The kernel's tables for one packet.
#[derive(Clone, Copy)]
pub struct KernelTables {
    /// The packet, for the helpers that look up sockets in its network namespace.
    pub context: *mut xdp_md,
    /// Nothing is changed: a trial, or the shadow's judgement.
    pub trial: bool,
    /// Judge by this generation instead of the one in force.
    pub shadow: Option<u32>,
}

/// A map's value, copied out.
///
/// # Safety
/// `value` is null or points to a value of a map.
#[inline(always)]
unsafe fn copied<T: Copy>(value: Option<*const T>) -> Option<T> {
    // SAFETY: as the caller promises. A value that is overwritten meanwhile may come out mixed:
    // all are small and each field is judged by itself.
    value.map(|value| unsafe { *value })
}

impl KernelTables {
    /// The tables as a packet in earnest meets them.
    #[inline(always)]
    pub const fn new(context: *mut xdp_md) -> Self {
        Self { context, trial: false, shadow: None }
    }

    /// The look-up helpers only read the tuple: a copy would take room on a small stack.
    #[inline(always)]
    fn tuple_arguments<A: Family>(tuple: &Tuple<A>) -> (*mut bpf_sock_tuple, u32) {
        (core::ptr::from_ref(tuple).cast_mut().cast(), size_of::<Tuple<A>>() as u32)
    }

    /// Changes a value of a map, or in a trial a copy of it.
    ///
    /// # Safety
    /// `value` points to a value of a map.
    #[inline(always)]
    unsafe fn changed<V: Copy, R>(&self, value: *mut V, change: impl FnOnce(&mut V) -> R) -> R {
        // SAFETY: as the caller promises.
        unsafe {
            let mut after = *value;
            let result = change(&mut after);
            if !self.trial {
                *value = after;
            }
            result
        }
    }

    /// Reads the state of a socket and gives its reference back.
    ///
    /// # Safety
    /// `socket` comes from a look-up helper and is not null.
    #[inline(always)]
    unsafe fn state(socket: *mut bpf_sock) -> u32 {
        // SAFETY: as the caller promises; every socket found is released exactly once.
        unsafe {
            let state = (*socket).state;
            bpf_sk_release(socket.cast());
            state
        }
    }
}

impl Tables for KernelTables {
    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<Interface> {
        maps::INTERFACES.get(ifindex).copied()
    }

    #[inline(always)]
    fn vlan(&self, key: &VlanKey) -> Option<Interface> {
        // SAFETY: the pointer comes from the map.
        unsafe { copied(maps::VLANS.get_ptr(key)) }
    }

    #[inline(always)]
    fn port_word(&self, generation: u32, index: u32) -> u32 {
        maps::PORT_WORDS.get_value(generation, &index).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn protocol_word(&self, generation: u32, index: u32) -> u32 {
        maps::PROTOCOL_WORDS.get_value(generation, &index).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn rule(&self, generation: u32, index: u32) -> Option<impl Deref<Target = Rule>> {
        maps::RULES.get_value(generation, &index).map(|[rule]| rule)
    }

    #[inline(always)]
    fn sources4(&self, generation: u32, source: &[u8; 4]) -> SetMask {
        let Some(trie) = maps::SOURCES4.get(generation) else { return SetMask::default() };
        trie.get(&Key::new(32, *source)).map(|[mask]| *mask).unwrap_or_default()
    }

    #[inline(always)]
    fn sources6(&self, generation: u32, source: &[u8; 16]) -> SetMask {
        let Some(trie) = maps::SOURCES6.get(generation) else { return SetMask::default() };
        trie.get(&Key::new(128, *source)).map(|[mask]| *mask).unwrap_or_default()
    }

    #[inline(always)]
    fn destinations(&self, generation: u32, destination: &[u8; 16]) -> SetMask {
        let value = maps::DESTINATIONS.get_value_ptr_mut(generation, destination);
        // SAFETY: the pointer comes from the map.
        unsafe { copied(value.map(|value| value.cast_const().cast::<SetMask>())) }
            .unwrap_or_default()
    }

    #[inline(always)]
    fn presence4(&self, slot: u32) -> u64 {
        maps::PRESENCE4.get(slot).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn presence6(&self, slot: u32) -> u64 {
        maps::PRESENCE6_PAGES.get(slot).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn presence6_short(&self, slot: u32) -> u64 {
        maps::PRESENCE6_SHORT.get(slot).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn blocked4(&self, source: &[u8; 4]) -> Option<Block> {
        // SAFETY: the pointer comes from the map.
        unsafe { copied(maps::BLOCKED4.get_ptr(source)) }
    }

    #[inline(always)]
    fn blocked4_prefix(&self, source: &[u8; 4]) -> Option<Block> {
        maps::BLOCKED4_PREFIXES.get(&Key::new(32, *source)).copied()
    }

    #[inline(always)]
    fn blocked6(&self, source: &[u8; 16]) -> Option<Block> {
        // SAFETY: the pointer comes from the map.
        unsafe { copied(maps::BLOCKED6.get_ptr(source)) }
    }

    #[inline(always)]
    fn blocked6_prefix(&self, source: &[u8; 16]) -> Option<Block> {
        maps::BLOCKED6_PREFIXES.get(&Key::new(128, *source)).copied()
    }

    #[inline(always)]
    fn remembered_block4(&self, epoch: u64, source: &[u8; 4]) -> Option<(Block, u16)> {
        let slot = maps::REMEMBERED4.get_ptr_mut(remembered4(*source))?;
        // SAFETY: the pointer comes from a per-CPU map that only this program writes.
        let found = unsafe { &*slot };
        (found.epoch == epoch && found.source == word4(*source))
            .then_some((found.block(), found.at_once))
    }

    #[inline(always)]
    fn remember_block4(&self, epoch: u64, source: &[u8; 4], block: Block, at_once: u16) {
        if self.trial {
            return;
        }
        if let Some(slot) = maps::REMEMBERED4.get_ptr_mut(remembered4(*source)) {
            // SAFETY: as above.
            unsafe { *slot = RememberedBlock::new(epoch, word4(*source), block, at_once) };
        }
    }

    #[inline(always)]
    fn remembered_block6(&self, epoch: u64, source: &[u8; 16]) -> Option<(Block, u16)> {
        let slot = maps::REMEMBERED6.get_ptr_mut(remembered6(*source))?;
        // SAFETY: as above.
        let found = unsafe { &*slot };
        let [first, second] = words6(*source);
        let same = found.source[0] == first && found.source[1] == second;
        (found.epoch == epoch && same).then_some((found.block(), found.at_once))
    }

    #[inline(always)]
    fn remember_block6(&self, epoch: u64, source: &[u8; 16], block: Block, at_once: u16) {
        if self.trial {
            return;
        }
        if let Some(slot) = maps::REMEMBERED6.get_ptr_mut(remembered6(*source)) {
            // SAFETY: as above.
            unsafe { *slot = RememberedBlock::new(epoch, words6(*source), block, at_once) };
        }
    }

    #[inline(always)]
    fn tcp_socket<A: Family>(&self, tuple: &Tuple<A>) -> bool {
        let (tuple, size) = Self::tuple_arguments(tuple);
        // SAFETY: the context is the program's own, the tuple has the size that is given.
        let socket = unsafe {
            bpf_skc_lookup_tcp(self.context.cast(), tuple, size, BPF_F_CURRENT_NETNS as u64, 0)
        };
        if socket.is_null() {
            return false;
        }
        // Half-open (request) and TIME-WAIT sockets are of a connection too.
        // SAFETY: found and not null.
        unsafe { Self::state(socket) != STATE_LISTEN }
    }

    #[inline(always)]
    fn udp_socket<A: Family>(&self, tuple: &Tuple<A>) -> bool {
        let (tuple, size) = Self::tuple_arguments(tuple);
        // SAFETY: the context is the program's own, the tuple has the size that is given.
        let socket = unsafe {
            bpf_sk_lookup_udp(self.context.cast(), tuple, size, BPF_F_CURRENT_NETNS as u64, 0)
        };
        if socket.is_null() {
            return false;
        }
        // SAFETY: found and not null.
        unsafe { Self::state(socket) == STATE_ESTABLISHED }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<u64> {
        // SAFETY: the pointer comes from the map.
        unsafe { copied(maps::FLOWS.get_ptr(key)) }
    }

    #[inline(always)]
    fn set_beginning(&self, key: &FlowKey, sequence: u32) {
        if !self.trial {
            // When it fails, the connection's first bytes are left to the daemon.
            let _ = maps::BEGINNINGS.insert(key, sequence, 0);
        }
    }

    #[inline(always)]
    fn beginning(&self, key: &FlowKey) -> Option<u32> {
        // SAFETY: the pointer comes from the map.
        unsafe { copied(maps::BEGINNINGS.get_ptr(key)) }
    }

    #[inline(always)]
    fn is_scanner(&self, _frame: &Frame<'_>, payload: u32) -> bool {
        edge_scanner(self.context, payload) != 0
    }

    #[inline(always)]
    fn begun(&self, judged: &Judged, _: &Frame<'_>) {
        let [place, _, _] = self.packed_judged(judged);
        edge_begun(self.context, place, judged.packed.0);
    }

    #[inline(always)]
    fn content(&self, _settings: &Settings, judged: &Judged, _: &Frame<'_>) -> Option<Reason> {
        let [place, found, _] = self.packed_judged(judged);
        answer_of(edge_content(self.context, place, judged.packed.0, found))
    }

    #[inline(always)]
    fn limited(&self, _settings: &Settings, judged: &Judged, _: &Frame<'_>) -> Option<Reason> {
        let [place, found, _] = self.packed_judged(judged);
        answer_of(edge_limited(self.context, place, judged.packed.0, found))
    }

    #[inline(always)]
    fn flooded(&self, _settings: &Settings, judged: &Judged, _: &Frame<'_>) -> Option<Reason> {
        let [place, _, _] = self.packed_judged(judged);
        answer_of(edge_flooded(self.context, place, judged.packed.0))
    }

    #[inline(always)]
    fn first_fragment(
        &self,
        _settings: &Settings,
        judged: &Judged,
        _: &Frame<'_>,
    ) -> Option<Reason> {
        let [place, _, fragment] = self.packed_judged(judged);
        answer_of(edge_first_fragment(self.context, place, judged.packed.0, fragment))
    }

    #[inline(always)]
    fn later4(&self, _settings: &Settings, zone: u8, link: &Link, piece: &Piece<[u8; 4]>) -> Found {
        let reason =
            edge_piece4(self.context, self.piece(link, zone, false), piece_of(piece), piece.id);
        Found { reason: reason_of(reason), rule: NO_RULE, limits: 0, content: 0 }
    }

    #[inline(always)]
    fn later6(
        &self,
        _settings: &Settings,
        zone: u8,
        link: &Link,
        piece: &Piece<[u8; 16]>,
    ) -> Found {
        let reason =
            edge_piece6(self.context, self.piece(link, zone, true), piece_of(piece), piece.id);
        Found { reason: reason_of(reason), rule: NO_RULE, limits: 0, content: 0 }
    }

    #[inline(always)]
    fn now_seconds(&self) -> u64 {
        now_nanoseconds() / NANOSECONDS
    }

    #[inline(always)]
    fn now_nanoseconds(&self) -> u64 {
        now_nanoseconds()
    }

    #[inline(always)]
    fn generation(&self, settings: &Settings) -> u32 {
        match self.shadow {
            Some(generation) => generation,
            None => settings.generation_now(),
        }
    }

    #[inline(always)]
    fn limits(&self, generation: u32, index: u32) -> Option<impl Deref<Target = RuleLimits>> {
        maps::RATES.get_value(generation, &index).map(|[limits]| limits)
    }

    #[inline(always)]
    fn bucket<R>(&self, name: BucketName, change: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        let bucket = match name {
            BucketName::Source(index) => maps::SOURCE_BUCKETS.get_ptr_mut(index)?,
            BucketName::Total(index) => maps::TOTAL_BUCKETS.get_ptr_mut(index)?,
            BucketName::Known(key) => maps::KNOWN_SOURCES.get_ptr_mut(&key)?,
        };
        // SAFETY: the pointer comes from the map. Another CPU may write at the same time: each
        // arrival time is one word.
        Some(unsafe { self.changed(bucket, change) })
    }

    #[inline(always)]
    fn conforms(&self, limit: &Limit, due: u64, now: u64, units: u64) -> Option<u64> {
        match edge_conforms(limit.increment, limit.tolerance, due, now, units) {
            0 => None,
            due => Some(due),
        }
    }

    #[inline(always)]
    fn flood<R>(&self, zone: u8, change: impl FnOnce(&mut Flood) -> R) -> Option<R> {
        let flood = maps::FLOODS.get_ptr_mut(u32::from(zone))?;
        // SAFETY: the pointer comes from a per-CPU map.
        Some(unsafe { self.changed(flood, change) })
    }

    #[inline(always)]
    fn in_flood(&self, threshold: u32, zone: u8, syn: bool, second: u32) -> bool {
        let how = u32::from(zone & 1) | u32::from(syn) << 1 | u32::from(self.trial) << 2;
        edge_in_flood(threshold, second, how) != 0
    }

    #[inline(always)]
    fn new_connections(&self, zone: u8, change: impl FnOnce(u64) -> u64) -> u32 {
        let Some(bucket) = maps::TOTAL_BUCKETS.get_ptr_mut(zone_bucket(zone)) else { return 0 };
        // SAFETY: the pointer comes from the map. Another CPU may write at the same time: this is one
        // word, of which a round may be lost.
        unsafe {
            let told = &raw mut (*bucket).new;
            let before = told.read_volatile();
            let after = change(before);
            if !self.trial && after != before {
                told.write_volatile(after);
            }
            after as u32
        }
    }

    #[inline(always)]
    fn sends_cookies(&self, zone: u8) -> bool {
        maps::FLOODS.get_ptr_mut(u32::from(zone)).is_some_and(|flood| {
            // SAFETY: the pointer comes from a per-CPU map.
            unsafe { (*flood).cookies_until != 0 }
        })
    }

    #[inline(always)]
    fn media_port(&self, index: u32) -> u32 {
        flow_at(index)
    }

    #[inline(always)]
    fn pinhole(&self, key: &PinholeKey) -> u32 {
        // SAFETY: the pointer comes from the map.
        flow_behind(unsafe { copied(maps::MEDIA_PINHOLES.get_ptr(key)) }.unwrap_or(0), 0)
    }

    #[inline(always)]
    fn plain_flow4(&self, _frame: &Frame<'_>, zone: u8, doors: u32) -> u32 {
        edge_plain_flow4(self.context, u32::from(zone), doors) as u32
    }

    #[inline(always)]
    fn plain_flow6(&self, _frame: &Frame<'_>, zone: u8, doors: u32) -> u32 {
        edge_plain_flow6(self.context, u32::from(zone), doors) as u32
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        // SAFETY: the pointer comes from the map.
        unsafe { copied(maps::FRAGMENTS.get_ptr(key)) }
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, fragment: Fragment) {
        if !self.trial {
            // When it fails, the later fragments are dropped: the safe side.
            let _ = maps::FRAGMENTS.insert(key, fragment, 0);
        }
    }

    #[inline(always)]
    fn later_fragment(&self, key: &FragmentKey, offset: u32, length: u32) -> Reason {
        let Some(known) = maps::FRAGMENTS.get_ptr_mut(key) else { return Reason::Fragment };
        let now = self.now_seconds() as u32;
        // SAFETY: the pointer comes from the map. All fragments of a packet come one after the
        // other unless somebody wants them to overlap.
        unsafe { self.changed(known, |known| follow(known, now, offset, length)) }
    }

    #[inline(always)]
    fn cookie_is_good<A: Family>(&self, judged: &Judged, tuple: &Tuple<A>) -> bool {
        let (tuple, size) = Self::tuple_arguments(tuple);
        // SAFETY: the context is the program's own, the tuple has the size that is given; a socket
        // that is found is released exactly once.
        unsafe {
            let socket =
                bpf_skc_lookup_tcp(self.context.cast(), tuple, size, BPF_F_CURRENT_NETNS as u64, 0);
            if socket.is_null() {
                return false;
            }
            let good = (*socket).state == STATE_LISTEN
                && brings_cookie(self.context, socket, judged.network, judged.upper, judged.six);
            bpf_sk_release(socket.cast());
            good
        }
    }

    #[inline(always)]
    fn frame_length(&self, _frame: &Frame<'_>) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.context) as u32 }
    }

    #[inline(always)]
    fn is_blocked4(
        &self,
        _settings: &Settings,
        (word, present): (u32, u32),
        source: [u8; 4],
    ) -> Option<Reason> {
        let how = u32::from(self.trial) | present << 1;
        answer_of(edge_blocked4(word4(source), word, how))
    }

    #[inline(always)]
    fn is_blocked6(
        &self,
        _settings: &Settings,
        (word, present): (u32, u32),
        source: [u8; 16],
    ) -> Option<Reason> {
        let [first, second] = words6(source);
        let how = u32::from(self.trial) | present << 1;
        answer_of(edge_blocked6(first, second, word, how))
    }

    #[inline(always)]
    fn decide4(&self, _settings: &Settings, link: &Link, facts: Packed, _source: [u8; 4]) -> Found {
        unpacked(edge_decide4(self.context, self.packed_link(link), facts.0))
    }

    #[inline(always)]
    fn decide6(
        &self,
        _settings: &Settings,
        link: &Link,
        facts: Packed,
        _source: [u8; 16],
    ) -> Found {
        unpacked(edge_decide6(self.context, self.packed_link(link), facts.0))
    }

    #[inline(always)]
    fn walk4(
        &self,
        _settings: &Settings,
        (link, asked): (&Link, Asked),
        word: u32,
        _source: [u8; 4],
        _destination: [u8; 4],
    ) -> Found {
        unpacked(edge_walk4(self.context, self.packed_link(link), word, asked.0))
    }

    #[inline(always)]
    fn walk6(
        &self,
        _settings: &Settings,
        (link, asked): (&Link, Asked),
        word: u32,
        _source: [u8; 16],
        _destination: [u8; 16],
    ) -> Found {
        unpacked(edge_walk6(self.context, self.packed_link(link), word, asked.0))
    }

    #[inline(always)]
    fn replies4(
        &self,
        _settings: &Settings,
        (link, zone): (&Link, u8),
        ip: &Ip<'_, [u8; 4]>,
    ) -> Option<Reason> {
        let place = place_of(link, ip.header_length);
        answer_of(edge_replies4(self.context, place, Packed::new(ip, zone).0))
    }

    #[inline(always)]
    fn replies6(
        &self,
        _settings: &Settings,
        (link, zone): (&Link, u8),
        ip: &Ip<'_, [u8; 16]>,
    ) -> Option<Reason> {
        let place = place_of(link, ip.header_length);
        answer_of(edge_replies6(self.context, place, Packed::new(ip, zone).0))
    }

    #[inline(always)]
    fn plain_answer4(&self, _settings: &Settings, _frame: &Frame<'_>) -> Option<Reason> {
        answer_of(edge_plain_answer4(self.context))
    }

    #[inline(always)]
    fn plain_answer6(&self, _settings: &Settings, _frame: &Frame<'_>) -> Option<Reason> {
        answer_of(edge_plain_answer6(self.context))
    }

    #[inline(always)]
    fn rule4(&self, walk: &mut Walk<[u8; 4]>, position: u32) -> Option<Found> {
        step_of(edge_rule4(walk, position))
    }

    #[inline(always)]
    fn rule6(&self, walk: &mut Walk<[u8; 16]>, position: u32) -> Option<Found> {
        step_of(edge_rule6(walk, position))
    }
}
