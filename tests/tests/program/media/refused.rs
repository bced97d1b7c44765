//! Who may not send, and what is not forwarded.

use edge_ebpf::{
    abi::{Limit, MEDIA_BEHIND_NAT},
    verdict::Reason,
};
use edge_tests::kernel::{XDP_DROP, XDP_TX};

use super::*;

#[test]
fn a_spoofed_source_never_takes_a_flow_that_has_learned_its_own() {
    in_namespace(|| {
        each_way(|relay| {
            let right = relay.sent(&rtp(1, 7, 20));
            relay.forwarded(&right);
            let learned = relay.state();
            for (source, port) in [
                (relay.side.stranger, REMOTE + 1),
                (relay.side.partner, REMOTE),
                (relay.side.partner, 1),
            ] {
                for ssrc in [7, 8] {
                    let stolen = relay.sent_from(source, port, &rtp(2, ssrc, 20));
                    for _ in 0..3 {
                        relay.dropped(&stolen, Reason::MediaSource);
                    }
                }
            }
            let after = relay.state();
            assert_eq!(after.dropped, 18);
            assert_eq!(edge_ebpf::abi::MediaState { dropped: 0, ..after }, learned);
            relay.forwarded(&right);
        });
    });
}

#[test]
fn a_source_is_learned_in_the_kernel_as_on_the_host() {
    in_namespace(|| {
        each_way(|relay| {
            let stranger = relay.side.stranger;
            let other = relay.sent_from(stranger, 4001, &rtp(1, 7, 20));
            relay.dropped(&other, Reason::MediaLearning);
            relay.forwarded(&other);
            // The call's own port takes its flow back.
            relay.forwarded(&relay.sent(&rtp(1, 7, 20)));
            relay.dropped(&other, Reason::MediaSource);
            // Another SSRC is another source until it is steady.
            relay.open(|_| ());
            relay.dropped(&other, Reason::MediaLearning);
            let anew = relay.sent_from(stranger, 4001, &rtp(1, 8, 20));
            relay.dropped(&anew, Reason::MediaLearning);
            relay.forwarded(&anew);
            // After the window.
            relay.open(|flow| flow.learn_until_seconds = a_second_ago());
            relay.dropped(&other, Reason::MediaSource);
            relay.forwarded(&relay.sent(&rtp(1, 7, 20)));
            // Behind NAT, anybody in the prefix, who comes twice.
            let bits = if stranger.is_ipv4() { 96 + 24 } else { 64 };
            relay.open(|flow| {
                flow.flags |= MEDIA_BEHIND_NAT;
                (flow.source_bits, flow.source_port) = (bits, [0; 2]);
            });
            let neighbour = match stranger {
                IpAddr::V4(_) => address("203.0.113.77"),
                IpAddr::V6(_) => address("2001:db8:5::77"),
            };
            let far = relay.sent_from(relay.side.partner, 9, &rtp(1, 7, 20));
            let near = relay.sent_from(neighbour, 9, &rtp(1, 7, 20));
            relay.dropped(&far, Reason::MediaSource);
            relay.dropped(&near, Reason::MediaLearning);
            relay.dropped(&far, Reason::MediaSource);
            relay.forwarded(&near);
            relay.dropped(&relay.sent(&rtp(1, 7, 20)), Reason::MediaSource);
            // A new epoch begins anew.
            relay.alter(|flow| flow.epoch += 1);
            let stun = relay.sent_from(stranger, 5, &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
            relay.dropped(&stun, Reason::MediaLearning);
            relay.forwarded(&stun);
            relay.dropped(&near, Reason::MediaSource);
        });
    });
}

#[test]
fn what_a_flow_does_not_take_is_dropped_with_a_reason() {
    in_namespace(|| {
        each_way(|relay| {
            let right = relay.sent(&rtp(1, 7, 20));
            relay.open(|flow| flow.expires_at_seconds = a_second_ago());
            relay.dropped(&right, Reason::MediaExpired);
            relay.open(|flow| flow.call = 0);
            relay.dropped(&right, Reason::MediaExpired);
            assert_eq!(relay.state().dropped, 0, "a free slot has no state");
            relay.open(|flow| flow.ifindex = 0);
            relay.dropped(&right, Reason::MediaNoRoute);
            relay.alter(|flow| (flow.ifindex, flow.state) = (OUT_DEVICE, u32::MAX));
            relay.dropped(&right, Reason::MediaExpired);
            relay.open(|_| ());
            relay.dropped(&relay.sent(b"POST / HTTP/1.1"), Reason::NotMedia);
            relay.dropped(&relay.sent(&[]), Reason::NotMedia);
            let other =
                datagram((relay.side.stranger, REMOTE), (relay.side.second, LOCAL), &rtp(1, 7, 20));
            relay.dropped(&other, Reason::MediaShape);
            // The last hop, and one that is none.
            for hops in [1, 0] {
                let mut last = right.clone();
                if relay.side.me.is_ipv4() {
                    last[22] = hops;
                    last[24..26].copy_from_slice(&[0, 0]);
                    let sums = summed(last.clone());
                    last[24..26].copy_from_slice(&sums[24..26]);
                } else {
                    last[21] = hops;
                }
                relay.dropped(&last, Reason::MediaHops);
            }
            // A packet a minute, and two more at once.
            let increment = 60 * Limit::new(1, 0).increment;
            relay.open(|flow| flow.packets = Limit { increment, tolerance: 2 * increment });
            for _ in 0..3 {
                relay.forwarded(&right);
            }
            relay.dropped(&right, Reason::MediaRate);
            relay.open(|flow| flow.bytes = Limit { increment, tolerance: increment });
            relay.forwarded(&right);
            relay.dropped(&right, Reason::MediaRate);
            assert_eq!((relay.state().packets, relay.state().dropped), (1, 1));
        });
    });
}

#[test]
fn who_sends_what_is_too_long_for_the_device_it_leaves_by_is_told_how_long_it_may_be() {
    in_namespace(|| {
        each_way(|relay| {
            let (six, out_six) = (relay.side.me.is_ipv6(), relay.flow.flags & MEDIA_OUT_IPV6 != 0);
            let header = |six| if six { 40 } else { 20 };
            let payload = rtp(1, 7, 988);
            let leaves = u16::try_from(header(out_six) + 8 + payload.len()).unwrap();
            let frame = whole(relay.sent(&payload));
            for mtu in [0, leaves, u16::MAX] {
                relay.open(|flow| flow.mtu = mtu);
                relay.forwarded(&frame);
            }
            // What it sends has another header than what leaves.
            let told = usize::from(leaves - 1) + header(six) - header(out_six);
            for tags in &TAGS[..2] {
                let frame = tag(&frame, tags);
                relay.open(|flow| flow.mtu = leaves - 1);
                let outcome = relay.outcome(&frame);
                assert_eq!((outcome.reason, outcome.action), (Reason::MediaTooLong, XDP_TX));
                says_how_long(&frame, &outcome.frame, 14 + 4 * tags.len(), told);
                assert_eq!((relay.state().packets, relay.state().dropped), (0, 1));
                // Not for each of them.
                relay.dropped(&frame, Reason::MediaTooLong);
                std::thread::sleep(std::time::Duration::from_millis(150));
                assert_eq!(relay.outcome(&frame).action, XDP_TX);
                // A stranger hears nothing, nor does who has used up what the call agreed to.
                relay.open(|flow| flow.mtu = leaves - 1);
                let stolen = whole(relay.sent_from(relay.side.partner, REMOTE, &payload));
                relay.dropped(&tag(&stolen, tags), Reason::MediaSource);
                let increment = 60 * Limit::new(1, 0).increment;
                relay.open(|flow| {
                    (flow.mtu, flow.bytes) = (leaves - 1, Limit { increment, tolerance: 0 });
                });
                relay.alter(|flow| flow.mtu = leaves);
                relay.forwarded(&frame);
                relay.alter(|flow| flow.mtu = leaves - 1);
                relay.dropped(&frame, Reason::MediaRate);
            }
            // Of two tags, and of IPv4 that may be cut, nobody is told.
            relay.open(|flow| flow.mtu = leaves - 1);
            relay.dropped(&tag(&frame, TAGS[2]), Reason::MediaTooLong);
            if !six {
                // Nobody was told of this flow just before.
                relay.open(|flow| flow.mtu = leaves - 1);
                relay.dropped(&relay.sent(&payload), Reason::MediaTooLong);
            }
        });
    });
}

/// The frame says "do not fragment", if it is IPv4.
fn whole(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12..14] == [0x08, 0] {
        frame[20] |= 0x40;
        frame[24..26].copy_from_slice(&[0, 0]);
        let sums = summed(frame.clone());
        frame[24..26].copy_from_slice(&sums[24..26]);
    }
    frame
}

