//! Offers and answers (RFC 3264, RFC 6337): in INVITE and its responses, in the 2xx and its ACK, in
//! reliable provisional responses and PRACK (RFC 3262), in UPDATE (RFC 3311); forks; and what was
//! offered in vain.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Calls, Effects, MediaFault, Passage, Reply,
    call::{AnswerBy, Call, Offer, Parties, Pools},
    ports::Holder,
    said::{Said, Session, said},
    settings::{CallSettings, SIDES},
    tag_code, text, transports,
};
use crate::config::MediaMode;
use crate::media::{
    calls::CallMethod,
    flow::{CallId, MediaChange, MediaSide},
    sdp::Sdp,
};

/// An ACK or a PRACK that is still missing then never comes (RFC 3261 section 17.2.1, timer H).
const ANSWER_TIME: Duration = Duration::from_secs(40);
/// Dialogs that one INVITE may begin; the oldest goes.
const MAX_FORKS: usize = 8;
/// Offers of one call that may be under way; the oldest goes.
const MAX_OFFERS: usize = 8;

/// How an answer leaves its offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finality {
    /// The transaction may still fail.
    Provisional,
    /// It stays.
    Final,
}

impl Calls {
    /// A request with SDP: as it goes on.
    pub fn request(
        &mut self,
        now: Instant,
        passage: &Passage<'_>,
        sdp: &Sdp,
        effects: &mut Effects,
    ) -> Result<Bytes, MediaFault> {
        self.begins_no_other(passage)?;
        let said = self.said(passage, sdp)?;
        self.recognise(passage);
        let waits = self.find(&passage.names).and_then(|id| {
            let call = self.all.get(&id)?;
            let tag = passage.names.callee_tag(call.parties.inbound).map_or(0, tag_code);
            let waits = |offer: &Offer| {
                let other = offer.from == passage.from.across();
                let same = other && (offer.tag == 0 || offer.tag == tag);
                same && match passage.method {
                    CallMethod::Ack => {
                        let up = call.up.is_some();
                        up && offer.by == AnswerBy::Ack && offer.cseq == passage.cseq
                    }
                    CallMethod::Prack => offer.by == AnswerBy::Prack && !offer.answered,
                    _ => false,
                }
            };
            Some((id, call.offers.iter().position(waits)?, tag))
        });
        match (passage.method, waits) {
            (_, Some((id, place, tag))) => {
                let finality = match passage.method {
                    CallMethod::Ack => Finality::Final,
                    _ => Finality::Provisional,
                };
                self.change(now, id, effects, |context, call| {
                    let text = context.answer(call, passage, sdp, said, place, tag, finality)?;
                    if finality == Finality::Final {
                        call.offers.remove(place);
                        call.give_ports(context.pools);
                    }
                    Ok(text)
                })
            }
            (CallMethod::Ack, None) => self.repeated(now, passage, sdp, said, effects),
            _ => self.offered(now, passage, sdp, said, AnswerBy::Response, effects),
        }
    }

    /// A remote user who begins a call has not shown yet who it is: what it says is not for a call
    /// that is up, nor for one that began somewhere else.
    fn begins_no_other(&self, passage: &Passage<'_>) -> Result<(), MediaFault> {
        let names = &passage.names;
        if names.to_tag.is_some() || names.partner.is_some() || !names.inbound {
            return Ok(());
        }
        let here = Holder::of(passage);
        let known = self.find(names).and_then(|id| self.all.get(&id));
        match known {
            Some(call) if call.up.is_some() || call.holder.as_ref() != Some(&here) => {
                Err(MediaFault::Another)
            }
            _ => Ok(()),
        }
    }

