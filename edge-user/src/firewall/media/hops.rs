//! The way to where flows go: device, tag and link addresses, kept up to date.
//!
//! The program forwards by itself and asks nobody for a way, so what the kernel's stack would find
//! (route, then neighbour) is looked up here and written into each flow. What the kernel tells of
//! changes is a hint to look again, never a fact to build on.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::{
    config::{Config, Zone},
    media::flow::MediaSide,
};

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

/// Where packets go, and by which side they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    /// Address that they go to.
    pub address: IpAddr,
    /// The side that its device must be on.
    pub side: MediaSide,
}

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    /// Device.
    pub ifindex: u32,
    /// VLAN that packets leave with; 0: none.
    pub vlan: u16,
    /// The device's link address.
    pub device: [u8; 6],
    /// The next hop's.
    pub next_hop: [u8; 6],
}

/// What the kernel's tables say of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Device.
    pub ifindex: u32,
    /// Gateway; `None`: it is on the link.
    pub gateway: Option<IpAddr>,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// Its link address, when one is known that counts.
    pub address: Option<[u8; 6]>,
    /// The kernel holds it for sure: it need not be asked.
    pub confirmed: bool,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Link address of an Ethernet device.
    pub address: Option<[u8; 6]>,
    /// Up.
    pub up: bool,
    /// It is this VLAN (802.1Q) of that device.
    pub vlan: Option<(u32, u16)>,
}

/// What changed in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Devices.
    pub links: bool,
    /// Routes, or something was not heard.
    pub routes: bool,
    /// Neighbours, by device and address.
    pub neighbours: Vec<(u32, IpAddr)>,
}

/// Questions to the kernel.
pub(super) trait Ask {
    /// The route to an address, by this device where one is given. `None`: there is none for
    /// unicast.
    fn route(&mut self, to: IpAddr, ifindex: Option<u32>) -> io::Result<Option<Route>>;
    /// What is known of a neighbour.
    fn neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Neighbour>;
    /// Has the kernel find the neighbour, or make sure that it is still there.
    fn solicit(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()>;
    /// All devices.
    fn links(&mut self) -> io::Result<Vec<Link>>;
    /// What changed since the last time.
    fn changes(&mut self) -> io::Result<Changes>;
}

/// Which device belongs to which side: by name, and on a trunk by VLAN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sides(HashMap<(String, Option<u16>), MediaSide>);

impl Sides {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        let side = |zone| match zone {
            Zone::External => MediaSide::Outside,
            Zone::Internal => MediaSide::Inside,
        };
        let interfaces = config.interfaces.iter();
        Self(interfaces.map(|i| ((i.device.clone(), i.vlan), side(i.zone))).collect())
    }
}

/// A way as far as it is known.
#[derive(Debug)]
struct Known {
    /// Flows that go there.
    users: usize,
    /// Device and address of the neighbour.
    neighbour: Option<(u32, IpAddr)>,
    hop: Option<Hop>,
    next_look: Instant,
    /// In a row, without a way.
    vain: u32,
}

/// The ways that flows go.
#[derive(Debug)]
pub(super) struct Hops<A> {
    ask: A,
    sides: Sides,
    links: HashMap<u32, Link>,
    known: HashMap<Target, Known>,
    /// Those without a way that should have one soon.
    waiting: HashSet<Target>,
    /// The last tick left something to look at.
    is_behind: bool,
    faults: u64,
}

impl<A: Ask> Hops<A> {
    /// No flow goes anywhere yet.
    pub fn new(ask: A, sides: Sides) -> Self {
        let mut hops = Self {
            ask,
            sides,
            links: HashMap::new(),
            known: HashMap::new(),
            waiting: HashSet::new(),
            is_behind: false,
            faults: 0,
        };
        hops.read_links();
        hops
    }

    /// A flow more goes there; gives the way, when one is known.
    pub fn take(&mut self, target: Target, now: Instant) -> Option<Hop> {
        if let Some(known) = self.known.get_mut(&target) {
            known.users += 1;
            return known.hop;
        }
        let fresh = Known { users: 1, neighbour: None, hop: None, next_look: now, vain: 0 };
        self.known.insert(target, fresh);
        self.look(target, now);
        self.get(target)
    }

