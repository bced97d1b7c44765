//! What many calls cost, with a real daemon, calls of SIP over TLS that carry SDP, and RTP: how
//! soon their media is open and closed while thousands are up and more come and go, and the memory
//! that each takes.
//!
//! A flow is late when the message that tells of it is there first: then the packet of RTP that is
//! sent at once, each way, does not come through. Opening takes from when the callee writes its answer
//! to when the caller has it; closing from when BYE is written to when its answer is there and the
//! port is found closed in the kernel: both are more than the daemon needed.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use edge_ebpf::abi::{
    MEDIA_STATE_SLOTS, SCHEMA, ZONE_EXTERNAL, ZONE_INTERNAL, map_names, media_port_index,
};
use serde_json::Value;

use crate::{
    bench::{
        Row, median,
        sip::{
            load::{Pace, Plan, Scenario, Watch},
            proxies::Proxy,
            traffic::with_load,
            world::{Inside, OUTSIDE, World},
        },
    },
    lab::{dialogue::media_address, layout::Site, links, rtp::packet},
};

/// Calls that are up.
const UP: u32 = 5_000;
/// Calls before anything is measured: buffers and tables have their first size then.
const FIRST: u32 = 100;
/// What may be open at once while they are made.
const OPEN: usize = 50;
/// Calls a second that come and go meanwhile, and for how long.
const RATE: f64 = 50.0;
const SECONDS: f64 = 40.0;
/// What was sent last is dealt with by then.
const SETTLE: Duration = Duration::from_millis(500);
/// So many flows has a call with one m-line: RTP and RTCP, each way.
const FLOWS: u32 = 4;
/// Where caller and callee have their media, as their SDP says.
const CALLER_PORT: u16 = 40_000;
const CALLEE_PORT: u16 = 40_002;

/// Delays and memory.
pub fn calls(say: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let world = World::new("bmedia")?;
    let _programs = far_ends(&world)?;
    let proxy = Proxy::edge(&world, Inside::Tls, &media_service())?;
    let measured = with_load(&world, Inside::Tls, 1, |load| {
        let mut watch = Watched::new(&world.pins())?;
        let plan = |scenario, pace, calls| Plan { scenario, pace, calls };
        load.play_watched(plan(Scenario::Call, Pace::Open(OPEN), FIRST), &mut watch)?;
        std::thread::sleep(SETTLE);
        let before = proxy.resident_kib()?;
        load.play(plan(Scenario::Dialog, Pace::Open(OPEN), UP))?;
        std::thread::sleep(SETTLE);
        let grown = proxy.resident_kib()?.saturating_sub(before);
        let up = proxy.json(&["status"])?;
        watch.forget();
        let more = plan(Scenario::Call, Pace::Rate(RATE), (RATE * SECONDS) as u32);
        let outcome = load.play_watched(more, &mut watch)?;
        std::thread::sleep(SETTLE);
        watch.hear();
        Ok((grown, up, outcome, watch))
    });
    let (grown, up, outcome, watch) = measured.with_context(|| proxy.log_head())?;
    let flows = up["media"]["flows"].as_u64().unwrap_or(0);
    ensure!(flows == u64::from(UP * FLOWS), "{flows} flows are open for {UP} calls");
    let maps = kib_of_maps(&proxy.json(&["map", "list"])?)?;
    let daemon = grown as f64 / f64::from(UP);
    let status = proxy.json(&["status"])?;
    for name in ["open_delay", "close_delay"] {
        say(&format!("the daemon's own {name}: {}", status["media"][name]));
    }
    say(&format!(
        "{} calls came and went, {} packets of RTP sent at once, {} came; a call: {daemon:.2} KiB of \
         the daemon, {maps:.2} KiB of maps; INVITE to 200: median {:.1}, p99 {:.1} ms",
        watch.closed.len(),
        watch.sent,
        watch.heard,
        outcome.per_mille(500).as_secs_f64() * 1e3,
        outcome.per_mille(990).as_secs_f64() * 1e3,
    ));
    watch.check(outcome.calls())?;
    let row = |path: &str, unit, ours, peer, peer_value| Row {
        path: path.to_owned(),
        unit,
        ours,
        peer,
        peer_value,
    };
    let [open50, open99] = shares(&watch.opened);
    let [close50, close99] = shares(&watch.closed);
    Ok(vec![
        row("p50 answer to media open", "ms", open50, "as closing", 50.0),
        row("p99 answer to media open", "ms", open99, "as closing", 50.0),
        row("p50 BYE to media closed", "ms", close50, "target", 50.0),
        row("p99 BYE to media closed", "ms", close99, "target", 50.0),
        row("memory of a call with media", "KiB", daemon + maps, "target", 8.0),
    ])
}

/// As many ports as one partner needs who has no more than a quarter of them.
fn media_service() -> String {
    format!(
        "\n[service.av]\nlisten = [\"{}\"]\ninside = [\"{}\"]\nmedia_ports = \"10000-59999\"\n\n\
         [media]\nmode = \"relay\"\nsilence = \"1h\"\n",
        OUTSIDE.ip(),
        Site::Contoso.edge_inside4(),
    )
}

/// A device takes frames of XDP only while its far end has a program.
fn far_ends(world: &World) -> Result<[OwnedFd; 2]> {
    let device = Site::Contoso.name();
    Ok([links::far_end(&world.load, device)?, links::far_end(&world.load, "eth0")?])
}

