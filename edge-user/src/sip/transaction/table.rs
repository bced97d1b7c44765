//! Where transactions live: slots with generations, found by key, by flow and by time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Instant,
};

use super::{Flow, Origin, client::Client, key::Key, server::Server};

/// A place in the table; a place that is used again has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slot {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
pub(super) enum Machine {
    Server(Server),
    Client(Client),
}

#[derive(Debug)]
pub(super) struct Entry<F> {
    pub origin: Origin<F>,
    pub machine: Machine,
    key: Key,
    /// The time of this entry's one valid item in the heap.
    scheduled: Option<Instant>,
    /// Neighbours in the list of the flow; the flow is closed when `linked` is false.
    linked: bool,
    before: u32,
    after: u32,
}

#[derive(Debug)]
struct Place<F> {
    generation: u32,
    entry: Option<Entry<F>>,
}

/// No neighbour.
const END: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Table<F> {
    places: Vec<Place<F>>,
    free: Vec<u32>,
    by_key: HashMap<Key, Slot>,
    /// First transaction of each flow.
    by_flow: HashMap<F, u32>,
    /// Timers, the earliest first. An item is valid when its entry says so; the rest is dropped
    /// when it comes up, or all at once when too much has gathered.
    heap: BinaryHeap<Reverse<(Instant, Slot)>>,
}

impl<F> Default for Table<F> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            by_flow: HashMap::new(),
            heap: BinaryHeap::new(),
        }
    }
}

impl<F: Flow> Table<F> {
    pub fn find(&self, key: Key) -> Option<Slot> {
        self.by_key.get(&key).copied()
    }

    pub fn entry(&mut self, slot: Slot) -> Option<&mut Entry<F>> {
        let place = self.places.get_mut(slot.index as usize)?;
        place.entry.as_mut().filter(|_| place.generation == slot.generation)
    }

    fn get(&self, slot: Slot) -> Option<&Entry<F>> {
        let place = self.places.get(slot.index as usize)?;
        place.entry.as_ref().filter(|_| place.generation == slot.generation)
    }

    pub fn machine(&self, slot: Slot) -> Option<&Machine> {
        self.get(slot).map(|entry| &entry.machine)
    }

    /// Where to write for a transaction; `None` when its flow is closed.
    pub fn open_flow(&self, slot: Slot) -> Option<F> {
        self.get(slot).filter(|entry| entry.linked).map(|entry| entry.origin.flow)
    }

    pub fn insert(&mut self, key: Key, origin: Origin<F>, machine: Machine) -> Slot {
        let entry =
            Entry { origin, machine, key, scheduled: None, linked: false, before: END, after: END };
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.places.push(Place { generation: 0, entry: None });
                // The bound on transactions is far below 2^32.
                (self.places.len() - 1) as u32
            }
        };
        let generation = match self.places.get_mut(index as usize) {
            Some(place) => {
                place.entry = Some(entry);
                place.generation
            }
            None => 0,
        };
        let slot = Slot { index, generation };
        self.by_key.insert(key, slot);
        self.link(slot);
        self.schedule(slot);
        slot
    }

    pub fn remove(&mut self, slot: Slot) -> Option<Machine> {
        self.unlink(slot);
        let place = self.places.get_mut(slot.index as usize)?;
        if place.generation != slot.generation {
            return None;
        }
        let entry = place.entry.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot.index);
        self.by_key.remove(&entry.key);
        self.sweep();
        Some(entry.machine)
    }

    fn at(&mut self, index: u32) -> Option<&mut Entry<F>> {
        self.places.get_mut(index as usize)?.entry.as_mut()
    }

    fn link(&mut self, slot: Slot) {
        let Some(flow) = self.get(slot).map(|entry| entry.origin.flow) else { return };
        let after = self.by_flow.insert(flow, slot.index).unwrap_or(END);
        if let Some(first) = self.at(after) {
            first.before = slot.index;
        }
        if let Some(entry) = self.entry(slot) {
            (entry.linked, entry.before, entry.after) = (true, END, after);
        }
    }

    fn unlink(&mut self, slot: Slot) {
        let Some(entry) = self.entry(slot).filter(|entry| entry.linked) else { return };
        let (flow, before, after) = (entry.origin.flow, entry.before, entry.after);
        (entry.linked, entry.before, entry.after) = (false, END, END);
        if let Some(entry) = self.at(after) {
            entry.before = before;
        }
        if let Some(entry) = self.at(before) {
            entry.after = after;
        } else if after == END {
            self.by_flow.remove(&flow);
        } else {
            self.by_flow.insert(flow, after);
        }
    }

    pub fn set_flow(&mut self, slot: Slot, flow: F) {
        self.unlink(slot);
        if let Some(entry) = self.entry(slot) {
            entry.origin.flow = flow;
            self.link(slot);
        }
    }

    /// Closes a flow: its transactions, which write nothing from now on.
    pub fn take_flow(&mut self, flow: F) -> Vec<Slot> {
        let mut slots = Vec::new();
        let mut index = self.by_flow.remove(&flow).unwrap_or(END);
        while let Some(place) = self.places.get_mut(index as usize) {
            let generation = place.generation;
            let Some(entry) = &mut place.entry else { break };
            slots.push(Slot { index, generation });
            index = entry.after;
            (entry.linked, entry.before, entry.after) = (false, END, END);
        }
        slots
    }

    /// Puts the transaction's next timer into the heap, unless an item that is early enough is
    /// there already.
    pub fn schedule(&mut self, slot: Slot) {
        let Some(entry) = self.entry(slot) else { return };
        let timers = match &entry.machine {
            Machine::Server(server) => server.timers(),
            Machine::Client(client) => client.timers(),
        };
        let Some(next) = timers.next() else { return };
        if entry.scheduled.is_none_or(|scheduled| next < scheduled) {
            entry.scheduled = Some(next);
            self.heap.push(Reverse((next, slot)));
        }
    }

    /// The earliest item that is valid.
    pub fn next_timeout(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, slot))) = self.heap.peek().copied() {
            if self.get(slot).is_some_and(|entry| entry.scheduled == Some(at)) {
                return Some(at);
            }
            self.heap.pop();
        }
        None
    }

    /// A transaction with an item that is due. Its timer may have moved since: ask it, then
    /// [`Table::schedule`] or remove it.
    pub fn due(&mut self, now: Instant) -> Option<Slot> {
        if self.next_timeout()? > now {
            return None;
        }
        let Reverse((_, slot)) = self.heap.pop()?;
        if let Some(entry) = self.entry(slot) {
            entry.scheduled = None;
        }
        Some(slot)
    }

    /// Items in the heap, the invalid ones too.
    pub fn timers_held(&self) -> usize {
        self.heap.len()
    }

    /// Drops items of transactions that have ended, when they are the most.
    fn sweep(&mut self) {
        if self.heap.len() > 2 * self.by_key.len() + 1024 {
            let mut items = std::mem::take(&mut self.heap).into_vec();
            items.retain(|Reverse((at, slot))| {
                self.get(*slot).is_some_and(|entry| entry.scheduled == Some(*at))
            });
            self.heap = items.into();
        }
    }
}
