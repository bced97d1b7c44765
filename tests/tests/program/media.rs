//! Media flows.

use edge_ebpf::verdict::Reason;

/// The reasons that the tests of this folder reach.
pub const REACHED_HERE: [Reason; 9] = [
    Reason::MediaRelayed,
    Reason::MediaToDaemon,
    Reason::MediaSource,
    Reason::MediaExpired,
    Reason::MediaNoRoute,
    Reason::MediaRate,
    Reason::MediaLearning,
    Reason::MediaShape,
    Reason::MediaHops,
];
