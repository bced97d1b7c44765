//! `[xmpp]` and `[[xmpp.partner]]`: who may federate over XMPP, and how much.

use std::{sync::Arc, time::Duration};

use toml::Spanned;

use super::{
    findings::{Fault, Span, quoted},
    model::Federation,
    model_services::Services,
    model_xmpp::Xmpp,
    reader::Section,
    sections::{Edge, no_duplicates},
    values,
    xmpp_service::SERVER,
};
use crate::{
    domain::Domain,
    xmpp::settings::{Chats, Negotiation, XmppLimits, XmppPartner, XmppPartnerKind},
};

/// Partners of one configuration.
const MAX_PARTNERS: usize = 1000;
/// Domains of all of them.
const MAX_DOMAINS: usize = 20_000;

/// What stands around it, and must not contradict it.
pub(super) struct Around<'a> {
    pub edge: &'a Edge,
    pub federation: &'a Federation,
    pub services: &'a Services,
}

/// A partner with the places of its domains, the first its own.
struct Placed {
    partner: XmppPartner,
    domains: Vec<Spanned<Domain>>,
}

/// Reads `[xmpp]`.
pub(super) fn xmpp(root: &Section<'_>, around: &Around<'_>) -> Xmpp {
    let section = root.section("xmpp");
    let enabled = section.boolean("enabled", true);
    let chats = section.parsed("chats", chats).map(Spanned::into_inner).unwrap_or_default();
    let limits = limits(&section);
    let partners: Vec<Placed> =
        section.tables("partner").into_iter().filter_map(|s| partner(s, around.edge)).collect();
    no_contradiction(&section, &partners, around);
    let domains: usize = partners.iter().map(|partner| partner.domains.len()).sum();
    for (count, most, what) in
        [(partners.len(), MAX_PARTNERS, "XMPP partners"), (domains, MAX_DOMAINS, "their domains")]
    {
        if count > most {
            let message = format!("{count} are more than {most} ({what})");
            section.sink.error(&section.key_span("partner"), message, "take some out");
        }
    }
    if section.exists() {
        has_an_effect(&section, &partners, enabled, around);
    }
    section.finish();
    let partners = partners.into_iter().map(|placed| Arc::new(placed.partner)).collect();
    Xmpp { enabled, chats, partners, limits }
}

fn limits(section: &Section<'_>) -> XmppLimits {
    let default = XmppLimits::default();
    let number = |key, range, default: usize| {
        usize::try_from(section.number(key, range, default as u64)).unwrap_or(default)
    };
    let time = |key, from: u64, to: u64, default: Duration| {
        section.duration(key, Duration::from_secs(from)..=Duration::from_secs(to), default)
    };
    let limits = XmppLimits {
        connections: number("connections", 1..=1_000_000, default.connections),
        partner_connections: number(
            "partner_connections",
            1..=100_000,
            default.partner_connections,
        ),
        keep_alive: time("keep_alive", 10, 86_400, default.keep_alive),
        setup: time("setup", 5, 300, default.setup),
        idle: time("idle", 30, 86_400, default.idle),
        // RFC 6120 section 13.12: not below 10,000.
        stanza_bytes: number("stanza_bytes", 10_000..=16 << 20, default.stanza_bytes),
        first_bytes: number("first_bytes", 4096..=1 << 20, default.first_bytes),
        depth: number("depth", 8..=64, default.depth),
        attributes: number("attributes", 8..=1024, default.attributes),
        namespaces: number("namespaces", 8..=1024, default.namespaces),
        queue_bytes: number("queue_bytes", 10_000..=64 << 20, default.queue_bytes),
        bytes_per_second: number("bytes_per_second", 1000..=1 << 30, default.bytes_per_second),
        refresh: time("refresh", 60, 7 * 86_400, default.refresh),
    };
    if limits.partner_connections > limits.connections {
        section.sink.error(
            &section.key_span("partner_connections"),
            "one partner may have more streams than all together",
            "lower partner_connections or raise connections",
        );
    }
    limits
}

