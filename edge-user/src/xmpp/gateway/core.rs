//! What all parts of the gateway share: settings, numbers, timers, transactions, outputs.

use std::{collections::HashMap, sync::Arc, time::Instant};

use ring::hmac;

use super::{
    address::Party,
    bounds::{GatewayLimits, Key, Timer, Timers, key, less},
    io::GatewayOutput,
    ua::{Client, Clients, GIVE_UP, RINGING, Reply, Request},
};
use crate::{
    domain::Domain,
    federation::UserName,
    sip::{Limits, Message, Method, build},
    xmpp::{
        io::{Pair, TO_MEND, XmppEvent, XmppRefusal},
        recent::Recent,
        settings::{XmppPartner, XmppPartnerKind, XmppPolicy},
        xml::Element,
    },
};

/// One partner has this part of the transactions at most.
const SHARE: usize = 4;

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
    /// Of them, of each partner.
    clients_of: HashMap<Domain, usize>,
    pub timers: Timers,
    /// A SIP user and an XMPP user whom it invited, where that is needed.
    pub invited: Recent<Key>,
    /// Messages, by partner: to it, and from it.
    pub messages: HashMap<Domain, (u64, u64)>,
    /// Bytes of messages that wait in sessions.
    pub queued: usize,
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
            clients_of: HashMap::new(),
            timers: Timers::default(),
            invited: Recent::default(),
            messages: HashMap::new(),
            queued: 0,
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

    /// What stands for a word of one side on the other: the same between the same two users, and
    /// nobody can choose it or read the word out of it.
    pub fn alias(&self, what: &str, sip: &Party, xmpp: &Party, word: &str) -> String {
        let mut mac = hmac::Context::with_key(&self.key);
        for part in [what, &sip.jid, &xmpp.jid, word] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.sign().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// A name that was never used.
    pub fn fresh(&mut self) -> String {
        let id = self.id();
        self.name(id)
    }

    /// Whether another request that users of `remote` cause may go out now.
    pub fn has_room(&self, remote: &Domain) -> bool {
        let of_it = self.clients_of.get(&self.entry(remote)).copied().unwrap_or(0);
        // What is slow for one partner's sake leaves room for the others.
        self.clients.len() < self.limits.transactions && of_it < self.share()
    }

    fn share(&self) -> usize {
        (self.limits.transactions / SHARE).max(1)
    }

    /// Sends a request that an XMPP user of `remote` caused. Without room for it, or when it cannot
    /// be written, what it is for comes back.
    pub fn send(&mut self, remote: &Domain, request: &Request<'_>, purpose: P) -> Result<(), P> {
        if !self.has_room(remote) {
            self.counters.full += 1;
            return Err(purpose);
        }
        let entry = self.entry(remote);
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
            entry,
            cseq: request.cseq,
            method,
            purpose,
            due: None,
            invite,
            rings: false,
            cancelled: false,
        };
        self.timers.set(&mut client.due, Timer::Client(id), Some(self.now + GIVE_UP));
        *self.clients_of.entry(client.entry.clone()).or_default() += 1;
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
        less(&mut self.clients_of, &client.entry);
        self.timers.set(&mut client.due, Timer::Client(id), None);
        Some(client)
    }

    /// A message to an XMPP user went out.
    pub fn count_to_xmpp(&mut self, xmpp: &Party) {
        self.counters.messages_to_xmpp += 1;
        self.messages.entry(xmpp.domain.clone()).or_default().0 += 1;
    }

    /// A message of an XMPP user came in. Its domain is a partner's: these are few.
    pub fn count_to_sip(&mut self, xmpp: &Party) {
        self.counters.messages_to_sip += 1;
        self.messages.entry(xmpp.domain.clone()).or_default().1 += 1;
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
        let text = match text.contains(TO_MEND) {
            true => text,
            false => format!("{text}{TO_MEND}{}", reason.mend()),
        };
        self.out.push(GatewayOutput::Event(XmppEvent::Refused {
            reason,
            remote: None,
            domain,
            claimed: None,
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

    /// The name of the partner that a domain is of; its own, when it is nobody's.
    pub fn entry(&self, domain: &Domain) -> Domain {
        let mut partners = self.policy.settings.partners.iter();
        partners.find(|partner| partner.is_of(domain)).map_or(domain, |own| &own.domain).clone()
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
        match open || self.invited.has(&key(sip, xmpp)) {
            true => Ok(()),
            false => Err(XmppRefusal::NotInvited),
        }
    }

    /// A SIP user wrote to an XMPP user, or subscribed. Only where it matters: what others write must
    /// not have it forgotten.
    pub fn invite(&mut self, sip: &Party, xmpp: &Party) {
        let kind = self.policy.partner(&xmpp.domain).map(|partner| partner.kind);
        if kind == Some(XmppPartnerKind::PublicUnverified) {
            self.invited.put(key(sip, xmpp), self.limits.invited);
        }
    }

    /// Notes a refusal of a stanza.
    pub fn refuse_stanza(&mut self, reason: XmppRefusal, sip: &Party, xmpp: &Party) {
        self.counters.refused_xmpp += 1;
        let text = match reason {
            XmppRefusal::UserNoXmpp => {
                format!("{xmpp:?} to {}: the user may not federate over XMPP", sip.jid)
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
