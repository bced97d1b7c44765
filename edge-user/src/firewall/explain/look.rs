//! Look-ups in pinned maps. Reads only.

use std::path::Path;

use aya::maps::{ArrayOfMaps, FromMapData, HashMap, InnerMap, LpmTrie, MapData, lpm_trie};
use edge_ebpf::abi::SetMask;

use super::super::{FirewallError, kernel::open};

/// What a look-up comes to.
pub(super) type Asked<T> = Result<T, FirewallError>;

/// The map of a generation.
pub(super) fn inner<V: FromMapData + InnerMap>(
    pins: &Path,
    name: &str,
    generation: u32,
) -> Asked<V> {
    let outer: ArrayOfMaps<MapData, V> = open(pins, name)?;
    outer.get(&generation, 0).map_err(|fault| FirewallError::map(name, fault))
}

/// Nothing there is an answer, not a fault.
pub(super) fn missing<T>(name: &str, found: Result<T, aya::maps::MapError>) -> Asked<Option<T>> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(aya::maps::MapError::KeyNotFound) => Ok(None),
        Err(fault) => Err(FirewallError::map(name, fault)),
    }
}

pub(super) fn lookup<K: aya::Pod, V: aya::Pod>(
    pins: &Path,
    name: &str,
    key: &K,
) -> Asked<Option<V>> {
    let map: HashMap<MapData, K, V> = open(pins, name)?;
    missing(name, map.get(key, 0))
}

/// The sets of the longest prefix that holds this source.
pub(super) fn source_sets<const N: usize>(
    pins: &Path,
    name: &str,
    generation: u32,
    source: [u8; N],
) -> Asked<Option<SetMask>>
where
    [u8; N]: aya::Pod,
{
    let trie: LpmTrie<MapData, [u8; N], SetMask> = inner(pins, name, generation)?;
    missing(name, trie.get(&lpm_trie::Key::new(8 * N as u32, source), 0))
}
