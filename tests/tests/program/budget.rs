//! What the program costs: size, the verifier's instructions, the maps' memory, and time for one
//! packet.

use std::{
    io::Write as _,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use edge_ebpf::{
    abi::{
        GENERATIONS, MAX_RATES, MAX_RULES, PORT_WORD_SLOTS, PROTOCOL_WORD_SLOTS, Rule, RuleLimits,
        SetMask, map_names,
    },
    verdict::Reason,
};
use edge_tests::{
    bare::BareDrop,
    bench::{
        memory,
        raw::{MapKind, create_map},
    },
    kernel::{Kernel, ProgramCost, memory as map_memory},
    packets::*,
    patience::{emulated, kernel_version, left_out, patience},
};
use edge_user::firewall::{KERNEL_OBJECT, KERNEL_TOOLCHAIN};
use serde_json::{Map, Value, json};

use crate::fixture::*;

/// The record: what each program costs, by kernel version.
const RECORD: &str = include_str!("budget.json");
/// Where it lies.
const RECORD_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/budget.json");
/// Makes the record anew; `cargo xtask test --update-budget` sets it. `print`: its lines are
/// printed, because the file is not on this machine.
const UPDATE: &str = "EDGE_UPDATE_BUDGET";
/// Begins each line of the record that is printed.
const RECORD_LINE: &str = "record of the programs: ";
/// The kernel's limit on instructions the verifier looks at is a million.
const MOST_INSTRUCTIONS: u32 = 700_000;
/// All maps together.
const MOST_MEMORY: u64 = 64 << 20;
/// Room for blocks of each kind in the default configuration, for what goes and what comes.
const DEFAULT_ROOM: u32 = 2 * 131_072;

fn as_json(cost: &ProgramCost) -> Value {
    json!({
        "verified_instructions": cost.verified_instructions,
        "translated_bytes": cost.translated_bytes,
        "jited_bytes": cost.jited_bytes,
    })
}

#[test]
fn the_programs_have_not_grown_by_a_tenth_without_a_word() {
    let mut kernel = Kernel::load(KERNEL_OBJECT).unwrap();
    kernel.load_rare().unwrap();
    let (major, minor) = kernel_version();
    let version = format!("{major}.{minor} {KERNEL_TOOLCHAIN}");
    let mut costs = Map::new();
    for (program, cost) in kernel.program_costs().unwrap() {
        println!("{version} {program}: {cost:?}");
        assert!(cost.verified_instructions < MOST_INSTRUCTIONS, "{program}: {cost:?}");
        costs.insert(program, as_json(&cost));
    }
    let mut record: Value = serde_json::from_str(RECORD).unwrap();
    if let Ok(how) = std::env::var(UPDATE) {
        record[&version] = Value::Object(costs);
        write_record(&record, how == "print");
        return;
    }
    // Another kernel's verifier counts otherwise, and another compiler's code: without a record
    // there is nothing to hold it to.
    let Some(recorded) = record.get(&version) else {
        left_out(&format!("the growth of the programs: there is no record for {version}"));
        return;
    };
    for (program, cost) in &costs {
        for (what, now) in cost.as_object().unwrap() {
            let allowed = recorded[program][what].as_u64().unwrap_or(0) * 11 / 10;
            let now = now.as_u64().unwrap();
            assert!(
                now <= allowed,
                "{program}: {what} is {now}, more than a tenth above the record: \
                 if that is wanted, `cargo xtask test --update-budget` (with `--kernel` for an \
                 older kernel) writes it down"
            );
        }
    }
}

fn write_record(record: &Value, print: bool) {
    let text = serde_json::to_string_pretty(record).unwrap();
    if !print {
        std::fs::write(RECORD_FILE, text + "\n").unwrap();
        return;
    }
    // To standard output itself, where no successful test's output is kept back.
    let lines = text.lines().map(|line| format!("{RECORD_LINE}{line}\n"));
    std::io::stdout().write_all(format!("\n{}", lines.collect::<String>()).as_bytes()).unwrap();
}

#[test]
fn all_maps_of_the_default_configuration_stay_in_their_memory() {
    // Before 6.4 the kernel accounts for entries that may come, not for those that are there.
    if kernel_version() < (6, 4) {
        left_out("the memory of all maps: this kernel does not tell what is there");
        return;
    }
    let kernel = Kernel::load_with_room(KERNEL_OBJECT, DEFAULT_ROOM).unwrap();
    let mut all = 0;
    for (name, bytes) in kernel.map_memory().unwrap() {
        println!("{name}: {bytes} bytes");
        all += bytes;
    }
    // The inner maps, as the daemon makes them, for every generation.
    for (name, bytes) in inner_maps().unwrap() {
        println!("{name}, each of {GENERATIONS} generations: {bytes} bytes");
        all += bytes * u64::from(GENERATIONS);
    }
    println!("all maps: {all} bytes");
    assert!(all < MOST_MEMORY, "{all} bytes");
}

/// Sizes of the pieces that the kernel's allocator hands out.
const PIECES: [u64; 5] = [32, 64, 96, 128, 192];
/// What a prefix costs at most before 6.18: the nodes of a trie were 16 bytes larger.
const OLDER_PREFIX: u64 = 192;

#[test]
fn a_block_costs_no_more_memory_than_is_stated() {
    if kernel_version() < (6, 4) {
        return;
    }
    const COUNT: u32 = 10_000;
    let mut kernel = Kernel::load_with_room(KERNEL_OBJECT, 2 * COUNT).unwrap();
    for kind in memory::KINDS {
        let of = |kernel: &Kernel| {
            let maps = kernel.map_memory().unwrap();
            maps.iter().find(|(name, _)| name == kind.map).unwrap().1
        };
        let before = of(&kernel);
        memory::fill(&mut kernel, kind, COUNT).unwrap();
        let entry = (of(&kernel) - before) / u64::from(COUNT);
        // Of a trie the account knows neither the inner nodes nor the pointer of its allocator.
        let hash = kind.room > 0;
        let (nodes, bytes) = if hash { (1, entry) } else { (2, entry + 8) };
        let piece = PIECES.into_iter().find(|piece| *piece >= bytes).unwrap();
        println!("{}: {entry} bytes by the kernel's account, {nodes} pieces of {piece}", kind.name);
        let stated = match hash || kernel_version() >= (6, 18) {
            true => kind.entry,
            false => OLDER_PREFIX,
        };
        assert!(nodes * piece <= stated, "{kind:?}: {nodes} pieces of {piece}");
        if hash {
            assert!(before / u64::from(COUNT) <= kind.room, "{kind:?}: {before} set aside");
        }
    }
}

fn inner_maps() -> anyhow::Result<Vec<(&'static str, u64)>> {
    let size = |bytes: usize| u32::try_from(bytes).unwrap();
    let mask = size(size_of::<SetMask>());
    let of = [
        (map_names::PORT_WORDS, MapKind::Array, 4, 4, PORT_WORD_SLOTS),
        (map_names::PROTOCOL_WORDS, MapKind::Array, 4, 4, PROTOCOL_WORD_SLOTS),
        (map_names::RULES, MapKind::Array, 4, size(size_of::<Rule>()), MAX_RULES),
        (map_names::RATES, MapKind::Array, 4, size(size_of::<RuleLimits>()), MAX_RATES),
        (map_names::SOURCES4, MapKind::Trie, 8, mask, 16_384),
        (map_names::SOURCES6, MapKind::Trie, 20, mask, 16_384),
        (map_names::DESTINATIONS, MapKind::Hash, 16, mask, 1024),
    ];
    of.into_iter()
        .map(|(name, kind, key, value, entries)| {
            let map = create_map(kind, key, value, entries)?;
            Ok((name, map_memory(map.as_fd())?))
        })
        .collect()
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
        map_names::PRESENCE6_PAGES,
        map_names::PRESENCE6_SHORT,
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
    let repeat = if emulated() { 5_000 } else { 100_000 };
    let most = patience(Duration::from_micros(5));
    in_namespace(move || {
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
                    bare_times.push(bare.time(&packet, repeat).unwrap());
                    our_times.push(bench.kernel.time(&packet, repeat).unwrap());
                }
                bare_times.sort();
                our_times.sort();
                let (bare, ours) = (bare_times[2], our_times[2]);
                println!("{name}, from {from}: {ours:?}, bare drop {bare:?}");
                // Others may have been at work in most rounds.
                assert!(our_times[0] < most, "{name}: {our_times:?}");
            }
        }
    });
}

