//! Sending a request on, to the first destination that takes it (RFC 3261 sections 16.6, 16.9),
//! and ending it when none does.

use std::{borrow::Cow, time::Instant};

use bytes::Bytes;

use super::{
    ConnectionId, Event, Output, Peer, Refusal,
    descriptions::NewBody,
    exchange::{
        Client, ClientState, Exchange, Kind, LONG_SILENCE, MAX_ATTEMPTS, SILENCE, Server, Stage,
        T1, TRANSACTION,
    },
    neighbours,
    proxy::Proxy,
    record_route::Rewrite,
    request::refusal_detail,
    respond::{self, Answer},
    route::Destination,
    settings::Branch,
    target::Blame,
    ways_back::sender,
};
use crate::{
    config::Transport,
    federation::{Cause, TargetKey},
    sip::{ForwardRequest, HeaderName, Limits, Message, Scheme, build},
};

/// A request longer than this goes by TCP, if it can (RFC 3261 section 18.1.1).
const LONG_DATAGRAM: usize = 1300;
/// Bytes of a datagram's payload at most, over IPv4 (RFC 768, RFC 791) and IPv6.
const LONGEST_DATAGRAM: [usize; 2] = [65_507, 65_527];

/// Whether the transport carries a message of this length.
pub(super) fn fits(peer: &Peer, bytes: &Bytes) -> bool {
    let most = LONGEST_DATAGRAM[usize::from(peer.remote.is_ipv6())];
    peer.transport != Transport::Udp || bytes.len() <= most
}

impl Proxy {
    /// Sends an exchange to its next destination, or has it wait for one; concludes it when
    /// there is none left.
    pub(super) fn advance(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let (preferred, inbound) = (exchange.preferred, exchange.inbound);
        let next = exchange.destinations.front().cloned();
        let (tried, entry) = (exchange.tried.clone(), exchange.entry.clone());
        let exhausted = exchange.attempt >= MAX_ATTEMPTS;
        if let Some(connection) = preferred {
            self.exchanges.update(id, |exchange| exchange.preferred = None);
            let proved = match (inbound, &entry) {
                (false, Some(entry)) => self.connections.has_proved(now, connection, entry.key()),
                _ => self.connections.get(connection).is_some(),
            };
            if proved {
                return self.send_on(now, id, connection, true, out);
            }
        }
        let Some(destination) = next.filter(|_| !exhausted) else {
            if self.exchanges.get(id).is_some_and(Exchange::may_be_answered_yet) {
                self.exchanges.update(id, |exchange| {
                    exchange.stage = Stage::Over;
                    exchange.timeout = Some(now + LONG_SILENCE);
                });
                return;
            }
            let failure = self.exchanges.get(id).and_then(|exchange| exchange.failure);
            return self.conclude(now, id, failure.unwrap_or(Refusal::Unreachable.into()), out);
        };
        let pooled = match destination {
            // That one or none.
            Destination::Flow(connection) => match self.connections.get(connection) {
                Some(_) => Some(connection),
                None => {
                    let remote = self.exchanges.get(id).is_some_and(|exchange| exchange.remote);
                    let gone = if remote { Refusal::FlowFailed } else { Refusal::Unreachable };
                    return self.conclude(now, id, gone.into(), out);
                }
            },
            _ => self.take_pooled(now, &destination, &tried, out),
        };
        if let Some(connection) = pooled {
            return self.send_on(now, id, connection, true, out);
        }
        let until = now + self.config.bounds.wait;
        self.exchanges.update(id, |exchange| {
            exchange.stage = Stage::Connecting;
            exchange.timeout = Some(until);
        });
        self.dial(now, id, destination, tried, out);
    }

