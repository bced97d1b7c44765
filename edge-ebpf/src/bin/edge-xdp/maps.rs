//! Every map of the kernel half, under the names of [`edge_ebpf::abi::map_names`].
//!
//! All are BTF maps: `bpftool map dump` shows them with the names of their fields. The maps of
//! maps hold two generations of a rule set each; one store into `SETTINGS` swaps them. What is
//! counted stands outside the generations, so that a swap loses no count. Those that are not
//! named there are the program's own and not pinned.

use aya_ebpf::{
    btf_maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf,
    },
    macros::btf_map,
};
use edge_ebpf::{
    abi::{
        Block, Bucket, Counter, Event, Flood, FlowKey, Fragment, FragmentKey, Handed,
        INTERFACE_SLOTS, Interface, KnownKey, MAX_IFINDEX, MAX_PINHOLES, MAX_RATES, MAX_RULE_IDS,
        MAX_RULES, MEDIA_FLOW_SLOTS, MEDIA_PORT_SLOTS, MEDIA_STATE_SLOTS, MediaFlow, MediaLearned,
        MediaState, PORT_WORD_SLOTS, PRESENCE4_SLOTS, PRESENCE6_SHORT_SLOTS, PRESENCE6_SLOTS,
        PROGRAM_SLOTS, PROTOCOL_WORD_SLOTS, PinholeKey, REMEMBERED_BLOCKS, ReasonCounter,
        RememberedBlock, Rule, RuleLimits, SOURCE_BUCKETS_ROW, SetMask, Settings, VlanKey, ZONES,
    },
    verdict::REASON_SLOTS,
};

/// `BPF_F_NO_PREALLOC`: entries take memory when they are written, not before.
const NO_PREALLOC: usize = 1;
/// `BPF_F_MMAPABLE`: the first entry begins a page. An array without it begins 16 bytes after a
/// cache line's first, and its entries lie across more lines than they must. Nobody maps it.
const ON_A_PAGE: usize = 1 << 10;
/// Generations of a rule set.
const GENERATIONS: usize = edge_ebpf::abi::GENERATIONS as usize;
/// Blocks of one kind, unless the loader says otherwise.
const BLOCKS: usize = 65_536;
/// Source prefixes of one generation and family.
const SOURCES: usize = 16_384;
/// Own addresses of one generation.
const OWN_ADDRESSES: usize = 1024;
/// VLANs of all trunks.
const VLAN_ENTRIES: usize = 4096;
/// Flows remembered at egress; the least recently used one makes room.
const FLOW_ENTRIES: usize = 65_536;
/// Bytes of the event ring.
const EVENT_BYTES: usize = 1 << 20;
/// Bytes of the ring of learned sources.
const MEDIA_EVENT_BYTES: usize = 1 << 16;
/// Sources that have proved who they are; the least recently used one makes room.
const KNOWN_ENTRIES: usize = 16_384;
/// Fragmented packets, and TCP connections, under way; the least recently used one makes room.
const FRAGMENT_ENTRIES: usize = 8192;

/// A structure as the value of a map inside a map. Kernels before 6.2 take a map of maps' type
/// information for a part of its inner maps' shape when the value is a structure, and the loader
/// makes inner maps without such information; a list of one structure is none.
pub type Inner<T> = [T; 1];

/// See [`edge_ebpf::abi::map_names::SETTINGS`].
#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();
/// See [`edge_ebpf::abi::map_names::INTERFACES`].
#[btf_map]
pub static INTERFACES: Array<Interface, { MAX_IFINDEX as usize }> = Array::new();
/// See [`edge_ebpf::abi::map_names::VLANS`].
#[btf_map]
pub static VLANS: HashMap<VlanKey, Interface, VLAN_ENTRIES, NO_PREALLOC> = HashMap::new();
/// See [`edge_ebpf::abi::map_names::PORT_WORDS`].
#[btf_map]
pub static PORT_WORDS: ArrayOfMaps<Array<u32, { PORT_WORD_SLOTS as usize }>, GENERATIONS> =
    ArrayOfMaps::new();
