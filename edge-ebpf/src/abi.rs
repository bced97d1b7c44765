//! Key and value of every map the kernel program and the daemon share.
//!
//! All types are `repr(C)` without padding, so that a key is its bytes. Addresses and ports in
//! keys are big-endian bytes, as they stand in the packet; counters and flags are native.
//! A change of any layout here must raise [`SCHEMA`].

mod media;

pub use media::*;

use crate::verdict::REASON_SLOTS;

/// Version of all layouts in this file. Pins with another number are refused, never reused.
pub const SCHEMA: u32 = 4;

/// Names of the maps, in the program and under the pin directory.
pub mod map_names {
    /// Array of one [`super::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Array of [`super::Interface`], indexed by ifindex.
    pub const INTERFACES: &str = "INTERFACES";
    /// Hash of [`super::VlanKey`] to [`super::Interface`], asked only on trunk interfaces.
    pub const VLANS: &str = "VLANS";
    /// Generations of arrays of port words (`u32`), see [`super::port_index`].
    pub const PORT_WORDS: &str = "PORT_WORDS";
    /// Generations of arrays of words (`u32`) by IP protocol, see [`super::protocol_index`].
    pub const PROTOCOL_WORDS: &str = "PROTOCOL_WORDS";
    /// Generations of arrays of [`super::Rule`].
    pub const RULES: &str = "RULES";
    /// Generations of LPM tries: IPv4 source prefix to [`super::SetMask`].
    pub const SOURCES4: &str = "SOURCES4";
    /// Generations of LPM tries: IPv6 source prefix to [`super::SetMask`].
    pub const SOURCES6: &str = "SOURCES6";
    /// Generations of hashes: our own address (16 bytes) to [`super::SetMask`].
    pub const DESTINATIONS: &str = "DESTINATIONS";
    /// Hash: IPv4 address to [`super::Block`].
    pub const BLOCKED4: &str = "BLOCKED4";
    /// LPM trie: IPv4 prefix to [`super::Block`].
    pub const BLOCKED4_PREFIXES: &str = "BLOCKED4_PREFIXES";
    /// Hash: IPv6 address to [`super::Block`].
    pub const BLOCKED6: &str = "BLOCKED6";
    /// LPM trie: IPv6 prefix to [`super::Block`].
    pub const BLOCKED6_PREFIXES: &str = "BLOCKED6_PREFIXES";
    /// Array of `u64`: two bits for each IPv4 /24, see [`super::presence4`].
    pub const PRESENCE4: &str = "PRESENCE4";
    /// Array of `u64`: two bits for each hash of an IPv6 /48, see [`super::presence6`].
    pub const PRESENCE6: &str = "PRESENCE6";
    /// Per-CPU array of [`super::ReasonCounter`], indexed by [`super::reason_slot`].
    pub const REASON_COUNTERS: &str = "REASON_COUNTERS";
    /// Generations of arrays of [`super::RuleLimits`], indexed by [`super::Rule::limits`].
    pub const RATES: &str = "RATES";
    /// Array of [`super::Bucket`]: sources nobody has vouched for, see [`super::bucket_index`].
    pub const SOURCE_BUCKETS: &str = "SOURCE_BUCKETS";
    /// Array of [`super::Bucket`]: rules in all, by rule id, then zones, by
    /// [`super::zone_bucket`].
    pub const TOTAL_BUCKETS: &str = "TOTAL_BUCKETS";
    /// LRU hash of [`super::KnownKey`] to [`super::Bucket`]: sources that have proved who they
    /// are, with a bucket of their own. Only the daemon adds entries.
    pub const KNOWN_SOURCES: &str = "KNOWN_SOURCES";
    /// LRU hash of [`super::FragmentKey`] to [`super::Fragment`]: first fragments that passed.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// LRU hash of [`super::FlowKey`] to the sequence number (`u32`) of the connection's first
    /// byte, for TCP ports whose content is looked at.
    pub const BEGINNINGS: &str = "BEGINNINGS";
    /// Per-CPU array of [`super::Flood`], indexed by zone.
    pub const FLOODS: &str = "FLOODS";
    /// Per-CPU array of [`super::Counter`]: what the shadow generation would have done
    /// otherwise, see [`super::shadow_slot`].
    pub const SHADOW_COUNTERS: &str = "SHADOW_COUNTERS";
    /// Array of programs for rare work, see [`super::PROGRAM_SHADOW`].
    pub const PROGRAMS: &str = "PROGRAMS";
    /// Per-CPU array of one [`super::Handed`]: a program of one daemon hands on to one of the next,
    /// which has filled `PROGRAMS` before it takes the devices.
    pub const HANDED: &str = "HANDED";
    /// Per-CPU array of [`super::Counter`], indexed by rule id.
    pub const RULE_COUNTERS: &str = "RULE_COUNTERS";
    /// Ring buffer of [`super::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// LRU hash of [`super::FlowKey`] to seconds since boot (`u64`), written at egress.
    pub const FLOWS: &str = "FLOWS";
    /// Array of [`super::media_door`] (`u32`), indexed by [`super::media_port_index`].
    pub const MEDIA_PORTS: &str = "MEDIA_PORTS";
    /// Hash of [`super::PinholeKey`] to [`super::media_door`] (`u32`).
    pub const MEDIA_PINHOLES: &str = "MEDIA_PINHOLES";
    /// Array of [`super::MediaFlow`].
    pub const MEDIA_FLOWS: &str = "MEDIA_FLOWS";
    /// Array of [`super::MediaState`].
    pub const MEDIA_STATES: &str = "MEDIA_STATES";
    /// Ring buffer of [`super::MediaLearned`].
    pub const MEDIA_EVENTS: &str = "MEDIA_EVENTS";
}

