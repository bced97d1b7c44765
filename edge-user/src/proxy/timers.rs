//! What time does to an exchange: retransmissions over UDP, timers B, C, D, F, G, H, I, J, L
//! and M of RFC 3261 and RFC 6026, and the bound on waiting.

use std::time::Instant;

use super::{
    Output, Refusal,
    exchange::{ClientState, Exchange, Kind, Server, Stage, T2},
    proxy::Proxy,
    respond::Answer,
    target::Blame,
};
use crate::federation::{Cause, TargetKey};

impl Proxy {
    pub(super) fn on_timer(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if exchange.end.is_some_and(|at| at <= now) {
            self.exchanges.remove(id);
            return;
        }
        if exchange.timeout.is_some_and(|at| at <= now) {
            self.exchanges.update(id, |exchange| exchange.timeout = None);
            self.timed_out(now, id, out);
        }
        if self.exchanges.get(id).and_then(|e| e.trying).is_some_and(|at| at <= now) {
            self.exchanges.update(id, |exchange| exchange.trying = None);
            self.say_trying(id, out);
        }
        self.resend(now, id, out);
        // Whatever was due is done: nothing may be left that would wake us for ever.
        self.exchanges.update(id, |exchange| {
            exchange.resend = exchange.resend.filter(|(at, _)| *at > now);
            exchange.server_resend = exchange.server_resend.filter(|(at, _)| *at > now);
        });
    }

    fn resend(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if let Some((at, interval)) = exchange.resend
            && at <= now
            && let Some(client) = exchange.client()
        {
            let connection = client.connection;
            let bytes = client.cancel.as_ref().unwrap_or(&client.sent).clone();
            out.push(Output::Send { connection, bytes });
            self.exchanges.update(id, |exchange| {
                let calling = exchange.kind == Kind::Invite
                    && exchange.client().is_some_and(|client| client.cancel.is_none());
                // Timer A doubles without a bound, timer E up to T2.
                let next = if calling { interval * 2 } else { (interval * 2).min(T2) };
                exchange.resend = Some((now + next, next));
            });
        }
        let Some(exchange) = self.exchanges.get(id) else { return };
        if let Some((at, interval)) = exchange.server_resend
            && at <= now
        {
            if let Some(bytes) = exchange.last_response.clone() {
                self.send_back(id, bytes, out);
            }
            let next = (interval * 2).min(T2);
            self.exchanges.update(id, |exchange| exchange.server_resend = Some((now + next, next)));
        }
    }

    fn timed_out(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let (kind, cancelled) = (exchange.kind, exchange.cancelled);
        let Some(client) = exchange.client() else {
            if exchange.may_be_answered_yet() {
                // Elsewhere nothing could be reached; the time of its sender is over.
                return drop(self.exchanges.remove(id));
            }
            let answer = match (&exchange.stage, kind) {
                (Stage::Connecting, Kind::Invite) => {
                    Answer::with(408, "Request Timeout", Refusal::Unreachable)
                }
                _ => Refusal::Unreachable.into(),
            };
            return self.conclude(now, id, answer, out);
        };
        let state = client.state;
        let key = TargetKey { address: client.remote, transport: client.transport };
        let blame = Blame { key, cause: Cause::Silent, retry_after: None };
        let cancel_sent = client.cancel.is_some();
        let elsewhere = self.has_elsewhere(now, exchange);
        let over = exchange.server != Server::Proceeding;
        let way = exchange.destinations.front().cloned();
        match (kind, state) {
            _ if over => {
                self.exchanges.update(id, |exchange| {
                    exchange.resend = None;
                    exchange.stage = Stage::Over;
                });
            }
            (Kind::Invite, ClientState::Calling) if elsewhere && !cancelled => {
                // Silence: the next hop, if there is one.
                let failure = Answer::with(408, "Request Timeout", Refusal::Unreachable);
                self.exchanges.update(id, Exchange::leave_client);
                self.try_elsewhere(now, id, Some(blame), failure, out);
            }
            (Kind::Invite, ClientState::Proceeding) if !cancel_sent => {
                self.send_cancel(now, id, out);
            }
            (Kind::Invite, _) => {
                if state == ClientState::Calling
                    && let Some(way) = way
                {
                    self.blame(now, &way, blame, out);
                }
                self.exchanges.update(id, |exchange| {
                    exchange.resend = None;
                    exchange.stage = Stage::Over;
                });
                let answer = match cancelled {
                    true => Answer::new(487, "Request Terminated"),
                    false => Answer::with(408, "Request Timeout", Refusal::Unreachable),
                };
                self.conclude(now, id, answer, out);
            }
            (_, ClientState::Calling) if elsewhere && !exchange.may_be_answered_yet() => {
                // Nothing is held against it: it may be the user who is silent, and a server that
                // says no 100.
                let address = blame.key.address;
                self.exchanges.update(id, |exchange| {
                    exchange.leave_client();
                    exchange.tried.push(address);
                });
                self.try_elsewhere(now, id, None, Refusal::Unreachable.into(), out);
            }
            // RFC 4320 section 4.2: no 408 to anything but INVITE; the sender's own timer has
            // fired by now.
            _ => {
                self.exchanges.remove(id);
            }
        }
    }
}
