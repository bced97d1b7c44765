//! What the proxy is told about itself, and how it names itself (RFC 3261 sections 16.6 and
//! 18.1.1): outside by the FQDN that its certificate holds, inside by its listener.

use std::{
    fmt::Write as _,
    hash::{DefaultHasher, Hasher},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{Peer, Side};
use crate::{
    config::{Config, GuardSettings, NextHop, Transport},
    domain::Domain,
    media::calls::CallSettings,
    sip::{Host, Message, Via},
};

/// Settings of a proxy.
#[derive(Clone)]
pub struct ProxyConfig {
    /// Our name outside.
    pub fqdn: Domain,
    /// The access service's addresses, and those by which the outside knows it.
    pub outside: Vec<SocketAddr>,
    /// The internal listeners.
    pub inside: Vec<(Transport, SocketAddr)>,
    /// Names of our further identities outside, by their number less one.
    pub identities: Vec<Vec<Domain>>,
    /// Remote users.
    pub remote: RemoteSettings,
    /// Where requests from outside go, in this order; none twice.
    pub next_hops: Vec<NextHop>,
    /// The last so many of them are for domains with a route only.
    pub routed_only: usize,
    /// Domains of ours with next hops of their own, by their places in the list.
    pub routes: Vec<(Vec<Domain>, Vec<usize>)>,
    /// How often next hops are asked whether they live; `None`: nobody is asked, nor is whoever
    /// failed.
    pub probe: Option<Duration>,
    /// Bounds.
    pub bounds: Bounds,
    /// Media.
    pub media: CallSettings,
    /// Signs Record-Route; the same for every member of a pool. Random; never logged.
    pub token_secret: [u8; 32],
    /// What other members of a pool may sign with still, or already.
    pub former_secret: Option<[u8; 32]>,
    /// Wall clock when the proxy starts, seconds since 1970.
    pub unix_time: u64,
}

/// Without the secrets.
impl std::fmt::Debug for ProxyConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyConfig")
            .field("fqdn", &self.fqdn)
            .field("outside", &self.outside)
            .field("inside", &self.inside)
            .field("next_hops", &self.next_hops)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

/// How remote users are served.
#[derive(Clone, Debug, Default)]
pub struct RemoteSettings {
    /// The name they know us by, when it is another.
    pub fqdn: Option<Domain>,
    /// What befalls those who guess passwords.
    pub guard: GuardSettings,
}

/// What signs Record-Route, and what is believed beside it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secrets {
    /// Signs.
    pub current: [u8; 32],
    /// Is believed too.
    pub former: Option<[u8; 32]>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// What the outside can make us hold at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Connections on the access service.
    pub connections: usize,
    /// Live transactions.
    pub transactions: usize,
    /// Requests that wait for DNS or a connection.
    pub waiting: usize,
    /// Bytes of them.
    pub waiting_bytes: usize,
    /// How long one waits.
    pub wait: Duration,
}

impl Bounds {
    /// Of them, waiting for one answer or one connection: one partner that cannot be reached
    /// leaves room for the others.
    pub fn waiting_for_one(&self) -> usize {
        self.waiting.div_ceil(4)
    }

    /// Of them, from one partner's certificate.
    pub fn transactions_of_one(&self) -> usize {
        self.transactions.div_ceil(2)
    }

    /// Connections of discovered partners that came in: the rest is for who has an entry, and for
    /// those of whom it is not known yet.
    pub fn connections_of_discovered(&self) -> usize {
        self.connections.saturating_mul(4).div_ceil(5)
    }

    /// Of them, from the remote users at one source.
    pub fn transactions_of_source(&self) -> usize {
        self.transactions.div_ceil(50).max(1)
    }

    /// Of them, from one remote user's connection.
    pub fn transactions_of_user(&self) -> usize {
        self.transactions.div_ceil(400).clamp(1, 256)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 4096,
            transactions: 100_000,
            waiting: 4096,
            waiting_bytes: 32 * 1024 * 1024,
            wait: Duration::from_secs(10),
        }
    }
}

