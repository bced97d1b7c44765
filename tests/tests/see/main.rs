//! What an administrator sees of the firewall: explanations by the live program, streamed drops,
//! counters. On real devices, in namespaces of their own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod capture;
mod packets;
mod top;

use std::{
    io::{BufRead as _, BufReader},
    net::{IpAddr, UdpSocket},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use edge_tests::{
    lab::{Lab, config::EdgeConfig, daemon::Edge, layout::Site},
    patience::{BUSY, eventually},
    wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire},
};
use edge_user::{
    config::Config,
    firewall::{
        BlockOwner, BlockRequest, FirewallError, FirewallHandle, Intent, Owner, OwnerOptions,
        counters,
        explain::{self, Explanation, PacketSpec, protocol},
        inspect,
    },
};
use ipnet::IpNet;
use serde_json::Value;

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
        hop_limit: None,
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
        let mut rows = inspect::dump(&wire.pins, &name).unwrap();
        // The link lives on meanwhile, and the owner writes a new epoch when it looks after blocks.
        rows.retain(|row| {
            let reason = row["reason"].as_str().unwrap_or_default();
            !matches!(reason, "neighbour-discovery" | "multicast-listener" | "arp")
        });
        for row in &mut rows {
            row.as_object_mut().map(|fields| fields.remove("block_epoch"));
        }
        (name, rows)
    };
    maps.into_iter().map(|map| dump(map.name)).collect()
}

#[test]
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

