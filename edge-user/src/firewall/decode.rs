//! Map entries as JSON for people: field names as in the layouts, addresses as text.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use aya::{
    Pod,
    maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, MapData, MapError, PerCpuArray, PerCpuValues,
        lpm_trie::Key as LpmKey,
    },
};
use edge_ebpf::{
    abi::{
        ACTION_DROP, Block, Bucket, Counter, FlowKey, Fragment, FragmentKey, GENERATION_SHADOW,
        Interface, KnownKey, NO_GENERATION, PinholeKey, ReasonCounter, Rule, SCOPE_ALL,
        SCOPE_FEDERATION, SCOPE_REMOTE, SET_ANY, SetMask, Settings, VlanKey, WORD_FEDERATION,
        WORD_MANAGEMENT, WORD_MEDIA, WORD_REMOTE, ZONE_EXTERNAL, ZONE_INTERNAL, map_names as names,
        word_count, word_first, word_open_rule,
    },
    verdict::{REASON_SLOTS, Reason},
};
use serde_json::{Value, json};

use super::{
    FirewallError, attach, decode_limits, decode_media, explain, inspect,
    kernel::{BlockMaps, open},
    shape::Shape,
    sys,
};

pub(super) type Rows = Result<Vec<Value>, FirewallError>;

/// What of a blocked source's traffic is dropped: `all`, or what goes to these services.
pub(super) fn scope(number: u8) -> &'static str {
    match number {
        SCOPE_ALL => "all",
        SCOPE_FEDERATION => "federation",
        SCOPE_REMOTE => "remote users",
        _ => "federation, remote users",
    }
}

/// A reason's name.
pub(super) fn reason(number: u8) -> &'static str {
    Reason::from_number(number).map_or("unknown", Reason::name)
}

/// A zone's name.
pub(super) fn zone(number: u8) -> &'static str {
    match number {
        ZONE_EXTERNAL => "external",
        ZONE_INTERNAL => "internal",
        _ => "none",
    }
}

/// An address in the form that serves both families.
pub(super) fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// In a word of a presence bitmap, the bits that stand for single addresses.
const ADDRESS_BITS: u64 = 0x5555_5555_5555_5555;

fn at(name: &str) -> impl Fn(MapError) -> FirewallError + '_ {
    move |fault| FirewallError::map(name, fault)
}

/// How many entries a map holds.
pub(super) fn count(pins: &Path, shape: &Shape) -> Result<u64, FirewallError> {
    let blocks = || BlockMaps::open(pins);
    Ok(match shape.name {
        names::BLOCKED4 => blocks()?.count(0),
        names::BLOCKED6 => blocks()?.count(1),
        names::BLOCKED4_PREFIXES => blocks()?.count(2),
        names::BLOCKED6_PREFIXES => blocks()?.count(3),
        names::VLANS => keys::<VlanKey, Interface>(pins, shape.name)?,
        names::FLOWS => keys::<FlowKey, u64>(pins, shape.name)?,
        names::KNOWN_SOURCES => keys::<KnownKey, Bucket>(pins, shape.name)?,
        names::FRAGMENTS => keys::<FragmentKey, Fragment>(pins, shape.name)?,
        names::BEGINNINGS => keys::<FlowKey, u32>(pins, shape.name)?,
        names::MEDIA_PINHOLES => keys::<PinholeKey, u32>(pins, shape.name)?,
        _ => u64::from(shape.max_entries.unwrap_or_default()),
    })
}

/// How many keys a hash has.
fn keys<K: Pod, V: Pod>(pins: &Path, name: &str) -> Result<u64, FirewallError> {
    let map: HashMap<MapData, K, V> = open(pins, name)?;
    Ok(map.keys().filter(Result::is_ok).count() as u64)
}

