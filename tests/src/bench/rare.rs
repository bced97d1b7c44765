//! Paths whose packet or table the program changes, so that it is put right before each run by a
//! small program that goes on with ours: a SYN that is answered with a cookie, a later fragment
//! after its first, and a call's media, by a pinhole and by a port of ours. What putting right
//! costs is measured with a program that only returns, and subtracted.

use std::{
    net::{IpAddr, TcpListener},
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, ensure};
use aya::Pod;
use edge_ebpf::{
    abi::{
        CONTENT_MEDIA, Fragment, FragmentKey, Limit, MEDIA_OUT_IPV6, MEDIA_REWRITE, MEDIA_RTP,
        MediaFlow, SETTING_FLOOD, SETTING_PINHOLES, Settings, ZONE_EXTERNAL, map_names, media_home,
        media_port_index,
    },
    decide::MemoryTables,
    verdict::Reason,
};

use super::{
    Row,
    paths::{OPEN, RELAY, RELAYS, RUNS, sixteen, stranger, times},
    raw::{self, Before, Entry, Tiny},
};
use crate::{
    kernel::Kernel,
    model::random::own_addresses,
    packets::{self, SYN},
};

/// Every path, both families.
pub(super) fn rows(kernel: &mut Kernel, tables: &MemoryTables) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for v4 in [true, false] {
        rows.push(later_fragment(kernel, v4)?);
    }
    std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").context("tcp_syncookies")?;
    kernel.load_rare()?;
    let flags = tables.settings.flags | SETTING_FLOOD;
    kernel.set_settings(Settings { flags, flood_syns: 1, block_epoch: 98, ..tables.settings })?;
    for v4 in [true, false] {
        rows.push(cookie(kernel, v4)?);
    }
    for (door, flags) in [(Door::Pinhole, SETTING_PINHOLES), (Door::Port, 0)] {
        let flags = tables.settings.flags | flags;
        kernel.set_settings(Settings { flags, block_epoch: 96, ..tables.settings })?;
        for v4 in [true, false] {
            rows.push(media(kernel, v4, door)?);
        }
    }
    rows.push(of_many(kernel)?);
    kernel.set_settings(tables.settings)?;
    Ok(rows)
}

fn cookie(kernel: &mut Kernel, v4: bool) -> Result<Row> {
    let [me, _] = own_addresses(v4);
    let _listener = TcpListener::bind((me, OPEN)).context("a service")?;
    let mut syn = packets::tcp(5000, OPEN, SYN);
    // With a segment size the frame is as long as its answer.
    syn[12] = 0x60;
    syn.extend_from_slice(&[2, 4, 0x05, 0xb4]);
    let frame = packets::frame(stranger(v4), me, 6, &syn);
    kernel.run(&frame)?;
    let (_, reason) = kernel.judge(&frame)?;
    ensure!(reason == Reason::SynCookie, "a SYN in a flood: {reason:?}");
    let name = if v4 { "run syn cookie4" } else { "run syn cookie6" };
    let before = Before { frame: &frame, entry: None };
    measured(kernel, name, &frame, before, (Tiny::Transmit, "xdp-tx"), reason)
}

/// How a call's packet finds its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// By the endpoint that it is for: only the link addresses and the hop limit change.
    Pinhole,
    /// By a port of ours: both ends change too.
    Port,
}

/// A packet of 172 bytes of RTP that is sent on: source, content, limits and sequence are looked at.
fn media(kernel: &mut Kernel, v4: bool, door: Door) -> Result<Row> {
    let port = if door == Door::Pinhole { 6000 } else { RELAY };
    let frame = open(kernel, v4, (door, port), (5, 5))?;
    let reason = kernel.outcome(&frame)?.reason;
    ensure!(reason == Reason::MediaRelayed, "media by a {door:?}: {reason:?}");
    let name = match door {
        Door::Pinhole => format!("run pinhole{}", if v4 { 4 } else { 6 }),
        Door::Port => format!("run relayed media{}", if v4 { 4 } else { 6 }),
    };
    let before = Before { frame: &frame, entry: None };
    measured(kernel, &name, &frame, before, (Tiny::Transmit, "xdp-tx"), reason)
}

/// A packet of any of so many calls, beside one of ten: what the program itself pays for flows that are
/// in no near cache.
fn of_many(kernel: &mut Kernel) -> Result<Row> {
    const FEW: u16 = 10;
    let (first, count) = RELAYS;
    let mut frame = Vec::new();
    for number in (0..count).rev() {
        let port = first + 2 * number;
        let home = media_home(media_port_index(ZONE_EXTERNAL, false, port));
        frame = open(kernel, true, (Door::Port, port), home)?;
    }
    let counted = kernel.reason_counter(Reason::MediaRelayed)?.packets;
    let empty = raw::load(Tiny::Transmit)?;
    let before = Before { frame: &frame, entry: None };
    let mut programs = Vec::new();
    for next in [kernel.xdp()?, empty.as_fd()] {
        for ports in [FEW, count] {
            let (spread, kept) = raw::spread(next, (first, ports))?;
            programs.push((raw::restoring(spread.as_fd(), before)?, kept));
        }
    }
    let [few, many, empty_few, empty_many] =
        times([0, 1, 2, 3].map(|at: usize| programs[at].0.0.as_fd()), &frame)?;
    let counted = kernel.reason_counter(Reason::MediaRelayed)?.packets - counted;
    ensure!(counted == 2 * RUNS, "{counted} of {} runs were relayed", 2 * RUNS);
    Ok(Row {
        path: format!("run relayed media4, one of {count}"),
        unit: "ns/packet",
        ours: many - empty_many,
        peer: "one of 10",
        peer_value: few - empty_few,
    })
}

