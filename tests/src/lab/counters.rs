//! Reads the kernel's counters straight from the pins: no daemon is asked, so this works while it
//! is dead, and fast enough to measure when the first packet was dropped.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use edge_ebpf::{
    abi::{INTERFACE_SLOTS, ReasonCounter, map_names, reason_slot},
    verdict::Reason,
};

/// The per-reason counters of one appliance.
pub struct Counters {
    map: PerCpuArray<MapData, ReasonCounter>,
}

impl Counters {
    /// Opens the pinned map.
    pub fn open(pins: &Path) -> Result<Self> {
        let path = find(pins, map_names::REASON_COUNTERS).with_context(|| {
            format!("no {} under {}", map_names::REASON_COUNTERS, pins.display())
        })?;
        let data = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
        let map = PerCpuArray::try_from(Map::PerCpuArray(data))?;
        Ok(Self { map })
    }

    /// Packets counted under a reason, over all CPUs.
    pub fn packets(&self, reason: Reason) -> Result<u64> {
        let mut packets = 0;
        for slot in 0..INTERFACE_SLOTS as u8 {
            let values = self.map.get(&reason_slot(slot, reason as u8), 0)?;
            packets += values.iter().map(|counter| counter.packets).sum::<u64>();
        }
        Ok(packets)
    }

    /// Packets dropped, whatever the reason.
    pub fn dropped(&self) -> Result<u64> {
        use edge_ebpf::verdict::Verdict;
        let drops = Reason::ALL.iter().filter(|reason| reason.verdict() == Verdict::Drop);
        drops.map(|&reason| self.packets(reason)).sum()
    }
}

/// The pin of a map: in the folder itself, or in one below.
pub fn find(pins: &Path, name: &str) -> Option<std::path::PathBuf> {
    let direct = pins.join(name);
    if direct.exists() {
        return Some(direct);
    }
    let entries = std::fs::read_dir(pins).ok()?;
    entries.flatten().map(|entry| entry.path().join(name)).find(|path| path.exists())
}
