//! The daemon is replaced again and again, and swaps its rules, while frames never stop: how many
//! were judged, and which wrongly.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use edge_user::{
    config::Config,
    firewall::{
        BlockOwner, BlockRequest, FirewallHandle, Intent, Owner, OwnerOptions, StartReport, inspect,
    },
};
use ipnet::IpNet;

use super::{
    Row,
    raw::{self, Tiny},
};
use crate::{
    packets,
    patience::BUSY,
    wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire, ifindex, open_port},
};

/// What everybody may send to.
const OPEN: u16 = 7001;
/// Only the blocked send here; nobody is there.
const BAIT: u16 = 7002;
/// Sources that the file blocks.
const BLOCKED: [&str; 2] = ["203.0.113.66/32", "2001:db8:66::/48"];
/// Rule sets that each daemon puts in force after its first.
const SWAPS: u16 = 3;
/// Reasons of frames that the wire itself brings.
const OWN: [&str; 3] = ["neighbour-discovery", "arp", "multicast-listener"];

/// How much is sent and replaced.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Frames that pass, in a row. They cost the stack more than the others cost us.
    pub passed: u32,
    /// Frames that are dropped, in a row.
    pub dropped: u32,
    /// At least so many programs.
    pub programs: usize,
    /// At least so long.
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Programs that followed each other on the device.
    pub programs: usize,
    /// Rule sets that were put in force meanwhile.
    pub rule_sets: usize,
    /// Frames that were judged.
    pub judged: u64,
    /// Frames a second.
    pub rate: f64,
    /// Packets by reason.
    pub reasons: Vec<(&'static str, u64)>,
    /// What was judged wrongly, or not at all. Empty: nothing.
    pub wrong: Vec<String>,
}

fn config(config: &mut Config) {
    config.firewall.rules.push(open_port("open", OPEN));
    config.firewall.rules.push(open_port("bait", BAIT));
    config.firewall.events_per_second = 0;
    config.firewall.blocks = BLOCKED.iter().filter_map(|prefix| prefix.parse().ok()).collect();
}

fn start(wire: &Wire, config: Arc<Config>) -> Result<(FirewallHandle, StartReport)> {
    Ok(wire.edge.run(move || Owner::start(OwnerOptions::new(&config), config))??)
}

