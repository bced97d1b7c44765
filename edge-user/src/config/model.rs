//! The validated configuration. Whoever holds one may rely on every rule stated here.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    model_federation::{
        DefaultRoute, Group, HostingProvider, PeerOptions, PublicImProvider, Revocation,
        ThrottleSettings, UserPolicy,
    },
    model_firewall::{Firewall, Line, Rates},
    model_media::MediaSettings,
    model_services::Services,
    model_xmpp::Xmpp,
};
use crate::domain::Domain;

/// Everything the file says, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it came from.
    pub file: PathBuf,
    /// `[edge] fqdn`: the name of this appliance; in its certificate.
    pub fqdn: Domain,
    /// `[edge] domains`: the SIP domains served here. At least one, no two alike.
    pub domains: Vec<Domain>,
    /// `[paths]`.
    pub paths: Paths,
    /// `[[interface]]`: at least one external. No two with the same device and VLAN.
    pub interfaces: Vec<Interface>,
    /// `[management]`: required.
    pub management: Management,
    /// `[service.access]`: the SIP federation service.
    pub access: AccessService,
    /// `[inside]`: the internal listener and the way to the organisation's servers.
    pub inside: Inside,
    /// The other services.
    pub services: Services,
    /// `[media]`.
    pub media: MediaSettings,
    /// `[federation]`.
    pub federation: Federation,
    /// `[xmpp]`.
    pub xmpp: Xmpp,
    /// `[revocation]`.
    pub revocation: Revocation,
    /// `[firewall]` and `[[firewall.rule]]`.
    pub firewall: Firewall,
    /// `[pool]`.
    pub pool: Pool,
    /// `[dns]`.
    pub dns: Dns,
    /// `[limits]`.
    pub limits: Limits,
    /// `[log]`.
    pub log: Log,
}

impl Config {
    /// Whether any rule is for the addresses of partners.
    pub fn asks_for_partners(&self) -> bool {
        self.access.partners_only || self.firewall.rules.iter().any(|rule| rule.from.partners)
    }
}

/// What several appliances share that are one to the outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Files of 32 bytes: the key that signs Record-Route, and one that is still believed. None:
    /// a key of this appliance's own.
    pub keys: Vec<PathBuf>,
}

/// Folders the daemon uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Runtime changes and last good answers. Default `/var/lib/edge`.
    pub state: PathBuf,
    /// Control socket and lock. Default `/run/edge`.
    pub run: PathBuf,
    /// Pins, on a bpffs. Default `/sys/fs/bpf/edge`.
    pub pins: PathBuf,
}

/// A side of the appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zone {
    /// The Internet.
    External,
    /// The organisation.
    Internal,
}

/// A device, or a VLAN of one, that belongs to a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The device's name, `eth0`.
    pub device: String,
    /// On a trunk: the VLAN id, 1 to 4094.
    pub vlan: Option<u16>,
    /// Its zone.
    pub zone: Zone,
    /// It may be missing at the start, and is taken when it comes.
    pub optional: bool,
}

/// What keeps an administrator from being locked out: judged before everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Management {
    /// TCP ports. At least one.
    pub ports: Vec<u16>,
    /// From these prefixes only. At least one; never `0.0.0.0/0` or `::/0`.
    pub from: Vec<IpNet>,
    /// In this zone only.
    pub zone: Zone,
    /// Where it stands.
    pub line: Line,
}

/// The SIP federation service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessService {
    /// Addresses it listens on (one or more, IPv4 and IPv6).
    pub listen: Vec<SocketAddr>,
    /// Addresses by which the outside knows it, when it stands behind 1:1 NAT. Used wherever we
    /// name ourselves by address; otherwise the listen addresses are.
    pub advertise: Vec<IpAddr>,
    /// Own certificate, private key and the trust store for partners.
    pub tls: TlsFiles,
    /// Further certificates of ours.
    pub identities: Vec<OwnIdentity>,
    /// Only the addresses of allowed partners reach it.
    pub partners_only: bool,
    /// How much the firewall lets in.
    pub rates: Rates,
    /// Where it stands.
    pub line: Line,
}

impl AccessService {
    /// A service on these addresses, with defaults for the rest.
    pub fn new(listen: Vec<SocketAddr>, tls: TlsFiles) -> Self {
        Self {
            listen,
            advertise: Vec::new(),
            tls,
            identities: Vec::new(),
            partners_only: false,
            rates: Rates::default(),
            line: Line::default(),
        }
    }
}

/// A further certificate of ours, for names that the first is not for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnIdentity {
    /// Hosts of ours that peers ask for (SNI), and SIP domains of ours. At least one, no two
    /// identities with the same.
    pub names: Vec<Domain>,
    /// Certificate chain, leaf first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// PEM files of a TLS identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, leaf first.
    pub certificate: PathBuf,
    /// Private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// Roots that partners' (or inside servers') certificates must chain to.
    pub trust: PathBuf,
}

