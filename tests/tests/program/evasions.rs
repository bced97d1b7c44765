//! Known ways around a packet filter, tried one by one. In each, what is hidden must be judged as
//! if it stood open, or the packet must be dropped under the reason of the hiding place.
//!
//! RFC 1858, RFC 3128, RFC 4942, RFC 5095, RFC 5722, RFC 6946, RFC 6980, RFC 7045, RFC 7112,
//! RFC 7126, RFC 9288; and what port scanners do (FIN, NULL and XMAS scans).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edge_ebpf::{
    abi::{Block, SCOPE_ALL},
    verdict::{Reason, Verdict},
};
use edge_tests::packets::*;

use crate::fixture::*;

/// A port that nothing is said of.
const OTHER_PORT: u16 = 81;

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => panic!("an IPv4 address"),
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => panic!("an IPv6 address"),
    }
}

/// An IPv6 frame whose headers begin with `next`.
fn six(from: IpAddr, to: IpAddr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(&[], 0x86dd, &ipv6(v6(from), v6(to), next, hops, payload))
}

/// An IPv4 frame with options and a field of flags and offset.
fn four(from: IpAddr, to: IpAddr, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    ethernet(&[], 0x0800, &ipv4(v4(from), v4(to), 6, fragment, options, payload))
}

fn syn(port: u16) -> Vec<u8> {
    tcp(4000, port, SYN)
}

/// Wraps a payload in extension headers, the first of `kinds` outermost.
fn chain(kinds: &[u8], upper: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    let (mut next, mut all) = (upper, payload.to_vec());
    for kind in kinds.iter().rev() {
        // A routing header that has done its work, of a type that is not refused.
        let rest = if *kind == 43 { [4, 0, 0, 0, 0, 0] } else { [0; 6] };
        all = extension(next, rest, &all);
        next = *kind;
    }
    (next, all)
}

#[test]
fn tags_hide_nothing() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let kind = if side.me.is_ipv4() { 0x0800 } else { 0x86dd };
            let packet = ip(side.blocked, side.me, 6, &syn(FEDERATION_PORT));
            let tagged = |tags: &[(u16, u16)]| ethernet(tags, kind, &packet);
            for known in [
                &[(0x8100, VLAN)][..],
                &[(0x8100, 0)],
                &[(0x8100, 0xe000), (0x8100, VLAN)],
                &[(0x88a8, VLAN), (0x8100, INNER_VLAN)],
                &[(0x9100, VLAN), (0x8100, INNER_VLAN)],
            ] {
                bench.both_say(&tagged(known), Reason::BlockedAddress);
            }
            bench.both_say(&tagged(&[(0x8100, VLAN + 1)]), Reason::VlanUnknown);
            bench.both_say(&tagged(&[(0x8100, INNER_VLAN), (0x8100, VLAN)]), Reason::VlanUnknown);
            bench.both_say(&tagged(&[(0x8100, VLAN); 3]), Reason::VlanDepth);
            bench.both_say(&tagged(&[(0x8100, 0); 3]), Reason::VlanDepth);
            // A tag of a kind that is not known is no tag, and no IP follows.
            bench.both_say(&tagged(&[(0x9200, VLAN)]), Reason::EtherType);
            // The tag promises what the frame does not hold.
            let cut = &tagged(&[(0x8100, VLAN)])[..16];
            bench.both_say(cut, Reason::Truncated);
            // An EtherType of the other family.
            let other = if side.me.is_ipv4() { 0x86dd } else { 0x0800 };
            let (verdict, _) = bench.kernel.judge(&ethernet(&[], other, &packet)).unwrap();
            assert_eq!(verdict, Verdict::Drop);
        }
    });
}

