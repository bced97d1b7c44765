//! What the program costs: the verifier's instructions, and time for one packet.

use std::time::Duration;

use edge_ebpf::{abi::map_names, verdict::Reason};
use edge_tests::{bare::BareDrop, packets::*};

use crate::fixture::*;

/// More instructions than this and loading takes a noticeable time; the kernel's limit is a
/// million.
const MOST_INSTRUCTIONS: u32 = 250_000;

#[test]
fn the_verifier_has_room_left() {
    let bench = Bench::new();
    for (program, count) in bench.kernel.verified_instructions().unwrap() {
        println!("{program}: {count} instructions verified");
        assert!(count > 0 && count < MOST_INSTRUCTIONS, "{program}: {count}");
    }
}

#[test]
fn every_map_of_the_layout_is_in_the_program() {
    let mut bench = Bench::new();
    let names = bench.kernel.map_names();
    for name in [
        map_names::SETTINGS,
        map_names::INTERFACES,
        map_names::VLANS,
        map_names::PORT_WORDS,
        map_names::PROTOCOL_WORDS,
        map_names::RULES,
        map_names::SOURCES4,
        map_names::SOURCES6,
        map_names::DESTINATIONS,
        map_names::BLOCKED4,
        map_names::BLOCKED4_PREFIXES,
        map_names::BLOCKED6,
        map_names::BLOCKED6_PREFIXES,
        map_names::PRESENCE4,
        map_names::PRESENCE6,
        map_names::REASON_COUNTERS,
        map_names::RULE_COUNTERS,
        map_names::EVENTS,
        map_names::FLOWS,
    ] {
        assert!(names.iter().any(|there| there == name), "{name} is not in {names:?}");
    }
    assert_eq!(bench.kernel.events().unwrap().len(), 0);
}

#[test]
fn time_for_one_packet_is_told_beside_a_bare_drop() {
    const REPEAT: u32 = 100_000;
    in_namespace(|| {
        let mut bench = Bench::new();
        let bare = BareDrop::load().unwrap();
        for side in sides() {
            let cases = [
                ("blocked", side.blocked, 81, ACK, Reason::BlockedAddress),
                ("open port", side.stranger, FEDERATION_PORT, ACK, Reason::Rule),
                ("unknown syn", side.stranger, 81, SYN, Reason::NoRule),
                ("unknown ack", side.stranger, 81, ACK, Reason::NoRule),
            ];
            for (name, from, port, flags, reason) in cases {
                let packet = frame(from, side.me, 6, &tcp(4000, port, flags));
                bench.both_say(&packet, reason);
                let (mut bare_times, mut our_times) = (Vec::new(), Vec::new());
                for _round in 0..5 {
                    bare_times.push(bare.time(&packet, REPEAT).unwrap());
                    our_times.push(bench.kernel.time(&packet, REPEAT).unwrap());
                }
                bare_times.sort();
                our_times.sort();
                let (bare, ours) = (bare_times[2], our_times[2]);
                println!("{name}, from {from}: {ours:?}, bare drop {bare:?}");
                assert!(ours < Duration::from_micros(5), "{name}: {ours:?}");
            }
        }
    });
}

#[test]
fn events_are_sampled_by_reason_and_off_by_default() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [four, six] = sides();
        let drops = [four, six].map(|side| frame(side.blocked, side.me, 17, &udp(99, 81, &[])));
        for packet in &drops {
            bench.both_say(packet, Reason::BlockedAddress);
        }
        assert_eq!(bench.kernel.events().unwrap().len(), 0);
        bench.change(|tables| tables.settings.events_per_second = 1);
        for _ in 0..20 {
            for packet in &drops {
                bench.both_say(packet, Reason::BlockedAddress);
            }
        }
        let passed = frame(four.stranger, four.me, 6, &tcp(1, FEDERATION_PORT, SYN));
        bench.both_say(&passed, Reason::Rule);
        let events = bench.kernel.events().unwrap();
        // One a second on each processor, and the run may have crossed into the next second.
        assert!((1..=8).contains(&events.len()), "{}", events.len());
        let first = events[0];
        assert_eq!(first.source, sixteen(four.blocked));
        assert_eq!(first.destination, sixteen(four.me));
        assert_eq!((first.source_port, first.destination_port), ([0, 99], [0, 81]));
        assert_eq!((first.protocol, first.reason), (17, Reason::BlockedAddress as u8));
        assert_eq!((first.ether_type, first.vlan, first.zone), ([8, 0], 0, 0));
        assert_eq!((first.monitored, first.rule), (0, u32::MAX));
        assert_eq!(first.length as usize, drops[0].len());
    });
}

#[test]
fn a_new_second_has_events_again_after_one_that_used_them_up() {
    in_namespace(|| {
        stay_on_one_cpu();
        let mut bench = Bench::new();
        bench.change(|tables| tables.settings.events_per_second = 2);
        let [side, _] = sides();
        let packet = frame(side.blocked, side.me, 17, &udp(99, 81, &[]));
        let mut drop = |count| {
            for _ in 0..count {
                bench.kernel.run(&packet).unwrap();
            }
            bench.kernel.events().unwrap().len()
        };
        // From the beginning of a second on, so that all fall into one.
        let began = now_seconds();
        while now_seconds() == began {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(drop(1), 1);
        assert_eq!(drop(200), 1);
        assert_eq!(drop(1), 0);
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(drop(1), 1);
    });
}
