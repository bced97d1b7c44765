//! The live set of allowed partners' addresses, for rules that are for partners only.
//!
//! A partner is where its entry says it sends from (`from_addresses`), and where DNS says it
//! listens: at most [`MAX_ADDRESSES`] addresses, none that may not be learned from outside. An
//! address that DNS no longer names stays for [`LINGER`], so that neither a partner whose DNS
//! hands out its edges in turn nor one that moves is shut out; a partner that is no longer allowed
//! goes at once. That an address is shared with others does no harm: it only lets in as far as
//! TLS, where the certificate decides.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{MAX_ADDRESSES, Setting};
use crate::{config::AllowedDomain, domain::Domain, federation::usable, proxy::Question};

/// An address that DNS no longer names stays this long.
pub const LINGER: Duration = Duration::from_secs(3600);
/// The firewall is told of new addresses no more often than this.
pub const PACE: Duration = Duration::from_secs(1);
/// Prefixes in all, each family. The kernel's tables hold twice as many for all rules together.
pub const MAX_PREFIXES: usize = 8192;

/// One allowed partner.
#[derive(Debug)]
struct Partner {
    entry: AllowedDomain,
    /// What DNS says now.
    current: Vec<IpAddr>,
    /// What it said before, the latest last, and until when it counts.
    former: Vec<(IpAddr, Instant)>,
}

impl Partner {
    fn new(entry: AllowedDomain) -> Self {
        Self { entry, current: Vec::new(), former: Vec::new() }
    }

    /// Takes in an answer. Says whether anything is different.
    fn take(&mut self, now: Instant, addresses: &[IpAddr]) -> bool {
        let new: Vec<IpAddr> = addresses.iter().copied().take(MAX_ADDRESSES).collect();
        let is_new: HashSet<&IpAddr> = new.iter().collect();
        let was: HashSet<&IpAddr> = self.current.iter().collect();
        if is_new == was {
            return false;
        }
        let gone = self.current.iter().filter(|address| !is_new.contains(address));
        let mut former: Vec<(IpAddr, Instant)> =
            gone.map(|address| (*address, now + LINGER)).collect();
        self.former.retain(|(address, _)| !is_new.contains(address));
        self.former.append(&mut former);
        let room = MAX_ADDRESSES.saturating_sub(new.len());
        self.former.drain(..self.former.len().saturating_sub(room));
        self.current = new;
        true
    }
}

/// The question that finds an allowed partner's edges.
pub(super) fn question(entry: &AllowedDomain) -> Question {
    match &entry.proxy_fqdn {
        Some(host) => Question::Host(host.clone(), entry.port),
        None => Question::Federation(entry.domain.clone()),
    }
}

/// All partners, and what the firewall knows of them.
#[derive(Debug, Default)]
pub(super) struct PartnerSet {
    partners: BTreeMap<Domain, Partner>,
    /// Something may be different from what was told.
    changed: bool,
    /// It is not to wait.
    urgent: bool,
    told: Option<Vec<IpNet>>,
    told_at: Option<Instant>,
}

/// What the firewall should know.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    pub prefixes: Vec<IpNet>,
    /// Prefixes that are one too many.
    pub left_out: usize,
}

impl PartnerSet {
    /// The partners are exactly these from now on.
    pub fn set(&mut self, allowed: &BTreeMap<Domain, AllowedDomain>) {
        self.partners.retain(|domain, _| allowed.contains_key(domain));
        for (domain, entry) in allowed {
            let partner = self.partners.entry(domain.clone());
            let partner = partner.or_insert_with(|| Partner::new(entry.clone()));
            // What was found under another question, or another rule, counts for nothing.
            if question(&partner.entry) != question(entry)
                || partner.entry.relax_srv_domain != entry.relax_srv_domain
            {
                *partner = Partner::new(entry.clone());
            }
            partner.entry = entry.clone();
        }
        (self.changed, self.urgent) = (true, true);
    }

    /// A partner's addresses, as DNS has them now. Says whether they are others than before.
    pub fn addresses(&mut self, now: Instant, domain: &Domain, addresses: &[IpAddr]) -> bool {
        let partner = self.partners.get_mut(domain);
        let different = partner.is_some_and(|partner| partner.take(now, addresses));
        self.changed |= different;
        different
    }

    /// The partners that a question is about.
    pub fn asked_by(&self, asked: &Question) -> Vec<Domain> {
        let about = self.partners.iter().filter(|(_, p)| question(&p.entry) == *asked);
        about.map(|(domain, _)| domain.clone()).collect()
    }

    /// What the firewall must be told now, if anything.
    pub fn due(&mut self, now: Instant, setting: &Setting) -> Option<Members> {
        for partner in self.partners.values_mut() {
            let before = partner.former.len();
            partner.former.retain(|(_, until)| *until > now);
            self.changed |= partner.former.len() != before;
        }
        if !self.changed || (!self.urgent && self.next_telling().is_some_and(|at| at > now)) {
            return None;
        }
        (self.changed, self.urgent) = (false, false);
        let members = self.members(setting);
        if self.told.as_ref() == Some(&members.prefixes) {
            return None;
        }
        (self.told, self.told_at) = (Some(members.prefixes.clone()), Some(now));
        Some(members)
    }

    fn next_telling(&self) -> Option<Instant> {
        self.told_at.map(|at| at + PACE)
    }

    /// When [`Self::due`] wants to be asked next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let telling = if self.changed { self.next_telling() } else { None };
        let former = self.partners.values().flat_map(|p| p.former.iter().map(|(_, at)| *at)).min();
        [telling, former].into_iter().flatten().min()
    }

    /// What the firewall should know.
    pub fn members(&self, setting: &Setting) -> Members {
        if !setting.federation.enabled {
            return Members::default();
        }
        let allow = &setting.federation.allow_addresses;
        let good = |address: &IpAddr| usable(*address, &setting.own, allow).is_ok();
        // What the file names goes first, should there be too many.
        let named = self.partners.values().flat_map(|p| p.entry.from_addresses.iter().copied());
        let found = self.partners.values().flat_map(|partner| {
            let former = partner.former.iter().map(|(address, _)| *address);
            partner.current.iter().copied().chain(former)
        });
        let mut seen = HashSet::new();
        let mut count = [0usize; 2];
        let mut members = Members::default();
        for prefix in named.chain(found.filter(good).map(IpNet::from)) {
            if !seen.insert(prefix) {
                continue;
            }
            let family = &mut count[usize::from(matches!(prefix, IpNet::V6(_)))];
            *family += 1;
            if *family > MAX_PREFIXES {
                members.left_out += 1;
            } else {
                members.prefixes.push(prefix);
            }
        }
        members.prefixes.sort_unstable();
        members
    }
}

/// The partners' addresses before DNS has said anything: what the file names, and the last good
/// answers.
pub fn known_partners<'a>(
    setting: &Setting,
    last_good: impl Iterator<Item = (&'a Domain, &'a [IpAddr])>,
) -> Vec<IpNet> {
    let entries = setting.federation.known_partners().into_iter();
    let allowed = entries.map(|entry| (entry.domain.clone(), entry)).collect();
    let mut partners = PartnerSet::default();
    partners.set(&allowed);
    let now = Instant::now();
    for (domain, addresses) in last_good {
        partners.addresses(now, domain, addresses);
    }
    partners.members(setting).prefixes
}
