//! Rates, bursts and content: the same keys in a rule and in a service.

use std::time::Duration;

use toml::Spanned;

use super::{
    findings::{Fault, quoted},
    model_firewall::{Content, Protocol, Rates},
    reader::Section,
};

/// The keys about new connections, then the others.
const KEYS: [&str; 6] = [
    "new_per_second_per_source",
    "new_per_second_total",
    "packets_per_second_per_source",
    "packets_per_second_total",
    "bytes_per_second_per_source",
    "bytes_per_second_total",
];
/// Beyond this, the kernel's clock could not tell one rate from another.
const MAX_UNITS: u64 = 1_000_000_000;
const MAX_BYTES: u64 = 100_000_000_000;
/// The kernel's coarse clock may move in steps of 4 ms, and a burst must span more than one.
const MIN_BURST: Duration = Duration::from_millis(10);
const MAX_BURST: Duration = Duration::from_secs(60);

/// The rates of a rule or service. `connections`: whether it has TCP ports.
pub(super) fn rates(section: &Section<'_>, connections: bool) -> Rates {
    let units = |key| section.number(key, 1..=MAX_UNITS, 0);
    let bytes = |key| section.number(key, 1..=MAX_BYTES, 0);
    let rates = Rates {
        new_per_source: units("new_per_second_per_source"),
        packets_per_source: units("packets_per_second_per_source"),
        bytes_per_source: bytes("bytes_per_second_per_source"),
        new_total: units("new_per_second_total"),
        packets_total: units("packets_per_second_total"),
        bytes_total: bytes("bytes_per_second_total"),
        burst: section.duration("burst", MIN_BURST..=MAX_BURST, Rates::default().burst),
    };
    for key in &KEYS[..2] {
        if !connections && section.has(key) {
            section.sink.error(
                &section.key_span(key),
                format!("{key} counts TCP connections, and there are none here"),
                format!("write {} instead", key.replace("new", "packets")),
            );
        }
    }
    if section.has("burst") && !KEYS.iter().any(|key| section.has(key)) {
        section.sink.error(
            &section.key_span("burst"),
            "a burst without a rate says nothing",
            "add a rate such as packets_per_second_per_source = 100, or take burst out",
        );
    }
    rates
}

/// What the payload of a rule's packets must look like.
pub(super) fn content(section: &Section<'_>, protocol: Option<Protocol>) -> Content {
    let content = section.parsed("content", |text| match text {
        "any" => Ok(Content::Any),
        "sip" => Ok(Content::Sip),
        "stun" => Ok(Content::Stun),
        "media" => Ok(Content::Media),
        _ => Err(Fault::new(
            format!("{} is no content", quoted(text)),
            "write \"sip\", \"stun\", \"media\" or \"any\"",
        )),
    });
    let Some(content) = content else { return Content::Any };
    let fits = match (content.get_ref(), protocol) {
        (Content::Any, _) | (_, None) => None,
        (Content::Sip, Some(Protocol::Tcp | Protocol::Udp)) => None,
        (Content::Sip, _) => Some("\"tcp\" or \"udp\""),
        (_, Some(Protocol::Udp)) => None,
        (_, _) => Some("\"udp\""),
    };
    if let Some(wanted) = fits {
        section.sink.error(
            &content.span(),
            "this content cannot be told in packets of this protocol",
            format!("write protocol = {wanted}, or take content out"),
        );
    }
    Spanned::into_inner(content)
}
