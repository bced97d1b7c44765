//! `cargo xtask deploy`: a release binary, its units and its installer, brought to a host over
//! ssh or put into a file system that is not running.
//!
//! Everything that is decided on the host is decided by `templates/install.sh`, which is sent
//! along: it checks first, keeps the former version, and puts it back when the new one does not
//! start or when we cannot reach the host with it running. An archive installed by hand goes the
//! same way.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    artifacts, package,
    setup::{self, Purpose},
    shell::{as_root, quote, say, show},
};

/// How long the host waits for a new connection before it takes the new version back.
const CONFIRM_SECONDS: u32 = 20;

/// Where to, and how.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Over ssh, as root or as a user whose sudo asks nothing
    #[arg(long, value_name = "USER@HOST", required_unless_present = "root", value_parser = host)]
    host: Option<String>,
    /// Into a file system that is not running (an image); nothing is restarted
    #[arg(long, value_name = "DIR", conflicts_with_all = ["host", "port", "identity", "ssh_option"])]
    root: Option<PathBuf>,
    /// Port of the host's ssh server
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Private key for ssh
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Any option of ssh_config, may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    ssh_option: Vec<String>,
    /// This binary instead of a fresh release build
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Neither an option of ssh nor nothing.
fn host(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('-') || text.contains(char::is_whitespace) {
        return Err("expected USER@HOST".to_owned());
    }
    Ok(text.to_owned())
}

/// Builds, sends, installs. The exit code is the installer's: 0 installed, 2 refused and nothing
/// changed, 3 the former version is back, 4 it did not start and none ran before, 5 it started but
/// the host could not be reached any more, and it was taken back.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let binary = match &arguments.binary {
        Some(file) => fs::canonicalize(file).with_context(|| file.display().to_string())?,
        None => {
            setup::ensure(Purpose::Deploy)?;
            artifacts::edge(true)?
        }
    };
    let staging = Staging::create()?;
    let folder = package::stage(&binary, &staging.0)?;
    let status = match (&arguments.host, &arguments.root) {
        (Some(host), _) => over_ssh(arguments, host, &staging.0)?,
        (None, Some(root)) => into_root(root, &folder)?,
        (None, None) => bail!("where to? --host USER@HOST or --root DIR"),
    };
    Ok(report(status))
}

/// A folder of ours that goes when we are done.
struct Staging(PathBuf);