/// Zones: an interface, or a VLAN of a trunk, belongs to one.
pub const ZONES: u32 = 2;
/// The side of the Internet.
pub const ZONE_EXTERNAL: u8 = 0;
/// The side of the organisation.
pub const ZONE_INTERNAL: u8 = 1;
/// No zone: everything is dropped (`interface-unknown`, `vlan-unknown`).
pub const ZONE_NONE: u8 = 0xff;

/// Interfaces beyond this ifindex cannot be configured; the attach says so.
pub const MAX_IFINDEX: u32 = 4096;
/// Entries of `PORT_WORDS`: zone, TCP or UDP, port.
pub const PORT_WORD_SLOTS: u32 = ZONES * 2 * 65_536;
/// Entries of `PROTOCOL_WORDS`: zone, IP protocol number.
pub const PROTOCOL_WORD_SLOTS: u32 = ZONES * 256;
/// Entries of `RULES` in one generation.
pub const MAX_RULES: u32 = 4096;
/// Slots of `RULE_COUNTERS`: rule ids stay below.
pub const MAX_RULE_IDS: u32 = 4096;
/// A port's list of rules is at most this long.
pub const MAX_RULES_PER_WORD: u32 = 32;
/// Sets of sources, and of destinations, that rules can name.
pub const MAX_SETS: u8 = 64;
/// The source set of the management prefixes.
pub const SOURCE_SET_MANAGEMENT: u8 = 0;
/// The source set of the partners' addresses: who is not in it is dropped under a reason of its
/// own.
pub const SOURCE_SET_PARTNERS: u8 = 1;
/// A rule that any source, or any destination, satisfies.
pub const SET_ANY: u8 = 0xff;

/// Generations of a rule set: two that take turns, and the shadow.
pub const GENERATIONS: u32 = 3;
/// The slot of the shadow: a rule set that only counts what it would have done otherwise.
pub const GENERATION_SHADOW: u32 = 2;
/// Slots for interfaces in `REASON_COUNTERS`. Slot 0 is for frames of no configured interface.
pub const INTERFACE_SLOTS: u32 = 32;
/// Entries of `RATES` in one generation. Entry 0 stays unused.
pub const MAX_RATES: u32 = 512;

/// Index into `REASON_COUNTERS`.
pub const fn reason_slot(interface_slot: u8, reason: u8) -> u32 {
    ((interface_slot as u32) % INTERFACE_SLOTS) * REASON_SLOTS as u32
        + (reason as u32) % REASON_SLOTS as u32
}

/// Index into `SHADOW_COUNTERS`: first what passes and the shadow would drop, by the shadow's
/// reason; then what is dropped and the shadow would pass, by the reason in force.
pub const fn shadow_slot(shadow_drops: bool, reason: u8) -> u32 {
    (if shadow_drops { 0 } else { REASON_SLOTS as u32 }) + (reason as u32) % REASON_SLOTS as u32
}

