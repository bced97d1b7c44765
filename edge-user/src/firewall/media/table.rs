//! What is open, and what must be written so that exactly that is: pure, over [`MediaWrites`].
//!
//! A flow that changes is written whole into another slot, then its door is pointed there: no
//! packet ever sees half of it. A slot that nothing points to any more rests for a while before
//! it is used again, since a packet may be on its way through it; then the flow whose home it is
//! ([`media_home`]) moves in, since the program fetches what is there before it knows. Doors are
//! closed first. Flows that share a door (`doors`) stand one behind the other, and are written anew
//! together.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map},
    time::{Duration, Instant},
};

use edge_ebpf::abi::{MEDIA_FLOW_SLOTS, MEDIA_SHARED, MediaFlow, media_home, media_home_of};

use super::{
    super::blocks::Moment,
    doors::Doors,
    entry::{self, Door},
    hops::{Hop, Target},
};
use crate::{
    firewall::FirewallError,
    media::{
        flow::{CallId, Flow, FlowId},
        free::Free,
    },
};

/// How long a slot rests.
const REST: Duration = Duration::from_millis(500);

/// Writes to the kernel's maps.
pub(super) trait MediaWrites {
    /// One slot of `MEDIA_FLOWS`.
    fn flow(&mut self, slot: u32, flow: &MediaFlow) -> Result<(), FirewallError>;
    /// Nothing is known of this flow.
    fn clear_state(&mut self, id: FlowId) -> Result<(), FirewallError>;
    /// Points a door at the slot of this flow; slot 0: closes it. Closing what is closed is no fault.
    fn door(&mut self, door: Door, slot: u32, id: FlowId) -> Result<(), FirewallError>;
    /// What must be there for a door that leads to this flow already.
    fn serve(&mut self, _: Door, _: u32, _: &MediaFlow) -> Result<(), FirewallError> {
        Ok(())
    }
}

/// A flow that is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub slot: u32,
    pub kernel: MediaFlow,
    pub target: Target,
}

/// Slots of `MEDIA_FLOWS`.
#[derive(Debug)]
struct Slots {
    free: Free,
    /// With the time from which they are free.
    resting: VecDeque<(u32, Instant)>,
}

/// What is open.
#[derive(Debug)]
pub(super) struct Table<W> {
    pub writes: W,
    flows: HashMap<FlowId, Entry>,
    calls: HashMap<CallId, Vec<FlowId>>,
    doors: Doors,
    slots: Slots,
    epoch: u32,
}

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// It is new.
    New,
    /// It was open, and went there.
    Changed(Target),
    /// A flow of another call was open under its name, and went there.
    Replaced(CallId, Target),
}

impl<W: MediaWrites> Table<W> {
    /// Nothing is open.
    pub fn new(writes: W) -> Self {
        Self {
            writes,
            flows: HashMap::new(),
            calls: HashMap::new(),
            doors: Doors::default(),
            slots: Slots { free: Free::new(MEDIA_FLOW_SLOTS, []), resting: VecDeque::new() },
            epoch: 0,
        }
    }

    /// Takes over what the kernel holds: doors with the slots that they lead to, and every slot
    /// that is not empty. A door that leads nowhere sensible is closed.
    pub fn adopt(
        &mut self,
        doors: Vec<(Door, u32)>,
        slots: &HashMap<u32, MediaFlow>,
        now: Instant,
    ) -> Result<(), FirewallError> {
        let mut wrong = Vec::new();
        for (door, first) in doors {
            for (slot, kernel) in behind(door, first, slots) {
                wrong.extend(match kernel {
                    Some(kernel) => self.take_over(door, slot, kernel),
                    None => {
                        tracing::warn!(?door, slot, "a media port leads to no flow: it is closed");
                        Some(door)
                    }
                });
            }
        }
        self.slots.free = Free::new(MEDIA_FLOW_SLOTS, slots.keys().copied());
        for door in wrong {
            self.link(door, self.doors.of(door), None, now)?;
        }
        let used: BTreeSet<u32> = self.flows.values().map(|entry| entry.slot).collect();
        for (slot, flow) in slots {
            if !used.contains(slot) {
                self.writes.flow(*slot, &MediaFlow { call: 0, ..*flow })?;
            }
        }
        self.slots.resting.clear();
        self.slots.free = Free::new(MEDIA_FLOW_SLOTS, used);
        Ok(())
    }

    /// Has what was taken over served by this daemon, too.
    pub fn serve(&mut self) {
        for entry in self.flows.values() {
            let door = entry::door_of(&entry.kernel);
            if let Err(fault) = self.writes.serve(door, entry.slot, &entry.kernel) {
                tracing::error!(%fault, call = entry.kernel.call, "a media flow stands still");
            }
        }
    }

