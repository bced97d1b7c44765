//! The decision's parts as global functions of BPF: the verifier proves each once, for all arguments,
//! instead of once for every way that leads to it.

use aya_ebpf::bindings::xdp_md;
use edge_ebpf::{
    abi::Limit,
    decide::{
        Asked, Family, Found, NO_RULE, Packed, Walk, blocked, conforms, decide, flow_of, in_flood,
        later, plain_answer, plain_flow, questions, replies, rule, walk,
    },
    packet::{Piece, is_scanner},
    verdict::Reason,
};

use crate::{
    context::frame_of,
    maps,
    numbers::{NO_REASON, answer, judged_of, packed, packet_again, step, tables_of, whole},
    tables::KernelTables,
};

#[inline(always)]
fn replies_of<A: Family>(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    let tables = KernelTables::new(context);
    let Some(settings) = maps::SETTINGS.get(0) else { return answer(None) };
    let frame = frame_of(context);
    let Some(ip) = packet_again::<A>(&frame, place, Packed(facts)) else { return answer(None) };
    answer(replies(&tables, settings, &ip))
}

#[inline(always)]
fn piece_reason<A: Family>(context: *mut xdp_md, place: u32, facts: u64, id: u32) -> Reason {
    let tables = &KernelTables { trial: place >> 10 & 1 != 0, ..KernelTables::new(context) };
    let Some(settings) = maps::SETTINGS.get(0) else { return Reason::Fragment };
    let frame = frame_of(tables.context);
    let Some((source, destination)) = A::addresses(&frame, (place & 0x1f) as usize) else {
        return Reason::Fragment;
    };
    let piece = Piece {
        source,
        destination,
        id,
        protocol: (facts >> 32) as u8,
        offset: (facts & 0xffff) as u32,
        length: (facts >> 16 & 0xffff) as u32,
    };
    later(tables, settings, (place >> 8 & 1) as u8, &piece).reason
}

/// Later fragments of IPv4 packets; proved once. The number of the reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_piece4(context: *mut xdp_md, place: u32, facts: u64, id: u32) -> u64 {
    piece_reason::<[u8; 4]>(context, place, facts, id) as u64
}

/// As [`edge_piece4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_piece6(context: *mut xdp_md, place: u32, facts: u64, id: u32) -> u64 {
    piece_reason::<[u8; 16]>(context, place, facts, id) as u64
}

/// Whether a source is blocked, IPv4; proved once. Of `how`, the low bit says that this is a
/// trial, and the two above it in which tables the source can be. The number of the reason, or
/// [`NO_REASON`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_blocked4(source: u32, word: u32, how: u32) -> u64 {
    blocked_of(source.to_ne_bytes(), word, how)
}

/// As [`edge_blocked4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_blocked6(first: u64, second: u64, word: u32, how: u32) -> u64 {
    blocked_of(whole(first, second), word, how)
}

#[inline(always)]
fn blocked_of<A: Family>(source: A, word: u32, how: u32) -> u64 {
    let Some(settings) = maps::SETTINGS.get(0) else { return u64::from(NO_REASON) };
    let tables = KernelTables { trial: how & 1 != 0, ..KernelTables::new(core::ptr::null_mut()) };
    answer(blocked(&tables, source, (word, how >> 1), settings))
}

#[inline(always)]
fn decide_of<A: Family>(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    let tables = tables_of(context, place);
    let nothing = Found { reason: Reason::NoRuleSet, rule: NO_RULE, limits: 0, content: 0 };
    let Some(settings) = maps::SETTINGS.get(0) else { return packed(nothing) };
    let frame = frame_of(context);
    let Some((source, _)) = A::addresses(&frame, (place & 0x1f) as usize) else {
        return packed(nothing);
    };
    packed(decide(&tables, settings, Packed(facts), source))
}

#[inline(always)]
fn walk_of<A: Family>(
    context: *mut xdp_md,
    place: u32,
    word: u32,
    asked: u32,
    find: impl FnOnce() -> u64,
) -> u64 {
    let tables = tables_of(context, place);
    let nothing = Found { reason: Reason::NoRuleSet, rule: NO_RULE, limits: 0, content: 0 };
    let Some(settings) = maps::SETTINGS.get(0) else { return packed(nothing) };
    let ends = || A::addresses(&frame_of(context), (place & 0x1f) as usize);
    packed(walk(&tables, settings, Asked(asked), word, || find() as u32, ends))
}

