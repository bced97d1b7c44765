//! `bench xdp`: what dropping and passing a packet costs, beside the bare programs that only drop,
//! or only parse and then drop or pass, xdp-filter and nftables.
//!
//! Each contender has a veth pair in namespaces of its own. *Live*: a generator on the far end
//! sends real frames and the contender's device counts what it took in; generator and receiver
//! share one CPU, so the figure holds the generator's cost for all alike. A call of the generator
//! begins and ends with waiting for all processors (some 25 ms), so a measurement is one call of
//! a few million frames, less the time of a call of a few. *Run*: the program alone, by
//! `BPF_PROG_TEST_RUN`. *Cold* sources and the other paths are in [`super::cold`] and
//! [`super::paths`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, OwnedFd},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use edge_user::{
    config::{FirewallRule, Protocol, Zone},
    firewall::{BlockOwner, BlockRequest, FirewallHandle, Intent, Owner, OwnerOptions},
};
use ipnet::IpNet;

use super::{Row, median, raw};
use crate::{
    packets,
    wire::{DEVICE, EDGE4, Wire},
};

/// The blocked source.
const HOT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
/// A source that nobody blocks.
const CLEAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
const OPEN_PORT: u16 = 7000;
const CLOSED_PORT: u16 = 9999;
const BLOCKS: u32 = 1_000_000;
/// Measurements of each figure; the median counts.
const ROUNDS: usize = 9;
/// Frames of the call that finds out how fast a contender is.
const LIVE_TRIAL: u32 = 400_000;
/// How long a measurement by live frames takes, its beginning and end aside.
const LIVE_TIME: Duration = Duration::from_millis(250);
/// Frames of a call that has hardly anything but a beginning and an end.
const LIVE_FEW: u32 = 64;
const RUN_REPEAT: u32 = 200_000;
/// Packets that are run together where it is asked how long they wait.
const STALL_PACKETS: u32 = 1000;

/// The packets, by the name of their path.
const PATHS: [(&str, Ipv4Addr, u16, bool); 3] = [
    ("drop hot", HOT, CLOSED_PORT, true),
    ("drop port", CLEAN, CLOSED_PORT, true),
    ("pass port", CLEAN, OPEN_PORT, false),
];

/// One contender on its wire.
struct Contender {
    name: &'static str,
    wire: Wire,
    /// What `run` measures; nftables has no program.
    program: Option<OwnedFd>,
    /// What ends with the contender.
    _keep: Vec<OwnedFd>,
    handle: Option<FirewallHandle>,
}

impl Drop for Contender {
    fn drop(&mut self) {
        drop(self.handle.take());
        if self.name == "xdp-filter" {
            let _ = quiet(self.wire.edge.command("xdp-filter").args(["unload", DEVICE]));
            // libxdp leaves its folder; a folder that others use is not empty and stays.
            let _ = std::fs::remove_dir("/sys/fs/bpf/xdp");
        }
    }
}

/// Measures everything, or with `only` one part: `peers`, `cold`, `paths`, `memory` or `policy`.
///
/// # Errors
/// When a contender cannot be set up: not root, or a package is missing.
pub fn bench(say: &dyn Fn(&str), only: Option<&str>) -> Result<Vec<Row>> {
    ensure!(rustix::process::geteuid().is_root(), "the benchmark makes namespaces: run it as root");
    let wanted = |part| only.is_none_or(|only| only == part);
    let mut rows = Vec::new();
    if wanted("peers") {
        beside_peers(say, &mut rows)?;
    }
    if wanted("cold") {
        rows.extend(super::cold::bench(say)?);
    }
    if wanted("paths") {
        rows.extend(super::paths::bench(say)?);
    }
    if wanted("memory") {
        rows.extend(super::memory::bench(say)?);
    }
    if wanted("policy") {
        rows.extend(super::policy::bench(say)?);
    }
    ensure!(!rows.is_empty(), "there are the parts peers, cold, paths, memory and policy");
    Ok(rows)
}