/// All entries of a map.
pub(super) fn dump(pins: &Path, name: &str) -> Rows {
    match name {
        names::SETTINGS => array(pins, name, |_, value: Settings| Some(settings(value))),
        names::INTERFACES => {
            let devices = devices(pins);
            array(pins, name, |index, value: Interface| {
                let shown = interface(value)?;
                Some(merge(json!({ "ifindex": index, "device": devices.get(&index) }), shown))
            })
        }
        names::VLANS => hash(pins, name, |key: VlanKey, value: Interface| {
            let shown = interface(value).unwrap_or_default();
            let device = devices(pins).remove(&key.ifindex);
            let key = json!({ "ifindex": key.ifindex, "device": device, "outer": key.outer, "inner": key.inner });
            merge(key, shown)
        }),
        names::PORT_WORDS => port_words(pins),
        names::PROTOCOL_WORDS => {
            let map: Array<MapData, u32> = match in_force(pins, name)? {
                Some(map) => map,
                None => return Ok(Vec::new()),
            };
            collect(&map, name, |index, value| {
                let key = json!({ "zone": zone((index >> 8) as u8), "protocol": index & 0xff });
                (value != 0).then(|| merge(key, word(value)))
            })
        }
        names::RULES => rules(pins),
        names::SOURCES4 => sources::<4>(pins, name),
        names::SOURCES6 => sources::<16>(pins, name),
        names::DESTINATIONS => destinations(pins),
        names::BLOCKED4 | names::BLOCKED6 | names::BLOCKED4_PREFIXES | names::BLOCKED6_PREFIXES => {
            blocks(pins, name)
        }
        names::PRESENCE4 => array(pins, name, |slot, bits: u64| {
            (bits != 0).then(|| {
                let first = IpAddr::from((slot << 13).to_be_bytes());
                json!({ "slot": slot, "first": first.to_string(), "bits": format!("{bits:#018x}"), "address_cells": (bits & ADDRESS_BITS).count_ones(), "prefix_cells": (bits & !ADDRESS_BITS).count_ones() })
            })
        }),
        names::PRESENCE6_SHORT => array(pins, name, |slot, bits: u64| {
            (bits != 0).then(|| json!({ "slot": slot, "bits": format!("{bits:#018x}") }))
        }),
        names::PRESENCE6_PAGES => array(pins, name, |slot, bits: u64| {
            (bits != 0).then(|| {
                json!({ "slot": slot, "bits": format!("{bits:#018x}"), "address_cells": (bits & ADDRESS_BITS).count_ones(), "prefix_cells": (bits & !ADDRESS_BITS).count_ones() })
            })
        }),
        names::REASON_COUNTERS => per_cpu(pins, name, |index, values: PerCpuValues<_>| {
            let total = add(values.iter().copied().map(ReasonCounter::counted))?;
            let (slot, number) = (index / REASON_SLOTS as u32, index % REASON_SLOTS as u32);
            let key =
                json!({ "interface_slot": slot, "reason": reason(number as u8), "number": number });
            Some(merge(merge(key, total), json!({ "events": events(&values) })))
        }),
        names::RULE_COUNTERS => per_cpu(pins, name, |index, values: PerCpuValues<Counter>| {
            Some(merge(json!({ "rule": index }), add(values.iter().copied())?))
        }),
        names::FLOWS => hash(pins, name, |key: FlowKey, seconds: u64| {
            json!({
                "local": address(key.local).to_string(),
                "local_port": u16::from_be_bytes(key.local_port),
                "remote": address(key.remote).to_string(),
                "remote_port": u16::from_be_bytes(key.remote_port),
                "protocol": key.protocol,
                "seconds_ago": sys::now().seconds().saturating_sub(seconds),
            })
        }),
        _ => decode_limits::dump(pins, name)
            .or_else(|| decode_media::dump(pins, name))
            .unwrap_or(Ok(Vec::new())),
    }
}

/// Devices by index, as the pinned links name them: indices are those of the daemon's network
/// namespace, which need not be the caller's.
fn devices(pins: &Path) -> BTreeMap<u32, String> {
    let attached = attach::attached(pins).unwrap_or_default();
    attached.into_iter().map(|device| (device.ifindex, device.device)).collect()
}

pub(super) fn array<V: Pod>(
    pins: &Path,
    name: &str,
    row: impl Fn(u32, V) -> Option<Value>,
) -> Rows {
    let map: Array<MapData, V> = open(pins, name)?;
    collect(&map, name, row)
}

pub(super) fn collect<V: Pod>(
    map: &Array<MapData, V>,
    name: &str,
    row: impl Fn(u32, V) -> Option<Value>,
) -> Rows {
    let mut rows = Vec::new();
    for index in 0..map.len() {
        rows.extend(row(index, map.get(&index, 0).map_err(at(name))?));
    }
    Ok(rows)
}

pub(super) fn per_cpu<V: Pod>(
    pins: &Path,
    name: &str,
    row: impl Fn(u32, PerCpuValues<V>) -> Option<Value>,
) -> Rows {
    let map: PerCpuArray<MapData, V> = open(pins, name)?;
    let mut rows = Vec::new();
    for index in 0..map.len() {
        rows.extend(row(index, map.get(&index, 0).map_err(at(name))?));
    }
    Ok(rows)
}

