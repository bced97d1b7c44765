//! A foreign peer: Kamailio as a partner's edge, with mutual TLS outside and sipp behind it.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    Lab,
    layout::Site,
    netns::Namespace,
    process::{Process, tail},
    sipp::SERVER_PORT,
};
use crate::patience::BUSY;

/// How often a Kamailio that dies while it starts is started again (Debian's TLS module can).
const TRIES: u32 = 3;

/// The running peer; it stands where Adatum's edge stands.
pub struct Kamailio {
    process: Process,
    log: PathBuf,
}

impl Kamailio {
    /// Starts it as Adatum's edge. What comes from its inside goes to `partner`, what comes from
    /// outside goes to its inside server.
    pub fn start(lab: &Lab, partner: SocketAddr) -> Result<Self> {
        let dir = lab.dir().join("kamailio");
        std::fs::create_dir_all(&dir)?;
        write_files(lab, &dir, partner)?;
        let mut last = anyhow::anyhow!("never started");
        for _ in 0..TRIES {
            match Self::try_start(lab, &dir) {
                Ok(running) => return Ok(running),
                Err(error) => last = error,
            }
        }
        Err(last.context(format!("Kamailio did not start in {TRIES} tries")))
    }

    /// Starts it as Contoso's server inside: what comes from the edge goes to the user at `user`,
    /// what comes from users goes to the edge.
    pub fn start_inside(lab: &Lab, user: SocketAddr) -> Result<Self> {
        let site = Site::Contoso;
        let dir = lab.dir().join("kamailio-inside");
        std::fs::create_dir_all(&dir)?;
        let listen = SocketAddr::new(IpAddr::V4(site.server4()), SERVER_PORT);
        let text = include_str!("scenarios/kamailio_inside.cfg")
            .replace("@LISTEN@", &listen.to_string())
            .replace("@EDGE_IP@", &site.edge_inside4().to_string())
            .replace("@EDGE@", &format!("{}:{SERVER_PORT}", site.edge_inside4()))
            .replace("@USER@", &user.to_string());
        std::fs::write(dir.join("kamailio.cfg"), text)?;
        std::fs::write(dir.join("resolv.conf"), "")?;
        Self::launch(lab.inside(site), &dir, listen)
    }

    /// Starts it as Contoso's registrar inside: users who come over the edge need the password.
    pub fn start_registrar(lab: &Lab, password: &str) -> Result<Self> {
        let site = Site::Contoso;
        let dir = lab.dir().join("kamailio-registrar");
        std::fs::create_dir_all(&dir)?;
        let listen = SocketAddr::new(IpAddr::V4(site.server4()), SERVER_PORT);
        let text = include_str!("scenarios/kamailio_registrar.cfg")
            .replace("@LISTEN@", &listen.to_string())
            .replace("@EDGE_IP@", &site.edge_inside4().to_string())
            .replace("@EDGE@", &format!("{}:{SERVER_PORT}", site.edge_inside4()))
            .replace("@DOMAIN@", &site.domain())
            .replace("@SECRET@", password);
        std::fs::write(dir.join("kamailio.cfg"), text)?;
        std::fs::write(dir.join("resolv.conf"), "")?;
        Self::launch(lab.inside(site), &dir, listen)
    }

    fn try_start(lab: &Lab, dir: &Path) -> Result<Self> {
        let outside = SocketAddr::new(IpAddr::V4(Site::Adatum.v4()), 5061);
        Self::launch(lab.site(Site::Adatum), dir, outside)
    }

    fn launch(namespace: &Namespace, dir: &Path, listens: SocketAddr) -> Result<Self> {
        let log = dir.join("kamailio.log");
        // The lab's DNS, for this process only: a mount namespace of its own.
        let with_dns = format!(
            "mount --bind '{}' /etc/resolv.conf && exec kamailio \"$@\"",
            dir.join("resolv.conf").display()
        );
        let mut command = namespace.command("unshare");
        command
            .args(["--mount", "sh", "-c", &with_dns, "kamailio"])
            .args(["-DD", "-E", "-m", "64", "-M", "8", "-w"])
            .arg(dir)
            .arg("-f")
            .arg(dir.join("kamailio.cfg"))
            .arg("-Y")
            .arg(dir);
        let mut process = Process::spawn("kamailio (package kamailio)", command, &log)?;
        process.wait_ready(BUSY, || {
            namespace.run(|| {
                std::net::TcpStream::connect_timeout(&listens, Duration::from_millis(200))
                    .map(|_| Some(()))
                    .context("not listening")
            })?
        })?;
        Ok(Self { process, log })
    }

    /// The address its user agents send to.
    pub fn inside_address() -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Site::Adatum.edge_inside4()), SERVER_PORT)
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.process.exited().is_none()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail(&std::fs::read_to_string(&self.log).unwrap_or_default(), 30)
    }
}

fn write_files(lab: &Lab, dir: &Path, partner: SocketAddr) -> Result<()> {
    let identity = &lab.identities.adatum;
    let section = |name: &str| {
        format!(
            "[{name}:default]\nmethod = TLSv1.2+\nverify_certificate = yes\n\
             require_certificate = yes\nprivate_key = {}\ncertificate = {}\nca_list = {}\n\n",
            identity.key.display(),
            identity.certificate.display(),
            lab.identities.trust.display()
        )
    };
    std::fs::write(dir.join("resolv.conf"), format!("nameserver {}\n", Site::Dns.v4()))?;
    let tls = dir.join("tls.cfg");
    std::fs::write(&tls, section("server") + &section("client"))?;
    let site = Site::Adatum;
    let text = include_str!("scenarios/kamailio.cfg")
        .replace("@TLS@", &tls.display().to_string())
        .replace("@OUTSIDE@", &format!("{}:5061", site.v4()))
        .replace("@INSIDE@", &format!("{}:{SERVER_PORT}", site.edge_inside4()))
        .replace("@SERVER@", &format!("{}:{SERVER_PORT}", site.server4()))
        .replace("@PARTNER@", &partner.to_string());
    std::fs::write(dir.join("kamailio.cfg"), text)?;
    Ok(())
}
