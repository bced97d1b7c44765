//! Typing of an XMPP user that a SIP user sees without a session: isComposing in a MESSAGE
//! (RFC 3994), between two who have spoken a short while ago. Lync's users are told in sessions
//! alone: a state by itself begins none.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Gateway, Purpose,
    address::Party,
    session::typing::{IS_COMPOSING, is_composing},
    ua::{Answer, Request, name_addr},
};
use crate::{
    sip::Method,
    xmpp::{ns, settings::Chats, xml::Element},
};

/// The bare JIDs of a SIP user and an XMPP user.
pub(super) type Two = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Talk {
    /// Its place in the order.
    place: u64,
    /// When one wrote to the other last.
    at: Instant,
    /// The SIP side was told that the other types.
    typing: bool,
    /// It does not take that.
    refused: bool,
}

/// Who speaks with whom without a session. The oldest goes when there are too many.
#[derive(Debug, Default)]
pub(super) struct Talks {
    all: HashMap<Two, Talk>,
    order: BTreeMap<u64, Two>,
    last: u64,
}

fn two(sip: &Party, xmpp: &Party) -> Two {
    (Arc::clone(&sip.jid), Arc::clone(&xmpp.jid))
}

impl Talks {
    /// One wrote to the other, which ends typing (RFC 3994 section 3.3).
    fn note(&mut self, now: Instant, two: Two, (idle, most): (Duration, usize)) {
        self.last += 1;
        let before = self.all.remove(&two);
        if let Some(before) = &before {
            self.order.remove(&before.place);
        }
        let refused = before.is_some_and(|talk| talk.refused && now < talk.at + idle);
        let talk = Talk { place: self.last, at: now, typing: false, refused };
        self.order.insert(self.last, two.clone());
        self.all.insert(two, talk);
        while self.all.len() > most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.all.remove(&oldest);
        }
    }
}

impl Gateway {
    /// One of these two wrote to the other without a session.
    pub(super) fn note_talk(&mut self, sip: &Party, xmpp: &Party) {
        let bounds = (self.core.limits.session_idle, self.core.limits.held);
        self.talks.note(self.core.now, two(sip, xmpp), bounds);
    }

    /// A chat state of an XMPP user who is in no session with this SIP user.
    pub(super) fn state_without_session(
        &mut self,
        sip: &Party,
        xmpp: &Party,
        (state, stanza): (&str, &Element),
    ) {
        let typing = match state {
            "composing" => true,
            "paused" | "active" | "inactive" | "gone" => false,
            _ => return,
        };
        let (now, idle) = (self.core.now, self.core.limits.session_idle);
        let two = two(sip, xmpp);
        let Some(talk) = self.talks.all.get_mut(&two) else { return };
        let sessions = self.core.policy.settings.chats == Chats::Sessions;
        if sessions || talk.refused || talk.typing == typing || now >= talk.at + idle {
            return;
        }
        talk.typing = typing;
        let thread = stanza.child(ns::SERVER, "thread").map(|thread| thread.text().into_owned());
        let call = match thread.filter(|thread| !thread.is_empty()) {
            Some(thread) => self.core.alias("call", sip, xmpp, &thread),
            None => self.core.fresh(),
        };
        let body = is_composing(if typing { "active" } else { "idle" });
        self.notice((sip, xmpp), &call, (IS_COMPOSING, body.as_bytes()), Purpose::Typing(two));
    }

    /// Tells a SIP user something of an XMPP user's that is no message, without a session. `call`: what
    /// Call-ID begins with. Where there is no room, it is not told.
    pub(super) fn notice(
        &mut self,
        (sip, xmpp): (&Party, &Party),
        call: &str,
        body: (&str, &[u8]),
        purpose: Purpose,
    ) {
        let local_tag = self.core.fresh();
        let call_id = format!("{call}@{}", self.core.host);
        let request = Request {
            method: Method::Message,
            uri: sip.sip.as_ref(),
            from: name_addr(&xmpp.full_sip(), Some(&local_tag)),
            to: name_addr(&sip.sip, None),
            call_id: &call_id,
            cseq: 1,
            routes: &[],
            headers: Vec::new(),
            body: Some(body),
        };
        let _ = self.core.send(&xmpp.domain, &request, purpose);
    }

    /// Whoever does not take it is not told again while the two speak.
    pub(super) fn typing_answered(&mut self, two: &Two, answer: &Answer<'_>) {
        if let Some(talk) = self.talks.all.get_mut(two) {
            talk.refused |= !answer.is_success();
        }
    }
}
