//! The program is replaced again and again while frames never stop: not one is judged wrongly.

use std::{
    net::IpAddr,
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use edge_tests::{
    bench::raw::{self, Tiny},
    packets,
    wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire, ifindex, open_port},
};
use edge_user::{
    config::Config,
    firewall::{BlockOwner, BlockRequest, Intent, inspect},
};
use ipnet::IpNet;

use super::{start, wait_lock_free};

/// What everybody may send to.
const OPEN: u16 = 7001;
/// Only the blocked send here; nobody is there.
const BAIT: u16 = 7002;
/// Frames of one kind in a row. Those that pass cost the stack more than the others cost us.
const PASSED: u32 = 4096;
const DROPPED: u32 = 65_536;
/// Programs that follow each other at least.
const PROGRAMS: usize = 5;
/// Frames a second that must at least arrive.
const RATE: f64 = 100_000.0;

fn config(config: &mut Config) {
    config.firewall.rules.push(open_port("open", OPEN));
    config.firewall.rules.push(open_port("bait", BAIT));
    config.firewall.events_per_second = 0;
    let drops = |prefix: &str| prefix.parse::<IpNet>().unwrap();
    config.firewall.blocks = vec![drops("203.0.113.66/32"), drops("2001:db8:66::/48")];
}

/// Packets by reason.
fn counted(wire: &Wire) -> Vec<(&'static str, u64)> {
    inspect::reasons(&wire.pins).unwrap().iter().map(|row| (row.name, row.packets)).collect()
}

/// Frames that the device's receive queues have taken in.
fn received(wire: &Wire) -> u64 {
    let output = wire.edge.command("ethtool").args(["-S", DEVICE]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let packets = text.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once(": ")?;
        let counts = name.starts_with("rx_queue_") && name.ends_with("_xdp_packets");
        counts.then(|| value.parse::<u64>().ok())?
    });
    packets.sum()
}

/// Frames that may pass and frames that may not, both families.
fn frames() -> [Vec<u8>; 4] {
    let blocked4 = IpAddr::from([203, 0, 113, 66]);
    let blocked6: IpAddr = "2001:db8:66::1".parse().unwrap();
    let udp = |from: IpAddr, to: IpAddr, port: u16| {
        packets::frame(from, to, 17, &packets::udp(40_000, port, b"0123456789abcdefgh"))
    };
    [
        udp(PEER4.into(), EDGE4.into(), OPEN),
        udp(blocked4, EDGE4.into(), BAIT),
        udp(PEER6.into(), EDGE6.into(), OPEN),
        udp(blocked6, EDGE6.into(), BAIT),
    ]
}

/// Sends all four kinds in turn until `stop`; counts rounds.
fn send(stop: &AtomicBool, rounds: &AtomicU64) {
    raw::stay_on_one_cpu();
    let generator = raw::load(Tiny::Transmit).unwrap();
    let peer = ifindex("peer0").unwrap();
    let frames = frames();
    while !stop.load(Ordering::Relaxed) {
        for (frame, count) in frames.iter().zip([PASSED, DROPPED, PASSED, DROPPED]) {
            raw::send(generator.as_fd(), frame, peer, count).unwrap();
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_program_is_replaced_under_traffic_and_not_one_packet_is_judged_wrongly() {
    let wire = Wire::new("at").unwrap();
    // The far end's receive queue is there only while it has a program of its own.
    let pass = raw::load(Tiny::Pass).unwrap();
    let _far = wire.peer.run(|| raw::attach(&pass, ifindex("peer0").unwrap())).unwrap().unwrap();
    let (handle, _) = start(&wire, wire.config_with(config)).unwrap();
    drop(handle);
    wait_lock_free(&wire);
    // The wire brings frames of its own (neighbour discovery); only those of ours are counted.
    let (before, first) = (counted(&wire), received(&wire));
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut programs = std::collections::BTreeSet::new();
    let (mut replaced, mut swapped) = (0, 0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| wire.peer.run(|| send(&stop, &rounds)).unwrap());
        let long_enough = |programs: usize| {
            let time = began.elapsed();
            (programs >= PROGRAMS && time > Duration::from_secs(3))
                || time > Duration::from_secs(60)
        };
        while !long_enough(programs.len()) && !sender.is_finished() {
            // A new daemon adopts, gives the links its own program, swaps the rules, and goes.
            let (handle, report) = start(&wire, wire.config_with(config)).unwrap();
            assert!(report.adopted && report.attached[0].adopted);
            programs.insert(report.attached[0].program_id);
            replaced += 1;
            for number in 0..3 {
                let extra = wire.config_with(|file| {
                    config(file);
                    file.firewall.rules.insert(0, open_port("extra", 8000 + number));
                });
                let (prefix, expires_at) = ("192.0.2.128/25".parse().unwrap(), None);
                let owner = BlockOwner::Administrator;
                let block = BlockRequest { prefix, owner, comment: None, expires_at };
                handle
                    .apply_blocking(vec![Intent::SetConfig(extra), Intent::Block(block)])
                    .unwrap();
                swapped += 1;
            }
            drop(handle);
            wait_lock_free(&wire);
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
    });
    let seconds = began.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_millis(100));
    let (after, last) = (counted(&wire), received(&wire));
    let grown: Vec<(&str, u64)> = after
        .iter()
        .zip(&before)
        .map(|((name, now), (_, then))| (*name, now - then))
        .filter(|(_, packets)| *packets > 0)
        .collect();
    let of = |name: &str| grown.iter().find(|(n, _)| *n == name).map_or(0, |(_, count)| *count);
    let rounds = rounds.into_inner();
    let sent = [PASSED, DROPPED].map(|count| rounds * u64::from(count) * 2);
    let judged: u64 = grown.iter().map(|(_, packets)| packets).sum();
    let rate = judged as f64 / seconds;
    eprintln!(
        "{replaced} programs, {swapped} rule sets, {judged} frames judged ({rate:.0}/s): {grown:?}"
    );
    assert!(programs.len() >= PROGRAMS, "{programs:?}");
    assert!(rate > RATE, "{rate} frames a second");
    // Each frame that the device took was judged once, by the old program or the new.
    assert_eq!(judged, last - first, "frames that no program judged, or two");
    // By reasons: what may pass passed by its rule, what may not was dropped by its block.
    let own = ["neighbour-discovery", "arp", "multicast-listener"];
    for (name, packets) in &grown {
        let expected =
            ["rule", "blocked-address"].contains(name) || (own.contains(name) && *packets < 100);
        assert!(expected, "{packets} for the reason {name}: {grown:?}");
    }
    let [passed, dropped] = sent;
    assert!(of("rule") <= passed && of("blocked-address") <= dropped, "{sent:?}: {grown:?}");
    let rules = inspect::rules(&wire.pins, &wire.state).unwrap();
    let bait = rules.iter().find(|row| row.rule.name == "bait").unwrap();
    assert_eq!(bait.packets, 0, "a blocked source passed");
    let open = rules.iter().find(|row| row.rule.name == "open").unwrap();
    assert_eq!(open.packets, of("rule"), "every packet that passed, passed by its rule");
}
