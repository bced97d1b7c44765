//! The proxy's state and its doors. What it decides is in the files beside this one.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Instant};

use super::{
    ConnectionId, Counters, Event, Input, Output, Peer, ProxyConfig, Question, Refusal, Repute,
    Side,
    connections::Connections,
    dial::Dials,
    drain::Drain,
    exchanges::Exchanges,
    flow::Flows,
    hang_up::HangUps,
    lookups::{Lookups, Waiter},
    meter::Meter,
    pooled::Moved,
    probe::Probes,
    respond::{self, Answer},
    settings::first_id,
    token::TokenKeys,
    trust_headers::TrustValues,
    ways_back::WaysBack,
};
use crate::{
    config::Transport,
    domain::Domain,
    federation::{CertificateNames, Guard, Partner, Policy, Targets},
    media::calls::Calls,
    sip::{FrameError, Message},
};

/// The proxy. No sockets, no clock: inputs and `now` go in, outputs come out.
pub struct Proxy {
    pub(super) config: ProxyConfig,
    pub(super) policy: Arc<Policy>,
    /// Domains that were ours under a former one.
    pub(super) left: BTreeSet<Domain>,
    pub(super) keys: TokenKeys,
    pub(super) flows: Flows,
    pub(super) guard: Guard,
    pub(super) connections: Connections,
    pub(super) lookups: Lookups,
    pub(super) dials: Dials,
    pub(super) ways_back: WaysBack,
    pub(super) exchanges: Exchanges,
    pub(super) counters: Counters,
    pub(super) targets: Targets,
    pub(super) probes: Probes,
    pub(super) hang_ups: HangUps,
    pub(super) drain: Drain,
    pub(super) moved: Moved,
    pub(super) meter: Meter,
    pub(super) calls: Calls,
    started: Instant,
    pub(super) trust_values: TrustValues,
}

/// A connection, as `status` shows it.
#[derive(Clone, Debug)]
pub struct ConnectionStatus {
    /// Its id.
    pub connection: ConnectionId,
    /// Its side.
    pub side: Side,
    /// How it is carried.
    pub transport: Transport,
    /// The other end.
    pub remote: SocketAddr,
    /// Domains it has proved.
    pub domains: Vec<Domain>,
    /// Remote users who registered on it.
    pub users: Vec<String>,
}

impl Proxy {
    /// A proxy without connections.
    pub fn new(now: Instant, config: ProxyConfig, policy: Arc<Policy>) -> Self {
        Self {
            flows: Flows::new(&config.token_secret, config.former_secret.as_ref()),
            keys: TokenKeys::new(
                &config.token_secret,
                config.former_secret.as_ref(),
                now,
                config.unix_time,
            ),
            calls: Calls::new(
                config.media.clone(),
                &config.token_secret,
                config.former_secret.as_ref(),
            ),
            guard: Guard::default(),
            left: BTreeSet::new(),
            connections: Connections::default(),
            lookups: Lookups::default(),
            dials: Dials::default(),
            ways_back: WaysBack::default(),
            exchanges: Exchanges::new(first_id(config.unix_time)),
            counters: Counters::default(),
            targets: Targets::default(),
            probes: Probes::new(config.probe.map(|_| now)),
            hang_ups: HangUps::default(),
            drain: Drain::default(),
            moved: Moved::default(),
            started: now,
            meter: Meter::default(),
            trust_values: TrustValues::new(&config.fqdn),
            policy,
            config,
        }
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        self.meter.latest = Some(now);
        match input {
            Input::Opened { connection, peer, attempt } => {
                self.opened(now, connection, peer, attempt, out);
            }
            Input::Message { connection, message } => {
                self.on_message(now, connection, message, out);
            }
            Input::Unreadable { connection, error } => self.unreadable(connection, &error, out),
            Input::Closed { connection } => self.lost(now, connection, out),
            Input::Resolved { query, result } => {
                for waiter in self.lookups.answered(now, query, result) {
                    match waiter {
                        Waiter::Admission(id) => self.admit(now, id, out),
                        Waiter::Dial(id) => self.dial_resolved(now, id, out),
                        Waiter::Probe(index) => self.probe_next_hop(now, index, out),
                        Waiter::Nobody => {}
                    }
                }
            }
            Input::ConnectFailed { attempt, error } => {
                self.connect_failed(now, attempt, &error, out);
            }
        }
        self.media_gone(now, out);
    }

