//! Maps as a test fills and measures them.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, lpm_trie::Key},
};
use edge_ebpf::decide::Prefixes;

/// Bytes that the kernel has set aside for a map.
///
/// # Errors
/// When it does not tell.
pub fn memory(map: BorrowedFd<'_>) -> Result<u64> {
    let descriptor = map.as_raw_fd();
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(line.context("the kernel does not tell")?.trim().parse()?)
}

pub(super) fn data(map: &Map) -> Result<&MapData> {
    Ok(match map {
        Map::Array(map)
        | Map::ArrayOfMaps(map)
        | Map::HashMap(map)
        | Map::LpmTrie(map)
        | Map::LruHashMap(map)
        | Map::PerCpuArray(map)
        | Map::PerCpuHashMap(map)
        | Map::PerCpuLruHashMap(map)
        | Map::ProgramArray(map)
        | Map::RingBuf(map) => map,
        other => anyhow::bail!("a map of an unexpected kind: {other:?}"),
    })
}

pub(super) fn replace<'a, K, V>(
    map: &mut HashMap<&mut MapData, K, V>,
    entries: impl Iterator<Item = (&'a K, &'a V)>,
) -> Result<()>
where
    K: Pod + 'a,
    V: Pod + 'a,
{
    let old: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    for key in &old {
        map.remove(key)?;
    }
    for (key, value) in entries {
        map.insert(key, value, 0)?;
    }
    Ok(())
}

pub(super) fn replace_prefixes<const N: usize, V: Pod>(
    trie: &mut LpmTrie<&mut MapData, [u8; N], V>,
    prefixes: &Prefixes<[u8; N], V>,
) -> Result<()>
where
    [u8; N]: Pod,
{
    let old: Vec<Key<[u8; N]>> = trie.keys().collect::<Result<_, _>>()?;
    for key in &old {
        trie.remove(key)?;
    }
    for (address, length, value) in prefixes.iter() {
        trie.insert(&Key::new(length.into(), *address), *value, 0)?;
    }
    Ok(())
}
