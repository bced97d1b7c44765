//! One call: its legs, its ports, its session, and the flows that follow from them.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    Effects, MediaFault,
    ports::{FlowIds, Held, Holder, Ports},
    said::{Said, Session},
    settings::{OwnAddress, SIDES, Sides, further},
    transports::byte,
    turns::Turn,
};
use crate::{
    config::MediaMode,
    domain::Domain,
    media::flow::{CallId, Component, Flow, FlowId, MediaChange, MediaSide},
    proxy::ConnectionId,
};

/// How long a source may be learned that is not quite what SDP said.
pub(super) const LEARN: Duration = Duration::from_secs(15);

/// How soon they may be learned anew of those of whom nothing came: before that is over.
pub(super) const LEARN_AGAIN: Duration = Duration::from_secs(10);

/// Who calls whom.
#[derive(Debug, Default)]
pub(super) struct Parties {
    pub call_id: Box<str>,
    pub caller: Box<str>,
    pub callee: Box<str>,
    pub partner: Option<Domain>,
    pub inbound: bool,
    /// The remote user's.
    pub connection: Option<ConnectionId>,
}

impl Parties {
    /// Of a call that was found in the kernel nothing is known before its first message.
    pub(super) fn are_known(&self) -> bool {
        !self.call_id.is_empty()
    }

    /// The remote user's URI.
    pub(super) fn remote_user(&self) -> Option<&str> {
        let user = if self.inbound { &self.caller } else { &self.callee };
        (self.are_known() && self.partner.is_none()).then_some(user)
    }
}

/// Who must answer an offer, with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerBy {
    /// The response to the request that brought it.
    Response,
    /// The ACK of the 2xx that brought it.
    Ack,
    /// The PRACK of the provisional response that brought it.
    Prack,
}

/// An offer that is not done with.
#[derive(Debug)]
pub(super) struct Offer {
    /// The transaction it came with.
    pub exchange: u64,
    /// CSeq of that.
    pub cseq: u32,
    pub from: MediaSide,
    pub by: AnswerBy,
    /// The callee's tag, where it is of one dialog only; 0: any.
    pub tag: u64,
    /// An answer passed, though not the last.
    pub answered: bool,
    pub said: Vec<Said>,
    /// Nobody waits any longer than this.
    pub until: Option<Instant>,
}

/// Ports of ours for a transport, and what was learned.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// RTP ports, even; 0: none. RTCP is on the next.
    pub ports: Sides<u16>,
    /// Where RTP really comes from.
    pub rtp: Sides<Option<SocketAddr>>,
    /// Where RTCP really comes from.
    pub rtcp: Sides<Option<SocketAddr>>,
}

impl Line {
    /// Where a component really comes from.
    pub(super) fn known(&self, component: Component) -> &Sides<Option<SocketAddr>> {
        match component {
            Component::Rtp => &self.rtp,
            Component::Rtcp => &self.rtcp,
        }
    }

    pub(super) fn learned(&mut self, component: Component) -> &mut Sides<Option<SocketAddr>> {
        match component {
            Component::Rtp => &mut self.rtp,
            Component::Rtcp => &mut self.rtcp,
        }
    }
}

/// A call.
#[derive(Debug)]
pub(super) struct Call {
    pub id: CallId,
    pub parties: Parties,
    /// What is done with its media, to its end.
    pub mode: MediaMode,
    /// Who has its ports; `None`: not known since a restart.
    pub holder: Option<Holder>,
    /// Our addresses; `None` in pinhole mode.
    pub legs: Sides<Option<OwnAddress>>,
    /// Who is outside is behind NAT: the peer of its signalling.
    pub nat: Option<IpAddr>,
    /// By slot.
    pub lines: Vec<Line>,
    /// In force.
    pub session: Session,
    /// What was in force before a transaction that is not done, and which.
    pub before: Option<(u64, Session)>,
    pub offers: Vec<Offer>,
    /// Before it is up: by callee's tag.
    pub forks: Vec<(u64, Session)>,
    /// It was accepted: the callee's tag; 0: whichever.
    pub up: Option<u64>,
    /// An INVITE of it was: what is up without may be an early dialog's.
    pub accepted: bool,
    pub adopted: bool,
    /// That it has flows was told.
    pub told: bool,
    pub flows: Vec<Flow>,
    /// Where media really goes for what it names of other calls' ports.
    pub turns: Vec<Turn>,
    /// Calls whose ports it names, or that name its own.
    pub joined: Vec<CallId>,
    pub since: Instant,
    /// When sources could be learned anew last.
    pub reopened: Instant,
    /// When a packet was seen last, and how many there were.
    pub heard: (Instant, u64),
    /// The latest end.
    pub longest: Instant,
    /// The end that the session timer sets (RFC 4028).
    pub session_ends: Option<Instant>,
    /// When it is looked at next.
    pub timer: Option<Instant>,
}

