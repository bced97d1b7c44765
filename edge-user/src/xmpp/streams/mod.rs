//! The core of all streams between servers: bytes and DNS answers in, bytes, dials and stanzas out.
//! No sockets, no clock.
//!
//! | part | what it does | document |
//! | --- | --- | --- |
//! | `receive` | negotiation on streams that others open | RFC 6120, XEP-0178, XEP-0220 |
//! | `keys` | keys that others show us | XEP-0220 |
//! | `initiate` | negotiation on streams that we open | the same, RFC 7590 |
//! | `route` | where a pair goes: dials, failover, queues, back-off | XEP-0368 |
//! | `relay` | between partners and inside servers: whether it may, and fits | |
//! | `stanza` | what is judged of each stanza, acks, pings | RFC 6120 section 8.1, XEP-0198, XEP-0199 |
//! | `timers` | set-up, silence, idleness, expiry | RFC 6120 section 4.6, 13.7.2.3 |
//! | `pressure` | who is not listened to while a server inside does not keep up | |
//! | `rules` | who may speak to whom | |
//! | `ends`, `judge` | how streams end, and whether they may go on | RFC 6120 section 4.4, 4.9 |
//! | `proof` | what a stream proved, as types | RFC 6120 section 13.12 |
//! | `certify`, `dialback` | the two kinds of evidence | RFC 6120 section 13.7, XEP-0185, XEP-0220 |
//! | `methods` | what entries allow, and the oracle of outcomes | |
//! | `words` | what an operator reads of a refusal | |
//! | `status` | what an operator sees | RFC 7590 section 3.6 |
//!
//! What must never happen: a stanza of a pair that its stream did not prove is handed on (`proof`
//! makes that impossible to write); a dialback key is verified on the connection it came on, or by
//! an answer nobody asked for; SASL EXTERNAL is offered to an end whose certificate is not good.

mod address;
mod certify;
mod dialback;
mod ends;
mod initiate;
mod judge;
mod keys;
mod methods;
mod pressure;
mod proof;
mod receive;
mod relay;
mod route;
mod rules;
mod stanza;
mod status;
mod stream;
mod timers;
mod words;
mod write;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};

pub use methods::{Certificate, Methods, Outcome, OwnCertificates, Settings, expected};
pub use proof::{Delivery, How};
pub use status::{BackoffStatus, StreamStatus};
pub use stream::{Role, Traffic};

use self::{
    dialback::{Keys, Verifications},
    judge::Seen,
    relay::Both,
    route::{Backoff, Route},
    rules::{Denied, Rules, turned},
    stream::{Phase, RouteKey, Stream},
    timers::Timer,
};
use super::{
    io::{DialId, LookupId, StreamId, XmppEvent, XmppInput, XmppOutput, XmppRefusal},
    recent::Recent,
    settings::XmppPolicy,
    watch::WatchList,
    xml::{Element, XmlEvent, XmlFault, XmlLimits, XmlReader},
};
use crate::{domain::Domain, proxy::Secrets};

/// What the core is made with.
pub struct StreamsConfig {
    /// The policy in force.
    pub policy: XmppPolicy,
    /// Of dialback.
    pub secrets: Secrets,
    /// What our certificates are worth.
    pub own: OwnCertificates,
    /// Who keeps the watch list.
    pub watch: Box<dyn WatchList>,
    /// The time, in seconds since 1970.
    pub unix_seconds: u64,
}