    /// When [`Proxy::on_timeout`] is to be called; perhaps for nothing, never too late.
    pub fn next_timeout(&self) -> Option<Instant> {
        [
            self.exchanges.next_timeout(),
            self.dials.next_timeout(),
            self.meter.next_timeout(),
            self.targets.next_timeout(),
            self.probes.next_timeout(),
            self.hang_ups.next_timeout(),
            self.moved.next_timeout(),
            self.calls.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due.
    pub fn on_timeout(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.meter.latest = Some(now);
        while let Some(id) = self.exchanges.pop_due(now) {
            self.on_timer(now, id, out);
            self.exchanges.rearm(id);
        }
        self.dials_due(now, out);
        self.meter_due(now, out);
        self.targets_due(now, out);
        self.hang_ups_due(now, out);
        self.moved_due(now, out);
        self.media_due(now, out);
        self.media_gone(now, out);
    }

    /// Takes other settings (names, next hops, bounds). What is live goes on.
    pub fn set_config(&mut self, config: ProxyConfig) {
        if config.identities != self.config.identities {
            let old = &self.config.identities;
            self.connections.renumber_identities(|own| {
                let Some(index) = usize::from(own).checked_sub(1) else { return Some(0) };
                let names = old.get(index)?;
                let at = config.identities.iter().position(|other| other == names)?;
                u8::try_from(at + 1).ok()
            });
        }
        if config.next_hops != self.config.next_hops {
            let old = &self.config.next_hops;
            let place = |index: usize| {
                let hop = old.get(index)?;
                config.next_hops.iter().position(|other| other == hop)
            };
            self.connections.renumber_next_hops(place);
            self.exchanges.renumber_next_hops(place);
            self.dials.renumber_next_hops(place);
        }
        if config.probe != self.config.probe || config.next_hops != self.config.next_hops {
            // As soon as may be.
            self.probes.set_round(config.probe.map(|_| self.started));
        }
        let secrets = |config: &ProxyConfig| (config.token_secret, config.former_secret);
        if secrets(&config) != secrets(&self.config) {
            self.keys.set(&config.token_secret, config.former_secret.as_ref());
            self.flows.set(&config.token_secret, config.former_secret.as_ref());
        }
        if secrets(&config) != secrets(&self.config) || config.media != self.config.media {
            let former = config.former_secret.as_ref();
            self.calls.set(config.media.clone(), &config.token_secret, former);
        }
        if config.fqdn != self.config.fqdn {
            self.trust_values = TrustValues::new(&config.fqdn);
        }
        // Who is never banned is not, since when it is so.
        for spared in &config.remote.guard.never {
            self.guard.forgive(self.started, spared);
        }
        self.config = config;
    }

    /// Forgets what DNS said, and what was proved by it: another DNS may say otherwise.
    pub fn forget_answers(&mut self) {
        self.lookups.keep_answers(|_| false);
        self.connections.keep_proofs(|_| false);
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }

    /// Puts a policy in force: every later request is judged by it, and what is live from a
    /// domain that is now blocked ends.
    pub fn set_policy(&mut self, now: Instant, policy: Arc<Policy>, out: &mut Vec<Output>) {
        let former = std::mem::replace(&mut self.policy, policy.clone());
        self.left.extend(former.ours().iter().cloned());
        self.left.retain(|domain| !policy.is_ours(domain));
        let blocked = |domain: &Domain| policy.blocked_by(domain).is_some();
        for id in self.exchanges.ids(|exchange| {
            exchange.partner.as_ref().or(exchange.dialog.as_ref()).is_some_and(blocked)
        }) {
            self.abandon(now, id, Refusal::DomainBlocked, out);
        }
        let connections: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.peer.side == Side::Partner)
            .map(|(id, _)| id)
            .collect();
        for id in connections {
            let all_blocked = {
                let mut proved = self.connections.proved(id).peekable();
                proved.peek().is_some() && proved.all(blocked)
            };
            if all_blocked || self.names_a_blocked_domain(now, id).is_some() {
                self.close(now, id, Refusal::DomainBlocked, out);
            }
        }
        self.media_by_policy(policy.is_narrower_than(&former), out);
        self.media_gone(now, out);
        self.forgive_whoever_has_an_entry();
        self.close_signed_out(now, out);
        // What was found out about a partner is true as long as its entry is the same.
        self.connections.keep_proofs(|key| {
            let now_in_force = policy.by_key(key);
            now_in_force.is_some() && now_in_force == former.by_key(key)
        });
        self.lookups.keep_answers(|domain| {
            let now_in_force = policy.partner(domain);
            now_in_force.is_ok() && now_in_force == former.partner(domain)
        });
    }

    /// What was counted since the start, and what is live.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        counters.transactions = self.exchanges.len();
        counters.waiting = self.exchanges.waiting;
        counters.partner_connections = self.connections.count(Side::Partner);
        counters.inside_connections = self.connections.count(Side::Inside);
        counters.remote_connections = self.connections.count(Side::Remote);
        counters.registered = self.connections.registered();
        counters
    }

    /// Every connection with what it has proved.
    pub fn status(&self) -> Vec<ConnectionStatus> {
        let status =
            |(id, connection): (ConnectionId, &super::connections::Connection)| ConnectionStatus {
                connection: id,
                side: connection.peer.side,
                transport: connection.peer.transport,
                remote: connection.peer.remote,
                domains: self.connections.proved(id).cloned().collect(),
                users: connection.users.iter().map(ToString::to_string).collect(),
            };
        self.connections.iter().map(status).collect()
    }