fn partner(section: Section<'_>, edge: &Edge) -> Option<Placed> {
    section.require("domain", "add domain = \"jabber.example\"");
    let domain = section.parsed("domain", values::domain);
    let additional = section.parsed_list("additional_domains", values::domain);
    no_duplicates(&section, &additional, "the domain");
    let kind = section.parsed("type", kind);
    let tls = section.parsed("tls", negotiation);
    let sasl = section.parsed("sasl", negotiation);
    let dialback = section.boolean("dialback", true);
    let keep_alive = section.boolean("keep_alive", true);
    let connections = section.integer("connections", 1..=100_000);
    let proxy = proxy(&section, edge);
    let wildcard = section.boolean("wildcard", false);
    let placed = domain.map(|domain| {
        let default = XmppPartner::new(domain.get_ref().clone());
        let taken = |value: Option<Spanned<Negotiation>>, default| {
            value.map_or(default, Spanned::into_inner)
        };
        let partner = XmppPartner {
            domain: default.domain,
            additional: additional.iter().map(|domain| domain.get_ref().clone()).collect(),
            kind: kind.map_or(default.kind, Spanned::into_inner),
            tls: taken(tls, default.tls),
            sasl: taken(sasl, default.sasl),
            dialback,
            keep_alive,
            connections: connections.and_then(|number| usize::try_from(*number.get_ref()).ok()),
            proxy,
            wildcard,
            line: u32::try_from(section.sink.line(&section.span)).unwrap_or(u32::MAX),
        };
        let domains = std::iter::once(domain).chain(additional).collect();
        Placed { partner, domains }
    });
    if let Some(placed) = &placed {
        can_be_proved(&section, &placed.partner);
    }
    section.finish();
    placed
}

fn proxy(section: &Section<'_>, edge: &Edge) -> Option<(Domain, u16)> {
    let host = section.parsed("proxy_fqdn", values::domain);
    let port = section.port("port");
    if let (None, Some(port)) = (&host, &port)
        && !section.has("proxy_fqdn")
    {
        section.sink.error(
            &port.span(),
            "a port without proxy_fqdn has no host to belong to (DNS SRV names the port)",
            "add proxy_fqdn, or take port out",
        );
    }
    let host = host?;
    if edge.fqdn.as_ref().is_some_and(|fqdn| fqdn.get_ref() == host.get_ref()) {
        section.sink.error(
            &host.span(),
            "proxy_fqdn is the name of this appliance itself",
            "name the partner's host",
        );
    }
    Some((host.into_inner(), port.map_or(SERVER, Spanned::into_inner)))
}

fn kind(text: &str) -> Result<XmppPartnerKind, Fault> {
    match text {
        "federated" => Ok(XmppPartnerKind::Federated),
        "public-verified" => Ok(XmppPartnerKind::PublicVerified),
        "public-unverified" => Ok(XmppPartnerKind::PublicUnverified),
        _ => Err(Fault::new(
            format!("{} is no type of XMPP partner", quoted(text)),
            "write \"federated\", \"public-verified\" or \"public-unverified\"",
        )),
    }
}

fn chats(text: &str) -> Result<Chats, Fault> {
    match text {
        "messages" => Ok(Chats::Messages),
        "sessions" => Ok(Chats::Sessions),
        _ => Err(Fault::new(
            format!("{} is no way for chat messages to go", quoted(text)),
            "write \"messages\", or \"sessions\" where the server inside knows no others",
        )),
    }
}

fn negotiation(text: &str) -> Result<Negotiation, Fault> {
    match text {
        "required" => Ok(Negotiation::Required),
        "optional" => Ok(Negotiation::Optional),
        "not-supported" => Ok(Negotiation::NotSupported),
        _ => Err(Fault::new(
            format!("{} says nothing about what is negotiated", quoted(text)),
            "write \"required\", \"optional\" or \"not-supported\"",
        )),
    }
}

