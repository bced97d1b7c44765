//! What firewalls around the appliance must let through: the one towards the Internet, and the one
//! towards the organisation.
//!
//! What comes in are the appliance's own rules. What goes out is told here, by the port tables of
//! the Lync Server 2013 Edge: who opens the connection stands as its source, since such firewalls
//! keep state. Where partners' kinds differ (only audio and video do), a row says for whom it is.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{RuleRow, RuleSet};
use crate::config::{
    AvService, Config, Host, Line, MediaMode, Service, Transport, XmppService, Zone,
};

/// Who opens the connection, or sends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Others, to the appliance.
    In,
    /// The appliance, to others.
    Out,
}

/// How rows about audio and video are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AvStyle {
    /// By destination port only.
    #[default]
    Destination,
    /// By source and destination port.
    Both,
}

/// One end of a row. Nothing in it: any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Addresses and prefixes.
    pub prefixes: Vec<IpNet>,
    /// Names that stand for addresses: hosts that DNS knows, `partners`.
    pub names: Vec<String>,
    /// Ports, both ends included.
    pub ports: Vec<(u16, u16)>,
}

impl End {
    fn addresses(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut prefixes: Vec<IpNet> = addresses.into_iter().map(IpNet::from).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        Self { prefixes, ..Self::default() }
    }

    fn port(mut self, port: u16) -> Self {
        self.ports.push((port, port));
        self
    }

    fn ports(mut self, ports: (u16, u16)) -> Self {
        self.ports.push(ports);
        self
    }

    /// Addresses and names, or `any`.
    pub fn text(&self) -> String {
        let prefixes = self.prefixes.iter().map(short);
        let words: Vec<String> = self.names.iter().cloned().chain(prefixes).collect();
        if words.is_empty() { "any".to_owned() } else { words.join(" ") }
    }

    /// The ports, or nothing.
    pub fn ports_text(&self) -> String {
        super::rows::ports_text(&self.ports)
    }
}

/// A single address without its prefix length.
fn short(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// What a firewall around the appliance must let through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OuterRow {
    /// Which firewall: towards the Internet, or towards the organisation.
    pub zone: Zone,
    /// Who opens the connection.
    pub direction: Direction,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    pub protocol: String,
    /// Source.
    pub from: End,
    /// Destination.
    pub to: End,
    /// Kinds of partners that need it; empty: it does not depend on partners.
    pub partner_kinds: String,
    /// Name of the appliance's rule, or of the service that opens the connection.
    pub name: String,
    /// The service.
    pub service: Option<Service>,
    /// What it is for.
    pub why: String,
    /// The line of the file that made it.
    pub line: Option<Line>,
}

impl OuterRow {
    /// What made it, for people.
    pub fn made_by(&self) -> String {
        super::rows::made_by(self.service, self.name == super::ROW_MANAGEMENT, self.line)
    }
}

/// Every row, what comes in first.
pub fn outer(config: &Config, set: &RuleSet, style: AvStyle) -> Vec<OuterRow> {
    let passing = set.rows.iter().filter(|row| row.action == "pass");
    let mut rows: Vec<OuterRow> = passing.map(inbound).collect();
    sip_out(config, &mut rows);
    if let Some(av) = &config.services.av {
        av_out(av, style, &mut rows);
        media_of_calls(config, av, &mut rows);
    }
    if let Some(xmpp) = &config.services.xmpp {
        xmpp_out(config, xmpp, &mut rows);
    }
    rows.sort_by_key(|row| row.zone == Zone::Internal);
    rows
}

/// Our streams: to partners, and to XMPP servers inside.
fn xmpp_out(config: &Config, xmpp: &XmppService, rows: &mut Vec<OuterRow>) {
    let from = End::addresses(xmpp.listen.iter().map(SocketAddr::ip));
    // DNS names other ports too; those that the file pins are known.
    let pinned = config.xmpp.partners.iter().filter_map(|partner| partner.proxy.as_ref());
    let mut ports: Vec<u16> = pinned.map(|(_, port)| *port).chain([5269, 5270]).collect();
    ports.sort_unstable();
    ports.dedup();
    let to = End { ports: ports.iter().map(|port| (*port, *port)).collect(), ..End::default() };
    let why = "XMPP federation: our streams (other ports too, where partners' SRV records say so)";
    rows.push(out(Service::Xmpp, "tcp", from, to, why, xmpp.line));
    for server in &xmpp.servers {
        let (host, port) = &server.next_hop;
        let from = End::addresses(xmpp.inside.iter().map(SocketAddr::ip));
        let to = End { names: vec![host.to_string()], ..End::default() }.port(*port);
        let row =
            out(Service::Xmpp, "tcp", from, to, "partners' stanzas to our XMPP server", xmpp.line);
        rows.push(OuterRow { zone: Zone::Internal, ..row });
    }
}

