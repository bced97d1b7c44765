//! `cargo xtask deploy`, end to end: over a real ssh to a real systemd on a machine of its own
//! (see `deploy/machine.rs`), and into a root folder. Never onto the machine that runs the test.

#[path = "deploy/machine.rs"]
mod machine;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use edge_tests::lab::daemon;

use machine::{ADMINISTRATOR, Answer, ELSEWHERE, Machine};

/// The `xtask` binary of this build, beside `edge`.
fn xtask() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("xtask"))
        .find(|file| file.is_file())
        .context("the xtask binary is not built: run `cargo build -p xtask`")
}

#[test]
fn a_host_is_deployed_to_checked_first_and_never_left_worse_than_before() -> Result<()> {
    let before = footprint();
    let machine = Machine::boot()?;
    let edge = daemon::binary()?;

    first_deploy_without_configuration_starts_nothing(&machine, &edge)?;
    source_outside_management_is_refused(&machine, &edge)?;
    configuration_that_locks_us_out_is_taken_back(&machine, &edge)?;
    deploy_starts_the_daemon_and_its_firewall(&machine, &edge)?;
    second_deploy_keeps_the_configuration(&machine, &edge)?;
    bad_configuration_is_refused_before_anything_changes(&machine, &edge)?;
    version_that_does_not_start_gives_way_to_the_former(&machine, &edge)?;
    what_is_enforced_without_a_daemon_stays_so(&machine)?;
    units_work_without_the_daemon(&machine)?;

    drop(machine);
    assert_eq!(footprint(), before, "the machine that runs the test was touched");
    Ok(())
}

fn first_deploy_without_configuration_starts_nothing(machine: &Machine, edge: &Path) -> Result<()> {
    let answer = deploy(machine, edge, ADMINISTRATOR, 0)?;
    assert!(answer.text.contains("not started"), "{}", answer.text);
    assert_eq!(state(machine)?, "inactive");
    let enabled = machine.ssh("systemctl is-enabled edge edge-load")?;
    assert!(!enabled.text.contains("enabled"), "{}", enabled.text);
    let example = machine.tell("cat /etc/edge/edge.toml.example")?;
    assert!(example.contains("[management]"), "{example}");
    machine.tell("test ! -e /etc/edge/edge.toml")?;
    Ok(())
}

fn source_outside_management_is_refused(machine: &Machine, edge: &Path) -> Result<()> {
    machine.tell("cp /etc/edge-test/edge.toml /etc/edge/edge.toml")?;
    let answer = deploy(machine, edge, ELSEWHERE, 2)?;
    assert!(answer.text.contains(ELSEWHERE), "{}", answer.text);
    assert!(answer.text.contains("nothing was changed"), "{}", answer.text);
    assert_eq!(state(machine)?, "inactive");
    Ok(())
}

/// The source is inside the prefixes, but ssh's port is not among the ports: only a new
/// connection can tell.
fn configuration_that_locks_us_out_is_taken_back(machine: &Machine, edge: &Path) -> Result<()> {
    machine.tell("sed -i 's/^ports = .22.$/ports = [2222]/' /etc/edge/edge.toml")?;
    machine.tell("grep -q 2222 /etc/edge/edge.toml")?;
    let answer = deploy(machine, edge, ADMINISTRATOR, 5)?;
    assert!(answer.text.contains("nobody could connect"), "{}", answer.text);
    assert!(machine.lets_in_from(ADMINISTRATOR)?, "{}", answer.text);
    assert_eq!(state(machine)?, "inactive", "{}", answer.text);
    machine.tell("cp /etc/edge-test/edge.toml /etc/edge/edge.toml")?;
    Ok(())
}

fn deploy_starts_the_daemon_and_its_firewall(machine: &Machine, edge: &Path) -> Result<()> {
    let answer = deploy(machine, edge, ADMINISTRATOR, 0)?;
    assert!(answer.text.contains("installed and running"), "{}", answer.text);
    assert_eq!(state(machine)?, "active");
    machine.tell("systemctl is-enabled edge edge-load")?;
    machine.tell("edge status --json")?;
    // Four capabilities and no way to more: CAP_NET_BIND_SERVICE, NET_ADMIN, PERFMON, BPF.
    let capabilities = machine.tell(
        "grep -E '^(CapBnd|CapEff|NoNewPrivs)' /proc/$(systemctl show -P MainPID edge)/status",
    )?;
    let words: Vec<&str> = capabilities.split_whitespace().collect();
    let expected =
        ["CapEff:", "000000c000001400", "CapBnd:", "000000c000001400", "NoNewPrivs:", "1"];
    assert_eq!(words, expected);
    // The unit lets it lower the priority of the threads that make strangers' handshakes.
    let (name, nice) = ("(edge-handshake)", 19);
    let low = machine.tell(&format!(
        "grep -hF '{name}' /proc/$(systemctl show -P MainPID edge)/task/*/stat | \
         cut -d ' ' -f {nice} | sort -u"
    ))?;
    assert_eq!(low, "5");
    assert_ne!(machine.tell("systemctl show -P WatchdogTimestampMonotonic edge")?, "0");
    assert!(machine.lets_in_from(ADMINISTRATOR)?);
    assert!(machine.keeps_out_from(ELSEWHERE)?, "the firewall is not in force");
    switch_forwarding_on(machine)?;
    wait_for_forwarding_off(machine)
}

