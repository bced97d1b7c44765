//! How much comes in, and from whom: bounds for everybody, what partners may send that nobody vouches for, and
//! what people are told about it.

use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ConnectionId, Event, Output, Peer, Refusal, Side, WatchChange,
    admit::sip_domain,
    connections::Connection,
    exchange::Exchange,
    overload::{Load, Wants},
    proxy::Proxy,
    traffic::{Ledger, RefusalSeen, Traffic},
};
use crate::{
    domain::Domain,
    federation::{
        CertificateNames, News, PartnerKind, Report, Ruling, Saved, Sender, Throttle,
        ThrottleChange, Time, UserName, source_prefix,
    },
    sip::{Message, Method},
};

/// An offender's connections are closed after its last answer is on its way.
const LAST_ANSWER: Duration = Duration::from_millis(20);

/// What is remembered of partners.
#[derive(Debug, Default)]
pub(super) struct Meter {
    throttle: Throttle,
    ledger: Ledger,
    /// Offenders whose connections are to be closed, and when.
    closing: Vec<(Instant, Domain, IpAddr)>,
    /// Where XMPP partners' streams came from that proved them last, and by which certificate: what
    /// the gateway says in their name is theirs.
    streams: HashMap<Domain, (IpAddr, Arc<CertificateNames>)>,
    /// When something last came in.
    pub latest: Option<Instant>,
}

impl Meter {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.closing.iter().map(|(at, ..)| *at).min()
    }
}

impl Proxy {
    /// Whether a bound of ours is reached, for any request.
    pub(super) fn overloaded(&self, message: &Message, peer: &Peer, scope: u64) -> Option<Refusal> {
        let bounds = &self.config.bounds;
        let own = match peer.side {
            Side::Partner | Side::Gateway => bounds.transactions_of_one(),
            Side::Remote => bounds.transactions_of_user(),
            Side::Inside => usize::MAX,
        };
        // What makes room passes over the bound of its own, as far again; not over its source's, which
        // others share, and not where there is none at all.
        let own = if makes_room(message) { own.saturating_mul(2) } else { own };
        let source = peer.side == Side::Remote
            && self.exchanges.live_from(peer.remote.ip()) >= bounds.transactions_of_source();
        let full = self.load().is_full() || source || self.exchanges.live_of(scope) >= own;
        full.then_some(Refusal::Overload)
    }

    /// Whose share of what is bounded a request is counted to. The gateway speaks for every XMPP
    /// partner; one leaves room for the others.
    pub(super) fn share(&self, message: &Message, peer: &Peer, scope: u64) -> u64 {
        if peer.side != Side::Gateway {
            return scope;
        }
        let from = message.from().ok().and_then(|from| sip_domain(&from.uri));
        let entry = from.and_then(|from| self.policy.partner(&from).ok());
        let mut hasher = DefaultHasher::new();
        (scope, entry.as_ref().map(|entry| &*entry.name)).hash(&mut hasher);
        hasher.finish()
    }

    fn load(&self) -> Load {
        let bounds = &self.config.bounds;
        Load::of([
            (self.exchanges.len(), bounds.transactions),
            (self.exchanges.waiting, bounds.waiting),
            (self.exchanges.waiting_bytes, bounds.waiting_bytes),
        ])
    }

    /// Whether what is left is kept for others: dialogs that stand, and partners with an entry.
    pub(super) fn crowded(
        &self,
        now: Instant,
        message: &Message,
        connection: ConnectionId,
        peer: &Peer,
        in_dialog: bool,
    ) -> Option<Refusal> {
        let load = self.load();
        // What a remote user ends is a dialog with a token.
        let bye = message.method() == Some(Method::Bye);
        let ends = makes_room(message) && !(bye && peer.side == Side::Remote);
        if in_dialog || ends || load.admits(Wants::NewOfDiscovered) {
            return None;
        }
        let discovered = peer.side == Side::Partner && {
            let from = message.from().ok().and_then(|from| sip_domain(&from.uri));
            let entry = from.and_then(|from| self.policy.partner(&from).ok());
            // Whoever is not known is no better than who can be discovered, and a name that its
            // connection does not prove is anybody's.
            !entry.is_some_and(|entry| {
                entry.kind != PartnerKind::DiscoveredDomain && self.proves(now, connection, &entry)
            })
        };
        // So is a remote user who has not signed in.
        let stranger = peer.side == Side::Remote
            && self.connections.get(connection).is_none_or(|found| found.users.is_empty());
        let wants = if discovered || stranger { Wants::NewOfDiscovered } else { Wants::New };
        (!load.admits(wants)).then_some(Refusal::Overload)
    }