/// What calls share.
#[derive(Debug)]
pub(super) struct Pools {
    pub ports: Ports,
    pub held: Held,
    /// Flows of pinholes, which have no ports of ours.
    pub pinholes: Held,
    pub ids: FlowIds,
}

impl Pools {
    /// A name for a flow; `pinhole`: whose it is, if it is one.
    fn take_name(&mut self, pinhole: Option<&Holder>, flow: &Flow) -> Option<FlowId> {
        let id = self.ids.take(flow.way.port_index(flow.side))?;
        if let Some(holder) = pinhole {
            self.pinholes.add(holder, 1);
        }
        Some(id)
    }

    fn give_name(&mut self, pinhole: Option<&Holder>, id: FlowId) {
        self.ids.give(id);
        if let Some(holder) = pinhole {
            self.pinholes.give(holder);
        }
    }

    /// A pair of ports; `None` too when whoever it is for has its share.
    fn take(&mut self, holder: Option<&Holder>, side: MediaSide, six: bool) -> Option<u16> {
        if let Some(holder) = holder
            && !self.held.take(self.ports.range(), holder)
        {
            return None;
        }
        let port = self.ports.take(side, six);
        if let (None, Some(holder)) = (port, holder) {
            self.held.give(holder);
        }
        port
    }

    fn give(
        &mut self,
        holder: Option<&Holder>,
        side: MediaSide,
        leg: Option<OwnAddress>,
        port: &mut u16,
    ) {
        if let Some(leg) = leg.filter(|_| *port != 0) {
            self.ports.give(side, leg.local.is_ipv6(), *port);
            if let Some(holder) = holder {
                self.held.give(holder);
            }
            *port = 0;
        }
    }
}

impl Call {
    pub(super) fn new(
        now: Instant,
        (id, mode): (CallId, MediaMode),
        parties: Parties,
        longest: Duration,
    ) -> Self {
        Self {
            id,
            parties,
            mode,
            holder: None,
            legs: Sides::default(),
            nat: None,
            lines: Vec::new(),
            session: Session::default(),
            before: None,
            offers: Vec::new(),
            forks: Vec::new(),
            up: None,
            accepted: false,
            adopted: false,
            told: false,
            flows: Vec::new(),
            turns: Vec::new(),
            joined: Vec::new(),
            since: now,
            reopened: now,
            heard: (now, 0),
            longest: now + longest,
            session_ends: None,
            timer: None,
        }
    }

    /// Nothing is to be forwarded, nor will be as far as is known.
    pub(super) fn is_over(&self) -> bool {
        self.offers.is_empty() && (self.up.is_none() || !self.session.has_media())
    }

    /// The latest end, and whether a refresh puts it off.
    pub(super) fn end(&self) -> (Instant, bool) {
        match self.session_ends.filter(|end| *end < self.longest) {
            Some(end) => (end, true),
            None => (self.longest, false),
        }
    }

    /// When something may be due.
    pub(super) fn deadline(&self) -> Instant {
        let offers = self.offers.iter().filter_map(|offer| offer.until);
        offers.fold(self.end().0, Instant::min)
    }

    /// The session timer runs from now on, or none does. Its flows end with it, also while there is no
    /// daemon to close them.
    pub(super) fn set_session(
        &mut self,
        now: Instant,
        session: Option<Duration>,
        effects: &mut Effects,
    ) {
        let before = self.end();
        // RFC 4028 section 10: it is over when it was not refreshed; a third more, for those who are
        // late.
        self.session_ends = session.map(|session| now + session + session / 3);
        let (ends, timed) = self.end();
        if (ends, timed) == before {
            return;
        }
        for flow in &mut self.flows {
            (flow.expires, flow.timed) = (ends.saturating_duration_since(now), timed);
            let opened = effects.changes.iter_mut().rev().find_map(|change| match change {
                MediaChange::Open(opened) if opened.id == flow.id => Some(opened),
                _ => None,
            });
            match opened {
                Some(opened) => opened.clone_from(flow),
                None => effects.changes.push(MediaChange::Open(flow.clone())),
            }
        }
    }

    /// Says who has its ports, where that is not known.
    pub(super) fn held_by(&mut self, pools: &mut Pools, holder: Holder) {
        if self.holder.is_none() {
            let ports = self.lines.iter().flat_map(|line| SIDES.map(|side| *line.ports.of(side)));
            pools.held.add(&holder, ports.filter(|port| *port != 0).count());
            if self.mode == MediaMode::Pinhole {
                pools.pinholes.add(&holder, self.flows.len());
            }
            self.holder = Some(holder);
        }
    }

