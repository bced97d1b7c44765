//! Listeners, connections and the tasks that drive a core with them.
//!
//! | part | what it does |
//! | --- | --- |
//! | `hub` | the core and the table of connections behind one lock; carries out what the core says |
//! | `accept` | listeners, limits, the handshake and who is let in |
//! | `connect` | connections we open |
//! | `stream` | one TCP or TLS connection in one task |
//! | `queue` | what waits to be written, bounded |
//! | `settings` | what follows from the configuration |
//! | `datagram` | UDP inside |
//! | `gateway` | the XMPP gateway's connection |
//! | `bind` | sockets and their options |
//! | `limits`, `counters` | bounds and counts |

mod accept;
pub(super) mod bind;
mod connect;
mod counters;
mod datagram;
mod gateway;
mod hub;
pub(super) mod limits;
mod queue;
mod settings;
pub(super) mod stream;
#[cfg(test)]
mod tests;
mod write;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{OwnedMutexGuard, watch},
    task::JoinHandle,
};

pub use self::gateway::GatewayLink;
use self::{
    datagram::DatagramPort,
    hub::{Hub, Phase, Way},
    queue::CloseCause,
    settings::Settings,
};
use super::{
    Core, LowPriority,
    dns::Resolver,
    tls::{SentChain, TlsStore},
};
use crate::{
    config::{Config, Transport},
    media::flow::{CallId, FlowTally, MediaChange},
    proxy::{ConnectionId, Event, Output, Peer, Refusal, Side},
};

/// Where events go. Called without any lock held; must not block.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// What came of changes of media flows.
#[derive(Debug, Default)]
pub struct MediaApplied {
    /// What became of each call's flows.
    pub calls: BTreeMap<CallId, FlowTally>,
    /// What went wrong first, for people; what could be done was done.
    pub fault: Option<String>,
    /// Flows have no way yet because nobody has looked: see [`MediaSink::settle`].
    pub unsettled: bool,
}

/// Where changes of media flows go.
pub trait MediaSink: Send + Sync {
    /// Puts changes in force, in their order, before it returns. Called with the core's lock held:
    /// must be quick. `began`: when what caused them had been read.
    fn apply(&self, changes: &[MediaChange], began: Instant) -> MediaApplied;

    /// Finds the ways of flows that [`MediaApplied::unsettled`] told of, as far as that is quick.
    /// Called without the lock, before what announces the flows is written.
    fn settle(&self) {}
}

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
    /// Where strangers' handshakes are made.
    pub low_priority: LowPriority,
    /// Where media flows go; without it none can be opened.
    pub media: Option<Arc<dyn MediaSink>>,
}

impl<C> fmt::Debug for ShellParts<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShellParts").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// A listener cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{transport} {address}: cannot listen: {fault}; {mend}")]
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
    /// What it proved itself with.
    pub chain: SentChain,
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

/// How often a stop looks whether work is done.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// Time for connections to close in the end.
const CLOSE_TIME: Duration = Duration::from_secs(3);

/// Starts shells.
#[derive(Debug)]
pub struct Shell;

/// A running shell. Clones are the same shell; it runs until [`ShellHandle::drain`].
#[derive(Debug)]
pub struct ShellHandle<C> {
    hub: Arc<Hub<C>>,
    bound: Arc<Mutex<Vec<Bound>>>,
    /// One change of the listeners at a time.
    changing: Arc<tokio::sync::Mutex<()>>,
}

/// A listener, its configured address, and its task.
#[derive(Debug)]
struct Bound {
    configured: (Side, Transport, SocketAddr),
    listening: Listening,
    remove: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Shell {
    /// Binds every listener of a configuration, for [`Self::start`]. When one cannot be had, none
    /// is.
    pub fn bind(config: &Arc<Config>) -> Result<Listeners, BindError> {
        let sockets = bind_all(&wanted(config))?;
        Ok(Listeners { config: Arc::clone(config), sockets, _changing: None })
    }

    /// Starts with the listeners of its configuration.
    pub fn start<C: Core>(parts: ShellParts<C>, listeners: Listeners) -> ShellHandle<C> {
        let hub = Hub::new(parts);
        tokio::spawn(Arc::clone(&hub).run_timer());
        let bound = listeners.sockets.into_iter().map(|socket| socket.run(&hub)).collect();
        ShellHandle { hub, bound: Arc::new(Mutex::new(bound)), changing: Arc::default() }
    }
}

/// Listeners of a configuration that are bound and not served yet: whoever connects waits. They
/// hold their addresses until they are dropped.
pub struct Listeners {
    config: Arc<Config>,
    sockets: Vec<Socket>,
    /// Nobody else changes listeners meanwhile.
    _changing: Option<OwnedMutexGuard<()>>,
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").field("sockets", &self.sockets.len()).finish_non_exhaustive()
    }
}

