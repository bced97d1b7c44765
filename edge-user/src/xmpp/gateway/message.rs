//! Messages without a session: MESSAGE and `<message/>` (RFC 7572).
//!
//! A MESSAGE is answered when the XMPP side says something about it: an error becomes the final
//! response, a receipt (XEP-0184) 200. An XMPP server that delivers says nothing, so without a word
//! the answer is
//!
//! - 200, a moment after the partner's server acknowledged the message (XEP-0198): what it has to say
//!   against it, such as that there is no such user, comes right behind;
//! - 202 (taken, and nobody knows more: RFC 3428 section 7), a second after the message was written
//!   to a stream without acks. A client has one message under way at a time (RFC 3428 section 8), so
//!   that a longer wait would be the pace of a whole chat;
//! - 202, when no stream could be had for long: that one cannot be had is told for as long as it can
//!   be, or a first message to a partner that is down would be lost without a word.

use std::time::{Duration, Instant};

use super::{
    Gateway, Purpose,
    address::Party,
    bounds::Timer,
    content,
    core::number,
    cpim::Content,
    errors,
    ua::{ALLOW, Answer, Reply, Request, line, name_addr},
};
use crate::{
    domain::Domain,
    sip::{Limits, Message, Method},
    xmpp::{
        io::{Pair, XmppRefusal},
        ns,
        settings::Chats,
        xml::Element,
    },
};

/// A MESSAGE outside of a session is no longer (RFC 3428 section 8).
pub const MAX_PAGER: usize = 1300;

/// How long after its ack something may still be said of a message.
const ACKNOWLEDGED: Duration = Duration::from_millis(300);
/// How long after it was written to a stream that acknowledges nothing.
const WRITTEN: Duration = Duration::from_secs(1);

/// A MESSAGE whose answer waits for a word from the XMPP side.
#[derive(Debug)]
pub(super) struct Held {
    /// An answer without a body: all that the final one takes over stands in it.
    template: Message,
    tag: String,
    /// The `id` of its stanza.
    name: String,
    sip: Party,
    xmpp: Party,
    in_session: bool,
    /// The partner's server has it.
    acknowledged: bool,
    due: Option<Instant>,
}

/// Who says something of a message.
#[derive(Debug)]
pub(super) enum Sender<'a> {
    /// The user.
    User(&'a Party),
    /// The user's server, or the streams on the way to it.
    Server(&'a Domain),
}

impl Sender<'_> {
    /// Whether it may say what became of a message for this user.
    pub fn may_say_of(&self, user: &Party) -> bool {
        match self {
            Sender::User(xmpp) => user.is_user(xmpp),
            Sender::Server(domain) => user.domain == **domain,
        }
    }
}

/// A stanza that went as a MESSAGE.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub from: Party,
    pub to: Party,
    pub id: Option<String>,
    pub chat: bool,
    /// A receipt was asked for.
    pub receipt: bool,
    pub text: Text,
    /// In which session.
    pub session: Option<u64>,
    /// How often another way was tried.
    pub tries: u8,
    /// The resource is none that SIP knows: to the user, wherever that is.
    pub bare: bool,
}

/// What a message says.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub body: String,
    pub subject: Option<String>,
    pub lang: Option<String>,
    pub thread: Option<String>,
}

impl Text {
    /// Of a stanza; `None`: it says nothing.
    fn of_stanza(stanza: &Element) -> Option<Self> {
        let pick = |name: &str| {
            let all = || stanza.children().filter(|child| child.is(ns::SERVER, name));
            all().find(|child| child.lang().is_none()).or_else(|| all().next())
        };
        let body = pick("body")?;
        let lang = body.lang().or_else(|| stanza.lang()).filter(|lang| content::is_lang(lang));
        let thread = stanza.child(ns::SERVER, "thread").map(|thread| thread.text().into_owned());
        Some(Self {
            body: body.text().into_owned(),
            subject: pick("subject")
                .map(|subject| line(&subject.text(), 256))
                .filter(|s| !s.is_empty()),
            lang: lang.map(str::to_owned),
            thread: thread.filter(|thread| is_thread(thread)),
        })
    }

