//! What all parts of the gateway share: settings, numbers, timers, transactions, outputs.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ring::hmac;

use super::{
    address::Party,
    io::GatewayOutput,
    ua::{Client, Clients, GIVE_UP, RINGING, Reply, Request},
};
use crate::{
    domain::Domain,
    federation::UserName,
    sip::{Limits, Message, Method, build},
    xmpp::{
        io::{Pair, XmppEvent, XmppRefusal},
        settings::{XmppPartner, XmppPartnerKind, XmppPolicy},
        xml::Element,
    },
};

/// Bounds of the gateway's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Requests of ours that wait for an answer.
    pub transactions: usize,
    /// Messages from SIP users that wait for a word from the XMPP side.
    pub held: usize,
    /// How long they wait.
    pub hold: Duration,
    /// Sessions, subscriptions each way: of each kind.
    pub total: usize,
    /// Of them, of one SIP user.
    pub per_user: usize,
    /// Of them, of one partner's domain.
    pub per_partner: usize,
    /// Resources of one user.
    pub resources: usize,
    /// Messages that wait in one session.
    pub queue: usize,
    /// Pairs of users of which the SIP user began.
    pub invited: usize,
    /// A session without a message ends then.
    pub session_idle: Duration,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            transactions: 20_000,
            held: 10_000,
            hold: Duration::from_secs(5),
            total: 50_000,
            per_user: 1000,
            per_partner: 20_000,
            resources: 16,
            queue: 20,
            invited: 100_000,
            session_idle: Duration::from_secs(600),
        }
    }
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A client transaction.
    Client(u64),
    /// A message that is held.
    Held(u64),
    /// A subscription of a SIP user.
    Watch(u64),
    /// A subscription of an XMPP user.
    Subscription(u64),
    /// A session.
    Session(u64),
}

/// Every timer; each thing has one at most.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Sets, moves or ends a timer; `slot` remembers it.
    pub fn set(&mut self, slot: &mut Option<Instant>, timer: Timer, when: Option<Instant>) {
        if let Some(before) = slot.take() {
            self.due.remove(&(before, timer));
        }
        if let Some(when) = when {
            self.due.insert((when, timer));
            *slot = Some(when);
        }
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(when, _)| *when)
    }

    /// Takes one that is due.
    pub fn pop(&mut self, now: Instant) -> Option<Timer> {
        let (when, timer) = *self.due.first()?;
        if when > now {
            return None;
        }
        self.due.remove(&(when, timer));
        Some(timer)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.due.len()
    }
}

/// A SIP user and an XMPP user, by their bare JIDs, in that order.
pub(super) type Key = (Arc<str>, Arc<str>);

/// The key of two users.
pub(super) fn key(sip: &Party, xmpp: &Party) -> Key {
    (sip.jid.clone(), xmpp.jid.clone())
}

/// Pairs of users of which the SIP user began; the oldest goes when there are too many.
#[derive(Debug, Default)]
pub(super) struct Invited {
    known: HashMap<Key, ()>,
    order: VecDeque<Key>,
}

impl Invited {
    fn put(&mut self, key: Key, most: usize) {
        if self.known.contains_key(&key) {
            return;
        }
        while self.order.len() >= most.max(1) {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        self.order.push_back(key.clone());
        self.known.insert(key, ());
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.order.len()
    }
}

/// How much of something a SIP user and a partner have.
#[derive(Debug, Default)]
pub(super) struct Quota {
    total: usize,
    users: HashMap<Arc<str>, usize>,
    partners: HashMap<Domain, usize>,
}

impl Quota {
    /// Takes one, if there is room.
    pub fn take(&mut self, sip: &Party, xmpp: &Party, limits: &GatewayLimits) -> bool {
        let user = self.users.get(&sip.jid).copied().unwrap_or(0);
        let partner = self.partners.get(&xmpp.domain).copied().unwrap_or(0);
        if self.total >= limits.total || user >= limits.per_user || partner >= limits.per_partner {
            return false;
        }
        self.total += 1;
        *self.users.entry(sip.jid.clone()).or_default() += 1;
        *self.partners.entry(xmpp.domain.clone()).or_default() += 1;
        true
    }

    /// Gives one back.
    pub fn give(&mut self, sip: &Party, xmpp: &Party) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.users.get_mut(&sip.jid) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&sip.jid);
            }
        }
        if let Some(count) = self.partners.get_mut(&xmpp.domain) {
            *count -= 1;
            if *count == 0 {
                self.partners.remove(&xmpp.domain);
            }
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.total
    }

    /// Partners that have any.
    pub fn partners(&self) -> impl Iterator<Item = (&Domain, usize)> {
        self.partners.iter().map(|(domain, count)| (domain, *count))
    }
}

