//! SIP to XMPP and back: a user agent towards the servers inside, a server towards XMPP partners.
//!
//! Towards SIP it has one connection, within this program, to the proxy core: the proxy judges who
//! may write to whom, finds the way and fails over. That connection is reliable and keeps order, so
//! no SIP timer but those of RFC 3261 sections 17.1.1.2 (B), 17.1.2.2 (F), 13.3.1.4 (2xx) and 14 is
//! needed.
//!
//! | part | what it does | document |
//! | --- | --- | --- |
//! | [`address`] | users, as both sides write them | RFC 7247 section 6, XEP-0106 |
//! | [`errors`] | errors of one side as those of the other | RFC 7247 section 7 |
//! | [`io`] | inputs and outputs | |
//! | `ua` | requests, transactions, dialogs, answers | RFC 3261 |
//! | `content`, `cpim`, `document` | what bodies say | RFC 2046, RFC 3862 |
//! | `message` | messages without a session | RFC 7572 |
//! | `reports` | reports of delivery | RFC 5438, XEP-0184 |
//! | `session` | sessions as Lync has them, typing | RFC 7573, XEP-0085 |
//! | `presence` | presence both ways | RFC 8048 |
//! | `iq` | questions | RFC 6120 section 8.2.3 |
//!
//! What this module must never do: leave a SIP request without an answer or give it two, say
//! anything to a party that policy does not let it speak to at that moment, keep state without a
//! bound, write a body into a log, or put a character into a stanza or a header that ends it.

pub mod address;
mod bounds;
mod content;
mod core;
mod cpim;
mod document;
pub mod errors;
pub mod io;
mod iq;
mod message;
mod presence;
mod reports;
mod saved;
mod session;
mod status;
mod typing;
mod ua;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    domain::Domain,
    ids::IdMap,
    sip::{HeaderName, Message, Method, Via, build},
    xmpp::{
        io::{Pair, XmppRefusal},
        ns,
        settings::XmppPolicy,
        xml::Element,
    },
};

use self::{
    address::{Party, domain_of},
    bounds::Timer,
    core::{Core, DialogOf, number},
    io::{GatewayInput, GatewayOutput},
    message::{Held, Sender, Sent},
    presence::Presence,
    session::Sessions,
    ua::{ACCEPT, ALLOW, Answer, Reply},
};
pub use self::{
    bounds::GatewayLimits,
    core::GatewayCounters,
    saved::{MAX_SAVED, SavedGateway},
    status::{GatewayStatus, PartnerStatus},
};

/// Things that policy ended are ended by so many at one time: each says something to a server inside.
const SLICE: usize = 256;
/// Timers that are looked at by one call.
const TIMERS: usize = 1024;
/// Between two slices.
const PAUSE: Duration = Duration::from_millis(10);
/// And when there is no room for what is to be said.
const LONG_PAUSE: Duration = Duration::from_millis(500);

/// What a gateway is made with.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Our name in Via and Call-ID.
    pub host: Domain,
    /// Who may.
    pub policy: XmppPolicy,
    /// From the system's random numbers: tags, branches and ids are made of it.
    pub secret: [u8; 32],
    /// Bounds.
    pub limits: GatewayLimits,
}

/// What a request of ours is for.
#[derive(Debug)]
enum Purpose {
    /// A message.
    Message(Box<Sent>),
    /// A subscription, in the dialog with this tag of ours.
    Subscribe(u64, String),
    /// What a watcher is told.
    Notify(u64),
    /// A session.
    Invite(u64),
    /// An XMPP user types.
    Typing(typing::Two),
    /// Whatever comes of it.
    Nothing,
}

/// The gateway between SIP and XMPP. No sockets, no clock: hand in what came with [`handle`], and
/// call [`on_timeout`] when [`next_timeout`] has come.
///
/// [`handle`]: Gateway::handle
/// [`on_timeout`]: Gateway::on_timeout
/// [`next_timeout`]: Gateway::next_timeout
pub struct Gateway {
    core: Core<Purpose>,
    held: IdMap<u64, Held>,
    presence: Presence,
    sessions: Sessions,
    talks: typing::Talks,
    reports: reports::Reports,
    /// What policy no longer allows, and is not ended yet.
    ending: VecDeque<DialogOf>,
    ending_at: Option<Instant>,
}

