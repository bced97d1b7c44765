//! Links and addresses as they come and go, and whether the stack forwards: what rtnetlink says of
//! them (rtnetlink(7)).
//!
//! What it says is a hint to look again, never a fact to build on: between the message and the
//! look everything may have changed.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::sys;

const RTMGRP_LINK: u32 = 1;
/// `RTMGRP_IPV4_IFADDR` and that of IPv6.
const ADDRESSES: u32 = 0x10 | 0x100;
/// `RTNLGRP_IPV4_NETCONF` is group 24, that of IPv6 is 25.
const NETCONF: u32 = 1 << 23 | 1 << 24;
const IFLA_IFNAME: u16 = 3;
const RTM_NEWNETCONF: u16 = 80;
/// `nlmsghdr`, and `netconfmsg` of one byte.
const NETCONF_HEADERS: usize = 20;
const NETCONFA_FORWARDING: u16 = 2;
/// `nlmsghdr` and `ifinfomsg`, 16 bytes each.
const HEADERS: usize = 32;

/// A link that came, changed or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkEvent {
    pub ifindex: u32,
    /// Its name now.
    pub name: String,
    /// Up, and no loopback.
    pub up: bool,
    pub gone: bool,
}

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Events(Vec<LinkEvent>),
    /// Addresses changed, forwarding was switched on, or some messages are lost.
    Anything,
}

/// A socket that hears of links in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct LinkWatch {
    socket: OwnedFd,
}

impl AsRawFd for LinkWatch {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl LinkWatch {
    /// Listens from now on.
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: plain system call; the descriptor is owned below.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned this descriptor, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zeros is a value of this plain C structure.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = RTMGRP_LINK | ADDRESSES | NETCONF;
        // SAFETY: the address has the length that is given and outlives the call.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as u32,
            )
        };
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { socket }) }
    }

    /// For the runtime of this thread.
    pub fn in_runtime(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the watch owns its descriptor, never replaces it, and closes it when dropped.
        let registered = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        registered.map_err(io::Error::from)
    }

    /// Everything that waits. `WouldBlock`: nothing does.
    pub fn hear(&self) -> io::Result<Heard> {
        let (mut events, mut heard) = (Vec::new(), false);
        let mut buffer = vec![0u8; 64 * 1024];
        loop {
            match rustix::io::read(&self.socket, &mut buffer) {
                Ok(length) => {
                    let datagram = buffer.get(..length).unwrap_or_default();
                    if messages(datagram).any(is_for_all) {
                        return Ok(Heard::Anything);
                    }
                    events.extend(messages(datagram).filter_map(link));
                    heard = true;
                }
                Err(rustix::io::Errno::NOBUFS) => return Ok(Heard::Anything),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) if heard => return Ok(Heard::Events(events)),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The messages of a datagram. What cannot be read is left out.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = word(rest, 0)? as usize;
        let message = rest.get(..length).filter(|_| length >= 16)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Whether it asks for a look at everything.
fn is_for_all(message: &[u8]) -> bool {
    matches!(kind(message), Some(libc::RTM_NEWADDR | libc::RTM_DELADDR))
        || switches_forwarding_on(message)
}

fn kind(message: &[u8]) -> Option<u16> {
    message.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes)
}

/// Whether the stack forwards what comes in at some device, from now on.
fn switches_forwarding_on(message: &[u8]) -> bool {
    let forwarding = || {
        let value = sys::attribute(message.get(NETCONF_HEADERS..)?, NETCONFA_FORWARDING)?;
        word(value, 0)
    };
    kind(message) == Some(RTM_NEWNETCONF) && forwarding().is_some_and(|value| value != 0)
}

fn link(message: &[u8]) -> Option<LinkEvent> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let gone = match kind {
        libc::RTM_NEWLINK => false,
        libc::RTM_DELLINK => true,
        _ => return None,
    };
    // Bridges speak of their ports in messages of their own family.
    if i32::from(*message.get(16)?) != libc::AF_UNSPEC {
        return None;
    }
    let (ifindex, flags) = (word(message, 20)?, word(message, 24)?);
    let name = sys::attribute(message.get(HEADERS..)?, IFLA_IFNAME)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let up = flags & libc::IFF_UP as u32 != 0 && flags & libc::IFF_LOOPBACK as u32 == 0;
    Some(LinkEvent {
        ifindex,
        name: String::from_utf8_lossy(name).into_owned(),
        up: up && !gone,
        gone,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, ifindex: u32, flags: u32, name: &[u8]) -> Vec<u8> {
        let attribute = 4 + name.len() + 1;
        let length = HEADERS + attribute.next_multiple_of(4);
        let mut bytes = (length as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(16, 0);
        bytes.push(family);
        bytes.resize(20, 0);
        bytes.extend(ifindex.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.resize(HEADERS, 0);
        bytes.extend((attribute as u16).to_ne_bytes());
        bytes.extend(IFLA_IFNAME.to_ne_bytes());
        bytes.extend(name);
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn links_are_read_from_messages_and_nothing_else_is() {
        let up = libc::IFF_UP as u32;
        let new = message(libc::RTM_NEWLINK, 0, 7, up, b"eth0.7");
        let gone = message(libc::RTM_DELLINK, 0, 8, up, b"x");
        let bridge = message(libc::RTM_DELLINK, libc::AF_BRIDGE as u8, 7, up, b"eth0");
        let loopback = message(libc::RTM_NEWLINK, 0, 1, up | libc::IFF_LOOPBACK as u32, b"lo");
        let other = message(libc::RTM_NEWADDR, 0, 7, up, b"eth0");
        let all = [new, bridge, other, gone, loopback].concat();
        let parse = |bytes: &[u8]| messages(bytes).filter_map(link).collect::<Vec<_>>();
        let event =
            |ifindex, name: &str, up, gone| LinkEvent { ifindex, name: name.into(), up, gone };
        let expected = [
            event(7, "eth0.7", true, false),
            event(8, "x", false, true),
            event(1, "lo", false, false),
        ];
        assert_eq!(parse(&all), expected);
        for length in 0..all.len() {
            assert!(parse(&all[..length]).len() <= expected.len(), "{length}");
        }
        assert!(parse(&[0; 64]).is_empty(), "a length of zero ends it");
    }

    #[test]
    fn forwarding_that_is_switched_on_is_heard() {
        let netconf = |kind: u16, attribute: u16, value: u32| {
            let mut bytes = 36u32.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.resize(16, 0);
            bytes.extend([libc::AF_INET as u8, 0, 0, 0]);
            for (kind, value) in [(1u16, 7u32), (attribute, value)] {
                bytes.extend(8u16.to_ne_bytes());
                bytes.extend(kind.to_ne_bytes());
                bytes.extend(value.to_ne_bytes());
            }
            bytes
        };
        let is_on = |bytes: &[u8]| messages(bytes).any(switches_forwarding_on);
        let on = netconf(RTM_NEWNETCONF, NETCONFA_FORWARDING, 1);
        assert!(is_on(&on));
        let link = message(libc::RTM_NEWLINK, 0, 7, 0, b"eth0");
        assert!(is_on(&[link, on.clone()].concat()));
        assert!(!is_on(&netconf(RTM_NEWNETCONF, NETCONFA_FORWARDING, 0)));
        assert!(!is_on(&netconf(RTM_NEWNETCONF, NETCONFA_FORWARDING + 1, 1)));
        assert!(!is_on(&netconf(RTM_NEWNETCONF + 1, NETCONFA_FORWARDING, 1)));
        for length in 0..on.len() {
            assert!(!is_on(&on[..length]), "{length}");
        }
    }
}
