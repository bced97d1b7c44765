//! Routes, neighbours and devices by rtnetlink(7), in the network namespace of the thread that
//! opened it.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use super::{
    finder::{Ask, Changes, Link, Neighbour, Route},
    senders::Senders,
};
use crate::firewall::sys;

/// How long the kernel may take for an answer. It answers at once.
const PATIENCE: Duration = Duration::from_millis(500);
/// Length of `nlmsghdr`, and of `rtmsg` and `ndmsg`.
pub(super) const HEADER: usize = 16;
const BODY: usize = 12;
/// Length of `ifinfomsg`.
const LINK_BODY: usize = 16;

pub(super) const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;
const RTN_UNICAST: u8 = 1;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_USE: u8 = 1;
const NUD_REACHABLE: u16 = 0x02;
const NUD_STALE: u16 = 0x04;
const NUD_DELAY: u16 = 0x08;
const NUD_PROBE: u16 = 0x10;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NUD_VALID: u16 =
    NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const ARPHRD_ETHER: u16 = 1;
const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];

/// Links, neighbours, routes and rules of both families, next hops (`RTNLGRP_*`, as bits).
const GROUPS: u32 = 1 | 1 << 2 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18 | 1 << 31;

/// The kernel of this namespace.
#[derive(Debug)]
pub(super) struct Netlink {
    asking: OwnedFd,
    hearing: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    /// Of kernels that know.
    senders: Option<Senders>,
}

impl Netlink {
    /// Opens both sockets, and hears from now on.
    pub fn open() -> io::Result<Self> {
        let asking = socket(libc::NETLINK_ROUTE, 0)?;
        rustix::net::sockopt::set_socket_timeout(
            &asking,
            rustix::net::sockopt::Timeout::Recv,
            Some(PATIENCE),
        )?;
        let hearing = socket(libc::NETLINK_ROUTE, libc::SOCK_NONBLOCK)?;
        // SAFETY: all zeros is a value of this plain C structure.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = GROUPS;
        // SAFETY: the address has the length that is given and outlives the call.
        let bound = unsafe {
            libc::bind(
                hearing.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as u32,
            )
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        // Without it the program in the kernel sends by every device, as on older kernels.
        let senders = Senders::open().unwrap_or_else(|fault| {
            tracing::warn!(%fault, "which devices XDP can send by is not known");
            None
        });
        Ok(Self { asking, hearing, sequence: 0, buffer: vec![0; 64 * 1024], senders })
    }

    /// Asks, and hands every message of the answer to `take`. An error of the kernel is one.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut take: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let request = message(kind, flags | NLM_F_REQUEST, self.sequence, body);
        rustix::io::write(&self.asking, &request)?;
        let several = flags & NLM_F_DUMP == NLM_F_DUMP;
        loop {
            let length = match rustix::io::read(&self.asking, &mut self.buffer) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let mut ended = false;
            for (header, message) in messages(self.buffer.get(..length).unwrap_or_default()) {
                // What a broken-off question left behind is not for us.
                if header.sequence != self.sequence {
                    continue;
                }
                match header.kind {
                    NLMSG_DONE => ended = true,
                    NLMSG_ERROR => {
                        let code = word(message, HEADER).unwrap_or(0) as i32;
                        if code != 0 {
                            return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
                        }
                        ended = true;
                    }
                    kind => {
                        take(kind, message);
                        ended |= !several;
                    }
                }
            }
            if ended {
                return Ok(());
            }
        }
    }
}

impl Ask for Netlink {
    fn route(&mut self, to: IpAddr, ifindex: Option<u32>) -> io::Result<Option<Route>> {
        let (family, bytes, bits) = parts(to);
        // rtmsg: family, bits of the destination, then zeros.
        let mut body = vec![family, bits];
        body.resize(BODY, 0);
        put(&mut body, RTA_DST, &bytes);
        if let Some(ifindex) = ifindex {
            put(&mut body, RTA_OIF, &ifindex.to_ne_bytes());
        }
        let mut found = None;
        let asked = self.ask(libc::RTM_GETROUTE, 0, &body, |kind, message| {
            if kind == libc::RTM_NEWROUTE {
                found = route(message);
            }
        });
        match asked {
            Ok(()) => Ok(found),
            // No route, or one that forbids: the kernel says it in several ways.
            Err(fault) => match fault.raw_os_error() {
                Some(
                    libc::ENETUNREACH
                    | libc::EHOSTUNREACH
                    | libc::EACCES
                    | libc::EINVAL
                    | libc::ENODEV
                    | libc::ENETDOWN,
                ) => Ok(None),
                _ => Err(fault),
            },
        }
    }

