//! The program at egress on kernels without TCX: a filter of the clsact qdisc. Other kernels have
//! that qdisc too, so that all of this is tested there as well.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use edge_tests::{
    patience::{BUSY, kernel_version, patience},
    wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire},
};
use edge_user::{
    config::Config,
    firewall::{
        self, EgressHook, FirewallHandle, Intent, Owner, OwnerOptions, StartReport, inspect,
    },
};

/// Starts an owner inside the wire's edge namespace, as on a kernel without TCX.
fn start(wire: &Wire, config: Arc<Config>) -> (FirewallHandle, StartReport) {
    let options = OwnerOptions { without_tcx: true, ..OwnerOptions::new(&config) };
    wire.edge.run(move || Owner::start(options, config)).unwrap().unwrap()
}

/// The ids of our program in the filters of a device.
fn filters(wire: &Wire, device: &str) -> Vec<String> {
    let arguments = ["filter", "show", "dev", device, "egress"];
    let output = wire.edge.command("tc").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter(|line| line.contains("edge_egress"))
        .map(|line| line.split(" id ").nth(1).unwrap().split(' ').next().unwrap().to_owned())
        .collect()
}

/// Whether an answer from outside to what an unconnected socket of ours sent arrives in this time:
/// only when the program at egress remembered it.
fn answered(wire: &Wire, (ours, theirs): (IpAddr, IpAddr), within: Duration) -> bool {
    let peer = wire.peer.udp((theirs, 0).into()).unwrap();
    let socket = wire.edge.udp((ours, 0).into()).unwrap();
    for (socket, wait) in [(&peer, BUSY), (&socket, within)] {
        socket.set_read_timeout(Some(patience(wait))).unwrap();
    }
    socket.send_to(b"question", peer.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 16];
    let (_, from): (usize, SocketAddr) = peer.recv_from(&mut buffer).unwrap();
    peer.send_to(b"answer", from).unwrap();
    socket.recv(&mut buffer).is_ok()
}

/// As somebody else's tool would.
fn remove_filter(wire: &Wire) {
    let arguments = ["filter", "del", "dev", DEVICE, "egress"];
    assert!(wire.edge.command("tc").args(arguments).status().unwrap().success());
}

/// Ours and theirs, of both families.
fn ends() -> [(IpAddr, IpAddr); 2] {
    [(EDGE4.into(), PEER4.into()), (EDGE6.into(), PEER6.into())]
}

/// Whether answers arrive, by both families, because the program at egress remembered.
fn both_answered(wire: &Wire) -> bool {
    let remembered = || {
        let rows = inspect::reasons(&wire.pins).unwrap();
        rows.iter().find(|row| row.name == "reply-remembered").unwrap().packets
    };
    let before = remembered();
    ends().into_iter().all(|ends| answered(wire, ends, BUSY)) && remembered() == before + 2
}

#[test]
fn the_kernels_best_way_is_taken() {
    let wire = Wire::new("ege").unwrap();
    let config = wire.config_with(|_| ());
    let began = wire.edge.run(move || Owner::start(OwnerOptions::new(&config), config));
    let (_handle, report) = began.unwrap().unwrap();
    let has_tcx = kernel_version() >= (6, 6);
    let (hook, count) = if has_tcx { (EgressHook::Tcx, 0) } else { (EgressHook::Clsact, 1) };
    assert_eq!(report.attached[0].egress, hook, "{:?}", kernel_version());
    assert_eq!(inspect::status(&wire.pins).unwrap().attached[0].egress, hook);
    assert_eq!(filters(&wire, DEVICE).len(), count);
    assert!(both_answered(&wire));
}

#[test]
fn without_the_filter_nothing_that_we_began_is_answered() {
    let wire = Wire::new("egn").unwrap();
    let (_handle, _) = start(&wire, wire.config_with(|_| ()));
    assert!(both_answered(&wire));
    remove_filter(&wire);
    for ends in ends() {
        assert!(!answered(&wire, ends, Duration::from_millis(300)), "{ends:?}");
    }
}

#[test]
fn a_filter_outlives_the_daemon_and_the_next_one_changes_it_in_place() {
    let wire = Wire::new("egk").unwrap();
    let (handle, report) = start(&wire, wire.config_with(|_| ()));
    assert_eq!(report.attached[0].egress, EgressHook::Clsact);
    assert!(both_answered(&wire));
    drop(handle);
    wire.wait_lock_free();
    let first = filters(&wire, DEVICE);
    assert_eq!(first.len(), 1);
    assert!(both_answered(&wire), "without a daemon");
    let (_handle, report) = start(&wire, wire.config_with(|_| ()));
    assert!(report.adopted);
    let second = filters(&wire, DEVICE);
    assert_eq!(second.len(), 1);
    assert_ne!(first, second, "the new program is in the filter");
    assert!(both_answered(&wire));
    assert_eq!(inspect::status(&wire.pins).unwrap().attached[0].egress, EgressHook::Clsact);
}

#[test]
fn detach_finds_the_filter() {
    let wire = Wire::new("egd").unwrap();
    let (handle, _) = start(&wire, wire.config_with(|_| ()));
    drop(handle);
    wire.wait_lock_free();
    assert_eq!(filters(&wire, DEVICE).len(), 1);
    wire.edge.run(|| firewall::detach(&wire.pins, false)).unwrap().unwrap();
    assert_eq!(filters(&wire, DEVICE).len(), 0);
    assert!(!wire.pins.exists());
}

#[test]
fn a_device_that_is_let_go_loses_its_filter() {
    let wire = Wire::new("egl").unwrap();
    wire.edge.ip_batch("link add edge1 type veth peer name peer1\nlink set edge1 up\n").unwrap();
    let both = wire.config_with(|config| {
        let mut second = config.interfaces[0].clone();
        second.device = "edge1".to_owned();
        config.interfaces.push(second);
    });
    let (handle, _) = start(&wire, both);
    assert_eq!((filters(&wire, DEVICE).len(), filters(&wire, "edge1").len()), (1, 1));
    handle.apply_blocking(vec![Intent::SetConfig(wire.config_with(|_| ()))]).unwrap();
    assert_eq!((filters(&wire, DEVICE).len(), filters(&wire, "edge1").len()), (1, 0));
    assert!(!wire.pins.join("egress/edge1").exists());
}

/// A run that ended between the pin and the filter, and one whose pins went.
#[test]
fn what_a_broken_run_left_is_taken_over() {
    let wire = Wire::new("egb").unwrap();
    let (handle, _) = start(&wire, wire.config_with(|_| ()));
    drop(handle);
    wire.wait_lock_free();
    remove_filter(&wire);
    let (handle, _) = start(&wire, wire.config_with(|_| ()));
    assert_eq!(filters(&wire, DEVICE).len(), 1);
    drop(handle);
    wire.wait_lock_free();
    let pin: &Path = &wire.pins.join("egress").join(DEVICE);
    std::fs::remove_file(pin).unwrap();
    let (_handle, _) = start(&wire, wire.config_with(|_| ()));
    assert_eq!(filters(&wire, DEVICE).len(), 1);
    assert!(pin.exists() && both_answered(&wire));
}