#[test]
fn counters_stand_by_interface_and_by_service_and_every_map_is_in_words() {
    let wire = Wire::new("sec").unwrap();
    let _handle = start(&wire, wire.config_with(|_| ()));
    let send = |from: IpAddr, to: IpAddr, port: u16| {
        let address = std::net::SocketAddr::new(to, port);
        let socket = wire.peer.run(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
        socket.send_to(b"x", address).unwrap();
        let _ = wire.peer.run(|| {
            std::net::TcpStream::connect_timeout(&(to, 5061).into(), Duration::from_millis(50))
        });
    };
    for (from, to) in [(PEER4.into(), EDGE4.into()), (PEER6.into(), EDGE6.into())] {
        send(from, to, CLOSED);
    }
    let interfaces = || wire.edge.run(|| counters::interfaces(&wire.pins)).unwrap().unwrap();
    eventually("all four are counted", || {
        let edge0 = &interfaces()[0];
        edge0.dropped >= 2 && edge0.reasons.iter().any(|row| row.name == "rule" && row.packets >= 2)
    });
    let [ref edge0] = interfaces()[..] else { panic!("{:?}", interfaces()) };
    assert_eq!((edge0.interface.as_str(), edge0.zone), (DEVICE, "external"));
    let no_rule = edge0.reasons.iter().find(|row| row.name == "no-rule").unwrap();
    assert!(no_rule.packets >= 2 && edge0.dropped >= 2, "{edge0:?}");
    assert!(edge0.passed >= 2, "{edge0:?}");
    let rules = inspect::rules(&wire.pins, &wire.state).unwrap();
    let services = counters::services(&rules);
    let access = services.iter().find(|row| row.service == "service.access").unwrap();
    assert!(access.packets >= 2 && access.rules.contains(&"access".to_owned()), "{services:?}");
    let sum: u64 = services.iter().map(|row| row.packets).sum();
    let reasons = inspect::reasons(&wire.pins).unwrap();
    let of = |name: &str| reasons.iter().find(|row| row.name == name).unwrap().packets;
    assert_eq!(sum, of("rule") + of("management"), "each rule's counter counts once");

    for (name, rows) in all_maps(&wire) {
        let text = format!("{rows:?}");
        match name.as_str() {
            "EVENTS" => assert!(text.contains("edge drops"), "{text}"),
            "RULES" => assert!(text.contains("content"), "{text}"),
            "SETTINGS" => assert!(text.contains("block_version"), "{text}"),
            "INTERFACES" => assert!(text.contains(DEVICE), "{text}"),
            _ => {}
        }
    }
}

/// A port that no rule names.
const CLOSED: u16 = 9999;

fn edge(lab: &Lab) -> Edge {
    let identities = &lab.identities;
    Edge::start(lab, EdgeConfig::new(Site::Contoso, &identities.contoso, &identities.trust))
        .unwrap()
}

/// Datagrams to a closed port, over both families.
fn knock(lab: &Lab) {
    let stranger = lab.site(Site::Stranger);
    for (from, to) in Site::Stranger.outside().into_iter().zip(Site::Contoso.outside()) {
        let socket = stranger.run(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
        for _ in 0..3 {
            socket.send_to(b"anybody there?", (to, CLOSED)).unwrap();
        }
    }
}

/// Reads pcapng block by block, as the draft has it: type and body.
fn blocks_of(file: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let (mut at, mut blocks) = (0, Vec::new());
    while at < file.len() {
        let length = number(at + 4) as usize;
        assert_eq!(number(at + length - 4) as usize, length);
        blocks.push((number(at), file[at + 8..at + length - 4].to_vec()));
        at += length;
    }
    blocks
}

fn check_capture(file: &Path, packets: usize) {
    let blocks = blocks_of(&std::fs::read(file).unwrap());
    assert_eq!(blocks[0].0, 0x0a0d_0d0a);
    assert_eq!(blocks[0].1[..4], 0x1a2b_3c4d_u32.to_le_bytes());
    assert_eq!(blocks[1].0, 1);
    assert_eq!(blocks[1].1[..2], [1, 0], "Ethernet");
    // if_name, four bytes: ext0.
    assert_eq!(blocks[1].1[8..16], *b"\x02\0\x04\0ext0");
    let enhanced: Vec<_> = blocks[2..].iter().collect();
    assert_eq!(enhanced.len(), packets);
    for (kind, body) in enhanced {
        assert_eq!(*kind, 6);
        let number = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
        let captured = number(12) as usize;
        assert_eq!(captured, number(16) as usize, "small frames are captured whole");
        let frame = &body[20..20 + captured];
        assert!(frame.ends_with(b"anybody there?"), "{frame:?}");
        let text = String::from_utf8_lossy(&body[20 + captured..]);
        assert!(text.contains("drop no-rule zone external"), "{text}");
    }
}

#[test]
fn drops_are_followed_remembered_and_captured() {
    let lab = Lab::raise("seed").unwrap();
    let mut edge = edge(&lab);
    let none = edge.json(&["drops", "--reason", "not-sip"]).unwrap();
    assert_eq!(none, Value::Array(Vec::new()));
    let file = lab.dir().join("drops.pcapng");
    let only = format!("{}/32", Site::Stranger.v4());
    let mut follower = edge
        .cli(&["drops", "--follow", "--reason", "no-rule", "--count", "4", "--json"])
        .unwrap()
        .arg("--pcap")
        .arg(&file)
        .args(["--source", &only])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The follower is there when it follows: until then the drops go unseen.
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || lines.map(Result::unwrap).collect::<Vec<_>>());
    let began = Instant::now();
    while follower.try_wait().unwrap().is_none() {
        knock(&lab);
        std::thread::sleep(Duration::from_millis(100));
        assert!(began.elapsed() < BUSY, "four drops in time");
    }
    let lines = reader.join().unwrap();
    assert_eq!(lines.len(), 4);
    for line in &lines {
        let line: Value = serde_json::from_str(line).unwrap();
        let dropped = &line["drop"];
        assert_eq!(dropped["reason"], "no-rule", "{line}");
        assert_eq!(dropped["source"], Site::Stranger.v4().to_string(), "the other family is not");
        assert_eq!(dropped["destination"], Site::Contoso.v4().to_string());
        assert_eq!((&dropped["device"], &dropped["zone"]), (&"ext0".into(), &"external".into()));
        assert_eq!(dropped["destination_port"], CLOSED);
    }
    check_capture(&file, 4);

    let recent = edge.json(&["drops", "--reason", "no-rule"]).unwrap();
    let sources: Vec<&Value> =
        recent.as_array().unwrap().iter().map(|dropped| &dropped["source"]).collect();
    for source in Site::Stranger.outside() {
        assert!(sources.contains(&&Value::from(source.to_string())), "{source}: {recent}");
    }
    let last = edge.command(&["drops", "--count", "2"]).unwrap();
    assert_eq!(last.stdout.lines().count(), 2, "{}", last.stdout);
    assert!(last.stdout.contains("drop no-rule zone external"), "{}", last.stdout);

    let mut followers: Vec<_> = (0..5)
        .map(|_| {
            let mut command = edge.cli(&["drops", "--follow"]).unwrap();
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let began = Instant::now();
    let refused = loop {
        let ended = followers.iter_mut().position(|one| one.try_wait().unwrap().is_some());
        if let Some(at) = ended {
            break followers.remove(at).wait_with_output().unwrap();
        }
        assert!(began.elapsed() < BUSY, "the fifth follower is refused");
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("4 others follow the drops already"), "{text}");
    edge.kill().unwrap();
    for follower in followers {
        let ended = follower.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr);
        assert!(text.contains("the daemon has ended"), "{text}");
        assert_eq!(ended.status.code(), Some(1), "the daemon's end is told");
    }
    for arguments in [&["drops"][..], &["drops", "--follow"]] {
        let answer = edge.command(arguments).unwrap();
        assert_eq!(answer.code, 3, "{answer:?}");
        assert!(answer.stderr.contains("start it with `edge run`"), "{answer:?}");
    }
}

#[test]
fn an_address_is_explained_with_and_without_the_daemon() {
    let lab = Lab::raise("seea").unwrap();
    let identities = &lab.identities;
    let mut config = EdgeConfig::new(Site::Contoso, &identities.contoso, &identities.trust)
        .allow("fabrikam.example");
    config.blocked.push("northwind.example".to_owned());
    config.more = "[[firewall.block]]\nprefix = \"192.0.2.32/28\"\n".to_owned();
    let mut edge = Edge::start(&lab, config).unwrap();
    let (v4, v6) = (Site::Stranger.v4(), Site::Stranger.v6());
    let added = edge.command(&["block", "add", "2001:db8:6::/48", "--comment", "noise"]).unwrap();
    assert_eq!(added.code, 0, "{added:?}");
    // A comment neither moves the reader's cursor nor begins a line of its own, nor has it no end.
    let forged = format!("quiet\n  held by nobody\u{1b}[2J\u{202e}{}", "x".repeat(500));
    let added = edge.command(&["block", "add", "2001:db8:7::/48", "--comment", &forged]).unwrap();
    assert_eq!(added.code, 0, "{added:?}");
    let held = edge.command(&["explain", "address", "2001:db8:7::1"]).unwrap().stdout;
    let wanted = format!("(quiet  held by nobody[2J{}", "x".repeat(256 - 24));
    assert!(held.matches(&format!("{wanted})\n")).count() == 2, "{held}");
    let ask = |edge: &Edge, address: &str| {
        let answer = edge.command(&["explain", "address", address]).unwrap();
        assert_eq!(answer.code, 0, "{answer:?}");
        answer.stdout
    };
    let began = Instant::now();
    while !ask(&edge, &v4.to_string()).contains("drop blocked-address") {
        knock(&lab);
        assert!(began.elapsed() < BUSY, "{}", ask(&edge, &v4.to_string()));
    }
    let northwind = Site::Northwind.v4().to_string();
    while !ask(&edge, &northwind).contains("held by domain northwind.example") {
        assert!(began.elapsed() < BUSY, "{}", ask(&edge, &northwind));
    }
    let fabrikam = Site::Fabrikam.v4().to_string();
    while !ask(&edge, &fabrikam).contains("partner   fabrikam.example") {
        assert!(began.elapsed() < BUSY, "{}", ask(&edge, &fabrikam));
    }
    let kept = lab.dir().join(Site::Contoso.name()).join("state/addresses.json");
    let is_kept = || std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("northwind"));
    while !is_kept() {
        assert!(began.elapsed() < 2 * BUSY, "the addresses are not on the disk");
        std::thread::sleep(Duration::from_millis(10));
    }
    for daemon in [true, false] {
        if !daemon {
            edge.kill().unwrap();
        }
        let text = ask(&edge, &v4.to_string());
        assert!(text.contains("block     192.0.2.32/28: everything from it"), "{text}");
        assert!(text.contains("[[firewall.block]] in") && text.contains(" line "), "{text}");
        assert_eq!(text.contains("held by file"), daemon, "{text}");
        assert_eq!(text.contains("the daemon is not running"), !daemon, "{text}");
        let text = ask(&edge, &v6.to_string());
        assert!(text.contains("block     2001:db8:6::/48") && text.contains("(noise)"), "{text}");
        let text = ask(&edge, &northwind);
        assert!(text.contains("domain    northwind.example is blocked"), "{text}");
        // Without a rule for partners, their addresses are not kept for a start without DNS.
        let text = ask(&edge, &fabrikam);
        let partner = text.contains("partner   fabrikam.example: one of its edges");
        assert_eq!(partner, daemon, "{text}");
        let text = ask(&edge, &Site::Contoso.v4().to_string());
        assert!(text.contains("ours      it is one of our addresses"), "{text}");
    }
}
