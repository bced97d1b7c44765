//! The decision's tables, as maps and sockets of the kernel.

use core::ops::Deref;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, xdp_md},
    btf_maps::lpm_trie::Key,
    helpers::{
        bpf_ktime_get_coarse_ns, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
        bpf_tcp_check_syncookie, bpf_xdp_get_buff_len,
    },
    programs::XdpContext,
};
use edge_ebpf::{
    abi::{
        Block, Bucket, Flood, FlowKey, Fragment, FragmentKey, Interface, Limit, PinholeKey,
        RememberedBlock, Rule, RuleLimits, SetMask, Settings, VlanKey, media_door_flow,
        media_door_state, remembered4, remembered6, word4, words6, zone_bucket,
    },
    decide::{
        Asked, BucketName, Family, Found, Judged, NO_RULE, Packed, Place, Tables, Tuple, Walk,
        blocked, conforms, decide, flow_of, follow, in_flood, later, plain_answer, plain_flow,
        questions, replies, rule, walk,
    },
    packet::{Environment, Frame, Ip, Link, Piece, Upper, extension_headers, is_scanner, options},
    verdict::Reason,
};

use crate::maps;

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

/// Nanoseconds since boot, to a clock tick.
#[inline(always)]
pub fn now_nanoseconds() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The slot of the flow behind a door; 0: none. All cache lines of the flow and of its state are asked
/// for here, before any of them is waited for: where there are many flows, none of them is in the
/// nearest cache when its packet comes.
#[inline(always)]
fn flow_behind(door: u32) -> u32 {
    let slot = media_door_flow(door);
    if slot != 0 {
        fetch(maps::MEDIA_FLOWS.get_ptr(slot));
        fetch(maps::MEDIA_STATES.get_ptr(media_door_state(door)));
    }
    slot
}

/// Reads a word of each of a value's cache lines, and throws it away.
#[inline(always)]
fn fetch<T>(value: Option<*const T>) {
    let Some(value) = value else { return };
    for word in (0..size_of::<T>() / 8).step_by(8) {
        // SAFETY: a word of the value, which is made of such.
        unsafe { value.cast::<u64>().add(word).read_volatile() };
    }
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
        maps::PRESENCE6.get(slot).copied().unwrap_or(0)
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
        flow_behind(maps::MEDIA_PORTS.get(index).copied().unwrap_or(0))
    }

    #[inline(always)]
    fn pinhole(&self, key: &PinholeKey) -> u32 {
        // SAFETY: the pointer comes from the map.
        flow_behind(unsafe { copied(maps::MEDIA_PINHOLES.get_ptr(key)) }.unwrap_or(0))
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

#[inline(always)]
fn whole(first: u64, second: u64) -> [u8; 16] {
    // SAFETY: sixteen bytes either way, and every bit pattern is a value of both.
    unsafe { core::mem::transmute([first, second]) }
}

/// The walk over IPv6 extension headers, proved once as [`edge_decide4`] is. Of the answer, bit 63
/// says refused and the low byte why; else bits 32 to 39 are the protocol, bit 40 says fragment
/// the low sixteen bits how many bytes the headers take, and the sixteen above them where the
/// fragment header begins.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_extensions(context: *mut xdp_md, offset: u32, first: u32, length: u32) -> u64 {
    match extension_headers(&frame_of(context), offset as usize, first as u8, length as usize) {
        Ok(Upper { protocol, fragment, fragment_at, skipped }) => {
            (u64::from(fragment) << 40)
                | (u64::from(protocol) << 32)
                | (fragment_at as u64 & 0xffff) << 16
                | skipped as u64 & 0xffff
        }
        Err(reason) => REFUSED | reason as u64,
    }
}

const REFUSED: u64 = 1 << 63;