    /// A response to INVITE, UPDATE or PRACK, with SDP or without: its SDP as it goes on.
    pub fn response(
        &mut self,
        now: Instant,
        passage: &Passage<'_>,
        reply: &Reply<'_>,
        sdp: Option<&Sdp>,
        effects: &mut Effects,
    ) -> Result<Option<Bytes>, MediaFault> {
        // The tag that the first response brings names the dialog from now on.
        let first = passage.names.to_tag.is_none();
        let to_tag = passage.names.to_tag.or(Some(reply.tag));
        let names = super::CallNames { to_tag, ..passage.names };
        let passage = &Passage { names, ..*passage };
        let said = sdp.map(|sdp| self.said(passage, sdp)).transpose()?;
        self.recognise(passage);
        let known = self.find(&names);
        let call = known.and_then(|id| self.all.get(&id));
        let tag = |call: &Call| names.callee_tag(call.parties.inbound).map_or(0, tag_code);
        let mine = |offer: &Offer| offer.exchange == passage.exchange;
        let asked = |offer: &Offer| {
            mine(offer) && offer.by == AnswerBy::Response && offer.from == passage.from.across()
        };
        let place = call.and_then(|call| call.offers.iter().position(asked));
        let answered = call.is_some_and(|c| c.offers.iter().any(|o| mine(o) && o.answered));
        // Another of the dialogs that the INVITE began was accepted before: the caller's to end.
        let other = |call: &Call| call.up.is_some_and(|up| up != 0 && up != tag(call));
        let late = first && call.is_some_and(|call| other(call));
        let last = reply.status >= 200;
        let text = match (sdp.zip(said), known.zip(place)) {
            (None, _) => None,
            (Some((sdp, said)), Some((id, place))) if !(reply.again || late) => {
                let last = if last { Finality::Final } else { Finality::Provisional };
                Some(self.change(now, id, effects, |context, call| {
                    let tag = tag(call);
                    context.answer(call, passage, sdp, said, place, tag, last)
                })?)
            }
            // Only an INVITE without an offer is answered by one.
            (Some((sdp, said)), _)
                if reply.again
                    || late
                    || reply.offered
                    || answered
                    || passage.method != CallMethod::Invite =>
            {
                Some(self.repeated(now, passage, sdp, said, effects)?)
            }
            (Some((sdp, said)), _) => {
                Some(self.offered(now, passage, sdp, said, by(reply), effects)?)
            }
        };
        if last
            && !reply.again
            && let Some(id) = self.find(&names)
        {
            let without = sdp.is_none();
            self.change(now, id, effects, |context, call| {
                let tag = tag(call);
                if without && !late {
                    context.take_fork(call, tag)?;
                }
                context.done(call, passage, reply, tag, late);
                Ok(())
            })?;
        }
        Ok(text)
    }

    /// A transaction failed, or is gone without an answer: what it offered was offered in vain.
    pub fn failed(&mut self, now: Instant, id: CallId, exchange: u64, effects: &mut Effects) {
        let waits = |call: &Call| {
            let before = call.before.as_ref().is_some_and(|(of, _)| *of == exchange);
            before || call.offers.iter().any(|offer| offer.exchange == exchange)
        };
        if !self.all.get(&id).is_some_and(|call| waits(call)) {
            return;
        }
        let _ = self.change(now, id, effects, |context, call| {
            call.offers.retain(|offer| offer.exchange != exchange);
            if let Some((_, before)) = call.before.take_if(|(of, _)| *of == exchange) {
                context.apply(call, before)?;
            }
            if call.up.is_some() {
                call.give_ports(context.pools);
            }
            Ok(())
        });
    }

    /// A transaction is gone: nobody waits for its response any more. What waits for an ACK still
    /// does.
    pub fn gone(&mut self, now: Instant, id: CallId, exchange: u64, effects: &mut Effects) {
        let unanswered = |call: &Call| {
            call.offers.iter().any(|o| o.exchange == exchange && o.by != AnswerBy::Ack)
        };
        if self.all.get(&id).is_some_and(|call| unanswered(call)) {
            self.failed(now, id, exchange, effects);
        }
    }

    /// Whether a description makes sense, before anything is done about it.
    pub fn check(&self, passage: &Passage<'_>, sdp: &Sdp) -> Result<(), MediaFault> {
        self.said(passage, sdp).map(drop)
    }

    fn said(&self, passage: &Passage<'_>, sdp: &Sdp) -> Result<Vec<Said>, MediaFault> {
        let owner = |at| self.owner(at).filter(|id| self.find(&passage.names) != Some(*id));
        said(&self.settings, self.mode_of(&passage.names), passage, sdp, &owner)
    }