/// How SIP is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// SIP over UDP.
    Udp,
    /// SIP over TCP.
    Tcp,
    /// SIP over TLS over TCP.
    Tls,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
        })
    }
}

/// The organisation's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// `listen = ["tls:10.0.0.10:5061", "tcp:10.0.0.10:5060"]`; a bare address means TLS.
    pub listen: Vec<(Transport, SocketAddr)>,
    /// Files for TLS inside; required when a TLS listener or next hop exists.
    pub tls: Option<TlsFiles>,
    /// Who may use the internal listener.
    pub servers: Vec<InsideServer>,
    /// Where requests from outside go: the first that works. At least one.
    pub next_hops: Vec<NextHop>,
    /// What else is said about them.
    pub routing: InsideRouting,
    /// How much the firewall lets in.
    pub rates: Rates,
    /// Where it stands.
    pub line: Line,
}

/// How requests find their way to our servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InsideRouting {
    /// How often each next hop is asked whether it lives (OPTIONS); `None`: never, nor is whoever
    /// failed.
    pub probe: Option<Duration>,
    /// Domains of ours with next hops of their own. No domain twice.
    pub routes: Vec<InsideRoute>,
}

/// Domains of ours, and where requests for them go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsideRoute {
    /// The domains.
    pub domains: Vec<Domain>,
    /// In the order in which to try.
    pub next_hops: Vec<NextHop>,
}

impl Inside {
    /// Every next hop, for whatever domain.
    pub fn all_next_hops(&self) -> impl Iterator<Item = &NextHop> {
        let routed = self.routing.routes.iter().flat_map(|route| &route.next_hops);
        self.next_hops.iter().chain(routed)
    }
}

/// A server of ours that may send to the internal listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InsideServer {
    /// By the name in its certificate (TLS).
    Name(Domain),
    /// By its address (TCP and UDP).
    Prefix(IpNet),
}

/// A server of ours that takes requests from outside:
/// `sip:director.contoso.example:5061;transport=tls`, or several by their SRV record:
/// `srv:_sips._tcp.pool.contoso.example`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// A name (resolved in DNS, expected in the certificate) or an address.
    pub host: Host,
    /// Port; 5061 for TLS and 5060 else, when not given; with an SRV record, that says.
    pub port: u16,
    /// TLS when not given; with an SRV record, what its name says.
    pub transport: Transport,
}

/// A name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name.
    Name(Domain),
    /// An address.
    Address(IpAddr),
    /// What this SRV record names.
    Srv {
        /// `_sips._tcp` or another.
        service: Box<str>,
        /// Where it stands.
        domain: Domain,
    },
}

/// Who may federate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Federation {
    /// The organisation's switch. Off: nobody federates.
    pub enabled: bool,
    /// Allowed domains and allowed servers. No domain twice; none is also blocked or ours.
    pub allowed_domains: Vec<AllowedDomain>,
    /// Blocked domains.
    pub blocked_domains: Vec<BlockedDomain>,
    /// Prefixes that names from outside may lead to although they are not global unicast
    /// (a lab, a partner behind a private link). Never our own addresses or loopback.
    pub allow_addresses: Vec<IpNet>,
    /// Domains without an entry may federate when DNS names their edges.
    pub discovery: bool,
    /// What is asked of all those.
    pub discovered: PeerOptions,
    /// Hosting providers.
    pub hosting_providers: Vec<HostingProvider>,
    /// Public IM providers.
    pub public_im_providers: Vec<PublicImProvider>,
    /// The clearing house; never beside a provider.
    pub default_route: Option<DefaultRoute>,
    /// How much a discovered partner may send.
    pub throttle: ThrottleSettings,
    /// A header line that is put on what goes to partners.
    pub archiving_disclaimer: Option<String>,
    /// What goes to partners says that its sender is not verified.
    pub mark_unverifiable: bool,
    /// What users may do; the first that is for a user holds, within its rank.
    pub users: Vec<UserPolicy>,
    /// Groups that user policies name.
    pub groups: Vec<Group>,
}

impl Federation {
    /// Every partner whose edges are known by name: the allowed ones, and each provider in use and
    /// the default route as the server of its own host.
    pub fn known_partners(&self) -> Vec<AllowedDomain> {
        let hosts = self
            .providers()
            .filter(|provider| provider.enabled)
            .map(|provider| (provider.host, provider.port))
            .chain(self.default_route.iter().map(|route| (&route.proxy_fqdn, route.port)));
        let entry = |(host, port): (&Domain, u16)| AllowedDomain {
            proxy_fqdn: Some(host.clone()),
            port,
            ..AllowedDomain::new(host.clone())
        };
        self.allowed_domains.iter().cloned().chain(hosts.map(entry)).collect()
    }

