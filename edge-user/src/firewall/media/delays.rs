//! How long things took: counts in buckets that grow by a quarter, so that any share of them can
//! be told to within that.

use std::time::Duration;

/// Buckets for each doubling.
const PARTS: u32 = 4;
/// Doublings from a microsecond on.
const DOUBLINGS: u32 = 32;

/// Times that something took.
#[derive(Clone, Debug)]
pub struct Delays {
    buckets: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        let buckets = vec![0; (PARTS * DOUBLINGS) as usize];
        Self { buckets, count: 0, longest: Duration::ZERO }
    }
}

impl Delays {
    /// Once more.
    pub fn record(&mut self, took: Duration) {
        if let Some(bucket) = self.buckets.get_mut(index(took)) {
            *bucket += 1;
        }
        self.count += 1;
        self.longest = self.longest.max(took);
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// So many of a thousand took no longer than this, to within a quarter.
    pub fn at(&self, thousandths: u64) -> Duration {
        let wanted = self.count.saturating_mul(thousandths).div_ceil(1000);
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if seen >= wanted && wanted > 0 {
                return upper(index).min(self.longest);
            }
        }
        self.longest
    }
}

fn index(took: Duration) -> usize {
    let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let doubling = microseconds.ilog2();
    // The two bits below the highest.
    let part = if doubling >= 2 { microseconds >> (doubling - 2) & 3 } else { 0 };
    let index = u64::from(doubling * PARTS) + part;
    usize::try_from(index.min(u64::from(PARTS * DOUBLINGS - 1))).unwrap_or(0)
}

/// The end of a bucket.
fn upper(index: usize) -> Duration {
    let index = u32::try_from(index).unwrap_or(0);
    let (doubling, part) = (index / PARTS, u64::from(index % PARTS));
    let end = if doubling >= 2 { (5 + part) << (doubling - 2) } else { 2 << doubling };
    Duration::from_micros(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_told_to_within_a_quarter() {
        let mut delays = Delays::default();
        assert_eq!(delays.at(990), Duration::ZERO);
        for microseconds in 1..=1000 {
            delays.record(Duration::from_micros(microseconds));
        }
        for (thousandths, real) in [(500, 500), (900, 900), (990, 990), (1000, 1000)] {
            let told = delays.at(thousandths).as_micros() as u64;
            assert!((real..=real * 5 / 4).contains(&told), "{thousandths}: {told}");
        }
        assert_eq!((delays.count(), delays.longest()), (1000, Duration::from_millis(1)));
        delays.record(Duration::from_secs(100_000));
        assert_eq!(delays.longest(), Duration::from_secs(100_000));
    }
}
