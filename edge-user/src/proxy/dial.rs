//! Connections that are made: one for a destination, however many wait for it; each address in
//! turn, the next one beside an address that takes its time (RFC 8305, happy eyeballs: the first
//! that proves the domain is used); and nothing is sent before the certificate has proved it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    AttemptId, ConnectError, ConnectionId, Event, Output, Peer, Question, Refusal, Side, Target,
    exchange::Exchange,
    lookups::{Asked, Waiter},
    probe::cause,
    proxy::Proxy,
    respond::Answer,
    route::Destination,
    ways_back::Back,
};
use crate::{
    domain::Domain,
    federation::{Cause, TargetKey},
};

/// How long an address is tried before the next one is tried beside it (RFC 8305 section 5).
const BESIDE: Duration = Duration::from_millis(250);
/// How long there is no further connection beside others when one could not be had.
const NO_EXTRA: Duration = Duration::from_secs(5);
/// How long TCP is waited for where there is UDP.
const SHORT: Duration = Duration::from_secs(2);
/// How long it is believed of a server that it takes no TCP, and of how many.
const NO_TCP: Duration = Duration::from_secs(600);
const MOST_REFUSING: usize = 1000;
/// Addresses of one destination that are tried at one time.
const AT_ONE_TIME: usize = 2;

#[derive(Debug)]
struct Dial {
    destination: Destination,
    question: Option<Question>,
    /// Only a signed answer counts.
    secure: bool,
    targets: VecDeque<Target>,
    /// Exchanges that wait.
    waiting: Vec<u64>,
    /// Addresses that the one exchange it is for has tried in vain.
    avoid: Vec<SocketAddr>,
    failure: Answer,
    /// How many addresses are tried now.
    trying: usize,
    /// When the next one is tried beside them.
    next_at: Option<Instant>,
    /// One more beside connections that are there and busy.
    extra: bool,
    /// For answers whose connection was lost.
    back: Option<Back>,
}

impl Dial {
    /// These are to be tried, as far as they may be.
    fn take(&mut self, mut targets: VecDeque<Target>) {
        targets.retain(|target| {
            !self.avoid.contains(&target.address) && self.back.is_none_or(|back| back.is_at(target))
        });
        self.targets = targets;
    }
}

/// An address that is tried.
#[derive(Debug)]
struct Attempt {
    dial: u64,
    target: Target,
    /// The partner it must prove.
    owner: Option<Domain>,
}

/// Every dial under way. Bounded: one for a destination, and one for a waiting exchange that has
/// failed before.
#[derive(Debug, Default)]
pub(super) struct Dials {
    next: u64,
    next_attempt: u64,
    all: HashMap<u64, Dial>,
    shared: HashMap<Destination, u64>,
    by_attempt: HashMap<AttemptId, Attempt>,
    due: BTreeSet<(Instant, u64)>,
    /// No further connection beside others before this: one could not be had.
    no_extra_before: Option<Instant>,
    /// Servers inside that are spoken to by UDP and take no TCP, until when that is believed.
    no_tcp: HashMap<SocketAddr, Instant>,
}

impl Dials {
    /// When something is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether this server has refused TCP a while ago.
    pub(super) fn refuses_tcp(&self, now: Instant, server: SocketAddr) -> bool {
        self.no_tcp.get(&server).is_some_and(|until| now < *until)
    }

    fn tcp_refused(&mut self, now: Instant, server: SocketAddr) {
        if self.no_tcp.len() >= MOST_REFUSING {
            self.no_tcp.retain(|_, until| now < *until);
        }
        if self.no_tcp.len() < MOST_REFUSING {
            self.no_tcp.insert(server, now + NO_TCP);
        }
    }

    /// A number for an attempt to connect.
    pub(super) fn attempt(&mut self) -> AttemptId {
        self.next_attempt += 1;
        AttemptId(self.next_attempt - 1)
    }

