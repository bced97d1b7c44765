//! A machine to deploy to: a real systemd and a real sshd in mount, process, host name, IPC and
//! cgroup namespaces of their own, on an overlay of the file system that goes away with them.
//! Nothing that is deployed there is seen by the machine that the test runs on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use edge_tests::lab::{
    certs::Authority,
    cleanup,
    netns::Namespace,
    process::{Process, wait_for},
};

/// Address of the host.
pub const HOST: &str = "203.0.113.10";
/// The administrator's address, inside the management prefix.
pub const ADMINISTRATOR: &str = "203.0.113.1";
/// Another one, outside it.
pub const ELSEWHERE: &str = "203.0.113.100";

const BOOT: &str = include_str!("boot.sh");
const BOOT_LIMIT: Duration = Duration::from_secs(180);
const COMMAND_LIMIT: Duration = Duration::from_secs(180);
const DEPLOY_LIMIT: Duration = Duration::from_secs(400);
/// How long ssh tries to connect from where it is let in, and from where not.
const CONNECT_SECONDS: [u32; 2] = [60, 3];

/// The machine; dropping it takes everything away.
pub struct Machine {
    prefix: String,
    dir: PathBuf,
    admin: Namespace,
    process: Process,
    calls: AtomicU32,
}

/// What a command came to: exit code, and both outputs in the order they were written.
#[derive(Debug)]
pub struct Answer {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output and standard error.
    pub text: String,
}

impl Machine {
    /// Boots it; returns when ssh answers.
    pub fn boot() -> Result<Self> {
        cleanup::remove_stale();
        let prefix = format!("edge-deploy-{}", std::process::id());
        let dir = cleanup::directory(&prefix);
        fs::create_dir_all(dir.join("host"))?;
        fs::write(dir.join(cleanup::MARKER), "")?;
        cleanup::register(&prefix);
        let machine = Self::start(&prefix, &dir).inspect_err(|_| {
            cleanup::remove(&prefix);
        })?;
        wait_for("ssh to the machine", BOOT_LIMIT, || {
            let answer = machine.ssh("systemctl is-active edge-test-sshd.service")?;
            if answer.code != 0 {
                bail!("{}\n{}", answer.text, machine.process.log_tail());
            }
            Ok(Some(()))
        })?;
        Ok(machine)
    }

    fn start(prefix: &str, dir: &Path) -> Result<Self> {
        write_host_files(dir)?;
        let (admin, host) = (
            Namespace::create(&format!("{prefix}-admin"))?,
            Namespace::create(&format!("{prefix}-host"))?,
        );
        link(&admin, &host)?;
        fs::write(dir.join("boot.sh"), BOOT)?;
        fs::create_dir_all(base(dir, prefix))?;
        // It ends with this thread, so that a test that is killed leaves no machine behind.
        let mut command = host.command("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]);
        command.arg("sh").arg(dir.join("boot.sh")).arg("outer").arg(base(dir, prefix));
        let process = Process::spawn("the machine", command, &dir.join("machine.log"))?;
        Ok(Self {
            prefix: prefix.to_owned(),
            dir: dir.to_owned(),
            admin,
            process,
            calls: AtomicU32::new(0),
        })
    }

    /// Runs a shell script on the machine, over ssh.
    pub fn ssh(&self, script: &str) -> Result<Answer> {
        self.ssh_from(ADMINISTRATOR, script, CONNECT_SECONDS[0])
    }

    fn ssh_from(&self, source: &str, script: &str, seconds: u32) -> Result<Answer> {
        let mut command = self.admin.command("ssh");
        command.args(["-T", "-o", "BatchMode=yes", "-o", &format!("ConnectTimeout={seconds}")]);
        command.args(["-o", &format!("BindAddress={source}")]);
        for option in self.ssh_options() {
            command.args(["-o", &option]);
        }
        command.arg("-i").arg(self.key()).arg(format!("root@{HOST}")).arg(script);
        self.call("ssh", command, COMMAND_LIMIT)
    }

    /// The same, and it has to succeed; its output without the last line's end.
    pub fn tell(&self, script: &str) -> Result<String> {
        let answer = self.ssh(script)?;
        if answer.code != 0 {
            bail!("`{script}` on the machine: exit code {}\n{}", answer.code, answer.text);
        }
        Ok(answer.text.trim_end().to_owned())
    }

    /// `cargo xtask deploy` from `source`, one of the administrator's addresses.
    pub fn deploy(&self, binary: &Path, source: &str) -> Result<Answer> {
        let mut command = self.admin.command(super::xtask()?);
        command.args(["deploy", "--host", &format!("root@{HOST}"), "--port", "22"]);
        command.arg("--identity").arg(self.key()).arg("--binary").arg(binary);
        command.args(["--ssh-option", &format!("BindAddress={source}")]);
        for option in self.ssh_options() {
            command.args(["--ssh-option", &option]);
        }
        self.call("deploy", command, DEPLOY_LIMIT)
    }

    /// Can the administrator log in from this address?
    pub fn lets_in_from(&self, source: &str) -> Result<bool> {
        Ok(self.ssh_from(source, "true", CONNECT_SECONDS[0])?.code == 0)
    }

    /// Can nobody log in from this address?
    pub fn keeps_out_from(&self, source: &str) -> Result<bool> {
        Ok(self.ssh_from(source, "true", CONNECT_SECONDS[1])?.code != 0)
    }

    /// A folder for the test's own files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    fn ssh_options(&self) -> [String; 3] {
        [
            format!("UserKnownHostsFile={}", self.dir.join("known_hosts").display()),
            "StrictHostKeyChecking=yes".to_owned(),
            "LogLevel=ERROR".to_owned(),
        ]
    }

