//! The firewall's part of the validated configuration.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::model::Zone;

/// The firewall's settings and the administrator's own rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// Monitor-only: count what would be dropped, drop nothing.
    pub monitor: bool,
    /// Accept generic (skb) mode where the driver has no native XDP.
    pub allow_generic: bool,
    /// Let LLDP in.
    pub lldp: bool,
    /// Let LACP in.
    pub lacp: bool,
    /// Let DHCP answers to our client in.
    pub dhcp_client: bool,
    /// Sampled drop events per second, CPU and reason.
    pub events_per_second: u32,
    /// Bytes of a dropped frame that its event takes along, at most 160. Default 96.
    pub event_bytes: u32,
    /// Room for blocked single addresses, each family.
    pub max_blocked_addresses: u32,
    /// Room for blocked prefixes, each family.
    pub max_blocked_prefixes: u32,
    /// `[firewall.flood]`.
    pub flood: Flood,
    /// `[[firewall.set]]`: unique names.
    pub sets: Vec<NamedSet>,
    /// `[[firewall.rule]]`: unique names.
    pub rules: Vec<FirewallRule>,
    /// `[[firewall.block]]`: addresses and prefixes blocked by the file.
    pub blocks: Vec<IpNet>,
}

impl Default for Firewall {
    fn default() -> Self {
        Self {
            monitor: false,
            allow_generic: false,
            lldp: false,
            lacp: false,
            dhcp_client: false,
            events_per_second: 10,
            event_bytes: 96,
            max_blocked_addresses: 131_072,
            max_blocked_prefixes: 131_072,
            flood: Flood::default(),
            sets: Vec::new(),
            rules: Vec::new(),
            blocks: Vec::new(),
        }
    }
}

/// What is done in a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood {
    /// New connections a second beyond which SYNs are answered with cookies; 0: never.
    /// Default 10,000.
    pub syn_cookies_above: u32,
    /// Packets a second from the external zone that may reach the stack; 0: no ceiling.
    pub external_packets_per_second: u64,
    /// The same from the internal zone.
    pub internal_packets_per_second: u64,
}

impl Default for Flood {
    fn default() -> Self {
        Self {
            syn_cookies_above: 10_000,
            external_packets_per_second: 0,
            internal_packets_per_second: 0,
        }
    }
}

/// Prefixes with a name, for rules to be from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSet {
    /// Unique.
    pub name: String,
    /// At least one.
    pub prefixes: Vec<IpNet>,
    /// Where it stands.
    pub line: Line,
}

/// A rule an administrator wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallRule {
    /// Unique; not one of the implied rules' names.
    pub name: String,
    /// Where it applies.
    pub zone: Zone,
    /// What it matches.
    pub protocol: Protocol,
    /// Ranges, both ends included. Empty for protocols without ports.
    pub ports: Vec<(u16, u16)>,
    /// Only to these addresses of ours; empty: any.
    pub to: Vec<IpAddr>,
    /// Only from these; nothing in it: any.
    pub from: Sources,
    /// Pass, or drop.
    pub drop: bool,
    /// How much it lets in.
    pub rates: Rates,
    /// What the payload must look like.
    pub content: Content,
    /// Where it stands.
    pub line: Line,
}

impl FirewallRule {
    /// A rule that passes everything of this protocol, without ports.
    pub fn new(name: impl Into<String>, zone: Zone, protocol: Protocol) -> Self {
        Self {
            name: name.into(),
            zone,
            protocol,
            ports: Vec::new(),
            to: Vec::new(),
            from: Sources::default(),
            drop: false,
            rates: Rates::default(),
            content: Content::Any,
            line: Line::default(),
        }
    }
}

/// Whom a rule is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Prefixes, those of the named sets among them.
    pub prefixes: Vec<IpNet>,
    /// Names of the sets that were named.
    pub sets: Vec<String>,
    /// Also the addresses of allowed partners, as they are at any time.
    pub partners: bool,
}

impl Sources {
    /// Only these prefixes.
    pub fn prefixes(prefixes: Vec<IpNet>) -> Self {
        Self { prefixes, ..Self::default() }
    }
}

/// IP protocol of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo requests (IPv4).
    Icmp,
    /// ICMPv6 echo requests.
    Icmpv6,
    /// Another protocol, by number.
    Other(u8),
}

impl From<Protocol> for u8 {
    /// Its number (IANA).
    fn from(protocol: Protocol) -> u8 {
        match protocol {
            Protocol::Icmp => 1,
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Icmpv6 => 58,
            Protocol::Other(number) => number,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Protocol::Tcp => f.write_str("tcp"),
            Protocol::Udp => f.write_str("udp"),
            Protocol::Icmp => f.write_str("icmp"),
            Protocol::Icmpv6 => f.write_str("icmpv6"),
            Protocol::Other(number) => write!(f, "{number}"),
        }
    }
}

/// What a payload must look like. Packets without payload pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// It is not looked at.
    #[default]
    Any,
    /// SIP in the clear (RFC 3261).
    Sip,
    /// STUN or TURN (RFC 7983).
    Stun,
    /// STUN, DTLS, TURN, RTP or RTCP (RFC 7983).
    Media,
}

/// How much a rule or service lets in; 0: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// `new_per_second_per_source`: TCP connections; of IPv6 a source is a /64.
    pub new_per_source: u64,
    /// `packets_per_second_per_source`.
    pub packets_per_source: u64,
    /// `bytes_per_second_per_source`: bytes of frames.
    pub bytes_per_source: u64,
    /// `new_per_second_total`.
    pub new_total: u64,
    /// `packets_per_second_total`.
    pub packets_total: u64,
    /// `bytes_per_second_total`.
    pub bytes_total: u64,
    /// What of a rate may come at once. Default 1 s.
    pub burst: Duration,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            new_per_source: 0,
            packets_per_source: 0,
            bytes_per_source: 0,
            new_total: 0,
            packets_total: 0,
            bytes_total: 0,
            burst: Duration::from_secs(1),
        }
    }
}

impl Content {
    /// Its name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Sip => "sip",
            Self::Stun => "stun",
            Self::Media => "media",
        }
    }
}

impl Rates {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        let Self {
            new_per_source,
            packets_per_source,
            bytes_per_source,
            new_total,
            packets_total,
            bytes_total,
            burst: _,
        } = *self;
        new_per_source
            | packets_per_source
            | bytes_per_source
            | new_total
            | packets_total
            | bytes_total
            == 0
    }

    /// The same for a protocol without connections.
    #[must_use]
    pub fn without_new(self) -> Self {
        Self { new_per_source: 0, new_total: 0, ..self }
    }
}

/// A line of the file, from 1; 0: none. Where something stands says nothing about what holds, so
/// any two are equal.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Line(pub usize);

impl PartialEq for Line {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Line {}
