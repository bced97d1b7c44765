//! Who is connected, and which domains each connection has proved (RFC 5923: a connection is
//! used both ways, for the identities that were proved on it).

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    time::Instant,
};

use super::{ConnectionId, Peer, Side, remote::SignedIn};
use crate::{config::Transport, domain::Domain, ids::IdMap};

/// Domains that one connection may have proved at one time; a partner with more asks DNS again.
const MAX_PROOFS: usize = 64;

/// A live connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub peer: Peer,
    /// Who is there, as a number: the same for every connection of one certificate, or inside of
    /// one host. Transactions of one scope are invisible to every other.
    pub scope: u64,
    /// Domain, and until when its proof holds (`None`: as long as the policy does).
    proofs: Vec<(Domain, Option<Instant>)>,
    /// One of our next hops: which.
    pub next_hop: Option<usize>,
    /// We opened it.
    pub dialled: bool,
    /// Remote users who registered on it.
    pub users: Vec<SignedIn>,
}

/// Every live connection.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: IdMap<ConnectionId, Connection>,
    by_domain: HashMap<Domain, Vec<ConnectionId>>,
    by_inside_remote: HashMap<(Transport, SocketAddr), ConnectionId>,
    by_next_hop: HashMap<usize, Vec<ConnectionId>>,
}

impl Connections {
    pub(super) fn open(
        &mut self,
        id: ConnectionId,
        peer: Peer,
        next_hop: Option<usize>,
        dialled: bool,
    ) {
        if peer.side == Side::Inside {
            self.by_inside_remote.insert((peer.transport, peer.remote), id);
        }
        if let Some(index) = next_hop {
            self.by_next_hop.entry(index).or_default().push(id);
        }
        let scope = scope(id, &peer);
        let (proofs, users) = (Vec::new(), Vec::new());
        self.all.insert(id, Connection { peer, scope, proofs, next_hop, dialled, users });
    }

    pub(super) fn close(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.all.remove(&id)?;
        for (domain, _) in &connection.proofs {
            remove(&mut self.by_domain, domain, id);
        }
        if let Some(ids) = connection.next_hop.and_then(|hop| self.by_next_hop.get_mut(&hop)) {
            ids.retain(|other| *other != id);
        }
        let key = (connection.peer.transport, connection.peer.remote);
        if self.by_inside_remote.get(&key) == Some(&id) {
            self.by_inside_remote.remove(&key);
        }
        Some(connection)
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.all.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.all.iter().map(|(id, connection)| (*id, connection))
    }

    /// The connection proved this domain before, and the proof still holds.
    pub(super) fn has_proved(&self, now: Instant, id: ConnectionId, domain: &Domain) -> bool {
        self.all.get(&id).is_some_and(|connection| {
            connection
                .proofs
                .iter()
                .any(|(proved, until)| proved == domain && until.is_none_or(|until| now < until))
        })
    }

    /// Notes a proof; `true` when it is new.
    pub(super) fn note_proof(
        &mut self,
        now: Instant,
        id: ConnectionId,
        domain: &Domain,
        until: Option<Instant>,
    ) -> bool {
        let Some(connection) = self.all.get_mut(&id) else { return false };
        if let Some(proof) = connection.proofs.iter_mut().find(|(proved, _)| proved == domain) {
            proof.1 = until;
            return false;
        }
        if connection.proofs.len() >= MAX_PROOFS {
            let at = connection
                .proofs
                .iter()
                .position(|(_, until)| until.is_some_and(|until| until <= now))
                .unwrap_or(0);
            let (old, _) = connection.proofs.swap_remove(at);
            remove(&mut self.by_domain, &old, id);
        }
        connection.proofs.push((domain.clone(), until));
        self.by_domain.entry(domain.clone()).or_default().push(id);
        true
    }

    /// Forgets proofs: the policy changed, and what holds no more is proved again under the new
    /// one.
    pub(super) fn keep_proofs(&mut self, holds: impl Fn(&Domain) -> bool) {
        self.by_domain.retain(|key, _| holds(key));
        let by_domain = &self.by_domain;
        for connection in self.all.values_mut() {
            connection.proofs.retain(|(key, _)| by_domain.contains_key(key));
        }
    }

