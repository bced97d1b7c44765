//! The bitmaps that answer "may this source be blocked at all" before any table is asked.
//!
//! A cell of a /24 or /48 has two bits: one for single addresses in it, one for prefixes that touch it. A bit must
//! be set while there is such an entry; a clear bit that should be set would let a blocked source
//! in. It may stay set without one for IPv6, where a cell stands for several networks, and for
//! addresses that have gone from a cell that a prefix covers. An IPv6 network has two cells. Where
//! IPv6 prefixes shorter than /48 are, a bitmap of its own tells, by /16 and /32.

use std::collections::{BTreeSet, HashMap};

use edge_ebpf::abi::{
    PRESENCE4_SLOTS, PRESENCE6_SHORT_SLOTS, PRESENCE6_SLOTS, PRESENT_ADDRESSES, PRESENT_PREFIXES,
    SHORT_BITS, WIDE_CELLS, WIDE_HERE, presence4, presence6, presence6_again, presence6_short,
    presence6_wide,
};

use super::{BlockSink, Key};
use crate::firewall::FirewallError;

/// One of the bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::firewall) enum Bitmap {
    /// `PRESENCE4`.
    V4,
    /// `PRESENCE6_PAGES`.
    V6,
    /// `PRESENCE6_SHORT`.
    Short6,
}

impl Bitmap {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Short6];

    const fn slots(self) -> u32 {
        match self {
            Self::V4 => PRESENCE4_SLOTS,
            Self::V6 => PRESENCE6_SLOTS,
            Self::Short6 => PRESENCE6_SHORT_SLOTS,
        }
    }
}

/// The bitmaps as they should be, and which words have yet to be written.
#[derive(Debug)]
pub(in crate::firewall) struct Presence {
    words: [Vec<u64>; 3],
    /// Entries that share a bit of an IPv6 bitmap, by the bit's number in all of it.
    counts6: HashMap<(Bitmap, u32), u32>,
    /// IPv6 entries shorter than /48.
    short6: u32,
    dirty: BTreeSet<(Bitmap, u32)>,
}

impl Presence {
    pub fn new() -> Self {
        Self {
            words: Bitmap::ALL.map(|bitmap| vec![0; bitmap.slots() as usize]),
            counts6: HashMap::new(),
            short6: 0,
            dirty: BTreeSet::new(),
        }
    }

    pub fn short_prefixes(&self) -> bool {
        self.short6 > 0
    }

    /// The words of one of them.
    pub fn words(&self, bitmap: Bitmap) -> &[u64] {
        let [four, six, short] = &self.words;
        match bitmap {
            Bitmap::V4 => four,
            Bitmap::V6 => six,
            Bitmap::Short6 => short,
        }
    }

    fn word(&mut self, bitmap: Bitmap, slot: u32) -> Option<&mut u64> {
        let [four, six, short] = &mut self.words;
        let words = match bitmap {
            Bitmap::V4 => four,
            Bitmap::V6 => six,
            Bitmap::Short6 => short,
        };
        words.get_mut(slot as usize)
    }

    /// Sets the bits of an entry. Once for each entry.
    pub fn add(&mut self, key: Key) {
        if !key.v6 {
            for (slot, bits) in words_of(key, kind(key)) {
                self.change(Bitmap::V4, slot, |word| word | bits);
            }
            return;
        }
        self.short6 += u32::from(is_short(key));
        for (bitmap, bit) in bits6(key) {
            let count = self.counts6.entry((bitmap, bit)).or_default();
            *count += 1;
            if *count == 1 {
                self.change(bitmap, bit / WORD, |word| word | 1 << (bit % WORD));
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
            self.change(Bitmap::V4, slot, |word| (word & !bits) | (set & bits));
        }
    }

    /// Takes an IPv6 entry out of the counts, and clears the bits of which it was the last.
    pub fn remove6(&mut self, key: Key) {
        self.short6 = self.short6.saturating_sub(u32::from(is_short(key)));
        for (bitmap, bit) in bits6(key) {
            let Some(count) = self.counts6.get_mut(&(bitmap, bit)) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts6.remove(&(bitmap, bit));
                self.change(bitmap, bit / WORD, |word| word & !(1 << (bit % WORD)));
            }
        }
    }

    /// Writes the words that have changed.
    pub fn flush(&mut self, sink: &mut dyn BlockSink) -> Result<(), FirewallError> {
        while let Some((bitmap, slot)) = self.dirty.first().copied() {
            let word = self.words(bitmap).get(slot as usize).copied().unwrap_or_default();
            sink.presence(bitmap, slot, word)?;
            self.dirty.remove(&(bitmap, slot));
        }
        Ok(())
    }

    fn change(&mut self, bitmap: Bitmap, slot: u32, change: impl Fn(u64) -> u64) {
        if let Some(word) = self.word(bitmap, slot) {
            let changed = change(*word);
            if changed != *word {
                *word = changed;
                self.dirty.insert((bitmap, slot));
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

/// Whether the cells of the /48 know nothing of an IPv6 entry.
const fn is_short(key: Key) -> bool {
    key.length < 48
}

/// The bits of an IPv6 entry, by their numbers in the bitmap: at most 65,536, of which some may be
/// the same one twice.
fn bits6(key: Key) -> Box<dyn Iterator<Item = (Bitmap, u32)>> {
    let number = |(slot, at): (u32, u32), mark: u32| slot * WORD + at + mark.trailing_zeros();
    // The addresses at which networks of this many bits begin that the prefix touches.
    let networks = move |bits: u8| {
        let step = 128 - u32::from(bits);
        (0..1u128 << bits.saturating_sub(key.length))
            .map(move |net| (key.first | net << step).to_be_bytes())
    };
    if !is_short(key) {
        let address = key.first.to_be_bytes();
        let cells = [presence6(address), presence6_again(address)];
        return Box::new(cells.map(|cell| (Bitmap::V6, number(cell, kind(key)))).into_iter());
    }
    let wide =
        |mark| networks(16).map(move |net| (Bitmap::Short6, number(presence6_wide(net), mark)));
    if key.length < SHORT_BITS {
        return Box::new(wide(WIDE_HERE));
    }
    let cells = networks(32).map(move |net| (Bitmap::Short6, number(presence6_short(net), 1)));
    Box::new(cells.chain(wide(WIDE_CELLS)))
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