/// The media ports are open inbound for one kind of partner only.
fn partner_kinds(row: &RuleRow) -> String {
    let media = row.service == Some(Service::Av)
        && row.zone == Zone::External
        && row.ports.iter().any(|(first, last)| first != last);
    if media { LEGACY.to_owned() } else { String::new() }
}

fn inbound(row: &RuleRow) -> OuterRow {
    let names = if row.partners { vec!["partners".to_owned()] } else { Vec::new() };
    OuterRow {
        zone: row.zone,
        direction: Direction::In,
        protocol: row.protocol.clone(),
        from: End { prefixes: row.from.clone(), names, ports: Vec::new() },
        to: End { ports: row.ports.clone(), ..End::addresses(row.to.iter().copied()) },
        partner_kinds: partner_kinds(row),
        name: row.name.clone(),
        service: row.service,
        why: row.why.clone(),
        line: row.line,
    }
}

fn out(service: Service, protocol: &str, from: End, to: End, why: &str, line: Line) -> OuterRow {
    OuterRow {
        zone: Zone::External,
        direction: Direction::Out,
        protocol: protocol.to_owned(),
        from,
        to,
        partner_kinds: String::new(),
        name: service.name().to_owned(),
        service: Some(service),
        why: why.to_owned(),
        line: (line.0 > 0).then_some(line),
    }
}

fn sip_out(config: &Config, rows: &mut Vec<OuterRow>) {
    let access = &config.access;
    let from = End::addresses(access.listen.iter().map(SocketAddr::ip));
    // DNS names other ports seldom; those that the file pins are known.
    let federation = &config.federation;
    let mut ports: Vec<u16> = vec![5061];
    ports.extend(federation.allowed_domains.iter().map(|entry| entry.port));
    ports.extend(federation.providers().filter(|one| one.enabled).map(|one| one.port));
    ports.extend(federation.default_route.iter().map(|route| route.port));
    ports.sort_unstable();
    ports.dedup();
    let ports = ports.iter().map(|port| (*port, *port)).collect();
    let to = End { ports, ..End::default() };
    let why = "federation: our SIP to partners (other ports too, where their SRV records say so)";
    rows.push(out(Service::Access, "tcp", from.clone(), to, why, access.line));
    questions(config, rows);
    if config.revocation.points {
        let to = End::default().port(80);
        let why = "lists of revoked certificates, from where partners' certificates say (other \
                   ports too, where they do)";
        rows.push(out(Service::Access, "tcp", from, to, why, access.line));
    }
    let inside = &config.inside;
    for hop in inside.all_next_hops() {
        let from = End::addresses(inside.listen.iter().map(|(_, listen)| listen.ip()));
        let to = match &hop.host {
            Host::Address(address) => End::addresses([*address]),
            Host::Name(name) => End { names: vec![name.to_string()], ..End::default() },
            Host::Srv { service, domain } => {
                End { names: vec![format!("{service}.{domain}")], ..End::default() }
            }
        };
        let protocol = if hop.transport == Transport::Udp { "udp" } else { "tcp" };
        let why = "partners' SIP to our next hop";
        // Of an SRV record, the record says the port; this is the usual one.
        let to = to.port(hop.port);
        let row = out(Service::Inside, protocol, from, to, why, inside.line);
        rows.push(OuterRow { zone: Zone::Internal, ..row });
    }
}

