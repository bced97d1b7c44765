//! What the kernel must hold for a prefix, given everybody's holds and the lists.
//!
//! The kernel asks the entry of exactly the address first and goes on to the longest prefix when
//! that entry is not in force; of the prefixes it asks the longest only. So:
//!
//! - A prefix says everything that the prefixes around it say: it drops everything if any of them
//!   does, and ends when the last of them ends. An address that somebody holds by itself does the
//!   same; one that only lists name need not.
//! - While a list changes, a prefix has a state *before* and one *after*. Where nothing held its
//!   sources before, its entry begins with the new version; where nothing holds them after, it
//!   ends with it; else it cannot be told by versions, since an entry that is not in force yet
//!   (or any more) hides the prefixes around it: then it says both at once until the change is
//!   over. An address that only comes or only goes is told by versions in any case.
//!
//! So at every single write a source is dropped as before or, from the store of the version on,
//! as after; where prefixes cover each other or an entry has several holders, and only there, as
//! both together.

use std::time::SystemTime;

use edge_ebpf::{
    abi::{Block, SCOPE_ALL},
    verdict::Reason,
};

use super::{BlockTable, Hold, Key, List, Moment};

/// What a hold does, or several together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    pub scope: u8,
    pub reason: Reason,
    /// `None`: never.
    pub ends: Option<SystemTime>,
}

impl Effect {
    pub fn of_hold(hold: &Hold) -> Self {
        Self { scope: hold.scope, reason: hold.reason, ends: hold.expires_at }
    }

    pub fn of_list(list: &List) -> Self {
        Self { scope: SCOPE_ALL, reason: Reason::BlockedAddress, ends: list.about.expires_at }
    }

    /// Both at once: what either drops, as long as either lasts.
    pub fn and(self, other: Self) -> Self {
        let ends = match (self.ends, other.ends) {
            (Some(one), Some(two)) => Some(one.max(two)),
            _ => None,
        };
        let scope = match [self.scope, other.scope].contains(&SCOPE_ALL) {
            true => SCOPE_ALL,
            false => self.scope | other.scope,
        };
        let reason = [self.reason, other.reason];
        let reason = if reason.contains(&Reason::BadSource) {
            Reason::BadSource
        } else if scope != SCOPE_ALL && reason.contains(&Reason::BlockedDomain) {
            Reason::BlockedDomain
        } else {
            Reason::BlockedAddress
        };
        Self { scope, reason, ends }
    }

    fn join(one: Option<Self>, two: Option<Self>) -> Option<Self> {
        match (one, two) {
            (Some(one), Some(two)) => Some(one.and(two)),
            (one, two) => one.or(two),
        }
    }

    /// Nothing can be added to it.
    pub fn is_total(self) -> bool {
        self.scope == SCOPE_ALL && self.ends.is_none()
    }
}

/// A prefix before and after the change of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sides {
    /// How many hold it.
    owners: [u16; 2],
    /// What is to happen to its sources, prefixes around it included.
    effect: [Option<Effect>; 2],
}

impl Sides {
    /// Nothing changes for it.
    pub fn same(&self) -> bool {
        self.owners[0] == self.owners[1] && self.effect[0] == self.effect[1]
    }

    /// It is held before, and after.
    pub fn held(&self) -> [bool; 2] {
        self.owners.map(|owners| owners > 0)
    }

    /// Its entry on the way is the one it has after, from the new version on.
    pub fn begins(&self, single: bool) -> bool {
        self.held() == [false, true] && (single || self.effect[0].is_none())
    }

    /// The entry before the change.
    pub fn before(&self, now: Moment) -> Option<Block> {
        self.on(0, now)
    }

    /// The entry once the change is over.
    pub fn after(&self, now: Moment) -> Option<Block> {
        self.on(1, now)
    }

    fn on(&self, side: usize, now: Moment) -> Option<Block> {
        let effect = self.effect[side].filter(|_| self.owners[side] > 0)?;
        Some(block(effect, self.owners[side], now))
    }

