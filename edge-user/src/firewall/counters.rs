//! The kernel's counters by reason, interface, rule and service. Reads the pins only.

use std::{collections::BTreeMap, path::Path};

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use edge_ebpf::{
    abi::{
        Counter, INTERFACE_SLOTS, Interface, ReasonCounter, VlanKey, map_names as names,
        reason_slot,
    },
    verdict::Reason,
};
use serde::Serialize;

use super::{
    FirewallError, attach, decode,
    inspect::{ReasonRow, RuleCount, total},
    kernel::open,
    plan::RuleOrigin,
};

/// What one interface has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceCount {
    /// Device, and VLAN where it is one of a trunk; frames of no configured interface are
    /// counted under `other`.
    pub interface: String,
    /// `external`, `internal` or `none`.
    pub zone: &'static str,
    /// Packets passed, dropped and answered in the driver.
    pub passed: u64,
    /// See `passed`.
    pub dropped: u64,
    /// See `passed`.
    pub answered: u64,
    /// Reasons that were counted at all.
    pub reasons: Vec<ReasonRow>,
}

/// What the rules of one service have counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceCount {
    /// The service, `management`, or `firewall.rule` for the rules of the file.
    pub service: String,
    /// Its rules.
    pub rules: Vec<String>,
    /// Packets they decided.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Every counter of every interface slot.
pub(super) struct ReasonTable(Vec<Counter>);

impl ReasonTable {
    /// Reads the whole map.
    pub fn read(pins: &Path) -> Result<Self, FirewallError> {
        let name = names::REASON_COUNTERS;
        let map: PerCpuArray<MapData, ReasonCounter> = open(pins, name)?;
        let one = |index| {
            let values = map.get(&index, 0).map_err(|e| FirewallError::map(name, e))?;
            Ok(total(values.iter().copied().map(ReasonCounter::counted)))
        };
        (0..map.len()).map(one).collect::<Result<_, FirewallError>>().map(Self)
    }

    fn at(&self, slot: u8, reason: Reason) -> Counter {
        let index = reason_slot(slot, reason as u8) as usize;
        self.0.get(index).copied().unwrap_or_default()
    }

    /// A reason, all interfaces together.
    pub fn all(&self, reason: Reason) -> Counter {
        (0..INTERFACE_SLOTS as u8).map(|slot| self.at(slot, reason)).sum()
    }

    /// Reasons of one slot that were counted.
    fn slot(&self, slot: u8) -> Vec<ReasonRow> {
        let rows = Reason::ALL.iter().map(|reason| row(*reason, self.at(slot, *reason)));
        rows.filter(|row| row.packets > 0).collect()
    }
}

/// A reason with its counter.
pub(super) fn row(reason: Reason, counter: Counter) -> ReasonRow {
    ReasonRow {
        name: reason.name(),
        verdict: reason.verdict().name(),
        packets: counter.packets,
        bytes: counter.bytes,
        explain: reason.explain(),
    }
}

/// Every interface that is configured, and `other` when anything was counted there.
pub fn interfaces(pins: &Path) -> Result<Vec<InterfaceCount>, FirewallError> {
    let table = ReasonTable::read(pins)?;
    let mut slots = vec![(0, "other".to_owned(), "none")];
    let map: Array<MapData, Interface> = open(pins, names::INTERFACES)?;
    let mut devices = BTreeMap::new();
    for device in attach::attached(pins)? {
        let Ok(found) = map.get(&device.ifindex, 0) else { continue };
        if let Some(zone) = found.zone_plus_one.checked_sub(1) {
            slots.push((found.slot, device.device.clone(), decode::zone(zone)));
        }
        devices.insert(device.ifindex, device.device);
    }
    let vlans: HashMap<MapData, VlanKey, Interface> = open(pins, names::VLANS)?;
    for (key, found) in vlans.iter().filter_map(Result::ok) {
        if let (Some(zone), Some(device)) =
            (found.zone_plus_one.checked_sub(1), devices.get(&key.ifindex))
        {
            let name = format!("{device} VLAN {}", key.outer);
            slots.push((found.slot, name, decode::zone(zone)));
        }
    }
    // More interfaces than slots: those beyond share slot 0.
    let count = |(slot, interface, zone): (u8, String, &'static str)| {
        let reasons = table.slot(slot);
        let sum =
            |verdict| reasons.iter().filter(|r| r.verdict == verdict).map(|r| r.packets).sum();
        let (passed, dropped, answered) = (sum("pass"), sum("drop"), sum("answer"));
        InterfaceCount { interface, zone, passed, dropped, answered, reasons }
    };
    let shown = |(position, (slot, ..)): &(usize, (u8, String, &str))| *position == 0 || *slot != 0;
    let rows = slots.into_iter().enumerate().filter(shown).map(|(_, slot)| count(slot));
    Ok(rows.filter(|row| row.interface != "other" || !row.reasons.is_empty()).collect())
}

/// The rules' counters, by the service that implies them.
pub fn services(rules: &[RuleCount]) -> Vec<ServiceCount> {
    let mut services: Vec<ServiceCount> = Vec::new();
    let mut seen = Vec::new();
    for count in rules {
        let rule = &count.rule;
        // A rule with several ports has several rows, and one counter.
        if rule.id.is_some() && seen.contains(&rule.id) {
            continue;
        }
        seen.push(rule.id);
        let service = match (rule.service, rule.origin) {
            (Some(service), _) => service.section().to_owned(),
            (None, RuleOrigin::Implied) => "management".to_owned(),
            (None, RuleOrigin::File) => "firewall.rule".to_owned(),
        };
        let at = services.iter().position(|known| known.service == service);
        let at = at.unwrap_or_else(|| {
            services.push(ServiceCount { service, rules: Vec::new(), packets: 0, bytes: 0 });
            services.len() - 1
        });
        services[at].rules.push(rule.name.clone());
        services[at].packets += count.packets;
        services[at].bytes += count.bytes;
    }
    services
}