#[test]
fn extension_headers_hide_no_port_and_no_source() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [_, side] = sides();
        let chains: [&[u8]; 9] = [
            &[],
            &[0],
            &[60],
            &[43],
            &[44],
            &[0, 60],
            &[0, 60, 43, 60],
            &[60, 60],
            &[0, 43, 44, 60, 60],
        ];
        for kinds in chains {
            let (next, open) = chain(kinds, 6, &syn(FEDERATION_PORT));
            let (_, closed) = chain(kinds, 6, &syn(OTHER_PORT));
            bench.both_say(&six(side.stranger, side.me, next, 64, &open), Reason::Rule);
            bench.both_say(&six(side.stranger, side.me, next, 64, &closed), Reason::NoRule);
            bench.both_say(&six(side.blocked, side.me, next, 64, &open), Reason::BlockedAddress);
        }
        let refused: [(&[u8], Reason); 9] = [
            (&[60; 6], Reason::ExtensionDepth),
            (&[0, 60, 60, 60, 60, 60], Reason::ExtensionDepth),
            (&[60, 0], Reason::ExtensionHeader),
            (&[0, 0], Reason::ExtensionHeader),
            (&[135], Reason::ExtensionHeader),
            (&[139], Reason::ExtensionHeader),
            (&[140], Reason::ExtensionHeader),
            (&[253], Reason::ExtensionHeader),
            (&[60, 254], Reason::ExtensionHeader),
        ];
        for (kinds, reason) in refused {
            let (next, open) = chain(kinds, 6, &syn(FEDERATION_PORT));
            bench.both_say(&six(side.stranger, side.me, next, 64, &open), reason);
        }
    });
}

#[test]
fn an_extension_header_reaches_no_further_than_its_packet() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [_, side] = sides();
        // The header says it is longer than the packet; the bytes are there, behind it.
        let (next, mut packet) = chain(&[60], 6, &syn(FEDERATION_PORT));
        packet[1] = 3;
        let mut frame = six(side.stranger, side.me, next, 64, &packet);
        frame.extend([0; 64]);
        bench.both_say(&frame, Reason::Truncated);
        // The packet is over where the header is: what follows is padding that looks like TCP.
        let mut frame = six(side.stranger, side.me, 60, 64, &extension(6, [0; 6], &[]));
        frame.extend(syn(FEDERATION_PORT));
        bench.both_say(&frame, Reason::Truncated);
        // "No next header" is followed by nothing, whatever lies there.
        let (next, packet) = chain(&[60], 59, &syn(FEDERATION_PORT));
        bench.both_say(&six(side.stranger, side.me, next, 64, &packet), Reason::NoRule);
    });
}

#[test]
fn source_routing_of_ipv6_is_refused() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [_, side] = sides();
        for (kind, left) in [(0, 0), (0, 1), (2, 1), (3, 2), (4, 1), (254, 255)] {
            let routed = extension(6, [kind, left, 0, 0, 0, 0], &syn(FEDERATION_PORT));
            let frame = six(side.stranger, side.me, 43, 64, &routed);
            bench.both_say(&frame, Reason::ExtensionHeader);
        }
    });
}

#[test]
fn a_hop_by_hop_router_alert_opens_nothing() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [side4, side6] = sides();
        // RFC 2711: option 5, length 2, value 0, and two bytes of padding.
        let alert = |upper, payload: &[u8]| extension(upper, [5, 2, 0, 0, 1, 0], payload);
        let closed = alert(6, &syn(OTHER_PORT));
        bench.both_say(&six(side6.stranger, side6.me, 0, 64, &closed), Reason::NoRule);
        // Listener reports bring one; they pass from the link only.
        let report = alert(58, &icmp(131, 0, &[0; 16]));
        let near: IpAddr = "fe80::9".parse().unwrap();
        bench.both_say(&six(near, side6.me, 0, 1, &report), Reason::MulticastListener);
        bench.both_say(&six(side6.stranger, side6.me, 0, 1, &report), Reason::IcmpType);
        bench.both_say(&six(near, side6.me, 0, 255, &report), Reason::IcmpType);
        // RFC 2113.
        let frame = four(side4.stranger, side4.me, 0, &[148, 4, 0, 0], &syn(OTHER_PORT));
        bench.both_say(&frame, Reason::NoRule);
    });
}

#[test]
fn a_jumbogram_is_no_way_in() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [_, side] = sides();
        // RFC 2675: payload length 0, and the true one in a hop-by-hop option.
        let jumbo = extension(6, [0xc2, 4, 0, 1, 0, 0], &syn(FEDERATION_PORT));
        let mut frame = six(side.stranger, side.me, 0, 64, &jumbo);
        frame[14 + 4..14 + 6].copy_from_slice(&[0, 0]);
        bench.both_say(&frame, Reason::Truncated);
    });
}

