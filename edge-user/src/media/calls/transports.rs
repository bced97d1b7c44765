//! Transports: m-lines of a bundle share one (RFC 9143, and RFC 8843 before it), and so do those that
//! are received at one place. Each transport of a session has a slot: a pair of ports of ours on each
//! side, and its flows. Of its own m-line's number at first; a transport keeps its slot as long as it
//! lives, also when the m-line that it began with is rejected or switched off, since who does ICE
//! goes on with the ports that it chose.

use std::net::IpAddr;

use super::{
    said::{Said, Session},
    settings::SIDES,
};
use crate::media::{
    flow::MediaSide,
    sdp::{Group, Media, Sdp},
};

/// No slot: an m-line that is not forwarded.
pub(super) const NO_SLOT: u8 = u8::MAX;

/// Finds the m-lines of a text that share a transport. Who is for a bundle only, and is in none that
/// has a transport, is rejected (RFC 9143 section 6). Gives the m-lines without a port, each with the
/// one that has the port.
pub(super) fn find(sdp: &Sdp, said: &mut [Said]) -> Vec<(usize, usize)> {
    let bundles: Vec<&Group> = sdp.bundle().collect();
    let bundle = |line: usize| bundles.iter().position(|bundle| bundle.media.contains(&line));
    let media = sdp.media();
    for (line, one) in said.iter_mut().enumerate() {
        let rank =
            bundle(line).and_then(|at| bundles.get(at)?.media.iter().position(|m| *m == line));
        one.rank = byte(rank.unwrap_or(0));
        one.transport = byte(line);
    }
    for line in 0..said.len().min(media.len()) {
        let same = |earlier: &usize| {
            let places = said.get(line).zip(said.get(*earlier));
            let forwarded = places.is_some_and(|(one, other)| {
                one.is_forwarded()
                    && other.is_forwarded()
                    && one.rtp.is_some()
                    && other.rtp == one.rtp
            });
            // Whatever becomes of one of them, the others of its bundle are received there.
            let bundled = bundle(line).is_some() && bundle(*earlier) == bundle(line);
            forwarded
                || bundled
                    && place(media.get(line))
                        .is_some_and(|at| Some(at) == place(media.get(*earlier)))
        };
        if let Some(first) = (0..line).find(same) {
            let transport = said.get(first).map_or(byte(line), |first| first.transport);
            if let Some(one) = said.get_mut(line) {
                one.transport = transport;
            }
        }
    }
    let mut without = Vec::new();
    for line in
        (0..said.len()).filter(|line| media.get(*line).is_some_and(|media| media.bundle_only))
    {
        let members =
            bundle(line).and_then(|at| bundles.get(at)).map(|bundle| bundle.media.as_slice());
        let has_port = |member: &&usize| media.get(**member).is_some_and(|media| media.port != 0);
        let rejected = |member: &&usize| said.get(**member).is_none_or(|said| said.rejected);
        let tag = members.unwrap_or_default().iter().filter(has_port).min_by_key(rejected).copied();
        let transport = tag.and_then(|tag| said.get(tag)).map(|tag| tag.transport);
        let Some(one) = said.get_mut(line) else { continue };
        match tag.zip(transport) {
            Some((tag, transport)) => {
                one.transport = transport;
                without.push((line, tag));
            }
            None => (one.on, one.rejected) = (false, true),
        }
    }
    // The attribute stands with the first only.
    let mux: Vec<u8> = said.iter().filter(|said| said.mux).map(|said| said.transport).collect();
    for one in said {
        one.mux |= mux.contains(&one.transport);
    }
    without
}

/// Port and address of an m-line as they are written.
fn place(media: Option<&Media>) -> Option<(u16, Option<IpAddr>)> {
    media.filter(|media| media.port != 0).map(|media| (media.port, media.address))
}

/// The m-line that stands for others: the first of its bundle that has a port (RFC 9143 section
/// 7.3.1).
fn first(said: &[Said], lines: impl Iterator<Item = usize>) -> Option<usize> {
    lines.min_by_key(|line| said.get(*line).map(|said| (said.bundle_only, said.rank, *line)))
}

