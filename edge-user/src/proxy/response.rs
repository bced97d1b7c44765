//! Responses that come in (RFC 3261 section 16.7): only on the connection their request went to.

use std::time::Instant;

use bytes::Bytes;

use super::{
    ConnectionId, Output, Peer, Refusal, Side,
    admit::sip_domain,
    descriptions::NewBody,
    exchange::{Client, ClientState, Exchange, Kind, Server, Stage, T2, TIMER_C, TRANSACTION},
    neighbours,
    proxy::Proxy,
    record_route::sent_back,
    respond::Answer,
    send::{fits, own_limits},
    settings::Branch,
    target::{Blame, retry_after},
};
use crate::{
    federation::{Cause, TargetKey},
    sip::{HeaderName, Message, Method, NameAddr, build},
};

impl Proxy {
    pub(super) fn on_response(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        peer: &Peer,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        if let Err(error) = message.validate() {
            let detail = format!("response: {error}");
            return self.note_refusal(peer, Refusal::Malformed, None, detail, out);
        }
        let branch = message.via().ok().and_then(|via| via.branch).and_then(Branch::parse);
        if branch.is_some_and(|b| self.probe_answered(now, b, connection, &message, out)) {
            return;
        }
        if branch.is_some_and(|b| self.hung_up(b, connection, &message, out)) {
            return;
        }
        // RFC 3261 section 16.7 step 3: without a Via below ours it is for nobody. (A CANCEL is our own.)
        let cancel = message.cseq().is_ok_and(|cseq| cseq.method == Method::Cancel);
        if !cancel && message.list(HeaderName::Via).nth(1).is_none() {
            let detail = "response: the Via of whoever asked is missing".to_owned();
            return self.note_refusal(peer, Refusal::Malformed, None, detail, out);
        }
        if let Some(branch) = branch.filter(|branch| self.is_late(*branch, connection, &message)) {
            return self.on_late(now, branch, message, out);
        }
        if branch.is_some_and(|branch| self.on_residue(now, branch, connection, &message, out)) {
            return;
        }
        let Some(branch) = branch.filter(|branch| self.expects(now, *branch, connection, &message))
        else {
            // A duplicate inside that came late over UDP is no offence.
            if peer.side != Side::Inside {
                let detail = format!("response {}", message.status().unwrap_or_default());
                self.note_refusal(peer, Refusal::StrayResponse, None, detail, out);
            }
            return;
        };
        self.answered(now, connection, message.status().unwrap_or_default(), out);
        let id = branch.exchange;
        let current = self.exchanges.get(id).is_some_and(|e| e.attempt == branch.attempt);
        let method = message.cseq().ok().map(|cseq| cseq.method);
        if method == Some(Method::Cancel) {
            // Our CANCEL was taken: it is not sent again.
            self.exchanges.update(id, |exchange| {
                if exchange.client().is_some_and(|client| client.cancel.is_some()) {
                    exchange.resend = None;
                }
            });
        } else if current {
            self.take_response(now, id, message, out);
        }
    }

    /// Whether a response belongs to a request of ours, comes from where that went, and copies
    /// what a response copies.
    fn expects(
        &self,
        now: Instant,
        branch: Branch,
        connection: ConnectionId,
        message: &Message,
    ) -> bool {
        let Some(exchange) = self.exchanges.get(branch.exchange) else { return false };
        let Some(client) = exchange.client() else { return false };
        let same = client.connection == connection
            || (!exchange.inbound
                && exchange.entry.as_ref().is_some_and(|entry| {
                    self.connections.has_proved(now, connection, entry.key())
                }));
        let Some(request) = &exchange.request else { return same && branch.hash == exchange.hash };
        let method = message.cseq().map(|cseq| (cseq.number, cseq.method));
        let asked = request.cseq().map(|cseq| (cseq.number, cseq.method));
        let cancel = asked.map(|(number, _)| (number, Method::Cancel));
        same && branch.hash == exchange.hash
            && (method == asked || (method == cancel && exchange.cancelled))
            && message.call_id() == request.call_id()
            && message.from().ok().and_then(|from| from.tag())
                == request.from().ok().and_then(|from| from.tag())
    }

