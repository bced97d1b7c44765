//! `kill -9` between the writes of an apply and of a start; pins that go, are full, or are of
//! another version.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use aya::maps::{Array, HashMap, LpmTrie, MapData, lpm_trie::Key};
use edge_ebpf::{
    abi::{Block, SCHEMA, SCOPE_ALL, Settings},
    verdict::Reason,
};
use edge_tests::{
    bench::raw::{self, Tiny},
    patience::BUSY,
    wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire, ifindex},
};
use edge_user::{
    config::Config,
    firewall::{self, BlockOwner, BlockRequest, FirewallError, Intent, inspect},
};
use ipnet::IpNet;

use super::{eventually, passes, passes_from, start, zones};

pub const OLD: u16 = 7001;
pub const NEW: u16 = 7002;
/// Open before and after.
pub const BOTH: u16 = 7003;
/// In a prefix that the former version blocked.
pub const BLOCKED6: &str = "2001:db8:77::";
const OLD_BLOCKS: [&str; 2] = ["203.0.113.1/32", "2001:db8:1::/48"];
const NEW_BLOCKS: [&str; 2] = ["203.0.113.2/32", "2001:db8:2::/48"];

/// What the kernel's tables hold, our own addresses aside.
fn blocks(wire: &Wire) -> Vec<String> {
    let rows = inspect::blocks(&wire.pins).unwrap();
    let asked = rows.iter().filter(|block| block.reason != "bad-source");
    asked.map(|block| block.prefix.to_string()).collect()
}

fn open(config: &mut Config, port: u16) {
    config.firewall.rules.push(edge_tests::wire::open_port(&format!("port-{port}"), port));
}

pub fn old(config: &mut Config) {
    open(config, OLD);
    open(config, BOTH);
    config.firewall.blocks = OLD_BLOCKS.map(|t| t.parse().unwrap()).into();
}

/// Another rule, other blocks, another order.
pub fn new(config: &mut Config) {
    open(config, BOTH);
    open(config, NEW);
    config.firewall.blocks = NEW_BLOCKS.map(|t| t.parse().unwrap()).into();
}

/// Not a test by itself: the process that ends itself in the others (see `failpoint`).
#[test]
fn process_for_other_tests() {
    let Ok(pins) = std::env::var("EDGE_TEST_PINS") else { return };
    let wire = std::mem::ManuallyDrop::new(Wire {
        edge: edge_tests::lab::netns::Namespace::existing(&std::env::var("EDGE_TEST_NS").unwrap()),
        peer: edge_tests::lab::netns::Namespace::existing("none"),
        pins: pins.into(),
        state: std::env::var("EDGE_TEST_STATE").unwrap().into(),
    });
    type Change = fn(&mut Config);
    let (first, then): (Change, Change) = match std::env::var("EDGE_TEST_START").unwrap().as_str() {
        "old" => (old, new),
        "zones" => (zones::before, zones::after),
        _ => (new, new),
    };
    let (handle, _) = start(&wire, wire.config_with(first)).unwrap();
    handle.settle_blocking().unwrap();
    handle.apply_blocking(vec![Intent::SetConfig(wire.config_with(then))]).unwrap();
    std::fs::write(wire.state.join("survived"), "").unwrap();
}

