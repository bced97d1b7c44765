//! Who holds which block, and what the kernel must therefore hold. Pure: the kernel is behind
//! [`BlockSink`], the clock is an argument.
//!
//! The kernel looks a source up once: exact address first, then the longest prefix. So an entry
//! must already say everything that the prefixes around it say: it drops everything if any of
//! them does, and it ends only when the last of them ends. That may keep a block longer than its
//! own owner asked, never shorter, and it is put right as soon as anything changes or expires.

mod presence;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::SystemTime,
};

use edge_ebpf::{
    abi::{Block, SCOPE_ALL, SCOPE_FEDERATION, SETTING_BLOCKS, SETTING_SHORT_PREFIXES6},
    verdict::Reason,
};
use ipnet::IpNet;

pub(super) use presence::Presence;

use super::{Applied, BlockHold, BlockOwner, BlockRequest, BlockRow, FirewallError, plan::overlap};

/// The moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// By the wall clock, as owners speak.
    pub wall: SystemTime,
    /// Seconds since boot, as the kernel counts.
    pub monotonic: u64,
}

impl Moment {
    /// Seconds since boot at which `at` is reached, rounded up; 0 is kept for "never".
    fn kernel_seconds(self, at: SystemTime) -> u32 {
        let left = at.duration_since(self.wall).unwrap_or_default();
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        self.monotonic.saturating_add(seconds).clamp(1, u64::from(u32::MAX)) as u32
    }
}

/// Where entries are written.
pub(super) trait BlockSink {
    /// Writes an entry.
    fn put(&mut self, prefix: IpNet, block: &Block) -> Result<(), FirewallError>;
    /// Takes an entry out; one that is not there is no error.
    fn remove(&mut self, prefix: IpNet) -> Result<(), FirewallError>;
    /// Writes a word of `PRESENCE4` or `PRESENCE6`.
    fn presence(&mut self, v6: bool, slot: u32, word: u64) -> Result<(), FirewallError>;
}

/// Room in the kernel's tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Single addresses, IPv4 and IPv6.
    pub addresses: [u32; 2],
    /// Prefixes, IPv4 and IPv6.
    pub prefixes: [u32; 2],
}

/// Family, first address (IPv4 in the low 32 bits), length: covering prefixes come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub v6: bool,
    pub first: u128,
    pub length: u8,
}

impl Key {
    pub fn new(prefix: &IpNet) -> Self {
        match prefix.trunc() {
            IpNet::V4(net) => {
                Self { v6: false, first: u32::from(net.network()).into(), length: net.prefix_len() }
            }
            IpNet::V6(net) => {
                Self { v6: true, first: net.network().into(), length: net.prefix_len() }
            }
        }
    }

