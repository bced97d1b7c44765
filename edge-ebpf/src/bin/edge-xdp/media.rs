//! Forwards the packets of media flows: judged by [`edge_ebpf::media`], then rewritten and sent
//! out. The packet's new headers are written anew in front of its UDP header, whatever family it
//! came in: room is made or taken away at the frame's head. The UDP checksum follows what changes
//! (RFC 1624); where an IPv4 datagram without one becomes IPv6, it is computed.
//!
//! The next hop stands in the flow: the kernel's own look-up (`bpf_fib_lookup`) wants forwarding
//! switched on, with which the stack would route whatever else passes.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::{bpf_ktime_get_ns, bpf_redirect, bpf_xdp_adjust_head},
    programs::XdpContext,
};
use edge_ebpf::{
    abi::{
        MEDIA_OUT_IPV6, MEDIA_REWRITE, MediaFlow, MediaLearned, media_door_flow, media_door_state,
        media_home, word4, words6,
    },
    media::{self, Learn, MediaPacket, add, fits, folded, judge, note, note_refused, read, shared},
    verdict::Reason,
};

use crate::{
    context::{frame_of, now_nanoseconds},
    maps,
};

/// Bytes of an Ethernet header, of a tag, and of the three headers.
pub(super) const ETHERNET: usize = 14;
pub(super) const TAG: usize = 4;
pub(super) const IPV4: usize = 20;
pub(super) const IPV6: usize = 40;
pub(super) const UDP: usize = 8;
/// The most bytes of a datagram whose checksum is computed: what Ethernet carries.
const MOST_SUMMED: u32 = 1500;

/// The slot of the flow behind a door; 0: none. All cache lines of the flow and of its state are asked
/// for here, before any of them is waited for: where there are many flows, none of them is in the
/// nearest cache when its packet comes. Those in the slot `asked_for` were.
#[inline(always)]
pub(super) fn flow_behind(door: u32, asked_for: u32) -> u32 {
    let slot = media_door_flow(door);
    if slot != 0 && slot != asked_for {
        ask_for(slot, media_door_state(door));
    }
    slot
}

/// [`flow_behind`] the door of a port. Most flows are at home, and asked for before the door is there.
#[inline(always)]
pub(super) fn flow_at(index: u32) -> u32 {
    let (slot, state) = media_home(index);
    ask_for(slot, state);
    flow_behind(maps::MEDIA_PORTS.get(index).copied().unwrap_or(0), slot)
}

/// Has all cache lines of the flow and of the state in these slots on their way.
#[inline(always)]
fn ask_for(slot: u32, state: u32) {
    fetch(maps::MEDIA_FLOWS.get_ptr(slot));
    fetch(maps::MEDIA_STATES.get_ptr(state));
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

/// What becomes of a packet: the action above the number of the reason.
#[inline(always)]
const fn outcome(action: u32, reason: Reason) -> u64 {
    (action as u64) << 8 | reason as u64
}

/// Judges a packet of the flow in this slot and sends it on, unless `trial` says that nothing may
/// change. A function that the verifier proves by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn edge_forward(context: *mut xdp_md, slot: u32, trial: u32) -> u64 {
    let drop = |reason| outcome(xdp_action::XDP_DROP, reason);
    let Some(flow) = maps::MEDIA_FLOWS.get(slot) else { return drop(Reason::MediaExpired) };
    let Some(state) = maps::MEDIA_STATES.get_ptr_mut(flow.state) else {
        return drop(Reason::MediaExpired);
    };
    // SAFETY: the pointer comes from the map. Another CPU may write at the same time: each number
    // is one word, and what is learned counts from the last one on.
    let state = unsafe { &mut *state };
    let Some(packet) = read(&frame_of(context)) else {
        if trial == 0 && flow.call != 0 {
            state.dropped = state.dropped.wrapping_add(1);
        }
        return drop(Reason::MediaShape);
    };
    let now = now_nanoseconds();
    let step = match judge(flow, state, &packet, now) {
        Ok(step) => step,
        Err(reason) => {
            if trial == 0 && flow.call != 0 {
                note_refused(state, flow, &packet, reason);
            }
            return drop(reason);
        }
    };
    if trial == 0 {
        note(state, flow, &packet, &step, now, precise);
        if step.learn == Learn::Learned {
            tell(flow, &packet);
        }
    }
    if step.by_daemon {
        return outcome(xdp_action::XDP_PASS, Reason::MediaToDaemon);
    }
    if trial != 0 {
        return outcome(xdp_action::XDP_REDIRECT, Reason::MediaRelayed);
    }
    match rewrite(context, flow, &packet) {
        Some(()) => outcome(send(context, flow.ifindex), Reason::MediaRelayed),
        None => drop(Reason::MediaShape),
    }
}

