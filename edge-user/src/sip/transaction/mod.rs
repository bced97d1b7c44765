//! Transactions: RFC 3261 section 17 as corrected by RFC 6026, for a proxy (sections 16.7, 16.8),
//! without sockets and with a clock that the caller hands in.
//!
//! # How a proxy uses it
//! ```text
//! wire    -> receive_request(now, origin, &message)  -> Incoming   new | again | ACK | CANCEL
//! wire    -> receive_response(now, origin, &message) -> Answer     deliver | absorbed | stray
//! proxy   -> respond(now, server, status, bytes)                   an answer, ours or forwarded
//! proxy   -> send(now, Outgoing { .. })              -> ClientId   a request on its way
//! proxy   -> cancel(now, client)                                   a CANCEL, now or when it may go
//! wire    -> flow_closed(now, flow)                                a connection is gone
//! clock   -> handle_timeout(now), due at next_timeout()
//! after each call: while let Some(event) = poll() { .. }           what to write, what has ended
//! ```
//! - Messages stay with the caller; the table keeps bytes only while the RFC may need them again:
//!   on a reliable transport that is the INVITE until its final response, and nothing else.
//! - The proxy sends 100 itself (`respond` with 100) as soon as it has an INVITE.
//! - ACK for a 2xx and BENOTIFY have no transaction: [`Incoming::Stateless`], forward them.
//! - The ACK for a final response other than 2xx is sent by the table. So is a CANCEL, with a
//!   transaction of its own whose responses are absorbed.
//! - When the table says [`Event::ServerEnded`] or [`Event::ClientEnded`], the id is dead: drop
//!   what is kept for it. Every id that was handed out ends so, once.
//!
//! # Who is who
//! A transaction belongs to a `scope`: an opaque number the caller gives for the proven peer (or
//! the connection, where nothing is proven). Requests and responses from another scope never
//! match, so one partner cannot cancel, acknowledge or answer for another by guessing a branch.
//! The scope, not the connection, is part of the key: an ACK may come over a peer's second
//! connection.
//!
//! # Bounds
//! At most [`Timing::max`] server and as many client transactions; timers cost one heap entry
//! each; what is finished leaves at once on reliable transports (timers D, I, J, K are zero), and
//! an INVITE with a 2xx stays 64*T1 without its bytes (timers L, M).
//!
//! What this module must never do: decide policy, route, or look at a message beyond what makes
//! its key.

mod client;
mod key;
mod server;
mod table;
#[cfg(test)]
mod tests;
mod timer;
mod types;

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;

use super::{Limits, Message, Method, build};
use client::Client;
use key::KeyMaker;
use server::{AckFor, Server};
use table::{Machine, Slot, Table};
use timer::Expiry;
pub use types::*;

/// The table of all transactions.
#[derive(Debug)]
pub struct Transactions<F: Flow> {
    timing: Timing,
    keys: KeyMaker,
    table: Table<F>,
    events: VecDeque<Event<F>>,
    servers: usize,
    clients: usize,
}

