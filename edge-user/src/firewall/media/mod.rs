//! Media flows in the kernel: the one writer of the `MEDIA_*` maps.
//!
//! | part | what it does |
//! | --- | --- |
//! | `entry` | a flow in the kernel's form, and back |
//! | `table` | what is open, and the order of writes |
//! | `doors` | which flows come in where |
//! | `hops` | device and link addresses to where flows go, kept up to date |
//! | `finder` | looks them up |
//! | `ways` | looks them up while nobody waits |
//! | `netlink` | what the kernel knows of routes, neighbours and devices |
//! | `in_use` | what must stay when another configuration is put in force |
//! | `status` | what the kernel counted, as people read it |
//! | `delays` | how long it took to open and to close |
//! | `senders` | which devices XDP can send by |
//! | `by_daemon` | the way through the daemon, where it cannot |
//!
//! The kernel is the database: a daemon that starts takes over what is open. It must never let a
//! packet see half of a flow, and never open what has no room.

mod by_daemon;
mod delays;
mod doors;
mod entry;
mod finder;
mod hops;
mod in_use;
mod netlink;
mod senders;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod ways;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{Array, HashMap as KernelHash, MapData, MapError, RingBuf},
};
use edge_ebpf::abi::{
    MEDIA_BY_DAEMON, MEDIA_FLOW_SLOTS, MEDIA_PORT_SLOTS, MediaFlow, MediaLearned, MediaState,
    PinholeKey, map_names as names, media_door, media_door_flow,
};

pub(super) use self::in_use::InUse;
use self::{
    by_daemon::ByDaemon,
    entry::Door,
    finder::{Changes, Finder, Found, Sender, Sides},
    hops::{Hops, Target},
    netlink::Netlink,
    table::{MediaWrites, Opened, Table},
};
pub use self::{
    delays::Delays,
    senders::warnings,
    status::{FlowRow, read},
    ways::Ways,
};
use super::{FirewallError, blocks::Moment, decode, kernel::open, sys};
use crate::{
    config::Config,
    failpoint,
    media::flow::{CallId, Flow, FlowId, FlowStatus, FlowTally, MediaChange},
};

/// What came of changes: by call, and the first fault.
#[derive(Debug, Default)]
pub struct MediaDone {
    /// What became of each call's flows.
    pub calls: BTreeMap<CallId, FlowTally>,
    /// What went wrong first; what could be done was done.
    pub fault: Option<FirewallError>,
}

/// How a flow leaves, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Gateway, or the destination itself.
    pub neighbour: Option<IpAddr>,
    /// Its link address, when it is known.
    pub link_address: Option<[u8; 6]>,
    /// Device.
    pub device: Option<String>,
    /// VLAN that packets leave with.
    pub vlan: Option<u16>,
    /// The daemon sends them.
    pub by_daemon: bool,
}

/// How much is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaNumbers {
    /// Calls that have flows.
    pub calls: usize,
    /// Flows that are open.
    pub flows: usize,
    /// Flows that have no way.
    pub without_way: usize,
    /// Flows whose packets the daemon sends on.
    pub by_daemon: usize,
    /// Packets that it sent on since the start.
    pub daemon_packets: u64,
    /// Packets that reached it since the start and went no further.
    pub daemon_lost: u64,
    /// Flows opened since the start.
    pub opened: u64,
    /// Flows closed since the start.
    pub closed: u64,
    /// Changes that failed since the start.
    pub failed: u64,
}

/// The one writer of the `MEDIA_*` maps.
pub struct MediaTable {
    table: Table<Paths>,
    hops: Hops,
    ways: Ways,
    /// Flows without a way whose target nobody has looked at yet.
    fresh: Vec<(FlowId, Target)>,
    events: RingBuf<MapData>,
    /// Where the way is another one, which could not be written.
    unrouted: HashSet<Target>,
    numbers: MediaNumbers,
    counts: Counts,
}

impl fmt::Debug for MediaTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MediaTable").field("numbers", &self.numbers()).finish_non_exhaustive()
    }
}