    /// A flow that the kernel holds is ours. Gives a door that it is not to come in by: a change was
    /// broken off between two.
    fn take_over(&mut self, door: Door, slot: u32, kernel: MediaFlow) -> Option<Door> {
        let id = FlowId(kernel.state);
        self.epoch = self.epoch.max(kernel.epoch);
        let mut wrong = None;
        if let Some(other) = self.flows.get(&id) {
            let newer = |flow: &MediaFlow| (flow.epoch, flow.expires_at_seconds);
            if newer(&other.kernel) >= newer(&kernel) {
                return Some(door);
            }
            wrong = Some(entry::door_of(&other.kernel));
            self.forget(id);
        }
        self.remember(id, Entry { slot, kernel, target: target_of(&kernel) });
        wrong
    }

    /// Puts a flow in force.
    pub fn open(
        &mut self,
        flow: &Flow,
        hop: Option<&Hop>,
        moment: Moment,
        now: Instant,
    ) -> Result<Opened, FirewallError> {
        if let Some(fault) = entry::fault(flow) {
            return Err(FirewallError::MediaFlow { flow: flow.id.0, fault });
        }
        let door = entry::door(flow);
        let others = self.doors.others(door, flow.id).len();
        let room = if matches!(door, Door::Pinhole(_)) { MEDIA_SHARED as usize } else { 1 };
        if others >= room {
            let fault = "another flow comes in at its port";
            return Err(FirewallError::MediaFlow { flow: flow.id.0, fault });
        }
        let mut kernel = entry::to_kernel(flow, moment, hop);
        let mut before = self.flows.get(&flow.id).copied();
        // A flow of another call under this name is another flow.
        let other = before.take_if(|before| before.kernel.call != kernel.call);
        if other.is_some() {
            self.close(flow.id, now)?;
        }
        let source = |flow: &MediaFlow| {
            let anew = entry::learned_anew(flow);
            (flow.source, flow.source_bits, flow.source_port, anew)
        };
        kernel.epoch = match &before {
            Some(before) if source(&before.kernel) == source(&kernel) => before.kernel.epoch,
            _ => self.next_epoch(),
        };
        if before.is_none() {
            self.writes.clear_state(flow.id)?;
        }
        let former = before.map(|before| entry::door_of(&before.kernel));
        let mut all = self.doors.of(door);
        if !all.contains(&flow.id) {
            all.push(flow.id);
        }
        let entry = Entry { slot: 0, kernel, target: target(flow) };
        self.link(door, all, Some((flow.id, entry)), now)?;
        if let Some(former) = former.filter(|former| *former != door) {
            // The new door is open already; the flow is at both for a moment.
            self.doors.remove(former, flow.id);
            self.link(former, self.doors.of(former), None, now)?;
        }
        Ok(match (before, other) {
            (Some(before), _) => Opened::Changed(before.target),
            (_, Some(other)) => Opened::Replaced(CallId(other.kernel.call), other.target),
            (None, None) => Opened::New,
        })
    }

    /// Sends a flow another way.
    pub fn reroute(
        &mut self,
        id: FlowId,
        hop: Option<&Hop>,
        now: Instant,
    ) -> Result<bool, FirewallError> {
        let Some(before) = self.flows.get(&id).copied() else { return Ok(false) };
        let kernel = entry::with_hop(before.kernel, hop);
        if kernel == before.kernel {
            return Ok(false);
        }
        let door = entry::door_of(&kernel);
        let entry = Entry { kernel, ..before };
        self.link(door, self.doors.of(door), Some((id, entry)), now)?;
        Ok(true)
    }

    /// Closes a flow. Gives where it went; `None`: it was not open.
    pub fn close(&mut self, id: FlowId, now: Instant) -> Result<Option<Target>, FirewallError> {
        let Some(entry) = self.flows.get(&id).copied() else { return Ok(None) };
        let door = entry::door_of(&entry.kernel);
        self.link(door, self.doors.others(door, id), None, now)?;
        self.forget(id);
        self.slots.rest(entry.slot, now);
        Ok(Some(entry.target))
    }

    /// The flows of a call.
    pub fn of_call(&self, call: CallId) -> Vec<FlowId> {
        self.calls.get(&call).cloned().unwrap_or_default()
    }

    /// A flow that is open.
    pub fn get(&self, id: FlowId) -> Option<&Entry> {
        self.flows.get(&id)
    }

    /// All that are open.
    pub fn entries(&self) -> impl Iterator<Item = (FlowId, &Entry)> {
        self.flows.iter().map(|(id, entry)| (*id, entry))
    }

    /// Calls that have flows open.
    pub fn calls(&self) -> impl Iterator<Item = CallId> {
        self.calls.keys().copied()
    }

    /// Calls and flows that are open.
    pub fn open_now(&self) -> (usize, usize) {
        (self.calls.len(), self.flows.len())
    }

    /// Takes slots that have rested long enough back. A flow whose home is one of them moves in.
    pub fn tidy(&mut self, now: Instant) -> Result<(), FirewallError> {
        while let Some((slot, until)) = self.slots.resting.front().copied() {
            if until > now {
                break;
            }
            self.writes.flow(slot, &MediaFlow::default())?;
            self.slots.resting.pop_front();
            self.slots.free.give(slot);
            self.move_in(slot, now)?;
        }
        Ok(())
    }