/// Lync's matrix of TLS, SASL and dialback: some rows prove nobody, some prove little.
fn can_be_proved(section: &Section<'_>, partner: &XmppPartner) {
    let domain = &partner.domain;
    let no_sasl =
        partner.sasl == Negotiation::NotSupported || partner.tls == Negotiation::NotSupported;
    if no_sasl && !partner.dialback {
        let why = if partner.tls == Negotiation::NotSupported {
            "SASL EXTERNAL needs TLS, and dialback is off"
        } else {
            "SASL is not supported, and dialback is off"
        };
        section.sink.error(
            &section.span,
            format!("nothing can prove {domain}: {why}"),
            "write dialback = true, or tls = \"required\" and sasl = \"required\"",
        );
        return;
    }
    let message = match (partner.tls, partner.sasl, partner.dialback) {
        (Negotiation::Required, ..) => return,
        (Negotiation::NotSupported, Negotiation::NotSupported, _) => {
            format!("streams with {domain} are not encrypted, and only DNS says who it is")
        }
        (Negotiation::NotSupported, ..) => format!(
            "SASL EXTERNAL needs TLS, which {domain} is said not to support: only DNS says who it \
             is, unencrypted"
        ),
        (_, _, true) => format!(
            "whoever can change packets on the way can take TLS out of streams with {domain}, and \
             then only DNS says who it is"
        ),
        (_, _, false) => {
            format!("TLS is optional for {domain}, and without it no stream can be proved")
        }
    };
    let place = section.key_span("tls");
    section.sink.warn(&place, message, "write tls = \"required\", unless the partner cannot");
}

/// Each domain is one partner's, no SIP partner's, not ours and not blocked.
fn no_contradiction(section: &Section<'_>, partners: &[Placed], around: &Around<'_>) {
    let mut seen: std::collections::HashMap<&Domain, Span> = std::collections::HashMap::new();
    for item in partners.iter().flat_map(|placed| &placed.domains) {
        let domain = item.get_ref();
        if let Some(first) = seen.insert(domain, item.span()) {
            let line = section.sink.line(&first);
            section.sink.error(
                &item.span(),
                format!("{domain} is an XMPP partner's already in line {line}"),
                "take one out",
            );
        }
        if let Some((fault, mend)) = contradiction(domain, around) {
            section.sink.error(&item.span(), fault, mend);
        }
    }
}

fn contradiction(domain: &Domain, around: &Around<'_>) -> Option<(String, &'static str)> {
    let Around { edge, federation, services } = around;
    let of_server = services.xmpp.iter().flat_map(|service| &service.servers);
    let mut of_servers = of_server.flat_map(|server| &server.domains);
    let ours = edge.domains.iter().chain(&edge.fqdn).any(|ours| ours.get_ref() == domain)
        || of_servers.any(|ours| ours == domain);
    if ours {
        let fault = format!("{domain} is one of our own domains, and no partner");
        return Some((fault, "take it out here, or where it is ours"));
    }
    if federation.allowed_domains.iter().any(|entry| entry.domain == *domain) {
        let fault = format!("{domain} is an XMPP partner, and an allowed SIP domain too");
        return Some((fault, "a domain federates over one of the two: take one out"));
    }
    let provider = federation.providers().find(|provider| provider.domains.contains(domain));
    if let Some(provider) = provider {
        let name = provider.name;
        let fault = format!("{domain} is an XMPP partner, and a SIP domain of the provider {name}");
        return Some((fault, "a domain federates over one of the two: take one out"));
    }
    let block = federation.blocked_domains.iter().find(|block| match block.subdomains {
        true => domain.is_within(&block.domain),
        false => *domain == block.domain,
    })?;
    let fault = format!("{domain} is an XMPP partner, and blocked by {}", block.domain);
    Some((fault, "take one out, or set subdomains = false in the block"))
}

fn has_an_effect(section: &Section<'_>, partners: &[Placed], enabled: bool, around: &Around<'_>) {
    let warn = |message: &str, mend: &str| section.sink.warn(&section.span, message, mend);
    if around.services.xmpp.is_none() {
        warn(
            "there is no [service.xmpp], so nothing of [xmpp] has an effect",
            "add [service.xmpp] with listen = \"203.0.113.10\"",
        );
    } else if enabled && !partners.is_empty() {
        let gateway = around.services.xmpp.as_ref().is_some_and(|xmpp| !xmpp.domains.is_empty());
        if gateway && !around.federation.users.iter().any(|policy| policy.rights.xmpp) {
            warn(
                "no user may use XMPP, so the gateway serves nobody",
                "add [[user_policy]] with users and xmpp = true",
            );
        }
    }
}