    pub(super) fn take_response(
        &mut self,
        now: Instant,
        id: u64,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        let Some(status) = message.status() else { return };
        let Some(exchange) = self.exchanges.get(id) else { return };
        let Some(client) = exchange.client() else { return };
        let state = client.state;
        if status > 100 {
            self.note_response(now, id);
        }
        let Some(exchange) = self.exchanges.get(id) else { return };
        match (state, status) {
            (ClientState::Completed, 300..) if exchange.kind == Kind::Invite => {
                // Our ACK was lost.
                self.acknowledge(id, &message, out);
            }
            // Another callee of a call that the first one's 2xx did not begin.
            (ClientState::Completed, 200..300) if self.hang_ups.is_of(id) => {
                self.hang_up_current(now, id, &message, false, out);
            }
            (ClientState::Accepted, 200..300) => {
                if let Ok(bytes) = self.returning(now, id, &message, out) {
                    self.send_back(id, bytes, out);
                }
            }
            (ClientState::Completed | ClientState::Accepted, _) => {}
            (_, 100..200) => self.provisional(now, id, status, &message, out),
            _ => self.final_response(now, id, status, &message, out),
        }
    }

    fn provisional(
        &mut self,
        now: Instant,
        id: u64,
        status: u16,
        message: &Message,
        out: &mut Vec<Output>,
    ) {
        let cancel = self.exchanges.update(id, |exchange| {
            let kind = exchange.kind;
            let Some(client) = exchange.client_mut() else { return false };
            client.state = ClientState::Proceeding;
            let (reliable, cancelling) = (client.reliable, client.cancel.is_some());
            let until = client.until;
            match kind {
                Kind::Invite if cancelling => {}
                Kind::Invite => {
                    exchange.timeout = Some(now + TIMER_C);
                    exchange.resend = None;
                }
                // It lives: what is left of its time is its own.
                _ => {
                    exchange.timeout = Some(until);
                    if !reliable {
                        exchange.resend = Some((now + T2, T2));
                    }
                }
            }
            exchange.cancelled && !cancelling
        });
        if cancel == Some(true) {
            self.send_cancel(now, id, out);
        }
        // RFC 4320 section 4.1: no provisional response but 100 to anything but INVITE.
        let waits = self
            .exchanges
            .get(id)
            .is_some_and(|e| e.server == Server::Proceeding && e.kind == Kind::Invite);
        if status > 100
            && waits
            && let Ok(bytes) = self.returning(now, id, message, out)
        {
            self.exchanges.update(id, |exchange| {
                exchange.answered = true;
                exchange.last_response = Some(bytes.clone());
            });
            self.send_back(id, bytes, out);
            self.counters.responses += 1;
        }
    }

