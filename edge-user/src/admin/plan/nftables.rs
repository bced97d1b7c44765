//! The tables as rules for nftables (nft(8)): chains that a firewall's own hooks jump to.
//!
//! It opens and drops nothing by itself, and says no more than the tables: rates and contents are
//! comments. Every value comes out of the validated configuration; names are put into comments
//! only, without control characters.

use std::{fmt::Write as _, net::IpAddr};

use ipnet::IpNet;

use super::{Tables, direction, zone};
use crate::{
    config::{Config, Interface, Zone},
    firewall::plan::{Direction, End, OuterRow, RuleRow},
};

/// One end of a rule.
#[derive(Clone, Copy)]
struct Side<'a> {
    /// `saddr` or `daddr`.
    address: &'static str,
    /// `sport` or `dport`.
    port: &'static str,
    prefixes: &'a [IpNet],
    ports: &'a [(u16, u16)],
    partners: bool,
}

/// What a rule is about.
struct Rule<'a> {
    protocol: &'a str,
    /// Words before everything else.
    before: String,
    from: Side<'a>,
    to: Side<'a>,
    verdict: &'a str,
    name: &'a str,
}

pub(super) fn write(config: &Config, tables: &Tables, partners: Option<&[IpNet]>) -> String {
    let mut text = String::from(
        "# Chains to jump to from hooks of your own, such as:\n\
         #   chain forward { type filter hook forward priority filter; policy drop;\n\
         #     ct state established,related accept; jump outer_external; jump outer_internal; }\n\
         table inet edge {\n",
    );
    sets(config, partners, &mut text);
    if let Some(rows) = &tables.appliance {
        text.push_str("\tchain appliance {\n");
        for row in rows {
            appliance(config, row, &mut text);
        }
        text.push_str("\t}\n");
    }
    if let Some(rows) = &tables.outer {
        for of in [Zone::External, Zone::Internal] {
            let _ = writeln!(text, "\tchain outer_{} {{", zone(of));
            for row in rows.iter().filter(|row| row.zone == of) {
                outer(row, &mut text);
            }
            text.push_str("\t}\n");
        }
    }
    text.push_str("}\n");
    text
}

/// The partners' addresses: those that the file names, and those that the daemon knows.
fn sets(config: &Config, known: Option<&[IpNet]>, text: &mut String) {
    let entries = config.federation.allowed_domains.iter();
    let mut named: Vec<IpNet> =
        entries.flat_map(|entry| entry.from_addresses.iter().copied()).collect();
    named.extend(known.unwrap_or_default());
    text.push_str(match known {
        Some(_) => {
            "\t# Partners as the daemon knows them now, by DNS and from_addresses: write the sets \
             again when they move.\n"
        }
        None => {
            "\t# Partners' from_addresses only: no daemon that follows them runs, and where they \
             listen, DNS knows.\n"
        }
    });
    for (name, kind, v6) in [("partners4", "ipv4_addr", false), ("partners6", "ipv6_addr", true)] {
        let _ = writeln!(text, "\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval");
        let elements = set(&named, v6);
        if !elements.is_empty() {
            let _ = writeln!(text, "\t\telements = {elements}");
        }
        text.push_str("\t}\n");
    }
}

fn appliance(config: &Config, row: &RuleRow, text: &mut String) {
    comment(text, &format!("{}: {}; {}", row.name, row.why, row.made_by()));
    if row.limits.is_some() {
        comment(text, &format!("  at most {}", row.limits_text()));
    }
    let side =
        |address, port, prefixes, ports| Side { address, port, prefixes, ports, partners: false };
    let to: Vec<IpNet> = row.to.iter().copied().map(IpNet::from).collect();
    let rule = Rule {
        protocol: &row.protocol,
        before: devices(config, row.zone),
        from: Side { partners: row.partners, ..side("saddr", "sport", &row.from, &[]) },
        to: side("daddr", "dport", &to, &row.ports),
        verdict: if row.action == "drop" { "drop" } else { "accept" },
        name: &row.name,
    };
    write_rule(&rule, text);
}

fn outer(row: &OuterRow, text: &mut String) {
    let kinds = match row.partner_kinds.as_str() {
        "" => String::new(),
        kinds => format!(" (partners: {kinds})"),
    };
    let way = direction(row.direction);
    comment(text, &format!("{} {way}: {}{kinds}; {}", row.name, row.why, row.made_by()));
    for name in row.from.names.iter().chain(&row.to.names).filter(|name| *name != "partners") {
        comment(text, &format!("  {name}: put its address here"));
    }
    let rule = Rule {
        protocol: &row.protocol,
        before: String::new(),
        from: end("saddr", "sport", &row.from),
        to: end("daddr", "dport", &row.to),
        verdict: "accept",
        name: if row.direction == Direction::Out { "" } else { &row.name },
    };
    write_rule(&rule, text);
}