/// Slot of `PROGRAMS`: judges a packet by the shadow generation.
pub const PROGRAM_SHADOW: u32 = 0;
/// Slot of `PROGRAMS`: answers a SYN with a SYN cookie.
pub const PROGRAM_SYN_COOKIE: u32 = 1;
/// Slot of `PROGRAMS`: answers a trial.
pub const PROGRAM_TRIAL: u32 = 2;
/// Slot of `PROGRAMS`: forwards a packet of a media flow.
pub const PROGRAM_MEDIA: u32 = 3;
/// Slots of `PROGRAMS`.
pub const PROGRAM_SLOTS: u32 = 4;

/// What the next program must know of a packet. Per CPU: the next program runs at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// Id of the rule that decided; of a media flow, its slot in `MEDIA_FLOWS`.
    pub rule: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// Number of the reason.
    pub reason: u8,
    /// The action that was decided on.
    pub action: u8,
    /// Zone.
    pub zone: u8,
    /// The interface's slot in `REASON_COUNTERS`.
    pub slot: u8,
    /// Zero.
    pub reserved: u32,
}

/// Index of a port's word. `port` in host order.
pub const fn port_index(zone: u8, udp: bool, port: u16) -> u32 {
    ((zone as u32) << 17) | ((udp as u32) << 16) | port as u32
}

/// Index of a protocol's word.
pub const fn protocol_index(zone: u8, protocol: u8) -> u32 {
    ((zone as u32) << 8) | protocol as u32
}

/// Word: the port is a management port in this zone.
pub const WORD_MANAGEMENT: u32 = 1 << 31;
/// Word: the port is a federation port; a blocked domain's addresses are dropped here.
pub const WORD_FEDERATION: u32 = 1 << 30;

/// Word: one rule decides, and it passes every packet: see [`open_word`].
pub const WORD_OPEN: u32 = 1 << 29;

/// Word: media flows may come in at this UDP port of ours (`MEDIA_PORTS` says which).
pub const WORD_MEDIA: u32 = 1 << 28;

/// The word of a port or protocol that one rule opens to every source and for every address of
/// ours: it holds the rule's id, and the rules need not be asked.
pub const fn open_word(rule: u32, flags: u32) -> u32 {
    flags | WORD_OPEN | rule
}
/// Id of the rule that opens the port or protocol of this word, if one does.
pub const fn word_open_rule(word: u32) -> Option<u32> {
    if word & WORD_OPEN != 0 { Some(word & 0xffff) } else { None }
}

/// A port or protocol word: `count` rules from `first` on, and flags. Zero means no rule.
pub const fn word(first: u32, count: u32, flags: u32) -> u32 {
    flags | (count << 16) | first
}
/// First rule of a word.
pub const fn word_first(word: u32) -> u32 {
    word & 0xffff
}
/// Number of rules of a word.
pub const fn word_count(word: u32) -> u32 {
    (word >> 16) & 0xff
}

/// One entry in `SETTINGS`. Written last when anything changes: one store swaps the generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// 0 or 1: which slot of the generation maps is in force. [`NO_GENERATION`]: none yet.
    pub generation: u32,
    /// `SETTING_*` bits.
    pub flags: u32,
    /// Sampled events per second, CPU and reason. 0 switches events off.
    pub events_per_second: u32,
    /// Another number after every change of the block tables, and 0 while they change. A block
    /// that the program has found is remembered under it and counts for nothing under any other;
    /// under 0 nothing is remembered. Another number after every swap of the generation too, and
    /// written after it: what is remembered under it knows the management prefixes in force.
    pub block_epoch: u64,
    /// A number that only this appliance's owner knows, for trial runs: see [`Trial`].
    pub trial: u64,
    /// Packets that may reach the stack, by zone.
    pub ceilings: [Limit; ZONES as usize],
    /// Blocks that begin with a later version are not in force yet: see [`Block`].
    pub block_version: u32,
    /// [`GENERATION_SHADOW`] while a shadow counts, else [`NO_GENERATION`].
    pub shadow: u32,
    /// New connections of a zone in a second beyond which SYNs are answered with cookies; 0: never.
    /// See [`FLOOD_ROUND`] for how exactly.
    pub flood_syns: u32,
    /// Secret of the hash of [`bucket_index`].
    pub hash_seed: u32,
    /// Bytes of a frame that an event takes along, at most [`EVENT_DATA`].
    pub event_bytes: u32,
    /// Zero.
    pub reserved: u32,
}

