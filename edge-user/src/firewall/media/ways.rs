//! Ways are looked up while nobody waits for the table: who asks the kernel holds a lock of its own,
//! and the table's only to read what is to be looked at and to write what was found.
//!
//! Lock order: this one, then the table's.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    MediaTable,
    finder::{Finder, Sender, Sides},
    netlink::Netlink,
};
use crate::{config::Config, firewall::FirewallError};

/// How long a message may wait for the ways of the flows that it tells of: the kernel answers in
/// microseconds.
const SETTLING: Duration = Duration::from_millis(50);

/// Who asks the kernel for the ways of a table's flows.
#[derive(Clone)]
pub struct Ways {
    finder: Arc<Mutex<Finder<Netlink>>>,
    /// Held while flows that were opened just now are seen to: before the others.
    settling: Arc<Mutex<()>>,
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ways").finish_non_exhaustive()
    }
}

impl Ways {
    pub(super) fn new(finder: Finder<Netlink>) -> Self {
        Self { finder: Arc::new(Mutex::new(finder)), settling: Arc::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Finder<Netlink>> {
        self.finder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`MediaTable::tick`], for a table that others use meanwhile.
    pub fn follow(&self, table: &Mutex<MediaTable>) -> Result<(), FirewallError> {
        let due = {
            let mut finder = self.lock();
            let changes = finder.changes();
            locked(table).begin_tick(&changes, finder.devices())?
        };
        for target in due {
            let mut finder = self.lock();
            let found = finder.look(target);
            locked(table).found(target, found);
        }
        locked(table).end_tick()
    }

    /// Finds the ways of the flows that were opened just now to where nobody has looked yet. What
    /// takes too long is left to the next tick.
    pub fn settle(&self, table: &Mutex<MediaTable>) -> Result<(), FirewallError> {
        // Whoever finds none left waits for whoever took them.
        let _settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = locked(table).take_fresh();
        let began = Instant::now();
        for (_, target) in &fresh {
            if began.elapsed() > SETTLING {
                break;
            }
            let mut finder = self.lock();
            if locked(table).is_new(*target) {
                let found = finder.look(*target);
                locked(table).found_first(*target, found);
            }
        }
        locked(table).route_fresh(&fresh)
    }

    /// What belongs to which side is another configuration's from now on.
    pub fn set_config(&self, table: &Mutex<MediaTable>, config: &Config) {
        let mut finder = self.lock();
        if finder.set(Sides::new(config), Sender::new(config)) {
            locked(table).look_at_all();
        }
    }
}

fn locked(table: &Mutex<MediaTable>) -> MutexGuard<'_, MediaTable> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
