//! The decision: what happens to one packet, generic over the tables it asks.
//!
//! Order, cheapest and likeliest drop first: headers that make no sense, the zone, what keeps
//! the link alive, management, blocked sources, rules, replies to what this appliance began,
//! DHCP, and at last the default, which is to drop. What a rule passes may still be refused for
//! its content or because there is too much of it (`finish`). What is written on the way are
//! arrival times, fragments and the memory of blocks just found; counting is the caller's.
//!
//! It must never pass a packet for a reason that is not in this folder, nor depend on anything
//! but the packet, the tables and the clock: the daemon asks the same code what it would do.

mod at_once;
mod blocked;
mod facts;
mod family;
mod finish;
mod flow;
mod fragment;
mod icmp;
mod limit;
#[cfg(not(target_arch = "bpf"))]
mod memory;
mod reply;
mod rules;
mod tables;
#[cfg(test)]
mod tests;

pub use at_once::{Done, at_once, plain_answer, plain_flow};
use blocked::block_reason;
pub use blocked::blocked;
use facts::{ASK, ASK_DATAGRAM, without_rule};
pub use facts::{Asked, Decision, Found, Judged, NO_RULE, Packed, Place};
pub use family::Family;
pub use finish::{BucketName, in_flood, questions};
pub use flow::flow_of;
pub use fragment::{follow, later};
pub use limit::conforms;
#[cfg(not(target_arch = "bpf"))]
pub use memory::{Generation, MemoryTables, Prefixes};
pub use reply::{flow_begun, refresh_flow};
pub use rules::{Walk, rule, rules};
pub use tables::{Tables, Tuple};

use crate::{
    abi::{
        CONTENT_ANY, Interface, NO_GENERATION, SCHEMA, SETTING_BLOCKS, SETTING_DHCP_CLIENT,
        SETTING_LACP, SETTING_LLDP, SETTING_MONITOR, SETTING_PINHOLES, SOURCE_SET_MANAGEMENT,
        Settings, VlanKey, WORD_MANAGEMENT, WORD_MEDIA, WORD_OPEN, ZONE_NONE, ZONES, port_index,
        protocol_index, word_count, word_open_rule,
    },
    packet::{self, Environment, Frame, Handler, Ip, Kind, Link, Piece, Transport},
    verdict::{Reason, Verdict},
};

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
    let judged = match packet::parse(frame, environment, judge) {
        Ok(judged) => judged,
        Err(reason) => Judged::new(without_rule(reason), Place { zone: ZONE_NONE, slot }),
    };
    let (reason, rule, place) =
        (judged.reason(tables, settings, frame), judged.found.rule, judged.place);
    let verdict = in_force(settings, reason);
    Decision { verdict, reason, rule, zone: place.zone, slot: place.slot }
}

/// What is done for a reason: in monitor mode nothing is dropped and nothing answered, but media
/// flows, which calls depend on, are forwarded all the same.
#[inline(always)]
pub fn in_force(settings: &Settings, reason: Reason) -> Verdict {
    match reason.verdict() {
        Verdict::Drop | Verdict::Answer if settings.flags & SETTING_MONITOR != 0 => Verdict::Pass,
        verdict => verdict,
    }
}

/// Judges packets whose headers are sound.
struct Judge<'t, T> {
    tables: &'t T,
    settings: &'t Settings,
    ifindex: u32,
    device: Option<Interface>,
}

