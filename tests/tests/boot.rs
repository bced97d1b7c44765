//! `edge load`, before the network is up: the last good rules, or deny plus management, whatever
//! is wrong with the file, and whatever a single device refuses (trust.md, section 7).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    process::Output,
    sync::Arc,
    time::Duration,
};

use edge_tests::{
    demo::world::contoso_config,
    lab::{Lab, daemon::Edge, daemon::binary},
    patience::{eventually, patience},
    wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire, open_port},
};
use edge_user::{
    config::{Config, Interface, Least, Zone},
    firewall::{
        self, AttachMode, FirewallError, LoadReport, LoadSource, Owner, OwnerOptions, inspect,
    },
};

const SSH: u16 = 22;
const SIP: u16 = 5061;

/// A file whose access service is nonsense; `management`: from where.
fn bad_file(wire: &Wire, interfaces: &str, management: &str) -> PathBuf {
    let file = wire.state.join("edge.toml");
    let text = format!(
        "[paths]\nstate = {:?}\nrun = {:?}\npins = {:?}\n{interfaces}\n\
         [management]\nports = [{SSH}]\nfrom = [{management}]\nzone = \"external\"\n\
         [service.access]\nlisten = \"nonsense\"\n[[firewall.block]]\nprefix = \"203.0.113.0/24\"\n",
        wire.state.join("var"),
        wire.state,
        wire.pins,
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn load(wire: &Wire, file: &std::path::Path) -> Output {
    let mut command = wire.edge.command(binary().unwrap());
    command.args(["load", "-c"]).arg(file).output().unwrap()
}

/// Whether a connection to this port of ours comes about.
fn connects(wire: &Wire, to: IpAddr, port: u16) -> bool {
    let to = SocketAddr::new(to, port);
    let _listener = wire.edge.listen(to).unwrap();
    let wait = patience(Duration::from_millis(400));
    wire.peer.run(|| TcpStream::connect_timeout(&to, wait).is_ok()).unwrap()
}

/// The same, with patience: a first packet may be lost while a neighbour is looked for.
fn connects_soon(wire: &Wire, to: IpAddr, port: u16) -> bool {
    (0..50).any(|_| connects(wire, to, port))
}

fn only_administrators_get_in(wire: &Wire) {
    for to in [IpAddr::V4(EDGE4), IpAddr::V6(EDGE6)] {
        assert!(connects_soon(wire, to, SSH), "{to}: an administrator");
        assert!(!connects(wire, to, SIP), "{to}: anybody");
    }
}

fn administrators() -> String {
    format!("\"{PEER4}/32\", \"{PEER6}/128\"")
}

const EXTERNAL: &str = "[[interface]]\ndevice = \"edge0\"\nzone = \"external\"";

#[test]
fn a_bad_file_and_no_rules_of_before_let_in_administrators_alone() {
    let wire = Wire::new("bta").unwrap();
    for interfaces in [EXTERNAL, "[[interface]]\ndevice = 7", "[[interface", ""] {
        assert!(connects_soon(&wire, EDGE4.into(), SIP), "nothing is enforced yet");
        let output = load(&wire, &bad_file(&wire, interfaces, &administrators()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("ALARM") && text.contains(DEVICE), "{text}");
        // Where the whole file cannot be read, nobody is an administrator.
        if interfaces != "[[interface" {
            only_administrators_get_in(&wire);
            let blocks = inspect::blocks(&wire.pins).unwrap();
            assert_eq!(blocks.len(), 1, "{interfaces}: {blocks:?}");
        }
        assert!(!connects(&wire, EDGE4.into(), SIP));
        assert!(!wire.state.join("var/firewall.json").exists(), "these are no good rules");
        firewall::detach(&wire.pins, false).unwrap();
    }
    load(&wire, &bad_file(&wire, EXTERNAL, "\"192.0.2.0/28\""));
    assert!(!connects(&wire, EDGE4.into(), SSH), "no administrator");
}

/// Rules that are in force are better than none but management.
#[test]
fn what_is_enforced_stays_when_neither_file_nor_plan_is_good() {
    let wire = Wire::new("btb").unwrap();
    let (handle, _) = start(&wire, wire.config_with(open)).unwrap();
    drop(handle);
    wire.wait_lock_free();
    std::fs::write(wire.state.join("firewall.json"), "damaged").unwrap();
    let kept = load_in(&wire, None);
    assert!(matches!(kept, Err(FirewallError::NoLastGood { .. })), "{kept:?}");
    assert!(passes(&wire));
}

#[test]
fn a_device_that_refuses_the_program_keeps_no_other_from_it() {
    let wire = Wire::new("btc").unwrap();
    // By name it comes before ours; somebody else's program is on it.
    wire.edge
        .ip_batch("link add aaa0 type veth peer name bbb0\nlink set aaa0 up\nlink set bbb0 up\n")
        .unwrap();
    let interface = |device: &str| Interface {
        device: device.to_owned(),
        vlan: None,
        zone: Zone::External,
        optional: false,
    };
    let name = format!("{}-2", wire.pins.file_name().unwrap().to_string_lossy());
    let (pins, state) = (wire.pins.with_file_name(&name), wire.state.join("other"));
    let other = start(
        &wire,
        wire.config_with(|config| {
            config.interfaces = vec![interface("aaa0")];
            (config.paths.pins, config.paths.state) = (pins.clone(), state.clone());
        }),
    )
    .unwrap();
    let both = wire.config_with(|config| config.interfaces.insert(0, interface("aaa0")));
    let report = load_in(&wire, Some(both)).unwrap();
    drop(other);
    firewall::detach(&pins, true).unwrap();
    assert_eq!(report.source, LoadSource::Config);
    assert_eq!(report.start.attached.len(), 1);
    assert!(report.start.faults.iter().any(|fault| fault.contains("aaa0")), "{report:?}");
    assert!(!passes(&wire), "the other is enforced");
}

/// A macvlan has no XDP in its driver: slowly is better than not at all.
#[test]
fn a_device_without_xdp_in_its_driver_is_enforced_all_the_same_and_said() {
    let wire = Wire::new("btd").unwrap();
    wire.edge.ip_batch(&format!("link add link {DEVICE} name mac0 type macvlan\n")).unwrap();
    let config = wire.config_with(|config| config.interfaces[0].device = "mac0".to_owned());
    let report = load_in(&wire, Some(config)).unwrap();
    assert_eq!(report.start.attached[0].mode, AttachMode::Generic);
    assert!(report.start.faults.iter().any(|f| f.contains("GENERIC MODE")), "{report:?}");
}

#[test]
fn administrators_blocks_are_in_force_from_boot() {
    let lab = Lab::raise("bte").unwrap();
    let mut edge = Edge::start(&lab, contoso_config(&lab)).unwrap();
    for prefix in ["198.51.100.77", "2001:db8:77::/48"] {
        assert_eq!(edge.command(&["block", "add", prefix]).unwrap().code, 0);
    }
    edge.stop().unwrap();
    // A reboot: the pins are gone, the state folder is not.
    assert_eq!(edge.command(&["detach"]).unwrap().code, 0);
    let load = || {
        let mut command = edge.namespace().command(binary().unwrap());
        command.args(["load", "-c"]).arg(edge.file()).output().unwrap()
    };
    for _ in 0..2 {
        let output = load();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let blocks = inspect::blocks(edge.pins()).unwrap();
        let held: Vec<String> = blocks.iter().map(|block| block.prefix.to_string()).collect();
        for prefix in ["198.51.100.77/32", "2001:db8:77::/48"] {
            assert!(held.iter().any(|held| held == prefix), "{prefix}: {held:?}");
        }
    }
}

/// As in a container that has its settings read-only.
#[test]
fn forwarding_that_cannot_be_switched_off_is_an_alarm_until_it_is_off() {
    const READ_ONLY: &str = "mount --bind /proc/sys /proc/sys && \
                             mount -o remount,bind,ro /proc/sys && exec \"$@\"";
    let lab = Lab::raise("btf").unwrap();
    let mut edge = Edge::prepare(&lab, contoso_config(&lab)).unwrap();
    let read_only = ["unshare", "--mount", "sh", "-c", READ_ONLY, "read-only"];
    let file = |family: &str| format!("/proc/sys/net/{family}/conf/all/forwarding");
    let site = edge.namespace().clone();
    let switch = |family: &str, value: &str| {
        site.run(|| std::fs::write(file(family), value).unwrap()).unwrap();
    };
    let is_told = |text: &str| text.contains("forwarding cannot be switched off");
    let families = ["ipv4", "ipv6"];

    // At boot nobody tries again.
    switch(families[0], "1");
    let mut load = edge.namespace().command(read_only[0]);
    let output = load.args(&read_only[1..]).arg(binary().unwrap()).args(["load", "-c"]);
    let output = output.arg(edge.file()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.lines().any(|line| line.starts_with("ALARM") && is_told(line)), "{text}");

    switch(families[0], "0");
    edge.launcher = read_only.map(str::to_owned).to_vec();
    edge.run().unwrap();
    let told = || alarms(&edge, "forwarding cannot be switched off");
    assert_eq!(told(), 0);
    let process = edge.process().unwrap().id().to_string();
    let mount = |how: &str| {
        let mut mount = std::process::Command::new("nsenter");
        mount.args(["--mount", "--target", &process, "mount", "-o", how, "/proc/sys"]);
        assert!(mount.status().unwrap().success(), "{how}");
    };
    for family in families {
        switch(family, "1");
        eventually("it is an alarm", || told() == 1);
        let text = edge.command(&["status"]).unwrap().stdout;
        let row = text.lines().find(|line| line.starts_with("ALARM") && is_told(line));
        assert!(row.is_some_and(|row| row.contains(&file(family))), "{text}");
        match family {
            "ipv4" => switch(family, "0"),
            _ => mount("remount,bind,rw"),
        }
        eventually("the alarm has ended", || told() == 0);
        let off = site.run(|| std::fs::read_to_string(file(family)).unwrap()).unwrap();
        assert_eq!(off.trim(), "0", "{family}");
    }
}

/// Alarms that `edge status` shows and that speak of this.
fn alarms(edge: &Edge, of: &str) -> usize {
    let status = edge.status().unwrap();
    let alarms = status["alarms"].as_array().unwrap();
    alarms.iter().filter(|alarm| alarm.as_str().unwrap().contains(of)).count()
}

#[test]
fn a_device_that_is_not_enforced_or_has_another_name_is_an_alarm_as_long() {
    let lab = Lab::raise("btg").unwrap();
    let edge = Edge::start(&lab, contoso_config(&lab)).unwrap();
    let rename = |from: &str, to: &str| {
        let lines = format!("link set {from} down\nlink set {from} name {to}\nlink set {to} up\n");
        edge.namespace().ip_batch(&lines).unwrap();
    };
    let other_name = || alarms(&edge, "`ext0` is called `other0` now");
    assert_eq!(other_name(), 0);
    rename("ext0", "other0");
    eventually("the name is an alarm", || other_name() == 1);
    rename("other0", "ext0");
    eventually("the alarm has ended", || other_name() == 0);

    // A macvlan has no XDP in its driver.
    let not_enforced = || alarms(&edge, "`int0` is not enforced");
    edge.namespace()
        .ip_batch("link del int0\nlink add link ext0 name int0 type macvlan\n")
        .unwrap();
    eventually("the device is an alarm", || not_enforced() == 1);
    edge.namespace().ip_batch("link del int0\nlink add int0 type veth peer name inner0\n").unwrap();
    eventually("the alarm has ended", || not_enforced() == 0);
}

fn start(
    wire: &Wire,
    config: Arc<Config>,
) -> Result<(firewall::FirewallHandle, firewall::StartReport), FirewallError> {
    wire.edge.run(move || Owner::start(OwnerOptions::new(&config), config)).unwrap()
}

fn load_in(wire: &Wire, config: Option<Arc<Config>>) -> Result<LoadReport, FirewallError> {
    let options = OwnerOptions::new(&wire.config());
    wire.edge.run(move || firewall::load_last_good(options, config, Least::default)).unwrap()
}

const OPEN: u16 = 7000;

fn open(config: &mut Config) {
    config.firewall.rules.push(open_port("test", OPEN));
}

fn passes(wire: &Wire) -> bool {
    wire.passes(PEER4.into(), EDGE4.into(), OPEN, 1)
}
