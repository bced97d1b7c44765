//! File and runtime changes joined into what holds, with every difference told.

use std::{collections::HashMap, time::SystemTime};

use serde::Serialize;

use super::{Allowance, Author, Blockage, Changes, Store, StoreError};
use crate::{
    config::{AllowedDomain, BlockedDomain, Config, Federation, check_from_addresses},
    domain::Domain,
    firewall::BlockRequest,
};

/// What holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Allowed and blocked domains; none in both, none ours.
    pub federation: Federation,
    /// Administrator's address blocks that have not expired.
    pub administrator_blocks: Vec<BlockRequest>,
    /// Where this is not what the file says.
    pub differences: Vec<Difference>,
}

/// One place where what holds is not what the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The domain it is about.
    pub domain: Domain,
    /// What is different.
    pub kind: DifferenceKind,
    /// Who made the change, and when.
    pub author: Option<Author>,
}

/// What is different from the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    /// Allowed at runtime; the file does not list it.
    Allowed,
    /// Allowed at runtime with other details than in the file.
    AllowedOtherwise,
    /// Removed at runtime; the file allows it.
    Removed,
    /// Blocked at runtime; the file does not block it.
    Blocked,
    /// Blocked at runtime with other details than in the file.
    BlockedOtherwise,
    /// Unblocked at runtime; the file blocks it.
    Unblocked,
    /// Allowed, but the block of this domain holds over it.
    HiddenByBlock(Domain),
    /// Said at runtime, but the file now serves the domain itself: it does not count.
    Ours,
    /// Allowed at runtime, but not beside what the file says now: it does not count. Why.
    Conflicts(String),
    /// Blocked at runtime with subdomains, but one of them is ours: it holds for the name alone.
    CoversOurs(Domain),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let domain = &self.domain;
        match &self.kind {
            DifferenceKind::Allowed => write!(f, "{domain} is allowed at runtime, not in the file"),
            DifferenceKind::AllowedOtherwise => {
                write!(f, "{domain} is allowed at runtime otherwise than in the file")
            }
            DifferenceKind::Removed => {
                write!(f, "{domain} was removed at runtime; the file allows it")
            }
            DifferenceKind::Blocked => write!(f, "{domain} is blocked at runtime, not in the file"),
            DifferenceKind::BlockedOtherwise => {
                write!(f, "{domain} is blocked at runtime otherwise than in the file")
            }
            DifferenceKind::Unblocked => {
                write!(f, "{domain} was unblocked at runtime; the file blocks it")
            }
            DifferenceKind::HiddenByBlock(by) => {
                write!(f, "{domain} is allowed, but the block of {by} holds over it")
            }
            DifferenceKind::Ours => {
                write!(f, "{domain} was changed at runtime, but is served here: no effect")
            }
            DifferenceKind::Conflicts(why) => {
                write!(f, "{domain} was allowed at runtime, which does not count any more: {why}")
            }
            DifferenceKind::CoversOurs(ours) => write!(
                f,
                "{domain} is blocked at runtime with subdomains, but not below it: {ours} is ours"
            ),
        }?;
        match &self.author {
            Some(author) => write!(f, " (by {})", author.by),
            None => Ok(()),
        }
    }
}

/// Joins file and runtime changes as they hold at `now`.
pub fn effective(config: &Config, store: &Store, now: SystemTime) -> Effective {
    let mut differences = Vec::new();
    let blocked = blocked(config, &store.changes, &mut differences);
    let allowed = allowed(config, &store.changes, &blocked, &mut differences);
    differences.sort_by(|a, b| a.domain.cmp(&b.domain));
    let discovery = config.federation.discovery && !store.is_lost();
    Effective {
        federation: Federation {
            allowed_domains: allowed,
            blocked_domains: blocked,
            // Whom an administrator blocked at runtime is not known then.
            discovery,
            ..config.federation.clone()
        },
        administrator_blocks: store.block_requests(now),
        differences,
    }
}

/// A block of a name above `domain`, with its subdomains, that holds.
pub(super) fn wider_block(config: &Config, changes: &Changes, domain: &Domain) -> Option<Domain> {
    let blocked = blocked(config, changes, &mut Vec::new());
    let mut wider = blocked.into_iter().filter(|b| b.subdomains && b.domain != *domain);
    wider.find(|b| domain.is_within(&b.domain)).map(|b| b.domain)
}

/// The block of this very name that holds.
pub(super) fn block_of(
    config: &Config,
    changes: &Changes,
    domain: &Domain,
) -> Option<BlockedDomain> {
    blocked(config, changes, &mut Vec::new()).into_iter().find(|block| block.domain == *domain)
}

/// Whether this allowance can stand beside what the file says: one domain has one partner, and one
/// certificate proves one of them.
pub(super) fn may_allow(config: &Config, entry: &AllowedDomain) -> Result<(), StoreError> {
    if config.domains.contains(&entry.domain) {
        return Err(StoreError::Ours(entry.domain.clone()));
    }
    if config.xmpp.partners.iter().any(|partner| partner.is_of(&entry.domain)) {
        return Err(StoreError::Xmpp(entry.domain.clone()));
    }
    if entry.proxy_fqdn.as_ref() == Some(&config.fqdn) {
        return Err(StoreError::OwnServer(config.fqdn.clone()));
    }
    check_from_addresses(&entry.from_addresses).map_err(StoreError::FromAddresses)?;
    no_providers_server(config, entry)
}