    /// Whose flows count as pinholes, if they are some.
    fn holder_of_pinholes(&self) -> Option<Holder> {
        self.holder.clone().filter(|_| self.mode == MediaMode::Pinhole)
    }

    /// It has nothing open, and may open nothing.
    pub(super) fn has_no_room(&self, pools: &Pools) -> bool {
        let holder = self.holder_of_pinholes().filter(|_| self.flows.is_empty());
        holder.is_some_and(|holder| !pools.pinholes.has_room(&holder, 1))
    }

    /// The same ports as before for every slot that needs some, and new ones for new ones.
    pub(super) fn take_ports(
        &mut self,
        pools: &mut Pools,
        needs: impl Iterator<Item = bool>,
    ) -> Result<(), MediaFault> {
        for (index, needs) in needs.enumerate() {
            if index >= self.lines.len() {
                self.lines.push(Line::default());
            }
            let Some(line) = self.lines.get_mut(index).filter(|_| needs) else { continue };
            for side in SIDES {
                let Some(leg) = self.legs.of(side) else { continue };
                if *line.ports.of(side) == 0 {
                    let port = pools.take(self.holder.as_ref(), side, leg.local.is_ipv6());
                    *line.ports.of_mut(side) = port.ok_or(MediaFault::NoPorts)?;
                }
            }
        }
        Ok(())
    }

    /// Another address of ours on one side.
    pub(super) fn move_leg(&mut self, pools: &mut Pools, side: MediaSide, to: OwnAddress) {
        if let Some(old) = self.legs.of_mut(side).replace(to)
            && old.local.is_ipv6() != to.local.is_ipv6()
        {
            for line in &mut self.lines {
                pools.give(self.holder.as_ref(), side, Some(old), line.ports.of_mut(side));
            }
        }
    }

    /// Gives back ports that nothing uses any more.
    pub(super) fn give_ports(&mut self, pools: &mut Pools) {
        for (index, line) in self.lines.iter_mut().enumerate() {
            let in_use = |session: &Session| session.first(byte(index)).is_some();
            let asked = |offer: &Offer| offer.said.iter().any(|said| said.is_in(index));
            let used = in_use(&self.session)
                || self.offers.iter().any(asked)
                || self.before.as_ref().is_some_and(|(_, before)| in_use(before))
                || self.forks.iter().any(|(_, fork)| in_use(fork));
            if !used {
                for side in SIDES {
                    pools.give(
                        self.holder.as_ref(),
                        side,
                        *self.legs.of(side),
                        line.ports.of_mut(side),
                    );
                }
            }
        }
        while self.lines.last().is_some_and(|line| line.ports == Sides::default())
            && self.lines.len() > self.session.lines()
            && self.offers.is_empty()
        {
            self.lines.pop();
        }
    }

    /// Puts a session in force: what is open becomes what is to be open.
    pub(super) fn apply(
        &mut self,
        now: Instant,
        pools: &mut Pools,
        session: Session,
        effects: &mut Effects,
    ) -> Result<(), MediaFault> {
        let moved = self.forget_learned(&session);
        let wanted = self.wanted(now, &session);
        let same =
            |a: &Flow, b: &Flow| (a.line, a.component, a.side) == (b.line, b.component, b.side);
        let new = wanted.iter().filter(|w| !self.flows.iter().any(|f| same(f, w))).count();
        let pinhole = self.holder_of_pinholes();
        let has_room = pinhole.as_ref().is_none_or(|holder| pools.pinholes.has_room(holder, new));
        if new > pools.ids.free() || new > 0 && !has_room {
            return Err(MediaFault::NoPorts);
        }
        self.session = session;
        self.flows.retain(|flow| {
            let stays = wanted.iter().any(|wanted| same(flow, wanted));
            if !stays {
                effects.changes.push(MediaChange::Close(flow.id));
                pools.give_name(pinhole.as_ref(), flow.id);
            }
            stays
        });
        for mut wanted in wanted {
            match self.flows.iter_mut().find(|flow| same(flow, &wanted)) {
                Some(flow) => {
                    let expires = std::mem::replace(&mut flow.expires, wanted.expires);
                    (wanted.id, wanted.learned_anew) = (flow.id, flow.learned_anew);
                    // The source may be another now, though it is looked for in the same prefix.
                    if moved.contains(&(usize::from(flow.line), flow.side, flow.component)) {
                        wanted.learn_anew();
                    }
                    if *flow != wanted {
                        *flow = wanted.clone();
                        effects.changes.push(MediaChange::Open(wanted));
                    } else {
                        flow.expires = expires;
                    }
                }
                None => {
                    let id =
                        pools.take_name(pinhole.as_ref(), &wanted).ok_or(MediaFault::NoPorts)?;
                    wanted.id = id;
                    self.flows.push(wanted.clone());
                    effects.changes.push(MediaChange::Open(wanted));
                }
            }
        }
        Ok(())
    }

