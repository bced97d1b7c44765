//! How much a discovered partner may send, and who is watched: by the domain it proved and the
//! prefix it sends from, never by its certificate, so that a new one washes nothing away.
//!
//! Each message counts three times: for the pair, for the domain over all its prefixes, for the
//! prefix over all its domains (the last two with four times the room). A partner whose messages
//! fail too often is suspicious and slowed down; one that writes to too many users of ours, or is
//! suspicious a third time, is listed and refused for a while, longer each time. Of each pair some
//! evidence is kept. No clock, no socket, no file.
//!
//! A prefix may be shared by domains that know nothing of each other: what it is held for is
//! refused or slowed down here, and nobody is blocked or disconnected for it.
//!
//! | part | what it does |
//! | --- | --- |
//! | `record` | rates, suspicion and lists of one |
//! | `evidence` | what people are shown |
//! | `saved` | what a restart keeps |

mod evidence;
mod record;
mod saved;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use self::record::{Record, State};
use super::{
    CertificateNames, UserName,
    source::{first_of_source, source_prefix},
};
use crate::{config::ThrottleSettings, domain::Domain};

pub use evidence::{CertificateSeen, Evidence, Sample};
pub use saved::{Saved, SavedRecord};

/// What is remembered of so many; room is made from those that did nothing wrong, oldest first.
const MAX_RECORDS: usize = 4096;
/// How many go at one time when there is no room.
const MAKE_ROOM: usize = 256;
/// Users of ours remembered in all. When there are more, who holds most is suspicious.
const MAX_USERS: usize = 512 * 1024;
/// How often room for users is looked for when there is none.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Characters of a method or a user that are kept.
const MAX_WORD: usize = 128;
/// Room of a domain over all prefixes, and of a prefix over all domains.
const WIDER: u32 = 4;

/// The moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// Since boot.
    pub now: Instant,
    /// Seconds since 1970.
    pub unix: u64,
}

/// Who sends.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The domain it proved.
    pub domain: &'a Domain,
    /// Where it sends from.
    pub source: IpAddr,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It goes on.
    Pass,
    /// It comes too soon.
    Slow,
    /// Its sender is on the watch list.
    Listed,
}

/// What is thought of a sender changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Too many of its messages fail.
    Suspicious,
    /// It is listed, for so long.
    Listed(Duration),
}

/// What there is to tell after a message or a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// What is thought of it changed.
    pub change: Option<Change>,
    /// It is listed until then, which was not told for its prefix yet.
    pub offender: Option<Instant>,
}

/// How a sender stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing is held against it.
    Standard,
    /// It is slowed down.
    Suspicious,
    /// It is refused.
    Listed,
}

impl Standing {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Standard => "standard",
            Standing::Suspicious => "suspicious",
            Standing::Listed => "listed",
        }
    }
}

/// A sender, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The domain.
    pub domain: Domain,
    /// The prefix (IPv6: a /64, but an address of NAT64); without it the domain over all its prefixes, of which none is
    /// remembered by itself.
    pub source: Option<IpNet>,
    /// How it stands: the worst of the pair, the domain and the prefix.
    pub standing: Standing,
    /// Until when.
    pub until: Option<Instant>,
    /// By what: `sender`, `domain` or `prefix`.
    pub held_as: &'static str,
    /// How often that was listed.
    pub times_listed: u32,
    /// What it did.
    pub evidence: Evidence,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Pair(Domain, IpAddr),
    Domain(Domain),
    Source(IpAddr),
}

impl Who {
    fn all(domain: &Domain, source: IpAddr) -> [(Who, u32); 3] {
        let source = first_of_source(source);
        [
            (Who::Pair(domain.clone(), source), 1),
            (Who::Domain(domain.clone()), WIDER),
            (Who::Source(source), WIDER),
        ]
    }

    const fn held_as(&self) -> &'static str {
        match self {
            Who::Pair(..) => "sender",
            Who::Domain(_) => "domain",
            Who::Source(_) => "prefix",
        }
    }
}

/// What strangers wrote, for a terminal.
fn readable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_WORD).collect()
}

