//! The only place that uses aya: load, attach, pin, compile rules, apply verdicts, read counters
//! and events. One owner (a thread) for all writes to kernel maps; it takes [`Intent`]s and
//! reconciles what should be with what is.
//!
//! Pins: `<pins>/v<SCHEMA>/<MAP>`, `<pins>/links/<device>` (XDP) and `<pins>/egress/<device>`
//! (TCX; on kernels before 6.6 the program, whose filter is at clsact). Beside them, in the state folder, `firewall.json` holds what the kernel cannot: the
//! names of rules and the last good plan. A file was chosen over a map of names because a plan
//! must outlive a reboot, which no pin does.
//!
//! It must never: write to a pinned object of another shape, attach in a way that ends with the
//! process, or let a block cover a management prefix.

pub mod capture;
pub mod counters;
pub mod events;
pub mod explain;
pub mod inspect;
pub mod media;
pub mod plan;
pub mod rates;

/// Named lists of blocks, in memory and in the state folder.
pub mod lists {
    pub use super::blocks::{
        Content, ContentBuilder, LineFault, List, ListAbout, ListFault, ListParser, ListTally,
        Outlook, Parsed, StagedFile, list_name, read_all, remove_file, stage_file,
    };
}

mod attach;
mod blocks;
mod debug_log;
mod decode;
mod decode_limits;
mod decode_media;
mod egress;
mod engine;
mod error;
mod forwarding;
mod intent;
mod kernel;
mod migrate;
mod owner;
mod report;
mod shadow;
mod shape;
mod state;
mod sys;
mod watch;

pub use error::FirewallError;
pub use intent::*;
pub use kernel::verified;
pub use owner::{FirewallHandle, Owner, OwnerOptions, detach, load_last_good};
pub use report::*;
pub use shadow::{ShadowRow, ShadowStatus, status as shadow_status};

/// What there is to say when the block tables in force have other room than a configuration wants.
pub fn other_room(config: &crate::config::Config) -> Option<String> {
    let wanted = &config.firewall;
    let room = kernel::room(&config.paths.pins).ok()?;
    kernel::other_room(&room, [wanted.max_blocked_addresses, wanted.max_blocked_prefixes])
}

/// Whether this network namespace has a device of this name.
pub fn exists(device: &str) -> bool {
    sys::ifindex(device).is_some()
}

/// The kernel half, as it was built: `edge_xdp` (XDP) and `edge_egress` (traffic-control
/// classifier) with their maps.
pub static KERNEL_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/edge-xdp"));

/// The toolchain that built [`KERNEL_OBJECT`]: what the verifier makes of it depends on that.
pub const KERNEL_TOOLCHAIN: &str = env!("EDGE_KERNEL_TOOLCHAIN");
