//! Cursor parser: Ethernet, VLAN and QinQ, IPv4, IPv6 with extension headers, TCP, UDP, ICMP.
//!
//! It looks at headers only, never allocates, and has an answer for every sequence of bytes:
//! either a [`Packet`] or the [`Reason`] why there is none. What it does not know it refuses;
//! nothing is passed because it could not be read. The same code runs over slices on the host
//! and over the packet memory of the kernel program.
//!
//! RFC 791, RFC 8200, RFC 9293, RFC 768, RFC 792, RFC 4443, IEEE 802.1Q.

mod cursor;
mod ip;
mod link;
mod quoted;
#[cfg(test)]
mod tests;
mod transport;

pub use cursor::{Cursor, Frame};
pub use ip::{MAX_EXTENSION_HEADERS, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};
pub use link::Link;
pub use quoted::{Quoted, quoted};
pub use transport::{
    ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMPV6_ECHO_REPLY, ICMPV6_ECHO_REQUEST, TCP_ACK, TCP_FIN,
    TCP_RST, TCP_SYN, Transport,
};

use crate::verdict::Reason;

/// A packet whose headers are sound.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The link layer.
    pub link: Link,
    /// What is in it.
    pub content: Content<'a>,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// An ARP packet; not looked into.
    Arp,
    /// An LLDP frame; not looked into.
    Lldp,
    /// A slow-protocols frame (LACP); not looked into.
    Lacp,
    /// An IPv4 packet.
    V4(Ip<'a, [u8; 4]>),
    /// An IPv6 packet.
    V6(Ip<'a, [u8; 16]>),
}

/// An IP packet of either family.
#[derive(Clone, Copy, Debug)]
pub struct Ip<'a, A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// The upper-layer protocol, after all extension headers.
    pub protocol: u8,
    /// Whether the packet is a fragment (the first one; others are refused).
    pub fragment: bool,
    /// The upper-layer header.
    pub transport: Transport<'a>,
}

/// Reads the headers of a frame.
///
/// `total` gives the length of the whole frame; it is asked only when the IP header promises
/// more than the frame's memory holds, as it may where a frame lies in several pieces.
///
/// # Errors
/// The reason to drop the frame.
#[inline(always)]
pub fn parse<'a>(frame: &Frame<'a>, total: impl Fn() -> usize) -> Result<Packet<'a>, Reason> {
    let mut cursor = frame.cursor();
    let link = link::parse(&mut cursor)?;
    let content = match link.ether_type {
        link::IPV4 => Content::V4(ip::parse4(cursor, frame, &total)?),
        link::IPV6 => Content::V6(ip::parse6(cursor, frame, &total)?),
        link::ARP => Content::Arp,
        link::LLDP => Content::Lldp,
        link::SLOW_PROTOCOLS => Content::Lacp,
        _ => return Err(Reason::EtherType),
    };
    Ok(Packet { link, content })
}
