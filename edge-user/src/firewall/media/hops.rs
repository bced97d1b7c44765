//! The way to where flows go: device, tag and link addresses, kept up to date.
//!
//! The program forwards by itself and asks nobody for a way, so what the kernel's stack would find
//! is looked up ([`super::finder`]) and written into each flow. What the kernel tells of changes is
//! a hint to look again, never a fact to build on. Nothing is asked here: a target that is new has
//! no way until somebody has looked, and messages do not wait for that.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::finder::{Changes, Found};
use crate::media::flow::MediaSide;

/// How soon an unresolved neighbour is looked at again, at first.
pub(super) const SOON: Duration = Duration::from_millis(20);
/// And how often then.
pub(super) const LATER: Duration = Duration::from_secs(1);
/// For so many looks it is soon.
const SOON_LOOKS: u32 = 25;
/// How often a way that is known is looked at.
const REFRESH: Duration = Duration::from_secs(5);
/// Looks in one tick: others wait for the table meanwhile. What is left is looked at in the next,
/// which comes soon.
const LOOKS: usize = 128;
/// How long the way to where no flow goes yet is kept: as long as a telephone rings.
const EXPECTED: Duration = Duration::from_secs(180);
/// So many targets may be expected: others have to wait until their flows are there.
const MOST_EXPECTED: usize = 1024;

/// Where packets go, and by which side they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    /// Address that they go to.
    pub address: IpAddr,
    /// The side that its device must be on.
    pub side: MediaSide,
}

/// A way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hop {
    /// Device.
    pub ifindex: u32,
    /// VLAN that packets leave with; 0: none.
    pub vlan: u16,
    /// Bytes of an IP packet that may leave by it; 0: not known.
    pub mtu: u16,
    /// The device's link address.
    pub device: [u8; 6],
    /// The next hop's.
    pub next_hop: [u8; 6],
    /// The daemon sends there, and not the program in the kernel.
    pub by_daemon: bool,
}

/// A way as far as it is known.
#[derive(Debug)]
struct Known {
    /// Flows that go there.
    users: usize,
    /// Somebody has looked.
    looked: bool,
    /// Device and address of the neighbour.
    neighbour: Option<(u32, IpAddr)>,
    hop: Option<Hop>,
    /// Name of its device.
    device: Option<String>,
    next_look: Instant,
    /// In a row, without a way.
    vain: u32,
    /// Until when it is kept without a flow.
    expected: Instant,
}

/// The ways that flows go.
#[derive(Debug, Default)]
pub(super) struct Hops {
    known: HashMap<Target, Known>,
    /// Those without a way that should have one soon.
    waiting: HashSet<Target>,
    /// How many of those known no flow goes to yet.
    expected: usize,
    /// The last tick left something to look at.
    is_behind: bool,
}

impl Hops {
    /// A flow more goes there; gives the way, when one is known.
    pub fn take(&mut self, target: Target, now: Instant) -> Option<Hop> {
        if let Some(known) = self.known.get_mut(&target) {
            if known.users == 0 {
                self.expected -= 1;
            }
            known.users += 1;
            return known.hop;
        }
        self.add(target, 1, now);
        None
    }

    /// A flow will go there soon.
    pub fn expect(&mut self, target: Target, now: Instant) {
        if let Some(known) = self.known.get_mut(&target) {
            known.expected = now + EXPECTED;
        } else if self.expected < MOST_EXPECTED {
            self.expected += 1;
            self.add(target, 0, now);
        }
    }

    fn add(&mut self, target: Target, users: usize, now: Instant) {
        let known = Known {
            users,
            looked: false,
            neighbour: None,
            hop: None,
            device: None,
            next_look: now,
            vain: 0,
            expected: now + EXPECTED,
        };
        self.known.insert(target, known);
        self.waiting.insert(target);
    }

    /// A flow less goes there.
    pub fn release(&mut self, target: Target) {
        if let Some(known) = self.known.get_mut(&target)
            && known.users > 0
        {
            known.users -= 1;
            if known.users == 0 {
                self.known.remove(&target);
                self.waiting.remove(&target);
            }
        }
    }

    /// The way, when one is known.
    pub fn get(&self, target: Target) -> Option<Hop> {
        self.known.get(&target)?.hop
    }

    /// Whether nobody has looked yet.
    pub fn is_new(&self, target: Target) -> bool {
        self.known.get(&target).is_some_and(|known| !known.looked)
    }

    /// The neighbour that the way goes by.
    pub fn neighbour(&self, target: Target) -> Option<IpAddr> {
        self.known.get(&target)?.neighbour.map(|(_, address)| address)
    }

    /// Name of the device that the way goes by.
    pub fn device(&self, target: Target) -> Option<&str> {
        self.known.get(&target)?.device.as_deref()
    }

    /// Whether a way is looked for that should be there soon, or ways are left to look at.
    pub fn is_waiting(&self) -> bool {
        self.is_behind || !self.waiting.is_empty()
    }

    /// What changed in the kernel is to be looked at.
    pub fn heard(&mut self, changes: &Changes, now: Instant) {
        if changes.links || changes.routes {
            self.all_due(now);
        } else if !changes.neighbours.is_empty() {
            let neighbours: HashSet<_> = changes.neighbours.iter().collect();
            for known in self.known.values_mut() {
                if known.neighbour.is_some_and(|neighbour| neighbours.contains(&neighbour)) {
                    known.next_look = now;
                }
            }
        }
    }

    /// All ways are to be looked at.
    pub fn all_due(&mut self, now: Instant) {
        self.known.values_mut().for_each(|known| known.next_look = now);
    }

    /// What is to be looked at now. What was expected in vain is forgotten.
    pub fn due(&mut self, now: Instant) -> Vec<Target> {
        if self.expected > 0 {
            let (waiting, expected) = (&mut self.waiting, &mut self.expected);
            self.known.retain(|target, known| {
                let stays = known.users > 0 || known.expected > now;
                if !stays {
                    waiting.remove(target);
                    *expected -= 1;
                }
                stays
            });
        }
        let due = self.known.iter().filter(|(_, known)| known.next_look <= now);
        let mut due: Vec<(Instant, Target)> =
            due.map(|(target, known)| (known.next_look, *target)).collect();
        // Who waits longest first, so that nobody waits for good.
        due.sort_by_key(|(since, _)| *since);
        let due: Vec<Target> = due.into_iter().map(|(_, target)| target).take(LOOKS).collect();
        self.is_behind = due.len() == LOOKS;
        due
    }

    /// What a look found. Gives whether the way is another one now.
    pub fn found(&mut self, target: Target, found: Found, now: Instant) -> bool {
        let Found { neighbour, hop, device } = found;
        let Some(known) = self.known.get_mut(&target) else { return false };
        known.looked = true;
        (known.neighbour, known.device) = (neighbour, device);
        known.vain = if hop.is_some() { 0 } else { known.vain.saturating_add(1) };
        // Without a neighbour to ask for, nothing is under way that would bring it soon.
        let soon = hop.is_none() && neighbour.is_some() && known.vain <= SOON_LOOKS;
        let wait = match hop {
            Some(_) => REFRESH,
            None if soon => SOON,
            None => LATER,
        };
        if soon {
            self.waiting.insert(target);
        } else {
            self.waiting.remove(&target);
        }
        known.next_look = now + wait;
        std::mem::replace(&mut known.hop, hop) != hop
    }
}

#[cfg(test)]
#[path = "hops_tests.rs"]
mod tests;