impl Settings {
    /// The generation, read once: the kernel program looks at the settings in the map itself,
    /// where the daemon may write another number at any time.
    #[inline(always)]
    pub fn generation_now(&self) -> u32 {
        // SAFETY: a reference to a number.
        unsafe { core::ptr::read_volatile(&raw const self.generation) }
    }

    /// The epoch of remembered blocks, read once and before whatever is looked up after it.
    #[inline(always)]
    pub fn epoch_now(&self) -> u64 {
        // SAFETY: a reference to a number.
        unsafe { core::ptr::read_volatile(&raw const self.block_epoch) }
    }
}

/// No rule set has been written yet.
pub const NO_GENERATION: u32 = GENERATIONS;
/// Count drops, but pass the packets (monitor-only).
pub const SETTING_MONITOR: u32 = 1;
/// Blocked IPv6 prefixes shorter than /48 exist: the presence bitmap cannot answer for them.
pub const SETTING_SHORT_PREFIXES6: u32 = 1 << 1;
/// Let LLDP through.
pub const SETTING_LLDP: u32 = 1 << 2;
/// Let LACP through.
pub const SETTING_LACP: u32 = 1 << 3;
/// Let DHCP answers through to the client ports (68, 546).
pub const SETTING_DHCP_CLIENT: u32 = 1 << 4;
/// There is a threshold for floods: TCP that rules let in is asked once more.
pub const SETTING_FLOOD: u32 = 1 << 6;
/// There are ceilings: everything that is let in is asked once more.
pub const SETTING_CEILING: u32 = 1 << 7;
/// Media flows may be for endpoints behind us (`MEDIA_PINHOLES`).
pub const SETTING_PINHOLES: u32 = 1 << 8;
/// Any block exists at all (else the block tables are not asked).
pub const SETTING_BLOCKS: u32 = 1 << 5;

/// An interface, or a VLAN of a trunk.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `ZONE_*`. In a fresh map all bytes are zero, so this is the zone plus one.
    pub zone_plus_one: u8,
    /// 1: tagged frames are looked up in `VLANS`.
    pub trunk: u8,
    /// Its slot in `REASON_COUNTERS`, 1 to 31; 0 when there are more interfaces than slots.
    pub slot: u8,
    /// Zero.
    pub reserved: u8,
}

/// Key of `VLANS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanKey {
    /// The device.
    pub ifindex: u32,
    /// Outer VLAN id, host order.
    pub outer: u16,
    /// Inner VLAN id, host order; 0 for a single tag.
    pub inner: u16,
}

/// A rule as the kernel sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Stable id: slot in `RULE_COUNTERS`, the same across generations.
    pub id: u32,
    /// Source set, or [`SET_ANY`].
    pub source_set: u8,
    /// Destination set, or [`SET_ANY`].
    pub destination_set: u8,
    /// `ACTION_*`.
    pub action: u8,
    /// `RULE_*` bits.
    pub flags: u8,
    /// One IPv6 address of the destination set, in words as it stands in the packet, so that the
    /// set need not be asked about it. Counts only with [`RULE_DESTINATION6`].
    pub destination6: [u64; 2],
    /// One IPv4 address of the destination set, likewise, with [`RULE_DESTINATION4`].
    pub destination4: u32,
    /// Index into `RATES`; 0: no limits.
    pub limits: u16,
    /// `CONTENT_*`: what the payload must look like.
    pub content: u8,
    /// Zero.
    pub reserved: u8,
}

/// The payload is not looked at.
pub const CONTENT_ANY: u8 = 0;
/// The payload is SIP in the clear, or a keep-alive (RFC 3261, RFC 5626).
pub const CONTENT_SIP: u8 = 1;
/// The payload is STUN or TURN channel data (RFC 7983).
pub const CONTENT_STUN: u8 = 2;
/// The payload is STUN, ZRTP, DTLS, TURN channel data, RTP or RTCP (RFC 7983).
pub const CONTENT_MEDIA: u8 = 3;

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

/// Key of `FRAGMENTS`: what all fragments of a packet have in common (RFC 791, RFC 8200).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Destination, likewise.
    pub destination: [u8; 16],
    /// Identification, host order.
    pub id: u32,
    /// IP protocol; of IPv6 the number after the fragment header.
    pub protocol: u8,
    /// The zone it came in by.
    pub zone: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// How far the fragments of a packet have come.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// End of what was seen, in bytes of the packet's payload; [`FRAGMENT_SPOILED`]: they
    /// overlapped, and no more pass.
    pub end: u32,
    /// Seconds since boot when the first came.
    pub seconds: u32,
}

