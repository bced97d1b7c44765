//! Who may federate: the allow and block lists as one immutable answer.
//!
//! Built from the file and the administrator's runtime changes (already merged into one
//! [`Federation`]), and swapped whole, so that every decision sees one state. A block always wins:
//! over an allowed domain, over its own subdomains' entries, over everything.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    config::{AllowedDomain, Federation},
    domain::Domain,
    proxy::Refusal,
};

use super::partner::Partner;

/// The policy in force. Cheap to ask, never changed: share it as an `Arc` and swap it.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    enabled: bool,
    ours: Vec<Domain>,
    allowed: HashMap<Domain, AllowedDomain>,
    /// The same, as partners.
    partners: HashMap<Domain, Arc<Partner>>,
    /// Blocked name -> names below it too.
    blocked: HashMap<Domain, bool>,
    generation: u64,
}

/// Policies made so far.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

impl Policy {
    /// `ours`: the SIP domains served here.
    pub fn new(ours: &[Domain], federation: &Federation) -> Self {
        let mut blocked = HashMap::new();
        for entry in &federation.blocked_domains {
            // Two entries for one name (file and runtime): the wider one holds.
            *blocked.entry(entry.domain.clone()).or_insert(false) |= entry.subdomains;
        }
        Self {
            enabled: federation.enabled,
            ours: ours.to_vec(),
            allowed: federation
                .allowed_domains
                .iter()
                .map(|entry| (entry.domain.clone(), entry.clone()))
                .collect(),
            partners: federation
                .allowed_domains
                .iter()
                .map(|entry| (entry.domain.clone(), Arc::new(Partner::of_allowed(entry))))
                .collect(),
            blocked,
            generation: GENERATIONS.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }

    /// Whether this is one of the domains served here (exactly; a subdomain is not).
    pub fn is_ours(&self, domain: &Domain) -> bool {
        self.ours.contains(domain)
    }

    /// The blocked name that covers this domain, if any.
    pub fn blocked_by(&self, domain: &Domain) -> Option<&Domain> {
        if self.blocked.is_empty() {
            return None;
        }
        if let Some((name, _)) = self.blocked.get_key_value(domain) {
            return Some(name);
        }
        let mut rest = domain.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some((name, true)) = self.blocked.get_key_value(parent) {
                return Some(name);
            }
            rest = parent;
        }
        None
    }

    /// Whether messages to or from this domain are let through, and by which entry.
    ///
    /// Says nothing about proof: the caller must also know that the connection proves the
    /// domain.
    pub fn admit(&self, domain: &Domain) -> Result<&AllowedDomain, Refusal> {
        if self.blocked_by(domain).is_some() {
            return Err(Refusal::DomainBlocked);
        }
        if !self.enabled {
            return Err(Refusal::FederationDisabled);
        }
        if self.is_ours(domain) {
            // One of ours is never a partner, whatever the lists say.
            return Err(Refusal::DomainNotAllowed);
        }
        self.allowed.get(domain).ok_or(Refusal::DomainNotAllowed)
    }

    /// The partner that messages to or from this domain belong to, if they are let through. As
    /// [`Policy::admit`], it says nothing about proof.
    pub fn partner(&self, domain: &Domain) -> Result<Arc<Partner>, Refusal> {
        self.admit(domain)?;
        self.partners.get(domain).cloned().ok_or(Refusal::DomainNotAllowed)
    }

    /// The partner whose connections are known by this key ([`Partner::key`]), unless it is
    /// refused.
    pub fn by_key(&self, key: &Domain) -> Option<Arc<Partner>> {
        self.partner(key).ok()
    }

    /// Another number for each policy: what was found under one is not true under the next.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether this host lies in the domain of an allowed partner (by name alone: whether it
    /// speaks for it, DNS says).
    pub fn in_an_allowed_domain(&self, host: &Domain) -> bool {
        let mut name = host.as_str();
        loop {
            if let Some((domain, _)) = self.allowed.get_key_value(name)
                && self.admit(domain).is_ok()
            {
                return true;
            }
            match name.split_once('.') {
                Some((_, parent)) => name = parent,
                None => return false,
            }
        }
    }

    /// The organisation's switch.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Every allowed entry, in no order.
    pub fn allowed(&self) -> impl Iterator<Item = &AllowedDomain> {
        self.allowed.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BlockedDomain;

    fn domain(text: &str) -> Domain {
        text.parse().unwrap()
    }

    fn allow(name: &str) -> AllowedDomain {
        AllowedDomain::new(domain(name))
    }

    fn federation(enabled: bool) -> Federation {
        Federation {
            enabled,
            allowed_domains: vec![
                allow("fabrikam.example"),
                allow("bad.example"),
                allow("good.below.example"),
                allow("contoso.example"),
            ],
            blocked_domains: vec![
                BlockedDomain { domain: domain("bad.example"), subdomains: false },
                BlockedDomain { domain: domain("below.example"), subdomains: true },
            ],
            ..Federation::default()
        }
    }

    #[test]
    fn blocked_wins_then_only_what_is_allowed_passes() {
        let policy = Policy::new(&[domain("contoso.example")], &federation(true));
        let cases: &[(&str, Result<(), Refusal>)] = &[
            ("fabrikam.example", Ok(())),
            ("sub.fabrikam.example", Err(Refusal::DomainNotAllowed)),
            ("xfabrikam.example", Err(Refusal::DomainNotAllowed)),
            ("bad.example", Err(Refusal::DomainBlocked)),
            ("sub.bad.example", Err(Refusal::DomainNotAllowed)),
            ("below.example", Err(Refusal::DomainBlocked)),
            ("good.below.example", Err(Refusal::DomainBlocked)),
            ("a.b.below.example", Err(Refusal::DomainBlocked)),
            ("xbelow.example", Err(Refusal::DomainNotAllowed)),
            ("contoso.example", Err(Refusal::DomainNotAllowed)),
        ];
        for (name, expected) in cases {
            assert_eq!(policy.admit(&domain(name)).map(|_| ()), *expected, "{name}");
        }
    }

    #[test]
    fn nobody_federates_when_the_switch_is_off() {
        let policy = Policy::new(&[domain("contoso.example")], &federation(false));
        assert_eq!(
            policy.admit(&domain("fabrikam.example")).map(|_| ()),
            Err(Refusal::FederationDisabled)
        );
        assert_eq!(policy.admit(&domain("bad.example")).map(|_| ()), Err(Refusal::DomainBlocked));
    }

    #[test]
    fn of_two_blocks_for_one_name_the_wider_holds() {
        let mut lists = federation(true);
        for subdomains in [true, false] {
            lists
                .blocked_domains
                .push(BlockedDomain { domain: domain("twice.example"), subdomains });
        }
        let policy = Policy::new(&[], &lists);
        assert_eq!(
            policy.blocked_by(&domain("a.twice.example")).map(Domain::as_str),
            Some("twice.example")
        );
    }
}
