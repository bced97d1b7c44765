//! Reading the pins. Works without the daemon; never writes.

use std::path::Path;

use ipnet::IpNet;
use serde::Serialize;

use super::{Attached, FirewallError, plan::RuleRow};

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// A daemon holds the pins.
    pub daemon: bool,
    /// Schema of the pins.
    pub schema: u32,
    /// The generation in force; `None`: no rule set yet.
    pub generation: Option<u32>,
    /// Drops are counted, not done.
    pub monitor: bool,
    /// Sampled events per second, CPU and reason.
    pub events_per_second: u32,
    /// Devices with the program.
    pub attached: Vec<Attached>,
    /// Packets passed since the maps were made.
    pub passed: u64,
    /// Packets dropped since the maps were made (in monitor mode: that would have been).
    pub dropped: u64,
}

/// A reason with its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReasonRow {
    /// Its name.
    pub name: &'static str,
    /// `pass` or `drop`.
    pub verdict: &'static str,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// What it means.
    pub explain: &'static str,
}

/// A rule with its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleCount {
    /// The rule.
    #[serde(flatten)]
    pub rule: RuleRow,
    /// Packets it decided.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// A block as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockEntry {
    /// Address or prefix.
    pub prefix: IpNet,
    /// `all` or `federation`.
    pub scope: &'static str,
    /// Name of the reason.
    pub reason: &'static str,
    /// How many hold it.
    pub owners: u16,
    /// Seconds until it ends; `None`: never; 0: it has ended.
    pub expires_in_seconds: Option<u64>,
}

/// A pinned map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapRow {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Entries in use; for arrays those that are not zero.
    pub entries: u64,
    /// Room for entries.
    pub max_entries: u32,
    /// Memory it takes, as the kernel accounts it.
    pub bytes: u64,
    /// Its pin.
    pub path: std::path::PathBuf,
}

/// What is loaded, and where.
pub fn status(pins: &Path) -> Result<Status, FirewallError> {
    Err(FirewallError::NotLoaded { pins: pins.to_owned() })
}

/// Every reason with its counters.
pub fn reasons(pins: &Path) -> Result<Vec<ReasonRow>, FirewallError> {
    Err(FirewallError::NotLoaded { pins: pins.to_owned() })
}

/// Every rule in force with its counters.
pub fn rules(pins: &Path, state: &Path) -> Result<Vec<RuleCount>, FirewallError> {
    let _ = state;
    Err(FirewallError::NotLoaded { pins: pins.to_owned() })
}

/// Every block in the kernel.
pub fn blocks(pins: &Path) -> Result<Vec<BlockEntry>, FirewallError> {
    Err(FirewallError::NotLoaded { pins: pins.to_owned() })
}

/// Every pinned map.
pub fn maps(pins: &Path) -> Result<Vec<MapRow>, FirewallError> {
    Err(FirewallError::NotLoaded { pins: pins.to_owned() })
}

/// The entries of one map, a JSON object each, with named fields and addresses as text.
pub fn dump(pins: &Path, name: &str) -> Result<Vec<serde_json::Value>, FirewallError> {
    let _ = name;
    Err(FirewallError::NotLoaded { pins: pins.to_owned() })
}
