//! Media flows: what a packet of a flow must be to be forwarded, and what is kept of it.
//!
//! A flow's remote is learned only from the address that the daemon named or, behind NAT, from a
//! prefix of its choice, within a window, from a packet with the right first byte, and of RTP with
//! a steady SSRC. [`judge`] changes nothing, so that a trial asks it too; [`note`] and
//! [`note_refused`] write down what came of it.
//!
//! It must never let a packet of another source move a flow that has learned its own.
//! RFC 3550 (sequence numbers, jitter), RFC 7983 (first byte), RFC 1624 (checksums).

mod learn;
mod packet;
mod rtp;
mod sum;
#[cfg(test)]
mod tests;

pub use learn::{Learn, fits, shared};
pub use packet::{MediaPacket, Rtp, read};
pub use sum::{add, folded, words};

use crate::{
    abi::{
        LIMIT_SCALE, Limit, MEDIA_BY_DAEMON, MEDIA_CANDIDATE, MEDIA_LEARNED, MEDIA_NOTHING,
        MEDIA_OUT_IPV6, MEDIA_REWRITE, MediaFlow, MediaState, words6,
    },
    decide::conforms,
    packet::refused_first_byte,
    verdict::Reason,
};

const NANOSECONDS: u64 = 1_000_000_000;

/// A packet that goes on, and what changes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is learned of the source.
    pub learn: Learn,
    /// See [`MediaState::next_packet`].
    pub next_packet: u64,
    /// See [`MediaState::next_byte`].
    pub next_byte: u64,
    /// The daemon forwards it.
    pub by_daemon: bool,
}

/// Judges a packet that came for this flow. `now` is nanoseconds since boot, coarse.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn judge(
    flow: &MediaFlow,
    state: &MediaState,
    packet: &MediaPacket,
    now: u64,
) -> Result<Step, Reason> {
    if flow.call == 0 || now >= NANOSECONDS * flow.expires_at_seconds as u64 {
        return Err(Reason::MediaExpired);
    }
    let [first, second] = words6(flow.local);
    if packet.destination[0] != first
        || packet.destination[1] != second
        || packet.destination_port != u16::from_ne_bytes(flow.local_port)
    {
        return Err(Reason::MediaShape);
    }
    let learn = learn::source(flow, state, packet, now)?;
    if refused_first_byte(packet.first, flow.content) {
        return Err(Reason::NotMedia);
    }
    if learn == Learn::Candidate {
        return Err(Reason::MediaLearning);
    }
    let next_packet = room(&flow.packets, state.next_packet, now, 1)?;
    let next_byte = room(&flow.bytes, state.next_byte, now, packet.length as u64)?;
    if packet.hops <= 1 {
        return Err(Reason::MediaHops);
    }
    let by_daemon = flow.flags & MEDIA_BY_DAEMON != 0;
    if flow.ifindex == 0 && !by_daemon {
        return Err(Reason::MediaNoRoute);
    }
    if flow.mtu != 0 && !by_daemon && leaving_length(flow, packet) > flow.mtu as u32 {
        return Err(Reason::MediaTooLong);
    }
    Ok(Step { learn, next_packet, next_byte, by_daemon })
}

/// Bytes of the IP packet that leaves.
#[inline(always)]
const fn leaving_length(flow: &MediaFlow, packet: &MediaPacket) -> u32 {
    if flow.flags & MEDIA_REWRITE == 0 {
        return packet.length.wrapping_sub(packet.network);
    }
    let header = if flow.flags & MEDIA_OUT_IPV6 != 0 { 40 } else { 20 };
    header + packet.udp_length as u32
}

/// Nanoseconds between two errors that say how long a packet of a flow may be.
pub const ERROR_INTERVAL: u64 = NANOSECONDS / 10;

/// Bytes of the longest IP packet that its sender may send: it leaves with another header.
#[inline(always)]
pub const fn longest_from(flow: &MediaFlow, packet: &MediaPacket) -> u32 {
    let mtu = flow.mtu as u32;
    match (packet.six, flow.flags & (MEDIA_REWRITE | MEDIA_OUT_IPV6)) {
        (false, REWRITTEN_TO_SIX) => mtu.saturating_sub(20),
        (true, MEDIA_REWRITE) => mtu + 20,
        _ => mtu,
    }
}

const REWRITTEN_TO_SIX: u16 = MEDIA_REWRITE | MEDIA_OUT_IPV6;

/// When the next unit of a limit is due.
#[inline(always)]
const fn room(limit: &Limit, due: u64, now: u64, units: u64) -> Result<u64, Reason> {
    if limit.increment == 0 {
        return Ok(due);
    }
    match conforms(limit, due, now.wrapping_mul(LIMIT_SCALE), units) {
        Some(due) => Ok(due),
        None => Err(Reason::MediaRate),
    }
}

/// Writes down a packet that goes on. `precise` is the clock that is not coarse, asked only when
/// jitter is measured.
#[inline(always)]
pub fn note(
    state: &mut MediaState,
    flow: &MediaFlow,
    packet: &MediaPacket,
    step: &Step,
    now: u64,
    precise: impl Fn() -> u64,
) {
    if step.learn == Learn::Learned {
        remember(state, flow, packet, MEDIA_LEARNED);
    }
    state.packets = state.packets.wrapping_add(1);
    state.bytes = state.bytes.wrapping_add(packet.length as u64);
    state.next_packet = step.next_packet;
    state.next_byte = step.next_byte;
    state.last_seen = now;
    if let Some(rtp) = packet.rtp_of(flow) {
        rtp::count(state, flow, &rtp, precise);
    }
}

/// Writes down a packet that was dropped: another source may be learned by its next one.
#[inline(always)]
pub fn note_refused(
    state: &mut MediaState,
    flow: &MediaFlow,
    packet: &MediaPacket,
    reason: Reason,
) {
    state.dropped = state.dropped.wrapping_add(1);
    if reason == Reason::MediaLearning {
        remember(state, flow, packet, MEDIA_CANDIDATE);
    }
}

/// Keeps the packet's source.
#[inline(always)]
fn remember(state: &mut MediaState, flow: &MediaFlow, packet: &MediaPacket, learned: u32) {
    if state.epoch != flow.epoch {
        // What was learned before counts no longer, while this is written either.
        state.learned = MEDIA_NOTHING;
        state.epoch = flow.epoch;
    }
    state.source = crate::abi::address6(packet.source);
    state.source_port = packet.source_port.to_ne_bytes();
    if let Some(rtp) = packet.rtp_of(flow) {
        if state.ssrc != rtp.ssrc {
            state.received = 0;
        }
        state.ssrc = rtp.ssrc;
    } else if learned == MEDIA_CANDIDATE {
        state.ssrc = 0;
    }
    state.learned = learned;
}
