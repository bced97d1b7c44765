//! TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792) and ICMPv6 (RFC 4443) headers.

use super::{Cursor, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::verdict::Reason;

/// TCP flag FIN.
pub const TCP_FIN: u8 = 0x01;
/// TCP flag SYN.
pub const TCP_SYN: u8 = 0x02;
/// TCP flag RST.
pub const TCP_RST: u8 = 0x04;
/// TCP flag ACK.
pub const TCP_ACK: u8 = 0x10;

/// ICMP echo reply.
pub const ICMP_ECHO_REPLY: u8 = 0;
/// ICMP echo request.
pub const ICMP_ECHO_REQUEST: u8 = 8;
/// ICMPv6 echo request.
pub const ICMPV6_ECHO_REQUEST: u8 = 128;
/// ICMPv6 echo reply.
pub const ICMPV6_ECHO_REPLY: u8 = 129;

/// The upper-layer header.
#[derive(Clone, Copy, Debug)]
pub enum Transport<'a> {
    /// TCP.
    Tcp {
        /// Source port, big-endian.
        source_port: [u8; 2],
        /// Destination port, big-endian.
        destination_port: [u8; 2],
        /// The flags' byte.
        flags: u8,
    },
    /// UDP.
    Udp {
        /// Source port, big-endian.
        source_port: [u8; 2],
        /// Destination port, big-endian.
        destination_port: [u8; 2],
    },
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The identifier of an echo.
        identifier: [u8; 2],
        /// What comes after the first eight bytes: in an error, the quoted packet.
        rest: Cursor<'a>,
    },
    /// Any other protocol; not looked into.
    Other,
}

impl Transport<'_> {
    /// Whether this is a DHCP client's request, which alone has no source address (RFC 2131).
    #[inline(always)]
    pub(super) fn is_dhcp_request(&self) -> bool {
        matches!(self, Transport::Udp { source_port: [0, 68], destination_port: [0, 67] })
    }
}

/// Reads the upper-layer header. `length` is what the IP header leaves for it; `icmp` is the
/// protocol number of this family's ICMP.
#[inline(always)]
pub(super) fn parse<'a>(
    cursor: &mut Cursor<'a>,
    protocol: u8,
    length: usize,
    fragment: bool,
    icmp: u8,
) -> Result<Transport<'a>, Reason> {
    // A first fragment too short to be judged (RFC 1858, RFC 7112).
    let short = if fragment { Reason::Fragment } else { Reason::Truncated };
    if protocol == PROTOCOL_TCP {
        tcp(cursor, length, fragment, short)
    } else if protocol == PROTOCOL_UDP {
        if length < 8 {
            return Err(short);
        }
        let header = cursor.take::<8>().ok_or(short)?;
        let promised = header.number::<4>() as usize;
        if promised < 8 || (promised > length && !fragment) {
            return Err(Reason::BadLength);
        }
        Ok(Transport::Udp { source_port: header.two::<0>(), destination_port: header.two::<2>() })
    } else if protocol == icmp {
        if length < 8 {
            return Err(short);
        }
        let header = cursor.take::<8>().ok_or(short)?;
        let (kind, code) = (header.byte::<0>(), header.byte::<1>());
        Ok(Transport::Icmp { kind, code, identifier: header.two::<4>(), rest: *cursor })
    } else {
        Ok(Transport::Other)
    }
}

#[inline(always)]
fn tcp<'a>(
    cursor: &mut Cursor<'a>,
    length: usize,
    fragment: bool,
    short: Reason,
) -> Result<Transport<'a>, Reason> {
    if length < 20 {
        return Err(short);
    }
    let header = cursor.take::<20>().ok_or(short)?;
    let header_length = ((header.byte::<12>() >> 4) as usize) * 4;
    if header_length < 20 {
        return Err(Reason::BadLength);
    }
    if header_length > length {
        return Err(if fragment { Reason::Fragment } else { Reason::BadLength });
    }
    let flags = header.byte::<13>();
    // Every segment has one of SYN, ACK and RST, and SYN comes with neither FIN nor RST.
    if flags & (TCP_SYN | TCP_ACK | TCP_RST) == 0
        || (flags & TCP_SYN != 0 && flags & (TCP_FIN | TCP_RST) != 0)
    {
        return Err(Reason::TcpFlags);
    }
    let (source_port, destination_port) = (header.two::<0>(), header.two::<2>());
    Ok(Transport::Tcp { source_port, destination_port, flags })
}
