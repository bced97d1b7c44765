//! The rule set: words by port and protocol, the rules that they point to, and the sets that rules
//! name.

use super::{SCOPE_FEDERATION, SCOPE_REMOTE, ZONES};

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

/// Word: the port is one of remote users and of no other service; whoever guesses passwords is dropped
/// here.
pub const WORD_REMOTE: u32 = 1 << 27;

/// The scopes (bits of [`super::Block::scope`]) that the port of a word is in.
pub const fn word_scopes(word: u32) -> u8 {
    let federation = if word & WORD_FEDERATION != 0 { SCOPE_FEDERATION } else { 0 };
    let remote = if word & WORD_REMOTE != 0 { SCOPE_REMOTE } else { 0 };
    federation | remote
}

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

/// The rule names an IPv4 address of its destination set.
pub const RULE_DESTINATION4: u8 = 1;
/// The rule names an IPv6 address of its destination set.
pub const RULE_DESTINATION6: u8 = 2;
/// The rule passes the packet.
pub const ACTION_PASS: u8 = 0;
/// The rule drops the packet.
pub const ACTION_DROP: u8 = 1;
/// The payload is not looked at.
pub const CONTENT_ANY: u8 = 0;
/// The payload is SIP in the clear, or a keep-alive (RFC 3261, RFC 5626).
pub const CONTENT_SIP: u8 = 1;
/// The payload is STUN or TURN channel data (RFC 7983).
pub const CONTENT_STUN: u8 = 2;
/// The payload is STUN, ZRTP, DTLS, TURN channel data, RTP or RTCP (RFC 7983).
pub const CONTENT_MEDIA: u8 = 3;

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