impl Environment for KernelTables {
    #[inline(always)]
    fn total_length(&self) -> usize {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_get_buff_len(self.context) as usize }
    }

    #[inline(always)]
    fn extension_headers(
        &self,
        _frame: &Frame<'_>,
        offset: usize,
        first: u8,
        length: usize,
    ) -> Result<Upper, Reason> {
        let answer = edge_extensions(self.context, offset as u32, u32::from(first), length as u32);
        if answer & REFUSED != 0 {
            return Err(match answer as u8 {
                number if number == Reason::Truncated as u8 => Reason::Truncated,
                number if number == Reason::Fragment as u8 => Reason::Fragment,
                number if number == Reason::ExtensionDepth as u8 => Reason::ExtensionDepth,
                _ => Reason::ExtensionHeader,
            });
        }
        Ok(Upper {
            protocol: (answer >> 32) as u8,
            fragment: answer >> 40 & 1 != 0,
            fragment_at: (answer >> 16 & 0xffff) as usize,
            skipped: (answer & 0xffff) as usize,
        })
    }

    #[inline(always)]
    fn options(&self, _frame: &Frame<'_>, offset: usize, length: usize) -> Result<(), Reason> {
        match edge_options(self.context, offset as u32, length as u32) as u8 {
            0 => Ok(()),
            number if number == Reason::SourceRoute as u8 => Err(Reason::SourceRoute),
            number if number == Reason::Truncated as u8 => Err(Reason::Truncated),
            _ => Err(Reason::IpHeader),
        }
    }
}

/// The walk over IPv4 options, proved once. 0, or the number of the reason to refuse them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_options(context: *mut xdp_md, offset: u32, length: u32) -> u64 {
    match options(&frame_of(context), offset as usize, length as usize) {
        Ok(()) => 0,
        Err(reason) => reason as u64,
    }
}

/// The packet of a context.
#[inline(always)]
pub fn frame_of<'a>(context: *mut xdp_md) -> Frame<'a> {
    let context = XdpContext::new(context);
    // SAFETY: the packet lies between these two for as long as the program runs.
    unsafe { Frame::from_raw(context.data() as *const u8, context.data_end() as *const u8) }
}

/// What was found in one number, as a function of BPF returns it. Bits 8 to 11 are the content,
/// bits 16 to 31 the limits.
#[inline(always)]
fn packed(found: Found) -> u64 {
    (u64::from(found.rule) << 32)
        | u64::from(found.limits) << 16
        | u64::from(found.content & 15) << 8
        | found.reason as u64
}

#[inline(always)]
fn unpacked(packed: u64) -> Found {
    Found {
        // SAFETY: `packed` made it from a reason.
        reason: unsafe { Reason::from_own_number(packed as u8) },
        rule: (packed >> 32) as u32,
        limits: (packed >> 16) as u16,
        content: (packed >> 8) as u8 & 15,
    }
}

/// Where the headers lie: the link layer's length, and above it that of the network layer.
#[inline(always)]
fn place_of(link: &Link, header_length: u16) -> u32 {
    u32::from(link.length) | u32::from(header_length) << 8
}

/// A packet as [`replies`] looks at it, read again from the frame.
#[inline(always)]
fn packet_again<'a, A: Family>(frame: &Frame<'a>, place: u32, packed: Packed) -> Option<Ip<'a, A>> {
    let network = place & 0x1f;
    let (source, destination) = A::addresses(frame, network as usize)?;
    let mut upper = frame.cursor();
    upper.skip((network + (place >> 8 & 0x7fff)) as usize);
    Some(Ip {
        source,
        destination,
        hop_limit: 0,
        protocol: packed.protocol(),
        fragment: packed.fragment(),
        fragment_id: 0,
        fragment_length: 0,
        header_length: 0,
        transport: packed.transport(),
        upper,
    })
}

#[inline(always)]
fn replies_of<A: Family>(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    let tables = KernelTables::new(context);
    let Some(settings) = maps::SETTINGS.get(0) else { return answer(None) };
    let frame = frame_of(context);
    let Some(ip) = packet_again::<A>(&frame, place, Packed(facts)) else { return answer(None) };
    answer(replies(&tables, settings, &ip))
}

impl KernelTables {
    /// Where a fragment lies, and how it is judged, in one number.
    #[inline(always)]
    fn piece(&self, link: &Link, zone: u8, six: bool) -> u32 {
        u32::from(link.length)
            | u32::from(zone & 1) << 8
            | u32::from(six) << 9
            | u32::from(self.trial) << 10
    }
}