    fn neighbour(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Neighbour> {
        let body = neighbour_body(ifindex, address, 0);
        let mut found = Neighbour { address: None, confirmed: false };
        let asked = self.ask(libc::RTM_GETNEIGH, 0, &body, |kind, message| {
            if kind == libc::RTM_NEWNEIGH
                && let Some((_, _, neighbour)) = neighbour(message)
            {
                found = neighbour;
            }
        });
        match asked {
            Err(fault) if fault.raw_os_error() != Some(libc::ENOENT) => Err(fault),
            _ => Ok(found),
        }
    }

    fn solicit(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let body = neighbour_body(ifindex, address, NTF_USE);
        self.ask(libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_ACK, &body, |_, _| {})
    }

    fn can_send(&mut self, ifindex: u32) -> io::Result<Option<bool>> {
        self.senders.as_mut().map_or(Ok(None), |senders| senders.can_send(ifindex))
    }

    fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        let body = [0; LINK_BODY];
        self.ask(libc::RTM_GETLINK, NLM_F_DUMP, &body, |kind, message| {
            if kind == libc::RTM_NEWLINK {
                links.extend(link(message));
            }
        })?;
        Ok(links)
    }

    fn changes(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        loop {
            match rustix::io::read(&self.hearing, &mut self.buffer) {
                Ok(length) => {
                    hear(self.buffer.get(..length).unwrap_or_default(), &mut changes);
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(changes),
                Err(rustix::io::Errno::INTR) => {}
                // Something is lost: anything may have changed.
                Err(rustix::io::Errno::NOBUFS) => (changes.links, changes.routes) = (true, true),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// A socket of netlink(7).
pub(super) fn socket(protocol: i32, flags: i32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | flags;
    // SAFETY: plain system call; the descriptor is owned below.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Family, bytes and bits of an address.
fn parts(address: IpAddr) -> (u8, Vec<u8>, u8) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec(), 32),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec(), 128),
    }
}

/// `ndmsg` and the neighbour's address.
fn neighbour_body(ifindex: u32, address: IpAddr, flags: u8) -> Vec<u8> {
    let (family, bytes, _) = parts(address);
    let mut body = vec![family, 0, 0, 0];
    body.extend(ifindex.to_ne_bytes());
    // State, flags, type.
    body.extend([0, 0, flags, 0]);
    put(&mut body, NDA_DST, &bytes);
    body
}

/// One message.
pub(super) fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

/// Adds an attribute.
pub(super) fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// What a message is, and what it answers.
pub(super) struct Header {
    pub kind: u16,
    pub sequence: u32,
}

/// The messages of a datagram. What is cut short ends it.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let length = word(rest, 0)? as usize;
        let message = rest.get(..length).filter(|_| length >= HEADER)?;
        let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        let header = Header { kind, sequence: word(message, 8)? };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, message))
    })
}

/// The answer to a question for a route.
fn route(message: &[u8]) -> Option<Route> {
    let family = *message.get(HEADER)?;
    if *message.get(HEADER + 7)? != RTN_UNICAST {
        return None;
    }
    let attributes = message.get(HEADER + BODY..)?;
    let ifindex = word(sys::attribute(attributes, RTA_OIF)?, 0)?;
    let gateway = match sys::attribute(attributes, RTA_GATEWAY) {
        Some(bytes) => Some(address(family, bytes)?),
        // Family (`u16`), then the address: one of the other family.
        None => match sys::attribute(attributes, RTA_VIA) {
            Some(via) => {
                let family = u16::from_ne_bytes(via.get(..2)?.try_into().ok()?);
                Some(address(u8::try_from(family).ok()?, via.get(2..)?)?)
            }
            None => None,
        },
    };
    Some(Route { ifindex, gateway })
}

