//! Where a pair goes: the stream that carries it, or the way to one: DNS, dials in order, another
//! pair's stream (piggybacking), and what waits meanwhile.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    Fault, Streams, certify,
    dialback::Unverified,
    proof::Proofs,
    rules::{Terms, turned},
    stream::{Phase, Role, RouteKey, Stream},
    timers::Timer,
    words,
};
use crate::{
    domain::Domain,
    xmpp::{
        io::{
            DialId, LookupId, Pair, ResolveError, StreamId, TlsPeer, XmppEvent, XmppHost,
            XmppOutput, XmppRefusal, XmppSide, XmppTarget,
        },
        settings::Negotiation,
        xml::Element,
    },
};

/// The first failure is forgotten after so long; each further one doubles it.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
/// Up to this.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// Hosts that are tried for one pair.
const HOSTS: usize = 8;

/// A domain that could not be reached, and until when it is not tried again.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    since: Instant,
    pub(super) until: Instant,
    pub(super) failures: u32,
    pub(super) condition: &'static str,
    pub(super) text: String,
}

/// A pair for which we send.
#[derive(Default)]
pub(super) struct Route {
    /// The stream that carries it.
    pub(super) stream: Option<StreamId>,
    /// The way to one.
    pub(super) attempt: Option<Attempt>,
    queue: VecDeque<(Element, usize)>,
    queue_bytes: usize,
    /// Whether another pair's stream refused it.
    alone: bool,
    /// SASL failed where the other end may still use the stream both ways.
    pub(super) without_bidi: bool,
}

impl Backoff {
    /// Whether the domain is left alone. Who shows a key seems to be there again: soon that counts
    /// more than failures before.
    fn holds(&self, now: Instant, verifies: bool) -> bool {
        self.until > now && !(verifies && now >= self.since + FIRST_BACKOFF)
    }
}

impl Route {
    fn is_idle(&self) -> bool {
        self.stream.is_none() && self.attempt.is_none() && self.queue.is_empty()
    }
}

/// A way to a stream.
pub(super) struct Attempt {
    pub(super) step: Step,
    hosts: VecDeque<XmppHost>,
    /// What went wrong last.
    fault: String,
    condition: &'static str,
    /// It ends by then.
    until: Instant,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Lookup(LookupId),
    Dial(DialId),
    Stream(StreamId),
    Piggyback(StreamId),
}

impl Streams {
    /// A stanza is to go out; the pair is seen from the stream. Gives the stream on which it does.
    pub(super) fn send(
        &mut self,
        now: Instant,
        side: XmppSide,
        pair: Pair,
        stanza: Element,
    ) -> Option<StreamId> {
        let key = RouteKey { side, pair };
        if let Some(route) = self.routes.get(&key)
            && let Some(id) = route.stream
        {
            self.send_on(now, id, &key.pair, stanza);
            return Some(id);
        }
        self.send_later(now, key, stanza);
        None
    }

    /// A stanza waits for a stream.
    fn send_later(&mut self, now: Instant, key: RouteKey, stanza: Element) {
        let side = key.side;
        if let Err(denied) = self.rules.terms(side, &key.pair) {
            return self.undelivered(now, side, &key.pair, stanza, "forbidden", &denied.text);
        }
        let mut written = Vec::new();
        stanza.write(&mut written);
        let most = self.rules.limits().queue_bytes;
        let route = self.routes.entry(key.clone()).or_default();
        // One is always taken, however long: there may be a stream soon.
        if route.queue_bytes > 0 && route.queue_bytes + written.len() > most {
            let text = format!("too much waits for a stream to {}", key.pair.remote);
            let condition = "resource-constraint";
            return self.undelivered(now, side, &key.pair, stanza, condition, &text);
        }
        route.queue_bytes += written.len();
        route.queue.push_back((stanza, written.len()));
        self.begin(now, &key);
    }