/// [`shared`] for the flows behind the door of this one: a function that the verifier proves by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn edge_shared(context: *mut xdp_md, slot: u32) -> u64 {
    let Some(packet) = read(&frame_of(context)) else { return slot.into() };
    let look = |slot| {
        let flow = maps::MEDIA_FLOWS.get(slot)?;
        let state = maps::MEDIA_STATES.get(flow.state)?;
        Some((fits(flow, state, &packet), flow.next.into()))
    };
    shared(slot, look).into()
}

/// The clock that is not coarse.
#[inline(always)]
fn precise() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Tells the daemon whose packets the flow takes.
#[inline(always)]
fn tell(flow: &MediaFlow, packet: &MediaPacket) {
    // Without room the daemon finds it in the state, later.
    let Some(mut entry) = maps::MEDIA_EVENTS.reserve(0) else { return };
    entry.write(MediaLearned {
        call: flow.call,
        source: edge_ebpf::abi::address6(packet.source),
        state: flow.state,
        epoch: flow.epoch,
        source_port: packet.source_port.to_ne_bytes(),
        reserved: [0; 6],
    });
    entry.submit(0);
}

/// Sends the frame out by this device.
#[inline(always)]
fn send(context: *mut xdp_md, ifindex: u32) -> u32 {
    let context = XdpContext::new(context);
    if context.ingress_ifindex() as u32 == ifindex {
        return xdp_action::XDP_TX;
    }
    // SAFETY: a helper that only keeps the number.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}

/// How the packet leaves.
#[derive(Clone, Copy)]
struct Leaving {
    from: [u64; 2],
    to: [u64; 2],
    from_port: u16,
    to_port: u16,
    checksum: u16,
    six: bool,
}

/// Writes the packet's headers anew. `None`: it cannot be done, and nothing was changed.
#[inline(always)]
fn rewrite(context: *mut xdp_md, flow: &MediaFlow, packet: &MediaPacket) -> Option<()> {
    let leaving = leaving(context, flow, packet)?;
    let before = packet.network + if packet.six { IPV6 } else { IPV4 } as u32;
    let after = ETHERNET as u32
        + if flow.vlan != 0 { TAG as u32 } else { 0 }
        + if leaving.six { IPV6 as u32 } else { IPV4 as u32 };
    let move_by = before as i32 - after as i32;
    // SAFETY: the context is the program's own; every look at the packet before this is over.
    if move_by != 0 && unsafe { bpf_xdp_adjust_head(context, move_by) } != 0 {
        return None;
    }
    match (flow.vlan != 0, leaving.six) {
        (false, false) => {
            write4::<ETHERNET, { ETHERNET + IPV4 + UDP }>(context, flow, packet, &leaving)
        }
        (false, true) => {
            write6::<ETHERNET, { ETHERNET + IPV6 + UDP }>(context, flow, packet, &leaving)
        }
        (true, false) => write4::<{ ETHERNET + TAG }, { ETHERNET + TAG + IPV4 + UDP }>(
            context, flow, packet, &leaving,
        ),
        (true, true) => write6::<{ ETHERNET + TAG }, { ETHERNET + TAG + IPV6 + UDP }>(
            context, flow, packet, &leaving,
        ),
    }
}

/// Both ends as they will be, and the checksum that goes with them.
#[inline(always)]
fn leaving(context: *mut xdp_md, flow: &MediaFlow, packet: &MediaPacket) -> Option<Leaving> {
    if flow.flags & MEDIA_REWRITE == 0 {
        return Some(Leaving {
            from: packet.source,
            to: packet.destination,
            from_port: packet.source_port,
            to_port: packet.destination_port,
            checksum: packet.checksum,
            six: packet.six,
        });
    }
    let six = flow.flags & MEDIA_OUT_IPV6 != 0;
    let (from, to) = (words6(flow.from), words6(flow.to));
    let (from_port, to_port) =
        (u16::from_ne_bytes(flow.from_port), u16::from_ne_bytes(flow.to_port));
    let mut checksum = packet.checksum;
    if checksum == 0 && six {
        checksum = computed(context, packet)?;
    }
    if checksum != 0 {
        checksum = follows(checksum, packet, (from, from_port), (to, to_port));
    }
    Some(Leaving { from, to, from_port, to_port, checksum, six })
}

/// The checksum after both ends have changed (RFC 1624 equation 3). The mapped form of an IPv4
/// address has the sum of the address: its other words are 0 and 0xffff, which are both nothing.
#[inline(always)]
fn follows(checksum: u16, packet: &MediaPacket, from: ([u64; 2], u16), to: ([u64; 2], u16)) -> u16 {
    let sum = u64::from(!checksum);
    let sum = media::words(sum, [!packet.source[0], !packet.source[1]]);
    let sum = media::words(sum, [!packet.destination[0], !packet.destination[1]]);
    let sum = sum + u64::from(!packet.source_port) + u64::from(!packet.destination_port);
    let sum = media::words(media::words(sum, from.0), to.0);
    not_zero(!folded(sum + u64::from(from.1) + u64::from(to.1)))
}

/// A checksum of 0 means none, and is sent as its other form (RFC 768).
#[inline(always)]
const fn not_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The checksum that the datagram would have had as it came.
#[inline(always)]
fn computed(context: *mut xdp_md, packet: &MediaPacket) -> Option<u16> {
    let length = u32::from(packet.udp_length);
    if length > MOST_SUMMED {
        return None;
    }
    let sum = edge_datagram_sum(context, packet.network + IPV4 as u32, length);
    if sum == u64::MAX {
        return None;
    }
    // The pseudo header: addresses, length, protocol.
    let sum = media::words(media::words(sum, packet.source), packet.destination);
    let sum = sum + u64::from((length as u16).to_be()) + u64::from(17_u16.to_be());
    Some(not_zero(!folded(sum)))
}

/// The sum of a datagram's bytes, or `u64::MAX` when they are not there; proved once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn edge_datagram_sum(context: *mut xdp_md, offset: u32, length: u32) -> u64 {
    let frame = frame_of(context);
    let mut cursor = frame.cursor();
    cursor.skip((offset & 0x3f) as usize);
    let (mut sum, mut left) = (0, length & 0x7ff);
    for _ in 0..MOST_SUMMED / 8 {
        if left < 8 {
            break;
        }
        let Some(eight) = cursor.take::<8>() else { return u64::MAX };
        sum = add(sum, eight.eight::<0>());
        left -= 8;
    }
    if left & 4 != 0 {
        let Some(four) = cursor.take::<4>() else { return u64::MAX };
        sum += u64::from(u32::from_ne_bytes(four.four::<0>()));
    }
    if left & 2 != 0 {
        let Some(two) = cursor.take::<2>() else { return u64::MAX };
        sum += u64::from(u16::from_ne_bytes(two.two::<0>()));
    }
    if left & 1 != 0 {
        // The last byte stands before a zero (RFC 1071 section 1).
        let Some(one) = cursor.take::<1>() else { return u64::MAX };
        sum += u64::from(u16::from_ne_bytes([one.byte::<0>(), 0]));
    }
    sum
}

