//! Ports of ours and names of flows: first out of use, first used again, so that what is late for a
//! call that has ended meets nobody else's for as long as may be. The name goes with the port.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
};

use edge_ebpf::abi::{MEDIA_STATE_SLOTS, media_home};
use ipnet::IpNet;

use super::{Passage, settings::Sides};
use crate::{
    domain::Domain,
    federation::source_prefix,
    media::{
        flow::{FlowId, MediaSide},
        free::Free,
    },
};

/// So many m-lines anybody may have, however small the range.
const LEAST_LINES: usize = 8;

/// So many flows of pinholes anybody may have: a quarter of all.
const MOST_PINHOLES: usize = MEDIA_STATE_SLOTS as usize / 4;

/// Who has ports of ours: whoever is outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// A partner.
    Partner(Domain),
    /// Remote users, by where they are.
    Source(IpNet),
}

impl Holder {
    /// Of the call that a message is of.
    pub(super) fn of(passage: &Passage<'_>) -> Self {
        match passage.names.partner {
            Some(partner) => Holder::Partner(partner.clone()),
            None => Holder::Source(source_prefix(passage.peers.outside)),
        }
    }
}

/// How many pairs, or flows of pinholes, each has: nobody has more than a quarter of all, so that one
/// alone cannot use them up.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<Holder, usize>);

impl Held {
    /// One more, if it may be.
    pub(super) fn take(&mut self, range: (u16, u16), holder: &Holder) -> bool {
        let lines = (pairs(range).len() / 4).max(LEAST_LINES);
        let has = self.0.get(holder).copied().unwrap_or(0);
        // A pair on each side for a line.
        let may = has < 2 * lines;
        if may {
            self.add(holder, 1);
        }
        may
    }

    /// Whether it may have so many flows of pinholes more.
    pub(super) fn has_room(&self, holder: &Holder, more: usize) -> bool {
        self.0.get(holder).copied().unwrap_or(0) + more <= MOST_PINHOLES
    }

    /// These were taken before it was known by whom.
    pub(super) fn add(&mut self, holder: &Holder, count: usize) {
        if count > 0 {
            *self.0.entry(holder.clone()).or_default() += count;
        }
    }

