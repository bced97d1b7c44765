//! Who comes in by which door. A port of ours is one flow's; an endpoint's own port (pinhole) may be
//! that of several calls, whose flows are told apart by their sources.

use std::collections::{HashMap, hash_map};

use super::entry::Door;
use crate::media::flow::FlowId;

/// The flows behind each door.
#[derive(Debug, Default)]
pub(super) struct Doors {
    /// The only one, nearly always.
    first: HashMap<Door, FlowId>,
    /// Those that came after it.
    more: HashMap<Door, Vec<FlowId>>,
}

impl Doors {
    /// All behind a door, in the order in which they came.
    pub fn of(&self, door: Door) -> Vec<FlowId> {
        let more = if self.more.is_empty() { None } else { self.more.get(&door) };
        let first = self.first.get(&door).copied();
        first.into_iter().chain(more.into_iter().flatten().copied()).collect()
    }

    /// All but this one.
    pub fn others(&self, door: Door, id: FlowId) -> Vec<FlowId> {
        let mut all = self.of(door);
        all.retain(|other| *other != id);
        all
    }

    /// One more, if it is not there.
    pub fn add(&mut self, door: Door, id: FlowId) {
        match self.first.entry(door) {
            hash_map::Entry::Vacant(first) => {
                first.insert(id);
            }
            hash_map::Entry::Occupied(first) if *first.get() == id => {}
            hash_map::Entry::Occupied(_) => {
                let more = self.more.entry(door).or_default();
                if !more.contains(&id) {
                    more.push(id);
                }
            }
        }
    }

    /// One less.
    pub fn remove(&mut self, door: Door, id: FlowId) {
        let mut left = self.others(door, id).into_iter();
        self.more.remove(&door);
        match left.next() {
            Some(first) => self.first.insert(door, first),
            None => self.first.remove(&door),
        };
        let more: Vec<FlowId> = left.collect();
        if !more.is_empty() {
            self.more.insert(door, more);
        }
    }
}
