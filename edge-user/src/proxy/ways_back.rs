//! The way back to whoever sent a request, when its connection is lost before the answer: another
//! connection of the same sender, or a new one to the address that it spoke from (RFC 3261 section
//! 18.2.2). That address is dialled only where DNS names it for the partner, or where it is one of
//! our next hops: nothing that the request says chooses it, and the certificate must prove the
//! partner as for every other connection. What is answered meanwhile is held.
//!
//! When there is no way back, nobody waits for the answer any more: an INVITE is cancelled.

use std::{net::IpAddr, time::Instant};

use bytes::Bytes;

use super::{
    ConnectionId, Output, Side, Target,
    connections::Connection,
    exchange::{Exchange, Kind, Server},
    proxy::Proxy,
    route::Destination,
};
use crate::{config::Transport, domain::Domain, ids::IdMap};

/// Ways that are looked for at one time.
const MOST_WAYS: usize = 64;
/// Bytes that are held for one of them. What is more is lost, as on a connection that breaks.
const MOST_HELD: usize = 256 * 1024;

/// A way that is looked for.
#[derive(Debug)]
struct Way {
    /// Who the sender is, as [`Connection::scope`] says.
    scope: u64,
    transport: Transport,
    /// The partner that sent; `None`: a server inside.
    owner: Option<Domain>,
    held: Vec<Bytes>,
    size: usize,
}

/// Every way that is looked for, by the connection that was lost.
#[derive(Debug, Default)]
pub(super) struct WaysBack {
    by_lost: IdMap<ConnectionId, Way>,
}

impl WaysBack {
    /// Holds a response to a request of `owner` until there is a way; there may be none.
    pub(super) fn hold(&mut self, lost: ConnectionId, owner: Option<&Domain>, bytes: Bytes) {
        if let Some(way) = self.by_lost.get_mut(&lost)
            && way.owner.as_ref() == owner
            && way.size + bytes.len() <= MOST_HELD
        {
            way.size += bytes.len();
            way.held.push(bytes);
        }
    }
}

/// The partner that sent a request; `None`: it came from inside.
pub(super) fn sender(exchange: &Exchange) -> Option<&Domain> {
    exchange.partner.as_ref().filter(|_| exchange.inbound)
}

impl Proxy {
    /// A connection is lost. The answers to what came on it go another way, if there is one.
    pub(super) fn lost(&mut self, now: Instant, lost: ConnectionId, out: &mut Vec<Output>) {
        let Some((gone, mut left)) = self.leave(now, lost, out) else { return };
        let waits = |exchange: &Exchange| exchange.server == Server::Proceeding;
        let first = left.iter().filter_map(|id| self.exchanges.get(*id)).find(|e| waits(e));
        let owner = first.and_then(sender).cloned();
        let way = match first {
            Some(_) if self.ways_back.by_lost.len() < MOST_WAYS => {
                self.way_back(now, &gone, owner.as_ref())
            }
            _ => None,
        };
        let stays = |exchange: &Exchange| {
            way.is_some() && waits(exchange) && sender(exchange) == owner.as_ref()
        };
        left.retain(|id| !self.exchanges.get(*id).is_some_and(stays));
        for id in left {
            self.sender_left(now, id, out);
        }
        let Some(destination) = way else { return };
        let (scope, transport) = (gone.scope, gone.peer.transport);
        let way = Way { scope, transport, owner, held: Vec::new(), size: 0 };
        self.ways_back.by_lost.insert(lost, way);
        self.dial_back(now, destination, Back { lost, address: gone.peer.remote.ip() }, out);
    }

    /// A connection ends, and its sender is to have no other one.
    pub(super) fn closed(&mut self, now: Instant, closed: ConnectionId, out: &mut Vec<Output>) {
        let Some((_, left)) = self.leave(now, closed, out) else { return };
        for id in left {
            self.sender_left(now, id, out);
        }
    }

