//! Who holds which block, and what the kernel must therefore hold. Pure: the kernel is behind
//! [`BlockSink`], the clock is an argument.
//!
//! Two kinds of holders: those that name single blocks (the file, administrators, domains), each
//! with its expiry, and lists, which are held as sorted arrays ([`Content`]) and change as a whole
//! ([`change`]). What the kernel must therefore hold says [`effect`]. That may keep a block longer
//! than its own owner asked, never shorter, and it is put right as soon as anything changes.

mod adopt;
mod change;
mod content;
mod effect;
mod files;
mod key;
mod list;
mod parse;
mod presence;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use edge_ebpf::{
    abi::{
        Block, SCOPE_ALL, SCOPE_FEDERATION, SCOPE_REMOTE, SETTING_BLOCKS, SETTING_SHORT_PREFIXES6,
    },
    verdict::Reason,
};
use ipnet::IpNet;

pub(super) use change::Progress;
pub use content::{Content, ContentBuilder};
pub use files::{ListFault, StagedFile, read_all, remove_file, stage_file};
pub(super) use files::{is_kept, read_every};
pub(super) use key::Key;
pub use list::{List, ListAbout, ListTally, Outlook, list_name};
pub use parse::{LineFault, ListParser, Parsed};
pub(super) use presence::{Bitmap, Presence};

use self::{
    change::{Change, Rewrite},
    key::Lengths,
};
use super::{
    Applied, BlockHold, BlockOwner, BlockRequest, BlockRow, FirewallError, decode, plan::overlap,
};

/// The moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// By the wall clock, as owners speak.
    pub wall: SystemTime,
    /// Since boot, as the kernel counts.
    pub monotonic: Duration,
}

impl Moment {
    /// Whole seconds since boot, as the kernel compares them.
    pub fn seconds(self) -> u64 {
        self.monotonic.as_secs()
    }

    /// Seconds since boot by which `at` is reached, rounded up; 0 is kept for "never".
    fn kernel_seconds(self, at: SystemTime) -> u32 {
        self.kernel_seconds_in(at.duration_since(self.wall).unwrap_or_default())
    }

    /// Seconds since boot by which this time has passed. The sum is rounded up, not its parts: a
    /// second that has begun is not taken from what was asked for.
    pub fn kernel_seconds_in(self, time: Duration) -> u32 {
        let sum = self.monotonic.saturating_add(time);
        let seconds = sum.as_secs().saturating_add(u64::from(sum.subsec_nanos() > 0));
        seconds.clamp(1, u64::from(u32::MAX)) as u32
    }
}

/// Members of lists that are written again at once, when something around them changed.
const REWRITE_PAGE: usize = 128;
/// How many times [`REWRITE_PAGE`] are done at once; what is left is done in slices.
const REWRITES_AT_ONCE: usize = 32;

/// Where entries are written.
pub(super) trait BlockSink {
    /// Writes an entry.
    fn put(&mut self, prefix: IpNet, block: &Block) -> Result<(), FirewallError>;
    /// Takes an entry out; one that is not there is no error.
    fn remove(&mut self, prefix: IpNet) -> Result<(), FirewallError>;
    /// Writes a word of a bitmap.
    fn presence(&mut self, bitmap: Bitmap, slot: u32, word: u64) -> Result<(), FirewallError>;
}

/// Room in the kernel's tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Single addresses, IPv4 and IPv6.
    pub addresses: [u32; 2],
    /// Prefixes, IPv4 and IPv6.
    pub prefixes: [u32; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    /// `None`: found in the kernel, claimed by nobody yet.
    owner: Option<BlockOwner>,
    scope: u8,
    reason: Reason,
    comment: Option<String>,
    expires_at: Option<SystemTime>,
}

fn scope_of(owner: &BlockOwner) -> u8 {
    match owner {
        BlockOwner::File
        | BlockOwner::OwnAddress
        | BlockOwner::Administrator
        | BlockOwner::List(_) => SCOPE_ALL,
        BlockOwner::Domain(_) | BlockOwner::Watch(_) => SCOPE_FEDERATION,
        BlockOwner::WrongPasswords => SCOPE_REMOTE,
    }
}

