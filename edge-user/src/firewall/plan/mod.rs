//! From a configuration to what the kernel needs. Pure: no kernel, no clock, no file.
//!
//! Services imply their rules (`access`, `inside`, `av`, `av-inside` and so on); an administrator's rules come before them,
//! in the order of the file, and the first that matches decides. A port's word names a run of
//! rules; a source or destination is a member of numbered sets, which a rule asks for.

use std::net::IpAddr;

use edge_ebpf::abi::{
    Limit, Limits, MAX_SETS, RULE_DESTINATION4, RULE_DESTINATION6, Rule, RuleLimits,
    SETTING_CEILING, SETTING_FLOOD, SOURCE_SET_MANAGEMENT, SOURCE_SET_PARTNERS, word4, words6,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{Config, NamedSet, Service, Zone};

mod compile;
mod drafts;
mod ids;
mod outer;
mod rows;
mod services;
mod sets;
mod words;

pub use compile::{compile_with, deny_all};
pub(super) use compile::{overlap, zone_number};
pub use ids::RuleIds;
pub use outer::{AvStyle, Direction, End, OuterRow, outer};
pub use rows::{RuleOrigin, RuleRow};

/// Name of the rule that the access service implies.
pub const RULE_ACCESS: &str = "access";
/// Name of the rule that the internal listeners imply.
pub const RULE_INSIDE: &str = "inside";
/// Name of the row that stands for the management ports. It has no rule id.
pub const ROW_MANAGEMENT: &str = "management";

/// Whether a rule of this name belongs to management or a service, configured or not.
pub fn is_implied(name: &str) -> bool {
    let service = name.strip_suffix("-inside").unwrap_or(name);
    name == ROW_MANAGEMENT || Service::from_name(service).is_some()
}

/// Everything the kernel needs to know, and how people read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSet {
    /// Devices and VLANs with their zones.
    pub interfaces: Vec<PlanInterface>,
    /// Accept generic mode.
    pub allow_generic: bool,
    /// `SETTING_*` bits that the configuration sets.
    pub flags: u32,
    /// Sampled events per second, CPU and reason.
    pub events_per_second: u32,
    /// Bytes of a frame that an event takes along.
    pub event_bytes: u32,
    /// Room for single addresses, each family.
    pub max_addresses: u32,
    /// Room for prefixes, each family.
    pub max_prefixes: u32,
    /// Runs of equal port words: first index, last index, word.
    pub port_words: Vec<(u32, u32, u32)>,
    /// Protocol words: index, word.
    pub protocol_words: Vec<(u32, u32)>,
    /// Rules, as words name them.
    pub rules: Vec<PlanRule>,
    /// Limits of rules; [`PlanRule::limits`] counts from 1.
    pub limits: Vec<PlanLimits>,
    /// What is done in a flood.
    pub flood: PlanFlood,
    /// Source prefixes and the sets they are in, covering prefixes' sets included.
    pub sources: Vec<(IpNet, u64)>,
    /// The sets of sources by number, without covering prefixes; [`SOURCE_SET_PARTNERS`] among
    /// them.
    pub source_sets: Vec<Vec<IpNet>>,
    /// Our own addresses and the sets they are in.
    pub destinations: Vec<(IpAddr, u64)>,
    /// The rules as people read them.
    pub rows: Vec<RuleRow>,
    /// `[[firewall.set]]`, for explanations.
    pub named_sets: Vec<NamedSet>,
    /// Management prefixes; no block may touch them.
    pub management: Vec<IpNet>,
    /// Blocks of the file.
    pub blocks: Vec<IpNet>,
    /// Addresses of our services: a packet that claims to come from one is forged.
    pub own_addresses: Vec<IpAddr>,
}

impl RuleSet {
    /// The partners' addresses.
    pub fn partners(&self) -> &[IpNet] {
        self.source_sets.get(usize::from(SOURCE_SET_PARTNERS)).map_or(&[], Vec::as_slice)
    }

