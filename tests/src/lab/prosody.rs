//! A foreign XMPP server: Debian's Prosody, as a partner's server outside or as one of our own
//! inside, with users that log in on loopback.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::{
    Lab,
    certs::Identity,
    layout::Site,
    netns::Namespace,
    process::{Process, tail},
    xmpp_client::XmppClient,
};
use crate::patience::BUSY;

/// Where servers meet.
pub const SERVER_PORT: u16 = 5269;
/// The same with TLS from the first byte.
pub const DIRECT_TLS_PORT: u16 = 5270;
/// Where its users log in, on loopback.
const CLIENT_PORT: u16 = 5222;
/// How long it may take until it listens, on a machine that is busy.
const START: Duration = BUSY;
/// Every user's password.
const PASSWORD: &str = "secret";

/// How it does TLS with other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Nothing without.
    Required,
    /// When the other end can.
    Optional,
    /// Never.
    Never,
}

/// How a test wants it.
#[derive(Clone, Debug)]
pub struct ProsodyConfig {
    /// Folder and log are called so.
    pub name: String,
    /// Its domains.
    pub domains: Vec<String>,
    /// Its users, `name@domain`.
    pub users: Vec<String>,
    /// Where other servers reach it.
    pub listen: Vec<IpAddr>,
    /// What it shows.
    pub identity: Identity,
    /// Roots it trusts.
    pub trust: PathBuf,
    /// The resolver it asks.
    pub resolver: IpAddr,
    /// TLS between servers.
    pub encryption: Encryption,
    /// A certificate that is good is demanded of other servers.
    pub secure_auth: bool,
    /// It does dialback.
    pub dialback: bool,
    /// It does both ways on one connection.
    pub bidi: bool,
    /// What it logs: everything, or what is wrong.
    pub log: Log,
    /// The only core it may use.
    pub core: Option<usize>,
    /// Further lines of its file, before its hosts.
    pub more: String,
    /// Further lines of its file, after its hosts.
    pub components: String,
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Every stanza's head and every step.
    Debug,
    /// What is wrong.
    Warn,
}

impl ProsodyConfig {
    /// As the partner's server at `site`: TLS and SASL EXTERNAL, dialback where that fails, no
    /// bidi.
    pub fn partner(lab: &Lab, site: Site, identity: &Identity) -> Self {
        Self {
            name: format!("prosody-{}", site.name()),
            domains: vec![site.domain()],
            users: Vec::new(),
            listen: site.outside().to_vec(),
            identity: identity.clone(),
            trust: lab.identities.trust.clone(),
            resolver: IpAddr::V4(Site::Dns.v4()),
            encryption: Encryption::Required,
            secure_auth: false,
            dialback: true,
            bidi: false,
            log: Log::Debug,
            core: None,
            more: String::new(),
            components: String::new(),
        }
    }

    /// Adds a user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.users.push(user.to_owned());
        self
    }

    fn text(&self, dir: &Path) -> String {
        let list = |words: Vec<String>| words.join("; ");
        let mut modules: Vec<&str> =
            "c2s s2s disco roster saslauth tls ping presence message iq s2s_auth_certs posix"
                .split(' ')
                .collect();
        modules.extend(self.dialback.then_some("dialback"));
        modules.extend(self.bidi.then_some("s2s_bidi"));
        let hosts: String =
            self.domains.iter().map(|domain| format!("VirtualHost \"{domain}\"\n")).collect();
        format!(
            "run_as_root = true\n\
             data_path = \"{dir}/data\"\n\
             pidfile = \"{dir}/prosody.pid\"\n\
             log = {{ {log} = \"*console\" }}\n\
             use_ipv6 = true\n\
             c2s_interfaces = {{ \"127.0.0.1\" }}\n\
             c2s_ports = {{ {CLIENT_PORT} }}\n\
             c2s_require_encryption = false\n\
             allow_unencrypted_plain_auth = true\n\
             authentication = \"internal_plain\"\n\
             s2s_interfaces = {{ {listen} }}\n\
             s2s_ports = {{ {SERVER_PORT} }}\n\
             s2s_direct_tls_interfaces = {{ {listen} }}\n\
             s2s_direct_tls_ports = {{ {DIRECT_TLS_PORT} }}\n\
             s2s_require_encryption = {required}\n\
             s2s_allow_encryption = {allowed}\n\
             s2s_secure_auth = {secure}\n\
             modules_enabled = {{ {modules} }}\n\
             ssl = {{ capath = \"\"; cafile = \"{trust}\"; certificate = \"{certificate}\"; key = \"{key}\" }}\n\
             {more}\n{hosts}{components}",
            dir = dir.display(),
            listen = list(self.listen.iter().map(|address| format!("\"{address}\"")).collect()),
            required = self.encryption == Encryption::Required,
            allowed = self.encryption != Encryption::Never,
            secure = self.secure_auth,
            modules = list(modules.iter().map(|module| format!("\"{module}\"")).collect()),
            trust = self.trust.display(),
            certificate = self.identity.certificate.display(),
            key = self.identity.key.display(),
            more = self.more,
            components = self.components,
            log = match self.log {
                Log::Debug => "debug",
                Log::Warn => "warn",
            },
        )
    }
}

