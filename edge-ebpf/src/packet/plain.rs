//! Plain packets: untagged, no options, no extension header, no fragment, TCP or UDP, all in one
//! piece of memory, nothing wrong with them.
//!
//! The checks are those of [`super::parse`], for the one shape that most packets have; whatever
//! has another shape, or something wrong, is not plain and is left to it.

use super::{
    Cursor, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, Frame, PROTOCOL_TCP, PROTOCOL_UDP, TCP_ACK, TCP_FIN,
    TCP_RST, TCP_SYN,
};

/// What is done with a plain packet.
pub trait PlainVisitor {
    /// What comes of it.
    type Output;
    /// IPv4: source, whether it is UDP (or else TCP), and destination port.
    fn plain4(self, source: [u8; 4], udp: bool, port: u16) -> Option<Self::Output>;
    /// As [`PlainVisitor::plain4`], for IPv6.
    fn plain6(self, source: [u8; 16], udp: bool, port: u16) -> Option<Self::Output>;
}

/// Reads a frame; `None` when it is not plain or the visitor has no answer.
#[inline(always)]
pub fn plain<V: PlainVisitor>(frame: &Frame<'_>, visitor: V) -> Option<V::Output> {
    let mut cursor = frame.cursor();
    match cursor.take::<14>()?.number::<12>() {
        ETHER_TYPE_IPV4 => plain4(cursor, visitor),
        ETHER_TYPE_IPV6 => plain6(cursor, visitor),
        _ => None,
    }
}

const FRAGMENTED: u16 = 0x3fff;

#[inline(always)]
fn plain4<V: PlainVisitor>(mut cursor: Cursor<'_>, visitor: V) -> Option<V::Output> {
    let header = cursor.take::<20>()?;
    let length = (header.number::<2>() as usize).wrapping_sub(20);
    let source = header.four::<12>();
    let sound = header.byte::<0>() == 0x45
        && header.number::<6>() & FRAGMENTED == 0
        && length <= cursor.remaining()
        && !matches!(source[0], 0 | 127 | 224..);
    if !sound {
        return None;
    }
    let (udp, port) = transport(cursor, header.byte::<9>(), length)?;
    visitor.plain4(source, udp, port)
}

#[inline(always)]
fn plain6<V: PlainVisitor>(mut cursor: Cursor<'_>, visitor: V) -> Option<V::Output> {
    let header = cursor.take::<40>()?;
    let length = header.number::<4>() as usize;
    let source = header.sixteen::<8, 16>();
    // Of all sources that begin with eight zeroes some are refused.
    let sound = header.byte::<0>() >> 4 == 6
        && length <= cursor.remaining()
        && header.byte::<8>() != 0xff
        && header.eight::<8>() != 0;
    if !sound {
        return None;
    }
    let (udp, port) = transport(cursor, header.byte::<6>(), length)?;
    visitor.plain6(source, udp, port)
}

/// Whether it is UDP, and the destination port.
#[inline(always)]
fn transport(mut cursor: Cursor<'_>, protocol: u8, length: usize) -> Option<(bool, u16)> {
    if protocol == PROTOCOL_UDP {
        let header = cursor.take::<8>()?;
        let promised = header.number::<4>() as usize;
        (promised >= 8 && promised <= length).then(|| (true, header.number::<2>()))
    } else if protocol == PROTOCOL_TCP {
        let header = cursor.take::<20>()?;
        let header_length = ((header.byte::<12>() >> 4) as usize) * 4;
        let flags = header.byte::<13>();
        let sound = header_length >= 20
            && header_length <= length
            && flags & (TCP_SYN | TCP_ACK | TCP_RST) != 0
            && (flags & TCP_SYN == 0 || flags & (TCP_FIN | TCP_RST) == 0);
        sound.then(|| (false, header.number::<2>()))
    } else {
        None
    }
}
