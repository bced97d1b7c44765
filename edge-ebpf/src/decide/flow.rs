//! Media flows: which packets belong to one. What a flow lets through is not judged here but by
//! [`crate::media::judge`], in a program of its own.
//!
//! A flow is found by the port of ours that a datagram is for, where the port's word says that
//! there may be one, or by the endpoint behind us that it is for. What finds none is judged as if
//! there were no flows.

use super::{Asked, Family, Tables};
use crate::{
    abi::{PinholeKey, SETTING_PINHOLES, Settings, WORD_MEDIA, media_port_index},
    packet::PROTOCOL_ICMPV6,
};

/// Whether it must be asked if a packet belongs to a flow; `word` is its port's.
#[inline(always)]
pub(super) fn may_have_flow(settings: &Settings, asked: Asked, word: u32) -> bool {
    let pinhole = word == 0 && settings.flags & SETTING_PINHOLES != 0;
    asked.datagram() && (word & WORD_MEDIA != 0 || pinhole)
}

/// The slot of the flow that a datagram belongs to; 0: none. `word` is its port's.
#[inline(always)]
pub fn flow_of<T: Tables, A: Family>(tables: &T, asked: Asked, word: u32, destination: A) -> u32 {
    let to = (destination, asked.port());
    media_slot(tables, asked.zone(), to, word == 0)
}

/// The slot of the flow to this address and port (in host order); 0: none. `pinhole`: to an
/// endpoint behind us, else to our port.
#[inline(always)]
pub(super) fn media_slot<T: Tables, A: Family>(
    tables: &T,
    zone: u8,
    (destination, port): (A, u16),
    pinhole: bool,
) -> u32 {
    if pinhole {
        let (address, port) = (destination.mapped(), port.to_be_bytes());
        tables.pinhole(&PinholeKey { address, port, zone, reserved: 0 })
    } else {
        let six = A::ICMP == PROTOCOL_ICMPV6;
        tables.media_port(media_port_index(zone, six, port))
    }
}
