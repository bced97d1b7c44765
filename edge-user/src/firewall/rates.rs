//! How much the firewall does in a second: two snapshots of the counters, and what lies between.
//!
//! The kernel measures the programs' run time only while somebody watches: it costs every packet
//! two reads of the clock.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::sys::{Stats, enable_stats};
use edge_ebpf::abi::map_names as names;
use serde::Serialize;

use super::{
    FirewallError, attach, counters,
    counters::InterfaceCount,
    explain, inspect,
    inspect::{ReasonRow, RuleCount},
};

/// Tables with more entries than this are counted once, not at every snapshot.
const COUNTED_EACH_TIME: u64 = 20_000;
/// Rows of a list.
const TOP: usize = 10;

/// Keeps the kernel's measuring on.
pub struct Watch {
    pins: PathBuf,
    state: PathBuf,
    /// As long as this is open, run times are measured.
    _stats: Option<OwnedFd>,
    tables: (u64, u64),
}

/// The counters at one time.
#[derive(Debug)]
pub struct Snapshot {
    at: Instant,
    reasons: Vec<ReasonRow>,
    rules: Vec<RuleCount>,
    interfaces: Vec<InterfaceCount>,
    run_time: Duration,
    runs: u64,
    blocks: u64,
    flows: u64,
}

/// A named rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Of what.
    pub name: String,
    /// Packets a second.
    pub packets_per_second: f64,
    /// Bits a second.
    pub bits_per_second: f64,
}

/// What one interface does in a second, in packets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InterfaceRate {
    /// Device, and VLAN.
    pub interface: String,
    /// `external`, `internal` or `none`.
    pub zone: &'static str,
    /// Packets a second that passed, were dropped, were answered.
    pub passed: f64,
    /// See `passed`.
    pub dropped: f64,
    /// See `passed`.
    pub answered: f64,
}

/// What lies between two snapshots.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Time between them.
    pub seconds: f64,
    /// By verdict: pass, drop, answer.
    pub verdicts: Vec<Rate>,
    /// The reasons with the most packets.
    pub reasons: Vec<Rate>,
    /// The rules with the most packets.
    pub rules: Vec<Rate>,
    /// Every interface.
    pub interfaces: Vec<InterfaceRate>,
    /// Average time of the program for one packet; `None`: there was none, or it is not measured.
    pub nanoseconds_per_packet: Option<f64>,
    /// Share of one CPU that the program took.
    pub cpu_share: Option<f64>,
    /// Blocked addresses and prefixes.
    pub blocks: u64,
    /// Flows remembered at egress.
    pub flows: u64,
}

impl Watch {
    /// Begins to measure. Without the right to (or on a kernel before 5.8) run times are missing.
    pub fn start(pins: &Path, state: &Path) -> Self {
        let stats = enable_stats(Stats::RunTime).ok();
        Self { pins: pins.to_owned(), state: state.to_owned(), _stats: stats, tables: (0, 0) }
    }

    /// The counters now.
    pub fn snapshot(&mut self) -> Result<Snapshot, FirewallError> {
        let (mut run_time, mut runs) = (Duration::ZERO, 0);
        let mut ids: Vec<u32> =
            attach::attached(&self.pins)?.iter().map(|device| device.program_id).collect();
        ids.sort_unstable();
        ids.dedup();
        for info in ids.into_iter().filter_map(explain::program_info) {
            run_time += info.run_time();
            runs += info.run_count();
        }
        if self.tables.0 <= COUNTED_EACH_TIME && self.tables.1 <= COUNTED_EACH_TIME {
            self.tables = self.count_tables()?;
        }
        Ok(Snapshot {
            at: Instant::now(),
            reasons: inspect::reasons(&self.pins)?,
            rules: inspect::rules(&self.pins, &self.state)?,
            interfaces: counters::interfaces(&self.pins)?,
            run_time,
            runs,
            blocks: self.tables.0,
            flows: self.tables.1,
        })
    }

    fn count_tables(&self) -> Result<(u64, u64), FirewallError> {
        let (mut blocks, mut flows) = (0, 0);
        for map in inspect::maps(&self.pins)? {
            match map.name.as_str() {
                names::BLOCKED4
                | names::BLOCKED6
                | names::BLOCKED4_PREFIXES
                | names::BLOCKED6_PREFIXES => blocks += map.entries,
                names::FLOWS => flows = map.entries,
                _ => {}
            }
        }
        Ok((blocks, flows))
    }
}