impl<T: Tables> Judge<'_, T> {
    /// Where the packet came in, or what is said of a packet that came in by no zone.
    #[inline(always)]
    fn place(&self, link: &Link) -> Result<Place, Judged> {
        match self.interface(link) {
            Ok(interface) => {
                Ok(Place { zone: interface.zone_plus_one.wrapping_sub(1), slot: interface.slot })
            }
            Err(reason) => {
                let slot = match self.device {
                    Some(device) => device.slot,
                    None => 0,
                };
                Err(Judged::new(without_rule(reason), Place { zone: ZONE_NONE, slot }))
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
    type Output = Judged;

    #[inline(always)]
    fn link(self, link: &Link) -> Self::Output {
        let place = match self.place(link) {
            Ok(place) => place,
            Err(judged) => return judged,
        };
        let flags = self.settings.flags;
        let reason = match link.ether_type {
            packet::ETHER_TYPE_ARP => Reason::Arp,
            packet::ETHER_TYPE_LLDP if flags & SETTING_LLDP != 0 => Reason::LinkControl,
            packet::ETHER_TYPE_SLOW_PROTOCOLS if flags & SETTING_LACP != 0 => Reason::LinkControl,
            _ => Reason::EtherType,
        };
        Judged::new(without_rule(reason), place)
    }

    #[inline(always)]
    fn ipv4(self, link: &Link, ip: &Ip<'_, [u8; 4]>) -> Self::Output {
        match self.place(link) {
            Ok(place) => {
                let found = decided(self.tables, self.settings, place.zone, link, ip);
                Judged::about(found, place, link, ip)
            }
            Err(judged) => judged,
        }
    }

    #[inline(always)]
    fn ipv6(self, link: &Link, ip: &Ip<'_, [u8; 16]>) -> Self::Output {
        match self.place(link) {
            Ok(place) => match icmp::local_link(ip) {
                Some(reason) => Judged::new(without_rule(reason), place),
                None => {
                    let found = decided(self.tables, self.settings, place.zone, link, ip);
                    Judged::about(found, place, link, ip)
                }
            },
            Err(judged) => judged,
        }
    }

    #[inline(always)]
    fn piece4(self, link: &Link, piece: &Piece<[u8; 4]>) -> Self::Output {
        match self.place(link) {
            Ok(place) => {
                Judged::new(self.tables.later4(self.settings, place.zone, link, piece), place)
            }
            Err(judged) => judged,
        }
    }

    #[inline(always)]
    fn piece6(self, link: &Link, piece: &Piece<[u8; 16]>) -> Self::Output {
        match self.place(link) {
            Ok(place) => {
                Judged::new(self.tables.later6(self.settings, place.zone, link, piece), place)
            }
            Err(judged) => judged,
        }
    }
}

/// Judges an IP packet in its zone: management, blocks and rules, then what answers us.
#[inline(always)]
fn decided<T: Tables, A: Family>(
    tables: &T,
    settings: &Settings,
    zone: u8,
    link: &Link,
    ip: &Ip<'_, A>,
) -> Found {
    let facts = Packed::new(ip, zone);
    let mut found = A::decide(tables, settings, link, facts, ip.source);
    if found.content & ASK != 0 {
        let asked = Asked::new(&found, zone, flow::has_pinholes(settings));
        found = A::walk(tables, settings, (link, asked), found.rule, ip.source, ip.destination);
    }
    let may_answer = matches!(
        found.reason,
        Reason::NoRule
            | Reason::SourceNotAllowed
            | Reason::DestinationNotAllowed
            | Reason::NotPartner
            | Reason::IcmpUnsolicited
    );
    if !may_answer {
        return found;
    }
    match A::replies(tables, settings, link, zone, ip) {
        Some(reason) => without_rule(reason),
        None => found,
    }
}

/// Management and blocks, and what the port's word says by itself. Of ICMP that answers something it
/// says "unsolicited", until [`replies`] has looked.
#[inline(always)]
pub fn decide<T: Tables, A: Family>(
    tables: &T,
    settings: &Settings,
    facts: Packed,
    source: A,
) -> Found {
    let generation = tables.generation(settings);
    if settings.schema != SCHEMA || generation >= NO_GENERATION {
        return without_rule(Reason::NoRuleSet);
    }
    let transport = facts.transport();
    let word = word_of(tables, generation, facts, &transport);
    if word & WORD_MANAGEMENT != 0
        && source.sources(tables, generation).contains(SOURCE_SET_MANAGEMENT)
    {
        return without_rule(Reason::Management);
    }
    if settings.flags & SETTING_BLOCKS != 0
        && let present = source.may_be_blocked(tables, settings.flags)
        && present != 0
        && let Some(reason) = A::is_blocked(source, tables, settings, (word, present))
    {
        return without_rule(reason);
    }
    // Of ICMP, only what asks for something is a matter of rules.
    if transport.kind == Kind::Icmp && transport.detail != A::ECHO.1 {
        return without_rule(Reason::IcmpUnsolicited);
    }
    // A datagram may be for an endpoint behind us, whatever rules its port has here.
    if word & (WORD_OPEN | WORD_MEDIA) == WORD_OPEN
        && (settings.flags & SETTING_PINHOLES == 0 || !facts.is_datagram())
    {
        return opened(word & 0xffff);
    }
    let content = if facts.is_datagram() { ASK | ASK_DATAGRAM } else { ASK };
    Found { reason: Reason::NoRule, rule: word, limits: transport.destination_port, content }
}

/// A rule opens the port to everybody.
const fn opened(rule: u32) -> Found {
    Found { reason: Reason::Rule, rule, limits: 0, content: CONTENT_ANY }
}

/// What [`decide`] leaves to be asked: the media flows where there may be one, by `find`
/// ([`flow_of`]), then the rules of the word for these `ends`, source and destination.
#[inline(always)]
pub fn walk<T: Tables, A: Family>(
    tables: &T,
    settings: &Settings,
    asked: Asked,
    word: u32,
    find: impl FnOnce() -> u32,
    ends: impl FnOnce() -> Option<(A, A)>,
) -> Found {
    if asked.datagram() && flow::doors(asked.pinholes(), word) != 0 {
        let slot = find();
        if slot != 0 {
            return Found { rule: slot, ..without_rule(Reason::MediaRelayed) };
        }
    }
    if let Some(rule) = word_open_rule(word) {
        return opened(rule);
    }
    if word_count(word) > 0
        && let Some((source, destination)) = ends()
    {
        return A::rules(tables, tables.generation(settings), word, source, destination);
    }
    without_rule(Reason::NoRule)
}

/// What no rule lets in passes when it answers something of ours. Of ICMP's answers there is
/// always a reason.
#[inline(always)]
pub fn replies<T: Tables, A: Family>(
    tables: &T,
    settings: &Settings,
    ip: &Ip<'_, A>,
) -> Option<Reason> {
    if ip.transport.kind == Kind::Icmp {
        return (ip.transport.detail != A::ECHO.1).then(|| icmp::answer(tables, ip));
    }
    let dhcp = || settings.flags & SETTING_DHCP_CLIENT != 0 && reply::is_dhcp_answer(ip);
    reply::reply(tables, ip).or_else(|| dhcp().then_some(Reason::Dhcp))
}

/// The word of the packet's port or protocol.
#[inline(always)]
fn word_of<T: Tables>(tables: &T, generation: u32, facts: Packed, transport: &Transport) -> u32 {
    let udp = match transport.kind {
        Kind::Tcp => false,
        Kind::Udp => true,
        Kind::Icmp | Kind::Other => {
            let index = protocol_index(facts.zone(), facts.protocol());
            return tables.protocol_word(generation, index);
        }
    };
    tables.port_word(generation, port_index(facts.zone(), udp, transport.destination_port))
}
