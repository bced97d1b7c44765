//! The rules of a port or protocol, one after the other.

use super::{Family, Found, Tables, without_rule};
use crate::{
    abi::{
        ACTION_PASS, CONTENT_ANY, MAX_RULES_PER_WORD, SET_ANY, SOURCE_SET_PARTNERS, SetMask,
        word_count, word_first,
    },
    verdict::Reason,
};

/// The first rule of the word that the packet satisfies decides. When none does, the reason
/// says how near it came.
#[inline(always)]
pub fn rules<T: Tables, A: Family>(
    tables: &T,
    generation: u32,
    word: u32,
    source: A,
    destination: A,
) -> Found {
    let mut walk = Walk {
        source,
        destination,
        generation,
        word,
        nearest: Reason::NoRule as u32,
        known: 0,
        sources: SetMask::default(),
        destinations: SetMask::default(),
    };
    // Where the rules end is told by `rule`: a loop with an end that the verifier does not know
    // is proved turn by turn, or not at all.
    for position in 0..MAX_RULES_PER_WORD {
        if let Some(found) = A::rule(tables, &mut walk, position) {
            return found;
        }
    }
    walk.nearest()
}

/// A walk over the rules of a word: what is asked for, and what was learned on the way.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk<A> {
    source: A,
    destination: A,
    generation: u32,
    word: u32,
    /// The reason that says how near it came.
    nearest: u32,
    /// `KNOWN_*`: which of the two masks were looked up.
    known: u32,
    sources: SetMask,
    destinations: SetMask,
}

const KNOWN_SOURCES: u32 = 1;
const KNOWN_DESTINATIONS: u32 = 2;

impl<A> Walk<A> {
    /// What is found when no rule was satisfied.
    #[inline(always)]
    fn nearest(&self) -> Found {
        const DESTINATION: u32 = Reason::DestinationNotAllowed as u32;
        const SOURCE: u32 = Reason::SourceNotAllowed as u32;
        const PARTNER: u32 = Reason::NotPartner as u32;
        without_rule(match self.nearest {
            DESTINATION => Reason::DestinationNotAllowed,
            SOURCE => Reason::SourceNotAllowed,
            PARTNER => Reason::NotPartner,
            _ => Reason::NoRule,
        })
    }
}

/// One rule of a walk: what is found when the packet satisfies it or there is no further rule,
/// else `None`, with what was learned in `walk`. The kernel program calls it as a function that
/// the verifier proves once: in a loop, its ways would multiply with every turn.
#[inline(always)]
pub fn rule<T: Tables, A: Family>(tables: &T, walk: &mut Walk<A>, position: u32) -> Option<Found> {
    if position >= word_count(walk.word) {
        return Some(walk.nearest());
    }
    let Some(rule) = tables.rule(walk.generation, word_first(walk.word) + position) else {
        return Some(walk.nearest());
    };
    if rule.destination_set != SET_ANY && !walk.destination.is_named(&rule) {
        if walk.known & KNOWN_DESTINATIONS == 0 {
            walk.destinations = tables.destinations(walk.generation, &walk.destination.mapped());
            walk.known |= KNOWN_DESTINATIONS;
        }
        if !walk.destinations.contains(rule.destination_set) {
            if walk.nearest == Reason::NoRule as u32 {
                walk.nearest = Reason::DestinationNotAllowed as u32;
            }
            return None;
        }
    }
    if rule.source_set != SET_ANY {
        if walk.known & KNOWN_SOURCES == 0 {
            walk.sources = walk.source.sources(tables, walk.generation);
            walk.known |= KNOWN_SOURCES;
        }
        if !walk.sources.contains(rule.source_set) {
            let partners = rule.source_set == SOURCE_SET_PARTNERS;
            let near = if partners { Reason::NotPartner } else { Reason::SourceNotAllowed };
            walk.nearest = near as u32;
            return None;
        }
    }
    let passes = rule.action == ACTION_PASS;
    Some(Found {
        reason: if passes { Reason::Rule } else { Reason::RuleDrop },
        rule: rule.id,
        limits: if passes { rule.limits } else { 0 },
        content: if passes { rule.content } else { CONTENT_ANY },
    })
}
