//! Paths whose packet or table the program changes, so that it is put right before each run by a
//! small program that goes on with ours: a SYN that is answered with a cookie, and a later fragment
//! after its first. What putting right costs is measured with a program that only returns, and
//! subtracted.

use std::{
    net::{IpAddr, TcpListener},
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, ensure};
use aya::Pod;
use edge_ebpf::{
    abi::{Fragment, FragmentKey, SETTING_FLOOD, Settings, map_names},
    decide::MemoryTables,
    verdict::Reason,
};

use super::{
    Row,
    paths::{OPEN, RUNS, stranger, times},
    raw::{self, Before, Entry, Tiny},
};
use crate::{
    kernel::Kernel,
    model::random::own_addresses,
    packets::{self, SYN},
};

/// Both paths, both families.
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
