//! IPv4 (RFC 791) and IPv6 with extension headers (RFC 8200).

use super::{Cursor, Environment, Frame, Handler, Ip, Link, Piece, Transport, transport};
use crate::verdict::Reason;

/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Extension headers that are looked at in one packet; RFC 8200 section 4.1 recommends no more
/// than five before the upper layer, AH and ESP aside.
pub const MAX_EXTENSION_HEADERS: usize = 5;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Whether no packet from outside can have this source (RFC 6890 section 2.2.2): "this network",
/// loopback, multicast, reserved and broadcast. The unspecified address is legitimate for a host
/// that has none yet (DHCP), which is for the caller to know.
const fn bad_source4(source: [u8; 4]) -> bool {
    source[0] == 0 || source[0] == 127 || source[0] >= 224
}

/// Whether no packet from outside can have this source (RFC 4291, RFC 6890 section 2.2.3):
/// multicast, loopback, IPv4-mapped and unspecified. The last is legitimate in ICMPv6 for a host
/// that has no address yet (RFC 4862, RFC 3810), which is for the caller to know.
#[inline(always)]
fn bad_source6(source: [u8; 16]) -> bool {
    if source[0] == 0xff {
        return true;
    }
    let value = u128::from_be_bytes(source);
    value >> 32 == 0xffff || value <= 1
}

/// Checks that the packet is as long as its header says, and gives the bytes after the header.
/// `cursor` stands after the header, `promised` counts from there.
#[inline(always)]
fn payload_length(
    cursor: &Cursor<'_>,
    frame: &Frame<'_>,
    environment: &impl Environment,
    promised: usize,
) -> Result<usize, Reason> {
    let there = cursor.remaining();
    if promised > there {
        // The rest may lie in another piece of the frame.
        let elsewhere = environment.total_length().wrapping_sub(frame.len());
        if elsewhere > 0xffff || promised > there.wrapping_add(elsewhere) {
            return Err(Reason::BadLength);
        }
    }
    Ok(promised)
}

#[inline(always)]
pub(super) fn parse4<E: Environment, H: Handler>(
    mut cursor: Cursor<'_>,
    frame: &Frame<'_>,
    environment: &E,
    link: &Link,
    handler: H,
) -> Result<H::Output, Reason> {
    let header = cursor.take::<20>().ok_or(Reason::Truncated)?;
    let first = header.byte::<0>();
    let header_length = ((first & 0x0f) as usize) * 4;
    if first >> 4 != 4 || header_length < 20 {
        return Err(Reason::IpHeader);
    }
    let promised = header.number::<2>() as usize;
    if promised < header_length {
        return Err(Reason::BadLength);
    }
    let length = payload_length(&cursor, frame, environment, promised - 20)?;
    let options = header_length - 20;
    if options > 0 {
        environment.options(frame, usize::from(link.length) + 20, options)?;
    }
    cursor.skip(options);
    let fragment = header.number::<6>();
    let (protocol, id) = (header.byte::<9>(), u32::from(header.number::<4>()));
    let (length, mut transport) = (length - options, Transport::OTHER);
    if fragment & FRAGMENT_OFFSET != 0 {
        let offset = u32::from(fragment & FRAGMENT_OFFSET) * 8;
        sound_piece(offset, length as u32, fragment & MORE_FRAGMENTS != 0)?;
        let (source, destination) = (header.four::<12>(), header.four::<16>());
        if bad_source4(source) {
            return Err(Reason::BadSource);
        }
        let piece = Piece { source, destination, id, protocol, offset, length: length as u32 };
        return Ok(handler.piece4(link, &piece));
    }
    let fragment = fragment & MORE_FRAGMENTS != 0;
    transport::parse(cursor, protocol, length, fragment, PROTOCOL_ICMP, &mut transport)?;
    let source = header.four::<12>();
    if bad_source4(source) && !(source == [0; 4] && transport.is_dhcp_request()) {
        return Err(Reason::BadSource);
    }
    let (destination, hop_limit) = (header.four::<16>(), header.byte::<8>());
    let (fragment_id, fragment_length) = if fragment { (id, length as u32) } else { (0, 0) };
    let ip = Ip {
        source,
        destination,
        hop_limit,
        protocol,
        fragment,
        fragment_id,
        fragment_length,
        header_length: header_length as u16,
        transport,
        upper: cursor,
    };
    Ok(handler.ipv4(link, &ip))
}

