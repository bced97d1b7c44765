//! `[firewall]`: settings, the administrator's own rules, and blocks.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use toml::Spanned;

use super::{
    findings::{Fault, Span, quoted},
    model::{Firewall, FirewallRule, Management, Protocol},
    reader::Section,
    values,
};
use crate::firewall::plan;

/// Addresses that words in a rule's `to` stand for, and that a block should not hold.
pub(super) struct Known {
    pub access: Vec<IpAddr>,
    pub inside: Vec<IpAddr>,
}

pub(super) fn firewall(
    root: &Section<'_>,
    known: &Known,
    management: Option<&Management>,
) -> Firewall {
    let section = root.section("firewall");
    let number = |key, range, default| {
        u32::try_from(section.number(key, range, default)).unwrap_or(u32::MAX)
    };
    let firewall = Firewall {
        monitor: section.boolean("monitor", false),
        allow_generic: section.boolean("allow_generic", false),
        lldp: section.boolean("lldp", false),
        lacp: section.boolean("lacp", false),
        dhcp_client: section.boolean("dhcp_client", false),
        events_per_second: number("events_per_second", 0..=10_000, 10),
        max_blocked_addresses: number("max_blocked_addresses", 1024..=16_000_000, 131_072),
        max_blocked_prefixes: number("max_blocked_prefixes", 1024..=16_000_000, 131_072),
        rules: rules(&section, known),
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

fn rules(section: &Section<'_>, known: &Known) -> Vec<FirewallRule> {
    let mut names: HashMap<String, Span> = HashMap::new();
    let mut rules = Vec::new();
    for section in section.tables("rule") {
        let Some((name, rule)) = rule(section, known) else { continue };
        if let Some(first) = names.insert(rule.name.clone(), name.span()) {
            let sink = name.get_ref();
            sink.error(
                &name.span(),
                format!(
                    "a rule {} stands already in line {}",
                    quoted(&rule.name),
                    sink.line(&first)
                ),
                "give it another name",
            );
        }
        rules.push(rule);
    }
    rules
}

type Named<'a> = (Spanned<&'a super::findings::Sink<'a>>, FirewallRule);

fn rule<'a>(section: Section<'a>, known: &Known) -> Option<Named<'a>> {
    section.require("name", "add name = \"sip-extra\"");
    section.require("zone", "add zone = \"external\" or \"internal\"");
    section.require("protocol", "add protocol = \"tcp\"");
    let name = section.parsed("name", rule_name);
    let zone = section.parsed("zone", values::zone);
    let protocol = protocol(&section);
    let ports = ports(&section, protocol.as_ref());
    let to = destinations(&section, known);
    let from = sources(&section);
    let drop = section.parsed("action", |text| match text {
        "pass" => Ok(false),
        "drop" => Ok(true),
        _ => {
            Err(Fault::new(format!("{} is no action", quoted(text)), "write \"pass\" or \"drop\""))
        }
    });
    section.not_yet("new_per_second_per_source");
    let sink = section.sink;
    section.finish();
    let name = name?;
    let place = Spanned::new(name.span(), sink);
    let rule = FirewallRule {
        name: name.into_inner(),
        zone: zone?.into_inner(),
        protocol: protocol?.into_inner(),
        ports,
        to,
        from,
        drop: drop.is_some_and(Spanned::into_inner),
    };
    Some((place, rule))
}

/// Names of the rules that services imply.
const IMPLIED: &[&str] = &[plan::ROW_MANAGEMENT, plan::RULE_ACCESS, plan::RULE_INSIDE];

fn rule_name(text: &str) -> Result<String, Fault> {
    let fine = (1..=48).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fine {
        return Err(Fault::new(
            format!("{} is no name for a rule", quoted(text)),
            "use 1 to 48 small letters, digits and hyphens",
        ));
    }
    if IMPLIED.contains(&text) {
        return Err(Fault::new(
            format!("{} is the name of a rule that a service implies", quoted(text)),
            "give it another name",
        ));
    }
    Ok(text.to_owned())
}

fn protocol(section: &Section<'_>) -> Option<Spanned<Protocol>> {
    section.parsed("protocol", |text| match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "icmp" => Ok(Protocol::Icmp),
        "icmpv6" => Ok(Protocol::Icmpv6),
        _ => match text.parse::<u8>() {
            Ok(1 | 6 | 17 | 58) => Err(Fault::new(
                format!("the protocol {} has a name", quoted(text)),
                "write \"tcp\", \"udp\", \"icmp\" or \"icmpv6\"",
            )),
            Ok(number) => Ok(Protocol::Other(number)),
            Err(_) => Err(Fault::new(
                format!("{} is no protocol", quoted(text)),
                "write \"tcp\", \"udp\", \"icmp\", \"icmpv6\" or a number such as \"47\"",
            )),
        },
    })
}

fn ports(section: &Section<'_>, protocol: Option<&Spanned<Protocol>>) -> Vec<(u16, u16)> {
    let ranges = section.port_ranges("ports");
    match protocol.map(Spanned::get_ref) {
        Some(Protocol::Tcp | Protocol::Udp) => section.require("ports", "add ports = [443]"),
        Some(_) if section.has("ports") => section.sink.error(
            &section.key_span("ports"),
            "this protocol has no ports",
            "take ports out, or write protocol = \"tcp\" or \"udp\"",
        ),
        _ => {}
    }
    let mut sorted: Vec<&Spanned<(u16, u16)>> = ranges.iter().collect();
    sorted.sort_by_key(|range| *range.get_ref());
    for pair in sorted.windows(2) {
        if let [a, b] = pair
            && b.get_ref().0 <= a.get_ref().1
        {
            section.sink.error(
                &b.span(),
                format!("the ports overlap with {}-{}", a.get_ref().0, a.get_ref().1),
                "name each port once",
            );
        }
    }
    ranges.into_iter().map(Spanned::into_inner).collect()
}

fn destinations(section: &Section<'_>, known: &Known) -> Vec<IpAddr> {
    let texts = section.texts("to");
    let mut to = Vec::new();
    for text in &texts {
        match *text.get_ref() {
            "any" if texts.len() == 1 => {}
            "any" => any_alone(section, &text.span()),
            "access" => to.extend(&known.access),
            "inside" => to.extend(&known.inside),
            other => match values::address(other).and_then(values::definite) {
                Ok(address) => to.push(address),
                Err(fault) => section.sink.fault(&text.span(), fault),
            },
        }
    }
    to.sort_unstable();
    to.dedup();
    to
}

fn any_alone(section: &Section<'_>, span: &Span) {
    section.sink.error(span, "\"any\" stands beside others", "write \"any\" alone, or take it out");
}

fn sources(section: &Section<'_>) -> Vec<IpNet> {
    let texts = section.texts("from");
    let mut from = Vec::new();
    let mut seen = HashSet::new();
    for text in &texts {
        match *text.get_ref() {
            "any" if texts.len() == 1 => {}
            "any" => any_alone(section, &text.span()),
            other => match values::prefix(other) {
                Ok(net) if !seen.insert(net) => section.sink.error(
                    &text.span(),
                    format!("{net} stands here twice"),
                    "take one out",
                ),
                Ok(net) => from.push(net),
                Err(fault) => section.sink.fault(&text.span(), fault),
            },
        }
    }
    from
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
    if let Some(own) = known.access.iter().chain(&known.inside).find(|a| block.contains(*a)) {
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
