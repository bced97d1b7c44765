//! The configured devices as they are now: what exists, what is missing, and what the kernel must
//! know of each.

use std::{collections::BTreeMap, path::Path};

use edge_ebpf::abi::{Interface, MAX_IFINDEX};

use super::{
    FirewallError, attach,
    plan::{self, RuleSet},
    sys,
};

/// Which of the configured devices must be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::firewall) enum Devices {
    /// All: one that is missing, or refuses the program, is an error.
    All,
    /// Those that can be; the others are named.
    Possible,
}

/// The configured devices that exist, with what the kernel must know of them.
pub(super) struct Resolved {
    pub devices: BTreeMap<u32, Interface>,
    pub vlans: BTreeMap<(u32, u16), Interface>,
    pub names: BTreeMap<String, u32>,
    /// What devices are called now that the configuration knows by another name.
    pub renamed: BTreeMap<String, String>,
    pub missing: Vec<String>,
    /// Devices that cannot be taken, and why.
    pub faults: Vec<String>,
}

/// A device that was renamed is known by the link that it has: taking it for gone would end what
/// is enforced on it.
pub(super) fn resolve(
    plan: &RuleSet,
    wanted: Devices,
    pins: &Path,
) -> Result<Resolved, FirewallError> {
    let is_named =
        |device: &str| plan.interfaces.iter().any(|interface| interface.device == device);
    let mut resolved = Resolved {
        devices: BTreeMap::new(),
        vlans: BTreeMap::new(),
        names: BTreeMap::new(),
        renamed: BTreeMap::new(),
        missing: Vec::new(),
        faults: Vec::new(),
    };
    for interface in &plan.interfaces {
        let device = &interface.device;
        let held = || attach::held(pins, device).filter(|(_, now)| !is_named(now));
        let found = sys::ifindex(device).or_else(|| {
            let (ifindex, now) = held()?;
            resolved.renamed.insert(now, device.clone());
            Some(ifindex)
        });
        let Some(ifindex) = found else {
            if wanted == Devices::All && !interface.optional {
                return Err(FirewallError::NoDevice { device: device.clone() });
            }
            if !resolved.missing.contains(device) {
                resolved.missing.push(device.clone());
            }
            continue;
        };
        if ifindex >= MAX_IFINDEX {
            let device = device.clone();
            let fault = FirewallError::IfIndex { device, ifindex, max: MAX_IFINDEX - 1 };
            if wanted == Devices::All {
                return Err(fault);
            }
            resolved.faults.push(fault.to_string());
            continue;
        }
        resolved.names.insert(device.clone(), ifindex);
        let zone_plus_one = plan::zone_number(interface.zone) + 1;
        let slot = interface.slot;
        let entry = resolved.devices.entry(ifindex).or_insert(Interface {
            zone_plus_one: 0,
            trunk: 0,
            slot: 0,
            reserved: 0,
        });
        match interface.vlan {
            None => {
                entry.zone_plus_one = zone_plus_one;
                entry.slot = slot;
            }
            Some(vlan) => {
                entry.trunk = 1;
                let tagged = Interface { zone_plus_one, trunk: 0, slot, reserved: 0 };
                resolved.vlans.insert((ifindex, vlan), tagged);
            }
        }
    }
    Ok(resolved)
}

/// A device that is enforced under a name that it has no more.
pub(super) fn renamed(device: &str, now: &str) -> String {
    format!(
        "device `{device}` is called `{now}` now: its rules stay in force until it goes; name it \
         in the file as it is called"
    )
}

/// Devices that are up and that the firewall does not see.
pub(super) fn unconfigured(resolved: &Resolved) -> Vec<String> {
    let known =
        |name: &String| resolved.names.contains_key(name) || resolved.renamed.contains_key(name);
    let open = sys::devices_up().into_iter().filter(|name| !known(name));
    open.map(|name| {
        format!(
            "device `{name}` is up and not configured: the firewall does not see its traffic; \
             add an [[interface]] for it, or take it down"
        )
    })
    .collect()
}
