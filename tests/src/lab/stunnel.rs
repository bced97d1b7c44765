//! TLS of another make in front of real user agents: stunnel (OpenSSL), which knows nothing of SIP.

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{certs::Identity, netns::Namespace, process::Process};
use crate::patience::BUSY;

/// One way through.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// Where it listens.
    pub accept: SocketAddr,
    /// Where what it accepts goes.
    pub connect: SocketAddr,
    /// TLS is on the far side: we are its client.
    pub client: bool,
}

/// The running program.
pub struct Stunnel {
    process: Process,
}

impl Stunnel {
    /// Starts it in `namespace`, showing `identity` on every tunnel and asking for a certificate
    /// that `trust` knows.
    pub fn start(
        namespace: &Namespace,
        dir: &Path,
        identity: &Identity,
        trust: &Path,
        tunnels: &[Tunnel],
    ) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut text = "foreground = yes\npid =\nsyslog = no\ndebug = notice\n".to_owned();
        for (number, tunnel) in tunnels.iter().enumerate() {
            writeln!(
                text,
                "[t{number}]\nclient = {}\naccept = {}\nconnect = {}\ncert = {}\nkey = {}\n\
                 CAfile = {}\nverifyChain = yes\nTIMEOUTclose = 0\n",
                if tunnel.client { "yes" } else { "no" },
                address(tunnel.accept),
                address(tunnel.connect),
                identity.certificate.display(),
                identity.key.display(),
                trust.display()
            )?;
        }
        let file = dir.join("stunnel.conf");
        std::fs::write(&file, text)?;
        let mut command = namespace.command("stunnel");
        command.arg(&file);
        let mut process =
            Process::spawn("stunnel (package stunnel4)", command, &dir.join("stunnel.log"))?;
        for tunnel in tunnels {
            let at = tunnel.accept;
            process.wait_ready(BUSY, || {
                namespace.run(|| {
                    TcpStream::connect_timeout(&at, Duration::from_millis(200))
                        .map(|_| Some(()))
                        .context("not listening")
                })?
            })?;
        }
        Ok(Self { process })
    }

    /// What it wrote last.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

/// As its file has them: what stands before the last colon is the address, without brackets.
fn address(at: SocketAddr) -> String {
    format!("{}:{}", at.ip(), at.port())
}
