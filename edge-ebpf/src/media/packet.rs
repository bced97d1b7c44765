//! A packet of a media flow: UDP in IPv4 without options or in IPv6 without extension headers, no
//! fragment, behind at most two tags. Whatever has another shape is not forwarded.

use crate::{
    abi::{MEDIA_RTP, MediaFlow, mapped, words6},
    media::{add, folded},
    packet::{Cursor, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, Frame, Link, PROTOCOL_UDP, read_link},
};

/// All of IPv4's fragment word but "do not fragment".
const FRAGMENTED: u16 = 0x3fff;
/// "Do not fragment".
const DO_NOT_FRAGMENT: u16 = 0x4000;
/// Bytes of a UDP header.
const UDP: u16 = 8;
/// Bytes of an RTP header without extensions (RFC 3550 section 5.1).
const RTP: u16 = 12;

/// What a packet shows. Addresses as words, of IPv4 in their mapped form, ports and checksum as
/// numbers whose bytes are those of the packet; the rest in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaPacket {
    /// Source.
    pub source: [u64; 2],
    /// Destination.
    pub destination: [u64; 2],
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// UDP's checksum.
    pub checksum: u16,
    /// UDP's length.
    pub udp_length: u16,
    /// Where the IP header begins in the frame.
    pub network: u32,
    /// Bytes of the frame, as far as its headers say: padding does not count.
    pub length: u32,
    /// Whether it is IPv6.
    pub six: bool,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// Type of service, or traffic class.
    pub class: u8,
    /// Of IPv6, the flow label.
    pub label: u32,
    /// Of IPv4, the identification, as in the packet.
    pub id: u16,
    /// Of IPv4, whether it says "do not fragment".
    pub whole: bool,
    /// The payload's first byte, if there is a payload.
    pub first: Option<u8>,
    /// RTP's header, if it can be one.
    pub rtp: Option<Rtp>,
}

/// What is looked at of an RTP header (RFC 3550 section 5.1), in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rtp {
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
}

impl MediaPacket {
    /// RTP's header, if the flow carries RTP and this is some.
    #[inline(always)]
    pub fn rtp_of(&self, flow: &MediaFlow) -> Option<Rtp> {
        if flow.flags & MEDIA_RTP != 0 { self.rtp } else { None }
    }
}

/// Reads a packet of a media flow; `None`: it has another shape.
#[inline(always)]
pub fn read(frame: &Frame<'_>) -> Option<MediaPacket> {
    let mut cursor = frame.cursor();
    let mut link = Link::default();
    read_link(&mut cursor, &mut link).ok()?;
    let mut packet = MediaPacket { network: u32::from(link.length), ..MediaPacket::default() };
    let payload = match link.ether_type {
        ETHER_TYPE_IPV4 => ipv4(&mut cursor, &mut packet)?,
        ETHER_TYPE_IPV6 => ipv6(&mut cursor, &mut packet)?,
        _ => return None,
    };
    udp(cursor, &mut packet, payload)?;
    Some(packet)
}

/// Bytes after the header.
#[inline(always)]
fn ipv4(cursor: &mut Cursor<'_>, packet: &mut MediaPacket) -> Option<u16> {
    let header = cursor.take::<20>()?;
    let fragment = header.number::<6>();
    // A router forwards no header that is damaged (RFC 1812 section 5.2.2).
    let sum = add(add(add(0, header.eight::<0>()), header.eight::<8>()), four(header.four::<16>()));
    if header.byte::<0>() != 0x45
        || fragment & FRAGMENTED != 0
        || header.byte::<9>() != PROTOCOL_UDP
        || folded(sum) != 0xffff
    {
        return None;
    }
    packet.source = words6(mapped(header.four::<12>()));
    packet.destination = words6(mapped(header.four::<16>()));
    packet.class = header.byte::<1>();
    packet.hops = header.byte::<8>();
    packet.id = u16::from_ne_bytes(header.two::<4>());
    packet.whole = fragment & DO_NOT_FRAGMENT != 0;
    packet.length = packet.network + u32::from(header.number::<2>());
    header.number::<2>().checked_sub(20)
}

#[inline(always)]
fn four(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(bytes))
}

/// Bytes after the header.
#[inline(always)]
fn ipv6(cursor: &mut Cursor<'_>, packet: &mut MediaPacket) -> Option<u16> {
    let header = cursor.take::<40>()?;
    let start = u32::from_be_bytes(header.four::<0>());
    if start >> 28 != 6 || header.byte::<6>() != PROTOCOL_UDP {
        return None;
    }
    packet.source = words6(header.sixteen::<8, 16>());
    packet.destination = words6(header.sixteen::<24, 32>());
    packet.class = (start >> 20) as u8;
    packet.label = start & 0xf_ffff;
    packet.hops = header.byte::<7>();
    packet.six = true;
    packet.length = packet.network + 40 + u32::from(header.number::<4>());
    Some(header.number::<4>())
}

/// The UDP header, and what the payload begins with. The datagram fills the packet.
#[inline(always)]
fn udp(mut cursor: Cursor<'_>, packet: &mut MediaPacket, payload: u16) -> Option<()> {
    let header = cursor.take::<8>()?;
    packet.source_port = u16::from_ne_bytes(header.two::<0>());
    packet.destination_port = u16::from_ne_bytes(header.two::<2>());
    packet.udp_length = header.number::<4>();
    packet.checksum = u16::from_ne_bytes(header.two::<6>());
    // A datagram over IPv6 has a checksum (RFC 8200 section 8.1).
    if packet.udp_length < UDP
        || packet.udp_length != payload
        || (packet.six && packet.checksum == 0)
    {
        return None;
    }
    if packet.udp_length > UDP {
        packet.first = Some(cursor.peek::<1>()?.byte::<0>());
    }
    if packet.udp_length >= UDP + RTP
        && let Some(start) = cursor.peek::<12>()
        && start.byte::<0>() >> 6 == 2
        && !is_rtcp(start.byte::<1>())
    {
        packet.rtp = Some(Rtp {
            sequence: start.number::<2>(),
            timestamp: u32::from_be_bytes(start.four::<4>()),
            ssrc: u32::from_be_bytes(start.four::<8>()),
        });
    }
    Some(())
}

/// RTCP on RTP's port (RFC 5761 section 4): the packet types that no RTP payload has.
const fn is_rtcp(second: u8) -> bool {
    matches!(second, 192..=223)
}
