//! `[firewall]`: settings, floods, named sets, and blocks.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use toml::Spanned;

use super::{
    findings::{Fault, Span, quoted},
    firewall_rules,
    model::{Management, Zone},
    model_firewall::{Firewall, Flood, Line, NamedSet},
    model_services::Service,
    reader::Section,
    values,
};

/// Addresses that words in a rule's `to` stand for, and that a block should not hold.
#[derive(Default)]
pub(super) struct Known {
    pub addresses: Vec<(Service, Zone, IpAddr)>,
}

impl Known {
    /// A service's addresses in a zone; those it has at all when it has none there.
    pub fn of(&self, service: Service, zone: Option<Zone>) -> Vec<IpAddr> {
        let of = |zone: Option<Zone>| -> Vec<IpAddr> {
            let mine = self
                .addresses
                .iter()
                .filter(|(s, z, _)| *s == service && zone.is_none_or(|zone| *z == zone));
            mine.map(|(_, _, address)| *address).collect()
        };
        let there = of(zone);
        if there.is_empty() { of(None) } else { there }
    }
}

pub(super) fn firewall(
    section: Section<'_>,
    known: &Known,
    management: Option<&Management>,
    sets: Vec<NamedSet>,
) -> Firewall {
    let number = |key, range, default: u32| {
        u32::try_from(section.number(key, range, u64::from(default))).unwrap_or(u32::MAX)
    };
    let default = Firewall::default();
    let firewall = Firewall {
        monitor: section.boolean("monitor", false),
        allow_generic: section.boolean("allow_generic", false),
        lldp: section.boolean("lldp", false),
        lacp: section.boolean("lacp", false),
        dhcp_client: section.boolean("dhcp_client", false),
        events_per_second: number("events_per_second", 0..=10_000, default.events_per_second),
        event_bytes: number("event_bytes", 0..=160, default.event_bytes),
        max_blocked_addresses: number(
            "max_blocked_addresses",
            1024..=16_000_000,
            default.max_blocked_addresses,
        ),
        max_blocked_prefixes: number(
            "max_blocked_prefixes",
            1024..=16_000_000,
            default.max_blocked_prefixes,
        ),
        flood: flood(&section),
        rules: firewall_rules::rules(&section, known, &sets),
        sets,
        blocks: blocks(&section, known, management),
    };
    if firewall.monitor {
        section.sink.warn(
            &section.key_span("monitor"),
            "the firewall only counts and drops nothing",
            "write monitor = false when the counters look right",
        );
    }
    section.finish();
    firewall
}

/// Beyond this, the kernel's clock could not tell one rate from another.
const MAX_CEILING: u64 = 1_000_000_000;

fn flood(firewall: &Section<'_>) -> Flood {
    let section = firewall.section("flood");
    let default = Flood::default();
    let above =
        section.number("syn_cookies_above", 0..=100_000_000, u64::from(default.syn_cookies_above));
    let ceiling = |key, default| section.number(key, 0..=MAX_CEILING, default);
    let flood = Flood {
        syn_cookies_above: u32::try_from(above).unwrap_or(u32::MAX),
        external_packets_per_second: ceiling(
            "external_packets_per_second",
            default.external_packets_per_second,
        ),
        internal_packets_per_second: ceiling(
            "internal_packets_per_second",
            default.internal_packets_per_second,
        ),
    };
    section.finish();
    flood
}

/// Words that `from` knows already.
const SOURCE_WORDS: &[&str] = &["any", "partners"];

/// `[[firewall.set]]`.
pub(super) fn sets(firewall: &Section<'_>) -> Vec<NamedSet> {
    let mut places: HashMap<String, Span> = HashMap::new();
    let mut sets = Vec::new();
    for section in firewall.tables("set") {
        section.require("name", "add name = \"branches\"");
        section.require("prefixes", "add prefixes = [\"198.51.100.0/24\"]");
        let name = section.parsed("name", set_name);
        let prefixes = section.parsed_list("prefixes", values::prefix);
        super::sections::no_duplicates(&section, &prefixes, "the prefix");
        if section.is_empty("prefixes") {
            section.sink.error(
                &section.key_span("prefixes"),
                "firewall.set.prefixes is empty",
                "name at least one prefix, or take the set out",
            );
        }
        let sink = section.sink;
        section.finish();
        let Some(name) = name else { continue };
        if let Some(first) = places.insert(name.get_ref().clone(), name.span()) {
            let line = sink.line(&first);
            let message = format!("a set {} stands already in line {line}", quoted(name.get_ref()));
            sink.error(&name.span(), message, "give it another name");
        }
        let line = Line(sink.line(&name.span()));
        let prefixes = prefixes.into_iter().map(Spanned::into_inner).collect();
        sets.push(NamedSet { name: name.into_inner(), prefixes, line });
    }
    sets
}

fn set_name(text: &str) -> Result<String, Fault> {
    if SOURCE_WORDS.contains(&text) {
        return Err(Fault::new(
            format!("{} has a meaning of its own", quoted(text)),
            "give the set another name",
        ));
    }
    // So that no set can be taken for an address.
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(Fault::new(
            format!("{} is no name for a set", quoted(text)),
            "use 1 to 48 small letters, digits and hyphens; the first is a letter",
        ));
    }
    firewall_rules::name(text, "a set")
}

fn blocks(section: &Section<'_>, known: &Known, management: Option<&Management>) -> Vec<IpNet> {
    let mut seen = HashSet::new();
    let mut blocks = Vec::new();
    for section in section.tables("block") {
        section.require("prefix", "add prefix = \"198.51.100.0/24\"");
        if let Some(net) = section.parsed("prefix", values::prefix) {
            check_block(&section, &net, known, management);
            if !seen.insert(*net.get_ref()) {
                let message = format!("{} is blocked twice", net.get_ref());
                section.sink.error(&net.span(), message, "take one out");
            }
            blocks.push(net.into_inner());
        }
        section.finish();
    }
    blocks
}

fn check_block(
    section: &Section<'_>,
    net: &Spanned<IpNet>,
    known: &Known,
    management: Option<&Management>,
) {
    let block = net.get_ref();
    if values::is_everything(block) {
        section.sink.error(
            &net.span(),
            format!("{block} blocks everybody"),
            "name the prefixes to block; what no rule lets in is dropped anyway",
        );
        return;
    }
    if let Some((_, _, own)) = known.addresses.iter().find(|(_, _, a)| block.contains(a)) {
        section.sink.warn(
            &net.span(),
            format!("the block {block} holds our own address {own}"),
            "block a smaller prefix",
        );
    }
    let managed = management.iter().flat_map(|m| &m.from);
    if let Some(from) = managed.into_iter().find(|m| block.contains(*m) || m.contains(block)) {
        section.sink.error(
            &net.span(),
            format!("the block {block} overlaps the management prefix {from}"),
            "take it out: who manages the appliance is not blocked",
        );
    }
}
