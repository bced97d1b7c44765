//! `[service.access]` and `[inside]`: listeners, servers, next hops, and whose files they use.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use toml::Spanned;

use super::{
    findings::Span,
    inside_routes,
    listeners::Listener,
    model::{
        AccessService, Host, Inside, InsideServer, NextHop, OwnIdentity, TlsFiles, Transport, Zone,
    },
    model_firewall::{Line, Rates},
    model_services::Service,
    rates,
    reader::Section,
    sections::Edge,
    values,
};
use crate::domain::Domain;

/// TLS files with the places where the configuration names them.
pub(super) struct Files {
    pub certificate: Spanned<PathBuf>,
    pub key: Spanned<PathBuf>,
    pub trust: Spanned<PathBuf>,
}

impl Files {
    pub fn plain(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.certificate.get_ref().clone(),
            key: self.key.get_ref().clone(),
            trust: self.trust.get_ref().clone(),
        }
    }
}

/// The access service, with its listeners' places.
pub(super) struct Access {
    pub listen: Vec<Spanned<SocketAddr>>,
    pub advertise: Vec<IpAddr>,
    pub files: Option<Files>,
    /// Further identities: names and files; trust is that of the first.
    pub identities: Vec<Identity>,
    /// The place, when it is set.
    pub partners_only: Option<Span>,
    rates: Rates,
    line: Line,
}

/// `[[service.access.identity]]`.
pub(super) struct Identity {
    pub names: Vec<Spanned<Domain>>,
    pub certificate: Spanned<PathBuf>,
    pub key: Spanned<PathBuf>,
}

impl Access {
    fn listeners(&self) -> impl Iterator<Item = Listener> {
        self.listen.iter().map(|l| Listener::tcp(Service::Access, Zone::External, l))
    }

    pub fn plain(&self) -> Option<AccessService> {
        Some(AccessService {
            listen: self.listen.iter().map(|l| *l.get_ref()).collect(),
            advertise: self.advertise.clone(),
            tls: self.files.as_ref()?.plain(),
            identities: self.identities.iter().map(Identity::plain).collect(),
            partners_only: self.partners_only.is_some(),
            rates: self.rates,
            line: self.line,
        })
    }
}

impl Identity {
    fn plain(&self) -> OwnIdentity {
        OwnIdentity {
            names: self.names.iter().map(|name| name.get_ref().clone()).collect(),
            certificate: self.certificate.get_ref().clone(),
            key: self.key.get_ref().clone(),
        }
    }
}

pub(super) fn file(
    section: &Section<'_>,
    base: &Path,
    key: &'static str,
) -> Option<Spanned<PathBuf>> {
    file_named(section, base, &section.text(key)?)
}

pub(super) fn file_named(
    section: &Section<'_>,
    base: &Path,
    text: &Spanned<&str>,
) -> Option<Spanned<PathBuf>> {
    if text.get_ref().is_empty() || text.get_ref().contains('\0') {
        section.sink.error(&text.span(), "this is no path", "name a file");
        return None;
    }
    Some(Spanned::new(text.span(), base.join(text.get_ref())))
}

pub(super) fn access(service: &Section<'_>, base: &Path) -> Access {
    const MEND: &str = "add [service.access] with listen, certificate, key and trust";
    let section = service.required_section("access", MEND);
    section.require("listen", "add listen = \"203.0.113.10:5061\"");
    section.require("certificate", "add certificate = \"edge.pem\", our chain, leaf first");
    section.require("key", "add key = \"edge.key\", the certificate's private key");
    section.require("trust", "add trust = \"partners.pem\", the roots that partners chain to");
    let listen = section.parsed_list("listen", |text| values::listen(text, 5061));
    if section.is_empty("listen") {
        section.sink.error(&section.span, "service.access.listen is empty", "name an address");
    }
    let families: Vec<IpAddr> = listen.iter().map(|l| l.get_ref().ip()).collect();
    let advertise = advertise(&section, &families);
    let files = match (
        file(&section, base, "certificate"),
        file(&section, base, "key"),
        file(&section, base, "trust"),
    ) {
        (Some(certificate), Some(key), Some(trust)) => Some(Files { certificate, key, trust }),
        _ => None,
    };
    let identities = identities(&section, base);
    let partners_only =
        section.boolean("partners_only", false).then(|| section.key_span("partners_only"));
    let rates = rates::rates(&section, true);
    let line = Line(section.sink.line(&section.span));
    section.finish();
    Access { listen, advertise, files, identities, partners_only, rates, line }
}