    /// What was learned of a side counts as long as it says the same. Gives what does not.
    fn forget_learned(&mut self, session: &Session) -> Vec<(usize, MediaSide, Component)> {
        let mut moved = Vec::new();
        for (index, line) in self.lines.iter_mut().enumerate() {
            for side in SIDES {
                let slot = byte(index);
                let (then, now) = (self.session.said(side, slot), session.said(side, slot));
                for component in [Component::Rtp, Component::Rtcp] {
                    let place = |said: Option<&Said>| said.and_then(|said| said.place(component));
                    if place(then) != place(now) {
                        *line.learned(component).of_mut(side) = None;
                        moved.push((index, side, component));
                    }
                }
            }
        }
        moved
    }

    /// Our address and port towards a side.
    pub(super) fn own(
        &self,
        slot: usize,
        side: MediaSide,
        component: Component,
    ) -> Option<SocketAddr> {
        let leg = (*self.legs.of(side))?;
        let port = *self.lines.get(slot)?.ports.of(side);
        let rtp = SocketAddr::new(leg.local, port);
        match (port, component) {
            (0, _) => None,
            (_, Component::Rtp) => Some(rtp),
            (_, Component::Rtcp) => further(rtp, 1),
        }
    }

    /// A flow's source is one that nobody told of.
    pub(super) fn is_news(&self, id: FlowId, source: SocketAddr) -> bool {
        let of = |flow: &&Flow| flow.id == id && flow.source.contains(&source.ip());
        self.flows.iter().find(of).is_some_and(|flow| {
            let line = self.lines.get(usize::from(flow.line));
            line.is_none_or(|line| *line.known(flow.component).of(flow.side) != Some(source))
        })
    }

    /// A source was learned; the flows that go there follow.
    pub(super) fn learned(
        &mut self,
        now: Instant,
        pools: &mut Pools,
        id: FlowId,
        source: SocketAddr,
        effects: &mut Effects,
    ) {
        let Some(flow) = self.flows.iter().find(|flow| flow.id == id) else { return };
        if !flow.source.contains(&source.ip()) {
            return;
        }
        let (line, component, side) = (usize::from(flow.line), flow.component, flow.side);
        if line >= self.lines.len() {
            self.lines.resize(line + 1, Line::default());
        }
        if let Some(line) = self.lines.get_mut(line) {
            *line.learned(component).of_mut(side) = Some(source);
        }
        let session = self.session.clone();
        // No flow is new: it cannot fail.
        let _ = self.apply(now, pools, session, effects);
    }

    /// Opens flows anew: their sources can be learned for as long as at first. Not those that are
    /// opened by now anyway.
    pub(super) fn reopen(
        &mut self,
        now: Instant,
        which: impl Fn(&Flow) -> bool,
        effects: &mut Effects,
    ) {
        self.reopened = now;
        let ends = self.end().0;
        for flow in &mut self.flows {
            let opens = |change: &MediaChange| matches!(change, MediaChange::Open(opened) if opened.id == flow.id);
            if which(flow) && !effects.changes.iter().any(opens) {
                flow.learn_anew();
                (flow.learn, flow.expires) = (LEARN, ends.saturating_duration_since(now));
                effects.changes.push(MediaChange::Open(flow.clone()));
            }
        }
    }

    /// Opens those flows anew of whose sources nothing was learned.
    pub(super) fn reopen_unknown(&mut self, now: Instant, effects: &mut Effects) {
        let lines = self.lines.clone();
        let unknown = |flow: &Flow| {
            let line = lines.get(usize::from(flow.line));
            line.is_none_or(|line| line.known(flow.component).of(flow.side).is_none())
        };
        self.reopen(now, unknown, effects);
    }

    /// No flow is open any more.
    pub(super) fn drop_flows(&mut self, pools: &mut Pools, effects: &mut Effects) {
        if !self.flows.is_empty() {
            effects.changes.push(MediaChange::CloseCall(self.id));
        }
        let pinhole = self.holder_of_pinholes();
        for flow in self.flows.drain(..) {
            pools.give_name(pinhole.as_ref(), flow.id);
        }
    }

    /// Everything ends.
    pub(super) fn close(&mut self, pools: &mut Pools, effects: &mut Effects) {
        self.drop_flows(pools, effects);
        for line in &mut self.lines {
            for side in SIDES {
                pools.give(
                    self.holder.as_ref(),
                    side,
                    *self.legs.of(side),
                    line.ports.of_mut(side),
                );
            }
        }
    }
}
