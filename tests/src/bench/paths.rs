//! A row for each path through the program: one packet, again and again, by
//! `BPF_PROG_TEST_RUN`, beside a program that only drops or only passes.

use std::{
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
};

use anyhow::{Result, ensure};
use edge_ebpf::{
    abi::{
        FlowKey, SETTING_FLOOD, SETTING_PINHOLES, Settings, WORD_MEDIA, ZONE_EXTERNAL, mapped,
        port_index,
    },
    decide::MemoryTables,
    verdict::{Reason, Verdict},
};
use edge_user::firewall::KERNEL_OBJECT;

use super::{Row, median, raw};
use crate::{
    kernel::Kernel,
    model::{
        differential::in_namespace,
        lower,
        random::own_addresses,
        world::{Block, Carries, Limit, Limits, Place, Prefix, Rule, Scope, Service, Why, World},
    },
    packets::{self, ACK, SYN},
};

const ROUNDS: usize = 9;
const REPEAT: u32 = 100_000;
/// Runs of a program in all.
pub(super) const RUNS: u64 = ROUNDS as u64 * REPEAT as u64;
/// Runs that each leave an event: so many have room before somebody reads them.
const EVENTS: u32 = 400;

pub(super) const OPEN: u16 = 7000;
const RATED: u16 = 7001;
const RATED_TOTAL: u16 = 7002;
const SIP: u16 = 7003;
const MEDIA: u16 = 7004;
pub(super) const RELAY: u16 = 50_000;
/// Ports of many calls: every second from the first on.
pub(super) const RELAYS: (u16, u16) = (10_000, 10_000);
const CLOSED: u16 = 9999;

/// A path and a packet that takes it.
struct Path {
    name: String,
    frame: Vec<u8>,
    reason: Reason,
}

/// Measures every path.
///
/// # Errors
/// When the kernel refuses something, or a packet takes another path than it should.
pub fn bench(say: &dyn Fn(&str)) -> Result<Vec<Row>> {
    say("paths");
    let rows = in_namespace(|| {
        raw::stay_on_one_cpu();
        measure()
    });
    rows.join().map_err(|_| anyhow::anyhow!("the measurement failed"))?
}

fn measure() -> Result<Vec<Row>> {
    let mut kernel = Kernel::load(KERNEL_OBJECT)?;
    let mut tables = tables();
    let (paths, _sockets) = paths(&mut tables)?;
    kernel.apply(&tables)?;
    let (drop, pass) = (raw::load(raw::Tiny::Drop)?, raw::load(raw::Tiny::Pass)?);
    let mut rows = Vec::new();
    for path in &paths {
        let (verdict, reason) = kernel.judge(&path.frame)?;
        ensure!(reason == path.reason, "{}: {reason:?}, not {:?}", path.name, path.reason);
        let (peer, program) = match verdict {
            Verdict::Pass => ("xdp-pass", pass.as_fd()),
            Verdict::Drop | Verdict::Answer | Verdict::Forward => ("xdp-drop", drop.as_fd()),
        };
        let [ours, bare] = times([kernel.xdp()?, program], &path.frame)?;
        let path = format!("run {}", path.name);
        rows.push(Row { path, unit: "ns/packet", ours, peer, peer_value: bare });
    }
    for (name, flags, what) in [
        ("port udp", SETTING_PINHOLES, "there are pinholes"),
        ("port tcp", SETTING_FLOOD, "floods are looked for"),
    ] {
        let settings = Settings { flags: tables.settings.flags | flags, ..tables.settings };
        kernel.set_settings(Settings { flood_syns: u32::MAX, block_epoch: 97, ..settings })?;
        for path in paths.iter().filter(|path| path.name.contains(name)) {
            let [ours, bare] = times([kernel.xdp()?, pass.as_fd()], &path.frame)?;
            let path = format!("run {}, {what}", path.name);
            rows.push(Row { path, unit: "ns/packet", ours, peer: "xdp-pass", peer_value: bare });
        }
    }
    for path in paths.iter().filter(|path| path.reason == Reason::BlockedAddress) {
        rows.extend(events(&mut kernel, &tables, path)?);
    }
    rows.extend(super::rare::rows(&mut kernel, &tables)?);
    Ok(rows)
}