/// Device, address, and what is known of a neighbour.
fn neighbour(message: &[u8]) -> Option<(u32, IpAddr, Neighbour)> {
    let family = *message.get(HEADER)?;
    let ifindex = word(message, HEADER + 4)?;
    let state = u16::from_ne_bytes(message.get(HEADER + 8..HEADER + 10)?.try_into().ok()?);
    let attributes = message.get(HEADER + BODY..)?;
    let at = address(family, sys::attribute(attributes, NDA_DST)?)?;
    let known = sys::attribute(attributes, NDA_LLADDR).and_then(|bytes| bytes.try_into().ok());
    let neighbour = Neighbour {
        address: known.filter(|_| state & NUD_VALID != 0),
        confirmed: state & (NUD_REACHABLE | NUD_NOARP | NUD_PERMANENT) != 0,
    };
    Some((ifindex, at, neighbour))
}

fn link(message: &[u8]) -> Option<Link> {
    let kind = u16::from_ne_bytes(message.get(HEADER + 2..HEADER + 4)?.try_into().ok()?);
    let (ifindex, flags) = (word(message, HEADER + 4)?, word(message, HEADER + 8)?);
    let attributes = message.get(HEADER + LINK_BODY..)?;
    let name = sys::attribute(attributes, IFLA_IFNAME)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let address = sys::attribute(attributes, IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok());
    let (is_vlan, vlan) = vlan(attributes);
    Some(Link {
        ifindex,
        name: String::from_utf8_lossy(name).into_owned(),
        address: address.filter(|_| kind == ARPHRD_ETHER),
        // A VLAN of another EtherType (802.1ad) is no way that the program can go.
        up: flags & libc::IFF_UP as u32 != 0 && (!is_vlan || vlan.is_some()),
        mtu: sys::attribute(attributes, IFLA_MTU).and_then(|bytes| word(bytes, 0)).unwrap_or(0),
        vlan,
    })
}

/// Whether it is a VLAN, and which one of which device when it is of 802.1Q.
fn vlan(attributes: &[u8]) -> (bool, Option<(u32, u16)>) {
    let info = sys::attribute(attributes, IFLA_LINKINFO).unwrap_or_default();
    if !sys::attribute(info, IFLA_INFO_KIND).is_some_and(|kind| kind.starts_with(b"vlan")) {
        return (false, None);
    }
    let tag = || {
        let data = sys::attribute(info, IFLA_INFO_DATA)?;
        if sys::attribute(data, IFLA_VLAN_PROTOCOL).is_some_and(|kind| kind != ETHERTYPE_VLAN) {
            return None;
        }
        let id = sys::attribute(data, IFLA_VLAN_ID)?.get(..2)?.try_into().ok()?;
        let lower = word(sys::attribute(attributes, IFLA_LINK)?, 0)?;
        Some((lower, u16::from_ne_bytes(id)))
    };
    (true, tag())
}

