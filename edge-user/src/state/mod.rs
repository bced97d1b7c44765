//! What an administrator changed at runtime, and the last good addresses of blocked domains and
//! partners.
//!
//! Order of authority: a runtime change holds over the file where both speak of the same thing;
//! [`effective`] joins the two and lists every such difference. The store is checksummed and
//! written atomically; a corrupt one is set aside with an alarm and never half-read, and one that
//! cannot be read is never overwritten. Times are wall-clock, so that an expiry outlives a reboot.

mod about;
mod disk;
mod effective;
mod versions;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    config::{AllowedDomain, BlockedDomain, Config, check_from_addresses},
    domain::Domain,
    firewall::{BlockOwner, BlockRequest},
};

pub use about::{AddressRecord, BY_DNS, DomainRecord, about};
pub use disk::Alarm;
pub use effective::{Difference, DifferenceKind, Effective, effective};
pub use versions::{
    Choice, MAX_VERSIONS, Moment, Pending, Version, VersionError, Versions, choose,
};
pub use watch::WatchFile;

/// Runtime changes about domains are at most this many.
pub const MAX_DOMAINS: usize = 20_000;
/// Administrator's blocks are at most this many.
pub const MAX_BLOCKS: usize = 50_000;
/// Addresses remembered for one domain.
pub const MAX_ADDRESSES: usize = 64;
/// A comment, or who made a change, is at most this long.
const MAX_WORDS: usize = 256;

const CHANGES: &str = "changes.json";
const ADDRESSES: &str = "addresses.json";

/// Who made a change, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// The user's name, or `uid 1000`.
    pub by: String,
    /// Seconds since 1970.
    pub at: u64,
}

impl Author {
    /// `by`, at this time.
    pub fn new(by: &str, at: SystemTime) -> Self {
        Self { by: words(by), at: unix(at) }
    }

    /// When.
    pub fn time(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.at)).unwrap_or(UNIX_EPOCH)
    }
}

/// Seconds since 1970.
fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Free text, cut, and without control characters.
fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}

/// What an administrator said about a domain's allowance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Allowance {
    /// It is allowed, so.
    Allowed(AllowedDomain),
    /// The file's entry does not count.
    Removed,
}

/// What an administrator said about a domain's block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Blockage {
    /// It is blocked, so.
    Blocked(BlockedDomain),
    /// The file's entry does not count.
    Unblocked,
}

/// A statement with its author.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Said<T> {
    what: T,
    #[serde(flatten)]
    author: Author,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainEntry {
    allowance: Option<Said<Allowance>>,
    blockage: Option<Said<Blockage>>,
}

/// An administrator's block of an address or prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdministratorBlock {
    /// Why.
    pub comment: Option<String>,
    /// Seconds since 1970 when it ends; `None`: when it is taken back.
    pub expires_at: Option<u64>,
    /// Who and when.
    #[serde(flatten)]
    pub author: Author,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    domains: BTreeMap<Domain, DomainEntry>,
    blocks: BTreeMap<IpNet, AdministratorBlock>,
}

/// The last answer of DNS that could be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastGood {
    /// At most [`MAX_ADDRESSES`].
    pub addresses: Vec<IpAddr>,
    /// Seconds since 1970 when it came.
    pub at: u64,
}