impl Gateway {
    /// A gateway without state.
    pub fn new(now: Instant, config: GatewayConfig) -> Self {
        let GatewayConfig { host, policy, secret, limits } = config;
        Self {
            core: Core::new(now, host, policy, &secret, limits),
            held: IdMap::default(),
            presence: Presence::default(),
            sessions: Sessions::default(),
            talks: typing::Talks::default(),
            reports: reports::Reports::default(),
            ending: VecDeque::new(),
            ending_at: None,
        }
    }

    /// Takes what came.
    pub fn handle(&mut self, now: Instant, input: GatewayInput, out: &mut Vec<GatewayOutput>) {
        self.core.now = now.max(self.core.now);
        match input {
            GatewayInput::Sip(message) if message.is_request() => self.on_request(&message),
            GatewayInput::Sip(message) => self.on_response(&message),
            GatewayInput::Stanza { pair, stanza } => self.on_stanza(&pair, &stanza),
            GatewayInput::Undelivered { pair, stanza, condition, text } => {
                self.on_undelivered(&pair, &stanza, condition, &text);
            }
            GatewayInput::Passed { pair, stanza, acknowledged } => {
                self.message_passed(&pair, &stanza, acknowledged);
            }
        }
        out.append(&mut self.core.out);
    }

    /// When [`Gateway::on_timeout`] is wanted.
    pub fn next_timeout(&self) -> Option<Instant> {
        let returning = self.presence.returning.next_timeout();
        self.core.timers.next().into_iter().chain(self.ending_at).chain(returning).min()
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Instant, out: &mut Vec<GatewayOutput>) {
        self.core.now = now.max(self.core.now);
        if self.ending_at.is_some_and(|at| at <= self.core.now) {
            self.end_some();
        }
        self.returning_is_due();
        // What is left is due still, and comes next.
        for _ in 0..TIMERS {
            let Some(timer) = self.core.timers.pop(self.core.now) else { break };
            match timer {
                Timer::Client(id) => self.client_is_due(id),
                Timer::Held(id) => self.held_is_due(id),
                Timer::Watch(id) => self.watch_is_due(id),
                // It ends by itself.
                Timer::Subscription(id) if self.is_ending(DialogOf::Subscription(id)) => {}
                Timer::Subscription(id) => self.subscription_is_due(id),
                Timer::Session(id) if self.is_ending(DialogOf::Session(id)) => {}
                Timer::Session(id) => self.session_is_due(id),
            }
        }
        out.append(&mut self.core.out);
    }

    /// The name under which it speaks SIP, when that changed.
    pub fn set_host(&mut self, host: Domain) {
        self.core.host = host;
    }

    /// Another policy, in force from now on: what it no longer allows ends.
    pub fn set_policy(&mut self, now: Instant, policy: XmppPolicy, out: &mut Vec<GatewayOutput>) {
        self.core.now = now.max(self.core.now);
        self.core.policy = policy;
        let watches = self.forbidden_watches().map(DialogOf::Watch);
        let subscriptions = self.forbidden_subscriptions().map(DialogOf::Subscription);
        let sessions = self.forbidden_sessions().map(DialogOf::Session);
        self.ending = watches.chain(subscriptions).chain(sessions).collect();
        self.end_some();
        out.append(&mut self.core.out);
    }

    /// Ends some of what policy does not allow. What there is no room for now comes later; until
    /// then nothing is said for it.
    fn end_some(&mut self) {
        let most = self.ending.len().min(SLICE);
        let before = self.ending.len();
        for _ in 0..most {
            let Some(next) = self.ending.pop_front() else { break };
            if !self.end_forbidden(next) {
                self.ending.push_back(next);
            }
        }
        let pause = if self.ending.len() < before { PAUSE } else { LONG_PAUSE };
        self.ending_at = (!self.ending.is_empty()).then(|| self.core.now + pause);
    }