impl MediaTable {
    /// Takes over what the kernel holds. The network namespace is the caller's.
    pub(super) fn open(pins: &Path, config: &Config) -> Result<Self, FirewallError> {
        let netlink = Netlink::open()
            .map_err(|fault| FirewallError::io("a socket for routes and neighbours", fault))?;
        let maps = Maps::open(pins)?;
        let (doors, slots) = maps.read()?;
        let mut table = Table::new(Paths { maps, daemon: ByDaemon::start()? });
        table.adopt(doors, &slots, Instant::now())?;
        let mut finder = Finder::new(netlink, Sides::new(config), Sender::new(config));
        table.writes.daemon.set_devices(finder.devices());
        table.serve();
        let mut hops = Hops::default();
        let now = Instant::now();
        let targets: Vec<(FlowId, Target)> =
            table.entries().map(|(id, entry)| (id, entry.target)).collect();
        for (id, target) in targets {
            hops.take(target, now);
            if hops.is_new(target) {
                hops.found(target, finder.look(target), now);
            }
            // A way that is not known at once is no reason to stop what flows by the old one.
            if let Some(hop) = hops.get(target) {
                table.reroute(id, Some(&hop), now)?;
            }
        }
        let events = open(pins, names::MEDIA_EVENTS)?;
        Ok(Self {
            table,
            hops,
            ways: Ways::new(finder),
            fresh: Vec::new(),
            events,
            unrouted: HashSet::new(),
            numbers: MediaNumbers::default(),
            counts: Counts::open(pins)?,
        })
    }

    /// Puts changes in force, in their order. One that fails does not stop the others. Nobody is
    /// asked for anything: where a flow goes that nobody has looked at yet, [`Ways::settle`] finds
    /// its way, or the next tick.
    pub fn apply(&mut self, changes: &[MediaChange]) -> MediaDone {
        let (now, moment) = (Instant::now(), sys::now());
        let mut done = MediaDone::default();
        for change in changes {
            let result = match change {
                MediaChange::Open(flow) => self.open_flow(flow, moment, now, &mut done),
                MediaChange::Close(id) => self.close_flow(*id, now, &mut done),
                MediaChange::CloseCall(call) => {
                    let flows = self.table.of_call(*call);
                    flows.into_iter().try_for_each(|id| self.close_flow(id, now, &mut done))
                }
                MediaChange::Expect(to, side) => {
                    self.hops.expect(Target { address: *to, side: *side }, now);
                    Ok(())
                }
            };
            if let Err(fault) = result {
                self.numbers.failed += 1;
                done.fault.get_or_insert(fault);
            }
        }
        done
    }

    fn open_flow(
        &mut self,
        flow: &Flow,
        moment: Moment,
        now: Instant,
        done: &mut MediaDone,
    ) -> Result<(), FirewallError> {
        let target = table::target(flow);
        let hop = self.hops.take(target, now);
        let opened = match self.table.open(flow, hop.as_ref(), moment, now) {
            Ok(opened) => opened,
            Err(fault) => {
                self.hops.release(target);
                return Err(fault);
            }
        };
        if self.hops.is_new(target) {
            self.fresh.push((flow.id, target));
        }
        match opened {
            Opened::New => {}
            Opened::Changed(before) => self.hops.release(before),
            Opened::Replaced(call, before) => {
                self.hops.release(before);
                self.numbers.closed += 1;
                done.calls.entry(call).or_default().closed += 1;
            }
        }
        let tally = done.calls.entry(flow.call).or_default();
        if matches!(opened, Opened::Changed(_)) {
            tally.changed += 1;
        } else {
            self.numbers.opened += 1;
            tally.opened += 1;
        }
        Ok(())
    }

    fn close_flow(
        &mut self,
        id: FlowId,
        now: Instant,
        done: &mut MediaDone,
    ) -> Result<(), FirewallError> {
        let Some(call) = self.table.get(id).map(|entry| CallId(entry.kernel.call)) else {
            return Ok(());
        };
        if let Some(target) = self.table.close(id, now)? {
            self.hops.release(target);
            self.numbers.closed += 1;
            done.calls.entry(call).or_default().closed += 1;
        }
        Ok(())
    }

