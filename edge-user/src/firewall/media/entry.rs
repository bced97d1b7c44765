//! A flow in the kernel's form and back: every field of [`Flow`] can be read from the kernel, so
//! that the kernel is the database.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use edge_ebpf::abi::{
    CONTENT_ANY, CONTENT_MEDIA, Limit, MEDIA_BEHIND_NAT, MEDIA_BY_DAEMON, MEDIA_OUT_IPV6,
    MEDIA_REWRITE, MEDIA_RTP, MEDIA_STATE_SLOTS, MEDIA_TIMED, MEDIA_TURNS, MediaFlow, PinholeKey,
    mapped, media_port_index,
};
use ipnet::IpNet;

use super::{super::blocks::Moment, hops::Hop};
use crate::{
    firewall::decode,
    media::flow::{CallId, Component, Flow, FlowContent, FlowId, LEARNED_ANEW_END, MediaSide, Way},
};

/// `MediaFlow::about`: the flow comes from inside.
const ABOUT_INSIDE: u8 = 1;
/// `MediaFlow::about`: it is RTCP on a port of its own.
const ABOUT_RTCP: u8 = 1 << 1;
/// `MediaFlow::about`: the leg is on hold.
const ABOUT_HELD: u8 = 1 << 2;
/// `MediaFlow::about`: above this many bits stands `Flow::learned_anew`.
const ABOUT_ANEW: u32 = 3;

/// Where a packet finds its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Door {
    /// Index into `MEDIA_PORTS`.
    Port(u32),
    /// Key of `MEDIA_PINHOLES`.
    Pinhole(PinholeKey),
}

/// What makes a flow impossible.
pub(super) fn fault(flow: &Flow) -> Option<&'static str> {
    let same = |one: IpAddr, other: IpAddr| one.is_ipv4() == other.is_ipv4();
    let usable = |address: SocketAddr| {
        let ip = address.ip();
        // An IPv4 address in IPv6 clothes would be taken for one of the other family.
        let plain = ip == ip.to_canonical();
        address.port() != 0 && plain && !ip.is_unspecified() && !ip.is_multicast()
    };
    if flow.id.0 == 0 || flow.id.0 >= MEDIA_STATE_SLOTS {
        return Some("its number is out of range");
    }
    if flow.call.0 == 0 {
        return Some("it belongs to no call");
    }
    if !usable(flow.to) {
        return Some("it goes to no usable address");
    }
    let (incoming, leaving) = match flow.way {
        Way::Relay { local, from } => (local, from),
        Way::Pinhole => (flow.to, flow.to),
    };
    if !usable(incoming) || !usable(leaving) {
        return Some("it has no usable address of ours");
    }
    if !same(incoming.ip(), flow.source.addr()) || !same(leaving.ip(), flow.to.ip()) {
        return Some("its addresses are of different families");
    }
    None
}

/// Where packets of this flow come in.
pub(super) fn door(flow: &Flow) -> Door {
    match flow.way.port_index(flow.side) {
        Some(index) => Door::Port(index),
        None => Door::Pinhole(PinholeKey {
            address: address(flow.to.ip()),
            port: flow.to.port().to_be_bytes(),
            zone: flow.side.zone(),
            reserved: 0,
        }),
    }
}

/// The door of a flow that the kernel holds.
pub(super) fn door_of(entry: &MediaFlow) -> Door {
    let zone = side(entry).zone();
    if entry.flags & MEDIA_REWRITE != 0 {
        let six = decode::address(entry.local).is_ipv6();
        Door::Port(media_port_index(zone, six, u16::from_be_bytes(entry.local_port)))
    } else {
        Door::Pinhole(PinholeKey {
            address: entry.local,
            port: entry.local_port,
            zone,
            reserved: 0,
        })
    }
}

/// A flow for the kernel, but for `epoch`.
pub(super) fn to_kernel(flow: &Flow, now: Moment, hop: Option<&Hop>) -> MediaFlow {
    let mut flags = 0;
    let mut set = |when: bool, flag: u16| flags |= if when { flag } else { 0 };
    let (local, from) = match flow.way {
        Way::Relay { local, from } => (local, from),
        Way::Pinhole => (flow.to, flow.to),
    };
    set(matches!(flow.way, Way::Relay { .. }), MEDIA_REWRITE);
    set(flow.to.is_ipv6(), MEDIA_OUT_IPV6);
    set(flow.source.prefix_len() < flow.source.max_prefix_len(), MEDIA_BEHIND_NAT);
    set(flow.turns, MEDIA_TURNS);
    set(flow.timed, MEDIA_TIMED);
    let rtp = flow.component == Component::Rtp && flow.content == FlowContent::Media;
    set(rtp, MEDIA_RTP);
    let mut about = (flow.learned_anew % LEARNED_ANEW_END) << ABOUT_ANEW;
    let mut note = |when: bool, bit: u8| about |= if when { bit } else { 0 };
    note(flow.side == MediaSide::Inside, ABOUT_INSIDE);
    note(flow.component == Component::Rtcp, ABOUT_RTCP);
    note(flow.held, ABOUT_HELD);
    let entry = MediaFlow {
        call: flow.call.0,
        packets: ceiling(flow.packets_per_second),
        bytes: ceiling(flow.bytes_per_second),
        source: address(flow.source.network()),
        local: address(local.ip()),
        to: address(flow.to.ip()),
        from: address(from.ip()),
        source_port: flow.source_port.unwrap_or(0).to_be_bytes(),
        local_port: local.port().to_be_bytes(),
        to_port: flow.to.port().to_be_bytes(),
        from_port: from.port().to_be_bytes(),
        flags,
        source_bits: 128 - (flow.source.max_prefix_len() - flow.source.prefix_len()),
        content: match flow.content {
            FlowContent::Media => CONTENT_MEDIA,
            FlowContent::Any => CONTENT_ANY,
        },
        state: flow.id.0,
        expires_at_seconds: now.kernel_seconds_in(flow.expires),
        learn_until_seconds: now.kernel_seconds_in(flow.learn),
        clock: flow.clock.unwrap_or(0),
        line: flow.line,
        about,
        ..MediaFlow::default()
    };
    with_hop(entry, hop)
}