fn reason_of(owner: &BlockOwner) -> Reason {
    match owner {
        BlockOwner::OwnAddress => Reason::BadSource,
        BlockOwner::Domain(_) | BlockOwner::Watch(_) => Reason::BlockedDomain,
        _ => Reason::BlockedAddress,
    }
}

#[derive(Clone, Debug, Default)]
struct Entry {
    holds: Vec<Hold>,
    /// What the kernel holds.
    written: Option<Block>,
    /// Its cells are counted in the bitmaps.
    present: bool,
}

/// All blocks with their owners.
#[derive(Debug)]
pub(super) struct BlockTable {
    entries: BTreeMap<Key, Entry>,
    lengths: Lengths,
    lists: BTreeMap<String, Arc<List>>,
    /// The list that changes at the moment.
    change: Option<Change>,
    /// Prefixes whose inside must be written again.
    rewrites: VecDeque<Rewrite>,
    expiries: BTreeSet<(SystemTime, Key)>,
    dirty: BTreeSet<Key>,
    /// What the kernel did not take; see [`Self::retry`].
    stuck: BTreeSet<Key>,
    presence: Presence,
    room: Room,
    management: Vec<IpNet>,
}

impl BlockTable {
    pub fn new(room: Room) -> Self {
        Self {
            entries: BTreeMap::new(),
            lengths: Lengths::new(),
            lists: BTreeMap::new(),
            change: None,
            rewrites: VecDeque::new(),
            expiries: BTreeSet::new(),
            dirty: BTreeSet::new(),
            stuck: BTreeSet::new(),
            presence: Presence::new(),
            room,
            management: Vec::new(),
        }
    }

    /// These prefixes can no longer be blocked. A block that stands already stays: management is
    /// judged before blocks.
    pub fn protect(&mut self, management: Vec<IpNet>) {
        self.management = management;
    }

    /// Refuses what may not be blocked. An address of ours may: nobody administers this appliance
    /// from itself by way of a device ([`super::plan::RuleSet::own_without_management`]).
    fn check_for(&self, owner: &BlockOwner, prefix: &IpNet) -> Result<(), FirewallError> {
        if *owner == BlockOwner::OwnAddress { Ok(()) } else { self.check(prefix) }
    }

    /// Refuses what may not be blocked.
    pub fn check(&self, prefix: &IpNet) -> Result<(), FirewallError> {
        match self.management.iter().find(|management| overlap(prefix, management)) {
            Some(management) => {
                Err(FirewallError::ManagementPrefix { prefix: *prefix, management: *management })
            }
            None => Ok(()),
        }
    }

    /// One more owner, or the same owner again with another expiry.
    pub fn block(&mut self, request: &BlockRequest) -> Result<(), FirewallError> {
        self.check_for(&request.owner, &request.prefix)?;
        let key = Key::new(&request.prefix);
        if !self.entries.contains_key(&key) {
            self.check_room(key)?;
        }
        let hold = Hold {
            owner: Some(request.owner.clone()),
            scope: scope_of(&request.owner),
            reason: reason_of(&request.owner),
            comment: request.comment.clone(),
            expires_at: request.expires_at,
        };
        let entry = self.entry(key);
        match entry.holds.iter_mut().find(|known| known.owner == hold.owner) {
            Some(known) if *known == hold => return Ok(()),
            Some(known) => *known = hold,
            None => {
                // Whoever asks for the same takes over what was found in the kernel.
                let scope = hold.scope;
                entry.holds.retain(|known| known.owner.is_some() || known.scope != scope);
                entry.holds.reserve_exact(1);
                entry.holds.push(hold);
            }
        }
        if let Some(at) = request.expires_at {
            self.expiries.insert((at, key));
        }
        self.touch(key);
        Ok(())
    }

    /// Takes back one owner's hold, and an unclaimed one of the same kind.
    pub fn unblock(&mut self, prefix: &IpNet, owner: &BlockOwner) {
        let scope = scope_of(owner);
        self.release(Key::new(prefix), |hold| match &hold.owner {
            Some(held_by) => held_by == owner,
            None => hold.scope == scope,
        });
    }