/// Why a change was not made. Nothing is changed then, in memory or on disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// One of our own domains.
    #[error("{0} is one of our own domains: it is neither allowed nor blocked")]
    Ours(Domain),
    /// A block that would cover us.
    #[error("the block of {domain} would cover our own {ours}; block it without subdomains")]
    CoversOurs {
        /// What was to be blocked.
        domain: Domain,
        /// What of ours it covers.
        ours: Domain,
    },
    /// The pinned server is this appliance.
    #[error("{0} is this appliance itself; name the partner's host")]
    OwnServer(Domain),
    /// The domain is an XMPP partner's.
    #[error(
        "{0} is an XMPP partner in the file, and a domain federates over one of the two: take it out of [[xmpp.partner]] first"
    )]
    Xmpp(Domain),
    /// Nobody can send from there.
    #[error("{0}")]
    FromAddresses(String),
    /// The pinned server is a provider's.
    #[error(
        "{0} is the host of a provider, which one certificate would prove too; leave --server out"
    )]
    ProvidersHost(Domain),
    /// The domain belongs to a provider.
    #[error(
        "{domain} belongs to the provider {provider}; take it out there, or leave --server out"
    )]
    Bound {
        /// What was to be allowed.
        domain: Domain,
        /// The provider's name.
        provider: String,
    },
    /// A wider block covers it.
    #[error("{domain} is covered by the block of {by} and its subdomains; unblock {by} first")]
    Covered {
        /// What was to be allowed or unblocked.
        domain: Domain,
        /// The block.
        by: Domain,
    },
    /// Nothing to unblock.
    #[error("{0} is not blocked; `edge domain list` shows what is")]
    NotBlocked(Domain),
    /// Nothing to remove.
    #[error("{0} is not allowed; `edge domain list` shows what is")]
    NotAllowed(Domain),
    /// No such administrator's block.
    #[error("{0} is not blocked by an administrator; `edge block list` shows what is")]
    NoSuchBlock(IpNet),
    /// The file holds that block.
    #[error("{0} is blocked by the configuration file; take [[firewall.block]] out and reload")]
    BlockedByFile(IpNet),
    /// A block of everybody.
    #[error("{0} would block everybody; name a smaller prefix")]
    Everybody(IpNet),
    /// A bound is reached.
    #[error("the store is full ({0}); take back changes that are not needed any more")]
    Full(&'static str),
    /// The store on disk could not be read at start, and is not overwritten.
    #[error("the store {0} could not be read at start; mend it and start again")]
    ReadOnly(PathBuf),
    /// Writing failed; the former store is still there.
    #[error("the store {path} could not be written: {error}; check the disk and the rights")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// The runtime changes, in memory and on disk. Every change is on disk when its call returns
/// (it waits for the disk: call it where blocking is fine).
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    changes: Changes,
    changes_writable: bool,
    last_good: BTreeMap<Domain, LastGood>,
    last_good_writable: bool,
}

impl Store {
    /// Reads the store in `directory` (made when missing). What cannot be used is told in the
    /// alarms, and the store begins empty in that part.
    pub fn open(directory: &Path) -> (Self, Vec<Alarm>) {
        let mut alarms = Vec::new();
        disk::prepare(directory, &mut alarms);
        let (changes, changes_writable) =
            disk::read(&directory.join(CHANGES), Changes::is_within_bounds, &mut alarms);
        let fits = |map: &BTreeMap<Domain, LastGood>| {
            map.len() <= MAX_DOMAINS && map.values().all(|l| l.addresses.len() <= MAX_ADDRESSES)
        };
        let (last_good, last_good_writable) =
            disk::read(&directory.join(ADDRESSES), fits, &mut alarms);
        let directory = directory.to_owned();
        (Self { directory, changes, changes_writable, last_good, last_good_writable }, alarms)
    }

    /// Reads the store of another process, and changes nothing: what cannot be read is empty,
    /// and the fault is told.
    pub fn peek(directory: &Path) -> (Self, Vec<String>) {
        let mut faults = Vec::new();
        let changes = disk::peek(&directory.join(CHANGES), &mut faults);
        let last_good = disk::peek(&directory.join(ADDRESSES), &mut faults);
        let directory = directory.to_owned();
        let (changes_writable, last_good_writable) = (false, false);
        (Self { directory, changes, changes_writable, last_good, last_good_writable }, faults)
    }

    /// Makes a change, first on disk, then here.
    fn change<R>(
        &mut self,
        make: impl FnOnce(&mut Changes) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let path = self.directory.join(CHANGES);
        if !self.changes_writable {
            return Err(StoreError::ReadOnly(path));
        }
        let mut changes = self.changes.clone();
        let result = make(&mut changes)?;
        changes.domains.retain(|_, e| e.allowance.is_some() || e.blockage.is_some());
        if changes.domains.len() > MAX_DOMAINS {
            return Err(StoreError::Full("domains"));
        }
        if changes.blocks.len() > MAX_BLOCKS {
            return Err(StoreError::Full("blocks"));
        }
        if changes != self.changes {
            disk::write(&path, &changes).map_err(|error| StoreError::Write { path, error })?;
            self.changes = changes;
        }
        Ok(result)
    }

