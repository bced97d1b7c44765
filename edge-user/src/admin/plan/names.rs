//! `edge plan dns` and `edge plan certificates`: what an administrator has to publish so that
//! partners and remote users find us, and which names our certificates have to hold so that they
//! believe us (RFC 6120 section 3.2 and 13.7, XEP-0368, RFC 5922).

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::Serialize;
use serde_json::json;

use super::{Report, Table};
use crate::{config::Config, domain::Domain, xmpp::io::XmppNames};

/// A DNS record of ours.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Record {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    value: String,
    service: &'static str,
    why: &'static str,
}

/// A name that a certificate of ours is to hold.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Name {
    service: &'static str,
    certificate: String,
    name: String,
    /// In which form.
    form: String,
    /// `None`: the file cannot be read.
    held: Option<bool>,
    why: &'static str,
}

/// What `edge plan dns` prints.
pub(super) fn dns(config: &Config) -> Report {
    let records = records(config);
    let mut table = Table::new(&["name", "type", "value", "service", "why"]);
    for record in &records {
        let Record { name, kind, value, service, why } = record;
        table.row([name.as_str(), kind, value, service, why].map(str::to_owned));
    }
    let text = format!("To be published for the outside:\n{}\n", table.render());
    Report::new(text, json!({"records": records}))
}

/// What `edge plan certificates` prints.
pub(super) fn certificates(config: &Config) -> Report {
    let names = certificate_names(config, read);
    let mut table = Table::new(&["service", "certificate", "name", "as", "held", "why"]);
    for name in &names {
        let held = match name.held {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "cannot be read",
        };
        table.row(
            [name.service, &name.certificate, &name.name, &name.form, held, name.why]
                .map(str::to_owned),
        );
    }
    Report::new(format!("{}\n", table.render()), json!({"names": names}))
}

fn port(listen: &[SocketAddr]) -> Option<u16> {
    listen.first().map(SocketAddr::port)
}

fn records(config: &Config) -> Vec<Record> {
    let mut all = Vec::new();
    let mut srv = |service, label: &str, domain: &Domain, (port, host): (u16, &Domain), why| {
        all.push(Record {
            name: format!("{label}.{domain}."),
            kind: "SRV",
            value: format!("0 0 {port} {host}."),
            service,
            why,
        });
    };
    let access = port(&config.access.listen).unwrap_or(5061);
    for domain in &config.domains {
        let at = (access, &config.fqdn);
        srv("access", "_sipfederationtls._tcp", domain, at, "SIP partners look for it");
    }
    if let Some(remote) = &config.services.remote {
        let host = remote.fqdn.as_ref().unwrap_or(&config.fqdn);
        let port = port(&remote.listen).unwrap_or(access);
        for domain in &config.domains {
            srv("remote", "_sip._tls", domain, (port, host), "users outside look for it");
        }
    }
    let xmpp = config.services.xmpp.as_ref().zip(config.xmpp_settings());
    let host_of_xmpp = xmpp_host(config);
    if let Some((service, settings)) = &xmpp {
        for domain in &settings.domains {
            if let Some(port) = port(&service.listen) {
                let at = (port, &host_of_xmpp);
                srv("xmpp", "_xmpp-server._tcp", domain, at, "XMPP partners look for it");
            }
            if let Some(port) = port(&service.direct_tls) {
                let why = "XMPP partners that begin with TLS look for it";
                srv("xmpp", "_xmpps-server._tcp", domain, (port, &host_of_xmpp), why);
            }
        }
    }
    let mut addresses = |service, host: &Domain, ips: &[IpAddr]| {
        for ip in ips {
            all.push(Record {
                name: format!("{host}."),
                kind: if ip.is_ipv4() { "A" } else { "AAAA" },
                value: ip.to_string(),
                service,
                why: "the host that the records above name",
            });
        }
    };
    addresses("access", &config.fqdn, &outside(config, &config.access.listen));
    if let Some(remote) = &config.services.remote
        && let Some(host) = remote.fqdn.as_ref().filter(|host| **host != config.fqdn)
    {
        addresses("remote", host, &outside(config, &remote.listen));
    }
    if let Some((service, _)) = &xmpp
        && host_of_xmpp != config.fqdn
    {
        let listen: Vec<_> = service.listen.iter().chain(&service.direct_tls).copied().collect();
        addresses("xmpp", &host_of_xmpp, &outside(config, &listen));
    }
    all
}