    /// The first partner that accepts only certificates for TLS clients from us.
    pub fn needs_client_usage(&self) -> Option<&str> {
        let allowed = self.allowed_domains.iter().map(|p| (p.domain.as_str(), &p.options));
        let hosting = self.hosting_providers.iter().map(|p| (p.name.as_str(), &p.options));
        let public = self.public_im_providers.iter().map(|p| (p.name.as_str(), &p.options));
        let route = self.default_route.iter().map(|p| (p.proxy_fqdn.as_str(), &p.options));
        let discovered = self.discovery.then_some(("every discovered partner", &self.discovered));
        allowed
            .chain(hosting)
            .chain(public)
            .chain(route)
            .chain(discovered)
            .find_map(|(name, options)| options.needs_client_usage.then_some(name))
    }

    /// Providers of both kinds.
    pub fn providers(&self) -> impl Iterator<Item = Provider<'_>> {
        let hosting = self.hosting_providers.iter().map(|provider| Provider {
            name: &provider.name,
            host: &provider.proxy_fqdn,
            port: provider.port,
            enabled: provider.enabled,
            domains: &provider.domains,
        });
        hosting.chain(self.public_im_providers.iter().map(|provider| Provider {
            name: &provider.name,
            host: &provider.proxy_fqdn,
            port: provider.port,
            enabled: provider.enabled,
            domains: &provider.domains,
        }))
    }
}

/// What the two kinds of providers have in common.
#[derive(Clone, Copy, Debug)]
pub struct Provider<'a> {
    /// Its name.
    pub name: &'a str,
    /// The host that its certificate names.
    pub host: &'a Domain,
    /// Its port.
    pub port: u16,
    /// It is in use.
    pub enabled: bool,
    /// Domains that are bound to it.
    pub domains: &'a [Domain],
}

/// An allowed partner domain; with a `proxy_fqdn` an allowed partner server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowedDomain {
    /// The partner's SIP domain.
    pub domain: Domain,
    /// The one host that speaks for it. Without it: DNS SRV.
    pub proxy_fqdn: Option<Domain>,
    /// Port of the pinned host; 5061 when not given.
    pub port: u16,
    /// SRV targets may lie outside the domain (relaxes trust rule 2c).
    pub relax_srv_domain: bool,
    /// Requests with `From: anonymous` and no asserted identity are accepted.
    pub allow_anonymous: bool,
    /// Where the partner sends from, beside the addresses it listens on. Only the firewall's
    /// `partners` ask for it: who a partner is, its certificate proves.
    #[serde(default)]
    pub from_addresses: Vec<IpNet>,
    /// What is asked of its certificate, DNS and users.
    #[serde(default)]
    pub options: PeerOptions,
}

impl AllowedDomain {
    /// A partner found by DNS SRV, without exceptions.
    pub fn new(domain: Domain) -> Self {
        Self {
            domain,
            proxy_fqdn: None,
            port: 5061,
            relax_srv_domain: false,
            allow_anonymous: false,
            from_addresses: Vec::new(),
            options: PeerOptions::default(),
        }
    }
}

/// A blocked domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedDomain {
    /// The domain.
    pub domain: Domain,
    /// Names below it too.
    pub subdomains: bool,
}

/// How names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Resolvers; `/etc/resolv.conf` is read when the file names none.
    pub servers: Vec<SocketAddr>,
    /// Time for one try. Default 2 s.
    pub timeout: Duration,
    /// DNSKEY records that signed answers must lead to; those of the root of the Internet when the
    /// file names none.
    pub trust_anchor: Option<PathBuf>,
}

/// Bounds on what the outside can make us hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections on the access service. Where all are taken, the oldest that proved nothing yet
    /// gives its place to who comes. Default 4096.
    pub connections: usize,
    /// Connections from one address (IPv6: one /64) on the access service. Default 64.
    pub connections_per_source: usize,
    /// TLS handshakes at one time; the oldest gives its place to who comes. Default 256.
    pub handshakes: usize,
    /// TLS handshakes in a second with strangers; discovered partners, and who has an entry or signed
    /// in, have as many each. Default 200.
    pub handshakes_per_second: u32,
    /// The same of one address (IPv6: one /64). Default 10.
    pub handshakes_per_second_per_source: u32,
    /// Time for a TLS handshake. Default 5 s.
    pub handshake_timeout: Duration,
    /// Time from the first to the last byte of a message. Default 10 s.
    pub message_timeout: Duration,
    /// A connection without traffic is closed after this. Default 20 min.
    pub idle_timeout: Duration,
    /// Bytes of a message's head. Default 64 KiB.
    pub head_bytes: usize,
    /// Bytes of a message's body. Default 5,000 KiB, as Lync's for servers.
    pub body_bytes: usize,
    /// Bytes of a message's head, and of its body, on a partner's connection over which no request
    /// was admitted yet. Default 64 KiB.
    pub first_request_bytes: usize,
    /// Live transactions. Default 100,000.
    pub transactions: usize,
    /// Bytes waiting to be written on one connection. Default 8 MiB.
    pub write_queue_bytes: usize,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// One JSON object a line instead of text.
    pub json: bool,
    /// A filter such as `info` or `edge_user::proxy=debug`.
    pub filter: String,
}