    /// When a dial tries its next address beside those it tries.
    fn set_next(&mut self, id: u64, next: Option<Instant>) {
        let Some(dial) = self.all.get_mut(&id) else { return };
        if let Some(before) = std::mem::replace(&mut dial.next_at, next) {
            self.due.remove(&(before, id));
        }
        self.due.extend(next.map(|at| (at, id)));
    }

    fn remove(&mut self, id: u64) -> Option<Dial> {
        self.set_next(id, None);
        let dial = self.all.remove(&id)?;
        if self.shared.get(&dial.destination) == Some(&id) {
            self.shared.remove(&dial.destination);
        }
        Some(dial)
    }

    /// The list of next hops changed: says where each stands now, if it still does.
    pub(super) fn renumber_next_hops(&mut self, place: impl Fn(usize) -> Option<usize>) {
        for dial in self.all.values_mut() {
            dial.destination.renumber(&place);
        }
        let shared = std::mem::take(&mut self.shared);
        self.shared.extend(shared.into_iter().filter_map(|(mut destination, id)| {
            destination.renumber(&place);
            (destination != Destination::NextHop(usize::MAX)).then_some((destination, id))
        }));
    }
}

/// What a dial is for.
#[derive(Clone, Copy, Debug)]
enum For {
    Request(u64),
    /// Nobody: one more connection beside those that are busy.
    More,
    Answers(Back),
}

const UNREACHABLE: Answer = Answer::with(504, "Server Time-out", Refusal::Unreachable);

impl Proxy {
    /// Has an exchange, whose stage is `Connecting`, wait for a connection to its destination.
    pub(super) fn dial(
        &mut self,
        now: Instant,
        exchange: u64,
        destination: Destination,
        avoid: Vec<SocketAddr>,
        out: &mut Vec<Output>,
    ) {
        if avoid.is_empty()
            && let Some(dial) = self.dials.shared.get(&destination)
            && let Some(dial) = self.dials.all.get_mut(dial)
        {
            if dial.waiting.len() < self.config.bounds.waiting_for_one() {
                dial.waiting.push(exchange);
            } else {
                self.conclude(now, exchange, Refusal::Overload.into(), out);
            }
            return;
        }
        self.begin_dial(now, For::Request(exchange), destination, avoid, out);
    }

    /// One more connection to a partner, if there is none on its way.
    pub(super) fn dial_extra(
        &mut self,
        now: Instant,
        destination: &Destination,
        out: &mut Vec<Output>,
    ) {
        let paused = self.dials.no_extra_before.is_some_and(|until| now < until);
        if !paused && !self.dials.shared.contains_key(destination) {
            self.begin_dial(now, For::More, destination.clone(), Vec::new(), out);
        }
    }

    /// A connection for answers whose own was lost.
    pub(super) fn dial_back(
        &mut self,
        now: Instant,
        destination: Destination,
        back: Back,
        out: &mut Vec<Output>,
    ) {
        self.begin_dial(now, For::Answers(back), destination, Vec::new(), out);
    }

    fn begin_dial(
        &mut self,
        now: Instant,
        what_for: For,
        destination: Destination,
        avoid: Vec<SocketAddr>,
        out: &mut Vec<Output>,
    ) {
        let id = self.dials.next;
        self.dials.next += 1;
        let (exchange, back) = match what_for {
            For::Request(exchange) => (Some(exchange), None),
            For::More => (None, None),
            For::Answers(back) => (None, Some(back)),
        };
        if avoid.is_empty() && back.is_none() {
            self.dials.shared.insert(destination.clone(), id);
        }
        let (question, lookup) = self.question(&destination);
        let mut dial = Dial {
            destination: destination.clone(),
            question: question.clone(),
            secure: lookup.secure,
            targets: VecDeque::new(),
            extra: matches!(what_for, For::More),
            back,
            waiting: exchange.into_iter().collect(),
            avoid,
            failure: UNREACHABLE,
            trying: 0,
            next_at: None,
        };
        dial.take(self.fixed_target(&destination).into_iter().collect());
        self.dials.all.insert(id, dial);
        match question {
            None => {
                let until = matches!(destination, Destination::InsideTcp(_)).then(|| now + SHORT);
                self.try_next_target(now, id, out);
                if until.is_some() {
                    self.dials.set_next(id, until);
                }
            }
            Some(question) => {
                let waiter = Waiter::Dial(id);
                let limit = self.config.bounds.waiting_for_one();
                match self.lookups.ask(now, &question, lookup, waiter, limit, None, out) {
                    Asked::Waits => {}
                    Asked::Known => self.dial_resolved(now, id, out),
                    Asked::Full => self.dial_failed(now, id, out),
                }
            }
        }
    }

