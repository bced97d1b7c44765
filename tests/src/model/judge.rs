//! What happens to a frame, by the plain lists of a [`World`].

use std::net::IpAddr;

use edge_ebpf::verdict::{Reason, Verdict};

use super::{
    headers::{self, Content, Packet, Piece, Transport, address4, address6, number},
    memory::{Memory, Seen},
    world::{Block, Flow, Place, Service, Why, World},
};

/// What happens, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What is done.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that decided.
    pub rule: Option<u32>,
}

/// Seconds that a flow is remembered.
const FLOW_SECONDS: u64 = 60;

/// Judges a frame that comes in by the world's device `now`, in nanoseconds since boot.
pub fn judge(world: &World, memory: &mut Memory, now: u64, frame: &[u8]) -> Judgement {
    let second = now / 1_000_000_000;
    let (reason, rule) = match headers::read(frame) {
        Err(reason) => (reason, None),
        Ok(headers) => match zone(world, &headers.vlans) {
            Err(reason) => (reason, None),
            Ok(zone) => match &headers.content {
                Content::Link(kind) => (link(world, *kind), None),
                Content::Piece(piece) => (later(world, memory, second, zone, piece), None),
                Content::Ip(packet) => {
                    let (reason, rule) = ip(world, second, zone, packet);
                    let seen = Seen { zone, packet, length: frame.len() as u64 };
                    let refused = let_in(reason).then(|| memory.refuses(world, now, &seen, rule));
                    (refused.flatten().unwrap_or(reason), rule)
                }
            },
        },
    };
    let verdict = if world.monitor { Verdict::Pass } else { reason.verdict() };
    Judgement { verdict, reason, rule }
}

/// Whether more is asked of a packet that passes for this reason; of management only what no rule
/// says, that fragments are whole.
fn let_in(reason: Reason) -> bool {
    reason.verdict() == Verdict::Pass
}

/// A fragment after the first: it goes the way of its first.
fn later(world: &World, memory: &mut Memory, second: u64, zone: u8, piece: &Piece) -> Reason {
    if !world.rules_loaded {
        return Reason::NoRuleSet;
    }
    // It has no port: a block for some ports says nothing of it.
    match blocked(world, second, piece.source, (false, false)) {
        Some(reason) => reason,
        None => memory.follows(second, zone, piece),
    }
}

fn zone(world: &World, vlans: &[u16]) -> Result<u8, Reason> {
    let known = |zone: Option<u8>| zone.filter(|zone| *zone < 2);
    // A device that nobody configured has no VLANs either.
    if vlans.is_empty() {
        return known(world.device).ok_or(Reason::InterfaceUnknown);
    }
    if !world.trunk {
        return Err(Reason::VlanUnknown);
    }
    let (outer, inner) = (vlans[0], vlans.get(1).copied().unwrap_or(0));
    let vlan = world.vlans.iter().find(|vlan| vlan.outer == outer && vlan.inner == inner);
    vlan.and_then(|vlan| known(vlan.zone)).ok_or(Reason::VlanUnknown)
}

fn link(world: &World, kind: u16) -> Reason {
    match kind {
        0x0806 => Reason::Arp,
        0x88cc if world.lldp => Reason::LinkControl,
        0x8809 if world.lacp => Reason::LinkControl,
        _ => Reason::EtherType,
    }
}