#[inline(always)]
fn flow_in<A: Family>(context: *mut xdp_md, place: u32, word: u32, asked: u32) -> u64 {
    let ends = A::addresses(&frame_of(context), (place & 0x1f) as usize);
    let Some((_, destination)) = ends else { return 0 };
    flow_of(&KernelTables::new(context), Asked(asked), word, destination).into()
}

/// [`flow_of`] for IPv4; proved once, as [`edge_decide4`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_flow4(
    context: *mut xdp_md,
    place: u32,
    word: u32,
    asked: u32,
) -> u64 {
    flow_in::<[u8; 4]>(context, place, word, asked)
}

/// As [`edge_flow4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_flow6(
    context: *mut xdp_md,
    place: u32,
    word: u32,
    asked: u32,
) -> u64 {
    flow_in::<[u8; 16]>(context, place, word, asked)
}

/// [`walk`] for IPv4; proved once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_walk4(
    context: *mut xdp_md,
    place: u32,
    word: u32,
    asked: u32,
) -> u64 {
    walk_of::<[u8; 4]>(context, place, word, asked, || edge_flow4(context, place, word, asked))
}

/// As [`edge_walk4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_walk6(
    context: *mut xdp_md,
    place: u32,
    word: u32,
    asked: u32,
) -> u64 {
    walk_of::<[u8; 16]>(context, place, word, asked, || edge_flow6(context, place, word, asked))
}

/// [`decide`] for IPv4. A global function of BPF: the verifier proves it once, for all arguments,
/// instead of once for every way that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_decide4(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    decide_of::<[u8; 4]>(context, place, facts)
}

/// As [`edge_decide4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_decide6(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    decide_of::<[u8; 16]>(context, place, facts)
}

/// [`replies`] for IPv4; proved once, as [`edge_decide4`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_replies4(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    replies_of::<[u8; 4]>(context, place, facts)
}

/// As [`edge_replies4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_replies6(context: *mut xdp_md, place: u32, facts: u64) -> u64 {
    replies_of::<[u8; 16]>(context, place, facts)
}

#[inline(always)]
fn plain_flow_of<A: Family>(context: *mut xdp_md, zone: u32, doors: u32) -> u64 {
    let tables = KernelTables::new(context);
    plain_flow::<_, A>(&tables, &frame_of(context), zone as u8, doors).into()
}

/// [`plain_flow`] for IPv4; proved once, as [`edge_decide4`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_plain_flow4(context: *mut xdp_md, zone: u32, doors: u32) -> u64 {
    plain_flow_of::<[u8; 4]>(context, zone, doors)
}

/// As [`edge_plain_flow4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_plain_flow6(context: *mut xdp_md, zone: u32, doors: u32) -> u64 {
    plain_flow_of::<[u8; 16]>(context, zone, doors)
}

#[inline(always)]
fn plain_answer_of<A: Family>(context: *mut xdp_md) -> u64 {
    let Some(settings) = maps::SETTINGS.get(0) else { return answer(None) };
    answer(plain_answer::<_, A>(&KernelTables::new(context), settings, &frame_of(context)))
}

/// [`plain_answer`] for IPv4; proved once, as [`edge_decide4`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_plain_answer4(context: *mut xdp_md) -> u64 {
    plain_answer_of::<[u8; 4]>(context)
}

/// As [`edge_plain_answer4`], for IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_plain_answer6(context: *mut xdp_md) -> u64 {
    plain_answer_of::<[u8; 16]>(context)
}

/// [`conforms`]; proved once. When the next unit is due, or 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_conforms(
    increment: u64,
    tolerance: u64,
    due: u64,
    now: u64,
    units: u64,
) -> u64 {
    match conforms(&Limit { increment, tolerance }, due, now, units) {
        Some(due) => due.max(1),
        None => 0,
    }
}

/// The search for the signatures of scanners; proved once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_scanner(context: *mut xdp_md, payload: u32) -> u64 {
    u64::from(is_scanner(&frame_of(context), payload as usize))
}