/// See [`edge_ebpf::abi::map_names::PROTOCOL_WORDS`].
#[btf_map]
pub static PROTOCOL_WORDS: ArrayOfMaps<Array<u32, { PROTOCOL_WORD_SLOTS as usize }>, GENERATIONS> =
    ArrayOfMaps::new();
/// See [`edge_ebpf::abi::map_names::RULES`].
#[btf_map]
pub static RULES: ArrayOfMaps<Array<Inner<Rule>, { MAX_RULES as usize }>, GENERATIONS> =
    ArrayOfMaps::new();
/// See [`edge_ebpf::abi::map_names::RATES`].
#[btf_map]
pub static RATES: ArrayOfMaps<Array<Inner<RuleLimits>, { MAX_RATES as usize }>, GENERATIONS> =
    ArrayOfMaps::new();
/// See [`edge_ebpf::abi::map_names::SOURCES4`].
#[btf_map]
pub static SOURCES4: ArrayOfMaps<LpmTrie<[u8; 4], Inner<SetMask>, SOURCES>, GENERATIONS> =
    ArrayOfMaps::new();
/// See [`edge_ebpf::abi::map_names::SOURCES6`].
#[btf_map]
pub static SOURCES6: ArrayOfMaps<LpmTrie<[u8; 16], Inner<SetMask>, SOURCES>, GENERATIONS> =
    ArrayOfMaps::new();
/// See [`edge_ebpf::abi::map_names::DESTINATIONS`].
#[btf_map]
pub static DESTINATIONS: ArrayOfMaps<
    HashMap<[u8; 16], Inner<SetMask>, OWN_ADDRESSES, NO_PREALLOC>,
    GENERATIONS,
> = ArrayOfMaps::new();
/// See [`edge_ebpf::abi::map_names::BLOCKED4`].
#[btf_map]
pub static BLOCKED4: HashMap<[u8; 4], Block, BLOCKS, NO_PREALLOC> = HashMap::new();
/// See [`edge_ebpf::abi::map_names::BLOCKED4_PREFIXES`].
#[btf_map]
pub static BLOCKED4_PREFIXES: LpmTrie<[u8; 4], Block, BLOCKS> = LpmTrie::new();
/// See [`edge_ebpf::abi::map_names::BLOCKED6`].
#[btf_map]
pub static BLOCKED6: HashMap<[u8; 16], Block, BLOCKS, NO_PREALLOC> = HashMap::new();
/// See [`edge_ebpf::abi::map_names::BLOCKED6_PREFIXES`].
#[btf_map]
pub static BLOCKED6_PREFIXES: LpmTrie<[u8; 16], Block, BLOCKS> = LpmTrie::new();
/// See [`edge_ebpf::abi::RememberedBlock`].
#[btf_map]
pub static REMEMBERED4: PerCpuArray<RememberedBlock<u32>, { REMEMBERED_BLOCKS as usize }> =
    PerCpuArray::new();
/// See [`edge_ebpf::abi::RememberedBlock`].
#[btf_map]
pub static REMEMBERED6: PerCpuArray<RememberedBlock<[u64; 2]>, { REMEMBERED_BLOCKS as usize }> =
    PerCpuArray::new();
/// See [`edge_ebpf::abi::map_names::HANDED`].
#[btf_map]
pub static HANDED: PerCpuArray<Handed, 1> = PerCpuArray::new();
/// See [`edge_ebpf::abi::map_names::PRESENCE4`].
#[btf_map]
pub static PRESENCE4: Array<u64, { PRESENCE4_SLOTS as usize }> = Array::new();
/// See [`edge_ebpf::abi::map_names::PRESENCE6_PAGES`].
#[btf_map]
pub static PRESENCE6_PAGES: Array<u64, { PRESENCE6_SLOTS as usize }, ON_A_PAGE> = Array::new();
/// See [`edge_ebpf::abi::map_names::PRESENCE6_SHORT`].
#[btf_map]
pub static PRESENCE6_SHORT: Array<u64, { PRESENCE6_SHORT_SLOTS as usize }> = Array::new();
/// See [`edge_ebpf::abi::map_names::REASON_COUNTERS`].
#[btf_map]
pub static REASON_COUNTERS: PerCpuArray<
    ReasonCounter,
    { INTERFACE_SLOTS as usize * REASON_SLOTS },