/// What the configuration wants listened on.
fn wanted(config: &Config) -> Vec<(Side, Transport, SocketAddr)> {
    let access = config.access.listen.iter().map(|a| (Side::Partner, Transport::Tls, *a));
    let inside = config.inside.listen.iter().map(|(t, a)| (Side::Inside, *t, *a));
    let remote = config.services.remote.iter().flat_map(|remote| &remote.listen);
    let remote = remote.map(|a| (Side::Remote, Transport::Tls, *a));
    access.chain(inside).chain(remote).collect()
}

/// A socket that is bound and not yet served.
struct Socket {
    configured: (Side, Transport, SocketAddr),
    address: SocketAddr,
    kind: SocketKind,
}

enum SocketKind {
    Stream(TcpListener),
    Datagram(UdpSocket),
}

fn bind_all(wanted: &[(Side, Transport, SocketAddr)]) -> Result<Vec<Socket>, BindError> {
    let bind_one = |&configured: &(Side, Transport, SocketAddr)| {
        let (_, transport, address) = configured;
        let fault = |error: io::Error| BindError::new(transport, address, &error);
        if transport == Transport::Udp {
            let socket = bind::udp(address)?;
            let address = socket.local_addr().map_err(fault)?;
            return Ok(Socket { configured, address, kind: SocketKind::Datagram(socket) });
        }
        let listener = bind::tcp(transport, address)?;
        let address = listener.local_addr().map_err(fault)?;
        Ok(Socket { configured, address, kind: SocketKind::Stream(listener) })
    };
    wanted.iter().map(bind_one).collect()
}

impl Socket {
    fn run<C: Core>(self, hub: &Arc<Hub<C>>) -> Bound {
        let (side, transport, _) = self.configured;
        let (remove, removed) = watch::channel(false);
        let hub = Arc::clone(hub);
        let task = match self.kind {
            SocketKind::Stream(listener) => {
                tokio::spawn(accept::run(hub, listener, side, transport, removed))
            }
            SocketKind::Datagram(socket) => {
                let port = DatagramPort::new(socket, self.address);
                hub.ports.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&port));
                tokio::spawn(datagram::run(hub, port, removed))
            }
        };
        let listening = Listening { side, transport, address: self.address };
        Bound { configured: self.configured, listening, remove, task }
    }
}

impl<C: Core> ShellHandle<C> {
    /// Calls the core, under its lock, and carries out what it says. Never block inside.
    pub fn with_core<R>(&self, call: impl FnOnce(&mut C, Instant, &mut Vec<Output>) -> R) -> R {
        self.hub.drive(call)
    }

