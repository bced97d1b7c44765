//! A port that is open to partners only: the firewall drops everybody else before TLS, and knows
//! who is a partner from DNS, from the file, and from what it last knew.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use edge_tests::{
    demo::world::{World, contoso_access},
    lab::{
        daemon::binary,
        layout::Site,
        netns::Namespace,
        sipp::{Carrier, Play},
    },
    patience::{BUSY, eventually},
    wire::{EDGE4, EDGE6, PEER4, PEER6, Wire},
};
use edge_user::{
    config::Config,
    firewall::{FirewallHandle, Intent, Owner, OwnerOptions, inspect},
};
use ipnet::IpNet;

/// What became of a connection attempt: in a namespace without a listener an answer is a reset.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    Answered,
    Dropped,
}

/// Nothing is dropped for certain before the program has counted it: on a machine that is busy an
/// answer may be late.
fn attempt(from: &Namespace, to: SocketAddr, pins: &Path) -> Attempt {
    let wait = Duration::from_millis(400);
    let (before, began) = (count(pins, "not-partner"), Instant::now());
    loop {
        match from.run(move || TcpStream::connect_timeout(&to, wait).map(drop)).unwrap() {
            Ok(()) => return Attempt::Answered,
            Err(fault) if fault.kind() == ErrorKind::ConnectionRefused => return Attempt::Answered,
            Err(_) if count(pins, "not-partner") > before => return Attempt::Dropped,
            Err(fault) => assert!(began.elapsed() < BUSY, "{to}: {fault}, and nobody counts it"),
        }
    }
}

fn count(pins: &Path, reason: &str) -> u64 {
    let rows = inspect::reasons(pins).unwrap();
    rows.iter().find(|row| row.name == reason).unwrap().packets
}

fn start(wire: &Wire, config: Arc<Config>) -> FirewallHandle {
    wire.edge.run(move || Owner::start(OwnerOptions::new(&config), config)).unwrap().unwrap().0
}

fn partners(prefixes: &[IpAddr]) -> Vec<Intent> {
    vec![Intent::SetPartners(prefixes.iter().copied().map(IpNet::from).collect())]
}

#[test]
fn partners_are_let_in_from_one_packet_to_the_next_and_nobody_else_is() {
    let wire = Wire::new("ptn").unwrap();
    let config = wire.config_with(|config| config.access.partners_only = true);
    let handle = start(&wire, Arc::clone(&config));
    let ways: [(IpAddr, IpAddr); 2] = [(PEER4.into(), EDGE4.into()), (PEER6.into(), EDGE6.into())];
    let go = |to: IpAddr| attempt(&wire.peer, SocketAddr::new(to, 5061), &wire.pins);
    for (_, to) in ways {
        let before = count(&wire.pins, "not-partner");
        assert_eq!(go(to), Attempt::Dropped, "{to}");
        assert!(count(&wire.pins, "not-partner") > before, "{to}");
    }
    // One family is let in without the other.
    handle.apply_blocking(partners(&[PEER4.into()])).unwrap();
    assert_eq!((go(EDGE4.into()), go(EDGE6.into())), (Attempt::Answered, Attempt::Dropped));
    handle.apply_blocking(partners(&[PEER4.into(), PEER6.into()])).unwrap();
    let passed = || {
        let rules = inspect::rules(&wire.pins, &wire.state).unwrap();
        rules.iter().find(|row| row.rule.name == "access").unwrap().packets
    };
    let before = passed();
    assert!(before > 0);
    assert_eq!((go(EDGE4.into()), go(EDGE6.into())), (Attempt::Answered, Attempt::Answered));
    assert!(passed() > before, "counters stay");

    // Another configuration keeps the partners; so does the next owner, until it is told.
    handle.apply_blocking(vec![Intent::SetConfig(Arc::clone(&config))]).unwrap();
    assert_eq!(go(EDGE4.into()), Attempt::Answered);
    drop(handle);
    wire.wait_lock_free();
    assert_eq!(go(EDGE6.into()), Attempt::Answered, "without an owner");
    let handle = start(&wire, config);
    assert_eq!((go(EDGE4.into()), go(EDGE6.into())), (Attempt::Answered, Attempt::Answered));
    handle.apply_blocking(partners(&[])).unwrap();
    assert_eq!((go(EDGE4.into()), go(EDGE6.into())), (Attempt::Dropped, Attempt::Dropped));
}

