//! The compiler itself: drafts of rules, then sets and limits, then words.

use edge_ebpf::abi;
use ipnet::IpNet;

use super::{
    PlanError, PlanFlood, PlanInterface, PlanLimit, PlanLimits, PlanRule, PlanScope, RuleIds,
    RuleSet,
    drafts::{Draft, drafts},
    rows::{management_row, rows},
    services,
    sets::{Sets, source_members},
    words::Words,
};
use crate::config::{Config, Content, Firewall, Flood, Interface, Least, MediaMode, Rates, Zone};

/// Compiles a configuration with remembered rule ids; `ids` learns the new names.
///
/// The partners' addresses are not in it: [`RuleSet::set_partners`] puts them in.
pub fn compile_with(config: &Config, ids: &mut RuleIds) -> Result<RuleSet, PlanError> {
    let drafts = drafts(config)?;
    check_blocks(config)?;
    let mut names: Vec<&str> = drafts.iter().map(|draft| draft.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    ids.assign(&names)?;
    let mut sets = Sets::new(&config.management.from);
    let mut limits: Vec<PlanLimits> = Vec::new();
    let mut rules = Vec::with_capacity(drafts.len());
    let mut read = Vec::with_capacity(drafts.len());
    for draft in &drafts {
        let id = ids.get(&draft.name).ok_or(PlanError::TooManyIds { max: abi::MAX_RULE_IDS })?;
        let number = number_limits(&mut limits, draft.rates)?;
        let rule = rule(draft, id, number, &mut sets)?;
        rules.push(rule);
        read.push((id, (number > 0).then(|| plan_limits(draft.rates))));
    }
    let mut words = Words::new(config, &drafts, &rules);
    words.ports()?;
    words.protocols()?;
    let source_sets = sets.source_sets();
    let firewall = &config.firewall;
    Ok(RuleSet {
        interfaces: interfaces(&config.interfaces),
        allow_generic: firewall.allow_generic,
        flags: flags(config),
        events_per_second: firewall.events_per_second,
        event_bytes: firewall.event_bytes.min(abi::EVENT_DATA as u32),
        max_addresses: firewall.max_blocked_addresses,
        max_prefixes: firewall.max_blocked_prefixes,
        port_words: words.port_words,
        protocol_words: words.protocol_words,
        rules: words.slots,
        limits,
        flood: flood(firewall.flood),
        sources: source_members(&source_sets)?,
        source_sets,
        destinations: sets.destination_members()?,
        rows: rows(config, &drafts, &read),
        named_sets: firewall.sets.clone(),
        management: config.management.from.clone(),
        blocks: firewall.blocks.clone(),
        own_addresses: services::own_addresses(config),
    })
}

/// Nobody but administrators gets in, and what the file blocks stays blocked: for a start without
/// a good configuration. `devices`: those of the machine, for where the file may name more than
/// could be read.
pub fn deny_all(least: &Least, devices: &[String]) -> Result<RuleSet, PlanError> {
    let management = least.management.as_ref();
    let from = management.map_or(&[][..], |management| &management.from);
    let mut words = Words::of_management(management);
    words.ports()?;
    let source_sets = Sets::new(from).source_sets();
    let firewall = &least.firewall;
    let mut all = least.interfaces.clone();
    if least.more_interfaces {
        let zone = management.map_or(Zone::External, |management| management.zone);
        let named = |device: &String| least.interfaces.iter().any(|known| known.device == *device);
        all.extend(devices.iter().filter(|device| !named(device)).map(|device| Interface {
            device: device.clone(),
            vlan: None,
            zone,
            optional: true,
        }));
    }
    let blocked = firewall.blocks.iter().filter(|block| !from.iter().any(|m| overlap(block, m)));
    Ok(RuleSet {
        interfaces: interfaces(&all),
        allow_generic: firewall.allow_generic,
        flags: firewall_flags(firewall),
        events_per_second: firewall.events_per_second,
        event_bytes: firewall.event_bytes.min(abi::EVENT_DATA as u32),
        max_addresses: firewall.max_blocked_addresses,
        max_prefixes: firewall.max_blocked_prefixes,
        port_words: words.port_words,
        protocol_words: Vec::new(),
        rules: Vec::new(),
        limits: Vec::new(),
        flood: flood(firewall.flood),
        sources: source_members(&source_sets)?,
        source_sets,
        destinations: Vec::new(),
        rows: management.map(management_row).into_iter().collect(),
        named_sets: Vec::new(),
        management: from.to_vec(),
        blocks: blocked.copied().collect(),
        own_addresses: Vec::new(),
    })
}

/// The kernel's rules for a draft: one for each set its source may be in.
fn rule(draft: &Draft, id: u32, limits: u16, sets: &mut Sets) -> Result<Vec<PlanRule>, PlanError> {
    let destination_set = sets.destination(&draft.to)?;
    let rule = |source_set| PlanRule {
        id,
        source_set,
        destination_set,
        action: if draft.drop { abi::ACTION_DROP } else { abi::ACTION_PASS },
        limits,
        content: match draft.content {
            Content::Any => abi::CONTENT_ANY,
            Content::Sip => abi::CONTENT_SIP,
            Content::Stun => abi::CONTENT_STUN,
            Content::Media => abi::CONTENT_MEDIA,
        },
    };
    Ok(sets.source(&draft.from)?.into_iter().map(rule).collect())
}

/// The number of these limits, from 1; 0: none. Equal ones share a number.
fn number_limits(known: &mut Vec<PlanLimits>, rates: Rates) -> Result<u16, PlanError> {
    if rates.is_none() {
        return Ok(0);
    }
    let limits = plan_limits(rates);
    let at = known.iter().position(|other| *other == limits).unwrap_or(known.len());
    // Entry 0 of the kernel's table stays unused.
    let number = at + 1;
    if number >= abi::MAX_RATES as usize {
        return Err(PlanError::TooManyRates { max: abi::MAX_RATES - 1 });
    }
    if at == known.len() {
        known.push(limits);
    }
    Ok(number as u16)
}

fn plan_limits(rates: Rates) -> PlanLimits {
    let limit = |per_second: u64| {
        let burst = u128::from(per_second) * rates.burst.as_millis() / 1000;
        let burst = u64::try_from(burst).unwrap_or(u64::MAX);
        PlanLimit { per_second, burst: if per_second == 0 { 0 } else { burst.max(1) } }
    };
    PlanLimits {
        source: PlanScope {
            new: limit(rates.new_per_source),
            packets: limit(rates.packets_per_source),
            bytes: limit(rates.bytes_per_source),
        },
        total: PlanScope {
            new: limit(rates.new_total),
            packets: limit(rates.packets_total),
            bytes: limit(rates.bytes_total),
        },
    }
}

/// A ceiling lets a tenth of a second's packets through at once.
const CEILING_BURST: u64 = 10;

fn flood(flood: Flood) -> PlanFlood {
    let ceiling = |per_second: u64| PlanLimit {
        per_second,
        burst: if per_second == 0 { 0 } else { (per_second / CEILING_BURST).max(1) },
    };
    PlanFlood {
        syns_per_second: flood.syn_cookies_above,
        ceilings: [
            ceiling(flood.external_packets_per_second),
            ceiling(flood.internal_packets_per_second),
        ],
    }
}

fn interfaces(interfaces: &[Interface]) -> Vec<PlanInterface> {
    interfaces
        .iter()
        .zip(1..)
        .map(|(i, number)| PlanInterface {
            device: i.device.clone(),
            vlan: i.vlan,
            zone: i.zone,
            optional: i.optional,
            slot: if number < abi::INTERFACE_SLOTS { number as u8 } else { 0 },
        })
        .collect()
}

fn flags(config: &Config) -> u32 {
    let pinholes = config.media.mode == MediaMode::Pinhole;
    firewall_flags(&config.firewall) | if pinholes { abi::SETTING_PINHOLES } else { 0 }
}

fn firewall_flags(firewall: &Firewall) -> u32 {
    let flag = |on: bool, bit: u32| if on { bit } else { 0 };
    flag(firewall.monitor, abi::SETTING_MONITOR)
        | flag(firewall.lldp, abi::SETTING_LLDP)
        | flag(firewall.lacp, abi::SETTING_LACP)
        | flag(firewall.dhcp_client, abi::SETTING_DHCP_CLIENT)
        | flood(firewall.flood).flags()
}

/// The number of a zone in the kernel's tables.
pub(in crate::firewall) fn zone_number(zone: Zone) -> u8 {
    match zone {
        Zone::External => abi::ZONE_EXTERNAL,
        Zone::Internal => abi::ZONE_INTERNAL,
    }
}

pub(super) fn zone_name(zone: Zone) -> &'static str {
    match zone {
        Zone::External => "external",
        Zone::Internal => "internal",
    }
}

fn check_blocks(config: &Config) -> Result<(), PlanError> {
    for block in &config.firewall.blocks {
        for management in &config.management.from {
            if overlap(block, management) {
                return Err(PlanError::BlockedManagement {
                    block: *block,
                    management: *management,
                });
            }
        }
    }
    Ok(())
}

/// Whether two prefixes have an address in common.
pub(in crate::firewall) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
