//! Every reason is reached, by both families, untagged and tagged once and twice, and the kernel
//! agrees with the same decision on the host.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
};

use edge_ebpf::{
    abi::{
        FlowKey, Interface, NO_GENERATION, SETTING_DHCP_CLIENT, SETTING_LACP, SETTING_LLDP,
        SETTING_MONITOR,
    },
    verdict::Reason,
};
use edge_tests::{kernel::TEST_IFINDEX, packets::*};

use crate::fixture::*;

/// The three ways a frame may be tagged.
pub const TAGS: [&[(u16, u16)]; 3] =
    [&[], &[(0x8100, VLAN)], &[(0x88a8, VLAN), (0x8100, INNER_VLAN)]];

/// Puts tags into an untagged frame.
pub fn tag(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let ether_type = u16::from_be_bytes([frame[12], frame[13]]);
    ethernet(tags, ether_type, &frame[14..])
}

/// Frames that need no socket, of one family.
fn policy(side: Side) -> Vec<(Reason, Vec<u8>)> {
    let syn = |from, to, port| frame(from, to, 6, &tcp(4000, port, SYN));
    let icmp_number = icmp_protocol(side.me);
    let (echo, echo_reply, unreachable) = if side.me.is_ipv4() { (8, 0, 3) } else { (128, 129, 1) };
    let message =
        |kind, rest: &[u8]| frame(side.stranger, side.me, icmp_number, &icmp(kind, 77, rest));
    let quoted = ip(side.me, side.stranger, 17, &udp(53, 53, &[]));
    let mut truncated = syn(side.stranger, side.me, FEDERATION_PORT);
    truncated.truncate(14 + 12);
    let mut long = frame(side.stranger, side.me, 17, &udp(1, 2, &[0; 8]));
    let at = long.len() - 16 + 4;
    long[at..at + 2].copy_from_slice(&900_u16.to_be_bytes());
    let mut version = syn(side.stranger, side.me, FEDERATION_PORT);
    version[14] ^= 0x30;
    let loopback: IpAddr =
        if side.me.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    vec![
        (Reason::Management, syn(side.management, side.me, MANAGEMENT_PORT)),
        (Reason::Rule, syn(side.stranger, side.me, FEDERATION_PORT)),
        (Reason::Rule, syn(side.partner, side.me, PARTNER_PORT)),
        (Reason::Rule, syn(side.stranger, side.second, SECOND_PORT)),
        (Reason::Rule, message(echo, &[])),
        (Reason::BlockedAddress, syn(side.blocked, side.me, FEDERATION_PORT)),
        (Reason::BlockedAddress, syn(side.blocked, side.me, 1)),
        (Reason::BlockedDomain, syn(side.blocked_domain, side.me, FEDERATION_PORT)),
        (Reason::NoRule, syn(side.blocked_domain, side.me, 81)),
        (Reason::NoRule, syn(side.stranger, side.me, 81)),
        (Reason::NoRule, syn(side.stranger, side.me, MANAGEMENT_PORT)),
        (Reason::NoRule, frame(side.stranger, side.me, 47, &[0; 8])),
        (Reason::NotPartner, syn(side.stranger, side.me, PARTNER_PORT)),
        (Reason::DestinationNotAllowed, syn(side.stranger, side.me, SECOND_PORT)),
        (Reason::RuleDrop, syn(side.partner, side.me, CLOSED_PORT)),
        (Reason::IcmpType, message(100, &[])),
        (Reason::IcmpUnsolicited, message(echo_reply, &[])),
        (Reason::IcmpUnsolicited, message(unreachable, &quoted)),
        (Reason::IcmpUnsolicited, message(unreachable, &[])),
        (Reason::Truncated, truncated),
        (Reason::BadLength, long),
        (Reason::IpHeader, version),
        (Reason::TcpFlags, frame(side.stranger, side.me, 6, &tcp(1, FEDERATION_PORT, 0))),
        (Reason::TcpFlags, frame(side.stranger, side.me, 6, &tcp(1, FEDERATION_PORT, 3))),
        (Reason::BadSource, syn(loopback, side.me, FEDERATION_PORT)),
    ]
}

