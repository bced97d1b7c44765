//! The shape every pinned map must have. aya reuses a pinned map without looking at it, so this
//! is looked at first: a program must never run on a map of another shape.

use std::path::Path;

use aya::maps::{MapInfo, MapType};
use edge_ebpf::{
    abi::{
        Block, Bucket, Counter, Flood, FlowKey, Fragment, FragmentKey, GENERATIONS, Handed,
        INTERFACE_SLOTS, Interface, KnownKey, MAX_IFINDEX, MAX_PINHOLES, MAX_RULE_IDS,
        MEDIA_FLOW_SLOTS, MEDIA_PORT_SLOTS, MEDIA_STATE_SLOTS, MediaFlow, MediaState,
        PRESENCE4_SLOTS, PRESENCE6_SHORT_SLOTS, PRESENCE6_SLOTS, PROGRAM_SLOTS, PinholeKey,
        ReasonCounter, SCHEMA, SOURCE_BUCKETS_ROW, SetMask, Settings, VlanKey, ZONES,
        map_names as names,
    },
    verdict::REASON_SLOTS,
};

use super::{FirewallError, migrate};

/// `BPF_F_NO_PREALLOC`.
pub(super) const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`: the first entry begins a page. Nobody maps it.
const ON_A_PAGE: u32 = 1 << 10;
/// Source prefixes of one family in one generation.
pub(super) const INNER_SOURCES: u32 = 16_384;
/// Our own addresses in one generation.
pub(super) const INNER_DESTINATIONS: u32 = 1024;

/// A map's shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub name: &'static str,
    pub kind: MapType,
    pub key: u32,
    pub value: u32,
    /// `None`: the configuration decides.
    pub max_entries: Option<u32>,
    pub flags: u32,
}

const fn shape(
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    max_entries: u32,
    flags: u32,
) -> Shape {
    let max_entries = if max_entries == 0 { None } else { Some(max_entries) };
    Shape { name, kind, key: key as u32, value: value as u32, max_entries, flags }
}

/// Every map, in the order in which people read them.
pub(super) const SHAPES: &[Shape] = &[
    shape(names::SETTINGS, MapType::Array, 4, size_of::<Settings>(), 1, 0),
    shape(names::INTERFACES, MapType::Array, 4, size_of::<Interface>(), MAX_IFINDEX, 0),
    shape(
        names::VLANS,
        MapType::Hash,
        size_of::<VlanKey>(),
        size_of::<Interface>(),
        4096,
        NO_PREALLOC,
    ),
    shape(names::PORT_WORDS, MapType::ArrayOfMaps, 4, 4, GENERATIONS, 0),
    shape(names::PROTOCOL_WORDS, MapType::ArrayOfMaps, 4, 4, GENERATIONS, 0),
    shape(names::RULES, MapType::ArrayOfMaps, 4, 4, GENERATIONS, 0),
    shape(names::RATES, MapType::ArrayOfMaps, 4, 4, GENERATIONS, 0),
    shape(names::SOURCES4, MapType::ArrayOfMaps, 4, 4, GENERATIONS, 0),
    shape(names::SOURCES6, MapType::ArrayOfMaps, 4, 4, GENERATIONS, 0),
    shape(names::DESTINATIONS, MapType::ArrayOfMaps, 4, 4, GENERATIONS, 0),
    shape(names::BLOCKED4, MapType::Hash, 4, size_of::<Block>(), 0, NO_PREALLOC),
    shape(names::BLOCKED4_PREFIXES, MapType::LpmTrie, 8, size_of::<Block>(), 0, NO_PREALLOC),
    shape(names::BLOCKED6, MapType::Hash, 16, size_of::<Block>(), 0, NO_PREALLOC),
    shape(names::BLOCKED6_PREFIXES, MapType::LpmTrie, 20, size_of::<Block>(), 0, NO_PREALLOC),
    shape(names::PRESENCE4, MapType::Array, 4, 8, PRESENCE4_SLOTS, 0),
    shape(names::PRESENCE6_PAGES, MapType::Array, 4, 8, PRESENCE6_SLOTS, ON_A_PAGE),
    shape(names::PRESENCE6_SHORT, MapType::Array, 4, 8, PRESENCE6_SHORT_SLOTS, 0),
    shape(
        names::REASON_COUNTERS,
        MapType::PerCpuArray,
        4,
        size_of::<ReasonCounter>(),
        INTERFACE_SLOTS * REASON_SLOTS as u32,
        0,
    ),
    shape(names::RULE_COUNTERS, MapType::PerCpuArray, 4, size_of::<Counter>(), MAX_RULE_IDS, 0),
    shape(names::EVENTS, MapType::RingBuf, 0, 0, 1 << 20, 0),
    shape(names::FLOWS, MapType::LruHash, size_of::<FlowKey>(), 8, 65_536, 0),
    shape(names::SOURCE_BUCKETS, MapType::Array, 4, size_of::<Bucket>(), 2 * SOURCE_BUCKETS_ROW, 0),
    shape(names::TOTAL_BUCKETS, MapType::Array, 4, size_of::<Bucket>(), MAX_RULE_IDS + ZONES, 0),
    shape(
        names::KNOWN_SOURCES,
        MapType::LruHash,
        size_of::<KnownKey>(),
        size_of::<Bucket>(),
        16_384,
        0,
    ),
    shape(
        names::FRAGMENTS,
        MapType::LruHash,
        size_of::<FragmentKey>(),
        size_of::<Fragment>(),
        8192,
        0,
    ),
    shape(names::BEGINNINGS, MapType::LruHash, size_of::<FlowKey>(), 4, 8192, 0),
    shape(names::FLOODS, MapType::PerCpuArray, 4, size_of::<Flood>(), ZONES, 0),
    shape(
        names::SHADOW_COUNTERS,
        MapType::PerCpuArray,
        4,
        size_of::<Counter>(),
        2 * REASON_SLOTS as u32,
        0,
    ),
    shape(names::HANDED, MapType::PerCpuArray, 4, size_of::<Handed>(), 1, 0),
    shape(names::PROGRAMS, MapType::ProgramArray, 4, 4, PROGRAM_SLOTS, 0),
    shape(names::MEDIA_PORTS, MapType::Array, 4, 4, MEDIA_PORT_SLOTS, 0),
    shape(
        names::MEDIA_PINHOLES,
        MapType::Hash,
        size_of::<PinholeKey>(),
        4,
        MAX_PINHOLES,
        NO_PREALLOC,
    ),
    shape(
        names::MEDIA_FLOWS,
        MapType::Array,
        4,
        size_of::<MediaFlow>(),
        MEDIA_FLOW_SLOTS,
        ON_A_PAGE,
    ),
    shape(
        names::MEDIA_STATES,
        MapType::Array,
        4,
        size_of::<MediaState>(),
        MEDIA_STATE_SLOTS,
        ON_A_PAGE,
    ),
    shape(names::MEDIA_EVENTS, MapType::RingBuf, 0, 0, 1 << 16, 0),
];

const _: () = assert!(size_of::<SetMask>() == 8, "inner maps hold two halves");

/// Folder of the maps of this schema.
pub(super) fn map_folder(pins: &Path) -> std::path::PathBuf {
    pins.join(format!("v{SCHEMA}"))
}

/// Maps that earlier versions of this schema had, for programs that run no more.
const GONE: [&str; 2] = ["PRESENCE6", "PRESENCE6_CELLS"];

/// Takes away the pins of maps that no program has any use for. Each program keeps what it uses.
pub(super) fn remove_gone(pins: &Path) -> Result<(), FirewallError> {
    for path in GONE.map(|name| map_folder(pins).join(name)) {
        match std::fs::remove_file(&path) {
            Err(fault) if fault.kind() != std::io::ErrorKind::NotFound => {
                return Err(FirewallError::io(path.display().to_string(), fault));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What is pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Maps of this version.
    pub ours: bool,
    /// Maps of the version before it, from which they can be carried over.
    pub former: bool,
}

/// Looks at every pin that is there.
pub(super) fn check(pins: &Path) -> Result<Found, FirewallError> {
    let mut found_pins = Found::default();
    let entries = match std::fs::read_dir(pins) {
        Ok(entries) => entries,
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => return Ok(found_pins),
        Err(fault) => return Err(FirewallError::io(pins.display().to_string(), fault)),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if let Some(found) = name.to_str().and_then(|name| name.strip_prefix('v'))
            && found != SCHEMA.to_string()
        {
            if entry.path() == migrate::folder(pins) && migrate::is_known(&entry.path()) {
                found_pins.former = true;
                continue;
            }
            let (pins, found) = (pins.to_owned(), found.to_owned());
            return Err(FirewallError::Schema { pins, found, expected: SCHEMA });
        }
    }
    for shape in SHAPES {
        let path = map_folder(pins).join(shape.name);
        if path.exists() {
            found_pins.ours = true;
            check_one(shape, &path)?;
        }
    }
    Ok(found_pins)
}

fn check_one(shape: &Shape, path: &Path) -> Result<(), FirewallError> {
    let fault = |found: String| FirewallError::Shape {
        path: path.to_owned(),
        found,
        expected: describe(shape.kind, shape.key, shape.value, shape.max_entries, shape.flags),
    };
    let info = MapInfo::from_pin(path).map_err(|e| fault(format!("no map ({e})")))?;
    let kind = info.map_type().map_err(|e| fault(e.to_string()))?;
    let same = kind == shape.kind
        && info.key_size() == shape.key
        && info.value_size() == shape.value
        && shape.max_entries.is_none_or(|max| info.max_entries() == max)
        && info.map_flags() == shape.flags;
    if same {
        return Ok(());
    }
    let max = Some(info.max_entries());
    Err(fault(describe(kind, info.key_size(), info.value_size(), max, info.map_flags())))
}

fn describe(kind: MapType, key: u32, value: u32, max: Option<u32>, flags: u32) -> String {
    let max = max.map_or("any number of".to_owned(), |max| max.to_string());
    format!("type {kind:?}, key {key} B, value {value} B, {max} entries, flags {flags:#x}")
}

#[cfg(test)]
mod tests {
    use edge_ebpf::abi::{
        MAX_RATES, MAX_RULES, PORT_WORD_SLOTS, PROTOCOL_WORD_SLOTS, Rule, RuleLimits,
    };

    use super::*;

    /// Room for blocks in the default configuration, for what goes and what comes.
    const ROOM: u32 = 2 * 131_072;

    /// Bytes that a map takes before anything is in it: entries of arrays and LRU hashes, buckets
    /// of hashes. The kernel adds a few hundred bytes to each.
    fn preallocated(kind: MapType, key: u64, value: u64, entries: u64, cpus: u64) -> u64 {
        let whole = |bytes: u64| bytes.next_multiple_of(8);
        let buckets = entries.next_power_of_two() * 16;
        match kind {
            MapType::Array => entries * whole(value),
            MapType::PerCpuArray => entries * (8 + cpus * whole(value)),
            MapType::Hash => buckets,
            MapType::LruHash => buckets + entries * (48 + whole(key) + whole(value)),
            MapType::RingBuf => entries + 4 * 4096,
            MapType::ArrayOfMaps | MapType::ProgramArray => entries * 8,
            MapType::LpmTrie => 0,
            other => panic!("no rule for {other:?}"),
        }
    }

    #[test]
    fn what_is_set_aside_stays_under_64_mib_on_small_and_large_machines() {
        for cpus in [1, 2, 16, 64] {
            let maps = SHAPES.iter().map(|shape| {
                let entries = shape.max_entries.unwrap_or(ROOM).into();
                preallocated(shape.kind, shape.key.into(), shape.value.into(), entries, cpus)
            });
            let inner = [
                (MapType::Array, 4, PORT_WORD_SLOTS),
                (MapType::Array, 4, PROTOCOL_WORD_SLOTS),
                (MapType::Array, size_of::<Rule>() as u64, MAX_RULES),
                (MapType::Array, size_of::<RuleLimits>() as u64, MAX_RATES),
                (MapType::Hash, 8, INNER_DESTINATIONS),
            ];
            let inner = inner
                .into_iter()
                .map(|(kind, value, entries)| preallocated(kind, 16, value, entries.into(), cpus));
            let all: u64 = maps.sum::<u64>() + inner.sum::<u64>() * u64::from(GENERATIONS);
            assert!(all < 64 << 20, "{all} bytes on {cpus} CPUs");
            assert!(all > 16 << 20, "{all} bytes: the rule has lost a map");
        }
    }
}
