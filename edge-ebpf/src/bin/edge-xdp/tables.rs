//! The decision's tables, as maps and sockets of the kernel.

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, xdp_md},
    btf_maps::lpm_trie::Key,
    helpers::{
        bpf_ktime_get_coarse_ns, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
        bpf_xdp_get_buff_len,
    },
    programs::XdpContext,
};
use edge_ebpf::{
    abi::{
        Block, FlowKey, Interface, RememberedBlock, Rule, SetMask, VlanKey, remembered4,
        remembered6, word4, words6,
    },
    decide::{Family, Outcome, Tables, Tuple, Walk, rule, rules},
    packet::{Environment, Frame, Upper, extension_headers},
    verdict::Reason,
};

use crate::maps;

const NANOSECONDS: u64 = 1_000_000_000;
/// `TCP_ESTABLISHED`, which in a UDP socket means connected.
const STATE_ESTABLISHED: u32 = 1;
/// `TCP_LISTEN`.
const STATE_LISTEN: u32 = 10;

/// The kernel's tables for one packet.
pub struct KernelTables {
    /// The packet, for the helpers that look up sockets in its network namespace.
    pub context: *mut xdp_md,
}

/// Nanoseconds since boot, to a clock tick.
#[inline(always)]
pub fn now_nanoseconds() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
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
    #[inline(always)]
    fn tuple_arguments<A: Family>(tuple: &mut Tuple<A>) -> (*mut bpf_sock_tuple, u32) {
        (core::ptr::from_mut(tuple).cast(), size_of::<Tuple<A>>() as u32)
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
    fn rule(&self, generation: u32, index: u32) -> Option<Rule> {
        maps::RULES.get_value(generation, &index).map(|[rule]| *rule)
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
    fn remembered_block4(&self, epoch: u64, source: &[u8; 4]) -> Option<Block> {
        let slot = maps::REMEMBERED4.get_ptr_mut(remembered4(*source))?;
        // SAFETY: the pointer comes from a per-CPU map that only this program writes.
        let found = unsafe { &*slot };
        (found.epoch == epoch && found.source == word4(*source)).then_some(found.block)
    }

    #[inline(always)]
    fn remember_block4(&self, epoch: u64, source: &[u8; 4], block: Block) {
        if let Some(slot) = maps::REMEMBERED4.get_ptr_mut(remembered4(*source)) {
            // SAFETY: as above.
            unsafe { *slot = RememberedBlock { epoch, source: word4(*source), block } };
        }
    }

    #[inline(always)]
    fn remembered_block6(&self, epoch: u64, source: &[u8; 16]) -> Option<Block> {
        let slot = maps::REMEMBERED6.get_ptr_mut(remembered6(*source))?;
        // SAFETY: as above.
        let found = unsafe { &*slot };
        let [first, second] = words6(*source);
        let same = found.source[0] == first && found.source[1] == second;
        (found.epoch == epoch && same).then_some(found.block)
    }

    #[inline(always)]
    fn remember_block6(&self, epoch: u64, source: &[u8; 16], block: Block) {
        if let Some(slot) = maps::REMEMBERED6.get_ptr_mut(remembered6(*source)) {
            // SAFETY: as above.
            unsafe { *slot = RememberedBlock { epoch, source: words6(*source), block } };
        }
    }

    #[inline(always)]
    fn tcp_socket<A: Family>(&self, tuple: &Tuple<A>) -> bool {
        let mut tuple = *tuple;
        let (tuple, size) = Self::tuple_arguments(&mut tuple);
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
        let mut tuple = *tuple;
        let (tuple, size) = Self::tuple_arguments(&mut tuple);
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
    fn now_seconds(&self) -> u64 {
        now_nanoseconds() / NANOSECONDS
    }

    #[inline(always)]
    fn rules4(&self, generation: u32, word: u32, source: [u8; 4], destination: [u8; 4]) -> Outcome {
        outcome(edge_rules4(
            generation,
            word,
            u32::from_ne_bytes(source),
            u32::from_ne_bytes(destination),
        ))
    }

    #[inline(always)]
    fn rules6(
        &self,
        generation: u32,
        word: u32,
        source: [u8; 16],
        destination: [u8; 16],
    ) -> Outcome {
        let [source_first, source_second] = words6(source);
        let [destination_first, destination_second] = words6(destination);
        outcome(edge_rules6(
            (u64::from(generation) << 32) | u64::from(word),
            source_first,
            source_second,
            destination_first,
            destination_second,
        ))
    }

    #[inline(always)]
    fn rule4(&self, walk: &mut Walk<[u8; 4]>, position: u32) -> Option<Outcome> {
        step_of(edge_rule4(walk, position))
    }

    #[inline(always)]
    fn rule6(&self, walk: &mut Walk<[u8; 16]>, position: u32) -> Option<Outcome> {
        step_of(edge_rule6(walk, position))
    }
}

#[inline(always)]
fn whole(first: u64, second: u64) -> [u8; 16] {
    // SAFETY: sixteen bytes either way, and every bit pattern is a value of both.
    unsafe { core::mem::transmute([first, second]) }
}

/// The walk over IPv6 extension headers, proved once as [`edge_rules4`] is. Of the answer, bit 63
/// says refused and the low byte why; else bits 32 to 39 are the protocol, bit 40 says fragment
/// and the low half how many bytes the headers take.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_extensions(context: *mut xdp_md, offset: u32, first: u32, length: u32) -> u64 {
    let context = XdpContext::new(context);
    // SAFETY: the packet lies between these two for as long as the program runs.
    let frame =
        unsafe { Frame::from_raw(context.data() as *const u8, context.data_end() as *const u8) };
    match extension_headers(&frame, offset as usize, first as u8, length as usize) {
        Ok(Upper { protocol, fragment, skipped }) => {
            (u64::from(fragment) << 40) | (u64::from(protocol) << 32) | skipped as u64
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
            skipped: answer as u32 as usize,
        })
    }
}