    /// A flow less goes there.
    pub fn release(&mut self, target: Target) {
        if let Some(known) = self.known.get_mut(&target) {
            known.users = known.users.saturating_sub(1);
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

    /// The neighbour that the way goes by.
    pub fn neighbour(&self, target: Target) -> Option<IpAddr> {
        self.known.get(&target)?.neighbour.map(|(_, address)| address)
    }

    /// Name of a device.
    pub fn device(&self, ifindex: u32) -> Option<&str> {
        self.links.get(&ifindex).map(|link| link.name.as_str())
    }

    /// Whether a way is looked for that should be there soon, or ways are left to look at.
    pub fn is_waiting(&self) -> bool {
        self.is_behind || !self.waiting.is_empty()
    }

    /// Other devices are ours from now on.
    pub fn set_sides(&mut self, sides: Sides, now: Instant) {
        if self.sides != sides {
            self.sides = sides;
            self.all_due(now);
        }
    }

    /// Looks at what changed and at what is due. Gives where the way is another one now.
    pub fn tick(&mut self, now: Instant) -> Vec<Target> {
        match self.ask.changes() {
            Ok(changes) => self.heard(&changes, now),
            Err(fault) => {
                self.fault(&fault);
                self.all_due(now);
            }
        }
        let due = self.known.iter().filter(|(_, known)| known.next_look <= now);
        let mut due: Vec<(Instant, Target)> =
            due.map(|(target, known)| (known.next_look, *target)).collect();
        // Who waits longest first, so that nobody waits for good.
        due.sort_by_key(|(since, _)| *since);
        let due: Vec<Target> = due.into_iter().map(|(_, target)| target).take(LOOKS).collect();
        self.is_behind = due.len() == LOOKS;
        due.into_iter()
            .filter(|target| {
                let before = self.get(*target);
                self.look(*target, now);
                self.get(*target) != before
            })
            .collect()
    }

    fn heard(&mut self, changes: &Changes, now: Instant) {
        if changes.links {
            self.read_links();
        }
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

    fn all_due(&mut self, now: Instant) {
        self.known.values_mut().for_each(|known| known.next_look = now);
    }

    fn read_links(&mut self) {
        match self.ask.links() {
            Ok(links) => self.links = links.into_iter().map(|link| (link.ifindex, link)).collect(),
            Err(fault) => self.fault(&fault),
        }
    }

    fn fault(&mut self, fault: &io::Error) {
        self.faults += 1;
        if self.faults.is_power_of_two() {
            tracing::warn!(%fault, times = self.faults, "the way of media flows cannot be looked up");
        }
    }

    /// Looks a way up, and has the kernel look for it when it is not known.
    fn look(&mut self, target: Target, now: Instant) {
        let (neighbour, found) = match self.neighbour_of(target) {
            Ok(Some((link, neighbour))) => (Some(neighbour), self.resolve(&link, neighbour)),
            Ok(None) => (None, Ok(None)),
            Err(fault) => (None, Err(fault)),
        };
        let hop = found.unwrap_or_else(|fault| {
            self.fault(&fault);
            None
        });
        let Some(known) = self.known.get_mut(&target) else { return };
        known.neighbour = neighbour;
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
        known.hop = hop;
        known.next_look = now + wait;
    }

    /// Device and neighbour that lead to a target.
    fn neighbour_of(&mut self, target: Target) -> io::Result<Option<(Link, (u32, IpAddr))>> {
        let only = match target.address {
            IpAddr::V6(address) if is_link_local(address) => match self.only_device(target.side) {
                Some(ifindex) => Some(ifindex),
                None => return Ok(None),
            },
            _ => None,
        };
        let Some(route) = self.ask.route(target.address, only)? else { return Ok(None) };
        if !self.links.contains_key(&route.ifindex) {
            self.read_links();
        }
        let Some(link) = self.links.get(&route.ifindex) else { return Ok(None) };
        if !link.up || self.side_of(link) != Some(target.side) {
            return Ok(None);
        }
        let neighbour = (route.ifindex, route.gateway.unwrap_or(target.address));
        Ok(Some((link.clone(), neighbour)))
    }

    fn resolve(&mut self, link: &Link, neighbour: (u32, IpAddr)) -> io::Result<Option<Hop>> {
        // Packets cannot be handed to a VLAN's device: they leave by the one below it, tagged.
        let (ifindex, vlan) = link.vlan.unwrap_or((link.ifindex, 0));
        let (device, address) = neighbour;
        let found = self.ask.neighbour(device, address)?;
        if !found.confirmed {
            let asked = self.ask.solicit(device, address);
            // What is known goes on to be used.
            if found.address.is_none() {
                asked?;
            }
        }
        let (Some(device), Some(next_hop)) = (link.address, found.address) else { return Ok(None) };
        Ok(Some(Hop { ifindex, vlan, device, next_hop }))
    }

    /// The side a device is configured for.
    fn side_of(&self, link: &Link) -> Option<MediaSide> {
        let by_vlan = link.vlan.and_then(|(lower, vlan)| {
            let lower = self.links.get(&lower)?;
            self.sides.0.get(&(lower.name.clone(), Some(vlan))).copied()
        });
        by_vlan.or_else(|| self.sides.0.get(&(link.name.clone(), None)).copied())
    }

    /// The device of a side, when it has only one.
    fn only_device(&self, side: MediaSide) -> Option<u32> {
        let of_side = |link: &&Link| self.side_of(link) == Some(side);
        let found: BTreeSet<u32> =
            self.links.values().filter(of_side).map(|link| link.ifindex).collect();
        if found.len() == 1 { found.first().copied() } else { None }
    }
}

/// RFC 4291 section 2.5.6.
const fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
#[path = "hops_tests.rs"]
mod tests;
