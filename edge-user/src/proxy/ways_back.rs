//! The way back to whoever sent a request, when its connection is lost before the answer: another
//! connection from the same address, or a new one to the address that it spoke from (RFC 3261 section
//! 18.2.2), or another one of the same sender from elsewhere. That address is dialled only where DNS
//! names it for the partner, or where it is one of our next hops: nothing that the request says chooses
//! it, and the certificate must prove the partner as for every other connection. What is answered
//! meanwhile is held.
//!
//! Servers may share a certificate: one at another address need not know of the request, and is the
//! last that is tried. When there is no way back, nobody waits for the answer any more: an INVITE is
//! cancelled.

use std::{net::IpAddr, time::Instant};

use bytes::Bytes;

use super::{
    ConnectionId, Output, Peer, Side, Target,
    connections::Connection,
    exchange::{Exchange, Kind, Server},
    proxy::Proxy,
    route::Destination,
};
use crate::{config::Transport, domain::Domain, federation::Partner, ids::IdMap};

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
    /// The partner that is dialled; `None`: a server inside.
    owner: Option<Domain>,
    /// Responses, and to whose requests: one connection may have spoken for several.
    held: Vec<(Option<Domain>, Bytes)>,
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
            && way.size + bytes.len() <= MOST_HELD
        {
            way.size += bytes.len();
            way.held.push((owner.cloned(), bytes));
        }
    }
}

/// What connections of the partner that sent a request are known by; `None`: it came from inside, or
/// from somebody who is not known yet.
pub(super) fn sender(exchange: &Exchange) -> Option<&Domain> {
    exchange.entry.as_deref().filter(|_| exchange.inbound).map(Partner::key)
}

impl Proxy {
    /// A connection is lost. The answers to what came on it go another way, if there is one.
    pub(super) fn lost(&mut self, now: Instant, lost: ConnectionId, out: &mut Vec<Output>) {
        let Some(gone) = self.connections.get(lost) else { return };
        let (here, side) = (gone.peer.remote.ip(), gone.peer.side);
        let Some((gone, left)) = self.leave(now, lost, Some(here), out) else { return };
        let waits = |exchange: &Exchange| exchange.server == Server::Proceeding;
        let mut waiting = left.iter().filter_map(|id| self.exchanges.get(*id)).filter(|e| waits(e));
        let way = match self.ways_back.by_lost.len() < MOST_WAYS {
            true => waiting.find_map(|exchange| {
                let owner = sender(exchange);
                Some((owner.cloned(), self.way_back(now, &gone, owner)?))
            }),
            false => None,
        };
        let (scope, transport) = (gone.scope, gone.peer.transport);
        let other = match left.is_empty() {
            true => None,
            false => self.connections.same_sender(scope, transport, None),
        };
        let known = |e: &Exchange| side == Side::Inside || sender(e).is_some();
        for id in left {
            let stays = |e: &Exchange| way.is_some() && waits(e) && known(e);
            if !self.exchanges.get(id).is_some_and(stays) {
                self.pass_on(now, id, other, out);
            }
        }
        let Some((owner, destination)) = way else { return };
        let way = Way { scope, transport, owner, held: Vec::new(), size: 0 };
        self.ways_back.by_lost.insert(lost, way);
        self.dial_back(now, destination, Back { lost, address: here }, out);
    }

    /// A connection ends, and its sender is to have no new one.
    pub(super) fn closed(&mut self, now: Instant, closed: ConnectionId, out: &mut Vec<Output>) {
        let Some((_, left)) = self.leave(now, closed, None, out) else { return };
        for id in left {
            self.sender_left(now, id, out);
        }
    }

    /// Forgets a connection. What had gone out over it goes elsewhere; what had come over it is
    /// answered over another one of the same sender (RFC 5923), from `at` where that is said, or is
    /// among those that are given.
    fn leave(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        at: Option<IpAddr>,
        out: &mut Vec<Output>,
    ) -> Option<(Connection, Vec<u64>)> {
        let gone = self.connections.close(connection)?;
        self.probes_lost(now, connection, out);
        // Strangers come and go, and all exchanges are many.
        let unused = self.exchanges.live_of(gone.scope) + self.exchanges.open_on(connection) == 0;
        if unused && !gone.took_over && gone.peer.side != Side::Gateway {
            return Some((gone, Vec::new()));
        }
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
            let (scope, transport) = (gone.scope, gone.peer.transport);
            let same = || self.connections.same_sender(scope, transport, at);
            let other = *other.get_or_insert_with(same);
            if !self.goes_over(now, id, other, out) {
                left.push(id);
            }
        }
        Some((gone, left))
    }

    /// Has an exchange answered over another connection, where that leads to its sender.
    fn goes_over(
        &mut self,
        now: Instant,
        id: u64,
        other: Option<ConnectionId>,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(other) = other else { return false };
        let owner = self.exchanges.get(id).and_then(sender).cloned();
        let leads = self.leads_to(now, other, owner.as_ref(), out);
        if leads {
            self.exchanges.update(id, |exchange| exchange.from = other);
            if let Some(connection) = self.connections.get_mut(other) {
                connection.took_over = true;
            }
        }
        leads
    }

    /// The same; without such a connection nobody waits any more.
    fn pass_on(
        &mut self,
        now: Instant,
        id: u64,
        other: Option<ConnectionId>,
        out: &mut Vec<Output>,
    ) {
        if !self.goes_over(now, id, other, out) {
            self.sender_left(now, id, out);
        }
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
        self.take_way(now, lost, Some(connection), out);
    }

    /// No connection could be had to the sender whose own was lost: one from elsewhere may be there.
    pub(super) fn no_way(&mut self, now: Instant, lost: ConnectionId, out: &mut Vec<Output>) {
        let Some(way) = self.ways_back.by_lost.get(&lost) else { return };
        let other = self.connections.same_sender(way.scope, way.transport, None);
        self.take_way(now, lost, other, out);
    }

    /// Has everything that waits for a way take this one, as far as it leads there.
    fn take_way(
        &mut self,
        now: Instant,
        lost: ConnectionId,
        other: Option<ConnectionId>,
        out: &mut Vec<Output>,
    ) {
        let Some(way) = self.ways_back.by_lost.remove(&lost) else { return };
        for (owner, bytes) in way.held {
            if let Some(connection) = other
                && self.leads_to(now, connection, owner.as_ref(), out)
            {
                out.push(Output::Send { connection, bytes });
            }
        }
        for id in self.exchanges.ids(|exchange| exchange.from == lost) {
            self.pass_on(now, id, other, out);
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

    /// The same of who is at the other end of a connection.
    pub(super) fn is_from(self, peer: &Peer) -> bool {
        peer.remote.ip() == self.address
    }
}