impl ProxyConfig {
    /// From the file's settings.
    pub fn new(config: &Config, secrets: Secrets, unix_time: u64) -> Self {
        let mut outside = config.access.listen.clone();
        let remote = config.services.remote.as_ref();
        outside.extend(remote.iter().flat_map(|remote| &remote.listen));
        let ports: Vec<u16> = outside.iter().map(SocketAddr::port).collect();
        for address in &config.access.advertise {
            outside.extend(ports.iter().map(|port| SocketAddr::new(*address, *port)));
        }
        let mut next_hops = config.inside.next_hops.clone();
        let mut place = |hop: &NextHop| {
            next_hops.iter().position(|other| other == hop).unwrap_or_else(|| {
                next_hops.push(hop.clone());
                next_hops.len() - 1
            })
        };
        let routes = config.inside.routing.routes.iter();
        let routes: Vec<(Vec<Domain>, Vec<usize>)> = routes
            .map(|route| (route.domains.clone(), route.next_hops.iter().map(&mut place).collect()))
            .collect();
        let routed_only = next_hops.len() - config.inside.next_hops.len();
        Self {
            fqdn: config.fqdn.clone(),
            outside,
            inside: config.inside.listen.clone(),
            identities: config.access.identities.iter().map(|own| own.names.clone()).collect(),
            remote: remote.map_or_else(RemoteSettings::default, |remote| RemoteSettings {
                fqdn: remote.fqdn.clone(),
                guard: remote.guard.clone(),
            }),
            next_hops,
            routed_only,
            routes,
            probe: config.inside.routing.probe,
            bounds: Bounds {
                connections: config.limits.connections,
                transactions: config.limits.transactions,
                ..Bounds::default()
            },
            media: CallSettings::new(config, Vec::new()),
            token_secret: secrets.current,
            former_secret: secrets.former,
            unix_time,
        }
    }

    /// Which of our own identities speaks for a domain of ours: the one with its name, else with
    /// a host in it, else the first.
    pub(super) fn own_for(&self, domain: &Domain) -> u8 {
        let exact = |names: &Vec<Domain>| names.contains(domain);
        let within = |names: &Vec<Domain>| names.iter().any(|name| name.is_within(domain));
        let found = self.identities.iter().position(exact);
        // The first has no list: its own name decides before a host of another.
        let found = match found {
            None if self.fqdn.is_within(domain) => None,
            None => self.identities.iter().position(within),
            found => found,
        };
        found.and_then(|index| u8::try_from(index + 1).ok()).unwrap_or(0)
    }

    fn outside_port(&self) -> u16 {
        self.outside.first().map_or(5061, SocketAddr::port)
    }

    /// Our listener that a peer inside reaches us by: the one its connection came in on, else
    /// the first with its transport (and family, if there is one).
    fn inside_name(&self, peer: &Peer) -> SocketAddr {
        let fits = |exact: bool| {
            self.inside.iter().find(move |(transport, address)| {
                *transport == peer.transport
                    && (!exact || address.is_ipv4() == peer.local.is_ipv4())
            })
        };
        if self.inside.contains(&(peer.transport, peer.local)) {
            return peer.local;
        }
        let Some((_, listener)) = fits(true).or_else(|| fits(false)) else { return peer.local };
        // A listener on every address is named by the address that the peer sees.
        match listener.ip().is_unspecified() {
            true => SocketAddr::new(peer.local.ip(), listener.port()),
            false => *listener,
        }
    }

    /// Adds the `host:port` by which this peer knows us.
    fn put_host_port(&self, peer: &Peer, text: &mut String) {
        let _ = match peer.side {
            Side::Partner | Side::Gateway => {
                text.push_str(self.fqdn.as_str());
                write!(text, ":{}", self.outside_port())
            }
            // By the port that the user found: the way back to a listener that may be another's.
            Side::Remote => {
                text.push_str(self.remote.fqdn.as_ref().unwrap_or(&self.fqdn).as_str());
                write!(text, ":{}", peer.local.port())
            }
            Side::Inside => write!(text, "{}", self.inside_name(peer)),
        };
    }

    /// Our Via towards a peer.
    pub(super) fn via(&self, peer: &Peer, branch: Branch) -> String {
        let mut via = String::with_capacity(128);
        via.push_str(match peer.transport {
            Transport::Udp => "SIP/2.0/UDP ",
            Transport::Tcp => "SIP/2.0/TCP ",
            Transport::Tls => "SIP/2.0/TLS ",
        });
        self.put_host_port(peer, &mut via);
        via.push_str(";branch=");
        branch.put(&mut via);
        if peer.side == Side::Inside && peer.transport == Transport::Udp {
            via.push_str(";rport");
        }
        via
    }

    /// Our Path value towards a server inside, with a flow token. `first`: we are the first whom the
    /// user's request met (RFC 5626 section 5.1).
    pub(super) fn path(&self, peer: &Peer, flow: &str, first: bool) -> String {
        let mut value = self.record_route(peer, flow, false);
        if first && value.pop().is_some() {
            value.push_str(";ob>");
        }
        value
    }

    /// Our Record-Route value towards a peer, with a token. `secure`: for a dialog that goes by TLS all
    /// the way (RFC 3261 section 16.6 step 4), as far as this peer is reached by it.
    pub(super) fn record_route(&self, peer: &Peer, token: &str, secure: bool) -> String {
        let secure = secure && peer.transport == Transport::Tls;
        let mut value = String::with_capacity(token.len() + 96);
        for part in [if secure { "<sips:" } else { "<sip:" }, token, "@"] {
            value.push_str(part);
        }
        self.put_host_port(peer, &mut value);
        value.push_str(match peer.transport {
            // The scheme says it (RFC 5630 section 3.1.4 has no transport=tls beside it).
            _ if secure => ";lr>",
            Transport::Udp => ";transport=udp;lr>",
            Transport::Tcp => ";transport=tcp;lr>",
            Transport::Tls => ";transport=tls;lr>",
        });
        value
    }