    /// Of a request; `content`: what is in it.
    fn of_request(request: &Message, content: &Content<'_>) -> Option<Self> {
        let lang = request.headers_named("Content-Language").next();
        let lang = lang.and_then(|header| std::str::from_utf8(header.value).ok());
        Some(Self {
            body: content::text_of(&content.kind, content.body)?,
            subject: content.subject.clone(),
            lang: lang.filter(|lang| content::is_lang(lang)).map(str::to_owned),
            thread: None,
        })
    }

    /// `<message/>` without addresses.
    pub fn stanza(&self, id: &str, chat: bool) -> Element {
        let mut stanza = Element::new(ns::SERVER, "message").with("id", id);
        if chat {
            stanza.set("type", "chat");
        }
        if let Some(lang) = &self.lang {
            stanza.set_ns(ns::XML, "lang", lang.clone());
        }
        if let Some(subject) = &self.subject {
            stanza.push(Element::new(ns::SERVER, "subject").with_text(subject.clone()));
        }
        stanza.push(Element::new(ns::SERVER, "body").with_text(self.body.clone()));
        if let Some(thread) = &self.thread {
            stanza.push(Element::new(ns::SERVER, "thread").with_text(thread.clone()));
        }
        stanza.with_child(Element::new(ns::RECEIPTS, "request"))
    }

    /// Headers of a MESSAGE.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        if let Some(subject) = &self.subject {
            headers.push(("Subject", subject.clone()));
        }
        if let Some(lang) = &self.lang {
            headers.push(("Content-Language", lang.clone()));
        }
        headers
    }
}

/// What is kept of a thread: it is any text (RFC 6121 section 5.2.5).
fn is_thread(text: &str) -> bool {
    (1..=128).contains(&text.len()) && !text.chars().any(char::is_control)
}

impl Gateway {
    /// A MESSAGE of a SIP user, outside of a session.
    pub(super) fn on_pager(&mut self, request: &Message, sip: &Party, xmpp: &Party) {
        let tag = self.core.fresh();
        self.core.invite(sip, xmpp);
        self.note_talk(sip, xmpp);
        self.take_message(request, tag, sip, xmpp, None);
    }

    /// A MESSAGE becomes a stanza, or is answered. `session`: it is in one, with this thread.
    pub(super) fn take_message(
        &mut self,
        request: &Message,
        tag: String,
        sip: &Party,
        xmpp: &Party,
        session: Option<Option<String>>,
    ) {
        let in_session = session.is_some();
        let thread = session.flatten();
        let unread = Reply::new(415).with("Accept", content::ACCEPT);
        let Some(content) = Content::of(request) else {
            return self.core.reply_as(request, &tag, &unread);
        };
        if self.take_notice(&content, sip, xmpp, thread.as_deref()) {
            return self.core.reply_as(request, &tag, &Reply::new(200));
        }
        let Some(mut text) = Text::of_request(request, &content) else {
            return self.core.reply_as(request, &tag, &unread);
        };
        // A Call-ID often names a host inside: what goes out says no more than that two are the same.
        text.thread = match in_session {
            true => thread,
            false => request.call_id().ok().map(|call| self.core.alias("thread", sip, xmpp, call)),
        };
        if text.body.is_empty() {
            return self.core.reply_as(request, &tag, &Reply::new(200));
        }
        let id = self.core.id();
        let name = self.core.name(id);
        let stanza = text.stanza(&name, in_session);
        self.core.count_to_xmpp(xmpp);
        self.core.stanza(sip, xmpp, stanza);
        if let Some(asked) = content.asked {
            self.want_report((id, &name), (sip, xmpp), asked);
        }
        let answer = Reply::new(200).write(request, &tag);
        let template =
            answer.and_then(|bytes| Message::parse_datagram(bytes, &Limits::default()).ok());
        let Some(template) = template.filter(|_| self.held.len() < self.core.limits.held) else {
            // Nothing is lost but the word of what came of it.
            let status = if in_session { 200 } else { 202 };
            return self.core.reply_as(request, &tag, &Reply::new(status));
        };
        let (sip, xmpp) = (sip.clone(), xmpp.clone());
        let acknowledged = false;
        let mut held = Held { template, tag, name, sip, xmpp, in_session, acknowledged, due: None };
        let due = self.core.now + self.core.limits.hold;
        self.core.timers.set(&mut held.due, Timer::Held(id), Some(due));
        self.held.insert(id, held);
    }

