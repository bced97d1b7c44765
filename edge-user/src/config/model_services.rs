//! Services, as configuration, rules and tables name them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    model_firewall::{Line, Rates, Sources},
    model_xmpp::XmppService,
};
use crate::domain::Domain;

/// A service of this appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// SIP federation, outside.
    Access,
    /// SIP, inside.
    Inside,
    /// Web conferences (PSOM).
    WebConferencing,
    /// Audio and video: STUN, TURN and media.
    Av,
    /// XMPP federation.
    Xmpp,
    /// Remote users' SIP.
    Remote,
    /// Web console and metrics.
    Admin,
}

impl Service {
    /// All of them.
    pub const ALL: &'static [Service] = &[
        Self::Access,
        Self::Inside,
        Self::WebConferencing,
        Self::Av,
        Self::Xmpp,
        Self::Remote,
        Self::Admin,
    ];

    /// Its name in rules, tables and counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Inside => "inside",
            Self::WebConferencing => "web-conferencing",
            Self::Av => "av",
            Self::Xmpp => "xmpp",
            Self::Remote => "remote",
            Self::Admin => "admin",
        }
    }

    /// Its section of the file.
    pub const fn section(self) -> &'static str {
        match self {
            Self::Access => "service.access",
            Self::Inside => "inside",
            Self::WebConferencing => "service.web_conferencing",
            Self::Av => "service.av",
            Self::Xmpp => "service.xmpp",
            Self::Remote => "service.remote",
            Self::Admin => "admin",
        }
    }

    /// The service of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|service| service.name() == name)
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The services beside SIP federation that are configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// `[service.web_conferencing]`.
    pub web_conferencing: Option<WebConferencingService>,
    /// `[service.av]`.
    pub av: Option<AvService>,
    /// `[service.xmpp]`.
    pub xmpp: Option<XmppService>,
    /// `[service.remote]`.
    pub remote: Option<RemoteService>,
    /// `[admin]`.
    pub admin: Option<AdminService>,
}

impl Services {
    /// Every address of these services.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut sockets: Vec<SocketAddr> = Vec::new();
        let mut addresses: Vec<IpAddr> = Vec::new();
        if let Some(service) = &self.web_conferencing {
            sockets.extend(service.listen.iter().chain(&service.inside));
        }
        if let Some(service) = &self.av {
            addresses.extend(service.listen.iter().chain(&service.inside));
        }
        if let Some(service) = &self.xmpp {
            sockets.extend(service.sockets());
        }
        if let Some(service) = &self.remote {
            sockets.extend(&service.listen);
        }
        if let Some(service) = &self.admin {
            sockets.extend(service.listen.iter().chain(&service.metrics));
        }
        addresses.extend(sockets.iter().map(SocketAddr::ip));
        addresses
    }
}

/// Web conferences: PSOM over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebConferencingService {
    /// External addresses; port 443 when not given.
    pub listen: Vec<SocketAddr>,
    /// Internal addresses; port 8057 when not given. The conferencing servers dial out to it.
    pub inside: Vec<SocketAddr>,
    /// Of the external side.
    pub rates: Rates,
    /// Where it stands.
    pub line: Line,
}

/// Audio and video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvService {
    /// External addresses.
    pub listen: Vec<IpAddr>,
    /// Addresses by which the outside knows it, when it stands behind 1:1 NAT: at most one of a
    /// family, for the one listen address of that family. SDP shows them.
    pub advertise: Vec<IpAddr>,
    /// Internal addresses.
    pub inside: Vec<IpAddr>,
    /// UDP port of STUN and TURN, on both sides. Default 3478.
    pub stun_port: u16,
    /// TCP port of STUN and TURN, on both sides. Default 443.
    pub tcp_port: u16,
    /// Ports of the media relay. Default 50000 to 59999.
    pub media_ports: (u16, u16),
    /// Opens the media ports inbound: OCS 2007 partners need it, later ones do not.
    pub legacy_partners: bool,
    /// TCP port inside of the service that gives out credentials for the relay. Default 5062.
    pub authentication_port: u16,
    /// Of the external side.
    pub rates: Rates,
    /// Where it stands.
    pub line: Line,
}

impl AvService {
    /// What the outside is told of an address it listens on.
    pub fn advertised(&self, listen: IpAddr) -> IpAddr {
        let shown = self.advertise.iter().find(|shown| shown.is_ipv4() == listen.is_ipv4());
        shown.copied().unwrap_or(listen)
    }
}

/// Remote users: SIP over TLS without a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteService {
    /// External addresses; port 443 when not given. May be none when `shared`.
    pub listen: Vec<SocketAddr>,
    /// The name that users know it by; the appliance's own when not given.
    pub fqdn: Option<Domain>,
    /// Its certificate and key; those of the access service when not given.
    pub files: Option<(PathBuf, PathBuf)>,
    /// Who comes to the access service without a certificate is a remote user.
    pub shared: bool,
    /// Connections of remote users. Default 4096.
    pub connections: usize,
    /// Of them, from one address (IPv6: one /64). Default 64.
    pub connections_per_source: usize,
    /// Bytes of a message's body. Default 128 KiB.
    pub body_bytes: usize,
    /// What befalls those who guess passwords.
    pub guard: GuardSettings,
    /// What is let in.
    pub rates: Rates,
    /// Where it stands.
    pub line: Line,
}

impl RemoteService {
    /// With everything else as it is when the file does not say.
    pub fn at(listen: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            fqdn: None,
            files: None,
            shared: false,
            connections: 4096,
            connections_per_source: 64,
            body_bytes: 128 << 10,
            guard: GuardSettings::default(),
            rates: Rates::default(),
            line: Line::default(),
        }
    }
}

/// Who guesses passwords is shut out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    /// So many wrong passwords within the period are a ban.
    pub failures: u32,
    /// The period.
    pub period: Duration,
    /// How long the first ban lasts; each further one six times longer.
    pub ban_first: Duration,
    /// How long a ban lasts at most.
    pub ban_most: Duration,
    /// Prefixes that are never banned; those of the management are added.
    pub never: Vec<IpNet>,
}

impl Default for GuardSettings {
    fn default() -> Self {
        Self {
            failures: 10,
            period: Duration::from_secs(300),
            ban_first: Duration::from_secs(600),
            ban_most: Duration::from_secs(86_400),
            never: Vec::new(),
        }
    }
}

/// Administration, in the internal zone only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminService {
    /// The web console; port 8443 when not given.
    pub listen: Vec<SocketAddr>,
    /// Metrics; port 9464 when not given.
    pub metrics: Vec<SocketAddr>,
    /// Who may reach them; the management prefixes when the file does not say.
    pub from: Sources,
    /// What is let in.
    pub rates: Rates,
    /// Where it stands.
    pub line: Line,
}