    /// Every live connection.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let mut all: Vec<_> = self.hub.links().iter().map(|link| link.info()).collect();
        all.sort_unstable_by_key(|info| info.id);
        all
    }

    /// Closes the connections that match, after what is queued is written; tells how many.
    pub fn close_where(&self, matches: impl Fn(&ConnectionInfo) -> bool, reason: Refusal) -> usize {
        let links = self.hub.links();
        let matching = links.iter().filter(|link| matches(&link.info()));
        matching.map(|link| self.hub.close_link(link, CloseCause::Refused(reason))).count()
    }

    /// Binds the listeners that a new configuration has beyond those of now, for
    /// [`Self::install`]. Nothing else changes, also when one cannot be had.
    pub async fn bind(&self, config: &Arc<Config>) -> Result<Listeners, BindError> {
        let changing = Arc::clone(&self.changing).lock_owned().await;
        let new: Vec<_> = {
            let bound = self.lock_bound();
            let have = |want: &_| bound.iter().any(|b| b.configured == *want);
            wanted(config).into_iter().filter(|want| !have(want)).collect()
        };
        let sockets = bind_all(&new)?;
        Ok(Listeners { config: Arc::clone(config), sockets, _changing: Some(changing) })
    }

    /// Takes a new configuration, with what [`Self::bind`] gave for it: serves its listeners, takes
    /// the others away, and closes connections of inside servers that are no longer listed. Other
    /// connections live on, within the new limits. Certificates are reloaded by
    /// [`TlsStore::reload`], before this.
    pub async fn install(&self, listeners: Listeners) {
        let Listeners { config, sockets, _changing } = listeners;
        let wanted = wanted(&config);
        let settings = Settings::new(config);
        self.hub.settings.set(Arc::clone(&settings));
        let removed: Vec<Bound> = {
            let mut bound = self.lock_bound();
            let (kept, removed) = bound.drain(..).partition(|b| wanted.contains(&b.configured));
            *bound = kept;
            bound.extend(sockets.into_iter().map(|socket| socket.run(&self.hub)));
            removed
        };
        for old in removed {
            self.remove(old).await;
        }
        for link in self.hub.links() {
            if link.peer.side == Side::Inside && !link.outbound && !settings.listed(&link.peer) {
                self.hub.close_link(&link, CloseCause::Refused(Refusal::NotListed));
            }
            if link.peer.side == Side::Remote && !settings.serves(link.peer.local) {
                self.hub.close_link(&link, CloseCause::Refused(Refusal::UserNoOutside));
            }
            if let Way::Stream(queue) = &link.way {
                queue.owner().into_iter().for_each(Waker::wake);
            }
        }
    }

    /// Stops accepting, waits for live work up to `bound`, then closes everything.
    pub async fn drain(&self, bound: Duration) -> Drained {
        let _changing = self.changing.lock().await;
        let raise = |to: Phase| {
            self.hub.phase.send_if_modified(|phase| {
                let raised = *phase < to;
                *phase = to.max(*phase);
                raised
            });
        };
        raise(Phase::Draining);
        let until = Instant::now() + bound;
        while self.hub.live() > 0 && Instant::now() < until {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        let live_left = self.hub.live();
        let links = self.hub.links();
        for link in &links {
            self.hub.close_link(link, CloseCause::Stop);
        }
        let until = Instant::now() + CLOSE_TIME;
        while !self.hub.links().is_empty() && Instant::now() < until {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        raise(Phase::Stopped);
        let all = std::mem::take(&mut *self.lock_bound());
        for old in all {
            self.remove(old).await;
        }
        Drained { live_left, closed: links.len() }
    }

    /// Where strangers' handshakes are made.
    pub fn low_priority(&self) -> LowPriority {
        self.hub.low_priority.clone()
    }

    /// What is listened on.
    pub fn listening(&self) -> Vec<Listening> {
        self.lock_bound().iter().map(|bound| bound.listening).collect()
    }

    /// Counts for metrics and status.
    pub fn counts(&self) -> Counts {
        let mut counts = self.hub.counters.list();
        let [access, inside, remote] = &self.hub.places;
        let outbound = self.hub.outbound.load(std::sync::atomic::Ordering::Relaxed);
        for (name, value) in [
            ("open.access", access.total()),
            ("open.inside", inside.total()),
            ("open.remote", remote.total()),
            ("open.outbound", outbound),
        ] {
            counts.push((name.to_owned(), value as u64));
        }
        counts
    }

    /// Takes a listener away; its address is free afterwards.
    async fn remove(&self, old: Bound) {
        old.remove.send_replace(true);
        if let Err(error) = old.task.await {
            tracing::error!(%error, "a listener's task failed");
        }
        if old.listening.transport == Transport::Udp {
            let mut ports = self.hub.ports.write().unwrap_or_else(PoisonError::into_inner);
            ports.retain(|port| port.local() != old.listening.address);
        }
    }

    fn lock_bound(&self) -> MutexGuard<'_, Vec<Bound>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Clone for ShellHandle<C> {
    fn clone(&self) -> Self {
        Self {
            hub: Arc::clone(&self.hub),
            bound: Arc::clone(&self.bound),
            changing: Arc::clone(&self.changing),
        }
    }
}