#[test]
fn what_ipsec_hides_passes_by_no_port() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            // AH in front of a segment to an open port, and ESP that looks like one.
            let mut ah = vec![6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
            ah.resize(24, 0);
            ah.extend(syn(FEDERATION_PORT));
            bench.both_say(&frame(side.stranger, side.me, 51, &ah), Reason::NoRule);
            let esp = syn(FEDERATION_PORT);
            bench.both_say(&frame(side.stranger, side.me, 50, &esp), Reason::NoRule);
            // Other tunnels: IPv4, IPv6, GRE, IPIP, L2TP, SCTP.
            for protocol in [4, 41, 47, 94, 115, 132, 136] {
                let inner = ip(side.partner, side.me, 6, &syn(FEDERATION_PORT));
                bench.both_say(&frame(side.stranger, side.me, protocol, &inner), Reason::NoRule);
            }
        }
    });
}

#[test]
fn sources_that_no_packet_has_are_dropped_at_open_ports_too() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [side4, side6] = sides();
        let segment = syn(FEDERATION_PORT);
        for source in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            let from = source.parse().unwrap();
            bench.both_say(&frame(from, side4.me, 6, &segment), Reason::BadSource);
        }
        for source in [
            "::",
            "::1",
            "ff02::1",
            "ff05::2",
            // An IPv4-mapped address is none on the wire (RFC 4942 section 2.2): a blocked or
            // trusted IPv4 address could otherwise be worn by an IPv6 packet.
            "::ffff:198.18.1.1",
            "::ffff:127.0.0.1",
            "::ffff:192.0.2.1",
        ] {
            let from = source.parse().unwrap();
            bench.both_say(&frame(from, side6.me, 6, &segment), Reason::BadSource);
        }
        // What only a host without an address may send.
        let request = udp(68, 67, &[0; 8]);
        let nobody = Ipv4Addr::UNSPECIFIED.into();
        bench.both_say(&frame(nobody, side4.me, 17, &request), Reason::NoRule);
        bench.both_say(&frame(nobody, side4.me, 17, &udp(68, 68, &[0; 8])), Reason::BadSource);
    });
}

#[test]
fn lengths_that_lie_are_refused() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [side4, side6] = sides();
        let good = frame(side4.stranger, side4.me, 6, &syn(FEDERATION_PORT));
        let with4 = |at: usize, bytes: &[u8]| {
            let mut frame = good.clone();
            frame[14 + at..14 + at + bytes.len()].copy_from_slice(bytes);
            frame
        };
        bench.both_say(&with4(0, &[0x44]), Reason::IpHeader);
        bench.both_say(&with4(0, &[0x05]), Reason::IpHeader);
        bench.both_say(&with4(0, &[0x55]), Reason::IpHeader);
        bench.both_say(&with4(0, &[0x65]), Reason::IpHeader);
        bench.both_say(&with4(2, &[0, 19]), Reason::BadLength);
        bench.both_say(&with4(2, &[0, 41]), Reason::BadLength);
        bench.both_say(&with4(2, &[0xff, 0xff]), Reason::BadLength);
        // No room for a TCP header, though its bytes follow as padding.
        bench.both_say(&with4(2, &[0, 39]), Reason::Truncated);
        bench.both_say(&with4(2, &[0, 20]), Reason::Truncated);
        // The TCP header's own length.
        bench.both_say(&with4(32, &[0x40]), Reason::BadLength);
        bench.both_say(&with4(32, &[0x60]), Reason::BadLength);
        bench.both_say(&with4(32, &[0xf0]), Reason::BadLength);
        for side in [side4, side6] {
            for (length, reason) in [
                (0, Reason::BadLength),
                (7, Reason::BadLength),
                (8, Reason::Rule),
                (12, Reason::Rule),
                (13, Reason::BadLength),
                (0xffff, Reason::BadLength),
            ] {
                let mut datagram = udp(4000, FEDERATION_PORT, &[0; 4]);
                datagram[4..6].copy_from_slice(&u16::to_be_bytes(length));
                bench.both_say(&frame(side.stranger, side.me, 17, &datagram), reason);
            }
        }
        let mut long = frame(side6.stranger, side6.me, 6, &syn(FEDERATION_PORT));
        long[14 + 4..14 + 6].copy_from_slice(&[0, 21]);
        bench.both_say(&long, Reason::BadLength);
        long[14 + 4..14 + 6].copy_from_slice(&[0, 19]);
        bench.both_say(&long, Reason::Truncated);
    });
}

