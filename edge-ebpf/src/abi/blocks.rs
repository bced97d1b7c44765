//! Blocked addresses and prefixes, where they can be at all, and what a CPU remembers of blocks that
//! it has found.

use super::{word_scopes, words6};

/// A blocked address or prefix.
///
/// The kernel asks the entry of exactly the address and then the longest prefix that holds it,
/// no other: an entry hides every shorter prefix around it. Whoever writes the tables gives a
/// prefix inside another one the wider scope and the later expiry of the two.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// `SCOPE_*`: what of the source's traffic is dropped.
    pub scope: u8,
    /// Number of the reason it is counted under.
    pub reason: u8,
    /// How many owners hold it (an administrator, one or more domains).
    pub owners: u16,
    /// Seconds since boot (`CLOCK_MONOTONIC`) when it ends; 0: never.
    pub expires_at_seconds: u32,
    /// In force from this [`Settings::block_version`] on; 0: at once.
    pub from_version: u32,
    /// In force before this version only; 0: no end.
    pub until_version: u32,
}

impl Block {
    /// A block that is in force at once.
    pub const fn new(scope: u8, reason: u8, owners: u16, expires_at_seconds: u32) -> Self {
        Self { scope, reason, owners, expires_at_seconds, from_version: 0, until_version: 0 }
    }

    /// Whether it is for what goes to a port of this word.
    pub const fn is_for(&self, word: u32) -> bool {
        self.scope == SCOPE_ALL || self.scope & word_scopes(word) != 0
    }

    /// Whether it is in force in this version of the block lists.
    pub const fn in_version(&self, version: u32) -> bool {
        self.from_version <= version && (self.until_version == 0 || version < self.until_version)
    }
}

/// Everything from this source is dropped.
pub const SCOPE_ALL: u8 = 0;
/// Bit: what goes to federation ports is dropped.
pub const SCOPE_FEDERATION: u8 = 1;
/// Bit: what goes to the ports of remote users is dropped.
pub const SCOPE_REMOTE: u8 = 2;
/// Only in the kernel program's memory: no table says anything of this source.
pub const SCOPE_NONE: u8 = 0xff;
/// What is remembered of a source of which no table says anything.
pub const NOT_BLOCKED: Block = Block::new(SCOPE_NONE, 0, 0, 0);

/// A block that the program found a moment ago, kept for each CPU so that a source which goes on
/// sending costs one array look-up. Not pinned: it belongs to one loaded program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RememberedBlock<A> {
    /// [`Settings::block_epoch`] when it was found.
    pub epoch: u64,
    /// The source, in words as it stands in the packet.
    pub source: A,
    /// [`Block::scope`].
    pub scope: u8,
    /// [`Block::reason`].
    pub reason: u8,
    /// `AT_ONCE_*`.
    pub at_once: u16,
    /// [`Block::expires_at_seconds`].
    pub expires_at_seconds: u32,
    /// [`Block::from_version`].
    pub from_version: u32,
    /// [`Block::until_version`].
    pub until_version: u32,
}

impl<A> RememberedBlock<A> {
    /// Remembers what the tables said.
    #[inline(always)]
    pub const fn new(epoch: u64, source: A, block: Block, at_once: u16) -> Self {
        Self {
            epoch,
            source,
            scope: block.scope,
            reason: block.reason,
            at_once,
            expires_at_seconds: block.expires_at_seconds,
            from_version: block.from_version,
            until_version: block.until_version,
        }
    }

    /// What the tables said; how many owners there are is forgotten.
    #[inline(always)]
    pub const fn block(&self) -> Block {
        Block {
            scope: self.scope,
            reason: self.reason,
            owners: 0,
            expires_at_seconds: self.expires_at_seconds,
            from_version: self.from_version,
            until_version: self.until_version,
        }
    }
}

/// It was not asked yet whether the remembered block holds whatever the packet is for.
pub const AT_ONCE_UNKNOWN: u16 = 0;
/// Until it expires, the remembered block holds whatever a packet of this source is for.
pub const AT_ONCE_YES: u16 = 1;
/// What the packet is for must be asked each time: the source may manage the appliance, or not
/// everything of it is blocked.
pub const AT_ONCE_NO: u16 = 2;
/// Slots for remembered blocks of each family. A power of two.
pub const REMEMBERED_BLOCKS: u32 = 256;

/// Slot of an IPv4 source among the remembered blocks.
pub const fn remembered4(source: [u8; 4]) -> u32 {
    // Fibonacci hashing, as for the presence bitmap.
    u32::from_ne_bytes(source).wrapping_mul(0x9e37_79b1) >> 24
}

