//! Connections that are made: one at a time for a destination, however many wait for it; each
//! address in turn; and nothing is sent before the certificate has proved the domain.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use super::{
    AttemptId, ConnectError, ConnectionId, Event, Output, Peer, Question, Refusal, ResolvedHost,
    Side, Target,
    lookups::{Asked, Known, Waiter},
    proxy::Proxy,
    respond::Answer,
    route::Destination,
};
use crate::config::{Host, Transport};

/// Addresses that are tried for one destination.
const MAX_TARGETS: usize = 16;

#[derive(Debug)]
struct Dial {
    destination: Destination,
    question: Option<Question>,
    targets: VecDeque<Target>,
    /// Exchanges that wait.
    waiting: Vec<u64>,
    /// Addresses that the one exchange it is for has tried in vain.
    avoid: Vec<SocketAddr>,
    failure: Answer,
    /// The address that is tried now.
    trying: Option<SocketAddr>,
}

/// Every dial under way. Bounded: one for a destination, and one for a waiting exchange that has
/// failed before.
#[derive(Debug, Default)]
pub(super) struct Dials {
    next: u64,
    next_attempt: u64,
    all: HashMap<u64, Dial>,
    shared: HashMap<Destination, u64>,
    by_attempt: HashMap<AttemptId, u64>,
}