    /// The message whose stanza had this id, between these two.
    fn held_by(&self, id: Option<&str>, sip: &Party, from: &Sender<'_>) -> Option<u64> {
        let name = id?;
        let id = number(name)?;
        let held = self.held.get(&id)?;
        let known = from.may_say_of(&held.xmpp);
        (known && held.name == name && held.sip.is_user(sip)).then_some(id)
    }

    pub(super) fn release(&mut self, id: u64, reply: &Reply) {
        let Some(mut held) = self.held.remove(&id) else { return };
        self.core.timers.set(&mut held.due, Timer::Held(id), None);
        self.core.reply_as(&held.template, &held.tag, reply);
    }

    /// A message is on its way, or with the partner's server.
    pub(super) fn message_passed(&mut self, pair: &Pair, name: &str, acknowledged: bool) {
        let Some(id) = number(name) else { return };
        let Some(held) = self.held.get_mut(&id) else { return };
        let of_pair = held.xmpp.domain == pair.remote && held.sip.domain == pair.local;
        if held.name != name || !of_pair {
            return;
        }
        held.acknowledged |= acknowledged;
        let due = self.core.now + if acknowledged { ACKNOWLEDGED } else { WRITTEN };
        let due = held.due.map_or(due, |before| before.min(due));
        self.core.timers.set(&mut held.due, Timer::Held(id), Some(due));
    }

    /// Nothing was heard of a message.
    pub(super) fn held_is_due(&mut self, id: u64) {
        let Some(held) = self.held.get(&id) else { return };
        let status = if held.in_session || held.acknowledged { 200 } else { 202 };
        self.release(id, &Reply::new(status));
    }

    /// The XMPP side could not deliver a message.
    pub(super) fn message_failed(
        &mut self,
        sip: &Party,
        from: &Sender<'_>,
        stanza: &Element,
        condition: &str,
        text: &str,
    ) {
        let name = stanza.attribute("id");
        let held = self.held_by(name, sip, from);
        self.report(name, sip, from, (false, held.is_some()));
        let Some(id) = held else {
            let says = stanza.child(ns::SERVER, "body").is_some();
            self.core.counters.late_errors += u64::from(says);
            return;
        };
        let full = self.held.get(&id).is_some_and(|held| held.xmpp.resource.is_some());
        let reply = self.refusal(condition, full, text, stanza);
        self.release(id, &reply);
    }

    /// The answer that a stanza error becomes.
    fn refusal(&self, condition: &str, full: bool, text: &str, stanza: &Element) -> Reply {
        let moved = match condition {
            "gone" | "redirect" => self.moved_to(stanza),
            _ => None,
        };
        let status = match (condition, &moved) {
            ("gone", Some(_)) => 301,
            ("redirect", None) => 480,
            _ => match errors::status_of(condition, full) {
                // Without a challenge these two say nothing that a client could act on.
                401 | 407 => 403,
                status => status,
            },
        };
        let mut reply = Reply::new(status).because(text);
        if status == 405 {
            reply = reply.with("Allow", ALLOW);
        }
        match moved {
            Some(to) if matches!(status, 301 | 302) => reply.with("Contact", name_addr(&to, None)),
            _ => reply,
        }
    }

