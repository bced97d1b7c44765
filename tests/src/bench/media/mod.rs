//! What a relayed packet costs: our program in the kernel beside rtpengine in user space and
//! nftables' address translation. All work for a packet is counted alike: the kernel thread that
//! receives for the outer device, and processes; less the same packets dropped at that device.
//! And what many calls cost: see [`calls`].

mod calls;
mod cpu;
mod rtpengine;
mod wire;

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use edge_user::{
    config::{AvService, Interface, Line, MediaMode, MediaPath, Rates, Zone},
    firewall::{FirewallHandle, Owner, OwnerOptions, media::MediaTable},
    media::flow::{CallId, Component, Flow, FlowContent, FlowId, MediaChange, MediaSide, Way},
};
use ipnet::IpNet;

use self::{
    rtpengine::RtpEngine,
    wire::{
        BATCH, INSIDE, INSIDE_DEVICE, Load, OUTSIDE, RECEIVER, RECEIVER_PORT, Row3, SENDER,
        SENDER_PORT, quiet,
    },
};
use super::{ASKED, Row, median, raw};
use crate::wire::{ifindex, small_config};

/// Slow enough for every contender. Of many flows, each is gone from every cache when its next
/// packet comes, a second later.
const SLOW: Load = Load { rate: 10_000, packets: 60_000 };
/// Flows, of which any may be the next packet's.
const FEW: u16 = 10;
const MANY: u16 = 10_000;
/// Of each of many flows 50 packets a second: 20 ms of sound in each.
const OF_CALLS: Load = Load { rate: 50 * MANY as u32, packets: 600_000 };
const FIRST_PORT: u16 = 40_000;
/// Turns of each contender.
const ROUNDS: usize = 5;

/// Measures everything, or with `only` one part: `relay`, `flows` or `calls`.
///
/// # Errors
/// When a contender cannot be set up: not root, or a package is missing.
pub fn bench(say: &dyn Fn(&str), only: Option<&str>) -> Result<Vec<Row>> {
    ensure!(rustix::process::geteuid().is_root(), "the benchmark makes namespaces: run it as root");
    let mut rows = Vec::new();
    if only.is_none_or(|only| only == "relay") {
        rows.extend(relay(say)?);
    }
    if only.is_none_or(|only| only == "flows") {
        rows.extend(flows(say)?);
    }
    if only.is_none_or(|only| only == "calls") {
        rows.extend(calls::calls(say)?);
    }
    ensure!(!rows.is_empty(), "there are the parts relay, flows and calls");
    Ok(rows)
}

/// What packets cost.
struct Cost {
    /// CPU nanoseconds of one that was sent.
    used: f64,
    /// The share that came to the receiver.
    share: f64,
    /// How many there were in a second.
    rate: f64,
}

/// Somebody who relays, and the ports that do.
struct Contender {
    name: &'static str,
    row: Row3,
    /// The first port, and how many.
    ports: (u16, u16),
    processes: Vec<u32>,
    _keep: Keep,
}

