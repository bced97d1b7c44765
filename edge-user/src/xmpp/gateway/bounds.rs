//! Bounds of the gateway's state, and what keeps it within them.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use super::address::Party;
use crate::domain::Domain;

/// Bounds of the gateway's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Requests of ours that wait for an answer; one partner has a quarter of them at most.
    pub transactions: usize,
    /// Messages from SIP users that wait for a word from the XMPP side.
    pub held: usize,
    /// How long they wait at most: while no stream to the partner is there. Shorter than the sender's
    /// own patience (timer F).
    pub hold: Duration,
    /// Sessions, subscriptions each way: of each kind.
    pub total: usize,
    /// Of them, of one SIP user with one partner, whatever its domains.
    pub per_user: usize,
    /// Of them, of one partner.
    pub per_partner: usize,
    /// Resources of one user.
    pub resources: usize,
    /// Messages that wait in one session.
    pub queue: usize,
    /// Bytes of messages that wait in all sessions.
    pub queue_bytes: usize,
    /// Pairs of users of which the SIP user began, with partners whose users must be invited.
    pub invited: usize,
    /// A session without a message ends then.
    pub session_idle: Duration,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            transactions: 20_000,
            held: 10_000,
            hold: Duration::from_secs(20),
            total: 50_000,
            per_user: 1000,
            per_partner: 20_000,
            resources: 16,
            queue: 20,
            queue_bytes: 32 << 20,
            invited: 100_000,
            session_idle: Duration::from_secs(600),
        }
    }
}

/// When the end of something is tried again that there was no room for.
pub(super) const NO_ROOM: Duration = Duration::from_secs(5);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A client transaction.
    Client(u64),
    /// A message that is held.
    Held(u64),
    /// A subscription of a SIP user.
    Watch(u64),
    /// A subscription of an XMPP user.
    Subscription(u64),
    /// A session.
    Session(u64),
}

/// Every timer; each thing has one at most.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Sets, moves or ends a timer; `slot` remembers it.
    pub fn set(&mut self, slot: &mut Option<Instant>, timer: Timer, when: Option<Instant>) {
        if let Some(before) = slot.take() {
            self.due.remove(&(before, timer));
        }
        if let Some(when) = when {
            self.due.insert((when, timer));
            *slot = Some(when);
        }
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(when, _)| *when)
    }

    /// Takes one that is due.
    pub fn pop(&mut self, now: Instant) -> Option<Timer> {
        let (when, timer) = *self.due.first()?;
        if when > now {
            return None;
        }
        self.due.remove(&(when, timer));
        Some(timer)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.due.len()
    }
}

/// A SIP user and an XMPP user, by their bare JIDs, in that order.
pub(super) type Key = (Arc<str>, Arc<str>);

/// The key of two users.
pub(super) fn key(sip: &Party, xmpp: &Party) -> Key {
    (sip.jid.clone(), xmpp.jid.clone())
}

/// How much of something a SIP user and a partner have.
#[derive(Debug, Default)]
pub(super) struct Quota {
    total: usize,
    /// Of one user with one partner: no partner uses up what another may have.
    users: HashMap<(Arc<str>, Domain), usize>,
    partners: HashMap<Domain, usize>,
    /// By domain, and the partner that it was when the first of these was taken: a change of policy
    /// between taking and giving back counts nothing twice.
    domains: HashMap<Domain, (usize, Domain)>,
}

/// Takes one off a count, which goes with the last.
pub(super) fn less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Quota {
    /// Takes one, if there is room. `entry`: the partner's name.
    pub fn take(
        &mut self,
        sip: &Party,
        xmpp: &Party,
        entry: &Domain,
        limits: &GatewayLimits,
    ) -> bool {
        let entry = self.domains.get(&xmpp.domain).map_or(entry, |(_, entry)| entry).clone();
        let of_user = (sip.jid.clone(), entry.clone());
        let user = self.users.get(&of_user).copied().unwrap_or(0);
        let partner = self.partners.get(&entry).copied().unwrap_or(0);
        if self.total >= limits.total || user >= limits.per_user || partner >= limits.per_partner {
            return false;
        }
        self.total += 1;
        *self.users.entry(of_user).or_default() += 1;
        *self.partners.entry(entry.clone()).or_default() += 1;
        self.domains.entry(xmpp.domain.clone()).or_insert((0, entry)).0 += 1;
        true
    }

    /// Gives one back.
    pub fn give(&mut self, sip: &Party, xmpp: &Party) {
        self.total = self.total.saturating_sub(1);
        let Some((count, entry)) = self.domains.get_mut(&xmpp.domain) else { return };
        *count = count.saturating_sub(1);
        let (last, entry) = (*count == 0, entry.clone());
        if last {
            self.domains.remove(&xmpp.domain);
        }
        less(&mut self.users, &(sip.jid.clone(), entry.clone()));
        less(&mut self.partners, &entry);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.total
    }

    /// Domains of partners that have any.
    pub fn domains(&self) -> impl Iterator<Item = (&Domain, usize)> {
        self.domains.iter().map(|(domain, (count, _))| (domain, *count))
    }
}