    /// The new address in `<gone/>` or `<redirect/>`, when it is a user of an XMPP partner: nobody
    /// outside sends our users elsewhere.
    fn moved_to(&self, stanza: &Element) -> Option<String> {
        let error = stanza.child(ns::SERVER, "error")?;
        let moved = error.children().find(|child| matches!(child.name(), "gone" | "redirect"))?;
        let text = moved.text();
        let party = Party::of_jid(text.trim().strip_prefix("xmpp:")?).ok()?;
        self.core.partner(&party.domain).ok()?;
        Some(party.sip.as_ref().to_owned())
    }

    /// A `<message/>` of an XMPP user for a SIP user.
    pub(super) fn on_message_stanza(&mut self, xmpp: &Party, sip: &Party, stanza: &Element) {
        if stanza.attribute("type") == Some("error") {
            let (condition, text) = errors::read(stanza);
            return self.message_failed(sip, &Sender::User(xmpp), stanza, condition, &text);
        }
        if let Err(reason) = self.core.may_begin(sip, xmpp) {
            self.core.refuse_stanza(reason, sip, xmpp);
            return self.refuse(sip, xmpp, stanza, "service-unavailable", refusal_text(reason));
        }
        let is_room = |child: &Element| {
            child.is("http://jabber.org/protocol/muc#user", "x")
                || child.is("jabber:x:conference", "x")
        };
        match stanza.attribute("type") {
            Some("groupchat") => {
                return self.refuse(
                    sip,
                    xmpp,
                    stanza,
                    "service-unavailable",
                    "Rooms are not served here",
                );
            }
            // RFC 6121 section 8.5.2.1.1: nobody is there to read it.
            Some("headline") => return,
            _ if stanza.children().any(is_room) => {
                return self.refuse(
                    sip,
                    xmpp,
                    stanza,
                    "feature-not-implemented",
                    "Rooms are not served here",
                );
            }
            _ => {}
        }
        if let Some(received) = stanza.child(ns::RECEIPTS, "received") {
            self.receipt(sip, xmpp, received.attribute("id"));
        }
        self.chat_state(sip, xmpp, stanza);
        let Some(text) = Text::of_stanza(stanza).filter(|text| !text.body.is_empty()) else {
            return;
        };
        if text.body.len() > content::MAX_TEXT {
            return self.refuse(sip, xmpp, stanza, "policy-violation", "The message is too long");
        }
        let sent = Sent {
            from: xmpp.clone(),
            to: sip.clone(),
            id: stanza.attribute("id").map(str::to_owned),
            chat: stanza.attribute("type") == Some("chat"),
            receipt: stanza.child(ns::RECEIPTS, "request").is_some(),
            text,
            session: None,
            tries: 0,
            // A name that only presence gave: of a tuple, not of a GRUU.
            bare: self.is_tuple(xmpp, sip),
        };
        self.core.count_to_sip(xmpp);
        self.send_message(sent);
    }

    /// Into the session of these two, or without one.
    pub(super) fn send_message(&mut self, sent: Sent) {
        match self.session_of(&sent.to, &sent.from) {
            Some(session) => self.session_send(session, sent),
            None if sent.chat && self.core.policy.settings.chats == Chats::Sessions => {
                self.begin_session(sent)
            }
            None => self.send_pager(sent),
        }
    }