    /// Allows a partner domain; a block of the same name ends. Refused for a domain of ours and
    /// below a wider block.
    pub fn domain_allow(
        &mut self,
        config: &Config,
        entry: AllowedDomain,
        author: &Author,
    ) -> Result<(), StoreError> {
        if config.domains.contains(&entry.domain) {
            return Err(StoreError::Ours(entry.domain));
        }
        if config.xmpp.partners.iter().any(|partner| partner.is_of(&entry.domain)) {
            return Err(StoreError::Xmpp(entry.domain));
        }
        if entry.proxy_fqdn.as_ref() == Some(&config.fqdn) {
            return Err(StoreError::OwnServer(config.fqdn.clone()));
        }
        check_from_addresses(&entry.from_addresses).map_err(StoreError::FromAddresses)?;
        effective::no_providers_server(config, &entry)?;
        if let Some(by) = effective::wider_block(config, &self.changes, &entry.domain) {
            return Err(StoreError::Covered { domain: entry.domain, by });
        }
        let in_file = file_blocks(config, &entry.domain);
        self.change(|changes| {
            let state = changes.domains.entry(entry.domain.clone()).or_default();
            state.blockage = in_file.then(|| said(Blockage::Unblocked, author));
            state.allowance = Some(said(Allowance::Allowed(entry), author));
            Ok(())
        })
    }

    /// Whether this domain may be blocked at all: none of ours, nor one of ours below it.
    pub fn may_block(config: &Config, entry: &BlockedDomain) -> Result<(), StoreError> {
        if config.domains.contains(&entry.domain) || config.fqdn == entry.domain {
            return Err(StoreError::Ours(entry.domain.clone()));
        }
        let mut ours = config.domains.iter().chain([&config.fqdn]);
        match ours.find(|ours| entry.subdomains && ours.is_within(&entry.domain)) {
            Some(ours) => {
                Err(StoreError::CoversOurs { ours: ours.clone(), domain: entry.domain.clone() })
            }
            None => Ok(()),
        }
    }

    /// Blocks a domain. An allowance of the same name, or below it with `subdomains`, does not
    /// count while the block lasts.
    pub fn domain_block(
        &mut self,
        config: &Config,
        entry: BlockedDomain,
        author: &Author,
    ) -> Result<(), StoreError> {
        Self::may_block(config, &entry)?;
        self.change(|changes| {
            let state = changes.domains.entry(entry.domain.clone()).or_default();
            state.blockage = Some(said(Blockage::Blocked(entry), author));
            Ok(())
        })
    }

    /// Takes a domain's block back, whoever made it: the file's entry is hidden.
    pub fn domain_unblock(
        &mut self,
        config: &Config,
        domain: &Domain,
        author: &Author,
    ) -> Result<(), StoreError> {
        let in_file = file_blocks(config, domain);
        let blocked = match self.changes.domains.get(domain).and_then(|e| e.blockage.as_ref()) {
            Some(said) => matches!(said.what, Blockage::Blocked(_)),
            None => in_file,
        };
        if !blocked {
            return Err(match effective::wider_block(config, &self.changes, domain) {
                Some(by) => StoreError::Covered { domain: domain.clone(), by },
                None => StoreError::NotBlocked(domain.clone()),
            });
        }
        self.change(|changes| {
            let state = changes.domains.entry(domain.clone()).or_default();
            state.blockage = in_file.then(|| said(Blockage::Unblocked, author));
            Ok(())
        })
    }

    /// Takes a domain's allowance back, whoever made it: the file's entry is hidden.
    pub fn domain_remove(
        &mut self,
        config: &Config,
        domain: &Domain,
        author: &Author,
    ) -> Result<(), StoreError> {
        let in_file = config.federation.allowed_domains.iter().any(|a| a.domain == *domain);
        let allowed = match self.changes.domains.get(domain).and_then(|e| e.allowance.as_ref()) {
            Some(said) => matches!(said.what, Allowance::Allowed(_)),
            None => in_file,
        };
        if !allowed {
            return Err(StoreError::NotAllowed(domain.clone()));
        }
        self.change(|changes| {
            let state = changes.domains.entry(domain.clone()).or_default();
            state.allowance = in_file.then(|| said(Allowance::Removed, author));
            Ok(())
        })
    }

    /// Whether this prefix may be blocked at all: it is not everybody.
    pub fn may_block_address(prefix: IpNet) -> Result<(), StoreError> {
        if prefix.prefix_len() == 0 { Err(StoreError::Everybody(prefix.trunc())) } else { Ok(()) }
    }

    /// Blocks an address or prefix, or changes its comment and expiry.
    pub fn block_add(
        &mut self,
        prefix: IpNet,
        comment: Option<&str>,
        expires_at: Option<SystemTime>,
        author: &Author,
    ) -> Result<(), StoreError> {
        let prefix = prefix.trunc();
        Self::may_block_address(prefix)?;
        let block = AdministratorBlock {
            comment: comment.map(words),
            expires_at: expires_at.map(unix),
            author: author.clone(),
        };
        self.change(|changes| {
            changes.blocks.insert(prefix, block);
            Ok(())
        })
    }

