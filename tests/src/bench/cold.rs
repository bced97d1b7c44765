//! Sources that no cache knows: each packet comes from another address of the populated space,
//! beside the kernel's plain hash and trie with the same entries.
//!
//! A small program makes the source up, writes it into the packet and goes on with the one that
//! is measured. What that costs is measured with one that only drops, and subtracted, from all
//! alike. The figures are for each packet of a look-up among so many entries.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result};
use aya::maps::{LpmTrie, lpm_trie::Key};
use edge_ebpf::{
    abi::{
        Block, PRESENT_ADDRESSES, PRESENT_PREFIXES, SCOPE_ALL, SETTING_BLOCKS, Settings, map_names,
        presence4, presence6, presence6_again,
    },
    decide::MemoryTables,
    verdict::Reason,
};
use edge_user::firewall::KERNEL_OBJECT;

use super::{Row, median, raw};
use crate::{
    kernel::Kernel,
    model::{differential::in_namespace, lower, random::own_addresses, world::World},
    packets,
};

/// Sizes of the tables.
const SIZES: [(u32, &str); 3] = [(1000, "1k"), (100_000, "100k"), (1_000_000, "1M")];
/// Many short rounds: a machine that others use is as fast as a moment ago, not as half a minute ago.
const ROUNDS: usize = 31;
const REPEAT: u32 = 25_000;

/// Single IPv4 addresses: eight in each /24.
const HOSTS4: u32 = 0x0b00_0000;
/// IPv4 /24 prefixes: every other one.
const PREFIXES4: u32 = 0x2000_0000;
/// Third to sixth byte of IPv6 /48 prefixes: every other one.
const PREFIXES6: u32 = 0x0100_0000;
/// Third to sixth byte of single IPv6 addresses: each in a /48 of its own.
const HOSTS6: u32 = 0x8000_0000;

const FOREVER: Block = Block::new(SCOPE_ALL, Reason::BlockedAddress as u8, 1, 0);

/// A kind of source.
#[derive(Clone, Copy)]
struct Sources {
    name: &'static str,
    v6: bool,
    /// The peer is a trie, not a hash.
    trie: bool,
    base: u32,
    shift: u8,
    mask: u32,
}

const KINDS: [Sources; 6] = [
    Sources { name: "host4", v6: false, trie: false, base: HOSTS4, shift: 5, mask: 0 },
    Sources { name: "host6", v6: true, trie: false, base: HOSTS6, shift: 0, mask: 0 },
    Sources { name: "listed4", v6: false, trie: true, base: PREFIXES4, shift: 9, mask: 0xff },
    Sources { name: "clean4", v6: false, trie: true, base: PREFIXES4 + 256, shift: 9, mask: 0xff },
    Sources { name: "listed6", v6: true, trie: true, base: PREFIXES6, shift: 1, mask: 0 },
    Sources { name: "clean6", v6: true, trie: true, base: PREFIXES6 + 1, shift: 1, mask: 0 },
];

fn address6(middle: u32) -> [u8; 16] {
    let address = (0x2001_u128 << 112) | (u128::from(middle) << 80);
    Ipv6Addr::from(address).octets()
}

fn host6(number: u32) -> [u8; 16] {
    // The packet's source ends like this too.
    let mut address = address6(HOSTS6 + number);
    address[15] = 9;
    address
}

/// Measures all sizes.
///
/// # Errors
/// When the kernel refuses something.
pub fn bench(say: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut sizes = Vec::new();
    for (count, name) in SIZES {
        say(&format!("cold: {name} entries of each kind"));
        let measured = in_namespace(move || {
            raw::stay_on_one_cpu();
            measure(count)
        });
        let (measured, beside) =
            measured.join().map_err(|_| anyhow::anyhow!("the measurement failed"))??;
        for (kind, (ours, peer)) in KINDS.iter().zip(&measured) {
            rows.push(Row {
                path: format!("run cold {} {name}", kind.name),
                unit: "ns/packet",
                ours: *ours,
                peer: if kind.trie { "kernel trie" } else { "kernel hash" },
                peer_value: *peer,
            });
        }
        let clean6 = measured[KINDS.len() - 1].0;
        rows.push(Row {
            path: format!("run cold clean6 {name}, a /32 blocked"),
            unit: "ns/packet",
            ours: beside,
            peer: "none",
            peer_value: clean6,
        });
        sizes.push(measured);
    }
    for (number, kind) in KINDS.iter().enumerate() {
        rows.push(Row {
            path: format!("run growth {} 1k to 1M", kind.name),
            unit: "ns/packet",
            ours: sizes[SIZES.len() - 1][number].0,
            peer: "at 1k",
            peer_value: sizes[0][number].0,
        });
    }
    Ok(rows)
}