/// Identities of ours there may be.
const MAX_IDENTITIES: usize = 64;

fn identities(access: &Section<'_>, base: &Path) -> Vec<Identity> {
    let mut seen = HashSet::new();
    let mut identities = Vec::new();
    let sections = access.tables("identity");
    if let Some(last) = sections.get(MAX_IDENTITIES) {
        access.sink.error(
            &last.span,
            format!("more than {MAX_IDENTITIES} identities"),
            "name several domains in one certificate",
        );
    }
    for section in sections {
        section.require("names", "add names = [\"sip.b.example\", \"b.example\"]");
        section.require("certificate", "add certificate = \"b.pem\", the chain, leaf first");
        section.require("key", "add key = \"b.key\", the certificate's private key");
        let names = section.parsed_list("names", values::domain);
        if section.is_empty("names") {
            section.sink.error(
                &section.key_span("names"),
                "this identity is for no name",
                "name the hosts that peers ask for, and the SIP domains",
            );
        }
        for name in &names {
            if !seen.insert(name.get_ref().clone()) {
                section.sink.error(
                    &name.span(),
                    format!("{} is named twice among the identities", name.get_ref()),
                    "leave it with one of them",
                );
            }
        }
        let certificate = file(&section, base, "certificate");
        let key = file(&section, base, "key");
        section.finish();
        if let (Some(certificate), Some(key)) = (certificate, key) {
            identities.push(Identity { names, certificate, key });
        }
    }
    identities
}

/// The addresses by which the outside knows a service that listens on these.
pub(super) fn advertise(section: &Section<'_>, listen: &[IpAddr]) -> Vec<IpAddr> {
    let advertise =
        section.parsed_list("advertise", |text| values::address(text).and_then(values::definite));
    super::sections::no_duplicates(section, &advertise, "the address");
    for item in &advertise {
        let same_family = |l: &IpAddr| l.is_ipv4() == item.get_ref().is_ipv4();
        if item.get_ref().is_loopback() {
            section.sink.error(
                &item.span(),
                "a loopback address means nothing to others",
                "name the address by which the outside reaches us",
            );
        } else if !listen.is_empty() && !listen.iter().any(same_family) {
            section.sink.error(
                &item.span(),
                format!("{} is advertised, but nothing listens in its family", item.get_ref()),
                "add a listen address of the same family, or take it out",
            );
        }
    }
    advertise.into_iter().map(Spanned::into_inner).collect()
}

/// `[inside]`; the second value tells whether its files are its own (then they are checked too).
pub(super) fn inside(
    root: &Section<'_>,
    base: &Path,
    access: &Access,
    edge: &Edge,
    listeners: &mut Vec<Listener>,
) -> (Inside, Option<Files>) {
    let section = root.required_section(
        "inside",
        "add [inside] with listen, servers and next_hops, the way to the organisation's servers",
    );
    section.require("listen", "add listen = \"tls:10.0.0.10:5061\"");
    section.require("servers", "add servers = [\"director.contoso.example\"]");
    section.require(
        "next_hops",
        "add next_hops = [\"sip:director.contoso.example:5061;transport=tls\"]",
    );
    let listen = section.parsed_list("listen", values::inside_listen);
    listeners.extend(access.listeners());
    listeners.extend(listen.iter().map(|l| {
        let (transport, at) = *l.get_ref();
        Listener {
            udp: transport == Transport::Udp,
            ..Listener::tcp(Service::Inside, Zone::Internal, &Spanned::new(l.span(), at))
        }
    }));
    let servers = section.parsed_list("servers", values::inside_server);
    check_servers(&section, &listen, &servers);
    let next_hops = section.parsed_list("next_hops", values::next_hop);
    let check = |hops: &[Spanned<NextHop>]| check_next_hops(&section, edge, access, &listen, hops);
    check(&next_hops);
    for key in ["listen", "servers", "next_hops"] {
        if section.is_empty(key) {
            section.sink.error(
                &section.key_span(key),
                format!("inside.{key} is empty"),
                "name at least one",
            );
        }
    }
    let (tls, own) = inside_files(&section, base, access);
    let rates = rates::rates(&section, true);
    let routing = inside_routes::routing(&section, edge, check);
    let line = Line(section.sink.line(&section.span));
    let wants_tls = listen.iter().any(|l| l.get_ref().0 == Transport::Tls)
        || next_hops.iter().any(|n| n.get_ref().transport == Transport::Tls)
        || routing.routes.iter().flat_map(|r| &r.next_hops).any(|n| n.transport == Transport::Tls);
    section.finish();
    let plain = |items: Vec<Spanned<_>>| items.into_iter().map(Spanned::into_inner).collect();
    let inside = Inside {
        listen: plain(listen),
        tls: tls.filter(|_| wants_tls),
        servers: servers.into_iter().map(Spanned::into_inner).collect(),
        next_hops: next_hops.into_iter().map(Spanned::into_inner).collect(),
        routing,
        rates,
        line,
    };
    (inside, own)
}