/// The hot paths beside the bare programs, xdp-filter and nftables.
fn beside_peers(say: &dyn Fn(&str), rows: &mut Vec<Row>) -> Result<()> {
    say("loading 1,000,000 blocks");
    let ours = ours(rows)?;
    raw::stay_on_one_cpu();
    let mut contenders = vec![
        ours,
        tiny("xdp-drop", raw::Tiny::Drop)?,
        tiny("xdp-parse-drop", raw::Tiny::ParseDrop)?,
        tiny("xdp-parse", raw::Tiny::Parse)?,
    ];
    contenders.extend(optional(say, "xdp-filter", xdp_filter()));
    contenders.extend(optional(say, "nftables", nftables()));
    for (path, source, port, drops) in PATHS {
        let data = [0u8; 18];
        let udp = packets::udp(5000, port, &data);
        let frame = packets::frame(IpAddr::V4(source), IpAddr::V4(EDGE4), 17, &udp);
        // Only dropping is compared with a bare drop, only passing with a bare pass.
        let skip: &[&str] = if drops { &["xdp-parse"] } else { &["xdp-drop", "xdp-parse-drop"] };
        let of: Vec<&Contender> = contenders.iter().filter(|c| !skip.contains(&c.name)).collect();
        say(&format!("live {path}"));
        let live = rounds(&of, |contender| contender.live(&frame))?;
        rows.extend(compare(&format!("live {path}"), "Mpps", &live));
        say(&format!("run {path}"));
        let of: Vec<&Contender> = of.into_iter().filter(|c| c.program.is_some()).collect();
        let run = rounds(&of, |contender| contender.run(&frame))?;
        rows.extend(compare(&format!("run {path}"), "ns/packet", &run));
    }
    say("taking 1,000,000 blocks away");
    rows.extend(while_blocks_go(&contenders[0])?);
    Ok(())
}

/// How long packets wait while all blocks are taken out of the tables: the times of many short runs,
/// beside as many while nothing changes.
fn while_blocks_go(edge: &Contender) -> Result<Vec<Row>> {
    let handle = edge.handle.clone().context("no firewall")?;
    let program = edge.program.as_ref().context("no program")?;
    let udp = packets::udp(5000, CLOSED_PORT, &[0; 18]);
    let frame = packets::frame(IpAddr::V4(CLEAN), IpAddr::V4(EDGE4), 17, &udp);
    let once = || -> Result<f64> {
        let began = Instant::now();
        raw::run(program.as_fd(), &frame, Some(index(DEVICE)), STALL_PACKETS)?;
        Ok(began.elapsed().as_secs_f64() * 1e6)
    };
    let (changing, calm) = edge.wire.edge.run(|| -> Result<_> {
        let owner = BlockOwner::Administrator;
        let none = Intent::SetOwnerBlocks { owner, blocks: Vec::new() };
        let going = std::thread::spawn(move || handle.apply_blocking(vec![none]));
        let mut changing = vec![once()?];
        while !going.is_finished() {
            changing.push(once()?);
        }
        going.join().map_err(|_| anyhow::anyhow!("the firewall is gone"))??;
        let calm = changing.iter().map(|_| once()).collect::<Result<Vec<f64>>>()?;
        Ok((changing, calm))
    })??;
    let row = |what: &str, share: f64| {
        let at = |times: &[f64]| {
            let mut times = times.to_vec();
            times.sort_by(f64::total_cmp);
            times[((times.len() - 1) as f64 * share) as usize]
        };
        Row {
            path: format!("run {STALL_PACKETS} while {BLOCKS} blocks go, {what}"),
            unit: "us",
            ours: at(&changing),
            peer: "nothing changes",
            peer_value: at(&calm),
        }
    };
    Ok(vec![row("p50", 0.5), row("p99", 0.99), row("longest", 1.0)])
}

/// One measurement of each in turn, again and again; the medians.
fn rounds(
    contenders: &[&Contender],
    measure: impl Fn(&Contender) -> Result<f64>,
) -> Result<Vec<(&'static str, f64)>> {
    let mut values: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for contender in contenders {
            let value = measure(contender).with_context(|| contender.name)?;
            values.entry(contender.name).or_default().push(value);
        }
    }
    let mut medians = Vec::new();
    for contender in contenders {
        let of = values.remove(contender.name).unwrap_or_default();
        medians.push((contender.name, median(of)));
    }
    Ok(medians)
}