    /// Ends a thing that policy does not allow; `false`: not now.
    fn end_forbidden(&mut self, what: DialogOf) -> bool {
        let Some(remote) = self.forbidden(what) else { return true };
        if !self.core.has_room(&remote) {
            return false;
        }
        match what {
            DialogOf::Watch(id) => self.reject_watch(id),
            // Nothing more is said to the partner: the SIP side ends at once.
            DialogOf::Subscription(id) => self.forget(id),
            DialogOf::Session(id) => self.end_session(id, false),
        }
        true
    }

    /// The partner's domain of a thing that is there, and that policy does not allow.
    fn forbidden(&self, what: DialogOf) -> Option<Domain> {
        let (sip, xmpp, may_begin) = match what {
            DialogOf::Watch(id) => self.watch_parties(id).map(|(sip, xmpp)| (sip, xmpp, false)),
            DialogOf::Subscription(id) => {
                self.subscription_parties(id).map(|(sip, xmpp)| (sip, xmpp, true))
            }
            DialogOf::Session(id) => self.session_parties(id).map(|(sip, xmpp)| (sip, xmpp, false)),
        }?;
        let judged = match may_begin {
            true => self.core.may_begin(sip, xmpp),
            false => self.core.may_speak(sip, xmpp),
        };
        judged.is_err().then(|| xmpp.domain.clone())
    }

    /// Whether a thing still waits for its end: it must not be used any more.
    fn is_ending(&self, what: DialogOf) -> bool {
        !self.ending.is_empty() && self.forbidden(what).is_some()
    }

    fn on_response(&mut self, response: &Message) {
        let Some(status) = response.status() else { return };
        if response.validate().is_err() {
            return;
        }
        let via = response.list(HeaderName::Via).next();
        let branch = via.and_then(|via| Via::parse(via.value).ok()?.branch);
        let id = branch.and_then(|branch| number(branch.strip_prefix("z9hG4bK")?));
        let (Some(branch), Some(id)) = (branch, id) else { return };
        if !self.core.clients.of_response(id, branch, response) {
            let success = (200..300).contains(&status);
            let invites = response.cseq().is_ok_and(|cseq| cseq.method == Method::Invite);
            if success && invites {
                self.late_answer(response);
            }
            return;
        }
        if status < 200 {
            return self.core.rings(id);
        }
        let Some(client) = self.core.end_client(id) else { return };
        if let Some(invite) = client.invite.as_ref().filter(|_| status >= 300)
            && let Ok(ack) = build::ack(invite, response)
        {
            self.core.out.push(GatewayOutput::Sip(ack));
        }
        let answer = Answer { status, response: Some(response) };
        self.answered(client.purpose, &answer);
    }

    /// Timers B and F: as 408 (RFC 3261 section 8.1.3.1). What rings for too long is cancelled.
    fn client_is_due(&mut self, id: u64) {
        if self.core.cancels(id) {
            return;
        }
        if let Some(client) = self.core.end_client(id) {
            self.answered(client.purpose, &Answer::without_response(408));
        }
    }

    fn answered(&mut self, purpose: Purpose, answer: &Answer<'_>) {
        match purpose {
            Purpose::Message(sent) => self.message_answered(&sent, answer),
            Purpose::Subscribe(id, tag) => self.subscribe_answered(id, &tag, answer),
            Purpose::Notify(id) => self.notify_answered(id, answer),
            Purpose::Invite(id) => self.invite_answered(id, answer),
            Purpose::Typing(two) => self.typing_answered(&two, answer),
            Purpose::Nothing => {}
        }
    }

