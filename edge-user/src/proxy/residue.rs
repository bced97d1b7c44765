//! What is left of a transaction that is done, until its last timer (J, L or M) ends: enough to
//! know a request that comes again, and to pass a 2xx on that comes again (RFC 6026).
//!
//! A partner's calls leave one each for 32 seconds, so it is small, and it is not counted as
//! live. All stay equally long: they lie in the order in which they end.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    ConnectionId, Output,
    descriptions::NewBody,
    exchange::{Exchange, Kind, NewExchange, Server, TRANSACTION, TransactionKey},
    neighbours,
    proxy::Proxy,
    record_route::sent_back,
    settings::Branch,
    trust_headers::HeaderChange,
};
use crate::{
    federation::Partner,
    ids::IdMap,
    media::policy::Modalities,
    sip::{Message, Method},
};

/// Beyond these the oldest goes before its time: 32,000 calls a second.
const MAX_RESIDUES: usize = 1 << 20;
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// How often what is over is looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What is left.
#[derive(Clone, Debug)]
pub(super) struct Residue {
    pub inbound: bool,
    remote: bool,
    stranger: bool,
    allowed: Modalities,
    attempt: u8,
    hash: u32,
    from: ConnectionId,
    client: Option<ConnectionId>,
    entry: Option<Arc<Partner>>,
    key: TransactionKey,
    /// What is said when the request comes again; `None`: an INVITE whose 2xx passed.
    answer: Option<Bytes>,
}

impl Residue {
    /// Of an exchange, if nothing else of it is needed.
    pub(super) fn of(exchange: &Exchange) -> Option<Self> {
        let answer = match (exchange.kind, exchange.server) {
            (Kind::Invite, Server::Accepted) if exchange.left.is_empty() => None,
            (Kind::NonInvite, Server::Completed) => Some(exchange.last_response.clone()?),
            _ => return None,
        };
        Some(Self {
            inbound: exchange.inbound,
            remote: exchange.remote,
            stranger: exchange.stranger,
            allowed: exchange.allowed,
            attempt: exchange.attempt,
            hash: exchange.hash,
            from: exchange.from,
            client: exchange.client().map(|client| client.connection),
            entry: exchange.entry.clone(),
            key: exchange.key(),
            answer,
        })
    }

    fn bytes(&self) -> usize {
        self.answer.as_ref().map_or(0, Bytes::len)
    }

    pub(super) fn key(&self) -> TransactionKey {
        self.key
    }

    pub(super) fn is_invite(&self) -> bool {
        self.answer.is_none()
    }

    pub(super) fn answer(&self) -> Option<&Bytes> {
        self.answer.as_ref()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Residues {
    all: IdMap<u64, Residue>,
    order: VecDeque<(Instant, u64)>,
    bytes: usize,
    sweep_at: Option<Instant>,
}

impl Residues {
    pub(super) fn get(&self, id: u64) -> Option<&Residue> {
        self.all.get(&id)
    }

    /// Keeps one. Gives back those that must go for it.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        id: u64,
        residue: Residue,
    ) -> Vec<(u64, Residue)> {
        self.bytes += residue.bytes();
        self.all.insert(id, residue);
        self.order.push_back((now + TRANSACTION, id));
        self.sweep_at.get_or_insert(now + TRANSACTION);
        let mut gone = Vec::new();
        while self.order.len() > MAX_RESIDUES || self.bytes > MAX_BYTES {
            gone.extend(self.pop());
        }
        gone
    }

    fn pop(&mut self) -> Option<(u64, Residue)> {
        let (_, id) = self.order.pop_front()?;
        let residue = self.all.remove(&id)?;
        self.bytes -= residue.bytes();
        Some((id, residue))
    }

    /// The next one that is over; `None` when there is no more.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(u64, Residue)> {
        if self.order.front().is_some_and(|(end, _)| *end <= now) {
            return self.pop();
        }
        self.sweep_at = self.order.front().map(|(end, _)| (*end).max(now + SWEEP));
        if self.order.is_empty() {
            // What a busy hour took is given back.
            *self = Self::default();
        }
        None
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.sweep_at
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

impl Proxy {
    /// A response to a request that is done. `false` when it has no business here.
    pub(super) fn on_residue(
        &mut self,
        now: Instant,
        branch: Branch,
        connection: ConnectionId,
        message: &Message,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(residue) = self.exchanges.residue(branch.exchange).cloned() else { return false };
        let proved = |proxy: &Self| {
            !residue.inbound
                && residue
                    .entry
                    .as_ref()
                    .is_some_and(|entry| proxy.connections.has_proved(now, connection, entry.key()))
        };
        if branch.hash != residue.hash || !(residue.client == Some(connection) || proved(self)) {
            return false;
        }
        let is_2xx = matches!(message.status(), Some(200..300))
            && message.cseq().is_ok_and(|cseq| cseq.method == Method::Invite);
        if residue.is_invite()
            && is_2xx
            && branch.attempt == residue.attempt
            && let Some(peer) = self.connections.get(residue.from).map(|c| c.peer.clone())
        {
            let exchange = Exchange::new(NewExchange {
                remote: residue.remote,
                stranger: residue.stranger,
                kind: Kind::Invite,
                inbound: residue.inbound,
                from: residue.from,
                from_peer: peer,
                key: residue.key,
                scope: 0,
                hash: residue.hash,
                request: message.clone(),
                remove_routes: 0,
                record: false,
                destinations: VecDeque::new(),
                preferred: None,
                dialog: None,
                allowed: residue.allowed,
                partner: residue.entry.as_ref().map(|entry| entry.domain.clone()),
                entry: residue.entry.clone(),
            });
            let change = self.response_headers(&exchange, message);
            let body = self.media_again(now, &exchange, residue.client, message, out);
            let inbound = residue.inbound;
            if let Some(bytes) = self.returning_again(now, inbound, change, message, body) {
                out.push(Output::Send { connection: residue.from, bytes });
            }
        }
        true
    }

    /// A 2xx that came again, or a further one, as it goes back: the token in our Record-Route values
    /// is verified and signed anew, with the tag that this 2xx brings.
    pub(super) fn returning_again(
        &mut self,
        now: Instant,
        inbound: bool,
        mut change: HeaderChange,
        message: &Message,
        body: Option<NewBody>,
    ) -> Option<Bytes> {
        if !self.keeps_the_way_again(now, inbound, message) {
            return None;
        }
        neighbours::hide(message, inbound, &mut change.remove);
        let records = self.records_again(now, inbound, message);
        sent_back(message, change, None, &records, body)
    }
}
