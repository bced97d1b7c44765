//! Configurations in and out of force: by the command, through faults, and under traffic.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod faults;
mod shadow;
mod traffic;
mod zones;

use std::{net::IpAddr, sync::Arc};

use edge_tests::{
    patience::eventually,
    wire::{EDGE4, EDGE6, PEER4, PEER6, Wire},
};
use edge_user::{
    config::Config,
    firewall::{FirewallError, FirewallHandle, Owner, OwnerOptions, StartReport},
};

/// Starts an owner inside the wire's edge namespace.
fn start(wire: &Wire, config: Arc<Config>) -> Result<(FirewallHandle, StartReport), FirewallError> {
    wire.edge.run(move || Owner::start(OwnerOptions::new(&config), config)).unwrap()
}

/// Whether a datagram from outside arrives, by both families alike.
fn passes(wire: &Wire, port: u16) -> bool {
    let [four, six] = [(IpAddr::V4(PEER4), IpAddr::V4(EDGE4)), (PEER6.into(), EDGE6.into())]
        .map(|(from, to)| passes_from(wire, from, to, port));
    assert_eq!(four, six, "IPv4 and IPv6 at port {port}");
    four
}

fn passes_from(wire: &Wire, from: IpAddr, to: IpAddr, port: u16) -> bool {
    wire.passes(from, to, port, 5)
}