/// Which thing a dialog is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialogOf {
    /// A subscription of a SIP user.
    Watch(u64),
    /// A subscription of an XMPP user.
    Subscription(u64),
    /// A session.
    Session(u64),
}

/// What went through, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayCounters {
    /// Messages to XMPP users.
    pub messages_to_xmpp: u64,
    /// Messages to SIP users.
    pub messages_to_sip: u64,
    /// Presence to XMPP users.
    pub presence_to_xmpp: u64,
    /// Presence to SIP users.
    pub presence_to_sip: u64,
    /// SIP requests that were refused here.
    pub refused_sip: u64,
    /// Stanzas that were refused here.
    pub refused_xmpp: u64,
    /// Refused since there was no room.
    pub full: u64,
    /// Messages of which nobody could be told that they were lost: the word came too late.
    pub late_errors: u64,
}

/// See the module.
pub(super) struct Core<P> {
    pub now: Instant,
    pub host: Domain,
    pub policy: XmppPolicy,
    pub limits: GatewayLimits,
    pub counters: GatewayCounters,
    pub clients: Clients<P>,
    pub timers: Timers,
    pub invited: Invited,
    /// Dialogs by our tag.
    pub dialogs: HashMap<String, DialogOf>,
    pub out: Vec<GatewayOutput>,
    key: hmac::Key,
    last: u64,
}