/// A reason and a rule in one number, as a function of BPF returns it.
#[inline(always)]
fn packed((reason, rule): Outcome) -> u64 {
    (u64::from(rule) << 32) | reason as u64
}

#[inline(always)]
fn outcome(packed: u64) -> Outcome {
    let reason = match packed as u8 {
        number if number == Reason::Rule as u8 => Reason::Rule,
        number if number == Reason::RuleDrop as u8 => Reason::RuleDrop,
        number if number == Reason::SourceNotAllowed as u8 => Reason::SourceNotAllowed,
        number if number == Reason::DestinationNotAllowed as u8 => Reason::DestinationNotAllowed,
        number if number == Reason::NotPartner as u8 => Reason::NotPartner,
        _ => Reason::NoRule,
    };
    (reason, (packed >> 32) as u32)
}

/// The number that stands for no reason.
const NO_REASON: u8 = 255;

/// What [`rule`] says in a number, as a function of BPF returns it.
#[inline(always)]
fn step(found: Option<Outcome>) -> u64 {
    match found {
        Some(found) => packed(found),
        None => u64::from(NO_REASON),
    }
}

#[inline(always)]
fn step_of(number: u64) -> Option<Outcome> {
    (number as u8 != NO_REASON).then(|| outcome(number))
}

/// One rule of a walk, IPv4, proved once and not again for every turn.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_rule4(walk: *mut Walk<[u8; 4]>, position: u32) -> u64 {
    let tables = KernelTables { context: core::ptr::null_mut() };
    // SAFETY: the callers hand over their own walk; the verifier proves that it is one or null.
    let Some(walk) = (unsafe { walk.as_mut() }) else { return step(None) };
    step(rule(&tables, walk, position))
}

/// As [`edge_rule4`], IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_rule6(walk: *mut Walk<[u8; 16]>, position: u32) -> u64 {
    let tables = KernelTables { context: core::ptr::null_mut() };
    // SAFETY: as in `edge_rule4`.
    let Some(walk) = (unsafe { walk.as_mut() }) else { return step(None) };
    step(rule(&tables, walk, position))
}

/// The walk over a word's rules, IPv4. A global function of BPF: the verifier proves it once, for
/// all arguments, instead of once for every way that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_rules4(generation: u32, word: u32, source: u32, destination: u32) -> u64 {
    let tables = KernelTables { context: core::ptr::null_mut() };
    let (source, destination) = (source.to_ne_bytes(), destination.to_ne_bytes());
    packed(rules(&tables, generation, word, source, destination))
}

/// The walk over a word's rules, IPv6; as [`edge_rules4`]. The first argument holds the
/// generation and the word, since there are no more than five.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_rules6(
    generation_and_word: u64,
    source_first: u64,
    source_second: u64,
    destination_first: u64,
    destination_second: u64,
) -> u64 {
    let tables = KernelTables { context: core::ptr::null_mut() };
    let (generation, word) = ((generation_and_word >> 32) as u32, generation_and_word as u32);
    let source = whole(source_first, source_second);
    let destination = whole(destination_first, destination_second);
    packed(rules(&tables, generation, word, source, destination))
}