    /// A key is to be verified: on a stream of ours to its domain, or on one that is made for it.
    pub(super) fn verify(&mut self, now: Instant, key: &RouteKey) {
        let of_it =
            |s: &&Stream| s.may_verify && s.home.as_ref() == Some(key) && s.phase != Phase::Closing;
        if let Some(id) = self.streams.values().find(of_it).map(|stream| stream.id) {
            // It is in use, and has time to answer.
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.last_stanza = now;
            }
            self.verify_on(id, key);
            return self.arm(id);
        }
        self.routes.entry(key.clone()).or_default();
        self.begin(now, key);
    }

    /// Begins the way to a stream, unless one is under way.
    fn begin(&mut self, now: Instant, key: &RouteKey) {
        if self.routes.get(key).is_none_or(|route| route.attempt.is_some()) {
            return;
        }
        let terms = match self.rules.terms(key.side, &key.pair) {
            Ok(terms) => terms,
            Err(denied) => return self.give_up(now, key, "forbidden", &denied.text),
        };
        let verifies = self.verifications.wants(key.side, &key.pair);
        if let Some(backoff) = self.backoffs.get(&(key.side, key.pair.remote.clone()))
            && backoff.holds(now, verifies)
        {
            let wait = (backoff.until - now).as_secs().max(1);
            let (condition, text) =
                (backoff.condition, format!("{} (tried again in {wait} s)", backoff.text));
            return self.give_up(now, key, condition, &text);
        }
        if let Some(id) = self.stream_to_share(key, &terms) {
            self.set_attempt(now, key, Step::Piggyback(id), VecDeque::new());
            return self.piggyback(now, id, &key.pair);
        }
        // A key is verified also when the partner's own streams leave no room.
        let full = !verifies && self.count(&terms.entry) >= terms.connections;
        if full || !self.has_room(now) {
            let text = format!(
                "as many streams as are allowed are open: no further one to {}",
                key.pair.remote
            );
            return self.give_up(now, key, "resource-constraint", &text);
        }
        let lookup = LookupId(self.id());
        self.lookups.insert(lookup, key.clone());
        self.set_attempt(now, key, Step::Lookup(lookup), VecDeque::new());
        let question = terms.question(&key.pair.remote);
        self.push(XmppOutput::Resolve { lookup, question });
    }

    fn set_attempt(&mut self, now: Instant, key: &RouteKey, step: Step, hosts: VecDeque<XmppHost>) {
        let until = now + self.rules.limits().setup;
        let Some(route) = self.routes.get_mut(key) else {
            return;
        };
        route.attempt = Some(Attempt {
            step,
            hosts,
            fault: "no server was tried".to_owned(),
            condition: "remote-server-timeout",
            until,
        });
        self.due.insert((until, Timer::Route(key.clone())));
    }

    /// A stream of ours to the same domain, for another domain of ours, that may carry this pair too
    /// (XEP-0220 section 2.6).
    fn stream_to_share(&self, key: &RouteKey, terms: &Terms) -> Option<StreamId> {
        if self.routes.get(key).is_none_or(|route| route.alone)
            || self.verifications.wants(key.side, &key.pair)
        {
            return None;
        }
        let of_it = |s: &&Stream| {
            s.role == Role::Initiating
                && s.side == key.side
                && s.phase == Phase::Open
                && s.is_proved()
                && s.offered.dialback
                && s.proofs.len() + s.asked_for.len() < Proofs::MOST
                && s.remote.as_ref() == Some(&key.pair.remote)
                && s.local.as_ref() != Some(&key.pair.local)
                && terms.methods.dialback(s.tls.is_some())
        };
        self.streams.values().filter(of_it).map(|stream| stream.id).min()
    }

    pub(super) fn resolved(
        &mut self,
        now: Instant,
        lookup: LookupId,
        result: Result<(Vec<XmppHost>, Instant), ResolveError>,
    ) {
        let Some(key) = self.lookups.remove(&lookup) else {
            return;
        };
        let awaited = self.routes.get(&key).and_then(|route| route.attempt.as_ref());
        if awaited.is_none_or(|attempt| attempt.step != Step::Lookup(lookup)) {
            return;
        }
        let tls = self.rules.terms(key.side, &key.pair).map(|terms| terms.tls);
        match result {
            Err(error) => {
                let condition = match error {
                    ResolveError::NotFound | ResolveError::NoService => "remote-server-not-found",
                    _ => "remote-server-timeout",
                };
                let text = format!(
                    "our stream to {0}, step DNS: DNS names no XMPP server of {0}: {error}",
                    key.pair.remote
                );
                self.back_off(now, &key, condition, &text);
            }
            Ok((hosts, _)) => {
                let plain = matches!(tls, Ok(Negotiation::NotSupported));
                let usable = |host: &XmppHost| !(host.direct_tls && plain);
                if let Some(attempt) = self.attempt(&key) {
                    attempt.hosts = hosts.into_iter().filter(usable).take(HOSTS).collect();
                }
                self.dial_next(now, &key);
            }
        }
    }

    fn attempt(&mut self, key: &RouteKey) -> Option<&mut Attempt> {
        self.routes.get_mut(key)?.attempt.as_mut()
    }

    /// The next address, or the end.
    fn dial_next(&mut self, now: Instant, key: &RouteKey) {
        let dial = DialId(self.id());
        let Some(attempt) = self.attempt(key) else {
            return;
        };
        let Some(host) = attempt.hosts.pop_front() else {
            let (condition, fault) = (attempt.condition, attempt.fault.clone());
            let text =
                format!("our stream to {0}: no server of {0} does: {fault}", key.pair.remote);
            return self.back_off(now, key, condition, &text);
        };
        attempt.step = Step::Dial(dial);
        let outer = turned(key.side, key.pair.clone());
        let target = XmppTarget {
            side: key.side,
            address: host.address,
            direct_tls: host.direct_tls,
            server_name: key.pair.remote.clone(),
            local: outer.local,
        };
        self.dials.insert(dial, (key.clone(), host.address));
        self.push(XmppOutput::Connect { dial, target });
    }

    pub(super) fn connect_failed(&mut self, now: Instant, dial: DialId, fault: String) {
        let Some((key, address)) = self.dials.remove(&dial) else {
            return;
        };
        if let Some(attempt) = self.attempt(&key)
            && attempt.step == Step::Dial(dial)
        {
            attempt.fault = format!("{address}, step connect: {fault}");
            attempt.condition = "remote-server-timeout";
            self.dial_next(now, &key);
        }
    }

    pub(super) fn connected(
        &mut self,
        now: Instant,
        dial: DialId,
        id: StreamId,
        tls: Option<TlsPeer>,
    ) {
        let dialled = self.dials.remove(&dial);
        let Some((key, address)) = dialled else {
            return self.push(XmppOutput::Close { stream: id });
        };
        let terms = self.rules.terms(key.side, &key.pair).ok();
        let (Some(attempt), Some(terms)) = (self.attempt(&key), terms) else {
            return self.push(XmppOutput::Close { stream: id });
        };
        if attempt.step != Step::Dial(dial) {
            return self.push(XmppOutput::Close { stream: id });
        }
        attempt.step = Step::Stream(id);
        let place = (key.side, address);
        let mut stream = Stream::new(now, id, Role::Initiating, place, self.reader());
        stream.direct_tls = tls.is_some();
        stream.tls = tls;
        stream.local = Some(key.pair.local.clone());
        stream.remote = Some(key.pair.remote.clone());
        stream.entry = Some(terms.entry);
        stream.home = Some(key);
        self.streams.insert(id, stream);
        self.set_expiry(id);
        self.certify(now, id);
        self.write_header_once(id);
        self.arm(id);
    }

    /// The same address is tried next, without bidi. `false`: this stream is no try of its pair.
    pub(super) fn again_without_bidi(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get(&id) else {
            return false;
        };
        let route = stream.home.as_ref().and_then(|key| self.routes.get_mut(key));
        let (Some(route), Some(remote)) = (route, stream.remote.clone()) else {
            return false;
        };
        let Some(attempt) = route.attempt.as_mut().filter(|a| a.step == Step::Stream(id)) else {
            return false;
        };
        let (address, direct_tls) = (stream.address, stream.direct_tls);
        attempt.hosts.push_front(XmppHost { host: remote, address, direct_tls });
        route.without_bidi = true;
        true
    }

    /// A stream may carry this pair: what waits goes out.
    pub(super) fn ready(&mut self, now: Instant, key: &RouteKey, id: StreamId) {
        let route = self.routes.entry(key.clone()).or_default();
        let serves = match &route.attempt {
            Some(attempt) => {
                matches!(attempt.step, Step::Stream(s) | Step::Piggyback(s) if s == id)
            }
            None => false,
        };
        if serves {
            self.end_attempt(key);
        }
        let Some(route) = self.routes.get_mut(key) else {
            return;
        };
        if route.stream.is_none() {
            route.stream = Some(id);
        }
        let waiting = std::mem::take(&mut route.queue);
        route.queue_bytes = 0;
        let stream = route.stream.unwrap_or(id);
        for (stanza, _) in waiting {
            self.send_on(now, stream, &key.pair, stanza);
        }
    }

    fn end_attempt(&mut self, key: &RouteKey) {
        let Some(route) = self.routes.get_mut(key) else {
            return;
        };
        if let Some(attempt) = route.attempt.take() {
            self.due.remove(&(attempt.until, Timer::Route(key.clone())));
        }
    }

    /// A stream is gone.
    pub(super) fn lost(&mut self, now: Instant, id: StreamId, text: &str) {
        let mut hit: Vec<_> = self
            .routes
            .iter()
            .filter(|(_, route)| {
                let by_step = route.attempt.as_ref().is_some_and(|attempt| {
                    matches!(attempt.step, Step::Stream(s) | Step::Piggyback(s) if s == id)
                });
                by_step || route.stream == Some(id)
            })
            .map(|(key, _)| key.clone())
            .collect();
        hit.sort_unstable();
        for key in hit {
            let Some(route) = self.routes.get_mut(&key) else {
                continue;
            };
            if route.stream == Some(id) {
                route.stream = None;
            }
            match route.attempt.as_mut().map(|attempt| (attempt.step, attempt)) {
                Some((Step::Stream(s), attempt)) if s == id => {
                    attempt.fault = text.to_owned();
                    self.dial_next(now, &key);
                }
                Some((Step::Piggyback(s), _)) if s == id => {
                    self.piggyback_failed(now, &key);
                }
                _ => {}
            }
            if self.routes.get(&key).is_some_and(Route::is_idle) {
                self.routes.remove(&key);
            }
        }
    }

    /// A stream ends in good order: what comes next finds another.
    pub(super) fn leave(&mut self, _now: Instant, id: StreamId) {
        for route in self.routes.values_mut() {
            if route.stream == Some(id) {
                route.stream = None;
            }
        }
        self.routes.retain(|_, route| !route.is_idle());
    }

    /// Another pair's stream does not take this pair: it gets its own.
    pub(super) fn piggyback_failed(&mut self, now: Instant, key: &RouteKey) {
        let Some(route) = self.routes.get_mut(key) else {
            return;
        };
        let piggyback = |a: &Attempt| matches!(a.step, Step::Piggyback(_));
        if route.attempt.as_ref().is_some_and(piggyback) {
            route.alone = true;
            self.end_attempt(key);
            self.begin(now, key);
        }
    }

    /// A whole attempt failed: the domain is left alone for a while.
    fn back_off(&mut self, now: Instant, key: &RouteKey, condition: &'static str, text: &str) {
        let domain = (key.side, key.pair.remote.clone());
        let failures = self.backoffs.get(&domain).map_or(0, |before| before.failures);
        // Keys that were verified on a stream that did no more are no failure.
        let needed = self.routes.get(key).is_some_and(|route| !route.queue.is_empty())
            || self.verifications.wants(key.side, &key.pair);
        if needed {
            let wait = FIRST_BACKOFF.saturating_mul(1 << failures.min(6)).min(LONGEST_BACKOFF);
            let backoff = Backoff {
                since: now,
                until: now + wait,
                failures: failures + 1,
                condition,
                text: text.to_owned(),
            };
            self.backoffs.insert(domain, backoff);
            self.event(XmppEvent::Refused {
                reason: XmppRefusal::Unreachable,
                remote: None,
                domain: Some(key.pair.remote.clone()),
                claimed: None,
                text: words::whole(XmppRefusal::Unreachable, None, text),
            });
        }
        self.give_up(now, key, condition, text);
    }

    /// What waits for this pair is told that nothing comes of it.
    pub(super) fn give_up(
        &mut self,
        now: Instant,
        key: &RouteKey,
        condition: &'static str,
        text: &str,
    ) {
        self.end_attempt(key);
        let Some(route) = self.routes.remove(key) else {
            return;
        };
        if let Some(stream) = route.stream {
            // It carries what comes.
            self.routes.insert(key.clone(), Route { stream: Some(stream), ..Route::default() });
        }
        for (stanza, _) in route.queue {
            self.undelivered(now, key.side, &key.pair, stanza, condition, text);
        }
        for Unverified { shown_on, pair } in self.verifications.unreachable(key.side, &key.pair) {
            self.not_verified(now, &Unverified { shown_on, pair }, text);
        }
    }

    /// The time for finding a stream is over.
    pub(super) fn route_is_late(&mut self, now: Instant, key: &RouteKey) {
        let Some(attempt) = self.attempt(key) else {
            return;
        };
        if attempt.until > now {
            return;
        }
        let (step, fault) = (attempt.step, attempt.fault.clone());
        let text = format!(
            "our stream to {}, step {}: there is none in time; before that: {fault}",
            key.pair.remote,
            match step {
                Step::Lookup(_) => "DNS",
                Step::Dial(_) => "connect",
                Step::Stream(_) | Step::Piggyback(_) => "authentication",
            }
        );
        match step {
            Step::Lookup(lookup) => {
                self.lookups.remove(&lookup);
            }
            Step::Dial(dial) => {
                self.dials.remove(&dial);
            }
            Step::Stream(_) | Step::Piggyback(_) => {}
        }
        self.back_off(now, key, "remote-server-timeout", &text);
        if let Step::Stream(id) = step {
            let text = "it was not proved in time";
            self.fail(now, id, Fault::new("connection-timeout", XmppRefusal::Slow, text));
        }
    }

    /// Domains that could not be reached.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&(XmppSide, Domain), &Backoff)> {
        self.backoffs.iter()
    }

    /// The other end's certificate, for people.
    pub(super) fn certificate_words(stream: &Stream) -> Option<&str> {
        certify::subject(stream.tls.as_ref())
    }
}