/// Offset, length and protocol of a fragment in one number.
#[inline(always)]
fn piece_of<A>(piece: &Piece<A>) -> u64 {
    u64::from(piece.offset & 0xffff)
        | u64::from(piece.length & 0xffff) << 16
        | u64::from(piece.protocol) << 32
}

#[inline(always)]
fn reason_of(number: u64) -> Reason {
    // SAFETY: `edge_piece` made it from a reason.
    unsafe { Reason::from_own_number(number as u8) }
}

#[inline(always)]
fn piece_reason<A: Family>(context: *mut xdp_md, place: u32, facts: u64, id: u32) -> Reason {
    let tables = &KernelTables { trial: place >> 10 & 1 != 0, ..KernelTables::new(context) };
    let Some(settings) = maps::SETTINGS.get(0) else { return Reason::Fragment };
    let frame = frame_of(tables.context);
    let Some((source, destination)) = A::addresses(&frame, (place & 0x1f) as usize) else {
        return Reason::Fragment;
    };
    let piece = Piece {
        source,
        destination,
        id,
        protocol: (facts >> 32) as u8,
        offset: (facts & 0xffff) as u32,
        length: (facts >> 16 & 0xffff) as u32,
    };
    later(tables, settings, (place >> 8 & 1) as u8, &piece).reason
}

/// Later fragments of IPv4 packets; proved once. The number of the reason.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_piece4(context: *mut xdp_md, place: u32, facts: u64, id: u32) -> u64 {
    piece_reason::<[u8; 4]>(context, place, facts, id) as u64
}

/// As [`edge_piece4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_piece6(context: *mut xdp_md, place: u32, facts: u64, id: u32) -> u64 {
    piece_reason::<[u8; 16]>(context, place, facts, id) as u64
}

impl KernelTables {
    /// Where the IP header begins, and how it is judged, in one number.
    #[inline(always)]
    fn packed_link(&self, link: &Link) -> u32 {
        let shadow = match self.shadow {
            Some(generation) => generation + 1,
            None => 0,
        };
        u32::from(link.length) | u32::from(self.trial) << 8 | (shadow & 7) << 9
    }
}

/// Whether a source is blocked, IPv4; proved once. Of `how`, the low bit says that this is a
/// trial, and the two above it in which tables the source can be. The number of the reason, or
/// [`NO_REASON`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_blocked4(source: u32, word: u32, how: u32) -> u64 {
    blocked_of(source.to_ne_bytes(), word, how)
}

/// As [`edge_blocked4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_blocked6(first: u64, second: u64, word: u32, how: u32) -> u64 {
    blocked_of(whole(first, second), word, how)
}

#[inline(always)]
fn blocked_of<A: Family>(source: A, word: u32, how: u32) -> u64 {
    let Some(settings) = maps::SETTINGS.get(0) else { return u64::from(NO_REASON) };
    let tables = KernelTables { trial: how & 1 != 0, ..KernelTables::new(core::ptr::null_mut()) };
    answer(blocked(&tables, source, (word, how >> 1), settings))
}

#[inline(always)]
fn decide_of<A: Family>(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    let tables = tables_of(context, place);
    let nothing = Found { reason: Reason::NoRuleSet, rule: NO_RULE, limits: 0, content: 0 };
    let Some(settings) = maps::SETTINGS.get(0) else { return packed(nothing) };
    let frame = frame_of(context);
    let Some((source, _)) = A::addresses(&frame, (place & 0x1f) as usize) else {
        return packed(nothing);
    };
    packed(decide(&tables, settings, Packed(facts), source))
}

/// The tables as [`KernelTables::packed_link`] tells.
#[inline(always)]
fn tables_of(context: *mut xdp_md, place: u32) -> KernelTables {
    let shadow = place >> 9 & 7;
    KernelTables {
        context,
        trial: place >> 8 & 1 != 0,
        shadow: if shadow == 0 { None } else { Some(shadow - 1) },
    }
}

