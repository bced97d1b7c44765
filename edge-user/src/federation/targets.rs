//! Targets that failed, and when they are tried again: partners' edges and our own next hops.
//!
//! Pure, in virtual time. Only what failed is kept, so that in good times nothing is; bounded,
//! since partners name their own targets. A dead target is tried last, never left out: when all
//! are dead, all are tried (RFC 3263 section 4.3).
//!
//! Each partner has its own, and our next hops have theirs: anybody's DNS may name anybody's edge.
//! What failed there under one name says nothing of another, not even a refused connection: whoever
//! has it refused chooses when it is tried. That each learns of a dead host by itself costs one
//! attempt. (All next hops are one: the administrator names them, and no one else.)

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{config::Transport, domain::Domain, proxy::Target};

/// Failed targets that are kept; beyond, the one that would be tried again first is forgotten.
pub const MAX_FAILED: usize = 4096;
/// The same, of one partner: more than a destination has.
pub const MAX_FAILED_OF_ONE: usize = 64;
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
    wanted: Instant,
    /// When it is looked at again: its place in the order of what is due.
    again: Instant,
}

/// Whose target it is: the partner that must be proved there; `None`: one of our next hops.
type Owner<'a> = Option<&'a Domain>;

/// The targets that failed.
#[derive(Debug, Default)]
pub struct Targets {
    inside: HashMap<TargetKey, Entry>,
    partners: HashMap<Domain, HashMap<TargetKey, Entry>>,
    kept: usize,
    due: BTreeSet<(Instant, Option<Domain>, TargetKey)>,
    random: RandomState,
}

impl Targets {
    /// How many failed targets are kept.
    pub fn len(&self) -> usize {
        self.kept
    }

    /// None failed.
    pub fn is_empty(&self) -> bool {
        self.kept == 0
    }

    fn get(&self, owner: Owner<'_>, key: TargetKey) -> Option<&Entry> {
        match owner {
            Some(partner) => self.partners.get(partner)?.get(&key),
            None => self.inside.get(&key),
        }
    }

    fn get_mut(&mut self, owner: Owner<'_>, key: TargetKey) -> Option<&mut Entry> {
        match owner {
            Some(partner) => self.partners.get_mut(partner)?.get_mut(&key),
            None => self.inside.get_mut(&key),
        }
    }

    /// Whether it is to be tried last.
    pub fn is_dead(&self, now: Instant, owner: Option<&Domain>, key: TargetKey) -> bool {
        self.failure(now, owner, key).is_some()
    }

    /// What is known of it, if it is dead.
    pub fn failure(&self, now: Instant, owner: Option<&Domain>, key: TargetKey) -> Option<Failure> {
        let entry = self.get(owner, key)?;
        (now < entry.failure.until || entry.probed).then_some(entry.failure)
    }

    /// Puts dead ones last; the order is the same otherwise. They are wanted.
    pub fn order(&mut self, now: Instant, owner: Option<&Domain>, targets: &mut [Target]) {
        if self.is_empty() {
            return;
        }
        for target in targets.iter() {
            if let Some(entry) = self.get_mut(owner, target.into()) {
                entry.wanted = now;
            }
        }
        let until = |target: &Target| Some(self.failure(now, owner, target.into())?.until);
        targets.sort_by_key(until);
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
        let Some(entry) = self.get(owner, key) else {
            self.make_room(owner);
            let pause = self.pause(owner, key, 1);
            let asked = asked(pause);
            let until = asked.unwrap_or(now + pause);
            let failure = Failure { cause, count: 1, since: now, until };
            let entry = Entry {
                failure,
                told: asked.is_some(),
                probed: false,
                target: target.clone(),
                wanted: now,
                again: until,
            };
            match owner {
                Some(partner) => {
                    self.partners.entry(partner.clone()).or_default().insert(key, entry)
                }
                None => self.inside.insert(key, entry),
            };
            self.kept += 1;
            self.due.insert((until, owner.cloned(), key));
            return true;
        };
        let dead = now < entry.failure.until;
        let alive_before = !dead && !entry.probed;
        // Many transactions may see one and the same outage: it counts once.
        let count = if dead { entry.failure.count } else { entry.failure.count.saturating_add(1) };
        let pause = self.pause(owner, key, count);
        let asked = asked(pause);
        let Some(entry) = self.get_mut(owner, key) else { return false };
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
        self.due.remove(&(place, owner.cloned(), key));
        self.due.insert((until, owner.cloned(), key));
        alive_before
    }

    /// It answered. True when it was dead before.
    pub fn alive(&mut self, now: Instant, owner: Option<&Domain>, key: TargetKey) -> bool {
        let Some(entry) = self.get(owner, key) else { return false };
        if entry.told && now < entry.failure.until {
            return false;
        }
        self.forget(owner, key);
        true
    }