    /// Whether the call of a message was accepted.
    pub fn is_up(&self, passage: &Passage<'_>) -> bool {
        let call = self.find(&passage.names).and_then(|id| self.all.get(&id));
        call.is_some_and(|call| call.up.is_some())
    }

    /// The call that a request with an offer made, or is of.
    pub fn call_of(&self, passage: &Passage<'_>) -> Option<CallId> {
        self.find(&passage.names)
    }

    /// An offer passes.
    fn offered(
        &mut self,
        now: Instant,
        passage: &Passage<'_>,
        sdp: &Sdp,
        mut said: Vec<Said>,
        by: AnswerBy,
        effects: &mut Effects,
    ) -> Result<Bytes, MediaFault> {
        let known = self.find(&passage.names);
        let off = self.settings.mode == MediaMode::Off;
        if known.is_none() && (off || !said.iter().any(Said::is_forwarded)) {
            something_left(passage, sdp, &said)?;
            return self.without(passage, sdp, &said);
        }
        if known.is_none() && self.is_over(&passage.names) {
            return Err(MediaFault::Over);
        }
        let Some(id) = known.or_else(|| self.keys.new_name(&passage.names)) else {
            return Err(MediaFault::NoPorts);
        };
        if known.is_none() {
            let name = (id, self.settings.mode);
            let call = Call::new(now, name, parties(passage), self.settings.longest_call);
            self.begin(call);
        }
        self.change(now, id, effects, |context, call| {
            let tag = passage.names.callee_tag(call.parties.inbound).map_or(0, tag_code);
            let passed = context.offer(call, passage, sdp, &mut said, (by, tag));
            if passed.is_err() {
                call.give_ports(context.pools);
            }
            passed
        })
    }

    /// SDP that says once more what was said, or that answers what is not known.
    fn repeated(
        &mut self,
        now: Instant,
        passage: &Passage<'_>,
        sdp: &Sdp,
        mut said: Vec<Said>,
        effects: &mut Effects,
    ) -> Result<Bytes, MediaFault> {
        let Some(id) = self.find(&passage.names) else {
            return self.without(passage, sdp, &said);
        };
        self.change(now, id, effects, |context, call| {
            let to = passage.from.across();
            transports::assign(&mut said, passage.from, &call.session, call.adopted);
            let other = call.session.of(to);
            let mux = |line: usize| {
                let takes = |said: &[Said]| said.get(line).is_some_and(|said| said.mux);
                takes(&said) && takes(other)
            };
            let text = text::for_side(call, sdp, &said, to, &mux)?;
            if call.flows.is_empty() {
                let session = call.session.clone();
                context.apply(call, session)?;
            }
            Ok(text)
        })
    }

    fn without(
        &self,
        passage: &Passage<'_>,
        sdp: &Sdp,
        said: &[Said],
    ) -> Result<Bytes, MediaFault> {
        let to = passage.from.across();
        let six = passage.peers.of(to).is_ipv6();
        text::without_ports(&self.settings, sdp, said, to, six)
    }