#[inline(always)]
fn walk_of<A: Family>(
    context: *mut xdp_md,
    place: u32,
    word: u32,
    asked: u32,
    find: impl FnOnce() -> u64,
) -> u64 {
    let tables = tables_of(context, place);
    let nothing = Found { reason: Reason::NoRuleSet, rule: NO_RULE, limits: 0, content: 0 };
    let Some(settings) = maps::SETTINGS.get(0) else { return packed(nothing) };
    let ends = || A::addresses(&frame_of(context), (place & 0x1f) as usize);
    packed(walk(&tables, settings, Asked(asked), word, || find() as u32, ends))
}

#[inline(always)]
fn flow_in<A: Family>(context: *mut xdp_md, place: u32, word: u32, asked: u32) -> u64 {
    let ends = A::addresses(&frame_of(context), (place & 0x1f) as usize);
    let Some((_, destination)) = ends else { return 0 };
    flow_of(&KernelTables::new(context), Asked(asked), word, destination).into()
}

/// [`flow_of`] for IPv4; proved once, as [`edge_decide4`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_flow4(context: *mut xdp_md, place: u32, word: u32, asked: u32) -> u64 {
    flow_in::<[u8; 4]>(context, place, word, asked)
}

/// As [`edge_flow4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_flow6(context: *mut xdp_md, place: u32, word: u32, asked: u32) -> u64 {
    flow_in::<[u8; 16]>(context, place, word, asked)
}

/// [`walk`] for IPv4; proved once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_walk4(context: *mut xdp_md, place: u32, word: u32, asked: u32) -> u64 {
    walk_of::<[u8; 4]>(context, place, word, asked, || edge_flow4(context, place, word, asked))
}

/// As [`edge_walk4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_walk6(context: *mut xdp_md, place: u32, word: u32, asked: u32) -> u64 {
    walk_of::<[u8; 16]>(context, place, word, asked, || edge_flow6(context, place, word, asked))
}

/// [`decide`] for IPv4. A global function of BPF: the verifier proves it once, for all arguments,
/// instead of once for every way that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_decide4(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    decide_of::<[u8; 4]>(context, place, facts)
}

/// As [`edge_decide4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_decide6(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    decide_of::<[u8; 16]>(context, place, facts)
}

/// [`replies`] for IPv4; proved once, as [`edge_decide4`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_replies4(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    replies_of::<[u8; 4]>(context, place, facts)
}

/// As [`edge_replies4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_replies6(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    replies_of::<[u8; 16]>(context, place, facts)
}

#[inline(always)]
fn plain_flow_of<A: Family>(context: *mut xdp_md, zone: u32, doors: u32) -> u64 {
    let tables = KernelTables::new(context);
    plain_flow::<_, A>(&tables, &frame_of(context), zone as u8, doors).into()
}

/// [`plain_flow`] for IPv4; proved once, as [`edge_decide4`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_plain_flow4(context: *mut xdp_md, zone: u32, doors: u32) -> u64 {
    plain_flow_of::<[u8; 4]>(context, zone, doors)
}

/// As [`edge_plain_flow4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_plain_flow6(context: *mut xdp_md, zone: u32, doors: u32) -> u64 {
    plain_flow_of::<[u8; 16]>(context, zone, doors)
}

#[inline(always)]
fn plain_answer_of<A: Family>(context: *mut xdp_md) -> u64 {
    let Some(settings) = maps::SETTINGS.get(0) else { return answer(None) };
    answer(plain_answer::<_, A>(&KernelTables::new(context), settings, &frame_of(context)))
}

/// [`plain_answer`] for IPv4; proved once, as [`edge_decide4`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_plain_answer4(context: *mut xdp_md) -> u64 {
    plain_answer_of::<[u8; 4]>(context)
}

/// As [`edge_plain_answer4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_plain_answer6(context: *mut xdp_md) -> u64 {
    plain_answer_of::<[u8; 16]>(context)
}

