//! Frames made by hand, as they stand on the wire. Checksums are left at zero: the firewall does
//! not look at them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP flag SYN.
pub const SYN: u8 = 0x02;
/// TCP flags SYN and ACK.
pub const SYN_ACK: u8 = 0x12;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;

/// The EtherType of an IP address's family.
fn ether_type(address: IpAddr) -> u16 {
    if address.is_ipv4() { 0x0800 } else { 0x86dd }
}

/// An Ethernet frame with these tags (type and id, outermost first).
pub fn ethernet(tags: &[(u16, u16)], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    for (kind, id) in tags {
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(&id.to_be_bytes());
    }
    frame.extend_from_slice(&ether_type.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// An untagged frame with an IP packet.
pub fn frame(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    tagged(&[], source, destination, protocol, payload)
}

/// A tagged frame with an IP packet.
pub fn tagged(
    tags: &[(u16, u16)],
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    ethernet(tags, ether_type(source), &ip(source, destination, protocol, payload))
}

/// An IP packet with hop limit 64.
///
/// # Panics
/// When the two addresses are of different families.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4(source, destination, protocol, 0, &[], payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ipv6(source, destination, protocol, 64, payload)
        }
        _ => panic!("addresses of two families"),
    }
}

/// An IPv4 packet; `fragment` is the field of flags and offset, `options` a multiple of four.
pub fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let total = u16::try_from(header + payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap_or(15), 0];
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0x12, 0x34]);
    packet.extend_from_slice(&fragment.to_be_bytes());
    packet.extend_from_slice(&[64, protocol, 0, 0]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(options);
    packet.extend_from_slice(payload);
    packet
}

/// An IPv6 packet.
pub fn ipv6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next: u8,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[next, hop_limit]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(payload);
    packet
}

/// An IPv6 extension header of eight bytes: `next`, length 0, then `rest`.
pub fn extension(next: u8, rest: [u8; 6], payload: &[u8]) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend_from_slice(&rest);
    header.extend_from_slice(payload);
    header
}

/// A TCP segment without options or data.
pub fn tcp(source_port: u16, destination_port: u16, flags: u8) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20);
    segment.extend_from_slice(&source_port.to_be_bytes());
    segment.extend_from_slice(&destination_port.to_be_bytes());
    segment.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

/// A UDP datagram.
pub fn udp(source_port: u16, destination_port: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
    let mut datagram = Vec::with_capacity(8 + data.len());
    datagram.extend_from_slice(&source_port.to_be_bytes());
    datagram.extend_from_slice(&destination_port.to_be_bytes());
    datagram.extend_from_slice(&length.to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(data);
    datagram
}

/// An ICMP or ICMPv6 message; of an echo, `identifier` is its identifier.
pub fn icmp(kind: u8, identifier: u16, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(&identifier.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message.extend_from_slice(rest);
    message
}

/// The protocol number of a family's ICMP.
pub fn icmp_protocol(address: IpAddr) -> u8 {
    if address.is_ipv4() { 1 } else { 58 }
}

/// A fragment of an IP packet whose payload is `whole`: these bytes of it. Identification `id`.
pub fn fragment(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    whole: &[u8],
    bytes: std::ops::Range<usize>,
    id: u32,
) -> Vec<u8> {
    let more = u16::from(bytes.end < whole.len());
    let units = u16::try_from(bytes.start / 8).unwrap_or(u16::MAX);
    let payload = &whole[bytes];
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut packet = ipv4(source, destination, protocol, units | more << 13, &[], payload);
            packet[4..6].copy_from_slice(&(id as u16).to_be_bytes());
            ethernet(&[], 0x0800, &packet)
        }
        (source, destination) => {
            let mut rest = [0; 6];
            rest[0..2].copy_from_slice(&(units << 3 | more).to_be_bytes());
            rest[2..6].copy_from_slice(&id.to_be_bytes());
            frame(source, destination, 44, &extension(protocol, rest, payload))
        }
    }
}

/// The frame of an untagged IP packet without options or extension headers that carries TCP or UDP,
/// with checksums that a stack accepts. UDP over IPv4 needs none of its own.
pub fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    let four = frame[12..14] == [0x08, 0];
    let (upper, protocol) = if four { (34, frame[23]) } else { (54, frame[20]) };
    if four {
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum);
    }
    let place = upper + if protocol == 6 { 16 } else { 6 };
    if protocol == 6 || !four {
        // The pseudo header: addresses, length, protocol; then the segment or datagram.
        let mut bytes = frame[if four { 26 } else { 22 }..].to_vec();
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        let length = u16::try_from(frame.len() - upper).unwrap_or(0);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&[0, protocol]);
        frame[place..place + 2].copy_from_slice(&checksum(&bytes));
    }
    frame
}

/// Words of 16 bits in ones' complement (RFC 1071).
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    (!ones_sum(bytes)).to_be_bytes()
}

fn ones_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The addresses and the payload of an untagged IP packet without options or extension headers.
pub fn answered(frame: &[u8], four: bool) -> (IpAddr, IpAddr, Vec<u8>) {
    let address = |from: usize| -> IpAddr {
        if four {
            let octets: [u8; 4] = frame[from..from + 4].try_into().unwrap_or_default();
            octets.into()
        } else {
            let octets: [u8; 16] = frame[from..from + 16].try_into().unwrap_or_default();
            octets.into()
        }
    };
    if four {
        (address(26), address(30), frame[34..].to_vec())
    } else {
        (address(22), address(38), frame[54..].to_vec())
    }
}

/// Whether the checksum over the pseudo header and the segment is right (RFC 9293 section 3.1,
/// RFC 8200 section 8.1).
pub fn checksum_is_right(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    segment: &[u8],
) -> bool {
    sum_of_segment(source, destination, protocol, segment) == 0xffff
}

/// An untagged datagram without options or extension headers, with UDP's checksum, which over IPv4
/// may be left out.
pub fn with_udp_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let four = frame[12..14] == [0x08, 0];
    let place = if four { 40 } else { 60 };
    frame[place..place + 2].copy_from_slice(&[0, 0]);
    let (source, destination, segment) = answered(&frame, four);
    let sum = !sum_of_segment(source, destination, 17, &segment);
    // A sum of zero is sent as its other form (RFC 768).
    let sum = if sum == 0 { 0xffff } else { sum };
    frame[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn sum_of_segment(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut bytes = [octets(source), octets(destination)].concat();
    bytes.extend_from_slice(&u16::from(protocol).to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(segment.len()).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(segment);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    ones_sum(&bytes)
}
