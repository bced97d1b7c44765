//! Key and value of every map the kernel program and the daemon share.
//!
//! All types are `repr(C)` without padding, so that a key is its bytes. Addresses and ports in
//! keys are big-endian bytes, as they stand in the packet; counters and flags are native.
//! A change of any layout here must raise [`SCHEMA`].

/// Version of all layouts in this file. Pins with another number are refused, never reused.
pub const SCHEMA: u32 = 1;

/// Names of the maps, in the program and under the pin directory.
pub mod map_names {
    /// Array of one [`super::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Array of [`super::Interface`], indexed by ifindex.
    pub const INTERFACES: &str = "INTERFACES";
    /// Hash of [`super::VlanKey`] to [`super::Interface`], asked only on trunk interfaces.
    pub const VLANS: &str = "VLANS";
    /// Two generations of arrays of port words (`u32`), see [`super::port_index`].
    pub const PORT_WORDS: &str = "PORT_WORDS";
    /// Two generations of arrays of words (`u32`) by IP protocol, see [`super::protocol_index`].
    pub const PROTOCOL_WORDS: &str = "PROTOCOL_WORDS";
    /// Two generations of arrays of [`super::Rule`].
    pub const RULES: &str = "RULES";
    /// Two generations of LPM tries: IPv4 source prefix to [`super::SetMask`].
    pub const SOURCES4: &str = "SOURCES4";
    /// Two generations of LPM tries: IPv6 source prefix to [`super::SetMask`].
    pub const SOURCES6: &str = "SOURCES6";
    /// Two generations of hashes: our own address (16 bytes) to [`super::SetMask`].
    pub const DESTINATIONS: &str = "DESTINATIONS";
    /// Hash: IPv4 address to [`super::Block`].
    pub const BLOCKED4: &str = "BLOCKED4";
    /// LPM trie: IPv4 prefix to [`super::Block`].
    pub const BLOCKED4_PREFIXES: &str = "BLOCKED4_PREFIXES";
    /// Hash: IPv6 address to [`super::Block`].
    pub const BLOCKED6: &str = "BLOCKED6";
    /// LPM trie: IPv6 prefix to [`super::Block`].
    pub const BLOCKED6_PREFIXES: &str = "BLOCKED6_PREFIXES";
    /// Array of `u64`: one bit for each IPv4 /24, see [`super::presence4`].
    pub const PRESENCE4: &str = "PRESENCE4";
    /// Array of `u64`: one bit for each hash of an IPv6 /48, see [`super::presence6`].
    pub const PRESENCE6: &str = "PRESENCE6";
    /// Per-CPU array of [`super::ReasonCounter`], indexed by reason number.
    pub const REASON_COUNTERS: &str = "REASON_COUNTERS";
    /// Per-CPU array of [`super::Counter`], indexed by rule id.
    pub const RULE_COUNTERS: &str = "RULE_COUNTERS";
    /// Ring buffer of [`super::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// LRU hash of [`super::FlowKey`] to seconds since boot (`u64`), written at egress.
    pub const FLOWS: &str = "FLOWS";
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
/// A rule that any source, or any destination, satisfies.
pub const SET_ANY: u8 = 0xff;

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
    /// under 0 nothing is remembered.
    pub block_epoch: u64,
}

/// No rule set has been written yet.
pub const NO_GENERATION: u32 = 2;
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
    /// Zero.
    pub reserved: [u8; 2],
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
    /// Zero.
    pub reserved: u32,
}

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
    /// What the tables said of it.
    pub block: Block,
}

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
pub const NOT_BLOCKED: Block =
    Block { scope: SCOPE_NONE, reason: 0, owners: 0, expires_at_seconds: 0 };

/// Packets and bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
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
    /// Zero.
    pub reserved: [u8; 8],
}

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

/// Words of 64 bits in `PRESENCE4`: one bit a /24.
pub const PRESENCE4_SLOTS: u32 = 1 << 18;
/// Words of 64 bits in `PRESENCE6`.
pub const PRESENCE6_SLOTS: u32 = 1 << 18;

/// Slot and bit of an IPv4 address in `PRESENCE4`.
pub const fn presence4(address: [u8; 4]) -> (u32, u64) {
    let net = u32::from_be_bytes(address) >> 8;
    (net >> 6, 1 << (net & 63))
}

/// Slot and bit of an IPv6 address in `PRESENCE6`: a hash of its first 48 bits. A set bit may
/// stand for several /48 (a false positive costs a look-up); a clear one is proof.
pub const fn presence6(address: [u8; 16]) -> (u32, u64) {
    let high = u32::from_be_bytes([address[0], address[1], address[2], address[3]]);
    let low = u16::from_be_bytes([address[4], address[5]]);
    // Fibonacci hashing: multiply, keep the top 24 bits.
    let net = ((high as u64) << 16) | low as u64;
    let hash = (net.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32;
    (hash >> 6, 1 << (hash & 63))
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

/// An IPv4 address in the 16-byte form used by keys that serve both families.
pub const fn mapped(address: [u8; 4]) -> [u8; 16] {
    // As one number, so that the kernel program writes it with two stores.
    ((0xffff_u128 << 32) | u32::from_be_bytes(address) as u128).to_be_bytes()
}

#[cfg(feature = "user")]
mod user {
    use super::{
        Block, Counter, Event, FlowKey, Interface, ReasonCounter, Rule, SetMask, Settings, VlanKey,
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
        Counter,
        Event,
        FlowKey,
        Interface,
        ReasonCounter,
        Rule,
        SetMask,
        Settings,
        VlanKey
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Settings>(), 24);
        assert_eq!((size_of::<Interface>(), align_of::<Interface>()), (4, 4));
        assert_eq!(size_of::<VlanKey>(), 8);
        assert_eq!((size_of::<Rule>(), align_of::<Rule>()), (32, 8));
        assert_eq!((size_of::<SetMask>(), align_of::<SetMask>()), (8, 4));
        assert_eq!((size_of::<Block>(), align_of::<Block>()), (8, 4));
        assert_eq!(size_of::<RememberedBlock<[u64; 2]>>(), 32);
        assert_eq!(size_of::<Counter>(), 16);
        assert_eq!(size_of::<ReasonCounter>(), 32);
        assert_eq!(size_of::<Event>(), 8 + 32 + 12 + 4 + 8 + 8);
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