/// An error goes back where a frame came from, quotes it, and names this length.
#[track_caller]
fn says_how_long(frame: &[u8], error: &[u8], link: usize, mtu: usize) {
    assert_eq!((&error[..6], &error[6..12]), (&frame[6..12], &frame[..6]));
    assert_eq!(error[12..link], frame[12..link]);
    let six = frame[link] >> 4 == 6;
    let header = if six { 40 } else { 20 };
    let (ip, icmp) = error[link..].split_at(header);
    assert_eq!(icmp[8..], frame[link..link + header + 8], "what is quoted");
    let was = &frame[link..];
    if six {
        let length = u16::try_from(icmp.len()).unwrap();
        assert_eq!((ip[0] >> 4, &ip[4..6], ip[6]), (6, &length.to_be_bytes()[..], 58));
        assert_eq!((&ip[8..24], &ip[24..40]), (&was[24..40], &was[8..24]));
        assert_eq!((icmp[0], icmp[1], &icmp[4..8]), (2, 0, &(mtu as u32).to_be_bytes()[..]));
        let pseudo = [&ip[8..40], &length.to_be_bytes()[..], &[0, 58], icmp].concat();
        assert_eq!(packets::checksum(&pseudo), [0, 0]);
    } else {
        let length = u16::try_from(error.len() - link).unwrap();
        assert_eq!((ip[0], &ip[2..4], ip[9]), (0x45, &length.to_be_bytes()[..], 1));
        assert_eq!((&ip[12..16], &ip[16..20]), (&was[16..20], &was[12..16]));
        assert_eq!((icmp[0], icmp[1], &icmp[4..6]), (3, 4, &[0, 0][..]));
        assert_eq!(icmp[6..8], (mtu as u16).to_be_bytes());
        assert_eq!((packets::checksum(ip), packets::checksum(icmp)), ([0, 0], [0, 0]));
    }
}

