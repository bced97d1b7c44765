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
mod finish;
mod flow;
mod fragment;
mod icmp;
mod limit;
#[cfg(not(target_arch = "bpf"))]
mod memory;
mod reply;
mod tables;
#[cfg(test)]
mod tests;

pub use at_once::{Done, at_once, plain_answer, plain_flow};
pub use finish::{BucketName, in_flood, questions};
pub use flow::flow_of;
pub use fragment::{follow, later};
pub use limit::conforms;
#[cfg(not(target_arch = "bpf"))]
pub use memory::{Generation, MemoryTables, Prefixes};
pub use reply::{flow_begun, refresh_flow};
pub use tables::{Family, Tables, Tuple};

use crate::{
    abi::{
        ACTION_PASS, AT_ONCE_NO, AT_ONCE_UNKNOWN, AT_ONCE_YES, Block, CONTENT_ANY, Interface,
        MAX_RULES_PER_WORD, NO_GENERATION, NOT_BLOCKED, PRESENT_ADDRESSES, PRESENT_PREFIXES,
        SCHEMA, SCOPE_ALL, SCOPE_FEDERATION, SCOPE_NONE, SET_ANY, SETTING_BLOCKS,
        SETTING_DHCP_CLIENT, SETTING_LACP, SETTING_LLDP, SETTING_MONITOR, SETTING_PINHOLES,
        SOURCE_SET_MANAGEMENT, SOURCE_SET_PARTNERS, SetMask, Settings, VlanKey, WORD_FEDERATION,
        WORD_MANAGEMENT, WORD_MEDIA, WORD_OPEN, ZONE_NONE, ZONES, port_index, protocol_index,
        word_count, word_first, word_open_rule,
    },
    packet::{self, Environment, Frame, Handler, Ip, Kind, Link, Piece, Transport},
    verdict::{Reason, Verdict},
};

/// No rule decided.
pub const NO_RULE: u32 = u32::MAX;

/// What happens to a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens; in monitor mode never drop.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Id of the rule that decided, or [`NO_RULE`]; of [`Reason::MediaRelayed`] the flow's slot.
    pub rule: u32,
    /// Zone of the packet, or [`ZONE_NONE`] when it was dropped before that was known.
    pub zone: u8,
    /// Slot of the interface in the counters, or 0 when it was dropped before that was known.
    pub slot: u8,
}

/// What was found for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Why it is passed or dropped.
    pub reason: Reason,
    /// Id of the rule, or [`NO_RULE`]; of a media flow its slot.
    pub rule: u32,
    /// The rule's limits, see [`crate::abi::Rule::limits`].
    pub limits: u16,
    /// What the payload must look like, see [`crate::abi::Rule::content`].
    pub content: u8,
}

const fn without_rule(reason: Reason) -> Found {
    Found { reason, rule: NO_RULE, limits: 0, content: CONTENT_ANY }
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

/// Where a packet came in.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Zone.
    pub zone: u8,
    /// Slot of the interface in the counters.
    pub slot: u8,
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

/// Facts of an IP packet that stand in one number, so that a function of BPF can take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed(pub u64);

impl Packed {
    /// Packs the transport header, the protocol and the zone.
    #[inline(always)]
    pub fn new<A>(ip: &Ip<'_, A>, zone: u8) -> Self {
        let transport = &ip.transport;
        Self(
            u64::from(transport.destination_port)
                | u64::from(transport.source_port) << 16
                | u64::from(transport.detail) << 32
                | u64::from(ip.protocol) << 40
                | (transport.kind as u64) << 48
                | u64::from(ip.fragment) << 52
                | u64::from(zone & 1) << 56,
        )
    }

    /// The transport header.
    #[inline(always)]
    pub fn transport(self) -> Transport {
        Transport {
            kind: match self.0 >> 48 & 3 {
                0 => Kind::Tcp,
                1 => Kind::Udp,
                2 => Kind::Icmp,
                _ => Kind::Other,
            },
            detail: (self.0 >> 32) as u8,
            source_port: (self.0 >> 16) as u16,
            destination_port: self.0 as u16,
        }
    }

    /// The protocol.
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// Whether it is a first fragment.
    #[inline(always)]
    pub const fn fragment(self) -> bool {
        self.0 >> 52 & 1 != 0
    }

    /// Whether it is a datagram and no fragment.
    #[inline(always)]
    pub const fn is_datagram(self) -> bool {
        self.0 >> 48 & 0x13 == Kind::Udp as u64
    }

    /// The zone.
    #[inline(always)]
    pub const fn zone(self) -> u8 {
        (self.0 >> 56) as u8
    }
}

/// What was found, and what the rest of the judgement asks about the packet.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// What was found.
    pub found: Found,
    /// Where it came in.
    pub place: Place,
    /// Transport header, protocol and zone.
    pub packed: Packed,
    /// Where the IP header begins in the frame.
    pub network: u32,
    /// Where the upper-layer header begins in the frame; 0: there is none.
    pub upper: u32,
    /// Of a first fragment: identification.
    pub fragment_id: u32,
    /// Of a first fragment: bytes of the packet.
    pub fragment_length: u32,
    /// IPv6.
    pub six: bool,
}

impl Judged {
    #[inline(always)]
    const fn new(found: Found, place: Place) -> Self {
        let (packed, fragment_id, fragment_length) = (Packed(0), 0, 0);
        Self {
            found,
            place,
            packed,
            network: 0,
            upper: 0,
            fragment_id,
            fragment_length,
            six: false,
        }
    }

