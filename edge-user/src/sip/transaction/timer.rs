//! Two timers a transaction (send again, end), and what their expiry means.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// The timers of one transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timers {
    /// Timers A, E, G: when to send again, and the time to that one.
    pub resend: Option<(Instant, Duration)>,
    /// Every other timer: when the present state ends.
    pub end: Option<Instant>,
}

impl Timers {
    /// Which is first.
    pub fn next(&self) -> Option<Instant> {
        match (self.resend, self.end) {
            (Some((resend, _)), Some(end)) => Some(resend.min(end)),
            (Some((resend, _)), None) => Some(resend),
            (None, end) => end,
        }
    }

    /// Whether the state has ended.
    pub fn ended(&self, now: Instant) -> bool {
        self.end.is_some_and(|end| end <= now)
    }

    /// Starts sending again after `interval`.
    pub fn resend_after(&mut self, now: Instant, interval: Duration) {
        self.resend = Some((now + interval, interval));
    }

    /// Whether it is time to send again; then the next time is set, `longest` at most away.
    pub fn take_resend(&mut self, now: Instant, longest: Duration) -> bool {
        match self.resend {
            Some((at, interval)) if at <= now => {
                self.resend_after(now, interval.saturating_mul(2).min(longest));
                true
            }
            _ => false,
        }
    }
}

/// What an expired timer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// Send these bytes again.
    Resend(Bytes),
    /// It was not due, or there is nothing to send.
    Nothing,
    /// The transaction has ended as it should.
    Ended,
    /// Timer H: no ACK came.
    NotAcknowledged,
    /// Timers B, F, or no final response after a CANCEL.
    Timeout,
    /// Timer C.
    TimerC,
}
