//! What two entries of `[federation]` must not both say: no name in two places, no domain with two
//! partners, nothing allowed and blocked. Found before anything changes.

use std::collections::HashMap;

use toml::Spanned;

use super::{
    findings::{Sink, Span},
    model::{AllowedDomain, BlockedDomain},
    providers::{Provider, Providers},
    sections::Edge,
};
use crate::domain::Domain;

/// Everything that `[federation]` lists, with places.
pub(super) struct Lists<'a> {
    pub edge: &'a Edge,
    pub allowed: &'a [Spanned<AllowedDomain>],
    /// The pinned host of each allowed server: where it stands, and whose it is.
    pub servers: &'a [(Spanned<Domain>, Domain)],
    pub blocked: &'a [Spanned<BlockedDomain>],
    pub providers: &'a Providers,
    pub discovery: bool,
}

/// The name itself, then each name above it.
fn upwards(domain: &Domain) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(domain.as_str()), |name| name.split_once('.').map(|(_, up)| up))
}

/// Blocked domains by name.
struct Blocks<'a>(HashMap<&'a str, (&'a BlockedDomain, Span)>);

impl<'a> Blocks<'a> {
    fn new(sink: &Sink<'_>, blocked: &'a [Spanned<BlockedDomain>]) -> Self {
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
        Self(blocks)
    }

    fn covering(&self, domain: &Domain) -> Option<&(&'a BlockedDomain, Span)> {
        upwards(domain)
            .filter_map(|name| self.0.get(name))
            .find(|(block, _)| block.subdomains || block.domain == *domain)
    }
}

pub(super) fn check(sink: &Sink<'_>, lists: &Lists<'_>) {
    let blocks = Blocks::new(sink, lists.blocked);
    for ours in lists.edge.domains.iter().chain(&lists.edge.fqdn) {
        if let Some((block, span)) = blocks.covering(ours.get_ref()) {
            sink.error(
                span,
                format!("the block of {} covers our own {}", block.domain, ours.get_ref()),
                "take it out, or set subdomains = false",
            );
        }
    }
    check_allowed(sink, lists, &blocks);
    for item in lists.blocked {
        let domain = &item.get_ref().domain;
        let mut above = upwards(domain).skip(1).filter_map(|name| blocks.0.get(name));
        if let Some((block, _)) = above.find(|(block, _)| block.subdomains) {
            sink.warn(
                &item.span(),
                format!("{domain} is blocked already by {} and its subdomains", block.domain),
                "take it out",
            );
        }
    }
    check_hosts(sink, lists, &blocks);
    check_names(sink, lists);
    check_domains(sink, lists, &blocks);
    check_default_route(sink, lists);
}

fn check_allowed(sink: &Sink<'_>, lists: &Lists<'_>, blocks: &Blocks<'_>) {
    let mut seen: HashMap<&Domain, Span> = HashMap::new();
    for item in lists.allowed {
        let domain = &item.get_ref().domain;
        if let Some(first) = seen.insert(domain, item.span()) {
            let line = sink.line(&first);
            let message = format!("{domain} is already allowed in line {line}");
            sink.error(&item.span(), message, "take one out");
        }
        if is_ours(lists, domain) {
            sink.error(
                &item.span(),
                format!("{domain} is one of our own domains, and no partner"),
                "take it out here or in edge.domains",
            );
        }
        check_blocked(sink, blocks, item.span(), domain, "allowed");
    }
}

fn is_ours(lists: &Lists<'_>, domain: &Domain) -> bool {
    lists.edge.domains.iter().any(|ours| ours.get_ref() == domain)
}

fn check_blocked(sink: &Sink<'_>, blocks: &Blocks<'_>, span: Span, domain: &Domain, what: &str) {
    if let Some((block, at)) = blocks.covering(domain) {
        let line = sink.line(at);
        sink.error(
            &span,
            format!("{domain} is {what}, and blocked by {} in line {line}", block.domain),
            "take one out, or set subdomains = false in the block",
        );
    }
}

/// A provider's host is one provider's, and no allowed server's: its certificate would prove two
/// kinds of partner.
fn check_hosts(sink: &Sink<'_>, lists: &Lists<'_>, blocks: &Blocks<'_>) {
    let servers: HashMap<&Domain, &(Spanned<Domain>, Domain)> =
        lists.servers.iter().rev().map(|server| (server.0.get_ref(), server)).collect();
    let route = lists.providers.default_route.iter().map(|(host, _)| (host, "the default route"));
    let hosts = lists.providers.all.iter().map(|provider| (&provider.host, "a provider"));
    let mut seen: HashMap<&Domain, Span> = HashMap::new();
    for (host, what) in hosts.chain(route) {
        let name = host.get_ref();
        check_blocked(sink, blocks, host.span(), name, &format!("{what}'s host"));
        if let Some((at, domain)) = servers.get(name) {
            let line = sink.line(&at.span());
            sink.error(
                &host.span(),
                format!(
                    "{name} is {what}'s host, and in line {line} the allowed server of {domain}"
                ),
                "take proxy_fqdn out of the allowed domain, or the other",
            );
        }
        if let Some(first) = seen.insert(name, host.span()) {
            let line = sink.line(&first);
            sink.error(
                &host.span(),
                format!("{name} is already a provider's host in line {line}"),
                "one host is one provider: join the two, or correct one",
            );
        }
    }
}

/// Names by which partners are asked about.
fn check_names(sink: &Sink<'_>, lists: &Lists<'_>) {
    let mut names: HashMap<String, Span> = lists
        .allowed
        .iter()
        .map(|item| (item.get_ref().domain.as_str().to_owned(), item.span()))
        .collect();
    for provider in &lists.providers.all {
        let name = provider.name.get_ref().to_ascii_lowercase();
        if let Some(first) = names.insert(name, provider.name.span()) {
            let line = sink.line(&first);
            sink.error(
                &provider.name.span(),
                format!("{} is already a partner's name in line {line}", provider.name.get_ref()),
                "give each partner a name of its own",
            );
        }
    }
}

/// A domain belongs to one partner.
fn check_domains(sink: &Sink<'_>, lists: &Lists<'_>, blocks: &Blocks<'_>) {
    let allowed: HashMap<&Domain, &Spanned<AllowedDomain>> =
        lists.allowed.iter().map(|item| (&item.get_ref().domain, item)).collect();
    let mut seen: HashMap<&Domain, (Span, &Provider)> = HashMap::new();
    for provider in &lists.providers.all {
        let whose = format!("the provider {}'s", provider.name.get_ref());
        for item in &provider.domains {
            let domain = item.get_ref();
            check_blocked(sink, blocks, item.span(), domain, &whose);
            if is_ours(lists, domain) {
                sink.error(
                    &item.span(),
                    format!("{domain} is one of our own domains"),
                    "take it out; shared_address_space = true is for users of ours there",
                );
            }
            let entry = allowed.get(domain);
            if let Some(entry) = entry.filter(|entry| entry.get_ref().proxy_fqdn.is_some()) {
                let line = sink.line(&entry.span());
                sink.error(
                    &item.span(),
                    format!("{domain} is {whose}, and in line {line} an allowed server's"),
                    "take one out",
                );
            }
            if provider.hosting && entry.is_none() && !lists.discovery {
                sink.warn(
                    &item.span(),
                    format!("{domain} is not allowed, so the provider does not carry it"),
                    "add it as [[federation.allowed_domain]], or turn discovery on",
                );
            }
            if let Some((first, other)) = seen.insert(domain, (item.span(), provider))
                && !std::ptr::eq(other, provider)
            {
                let line = sink.line(&first);
                let name = other.name.get_ref();
                sink.error(
                    &item.span(),
                    format!("{domain} is {whose}, and in line {line} that of {name}"),
                    "take one out",
                );
            }
        }
    }
    let mut shared: Option<&Provider> = None;
    for provider in lists.providers.all.iter().filter(|provider| provider.enabled) {
        let Some(span) = &provider.shared else { continue };
        if let Some(first) = shared {
            let name = first.name.get_ref();
            sink.error(
                span,
                format!("the provider {name} has our address space already"),
                "one provider alone can share it: take one out",
            );
        }
        shared.get_or_insert(provider);
    }
}

fn check_default_route(sink: &Sink<'_>, lists: &Lists<'_>) {
    let Some((host, _)) = &lists.providers.default_route else { return };
    if let Some(provider) = lists.providers.all.first() {
        let line = sink.line(&provider.name.span());
        sink.error(
            &host.span(),
            format!(
                "there is a default route, and in line {line} the provider {}",
                provider.name.get_ref()
            ),
            "a clearing house and providers exclude each other: take one of the two out",
        );
    }
    if lists.discovery {
        sink.warn(
            &host.span(),
            "nothing is discovered while the default route carries every domain without an entry",
            "write discovery = false",
        );
    }
}
