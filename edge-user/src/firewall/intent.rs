//! What others may ask of the firewall.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::domain::Domain;

/// Who holds a block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockOwner {
    /// The configuration file: everything from the address is dropped.
    File,
    /// An administrator at runtime: everything from the address is dropped.
    Administrator,
    /// Our own address as a source: who sends with it from outside lies.
    OwnAddress,
    /// A named list: everything from its members is dropped.
    List(String),
    /// A blocked domain: what goes to federation ports is dropped.
    Domain(Domain),
    /// A discovered partner on the watch list: what goes to federation ports is dropped.
    Watch(Domain),
    /// Who guesses passwords of remote users: what goes to the ports of these is dropped.
    WrongPasswords,
}

/// A block that should be in force.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockRequest {
    /// Address (as /32 or /128) or prefix.
    pub prefix: IpNet,
    /// Who asks.
    pub owner: BlockOwner,
    /// Why, in words.
    pub comment: Option<String>,
    /// When it ends; `None`: when its owner takes it back.
    pub expires_at: Option<SystemTime>,
}

/// What others ask of the firewall's owner.
#[derive(Clone, Debug)]
pub enum Intent {
    /// Put a block in force (again, or with another expiry). Idempotent.
    Block(BlockRequest),
    /// Take back an owner's hold; the block goes when no owner is left.
    Unblock {
        /// Address or prefix.
        prefix: IpNet,
        /// Whose hold.
        owner: BlockOwner,
    },
    /// Exactly these are this owner's blocks from now on: adds, changes and removes as needed.
    SetOwnerBlocks {
        /// Whose.
        owner: BlockOwner,
        /// All of them.
        blocks: Vec<BlockRequest>,
    },
    /// Exactly these are the partners' addresses from now on, for rules that are for partners.
    SetPartners(Vec<IpNet>),
    /// A peer at this address has proved who it is: under the limits of the access service it has
    /// a bucket of its own from now on, which nobody else can use up.
    Known(IpAddr),
    /// Put the configuration's rules and settings in force, in one step.
    SetConfig(std::sync::Arc<crate::config::Config>),
    /// As [`Intent::SetConfig`], to come back to a configuration that was in force: devices that
    /// are gone meanwhile, or refuse the program, do not keep the others from its rules.
    PutBack(std::sync::Arc<crate::config::Config>),
    /// Count, beside the rules in force, what this configuration's rules would have done
    /// otherwise. Ends with the next [`Intent::SetConfig`].
    SetShadow(std::sync::Arc<crate::config::Config>),
    /// No more of that.
    StopShadow,
}

/// What came of an intent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Kernel entries added.
    pub added: u64,
    /// Kernel entries changed.
    pub changed: u64,
    /// Kernel entries removed.
    pub removed: u64,
    /// Time from taking the intent up to the last kernel write.
    pub took: Duration,
}
