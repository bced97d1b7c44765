//! Rates, buckets, fragments, floods, the shadow and the programs, as JSON for people.

use std::path::Path;

use aya::maps::{Array, MapData, PerCpuValues};
use edge_ebpf::{
    abi::{
        Bucket, Counter, FRAGMENT_SPOILED, Flood, FlowKey, Fragment, FragmentKey, KnownKey, Limit,
        Limits, MAX_RULE_IDS, PROGRAM_MEDIA, PROGRAM_SHADOW, PROGRAM_SYN_COOKIE, RuleLimits,
        SOURCE_BUCKETS_ROW, map_names as names,
    },
    verdict::REASON_SLOTS,
};
use serde_json::{Value, json};

use super::{
    FirewallError,
    decode::{Rows, add, address, array, collect, hash, in_force, merge, per_cpu, reason, zone},
    explain, shape, sys,
};

/// The entries of one of these maps; `None`: it is none of them.
pub(super) fn dump(pins: &Path, name: &str) -> Option<Rows> {
    Some(match name {
        names::RATES => rates(pins),
        names::SOURCE_BUCKETS => array(pins, name, |index, value: Bucket| {
            let (row, slot) = (index / SOURCE_BUCKETS_ROW, index % SOURCE_BUCKETS_ROW);
            Some(merge(json!({ "row": row, "slot": slot }), bucket(value)?))
        }),
        names::TOTAL_BUCKETS => array(pins, name, |index, value: Bucket| {
            let Some(number) = index.checked_sub(MAX_RULE_IDS) else {
                return Some(merge(json!({ "rule": index }), bucket(value)?));
            };
            // Of a zone, what stands for new connections is no time.
            let (second, told) = (value.new >> 32, value.new as u32);
            let key = json!({
                "zone": zone(number as u8),
                "new_connections_told_by_all_cpus": told,
                "in_second_since_boot": second,
            });
            let ceiling = bucket(Bucket { new: 0, ..value });
            (value != Bucket::default()).then(|| merge(key, ceiling.unwrap_or_default()))
        }),
        names::KNOWN_SOURCES => hash(pins, name, |key: KnownKey, value: Bucket| {
            let key = json!({ "source": address(key.source).to_string(), "rule": key.rule });
            merge(key, bucket(value).unwrap_or_default())
        }),
        names::BEGINNINGS => hash(pins, name, |key: FlowKey, sequence: u32| {
            json!({
                "local": address(key.local).to_string(),
                "local_port": u16::from_be_bytes(key.local_port),
                "remote": address(key.remote).to_string(),
                "remote_port": u16::from_be_bytes(key.remote_port),
                "first_byte": sequence,
            })
        }),
        names::FRAGMENTS => hash(pins, name, |key: FragmentKey, value: Fragment| {
            let spoiled = value.end == FRAGMENT_SPOILED;
            json!({
                "zone": zone(key.zone),
                "source": address(key.source).to_string(),
                "destination": address(key.destination).to_string(),
                "identification": key.id,
                "protocol": key.protocol,
                "seen_to_byte": (!spoiled).then_some(value.end),
                "overlapped": spoiled,
                "seconds_ago": sys::now().seconds().saturating_sub(u64::from(value.seconds)),
            })
        }),
        names::FLOODS => per_cpu(pins, name, |index, values: PerCpuValues<Flood>| {
            let now = sys::now().seconds();
            let cpu = |flood: &Flood| {
                json!({
                    "second": flood.second,
                    "new_connections": flood.syns,
                    "first_fragments": flood.fragments,
                    "answers_with_cookies": u64::from(flood.cookies_until) >= now,
                })
            };
            let cpus: Vec<Value> = values.iter().map(cpu).collect();
            let used = values.iter().any(|flood| *flood != Flood::default());
            used.then(|| json!({ "zone": zone(index as u8), "cpus": cpus }))
        }),
        names::SHADOW_COUNTERS => per_cpu(pins, name, |index, values: PerCpuValues<Counter>| {
            let (kind, number) = (index as usize / REASON_SLOTS, index as usize % REASON_SLOTS);
            let what = if kind == 0 { "passed, would drop" } else { "dropped, would pass" };
            let key = json!({ "shadow": what, "reason": reason(number as u8) });
            Some(merge(key, add(values.iter().copied())?))
        }),
        names::PROGRAMS => programs(pins),
        names::HANDED => Ok(vec![json!({
            "note": "what one program tells the next of the packet under way; of no packet afterwards",
        })]),
        names::EVENTS => Ok(vec![json!({
            "note": "a ring that is read by taking out, and the daemon is its reader: `edge drops` shows what it took",
        })]),
        _ => return None,
    })
}

fn rates(pins: &Path) -> Rows {
    let Some(map) = in_force::<Array<MapData, RuleLimits>>(pins, names::RATES)? else {
        return Ok(Vec::new());
    };
    collect(&map, names::RATES, |index, value: RuleLimits| {
        (value != RuleLimits::default()).then(|| {
            json!({
                "slot": index,
                "each_source": limits(&value.source),
                "all_together": limits(&value.total),
            })
        })
    })
}

/// The limits that there are, each in words.
fn limits(limits: &Limits) -> Value {
    let word = |limit: &Limit| (limit.increment != 0).then(|| explain::limit_text(limit));
    json!({
        "new_connections": word(&limits.new),
        "packets": word(&limits.packets),
        "bytes": word(&limits.bytes),
    })
}

/// How far ahead of the clock each arrival time is; one in the past means room.
fn bucket(value: Bucket) -> Option<Value> {
    if value == Bucket::default() {
        return None;
    }
    let now = sys::monotonic_nanoseconds().wrapping_mul(edge_ebpf::abi::LIMIT_SCALE);
    let ahead = |due: u64| {
        let ahead = (due.wrapping_sub(now) as i64).max(0) as u64;
        ahead / edge_ebpf::abi::LIMIT_SCALE / 1000
    };
    Some(json!({
        "new_due_in_microseconds": ahead(value.new),
        "packet_due_in_microseconds": ahead(value.packets),
        "byte_due_in_microseconds": ahead(value.bytes),
    }))
}

fn programs(pins: &Path) -> Rows {
    let name = names::PROGRAMS;
    let fault = |fault: aya::maps::MapError| FirewallError::map(name, fault);
    let data = MapData::from_pin(shape::map_folder(pins).join(name)).map_err(fault)?;
    let slots = data.info().map_err(fault)?.max_entries();
    let mut rows = Vec::new();
    for slot in 0..slots {
        let found = sys::lookup_number(std::os::fd::AsFd::as_fd(data.fd()), slot)
            .map_err(|fault| FirewallError::map(name, fault))?;
        let Some(id) = found else { continue };
        let purpose = match slot {
            PROGRAM_SHADOW => "judges by the shadow rules",
            PROGRAM_SYN_COOKIE => "answers a SYN with a cookie",
            PROGRAM_MEDIA => "forwards packets of media flows",
            _ => "other",
        };
        let program = explain::program_name(id);
        rows.push(json!({ "slot": slot, "purpose": purpose, "program": program, "id": id }));
    }
    Ok(rows)
}