    /// A connection came and speaks for a discovered partner: where such partners hold their share
    /// of the places, one of them gives way that holds most, with what it used longest ago. Nobody who
    /// is named by no entry keeps partners out so.
    pub(super) fn leave_places(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        out: &mut Vec<Output>,
    ) {
        let counted = |found: &Connection| found.discovered;
        if self.connections.get(connection).is_none_or(counted) || !self.is_discovered(connection) {
            return;
        }
        let Some(found) = self.connections.get_mut(connection) else { return };
        found.discovered = true;
        let most = self.config.bounds.connections_of_discovered();
        if self.connections.len() <= most {
            return;
        }
        let all: Vec<(ConnectionId, u64, Instant)> = self
            .connections
            .iter()
            .filter(|(id, found)| found.discovered && self.is_discovered(*id))
            .map(|(id, found)| (id, found.scope, found.used))
            .collect();
        if all.len() <= most {
            return;
        }
        let mut of_one: HashMap<u64, usize> = HashMap::new();
        all.iter().for_each(|(_, scope, _)| *of_one.entry(*scope).or_default() += 1);
        let order = |(_, scope, used): &&(ConnectionId, u64, Instant)| {
            (Reverse(of_one.get(scope).copied()), *used)
        };
        let others = all.iter().filter(|(id, ..)| *id != connection);
        if let Some((gone, ..)) = others.min_by_key(order).copied() {
            self.close(now, gone, Refusal::Overload, out);
        }
    }

    /// Whether a connection that came in proved discovered partners, and nobody else.
    fn is_discovered(&self, connection: ConnectionId) -> bool {
        let accepted = |c: &Connection| c.peer.side == Side::Partner && !c.dialled;
        let mut proved = self.connections.proved(connection).peekable();
        self.connections.get(connection).is_some_and(accepted)
            && proved.peek().is_some()
            && proved.all(|key| {
                let entry = self.policy.by_key(key);
                entry.is_some_and(|entry| entry.kind == PartnerKind::DiscoveredDomain)
            })
    }

    fn time(&self, now: Instant) -> Time {
        Time { now, unix: self.keys.unix(now) }
    }

    /// A stream of an XMPP partner proved this domain.
    pub fn note_stream(
        &mut self,
        domain: &Domain,
        source: IpAddr,
        names: Option<Arc<CertificateNames>>,
    ) {
        // Domains that have an entry: these are few.
        if self.policy.partner(domain).is_ok_and(|entry| entry.kind == PartnerKind::Xmpp) {
            self.meter.streams.insert(domain.clone(), (source, names.unwrap_or_default()));
        }
    }

    /// Where an exchange of a partner that is watched comes from, and by which certificate; `None`:
    /// it is not watched.
    fn watched_sender(&self, exchange: &Exchange) -> Option<(IpAddr, Arc<CertificateNames>)> {
        let entry = exchange.entry.as_ref().filter(|entry| entry.is_watched())?;
        if entry.kind != PartnerKind::Xmpp {
            return Some((exchange.from_peer.remote.ip(), Arc::clone(&exchange.from_peer.names)));
        }
        // What our own users asked for, and what ends something, is no bother.
        let asked_for = |method| matches!(method, Method::Notify | Method::Bye | Method::Cancel);
        let method = exchange.request.as_ref().and_then(Message::method)?;
        self.meter.streams.get(&entry.domain).filter(|_| !asked_for(method)).cloned()
    }

    /// A request from outside was admitted: whether it goes on. Only partners that nobody vouches
    /// for are metered.
    pub(super) fn meter_request(
        &mut self,
        now: Instant,
        id: u64,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let Some(exchange) = self.exchanges.get(id) else { return Ok(()) };
        let Some(entry) = exchange.entry.clone() else { return Ok(()) };
        let Some((source, names)) = self.watched_sender(exchange) else { return Ok(()) };
        let Some(request) = &exchange.request else { return Ok(()) };
        if request.method() == Some(Method::Ack) {
            return Ok(());
        }
        let uri = request.request_uri().and_then(Result::ok);
        let called = uri.and_then(|uri| Some((uri.user(), sip_domain(&uri)?)));
        // In a dialog a server of ours may be called by its address: no user is named then.
        let called = called.filter(|(_, called)| self.policy.is_ours(called));
        let user = called.as_ref().map(|(user, ours)| UserName::new(*user, ours));
        let sender = Sender { domain: &entry.domain, source };
        let (time, settings) = (self.time(now), self.policy.throttle());
        let (ruling, news) =
            self.meter.throttle.request(time, settings, sender, &names, user.as_ref());
        self.meter.watched(now, news, sender, entry.kind, out);
        match ruling {
            Ruling::Pass => Ok(()),
            Ruling::Slow => Err(Refusal::Throttled),
            Ruling::Listed => Err(Refusal::WatchListed),
        }
    }

