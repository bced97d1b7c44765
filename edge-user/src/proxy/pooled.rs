//! Which of the connections that are there a request takes (RFC 5923): one to a partner that DNS
//! still names there, that lives, and that has room; when all have little, one more is made.
//!
//! A partner that moves is followed: the address that we dialled is compared with what DNS says
//! while there is traffic. One that is gone from there for a minute carries nothing new, and is
//! closed when nothing uses it. Dialogs that stand may end on it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    ConnectionId, Output,
    connections::{Connection, MOVED},
    exchange::Exchange,
    lookups::{Known, Waiter},
    proxy::Proxy,
    route::Destination,
};
use crate::{config::Transport, domain::Domain};

/// How often a connection in use is compared with what DNS says.
const LOOK: Duration = Duration::from_secs(5);
/// One that nothing went over for so long is not in use.
const IDLE: Duration = Duration::from_secs(60);
/// How often it is looked whether one that moved is in use.
const AGAIN: Duration = Duration::from_secs(10);
/// A connection with more open transactions is busy.
const BUSY: usize = 64;
/// Connections that we open to one partner.
const MOST: usize = 4;

/// Connections whose far end DNS does not name any more, by when they are looked at.
#[derive(Debug, Default)]
pub(super) struct Moved {
    due: BTreeSet<(Instant, ConnectionId)>,
}

impl Moved {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

impl Proxy {
    /// An administrator wants to begin anew with a partner: its connections are closed, and what
    /// goes over them ends; targets that failed are tried again at once. `keys`: what its
    /// connections prove. Says how many there were of both.
    pub fn reset(
        &mut self,
        now: Instant,
        keys: &[Domain],
        out: &mut Vec<Output>,
    ) -> (usize, usize) {
        let of_it = |key| self.connections.for_domain(now, key).map(|(id, _)| id);
        let connections: BTreeSet<ConnectionId> = keys.iter().flat_map(of_it).collect();
        for id in &connections {
            self.closed(now, *id, out);
            out.push(Output::Release { connection: *id });
        }
        let targets = keys.iter().map(|key| self.targets.forget_all(key)).sum();
        (connections.len(), targets)
    }

    /// The connection that a request to this destination takes, if it is to take one that is
    /// there.
    pub(super) fn take_pooled(
        &mut self,
        now: Instant,
        destination: &Destination,
        tried: &[SocketAddr],
        out: &mut Vec<Output>,
    ) -> Option<ConnectionId> {
        let mut found = self.pooled(now, destination, tried, false)?;
        let Destination::Partner(key, own) = destination else { return Some(found) };
        if self.connections.get(found).is_some_and(|c| c.dialled && c.look_at <= now) {
            self.look_at_dns(now, destination, key, out);
            found = self.pooled(now, destination, tried, false)?;
        }
        if self.exchanges.open_on(found) > BUSY && tried.is_empty() {
            let ours = |(id, connection): &(ConnectionId, &Connection)| {
                connection.dialled
                    && connection.peer.own == *own
                    && !self.connections.has_moved(now, *id, key)
            };
            if self.connections.for_domain(now, key).filter(ours).count() < MOST {
                self.dial_extra(now, destination, out);
            }
        }
        Some(found)
    }

    /// A connection that leads to a destination, other than where it was tried already; unless
    /// `dead` says so, none whose far end is to be used last.
    pub(super) fn pooled(
        &self,
        now: Instant,
        destination: &Destination,
        tried: &[SocketAddr],
        dead: bool,
    ) -> Option<ConnectionId> {
        let fits = |(_, connection): &(ConnectionId, &Connection)| {
            let peer = &connection.peer;
            !tried.contains(&peer.remote) && (dead || !self.is_dead(now, destination, peer))
        };
        match destination {
            Destination::Partner(domain, own) => {
                let all =
                    self.connections.for_domain(now, domain).filter(fits).filter(|(id, c)| {
                        c.peer.own == *own && !self.connections.has_moved(now, *id, domain)
                    });
                self.with_most_room(all.map(|(id, _)| id))
            }
            Destination::NextHop(index) => {
                self.connections.for_next_hop(*index).find(fits).map(|(id, _)| id)
            }
            Destination::InsideUdp(address) => self.connections.inside_at(Transport::Udp, *address),
            Destination::InsideTcp(address) => self.connections.inside_at(Transport::Tcp, *address),
            Destination::Flow(connection) => Some(*connection),
        }
    }

    /// The first that is not busy, else the one with the fewest open transactions.
    fn with_most_room(&self, all: impl Iterator<Item = ConnectionId>) -> Option<ConnectionId> {
        let mut best: Option<(usize, ConnectionId)> = None;
        for id in all {
            let open = self.exchanges.open_on(id);
            if open <= BUSY {
                return Some(id);
            }
            if best.is_none_or(|(least, _)| open < least) {
                best = Some((open, id));
            }
        }
        best.map(|(_, id)| id)
    }

    /// Compares the connections that we opened to a partner with what DNS says of it; asks, when
    /// what it said is past its time.
    fn look_at_dns(
        &mut self,
        now: Instant,
        destination: &Destination,
        key: &Domain,
        out: &mut Vec<Output>,
    ) {
        let (Some(question), lookup) = self.question(destination) else { return };
        let dialled = self.connections.for_domain(now, key).filter(|(_, c)| c.dialled);
        let dialled: Vec<_> = dialled.map(|(id, c)| (id, c.peer.remote)).collect();
        for (id, _) in &dialled {
            if let Some(connection) = self.connections.get_mut(*id) {
                connection.look_at = now + LOOK;
            }
        }
        let known = match self.lookups.known(now, &question, lookup.secure) {
            Some(Ok(known)) => known,
            // That DNS is silent moves nobody.
            Some(Err(_)) => return,
            None => {
                self.lookups.ask(now, &question, lookup, Waiter::Nobody, usize::MAX, None, out);
                return;
            }
        };
        for (id, remote) in dialled {
            if self.connections.named(now, id, key, names(&known, remote)) {
                self.moved.due.insert((now + MOVED, id));
            }
        }
    }

    /// Closes connections to where nobody is any more, when nothing uses them.
    pub(super) fn moved_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        while let Some((at, id)) = self.moved.due.first().copied().filter(|(at, _)| *at <= now) {
            self.moved.due.remove(&(at, id));
            let Some(all_moved) = self.connections.all_moved(now, id) else { continue };
            let used = self.connections.get(id).is_some_and(|c| now < c.used + IDLE);
            let uses = |exchange: &Exchange| {
                exchange.from == id || exchange.client().is_some_and(|c| c.connection == id)
            };
            if !all_moved || used || !self.exchanges.ids(uses).is_empty() {
                self.moved.due.insert((now + AGAIN, id));
                continue;
            }
            self.closed(now, id, out);
            out.push(Output::Release { connection: id });
        }
    }
}

fn names(known: &Known, remote: SocketAddr) -> bool {
    known
        .resolved
        .hosts
        .iter()
        .any(|host| host.port == remote.port() && host.addresses.contains(&remote.ip()))
}