/// Frames that only one of the families, or none, can be.
fn peculiar() -> Vec<(Reason, Vec<u8>)> {
    let [four, six] = sides();
    let (IpAddr::V4(me4), IpAddr::V4(stranger4)) = (four.me, four.stranger) else { return vec![] };
    let (IpAddr::V6(me6), IpAddr::V6(stranger6)) = (six.me, six.stranger) else { return vec![] };
    let link_local: Ipv6Addr = "fe80::9".parse().unwrap();
    let v4 = |fragment, options: &[u8]| {
        let segment = tcp(1, FEDERATION_PORT, SYN);
        ethernet(&[], 0x0800, &ipv4(stranger4, me4, 6, fragment, options, &segment))
    };
    let v6 = |next, hops, payload: &[u8]| {
        ethernet(&[], 0x86dd, &ipv6(stranger6, me6, next, hops, payload))
    };
    let segment = tcp(1, FEDERATION_PORT, SYN);
    let mut deep = segment.clone();
    let mut next = 6;
    for _ in 0..6 {
        deep = extension(next, [0; 6], &deep);
        next = 60;
    }
    let options = extension(60, [0; 6], &extension(6, [0; 6], &segment));
    let near =
        |hops| ethernet(&[], 0x86dd, &ipv6(link_local, me6, 58, hops, &icmp(131, 0, &[0; 16])));
    let tiny = ipv4(stranger4, me4, 6, 0x2000, &[], &segment[..8]);
    vec![
        (Reason::Arp, ethernet(&[], 0x0806, &[0; 28])),
        (Reason::LinkControl, ethernet(&[], 0x88cc, &[0; 28])),
        (Reason::LinkControl, ethernet(&[], 0x8809, &[0; 28])),
        (Reason::EtherType, ethernet(&[], 0x8847, &[0; 28])),
        (Reason::Rule, v4(0, &[1, 1, 1, 0])),
        (Reason::Rule, v4(0x2000, &[])),
        (Reason::Fragment, v4(0x0001, &[])),
        (Reason::Fragment, ethernet(&[], 0x0800, &tiny)),
        (Reason::NeighbourDiscovery, v6(58, 255, &icmp(135, 0, &[0; 16]))),
        (Reason::NeighbourHopLimit, v6(58, 254, &icmp(135, 0, &[0; 16]))),
        (Reason::MulticastListener, near(1)),
        (Reason::IcmpType, near(2)),
        (Reason::IcmpType, v6(58, 255, &icmp(137, 0, &[0; 32]))),
        (Reason::Rule, v6(0, 64, &options)),
        (Reason::Rule, v6(44, 64, &extension(6, [0; 6], &segment))),
        (Reason::Rule, v6(43, 64, &extension(6, [4, 0, 0, 0, 0, 0], &segment))),
        (Reason::ExtensionHeader, v6(43, 64, &extension(6, [0; 6], &segment))),
        (Reason::ExtensionHeader, v6(43, 64, &extension(6, [4, 1, 0, 0, 0, 0], &segment))),
        (Reason::ExtensionHeader, v6(135, 64, &extension(6, [0; 6], &segment))),
        (Reason::ExtensionHeader, v6(60, 64, &extension(0, [0; 6], &options))),
        (Reason::ExtensionDepth, v6(60, 64, &deep)),
        (Reason::Fragment, v6(44, 64, &extension(6, [0, 8, 0, 0, 0, 0], &segment))),
        (Reason::Fragment, v6(44, 64, &extension(6, [0, 1, 0, 0, 0, 0], &segment[..8]))),
        (Reason::Fragment, v6(44, 64, &extension(58, [0, 1, 0, 0, 0, 0], &icmp(135, 0, &[])))),
        (Reason::Dhcp, frame(four.stranger, four.me, 17, &udp(67, 68, &[0; 8]))),
        (Reason::Dhcp, {
            let answer = udp(547, 546, &[0; 8]);
            ethernet(&[], 0x86dd, &ipv6(link_local, me6, 17, 1, &answer))
        }),
        (Reason::NoRule, v6(17, 1, &udp(547, 546, &[0; 8]))),
    ]
}

