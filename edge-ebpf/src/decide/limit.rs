//! Rates by the generic cell rate algorithm (ITU-T I.371, "virtual scheduling"): a limit's whole
//! state is the time at which its next unit is due. Coarse clocks do no harm beyond their grain.
//! Two CPUs that write at once may let a packet more through, never one less.

use crate::abi::{Bucket, LIMIT_SCALE, Limit, Limits};

/// The most units one packet can cost.
const MOST_UNITS: u64 = 1 << 17;

/// The time at which the next unit is due after `units` more, or `None` when they come too early.
/// `due` and `now` are in the units of [`Limit`]; both may wrap.
///
/// A `due` further ahead than the limit can have put it lies in the past: the limit was idle.
#[inline(always)]
pub const fn conforms(limit: &Limit, due: u64, now: u64, units: u64) -> Option<u64> {
    let ahead = due.wrapping_sub(now);
    let cost = limit.increment.wrapping_mul(units);
    if ahead <= limit.tolerance {
        return Some(due.wrapping_add(cost));
    }
    if ahead <= limit.tolerance.wrapping_add(limit.increment.wrapping_mul(MOST_UNITS)) {
        return None;
    }
    Some(now.wrapping_add(cost))
}

/// A packet as limits count it.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// It opens a TCP connection.
    pub new: bool,
    /// Bytes of the frame.
    pub bytes: u32,
}

/// The bucket after the packet, or `None` when any of the limits is used up: then nothing of it
/// is charged.
#[inline(always)]
pub fn charge(
    limits: &Limits,
    bucket: &Bucket,
    now: u64,
    amount: Amount,
    conforms: impl Fn(&Limit, u64, u64, u64) -> Option<u64>,
) -> Option<Bucket> {
    let mut after = *bucket;
    if limits.new.increment != 0 && amount.new {
        after.new = conforms(&limits.new, bucket.new, now, 1)?;
    }
    if limits.packets.increment != 0 {
        after.packets = conforms(&limits.packets, bucket.packets, now, 1)?;
    }
    if limits.bytes.increment != 0 {
        let bytes = amount.bytes as u64 & (MOST_UNITS - 1);
        after.bytes = conforms(&limits.bytes, bucket.bytes, now, bytes)?;
    }
    Some(after)
}

/// Nanoseconds in the units of [`Limit`].
#[inline(always)]
pub const fn scaled(nanoseconds: u64) -> u64 {
    nanoseconds.wrapping_mul(LIMIT_SCALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000 * LIMIT_SCALE;

    /// Units that pass when one is offered every `step` for a second.
    fn passed(limit: &Limit, start: u64, step: u64) -> u64 {
        let (mut due, mut passed, mut now) = (start, 0, start);
        while now.wrapping_sub(start) < SECOND {
            if let Some(next) = conforms(limit, due, now, 1) {
                (due, passed) = (next, passed + 1);
            }
            now = now.wrapping_add(step);
        }
        passed
    }

    #[test]
    fn a_rate_and_its_burst_pass_and_no_more() {
        for (rate, burst) in [(1, 0), (50, 50), (1000, 10), (10_000, 10_000)] {
            let limit = Limit::new(rate, burst);
            for start in [1, SECOND * 1000, u64::MAX - SECOND / 3] {
                let most = passed(&limit, start, SECOND / 100_000);
                assert!(most >= rate && most <= rate + burst + 1, "{rate}+{burst}: {most}");
            }
        }
    }

    #[test]
    fn a_flow_within_the_rate_never_loses_a_unit() {
        let limit = Limit::new(100, 1);
        assert_eq!(passed(&limit, SECOND * 7, SECOND / 100), 100);
    }

    #[test]
    fn what_was_idle_for_ever_so_long_is_not_taken_for_the_future() {
        let limit = Limit::new(10, 10);
        for now in [SECOND, 1 << 62, 1 << 63, (1 << 63) + SECOND, u64::MAX] {
            assert!(conforms(&limit, 0, now, 1).is_some(), "{now}");
        }
    }

    #[test]
    fn nothing_is_charged_when_one_limit_refuses() {
        let limits =
            Limits { new: Limit::new(1, 0), packets: Limit::new(1000, 10), ..Limits::default() };
        let amount = Amount { new: true, bytes: 60 };
        let first = charge(&limits, &Bucket::default(), SECOND, amount, conforms).unwrap();
        assert_eq!(charge(&limits, &first, SECOND + 1, amount, conforms), None);
        let more = Amount { new: false, ..amount };
        assert!(charge(&limits, &first, SECOND + 1, more, conforms).is_some());
    }

    #[test]
    fn bytes_cost_what_they_are() {
        let limits = Limits { bytes: Limit::new(1000, 1500), ..Limits::default() };
        let amount = Amount { new: false, bytes: 1000 };
        let mut bucket = Bucket::default();
        let mut passed = 0;
        while let Some(after) = charge(&limits, &bucket, SECOND, amount, conforms) {
            (bucket, passed) = (after, passed + 1);
        }
        assert_eq!(passed, 2);
    }
}