/// The running server.
pub struct Prosody {
    /// What its file says.
    pub config: ProsodyConfig,
    namespace: Namespace,
    dir: PathBuf,
    process: Option<Process>,
}

impl Prosody {
    /// Writes its files and starts it in `namespace`; returns when it listens.
    pub fn start(lab: &Lab, namespace: &Namespace, config: ProsodyConfig) -> Result<Self> {
        Self::start_in(namespace, &lab.dir().join(&config.name), config)
    }

    /// The same with its files in `dir`.
    pub fn start_in(namespace: &Namespace, dir: &Path, config: ProsodyConfig) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut server =
            Self { config, namespace: namespace.clone(), dir: dir.to_owned(), process: None };
        server.run()?;
        Ok(server)
    }

    /// Starts it (again), with what `config` says now.
    pub fn run(&mut self) -> Result<()> {
        self.write_files()?;
        // The lab's DNS, for this process only: a mount namespace of its own.
        let pinned = self.config.core.map_or(String::new(), |core| format!("taskset -c {core} "));
        let with_dns = format!(
            "mount --bind '{}' /etc/resolv.conf && exec {pinned}prosody \"$@\"",
            self.dir.join("resolv.conf").display()
        );
        let mut command = self.namespace.command("unshare");
        command.args(["--mount", "sh", "-c", &with_dns, "prosody", "-F", "--config"]);
        command.arg(self.dir.join("prosody.cfg.lua"));
        let log = self.log_file();
        let mut process = Process::spawn("prosody (packages prosody and lua-sec)", command, &log)?;
        let servers = self.config.listen.iter().map(|ip| SocketAddr::new(*ip, SERVER_PORT));
        for listens in servers.chain([client_address()]) {
            process.wait_ready(START, || {
                self.namespace.run(|| {
                    std::net::TcpStream::connect_timeout(&listens, Duration::from_millis(200))
                        .map(|_| Some(()))
                        .context("not listening")
                })?
            })?;
        }
        self.process = Some(process);
        Ok(())
    }

    fn write_files(&self) -> Result<()> {
        for user in &self.config.users {
            let (name, domain) = user.split_once('@').context("a user without a domain")?;
            let folder = self.dir.join("data").join(domain.replace('.', "%2e")).join("accounts");
            std::fs::create_dir_all(&folder)?;
            std::fs::write(
                folder.join(format!("{name}.dat")),
                format!("return {{ [\"password\"] = \"{PASSWORD}\" }};\n"),
            )?;
        }
        // It looks for certificates beside its file.
        std::fs::create_dir_all(self.dir.join("certs"))?;
        std::fs::write(
            self.dir.join("resolv.conf"),
            format!("nameserver {}\n", self.config.resolver),
        )?;
        std::fs::write(self.dir.join("prosody.cfg.lua"), self.config.text(&self.dir))?;
        Ok(())
    }

    /// Ends it in order: SIGTERM.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("Prosody does not run")?;
        process.stop()?;
        Ok(())
    }

    /// Ends it without warning.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("Prosody does not run")?;
        process.signal(Signal::KILL)?;
        process.wait(BUSY)?;
        Ok(())
    }

    /// Logs one of its users in; they can be reached from then on.
    pub fn login(&self, user: &str) -> Result<XmppClient> {
        XmppClient::login(&self.namespace, client_address(), user, PASSWORD)
    }

    /// Its process, while it runs.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("Prosody does not run")
    }

    /// Everything it logged, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read(self.log_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log(), 60)
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("prosody.log")
    }
}

const fn client_address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), CLIENT_PORT)
}
