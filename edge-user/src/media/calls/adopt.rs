//! Calls that are found in the kernel after a restart: their flows say enough to know them by, to
//! end them, and to go on with the same ports.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use super::{
    Calls, Effects, Passage,
    call::{Call, Line, Parties},
    negotiate::parties,
    ports::{FlowIds, Ports},
    said::{Said, Session},
    settings::{CallSettings, OwnAddress, SIDES},
    transports::byte,
};
use crate::config::MediaMode;
use crate::media::{
    flow::{CallId, Component, Flow, FlowContent, MediaChange, MediaSide, Way},
    sdp::{MediaKind, RtpProfile, Transport},
};

impl Calls {
    /// A message of a call that was found in the kernel says whose it is.
    pub(super) fn recognise(&mut self, passage: &Passage<'_>) {
        let Some(id) = self.find(&passage.names) else { return };
        let Some(call) = self.all.get_mut(&id).filter(|call| !call.parties.are_known()) else {
            return;
        };
        call.parties = parties(passage);
        if !self.keys.began_by_from(id, &passage.names) {
            let parties = &mut call.parties;
            std::mem::swap(&mut parties.caller, &mut parties.callee);
            parties.inbound = !parties.inbound;
        }
    }

    /// Takes over what is open in the kernel. Before any message.
    pub fn adopt(&mut self, now: Instant, flows: Vec<Flow>, effects: &mut Effects) {
        let mut by_call: BTreeMap<CallId, Vec<Flow>> = BTreeMap::new();
        for flow in flows {
            by_call.entry(flow.call).or_default().push(flow);
        }
        for (id, flows) in by_call {
            let Some(mode) = mode(&flows) else {
                effects.changes.push(MediaChange::CloseCall(id));
                continue;
            };
            self.begin(adopted(now, &self.settings, (id, mode), flows));
            if let Some(call) = self.all.remove(&id) {
                self.keep(call, &[], effects);
            }
        }
        let used: Vec<_> = self.all.values().flat_map(|call| &call.flows).map(|f| f.id).collect();
        self.pools.ids = FlowIds::new(&used);
        self.pools.ports = Ports::new(self.pools.ports.range(), &self.used_ports());
        self.adopt_joined(now, effects);
    }
}

/// What is done with the media of a call, whatever is done with others' now; `None`: its flows do
/// not agree.
fn mode(flows: &[Flow]) -> Option<MediaMode> {
    let mode = |flow: &Flow| match flow.way {
        Way::Relay { .. } => MediaMode::Relay,
        Way::Pinhole => MediaMode::Pinhole,
    };
    let first = mode(flows.first()?);
    flows.iter().all(|flow| mode(flow) == first).then_some(first)
}

fn adopted(
    now: Instant,
    settings: &CallSettings,
    name: (CallId, MediaMode),
    flows: Vec<Flow>,
) -> Call {
    let left = flows.iter().map(|flow| flow.expires).max().unwrap_or_default();
    // Of who ends by a session timer, the kernel does not hold how long it may last in any case: that
    // begins anew.
    let timed = flows.iter().any(|flow| flow.timed);
    let longest = if timed { settings.longest_call } else { left.min(settings.longest_call) };
    let mut call = Call::new(now, name, Parties::default(), longest);
    call.session_ends = timed.then(|| now + left);
    (call.up, call.adopted, call.told) = (Some(0), true, true);
    call.accepted = true;
    let lines = flows.iter().map(|flow| usize::from(flow.line) + 1).max().unwrap_or(0);
    call.lines.resize(lines, Line::default());
    // Which m-lines share a transport is not known: each flow's slot is one.
    let all: Vec<Said> = (0..lines).map(|slot| off(byte(slot))).collect();
    let mut session = Session { outside: all.clone(), inside: all };
    for flow in &flows {
        if let Way::Relay { local, from } = flow.way {
            let ours = [(flow.side, local), (flow.side.across(), from)];
            // Where it turns, it leaves from a port of another call.
            for (side, own) in ours.into_iter().take(if flow.turns { 1 } else { 2 }) {
                call.legs.of_mut(side).get_or_insert_with(|| leg(settings, side, own));
                let rtp = own.port() & !1;
                if let Some(line) = call.lines.get_mut(usize::from(flow.line)) {
                    *line.ports.of_mut(side) = rtp;
                }
            }
        }
        if flow.side == MediaSide::Outside
            && flow.source.prefix_len() < flow.source.max_prefix_len()
        {
            call.nat = Some(flow.source.addr());
        }
        for side in SIDES {
            let said = match side {
                MediaSide::Outside => &mut session.outside,
                MediaSide::Inside => &mut session.inside,
            };
            if let Some(said) = said.get_mut(usize::from(flow.line))
                && !(flow.turns && flow.side != side)
            {
                take(said, flow, side);
            }
        }
    }
    for flow in flows.iter().filter(|flow| !flow.turns) {
        // Where it goes is not where SDP said: that was learned.
        let side = flow.side.across();
        let said = session.of(side).get(usize::from(flow.line));
        let said = said.and_then(|said| said.place(flow.component));
        if let Some(line) = call.lines.get_mut(usize::from(flow.line))
            && said != Some(flow.to)
        {
            *line.learned(flow.component).of_mut(side) = Some(flow.to);
        }
    }
    call.session = session;
    call.flows = flows;
    call
}

/// What a flow says of what a side said.
fn take(said: &mut Said, flow: &Flow, side: MediaSide) {
    said.on = true;
    said.held |= flow.held;
    if flow.content == FlowContent::Any {
        said.protocol = Transport::Udptl;
    }
    let came = flow.source_port.map(|port| SocketAddr::new(flow.source.addr(), port));
    let place = if flow.side == side { came } else { Some(flow.to) };
    let known = match flow.component {
        Component::Rtp => &mut said.rtp,
        Component::Rtcp => &mut said.rtcp,
    };
    // Where packets are expected from is what it said last; where they are sent to is that, or was
    // learned of it.
    if flow.side == side || known.is_none() {
        *known = place.or(*known);
    }
    if flow.component == Component::Rtcp {
        said.mux = false;
    }
    if let Some(clock) = flow.clock.filter(|_| flow.side != side) {
        said.clock = clock;
    }
}

fn leg(settings: &CallSettings, side: MediaSide, own: SocketAddr) -> OwnAddress {
    let local = own.ip();
    settings.on(side).with_local(local).unwrap_or(OwnAddress { local, shown: local })
}

/// An m-line of which no flow is known.
fn off(slot: u8) -> Said {
    Said {
        kind: MediaKind::Other,
        protocol: Transport::Rtp(RtpProfile::Avp),
        on: false,
        rejected: false,
        bundle_only: false,
        rtp: None,
        rtcp: None,
        mux: true,
        held: false,
        clock: 0,
        bits: 0,
        transport: slot,
        rank: 0,
        slot,
        shares: None,
        joins: None,
    }
}