    fn send_pager(&mut self, sent: Sent) {
        let local_tag = self.core.fresh();
        // What others key by Call-ID is not for outsiders to choose.
        let call_id = match &sent.text.thread {
            Some(thread) => self.core.alias("call", &sent.to, &sent.from, thread),
            None => self.core.fresh(),
        };
        let call_id = format!("{call_id}@{}", self.core.host);
        let to = match sent.bare {
            true => sent.to.sip.as_ref().to_owned(),
            false => sent.to.full_sip(),
        };
        let request = Request {
            method: Method::Message,
            uri: &to,
            from: name_addr(&sent.from.full_sip(), Some(&local_tag)),
            to: name_addr(&sent.to.sip, None),
            call_id: &call_id,
            cseq: 1,
            routes: &[],
            headers: sent.text.headers(),
            body: Some(("text/plain;charset=UTF-8", sent.text.body.as_bytes())),
        };
        let long = request
            .write(&self.core.host, "z9hG4bK0123456789abcdef0123456789")
            .is_none_or(|bytes| bytes.len() > MAX_PAGER);
        if long {
            return self.begin_session(sent);
        }
        let purpose = Purpose::Message(Box::new(sent.clone()));
        if self.core.send(&sent.from.domain, &request, purpose).is_err() {
            self.message_answered(&sent, &Answer::without_response(500));
        }
    }

    /// What came of a MESSAGE of ours.
    pub(super) fn message_answered(&mut self, sent: &Sent, answer: &Answer<'_>) {
        if answer.is_success() {
            if sent.session.is_none() {
                self.note_talk(&sent.to, &sent.from);
            }
            if sent.receipt && answer.status == 200 {
                self.confirm(sent);
            }
            return;
        }
        // Lync's users have no messages but in sessions.
        if sent.session.is_none() && matches!(answer.status, 405 | 481 | 488 | 501) {
            return self.begin_session(sent.clone());
        }
        // RFC 5627 section 5.3 for a GRUU that nobody has, or that is away: as to the bare JID (RFC
        // 6121 section 8.5.3.2.1).
        let to_one = sent.session.is_none() && sent.to.resource.is_some() && !sent.bare;
        if to_one && matches!(answer.status, 404 | 410 | 480) {
            return self.send_message(Sent { bare: true, ..sent.clone() });
        }
        if let Some(session) = sent.session
            && answer.status == 481
            && self.session_lost(session, sent)
        {
            return;
        }
        let (condition, text) = errors::told_of(answer.status);
        self.bounce(sent, condition, text);
    }

    /// Delivered: the receipt that was asked for (XEP-0184 section 5.3).
    fn confirm(&mut self, sent: &Sent) {
        let Some(id) = &sent.id else { return };
        let mut stanza = Element::new(ns::SERVER, "message").with("id", self.core.fresh());
        if sent.chat {
            stanza.set("type", "chat");
        }
        let stanza =
            stanza.with_child(Element::new(ns::RECEIPTS, "received").with("id", id.clone()));
        self.core.stanza(&sent.to, &sent.from, stanza);
    }

    /// Tells an XMPP user that a message was not delivered.
    pub(super) fn bounce(&mut self, sent: &Sent, condition: &str, text: &str) {
        let stanza = Element::new(ns::SERVER, "message")
            .with_some("id", sent.id.clone())
            .with("type", "error")
            .with_child(errors::element(condition, &content::clean(text)));
        self.core.counters.refused_xmpp += 1;
        self.core.stanza(&sent.to, &sent.from, stanza);
    }

    /// Refuses a stanza, if it may be answered.
    pub(super) fn refuse(
        &mut self,
        sip: &Party,
        xmpp: &Party,
        stanza: &Element,
        condition: &str,
        text: &str,
    ) {
        if let Some(answer) = errors::answer(stanza, condition, text) {
            self.core.counters.refused_xmpp += 1;
            self.core.stanza_as(&sip.domain, &xmpp.domain, answer);
        }
    }

    /// A receipt of an XMPP user.
    fn receipt(&mut self, sip: &Party, xmpp: &Party, id: Option<&str>) {
        let from = Sender::User(xmpp);
        if let Some(held) = self.held_by(id, sip, &from) {
            self.release(held, &Reply::new(200));
        }
        self.report(id, sip, &from, (true, false));
    }
}

/// What may be said of it to outsiders.
fn refusal_text(reason: XmppRefusal) -> &'static str {
    match reason {
        XmppRefusal::NotInvited => "Whom you write to must have written first",
        _ => "",
    }
}
