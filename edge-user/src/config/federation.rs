//! `[federation]`: switches, allowed and blocked domains.

use ipnet::IpNet;
use toml::Spanned;

use super::{
    conflicts::{self, Lists},
    findings::{Fault, Span, quoted},
    model::{AllowedDomain, BlockedDomain, Federation},
    peer_options, providers,
    reader::Section,
    sections::{Edge, no_duplicates},
    throttle, values,
};
use crate::{domain::Domain, sip::HeaderName};

/// Prefixes of one partner's `from_addresses`.
const MAX_FROM_ADDRESSES: usize = 64;

pub(super) fn federation(
    root: &Section<'_>,
    edge: &Edge,
    partners_only: Option<&Span>,
) -> Federation {
    let section = root.section("federation");
    let enabled = section.boolean("enabled", true);
    let discovery = section.boolean("discovery", false);
    if discovery && let Some(span) = partners_only {
        section.sink.error(
            span,
            "partners_only keeps those away whom discovery would find",
            "write partners_only = false or federation.discovery = false",
        );
    }
    let discovered = section.section("discovered");
    let discovered_options = peer_options::options(&discovered, false);
    if discovered.exists() && !discovery {
        section.sink.warn(
            &section.key_span("discovered"),
            "nothing is discovered, so this has no effect",
            "write discovery = true, or take it out",
        );
    }
    discovered.finish();
    let disclaimer = section.parsed("archiving_disclaimer", header_line);
    let mark_unverifiable = section.boolean("mark_unverifiable", false);
    let throttle = throttle::throttle(section.section("throttle"));
    let allow_addresses = section.parsed_list("allow_addresses", values::prefix);
    for net in &allow_addresses {
        check_allowed_addresses(&section, net);
    }
    no_duplicates(&section, &allow_addresses, "the prefix");
    let mut servers = Vec::new();
    let allowed: Vec<_> = section
        .tables("allowed_domain")
        .into_iter()
        .filter_map(|s| allowed_domain(s, edge, &mut servers))
        .collect();
    let blocked: Vec<_> =
        section.tables("blocked_domain").into_iter().filter_map(blocked_domain).collect();
    let providers = providers::providers(&section, edge);
    let lists = Lists {
        edge,
        allowed: &allowed,
        servers: &servers,
        blocked: &blocked,
        providers: &providers,
        discovery,
    };
    conflicts::check(section.sink, &lists);
    section.finish();
    Federation {
        enabled,
        allowed_domains: allowed.into_iter().map(Spanned::into_inner).collect(),
        blocked_domains: blocked.into_iter().map(Spanned::into_inner).collect(),
        allow_addresses: allow_addresses.into_iter().map(Spanned::into_inner).collect(),
        discovery,
        discovered: discovered_options,
        hosting_providers: providers.hosting,
        public_im_providers: providers.public_im,
        default_route: providers.default_route.map(|(_, route)| route),
        archiving_disclaimer: disclaimer.map(Spanned::into_inner),
        mark_unverifiable,
        throttle,
        ..Federation::default()
    }
}

/// `Name: value`, a header that no one else writes.
fn header_line(text: &str) -> Result<String, Fault> {
    let fault = |what: &str| {
        Fault::new(
            format!("{} is no header line: {what}", quoted(text)),
            "write \"ms-archiving: true\"",
        )
    };
    let (name, value) = text.split_once(':').ok_or_else(|| fault("there is no colon in it"))?;
    let (name, value) = (name.trim(), value.trim());
    let token = |b: u8| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(fault("before the colon stands no name"));
    }
    if HeaderName::from_token(name.as_bytes()) != HeaderName::Other {
        return Err(fault("the header means something else already"));
    }
    if value.is_empty() || text.len() > 200 || !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Err(fault("the value is empty, longer than 200 characters, or has odd ones"));
    }
    Ok(format!("{name}: {value}"))
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

fn allowed_domain(
    section: Section<'_>,
    edge: &Edge,
    servers: &mut Vec<(Spanned<Domain>, Domain)>,
) -> Option<Spanned<AllowedDomain>> {
    section.require("domain", "add domain = \"fabrikam.example\"");
    let domain = section.parsed("domain", values::domain);
    let proxy_fqdn = section.parsed("proxy_fqdn", values::domain);
    let port = section.port("port");
    let relax_srv_domain = section.boolean("relax_srv_domain", false);
    let allow_anonymous = section.boolean("allow_anonymous", false);
    let from_addresses = from_addresses(&section);
    let options = peer_options::options(&section, proxy_fqdn.is_some());
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
    servers.extend(proxy_fqdn.clone().map(|host| (host, domain.get_ref().clone())));
    Some(Spanned::new(
        domain.span(),
        AllowedDomain {
            domain: domain.into_inner(),
            proxy_fqdn: proxy_fqdn.map(Spanned::into_inner),
            port: port.map_or(5061, Spanned::into_inner),
            relax_srv_domain,
            allow_anonymous,
            from_addresses,
            options,
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