    /// Every request but ACK and BENOTIFY is answered once: here, in what is called here, or, when a
    /// message is held, in [`Gateway::release`].
    fn on_request(&mut self, request: &Message) {
        let Some(method) = request.method() else { return };
        let silent = matches!(method, Method::Ack | Method::Benotify);
        if let Err(fault) = request.validate() {
            if !silent {
                self.core.reply(request, &Reply::new(400).because(&fault.to_string()));
            }
            return;
        }
        if !silent
            && method != Method::Cancel
            && let Some(reply) = unsupported(request)
        {
            return self.core.reply(request, &reply);
        }
        let tag = request.to().ok().and_then(|to| to.tag());
        match (method, tag) {
            (Method::Ack, tag) => self.acknowledged(request, tag),
            (Method::Cancel, _) => self.on_cancel(request),
            (_, Some(tag)) => self.in_dialog(request, method, tag),
            (Method::Notify | Method::Benotify, None) => self.on_notify(request, None),
            (Method::Bye | Method::Info | Method::Update | Method::Prack, None) => {
                self.core.reply(request, &Reply::new(481));
            }
            (Method::Options, None) => self.options(request),
            (Method::Message | Method::Invite | Method::Subscribe, None) => {
                self.outside_dialogs(request, method);
            }
            (Method::Other(_), None) => {
                self.core.reply(request, &Reply::new(501).with("Allow", ALLOW))
            }
            _ => self.core.reply(request, &Reply::new(405).with("Allow", ALLOW)),
        }
    }

    fn options(&mut self, request: &Message) {
        let reply = Reply::new(200)
            .with("Allow", ALLOW)
            .with("Accept", ACCEPT)
            .with("Allow-Events", "presence");
        self.core.reply(request, &reply);
    }

    fn outside_dialogs(&mut self, request: &Message, method: Method<'_>) {
        let (sip, xmpp) = match self.parties(request) {
            Ok(parties) => parties,
            Err(refusal) => return self.core.reply(request, &refusal),
        };
        match method {
            Method::Message => self.on_pager(request, &sip, &xmpp),
            Method::Invite => self.on_invite(request, &sip, &xmpp),
            _ => self.on_sip_subscribe(request, &sip, &xmpp),
        }
    }

    /// Who writes to whom, if they may.
    fn parties(&mut self, request: &Message) -> Result<(Party, Party), Reply> {
        let bad = |what: &str| Reply::new(400).because(what);
        let from = request.from().map_err(|_| bad("From"))?;
        let sip = Party::of_uri(&from.uri).map_err(|fault| bad(&format!("From: {fault}")))?;
        let uri = request.request_uri().and_then(Result::ok).ok_or_else(|| bad("Request-URI"))?;
        let xmpp = Party::of_uri(&uri);
        let xmpp =
            xmpp.map_err(|fault| Reply::new(404).because(&format!("No XMPP user: {fault}")))?;
        if !self.core.is_local(&sip.domain) {
            return Err(Reply::new(403).because("From is not a domain of the gateway"));
        }
        match self.core.may_speak(&sip, &xmpp) {
            Ok(()) => Ok((sip, xmpp)),
            Err(reason) => {
                let text = format!("{} to {}", sip.jid, xmpp.jid);
                self.core.refused(reason, &xmpp.domain, text);
                let status = if reason == XmppRefusal::UnknownDomain { 404 } else { 403 };
                Err(Reply::new(status).because(&format!("Refused: {}", reason.name())))
            }
        }
    }

    fn acknowledged(&mut self, request: &Message, tag: Option<&str>) {
        match tag.and_then(|tag| self.core.dialogs.get(tag)) {
            Some(DialogOf::Session(id)) if self.session_has(*id, request) => {
                self.on_ack(request, *id)
            }
            _ => {}
        }
    }

