//! Whose packets a flow takes.

use super::{MediaPacket, NANOSECONDS};
use crate::{
    abi::{
        MEDIA_BEHIND_NAT, MEDIA_CANDIDATE, MEDIA_LEARNED, MEDIA_SHARED, MediaFlow, MediaState,
        words6,
    },
    verdict::Reason,
};

/// What a packet teaches of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learn {
    /// Nothing: it is the source that is known.
    Known,
    /// It may be the source; its next packet says so.
    Candidate,
    /// It is the source, from now on.
    Learned,
}

/// Whether the source may send, and what is learned of it:
///
/// | learned before | the packet comes from | |
/// | --- | --- | --- |
/// | a source | that source | known |
/// | another source | the flow's own address and port | learned: whoever forged packets from another port first keeps nobody out |
/// | a source | anywhere else | refused |
/// | nothing | the flow's own address and port | learned at once |
/// | nothing | another port of it, or behind NAT anywhere in the prefix, in the window | candidate; a second time in a row, with the same SSRC, learned |
/// | nothing | anywhere else, or out of the window | refused |
///
/// What was learned under another epoch is nothing.
///
/// # Errors
/// `MediaSource`: it may not.
#[inline(always)]
pub(super) fn source(
    flow: &MediaFlow,
    state: &MediaState,
    packet: &MediaPacket,
    now: u64,
) -> Result<Learn, Reason> {
    let (learned, same) = match state.epoch == flow.epoch {
        true => (state.learned, is_same(state, packet)),
        false => (0, false),
    };
    if learned == MEDIA_LEARNED && same {
        return Ok(Learn::Known);
    }
    if !within(packet.source, words6(flow.source), flow.source_bits) {
        return Err(Reason::MediaSource);
    }
    let expected = u16::from_ne_bytes(flow.source_port);
    let behind_nat = flow.flags & MEDIA_BEHIND_NAT != 0;
    if !behind_nat && expected != 0 && packet.source_port == expected {
        return Ok(Learn::Learned);
    }
    if learned == MEDIA_LEARNED {
        return Err(Reason::MediaSource);
    }
    if now >= NANOSECONDS * flow.learn_until_seconds as u64 {
        return Err(Reason::MediaSource);
    }
    // What is no RTP has no SSRC, and may come before or between.
    let ssrc = packet.rtp_of(flow).map_or(0, |rtp| rtp.ssrc);
    let steady = state.ssrc == ssrc || state.ssrc == 0 || ssrc == 0;
    let again = learned == MEDIA_CANDIDATE && same && steady;
    Ok(if again { Learn::Learned } else { Learn::Candidate })
}

/// How well a flow fits a packet's source, among those that share a door: by what it has learned or
/// was told (2), as one that may still be learned (1), or not (0).
#[inline(always)]
pub fn fits(flow: &MediaFlow, state: &MediaState, packet: &MediaPacket) -> u32 {
    let learned = state.epoch == flow.epoch && state.learned == MEDIA_LEARNED;
    if learned && is_same(state, packet) {
        return 2;
    }
    if !within(packet.source, words6(flow.source), flow.source_bits) {
        return 0;
    }
    let told = flow.flags & MEDIA_BEHIND_NAT == 0
        && packet.source_port == u16::from_ne_bytes(flow.source_port);
    if told { 2 } else { u32::from(!learned) }
}

/// The slot of the flow that a packet belongs to, among those that share a door: the one that fits
/// its source best, and of those that fit alike the first. `look`: how well the one in a slot fits,
/// and the slot of the next.
#[inline(always)]
pub fn shared(first: u32, look: impl Fn(u32) -> Option<(u32, u32)>) -> u32 {
    let (mut at, mut best, mut found) = (first, 0, first);
    for _ in 0..MEDIA_SHARED {
        let Some((fits, next)) = look(at) else { break };
        if fits > best {
            (best, found) = (fits, at);
        }
        if best > 1 || next == 0 {
            break;
        }
        at = next;
    }
    found
}

#[inline(always)]
fn is_same(state: &MediaState, packet: &MediaPacket) -> bool {
    let [first, second] = words6(state.source);
    first == packet.source[0]
        && second == packet.source[1]
        && u16::from_ne_bytes(state.source_port) == packet.source_port
}

/// Whether two addresses, in words as they stand in the packet, have their first bits in common.
#[inline(always)]
const fn within(one: [u64; 2], other: [u64; 2], bits: u8) -> bool {
    let (first, second) = (u64::from_be(one[0] ^ other[0]), u64::from_be(one[1] ^ other[1]));
    let bits = bits as u32;
    if bits >= 128 {
        first | second == 0
    } else if bits > 64 {
        first == 0 && second >> ((128 - bits) & 63) == 0
    } else if bits == 64 {
        first == 0
    } else {
        // Nobody is behind a NAT that is the whole Internet.
        bits > 0 && first >> ((64 - bits) & 63) == 0
    }
}