    /// Who asks for ways, for whoever does not want to hold the table meanwhile.
    pub fn ways(&self) -> Ways {
        self.ways.clone()
    }

    /// Follows what changed on the way to where flows go.
    pub fn tick(&mut self) -> Result<(), FirewallError> {
        let ways = self.ways.clone();
        let mut finder = ways.lock();
        let changes = finder.changes();
        for target in self.begin_tick(&changes, finder.devices())? {
            self.found(target, finder.look(target));
        }
        self.end_tick()
    }

    /// What is to be looked at.
    fn begin_tick(
        &mut self,
        changes: &Changes,
        devices: [Vec<u32>; 2],
    ) -> Result<Vec<Target>, FirewallError> {
        let now = Instant::now();
        self.table.writes.daemon.set_devices(devices);
        self.table.tidy(now)?;
        self.hops.heard(changes, now);
        Ok(self.hops.due(now))
    }

    /// What a look found.
    fn found(&mut self, target: Target, found: Found) {
        if self.hops.found(target, found, Instant::now()) {
            self.unrouted.insert(target);
        }
    }

    /// What the first look at a target found: all its flows are fresh ones.
    fn found_first(&mut self, target: Target, found: Found) {
        self.hops.found(target, found, Instant::now());
    }

    /// Sends flows by the ways that were found.
    fn end_tick(&mut self) -> Result<(), FirewallError> {
        let fresh = std::mem::take(&mut self.fresh);
        let (left, seen) = fresh.into_iter().partition(|(_, target)| self.hops.is_new(*target));
        self.fresh = left;
        let seen: Vec<(FlowId, Target)> = seen;
        self.unrouted.extend(seen.into_iter().map(|(_, target)| target));
        let changed = std::mem::take(&mut self.unrouted);
        if changed.is_empty() {
            return Ok(());
        }
        let of = |entry: &table::Entry| changed.contains(&entry.target);
        let flows = self.table.entries().filter(|(_, entry)| of(entry));
        let flows: Vec<(FlowId, Target)> = flows.map(|(id, entry)| (id, entry.target)).collect();
        self.route_all(&flows)
    }

