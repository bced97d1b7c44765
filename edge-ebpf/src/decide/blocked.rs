//! Whether a source is blocked, and what is remembered of that.

use super::{Family, Tables};
use crate::{
    abi::{
        AT_ONCE_NO, AT_ONCE_UNKNOWN, AT_ONCE_YES, Block, NOT_BLOCKED, PRESENT_ADDRESSES,
        PRESENT_PREFIXES, SCOPE_ALL, SCOPE_NONE, SOURCE_SET_MANAGEMENT, Settings,
    },
    verdict::Reason,
};

/// Whether the source is blocked for what it asks for: exact entry first, then prefix, as far
/// as [`Family::may_be_blocked`] says that there can be one.
///
/// What is found is remembered, and asked first: the exact entry, or the prefix when there is no
/// exact entry, so that what is remembered is always what would be found first; or that there
/// is neither.
#[inline(always)]
pub fn blocked<T: Tables, A: Family>(
    tables: &T,
    source: A,
    (word, present): (u32, u32),
    settings: &Settings,
) -> Option<Reason> {
    let epoch = settings.epoch_now();
    let in_force = |block: Block| {
        if !block.in_version(settings.block_version) {
            return None;
        }
        if !block.is_for(word) {
            return None;
        }
        if block.expires_at_seconds != 0
            && tables.now_seconds() >= u64::from(block.expires_at_seconds)
        {
            return None;
        }
        Some(block_reason(block.reason))
    };
    if epoch != 0
        && let Some((block, at_once)) = source.remembered_block(tables, epoch)
    {
        if block.scope == SCOPE_NONE {
            return None;
        }
        if let Some(reason) = in_force(block) {
            if at_once == AT_ONCE_UNKNOWN {
                // It goes on sending: what its next packets need not ask is found out once.
                let at_once = whatever_it_is_for(tables, source, block, settings);
                source.remember_block(tables, epoch, block, at_once);
            }
            return Some(reason);
        }
    }
    let present = source.may_still_be_blocked(tables, present);
    if present == 0 {
        return None;
    }
    let exact = if present & PRESENT_ADDRESSES != 0 { source.blocked(tables) } else { None };
    if let Some(block) = exact
        && let Some(reason) = in_force(block)
    {
        if epoch != 0 {
            source.remember_block(tables, epoch, block, AT_ONCE_UNKNOWN);
        }
        return Some(reason);
    }
    let prefix = if present & PRESENT_PREFIXES != 0 { source.blocked_prefix(tables) } else { None };
    let reason = prefix.and_then(in_force);
    // A block that is not in force for this packet is not remembered: it may be for the next.
    if epoch != 0 && exact.is_none() && (reason.is_some() || prefix.is_none()) {
        source.remember_block(tables, epoch, prefix.unwrap_or(NOT_BLOCKED), AT_ONCE_UNKNOWN);
    }
    reason
}

/// The reason that a block is counted under.
#[inline(always)]
pub(super) fn block_reason(number: u8) -> Reason {
    match number {
        number if number == Reason::BlockedDomain as u8 => Reason::BlockedDomain,
        number if number == Reason::BadSource as u8 => Reason::BadSource,
        _ => Reason::BlockedAddress,
    }
}

/// Whether a block in force holds for all that this source may send until it expires: what
/// [`at_once`] needs to know. The generation is read after the epoch that the answer is
/// remembered under, and the daemon writes an epoch after the generation it belongs to.
#[inline(always)]
fn whatever_it_is_for<T: Tables, A: Family>(
    tables: &T,
    source: A,
    block: Block,
    settings: &Settings,
) -> u16 {
    // A block with an end among the versions may be over without a new epoch.
    let whole = block.scope == SCOPE_ALL && block.until_version == 0;
    let generation = tables.generation(settings);
    if whole && !source.sources(tables, generation).contains(SOURCE_SET_MANAGEMENT) {
        AT_ONCE_YES
    } else {
        AT_ONCE_NO
    }
}
