//! Who guesses passwords of remote users: counted by where it comes from and by whom it is about.
//!
//! A failure is 401, 407 or 403 to a registration that carried credentials; to another request, whose
//! answer may be anybody's, 401 or 407 where the user has not been let in yet. Too many of them from one
//! source (an address; of IPv6 the /64) within a while are a ban of that source, six times longer
//! each time. Too many about one user, from anywhere, slow that user down: it is never shut out
//! everywhere, since anybody could do that to it, and who got in before goes on as ever. Requests
//! come over TCP, so no source is spoofed. Bans outlive a restart. No clock, no socket, no password.

mod saved;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

pub use self::saved::{SavedBan, SavedBans};
use super::{UserName, source::first_of_source};
use crate::config::GuardSettings;

/// Sources, and users, that are remembered.
const MAX_RECORDS: usize = 16_384;
/// Failures of one record; `ban_after` is not more.
const MAX_FAILURES: usize = 1000;
/// How much longer each ban is than the one before.
const LONGER: u32 = 6;
/// A ban is a repetition within this time of the end of the one before.
const REPETITION: Duration = Duration::from_secs(24 * 3600);
/// A slowed user gets this much between two tries of one source.
const PACE: Duration = Duration::from_secs(10);
/// Sources with a pace of their own about a slowed user; all others share one. Nobody takes the turn of
/// another so, and many sources guess little more than one.
const PACED: usize = 8;
/// Sources from which a user got in, that are remembered: the latest.
const GOOD_SOURCES: usize = 8;
/// For how long, after the last time.
const GOOD_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often what is over is swept out.
const SWEEP: Duration = Duration::from_secs(1);

/// What becomes of a request with credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It goes on.
    Pass,
    /// Too many wrong passwords came for this user.
    Slow,
    /// Its source is banned.
    Banned,
}

/// What a request with credentials came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// The password was wrong, or what it asked for forbidden.
    Failed,
    /// It was right.
    Good,
}

/// A ban in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// The address; of IPv6 the /64.
    pub source: IpAddr,
    /// How much longer.
    pub left: Duration,
    /// How many there have been.
    pub times: u32,
    /// Failures that led to it and since.
    pub failures: u64,
}

#[derive(Debug, Default)]
struct Source {
    /// When, and about whom.
    failures: VecDeque<(Instant, u64)>,
    total: u64,
    banned_until: Option<Instant>,
    times: u32,
}

impl Source {
    fn is_banned(&self, now: Instant) -> bool {
        self.banned_until.is_some_and(|until| now < until)
    }

    /// Whether nothing of it matters any more.
    fn is_over(&self, now: Instant, period: Duration) -> bool {
        let quiet = self.failures.back().is_none_or(|(at, _)| now >= *at + period);
        quiet && self.banned_until.is_none_or(|until| now >= until + REPETITION)
    }
}

#[derive(Debug, Default)]
struct User {
    failures: VecDeque<Instant>,
    /// When the next try of a source passes, while it is slowed.
    paced: Vec<(IpAddr, Instant)>,
    /// When the next try of all other sources does.
    next: Option<Instant>,
    /// From where it got in, and when last.
    good: VecDeque<(IpAddr, Instant)>,
}

impl User {
    fn is_slowed(&self, now: Instant, settings: &GuardSettings) -> bool {
        let recent = |at: &&Instant| now < **at + settings.period;
        self.failures.iter().filter(recent).count() >= settings.failures as usize
    }

    fn is_over(&self, now: Instant, period: Duration) -> bool {
        self.is_nobody(now) && self.failures.back().is_none_or(|at| now >= *at + period)
    }

    /// Whether it got in from nowhere, as far as is known.
    fn is_nobody(&self, now: Instant) -> bool {
        self.good.iter().all(|(_, at)| now >= *at + GOOD_FOR)
    }

    fn got_in_from(&self, now: Instant, source: IpAddr) -> bool {
        self.good.iter().any(|(known, at)| *known == source && now < *at + GOOD_FOR)
    }

