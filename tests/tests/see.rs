//! What an administrator sees of the firewall: explanations by the live program, streamed drops,
//! counters. On real devices, in namespaces of their own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::IpAddr, sync::Arc};

use edge_tests::wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire};
use edge_user::{
    config::Config,
    firewall::{
        BlockOwner, BlockRequest, FirewallError, FirewallHandle, Intent, Owner, OwnerOptions,
        explain::{self, Explanation, PacketSpec, protocol},
        inspect,
    },
};
use ipnet::IpNet;

fn start(wire: &Wire, config: Arc<Config>) -> FirewallHandle {
    let started = wire.edge.run(move || Owner::start(OwnerOptions::new(&config), config));
    started.unwrap().unwrap().0
}

fn spec(source: IpAddr, destination: IpAddr, protocol: u8, port: u16) -> PacketSpec {
    PacketSpec {
        vlans: Vec::new(),
        source,
        destination,
        protocol,
        source_port: 40_000,
        destination_port: port,
        tcp_flags: 2,
        icmp: if source.is_ipv4() { (8, 0) } else { (128, 0) },
        payload: Vec::new(),
    }
}

fn ask(wire: &Wire, spec: &PacketSpec) -> Result<Explanation, FirewallError> {
    let asked = wire.edge.run(|| {
        let frame = explain::frame(spec, DEVICE).unwrap();
        explain::packet(&wire.pins, &wire.state, DEVICE, &frame)
    });
    asked.unwrap()
}

fn block(prefix: IpNet, owner: BlockOwner) -> Intent {
    Intent::Block(BlockRequest { prefix, owner, comment: None, expires_at: None })
}

/// Every map in words: what a trial must not change.
fn all_maps(wire: &Wire) -> Vec<(String, Vec<serde_json::Value>)> {
    let maps = inspect::maps(&wire.pins).unwrap();
    let dump = |name: String| {
        let rows = inspect::dump(&wire.pins, &name).unwrap();
        (name, rows)
    };
    maps.into_iter().map(|map| dump(map.name)).collect()
}

#[test]
#[ignore = "the kernel program does not answer trials yet"]
fn a_packet_is_explained_by_the_live_program_and_nothing_changes() {
    let wire = Wire::new("sex").unwrap();
    let handle = start(&wire, wire.config_with(|_| ()));
    let prefix: IpNet = "203.0.113.0/24".parse().unwrap();
    let prefix6: IpNet = "2001:db8:5::/48".parse().unwrap();
    handle
        .apply_blocking(vec![
            block(prefix, BlockOwner::Administrator),
            block(prefix6, BlockOwner::Administrator),
        ])
        .unwrap();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let (edge4, edge6) = (IpAddr::V4(EDGE4), IpAddr::V6(EDGE6));
    let cases = [
        (spec(PEER4.into(), edge4, protocol::TCP, 5061), "pass", "rule", Some("access")),
        (spec(PEER6.into(), edge6, protocol::TCP, 5061), "pass", "rule", Some("access")),
        (spec(PEER4.into(), edge4, protocol::TCP, 5060), "drop", "no-rule", None),
        (spec(PEER6.into(), edge6, protocol::UDP, 53), "drop", "no-rule", None),
        (spec(address("203.0.113.9"), edge4, protocol::TCP, 5061), "drop", "blocked-address", None),
        (
            spec(address("2001:db8:5::9"), edge6, protocol::TCP, 5061),
            "drop",
            "blocked-address",
            None,
        ),
        (
            spec(address("192.0.2.3"), edge4, protocol::TCP, 22),
            "pass",
            "management",
            Some("management"),
        ),
        (spec(address("192.0.2.99"), edge4, protocol::TCP, 22), "drop", "no-rule", None),
        (spec(PEER4.into(), edge4, protocol::ICMP, 0), "drop", "no-rule", None),
    ];
    let before = all_maps(&wire);
    for (spec, verdict, reason, rule) in &cases {
        let found = ask(&wire, spec).unwrap();
        assert_eq!((found.verdict, found.reason), (*verdict, *reason), "{found:#?}");
        assert_eq!(found.rule.as_ref().map(|rule| rule.name.as_str()), *rule, "{found:#?}");
        assert_eq!(found.disagrees, None, "{found:#?}");
        assert!(!found.steps.is_empty(), "{found:#?}");
        assert_eq!(found.zone, "external");
        let expected: Vec<IpNet> = match (*reason, spec.source.is_ipv4()) {
            ("blocked-address", true) => vec![prefix],
            ("blocked-address", false) => vec![prefix6],
            _ => Vec::new(),
        };
        assert_eq!(found.blocks, expected);
    }
    let after = all_maps(&wire);
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        assert_eq!(before, after, "a trial changed {name}");
    }
}