    /// Whether a host and port name this appliance.
    pub(super) fn is_me(&self, host: Host<'_>, port: Option<u16>) -> bool {
        if host.is(&self.fqdn) || self.remote.fqdn.as_ref().is_some_and(|name| host.is(name)) {
            return true;
        }
        let Some(ip) = host.ip() else { return false };
        let port_fits = |own: u16| port.is_none_or(|port| port == own);
        self.outside.iter().any(|own| own.ip() == ip && port_fits(own.port()))
            || self.inside.iter().any(|(_, own)| {
                (own.ip() == ip || own.ip().is_unspecified()) && port_fits(own.port())
            })
    }

    /// Whether an address is one that no server of ours can be told to send to: this very machine,
    /// as the server or we see it, or everybody.
    pub(super) fn is_no_target(&self, host: Host<'_>, port: Option<u16>) -> bool {
        let Some(ip) = host.ip().map(|ip| ip.to_canonical()) else { return false };
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let nobody = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local;
        let own = self.outside.iter().chain(self.inside.iter().map(|(_, own)| own));
        nobody || own.into_iter().any(|own| own.ip() == ip && port.is_none_or(|p| p == own.port()))
    }

    /// A hash of what decides where a request goes: the same again means a loop (RFC 3261
    /// section 16.6 step 8). Where it came from is part of that: what a remote user sends to a partner
    /// passes here on its way to our servers, and once more from these, unchanged.
    pub(super) fn loop_hash(&self, message: &Message, side: Side) -> u32 {
        use crate::sip::HeaderName as Name;
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.token_secret);
        hasher.write_u8(u8::from(side == Side::Inside));
        let mut part = |bytes: &[u8]| {
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
        };
        if let Some(Ok(uri)) = message.request_uri() {
            part(uri.as_str().as_bytes());
        }
        for party in [message.from(), message.to()] {
            let tag = party.ok().and_then(|party| party.tag());
            part(tag.unwrap_or_default().as_bytes());
        }
        part(message.text(Name::CallId).unwrap_or_default().as_bytes());
        part(&message.cseq().map_or(0, |cseq| cseq.number).to_be_bytes());
        for route in message.list(Name::Route) {
            part(route.value);
        }
        let hash = hasher.finish();
        (hash ^ (hash >> 32)) as u32
    }

    /// Whether the request has been here before, with nothing changed that decides where it goes.
    pub(super) fn loops(&self, message: &Message, hash: u32) -> bool {
        let own = |via: Result<Via<'_>, _>| {
            via.is_ok_and(|via| {
                let own = via.branch.and_then(Branch::parse);
                own.is_some_and(|own| own.hash == hash) && self.is_me(via.host, via.port)
            })
        };
        // The first is known, the others are read.
        let others = message.list(crate::sip::HeaderName::Via).skip(1);
        own(message.via()) || others.map(|element| Via::parse(element.value)).any(own)
    }
}

/// The branch of a request that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    /// The exchange it belongs to.
    pub exchange: u64,
    /// Which try of it.
    pub attempt: u8,
    /// [`ProxyConfig::loop_hash`] of the request as it came in.
    pub hash: u32,
}

impl Branch {
    /// Adds its text, magic cookie first.
    fn put(self, text: &mut String) {
        text.push_str("z9hG4bK");
        let mut digits = |number: u64, count: u32| {
            for place in (0..count).rev() {
                let digit = (number >> (4 * place)) & 0xf;
                text.push(char::from(b"0123456789abcdef"[digit as usize]));
            }
        };
        digits(self.exchange, 16);
        digits(u64::from(self.attempt), 2);
        digits(u64::from(self.hash), 8);
    }

    /// Reads a branch; `None` when it is none of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (cookie, digits) = text.split_at_checked(7)?;
        if !cookie.eq_ignore_ascii_case("z9hG4bK")
            || digits.len() != 26
            || !digits.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return None;
        }
        Some(Self {
            exchange: u64::from_str_radix(&digits[..16], 16).ok()?,
            attempt: u8::from_str_radix(&digits[16..18], 16).ok()?,
            hash: u32::from_str_radix(&digits[18..], 16).ok()?,
        })
    }
}

/// The first exchange's id. Ids of one run never meet those of the run before, so a late
/// response finds nothing.
pub(super) fn first_id(unix_time: u64) -> u64 {
    unix_time << 24
}