/// Sockets that are kept open while their frames are judged.
type Sockets = (TcpListener, TcpStream, UdpSocket);

/// Real sockets of one family, and the frames that belong to them.
fn with_sockets(bench: &mut Bench, side: Side) -> (Vec<(Reason, Vec<u8>)>, Sockets) {
    let listener = TcpListener::bind((side.second, 0)).unwrap();
    let server = listener.local_addr().unwrap().port();
    let stream = TcpStream::connect((side.second, server)).unwrap();
    let (local, client) = (stream.local_addr().unwrap(), stream.local_addr().unwrap().port());
    let resolver = UdpSocket::bind((side.me, 0)).unwrap();
    resolver.connect((side.stranger, 53)).unwrap();
    let query = resolver.local_addr().unwrap().port();
    let number = icmp_protocol(side.me);
    let key = |remote, remote_port: u16, local, local_port: u16, protocol| FlowKey {
        local: sixteen(local),
        remote: sixteen(remote),
        local_port: local_port.to_be_bytes(),
        remote_port: remote_port.to_be_bytes(),
        protocol,
        reserved: [0; 3],
    };
    bench.tables.sockets.insert(key(side.second, server, local.ip(), client, 6));
    bench.tables.sockets.insert(key(side.stranger, 53, side.me, query, 17));
    bench.change(|tables| {
        tables.flows.insert(key(side.stranger, 9000, side.me, 9001, 17), now_seconds());
        tables.flows.insert(key(side.stranger, 0, side.me, 99, number), now_seconds());
    });
    let (echo_reply, too_big) = if side.me.is_ipv4() { (0, 3) } else { (129, 2) };
    let quoted = ip(local.ip(), side.second, 6, &tcp(client, server, ACK));
    let error = icmp(too_big, 0, &quoted);
    let frames = vec![
        (Reason::ReplyTcp, frame(side.second, local.ip(), 6, &tcp(server, client, ACK))),
        (Reason::ReplyUdp, frame(side.stranger, side.me, 17, &udp(53, query, &[0; 4]))),
        (Reason::ReplyRemembered, frame(side.stranger, side.me, 17, &udp(9000, 9001, &[]))),
        (Reason::IcmpReply, frame(side.stranger, side.me, number, &icmp(echo_reply, 99, &[]))),
        (Reason::IcmpError, frame(side.stranger, local.ip(), number, &error)),
    ];
    (frames, (listener, stream, resolver))
}

