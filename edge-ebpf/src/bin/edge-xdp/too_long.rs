//! Tells the sender of a media packet that is too long for the device it would leave by how long it
//! may be: ICMP "fragmentation needed" (RFC 792, RFC 1191) or ICMPv6 "packet too big" (RFC 4443
//! section 3.2), as any router would. The packet itself becomes the error: room is made in front of
//! its headers, which are what is quoted, and the rest is cut off.
//!
//! Only who may send to the flow hears of it, [`ERROR_INTERVAL`] apart: [`edge_ebpf::media::judge`]
//! finds a packet too long after it has looked at its source and at the flow's rates. The error comes
//! from the address that the packet was for, and goes back the way it came.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
};
use edge_ebpf::media::{self, ERROR_INTERVAL, MediaPacket, add, folded, longest_from, read};

use crate::{
    context::{frame_of, now_nanoseconds},
    maps,
    media::{ETHERNET, IPV4, IPV6, TAG, UDP, head, put, unmapped},
};

/// Bytes of an ICMP header.
const ICMP: usize = 8;
/// What is quoted beside the IP header (RFC 792).
const QUOTED: usize = UDP;
/// Hops of what we send.
const HOPS: u8 = 64;
/// Traffic class of what routers say (RFC 1812 section 4.3.2.5).
const NETWORK_CONTROL: u8 = 0xc0;

/// Makes the error of a packet of the flow in this slot; 1: the frame is to go back. A function that
/// the verifier proves by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn edge_too_long(context: *mut xdp_md, slot: u32) -> u64 {
    let Some(flow) = maps::MEDIA_FLOWS.get(slot) else { return 0 };
    let Some(state) = maps::MEDIA_STATES.get_ptr_mut(flow.state) else { return 0 };
    let Some(packet) = read(&frame_of(context)) else { return 0 };
    // Of IPv4, only who says "do not fragment" asks to be told.
    if !packet.six && !packet.whole {
        return 0;
    }
    let now = now_nanoseconds();
    // SAFETY: the pointer comes from the map; the number is one word.
    unsafe {
        if now < (*state).next_error {
            return 0;
        }
        (*state).next_error = now + ERROR_INTERVAL;
    }
    let mtu = longest_from(flow, &packet);
    let told = match (packet.network as usize, packet.six) {
        (ETHERNET, false) => four::<ETHERNET, { all(ETHERNET, IPV4) }>(context, &packet, mtu),
        (TAGGED, false) => four::<TAGGED, { all(TAGGED, IPV4) }>(context, &packet, mtu),
        (ETHERNET, true) => six::<ETHERNET, { all(ETHERNET, IPV6) }>(context, &packet, mtu),
        (TAGGED, true) => six::<TAGGED, { all(TAGGED, IPV6) }>(context, &packet, mtu),
        // Who asks for two tags is on no network that we know of.
        _ => None,
    };
    u64::from(told.is_some())
}

const TAGGED: usize = ETHERNET + TAG;

/// Bytes of the frame.
const fn all(link: usize, ip: usize) -> usize {
    link + ip + ICMP + ip + QUOTED
}

/// Cuts the frame after what is quoted, and makes room in front for another IP header and ICMP's.
#[inline(always)]
fn room<const ALL: usize>(context: *mut xdp_md, new: usize) -> Option<*mut u8> {
    let left = ALL - new;
    // SAFETY: the context is the program's own; every look at the packet before this is over.
    unsafe {
        let length = bpf_xdp_get_buff_len(context) as usize;
        if length < left
            || bpf_xdp_adjust_tail(context, left as i32 - length as i32) != 0
            || bpf_xdp_adjust_head(context, -(new as i32)) != 0
        {
            return None;
        }
    }
    head::<ALL>(context)
}

/// Reads a number of the packet.
///
/// # Safety
/// It is there, at `start` and `offset`.
#[inline(always)]
unsafe fn get<T>(start: *mut u8, offset: usize) -> T {
    // SAFETY: as the caller promises. Unaligned, as in `put`.
    unsafe { start.wrapping_add(offset).cast::<T>().read() }
}

