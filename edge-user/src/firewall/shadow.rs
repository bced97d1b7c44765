//! The shadow: a rule set in a slot of its own, which only counts what it would have done
//! otherwise. Blocks and interfaces are those in force.

use std::{net::IpAddr, path::Path};

use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use edge_ebpf::{
    abi::{
        Counter, GENERATION_SHADOW, NO_GENERATION, SCHEMA, Settings, map_names as names,
        shadow_slot,
    },
    verdict::{REASON_SLOTS, Reason, Verdict},
};
use serde::Serialize;

use super::{
    FirewallError,
    kernel::{Kernel, open},
    media::InUse,
    plan::RuleSet,
};

/// What the shadow would have done otherwise, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShadowRow {
    /// `drop`: these packets pass, and the shadow would drop them, for this reason of its own.
    /// `pass`: these are dropped, for this reason, and the shadow would pass them.
    pub would: &'static str,
    /// Name of the reason.
    pub reason: &'static str,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// The reason in words.
    pub explain: &'static str,
}

/// The shadow, as the kernel's maps show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShadowStatus {
    /// It counts now.
    pub counting: bool,
    /// What it counted since it was started; reasons without packets are left out.
    pub rows: Vec<ShadowRow>,
}

/// Reads the shadow's counters from the pins. Works without the daemon.
///
/// # Errors
/// When nothing is loaded, or a map cannot be read.
pub fn status(pins: &Path) -> Result<ShadowStatus, FirewallError> {
    let settings: Array<MapData, Settings> = open(pins, names::SETTINGS)?;
    let settings = settings.get(&0, 0).map_err(|e| FirewallError::map(names::SETTINGS, e))?;
    let counting = settings.schema == SCHEMA && settings.shadow == GENERATION_SHADOW;
    let counters: PerCpuArray<MapData, Counter> = open(pins, names::SHADOW_COUNTERS)?;
    let mut rows = Vec::new();
    for drops in [true, false] {
        for reason in Reason::ALL {
            // What passes has no reason for a drop, and the other way about.
            if reason.verdict() != Verdict::Drop {
                continue;
            }
            let slot = shadow_slot(drops, *reason as u8);
            let values = counters
                .get(&slot, 0)
                .map_err(|fault| FirewallError::map(names::SHADOW_COUNTERS, fault))?;
            let packets = values.iter().map(|counter| counter.packets).sum();
            if packets > 0 {
                rows.push(ShadowRow {
                    would: if drops { "drop" } else { "pass" },
                    reason: reason.name(),
                    packets,
                    bytes: values.iter().map(|counter| counter.bytes).sum(),
                    explain: reason.explain(),
                });
            }
        }
    }
    Ok(ShadowStatus { counting, rows })
}

/// Writes a rule set into the shadow's slot, which nobody may be reading, and sets its counters
/// to zero. Gives the settings that begin to count.
pub(super) fn prepare(
    kernel: &mut Kernel,
    pins: &Path,
    (plan, own): (&RuleSet, &[IpAddr]),
    settings: Settings,
) -> Result<Settings, FirewallError> {
    // What belongs to a flow is not judged by a shadow.
    kernel.write_rule_set(GENERATION_SHADOW, (plan, own), &InUse::default())?;
    let mut counters: PerCpuArray<MapData, Counter> = open(pins, names::SHADOW_COUNTERS)?;
    let cpus = aya::util::nr_cpus().map_err(|(_, e)| FirewallError::io("counting CPUs", e))?;
    for slot in 0..2 * REASON_SLOTS as u32 {
        let zeros = PerCpuValues::try_from(vec![Counter::default(); cpus])
            .map_err(|e| FirewallError::io("counting CPUs", e))?;
        counters
            .set(slot, zeros, 0)
            .map_err(|fault| FirewallError::map(names::SHADOW_COUNTERS, fault))?;
    }
    Ok(Settings { shadow: GENERATION_SHADOW, ..settings })
}

/// The settings without a shadow.
pub(super) fn without(settings: Settings) -> Settings {
    Settings { shadow: NO_GENERATION, ..settings }
}
