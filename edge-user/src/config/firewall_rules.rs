//! `[[firewall.rule]]`: the administrator's own rules.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use toml::Spanned;

use super::{
    findings::{Fault, Span, quoted},
    firewall::Known,
    model::Zone,
    model_firewall::{Content, FirewallRule, Line, NamedSet, Protocol, Sources},
    model_services::Service,
    rates,
    reader::Section,
    values,
};
use crate::firewall::plan;

pub(super) fn rules(section: &Section<'_>, known: &Known, sets: &[NamedSet]) -> Vec<FirewallRule> {
    let mut names: HashMap<String, Span> = HashMap::new();
    let mut rules = Vec::new();
    for section in section.tables("rule") {
        let Some((name, rule)) = rule(section, known, sets) else { continue };
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

fn rule<'a>(section: Section<'a>, known: &Known, sets: &[NamedSet]) -> Option<Named<'a>> {
    section.require("name", "add name = \"sip-extra\"");
    section.require("zone", "add zone = \"external\" or \"internal\"");
    section.require("protocol", "add protocol = \"tcp\"");
    let name = section.parsed("name", rule_name);
    let zone = section.parsed("zone", values::zone);
    let protocol = protocol(&section);
    let ports = ports(&section, protocol.as_ref());
    let to = destinations(&section, known, zone.as_ref().map(|zone| *zone.get_ref()));
    let from = sources(&section, sets);
    can_match(&section, protocol.as_ref(), &from);
    let drop = section.parsed("action", |text| match text {
        "pass" => Ok(false),
        "drop" => Ok(true),
        _ => {
            Err(Fault::new(format!("{} is no action", quoted(text)), "write \"pass\" or \"drop\""))
        }
    });
    let drop = drop.is_some_and(Spanned::into_inner);
    let plain = protocol.as_ref().map(|protocol| *protocol.get_ref());
    let rates = rates::rates(&section, matches!(plain, None | Some(Protocol::Tcp)));
    let content = rates::content(&section, plain);
    if drop && !(rates.is_none() && content == Content::Any) {
        section.sink.error(
            &section.key_span("action"),
            "a rule that drops has no rates and no content: these say what it lets in",
            "write action = \"pass\": what is beyond the rate, or of other content, is dropped",
        );
    }
    let sink = section.sink;
    section.finish();
    let name = name?;
    let place = Spanned::new(name.span(), sink);
    let rule = FirewallRule {
        line: Line(sink.line(&place.span())),
        name: name.into_inner(),
        zone: zone?.into_inner(),
        protocol: protocol?.into_inner(),
        ports,
        to,
        from,
        drop,
        rates,
        content,
    };
    Some((place, rule))
}

fn rule_name(text: &str) -> Result<String, Fault> {
    if plan::is_implied(text) {
        return Err(Fault::new(
            format!("{} is the name of a rule that a service implies", quoted(text)),
            "give it another name",
        ));
    }
    name(text, "a rule")
}

/// A name of a rule or set.
pub(super) fn name(text: &str, of: &str) -> Result<String, Fault> {
    let fine = (1..=48).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fine {
        return Err(Fault::new(
            format!("{} is no name for {of}", quoted(text)),
            "use 1 to 48 small letters, digits and hyphens",
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

fn destinations(section: &Section<'_>, known: &Known, zone: Option<Zone>) -> Vec<IpAddr> {
    let texts = section.texts("to");
    let mut to = Vec::new();
    for text in &texts {
        let word = *text.get_ref();
        if word == "any" {
            any_alone(section, &text.span(), texts.len());
        } else if let Some(service) = Service::from_name(word) {
            let addresses = known.of(service, zone);
            if addresses.is_empty() {
                section.sink.error(
                    &text.span(),
                    format!("the service {word} is not configured and has no address"),
                    format!("add [{}], or name addresses", service.section()),
                );
            }
            to.extend(addresses);
        } else {
            match values::address(word).and_then(values::definite) {
                Ok(address) => to.push(address),
                Err(fault) => section.sink.fault(&text.span(), fault),
            }
        }
    }
    to.sort_unstable();
    to.dedup();
    to
}

/// `"any"` among so many.
fn any_alone(section: &Section<'_>, span: &Span, count: usize) {
    if count > 1 {
        section.sink.error(
            span,
            "\"any\" stands beside others",
            "write \"any\" alone, or take it out",
        );
    }
}

/// ICMP is of one family, and so are prefixes.
fn can_match(section: &Section<'_>, protocol: Option<&Spanned<Protocol>>, from: &Sources) {
    let (name, mend) = match protocol.map(|protocol| *protocol.get_ref()) {
        Some(icmp @ Protocol::Icmp) => (icmp, Protocol::Icmpv6),
        Some(icmp @ Protocol::Icmpv6) => (icmp, Protocol::Icmp),
        _ => return,
    };
    let of_other = |net: &IpNet| net.addr().is_ipv6() == (name == Protocol::Icmp);
    if !from.partners && !from.prefixes.is_empty() && from.prefixes.iter().all(of_other) {
        section.sink.error(
            &section.key_span("from"),
            format!("no packet of {name} comes from these: they are of the other family"),
            format!("write protocol = \"{mend}\", or prefixes of the other family"),
        );
    }
}

/// Whom a rule or service is for.
pub(super) fn sources(section: &Section<'_>, sets: &[NamedSet]) -> Sources {
    let texts = section.texts("from");
    if section.is_empty("from") {
        section.sink.error(
            &section.key_span("from"),
            "nobody stands in from",
            "name prefixes, sets or \"partners\", or take it out, which means \"any\"",
        );
    }
    let mut from = Sources::default();
    let mut seen = HashSet::new();
    for text in &texts {
        let (word, span) = (*text.get_ref(), text.span());
        if word == "any" {
            any_alone(section, &span, texts.len());
            continue;
        }
        let set = sets.iter().find(|set| set.name == word);
        let prefixes = match set {
            Some(set) => set.prefixes.clone(),
            None if word == "partners" => Vec::new(),
            None => match source_prefix(word, sets) {
                Ok(net) => vec![net],
                Err(fault) => {
                    section.sink.fault(&span, fault);
                    continue;
                }
            },
        };
        let named = if let [net] = prefixes[..] { net.to_string() } else { word.to_owned() };
        let twice = if set.is_some() { word.to_owned() } else { named };
        if !seen.insert(twice.clone()) {
            section.sink.error(&span, format!("{twice} stands here twice"), "take one out");
            continue;
        }
        from.partners |= word == "partners";
        from.sets.extend(set.map(|set| set.name.clone()));
        from.prefixes.extend(prefixes);
    }
    from.prefixes.sort_unstable();
    from.prefixes.dedup();
    from
}

fn source_prefix(word: &str, sets: &[NamedSet]) -> Result<IpNet, Fault> {
    let like_a_name = word.starts_with(|c: char| c.is_ascii_alphabetic()) && !word.contains(':');
    if !like_a_name {
        return values::prefix(word);
    }
    let names: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
    let mend = if names.is_empty() {
        "add it as [[firewall.set]], or write a prefix".to_owned()
    } else {
        format!("known are \"any\", \"partners\" and the sets {}", names.join(", "))
    };
    Err(Fault::new(format!("{} is no set of the file", quoted(word)), mend))
}
