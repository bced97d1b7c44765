//! The firewall on real devices: veth pairs in namespaces of their own, native XDP, real pins.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use edge_tests::{
    packets,
    patience::{BUSY, eventually, kernel_version, patience},
    wire::{DEVICE, EDGE4, EDGE6, FrameSender, OWN_BLOCKS, PEER4, PEER6, Wire},
};
use edge_user::{
    config::{Config, FirewallRule, Protocol, Zone},
    firewall::{
        self, AttachMode, BlockOwner, BlockRequest, FirewallError, FirewallHandle, Intent,
        LoadSource, Owner, OwnerOptions, StartReport, events, inspect,
    },
};
use ipnet::IpNet;

const PORT: u16 = 7000;

/// Starts an owner inside the wire's edge namespace.
fn start(wire: &Wire, config: Arc<Config>) -> Result<(FirewallHandle, StartReport), FirewallError> {
    wire.edge.run(move || Owner::start(OwnerOptions::new(&config), config)).unwrap()
}

fn rule(name: &str, port: u16) -> FirewallRule {
    FirewallRule {
        ports: vec![(port, port)],
        ..FirewallRule::new(name, Zone::External, Protocol::Udp)
    }
}

/// SIP, ssh, and one UDP port from everywhere.
fn open_port(config: &mut Config) {
    config.firewall.rules.push(rule("test", PORT));
}

fn block(prefix: IpNet, owner: BlockOwner, expires_at: Option<SystemTime>) -> Intent {
    Intent::Block(BlockRequest { prefix, owner, comment: None, expires_at })
}

fn count(wire: &Wire, reason: &str) -> u64 {
    let rows = inspect::reasons(&wire.pins).unwrap();
    rows.iter().find(|row| row.name == reason).unwrap().packets
}

/// Sends one datagram from outside and says whether it arrives.
fn passes(wire: &Wire, from: IpAddr, to: IpAddr) -> bool {
    wire.passes(from, to, PORT, 5)
}

/// A block of this source that is to end by itself holds as long, and no longer.
fn is_blocked_for_a_while(wire: &Wire, handle: &FirewallHandle, from: IpAddr, to: IpAddr) {
    for seconds in [1, 4, 16, 64] {
        let until = SystemTime::now() + Duration::from_secs(seconds);
        let owner = BlockOwner::Administrator;
        handle.apply_blocking(vec![block(IpNet::from(from), owner, Some(until))]).unwrap();
        let passed = passes(wire, from, to);
        // On a slow machine its time may be over before the packet was judged.
        let in_time = SystemTime::now() < until;
        assert!(!(passed && in_time), "{from} blocked for a while");
        eventually("expired", || inspect::blocks(&wire.pins).unwrap().is_empty());
        assert!(passes(wire, from, to), "{from} expired");
        if in_time {
            return;
        }
    }
    panic!("no packet was judged within a minute");
}

/// Not a test by itself: the process that `kill -9` ends (see below).
#[test]
fn daemon_process_for_other_tests() {
    let Ok(pins) = std::env::var("EDGE_TEST_PINS") else { return };
    // The wire of the parent, without its guard.
    let wire = std::mem::ManuallyDrop::new(Wire {
        edge: edge_tests::lab::netns::Namespace::existing(&std::env::var("EDGE_TEST_NS").unwrap()),
        peer: edge_tests::lab::netns::Namespace::existing("none"),
        pins: pins.into(),
        state: std::env::var("EDGE_TEST_STATE").unwrap().into(),
    });
    let (handle, _) = start(&wire, wire.config_with(open_port)).unwrap();
    let prefix = IpNet::from(IpAddr::V4(PEER4));
    handle.apply_blocking(vec![block(prefix, BlockOwner::Administrator, None)]).unwrap();
    std::fs::write(wire.state.join("ready"), "").unwrap();
    std::thread::sleep(patience(2 * BUSY));
}

