//! Builds the frame that a question about a packet describes: Ethernet, tags, IPv4 or IPv6, TCP,
//! UDP, ICMP, ICMPv6 or any other protocol, with good lengths and checksums. Pure.
//!
//! IEEE 802.1Q, RFC 791, RFC 8200, RFC 9293, RFC 768, RFC 792, RFC 4443.

use std::net::IpAddr;

use edge_ebpf::packet::{ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, TCP_ACK};

/// IP protocol numbers that are built, not only named.
pub mod protocol {
    pub use edge_ebpf::packet::{
        PROTOCOL_ICMP as ICMP, PROTOCOL_ICMPV6 as ICMPV6, PROTOCOL_TCP as TCP, PROTOCOL_UDP as UDP,
    };
}

const ETHER_TYPE_VLAN: u16 = 0x8100;
const ETHER_TYPE_SERVICE_VLAN: u16 = 0x88a8;
/// What most systems send with.
const HOP_LIMIT: u8 = 64;
/// Neighbour discovery has never crossed a router (RFC 4861 section 4).
const HOP_LIMIT_NEIGHBOUR: u8 = 255;
/// Multicast listener discovery stays on the link (RFC 3810 section 5).
const HOP_LIMIT_LISTENER: u8 = 1;
/// Where the frame pretends to come from: a locally administered address.
const NEIGHBOUR: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// A packet with its headers fits into the program's first page.
const MAX_PAYLOAD: usize = 2048;

/// A packet in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketSpec {
    /// VLAN ids, outermost first; at most two.
    pub vlans: Vec<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// TCP flags, as in the header.
    pub tcp_flags: u8,
    /// Type and code of an ICMP message.
    pub icmp: (u8, u8),
    /// Hop limit, or time to live; `None`: what such a packet has.
    pub hop_limit: Option<u8>,
    /// What follows the headers.
    pub payload: Vec<u8>,
}

/// Why no frame can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Two families.
    #[error(
        "source and destination are of different families: name two IPv4 or two IPv6 addresses"
    )]
    Families,
    /// More than two tags.
    #[error("a frame has at most two VLAN tags: write --vlan OUTER.INNER")]
    Tags,
    /// Too long.
    #[error("the payload is longer than {MAX_PAYLOAD} bytes: give its beginning")]
    Payload,
}