pub(super) fn hash<K: Pod, V: Pod>(pins: &Path, name: &str, row: impl Fn(K, V) -> Value) -> Rows {
    let map: HashMap<MapData, K, V> = open(pins, name)?;
    // An entry that goes while the map is read is no fault.
    Ok(map.iter().filter_map(Result::ok).map(|(key, value)| row(key, value)).collect())
}

/// The inner map of the generation in force.
pub(super) fn in_force<V>(pins: &Path, name: &str) -> Result<Option<V>, FirewallError>
where
    V: aya::maps::FromMapData + aya::maps::InnerMap,
{
    let settings: Array<MapData, Settings> = open(pins, names::SETTINGS)?;
    let settings = settings.get(&0, 0).map_err(at(names::SETTINGS))?;
    if settings.schema == 0 || settings.generation >= NO_GENERATION {
        return Ok(None);
    }
    let outer: ArrayOfMaps<MapData, V> = open(pins, name)?;
    outer.get(&settings.generation, 0).map(Some).map_err(at(name))
}

fn settings(value: Settings) -> Value {
    use edge_ebpf::abi::{
        SETTING_BLOCKS, SETTING_DHCP_CLIENT, SETTING_LACP, SETTING_LLDP, SETTING_MONITOR,
        SETTING_PINHOLES, SETTING_SHORT_PREFIXES6,
    };
    let flags: Vec<&str> = [
        (SETTING_MONITOR, "monitor"),
        (SETTING_SHORT_PREFIXES6, "short-prefixes6"),
        (SETTING_LLDP, "lldp"),
        (SETTING_LACP, "lacp"),
        (SETTING_DHCP_CLIENT, "dhcp-client"),
        (SETTING_BLOCKS, "blocks"),
        (SETTING_PINHOLES, "pinholes"),
    ]
    .iter()
    .filter(|(bit, _)| value.flags & bit != 0)
    .map(|(_, name)| *name)
    .collect();
    json!({
        "schema": value.schema,
        "generation": value.generation,
        "flags": flags,
        "events_per_second": value.events_per_second,
        "event_bytes": value.event_bytes,
        "block_epoch": value.block_epoch,
        "block_version": value.block_version,
        "shadow": value.shadow == GENERATION_SHADOW,
        "cookies_above_new_connections": value.flood_syns,
        "ceiling_external": explain::limit_text(&value.ceilings[0]),
        "ceiling_internal": explain::limit_text(&value.ceilings[1]),
    })
}

fn interface(value: Interface) -> Option<Value> {
    let named = value.zone_plus_one.checked_sub(1).map_or("none", zone);
    let used = value.zone_plus_one != 0 || value.trunk != 0;
    used.then(|| json!({ "zone": named, "trunk": value.trunk != 0, "counter_slot": value.slot }))
}

fn word(value: u32) -> Value {
    let flags = json!({
        "management": value & WORD_MANAGEMENT != 0,
        "federation": value & WORD_FEDERATION != 0,
        "remote": value & WORD_REMOTE != 0,
        "media": value & WORD_MEDIA != 0,
    });
    if let Some(rule) = word_open_rule(value) {
        return merge(json!({ "open_to_all_by_rule": rule }), flags);
    }
    let rules = json!({ "first_rule": word_first(value), "rules": word_count(value) });
    merge(rules, flags)
}

/// Ports with the same word in a row are one entry.
fn port_words(pins: &Path) -> Rows {
    let Some(map) = in_force::<Array<MapData, u32>>(pins, names::PORT_WORDS)? else {
        return Ok(Vec::new());
    };
    let mut runs: Vec<(u32, u32, u32)> = Vec::new();
    for index in 0..map.len() {
        let value = map.get(&index, 0).map_err(at(names::PORT_WORDS))?;
        if value == 0 {
            continue;
        }
        match runs.last_mut() {
            Some((_, last, word))
                if *word == value && *last + 1 == index && index & 0xffff != 0 =>
            {
                *last = index;
            }
            _ => runs.push((index, index, value)),
        }
    }
    let row = |(first, last, value): (u32, u32, u32)| {
        let key = json!({
            "zone": zone((first >> 17) as u8),
            "protocol": if first & 0x1_0000 == 0 { "tcp" } else { "udp" },
            "first_port": first & 0xffff,
            "last_port": last & 0xffff,
        });
        merge(key, word(value))
    };
    Ok(runs.into_iter().map(row).collect())
}