/// Opens a flow to a port of this door, and gives a packet of it.
fn open(
    kernel: &mut Kernel,
    v4: bool,
    (door, port): (Door, u16),
    (slot, state): (u32, u32),
) -> Result<Vec<u8>> {
    let ([me, other], from) = (own_addresses(v4), stranger(v4));
    let to = if door == Door::Pinhole { endpoint(v4) } else { me };
    let most = Limit::new(4_000_000_000, 1 << 30);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
    let flow = MediaFlow {
        call: 7,
        packets: most,
        bytes: most,
        source: sixteen(from),
        source_bits: 128,
        source_port: 5000_u16.to_be_bytes(),
        local: sixteen(to),
        local_port: port.to_be_bytes(),
        to: sixteen(endpoint(v4)),
        to_port: 6000_u16.to_be_bytes(),
        from: sixteen(other),
        from_port: RELAY.to_be_bytes(),
        next_hop: [2, 0, 0, 0, 9, 9],
        device: [2, 0, 0, 0, 9, 1],
        flags: MEDIA_RTP
            | if door == Door::Port { MEDIA_REWRITE } else { 0 }
            | if v4 { 0 } else { MEDIA_OUT_IPV6 },
        content: CONTENT_MEDIA,
        ifindex: 77,
        state,
        epoch: 1,
        expires_at_seconds: u32::try_from(now)? + 3600,
        clock: 8000,
        ..MediaFlow::default()
    };
    kernel.set_media_flow(slot, &flow)?;
    match door {
        Door::Pinhole => kernel.set_pinhole(ZONE_EXTERNAL, to, port, slot)?,
        Door::Port => kernel.set_media_port(ZONE_EXTERNAL, !v4, port, slot)?,
    }
    let mut rtp = [0x80; 172];
    rtp[1] = 0;
    let datagram = packets::frame(from, to, 17, &packets::udp(5000, port, &rtp));
    Ok(packets::with_udp_checksum(packets::summed(datagram)))
}

/// An endpoint behind us.
fn endpoint(v4: bool) -> IpAddr {
    if v4 { [10, 9, 0, 7].into() } else { [0xfd00, 9, 0, 0, 0, 0, 0, 7].into() }
}

fn later_fragment(kernel: &mut Kernel, v4: bool) -> Result<Row> {
    let ([me, _], from): (_, IpAddr) = (own_addresses(v4), stranger(v4));
    let whole = packets::udp(5000, OPEN, &[0; 56]);
    let piece = |bytes| packets::fragment(from, me, 17, &whole, bytes, 7);
    kernel.forget_packets()?;
    let (_, first) = kernel.judge(&piece(0..32))?;
    ensure!(first == Reason::Rule, "a first fragment: {first:?}");
    let fragments = kernel.hash::<FragmentKey, Fragment>(map_names::FRAGMENTS)?;
    let key = fragments.keys().next().context("the first fragment is not remembered")??;
    let frame = piece(32..64);
    let (_, later) = kernel.judge(&frame)?;
    ensure!(later == Reason::FragmentTracked, "a later fragment: {later:?}");
    let map = kernel.descriptor(map_names::FRAGMENTS)?.try_clone_to_owned()?;
    let entry = Entry { map: map.as_raw_fd(), key: bytes_of(&key), word: 32 };
    let before = Before { frame: &[], entry: Some(entry) };
    let name = if v4 { "run pass later fragment4" } else { "run pass later fragment6" };
    measured(kernel, name, &frame, before, (Tiny::Pass, "xdp-pass"), later)
}

/// Ours, with what putting right costs taken off. Every run must be counted under the reason.
fn measured(
    kernel: &mut Kernel,
    name: &str,
    frame: &[u8],
    before: Before<'_>,
    (bare, peer): (Tiny, &'static str),
    reason: Reason,
) -> Result<Row> {
    let counted = kernel.reason_counter(reason)?.packets;
    let bare = raw::load(bare)?;
    let (ours, _next) = raw::restoring(kernel.xdp()?, before).context(name.to_owned())?;
    let (empty, _next) = raw::restoring(bare.as_fd(), before).context(name.to_owned())?;
    let [ours, empty, bare] = times([ours.as_fd(), empty.as_fd(), bare.as_fd()], frame)?;
    let counted = kernel.reason_counter(reason)?.packets - counted;
    ensure!(counted == RUNS, "{name}: {counted} of {RUNS} runs were counted as {reason:?}");
    let path = name.to_owned();
    Ok(Row { path, unit: "ns/packet", ours: ours - empty + bare, peer, peer_value: bare })
}

fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: plain data without gaps, as the kernel takes it.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
