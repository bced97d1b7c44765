//! Which addresses are ours: those of every interface, and those the configuration adds.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr,
};

use crate::config::Config;

/// Every address by which this appliance can be reached: of its interfaces now, the listeners',
/// and the advertised ones. Sorted, each once. Loopback is among them.
pub fn own_addresses(config: &Config) -> Vec<IpAddr> {
    let mut own = interface_addresses().unwrap_or_else(|error| {
        tracing::warn!(%error, "the interfaces' addresses cannot be listed");
        Vec::new()
    });
    own.extend(config.access.listen.iter().map(|a| a.ip()));
    own.extend(config.inside.listen.iter().map(|(_, a)| a.ip()));
    own.extend(config.access.advertise.iter().copied());
    own.extend(config.services.addresses());
    own.retain(|address| !address.is_unspecified());
    for address in &mut own {
        *address = address.to_canonical();
    }
    own.sort_unstable();
    own.dedup();
    own
}

/// The addresses of the interfaces of this network namespace.
pub fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let mut list: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `list` is a valid place for the pointer; on success it holds a list that
    // `freeifaddrs` frees below, once.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: `next` is a non-null element of the list, which lives until it is freed.
        let entry = unsafe { &*next };
        // SAFETY: `ifa_addr` is null or points to an address as long as its family says, and
        // lives as long as the list.
        if let Some(address) = unsafe { address(entry.ifa_addr) } {
            found.push(address);
        }
        next = entry.ifa_next;
    }
    // SAFETY: `list` came from `getifaddrs` and nothing points into it any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// # Safety
/// `socket` is null, or points to a socket address as long as its family says.
unsafe fn address(socket: *const libc::sockaddr) -> Option<IpAddr> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null, and every socket address begins with its family; `read_unaligned` asks
    // for no alignment.
    let family = unsafe { ptr::addr_of!((*socket).sa_family).read_unaligned() };
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: an AF_INET address is a `sockaddr_in`.
            let v4 = unsafe { socket.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: an AF_INET6 address is a `sockaddr_in6`.
            let v6 = unsafe { socket.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_the_interfaces_addresses() {
        let found = interface_addresses().unwrap();
        assert!(found.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{found:?}");
    }
}
