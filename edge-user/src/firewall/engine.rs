//! What the owner does with an intent. Runs in the owner's thread only.

use std::{
    collections::BTreeMap,
    fs::File,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use edge_ebpf::abi::{
    EVENT_DATA, GENERATION_SHADOW, Interface, MAX_IFINDEX, NO_GENERATION, SCHEMA, Settings,
};
use ipnet::IpNet;

use super::{
    Applied, Attached, BlockOwner, BlockRequest, BlockRow, FirewallError, Intent, OwnerOptions,
    StartReport, attach,
    blocks::{BlockSink as _, BlockTable},
    kernel::{self, Kernel},
    media::InUse,
    migrate,
    owner::{last_good, take_pins},
    plan::{self, PlanLimit, RuleIds, RuleSet},
    shadow, state, sys,
};
use crate::{
    config::{Config, Least},
    failpoint::{self, Phase},
};

mod links;
mod lists;

/// Which of the configured devices must be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Devices {
    /// All: one that is missing, or refuses the program, is an error.
    All,
    /// Those that can be; the others are named.
    Possible,
}

/// Where the rules of a start come from.
#[derive(Clone, Debug)]
pub(super) enum Rules {
    /// A good configuration.
    Config(Arc<Config>),
    /// What was in force last.
    LastGood,
    /// What a bad configuration says all the same. It is never taken for the last good.
    Least(Box<Least>),
}

/// Everything the owner holds.
pub(super) struct Engine {
    options: OwnerOptions,
    kernel: Kernel,
    table: BlockTable,
    ids: RuleIds,
    plan: RuleSet,
    /// `SETTING_*` bits that calls from before need.
    in_use: u32,
    settings: Settings,
    /// Kernel id of the pinned settings: they are ours as long as it stays the same.
    settings_id: Option<u32>,
    programs_filled: bool,
    links: links::Links,
    ended: lists::Ended,
    /// The rules that count as a shadow.
    shadow: Option<RuleSet>,
    /// The plan in force is one to come back to after a reboot.
    is_good: bool,
    /// What was in force before this start.
    former: Option<(RuleIds, RuleSet)>,
    /// Held as long as this lives.
    _lock: File,
}

/// The configured devices that exist, with what the kernel must know of them.
struct Resolved {
    devices: BTreeMap<u32, Interface>,
    vlans: BTreeMap<(u32, u16), Interface>,
    names: BTreeMap<String, u32>,
    /// What devices are called now that the configuration knows by another name.
    renamed: BTreeMap<String, String>,
    missing: Vec<String>,
    /// Devices that cannot be taken, and why.
    faults: Vec<String>,
}

