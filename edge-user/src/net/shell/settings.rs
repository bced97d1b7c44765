//! What follows from the configuration: who is served where, and how much each side may send.

use std::{
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::limits::HANDSHAKES_OF_A_SOURCE;
use crate::{
    config::{Config, InsideServer, Transport},
    proxy::{Peer, Side},
    sip,
};

/// What follows from the configuration.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) config: Arc<Config>,
    pub(super) frame: sip::Limits,
}

/// The settings in force, and how often they were changed: whoever only looks whether they are the
/// same locks nothing.
#[derive(Debug)]
pub(super) struct InForce {
    settings: RwLock<Arc<Settings>>,
    changes: AtomicU64,
}

impl InForce {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self { settings: RwLock::new(settings), changes: AtomicU64::new(0) }
    }

    pub(super) fn get(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, settings: Arc<Settings>) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Read before [`Self::get`], it is never newer than what that gives.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}

impl Settings {
    pub(super) fn new(config: Arc<Config>) -> Arc<Self> {
        let limits = &config.limits;
        let frame = sip::Limits {
            head: limits.head_bytes,
            body: limits.body_bytes,
            ..sip::Limits::default()
        };
        Arc::new(Self { frame, config })
    }

    /// Handshakes of this side at one time, in all and of one source.
    pub(super) fn handshakes_for(&self, side: Side) -> (usize, usize) {
        let most = self.config.limits.handshakes;
        match side {
            Side::Inside => (most, most),
            _ => (most, most.min(HANDSHAKES_OF_A_SOURCE)),
        }
    }

    /// Whether remote users are served at this address of ours.
    pub(super) fn serves(&self, local: SocketAddr) -> bool {
        let at = |listen: &SocketAddr| {
            listen.port() == local.port()
                && (listen.ip().is_unspecified() || listen.ip() == local.ip().to_canonical())
        };
        let remote = self.config.services.remote.as_ref();
        remote.is_some_and(|remote| {
            remote.listen.iter().any(at)
                || (remote.shared && self.config.access.listen.iter().any(at))
        })
    }

    /// How large a message from this side may be.
    fn frame_for(&self, side: Side) -> sip::Limits {
        let remote = self.config.services.remote.as_ref().filter(|_| side == Side::Remote);
        let body = remote.map_or(self.frame.body, |remote| remote.body_bytes.min(self.frame.body));
        sip::Limits { body, ..self.frame.clone() }
    }

    /// How large a message may be that comes next. `admitted`: its sender has proved something, or is
    /// inside.
    pub(super) fn frame_of(&self, side: Side, admitted: bool) -> sip::Limits {
        if admitted { self.frame_for(side) } else { self.first_frame() }
    }

    /// How large a message from outside may be before its sender has proved anything: a partner its
    /// domain, a remote user its password.
    fn first_frame(&self) -> sip::Limits {
        let first = self.config.limits.first_request_bytes;
        let (head, body) = (self.frame.head.min(first), self.frame.body.min(first));
        sip::Limits { head, body, ..self.frame.clone() }
    }

    /// Connections from this side, in all and from one source.
    pub(super) fn places_for(&self, side: Side) -> (usize, usize) {
        let limits = &self.config.limits;
        match side {
            Side::Partner => (limits.connections, limits.connections_per_source),
            // Inside servers are few and listed; only their total is bounded.
            Side::Inside => (limits.connections, limits.connections),
            // Opened by this program itself.
            Side::Gateway => (0, 0),
            Side::Remote => self
                .config
                .services
                .remote
                .as_ref()
                .map_or((0, 0), |remote| (remote.connections, remote.connections_per_source)),
        }
    }

    /// Whether an inside server is listed: by a name of its certificate for TLS, by its address
    /// for TCP and UDP.
    pub(super) fn listed(&self, peer: &Peer) -> bool {
        self.config.inside.servers.iter().any(|server| match server {
            InsideServer::Name(name) => peer.transport == Transport::Tls && peer.names.holds(name),
            InsideServer::Prefix(prefix) => {
                peer.transport != Transport::Tls
                    && prefix.contains(&peer.remote.ip().to_canonical())
            }
        })
    }
}
