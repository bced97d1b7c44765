//! The general sections: `[edge]`, `[paths]`, `[[interface]]`, `[management]`, `[dns]`,
//! `[limits]`, `[log]`.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::Spanned;

use super::{
    findings::quoted,
    model::{Dns, Interface, Limits, Log, Management, Paths, Zone},
    model_firewall::Line,
    reader::Section,
    services::file,
    values,
};
use crate::domain::Domain;

/// `[edge]`, with places.
pub(super) struct Edge {
    pub fqdn: Option<Spanned<Domain>>,
    pub domains: Vec<Spanned<Domain>>,
}

pub(super) fn edge(root: &Section<'_>) -> Edge {
    let section = root.required_section("edge", "add [edge] with fqdn and domains");
    section.require("fqdn", "add fqdn = \"edge.contoso.example\", the name in the certificate");
    section.require("domains", "add domains = [\"contoso.example\"], the SIP domains served here");
    let fqdn = section.parsed("fqdn", values::domain);
    let domains = section.parsed_list("domains", values::domain);
    if section.is_empty("domains") {
        section.sink.error(&section.span, "edge.domains is empty", "name at least one SIP domain");
    }
    no_duplicates(&section, &domains, "the domain");
    section.finish();
    Edge { fqdn, domains }
}

/// Reports each value that stands in a list twice.
pub(super) fn no_duplicates<T: std::hash::Hash + Eq + std::fmt::Display>(
    section: &Section<'_>,
    items: &[Spanned<T>],
    what: &str,
) {
    let mut seen = HashSet::new();
    for item in items {
        if !seen.insert(item.get_ref()) {
            section.sink.error(
                &item.span(),
                format!("{what} {} stands here twice", item.get_ref()),
                "take one out",
            );
        }
    }
}

pub(super) const DEFAULT_STATE: &str = "/var/lib/edge";
pub(super) const DEFAULT_RUN: &str = "/run/edge";
pub(super) const DEFAULT_PINS: &str = "/sys/fs/bpf/edge";

pub(super) fn paths(root: &Section<'_>, base: &Path) -> Paths {
    let section = root.section("paths");
    let folder = |key: &'static str, default: &str| {
        let Some(text) = section.text(key) else { return PathBuf::from(default) };
        let path = text.get_ref();
        if path.is_empty() || path.contains('\0') {
            section.sink.error(&text.span(), "this is no path", format!("write \"{default}\""));
        }
        // A Unix socket's path holds 107 bytes (unix(7)); the control socket lies in `run`.
        if key == "run" && path.len() + "/control.sock".len() > 107 {
            section.sink.error(
                &text.span(),
                "the path is too long for the control socket below it",
                "use a folder with fewer than 94 characters",
            );
        }
        base.join(path)
    };
    let paths = Paths {
        state: folder("state", DEFAULT_STATE),
        run: folder("run", DEFAULT_RUN),
        pins: folder("pins", DEFAULT_PINS),
    };
    section.finish();
    paths
}

pub(super) fn interfaces(root: &Section<'_>) -> Vec<Interface> {
    let sections = root.tables("interface");
    if sections.is_empty() && !root.has("interface") {
        root.sink.error(
            &root.span,
            "[[interface]] is missing",
            "add [[interface]] with device = \"eth0\" and zone = \"external\"",
        );
    }
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut seen = HashSet::new();
    let mut complete = !sections.is_empty();
    for section in sections {
        section.require("device", "add device = \"eth0\"");
        section.require("zone", "add zone = \"external\" or \"internal\"");
        let device = section.parsed("device", values::device);
        let vlan = section.integer("vlan", 1..=4094);
        let zone = section.parsed("zone", values::zone);
        let optional = section.boolean("optional", false);
        match (device, zone) {
            (Some(device), Some(zone)) => {
                let interface = Interface {
                    device: device.get_ref().clone(),
                    vlan: vlan.and_then(|vlan| u16::try_from(vlan.into_inner()).ok()),
                    zone: zone.into_inner(),
                    optional,
                };
                if !seen.insert((interface.device.clone(), interface.vlan)) {
                    section.sink.error(
                        &device.span(),
                        format!("the interface {} is named twice", quoted(&interface.device)),
                        "take one out, or give it another vlan",
                    );
                }
                interfaces.push(interface);
            }
            _ => complete = false,
        }
        section.finish();
    }
    if complete && !interfaces.iter().any(|i| i.zone == Zone::External) {
        root.sink.error(
            &root.span,
            "no interface belongs to the external zone",
            "give the interface towards the Internet zone = \"external\"",
        );
    }
    interfaces
}

const MAX_MANAGEMENT_PREFIXES: usize = 256;

