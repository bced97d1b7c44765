//! What is asked of a partner beyond the default: verification, key usage, names, pins, DNS,
//! modalities, NAT.

use super::{
    findings::{Fault, quoted},
    media,
    model_federation::{PeerOptions, Pin, SrvOrder, UsagePolicy, Verification},
    reader::Section,
    sections::no_duplicates,
};
use crate::proxy::base64url;

/// Pins of one partner: the key in use, the next one, and a few spare.
const MAX_PINS: usize = 16;

/// Reads the options that every kind of partner has. `pinned`: the partner is one host, and its
/// SRV record is not asked for.
pub(super) fn options(section: &Section<'_>, pinned: bool) -> PeerOptions {
    let options = PeerOptions {
        verification: section.parsed("verification", verification).map(toml::Spanned::into_inner),
        usage: section.parsed("usage", usage).map_or_else(UsagePolicy::default, |v| v.into_inner()),
        wildcard: section.boolean("wildcard", false),
        common_name: section.boolean("common_name", false),
        pins: pins(section),
        srv_order: section
            .parsed("srv_order", srv_order)
            .map_or_else(SrvOrder::default, |v| v.into_inner()),
        dnssec: section.boolean("dnssec", false),
        needs_client_usage: section.boolean("needs_client_usage", false),
        modalities: media::modalities(section),
        behind_nat: section.boolean("behind_nat", false),
    };
    if pinned && section.has("srv_order") {
        section.sink.error(
            &section.key_span("srv_order"),
            "srv_order has no meaning with proxy_fqdn, which asks for no SRV record",
            "take one of the two out",
        );
    }
    options
}

fn verification(text: &str) -> Result<Verification, Fault> {
    text.parse().map_err(|known: String| {
        Fault::new(format!("{} is no verification level", quoted(text)), format!("write {known}"))
    })
}

fn usage(text: &str) -> Result<UsagePolicy, Fault> {
    match text {
        "any" => Ok(UsagePolicy::Any),
        "standard" => Ok(UsagePolicy::Standard),
        "server" => Ok(UsagePolicy::Server),
        "client" => Ok(UsagePolicy::Client),
        "sip-domain" => Ok(UsagePolicy::SipDomain),
        _ => Err(Fault::new(
            format!("{} is no key usage", quoted(text)),
            "write one of any, standard, server, client, sip-domain",
        )),
    }
}

fn srv_order(text: &str) -> Result<SrvOrder, Fault> {
    match text {
        "weighted" => Ok(SrvOrder::Weighted),
        "highest-weight" => Ok(SrvOrder::HighestWeight),
        _ => Err(Fault::new(
            format!("{} is no order of SRV targets", quoted(text)),
            "write \"weighted\" or \"highest-weight\"",
        )),
    }
}

fn pins(section: &Section<'_>) -> Vec<Pin> {
    let pins = section.parsed_list("pins", pin);
    no_duplicates(section, &section.texts("pins"), "the pin");
    if section.is_empty("pins") || pins.len() > MAX_PINS {
        section.sink.error(
            &section.key_span("pins"),
            format!(
                "{} pins",
                if pins.is_empty() { "no".to_owned() } else { pins.len().to_string() }
            ),
            format!("name 1 to {MAX_PINS}, or take pins out"),
        );
    }
    pins.into_iter().map(toml::Spanned::into_inner).collect()
}

fn pin(text: &str) -> Result<Pin, Fault> {
    let bytes = text.strip_prefix("sha256:").and_then(|text| {
        let text = text.strip_suffix('=').filter(|text| !text.contains(['-', '_']))?;
        base64url::decode(&text.replace('+', "-").replace('/', "_"))
    });
    bytes.and_then(|bytes| bytes.try_into().ok()).map(Pin).ok_or_else(|| {
        Fault::new(
            format!("{} is no pin", quoted(text)),
            "write \"sha256:\" and the base64 of the SHA-256 of the public key (openssl x509 \
             -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | \
             base64)",
        )
    })
}
