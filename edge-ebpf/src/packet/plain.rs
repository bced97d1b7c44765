//! Plain packets: untagged, no options, no extension header, no fragment, TCP or UDP, all in one
//! piece of memory, nothing wrong with them.
//!
//! The checks are those of [`super::parse`], for the one shape that most packets have; whatever
//! has another shape, or something wrong, is not plain and is left to it. What is wanted of a
//! plain packet is read from the frame where it is used: the kernel program has few registers
//! that outlive a call.

use super::{
    Cursor, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, Frame, Kind, PROTOCOL_TCP, PROTOCOL_UDP, TCP_ACK,
    TCP_FIN, TCP_RST, TCP_SYN, Transport,
};

/// Bytes of a header without a tag, option or extension header.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// All of IPv4's fragment word but "do not fragment".
const FRAGMENTED: u16 = 0x3fff;

/// The EtherType of a frame.
#[inline(always)]
pub fn ether_type(frame: &Frame<'_>) -> Option<u16> {
    Some(frame.cursor().take::<ETHERNET>()?.number::<12>())
}

/// Whether this is a plain packet of IPv4.
#[inline(always)]
pub fn is_plain4(frame: &Frame<'_>) -> bool {
    let mut cursor = frame.cursor();
    let Some(header) = cursor.take::<{ ETHERNET + IPV4 }>() else { return false };
    let length = (header.number::<{ ETHERNET + 2 }>() as usize).wrapping_sub(IPV4);
    header.number::<12>() == ETHER_TYPE_IPV4
        && header.byte::<ETHERNET>() == 0x45
        && header.number::<{ ETHERNET + 6 }>() & FRAGMENTED == 0
        && length <= cursor.remaining()
        && !matches!(header.byte::<{ ETHERNET + 12 }>(), 0 | 127 | 224..)
        && sound(cursor, header.byte::<{ ETHERNET + 9 }>(), length)
}

/// Whether this is a plain packet of IPv6.
#[inline(always)]
pub fn is_plain6(frame: &Frame<'_>) -> bool {
    let mut cursor = frame.cursor();
    let Some(header) = cursor.take::<{ ETHERNET + IPV6 }>() else { return false };
    let length = header.number::<{ ETHERNET + 4 }>() as usize;
    header.number::<12>() == ETHER_TYPE_IPV6
        && header.byte::<ETHERNET>() >> 4 == 6
        && length <= cursor.remaining()
        && header.byte::<{ ETHERNET + 8 }>() != 0xff
        // Of all sources that begin with eight zeroes some are refused.
        && header.eight::<{ ETHERNET + 8 }>() != 0
        && sound(cursor, header.byte::<{ ETHERNET + 6 }>(), length)
}

/// Whether there is a sound TCP or UDP header.
#[inline(always)]
fn sound(mut cursor: Cursor<'_>, protocol: u8, length: usize) -> bool {
    if protocol == PROTOCOL_UDP {
        let Some(header) = cursor.take::<8>() else { return false };
        let promised = header.number::<4>() as usize;
        promised >= 8 && promised <= length
    } else if protocol == PROTOCOL_TCP {
        let Some(header) = cursor.take::<20>() else { return false };
        let header_length = ((header.byte::<12>() >> 4) as usize) * 4;
        let flags = header.byte::<13>();
        header_length >= 20
            && header_length <= length
            && flags & (TCP_SYN | TCP_ACK | TCP_RST) != 0
            && (flags & TCP_SYN == 0 || flags & (TCP_FIN | TCP_RST) == 0)
    } else {
        false
    }
}

/// The transport header of a plain packet, and the bytes of its IP header.
#[inline(always)]
pub fn plain_transport(frame: &Frame<'_>, six: bool) -> Option<(Transport, u16)> {
    let mut cursor = frame.cursor();
    let (protocol, header_length) = if six {
        (cursor.take::<{ ETHERNET + IPV6 }>()?.byte::<{ ETHERNET + 6 }>(), IPV6)
    } else {
        (cursor.take::<{ ETHERNET + IPV4 }>()?.byte::<{ ETHERNET + 9 }>(), IPV4)
    };
    let header = cursor.peek::<8>()?;
    let mut transport = Transport {
        kind: Kind::Udp,
        detail: 0,
        source_port: header.number::<0>(),
        destination_port: header.number::<2>(),
    };
    if protocol == PROTOCOL_TCP {
        transport.kind = Kind::Tcp;
        transport.detail = cursor.take::<20>()?.byte::<13>();
    }
    Some((transport, header_length as u16))
}
