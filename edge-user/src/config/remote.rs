//! `[service.remote]`: where users of ours sign in from outside, and what befalls those who guess
//! passwords.

use std::{net::SocketAddr, time::Duration};

use toml::Spanned;

use super::{
    findings::Span,
    listeners::Listener,
    model::Zone,
    model_firewall::Line,
    model_services::{GuardSettings, RemoteService, Service},
    more_services::Around,
    rates,
    reader::Section,
    services::{Identity, file},
    values,
};

const TLS: u16 = 443;

/// The service, and the names and files that are to be checked.
pub(super) fn remote(
    section: Section<'_>,
    around: &Around<'_>,
    listeners: &mut Vec<Listener>,
) -> (RemoteService, Option<Identity>) {
    let shared = section.boolean("shared", false).then(|| section.key_span("shared"));
    let listen = listen(&section, shared.is_some(), listeners);
    if let (Some(shared), Some(_)) = (&shared, &around.access.partners_only) {
        section.sink.error(
            shared,
            "remote users cannot share a port that is for partners' addresses only",
            "give them a port of their own with listen, or take partners_only out",
        );
    }
    let fqdn = section.parsed("fqdn", values::domain);
    let certificate = file(&section, around.base, "certificate");
    let key = file(&section, around.base, "key");
    for (missing, given) in [("key", "certificate"), ("certificate", "key")] {
        if section.has(given) && !section.has(missing) {
            section.sink.error(
                &section.key_span(given),
                format!("service.remote.{given} is given without service.remote.{missing}"),
                "give both, or neither: then the certificate of [service.access] is shown",
            );
        }
    }
    let files = certificate.zip(key);
    let number = |key, range, default: usize| {
        usize::try_from(section.number(key, range, default as u64)).unwrap_or(default)
    };
    let default = RemoteService::at(listen.into_iter().map(Spanned::into_inner).collect());
    let service = RemoteService {
        fqdn: fqdn.as_ref().map(|fqdn| fqdn.get_ref().clone()),
        files: files
            .as_ref()
            .map(|(certificate, key)| (certificate.get_ref().clone(), key.get_ref().clone())),
        shared: shared.is_some(),
        connections: number("connections", 1..=1_000_000, default.connections),
        connections_per_source: number(
            "connections_per_source",
            1..=1_000_000,
            default.connections_per_source,
        ),
        body_bytes: number("body_bytes", 1024..=64 << 20, default.body_bytes),
        guard: guard(&section, around),
        rates: rates::rates(&section, true),
        line: Line(section.sink.line(&section.span)),
        ..default
    };
    section.finish();
    let names = fqdn.into_iter().collect();
    let identity = match (files, &around.access.files) {
        (Some((certificate, key)), _) => Some(Identity { names, certificate, key }),
        (None, Some(access)) if service.fqdn.is_some() => Some(Identity {
            names,
            certificate: access.certificate.clone(),
            key: access.key.clone(),
        }),
        _ => None,
    };
    (service, identity)
}

fn listen(
    section: &Section<'_>,
    shared: bool,
    listeners: &mut Vec<Listener>,
) -> Vec<Spanned<SocketAddr>> {
    if !shared {
        section.require("listen", "add listen = \"203.0.113.10:443\"");
    }
    let listen = section.parsed_list("listen", |text| values::listen(text, TLS));
    if section.is_empty("listen") {
        let span: Span = section.key_span("listen");
        section.sink.error(
            &span,
            "listen is empty",
            "name at least one address, or take the section out",
        );
    }
    listeners.extend(listen.iter().map(|l| Listener::tcp(Service::Remote, Zone::External, l)));
    listen
}

fn guard(section: &Section<'_>, around: &Around<'_>) -> GuardSettings {
    let default = GuardSettings::default();
    let time = |key, most: u64, default: Duration| {
        section.duration(key, Duration::from_secs(10)..=Duration::from_secs(most), default)
    };
    const DAY: u64 = 86_400;
    let mut never = section.parsed_list("never_ban", values::prefix);
    let first = time("ban_first", DAY, default.ban_first);
    let most = time("ban_most", 30 * DAY, default.ban_most);
    if most < first {
        section.sink.error(
            &section.key_span("ban_most"),
            "ban_most is less than ban_first",
            "raise ban_most or lower ban_first",
        );
    }
    let managers = around.management.map(|m| m.from.clone()).unwrap_or_default();
    GuardSettings {
        failures: u32::try_from(section.number("ban_after", 2..=1000, default.failures.into()))
            .unwrap_or(default.failures),
        period: time("ban_period", DAY, default.period),
        ban_first: first,
        ban_most: most,
        never: never.drain(..).map(Spanned::into_inner).chain(managers).collect(),
    }
}