#[inline(always)]
pub(super) fn parse6<E: Environment, H: Handler>(
    mut cursor: Cursor<'_>,
    frame: &Frame<'_>,
    environment: &E,
    link: &Link,
    handler: H,
) -> Result<H::Output, Reason> {
    let header = cursor.take::<40>().ok_or(Reason::Truncated)?;
    if header.byte::<0>() >> 4 != 6 {
        return Err(Reason::IpHeader);
    }
    let length = payload_length(&cursor, frame, environment, header.number::<4>() as usize)?;
    let first = header.byte::<6>();
    let (mut protocol, mut length, mut fragment) = (first, length, false);
    let (mut fragment_id, mut fragment_length, mut header_length) = (0, 0, 40);
    if is_extension(first) {
        let offset = usize::from(link.length) + 40;
        let upper = environment.extension_headers(frame, offset, first, length)?;
        (protocol, fragment) = (upper.protocol, upper.fragment);
        // Never more than the length, which has sixteen bits: the verifier wants to see it.
        let skipped = upper.skipped & MAX_EXTENSION_BYTES;
        if fragment {
            let at = upper.fragment_at & MAX_EXTENSION_BYTES;
            let mut there = frame.cursor();
            there.skip((offset & 0x7f) + at);
            let found = there.take::<8>().ok_or(Reason::Fragment)?;
            let (start, id) = (found.number::<2>(), u32::from_be_bytes(found.four::<4>()));
            fragment_length = (length as u32).saturating_sub(at as u32 + 8);
            fragment_id = id;
            if start & 0xfff8 != 0 {
                let offset = u32::from(start & 0xfff8);
                sound_piece(offset, fragment_length, start & 1 != 0)?;
                let (source, destination) = (header.sixteen::<8, 16>(), header.sixteen::<24, 32>());
                if bad_source6(source) {
                    return Err(Reason::BadSource);
                }
                let length = fragment_length;
                let piece = Piece { source, destination, id, protocol: 0, offset, length };
                return Ok(handler.piece6(link, &piece));
            }
        }
        length = length.saturating_sub(skipped);
        cursor.skip(skipped);
        header_length += skipped as u16;
    }
    let mut transport = Transport::OTHER;
    transport::parse(cursor, protocol, length, fragment, PROTOCOL_ICMPV6, &mut transport)?;
    let source = header.sixteen::<8, 16>();
    if bad_source6(source) && !(u128::from_ne_bytes(source) == 0 && protocol == PROTOCOL_ICMPV6) {
        return Err(Reason::BadSource);
    }
    let (destination, hop_limit) = (header.sixteen::<24, 32>(), header.byte::<7>());
    let ip = Ip {
        source,
        destination,
        hop_limit,
        protocol,
        fragment,
        fragment_id,
        fragment_length,
        header_length,
        transport,
        upper: cursor,
    };
    Ok(handler.ipv6(link, &ip))
}

/// What the extension headers lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The upper-layer protocol.
    pub protocol: u8,
    /// Whether the packet is a fragment.
    pub fragment: bool,
    /// Where its fragment header begins, counted from the end of the IPv6 header.
    pub fragment_at: usize,
    /// Bytes of all extension headers; of a later fragment, up to its fragment header's end.
    pub skipped: usize,
}

/// All extension headers together are shorter than this: a mask.
const MAX_EXTENSION_BYTES: usize = 0x3fff;

/// Whether this number is an extension header that must be looked at.
const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) || refused_extension(next)
}

/// Whether this number is an extension header that is refused (IANA, "IPv6 Extension Header
/// Types"): mobility, HIP, shim6 and the experimental ones. AH and ESP are no such headers here
/// but upper-layer protocols, as they are in IPv4: what is inside them is not judged by its
/// port, so it passes only by a rule for the protocol itself.
const fn refused_extension(next: u8) -> bool {
    matches!(next, 135 | 139 | 140 | 253 | 254)
}

