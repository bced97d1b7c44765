//! What an administrator changed at runtime, and the last good addresses of blocked domains and
//! partners.
//!
//! Order of authority: a runtime change holds over the file where both speak of the same thing;
//! [`effective`] joins the two and lists every such difference. The store is checksummed, written
//! atomically and twice; a corrupt file is restored from its copy, and what cannot be read or was
//! written by another version is never overwritten. Of a store that is lost nobody can say what it
//! blocked: nothing is let go in the kernel then, and nobody is discovered. A change holds even
//! when the disk does not take it, and is written when it does. Times are wall-clock, so that an
//! expiry outlives a reboot.

mod about;
mod disk;
mod effective;
pub(crate) mod grace;
mod kept;
mod last_good;
mod versions;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use self::grace::Grace;
use crate::{
    config::{AllowedDomain, BlockedDomain, Config},
    domain::Domain,
    firewall::{BlockOwner, BlockRequest},
    plain::is_plain,
};

pub use about::{AddressRecord, BY_DNS, DomainRecord, about};
pub use disk::Alarm;
pub use effective::{Difference, DifferenceKind, Effective, effective};
pub use kept::{Kept, KeptFile};
pub use last_good::{LastGood, Unwritten};
pub use versions::{
    Choice, MAX_VERSIONS, Moment, Pending, Version, VersionError, Versions, choose,
};

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