/// See [`Fragment::end`].
pub const FRAGMENT_SPOILED: u32 = u32::MAX;
/// How long fragments may follow their first, in seconds. The stack waits as long.
pub const FRAGMENT_SECONDS: u32 = 30;
/// First fragments that are remembered a second, on each CPU.
pub const FRAGMENTS_PER_SECOND: u32 = 4096;

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

/// A trial run: 32 bytes of metadata in front of the frame, given with `BPF_PROG_TEST_RUN`. Real
/// traffic brings no metadata, and cannot know the number. The program changes nothing in a trial
/// and writes its answer over the question.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// [`Settings::trial`]; in the answer [`TRIAL_ANSWERED`].
    pub magic: u64,
    /// Id of the rule that decided, or `u32::MAX`.
    pub rule: u32,
    /// Number of the reason.
    pub reason: u8,
    /// 0 pass, 1 drop, 2 answered with a cookie, 3 forwarded.
    pub verdict: u8,
    /// Zone, or `ZONE_NONE`.
    pub zone: u8,
    /// 1: passed in monitor mode only.
    pub monitored: u8,
    /// Slot of the media flow that was found, or 0.
    pub flow: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

/// See [`Trial::magic`].
pub const TRIAL_ANSWERED: u64 = u64::from_be_bytes(*b"answered");

/// The rule names an IPv4 address of its destination set.
pub const RULE_DESTINATION4: u8 = 1;
/// The rule names an IPv6 address of its destination set.
pub const RULE_DESTINATION6: u8 = 2;

/// The rule passes the packet.
pub const ACTION_PASS: u8 = 0;
/// The rule drops the packet.
pub const ACTION_DROP: u8 = 1;

/// Membership in up to 64 sets. Two halves, because a trie with 4-byte keys holds no `u64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetMask {
    /// Sets 0 to 31.
    pub low: u32,
    /// Sets 32 to 63.
    pub high: u32,
}

impl SetMask {
    /// Whether `set` is in the mask.
    pub const fn contains(self, set: u8) -> bool {
        if set < 32 { self.low & (1 << set) != 0 } else { self.high & (1 << (set & 31)) != 0 }
    }

    /// The mask with `set` in it.
    #[must_use]
    pub const fn with(mut self, set: u8) -> Self {
        if set < 32 {
            self.low |= 1 << set;
        } else {
            self.high |= 1 << (set & 31);
        }
        self
    }

    /// Both masks together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self { low: self.low | other.low, high: self.high | other.high }
    }
}

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

    /// Whether it is in force in this version of the block lists.
    pub const fn in_version(&self, version: u32) -> bool {
        self.from_version <= version && (self.until_version == 0 || version < self.until_version)
    }
}

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

/// Everything from this source is dropped.
pub const SCOPE_ALL: u8 = 0;
/// Only what goes to federation ports is dropped.
pub const SCOPE_FEDERATION: u8 = 1;

/// Only in the kernel program's memory: no table says anything of this source.
pub const SCOPE_NONE: u8 = 0xff;
/// What is remembered of a source of which no table says anything.
pub const NOT_BLOCKED: Block = Block::new(SCOPE_NONE, 0, 0, 0);

/// Packets and bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

impl core::iter::Sum for Counter {
    fn sum<I: Iterator<Item = Self>>(counters: I) -> Self {
        counters.fold(Self::default(), |total, counter| Self {
            packets: total.packets.wrapping_add(counter.packets),
            bytes: total.bytes.wrapping_add(counter.bytes),
        })
    }
}

/// Packets and bytes of a reason, and how many events of it this CPU has sent in this second: in
/// one value, so that a dropped packet costs one look-up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReasonCounter {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
    /// The kernel's tick (jiffies) at which the second was last looked at. The coarse clock moves
    /// with it and not between, so within one tick the clock has nothing new to say.
    pub tick: u64,
    /// Seconds since boot.
    pub second: u32,
    /// Events sent in that second.
    pub sent: u32,
}

impl ReasonCounter {
    /// What was counted, without the events.
    pub const fn counted(self) -> Counter {
        Counter { packets: self.packets, bytes: self.bytes }
    }
}

