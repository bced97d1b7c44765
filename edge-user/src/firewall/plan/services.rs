//! What each service implies, by the port tables of the Lync Server 2013 Edge.
//!
//! Only what comes in: what goes out needs no opening here, since replies are told by their
//! sockets. A service's two sides are rules of their own (`av`, `av-inside`), each with one id.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::drafts::Draft;
use crate::config::{
    AvService, Config, Content, InsideServer, Line, Protocol, Rates, Service, Sources, Transport,
    Zone,
};

/// One side of a service.
struct Side<'d> {
    drafts: &'d mut Vec<Draft>,
    service: Service,
    zone: Zone,
    from: Sources,
    rates: Rates,
    federation: bool,
    /// Its ports are those of remote users.
    remote: bool,
    line: Line,
}

impl<'d> Side<'d> {
    fn new(
        drafts: &'d mut Vec<Draft>,
        service: Service,
        zone: Zone,
        rates: Rates,
        line: Line,
    ) -> Self {
        Self {
            drafts,
            service,
            zone,
            from: Sources::default(),
            rates,
            federation: false,
            remote: false,
            line,
        }
    }

    fn name(&self) -> String {
        match (self.service, self.zone) {
            (Service::Inside | Service::Admin, _) | (_, Zone::External) => {
                self.service.name().to_owned()
            }
            (service, Zone::Internal) => format!("{service}-inside"),
        }
    }

    /// Opens ports at an address; equal openings at several addresses are one rule.
    fn open(
        &mut self,
        protocol: Protocol,
        ports: (u16, u16),
        to: IpAddr,
        content: Content,
        why: &str,
    ) {
        let rates = match protocol {
            Protocol::Tcp => self.rates,
            _ => self.rates.without_new(),
        };
        let name = self.name();
        let same = self.drafts.iter_mut().find(|draft| {
            draft.service == Some(self.service)
                && draft.name == name
                && (draft.protocol, draft.content) == (protocol, content)
                && draft.ports == [ports]
                && draft.why == why
                && draft.from == self.from
        });
        let wanted = (!to.is_unspecified()).then_some(to);
        match (same, wanted) {
            // No address means any already.
            (Some(draft), _) if draft.to.is_empty() => {}
            (Some(draft), None) => draft.to.clear(),
            (Some(draft), Some(address)) => {
                draft.to.push(address);
                draft.to.sort_unstable();
                draft.to.dedup();
            }
            (None, _) => self.drafts.push(Draft {
                name,
                zone: self.zone,
                protocol,
                ports: vec![ports],
                to: wanted.into_iter().collect(),
                from: self.from.clone(),
                drop: false,
                rates,
                content,
                federation: self.federation,
                remote: self.remote,
                service: Some(self.service),
                why: why.to_owned(),
                line: self.line,
            }),
        }
    }

    fn tcp(&mut self, listen: &[SocketAddr], why: &str) {
        for address in listen {
            let ports = (address.port(), address.port());
            self.open(Protocol::Tcp, ports, address.ip(), Content::Any, why);
        }
    }
}

/// The rules that the configured services imply.
pub(super) fn implied(config: &Config, drafts: &mut Vec<Draft>) {
    sip(config, drafts);
    let (external, internal) = (Zone::External, Zone::Internal);
    let services = &config.services;
    if let Some(service) = &services.web_conferencing {
        Side::new(drafts, Service::WebConferencing, external, service.rates, service.line)
            .tcp(&service.listen, "meeting data: PSOM over TLS");
        Side::new(drafts, Service::WebConferencing, internal, Rates::default(), service.line)
            .tcp(&service.inside, "conferencing servers dial out to it: PSOM over mutual TLS");
    }
    if let Some(av) = &services.av {
        av_outside(&mut Side::new(drafts, Service::Av, external, av.rates, av.line), av);
        av_inside(&mut Side::new(drafts, Service::Av, internal, Rates::default(), av.line), av);
    }
    if let Some(service) = &services.xmpp {
        let mut side = Side::new(drafts, Service::Xmpp, external, service.rates, service.line);
        side.federation = true;
        side.tcp(&service.listen, "XMPP federation: streams of other servers");
        let why = "XMPP federation: streams of other servers, TLS from the first byte";
        side.tcp(&service.direct_tls, why);
        Side::new(drafts, Service::Xmpp, internal, Rates::default(), service.line)
            .tcp(&service.inside, "our XMPP servers, over mutual TLS");
    }
    if let Some(service) = &services.remote {
        let mut side = Side::new(drafts, Service::Remote, external, service.rates, service.line);
        side.remote = true;
        side.tcp(&service.listen, "remote users' SIP over TLS");
    }
    if let Some(service) = &services.admin {
        let mut side = Side::new(drafts, Service::Admin, internal, service.rates, service.line);
        side.from = service.from.clone();
        side.tcp(&service.listen, "the web console");
        side.tcp(&service.metrics, "metrics");
    }
}

