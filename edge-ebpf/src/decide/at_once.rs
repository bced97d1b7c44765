//! What needs no long judgement: a plain packet of a source that is remembered as blocked, and,
//! from a source that nobody blocks, a plain packet for a port that is open to everybody or to
//! nobody.
//!
//! It says what [`super::judge`] says, or nothing. Under attack, and in everyday traffic, most
//! packets end here, so every look-up that they can do without is left out.

use super::{
    Decision, Family, NO_RULE, Tables, block_reason,
    flow::{DOOR_PINHOLE, DOOR_PORT, has_pinholes, media_slot},
    replies,
};
use crate::{
    abi::{
        AT_ONCE_YES, Interface, NO_GENERATION, SCHEMA, SCOPE_NONE, SETTING_BLOCKS, SETTING_CEILING,
        SETTING_FLOOD, SETTING_MONITOR, SETTING_PINHOLES, Settings, WORD_MANAGEMENT, WORD_MEDIA,
        ZONES, port_index, word_open_rule,
    },
    packet::{
        ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, Frame, Ip, Kind, PROTOCOL_ICMPV6, PROTOCOL_TCP,
        PROTOCOL_UDP, ether_type, is_plain4, is_plain6, plain_transport,
    },
    verdict::Reason,
};

/// Bytes before the IP header of a plain packet.
const LINK: usize = 14;

/// Judges a frame that came in on `ifindex`, if that is easy.
#[inline(always)]
pub fn at_once<T: Tables>(
    tables: &T,
    settings: &Settings,
    frame: &Frame<'_>,
    ifindex: impl Fn() -> u32,
) -> Option<Decision> {
    if settings.flags & SETTING_MONITOR != 0 || settings.shadow < NO_GENERATION {
        return None;
    }
    let device = || {
        let device = tables.interface(ifindex())?;
        (u32::from(zone(device)) < ZONES).then_some(device)
    };
    match ether_type(frame)? {
        ETHER_TYPE_IPV4 if is_plain4(frame) => {
            plain::<T, [u8; 4]>(tables, settings, frame, false, device)
        }
        ETHER_TYPE_IPV6 if is_plain6(frame) => {
            plain::<T, [u8; 16]>(tables, settings, frame, true, device)
        }
        _ => None,
    }
}

#[inline(always)]
const fn zone(device: Interface) -> u8 {
    device.zone_plus_one.wrapping_sub(1)
}

#[inline(always)]
fn plain<T: Tables, A: Family>(
    tables: &T,
    settings: &Settings,
    frame: &Frame<'_>,
    six: bool,
    device: impl Fn() -> Option<Interface>,
) -> Option<Decision> {
    let source = || Some(A::addresses(frame, LINK)?.0);
    let decision = |device: Interface, reason: Reason, rule| Decision {
        verdict: reason.verdict(),
        reason,
        rule,
        zone: zone(device),
        slot: device.slot,
    };
    let mut clean = settings.flags & SETTING_BLOCKS == 0;
    let epoch = settings.epoch_now();
    if epoch != 0
        && let Some((block, at_once)) = source()?.remembered_block(tables, epoch)
    {
        if at_once == AT_ONCE_YES {
            let ends = u64::from(block.expires_at_seconds);
            if ends != 0 && tables.now_seconds() >= ends {
                return None;
            }
            return Some(decision(device()?, block_reason(block.reason), NO_RULE));
        }
        if block.scope != SCOPE_NONE {
            return None;
        }
        clean = true;
    }
    if !clean && source()?.may_be_blocked(tables, settings.flags) != 0 {
        return None;
    }
    let generation = tables.generation(settings);
    if settings.schema != SCHEMA || generation >= NO_GENERATION {
        return None;
    }
    let device = device()?;
    let (transport, _) = plain_transport(frame, six)?;
    let udp = transport.kind == Kind::Udp;
    let index = port_index(zone(device), udp, transport.destination_port);
    let word = tables.port_word(generation, index);
    if udp && word & (WORD_MEDIA | WORD_MANAGEMENT) == WORD_MEDIA {
        if has_pinholes(settings) {
            return None;
        }
        let slot = A::plain_flow(tables, frame, zone(device), DOOR_PORT);
        return (slot != 0).then(|| decision(device, Reason::MediaRelayed, slot));
    }
    let limited = SETTING_CEILING
        | match udp {
            false => SETTING_FLOOD,
            // For us, or for an endpoint behind us: that takes longer to find out.
            true if word != 0 => SETTING_PINHOLES,
            true => 0,
        };
    if word & WORD_MANAGEMENT != 0 || settings.flags & limited != 0 {
        return None;
    }
    if word != 0 {
        return word_open_rule(word).map(|rule| decision(device, Reason::Rule, rule));
    }
    if udp && has_pinholes(settings) {
        let slot = A::plain_flow(tables, frame, zone(device), DOOR_PINHOLE);
        if slot != 0 {
            return Some(decision(device, Reason::MediaRelayed, slot));
        }
    }
    let reason = A::plain_answer(tables, settings, frame);
    Some(decision(device, reason.unwrap_or(Reason::NoRule), NO_RULE))
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