#[test]
fn drops_go_on_after_kill_9_and_the_next_daemon_adopts_them() {
    let wire = Wire::new("fwk").unwrap();
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon_process_for_other_tests", "--nocapture"])
        .env("EDGE_TEST_PINS", &wire.pins)
        .env("EDGE_TEST_NS", wire.edge.name())
        .env("EDGE_TEST_STATE", &wire.state)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the daemon is ready", || wire.state.join("ready").exists());
    assert!(inspect::status(&wire.pins).unwrap().daemon);
    assert!(!passes(&wire, PEER4.into(), EDGE4.into()));
    daemon.kill().unwrap();
    daemon.wait().unwrap();

    let before = count(&wire, "blocked-address");
    assert!(!passes(&wire, PEER4.into(), EDGE4.into()), "blocked without a daemon");
    assert!(passes(&wire, PEER6.into(), EDGE6.into()), "the rule is in force without a daemon");
    assert!(count(&wire, "blocked-address") > before);
    assert!(!inspect::status(&wire.pins).unwrap().daemon);
    let dead = inspect::status(&wire.pins).unwrap();

    let dropped = count(&wire, "blocked-address");
    let (handle, report) = start(&wire, wire.config_with(open_port)).unwrap();
    assert!(report.adopted && report.attached[0].adopted, "{report:?}");
    assert_eq!(report.attached[0].link_id, dead.attached[0].link_id);
    assert_ne!(report.attached[0].program_id, dead.attached[0].program_id);
    assert_eq!(report.adopted_blocks, 1 + OWN_BLOCKS);
    assert!(count(&wire, "blocked-address") >= dropped, "counters are kept");
    assert!(!passes(&wire, PEER4.into(), EDGE4.into()));
    let settled = handle.settle_blocking().unwrap();
    assert_eq!(settled.removed, 1, "nobody claimed it");
    assert!(passes(&wire, PEER4.into(), EDGE4.into()));
}

#[test]
fn nobody_else_comes_from_an_address_of_ours_whatever_services_listen_on() {
    let wire = Wire::new("fwo").unwrap();
    let (here, there) = (format!("dev {DEVICE}"), "dev peer0");
    // One more that no service listens on, and one among the management prefixes.
    let more = ["198.51.100.9/32", "192.0.2.3/32", "2001:db8::9/128", "2001:db8:22::3/128"];
    let each = |text: &str, device: &str| -> String {
        more.iter().map(|address| format!("addr {text} {address} {device} nodad\n")).collect()
    };
    wire.edge.ip_batch(&each("add", &here)).unwrap();
    // Somebody else has our addresses too.
    let ours = format!("addr add {EDGE4}/32 dev peer0\naddr add {EDGE6}/128 dev peer0 nodad\n");
    wire.peer.ip_batch(&(each("add", there) + &ours)).unwrap();
    let config = wire.config_with(|config| {
        open_port(config);
        config.management.from.push("2001:db8:22::/64".parse().unwrap());
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        config.access.listen = any.map(|address| (address, 5061).into()).into();
    });
    let (_handle, _) = start(&wire, config).unwrap();
    let (to4, to6) = (second(&wire, "198.51.100.20/24"), second(&wire, "2001:db8::20/64"));
    let forged = |from: IpAddr| {
        let before = count(&wire, "bad-source");
        let to = if from.is_ipv4() { to4 } else { to6 };
        !passes(&wire, from, to) && count(&wire, "bad-source") > before
    };
    let more = more.map(|text| text.split('/').next().unwrap().parse::<IpAddr>().unwrap());
    // Nor to management's ports, where its prefixes hold an address of ours.
    let manages = |from: IpAddr| {
        let (before, forged) = (count(&wire, "management"), count(&wire, "bad-source"));
        let to: IpAddr = if from.is_ipv4() { EDGE4.into() } else { EDGE6.into() };
        let syn = packets::frame(from, to, 6, &packets::tcp(4000, 22, packets::SYN));
        let sent = wire.peer.run(move || FrameSender::open("peer0").unwrap().send(&syn)).unwrap();
        assert!(sent.unwrap(), "it is sent");
        let judged = || {
            let (now, other) = (count(&wire, "management"), count(&wire, "bad-source"));
            (now > before || other > forged).then_some(now > before)
        };
        eventually("the SYN is judged", || judged().is_some());
        judged().unwrap()
    };
    let managing = more.into_iter().filter(|own| {
        let v4 = own.is_ipv4();
        own.to_string().starts_with(if v4 { "192.0.2." } else { "2001:db8:22:" })
    });
    let managing: Vec<IpAddr> = managing.collect();
    assert_eq!(managing.len(), 2);
    for from in &managing {
        assert!(!manages(*from), "{from}");
    }
    let administrators: [IpAddr; 2] =
        ["192.0.2.4".parse().unwrap(), "2001:db8:22::4".parse().unwrap()];
    for from in administrators {
        assert!(manages(from), "{from}");
    }
    for from in more.into_iter().chain([EDGE4.into(), EDGE6.into()]) {
        assert!(forged(from), "{from}");
    }
    assert!(passes(&wire, PEER4.into(), to4) && passes(&wire, PEER6.into(), to6));
    // Addresses that go are somebody else's; those that come are ours.
    wire.edge.ip_batch(&each("del", &here).replace(" nodad", "")).unwrap();
    for from in more {
        let to = if from.is_ipv4() { to4 } else { to6 };
        eventually("it is no longer ours", || passes(&wire, from, to));
    }
    for from in &managing {
        eventually("it is an administrator's", || manages(*from));
    }
    wire.edge.ip_batch(&each("add", &here)).unwrap();
    for from in more {
        eventually("it is ours again", || forged(from));
    }
    for from in managing {
        eventually("it is no administrator's", || !manages(from));
    }
}

