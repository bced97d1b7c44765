//! What one side said of each m-line, as far as it matters here.

use std::net::{IpAddr, SocketAddr};

use super::{
    MediaFault, Passage,
    settings::{CallSettings, SIDES, further},
    transports::{self, NO_SLOT},
};
use crate::{
    config::MediaMode,
    federation::usable,
    media::{
        flow::{CallId, Component, MediaSide},
        sdp::{Media, MediaKind, Sdp, Transport},
    },
};

/// An m-line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// What it is for.
    pub kind: MediaKind,
    /// What it is carried by.
    pub protocol: Transport,
    /// It is offered or taken, and we do not say no.
    pub on: bool,
    /// We say no to it: it goes on with port 0.
    pub rejected: bool,
    /// It has no port of its own: it is for a bundle (RFC 8843).
    pub bundle_only: bool,
    /// Where RTP, or all there is, is received; `None`: not known (hold by address).
    pub rtp: Option<SocketAddr>,
    /// Where RTCP is received.
    pub rtcp: Option<SocketAddr>,
    /// RTP and RTCP may share a port.
    pub mux: bool,
    /// It is on hold.
    pub held: bool,
    /// RTP clock, Hz; 0: not known.
    pub clock: u32,
    /// Bits a second that it takes; 0: not said.
    pub bits: u64,
    /// Its transport within this text: the number of the first m-line that has it.
    pub transport: u8,
    /// Its place in its bundle, from 0.
    pub rank: u8,
    /// Which ports of ours are for it ([`transports`]).
    pub slot: u8,
    /// In a session: another m-line, which stands for all that share its transport.
    pub shares: Option<u8>,
    /// It is a port of ours inside, this call's: a server inside joined two calls, and stays out of
    /// their media.
    pub joins: Option<CallId>,
}

/// The call that has a port of ours inside.
pub(super) type Owner<'a> = &'a dyn Fn(SocketAddr) -> Option<CallId>;

impl Said {
    /// Where a component is received.
    pub(super) fn place(&self, component: Component) -> Option<SocketAddr> {
        match component {
            Component::Rtp => self.rtp,
            Component::Rtcp => self.rtcp,
        }
    }

    /// It is ours to forward.
    pub(super) fn is_forwarded(&self) -> bool {
        self.on && self.protocol.is_udp()
    }

    fn receives_at(&mut self, place: Place) {
        (self.rtp, self.rtcp, self.joins) = (place.rtp, place.rtcp, place.joins);
    }

    /// It is forwarded on the ports of this slot.
    pub(super) fn is_in(&self, slot: usize) -> bool {
        self.is_forwarded() && usize::from(self.slot) == slot
    }
}

/// What a text says. Lines that nobody may have, or that cannot be forwarded, are rejected; an
/// address that cannot be is a fault.
pub(super) fn said(
    settings: &CallSettings,
    mode: MediaMode,
    passage: &Passage<'_>,
    sdp: &Sdp,
    owner: Owner<'_>,
) -> Result<Vec<Said>, MediaFault> {
    let lines = sdp.media().iter().enumerate();
    let mut all = lines
        .map(|(index, media)| line(settings, mode, passage, (media, index), owner))
        .collect::<Result<Vec<Said>, MediaFault>>()?;
    for (line, tag) in transports::find(sdp, &mut all) {
        let Some(media) = sdp.media().get(tag) else { continue };
        let place = match all.get(tag) {
            Some(tag) if tag.is_forwarded() => Place::of(tag),
            // What it is for is rejected, but not its transport.
            _ => place(settings, mode, passage, (media, tag), owner).unwrap_or_default(),
        };
        if let Some(said) = all.get_mut(line) {
            said.receives_at(place);
        }
    }
    Ok(all)
}

/// Where an m-line is received.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    rtp: Option<SocketAddr>,
    rtcp: Option<SocketAddr>,
    joins: Option<CallId>,
}

impl Place {
    fn of(said: &Said) -> Self {
        Self { rtp: said.rtp, rtcp: said.rtcp, joins: said.joins }
    }
}

fn line(
    settings: &CallSettings,
    mode: MediaMode,
    passage: &Passage<'_>,
    (media, index): (&Media, usize),
    owner: Owner<'_>,
) -> Result<Said, MediaFault> {
    let forbidden = passage.forbidden.checked_shr(index as u32).unwrap_or(0) & 1 == 1;
    let carried = match media.protocol {
        Transport::Sip => true,
        // A pair of ours stands for one pair of theirs.
        protocol if protocol.is_udp() => mode != MediaMode::Relay || media.ports == 1,
        // What is no UDP is nobody's to forward; where both sides see each other it finds its way.
        _ => mode != MediaMode::Relay,
    };
    let rejected = media.is_on() && (forbidden || !carried);
    let mut one = Said {
        kind: media.kind,
        protocol: media.protocol,
        on: media.is_on() && !rejected,
        rejected,
        bundle_only: media.bundle_only,
        rtp: None,
        rtcp: None,
        mux: media.rtcp_mux,
        held: media.direction.is_held(),
        clock: media.clock.filter(|_| media.protocol.is_rtp()).unwrap_or(0),
        bits: media.bits_per_second.unwrap_or(0),
        transport: 0,
        rank: 0,
        slot: NO_SLOT,
        shares: None,
        joins: None,
    };
    if mode != MediaMode::Off && one.is_forwarded() {
        one.receives_at(place(settings, mode, passage, (media, index), owner)?);
    }
    Ok(one)
}