/// The same flow by this way; `None`: by none.
pub(super) fn with_hop(entry: MediaFlow, hop: Option<&Hop>) -> MediaFlow {
    let none = Hop::default();
    // The daemon never sees what is for an endpoint behind us.
    let can_go = |hop: &&Hop| !hop.by_daemon || entry.flags & MEDIA_REWRITE != 0;
    let hop = hop.filter(can_go).unwrap_or(&none);
    let flags = entry.flags & !MEDIA_BY_DAEMON;
    MediaFlow {
        flags: if hop.by_daemon { flags | MEDIA_BY_DAEMON } else { flags },
        next_hop: hop.next_hop,
        device: hop.device,
        ifindex: hop.ifindex,
        vlan: hop.vlan,
        mtu: hop.mtu,
        ..entry
    }
}

/// A flow as the kernel holds it; times are what is left of them. `None`: it is none.
pub(super) fn from_kernel(entry: &MediaFlow, now: u64) -> Option<Flow> {
    let socket =
        |address, port| SocketAddr::new(decode::address(address), u16::from_be_bytes(port));
    let source = decode::address(entry.source);
    let cut = 128u8.checked_sub(entry.source_bits)?;
    let length = if source.is_ipv4() { 32u8 } else { 128 }.checked_sub(cut)?;
    let left = |until: u32| Duration::from_secs(u64::from(until).saturating_sub(now));
    let way = if entry.flags & MEDIA_REWRITE != 0 {
        Way::Relay {
            local: socket(entry.local, entry.local_port),
            from: socket(entry.from, entry.from_port),
        }
    } else {
        Way::Pinhole
    };
    let number = u16::from_be_bytes(entry.source_port);
    let flow = Flow {
        id: FlowId(entry.state),
        call: CallId(entry.call),
        line: entry.line,
        component: if entry.about & ABOUT_RTCP != 0 { Component::Rtcp } else { Component::Rtp },
        side: side(entry),
        way,
        source: IpNet::new(source, length).ok()?,
        source_port: (number != 0).then_some(number),
        learn: left(entry.learn_until_seconds),
        learned_anew: learned_anew(entry),
        to: socket(entry.to, entry.to_port),
        content: match entry.content {
            CONTENT_MEDIA => FlowContent::Media,
            _ => FlowContent::Any,
        },
        clock: (entry.clock != 0).then_some(entry.clock),
        packets_per_second: per_second(&entry.packets),
        bytes_per_second: per_second(&entry.bytes),
        expires: left(entry.expires_at_seconds),
        timed: entry.flags & MEDIA_TIMED != 0,
        held: entry.about & ABOUT_HELD != 0,
        turns: turns(entry),
    };
    fault(&flow).is_none().then_some(flow)
}

/// It leaves on the side that it came from.
const fn turns(entry: &MediaFlow) -> bool {
    entry.flags & MEDIA_TURNS != 0
}

/// The side that packets of a flow leave on.
pub(super) fn leaves(entry: &MediaFlow) -> MediaSide {
    side(entry).leaves(turns(entry))
}

/// Where packets of a flow come from.
pub(super) fn side(entry: &MediaFlow) -> MediaSide {
    if entry.about & ABOUT_INSIDE != 0 { MediaSide::Inside } else { MediaSide::Outside }
}

/// How often what was learned of the source was to be forgotten.
pub(super) const fn learned_anew(entry: &MediaFlow) -> u8 {
    entry.about >> ABOUT_ANEW
}

pub(super) fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A ceiling with a burst of a second's worth. Never none: 0 in the kernel would be no limit.
fn ceiling(per_second: u32) -> Limit {
    let per_second = u64::from(per_second.max(1));
    Limit::new(per_second, per_second)
}

fn per_second(limit: &Limit) -> u32 {
    let burst = limit.tolerance.checked_div(limit.increment).unwrap_or(0);
    u32::try_from(burst).unwrap_or(u32::MAX)
}
