//! Lists in the engine: taken in at a start, changed in slices between other intents, and taken
//! away when their time is over.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{Applied, Engine, FirewallError, Settings, StartReport, block_epoch, sys};
use crate::{
    firewall::blocks::{self, List, Outlook, Progress},
    state::grace::GRACE,
};

/// How long a slice takes: others wait no longer for it.
const SLICE: Duration = Duration::from_millis(1);
/// How often is looked whether a list that has ended has not, after all.
const LOOK: Duration = Duration::from_secs(60);

/// Lists that have ended by the wall clock, which may be wrong: each comes back when it has not
/// ended after all, and its file goes when it has been over for some time by a clock that nobody
/// sets.
#[derive(Debug, Default)]
pub(super) struct Ended(BTreeMap<String, (Arc<List>, Instant)>);

/// What becomes of a list that has ended.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It has not ended.
    Back(Arc<List>),
    /// It is over for good.
    Gone(Arc<List>),
}

impl Ended {
    fn add(&mut self, list: Arc<List>, clock: Instant) {
        self.0.insert(list.about.name.clone(), (list, clock));
    }

    /// Somebody has said what is to become of this one.
    fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Takes out one whose fate is decided.
    fn decided(&mut self, wall: SystemTime, clock: Instant) -> Option<Fate> {
        let fate = self.0.values().find_map(|(list, since)| {
            if !list.is_over(wall) {
                return Some(Fate::Back(Arc::clone(list)));
            }
            let is_gone = clock.saturating_duration_since(*since) >= GRACE;
            is_gone.then(|| Fate::Gone(Arc::clone(list)))
        })?;
        let (Fate::Back(list) | Fate::Gone(list)) = &fate;
        self.0.remove(&list.about.name);
        Some(fate)
    }
}

impl Engine {
    /// Takes in the lists and the blocks that the kernel holds, and mends the bitmaps.
    pub(super) fn adopt(&mut self, report: &mut StartReport) -> Result<(), FirewallError> {
        let now = sys::now();
        let (lists, faults) = blocks::read_every(&self.options.state);
        let (ended, lists): (Vec<_>, Vec<_>) =
            lists.into_iter().partition(|list| list.is_over(now.wall));
        ended.into_iter().for_each(|list| self.ended.add(list, Instant::now()));
        report.warnings.extend(faults.iter().map(ToString::to_string));
        // What a list blocked that cannot be read stays blocked in the kernel.
        self.options.keep_unclaimed |= !faults.is_empty();
        let mut adoption = self.table.restore(lists);
        if report.adopted || report.migrated {
            let (table, version) = (&mut self.table, self.settings.block_version);
            self.kernel.blocks.each(|prefix, block| {
                table.adopt(&mut adoption, prefix, block, version, now);
            })?;
            report.adopted_blocks = adoption.count;
            let repaired = self.kernel.blocks.repair_presence(self.table.presence())?;
            if repaired > 0 {
                tracing::warn!(repaired, "words of the presence bitmaps were wrong and are mended");
            }
        }
        // A list that does not fit any more must not keep the appliance down.
        if let Err(fault) = self.table.adopted(&adoption, now, &mut self.kernel.blocks) {
            report.warnings.push(format!("not every list of blocks is whole in force: {fault}"));
        }
        Ok(())
    }

    /// What a new list of this name would meet.
    pub fn outlook(&self, name: &str) -> Outlook {
        self.table.outlook(name)
    }

    /// The lists in force.
    pub fn lists(&self) -> Vec<Arc<List>> {
        self.table.lists()
    }

    /// Begins to put a list in force, or to take one away. [`Self::advance`] goes on with it.
    pub fn begin_list(&mut self, name: &str, new: Option<Arc<List>>) -> Result<(), FirewallError> {
        if self.table.busy() {
            return Err(FirewallError::ListBusy);
        }
        self.table.begin(name, new, self.settings.block_version.wrapping_add(1).max(1))?;
        self.ended.forget(name);
        // The tables must be asked before anything in them is in force.
        let flags = self.settings.flags | self.table.flags();
        self.write_settings(Settings { flags, ..self.settings })
    }

