//! Two namespaces with two links between them: the proxy with an outside and an inside, and the
//! load, which is the partner outside and the server inside.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::load::tls::Configs;
use crate::lab::{
    certs::{Authority, Identity},
    cleanup,
    layout::Site,
    netns::{self, Namespace},
};

/// The proxy's name in its certificate.
pub const HOST: &str = "sip.contoso.example";
/// The partner's, which its entry pins.
pub const PARTNER: &str = "sip.fabrikam.example";

/// What is spoken inside; outside it is always TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// Mutual TLS.
    Tls,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Inside {
    /// As configurations name it.
    pub const fn name(self) -> &'static str {
        match self {
            Inside::Tls => "tls",
            Inside::Tcp => "tcp",
            Inside::Udp => "udp",
        }
    }

    /// Where the server inside listens.
    pub const fn callee(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Site::Contoso.server4()), 5081)
    }

    /// Where the proxy listens inside.
    pub const fn proxy(self) -> SocketAddr {
        let port = if matches!(self, Inside::Tls) { 5061 } else { 5060 };
        SocketAddr::new(IpAddr::V4(Site::Contoso.edge_inside4()), port)
    }

    /// The server's Contact.
    pub const fn contact(self) -> &'static str {
        match self {
            Inside::Tls => "sip:bob@10.1.0.20:5081;transport=tls",
            Inside::Tcp => "sip:bob@10.1.0.20:5081;transport=tcp",
            Inside::Udp => "sip:bob@10.1.0.20:5081;transport=udp",
        }
    }
}

/// The share of our session in the processors' time.
const AUTOGROUP: &str = "/proc/self/autogroup";

/// Where the proxy listens outside.
pub const OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Site::Contoso.v4()), 5061);

/// The namespaces and certificates; all goes when this is dropped.
pub struct World {
    prefix: String,
    /// Files of this run.
    pub dir: PathBuf,
    /// Where the proxy runs.
    pub proxy: Namespace,
    /// Where the load runs.
    pub load: Namespace,
    /// The proxy's certificate.
    pub identity: Identity,
    /// The roots that everybody trusts.
    pub trust: PathBuf,
    /// Issues more certificates.
    pub authority: Authority,
    /// What the load shows.
    pub tls: Configs,
    /// The same names from an authority that nobody trusts.
    pub stranger: Configs,
}

impl World {
    /// Makes it; `tag` is a short lower-case word.
    pub fn new(tag: &str) -> Result<Self> {
        // Ahead of others' work on this machine, where sessions share it.
        let _ = std::fs::write(AUTOGROUP, "-20");
        let prefix = format!("edge-{tag}-{}", std::process::id());
        cleanup::remove_stale();
        cleanup::register(&prefix);
        let dir = cleanup::directory(&prefix);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(cleanup::MARKER), "")?;
        let made = Self::build(&prefix, &dir);
        if made.is_err() {
            cleanup::remove(&prefix);
        }
        made
    }

    fn build(prefix: &str, dir: &Path) -> Result<Self> {
        // As many descriptors as we may have: ten thousand connections need them at both ends.
        let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.current = limit.maximum;
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
        let proxy = Namespace::create(&format!("{prefix}-proxy"))?;
        let load = Namespace::create(&format!("{prefix}-load"))?;
        netns::link_site(&load, &proxy, Site::Contoso)?;
        netns::link_inside(&proxy, &load, Site::Contoso)?;
        load.run(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000"))??;
        for namespace in [&proxy, &load] {
            namespace.run(|| std::fs::write("/proc/sys/net/core/somaxconn", "8192"))??;
        }
        let certificates = dir.join("certificates");
        let authority = Authority::create(&certificates, "trust")?;
        let identity = authority.issue("proxy", &[HOST, "contoso.example"], &[])?;
        let partner = authority.issue("partner", &[PARTNER], &[])?;
        let server = authority.issue("server", &["director.contoso.example", "10.1.0.20"], &[])?;
        let trust = certificates.join("trust.pem");
        let tls = Configs::read(&trust, &partner, &server)?;
        let unknown = Authority::create(&certificates, "unknown")?;
        let stranger = unknown.issue("stranger", &[PARTNER], &[])?;
        let stranger = Configs::read(&trust, &stranger, &server)?;
        Ok(Self {
            prefix: prefix.to_owned(),
            dir: dir.to_owned(),
            proxy,
            load,
            identity,
            trust,
            authority,
            tls,
            stranger,
        })
    }

    /// The pins of the daemon that runs here.
    pub fn pins(&self) -> PathBuf {
        Path::new(cleanup::BPFFS).join(&self.prefix)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        cleanup::remove(&self.prefix);
        let _ = std::fs::write(AUTOGROUP, "0");
    }
}
