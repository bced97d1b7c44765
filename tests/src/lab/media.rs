//! An edge between two namespaces that media flows through: the firewall's own programs and maps,
//! no daemon. Outside is a gateway with a far address behind it; inside an endpoint on the link,
//! with a public address of its own too.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use edge_user::{
    config::{AvService, Config, Interface, Line, MediaMode, Rates, Zone},
    firewall::{FirewallHandle, Owner, OwnerOptions, media::MediaTable},
};

use super::{links, netns::Namespace};
use crate::{
    patience::patience,
    wire::{DEVICE, EDGE4, EDGE6, PEER4, PEER6, Wire},
};

/// The edge's device inside.
pub const INSIDE_DEVICE: &str = "int0";
/// The edge's address inside.
pub const INSIDE4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The edge's address inside.
pub const INSIDE6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
/// The endpoint inside.
pub const PHONE4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The endpoint inside.
pub const PHONE6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);
/// The same endpoint where the edge routes between public addresses.
pub const PUBLIC4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 50);
/// The same endpoint where the edge routes between public addresses.
pub const PUBLIC6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x50, 0, 0, 0, 0, 0x50);
/// Far outside, behind the gateway.
pub const FAR4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// Far outside, behind the gateway.
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x77);
/// Ports of media.
pub const PORTS: (u16, u16) = (50_000, 50_999);

/// The three namespaces.
pub struct MediaLab {
    /// The edge and outside.
    pub wire: Wire,
    /// Inside.
    pub inside: Namespace,
    /// A device gives frames to another only when that one has a program of its own.
    links: Vec<OwnedFd>,
}

impl MediaLab {
    /// Makes them.
    ///
    /// # Errors
    /// When a device cannot be made.
    pub fn new(tag: &str) -> Result<Self> {
        let wire = Wire::new(tag)?;
        let name = wire.edge.name().replace("-edge", "-inside");
        let inside = Namespace::create(&name)?;
        let mut lab = Self { wire, inside, links: Vec::new() };
        lab.link()?;
        lab.with_xdp_behind()?;
        Ok(lab)
    }

    /// From now on XDP cannot send by the edge's devices.
    pub fn without_xdp_behind(&mut self) {
        self.links.clear();
    }

    /// From now on it can again.
    ///
    /// # Errors
    /// When a program cannot be attached.
    pub fn with_xdp_behind(&mut self) -> Result<()> {
        for (namespace, device) in [(&self.wire.peer, "peer0"), (&self.inside, "eth0")] {
            self.links.push(links::far_end(namespace, device)?);
        }
        Ok(())
    }

    fn link(&self) -> Result<()> {
        self.wire.edge.ip_batch(&format!(
            "link add {INSIDE_DEVICE} type veth peer name eth0 netns {}\n\
             addr add {INSIDE4}/24 dev {INSIDE_DEVICE}\n\
             addr add {INSIDE6}/64 dev {INSIDE_DEVICE} nodad\n\
             link set {INSIDE_DEVICE} up\n\
             route add default via {PEER4}\n\
             route add ::/0 via {PEER6}\n\
             route add {PUBLIC4}/32 dev {INSIDE_DEVICE}\n\
             route add {PUBLIC6}/128 dev {INSIDE_DEVICE}\n",
            self.inside.name()
        ))?;
        self.inside.ip_batch(&format!(
            "addr add {PHONE4}/24 dev eth0\n\
             addr add {PHONE6}/64 dev eth0 nodad\n\
             addr add {PUBLIC4}/32 dev eth0\n\
             addr add {PUBLIC6}/128 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {INSIDE4}\n\
             route add ::/0 via {INSIDE6}\n"
        ))?;
        self.inside.wait_links();
        self.wire.edge.wait_links();
        self.wire.peer.ip_batch(&format!(
            "addr add {FAR4}/32 dev lo\n\
             addr add {FAR6}/128 dev lo nodad\n\
             route add {PUBLIC4}/32 via {EDGE4}\n\
             route add {PUBLIC6}/128 via {EDGE6}\n"
        ))
    }

    /// The configuration: both devices, the av service, and this mode.
    pub fn config(&self, mode: MediaMode) -> Arc<Config> {
        self.wire.config_with(|config| {
            config.interfaces.push(Interface {
                device: INSIDE_DEVICE.into(),
                vlan: None,
                zone: Zone::Internal,
                optional: false,
            });
            config.media.mode = mode;
            config.services.av = Some(AvService {
                listen: vec![EDGE4.into(), EDGE6.into()],
                advertise: Vec::new(),
                inside: vec![INSIDE4.into(), INSIDE6.into()],
                stun_port: 3478,
                tcp_port: 443,
                media_ports: PORTS,
                legacy_partners: false,
                authentication_port: 5062,
                rates: Rates::default(),
                line: Line::default(),
            });
        })
    }

    /// Starts the firewall, and takes its table.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&self, mode: MediaMode) -> Result<(FirewallHandle, MediaTable)> {
        self.start_with(self.config(mode))
    }

    /// The same with a configuration of [`Self::config`]'s kind.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_with(&self, config: Arc<Config>) -> Result<(FirewallHandle, MediaTable)> {
        let started =
            self.wire.edge.run(move || Owner::start(OwnerOptions::new(&config), config))?;
        let (handle, report) = started?;
        let table = handle.media().with_context(|| format!("no media: {:?}", report.warnings))?;
        Ok((handle, table))
    }

    /// A socket outside.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn outside(&self, address: IpAddr, port: u16) -> Result<UdpSocket> {
        socket(&self.wire.peer, address, port)
    }

    /// A socket inside.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn phone(&self, address: IpAddr, port: u16) -> Result<UdpSocket> {
        socket(&self.inside, address, port)
    }

    /// Forgets the edge's neighbours.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn forget_neighbours(&self) -> Result<()> {
        self.wire
            .edge
            .ip_batch(&format!("neigh flush dev {DEVICE}\nneigh flush dev {INSIDE_DEVICE}\n"))
    }
}

impl Drop for MediaLab {
    fn drop(&mut self) {
        Namespace::delete(self.inside.name());
    }
}

fn socket(namespace: &Namespace, address: IpAddr, port: u16) -> Result<UdpSocket> {
    let socket = namespace.udp(SocketAddr::new(address, port))?;
    socket.set_read_timeout(Some(patience(Duration::from_millis(300))))?;
    Ok(socket)
}

/// A packet of RTP with 160 bytes of payload.
pub fn rtp(sequence: u16, ssrc: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.resize(172, 0xd5);
    packet
}
