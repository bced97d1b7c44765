//! Partners that are not connected now but were a moment ago: where they sent from is kept out of
//! the watch list's blocks for a while, or a peer that closes its connection between two messages
//! would be shut out for what another one behind the same address did.
//!
//! By domain and sender's prefix ([`source_prefix`], as the watch list blocks), so that nobody
//! fills the table from one IPv6 /64. It is bounded for each domain and in all; when it is full,
//! what left first is dropped, of the domain or of all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::{domain::Domain, federation::source_prefix};

/// A prefix is kept for so long after the last connection from there.
pub const LINGER_FOR: Duration = Duration::from_secs(24 * 3600);
/// Prefixes of one domain.
pub(super) const MAX_OF_DOMAIN: usize = 64;
/// Pairs of domain and prefix in all.
pub(super) const MAX_LINGERING: usize = 16_384;

/// Who was there, and until when that counts.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    by_domain: HashMap<Domain, BTreeMap<IpNet, Instant>>,
    by_prefix: HashMap<IpNet, BTreeSet<Domain>>,
    /// In the order of their end, which is that of their leaving.
    ends: BTreeSet<(Instant, Domain, IpNet)>,
    /// Prefixes of which something changed since the last look, by their first address.
    touched: HashSet<IpAddr>,
}

impl Lingering {
    /// A connection on which this domain was proved went.
    pub fn left(&mut self, now: Instant, domain: Domain, remote: IpAddr) {
        let prefix = source_prefix(remote);
        self.remove(&domain, &prefix);
        let own = self.by_domain.get(&domain);
        if own.is_some_and(|own| own.len() >= MAX_OF_DOMAIN) {
            let first = own.into_iter().flatten().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(prefix, _)| *prefix) {
                self.remove(&domain, &first);
            }
        }
        if self.ends.len() >= MAX_LINGERING
            && let Some((_, first, at)) = self.ends.first().cloned()
        {
            self.remove(&first, &at);
        }
        let until = now + LINGER_FOR;
        self.by_domain.entry(domain.clone()).or_default().insert(prefix, until);
        self.by_prefix.entry(prefix).or_default().insert(domain.clone());
        self.ends.insert((until, domain, prefix));
        self.touched.insert(prefix.addr());
    }

    /// Takes out what has ended.
    pub fn end(&mut self, now: Instant) {
        while let Some((_, domain, prefix)) = self.ends.first().filter(|(at, ..)| *at <= now) {
            let (domain, prefix) = (domain.clone(), *prefix);
            self.remove(&domain, &prefix);
        }
    }

    /// When the next one ends.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.ends.first().map(|(at, ..)| *at)
    }

    /// Who was at this prefix.
    pub fn at(&self, prefix: &IpNet) -> impl Iterator<Item = &Domain> {
        self.by_prefix.get(prefix).into_iter().flatten()
    }

    /// What is thought of a domain may have changed: whoever shares a prefix is judged again.
    pub fn touch(&mut self, domain: &Domain) {
        let prefixes = self.by_domain.get(domain).into_iter().flatten();
        self.touched.extend(prefixes.map(|(prefix, _)| prefix.addr()));
    }

    pub fn take_touched(&mut self) -> HashSet<IpAddr> {
        std::mem::take(&mut self.touched)
    }

    fn remove(&mut self, domain: &Domain, prefix: &IpNet) {
        let Some(own) = self.by_domain.get_mut(domain) else { return };
        let Some(until) = own.remove(prefix) else { return };
        if own.is_empty() {
            self.by_domain.remove(domain);
        }
        if let Some(there) = self.by_prefix.get_mut(prefix) {
            there.remove(domain);
            if there.is_empty() {
                self.by_prefix.remove(prefix);
            }
        }
        self.ends.remove(&(until, domain.clone(), *prefix));
        self.touched.insert(prefix.addr());
    }
}