    /// Whether any rule asks for the partners' addresses.
    pub fn uses_partners(&self) -> bool {
        self.rows.iter().any(|row| row.partners)
    }

    /// Makes these the partners' addresses. Says whether they were others before; nothing is
    /// changed when they do not fit.
    pub fn set_partners(&mut self, partners: &[IpNet]) -> Result<bool, PlanError> {
        let mut wanted: Vec<IpNet> = partners.iter().map(IpNet::trunc).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut sets = self.source_sets.clone();
        let Some(set) = sets.get_mut(usize::from(SOURCE_SET_PARTNERS)) else { return Ok(false) };
        if *set == wanted {
            return Ok(false);
        }
        *set = wanted;
        self.sources = sets::source_members(&sets)?;
        self.source_sets = sets;
        Ok(true)
    }

    /// Of our own addresses those inside the management prefixes, each with the other sets it is in:
    /// nobody administers this appliance from itself by way of a device, so whoever comes from one is
    /// no administrator.
    pub(super) fn own_without_management(&self, own: &[IpAddr]) -> Vec<(IpNet, u64)> {
        const MANAGEMENT: u64 = 1 << SOURCE_SET_MANAGEMENT;
        let sets = |address: &IpAddr| {
            let around = self.sources.iter().filter(|(prefix, _)| prefix.contains(address));
            around.max_by_key(|(prefix, _)| prefix.prefix_len()).map_or(0, |(_, sets)| *sets)
        };
        let own = own.iter().map(|address| (IpNet::from(*address), sets(address)));
        let managing = own.filter(|(_, sets)| sets & MANAGEMENT != 0);
        managing.map(|(address, sets)| (address, sets & !MANAGEMENT)).collect()
    }

    /// Whether the rule with this id has limits.
    pub(super) fn is_limited(&self, rule: u32) -> bool {
        self.rules.iter().any(|slot| slot.id == rule && slot.limits != 0)
    }

    /// A rule in the kernel's form: with the first address of its destination set in each family,
    /// so that the kernel need not ask the set about it.
    pub(super) fn kernel_rule(&self, rule: &PlanRule) -> Rule {
        let mut kernel = Rule {
            id: rule.id,
            source_set: rule.source_set,
            destination_set: rule.destination_set,
            action: rule.action,
            limits: rule.limits,
            content: rule.content,
            ..Rule::default()
        };
        if rule.destination_set >= MAX_SETS {
            return kernel;
        }
        let in_set = |mask: u64| mask >> rule.destination_set & 1 != 0;
        for (address, _) in self.destinations.iter().filter(|(_, mask)| in_set(*mask)) {
            match address {
                IpAddr::V4(address) if kernel.flags & RULE_DESTINATION4 == 0 => {
                    kernel.flags |= RULE_DESTINATION4;
                    kernel.destination4 = word4(address.octets());
                }
                IpAddr::V6(address) if kernel.flags & RULE_DESTINATION6 == 0 => {
                    kernel.flags |= RULE_DESTINATION6;
                    kernel.destination6 = words6(address.octets());
                }
                _ => {}
            }
        }
        kernel
    }
}

/// A device, or a VLAN of one, and its zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanInterface {
    /// Name of the device.
    pub device: String,
    /// VLAN id; `None`: untagged frames.
    pub vlan: Option<u16>,
    /// Zone.
    pub zone: Zone,
    /// It may be missing: it is taken when it comes.
    #[serde(default)]
    pub optional: bool,
    /// Slot of its counters, 1 to 31; 0 when there are no more.
    pub slot: u8,
}

/// A limit: units a second, and a burst of units on top. No units a second: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanLimit {
    /// Units a second.
    pub per_second: u64,
    /// Units at once.
    pub burst: u64,
}

impl PlanLimit {
    /// In the kernel's form.
    pub(super) fn kernel(self) -> Limit {
        Limit::new(self.per_second, self.burst)
    }
}

/// Limits on new connections, packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanScope {
    /// New TCP connections.
    pub new: PlanLimit,
    /// Packets.
    pub packets: PlanLimit,
    /// Bytes of frames.
    pub bytes: PlanLimit,
}

