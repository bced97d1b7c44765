//! What the file and the store say about one address: whose it is, and who blocks it.

use std::{net::IpAddr, time::SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{AdministratorBlock, Store, effective};
use crate::{config::Config, domain::Domain};

/// How most domains come to an address.
pub const BY_DNS: &str = "one of its edges, by DNS";

/// What is known of an address beside the kernel's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    /// Allowed domains that are there.
    pub partners: Vec<DomainRecord>,
    /// Blocked domains that are there.
    pub blocked_domains: Vec<DomainRecord>,
    /// Administrator's blocks that hold it.
    pub administrator: Vec<(IpNet, AdministratorBlock)>,
    /// Blocks of the file that hold it.
    pub file: Vec<IpNet>,
}

/// A domain, and how it comes to the address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRecord {
    /// The domain.
    pub domain: Domain,
    /// `from_addresses of the file` and the like.
    pub why: String,
}

/// Looks an address up.
pub fn about(config: &Config, store: &Store, now: SystemTime, address: IpAddr) -> AddressRecord {
    let in_force = effective(config, store, now).federation;
    let by_dns = |domain: &Domain| {
        let known = store.last_good().get(domain);
        known.is_some_and(|last| last.addresses.contains(&address))
    };
    let mut record = AddressRecord::default();
    for entry in &in_force.allowed_domains {
        let domain = entry.domain.clone();
        if let Some(prefix) = entry.from_addresses.iter().find(|prefix| prefix.contains(&address)) {
            let why = format!("sends from {prefix} (from_addresses of its entry)");
            record.partners.push(DomainRecord { domain, why });
        } else if by_dns(&domain) {
            let why = BY_DNS.to_owned();
            record.partners.push(DomainRecord { domain, why });
        }
    }
    for entry in in_force.blocked_domains.iter().filter(|entry| by_dns(&entry.domain)) {
        let why = BY_DNS.to_owned();
        record.blocked_domains.push(DomainRecord { domain: entry.domain.clone(), why });
    }
    let ended = |block: &AdministratorBlock| {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        block.expires_at.is_some_and(|at| at <= now)
    };
    let blocks = store.blocks().filter(|(prefix, b)| prefix.contains(&address) && !ended(b));
    record.administrator = blocks.map(|(prefix, block)| (*prefix, block.clone())).collect();
    let file = config.firewall.blocks.iter().filter(|prefix| prefix.contains(&address));
    record.file = file.copied().collect();
    record
}