/// Every stream.
pub struct Streams {
    rules: Rules,
    keys: Keys,
    random: SystemRandom,
    own: OwnCertificates,
    watch: Box<dyn WatchList>,
    /// Where the stanzas last came from of partners that are watched.
    sources: HashMap<Domain, IpAddr>,
    /// An instant, and the seconds since 1970 then.
    clock: (Instant, u64),
    streams: HashMap<StreamId, Stream>,
    routes: HashMap<RouteKey, Route>,
    /// Pair, address, and whether TLS comes first.
    dials: HashMap<DialId, (RouteKey, SocketAddr)>,
    lookups: HashMap<LookupId, RouteKey>,
    backoffs: HashMap<(super::io::XmppSide, Domain), Backoff>,
    verifications: Verifications,
    /// Pairs of users of which the one inside began.
    invited: Recent<Both>,
    /// Certificates by which domains proved themselves.
    seen: HashMap<(super::io::XmppSide, Domain), Seen>,
    /// Pings of ours by their id: the streams on which they went.
    pings: HashMap<String, StreamId>,
    due: BTreeSet<(Instant, Timer)>,
    next_id: u64,
    /// Streams on which an ack is to be asked for, after what is written now.
    ask_acks: Vec<StreamId>,
    /// Bytes for one stream that are not yet an output.
    writing: Option<(StreamId, Vec<u8>)>,
    out: Vec<XmppOutput>,
}

/// Why a stream is ended by us.
struct Fault {
    /// Stream error, if one is sent.
    condition: Option<&'static str>,
    reason: XmppRefusal,
    text: String,
}

impl Fault {
    fn new(condition: &'static str, reason: XmppRefusal, text: impl Into<String>) -> Self {
        Self { condition: Some(condition), reason, text: text.into() }
    }
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        Self::new(denied.condition(), denied.reason, denied.text)
    }
}

impl From<XmlFault> for Fault {
    fn from(fault: XmlFault) -> Self {
        Self::new(fault.condition, fault.reason, fault.text)
    }
}

impl Streams {
    /// With this policy, and no streams.
    pub fn new(now: Instant, config: StreamsConfig) -> Self {
        Self {
            rules: Rules::new(config.policy, 1),
            keys: Keys::new(config.secrets),
            random: SystemRandom::new(),
            own: config.own,
            watch: config.watch,
            sources: HashMap::new(),
            clock: (now, config.unix_seconds),
            streams: HashMap::new(),
            routes: HashMap::new(),
            dials: HashMap::new(),
            lookups: HashMap::new(),
            backoffs: HashMap::new(),
            verifications: Verifications::default(),
            invited: Recent::default(),
            seen: HashMap::new(),
            pings: HashMap::new(),
            due: BTreeSet::new(),
            next_id: 0,
            ask_acks: Vec::new(),
            writing: None,
            out: Vec::new(),
        }
    }

    /// Takes one input in.
    pub fn handle(&mut self, now: Instant, input: XmppInput, out: &mut Vec<XmppOutput>) {
        match input {
            XmppInput::Accepted { stream, side, remote, local: _, tls } => {
                self.accepted(now, stream, (side, remote), tls);
            }
            XmppInput::Connected { dial, stream, tls } => self.connected(now, dial, stream, tls),
            XmppInput::ConnectFailed { dial, fault } => self.connect_failed(now, dial, fault),
            XmppInput::Bytes { stream, bytes } => self.bytes(now, stream, &bytes),
            XmppInput::TlsDone { stream, tls } => self.tls_done(now, stream, tls),
            XmppInput::Closed { stream, fault } => self.closed(now, stream, fault),
            XmppInput::Resolved { lookup, result } => self.resolved(now, lookup, result),
            XmppInput::Full { stream } => self.full(now, stream),
            XmppInput::Drained { stream } => self.drained(now, stream),
            XmppInput::Send { pair, side, stanza } => {
                self.send(now, side, turned(side, pair), stanza);
            }
        }
        self.hand_out(out);
    }

