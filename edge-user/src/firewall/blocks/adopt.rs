//! A start: the lists from their files, and what the kernel holds already.

use std::{sync::Arc, time::Duration};

use edge_ebpf::{abi::Block, verdict::Reason};
use ipnet::IpNet;

use super::{Applied, BlockSink, BlockTable, FirewallError, Hold, Key, List, Moment};

/// What is known while the kernel's entries are taken in.
#[derive(Debug, Default)]
pub(in crate::firewall) struct Adoption {
    /// A bit for each member of each list that the kernel holds.
    seen: Vec<Vec<u64>>,
    /// Entries that are not in force: of a change that did not come to its end.
    leftovers: Vec<Key>,
    /// Entries taken in.
    pub count: u64,
}

/// Two clocks and a rounding lie between what was written once and what would be written now.
const CLOCK_SLACK: u32 = 2;

impl BlockTable {
    /// Takes in the lists, before the kernel's entries.
    pub fn restore(&mut self, lists: Vec<Arc<List>>) -> Adoption {
        for list in lists {
            for key in list.content.keys() {
                self.presence.add(key);
            }
            self.lists.insert(list.about.name.clone(), list);
        }
        let words = |list: &Arc<List>| vec![0; list.content.len().div_ceil(64)];
        Adoption { seen: self.lists.values().map(words).collect(), ..Adoption::default() }
    }

    /// Takes in an entry that the kernel holds. `version` is the one in force.
    pub fn adopt(
        &mut self,
        adoption: &mut Adoption,
        prefix: IpNet,
        block: Block,
        version: u32,
        now: Moment,
    ) {
        let key = Key::new(&prefix);
        adoption.count += 1;
        if !block.in_version(version) {
            adoption.leftovers.push(key);
            return;
        }
        let mut listed = false;
        for (list, seen) in self.lists.values().zip(&mut adoption.seen) {
            if let Some(place) = list.content.position(key) {
                listed = true;
                if let Some(word) = seen.get_mut(place / 64) {
                    *word |= 1 << (place % 64);
                }
            }
        }
        if listed && self.wanted(key, now).is_some_and(|wanted| says(&block, &wanted)) {
            return;
        }
        let expires_at = (block.expires_at_seconds != 0).then(|| {
            let ends = Duration::from_secs(u64::from(block.expires_at_seconds));
            now.wall + ends.saturating_sub(now.monotonic)
        });
        let reasons = Reason::ALL.iter().copied();
        let reason = reasons.into_iter().find(|reason| *reason as u8 == block.reason);
        let hold = Hold {
            owner: None,
            scope: block.scope,
            reason: reason.unwrap_or(Reason::BlockedAddress),
            comment: None,
            expires_at,
        };
        let entry = self.entry(key);
        entry.holds = vec![hold];
        entry.written = Some(block);
        entry.present = true;
        self.presence.add(key);
        if listed || block.until_version != 0 {
            self.dirty.insert(key);
        }
        if let Some(at) = expires_at {
            self.expiries.insert((at, key));
        }
    }

    /// The kernel's entries are taken in: writes what is missing of the lists, and takes out what
    /// a change left behind that did not come to its end.
    pub fn adopted(
        &mut self,
        adoption: &Adoption,
        now: Moment,
        sink: &mut dyn BlockSink,
    ) -> Result<Applied, FirewallError> {
        let mut applied = Applied::default();
        self.presence.flush(sink)?;
        let lists = self.lists();
        for (list, seen) in lists.iter().zip(&adoption.seen) {
            for (place, key) in list.content.keys().enumerate() {
                let word = seen.get(place / 64).copied().unwrap_or_default();
                if word & (1 << (place % 64)) == 0
                    && let Some(block) = self.wanted(key, now)
                {
                    self.put(key, block, sink)?;
                    applied.added += 1;
                }
            }
        }
        for key in &adoption.leftovers {
            match self.wanted(*key, now) {
                Some(block) => self.put(*key, block, sink)?,
                None => {
                    self.take_out(*key, sink)?;
                    applied.removed += 1;
                }
            }
        }
        Ok(applied)
    }
}

/// Whether an entry in force says what it should.
fn says(found: &Block, wanted: &Block) -> bool {
    let slack = if wanted.expires_at_seconds == 0 { 0 } else { CLOCK_SLACK };
    let near = found.expires_at_seconds.abs_diff(wanted.expires_at_seconds) <= slack;
    near && found.until_version == 0
        && (found.scope, found.reason, found.owners) == (wanted.scope, wanted.reason, wanted.owners)
}