/// To resolvers: outside, or inside, where they have private addresses and we none outside. Whom one
/// on this machine asks in its turn is not known here.
fn questions(config: &Config, rows: &mut Vec<OuterRow>) {
    let access = &config.access;
    let outside: Vec<IpAddr> = access.listen.iter().map(SocketAddr::ip).collect();
    let inside = config.inside.listen.iter().map(|(_, listen)| listen.ip());
    let (from_outside, from_inside) =
        (End::addresses(outside.iter().copied()), End::addresses(inside));
    let mut ways: BTreeMap<(bool, u16), Vec<IpAddr>> = BTreeMap::new();
    let mut on_this_machine = config.dns.servers.is_empty();
    for server in &config.dns.servers {
        let address = server.ip();
        if address.is_loopback() {
            on_this_machine = true;
            continue;
        }
        let is_inside = is_private(address) && !outside.iter().copied().any(is_private);
        ways.entry((is_inside, server.port())).or_default().push(address);
    }
    let mut push = |zone, from: &End, to: End, why| {
        for protocol in ["udp", "tcp"] {
            let row = out(Service::Access, protocol, from.clone(), to.clone(), why, access.line);
            rows.push(OuterRow { zone, ..row });
        }
    };
    for ((is_inside, port), servers) in ways {
        let to = End::addresses(servers).port(port);
        match is_inside {
            false => push(Zone::External, &from_outside, to, "DNS: where partners are"),
            true => push(Zone::Internal, &from_inside, to, "DNS: where partners are"),
        }
    }
    if on_this_machine {
        let why = "DNS: where partners are, as the resolver on this machine asks others";
        push(Zone::External, &from_outside, End::default().port(53), why);
    }
}

/// Of an organisation's own (RFC 1918, RFC 4193): no way through the Internet leads there.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.is_unique_local(),
    }
}

/// Kinds of partners with audio and video; public providers and XMPP have none.
const ALL: &str = "lync-2013 lync-2010 ocs-2007-r2 ocs-2007 hosting";
const LEGACY: &str = "ocs-2007";

fn av_out(av: &AvService, style: AvStyle, rows: &mut Vec<OuterRow>) {
    let from = || End::addresses(av.listen.iter().copied());
    let mut push = |protocol, from, to, kinds: &str, why| {
        let row = out(Service::Av, protocol, from, to, why, av.line);
        rows.push(OuterRow { partner_kinds: kinds.to_owned(), ..row });
    };
    let (mut tcp, mut udp) = (from(), from());
    if style == AvStyle::Both {
        (tcp, udp) = (tcp.ports(av.media_ports), udp.port(av.stun_port));
    }
    let any = End::default;
    push("tcp", tcp, any().port(443), ALL, "media by way of the partner's relay, over TCP");
    push("udp", udp, any().port(3478), ALL, "media by way of the partner's relay, over UDP");
    if av.legacy_partners {
        for protocol in ["tcp", "udp"] {
            let mut from = from();
            if style == AvStyle::Both {
                from = from.ports(av.media_ports);
            }
            let why = "media to OCS 2007 partners, whose relays take it at their own ports";
            push(protocol, from, any().ports((50_000, 59_999)), LEGACY, why);
        }
    }
}

/// The appliance opens each flow for its own call; a firewall around it, which knows no calls, must
/// let all of them through.
fn media_of_calls(config: &Config, av: &AvService, rows: &mut Vec<OuterRow>) {
    let sides = match config.media.mode {
        MediaMode::Off => return,
        MediaMode::Relay => [(Zone::External, &av.listen), (Zone::Internal, &av.inside)],
        // From endpoint to endpoint, whose addresses and ports only the calls know.
        MediaMode::Pinhole => {
            let nowhere = const { &Vec::new() };
            [(Zone::External, nowhere), (Zone::Internal, nowhere)]
        }
    };
    let why = "media of calls: here for all, in the appliance for each call its own packets only";
    for (zone, addresses) in sides {
        let ours = match config.media.mode {
            MediaMode::Relay => End::addresses(addresses.iter().copied()).ports(av.media_ports),
            _ => End::default(),
        };
        let inward = out(Service::Av, "udp", End::default(), ours.clone(), why, av.line);
        rows.push(OuterRow { zone, direction: Direction::In, ..inward });
        let outward = out(Service::Av, "udp", ours, End::default(), why, av.line);
        rows.push(OuterRow { zone, direction: Direction::Out, ..outward });
    }
}