impl Snapshot {
    /// What happened since an earlier one.
    pub fn since(&self, earlier: &Self) -> Rates {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64().max(0.001);
        let reasons: Vec<(&'static str, Rate)> = self
            .reasons
            .iter()
            .map(|row| {
                let before = earlier.reasons.iter().find(|other| other.name == row.name);
                let before = before.map_or((0, 0), |before| (before.packets, before.bytes));
                (row.verdict, rate(row.name, (row.packets, row.bytes), before, seconds))
            })
            .collect();
        let verdicts = ["pass", "drop", "answer"].map(|verdict| {
            let mine = reasons.iter().filter(|(of, _)| *of == verdict).map(|(_, rate)| rate);
            let (packets, bits) = mine.fold((0.0, 0.0), |(packets, bits), rate| {
                (packets + rate.packets_per_second, bits + rate.bits_per_second)
            });
            Rate { name: verdict.to_owned(), packets_per_second: packets, bits_per_second: bits }
        });
        let mut rules: Vec<Rate> = Vec::new();
        for row in &self.rules {
            // A rule with several ports has several rows, and one counter.
            if rules.iter().any(|known| known.name == row.rule.name) {
                continue;
            }
            let before = earlier.rules.iter().find(|other| other.rule.name == row.rule.name);
            let before = before.map_or((0, 0), |before| (before.packets, before.bytes));
            rules.push(rate(&row.rule.name, (row.packets, row.bytes), before, seconds));
        }
        let interfaces = self.interfaces.iter().map(|row| {
            let before = earlier.interfaces.iter().find(|other| other.interface == row.interface);
            let before = before.map_or((0, 0, 0), |b| (b.passed, b.dropped, b.answered));
            let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            InterfaceRate {
                interface: row.interface.clone(),
                zone: row.zone,
                passed: each(row.passed, before.0),
                dropped: each(row.dropped, before.1),
                answered: each(row.answered, before.2),
            }
        });
        let runs = self.runs.saturating_sub(earlier.runs);
        let time = self.run_time.saturating_sub(earlier.run_time);
        let measured = runs > 0 && !time.is_zero();
        Rates {
            seconds,
            verdicts: verdicts.to_vec(),
            reasons: top(reasons.into_iter().map(|(_, rate)| rate).collect()),
            rules: top(rules),
            interfaces: interfaces.collect(),
            nanoseconds_per_packet: measured.then(|| time.as_nanos() as f64 / runs as f64),
            cpu_share: measured.then(|| time.as_secs_f64() / seconds),
            blocks: self.blocks,
            flows: self.flows,
        }
    }
}

/// Counters that were cleared meanwhile give zero.
fn rate(name: &str, now: (u64, u64), before: (u64, u64), seconds: f64) -> Rate {
    Rate {
        name: name.to_owned(),
        packets_per_second: now.0.saturating_sub(before.0) as f64 / seconds,
        bits_per_second: now.1.saturating_sub(before.1) as f64 * 8.0 / seconds,
    }
}

/// The busiest; what rests is left out.
fn top(mut rates: Vec<Rate>) -> Vec<Rate> {
    rates.retain(|rate| rate.packets_per_second > 0.0);
    rates.sort_by(|a, b| b.packets_per_second.total_cmp(&a.packets_per_second));
    rates.truncate(TOP);
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(at: Instant, packets: u64, runs: u64) -> Snapshot {
        let row = |name, verdict, packets| ReasonRow {
            name,
            verdict,
            packets,
            bytes: packets * 100,
            explain: "",
        };
        Snapshot {
            at,
            reasons: vec![
                row("rule", "pass", packets),
                row("no-rule", "drop", 3 * packets),
                row("arp", "pass", 5),
            ],
            rules: Vec::new(),
            interfaces: Vec::new(),
            run_time: Duration::from_nanos(50 * runs),
            runs,
            blocks: 7,
            flows: 1,
        }
    }

    #[test]
    fn rates_are_what_lies_between_by_the_time_between() {
        let start = Instant::now();
        let before = snapshot(start, 1000, 0);
        let rates = snapshot(start + Duration::from_secs(2), 2000, 4_000_000).since(&before);
        let verdicts: Vec<f64> = rates.verdicts.iter().map(|v| v.packets_per_second).collect();
        assert_eq!(verdicts, [500.0, 1500.0, 0.0]);
        assert_eq!(rates.verdicts[1].bits_per_second, 1_200_000.0);
        let names: Vec<&str> = rates.reasons.iter().map(|rate| rate.name.as_str()).collect();
        assert_eq!(names, ["no-rule", "rule"], "the busiest first, what rests not at all");
        assert_eq!(rates.nanoseconds_per_packet, Some(50.0));
        assert_eq!(rates.cpu_share, Some(0.1));
        let rest = before.since(&before);
        assert_eq!((rest.nanoseconds_per_packet, rest.cpu_share), (None, None));
    }
}
