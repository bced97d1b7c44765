//! Another rule set in the place of the one in force: whole, or the one of before is back.

use edge_ebpf::abi::{EVENT_DATA, SCHEMA, Settings};
use ipnet::IpNet;

use super::{Devices, Engine, Resolved, add, appliance, block_epoch, renamed, resolve};
use crate::{
    config::Config,
    failpoint::{self, Phase},
    firewall::{
        Applied, Attached, BlockOwner, BlockRequest, FirewallError, StartReport, attach,
        media::InUse,
        plan::{self, PlanLimit, RuleSet},
        state, sys,
    },
};

impl Engine {
    pub(super) fn set_config(
        &mut self,
        config: &Config,
        devices: Devices,
        total: &mut Applied,
    ) -> Result<(), FirewallError> {
        self.pins_are_there()?;
        failpoint::enter(Phase::Apply);
        let done = self.change_config(config, devices, total);
        failpoint::enter(Phase::Other);
        done
    }

    /// After a fault the rules are those of before, or the fault says that they are not.
    fn change_config(
        &mut self,
        config: &Config,
        devices: Devices,
        total: &mut Applied,
    ) -> Result<(), FirewallError> {
        if devices == Devices::Possible {
            failpoint::fails("put-back").map_err(FirewallError::Load)?;
        }
        // The ids are learned only when all went well, or a failed attempt would use them up.
        let mut ids = self.ids.clone();
        let mut plan = plan::compile_with(config, &mut ids)?;
        plan.set_partners(self.plan.partners())?;
        let resolved = resolve(&plan, devices, &self.options.pins)?;
        let fresh = ids.changed_since(&self.ids);
        let before = std::mem::replace(&mut self.ids, ids);
        let former = self.plan.clone();
        let mut report = StartReport::default();
        let done = self.put_in_force(plan, (&resolved, devices), &fresh, &mut report);
        let made = failpoint::fails("in-force").map_err(FirewallError::Load);
        match done.and_then(|applied| made.map(|()| applied)) {
            Ok(applied) => add(total, applied),
            Err(fault) => {
                self.ids = before;
                let Err(second) = self.put_back(former) else { return Err(fault) };
                tracing::error!(%fault, second, "the former rules could not be put back whole");
                return Err(FirewallError::NotPutBack { fault: Box::new(fault), second });
            }
        }
        // What the shadow was compared with is no longer in force.
        report.warnings.extend(self.stop_shadow().err().map(|fault| fault.to_string()));
        report.warnings.append(&mut report.faults);
        for warning in report.warnings {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    /// The daemon does not come up with the rules that its start has put in force.
    pub fn former_rules(&mut self) -> Result<(), FirewallError> {
        let Some((ids, plan)) = self.former.take().filter(|(_, plan)| *plan != self.plan) else {
            return Ok(());
        };
        self.ids = ids;
        self.put_back(plan).map_err(FirewallError::Load)
    }

    /// A configuration failed half-way: what was in force before it is again, and devices that it
    /// had taken are let go.
    fn put_back(&mut self, former: RuleSet) -> Result<(), String> {
        failpoint::fails("put-back")?;
        let mut report = StartReport::default();
        let devices = Devices::Possible;
        resolve(&former, devices, &self.options.pins)
            .and_then(|resolved| self.put_in_force(former, (&resolved, devices), &[], &mut report))
            .map_err(|fault| fault.to_string())?;
        match report.faults.is_empty() {
            true => Ok(()),
            false => Err(report.faults.join("; ")),
        }
    }

    /// The order matters: blocks and rules are there before the swap, the swap before a new
    /// device is attached, and a device is let go last. What changes its zone has none during
    /// the swap (see `kernel::InterfaceChanges`).
    pub(super) fn put_in_force(
        &mut self,
        plan: RuleSet,
        (resolved, devices): (&Resolved, Devices),
        fresh: &[u32],
        report: &mut StartReport,
    ) -> Result<Applied, FirewallError> {
        let idle = if self.settings.generation == 0 { 1 } else { 0 };
        let in_use = InUse::read(&self.options.pins, &self.plan)?;
        // What cannot be read is told below.
        let own = appliance::own_addresses(&plan.own_addresses).0;
        self.kernel.write_rule_set(idle, (&plan, &own), &in_use)?;
        self.in_use = in_use.flags;
        if !self.programs_filled {
            // Writing a map of maps has waited until no packet is under way that saw a shadow.
            self.kernel.fill_programs()?;
            self.programs_filled = true;
        }
        self.kernel.clear_rule_counters(fresh)?;
        self.table.protect(plan.management.clone());
        if plan.flood.syns_per_second > 0
            && let Err(fault) = sys::accept_syn_cookies()
        {
            report.warnings.push(format!(
                "net.ipv4.tcp_syncookies cannot be set to 2 ({fault}): in a flood, whoever brings \
                 back a SYN cookie would be refused; set it with sysctl, or set \
                 `syn_cookies_above = 0` under [firewall.flood]"
            ));
        }
        report.warnings.extend(self.switch_forwarding_off());
        // Until the swap is over, what either configuration blocks is blocked.
        let mut both = self.plan.blocks.clone();
        both.retain(|prefix| !plan.blocks.contains(prefix));
        both.extend(&plan.blocks);
        // Else: no room for both, or management moved.
        if self.set_file_blocks(&both).is_err()
            && let Err(fault) = self.set_file_blocks(&plan.blocks)
        {
            if devices == Devices::All {
                return Err(fault);
            }
            report.faults.push(fault.to_string());
        }
        if let Err(fault) = self.refuse_own_addresses(&plan.own_addresses) {
            let what = "packets that claim to come from our own addresses are not all refused";
            report.warnings.push(format!("{what}: {fault}"));
        }
        self.write_settings(Settings { block_epoch: 0, ..self.settings })?;
        let mut applied = self.table.flush(sys::now(), &mut self.kernel.blocks)?;
        let interfaces = self.kernel.interface_changes(&resolved.devices, &resolved.vlans)?;
        self.kernel.write_interfaces(interfaces.close)?;
        let settings = Settings {
            schema: SCHEMA,
            generation: idle,
            flags: plan.flags | self.in_use | self.table.flags(),
            events_per_second: plan.events_per_second,
            event_bytes: plan.event_bytes.min(EVENT_DATA as u32),
            ceilings: plan.flood.ceilings.map(PlanLimit::kernel),
            flood_syns: plan.flood.syns_per_second,
            ..self.settings
        };
        self.write_settings(settings)?;
        self.links.judged = own;
        self.kernel.write_interfaces(interfaces.open)?;
        // After the swap: what is remembered from now on knows the new rules.
        self.write_settings(Settings { block_epoch: block_epoch(), ..settings })?;
        self.plan = plan.clone();
        self.links.forget_others(resolved);
        report.generation = idle;
        if both.len() > plan.blocks.len() {
            // The new rules are in force: what cannot be let go yet is tried again.
            match self.set_file_blocks(&plan.blocks).and_then(|()| self.flush()) {
                Ok(more) => add(&mut applied, more),
                Err(fault) => report.warnings.push(fault.to_string()),
            }
        }
        report.faults.extend_from_slice(&resolved.faults);
        report.warnings.extend(resolved.renamed.iter().map(|(now, device)| renamed(device, now)));
        for (device, ifindex) in &resolved.names {
            // Where the other choice is none, the slow way is better.
            let allow_generic = plan.allow_generic || devices == Devices::Possible;
            match self.attach(device, *ifindex, allow_generic) {
                Ok((attached, warnings)) => {
                    report.attached.push(attached);
                    match plan.allow_generic {
                        true => report.warnings.extend(warnings),
                        false => report.faults.extend(warnings),
                    }
                }
                Err(fault) if devices == Devices::All => return Err(fault),
                Err(fault) => report.faults.push(fault.to_string()),
            }
        }
        let missing = &resolved.missing;
        attach::detach_others(&self.options.pins, |device| {
            resolved.names.contains_key(device) || missing.iter().any(|name| name == device)
        })?;
        self.kernel.write_interfaces(interfaces.go)?;
        report.rules = plan.rows.iter().filter(|row| row.id.is_some()).count();
        if self.is_good
            && let Err(fault) = state::write(&self.options.state, &self.ids, &plan)
        {
            report.warnings.push(format!("{fault}; after a reboot `edge load` has no plan"));
        }
        Ok(applied)
    }

    /// Exactly these are the file's blocks; [`Self::flush`] writes what that changes.
    fn set_file_blocks(&mut self, prefixes: &[IpNet]) -> Result<(), FirewallError> {
        let blocks: Vec<BlockRequest> = prefixes
            .iter()
            .map(|prefix| BlockRequest {
                prefix: *prefix,
                owner: BlockOwner::File,
                comment: None,
                expires_at: None,
            })
            .collect();
        self.table.set_owner(&BlockOwner::File, &blocks)
    }

    pub(super) fn attach(
        &mut self,
        device: &str,
        ifindex: u32,
        allow_generic: bool,
    ) -> Result<(Attached, Vec<String>), FirewallError> {
        attach::attach(&mut self.kernel.ebpf, &self.options, device, ifindex, allow_generic)
    }
}