    /// Domains a connection has proved.
    pub(super) fn proved(&self, id: ConnectionId) -> impl Iterator<Item = &Domain> {
        self.all.get(&id).into_iter().flat_map(|c| c.proofs.iter().map(|(domain, _)| domain))
    }

    /// Connections that proved a domain, the newest first.
    pub(super) fn for_domain(
        &self,
        now: Instant,
        domain: &Domain,
    ) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.by_domain
            .get(domain)
            .into_iter()
            .flatten()
            .rev()
            .filter(move |id| self.has_proved(now, **id, domain))
            .filter_map(|id| Some((*id, self.all.get(id)?)))
    }

    /// The connection whose far end inside is this.
    pub(super) fn inside_at(
        &self,
        transport: Transport,
        remote: SocketAddr,
    ) -> Option<ConnectionId> {
        self.by_inside_remote.get(&(transport, remote)).copied()
    }

    /// Another stream of the one that had this connection, the newest: the same names in its
    /// certificate, or the same address inside. (Looked for only when something waits for it.)
    pub(super) fn same_sender(&self, gone: &Connection) -> Option<ConnectionId> {
        if gone.peer.transport == Transport::Udp {
            return None;
        }
        let same = |(_, other): &(&ConnectionId, &Connection)| {
            other.scope == gone.scope && other.peer.transport == gone.peer.transport
        };
        self.all.iter().filter(same).map(|(id, _)| *id).max()
    }

    /// A connection that we opened to a next hop.
    pub(super) fn for_next_hop(
        &self,
        index: usize,
    ) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        let ids = self.by_next_hop.get(&index).into_iter().flatten().rev();
        ids.filter_map(|id| Some((*id, self.all.get(id)?)))
    }

    /// The list of next hops changed: says where each stands now, if it still does.
    pub(super) fn renumber_next_hops(&mut self, place: impl Fn(usize) -> Option<usize>) {
        self.by_next_hop.clear();
        let mut places = Vec::new();
        for (id, connection) in &mut self.all {
            connection.next_hop = connection.next_hop.and_then(&place);
            places.extend(connection.next_hop.map(|index| (index, *id)));
        }
        // The newest stays the first to be used.
        places.sort_unstable();
        for (index, id) in places {
            self.by_next_hop.entry(index).or_default().push(id);
        }
    }

    /// Our own identities changed: says which each is now. A connection of one that is gone
    /// carries nothing new outward.
    pub(super) fn renumber_identities(&mut self, place: impl Fn(u8) -> Option<u8>) {
        for connection in self.all.values_mut() {
            connection.peer.own = place(connection.peer.own).unwrap_or(u8::MAX);
        }
    }

    /// Remote users who are registered.
    pub(super) fn registered(&self) -> usize {
        self.all.values().map(|connection| connection.users.len()).sum()
    }

    pub(super) fn count(&self, side: Side) -> usize {
        self.all.values().filter(|connection| connection.peer.side == side).count()
    }
}

fn scope(id: ConnectionId, peer: &Peer) -> u64 {
    let mut hasher = DefaultHasher::new();
    peer.side.hash(&mut hasher);
    match peer.side {
        Side::Inside => peer.remote.ip().hash(&mut hasher),
        // Nobody has proved anything: each connection is somebody else.
        Side::Remote => id.hash(&mut hasher),
        Side::Partner if peer.names.dns.is_empty() && peer.names.sip_uris.is_empty() => {
            id.hash(&mut hasher);
        }
        Side::Partner => (&peer.names.dns, &peer.names.sip_uris).hash(&mut hasher),
    }
    hasher.finish()
}

fn remove(index: &mut HashMap<Domain, Vec<ConnectionId>>, domain: &Domain, id: ConnectionId) {
    if let Some(ids) = index.get_mut(domain) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            index.remove(domain);
        }
    }
}