/// Walks the extension headers, by this table:
/// hop-by-hop options, only as the first header (RFC 8200 section 4.3): skipped;
/// destination options: skipped;
/// routing: refused with segments left, and type 0 always (RFC 5095), else skipped;
/// fragment: an atomic one (RFC 6946) or a first one is skipped; at a later one the walk ends,
/// since what follows is no header. A second fragment header is refused.
///
/// The headers begin at `offset` in the frame, with number `first`; `length` bytes follow the
/// IPv6 header.
///
/// # Errors
/// The reason to drop the frame.
#[inline(always)]
pub fn extension_headers(
    frame: &Frame<'_>,
    offset: usize,
    first: u8,
    length: usize,
) -> Result<Upper, Reason> {
    let mut cursor = frame.cursor();
    cursor.skip(offset & 0x7f);
    let mut next = first;
    let mut fragment = false;
    let mut fragment_at = 0;
    let mut skipped = 0;
    for position in 0..=MAX_EXTENSION_HEADERS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
            if refused_extension(next) {
                return Err(Reason::ExtensionHeader);
            }
            return Ok(Upper { protocol: next, fragment, fragment_at, skipped });
        }
        if position == MAX_EXTENSION_HEADERS {
            return Err(Reason::ExtensionDepth);
        }
        if next == HOP_BY_HOP && position > 0 {
            return Err(Reason::ExtensionHeader);
        }
        let short = if fragment { Reason::Fragment } else { Reason::Truncated };
        let header = cursor.take::<8>().ok_or(short)?;
        let mut size = 8;
        if next == FRAGMENT {
            let offset = header.number::<2>();
            if fragment {
                return Err(Reason::Fragment);
            }
            if offset & 0xfff9 != 0 {
                (fragment, fragment_at) = (true, skipped);
            }
            if offset & 0xfff8 != 0 {
                let skipped = skipped + 8;
                if skipped > length {
                    return Err(Reason::Truncated);
                }
                return Ok(Upper { protocol: header.byte::<0>(), fragment, fragment_at, skipped });
            }
        } else {
            if next == ROUTING && (header.byte::<2>() == 0 || header.byte::<3>() != 0) {
                return Err(Reason::ExtensionHeader);
            }
            let more = (header.byte::<1>() as usize) * 8;
            cursor.skip(more);
            size += more;
        }
        skipped += size;
        if skipped > length {
            return Err(short);
        }
        next = header.byte::<0>();
    }
    Err(Reason::ExtensionDepth)
}

/// Whether a later fragment can be one: it brings something, ends within a packet (RFC 791,
/// RFC 8200 section 4.5), and all but the last are a multiple of eight bytes.
#[inline(always)]
fn sound_piece(offset: u32, length: u32, more: bool) -> Result<(), Reason> {
    let sound = length > 0 && offset + length <= 0xffff && (!more || length & 7 == 0);
    if sound { Ok(()) } else { Err(Reason::BadLength) }
}

const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_LOOSE_SOURCE_ROUTE: u8 = 131;
const OPTION_STRICT_SOURCE_ROUTE: u8 = 137;

/// Walks IPv4 options (RFC 791 section 3.1): one that steers the packet's way is refused
/// (RFC 7126 section 4.3), one that does not fit likewise; the others are skipped.
///
/// # Errors
/// The reason to drop the frame.
#[inline(always)]
pub fn options(frame: &Frame<'_>, offset: usize, length: usize) -> Result<(), Reason> {
    let mut cursor = frame.cursor();
    cursor.skip(offset & 0x3f);
    let (mut skip, mut in_option) = (0_u32, false);
    // A byte a step, so that the kernel's verifier has few ways to follow.
    for position in 0..MOST_OPTION_BYTES {
        if position >= length as u32 {
            break;
        }
        let byte = cursor.take::<1>().ok_or(Reason::Truncated)?.byte::<0>();
        if skip > 0 {
            skip -= 1;
        } else if in_option {
            if byte < 2 {
                return Err(Reason::IpHeader);
            }
            (skip, in_option) = (u32::from(byte) - 2, false);
        } else {
            match byte {
                OPTION_END => return Ok(()),
                OPTION_NOTHING => {}
                OPTION_LOOSE_SOURCE_ROUTE | OPTION_STRICT_SOURCE_ROUTE => {
                    return Err(Reason::SourceRoute);
                }
                _ => in_option = true,
            }
        }
    }
    if in_option || skip > 0 { Err(Reason::IpHeader) } else { Ok(()) }
}

/// Bytes of options there can be (RFC 791 section 3.1).
const MOST_OPTION_BYTES: u32 = 40;