fn hear(datagram: &[u8], changes: &mut Changes) {
    for (header, message) in messages(datagram) {
        match header.kind {
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                changes.neighbours.extend(neighbour(message).map(|(at, who, _)| (at, who)));
            }
            libc::RTM_NEWLINK | libc::RTM_DELLINK => changes.links = true,
            _ => changes.routes = true,
        }
    }
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        libc::AF_INET6 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// The word there.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(all: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in all {
            put(&mut bytes, *kind, value);
        }
        bytes
    }

    fn route_message(family: i32, kind: u8, more: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![family as u8, 0, 0, 0, 0, 0, 0, kind, 0, 0, 0, 0];
        body.extend(attributes(more));
        message(libc::RTM_NEWROUTE, 0, 1, &body)
    }

    #[test]
    fn routes_are_read_with_gateways_of_either_family() {
        let oif = 7u32.to_ne_bytes();
        let via6: Vec<u8> = [&(libc::AF_INET6 as u16).to_ne_bytes()[..], &[0xfe; 16]].concat();
        let (inet, inet6) = (libc::AF_INET, libc::AF_INET6);
        let route = |family, kind, more: &[(u16, &[u8])]| {
            let message = route_message(family, kind, more);
            for length in 0..message.len() {
                let _ = super::route(&message[..length]);
            }
            super::route(&message)
        };
        let to = |gateway| Some(Route { ifindex: 7, gateway });
        let four = Some(IpAddr::from([10, 0, 0, 1]));
        let six = Some(IpAddr::from([0xfe; 16]));
        assert_eq!(route(inet, 1, &[(RTA_OIF, &oif), (RTA_GATEWAY, &[10, 0, 0, 1])]), to(four));
        assert_eq!(route(inet, 1, &[(RTA_VIA, &via6), (RTA_OIF, &oif)]), to(six));
        assert_eq!(route(inet6, 1, &[(RTA_GATEWAY, &[0xfe; 16]), (RTA_OIF, &oif)]), to(six));
        assert_eq!(route(inet6, 1, &[(RTA_OIF, &oif)]), to(None));
        assert_eq!(route(inet, 2, &[(RTA_OIF, &oif)]), None, "an address of ours");
        assert_eq!(route(inet, 3, &[(RTA_OIF, &oif)]), None, "broadcast");
        assert_eq!(route(inet, 1, &[]), None, "no device");
    }

    #[test]
    fn a_neighbour_counts_while_it_is_valid_and_is_confirmed_when_it_answered() {
        for (state, valid, confirmed) in [
            (NUD_REACHABLE, true, true),
            (NUD_PERMANENT, true, true),
            (NUD_STALE, true, false),
            (NUD_DELAY, true, false),
            (NUD_PROBE, true, false),
            (0x01, false, false),
            (0x20, false, false),
            (0, false, false),
        ] {
            let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
            body.extend(7u32.to_ne_bytes());
            body.extend(state.to_ne_bytes());
            body.extend([0, 0]);
            body.extend(attributes(&[
                (NDA_DST, &[10, 0, 0, 1]),
                (NDA_LLADDR, &[1, 2, 3, 4, 5, 6]),
            ]));
            let message = message(libc::RTM_NEWNEIGH, 0, 1, &body);
            let address = valid.then_some([1, 2, 3, 4, 5, 6]);
            let found = Neighbour { address, confirmed };
            assert_eq!(neighbour(&message), Some((7, [10, 0, 0, 1].into(), found)), "{state:#x}");
            let mut changes = Changes::default();
            hear(&message, &mut changes);
            assert_eq!(changes.neighbours, [(7, IpAddr::from([10, 0, 0, 1]))]);
            for length in 0..message.len() {
                hear(&message[..length], &mut Changes::default());
            }
        }
    }

    #[test]
    fn devices_are_read_with_their_vlans() {
        let data = |protocol: [u8; 2]| {
            attributes(&[(IFLA_VLAN_ID, &7u16.to_ne_bytes()), (IFLA_VLAN_PROTOCOL, &protocol)])
        };
        let info = |protocol| {
            attributes(&[(IFLA_INFO_KIND, b"vlan\0"), (IFLA_INFO_DATA, &data(protocol))])
        };
        let device = |info: &[u8], up: u32| {
            let mut body = vec![0, 0];
            body.extend(ARPHRD_ETHER.to_ne_bytes());
            body.extend(9u32.to_ne_bytes());
            body.extend(up.to_ne_bytes());
            body.resize(LINK_BODY, 0);
            let lower = 4u32.to_ne_bytes();
            body.extend(attributes(&[
                (IFLA_IFNAME, b"eth0.7\0"),
                (IFLA_ADDRESS, &[2; 6]),
                (IFLA_MTU, &1400u32.to_ne_bytes()),
                (IFLA_LINK, &lower),
                (IFLA_LINKINFO, info),
            ]));
            let message = message(libc::RTM_NEWLINK, 0, 1, &body);
            for length in 0..message.len() {
                let _ = link(&message[..length]);
            }
            link(&message).unwrap()
        };
        let tagged = device(&info(ETHERTYPE_VLAN), 1);
        let expected = Link {
            ifindex: 9,
            name: "eth0.7".to_owned(),
            address: Some([2; 6]),
            up: true,
            mtu: 1400,
            vlan: Some((4, 7)),
        };
        assert_eq!(tagged, expected);
        let other = device(&info([0x88, 0xa8]), 1);
        assert_eq!((other.up, other.vlan), (false, None), "802.1ad is no way");
        let veth = device(&attributes(&[(IFLA_INFO_KIND, b"veth\0")]), 0);
        assert_eq!((veth.up, veth.vlan), (false, None));
    }
}
