//! Sequence numbers and jitter of RTP (RFC 3550, appendices A.1 and A.8).

use super::{NANOSECONDS, Rtp};
use crate::abi::{MediaFlow, MediaState};

/// A gap up to this is loss (A.1: MAX_DROPOUT).
const MOST_LOST: u16 = 3000;
/// A number up to this behind is late (A.1: MAX_MISORDER).
const MOST_LATE: u16 = 100;
/// Jitter is measured over one pair of packets in so many. A power of two.
const PAIRS: u16 = 8;
/// A packet that comes later than this has paused, and measures nothing.
const PAUSE: u64 = 10 * NANOSECONDS;

/// Counts a packet of the flow's source.
#[inline(always)]
pub(super) fn count(
    state: &mut MediaState,
    flow: &MediaFlow,
    rtp: &Rtp,
    precise: impl Fn() -> u64,
) {
    if state.received == 0 || state.ssrc != rtp.ssrc {
        begin(state, rtp);
    } else {
        follow(state, rtp.sequence);
    }
    state.received = state.received.wrapping_add(1);
    if flow.clock != 0 {
        jitter(state, flow.clock, rtp, precise);
    }
}

/// A stream begins: its numbers have nothing to do with those before.
#[inline(always)]
fn begin(state: &mut MediaState, rtp: &Rtp) {
    state.ssrc = rtp.ssrc;
    state.received = 0;
    state.first_sequence = rtp.sequence as u32;
    state.highest_sequence = rtp.sequence as u32;
    state.jitter = 0;
    state.arrival = 0;
    state.strange = 0;
}

#[inline(always)]
fn follow(state: &mut MediaState, sequence: u16) {
    let ahead = sequence.wrapping_sub(state.highest_sequence as u16);
    if ahead < MOST_LOST {
        state.highest_sequence = state.highest_sequence.wrapping_add(ahead as u32);
    } else if ahead <= u16::MAX - MOST_LATE {
        let next = sequence.wrapping_add(1) as u32;
        if state.strange == (1 << 16 | sequence as u32) {
            // Two in a row: the source counts anew. What was lost before stays lost.
            let span = state.highest_sequence.wrapping_sub(state.first_sequence);
            state.highest_sequence = sequence as u32;
            state.first_sequence = state.highest_sequence.wrapping_sub(span).wrapping_sub(2);
            state.strange = 0;
        } else {
            state.strange = 1 << 16 | next & 0xffff;
        }
    }
    // Else it is late, or comes twice.
}

/// Of each pair of packets, the second tells how much later it came than its timestamp says.
#[inline(always)]
fn jitter(state: &mut MediaState, clock: u32, rtp: &Rtp, precise: impl Fn() -> u64) {
    let place = rtp.sequence & (PAIRS - 1);
    if place == 0 {
        state.arrival = precise();
        state.timestamp = rtp.timestamp;
        state.jitter_sequence = rtp.sequence;
    } else if place == 1
        && state.arrival != 0
        && rtp.sequence.wrapping_sub(state.jitter_sequence) == 1
    {
        let passed = precise().wrapping_sub(state.arrival);
        state.arrival = 0;
        if passed < PAUSE {
            let units = (passed * clock as u64 / NANOSECONDS) as u32;
            let late = units.wrapping_sub(rtp.timestamp.wrapping_sub(state.timestamp)) as i32;
            let before = state.jitter;
            state.jitter =
                before.wrapping_add(late.unsigned_abs()).wrapping_sub(before.wrapping_add(8) >> 4);
        }
    }
}
