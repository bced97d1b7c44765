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
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, MapType},
};
use edge_ebpf::abi::{Block, FlowKey, Settings, map_names as names};
use ipnet::IpNet;

use super::FirewallError;

/// The version before this one: its block tables can be read. It had the settings, blocks and
/// flows of today, no maps for media and a slot of `PROGRAMS` less.
pub(super) const FORMER_SCHEMA: u32 = 2;

/// What schema 2 pinned, as far as it is read.
const TABLES: [(&str, MapType, u32); 4] = [
    (names::BLOCKED4, MapType::Hash, 4),
    (names::BLOCKED6, MapType::Hash, 16),
    (names::BLOCKED4_PREFIXES, MapType::LpmTrie, 8),
    (names::BLOCKED6_PREFIXES, MapType::LpmTrie, 20),
];
const FORMER_SETTINGS: u32 = 88;
const FORMER_BLOCK: u32 = 16;
const _: () = {
    assert!(size_of::<Settings>() == FORMER_SETTINGS as usize);
    assert!(size_of::<Block>() == FORMER_BLOCK as usize);
};

/// The folder of the former schema.
pub(super) fn folder(pins: &Path) -> PathBuf {
    pins.join(format!("v{FORMER_SCHEMA}"))
}

/// Whether what is pinned there is what schema 2 pinned. Pins that are not there any more do not
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
        && TABLES.iter().all(|(name, kind, key)| fits(name, *kind, *key, FORMER_BLOCK))
}

/// The blocks that are in force in the former version. What a list had written for another
/// version of itself stays behind: the lists are read from their files.
pub(super) fn blocks(folder: &Path) -> Result<Vec<(IpNet, Block)>, FirewallError> {
    let mut all = InForce { version: block_version(folder)?, blocks: Vec::new() };
    if let Some(map) = open::<HashMap<MapData, [u8; 4], Block>>(folder, names::BLOCKED4)? {
        for entry in map.iter() {
            let (address, block) = entry.map_err(at(names::BLOCKED4))?;
            all.add(address.into(), 32, block);
        }
    }
    if let Some(map) = open::<HashMap<MapData, [u8; 16], Block>>(folder, names::BLOCKED6)? {
        for entry in map.iter() {
            let (address, block) = entry.map_err(at(names::BLOCKED6))?;
            all.add(address.into(), 128, block);
        }
    }
    prefixes::<[u8; 4]>(folder, names::BLOCKED4_PREFIXES, &mut all)?;
    prefixes::<[u8; 16]>(folder, names::BLOCKED6_PREFIXES, &mut all)?;
    Ok(all.blocks)
}

/// The version of the block lists that was in force.
fn block_version(folder: &Path) -> Result<u32, FirewallError> {
    let Some(map) = open::<Array<MapData, Settings>>(folder, names::SETTINGS)? else {
        return Ok(0);
    };
    Ok(map.get(&0, 0).map_err(at(names::SETTINGS))?.block_version)
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
    all: &mut InForce,
) -> Result<(), FirewallError> {
    let Some(map) = open::<LpmTrie<MapData, K, Block>>(folder, name)? else {
        return Ok(());
    };
    for entry in map.iter() {
        let (key, block) = entry.map_err(at(name))?;
        all.add(key.data().into(), key.prefix_len(), block);
    }
    Ok(())
}

/// The blocks that are in force in one version of the lists.
struct InForce {
    version: u32,
    blocks: Vec<(IpNet, Block)>,
}

impl InForce {
    fn add(&mut self, address: IpAddr, length: u32, block: Block) {
        let Ok(prefix) = IpNet::new(address, u8::try_from(length).unwrap_or(u8::MAX)) else {
            return;
        };
        if block.in_version(self.version) {
            self.blocks.push((prefix, Block { from_version: 0, until_version: 0, ..block }));
        }
    }
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