impl Dials {
    /// When something is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        None
    }

    fn remove(&mut self, id: u64) -> Option<Dial> {
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
        let id = self.dials.next;
        self.dials.next += 1;
        if avoid.is_empty() {
            self.dials.shared.insert(destination.clone(), id);
        }
        let (question, relax) = self.question(&destination);
        let targets = match (&question, &destination) {
            (None, Destination::NextHop(index)) => self.next_hop_target(*index),
            (None, Destination::InsideUdp(address)) => Some(Target {
                side: Side::Inside,
                transport: Transport::Udp,
                address: *address,
                server_name: None,
                own: 0,
            }),
            _ => None,
        };
        self.dials.all.insert(
            id,
            Dial {
                destination,
                question: question.clone(),
                targets: targets.into_iter().collect(),
                waiting: vec![exchange],
                avoid,
                failure: UNREACHABLE,
                trying: None,
            },
        );
        match question {
            None => self.try_next_target(now, id, out),
            Some(question) => {
                let waiter = Waiter::Dial(id);
                let limit = self.config.bounds.waiting_for_one();
                match self.lookups.ask(now, &question, relax, waiter, limit, None, out) {
                    Asked::Waits => {}
                    Asked::Known => self.dial_resolved(now, id, out),
                    Asked::Full => self.dial_failed(now, id, out),
                }
            }
        }
    }

    /// Does what is due for dials.
    pub(super) fn dials_due(&mut self, _now: Instant, _out: &mut Vec<Output>) {}

    /// What DNS must say first.
    fn question(&self, destination: &Destination) -> (Option<Question>, bool) {
        match destination {
            Destination::Partner(key, _) => match self.policy.by_key(key) {
                Some(entry) => (Some(entry.question()), entry.lookup().relax),
                None => (None, false),
            },
            Destination::NextHop(index) => match self.config.next_hops.get(*index) {
                Some(hop) if matches!(hop.host, Host::Name(_)) => {
                    (Some(Question::NextHop(hop.clone())), false)
                }
                _ => (None, false),
            },
            Destination::InsideUdp(_) => (None, false),
        }
    }

    fn next_hop_target(&self, index: usize) -> Option<Target> {
        let hop = self.config.next_hops.get(index)?;
        let Host::Address(ip) = hop.host else { return None };
        Some(Target {
            side: Side::Inside,
            transport: hop.transport,
            address: SocketAddr::new(ip, hop.port),
            server_name: None,
            own: 0,
        })
    }

    /// DNS has answered for a dial.
    pub(super) fn dial_resolved(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        if !self.leave_to_carriers(now, id, out) {
            return;
        }
        let Some(dial) = self.dials.all.get(&id) else { return };
        let answer = dial.question.as_ref().and_then(|question| self.lookups.known(now, question));
        let (targets, fault) = match answer {
            Some(Ok(known)) => {
                (self.targets(&dial.destination, &known), Some(Refusal::ForeignTarget))
            }
            Some(Err(error)) => (VecDeque::new(), Some(error.into())),
            None => (VecDeque::new(), None),
        };
        if let Some(dial) = self.dials.all.get_mut(&id) {
            if let (Destination::Partner(..), true, Some(fault)) =
                (&dial.destination, targets.is_empty(), fault)
            {
                dial.failure = fault.into();
            }
            dial.targets = targets;
            let avoid = std::mem::take(&mut dial.avoid);
            dial.targets.retain(|target| !avoid.contains(&target.address));
            dial.avoid = avoid;
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

    fn targets(&self, destination: &Destination, known: &Known) -> VecDeque<Target> {
        let (side, transport) = match destination {
            Destination::NextHop(index) => {
                let hop = self.config.next_hops.get(*index);
                (Side::Inside, hop.map_or(Transport::Tls, |hop| hop.transport))
            }
            _ => (Side::Partner, Transport::Tls),
        };
        let entry = match destination {
            Destination::Partner(key, _) => self.policy.by_key(key),
            _ => None,
        };
        let own = match destination {
            Destination::Partner(_, own) => *own,
            _ => 0,
        };
        // With providers about, DNS was asked for targets anywhere: only the partner's own count.
        let counts = |host: &ResolvedHost| {
            entry.as_ref().is_none_or(|e| e.pinned().is_some() || e.accepts_target(&host.host))
        };
        known
            .resolved
            .hosts
            .iter()
            .filter(|host| counts(host))
            .flat_map(|host| {
                host.addresses.iter().map(move |address| Target {
                    side,
                    transport,
                    address: SocketAddr::new(*address, host.port),
                    server_name: Some(host.host.clone()),
                    own,
                })
            })
            .take(MAX_TARGETS)
            .collect()
    }

    fn try_next_target(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        // A connection that is there may prove the domain now that DNS has answered.
        if let Some(dial) = self.dials.all.get(&id)
            && let Destination::Partner(domain, _) = dial.destination.clone()
        {
            let open = dial.targets.iter().find_map(|target| {
                let mut all = self.connections.iter();
                all.find(|(_, c)| {
                    let peer = &c.peer;
                    peer.side == Side::Partner
                        && peer.remote == target.address
                        && peer.own == target.own
                })
            });
            if let Some(open) = open.map(|(open, _)| open)
                && self.proves_now(now, open, &domain, out).is_ok()
            {
                return self.dialled(now, id, open, true, out);
            }
        }
        let Some(dial) = self.dials.all.get_mut(&id) else { return };
        match dial.targets.pop_front() {
            Some(target) => {
                dial.trying = Some(target.address);
                let attempt = AttemptId(self.dials.next_attempt);
                self.dials.next_attempt += 1;
                self.dials.by_attempt.insert(attempt, id);
                out.push(Output::Connect { attempt, target });
            }
            None => self.dial_failed(now, id, out),
        }
    }

    fn dial_failed(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(dial) = self.dials.remove(id) else { return };
        if let Destination::NextHop(index) = dial.destination {
            self.hop_failed(now, index);
        }
        for exchange in dial.waiting {
            self.destination_failed(now, exchange, &dial.destination, dial.failure, out);
        }
    }

    pub(super) fn hop_failed(&mut self, now: Instant, index: usize) {
        self.hops.failed(now, index);
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
        if let Destination::NextHop(index) = dial.destination {
            self.hops.alive(index);
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
        let Some(id) = self.dials.by_attempt.remove(&attempt) else { return };
        if let Some(dial) = self.dials.all.get_mut(&id) {
            if let (ConnectError::Tls(_), Destination::Partner(key, _), Some(remote)) =
                (error, &dial.destination, dial.trying)
            {
                // The detail names the fault: cipher suites, authority, expiry.
                out.push(Output::Event(Event::Refused {
                    reason: Refusal::TlsFailed,
                    remote,
                    domain: Some(key.clone()),
                    detail: error.to_string(),
                }));
            }
            dial.failure = match (error, &dial.destination) {
                (ConnectError::Limit, _) => Refusal::Overload.into(),
                (ConnectError::Tls(_), Destination::Partner(..)) => Refusal::TlsFailed.into(),
                _ => UNREACHABLE,
            };
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
        let dial = attempt.and_then(|attempt| self.dials.by_attempt.remove(&attempt));
        let destination = dial.and_then(|id| self.dials.all.get(&id)).map(|d| &d.destination);
        let next_hop = match destination {
            Some(Destination::NextHop(index)) => Some(*index).filter(|index| *index != usize::MAX),
            _ => None,
        };
        let domain = match destination {
            Some(Destination::Partner(domain, _)) => Some(domain.clone()),
            _ => None,
        };
        let (side, remote) = (peer.side, peer.remote);
        self.connections.open(connection, peer.clone(), next_hop, dial.is_some());
        if side == Side::Partner
            && let Some(blocked) = self.names_a_blocked_domain(now, connection)
        {
            let domain = blocked.clone();
            out.push(Output::Event(Event::Proved { connection, domain, remote }));
            let detail = format!("connection of {}", peer.names.description);
            self.note_refusal(&peer, Refusal::DomainBlocked, Some(blocked), detail, out);
            self.close(now, connection, Refusal::DomainBlocked, out);
            if let Some(id) = dial {
                self.try_next_target(now, id, out);
            }
            return;
        }
        let Some(id) = dial else { return };
        match domain {
            Some(domain) if let Err(reason) = self.proves_now(now, connection, &domain, out) => {
                let detail = format!("{} answered for the domain", peer.names.description);
                self.note_refusal(&peer, reason, Some(domain), detail, out);
                self.close(now, connection, reason, out);
                if let Some(dial) = self.dials.all.get_mut(&id) {
                    dial.failure = Answer::with(504, "Server Time-out", reason);
                }
                self.try_next_target(now, id, out);
            }
            _ => self.dialled(now, id, connection, false, out),
        }
    }
}
