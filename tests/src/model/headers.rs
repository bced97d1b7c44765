//! The headers of a frame, read from slices, one step after the other as the RFCs tell it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edge_ebpf::verdict::Reason;

/// A frame that makes sense.
#[derive(Clone, Debug)]
pub struct Headers {
    /// VLAN ids, outermost first; tags that carry a priority only are left out.
    pub vlans: Vec<u16>,
    /// What is in the frame.
    pub content: Content,
}

/// What is in a frame.
#[derive(Clone, Debug)]
pub enum Content {
    /// No IP: the EtherType.
    Link(u16),
    /// An IP packet.
    Ip(Packet),
}

/// An IP packet.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// The upper protocol.
    pub protocol: u8,
    /// A fragment with more to follow.
    pub fragment: bool,
    /// The upper header.
    pub transport: Transport,
    /// Everything from the upper header to the end of the frame.
    pub upper: Vec<u8>,
}

/// The upper header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
        /// Flags.
        flags: u8,
    },
    /// UDP.
    Udp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
    },
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Identifier of an echo.
        identifier: u16,
    },
    /// Anything else.
    Other,
}

/// The 16-bit number at `at`.
pub fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from(bytes[at]) * 256 + u16::from(bytes[at + 1])
}

/// The IPv4 address at `at`.
pub fn address4(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

/// The IPv6 address at `at`.
pub fn address6(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut parts = [0; 8];
    for (index, part) in parts.iter_mut().enumerate() {
        *part = number(bytes, at + 2 * index);
    }
    Ipv6Addr::from(parts)
}

/// Reads a frame.
///
/// # Errors
/// Why it makes no sense.
pub fn read(frame: &[u8]) -> Result<Headers, Reason> {
    if frame.len() < 14 {
        return Err(Reason::Truncated);
    }
    let mut at = 12;
    let mut tags = 0;
    let mut vlans = Vec::new();
    loop {
        let kind = number(frame, at);
        at += 2;
        if ![0x8100, 0x88a8, 0x9100].contains(&kind) {
            let content = match kind {
                0x0800 => Content::Ip(ipv4(&frame[at..])?),
                0x86dd => Content::Ip(ipv6(&frame[at..])?),
                other => Content::Link(other),
            };
            return Ok(Headers { vlans, content });
        }
        tags += 1;
        if tags == 3 {
            return Err(Reason::VlanDepth);
        }
        if frame.len() < at + 4 {
            return Err(Reason::Truncated);
        }
        let id = number(frame, at) % 4096;
        if id != 0 {
            vlans.push(id);
        }
        at += 2;
    }
}

fn ipv4(bytes: &[u8]) -> Result<Packet, Reason> {
    if bytes.len() < 20 {
        return Err(Reason::Truncated);
    }
    let header = usize::from(bytes[0] % 16) * 4;
    if bytes[0] / 16 != 4 || header < 20 {
        return Err(Reason::IpHeader);
    }
    let total = usize::from(number(bytes, 2));
    if total < header || total > bytes.len() {
        return Err(Reason::BadLength);
    }
    let flags_and_offset = number(bytes, 6);
    if flags_and_offset & 0x1fff != 0 {
        return Err(Reason::Fragment);
    }
    let fragment = flags_and_offset & 0x2000 != 0;
    let (protocol, upper) = (bytes[9], &bytes[header..]);
    let transport = transport(upper, protocol, 1, total - header, fragment)?;
    let source = address4(bytes, 12);
    let first = source.octets()[0];
    let asks_for_an_address =
        source.is_unspecified() && transport == Transport::Udp { from: 68, to: 67 };
    if (first == 0 && !asks_for_an_address) || first == 127 || first >= 224 {
        return Err(Reason::BadSource);
    }
    Ok(Packet {
        source: source.into(),
        destination: address4(bytes, 16).into(),
        hops: bytes[8],
        protocol,
        fragment,
        transport,
        upper: upper.to_vec(),
    })
}

fn ipv6(bytes: &[u8]) -> Result<Packet, Reason> {
    if bytes.len() < 40 {
        return Err(Reason::Truncated);
    }
    if bytes[0] / 16 != 6 {
        return Err(Reason::IpHeader);
    }
    let length = usize::from(number(bytes, 4));
    if length > bytes.len() - 40 {
        return Err(Reason::BadLength);
    }
    let chain = extension_headers(&bytes[40..], bytes[6], length)?;
    let upper = &bytes[40 + chain.taken..];
    let transport = transport(upper, chain.protocol, 58, length - chain.taken, chain.fragment)?;
    let source = address6(bytes, 8);
    let mapped = source.to_ipv4_mapped().is_some();
    let nowhere = source.is_unspecified() && chain.protocol != 58;
    if source.is_multicast() || source.is_loopback() || mapped || nowhere {
        return Err(Reason::BadSource);
    }
    Ok(Packet {
        source: source.into(),
        destination: address6(bytes, 24).into(),
        hops: bytes[7],
        protocol: chain.protocol,
        fragment: chain.fragment,
        transport,
        upper: upper.to_vec(),
    })
}

struct Chain {
    protocol: u8,
    fragment: bool,
    taken: usize,
}

/// `bytes` is everything behind the IPv6 header, of which `length` belong to the packet.
fn extension_headers(bytes: &[u8], first: u8, length: usize) -> Result<Chain, Reason> {
    let mut chain = Chain { protocol: first, fragment: false, taken: 0 };
    let mut seen = 0;
    loop {
        match chain.protocol {
            0 | 43 | 44 | 60 => {}
            135 | 139 | 140 | 253 | 254 => return Err(Reason::ExtensionHeader),
            _ => return Ok(chain),
        }
        seen += 1;
        if seen == 6 {
            return Err(Reason::ExtensionDepth);
        }
        if chain.protocol == 0 && seen > 1 {
            return Err(Reason::ExtensionHeader);
        }
        // What is missing of a fragment was left out so that nobody can judge it.
        let short = if chain.fragment { Reason::Fragment } else { Reason::Truncated };
        let header = bytes.get(chain.taken..chain.taken + 8).ok_or(short)?;
        let mut size = 8;
        if chain.protocol == 44 {
            if number(header, 2) / 8 != 0 {
                return Err(Reason::Fragment);
            }
            if header[3] % 2 == 1 {
                chain.fragment = true;
            }
        } else {
            if chain.protocol == 43 && (header[2] == 0 || header[3] > 0) {
                return Err(Reason::ExtensionHeader);
            }
            size += usize::from(header[1]) * 8;
        }
        chain.taken += size;
        if chain.taken > length {
            return Err(short);
        }
        chain.protocol = header[0];
    }
}

/// `length` bytes belong to the packet; `bytes` may go on behind them.
fn transport(
    bytes: &[u8],
    protocol: u8,
    icmp: u8,
    length: usize,
    fragment: bool,
) -> Result<Transport, Reason> {
    let short = if fragment { Reason::Fragment } else { Reason::Truncated };
    let least = match protocol {
        6 => 20,
        17 => 8,
        other if other == icmp => 8,
        _ => return Ok(Transport::Other),
    };
    if length < least || bytes.len() < least {
        return Err(short);
    }
    match protocol {
        6 => {
            let header = usize::from(bytes[12] / 16) * 4;
            if header < 20 {
                return Err(Reason::BadLength);
            }
            if header > length {
                return Err(if fragment { Reason::Fragment } else { Reason::BadLength });
            }
            let flags = bytes[13];
            let [fin, syn, rst, ack] = [1, 2, 4, 16].map(|flag| flags & flag != 0);
            if !(syn || ack || rst) || (syn && (fin || rst)) {
                return Err(Reason::TcpFlags);
            }
            Ok(Transport::Tcp { from: number(bytes, 0), to: number(bytes, 2), flags })
        }
        17 => {
            let promised = usize::from(number(bytes, 4));
            if promised < 8 || (promised > length && !fragment) {
                return Err(Reason::BadLength);
            }
            Ok(Transport::Udp { from: number(bytes, 0), to: number(bytes, 2) })
        }
        _ => Ok(Transport::Icmp { kind: bytes[0], identifier: number(bytes, 4) }),
    }
}