#[test]
fn a_packet_cut_anywhere_is_never_passed() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let (next, packet) = chain(&[0, 43, 60], 6, &syn(FEDERATION_PORT));
            let mut whole = vec![
                frame(side.stranger, side.me, 6, &syn(FEDERATION_PORT)),
                frame(side.stranger, side.me, 17, &udp(4000, FEDERATION_PORT, &[])),
                tagged(
                    &[(0x88a8, VLAN), (0x8100, INNER_VLAN)],
                    side.stranger,
                    side.me,
                    6,
                    &syn(FEDERATION_PORT),
                ),
            ];
            if side.me.is_ipv4() {
                whole.push(four(side.stranger, side.me, 0, &[1; 40], &syn(FEDERATION_PORT)));
            } else {
                whole.push(six(side.stranger, side.me, next, 64, &packet));
            }
            for frame in whole {
                bench.both_say(&frame, Reason::Rule);
                for length in 14..frame.len() {
                    let (verdict, reason) = bench.kernel.judge(&frame[..length]).unwrap();
                    assert_eq!(verdict, Verdict::Drop, "{length} of {}: {reason:?}", frame.len());
                    assert_eq!(bench.on_host(&frame[..length]).reason, reason);
                }
            }
        }
    });
}

#[test]
fn scans_by_flags_get_nowhere() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            for port in [FEDERATION_PORT, OTHER_PORT] {
                let mut flags = |flags: u8, reason| {
                    let segment = tcp(4000, port, flags);
                    bench.both_say(&frame(side.stranger, side.me, 6, &segment), reason);
                };
                // NULL, FIN, XMAS, SYN with FIN, SYN with RST, everything; and with ECN bits.
                for scan in [0, 0x01, 0x29, 0x03, 0x06, 0x07, 0x3f, 0xff, 0x08, 0x20, 0xc0] {
                    flags(scan, Reason::TcpFlags);
                }
                // What a stack sends is a matter of rules: SYN (and with ECN), SYN ACK, ACK, FIN
                // ACK, RST. Without a connection, none but the open port's passes.
                let expected = if port == FEDERATION_PORT { Reason::Rule } else { Reason::NoRule };
                for sent in [SYN, 0xc2, SYN_ACK, ACK, 0x11, 0x18, 0x04, 0x14] {
                    flags(sent, expected);
                }
            }
        }
    });
}

#[test]
fn neighbour_discovery_comes_from_the_link_only_and_in_one_piece() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [_, side] = sides();
        for kind in 133..=136 {
            let message = icmp(kind, 0, &[0; 16]);
            bench.both_say(
                &six(side.stranger, side.me, 58, 255, &message),
                Reason::NeighbourDiscovery,
            );
            bench.both_say(
                &six(side.stranger, side.me, 58, 254, &message),
                Reason::NeighbourHopLimit,
            );
            // RFC 6980: never as a fragment, and no extension header hides that.
            let piece = extension(58, [0, 1, 0, 0, 0, 9], &message);
            bench.both_say(&six(side.stranger, side.me, 44, 255, &piece), Reason::Fragment);
            let (next, hidden) = chain(&[60], 44, &piece);
            bench.both_say(&six(side.stranger, side.me, next, 255, &hidden), Reason::Fragment);
        }
        // Redirects steer a host's way.
        let redirect = icmp(137, 0, &[0; 32]);
        bench.both_say(&six(side.stranger, side.me, 58, 255, &redirect), Reason::IcmpType);
        let [side, _] = sides();
        let redirect = icmp(5, 0, &[0; 32]);
        bench.both_say(&frame(side.stranger, side.me, 1, &redirect), Reason::IcmpType);
    });
}

