//! What can be said of a frame that was dropped, for its event: as much as can be read, without
//! an error. Nothing is decided by it.

use super::{
    Cursor, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, Frame, Link, PROTOCOL_ICMP, PROTOCOL_ICMPV6,
    PROTOCOL_TCP, PROTOCOL_UDP, link,
};
use crate::abi::{Event, mapped};

/// Writes what the frame says into the event: EtherType, VLAN, addresses, protocol and ports.
/// What cannot be read stays as it is. Extension headers are not walked.
#[inline(always)]
pub fn describe(frame: &Frame<'_>, event: &mut Event) {
    let mut cursor = frame.cursor();
    let mut link = Link::default();
    if link::read_link(&mut cursor, &mut link).is_err() {
        return;
    }
    event.ether_type = link.ether_type.to_be_bytes();
    event.vlan = link.outer;
    match link.ether_type {
        ETHER_TYPE_IPV4 => ipv4(cursor, event),
        ETHER_TYPE_IPV6 => ipv6(cursor, event),
        _ => {}
    }
}

#[inline(always)]
fn ipv4(mut cursor: Cursor<'_>, event: &mut Event) {
    let Some(header) = cursor.take::<20>() else { return };
    event.source = mapped(header.four::<12>());
    event.destination = mapped(header.four::<16>());
    event.protocol = header.byte::<9>();
    let length = ((header.byte::<0>() & 0x0f) as usize) * 4;
    if length < 20 || header.number::<6>() & 0x1fff != 0 {
        return;
    }
    cursor.skip(length - 20);
    ports(cursor, event);
}

#[inline(always)]
fn ipv6(mut cursor: Cursor<'_>, event: &mut Event) {
    let Some(header) = cursor.take::<40>() else { return };
    event.source = header.sixteen::<8, 16>();
    event.destination = header.sixteen::<24, 32>();
    event.protocol = header.byte::<6>();
    ports(cursor, event);
}

#[inline(always)]
fn ports(mut cursor: Cursor<'_>, event: &mut Event) {
    let Some(start) = cursor.take::<4>() else { return };
    match event.protocol {
        PROTOCOL_TCP | PROTOCOL_UDP => {
            event.source_port = start.two::<0>();
            event.destination_port = start.two::<2>();
        }
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => event.destination_port = start.two::<0>(),
        _ => {}
    }
}
