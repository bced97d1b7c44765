//! Devices that come, change and go while the firewall runs; big frames; names without a zone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use edge_tests::{
    demo::world::contoso_config,
    lab::{Lab, daemon::Edge},
    patience::eventually,
    wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire},
};
use edge_user::{
    config::{Config, FirewallRule, Interface, Protocol, Zone},
    firewall::{
        AttachMode, BlockOwner, BlockRequest, FirewallError, FirewallHandle, Intent, Owner,
        OwnerOptions, StartReport, inspect,
    },
};
use ipnet::IpNet;

const PORT: u16 = 7000;
const SECOND: &str = "edge1";
const OURS4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 129);
const THEIRS4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 130);
const OURS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const THEIRS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

fn start(wire: &Wire, config: Arc<Config>) -> Result<(FirewallHandle, StartReport), FirewallError> {
    wire.edge.run(move || Owner::start(OwnerOptions::new(&config), config)).unwrap()
}

fn open_port(config: &mut Config) {
    config.firewall.rules.push(FirewallRule {
        ports: vec![(PORT, PORT)],
        ..FirewallRule::new("test", Zone::External, Protocol::Udp)
    });
}

/// With a second device, which may be missing when `optional`.
fn with_second(wire: &Wire, optional: bool) -> Arc<Config> {
    wire.config_with(|config| {
        open_port(config);
        let zone = Zone::External;
        config.interfaces.push(Interface { device: SECOND.into(), vlan: None, zone, optional });
    })
}

/// Every device with its link, by the device's number.
fn links(wire: &Wire) -> BTreeMap<u32, (String, u32)> {
    let attached = inspect::status(&wire.pins).unwrap().attached;
    attached.into_iter().map(|d| (d.ifindex, (d.device, d.link_id))).collect()
}

/// Whether a datagram of so many bytes arrives.
fn passes(wire: &Wire, from: IpAddr, to: IpAddr, port: u16, bytes: usize) -> bool {
    wire.passes(from, to, port, bytes)
}

fn make_second(wire: &Wire) {
    let there = wire.peer.name();
    let lines = format!(
        "link add {SECOND} type veth peer name peer1 netns {there}\n\
         addr add {OURS4}/26 dev {SECOND}\naddr add {OURS6}/64 dev {SECOND} nodad\n\
         link set {SECOND} up\n"
    );
    wire.edge.ip_batch(&lines).unwrap();
    let lines = format!(
        "addr add {THEIRS4}/26 dev peer1\naddr add {THEIRS6}/64 dev peer1 nodad\n\
         link set peer1 up\n"
    );
    wire.peer.ip_batch(&lines).unwrap();
}

fn is_attached(wire: &Wire) -> bool {
    let attached = inspect::status(&wire.pins).unwrap().attached;
    attached.iter().any(|device| device.device == SECOND && device.ifindex != 0)
}

fn pins_of(wire: &Wire, device: &str) -> usize {
    let folders = ["links", "egress"];
    folders.iter().filter(|folder| wire.pins.join(folder).join(device).exists()).count()
}