#[test]
fn options_extension_headers_and_fragments_are_not_forwarded() {
    in_namespace(|| {
        each_way(|relay| {
            let (source, me) = (relay.side.stranger, relay.side.me);
            let datagram = udp(REMOTE, LOCAL, &rtp(1, 7, 20));
            let (odd, first) = match (source, me) {
                (IpAddr::V4(source), IpAddr::V4(me)) => (
                    ethernet(&[], 0x0800, &ipv4(source, me, 17, 0, &[1, 1, 1, 0], &datagram)),
                    ethernet(&[], 0x0800, &ipv4(source, me, 17, 0x2000, &[], &datagram)),
                ),
                (IpAddr::V6(source), IpAddr::V6(me)) => {
                    let options = extension(17, [1, 4, 0, 0, 0, 0], &datagram);
                    let fragment = extension(17, [0, 1, 0, 0, 0, 9], &datagram);
                    (
                        ethernet(&[], 0x86dd, &ipv6(source, me, 60, 64, &options)),
                        ethernet(&[], 0x86dd, &ipv6(source, me, 44, 64, &fragment)),
                    )
                }
                _ => unreachable!(),
            };
            relay.dropped(&odd, Reason::MediaShape);
            // A fragment is no packet of a flow.
            relay.dropped(&first, Reason::NoRule);
            let later = fragment(source, me, 17, &datagram, 8..16, 9);
            relay.dropped(&later, Reason::Fragment);
            // The datagram does not fill its packet.
            let mut short = relay.sent(&rtp(1, 7, 20));
            let at = if me.is_ipv4() { 38 } else { 58 };
            short[at + 1] -= 2;
            relay.dropped(&short, Reason::MediaShape);
            // Over IPv6 there is a checksum; over IPv4 the header has one.
            let mut sumless = relay.sent(&rtp(1, 7, 20));
            let at = if me.is_ipv4() { 24 } else { 60 };
            sumless[at..at + 2].copy_from_slice(&[0, 0]);
            relay.dropped(&sumless, Reason::MediaShape);
        });
    });
}

#[test]
fn no_cut_frame_is_forwarded() {
    in_namespace(|| {
        each_way(|relay| {
            let whole = relay.sent(&rtp(1, 7, 9));
            for length in 14..whole.len() {
                let outcome = relay.outcome(&whole[..length]);
                assert_eq!(outcome.action, XDP_DROP, "{length} bytes");
            }
            assert_eq!(relay.state().packets, 0);
            relay.forwarded(&whole);
        });
    });
}
