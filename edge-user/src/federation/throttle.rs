//! How much a discovered partner may send, and who is watched: by the domain it proved and the
//! prefix it sends from, never by its certificate, so that a new one washes nothing away.
//!
//! Each message counts three times: for the pair, for the domain over all its prefixes, for the
//! prefix over all its domains (the last two with four times the room). A partner whose messages
//! fail too often is suspicious and slowed down; one that writes to too many users of ours, or is
//! suspicious a third time, is listed and refused for a while, longer each time. No clock, no
//! socket; kept in memory only.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use super::UserName;
use crate::{config::ThrottleSettings, domain::Domain};

/// What is remembered of so many; room is made from those that did nothing wrong, oldest first.
const MAX_RECORDS: usize = 4096;
/// How many go at one time when there is no room.
const MAKE_ROOM: usize = 256;
/// Users of ours remembered in all. Who wants more is suspicious.
const MAX_USERS: usize = 512 * 1024;
/// Responses are judged over this time.
const WINDOW: Duration = Duration::from_secs(60);
/// How much longer each block is than the one before.
const LONGER: u32 = 6;
/// A block is a repetition within this time.
const REPETITION: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often suspicious until it is listed.
const SUSPICIOUS_TIMES: u8 = 3;
/// Room of a domain over all prefixes, and of a prefix over all domains.
const WIDER: u32 = 4;

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

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Pair(Domain, IpAddr),
    Domain(Domain),
    Source(IpAddr),
}

impl Who {
    fn all(domain: &Domain, source: IpAddr) -> [(Who, u32); 3] {
        let source = prefix(source);
        [
            (Who::Pair(domain.clone(), source), 1),
            (Who::Domain(domain.clone()), WIDER),
            (Who::Source(source), WIDER),
        ]
    }
}

/// An IPv6 address stands for its /64.
fn prefix(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Standard,
    /// Until a report period passes without fault.
    Suspicious(Instant),
    Listed(Instant),
}

#[derive(Debug)]
struct Record {
    state: State,
    seen: Instant,
    /// Thousandths of messages that may come now.
    room: u64,
    window: Instant,
    finals: u32,
    failed: u32,
    period: Instant,
    users: Vec<u64>,
    times_suspicious: u8,
    listed_before: u32,
    listed_at: Option<Instant>,
}

impl Record {
    fn new(now: Instant, rate: u32) -> Self {
        Self {
            state: State::Standard,
            seen: now,
            room: u64::from(rate) * 1000,
            window: now,
            finals: 0,
            failed: 0,
            period: now,
            users: Vec::new(),
            times_suspicious: 0,
            listed_before: 0,
            listed_at: None,
        }
    }

    /// What has ended by now ends.
    fn settle(&mut self, now: Instant, settings: &ThrottleSettings) {
        match self.state {
            State::Listed(until) if until <= now => {
                self.state = State::Suspicious(now + settings.report_period);
            }
            State::Suspicious(until) if until <= now => self.state = State::Standard,
            _ => {}
        }
    }

    /// Whether a message more fits into a second.
    fn fits(&mut self, now: Instant, rate: u32) -> bool {
        let full = u64::from(rate) * 1000;
        let passed = now.saturating_duration_since(self.seen).as_millis();
        let gained = u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(u64::from(rate));
        self.room = self.room.saturating_add(gained).min(full);
        self.seen = now;
        self.room >= 1000
    }

    fn suspect(&mut self, now: Instant, settings: &ThrottleSettings) -> Option<Change> {
        let fresh = self.state == State::Standard;
        if matches!(self.state, State::Listed(_)) {
            return None;
        }
        self.state = State::Suspicious(now + settings.report_period);
        if !fresh {
            return None;
        }
        self.times_suspicious += 1;
        if self.times_suspicious >= SUSPICIOUS_TIMES {
            return Some(self.list(now, settings));
        }
        Some(Change::Suspicious)
    }

    fn list(&mut self, now: Instant, settings: &ThrottleSettings) -> Change {
        if self.listed_at.is_some_and(|at| now.saturating_duration_since(at) > REPETITION) {
            self.listed_before = 0;
        }
        let factor = LONGER.saturating_pow(self.listed_before);
        let time = settings.block_first.saturating_mul(factor).min(settings.block_most);
        self.listed_before = self.listed_before.saturating_add(1);
        self.listed_at = Some(now);
        self.times_suspicious = 0;
        self.state = State::Listed(now + time);
        Change::Listed(time)
    }
}

