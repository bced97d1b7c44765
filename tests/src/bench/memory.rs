//! What a block costs in memory: for each entry, and for the room that is set aside for it.
//!
//! The tables have twice the room that the configuration names, so that while a list changes its
//! old and its new entries lie in them side by side. Entries are allocated as they come; only a
//! hash's heads are set aside. *Measured* is what the kernel's allocator hands out meanwhile
//! (`SUnreclaim` of /proc/meminfo), by a million entries. The kernel's own account (`memlock`) is
//! less: it counts neither what the allocator rounds up nor a trie's inner nodes, of which there
//! are as many as prefixes where every other one is listed, as here.

use anyhow::{Context as _, Result, ensure};
use aya::maps::{LpmTrie, lpm_trie::Key};
use edge_ebpf::{
    abi::{Block, SCOPE_ALL, map_names},
    verdict::Reason,
};
use edge_user::{config::Firewall, firewall::KERNEL_OBJECT};

use super::{Row, median};
use crate::kernel::Kernel;

const COUNT: u32 = 1_000_000;
const ROUNDS: usize = 3;

/// A kind of block and what it costs.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name in the rows.
    pub name: &'static str,
    /// The table.
    pub map: &'static str,
    /// Bytes that an entry costs at most, with what a page of the allocator leaves over.
    pub entry: u64,
    /// Bytes that are set aside for each entry that the configuration gives room, both sides of a
    /// change together.
    pub room: u64,
}

/// What is stated, and measured by [`bench`]: an entry of a hash is one piece of 96 bytes, of which
/// 42 fit a page; a prefix is two nodes of 64 at most. A hash sets aside 16 bytes for each entry of its
/// room, which it rounds up to a power of two.
pub const KINDS: [Kind; 4] = [
    Kind { name: "host4", map: map_names::BLOCKED4, entry: 98, room: 64 },
    Kind { name: "host6", map: map_names::BLOCKED6, entry: 98, room: 64 },
    Kind { name: "prefix4", map: map_names::BLOCKED4_PREFIXES, entry: 130, room: 0 },
    Kind { name: "prefix6", map: map_names::BLOCKED6_PREFIXES, entry: 130, room: 0 },
];

/// Measures every kind.
///
/// # Errors
/// When the kernel refuses something, or does not tell.
pub fn bench(say: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in KINDS {
        say(&format!("memory: {COUNT} entries of {}", kind.name));
        let row = |what: &str, ours, peer, peer_value| Row {
            path: format!("memory {} {what}", kind.name),
            unit: "B/entry",
            ours,
            peer,
            peer_value,
        };
        let mut measured = Vec::new();
        let mut account = [0.0; 2];
        for _ in 0..ROUNDS {
            let mut kernel = Kernel::load_with_room(KERNEL_OBJECT, 2 * COUNT)?;
            let (set_aside, before) = (accounted(&kernel, kind)?, allocated()?);
            fill(&mut kernel, kind, COUNT)?;
            measured.push((allocated()? - before) / f64::from(COUNT));
            let grown = accounted(&kernel, kind)? - set_aside;
            account = [set_aside, grown].map(|bytes| bytes / f64::from(COUNT));
            drop(kernel);
            // The kernel frees a big table by and by.
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        let (ours, [room, grown]) = (median(measured), account);
        rows.push(row("entry", ours, "stated", kind.entry as f64));
        rows.push(row("entry", ours, "memlock", grown));
        if kind.room > 0 {
            rows.push(row("room", room, "stated", kind.room as f64));
        }
    }
    rows.push(at_the_cap(&rows)?);
    Ok(rows)
}

/// All tables full, both sides of a change, at the caps of the default configuration.
fn at_the_cap(rows: &[Row]) -> Result<Row> {
    let firewall = Firewall::default();
    let caps = KINDS.map(|kind| match kind.room {
        0 => f64::from(firewall.max_blocked_prefixes),
        _ => f64::from(firewall.max_blocked_addresses),
    });
    let (mut ours, mut stated) = (0.0, 0.0);
    for (kind, cap) in KINDS.iter().zip(caps) {
        let of = |what: &str| {
            let path = format!("memory {} {what}", kind.name);
            rows.iter().find(|row| row.path == path).map(|row| row.ours)
        };
        let entry = of("entry").context("an entry was not measured")?;
        ours += cap * (2.0 * entry + of("room").unwrap_or(0.0));
        stated += cap * (2 * kind.entry + kind.room) as f64;
    }
    Ok(Row {
        path: "memory at the default caps".to_owned(),
        unit: "MiB",
        ours: ours / f64::from(1 << 20),
        peer: "stated",
        peer_value: stated / f64::from(1 << 20),
    })
}

/// The kernel's own account of a table.
fn accounted(kernel: &Kernel, kind: Kind) -> Result<f64> {
    let maps = kernel.map_memory()?;
    let (_, bytes) = maps.iter().find(|(name, _)| name == kind.map).context(kind.map)?;
    Ok(*bytes as f64)
}

/// What the kernel's allocator has handed out to itself, in bytes.
fn allocated() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("SUnreclaim:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: f64 = kilobytes.context("/proc/meminfo has no SUnreclaim")?.parse()?;
    Ok(kilobytes * 1024.0)
}

/// Puts so many entries into a kind's table: every other /24 or /48, or spread addresses.
///
/// # Errors
/// When there is no room.
pub fn fill(kernel: &mut Kernel, kind: Kind, count: u32) -> Result<()> {
    ensure!(count <= 1 << 22, "{count} entries are more than there are networks");
    let block = Block::new(SCOPE_ALL, Reason::BlockedAddress as u8, 1, 0);
    let v4 = |number: u32| (0x2000_0000 + (number << 9)).to_be_bytes();
    let v6 = |number: u32| ((0x2001_u128 << 112) | (u128::from(number) << 81)).to_be_bytes();
    match kind.map {
        map_names::BLOCKED4 => {
            let mut hosts = kernel.hash::<[u8; 4], Block>(kind.map)?;
            (0..count).try_for_each(|number| hosts.insert(v4(number), block, 0))?;
        }
        map_names::BLOCKED6 => {
            let mut hosts = kernel.hash::<[u8; 16], Block>(kind.map)?;
            (0..count).try_for_each(|number| hosts.insert(v6(number), block, 0))?;
        }
        map_names::BLOCKED4_PREFIXES => {
            let mut trie = LpmTrie::try_from(kernel.map(kind.map)?)?;
            (0..count).try_for_each(|number| trie.insert(&Key::new(24, v4(number)), block, 0))?;
        }
        _ => {
            let mut trie = LpmTrie::try_from(kernel.map(kind.map)?)?;
            (0..count).try_for_each(|number| trie.insert(&Key::new(48, v6(number)), block, 0))?;
        }
    }
    Ok(())
}
