//! Zones and rules that change together: no packet meets one of the one with one of the other.

use std::os::fd::AsFd as _;

use edge_tests::{
    bench::raw::{self, Tiny},
    packets,
    wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire, ifindex, open_port},
};
use edge_user::{
    config::{Config, FirewallRule, Interface, Zone},
    firewall::{Intent, inspect},
};

use super::{eventually, faults::killed_after, start};

/// Of untagged frames.
const UNTAGGED: u16 = 7101;
/// Of frames with VLAN 7.
const TAGGED: u16 = 7102;

/// Device and VLAN in different zones; each port is open in the zone where its frames do not
/// come in.
pub fn zones(config: &mut Config, device: Zone, vlan: Zone) {
    config.interfaces[0].zone = device;
    config.interfaces.push(Interface {
        device: DEVICE.to_owned(),
        vlan: Some(7),
        zone: vlan,
        optional: false,
    });
    config.firewall.rules = vec![
        FirewallRule { zone: vlan, ..open_port("untagged", UNTAGGED) },
        FirewallRule { zone: device, ..open_port("tagged", TAGGED) },
    ];
}

/// The device outside, its VLAN inside.
pub fn before(config: &mut Config) {
    zones(config, Zone::External, Zone::Internal);
}

/// The other way about.
pub fn after(config: &mut Config) {
    zones(config, Zone::Internal, Zone::External);
}

/// The zones of the one with the rules of the other: what must never be.
fn mixed(config: &mut Config) {
    before(config);
    let rules = std::mem::take(&mut config.firewall.rules);
    config.interfaces.pop();
    after(config);
    config.firewall.rules = rules;
}

fn frames() -> Vec<Vec<u8>> {
    let ways = [(PEER4.into(), EDGE4.into()), (PEER6.into(), EDGE6.into())];
    ways.into_iter()
        .flat_map(|(from, to)| {
            let datagram = |port| packets::udp(40_000, port, b"hello");
            let mut tagged = packets::frame(from, to, 17, &datagram(TAGGED));
            tagged.splice(12..12, [0x81, 0, 0, 7]);
            [packets::frame(from, to, 17, &datagram(UNTAGGED)), tagged]
        })
        .collect()
}

/// Packets that were let in by a rule, and all that were judged.
fn counted(wire: &Wire) -> (u64, u64) {
    let reasons = inspect::reasons(&wire.pins).unwrap();
    let passed = reasons.iter().find(|row| row.name == "rule").unwrap().packets;
    (passed, reasons.iter().map(|row| row.packets).sum())
}

/// Which of the frames a rule lets in.
fn let_in(wire: &Wire) -> Vec<bool> {
    let send = |frame: &Vec<u8>| {
        let (passed, judged) = counted(wire);
        let generator = raw::load(Tiny::Transmit).unwrap();
        let send = || raw::send(generator.as_fd(), frame, ifindex("peer0").unwrap(), 64);
        wire.peer.run(send).unwrap().unwrap();
        eventually("they are judged", || counted(wire).1 >= judged + 64);
        counted(wire).0 > passed
    };
    frames().iter().map(send).collect()
}

#[test]
fn no_packet_is_judged_by_the_zone_of_one_configuration_and_the_rules_of_another() {
    let wire = Wire::new("az").unwrap();
    let pass = raw::load(Tiny::Pass).unwrap();
    let _far = wire.peer.run(|| raw::attach(&pass, ifindex("peer0").unwrap())).unwrap().unwrap();
    let mut swapped = false;
    for write in 1.. {
        let Some(what) = killed_after(&wire, "zones", &format!("apply:{write}")) else { break };
        // Here the writer has stopped: this is what a packet meets in between.
        assert_eq!(let_in(&wire), [false; 4], "after write {write}, {what}");
        swapped |= what == "INTERFACES";
        assert!(write < 200, "it never comes to its end");
    }
    assert!(swapped && wire.state.join("survived").exists());
    // The count would have told.
    let (handle, _) = start(&wire, wire.config_with(mixed)).unwrap();
    assert_eq!(let_in(&wire), [true; 4]);
    handle.apply_blocking(vec![Intent::SetConfig(wire.config_with(after))]).unwrap();
    assert_eq!(let_in(&wire), [false; 4]);
    drop(handle);
    wire.wait_lock_free();
}