/// One more address of ours, which nobody else claims. The outside need not ask who has it: we would
/// not answer one who asks with an address of ours.
fn second(wire: &Wire, address: &str) -> IpAddr {
    wire.edge.ip_batch(&format!("addr add {address} dev {DEVICE} nodad\n")).unwrap();
    let address = address.split('/').next().unwrap();
    let mac = "02:00:00:00:00:01";
    let known = format!("neigh replace {address} lladdr {mac} dev peer0 nud permanent\n");
    wire.peer.ip_batch(&known).unwrap();
    address.parse().unwrap()
}

#[test]
fn a_blocked_source_is_dropped_in_the_driver_until_its_block_goes_or_expires() {
    let wire = Wire::new("fwb").unwrap();
    let (handle, report) = start(&wire, wire.config_with(open_port)).unwrap();
    assert_eq!(report.attached[0].mode, AttachMode::Native);
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    let owner = BlockOwner::Administrator;
    for (from, to, shorter) in [
        (IpAddr::V4(PEER4), IpAddr::V4(EDGE4), "198.51.100.0/24"),
        (IpAddr::V6(PEER6), IpAddr::V6(EDGE6), "2001:db8::/40"),
    ] {
        assert!(passes(&wire, from, to), "{from} before");
        for prefix in [IpNet::from(from), shorter.parse().unwrap()] {
            let applied = handle.apply_blocking(vec![block(prefix, owner.clone(), None)]).unwrap();
            assert_eq!(applied.added, 1);
            let before = count(&wire, "blocked-address");
            assert!(!passes(&wire, from, to), "{prefix} blocked");
            assert!(count(&wire, "blocked-address") > before, "{prefix}");
            let gone = Intent::Unblock { prefix, owner: owner.clone() };
            assert_eq!(handle.apply_blocking(vec![gone]).unwrap().removed, 1);
            assert!(passes(&wire, from, to), "{prefix} unblocked");
        }
        is_blocked_for_a_while(&wire, &handle, from, to);
    }
}