/// A sampled packet that was dropped (or would have been, in monitor mode).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`, coarse).
    pub at_nanoseconds: u64,
    /// Source address; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
    /// The interface.
    pub ifindex: u32,
    /// Length of the frame in bytes.
    pub length: u32,
    /// Rule id, or `u32::MAX` when no rule decided.
    pub rule: u32,
    /// Source port, big-endian.
    pub source_port: [u8; 2],
    /// Destination port, big-endian; for ICMP the type and code.
    pub destination_port: [u8; 2],
    /// Outer VLAN id, host order; 0 when untagged.
    pub vlan: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Number of the reason.
    pub reason: u8,
    /// Zone.
    pub zone: u8,
    /// 1: the packet was passed all the same (monitor mode).
    pub monitored: u8,
    /// EtherType, big-endian.
    pub ether_type: [u8; 2],
    /// Bytes of the frame in `data`.
    pub captured: u16,
    /// Zero.
    pub reserved: [u8; 6],
    /// The frame's first bytes.
    pub data: [u8; EVENT_DATA],
}

/// Room for a frame's first bytes in an event.
pub const EVENT_DATA: usize = 160;

/// A flow that this appliance began, remembered when its packet left. Aligned, so that the kernel
/// program writes it in words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Our address; IPv4 as `::ffff:a.b.c.d`.
    pub local: [u8; 16],
    /// The other side's address, likewise.
    pub remote: [u8; 16],
    /// Our port, big-endian; the identifier for an ICMP echo.
    pub local_port: [u8; 2],
    /// The other side's port, big-endian; zero for an ICMP echo.
    pub remote_port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// How long a remembered flow lets answers in, in seconds.
pub const FLOW_SECONDS: u64 = 60;

/// Words of 64 bits in `PRESENCE4`: two bits a /24.
pub const PRESENCE4_SLOTS: u32 = 1 << 19;
/// Words of 64 bits in `PRESENCE6`.
pub const PRESENCE6_SLOTS: u32 = 1 << 19;
/// In the two bits of a cell: addresses in it are blocked one by one.
pub const PRESENT_ADDRESSES: u32 = 1;
/// In the two bits of a cell: blocked prefixes lie in it or around it.
pub const PRESENT_PREFIXES: u32 = 2;

/// Slot of an IPv4 address in `PRESENCE4`, and where in the word its two bits begin.
pub const fn presence4(address: [u8; 4]) -> (u32, u32) {
    let net = u32::from_be_bytes(address) >> 8;
    (net >> 5, (net & 31) * 2)
}

