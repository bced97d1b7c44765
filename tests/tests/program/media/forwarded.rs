//! What leaves, byte by byte, and what is kept of it.

use edge_ebpf::{
    abi::{
        CONTENT_ANY, MEDIA_BY_DAEMON, MEDIA_LEARNED, MediaState, SETTING_BLOCKS, SETTING_CEILING,
        SETTING_MONITOR,
    },
    verdict::Reason,
};
use edge_tests::kernel::{TEST_IFINDEX, XDP_PASS, XDP_TX};

use super::*;

/// Takes the link layer off: addresses, tag, and the rest as an untagged frame.
fn untagged(frame: &[u8]) -> ([u8; 12], Option<u16>, Vec<u8>) {
    let link: [u8; 12] = frame[..12].try_into().unwrap();
    if frame[12..14] == [0x81, 0] {
        let rest = [&link[..], &frame[16..]].concat();
        (link, Some(u16::from_be_bytes([frame[14], frame[15]])), rest)
    } else {
        (link, None, frame.to_vec())
    }
}

/// Checks everything of a frame that left for the endpoint, by what is on the wire alone.
#[track_caller]
fn check(left: &[u8], out_six: bool, vlan: Option<u16>, payload: &[u8], checksum: bool) {
    let (link, tag, frame) = untagged(left);
    assert_eq!((&link[..6], &link[6..]), (&NEXT_HOP[..], &DEVICE[..]));
    assert_eq!(tag, vlan);
    let (source, destination, segment) = answered(&frame, !out_six);
    assert_eq!((source, destination), inside(out_six));
    if out_six {
        assert_eq!(frame[12..14], [0x86, 0xdd]);
        assert_eq!((frame[20], frame[21]), (17, 63), "protocol and hops");
        assert_eq!(u16::from_be_bytes([frame[18], frame[19]]) as usize, segment.len());
    } else {
        assert_eq!(frame[12..15], [8, 0, 0x45]);
        assert_eq!((frame[23], frame[22]), (17, 63), "protocol and hops");
        assert_eq!(u16::from_be_bytes([frame[16], frame[17]]) as usize, 20 + segment.len());
        let sum: u32 =
            frame[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the header's checksum");
    }
    assert_eq!(segment[..4], [FROM.to_be_bytes(), TO.to_be_bytes()].concat());
    assert_eq!(u16::from_be_bytes([segment[4], segment[5]]) as usize, segment.len());
    assert_eq!(segment[8..], *payload);
    if checksum {
        assert_ne!(segment[6..8], [0, 0]);
        assert!(checksum_is_right(source, destination, 17, &segment));
    } else {
        assert_eq!(segment[6..8], [0, 0]);
    }
}

#[test]
fn packets_go_on_with_new_ends_and_right_checksums_each_way_tagged_or_not() {
    in_namespace(|| {
        each_way(|relay| {
            let out_six = relay.flow.flags & MEDIA_OUT_IPV6 != 0;
            let mut sequence = 0;
            for vlan in [None, Some(300)] {
                relay.alter(|flow| flow.vlan = vlan.unwrap_or(0));
                for tags in TAGS {
                    for bytes in [0, 1, 2, 3, 160, 161, 1188] {
                        sequence += 1;
                        let payload = rtp(sequence, 7, bytes);
                        let frame = tag(&relay.sent(&payload), tags);
                        let left = relay.forwarded(&frame);
                        check(&left, out_six, vlan, &payload, true);
                    }
                }
            }
            let state = relay.state();
            assert_eq!((state.packets, state.dropped), (sequence.into(), 0));
        });
    });
}

#[test]
fn a_datagram_without_a_checksum_stays_without_one_or_gets_its_first() {
    in_namespace(|| {
        let [four, _] = sides();
        for out_six in [false, true] {
            let mut relay = Relay::new(four, out_six);
            for bytes in [0, 1, 2, 3, 4, 5, 6, 7, 8, 160, 1188] {
                let payload = rtp(1, 7, bytes);
                let mut frame = relay.sent(&payload);
                frame[40..42].copy_from_slice(&[0, 0]);
                check(&relay.forwarded(&frame), out_six, None, &payload, out_six);
            }
        }
    });
}

#[test]
fn every_sum_is_followed_also_those_that_are_zero_in_one_of_their_forms() {
    in_namespace(|| {
        each_way(|relay| {
            relay.open(|flow| flow.content = CONTENT_ANY);
            let (six, out_six) = (relay.side.me.is_ipv6(), relay.flow.flags & MEDIA_OUT_IPV6 != 0);
            let at = |six: bool| if six { 60 } else { 40 };
            let came = |relay: &Relay, payload: &[u8]| {
                let frame = relay.sent(payload);
                u16::from_be_bytes([frame[at(six)], frame[at(six) + 1]])
            };
            let leaves = |payload: &[u8]| {
                let (from, to) = inside(out_six);
                let frame = datagram((from, FROM), (to, TO), payload);
                u16::from_be_bytes([frame[at(out_six)], frame[at(out_six) + 1]])
            };
            // The payloads that make the sum zero as it comes and as it leaves, and their
            // neighbours.
            let (first, second) = (came(relay, &[0, 0]), leaves(&[0, 0]));
            for base in [first, second] {
                for near in [-2_i32, -1, 0, 1, 2] {
                    let value = (i32::from(base) + near).rem_euclid(0x1_0000) as u16;
                    let payload = value.to_be_bytes();
                    let left = relay.forwarded(&relay.sent(&payload));
                    check(&left, out_six, None, &payload, true);
                }
            }
            assert_eq!(came(relay, &first.to_be_bytes()), 0xffff);
            assert_eq!(leaves(&second.to_be_bytes()), 0xffff);
        });
    });
}

#[test]
fn what_the_packet_says_of_itself_goes_along() {
    in_namespace(|| {
        each_way(|relay| {
            let (six, out_six) = (relay.side.me.is_ipv6(), relay.flow.flags & MEDIA_OUT_IPV6 != 0);
            let mut frame = relay.sent(&rtp(1, 7, 20));
            // Expedited forwarding, and a flow label or "do not fragment".
            if six {
                frame[14..18].copy_from_slice(&[0x6b, 0x81, 0x23, 0x45]);
            } else {
                (frame[15], frame[20]) = (0xb8, 0x40);
                frame[24..26].copy_from_slice(&[0, 0]);
                frame = summed(frame);
            }
            let left = relay.forwarded(&frame);
            match (six, out_six) {
                (true, true) => assert_eq!(left[14..18], [0x6b, 0x81, 0x23, 0x45]),
                (false, true) => assert_eq!(left[14..18], [0x6b, 0x80, 0, 0]),
                (false, false) => {
                    assert_eq!((left[15], &left[18..22]), (0xb8, &[0x12, 0x34, 0x40, 0][..]))
                }
                (true, false) => {
                    assert_eq!((left[15], &left[18..22]), (0xb8, &[0, 0, 0x40, 0][..]))
                }
            }
        });
    });
}

#[test]
fn padding_of_a_short_frame_counts_for_nothing() {
    in_namespace(|| {
        each_way(|relay| {
            let payload = rtp(1, 7, 0);
            let frame = relay.sent(&payload);
            let padded = [&frame[..], &[0x55; 12]].concat();
            let left = relay.forwarded(&padded);
            let out_six = relay.flow.flags & MEDIA_OUT_IPV6 != 0;
            check(&left[..left.len() - 12], out_six, None, &payload, true);
            assert_eq!(relay.state().bytes, frame.len() as u64);
        });
    });
}

#[test]
fn a_packet_that_leaves_by_the_device_it_came_in_on_is_sent_back_at_once() {
    in_namespace(|| {
        each_way(|relay| {
            relay.open(|flow| flow.ifindex = TEST_IFINDEX);
            let payload = rtp(1, 7, 20);
            let outcome = relay.outcome(&relay.sent(&payload));
            assert_eq!((outcome.action, outcome.reason), (XDP_TX, Reason::MediaRelayed));
            let out_six = relay.flow.flags & MEDIA_OUT_IPV6 != 0;
            check(&outcome.frame, out_six, None, &payload, true);
        });
    });
}

#[test]
fn a_pinhole_changes_hops_and_link_addresses_and_nothing_else() {
    in_namespace(|| {
        for side in sides() {
            let mut relay = Relay::new(side, side.me.is_ipv6());
            let (_, to) = inside(side.me.is_ipv6());
            relay.bench.change(|tables| {
                tables.settings.flags |= edge_ebpf::abi::SETTING_PINHOLES;
            });
            let pinhole = MediaFlow {
                local: sixteen(to),
                local_port: TO.to_be_bytes(),
                flags: MEDIA_RTP,
                ..relay.flow
            };
            relay.bench.kernel.set_media_flow(SLOT, &pinhole).unwrap();
            relay.bench.kernel.set_pinhole(ZONE_EXTERNAL, to, TO, SLOT).unwrap();
            for tags in TAGS {
                for none in [false, true] {
                    let mut frame = datagram((side.stranger, REMOTE), (to, TO), &rtp(1, 7, 33));
                    if none && side.me.is_ipv4() {
                        frame[40..42].copy_from_slice(&[0, 0]);
                    }
                    let left = relay.forwarded(&tag(&frame, tags));
                    frame[..6].copy_from_slice(&NEXT_HOP);
                    frame[6..12].copy_from_slice(&DEVICE);
                    if side.me.is_ipv4() {
                        frame[22] = 63;
                        frame[24..26].copy_from_slice(&[0, 0]);
                        let sum = summed(frame.clone());
                        frame[24..26].copy_from_slice(&sum[24..26]);
                    } else {
                        frame[21] = 63;
                    }
                    assert_eq!(left, frame);
                }
            }
            // Its neighbours are not open: what is for somebody else goes nowhere.
            for (to, port) in [(to, TO + 1), (side.second, TO), (inside(!to.is_ipv6()).1, TO)] {
                if to.is_ipv6() == side.me.is_ipv6() {
                    let frame = datagram((side.stranger, REMOTE), (to, port), &rtp(1, 7, 33));
                    relay.dropped(&frame, Reason::NoRule);
                }
            }
        }
    });
}

#[test]
fn calls_to_one_endpoints_port_have_each_their_own_flow() {
    in_namespace(|| {
        for side in sides() {
            let mut relay = Relay::new(side, side.me.is_ipv6());
            let (_, to) = inside(side.me.is_ipv6());
            relay.bench.change(|tables| {
                tables.settings.flags |= edge_ebpf::abi::SETTING_PINHOLES;
            });
            // Three calls: of two ports of one address, and of another address.
            let others = [
                (side.stranger, REMOTE, STATE + 1),
                (side.stranger, REMOTE + 2, STATE + 2),
                (side.partner, REMOTE, STATE + 3),
            ];
            for (at, (source, port, state)) in (0..).zip(others) {
                let next = if at < 2 { SLOT as u16 + at + 2 } else { 0 };
                let pinhole = MediaFlow {
                    call: u64::from(state),
                    source: sixteen(source),
                    source_port: port.to_be_bytes(),
                    local: sixteen(to),
                    local_port: TO.to_be_bytes(),
                    flags: MEDIA_RTP,
                    state,
                    next,
                    ..relay.flow
                };
                let slot = SLOT + 1 + u32::from(at);
                relay.bench.kernel.set_media_flow(slot, &pinhole).unwrap();
            }
            relay.bench.kernel.set_pinhole(ZONE_EXTERNAL, to, TO, SLOT + 1).unwrap();
            relay.bench.kernel.media_learned().unwrap();
            for (source, port, state) in others.into_iter().rev() {
                for sequence in [1, 2] {
                    let frame = datagram((source, port), (to, TO), &rtp(sequence, state, 33));
                    relay.forwarded(&frame);
                }
                let counted = relay.bench.kernel.media_state(state).unwrap();
                assert_eq!((counted.packets, counted.dropped, counted.ssrc), (2, 0, state));
            }
            let learned = relay.bench.kernel.media_learned().unwrap();
            let states: Vec<u32> = learned.iter().map(|learned| learned.state).collect();
            assert_eq!(states, [STATE + 3, STATE + 2, STATE + 1]);
            // Who belongs to none is the first one's to refuse.
            let stranger = datagram((side.second, REMOTE), (to, TO), &rtp(9, 9, 33));
            relay.dropped(&stranger, Reason::MediaSource);
            assert_eq!(relay.bench.kernel.media_state(STATE + 1).unwrap().dropped, 1);
        }
    });
}

#[test]
fn what_was_sent_is_counted_and_rtp_is_measured() {
    in_namespace(|| {
        each_way(|relay| {
            let mut bytes = 0;
            let before = relay.bench.kernel.reason_counter(Reason::MediaRelayed).unwrap();
            for sequence in [100, 101, 103, 104] {
                let frame = relay.sent(&rtp(sequence, 0x0102_0304, 160));
                bytes += frame.len() as u64;
                relay.forwarded(&frame);
            }
            let (source, port) = (sixteen(relay.side.stranger), REMOTE);
            relay.dropped(
                &relay.sent_from(relay.side.stranger, 1, &rtp(1, 1, 1)),
                Reason::MediaSource,
            );
            let state = relay.state();
            let expected = MediaState {
                packets: 4,
                bytes,
                dropped: 1,
                source,
                source_port: port.to_be_bytes(),
                epoch: 1,
                learned: MEDIA_LEARNED,
                ssrc: 0x0102_0304,
                first_sequence: 100,
                highest_sequence: 104,
                received: 4,
                // Clocks: looked at below.
                last_seen: state.last_seen,
                arrival: state.arrival,
                timestamp: state.timestamp,
                jitter: state.jitter,
                jitter_sequence: state.jitter_sequence,
                ..MediaState::default()
            };
            assert_eq!(state, expected);
            assert_eq!((state.timestamp, state.jitter_sequence), (104 * 160, 104));
            let age = now_seconds() - state.last_seen / 1_000_000_000;
            assert!(age < 30, "{age} s ago");
            let learned = relay.bench.kernel.media_learned().unwrap();
            assert_eq!(learned.len(), 1);
            let event = learned[0];
            assert_eq!((event.call, event.state, event.epoch), (5, STATE, 1));
            assert_eq!((event.source, event.source_port), (source, port.to_be_bytes()));
            let counter = relay.bench.kernel.reason_counter(Reason::MediaRelayed).unwrap();
            let more = (counter.packets - before.packets, counter.bytes - before.bytes);
            assert_eq!(more, (4, bytes));
        });
    });
}

#[test]
fn neither_monitor_mode_nor_a_ceiling_nor_a_shadow_keeps_a_flow_from_being_forwarded() {
    in_namespace(|| {
        each_way(|relay| {
            let frame = relay.sent(&rtp(1, 7, 20));
            relay.bench.change(|tables| tables.settings.flags |= SETTING_BLOCKS);
            relay.forwarded(&frame);
            relay.bench.change(|tables| tables.settings.flags |= SETTING_CEILING);
            relay.forwarded(&frame);
            relay.bench.change(|tables| {
                tables.settings.flags &= !SETTING_CEILING;
                tables.settings.flags |= SETTING_MONITOR;
            });
            relay.forwarded(&frame);
            // What the flow refuses is counted, and passes to the stack, which forwards nothing.
            let stranger = relay.sent_from(relay.side.stranger, 1, &rtp(1, 7, 20));
            let outcome = relay.outcome(&stranger);
            assert_eq!((outcome.action, outcome.reason), (XDP_PASS, Reason::MediaSource));
            assert_eq!(outcome.frame, stranger);
            relay.bench.change(|tables| {
                tables.settings.flags &= !SETTING_MONITOR;
                tables.settings.shadow = edge_ebpf::abi::GENERATION_SHADOW;
            });
            relay.forwarded(&frame);
        });
    });
}

#[test]
fn a_flow_of_the_daemons_goes_up_to_it_under_the_same_rules() {
    in_namespace(|| {
        each_way(|relay| {
            relay.open(|flow| {
                flow.flags |= MEDIA_BY_DAEMON;
                flow.ifindex = 0;
            });
            let frame = relay.sent(&rtp(1, 7, 20));
            let outcome = relay.outcome(&frame);
            assert_eq!((outcome.action, outcome.reason), (XDP_PASS, Reason::MediaToDaemon));
            assert_eq!(outcome.frame, frame);
            let stranger = relay.sent_from(relay.side.stranger, 1, &rtp(1, 7, 20));
            relay.dropped(&stranger, Reason::MediaSource);
            assert_eq!((relay.state().packets, relay.state().dropped), (1, 1));
        });
    });
}

#[test]
fn a_trial_tells_what_the_flow_would_do_and_changes_nothing() {
    in_namespace(|| {
        each_way(|relay| {
            const MAGIC: u64 = 0x5eed;
            relay.bench.change(|tables| tables.settings.trial = MAGIC);
            let right = relay.sent(&rtp(1, 7, 20));
            let wrong = relay.sent_from(relay.side.stranger, 1, &rtp(1, 7, 20));
            for (frame, reason, verdict) in
                [(&right, Reason::MediaRelayed, 3), (&wrong, Reason::MediaLearning, 1)]
            {
                let before = relay.bench.kernel.all_counters().unwrap();
                let trial = relay.bench.kernel.trial(frame, MAGIC).unwrap().unwrap();
                assert_eq!(
                    (trial.reason, trial.verdict, trial.flow),
                    (reason as u8, verdict, SLOT)
                );
                assert_eq!(trial.rule, edge_ebpf::decide::NO_RULE);
                assert_eq!(relay.bench.kernel.all_counters().unwrap(), before);
            }
            assert_eq!(relay.state(), MediaState::default());
            assert!(relay.bench.kernel.media_learned().unwrap().is_empty());
        });
    });
}