#[test]
fn an_unblocked_source_passes_at_once_though_its_neighbour_stays_blocked() {
    let wire = Wire::new("fwn").unwrap();
    let (handle, _) = start(&wire, wire.config_with(open_port)).unwrap();
    let owner = BlockOwner::Administrator;
    for (from, to, neighbour) in [
        (IpAddr::V4(PEER4), IpAddr::V4(EDGE4), "198.51.100.200/32"),
        (IpAddr::V6(PEER6), IpAddr::V6(EDGE6), "2001:db8::77/128"),
    ] {
        let neighbour = block(neighbour.parse().unwrap(), owner.clone(), None);
        handle.apply_blocking(vec![neighbour]).unwrap();
        let prefix = IpNet::from(from);
        for round in 0..3 {
            handle.apply_blocking(vec![block(prefix, owner.clone(), None)]).unwrap();
            assert!(!passes(&wire, from, to), "{from} blocked, round {round}");
            let gone = Intent::Unblock { prefix, owner: owner.clone() };
            handle.apply_blocking(vec![gone]).unwrap();
            assert!(passes(&wire, from, to), "{from} unblocked, round {round}");
        }
    }
}

#[test]
fn a_blocked_domain_is_dropped_at_federation_ports_only() {
    let wire = Wire::new("fwd").unwrap();
    let (handle, _) = start(&wire, wire.config_with(open_port)).unwrap();
    let owner = BlockOwner::Domain("bad.example".parse().unwrap());
    let prefix = IpNet::from(IpAddr::V4(PEER4));
    handle.apply_blocking(vec![block(prefix, owner, None)]).unwrap();
    assert!(passes(&wire, PEER4.into(), EDGE4.into()), "another port");
    let connect = wire.peer.run(|| {
        let address = (IpAddr::V4(EDGE4), 5061).into();
        std::net::TcpStream::connect_timeout(&address, patience(Duration::from_millis(300)))
    });
    assert!(connect.unwrap().is_err());
    eventually("it is counted", || count(&wire, "blocked-domain") > 0);
}

#[test]
fn a_packet_that_claims_to_come_from_an_address_of_ours_is_dropped() {
    let wire = Wire::new("fwo").unwrap();
    let own: [IpAddr; 2] = ["10.0.0.10".parse().unwrap(), "2001:db8::aa".parse().unwrap()];
    let config = wire.config_with(|config| {
        open_port(config);
        let inside = std::net::SocketAddr::new(own[1], 5061);
        config.inside.listen.push((edge_user::config::Transport::Tls, inside));
    });
    let (_handle, _) = start(&wire, config).unwrap();
    for address in own {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        wire.peer.ip_batch(&format!("address add {address} dev lo{nodad}\n")).unwrap();
    }
    // So that no question for a neighbour is counted with the rest.
    wire.know_neighbours().unwrap();
    // Others are not hit.
    assert!(passes(&wire, PEER4.into(), EDGE4.into()));
    assert!(passes(&wire, PEER6.into(), EDGE6.into()));
    for (from, to) in own.into_iter().zip([IpAddr::V4(EDGE4), IpAddr::V6(EDGE6)]) {
        let dropped = || count(&wire, "bad-source") + count(&wire, "blocked-address");
        let before = dropped();
        assert!(!passes(&wire, from, to), "{from}");
        assert_eq!(dropped(), before + 1, "{from}");
    }
}

#[test]
fn management_cannot_be_blocked_and_says_why() {
    let wire = Wire::new("fwm").unwrap();
    let (handle, _) = start(&wire, wire.config_with(|_| ())).unwrap();
    let prefix = "192.0.2.3/32".parse().unwrap();
    let refused = handle.apply_blocking(vec![block(prefix, BlockOwner::Administrator, None)]);
    assert!(refused.unwrap_err().to_string().contains("management"));
    assert!(inspect::blocks(&wire.pins).unwrap().is_empty());
}

#[test]
fn a_second_daemon_is_refused_and_a_foreign_program_is_named() {
    let wire = Wire::new("fws").unwrap();
    let (_handle, _) = start(&wire, wire.config_with(|_| ())).unwrap();
    let same = start(&wire, wire.config_with(|_| ()));
    assert!(matches!(same, Err(FirewallError::Locked { .. })), "{same:?}");
    let other_pins = wire
        .pins
        .with_extension("")
        .with_file_name(format!("{}-2", wire.pins.file_name().unwrap().to_string_lossy()));
    let other = start(&wire, wire.config_with(|config| config.paths.pins = other_pins.clone()));
    firewall::detach(&other_pins, true).unwrap();
    match other {
        Err(FirewallError::ForeignProgram { device, program }) => {
            assert_eq!(device, DEVICE);
            assert!(program.contains("edge_xdp"), "{program}");
        }
        other => panic!("{other:?}"),
    }
    let held = firewall::detach(&wire.pins, false);
    assert!(matches!(held, Err(FirewallError::Locked { .. })), "{held:?}");
}

