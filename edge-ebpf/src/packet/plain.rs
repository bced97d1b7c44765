//! Plain packets: untagged, no options, no extension header, no fragment, TCP or UDP, all in one
//! piece of memory, nothing wrong with them.
//!
//! The checks are those of [`super::parse`], for the one shape that most packets have; whatever
//! has another shape, or something wrong, is not plain and is left to it. What is wanted of a
//! plain packet is read from the frame where it is used: the kernel program has few registers
//! that outlive a call.

use super::{
    ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, Frame, Kind, PROTOCOL_TCP, PROTOCOL_UDP, TCP_ACK, TCP_FIN,
    TCP_RST, TCP_SYN, Transport,
};

/// Bytes of a header without a tag, option or extension header.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// All of IPv4's fragment word but "do not fragment".
const FRAGMENTED: u16 = 0x3fff;
/// Bytes of a UDP header: what follows the IP header of a plain packet is no shorter.
const UDP: usize = 8;

/// Whether this is a plain packet of IPv4.
#[inline(always)]
pub fn is_plain4(frame: &Frame<'_>) -> bool {
    let mut cursor = frame.cursor();
    let Some(header) = cursor.take::<{ ETHERNET + IPV4 + UDP }>() else { return false };
    let length = header.number::<{ ETHERNET + 2 }>() as usize;
    header.number::<12>() == ETHER_TYPE_IPV4
        && header.byte::<ETHERNET>() == 0x45
        && header.number::<{ ETHERNET + 6 }>() & FRAGMENTED == 0
        && ETHERNET + length <= frame.len()
        && !matches!(header.byte::<{ ETHERNET + 12 }>(), 0 | 127 | 224..)
        && match header.byte::<{ ETHERNET + 9 }>() {
            PROTOCOL_UDP => {
                let promised = header.number::<{ ETHERNET + IPV4 + 4 }>() as usize;
                promised >= UDP && IPV4 + promised <= length
            }
            PROTOCOL_TCP => sound_tcp::<{ ETHERNET + IPV4 }>(frame, ETHERNET + length),
            _ => false,
        }
}

/// Whether this is a plain packet of IPv6.
#[inline(always)]
pub fn is_plain6(frame: &Frame<'_>) -> bool {
    let mut cursor = frame.cursor();
    let Some(header) = cursor.take::<{ ETHERNET + IPV6 + UDP }>() else { return false };
    let length = header.number::<{ ETHERNET + 4 }>() as usize;
    header.number::<12>() == ETHER_TYPE_IPV6
        && header.byte::<ETHERNET>() >> 4 == 6
        && ETHERNET + IPV6 + length <= frame.len()
        && header.byte::<{ ETHERNET + 8 }>() != 0xff
        // Of all sources that begin with eight zeroes some are refused.
        && header.eight::<{ ETHERNET + 8 }>() != 0
        && match header.byte::<{ ETHERNET + 6 }>() {
            PROTOCOL_UDP => {
                let promised = header.number::<{ ETHERNET + IPV6 + 4 }>() as usize;
                promised >= UDP && promised <= length
            }
            PROTOCOL_TCP => sound_tcp::<{ ETHERNET + IPV6 }>(frame, ETHERNET + IPV6 + length),
            _ => false,
        }
}

/// Whether there is a sound TCP header at `AT` of a packet that ends at `end` of the frame.
#[inline(always)]
fn sound_tcp<const AT: usize>(frame: &Frame<'_>, end: usize) -> bool {
    let mut cursor = frame.cursor();
    cursor.skip(AT);
    let Some(header) = cursor.take::<20>() else { return false };
    let header_length = ((header.byte::<12>() >> 4) as usize) * 4;
    let flags = header.byte::<13>();
    header_length >= 20
        && AT + header_length <= end
        && flags & (TCP_SYN | TCP_ACK | TCP_RST) != 0
        && (flags & TCP_SYN == 0 || flags & (TCP_FIN | TCP_RST) == 0)
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
