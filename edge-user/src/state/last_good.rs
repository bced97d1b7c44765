//! The last good addresses of blocked domains and partners: what a start begins with until DNS has
//! answered.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    time::{Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{ADDRESSES, MAX_ADDRESSES, MAX_DOMAINS, Store, StoreError, disk, unix};
use crate::{
    config::BlockedDomain,
    domain::Domain,
    firewall::{BlockOwner, BlockRequest},
};

/// The last answer of DNS that could be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastGood {
    /// At most [`MAX_ADDRESSES`].
    pub addresses: Vec<IpAddr>,
    /// Of a blocked domain: those that are blocked, since nobody else is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<IpAddr>,
    /// Seconds since 1970 when it came.
    pub at: u64,
}

/// Last good addresses that are to be written, away from the store's lock.
#[derive(Debug)]
pub struct Unwritten {
    path: PathBuf,
    map: BTreeMap<Domain, LastGood>,
}

impl Unwritten {
    /// Waits for the disk. When it does not take them, [`Store::last_good_not_written`] has them
    /// tried again.
    pub fn write(self) -> Result<(), StoreError> {
        let Self { path, map } = self;
        disk::write(&path, &map).map_err(|error| StoreError::Write { path, error })
    }
}

impl Store {
    /// Last good addresses of every blocked domain that had some.
    pub fn last_good(&self) -> &BTreeMap<Domain, LastGood> {
        &self.last_good
    }

    /// Remembers a domain's good addresses, in any order; to be written by [`Self::unwritten`].
    /// `true`: they differ from what was there.
    pub fn set_last_good(
        &mut self,
        domain: &Domain,
        addresses: &[IpAddr],
        at: SystemTime,
    ) -> Result<bool, StoreError> {
        let addresses = sorted(addresses);
        if self.last_good.get(domain).is_some_and(|l| l.addresses == addresses) {
            return Ok(false);
        }
        let entry = self.last_good_of(domain)?;
        (entry.addresses, entry.at) = (addresses, unix(at));
        self.last_good_unwritten = true;
        Ok(true)
    }

    /// Remembers which addresses of a domain are blocked, in any order; to be written by
    /// [`Self::unwritten`].
    pub fn set_blocked_at(
        &mut self,
        domain: &Domain,
        addresses: &[IpAddr],
    ) -> Result<(), StoreError> {
        let blocked = sorted(addresses);
        let before = self.last_good.get(domain).map(|l| l.blocked.as_slice()).unwrap_or_default();
        if before != blocked {
            self.last_good_of(domain)?.blocked = blocked;
            self.last_good_unwritten = true;
        }
        Ok(())
    }

    /// What is blocked of these domains as long as nothing newer is known of them.
    pub fn domain_blocks(&self, domains: &[BlockedDomain]) -> Vec<BlockRequest> {
        let of = |entry: &BlockedDomain| {
            let blocked = self.last_good.get(&entry.domain).map(|l| l.blocked.clone());
            let owner = BlockOwner::Domain(entry.domain.clone());
            blocked.unwrap_or_default().into_iter().map(move |address| BlockRequest {
                prefix: address.into(),
                owner: owner.clone(),
                comment: None,
                expires_at: None,
            })
        };
        domains.iter().flat_map(of).collect()
    }

    fn last_good_of(&mut self, domain: &Domain) -> Result<&mut LastGood, StoreError> {
        if self.last_good.len() >= MAX_DOMAINS && !self.last_good.contains_key(domain) {
            // Those that nobody wants any more make room.
            let unwanted = std::mem::take(&mut self.unwanted);
            self.last_good.retain(|domain, _| !unwanted.has(domain));
            if self.last_good.len() >= MAX_DOMAINS {
                return Err(StoreError::Full("addresses of domains"));
            }
        }
        let new = || LastGood { addresses: Vec::new(), blocked: Vec::new(), at: 0 };
        Ok(self.last_good.entry(domain.clone()).or_insert_with(new))
    }

    /// Forgets the addresses of domains that have been unwanted for some time: what an
    /// administrator takes back within that time finds them. To be written by [`Self::unwritten`].
    pub fn keep_last_good(&mut self, keep: impl Fn(&Domain) -> bool, clock: Instant) {
        let unwanted = self.last_good.keys().filter(|domain| !keep(domain)).cloned();
        let gone = self.unwanted.over(unwanted, clock);
        self.last_good.retain(|domain, _| !gone.contains(domain));
        self.last_good_unwritten |= !gone.is_empty();
    }

    /// Last good addresses that are not on the disk, to be written now.
    pub fn unwritten(&mut self) -> Result<Option<Unwritten>, StoreError> {
        if !std::mem::take(&mut self.last_good_unwritten) {
            return Ok(None);
        }
        let path = self.directory.join(ADDRESSES);
        if !self.last_good_writable {
            return Err(StoreError::ReadOnly(path));
        }
        Ok(Some(Unwritten { path, map: self.last_good.clone() }))
    }

    /// What [`Self::unwritten`] gave did not reach the disk.
    pub fn last_good_not_written(&mut self) {
        self.last_good_unwritten = true;
    }
}

fn sorted(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = addresses.iter().take(MAX_ADDRESSES).copied().collect();
    addresses.sort_unstable();
    addresses
}