impl<P> Core<P> {
    pub fn new(
        now: Instant,
        host: Domain,
        policy: XmppPolicy,
        secret: &[u8; 32],
        limits: GatewayLimits,
    ) -> Self {
        Self {
            now,
            host,
            policy,
            limits,
            counters: GatewayCounters::default(),
            clients: Clients::default(),
            timers: Timers::default(),
            invited: Invited::default(),
            dialogs: HashMap::new(),
            out: Vec::new(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            last: 0,
        }
    }

    /// A number that was never used.
    pub fn id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A name for it that nobody can guess: [`number`] finds the id in it.
    pub fn name(&self, id: u64) -> String {
        let mac = hmac::sign(&self.key, &id.to_be_bytes());
        let mut name = format!("{id:x}-");
        for byte in mac.as_ref().iter().take(10) {
            name.push_str(&format!("{byte:02x}"));
        }
        name
    }

    /// A name that was never used.
    pub fn fresh(&mut self) -> String {
        let id = self.id();
        self.name(id)
    }

    /// Sends a request. Without room for it, or when it cannot be written, what it is for comes back.
    pub fn send(&mut self, request: &Request<'_>, purpose: P) -> Result<(), P> {
        if self.clients.len() >= self.limits.transactions {
            self.counters.full += 1;
            return Err(purpose);
        }
        let id = self.id();
        let branch = format!("z9hG4bK{}", self.name(id));
        let Some(bytes) = request.write(&self.host, &branch) else { return Err(purpose) };
        let invite = match request.method {
            Method::Invite => Message::parse_datagram(bytes.clone(), &Limits::default()).ok(),
            _ => None,
        };
        let method = request.method.known().unwrap_or("");
        let mut client = Client {
            branch,
            cseq: request.cseq,
            method,
            purpose,
            due: None,
            invite,
            rings: false,
            cancelled: false,
        };
        self.timers.set(&mut client.due, Timer::Client(id), Some(self.now + GIVE_UP));
        self.clients.insert(id, client);
        self.out.push(GatewayOutput::Sip(bytes));
        Ok(())
    }

    /// Sends a request that has no answer: ACK.
    pub fn send_ack(&mut self, request: &Request<'_>) {
        let branch = format!("z9hG4bK{}", self.fresh());
        if let Some(bytes) = request.write(&self.host, &branch) {
            self.out.push(GatewayOutput::Sip(bytes));
        }
    }

    /// A provisional response: timer B ends, timer C begins.
    pub fn rings(&mut self, id: u64) {
        let when = self.now + RINGING;
        let Some(client) = self.clients.get_mut(id) else { return };
        if client.invite.is_some() && !client.rings {
            client.rings = true;
            self.timers.set(&mut client.due, Timer::Client(id), Some(when));
        }
    }

    /// Cancels an INVITE that rings for too long (RFC 3261 section 9.1), once; `false`: it is over.
    pub fn cancels(&mut self, id: u64) -> bool {
        let when = self.now + GIVE_UP;
        let Some(client) = self.clients.get_mut(id) else { return false };
        let Some(invite) = client.invite.as_ref().filter(|_| client.rings && !client.cancelled)
        else {
            return false;
        };
        let Ok(cancel) = build::cancel(invite) else { return false };
        client.cancelled = true;
        client.due = None;
        self.timers.set(&mut client.due, Timer::Client(id), Some(when));
        self.out.push(GatewayOutput::Sip(cancel));
        true
    }

    /// Takes a transaction out.
    pub fn end_client(&mut self, id: u64) -> Option<Client<P>> {
        let mut client = self.clients.remove(id)?;
        self.timers.set(&mut client.due, Timer::Client(id), None);
        Some(client)
    }

    /// Answers a request; `tag` is ours.
    pub fn reply_as(&mut self, request: &Message, tag: &str, reply: &Reply) {
        if reply.status >= 400 {
            self.counters.refused_sip += 1;
        }
        if let Some(bytes) = reply.write(request, tag) {
            self.out.push(GatewayOutput::Sip(bytes));
        }
    }

    /// Answers a request with a tag of its own.
    pub fn reply(&mut self, request: &Message, reply: &Reply) {
        let tag = self.fresh();
        self.reply_as(request, &tag, reply);
    }

    /// Sends a stanza between two users; its `from` and `to` are set here.
    pub fn stanza(&mut self, from: &Party, to: &Party, stanza: Element) {
        self.stanza_as(
            &from.domain,
            &to.domain,
            stanza.with("from", from.full_jid()).with("to", to.full_jid()),
        );
    }

    /// Sends a stanza that names its `from` and `to`.
    pub fn stanza_as(&mut self, local: &Domain, remote: &Domain, stanza: Element) {
        let pair = Pair { local: local.clone(), remote: remote.clone() };
        self.out.push(GatewayOutput::Stanza { pair, stanza });
    }

    /// Something was refused.
    pub fn refused(&mut self, reason: XmppRefusal, domain: &Domain, text: String) {
        let domain = Some(domain.clone());
        self.out.push(GatewayOutput::Event(XmppEvent::Refused {
            reason,
            remote: None,
            domain,
            text,
        }));
    }

    /// Whether this is a domain of the gateway's: served here, and not by an XMPP server inside.
    pub fn is_local(&self, domain: &Domain) -> bool {
        let settings = &self.policy.settings;
        settings.domains.contains(domain)
            && !settings.inside.iter().any(|(domains, _)| domains.contains(domain))
    }

    /// The partner of a domain, or why it is none.
    pub fn partner(&self, domain: &Domain) -> Result<Arc<XmppPartner>, XmppRefusal> {
        if let Some(partner) = self.policy.partner(domain) {
            return Ok(partner.clone());
        }
        let policy = &self.policy;
        Err(match () {
            () if !policy.settings.enabled || !policy.federation.enabled() => XmppRefusal::Disabled,
            () if policy.federation.blocked_by(domain).is_some() => XmppRefusal::DomainBlocked,
            () => XmppRefusal::UnknownDomain,
        })
    }

    /// Whether a SIP user and an XMPP user may speak at all, whoever begins.
    pub fn may_speak(&self, sip: &Party, xmpp: &Party) -> Result<(), XmppRefusal> {
        self.partner(&xmpp.domain)?;
        let name = UserName::new(Some(sip.sip_user()), &sip.domain);
        match self.policy.federation.users().rights(&name).xmpp {
            true => Ok(()),
            false => Err(XmppRefusal::UserNoXmpp),
        }
    }

    /// Whether an XMPP user may begin.
    pub fn may_begin(&self, sip: &Party, xmpp: &Party) -> Result<(), XmppRefusal> {
        self.may_speak(sip, xmpp)?;
        let open = self.partner(&xmpp.domain)?.kind != XmppPartnerKind::PublicUnverified;
        match open || self.invited.known.contains_key(&key(sip, xmpp)) {
            true => Ok(()),
            false => Err(XmppRefusal::NotInvited),
        }
    }

    /// A SIP user wrote to an XMPP user, or subscribed.
    pub fn invite(&mut self, sip: &Party, xmpp: &Party) {
        self.invited.put(key(sip, xmpp), self.limits.invited);
    }

    /// Notes a refusal of a stanza.
    pub fn refuse_stanza(&mut self, reason: XmppRefusal, sip: &Party, xmpp: &Party) {
        self.counters.refused_xmpp += 1;
        let text = match reason {
            XmppRefusal::UserNoXmpp => {
                format!(
                    "{xmpp:?} to {}: the user may not federate over XMPP; allow it in [[user_policy]]",
                    sip.jid
                )
            }
            XmppRefusal::NotInvited => {
                format!("{xmpp:?} to {}: users of this partner must be invited first", sip.jid)
            }
            _ => format!("{xmpp:?} to {}: {}", sip.jid, reason.name()),
        };
        self.refused(reason, &xmpp.domain, text);
    }
}

/// The id in a name that [`Core::name`] made.
pub(super) fn number(name: &str) -> Option<u64> {
    let (id, _) = name.split_once('-')?;
    u64::from_str_radix(id, 16).ok()
}