/// Slot of an IPv6 source among the remembered blocks.
pub const fn remembered6(source: [u8; 16]) -> u32 {
    let all = u128::from_ne_bytes(source);
    let (one, other) = (all as u64, (all >> 64) as u64);
    ((one ^ other.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u32
}

/// Words of 64 bits in `PRESENCE4`: two bits a /24.
pub const PRESENCE4_SLOTS: u32 = 1 << 19;
/// Words of 64 bits in `PRESENCE6_PAGES`.
pub const PRESENCE6_SLOTS: u32 = 1 << 19;
/// In the two bits of a cell: addresses in it are blocked one by one.
pub const PRESENT_ADDRESSES: u32 = 1;
/// In the two bits of a cell: blocked prefixes lie in it or around it.
pub const PRESENT_PREFIXES: u32 = 2;

/// Only in the program: there are blocked IPv6 prefixes shorter than /48, and it must be asked where.
pub const PRESENT_SHORT: u32 = 4;

/// Blocked IPv6 prefixes of fewer bits are told by the /16 alone.
pub const SHORT_BITS: u8 = 20;
/// Words in `PRESENCE6_SHORT` that are about the /16.
pub(super) const WIDE_SLOTS: u32 = 1 << 11;
/// Words of 64 bits in `PRESENCE6_SHORT`: two bits for each /16, then a bit for each of 2^21 cells,
/// of which a /32 has one.
pub const PRESENCE6_SHORT_SLOTS: u32 = WIDE_SLOTS + (1 << 15);
/// In the two bits of a /16: blocked prefixes of fewer than [`SHORT_BITS`] lie in it or around it.
pub const WIDE_HERE: u32 = 1;
/// In the two bits of a /16: it has blocked prefixes of [`SHORT_BITS`] to 47; where, the cells of the
/// /32 tell.
pub const WIDE_CELLS: u32 = 2;

/// Slot of an IPv6 address in `PRESENCE6_SHORT`, and where in the word the two bits of its /16 begin.
pub const fn presence6_wide(address: [u8; 16]) -> (u32, u32) {
    let net = u16::from_be_bytes([address[0], address[1]]) as u32;
    (net >> 5, (net & 31) * 2)
}

/// Slot of an IPv6 address in `PRESENCE6_SHORT`, and where in the word the bit of its /32 is. A set
/// bit may stand for another /32.
pub const fn presence6_short(address: [u8; 16]) -> (u32, u32) {
    let first = (u64::from_be(words6(address)[0]) >> 32) as u32;
    // Fibonacci hashing.
    let cell = first.wrapping_mul(0x9e37_79b1) >> 11;
    (WIDE_SLOTS + (cell >> 6), cell & 63)
}

/// Slot of an IPv4 address in `PRESENCE4`, and where in the word its two bits begin.
pub const fn presence4(address: [u8; 4]) -> (u32, u32) {
    let net = u32::from_be_bytes(address) >> 8;
    (net >> 5, (net & 31) * 2)
}

/// Slot of an IPv6 address in `PRESENCE6_PAGES`, and where in the word its two bits begin: the first
/// of the two cells of its /48. There may be something only where both say so: a set bit may stand
/// for several /48, a clear one is proof. A false positive costs a look-up; with a million entries
/// spread at random, one source in eighty is one.
///
/// The cells of a /40 lie in two cache lines of one page, which a hash of it chooses: neighbours share
/// the lines, and do not disturb one another.
pub const fn presence6(address: [u8; 16]) -> (u32, u32) {
    cell6(address, 40)
}

/// The second of the two cells, see [`presence6`].
pub const fn presence6_again(address: [u8; 16]) -> (u32, u32) {
    cell6(address, 26)
}

/// The cell that 14 bits of the hash from here on choose, in the page that its last ten do.
const fn cell6(address: [u8; 16], from: u32) -> (u32, u32) {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let first = u64::from_be(words6(address)[0]);
    // Fibonacci hashing alone would lay whole ranges of networks over one another, or none.
    let hash = (first >> 24).wrapping_mul(FACTOR);
    let hash = (hash ^ hash >> 32).wrapping_mul(FACTOR);
    // Six bits are the cache line, eight turn the cells in it, so that the commonest /48, that of
    // zeros, is another cell in each.
    let in_page = (hash >> from ^ (first >> 16 & 0xff)) as u32 & 0x3fff;
    let cell = ((hash >> 54) as u32) << 14 | in_page;
    (cell >> 5, (cell & 31) * 2)
}