pub(super) fn management(root: &Section<'_>, interfaces: &[Interface]) -> Option<Management> {
    let section = root.required_section(
        "management",
        "add [management] with ports, from and zone, so that you cannot lock yourself out",
    );
    section.require("ports", "add ports = [22]");
    section.require("from", "add from = [\"192.0.2.0/28\"], the prefixes you manage this from");
    section.require("zone", "add zone = \"internal\" or \"external\"");
    let mut ports = Vec::new();
    for range in section.port_ranges("ports") {
        let (first, last) = *range.get_ref();
        if last - first >= 64 {
            section.sink.error(
                &range.span(),
                "the range of management ports is wide",
                "name the ports one by one; ssh needs 22 only",
            );
            continue;
        }
        ports.extend(first..=last);
    }
    ports.sort_unstable();
    ports.dedup();
    let from = section.parsed_list("from", values::prefix);
    for net in &from {
        if values::is_everything(net.get_ref()) {
            section.sink.error(
                &net.span(),
                format!("management from {} is management from everywhere", net.get_ref()),
                "name the prefixes that you manage this appliance from",
            );
        }
    }
    no_duplicates(&section, &from, "the prefix");
    if from.len() > MAX_MANAGEMENT_PREFIXES {
        section.sink.error(
            &section.key_span("from"),
            format!("more than {MAX_MANAGEMENT_PREFIXES} management prefixes"),
            "join them into wider ones",
        );
    }
    for key in ["ports", "from"] {
        if section.is_empty(key) {
            section.sink.error(
                &section.span,
                format!("management.{key} is empty"),
                "name at least one, so that you cannot lock yourself out",
            );
        }
    }
    let zone = section.parsed("zone", values::zone);
    if let Some(zone) = &zone
        && !interfaces.is_empty()
        && !interfaces.iter().any(|i| i.zone == *zone.get_ref())
    {
        section.sink.error(
            &zone.span(),
            "no interface belongs to the zone of the management",
            "name the zone of the interface that you manage this appliance over",
        );
    }
    let line = Line(section.sink.line(&section.span));
    section.finish();
    let from = from.into_iter().map(Spanned::into_inner).collect();
    Some(Management { ports, from, zone: zone?.into_inner(), line })
}

pub(super) fn dns(root: &Section<'_>, base: &Path) -> Dns {
    let section = root.section("dns");
    let servers = section.parsed_list("servers", |text| values::listen(text, 53));
    no_duplicates(&section, &servers, "the DNS server");
    let range = Duration::from_millis(100)..=Duration::from_secs(30);
    let timeout = section.duration("timeout", range, Duration::from_secs(2));
    let trust_anchor = file(&section, base, "trust_anchor");
    if let Some(anchor) = &trust_anchor
        && let Err(fault) = crate::net::dns::trust_anchors(anchor.get_ref())
    {
        let mend = "name a file of DNSKEY records, one a line, as `dig . DNSKEY` prints them";
        section.sink.error(&anchor.span(), format!("this is no trust anchor: {fault}"), mend);
    }
    section.finish();
    Dns {
        servers: servers.into_iter().map(Spanned::into_inner).collect(),
        timeout,
        trust_anchor: trust_anchor.map(Spanned::into_inner),
    }
}

pub(super) fn limits(root: &Section<'_>) -> Limits {
    let section = root.section("limits");
    let number = |key, range, default| {
        usize::try_from(section.number(key, range, default)).unwrap_or(usize::MAX)
    };
    let time = |key, from: u64, to: u64, default: u64| {
        let second = Duration::from_secs;
        section.duration(key, second(from)..=second(to), second(default))
    };
    let rate = |key, default: u32| {
        let number = section.number(key, 1..=1_000_000, u64::from(default));
        u32::try_from(number).unwrap_or(default)
    };
    let limits = Limits {
        connections: number("connections", 1..=1_000_000, 4096),
        connections_per_source: number("connections_per_source", 1..=1_000_000, 64),
        handshakes: number("handshakes", 1..=65_536, 256),
        handshakes_per_second: rate("handshakes_per_second", 200),
        handshakes_per_second_per_source: rate("handshakes_per_second_per_source", 10),
        handshake_timeout: time("handshake_timeout", 1, 60, 5),
        message_timeout: time("message_timeout", 1, 300, 10),
        idle_timeout: time("idle_timeout", 10, 86_400, 1200),
        head_bytes: number("head_bytes", 4096..=1 << 20, 64 << 10),
        body_bytes: number("body_bytes", 0..=64 << 20, 5000 << 10),
        first_request_bytes: number("first_request_bytes", 4096..=64 << 20, 64 << 10),
        transactions: number("transactions", 1..=10_000_000, 100_000),
        write_queue_bytes: number("write_queue_bytes", 64 << 10..=1 << 30, 8 << 20),
    };
    if limits.write_queue_bytes < limits.head_bytes.saturating_add(limits.body_bytes) {
        section.sink.error(
            &section.span,
            "limits.write_queue_bytes is less than one message (head_bytes and body_bytes)",
            "raise write_queue_bytes or lower body_bytes",
        );
    }
    section.finish();
    limits
}

pub(super) fn log(root: &Section<'_>) -> Log {
    let section = root.section("log");
    let json = section.boolean("json", false);
    let filter = section.text("filter");
    if let Some(text) = &filter
        && let Err(error) = tracing_subscriber::EnvFilter::builder().parse(text.get_ref())
    {
        section.sink.error(
            &text.span(),
            format!("{} is no log filter: {error}", quoted(text.get_ref())),
            "write \"info\" or \"info,edge_user::proxy=debug\"",
        );
    }
    section.finish();
    Log { json, filter: filter.map_or_else(|| "info".into(), |f| f.into_inner().to_owned()) }
}