fn switch_forwarding_on(machine: &Machine) -> Result<()> {
    let switch = "/proc/sys/net/$family/conf/all/forwarding";
    machine.tell(&format!("for family in ipv4 ipv6; do echo 1 >{switch}; done")).map(drop)
}

/// The unit lets it be written.
fn wait_for_forwarding_off(machine: &Machine) -> Result<()> {
    let on = "grep -v 0 /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv6/conf/*/forwarding";
    let turns = "for turn in $(seq 600)";
    machine
        .tell(&format!("{turns}; do {on} >/dev/null || exit 0; sleep 0.1; done; {on}; exit 1"))?;
    Ok(())
}

fn second_deploy_keeps_the_configuration(machine: &Machine, edge: &Path) -> Result<()> {
    machine
        .tell("echo '# by hand' >>/etc/edge/edge.toml; echo old >/etc/edge/edge.toml.example")?;
    let (configuration, process) = (configuration(machine)?, process(machine)?);
    deploy(machine, edge, ADMINISTRATOR, 0)?;
    assert_eq!(self::configuration(machine)?, configuration);
    assert_ne!(self::process(machine)?, process, "it was not restarted");
    let example = machine.tell("cat /etc/edge/edge.toml.example")?;
    assert!(example.contains("[management]"), "{example}");
    Ok(())
}

fn bad_configuration_is_refused_before_anything_changes(
    machine: &Machine,
    edge: &Path,
) -> Result<()> {
    machine
        .tell("cp -a /etc/edge/edge.toml /root/good; echo 'nonsense = 1' >>/etc/edge/edge.toml")?;
    let process = process(machine)?;
    let answer = deploy(machine, edge, ADMINISTRATOR, 2)?;
    assert!(answer.text.contains("nonsense"), "{}", answer.text);
    assert_eq!(self::process(machine)?, process);
    machine.tell("mv /root/good /etc/edge/edge.toml")?;
    Ok(())
}

/// A version that finds every configuration good, and does not start.
fn broken_edge(machine: &Machine) -> Result<PathBuf> {
    let broken = machine.dir().join("broken-edge");
    fs::write(
        &broken,
        "#!/bin/sh\n\
         case \" $* \" in *' run '*) echo 'no such luck' >&2; exit 1 ;; esac\n\
         exec /usr/local/sbin/edge \"$@\"\n",
    )?;
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755))?;
    Ok(broken)
}

fn version_that_does_not_start_gives_way_to_the_former(
    machine: &Machine,
    edge: &Path,
) -> Result<()> {
    let broken = broken_edge(machine)?;
    machine.tell("echo '# former' >>/etc/systemd/system/edge.service")?;

    let answer = deploy(machine, &broken, ADMINISTRATOR, 3)?;
    assert!(answer.text.contains("the former version is back and running"), "{}", answer.text);
    assert!(answer.text.contains("no such luck"), "no journal in: {}", answer.text);
    assert_eq!(state(machine)?, "active");
    let unit = machine.tell("tail -n 1 /etc/systemd/system/edge.service")?;
    assert_eq!(unit, "# former", "the units are part of the version");
    let installed = machine.tell("md5sum </usr/local/sbin/edge")?;
    assert_eq!(installed.split(' ').next(), md5(edge)?.split(' ').next());
    let version = machine.tell("edge --version")?;
    assert!(version.contains("edge"), "{version}");
    Ok(())
}

/// The daemon is down, its rules are in force: the case for which one deploys most.
fn what_is_enforced_without_a_daemon_stays_so(machine: &Machine) -> Result<()> {
    let broken = broken_edge(machine)?;
    for dead in ["systemctl kill --signal=KILL edge; systemctl stop edge", "systemctl stop edge"] {
        machine.tell(dead)?;
        assert!(machine.keeps_out_from(ELSEWHERE)?, "enforcement went with the daemon");
        let answer = deploy(machine, &broken, ADMINISTRATOR, 3)?;
        assert!(answer.text.contains("the former version is back"), "{}", answer.text);
        assert!(machine.keeps_out_from(ELSEWHERE)?, "the host is open: {}", answer.text);
        assert!(machine.lets_in_from(ADMINISTRATOR)?);
        assert_eq!(machine.tell("systemctl is-enabled edge edge-load")?, "enabled\nenabled");
        assert_ne!(state(machine)?, "active", "it was not running");
    }
    // Where nothing was in force, nothing is.
    machine.tell("edge detach")?;
    deploy(machine, &broken, ADMINISTRATOR, 4)?;
    assert!(machine.lets_in_from(ELSEWHERE)?);
    assert_eq!(machine.tell("systemctl is-enabled edge edge-load")?, "enabled\nenabled");
    machine.tell("systemctl start edge")?;
    Ok(())
}

