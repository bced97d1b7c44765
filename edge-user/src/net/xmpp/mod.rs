//! Streams of XMPP: listeners, connections, TLS and DNS around a core without sockets.
//!
//! | part | what it does |
//! | --- | --- |
//! | `hub` | the core and the table of streams behind one lock; carries out what the core says |
//! | `accept`, `connect` | streams that come in, and those we open |
//! | `stream` | one connection in one task: reads no faster than it may, writes, begins TLS |
//! | `queue` | what waits to be written, bounded |
//! | `status` | what is shown of streams, and counts |
//!
//! It decides nothing: what a certificate is worth, and whether that is enough, is for the core.

mod accept;
mod connect;
mod hub;
mod queue;
mod status;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    net::TcpListener,
    sync::{OwnedMutexGuard, mpsc, watch},
    task::JoinHandle,
};

use self::hub::{Hub, Phase};
pub use self::status::{StreamInfo, XmppCounts};
use super::{
    LowPriority,
    dns::Resolver,
    shell::{BindError, bind},
    tls::TlsStore,
};
use crate::{
    config::{Config, Transport},
    sip::Message,
    xmpp::{
        io::{XmppEvent, XmppInput, XmppSide},
        site::{GatewayMachine, Site, SiteOutput, StreamMachine},
    },
};

/// A state machine that the shell drives: streams, and the gateway behind them.
pub trait XmppCore: Send + 'static {
    /// Takes an input; appends what is to be done.
    fn handle(&mut self, now: Instant, input: XmppInput, out: &mut Vec<SiteOutput>);

    /// The SIP proxy has a message for the gateway.
    fn sip(&mut self, now: Instant, message: Message, out: &mut Vec<SiteOutput>);

    /// When [`XmppCore::on_timeout`] is to be called next. Asked after every input: must be cheap.
    fn next_timeout(&self) -> Option<Instant>;

    /// A point in time given by [`XmppCore::next_timeout`] has come.
    fn on_timeout(&mut self, now: Instant, out: &mut Vec<SiteOutput>);

    /// Ends every stream in good order: the appliance stops.
    fn stop(&mut self, now: Instant, out: &mut Vec<SiteOutput>);
}

impl<S, G> XmppCore for Site<S, G>
where
    S: StreamMachine + Send + 'static,
    G: GatewayMachine + Send + 'static,
{
    fn handle(&mut self, now: Instant, input: XmppInput, out: &mut Vec<SiteOutput>) {
        Site::handle(self, now, input, out);
    }

    fn sip(&mut self, now: Instant, message: Message, out: &mut Vec<SiteOutput>) {
        Site::sip(self, now, message, out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        Site::next_timeout(self)
    }

    fn on_timeout(&mut self, now: Instant, out: &mut Vec<SiteOutput>) {
        Site::on_timeout(self, now, out);
    }

    fn stop(&mut self, now: Instant, out: &mut Vec<SiteOutput>) {
        Site::stop(self, now, out);
    }
}

/// Where events go. Called without any lock held; must not block.
pub type XmppEventSink = Arc<dyn Fn(XmppEvent) + Send + Sync>;

/// What a shell of XMPP is made of.
pub struct XmppParts<C> {
    /// The state machine to drive.
    pub core: C,
    /// Listeners and limits.
    pub config: Arc<Config>,
    /// Certificates and trust.
    pub tls: Arc<TlsStore>,
    /// DNS.
    pub resolver: Arc<Resolver>,
    /// Where events go.
    pub events: XmppEventSink,
    /// Where strangers' handshakes are made.
    pub low_priority: LowPriority,
    /// Where the gateway's SIP messages go.
    pub sip: mpsc::Sender<Bytes>,
}

impl<C> fmt::Debug for XmppParts<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XmppParts").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// What a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Door {
    side: XmppSide,
    /// TLS from the first byte.
    direct_tls: bool,
    address: SocketAddr,
}

/// How often a stop looks whether streams are closed.
const STOP_LOOK: Duration = Duration::from_millis(20);
/// Time for streams to close in good order.
const CLOSE_TIME: Duration = Duration::from_secs(3);

