//! A list comes, changes or goes: in slices, and in one step for the packets.
//!
//! First every member that comes or goes is written so that nothing changes yet (see
//! [`super::effect`]); then the caller stores the version, which is the step; then what was said
//! for both sides is said for the new one, what is gone is taken out, and the bitmap is cleared.
//! Between two slices other blocks come and go as ever.

use std::{sync::Arc, time::Instant};

use super::{Applied, BlockSink, BlockTable, FirewallError, Key, List, Moment, effect::Effect};

/// Members that are looked at together.
const BATCH: usize = if cfg!(test) { 3 } else { 128 };
/// Words of the IPv4 bitmap that are looked at together: a /10.
const CHUNK_BITS: u8 = 10;

/// A list on its way from `old` to `new`.
#[derive(Debug)]
pub(super) struct Change {
    pub name: String,
    pub old: Option<Arc<List>>,
    pub new: Option<Arc<List>>,
    /// The version that divides the two.
    pub version: u32,
    /// The version is stored: `new` is in force.
    pub stored: bool,
    walk: Walk,
    /// The change failed and goes back; no member beyond this one had been written.
    back_from: Option<Key>,
    /// The next chunk of the IPv4 bitmap.
    chunk: u32,
    applied: Applied,
}

/// Where the walk over both lists stands.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    old: usize,
    new: usize,
    /// The last member that was written.
    reached: Option<Key>,
    /// Everything inside has been told of this prefix.
    told: Option<Key>,
}

/// A prefix whose inside must be written again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewrite {
    cover: Key,
    /// What is still to be looked at begins here.
    next: Key,
    /// Members of the changing list too: else their own walk comes to them.
    changing: bool,
}

/// What a slice came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::firewall) enum Progress {
    /// There is more to do.
    Working,
    /// Everything is staged: the version is to be stored, then [`BlockTable::stored`] called.
    Staged,
    /// The change is over.
    Done(Applied),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Comes,
    Goes,
    Stays,
}

impl BlockTable {
    /// Begins to put `new` in the place of the list of this name; `None` takes it away. Checks
    /// that both fit; there must be no other change under way.
    pub fn begin(
        &mut self,
        name: &str,
        new: Option<Arc<List>>,
        version: u32,
    ) -> Result<(), FirewallError> {
        debug_assert!(self.change.is_none());
        if let Some(new) = &new {
            self.check_list(name, new)?;
        }
        self.change = Some(Change {
            name: name.to_owned(),
            old: self.lists.get(name).cloned(),
            new,
            version,
            stored: false,
            walk: Walk::default(),
            back_from: None,
            chunk: 0,
            applied: Applied::default(),
        });
        Ok(())
    }

    /// Whether a change is under way, or anything is left of one.
    pub fn busy(&self) -> bool {
        self.change.is_some() || !self.rewrites.is_empty()
    }

    /// The version that the change under way waits for.
    pub fn staged_version(&self) -> Option<u32> {
        self.change.as_ref().filter(|change| !change.stored).map(|change| change.version)
    }

    /// Does the next slice, up to `until`.
    pub fn advance(
        &mut self,
        now: Moment,
        sink: &mut dyn BlockSink,
        until: Instant,
    ) -> Result<Progress, FirewallError> {
        loop {
            if !self.rewrites.is_empty() {
                self.rewrite_some(now, sink, BATCH)?;
            } else if self.change.is_none() {
                return Ok(Progress::Done(Applied::default()));
            } else if self.walk_some(now, sink)? {
            } else if self.change.as_ref().is_some_and(|change| !change.stored) {
                return Ok(Progress::Staged);
            } else if !self.clear_chunk(sink)? {
                let applied = self.change.take().map(|change| change.applied);
                return Ok(Progress::Done(applied.unwrap_or_default()));
            }
            if Instant::now() >= until {
                return Ok(Progress::Working);
            }
        }
    }

    /// The version is stored: the new list is in force.
    pub fn stored(&mut self) {
        let Some(change) = &mut self.change else { return };
        change.stored = true;
        change.walk = Walk::default();
        match &change.new {
            Some(new) => self.lists.insert(change.name.clone(), Arc::clone(new)),
            None => self.lists.remove(&change.name),
        };
    }

    /// A write failed: what was staged is taken back by the next slices. Nothing was in force yet,
    /// unless the version was stored: then the change goes on.
    pub fn give_up(&mut self) -> bool {
        let Some(change) = &mut self.change else { return false };
        if change.stored {
            return false;
        }
        let reached = |list: &Option<Arc<List>>, place: usize| {
            list.as_ref().and_then(|list| list.content.get(place.checked_sub(1)?))
        };
        let last = reached(&change.old, change.walk.old).max(reached(&change.new, change.walk.new));
        std::mem::swap(&mut change.old, &mut change.new);
        // No member is as wide as everything: without a last one, none was written.
        change.back_from = Some(last.unwrap_or(Key { v6: false, first: 0, length: 0 }));
        change.stored = true;
        change.walk = Walk::default();
        true
    }

