//! The watch list as it is kept over a restart: by the wall clock.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Evidence, Throttle, Who,
    record::{REPETITION, Record, State},
};
use crate::{config::ThrottleSettings, domain::Domain};

/// Records that are kept: who is listed first, then who was seen last.
pub const MAX_SAVED: usize = 1024;

/// What is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Who is listed, is suspicious, or was lately.
    pub records: Vec<SavedRecord>,
}

impl Saved {
    /// Whether it is what this program may have written.
    pub fn is_within_bounds(&self) -> bool {
        self.records.len() <= MAX_SAVED
            && self.records.iter().all(|record| {
                (record.domain.is_some() || record.source.is_some())
                    && record.evidence.as_ref().is_none_or(Evidence::is_within_bounds)
            })
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedRecord {
    /// The domain; without it the prefix over all its domains is meant.
    pub domain: Option<Domain>,
    /// The prefix (its first address); without it the domain over all its prefixes is meant.
    pub source: Option<IpAddr>,
    /// Listed until then, in seconds since 1970.
    pub listed_until: Option<u64>,
    /// Suspicious until then, in seconds since 1970.
    pub suspicious_until: Option<u64>,
    /// How often it was suspicious since it was last listed.
    pub times_suspicious: u8,
    /// When it last became suspicious, in seconds since 1970.
    #[serde(default)]
    pub suspected_at: Option<u64>,
    /// How often it was listed.
    pub listed_before: u32,
    /// When it was last listed, in seconds since 1970.
    pub listed_at: Option<u64>,
    /// What it did, where both domain and prefix are named.
    pub evidence: Option<Evidence>,
}

impl Throttle {
    /// What must outlive a restart.
    pub fn save(&self, now: Instant, unix: u64) -> Saved {
        let mut records: Vec<SavedRecord> = self
            .records
            .iter()
            .filter_map(|(who, record)| {
                // A sender that is held as part of more is kept with what it did.
                let held = match who {
                    Who::Pair(domain, source) => {
                        let prefix = self.records.get(&Who::Source(*source));
                        self.listed(now, domain, *source).is_some()
                            || prefix.is_some_and(|prefix| prefix.listed(now).is_some())
                    }
                    _ => false,
                };
                saved(who, record, held, now, unix)
            })
            .collect();
        let seen = |record: &SavedRecord| {
            record
                .evidence
                .as_ref()
                .map_or(0, |evidence| evidence.last_seen)
                .max(record.listed_at.unwrap_or(0))
        };
        records.sort_by(|a, b| {
            let rank = |r: &SavedRecord| (r.listed_until.is_some(), seen(r));
            let name = |r: &SavedRecord| (r.domain.clone(), r.source);
            rank(b).cmp(&rank(a)).then_with(|| name(a).cmp(&name(b)))
        });
        records.truncate(MAX_SAVED);
        Saved { records }
    }

    /// Takes back what was saved. What ended meanwhile has ended, as it would have here.
    pub fn restore(&mut self, now: Instant, unix: u64, settings: &ThrottleSettings, saved: Saved) {
        for saved in saved.records {
            let who = match (saved.domain, saved.source) {
                (Some(domain), Some(source)) => Who::Pair(domain, source),
                (Some(domain), None) => Who::Domain(domain),
                (None, Some(source)) => Who::Source(source),
                (None, None) => continue,
            };
            // The wall clock may have been set meanwhile: nothing lasts longer than it can here.
            let at = |until: u64, most: Duration| {
                let left = Duration::from_secs(until.saturating_sub(unix)).min(most);
                now.checked_add(left).unwrap_or(now)
            };
            let past = |at: Option<u64>| at.map(|at| at.min(unix));
            let state = match (saved.listed_until, saved.suspicious_until) {
                (Some(until), _) => State::Listed(at(until, settings.block_most)),
                (None, Some(until)) => State::Suspicious(at(until, settings.report_period)),
                (None, None) => State::Standard,
            };
            let mut record = Record::new(now, settings.messages_per_second, state);
            record.settle(now, settings);
            record.times_suspicious = saved.times_suspicious;
            record.suspected_at = past(saved.suspected_at.or(Some(unix)));
            (record.listed_before, record.listed_at) = (saved.listed_before, past(saved.listed_at));
            record.evidence = saved.evidence.map(Box::new);
            self.records.insert(who, record);
        }
    }
}

fn saved(who: &Who, record: &Record, held: bool, now: Instant, unix: u64) -> Option<SavedRecord> {
    let at = |until: Instant| {
        let left = until.saturating_duration_since(now);
        unix + left.as_secs() + u64::from(left.subsec_nanos() > 0)
    };
    let (listed_until, suspicious_until) = match record.state {
        State::Listed(until) => (Some(at(until)), None),
        State::Suspicious(until) if until > now => (None, Some(at(until))),
        _ => (None, None),
    };
    let lately = record.listed_at.is_some_and(|at| unix.saturating_sub(at) <= REPETITION);
    if listed_until.is_none() && suspicious_until.is_none() && !lately && !held {
        return None;
    }
    let (domain, source) = match who.clone() {
        Who::Pair(domain, source) => (Some(domain), Some(source)),
        Who::Domain(domain) => (Some(domain), None),
        Who::Source(source) => (None, Some(source)),
    };
    Some(SavedRecord {
        domain,
        source,
        listed_until,
        suspicious_until,
        times_suspicious: record.times_suspicious,
        suspected_at: record.suspected_at,
        listed_before: record.listed_before,
        listed_at: record.listed_at,
        evidence: record.evidence.as_deref().cloned(),
    })
}
