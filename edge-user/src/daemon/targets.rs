//! What the daemon tells about the addresses of partners and next hops, and how they are.

use std::time::Instant;

use serde_json::{Value, json};

use super::Daemon;
use crate::{
    config::{Host, NextHop},
    domain::Domain,
    proxy::{DestinationStatus, TargetStatus},
};

impl Daemon {
    /// Each next hop with its addresses.
    pub(super) fn next_hops(&self) -> Vec<Value> {
        self.shell.with_core(|core, now, _| {
            let hops = core.proxy.next_hop_targets(now);
            hops.iter()
                .map(|(hop, status)| {
                    json!({
                        "next_hop": name(hop),
                        "transport": hop.transport,
                        "dns": dns(now, status),
                        "targets": targets(now, status),
                    })
                })
                .collect()
        })
    }

    /// Adds to a partner's row what DNS says of it and how its addresses are; `key`: what its
    /// connections are known by.
    pub(super) fn add_targets(&self, key: &Domain, row: &mut Value) {
        let found = self.shell.with_core(|core, now, _| {
            let status = core.proxy.partner_targets(now, key)?;
            Some((dns(now, &status), targets(now, &status)))
        });
        if let (Some((dns, targets)), Some(row)) = (found, row.as_object_mut()) {
            row.insert("dns".to_owned(), dns);
            row.insert("targets".to_owned(), targets);
        }
    }
}

fn name(hop: &NextHop) -> String {
    match &hop.host {
        Host::Name(name) => format!("{name}:{}", hop.port),
        Host::Srv { service, domain } => format!("{service}.{domain}"),
        Host::Address(address) => std::net::SocketAddr::new(*address, hop.port).to_string(),
    }
}

/// What DNS said last: a fault, how long the answer holds, or nothing yet.
fn dns(now: Instant, status: &DestinationStatus) -> Value {
    match (&status.targets, status.valid_until) {
        (Err(error), _) => json!({ "fault": error.to_string() }),
        (Ok(_), Some(until)) => json!({ "valid_seconds": (until - now).as_secs() }),
        (Ok(_), None) => Value::Null,
    }
}

fn targets(now: Instant, status: &DestinationStatus) -> Value {
    let row = |target: &TargetStatus| {
        let failure = target.failure;
        json!({
            "host": target.host,
            "address": target.address,
            "transport": target.transport,
            "health": if failure.is_some() { "dead" } else { "alive" },
            "cause": failure.map(|f| f.cause.name()),
            "failures": failure.map(|f| f.count),
            "dead_seconds": failure.map(|f| now.saturating_duration_since(f.since).as_secs()),
            "again_seconds": failure.map(|f| f.until.saturating_duration_since(now).as_secs()),
        })
    };
    status.targets.iter().flatten().map(row).collect()
}