    /// Nothing is known of it any more.
    pub fn forget(&mut self, owner: Option<&Domain>, key: TargetKey) {
        let entry = match owner {
            Some(partner) => {
                let Some(own) = self.partners.get_mut(partner) else { return };
                let entry = own.remove(&key);
                if own.is_empty() {
                    self.partners.remove(partner);
                }
                entry
            }
            None => self.inside.remove(&key),
        };
        if let Some(entry) = entry {
            self.kept -= 1;
            self.due.remove(&(entry.again, owner.cloned(), key));
        }
    }

    /// Nothing is known of a partner's targets any more. Says how many had failed.
    pub fn forget_all(&mut self, partner: &Domain) -> usize {
        let failed = self.partners.get(partner).map(|own| own.keys().copied().collect::<Vec<_>>());
        let failed = failed.unwrap_or_default();
        for key in &failed {
            self.forget(Some(partner), *key);
        }
        failed.len()
    }

    /// When something is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// Those whose time is up, to be asked whether they live: dead until [`Targets::alive`] or
    /// [`Targets::failed`] says what came of it. `room`: so many may be asked now; `None`: none is
    /// ever asked. Those that nobody wants are forgotten.
    pub fn due(&mut self, now: Instant, room: Option<usize>) -> Vec<(Target, Option<Domain>)> {
        let mut probe = Vec::new();
        while let Some((_, owner, key)) = self.due.first().filter(|(at, ..)| *at <= now).cloned() {
            self.due.pop_first();
            let Some(entry) = self.get_mut(owner.as_ref(), key) else { continue };
            if entry.wanted + UNWANTED <= now {
                self.forget(owner.as_ref(), key);
            } else if room.is_some_and(|room| probe.len() < room) {
                entry.probed = true;
                probe.push((entry.target.clone(), owner));
            } else {
                // Tried again by whoever wants it; how often it failed is remembered for a while.
                let again = now + if room.is_some() { FIRST_PAUSE } else { UNWANTED };
                entry.again = again;
                self.due.insert((again, owner, key));
            }
        }
        probe
    }

    /// The pause after so many failures: doubled each time, and spread by a fifth to either side
    /// so that what failed together does not come back together.
    fn pause(&self, owner: Owner<'_>, key: TargetKey, count: u32) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << count.saturating_sub(1).min(10));
        let share = self.random.hash_one((owner, key, count)) % 401;
        // 800 to 1200 thousandths.
        let spread = doubled * (800 + u32::try_from(share).unwrap_or(0)) / 1000;
        spread.min(MAX_PAUSE)
    }

