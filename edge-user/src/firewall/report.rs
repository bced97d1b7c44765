//! What the firewall tells about itself. All of it can be printed as JSON.

use std::time::SystemTime;

use ipnet::IpNet;
use serde::Serialize;

use super::BlockOwner;

/// How an XDP program sits on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the stack, after a buffer was allocated: slow.
    Generic,
}

/// How the program at a device's egress is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EgressHook {
    /// By a pinned link of traffic control express.
    Tcx,
    /// By a filter of the clsact qdisc: the kernel is older than 6.6.
    Clsact,
}

/// A device the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attached {
    /// Name of the device.
    pub device: String,
    /// Its index.
    pub ifindex: u32,
    /// Where the program runs.
    pub mode: AttachMode,
    /// How the program at its egress is attached.
    pub egress: EgressHook,
    /// Kernel id of the pinned XDP link.
    pub link_id: u32,
    /// Kernel id of the XDP program.
    pub program_id: u32,
    /// The link was there already, and was only given a new program.
    pub adopted: bool,
}

/// What a start found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StartReport {
    /// Maps were pinned already and are used on.
    pub adopted: bool,
    /// The generation in force, 0 or 1.
    pub generation: u32,
    /// Devices with the program.
    pub attached: Vec<Attached>,
    /// Configured devices that do not exist (only `edge load` goes on without them).
    pub missing: Vec<String>,
    /// What is not enforced as it should be, and why: devices that refuse the program, blocks
    /// without room (only `edge load` goes on without them).
    pub faults: Vec<String>,
    /// Rules in force, management aside.
    pub rules: usize,
    /// Blocks found in the kernel at the start.
    pub adopted_blocks: u64,
    /// The maps of the version before were there, and were replaced.
    pub migrated: bool,
    /// Blocks that were carried over from those.
    pub migrated_blocks: u64,
    /// What the administrator should know.
    pub warnings: Vec<String>,
}

/// What `detach` took away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DetachReport {
    /// Devices that had the program.
    pub devices: Vec<String>,
    /// Pins removed.
    pub pins: usize,
}

/// Where the rules of `edge load` came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadSource {
    /// The configuration file is good.
    Config,
    /// The file is bad; the rules that were last in force are used.
    LastGood,
    /// Neither is to be had: nobody but administrators gets in.
    Deny,
}

/// What `edge load` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Where the rules came from.
    pub source: LoadSource,
    /// Why they did not come from a better place.
    pub faults: Vec<String>,
    /// What the start found and did.
    pub start: StartReport,
}

/// One side's hold on a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockHold {
    /// Who; `None`: found in the kernel at the start and not claimed yet.
    pub owner: Option<BlockOwner>,
    /// Why, in words.
    pub comment: Option<String>,
    /// When it ends.
    pub expires_at: Option<SystemTime>,
}

/// A block with its owners, as the running daemon knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockRow {
    /// Address or prefix.
    pub prefix: IpNet,
    /// `all`, `federation`, `remote users`, or both of these.
    pub scope: &'static str,
    /// Name of the reason it is counted under.
    pub reason: &'static str,
    /// Who holds it.
    pub holds: Vec<BlockHold>,
}
