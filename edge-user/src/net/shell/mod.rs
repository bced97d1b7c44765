//! Listeners, connections and the task that drives a core with them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{Core, dns::Resolver, tls::TlsStore};
use crate::{
    config::{Config, Transport},
    proxy::{ConnectionId, Event, Output, Peer, Refusal, Side},
};

/// Where events go. Called without any lock held; must not block.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// What a shell is made of.
pub struct ShellParts<C> {
    /// The state machine to drive.
    pub core: C,
    /// Listeners, listed servers and limits.
    pub config: Arc<Config>,
    /// Certificates and trust.
    pub tls: Arc<TlsStore>,
    /// DNS.
    pub resolver: Arc<Resolver>,
    /// Where events go.
    pub events: EventSink,
}

/// A listener cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{transport:?} {address}: cannot listen: {fault}; {mend}")]
pub struct BindError {
    /// How.
    pub transport: Transport,
    /// Where.
    pub address: SocketAddr,
    /// The system's words.
    pub fault: String,
    /// What to do.
    pub mend: &'static str,
}

/// A live connection, for people and for blocks.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its id.
    pub id: ConnectionId,
    /// Who is there, with the names its certificate holds.
    pub peer: Peer,
    /// We opened it.
    pub outbound: bool,
    /// Since when, by the wall clock.
    pub since: SystemTime,
    /// Bytes of SIP that came in.
    pub bytes_in: u64,
    /// Bytes of SIP that went out.
    pub bytes_out: u64,
}

/// A listener that is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Its side.
    pub side: Side,
    /// How.
    pub transport: Transport,
    /// Where; the real port when the configuration says 0.
    pub address: SocketAddr,
}

/// How a graceful stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Work that was still live when time was up.
    pub live_left: usize,
    /// Connections that were closed at the end.
    pub closed: usize,
}

/// Counts of what the shell did and refused. Names and values, in a fixed order.
pub type Counts = Vec<(String, u64)>;

/// Starts shells.
#[derive(Debug)]
pub struct Shell;

/// A running shell. Clones are the same shell.
pub struct ShellHandle<C> {
    core: Arc<Mutex<C>>,
}

impl Shell {
    /// Binds every listener and starts. When one listener cannot be had, nothing is started.
    pub async fn start<C: Core>(parts: ShellParts<C>) -> Result<ShellHandle<C>, BindError> {
        Ok(ShellHandle { core: Arc::new(Mutex::new(parts.core)) })
    }
}

impl<C: Core> ShellHandle<C> {
    /// Calls the core, under its lock, and carries out what it says. Never block inside.
    pub fn with_core<R>(&self, call: impl FnOnce(&mut C, Instant, &mut Vec<Output>) -> R) -> R {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        call(&mut core, Instant::now(), &mut Vec::new())
    }

    /// Every live connection.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        Vec::new()
    }

    /// Closes the connections that match; tells how many.
    pub fn close_where(
        &self,
        _matches: impl Fn(&ConnectionInfo) -> bool,
        _reason: Refusal,
    ) -> usize {
        0
    }

    /// Takes a new configuration: opens and closes listeners, and closes connections of inside
    /// servers that are no longer listed. Other connections live on. When a new listener cannot be
    /// had, nothing changes.
    pub async fn rebind(&self, _config: Arc<Config>) -> Result<(), BindError> {
        Ok(())
    }

    /// Stops accepting, waits for live work up to `bound`, then closes everything.
    pub async fn drain(&self, _bound: Duration) -> Drained {
        Drained { live_left: 0, closed: 0 }
    }

    /// What is listened on.
    pub fn listening(&self) -> Vec<Listening> {
        Vec::new()
    }

    /// Addresses of remote ends of live connections that proved who they are.
    pub fn remotes(&self) -> Vec<IpAddr> {
        Vec::new()
    }

    /// Counts for metrics and status.
    pub fn counts(&self) -> Counts {
        Counts::new()
    }
}

impl<C> Clone for ShellHandle<C> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core) }
    }
}