    /// Exactly these are the owner's blocks. All are checked before the first is taken in. One that
    /// touches a management prefix is left out with a line in the log: a partner's DNS must not be
    /// able to stop the others, nor a block from before the prefix became a management prefix. For
    /// the file's own it is an error, since both stand in the same file.
    pub fn set_owner(
        &mut self,
        owner: &BlockOwner,
        blocks: &[BlockRequest],
    ) -> Result<(), FirewallError> {
        let mut wanted = Vec::with_capacity(blocks.len());
        for block in blocks {
            match self.check_for(owner, &block.prefix) {
                Ok(()) => wanted.push(block),
                Err(fault) if *owner == BlockOwner::File => return Err(fault),
                Err(fault) => tracing::warn!(%fault, ?owner, "a block is left out"),
            }
        }
        let keep: BTreeSet<Key> = wanted.iter().map(|block| Key::new(&block.prefix)).collect();
        let gone: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| {
                entry.holds.iter().any(|hold| hold.owner.as_ref() == Some(owner))
                    && !keep.contains(key)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.release(key, |hold| hold.owner.as_ref() == Some(owner));
        }
        // A full table of one kind leaves the other kinds room.
        let mut result = Ok(());
        for block in wanted {
            let taken = self.block(&BlockRequest { owner: owner.clone(), ..block.clone() });
            result = result.and(taken);
        }
        result
    }