impl<F: Flow> Transactions<F> {
    /// An empty table.
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            keys: KeyMaker::default(),
            table: Table::default(),
            events: VecDeque::new(),
            servers: 0,
            clients: 0,
        }
    }

    /// Server transactions at present.
    pub fn servers(&self) -> usize {
        self.servers
    }

    /// Client transactions at present.
    pub fn clients(&self) -> usize {
        self.clients
    }

    /// Timers held, the stale ones too.
    pub fn timers_held(&self) -> usize {
        self.table.timers_held()
    }

    /// What to do next; call until `None` after every other call.
    pub fn poll(&mut self) -> Option<Event<F>> {
        self.events.pop_front()
    }

    /// When [`Transactions::handle_timeout`] is due.
    pub fn next_timeout(&mut self) -> Option<Instant> {
        self.table.next_timeout()
    }

    /// A request came. The message stays with the caller.
    pub fn receive_request(
        &mut self,
        now: Instant,
        origin: Origin<F>,
        message: &Message,
    ) -> Incoming {
        let Some(method) = message.method() else { return Incoming::Unkeyed };
        if method == Method::Benotify {
            return Incoming::Stateless;
        }
        let asked = if method == Method::Ack { Method::Invite } else { method };
        let Some(key) = self.keys.server(origin.scope, message, asked) else {
            return Incoming::Unkeyed;
        };
        if let Some(slot) = self.table.find(key) {
            return self.known_request(now, slot, method == Method::Ack);
        }
        if method == Method::Ack {
            return Incoming::Stateless;
        }
        if self.servers >= self.timing.max {
            return Incoming::Full;
        }
        let server = Server::new(now, &self.timing, method == Method::Invite, origin.reliable);
        let slot = self.table.insert(key, origin, Machine::Server(server));
        self.servers += 1;
        if method != Method::Cancel {
            return Incoming::New(ServerId(slot));
        }
        let invite = self.keys.server(origin.scope, message, Method::Invite);
        let invite = invite.and_then(|key| self.table.find(key)).filter(|slot| {
            matches!(self.table.machine(*slot), Some(Machine::Server(s)) if s.is_unanswered())
        });
        Incoming::Cancel { cancel: ServerId(slot), invite: invite.map(ServerId) }
    }

    fn known_request(&mut self, now: Instant, slot: Slot, is_ack: bool) -> Incoming {
        let Some(entry) = self.table.entry(slot) else { return Incoming::Absorbed };
        let Machine::Server(server) = &mut entry.machine else { return Incoming::Absorbed };
        if !is_ack {
            let again = server.retransmitted();
            self.write(slot, again);
            return Incoming::Absorbed;
        }
        match server.ack(now, &self.timing) {
            AckFor::Us { ended } => {
                self.settle(slot, ended);
                Incoming::Absorbed
            }
            AckFor::User => Incoming::Stateless,
        }
    }

    /// A response came. The message stays with the caller.
    pub fn receive_response(
        &mut self,
        now: Instant,
        origin: Origin<F>,
        message: &Message,
    ) -> Answer {
        let (Some(status), Ok(via), Ok(cseq)) = (message.status(), message.via(), message.cseq())
        else {
            return Answer::Stray;
        };
        let key = via.branch.map(|branch| self.keys.client(origin.scope, branch, cseq.method));
        let Some(slot) = key.and_then(|key| self.table.find(key)) else { return Answer::Stray };
        let Some(Machine::Client(client)) = self.table.entry(slot).map(|e| &mut e.machine) else {
            return Answer::Stray;
        };
        let step = client.response(now, &self.timing, status, |invite| {
            let invite = Message::parse_datagram(invite.clone(), &own_limits()).ok()?;
            build::ack(&invite, message).ok()
        });
        let hidden = client.is_hidden();
        self.write(slot, step.send);
        if step.cancel {
            self.send_cancel(now, slot);
        }
        self.settle(slot, step.ended);
        match step.deliver && !hidden {
            true => Answer::Deliver(ClientId(slot)),
            false => Answer::Absorbed,
        }
    }

    /// Answers a request: a response of ours, or one that came for the request's forwarded form.
    pub fn respond(
        &mut self,
        now: Instant,
        id: ServerId,
        status: u16,
        bytes: Bytes,
    ) -> Result<(), TransactionError> {
        let Some(Machine::Server(server)) = self.table.entry(id.0).map(|e| &mut e.machine) else {
            return Err(TransactionError::Ended);
        };
        let ended = server.respond(now, &self.timing, status, &bytes)?;
        self.write(id.0, Some(bytes));
        self.settle(id.0, ended);
        Ok(())
    }

    /// Sends a request in a transaction of its own.
    pub fn send(
        &mut self,
        now: Instant,
        request: Outgoing<'_, F>,
    ) -> Result<ClientId, TransactionError> {
        self.start(now, request, false).map(ClientId)
    }

    fn start(
        &mut self,
        now: Instant,
        request: Outgoing<'_, F>,
        hidden: bool,
    ) -> Result<Slot, TransactionError> {
        if self.clients >= self.timing.max {
            return Err(TransactionError::Full);
        }
        let key = self.keys.client(request.to.scope, request.branch, request.method);
        if self.table.find(key).is_some() {
            return Err(TransactionError::BranchInUse);
        }
        let invite = request.method == Method::Invite;
        let reliable = request.to.reliable;
        let client = Client::new(now, &self.timing, invite, reliable, hidden, &request.bytes);
        let slot = self.table.insert(key, request.to, Machine::Client(client));
        self.clients += 1;
        self.write(slot, Some(request.bytes));
        Ok(slot)
    }

    /// Cancels an INVITE that was sent: at once when a provisional response has come, else when
    /// one comes (RFC 3261 section 9.1). Does nothing when it has a final response. If no final
    /// response follows within 64*T1, the transaction ends with [`Event::Timeout`].
    pub fn cancel(&mut self, now: Instant, id: ClientId) {
        if let Some(Machine::Client(client)) = self.table.entry(id.0).map(|e| &mut e.machine)
            && client.cancel(now, &self.timing)
        {
            self.send_cancel(now, id.0);
            self.table.schedule(id.0);
        }
    }

    /// Forgets a client transaction: later responses are stray.
    pub fn abandon(&mut self, id: ClientId) {
        if matches!(self.table.machine(id.0), Some(Machine::Client(_))) {
            self.end(id.0);
        }
    }

    /// Writes the responses of a server transaction to another flow from now on.
    pub fn reroute(&mut self, id: ServerId, flow: F) {
        self.table.set_flow(id.0, flow);
    }

    /// A flow is gone: its unanswered client transactions end with [`Event::TransportError`], its
    /// unanswered server transactions report [`Event::FlowLost`].
    pub fn flow_closed(&mut self, flow: F) {
        for slot in self.table.take_flow(flow) {
            match self.table.machine(slot) {
                Some(Machine::Client(client)) => {
                    if client.is_unanswered() && !client.is_hidden() {
                        self.events.push_back(Event::TransportError(ClientId(slot)));
                    }
                    // A 2xx may be repeated over another connection of the same peer.
                    if !client.is_accepted() {
                        self.end(slot);
                    }
                }
                Some(Machine::Server(server)) if server.is_unanswered() => {
                    self.events.push_back(Event::FlowLost(ServerId(slot)));
                }
                _ => {}
            }
        }
    }

    /// Time has passed: does what is due by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(slot) = self.table.due(now) {
            let Some(entry) = self.table.entry(slot) else { continue };
            let expiry = match &mut entry.machine {
                Machine::Server(server) => server.timeout(now, &self.timing),
                Machine::Client(client) => client.timeout(now, &self.timing),
            };
            self.expire(now, slot, expiry);
        }
    }

    fn expire(&mut self, now: Instant, slot: Slot, expiry: Expiry) {
        let hidden = matches!(self.table.machine(slot),
            Some(Machine::Client(client)) if client.is_hidden());
        match expiry {
            Expiry::Resend(bytes) => {
                self.write(slot, Some(bytes));
                self.settle(slot, false);
            }
            Expiry::Nothing => self.settle(slot, false),
            Expiry::Ended => self.settle(slot, true),
            Expiry::NotAcknowledged => {
                self.events.push_back(Event::NotAcknowledged(ServerId(slot)));
                self.settle(slot, true);
            }
            Expiry::Timeout => {
                if !hidden {
                    self.events.push_back(Event::Timeout(ClientId(slot)));
                }
                self.settle(slot, true);
            }
            Expiry::TimerC => {
                self.events.push_back(Event::TimerC(ClientId(slot)));
                self.send_cancel(now, slot);
                self.settle(slot, false);
            }
        }
    }

    /// Sends the CANCEL of an INVITE in a hidden transaction.
    fn send_cancel(&mut self, now: Instant, slot: Slot) {
        let Some(entry) = self.table.entry(slot) else { return };
        let to = entry.origin;
        let Machine::Client(client) = &entry.machine else { return };
        let Some(invite) = client.request().cloned() else { return };
        let Ok(invite) = Message::parse_datagram(invite, &own_limits()) else { return };
        let (Ok(bytes), Ok(via)) = (build::cancel(&invite), invite.via()) else { return };
        let Some(branch) = via.branch else { return };
        // When the table is full the INVITE still ends by its own timer.
        let _ = self.start(now, Outgoing { to, branch, method: Method::Cancel, bytes }, true);
    }

    fn write(&mut self, slot: Slot, bytes: Option<Bytes>) {
        if let (Some(flow), Some(bytes)) = (self.table.open_flow(slot), bytes) {
            self.events.push_back(Event::Send { flow, bytes });
        }
    }

    /// After a step: frees what has ended, sets the timer of what has not.
    fn settle(&mut self, slot: Slot, ended: bool) {
        if ended { self.end(slot) } else { self.table.schedule(slot) }
    }

    fn end(&mut self, slot: Slot) {
        match self.table.remove(slot) {
            Some(Machine::Server(_)) => {
                self.servers = self.servers.saturating_sub(1);
                self.events.push_back(Event::ServerEnded(ServerId(slot)));
            }
            Some(Machine::Client(client)) => {
                self.clients = self.clients.saturating_sub(1);
                if !client.is_hidden() {
                    self.events.push_back(Event::ClientEnded(ClientId(slot)));
                }
            }
            None => {}
        }
    }
}

/// For messages that we sent ourselves: what came in within its limits has grown a little.
fn own_limits() -> Limits {
    Limits { head: usize::MAX, body: usize::MAX, headers: usize::MAX, line: usize::MAX }
}