    #[inline(always)]
    fn about<A: Family>(found: Found, place: Place, link: &Link, ip: &Ip<'_, A>) -> Self {
        Self {
            found,
            place,
            packed: Packed::new(ip, place.zone),
            network: u32::from(link.length),
            upper: u32::from(link.length) + u32::from(ip.header_length),
            fragment_id: ip.fragment_id,
            fragment_length: ip.fragment_length,
            six: A::ICMP == packet::PROTOCOL_ICMPV6,
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

/// In [`Found::content`]: the flows and rules of the word that stands in [`Found::rule`] are still to
/// be asked, for the port that stands in [`Found::limits`]. A function of its own does that, so that
/// the functions of the kernel program do not lie too deep: all their frames together have 512
/// bytes.
const ASK: u8 = 8;
/// With [`ASK`]: it is a datagram and no fragment, which may belong to a flow.
const ASK_DATAGRAM: u8 = 4;

/// What is asked of flows and rules beside the word: port, zone, and which flows there may be, in one
/// number, so that a function of BPF can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(pub u32);

impl Asked {
    #[inline(always)]
    fn new(found: &Found, zone: u8, pinholes: bool) -> Self {
        let datagram = found.content & ASK_DATAGRAM != 0;
        let flags = u32::from(datagram) << 16 | u32::from(datagram && pinholes) << 18;
        Self(u32::from(found.limits) | flags | u32::from(zone & 1) << 17)
    }

    /// The port, in host order.
    #[inline(always)]
    pub const fn port(self) -> u16 {
        self.0 as u16
    }

    /// Whether it is a datagram and no fragment.
    #[inline(always)]
    pub const fn datagram(self) -> bool {
        self.0 >> 16 & 1 != 0
    }

    /// The zone.
    #[inline(always)]
    pub const fn zone(self) -> u8 {
        (self.0 >> 17) as u8 & 1
    }

    /// Whether it may be for an endpoint behind us.
    #[inline(always)]
    pub const fn pinholes(self) -> bool {
        self.0 >> 18 & 1 != 0
    }
}

/// Management and blocks, and what the port's word says by itself. Of ICMP that answers something it says "unsolicited", until
/// [`replies`] has looked.
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

/// Whether the source is blocked for what it asks for: exact entry first, then prefix, as far
/// as [`Family::may_be_blocked`] says that there can be one.
///
/// What is found is remembered, and asked first: the exact entry, or the prefix when there is no
/// exact entry, so that what is remembered is always what would be found first; or that there
/// is neither.
#[inline(always)]
pub fn blocked<T: Tables, A: Family>(
    tables: &T,
    source: A,
    (word, present): (u32, u32),
    settings: &Settings,
) -> Option<Reason> {
    let epoch = settings.epoch_now();
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
        Some(block_reason(block.reason))
    };
    if epoch != 0
        && let Some((block, at_once)) = source.remembered_block(tables, epoch)
    {
        if block.scope == SCOPE_NONE {
            return None;
        }
        if let Some(reason) = in_force(block) {
            if at_once == AT_ONCE_UNKNOWN {
                // It goes on sending: what its next packets need not ask is found out once.
                let at_once = whatever_it_is_for(tables, source, block, settings);
                source.remember_block(tables, epoch, block, at_once);
            }
            return Some(reason);
        }
    }
    let exact = if present & PRESENT_ADDRESSES != 0 { source.blocked(tables) } else { None };
    if let Some(block) = exact
        && let Some(reason) = in_force(block)
    {
        if epoch != 0 {
            source.remember_block(tables, epoch, block, AT_ONCE_UNKNOWN);
        }
        return Some(reason);
    }
    let prefix = if present & PRESENT_PREFIXES != 0 { source.blocked_prefix(tables) } else { None };
    let reason = prefix.and_then(in_force);
    // A block that is not in force for this packet is not remembered: it may be for the next.
    if epoch != 0 && exact.is_none() && (reason.is_some() || prefix.is_none()) {
        source.remember_block(tables, epoch, prefix.unwrap_or(NOT_BLOCKED), AT_ONCE_UNKNOWN);
    }
    reason
}

/// The reason that a block is counted under.
#[inline(always)]
fn block_reason(number: u8) -> Reason {
    match number {
        number if number == Reason::BlockedDomain as u8 => Reason::BlockedDomain,
        number if number == Reason::BadSource as u8 => Reason::BadSource,
        _ => Reason::BlockedAddress,
    }
}

/// Whether a block in force holds for all that this source may send until it expires: what
/// [`at_once`] needs to know. The generation is read after the epoch that the answer is
/// remembered under, and the daemon writes an epoch after the generation it belongs to.
#[inline(always)]
fn whatever_it_is_for<T: Tables, A: Family>(
    tables: &T,
    source: A,
    block: Block,
    settings: &Settings,
) -> u16 {
    // A block with an end among the versions may be over without a new epoch.
    let whole = block.scope == SCOPE_ALL && block.until_version == 0;
    let generation = tables.generation(settings);
    if whole && !source.sources(tables, generation).contains(SOURCE_SET_MANAGEMENT) {
        AT_ONCE_YES
    } else {
        AT_ONCE_NO
    }
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
) -> Found {
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
    fn nearest(&self) -> Found {
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
/// else `None`, with what was learned in `walk`. The kernel program calls it as a function that
/// the verifier proves once: in a loop, its ways would multiply with every turn.
#[inline(always)]
pub fn rule<T: Tables, A: Family>(tables: &T, walk: &mut Walk<A>, position: u32) -> Option<Found> {
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
    Some(Found {
        reason: if passes { Reason::Rule } else { Reason::RuleDrop },
        rule: rule.id,
        limits: if passes { rule.limits } else { 0 },
        content: if passes { rule.content } else { CONTENT_ANY },
    })
}
