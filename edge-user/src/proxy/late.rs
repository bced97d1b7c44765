//! Servers that were silent for too long, and speak after all: the request has gone to another by
//! then. What they begin is cancelled; but a 2xx is never lost (RFC 3261 section 16.7 step 5), or
//! somebody would sit in a call that nobody hears.

use std::time::Instant;

use super::{
    ConnectionId, Output,
    exchange::{Client, ClientState, Exchange, Kind, Server, Stage},
    proxy::Proxy,
    send::own_limits,
    settings::Branch,
};
use crate::sip::{HeaderName, Message, Method, build};

/// What the others are told when one has accepted.
const ELSEWHERE: &[u8] = b"SIP;cause=200;text=\"Call completed elsewhere\"";

impl Exchange {
    /// Gives the current client up, but remembers it.
    pub(super) fn leave_client(&mut self) {
        if let Stage::Sent(client) = std::mem::replace(&mut self.stage, Stage::Over) {
            self.left.push((self.attempt, client));
        }
    }
}

impl Proxy {
    /// Whether a response is of a client that was given up, and comes from where that is.
    pub(super) fn is_late(
        &self,
        branch: Branch,
        connection: ConnectionId,
        message: &Message,
    ) -> bool {
        self.exchanges.get(branch.exchange).is_some_and(|exchange| {
            let from = |(attempt, client): &(u8, Client)| {
                *attempt == branch.attempt && client.connection == connection
            };
            let same_call = exchange.request.as_ref().is_none_or(|request| {
                request.call_id() == message.call_id()
                    && request.cseq().map(|c| c.number) == message.cseq().map(|c| c.number)
            });
            same_call && branch.hash == exchange.hash && exchange.left.iter().any(from)
        })
    }

    /// Takes such a response.
    pub(super) fn on_late(
        &mut self,
        now: Instant,
        branch: Branch,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        let (id, attempt) = (branch.exchange, branch.attempt);
        let Some(status) = message.status() else { return };
        let method = message.cseq().map(|cseq| cseq.method);
        let kind = self.exchanges.get(id).map(|exchange| exchange.kind);
        if kind == Some(Kind::NonInvite) && method != Ok(Method::Cancel) {
            return self.late_answer(now, id, attempt, message, out);
        }
        if method != Ok(Method::Invite) {
            return;
        }
        match status {
            100..200 => {
                self.exchanges.update(id, |exchange| {
                    let taken = exchange.server == Server::Accepted;
                    let why = [(HeaderName::Reason.as_str(), ELSEWHERE)];
                    let left = exchange.left.iter_mut().find(|(of, _)| *of == attempt);
                    if let Some((_, client)) = left {
                        client.state = ClientState::Proceeding;
                        cancel(client, if taken { &why } else { &[] }, out);
                    }
                });
            }
            200..300 => self.late_2xx(now, id, attempt, message, out),
            _ => {
                let Some(exchange) = self.exchanges.get(id) else { return };
                let left = exchange.left.iter().find(|(of, _)| *of == attempt);
                if let Some((_, client)) = left
                    && let Some(invite) = sent(client)
                    && let Ok(bytes) = build::ack(&invite, &message)
                {
                    out.push(Output::Send { connection: client.connection, bytes });
                }
            }
        }
    }

    /// Of what is no INVITE: the first answer is the answer.
    fn late_answer(
        &mut self,
        now: Instant,
        id: u64,
        attempt: u8,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        let waits = self.exchanges.get(id).is_some_and(|e| e.server == Server::Proceeding);
        if !waits || message.status().is_none_or(|status| status < 200) {
            return;
        }
        self.exchanges.update(id, |exchange| {
            if let Some(at) = exchange.left.iter().position(|(of, _)| *of == attempt) {
                exchange.stage = Stage::Sent(exchange.left.swap_remove(at).1);
                exchange.attempt = attempt;
            }
        });
        self.take_response(now, id, message, out);
    }

    fn late_2xx(
        &mut self,
        now: Instant,
        id: u64,
        attempt: u8,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        match exchange.server {
            // It is the answer; whoever has the INVITE now is called off.
            Server::Proceeding => {
                self.exchanges.update(id, |exchange| {
                    let Some(at) = exchange.left.iter().position(|(of, _)| *of == attempt) else {
                        return;
                    };
                    let (_, winner) = exchange.left.swap_remove(at);
                    exchange.leave_client();
                    if let Some((_, other)) = exchange.left.last_mut() {
                        // Not a call that its callee has missed (RFC 3326 section 3.1).
                        cancel(other, &[(HeaderName::Reason.as_str(), ELSEWHERE)], out);
                    }
                    exchange.stage = Stage::Sent(winner);
                    exchange.attempt = attempt;
                });
                self.take_response(now, id, message, out);
            }
            // A second answer: the caller's to hang up, as with a forking proxy.
            Server::Accepted => {
                let inbound = exchange.inbound;
                let change = self.response_headers(exchange, &message);
                let Ok(body) = self.media_of_response(now, id, &message, out) else { return };
                if let Some(bytes) = self.returning_again(now, inbound, change, &message, body) {
                    self.send_back(id, bytes, out);
                }
            }
            // The caller was told a final "no" and is gone.
            Server::Completed | Server::Confirmed => {
                let left = exchange.left.iter().find(|(of, _)| *of == attempt);
                let Some((_, client)) = left else { return };
                let invite = (client.connection, client.sent.clone());
                self.hang_up(now, id, invite, (&message, false), out);
            }
        }
    }
}

fn sent(client: &Client) -> Option<Message> {
    Message::parse_datagram(client.sent.clone(), &own_limits()).ok()
}

/// CANCEL, once there was a provisional response (RFC 3261 section 9.1), and once only.
fn cancel(client: &mut Client, why: &[(&str, &[u8])], out: &mut Vec<Output>) {
    if client.state != ClientState::Proceeding || client.cancel.is_some() {
        return;
    }
    let cancel = |invite| build::cancel_because(&invite, why).ok();
    if let Some(bytes) = sent(client).and_then(cancel) {
        out.push(Output::Send { connection: client.connection, bytes: bytes.clone() });
        client.cancel = Some(bytes);
    }
}