    fn call(&self, name: &str, command: Command, limit: Duration) -> Result<Answer> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let log = self.dir.join(format!("call-{number}-{name}.log"));
        let mut process = Process::spawn(name, command, &log)?;
        let code = process.wait(limit)?.code().unwrap_or(-1);
        Ok(Answer { code, text: process.log() })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.process.kill();
        let base = base(&self.dir, &self.prefix);
        // Its processes are dying; their cgroups can go when the last one is gone.
        let gone = wait_for("cgroups gone", BOOT_LIMIT, || {
            let status = Command::new("unshare")
                .args(["--mount", "--propagation", "private", "sh"])
                .arg(self.dir.join("boot.sh"))
                .arg("down")
                .arg(&base)
                .stderr(Stdio::null())
                .status()?;
            Ok(status.success().then_some(()))
        });
        if let Err(error) = gone {
            eprintln!("{error:#}");
        }
        cleanup::remove(&self.prefix);
    }
}

fn base(dir: &Path, prefix: &str) -> PathBuf {
    dir.join(format!("{prefix}-host"))
}

/// Outside: the administrator's two addresses and the host's. Inside: where the servers would be.
fn link(admin: &Namespace, host: &Namespace) -> Result<()> {
    admin.ip_batch(&format!(
        "link add eth0 type veth peer name eth0 netns {host}\n\
         link add eth1 type veth peer name eth1 netns {host}\n\
         addr add {ADMINISTRATOR}/24 dev eth0\n\
         addr add {ELSEWHERE}/24 dev eth0\n\
         addr add 10.0.0.1/24 dev eth1\n\
         link set eth0 up\n\
         link set eth1 up\n",
        host = host.name(),
    ))?;
    host.ip_batch(&format!(
        "addr add {HOST}/24 dev eth0\n\
         addr add 10.0.0.10/24 dev eth1\n\
         link set eth0 up\n\
         link set eth1 up\n"
    ))
}

/// Keys for ssh both ways, certificates and a configuration for the daemon.
fn write_host_files(dir: &Path) -> Result<()> {
    let host = dir.join("host");
    for key in [dir.join("key"), host.join("host_key")] {
        let status = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .stdin(Stdio::null())
            .status()
            .context("ssh-keygen (package openssh-client) does not start")?;
        if !status.success() {
            bail!("ssh-keygen: {status}");
        }
    }
    fs::copy(dir.join("key.pub"), host.join("authorized_keys"))?;
    let host_key = fs::read_to_string(host.join("host_key.pub"))?;
    fs::write(dir.join("known_hosts"), format!("{HOST} {host_key}"))?;
    fs::write(
        host.join("sshd_config"),
        "HostKey /etc/edge-test/host_key\n\
         PermitRootLogin prohibit-password\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         UsePAM no\n\
         UseDNS no\n\
         MaxStartups 100\n",
    )?;
    let authority = Authority::create(&host, "trust")?;
    authority.issue("edge", &["sip.contoso.example", "contoso.example"], &[])?;
    fs::write(host.join("edge.toml"), include_str!("edge.toml"))?;
    Ok(())
}