    /// A stanza of an XMPP partner that is watched is to go to a server inside without coming here:
    /// it is counted as its messages are.
    pub fn meter_stanza(
        &mut self,
        now: Instant,
        sender: Sender<'_>,
        names: &CertificateNames,
        user: &UserName<'_>,
        out: &mut Vec<Output>,
    ) -> Ruling {
        let (time, settings) = (self.time(now), self.policy.throttle());
        let (ruling, news) = self.meter.throttle.request(time, settings, sender, names, Some(user));
        self.meter.watched(now, news, sender, PartnerKind::Xmpp, out);
        ruling
    }

    /// Such a stanza failed. `kind`: `message`, `presence` or `iq`.
    pub fn meter_stanza_failed(
        &mut self,
        now: Instant,
        sender: Sender<'_>,
        (kind, user): (&str, &UserName<'_>),
        status: u16,
        out: &mut Vec<Output>,
    ) {
        let (time, settings) = (self.time(now), self.policy.throttle());
        let throttle = &mut self.meter.throttle;
        let news = throttle.outcome(time, settings, sender, kind, Some(user), status);
        self.meter.watched(now, news, sender, PartnerKind::Xmpp, out);
    }

    /// An exchange has its final response.
    pub(super) fn meter_outcome(
        &mut self,
        now: Instant,
        id: u64,
        status: u16,
        out: &mut Vec<Output>,
    ) {
        let Some(exchange) = self.exchanges.get(id).filter(|exchange| exchange.inbound) else {
            return;
        };
        let Some(entry) = exchange.entry.clone() else { return };
        let Some((source, _)) = self.watched_sender(exchange) else { return };
        let sender = Sender { domain: &entry.domain, source };
        let request = exchange.request.as_ref();
        let method = request.and_then(Message::method);
        let method = method.map_or("", |method| method.as_str());
        let uri = request.and_then(|request| request.request_uri()?.ok());
        let called = uri.and_then(|uri| Some((uri.user(), sip_domain(&uri)?)));
        let user = called.as_ref().map(|(user, ours)| UserName::new(*user, ours));
        let (time, settings) = (self.time(now), self.policy.throttle());
        let throttle = &mut self.meter.throttle;
        let news = throttle.outcome(time, settings, sender, method, user.as_ref(), status);
        self.meter.watched(now, news, sender, entry.kind, out);
    }

    /// A response on its way through: from whom, or for whom.
    pub(super) fn note_response(&mut self, now: Instant, id: u64) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if let Some(partner) = &exchange.partner {
            self.meter.ledger.passed(self.keys.unix(now), partner, !exchange.inbound);
        }
    }

    /// A request on its way through.
    pub(super) fn note_request(&mut self, now: Instant, partner: &Domain, inward: bool) {
        self.meter.ledger.passed(self.keys.unix(now), partner, inward);
    }

    /// A request that was refused.
    pub(super) fn note_refused(&mut self, domain: &Domain, peer: &Peer, why: Refusal, what: &str) {
        let (remote, detail) = (peer.remote, what.to_owned());
        let at = self.meter.latest.map_or(0, |now| self.keys.unix(now));
        self.meter.ledger.refused(domain, RefusalSeen { at, reason: why, remote, detail });
    }