/// The place of the first `N` bytes, if they are there.
#[inline(always)]
pub(super) fn head<const N: usize>(context: *mut xdp_md) -> Option<*mut u8> {
    let (start, end) = frame_of(context).bounds();
    (start.wrapping_add(N) <= end).then_some(start.cast_mut())
}

/// Writes a number into the packet.
///
/// # Safety
/// There is room for it at `start` and `offset`.
#[inline(always)]
pub(super) unsafe fn put<T>(start: *mut u8, offset: usize, value: T) {
    // SAFETY: as the caller promises. The kernel's machines write unaligned integers; where one
    // does not, its verifier refuses the program.
    unsafe { start.wrapping_add(offset).cast::<T>().write(value) };
}

/// Writes the link layer's header.
///
/// # Safety
/// There is room for it at `start`.
#[inline(always)]
unsafe fn link(start: *mut u8, flow: &MediaFlow, ether_type: u16) {
    let [a, b, c, d, e, f] = flow.next_hop;
    let [g, h, i, j, k, l] = flow.device;
    // SAFETY: as the caller promises.
    unsafe {
        put(start, 0, u32::from_ne_bytes([a, b, c, d]));
        put(start, 4, u32::from_ne_bytes([e, f, g, h]));
        put(start, 8, u32::from_ne_bytes([i, j, k, l]));
        if flow.vlan != 0 {
            put(start, 12, 0x8100_u16.to_be());
            put(start, 14, flow.vlan.to_be());
            put(start, 16, ether_type.to_be());
        } else {
            put(start, 12, ether_type.to_be());
        }
    }
}