/// Says in which slot each m-line of a text of this side is, so that a transport that goes on keeps
/// its own. `adopted`: of the session only flows are known, not the m-lines that they are for.
pub(super) fn assign(said: &mut [Said], side: MediaSide, session: &Session, adopted: bool) {
    let mut left: Vec<(u8, usize)> = Vec::new();
    for one in said.iter().filter(|one| one.is_forwarded()) {
        let of_it = |line: &usize| {
            said.get(*line).is_some_and(|s| s.is_forwarded() && s.transport == one.transport)
        };
        let known = left.iter().any(|(transport, _)| *transport == one.transport);
        if let Some(first) = first(said, (0..said.len()).filter(of_it)).filter(|_| !known) {
            left.push((one.transport, first));
        }
    }
    let mut taken: Vec<(u8, u8)> = Vec::new();
    let one = left.len() == 1;
    // Where it is received at the same place; where its m-lines were; the only one of a call that was
    // adopted; its first m-line's own; any.
    let same_place = |_: u8, first: usize, slot: u8| {
        let rtp = said.get(first).and_then(|said| said.rtp);
        rtp.is_some() && session.said(side, slot).is_some_and(|then| then.rtp == rtp)
    };
    let same_line = |transport: u8, _: usize, slot: u8| {
        let of_it = |(line, said): (usize, &Said)| {
            said.is_forwarded()
                && said.transport == transport
                && session.slot_of(line) == Some(slot)
        };
        said.iter().enumerate().any(of_it)
    };
    let only = |_: u8, _: usize, slot: u8| adopted && one && session.slots().eq([slot]);
    let own = |_: u8, first: usize, slot: u8| usize::from(slot) == first;
    let any = |_: u8, _: usize, _: u8| true;
    let ways: [&dyn Fn(u8, usize, u8) -> bool; 5] = [&same_place, &same_line, &only, &own, &any];
    for way in ways {
        left.retain(|(transport, first)| {
            let free = |slot: &u8| !taken.iter().any(|(_, taken)| taken == slot);
            let slot =
                (0..byte(said.len())).filter(free).find(|slot| way(*transport, *first, *slot));
            taken.extend(slot.map(|slot| (*transport, slot)));
            slot.is_none()
        });
    }
    for one in said {
        let slot = taken.iter().find(|(of, _)| one.is_forwarded() && *of == one.transport);
        one.slot = slot.map_or(NO_SLOT, |(_, slot)| *slot);
    }
}

/// Joins an answer and its offer: what shares a transport by what either says is in one slot, and
/// one m-line of it, with what all of them need, stands for all.
pub(super) fn agree(answer: &mut [Said], offer: &mut [Said]) {
    let count = answer.len().min(offer.len());
    let both = |line: &usize| {
        let both = answer.get(*line).zip(offer.get(*line));
        both.is_some_and(|(answer, offer)| answer.is_forwarded() && offer.is_forwarded())
    };
    let lines: Vec<usize> = (0..count).filter(both).collect();
    let slot = |line: usize| {
        let transport = answer.get(line)?.transport;
        let of_it = |other: &usize| answer.get(*other).is_some_and(|o| o.transport == transport);
        // Which of the offer's transports the bundle has, the answer says by its first m-line.
        let tag = first(answer, lines.iter().copied().filter(of_it))?;
        Some((line, offer.get(tag)?.slot))
    };
    let slots: Vec<(usize, u8)> = lines.iter().filter_map(|line| slot(*line)).collect();
    let shared = |line: usize| {
        let slot = slots.iter().find(|(of, _)| *of == line)?.1;
        let of_it = slots.iter().filter(|(_, other)| *other == slot).map(|(line, _)| *line);
        Some((slot, first(answer, of_it)?))
    };
    let shared: Vec<Option<(u8, usize)>> = (0..count).map(shared).collect();
    for said in [answer, offer] {
        for (line, one) in said.iter_mut().enumerate() {
            let shared = shared.get(line).copied().flatten();
            one.slot = shared.map_or(NO_SLOT, |(slot, _)| slot);
            one.shares = shared.filter(|(_, first)| *first != line).map(|(_, first)| byte(first));
        }
        let mux: Vec<u8> = said.iter().filter(|said| said.mux).map(|said| said.slot).collect();
        for one in said.iter_mut().filter(|one| one.slot != NO_SLOT) {
            one.mux |= mux.contains(&one.slot);
        }
    }
}

impl Session {
    /// The m-line that stands for what is forwarded in a slot.
    pub(super) fn first(&self, slot: u8) -> Option<usize> {
        (0..self.lines()).find(|line| {
            let leads = |side| self.of(side).get(*line).is_some_and(|said| said.shares.is_none());
            self.slot_of(*line) == Some(slot) && SIDES.into_iter().all(leads)
        })
    }

    /// The slots that it uses.
    pub(super) fn slots(&self) -> impl Iterator<Item = u8> {
        (0..byte(self.lines())).filter(|slot| self.first(*slot).is_some())
    }

    /// The slot of an m-line that is forwarded.
    pub(super) fn slot_of(&self, line: usize) -> Option<u8> {
        let (outside, inside) = self.outside.get(line).zip(self.inside.get(line))?;
        let both = outside.is_forwarded() && inside.is_forwarded();
        Some(outside.slot).filter(|slot| both && *slot != NO_SLOT)
    }

    /// What a side said of the m-line that stands for a slot.
    pub(super) fn said(&self, side: MediaSide, slot: u8) -> Option<&Said> {
        self.of(side).get(self.first(slot)?)
    }

    /// What a side said of each m-line in a slot.
    pub(super) fn all(&self, side: MediaSide, slot: u8) -> impl Iterator<Item = &Said> {
        let in_it = move |(line, _): &(usize, &Said)| self.slot_of(*line) == Some(slot);
        self.of(side).iter().enumerate().filter(in_it).map(|(_, said)| said)
    }
}

/// There are fewer m-lines than that ([`crate::media::sdp::SdpBounds`]).
pub(super) fn byte(line: usize) -> u8 {
    u8::try_from(line).unwrap_or(NO_SLOT)
}