#[test]
fn events_are_sampled_by_reason_and_off_by_default() {
    in_namespace(|| {
        stay_on_one_cpu();
        let mut bench = Bench::new();
        let [four, six] = sides();
        let drops = [four, six].map(|side| frame(side.blocked, side.me, 17, &udp(99, 81, &[])));
        for packet in &drops {
            bench.both_say(packet, Reason::BlockedAddress);
        }
        assert_eq!(bench.kernel.events().unwrap().len(), 0);
        bench.change(|tables| tables.settings.events_per_second = 1);
        let began = Instant::now();
        for _ in 0..20 {
            for packet in &drops {
                bench.both_say(packet, Reason::BlockedAddress);
            }
        }
        let passed = frame(four.stranger, four.me, 6, &tcp(1, FEDERATION_PORT, SYN));
        bench.both_say(&passed, Reason::Rule);
        let events = bench.kernel.events().unwrap();
        // One in each second that the run touched: both of its ends cut one short.
        let most = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
        assert!((1..=most).contains(&events.len()), "{} of {most}", events.len());
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
        // All of it must fall into one second: a slow machine needs another try.
        for _try in 0..30 {
            let began = now_seconds();
            while now_seconds() == began {
                std::thread::sleep(Duration::from_millis(1));
            }
            // The program's clock is the coarse one.
            std::thread::sleep(Duration::from_millis(20));
            let second = now_seconds();
            let told = [drop(1), drop(200), drop(1)];
            if now_seconds() == second {
                assert_eq!(told, [1, 1, 0]);
                std::thread::sleep(Duration::from_millis(1100));
                assert_eq!(drop(1), 1);
                return;
            }
        }
        panic!("no try fell into one second");
    });
}
