//! Fragments (RFC 791 section 2.3, RFC 8200 section 4.5). A first fragment is judged like any
//! packet. Later ones have no ports: they pass when their first one did, a short while ago and in
//! the same zone, and when each begins where those before it ended or further on. One that
//! reaches back overlaps (RFC 5722, RFC 3128): it spoils the packet, of which nothing more passes.

use super::{Family, Found, Tables, without_rule};
use crate::{
    abi::{
        FRAGMENT_SECONDS, FRAGMENT_SPOILED, Fragment, FragmentKey, NO_GENERATION, SCHEMA,
        SETTING_BLOCKS, Settings,
    },
    packet::Piece,
    verdict::Reason,
};

/// A first fragment that comes again so soon after one with the same identification is no new
/// packet.
const REPEATED_SECONDS: u32 = 1;

/// Judges a later fragment.
#[inline(always)]
pub fn later<T: Tables, A: Family>(
    tables: &T,
    settings: &Settings,
    zone: u8,
    piece: &Piece<A>,
) -> Found {
    if settings.schema != SCHEMA || tables.generation(settings) >= NO_GENERATION {
        return without_rule(Reason::NoRuleSet);
    }
    if settings.flags & SETTING_BLOCKS != 0
        && let present = piece.source.may_be_blocked(tables, settings.flags)
        && present != 0
        && let Some(reason) = A::is_blocked(piece.source, tables, settings, (0, present))
    {
        return without_rule(reason);
    }
    let key = FragmentKey {
        source: piece.source.mapped(),
        destination: piece.destination.mapped(),
        id: piece.id,
        protocol: piece.protocol,
        zone,
        reserved: [0; 2],
    };
    without_rule(tables.later_fragment(&key, piece.offset, piece.length))
}

/// What a later fragment does to what is known of its packet: the reason it is judged by.
#[inline(always)]
pub fn follow(known: &mut Fragment, now: u32, offset: u32, length: u32) -> Reason {
    if now.wrapping_sub(known.seconds) > FRAGMENT_SECONDS {
        return Reason::Fragment;
    }
    if known.end == FRAGMENT_SPOILED || offset < known.end {
        known.end = FRAGMENT_SPOILED;
        return Reason::FragmentOverlap;
    }
    known.end = offset + length;
    Reason::FragmentTracked
}

/// What is known of a packet once its first fragment has passed; `before` is what was known under
/// the same key. `None`: the first fragment came twice.
#[inline(always)]
pub fn begin(before: Option<Fragment>, now: u32, length: u32) -> Option<Fragment> {
    match before {
        Some(before) if now.wrapping_sub(before.seconds) <= REPEATED_SECONDS => None,
        _ => Some(Fragment { end: length, seconds: now }),
    }
}
