//! A peer that is OpenSSL's own program: with old cipher suites only, or silent after the
//! handshake.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use super::{
    certs::Identity,
    netns::Namespace,
    process::{Process, wait_for},
};
use crate::patience::BUSY;

/// Suites with block chaining, which Edge does not speak.
pub const BLOCK_CHAINING: &str = "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA";

/// Calls `to` with TLS 1.2 and these suites only; what OpenSSL says.
pub fn call_with(
    namespace: &Namespace,
    to: SocketAddr,
    identity: &Identity,
    suites: &str,
) -> Result<String> {
    let mut command = namespace.command("openssl");
    command.args(["s_client", "-connect", &to.to_string(), "-tls1_2", "-cipher", suites]);
    let output = with(&mut command, identity).stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Listens at `at`, asks for a certificate, and never says a word.
pub struct Server {
    process: Process,
}

impl Server {
    /// Starts it; with `suites`, TLS 1.2 and these only.
    pub fn start(
        namespace: &Namespace,
        dir: &Path,
        at: SocketAddr,
        identity: &Identity,
        suites: Option<&str>,
    ) -> Result<Self> {
        let mut command = namespace.command("openssl");
        command.args(["s_server", "-accept", &at.to_string(), "-quiet", "-Verify", "2"]);
        if let Some(suites) = suites {
            command.args(["-tls1_2", "-cipher", suites]);
        }
        with(&mut command, identity);
        let log = dir.join("s_server.log");
        let mut process = Process::spawn("openssl (package openssl)", command, &log)?;
        let port = format!(":{:04X}", at.port());
        wait_for("s_server listens", BUSY, || {
            if process.exited().is_some() {
                bail!("{}", process.log_tail());
            }
            let table = namespace.run(|| {
                std::fs::read_to_string(format!(
                    "/proc/thread-self/net/{}",
                    if at.is_ipv4() { "tcp" } else { "tcp6" }
                ))
            })??;
            // Its own port, and listening: connections that were opened before stand there too.
            let listens = |line: &str| {
                let mut fields = line.split_whitespace().skip(1);
                fields.next().is_some_and(|local| local.ends_with(&port))
                    && fields.nth(1) == Some("0A")
            };
            Ok(table.lines().any(listens).then_some(()))
        })?;
        Ok(Self { process })
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn with<'a>(command: &'a mut Command, identity: &Identity) -> &'a mut Command {
    command.arg("-cert").arg(&identity.certificate).arg("-key").arg(&identity.key)
}
