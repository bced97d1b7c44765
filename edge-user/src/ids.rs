//! Tables of numbers that we chose ourselves, or that are keyed hashes already: nobody can make
//! many of them meet, so they need no second keyed hash.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// A table by such numbers.
pub(crate) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Spreads a number over the word.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let spread = u128::from(self.0.rotate_left(5) ^ number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (spread as u64) ^ (spread >> 64) as u64;
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = (number as u64) ^ (number >> 64) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_spread() {
        let mut seen = std::collections::HashSet::new();
        for number in 0..10_000u64 {
            let mut hasher = IdHasher::default();
            hasher.write_u64(number << 24);
            seen.insert((hasher.finish() & 0x3fff, hasher.finish() >> 57));
        }
        assert!(seen.len() > 9_900, "{}", seen.len());
    }
}
