//! Names of the maps, in the program and under the pin directory.

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
/// Array of `u64`: two cells of two bits for each IPv6 /48, see [`super::presence6`].
pub const PRESENCE6_PAGES: &str = "PRESENCE6_PAGES";
/// Array of `u64`: where IPv6 prefixes shorter than /48 are, see [`super::presence6_short`].
pub const PRESENCE6_SHORT: &str = "PRESENCE6_SHORT";
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