    /// Makes room for one more of this owner's. A partner pushes out its own, and nobody pushes our
    /// next hops out while there is anything else.
    fn make_room(&mut self, owner: Owner<'_>) {
        let own = owner.and_then(|partner| self.partners.get(partner));
        if let (Some(own), Some(partner)) = (own, owner)
            && own.len() >= MAX_FAILED_OF_ONE
        {
            let soonest = own
                .iter()
                .min_by_key(|(_, entry)| (entry.probed, entry.again))
                .map(|(key, _)| *key);
            return soonest.into_iter().for_each(|key| self.forget(Some(partner), key));
        }
        if self.kept < MAX_FAILED {
            return;
        }
        let due = self.due.iter().find(|(_, owner, _)| owner.is_some());
        if let Some((_, owner, key)) = due.or(self.due.first()).cloned() {
            return self.forget(owner.as_ref(), key);
        }
        // All are being asked.
        let any = self.partners.iter().next().map(|(owner, own)| (Some(owner.clone()), own));
        let (owner, own) = any.unwrap_or((None, &self.inside));
        if let Some(key) = own.keys().next().copied() {
            self.forget(owner.as_ref(), key);
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
            let failure = targets.failure(now, None, key(1)).unwrap();
            let pause = failure.until - now;
            assert_eq!(failure.count as usize, row + 1);
            let most = (least * 3 / 2).min(600);
            assert!((least..=most).contains(&pause.as_secs()), "{row}: {pause:?}");
            // Another transaction fails on it meanwhile: the same outage.
            targets.failed(now + SECOND, &target(1), None, Cause::Lost, None);
            assert_eq!(targets.failure(now, None, key(1)).unwrap().until, failure.until);
            now = failure.until;
            assert!(!targets.is_dead(now, None, key(1)));
        }
        let first = |number| {
            let mut targets = Targets::default();
            targets.failed(now, &target(number), None, Cause::Connect, None);
            targets.failure(now, None, key(number)).unwrap().until
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
        targets.order(now, None, &mut list);
        assert_eq!(list[..2], [target(2), target(4)]);
        assert_eq!(list.len(), 4);
        for number in 1..=4 {
            targets.failed(now, &target(number), None, Cause::Tls, None);
        }
        let mut list = all();
        targets.order(now, None, &mut list);
        assert_eq!(list.len(), 4, "when all are dead, all are tried");
        assert!(targets.alive(now, None, key(3)));
        assert!(!targets.alive(now, None, key(3)));
        let mut list = all();
        targets.order(now, None, &mut list);
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
            assert!(!targets.is_dead(end, None, key(1)));
            assert!(targets.is_dead(end - Duration::from_millis(1), None, key(1)), "{kept}");
            // What it answers in old transactions changes nothing; a failure shortens nothing.
            assert!(!targets.alive(end - Duration::from_millis(1), None, key(1)));
            targets.failed(now, &target(1), None, Cause::Lost, None);
            assert!(targets.is_dead(end - Duration::from_millis(1), None, key(1)), "{kept}");
            assert!(targets.alive(end, None, key(1)));
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
            assert!(targets.alive(now, None, key(1)), "it answers before our time is up");
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
        assert!(targets.is_dead(at + SECOND, Some(&owner), key(1)));
        assert_eq!(targets.next_timeout(), None, "asked once");
        // It failed again: longer now.
        targets.failed(at + SECOND, &target(1), Some(&owner), Cause::Silent, None);
        let next = targets.next_timeout().unwrap();
        assert!(next >= at + Duration::from_secs(9), "{:?}", next - at);
        assert_eq!(targets.due(next, ROOM).len(), 1);
        assert!(targets.alive(next, Some(&owner), key(1)));
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
    fn a_partner_s_failures_are_forgotten_at_once_and_nobody_else_s() {
        let owner = |name: &str| name.parse::<Domain>().unwrap();
        let (fabrikam, other) = (owner("fabrikam.example"), owner("other.example"));
        let (mut targets, now) = (Targets::default(), Instant::now());
        for owner in [None, Some(&fabrikam), Some(&other)] {
            targets.failed(now, &target(1), owner, Cause::Connect, None);
            targets.failed(now, &target(2), owner, Cause::Tls, None);
        }
        assert_eq!(targets.forget_all(&fabrikam), 2);
        assert_eq!((targets.len(), targets.forget_all(&fabrikam)), (4, 0));
        assert!(!targets.is_dead(now, Some(&fabrikam), key(1)));
        assert!(targets.is_dead(now, Some(&other), key(1)) && targets.is_dead(now, None, key(2)));
    }

    #[test]
    fn what_failed_for_one_is_no_failure_of_another_at_the_same_address() {
        let owner = |name: &str| name.parse::<Domain>().unwrap();
        let (fabrikam, evil) = (owner("fabrikam.example"), owner("evil.example"));
        let owners = [None, Some(&fabrikam), Some(&evil)];
        let causes = [
            Cause::Connect,
            Cause::Tls,
            Cause::Identity,
            Cause::Lost,
            Cause::Silent,
            Cause::Unavailable,
        ];
        for (blamed, cause) in owners.into_iter().flat_map(|o| causes.map(|cause| (o, cause))) {
            let mut targets = Targets::default();
            let now = Instant::now();
            assert!(targets.failed(now, &target(1), blamed, cause, None));
            for other in owners {
                let dead = other == blamed;
                assert_eq!(targets.is_dead(now, other, key(1)), dead, "{other:?} {cause:?}");
                let mut list = [target(1), target(2)];
                targets.order(now, other, &mut list);
                assert_eq!(list[1], target(if dead { 1 } else { 2 }));
                if !dead {
                    assert!(!targets.alive(now, other, key(1)), "a sign of life is nobody else's");
                    targets.forget(other, key(1));
                }
            }
            let at = targets.next_timeout().unwrap();
            assert_eq!(targets.due(at, ROOM), [(target(1), blamed.cloned())]);
            assert!(targets.alive(at, blamed, key(1)));
            assert!(targets.is_empty() && targets.partners.is_empty() && targets.due.is_empty());
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
        assert!(targets.is_dead(now, None, key(9_999)));
    }

    #[test]
    fn a_partner_pushes_out_its_own_and_none_pushes_out_our_next_hops() {
        let mut targets = Targets::default();
        let now = Instant::now();
        let fabrikam: Domain = "fabrikam.example".parse().unwrap();
        for owner in [None, Some(&fabrikam)] {
            targets.failed(now, &target(1), owner, Cause::Connect, None);
        }
        let evil: Domain = "evil.example".parse().unwrap();
        for number in 0..10_000 {
            targets.failed(now, &target(number), Some(&evil), Cause::Identity, None);
        }
        assert_eq!(targets.len(), 2 + MAX_FAILED_OF_ONE);
        assert!(targets.is_dead(now, Some(&evil), key(9_999)));
        assert!(
            targets.is_dead(now, None, key(1)) && targets.is_dead(now, Some(&fabrikam), key(1))
        );
        for number in 0..10_000 {
            let many: Domain = format!("d{number}.example").parse().unwrap();
            targets.failed(now, &target(number), Some(&many), Cause::Identity, None);
        }
        assert_eq!((targets.len(), targets.due.len()), (MAX_FAILED, MAX_FAILED));
        assert!(targets.is_dead(now, None, key(1)), "a next hop stays");
    }
}