/// The addresses by which the outside knows these.
fn outside(config: &Config, listen: &[SocketAddr]) -> Vec<IpAddr> {
    let own = config.access.listen.iter().map(SocketAddr::ip);
    let mut ips: Vec<IpAddr> = listen.iter().map(SocketAddr::ip).collect();
    ips.sort_unstable();
    ips.dedup();
    // What stands behind NAT is known by other addresses.
    let behind = !config.access.advertise.is_empty() && own.clone().eq(ips.iter().copied());
    if behind { config.access.advertise.clone() } else { ips }
}

/// The host of XMPP: ours, unless it is served at other addresses than SIP. Any name will do then.
fn xmpp_host(config: &Config) -> Domain {
    let Some(service) = &config.services.xmpp else { return config.fqdn.clone() };
    let ips = |listen: &[SocketAddr]| {
        listen.iter().map(SocketAddr::ip).collect::<std::collections::BTreeSet<_>>()
    };
    let own = ips(&config.access.listen);
    let all = service.listen.iter().chain(&service.direct_tls).map(SocketAddr::ip);
    let other = all.into_iter().any(|ip| !own.contains(&ip));
    let named = config.domains.first().and_then(|domain| format!("xmpp.{domain}").parse().ok());
    named.filter(|_| other).unwrap_or_else(|| config.fqdn.clone())
}

/// The names of the first certificate of a file.
fn read(file: &Path) -> Option<XmppNames> {
    let pem = fs::read(file).ok()?;
    let first = CertificateDer::pem_slice_iter(&pem).next()?.ok()?;
    XmppNames::from_der(&first).ok()
}