/// Files for TLS inside: those of the access service, unless named here. A certificate and its
/// key come together.
fn inside_files(
    section: &Section<'_>,
    base: &Path,
    access: &Access,
) -> (Option<TlsFiles>, Option<Files>) {
    let named =
        ["certificate", "key", "trust"].map(|key| (section.has(key), file(section, base, key)));
    let [(has_certificate, certificate), (has_key, key), (has_trust, trust)] = named;
    if has_certificate != has_key {
        let (have, lack) = if has_key { ("key", "certificate") } else { ("certificate", "key") };
        section.sink.error(
            &section.key_span(have),
            format!("inside.{have} is given without inside.{lack}"),
            format!("add {lack}, or take {have} out to use the files of the access service"),
        );
    }
    let Some(shared) = &access.files else { return (None, None) };
    let own = has_certificate || has_key || has_trust;
    let files = Files {
        certificate: certificate.unwrap_or_else(|| shared.certificate.clone()),
        key: key.unwrap_or_else(|| shared.key.clone()),
        trust: trust.unwrap_or_else(|| shared.trust.clone()),
    };
    (Some(files.plain()), own.then_some(files))
}

fn check_servers(
    section: &Section<'_>,
    listen: &[Spanned<(Transport, SocketAddr)>],
    servers: &[Spanned<InsideServer>],
) {
    let mut seen = HashSet::new();
    for server in servers {
        if !seen.insert(server.get_ref()) {
            section.sink.error(&server.span(), "this server stands here twice", "take one out");
        }
    }
    if servers.is_empty() {
        return;
    }
    let by_name = servers.iter().any(|s| matches!(s.get_ref(), InsideServer::Name(_)));
    let by_prefix = servers.iter().any(|s| matches!(s.get_ref(), InsideServer::Prefix(_)));
    for item in listen {
        let tls = item.get_ref().0 == Transport::Tls;
        if tls && !by_name {
            section.sink.warn(
                &item.span(),
                "nobody may use this TLS listener: no server is listed by its certificate's name",
                "add the servers' names to servers",
            );
        } else if !tls && !by_prefix {
            section.sink.warn(
                &item.span(),
                "nobody may use this listener: no server is listed by address or prefix",
                "add the servers' addresses to servers",
            );
        }
    }
}

fn check_next_hops(
    section: &Section<'_>,
    edge: &Edge,
    access: &Access,
    listen: &[Spanned<(Transport, SocketAddr)>],
    next_hops: &[Spanned<NextHop>],
) {
    let mut seen = HashSet::new();
    let own =
        access.listen.iter().map(|l| *l.get_ref()).chain(listen.iter().map(|l| l.get_ref().1));
    let own: HashSet<SocketAddr> = own.collect();
    for item in next_hops {
        let hop = item.get_ref();
        if !seen.insert(hop) {
            section.sink.error(&item.span(), "this next hop stands here twice", "take one out");
        }
        let ours = match &hop.host {
            Host::Name(name) => edge.fqdn.as_ref().is_some_and(|fqdn| fqdn.get_ref() == name),
            Host::Address(address) => own.contains(&SocketAddr::new(*address, hop.port)),
            Host::Srv { .. } => false,
        };
        if ours {
            section.sink.error(
                &item.span(),
                "this next hop is this appliance itself",
                "name the organisation's own server",
            );
        }
    }
}
