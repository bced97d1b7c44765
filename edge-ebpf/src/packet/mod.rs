//! Cursor parser: Ethernet, VLAN and QinQ, IPv4, IPv6 with extension headers, TCP, UDP, ICMP.
//!
//! It looks at headers only, never allocates, and has an answer for every sequence of bytes:
//! either the headers or the [`Reason`] why there is none. What it does not know it refuses;
//! nothing is passed because it could not be read. The same code runs over slices on the host
//! and over the packet memory of the kernel program.
//!
//! RFC 791, RFC 8200, RFC 9293, RFC 768, RFC 792, RFC 4443, IEEE 802.1Q.

mod content;
mod cursor;
mod ip;
mod link;
mod plain;
mod quoted;
mod summary;
#[cfg(test)]
mod tests;
mod transport;

pub use content::{is_scanner, payload, refused_content, refused_first_byte};
pub use cursor::{Cursor, Frame};
pub use ip::{
    MAX_EXTENSION_HEADERS, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, Upper,
    extension_headers, options,
};
pub use link::{
    ETHER_TYPE_ARP, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, ETHER_TYPE_LLDP, ETHER_TYPE_SLOW_PROTOCOLS,
    Link, read_link,
};
pub use plain::{is_plain4, is_plain6, plain_transport};
pub use quoted::{Quotable, Quoted, quoted};
pub use summary::describe;
pub use transport::{
    ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMPV6_ECHO_REPLY, ICMPV6_ECHO_REQUEST, Kind, TCP_ACK,
    TCP_FIN, TCP_RST, TCP_SYN, Transport,
};

use crate::verdict::Reason;

/// What is done with a frame whose headers are sound. A call for each kind of content, rather
/// than a value that holds one of them, so that the kernel program never copies it.
pub trait Handler {
    /// What comes of it.
    type Output;
    /// A frame without IP. The EtherType is for the handler to judge.
    fn link(self, link: &Link) -> Self::Output;
    /// An IPv4 packet.
    fn ipv4(self, link: &Link, ip: &Ip<'_, [u8; 4]>) -> Self::Output;
    /// An IPv6 packet.
    fn ipv6(self, link: &Link, ip: &Ip<'_, [u8; 16]>) -> Self::Output;
    /// A later fragment of an IPv4 packet.
    fn piece4(self, link: &Link, piece: &Piece<[u8; 4]>) -> Self::Output;
    /// A later fragment of an IPv6 packet.
    fn piece6(self, link: &Link, piece: &Piece<[u8; 16]>) -> Self::Output;
}

/// A fragment after the first: it has no upper-layer header.
#[derive(Clone, Copy, Debug)]
pub struct Piece<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// What the fragments of one packet have in common, beside the addresses: identification.
    pub id: u32,
    /// The upper-layer protocol (IPv4); 0 in IPv6, where later fragments need not repeat it.
    pub protocol: u8,
    /// Where its bytes begin in the packet.
    pub offset: u32,
    /// How many there are.
    pub length: u32,
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
    /// Whether the packet is a fragment: the first one.
    pub fragment: bool,
    /// Identification, of a first fragment; else 0.
    pub fragment_id: u32,
    /// Bytes of the packet that a first fragment brings; else 0.
    pub fragment_length: u32,
    /// Bytes of the IP header and all extension headers.
    pub header_length: u16,
    /// The upper-layer header.
    pub transport: Transport,
    /// Where the upper-layer header begins.
    pub upper: Cursor<'a>,
}

/// What the parser asks beside the frame's memory.
pub trait Environment {
    /// The length of the whole frame. Asked only when the IP header promises more than the
    /// frame's memory holds, as it may where a frame lies in several pieces.
    fn total_length(&self) -> usize;

    /// Walks IPv6 extension headers: always [`extension_headers`], which the kernel program
    /// calls as a function that the verifier proves by itself.
    ///
    /// # Errors
    /// The reason to drop the frame.
    #[inline(always)]
    fn extension_headers(
        &self,
        frame: &Frame<'_>,
        offset: usize,
        first: u8,
        length: usize,
    ) -> Result<Upper, Reason> {
        extension_headers(frame, offset, first, length)
    }

    /// Walks IPv4 options: always [`options`], which the kernel program calls likewise. `offset`
    /// is where they begin in the frame, `length` how many bytes they are.
    ///
    /// # Errors
    /// The reason to drop the frame.
    #[inline(always)]
    fn options(&self, frame: &Frame<'_>, offset: usize, length: usize) -> Result<(), Reason> {
        options(frame, offset, length)
    }
}

/// A frame that is all in one piece.
impl Environment for &[u8] {
    fn total_length(&self) -> usize {
        self.len()
    }
}

/// Reads the headers of a frame and gives them to the handler.
///
/// # Errors
/// The reason to drop the frame.
#[inline(always)]
pub fn parse<H: Handler>(
    frame: &Frame<'_>,
    environment: &impl Environment,
    handler: H,
) -> Result<H::Output, Reason> {
    let mut cursor = frame.cursor();
    let mut link = Link::default();
    read_link(&mut cursor, &mut link)?;
    match link.ether_type {
        ETHER_TYPE_IPV4 => ip::parse4(cursor, frame, environment, &link, handler),
        ETHER_TYPE_IPV6 => ip::parse6(cursor, frame, environment, &link, handler),
        _ => Ok(handler.link(&link)),
    }
}