    /// The entry on the way from the one to the other, which the store of `version` divides.
    pub fn between(&self, single: bool, version: u32, now: Moment) -> Option<Block> {
        let [held_before, held_after] = self.held();
        let owners = self.owners[0].max(self.owners[1]);
        let (before, after) = match self.effect {
            [Some(before), Some(after)] => (before, after),
            [None, Some(after)] => {
                return held_after
                    .then(|| Block { from_version: version, ..block(after, owners, now) });
            }
            [Some(before), None] => {
                return held_before
                    .then(|| Block { until_version: version, ..block(before, owners, now) });
            }
            [None, None] => return None,
        };
        match (held_before, held_after) {
            (false, false) => None,
            // The kernel goes on to the prefixes when an address is not in force.
            (false, true) if single => {
                Some(Block { from_version: version, ..block(after, owners, now) })
            }
            (true, false) if single => {
                Some(Block { until_version: version, ..block(before, owners, now) })
            }
            _ => Some(block(before.and(after), owners, now)),
        }
    }
}

fn block(effect: Effect, owners: u16, now: Moment) -> Block {
    let ends = effect.ends.map_or(0, |at| now.kernel_seconds(at));
    Block::new(effect.scope, effect.reason as u8, owners, ends)
}

impl BlockTable {
    /// A prefix before and after the change that is under way; the same twice without one.
    pub(super) fn sides(&self, key: Key) -> Sides {
        let entry = self.entries.get(&key).filter(|entry| !entry.holds.is_empty());
        let own = entry.map(|entry| entry.holds.as_slice()).unwrap_or_default();
        let mut owners = u16::try_from(own.len()).unwrap_or(u16::MAX);
        let mut effect = own.iter().map(Effect::of_hold).map(Some).reduce(Effect::join).flatten();
        let with_around = !key.single() || entry.is_some();
        if with_around {
            for hold in self.around(key).flat_map(|entry| entry.holds.iter()) {
                effect = Effect::join(effect, Some(Effect::of_hold(hold)));
            }
        }
        let take = |list: &List, owners: &mut u16, effect: &mut Option<Effect>| {
            let own = list.content.contains(key);
            *owners = owners.saturating_add(u16::from(own));
            if own || with_around && list.content.covers(key) {
                *effect = Effect::join(*effect, Some(Effect::of_list(list)));
            }
        };
        for list in self.steady_lists() {
            take(list, &mut owners, &mut effect);
        }
        let mut sides = Sides { owners: [owners; 2], effect: [effect; 2] };
        if let Some(change) = &self.change {
            for (side, list) in [&change.old, &change.new].into_iter().enumerate() {
                if let Some(list) = list {
                    take(list, &mut sides.owners[side], &mut sides.effect[side]);
                }
            }
        }
        sides
    }

    /// What the kernel must hold for a prefix now.
    pub(super) fn wanted(&self, key: Key, now: Moment) -> Option<Block> {
        let sides = self.sides(key);
        match &self.change {
            Some(change) if !change.stored && change.has_reached(key) => {
                sides.between(key.single(), change.version, now)
            }
            Some(change) if !change.stored => sides.before(now),
            _ => sides.after(now),
        }
    }

    /// The lists that do not change at the moment.
    pub(super) fn steady_lists(&self) -> impl Iterator<Item = &List> {
        let changing = self.change.as_ref().map(|change| change.name.as_str());
        let steady = move |(name, _): &(&String, _)| Some(name.as_str()) != changing;
        self.lists.iter().filter(steady).map(|(_, list)| &**list)
    }

    /// All lists whose members the kernel may hold.
    pub(super) fn all_lists(&self) -> impl Iterator<Item = &List> {
        let changing = self.change.iter().flat_map(|change| [&change.old, &change.new]);
        self.steady_lists().chain(changing.flatten().map(|list| &**list))
    }
}
