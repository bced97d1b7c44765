//! What passed and what was refused, by domain, for people: counts and the last refusals. Bounded;
//! names that only strangers wrote go first.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
};

use super::Refusal;
use crate::domain::Domain;

/// Domains remembered.
const MAX_DOMAINS: usize = 4096;
/// How many go at one time when there is no room.
const MAKE_ROOM: usize = 256;
/// Refusals kept of each, the last ones.
const MAX_REFUSALS: usize = 8;
/// Characters of a refusal's detail that are kept.
const MAX_DETAIL: usize = 256;

/// What one domain sent and was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests and responses from it that were passed on.
    pub messages_in: u64,
    /// Requests and responses that were passed on to it.
    pub messages_out: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// The last of them.
    pub refusals: VecDeque<RefusalSeen>,
    /// When something was last noted, in seconds since 1970.
    pub last: u64,
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalSeen {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Why.
    pub reason: Refusal,
    /// Who had sent it.
    pub remote: SocketAddr,
    /// More for people.
    pub detail: String,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    domains: HashMap<Domain, Traffic>,
}

impl Ledger {
    /// A message passed.
    pub fn passed(&mut self, unix: u64, domain: &Domain, inward: bool) {
        let traffic = self.of(domain);
        traffic.last = unix;
        match inward {
            true => traffic.messages_in += 1,
            false => traffic.messages_out += 1,
        }
    }

    /// A request was refused.
    pub fn refused(&mut self, domain: &Domain, refusal: RefusalSeen) {
        let traffic = self.of(domain);
        traffic.last = refusal.at;
        traffic.refused += 1;
        if traffic.refusals.len() >= MAX_REFUSALS {
            traffic.refusals.pop_front();
        }
        let detail = refusal.detail.chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect();
        traffic.refusals.push_back(RefusalSeen { detail, ..refusal });
    }

    /// What is known of a domain.
    pub fn get(&self, domain: &Domain) -> Option<&Traffic> {
        self.domains.get(domain)
    }

    fn of(&mut self, domain: &Domain) -> &mut Traffic {
        if self.domains.len() >= MAX_DOMAINS && !self.domains.contains_key(domain) {
            self.make_room();
        }
        self.domains.entry(domain.clone()).or_default()
    }

    fn make_room(&mut self) {
        let mut order: Vec<(bool, u64, Domain)> = self
            .domains
            .iter()
            .map(|(domain, t)| (t.messages_in + t.messages_out > 0, t.last, domain.clone()))
            .collect();
        order.sort_unstable();
        for (_, _, domain) in order.into_iter().take(MAKE_ROOM) {
            self.domains.remove(&domain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_strangers_invent_do_not_push_out_who_was_let_in() {
        let mut ledger = Ledger::default();
        let good: Domain = "good.example".parse().unwrap();
        ledger.passed(1, &good, true);
        ledger.passed(2, &good, false);
        for number in 0..20_000u64 {
            let domain: Domain = format!("d{number}.example").parse().unwrap();
            let refusal = RefusalSeen {
                at: 10 + number,
                reason: Refusal::DomainNotAllowed,
                remote: "203.0.113.1:5061".parse().unwrap(),
                detail: format!("{number}\r\n{}", "x".repeat(1000)),
            };
            ledger.refused(&domain, refusal);
        }
        assert!(ledger.domains.len() <= MAX_DOMAINS);
        let traffic = ledger.get(&good).unwrap();
        assert_eq!((traffic.messages_in, traffic.messages_out, traffic.refused), (1, 1, 0));
        let last: Domain = "d19999.example".parse().unwrap();
        let detail = &ledger.get(&last).unwrap().refusals[0].detail;
        assert!(detail.starts_with("19999x") && detail.len() == MAX_DETAIL, "{detail}");
    }

    #[test]
    fn the_last_eight_refusals_are_kept() {
        let mut ledger = Ledger::default();
        let domain: Domain = "p.example".parse().unwrap();
        for at in 0..20 {
            let remote = "203.0.113.1:5061".parse().unwrap();
            let detail = String::new();
            ledger.refused(&domain, RefusalSeen { at, reason: Refusal::Throttled, remote, detail });
        }
        let traffic = ledger.get(&domain).unwrap();
        let kept: Vec<u64> = traffic.refusals.iter().map(|refusal| refusal.at).collect();
        assert_eq!((traffic.refused, kept), (20, (12..20).collect()));
    }
}
