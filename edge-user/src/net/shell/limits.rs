//! How many connections there may be, in all and from one source, and how many handshakes in a
//! second.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::federation::first_of_source;

/// Counts connections that are accepted and not yet gone.
#[derive(Debug, Default)]
pub(in crate::net) struct Admission {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// Why a connection is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Full {
    /// The table is full.
    Total,
    /// This source has its share.
    Source,
}

/// A place in the table; free again when dropped.
#[derive(Debug)]
pub(in crate::net) struct Place {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Admission {
    /// Takes a place.
    pub(in crate::net) fn enter(
        self: &Arc<Self>,
        remote: IpAddr,
        total: usize,
        per_source: usize,
    ) -> Result<Place, Full> {
        let source = first_of_source(remote);
        let mut counts = self.lock();
        if counts.total >= total {
            return Err(Full::Total);
        }
        let count = counts.by_source.entry(source).or_insert(0);
        if *count >= per_source {
            return Err(Full::Source);
        }
        *count += 1;
        counts.total += 1;
        Ok(Place { admission: Arc::clone(self), source })
    }

    /// Places taken.
    pub(in crate::net) fn total(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        counts.total = counts.total.saturating_sub(1);
        if let Some(count) = counts.by_source.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

/// One of those that a count is for (connections we open, say); gives its place back when dropped.
pub(in crate::net) struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// `None`: there are as many as there may be.
    pub(in crate::net) fn enter(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let place = Self(Arc::clone(count));
        (count.fetch_add(1, Ordering::Relaxed) < limit).then_some(place)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Handshakes that nobody used are saved up for so long.
const SAVED_UP: Duration = Duration::from_secs(2);

/// Counts handshakes, which cost more than anything else a stranger can ask for.
#[derive(Debug, Default)]
pub(in crate::net) struct Pace {
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    all: Option<Bucket>,
    by_source: HashMap<IpAddr, Bucket>,
}

/// Thousandths of handshakes that may come at this time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    room: u64,
    at: Instant,
}

impl Bucket {
    /// How it stands now; a new one is full.
    fn now(bucket: Option<Bucket>, now: Instant, rate: u32) -> Bucket {
        let full = u64::from(rate).saturating_mul(1000).saturating_mul(SAVED_UP.as_secs());
        let Some(Bucket { room, at }) = bucket else { return Bucket { room: full, at: now } };
        let passed = now.saturating_duration_since(at).as_millis();
        let gained = u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(u64::from(rate));
        Bucket { room: room.saturating_add(gained).min(full), at: now }
    }

    fn taken(self) -> Option<Bucket> {
        Some(Bucket { room: self.room.checked_sub(1000)?, at: self.at })
    }
}

impl Pace {
    /// Whether one more may begin. Who has none left takes none from the others.
    pub(in crate::net) fn take(
        &self,
        now: Instant,
        remote: IpAddr,
        all: u32,
        per_source: u32,
    ) -> bool {
        let source = first_of_source(remote);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let own = Bucket::now(buckets.by_source.get(&source).copied(), now, per_source);
        let whole = Bucket::now(buckets.all, now, all);
        let (Some(own), Some(whole)) = (own.taken(), whole.taken()) else { return false };
        buckets.all = Some(whole);
        // A source that asked for nothing lately is as good as new. Only who was let in is
        // remembered, so there are never more than come in that time, twice over.
        let bound = all as usize * SAVED_UP.as_secs() as usize * 2;
        if buckets.by_source.len() > bound {
            buckets.by_source.retain(|_, b| now.saturating_duration_since(b.at) < SAVED_UP);
        }
        buckets.by_source.insert(source, own);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(pace: &Pace, now: Instant, from: &str, count: usize) -> usize {
        (0..count).filter(|_| pace.take(now, from.parse().unwrap(), 20, 5)).count()
    }

    #[test]
    fn handshakes_have_a_pace_in_all_and_of_one_source() {
        let (counted, mut now) = (Pace::default(), Instant::now());
        assert_eq!(pace(&counted, now, "192.0.2.1", 100), 10, "two seconds' worth at once");
        assert_eq!(pace(&counted, now, "2001:db8::1", 7), 7);
        assert_eq!(pace(&counted, now, "2001:db8::2", 100), 3, "one /64 is one source");
        // The one that asks for more took nothing from others but what it had.
        assert_eq!(pace(&counted, now, "192.0.2.2", 100), 10);
        assert_eq!(pace(&counted, now, "192.0.2.3", 100), 10);
        assert_eq!(pace(&counted, now, "192.0.2.4", 100), 0, "all of two seconds are used");
        now += Duration::from_secs(1);
        assert_eq!(pace(&counted, now, "192.0.2.1", 100), 5);
        assert_eq!(pace(&counted, now, "192.0.2.4", 100), 10);
        assert_eq!(pace(&counted, now, "192.0.2.5", 100), 5);
    }

    #[test]
    fn sources_are_forgotten() {
        let (counted, mut now) = (Pace::default(), Instant::now());
        for number in 0..100_000u32 {
            now += Duration::from_millis(50);
            assert!(counted.take(now, IpAddr::from(number.to_be_bytes()), 20, 5));
        }
        assert!(counted.buckets.lock().unwrap().by_source.len() <= 81);
    }

    #[test]
    fn places_are_bounded_in_all_and_by_source_and_are_given_back() {
        let admission = Arc::new(Admission::default());
        let enter = |ip: &str| admission.enter(ip.parse().unwrap(), 4, 2);
        let one = enter("192.0.2.1").unwrap();
        let _two = enter("::ffff:192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.1").unwrap_err(), Full::Source);
        let _three = enter("2001:db8::1").unwrap();
        let _four = enter("2001:db8::ffff:2").unwrap();
        assert_eq!(enter("192.0.2.9").unwrap_err(), Full::Total);
        drop(one);
        assert_eq!(enter("2001:db8::3").unwrap_err(), Full::Source);
        let _five = enter("192.0.2.1").unwrap();
        assert_eq!(admission.total(), 4);
    }

    #[test]
    fn what_is_counted_is_bounded_and_given_back() {
        let count = Arc::<AtomicUsize>::default();
        let (one, two) = (Counted::enter(&count, 2), Counted::enter(&count, 2));
        assert!(one.is_some() && two.is_some() && Counted::enter(&count, 2).is_none());
        drop(one);
        assert!(Counted::enter(&count, 2).is_some());
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn nothing_is_kept_of_a_source_that_is_gone() {
        let admission = Arc::new(Admission::default());
        for n in 0..1000_u32 {
            drop(admission.enter(IpAddr::V4(n.into()), 4, 2).unwrap());
        }
        assert!(admission.lock().by_source.is_empty());
    }
}
