//! The one owner of the kernel's maps.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{Applied, BlockRow, DetachReport, FirewallError, Intent, LoadReport, StartReport};
use crate::config::Config;

/// Where the owner keeps what is its own, and how it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerOptions {
    /// Pin folder, on a bpffs.
    pub pins: PathBuf,
    /// Folder for `firewall.json`.
    pub state: PathBuf,
    /// Blocks found in the kernel that nobody has claimed after this time go.
    pub settle_after: Duration,
    /// Let the kernel program's debug messages into the log.
    pub debug_log: bool,
}

impl OwnerOptions {
    /// The usual options for this configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            pins: config.paths.pins.clone(),
            state: config.paths.state.clone(),
            settle_after: Duration::from_secs(120),
            debug_log: false,
        }
    }
}

/// The one owner of the kernel's maps: a thread that takes intents.
#[derive(Debug)]
pub struct Owner;

impl Owner {
    /// Loads or adopts, attaches, and puts the configuration in force. Enforcement stays when
    /// every handle is gone, and when the process dies.
    pub fn start(
        options: OwnerOptions,
        config: Arc<Config>,
    ) -> Result<(FirewallHandle, StartReport), FirewallError> {
        let _ = (options, config);
        Err(FirewallError::Stopped)
    }
}

/// The way to the owner. The owner's thread ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct FirewallHandle {}

impl FirewallHandle {
    /// Applies the intents in their order. When one fails, those before it are in force, and
    /// those after it are not.
    pub async fn apply(&self, intents: Vec<Intent>) -> Result<Applied, FirewallError> {
        let _ = intents;
        Err(FirewallError::Stopped)
    }

    /// As [`Self::apply`], for code outside a runtime.
    pub fn apply_blocking(&self, intents: Vec<Intent>) -> Result<Applied, FirewallError> {
        let _ = intents;
        Err(FirewallError::Stopped)
    }

    /// Says that every owner has named its blocks since the start: what was found in the kernel
    /// and is claimed by nobody goes. Happens by itself after `OwnerOptions::settle_after`.
    pub async fn settle(&self) -> Result<Applied, FirewallError> {
        Err(FirewallError::Stopped)
    }

    /// Every block with its owners.
    pub async fn blocks(&self) -> Result<Vec<BlockRow>, FirewallError> {
        Err(FirewallError::Stopped)
    }
}

/// Takes everything away: links, pins, folders. Refuses while a daemon holds the lock, unless
/// `force`.
pub fn detach(pins: &Path, force: bool) -> Result<DetachReport, FirewallError> {
    let _ = (pins, force);
    Err(FirewallError::Stopped)
}

/// For `edge load`, before the network is up: puts the configuration's rules in force, or, when
/// there is no good configuration, the rules that were last in force. Devices that do not exist
/// yet are named in the report, not an error. Nothing runs on afterwards.
pub fn load_last_good(
    options: OwnerOptions,
    config: Option<Arc<Config>>,
) -> Result<LoadReport, FirewallError> {
    let _ = (options, config);
    Err(FirewallError::Stopped)
}