    fn in_dialog(&mut self, request: &Message, method: Method<'_>, tag: &str) {
        let dialog = self.core.dialogs.get(tag).copied();
        let dialog = dialog.filter(|dialog| !self.is_ending(*dialog));
        match (method, dialog) {
            (Method::Notify | Method::Benotify, Some(DialogOf::Subscription(id))) => {
                self.on_notify(request, Some(id));
            }
            (Method::Notify | Method::Benotify, _) => self.on_notify(request, None),
            (Method::Subscribe, Some(DialogOf::Watch(id))) if self.watch_has(id, request) => {
                self.on_watch_subscribe(request, id);
            }
            (Method::Options, Some(_)) => self.options(request),
            (_, Some(DialogOf::Session(id))) if self.session_has(id, request) => {
                self.on_session_request(request, method, id);
            }
            _ => self.core.reply(request, &Reply::new(481)),
        }
    }

    /// A stanza of an XMPP partner.
    fn on_stanza(&mut self, pair: &Pair, stanza: &Element) {
        let (Some(from), Some(to)) = (stanza.attribute("from"), stanza.attribute("to")) else {
            return;
        };
        let in_pair = domain_of(from).as_ref() == Ok(&pair.remote)
            && domain_of(to).as_ref() == Ok(&pair.local);
        if stanza.ns() != ns::SERVER || !in_pair || !self.core.is_local(&pair.local) {
            self.core.counters.refused_xmpp += 1;
            let text = "from or to of a stanza is outside of what the stream proved".to_owned();
            return self.core.refused(XmppRefusal::InvalidFrom, &pair.remote, text);
        }
        if let Err(reason) = self.core.partner(&pair.remote) {
            self.core.counters.refused_xmpp += 1;
            return self.core.refused(reason, &pair.remote, format!("a stanza: {}", reason.name()));
        }
        // A domain alone is a server, or ours.
        let (from_user, to_user) = (Party::of_jid(from), Party::of_jid(to));
        let is_user = |jid: &str| jid.split('/').next().is_some_and(|bare| bare.contains('@'));
        if (is_user(from) && from_user.is_err()) || (is_user(to) && to_user.is_err()) {
            return self.answer_stanza(pair, stanza, "jid-malformed");
        }
        match (stanza.name(), from_user, to_user) {
            ("iq", from, to) => {
                let (from, to) = (from.ok(), to.ok());
                self.on_iq(from.as_ref(), to.as_ref(), &pair.local, &pair.remote, stanza);
            }
            ("message", Ok(xmpp), Ok(sip)) => self.on_message_stanza(&xmpp, &sip, stanza),
            ("presence", Ok(xmpp), Ok(sip)) => self.on_presence(&xmpp, &sip, stanza),
            ("message", Err(_), Ok(sip)) if stanza.attribute("type") == Some("error") => {
                let (condition, text) = errors::read(stanza);
                self.message_failed(&sip, &Sender::Server(&pair.remote), stanza, condition, &text);
            }
            ("message", ..) => self.answer_stanza(pair, stanza, "service-unavailable"),
            // To or of a server: nobody is there to be told.
            _ => {}
        }
    }

    fn answer_stanza(&mut self, pair: &Pair, stanza: &Element, condition: &str) {
        if let Some(answer) = errors::answer(stanza, condition, "") {
            self.core.counters.refused_xmpp += 1;
            self.core.stanza_as(&pair.local, &pair.remote, answer);
        }
    }

    /// A stanza of ours did not reach the partner.
    fn on_undelivered(&mut self, pair: &Pair, stanza: &Element, condition: &str, text: &str) {
        let of = |name: &str| stanza.attribute(name).and_then(|jid| Party::of_jid(jid).ok());
        let (Some(sip), Some(xmpp)) = (of("from"), of("to")) else { return };
        match stanza.name() {
            "message" => {
                self.message_failed(&sip, &Sender::Server(&pair.remote), stanza, condition, text)
            }
            "presence" => self.presence_failed(&sip, &xmpp, condition),
            _ => {}
        }
    }
}

/// 420 for what is required and not understood: nothing is.
fn unsupported(request: &Message) -> Option<Reply> {
    let required = request.headers(HeaderName::Require);
    let values: Vec<&str> =
        required.filter_map(|header| std::str::from_utf8(header.value).ok()).collect();
    (!values.is_empty()).then(|| Reply::new(420).with("Unsupported", values.join(", ")))
}