impl Engine {
    /// Loads or adopts, attaches, and puts the plan in force.
    pub fn start(
        options: OwnerOptions,
        rules: Rules,
        devices: Devices,
    ) -> Result<(Self, StartReport), FirewallError> {
        let is_good = !matches!(rules, Rules::Least(_));
        let mut report = StartReport::default();
        let mut partners = Vec::new();
        let mut former = None;
        let mut ids = match state::read(&options.state) {
            Ok(None) => RuleIds::default(),
            Ok(Some(kept)) => {
                partners = kept.plan.partners().to_vec();
                former = Some((kept.ids.clone(), kept.plan));
                kept.ids
            }
            Err(_) if !matches!(rules, Rules::Config(_)) => RuleIds::default(),
            Err(fault) => {
                let ids = state::former_ids(&options.state);
                report.warnings.push(state::set_aside(&options.state, &fault));
                ids.unwrap_or_default()
            }
        };
        let before = ids.clone();
        let plan = match rules {
            Rules::Config(config) => {
                let mut plan = plan::compile_with(&config, &mut ids)?;
                plan.set_partners(options.partners.as_ref().unwrap_or(&partners))?;
                plan
            }
            Rules::LastGood => last_good(&options.state)?.plan,
            Rules::Least(least) => plan::deny_all(&least, &sys::devices())?,
        };
        let resolved = resolve(&plan, devices, &options.pins)?;
        let (lock, found) = take_pins(&options.pins)?;
        failpoint::enter(Phase::Start);
        let kernel = Kernel::load(&options.pins, &plan, options.debug_log)?;
        let settings = kernel.settings()?;
        if settings.schema != SCHEMA {
            let (pins, found) = (options.pins, settings.schema.to_string());
            return Err(FirewallError::Schema { pins, found, expected: SCHEMA });
        }
        report.adopted = found.ours;
        let room = kernel::room(&options.pins)?;
        let asked = [plan.max_addresses, plan.max_prefixes];
        if [room.addresses[0], room.prefixes[0]] != asked {
            report.warnings.push(format!(
                "the block tables keep their size ({} addresses, {} prefixes) until `edge detach`",
                room.addresses[0], room.prefixes[0]
            ));
        }
        let table = BlockTable::new(room);
        let settings_id = kernel::settings_id(&options.pins);
        let mut engine = Self {
            options,
            kernel,
            table,
            ids,
            plan: plan.clone(),
            in_use: 0,
            // A shadow is somebody's look at the rules that were in force: it ends here.
            settings: shadow::without(settings),
            settings_id,
            programs_filled: false,
            links: links::Links::default(),
            ended: lists::Ended::default(),
            shadow: None,
            is_good,
            former,
            _lock: lock,
        };
        if settings.shadow < NO_GENERATION {
            engine.kernel.set_settings(engine.settings)?;
        }
        if found.former {
            engine.carry_over(&mut report)?;
        }
        engine.adopt(&mut report)?;
        engine.take_blocks(&plan, &mut report);
        let fresh = engine.ids.changed_since(&before);
        let done = engine.put_in_force(plan, (&resolved, devices), &fresh, &mut report);
        let made = failpoint::fails("start-in-force").map_err(FirewallError::Load);
        if let Err(fault) = done.map(drop).and(made) {
            // `edge load` has others to try.
            if devices == Devices::All
                && let Err(second) = engine.former_rules()
            {
                tracing::error!(%second, "ALARM: the rules of before could not be put back");
            }
            return Err(fault);
        }
        if found.former {
            // Every link has the new program now.
            let removed = migrate::remove(&migrate::folder(&engine.options.pins));
            report.warnings.extend(removed.err().map(|fault| fault.to_string()));
        }
        failpoint::enter(Phase::Other);
        report.warnings.extend(unconfigured(&resolved));
        engine.devices_named();
        report.missing = resolved.missing;
        Ok((engine, report))
    }

    /// Before the first packet is judged.
    fn take_blocks(&mut self, plan: &RuleSet, report: &mut StartReport) {
        self.table.protect(plan.management.clone());
        let mut owners: BTreeMap<BlockOwner, Vec<BlockRequest>> = BTreeMap::new();
        for block in std::mem::take(&mut self.options.domain_blocks) {
            owners.entry(block.owner.clone()).or_default().push(block);
        }
        owners.extend(self.options.blocks.take().map(|b| (BlockOwner::Administrator, b)));
        for (owner, blocks) in owners {
            if let Err(fault) = self.table.set_owner(&owner, &blocks) {
                report.faults.push(format!("not every block of the store is in force: {fault}"));
            }
        }
    }

    /// Puts what the former version's maps hold into ours, before any link has the new program.
    /// [`Self::adopt`] takes it in from there.
    fn carry_over(&mut self, report: &mut StartReport) -> Result<(), FirewallError> {
        let folder = migrate::folder(&self.options.pins);
        let mut left = 0;
        for (prefix, block) in migrate::blocks(&folder)? {
            match self.kernel.blocks.put(prefix, &block) {
                Ok(()) => report.migrated_blocks += 1,
                Err(fault) => {
                    tracing::error!(%prefix, %fault, "a block cannot be carried over");
                    left += 1;
                }
            }
        }
        self.kernel.remember_flows(migrate::flows(&folder)?)?;
        report.migrated = true;
        report.warnings.push(format!(
            "the maps of version {} are replaced by those of version {SCHEMA}; {} blocks are \
             carried over, counters begin at zero",
            migrate::FORMER_SCHEMA,
            report.migrated_blocks
        ));
        if left > 0 {
            report.warnings.push(format!(
                "{left} blocks had no room: raise `max_blocked_addresses` or \
                 `max_blocked_prefixes` under [firewall], run `edge detach` and start again"
            ));
        }
        Ok(())
    }