/// At boot, before the network: the last good rules without a daemon. And enforcement outlives it.
fn units_work_without_the_daemon(machine: &Machine) -> Result<()> {
    machine.tell("systemctl kill --signal=KILL edge; systemctl stop edge")?;
    assert!(machine.keeps_out_from(ELSEWHERE)?, "enforcement went with the daemon");
    machine.tell("edge detach")?;
    assert!(machine.lets_in_from(ELSEWHERE)?, "detach left something in force");
    switch_forwarding_on(machine)?;
    machine.tell("systemctl restart edge-load || { journalctl -u edge-load -n 20; exit 1; }")?;
    assert!(machine.lets_in_from(ADMINISTRATOR)?);
    assert!(machine.keeps_out_from(ELSEWHERE)?, "`edge load` put no rules in force");
    wait_for_forwarding_off(machine)
}

#[test]
fn a_root_folder_is_installed_into_and_its_configuration_kept() -> Result<()> {
    let root = Root::create()?;
    let (edge, xtask) = (daemon::binary()?, xtask()?);
    let install = || -> Result<()> {
        let output = Command::new(&xtask)
            .args(["deploy", "--root"])
            .arg(&root.0)
            .arg("--binary")
            .arg(&edge)
            .output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let config = root.0.join("etc/edge/edge.toml");
    install()?;
    assert!(!config.exists());
    fs::write(&config, "# mine\n")?;
    install()?;
    assert_eq!(fs::read_to_string(&config)?, "# mine\n");
    for file in [
        "usr/local/sbin/edge",
        "etc/edge/edge.toml.example",
        "etc/systemd/system/edge.service",
        "etc/systemd/system/multi-user.target.wants/edge.service",
        "etc/systemd/system/sysinit.target.wants/edge-load.service",
        "etc/sysctl.d/60-edge.conf",
    ] {
        assert!(root.0.join(file).symlink_metadata().is_ok(), "{file} is missing");
    }
    assert_eq!(md5(&root.0.join("usr/local/sbin/edge"))?, md5(&edge)?);
    Ok(())
}

#[test]
fn the_units_are_little_exposed() -> Result<()> {
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/templates");
    for unit in ["edge.service", "edge-load.service"] {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(templates.join(unit).canonicalize()?)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let exposure: f64 = text
            .lines()
            .find_map(|line| line.split_once("Overall exposure level for "))
            .and_then(|(_, rest)| rest.split_once(": "))
            .and_then(|(_, rest)| rest.split(' ').next())
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no exposure in: {text}"));
        assert!(exposure < 3.0, "{unit}: {exposure}");
    }
    Ok(())
}

/// A folder that goes away.
struct Root(PathBuf);

impl Root {
    fn create() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("edge-root-{}", std::process::id()));
        for part in ["etc", "usr/local/sbin", "var"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("etc/group"), "root:x:0:\n")?;
        fs::write(folder.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        Ok(Self(folder))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn deploy(machine: &Machine, binary: &Path, source: &str, code: i32) -> Result<Answer> {
    let answer = machine.deploy(binary, source)?;
    assert_eq!(answer.code, code, "deploy said:\n{}", answer.text);
    Ok(answer)
}

fn state(machine: &Machine) -> Result<String> {
    Ok(machine.ssh("systemctl is-active edge.service")?.text.trim().to_owned())
}

fn process(machine: &Machine) -> Result<String> {
    machine.tell("systemctl show -P MainPID edge.service")
}

fn configuration(machine: &Machine) -> Result<String> {
    machine.tell("cat /etc/edge/edge.toml")
}

fn md5(file: &Path) -> Result<String> {
    let output = Command::new("md5sum").stdin(fs::File::open(file)?).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a deployment would leave on the machine that runs the test.
fn footprint() -> Vec<(&'static str, Option<std::time::SystemTime>)> {
    [
        "/usr/local/sbin/edge",
        "/usr/local/lib/edge",
        "/etc/edge",
        "/etc/systemd/system/edge.service",
        "/etc/sysctl.d/60-edge.conf",
        "/run/edge",
        "/root/.ssh/authorized_keys",
    ]
    .map(|path| (path, fs::metadata(path).and_then(|data| data.modified()).ok()))
    .into()
}
