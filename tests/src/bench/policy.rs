//! `bench policy`, and a part of `bench xdp`: from a block by policy to the first packet that is
//! dropped, by a sender that never stops; and what loading long lists costs, in time and memory.
//!
//! Every packet carries a number and is remembered with the time it was sent. When the receiver has
//! emptied its queue and nothing comes although packets are sent, the first that did not arrive is
//! the first dropped: the sample is the time from the request to its sending. The request goes to the firewall's owner, as the daemon sends it.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use edge_user::{
    config::{FirewallRule, Protocol, Zone},
    firewall::{
        BlockOwner, BlockRequest, FirewallHandle, Intent, Owner, OwnerOptions, inspect,
        lists::{Content, List, ListAbout},
    },
};
use ipnet::IpNet;

use super::Row;
use crate::wire::{EDGE4, PEER4, Wire};

const PORT: u16 = 7000;
/// Samples of each kind.
const ROUNDS: usize = 200;
/// Time between two packets, at least. The sender sleeps meanwhile: one that spins would take a
/// processor from what is measured.
const SPACING: Duration = Duration::from_micros(20);
/// How long the receiver waits before it says that nothing comes.
const SILENCE: Duration = Duration::from_millis(4);
/// Packets that are sent at least while nothing comes.
const UNANSWERED: u64 = 20;
/// Send times that are remembered.
const RING: usize = 1 << 20;
/// Bytes of a page, where this is measured.
const PAGE: u64 = 4096;
const MILLION: u32 = 1_000_000;

/// What the sender and the receiver tell.
struct Flow {
    began: Instant,
    /// Nanoseconds since `began`, by packet number.
    sent: Vec<AtomicU64>,
    next: AtomicU64,
    /// Number of the last that arrived, plus one.
    arrived: AtomicU64,
    /// How often the receiver's queue was empty, and stayed so.
    silences: AtomicU64,
    stop: AtomicBool,
}

impl Flow {
    fn nanoseconds(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn send(&self, socket: &UdpSocket) {
        never_wait();
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.load(Ordering::Relaxed);
            self.sent[number as usize % RING].store(self.nanoseconds(), Ordering::Relaxed);
            self.next.store(number + 1, Ordering::Release);
            let _ = socket.send(&number.to_be_bytes());
            std::thread::sleep(SPACING);
        }
    }

