//! A set that forgets what was put in longest ago.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Recent<K> {
    known: HashMap<K, u64>,
    /// By when it was put in last.
    order: BTreeMap<u64, K>,
    last: u64,
    changes: u64,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: BTreeMap::new(), last: 0, changes: 0 }
    }
}

impl<K: Clone + Eq + Hash> Recent<K> {
    /// Puts one in, as the newest; the oldest goes when there are more than `most`.
    pub(super) fn put(&mut self, key: K, most: usize) {
        self.last += 1;
        match self.known.insert(key.clone(), self.last) {
            Some(before) => {
                self.order.remove(&before);
            }
            None => self.changes += 1,
        }
        self.order.insert(self.last, key);
        while self.order.len() > most.max(1)
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.known.remove(&oldest);
        }
    }

    /// Whether it is there.
    pub(super) fn has(&self, key: &K) -> bool {
        self.known.contains_key(key)
    }

    /// All of them, the oldest first.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.order.values()
    }

    /// How often something new was put in.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_put_in_longest_ago_goes() {
        let mut recent = Recent::default();
        for n in [1, 2, 3, 1, 4] {
            recent.put(n, 3);
        }
        assert_eq!(recent.all().copied().collect::<Vec<_>>(), [3, 1, 4]);
        assert!(recent.has(&1) && !recent.has(&2));
        assert_eq!((recent.len(), recent.changes()), (3, 4), "the same again is no change");
        recent.put(5, 0);
        assert_eq!(recent.all().copied().collect::<Vec<_>>(), [5]);
        assert_eq!(recent.known.len(), 1);
    }
}
