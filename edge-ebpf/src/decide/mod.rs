//! The decision: what happens to one packet, generic over the tables it asks.
//!
//! Order, cheapest and likeliest drop first: headers that make no sense, the zone, what keeps
//! the link alive, management, blocked sources, rules, replies to what this appliance began,
//! DHCP, and at last the default, which is to drop. It only reads, but for the memory of blocks
//! just found, which changes no answer: counting is the caller's.
//!
//! It must never pass a packet for a reason that is not in this file, nor depend on anything
//! but the packet, the tables and the clock: the daemon asks the same code what it would do.

mod icmp;
#[cfg(not(target_arch = "bpf"))]
mod memory;
mod reply;
mod tables;
#[cfg(test)]
mod tests;

#[cfg(not(target_arch = "bpf"))]
pub use memory::{Generation, MemoryTables, Prefixes};
pub use reply::{flow_begun, refresh_flow};
pub use tables::{Family, Tables, Tuple};

use crate::{
    abi::{
        ACTION_PASS, Block, Interface, MAX_RULES_PER_WORD, NO_GENERATION, NOT_BLOCKED, SCHEMA,
        SCOPE_FEDERATION, SCOPE_NONE, SET_ANY, SETTING_BLOCKS, SETTING_DHCP_CLIENT, SETTING_LACP,
        SETTING_LLDP, SETTING_MONITOR, SOURCE_SET_MANAGEMENT, SOURCE_SET_PARTNERS, SetMask,
        Settings, VlanKey, WORD_FEDERATION, WORD_MANAGEMENT, ZONE_NONE, ZONES, port_index,
        protocol_index, word_count, word_first, word_open_rule,
    },
    packet::{self, Environment, Frame, Handler, Ip, Kind, Link},
    verdict::{Reason, Verdict},
};

/// No rule decided.
pub const NO_RULE: u32 = u32::MAX;

/// What happens to a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Pass or drop; in monitor mode always pass.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Id of the rule that decided, or [`NO_RULE`].
    pub rule: u32,
    /// Zone of the packet, or [`ZONE_NONE`] when it was dropped before that was known.
    pub zone: u8,
    /// Slot of the interface in the counters, or 0 when it was dropped before that was known.
    pub slot: u8,
}

/// A reason, and the id of the rule it came from or [`NO_RULE`].
pub type Outcome = (Reason, u32);

const fn without_rule(reason: Reason) -> Outcome {
    (reason, NO_RULE)
}

/// Judges one frame that came in on `ifindex`.
#[inline(always)]
pub fn judge<T: Tables>(
    tables: &T,
    settings: &Settings,
    frame: &Frame<'_>,
    environment: &impl Environment,
    ifindex: u32,
) -> Decision {
    let device = tables.interface(ifindex);
    let slot = match device {
        Some(device) => device.slot,
        None => 0,
    };
    let judge = Judge { tables, settings, ifindex, device };
    let ((reason, rule), place) = match packet::parse(frame, environment, judge) {
        Ok(found) => found,
        Err(reason) => (without_rule(reason), Place { zone: ZONE_NONE, slot }),
    };
    let monitored = settings.flags & SETTING_MONITOR != 0;
    let verdict = if monitored { Verdict::Pass } else { reason.verdict() };
    Decision { verdict, reason, rule, zone: place.zone, slot: place.slot }
}

/// Where a packet came in.
#[derive(Clone, Copy)]
struct Place {
    zone: u8,
    slot: u8,
}

/// Judges packets whose headers are sound.
struct Judge<'t, T> {
    tables: &'t T,
    settings: &'t Settings,
    ifindex: u32,
    device: Option<Interface>,
}

impl<T: Tables> Judge<'_, T> {
    #[inline(always)]
    fn in_zone(&self, link: &Link, decide: impl FnOnce(u8) -> Outcome) -> (Outcome, Place) {
        let slot = match self.device {
            Some(device) => device.slot,
            None => 0,
        };
        match self.interface(link) {
            Err(reason) => (without_rule(reason), Place { zone: ZONE_NONE, slot }),
            Ok(interface) => {
                let zone = interface.zone_plus_one.wrapping_sub(1);
                (decide(zone), Place { zone, slot: interface.slot })
            }
        }
    }

    /// The interface, or the VLAN of a trunk; it belongs to a zone.
    #[inline(always)]
    fn interface(&self, link: &Link) -> Result<Interface, Reason> {
        let device = self.device.ok_or(Reason::InterfaceUnknown)?;
        let (interface, unknown) = if link.outer == 0 {
            (device, Reason::InterfaceUnknown)
        } else if device.trunk != 0 {
            let key = VlanKey { ifindex: self.ifindex, outer: link.outer, inner: link.inner };
            (self.tables.vlan(&key).ok_or(Reason::VlanUnknown)?, Reason::VlanUnknown)
        } else {
            return Err(Reason::VlanUnknown);
        };
        let zone = interface.zone_plus_one.wrapping_sub(1);
        if u32::from(zone) < ZONES { Ok(interface) } else { Err(unknown) }
    }
}