fn compare(path: &str, unit: &'static str, medians: &[(&'static str, f64)]) -> Vec<Row> {
    let Some(((_, ours), peers)) = medians.split_first() else { return Vec::new() };
    peers
        .iter()
        .map(|(peer, peer_value)| Row {
            path: path.to_owned(),
            unit,
            ours: *ours,
            peer,
            peer_value: *peer_value,
        })
        .collect()
}

fn optional(say: &dyn Fn(&str), name: &str, made: Result<Contender>) -> Option<Contender> {
    made.inspect_err(|fault| say(&format!("{name} is left out: {fault:#}"))).ok()
}

impl Contender {
    /// Makes the wire, with the far end ready to generate.
    fn new(name: &'static str, tag: &str) -> Result<Self> {
        let wire = Wire::new(tag)?;
        // The far end's receive queue is there only while it has a program of its own.
        let pass = raw::load(raw::Tiny::Pass)?;
        let link = wire.peer.run(|| raw::attach(&pass, index("peer0")))??;
        Ok(Self { name, wire, program: None, _keep: vec![pass, link], handle: None })
    }

    /// Millions of packets a second that the device takes in.
    fn live(&self, frame: &[u8]) -> Result<f64> {
        let generator = raw::load(raw::Tiny::Transmit)?;
        self.wire.peer.run(|| -> Result<f64> {
            let ifindex = index("peer0");
            let send = |count| raw::send(generator.as_fd(), frame, ifindex, count);
            let few = send(LIVE_FEW)?;
            let of_one =
                send(LIVE_TRIAL)?.saturating_sub(few).as_secs_f64() / f64::from(LIVE_TRIAL);
            let count = (LIVE_TIME.as_secs_f64() / of_one).clamp(1e5, 2e7) as u32;
            let before = self.received()?;
            let took = send(count)?.saturating_sub(few);
            let received = self.received()?.saturating_sub(before);
            if received < u64::from(count) / 2 {
                bail!("only {received} of {count} frames arrived");
            }
            Ok(received as f64 / took.as_secs_f64() / 1e6)
        })?
    }

    /// Nanoseconds of one run of the program.
    fn run(&self, frame: &[u8]) -> Result<f64> {
        let program = self.program.as_ref().context("no program")?;
        let took = self
            .wire
            .edge
            .run(|| raw::run(program.as_fd(), frame, Some(index(DEVICE)), RUN_REPEAT))??;
        Ok(took.as_nanos() as f64)
    }

