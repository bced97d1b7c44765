//! `[federation]`: allowed and blocked domains, and that no name is in two places.

use std::collections::HashMap;

use ipnet::IpNet;
use toml::Spanned;

use super::{
    findings::Span,
    model::{AllowedDomain, BlockedDomain, Federation},
    model_federation::PeerOptions,
    reader::Section,
    sections::{Edge, no_duplicates},
    values,
};
use crate::domain::Domain;

/// Prefixes of one partner's `from_addresses`.
const MAX_FROM_ADDRESSES: usize = 64;

pub(super) fn federation(
    root: &Section<'_>,
    edge: &Edge,
    partners_only: Option<&Span>,
) -> Federation {
    let section = root.section("federation");
    let enabled = section.boolean("enabled", true);
    if section.boolean("discovery", false) {
        section.sink.error(
            &section.key_span("discovery"),
            "federation.discovery is not available yet",
            "write discovery = false, and name partners as [[federation.allowed_domain]]",
        );
        if let Some(span) = partners_only {
            section.sink.error(
                span,
                "partners_only keeps those away whom discovery would find",
                "write partners_only = false or federation.discovery = false",
            );
        }
    }
    let allow_addresses = section.parsed_list("allow_addresses", values::prefix);
    for net in &allow_addresses {
        check_allowed_addresses(&section, net);
    }
    no_duplicates(&section, &allow_addresses, "the prefix");
    let allowed: Vec<_> = section
        .tables("allowed_domain")
        .into_iter()
        .filter_map(|s| allowed_domain(s, edge))
        .collect();
    let blocked: Vec<_> =
        section.tables("blocked_domain").into_iter().filter_map(blocked_domain).collect();
    section.not_yet("hosting_provider");
    section.not_yet("public_im_provider");
    check_names(&section, edge, &allowed, &blocked);
    section.finish();
    Federation {
        enabled,
        allowed_domains: allowed.into_iter().map(Spanned::into_inner).collect(),
        blocked_domains: blocked.into_iter().map(Spanned::into_inner).collect(),
        allow_addresses: allow_addresses.into_iter().map(Spanned::into_inner).collect(),
        ..Federation::default()
    }
}

fn check_allowed_addresses(section: &Section<'_>, net: &Spanned<IpNet>) {
    if values::is_everything(net.get_ref()) {
        section.sink.error(
            &net.span(),
            format!("{} lets names from outside lead anywhere", net.get_ref()),
            "name the prefixes of the partners behind private links only",
        );
    } else {
        check_no_loopback(section, net);
    }
}

fn check_no_loopback(section: &Section<'_>, net: &Spanned<IpNet>) {
    if holds_loopback(net.get_ref()) {
        section.sink.error(
            &net.span(),
            format!("{} holds loopback, where no partner is", net.get_ref()),
            "take it out",
        );
    }
}

fn holds_loopback(net: &IpNet) -> bool {
    let loopback: [IpNet; 2] = [
        IpNet::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128),
    ];
    loopback.iter().any(|l| l.contains(net) || net.contains(l))
}

/// Whether these may be a partner's `from_addresses`; if not, why, with the mend. The file is
/// judged by the same, place by place.
pub fn check_from_addresses(prefixes: &[IpNet]) -> Result<(), String> {
    for net in prefixes {
        if values::is_everything(net) {
            return Err(format!("{net} {MAKES_EVERYBODY}; {NAME_ITS_PREFIXES}"));
        }
        if holds_loopback(net) {
            return Err(format!("{net} holds loopback, where no partner is; take it out"));
        }
    }
    if prefixes.len() > MAX_FROM_ADDRESSES {
        return Err(format!("{}; join them into wider ones", too_many_from_addresses()));
    }
    Ok(())
}

const MAKES_EVERYBODY: &str = "makes everybody this partner";
const NAME_ITS_PREFIXES: &str = "name the prefixes that the partner sends from";

fn too_many_from_addresses() -> String {
    format!("more than {MAX_FROM_ADDRESSES} prefixes for one partner")
}

