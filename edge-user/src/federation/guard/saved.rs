//! Bans as they are kept over a restart: by the wall clock. Failures that are no ban yet are not kept,
//! nor what is known of users.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Guard, MAX_RECORDS, REPETITION, Source, is_spared};
use crate::{config::GuardSettings, federation::first_of_source};

/// What is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedBans {
    /// Bans in force, and those that count for the length of the next.
    pub bans: Vec<SavedBan>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedBan {
    /// The address; of IPv6 the /64.
    pub source: IpAddr,
    /// Its end, in seconds since 1970.
    pub until: u64,
    /// How many there have been.
    pub times: u32,
    /// Failures that led to it and since.
    pub failures: u64,
}

impl SavedBans {
    /// Whether it is what this program may have written.
    pub fn is_within_bounds(&self) -> bool {
        self.bans.len() <= MAX_RECORDS
            && self
                .bans
                .iter()
                .all(|ban| ban.times > 0 && first_of_source(ban.source) == ban.source)
    }
}

impl Guard {
    /// What must outlive a restart. `unix`: the wall clock.
    pub fn save(&self, now: Instant, unix: u64) -> SavedBans {
        let saved = |(source, record): (&IpAddr, &Source)| {
            let until = record.banned_until.filter(|until| now < *until + REPETITION)?;
            let until = match until.checked_duration_since(now) {
                Some(left) => unix + left.as_secs() + u64::from(left.subsec_nanos() > 0),
                None => unix.saturating_sub(now.duration_since(until).as_secs()),
            };
            let (times, failures) = (record.times, record.total);
            Some(SavedBan { source: *source, until, times, failures })
        };
        let mut bans: Vec<SavedBan> = self.sources.iter().filter_map(saved).collect();
        bans.sort_by_key(|ban| ban.source);
        SavedBans { bans }
    }

    /// Takes back what was saved. What ended meanwhile has ended; nothing lasts longer than it can
    /// here, whatever became of the wall clock.
    pub fn restore(&mut self, now: Instant, unix: u64, settings: &GuardSettings, saved: SavedBans) {
        for ban in saved.bans {
            let left = Duration::from_secs(ban.until.saturating_sub(unix)).min(settings.ban_most);
            let over = Duration::from_secs(unix.saturating_sub(ban.until));
            if over >= REPETITION || is_spared(settings, ban.source) {
                continue;
            }
            // Since boot there may be less time than that: then it ends now.
            let until = now.checked_add(left).and_then(|at| at.checked_sub(over)).unwrap_or(now);
            let record = self.sources.entry(ban.source).or_default();
            record.banned_until = Some(until);
            (record.times, record.total) = (ban.times, ban.failures);
        }
    }
}