/// What the maps of media take for a call, in KiB: all that they take, by the calls that there is
/// room for.
fn kib_of_maps(list: &Value) -> Result<f64> {
    let maps = list.as_array().context("edge map list gives no array")?;
    let of_media = maps
        .iter()
        .filter(|map| map["name"].as_str().is_some_and(|name| name.starts_with("MEDIA_")));
    let bytes: Option<Vec<f64>> = of_media.map(|map| map["bytes"].as_f64()).collect();
    let bytes: f64 = bytes.context("a map without its memory")?.iter().sum();
    ensure!(bytes > 0.0, "no map of media");
    Ok(bytes / 1024.0 / f64::from(MEDIA_STATE_SLOTS / FLOWS))
}

/// A call on its way: the ports that the callee and the caller were told.
#[derive(Clone, Copy, Default)]
struct Told {
    inside: Option<SocketAddr>,
    outside: Option<SocketAddr>,
    answer: Option<Instant>,
    bye: Option<Instant>,
}

/// Looks at every call, sends a packet of RTP each way as soon as its media is told, and looks into
/// the kernel.
struct Watched {
    ports: Array<MapData, u32>,
    caller: UdpSocket,
    callee: UdpSocket,
    told: HashMap<u32, Told>,
    sent: u64,
    heard: u64,
    /// Ports that were closed when they were told, or open after their BYE.
    wrong: Vec<String>,
    opened: Vec<Duration>,
    closed: Vec<Duration>,
}

impl Watched {
    /// On a thread inside the load's namespace.
    fn new(pins: &Path) -> Result<Self> {
        let pin = pins.join(format!("v{SCHEMA}")).join(map_names::MEDIA_PORTS);
        let socket = |address: IpAddr, port| -> Result<UdpSocket> {
            let socket = UdpSocket::bind(SocketAddr::new(address, port))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        Ok(Self {
            ports: Array::try_from(Map::from_map_data(MapData::from_pin(pin)?)?)?,
            caller: socket(Site::Contoso.router4().into(), CALLER_PORT)?,
            callee: socket(Site::Contoso.server4().into(), CALLEE_PORT)?,
            told: HashMap::new(),
            sent: 0,
            heard: 0,
            wrong: Vec::new(),
            opened: Vec::new(),
            closed: Vec::new(),
        })
    }

    /// What was before is not measured.
    fn forget(&mut self) {
        self.hear();
        self.told.clear();
        (self.sent, self.heard) = (0, 0);
        self.opened.clear();
        self.closed.clear();
    }

    fn is_open(&self, zone: u8, port: u16) -> bool {
        self.ports.get(&media_port_index(zone, false, port), 0).is_ok_and(|slot| slot != 0)
    }

    /// Takes what has come.
    fn hear(&mut self) {
        let mut buffer = [0; 2048];
        for socket in [&self.caller, &self.callee] {
            while socket.recv(&mut buffer).is_ok() {
                self.heard += 1;
            }
        }
    }

    /// Every port was open when it was told, and closed when its call had ended.
    fn check(&self, calls: usize) -> Result<()> {
        let wrong = &self.wrong;
        ensure!(wrong.is_empty(), "{} ports, the first: {}", wrong.len(), wrong[0]);
        ensure!(self.closed.len() == calls, "{} of {calls} calls were seen", self.closed.len());
        ensure!(self.sent == 2 * calls as u64 && self.heard == self.sent, "RTP was lost");
        Ok(())
    }
}

/// The middle, and what 99 of 100 did not take, in milliseconds.
fn shares(all: &[Duration]) -> [f64; 2] {
    let mut all: Vec<f64> = all.iter().map(|took| took.as_secs_f64() * 1e3).collect();
    all.sort_by(f64::total_cmp);
    let place = (all.len() * 99).div_ceil(100).saturating_sub(1);
    let worst = all.get(place).copied().unwrap_or(f64::NAN);
    [median(all), worst]
}

impl Watch for Watched {
    fn offered(&mut self, call: u32, message: &[u8]) {
        let inside = address_of(message);
        // The callee answers at once.
        let answer = Some(Instant::now());
        self.told.insert(call, Told { inside, answer, ..Told::default() });
    }

    fn answered(&mut self, call: u32, message: &[u8]) {
        self.hear();
        let told = self.told.entry(call).or_default();
        told.outside = address_of(message);
        told.bye = Some(Instant::now());
        let told = *told;
        self.opened.extend(told.answer.map(|answer| answer.elapsed()));
        for (socket, zone, port) in [
            (&self.caller, ZONE_EXTERNAL, told.outside),
            (&self.callee, ZONE_INTERNAL, told.inside),
        ] {
            let Some(port) = port else {
                self.wrong.push(format!("call {call} tells no port"));
                continue;
            };
            if !self.is_open(zone, port.port()) {
                self.wrong.push(format!("call {call} tells of {port} before it is open"));
            }
            match socket.send_to(&packet(call, 1), port) {
                Ok(_) => self.sent += 1,
                Err(fault) => self.wrong.push(format!("to {port}: {fault}")),
            }
        }
    }

    fn ended(&mut self, call: u32) {
        let Some(Told { inside: Some(inside), outside: Some(outside), bye: Some(bye), .. }) =
            self.told.remove(&call)
        else {
            return;
        };
        let took = bye.elapsed();
        for (zone, port) in [(ZONE_EXTERNAL, outside), (ZONE_INTERNAL, inside)] {
            if self.is_open(zone, port.port()) {
                self.wrong.push(format!("{port} is open after the BYE of call {call}"));
            }
        }
        self.closed.push(took);
    }
}

/// Where a message's SDP says that media goes.
fn address_of(message: &[u8]) -> Option<SocketAddr> {
    media_address(std::str::from_utf8(message).ok()?).ok()
}