fn rules(pins: &Path) -> Rows {
    let Some(map) = in_force::<Array<MapData, Rule>>(pins, names::RULES)? else {
        return Ok(Vec::new());
    };
    let set = |number: u8| if number == SET_ANY { json!("any") } else { json!(number) };
    let mut rows = collect(&map, names::RULES, |index, rule| {
        Some(json!({
            "slot": index,
            "rule": rule.id,
            "source_set": set(rule.source_set),
            "destination_set": set(rule.destination_set),
            "action": if rule.action == ACTION_DROP { "drop" } else { "pass" },
            "limits": rule.limits,
            "content": explain::content_text(rule.content),
            "empty": rule == Rule::default(),
        }))
    })?;
    // Unused slots are zero, which is also a rule; only those behind the last rule are left out.
    let used = rows.iter().rposition(|row| row["empty"] == json!(false)).map_or(0, |at| at + 1);
    rows.truncate(used);
    for row in &mut rows {
        row.as_object_mut().map(|fields| fields.remove("empty"));
    }
    Ok(rows)
}

fn sources<const N: usize>(pins: &Path, name: &str) -> Rows
where
    [u8; N]: Pod,
    IpAddr: From<[u8; N]>,
{
    let Some(map) = in_force::<LpmTrie<MapData, [u8; N], SetMask>>(pins, name)? else {
        return Ok(Vec::new());
    };
    let row = |(key, mask): (LpmKey<[u8; N]>, SetMask)| {
        let prefix = format!("{}/{}", IpAddr::from(key.data()), key.prefix_len());
        json!({ "prefix": prefix, "sets": sets(mask) })
    };
    Ok(map.iter().filter_map(Result::ok).map(row).collect())
}

fn destinations(pins: &Path) -> Rows {
    let name = names::DESTINATIONS;
    let Some(map) = in_force::<HashMap<MapData, [u8; 16], SetMask>>(pins, name)? else {
        return Ok(Vec::new());
    };
    let row = |(key, mask): ([u8; 16], SetMask)| json!({ "address": address(key).to_string(), "sets": sets(mask) });
    Ok(map.iter().filter_map(Result::ok).map(row).collect())
}

fn sets(mask: SetMask) -> Vec<u8> {
    (0..edge_ebpf::abi::MAX_SETS).filter(|set| mask.contains(*set)).collect()
}

fn blocks(pins: &Path, name: &str) -> Rows {
    let now = sys::now().seconds();
    let (v6, single) = match name {
        names::BLOCKED4 => (false, true),
        names::BLOCKED6 => (true, true),
        names::BLOCKED4_PREFIXES => (false, false),
        _ => (true, false),
    };
    let entries = BlockMaps::open(pins)?.entries()?;
    let mine = entries.into_iter().filter(|(prefix, _)| {
        prefix.addr().is_ipv6() == v6 && (prefix.prefix_len() == prefix.max_prefix_len()) == single
    });
    let row = |(prefix, block): (ipnet::IpNet, Block)| {
        let ends = u64::from(block.expires_at_seconds);
        json!({
            "prefix": prefix.to_string(),
            "scope": scope(block.scope),
            "reason": reason(block.reason),
            "owners": block.owners,
            "expires_in_seconds": (ends != 0).then(|| ends.saturating_sub(now)),
            "from_version": block.from_version,
            "until_version": block.until_version,
        })
    };
    Ok(mine.map(row).collect())
}

/// Of each CPU, the last second in which it sent events, and how many.
fn events(values: &PerCpuValues<ReasonCounter>) -> Vec<Value> {
    values.iter().map(|cpu| json!({ "second": cpu.second, "sent": cpu.sent })).collect()
}

pub(super) fn add(values: impl Iterator<Item = Counter>) -> Option<Value> {
    let total = inspect::total(values);
    let used = total != Counter::default();
    used.then(|| json!({ "packets": total.packets, "bytes": total.bytes }))
}

/// Both objects' fields in one.
pub(super) fn merge(mut key: Value, value: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut key, value) {
        fields.extend(more);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_says_whose_ports_a_block_is_for() {
        for (number, name) in [
            (SCOPE_ALL, "all"),
            (SCOPE_FEDERATION, "federation"),
            (SCOPE_REMOTE, "remote users"),
            (SCOPE_FEDERATION | SCOPE_REMOTE, "federation, remote users"),
        ] {
            assert_eq!(scope(number), name, "{number}");
        }
    }
}