impl KernelTables {
    /// What was judged, in numbers that a function of BPF takes; its facts go beside them.
    #[inline(always)]
    fn packed_judged(&self, judged: &Judged) -> [u64; 3] {
        let shadow = match self.shadow {
            Some(generation) => generation + 1,
            None => 0,
        };
        let place = u64::from(judged.network)
            | u64::from(judged.upper & 0x7fff) << 8
            | u64::from(judged.six) << 24
            | u64::from(self.trial) << 25
            | u64::from(shadow & 7) << 26
            | (judged.found.reason as u64) << 32
            | u64::from(judged.place.zone) << 40;
        let found = u64::from(judged.found.rule)
            | u64::from(judged.found.limits) << 32
            | u64::from(judged.found.content) << 48;
        let fragment = u64::from(judged.fragment_id) << 32 | u64::from(judged.fragment_length);
        [place, found, fragment]
    }
}

/// What was judged, from [`KernelTables::packed_judged`].
#[inline(always)]
fn judged_of(
    context: *mut xdp_md,
    place: u64,
    facts: u64,
    found: u64,
    fragment: u64,
) -> (KernelTables, Judged) {
    let number = (place >> 32) as u8;
    let shadow = (place >> 26 & 7) as u32;
    let tables = KernelTables {
        context,
        trial: place >> 25 & 1 != 0,
        shadow: if shadow == 0 { None } else { Some(shadow - 1) },
    };
    let judged = Judged {
        found: Found {
            reason: if number == Reason::Rule as u8 { Reason::Rule } else { Reason::NoRule },
            rule: found as u32,
            limits: (found >> 32) as u16,
            content: (found >> 48) as u8,
        },
        place: Place { zone: (place >> 40) as u8 & 1, slot: 0 },
        packed: Packed(facts),
        network: (place & 0x1f) as u32,
        upper: (place >> 8 & 0x7fff) as u32,
        fragment_id: (fragment >> 32) as u32,
        fragment_length: fragment as u32,
        six: place >> 24 & 1 != 0,
    };
    (tables, judged)
}

/// The number that stands for no reason.
const NO_REASON: u8 = 255;

/// A reason to refuse the packet in a number, as a function of BPF returns it.
#[inline(always)]
fn answer(reason: Option<Reason>) -> u64 {
    match reason {
        Some(reason) => reason as u64,
        None => u64::from(NO_REASON),
    }
}

#[inline(always)]
fn answer_of(number: u64) -> Option<Reason> {
    // SAFETY: `answer` made it from a reason, or it is the number that stands for none.
    (number as u8 != NO_REASON).then(|| unsafe { Reason::from_own_number(number as u8) })
}

/// [`conforms`]; proved once. When the next unit is due, or 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_conforms(increment: u64, tolerance: u64, due: u64, now: u64, units: u64) -> u64 {
    match conforms(&Limit { increment, tolerance }, due, now, units) {
        Some(due) => due.max(1),
        None => 0,
    }
}

/// The search for the signatures of scanners; proved once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_scanner(context: *mut xdp_md, payload: u32) -> u64 {
    u64::from(is_scanner(&frame_of(context), payload as usize))
}

/// [`questions::begun`]; proved once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_begun(context: *mut xdp_md, place: u64, facts: u64) -> u64 {
    let (tables, judged) = judged_of(context, place, facts, 0, 0);
    let frame = frame_of(context);
    if judged.six {
        questions::begun::<_, [u8; 16]>(&tables, &judged, &frame);
    } else {
        questions::begun::<_, [u8; 4]>(&tables, &judged, &frame);
    }
    0
}

/// [`questions::content`]; proved once. The number of the reason to refuse the packet, or 255.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_content(context: *mut xdp_md, place: u64, facts: u64, found: u64) -> u64 {
    let (tables, judged) = judged_of(context, place, facts, found, 0);
    let frame = frame_of(context);
    answer(if judged.six {
        questions::content::<_, [u8; 16]>(&tables, &judged, &frame)
    } else {
        questions::content::<_, [u8; 4]>(&tables, &judged, &frame)
    })
}

/// [`questions::limited`]; proved once. The number of the reason to refuse the packet, or 255.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_limited(context: *mut xdp_md, place: u64, facts: u64, found: u64) -> u64 {
    let (tables, judged) = judged_of(context, place, facts, found, 0);
    let Some(settings) = maps::SETTINGS.get(0) else { return answer(Some(Reason::NoRuleSet)) };
    let frame = frame_of(context);
    answer(if judged.six {
        questions::limited::<_, [u8; 16]>(&tables, settings, &judged, &frame)
    } else {
        questions::limited::<_, [u8; 4]>(&tables, settings, &judged, &frame)
    })
}

