//! The kernel's sampled drop events.

use std::{
    net::IpAddr,
    os::fd::AsRawFd as _,
    path::Path,
    time::{Duration, SystemTime},
};

use aya::maps::{MapData, RingBuf};
use edge_ebpf::abi::{Event, map_names};
use serde::Serialize;
use tokio::sync::broadcast;

use super::{FirewallError, decode, kernel::open, sys};

/// A packet that was dropped, or would have been in monitor mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DropEvent {
    /// When, by the wall clock.
    pub at: SystemTime,
    /// Name of the reason.
    pub reason: &'static str,
    /// The interface's index.
    pub ifindex: u32,
    /// `external`, `internal` or `none`.
    pub zone: &'static str,
    /// Outer VLAN id.
    pub vlan: Option<u16>,
    /// EtherType.
    pub ether_type: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Source; `None` when the packet has none that could be read.
    pub source: Option<IpAddr>,
    /// Destination, likewise.
    pub destination: Option<IpAddr>,
    /// Source port.
    pub source_port: u16,
    /// Destination port; for ICMP the type and code.
    pub destination_port: u16,
    /// Length of the frame in bytes.
    pub length: u32,
    /// The rule that decided.
    pub rule: Option<u32>,
    /// Passed all the same (monitor mode).
    pub monitored: bool,
    /// The frame's first bytes.
    #[serde(skip)]
    pub frame: Vec<u8>,
}

/// Starts a thread that reads the events. There is one reader a set of pins: the daemon. The
/// channel holds `capacity` events; a subscriber that is slower loses the oldest and is told how
/// many (`RecvError::Lagged`). The thread ends when nobody subscribes any more.
pub fn subscribe(
    pins: &Path,
    capacity: usize,
) -> Result<broadcast::Receiver<DropEvent>, FirewallError> {
    let ring: RingBuf<MapData> = open(pins, map_names::EVENTS)?;
    let (sender, receiver) = broadcast::channel(capacity.max(1));
    std::thread::Builder::new()
        .name("drop-events".to_owned())
        .spawn(move || read(ring, &sender))
        .map_err(|fault| FirewallError::io("starting the reader of events", fault))?;
    Ok(receiver)
}

/// Until nobody listens. Woken by the kernel, and once in a while to see whether anybody does.
fn read(mut ring: RingBuf<MapData>, sender: &broadcast::Sender<DropEvent>) {
    while sender.receiver_count() > 0 {
        while let Some(item) = ring.next() {
            if let Some(event) = event(&item) {
                // Nobody listens any more: the loop's head sees it.
                let _ = sender.send(event);
            }
        }
        if let Err(fault) = sys::wait_readable(ring.as_raw_fd(), 200) {
            tracing::error!(%fault, "drop events can no longer be read");
            return;
        }
    }
}

/// Decodes one record; one of another length is not ours.
fn event(bytes: &[u8]) -> Option<DropEvent> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: the length is that of an `Event`, which is plain data for which every bit pattern
    // is a value; the read does not ask for alignment.
    let event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
    let now = sys::now();
    let age = sys::monotonic_nanoseconds().saturating_sub(event.at_nanoseconds);
    let address = |bytes: [u8; 16]| (bytes != [0; 16]).then(|| decode::address(bytes));
    Some(DropEvent {
        at: now.wall.checked_sub(Duration::from_nanos(age)).unwrap_or(now.wall),
        reason: decode::reason(event.reason),
        ifindex: event.ifindex,
        zone: decode::zone(event.zone),
        vlan: (event.vlan != 0).then_some(event.vlan),
        ether_type: u16::from_be_bytes(event.ether_type),
        protocol: event.protocol,
        source: address(event.source),
        destination: address(event.destination),
        source_port: u16::from_be_bytes(event.source_port),
        destination_port: u16::from_be_bytes(event.destination_port),
        length: event.length,
        rule: (event.rule != u32::MAX).then_some(event.rule),
        monitored: event.monitored != 0,
        frame: event.data.get(..usize::from(event.captured)).unwrap_or_default().to_vec(),
    })
}