#[test]
fn first_fragments_too_short_to_be_judged_are_dropped() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [side4, side6] = sides();
        let segment = syn(FEDERATION_PORT);
        for length in [0, 4, 8, 16, 19] {
            let frame = four(side4.stranger, side4.me, 0x2000, &[], &segment[..length]);
            bench.both_say(&frame, Reason::Fragment);
            let piece = extension(6, [0, 1, 0, 0, 0, 3], &segment[..length]);
            bench.both_say(&six(side6.stranger, side6.me, 44, 64, &piece), Reason::Fragment);
        }
        // The chain of headers goes on in the next fragment (RFC 7112).
        let options = extension(6, [0; 6], &[]);
        let piece = extension(60, [0, 1, 0, 0, 0, 3], &options);
        bench.both_say(&six(side6.stranger, side6.me, 44, 64, &piece), Reason::Fragment);
        // A first fragment is judged by its port like any packet.
        let closed = four(side4.stranger, side4.me, 0x2000, &[], &syn(OTHER_PORT));
        bench.both_say(&closed, Reason::NoRule);
        let closed = extension(6, [0, 1, 0, 0, 0, 3], &syn(OTHER_PORT));
        bench.both_say(&six(side6.stranger, side6.me, 44, 64, &closed), Reason::NoRule);
    });
}

/// A piece of a TCP segment: IPv4 or IPv6 by the addresses, with this identification. `offset`
/// counts units of eight bytes.
fn piece(ends: (IpAddr, IpAddr), id: u8, offset: u16, more: bool, bytes: &[u8]) -> Vec<u8> {
    let (from, to) = ends;
    if from.is_ipv4() {
        let field = offset | if more { 0x2000 } else { 0 };
        let mut frame = four(from, to, field, &[], bytes);
        frame[14 + 4..14 + 6].copy_from_slice(&[0x77, id]);
        return frame;
    }
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    six(from, to, 44, 64, &extension(6, [high, low, 0, 0, 0x77, id], bytes))
}

/// Asserts that kernel and host agree, with what they remember of the frames before.
#[track_caller]
fn then(bench: &mut Bench, frame: &[u8], reason: Reason) {
    bench.kernel_says(frame, reason);
    assert_eq!(bench.on_host(frame).reason, reason, "on the host, frame {frame:02x?}");
}

#[test]
fn later_fragments_go_the_way_of_their_first() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let ends = (side.stranger, side.me);
            let first = [syn(FEDERATION_PORT), vec![0; 4]].concat();
            let closed = [syn(OTHER_PORT), vec![0; 4]].concat();
            // No first one, one that was dropped, and one that passed.
            then(&mut bench, &piece(ends, 1, 3, false, &[0; 16]), Reason::Fragment);
            then(&mut bench, &piece(ends, 2, 0, true, &closed), Reason::NoRule);
            then(&mut bench, &piece(ends, 2, 3, false, &[0; 16]), Reason::Fragment);
            then(&mut bench, &piece(ends, 3, 0, true, &first), Reason::Rule);
            then(&mut bench, &piece(ends, 3, 3, true, &[0; 16]), Reason::FragmentTracked);
            then(&mut bench, &piece(ends, 3, 5, false, &[0; 5]), Reason::FragmentTracked);
            // Another identification, another source, another destination: another packet.
            then(&mut bench, &piece(ends, 4, 6, false, &[0; 16]), Reason::Fragment);
            let others = [(side.partner, side.me), (side.stranger, side.second)];
            for other in others {
                then(&mut bench, &piece(other, 3, 9, false, &[0; 16]), Reason::Fragment);
            }
            // A block holds for pieces too.
            let blocked = (side.blocked, side.me);
            then(&mut bench, &piece(blocked, 3, 9, false, &[0; 16]), Reason::BlockedAddress);
            // Lengths that no packet can have (RFC 791, RFC 8200 section 4.5).
            then(&mut bench, &piece(ends, 3, 9, true, &[0; 15]), Reason::BadLength);
            then(&mut bench, &piece(ends, 3, 9, false, &[]), Reason::BadLength);
            then(&mut bench, &piece(ends, 3, 0x1fff, false, &[0; 16]), Reason::BadLength);
        }
    });
}