    fn final_response(
        &mut self,
        now: Instant,
        id: u64,
        status: u16,
        message: &Message,
        out: &mut Vec<Output>,
    ) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let invite = exchange.kind == Kind::Invite;
        if invite && status >= 300 {
            self.acknowledge(id, message, out);
        }
        if exchange_is_over(self, id) {
            // It was answered by us (blocked, timed out): the 2xx of a call that was accepted all the
            // same goes no further.
            if invite && status < 300 {
                self.hang_up_current(now, id, message, false, out);
            }
            self.exchanges.update(id, |exchange| {
                exchange.timeout = None;
                exchange.resend = None;
                exchange.end.get_or_insert(now + TRANSACTION);
                exchange.stage = Stage::Over;
            });
            return;
        }
        if status == 408 && !invite {
            // RFC 4320 section 4.2: to anything but INVITE nobody sends it. Whoever asked hears that
            // from its own timer F.
            let kept = self.exchanges.update(id, |exchange| {
                exchange.stage = Stage::Over;
                exchange.trying = None;
                exchange.timeout = None;
                exchange.resend = None;
                exchange.end = Some(now + TRANSACTION);
                !exchange.sender_is_reliable()
            });
            if kept == Some(false) {
                self.exchanges.remove(id);
            }
            return;
        }
        if status == 503 {
            let blame = self.exchanges.get(id).and_then(Exchange::client).map(|client| Blame {
                key: TargetKey { address: client.remote, transport: client.transport },
                cause: Cause::Unavailable,
                retry_after: retry_after(message),
            });
            let failure = Answer::new(500, "Server Internal Error");
            return self.try_elsewhere(now, id, blame, failure, out);
        }
        let bytes = match self.returning(now, id, message, out) {
            Ok(bytes) => bytes,
            Err(answer) => {
                let accepted = invite && status < 300;
                if accepted {
                    self.hang_up_current(now, id, message, true, out);
                }
                let answer = match accepted && self.media_hung_up(id, out) {
                    // Whoever hears it ends the dialog too (RFC 3261 section 12.2.1.2): the two
                    // ends would not agree on its session any more.
                    true => {
                        Answer { status: 481, phrase: "Call/Transaction Does Not Exist", ..answer }
                    }
                    false => answer,
                };
                return self.conclude(now, id, answer, out);
            }
        };
        self.exchanges.update(id, |exchange| {
            exchange.timeout = None;
            exchange.resend = None;
            if let Some(client) = exchange.client_mut() {
                let accepted = invite && status < 300;
                client.state =
                    if accepted { ClientState::Accepted } else { ClientState::Completed };
                if accepted || !invite || client.reliable {
                    client.sent = Bytes::new();
                }
            }
        });
        self.counters.responses += 1;
        self.note_registration(now, id, status, message, out);
        let ban = self.note_login(now, id, status, message);
        self.finish(now, id, status, bytes, out);
        if let Some(ban) = ban {
            self.shut_out(now, &ban, out);
        }
    }

    /// The callee's 2xx goes no further. `refused`: since it cannot pass; then its dialog ends, even
    /// when that was there before.
    fn hang_up_current(
        &mut self,
        now: Instant,
        id: u64,
        message: &Message,
        refused: bool,
        out: &mut Vec<Output>,
    ) {
        let of = |client: &Client| (client.connection, client.sent.clone());
        let Some(invite) = self.exchanges.get(id).and_then(Exchange::client).map(of) else {
            return;
        };
        // It has its end: nothing of it is sent again.
        self.exchanges.update(id, |exchange| {
            exchange.resend = None;
            if let Some(client) = exchange.client_mut() {
                client.state = ClientState::Completed;
            }
        });
        self.hang_up(now, id, invite, (message, refused), out);
    }

    /// ACK for a final response other than 2xx (RFC 3261 section 17.1.1.3).
    fn acknowledge(&mut self, id: u64, response: &Message, out: &mut Vec<Output>) {
        let Some(client) = self.exchanges.get(id).and_then(|exchange| exchange.client()) else {
            return;
        };
        let ack = Message::parse_datagram(client.sent.clone(), &own_limits())
            .ok()
            .and_then(|invite| build::ack(&invite, response).ok());
        if let Some(bytes) = ack {
            out.push(Output::Send { connection: client.connection, bytes });
        }
    }

    /// The response as it goes back: our Via off, our Record-Route values with both tags, what it
    /// says of media as it is for the other side.
    fn returning(
        &mut self,
        now: Instant,
        id: u64,
        message: &Message,
        out: &mut Vec<Output>,
    ) -> Result<Bytes, Answer> {
        if self.exchanges.get(id).is_some_and(|exchange| !self.keeps_the_way(exchange, message)) {
            return Err(Answer::with(502, "Bad Gateway", Refusal::ForeignRoute));
        }
        let body = self.media_of_response(now, id, message, out)?;
        let bytes = self.returning_with(now, id, message, body);
        let fits =
            |bytes: &Bytes| self.exchanges.get(id).is_some_and(|e| fits(&e.from_peer, bytes));
        bytes.filter(fits).ok_or(Answer::new(502, "Bad Gateway"))
    }

    fn returning_with(
        &mut self,
        now: Instant,
        id: u64,
        message: &Message,
        body: Option<NewBody>,
    ) -> Option<Bytes> {
        let exchange = self.exchanges.get(id)?;
        let mut change = self.response_headers(exchange, message);
        neighbours::hide(message, exchange.inbound, &mut change.remove);
        let keep_alive = exchange.request.as_ref().and_then(neighbours::keep_alive);
        let records = self.records(now, id, message);
        sent_back(message, change, keep_alive, &records, body)
    }

    /// Whether somebody outside says that one of our users answered (or something unreadable): the
    /// caller would be shown it. The response itself is honest, so only that is taken out.
    pub(super) fn asserts_ours(&self, message: &Message) -> bool {
        message.list(HeaderName::PAssertedIdentity).any(|value| {
            NameAddr::parse(value.value).map_or(true, |asserted| {
                sip_domain(&asserted.uri).is_some_and(|domain| self.policy.is_ours(&domain))
            })
        })
    }
}

fn exchange_is_over(proxy: &Proxy, id: u64) -> bool {
    proxy.exchanges.get(id).is_none_or(|exchange| exchange.server != Server::Proceeding)
}