fn allowed_domain(section: Section<'_>, edge: &Edge) -> Option<Spanned<AllowedDomain>> {
    section.require("domain", "add domain = \"fabrikam.example\"");
    let domain = section.parsed("domain", values::domain);
    let proxy_fqdn = section.parsed("proxy_fqdn", values::domain);
    let port = section.port("port");
    let relax_srv_domain = section.boolean("relax_srv_domain", false);
    let allow_anonymous = section.boolean("allow_anonymous", false);
    let from_addresses = from_addresses(&section);
    section.not_yet("modalities");
    match (&proxy_fqdn, &port) {
        (None, Some(port)) => section.sink.error(
            &port.span(),
            "a port without proxy_fqdn has no host to belong to (DNS SRV names the port)",
            "add proxy_fqdn, or take port out",
        ),
        (Some(proxy), _) if relax_srv_domain => section.sink.error(
            &proxy.span(),
            "relax_srv_domain has no meaning with proxy_fqdn, which asks for no SRV record",
            "take one of the two out",
        ),
        _ => {}
    }
    if let (Some(proxy), Some(fqdn)) = (&proxy_fqdn, &edge.fqdn)
        && proxy.get_ref() == fqdn.get_ref()
    {
        section.sink.error(
            &proxy.span(),
            "proxy_fqdn is the name of this appliance itself",
            "name the partner's host",
        );
    }
    section.finish();
    let domain = domain?;
    Some(Spanned::new(
        domain.span(),
        AllowedDomain {
            domain: domain.into_inner(),
            proxy_fqdn: proxy_fqdn.map(Spanned::into_inner),
            port: port.map_or(5061, Spanned::into_inner),
            relax_srv_domain,
            allow_anonymous,
            from_addresses,
            options: PeerOptions::default(),
        },
    ))
}

/// Where a partner sends from: the administrator says so, and knows that a partner is no bigger
/// than this.
fn from_addresses(section: &Section<'_>) -> Vec<IpNet> {
    let prefixes = section.parsed_list("from_addresses", values::prefix);
    no_duplicates(section, &prefixes, "the prefix");
    for net in &prefixes {
        if values::is_everything(net.get_ref()) {
            section.sink.error(
                &net.span(),
                format!("{} {MAKES_EVERYBODY}", net.get_ref()),
                NAME_ITS_PREFIXES,
            );
        } else {
            check_no_loopback(section, net);
        }
    }
    if prefixes.len() > MAX_FROM_ADDRESSES {
        section.sink.error(
            &section.key_span("from_addresses"),
            too_many_from_addresses(),
            "join them into wider ones",
        );
    }
    prefixes.into_iter().map(Spanned::into_inner).collect()
}

fn blocked_domain(section: Section<'_>) -> Option<Spanned<BlockedDomain>> {
    section.require("domain", "add domain = \"bad.example\"");
    let domain = section.parsed("domain", values::domain);
    let subdomains = section.boolean("subdomains", true);
    section.finish();
    let domain = domain?;
    Some(Spanned::new(domain.span(), BlockedDomain { domain: domain.into_inner(), subdomains }))
}

/// The name itself, then each name above it.
fn upwards(domain: &Domain) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(domain.as_str()), |name| name.split_once('.').map(|(_, up)| up))
}

fn check_names(
    section: &Section<'_>,
    edge: &Edge,
    allowed: &[Spanned<AllowedDomain>],
    blocked: &[Spanned<BlockedDomain>],
) {
    let sink = section.sink;
    let mut blocks: HashMap<&str, (&BlockedDomain, Span)> = HashMap::new();
    for item in blocked {
        let entry = item.get_ref();
        let name = entry.domain.as_str();
        if let Some((_, first)) = blocks.insert(name, (entry, item.span())) {
            let line = sink.line(&first);
            let message = format!("{name} is already blocked in line {line}");
            sink.error(&item.span(), message, "take one out");
        }
    }
    let covering = |domain: &Domain| {
        upwards(domain)
            .filter_map(|name| blocks.get(name))
            .find(|(block, _)| block.subdomains || block.domain == *domain)
    };
    for ours in edge.domains.iter().chain(&edge.fqdn) {
        if let Some((block, span)) = covering(ours.get_ref()) {
            sink.error(
                span,
                format!("the block of {} covers our own {}", block.domain, ours.get_ref()),
                "take it out, or set subdomains = false",
            );
        }
    }
    let mut seen: HashMap<&Domain, Span> = HashMap::new();
    for item in allowed {
        let domain = &item.get_ref().domain;
        if let Some(first) = seen.insert(domain, item.span()) {
            let line = sink.line(&first);
            let message = format!("{domain} is already allowed in line {line}");
            sink.error(&item.span(), message, "take one out");
        }
        if edge.domains.iter().any(|ours| ours.get_ref() == domain) {
            sink.error(
                &item.span(),
                format!("{domain} is one of our own domains, and no partner"),
                "take it out here or in edge.domains",
            );
        }
        if let Some((block, span)) = covering(domain) {
            let line = sink.line(span);
            sink.error(
                &item.span(),
                format!("{domain} is allowed, and blocked by {} in line {line}", block.domain),
                "take one out, or set subdomains = false in the block",
            );
        }
    }
    for item in blocked {
        let domain = &item.get_ref().domain;
        let mut above = upwards(domain).skip(1).filter_map(|name| blocks.get(name));
        if let Some((block, _)) = above.find(|(block, _)| block.subdomains) {
            sink.warn(
                &item.span(),
                format!("{domain} is blocked already by {} and its subdomains", block.domain),
                "take it out",
            );
        }
    }
}
