//! Questions to DNS: asked once however many wait, answers kept while they are valid.
//!
//! Bounded by what may be asked: only entries of the policy and next hops of ours are ever
//! looked up, never a name that a message brought.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Output, QueryId, Question, ResolveError, Resolved};
use crate::domain::Domain;

/// How long a failure is believed.
const FAILURE_HOLDS: Duration = Duration::from_secs(15);

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A request whose sender is to be proved.
    Admission(u64),
    /// A connection to be made.
    Dial(u64),
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
    Asked(Vec<Waiter>),
    Known { answer: Answer, until: Instant },
}

/// Open questions and valid answers.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    next: u64,
    entries: HashMap<Question, Entry>,
    queries: HashMap<QueryId, Question>,
}

impl Lookups {
    /// The valid answer, if there is one.
    pub(super) fn known(&self, now: Instant, question: &Question) -> Option<Answer> {
        match self.entries.get(question)? {
            Entry::Known { answer, until } if now < *until => Some(answer.clone()),
            _ => None,
        }
    }

    /// Has the waiter told when there is a valid answer, unless there is one now, or `limit`
    /// others wait for it.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        question: &Question,
        relax_srv_domain: bool,
        waiter: Waiter,
        limit: usize,
        out: &mut Vec<Output>,
    ) -> Asked {
        if self.known(now, question).is_some() {
            return Asked::Known;
        }
        if let Some(Entry::Asked(waiters)) = self.entries.get_mut(question) {
            if waiters.len() >= limit {
                return Asked::Full;
            }
            waiters.push(waiter);
            return Asked::Waits;
        }
        let query = QueryId(self.next);
        self.next += 1;
        self.entries.insert(question.clone(), Entry::Asked(vec![waiter]));
        self.queries.insert(query, question.clone());
        out.push(Output::Resolve { query, question: question.clone(), relax_srv_domain });
        Asked::Waits
    }

    /// Takes an answer; gives those who waited for it.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        query: QueryId,
        result: Result<Resolved, ResolveError>,
    ) -> Vec<Waiter> {
        let Some(question) = self.queries.remove(&query) else { return Vec::new() };
        let (answer, until) = match result {
            Ok(resolved) => {
                // An answer serves those who asked for it, even when it is already stale.
                let until = resolved.valid_until.max(now + Duration::from_secs(1));
                let hosts = resolved.hosts.iter().map(|host| host.host.clone()).collect();
                (Ok(Arc::new(Known { resolved, hosts })), until)
            }
            Err(error) => (Err(error), now + FAILURE_HOLDS),
        };
        match self.entries.insert(question, Entry::Known { answer, until }) {
            Some(Entry::Asked(waiters)) => waiters,
            _ => Vec::new(),
        }
    }

    /// Forgets answers: the policy changed, and only those about partners that are as they were
    /// are kept.
    pub(super) fn keep_answers(&mut self, holds: impl Fn(&Domain) -> bool) {
        self.entries.retain(|question, entry| match (question, entry) {
            (_, Entry::Asked(_)) => true,
            (Question::Federation(domain), Entry::Known { .. }) => holds(domain),
            (_, Entry::Known { .. }) => false,
        });
    }
}
