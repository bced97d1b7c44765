//! Both servers, started the same way: in the world's proxy namespace, on one core.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::load::stream::Pair;
use crate::{
    bench::sip::{
        cpu,
        load::tls::Configs,
        proxies::CORE,
        world::{HOST, World},
    },
    lab::{
        daemon::binary,
        dns::{Dns, Record},
        layout::Site,
        process::Process,
        prosody::{Encryption, Log, Prosody, ProsodyConfig, SERVER_PORT},
    },
};

/// How long one may take until it listens, on a machine that is busy.
const START: Duration = Duration::from_secs(30);
/// Where other servers reach it.
pub const OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Site::Contoso.v4()), SERVER_PORT);
/// Where the XMPP server inside listens.
pub const INSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Site::Contoso.server4()), SERVER_PORT);
/// Where Prosody listens for components.
pub const COMPONENTS: SocketAddr = SocketAddr::new(IpAddr::V4(Site::Contoso.edge_inside4()), 5347);
/// Of the component's connection.
pub const SECRET: &str = "secret";
/// The domain behind the server.
pub const CHAT: &str = "chat.contoso.example";
/// The server's own domain.
pub const OWN: &str = "contoso.example";
/// Partners' domains: the first sends.
pub const PARTNERS: [&str; 8] = [
    "fabrikam.example",
    "northwind.example",
    "adatum.example",
    "litware.example",
    "tailspin.example",
    "proseware.example",
    "wingtip.example",
    "lucerne.example",
];

/// Whose server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Ours, with its firewall.
    Edge,
    /// Debian's.
    Prosody,
}

/// Certificates of everybody.
pub struct Cast {
    /// What each partner shows, and what the server inside does.
    pub partners: Vec<Configs>,
    /// What both servers show.
    identity: crate::lab::certs::Identity,
    _dns: Dns,
}

impl Cast {
    /// Makes them, and starts the DNS server.
    pub fn new(world: &World) -> Result<Self> {
        let server = world.authority.issue("inside", &[CHAT, "xmpp.contoso.example"], &[])?;
        let partners = PARTNERS.iter().map(|domain| {
            let partner = world.authority.issue(domain, &[domain], &[])?;
            Configs::read(&world.trust, &partner, &server)
        });
        let partners = partners.collect::<Result<_>>()?;
        let identity = world.authority.issue("server", &[HOST, OWN, CHAT], &[])?;
        let records = vec![Record::address("xmpp.contoso.example", INSIDE.ip())];
        let resolver = IpAddr::V4(Site::Contoso.router4());
        let dns = Dns::start(&world.load, &world.dir.join("dns"), &[resolver], records)?;
        Ok(Self { partners, identity, _dns: dns })
    }

    /// The stream of a partner to a domain of ours.
    pub fn pair(partner: usize, to: &str) -> Pair<'_> {
        Pair { from: PARTNERS[partner], to }
    }
}

/// A server that runs.
pub struct Server {
    running: Running,
    family: Vec<u32>,
}

enum Running {
    Edge { process: Process, pins: PathBuf, config: PathBuf },
    Prosody(Box<Prosody>),
}

impl Server {
    /// Starts one.
    pub fn start(world: &World, cast: &Cast, product: Product) -> Result<Self> {
        let running = match product {
            Product::Edge => edge(world, cast)?,
            Product::Prosody => prosody(world, cast)?,
        };
        let mut server = Self { running, family: Vec::new() };
        server.ready(world)?;
        Ok(server)
    }

    fn ready(&mut self, world: &World) -> Result<()> {
        if let Running::Edge { process, .. } = &mut self.running {
            process.wait_ready(START, || {
                world.load.run(|| {
                    TcpStream::connect_timeout(&OUTSIDE, Duration::from_millis(200))
                        .map(|_| Some(()))
                        .context("not listening")
                })?
            })?;
            // All of its threads are there a moment after the first listens.
            std::thread::sleep(Duration::from_millis(700));
            if process.exited().is_some() {
                bail!("it ended\n{}", process.log_tail());
            }
        }
        self.family = cpu::family(self.process()?.id());
        Ok(())
    }

    fn process(&self) -> Result<&Process> {
        match &self.running {
            Running::Edge { process, .. } => Ok(process),
            Running::Prosody(prosody) => prosody.process(),
        }
    }

    /// CPU time of all its threads so far.
    pub fn cpu(&self) -> Result<Duration> {
        cpu::of(&self.family)
    }

    /// Its memory.
    pub fn resident_kib(&self) -> Result<u64> {
        cpu::resident_kib(&self.family)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        match &self.running {
            Running::Edge { process, .. } => process.log_tail(),
            Running::Prosody(prosody) => prosody.log_tail(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Running::Edge { process, pins, config } = &mut self.running {
            process.kill();
            if let Ok(binary) = binary() {
                let mut detach = std::process::Command::new(binary);
                let _ = detach.args(["detach", "--force", "-c"]).arg(config).output();
            }
            let _ = std::fs::remove_dir_all(pins);
        }
    }
}

fn edge(world: &World, cast: &Cast) -> Result<Running> {
    let dir = world.dir.join("edge");
    std::fs::create_dir_all(&dir)?;
    let config = dir.join("edge.toml");
    let partners: String = PARTNERS
        .iter()
        .map(|domain| {
            format!(
                "[[xmpp.partner]]\ndomain = \"{domain}\"\ntype = \"federated\"\n\
                 connections = 10000\n\n"
            )
        })
        .collect();
    let text = include_str!("edge.toml")
        .replace("@CERTIFICATE@", &cast.identity.certificate.display().to_string())
        .replace("@KEY@", &cast.identity.key.display().to_string())
        .replace("@TRUST@", &world.trust.display().to_string())
        .replace("@DIR@", &dir.display().to_string())
        .replace("@PINS@", &world.pins().display().to_string())
        .replace("@PARTNERS@", &partners);
    std::fs::write(&config, text)?;
    let mut command = world.proxy.command("taskset");
    command.args(["-c", &CORE.to_string()]).arg(binary()?).arg("run").arg("-c").arg(&config);
    command.env("NO_COLOR", "1");
    let process = Process::spawn("edge", command, &dir.join("edge.log"))?;
    Ok(Running::Edge { process, pins: world.pins(), config })
}

fn prosody(world: &World, cast: &Cast) -> Result<Running> {
    let components = format!("Component \"{CHAT}\"\ncomponent_secret = \"{SECRET}\"\n");
    let config = ProsodyConfig {
        name: "prosody".to_owned(),
        domains: vec![OWN.to_owned()],
        users: Vec::new(),
        listen: vec![OUTSIDE.ip()],
        identity: cast.identity.clone(),
        trust: world.trust.clone(),
        resolver: IpAddr::V4(Site::Contoso.router4()),
        encryption: Encryption::Required,
        secure_auth: true,
        dialback: false,
        bidi: true,
        log: Log::Warn,
        core: Some(CORE),
        more: format!(
            "component_interfaces = {{ \"{}\" }}\ncomponent_ports = {{ {} }}\n",
            COMPONENTS.ip(),
            COMPONENTS.port()
        ),
        components,
    };
    let server = Prosody::start_in(&world.proxy, &world.dir.join("prosody"), config)?;
    Ok(Running::Prosody(Box::new(server)))
}