/// Slot of an IPv6 address in `PRESENCE6`, and where in the word its two bits begin: a hash of
/// its first 48 bits. A set bit may stand for several /48 (a false positive costs a look-up); a
/// clear one is proof.
pub const fn presence6(address: [u8; 16]) -> (u32, u32) {
    let high = u32::from_be_bytes([address[0], address[1], address[2], address[3]]);
    let low = u16::from_be_bytes([address[4], address[5]]);
    // Fibonacci hashing: multiply, keep the top 24 bits.
    let net = ((high as u64) << 16) | low as u64;
    let hash = (net.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32;
    (hash >> 5, (hash & 31) * 2)
}

/// An IPv4 address in one word, as it stands in the packet.
pub const fn word4(address: [u8; 4]) -> u32 {
    u32::from_ne_bytes(address)
}

/// An IPv6 address in two words, as it stands in the packet.
pub const fn words6(address: [u8; 16]) -> [u64; 2] {
    // SAFETY: sixteen bytes either way, and every bit pattern is a value of both.
    unsafe { core::mem::transmute(address) }
}

/// An IPv6 address from two words, as it stands in the packet.
pub const fn address6(words: [u64; 2]) -> [u8; 16] {
    // SAFETY: sixteen bytes either way, and every bit pattern is a value of both.
    unsafe { core::mem::transmute(words) }
}

/// An IPv4 address in the 16-byte form used by keys that serve both families.
pub const fn mapped(address: [u8; 4]) -> [u8; 16] {
    // As one number, so that the kernel program writes it with two stores.
    ((0xffff_u128 << 32) | u32::from_be_bytes(address) as u128).to_be_bytes()
}

#[cfg(feature = "user")]
mod user {
    use super::{
        Block, Bucket, Counter, Event, Flood, FlowKey, Fragment, FragmentKey, Handed, Interface,
        KnownKey, MediaFlow, MediaLearned, MediaState, PinholeKey, ReasonCounter, Rule, RuleLimits,
        SetMask, Settings, Trial, VlanKey,
    };
    macro_rules! pod {
        ($($name:ident),+) => { $(
            // SAFETY: `repr(C)`, `Copy`, without padding (see the layout tests), and every bit
            // pattern is a value.
            unsafe impl aya::Pod for $name {}
        )+ };
    }
    pod!(
        Block,
        Bucket,
        Counter,
        Event,
        Flood,
        FlowKey,
        Fragment,
        FragmentKey,
        Handed,
        Interface,
        KnownKey,
        MediaFlow,
        MediaLearned,
        MediaState,
        PinholeKey,
        ReasonCounter,
        Rule,
        RuleLimits,
        SetMask,
        Settings,
        Trial,
        VlanKey
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!((size_of::<Settings>(), align_of::<Settings>()), (88, 8));
        assert_eq!((size_of::<Interface>(), align_of::<Interface>()), (4, 4));
        assert_eq!(size_of::<VlanKey>(), 8);
        assert_eq!((size_of::<Rule>(), align_of::<Rule>()), (32, 8));
        assert_eq!((size_of::<SetMask>(), align_of::<SetMask>()), (8, 4));
        assert_eq!((size_of::<Block>(), align_of::<Block>()), (16, 4));
        assert_eq!(size_of::<RememberedBlock<[u64; 2]>>(), 40);
        assert_eq!(size_of::<Counter>(), 16);
        assert_eq!(size_of::<ReasonCounter>(), 32);
        assert_eq!(size_of::<Event>(), 8 + 32 + 12 + 4 + 8 + 8 + EVENT_DATA);
        assert_eq!(size_of::<RuleLimits>(), 96);
        assert_eq!(size_of::<Bucket>(), 32);
        assert_eq!((size_of::<KnownKey>(), align_of::<KnownKey>()), (24, 8));
        assert_eq!((size_of::<FragmentKey>(), align_of::<FragmentKey>()), (40, 8));
        assert_eq!(size_of::<Fragment>(), 8);
        assert_eq!(size_of::<Flood>(), 16);
        assert_eq!(size_of::<Trial>(), 32);
        assert_eq!(size_of::<Handed>(), 16);
        assert_eq!((size_of::<FlowKey>(), align_of::<FlowKey>()), (40, 8));
    }

    #[test]
    fn a_word_gives_back_what_was_put_in() {
        let word = word(4095, 32, WORD_FEDERATION);
        assert_eq!((word_first(word), word_count(word)), (4095, 32));
        assert_ne!(word & WORD_FEDERATION, 0);
        assert_eq!(word_open_rule(word), None);
        let open = open_word(MAX_RULE_IDS - 1, WORD_MANAGEMENT);
        assert_eq!((word_open_rule(open), word_count(open)), (Some(MAX_RULE_IDS - 1), 0));
        assert_ne!(open & WORD_MANAGEMENT, 0);
        assert_eq!(word & WORD_MANAGEMENT, 0);
    }

    #[test]
    fn indices_stay_inside_their_maps() {
        assert!(port_index(ZONE_INTERNAL, true, 65_535) < PORT_WORD_SLOTS);
        assert!(protocol_index(ZONE_INTERNAL, 255) < PROTOCOL_WORD_SLOTS);
        assert!(media_port_index(ZONE_INTERNAL, true, 65_535) < MEDIA_PORT_SLOTS);
        assert!(presence4([255; 4]).0 < PRESENCE4_SLOTS);
        assert!(presence6([255; 16]).0 < PRESENCE6_SLOTS);
        for byte in 0..=255 {
            assert!(remembered4([byte; 4]) < REMEMBERED_BLOCKS);
            assert!(
                remembered6([0, byte, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4])
                    < REMEMBERED_BLOCKS
            );
        }
    }

    #[test]
    fn an_ipv4_address_has_its_mapped_form() {
        let expected = std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets();
        assert_eq!(mapped([192, 0, 2, 1]), expected);
    }

    #[test]
    fn a_set_mask_holds_every_set() {
        for set in 0..MAX_SETS {
            let mask = SetMask::default().with(set);
            assert!((0..MAX_SETS).all(|other| mask.contains(other) == (other == set)));
        }
    }
}