impl Staging {
    fn create() -> Result<Self> {
        let output =
            crate::shell::output(Command::new("mktemp").args([
                "--directory",
                &env::temp_dir().join("edge-deploy.XXXXXX").to_string_lossy(),
            ]))?;
        Ok(Self(PathBuf::from(output.trim_end())))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn into_root(root: &Path, folder: &Path) -> Result<ExitStatus> {
    let mut command = as_root(&folder.join("install.sh"))?;
    command.arg("--root").arg(root).stdin(Stdio::null());
    say(format!("$ {}", show(&command)));
    command.status().context("cannot start the installer")
}

/// The archive goes through the connection's standard input, and one command on the host unpacks
/// it, runs the installer and removes it again. When the installer asks for it, a new connection
/// proves that the host can still be reached.
fn over_ssh(arguments: &Arguments, host: &str, parent: &Path) -> Result<ExitStatus> {
    let mut tar = package::pack(parent, "gzip -1");
    let mut tar = tar
        .args(["--file", "-", &package::name()])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start tar")?;
    let archive = tar.stdout.take().context("tar has no output")?;
    let mut ssh = ssh(arguments, host);
    say(format!("$ {}   (the archive, unpacked and installed there)", show(&ssh)));
    let mut child = ssh
        .arg(remote_script())
        .stdin(archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start ssh (package openssh-client)")?;
    let words = child.stdout.take().context("ssh has no output")?;
    for line in BufReader::new(words).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if line.contains("waiting for a new connection") {
            confirm(arguments, host);
        }
    }
    let status = child.wait()?;
    let packed = tar.wait()?;
    if status.success() && !packed.success() {
        bail!("tar failed ({packed})");
    }
    Ok(status)
}

/// Connects anew and says so to the installer. When that fails, the installer draws the
/// conclusion, not we.
fn confirm(arguments: &Arguments, host: &str) {
    let script = "as=; [ \"$(id -u)\" = 0 ] || as=\"sudo -n\"; \
                  exec $as touch /usr/local/lib/edge/confirmed";
    let mut ssh = ssh(arguments, host);
    ssh.arg(format!("exec sh -c {}", quote(script))).stdin(Stdio::null());
    let outcome = ssh.status();
    if !outcome.is_ok_and(|status| status.success()) {
        say(
            "error: a new connection to the host does not come about: it will take the new version back",
        );
    }
}

fn ssh(arguments: &Arguments, host: &str) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args(["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]);
    ssh.args(["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=12"]);
    if let Some(port) = arguments.port {
        ssh.args(["-p", &port.to_string()]);
    }
    if let Some(identity) = &arguments.identity {
        ssh.args(["-o", "IdentitiesOnly=yes", "-i"]).arg(identity);
    }
    for option in &arguments.ssh_option {
        ssh.args(["-o", option]);
    }
    ssh.args(["--", host]);
    ssh
}

/// Root's part is one script, so that sudo is asked once; `sh` around all of it, whatever the
/// user's own shell is. The address that we come from, as the host sees it, is the one that must
/// stay able to come back.
fn remote_script() -> String {
    let root_part = format!(
        "set -eu; umask 022; mkdir -p /usr/local/lib/edge; \
         dir=$(mktemp -d /usr/local/lib/edge/incoming.XXXXXX); trap 'rm -rf \"$dir\"' EXIT; \
         trap '' HUP PIPE; tar -xzf - --no-same-owner -C \"$dir\"; \
         sh \"$dir/{name}/install.sh\" --confirm-within {CONFIRM_SECONDS} \
         --management-source \"$1\"",
        name = package::name(),
    );
    let user_part = format!(
        "as=; [ \"$(id -u)\" = 0 ] || as=\"sudo -n\"; \
         exec $as sh -c {} edge-deploy \"${{SSH_CONNECTION%% *}}\"",
        quote(&root_part)
    );
    format!("exec sh -c {}", quote(&user_part))
}

fn report(status: ExitStatus) -> ExitCode {
    match status.code() {
        Some(0) => ExitCode::SUCCESS,
        Some(255) => {
            say("error: ssh did not get through (see above); nothing was installed by us, unless \
                 the connection broke on the way: `systemctl status edge` there tells");
            ExitCode::from(1)
        }
        Some(code) => {
            say(format!("error: not deployed (exit code {code}, explained above)"));
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
        None => {
            say(format!("error: not deployed ({status})"));
            ExitCode::from(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_looks_like_an_option_is_refused() {
        for (text, good) in [
            ("root@edge.example", true),
            ("edge", true),
            ("-oProxyCommand=x", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(host(text).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn scripts_for_the_host_are_valid_shell() {
        for script in [remote_script(), include_str!("../templates/install.sh").to_owned()] {
            let status = Command::new("sh").args(["-n", "-c", &script]).status().expect("sh");
            assert!(status.success(), "{script}");
        }
    }

    #[test]
    fn the_daemon_unit_keeps_its_exposure_low_and_its_capabilities_few() {
        let unit = include_str!("../templates/edge.service");
        let capabilities: Vec<&str> = unit
            .lines()
            .filter_map(|line| line.strip_prefix("CapabilityBoundingSet="))
            .flat_map(|line| line.split(' '))
            .collect();
        let allowed = ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON", "CAP_NET_BIND_SERVICE"];
        assert_eq!(capabilities, allowed);
    }
}