    fn route_all(&mut self, flows: &[(FlowId, Target)]) -> Result<(), FirewallError> {
        let now = Instant::now();
        let mut first = None;
        for (id, target) in flows {
            let hop = self.hops.get(*target);
            if let Err(fault) = self.table.reroute(*id, hop.as_ref(), now) {
                // The others go on; this one is tried again at the next tick.
                self.unrouted.insert(*target);
                first.get_or_insert(fault);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Flows that were opened to where nobody has looked.
    fn take_fresh(&mut self) -> Vec<(FlowId, Target)> {
        std::mem::take(&mut self.fresh)
    }

    fn is_new(&self, target: Target) -> bool {
        self.hops.is_new(target)
    }

    /// Sends these by what was found meanwhile; the others to the same targets follow soon.
    fn route_fresh(&mut self, fresh: &[(FlowId, Target)]) -> Result<(), FirewallError> {
        let known: Vec<(FlowId, Target)> = fresh
            .iter()
            .filter(|(id, target)| self.table.get(*id).is_some_and(|e| e.target == *target))
            .copied()
            .collect();
        self.route_all(&known)
    }

    fn look_at_all(&mut self) {
        self.hops.all_due(Instant::now());
    }

    /// Whether flows wait for [`Ways::settle`].
    pub fn is_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Becomes readable when the kernel has learned a source.
    pub fn events(&self) -> io::Result<OwnedFd> {
        self.events.as_fd().try_clone_to_owned()
    }

    /// Whether a way is looked for that should be there soon.
    pub fn is_waiting(&self) -> bool {
        self.hops.is_waiting()
    }

    /// How soon [`Self::tick`] is to be called again.
    pub fn next_tick(&self) -> Duration {
        if self.is_waiting() { hops::SOON } else { hops::LATER }
    }

    /// All flows that are open.
    pub fn flows(&self) -> Vec<Flow> {
        let now = sys::now().seconds();
        let flows = self.table.entries();
        flows.filter_map(|(_, entry)| entry::from_kernel(&entry.kernel, now)).collect()
    }

    /// All calls that have flows open.
    pub fn calls(&self) -> Vec<CallId> {
        self.table.calls().collect()
    }

    /// Their flows, as the kernel holds them.
    pub fn entries(&self, calls: &[CallId]) -> Vec<MediaFlow> {
        let flows = calls.iter().flat_map(|call| self.table.of_call(*call));
        flows.filter_map(|id| Some(self.table.get(id)?.kernel)).collect()
    }

    /// What the kernel counts, to be read without this table.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// What the kernel counted for each flow that is open.
    pub fn status(&self) -> Result<Vec<FlowStatus>, FirewallError> {
        self.counts.of(&self.entries(&self.calls()))
    }

    /// Sources that were learned since the last time.
    pub fn learned(&mut self) -> Vec<(FlowId, SocketAddr)> {
        let mut all = Vec::new();
        while let Some(item) = self.events.next() {
            let Some(event) = status::learned(&item) else { continue };
            let MediaLearned { call, source, state, epoch, source_port, .. } = event;
            let of_now = self
                .table
                .get(FlowId(state))
                .is_some_and(|entry| entry.kernel.call == call && entry.kernel.epoch == epoch);
            if of_now {
                let source = decode::address(source);
                let source = SocketAddr::new(source, u16::from_be_bytes(source_port));
                all.push((FlowId(state), source));
            }
        }
        all
    }

    /// How a flow leaves.
    pub fn next_hop(&self, id: FlowId) -> Option<NextHop> {
        let entry = self.table.get(id)?;
        let kernel = &entry.kernel;
        let routed = kernel.ifindex != 0;
        Some(NextHop {
            neighbour: self.hops.neighbour(entry.target),
            link_address: routed.then_some(kernel.next_hop),
            device: routed.then(|| self.hops.device(entry.target)).flatten().map(str::to_owned),
            vlan: (kernel.vlan != 0).then_some(kernel.vlan),
            by_daemon: kernel.flags & MEDIA_BY_DAEMON != 0,
        })
    }

    /// How much is open.
    pub fn numbers(&self) -> MediaNumbers {
        let (calls, flows) = self.table.open_now();
        let without_way =
            self.table.entries().filter(|(_, entry)| entry.kernel.ifindex == 0).count();
        let (by_daemon, daemon_packets, daemon_lost) = self.table.writes.daemon.numbers();
        MediaNumbers {
            calls,
            flows,
            without_way,
            by_daemon,
            daemon_packets,
            daemon_lost,
            ..self.numbers
        }
    }
}

/// What the kernel counts of flows.
#[derive(Clone)]
pub(crate) struct Counts(Arc<Array<MapData, MediaState>>);

impl Counts {
    fn open(pins: &Path) -> Result<Self, FirewallError> {
        Ok(Self(Arc::new(open(pins, names::MEDIA_STATES)?)))
    }

    /// Of these.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn of(&self, flows: &[MediaFlow]) -> Result<Vec<FlowStatus>, FirewallError> {
        let of = |flow: &MediaFlow| {
            let state = self.0.get(&flow.state, 0).map_err(at(names::MEDIA_STATES))?;
            Ok(status::status(flow, &state))
        };
        flows.iter().map(of).collect()
    }
}

/// Every door with its slot, and every slot that is not empty.
type Held = (Vec<(Door, u32)>, HashMap<u32, MediaFlow>);

/// The kernel's maps.
struct Maps {
    ports: Array<MapData, u32>,
    pinholes: KernelHash<MapData, PinholeKey, u32>,
    flows: Array<MapData, MediaFlow>,
    states: Array<MapData, MediaState>,
    /// The same maps once more, for reading much at once.
    bulk: [MapData; 2],
}

impl Maps {
    fn open(pins: &Path) -> Result<Self, FirewallError> {
        let folder = super::shape::map_folder(pins);
        let bulk = |name: &str| MapData::from_pin(folder.join(name)).map_err(at(name));
        Ok(Self {
            ports: open(pins, names::MEDIA_PORTS)?,
            pinholes: open(pins, names::MEDIA_PINHOLES)?,
            flows: open(pins, names::MEDIA_FLOWS)?,
            states: open(pins, names::MEDIA_STATES)?,
            bulk: [bulk(names::MEDIA_PORTS)?, bulk(names::MEDIA_FLOWS)?],
        })
    }

    /// All that they hold.
    fn read(&self) -> Result<Held, FirewallError> {
        let [ports, flows] = &self.bulk;
        let ports: Vec<u32> = values(ports, names::MEDIA_PORTS, MEDIA_PORT_SLOTS)?;
        let doors = (0u32..).zip(ports).filter(|(_, door)| *door != 0);
        let slot = media_door_flow;
        let mut doors: Vec<_> =
            doors.map(|(index, door)| (Door::Port(index), slot(door))).collect();
        for entry in self.pinholes.iter() {
            let (key, door) = entry.map_err(at(names::MEDIA_PINHOLES))?;
            doors.push((Door::Pinhole(key), slot(door)));
        }
        let flows: Vec<MediaFlow> = values(flows, names::MEDIA_FLOWS, MEDIA_FLOW_SLOTS)?;
        let used = (0u32..).zip(flows).filter(|(_, flow)| flow.call != 0);
        Ok((doors, used.collect()))
    }
}

/// The kernel's maps, and the daemon's way for flows that go it: its sockets are there before a door
/// leads to them, and are read only while it does.
struct Paths {
    maps: Maps,
    daemon: ByDaemon,
}

impl MediaWrites for Paths {
    fn flow(&mut self, slot: u32, flow: &MediaFlow) -> Result<(), FirewallError> {
        self.daemon.noted(slot, flow);
        self.maps.flow(slot, flow)
    }

    fn clear_state(&mut self, id: FlowId) -> Result<(), FirewallError> {
        self.maps.clear_state(id)
    }

    fn door(&mut self, door: Door, slot: u32, id: FlowId) -> Result<(), FirewallError> {
        self.daemon.before(door, slot)?;
        self.maps.door(door, slot, id)?;
        self.daemon.after(door, slot);
        Ok(())
    }

    fn serve(&mut self, door: Door, slot: u32, flow: &MediaFlow) -> Result<(), FirewallError> {
        self.daemon.noted(slot, flow);
        self.daemon.before(door, slot)?;
        self.daemon.after(door, slot);
        Ok(())
    }
}

impl MediaWrites for Maps {
    fn flow(&mut self, slot: u32, flow: &MediaFlow) -> Result<(), FirewallError> {
        failpoint::wrote(names::MEDIA_FLOWS);
        self.flows.set(slot, flow, 0).map_err(at(names::MEDIA_FLOWS))
    }

    fn clear_state(&mut self, id: FlowId) -> Result<(), FirewallError> {
        self.states.set(id.0, MediaState::default(), 0).map_err(at(names::MEDIA_STATES))
    }

    fn door(&mut self, door: Door, slot: u32, id: FlowId) -> Result<(), FirewallError> {
        let word = media_door(slot, id.0);
        match door {
            Door::Port(index) => self.ports.set(index, word, 0).map_err(at(names::MEDIA_PORTS)),
            Door::Pinhole(key) if slot == 0 => match self.pinholes.remove(&key) {
                Err(MapError::SyscallError(fault))
                    if fault.io_error.kind() == std::io::ErrorKind::NotFound =>
                {
                    Ok(())
                }
                other => other.map_err(at(names::MEDIA_PINHOLES)),
            },
            Door::Pinhole(key) => {
                self.pinholes.insert(key, word, 0).map_err(at(names::MEDIA_PINHOLES))
            }
        }
    }
}

fn values<V: Pod + Default>(
    map: &MapData,
    name: &str,
    slots: u32,
) -> Result<Vec<V>, FirewallError> {
    sys::array_values(map.fd().as_fd(), slots).map_err(|fault| FirewallError::map(name, fault))
}

fn at(map: &str) -> impl Fn(MapError) -> FirewallError + '_ {
    move |fault| FirewallError::map(map, super::kernel::chain(&fault))
}