    /// When [`on_timeout`](Self::on_timeout) is to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let first = self.due.first().map(|(at, _)| *at);
        first.into_iter().chain(self.verifications.next()).min()
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Instant, out: &mut Vec<XmppOutput>) {
        self.run_timers(now);
        self.hand_out(out);
    }

    /// Another policy is in force. Streams and queues that it does not allow end at once.
    pub fn set_policy(&mut self, now: Instant, policy: XmppPolicy, out: &mut Vec<XmppOutput>) {
        let epoch = self.rules.epoch + 1;
        let before = std::mem::replace(&mut self.rules, Rules::new(policy, epoch));
        self.sources.retain(|partner, _| self.rules.is_watched(partner));
        let mut ids: Vec<_> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.certify(now, id);
            if let Err(fault) = self.judge_anew(now, id, &before) {
                self.fail(now, id, fault);
            } else {
                self.arm(id);
            }
        }
        let mut keys: Vec<_> = self.routes.keys().cloned().collect();
        keys.sort_unstable();
        for key in keys {
            if let Err(denied) = self.rules.terms(key.side, &key.pair) {
                self.give_up(now, &key, "forbidden", &denied.text);
            }
        }
        self.hand_out(out);
    }

    /// The wall clock, now and then: certificates expire by it.
    pub fn set_clock(&mut self, now: Instant, unix_seconds: u64) {
        self.clock = (now, unix_seconds);
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            self.set_expiry(id);
            self.arm(id);
        }
    }

    /// What our certificates are worth, after they changed.
    pub fn set_own(&mut self, own: OwnCertificates) {
        self.own = own;
    }

    /// Other secrets of dialback are in force.
    pub fn set_secrets(&mut self, secrets: Secrets) {
        self.keys.change(secrets);
    }

    /// Ends the streams of a domain (`edge partner reset`), and forgets its failures. Says how many
    /// there were of both.
    pub fn close_domain(
        &mut self,
        now: Instant,
        domain: &Domain,
        out: &mut Vec<XmppOutput>,
    ) -> (usize, usize) {
        let failed = self.backoffs.len();
        self.backoffs.retain(|(_, failed), _| failed != domain);
        let failed = failed - self.backoffs.len();
        let of_it = |s: &&Stream| {
            s.remote.as_ref() == Some(domain) || s.proofs.iter().any(|p| p.pair.remote == *domain)
        };
        let mut ids: Vec<_> = self.streams.values().filter(of_it).map(|s| s.id).collect();
        ids.sort_unstable();
        for id in &ids {
            let text = "an administrator ended the streams of this domain";
            self.end(now, *id, Some("reset"), text, "remote-server-timeout");
        }
        self.hand_out(out);
        (ids.len(), failed)
    }

    /// Ends every stream in good order.
    pub fn shut_down(&mut self, now: Instant, out: &mut Vec<XmppOutput>) {
        let mut ids: Vec<_> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let text = "this server is shutting down";
            self.end(now, id, Some("system-shutdown"), text, "remote-server-timeout");
        }
        self.hand_out(out);
    }

    fn hand_out(&mut self, out: &mut Vec<XmppOutput>) {
        for id in std::mem::take(&mut self.ask_acks) {
            if self.streams.contains_key(&id) {
                self.write(id, &Element::new(super::ns::SM, "r"));
            }
        }
        self.flush();
        out.append(&mut self.out);
    }

    /// What was written becomes an output.
    fn flush(&mut self) {
        if let Some((stream, bytes)) = self.writing.take()
            && !bytes.is_empty()
        {
            self.out.push(XmppOutput::Write { stream, bytes: Bytes::from(bytes) });
        }
    }

    /// The buffer of what is written to a stream, in order with all other outputs for it.
    fn buffer(&mut self, id: StreamId) -> &mut Vec<u8> {
        if self.writing.as_ref().is_some_and(|(other, _)| *other != id) {
            self.flush();
        }
        &mut self.writing.get_or_insert_with(|| (id, Vec::with_capacity(512))).1
    }

    fn write(&mut self, id: StreamId, element: &Element) {
        // Nothing stands before a header, after an end, or within a handshake.
        let open = |stream: &Stream| {
            stream.header_sent && !matches!(stream.phase, Phase::Closing | Phase::Handshake)
        };
        if !self.streams.get(&id).is_some_and(open) {
            return;
        }
        let before = self.buffer(id).len();
        element.write(self.buffer(id));
        let length = self.buffer(id).len() - before;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.traffic.bytes_out += length as u64;
        }
    }

    fn push(&mut self, output: XmppOutput) {
        self.flush();
        self.out.push(output);
    }

    fn event(&mut self, event: XmppEvent) {
        self.out.push(XmppOutput::Event(event));
    }

    fn refused(&mut self, id: StreamId, reason: XmppRefusal, text: String) {
        let stream = self.streams.get(&id);
        let remote = stream.map(|stream| stream.address);
        let domain = stream.and_then(Stream::known_remote).cloned();
        let claimed = stream.filter(|_| domain.is_none()).and_then(|s| s.remote.clone());
        let text = words::whole(reason, stream, &text);
        self.event(XmppEvent::Refused { reason, remote, domain, claimed, text });
    }

    /// What our certificate for a domain of ours is worth to others.
    fn own_of(&self, local: &Domain) -> Certificate {
        self.own.get(local).copied().unwrap_or(Certificate::Valid)
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// An id that nobody can foretell.
    fn random_id(&mut self) -> String {
        let mut bytes = [0; 16];
        if self.random.fill(&mut bytes).is_err() {
            // Dialback keys are bound to it, not secured by it: unique is enough.
            bytes[..8].copy_from_slice(&self.id().to_be_bytes());
        }
        dialback::hex(&bytes)
    }

    fn unix_seconds(&self, now: Instant) -> u64 {
        self.clock.1 + now.saturating_duration_since(self.clock.0).as_secs()
    }

    fn reader(&self) -> XmlReader {
        let limits = self.rules.limits();
        XmlReader::new(XmlLimits::new(limits), limits.first_bytes)
    }

    fn subject(&self, id: StreamId) -> String {
        let tls = self.streams.get(&id).and_then(|stream| stream.tls.as_ref());
        certify::subject(tls).unwrap_or("none").to_owned()
    }

    /// Streams of an entry: ours, and those that have proved that they are its. Others name whom they
    /// like, and must not take a partner's places.
    fn count(&self, entry: &Domain) -> usize {
        let of_it = |stream: &&Stream| {
            let counts = stream.role == Role::Initiating || stream.is_proved();
            counts && stream.entry.as_ref() == Some(entry)
        };
        self.streams.values().filter(of_it).count()
    }

    fn bytes(&mut self, now: Instant, id: StreamId, bytes: &[u8]) {
        let rate = self.rules.limits().bytes_per_second;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.phase == Phase::Handshake {
            let text = "bytes came between STARTTLS and the handshake";
            return self.fail(now, id, Fault::new("policy-violation", XmppRefusal::Protocol, text));
        }
        stream.traffic.bytes_in += bytes.len() as u64;
        stream.last_in = now;
        stream.asked_at = None;
        if let Some(until) = stream.over_rate(now, bytes.len(), rate) {
            self.push(XmppOutput::Pause { stream: id, until });
        }
        let mut rest = bytes;
        // The stream may be gone after each event.
        while let Some(stream) = self.streams.get_mut(&id) {
            if stream.phase == Phase::Handshake {
                if !rest.is_empty() {
                    let text = "bytes came between STARTTLS and the handshake";
                    let fault = Fault::new("policy-violation", XmppRefusal::Protocol, text);
                    self.fail(now, id, fault);
                }
                return;
            }
            let result = match stream.reader.next(&mut rest) {
                Ok(None) => return,
                Ok(Some(event)) => self.xml(now, id, event),
                Err(fault) => Err(fault.into()),
            };
            if let Err(fault) = result {
                return self.fail(now, id, fault);
            }
        }
    }

    fn xml(&mut self, now: Instant, id: StreamId, event: XmlEvent) -> Result<(), Fault> {
        let Some(stream) = self.streams.get(&id) else {
            return Ok(());
        };
        let role = stream.role;
        match event {
            XmlEvent::StreamOpen(header) if role == Role::Receiving => {
                self.header_of_initiator(now, id, &header)
            }
            XmlEvent::StreamOpen(header) => self.header_of_receiver(id, &header),
            XmlEvent::StreamClose => {
                self.stream_closed(now, id);
                Ok(())
            }
            XmlEvent::Stanza(element) => self.element(now, id, element),
            XmlEvent::PassedOver(head, fault) => self.passed_over(now, id, &head, fault),
        }
    }
}
