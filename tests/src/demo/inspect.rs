//! Steps: what a scan from outside sees, and what the maps show.

use std::{
    net::{IpAddr, TcpListener, UdpSocket},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use edge_ebpf::{abi::map_names, verdict::Reason};

use super::{
    block,
    world::{FEDERATION_PORT, World},
};
use crate::lab::{
    counters,
    layout::Site,
    scan::{self, Seen},
};

/// Services that really listen on the appliance during the scan, and that no rule opens.
const DECOYS: [u16; 4] = [22, 80, 3478, 8443];

/// A scan of every port from outside, over both families.
pub fn scan(world: &mut World) -> Result<String> {
    let _decoys = Decoys::open(world)?;
    // All but those to the federation port; a busy machine may lose a few on the way.
    let mut scans = 0;
    let (probes, dropped) = loop {
        let (probes, dropped) = scan_once(world)?;
        scans += 1;
        if dropped >= probes / 100 * 98 {
            break (probes, dropped);
        }
        ensure!(scans < SCANS, "{probes} probes, only {dropped} dropped in the driver");
    };
    Ok(format!(
        "{probes} probes (every TCP and UDP port, IPv4 and IPv6): TCP {FEDERATION_PORT} answers, \
         nothing else does, though services listen on {DECOYS:?}; counter no-rule +{dropped}"
    ))
}

/// Scans before too few of the probes have arrived to tell.
const SCANS: usize = 4;

/// Probes, and how many were dropped.
fn scan_once(world: &World) -> Result<(u64, u64)> {
    let counters = world.counters()?;
    let before = counters.packets(Reason::NoRule)?;
    let ports = scan::all_ports();
    let from = Site::Stranger.outside();
    let stranger = world.lab.site(Site::Stranger);
    let mut probes = 0;
    for (from, target) in from.into_iter().zip(Site::Contoso.outside()) {
        let answers = |seen: &Seen| seen.open.contains(&FEDERATION_PORT);
        let tcp = scan::until(answers, || scan::tcp(stranger, from, target, &ports))?;
        ensure!(
            tcp.open.iter().eq([&FEDERATION_PORT]) && tcp.closed.is_empty(),
            "TCP {target}: open {:?}, answering {:?}",
            tcp.open,
            tcp.closed
        );
        let udp = scan::udp(stranger, target, &ports)?;
        let silent = Seen { probes: udp.probes, ..Seen::default() };
        ensure!(udp == silent, "UDP {target}: open {:?}, answering {:?}", udp.open, udp.closed);
        probes += tcp.probes + udp.probes;
    }
    Ok((probes, counters.packets(Reason::NoRule)? - before))
}

/// `edge map dump` and bpftool show the same entries with named fields.
pub fn maps(world: &mut World) -> Result<String> {
    block::ensure_blocked(world)?;
    let list = world.contoso.json(&["map", "list"])?;
    let dump = world.contoso.json(&["map", "dump", map_names::BLOCKED4])?.to_string();
    let address = Site::Northwind.v4().to_string();
    ensure!(dump.contains(&address), "edge map dump does not show {address}: {dump}");
    let reasons = world.contoso.json(&["map", "dump", map_names::REASON_COUNTERS])?.to_string();
    ensure!(reasons.contains(Reason::BlockedDomain.name()), "no reason names in {reasons}");
    let pin = counters::find(world.contoso.pins(), map_names::BLOCKED4).context("no pin")?;
    let output = Command::new("bpftool")
        .args(["map", "dump", "pinned"])
        .arg(&pin)
        .output()
        .context("bpftool (package bpftool) does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    for field in ["scope", "reason", "owners", "expires_at_seconds"] {
        ensure!(text.contains(field), "bpftool does not name {field}: {text}");
    }
    let maps = list.as_array().or_else(|| list["maps"].as_array()).map_or(0, Vec::len);
    ensure!(maps > 0, "edge map list shows no map: {list}");
    Ok(format!(
        "edge map list: {maps} maps; edge map dump {}: {address}; bpftool: {}",
        map_names::BLOCKED4,
        first_entry(&text)
    ))
}

/// The first entry, on one line.
fn first_entry(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line.chars().take(160).collect()
}

/// Listening services for the scanner to find, if it could.
struct Decoys {
    _tcp: Vec<TcpListener>,
    _udp: Vec<UdpSocket>,
}

impl Decoys {
    fn open(world: &World) -> Result<Self> {
        world.lab.site(Site::Contoso).run(|| {
            let any: [IpAddr; 2] = Site::Contoso.outside();
            let sockets = || any.into_iter().flat_map(|ip| DECOYS.map(|port| (ip, port)));
            let tcp = sockets().map(TcpListener::bind).collect::<Result<_, _>>()?;
            let udp = sockets().map(UdpSocket::bind).collect::<Result<_, _>>()?;
            Ok::<_, anyhow::Error>(Self { _tcp: tcp, _udp: udp })
        })?
    }
}
