//! The flows that follow from a session: for each slot, side and component one, where both ends of it
//! are known.

use std::time::Instant;

use ipnet::IpNet;

use super::{
    call::{Call, LEARN},
    limits::ceiling,
    said::{Said, Session},
    settings::SIDES,
};
use crate::{
    config::MediaMode,
    federation::source_prefix,
    media::{
        flow::{Component, Flow, FlowContent, FlowId, MediaSide, Way},
        sdp::Transport,
    },
};

impl Call {
    /// The flows that a session asks for.
    pub(super) fn wanted(&self, now: Instant, session: &Session) -> Vec<Flow> {
        let mut wanted = Vec::new();
        for slot in session.slots() {
            for side in SIDES {
                wanted.extend(self.flow(now, session, slot, side, Component::Rtp));
                let rtp = session.all(side, slot).any(|said| said.protocol.is_rtp());
                let mux = session.first(slot).is_some_and(|line| session.mux(line));
                if rtp && !mux {
                    wanted.extend(self.flow(now, session, slot, side, Component::Rtcp));
                }
            }
        }
        wanted
    }

    fn flow(
        &self,
        now: Instant,
        session: &Session,
        slot: u8,
        side: MediaSide,
        component: Component,
    ) -> Option<Flow> {
        let (from, to) = (session.said(side, slot)?, session.said(side.across(), slot)?);
        let index = usize::from(slot);
        let remote = from.place(component)?;
        // A pinhole is where SDP said: who was told of it sends there, whatever was learned.
        let line = self.lines.get(index).filter(|_| self.mode == MediaMode::Relay);
        let learned = line.and_then(|line| *line.known(component).of(side.across()));
        let named = to.place(component)?;
        let turn = to.joins.and_then(|_| self.turns.iter().find(|turn| turn.place == named));
        if to.joins.is_some() && turn.is_none() {
            return None;
        }
        let target = turn.map_or(learned.unwrap_or(named), |turn| turn.to);
        let way = match self.mode {
            MediaMode::Off => return None,
            MediaMode::Pinhole => Way::Pinhole,
            MediaMode::Relay => Way::Relay {
                local: self.own(index, side, component)?,
                from: match turn {
                    Some(turn) => turn.from,
                    None => self.own(index, side.across(), component)?,
                },
            },
        };
        let (comes, goes) = match way {
            Way::Relay { local, from } => (local.is_ipv6(), from.is_ipv6()),
            Way::Pinhole => (target.is_ipv6(), remote.is_ipv6()),
        };
        if comes != remote.is_ipv6() || goes != target.is_ipv6() {
            return None;
        }
        // Behind NAT it comes from where its signalling comes from, unless it named another address
        // that makes sense.
        let nat = self.nat.filter(|_| side == MediaSide::Outside).map(source_prefix);
        let nat = nat.filter(|prefix| prefix.contains(&remote.ip()));
        let source = nat.unwrap_or(IpNet::from(remote.ip()));
        let (packets, bytes) = ceilings(session, slot, side.across(), component);
        let plain = |said: &Said| matches!(said.protocol, Transport::Udptl | Transport::Udp);
        let mut clocks = session.all(side.across(), slot).map(|said| said.clock);
        let mut held = SIDES.into_iter().map(|side| session.all(side, slot).all(|said| said.held));
        let (ends, timed) = self.end();
        Some(Flow {
            id: FlowId(0),
            call: self.id,
            line: slot,
            component,
            side,
            way,
            source,
            source_port: nat.is_none().then_some(remote.port()),
            learn: LEARN,
            learned_anew: 0,
            to: target,
            content: match session.all(side, slot).all(plain) {
                true => FlowContent::Any,
                false => FlowContent::Media,
            },
            clock: clocks.find(|clock| *clock != 0).filter(|_| component == Component::Rtp),
            packets_per_second: packets,
            bytes_per_second: bytes,
            expires: ends.saturating_duration_since(now),
            timed,
            held: held.any(|held| held),
            turns: turn.is_some(),
        })
    }
}

/// Of all m-lines that share a transport.
fn ceilings(session: &Session, slot: u8, to: MediaSide, component: Component) -> (u32, u32) {
    session
        .all(to, slot)
        .map(|said| ceiling(said, component))
        .fold((0, 0), |sum: (u32, u32), of| {
            (sum.0.saturating_add(of.0), sum.1.saturating_add(of.1))
        })
}