/// The link layer's header of an answer, from the one that lies `new` bytes further on.
///
/// # Safety
/// Both are there.
#[inline(always)]
unsafe fn link<const LINK: usize>(start: *mut u8, new: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        let (to, to_end): (u32, u16) = (get(start, new + 6), get(start, new + 10));
        let (from, from_end): (u32, u16) = (get(start, new), get(start, new + 4));
        let kind: u16 = get(start, new + 12);
        put(start, 0, to);
        put(start, 4, to_end);
        put(start, 6, from);
        put(start, 10, from_end);
        put(start, 12, kind);
        if LINK > ETHERNET {
            let tag: u32 = get(start, new + 14);
            put(start, 14, tag);
        }
    }
}

/// The sum of the UDP header.
#[inline(always)]
fn quoted_udp(packet: &MediaPacket) -> u64 {
    u64::from(packet.source_port)
        + u64::from(packet.destination_port)
        + u64::from(packet.udp_length.to_be())
        + u64::from(packet.checksum)
}

#[inline(always)]
fn four<const LINK: usize, const ALL: usize>(
    context: *mut xdp_md,
    packet: &MediaPacket,
    mtu: u32,
) -> Option<()> {
    let start = room::<ALL>(context, IPV4 + ICMP)?;
    let (source, destination) = (unmapped(packet.destination), unmapped(packet.source));
    let first = u16::from_be_bytes([0x45, NETWORK_CONTROL]).to_be();
    let length = ((ALL - LINK) as u16).to_be();
    let whole = 0x4000_u16.to_be();
    let hops = u16::from_be_bytes([HOPS, 1]).to_be();
    let sum = u64::from(first)
        + u64::from(length)
        + u64::from(whole)
        + u64::from(hops)
        + u64::from(source)
        + u64::from(destination);
    let kind = 0x0304_u16.to_be();
    let mtu = (mtu as u16).to_be();
    // The header that is quoted has its own sum, which is nothing.
    let icmp = u64::from(kind) + u64::from(mtu) + quoted_udp(packet);
    // SAFETY: `room` found all of it to be there.
    unsafe {
        link::<LINK>(start, IPV4 + ICMP);
        put(start, LINK, first);
        put(start, LINK + 2, length);
        put(start, LINK + 4, 0_u16);
        put(start, LINK + 6, whole);
        put(start, LINK + 8, hops);
        put(start, LINK + 10, !folded(sum));
        put(start, LINK + 12, source);
        put(start, LINK + 16, destination);
        put(start, LINK + IPV4, kind);
        put(start, LINK + IPV4 + 2, !folded(icmp));
        put(start, LINK + IPV4 + 4, 0_u16);
        put(start, LINK + IPV4 + 6, mtu);
    }
    Some(())
}

#[inline(always)]
fn six<const LINK: usize, const ALL: usize>(
    context: *mut xdp_md,
    packet: &MediaPacket,
    mtu: u32,
) -> Option<()> {
    let start = room::<ALL>(context, IPV6 + ICMP)?;
    let first = (6 << 28 | u32::from(NETWORK_CONTROL) << 20).to_be();
    let length = ((ALL - LINK - IPV6) as u16).to_be();
    let next = u16::from_be_bytes([58, HOPS]).to_be();
    let kind = 0x0200_u16.to_be();
    let mtu = mtu.to_be();
    // Both ends count twice: in the pseudo header and in what is quoted.
    let ends = media::words(media::words(0, packet.source), packet.destination);
    let ends = u64::from(folded(ends));
    let quoted = (6 << 28 | u32::from(packet.class) << 20 | packet.label).to_be();
    let after = u16::from_be_bytes([17, packet.hops]).to_be();
    let icmp = add(ends + ends, u64::from(quoted) + u64::from(mtu))
        + u64::from(length)
        + u64::from(58_u16.to_be())
        + u64::from(kind)
        + u64::from(packet.udp_length.to_be())
        + u64::from(after)
        + quoted_udp(packet);
    // SAFETY: `room` found all of it to be there.
    unsafe {
        link::<LINK>(start, IPV6 + ICMP);
        put(start, LINK, first);
        put(start, LINK + 4, length);
        put(start, LINK + 6, next);
        put(start, LINK + 8, packet.destination[0]);
        put(start, LINK + 16, packet.destination[1]);
        put(start, LINK + 24, packet.source[0]);
        put(start, LINK + 32, packet.source[1]);
        put(start, LINK + IPV6, kind);
        put(start, LINK + IPV6 + 2, !folded(icmp));
        put(start, LINK + IPV6 + 4, mtu);
    }
    Some(())
}