    /// The next members of both lists. `false`: there are no more.
    fn walk_some(&mut self, now: Moment, sink: &mut dyn BlockSink) -> Result<bool, FirewallError> {
        let Some(change) = &mut self.change else { return Ok(false) };
        let (began, staging) = (change.walk, !change.stored);
        let batch = change.batch();
        if batch.is_empty() {
            return Ok(false);
        }
        if staging {
            // Bits first: an entry without its bit would not be found.
            for (key, _) in batch.iter().filter(|(_, step)| *step == Step::Comes) {
                self.presence.add(*key);
            }
            self.presence.flush(sink)?;
        }
        for (key, step) in &batch {
            let done = match staging {
                true => self.stage(*key, now, sink),
                false => self.clean(*key, *step, now, sink),
            };
            if done.is_err()
                && !staging
                && let Some(change) = &mut self.change
            {
                // In force already: it is tried again.
                change.walk = began;
            }
            done?;
            self.tell_inside(*key);
        }
        if !staging {
            // IPv6 cells are counted; the IPv4 bitmap is looked at in the end.
            for (key, _) in batch.iter().filter(|(key, step)| *step == Step::Goes && key.v6) {
                self.presence.remove6(*key);
            }
            self.presence.flush(sink)?;
        }
        if let Some(change) = &mut self.change {
            for (_, step) in batch.iter().filter(|_| staging) {
                match step {
                    Step::Comes => change.applied.added += 1,
                    Step::Goes => change.applied.removed += 1,
                    Step::Stays => change.applied.changed += 1,
                }
            }
        }
        Ok(true)
    }

    fn stage(
        &mut self,
        key: Key,
        now: Moment,
        sink: &mut dyn BlockSink,
    ) -> Result<(), FirewallError> {
        let sides = self.sides(key);
        let version = self.change.as_ref().map_or(0, |change| change.version);
        match sides.between(key.single(), version, now) {
            Some(block) if !sides.same() => self.put(key, block, sink),
            _ => Ok(()),
        }
    }

    fn clean(
        &mut self,
        key: Key,
        step: Step,
        now: Moment,
        sink: &mut dyn BlockSink,
    ) -> Result<(), FirewallError> {
        let sides = self.sides(key);
        let back = self.change.as_ref().is_some_and(|change| change.back_from.is_some());
        match sides.after(now) {
            None => self.take_out(key, sink),
            // It was written for the new version alone.
            Some(_) if step == Step::Comes && !back && sides.begins(key.single()) => Ok(()),
            Some(block) => self.put(key, block, sink),
        }
    }

    /// The walk has come to `key`. Entries of others inside a member that comes or goes say what
    /// it says.
    fn tell_inside(&mut self, key: Key) {
        let Some(change) = &mut self.change else { return };
        change.walk.reached = Some(key);
        if key.single() || change.walk.told.is_some_and(|told| told.holds(key)) {
            return;
        }
        change.walk.told = Some(key);
        let told = self.steady_lists().all(|list| Effect::of_list(list).is_total());
        if told && self.entries.is_empty() {
            return;
        }
        self.rewrites.push_back(Rewrite { cover: key, next: key, changing: false });
    }

    /// Whatever lies inside `cover` must be written again: other entries' own, and members of
    /// lists that do not say everything by themselves.
    pub(super) fn rewrite_inside(&mut self, cover: Key) {
        if self.all_lists().any(|list| self.may_need_rewriting(list)) {
            self.rewrites.push_back(Rewrite { cover, next: cover, changing: true });
        }
    }

    /// A list whose members never end drops everything from them whatever is around them.
    fn may_need_rewriting(&self, list: &List) -> bool {
        !Effect::of_list(list).is_total() || self.is_changing(list)
    }

    fn is_changing(&self, list: &List) -> bool {
        self.change.as_ref().is_some_and(|change| change.name == list.about.name)
    }

    /// Writes some of what [`Self::rewrites`] asks for.
    pub(super) fn rewrite_some(
        &mut self,
        now: Moment,
        sink: &mut dyn BlockSink,
        most: usize,
    ) -> Result<(), FirewallError> {
        let Some(rewrite) = self.rewrites.front().copied() else { return Ok(()) };
        let keys = self.inside(&rewrite, most);
        for key in &keys {
            match self.wanted(*key, now) {
                Some(block) => self.put(*key, block, sink)?,
                None => self.take_out(*key, sink)?,
            }
        }
        match (keys.last(), self.rewrites.front_mut()) {
            (Some(last), Some(front)) if keys.len() == most => {
                // The last is looked at twice, so that no successor need be worked out.
                front.next = *last;
            }
            _ => drop(self.rewrites.pop_front()),
        }
        Ok(())
    }