/// What is remembered of discovered partners.
#[derive(Debug, Default)]
pub struct Throttle {
    records: HashMap<Who, Record>,
    hasher: RandomState,
    users: usize,
}

impl Throttle {
    /// A message to a user of ours.
    pub fn request(
        &mut self,
        now: Instant,
        settings: &ThrottleSettings,
        domain: &Domain,
        source: IpAddr,
        user: &UserName<'_>,
    ) -> (Ruling, Option<Change>) {
        let all = Who::all(domain, source);
        for (who, wider) in &all {
            let rate = settings.messages_per_second * wider;
            let record = self.record(now, who, rate);
            record.settle(now, settings);
            if let State::Listed(_) = record.state {
                return (Ruling::Listed, None);
            }
            let rate = match record.state {
                State::Suspicious(_) => settings.suspicious_per_second * wider,
                _ => rate,
            };
            if !record.fits(now, rate) {
                return (Ruling::Slow, None);
            }
        }
        let hash = self.hasher.hash_one(user);
        let mut change = None;
        for (who, wider) in &all {
            let most = settings.distinct_users as usize * *wider as usize;
            let full = self.users >= MAX_USERS;
            let Some(record) = self.records.get_mut(who) else { continue };
            record.room = record.room.saturating_sub(1000);
            if now.saturating_duration_since(record.period) >= settings.report_period {
                record.period = now;
                self.users -= record.users.len();
                record.users = Vec::new();
            }
            let Err(place) = record.users.binary_search(&hash) else { continue };
            if full {
                change = change.or(record.suspect(now, settings));
                continue;
            }
            record.users.insert(place, hash);
            self.users += 1;
            if record.users.len() > most {
                self.users -= record.users.len();
                record.users = Vec::new();
                record.period = now;
                change = Some(record.list(now, settings));
            }
        }
        match change {
            Some(Change::Listed(_)) => (Ruling::Listed, change),
            _ => (Ruling::Pass, change),
        }
    }

    /// The final response to one of its messages.
    pub fn outcome(
        &mut self,
        now: Instant,
        settings: &ThrottleSettings,
        domain: &Domain,
        source: IpAddr,
        status: u16,
    ) -> Option<Change> {
        // What we slowed down ourselves says nothing about it.
        if status == 503 {
            return None;
        }
        let failed = matches!(status, 403 | 404 | 410 | 480 | 484 | 604);
        let mut change = None;
        for (who, _) in Who::all(domain, source) {
            let Some(record) = self.records.get_mut(&who) else { continue };
            record.settle(now, settings);
            if now.saturating_duration_since(record.window) >= WINDOW {
                (record.window, record.finals, record.failed) = (now, 0, 0);
            }
            record.finals += 1;
            record.failed += u32::from(failed);
            let share = u64::from(record.failed) * 100
                >= u64::from(settings.suspicious_share) * u64::from(record.finals);
            if failed && share && record.finals >= settings.suspicious_after {
                let found = record.suspect(now, settings);
                change = found.or(change);
            }
        }
        change
    }

    fn record(&mut self, now: Instant, who: &Who, rate: u32) -> &mut Record {
        if self.records.len() >= MAX_RECORDS && !self.records.contains_key(who) {
            self.make_room();
        }
        self.records.entry(who.clone()).or_insert_with(|| Record::new(now, rate))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        text.parse().unwrap()
    }

    struct World {
        throttle: Throttle,
        settings: ThrottleSettings,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let (throttle, settings) = (Throttle::default(), ThrottleSettings::default());
            Self { throttle, settings, now: Instant::now() }
        }

        fn pass(&mut self, milliseconds: u64) {
            self.now += Duration::from_millis(milliseconds);
        }

        fn say(&mut self, from: &str, source: &str, to: &str) -> Ruling {
            let (ours, source) = (domain("contoso.example"), source.parse().unwrap());
            let user = UserName::new(Some(to), &ours);
            self.throttle.request(self.now, &self.settings, &domain(from), source, &user).0
        }

