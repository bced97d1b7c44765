//! What XMPP users do: messages into a session, and sessions that begin with one.

use super::{
    State,
    offer::{SDP, offer, takes_is_composing},
};
use crate::{
    sip::{Message, Method},
    xmpp::gateway::{
        Gateway, Purpose,
        address::Party,
        core::{DialogOf, number},
        errors,
        message::{MAX_PAGER, Sent, Text},
        ua::{Answer, Dialog, name_addr},
    },
};

/// A message is tried in so many ways.
const MAX_TRIES: u8 = 3;

impl Gateway {
    /// A message of an XMPP user into a session, or behind those that wait in it.
    pub(in crate::xmpp::gateway) fn session_send(&mut self, id: u64, mut sent: Sent) {
        let Some(session) = self.sessions.map.get_mut(&id) else { return };
        session.xmpp = sent.from.clone();
        session.typing.to_sip = None;
        if session.state == State::Calling {
            if let Err(sent) = self.enqueue(id, sent) {
                self.bounce(&sent, "resource-constraint", "Too many messages wait");
            }
            return;
        }
        sent.session = Some(id);
        if session.thread.is_none() {
            session.thread = sent.text.thread.clone();
        }
        let headers = sent.text.headers();
        let body = Some(("text/plain;charset=UTF-8", sent.text.body.as_bytes()));
        let request = session.dialog.request(Method::Message, headers, body);
        // What is long is not kept for another try.
        let mut kept = sent.clone();
        if kept.text.body.len() > MAX_PAGER {
            (kept.text.body, kept.tries) = (String::new(), MAX_TRIES);
        }
        let full =
            self.core.send(&sent.from.domain, &request, Purpose::Message(Box::new(kept))).is_err();
        self.session_used(id);
        if full {
            self.message_answered(&sent, &Answer::without_response(500));
        }
    }

    /// A session for a message that cannot go without one.
    pub(in crate::xmpp::gateway) fn begin_session(&mut self, mut sent: Sent) {
        sent.tries += 1;
        if sent.tries > MAX_TRIES {
            return self.bounce(&sent, "service-unavailable", "");
        }
        if let Some(id) = self.session_of(&sent.to, &sent.from) {
            return self.session_send(id, sent);
        }
        let tag = self.core.fresh();
        let call_id = format!("{}@{}", self.core.fresh(), self.core.host);
        let dialog = Dialog::begin(call_id, &sent.from.sip, tag, &sent.to.sip);
        let (sip, xmpp, thread) = (sent.to.clone(), sent.from.clone(), sent.text.thread.clone());
        let Some(id) = self.new_session(dialog, &sip, &xmpp, thread, State::Calling) else {
            return self.bounce(&sent, "resource-constraint", "Too many sessions");
        };
        if let Err(sent) = self.enqueue(id, sent) {
            self.remove_session(id);
            return self.bounce(&sent, "resource-constraint", "Too many messages wait");
        }
        let Some(session) = self.sessions.map.get_mut(&id) else { return };
        let headers =
            vec![("Contact", name_addr(&session.xmpp.sip, None)), ("Accept", SDP.to_owned())];
        let sdp = offer();
        let request = session.dialog.request(Method::Invite, headers, Some((SDP, &sdp)));
        if self.core.send(&session.xmpp.domain, &request, Purpose::Invite(id)).is_err() {
            self.invite_answered(id, &Answer::without_response(500));
        }
    }

    /// What came of our INVITE.
    pub(in crate::xmpp::gateway) fn invite_answered(&mut self, id: u64, answer: &Answer<'_>) {
        let Some(session) = self.sessions.map.get_mut(&id) else {
            if let Some(response) = answer.response.filter(|_| answer.is_success()) {
                self.late_answer(response);
            }
            return;
        };
        let up = answer.is_success()
            && answer.response.is_some_and(|response| session.dialog.establish(response).is_ok());
        if !up {
            let (condition, text) = errors::told_of(answer.status.max(400));
            for sent in self.remove_session(id) {
                self.bounce(&sent, condition, text);
            }
            return;
        }
        let ack = session.dialog.request(Method::Ack, Vec::new(), None);
        self.core.send_ack(&ack);
        session.typing.is_composing = answer.response.is_some_and(takes_is_composing);
        session.state = State::Up;
        let queue = std::mem::take(&mut session.queue);
        self.session_used(id);
        for sent in queue {
            self.core.queued = self.core.queued.saturating_sub(sent.text.body.len());
            self.session_send(id, sent);
        }
    }

    /// A 2xx for an INVITE of ours whose transaction is over: sent again, of another branch of a
    /// fork, or too late (RFC 3261 section 13.2.2.4). It is acknowledged; what is not the session's
    /// is ended.
    pub(in crate::xmpp::gateway) fn late_answer(&mut self, response: &Message) {
        let (Ok(from), Ok(to), Ok(call_id), Ok(cseq)) =
            (response.from(), response.to(), response.call_id(), response.cseq())
        else {
            return;
        };
        let Some(tag) =
            from.tag().filter(|tag| number(tag).is_some_and(|id| self.core.name(id) == **tag))
        else {
            return;
        };
        let mut dialog =
            Dialog::begin(call_id.to_owned(), from.uri.as_str(), tag.to_owned(), to.uri.as_str());
        dialog.local_cseq = cseq.number;
        if dialog.establish(response).is_err() {
            return;
        }
        let ack = dialog.request(Method::Ack, Vec::new(), None);
        self.core.send_ack(&ack);
        let session = match self.core.dialogs.get(tag) {
            Some(DialogOf::Session(id)) => self.sessions.map.get(id),
            _ => None,
        };
        let ours = session.is_some_and(|session| session.dialog.remote_tag == dialog.remote_tag);
        if !ours {
            let bye = dialog.request(Method::Bye, Vec::new(), None);
            let remote =
                Party::of_uri(&from.uri).map_or(self.core.host.clone(), |xmpp| xmpp.domain);
            let _ = self.core.send(&remote, &bye, Purpose::Nothing);
        }
    }

    /// A MESSAGE in a session was refused since there is no such session any more: the session is
    /// forgotten, and the message goes another way. `false`: it does not.
    pub(in crate::xmpp::gateway) fn session_lost(&mut self, id: u64, sent: &Sent) -> bool {
        if self.sessions.map.contains_key(&id) {
            for waiting in self.remove_session(id) {
                self.bounce(&waiting, "service-unavailable", "");
            }
        }
        if sent.tries >= MAX_TRIES {
            return false;
        }
        self.send_message(Sent { session: None, tries: sent.tries + 1, ..sent.clone() });
        true
    }

    /// Something a SIP user said without a MESSAGE.
    pub(super) fn say_in_session(&mut self, id: u64, body: String) {
        let Some(session) = self.sessions.map.get(&id) else { return };
        let text = Text { body, subject: None, lang: None, thread: session.thread.clone() };
        let (sip, xmpp) = (session.sip.clone(), session.xmpp.clone());
        let name = self.core.fresh();
        self.core.count_to_xmpp(&xmpp);
        self.core.stanza(&sip, &xmpp, text.stanza(&name, true));
    }
}
