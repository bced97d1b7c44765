//! Targets that failed, and when they are tried again: partners' edges and our own next hops.
//!
//! Pure, in virtual time. Only what failed is kept, so that in good times nothing is; bounded,
//! since partners name their own targets. A dead target is tried last, never left out: when all
//! are dead, all are tried (RFC 3263 section 4.3).

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{config::Transport, domain::Domain, proxy::Target};

/// Failed targets that are kept; beyond, the one that would be tried again first is forgotten.
pub const MAX_FAILED: usize = 4096;
/// How long a target is tried last after its first failure; twice as long after each further one.
pub const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// At most so long, also when the target itself asks for more (Retry-After).
pub const MAX_PAUSE: Duration = Duration::from_secs(600);
/// A dead target that nobody wanted for so long is not asked any more, and forgotten.
const UNWANTED: Duration = Duration::from_secs(600);

/// Where a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetKey {
    /// Its address.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub transport: Transport,
}

impl From<&Target> for TargetKey {
    fn from(target: &Target) -> Self {
        Self { address: target.address, transport: target.transport }
    }
}

/// Why a target counts as dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No connection.
    Connect,
    /// No TLS session.
    Tls,
    /// Its certificate does not prove what it must.
    Identity,
    /// The connection was lost with a request on it.
    Lost,
    /// It did not answer.
    Silent,
    /// It answered 503.
    Unavailable,
}

impl Cause {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Connect => "no-connection",
            Cause::Tls => "tls-failed",
            Cause::Identity => "identity-not-proved",
            Cause::Lost => "connection-lost",
            Cause::Silent => "silent",
            Cause::Unavailable => "answered-503",
        }
    }
}

/// What is known of a dead target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why, the last time.
    pub cause: Cause,
    /// Failures in a row.
    pub count: u32,
    /// When it failed first.
    pub since: Instant,
    /// Until when it is tried last.
    pub until: Instant,
}

#[derive(Debug)]
struct Entry {
    failure: Failure,
    /// It named the time itself, longer than ours: an answer before that does not make it alive.
    told: bool,
    /// It is asked now.
    probed: bool,
    target: Target,
    /// The partner it must prove; `None`: a server inside.
    owner: Option<Domain>,
    wanted: Instant,
    /// When it is looked at again: its place in the order of what is due.
    again: Instant,
}

/// The targets that failed.
#[derive(Debug, Default)]
pub struct Targets {
    all: HashMap<TargetKey, Entry>,
    due: BTreeSet<(Instant, TargetKey)>,
    random: RandomState,
}

impl Targets {
    /// How many failed targets are kept.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// None failed.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether it is to be tried last.
    pub fn is_dead(&self, now: Instant, key: TargetKey) -> bool {
        self.failure(now, key).is_some()
    }

    /// What is known of it, if it is dead.
    pub fn failure(&self, now: Instant, key: TargetKey) -> Option<Failure> {
        let entry = self.all.get(&key)?;
        (now < entry.failure.until || entry.probed).then_some(entry.failure)
    }

    /// Puts dead ones last; the order is the same otherwise. They are wanted.
    pub fn order(&mut self, now: Instant, targets: &mut [Target]) {
        if self.all.is_empty() {
            return;
        }
        for target in targets.iter() {
            if let Some(entry) = self.all.get_mut(&TargetKey::from(target)) {
                entry.wanted = now;
            }
        }
        targets.sort_by_key(|target| self.failure(now, target.into()).map(|failure| failure.until));
    }

    /// It failed. `retry_after`: what it asked for, which lengthens the pause only. True when it was alive before.
    pub fn failed(
        &mut self,
        now: Instant,
        target: &Target,
        owner: Option<&Domain>,
        cause: Cause,
        retry_after: Option<Duration>,
    ) -> bool {
        let key = TargetKey::from(target);
        // What it asks for may only lengthen the pause: one that asks for none would be asked
        // without end.
        let asked = |pause| {
            let asked = retry_after.map(|time| now + time.min(MAX_PAUSE));
            asked.filter(|asked| *asked > now + pause)
        };
        let Some(entry) = self.all.get(&key) else {
            self.make_room();
            let pause = self.pause(key, 1);
            let asked = asked(pause);
            let until = asked.unwrap_or(now + pause);
            let failure = Failure { cause, count: 1, since: now, until };
            let entry = Entry {
                failure,
                told: asked.is_some(),
                probed: false,
                target: target.clone(),
                owner: owner.cloned(),
                wanted: now,
                again: until,
            };
            self.all.insert(key, entry);
            self.due.insert((until, key));
            return true;
        };
        let dead = now < entry.failure.until;
        let alive_before = !dead && !entry.probed;
        // Many transactions may see one and the same outage: it counts once.
        let count = if dead { entry.failure.count } else { entry.failure.count.saturating_add(1) };
        let pause = self.pause(key, count);
        let asked = asked(pause);
        let Some(entry) = self.all.get_mut(&key) else { return false };
        let (before, place) = (entry.failure.until, entry.again);
        let until = match (asked, dead) {
            (Some(asked), true) => asked.max(before),
            (Some(asked), false) => asked,
            (None, true) => before,
            (None, false) => now + pause,
        };
        entry.told = asked.is_some() || (dead && entry.told);
        entry.probed = false;
        entry.failure = Failure { cause, count, until, ..entry.failure };
        entry.again = until;
        self.due.remove(&(place, key));
        self.due.insert((until, key));
        alive_before
    }