#[expect(dead_code, reason = "held until the contender goes")]
enum Keep {
    Edge(FirewallHandle, Box<MediaTable>, Home),
    Programs(Vec<OwnedFd>),
    RtpEngine(RtpEngine, Folder),
    Nothing,
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Contender {
    /// Sends so many packets, and sees what they cost.
    fn measure(&self, load: Load) -> Result<Cost> {
        let mut threads = cpu::device_threads(&self.row.device)?;
        // Ours, of every firewall here: all but one of them wait.
        threads.extend(cpu::threads_named("media")?);
        for process in &self.processes {
            threads.extend(cpu::threads_of(*process)?);
        }
        cpu::pin(&threads, 1, 2);
        cpu::pin(&[0], 0, 1);
        // It takes in what came once the others sleep: who relays wakes it with no word to another
        // CPU, which costs whatever the machine makes of it.
        cpu::pin(&cpu::device_threads(&self.row.last)?, 1, 1);
        // Buffers and caches fill.
        self.row.send(self.ports, Load { packets: load.packets / 30, ..load })?;
        let (before, received) = (cpu::used(&threads)?, self.row.received()?);
        let rate = self.row.send(self.ports, load)?;
        std::thread::sleep(Duration::from_millis(100));
        let used = cpu::used(&threads)?.saturating_sub(before);
        let received = self.row.received()?.saturating_sub(received);
        let sent = f64::from(load.packets);
        Ok(Cost { used: used.as_nanos() as f64 / sent, share: received as f64 / sent, rate })
    }
}

fn relay(say: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let nothing = dropping()?;
    let contenders = [
        by_edge("edge", "bme", FEW, MediaPath::Kernel)?,
        by_edge("edge, many flows", "bmm", MANY, MediaPath::Kernel)?,
        by_edge("edge, by the daemon", "bmd", FEW, MediaPath::Daemon)?,
        by_rtpengine()?,
        by_nftables()?,
    ];
    let all: Vec<&Contender> = contenders.iter().collect();
    let measured = rounds(say, SLOW, &nothing, &all)?;
    let [ours, cold, by_daemon, rtpengine, nftables] = &measured[..] else {
        unreachable!("five contenders")
    };
    let mut rows = vec![
        row("cpu relay", ours, "rtpengine", rtpengine),
        row("cpu relay", ours, "nftables", nftables),
        row(&format!("cpu relay {MANY} flows, each cold"), cold, "10 flows", ours),
        row("cpu relay by the daemon", by_daemon, "rtpengine", rtpengine),
        row("cpu relay by the daemon", by_daemon, "edge", ours),
    ];
    rows.extend(contenders.iter().zip(&measured).map(|(who, what)| what.rate_row(who.name)));
    Ok(rows)
}

/// Many flows, each with as many packets as sound has, beside a few with as many in all: too many
/// packets for the other contenders.
fn flows(say: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let nothing = dropping()?;
    let few = by_edge("edge, few flows", "bmf", FEW, MediaPath::Kernel)?;
    let many = by_edge("edge, many flows", "bmg", MANY, MediaPath::Kernel)?;
    let measured = rounds(say, OF_CALLS, &nothing, &[&few, &many])?;
    let [of_few, of_many] = &measured[..] else { unreachable!("two contenders") };
    let path = format!("cpu relay {MANY} flows, {}/s each", OF_CALLS.rate / u32::from(MANY));
    Ok(vec![
        row(&path, of_many, "10, same rate", of_few),
        of_few.rate_row(few.name),
        of_many.rate_row(many.name),
    ])
}

/// What a contender's packets cost, and how many there were.
struct Measured {
    /// CPU nanoseconds of a packet.
    cost: f64,
    /// Packets a second: asked, and reached.
    asked: f64,
    reached: f64,
}

impl Measured {
    fn rate_row(&self, who: &str) -> Row {
        Row {
            path: format!("rate of {who}"),
            unit: "packets/s",
            ours: self.reached,
            peer: ASKED,
            peer_value: self.asked,
        }
    }
}

/// A comparison; marked where one of the two did not have the packets it should have had.
fn row(path: &str, ours: &Measured, peer: &'static str, theirs: &Measured) -> Row {
    let held = [ours, theirs].iter().all(|who| who.rate_row("").verdict() == Some("held"));
    Row {
        path: path.to_owned(),
        unit: if held { "ns/packet" } else { "ns/packet, RATE NOT HELD" },
        ours: ours.cost,
        peer,
        peer_value: theirs.cost,
    }
}

/// Each in turn, again and again, less what the same costs `nothing`: the medians.
fn rounds(
    say: &dyn Fn(&str),
    load: Load,
    nothing: &Contender,
    contenders: &[&Contender],
) -> Result<Vec<Measured>> {
    say(&format!("{} packets a second are asked for, {BATCH} at a time", load.rate));
    let mut turns = vec![(Vec::new(), Vec::new(), Vec::new()); contenders.len()];
    let mut idle = Vec::new();
    for round in 1..=ROUNDS {
        say(&format!("round {round} of {ROUNDS}"));
        idle.push(nothing.measure(load)?.used);
        for (contender, (costs, shares, rates)) in contenders.iter().zip(&mut turns) {
            let Cost { used, share, rate } = contender.measure(load).context(contender.name)?;
            say(&format!(
                "{}: {used:.0} ns, {:.0} without, {share:.3} came, {rate:.0} a second",
                contender.name,
                idle[idle.len() - 1]
            ));
            ensure!(share > 0.95, "{} relayed only {share:.2} of the packets", contender.name);
            costs.push(used);
            shares.push(share);
            rates.push(rate);
        }
    }
    let idle = median(idle);
    let measured = |(used, share, rates)| Measured {
        cost: (median(used) - idle) / median(share),
        asked: load.rate.into(),
        reached: median(rates),
    };
    Ok(turns.into_iter().map(measured).collect())
}

/// Our kernel program, with so many flows open.
fn by_edge(name: &'static str, tag: &str, flows: u16, path: MediaPath) -> Result<Contender> {
    let row = Row3::new(tag)?;
    let home = Home::new(tag)?;
    let mut config = small_config(&home.pins, &home.state);
    let device = |device: &str, zone| Interface {
        device: device.to_owned(),
        vlan: None,
        zone,
        optional: false,
    };
    config.interfaces =
        vec![device(&row.device, Zone::External), device(INSIDE_DEVICE, Zone::Internal)];
    config.media.mode = MediaMode::Relay;
    config.media.path = path;
    config.services.av = Some(AvService {
        listen: vec![OUTSIDE.into()],
        advertise: Vec::new(),
        inside: vec![INSIDE.into()],
        stun_port: 3478,
        tcp_port: 443,
        media_ports: (FIRST_PORT, FIRST_PORT + 2 * MANY),
        legacy_partners: false,
        authentication_port: 5062,
        rates: Rates::default(),
        line: Line::default(),
    });
    let config = Arc::new(config);
    let options = OwnerOptions::new(&config);
    let (handle, table) = row.relay.run(move || -> Result<_> {
        let (handle, report) = Owner::start(options, config)?;
        let mut table = handle.media().with_context(|| format!("{:?}", report.warnings))?;
        let changes: Vec<MediaChange> = (0..flows).map(open).collect();
        if let Some(fault) = table.apply(&changes).fault {
            return Err(fault.into());
        }
        // Its neighbours are there: the first look finds every way.
        table.tick()?;
        ensure!(table.numbers().without_way == 0, "a flow without a way");
        Ok((handle, table))
    })??;
    let keep = Keep::Edge(handle, Box::new(table), home);
    Ok(Contender { name, row, ports: (FIRST_PORT, flows), processes: Vec::new(), _keep: keep })
}

/// The flow at one port, every second from the first on.
fn open(number: u16) -> MediaChange {
    let port = FIRST_PORT + 2 * number;
    MediaChange::Open(Flow {
        id: FlowId(u32::from(number) + 1),
        call: CallId(u64::from(number) + 1),
        line: 0,
        component: Component::Rtp,
        side: MediaSide::Outside,
        way: Way::Relay {
            local: SocketAddr::new(OUTSIDE.into(), port),
            from: SocketAddr::new(INSIDE.into(), port),
        },
        source: IpNet::from(std::net::IpAddr::V4(SENDER)),
        source_port: Some(SENDER_PORT),
        learn: Duration::ZERO,
        learned_anew: 0,
        to: SocketAddr::new(RECEIVER.into(), RECEIVER_PORT),
        content: FlowContent::Media,
        clock: Some(8000),
        packets_per_second: 1_000_000,
        bytes_per_second: 1_000_000_000,
        expires: Duration::from_secs(3600),
        held: false,
        timed: false,
        turns: false,
    })
}

/// Pins and state of a firewall of our own.
struct Home {
    pins: PathBuf,
    state: PathBuf,
}

impl Home {
    fn new(tag: &str) -> Result<Self> {
        let name = format!("edge-{tag}-{}", std::process::id());
        let state = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&state)?;
        Ok(Self { pins: Path::new("/sys/fs/bpf").join(name), state })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = edge_user::firewall::detach(&self.pins, true);
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

/// Drops what comes, at the same device: what receiving alone costs.
fn dropping() -> Result<Contender> {
    let row = Row3::new("bmz")?;
    let drop = raw::load(raw::Tiny::Drop)?;
    let link = row.relay.run(|| {
        Ok::<_, anyhow::Error>(raw::attach(&drop, ifindex(&row.device).context("device")?)?)
    })??;
    Ok(Contender {
        name: "nothing",
        row,
        ports: (50_000, 1),
        processes: Vec::new(),
        _keep: Keep::Programs(vec![drop, link]),
    })
}

fn by_nftables() -> Result<Contender> {
    let row = Row3::new("bmn")?;
    row.relay.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
    let rules = format!(
        "table ip relay {{\n\
         chain in {{\ntype nat hook prerouting priority dstnat\n\
         udp dport 50000-50998 dnat to {RECEIVER}:{RECEIVER_PORT}\n}}\n\
         chain out {{\ntype nat hook postrouting priority srcnat\n\
         oifname {INSIDE_DEVICE} snat to {INSIDE}\n}}\n}}"
    );
    quiet(row.relay.command("nft").arg(rules))?;
    let ports = (50_000, 1);
    Ok(Contender { name: "nftables", row, ports, processes: Vec::new(), _keep: Keep::Nothing })
}

fn by_rtpengine() -> Result<Contender> {
    let row = Row3::new("bmr")?;
    let dir = std::env::temp_dir().join(format!("edge-bench-rtpengine-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let folder = Folder(dir.clone());
    let engine = RtpEngine::start(&row, &dir)?;
    let port = engine.call("one")?;
    let processes = vec![engine.process.id()];
    Ok(Contender {
        name: "rtpengine",
        row,
        ports: (port, 1),
        processes,
        _keep: Keep::RtpEngine(engine, folder),
    })
}
