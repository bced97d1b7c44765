//! What the calls are told about this appliance.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    config::{Config, MediaMode},
    media::flow::MediaSide,
};

/// An address of ours for media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// Where packets come in and leave from.
    pub local: IpAddr,
    /// What SDP says.
    pub shown: IpAddr,
}

/// Our addresses for media on one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// IPv4.
    pub v4: Option<OwnAddress>,
    /// IPv6.
    pub v6: Option<OwnAddress>,
}

impl OwnAddresses {
    /// The first of each family; `shown`: what SDP says in its place, by family too.
    pub fn new(local: &[IpAddr], shown: &[IpAddr]) -> Self {
        let of = |six: bool| {
            let local = local.iter().copied().find(|address| address.is_ipv6() == six)?;
            let shown = shown.iter().copied().find(|address| address.is_ipv6() == six);
            Some(OwnAddress { local, shown: shown.unwrap_or(local) })
        };
        Self { v4: of(false), v6: of(true) }
    }

    /// The one of this family, else the other.
    pub(super) fn prefer(&self, six: bool) -> Option<OwnAddress> {
        if six { self.v6.or(self.v4) } else { self.v4.or(self.v6) }
    }

    /// The one with this local address.
    pub(super) fn with_local(&self, local: IpAddr) -> Option<OwnAddress> {
        [self.v4, self.v6].into_iter().flatten().find(|own| own.local == local)
    }
}

/// Settings of the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallSettings {
    /// What is done.
    pub mode: MediaMode,
    /// Our addresses outside.
    pub outside: OwnAddresses,
    /// Our addresses inside.
    pub inside: OwnAddresses,
    /// Ports for media on every one of them: first and last.
    pub ports: (u16, u16),
    /// A call without a packet for so long ends, unless it is on hold.
    pub silence: Duration,
    /// A call ends after this in any case.
    pub longest_call: Duration,
    /// Every address of this appliance: nobody is to send media to them but through a flow.
    pub own: Vec<IpAddr>,
    /// Prefixes outside that count though they are not global unicast.
    pub allow: Vec<IpNet>,
}

impl Default for CallSettings {
    fn default() -> Self {
        Self {
            mode: MediaMode::Off,
            outside: OwnAddresses::default(),
            inside: OwnAddresses::default(),
            ports: (50_000, 59_999),
            silence: Duration::from_secs(300),
            longest_call: Duration::from_secs(24 * 3600),
            own: Vec::new(),
            allow: Vec::new(),
        }
    }
}

impl CallSettings {
    /// From the file's settings. `own`: every address of this appliance.
    pub fn new(config: &Config, own: Vec<IpAddr>) -> Self {
        let mut settings = Self {
            mode: config.media.mode,
            silence: config.media.silence,
            longest_call: config.media.longest_call,
            own,
            allow: config.federation.allow_addresses.clone(),
            ..Self::default()
        };
        if let Some(av) = &config.services.av {
            settings.outside = OwnAddresses::new(&av.listen, &av.advertise);
            settings.inside = OwnAddresses::new(&av.inside, &[]);
            settings.ports = av.media_ports;
        }
        settings
    }

    pub(super) fn on(&self, side: MediaSide) -> &OwnAddresses {
        match side {
            MediaSide::Outside => &self.outside,
            MediaSide::Inside => &self.inside,
        }
    }
}

/// What there is one of for each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sides<T> {
    /// Outside.
    pub outside: T,
    /// Inside.
    pub inside: T,
}

impl<T> Sides<T> {
    pub(super) fn of(&self, side: MediaSide) -> &T {
        match side {
            MediaSide::Outside => &self.outside,
            MediaSide::Inside => &self.inside,
        }
    }

    pub(super) fn of_mut(&mut self, side: MediaSide) -> &mut T {
        match side {
            MediaSide::Outside => &mut self.outside,
            MediaSide::Inside => &mut self.inside,
        }
    }
}

/// Both of them.
pub(super) const SIDES: [MediaSide; 2] = [MediaSide::Outside, MediaSide::Inside];

/// The same address with the port so much further.
pub(super) fn further(address: SocketAddr, ports: u16) -> Option<SocketAddr> {
    Some(SocketAddr::new(address.ip(), address.port().checked_add(ports)?))
}