impl<T: Tables> Handler for Judge<'_, T> {
    type Output = (Outcome, Place);

    #[inline(always)]
    fn link(self, link: &Link) -> Self::Output {
        let flags = self.settings.flags;
        self.in_zone(link, |_zone| {
            without_rule(match link.ether_type {
                packet::ETHER_TYPE_ARP => Reason::Arp,
                packet::ETHER_TYPE_LLDP if flags & SETTING_LLDP != 0 => Reason::LinkControl,
                packet::ETHER_TYPE_SLOW_PROTOCOLS if flags & SETTING_LACP != 0 => {
                    Reason::LinkControl
                }
                _ => Reason::EtherType,
            })
        })
    }

    #[inline(always)]
    fn ipv4(self, link: &Link, ip: &Ip<'_, [u8; 4]>) -> Self::Output {
        self.in_zone(link, |zone| decide(self.tables, self.settings, zone, ip))
    }

    #[inline(always)]
    fn ipv6(self, link: &Link, ip: &Ip<'_, [u8; 16]>) -> Self::Output {
        self.in_zone(link, |zone| match icmp::local_link(ip) {
            Some(reason) => without_rule(reason),
            None => decide(self.tables, self.settings, zone, ip),
        })
    }
}

/// Judges an IP packet in its zone.
#[inline(always)]
pub fn decide<T: Tables, A: Family>(
    tables: &T,
    settings: &Settings,
    zone: u8,
    ip: &Ip<'_, A>,
) -> Outcome {
    let generation = settings.generation_now();
    if settings.schema != SCHEMA || generation >= NO_GENERATION {
        return without_rule(Reason::NoRuleSet);
    }
    let word = word_of(tables, generation, zone, ip);
    if word & WORD_MANAGEMENT != 0
        && ip.source.sources(tables, generation).contains(SOURCE_SET_MANAGEMENT)
    {
        return without_rule(Reason::Management);
    }
    if settings.flags & SETTING_BLOCKS != 0
        && ip.source.may_be_blocked(tables, settings.flags)
        && let Some(reason) = blocked(tables, ip, word, settings)
    {
        return without_rule(reason);
    }
    // Of ICMP, only what asks for something is a matter of rules.
    if ip.transport.kind == Kind::Icmp && ip.transport.detail != A::ECHO.1 {
        return without_rule(icmp::answer(tables, ip));
    }
    let (reason, rule) = if word == 0 {
        without_rule(Reason::NoRule)
    } else if let Some(rule) = word_open_rule(word) {
        (Reason::Rule, rule)
    } else {
        A::rules(tables, generation, word, ip.source, ip.destination)
    };
    if matches!(reason, Reason::Rule | Reason::RuleDrop) {
        return (reason, rule);
    }
    match reply::reply(tables, ip) {
        Some(reply) => without_rule(reply),
        None if settings.flags & SETTING_DHCP_CLIENT != 0 && reply::is_dhcp_answer(ip) => {
            without_rule(Reason::Dhcp)
        }
        None => without_rule(reason),
    }
}

/// The word of the packet's port or protocol.
#[inline(always)]
fn word_of<T: Tables, A: Family>(tables: &T, generation: u32, zone: u8, ip: &Ip<'_, A>) -> u32 {
    let udp = match ip.transport.kind {
        Kind::Tcp => false,
        Kind::Udp => true,
        Kind::Icmp | Kind::Other => {
            return tables.protocol_word(generation, protocol_index(zone, ip.protocol));
        }
    };
    tables.port_word(generation, port_index(zone, udp, ip.transport.destination_port))
}