    /// A try while it is slowed: whether it is that source's turn.
    fn may_try(&mut self, now: Instant, source: IpAddr) -> bool {
        self.paced.retain(|(_, next)| now < *next);
        if self.paced.iter().any(|(paced, _)| *paced == source) {
            return false;
        }
        if self.paced.len() < PACED {
            self.paced.push((source, now + PACE));
            return true;
        }
        let turn = self.next.is_none_or(|next| now >= next);
        if turn {
            self.next = Some(now + PACE);
        }
        turn
    }
}

/// What is remembered.
#[derive(Debug, Default)]
pub struct Guard {
    sources: HashMap<IpAddr, Source>,
    users: HashMap<u64, User>,
    hasher: RandomState,
    swept: Option<Instant>,
    /// A ban of who would not wait, that nobody was told of yet.
    pressed: Option<Ban>,
}

impl Guard {
    /// A request with credentials of this user came: whether it goes on.
    pub fn request(
        &mut self,
        now: Instant,
        settings: &GuardSettings,
        from: IpAddr,
        user: &UserName<'_>,
    ) -> Entry {
        let source = first_of_source(from);
        if self.is_banned(now, from) {
            return Entry::Banned;
        }
        let who = self.hasher.hash_one(user);
        let Some(user) = self.users.get_mut(&who) else { return Entry::Pass };
        let free = user.got_in_from(now, source) || !user.is_slowed(now, settings);
        if free || user.may_try(now, source) {
            return Entry::Pass;
        }
        // Who does not wait is held to have guessed.
        if !is_spared(settings, from) {
            let ban = self.failed_source(now, settings, source, who);
            self.pressed = ban.or(self.pressed.take());
        }
        Entry::Slow
    }

    /// The ban that [`Self::request`] led to, once.
    pub fn take_ban(&mut self) -> Option<Ban> {
        self.pressed.take()
    }

    /// Whether this user got in from there before.
    pub fn knows(&self, now: Instant, from: IpAddr, user: &UserName<'_>) -> bool {
        let user = self.users.get(&self.hasher.hash_one(user));
        user.is_some_and(|user| user.got_in_from(now, first_of_source(from)))
    }

    /// What it came to; a ban, if this is one.
    pub fn outcome(
        &mut self,
        now: Instant,
        settings: &GuardSettings,
        from: IpAddr,
        user: &UserName<'_>,
        login: Login,
    ) -> Option<Ban> {
        let (source, who) = (first_of_source(from), self.hasher.hash_one(user));
        match login {
            Login::Good => {
                self.good(now, settings, source, who);
                None
            }
            Login::Failed => {
                self.failed_user(now, settings, who);
                if is_spared(settings, from) {
                    return None;
                }
                self.failed_source(now, settings, source, who)
            }
        }
    }

    /// Whoever mistyped and then knew the password has guessed nothing; but knowing one password
    /// makes up for no guess at another's.
    fn good(&mut self, now: Instant, settings: &GuardSettings, source: IpAddr, who: u64) {
        if let Some(record) = self.sources.get_mut(&source) {
            record.failures.retain(|(_, about)| *about != who);
        }
        if !self.users.contains_key(&who) {
            self.make_room(now, settings);
        }
        let user = self.users.entry(who).or_default();
        user.good.retain(|(known, at)| *known != source && now < *at + GOOD_FOR);
        if user.good.len() >= GOOD_SOURCES {
            user.good.pop_front();
        }
        user.good.push_back((source, now));
    }

    fn failed_user(&mut self, now: Instant, settings: &GuardSettings, who: u64) {
        if !self.users.contains_key(&who) {
            self.make_room(now, settings);
        }
        let user = self.users.entry(who).or_default();
        user.failures.push_back(now);
        let most = (settings.failures as usize).min(MAX_FAILURES);
        while user.failures.len() > most {
            user.failures.pop_front();
        }
    }

