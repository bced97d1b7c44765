//! Names that are looked up again and again: before their answer ends, with a floor and a
//! ceiling, later and later while DNS fails, and never too many at one time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{ABSENT_FOR, MAX_ANSWER, protected::Protection};
use crate::{
    domain::Domain,
    proxy::{Question, ResolveError, Resolved},
};

/// No answer is asked for again sooner than this, however short its TTL.
pub(super) const FLOOR: Duration = Duration::from_secs(30);
/// Nor later than this, however long.
pub(super) const CEILING: Duration = Duration::from_secs(3600);
/// First wait after a failure; doubled each time.
pub(super) const RETRY: Duration = Duration::from_secs(5);
/// Longest wait after a failure.
pub(super) const RETRY_CEILING: Duration = Duration::from_secs(900);
/// A question that is not answered by then counts as failed.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Questions at one time, of each of the two kinds.
pub(super) const IN_FLIGHT: usize = 32;

/// Why a name is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// For the blocks of this domain (itself, or a name below it).
    Blocked(Domain),
    /// For those who must not be hit.
    Protected(Protection),
}

impl Role {
    fn lane(&self) -> usize {
        usize::from(matches!(self, Role::Protected(_)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be asked at this time.
    Due(Instant),
    /// To be asked as soon as there is room.
    Queued,
    /// Asked; failed at this time.
    Asked(Instant),
}

/// One name.
#[derive(Debug)]
pub(super) struct Watch {
    pub question: Question,
    pub role: Role,
    pub relax_srv_domain: bool,
    /// The last good answer.
    pub addresses: Vec<IpAddr>,
    /// Something came of a question: an answer or a failure.
    pub tried: bool,
    /// DNS gave addresses once, or said for long that there are none.
    pub known: bool,
    pub error: Option<ResolveError>,
    failures: u32,
    absent_since: Option<Instant>,
    state: State,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Watches {
    next_id: u64,
    by_id: BTreeMap<u64, Watch>,
    ids: HashMap<Question, u64>,
    timers: BTreeSet<(Instant, u64)>,
    queues: [VecDeque<u64>; 2],
    in_flight: [usize; 2],
}

impl Watches {
    pub fn get(&self, question: &Question) -> Option<&Watch> {
        self.by_id.get(self.ids.get(question)?)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Watch> {
        self.by_id.values()
    }

    /// Begins to watch a name. When it is watched for another reason already, what is known of it
    /// is kept, and it is asked for again; gives the former reason and the addresses then.
    pub fn add(
        &mut self,
        question: Question,
        role: Role,
        relax_srv_domain: bool,
    ) -> Option<(Role, Vec<IpAddr>)> {
        if let Some(id) = self.ids.get(&question).copied() {
            return self.turn(id, role, relax_srv_domain);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.ids.insert(question.clone(), id);
        self.queues[role.lane()].push_back(id);
        let watch = Watch {
            question,
            role,
            relax_srv_domain,
            addresses: Vec::new(),
            tried: false,
            known: false,
            error: None,
            failures: 0,
            absent_since: None,
            state: State::Queued,
        };
        self.by_id.insert(id, watch);
        None
    }

    fn turn(&mut self, id: u64, role: Role, relax: bool) -> Option<(Role, Vec<IpAddr>)> {
        let watch = self.by_id.get_mut(&id)?;
        if watch.role == role && watch.relax_srv_domain == relax {
            return None;
        }
        let former = (watch.role.clone(), watch.addresses.clone());
        let state = watch.state;
        if watch.relax_srv_domain && !relax {
            // Found under a rule that does not hold any more.
            watch.addresses.clear();
        }
        (watch.role, watch.relax_srv_domain) = (role, relax);
        watch.state = State::Queued;
        let lane = watch.role.lane();
        self.unschedule(id, state, former.0.lane());
        self.queues[lane].push_back(id);
        Some(former)
    }

    /// Ends to watch a name.
    pub fn remove(&mut self, question: &Question) -> Option<Watch> {
        let id = self.ids.remove(question)?;
        let watch = self.by_id.remove(&id)?;
        self.unschedule(id, watch.state, watch.role.lane());
        Some(watch)
    }

    /// Ends to watch every name that is not wanted; gives them back.
    pub fn keep(&mut self, wanted: &HashSet<Question>) -> Vec<Watch> {
        let gone: Vec<Question> =
            self.ids.keys().filter(|question| !wanted.contains(question)).cloned().collect();
        gone.iter().filter_map(|question| self.remove(question)).collect()
    }

    fn unschedule(&mut self, id: u64, state: State, lane: usize) {
        match state {
            State::Due(at) => {
                self.timers.remove(&(at, id));
            }
            State::Asked(at) => {
                self.timers.remove(&(at, id));
                self.in_flight[lane] = self.in_flight[lane].saturating_sub(1);
            }
            // Its id stays in the queue and is passed over when its turn comes.
            State::Queued => {}
        }
    }

    fn schedule(&mut self, id: u64, state: State) {
        let Some(watch) = self.by_id.get_mut(&id) else { return };
        let (former, lane) = (watch.state, watch.role.lane());
        watch.state = state;
        self.unschedule(id, former, lane);
        match state {
            State::Due(at) => {
                self.timers.insert((at, id));
            }
            State::Asked(at) => {
                self.timers.insert((at, id));
                self.in_flight[lane] += 1;
            }
            State::Queued => self.queues[lane].push_back(id),
        }
    }

    /// Remembered addresses, for a name that DNS has not answered yet.
    pub fn remember(&mut self, question: &Question, addresses: Vec<IpAddr>) {
        let Some(watch) = self.ids.get(question).and_then(|id| self.by_id.get_mut(id)) else {
            return;
        };
        if !watch.known {
            watch.addresses = cut(addresses);
        }
    }

    /// An answer. Gives the addresses from before; `None` when nobody waits for it.
    pub fn answer(
        &mut self,
        now: Instant,
        question: &Question,
        result: Result<Resolved, ResolveError>,
    ) -> Option<Vec<IpAddr>> {
        let id = *self.ids.get(question)?;
        let watch = self.by_id.get_mut(&id)?;
        if !matches!(watch.state, State::Asked(_)) {
            return None;
        }
        let before = watch.addresses.clone();
        watch.tried = true;
        let wait = match result {
            Ok(resolved) => {
                watch.addresses = cut(resolved.hosts.into_iter().flat_map(|h| h.addresses));
                (watch.known, watch.error) = (true, None);
                (watch.failures, watch.absent_since) = (0, None);
                let ttl = resolved.valid_until.saturating_duration_since(now);
                // Asked again when nine tenths are over.
                (ttl - ttl / 10).clamp(FLOOR, CEILING)
            }
            Err(error) => {
                watch.error = Some(error);
                // That DNS fails says nothing; that it says "there is none" counts from the first time.
                let absent = error != ResolveError::Unavailable;
                if absent
                    && now.saturating_duration_since(*watch.absent_since.get_or_insert(now))
                        >= ABSENT_FOR
                {
                    watch.addresses = Vec::new();
                    watch.known = true;
                }
                let factor = 1u32.checked_shl(watch.failures).unwrap_or(u32::MAX);
                watch.failures = watch.failures.saturating_add(1).min(16);
                RETRY.saturating_mul(factor).min(RETRY_CEILING)
            }
        };
        self.schedule(id, State::Due(now + wait));
        Some(before)
    }

    /// What must be asked now. Questions nobody answered are failures by now.
    pub fn due(&mut self, now: Instant) -> Vec<(Question, bool)> {
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            let Some(watch) = self.by_id.get(&id) else {
                self.timers.remove(&(at, id));
                continue;
            };
            match watch.state {
                State::Asked(_) => {
                    let question = watch.question.clone();
                    self.answer(now, &question, Err(ResolveError::Unavailable));
                }
                _ => self.schedule(id, State::Queued),
            }
        }
        let mut ask = Vec::new();
        for lane in 0..2 {
            while self.in_flight[lane] < IN_FLIGHT {
                let Some(id) = self.queues[lane].pop_front() else { break };
                let Some(watch) = self.by_id.get(&id) else { continue };
                if watch.state != State::Queued {
                    continue;
                }
                ask.push((watch.question.clone(), watch.relax_srv_domain));
                self.schedule(id, State::Asked(now + ANSWER_WITHIN));
            }
        }
        ask
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }
}

/// At most so many, none twice, in the one form and order in which addresses are compared: an
/// answer that only comes in another order, as most do, is no news.
fn cut(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    let canonical = addresses.into_iter().map(|a| a.to_canonical());
    let mut first: Vec<_> =
        canonical.filter(|address| seen.insert(*address)).take(MAX_ANSWER).collect();
    first.sort_unstable();
    first
}