    /// Applies the intents in their order. One that fails does not stop the others.
    pub fn apply(&mut self, intents: Vec<Intent>) -> Result<Applied, FirewallError> {
        let began = Instant::now();
        let mut total = Applied::default();
        let mut fault = None;
        let only_rules =
            intents.iter().all(|i| matches!(i, Intent::SetConfig(_) | Intent::PutBack(_)));
        for intent in intents {
            let done = match intent {
                Intent::Block(request) => self.table.block(&request),
                Intent::Unblock { prefix, owner } => {
                    self.table.unblock(&prefix, &owner);
                    Ok(())
                }
                Intent::SetOwnerBlocks { owner, blocks } => self.table.set_owner(&owner, &blocks),
                Intent::SetConfig(config) => self.set_config(&config, Devices::All, &mut total),
                Intent::PutBack(config) => self.set_config(&config, Devices::Possible, &mut total),
                Intent::SetPartners(partners) => self.set_partners(&partners),
                Intent::Known(address) => self.know(address),
                Intent::SetShadow(config) => self.set_shadow(&config),
                Intent::StopShadow => self.stop_shadow(),
            };
            if let Err(found) = done {
                fault.get_or_insert(found);
            }
        }
        // What had no fault is put in force all the same.
        let flushed = self.flush();
        if let Some(fault) = fault {
            return Err(fault);
        }
        match flushed {
            Ok(applied) => add(&mut total, applied),
            // The rules are in force: blocks are tried again.
            Err(fault) if only_rules => tracing::error!(%fault, "blocks could not be written"),
            Err(fault) => return Err(fault),
        }
        total.took = began.elapsed();
        Ok(total)
    }

    /// Lets go of adopted blocks that nobody claimed, unless who did is not known any more.
    pub fn settle(&mut self) -> Result<Applied, FirewallError> {
        let began = Instant::now();
        if self.options.keep_unclaimed {
            return Ok(Applied::default());
        }
        self.table.settle();
        let mut applied = self.flush()?;
        applied.took = began.elapsed();
        Ok(applied)
    }

    /// Lets go of expired blocks.
    pub fn sweep(&mut self) -> Result<Applied, FirewallError> {
        self.table.sweep(sys::now());
        self.flush()
    }

    /// Tries again what the kernel did not take.
    pub fn retry(&mut self) -> Result<Applied, FirewallError> {
        self.table.retry();
        self.flush()
    }

    /// Whether [`Self::retry`] has something to do.
    pub fn is_stuck(&self) -> bool {
        self.table.is_stuck()
    }