    /// It answered. True when it was dead before.
    pub fn alive(&mut self, now: Instant, key: TargetKey) -> bool {
        let Some(entry) = self.all.get(&key) else { return false };
        if entry.told && now < entry.failure.until {
            return false;
        }
        self.forget(key);
        true
    }

    /// Nothing is known of it any more.
    pub fn forget(&mut self, key: TargetKey) {
        if let Some(entry) = self.all.remove(&key) {
            self.due.remove(&(entry.again, key));
        }
    }

    /// When something is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Those whose time is up, to be asked whether they live: dead until [`Targets::alive`] or
    /// [`Targets::failed`] says what came of it. `room`: so many may be asked now; `None`: none is
    /// ever asked. Those that nobody wants are forgotten.
    pub fn due(&mut self, now: Instant, room: Option<usize>) -> Vec<(Target, Option<Domain>)> {
        let mut probe = Vec::new();
        while let Some((at, key)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, key));
            let Some(entry) = self.all.get_mut(&key) else { continue };
            if entry.wanted + UNWANTED <= now {
                self.all.remove(&key);
            } else if room.is_some_and(|room| probe.len() < room) {
                entry.probed = true;
                probe.push((entry.target.clone(), entry.owner.clone()));
            } else {
                // Tried again by whoever wants it; how often it failed is remembered for a while.
                let pause = if room.is_some() { FIRST_PAUSE } else { UNWANTED };
                entry.again = now + pause;
                self.due.insert((entry.again, key));
            }
        }
        probe
    }

    /// The pause after so many failures: doubled each time, and spread by a fifth to either side
    /// so that what failed together does not come back together.
    fn pause(&self, key: TargetKey, count: u32) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << count.saturating_sub(1).min(10));
        let share = self.random.hash_one((key, count)) % 401;
        // 800 to 1200 thousandths.
        let spread = doubled * (800 + u32::try_from(share).unwrap_or(0)) / 1000;
        spread.min(MAX_PAUSE)
    }

    fn make_room(&mut self) {
        if self.all.len() < MAX_FAILED {
            return;
        }
        if let Some((_, key)) = self.due.first().copied() {
            self.forget(key);
        } else if let Some(key) = self.all.keys().next().copied() {
            // All are being asked.
            self.forget(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Side;

    fn target(number: u32) -> Target {
        Target {
            side: Side::Partner,
            transport: Transport::Tls,
            address: SocketAddr::new(std::net::IpAddr::V4(number.into()), 5061),
            server_name: None,
            own: 0,
        }
    }

    fn key(number: u32) -> TargetKey {
        TargetKey::from(&target(number))
    }

    const ROOM: Option<usize> = Some(8);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_ten_minutes_and_are_spread() {
        let mut targets = Targets::default();
        let mut now = Instant::now();
        for (row, least) in [4, 8, 16, 32, 64, 128, 256, 512, 600, 600].into_iter().enumerate() {
            targets.failed(now, &target(1), None, Cause::Connect, None);
            let failure = targets.failure(now, key(1)).unwrap();
            let pause = failure.until - now;
            assert_eq!(failure.count as usize, row + 1);
            let most = (least * 3 / 2).min(600);
            assert!((least..=most).contains(&pause.as_secs()), "{row}: {pause:?}");
            // Another transaction fails on it meanwhile: the same outage.
            targets.failed(now + SECOND, &target(1), None, Cause::Lost, None);
            assert_eq!(targets.failure(now, key(1)).unwrap().until, failure.until);
            now = failure.until;
            assert!(!targets.is_dead(now, key(1)));
        }
        let first = |number| {
            let mut targets = Targets::default();
            targets.failed(now, &target(number), None, Cause::Connect, None);
            targets.failure(now, key(number)).unwrap().until
        };
        assert!((1..20).any(|number| first(number) != first(number + 20)), "spread");
    }

    #[test]
    fn dead_ones_come_last_and_none_is_dropped() {
        let mut targets = Targets::default();
        let now = Instant::now();
        let all = || (1..=4).map(target).collect::<Vec<_>>();
        for number in [1, 3] {
            assert!(targets.failed(now, &target(number), None, Cause::Tls, None));
        }
        let mut list = all();
        targets.order(now, &mut list);
        assert_eq!(list[..2], [target(2), target(4)]);
        assert_eq!(list.len(), 4);
        for number in 1..=4 {
            targets.failed(now, &target(number), None, Cause::Tls, None);
        }
        let mut list = all();
        targets.order(now, &mut list);
        assert_eq!(list.len(), 4, "when all are dead, all are tried");
        assert!(targets.alive(now, key(3)));
        assert!(!targets.alive(now, key(3)));
        let mut list = all();
        targets.order(now, &mut list);
        assert_eq!(list[0], target(3));
    }

    #[test]
    fn what_a_target_asks_for_is_kept_and_cut() {
        let now = Instant::now();
        for (asked, kept) in [(30, 30), (120, 120), (600, 600), (86_400, 600)] {
            let mut targets = Targets::default();
            let asked = Some(Duration::from_secs(asked));
            targets.failed(now, &target(1), None, Cause::Unavailable, asked);
            let end = now + Duration::from_secs(kept);
            assert!(!targets.is_dead(end, key(1)));
            assert!(targets.is_dead(end - Duration::from_millis(1), key(1)), "{kept}");
            // What it answers in old transactions changes nothing; a failure shortens nothing.
            assert!(!targets.alive(end - Duration::from_millis(1), key(1)));
            targets.failed(now, &target(1), None, Cause::Lost, None);
            assert!(targets.is_dead(end - Duration::from_millis(1), key(1)), "{kept}");
            assert!(targets.alive(end, key(1)));
        }
    }

    #[test]
    fn a_target_that_asks_for_no_pause_is_asked_no_sooner_than_any_other() {
        for asked in [0, 1] {
            let mut targets = Targets::default();
            let mut now = Instant::now();
            let asked = Some(Duration::from_secs(asked));
            targets.failed(now, &target(1), None, Cause::Unavailable, asked);
            for least in [4, 8, 16, 32, 64] {
                let at = targets.next_timeout().unwrap();
                assert!(at >= now + Duration::from_secs(least), "{least}: {:?}", at - now);
                now = at;
                assert_eq!(targets.due(now, ROOM).len(), 1);
                targets.failed(now, &target(1), None, Cause::Unavailable, asked);
            }
            assert!(targets.alive(now, key(1)), "it answers before our time is up");
        }
    }

    #[test]
    fn a_target_is_asked_when_its_pause_is_over_and_dead_until_it_answers() {
        let mut targets = Targets::default();
        let now = Instant::now();
        let owner: Domain = "fabrikam.example".parse().unwrap();
        targets.failed(now, &target(1), Some(&owner), Cause::Connect, None);
        assert_eq!(targets.due(now, ROOM), []);
        let at = targets.next_timeout().unwrap();
        assert_eq!(targets.due(at, ROOM), [(target(1), Some(owner.clone()))]);
        assert!(targets.is_dead(at + SECOND, key(1)));
        assert_eq!(targets.next_timeout(), None, "asked once");
        // It failed again: longer now.
        targets.failed(at + SECOND, &target(1), Some(&owner), Cause::Silent, None);
        let next = targets.next_timeout().unwrap();
        assert!(next >= at + Duration::from_secs(9), "{:?}", next - at);
        assert_eq!(targets.due(next, ROOM).len(), 1);
        assert!(targets.alive(next, key(1)));
        assert!(targets.is_empty() && targets.next_timeout().is_none());
    }

    #[test]
    fn what_nobody_wants_is_asked_no_more_and_forgotten() {
        for room in [None, ROOM, Some(0)] {
            let mut targets = Targets::default();
            let mut now = Instant::now();
            let start = now;
            targets.failed(now, &target(1), None, Cause::Connect, None);
            while let Some(at) = targets.next_timeout() {
                now = at;
                for (target, _) in targets.due(now, room) {
                    targets.failed(now, &target, None, Cause::Connect, None);
                }
                assert!(now < start + Duration::from_secs(3000));
            }
            assert!(targets.is_empty());
        }
    }

    #[test]
    fn failed_targets_are_bounded() {
        let mut targets = Targets::default();
        let now = Instant::now();
        for number in 0..10_000 {
            targets.failed(now, &target(number), None, Cause::Connect, None);
        }
        assert_eq!((targets.len(), targets.due.len()), (MAX_FAILED, MAX_FAILED));
        assert!(targets.is_dead(now, key(9_999)));
    }
}
