//! What needs no long judgement: a plain packet of a source that is remembered as blocked, and a
//! plain packet for a port that is open to everybody from a source that nobody blocks.
//!
//! It says what [`super::judge`] says, or nothing. Under attack, and in everyday traffic, most
//! packets end here, so every look-up that they can do without is left out.

use super::{Decision, Family, NO_RULE, Tables, block_reason};
use crate::{
    abi::{
        AT_ONCE_YES, NO_GENERATION, SCHEMA, SCOPE_NONE, SETTING_BLOCKS, SETTING_CEILING,
        SETTING_FLOOD, SETTING_MONITOR, Settings, WORD_MANAGEMENT, ZONES, port_index,
        word_open_rule,
    },
    packet::{Frame, PlainVisitor, plain},
    verdict::Reason,
};

/// Judges a frame that came in on `ifindex`, if that is easy.
#[inline(always)]
pub fn at_once<T: Tables>(
    tables: &T,
    settings: &Settings,
    frame: &Frame<'_>,
    ifindex: u32,
) -> Option<Decision> {
    if settings.flags & SETTING_MONITOR != 0 || settings.shadow < NO_GENERATION {
        return None;
    }
    let device = tables.interface(ifindex)?;
    let zone = device.zone_plus_one.wrapping_sub(1);
    if u32::from(zone) >= ZONES {
        return None;
    }
    plain(frame, Plain { tables, settings, zone, slot: device.slot })
}

struct Plain<'t, T> {
    tables: &'t T,
    settings: &'t Settings,
    zone: u8,
    slot: u8,
}

impl<T: Tables> Plain<'_, T> {
    #[inline(always)]
    fn judge<A: Family>(&self, source: A, udp: bool, port: u16) -> Option<Decision> {
        let (tables, settings, zone) = (self.tables, self.settings, self.zone);
        let decision = |reason: Reason, rule| Decision {
            verdict: reason.verdict(),
            reason,
            rule,
            zone,
            slot: self.slot,
        };
        let epoch = settings.epoch_now();
        let mut clean = settings.flags & SETTING_BLOCKS == 0;
        if epoch != 0
            && let Some((block, at_once)) = source.remembered_block(tables, epoch)
        {
            if at_once == AT_ONCE_YES {
                let ends = u64::from(block.expires_at_seconds);
                let over = ends != 0 && tables.now_seconds() >= ends;
                return (!over).then(|| decision(block_reason(block.reason), NO_RULE));
            }
            if block.scope != SCOPE_NONE {
                return None;
            }
            clean = true;
        }
        if settings.flags & SETTING_CEILING != 0 || (!udp && settings.flags & SETTING_FLOOD != 0) {
            return None;
        }
        if !clean && source.may_be_blocked(tables, settings.flags) {
            return None;
        }
        let generation = tables.generation(settings);
        if settings.schema != SCHEMA || generation >= NO_GENERATION {
            return None;
        }
        let word = tables.port_word(generation, port_index(zone, udp, port));
        if word & WORD_MANAGEMENT != 0 {
            return None;
        }
        word_open_rule(word).map(|rule| decision(Reason::Rule, rule))
    }
}

impl<T: Tables> PlainVisitor for Plain<'_, T> {
    type Output = Decision;

    #[inline(always)]
    fn plain4(self, source: [u8; 4], udp: bool, port: u16) -> Option<Decision> {
        self.judge(source, udp, port)
    }

    #[inline(always)]
    fn plain6(self, source: [u8; 16], udp: bool, port: u16) -> Option<Decision> {
        self.judge(source, udp, port)
    }
}