    /// How long until the next block expires.
    pub fn next_expiry(&self) -> Option<Duration> {
        let at = self.table.next_expiry()?;
        Some(at.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Every block with its owners.
    pub fn rows(&self) -> Vec<BlockRow> {
        self.table.rows()
    }

    /// Only the set of sources changes, in one store for each family: no packet asks for both. A
    /// shadow knows the same partners.
    fn set_partners(&mut self, partners: &[IpNet]) -> Result<(), FirewallError> {
        let mut plan = self.plan.clone();
        if plan.set_partners(partners)? {
            if plan.uses_partners() {
                self.pins_are_there()?;
                self.kernel.write_sources(self.settings.generation, &plan)?;
            }
            self.plan = plan;
            state::write(&self.options.state, &self.ids, &self.plan)?;
        }
        let Some(mut shadow) = self.shadow.clone() else { return Ok(()) };
        if shadow.set_partners(partners)? {
            if shadow.uses_partners() {
                self.pins_are_there()?;
                self.kernel.write_sources(GENERATION_SHADOW, &shadow)?;
            }
            self.shadow = Some(shadow);
        }
        Ok(())
    }

    /// Gives a source that has proved itself a bucket of its own, where the rule has limits. What
    /// was used up of one that it has already stays used up.
    fn know(&mut self, address: IpAddr) -> Result<(), FirewallError> {
        match self.ids.get(plan::RULE_ACCESS) {
            Some(rule) if self.plan.is_limited(rule) => self.kernel.know(address, rule),
            _ => Ok(()),
        }
    }

    /// Counts what these rules would have done otherwise. Nothing else changes.
    fn set_shadow(&mut self, config: &Config) -> Result<(), FirewallError> {
        self.pins_are_there()?;
        // Its names get ids only when it comes into force.
        let mut plan = plan::compile_with(config, &mut self.ids.clone())?;
        plan.set_partners(self.plan.partners())?;
        self.stop_shadow()?;
        let settings = shadow::prepare(&mut self.kernel, &self.options.pins, &plan, self.settings)?;
        self.shadow = Some(plan);
        self.write_settings(settings)
    }

    fn stop_shadow(&mut self) -> Result<(), FirewallError> {
        self.shadow = None;
        self.write_settings(shadow::without(self.settings))
    }

    /// The maps that we write to are still the pinned ones: else what is written now would be
    /// lost to the next daemon, and new devices could not be taken.
    fn pins_are_there(&self) -> Result<(), FirewallError> {
        let pins = &self.options.pins;
        if self.settings_id.is_some() && kernel::settings_id(pins) == self.settings_id {
            Ok(())
        } else {
            Err(FirewallError::PinsGone { pins: pins.clone() })
        }
    }

    fn set_config(
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
    fn put_in_force(
        &mut self,
        plan: RuleSet,
        (resolved, devices): (&Resolved, Devices),
        fresh: &[u32],
        report: &mut StartReport,
    ) -> Result<Applied, FirewallError> {
        let idle = if self.settings.generation == 0 { 1 } else { 0 };
        let in_use = InUse::read(&self.options.pins, &self.plan)?;
        self.kernel.write_rule_set(idle, &plan, &in_use)?;
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
        if let Err(fault) = self.table.set_owner(&BlockOwner::OwnAddress, &own_blocks(&plan)) {
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
        self.kernel.write_interfaces(interfaces.open)?;
        // After the swap: what is remembered from now on knows the new rules.
        self.write_settings(Settings { block_epoch: block_epoch(), ..settings })?;
        self.plan = plan.clone();
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

    fn attach(
        &mut self,
        device: &str,
        ifindex: u32,
        allow_generic: bool,
    ) -> Result<(Attached, Vec<String>), FirewallError> {
        attach::attach(&mut self.kernel.ebpf, &self.options, device, ifindex, allow_generic)
    }

    /// Writes the blocks that changed, and the settings when the tables became empty or not.
    ///
    /// While the tables change, the program remembers no block; afterwards what it remembered
    /// before counts for nothing. Should this fail on the way, it goes on without remembering.
    fn flush(&mut self) -> Result<Applied, FirewallError> {
        let flags = self.settings.flags | self.table.flags();
        self.write_settings(Settings { flags, block_epoch: 0, ..self.settings })?;
        let applied = self.table.flush(sys::now(), &mut self.kernel.blocks)?;
        let flags = self.flags();
        self.write_settings(Settings { flags, block_epoch: block_epoch(), ..self.settings })?;
        Ok(applied)
    }

    /// The settings' flags: what the rules, calls of before and blocks ask for.
    fn flags(&self) -> u32 {
        self.plan.flags | self.in_use | self.table.flags()
    }

    fn write_settings(&mut self, settings: Settings) -> Result<(), FirewallError> {
        if settings != self.settings {
            self.kernel.set_settings(settings)?;
            self.settings = settings;
        }
        Ok(())
    }
}

/// A packet from elsewhere that claims to come from an address of ours is forged.
fn own_blocks(plan: &RuleSet) -> Vec<BlockRequest> {
    let request = |address: &IpAddr| BlockRequest {
        prefix: (*address).into(),
        owner: BlockOwner::OwnAddress,
        comment: Some("an address of this appliance's services".to_owned()),
        expires_at: None,
    };
    plan.own_addresses.iter().map(request).collect()
}

/// A number that no block was ever remembered under: nanoseconds since boot, which pins and
/// programs do not outlive. Never 0.
fn block_epoch() -> u64 {
    sys::monotonic_nanoseconds().max(1)
}

fn add(total: &mut Applied, more: Applied) {
    total.added += more.added;
    total.changed += more.changed;
    total.removed += more.removed;
}

/// A device that was renamed is known by the link that it has: taking it for gone would end what
/// is enforced on it.
fn resolve(plan: &RuleSet, wanted: Devices, pins: &Path) -> Result<Resolved, FirewallError> {
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
fn renamed(device: &str, now: &str) -> String {
    format!(
        "device `{device}` is called `{now}` now: its rules stay in force until it goes; name it \
         in the file as it is called"
    )
}

/// Devices that are up and that the firewall does not see.
fn unconfigured(resolved: &Resolved) -> Vec<String> {
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