    /// Changes a call, and all that is kept in step with it; ends it when nothing is left of it.
    pub(super) fn change<R>(
        &mut self,
        now: Instant,
        id: CallId,
        effects: &mut Effects,
        change: impl FnOnce(&mut Context<'_>, &mut Call) -> Result<R, MediaFault>,
    ) -> Result<R, MediaFault> {
        let Some(mut call) = self.all.remove(&id) else { return Err(MediaFault::NoPorts) };
        let had = super::names_of(&call);
        let mut context =
            Context { now, settings: &self.settings, pools: &mut self.pools, effects };
        let result = change(&mut context, &mut call);
        self.join(now, &mut call, effects);
        let joined = call.joined.clone();
        self.keep(call, &had, effects);
        for other in joined {
            self.follow(now, other, effects);
        }
        result
    }
}

/// Who answers an offer that a response brings.
fn by(reply: &Reply<'_>) -> AnswerBy {
    if reply.status < 200 && reply.reliable { AnswerBy::Prack } else { AnswerBy::Ack }
}

pub(super) fn parties(passage: &Passage<'_>) -> Parties {
    let names = &passage.names;
    Parties {
        call_id: names.call_id.into(),
        caller: passage.parties.0.into(),
        callee: passage.parties.1.into(),
        partner: names.partner.cloned(),
        inbound: names.inbound,
        connection: passage.connection,
    }
}

/// Something of an offer may go on, unless nothing was asked for.
fn something_left(passage: &Passage<'_>, sdp: &Sdp, said: &[Said]) -> Result<(), MediaFault> {
    let asked = sdp.media().iter().any(crate::media::sdp::Media::is_on);
    if !asked || said.iter().any(|said| said.on) {
        return Ok(());
    }
    let forbidden = sdp.media().iter().enumerate().any(|(index, media)| {
        media.is_on() && passage.forbidden.checked_shr(index as u32).unwrap_or(0) & 1 == 1
    });
    Err(if forbidden { MediaFault::Forbidden } else { MediaFault::Unsupported })
}

/// What a change of a call needs beside it.
pub(super) struct Context<'c> {
    pub now: Instant,
    pub settings: &'c CallSettings,
    pub pools: &'c mut Pools,
    pub effects: &'c mut Effects,
}

