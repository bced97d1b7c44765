//! The kernel's sampled drop events.

use std::{
    collections::VecDeque,
    net::IpAddr,
    os::fd::AsRawFd as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
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

/// Drops that are remembered for those who ask later.
const REMEMBERED: usize = 256;

/// The sampled drops of a set of pins: one reader, any number of followers, and the last drops
/// for those who ask later.
#[derive(Clone, Debug)]
pub struct Feed {
    sender: broadcast::Sender<DropEvent>,
    recent: Arc<Mutex<VecDeque<DropEvent>>>,
}

impl Feed {
    /// Starts a thread that reads the events. There is one reader a set of pins: the daemon. The
    /// channel holds `capacity` events; a follower that is slower loses the oldest and is told
    /// how many (`RecvError::Lagged`). The thread ends when nobody follows any more, so the first
    /// follower comes with it.
    pub fn start(
        pins: &Path,
        capacity: usize,
    ) -> Result<(Self, broadcast::Receiver<DropEvent>), FirewallError> {
        let ring: RingBuf<MapData> = open(pins, map_names::EVENTS)?;
        let (sender, receiver) = broadcast::channel(capacity.max(1));
        let feed = Self { sender, recent: Arc::default() };
        let reader = feed.clone();
        std::thread::Builder::new()
            .name("drop-events".to_owned())
            .spawn(move || reader.read(ring))
            .map_err(|fault| FirewallError::io("starting the reader of events", fault))?;
        Ok((feed, receiver))
    }

    /// Every drop from now on.
    pub fn follow(&self) -> broadcast::Receiver<DropEvent> {
        self.sender.subscribe()
    }

    /// The last drops, the oldest first.
    pub fn recent(&self) -> Vec<DropEvent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Until nobody follows. Woken by the kernel, and once in a while to see whether anybody does.
    fn read(&self, mut ring: RingBuf<MapData>) {
        while self.sender.receiver_count() > 0 {
            while let Some(item) = ring.next() {
                if let Some(event) = event(&item) {
                    self.publish(event);
                }
            }
            if let Err(fault) = sys::wait_readable(ring.as_raw_fd(), 200) {
                tracing::error!(%fault, "drop events can no longer be read");
                return;
            }
        }
    }

    fn publish(&self, event: DropEvent) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(event.clone());
        drop(recent);
        // Nobody follows any more: the reader's head sees it.
        let _ = self.sender.send(event);
    }
}

/// A feed of which only the first follower is wanted.
pub fn subscribe(
    pins: &Path,
    capacity: usize,
) -> Result<broadcast::Receiver<DropEvent>, FirewallError> {
    Feed::start(pins, capacity).map(|(_, receiver)| receiver)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_drops_are_remembered_and_no_more() {
        let (sender, mut follower) = broadcast::channel(16);
        let feed = Feed { sender, recent: Arc::default() };
        let mut bytes = [0; size_of::<Event>()];
        for number in 0..REMEMBERED + 10 {
            let mut drop = event(&bytes).unwrap();
            drop.length = u32::try_from(number).unwrap();
            feed.publish(drop);
        }
        let recent = feed.recent();
        assert_eq!(recent.len(), REMEMBERED);
        assert_eq!((recent[0].length, recent[REMEMBERED - 1].length), (10, 265));
        let lagged = follower.try_recv().unwrap_err();
        assert!(matches!(lagged, broadcast::error::TryRecvError::Lagged(250)), "{lagged:?}");
        bytes[0] = 1;
        assert!(event(&bytes[1..]).is_none(), "another length is no event of ours");
    }
}