    /// Forgets a connection. What had gone out over it goes elsewhere; what had come over it is
    /// answered over another one of the same sender (RFC 5923), or is among those that are given.
    fn leave(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        out: &mut Vec<Output>,
    ) -> Option<(Connection, Vec<u64>)> {
        let gone = self.connections.close(connection)?;
        self.probes_lost(now, connection, out);
        let (mut other, mut left) = (None, Vec::new());
        for id in self.exchanges.ids(|exchange| {
            exchange.from == connection
                || exchange.client().is_some_and(|client| client.connection == connection)
        }) {
            let Some(exchange) = self.exchanges.get(id) else { continue };
            if exchange.from != connection {
                self.receiver_left(now, id, out);
                continue;
            }
            let owner = sender(exchange).cloned();
            match *other.get_or_insert_with(|| self.connections.same_sender(&gone)) {
                Some(other) if self.leads_to(now, other, owner.as_ref(), out) => {
                    self.exchanges.update(id, |exchange| exchange.from = other);
                }
                _ => left.push(id),
            }
        }
        Some((gone, left))
    }

    /// Whether a connection leads to this partner, or inside as it must.
    fn leads_to(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        owner: Option<&Domain>,
        out: &mut Vec<Output>,
    ) -> bool {
        owner.is_none_or(|owner| self.proves_now(now, connection, owner, out).is_ok())
    }

    /// Whom to dial for a way back.
    fn way_back(
        &self,
        now: Instant,
        gone: &Connection,
        owner: Option<&Domain>,
    ) -> Option<Destination> {
        let peer = &gone.peer;
        match (peer.side, owner) {
            (Side::Partner, Some(owner)) => Some(Destination::Partner(owner.clone(), peer.own)),
            (Side::Inside, None) if peer.transport != Transport::Udp => {
                let hops = (0..self.config.next_hops.len()).map(Destination::NextHop);
                hops.into_iter().find(|hop| {
                    let targets = self.known_targets(now, hop).and_then(Result::ok);
                    targets.into_iter().flatten().any(|target| {
                        target.transport == peer.transport
                            && target.address.ip() == peer.remote.ip()
                    })
                })
            }
            // A remote user has its flow or none (RFC 5626), and the gateway is one connection.
            _ => None,
        }
    }

    /// A sender whose connection was lost connects by itself.
    pub(super) fn came_back(&mut self, now: Instant, new: ConnectionId, out: &mut Vec<Output>) {
        if self.ways_back.by_lost.is_empty() {
            return;
        }
        let Some(connection) = self.connections.get(new) else { return };
        let (scope, transport) = (connection.scope, connection.peer.transport);
        let same = |(lost, way): (&ConnectionId, &Way)| {
            (way.scope == scope && way.transport == transport).then_some(*lost)
        };
        let lost: Vec<ConnectionId> = self.ways_back.by_lost.iter().filter_map(same).collect();
        for lost in lost {
            self.way_found(now, lost, new, out);
        }
    }

    /// There is a connection to the sender whose own was lost, if it proves that.
    pub(super) fn way_found(
        &mut self,
        now: Instant,
        lost: ConnectionId,
        connection: ConnectionId,
        out: &mut Vec<Output>,
    ) {
        let Some(way) = self.ways_back.by_lost.get(&lost) else { return };
        let owner = way.owner.clone();
        if !self.leads_to(now, connection, owner.as_ref(), out) {
            return;
        }
        let Some(way) = self.ways_back.by_lost.remove(&lost) else { return };
        for id in self.exchanges.ids(|exchange| exchange.from == lost) {
            if self.exchanges.get(id).is_some_and(|e| sender(e) == owner.as_ref()) {
                self.exchanges.update(id, |exchange| exchange.from = connection);
            }
        }
        out.extend(way.held.into_iter().map(|bytes| Output::Send { connection, bytes }));
    }

    /// No connection could be had to the sender whose own was lost.
    pub(super) fn no_way(&mut self, now: Instant, lost: ConnectionId, out: &mut Vec<Output>) {
        if self.ways_back.by_lost.remove(&lost).is_none() {
            return;
        }
        for id in self.exchanges.ids(|exchange| exchange.from == lost) {
            self.sender_left(now, id, out);
        }
    }

    /// Nobody waits for the answer any more.
    #[cold]
    fn sender_left(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if exchange.kind == Kind::Invite && exchange.client().is_some() {
            if exchange.server == Server::Proceeding {
                self.cancel(now, id, out);
            }
        } else {
            self.exchanges.remove(id);
        }
    }
}

/// A dial for a way back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Back {
    /// The connection that was lost.
    pub lost: ConnectionId,
    /// Where it came from: no other address is dialled.
    pub address: IpAddr,
}

impl Back {
    /// Whether the target is where the lost connection came from.
    pub(super) fn is_at(self, target: &Target) -> bool {
        target.address.ip() == self.address
    }
}