#[test]
fn every_reason_is_reached_by_both_families_tagged_and_untagged() {
    in_namespace(|| {
        let mut bench = Bench::new();
        bench.change(|tables| {
            tables.settings.flags |= SETTING_LLDP | SETTING_LACP | SETTING_DHCP_CLIENT;
        });
        let mut frames = peculiar();
        let mut open = Vec::new();
        for side in sides() {
            frames.extend(policy(side));
            let (more, sockets) = with_sockets(&mut bench, side);
            frames.extend(more);
            open.push(sockets);
        }
        let mut reached = BTreeSet::new();
        for (reason, frame) in &frames {
            for tags in TAGS {
                bench.both_say(&tag(frame, tags), *reason);
            }
            reached.insert(*reason);
        }
        let any = &frames[0].1;
        bench.both_say(&tag(any, &[(0x8100, 5), (0x8100, 6), (0x8100, 7)]), Reason::VlanDepth);
        bench.both_say(&tag(any, &[(0x8100, 5)]), Reason::VlanUnknown);
        bench.change(|tables| tables.settings.generation = NO_GENERATION);
        let [four, six] = sides();
        for side in [four, six] {
            let syn = frame(side.management, side.me, 6, &tcp(1, MANAGEMENT_PORT, SYN));
            bench.both_say(&syn, Reason::NoRuleSet);
        }
        bench.both_say(&ethernet(&[], 0x0806, &[0; 28]), Reason::Arp);
        let none = Interface { zone_plus_one: 0, trunk: 0, slot: 0, reserved: 0 };
        bench.change(|tables| {
            tables.interfaces.insert(TEST_IFINDEX, none);
        });
        bench.both_say(any, Reason::InterfaceUnknown);
        reached.extend([
            Reason::VlanDepth,
            Reason::VlanUnknown,
            Reason::NoRuleSet,
            Reason::InterfaceUnknown,
        ]);
        reached.extend(crate::asked::REACHED_HERE);
        reached.extend(crate::media::REACHED_HERE);
        let all: BTreeSet<Reason> = Reason::ALL.iter().copied().collect();
        assert_eq!(reached, all);
    });
}

#[test]
fn link_control_passes_only_where_it_is_switched_on() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for ether_type in [0x88cc, 0x8809] {
            bench.both_say(&ethernet(&[], ether_type, &[0; 28]), Reason::EtherType);
        }
    });
}

#[test]
fn a_priority_tag_names_no_vlan_and_a_tag_off_a_trunk_no_zone() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [side, _] = sides();
        let syn = frame(side.stranger, side.me, 6, &tcp(1, FEDERATION_PORT, SYN));
        bench.both_say(&tag(&syn, &[(0x8100, 0xe000)]), Reason::Rule);
        bench.both_say(&tag(&syn, &[(0x8100, 0), (0x8100, VLAN)]), Reason::Rule);
        bench.change(|tables| {
            if let Some(interface) = tables.interfaces.get_mut(&TEST_IFINDEX) {
                interface.trunk = 0;
            }
        });
        bench.both_say(&tag(&syn, &[(0x8100, VLAN)]), Reason::VlanUnknown);
    });
}

#[test]
fn monitor_mode_counts_the_drop_and_passes_the_packet() {
    in_namespace(|| {
        let mut bench = Bench::new();
        bench.change(|tables| {
            tables.settings.flags |= SETTING_MONITOR;
            tables.settings.events_per_second = 100;
        });
        for side in sides() {
            let blocked = frame(side.blocked, side.me, 6, &tcp(1, 5061, SYN));
            bench.both_say(&blocked, Reason::BlockedAddress);
            let odd = frame(side.stranger, side.me, 6, &tcp(1, 5061, 0));
            bench.both_say(&odd, Reason::TcpFlags);
        }
        let events = bench.kernel.events().unwrap();
        assert_eq!(events.len(), 4);
        assert!(events.iter().all(|event| event.monitored == 1));
    });
}

#[test]
fn rules_are_counted_by_their_id() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [side, _] = sides();
        let syn = frame(side.stranger, side.me, 6, &tcp(1, FEDERATION_PORT, SYN));
        for _ in 0..3 {
            bench.both_say(&syn, Reason::Rule);
        }
        let closed = frame(side.stranger, side.me, 17, &udp(1, CLOSED_PORT, &[]));
        bench.both_say(&closed, Reason::RuleDrop);
        let passed = bench.kernel.rule_counter(RULE_IDS[0]).unwrap();
        assert_eq!((passed.packets, passed.bytes), (3, 3 * syn.len() as u64));
        assert_eq!(bench.kernel.rule_counter(RULE_IDS[3]).unwrap().packets, 1);
        assert_eq!(bench.on_host(&syn).rule, RULE_IDS[0]);
    });
}
