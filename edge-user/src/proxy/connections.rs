//! Who is connected, and which domains each connection has proved (RFC 5923: a connection is
//! used both ways, for the identities that were proved on it).

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{ConnectionId, Peer, Side, remote::SignedIn};
use crate::{config::Transport, domain::Domain, ids::IdMap};

/// Domains that one connection may have proved at one time; a partner with more asks DNS again.
const MAX_PROOFS: usize = 64;

/// How long a partner's host must be gone from DNS before its connection carries nothing new.
pub(super) const MOVED: Duration = Duration::from_secs(60);

/// A domain that a connection proved.
#[derive(Debug)]
struct Proof {
    domain: Domain,
    /// Until when it holds (`None`: as long as the policy does).
    until: Option<Instant>,
    /// Since when DNS has not named the address that we dialled.
    absent: Option<Instant>,
}

impl Proof {
    fn holds(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    fn has_moved(&self, now: Instant) -> bool {
        self.absent.is_some_and(|since| since + MOVED <= now)
    }
}

/// A live connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub peer: Peer,
    /// Who is there, as a number: the same for every connection of one certificate, or inside of
    /// one host. Transactions of one scope are invisible to every other.
    pub scope: u64,
    proofs: Vec<Proof>,
    /// When something went over it last.
    pub used: Instant,
    /// When it is compared again with what DNS says.
    pub look_at: Instant,
    /// One of our next hops: which.
    pub next_hop: Option<usize>,
    /// We opened it.
    pub dialled: bool,
    /// It spoke for a discovered partner, and was counted for that.
    pub discovered: bool,
    /// Remote users who registered on it.
    pub users: Vec<SignedIn>,
    /// Whoever did, also when it is over: calls to them may stand.
    pub were: Vec<SignedIn>,
    /// Whose password was wrong here; empty: more than one user's.
    pub wrong: Option<String>,
    /// What came over another connection is answered here.
    pub took_over: bool,
}

/// Every live connection.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: IdMap<ConnectionId, Connection>,
    by_domain: HashMap<Domain, Vec<ConnectionId>>,
    by_inside_remote: HashMap<(Transport, SocketAddr), ConnectionId>,
    by_next_hop: HashMap<usize, Vec<ConnectionId>>,
    gateway: Option<ConnectionId>,
}

impl Connections {
    pub(super) fn open(
        &mut self,
        now: Instant,
        id: ConnectionId,
        peer: Peer,
        next_hop: Option<usize>,
        dialled: bool,
    ) {
        if peer.side == Side::Inside {
            self.by_inside_remote.insert((peer.transport, peer.remote), id);
        }
        if peer.side == Side::Gateway {
            self.gateway = Some(id);
        }
        // Over UDP one that is there is told again when it is dialled.
        let known = self.all.get(&id).and_then(|before| before.next_hop);
        let next_hop = next_hop.or(known);
        if let Some(index) = next_hop.filter(|_| known != next_hop) {
            let before = known.and_then(|hop| self.by_next_hop.get_mut(&hop));
            before.into_iter().for_each(|ids| ids.retain(|other| *other != id));
            self.by_next_hop.entry(index).or_default().push(id);
        }
        let scope = scope(id, &peer);
        let (proofs, users, were) = (Vec::new(), Vec::new(), Vec::new());
        let (used, look_at) = (now, now);
        let connection = Connection {
            peer,
            scope,
            proofs,
            used,
            look_at,
            next_hop,
            dialled,
            discovered: false,
            users,
            were,
            wrong: None,
            took_over: false,
        };
        self.all.insert(id, connection);
    }

    pub(super) fn close(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.all.remove(&id)?;
        for proof in &connection.proofs {
            remove(&mut self.by_domain, &proof.domain, id);
        }
        if let Some(ids) = connection.next_hop.and_then(|hop| self.by_next_hop.get_mut(&hop)) {
            ids.retain(|other| *other != id);
        }
        let key = (connection.peer.transport, connection.peer.remote);
        if self.by_inside_remote.get(&key) == Some(&id) {
            self.by_inside_remote.remove(&key);
        }
        if self.gateway == Some(id) {
            self.gateway = None;
        }
        Some(connection)
    }

