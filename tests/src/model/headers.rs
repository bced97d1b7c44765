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
    /// A fragment after the first: it has no upper header.
    Piece(Piece),
}

/// A fragment after the first.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Identification.
    pub id: u32,
    /// The upper protocol; 0 in IPv6.
    pub protocol: u8,
    /// Where its bytes begin in the packet.
    pub offset: u32,
    /// How many there are.
    pub length: u32,
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
    /// A first fragment: its identification, and how many bytes of the packet it brings.
    pub fragment: Option<(u32, u32)>,
    /// The upper header.
    pub transport: Transport,
    /// Everything from the upper header to the end of the frame.
    pub upper: Vec<u8>,
    /// What the upper header carries.
    pub payload: Vec<u8>,
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
                0x0800 => ipv4(&frame[at..])?,
                0x86dd => ipv6(&frame[at..])?,
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

fn ipv4(bytes: &[u8]) -> Result<Content, Reason> {
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
    options(&bytes[20..header])?;
    let flags_and_offset = number(bytes, 6);
    let offset = u32::from(flags_and_offset & 0x1fff) * 8;
    let more = flags_and_offset & 0x2000 != 0;
    let (protocol, upper, length) = (bytes[9], &bytes[header..], total - header);
    let (source, destination) = (address4(bytes, 12), address4(bytes, 16));
    let id = u32::from(number(bytes, 4));
    let first = source.octets()[0];
    let bad = first == 0 || first == 127 || first >= 224;
    if offset > 0 {
        let piece = Piece {
            source: source.into(),
            destination: destination.into(),
            id,
            protocol,
            offset,
            length: length as u32,
        };
        return sound_piece(piece, more, bad);
    }
    let transport = transport(upper, protocol, 1, length, more)?;
    let asks_for_an_address =
        source.is_unspecified() && transport == Transport::Udp { from: 68, to: 67 };
    if bad && !asks_for_an_address {
        return Err(Reason::BadSource);
    }
    Ok(Content::Ip(Packet {
        source: source.into(),
        destination: destination.into(),
        hops: bytes[8],
        protocol,
        fragment: more.then_some((id, length as u32)),
        transport,
        upper: upper.to_vec(),
        payload: payload(upper, length, transport),
    }))
}

/// Options of IPv4: each has a length of its own and must fit.
fn options(mut bytes: &[u8]) -> Result<(), Reason> {
    loop {
        match bytes {
            [] | [0, ..] => return Ok(()),
            [1, rest @ ..] => bytes = rest,
            [131 | 137, ..] => return Err(Reason::SourceRoute),
            [_, length, ..] if *length >= 2 && usize::from(*length) <= bytes.len() => {
                bytes = &bytes[usize::from(*length)..];
            }
            _ => return Err(Reason::IpHeader),
        }
    }
}

fn sound_piece(piece: Piece, more: bool, bad_source: bool) -> Result<Content, Reason> {
    let odd = more && piece.length & 7 != 0;
    if piece.length == 0 || piece.offset + piece.length > 65_535 || odd {
        return Err(Reason::BadLength);
    }
    if bad_source {
        return Err(Reason::BadSource);
    }
    Ok(Content::Piece(piece))
}

/// What the upper header carries, if it is one that carries something. `length` bytes belong to
/// the packet.
fn payload(upper: &[u8], length: usize, transport: Transport) -> Vec<u8> {
    let upper = &upper[..length];
    let header = match transport {
        Transport::Tcp { .. } => usize::from(upper[12] / 16) * 4,
        Transport::Udp { .. } => 8,
        _ => return Vec::new(),
    };
    upper.get(header..).unwrap_or_default().to_vec()
}

fn ipv6(bytes: &[u8]) -> Result<Content, Reason> {
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
    let (source, destination) = (address6(bytes, 8), address6(bytes, 24));
    let bad = source.is_multicast() || source.is_loopback() || source.to_ipv4_mapped().is_some();
    if let Some(Fragment { offset, length, id, more, .. }) = chain.fragment
        && offset > 0
    {
        let (source, destination) = (source.into(), destination.into());
        let piece = Piece { source, destination, id, protocol: 0, offset, length };
        return sound_piece(piece, more, bad || address6(bytes, 8).is_unspecified());
    }
    let upper = &bytes[40 + chain.taken..];
    let left = length - chain.taken;
    let transport = transport(upper, chain.protocol, 58, left, chain.fragment.is_some())?;
    if bad || (source.is_unspecified() && chain.protocol != 58) {
        return Err(Reason::BadSource);
    }
    Ok(Content::Ip(Packet {
        source: source.into(),
        destination: destination.into(),
        hops: bytes[7],
        protocol: chain.protocol,
        fragment: chain.fragment.map(|fragment| (fragment.id, fragment.length)),
        transport,
        upper: upper.to_vec(),
        payload: payload(upper, left, transport),
    }))
}

struct Chain {
    protocol: u8,
    /// What a fragment header says, unless the packet is all there is.
    fragment: Option<Fragment>,
    taken: usize,
}

struct Fragment {
    id: u32,
    offset: u32,
    more: bool,
    length: u32,
}

/// `bytes` is everything behind the IPv6 header, of which `length` belong to the packet.
fn extension_headers(bytes: &[u8], first: u8, length: usize) -> Result<Chain, Reason> {
    let mut chain = Chain { protocol: first, fragment: None, taken: 0 };
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
        let short = if chain.fragment.is_some() { Reason::Fragment } else { Reason::Truncated };
        let header = bytes.get(chain.taken..chain.taken + 8).ok_or(short)?;
        let mut size = 8;
        if chain.protocol == 44 {
            if chain.fragment.is_some() {
                return Err(Reason::Fragment);
            }
            let behind = length.checked_sub(chain.taken + 8);
            let fragment = Fragment {
                id: u32::from(number(header, 4)) * 65_536 + u32::from(number(header, 6)),
                offset: u32::from(number(header, 2) / 8) * 8,
                more: header[3] % 2 == 1,
                length: behind.unwrap_or_default() as u32,
            };
            let (offset, more) = (fragment.offset, fragment.more);
            if offset > 0 || more {
                chain.fragment = Some(fragment);
            }
            if offset > 0 {
                // What follows is no header.
                behind.ok_or(Reason::Truncated)?;
                chain.taken += 8;
                chain.protocol = header[0];
                return Ok(chain);
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