/// The second device is enforced: what a rule opens passes, what none does is dropped.
fn is_enforced(wire: &Wire) {
    eventually("attached", || is_attached(wire) && pins_of(wire, SECOND) == 2);
    for (from, to) in
        [(IpAddr::V4(THEIRS4), IpAddr::V4(OURS4)), (IpAddr::V6(THEIRS6), IpAddr::V6(OURS6))]
    {
        // The first packet may be lost while the link comes up.
        eventually("the open port", || passes(wire, from, to, PORT, 8));
        assert!(!passes(wire, from, to, PORT + 1, 8), "{from}: a closed port");
    }
    // The owner hears in a moment that somebody has turned it on.
    eventually("the offload is off", || {
        let output = wire.edge.command("ethtool").args(["-k", SECOND]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines();
        lines.any(|line| line.contains("rx-vlan-offload") && line.contains(": off"))
    });
}

#[test]
fn a_configured_device_is_taken_when_it_comes_and_let_go_when_it_goes() {
    let wire = Wire::new("ifa").unwrap();
    let missing = start(&wire, with_second(&wire, false));
    assert!(matches!(missing, Err(FirewallError::NoDevice { .. })), "{missing:?}");
    let (_handle, report) = start(&wire, with_second(&wire, true)).unwrap();
    assert_eq!(report.missing, [SECOND]);
    assert!(report.warnings.iter().any(|w| w.contains(SECOND)), "{:?}", report.warnings);
    for _ in 0..3 {
        make_second(&wire);
        is_enforced(&wire);
        wire.edge.ip_batch(&format!("link del {SECOND}\n")).unwrap();
        eventually("let go", || pins_of(&wire, SECOND) == 0);
        assert_eq!(pins_of(&wire, DEVICE), 2, "the other stays");
    }
    // Gone and back at once: the new one is another device.
    make_second(&wire);
    is_enforced(&wire);
    wire.edge.ip_batch(&format!("link del {SECOND}\n")).unwrap();
    make_second(&wire);
    is_enforced(&wire);
}

#[test]
fn devices_that_change_places_keep_their_links() {
    let wire = Wire::new("ifr").unwrap();
    let names = ["edge1", "edge2", "edge3"];
    for (number, name) in names.iter().enumerate() {
        let line = format!("link add {name} type veth peer name far{number}\n");
        wire.edge.ip_batch(&format!("{line}link set {name} up\n")).unwrap();
    }
    let config = wire.config_with(|config| {
        for name in names {
            let zone = Zone::External;
            let device = name.into();
            config.interfaces.push(Interface { device, vlan: None, zone, optional: false });
        }
    });
    let (handle, _) = start(&wire, Arc::clone(&config)).unwrap();
    let began = links(&wire);
    let rotate = || {
        let rename = |from: &str, to: &str| {
            format!("link set {from} down\nlink set {from} name {to}\nlink set {to} up\n")
        };
        let steps =
            [("edge1", "aside"), ("edge2", "edge1"), ("edge3", "edge2"), ("aside", "edge3")];
        let lines: String = steps.iter().map(|(from, to)| rename(from, to)).collect();
        wire.edge.ip_batch(&lines).unwrap();
    };
    let as_named = || {
        links(&wire).iter().all(|(ifindex, (device, _))| {
            wire.edge.run(|| edge_tests::wire::ifindex(device)).unwrap() == Some(*ifindex)
        })
    };
    let same_links = || {
        let now = links(&wire);
        began.iter().all(|(index, (_, link))| now.get(index).is_some_and(|(_, l)| l == link))
    };
    // While the daemon looks on, and while none runs.
    rotate();
    eventually("the names of now, on the same links", || as_named() && same_links());
    drop(handle);
    rotate();
    let (_handle, report) = eventually_starts(&wire, &config);
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    assert!(as_named() && same_links(), "{began:?} {:?}", links(&wire));
}

/// The former owner may need a moment to end.
fn eventually_starts(wire: &Wire, config: &Arc<Config>) -> (FirewallHandle, StartReport) {
    let started = RefCell::new(None);
    eventually("the pins are free", || match start(wire, Arc::clone(config)) {
        Err(FirewallError::Locked { .. }) => false,
        other => started.replace(Some(other.unwrap())).is_none(),
    });
    started.into_inner().unwrap()
}

#[test]
fn a_renamed_device_stays_enforced_under_every_name() {
    let wire = Wire::new("ifb").unwrap();
    make_second(&wire);
    let (handle, _) = start(&wire, with_second(&wire, false)).unwrap();
    is_enforced(&wire);
    let rename = |from: &str, to: &str| {
        let lines = format!(
            "link set {from} down\nlink set {from} name {to}\nlink set {to} up\n\
             addr replace {OURS6}/64 dev {to} nodad\n"
        );
        wire.edge.ip_batch(&lines).unwrap();
    };
    let judged = || {
        eventually("the open port", || passes(&wire, THEIRS4.into(), OURS4.into(), PORT, 8));
        assert!(!passes(&wire, THEIRS4.into(), OURS4.into(), PORT + 1, 8), "a closed port");
    };
    rename(SECOND, "other1");
    // The owner hears of it in a moment.
    std::thread::sleep(Duration::from_millis(500));
    judged();
    rename("other1", SECOND);
    is_enforced(&wire);
    rename(SECOND, "other1");
    // The file follows: the same link goes on under the new name.
    let follow = wire.config_with(|config| {
        open_port(config);
        let zone = Zone::External;
        let device = "other1".into();
        config.interfaces.push(Interface { device, vlan: None, zone, optional: false });
    });
    handle.apply_blocking(vec![Intent::SetConfig(follow)]).unwrap();
    judged();
    eventually("the pins have its name", || {
        (pins_of(&wire, SECOND), pins_of(&wire, "other1")) == (0, 2)
    });
    // Another device comes by the name that it had: neither is open.
    rename("other1", "third1");
    wire.edge.ip_batch("link add other1 type veth peer name more1\nlink set other1 up\n").unwrap();
    eventually("taken", || {
        let index = wire.edge.run(|| edge_tests::wire::ifindex("other1")).unwrap();
        let attached = inspect::status(&wire.pins).unwrap().attached;
        attached.iter().any(|d| d.device == "other1" && Some(d.ifindex) == index)
    });
    for port in [PORT, PORT + 1] {
        assert!(!passes(&wire, THEIRS4.into(), OURS4.into(), port, 8), "{port}: it has no zone");
    }
}

#[test]
fn a_link_that_goes_down_and_up_is_enforced_as_before() {
    let wire = Wire::new("ifc").unwrap();
    make_second(&wire);
    let (_handle, _) = start(&wire, with_second(&wire, false)).unwrap();
    is_enforced(&wire);
    let before = inspect::status(&wire.pins).unwrap().attached;
    // What turns the offload on again is turned off again.
    wire.edge.command("ethtool").args(["-K", SECOND, "rxvlan", "on"]).output().unwrap();
    for _ in 0..3 {
        let lines = format!(
            "link set {SECOND} down\nlink set {SECOND} up\n\
             addr replace {OURS6}/64 dev {SECOND} nodad\n"
        );
        wire.edge.ip_batch(&lines).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    is_enforced(&wire);
    let after = inspect::status(&wire.pins).unwrap().attached;
    let ids = |attached: &[edge_user::firewall::Attached]| {
        attached.iter().map(|device| device.link_id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&before), ids(&after), "the same links");
}

#[test]
fn frames_longer_than_a_page_are_judged() {
    let wire = Wire::new("ifd").unwrap();
    wire.edge.ip_batch(&format!("link set {DEVICE} mtu 9000\n")).unwrap();
    wire.peer.ip_batch("link set peer0 mtu 9000\n").unwrap();
    let (handle, report) = start(&wire, wire.config_with(open_port)).unwrap();
    assert_eq!(report.attached[0].mode, AttachMode::Native);
    for (from, to) in
        [(IpAddr::V4(PEER4), IpAddr::V4(EDGE4)), (IpAddr::V6(PEER6), IpAddr::V6(EDGE6))]
    {
        assert!(passes(&wire, from, to, PORT, 8900), "{from}");
        assert!(!passes(&wire, from, to, PORT + 1, 8900), "{from}: a closed port");
        let prefix = IpNet::from(from);
        let owner = BlockOwner::Administrator;
        let request = BlockRequest { prefix, owner, comment: None, expires_at: None };
        handle.apply_blocking(vec![Intent::Block(request)]).unwrap();
        assert!(!passes(&wire, from, to, PORT, 8900), "{from}: blocked");
    }
}

#[test]
fn a_device_without_a_zone_is_named_once() {
    let lab = Lab::raise("ifl").unwrap();
    let edge = Edge::start(&lab, contoso_config(&lab)).unwrap();
    let inside = edge.namespace();
    inside.ip_batch("link add stray0 type veth peer name stray1\n").unwrap();
    for _ in 0..3 {
        inside.ip_batch("link set stray0 up\nlink set stray0 down\n").unwrap();
    }
    // A slow daemon may look when it is down.
    inside.ip_batch("link set stray0 up\n").unwrap();
    let count = || edge.log().lines().filter(|line| line.contains("stray0")).count();
    eventually("named", || count() > 0);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(count(), 1, "{}", edge.log());
}
