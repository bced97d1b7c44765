//! Where everything listens, across services: no two on one address, protocol and port.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use toml::Spanned;

use super::{
    findings::{Sink, Span},
    model::Zone,
    model_services::Service,
};

/// An address with ports that a service listens on.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub service: Service,
    pub zone: Zone,
    pub udp: bool,
    pub address: IpAddr,
    /// Both ends included.
    pub ports: (u16, u16),
    pub span: Span,
}

/// A port as a range.
pub(super) fn one(port: u16) -> (u16, u16) {
    (port, port)
}

impl Listener {
    /// A TCP port.
    pub fn tcp(service: Service, zone: Zone, at: &Spanned<SocketAddr>) -> Self {
        let (address, ports) = (at.get_ref().ip(), one(at.get_ref().port()));
        Self { service, zone, udp: false, address, ports, span: at.span() }
    }

    fn is_at(&self, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port)
    }

    fn text(&self) -> String {
        let (first, last) = self.ports;
        if first == last {
            SocketAddr::new(self.address, first).to_string()
        } else {
            format!("{} ports {first}-{last}", self.address)
        }
    }
}

type Place = (bool, IpAddr);

/// Reports listeners that stand in one another's way, and internal ones at external addresses.
pub(super) fn check(sink: &Sink<'_>, mut listeners: Vec<Listener>) {
    // The later line is the one to mend.
    listeners.sort_by_key(|listener| listener.span.start);
    let mut outside: BTreeMap<IpAddr, Service> = BTreeMap::new();
    for listener in listeners.iter().filter(|listener| listener.zone == Zone::External) {
        outside.entry(listener.address).or_insert(listener.service);
        if listener.address.is_loopback() {
            sink.warn(
                &listener.span,
                "nobody outside reaches a loopback address",
                "listen on an address of an external interface",
            );
        }
    }
    let mut ports: HashMap<(Place, u16), usize> = HashMap::new();
    let mut ranges: HashMap<Place, Vec<usize>> = HashMap::new();
    let mut warned: Option<Span> = None;
    for (index, listener) in listeners.iter().enumerate() {
        let place = (listener.udp, listener.address);
        let (first, last) = listener.ports;
        let mut taken = match first == last {
            true => ports.insert((place, first), index),
            false => (first..=last).filter_map(|port| ports.get(&(place, port)).copied()).min(),
        };
        let of_place = ranges.entry(place).or_default();
        taken = taken.or_else(|| {
            let near = |at: &&usize| {
                listeners.get(**at).is_some_and(|other| {
                    other.is_at(first) || other.is_at(last) || listener.is_at(other.ports.0)
                })
            };
            of_place.iter().find(near).copied()
        });
        if first != last {
            of_place.push(index);
        }
        if let Some(other) = taken.and_then(|at| listeners.get(at)) {
            conflict(sink, listener, other);
        } else if listener.zone == Zone::Internal
            && let Some(service) = outside.get(&listener.address)
            && warned.as_ref() != Some(&listener.span)
        {
            warned = Some(listener.span.clone());
            at_external_address(sink, listener, *service);
        }
    }
}

fn conflict(sink: &Sink<'_>, listener: &Listener, other: &Listener) {
    let by = match listener.service == other.service {
        true => String::new(),
        false => format!(", by [{}]", other.service.section()),
    };
    sink.error(
        &listener.span,
        format!(
            "{} is listened on already in line {}{by}",
            listener.text(),
            sink.line(&other.span)
        ),
        "give it another address or port",
    );
}

fn at_external_address(sink: &Sink<'_>, listener: &Listener, service: Service) {
    let message = format!("{} is also the address of the {service} service", listener.address);
    if listener.service == Service::Admin {
        sink.error(
            &listener.span,
            format!("{message}, and administration has no place outside"),
            "give it an address in the internal zone",
        );
    } else {
        sink.warn(
            &listener.span,
            message,
            "give the internal listener an address in the internal zone",
        );
    }
}