/// Whether the source is blocked for what it asks for: exact entry first, then prefix.
///
/// What is found is remembered, and asked first: the exact entry, or the prefix when there is no
/// exact entry, so that what is remembered is always what would be found first; or that there
/// is neither.
#[inline(always)]
fn blocked<T: Tables, A: Family>(
    tables: &T,
    ip: &Ip<'_, A>,
    word: u32,
    settings: &Settings,
) -> Option<Reason> {
    let epoch = settings.block_epoch;
    let in_force = |block: Block| {
        if !block.in_version(settings.block_version) {
            return None;
        }
        if block.scope == SCOPE_FEDERATION && word & WORD_FEDERATION == 0 {
            return None;
        }
        if block.expires_at_seconds != 0
            && tables.now_seconds() >= u64::from(block.expires_at_seconds)
        {
            return None;
        }
        let domain = block.reason == Reason::BlockedDomain as u8;
        Some(if domain { Reason::BlockedDomain } else { Reason::BlockedAddress })
    };
    let source = ip.source;
    if epoch != 0
        && let Some(block) = source.remembered_block(tables, epoch)
    {
        if block.scope == SCOPE_NONE {
            return None;
        }
        if let Some(reason) = in_force(block) {
            return Some(reason);
        }
    }
    let exact = source.blocked(tables);
    if let Some(block) = exact
        && let Some(reason) = in_force(block)
    {
        if epoch != 0 {
            source.remember_block(tables, epoch, block);
        }
        return Some(reason);
    }
    let prefix = source.blocked_prefix(tables);
    let reason = prefix.and_then(in_force);
    // A block that is not in force for this packet is not remembered: it may be for the next.
    if epoch != 0 && exact.is_none() && (reason.is_some() || prefix.is_none()) {
        source.remember_block(tables, epoch, prefix.unwrap_or(NOT_BLOCKED));
    }
    reason
}

/// The first rule of the word that the packet satisfies decides. When none does, the reason
/// says how near it came.
#[inline(always)]
pub fn rules<T: Tables, A: Family>(
    tables: &T,
    generation: u32,
    word: u32,
    source: A,
    destination: A,
) -> Outcome {
    let mut walk = Walk {
        source,
        destination,
        generation,
        word,
        nearest: Reason::NoRule as u32,
        known: 0,
        sources: SetMask::default(),
        destinations: SetMask::default(),
    };
    // Where the rules end is told by `rule`: a loop with an end that the verifier does not know
    // is proved turn by turn, or not at all.
    for position in 0..MAX_RULES_PER_WORD {
        if let Some(found) = A::rule(tables, &mut walk, position) {
            return found;
        }
    }
    walk.nearest()
}

/// A walk over the rules of a word: what is asked for, and what was learned on the way.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk<A> {
    source: A,
    destination: A,
    generation: u32,
    word: u32,
    /// The reason that says how near it came.
    nearest: u32,
    /// `KNOWN_*`: which of the two masks were looked up.
    known: u32,
    sources: SetMask,
    destinations: SetMask,
}

const KNOWN_SOURCES: u32 = 1;
const KNOWN_DESTINATIONS: u32 = 2;

impl<A> Walk<A> {
    /// What is found when no rule was satisfied.
    #[inline(always)]
    fn nearest(&self) -> Outcome {
        const DESTINATION: u32 = Reason::DestinationNotAllowed as u32;
        const SOURCE: u32 = Reason::SourceNotAllowed as u32;
        const PARTNER: u32 = Reason::NotPartner as u32;
        without_rule(match self.nearest {
            DESTINATION => Reason::DestinationNotAllowed,
            SOURCE => Reason::SourceNotAllowed,
            PARTNER => Reason::NotPartner,
            _ => Reason::NoRule,
        })
    }
}

/// One rule of a walk: what is found when the packet satisfies it or there is no further rule,
/// else `None`, with what was learned in `walk`. The kernel program calls it as a function that the verifier proves once:
/// in a loop, its ways would multiply with every turn.
#[inline(always)]
pub fn rule<T: Tables, A: Family>(
    tables: &T,
    walk: &mut Walk<A>,
    position: u32,
) -> Option<Outcome> {
    if position >= word_count(walk.word) {
        return Some(walk.nearest());
    }
    let Some(rule) = tables.rule(walk.generation, word_first(walk.word) + position) else {
        return Some(walk.nearest());
    };
    if rule.destination_set != SET_ANY && !walk.destination.is_named(&rule) {
        if walk.known & KNOWN_DESTINATIONS == 0 {
            walk.destinations = tables.destinations(walk.generation, &walk.destination.mapped());
            walk.known |= KNOWN_DESTINATIONS;
        }
        if !walk.destinations.contains(rule.destination_set) {
            if walk.nearest == Reason::NoRule as u32 {
                walk.nearest = Reason::DestinationNotAllowed as u32;
            }
            return None;
        }
    }
    if rule.source_set != SET_ANY {
        if walk.known & KNOWN_SOURCES == 0 {
            walk.sources = walk.source.sources(tables, walk.generation);
            walk.known |= KNOWN_SOURCES;
        }
        if !walk.sources.contains(rule.source_set) {
            let partners = rule.source_set == SOURCE_SET_PARTNERS;
            let near = if partners { Reason::NotPartner } else { Reason::SourceNotAllowed };
            walk.nearest = near as u32;
            return None;
        }
    }
    let passes = rule.action == ACTION_PASS;
    Some((if passes { Reason::Rule } else { Reason::RuleDrop }, rule.id))
}