    /// The XMPP gateway's.
    pub(super) fn gateway(&self) -> Option<ConnectionId> {
        self.gateway
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
            connection.proofs.iter().any(|proof| proof.domain == *domain && proof.holds(now))
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
        if let Some(proof) = connection.proofs.iter_mut().find(|proof| proof.domain == *domain) {
            proof.until = until;
            return false;
        }
        if connection.proofs.len() >= MAX_PROOFS {
            let at = connection.proofs.iter().position(|proof| !proof.holds(now)).unwrap_or(0);
            let old = connection.proofs.swap_remove(at);
            remove(&mut self.by_domain, &old.domain, id);
        }
        connection.proofs.push(Proof { domain: domain.clone(), until, absent: None });
        self.by_domain.entry(domain.clone()).or_default().push(id);
        true
    }

    /// Whether DNS names the address that a connection was dialled at, for a domain that it proved.
    /// True when that it does not is new.
    pub(super) fn named(
        &mut self,
        now: Instant,
        id: ConnectionId,
        domain: &Domain,
        named: bool,
    ) -> bool {
        let proofs = self.all.get_mut(&id).map(|connection| &mut connection.proofs);
        let proof = proofs.into_iter().flatten().find(|proof| proof.domain == *domain);
        let Some(proof) = proof else { return false };
        let new = !named && proof.absent.is_none();
        proof.absent = (!named).then(|| proof.absent.unwrap_or(now));
        new
    }

    /// The domain's edge is not there any more, by what DNS says.
    pub(super) fn has_moved(&self, now: Instant, id: ConnectionId, domain: &Domain) -> bool {
        self.all.get(&id).is_some_and(|connection| {
            connection.proofs.iter().any(|p| p.domain == *domain && p.has_moved(now))
        })
    }

    /// The same of all it proved; `None`: DNS names it for all.
    pub(super) fn all_moved(&self, now: Instant, id: ConnectionId) -> Option<bool> {
        let proofs = &self.all.get(&id)?.proofs;
        let some = proofs.iter().any(|proof| proof.absent.is_some());
        some.then(|| proofs.iter().all(|proof| proof.has_moved(now)))
    }

    /// Forgets proofs: the policy changed, and what holds no more is proved again under the new
    /// one.
    pub(super) fn keep_proofs(&mut self, holds: impl Fn(&Domain) -> bool) {
        self.by_domain.retain(|key, _| holds(key));
        let by_domain = &self.by_domain;
        for connection in self.all.values_mut() {
            connection.proofs.retain(|proof| by_domain.contains_key(&proof.domain));
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Domains a connection has proved.
    pub(super) fn proved(&self, id: ConnectionId) -> impl Iterator<Item = &Domain> {
        self.all.get(&id).into_iter().flat_map(|c| c.proofs.iter().map(|proof| &proof.domain))
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

    /// Another stream of whoever had one, the newest: the same names in its certificate, or the same
    /// address inside. `at`: from there alone. (Looked for only when something waits for it.)
    pub(super) fn same_sender(
        &self,
        scope: u64,
        transport: Transport,
        at: Option<IpAddr>,
    ) -> Option<ConnectionId> {
        if transport == Transport::Udp {
            return None;
        }
        let same = |(_, other): &(&ConnectionId, &Connection)| {
            let peer = &other.peer;
            other.scope == scope
                && peer.transport == transport
                && at.is_none_or(|at| peer.remote.ip() == at)
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

    /// Keeps remote users for whom this holds.
    pub(super) fn keep_users(&mut self, holds: impl Fn(&SignedIn) -> bool) {
        for connection in self.all.values_mut().filter(|c| !c.users.is_empty()) {
            connection.users.retain(&holds);
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
        Side::Gateway => {}
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
