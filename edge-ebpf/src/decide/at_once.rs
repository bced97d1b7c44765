//! What needs no long judgement: a plain packet of a source that is blocked, and, from a source
//! that nobody blocks, a plain packet for a port that is open to everybody or to nobody.
//!
//! It says what [`super::judge`] says, or nothing. Under attack, and in everyday traffic, most
//! packets end here, so every look-up that they can do without is left out.

use super::{
    Decision, Family, NO_RULE, Tables, block_reason,
    flow::{doors, has_pinholes, media_slot},
    replies,
};
use crate::{
    abi::{
        AT_ONCE_YES, NO_GENERATION, SCHEMA, SCOPE_NONE, SETTING_BLOCKS, SETTING_CEILING,
        SETTING_FLOOD, SETTING_MONITOR, Settings, WORD_MANAGEMENT, ZONES, port_index, word_count,
        word_open_rule,
    },
    packet::{
        Frame, Ip, Kind, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, TCP_SYN, is_plain4,
        is_plain6, plain_transport,
    },
    verdict::Reason,
};

/// Bytes before the IP header of a plain packet.
const LINK: usize = 14;

/// What is done with a decision. A trait and no closure, so that the kernel program has it in line:
/// of a blocked source's packet, next to nothing is left to find out there.
pub trait Done {
    /// What comes of it.
    type Output;
    /// Does it.
    fn done(&self, decision: &Decision) -> Self::Output;
}

/// Judges a frame that came in on `ifindex`, if that is easy, and gives what was done with it.
#[inline(always)]
pub fn at_once<T: Tables, D: Done>(
    tables: &T,
    settings: &Settings,
    frame: &Frame<'_>,
    ifindex: impl Fn() -> u32,
    then: &D,
) -> Option<D::Output> {
    if settings.flags & SETTING_MONITOR != 0 || settings.shadow < NO_GENERATION {
        return None;
    }
    let place = move || {
        let device = tables.interface(ifindex())?;
        let zone = u32::from(device.zone_plus_one).wrapping_sub(1);
        (zone < ZONES).then_some((zone, device.slot))
    };
    if is_plain4(frame) {
        plain::<T, [u8; 4], D>(tables, settings, frame, place, then)
    } else if is_plain6(frame) {
        plain::<T, [u8; 16], D>(tables, settings, frame, place, then)
    } else {
        None
    }
}

/// Zone and slot of the interface. The zone is as wide as a register: two widths of it take twice the
/// room.
type Where = (u32, u8);

#[inline(always)]
fn decision((zone, slot): Where, reason: Reason, rule: u32) -> Decision {
    Decision { verdict: reason.verdict(), reason, rule, zone: zone as u8, slot }
}

#[inline(always)]
fn plain<T: Tables, A: Family, D: Done>(
    tables: &T,
    settings: &Settings,
    frame: &Frame<'_>,
    place: impl Fn() -> Option<Where>,
    then: &D,
) -> Option<D::Output> {
    let source = || Some(A::addresses(frame, LINK)?.0);
    let epoch = settings.epoch_now();
    let remembered = if epoch == 0 { None } else { source()?.remembered_block(tables, epoch) };
    if let Some((block, AT_ONCE_YES)) = remembered {
        let ends = u64::from(block.expires_at_seconds);
        if ends != 0 && tables.now_seconds() >= ends {
            return None;
        }
        return Some(then.done(&decision(place()?, block_reason(block.reason), NO_RULE)));
    }
    let clean = matches!(remembered, Some((block, _)) if block.scope == SCOPE_NONE);
    Some(then.done(&plain_packet::<T, A>(tables, settings, frame, place, clean)?))
}

/// Judges a plain packet; `clean`: its source is remembered as one that nobody blocks.
#[inline(always)]
fn plain_packet<T: Tables, A: Family>(
    tables: &T,
    settings: &Settings,
    frame: &Frame<'_>,
    place: impl Fn() -> Option<Where>,
    clean: bool,
) -> Option<Decision> {
    let generation = tables.generation(settings);
    if settings.schema != SCHEMA || generation >= NO_GENERATION {
        return None;
    }
    let place = place()?;
    let six = A::ICMP == PROTOCOL_ICMPV6;
    let (transport, _) = plain_transport(frame, six)?;
    let udp = transport.kind == Kind::Udp;
    let index = port_index(place.0 as u8, udp, transport.destination_port);
    let word = tables.port_word(generation, index);
    if word & WORD_MANAGEMENT != 0 {
        return None;
    }
    if !clean && settings.flags & SETTING_BLOCKS != 0 {
        let source = || Some(A::addresses(frame, LINK)?.0);
        let present = source()?.may_be_blocked(tables, settings.flags);
        if present != 0
            && let Some(reason) = source()?.is_blocked(tables, settings, (word, present))
        {
            return Some(decision(place, reason, NO_RULE));
        }
    }
    let doors = if udp { doors(has_pinholes(settings), word) } else { 0 };
    if doors != 0 {
        let slot = A::plain_flow(tables, frame, place.0 as u8, doors);
        if slot != 0 {
            return Some(decision(place, Reason::MediaRelayed, slot));
        }
    }
    let ceiling = settings.flags & SETTING_CEILING != 0;
    if let Some(rule) = word_open_rule(word) {
        // New connections are counted; others are asked for more only in a flood. The header is read
        // again: what is kept takes room on a small stack.
        let counted = !udp
            && settings.flags & SETTING_FLOOD != 0
            && (plain_transport(frame, six)?.0.detail & TCP_SYN != 0
                || tables.sends_cookies(place.0 as u8));
        return (!ceiling && !counted).then(|| decision(place, Reason::Rule, rule));
    }
    if word_count(word) > 0 {
        return None;
    }
    match A::plain_answer(tables, settings, frame) {
        Some(_) if ceiling => None,
        reason => Some(decision(place, reason.unwrap_or(Reason::NoRule), NO_RULE)),
    }
}

/// The media flow that a plain datagram belongs to, behind one of these doors (see
/// [`super::flow`]); 0: none.
#[inline(always)]
pub fn plain_flow<T: Tables, A: Family>(
    tables: &T,
    frame: &Frame<'_>,
    zone: u8,
    doors: u32,
) -> u32 {
    let Some((transport, _)) = plain_transport(frame, A::ICMP == PROTOCOL_ICMPV6) else { return 0 };
    let Some((_, destination)) = A::addresses(frame, LINK) else { return 0 };
    media_slot(tables, zone, (destination, transport.destination_port), doors)
}

/// What a plain packet that no rule lets in answers: it passes only when there is something.
#[inline(always)]
pub fn plain_answer<T: Tables, A: Family>(
    tables: &T,
    settings: &Settings,
    frame: &Frame<'_>,
) -> Option<Reason> {
    let (transport, header_length) = plain_transport(frame, A::ICMP == PROTOCOL_ICMPV6)?;
    let (source, destination) = A::addresses(frame, LINK)?;
    let mut upper = frame.cursor();
    upper.skip(LINK + usize::from(header_length));
    let ip = Ip {
        source,
        destination,
        hop_limit: 0,
        protocol: if transport.kind == Kind::Udp { PROTOCOL_UDP } else { PROTOCOL_TCP },
        fragment: false,
        fragment_id: 0,
        fragment_length: 0,
        header_length,
        transport,
        upper,
    };
    replies(tables, settings, &ip)
}