/// Writes the UDP header but its length, which stays.
///
/// # Safety
/// There is room for it at `offset`.
#[inline(always)]
unsafe fn udp(start: *mut u8, offset: usize, leaving: &Leaving) {
    // SAFETY: as the caller promises.
    unsafe {
        put(start, offset, leaving.from_port);
        put(start, offset + 2, leaving.to_port);
        put(start, offset + 6, leaving.checksum);
    }
}

/// The IPv4 address of a mapped one, as it stands in the packet.
#[inline(always)]
pub(super) fn unmapped(words: [u64; 2]) -> u32 {
    let bytes = edge_ebpf::abi::address6(words);
    word4([bytes[12], bytes[13], bytes[14], bytes[15]])
}

#[inline(always)]
fn write4<const IP: usize, const ALL: usize>(
    context: *mut xdp_md,
    flow: &MediaFlow,
    packet: &MediaPacket,
    leaving: &Leaving,
) -> Option<()> {
    let start = head::<ALL>(context)?;
    let (source, destination) = (unmapped(leaving.from), unmapped(leaving.to));
    // What was IPv6 is not fragmented on its way, and needs no identification (RFC 6864).
    let (id, whole) = if packet.six { (0, true) } else { (packet.id, packet.whole) };
    let first = u16::from_be_bytes([0x45, packet.class]).to_be();
    let length = (IPV4 as u16).wrapping_add(packet.udp_length).to_be();
    let fragment = if whole { 0x4000_u16.to_be() } else { 0 };
    let hops = u16::from_be_bytes([packet.hops.wrapping_sub(1), 17]).to_be();
    let sum = u64::from(first)
        + u64::from(length)
        + u64::from(id)
        + u64::from(fragment)
        + u64::from(hops)
        + u64::from(source)
        + u64::from(destination);
    // SAFETY: `head` found room for all of it.
    unsafe {
        link(start, flow, 0x0800);
        put(start, IP, first);
        put(start, IP + 2, length);
        put(start, IP + 4, id);
        put(start, IP + 6, fragment);
        put(start, IP + 8, hops);
        put(start, IP + 10, !folded(sum));
        put(start, IP + 12, source);
        put(start, IP + 16, destination);
        udp(start, IP + IPV4, leaving);
    }
    Some(())
}

#[inline(always)]
fn write6<const IP: usize, const ALL: usize>(
    context: *mut xdp_md,
    flow: &MediaFlow,
    packet: &MediaPacket,
    leaving: &Leaving,
) -> Option<()> {
    let start = head::<ALL>(context)?;
    let first = 6 << 28 | u32::from(packet.class) << 20 | packet.label;
    let hops = u16::from_be_bytes([17, packet.hops.wrapping_sub(1)]).to_be();
    // SAFETY: `head` found room for all of it.
    unsafe {
        link(start, flow, 0x86dd);
        put(start, IP, first.to_be());
        put(start, IP + 4, packet.udp_length.to_be());
        put(start, IP + 6, hops);
        put(start, IP + 8, leaving.from[0]);
        put(start, IP + 16, leaving.from[1]);
        put(start, IP + 24, leaving.to[0]);
        put(start, IP + 32, leaving.to[1]);
        udp(start, IP + IPV6, leaving);
    }
    Some(())
}