/// Free text, cut, and without characters that control, hide or turn what stands around them.
pub fn words(text: &str) -> String {
    text.chars().filter(|c| is_plain(*c)).take(MAX_WORDS).collect()
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

impl AdministratorBlock {
    /// Its time is over at `now`, in seconds since 1970.
    fn is_over(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    domains: BTreeMap<Domain, DomainEntry>,
    blocks: BTreeMap<IpNet, AdministratorBlock>,
}

/// Why a change was not made. Nothing is changed then, in memory or on disk, but for
/// [`StoreError::NotKept`].
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
    /// The change holds, but only until the next start.
    #[error("it is in force, but not kept for the next start: {0}")]
    NotKept(Box<StoreError>),
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

impl StoreError {
    /// The change holds all the same.
    pub fn is_in_force(&self) -> bool {
        matches!(self, Self::NotKept(_))
    }
}

/// The runtime changes, in memory and on disk. Every change is on disk when its call returns
/// (it waits for the disk: call it where blocking is fine); last good addresses are when
/// [`Unwritten`] says so.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    changes: Changes,
    changes_writable: bool,
    /// What the changes on disk were is not known.
    lost: bool,
    /// The disk did not take what holds.
    unkept: Option<String>,
    last_good: BTreeMap<Domain, LastGood>,
    last_good_writable: bool,
    last_good_unwritten: bool,
    /// Domains whose last good addresses nobody wants.
    unwanted: Grace<Domain>,
    /// Administrator's blocks whose time is over.
    ended: Grace<IpNet>,
}

impl Store {
    /// Reads the store in `directory` (made when missing). What cannot be used is told in the
    /// alarms, and the store begins empty in that part.
    pub fn open(directory: &Path) -> (Self, Vec<Alarm>) {
        let mut alarms = Vec::new();
        disk::prepare(directory, &mut alarms);
        let changes =
            disk::read_copied(&directory.join(CHANGES), Changes::is_within_bounds, &mut alarms);
        let fits = |map: &BTreeMap<Domain, LastGood>| {
            let few = |l: &LastGood| l.addresses.len().max(l.blocked.len()) <= MAX_ADDRESSES;
            map.len() <= MAX_DOMAINS && map.values().all(few)
        };
        let (last_good, last_good_writable) =
            disk::read(&directory.join(ADDRESSES), fits, &mut alarms);
        let store = Self {
            changes: changes.value,
            changes_writable: changes.writable,
            lost: changes.lost,
            last_good,
            last_good_writable,
            ..Self::empty(directory)
        };
        (store, alarms)
    }

    /// Reads the store of another process, and changes nothing: what cannot be read is empty,
    /// and the fault is told.
    pub fn peek(directory: &Path) -> (Self, Vec<String>) {
        let mut faults = Vec::new();
        let changes = disk::peek(&directory.join(CHANGES), &mut faults);
        let last_good = disk::peek(&directory.join(ADDRESSES), &mut faults);
        (Self { changes, last_good, ..Self::empty(directory) }, faults)
    }

    fn empty(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            changes: Changes::default(),
            changes_writable: false,
            lost: false,
            unkept: None,
            last_good: BTreeMap::new(),
            last_good_writable: false,
            last_good_unwritten: false,
            unwanted: Grace::default(),
            ended: Grace::default(),
        }
    }

    /// What was changed at runtime before this start is not known: blocks that the kernel holds
    /// must stay, whoever claims them.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Why what holds would not hold after a restart.
    pub fn unkept(&self) -> Option<&str> {
        self.unkept.as_deref()
    }

    /// Makes a change. It holds even when the disk does not take it; that is told, and tried
    /// again with the next one and by [`Self::tidy`].
    fn change<R>(
        &mut self,
        make: impl FnOnce(&mut Changes) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let mut changes = self.changes.clone();
        let result = make(&mut changes)?;
        changes.domains.retain(|_, e| e.allowance.is_some() || e.blockage.is_some());
        if changes.domains.len() > MAX_DOMAINS {
            return Err(StoreError::Full("domains"));
        }
        if changes.blocks.len() > MAX_BLOCKS {
            return Err(StoreError::Full("blocks"));
        }
        if changes == self.changes && self.unkept.is_none() {
            return Ok(result);
        }
        let path = self.directory.join(CHANGES);
        let written = match self.changes_writable {
            true => disk::write_copied(&path, &changes)
                .map_err(|error| StoreError::Write { path, error }),
            false => Err(StoreError::ReadOnly(path)),
        };
        self.changes = changes;
        self.unkept = written.as_ref().err().map(ToString::to_string);
        written.map_err(|fault| StoreError::NotKept(Box::new(fault)))?;
        Ok(result)
    }

    /// Allows a partner domain; a block of the same name ends. What `entry` does not say stays as
    /// file and earlier changes have it: [`Self::domain_remove`] first to begin anew. Refused for a
    /// domain of ours and below a wider block.
    pub fn domain_allow(
        &mut self,
        config: &Config,
        entry: AllowedDomain,
        author: &Author,
    ) -> Result<(), StoreError> {
        let entry = match self.changes.domains.get(&entry.domain).map(|e| &e.allowance) {
            Some(Some(Said { what: Allowance::Allowed(before), .. })) => {
                effective::joined(before, &entry)
            }
            _ => entry,
        };
        let file = &config.federation.allowed_domains;
        let in_file = file.iter().find(|in_file| in_file.domain == entry.domain);
        match in_file {
            Some(in_file) => effective::may_allow(config, &effective::joined(in_file, &entry))?,
            None => effective::may_allow(config, &entry)?,
        }
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

    /// A block joined with the one of the same name that holds: it never becomes narrower.
    pub fn widened(&self, config: &Config, entry: BlockedDomain) -> BlockedDomain {
        let holds = effective::block_of(config, &self.changes, &entry.domain);
        let subdomains = entry.subdomains || holds.is_some_and(|block| block.subdomains);
        BlockedDomain { subdomains, ..entry }
    }

    /// Blocks a domain, as widely at least as it is already ([`Self::widened`]). An allowance of
    /// the same name, or below it with `subdomains`, does not count while the block lasts.
    pub fn domain_block(
        &mut self,
        config: &Config,
        entry: BlockedDomain,
        author: &Author,
    ) -> Result<(), StoreError> {
        let entry = self.widened(config, entry);
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
            if changes.blocks.len() > MAX_BLOCKS {
                // Those whose time is over make room.
                changes.blocks.retain(|_, block| !block.is_over(author.at));
            }
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

    /// Takes out what has no meaning any more: blocks past their expiry, some time after it, and
    /// hidings of blocks that the file no longer has (a block that comes back to the file later
    /// shall hold). To be called at start, after a reload and now and then. `true`: something went.
    pub fn tidy(
        &mut self,
        config: &Config,
        now: SystemTime,
        clock: Instant,
    ) -> Result<bool, StoreError> {
        let before = self.changes.clone();
        let ended = self.changes.blocks.iter().filter(|(_, block)| block.is_over(unix(now)));
        let gone = self.ended.over(ended.map(|(prefix, _)| *prefix), clock);
        self.change(|changes| {
            changes.blocks.retain(|prefix, _| !gone.contains(prefix));
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
        self.blocks()
            .filter(|(_, block)| !block.is_over(unix(now)))
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
