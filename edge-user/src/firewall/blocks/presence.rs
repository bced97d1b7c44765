//! The bitmaps that answer "may this source be blocked at all" before any table is asked.
//!
//! A cell has two bits: one for single addresses in it, one for prefixes that touch it. A bit must
//! be set while there is such an entry; a clear bit that should be set would let a blocked source
//! in. It may stay set without one for IPv6, where a cell stands for several networks, and for
//! addresses that have gone from a cell that a prefix covers. An IPv6 network has two cells.

use std::collections::{BTreeSet, HashMap};

use edge_ebpf::abi::{
    PRESENCE4_SLOTS, PRESENCE6_SLOTS, PRESENT_ADDRESSES, PRESENT_PREFIXES, presence4, presence6,
    presence6_again,
};

use super::{BlockSink, Key};
use crate::firewall::FirewallError;

/// Both bitmaps as they should be, and which words have yet to be written.
#[derive(Debug)]
pub(in crate::firewall) struct Presence {
    words4: Vec<u64>,
    words6: Vec<u64>,
    /// Entries that share a bit of the IPv6 bitmap, by the bit's number in all of it.
    counts6: HashMap<u32, u32>,
    /// IPv6 entries shorter than /48, for which the bitmap cannot answer.
    short6: u32,
    dirty: BTreeSet<(bool, u32)>,
}

impl Presence {
    pub fn new() -> Self {
        Self {
            words4: vec![0; PRESENCE4_SLOTS as usize],
            words6: vec![0; PRESENCE6_SLOTS as usize],
            counts6: HashMap::new(),
            short6: 0,
            dirty: BTreeSet::new(),
        }
    }

    pub fn short_prefixes(&self) -> bool {
        self.short6 > 0
    }

    /// The words of one family.
    pub fn words(&self, v6: bool) -> &[u64] {
        if v6 { &self.words6 } else { &self.words4 }
    }

    /// Sets the bits of an entry. Once for each entry.
    pub fn add(&mut self, key: Key) {
        if !key.v6 {
            for (slot, bits) in words_of(key, kind(key)) {
                self.change4(slot, |word| word | bits);
            }
        } else if key.length < 48 {
            self.short6 += 1;
        } else {
            for bit in bits6(key) {
                let count = self.counts6.entry(bit).or_default();
                *count += 1;
                if *count == 1 {
                    self.change6(bit, |word, bit| word | bit);
                }
            }
        }
    }

    /// Makes the cells of an IPv4 prefix say exactly that these are in them.
    pub fn rebuild4(&mut self, cells: Key, members: impl Iterator<Item = Key>) {
        let mut wanted: HashMap<u32, u64> = HashMap::new();
        for (slot, bits) in members.flat_map(|key| words_of(key, kind(key))) {
            *wanted.entry(slot).or_default() |= bits;
        }
        for (slot, bits) in words_of(cells, PRESENT_ADDRESSES | PRESENT_PREFIXES) {
            let set = wanted.get(&slot).copied().unwrap_or_default();
            self.change4(slot, |word| (word & !bits) | (set & bits));
        }
    }

    /// Takes an IPv6 entry out of the counts, and clears the bits of which it was the last.
    pub fn remove6(&mut self, key: Key) {
        if key.length < 48 {
            self.short6 = self.short6.saturating_sub(1);
            return;
        }
        for bit in bits6(key) {
            let Some(count) = self.counts6.get_mut(&bit) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts6.remove(&bit);
                self.change6(bit, |word, bit| word & !bit);
            }
        }
    }

    /// Writes the words that have changed.
    pub fn flush(&mut self, sink: &mut dyn BlockSink) -> Result<(), FirewallError> {
        while let Some((v6, slot)) = self.dirty.first().copied() {
            let word = self.words(v6).get(slot as usize).copied().unwrap_or_default();
            sink.presence(v6, slot, word)?;
            self.dirty.remove(&(v6, slot));
        }
        Ok(())
    }

    fn change6(&mut self, bit: u32, change: impl Fn(u64, u64) -> u64) {
        let slot = bit / WORD;
        if let Some(word) = self.words6.get_mut(slot as usize) {
            *word = change(*word, 1 << (bit % WORD));
            self.dirty.insert((true, slot));
        }
    }

    fn change4(&mut self, slot: u32, change: impl Fn(u64) -> u64) {
        if let Some(word) = self.words4.get_mut(slot as usize) {
            let changed = change(*word);
            if changed != *word {
                *word = changed;
                self.dirty.insert((false, slot));
            }
        }
    }
}

/// Bits of a word.
const WORD: u32 = u64::BITS;

/// Which of a cell's bits stands for this entry.
fn kind(key: Key) -> u32 {
    if key.single() { PRESENT_ADDRESSES } else { PRESENT_PREFIXES }
}

/// The bits of an IPv6 entry, by their numbers in the bitmap.
fn bits6(key: Key) -> [u32; 2] {
    let address = key.first.to_be_bytes();
    [presence6(address), presence6_again(address)]
        .map(|(slot, at)| slot * WORD + at + kind(key).trailing_zeros())
}

/// Cells in one word.
const CELLS: u64 = 32;
/// The low bit of each cell.
const EACH: u64 = 0x5555_5555_5555_5555;

/// The words of the IPv4 bitmap that a prefix touches, each with its bits: of every cell those
/// of `present`.
fn words_of(key: Key, present: u32) -> impl Iterator<Item = (u32, u64)> {
    let cells = 1u64 << 24u8.saturating_sub(key.length);
    let (slot, at) = presence4((key.first as u32).to_be_bytes());
    let every = EACH * u64::from(present);
    let (count, bits) = if cells < CELLS {
        // A prefix is aligned, so its cells lie in one word.
        (1, (every & ((1u64 << (2 * cells)) - 1)) << at)
    } else {
        ((cells / CELLS) as u32, every)
    };
    (slot..slot + count).map(move |slot| (slot, bits))
}
