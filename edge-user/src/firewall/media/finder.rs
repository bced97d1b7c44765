//! Looks the way to a target up: what the kernel's stack would find, route, then neighbour.
//!
//! It asks the kernel and waits for the answer: never under the lock of the table, which messages
//! wait for.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, Ipv6Addr},
};

use super::hops::{Hop, Target};
use crate::{
    config::{Config, MediaPath, Zone},
    media::flow::MediaSide,
};

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
    /// Bytes of an IP packet that it takes; 0: not known.
    pub mtu: u32,
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
    /// Whether XDP can send by a device. `None`: nobody says.
    fn can_send(&mut self, ifindex: u32) -> io::Result<Option<bool>>;
    /// All devices.
    fn links(&mut self) -> io::Result<Vec<Link>>;
    /// What changed since the last time.
    fn changes(&mut self) -> io::Result<Changes>;
}

/// Which device belongs to which side: by name, and on a trunk by VLAN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sides(pub(super) HashMap<(String, Option<u16>), MediaSide>);

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

/// Who sends packets on, as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sender {
    /// By the file.
    pub path: MediaPath,
    /// The firewall drops nothing: what reaches the daemon is not what was judged.
    pub monitor: bool,
}

impl Sender {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        Self { path: config.media.path, monitor: config.firewall.monitor }
    }
}

/// What a look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Device and address of the neighbour.
    pub neighbour: Option<(u32, IpAddr)>,
    /// The way.
    pub hop: Option<Hop>,
    /// Name of its device.
    pub device: Option<String>,
}

/// Who asks.
#[derive(Debug)]
pub(super) struct Finder<A> {
    pub(super) ask: A,
    sides: Sides,
    sender: Sender,
    links: HashMap<u32, Link>,
    faults: u64,
}

impl<A: Ask> Finder<A> {
    /// Knows the devices.
    pub fn new(ask: A, sides: Sides, sender: Sender) -> Self {
        let mut finder = Self { ask, sides, sender, links: HashMap::new(), faults: 0 };
        finder.read_links();
        finder
    }

    /// Other devices are ours from now on, and others send; `false`: they are the same.
    pub fn set(&mut self, sides: Sides, sender: Sender) -> bool {
        let others = (&self.sides, self.sender) != (&sides, sender);
        (self.sides, self.sender) = (sides, sender);
        others
    }

    /// Devices of ours, outside and inside.
    pub fn devices(&self) -> [Vec<u32>; 2] {
        [MediaSide::Outside, MediaSide::Inside].map(|side| {
            let of_side = self.links.values().filter(|link| self.side_of(link) == Some(side));
            let mut all: Vec<u32> = of_side.map(|link| link.ifindex).collect();
            all.sort_unstable();
            all
        })
    }

    /// What changed since the last time.
    pub fn changes(&mut self) -> Changes {
        let changes = self.ask.changes().unwrap_or_else(|fault| {
            self.fault(&fault);
            // Anything may have.
            Changes { routes: true, ..Changes::default() }
        });
        if changes.links {
            self.read_links();
        }
        changes
    }

    /// Looks a way up, and has the kernel look for it when it is not known.
    pub fn look(&mut self, target: Target) -> Found {
        let (neighbour, hop) = match self.neighbour_of(target) {
            Ok(Some((link, neighbour))) => (Some(neighbour), self.resolve(&link, neighbour)),
            Ok(None) => (None, Ok(None)),
            Err(fault) => (None, Err(fault)),
        };
        let hop = hop.unwrap_or_else(|fault| {
            self.fault(&fault);
            None
        });
        let device = hop.and_then(|hop| self.links.get(&hop.ifindex));
        Found { neighbour, hop, device: device.map(|link| link.name.clone()) }
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
        let by_daemon = match self.sender.path {
            MediaPath::Auto => self.cannot_send(ifindex),
            MediaPath::Kernel => false,
            MediaPath::Daemon => true,
        };
        // Beyond what the number holds there is no packet.
        let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        let hop = Hop { ifindex, vlan, mtu, device, next_hop, by_daemon };
        Ok(Some(hop).filter(|_| !(by_daemon && self.sender.monitor)))
    }

    /// Whether XDP can send nothing by a device, for all that is known.
    fn cannot_send(&mut self, ifindex: u32) -> bool {
        let can = self.ask.can_send(ifindex).unwrap_or_else(|fault| {
            self.fault(&fault);
            None
        });
        can == Some(false)
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