    /// Whether [`Self::advance`] has something to do.
    pub fn is_busy(&self) -> bool {
        self.table.busy()
    }

    /// Does a slice of the work on a list; gives what it came to when it is over.
    ///
    /// What is written for a later version changes no answer, and what is rewritten for both
    /// sides is forgotten with the epoch, which every slice ends with.
    pub fn advance(&mut self) -> Result<Option<Applied>, FirewallError> {
        let until = Instant::now() + SLICE;
        let progress = self.table.advance(sys::now(), &mut self.kernel.blocks, until)?;
        let mut settings = Settings { block_epoch: block_epoch(), ..self.settings };
        let done = match progress {
            Progress::Working => None,
            Progress::Staged => {
                if let Some(version) = self.table.staged_version() {
                    settings.block_version = version;
                }
                settings.flags |= self.table.flags();
                self.write_settings(settings)?;
                self.table.stored();
                return Ok(None);
            }
            Progress::Done(applied) => {
                settings.flags = self.flags();
                Some(applied)
            }
        };
        self.write_settings(settings)?;
        Ok(done)
    }

    /// After a fault of [`Self::advance`]: what was staged is taken back, or, when it is in force
    /// already, the rest is tried again.
    pub fn give_up(&mut self) -> bool {
        self.table.give_up()
    }

    /// A list has ended: it is taken away. One that has not, after all, is taken in again.
    pub fn end_lists(&mut self) {
        let (now, clock) = (sys::now(), Instant::now());
        if self.table.busy() {
            return;
        }
        if let Some(list) = self.table.ended_list(now) {
            if self.begin_list(&list.about.name, None).is_ok() {
                self.ended.add(list, clock);
            }
            return;
        }
        match self.ended.decided(now.wall, clock) {
            None => {}
            Some(Fate::Back(list)) => {
                let name = list.about.name.clone();
                tracing::warn!(name, "this list has not ended, after all: the clock was set");
                if let Err(fault) = self.begin_list(&name, Some(list)) {
                    tracing::error!(name, %fault, "ALARM: this list is not in force");
                }
            }
            Some(Fate::Gone(list)) => {
                let (state, name) = (&self.options.state, &list.about.name);
                if blocks::is_kept(state, &list)
                    && let Err(fault) = blocks::remove_file(state, name)
                {
                    tracing::warn!(%fault, "the file of a list that has ended stays");
                }
            }
        }
    }

    /// When lists that have ended are to be looked at again.
    pub fn next_look_at_lists(&self) -> Option<Duration> {
        (!self.ended.0.is_empty()).then_some(LOOK)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::firewall::lists::ListAbout;

    #[test]
    fn a_list_that_has_ended_comes_back_when_the_clock_was_wrong_and_goes_for_good_later() {
        let (end, began) = (UNIX_EPOCH + Duration::from_secs(1000), Instant::now());
        let about = ListAbout {
            name: "a".to_owned(),
            comment: None,
            expires_at: Some(end),
            by: "uid 0".to_owned(),
            at: UNIX_EPOCH,
        };
        let content = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
        let list = Arc::new(List { about, content: Arc::new(content) });
        let mut ended = Ended::default();
        ended.add(Arc::clone(&list), began);
        let year = Duration::from_secs(365 * 86_400);
        assert_eq!(ended.decided(end + year, began + GRACE / 2), None);
        let before = end - Duration::from_secs(1);
        assert_eq!(ended.decided(before, began + GRACE), Some(Fate::Back(Arc::clone(&list))));
        assert_eq!(ended.decided(before, began + GRACE), None);
        ended.add(Arc::clone(&list), began);
        assert_eq!(ended.decided(end, began + GRACE), Some(Fate::Gone(Arc::clone(&list))));
        ended.add(list, began);
        ended.forget("a");
        assert_eq!(ended.decided(before, began), None);
    }
}