    /// The first keys inside a cover that may have to be written again, in order; two at least,
    /// if there are so many.
    fn inside(&self, rewrite: &Rewrite, most: usize) -> Vec<Key> {
        let Rewrite { cover, next, changing } = *rewrite;
        let own = self.entries.range(next..=cover.last_inside()).map(|(key, _)| *key);
        let mut keys: Vec<Key> = own.filter(|key| *key != cover).take(most).collect();
        let lists = self
            .all_lists()
            .filter(|list| self.may_need_rewriting(list) && (changing || !self.is_changing(list)));
        for list in lists {
            let mut places = list.content.inside(cover);
            places.start = places.start.max(list.content.lower_bound(next));
            let members = places.filter_map(|place| list.content.get(place));
            keys.extend(members.filter(|key| !key.single() && *key != cover).take(most));
        }
        keys.sort_unstable();
        keys.dedup();
        keys.truncate(most);
        keys
    }

    /// Clears the bits of one part of the IPv4 bitmap in which nothing is any more. `false`: all
    /// parts are done.
    fn clear_chunk(&mut self, sink: &mut dyn BlockSink) -> Result<bool, FirewallError> {
        let Some(change) = &mut self.change else { return Ok(false) };
        let v4_gone = change.old.as_ref().is_some_and(|old| {
            old.content.lengths().singles(false) + old.content.lengths().prefixes(false) > 0
        });
        if !v4_gone || change.chunk >= 1 << CHUNK_BITS {
            return Ok(false);
        }
        let first = u128::from(change.chunk) << (32 - CHUNK_BITS);
        change.chunk += 1;
        let chunk = Key { v6: false, first, length: CHUNK_BITS };
        if !self.covered(chunk) {
            let members = self.inside_v4(chunk);
            self.presence.rebuild4(chunk, members.into_iter());
            self.presence.flush(sink)?;
        }
        Ok(true)
    }

    /// Everything that the kernel may hold inside an IPv4 prefix, the prefix itself included.
    pub(super) fn inside_v4(&self, cells: Key) -> Vec<Key> {
        let own = self.entries.range(cells..=cells.last_inside()).map(|(key, _)| *key);
        let mut keys: Vec<Key> = own.collect();
        for list in self.held_lists() {
            let places = list.content.inside(cells);
            keys.extend(places.filter_map(|place| list.content.get(place)));
        }
        keys
    }

    /// The lists whose bits must be set: of a change that is stored, the new one only.
    fn held_lists(&self) -> impl Iterator<Item = &List> {
        let change = self.change.as_ref();
        let old = change.filter(|change| !change.stored).and_then(|change| change.old.as_deref());
        let new = change.and_then(|change| change.new.as_deref());
        self.steady_lists().chain(old).chain(new)
    }

    /// Whether something wider covers these cells.
    pub(super) fn covered(&self, cells: Key) -> bool {
        self.around(cells).next().is_some()
            || self.held_lists().any(|list| list.content.covers(cells))
    }
}

impl Change {
    /// Whether the walk has come to what this key must say: beyond it, all is as before, so that
    /// a change that is given up leaves nothing behind.
    pub fn has_reached(&self, key: Key) -> bool {
        let member = || {
            let lists = [&self.old, &self.new].into_iter().flatten();
            lists.into_iter().any(|list| list.content.contains(key))
        };
        self.walk.reached.is_some_and(|reached| key <= reached)
            || self.walk.told.is_some_and(|told| told.holds(key)) && !member()
    }

    /// The next members that come, go or change, in order.
    fn batch(&mut self) -> Vec<(Key, Step)> {
        let end = |list: &Option<Arc<List>>| list.clone();
        let (old, new) = (end(&self.old), end(&self.new));
        let get = |list: &Option<Arc<List>>, place| list.as_ref()?.content.get(place);
        let same = match (&old, &new) {
            (Some(old), Some(new)) => old.about.expires_at == new.about.expires_at,
            _ => false,
        };
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH {
            let (before, after) = (get(&old, self.walk.old), get(&new, self.walk.new));
            let (key, step) = match (before, after) {
                (None, None) => break,
                (Some(before), Some(after)) if before == after => (before, Step::Stays),
                (Some(before), Some(after)) if before < after => (before, Step::Goes),
                (Some(before), None) => (before, Step::Goes),
                (_, Some(after)) => (after, Step::Comes),
            };
            if self.back_from.is_some_and(|last| key > last) {
                break;
            }
            self.walk.old += usize::from(step != Step::Comes);
            self.walk.new += usize::from(step != Step::Goes);
            if step != Step::Stays || !same {
                batch.push((key, step));
            }
        }
        batch
    }
}