/// An allowed server must be neither a provider's host nor pinned for a provider's domain.
fn no_providers_server(config: &Config, entry: &AllowedDomain) -> Result<(), StoreError> {
    let Some(server) = &entry.proxy_fqdn else { return Ok(()) };
    for provider in config.federation.providers() {
        if provider.host == server {
            return Err(StoreError::ProvidersHost(server.clone()));
        }
        if provider.domains.contains(&entry.domain) {
            let (domain, provider) = (entry.domain.clone(), provider.name.to_owned());
            return Err(StoreError::Bound { domain, provider });
        }
    }
    match &config.federation.default_route {
        Some(route) if route.proxy_fqdn == *server => {
            Err(StoreError::ProvidersHost(server.clone()))
        }
        _ => Ok(()),
    }
}

fn blocked(
    config: &Config,
    changes: &Changes,
    differences: &mut Vec<Difference>,
) -> Vec<BlockedDomain> {
    let file: HashMap<&Domain, &BlockedDomain> =
        config.federation.blocked_domains.iter().map(|b| (&b.domain, b)).collect();
    let mut result = Vec::new();
    for entry in &config.federation.blocked_domains {
        let said = changes.domains.get(&entry.domain).and_then(|e| e.blockage.as_ref());
        if said.is_none() {
            result.push(entry.clone());
        }
    }
    for (domain, entry) in &changes.domains {
        let Some(said) = &entry.blockage else { continue };
        let mut differ = |kind| {
            let author = Some(said.author.clone());
            differences.push(Difference { domain: domain.clone(), kind, author });
        };
        match &said.what {
            Blockage::Unblocked => {
                if file.contains_key(domain) {
                    differ(DifferenceKind::Unblocked);
                }
            }
            Blockage::Blocked(_) if is_ours(config, domain) => differ(DifferenceKind::Ours),
            Blockage::Blocked(block) => {
                let mut block = block.clone();
                match file.get(domain) {
                    None => differ(DifferenceKind::Blocked),
                    Some(in_file) if **in_file != block => differ(DifferenceKind::BlockedOtherwise),
                    Some(_) => {}
                }
                let mut ours = config.domains.iter().chain([&config.fqdn]);
                if block.subdomains
                    && let Some(ours) = ours.find(|ours| ours.is_within(domain))
                {
                    block.subdomains = false;
                    differ(DifferenceKind::CoversOurs(ours.clone()));
                }
                result.push(block);
            }
        }
    }
    result
}

fn is_ours(config: &Config, domain: &Domain) -> bool {
    config.domains.contains(domain) || config.fqdn == *domain
}

fn allowed(
    config: &Config,
    changes: &Changes,
    blocked: &[BlockedDomain],
    differences: &mut Vec<Difference>,
) -> Vec<AllowedDomain> {
    let blocks: HashMap<&str, bool> =
        blocked.iter().map(|b| (b.domain.as_str(), b.subdomains)).collect();
    let file: HashMap<&Domain, &AllowedDomain> =
        config.federation.allowed_domains.iter().map(|a| (&a.domain, a)).collect();
    let mut result = Vec::new();
    let mut admit = |entry: &AllowedDomain, author, differences: &mut Vec<Difference>| {
        let domain = entry.domain.clone();
        match covering(&blocks, &domain) {
            Some(by) => {
                let kind = DifferenceKind::HiddenByBlock(by);
                differences.push(Difference { domain, kind, author });
            }
            None => result.push(entry.clone()),
        }
    };
    for entry in &config.federation.allowed_domains {
        let said = changes.domains.get(&entry.domain).and_then(|e| e.allowance.as_ref());
        if said.is_none() {
            admit(entry, None, differences);
        }
    }
    for (domain, entry) in &changes.domains {
        let Some(said) = &entry.allowance else { continue };
        let author = Some(said.author.clone());
        let kind = match (&said.what, file.get(domain)) {
            (Allowance::Removed, Some(_)) => Some(DifferenceKind::Removed),
            (Allowance::Removed, None) => None,
            (Allowance::Allowed(said), in_file) => {
                let entry = in_file.map_or_else(|| said.clone(), |file| joined(file, said));
                match may_allow(config, &entry) {
                    Err(StoreError::Ours(_)) => Some(DifferenceKind::Ours),
                    Err(fault) => {
                        if let Some(in_file) = in_file {
                            admit(in_file, None, differences);
                        }
                        Some(DifferenceKind::Conflicts(fault.to_string()))
                    }
                    Ok(()) => {
                        admit(&entry, author.clone(), differences);
                        match in_file {
                            None => Some(DifferenceKind::Allowed),
                            Some(in_file) if **in_file != entry => {
                                Some(DifferenceKind::AllowedOtherwise)
                            }
                            Some(_) => None,
                        }
                    }
                }
            }
        };
        if let Some(kind) = kind {
            differences.push(Difference { domain: domain.clone(), kind, author });
        }
    }
    result
}

/// What a command said, over what held before it. A command says a server with its port, addresses,
/// a verification level; what it does not say stays: an allowance at runtime takes no pin, no
/// demand and no bound away.
pub(super) fn joined(before: &AllowedDomain, said: &AllowedDomain) -> AllowedDomain {
    let mut entry = before.clone();
    if said.proxy_fqdn.is_some() {
        entry.proxy_fqdn.clone_from(&said.proxy_fqdn);
        entry.port = said.port;
    }
    for prefix in &said.from_addresses {
        if !entry.from_addresses.contains(prefix) {
            entry.from_addresses.push(*prefix);
        }
    }
    entry.options.verification = said.options.verification.or(entry.options.verification);
    entry
}

/// The block that covers a domain: its own, or one above with subdomains.
fn covering(blocks: &HashMap<&str, bool>, domain: &Domain) -> Option<Domain> {
    let mut name = domain.as_str();
    if blocks.contains_key(name) {
        return Some(domain.clone());
    }
    while let Some((_, above)) = name.split_once('.') {
        if blocks.get(above) == Some(&true) {
            return above.parse().ok();
        }
        name = above;
    }
    None
}