    /// Does what is due.
    pub(super) fn meter_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        let (due, later) = self.meter.closing.drain(..).partition(|(at, ..)| *at <= now);
        self.meter.closing = later;
        let due: Vec<(Instant, Domain, IpAddr)> = due;
        for (_, domain, source) in due {
            for id in self.offenders_connections(now, &domain, source) {
                self.close(now, id, Refusal::WatchListed, out);
            }
        }
    }

    /// Connections from an offender's prefix, or that proved its domain, and over which nobody
    /// speaks but who is listed.
    fn offenders_connections(
        &self,
        now: Instant,
        domain: &Domain,
        source: IpAddr,
    ) -> Vec<ConnectionId> {
        let prefix = source_prefix(source);
        let partners =
            self.connections.iter().filter(|(_, connection)| connection.peer.side == Side::Partner);
        let offends = |id: ConnectionId, remote: IpAddr| {
            let mut proved = self.connections.proved(id).peekable();
            let about = prefix.contains(&remote.to_canonical())
                || self.connections.proved(id).any(|proved| proved == domain);
            about
                && proved.peek().is_some()
                && proved.all(|key| {
                    let entry = self.policy.by_key(key);
                    entry.is_some_and(|entry| entry.kind == PartnerKind::DiscoveredDomain)
                        && self.meter.throttle.listed(now, key, remote).is_some()
                })
        };
        let found = partners.filter(|(id, c)| offends(*id, c.peer.remote.ip()));
        found.map(|(id, _)| id).collect()
    }

    /// Forgets what is held against those who are partners in another way now.
    pub(super) fn forgive_whoever_has_an_entry(&mut self) {
        for domain in self.meter.throttle.domains() {
            let entry = self.policy.partner(&domain);
            if entry.is_ok_and(|entry| !entry.is_watched()) {
                self.meter.throttle.forgive(&domain, None);
            }
        }
    }

    /// Nothing is held against a domain any more, or against its senders from this prefix. Says how
    /// many records there were that held it.
    pub fn forgive(
        &mut self,
        domain: &Domain,
        from: Option<&ipnet::IpNet>,
        out: &mut Vec<Output>,
    ) -> usize {
        let forgiven = self.meter.throttle.forgive(domain, from);
        let what = WatchChange::Forgiven;
        let source = from.map(ipnet::IpNet::addr);
        out.push(Output::Event(Event::Watch { domain: domain.clone(), source, what }));
        forgiven
    }

    /// Senders that are remembered, of one domain or of all.
    pub fn watch_report(&self, now: Instant, only: Option<&Domain>) -> Vec<Report> {
        self.meter.throttle.report(now, self.policy.throttle(), only)
    }

    /// What passed and was refused of a domain.
    pub fn traffic(&self, domain: &Domain) -> Option<&Traffic> {
        self.meter.ledger.get(domain)
    }

    /// Everybody who is listed: domain, prefix, until when.
    pub fn offenders(&mut self, now: Instant) -> Vec<(Domain, IpAddr, Instant)> {
        let all = self.meter.throttle.offenders(now);
        all.into_iter().filter(|(domain, ..)| self.may_be_blocked(domain)).collect()
    }

    /// Whether the kernel may drop what an offender sends. Whoever has an entry is refused here and
    /// by nobody else: its addresses are those of a partner, and of many who did nothing.
    fn may_be_blocked(&self, domain: &Domain) -> bool {
        !self.policy.partner(domain).is_ok_and(|entry| entry.kind == PartnerKind::Xmpp)
    }

    /// The watch list, for a file. `unix`: the wall clock.
    pub fn save_watch_list(&self, now: Instant, unix: u64) -> Saved {
        self.meter.throttle.save(now, unix)
    }

    /// Takes the watch list from a file, and tells who is listed: domain, prefix, until when.
    pub fn restore_watch_list(
        &mut self,
        now: Instant,
        unix: u64,
        saved: Saved,
    ) -> Vec<(Domain, IpAddr, Instant)> {
        self.meter.throttle.restore(now, unix, self.policy.throttle(), saved);
        self.forgive_whoever_has_an_entry();
        self.offenders(now)
    }

    /// The watch list is lost: for a report period whoever is discovered is suspicious.
    pub fn distrust(&mut self, now: Instant) {
        let until = now + self.policy.throttle().report_period;
        self.meter.throttle.distrust_until(until);
    }
}

/// What it belongs to ends, or is done.
fn makes_room(message: &Message) -> bool {
    matches!(message.method(), Some(Method::Ack | Method::Bye | Method::Cancel))
}

impl Meter {
    /// Tells what is new.
    fn watched(
        &mut self,
        now: Instant,
        news: News,
        sender: Sender<'_>,
        kind: PartnerKind,
        out: &mut Vec<Output>,
    ) {
        let (domain, source) = (sender.domain.clone(), sender.source);
        let what = match news.change {
            None => None,
            Some(ThrottleChange::Suspicious) => Some(WatchChange::Suspicious),
            Some(ThrottleChange::Listed(time)) => {
                Some(WatchChange::Listed { seconds: time.as_secs() })
            }
        };
        if let Some(what) = what {
            let (domain, source) = (domain.clone(), Some(source));
            out.push(Output::Event(Event::Watch { domain, source, what }));
        }
        if let Some(until) = news.offender.filter(|_| kind != PartnerKind::Xmpp) {
            self.closing.push((now + LAST_ANSWER, domain.clone(), source));
            out.push(Output::Event(Event::Offender { domain, source, until }));
        }
    }
}