#[test]
fn the_pieces_of_managements_packets_follow_their_first() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let ends = (side.management, side.me);
            let first = [syn(MANAGEMENT_PORT), vec![0; 4]].concat();
            then(&mut bench, &piece(ends, 1, 3, false, &[0; 16]), Reason::Fragment);
            then(&mut bench, &piece(ends, 2, 0, true, &first), Reason::Management);
            then(&mut bench, &piece(ends, 2, 3, true, &[0; 16]), Reason::FragmentTracked);
            then(&mut bench, &piece(ends, 2, 1, false, &[0; 16]), Reason::FragmentOverlap);
            let stranger = (side.stranger, side.me);
            then(&mut bench, &piece(stranger, 3, 0, true, &first), Reason::NoRule);
            then(&mut bench, &piece(stranger, 3, 3, true, &[0; 16]), Reason::Fragment);
        }
    });
}

#[test]
fn a_fragment_that_reaches_into_one_before_it_spoils_the_packet() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let ends = (side.stranger, side.me);
            let first = [syn(FEDERATION_PORT), vec![0; 4]].concat();
            // RFC 3128: the second piece would write another port over the first one's.
            for (id, offset) in [(1, 1), (2, 2)] {
                then(&mut bench, &piece(ends, id, 0, true, &first), Reason::Rule);
                let over = piece(ends, id, offset, false, &[0; 16]);
                then(&mut bench, &over, Reason::FragmentOverlap);
                // Nothing more of this packet passes, so it is never put together.
                let next = piece(ends, id, 3, false, &[0; 16]);
                then(&mut bench, &next, Reason::FragmentOverlap);
            }
            // A first piece that comes again, with another port in it.
            then(&mut bench, &piece(ends, 3, 0, true, &first), Reason::Rule);
            let again = piece(ends, 3, 0, true, &first);
            then(&mut bench, &again, Reason::FragmentOverlap);
            then(&mut bench, &piece(ends, 3, 3, false, &[0; 16]), Reason::FragmentOverlap);
        }
    });
}

#[test]
fn a_fragment_header_around_a_whole_packet_changes_nothing_and_two_are_none() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [_, side] = sides();
        let ends = (side.stranger, side.me);
        // RFC 6946: an atomic fragment is judged by itself, again and again.
        for _ in 0..3 {
            let whole = piece(ends, 1, 0, false, &syn(FEDERATION_PORT));
            bench.both_say(&whole, Reason::Rule);
        }
        let inner = extension(6, [0, 1, 0, 0, 0, 1], &syn(FEDERATION_PORT));
        let two = six(side.stranger, side.me, 44, 64, &extension(44, [0, 1, 0, 0, 0, 2], &inner));
        bench.both_say(&two, Reason::Fragment);
    });
}

#[test]
fn an_ipv4_source_route_is_refused_wherever_it_stands() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [side, _] = sides();
        let table: [(&[u8], Reason); 10] = [
            (&[131, 7, 4, 10, 0, 0, 1, 0], Reason::SourceRoute),
            (&[137, 7, 4, 10, 0, 0, 1, 0], Reason::SourceRoute),
            (&[1, 1, 1, 131], Reason::SourceRoute),
            (&[148, 4, 0, 0, 137, 3, 4, 0], Reason::SourceRoute),
            (&[7, 7, 4, 0, 0, 0, 0, 131], Reason::SourceRoute),
            // Behind the end of the list, and inside another option, it is none.
            (&[0, 131, 3, 4], Reason::Rule),
            (&[7, 8, 4, 131, 7, 4, 0, 0], Reason::Rule),
            // Options that do not fit.
            (&[7, 1, 1, 1], Reason::IpHeader),
            (&[7, 5, 0, 0], Reason::IpHeader),
            (&[1, 1, 1, 7], Reason::IpHeader),
        ];
        for (options, reason) in table {
            let frame = four(side.stranger, side.me, 0, options, &syn(FEDERATION_PORT));
            bench.both_say(&frame, reason);
        }
    });
}

#[test]
fn nobody_outside_has_an_address_of_ours() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let own = Block::new(SCOPE_ALL, Reason::BadSource as u8, 1, 0);
        for side in sides() {
            let length = if side.me.is_ipv4() { 32 } else { 128 };
            bench.change(|tables| block(tables, side.me, length, own));
            // Land: from us to us; and spoofed to another of our addresses.
            for to in [side.me, side.second] {
                let frame = frame(side.me, to, 6, &tcp(FEDERATION_PORT, FEDERATION_PORT, SYN));
                bench.both_say(&frame, Reason::BadSource);
            }
        }
    });
}
