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

/// Which upper-layer header there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp,
    /// Any other protocol; not looked into.
    Other,
}

/// The upper-layer header. One flat record rather than an enum with fields: the kernel program
/// keeps it in registers.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    /// Which it is.
    pub kind: Kind,
    /// TCP's flags, or the type of an ICMP message; else 0.
    pub detail: u8,
    /// Source port in host order; of an ICMP echo its identifier; else 0.
    pub source_port: u16,
    /// Destination port in host order; else 0.
    pub destination_port: u16,
}

impl Transport {
    /// A header that is not looked into.
    pub(super) const OTHER: Self =
        Self { kind: Kind::Other, detail: 0, source_port: 0, destination_port: 0 };

    /// Whether this is a DHCP client's request, which alone has no source address (RFC 2131).
    #[inline(always)]
    pub(super) fn is_dhcp_request(&self) -> bool {
        matches!(self.kind, Kind::Udp) && self.source_port == 68 && self.destination_port == 67
    }
}

/// Reads the upper-layer header. `length` is what the IP header leaves for it; `icmp` is the
/// protocol number of this family's ICMP. The answer goes into a place of the caller's, so that
/// its fields stay apart in the kernel program's registers.
#[inline(always)]
pub(super) fn parse(
    mut cursor: Cursor<'_>,
    protocol: u8,
    length: usize,
    fragment: bool,
    icmp: u8,
    transport: &mut Transport,
) -> Result<(), Reason> {
    // A first fragment too short to be judged (RFC 1858, RFC 7112).
    let short = if fragment { Reason::Fragment } else { Reason::Truncated };
    if protocol == PROTOCOL_TCP {
        tcp(cursor, length, fragment, short, transport)
    } else if protocol == PROTOCOL_UDP {
        if length < 8 {
            return Err(short);
        }
        let header = cursor.take::<8>().ok_or(short)?;
        let promised = header.number::<4>() as usize;
        if promised < 8 || (promised > length && !fragment) {
            return Err(Reason::BadLength);
        }
        transport.kind = Kind::Udp;
        transport.source_port = header.number::<0>();
        transport.destination_port = header.number::<2>();
        Ok(())
    } else if protocol == icmp {
        if length < 8 {
            return Err(short);
        }
        let header = cursor.take::<8>().ok_or(short)?;
        transport.kind = Kind::Icmp;
        transport.detail = header.byte::<0>();
        transport.source_port = header.number::<4>();
        Ok(())
    } else {
        Ok(())
    }
}

#[inline(always)]
fn tcp(
    mut cursor: Cursor<'_>,
    length: usize,
    fragment: bool,
    short: Reason,
    transport: &mut Transport,
) -> Result<(), Reason> {
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
    transport.kind = Kind::Tcp;
    transport.detail = flags;
    transport.source_port = header.number::<0>();
    transport.destination_port = header.number::<2>();
    Ok(())
}
