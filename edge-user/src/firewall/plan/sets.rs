//! Numbered sets of sources and of our own addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use edge_ebpf::abi;
use ipnet::IpNet;

use super::PlanError;
use crate::config::Sources;

/// Source prefixes of one family in one generation, as the kernel program's maps have room.
const MAX_SOURCES: u32 = 16_384;
/// Our own addresses in one generation.
const MAX_DESTINATIONS: u32 = 1024;
/// Sets of sources that are there before any rule: management's and partners'.
const FIXED_SOURCES: usize = abi::SOURCE_SET_PARTNERS as usize + 1;

/// Numbered sets of sources and of our own addresses.
pub(super) struct Sets {
    sources: Vec<BTreeSet<IpNet>>,
    destinations: Vec<BTreeSet<IpAddr>>,
}

impl Sets {
    /// Source set 0 is the management prefixes, 1 the partners' addresses, empty as yet.
    pub fn new(management: &[IpNet]) -> Self {
        let management = management.iter().map(IpNet::trunc).collect();
        Self { sources: vec![management, BTreeSet::new()], destinations: Vec::new() }
    }

    /// The sets that a source must be in one of: any, or prefixes, or partners, or both. Partners
    /// come last, so that the kernel names the partners when nothing matches.
    pub fn source(&mut self, from: &Sources) -> Result<Vec<u8>, PlanError> {
        let set: BTreeSet<IpNet> = from.prefixes.iter().map(IpNet::trunc).collect();
        let whole = |v6: bool| {
            set.iter().any(|net| net.prefix_len() == 0 && matches!(net, IpNet::V6(_)) == v6)
        };
        let nothing = set.is_empty() && !from.partners;
        if nothing || (whole(false) && whole(true)) {
            return Ok(vec![abi::SET_ANY]);
        }
        let mut numbers = Vec::new();
        if !set.is_empty() {
            // A rule with the same prefixes as management or partners gets its own number.
            numbers.push(number(&mut self.sources, FIXED_SOURCES, set, "sources")?);
        }
        if from.partners {
            numbers.push(abi::SOURCE_SET_PARTNERS);
        }
        Ok(numbers)
    }

    /// The set of these addresses of ours.
    pub fn destination(&mut self, to: &[IpAddr]) -> Result<u8, PlanError> {
        if to.is_empty() {
            return Ok(abi::SET_ANY);
        }
        number(&mut self.destinations, 0, to.iter().copied().collect(), "destinations")
    }

    /// The sets of sources, by number.
    pub fn source_sets(&self) -> Vec<Vec<IpNet>> {
        self.sources.iter().map(|set| set.iter().copied().collect()).collect()
    }

    /// Each address with its sets.
    pub fn destination_members(&self) -> Result<Vec<(IpAddr, u64)>, PlanError> {
        let mut members: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for (index, set) in self.destinations.iter().enumerate() {
            for address in set {
                *members.entry(*address).or_default() |= 1 << index;
            }
        }
        if members.len() > MAX_DESTINATIONS as usize {
            let (what, count) = ("addresses", members.len());
            return Err(PlanError::TooManyMembers { what, count, max: MAX_DESTINATIONS });
        }
        Ok(members.into_iter().collect())
    }
}

/// Each prefix with its own sets and those of the prefixes that cover it.
pub(super) fn source_members(sets: &[Vec<IpNet>]) -> Result<Vec<(IpNet, u64)>, PlanError> {
    let mut own: BTreeMap<IpNet, u64> = BTreeMap::new();
    for (index, set) in sets.iter().enumerate() {
        for prefix in set {
            *own.entry(*prefix).or_default() |= 1 << index;
        }
    }
    for v6 in [false, true] {
        let count = own.keys().filter(|net| matches!(net, IpNet::V6(_)) == v6).count();
        if count > MAX_SOURCES as usize {
            let what = "source prefixes";
            return Err(PlanError::TooManyMembers { what, count, max: MAX_SOURCES });
        }
    }
    // Covering prefixes sort before what they cover, so a stack holds the way down.
    let mut order: Vec<(IpNet, u64)> = own.into_iter().collect();
    order.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
    let mut way: Vec<(IpNet, u64)> = Vec::new();
    let mut members = Vec::with_capacity(order.len());
    for (net, mask) in order {
        while way.last().is_some_and(|(above, _)| !above.contains(&net)) {
            way.pop();
        }
        let mask = mask | way.last().map_or(0, |(_, above)| *above);
        way.push((net, mask));
        members.push((net, mask));
    }
    Ok(members)
}

fn number<T: PartialEq>(
    sets: &mut Vec<T>,
    first: usize,
    set: T,
    what: &'static str,
) -> Result<u8, PlanError> {
    let found = sets.iter().skip(first).position(|known| *known == set).map(|at| at + first);
    let index = found.unwrap_or(sets.len());
    if index >= usize::from(abi::MAX_SETS) {
        let max = usize::from(abi::MAX_SETS) - first;
        return Err(PlanError::TooManySets { what, max });
    }
    if found.is_none() {
        sets.push(set);
    }
    Ok(index as u8)
}
