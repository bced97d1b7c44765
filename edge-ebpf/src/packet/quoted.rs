//! The packet that an ICMP error quotes (RFC 792, RFC 4443 section 3): one that we are said to
//! have sent. Only its addresses and ports are read; nothing of it is trusted before a socket or
//! a remembered flow confirms it.

use super::{
    Cursor, ICMP_ECHO_REQUEST, ICMPV6_ECHO_REQUEST, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP,
    PROTOCOL_UDP,
};

/// The fragment header (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;

/// A quoted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<A> {
    /// Its source: said to be ours.
    pub source: A,
    /// Its destination.
    pub destination: A,
    /// TCP, UDP, ICMP or ICMPv6.
    pub protocol: u8,
    /// Source port, or the identifier of an echo request, host order.
    pub source_port: u16,
    /// Destination port, host order; zero for an echo request.
    pub destination_port: u16,
}

/// An address family that can be quoted.
pub trait Quotable: Copy {
    /// Reads the IP header: source, destination, protocol. The cursor then stands after it.
    fn header(cursor: &mut Cursor<'_>) -> Option<(Self, Self, u8)>;
    /// The protocol and the type of an echo request.
    const ECHO: (u8, u8);
}

impl Quotable for [u8; 4] {
    const ECHO: (u8, u8) = (PROTOCOL_ICMP, ICMP_ECHO_REQUEST);

    #[inline(always)]
    fn header(cursor: &mut Cursor<'_>) -> Option<(Self, Self, u8)> {
        let header = cursor.take::<20>()?;
        let first = header.byte::<0>();
        let length = ((first & 0x0f) as usize) * 4;
        // Later fragments hold no ports.
        if first >> 4 != 4 || length < 20 || header.number::<6>() & 0x1fff != 0 {
            return None;
        }
        cursor.skip(length - 20);
        Some((header.four::<12>(), header.four::<16>(), header.byte::<9>()))
    }
}

impl Quotable for [u8; 16] {
    const ECHO: (u8, u8) = (PROTOCOL_ICMPV6, ICMPV6_ECHO_REQUEST);

    #[inline(always)]
    fn header(cursor: &mut Cursor<'_>) -> Option<(Self, Self, u8)> {
        let header = cursor.take::<40>()?;
        if header.byte::<0>() >> 4 != 6 {
            return None;
        }
        let mut next = header.byte::<6>();
        if next == FRAGMENT {
            // The stack cuts a datagram that is too long: its first piece has the ports.
            let piece = cursor.take::<8>()?;
            if piece.number::<2>() & 0xfff8 != 0 {
                return None;
            }
            next = piece.byte::<0>();
        }
        Some((header.sixteen::<8, 16>(), header.sixteen::<24, 32>(), next))
    }
}

/// Reads the packet that an ICMP error quotes, if it is one that could be ours. The cursor
/// stands at the ICMP header.
#[inline(always)]
pub fn quoted<A: Quotable>(mut cursor: Cursor<'_>) -> Option<Quoted<A>> {
    cursor.take::<8>()?;
    let (source, destination, protocol) = A::header(&mut cursor)?;
    let start = cursor.take::<8>()?;
    let (source_port, destination_port) = if matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP) {
        (start.number::<0>(), start.number::<2>())
    } else if protocol == A::ECHO.0 && start.byte::<0>() == A::ECHO.1 {
        (start.number::<4>(), 0)
    } else {
        return None;
    };
    Some(Quoted { source, destination, protocol, source_port, destination_port })
}