/// The same drop without events, with a budget of them that is used up, and each an event.
fn events(kernel: &mut Kernel, tables: &MemoryTables, path: &Path) -> Result<[Row; 2]> {
    let with = |events_per_second| Settings {
        events_per_second,
        event_bytes: 160,
        block_epoch: 99,
        ..tables.settings
    };
    let (mut off, mut budget, mut each) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (events, repeat, times) in [
            (0, REPEAT, &mut off),
            (10, REPEAT, &mut budget),
            (u32::from(u16::MAX), EVENTS, &mut each),
        ] {
            kernel.set_settings(with(events))?;
            let took = raw::run(kernel.xdp()?, &path.frame, None, repeat)?;
            times.push(took.as_nanos() as f64);
            kernel.events()?;
        }
    }
    let without = median(off);
    let row = |what: &str, times| Row {
        path: format!("run {}, {what}", path.name),
        unit: "ns/packet",
        ours: median(times),
        peer: "without events",
        peer_value: without,
    };
    Ok([row("events on", budget), row("each an event", each)])
}

/// The median time of each, measured in turn.
pub(super) fn times<const N: usize>(
    programs: [BorrowedFd<'_>; N],
    frame: &[u8],
) -> Result<[f64; N]> {
    let mut all = [const { Vec::new() }; N];
    for _ in 0..ROUNDS {
        for (program, times) in programs.iter().zip(&mut all) {
            times.push(raw::run(*program, frame, None, REPEAT)?.as_nanos() as f64);
        }
    }
    Ok(all.map(median))
}

/// The form in which keys hold an address.
pub(super) fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

pub(super) fn stranger(v4: bool) -> IpAddr {
    if v4 { [198, 18, 0, 1].into() } else { [0x2001, 0xdb9, 0, 0, 0, 0, 0, 1].into() }
}

fn blocked(v4: bool) -> IpAddr {
    if v4 { [198, 18, 9, 1].into() } else { [0x2001, 0xdb9, 9, 0, 0, 0, 0, 1].into() }
}

fn tables() -> MemoryTables {
    let rule = |id, to, limits, content| Rule {
        id,
        zone: 0,
        to,
        sources: None,
        destinations: None,
        drop: false,
        content,
        limits,
    };
    // High enough never to be used up.
    let most = Limit { per_second: 4_000_000_000, burst: 1 << 40 };
    let scope = Scope { packets: most, ..Scope::default() };
    let none = Scope::default();
    let port = |udp, port| Service::Ports(udp, port, port);
    let block = |v4| Block {
        prefix: Prefix { address: blocked(v4), length: if v4 { 32 } else { 128 } },
        place: Place::Everywhere,
        why: Why::Administrator,
        ends: 0,
        from_version: 0,
        until_version: 0,
    };
    let world = World {
        device: Some(0),
        rules_loaded: true,
        short_form: true,
        limits: vec![Limits { source: scope, total: none }, Limits { source: none, total: scope }],
        rules: vec![
            rule(1, port(true, OPEN), None, Carries::Anything),
            rule(2, port(true, RATED), Some(0), Carries::Anything),
            rule(3, port(true, RATED_TOTAL), Some(1), Carries::Anything),
            rule(4, port(false, OPEN), None, Carries::Anything),
            rule(5, port(true, SIP), None, Carries::Sip),
            rule(6, port(true, MEDIA), None, Carries::Media),
        ],
        blocks: vec![block(true), block(false)],
        ..World::default()
    };
    let mut tables = lower::tables(&world);
    // They are a mode of its own, measured for itself.
    tables.settings.flags &= !SETTING_PINHOLES;
    let words = &mut tables.generations[1].port_words;
    let (first, count) = RELAYS;
    for port in (0..count).map(|number| first + 2 * number).chain([RELAY]) {
        words.insert(port_index(ZONE_EXTERNAL, true, port), WORD_MEDIA);
    }
    tables
}

/// A fragment whose first never came.
fn later_fragment(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => packets::ipv4(from, to, 17, 4, &[], &[0; 64]),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let piece = packets::extension(17, [0, 32, 0, 0, 0, 1], &[0; 64]);
            packets::ipv6(from, to, 44, 64, &piece)
        }
        _ => Vec::new(),
    };
    packets::ethernet(&[], if from.is_ipv4() { 0x0800 } else { 0x86dd }, &packet)
}