fn wait_lock_free(wire: &Wire) -> Result<()> {
    while inspect::status(&wire.pins)?.daemon {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn counted(wire: &Wire) -> Result<Vec<(&'static str, u64)>> {
    Ok(inspect::reasons(&wire.pins)?.iter().map(|row| (row.name, row.packets)).collect())
}

/// Frames that the device's receive queues have taken in.
fn received(wire: &Wire) -> Result<u64> {
    let output = wire.edge.command("ethtool").args(["-S", DEVICE]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let packets = text.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once(": ")?;
        let counts = name.starts_with("rx_queue_") && name.ends_with("_xdp_packets");
        counts.then(|| value.parse::<u64>().ok())?
    });
    Ok(packets.sum())
}

/// What was counted and what was taken in, when nothing is under way between the two.
fn settled(wire: &Wire) -> Result<(Vec<(&'static str, u64)>, u64)> {
    let began = Instant::now();
    let mut before = (counted(wire)?, received(wire)?);
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = (counted(wire)?, received(wire)?);
        if now == before {
            return Ok(now);
        }
        ensure!(began.elapsed() < BUSY, "frames go on coming");
        before = now;
    }
}

/// Frames that may pass and frames that may not, both families.
fn frames() -> [Vec<u8>; 4] {
    let blocked = BLOCKED.map(|prefix| prefix.parse::<IpNet>().map_or(PEER4.into(), |p| p.addr()));
    let udp = |from: IpAddr, to: IpAddr, port: u16| {
        packets::frame(from, to, 17, &packets::udp(40_000, port, b"0123456789abcdefgh"))
    };
    [
        udp(PEER4.into(), EDGE4.into(), OPEN),
        udp(blocked[0], EDGE4.into(), BAIT),
        udp(PEER6.into(), EDGE6.into(), OPEN),
        udp(blocked[1], EDGE6.into(), BAIT),
    ]
}

/// Sends all four kinds in turn until `stop`; counts rounds.
fn send(load: Load, stop: &AtomicBool, rounds: &AtomicU64) -> Result<()> {
    raw::stay_on_one_cpu();
    let generator = raw::load(Tiny::Transmit)?;
    let peer = ifindex("peer0").context("no peer0")?;
    let counts = [load.passed, load.dropped, load.passed, load.dropped];
    while !stop.load(Ordering::Relaxed) {
        for (frame, count) in frames().iter().zip(counts) {
            raw::send(generator.as_fd(), frame, peer, count)?;
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A new daemon adopts, gives the link its own program, swaps the rules, and goes.
fn one_daemon(wire: &Wire) -> Result<u32> {
    let (handle, report) = start(wire, wire.config_with(config))?;
    let attached = report.attached.first().context("nothing attached")?;
    ensure!(report.adopted && attached.adopted, "not adopted: {report:?}");
    for number in 0..SWAPS {
        let extra = wire.config_with(|file| {
            config(file);
            file.firewall.rules.insert(0, open_port("extra", 8000 + number));
        });
        let block = BlockRequest {
            prefix: "192.0.2.128/25".parse()?,
            owner: BlockOwner::Administrator,
            comment: None,
            expires_at: None,
        };
        handle.apply_blocking(vec![Intent::SetConfig(extra), Intent::Block(block)])?;
    }
    let program = attached.program_id;
    // The next one comes while a shadow counts.
    handle.apply_blocking(vec![Intent::SetShadow(wire.config_with(config))])?;
    drop(handle);
    wait_lock_free(wire)?;
    Ok(program)
}

/// Replaces the daemon under traffic.
///
/// # Errors
/// When the wire, the daemon or the generator fails; what is judged wrongly is in the outcome.
pub fn run(tag: &str, load: Load) -> Result<Outcome> {
    let wire = Wire::new(tag)?;
    // The far end's receive queue is there only while it has a program of its own.
    let pass = raw::load(Tiny::Pass)?;
    let attach = || Ok(raw::attach(&pass, ifindex("peer0").context("no peer0")?)?);
    let _far = wire.peer.run(|| -> Result<_> { attach() })??;
    drop(start(&wire, wire.config_with(config))?);
    wait_lock_free(&wire)?;
    let (before, first) = settled(&wire)?;
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut programs = BTreeSet::new();
    let mut daemons = 0;
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| wire.peer.run(|| send(load, &stop, &rounds)));
        let mut replace = || -> Result<()> {
            while programs.len() < load.programs || began.elapsed() < load.time {
                programs.insert(one_daemon(&wire)?);
                daemons += 1;
                ensure!(!sender.is_finished(), "the generator has stopped");
            }
            Ok(())
        };
        let replaced = replace();
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| anyhow::anyhow!("the generator panicked"))?;
        replaced.and(sent?)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let (after, last) = settled(&wire)?;
    let reasons: Vec<(&str, u64)> = after
        .iter()
        .zip(&before)
        .map(|((name, now), (_, then))| (*name, now - then))
        .filter(|(_, packets)| *packets > 0)
        .collect();
    let judged: u64 = reasons.iter().map(|(_, packets)| packets).sum();
    let sent = [load.passed, load.dropped]
        .map(|count| rounds.load(Ordering::Relaxed) * u64::from(count) * 2);
    let wrong = faults(&wire, &reasons, last - first, sent)?;
    Ok(Outcome {
        programs: programs.len(),
        rule_sets: daemons * (usize::from(SWAPS) + 1),
        judged,
        rate: judged as f64 / seconds,
        reasons,
        wrong,
    })
}

/// What the counters hold against it.
fn faults(
    wire: &Wire,
    reasons: &[(&'static str, u64)],
    taken: u64,
    [passed, dropped]: [u64; 2],
) -> Result<Vec<String>> {
    let of = |name: &str| reasons.iter().find(|(n, _)| *n == name).map_or(0, |(_, count)| *count);
    let mut wrong = Vec::new();
    let judged: u64 = reasons.iter().map(|(_, packets)| packets).sum();
    if judged != taken {
        wrong.push(format!("{taken} frames were taken in, {judged} were judged"));
    }
    for (name, packets) in reasons {
        let ours = ["rule", "blocked-address"].contains(name);
        let the_wires = OWN.contains(name) && *packets < 100;
        if !ours && !the_wires {
            wrong.push(format!("{packets} frames for the reason {name}"));
        }
    }
    if of("rule") > passed || of("blocked-address") > dropped {
        wrong.push(format!("{passed} and {dropped} were sent: {reasons:?}"));
    }
    let rules = inspect::rules(&wire.pins, &wire.state)?;
    let count = |name: &str| rules.iter().find(|r| r.rule.name == name).map_or(0, |r| r.packets);
    if count("bait") != 0 {
        wrong.push(format!("{} frames of blocked sources passed", count("bait")));
    }
    if count("open") != of("rule") {
        wrong.push(format!("{} passed by their rule, {} in all", count("open"), of("rule")));
    }
    Ok(wrong)
}

/// The benchmark: a million frames a second, and not one judged wrongly.
///
/// # Errors
/// When something fails, or one was.
pub fn bench(say: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let time = Duration::from_secs(10);
    let load = Load { passed: 4096, dropped: 1_000_000, programs: 5, time };
    let outcome = run("bup", load)?;
    say(&format!(
        "{} programs and {} rule sets while {} frames were judged: {:?}",
        outcome.programs, outcome.rule_sets, outcome.judged, outcome.reasons
    ));
    ensure!(outcome.wrong.is_empty(), "judged wrongly: {}", outcome.wrong.join("; "));
    Ok(vec![Row {
        path: "live replace program".to_owned(),
        unit: "Mpps",
        ours: outcome.rate / 1e6,
        peer: "target",
        peer_value: 1.0,
    }])
}