impl Context<'_> {
    pub(super) fn apply(&mut self, call: &mut Call, session: Session) -> Result<(), MediaFault> {
        call.apply(self.now, self.pools, session, self.effects)
    }

    fn offer(
        &mut self,
        call: &mut Call,
        passage: &Passage<'_>,
        sdp: &Sdp,
        said: &mut [Said],
        (by, tag): (AnswerBy, u64),
    ) -> Result<Bytes, MediaFault> {
        call.held_by(self.pools, Holder::of(passage));
        // Better now than when the callee has answered.
        if call.has_no_room(self.pools) {
            return Err(MediaFault::NoPorts);
        }
        self.legs(call, passage, said)?;
        reject_other_families(call, passage, said);
        something_left(passage, sdp, said)?;
        transports::assign(said, passage.from, &call.session, call.adopted);
        let needs = |slot| said.iter().any(|said| said.is_in(slot));
        call.take_ports(self.pools, (0..said.len()).map(needs))?;
        let to = passage.from.across();
        let text = text::for_side(call, sdp, said, to, &|_| false)?;
        let same =
            |offer: &Offer| (offer.exchange, offer.by, offer.tag) == (passage.exchange, by, tag);
        call.offers.retain(|offer| !same(offer));
        if call.offers.len() >= MAX_OFFERS {
            call.offers.remove(0);
        }
        call.offers.push(Offer {
            exchange: passage.exchange,
            cseq: passage.cseq,
            from: passage.from,
            by,
            tag,
            answered: false,
            said: said.to_vec(),
            until: (by != AnswerBy::Response).then(|| self.now + ANSWER_TIME),
        });
        self.expect(passage.from, said);
        Ok(text)
    }

    /// Flows will go to who offers: their way is known by the time of the answer.
    fn expect(&mut self, side: MediaSide, said: &[Said]) {
        let forwarded = said.iter().filter(|said| said.is_forwarded() && said.joins.is_none());
        let places = forwarded.flat_map(|said| [said.rtp, said.rtcp]).flatten();
        let mut told = Vec::new();
        for address in places.map(|place| place.ip()) {
            if !told.contains(&address) {
                told.push(address);
                self.effects.changes.push(MediaChange::Expect(address, side));
            }
        }
    }

    /// Our addresses towards both sides: of the family that who offers speaks, and of the family
    /// that the signalling to the other has.
    fn legs(
        &mut self,
        call: &mut Call,
        passage: &Passage<'_>,
        said: &[Said],
    ) -> Result<(), MediaFault> {
        if call.mode != MediaMode::Relay {
            return Ok(());
        }
        for side in SIDES {
            let speaks = said.iter().find_map(|said| said.rtp).filter(|_| side == passage.from);
            let six = speaks.map_or(passage.peers.of(side).is_ipv6(), |at| at.is_ipv6());
            let known = call.legs.of(side).is_some();
            // Before anything is agreed on, another target may be of another family.
            let free = call.up.is_none()
                && call.session.lines() == 0
                && call.offers.iter().all(|offer| offer.exchange == passage.exchange);
            if !known || free {
                let own = self.settings.on(side).prefer(six).ok_or(MediaFault::Unsupported)?;
                call.move_leg(self.pools, side, own);
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "an answer is all of this")]
    fn answer(
        &mut self,
        call: &mut Call,
        passage: &Passage<'_>,
        sdp: &Sdp,
        mut said: Vec<Said>,
        place: usize,
        tag: u64,
        finality: Finality,
    ) -> Result<Bytes, MediaFault> {
        reject_other_families(call, passage, &mut said);
        let Some(offer) = call.offers.get(place) else { return Err(MediaFault::Unsupported) };
        let exchange = offer.exchange;
        for (index, said) in said.iter_mut().enumerate() {
            let offered = offer.said.get(index).is_some_and(|offered| offered.on);
            if said.on && !offered {
                (said.on, said.rejected) = (false, true);
            }
        }
        let mut session = Session::new(passage.from, said, offer.said.clone());
        session.fill(&call.session);
        let needs = |slot| session.first(transports::byte(slot)).is_some();
        call.take_ports(self.pools, (0..session.lines()).map(needs))?;
        let to = passage.from.across();
        let mux = |line: usize| session.mux(line);
        let text = text::for_side(call, sdp, session.of(passage.from), to, &mux)?;
        call.nat = passage.behind_nat.then_some(passage.peers.outside);
        if call.up.is_none() {
            call.forks.retain(|(of, _)| *of != tag);
            if call.forks.len() >= MAX_FORKS {
                call.forks.remove(0);
            }
            call.forks.push((tag, session.clone()));
        } else if finality == Finality::Provisional && call.before.is_none() {
            call.before = Some((exchange, call.session.clone()));
        }
        self.apply(call, session)?;
        if let Some(offer) = call.offers.get_mut(place) {
            // From here on it waits for the INVITE's answer, as long as that takes.
            (offer.answered, offer.until) = (true, None);
        }
        Ok(text)
    }

    /// A dialog was accepted whose answer passed before: that is in force from now on.
    fn take_fork(&mut self, call: &mut Call, tag: u64) -> Result<(), MediaFault> {
        let fork = call.forks.iter().find(|(of, _)| *of == tag);
        match fork.map(|(_, session)| session.clone()) {
            Some(session) if call.up.is_none() => self.apply(call, session),
            _ => Ok(()),
        }
    }

    /// A transaction ended well.
    fn done(
        &mut self,
        call: &mut Call,
        passage: &Passage<'_>,
        reply: &Reply<'_>,
        tag: u64,
        late: bool,
    ) {
        call.offers.retain(|offer| offer.exchange != passage.exchange || offer.by == AnswerBy::Ack);
        call.before.take_if(|(of, _)| *of == passage.exchange);
        // Of a dialog that came up without media no INVITE is known.
        let up_before = call.up.is_none() && call.offers.is_empty();
        if (passage.method == CallMethod::Invite && !late) || up_before {
            if call.up.is_none() {
                call.heard.0 = self.now;
                // Who rang may have been silent so far, for as long as it rang.
                call.reopen_unknown(self.now, self.effects);
            }
            call.up = Some(tag);
            call.accepted |= passage.method == CallMethod::Invite;
            call.adopted = false;
            call.forks.clear();
        }
        if call.up.is_some() && passage.method != CallMethod::Prack && !late {
            call.set_session(self.now, reply.session, self.effects);
        }
        if call.up.is_some() {
            call.give_ports(self.pools);
        }
    }
}

/// Where one side receives must be of the family that it was told to send to.
fn reject_other_families(call: &Call, passage: &Passage<'_>, said: &mut [Said]) {
    let Some(leg) = call.legs.of(passage.from) else { return };
    let other = |said: &Said| said.rtp.is_some_and(|at| at.is_ipv6() != leg.local.is_ipv6());
    for said in said.iter_mut().filter(|said| other(said)) {
        (said.on, said.rejected) = (false, true);
    }
}