#[test]
fn a_configuration_that_fails_half_way_leaves_the_former_in_force() {
    let wire = Wire::new("fwr").unwrap();
    let (handle, _) = start(&wire, wire.config_with(open_port)).unwrap();
    // A second device, where somebody else's program is.
    wire.edge.ip_batch("link add edge1 type veth peer name peer1\nlink set edge1 up\n").unwrap();
    let name = format!("{}-2", wire.pins.file_name().unwrap().to_string_lossy());
    let (pins, state) = (wire.pins.with_file_name(&name), wire.state.join("other"));
    let both = |config: &mut Config| {
        let mut second = config.interfaces[0].clone();
        second.device = "edge1".to_owned();
        config.interfaces.push(second);
    };
    let (other, _) = start(
        &wire,
        wire.config_with(|config| {
            both(config);
            config.interfaces.remove(0);
            (config.paths.pins, config.paths.state) = (pins.clone(), state.clone());
        }),
    )
    .unwrap();
    // Taking the second device fails after the rules were swapped: the port would be closed.
    let refused = handle.apply_blocking(vec![Intent::SetConfig(wire.config_with(both))]);
    drop(other);
    let pinned = std::fs::read_dir(wire.pins.join("egress")).unwrap().count();
    firewall::detach(&pins, true).unwrap();
    assert!(matches!(refused, Err(FirewallError::ForeignProgram { .. })), "{refused:?}");
    assert!(passes(&wire, PEER4.into(), EDGE4.into()), "the former rules hold");
    assert_eq!(inspect::status(&wire.pins).unwrap().attached.len(), 1);
    assert_eq!(pinned, 1, "nothing of ours is left on the device that was not ours");
    // Free, it is taken.
    handle.apply_blocking(vec![Intent::SetConfig(wire.config_with(both))]).unwrap();
    assert_eq!(inspect::status(&wire.pins).unwrap().attached.len(), 2);
    assert!(!passes(&wire, PEER4.into(), EDGE4.into()));
}

#[test]
fn detach_leaves_nothing() {
    let wire = Wire::new("fwx").unwrap();
    let (handle, _) = start(&wire, wire.config_with(|_| ())).unwrap();
    drop(handle);
    wire.wait_lock_free();
    let report = firewall::detach(&wire.pins, false).unwrap();
    assert_eq!(report.devices, [DEVICE]);
    assert!(!wire.pins.exists());
    let output = wire.edge.command("ip").args(["link", "show", DEVICE]).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("xdp"), "the program is off");
    assert!(passes(&wire, PEER4.into(), EDGE4.into()), "no firewall any more");
    assert_eq!(firewall::detach(&wire.pins, false).unwrap().pins, 0);
}

