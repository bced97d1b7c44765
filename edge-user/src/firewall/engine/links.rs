//! Devices that come and go while the daemon runs: one that is configured is taken with its zone
//! when it appears and let go when it disappears; one that is not is named once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{Devices, Engine, FirewallError, Resolved, attach, renamed, resolve, sys};
use crate::firewall::watch::{Heard, LinkEvent};

/// How long after a fault a device is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is remembered of devices.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Devices without a zone that were named already.
    named: BTreeSet<String>,
    /// Devices that are not enforced, and why, as it was told.
    faulty: BTreeMap<String, String>,
    /// The same of devices that the kernel's tables have no place for.
    misplaced: Vec<String>,
    /// Devices that have another name now than the configuration says.
    renamed: BTreeMap<String, String>,
    /// Addresses that no packet from elsewhere comes from.
    pub own: Vec<IpAddr>,
    /// Those of them that the rules in force know as ours.
    pub judged: Vec<IpAddr>,
    /// Why the stack still forwards, as it was told.
    pub forwarding: Option<String>,
    again: Option<Instant>,
}

impl Links {
    /// After a fault.
    pub fn look_soon(&mut self) {
        self.again = Some(Instant::now() + AGAIN);
    }

    /// What is said of devices that are configured no more, or are gone, has ended.
    pub fn forget_others(&mut self, resolved: &Resolved) {
        self.faulty.retain(|device, _| resolved.names.contains_key(device));
        self.misplaced.retain(|fault| resolved.faults.contains(fault));
        self.renamed.retain(|now, device| resolved.renamed.get(now) == Some(device));
    }

    fn alarms(&self) -> impl Iterator<Item = String> {
        let forwarding = self.forwarding.iter().cloned();
        let faulty = self
            .faulty
            .iter()
            .map(|(device, fault)| format!("device `{device}` is not enforced: {fault}"));
        let renamed = self.renamed.iter().map(|(now, device)| renamed(device, now));
        forwarding.chain(faulty).chain(self.misplaced.iter().cloned()).chain(renamed)
    }
}

impl Engine {
    /// What was said at the start need not be said again.
    pub fn devices_named(&mut self) {
        self.links.named = sys::devices_up().into_iter().collect();
    }

    /// What is not as it should be with the stack and the devices, since it was last looked at. Each
    /// ends by itself when its cause has.
    pub fn alarms(&self) -> Vec<String> {
        self.links.alarms().collect()
    }

    /// When devices are to be looked at again.
    pub fn next_look(&self) -> Option<Duration> {
        self.links.again.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Links came, changed or went.
    pub fn heard(&mut self, heard: &Heard) {
        let look = match heard {
            Heard::Anything => true,
            Heard::Events(events) => {
                events.iter().for_each(|event| self.name(event));
                events.iter().any(|event| self.concerns(event))
            }
        };
        if look {
            self.look_at_devices();
        }
    }

    /// Looks again when it is time.
    pub fn look_again(&mut self) {
        if self.links.again.take_if(|at| *at <= Instant::now()).is_some() {
            self.look_at_devices();
        }
    }

    fn is_configured(&self, device: &str) -> bool {
        self.plan.interfaces.iter().any(|interface| interface.device == device)
    }

    /// A device without a zone that is up is named, once.
    fn name(&mut self, event: &LinkEvent) {
        if event.up
            && !self.is_configured(&event.name)
            && !self.is_on(|ifindex| ifindex == event.ifindex)
            && self.links.named.insert(event.name.clone())
        {
            tracing::warn!(
                device = event.name,
                "this device is up and not configured: the firewall does not see its traffic; \
                 add an [[interface]] for it, or take it down"
            );
        }
    }

    /// Whether it is about a device that is ours, or was: it may have another name now.
    fn concerns(&self, event: &LinkEvent) -> bool {
        let gone_or_it = |ifindex| ifindex == 0 || ifindex == event.ifindex;
        self.is_configured(&event.name) || self.is_on(gone_or_it)
    }

    /// Whether a link of ours is on such a device; 0 is one that is gone.
    fn is_on(&self, such: impl Fn(u32) -> bool) -> bool {
        let links = attach::pinned(&attach::link_folder(&self.options.pins));
        links.iter().any(|(_, path)| sys::link_facts(path).is_ok_and(|facts| such(facts.ifindex)))
    }

    fn look_at_devices(&mut self) {
        if let Some(told) = self.switch_forwarding_off() {
            tracing::warn!("{told}");
        }
        for done in [self.look_at_addresses(), self.take_devices()] {
            if let Err(fault) = done {
                tracing::error!(%fault, "devices could not be looked at; trying again");
                self.links.look_soon();
            }
        }
    }

    /// Takes the configured devices that are there, and lets go of the others. The zone is known
    /// before the program is on the device, and forgotten after it is off.
    fn take_devices(&mut self) -> Result<(), FirewallError> {
        self.pins_are_there()?;
        let resolved = resolve(&self.plan, Devices::Possible, &self.options.pins)?;
        for fault in &resolved.faults {
            if !self.links.misplaced.contains(fault) {
                tracing::error!(fault, "ALARM: a device is not enforced");
            }
        }
        self.links.misplaced.clone_from(&resolved.faults);
        for (now, device) in &resolved.renamed {
            if self.links.renamed.get(now) != Some(device) {
                tracing::error!("ALARM: {}", renamed(device, now));
            }
        }
        self.links.renamed.clone_from(&resolved.renamed);
        self.links.forget_others(&resolved);
        let changes = self.kernel.interface_changes(&resolved.devices, &resolved.vlans)?;
        self.kernel.write_interfaces(changes.close)?;
        self.kernel.write_interfaces(changes.open)?;
        for (device, ifindex) in &resolved.names {
            self.take_device(device, *ifindex);
        }
        let pins = &self.options.pins;
        let gone = attach::detach_others(pins, |device| {
            resolved.names.contains_key(device)
                || attach::held(pins, device).is_some()
                || attach::waits(device)
        })?;
        for device in gone {
            tracing::warn!(device, "this device is gone: it is awaited");
        }
        self.kernel.write_interfaces(changes.go)
    }

    fn take_device(&mut self, device: &str, ifindex: u32) {
        let held = attach::held(&self.options.pins, device);
        let held = held.filter(|(holds, _)| *holds == ifindex);
        let done = if let Some((_, now)) = held {
            // Somebody may have turned it on again.
            sys::vlan_offload_off(&now).map_err(|fault| FirewallError::VlanOffload {
                device: device.to_owned(),
                fault: fault.to_string(),
            })
        } else {
            self.attach(device, ifindex, self.plan.allow_generic).map(|(attached, warnings)| {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                tracing::info!(device, mode = ?attached.mode, "a device came and is attached");
            })
        };
        match done {
            Ok(()) => drop(self.links.faulty.remove(device)),
            Err(fault) => {
                self.links.look_soon();
                if self.links.faulty.insert(device.to_owned(), fault.to_string()).is_none() {
                    tracing::error!(device, %fault, "ALARM: a device is not enforced; trying again");
                }
            }
        }
    }
}