#[test]
fn a_daemon_knows_its_partners_from_dns_and_without_dns() {
    let mut world =
        World::raise_with("ptd", |config| config.access("partners_only = true")).unwrap();
    let from = |world: &World, site: Site| {
        contoso_access().map(|to| attempt(world.lab.site(site), to, world.contoso.pins()))
    };
    let (answered, dropped) =
        ([Attempt::Answered, Attempt::Answered], [Attempt::Dropped, Attempt::Dropped]);
    eventually("DNS has named the partner", || from(&world, Site::Fabrikam) == answered);
    world.play(Play::Message, Site::Fabrikam, Site::Contoso, Carrier::Tcp).unwrap();
    let before = count(world.contoso.pins(), "not-partner");
    assert_eq!(from(&world, Site::Stranger), dropped);
    assert!(count(world.contoso.pins(), "not-partner") >= before + 2);
    eventually("the log says so, and what to do", || {
        world.contoso.log().contains("not-partner")
            && world.contoso.log().contains("from_addresses")
    });
    for address in Site::Stranger.outside() {
        // In the daemon's namespace, where the program can be asked.
        let mut ask = world.contoso.namespace().command(binary().unwrap());
        ask.arg("-c").arg(world.contoso.file()).args(["explain", "address", &address.to_string()]);
        let about = String::from_utf8(ask.output().unwrap().stdout).unwrap();
        let dropped = about.lines().find(|line| line.starts_with("dropped "));
        assert!(dropped.is_some_and(|line| line.contains("not-partner")), "{about}");
        let syn = about.lines().find(|line| line.starts_with("a SYN "));
        let told = |line: &str| line.contains("port 5061: drop, not-partner");
        assert!(syn.is_some_and(told), "{about}");
    }

    // Allowed and removed while it runs.
    assert_eq!(from(&world, Site::Evil), dropped);
    assert_eq!(world.contoso.command(&["domain", "allow", "evil.example"]).unwrap().code, 0);
    eventually("a new partner is let in", || from(&world, Site::Evil) == answered);
    assert_eq!(world.contoso.command(&["domain", "remove", "evil.example"]).unwrap().code, 0);
    assert_eq!(from(&world, Site::Evil), dropped, "and shut out at once");

    // Where a partner sends from, said while it runs; and the plan for others knows it all.
    let stranger = Site::Stranger.outside().map(|address| address.to_string());
    for bad in ["::/0", "127.0.0.1", "192.0.2.1/24"] {
        let refused = world
            .contoso
            .command(&["domain", "allow", "far.example", "--from-address", bad])
            .unwrap();
        assert_ne!(refused.code, 0, "{bad}: {refused:?}");
    }
    let mut allow = vec!["domain", "allow", "far.example"];
    allow.extend(stranger.iter().flat_map(|address| ["--from-address", address]));
    assert_eq!(world.contoso.command(&allow).unwrap().code, 0);
    eventually("it is let in from there", || from(&world, Site::Stranger) == answered);
    let row = world.contoso.domain("far.example").unwrap().unwrap();
    assert_eq!(row["from_addresses"].as_array().unwrap().len(), 2, "{row}");
    let plan = |world: &World| {
        world.contoso.command(&["plan", "ports", "--format", "nftables"]).unwrap().stdout
    };
    let live = plan(&world);
    for site in [Site::Stranger, Site::Fabrikam] {
        for address in site.outside() {
            assert!(live.contains(&address.to_string()), "{address} is missing:\n{live}");
        }
    }
    assert!(live.contains("as the daemon knows them now"), "{live}");
    world.contoso.stop().unwrap();
    let stopped = plan(&world);
    let fabrikam = Site::Fabrikam.v4().to_string();
    assert!(!stopped.contains(&fabrikam), "{stopped}");
    assert!(stopped.contains("no daemon that follows them runs"), "{stopped}");
    world.contoso.run().unwrap();
    assert_eq!(from(&world, Site::Stranger), answered, "kept on disk");
    assert_eq!(world.contoso.command(&["domain", "remove", "far.example"]).unwrap().code, 0);
    eventually("and shut out again", || from(&world, Site::Stranger) == dropped);

    // A start without DNS.
    world.contoso.stop().unwrap();
    world.lab.dns.pause().unwrap();
    world.contoso.run().unwrap();
    assert_eq!(from(&world, Site::Fabrikam), answered);
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(from(&world, Site::Fabrikam), answered, "also when DNS had its moment");
    assert_eq!(from(&world, Site::Stranger), dropped);
}