    /// Has the flow whose home this free slot is live there: every change of it led to another slot.
    fn move_in(&mut self, slot: u32, now: Instant) -> Result<(), FirewallError> {
        for door in media_home_of(slot).map(Door::Port) {
            let flows = self.doors.of(door);
            // The first of them may have moved in.
            if !flows.is_empty() && self.slots.free.has(slot) {
                self.link(door, flows, None, now)?;
            }
        }
        Ok(())
    }

    /// Only slots below this one.
    #[cfg(test)]
    pub fn slots_left(&mut self, end: u32) {
        self.slots.free = Free::new(end, []);
    }

    /// Writes flows into slots, one behind the other, and points their door at the first; closes it
    /// when there are none. `new`: what one of them is from now on. Nothing changes when it fails.
    fn link(
        &mut self,
        door: Door,
        flows: Vec<FlowId>,
        new: Option<(FlowId, Entry)>,
        now: Instant,
    ) -> Result<(), FirewallError> {
        let mut chain: Vec<(FlowId, Entry)> = Vec::with_capacity(flows.len());
        let mut next = 0;
        let mut done = Ok(());
        for id in flows.into_iter().rev() {
            let new = new.filter(|(new, _)| *new == id).map(|(_, entry)| entry);
            let Some(entry) = new.or_else(|| self.flows.get(&id).copied()) else { continue };
            let kernel = MediaFlow { next: u16::try_from(next).unwrap_or(0), ..entry.kernel };
            done = self.place(&kernel, now).map(|slot| {
                next = slot;
                chain.push((id, Entry { slot, kernel, ..entry }));
            });
            if done.is_err() {
                break;
            }
        }
        let (slot, first) = chain.last().map_or((0, FlowId(0)), |(id, entry)| (entry.slot, *id));
        if let Err(fault) = done.and_then(|()| self.writes.door(door, slot, first)) {
            chain.iter().for_each(|(_, entry)| self.slots.rest(entry.slot, now));
            return Err(fault);
        }
        for (id, entry) in chain.into_iter().rev() {
            if let Some(before) = self.flows.get(&id).map(|before| before.slot) {
                self.slots.rest(before, now);
            }
            self.remember(id, entry);
        }
        Ok(())
    }

    /// Writes a flow into a slot that nothing leads to.
    fn place(&mut self, kernel: &MediaFlow, now: Instant) -> Result<u32, FirewallError> {
        if self.slots.free.len() == 0 {
            self.tidy(now)?;
        }
        let home = match entry::door_of(kernel) {
            Door::Port(index) => media_home(index).0,
            Door::Pinhole(_) => 0,
        };
        let slot = self
            .slots
            .free
            .take(home)
            .ok_or(FirewallError::MediaFull { flows: self.flows.len() })?;
        if let Err(fault) = self.writes.flow(slot, kernel) {
            self.slots.rest(slot, now);
            return Err(fault);
        }
        Ok(slot)
    }

    fn next_epoch(&mut self) -> u32 {
        // What is zero in a fresh state is nobody's.
        self.epoch = self.epoch.wrapping_add(1).max(1);
        self.epoch
    }

    fn remember(&mut self, id: FlowId, entry: Entry) {
        self.doors.add(entry::door_of(&entry.kernel), id);
        if self.flows.insert(id, entry).is_none() {
            self.calls.entry(CallId(entry.kernel.call)).or_default().push(id);
        }
    }

    fn forget(&mut self, id: FlowId) {
        let Some(entry) = self.flows.remove(&id) else { return };
        self.doors.remove(entry::door_of(&entry.kernel), id);
        if let hash_map::Entry::Occupied(mut call) = self.calls.entry(CallId(entry.kernel.call)) {
            call.get_mut().retain(|other| *other != id);
            if call.get().is_empty() {
                call.remove();
            }
        }
    }
}

/// The flows that stand one behind the other at a door, from this slot on, each with its slot; `None`:
/// there is none that comes in here, nor anything after it.
pub(super) fn behind(
    door: Door,
    first: u32,
    slots: &HashMap<u32, MediaFlow>,
) -> impl Iterator<Item = (u32, Option<MediaFlow>)> {
    let mut next = Some(first);
    std::iter::from_fn(move || {
        let slot = next?;
        let flow = slots.get(&slot).filter(|flow| is_at(flow, door)).copied();
        next = flow.map(|flow| flow.next.into()).filter(|next| *next != 0);
        Some((slot, flow))
    })
    .take(MEDIA_SHARED as usize)
}

/// Whether a flow comes in by this door.
fn is_at(flow: &MediaFlow, door: Door) -> bool {
    entry::door_of(flow) == door && entry::from_kernel(flow, 0).is_some()
}

impl Slots {
    fn rest(&mut self, slot: u32, now: Instant) {
        self.resting.push_back((slot, now + REST));
    }
}

/// Where a flow goes, and on which side.
pub(super) fn target(flow: &Flow) -> Target {
    Target { address: flow.to.ip(), side: flow.leaves() }
}

/// The same of a flow that the kernel holds.
fn target_of(kernel: &MediaFlow) -> Target {
    Target { address: crate::firewall::decode::address(kernel.to), side: entry::leaves(kernel) }
}
