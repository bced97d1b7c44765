//! What the owner does with an intent. Runs in the owner's thread only.

use std::{
    collections::BTreeMap,
    fs::File,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use edge_ebpf::abi::{GENERATION_SHADOW, NO_GENERATION, SCHEMA, Settings};
use ipnet::IpNet;

use super::{
    Applied, BlockOwner, BlockRequest, BlockRow, FirewallError, Intent, OwnerOptions, StartReport,
    attach,
    blocks::{BlockSink as _, BlockTable},
    kernel::{self, Kernel},
    migrate,
    owner::{last_good, take_pins},
    plan::{self, RuleIds, RuleSet},
    shadow, shape, state, sys,
};
use crate::{
    config::{Config, Least},
    failpoint::{self, Phase},
};

mod appliance;
mod devices;
mod links;
mod lists;
mod swap;

pub(super) use self::devices::Devices;
use self::devices::{Resolved, renamed, resolve, unconfigured};

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
        report.warnings.extend(kernel::other_room(&room, asked));
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
        let gone = shape::remove_gone(&engine.options.pins);
        report.warnings.extend(gone.err().map(|fault| fault.to_string()));
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
                self.kernel.write_sources(self.settings.generation, &plan, &self.links.judged)?;
            }
            self.plan = plan;
            state::write(&self.options.state, &self.ids, &self.plan)?;
        }
        let Some(mut shadow) = self.shadow.clone() else { return Ok(()) };
        if shadow.set_partners(partners)? {
            if shadow.uses_partners() {
                self.pins_are_there()?;
                self.kernel.write_sources(GENERATION_SHADOW, &shadow, &self.links.judged)?;
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
        let rules = (&plan, self.links.judged.as_slice());
        let settings = shadow::prepare(&mut self.kernel, &self.options.pins, rules, self.settings)?;
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