    pub fn bits(self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    fn single(self) -> bool {
        self.length == self.bits()
    }

    /// The last address of the prefix.
    pub fn last(self) -> u128 {
        let host = u32::from(self.bits() - self.length);
        self.first | 1u128.checked_shl(host).map_or(u128::MAX, |bit| bit - 1)
    }

    /// The prefix of this length around it.
    fn shortened(self, length: u8) -> Self {
        let host = u32::from(self.bits() - length);
        let first = (self.first.checked_shr(host)).map_or(0, |kept| kept << host);
        Self { first, length, ..self }
    }

    pub fn prefix(self) -> IpNet {
        let address = if self.v6 {
            IpAddr::V6(Ipv6Addr::from(self.first))
        } else {
            IpAddr::V4(Ipv4Addr::from(self.first as u32))
        };
        // A key's length always fits its family, so the fallback is never taken.
        IpNet::new(address, self.length).unwrap_or_else(|_| IpNet::from(address))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    /// `None`: found in the kernel, claimed by nobody yet.
    owner: Option<BlockOwner>,
    scope: u8,
    comment: Option<String>,
    expires_at: Option<SystemTime>,
}

fn scope_of(owner: &BlockOwner) -> u8 {
    match owner {
        BlockOwner::File | BlockOwner::Administrator => SCOPE_ALL,
        BlockOwner::Domain(_) => SCOPE_FEDERATION,
    }
}

fn reason_of(scope: u8) -> Reason {
    if scope == SCOPE_ALL { Reason::BlockedAddress } else { Reason::BlockedDomain }
}

fn scope_name(scope: u8) -> &'static str {
    if scope == SCOPE_ALL { "all" } else { "federation" }
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
    /// Entries of each length, IPv4 and IPv6: which lengths are worth asking for.
    lengths: [[u32; 129]; 2],
    expiries: BTreeSet<(SystemTime, Key)>,
    dirty: BTreeSet<Key>,
    presence: Presence,
    room: Room,
    management: Vec<IpNet>,
}

impl BlockTable {
    pub fn new(room: Room) -> Self {
        Self {
            entries: BTreeMap::new(),
            lengths: [[0; 129]; 2],
            expiries: BTreeSet::new(),
            dirty: BTreeSet::new(),
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

    /// Takes in an entry that the kernel holds.
    pub fn adopt(&mut self, prefix: IpNet, block: Block, now: Moment) {
        let key = Key::new(&prefix);
        let expires_at = (block.expires_at_seconds != 0).then(|| {
            let left = u64::from(block.expires_at_seconds).saturating_sub(now.monotonic);
            now.wall + std::time::Duration::from_secs(left)
        });
        let hold = Hold { owner: None, scope: block.scope, comment: None, expires_at };
        self.entry(key).holds.push(hold);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.written = Some(block);
            entry.present = true;
        }
        self.presence.add(key);
        if let Some(at) = expires_at {
            self.expiries.insert((at, key));
        }
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
        self.check(&request.prefix)?;
        let key = Key::new(&request.prefix);
        if !self.entries.contains_key(&key) {
            self.check_room(key)?;
        }
        let hold = Hold {
            owner: Some(request.owner.clone()),
            scope: scope_of(&request.owner),
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
            match self.check(&block.prefix) {
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
        self.expiries.first().map(|(at, _)| *at)
    }

    /// `SETTING_*` bits that the blocks ask for.
    pub fn flags(&self) -> u32 {
        let any = if self.entries.is_empty() { 0 } else { SETTING_BLOCKS };
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
                scope: scope_name(block.scope),
                reason: reason_of(block.scope).name(),
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

    /// Writes what has changed. What fails stays to be written at the next call.
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
        while let Some(key) = self.dirty.first().copied() {
            self.write(key, now, sink, &mut applied)?;
            self.dirty.remove(&key);
        }
        self.presence.flush(sink)?;
        Ok(applied)
    }

    fn write(
        &mut self,
        key: Key,
        now: Moment,
        sink: &mut dyn BlockSink,
        applied: &mut Applied,
    ) -> Result<(), FirewallError> {
        let Some(block) = self.effective(key, now) else {
            let Some(entry) = self.entries.get(&key) else { return Ok(()) };
            let present = entry.present;
            if entry.written.is_some() {
                sink.remove(key.prefix())?;
                applied.removed += 1;
            }
            self.forget(key);
            if present {
                self.clear_presence(key);
            }
            return Ok(());
        };
        let Some(entry) = self.entries.get_mut(&key) else { return Ok(()) };
        match entry.written {
            Some(written) if written == block => return Ok(()),
            Some(_) => applied.changed += 1,
            None => applied.added += 1,
        }
        sink.put(key.prefix(), &block)?;
        entry.written = Some(block);
        Ok(())
    }

    /// What the kernel must hold for an entry: its own holds and those of the prefixes around it.
    fn effective(&self, key: Key, now: Moment) -> Option<Block> {
        let own = self.entries.get(&key).filter(|entry| !entry.holds.is_empty())?;
        let around = self.around(key).flat_map(|entry| entry.holds.iter());
        let mut scope = SCOPE_FEDERATION;
        let mut ends = Some(SystemTime::UNIX_EPOCH);
        for hold in own.holds.iter().chain(around) {
            if hold.scope == SCOPE_ALL {
                scope = SCOPE_ALL;
            }
            ends = match (ends, hold.expires_at) {
                (Some(latest), Some(at)) => Some(latest.max(at)),
                _ => None,
            };
        }
        Some(Block {
            scope,
            reason: reason_of(scope) as u8,
            owners: own.holds.len().try_into().unwrap_or(u16::MAX),
            expires_at_seconds: ends.map_or(0, |at| now.kernel_seconds(at)),
            from_version: 0,
            until_version: 0,
        })
    }

    /// Entries that cover `key` and are shorter.
    fn around(&self, key: Key) -> impl Iterator<Item = &Entry> {
        let lengths = &self.lengths[usize::from(key.v6)];
        (0..key.length)
            .filter(|length| lengths[usize::from(*length)] > 0)
            .filter_map(move |length| self.entries.get(&key.shortened(length)))
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
        let last = Key { first: key.last(), length: key.bits(), ..key };
        let nested = self.entries.range(key..=last).map(|(nested, _)| *nested);
        self.dirty.extend(nested.filter(|nested| nested.length > key.length));
    }

    fn entry(&mut self, key: Key) -> &mut Entry {
        self.entries.entry(key).or_insert_with(|| {
            self.lengths[usize::from(key.v6)][usize::from(key.length)] += 1;
            Entry::default()
        })
    }

    fn forget(&mut self, key: Key) {
        if self.entries.remove(&key).is_some() {
            let count = &mut self.lengths[usize::from(key.v6)][usize::from(key.length)];
            *count = count.saturating_sub(1);
        }
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
        let last = Key { first: cells.last(), length: cells.bits(), ..cells };
        let inside: Vec<Key> = self.entries.range(cells..=last).map(|(key, _)| *key).collect();
        self.presence.clear4(cells);
        for nested in inside {
            self.presence.add(nested);
        }
    }

    /// Whether a shorter entry covers these cells.
    fn covered(&self, cells: Key) -> bool {
        self.around(cells).next().is_some()
    }

    fn check_room(&self, key: Key) -> Result<(), FirewallError> {
        let family = usize::from(key.v6);
        let lengths = &self.lengths[family];
        let single = lengths[usize::from(key.bits())];
        let (used, max, setting) = if key.single() {
            (single, self.room.addresses[family], "max_blocked_addresses")
        } else {
            let prefixes = lengths[..usize::from(key.bits())].iter().sum();
            (prefixes, self.room.prefixes[family], "max_blocked_prefixes")
        };
        if used < max {
            return Ok(());
        }
        let what = match (key.single(), key.v6) {
            (true, false) => "IPv4 addresses",
            (true, true) => "IPv6 addresses",
            (false, false) => "IPv4 prefixes",
            (false, true) => "IPv6 prefixes",
        };
        Err(FirewallError::BlocksFull { what, setting, max })
    }
}

#[cfg(test)]
mod tests;
