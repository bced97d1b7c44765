//! Two calls that a server inside joins: of the one the inside is a port of ours that the other was
//! told, and the reverse. Both ends are outside: a user at home calls another, or a partner one. What
//! comes in for the one call goes out from the other's port outside, and never sees the inside.
//!
//! What this module must never do: let out by a call what its own inside did not ask for. Both calls
//! must name each other's ports: a server that names a port of a call that knows nothing of it gets
//! nothing.

use std::{net::SocketAddr, time::Instant};

use super::{
    Calls, Effects,
    call::{Call, Pools},
    transports::byte,
};
use crate::{
    config::MediaMode,
    media::flow::{CallId, Component, Flow, MediaChange, MediaSide, Way},
};

/// No call: of a port that is ours, and nobody's.
const NOBODY: CallId = CallId(0);

/// Where media goes for a port of ours inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// The port, of another call.
    pub place: SocketAddr,
    /// That call.
    pub call: CallId,
    /// Its port outside.
    pub from: SocketAddr,
    /// Its end outside.
    pub to: SocketAddr,
}

impl Calls {
    /// The call that was given this port inside, for RTP.
    pub(super) fn owner(&self, at: SocketAddr) -> Option<CallId> {
        // Nobody else is scanned for: an address of ours inside is rarely named.
        if !self.settings.own.contains(&at.ip()) {
            return None;
        }
        let has = |call: &&Call| {
            (0..call.lines.len())
                .any(|line| call.own(line, MediaSide::Inside, Component::Rtp) == Some(at))
        };
        self.all.values().map(Box::as_ref).find(has).map(|call| call.id)
    }

    /// Finds where media of a call goes that another one takes on, and puts it in force.
    pub(super) fn join(&mut self, now: Instant, call: &mut Call, effects: &mut Effects) {
        if call.mode != MediaMode::Relay
            || call.turns.is_empty() && call.session.inside.iter().all(|said| said.joins.is_none())
        {
            return;
        }
        let turns = self.turns_of(call);
        if turns != call.turns {
            call.turns = turns;
            let session = call.session.clone();
            // Without room it stays as it is, and the flow that is missing is opened later.
            let _ = call.apply(now, &mut self.pools, session, effects);
        }
    }

    /// Where it goes. Both calls know of each other from now on: one is joined to as many others as it
    /// has m-lines, or had in its time.
    fn turns_of(&mut self, call: &mut Call) -> Vec<Turn> {
        let mut turns = Vec::new();
        for slot in call.session.slots() {
            let Some(said) = call.session.said(MediaSide::Inside, slot) else { continue };
            let Some(id) = said.joins else { continue };
            let Some(other) = self.all.get_mut(&id) else { continue };
            for component in [Component::Rtp, Component::Rtcp] {
                let own = call.own(slot.into(), MediaSide::Inside, component);
                let places = own.zip(said.place(component));
                let found = places.and_then(|(own, at)| turn(other, own, at, component));
                let Some(found) = found else { continue };
                turns.push(found);
                for (one, of) in [(call.id, &mut other.joined), (id, &mut call.joined)] {
                    if !of.contains(&one) {
                        of.push(one);
                    }
                }
            }
        }
        turns
    }

    /// Another call that it is joined with has changed.
    pub(super) fn follow(&mut self, now: Instant, id: CallId, effects: &mut Effects) {
        let Some(mut call) = self.all.remove(&id) else { return };
        let had = super::names_of(&call);
        self.join(now, &mut call, effects);
        self.keep(call, &had, effects);
    }

    /// Another call that it was joined with is over.
    pub(super) fn part(&mut self, id: CallId, from: CallId, effects: &mut Effects) {
        let Some(mut call) = self.all.remove(&id) else { return };
        let had = super::names_of(&call);
        call.joined.retain(|other| *other != from);
        part(&mut call, from, &mut self.pools, effects);
        self.keep(call, &had, effects);
    }

    /// Finds the calls again that were joined before a restart.
    pub(super) fn adopt_joined(&mut self, now: Instant, effects: &mut Effects) {
        let mut found = Vec::new();
        for call in self.all.values() {
            for (line, said) in call.session.inside.iter().enumerate() {
                let ours = said.rtp.filter(|at| self.settings.own.contains(&at.ip()));
                let owner = ours.map(|at| self.owner(at).unwrap_or(NOBODY));
                found.extend(owner.map(|owner| (call.id, line, owner)));
            }
        }
        for (id, line, owner) in &found {
            let said = self.all.get_mut(id).and_then(|call| call.session.inside.get_mut(*line));
            if let Some(said) = said {
                said.joins = Some(*owner);
            }
        }
        for (id, ..) in found {
            let Some(mut call) = self.all.remove(&id) else { continue };
            let had = super::names_of(&call);
            let turns = self.turns_of(&mut call);
            let known = |flow: &Flow| {
                let same = |turn: &Turn| turn.to == flow.to && leaves_from(flow, turn.from);
                turns.iter().any(same)
            };
            let as_it_was = call.flows.iter().filter(|flow| flow.turns).all(known);
            call.turns = turns;
            if !as_it_was {
                let session = call.session.clone();
                let _ = call.apply(now, &mut self.pools, session, effects);
            }
            self.keep(call, &had, effects);
        }
    }
}

fn leaves_from(flow: &Flow, at: SocketAddr) -> bool {
    matches!(flow.way, Way::Relay { from, .. } if from == at)
}

/// Where a component goes that is for this place of the other call, whose inside must be `own`.
fn turn(other: &Call, own: SocketAddr, place: SocketAddr, component: Component) -> Option<Turn> {
    let slot = (0..other.lines.len())
        .find(|slot| other.own(*slot, MediaSide::Inside, component) == Some(place))?;
    let said = |side| other.session.said(side, byte(slot));
    if said(MediaSide::Inside)?.place(component) != Some(own) {
        return None;
    }
    let learned = *other.lines.get(slot)?.known(component).of(MediaSide::Outside);
    let to = learned.or(said(MediaSide::Outside)?.place(component))?;
    let from = other.own(slot, MediaSide::Outside, component)?;
    Some(Turn { place, call: other.id, from, to })
}

/// Nothing goes out by a call that is over.
fn part(call: &mut Call, from: CallId, pools: &mut Pools, effects: &mut Effects) {
    let gone = |turn: &Turn| turn.call == from;
    let closed: Vec<SocketAddr> =
        call.turns.iter().filter(|turn| gone(turn)).map(|turn| turn.from).collect();
    call.turns.retain(|turn| !gone(turn));
    call.flows.retain(|flow| {
        let turned = flow.turns && closed.iter().any(|at| leaves_from(flow, *at));
        if turned {
            effects.changes.push(MediaChange::Close(flow.id));
            pools.ids.give(flow.id);
        }
        !turned
    });
}
