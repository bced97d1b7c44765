//! `[service.web_conferencing]`, `[service.av]` and `[admin]`: addresses and ports.
//! They imply firewall rules; web conferencing and admin are not served yet, nor STUN and TURN, and a
//! warning says so. `[service.remote]` and `[service.xmpp]` are read beside them.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use toml::Spanned;

use super::{
    findings::{Fault, Span},
    firewall_rules,
    listeners::{Listener, one},
    model::{Interface, Management, Transport, Zone},
    model_firewall::{Line, NamedSet, Sources},
    model_services::{
        AdminService, AvService, RemoteService, Service, Services, WebConferencingService,
    },
    model_xmpp::XmppService,
    rates,
    reader::Section,
    remote,
    sections::Edge,
    services::{self, Access, Identity},
    values, xmpp_service,
};

const TLS: u16 = 443;
const PSOM_INSIDE: u16 = 8057;
const STUN: u16 = 3478;
const AV_AUTHENTICATION: u16 = 5062;
const MEDIA: (u16, u16) = (50_000, 59_999);
const CONSOLE: u16 = 8443;
const METRICS: u16 = 9464;

/// What the sections lean on.
pub(super) struct Around<'a> {
    /// Where relative paths start.
    pub base: &'a Path,
    pub access: &'a Access,
    pub edge: &'a Edge,
    /// The internal listeners: a service's internal side is there when it names no address.
    pub inside: &'a [(Transport, SocketAddr)],
    pub management: Option<&'a Management>,
    pub interfaces: &'a [Interface],
    pub sets: &'a [NamedSet],
}

/// Certificates that are to be checked.
pub(super) struct ToCheck {
    /// The remote service's.
    pub remote: Option<Identity>,
    /// The XMPP service's.
    pub xmpp: Option<xmpp_service::ToCheck>,
}

/// Reads all of them; their listeners are added to `listeners`.
pub(super) fn services(
    root: &Section<'_>,
    service: &Section<'_>,
    around: &Around<'_>,
    listeners: &mut Vec<Listener>,
) -> (Services, ToCheck) {
    let (remote, identity) = remote_users(service, around, listeners);
    let xmpp = xmpp(service, around, listeners);
    let (xmpp, xmpp_files) = xmpp.unzip();
    let services = Services {
        web_conferencing: present(service, Service::WebConferencing, "web_conferencing")
            .map(|section| web_conferencing(section, around, listeners)),
        av: present(service, Service::Av, "av").map(|section| av(section, around, listeners)),
        xmpp,
        remote,
        admin: present(root, Service::Admin, "admin")
            .map(|section| admin(section, around, listeners)),
    };
    (services, ToCheck { remote: identity, xmpp: xmpp_files })
}

fn xmpp(
    service: &Section<'_>,
    around: &Around<'_>,
    listeners: &mut Vec<Listener>,
) -> Option<(XmppService, xmpp_service::ToCheck)> {
    // Asked for in any case, so that the key is known.
    let section = service.section("xmpp");
    section.exists().then(|| xmpp_service::xmpp(section, around, listeners))?
}

fn remote_users(
    service: &Section<'_>,
    around: &Around<'_>,
    listeners: &mut Vec<Listener>,
) -> (Option<RemoteService>, Option<Identity>) {
    // Asked for in any case, so that the key is known.
    let section = service.section("remote");
    if !service.has("remote") {
        return (None, None);
    }
    let (remote, identity) = remote::remote(section, around, listeners);
    (Some(remote), identity)
}

/// A service's section, when the file has it, with the warning that nothing serves it.
fn present<'a>(parent: &Section<'a>, of: Service, key: &'static str) -> Option<Section<'a>> {
    if !parent.has(key) {
        // Asked for, so that the key is known.
        let _ = parent.section(key);
        return None;
    }
    let section = parent.section(key);
    let name = of.section();
    let fault = match of {
        Service::Av => format!(
            "STUN and TURN are not served yet: [{name}] relays calls, and else only opens ports in \
             the firewall"
        ),
        _ => format!("{of} is not served yet: [{name}] only opens its ports in the firewall"),
    };
    let mend = match of {
        Service::Av => "nothing to do, unless users or partners need them",
        _ => "take it out, unless another program on this machine serves it",
    };
    section.sink.warn(&section.span, fault, mend);
    Some(section)
}

