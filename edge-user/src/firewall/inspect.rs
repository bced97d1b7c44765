//! Reading the pins. Works without the daemon; never writes.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    Pod,
    maps::{Array, MapData, MapError, PerCpuArray},
};
use edge_ebpf::{
    abi::{Block, Counter, NO_GENERATION, SETTING_MONITOR, Settings, map_names as names},
    verdict::Reason,
};
use ipnet::IpNet;
use serde::Serialize;

use super::{
    Attached, FirewallError, attach,
    counters::{self, ReasonTable},
    decode,
    kernel::{BlockMaps, open},
    plan::RuleRow,
    shape::{self, SHAPES},
    state, sys,
};

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// A daemon holds the pins.
    pub daemon: bool,
    /// Schema of the pins.
    pub schema: u32,
    /// The generation in force; `None`: no rule set yet.
    pub generation: Option<u32>,
    /// Drops are counted, not done.
    pub monitor: bool,
    /// Sampled events per second, CPU and reason.
    pub events_per_second: u32,
    /// Devices with the program.
    pub attached: Vec<Attached>,
    /// Packets passed since the maps were made.
    pub passed: u64,
    /// Packets dropped since the maps were made (in monitor mode: that would have been).
    pub dropped: u64,
}

/// A reason with its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReasonRow {
    /// Its name.
    pub name: &'static str,
    /// `pass` or `drop`.
    pub verdict: &'static str,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// What it means.
    pub explain: &'static str,
}

/// A rule with its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleCount {
    /// The rule.
    #[serde(flatten)]
    pub rule: RuleRow,
    /// Packets it decided.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// A block as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockEntry {
    /// Address or prefix.
    pub prefix: IpNet,
    /// `all`, `federation`, `remote users`, or both of these.
    pub scope: &'static str,
    /// Name of the reason.
    pub reason: &'static str,
    /// How many hold it.
    pub owners: u16,
    /// Seconds until it ends; `None`: never; 0: it has ended.
    pub expires_in_seconds: Option<u64>,
}

/// A pinned map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapRow {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Entries in use; of arrays (`Array`, `PerCpuArray`, `RingBuf`) all.
    pub entries: u64,
    /// Room for entries.
    pub max_entries: u32,
    /// Memory it takes, as the kernel accounts it.
    pub bytes: u64,
    /// Its pin.
    pub path: std::path::PathBuf,
}

/// What is loaded, and where.
pub fn status(pins: &Path) -> Result<Status, FirewallError> {
    let map: Array<MapData, Settings> = open(pins, names::SETTINGS)?;
    let settings = map.get(&0, 0).map_err(|e| FirewallError::map(names::SETTINGS, e))?;
    let reasons = reasons(pins)?;
    let sum = |verdict| reasons.iter().filter(|r| r.verdict == verdict).map(|r| r.packets).sum();
    Ok(Status {
        daemon: sys::is_locked(pins)?,
        schema: settings.schema,
        generation: (settings.schema != 0 && settings.generation < NO_GENERATION)
            .then_some(settings.generation),
        monitor: settings.flags & SETTING_MONITOR != 0,
        events_per_second: settings.events_per_second,
        attached: attach::attached(pins)?,
        passed: sum("pass"),
        dropped: sum("drop"),
    })
}

/// Every reason with its counters, all interfaces together.
pub fn reasons(pins: &Path) -> Result<Vec<ReasonRow>, FirewallError> {
    let table = ReasonTable::read(pins)?;
    Ok(Reason::ALL.iter().map(|reason| counters::row(*reason, table.all(*reason))).collect())
}

/// Every rule in force with its counters. A rule with several ports has a row for each; they
/// share one counter. Management is counted by its reason.
pub fn rules(pins: &Path, state: &Path) -> Result<Vec<RuleCount>, FirewallError> {
    let map: PerCpuArray<MapData, Counter> = open(pins, names::RULE_COUNTERS)?;
    let by_reason = ReasonTable::read(pins)?;
    let row = |rule: RuleRow| {
        let counter = match rule.id {
            Some(id) => sum(&map, id, names::RULE_COUNTERS, |counter| counter)?,
            None => by_reason.all(Reason::Management),
        };
        Ok(RuleCount { rule, packets: counter.packets, bytes: counter.bytes })
    };
    let kept = state::read(state).ok().flatten();
    kept.map(|kept| kept.plan.rows).unwrap_or_default().into_iter().map(row).collect()
}

