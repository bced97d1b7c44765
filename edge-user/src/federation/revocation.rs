//! Which revocation lists are fetched, and when. Pure: no clock, no socket.
//!
//! A place is only ever one that a certificate of a validated chain names. Bounded in places,
//! bytes and fetches at one time; a place that fails is left alone for longer and longer.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Places at most.
pub const MAX_POINTS: usize = 256;
/// Bytes of all lists together at most.
pub const MAX_BYTES: usize = 64 << 20;
/// Fetches at one time.
const MAX_AT_ONCE: usize = 4;
/// Pause after the first failure, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const MOST_PAUSE: Duration = Duration::from_secs(3600);
/// A list is not fetched more often than this.
const LEAST_REFRESH: Duration = Duration::from_secs(60);
/// A place without a list gives its room to another after this time.
const STALE: Duration = Duration::from_secs(3600);

/// The places, and what each is at.
#[derive(Debug, Default)]
pub struct CrlPoints {
    all: HashMap<Box<str>, Point>,
    under_way: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Point {
    /// `None`: a fetch is under way.
    due: Option<Instant>,
    failures: u32,
    bytes: usize,
    wanted: Instant,
}

/// There is no room for a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room: all revocation lists together may have {} MiB", MAX_BYTES >> 20)]
pub struct NoRoom;

impl CrlPoints {
    /// A handshake asks for the list there; `false`: there are too many places.
    pub fn want(&mut self, now: Instant, point: &str) -> bool {
        if let Some(known) = self.all.get_mut(point) {
            known.wanted = now;
            return true;
        }
        if self.all.len() >= MAX_POINTS {
            let stale = self.all.iter().filter(|(_, point)| {
                point.bytes == 0 && point.due.is_some() && now >= point.wanted + STALE
            });
            let Some(oldest) = stale.min_by_key(|(_, point)| point.wanted) else { return false };
            let oldest = oldest.0.clone();
            self.all.remove(&oldest);
        }
        let new = Point { due: Some(now), failures: 0, bytes: 0, wanted: now };
        self.all.insert(point.into(), new);
        true
    }

    /// The next place whose list is to be fetched now, if any.
    pub fn take_due(&mut self, now: Instant) -> Option<Box<str>> {
        if self.under_way >= MAX_AT_ONCE {
            return None;
        }
        let due = self.all.iter_mut().filter(|(_, point)| point.due.is_some_and(|due| due <= now));
        let (name, point) = due.min_by_key(|(_, point)| point.due)?;
        point.due = None;
        self.under_way += 1;
        Some(name.clone())
    }