/// Where an m-line over UDP is received; nowhere, when it does not say. Nor when it says what ICE has
/// found out, where we relay: that is a port of the far edge, which the other end sees its packets come
/// from. It sends from where it said before.
fn place(
    settings: &CallSettings,
    mode: MediaMode,
    passage: &Passage<'_>,
    (media, index): (&Media, usize),
    owner: Owner<'_>,
) -> Result<Place, MediaFault> {
    if mode == MediaMode::Off
        || !media.protocol.is_udp()
        || media.port == 0
        || media.held_by_address()
        || mode == MediaMode::Relay && media.is_reflexive
    {
        return Ok(Place::default());
    }
    let fault = MediaFault::Address { line: index };
    if mode == MediaMode::Relay
        && passage.from == MediaSide::Inside
        && let Some(at) = media.address.map(|address| SocketAddr::new(address, media.port))
        && let Some(call) = owner(at)
    {
        let rtcp = media.rtcp_address().map(|(address, port)| SocketAddr::new(address, port));
        if rtcp.is_some_and(|rtcp| Some(rtcp) != further(at, 1)) {
            return Err(fault);
        }
        let rtcp = media.protocol.is_rtp().then(|| rtcp.unwrap_or(at));
        return Ok(Place { rtp: Some(at), rtcp, joins: Some(call) });
    }
    let address = judged(settings, passage, media.address).ok_or(fault.clone())?;
    let rtp = SocketAddr::new(address, media.port);
    let rtcp = match media.rtcp_address() {
        _ if !media.protocol.is_rtp() => None,
        Some((address, port)) if port != 0 => {
            let address = judged(settings, passage, Some(address)).ok_or(fault)?;
            Some(SocketAddr::new(address, port))
        }
        _ => Some(rtp),
    };
    Ok(Place { rtp: Some(rtp), rtcp, joins: None })
}

/// The address to send to; `None` where that makes no sense (trust rules, section 6).
fn judged(
    settings: &CallSettings,
    passage: &Passage<'_>,
    address: Option<IpAddr>,
) -> Option<IpAddr> {
    // A name is not looked up: who writes it could have it mean anything a moment later.
    let address = address?;
    match (passage.from, usable(address, &settings.own, &settings.allow)) {
        (_, Ok(())) => Some(address),
        (MediaSide::Inside, Err(fault)) => fault.may_be_allowed().then_some(address),
        // It does not know its own address: until a packet tells, the best guess.
        (MediaSide::Outside, Err(_)) if passage.behind_nat => Some(passage.peers.outside),
        (MediaSide::Outside, Err(_)) => None,
    }
}

/// What both sides said: of each m-line what is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    pub outside: Vec<Said>,
    pub inside: Vec<Said>,
}

impl Session {
    /// From an answer, who gave it, and its offer.
    pub(super) fn new(from: MediaSide, mut answer: Vec<Said>, mut offer: Vec<Said>) -> Self {
        transports::agree(&mut answer, &mut offer);
        match from {
            MediaSide::Outside => Self { outside: answer, inside: offer },
            MediaSide::Inside => Self { outside: offer, inside: answer },
        }
    }

    pub(super) fn of(&self, side: MediaSide) -> &[Said] {
        match side {
            MediaSide::Outside => &self.outside,
            MediaSide::Inside => &self.inside,
        }
    }

    pub(super) fn lines(&self) -> usize {
        self.outside.len().min(self.inside.len())
    }

    /// Both sides take RTP and RTCP on one port.
    pub(super) fn mux(&self, line: usize) -> bool {
        let both = self.outside.get(line).zip(self.inside.get(line));
        both.is_some_and(|(outside, inside)| outside.mux && inside.mux)
    }

    /// Something is forwarded.
    pub(super) fn has_media(&self) -> bool {
        let both = self.outside.iter().zip(&self.inside);
        both.into_iter().any(|(outside, inside)| outside.is_forwarded() && inside.is_forwarded())
    }

    /// Some m-line is on hold.
    pub(super) fn is_held(&self) -> bool {
        let held = |(outside, inside): (&Said, &Said)| {
            outside.is_forwarded() && inside.is_forwarded() && (outside.held || inside.held)
        };
        self.outside.iter().zip(&self.inside).any(held)
    }

    /// Where an address is held back (hold by address), the one from before holds.
    pub(super) fn fill(&mut self, before: &Session) {
        let slots: Vec<u8> = self.slots().collect();
        for slot in slots {
            for side in SIDES {
                let then = before.said(side, slot).map(Place::of);
                let first = self.first(slot);
                let said = match side {
                    MediaSide::Outside => &mut self.outside,
                    MediaSide::Inside => &mut self.inside,
                };
                let now = first.and_then(|first| said.get_mut(first));
                if let Some((now, then)) = now.zip(then)
                    && now.rtp.is_none()
                {
                    now.receives_at(then);
                }
            }
        }
    }
}