    /// A destination cannot be reached: the next one.
    #[cold]
    pub(super) fn destination_failed(
        &mut self,
        now: Instant,
        id: u64,
        destination: &Destination,
        failure: Answer,
        out: &mut Vec<Output>,
    ) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if !exchange.waits() || exchange.destinations.front() != Some(destination) {
            return;
        }
        self.exchanges.update(id, |exchange| {
            // What a server answered says more than that another was not there.
            exchange.failure.get_or_insert(failure);
            exchange.destinations.pop_front();
        });
        self.advance(now, id, out);
    }

    /// Sends the request over a connection.
    pub(super) fn send_on(
        &mut self,
        now: Instant,
        id: u64,
        connection: ConnectionId,
        pooled: bool,
        out: &mut Vec<Output>,
    ) {
        let Some(used) = self.connections.get_mut(connection) else { return };
        used.used = now;
        let peer = used.peer.clone();
        let body = match self.media_of_request(now, id, (connection, &peer), out) {
            Ok(body) => body,
            Err(answer) => return self.conclude(now, id, answer, out),
        };
        let Some((bytes, rewrite)) = self.outgoing(now, id, connection, &peer, body) else {
            return self.conclude(now, id, Refusal::Malformed.into(), out);
        };
        if self.wants_tcp(now, id, &peer, &bytes) {
            self.exchanges.update(id, |exchange| {
                exchange.long = true;
                exchange.stage = Stage::Over;
                exchange.destinations.push_front(Destination::InsideTcp(peer.remote));
            });
            return self.advance(now, id, out);
        }
        if !fits(&peer, &bytes) {
            return self.conclude(now, id, Answer::new(513, "Message Too Large"), out);
        }
        out.push(Output::Send { connection, bytes: bytes.clone() });
        self.note_forwarded(now, id, out);
        let reliable = peer.transport != Transport::Udp;
        let kind = self.exchanges.update(id, |exchange| {
            let left = if exchange.may_be_answered_yet() { LONG_SILENCE } else { TRANSACTION };
            exchange.attempt += 1;
            exchange.rewrite = rewrite;
            exchange.stage = Stage::Sent(Client {
                connection,
                remote: peer.remote,
                transport: peer.transport,
                reliable,
                state: ClientState::Calling,
                pooled,
                sent: if reliable && exchange.kind != Kind::Invite { Bytes::new() } else { bytes },
                cancel: None,
                until: now + left,
            });
            exchange.timeout = Some(now + TRANSACTION);
            exchange.resend = (!reliable).then_some((now + T1, T1));
            exchange.kind
        });
        let patience = match kind {
            Some(Kind::OneWay) => return drop(self.exchanges.remove(id)),
            Some(Kind::Invite) => SILENCE,
            Some(Kind::NonInvite) => LONG_SILENCE,
            None => return,
        };
        // What is left of timer F after one silence is another one.
        let elsewhere = |e: &Exchange| e.may_be_answered_yet() || self.has_elsewhere(now, e);
        if self.exchanges.get(id).is_some_and(elsewhere) {
            self.exchanges.update(id, |exchange| exchange.timeout = Some(now + patience));
        }
    }

    /// Whether a request is to go by TCP to where it would go by UDP, since it is long (RFC 3261
    /// section 18.1.1). Who has refused that has it by UDP.
    fn wants_tcp(&self, now: Instant, id: u64, peer: &Peer, bytes: &Bytes) -> bool {
        peer.transport == Transport::Udp
            && bytes.len() > LONG_DATAGRAM
            && self.exchanges.get(id).is_some_and(|exchange| !exchange.long)
            && !self.dials.refuses_tcp(now, peer.remote)
    }

    fn note_forwarded(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id).filter(|exchange| exchange.attempt == 0) else {
            return;
        };
        let Some(method) = exchange.request.as_ref().and_then(Message::method) else { return };
        self.counters.forward(method, exchange.inbound);
        if let Some(partner) = exchange.partner.clone() {
            let inbound = exchange.inbound;
            let method = match method.known() {
                Some(name) => Cow::Borrowed(name),
                None => Cow::Owned(method.as_str().to_owned()),
            };
            self.note_request(now, &partner, inbound);
            out.push(Output::Event(Event::Forwarded { method, partner, inbound }));
        }
    }

    /// The request as it goes out to a peer, with the Record-Route text to rewrite later.
    fn outgoing(
        &mut self,
        now: Instant,
        id: u64,
        connection: ConnectionId,
        peer: &Peer,
        body: Option<NewBody>,
    ) -> Option<(Bytes, Option<Rewrite>)> {
        let exchange = self.exchanges.get(id)?;
        let request = exchange.request.as_ref()?;
        let attempt = exchange.attempt + 1;
        let via = self.config.via(peer, Branch { exchange: id, attempt, hash: exchange.hash });
        let hops = request.max_forwards().ok()?.map_or(70, |hops| hops.saturating_sub(1));
        let mut forward = ForwardRequest::new(&via, hops);
        forward.received = Some(respond::received(&exchange.from_peer));
        forward.remove_routes = exchange.remove_routes;
        let mut change = self.request_headers(exchange);
        neighbours::hide(request, !exchange.inbound, &mut change.remove);
        if let Some(body) = &body {
            forward.body = Some(body.bytes());
            if body.is_taken_out() {
                change.remove.push(HeaderName::ContentType);
            }
        }
        let mut add = change.added();
        add.extend(neighbours::breadth(request));
        let path = self.path_of(exchange, request, peer);
        add.extend(path.as_deref().map(|path| ("Path", path)));
        forward.remove = &change.remove;
        forward.add = &add;
        if !exchange.record {
            return Some((forward.apply(request).ok()?, None));
        }
        let rewrite = self.record(now, id, connection, peer)?;
        let exchange = self.exchanges.get(id)?;
        let request = exchange.request.as_ref()?;
        let uri = request.request_uri().and_then(Result::ok);
        let secure = uri.is_some_and(|uri| uri.scheme() == Scheme::Sips);
        let to_them = self.config.record_route(peer, &rewrite.initial, secure);
        let to_sender = self.config.record_route(&exchange.from_peer, &rewrite.initial, secure);
        let values = [to_them.as_str(), to_sender.as_str()];
        forward.record_routes = &values;
        let bytes = forward.apply(request).ok()?;
        Some((bytes, Some(rewrite)))
    }

    /// A final response of our own; the request goes no further.
    #[cold]
    pub(super) fn conclude(
        &mut self,
        now: Instant,
        id: u64,
        answer: Answer,
        out: &mut Vec<Output>,
    ) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if exchange.server != Server::Proceeding {
            return;
        }
        if let (Some(reason), Some(request)) = (answer.reason, &exchange.request) {
            let (peer, domain) = (exchange.from_peer.clone(), exchange.partner.clone());
            let detail = match &exchange.detail {
                Some(detail) => detail.to_string(),
                None => refusal_detail(request),
            };
            self.note_refusal(&peer, reason, domain, detail, out);
        }
        let bytes = self.own_answer(id, answer);
        let keeps_client = self
            .exchanges
            .get(id)
            .is_some_and(|exchange| exchange.kind == Kind::Invite && exchange.client().is_some());
        if !keeps_client {
            self.exchanges.update(id, |exchange| exchange.stage = Stage::Over);
        }
        match bytes {
            Some(bytes) => self.finish(now, id, answer.status, bytes, out),
            None => {
                self.exchanges.remove(id);
            }
        }
    }

    /// A response of our own; none to what takes none.
    pub(super) fn own_answer(&self, id: u64, answer: Answer) -> Option<Bytes> {
        let exchange = self.exchanges.get(id).filter(|exchange| exchange.kind != Kind::OneWay)?;
        let request = exchange.request.as_ref()?;
        // 100 has none.
        let tag = match answer.status {
            100 => String::new(),
            _ => self.stateless_tag(request),
        };
        let about = respond::About { domain: exchange.partner.as_ref(), tag: &tag };
        respond::answer(self, request, &exchange.from_peer, about, answer)
    }

    /// Sends towards the sender, if it is still there; holds it while there may be another way.
    pub(super) fn send_back(&mut self, id: u64, bytes: Bytes, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let connection = exchange.from;
        if self.connections.get(connection).is_some() {
            out.push(Output::Send { connection, bytes });
        } else {
            self.ways_back.hold(connection, sender(exchange), bytes);
        }
    }

    /// Sends the final response and keeps what its transaction still needs.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        id: u64,
        status: u16,
        bytes: Bytes,
        out: &mut Vec<Output>,
    ) {
        self.meter_outcome(now, id, status, out);
        if status >= 300 {
            self.media_in_vain(now, id, out);
        }
        let kept = self.exchanges.get(id).is_some_and(|exchange| match exchange.kind {
            Kind::Invite => status >= 300,
            _ => !exchange.sender_is_reliable(),
        });
        let kept = kept.then(|| bytes.clone());
        self.send_back(id, bytes, out);
        let stays = self.exchanges.update(id, |exchange| {
            exchange.answered = true;
            exchange.trying = None;
            exchange.cancel_came = None;
            exchange.end = Some(now + TRANSACTION);
            let accepted = exchange.kind == Kind::Invite && status < 300;
            if accepted {
                // RFC 6026: retransmitted 2xx pass through; nothing of the request is needed.
                exchange.server = Server::Accepted;
                exchange.last_response = None;
                exchange.request = None;
                exchange.timeout = None;
                return true;
            }
            exchange.server = Server::Completed;
            let invite = exchange.kind == Kind::Invite;
            let unreliable = !exchange.sender_is_reliable();
            exchange.last_response = kept;
            exchange.server_resend = (invite && unreliable).then_some((now + T1, T1));
            // A cancelled or late client side still waits for its own end.
            let open = exchange.client().is_some_and(|client| {
                invite && matches!(client.state, ClientState::Calling | ClientState::Proceeding)
            });
            if !open {
                exchange.request = None;
                exchange.timeout = None;
                exchange.resend = None;
            }
            invite || unreliable
        });
        match stays {
            Some(false) => drop(self.exchanges.remove(id)),
            _ => self.exchanges.retire(now, id),
        }
    }

    /// Ends an exchange because its partner may no longer speak.
    #[cold]
    pub(super) fn abandon(
        &mut self,
        now: Instant,
        id: u64,
        reason: Refusal,
        out: &mut Vec<Output>,
    ) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if exchange.server != Server::Proceeding {
            return;
        }
        self.send_cancel(now, id, out);
        self.conclude(now, id, reason.into(), out);
    }

    /// The sender gave up, or timer C fired: the INVITE is cancelled downstream.
    pub(super) fn cancel(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if exchange.server != Server::Proceeding || exchange.kind != Kind::Invite {
            return;
        }
        match exchange.client() {
            None => self.conclude(now, id, Answer::new(487, "Request Terminated"), out),
            Some(_) => self.send_cancel(now, id, out),
        }
    }

    /// Sends CANCEL once the INVITE has a provisional response; before, it is remembered (RFC
    /// 3261 section 9.1).
    pub(super) fn send_cancel(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        self.exchanges.update(id, |exchange| exchange.cancelled = true);
        let Some(exchange) = self.exchanges.get(id) else { return };
        let Some(client) = exchange.client() else { return };
        if exchange.kind != Kind::Invite
            || client.state != ClientState::Proceeding
            || client.cancel.is_some()
        {
            return;
        }
        let why = exchange.cancel_came.as_deref().map(why_cancelled).unwrap_or_default();
        let Some(bytes) = Message::parse_datagram(client.sent.clone(), &own_limits())
            .ok()
            .and_then(|invite| build::cancel_because(&invite, &why).ok())
        else {
            return;
        };
        out.push(Output::Send { connection: client.connection, bytes: bytes.clone() });
        self.exchanges.update(id, |exchange| {
            exchange.timeout = Some(now + TRANSACTION);
            if let Some(client) = exchange.client_mut() {
                let reliable = client.reliable;
                client.cancel = Some(bytes);
                exchange.resend = (!reliable).then_some((now + T1, T1));
            }
        });
    }

    /// The connection a request was sent on is gone: as if 503 had come (RFC 3261 section 16.9).
    #[cold]
    pub(super) fn receiver_left(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let Some(client) = exchange.client() else { return };
        if matches!(client.state, ClientState::Completed | ClientState::Accepted) {
            return;
        }
        // One that had been lying idle may have been closed as we wrote: once more, afresh.
        let key = TargetKey { address: client.remote, transport: client.transport };
        let blame = Blame { key, cause: Cause::Lost, retry_after: None };
        let blame = (!client.pooled).then_some(blame);
        let to_user = exchange.remote && !exchange.inbound;
        let failure = if to_user { Refusal::FlowFailed } else { Refusal::Unreachable };
        self.try_elsewhere(now, id, blame, Answer::from(failure), out);
    }

    /// This destination failed after the request went out: the next one, unless something was
    /// passed back already.
    #[cold]
    pub(super) fn try_elsewhere(
        &mut self,
        now: Instant,
        id: u64,
        blame: Option<Blame>,
        failure: Answer,
        out: &mut Vec<Output>,
    ) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let final_now = exchange.answered || exchange.cancelled;
        let over = exchange.server != Server::Proceeding;
        let destination = exchange.destinations.front().cloned();
        let to_user = matches!(destination, Some(Destination::Flow(_)));
        if let (Some(blame), Some(destination)) = (blame, destination) {
            self.blame(now, &destination, blame, out);
        }
        if over {
            self.exchanges.update(id, |exchange| {
                exchange.stage = Stage::Over;
                exchange.timeout = None;
                exchange.resend = None;
            });
            return;
        }
        self.exchanges.update(id, |exchange| {
            exchange.stage = Stage::Over;
            exchange.resend = None;
            exchange.timeout = None;
            exchange.failure = Some(failure);
            exchange.tried.extend(blame.map(|blame| blame.key.address));
            if to_user
                || (blame.is_some()
                    && matches!(
                        exchange.destinations.front(),
                        Some(Destination::InsideUdp(_) | Destination::InsideTcp(_))
                    ))
            {
                exchange.destinations.pop_front();
            }
        });
        if final_now {
            let answer = match self.exchanges.get(id).map(|exchange| exchange.cancelled) {
                Some(true) => Answer::new(487, "Request Terminated"),
                _ => Answer { status: 500, phrase: "Server Internal Error", ..failure },
            };
            return self.conclude(now, id, answer, out);
        }
        self.advance(now, id, out);
    }
}

/// What a CANCEL says of why it was sent, and what its receiver is told too (RFC 3326 section 2; MS-OCER
/// has at most one reason).
fn why_cancelled(cancel: &Message) -> Vec<(&str, &[u8])> {
    [(HeaderName::Reason, 4), (HeaderName::MsDiagnosticsPublic, 1)]
        .into_iter()
        .flat_map(|(name, most)| cancel.headers(name).take(most))
        .map(|header| (header.name.as_str(), header.value))
        .collect()
}

/// For messages that we wrote: they were within the peer's limits, and grew by a little.
pub(super) fn own_limits() -> Limits {
    Limits { head: 256 * 1024, body: 16 * 1024 * 1024, headers: 1024, line: 64 * 1024 }
}
