//! Both proxies, started the same way: in the world's proxy namespace, on one core.

use std::{net::TcpStream, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    cpu,
    world::{Inside, OUTSIDE, World},
};
use crate::lab::{daemon::binary, process::Process};

/// The core of the proxy; the load has the next.
pub const CORE: usize = 0;
/// How long a proxy may take until it listens.
const START: Duration = Duration::from_secs(20);
/// How often a Kamailio that dies while it starts is started again (Debian's TLS module can).
const TRIES: u32 = 4;

/// Whose proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Ours, with its firewall.
    Edge,
    /// Debian's, with its fastest allocator.
    Kamailio,
}

/// A proxy that runs.
pub struct Proxy {
    process: Process,
    family: Vec<u32>,
    pins: Option<PathBuf>,
    config: PathBuf,
}

impl Proxy {
    /// Starts one.
    pub fn start(world: &World, product: Product, inside: Inside) -> Result<Self> {
        match product {
            Product::Edge => Self::edge(world, inside, ""),
            Product::Kamailio => {
                let mut last = anyhow::anyhow!("never started");
                for _ in 0..TRIES {
                    match Self::kamailio(world, inside) {
                        Ok(proxy) => return Ok(proxy),
                        Err(error) => last = error,
                    }
                }
                Err(last.context(format!("Kamailio did not start in {TRIES} tries")))
            }
        }
    }

    /// Starts ours with `more` at the end of its file.
    pub fn edge(world: &World, inside: Inside, more: &str) -> Result<Self> {
        let dir = world.dir.join("edge");
        std::fs::create_dir_all(&dir)?;
        let config = dir.join("edge.toml");
        let text = fill(world, include_str!("edge.toml"), inside)
            .replace("@DIR@", &dir.display().to_string())
            .replace("@PINS@", &world.pins().display().to_string());
        std::fs::write(&config, text + more)?;
        let mut command = world.proxy.command("taskset");
        command.args(["-c", &CORE.to_string()]).arg(binary()?).arg("run").arg("-c").arg(&config);
        command.env("NO_COLOR", "1");
        let process = Process::spawn("edge", command, &dir.join("edge.log"))?;
        Self { process, family: Vec::new(), pins: Some(world.pins()), config }.ready(world)
    }

    fn kamailio(world: &World, inside: Inside) -> Result<Self> {
        let dir = world.dir.join("kamailio");
        std::fs::create_dir_all(&dir)?;
        let section = |name: &str| {
            format!(
                "[{name}:default]\nmethod = TLSv1.2+\nverify_certificate = yes\n\
                 require_certificate = yes\nprivate_key = {}\ncertificate = {}\nca_list = {}\n\n",
                world.identity.key.display(),
                world.identity.certificate.display(),
                world.trust.display()
            )
        };
        std::fs::write(dir.join("tls.cfg"), section("server") + &section("client"))?;
        let config = dir.join("kamailio.cfg");
        let text = fill(world, include_str!("kamailio.cfg"), inside)
            .replace("@DIR@", &dir.display().to_string());
        std::fs::write(&config, text)?;
        let mut command = world.proxy.command("taskset");
        command.args(["-c", &CORE.to_string(), "kamailio", "-DD", "-E"]);
        command.args(["-x", "tlsf", "-X", "tlsf", "-m", "3000", "-M", "16"]);
        command.arg("-w").arg(&dir).arg("-Y").arg(&dir).arg("-f").arg(&config);
        let log = dir.join("kamailio.log");
        let process = Process::spawn("kamailio (package kamailio)", command, &log)?;
        Self { process, family: Vec::new(), pins: None, config }.ready(world)
    }

    fn ready(mut self, world: &World) -> Result<Self> {
        self.process.wait_ready(START, || {
            world.load.run(|| {
                TcpStream::connect_timeout(&OUTSIDE, Duration::from_millis(200))
                    .map(|_| Some(()))
                    .context("not listening")
            })?
        })?;
        // All of its processes are there a moment after the first listens.
        std::thread::sleep(Duration::from_millis(700));
        self.family = cpu::family(self.process.id());
        if self.process.exited().is_some() {
            bail!("it ended\n{}", self.process.log_tail());
        }
        Ok(self)
    }

    /// CPU time of all its threads so far.
    pub fn cpu(&self) -> Result<Duration> {
        cpu::of(&self.family)
    }

    /// Its memory.
    pub fn resident_kib(&self) -> Result<u64> {
        cpu::resident_kib(&self.family)
    }

    /// The first lines of its log, where a fault begins.
    pub fn log_head(&self) -> String {
        self.process.log().lines().take(12).collect::<Vec<_>>().join("\n")
    }

    /// What `edge ARGUMENTS --json` says.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = Command::new(binary()?)
            .args(arguments)
            .args(["--json", "-c"])
            .arg(&self.config)
            .output()?;
        if !output.status.success() {
            bail!("edge {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Takes the firewall's programs away while the daemon runs on.
    pub fn without_firewall(&self) -> Result<()> {
        let output =
            Command::new(binary()?).args(["detach", "--force", "-c"]).arg(&self.config).output()?;
        if !output.status.success() {
            bail!("edge detach: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(pins) = &self.pins {
            self.process.kill();
            let _ = self.without_firewall();
            let _ = std::fs::remove_dir_all(pins);
        } else if self.process.stop().is_err() {
            self.process.kill();
        }
    }
}

fn fill(world: &World, text: &str, inside: Inside) -> String {
    let double = inside != Inside::Tls;
    let listen = match inside {
        // One address for both sides, as in the baseline: a single Record-Route.
        Inside::Tls => String::new(),
        Inside::Tcp | Inside::Udp => format!("listen={}:{}", inside.name(), inside.proxy()),
    };
    text.replace("@CERTIFICATE@", &world.identity.certificate.display().to_string())
        .replace("@KEY@", &world.identity.key.display().to_string())
        .replace("@TRUST@", &world.trust.display().to_string())
        .replace("@OUTSIDE@", &OUTSIDE.to_string())
        .replace("@INSIDE@", &format!("{}:{}", inside.name(), inside.proxy()))
        .replace("@LISTEN_INSIDE@", &listen)
        .replace("@DOUBLE@", if double { "1" } else { "0" })
        .replace("@NEXT@", &format!("sip:{};transport={}", inside.callee(), inside.name()))
}
