//! `IN IP4 address`: what `c=`, `o=` and `a=rtcp` hold (RFC 8866 section 5.7).

use std::{net::IpAddr, ops::Range};

use super::SdpFault;
use crate::sip::Host;

/// An address, and where `IN IP4 address` stands.
#[derive(Clone, Debug)]
pub(super) struct ConnectionAt {
    /// From `IN` to the end of the address.
    pub range: Range<u32>,
    /// `None`: it is a name.
    pub address: Option<IpAddr>,
}

/// Reads three words; `base` is where the first one begins.
pub(super) fn read(words: [(u32, &[u8]); 3]) -> Result<ConnectionAt, SdpFault> {
    let [(start, network), (_, family), (at, host)] = words;
    let six = match (network, family) {
        (b"IN", b"IP4") => false,
        (b"IN", b"IP6") => true,
        _ => return Err(SdpFault::Connection),
    };
    if host.contains(&b'/') {
        return Err(SdpFault::Multicast);
    }
    let range = start..at + host.len() as u32;
    let host = std::str::from_utf8(host).map_err(|_| SdpFault::Connection)?;
    if let Ok(address) = host.parse::<IpAddr>() {
        if address.is_ipv6() != six {
            return Err(SdpFault::Connection);
        }
        judge(address)?;
        return Ok(ConnectionAt { range, address: Some(address) });
    }
    match Host::parse(host) {
        Some(Host::Name(_)) => Ok(ConnectionAt { range, address: None }),
        _ => Err(SdpFault::Connection),
    }
}

/// What no call between two parties has. Whether an address makes sense is not judged here.
pub(super) fn judge(address: IpAddr) -> Result<(), SdpFault> {
    if address.is_multicast() {
        return Err(SdpFault::Multicast);
    }
    match address {
        IpAddr::V6(six) if six.to_ipv4_mapped().is_some() => Err(SdpFault::Mapped),
        _ => Ok(()),
    }
}

/// The words for an address of ours.
pub(super) fn write(address: IpAddr) -> String {
    let family = if address.is_ipv6() { "IP6" } else { "IP4" };
    format!("IN {family} {address}")
}
