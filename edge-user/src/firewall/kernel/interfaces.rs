//! The tables of interfaces: what changes in them, by when it must be written.

use std::collections::BTreeMap;

use edge_ebpf::abi::{Interface, MAX_IFINDEX, VlanKey, map_names as names};

use super::{FirewallError, Kernel, at};
use crate::failpoint;

/// A write to a table of interfaces.
pub(in crate::firewall) enum InterfaceWrite {
    /// A device; all zero: none.
    Device(u32, Interface),
    /// A VLAN of a trunk.
    Vlan(VlanKey, Interface),
    /// A VLAN no more.
    NoVlan(VlanKey),
}

/// What changes in the tables of interfaces, by when it must be written.
///
/// Zones and rules are two stores, so no order of the two is right for a packet in between: a
/// zone of one configuration would be judged by rules of the other, and could be let in by
/// neither's will. So what has another zone afterwards has none while the rules are swapped:
/// for that moment, everything that comes in there is dropped.
#[derive(Default)]
pub(in crate::firewall) struct InterfaceChanges {
    /// Before the rules are swapped: what has another zone then, or none.
    pub close: Vec<InterfaceWrite>,
    /// After the swap, before a new device is attached.
    pub open: Vec<InterfaceWrite>,
    /// When the device has been let go. Until then it keeps its zone: afterwards the firewall
    /// does not see it at all.
    pub go: Vec<InterfaceWrite>,
}

impl Kernel {
    /// What must be written so that both tables of interfaces say exactly this.
    pub fn interface_changes(
        &self,
        devices: &BTreeMap<u32, Interface>,
        vlans: &BTreeMap<(u32, u16), Interface>,
    ) -> Result<InterfaceChanges, FirewallError> {
        let none = Interface { zone_plus_one: 0, trunk: 0, slot: 0, reserved: 0 };
        let mut changes = InterfaceChanges::default();
        for ifindex in 0..MAX_IFINDEX {
            let wanted = devices.get(&ifindex).copied().unwrap_or(none);
            let found = self.interfaces.get(&ifindex, 0).map_err(at(names::INTERFACES))?;
            if found == wanted {
                continue;
            }
            if wanted == none {
                changes.go.push(InterfaceWrite::Device(ifindex, wanted));
                continue;
            }
            if changes_zone(found, wanted) {
                let closed = Interface { zone_plus_one: 0, ..found };
                changes.close.push(InterfaceWrite::Device(ifindex, closed));
            }
            changes.open.push(InterfaceWrite::Device(ifindex, wanted));
        }
        for ((ifindex, outer), interface) in vlans {
            let key = VlanKey { ifindex: *ifindex, outer: *outer, inner: 0 };
            match self.vlans.get(&key, 0) {
                Ok(found) if found == *interface => continue,
                Ok(found) if changes_zone(found, *interface) => {
                    changes.close.push(InterfaceWrite::NoVlan(key));
                }
                Ok(_) | Err(_) => {}
            }
            changes.open.push(InterfaceWrite::Vlan(key, *interface));
        }
        for key in self.vlans.keys().filter_map(Result::ok) {
            if key.inner != 0 || !vlans.contains_key(&(key.ifindex, key.outer)) {
                changes.close.push(InterfaceWrite::NoVlan(key));
            }
        }
        Ok(changes)
    }

    /// Writes some of them.
    pub fn write_interfaces(&mut self, writes: Vec<InterfaceWrite>) -> Result<(), FirewallError> {
        for write in writes {
            match write {
                InterfaceWrite::Device(ifindex, interface) => {
                    self.interfaces.set(ifindex, interface, 0).map_err(at(names::INTERFACES))?;
                    failpoint::wrote(names::INTERFACES);
                }
                InterfaceWrite::Vlan(key, interface) => {
                    self.vlans.insert(key, interface, 0).map_err(at(names::VLANS))?;
                    failpoint::wrote(names::VLANS);
                }
                InterfaceWrite::NoVlan(key) => {
                    self.vlans.remove(&key).map_err(at(names::VLANS))?;
                    failpoint::wrote(names::VLANS);
                }
            }
        }
        Ok(())
    }
}

/// Whether it has a zone, and another one is wanted.
fn changes_zone(found: Interface, wanted: Interface) -> bool {
    found.zone_plus_one != 0 && found.zone_plus_one != wanted.zone_plus_one
}