/// Starts shells of XMPP.
#[derive(Debug)]
pub struct XmppShell;

/// A running shell. Clones are the same shell; it runs until [`XmppHandle::stop`].
#[derive(Debug)]
pub struct XmppHandle<C> {
    hub: Arc<Hub<C>>,
    bound: Arc<Mutex<Vec<Bound>>>,
    /// One change of the listeners at a time; whether it is drained.
    changing: Arc<tokio::sync::Mutex<bool>>,
}

impl<C> Clone for XmppHandle<C> {
    fn clone(&self) -> Self {
        Self {
            hub: Arc::clone(&self.hub),
            bound: Arc::clone(&self.bound),
            changing: Arc::clone(&self.changing),
        }
    }
}

/// A listener and its task.
#[derive(Debug)]
struct Bound {
    door: Door,
    address: SocketAddr,
    remove: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// While it is drained, partners are not listened to: what cannot connect here goes to the next
/// server of our domains.
fn wanted(config: &Config, draining: bool) -> Vec<Door> {
    let Some(service) = &config.services.xmpp else { return Vec::new() };
    let door =
        |side, direct_tls| move |address: &SocketAddr| Door { side, direct_tls, address: *address };
    let external = service.listen.iter().map(door(XmppSide::Partner, false));
    let direct = service.direct_tls.iter().map(door(XmppSide::Partner, true));
    let inside = service.inside.iter().map(door(XmppSide::Inside, false));
    // Nobody inside has anything to connect for, unless there are servers.
    let inside = inside.filter(|_| !service.servers.is_empty());
    let outside = external.chain(direct).filter(|_| !draining);
    outside.chain(inside).collect()
}

/// Binds these, or none.
fn bind_all(doors: &[Door]) -> Result<Vec<(Door, SocketAddr, TcpListener)>, BindError> {
    let one = |door: &Door| {
        let listener = bind::tcp(Transport::Tcp, door.address)?;
        let fault = |error: io::Error| BindError::new(Transport::Tcp, door.address, &error);
        let address = listener.local_addr().map_err(fault)?;
        Ok((*door, address, listener))
    };
    doors.iter().map(one).collect()
}

/// Listeners that are bound and not served yet: whoever connects waits. They hold their addresses
/// until they are dropped.
pub struct Doors {
    config: Arc<Config>,
    draining: bool,
    sockets: Vec<(Door, SocketAddr, TcpListener)>,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

/// [`Doors`] for a shell that runs; nobody else changes its listeners meanwhile.
#[derive(Debug)]
pub struct NewDoors {
    doors: Doors,
    changing: OwnedMutexGuard<bool>,
}

impl XmppShell {
    /// Binds every listener of a configuration, for [`Self::start`]; while it is drained, those
    /// for partners are not wanted. When one cannot be had, none is.
    ///
    /// # Errors
    /// A listener cannot be had.
    pub fn bind(config: &Arc<Config>, draining: bool) -> Result<Doors, BindError> {
        let sockets = bind_all(&wanted(config, draining))?;
        Ok(Doors { config: Arc::clone(config), draining, sockets })
    }

    /// Starts with the listeners of its configuration.
    pub fn start<C: XmppCore>(parts: XmppParts<C>, doors: Doors) -> XmppHandle<C> {
        let hub = Hub::new(parts);
        tokio::spawn(Arc::clone(&hub).run_timer());
        let bound = doors.sockets.into_iter().map(|socket| serve(&hub, socket)).collect();
        let changing = Arc::new(tokio::sync::Mutex::new(doors.draining));
        XmppHandle { hub, bound: Arc::new(Mutex::new(bound)), changing }
    }
}

fn serve<C: XmppCore>(
    hub: &Arc<Hub<C>>,
    (door, address, listener): (Door, SocketAddr, TcpListener),
) -> Bound {
    let (remove, removed) = watch::channel(false);
    let task = tokio::spawn(accept::run(Arc::clone(hub), listener, door, removed));
    Bound { door, address, remove, task }
}

impl<C: XmppCore> XmppHandle<C> {
    /// Calls the core, under its lock, and carries out what it says. Never block inside.
    pub fn with_core<R>(&self, call: impl FnOnce(&mut C, Instant, &mut Vec<SiteOutput>) -> R) -> R {
        self.hub.drive(call)
    }