> = PerCpuArray::new();
/// See [`edge_ebpf::abi::map_names::RULE_COUNTERS`].
#[btf_map]
pub static RULE_COUNTERS: PerCpuArray<Counter, { MAX_RULE_IDS as usize }> = PerCpuArray::new();
/// See [`edge_ebpf::abi::map_names::EVENTS`].
#[btf_map]
pub static EVENTS: RingBuf<Event, EVENT_BYTES> = RingBuf::new();
/// See [`edge_ebpf::abi::map_names::FLOWS`].
#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, u64, FLOW_ENTRIES> = LruHashMap::new();
/// See [`edge_ebpf::abi::map_names::SOURCE_BUCKETS`].
#[btf_map]
pub static SOURCE_BUCKETS: Array<Bucket, { 2 * SOURCE_BUCKETS_ROW as usize }> = Array::new();
/// See [`edge_ebpf::abi::map_names::TOTAL_BUCKETS`].
#[btf_map]
pub static TOTAL_BUCKETS: Array<Bucket, { (MAX_RULE_IDS + ZONES) as usize }> = Array::new();
/// See [`edge_ebpf::abi::map_names::KNOWN_SOURCES`].
#[btf_map]
pub static KNOWN_SOURCES: LruHashMap<KnownKey, Bucket, KNOWN_ENTRIES> = LruHashMap::new();
/// See [`edge_ebpf::abi::map_names::FRAGMENTS`].
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, FRAGMENT_ENTRIES> = LruHashMap::new();
/// See [`edge_ebpf::abi::map_names::BEGINNINGS`].
#[btf_map]
pub static BEGINNINGS: LruHashMap<FlowKey, u32, FRAGMENT_ENTRIES> = LruHashMap::new();
/// See [`edge_ebpf::abi::map_names::FLOODS`].
#[btf_map]
pub static FLOODS: PerCpuArray<Flood, { ZONES as usize }> = PerCpuArray::new();
/// See [`edge_ebpf::abi::map_names::SHADOW_COUNTERS`].
#[btf_map]
pub static SHADOW_COUNTERS: PerCpuArray<Counter, { 2 * REASON_SLOTS }> = PerCpuArray::new();
/// See [`edge_ebpf::abi::map_names::PROGRAMS`].
#[btf_map]
pub static PROGRAMS: ProgramArray<{ PROGRAM_SLOTS as usize }> = ProgramArray::new();
/// See [`edge_ebpf::abi::map_names::MEDIA_PORTS`].
#[btf_map]
pub static MEDIA_PORTS: Array<u32, { MEDIA_PORT_SLOTS as usize }> = Array::new();
/// See [`edge_ebpf::abi::map_names::MEDIA_PINHOLES`].
#[btf_map]
pub static MEDIA_PINHOLES: HashMap<PinholeKey, u32, { MAX_PINHOLES as usize }, NO_PREALLOC> =
    HashMap::new();
/// See [`edge_ebpf::abi::map_names::MEDIA_FLOWS`].
#[btf_map]
pub static MEDIA_FLOWS: Array<MediaFlow, { MEDIA_FLOW_SLOTS as usize }, ON_A_PAGE> = Array::new();
/// See [`edge_ebpf::abi::map_names::MEDIA_STATES`].
#[btf_map]
pub static MEDIA_STATES: Array<MediaState, { MEDIA_STATE_SLOTS as usize }, ON_A_PAGE> =
    Array::new();
/// See [`edge_ebpf::abi::map_names::MEDIA_EVENTS`].
#[btf_map]
pub static MEDIA_EVENTS: RingBuf<MediaLearned, MEDIA_EVENT_BYTES> = RingBuf::new();