    /// Does what is due for dials.
    pub(super) fn dials_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        while let Some((_, id)) = self.dials.due.first().copied().filter(|(at, _)| *at <= now) {
            self.dials.set_next(id, None);
            let destination = self.dials.all.get(&id).map(|dial| &dial.destination);
            if let Some(Destination::InsideTcp(server)) = destination {
                self.dials.tcp_refused(now, *server);
                self.dial_failed(now, id, out);
                continue;
            }
            self.try_next_target(now, id, out);
        }
    }

    /// DNS has answered for a dial.
    pub(super) fn dial_resolved(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        if !self.leave_to_carriers(now, id, out) {
            return;
        }
        let Some(dial) = self.dials.all.get(&id) else { return };
        let answer = dial.question.as_ref().and_then(|q| self.lookups.known(now, q, dial.secure));
        let (targets, fault) = match answer {
            Some(Ok(known)) => {
                let mut targets = self.targets(&dial.destination, &known);
                let owner = dial.destination.partner();
                self.targets.order(now, owner, targets.make_contiguous());
                (targets, Some(Refusal::ForeignTarget))
            }
            Some(Err(error)) => (VecDeque::new(), Some(error.into())),
            None => (VecDeque::new(), None),
        };
        if let Some(dial) = self.dials.all.get_mut(&id) {
            if let (Destination::Partner(..), true, Some(fault)) =
                (&dial.destination, targets.is_empty(), fault)
            {
                dial.failure = Answer::with(504, "Server Time-out", fault);
            }
            dial.take(targets);
        }
        self.try_next_target(now, id, out);
    }

    /// What waits for a domain that a provider carries goes to the provider; whether anything
    /// still waits.
    fn leave_to_carriers(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) -> bool {
        let Some(dial) = self.dials.all.get_mut(&id) else { return false };
        let waiting = std::mem::take(&mut dial.waiting);
        if !matches!(dial.destination, Destination::Partner(..)) || waiting.is_empty() {
            dial.waiting = waiting;
            return true;
        }
        let stay = self.send_to_carriers(now, waiting, out);
        let Some(dial) = self.dials.all.get_mut(&id) else { return false };
        dial.waiting.extend(stay);
        if dial.waiting.is_empty() {
            self.dials.remove(id);
            return false;
        }
        true
    }

    /// Tries the next address, if there is one and not too much is tried already.
    fn try_next_target(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(dial) = self.dials.all.get(&id) else { return };
        let (trying, destination) = (dial.trying, dial.destination.clone());
        let Some(target) = dial.targets.front() else {
            if trying == 0 {
                self.dial_failed(now, id, out);
            }
            return;
        };
        // A connection that is there may prove the domain now that DNS has answered.
        let owner = destination.partner().cloned();
        let lives = |target: &&Target| !self.targets.is_dead(now, owner.as_ref(), (*target).into());
        let live = dial.targets.iter().filter(lives);
        let open = match dial.extra {
            true => None,
            false => live.chain([target]).find_map(|target| self.open_to(target)),
        };
        if let (Some(key), Some(open)) = (&owner, open)
            && self.proves_now(now, open, key, out).is_ok()
        {
            return self.dialled(now, id, open, true, out);
        }
        if let Some(open) = self.refusing_hop(now, id) {
            return self.dialled(now, id, open, true, out);
        }
        if trying >= AT_ONE_TIME {
            return;
        }
        let attempt = self.dials.attempt();
        let Some(dial) = self.dials.all.get_mut(&id) else { return };
        let Some(target) = dial.targets.pop_front() else { return };
        dial.trying += 1;
        let beside = !dial.targets.is_empty() && dial.trying < AT_ONE_TIME;
        self.dials.set_next(id, beside.then_some(now + BESIDE));
        let tried = Attempt { dial: id, target: target.clone(), owner };
        self.dials.by_attempt.insert(attempt, tried);
        out.push(Output::Connect { attempt, target });
    }

    /// The connection of a next hop that answers 503 over it, when nothing that lives is left to
    /// dial: one more to the same server would be answered no better, and each request would open
    /// its own. (Who is silent is dialled: the connection may be what is broken.)
    fn refusing_hop(&self, now: Instant, id: u64) -> Option<ConnectionId> {
        let dial = self.dials.all.get(&id)?;
        let Destination::NextHop(index) = &dial.destination else { return None };
        if !self.targets.is_dead(now, None, dial.targets.front()?.into()) {
            return None;
        }
        let refuses = |peer: &Peer| {
            let key = TargetKey { address: peer.remote, transport: peer.transport };
            let failure = self.targets.failure(now, None, key);
            failure.is_some_and(|failure| failure.cause == Cause::Unavailable)
        };
        let mut all = self.connections.for_next_hop(*index);
        let there = |peer: &Peer| dial.back.is_none_or(|back| back.is_from(peer));
        let fits = |peer: &Peer| !dial.avoid.contains(&peer.remote) && there(peer) && refuses(peer);
        all.find(|(_, connection)| fits(&connection.peer)).map(|(open, _)| open)
    }

    /// A connection that leads to this very target.
    fn open_to(&self, target: &Target) -> Option<ConnectionId> {
        let same = |peer: &Peer| {
            peer.side == Side::Partner && peer.remote == target.address && peer.own == target.own
        };
        self.connections.iter().find(|(_, c)| same(&c.peer)).map(|(open, _)| open)
    }

    /// An attempt has ended; what it was of, and whether its dial is still under way.
    fn attempt_ended(&mut self, attempt: AttemptId) -> Option<(Attempt, bool)> {
        let ended = self.dials.by_attempt.remove(&attempt)?;
        let dial = self.dials.all.get_mut(&ended.dial);
        let live = dial.is_some();
        if let Some(dial) = dial {
            dial.trying = dial.trying.saturating_sub(1);
        }
        Some((ended, live))
    }

    fn dial_failed(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(dial) = self.dials.remove(id) else { return };
        if dial.extra {
            self.dials.no_extra_before = Some(now + NO_EXTRA);
        }
        if let Some(back) = dial.back {
            self.no_way(now, back.lost, out);
        }
        for id in dial.waiting {
            // A connection from there may be left that was to be used last.
            let waits =
                |e: &&Exchange| e.waits() && e.destinations.front() == Some(&dial.destination);
            let waiting = self.exchanges.get(id).filter(waits);
            match waiting.and_then(|e| self.pooled(now, &dial.destination, &e.tried, true)) {
                Some(connection) => self.send_on(now, id, connection, true, out),
                None => self.destination_failed(now, id, &dial.destination, dial.failure, out),
            }
        }
    }

    /// A connection stands: those who wait for it are sent.
    fn dialled(
        &mut self,
        now: Instant,
        id: u64,
        connection: ConnectionId,
        pooled: bool,
        out: &mut Vec<Output>,
    ) {
        let Some(dial) = self.dials.remove(id) else { return };
        if let Some(back) = dial.back {
            self.way_found(now, back.lost, connection, out);
            self.no_way(now, back.lost, out);
        }
        for exchange in dial.waiting {
            if self
                .exchanges
                .get(exchange)
                .is_some_and(|e| e.waits() && e.destinations.front() == Some(&dial.destination))
            {
                self.send_on(now, exchange, connection, pooled, out);
            }
        }
    }

    pub(super) fn connect_failed(
        &mut self,
        now: Instant,
        attempt: AttemptId,
        error: &ConnectError,
        out: &mut Vec<Output>,
    ) {
        if self.probe_not_opened(now, attempt, error, out) {
            return;
        }
        let Some((Attempt { dial: id, target, owner }, _)) = self.attempt_ended(attempt) else {
            return;
        };
        let destination = self.dials.all.get(&id).map(|dial| &dial.destination);
        if matches!(destination, Some(Destination::InsideTcp(_))) {
            // Not when it is for a bound of ours.
            if matches!(error, ConnectError::Tcp(_)) {
                self.dials.tcp_refused(now, target.address);
            }
        } else if let Some(cause) = cause(error) {
            self.target_failed(now, &target, owner.clone(), cause, None, out);
        }
        if let Some(dial) = self.dials.all.get_mut(&id) {
            dial.failure = match (error, &owner) {
                (ConnectError::Limit, _) => Refusal::Overload.into(),
                (ConnectError::Tls(_), Some(_)) => Refusal::TlsFailed.into(),
                _ => UNREACHABLE,
            };
        }
        if let (ConnectError::Tls(_), Some(key)) = (error, owner) {
            // The detail names the fault: cipher suites, authority, expiry.
            out.push(Output::Event(Event::Refused {
                reason: Refusal::TlsFailed,
                remote: target.address,
                domain: Some(key),
                detail: error.to_string(),
            }));
        }
        self.try_next_target(now, id, out);
    }

    /// A connection was accepted, or one that was dialled stands.
    pub(super) fn opened(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        peer: Peer,
        attempt: Option<AttemptId>,
        out: &mut Vec<Output>,
    ) {
        let ended = attempt.and_then(|attempt| self.attempt_ended(attempt));
        if let Some((_, false)) = &ended {
            // Another address was faster.
            out.push(Output::Release { connection });
            return;
        }
        let tried = ended.map(|(tried, _)| tried);
        let dial = tried.as_ref().map(|tried| tried.dial);
        let domain = tried.as_ref().and_then(|tried| tried.owner.clone());
        let destination = dial.and_then(|id| self.dials.all.get(&id)).map(|d| &d.destination);
        let next_hop = match destination {
            Some(Destination::NextHop(index)) => Some(*index).filter(|index| *index != usize::MAX),
            _ => attempt.and_then(|attempt| self.probed_hop(now, attempt)),
        };
        let (side, remote) = (peer.side, peer.remote);
        self.connections.open(now, connection, peer.clone(), next_hop, attempt.is_some());
        if side == Side::Partner
            && let Some(blocked) = self.names_a_blocked_domain(now, connection)
        {
            let detail = format!("connection of {}", peer.names.description);
            self.note_refusal(&peer, Refusal::DomainBlocked, Some(blocked.clone()), detail, out);
            self.shut_blocked(now, connection, blocked, remote, out);
            if let Some(attempt) = attempt {
                self.probe_not_opened(now, attempt, &ConnectError::Limit, out);
            }
            if let Some(id) = dial {
                self.try_next_target(now, id, out);
            }
            return;
        }
        if attempt.is_some_and(|attempt| self.probe_opened(now, attempt, connection, out)) {
            return;
        }
        if attempt.is_none() {
            self.came_back(now, connection, out);
        }
        let Some(id) = dial else { return };
        match domain {
            Some(domain) if let Err(reason) = self.proves_now(now, connection, &domain, out) => {
                let detail = format!("{} answered for the domain", peer.names.description);
                self.note_refusal(&peer, reason, Some(domain.clone()), detail, out);
                self.close(now, connection, reason, out);
                if let Some(Attempt { target, .. }) = &tried {
                    self.target_failed(now, target, Some(domain), Cause::Identity, None, out);
                }
                if let Some(dial) = self.dials.all.get_mut(&id) {
                    dial.failure = Answer::with(504, "Server Time-out", reason);
                }
                self.try_next_target(now, id, out);
            }
            _ => self.dialled(now, id, connection, false, out),
        }
    }
}