        fn answer(&mut self, from: &str, source: &str, status: u16) -> Option<Change> {
            let source = source.parse().unwrap();
            self.throttle.outcome(self.now, &self.settings, &domain(from), source, status)
        }
    }

    #[test]
    fn twenty_in_a_second_pass_from_ipv4_and_from_ipv6() {
        for source in ["192.0.2.1", "2001:db8::1"] {
            let mut world = World::new();
            for second in 0..3 {
                let passed = (0..100)
                    .filter(|_| world.say("p.example", source, "ann") == Ruling::Pass)
                    .count();
                assert_eq!(passed, 20, "{source} in second {second}");
                world.pass(1000);
            }
            // Nothing is saved up beyond a second.
            world.pass(60_000);
            let all: Vec<_> = (0..30).map(|_| world.say("p.example", source, "ann")).collect();
            assert_eq!(all.iter().filter(|ruling| **ruling == Ruling::Pass).count(), 20);
            assert_eq!(all.last(), Some(&Ruling::Slow));
            world.pass(50);
            assert_eq!(world.say("p.example", source, "ann"), Ruling::Pass);
            assert_eq!(world.say("p.example", source, "ann"), Ruling::Slow);
        }
    }

    #[test]
    fn more_prefixes_or_more_domains_give_four_times_the_room_and_no_more() {
        let mut world = World::new();
        let sources = (0..50).filter(|n| {
            (0..20).all(|_| world.say("p.example", &format!("192.0.2.{n}"), "ann") == Ruling::Pass)
        });
        assert_eq!(sources.count(), 4);
        let mut world = World::new();
        let domains = (0..50).filter(|n| {
            (0..20).all(|_| world.say(&format!("d{n}.example"), "192.0.2.1", "ann") == Ruling::Pass)
        });
        assert_eq!(domains.count(), 4);
        // Addresses of one /64 are one source.
        let mut world = World::new();
        let passed = (0..100)
            .filter(|n| world.say("p.example", &format!("2001:db8::{n:x}"), "ann") == Ruling::Pass)
            .count();
        assert_eq!(passed, 20);
    }

    #[test]
    fn who_fails_too_often_is_slowed_and_a_clean_period_later_is_not() {
        let mut world = World::new();
        for _ in 0..10 {
            world.say("p.example", "192.0.2.1", "ann");
            assert_eq!(world.answer("p.example", "192.0.2.1", 200), None);
        }
        for number in 0..10 {
            world.say("p.example", "192.0.2.1", "x");
            let change = world.answer("p.example", "192.0.2.1", 404);
            assert_eq!(change.is_some(), number == 9, "{number}");
        }
        world.pass(1000);
        assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Pass);
        assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Slow);
        world.pass(3_600_000);
        let passed =
            (0..100).filter(|_| world.say("p.example", "192.0.2.1", "ann") == Ruling::Pass).count();
        assert_eq!(passed, 20);
    }

    #[test]
    fn too_many_users_of_ours_and_it_is_listed_longer_each_time() {
        let mut world = World::new();
        let enumerate = |world: &mut World| {
            for number in 0..=1000 {
                let ruling = world.say("p.example", "192.0.2.1", &format!("u{number}"));
                let expected = if number < 1000 { Ruling::Pass } else { Ruling::Listed };
                assert_eq!(ruling, expected, "{number}");
                // The same one again is no other user.
                world.pass(1000);
                if number < 1000 {
                    let again = world.say("p.example", "192.0.2.1", &format!("U{number}"));
                    assert_eq!(again, Ruling::Pass);
                }
                world.pass(1000);
            }
        };
        for minutes in [10, 60, 360, 1440, 1440] {
            enumerate(&mut world);
            world.pass(minutes * 60_000 - 3000);
            assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Listed, "{minutes}");
            // Others are not.
            assert_eq!(world.say("q.example", "192.0.2.9", "ann"), Ruling::Pass);
            world.pass(3000);
            assert_eq!(world.say("p.example", "192.0.2.1", "ann"), Ruling::Pass, "{minutes}");
            world.pass(3_600_000);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_who_is_listed_stays() {
        let mut world = World::new();
        world.settings.distinct_users = 1;
        world.say("bad.example", "192.0.2.1", "a");
        assert_eq!(world.say("bad.example", "192.0.2.1", "b"), Ruling::Listed);
        for number in 0..20_000u32 {
            world.pass(1);
            let source =
                IpAddr::from((0x2001_0db8_0000_0000u128 + u128::from(number)).to_be_bytes());
            world.say(&format!("d{number}.example"), &source.to_string(), "ann");
        }
        assert!(world.throttle.records.len() <= MAX_RECORDS + 3);
        let kept: usize = world.throttle.records.values().map(|record| record.users.len()).sum();
        assert_eq!(world.throttle.users, kept);
        assert_eq!(world.say("bad.example", "192.0.2.1", "a"), Ruling::Listed);
    }
}
