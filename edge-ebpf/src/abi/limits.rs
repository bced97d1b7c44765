//! How much may come: limits of rules, what of them is used up, and floods.

use super::{MAX_RULE_IDS, ZONES};

/// Entries of `RATES` in one generation. Entry 0 stays unused.
pub const MAX_RATES: u32 = 512;

/// A limit by the generic cell rate algorithm (ITU-T I.371): time is in 1/256 ns, so that a unit
/// may cost less than a nanosecond. The theoretical arrival time of the next unit is all the
/// state there is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Time a unit costs; 0: no limit.
    pub increment: u64,
    /// How far ahead of the clock the arrival time may run: the burst.
    pub tolerance: u64,
}

/// Fractions of a nanosecond in a [`Limit`].
pub const LIMIT_SCALE: u64 = 256;

impl Limit {
    /// A limit of `per_second` units and a burst of `burst` units on top of an even flow.
    /// `per_second` of 0 means no limit.
    pub const fn new(per_second: u64, burst: u64) -> Self {
        if per_second == 0 {
            return Self { increment: 0, tolerance: 0 };
        }
        let increment = LIMIT_SCALE * 1_000_000_000 / per_second;
        let increment = if increment == 0 { 1 } else { increment };
        Self { increment, tolerance: increment.saturating_mul(burst) }
    }
}

/// Limits of one rule, for each source or in all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// New TCP connections.
    pub new: Limit,
    /// Packets.
    pub packets: Limit,
    /// Bytes of frames.
    pub bytes: Limit,
}

/// An entry of `RATES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleLimits {
    /// For each source (IPv6: each /64).
    pub source: Limits,
    /// For all sources together.
    pub total: Limits,
}

/// Arrival times, one for each limit of [`Limits`], in the units of [`Limit`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Of the next new connection.
    pub new: u64,
    /// Of the next packet.
    pub packets: u64,
    /// Of the next byte.
    pub bytes: u64,
    /// Zero.
    pub reserved: u64,
}

/// Buckets in one of the two rows of `SOURCE_BUCKETS`. A power of two.
pub const SOURCE_BUCKETS_ROW: u32 = 32_768;

/// The two buckets of a source under a rule: one in each row. A source is limited only when both
/// are used up, so that two sources disturb each other only when they meet twice.
pub const fn bucket_index(seed: u32, source: [u64; 2], rule: u32) -> (u32, u32) {
    let mixed = (source[0] ^ (seed as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29) ^ source[1]).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 32) ^ ((rule as u64) << 20) ^ ((seed as u64) << 32))
        .wrapping_mul(0x94d0_49bb_1331_11eb);
    let mixed = mixed ^ (mixed >> 31);
    let row = SOURCE_BUCKETS_ROW - 1;
    ((mixed as u32) & row, SOURCE_BUCKETS_ROW + ((mixed >> 32) as u32 & row))
}

/// Index of a zone's bucket in `TOTAL_BUCKETS`. Its `packets` is the ceiling's; its `new` is no
/// arrival time but what all CPUs together count for [`Flood`]: the second in the upper half, and in
/// the lower the new connections in it that CPUs have told, each after a round.
pub const fn zone_bucket(zone: u8) -> u32 {
    MAX_RULE_IDS + (zone as u32) % ZONES
}

/// Key of `KNOWN_SOURCES`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KnownKey {
    /// The source; IPv4 as `::ffff:a.b.c.d`, of IPv6 the first 64 bits, the others zero.
    pub source: [u8; 16],
    /// Id of the rule.
    pub rule: u32,
    /// Zero.
    pub reserved: u32,
}

/// A CPU tells the others of its new connections when it has counted so many: of those of another CPU
/// it does not know fewer than these, and together CPUs overlook at most so many each. A power of two.
pub const FLOOD_ROUND: u32 = 16;

/// What one CPU sees of a zone in this second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flood {
    /// The second, since boot.
    pub second: u32,
    /// New connections that rules passed in it, on this CPU.
    pub syns: u32,
    /// Cookies are sent up to and with this second.
    pub cookies_until: u32,
    /// First fragments remembered in it.
    pub fragments: u32,
}
