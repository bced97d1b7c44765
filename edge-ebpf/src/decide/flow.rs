//! Media flows: which packets belong to one. What a flow lets through is not judged here but by
//! [`crate::media::judge`], in a program of its own.
//!
//! A flow is found by the endpoint behind us that a datagram is for, where there are pinholes,
//! whatever rules its port has here; or by the port of ours that it is for, where the port's word
//! says that there may be one. What finds none is judged as if there were no flows.

use super::{Asked, Family, Tables};
use crate::{
    abi::{PinholeKey, SETTING_PINHOLES, Settings, WORD_MEDIA, media_port_index},
    packet::PROTOCOL_ICMPV6,
};

/// A flow may come in at the port of ours that a datagram is for.
const DOOR_PORT: u32 = 1;
/// One may go to the endpoint that it is for.
const DOOR_PINHOLE: u32 = 2;

/// Where the flow of a datagram may be found: `DOOR_*` bits. `word` is its port's.
#[inline(always)]
pub(super) const fn doors(pinholes: bool, word: u32) -> u32 {
    let port = if word & WORD_MEDIA != 0 { DOOR_PORT } else { 0 };
    port | if pinholes { DOOR_PINHOLE } else { 0 }
}

/// Whether there are pinholes.
#[inline(always)]
pub(super) const fn has_pinholes(settings: &Settings) -> bool {
    settings.flags & SETTING_PINHOLES != 0
}

/// The slot of the flow that a datagram belongs to; 0: none. `word` is its port's.
#[inline(always)]
pub fn flow_of<T: Tables, A: Family>(tables: &T, asked: Asked, word: u32, destination: A) -> u32 {
    let to = (destination, asked.port());
    media_slot(tables, asked.zone(), to, doors(asked.pinholes(), word))
}

/// The slot of the flow to this address and port (in host order); 0: none.
#[inline(always)]
pub(super) fn media_slot<T: Tables, A: Family>(
    tables: &T,
    zone: u8,
    (destination, port): (A, u16),
    doors: u32,
) -> u32 {
    if doors & DOOR_PINHOLE != 0 {
        let key = PinholeKey {
            address: destination.mapped(),
            port: port.to_be_bytes(),
            zone,
            reserved: 0,
        };
        let slot = tables.pinhole(&key);
        if slot != 0 {
            return slot;
        }
    }
    if doors & DOOR_PORT == 0 {
        return 0;
    }
    let six = A::ICMP == PROTOCOL_ICMPV6;
    tables.media_port(media_port_index(zone, six, port))
}