impl PlanScope {
    fn kernel(self) -> Limits {
        Limits {
            new: self.new.kernel(),
            packets: self.packets.kernel(),
            bytes: self.bytes.kernel(),
        }
    }
}

/// The limits of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanLimits {
    /// For each source (IPv6: each /64).
    pub source: PlanScope,
    /// For all sources together.
    pub total: PlanScope,
}

impl PlanLimits {
    /// In the kernel's form.
    pub(super) fn kernel(self) -> RuleLimits {
        RuleLimits { source: self.source.kernel(), total: self.total.kernel() }
    }
}

/// What is done in a flood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanFlood {
    /// New connections a second beyond which SYNs are answered with cookies; 0: never.
    pub syns_per_second: u32,
    /// Packets a second that may reach the stack: external, internal.
    pub ceilings: [PlanLimit; 2],
}

impl PlanFlood {
    /// `SETTING_*` bits that this asks for.
    pub(super) fn flags(self) -> u32 {
        let cookies = if self.syns_per_second > 0 { SETTING_FLOOD } else { 0 };
        let ceilings = self.ceilings.iter().any(|limit| limit.per_second > 0);
        cookies | if ceilings { SETTING_CEILING } else { 0 }
    }
}

/// A rule as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanRule {
    /// Stable id.
    pub id: u32,
    /// Source set, or `SET_ANY`.
    pub source_set: u8,
    /// Destination set, or `SET_ANY`.
    pub destination_set: u8,
    /// `ACTION_*`.
    pub action: u8,
    /// Number in [`RuleSet::limits`], counted from 1; 0: none.
    pub limits: u16,
    /// `CONTENT_*`.
    pub content: u8,
}

/// Why a configuration does not fit the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More rule slots than the table holds.
    #[error(
        "the rules need {needed} slots, the kernel's table has {max}: use fewer rules, or let their port ranges overlap less"
    )]
    TooManyRules {
        /// Needed.
        needed: usize,
        /// There are.
        max: u32,
    },
    /// Too many rules for one port.
    #[error("{count} rules name {what} in the {zone} zone, at most {max} may: merge their sources")]
    TooManyRulesForPort {
        /// `tcp port 5061`.
        what: String,
        /// `external` or `internal`.
        zone: &'static str,
        /// How many.
        count: usize,
        /// How many may.
        max: u32,
    },
    /// Too many different sets.
    #[error(
        "the rules name more than {max} different sets of {what}: use the same lists in several rules"
    )]
    TooManySets {
        /// `sources` or `destinations`.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// More prefixes or addresses than the table holds.
    #[error("the rules name {count} {what}, at most {max} fit: use shorter prefixes")]
    TooManyMembers {
        /// `source prefixes` or `addresses`.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many fit.
        max: u32,
    },
    /// No free rule id.
    #[error("more than {max} rules: use fewer")]
    TooManyIds {
        /// How many there may be.
        max: u32,
    },
    /// More different limits than the table holds.
    #[error(
        "the rules name more than {max} different sets of rates: use the same rates and bursts in several rules"
    )]
    TooManyRates {
        /// How many there may be.
        max: u32,
    },
    /// A name twice.
    #[error(
        "two rules are named `{name}`: names are unique, and `management` and the services' names are taken"
    )]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// Ports and protocol do not fit.
    #[error("rule `{name}`: {fault}")]
    Rule {
        /// The rule.
        name: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// A block of the file would lock administrators out.
    #[error("[[firewall.block]] {block} overlaps the management prefix {management}: take it out")]
    BlockedManagement {
        /// The block.
        block: IpNet,
        /// What it overlaps.
        management: IpNet,
    },
}

/// Compiles a configuration with rule ids of its own (for `edge check` and `edge plan ports`;
/// the running firewall uses [`compile_with`] and the ids it remembers).
pub fn compile(config: &Config) -> Result<RuleSet, PlanError> {
    compile_with(config, &mut RuleIds::default())
}

#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod tests;
