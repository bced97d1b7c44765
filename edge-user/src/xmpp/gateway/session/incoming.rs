//! What SIP users do: INVITE, and everything within the dialog.

use super::{
    State,
    offer::{self, Offer, SDP},
};
use crate::{
    sip::{HeaderName, Message, Method},
    xmpp::gateway::{
        Gateway,
        address::Party,
        ua::{ALLOW, Dialog, DialogError, Reply, name_addr},
    },
};

impl Gateway {
    /// An INVITE outside of dialogs.
    pub(in crate::xmpp::gateway) fn on_invite(
        &mut self,
        request: &Message,
        sip: &Party,
        xmpp: &Party,
    ) {
        let Some(offer) = Offer::of(request) else {
            return self.core.reply(request, &Reply::new(488).with("Accept", SDP));
        };
        let tag = self.core.fresh();
        let dialog = match Dialog::of_request(request, tag) {
            Ok(dialog) => dialog,
            Err(fault) => {
                return self.core.reply(request, &Reply::new(400).because(&fault.to_string()));
            }
        };
        let thread = Some(self.core.alias("thread", sip, xmpp, &dialog.call_id));
        let Some(id) = self.new_session(dialog, sip, xmpp, thread, State::Up) else {
            return self.core.reply(request, &Reply::new(480).because("Too many sessions"));
        };
        self.core.invite(sip, xmpp);
        if let Some(session) = self.sessions.map.get_mut(&id) {
            session.typing.is_composing = offer.is_composing;
        }
        let first = offer::first_message(request);
        let mut reply = self.invite_reply(xmpp, offer.answer(xmpp));
        if first.is_some() {
            // It need not be sent again.
            reply = reply.with("Supported", "ms-text-format");
        }
        self.answer_invite(id, request, &reply);
        if let Some(text) = first {
            self.say_in_session(id, text);
        }
    }

    fn invite_reply(&self, xmpp: &Party, sdp: Vec<u8>) -> Reply {
        let contact = name_addr(&xmpp.sip, None);
        Reply::new(200).with("Contact", contact).with("Allow", ALLOW).with_body(SDP, sdp)
    }

    /// A CANCEL: its INVITE was answered at once, so that it changes nothing (RFC 3261 section 9.2).
    pub(in crate::xmpp::gateway) fn on_cancel(&mut self, request: &Message) {
        let branch = request.via().ok().and_then(|via| via.branch).unwrap_or_default();
        let call_id = request.call_id().unwrap_or_default();
        let session = self.sessions.by_branch.get(branch).and_then(|id| self.sessions.map.get(id));
        let session = session.filter(|session| session.dialog.call_id == call_id);
        match session.map(|session| session.dialog.local_tag.clone()) {
            Some(tag) => self.core.reply_as(request, &tag, &Reply::new(200)),
            None => self.core.reply(request, &Reply::new(481)),
        }
    }

    /// An ACK.
    pub(in crate::xmpp::gateway) fn on_ack(&mut self, request: &Message, id: u64) {
        let Some(session) = self.sessions.map.get_mut(&id) else { return };
        let cseq = request.cseq().map(|cseq| cseq.number).ok();
        if session.answer.as_ref().is_some_and(|answer| Some(answer.cseq) == cseq) {
            self.sessions.set_answer(id, None);
            self.arm_session(id);
        }
    }

    /// A request within the dialog of a session.
    pub(in crate::xmpp::gateway) fn on_session_request(
        &mut self,
        request: &Message,
        method: Method<'_>,
        id: u64,
    ) {
        let Some(session) = self.sessions.map.get_mut(&id) else { return };
        let tag = session.dialog.local_tag.clone();
        let (sip, xmpp) = (session.sip.clone(), session.xmpp.clone());
        if session.dialog.take(request) == Err(DialogError::Order) {
            return self.core.reply_as(
                request,
                &tag,
                &Reply::new(500).because("CSeq out of order"),
            );
        }
        if let Err(reason) = self.core.may_speak(&sip, &xmpp) {
            self.core.reply_as(request, &tag, &Reply::new(403).because(reason.name()));
            return self.end_session(id, false);
        }
        match method {
            Method::Message => {
                self.session_used(id);
                let thread = self.sessions.map.get(&id).and_then(|session| session.thread.clone());
                self.take_message(request, tag, &sip, &xmpp, Some(thread));
            }
            Method::Info => self.on_info(request, &tag, id),
            Method::Bye => {
                self.core.reply_as(request, &tag, &Reply::new(200));
                self.say_gone(id);
                self.remove_session(id);
            }
            Method::Invite => self.on_reinvite(request, &tag, id),
            Method::Update => self.on_update(request, &tag, &xmpp),
            Method::Prack => self.core.reply_as(request, &tag, &Reply::new(481)),
            Method::Other(_) => {
                self.core.reply_as(request, &tag, &Reply::new(501).with("Allow", ALLOW))
            }
            _ => self.core.reply_as(request, &tag, &Reply::new(405).with("Allow", ALLOW)),
        }
    }

    /// Another INVITE in the dialog: the session is refreshed, or media is to be added, which is not
    /// taken.
    fn on_reinvite(&mut self, request: &Message, tag: &str, id: u64) {
        let Some(session) = self.sessions.map.get(&id) else { return };
        let xmpp = session.xmpp.clone();
        if session.state == State::Calling || session.answer.is_some() {
            return self.core.reply_as(request, tag, &Reply::new(491));
        }
        let sdp = match Offer::of(request) {
            Some(offer) => offer.answer(&xmpp),
            None if offer::has_none(request) => offer::offer(),
            None => return self.core.reply_as(request, tag, &Reply::new(488).with("Accept", SDP)),
        };
        let reply = self.invite_reply(&xmpp, sdp);
        self.answer_invite(id, request, &reply);
    }

    fn on_update(&mut self, request: &Message, tag: &str, xmpp: &Party) {
        let reply = match Offer::of(request) {
            Some(offer) => self.invite_reply(xmpp, offer.answer(xmpp)),
            None if request.header(HeaderName::ContentType).is_none() => {
                Reply::new(200).with("Contact", name_addr(&xmpp.sip, None))
            }
            None => Reply::new(488).with("Accept", SDP),
        };
        self.core.reply_as(request, tag, &reply);
    }
}