/// Names of rules by id, as the state folder remembers them.
pub fn rule_names(state: &Path) -> BTreeMap<u32, String> {
    let kept = state::read(state).ok().flatten();
    let rows = kept.map(|kept| kept.plan.rows).unwrap_or_default();
    rows.into_iter().filter_map(|row| Some((row.id?, row.name))).collect()
}

/// Name of the device with this index in the caller's network namespace.
pub fn device_name(ifindex: u32) -> String {
    sys::device_name(ifindex).unwrap_or_else(|| format!("if{ifindex}"))
}

/// Adds up the CPUs of one slot.
fn sum<V: Pod>(
    map: &PerCpuArray<MapData, V>,
    index: u32,
    name: &str,
    counted: impl Fn(V) -> Counter,
) -> Result<Counter, FirewallError> {
    let values = map.get(&index, 0).map_err(|e| FirewallError::map(name, e))?;
    Ok(total(values.iter().copied().map(counted)))
}

/// All CPUs together.
pub(super) fn total(values: impl Iterator<Item = Counter>) -> Counter {
    values.sum()
}

/// Every block in the kernel. Our own addresses, which nobody blocked, are no such.
pub fn blocks(pins: &Path) -> Result<Vec<BlockEntry>, FirewallError> {
    Ok(first_blocks(pins, usize::MAX)?.0)
}

/// The first `limit` blocks in the kernel, in order, and how many there are. Of a million no more
/// than that many are held.
pub fn first_blocks(pins: &Path, limit: usize) -> Result<(Vec<BlockEntry>, u64), FirewallError> {
    let map: Array<MapData, Settings> = open(pins, names::SETTINGS)?;
    let settings = map.get(&0, 0).map_err(|e| FirewallError::map(names::SETTINGS, e))?;
    let seconds = sys::now().seconds();
    let mut first: BTreeMap<IpNet, Block> = BTreeMap::new();
    let mut count = 0;
    BlockMaps::open(pins)?.each(|prefix, block| {
        // What is not in force yet, or any more, belongs to a list that is changing.
        let own = block.reason == Reason::BadSource as u8 && block.owners <= 1;
        if own || !block.in_version(settings.block_version) {
            return;
        }
        count += 1;
        let full = first.len() >= limit;
        if !full || first.last_key_value().is_some_and(|(last, _)| prefix < *last) {
            first.insert(prefix, block);
            if full {
                first.pop_last();
            }
        }
    })?;
    let row = |(prefix, block): (IpNet, Block)| BlockEntry {
        prefix,
        scope: decode::scope(block.scope),
        reason: decode::reason(block.reason),
        owners: block.owners,
        expires_in_seconds: (block.expires_at_seconds != 0)
            .then(|| u64::from(block.expires_at_seconds).saturating_sub(seconds)),
    };
    Ok((first.into_iter().map(row).collect(), count))
}

/// Every pinned map.
pub fn maps(pins: &Path) -> Result<Vec<MapRow>, FirewallError> {
    let mut rows = Vec::with_capacity(SHAPES.len());
    for shape in SHAPES {
        let path = shape::map_folder(pins).join(shape.name);
        if !path.exists() {
            continue;
        }
        let fault = |e: MapError| FirewallError::map(shape.name, e);
        let data = MapData::from_pin(&path).map_err(fault)?;
        let info = data.info().map_err(fault)?;
        rows.push(MapRow {
            name: shape.name.to_owned(),
            kind: format!("{:?}", shape.kind),
            entries: decode::count(pins, shape)?,
            max_entries: info.max_entries(),
            bytes: sys::map_bytes(data.fd().as_fd().as_raw_fd()),
            path,
        });
    }
    if rows.is_empty() {
        return Err(FirewallError::NotLoaded { pins: pins.to_owned() });
    }
    Ok(rows)
}

/// The entries of one map, a JSON object each, with named fields and addresses as text. Slots of
/// arrays that hold only zeros are left out.
pub fn dump(pins: &Path, name: &str) -> Result<Vec<serde_json::Value>, FirewallError> {
    if !SHAPES.iter().any(|shape| shape.name == name) {
        return Err(FirewallError::NoSuchMap { name: name.to_owned() });
    }
    decode::dump(pins, name)
}

/// The partners' addresses as the daemon that runs knows them now. `None`: none runs, or no rule
/// in force asks for them, so that nobody follows where they are.
pub fn partners(pins: &Path, state: &Path) -> Option<Vec<IpNet>> {
    let plan = state::read(state).ok().flatten()?.plan;
    let followed = sys::is_locked(pins).ok()? && plan.uses_partners();
    followed.then(|| plan.partners().to_vec())
}
