//! What is over for good, and what only seems so: a wall clock is set now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// What is over goes for good when it has been so for this long.
pub(crate) const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Since when things are over, by a clock that nobody sets.
#[derive(Clone, Debug)]
pub(crate) struct Grace<K>(BTreeMap<K, Instant>);

impl<K> Default for Grace<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Grace<K> {
    /// Exactly these are over now; gives those that have been so for [`GRACE`], and forgets them.
    pub fn over(&mut self, now_over: impl Iterator<Item = K>, clock: Instant) -> BTreeSet<K> {
        let mut before = std::mem::take(&mut self.0);
        let mut gone = BTreeSet::new();
        for key in now_over {
            let since = before.remove(&key).unwrap_or(clock);
            if clock.saturating_duration_since(since) >= GRACE {
                gone.insert(key);
            } else {
                self.0.insert(key, since);
            }
        }
        gone
    }

    /// Whether it was over when that was said last.
    pub fn has(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_goes_when_it_has_been_so_all_the_time() {
        let began = Instant::now();
        let mut grace = Grace::default();
        let mut over = |keys: &[u8], at: Duration| -> Vec<u8> {
            grace.over(keys.iter().copied(), began + at).into_iter().collect()
        };
        assert!(over(&[1, 2], Duration::ZERO).is_empty());
        // The second was not over for a moment.
        assert!(over(&[1], GRACE / 2).is_empty());
        assert!(over(&[1, 2], GRACE / 2).is_empty());
        assert_eq!(over(&[1, 2, 3], GRACE), [1]);
        assert_eq!(over(&[2, 3], 2 * GRACE), [2, 3]);
    }
}