#[test]
fn vlan_offload_is_turned_off() {
    let wire = Wire::new("fwv").unwrap();
    let offload = || {
        let output = wire.edge.command("ethtool").args(["-k", DEVICE]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find(|line| line.contains("rx-vlan-offload")).unwrap().to_owned()
    };
    assert!(offload().contains(": on"), "{}", offload());
    let (_handle, _) = start(&wire, wire.config_with(|_| ())).unwrap();
    assert!(offload().contains(": off"), "{}", offload());
}

/// A macvlan has no XDP in its driver, as many virtual devices.
#[test]
fn generic_mode_is_only_for_those_who_ask_and_is_said_loudly() {
    let wire = Wire::new("fwm").unwrap();
    wire.edge.ip_batch(&format!("link add link {DEVICE} name mac0 type macvlan\n")).unwrap();
    let on_macvlan = |allow_generic| {
        wire.config_with(|config| {
            config.interfaces[0].device = "mac0".to_owned();
            config.firewall.allow_generic = allow_generic;
        })
    };
    let refused = start(&wire, on_macvlan(false)).unwrap_err();
    assert!(matches!(refused, FirewallError::NoNative { .. }), "{refused}");
    assert!(refused.to_string().contains("allow_generic = true"), "{refused}");
    wire.wait_lock_free();
    let (_handle, report) = start(&wire, on_macvlan(true)).unwrap();
    assert_eq!(report.attached[0].mode, AttachMode::Generic);
    assert!(report.warnings.iter().any(|w| w.contains("GENERIC MODE")), "{:?}", report.warnings);
}

#[test]
fn a_device_that_is_up_and_not_configured_is_named_in_a_warning() {
    let wire = Wire::new("fwu").unwrap();
    wire.edge.ip_batch("link add edge1 type veth peer name peer1\nlink set edge1 up\n").unwrap();
    let (_handle, report) = start(&wire, wire.config_with(|_| ())).unwrap();
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    assert!(report.warnings[0].contains("`edge1`"), "{:?}", report.warnings);
}

#[test]
fn a_swap_of_the_rules_keeps_counters_by_name() {
    let wire = Wire::new("fwg").unwrap();
    let (handle, report) = start(&wire, wire.config_with(open_port)).unwrap();
    assert!(passes(&wire, PEER4.into(), EDGE4.into()));
    let of = |name: &str| {
        let rows = inspect::rules(&wire.pins, &wire.state).unwrap();
        rows.into_iter().find(|row| row.rule.name == name).unwrap()
    };
    let before = of("test");
    assert!(before.packets > 0);
    // Another rule stands before it now; the generation is the other one.
    let config = wire.config_with(|config| {
        config.firewall.rules.push(rule("before", 7001));
        open_port(config);
    });
    handle.apply_blocking(vec![Intent::SetConfig(config)]).unwrap();
    let status = inspect::status(&wire.pins).unwrap();
    assert_ne!(status.generation, Some(report.generation));
    let after = of("test");
    assert_eq!((after.rule.id, after.packets), (before.rule.id, before.packets));
    assert!(passes(&wire, PEER4.into(), EDGE4.into()));
    assert!(of("test").packets > before.packets);
    assert_eq!(of("before").packets, 0);
    // A rule that goes closes its port.
    handle.apply_blocking(vec![Intent::SetConfig(wire.config_with(|_| ()))]).unwrap();
    assert!(!passes(&wire, PEER4.into(), EDGE4.into()));
    assert!(count(&wire, "no-rule") > 0);
}

#[test]
fn pins_of_another_schema_or_shape_are_refused_with_the_mend() {
    let wire = Wire::new("fwp").unwrap();
    std::fs::create_dir_all(wire.pins.join("v999")).unwrap();
    let refused = start(&wire, wire.config_with(|_| ())).unwrap_err();
    assert!(matches!(refused, FirewallError::Schema { .. }), "{refused}");
    assert!(refused.to_string().contains("edge detach"));
    firewall::detach(&wire.pins, false).unwrap();

    let folder = wire.pins.join(format!("v{}", edge_ebpf::abi::SCHEMA));
    std::fs::create_dir_all(&folder).unwrap();
    aya::maps::Array::<_, u64>::create(1, 0).unwrap().pin(folder.join("BLOCKED4")).unwrap();
    let refused = start(&wire, wire.config_with(|_| ())).unwrap_err();
    assert!(matches!(refused, FirewallError::Shape { .. }), "{refused}");
    assert!(refused.to_string().contains("edge detach"));
    firewall::detach(&wire.pins, false).unwrap();
    start(&wire, wire.config_with(|_| ())).unwrap();
}

#[test]
fn at_boot_the_last_good_rules_come_back_without_a_good_file() {
    let wire = Wire::new("fwl").unwrap();
    let options = OwnerOptions::new(&wire.config());
    let load = |config| {
        let options = options.clone();
        let least = Default::default;
        wire.edge.run(move || firewall::load_last_good(options, config, least)).unwrap()
    };
    let config = wire.config_with(|config| {
        open_port(config);
        config.interfaces.push(edge_user::config::Interface {
            device: "later0".to_owned(),
            vlan: None,
            zone: Zone::Internal,
            optional: false,
        });
    });
    let report = load(Some(config)).unwrap();
    assert_eq!((report.source, report.start.missing), (LoadSource::Config, vec!["later0".into()]));
    // A reboot: the pins are gone, the state folder is not.
    firewall::detach(&wire.pins, false).unwrap();
    let report = load(None).unwrap();
    assert_eq!(report.source, LoadSource::LastGood);
    assert!(!inspect::status(&wire.pins).unwrap().daemon);
    assert!(passes(&wire, PEER4.into(), EDGE4.into()));
    assert!(inspect::rules(&wire.pins, &wire.state).unwrap().iter().any(|r| r.rule.name == "test"));
}

#[test]
fn every_map_can_be_listed_and_dumped_and_drops_are_told() {
    let wire = Wire::new("fwi").unwrap();
    let (handle, _) = start(&wire, wire.config_with(open_port)).unwrap();
    let mut drops = events::subscribe(&wire.pins, 64).unwrap();
    let blocks = ["198.51.100.2/32", "203.0.113.0/24", "2001:db8:9::9/128", "2001:db8:8::/48"]
        .map(|text| block(text.parse().unwrap(), BlockOwner::File, None));
    handle.apply_blocking(blocks.to_vec()).unwrap();
    assert!(!passes(&wire, PEER4.into(), EDGE4.into()));
    let drops = std::cell::RefCell::new(&mut drops);
    eventually("the drop is told", || {
        drops.borrow_mut().try_recv().is_ok_and(|event| {
            event.reason == "blocked-address" && event.source == Some(IpAddr::V4(PEER4))
        })
    });
    let maps = inspect::maps(&wire.pins).unwrap();
    assert_eq!(maps.len(), 35);
    // Older kernels tell no ring buffer's memory.
    let is_told = |map: &inspect::MapRow| map.kind != "RingBuf" || kernel_version() >= (6, 4);
    for map in &maps {
        assert!(map.bytes > 0 || !is_told(map), "{map:?}");
        let rows = inspect::dump(&wire.pins, &map.name).unwrap();
        let filled = [
            "SETTINGS",
            "INTERFACES",
            "PORT_WORDS",
            "RULES",
            "SOURCES4",
            "DESTINATIONS",
            "BLOCKED4",
            "BLOCKED4_PREFIXES",
            "BLOCKED6",
            "BLOCKED6_PREFIXES",
            "PRESENCE4",
            "PRESENCE6_PAGES",
            "REASON_COUNTERS",
        ];
        assert!(!rows.is_empty() || !filled.contains(&map.name.as_str()), "{}", map.name);
    }
    let blocked = inspect::dump(&wire.pins, "BLOCKED4").unwrap();
    assert!(blocked.iter().any(|row| row["prefix"] == "198.51.100.2/32"), "{blocked:?}");
    assert_eq!(inspect::dump(&wire.pins, "INTERFACES").unwrap()[0]["zone"], "external");
    let unknown = inspect::dump(&wire.pins, "NOPE");
    assert!(matches!(unknown, Err(FirewallError::NoSuchMap { .. })));
}

#[test]
fn a_peer_that_proved_itself_has_a_bucket_of_its_own_where_the_service_has_a_rate() {
    let wire = Wire::new("known").unwrap();
    let known = || inspect::dump(&wire.pins, "KNOWN_SOURCES").unwrap();
    let (firewall, _) = start(&wire, wire.config_with(|_| {})).unwrap();
    firewall.apply_blocking(vec![Intent::Known(PEER4.into())]).unwrap();
    assert!(known().is_empty(), "without a rate there is nothing to share");
    let config = wire.config_with(|config| config.access.rates.new_per_source = 5);
    firewall.apply_blocking(vec![Intent::SetConfig(config)]).unwrap();
    for _ in 0..2 {
        firewall.apply_blocking(vec![Intent::Known(PEER4.into())]).unwrap();
        firewall.apply_blocking(vec![Intent::Known(PEER6.into())]).unwrap();
    }
    assert_eq!(known().len(), 2, "{:?}", known());
}
