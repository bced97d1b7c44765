//! Sessions: an INVITE dialog whose messages are MESSAGE requests in it, as Lync has them, and a
//! chat with a thread (RFC 7573, with the SIP dialog in the place of MSRP).
//!
//! | SIP | XMPP |
//! | --- | --- |
//! | Call-ID | `<thread/>`, a keyed hash of it |
//! | MESSAGE | `<message type='chat'/>` |
//! | INFO with keyboard activity, isComposing (RFC 3994) | chat states (XEP-0085) |
//! | BYE | `<gone/>` |
//!
//! A session begins with an INVITE of a SIP user, or when an XMPP user's message cannot go without
//! one. MSRP, audio and video are refused with 488.

mod incoming;
mod offer;
mod outgoing;
pub(in crate::xmpp::gateway) mod typing;

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Gateway, Purpose,
    address::Party,
    bounds::{Key, NO_ROOM, Quota, Timer, key},
    core::DialogOf,
    io::GatewayOutput,
    message::Sent,
    ua::{Dialog, GIVE_UP, Reply, T1, T2},
};
use crate::{
    ids::IdMap,
    sip::{Message, Method},
};

use self::typing::Typing;

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Our INVITE waits for its answer.
    Calling,
    /// Messages go both ways.
    Up,
}

/// A 2xx that waits for its ACK (RFC 3261 section 13.3.1.4).
#[derive(Debug)]
struct Unacknowledged {
    answer: Bytes,
    cseq: u32,
    /// The branch of its INVITE: a CANCEL has it too.
    branch: String,
    next: Instant,
    wait: Duration,
    give_up: Instant,
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    dialog: Dialog,
    sip: Party,
    /// With the resource that wrote last.
    xmpp: Party,
    thread: Option<String>,
    state: State,
    answer: Option<Unacknowledged>,
    idle_at: Instant,
    /// What waits for the answer to our INVITE.
    queue: VecDeque<Sent>,
    typing: Typing,
    due: Option<Instant>,
}

/// Every session.
#[derive(Default)]
pub(super) struct Sessions {
    map: IdMap<u64, Session>,
    /// The newest of each pair of users.
    by_pair: HashMap<Key, u64>,
    /// Those that wait for an ACK, by the branch of the INVITE.
    by_branch: HashMap<String, u64>,
    pub quota: Quota,
}

impl Sessions {
    /// A 2xx waits for its ACK, or none does any more.
    fn set_answer(&mut self, id: u64, answer: Option<Unacknowledged>) {
        let Some(session) = self.map.get_mut(&id) else { return };
        if let Some(before) = session.answer.take() {
            self.by_branch.remove(&before.branch);
        }
        if let Some(answer) = &answer {
            self.by_branch.insert(answer.branch.clone(), id);
        }
        session.answer = answer;
    }
}

impl Gateway {
    /// The session of two users.
    pub(super) fn session_of(&self, sip: &Party, xmpp: &Party) -> Option<u64> {
        self.sessions.by_pair.get(&key(sip, xmpp)).copied()
    }

    /// Whether a request belongs to it.
    pub(super) fn session_has(&self, id: u64, request: &Message) -> bool {
        self.sessions.map.get(&id).is_some_and(|session| session.dialog.has(request))
    }

    /// A session, if these two may have one more.
    fn new_session(
        &mut self,
        dialog: Dialog,
        sip: &Party,
        xmpp: &Party,
        thread: Option<String>,
        state: State,
    ) -> Option<u64> {
        let entry = self.core.entry(&xmpp.domain);
        if !self.sessions.quota.take(sip, xmpp, &entry, &self.core.limits) {
            self.core.counters.full += 1;
            return None;
        }
        let id = self.core.id();
        self.core.dialogs.insert(dialog.local_tag.clone(), DialogOf::Session(id));
        self.sessions.by_pair.insert(key(sip, xmpp), id);
        let session = Session {
            dialog,
            sip: sip.clone(),
            xmpp: xmpp.clone(),
            thread,
            state,
            answer: None,
            idle_at: self.core.now,
            queue: VecDeque::new(),
            typing: Typing::default(),
            due: None,
        };
        self.sessions.map.insert(id, session);
        self.session_used(id);
        Some(id)
    }

    /// Something was said: it is not idle.
    fn session_used(&mut self, id: u64) {
        if let Some(session) = self.sessions.map.get_mut(&id) {
            session.idle_at = self.core.now + self.core.limits.session_idle;
        }
        self.arm_session(id);
    }

    fn arm_session(&mut self, id: u64) {
        let Some(session) = self.sessions.map.get_mut(&id) else { return };
        let resend = session.answer.as_ref().map(|answer| answer.next);
        let when = resend.map_or(session.idle_at, |resend| resend.min(session.idle_at));
        self.core.timers.set(&mut session.due, Timer::Session(id), Some(when));
    }