    fn failed_source(
        &mut self,
        now: Instant,
        settings: &GuardSettings,
        source: IpAddr,
        who: u64,
    ) -> Option<Ban> {
        if !self.sources.contains_key(&source) {
            self.make_room(now, settings);
        }
        let record = self.sources.entry(source).or_default();
        record.total += 1;
        // What was under way when the ban came is no second one.
        if record.is_banned(now) {
            return None;
        }
        record.failures.push_back((now, who));
        while record.failures.front().is_some_and(|(at, _)| now >= *at + settings.period) {
            record.failures.pop_front();
        }
        if record.failures.len() < (settings.failures as usize).min(MAX_FAILURES) {
            return None;
        }
        record.failures.clear();
        let repeated = record.banned_until.is_some_and(|until| now < until + REPETITION);
        record.times = if repeated { record.times.saturating_add(1) } else { 1 };
        let longer = LONGER.saturating_pow(record.times - 1);
        let left = settings.ban_first.saturating_mul(longer).min(settings.ban_most);
        record.banned_until = now.checked_add(left);
        Some(Ban { source, left, times: record.times, failures: record.total })
    }

    /// Whether an address is shut out.
    pub fn is_banned(&self, now: Instant, address: IpAddr) -> bool {
        self.sources.get(&first_of_source(address)).is_some_and(|record| record.is_banned(now))
    }

    /// The bans in force, the longest first.
    pub fn bans(&self, now: Instant) -> Vec<Ban> {
        let ban = |(source, record): (&IpAddr, &Source)| {
            let until = record.banned_until.filter(|until| now < *until)?;
            let left = until.saturating_duration_since(now);
            Some(Ban { source: *source, left, times: record.times, failures: record.total })
        };
        let mut bans: Vec<Ban> = self.sources.iter().filter_map(ban).collect();
        bans.sort_by(|a, b| b.left.cmp(&a.left).then(a.source.cmp(&b.source)));
        bans
    }

    /// Users that are slowed down.
    pub fn slowed(&self, now: Instant, settings: &GuardSettings) -> usize {
        self.users.values().filter(|user| user.is_slowed(now, settings)).count()
    }

    /// Forgets what came from a prefix; tells how many bans that ends. A slowed user whose last
    /// failures it was stays slowed until they are over.
    pub fn forgive(&mut self, now: Instant, prefix: &IpNet) -> usize {
        let before = self.bans(now).len();
        self.sources.retain(|source, _| !covers(prefix, *source) && !within(prefix, *source));
        before - self.bans(now).len()
    }

    /// Forgets what came about a user.
    pub fn forgive_user(&mut self, user: &UserName<'_>) -> bool {
        let who = self.hasher.hash_one(user);
        self.users.get_mut(&who).is_some_and(|user| {
            user.next = None;
            user.paced.clear();
            let failed = !user.failures.is_empty();
            user.failures.clear();
            failed
        })
    }

    /// Sweeps out what is over; when that is not enough, others go, but no ban in force.
    fn make_room(&mut self, now: Instant, settings: &GuardSettings) {
        let full = |length: usize| length >= MAX_RECORDS;
        if !full(self.sources.len()) && !full(self.users.len()) {
            return;
        }
        if self.swept.is_none_or(|at| now >= at + SWEEP) {
            self.swept = Some(now);
            self.sources.retain(|_, source| !source.is_over(now, settings.period));
            self.users.retain(|_, user| !user.is_over(now, settings.period));
        }
        if full(self.sources.len()) {
            let found = self.sources.iter().find(|(_, source)| !source.is_banned(now));
            let gone = found.or_else(|| self.sources.iter().next()).map(|(source, _)| *source);
            gone.map(|source| self.sources.remove(&source));
        }
        if full(self.users.len()) {
            // Who never got in may be a name that somebody thought up.
            let nobody = |user: &User| user.is_nobody(now) && !user.is_slowed(now, settings);
            let found = self.users.iter().find(|(_, user)| nobody(user));
            let gone = found.or_else(|| self.users.iter().next()).map(|(user, _)| *user);
            gone.map(|user| self.users.remove(&user));
        }
    }
}

/// Whether it is never banned.
fn is_spared(settings: &GuardSettings, from: IpAddr) -> bool {
    settings.never.iter().any(|net| covers(net, from))
}

fn covers(net: &IpNet, address: IpAddr) -> bool {
    net.contains(&address.to_canonical())
}

/// Whether a prefix is part of the /64 that a source stands for.
fn within(net: &IpNet, source: IpAddr) -> bool {
    source.is_ipv6() && first_of_source(net.addr()) == source
}

#[cfg(test)]
mod tests;