    /// The SIP proxy has a message for the gateway.
    pub fn sip(&self, message: Message) {
        self.hub.sip(message);
    }

    /// Every live stream.
    pub fn streams(&self) -> Vec<StreamInfo> {
        let mut all: Vec<StreamInfo> = self.hub.links().iter().map(|link| link.info()).collect();
        all.sort_unstable_by_key(|info| info.id);
        all
    }

    /// What is listened on, the real ports where the configuration says 0: outside, with TLS from
    /// the first byte, and inside.
    pub fn listening(&self) -> Vec<(XmppSide, bool, SocketAddr)> {
        let bound = self.lock_bound();
        bound.iter().map(|b| (b.door.side, b.door.direct_tls, b.address)).collect()
    }

    /// Counts for metrics and status.
    pub fn counts(&self) -> XmppCounts {
        self.hub.counts()
    }

    /// Binds the listeners that a new configuration has beyond those of now, for
    /// [`Self::install`]. Nothing else changes, also when one cannot be had.
    ///
    /// # Errors
    /// A listener cannot be had.
    pub async fn bind(&self, config: &Arc<Config>) -> Result<NewDoors, BindError> {
        let changing = Arc::clone(&self.changing).lock_owned().await;
        let doors = self.bind_new(config, *changing)?;
        Ok(NewDoors { doors, changing })
    }

    /// Takes a new configuration, with what [`Self::bind`] gave for it: serves its listeners, and
    /// takes the others away. What the core thinks of live streams is told to it by
    /// [`Self::with_core`].
    pub async fn install(&self, new: NewDoors) {
        let NewDoors { doors, changing: _changing } = new;
        self.open(doors).await;
    }

    /// Begins or ends a drain: no stream comes in from a partner, and those that are there go on.
    ///
    /// # Errors
    /// A listener cannot be had again.
    pub async fn set_draining(&self, on: bool) -> Result<(), BindError> {
        let mut draining = self.changing.lock().await;
        self.open(self.bind_new(&self.hub.config(), on)?).await;
        *draining = on;
        Ok(())
    }

    fn bind_new(&self, config: &Arc<Config>, draining: bool) -> Result<Doors, BindError> {
        let new: Vec<Door> = {
            let bound = self.lock_bound();
            let have = |door: &Door| bound.iter().any(|b| b.door == *door);
            wanted(config, draining).into_iter().filter(|door| !have(door)).collect()
        };
        Ok(Doors { config: Arc::clone(config), draining, sockets: bind_all(&new)? })
    }

    async fn open(&self, doors: Doors) {
        let Doors { config, draining, sockets } = doors;
        let wanted = wanted(&config, draining);
        self.hub.set_config(config);
        let removed: Vec<Bound> = {
            let mut bound = self.lock_bound();
            let (kept, removed) = bound.drain(..).partition(|b| wanted.contains(&b.door));
            *bound = kept;
            bound.extend(sockets.into_iter().map(|socket| serve(&self.hub, socket)));
            removed
        };
        remove_all(removed).await;
    }

    /// Stops accepting, ends every stream in good order, and stops.
    pub async fn stop(&self) {
        let _changing = self.changing.lock().await;
        self.hub.phase.send_replace(Phase::Stopping);
        let bound = std::mem::take(&mut *self.lock_bound());
        remove_all(bound).await;
        self.with_core(|core, now, out| core.stop(now, out));
        let until = Instant::now() + CLOSE_TIME;
        while !self.hub.links().is_empty() && Instant::now() < until {
            tokio::time::sleep(STOP_LOOK).await;
        }
        self.hub.phase.send_replace(Phase::Stopped);
    }

    fn lock_bound(&self) -> MutexGuard<'_, Vec<Bound>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes listeners away; their addresses are free afterwards.
async fn remove_all(bound: Vec<Bound>) {
    for old in bound {
        old.remove.send_replace(true);
        if let Err(error) = old.task.await {
            tracing::error!(%error, "a listener's task failed");
        }
    }
}