/// What is remembered of discovered partners.
#[derive(Debug, Default)]
pub struct Throttle {
    records: HashMap<Who, Record>,
    hasher: RandomState,
    users: usize,
    /// When room for users was last looked for.
    looked: Option<Instant>,
    /// Until then whoever is new is suspicious: who was listed is not known.
    distrust: Option<Instant>,
}

impl Throttle {
    /// A message, to this user of ours if a domain of ours is called.
    pub fn request(
        &mut self,
        time: Time,
        settings: &ThrottleSettings,
        sender: Sender<'_>,
        names: &CertificateNames,
        user: Option<&UserName<'_>>,
    ) -> (Ruling, News) {
        let now = time.now;
        let all = Who::all(sender.domain, sender.source);
        for (who, wider) in &all {
            let rate = settings.messages_per_second * wider;
            let record = self.record(now, who, rate);
            record.settle(now, settings);
            if *wider == 1 {
                record.evidence.get_or_insert_default().message(time.unix, names);
            }
            if let State::Listed(_) = record.state {
                let offender = self.tell_offender(now, sender);
                return (Ruling::Listed, News { change: None, offender });
            }
            let rate = match record.state {
                State::Suspicious(_) => settings.suspicious_per_second * wider,
                _ => rate,
            };
            if !record.fits(now, rate) {
                return (Ruling::Slow, News::default());
            }
        }
        for (who, _) in &all {
            if let Some(record) = self.records.get_mut(who) {
                record.room = record.room.saturating_sub(1000);
            }
        }
        let change = user.and_then(|user| self.count_user(time, settings, &all, user));
        match change {
            Some(Change::Listed(_)) => {
                let offender = self.tell_offender(now, sender);
                (Ruling::Listed, News { change, offender })
            }
            _ => (Ruling::Pass, News { change, offender: None }),
        }
    }

    fn count_user(
        &mut self,
        time: Time,
        settings: &ThrottleSettings,
        all: &[(Who, u32); 3],
        user: &UserName<'_>,
    ) -> Option<Change> {
        let hash = self.hasher.hash_one(user);
        let now = time.now;
        let mut change = None;
        for (who, wider) in all {
            let most = settings.distinct_users as usize * *wider as usize;
            if self.users >= MAX_USERS {
                self.make_room_for_users(now, settings);
            }
            let full = self.users >= MAX_USERS;
            let Some(record) = self.records.get_mut(who) else { continue };
            if record.is_period_over(now, settings) {
                record.period = now;
                self.users -= record.users.len();
                record.users = Vec::new();
            }
            let Err(place) = record.users.binary_search(&hash) else { continue };
            // It is not its fault.
            if full {
                continue;
            }
            record.users.insert(place, hash);
            self.users += 1;
            if let Some(evidence) = &mut record.evidence {
                evidence.distinct_users = u32::try_from(record.users.len()).unwrap_or(u32::MAX);
            }
            if record.users.len() > most {
                self.users -= record.users.len();
                record.users = Vec::new();
                record.period = now;
                change = Some(record.list(now, time.unix, settings));
            }
        }
        change
    }