    /// The blocked domain that a partner's certificate names, unless it also is, or may be, an
    /// allowed partner's own.
    pub(super) fn names_a_blocked_domain(&self, now: Instant, id: ConnectionId) -> Option<Domain> {
        let names = &self.connections.get(id)?.peer.names;
        let blocked = names.all().find(|name| self.policy.blocked_by(name).is_some())?;
        (!self.names_an_allowed_partner(now, names)).then(|| blocked.clone())
    }

    /// Whether a name is an allowed partner's domain, a host in it, its pinned host, a provider's, or, where its
    /// entry relaxes that, a host that its SRV record is known to name.
    fn names_an_allowed_partner(&self, now: Instant, names: &CertificateNames) -> bool {
        let srv_target = |entry: &Arc<Partner>| {
            let question = Question::Federation(entry.domain.clone());
            let known =
                self.lookups.known(now, &question, entry.options.dnssec).and_then(Result::ok);
            known.is_some_and(|known| known.hosts.iter().any(|host| names.holds(host)))
        };
        names.all().any(|name| self.policy.is_an_allowed_host(name))
            || self.policy.relaxed().any(srv_target)
    }

    /// A connection spoke for a blocked domain. When its certificate is of a host in that domain
    /// (real edges' certificates name the host, not the domain), it is the blocked domain's own:
    /// it is closed, and its address is told. Not when an allowed partner uses it too.
    pub(super) fn spoke_for_blocked(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        domain: Domain,
        out: &mut Vec<Output>,
    ) {
        let Some(peer) = self.connections.get(connection).map(|c| &c.peer) else { return };
        let (names, remote) = (peer.names.clone(), peer.remote);
        let policy = self.policy.clone();
        let others = self.connections.proved(connection).any(|d| policy.blocked_by(d).is_none());
        let own = names.all().any(|name| name.is_within(&domain));
        if own && !others && !self.names_an_allowed_partner(now, &names) {
            self.shut_blocked(now, connection, domain, remote, out);
        }
    }

    /// Closes the connection of a blocked domain, and tells its address.
    pub(super) fn shut_blocked(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        domain: Domain,
        remote: SocketAddr,
        out: &mut Vec<Output>,
    ) {
        let repute = Repute::Stranger;
        out.push(Output::Event(Event::Proved { connection, domain, remote, repute }));
        self.close(now, connection, Refusal::DomainBlocked, out);
    }

    /// Closes a connection and ends what went over it.
    pub(super) fn close(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        reason: Refusal,
        out: &mut Vec<Output>,
    ) {
        if self.connections.get(connection).is_some() {
            if matches!(reason, Refusal::UserNoOutside | Refusal::Banned) {
                self.media_shut_out(connection, out);
            }
            self.closed(now, connection, out);
            out.push(Output::Close { connection, reason });
        }
    }

    #[cold]
    fn unreadable(&mut self, connection: ConnectionId, error: &FrameError, out: &mut Vec<Output>) {
        let Some(peer) = self.connections.get(connection).map(|c| c.peer.clone()) else { return };
        self.note_refusal(&peer, Refusal::Malformed, None, error.to_string(), out);
        if let Some(request) = error.answerable() {
            let (status, phrase) = error.fault.status();
            let answer = Answer::with(status, phrase, Refusal::Malformed);
            self.answer_stateless(connection, &peer, request, answer, out);
        }
    }

    /// Counts a refusal and shows it.
    #[cold]
    pub(super) fn note_refusal(
        &mut self,
        peer: &Peer,
        reason: Refusal,
        domain: Option<Domain>,
        detail: String,
        out: &mut Vec<Output>,
    ) {
        self.counters.refuse(reason);
        if let Some(domain) = &domain {
            self.note_refused(domain, peer, reason, &detail);
        }
        out.push(Output::Event(Event::Refused { reason, remote: peer.remote, domain, detail }));
    }

    /// A response for which nothing is kept: asked again, the same is said again.
    pub(super) fn answer_stateless(
        &mut self,
        connection: ConnectionId,
        peer: &Peer,
        request: &Message,
        answer: Answer,
        out: &mut Vec<Output>,
    ) {
        self.answer_stateless_about(connection, peer, request, None, answer, out);
    }

    /// The same, about a domain.
    #[cold]
    pub(super) fn answer_stateless_about(
        &mut self,
        connection: ConnectionId,
        peer: &Peer,
        request: &Message,
        domain: Option<&Domain>,
        answer: Answer,
        out: &mut Vec<Output>,
    ) {
        let tag = self.stateless_tag(request);
        let about = respond::About { domain, tag: &tag };
        if let Some(bytes) = respond::answer(self, request, peer, about, answer) {
            out.push(Output::Send { connection, bytes });
        }
    }
}