    pub(super) fn give(&mut self, holder: &Holder) {
        if let Some(has) = self.0.get_mut(holder) {
            *has = has.saturating_sub(1);
            if *has == 0 {
                self.0.remove(holder);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Free pairs of ports (RFC 3550 section 11: RTP on an even one, RTCP on the next), for each zone
/// and family: a port is used once there, whatever the address.
#[derive(Debug, Default)]
pub(super) struct Ports {
    range: (u16, u16),
    free: Sides<[VecDeque<u16>; 2]>,
}

impl Ports {
    /// Every pair of a range, from somewhere in it on, but those that are in use.
    pub(super) fn new(range: (u16, u16), used: &[(MediaSide, bool, u16)]) -> Self {
        let random = RandomState::new();
        let list = |side: MediaSide, six: bool| {
            let mut used: Vec<u16> = used
                .iter()
                .filter(|(of, v6, _)| (*of, *v6) == (side, six))
                .map(|(_, _, port)| *port)
                .collect();
            used.sort_unstable();
            let pairs = pairs(range).filter(|port| used.binary_search(port).is_err());
            let mut pairs: VecDeque<u16> = pairs.collect();
            if !pairs.is_empty() {
                let start = random.hash_one((side, six));
                let by = usize::try_from(start % pairs.len() as u64).unwrap_or(0);
                pairs.rotate_left(by);
            }
            pairs
        };
        let both = |side| [list(side, false), list(side, true)];
        let free = Sides { outside: both(MediaSide::Outside), inside: both(MediaSide::Inside) };
        Self { range, free }
    }

    pub(super) fn range(&self) -> (u16, u16) {
        self.range
    }

    /// The pair that has rested longest.
    pub(super) fn take(&mut self, side: MediaSide, six: bool) -> Option<u16> {
        self.free.of_mut(side)[usize::from(six)].pop_front()
    }

    /// A pair is free again.
    pub(super) fn give(&mut self, side: MediaSide, six: bool, port: u16) {
        let (first, last) = self.range;
        // Another range may hold by now.
        if port.is_multiple_of(2) && port >= first && port < last {
            self.free.of_mut(side)[usize::from(six)].push_back(port);
        }
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        [&self.free.outside, &self.free.inside].into_iter().flatten().map(VecDeque::len).sum()
    }
}

fn pairs((first, last): (u16, u16)) -> std::iter::StepBy<std::ops::Range<u16>> {
    let first = first.saturating_add(first % 2);
    (first..last).step_by(2)
}

/// Free names of flows. A name is the place of what the kernel counts: a flow that comes in at a port of
/// ours has that port's, if it is free (see [`media_home`]).
#[derive(Debug)]
pub(super) struct FlowIds(Free);

impl FlowIds {
    /// All but those that are in use.
    pub(super) fn new(used: &[FlowId]) -> Self {
        Self(Free::new(MEDIA_STATE_SLOTS, used.iter().map(|id| id.0)))
    }

    pub(super) fn free(&self) -> usize {
        self.0.len()
    }

    /// One for a flow that comes in at this port, see [`crate::media::flow::Way::port_index`].
    pub(super) fn take(&mut self, port: Option<u32>) -> Option<FlowId> {
        let home = port.map_or(0, |index| media_home(index).1);
        self.0.take(home).map(FlowId)
    }

    pub(super) fn give(&mut self, id: FlowId) {
        self.0.give(id.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::flow::Way;

    #[test]
    fn a_pair_is_even_and_odd_within_the_range_and_rests_before_it_is_used_again() {
        // (range, pairs)
        let cases: [((u16, u16), usize); 6] = [
            ((50_000, 59_999), 5000),
            ((50_001, 50_006), 2),
            ((50_000, 50_001), 1),
            ((50_001, 50_002), 0),
            ((50_000, 50_000), 0),
            ((65_532, 65_535), 2),
        ];
        for (range, count) in cases {
            let mut ports = Ports::new(range, &[]);
            let mut taken = Vec::new();
            while let Some(port) = ports.take(MediaSide::Outside, true) {
                assert!(port % 2 == 0 && port >= range.0 && port < range.1, "{port}");
                taken.push(port);
            }
            assert_eq!(taken.len(), count, "{range:?}");
            assert_eq!(ports.free(), 3 * count, "the other lists are others");
            for port in &taken {
                ports.give(MediaSide::Outside, true, *port);
            }
            let again = std::iter::from_fn(|| ports.take(MediaSide::Outside, true));
            assert_eq!(again.collect::<Vec<_>>(), taken, "first in, first out");
        }
    }

    #[test]
    fn what_is_used_is_not_free_and_what_is_not_in_the_range_never_becomes_so() {
        let used = [(MediaSide::Inside, false, 50_002)];
        let mut ports = Ports::new((50_000, 50_003), &used);
        assert_eq!(ports.free(), 7);
        assert_eq!(ports.take(MediaSide::Inside, false), Some(50_000));
        assert_eq!(ports.take(MediaSide::Inside, false), None);
        ports.give(MediaSide::Inside, false, 50_004);
        ports.give(MediaSide::Inside, false, 50_001);
        assert_eq!(ports.take(MediaSide::Inside, false), None);
        let mut ids = FlowIds::new(&[FlowId(1)]);
        let mut any = || ids.take(None);
        assert_eq!(any(), Some(FlowId(2)), "0 is nobody, 1 is used");
        assert_eq!(any(), Some(FlowId(3)));
        ids.give(FlowId(2));
        assert_eq!(ids.take(None), Some(FlowId(4)));
        // A port's own, while it is free.
        let local = "192.0.2.1:50000".parse().unwrap();
        let port = Way::Relay { local, from: local }.port_index(MediaSide::Outside);
        assert_eq!(ids.take(port), Some(FlowId(25_000)));
        assert_eq!(ids.take(port), Some(FlowId(5)));
    }
}