    /// Takes an administrator's block back.
    pub fn block_remove(&mut self, config: &Config, prefix: IpNet) -> Result<(), StoreError> {
        let prefix = prefix.trunc();
        self.change(|changes| match changes.blocks.remove(&prefix) {
            Some(_) => Ok(()),
            None if config.firewall.blocks.iter().any(|b| b.trunc() == prefix) => {
                Err(StoreError::BlockedByFile(prefix))
            }
            None => Err(StoreError::NoSuchBlock(prefix)),
        })
    }

    /// Takes out what has no meaning any more: blocks past their expiry, and hidings of blocks
    /// that the file no longer has (a block that comes back to the file later shall hold). To be
    /// called at start, after a reload and now and then. `true`: something went.
    pub fn tidy(&mut self, config: &Config, now: SystemTime) -> Result<bool, StoreError> {
        let before = self.changes.clone();
        self.change(|changes| {
            changes.blocks.retain(|_, block| block.expires_at.is_none_or(|end| end > unix(now)));
            for (domain, entry) in &mut changes.domains {
                let hides = |s: &Said<Blockage>| s.what == Blockage::Unblocked;
                if entry.blockage.as_ref().is_some_and(hides) && !file_blocks(config, domain) {
                    entry.blockage = None;
                }
            }
            Ok(())
        })?;
        Ok(self.changes != before)
    }

    /// Administrator's blocks, expired ones too.
    pub fn blocks(&self) -> impl Iterator<Item = (&IpNet, &AdministratorBlock)> {
        self.changes.blocks.iter()
    }

    /// Administrator's blocks that hold at `now`, as the firewall wants them.
    pub fn block_requests(&self, now: SystemTime) -> Vec<BlockRequest> {
        let holds = |b: &AdministratorBlock| b.expires_at.is_none_or(|end| end > unix(now));
        self.blocks()
            .filter(|(_, block)| holds(block))
            .map(|(prefix, block)| BlockRequest {
                prefix: *prefix,
                owner: BlockOwner::Administrator,
                comment: block.comment.clone(),
                expires_at: block
                    .expires_at
                    .and_then(|end| UNIX_EPOCH.checked_add(Duration::from_secs(end))),
            })
            .collect()
    }

    /// Last good addresses of every blocked domain that had some.
    pub fn last_good(&self) -> &BTreeMap<Domain, LastGood> {
        &self.last_good
    }

    /// Remembers a domain's good addresses; written only when they differ from what is there.
    pub fn set_last_good(
        &mut self,
        domain: &Domain,
        addresses: &[IpAddr],
        at: SystemTime,
    ) -> Result<(), StoreError> {
        let addresses: Vec<IpAddr> = addresses.iter().take(MAX_ADDRESSES).copied().collect();
        if self.last_good.get(domain).is_some_and(|l| l.addresses == addresses) {
            return Ok(());
        }
        let mut last_good = self.last_good.clone();
        last_good.insert(domain.clone(), LastGood { addresses, at: unix(at) });
        self.write_last_good(last_good)
    }

    /// Forgets the addresses of all domains but these.
    pub fn keep_last_good(&mut self, keep: impl Fn(&Domain) -> bool) -> Result<(), StoreError> {
        if self.last_good.keys().all(&keep) {
            return Ok(());
        }
        let mut last_good = self.last_good.clone();
        last_good.retain(|domain, _| keep(domain));
        self.write_last_good(last_good)
    }

    fn write_last_good(&mut self, map: BTreeMap<Domain, LastGood>) -> Result<(), StoreError> {
        let path = self.directory.join(ADDRESSES);
        if !self.last_good_writable {
            return Err(StoreError::ReadOnly(path));
        }
        if map.len() > MAX_DOMAINS {
            return Err(StoreError::Full("addresses of domains"));
        }
        disk::write(&path, &map).map_err(|error| StoreError::Write { path, error })?;
        self.last_good = map;
        Ok(())
    }
}

impl Changes {
    fn is_within_bounds(&self) -> bool {
        self.domains.len() <= MAX_DOMAINS && self.blocks.len() <= MAX_BLOCKS
    }
}

fn said<T>(what: T, author: &Author) -> Said<T> {
    Said { what, author: author.clone() }
}

fn file_blocks(config: &Config, domain: &Domain) -> bool {
    config.federation.blocked_domains.iter().any(|b| b.domain == *domain)
}