fn end<'a>(address: &'static str, port: &'static str, end: &'a End) -> Side<'a> {
    let partners = end.names.iter().any(|name| name == "partners");
    Side { address, port, prefixes: &end.prefixes, ports: &end.ports, partners }
}

/// `iifname { "eth0", "eth1.20" }`, or nothing when no interface belongs to the zone.
fn devices(config: &Config, of: Zone) -> String {
    let name = |interface: &Interface| match interface.vlan {
        Some(vlan) => format!("\"{}.{vlan}\"", interface.device),
        None => format!("\"{}\"", interface.device),
    };
    let mut names: Vec<String> =
        config.interfaces.iter().filter(|i| i.zone == of).map(name).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { String::new() } else { format!("iifname {{ {} }}", names.join(", ")) }
}

/// A rule for each family, and one for each way in which its source may be named.
fn write_rule(rule: &Rule<'_>, text: &mut String) {
    let families = [false, true].into_iter().filter(|v6| match rule.protocol {
        "icmp" => !v6,
        "icmpv6" => *v6,
        _ => true,
    });
    let any = |side: &Side<'_>| side.prefixes.is_empty() && !side.partners;
    if any(&rule.from) && any(&rule.to) {
        line(rule, "", "", text);
        return;
    }
    for v6 in families {
        let of = |side: &Side<'_>, partners: bool| match (any(side), partners) {
            (true, false) => Some(String::new()),
            (false, true) if side.partners => {
                Some(format!("{} {} @partners{}", family(v6), side.address, if v6 { 6 } else { 4 }))
            }
            (false, false) => {
                let elements = set(side.prefixes, v6);
                (!elements.is_empty())
                    .then(|| format!("{} {} {elements}", family(v6), side.address))
            }
            _ => None,
        };
        let Some(to) = of(&rule.to, false) else { continue };
        for from in [of(&rule.from, false), of(&rule.from, true)].into_iter().flatten() {
            line(rule, &from, &to, text);
        }
    }
}

fn family(v6: bool) -> &'static str {
    if v6 { "ip6" } else { "ip" }
}

fn line(rule: &Rule<'_>, from: &str, to: &str, text: &mut String) {
    let protocol = match rule.protocol {
        "tcp" | "udp" => {
            let ports = |side: &Side<'_>| {
                let range = |(first, last): &(u16, u16)| match first == last {
                    true => first.to_string(),
                    false => format!("{first}-{last}"),
                };
                let ranges: Vec<String> = side.ports.iter().map(range).collect();
                match ranges.is_empty() {
                    true => String::new(),
                    false => format!("{} {} {{ {} }}", rule.protocol, side.port, ranges.join(", ")),
                }
            };
            format!("{} {}", ports(&rule.from), ports(&rule.to))
        }
        "icmp" => "icmp type echo-request".to_owned(),
        "icmpv6" => "icmpv6 type echo-request".to_owned(),
        number => format!("meta l4proto {number}"),
    };
    let name = match rule.name {
        "" => String::new(),
        name => format!("comment \"{name}\""),
    };
    let words = [rule.before.as_str(), from, to, &protocol, rule.verdict, &name];
    let words = words.iter().flat_map(|part| part.split_whitespace()).collect::<Vec<_>>();
    let _ = writeln!(text, "\t\t{}", words.join(" "));
}

/// The prefixes of one family as a set, none inside another; empty when there are none.
fn set(prefixes: &[IpNet], v6: bool) -> String {
    let of: Vec<IpNet> =
        prefixes.iter().filter(|net| matches!(net, IpNet::V6(_)) == v6).copied().collect();
    let joined: Vec<String> = IpNet::aggregate(&of).iter().map(element).collect();
    if joined.is_empty() { String::new() } else { format!("{{ {} }}", joined.join(", ")) }
}

fn element(net: &IpNet) -> String {
    match net.addr() {
        IpAddr::V4(address) if net.prefix_len() == 32 => address.to_string(),
        IpAddr::V6(address) if net.prefix_len() == 128 => address.to_string(),
        _ => net.to_string(),
    }
}

fn comment(text: &mut String, words: &str) {
    let clean: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = writeln!(text, "\t\t# {clean}");
}