type Sockets = Vec<(TcpListener, TcpStream, UdpSocket)>;

fn paths(tables: &mut MemoryTables) -> Result<(Vec<Path>, Sockets)> {
    let (mut paths, mut sockets) = (Vec::new(), Vec::new());
    for v4 in [true, false] {
        let family = if v4 { 4 } else { 6 };
        let [me, other] = own_addresses(v4);
        let from = stranger(v4);
        let udp =
            |from, source, to| packets::frame(from, me, 17, &packets::udp(source, to, &[0; 18]));
        let tcp = |from, to: IpAddr, source, port, flags| {
            packets::frame(from, to, 6, &packets::tcp(source, port, flags))
        };
        let mut add = |name: &str, reason, frame| {
            paths.push(Path { name: format!("{name}{family}"), frame, reason });
        };
        add("drop blocked", Reason::BlockedAddress, udp(blocked(v4), 5000, CLOSED));
        add("drop port udp", Reason::NoRule, udp(from, 5000, CLOSED));
        add("drop port syn", Reason::NoRule, tcp(from, me, 5000, CLOSED, SYN));
        add("drop port ack", Reason::NoRule, tcp(from, me, 5000, CLOSED, ACK));
        add("pass port udp", Reason::Rule, udp(from, 5000, OPEN));
        add("pass port tcp", Reason::Rule, tcp(from, me, 5000, OPEN, ACK));
        add("pass rate source", Reason::Rule, udp(from, 5000, RATED));
        add("pass rate total", Reason::Rule, udp(from, 5000, RATED_TOTAL));
        let with =
            |port, data: &[u8]| packets::frame(from, me, 17, &packets::udp(5000, port, data));
        let options = b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a\r\nUser-Agent: a\r\n\r\n";
        add("pass content sip", Reason::Rule, with(SIP, options));
        add("pass content rtp", Reason::Rule, with(MEDIA, &[0x80; 172]));
        add("drop content", Reason::NotSip, with(SIP, b"GET / HTTP/1.1\r\n\r\n"));
        add("drop fragment", Reason::Fragment, later_fragment(from, me));
        let listener = TcpListener::bind((other, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (near, far) = (client.local_addr()?, client.peer_addr()?);
        add(
            "pass reply tcp",
            Reason::ReplyTcp,
            tcp(far.ip(), near.ip(), far.port(), near.port(), ACK),
        );
        let connected = UdpSocket::bind((me, 0))?;
        connected.connect((from, 53))?;
        add("pass reply udp", Reason::ReplyUdp, udp(from, 53, connected.local_addr()?.port()));
        let flow = FlowKey {
            local: sixteen(me),
            remote: sixteen(from),
            local_port: 9001_u16.to_be_bytes(),
            remote_port: 9000_u16.to_be_bytes(),
            protocol: 17,
            reserved: [0; 3],
        };
        // An entry from the future is one that another processor has just written.
        tables.flows.insert(flow, u64::from(u32::MAX));
        add("pass reply flow", Reason::ReplyRemembered, udp(from, 9000, 9001));
        sockets.push((listener, client, connected));
    }
    Ok((paths, sockets))
}