fn sip(config: &Config, drafts: &mut Vec<Draft>) {
    let access = &config.access;
    let mut side = Side::new(drafts, Service::Access, Zone::External, access.rates, access.line);
    side.federation = true;
    side.from.partners = access.partners_only;
    side.tcp(&access.listen, "federation: partners' SIP over mutual TLS");

    let inside = &config.inside;
    let mut side = Side::new(drafts, Service::Inside, Zone::Internal, inside.rates, inside.line);
    side.from = Sources::prefixes(inside_prefixes(config));
    for (transport, address) in &inside.listen {
        let ports = (address.port(), address.port());
        let (protocol, content, why) = match transport {
            Transport::Tls => (Protocol::Tcp, Content::Any, "our servers' SIP over mutual TLS"),
            Transport::Tcp => (Protocol::Tcp, Content::Sip, "our servers' SIP over TCP"),
            Transport::Udp => (Protocol::Udp, Content::Sip, "our servers' SIP over UDP"),
        };
        side.open(protocol, ports, address.ip(), content, why);
    }
}

fn av_outside(side: &mut Side<'_>, av: &AvService) {
    let one = |port| (port, port);
    // After SetActiveDestination media goes to the relay's own port as it is (MS-TURN), so not only
    // STUN and TURN may come there.
    for address in &av.listen {
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let candidates = "candidates and relay: STUN and TURN over UDP";
        side.open(udp, one(av.stun_port), *address, Content::Media, candidates);
        let candidates = "candidates and relay: STUN and TURN over TCP";
        side.open(tcp, one(av.tcp_port), *address, Content::Any, candidates);
        if av.legacy_partners {
            let media = "media of OCS 2007 partners, who send to the relay's own ports";
            side.open(udp, av.media_ports, *address, Content::Media, media);
            side.open(tcp, av.media_ports, *address, Content::Any, media);
        }
    }
}

fn av_inside(side: &mut Side<'_>, av: &AvService) {
    let one = |port| (port, port);
    for address in &av.inside {
        let udp = "our clients' preferred way to the relay: STUN and TURN over UDP";
        side.open(Protocol::Udp, one(av.stun_port), *address, Content::Media, udp);
        let tcp = "our clients' way to the relay where UDP is closed: STUN and TURN over TCP";
        side.open(Protocol::Tcp, one(av.tcp_port), *address, Content::Any, tcp);
        let credentials = "our servers ask for credentials for the relay, over mutual TLS";
        side.open(Protocol::Tcp, one(av.authentication_port), *address, Content::Any, credentials);
    }
}

/// The inside servers' prefixes when all are known by prefix; else none, which means any.
fn inside_prefixes(config: &Config) -> Vec<IpNet> {
    let prefixes: Option<Vec<IpNet>> = config
        .inside
        .servers
        .iter()
        .map(|server| match server {
            InsideServer::Prefix(prefix) => Some(*prefix),
            InsideServer::Name(_) => None,
        })
        .collect();
    prefixes.unwrap_or_default()
}

/// Every address a service listens on, with the side it is for.
pub(in crate::firewall) fn own_addresses(config: &Config) -> Vec<IpAddr> {
    let mut drafts = Vec::new();
    implied(config, &mut drafts);
    let mut own: Vec<IpAddr> = drafts.into_iter().flat_map(|draft| draft.to).collect();
    own.sort_unstable();
    own.dedup();
    own
}
