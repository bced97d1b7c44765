//! Lists in the engine: taken in at a start, and changed in slices between other intents.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Applied, Engine, FirewallError, Settings, StartReport, block_epoch, sys};
use crate::firewall::blocks::{self, List, Outlook, Progress};

/// How long a slice takes: others wait no longer for it.
const SLICE: Duration = Duration::from_millis(1);

impl Engine {
    /// Takes in the lists and the blocks that the kernel holds, and mends the bitmaps.
    pub(super) fn adopt(&mut self, report: &mut StartReport) -> Result<(), FirewallError> {
        let now = sys::now();
        let (lists, faults) = blocks::read_all(&self.options.state, now.wall);
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
                settings.flags = self.plan.flags | self.table.flags();
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

    /// A list has ended: it is taken away, file and all. `true`: that has begun.
    pub fn end_lists(&mut self) -> bool {
        if self.table.busy() {
            return false;
        }
        let Some(name) = self.table.ended_list(sys::now()) else { return false };
        if let Err(fault) = blocks::remove_file(&self.options.state, &name) {
            tracing::warn!(%fault, "the file of a list that has ended stays");
        }
        self.begin_list(&name, None).is_ok()
    }
}
