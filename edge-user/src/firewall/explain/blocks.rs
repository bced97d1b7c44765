//! The block tables, asked about one address. Reads only.

use std::{
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use aya::{
    Pod,
    maps::{Array, LpmTrie, MapData, MapError, lpm_trie},
};
use edge_ebpf::abi::{Block, map_names as names};
use ipnet::IpNet;

use super::{
    super::{FirewallError, kernel::open, shape, sys},
    look::lookup,
};

/// A word of a presence bitmap.
pub(super) fn presence(pins: &Path, name: &str, slot: u32) -> Result<u64, FirewallError> {
    let map: Array<MapData, u64> = open(pins, name)?;
    map.get(&slot, 0).map_err(|fault| FirewallError::map(name, fault))
}

/// The block of exactly this address.
pub(super) fn exact(pins: &Path, address: IpAddr) -> Result<Option<Block>, FirewallError> {
    match address {
        IpAddr::V4(address) => lookup(pins, names::BLOCKED4, &address.octets()),
        IpAddr::V6(address) => lookup(pins, names::BLOCKED6, &address.octets()),
    }
}

/// Every blocked prefix that holds this address, the shortest first.
pub(super) fn prefixes_around(
    pins: &Path,
    address: IpAddr,
) -> Result<Vec<(IpNet, Block)>, FirewallError> {
    match address {
        IpAddr::V4(address) => around(pins, names::BLOCKED4_PREFIXES, address.octets()),
        IpAddr::V6(address) => around(pins, names::BLOCKED6_PREFIXES, address.octets()),
    }
}

/// A look-up with a shorter key finds the longest prefix up to that length, and the key after a
/// key that is not there is the map's first: together they tell which prefixes there are, without
/// a walk over a million others.
fn around<const N: usize>(
    pins: &Path,
    name: &str,
    address: [u8; N],
) -> Result<Vec<(IpNet, Block)>, FirewallError>
where
    [u8; N]: Pod,
    IpAddr: From<[u8; N]>,
{
    let fault = |fault: MapError| FirewallError::map(name, fault);
    let trie: LpmTrie<MapData, [u8; N], Block> = open(pins, name)?;
    let data = MapData::from_pin(shape::map_folder(pins).join(name)).map_err(fault)?;
    let fd = data.fd().as_fd();
    let mut found = Vec::new();
    for length in 0..=N as u32 * 8 {
        let block = match trie.get(&lpm_trie::Key::new(length, address), 0) {
            Ok(block) => block,
            Err(MapError::KeyNotFound) => continue,
            Err(other) => return Err(fault(other)),
        };
        let Ok(net) = IpNet::new(address.into(), u8::try_from(length).unwrap_or(u8::MAX)) else {
            continue;
        };
        let net = net.trunc();
        if !holds(fd, length, net.addr()).map_err(|fault| FirewallError::map(name, fault))? {
            continue;
        }
        // Kernels before 6.13 take another key of the same length for this one (their
        // `trie_get_next_key` compares lengths only). Where the value tells nothing, the keys do.
        let shorter = found.last().map(|(_, shorter)| *shorter);
        let key = |key: &lpm_trie::Key<[u8; N]>| {
            key.prefix_len() == length && IpAddr::from(key.data()) == net.addr()
        };
        if shorter != Some(block) || trie.keys().filter_map(Result::ok).any(|k| key(&k)) {
            found.push((net, block));
        }
    }
    Ok(found)
}

/// Whether the trie has exactly this prefix.
fn holds(map: BorrowedFd<'_>, length: u32, network: IpAddr) -> std::io::Result<bool> {
    let mut key = length.to_ne_bytes().to_vec();
    match network {
        IpAddr::V4(network) => key.extend_from_slice(&network.octets()),
        IpAddr::V6(network) => key.extend_from_slice(&network.octets()),
    }
    let (mut first, mut next) = (vec![0; key.len()], vec![0; key.len()]);
    if !sys::next_key(map, None, &mut first)? {
        return Ok(false);
    }
    // Nothing comes before the first key, so it comes after no key that is there.
    Ok(!sys::next_key(map, Some(&key), &mut next)? || next != first)
}
