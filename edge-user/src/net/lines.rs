//! Keeps what strangers can cause from filling the log.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines of one kind in a second, at most; the rest are counted.
const LINES_PER_SECOND: u32 = 20;

/// Lets a bounded number of lines a second through.
#[derive(Debug, Default)]
pub struct LineLimiter(Mutex<Option<Second>>);

#[derive(Debug)]
struct Second {
    began: Instant,
    written: u32,
    left_out: u64,
}

impl LineLimiter {
    /// Whether a line may be written now, and how many were left out before it.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let second = slot.get_or_insert(Second { began: now, written: 0, left_out: 0 });
        if now.saturating_duration_since(second.began) >= Duration::from_secs(1) {
            (second.began, second.written) = (now, 0);
        }
        if second.written < LINES_PER_SECOND {
            second.written += 1;
            Some(std::mem::take(&mut second.left_out))
        } else {
            second.left_out += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let limiter = LineLimiter::default();
        let start = Instant::now();
        let written = (0..100).filter(|_| limiter.admit(start).is_some()).count();
        assert_eq!(written, LINES_PER_SECOND as usize);
        assert_eq!(limiter.admit(start + Duration::from_millis(999)), None);
        assert_eq!(limiter.admit(start + Duration::from_secs(1)), Some(81));
        assert_eq!(limiter.admit(start + Duration::from_secs(1)), Some(0));
    }
}
