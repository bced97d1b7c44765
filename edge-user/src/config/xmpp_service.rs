//! `[service.xmpp]`: listeners, files, and whose domains it serves.

use std::{collections::HashMap, net::SocketAddr};

use toml::Spanned;

use super::{
    findings::{Fault, Span, quoted},
    listeners::Listener,
    model::Zone,
    model_firewall::Line,
    model_services::Service,
    model_xmpp::{XmppServer, XmppService},
    more_services::{Around, external, internal_sockets},
    rates,
    reader::Section,
    sections::{Edge, no_duplicates},
    services::{Files, file},
    values,
};
use crate::domain::Domain;

/// The port of streams between servers (RFC 6120 section 14.7).
pub(super) const SERVER: u16 = 5269;
/// The usual port of those with TLS from the first byte.
const DIRECT_TLS: u16 = 5270;
/// Lync's port for the gateway inside.
const INSIDE: u16 = 23_456;

/// Files that are to be checked: whether they are the service's own, and the domains for which
/// partners will ask the certificate.
pub(super) struct ToCheck {
    pub files: Files,
    pub own: bool,
    pub domains: Vec<Domain>,
}

/// The service; `None` when there are no files for it, which is told elsewhere.
pub(super) fn xmpp(
    section: Section<'_>,
    around: &Around<'_>,
    listeners: &mut Vec<Listener>,
) -> Option<(XmppService, ToCheck)> {
    let listen = external(&section, Service::Xmpp, SERVER, listeners);
    let direct_tls = direct_tls(&section, listeners);
    let inside = internal_sockets(&section, Service::Xmpp, INSIDE, around, listeners);
    let servers = servers(&section, around.edge);
    let domains = domains(&section, around.edge, &servers);
    if !servers.is_empty() && inside.is_empty() {
        section.sink.error(
            &section.span,
            "XMPP servers inside have no listener to connect to",
            "add inside = \"10.0.0.10\"",
        );
    }
    let rates = rates::rates(&section, true);
    let line = Line(section.sink.line(&section.span));
    let files = files(&section, around);
    section.finish();
    let (files, own) = files?;
    let service = XmppService {
        listen,
        direct_tls,
        inside,
        tls: files.plain(),
        domains,
        servers,
        rates,
        line,
    };
    let of_servers = service.servers.iter().flat_map(|server| &server.domains);
    let domains = service.domains.iter().chain(of_servers).cloned().collect();
    Some((service, ToCheck { files, own, domains }))
}

fn direct_tls(section: &Section<'_>, listeners: &mut Vec<Listener>) -> Vec<SocketAddr> {
    let listen = section.parsed_list("direct_tls", |text| values::listen(text, DIRECT_TLS));
    listeners.extend(listen.iter().map(|l| Listener::tcp(Service::Xmpp, Zone::External, l)));
    listen.into_iter().map(Spanned::into_inner).collect()
}

/// Certificate and key come together; what is not given is the access service's.
fn files(section: &Section<'_>, around: &Around<'_>) -> Option<(Files, bool)> {
    let certificate = file(section, around.base, "certificate");
    let key = file(section, around.base, "key");
    let trust = file(section, around.base, "trust");
    for (missing, given) in [("key", "certificate"), ("certificate", "key")] {
        if section.has(given) && !section.has(missing) {
            section.sink.error(
                &section.key_span(given),
                format!("service.xmpp.{given} is given without service.xmpp.{missing}"),
                "give both, or neither: then the certificate of [service.access] is shown",
            );
        }
    }
    let shared = around.access.files.as_ref()?;
    let own = certificate.is_some() || key.is_some() || trust.is_some();
    let files = Files {
        certificate: certificate.unwrap_or_else(|| shared.certificate.clone()),
        key: key.unwrap_or_else(|| shared.key.clone()),
        trust: trust.unwrap_or_else(|| shared.trust.clone()),
    };
    Some((files, own))
}

/// The gateway's domains: those named, else all of ours, without those of servers inside.
fn domains(section: &Section<'_>, edge: &Edge, servers: &[XmppServer]) -> Vec<Domain> {
    let of_server = |domain: &Domain| servers.iter().any(|s| s.domains.contains(domain));
    let named = section.parsed_list("domains", values::domain);
    no_duplicates(section, &named, "the domain");
    for domain in &named {
        if of_server(domain.get_ref()) {
            section.sink.error(
                &domain.span(),
                format!("{} is the gateway's here, and a server's below", domain.get_ref()),
                "take one out",
            );
        } else if !edge.domains.iter().any(|ours| ours.get_ref() == domain.get_ref()) {
            section.sink.error(
                &domain.span(),
                format!("{} is none of edge.domains, so it has no SIP users", domain.get_ref()),
                "add it there, or give it a [[service.xmpp.server]]",
            );
        }
    }
    if section.has("domains") {
        return named.into_iter().map(Spanned::into_inner).collect();
    }
    let ours = edge.domains.iter().map(|domain| domain.get_ref().clone());
    ours.filter(|domain| !of_server(domain)).collect()
}

fn servers(section: &Section<'_>, edge: &Edge) -> Vec<XmppServer> {
    let mut seen: HashMap<Domain, Span> = HashMap::new();
    let mut servers = Vec::new();
    for section in section.tables("server") {
        section.require("domains", "add domains = [\"chat.contoso.example\"]");
        section.require("next_hop", "add next_hop = \"xmpp.contoso.example:5269\"");
        let domains = section.parsed_list("domains", values::domain);
        if section.is_empty("domains") {
            section.sink.error(
                &section.key_span("domains"),
                "this server is for no domain",
                "name its domains, or take it out",
            );
        }
        for domain in &domains {
            if let Some(first) = seen.insert(domain.get_ref().clone(), domain.span()) {
                let line = section.sink.line(&first);
                section.sink.error(
                    &domain.span(),
                    format!("{} has a server already in line {line}", domain.get_ref()),
                    "leave it with one of them",
                );
            }
        }
        let next_hop = section.parsed("next_hop", next_hop);
        if let Some(hop) = &next_hop
            && edge.fqdn.as_ref().is_some_and(|fqdn| *fqdn.get_ref() == hop.get_ref().0)
        {
            section.sink.error(
                &hop.span(),
                "this next hop is this appliance itself",
                "name the organisation's own server",
            );
        }
        section.finish();
        let domains: Vec<Domain> = domains.into_iter().map(Spanned::into_inner).collect();
        servers.extend(next_hop.map(|hop| XmppServer { domains, next_hop: hop.into_inner() }));
    }
    servers
}

/// `host` or `host:port`.
fn next_hop(text: &str) -> Result<(Domain, u16), Fault> {
    let (host, port) = match text.split_once(':') {
        None => (text, SERVER),
        Some((host, port)) => match port.parse::<u16>() {
            Ok(port) if port > 0 => (host, port),
            _ => {
                return Err(Fault::new(
                    format!("{} is no next hop", quoted(text)),
                    "write \"xmpp.contoso.example:5269\"",
                ));
            }
        },
    };
    Ok((values::domain(host)?, port))
}