fn certificate_names(config: &Config, read: impl Fn(&Path) -> Option<XmppNames>) -> Vec<Name> {
    let mut all = Vec::new();
    let mut add = |service,
                   file: &Path,
                   name: &Domain,
                   form: String,
                   why,
                   held: &dyn Fn(&XmppNames) -> bool| {
        all.push(Name {
            service,
            certificate: file.display().to_string(),
            name: name.to_string(),
            form,
            held: read(file).map(|names| held(&names)),
            why,
        });
    };
    let access = &config.access.tls.certificate;
    let fqdn = &config.fqdn;
    let why = "partners reach us by it (no wildcard)";
    add("access", access, fqdn, "DNS name".to_owned(), why, &|n| n.certificate.dns.contains(fqdn));
    for domain in config.domains.iter().filter(|domain| !fqdn.is_within(domain)) {
        let why = "partners ask for the domain, in which our host does not lie";
        let form = format!("DNS name or URI sip:{domain}");
        add("access", access, domain, form, why, &|names| names.certificate.is_domain(domain));
    }
    for own in &config.access.identities {
        for name in &own.names {
            let form = format!("DNS name or URI sip:{name}");
            let why = "whoever asks for this name is shown this certificate";
            let held = |names: &XmppNames| names.certificate.is_domain(name);
            add("access", &own.certificate, name, form, why, &held);
        }
    }
    if let Some(remote) = &config.services.remote {
        let host = remote.fqdn.as_ref().unwrap_or(fqdn);
        let file = remote.files.as_ref().map_or(access, |(certificate, _)| certificate);
        let why = "users outside reach us by it";
        let held = |names: &XmppNames| names.proves(host, true);
        add("remote", file, host, "DNS name".to_owned(), why, &held);
    }
    if let Some((service, settings)) = config.services.xmpp.as_ref().zip(config.xmpp_settings()) {
        for domain in &settings.domains {
            // The one with its name, else the service's.
            let named = config.access.identities.iter().find(|own| own.names.contains(domain));
            let file = named.map_or(&service.tls.certificate, |own| &own.certificate);
            let form = format!("DNS name or SRV name _xmpp-server.{domain}");
            let why = "XMPP partners ask for the domain; without it there is dialback at best";
            add("xmpp", file, domain, form, why, &|names| names.proves(domain, true));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TlsFiles, XmppServer, XmppService, tests_support::with_services};

    fn d(text: &str) -> Domain {
        text.parse().unwrap()
    }

    /// SIP and XMPP with TLS first and after, and an XMPP server inside.
    fn config() -> Config {
        let mut config = with_services();
        config.fqdn = d("sip.contoso.example");
        config.domains = vec![d("contoso.example")];
        config.access.listen = vec!["192.0.2.1:5061".parse().unwrap()];
        config.access.advertise.clear();
        config.access.identities.clear();
        config.services.remote = None;
        let files = TlsFiles { certificate: "/x.pem".into(), ..config.access.tls.clone() };
        config.services.xmpp = Some(XmppService {
            direct_tls: vec!["192.0.2.1:5270".parse().unwrap()],
            domains: vec![d("contoso.example")],
            servers: vec![XmppServer {
                domains: vec![d("chat.contoso.example")],
                next_hop: (d("xmpp.inside.example"), 5269),
            }],
            ..XmppService::at(vec!["192.0.2.1:5269".parse().unwrap()], files)
        });
        config
    }

    fn lines(config: &Config) -> Vec<String> {
        let line = |r: Record| format!("{} {} {}", r.name, r.kind, r.value);
        records(config).into_iter().map(line).collect()
    }

    #[test]
    fn every_domain_has_the_records_by_which_it_is_found() {
        let mut config = config();
        let srv = |name: &str, port: u16, host: &str| format!("{name}. SRV 0 0 {port} {host}.");
        let of = |host: &str| {
            vec![
                srv("_sipfederationtls._tcp.contoso.example", 5061, "sip.contoso.example"),
                srv("_xmpp-server._tcp.contoso.example", 5269, host),
                srv("_xmpps-server._tcp.contoso.example", 5270, host),
                srv("_xmpp-server._tcp.chat.contoso.example", 5269, host),
                srv("_xmpps-server._tcp.chat.contoso.example", 5270, host),
                "sip.contoso.example. A 192.0.2.1".to_owned(),
            ]
        };
        assert_eq!(lines(&config), of("sip.contoso.example"));
        // At an address of its own.
        let xmpp = config.services.xmpp.as_mut().unwrap();
        xmpp.listen = vec!["[2001:db8::2]:5269".parse().unwrap()];
        xmpp.direct_tls = vec!["[2001:db8::2]:5270".parse().unwrap()];
        let mut expected = of("xmpp.contoso.example");
        expected.push("xmpp.contoso.example. AAAA 2001:db8::2".to_owned());
        assert_eq!(lines(&config), expected);
        // Nothing is said of what is not served.
        config.services.xmpp = None;
        assert_eq!(lines(&config).len(), 2);
        assert!(dns(&config).text.contains("_sipfederationtls._tcp.contoso.example."));
    }

    #[test]
    fn certificates_are_to_hold_what_partners_ask_for() {
        let config = config();
        let mut held = XmppNames::default();
        held.certificate.dns = vec![d("sip.contoso.example"), d("contoso.example")];
        let of = |read: &dyn Fn(&Path) -> Option<XmppNames>| -> Vec<(&str, String, Option<bool>)> {
            let all = certificate_names(&config, read);
            all.into_iter().map(|name| (name.service, name.name, name.held)).collect()
        };
        let row = |service, name: &str, held| (service, name.to_owned(), held);
        assert_eq!(
            of(&|_| Some(held.clone())),
            [
                row("access", "sip.contoso.example", Some(true)),
                row("xmpp", "contoso.example", Some(true)),
                row("xmpp", "chat.contoso.example", Some(false)),
            ]
        );
        let by_srv = XmppNames { srv: vec![d("chat.contoso.example")], ..held.clone() };
        assert_eq!(of(&|_| Some(by_srv.clone()))[2].2, Some(true));
        assert!(of(&|_| None).iter().all(|(_, _, held)| held.is_none()));
        assert!(certificates(&config).text.contains("_xmpp-server.chat.contoso.example"));
    }
}