fn line(section: &Section<'_>) -> Line {
    Line(section.sink.line(&section.span))
}

/// The external listeners, which every service has.
pub(super) fn external(
    section: &Section<'_>,
    service: Service,
    port: u16,
    listeners: &mut Vec<Listener>,
) -> Vec<SocketAddr> {
    section.require("listen", &format!("add listen = \"203.0.113.10:{port}\""));
    let listen = section.parsed_list("listen", |text| values::listen(text, port));
    not_empty(section, "listen");
    listeners.extend(listen.iter().map(|l| Listener::tcp(service, Zone::External, l)));
    listen.into_iter().map(Spanned::into_inner).collect()
}

fn not_empty(section: &Section<'_>, key: &'static str) {
    if section.is_empty(key) {
        section.sink.error(
            &section.key_span(key),
            format!("{key} is empty"),
            "name at least one address, or take the section out",
        );
    }
}

/// The internal side: what `inside` names, else the addresses of the internal listeners.
fn internal<T>(
    section: &Section<'_>,
    around: &Around<'_>,
    read: impl Fn(&str) -> Result<T, Fault>,
    from_address: impl Fn(IpAddr) -> T,
) -> Vec<Spanned<T>> {
    if section.has("inside") {
        return section.parsed_list("inside", read);
    }
    // Asked for, so that the key is known.
    let _ = section.texts("inside");
    let mut addresses: Vec<IpAddr> = around.inside.iter().map(|(_, l)| l.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into_iter().map(|a| Spanned::new(section.span.clone(), from_address(a))).collect()
}

pub(super) fn internal_sockets(
    section: &Section<'_>,
    service: Service,
    port: u16,
    around: &Around<'_>,
    listeners: &mut Vec<Listener>,
) -> Vec<SocketAddr> {
    let read = |text: &str| values::listen(text, port);
    let inside = internal(section, around, read, |address| SocketAddr::new(address, port));
    listeners.extend(inside.iter().map(|l| Listener::tcp(service, Zone::Internal, l)));
    inside.into_iter().map(Spanned::into_inner).collect()
}

fn web_conferencing(
    section: Section<'_>,
    around: &Around<'_>,
    listeners: &mut Vec<Listener>,
) -> WebConferencingService {
    let of = Service::WebConferencing;
    let service = WebConferencingService {
        listen: external(&section, of, TLS, listeners),
        inside: internal_sockets(&section, of, PSOM_INSIDE, around, listeners),
        rates: rates::rates(&section, true),
        line: line(&section),
    };
    section.finish();
    service
}

fn av(section: Section<'_>, around: &Around<'_>, listeners: &mut Vec<Listener>) -> AvService {
    let address = |text: &str| values::address(text).and_then(values::definite);
    section.require("listen", "add listen = \"203.0.113.12\"");
    let listen = section.parsed_list("listen", address);
    not_empty(&section, "listen");
    let advertise = av_advertise(&section, &listen);
    let inside = internal(&section, around, address, |address| address);
    let port = |key, default| section.port(key).map_or(default, Spanned::into_inner);
    let plain = |list: &[Spanned<IpAddr>]| list.iter().map(|a| *a.get_ref()).collect();
    let service = AvService {
        listen: plain(&listen),
        advertise,
        inside: plain(&inside),
        stun_port: port("stun_port", STUN),
        tcp_port: port("tcp_port", TLS),
        media_ports: media_ports(&section),
        legacy_partners: section.boolean("legacy_partners", false),
        authentication_port: port("authentication_port", AV_AUTHENTICATION),
        rates: rates::rates(&section, true),
        line: line(&section),
    };
    let mut add = |at: &Spanned<IpAddr>, zone, udp, ports| {
        let (service, span, address) = (Service::Av, at.span(), *at.get_ref());
        listeners.push(Listener { service, zone, udp, address, ports, span });
    };
    for at in &listen {
        add(at, Zone::External, true, one(service.stun_port));
        add(at, Zone::External, false, one(service.tcp_port));
        if service.legacy_partners {
            add(at, Zone::External, true, service.media_ports);
            add(at, Zone::External, false, service.media_ports);
        }
    }
    for at in &inside {
        add(at, Zone::Internal, true, one(service.stun_port));
        add(at, Zone::Internal, false, one(service.tcp_port));
        add(at, Zone::Internal, false, one(service.authentication_port));
    }
    section.finish();
    service
}

/// What SDP shows in place of the listen addresses: one of a family, for one of that family.
fn av_advertise(section: &Section<'_>, listen: &[Spanned<IpAddr>]) -> Vec<IpAddr> {
    let listen: Vec<IpAddr> = listen.iter().map(|l| *l.get_ref()).collect();
    let advertise = services::advertise(section, &listen);
    for four in [true, false] {
        let count = |list: &[IpAddr]| list.iter().filter(|a| a.is_ipv4() == four).count();
        if count(&advertise) > 1 || (count(&advertise) == 1 && count(&listen) > 1) {
            let family = if four { "IPv4" } else { "IPv6" };
            section.sink.error(
                &section.key_span("advertise"),
                format!(
                    "which {family} address stands for which in advertise and listen, nobody says"
                ),
                "name one address of each family in both",
            );
        }
    }
    advertise
}

fn media_ports(section: &Section<'_>) -> (u16, u16) {
    let Some(range) = section.parsed("media_ports", values::port_range) else { return MEDIA };
    let (first, last) = *range.get_ref();
    if last - first < 99 || first < 1024 {
        section.sink.error(
            &range.span(),
            format!("{first}-{last} is no range for a media relay"),
            "write 100 ports or more above 1023, such as \"50000-59999\"",
        );
    }
    (first, last)
}

fn admin(section: Section<'_>, around: &Around<'_>, listeners: &mut Vec<Listener>) -> AdminService {
    let mut read = |key: &'static str, port| {
        let listen = section.parsed_list(key, |text| values::listen(text, port));
        listeners.extend(listen.iter().map(|l| Listener::tcp(Service::Admin, Zone::Internal, l)));
        listen.into_iter().map(Spanned::into_inner).collect::<Vec<_>>()
    };
    let (listen, metrics) = (read("listen", CONSOLE), read("metrics", METRICS));
    if !section.has("listen") && !section.has("metrics") {
        section.sink.error(
            &section.span,
            "[admin] opens nothing",
            "add listen = \"10.0.0.10:8443\" or metrics = \"10.0.0.10:9464\"",
        );
    }
    if !around.interfaces.iter().any(|interface| interface.zone == Zone::Internal) {
        section.sink.error(
            &section.span,
            "[admin] is for the internal zone only, and no interface belongs to it",
            "give the interface towards the organisation zone = \"internal\", or take [admin] out",
        );
    }
    let service = AdminService {
        listen,
        metrics,
        from: administrators(&section, around),
        rates: rates::rates(&section, true),
        line: line(&section),
    };
    section.finish();
    service
}

/// Who may reach the console: the management prefixes, unless the file says otherwise.
fn administrators(section: &Section<'_>, around: &Around<'_>) -> Sources {
    let from = firewall_rules::sources(section, around.sets);
    if from.partners {
        let span: Span = section.key_span("from");
        section.sink.error(&span, "partners do not administer this appliance", "name prefixes");
    }
    if section.has("from") {
        return from;
    }
    Sources::prefixes(around.management.map(|m| m.from.clone()).unwrap_or_default())
}