/// [`questions::flooded`]; proved once. The number of the reason to refuse the packet, or 255.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_flooded(context: *mut xdp_md, place: u64, facts: u64) -> u64 {
    let (tables, judged) = judged_of(context, place, facts, 0, 0);
    let Some(settings) = maps::SETTINGS.get(0) else { return answer(Some(Reason::NoRuleSet)) };
    let frame = frame_of(context);
    answer(if judged.six {
        questions::flooded::<_, [u8; 16]>(&tables, settings, &judged, &frame)
    } else {
        questions::flooded::<_, [u8; 4]>(&tables, settings, &judged, &frame)
    })
}

/// [`in_flood`]; proved once. Of `how`, the low bit is the zone, the next says that this is a SYN, and
/// the third that it is a trial.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_in_flood(threshold: u32, second: u32, how: u32) -> u64 {
    let trial = how & 4 != 0;
    let tables = KernelTables { trial, ..KernelTables::new(core::ptr::null_mut()) };
    in_flood(&tables, threshold, (how & 1) as u8, how & 2 != 0, second).into()
}

/// [`questions::first_fragment`]; proved once. The number of the reason to refuse the packet, or 255.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_first_fragment(
    context: *mut xdp_md,
    place: u64,
    facts: u64,
    fragment: u64,
) -> u64 {
    let (tables, judged) = judged_of(context, place, facts, 0, fragment);
    let frame = frame_of(context);
    answer(if judged.six {
        questions::first_fragment::<_, [u8; 16]>(&tables, &judged, &frame)
    } else {
        questions::first_fragment::<_, [u8; 4]>(&tables, &judged, &frame)
    })
}

/// Whether a segment for a listening socket brings a good SYN cookie.
///
/// # Safety
/// `socket` was found by a look-up and is not released yet.
#[inline(always)]
unsafe fn brings_cookie(
    context: *mut xdp_md,
    socket: *mut bpf_sock,
    network: u32,
    upper: u32,
    six: bool,
) -> bool {
    let length = if six { 40 } else { 20 };
    // The helper knows headers without options only.
    if upper.wrapping_sub(network) != length {
        return false;
    }
    let frame = frame_of(context);
    let (start, end) = frame.bounds();
    let ip = start.wrapping_add(network as usize & 0x1f);
    let tcp = ip.wrapping_add(if six { 40 } else { 20 });
    if tcp.wrapping_add(20) > end {
        return false;
    }
    // SAFETY: both headers were just found to be there; the socket is the caller's.
    unsafe {
        bpf_tcp_check_syncookie(
            socket.cast(),
            ip.cast_mut().cast(),
            length,
            tcp.cast_mut().cast(),
            20,
        ) == 0
    }
}

/// What [`rule`] says in a number, as a function of BPF returns it.
#[inline(always)]
fn step(found: Option<Found>) -> u64 {
    match found {
        Some(found) => packed(found),
        None => u64::from(NO_REASON),
    }
}

#[inline(always)]
fn step_of(number: u64) -> Option<Found> {
    (number as u8 != NO_REASON).then(|| unpacked(number))
}

/// One rule of a walk, IPv4, proved once and not again for every turn.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_rule4(walk: *mut Walk<[u8; 4]>, position: u32) -> u64 {
    let tables = KernelTables::new(core::ptr::null_mut());
    // SAFETY: the callers hand over their own walk; the verifier proves that it is one or null.
    let Some(walk) = (unsafe { walk.as_mut() }) else { return step(None) };
    step(rule(&tables, walk, position))
}

/// As [`edge_rule4`], IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_rule6(walk: *mut Walk<[u8; 16]>, position: u32) -> u64 {
    let tables = KernelTables::new(core::ptr::null_mut());
    // SAFETY: as in `edge_rule4`.
    let Some(walk) = (unsafe { walk.as_mut() }) else { return step(None) };
    step(rule(&tables, walk, position))
}
