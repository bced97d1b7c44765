//! From the pins of an older version to ours without a moment in which nothing is enforced.
//!
//! The maps of this version are made beside the old ones and filled, blocks included; then each
//! link gets the new program in one step; then the old maps go. No old map is ever used by the new
//! program: what is read from one is checked to have the shape that its version had.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, MapInfo, MapType},
};
use edge_ebpf::{
    abi::{Block, FlowKey, SCOPE_ALL, SCOPE_FEDERATION, map_names as names},
    verdict::Reason,
};
use ipnet::IpNet;

use super::FirewallError;

/// The version before this one: its block tables can be read.
pub(super) const FORMER_SCHEMA: u32 = 1;

/// A block of schema 1: scope, reason, owners (`u16`), expiry (`u32`), in native order.
type FormerBlock = [u8; 8];

/// What schema 1 pinned, as far as it is read.
const TABLES: [(&str, MapType, u32); 4] = [
    (names::BLOCKED4, MapType::Hash, 4),
    (names::BLOCKED6, MapType::Hash, 16),
    (names::BLOCKED4_PREFIXES, MapType::LpmTrie, 8),
    (names::BLOCKED6_PREFIXES, MapType::LpmTrie, 20),
];
const FORMER_SETTINGS: u32 = 24;

/// The folder of the former schema.
pub(super) fn folder(pins: &Path) -> PathBuf {
    pins.join(format!("v{FORMER_SCHEMA}"))
}

/// Whether what is pinned there is what schema 1 pinned. Pins that are not there any more do not
/// speak against it: a migration may have ended half-way.
pub(super) fn is_known(folder: &Path) -> bool {
    let fits = |name: &str, kind: MapType, key: u32, value: u32| {
        let path = folder.join(name);
        !path.exists()
            || MapInfo::from_pin(&path).is_ok_and(|info| {
                info.map_type().is_ok_and(|found| found == kind)
                    && info.key_size() == key
                    && info.value_size() == value
            })
    };
    fits(names::SETTINGS, MapType::Array, 4, FORMER_SETTINGS)
        && fits(names::FLOWS, MapType::LruHash, size_of::<FlowKey>() as u32, 8)
        && TABLES
            .iter()
            .all(|(name, kind, key)| fits(name, *kind, *key, size_of::<FormerBlock>() as u32))
}

/// The blocks of the former version, in today's form.
pub(super) fn blocks(folder: &Path) -> Result<Vec<(IpNet, Block)>, FirewallError> {
    let mut all = Vec::new();
    if let Some(map) = open::<HashMap<MapData, [u8; 4], FormerBlock>>(folder, names::BLOCKED4)? {
        for entry in map.iter() {
            let (address, block) = entry.map_err(at(names::BLOCKED4))?;
            add(&mut all, address.into(), 32, block);
        }
    }
    if let Some(map) = open::<HashMap<MapData, [u8; 16], FormerBlock>>(folder, names::BLOCKED6)? {
        for entry in map.iter() {
            let (address, block) = entry.map_err(at(names::BLOCKED6))?;
            add(&mut all, address.into(), 128, block);
        }
    }
    prefixes::<[u8; 4]>(folder, names::BLOCKED4_PREFIXES, &mut all)?;
    prefixes::<[u8; 16]>(folder, names::BLOCKED6_PREFIXES, &mut all)?;
    Ok(all)
}

/// Flows that were remembered at egress: their answers are under way.
pub(super) fn flows(folder: &Path) -> Result<Vec<(FlowKey, u64)>, FirewallError> {
    let Some(map) = open::<HashMap<MapData, FlowKey, u64>>(folder, names::FLOWS)? else {
        return Ok(Vec::new());
    };
    // The old program still writes to it, so that an entry may go while it is read.
    Ok(map.iter().filter_map(Result::ok).collect())
}

fn prefixes<K: Pod + Into<IpAddr>>(
    folder: &Path,
    name: &str,
    all: &mut Vec<(IpNet, Block)>,
) -> Result<(), FirewallError> {
    let Some(map) = open::<LpmTrie<MapData, K, FormerBlock>>(folder, name)? else {
        return Ok(());
    };
    for entry in map.iter() {
        let (key, block) = entry.map_err(at(name))?;
        add(all, key.data().into(), key.prefix_len(), block);
    }
    Ok(())
}

fn add(all: &mut Vec<(IpNet, Block)>, address: IpAddr, length: u32, block: FormerBlock) {
    let [scope, _, o0, o1, e0, e1, e2, e3] = block;
    let reason = match scope {
        SCOPE_ALL => Reason::BlockedAddress,
        SCOPE_FEDERATION => Reason::BlockedDomain,
        _ => return,
    };
    let Ok(prefix) = IpNet::new(address, u8::try_from(length).unwrap_or(u8::MAX)) else { return };
    let (owners, expires_at) = (u16::from_ne_bytes([o0, o1]), u32::from_ne_bytes([e0, e1, e2, e3]));
    all.push((prefix, Block::new(scope, reason as u8, owners, expires_at)));
}

fn open<T>(folder: &Path, name: &str) -> Result<Option<T>, FirewallError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let map = MapData::from_pin(path).and_then(Map::from_map_data).and_then(T::try_from);
    map.map(Some).map_err(at(name))
}

fn at(name: &str) -> impl Fn(MapError) -> FirewallError + '_ {
    move |fault| FirewallError::map(name, fault)
}

/// Takes the old pins away. What an old program still uses lives as long as that program.
pub(super) fn remove(folder: &Path) -> Result<(), FirewallError> {
    let fault = |path: &Path| {
        let what = path.display().to_string();
        move |fault| FirewallError::io(what, fault)
    };
    for entry in std::fs::read_dir(folder).map_err(fault(folder))?.flatten() {
        std::fs::remove_file(entry.path()).map_err(fault(&entry.path()))?;
    }
    std::fs::remove_dir(folder).map_err(fault(folder))
}
