//! What the system lets a process have, beside what the configuration wants of it.

use rustix::process::{Resource, getrlimit};

use crate::config::Limits;

/// Descriptors beside connections: maps, logs, listeners, requests, lists, what opens connections.
const RESERVE: u64 = 1024;

/// What there is to say when not every connection can have its descriptor.
pub(super) fn descriptors(limits: &Limits) -> Option<String> {
    told(limits.connections as u64, getrlimit(Resource::Nofile).current)
}

fn told(connections: u64, allowed: Option<u64>) -> Option<String> {
    let wanted = connections.saturating_add(RESERVE);
    allowed.filter(|allowed| *allowed < wanted).map(|allowed| {
        format!(
            "[limits] connections = {connections} wants {wanted} open files, and the system allows \
             {allowed}: raise LimitNOFILE= of the unit (`ulimit -n`), or lower the limit"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_cannot_be_had_are_told() {
        for (connections, allowed, is_told) in [
            (4096, Some(65_536), false),
            (64_512, Some(65_536), false),
            (64_513, Some(65_536), true),
            (1_000_000, Some(65_536), true),
            (1_000_000, None, false),
        ] {
            assert_eq!(told(connections, allowed).is_some(), is_told, "{connections} {allowed:?}");
        }
    }
}