/// Ours and the peer's time for each kind; and ours for the last one, when prefixes shorter than
/// /48 are blocked elsewhere.
fn measure(count: u32) -> Result<(Vec<(f64, f64)>, f64)> {
    let mut kernel = Kernel::load_with_room(KERNEL_OBJECT, count + 16)?;
    let world = World { device: Some(0), rules_loaded: true, ..World::default() };
    let tables = lower::tables(&world);
    kernel.apply(&tables)?;
    fill(&mut kernel, count)?;
    let flags = tables.settings.flags | SETTING_BLOCKS;
    kernel.set_settings(Settings { flags, block_epoch: 77, ..tables.settings })?;
    let empty = raw::load(raw::Tiny::Drop)?;
    let mut measured = Vec::new();
    for kind in KINDS {
        let table = peer_table(kind, count)?;
        let map = table.as_raw_fd();
        let peer = raw::load(raw::Tiny::LookUp(raw::LookUp { map, v6: kind.v6, trie: kind.trie }))?;
        let frame = frame(kind);
        let programs = [kernel.xdp()?, peer.as_fd(), empty.as_fd()];
        let mut rounds = times(kind, count, programs, &frame)?;
        // The round in which the ratio of the two was the median of all rounds'.
        rounds.sort_by(|one, other| (one.0 / one.1).total_cmp(&(other.0 / other.1)));
        measured.push(rounds[ROUNDS / 2]);
    }
    let mut short = MemoryTables::default();
    short.block6(address6(0x07f8_0000), 32, FOREVER);
    let mut words = kernel.array::<u64>(map_names::PRESENCE6_SHORT)?;
    for (slot, word) in &short.presence6_short {
        words.set(*slot, *word, 0)?;
    }
    let flags = flags | short.settings.flags;
    kernel.set_settings(Settings { flags, block_epoch: 78, ..tables.settings })?;
    let [.., last] = KINDS;
    let programs = [kernel.xdp()?, empty.as_fd(), empty.as_fd()];
    let beside = times(last, count, programs, &frame(last))?;
    Ok((measured, median(beside.iter().map(|(ours, _)| *ours).collect())))
}

/// What a packet costs the first two programs above the third, in each round.
fn times(
    kind: Sources,
    count: u32,
    programs: [BorrowedFd<'_>; 3],
    frame: &[u8],
) -> Result<Vec<(f64, f64)>> {
    let sources = raw::Scatter {
        programs: -1,
        v6: kind.v6,
        base: kind.base,
        count,
        shift: kind.shift,
        mask: kind.mask,
    };
    let mut scattered = Vec::new();
    for program in programs {
        scattered.push(raw::scattered(program, sources).context("a program that goes on")?);
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut times = [0.0; 3];
        for ((program, _), time) in scattered.iter().zip(&mut times) {
            *time = raw::run(program.as_fd(), frame, None, REPEAT)?.as_nanos() as f64;
        }
        let [ours, peer, empty] = times;
        rounds.push((ours - empty, peer - empty));
    }
    Ok(rounds)
}

fn frame(kind: Sources) -> Vec<u8> {
    let [me, _] = own_addresses(!kind.v6);
    let from =
        if kind.v6 { Ipv6Addr::from(host6(0)).into() } else { Ipv4Addr::from(HOSTS4).into() };
    packets::frame(from, me, 17, &packets::udp(5000, 9999, &[0; 18]))
}

/// The entries of a kind's peer: the same as ours.
fn peer_table(kind: Sources, count: u32) -> Result<OwnedFd> {
    let address = if kind.v6 { 16 } else { 4 };
    let (map, key) =
        if kind.trie { (raw::MapKind::Trie, address + 4) } else { (raw::MapKind::Hash, address) };
    let table = raw::create_map(map, key, size_of::<Block>() as u32, count)?;
    let value = [1; size_of::<Block>()];
    for number in 0..count {
        let key: Vec<u8> = match (kind.trie, kind.v6) {
            (false, false) => (HOSTS4 + (number << 5)).to_be_bytes().to_vec(),
            (false, true) => host6(number).to_vec(),
            (true, false) => {
                let prefix = (PREFIXES4 + (number << 9)).to_be_bytes();
                [24_u32.to_ne_bytes(), prefix].concat()
            }
            (true, true) => {
                let prefix = address6(PREFIXES6 + (number << 1));
                [&48_u32.to_ne_bytes()[..], &prefix[..]].concat()
            }
        };
        raw::update_map(table.as_fd(), &key, &value)?;
    }
    Ok(table)
}

fn fill(kernel: &mut Kernel, count: u32) -> Result<()> {
    let mut bits4 = std::collections::HashMap::<u32, u64>::new();
    let mut bits6 = std::collections::HashMap::<u32, u64>::new();
    let mut hosts = kernel.hash::<[u8; 4], Block>(map_names::BLOCKED4)?;
    for number in 0..count {
        let address = (HOSTS4 + (number << 5)).to_be_bytes();
        hosts.insert(address, FOREVER, 0)?;
        let (slot, at) = presence4(address);
        *bits4.entry(slot).or_default() |= u64::from(PRESENT_ADDRESSES) << at;
    }
    let mut hosts = kernel.hash::<[u8; 16], Block>(map_names::BLOCKED6)?;
    for number in 0..count {
        let address = host6(number);
        hosts.insert(address, FOREVER, 0)?;
        for (slot, at) in [presence6(address), presence6_again(address)] {
            *bits6.entry(slot).or_default() |= u64::from(PRESENT_ADDRESSES) << at;
        }
    }
    let mut trie = LpmTrie::try_from(kernel.map(map_names::BLOCKED4_PREFIXES)?)?;
    for number in 0..count {
        let address = (PREFIXES4 + (number << 9)).to_be_bytes();
        trie.insert(&Key::new(24, address), FOREVER, 0)?;
        let (slot, at) = presence4(address);
        *bits4.entry(slot).or_default() |= u64::from(PRESENT_PREFIXES) << at;
    }
    let mut trie = LpmTrie::try_from(kernel.map(map_names::BLOCKED6_PREFIXES)?)?;
    for number in 0..count {
        let address = address6(PREFIXES6 + (number << 1));
        trie.insert(&Key::new(48, address), FOREVER, 0)?;
        for (slot, at) in [presence6(address), presence6_again(address)] {
            *bits6.entry(slot).or_default() |= u64::from(PRESENT_PREFIXES) << at;
        }
    }
    for (name, bits) in [(map_names::PRESENCE4, bits4), (map_names::PRESENCE6_PAGES, bits6)] {
        let mut words = kernel.array::<u64>(name)?;
        for (slot, word) in bits {
            words.set(slot, word, 0)?;
        }
    }
    Ok(())
}