    /// Answers an INVITE, again and again until the ACK comes.
    fn answer_invite(&mut self, id: u64, request: &Message, reply: &Reply) {
        let Some(session) = self.sessions.map.get_mut(&id) else { return };
        let Some(answer) = reply.write(request, &session.dialog.local_tag) else {
            return self.core.reply(request, &Reply::new(500));
        };
        self.core.out.push(GatewayOutput::Sip(answer.clone()));
        let branch = request.via().ok().and_then(|via| via.branch).unwrap_or_default().to_owned();
        let answer = Unacknowledged {
            answer,
            cseq: request.cseq().map(|cseq| cseq.number).unwrap_or_default(),
            branch,
            next: self.core.now + T1,
            wait: T1,
            give_up: self.core.now + GIVE_UP,
        };
        self.sessions.set_answer(id, Some(answer));
        self.session_used(id);
    }

    pub(super) fn session_is_due(&mut self, id: u64) {
        let now = self.core.now;
        let Some(session) = self.sessions.map.get_mut(&id) else { return };
        session.due = None;
        let over = session.answer.as_ref().is_some_and(|answer| answer.give_up <= now);
        if (over || session.idle_at <= now) && !self.core.has_room(&session.xmpp.domain) {
            // Its BYE would be lost.
            self.core.timers.set(&mut session.due, Timer::Session(id), Some(now + NO_ROOM));
            return;
        }
        if session.idle_at <= now {
            return self.end_session(id, true);
        }
        match &mut session.answer {
            Some(answer) if answer.give_up <= now => return self.end_session(id, true),
            Some(answer) if answer.next <= now => {
                self.core.out.push(GatewayOutput::Sip(answer.answer.clone()));
                answer.wait = (answer.wait * 2).min(T2);
                answer.next = (now + answer.wait).min(answer.give_up);
            }
            _ => {}
        }
        self.arm_session(id);
    }

    /// Ends it on both sides: BYE, and `<gone/>` where `tell` says so.
    pub(super) fn end_session(&mut self, id: u64, tell: bool) {
        let Some(session) = self.sessions.map.get_mut(&id) else { return };
        if session.dialog.remote_tag.is_some() {
            let request = session.dialog.request(Method::Bye, Vec::new(), None);
            // Whatever comes of it.
            let _ = self.core.send(&session.xmpp.domain, &request, Purpose::Nothing);
        }
        if tell {
            self.say_gone(id);
        }
        self.remove_session(id);
    }

    /// Forgets it. What waited in it is given back.
    fn remove_session(&mut self, id: u64) -> VecDeque<Sent> {
        self.sessions.set_answer(id, None);
        let Some(mut session) = self.sessions.map.remove(&id) else { return VecDeque::new() };
        self.core.timers.set(&mut session.due, Timer::Session(id), None);
        self.core.dialogs.remove(&session.dialog.local_tag);
        self.sessions.quota.give(&session.sip, &session.xmpp);
        let key = key(&session.sip, &session.xmpp);
        if self.sessions.by_pair.get(&key) == Some(&id) {
            self.sessions.by_pair.remove(&key);
        }
        for sent in &session.queue {
            self.core.queued = self.core.queued.saturating_sub(sent.text.body.len());
        }
        session.queue
    }

    /// Puts a message behind those that wait. Without room it comes back.
    fn enqueue(&mut self, id: u64, sent: Sent) -> Result<(), Box<Sent>> {
        let limits = &self.core.limits;
        let bytes = self.core.queued + sent.text.body.len();
        match self.sessions.map.get_mut(&id) {
            Some(session) if session.queue.len() < limits.queue && bytes <= limits.queue_bytes => {
                session.queue.push_back(sent);
                self.core.queued = bytes;
                Ok(())
            }
            _ => {
                self.core.counters.full += 1;
                Err(Box::new(sent))
            }
        }
    }

    /// Sessions that policy does not allow.
    pub(super) fn forbidden_sessions(&self) -> impl Iterator<Item = u64> {
        let all = self.sessions.map.iter();
        all.filter(|(_, session)| self.core.may_speak(&session.sip, &session.xmpp).is_err())
            .map(|(id, _)| *id)
    }

    /// Our tag in the dialog with this Call-ID.
    #[cfg(test)]
    pub(super) fn sessions_of_call(&self, call_id: &str) -> Option<&str> {
        let mut all = self.sessions.map.values().map(|session| &session.dialog);
        all.find(|dialog| dialog.call_id == call_id).map(|dialog| &*dialog.local_tag)
    }

    /// Those that wait for an ACK are found by the branch of their INVITE.
    #[cfg(test)]
    pub(super) fn is_indexed(&self) -> bool {
        let waiting: HashMap<&str, u64> = self
            .sessions
            .map
            .iter()
            .filter_map(|(id, session)| Some((&*session.answer.as_ref()?.branch, *id)))
            .collect();
        waiting.len() == self.sessions.by_branch.len()
            && waiting.iter().all(|(branch, id)| self.sessions.by_branch.get(*branch) == Some(id))
    }

    pub(super) fn session_parties(&self, id: u64) -> Option<(&Party, &Party)> {
        self.sessions.map.get(&id).map(|session| (&session.sip, &session.xmpp))
    }
}