/// The frame, as it would come in on a device with this hardware address.
pub fn build(spec: &PacketSpec, device: [u8; 6]) -> Result<Vec<u8>, SpecError> {
    if spec.payload.len() > MAX_PAYLOAD {
        return Err(SpecError::Payload);
    }
    let mut frame = Vec::with_capacity(128 + spec.payload.len());
    frame.extend_from_slice(&device);
    frame.extend_from_slice(&NEIGHBOUR);
    match spec.vlans[..] {
        [] => {}
        [vlan] => tag(&mut frame, ETHER_TYPE_VLAN, vlan),
        [outer, inner] => {
            tag(&mut frame, ETHER_TYPE_SERVICE_VLAN, outer);
            tag(&mut frame, ETHER_TYPE_VLAN, inner);
        }
        _ => return Err(SpecError::Tags),
    }
    let upper = upper(spec);
    let hop_limit = spec.hop_limit.unwrap_or_else(|| usual_hop_limit(spec));
    match (spec.source, spec.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend_from_slice(&ETHER_TYPE_IPV4.to_be_bytes());
            let total = u16::try_from(20 + upper.len()).map_err(|_| SpecError::Payload)?;
            let mut header = vec![0x45, 0];
            header.extend_from_slice(&total.to_be_bytes());
            header.extend_from_slice(&[0, 1, 0x40, 0, hop_limit, spec.protocol, 0, 0]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend_from_slice(&header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend_from_slice(&ETHER_TYPE_IPV6.to_be_bytes());
            let length = u16::try_from(upper.len()).map_err(|_| SpecError::Payload)?;
            frame.extend_from_slice(&[0x60, 0, 0, 0]);
            frame.extend_from_slice(&length.to_be_bytes());
            frame.extend_from_slice(&[spec.protocol, hop_limit]);
            frame.extend_from_slice(&source.octets());
            frame.extend_from_slice(&destination.octets());
        }
        _ => return Err(SpecError::Families),
    }
    frame.extend_from_slice(&upper);
    Ok(frame)
}

fn usual_hop_limit(spec: &PacketSpec) -> u8 {
    match (spec.protocol, spec.icmp.0) {
        (protocol::ICMPV6, 133..=137) => HOP_LIMIT_NEIGHBOUR,
        (protocol::ICMPV6, 130..=132 | 143) => HOP_LIMIT_LISTENER,
        _ => HOP_LIMIT,
    }
}

fn tag(frame: &mut Vec<u8>, ether_type: u16, vlan: u16) {
    frame.extend_from_slice(&ether_type.to_be_bytes());
    frame.extend_from_slice(&(vlan & 0x0fff).to_be_bytes());
}

/// The upper-layer header and the payload, checksum included.
fn upper(spec: &PacketSpec) -> Vec<u8> {
    let ports = [spec.source_port.to_be_bytes(), spec.destination_port.to_be_bytes()].concat();
    let (mut bytes, checksum_at) = match spec.protocol {
        protocol::TCP => {
            let mut header = ports;
            header.extend_from_slice(&1u32.to_be_bytes());
            let acknowledges = spec.tcp_flags & TCP_ACK != 0;
            header.extend_from_slice(&u32::from(acknowledges).to_be_bytes());
            header.extend_from_slice(&[0x50, spec.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
            (header, Some(16))
        }
        protocol::UDP => {
            let mut header = ports;
            let length = u16::try_from(8 + spec.payload.len()).unwrap_or(u16::MAX);
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(&[0, 0]);
            (header, Some(6))
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let mut header = vec![spec.icmp.0, spec.icmp.1, 0, 0];
            header.extend_from_slice(&spec.source_port.to_be_bytes());
            header.extend_from_slice(&[0, 1]);
            (header, Some(2))
        }
        _ => (Vec::new(), None),
    };
    bytes.extend_from_slice(&spec.payload);
    if let Some(at) = checksum_at {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
        let next = [0, 0, 0, spec.protocol];
        let sum = match (spec.source, spec.destination) {
            // ICMP has no pseudo-header.
            _ if spec.protocol == protocol::ICMP => checksum(&[&bytes]),
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                checksum(&[&a.octets(), &b.octets(), &length, &next, &bytes])
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                checksum(&[&a.octets(), &b.octets(), &length, &next, &bytes])
            }
            _ => 0,
        };
        // RFC 768: a computed zero is sent as all ones, since zero means none.
        let sum = if sum == 0 && spec.protocol == protocol::UDP { 0xffff } else { sum };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// The Internet checksum (RFC 1071) over pieces of even length; the last may be odd.
fn checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for piece in pieces {
        for pair in piece.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            sum += u32::from(word);
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(source: &str, destination: &str, protocol: u8) -> PacketSpec {
        PacketSpec {
            vlans: Vec::new(),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            source_port: 40_000,
            destination_port: 5061,
            tcp_flags: 2,
            icmp: (8, 0),
            hop_limit: None,
            payload: Vec::new(),
        }
    }

    #[test]
    fn checksums_add_up_to_all_ones() {
        for (source, destination, protocol) in [
            ("198.51.100.7", "203.0.113.10", protocol::TCP),
            ("198.51.100.7", "203.0.113.10", protocol::UDP),
            ("2001:db8::7", "2001:db8::10", protocol::TCP),
            ("2001:db8::7", "2001:db8::10", protocol::UDP),
            ("2001:db8::7", "2001:db8::10", protocol::ICMPV6),
        ] {
            let mut spec = spec(source, destination, protocol);
            spec.payload = b"odd".to_vec();
            let frame = build(&spec, [2; 6]).unwrap();
            let (pseudo, upper) = if spec.source.is_ipv4() {
                assert_eq!(checksum(&[&frame[14..34]]), 0, "{spec:?}");
                (&frame[26..34], &frame[34..])
            } else {
                (&frame[22..54], &frame[54..])
            };
            let length = (upper.len() as u32).to_be_bytes();
            assert_eq!(checksum(&[pseudo, &length, &[0, 0, 0, protocol], upper]), 0, "{spec:?}");
        }
        let frame = build(&spec("192.0.2.1", "192.0.2.2", protocol::ICMP), [2; 6]).unwrap();
        assert_eq!(checksum(&[&frame[34..]]), 0);
    }

    #[test]
    fn tags_stand_outermost_first() {
        let mut spec = spec("192.0.2.1", "192.0.2.2", protocol::TCP);
        spec.vlans = vec![7];
        assert_eq!(build(&spec, [2; 6]).unwrap()[12..18], [0x81, 0, 0, 7, 8, 0]);
        spec.vlans = vec![7, 9];
        let frame = build(&spec, [2; 6]).unwrap();
        assert_eq!(frame[12..22], [0x88, 0xa8, 0, 7, 0x81, 0, 0, 9, 8, 0]);
        spec.vlans = vec![7, 9, 11];
        assert_eq!(build(&spec, [2; 6]), Err(SpecError::Tags));
    }

    #[test]
    fn what_makes_no_packet_is_refused() {
        let mixed = spec("192.0.2.1", "2001:db8::1", protocol::TCP);
        assert_eq!(build(&mixed, [2; 6]), Err(SpecError::Families));
        let mut long = spec("192.0.2.1", "192.0.2.2", protocol::UDP);
        long.payload = vec![0; MAX_PAYLOAD + 1];
        assert_eq!(build(&long, [2; 6]), Err(SpecError::Payload));
    }
}