    /// Users of who has been silent for a period go. Where that is not enough, who holds most is
    /// slowed down; a prefix is not, for it may be many.
    fn make_room_for_users(&mut self, now: Instant, settings: &ThrottleSettings) {
        if self.looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK_AGAIN) {
            return;
        }
        self.looked = Some(now);
        for record in self.records.values_mut() {
            if record.is_period_over(now, settings) {
                self.users -= record.users.len();
                record.users = Vec::new();
            }
        }
        if self.users < MAX_USERS {
            return;
        }
        let own = self.records.iter_mut().filter(|(who, _)| !matches!(who, Who::Source(_)));
        let most = own.max_by_key(|(who, r)| (r.users.len(), matches!(who, Who::Pair(..))));
        if let Some((_, record)) = most {
            record.slow(now, settings);
        }
    }

    /// The final response to one of its messages, to this user of ours.
    pub fn outcome(
        &mut self,
        time: Time,
        settings: &ThrottleSettings,
        sender: Sender<'_>,
        method: &str,
        user: Option<&UserName<'_>>,
        status: u16,
    ) -> News {
        let (now, unix) = (time.now, time.unix);
        let all = Who::all(sender.domain, sender.source);
        let user = user.map_or_else(String::new, |user| match settings.plain_users {
            true => readable(&user.to_string()),
            false => format!("{:016x}", self.hasher.hash_one(user)),
        });
        if let Some(evidence) = self.records.get_mut(&all[0].0).and_then(|r| r.evidence.as_mut()) {
            let method = readable(method);
            evidence.answered(Sample { at: unix, method, status, user });
        }
        // What we slowed down or refused ourselves says nothing about it, nor about others there.
        let refused = all.iter().any(|(who, _)| {
            self.records.get(who).is_some_and(|record| record.listed(now).is_some())
        });
        if status == 503 || refused {
            return News::default();
        }
        let failed = matches!(status, 403 | 404 | 410 | 480 | 484 | 604);
        let mut change = None;
        let by = self.hasher.hash_one(sender.domain);
        for (who, wider) in &all {
            let Some(record) = self.records.get_mut(who) else { continue };
            record.settle(now, settings);
            if !record.answered(now, settings, *wider, failed.then_some(by)) {
                continue;
            }
            if !matches!(who, Who::Source(_)) {
                change = record.suspect(now, unix, settings).or(change);
            } else if record.failed_several {
                record.slow(now, settings);
            }
        }
        match change {
            Some(Change::Listed(_)) => News { change, offender: self.tell_offender(now, sender) },
            _ => News { change, offender: None },
        }
    }

    /// Until when this sender is listed, if it is, as itself or with its domain. What its prefix is
    /// held for may be another's doing.
    pub fn listed(&self, now: Instant, domain: &Domain, source: IpAddr) -> Option<Instant> {
        let [pair, of_domain, _] = Who::all(domain, source);
        let both = [pair.0, of_domain.0];
        both.iter().filter_map(|who| self.records.get(who)?.listed(now)).max()
    }

    /// The end of its list, unless it was told for this prefix before.
    fn tell_offender(&mut self, now: Instant, sender: Sender<'_>) -> Option<Instant> {
        let until = self.listed(now, sender.domain, sender.source)?;
        let pair = Who::Pair(sender.domain.clone(), first_of_source(sender.source));
        let record = self.records.get_mut(&pair)?;
        (record.told.replace(until) != Some(until)).then_some(until)
    }

    /// Everybody who is listed and known by prefix, as if it had not been told: after a start.
    pub fn offenders(&mut self, now: Instant) -> Vec<(Domain, IpAddr, Instant)> {
        let pairs: Vec<(Domain, IpAddr)> = self
            .records
            .keys()
            .filter_map(|who| match who {
                Who::Pair(domain, source) => Some((domain.clone(), *source)),
                _ => None,
            })
            .collect();
        let mut found = Vec::new();
        for (domain, source) in pairs {
            if let Some(until) = self.listed(now, &domain, source) {
                if let Some(record) = self.records.get_mut(&Who::Pair(domain.clone(), source)) {
                    record.told = Some(until);
                }
                found.push((domain, source, until));
            }
        }
        found.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        found
    }

    /// Who was listed is not known: whoever comes anew is suspicious for a while.
    pub fn distrust_until(&mut self, until: Instant) {
        self.distrust = Some(until);
    }

    /// Nothing is held against a domain any more, or against its senders from this prefix. Says how
    /// many records that were held against it there were.
    pub fn forgive(&mut self, domain: &Domain, from: Option<&IpNet>) -> usize {
        let there = |source: &IpAddr| {
            from.is_none_or(|net| net.contains(source) || source_prefix(*source).contains(net))
        };
        let sources: Vec<IpAddr> = self
            .records
            .keys()
            .filter_map(|who| match who {
                Who::Pair(of, source) if of == domain && there(source) => Some(*source),
                _ => None,
            })
            .collect();
        let pairs = sources.iter().map(|source| Who::Pair(domain.clone(), *source));
        let mut all: Vec<Who> = pairs.chain(sources.iter().map(|s| Who::Source(*s))).collect();
        if from.is_none() {
            all.push(Who::Domain(domain.clone()));
        }
        let mut forgiven = 0;
        for who in all {
            let Some(record) = self.records.get_mut(&who) else { continue };
            forgiven += usize::from(record.state != State::Standard);
            record.forgive();
            self.users -= record.users.len();
            record.users = Vec::new();
        }
        forgiven
    }

    /// Domains of which something is remembered.
    pub fn domains(&self) -> Vec<Domain> {
        let mut domains: Vec<Domain> = self
            .records
            .keys()
            .filter_map(|who| match who {
                Who::Pair(domain, _) | Who::Domain(domain) => Some(domain.clone()),
                Who::Source(_) => None,
            })
            .collect();
        domains.sort_unstable();
        domains.dedup();
        domains
    }

    /// Every sender, or those of one domain, in the order of names and prefixes.
    pub fn report(
        &self,
        now: Instant,
        settings: &ThrottleSettings,
        only: Option<&Domain>,
    ) -> Vec<Report> {
        let mut known = Vec::new();
        let wanted = |domain: &Domain| only.is_none_or(|only| only == domain);
        for who in self.records.keys() {
            match who {
                Who::Pair(domain, source) if wanted(domain) => {
                    known.push((domain.clone(), Some(*source)));
                }
                Who::Domain(domain) if wanted(domain) => known.push((domain.clone(), None)),
                _ => {}
            }
        }
        known.sort_unstable();
        // The domain itself comes before its senders, and is shown when it has none.
        let shown = known.iter().enumerate().filter(|(place, (domain, source))| {
            source.is_some() || known.get(place + 1).is_none_or(|(next, _)| next != domain)
        });
        shown.map(|(_, (domain, source))| self.report_of(now, settings, domain, *source)).collect()
    }

    fn report_of(
        &self,
        now: Instant,
        settings: &ThrottleSettings,
        domain: &Domain,
        source: Option<IpAddr>,
    ) -> Report {
        let all = match source {
            Some(source) => Who::all(domain, source).map(|(who, _)| who).to_vec(),
            None => vec![Who::Domain(domain.clone())],
        };
        let mut report = Report {
            domain: domain.clone(),
            source: source.map(source_prefix),
            standing: Standing::Standard,
            until: None,
            held_as: "sender",
            times_listed: 0,
            evidence: Evidence::default(),
        };
        for who in &all {
            let Some(record) = self.records.get(who) else { continue };
            let (standing, until) = match record.settled(now, settings) {
                State::Standard => (Standing::Standard, None),
                State::Suspicious(until) => (Standing::Suspicious, Some(until)),
                State::Listed(until) => (Standing::Listed, Some(until)),
            };
            if (standing, until) > (report.standing, report.until) {
                (report.standing, report.until) = (standing, until);
                (report.held_as, report.times_listed) = (who.held_as(), record.listed_before);
            }
            if let Some(evidence) = &record.evidence {
                report.evidence = (**evidence).clone();
            }
        }
        report
    }

    fn record(&mut self, now: Instant, who: &Who, rate: u32) -> &mut Record {
        if self.records.len() >= MAX_RECORDS && !self.records.contains_key(who) {
            self.make_room();
        }
        let state = match self.distrust {
            Some(until) if now < until && matches!(who, Who::Pair(..)) => State::Suspicious(until),
            _ => State::Standard,
        };
        self.records.entry(who.clone()).or_insert_with(|| Record::new(now, rate, state))
    }

    fn make_room(&mut self) {
        let mut order: Vec<((u8, Instant), Who)> = self
            .records
            .iter()
            .map(|(who, record)| {
                let rank = match record.state {
                    State::Standard => (0, record.seen),
                    State::Suspicious(until) => (1, until),
                    State::Listed(until) => (2, until),
                };
                (rank, who.clone())
            })
            .collect();
        order.sort_by_key(|(rank, _)| *rank);
        for (_, who) in order.into_iter().take(MAKE_ROOM) {
            if let Some(record) = self.records.remove(&who) {
                self.users -= record.users.len();
            }
        }
    }
}