/// A process that starts with `first`, then applies what comes after it, and ends itself at `kill_at`.
fn child(wire: &Wire, first: &str, kill_at: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::process_for_other_tests", "--nocapture"])
        .env("EDGE_TEST_PINS", &wire.pins)
        .env("EDGE_TEST_NS", wire.edge.name())
        .env("EDGE_TEST_STATE", &wire.state)
        .env("EDGE_TEST_START", first)
        .env("EDGE_KILL_AT", kill_at)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs it; tells after which write it ended itself, or `None` when it came to its end.
pub fn killed_after(wire: &Wire, first: &str, kill_at: &str) -> Option<String> {
    let output = child(wire, first, kill_at).wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find_map(|line| line.split(", after ").nth(1)).map(str::to_owned);
    assert_eq!(line.is_none(), output.status.success(), "{text}");
    line
}

fn block(prefix: &str, owner: BlockOwner) -> Intent {
    let (prefix, expires_at) = (prefix.parse().unwrap(), None::<SystemTime>);
    Intent::Block(BlockRequest { prefix, owner, comment: None, expires_at })
}

#[test]
fn kill_9_between_any_two_writes_of_an_apply_leaves_the_old_or_the_new_rules() {
    let wire = Wire::new("ak").unwrap();
    let mut reached = BTreeSet::new();
    let mut swapped = false;
    for write in 1.. {
        let Some(after) = killed_after(&wire, "old", &format!("apply:{write}")) else { break };
        reached.insert(after.clone());
        let (is_old, is_new) = (passes(&wire, OLD), passes(&wire, NEW));
        assert!(is_old != is_new, "after {after}: old {is_old}, new {is_new}");
        assert!(passes(&wire, BOTH), "after {after}: what is in both is open all the time");
        let mine = if is_old { OLD_BLOCKS } else { NEW_BLOCKS };
        let held = blocks(&wire);
        assert!(mine.iter().all(|block| held.iter().any(|b| b == block)), "{after}: {held:?}");
        assert!(is_new || !swapped, "after {after}: the old came back");
        swapped = is_new;
        // The next start reconciles: whole, and nothing is left of the other.
        let (handle, report) = start(&wire, wire.config_with(old)).unwrap();
        assert!(report.adopted);
        handle.settle_blocking().unwrap();
        assert!(passes(&wire, OLD) && !passes(&wire, NEW), "after {after}, started again");
        assert_eq!(blocks(&wire), OLD_BLOCKS, "after {after}");
        drop(handle);
        wire.wait_lock_free();
        assert!(write < 200, "it never comes to its end");
    }
    assert!(wire.state.join("survived").exists());
    for name in ["PORT_WORDS", "RULES", "DESTINATIONS", "SETTINGS", "a link's program"] {
        assert!(reached.contains(name), "{name} is not among {reached:?}");
    }
}

#[test]
fn kill_9_between_any_two_writes_of_a_start_is_mended_by_the_next() {
    let wire = Wire::new("as").unwrap();
    let mut writes = 0;
    for write in 1.. {
        if killed_after(&wire, "new", &format!("start:{write}")).is_none() {
            break;
        }
        writes = write;
        // Either nothing is attached yet, or whole rules are in force: NEW is open either way.
        assert!(passes(&wire, NEW) && passes(&wire, BOTH), "after write {write}");
        let (handle, _) = start(&wire, wire.config_with(old)).unwrap();
        assert!(passes(&wire, OLD) && !passes(&wire, NEW), "after write {write}, started again");
        drop(handle);
        wire.wait_lock_free();
        firewall::detach(&wire.pins, false).unwrap();
    }
    assert!(writes > 10, "{writes}");
}

#[test]
fn a_table_that_is_full_refuses_the_whole_configuration() {
    let wire = Wire::new("af").unwrap();
    let small = |config: &mut Config| {
        old(config);
        config.firewall.max_blocked_addresses = 4;
    };
    let (handle, _) = start(&wire, wire.config_with(small)).unwrap();
    let config = wire.config_with(|config| {
        new(config);
        config.firewall.max_blocked_addresses = 4;
        let hosts = (1..=5).map(|n| IpNet::from(IpAddr::from([203, 0, 113, n])));
        config.firewall.blocks = hosts.collect();
    });
    let refused = handle.apply_blocking(vec![Intent::SetConfig(config)]).unwrap_err();
    assert!(matches!(refused, FirewallError::BlocksFull { max: 4, .. }), "{refused:?}");
    assert!(refused.to_string().contains("max_blocked_addresses"), "{refused}");
    assert!(passes(&wire, OLD) && !passes(&wire, NEW), "the old rules hold");
    assert_eq!(blocks(&wire), OLD_BLOCKS, "and the old blocks, all of them");
    handle.apply_blocking(vec![Intent::SetConfig(wire.config_with(new))]).unwrap();
    assert!(passes(&wire, NEW));
}

/// Another bpffs, so that nobody else's pins go with it.
struct OwnBpffs(std::path::PathBuf);

impl OwnBpffs {
    fn mount(path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        use rustix::mount::{MountFlags, mount};
        mount("bpf", path, "bpf", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
        Self(path.to_owned())
    }

    fn unmount(&self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

impl Drop for OwnBpffs {
    fn drop(&mut self) {
        self.unmount();
    }
}

#[test]
fn pins_that_go_while_the_daemon_runs_are_told_and_mended_by_the_next_start() {
    let mut wire = Wire::new("ag").unwrap();
    let bpffs = OwnBpffs::mount(&wire.state.join("bpf"));
    wire.pins = bpffs.0.join("edge");
    let (handle, _) = start(&wire, wire.config_with(old)).unwrap();
    assert!(passes(&wire, OLD));
    bpffs.unmount();
    let refused = handle.apply_blocking(vec![Intent::SetConfig(wire.config_with(new))]);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, FirewallError::PinsGone { .. }), "{refused:?}");
    assert!(refused.to_string().contains("mount -t bpf"), "{refused}");
    assert!(passes(&wire, OLD) && !passes(&wire, NEW), "what is in force stays");
    let refused = handle.apply_blocking(vec![Intent::SetShadow(wire.config_with(new))]);
    assert!(matches!(refused, Err(FirewallError::PinsGone { .. })), "{refused:?}");
    // Blocks do not need the pins: they are still taken.
    handle.apply_blocking(vec![block(&format!("{PEER4}/32"), BlockOwner::Administrator)]).unwrap();
    assert!(!passes_from(&wire, PEER4.into(), EDGE4.into(), OLD));
    drop(handle);
    // The lock was the last that held the old file system; the device is free again.
    let _again = OwnBpffs::mount(&wire.state.join("bpf"));
    let began = Instant::now();
    let (_handle, report) = loop {
        match start(&wire, wire.config_with(new)) {
            Ok(started) => break started,
            Err(fault) => assert!(began.elapsed() < BUSY, "{fault}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(!report.adopted);
    assert!(passes(&wire, NEW) && !passes(&wire, OLD));
    firewall::detach(&wire.pins, true).unwrap();
}

/// The version before had the two cells of an IPv6 network in other places, in a map of another name.
#[test]
fn a_bitmap_that_was_not_there_is_filled_before_a_program_asks_it() {
    let wire = Wire::new("ap").unwrap();
    wire.know_neighbours().unwrap();
    let (handle, _) = start(&wire, wire.config_with(new)).unwrap();
    handle.apply_blocking(vec![block(&format!("{PEER6}/128"), BlockOwner::Administrator)]).unwrap();
    let passes = || passes_from(&wire, PEER6.into(), EDGE6.into(), NEW);
    assert!(!passes());
    drop(handle);
    wire.wait_lock_free();
    let folder = wire.pins.join(format!("v{SCHEMA}"));
    let (cells, former) = (folder.join("PRESENCE6_PAGES"), folder.join("PRESENCE6_CELLS"));
    std::fs::remove_file(&cells).unwrap();
    Array::<MapData, u64>::create(8, 0).unwrap().pin(&former).unwrap();
    let (handle, report) = start(&wire, wire.config_with(new)).unwrap();
    assert!(report.adopted && !report.migrated, "{report:?}");
    assert!(!passes());
    assert!(cells.exists() && !former.exists());
    handle.settle_blocking().unwrap();
    assert!(passes(), "nobody claimed it");
}

/// Pins as schema 2 left them: its settings and block tables, and a link whose program drops
/// everything.
pub fn former_pins(wire: &Wire) -> std::path::PathBuf {
    let folder = wire.pins.join("v2");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(wire.pins.join("links")).unwrap();
    let mut settings = Array::<MapData, Settings>::create(1, 0).unwrap();
    settings.set(0, Settings { schema: 2, block_version: 7, ..Settings::default() }, 0).unwrap();
    settings.pin(folder.join("SETTINGS")).unwrap();
    let block = Block::new(SCOPE_ALL, Reason::BlockedAddress as u8, 1, 0);
    let mut four = HashMap::<MapData, [u8; 4], Block>::create(100, 1).unwrap();
    four.insert(PEER4.octets(), Block { from_version: 3, ..block }, 0).unwrap();
    // A list had these written for its next version, and for one before.
    four.insert([198, 18, 77, 1], Block { from_version: 8, ..block }, 0).unwrap();
    four.insert([198, 18, 77, 2], Block { until_version: 7, ..block }, 0).unwrap();
    four.pin(folder.join("BLOCKED4")).unwrap();
    let mut six = LpmTrie::<MapData, [u8; 16], Block>::create(100, 1).unwrap();
    let net: std::net::Ipv6Addr = BLOCKED6.parse().unwrap();
    six.insert(&Key::new(48, net.octets()), block, 0).unwrap();
    six.pin(folder.join("BLOCKED6_PREFIXES")).unwrap();
    let path = wire.pins.join("links").join(DEVICE);
    let link = attach_soon(wire, &raw::load(Tiny::Drop).unwrap());
    raw::pin(&link, &path).unwrap();
    folder
}

/// Attaches a program to our device. One that was let go a moment ago may still be there.
pub fn attach_soon(wire: &Wire, program: &OwnedFd) -> OwnedFd {
    let began = Instant::now();
    let attach = || raw::attach(program, ifindex(DEVICE).unwrap());
    loop {
        match wire.edge.run(attach).unwrap() {
            Ok(link) => return link,
            Err(fault) => assert!(began.elapsed() < BUSY, "{fault}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn pins_of_the_version_before_are_replaced_in_the_link_and_their_blocks_carried_over() {
    let wire = Wire::new("am").unwrap();
    wire.know_neighbours().unwrap();
    let folder = former_pins(&wire);
    assert!(!passes(&wire, BOTH), "the old program drops everything");
    let (handle, report) = start(&wire, wire.config_with(new)).unwrap();
    assert!(report.migrated && !report.adopted, "{report:?}");
    assert_eq!(report.migrated_blocks, 2);
    assert!(report.attached[0].adopted, "the link stays, its program is another");
    assert!(report.warnings.iter().any(|w| w.contains("version 2")), "{:?}", report.warnings);
    assert!(!folder.exists());
    assert!(!passes_from(&wire, PEER4.into(), EDGE4.into(), BOTH), "its block is carried over");
    assert!(passes_from(&wire, PEER6.into(), EDGE6.into(), BOTH), "who is not blocked passes");
    let blocks = blocks(&wire);
    assert!(blocks.contains(&"2001:db8:77::/48".to_owned()), "{blocks:?}");
    handle.settle_blocking().unwrap();
    assert!(passes(&wire, BOTH), "nobody claimed it");
}

#[test]
fn a_migration_that_was_killed_goes_on_at_the_next_start() {
    let wire = Wire::new("an").unwrap();
    wire.know_neighbours().unwrap();
    for write in [1, 5, 9, 12, 14, 16] {
        let folder = former_pins(&wire);
        let after = killed_after(&wire, "new", &format!("start:{write}"));
        assert!(after.is_some(), "{write}");
        let refused = !passes_from(&wire, PEER4.into(), EDGE4.into(), BOTH);
        assert!(refused, "after {after:?}: dropped by the old program or by its block");
        let (handle, report) = start(&wire, wire.config_with(new)).unwrap();
        assert!(report.migrated, "after {after:?}");
        assert!(!folder.exists());
        assert!(!passes_from(&wire, PEER4.into(), EDGE4.into(), BOTH), "after {after:?}");
        drop(handle);
        wire.wait_lock_free();
        firewall::detach(&wire.pins, false).unwrap();
        eventually("the program is off", || passes_from(&wire, PEER4.into(), EDGE4.into(), BOTH));
    }
}

#[test]
fn maps_of_an_unknown_shape_are_never_used() {
    let wire = Wire::new("au").unwrap();
    let config = || wire.config_with(new);
    // A schema that nobody knows; the one before in another shape; ours in another shape.
    let unknown = wire.pins.join("v77");
    std::fs::create_dir_all(&unknown).unwrap();
    let refused = start(&wire, config()).unwrap_err();
    assert!(matches!(refused, FirewallError::Schema { .. }), "{refused}");
    assert!(refused.to_string().contains("edge detach"), "{refused}");
    std::fs::remove_dir(&unknown).unwrap();

    let former = wire.pins.join("v2");
    std::fs::create_dir_all(&former).unwrap();
    let pin = former.join("BLOCKED4");
    HashMap::<MapData, [u8; 4], [u8; 8]>::create(8, 1).unwrap().pin(&pin).unwrap();
    let refused = start(&wire, config()).unwrap_err();
    assert!(matches!(refused, FirewallError::Schema { .. }), "{refused}");
    assert!(pin.exists(), "what is not known is not touched");
    firewall::detach(&wire.pins, false).unwrap();

    let ours = wire.pins.join(format!("v{SCHEMA}"));
    std::fs::create_dir_all(&ours).unwrap();
    let pin = ours.join("SETTINGS");
    Array::<MapData, u64>::create(1, 0).unwrap().pin(&pin).unwrap();
    let refused = start(&wire, config()).unwrap_err();
    assert!(matches!(refused, FirewallError::Shape { .. }), "{refused}");
    firewall::detach(&wire.pins, false).unwrap();
    start(&wire, config()).unwrap();
}