/// [`questions::begun`]; proved once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_begun(context: *mut xdp_md, place: u64, facts: u64) -> u64 {
    let (tables, judged) = judged_of(context, place, facts, 0, 0);
    let frame = frame_of(context);
    if judged.six {
        questions::begun::<_, [u8; 16]>(&tables, &judged, &frame);
    } else {
        questions::begun::<_, [u8; 4]>(&tables, &judged, &frame);
    }
    0
}

/// [`questions::content`]; proved once. The number of the reason to refuse the packet, or 255.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_content(
    context: *mut xdp_md,
    place: u64,
    facts: u64,
    found: u64,
) -> u64 {
    let (tables, judged) = judged_of(context, place, facts, found, 0);
    let frame = frame_of(context);
    answer(if judged.six {
        questions::content::<_, [u8; 16]>(&tables, &judged, &frame)
    } else {
        questions::content::<_, [u8; 4]>(&tables, &judged, &frame)
    })
}

/// [`questions::limited`]; proved once. The number of the reason to refuse the packet, or 255.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_limited(
    context: *mut xdp_md,
    place: u64,
    facts: u64,
    found: u64,
) -> u64 {
    let (tables, judged) = judged_of(context, place, facts, found, 0);
    let Some(settings) = maps::SETTINGS.get(0) else { return answer(Some(Reason::NoRuleSet)) };
    let frame = frame_of(context);
    answer(if judged.six {
        questions::limited::<_, [u8; 16]>(&tables, settings, &judged, &frame)
    } else {
        questions::limited::<_, [u8; 4]>(&tables, settings, &judged, &frame)
    })
}

/// [`questions::flooded`]; proved once. The number of the reason to refuse the packet, or 255.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_flooded(context: *mut xdp_md, place: u64, facts: u64) -> u64 {
    let (tables, judged) = judged_of(context, place, facts, 0, 0);
    let Some(settings) = maps::SETTINGS.get(0) else { return answer(Some(Reason::NoRuleSet)) };
    let frame = frame_of(context);
    answer(if judged.six {
        questions::flooded::<_, [u8; 16]>(&tables, settings, &judged, &frame)
    } else {
        questions::flooded::<_, [u8; 4]>(&tables, settings, &judged, &frame)
    })
}

/// [`in_flood`]; proved once. Of `how`, the low bit is the zone, the next says that this is a SYN, and
/// the third that it is a trial.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_in_flood(threshold: u32, second: u32, how: u32) -> u64 {
    let trial = how & 4 != 0;
    let tables = KernelTables { trial, ..KernelTables::new(core::ptr::null_mut()) };
    in_flood(&tables, threshold, (how & 1) as u8, how & 2 != 0, second).into()
}

/// [`questions::first_fragment`]; proved once. The number of the reason to refuse the packet, or 255.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_first_fragment(
    context: *mut xdp_md,
    place: u64,
    facts: u64,
    fragment: u64,
) -> u64 {
    let (tables, judged) = judged_of(context, place, facts, 0, fragment);
    let frame = frame_of(context);
    answer(if judged.six {
        questions::first_fragment::<_, [u8; 16]>(&tables, &judged, &frame)
    } else {
        questions::first_fragment::<_, [u8; 4]>(&tables, &judged, &frame)
    })
}

/// One rule of a walk, IPv4, proved once and not again for every turn.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_rule4(walk: *mut Walk<[u8; 4]>, position: u32) -> u64 {
    let tables = KernelTables::new(core::ptr::null_mut());
    // SAFETY: the callers hand over their own walk; the verifier proves that it is one or null.
    let Some(walk) = (unsafe { walk.as_mut() }) else { return step(None) };
    step(rule(&tables, walk, position))
}

/// As [`edge_rule4`], IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn edge_rule6(walk: *mut Walk<[u8; 16]>, position: u32) -> u64 {
    let tables = KernelTables::new(core::ptr::null_mut());
    // SAFETY: as in `edge_rule4`.
    let Some(walk) = (unsafe { walk.as_mut() }) else { return step(None) };
    step(rule(&tables, walk, position))
}