    /// When something is due next; `None` while nothing can be started.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.under_way >= MAX_AT_ONCE {
            return None;
        }
        self.all.values().filter_map(|point| point.due).min()
    }

    /// A list came; `valid_for`: until its next update. It is fetched again after `refresh`, or
    /// when its time is over.
    ///
    /// # Errors
    /// There is no room: the list must not be kept.
    pub fn fetched(
        &mut self,
        now: Instant,
        point: &str,
        bytes: usize,
        valid_for: Duration,
        refresh: Duration,
    ) -> Result<(), NoRoom> {
        let others = self.bytes - self.all.get(point).map_or(0, |known| known.bytes);
        if others + bytes > MAX_BYTES {
            self.failed(now, point);
            return Err(NoRoom);
        }
        self.bytes = others + bytes;
        if let Some(known) = self.end(point) {
            known.bytes = bytes;
            known.failures = 0;
            known.due = Some(now + refresh.min(valid_for).max(LEAST_REFRESH));
        }
        Ok(())
    }

    /// No list came, or none that can be used. What was there before stays.
    pub fn failed(&mut self, now: Instant, point: &str) {
        if let Some(known) = self.end(point) {
            let pause = FIRST_PAUSE.saturating_mul(1 << known.failures.min(16));
            known.failures += 1;
            known.due = Some(now + pause.min(MOST_PAUSE));
        }
    }

    /// Nobody asks for it any more.
    pub fn forget(&mut self, point: &str) {
        self.end(point);
        if let Some(known) = self.all.remove(point) {
            self.bytes -= known.bytes;
        }
    }

    /// Whether this is one of the places.
    pub fn contains(&self, point: &str) -> bool {
        self.all.contains_key(point)
    }

    /// How many places there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn end(&mut self, point: &str) -> Option<&mut Point> {
        let known = self.all.get_mut(point)?;
        if known.due.is_none() {
            self.under_way -= 1;
        }
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_list_is_fetched_once_and_again_when_it_is_time() {
        for (valid_for, refresh, expected) in [
            (DAY, HOUR, HOUR),
            (HOUR / 2, HOUR, HOUR / 2),
            (Duration::ZERO, HOUR, LEAST_REFRESH),
            (DAY, Duration::ZERO, LEAST_REFRESH),
        ] {
            let now = Instant::now();
            let mut points = CrlPoints::default();
            assert!(points.want(now, "a") && points.want(now, "a"));
            assert_eq!(points.next_timeout(), Some(now));
            assert_eq!(points.take_due(now).as_deref(), Some("a"));
            assert_eq!((points.take_due(now), points.next_timeout()), (None, None));
            // A handshake that asks meanwhile starts no second fetch.
            assert!(points.want(now, "a"));
            assert_eq!(points.take_due(now), None);
            points.fetched(now, "a", 100, valid_for, refresh).unwrap();
            assert_eq!(points.next_timeout(), Some(now + expected));
            assert_eq!(points.take_due(now + expected - Duration::from_secs(1)), None);
            assert_eq!(points.take_due(now + expected).as_deref(), Some("a"));
        }
    }

    #[test]
    fn a_place_that_fails_is_left_alone_longer_and_longer() {
        let mut now = Instant::now();
        let mut points = CrlPoints::default();
        points.want(now, "a");
        for seconds in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600] {
            assert_eq!(points.take_due(now).as_deref(), Some("a"));
            points.failed(now, "a");
            // Asking does not hasten it.
            points.want(now, "a");
            let due = now + Duration::from_secs(seconds);
            assert_eq!(points.next_timeout(), Some(due));
            now = due;
        }
        points.take_due(now);
        points.fetched(now, "a", 1, DAY, HOUR).unwrap();
        points.take_due(now + HOUR);
        points.failed(now + HOUR, "a");
        assert_eq!(points.next_timeout(), Some(now + HOUR + FIRST_PAUSE), "begins anew");
    }

    #[test]
    fn places_fetches_and_bytes_are_bounded() {
        let now = Instant::now();
        let mut points = CrlPoints::default();
        for n in 0..MAX_POINTS {
            assert!(points.want(now, &n.to_string()));
        }
        assert!(!points.want(now, "one more") && points.want(now, "7"));
        let taken: Vec<_> = std::iter::from_fn(|| points.take_due(now)).collect();
        assert_eq!(taken.len(), MAX_AT_ONCE);
        assert_eq!(points.next_timeout(), None);
        let big = MAX_BYTES - 10;
        points.fetched(now, &taken[0], big, DAY, HOUR).unwrap();
        assert_eq!(points.fetched(now, &taken[1], 11, DAY, HOUR), Err(NoRoom));
        points.fetched(now, &taken[2], 10, DAY, HOUR).unwrap();
        // In its own place there is room.
        points.all.get_mut(&taken[0]).unwrap().due = None;
        points.under_way += 1;
        points.fetched(now, &taken[0], big, DAY, HOUR).unwrap();
        points.forget(&taken[0]);
        assert_eq!(points.bytes, 10);
        // A place that nobody wants and that has no list makes room.
        let later = now + STALE;
        assert!(points.want(later, "b") && points.want(later, "c"));
        assert_eq!(points.len(), MAX_POINTS);
        assert!(points.contains(&taken[2]), "a list is kept");
    }
}
