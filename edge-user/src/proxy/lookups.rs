//! Questions to DNS: asked once however many wait, answers kept while they are valid.
//!
//! Bounded, since with discovery a message brings the name: so many answers, so many open questions
//! and so few of them for names that no entry has, from one sender and from all. Whoever finds no
//! room waits for nobody: it is refused as overload.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Output, QueryId, Question, ResolveError, Resolved};
use crate::{domain::Domain, federation::Lookup};

/// How long a failure is believed.
const FAILURE_HOLDS: Duration = Duration::from_secs(15);

/// Answers that are kept; beyond, those past their time go first, then those that end soonest.
const MAX_ANSWERS: usize = 8192;
/// Answers that go at one time when there is no room.
const MAKE_ROOM: usize = 512;
/// Questions that are open at one time.
const MAX_OPEN: usize = 1024;
/// Of them, for names that messages from outside brought.
const MAX_OPEN_BROUGHT: usize = 512;
/// Of these, from one sender.
const MAX_OPEN_OF_ONE: usize = 32;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A request whose sender is to be proved.
    Admission(u64),
    /// A connection to be made.
    Dial(u64),
    /// A next hop that is to be asked whether it lives.
    Probe(usize),
    /// Nobody: the answer is wanted later.
    Nobody,
}

/// An answer, with the hosts apart for the proof rule.
#[derive(Debug)]
pub(super) struct Known {
    pub resolved: Resolved,
    pub hosts: Vec<Domain>,
}

pub(super) type Answer = Result<Arc<Known>, ResolveError>;

/// What asking gave.
#[derive(Debug)]
pub(super) enum Asked {
    /// The answer is known.
    Known,
    /// The waiter is told.
    Waits,
    /// Too many wait for this answer already.
    Full,
}

#[derive(Debug)]
enum Entry {
    Asked { waiters: Vec<Waiter>, brought_by: Option<u64> },
    Known { answer: Answer, until: Instant },
}

/// Open questions and valid answers.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    next: u64,
    /// Answers that may be unsigned, and those that were asked for signed.
    entries: [HashMap<Question, Entry>; 2],
    queries: HashMap<QueryId, (Question, bool)>,
    /// Open questions for names that a message from outside brought, by its sender.
    brought: HashMap<u64, usize>,
    open_brought: usize,
}

impl Lookups {
    /// The valid answer, if there is one; `secure`: only one that is signed.
    pub(super) fn known(&self, now: Instant, question: &Question, secure: bool) -> Option<Answer> {
        match self.entries[usize::from(secure)].get(question)? {
            Entry::Known { answer, until } if now < *until => Some(answer.clone()),
            _ => None,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.iter().map(HashMap::len).sum()
    }

    /// Has the waiter told when there is a valid answer, unless there is one now, or `limit`
    /// others wait for it, or too many questions are open. `brought_by`: who sent the message that
    /// brought the name, when no entry of the policy has it.
    #[expect(clippy::too_many_arguments, reason = "what is asked, by whom, within which bounds")]
    pub(super) fn ask(
        &mut self,
        now: Instant,
        question: &Question,
        lookup: Lookup,
        waiter: Waiter,
        limit: usize,
        brought_by: Option<u64>,
        out: &mut Vec<Output>,
    ) -> Asked {
        if self.known(now, question, lookup.secure).is_some() {
            return Asked::Known;
        }
        let entries = &mut self.entries[usize::from(lookup.secure)];
        if let Some(Entry::Asked { waiters, .. }) = entries.get_mut(question) {
            if waiters.len() >= limit {
                return Asked::Full;
            }
            waiters.push(waiter);
            return Asked::Waits;
        }
        if self.queries.len() >= MAX_OPEN {
            return Asked::Full;
        }
        if let Some(sender) = brought_by {
            let of_one = self.brought.entry(sender).or_default();
            if *of_one >= MAX_OPEN_OF_ONE || self.open_brought >= MAX_OPEN_BROUGHT {
                return Asked::Full;
            }
            *of_one += 1;
            self.open_brought += 1;
        }
        let query = QueryId(self.next);
        self.next += 1;
        let entry = Entry::Asked { waiters: vec![waiter], brought_by };
        self.entries[usize::from(lookup.secure)].insert(question.clone(), entry);
        self.queries.insert(query, (question.clone(), lookup.secure));
        out.push(Output::Resolve { query, question: question.clone(), lookup });
        Asked::Waits
    }

    /// Takes an answer; gives those who waited for it.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        query: QueryId,
        result: Result<Resolved, ResolveError>,
    ) -> Vec<Waiter> {
        let Some((question, secure)) = self.queries.remove(&query) else { return Vec::new() };
        let entries = &mut self.entries[usize::from(secure)];
        let (answer, until) = match result {
            Ok(resolved) => {
                // An answer serves those who asked for it, even when it is already stale.
                let until = resolved.valid_until.max(now + Duration::from_secs(1));
                let hosts = resolved.hosts.iter().map(|host| host.host.clone()).collect();
                (Ok(Arc::new(Known { resolved, hosts })), until)
            }
            Err(error) => (Err(error), now + FAILURE_HOLDS),
        };
        // Before it comes in: those who wait for it must find it.
        make_room(entries, now);
        match entries.insert(question, Entry::Known { answer, until }) {
            Some(Entry::Asked { waiters, brought_by }) => {
                self.closed(brought_by);
                waiters
            }
            _ => Vec::new(),
        }
    }

    /// A question is open no more.
    fn closed(&mut self, brought_by: Option<u64>) {
        let Some(sender) = brought_by else { return };
        self.open_brought = self.open_brought.saturating_sub(1);
        if let Some(of_one) = self.brought.get_mut(&sender) {
            *of_one = of_one.saturating_sub(1);
            if *of_one == 0 {
                self.brought.remove(&sender);
            }
        }
    }

    /// Forgets answers: the policy changed, and only those about partners that are as they were
    /// are kept.
    pub(super) fn keep_answers(&mut self, holds: impl Fn(&Domain) -> bool) {
        for entries in &mut self.entries {
            entries.retain(|question, entry| match (question, entry) {
                (_, Entry::Asked { .. }) => true,
                (Question::Federation(domain), Entry::Known { .. }) => holds(domain),
                (_, Entry::Known { .. }) => false,
            });
        }
    }
}

/// Keeps the answers within their bound.
fn make_room(entries: &mut HashMap<Question, Entry>, now: Instant) {
    if entries.len() < MAX_ANSWERS + MAX_OPEN {
        return;
    }
    entries.retain(|_, entry| match entry {
        Entry::Asked { .. } => true,
        Entry::Known { until, .. } => now < *until,
    });
    let most = MAX_ANSWERS + MAX_OPEN - MAKE_ROOM;
    let Some(excess) = entries.len().checked_sub(most).filter(|excess| *excess > 0) else {
        return;
    };
    let mut ends: Vec<(Instant, Question)> = entries
        .iter()
        .filter_map(|(question, entry)| match entry {
            Entry::Known { until, .. } => Some((*until, question.clone())),
            Entry::Asked { .. } => None,
        })
        .collect();
    ends.sort_by_key(|(until, _)| *until);
    for (_, question) in ends.into_iter().take(excess) {
        entries.remove(&question);
    }
}