    /// Packets that the device's receive queues have taken in.
    fn received(&self) -> Result<u64> {
        let output = self.wire.edge.command("ethtool").args(["-S", DEVICE]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let packets = text.lines().filter_map(|line| {
            let (name, value) = line.trim().split_once(": ")?;
            let counts = name.starts_with("rx_queue_") && name.ends_with("_xdp_packets");
            counts.then(|| value.parse::<u64>().ok())?
        });
        Ok(packets.sum())
    }
}

/// Edge with its full configuration and a million blocks.
fn ours(rows: &mut Vec<Row>) -> Result<Contender> {
    let mut contender = Contender::new("edge", "bxo")?;
    let config = contender.wire.config_with(|config| {
        config.firewall.max_blocked_addresses = BLOCKS;
        config.firewall.max_blocked_prefixes = BLOCKS;
        config.firewall.rules.push(FirewallRule {
            ports: vec![(OPEN_PORT, OPEN_PORT)],
            ..FirewallRule::new("open", Zone::External, Protocol::Udp)
        });
    });
    let options = OwnerOptions::new(&config);
    let (handle, report) = contender.wire.edge.run(move || Owner::start(options, config))??;
    let hundred_thousand = blocks(BLOCKS).take(100_000).collect();
    let owner = BlockOwner::Administrator;
    let first = Intent::SetOwnerBlocks { owner: owner.clone(), blocks: hundred_thousand };
    let took = handle.apply_blocking(vec![first])?.took;
    rows.push(Row {
        path: "load 100000 blocks".to_owned(),
        unit: "s",
        ours: took.as_secs_f64(),
        peer: "target",
        peer_value: 1.0,
    });
    let all = Intent::SetOwnerBlocks { owner, blocks: blocks(BLOCKS).collect() };
    handle.apply_blocking(vec![all])?;
    let attached = report.attached.first().context("nothing attached")?;
    contender.program = Some(raw::by_id(attached.program_id)?);
    contender.handle = Some(handle);
    Ok(contender)
}

/// Addresses and prefixes of both families, spread out, the hot one among them.
fn blocks(count: u32) -> impl Iterator<Item = BlockRequest> {
    let spread = |number: u32| number.wrapping_mul(0x9e37_79b1);
    let prefixes = (0..count - 1).map(move |number| match number % 10 {
        // Every prefix is another one, none of a network that the benchmark uses.
        0 | 1 => IpNet::new(Ipv4Addr::from(0x2000_0000 + (number << 8)).into(), 24),
        2 => {
            let address = (0x2001_0db9u128 << 96) | u128::from(number) << 64;
            IpNet::new(Ipv6Addr::from(address).into(), 64)
        }
        3 => {
            let address = (0x2001_0db9u128 << 96) | u128::from(spread(number)) << 32 | 1;
            IpNet::new(Ipv6Addr::from(address).into(), 128)
        }
        _ => IpNet::new(Ipv4Addr::from(0x0b00_0000 + (number << 5)).into(), 32),
    });
    let hot = IpNet::from(IpAddr::V4(HOT));
    let clean = |prefix: &IpNet| {
        !prefix.contains(&IpAddr::V4(CLEAN)) && !prefix.contains(&IpAddr::V4([192, 0, 2, 1].into()))
    };
    std::iter::once(hot).chain(prefixes.flatten()).filter(clean).map(|prefix| BlockRequest {
        prefix: prefix.trunc(),
        owner: BlockOwner::Administrator,
        comment: None,
        expires_at: None,
    })
}

fn tiny(name: &'static str, program: raw::Tiny) -> Result<Contender> {
    let mut contender = Contender::new(name, "bxt")?;
    let loaded = raw::load(program).with_context(|| name)?;
    let link = contender.wire.edge.run(|| raw::attach(&loaded, index(DEVICE)))??;
    contender._keep.push(link);
    contender.program = Some(loaded);
    Ok(contender)
}

/// xdp-filter with one address and one port on its deny list, all features.
fn xdp_filter() -> Result<Contender> {
    let mut contender = Contender::new("xdp-filter", "bxf")?;
    let wire = &contender.wire;
    for arguments in [
        vec!["load", "--mode", "native", DEVICE],
        vec!["ip", "--mode", "src", &HOT.to_string()],
        vec!["port", "--mode", "dst", &CLOSED_PORT.to_string()],
    ] {
        quiet(wire.edge.command("xdp-filter").args(&arguments))
            .with_context(|| format!("xdp-filter {}", arguments.join(" ")))?;
    }
    let output = wire.edge.command("ip").args(["-j", "link", "show", "dev", DEVICE]).output()?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64().context("no program is attached")?;
    contender.program = Some(raw::by_id(u32::try_from(id)?)?);
    Ok(contender)
}

/// nftables at the netdev ingress hook, with a set look-up.
fn nftables() -> Result<Contender> {
    let contender = Contender::new("nftables", "bxn")?;
    let rules = format!(
        "add table netdev bench\n\
         add set netdev bench bad {{ type ipv4_addr; }}\n\
         add element netdev bench bad {{ {HOT} }}\n\
         add set netdev bench ports {{ type inet_service; }}\n\
         add element netdev bench ports {{ {CLOSED_PORT} }}\n\
         add chain netdev bench in {{ type filter hook ingress device {DEVICE} priority -500; }}\n\
         add rule netdev bench in ip saddr @bad drop\n\
         add rule netdev bench in udp dport @ports drop\n"
    );
    quiet(contender.wire.edge.command("nft").arg(rules)).context("nft")?;
    // Without a program of its own the device takes live frames in only with GRO.
    quiet(contender.wire.edge.command("ethtool").args(["-K", DEVICE, "gro", "on"]))?;
    Ok(contender)
}

/// Runs it and gives its words when it fails.
fn quiet(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().context("it does not start")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Index of a device of this namespace.
fn index(device: &str) -> u32 {
    let path = std::ffi::CString::new(device).unwrap_or_default();
    // SAFETY: a NUL-terminated string that outlives the call.
    unsafe { libc::if_nametoindex(path.as_ptr()) }
}