    /// Lets go of what was found in the kernel and claimed by nobody.
    pub fn settle(&mut self) {
        let unclaimed: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.holds.iter().any(|hold| hold.owner.is_none()))
            .map(|(key, _)| *key)
            .collect();
        for key in unclaimed {
            self.release(key, |hold| hold.owner.is_none());
        }
    }

    /// Lets go of what has expired.
    pub fn sweep(&mut self, now: Moment) {
        while let Some((at, key)) = self.expiries.first().copied().filter(|(at, _)| *at <= now.wall)
        {
            self.expiries.remove(&(at, key));
            self.release(key, |hold| hold.expires_at.is_some_and(|ends| ends <= now.wall));
        }
    }

    /// When [`Self::sweep`] has something to do next.
    pub fn next_expiry(&self) -> Option<SystemTime> {
        let lists = self.lists.values().filter_map(|list| list.about.expires_at);
        // While a list changes, nothing ends but single blocks.
        let lists = lists.filter(|_| !self.busy());
        lists.chain(self.expiries.first().map(|(at, _)| *at)).min()
    }

    /// `SETTING_*` bits that the blocks ask for.
    pub fn flags(&self) -> u32 {
        let none = self.entries.is_empty() && self.all_lists().all(|list| list.content.is_empty());
        let any = if none { 0 } else { SETTING_BLOCKS };
        let short = if self.presence.short_prefixes() { SETTING_SHORT_PREFIXES6 } else { 0 };
        any | short
    }

    /// The bitmaps as they should be.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Every block with its owners.
    pub fn rows(&self) -> Vec<BlockRow> {
        let rows = self.entries.iter().filter_map(|(key, entry)| {
            let block = entry.written?;
            Some(BlockRow {
                prefix: key.prefix(),
                scope: decode::scope(block.scope),
                reason: Reason::ALL
                    .iter()
                    .find(|reason| **reason as u8 == block.reason)
                    .map_or("", |reason| reason.name()),
                holds: entry
                    .holds
                    .iter()
                    .map(|hold| BlockHold {
                        owner: hold.owner.clone(),
                        comment: hold.comment.clone(),
                        expires_at: hold.expires_at,
                    })
                    .collect(),
            })
        });
        rows.collect()
    }

    /// Writes what has changed. What the kernel does not take keeps nothing else out: it waits for
    /// [`Self::retry`]; the first fault is given back.
    pub fn flush(
        &mut self,
        now: Moment,
        sink: &mut dyn BlockSink,
    ) -> Result<Applied, FirewallError> {
        let mut applied = Applied::default();
        // Bits of new entries first: an entry without its bit would not be found.
        for key in &self.dirty {
            if let Some(entry) = self.entries.get_mut(key)
                && !entry.present
                && !entry.holds.is_empty()
            {
                entry.present = true;
                self.presence.add(*key);
            }
        }
        self.presence.flush(sink)?;
        let mut result = Ok(());
        for key in std::mem::take(&mut self.dirty) {
            let written = self.write(key, now, sink, &mut applied);
            match &written {
                Ok(()) => drop(self.stuck.remove(&key)),
                Err(_) => drop(self.stuck.insert(key)),
            }
            result = result.and(written);
        }
        // What is left of a long one is for `advance`.
        for _ in 0..REWRITES_AT_ONCE {
            if self.rewrites.is_empty() {
                break;
            }
            let rewritten = self.rewrite_some(now, sink, REWRITE_PAGE);
            let failed = rewritten.is_err();
            result = result.and(rewritten);
            if failed {
                break;
            }
        }
        self.presence.flush(sink)?;
        result.map(|()| applied)
    }

    /// Whether the kernel did not take something.
    pub fn is_stuck(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// The next [`Self::flush`] tries again what the kernel did not take.
    pub fn retry(&mut self) {
        self.dirty.append(&mut self.stuck);
    }

    fn write(
        &mut self,
        key: Key,
        now: Moment,
        sink: &mut dyn BlockSink,
        applied: &mut Applied,
    ) -> Result<(), FirewallError> {
        let wanted = self.wanted(key, now);
        let Some(entry) = self.entries.get(&key) else { return Ok(()) };
        let (written, present) = (entry.written, entry.present);
        let held = !entry.holds.is_empty();
        match (wanted, written) {
            (Some(block), Some(written)) if written == block => {}
            (Some(block), _) => {
                self.put(key, block, sink)?;
                *(if written.is_some() { &mut applied.changed } else { &mut applied.added }) += 1;
            }
            (None, Some(_)) => {
                self.take_out(key, sink)?;
                applied.removed += 1;
            }
            (None, None) => {}
        }
        if !held {
            if self.entries.remove(&key).is_some() {
                self.lengths.remove(key);
            }
            if present {
                self.clear_presence(key);
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        key: Key,
        block: Block,
        sink: &mut dyn BlockSink,
    ) -> Result<(), FirewallError> {
        sink.put(key.prefix(), &block)?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.written = Some(block);
        }
        Ok(())
    }

    fn take_out(&mut self, key: Key, sink: &mut dyn BlockSink) -> Result<(), FirewallError> {
        sink.remove(key.prefix())?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.written = None;
        }
        Ok(())
    }

    /// Entries that cover `key` and are shorter.
    fn around(&self, key: Key) -> impl Iterator<Item = &Entry> {
        self.lengths.around(key).filter_map(|around| self.entries.get(&around))
    }

    fn release(&mut self, key: Key, gone: impl Fn(&Hold) -> bool) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let before = entry.holds.len();
        entry.holds.retain(|hold| !gone(hold));
        if entry.holds.len() != before {
            self.touch(key);
        }
    }

    /// The entry and everything nested in it must be written again.
    fn touch(&mut self, key: Key) {
        self.dirty.insert(key);
        if key.single() {
            return;
        }
        let nested = self.entries.range(key..=key.last_inside()).map(|(nested, _)| *nested);
        self.dirty.extend(nested.filter(|nested| nested.length > key.length));
        self.rewrite_inside(key);
    }

    fn entry(&mut self, key: Key) -> &mut Entry {
        self.entries.entry(key).or_insert_with(|| {
            self.lengths.add(key);
            Entry::default()
        })
    }

    /// Clears the cells of an entry that has gone, as far as nothing else is in them.
    fn clear_presence(&mut self, key: Key) {
        if key.v6 {
            self.presence.remove6(key);
            return;
        }
        let cells = key.shortened(key.length.min(24));
        if self.covered(cells) {
            return;
        }
        let inside = self.inside_v4(cells);
        self.presence.rebuild4(cells, inside.into_iter());
    }
}

#[cfg(test)]
mod list_tests;
#[cfg(test)]
mod tests;