    fn receive(&self, socket: &UdpSocket) {
        let mut bytes = [0; 8];
        while !self.stop.load(Ordering::Relaxed) {
            if socket.recv(&mut bytes).is_ok() {
                self.arrived.fetch_max(u64::from_be_bytes(bytes) + 1, Ordering::AcqRel);
            } else {
                self.silences.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Waits until packets arrive again.
    fn flows(&self) -> Result<()> {
        let (began, before) = (Instant::now(), self.arrived.load(Ordering::Acquire));
        while self.arrived.load(Ordering::Acquire) < before + 20 {
            ensure!(began.elapsed() < Duration::from_secs(10), "no packet arrives any more");
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// The first that did not arrive, once nothing does.
    fn first_dropped(&self) -> Result<u64> {
        let now = || (self.silences.load(Ordering::Acquire), self.next.load(Ordering::Acquire));
        let (began, (silences, next)) = (Instant::now(), now());
        // A silence may have begun before; the second has not.
        while now().0 < silences + 2 || now().1 < next + UNANSWERED {
            ensure!(began.elapsed() < Duration::from_secs(10), "packets still arrive");
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(self.arrived.load(Ordering::Acquire))
    }
}

/// Lets this thread sleep as short as it says, and run as soon as it wakes, whatever else runs: a
/// sender that is kept from sending has no packet to show when a block was in force.
fn never_wait() {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter is plain data that lives for the call; when one fails, the packets are
    // further apart.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first);
    }
}

/// Times from a block to the first dropped packet, one for each round.
///
/// # Errors
/// When a block is refused, or packets do not flow as they should.
fn samples(
    say: &dyn Fn(&str),
    handle: &FirewallHandle,
    flow: &Flow,
    state: &'static str,
) -> Result<Samples> {
    let prefix = IpNet::from(IpAddr::V4(PEER4));
    let owner = BlockOwner::Administrator;
    let (mut times, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        flow.flows()?;
        let request =
            BlockRequest { prefix, owner: owner.clone(), comment: None, expires_at: None };
        let began = flow.nanoseconds();
        handle.apply_blocking(vec![Intent::Block(request)])?;
        answers.push(Duration::from_nanos(flow.nanoseconds() - began));
        let first = flow.first_dropped()?;
        let sent = flow.sent[first as usize % RING].load(Ordering::Relaxed);
        times.push(Duration::from_nanos(sent.saturating_sub(began)));
        handle.apply_blocking(vec![Intent::Unblock { prefix, owner: owner.clone() }])?;
    }
    let answered = Samples { state, times: answers };
    let [middle, most] = [50, 99].map(|percent| answered.percentile(percent));
    say(&format!("{state}: the request was answered in {middle:?}, p99 {most:?}"));
    Ok(Samples { state, times })
}

/// The samples of one state of the tables.
pub struct Samples {
    /// What else there is or happens.
    pub state: &'static str,
    /// From the block to the first dropped packet.
    pub times: Vec<Duration>,
}

impl Samples {
    /// The time within which so many of a hundred are.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(place).copied().unwrap_or_default()
    }
}

fn big(count: u32) -> Arc<List> {
    let address = |n: u32| {
        IpNet::from(IpAddr::V4(Ipv4Addr::from(0x4000_0000 | n.wrapping_mul(0x9e37_79b1) >> 2)))
    };
    let content: Content = (0..count).map(address).collect();
    let about = ListAbout {
        name: "big".to_owned(),
        comment: None,
        expires_at: None,
        by: "bench".to_owned(),
        at: SystemTime::now(),
    };
    Arc::new(List { about, content: Arc::new(content) })
}

/// Measures everything.
///
/// # Errors
/// When the firewall cannot be set up: not root.
pub fn bench(say: &dyn Fn(&str)) -> Result<Vec<Row>> {
    ensure!(rustix::process::geteuid().is_root(), "the benchmark makes namespaces: run it as root");
    super::raw::leave_the_cpu();
    let wire = Wire::new("pol")?;
    let config = wire.config_with(|config| {
        config.firewall.max_blocked_addresses = MILLION + 100_000;
        config.firewall.rules.push(FirewallRule {
            ports: vec![(PORT, PORT)],
            ..FirewallRule::new("open", Zone::External, Protocol::Udp)
        });
    });
    let (handle, _) = wire.edge.run(move || Owner::start(OwnerOptions::new(&config), config))??;
    // First, while the daemon's memory has no room left over from other lists.
    let mut rows = lists(say, &wire, &handle)?;
    let receiver = wire.edge.run(|| UdpSocket::bind((EDGE4, PORT)))??;
    receiver.set_read_timeout(Some(SILENCE))?;
    let sender = wire.peer.run(|| UdpSocket::bind((PEER4, 0)))??;
    sender.connect((EDGE4, PORT))?;
    let flow = Arc::new(Flow {
        began: Instant::now(),
        sent: (0..RING).map(|_| AtomicU64::new(0)).collect(),
        next: AtomicU64::new(0),
        arrived: AtomicU64::new(0),
        silences: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let threads = [
        std::thread::spawn({
            let flow = Arc::clone(&flow);
            move || flow.send(&sender)
        }),
        std::thread::spawn({
            let flow = Arc::clone(&flow);
            move || flow.receive(&receiver)
        }),
    ];
    let measured = measure(say, &wire, &handle, &flow);
    flow.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    for samples in measured? {
        for percent in [50, 99] {
            rows.push(target(
                format!("block p{percent}, {}", samples.state),
                "µs",
                samples.percentile(percent).as_secs_f64() * 1e6,
                10_000.0,
            ));
        }
    }
    Ok(rows)
}

fn target(path: String, unit: &'static str, ours: f64, peer_value: f64) -> Row {
    Row { path, unit, ours, peer: "target", peer_value }
}

fn measure(
    say: &dyn Fn(&str),
    wire: &Wire,
    handle: &FirewallHandle,
    flow: &Flow,
) -> Result<Vec<Samples>> {
    say("blocks, empty tables");
    let mut all = vec![samples(say, handle, flow, "empty")?];
    say("blocks while 1,000,000 entries are loaded and removed");
    let (other, list, stop) = (handle.clone(), big(MILLION), Arc::new(AtomicBool::new(false)));
    let loader = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                other.set_list_blocking("big", Some(Arc::clone(&list)))?;
                other.set_list_blocking("big", None)?;
            }
            Ok(other.set_list_blocking("big", Some(list)).map(drop)?)
        }
    });
    let loading = samples(say, handle, flow, "1M loading");
    stop.store(true, Ordering::Relaxed);
    loader.join().ok().context("the loader panicked")??;
    all.push(loading?);
    say("blocks beside 1,000,000 entries");
    all.push(samples(say, handle, flow, "1M loaded")?);
    handle.set_list_blocking("big", None)?;
    ensure!(inspect::blocks(&wire.pins)?.is_empty(), "something stayed in the tables");
    Ok(all)
}

/// Loading and removing lists, nothing else going on.
fn lists(say: &dyn Fn(&str), wire: &Wire, handle: &FirewallHandle) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (count, name, most) in [(100_000, "100k", 1000.0), (MILLION, "1M", 5000.0)] {
        say(&format!("loading and removing {count} entries"));
        let list = big(count);
        let size = list.content.len() as f64;
        let kernel = || -> Result<u64> {
            Ok(inspect::maps(&wire.pins)?.iter().map(|map| map.bytes).sum::<u64>())
        };
        let (before, resident) = (kernel()?, resident()?);
        let milliseconds = |took: Duration| took.as_secs_f64() * 1e3;
        let loaded = handle.set_list_blocking("big", Some(list))?;
        let grown = resident_since(resident)?;
        let in_kernel = (kernel()? - before) as f64;
        let removed = handle.set_list_blocking("big", None)?;
        rows.push(target(format!("load {name}"), "ms", milliseconds(loaded.took), most));
        rows.push(target(format!("remove {name}"), "ms", milliseconds(removed.took), most));
        rows.push(target(format!("kernel bytes, {name}"), "B/entry", in_kernel / size, 96.0));
        rows.push(target(format!("more in daemon, {name}"), "B/entry", grown / size, 64.0));
    }
    Ok(rows)
}

/// Memory of this process that is in use, in bytes.
fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split_whitespace().nth(1).context("/proc/self/statm has another form")?;
    Ok(pages.parse::<u64>()? * PAGE)
}

fn resident_since(before: u64) -> Result<f64> {
    Ok(resident()?.saturating_sub(before) as f64)
}