fn ip(world: &World, now: u64, zone: u8, packet: &Packet) -> (Reason, Option<u32>) {
    if let Some(reason) = local_link(packet) {
        return (reason, None);
    }
    if !world.rules_loaded {
        return (Reason::NoRuleSet, None);
    }
    if at_port_of(&world.management, zone, packet) && in_set(world, packet.source, 0) {
        return (Reason::Management, None);
    }
    let at = |ports| at_port_of(ports, zone, packet);
    let (federation, remote) = (at(&world.federation), at(&world.remote));
    if let Some(reason) = blocked(world, now, packet.source, (federation, remote)) {
        return (reason, None);
    }
    let echo_request = if packet.source.is_ipv4() { 8 } else { 128 };
    if let Transport::Icmp { kind, identifier } = packet.transport
        && kind != echo_request
    {
        return (icmp_answer(world, now, packet, kind, identifier), None);
    }
    let (reason, rule) = rules(world, zone, packet);
    if rule.is_some() {
        return (reason, rule);
    }
    if let Some(reply) = reply(world, now, packet) {
        return (reply, None);
    }
    if world.dhcp_client && dhcp_answer(packet) {
        return (Reason::Dhcp, None);
    }
    (reason, None)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// What keeps an IPv6 link alive (RFC 4861, RFC 4890).
fn local_link(packet: &Packet) -> Option<Reason> {
    let Transport::Icmp { kind, .. } = packet.transport else { return None };
    if packet.source.is_ipv4() {
        return None;
    }
    let nobody = packet.source.is_unspecified();
    let near = packet.hops == 1 && (is_link_local(packet.source) || nobody);
    match kind {
        133..=136 if packet.fragment.is_some() => Some(Reason::Fragment),
        133..=136 if packet.hops < 255 => Some(Reason::NeighbourHopLimit),
        134 | 136 if nobody => Some(Reason::BadSource),
        133..=136 => Some(Reason::NeighbourDiscovery),
        130 | 131 | 132 | 143 if near => Some(Reason::MulticastListener),
        130 | 131 | 132 | 143 => Some(Reason::IcmpType),
        _ if nobody => Some(Reason::BadSource),
        _ => None,
    }
}

fn at_port_of(ports: &[(u8, bool, u16)], zone: u8, packet: &Packet) -> bool {
    match packet.transport {
        Transport::Tcp { to, .. } => ports.contains(&(zone, false, to)),
        Transport::Udp { to, .. } => ports.contains(&(zone, true, to)),
        _ => false,
    }
}

fn in_set(world: &World, source: IpAddr, set: usize) -> bool {
    world.sources[set].iter().any(|prefix| prefix.contains(source))
}

/// The entry of exactly the source, then the longest prefix around it: no other is asked.
fn blocked(
    world: &World,
    now: u64,
    source: IpAddr,
    (federation, remote): (bool, bool),
) -> Option<Reason> {
    let holds = world.blocks.iter().filter(|block| block.prefix.contains(source));
    let (exact, around): (Vec<&Block>, Vec<&Block>) =
        holds.partition(|block| block.prefix.is_host());
    let longest = around.into_iter().max_by_key(|block| block.prefix.length);
    for block in exact.into_iter().chain(longest) {
        let ended = block.ends != 0 && now >= u64::from(block.ends);
        let later = block.from_version > world.block_version;
        let gone = block.until_version != 0 && block.until_version <= world.block_version;
        let here = match block.place {
            Place::Everywhere => true,
            Place::Federation => federation,
            Place::Remote => remote,
            Place::Both => federation || remote,
        };
        if ended || later || gone || !here {
            continue;
        }
        return Some(match block.why {
            Why::Administrator => Reason::BlockedAddress,
            Why::Domain => Reason::BlockedDomain,
            Why::OurOwn => Reason::BadSource,
        });
    }
    None
}

fn rules(world: &World, zone: u8, packet: &Packet) -> (Reason, Option<u32>) {
    let mut nearest = Reason::NoRule;
    for rule in &world.rules {
        let fits = rule.zone == zone
            && match (rule.to, packet.transport) {
                (Service::Ports(false, first, last), Transport::Tcp { to, .. })
                | (Service::Ports(true, first, last), Transport::Udp { to, .. }) => {
                    first <= to && to <= last
                }
                (Service::Protocol(number), Transport::Icmp { .. } | Transport::Other) => {
                    number == packet.protocol
                }
                _ => false,
            };
        if !fits {
            continue;
        }
        let here = rule
            .destinations
            .is_none_or(|set| world.destinations[set].contains(&packet.destination));
        if !here {
            if nearest == Reason::NoRule {
                nearest = Reason::DestinationNotAllowed;
            }
            continue;
        }
        if let Some(set) = rule.sources
            && !in_set(world, packet.source, set)
        {
            nearest = if set == 1 { Reason::NotPartner } else { Reason::SourceNotAllowed };
            continue;
        }
        let reason = if rule.drop { Reason::RuleDrop } else { Reason::Rule };
        return (reason, Some(rule.id));
    }
    (nearest, None)
}

/// Whether there is a socket for this flow.
fn socket(world: &World, flow: Flow) -> bool {
    world.sockets.iter().any(|socket| Flow { left_at: 0, ..*socket } == flow)
}

/// Whether a packet of this flow has just left.
fn remembered(world: &World, now: u64, flow: Flow) -> bool {
    world
        .flows
        .iter()
        .any(|known| Flow { left_at: 0, ..*known } == flow && known.left_at + FLOW_SECONDS >= now)
}

fn reply(world: &World, now: u64, packet: &Packet) -> Option<Reason> {
    let flow = |from, to| Flow {
        protocol: packet.protocol,
        local: packet.destination,
        local_port: to,
        remote: packet.source,
        remote_port: from,
        left_at: 0,
    };
    match packet.transport {
        Transport::Tcp { from, to, flags } => {
            let opens = flags & 2 != 0 && flags & 16 == 0;
            (!opens && socket(world, flow(from, to))).then_some(Reason::ReplyTcp)
        }
        Transport::Udp { from, to } if socket(world, flow(from, to)) => Some(Reason::ReplyUdp),
        Transport::Udp { from, to } => {
            remembered(world, now, flow(from, to)).then_some(Reason::ReplyRemembered)
        }
        _ => None,
    }
}

fn dhcp_answer(packet: &Packet) -> bool {
    match packet.transport {
        Transport::Udp { from: 67, to: 68 } => packet.source.is_ipv4(),
        Transport::Udp { from: 547, to: 546 } => is_link_local(packet.source),
        _ => false,
    }
}

/// ICMP that is no request: an answer to something of ours, or nothing that is wanted.
fn icmp_answer(world: &World, now: u64, packet: &Packet, kind: u8, identifier: u16) -> Reason {
    let four = packet.source.is_ipv4();
    let (echo_reply, errors): (u8, &[u8]) =
        if four { (0, &[3, 11, 12]) } else { (129, &[1, 2, 3, 4]) };
    if kind == echo_reply {
        let flow = Flow {
            protocol: packet.protocol,
            local: packet.destination,
            local_port: identifier,
            remote: packet.source,
            remote_port: 0,
            left_at: 0,
        };
        let ours = remembered(world, now, flow);
        return if ours { Reason::IcmpReply } else { Reason::IcmpUnsolicited };
    }
    if !errors.contains(&kind) {
        return Reason::IcmpType;
    }
    let quoted = packet.upper.get(8..).and_then(|bytes| quoted(bytes, four));
    let ours = quoted.is_some_and(|flow| {
        flow.local == packet.destination
            && match flow.protocol {
                6 => socket(world, flow),
                17 => socket(world, flow) || remembered(world, now, flow),
                _ => remembered(world, now, flow),
            }
    });
    if ours { Reason::IcmpError } else { Reason::IcmpUnsolicited }
}

/// The flow of a packet that an error quotes, if we could have sent it.
fn quoted(bytes: &[u8], four: bool) -> Option<Flow> {
    let (local, remote, protocol, header): (IpAddr, IpAddr, u8, usize) = if four {
        let header = usize::from(bytes.first()? % 16) * 4;
        if bytes.len() < 20 || bytes[0] / 16 != 4 || header < 20 {
            return None;
        }
        if number(bytes, 6) & 0x1fff != 0 {
            return None;
        }
        (address4(bytes, 12).into(), address4(bytes, 16).into(), bytes[9], header)
    } else {
        if bytes.len() < 40 || bytes[0] / 16 != 6 {
            return None;
        }
        // The first piece of a datagram that was cut is like the whole.
        let (next, header) = match bytes[6] {
            44 if number(bytes.get(40..48)?, 2) >> 3 != 0 => return None,
            44 => (bytes[40], 48),
            next => (next, 40),
        };
        (address6(bytes, 8).into(), address6(bytes, 24).into(), next, header)
    };
    let upper = bytes.get(header..header + 8)?;
    let (icmp, echo_request) = if four { (1, 8) } else { (58, 128) };
    let (local_port, remote_port) = match protocol {
        6 | 17 => (number(upper, 0), number(upper, 2)),
        other if other == icmp && upper[0] == echo_request => (number(upper, 4), 0),
        _ => return None,
    };
    Some(Flow { protocol, local, local_port, remote, remote_port, left_at: 0 })
}
