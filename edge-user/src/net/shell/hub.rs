//! What all tasks share: the core and the table of connections behind one lock, settings, counts.
//!
//! Outputs for a connection are queued while the lock is held, so that what the core says to one
//! connection leaves in the order in which it said it. Everything else is done after.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};

use super::{
    ConnectionInfo, EventSink, MediaApplied, MediaSink, ShellParts,
    counters::{Counters, add},
    datagram::DatagramPort,
    limits::{Admission, Pace},
    queue::{CloseCause, WriteQueue},
    settings::{InForce, Settings},
};
use crate::{
    federation::Lookup,
    ids::IdMap,
    media::flow::{CallId, MediaChange},
    net::{
        Core, LowPriority,
        dns::Resolver,
        timer,
        tls::{SentChain, TlsStore},
    },
    proxy::{
        ConnectionId, Event, Input, Output, Peer, QueryId, Question, Refusal, Repute, ResolveError,
        Side,
    },
};

/// Questions to DNS the core may have open.
const MAX_QUESTIONS: usize = 4096;

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// No new connections.
    Draining,
    /// Every task ends.
    Stopped,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) peer: Peer,
    pub(super) outbound: bool,
    pub(super) since: SystemTime,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    /// It may send as much as anybody: we opened it, it is inside, or a request of its own was
    /// admitted.
    pub(super) admitted: Arc<AtomicBool>,
    /// What it proved itself with.
    pub(super) chain: SentChain,
    pub(super) way: Way,
}

/// How bytes leave.
#[derive(Debug)]
pub(super) enum Way {
    Stream(WriteQueue),
    Datagram(Arc<DatagramPort>),
    /// To the XMPP gateway.
    Gateway(mpsc::Sender<Bytes>),
}

impl Link {
    pub(super) fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            id: self.id,
            peer: self.peer.clone(),
            chain: self.chain.clone(),
            outbound: self.outbound,
            since: self.since,
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }
}

struct Inner<C> {
    core: C,
    links: IdMap<ConnectionId, Arc<Link>>,
    armed: Option<Instant>,
    scratch: Vec<Output>,
}

pub(super) struct Hub<C> {
    inner: Mutex<Inner<C>>,
    timer: Notify,
    pub(super) settings: InForce,
    pub(super) tls: Arc<TlsStore>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) low_priority: LowPriority,
    events: EventSink,
    media: Option<Arc<dyn MediaSink>>,
    pub(super) counters: Counters,
    /// Places of the access service, of the internal listener and of remote users.
    pub(super) places: [Arc<Admission>; 3],
    /// Attempts to connect and connections we opened.
    pub(super) outbound: Arc<AtomicUsize>,
    /// Handshakes under way, of each side and there of each repute: strangers take no place of who is
    /// known, nor those among the remote users one of the partners'.
    pub(super) handshakes: [[Arc<Admission>; Repute::COUNT]; 3],
    /// Of handshakes, of each side.
    paces: [Pace; 3],
    questions: AtomicUsize,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) ports: RwLock<Vec<Arc<DatagramPort>>>,
    next_id: AtomicU64,
}

/// What is done once the lock is free.
struct After {
    /// When what caused all this had been read.
    began: Instant,
    first: Option<(Arc<Link>, Waker)>,
    flushes: Vec<(Arc<Link>, Waker)>,
    wakers: Vec<Waker>,
    datagrams: Vec<(Arc<Link>, Bytes)>,
    gone: Vec<(Arc<Link>, CloseCause)>,
    other: Option<Output>,
    others: Vec<Output>,
    rearm: bool,
    /// Flows have no way yet that nobody has looked up.
    unsettled: bool,
}

impl After {
    /// To be made before the lock is waited for.
    fn begin() -> Self {
        Self {
            began: Instant::now(),
            first: None,
            flushes: Vec::new(),
            wakers: Vec::new(),
            datagrams: Vec::new(),
            gone: Vec::new(),
            other: None,
            others: Vec::new(),
            rearm: false,
            unsettled: false,
        }
    }

    fn event(&mut self, event: Event) {
        self.others.push(Output::Event(event));
    }

    /// Something was queued for a connection, and nobody was told yet.
    fn flush(&mut self, link: &Arc<Link>, waker: Waker) {
        let entry = (Arc::clone(link), waker);
        match &self.first {
            None => self.first = Some(entry),
            Some(_) => self.flushes.push(entry),
        }
    }

    fn close(&mut self, link: &Arc<Link>, cause: CloseCause) {
        match &link.way {
            Way::Stream(queue) => self.wakers.extend(queue.close(cause)),
            Way::Datagram(_) | Way::Gateway(_) => self.gone.push((Arc::clone(link), cause)),
        }
    }
}

impl<C: Core> Hub<C> {
    pub(super) fn new(parts: ShellParts<C>) -> Arc<Self> {
        let ShellParts { core, config, tls, resolver, events, low_priority, media } = parts;
        let inner = Inner { core, links: IdMap::default(), armed: None, scratch: Vec::new() };
        Arc::new(Self {
            inner: Mutex::new(inner),
            timer: Notify::new(),
            settings: InForce::new(Settings::new(config)),
            tls,
            resolver,
            low_priority,
            events,
            media,
            counters: Counters::default(),
            places: Default::default(),
            outbound: Arc::default(),
            handshakes: Default::default(),
            paces: Default::default(),
            questions: AtomicUsize::new(0),
            phase: watch::Sender::new(Phase::Running),
            ports: RwLock::default(),
            next_id: AtomicU64::new(1),
        })
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.get()
    }

    /// Whether a handshake more may begin.
    pub(super) fn may_shake(&self, settings: &Settings, side: Side, remote: IpAddr) -> bool {
        let Some(pace) = self.paces.get(side_index(side)) else { return false };
        let limits = &settings.config.limits;
        let (all, one) = (limits.handshakes_per_second, limits.handshakes_per_second_per_source);
        pace.take(Instant::now(), remote, all, one)
    }

    /// The repute of an address with this side.
    pub(super) fn repute(&self, side: Side, remote: IpAddr) -> Repute {
        self.paces.get(side_index(side)).map_or(Repute::Stranger, |pace| pace.repute(remote))
    }

    /// A connection proved something, so its source is known from now on. Where one listener serves
    /// both, a remote user comes as a partner does: what it is shows after the handshake only.
    fn know(&self, link: &Link, repute: Repute) {
        let peer = &link.peer;
        link.admitted.store(true, Ordering::Relaxed);
        let remote = self.settings().config.services.remote.as_ref().map(|remote| remote.shared);
        let also = (peer.side == Side::Remote && remote == Some(true)).then_some(Side::Partner);
        for side in also.into_iter().chain([peer.side]) {
            if let Some(pace) = self.paces.get(side_index(side)) {
                pace.know(peer.remote.ip(), repute);
            }
        }
    }

    pub(super) fn event(&self, event: Event) {
        (self.events)(event);
    }

    /// Calls the core and carries out what it says.
    pub(super) fn drive<R>(
        self: &Arc<Self>,
        call: impl FnOnce(&mut C, Instant, &mut Vec<Output>) -> R,
    ) -> R {
        let mut after = After::begin();
        let mut inner = self.lock();
        let result = self.call(&mut inner, call, &mut after);
        drop(inner);
        self.finish(after);
        result
    }

    /// Hands a few inputs to the core at once.
    pub(super) fn deliver(self: &Arc<Self>, inputs: &mut Vec<Input>) {
        self.drive(|core, now, out| {
            for input in inputs.drain(..) {
                core.handle(now, input, out);
            }
        });
    }

    /// Enters a connection of our own or with our own in the table and tells the core.
    pub(super) fn open(
        self: &Arc<Self>,
        peer: Peer,
        outbound: bool,
        way: Way,
        attempt: Option<crate::proxy::AttemptId>,
    ) -> Arc<Link> {
        self.enter(peer, outbound, way, attempt, Arc::new(AtomicBool::new(true)), None)
    }

    /// The same of one of our own over TLS, with what the server has shown.
    pub(super) fn open_to_server(
        self: &Arc<Self>,
        peer: Peer,
        way: Way,
        attempt: crate::proxy::AttemptId,
        chain: SentChain,
    ) -> Arc<Link> {
        self.enter(peer, true, way, Some(attempt), Arc::new(AtomicBool::new(true)), chain)
    }

    /// The same for one that came in; `admitted` becomes true with the first request that is.
    pub(super) fn open_accepted(
        self: &Arc<Self>,
        peer: Peer,
        way: Way,
        admitted: Arc<AtomicBool>,
        chain: SentChain,
    ) -> Arc<Link> {
        self.enter(peer, false, way, None, admitted, chain)
    }

    fn enter(
        self: &Arc<Self>,
        peer: Peer,
        outbound: bool,
        way: Way,
        attempt: Option<crate::proxy::AttemptId>,
        admitted: Arc<AtomicBool>,
        chain: SentChain,
    ) -> Arc<Link> {
        let id = ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let link = Arc::new(Link {
            id,
            peer: peer.clone(),
            outbound,
            since: SystemTime::now(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            admitted,
            chain,
            way,
        });
        add(if outbound { &self.counters.opened } else { &self.counters.accepted });
        let mut after = After::begin();
        let mut inner = self.lock();
        inner.links.insert(id, Arc::clone(&link));
        let input = Input::Opened { connection: id, peer, attempt };
        self.call(&mut inner, |core, now, out| core.handle(now, input, out), &mut after);
        drop(inner);
        self.finish(after);
        link
    }

    /// Takes a connection off the table and tells the core, once.
    pub(super) fn gone(self: &Arc<Self>, id: ConnectionId) {
        let mut after = After::begin();
        let mut inner = self.lock();
        if inner.links.remove(&id).is_none() {
            return;
        }
        let input = Input::Closed { connection: id };
        self.call(&mut inner, |core, now, out| core.handle(now, input, out), &mut after);
        drop(inner);
        add(&self.counters.closed);
        self.finish(after);
    }

    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.lock().links.values().cloned().collect()
    }

    /// Whether a remote user's connection from there is refused.
    pub(super) fn refuses(&self, remote: IpAddr) -> bool {
        self.lock().core.refuses(Instant::now(), remote)
    }

    pub(super) fn live(&self) -> usize {
        self.lock().core.live()
    }

    pub(super) fn close_link(self: &Arc<Self>, link: &Arc<Link>, cause: CloseCause) {
        let mut after = After::begin();
        after.close(link, cause);
        self.finish(after);
    }

    /// Counts and logs the end of a connection that we wanted.
    pub(super) fn closed_by_us(&self, peer: &Peer, cause: CloseCause) {
        match cause {
            CloseCause::Refused(reason) => self.counters.refused(reason),
            CloseCause::Overflow => add(&self.counters.stuck),
            CloseCause::GaveWay => add(&self.counters.gave_way),
            CloseCause::Stop | CloseCause::Unneeded => return,
        }
        if let Some(left_out) = self.counters.line() {
            let (side, remote) = (peer.side, peer.remote);
            tracing::info!(%remote, ?side, reason = cause.name(), left_out, "connection closed");
        }
    }

    /// Counts, logs and tells of a peer that was not let in.
    pub(super) fn refuse(&self, remote: SocketAddr, reason: Refusal, detail: String) {
        self.counters.refused(reason);
        self.event(Event::Refused { reason, remote, domain: None, detail });
    }

    /// Calls the core when its time has come. Ends with the shell.
    pub(super) async fn run_timer(self: Arc<Self>) {
        let mut phase = self.phase.subscribe();
        let next = || {
            let mut inner = self.lock();
            inner.armed = inner.core.next_timeout();
            inner.armed
        };
        let due = || self.drive(|core, now, out| core.on_timeout(now, out));
        let stopped = phase.wait_for(|phase| *phase == Phase::Stopped);
        timer::run(&self.timer, stopped, next, due).await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner<C>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<R>(
        &self,
        inner: &mut Inner<C>,
        call: impl FnOnce(&mut C, Instant, &mut Vec<Output>) -> R,
        after: &mut After,
    ) -> R {
        let mut out = std::mem::take(&mut inner.scratch);
        let result = call(&mut inner.core, Instant::now(), &mut out);
        self.carry_out(inner, &mut out, after);
        inner.scratch = out;
        if let Some(next) = inner.core.next_timeout()
            && inner.armed.is_none_or(|armed| next < armed)
        {
            inner.armed = Some(next);
            after.rearm = true;
        }
        result
    }

    /// What must be done under the lock: queues what is sent, in order, and puts media flows in
    /// force before anything that the core says after them.
    fn carry_out(&self, inner: &mut Inner<C>, out: &mut Vec<Output>, after: &mut After) {
        // Flows that could not be had: what announces them is not said.
        let mut unsaid = false;
        let mut failed: Vec<CallId> = Vec::new();
        for output in out.drain(..) {
            let proved = match &output {
                Output::Event(Event::Proved { connection, repute, .. }) => {
                    Some((connection, *repute))
                }
                Output::Event(Event::SignedIn { connection, .. }) => {
                    Some((connection, Repute::Known))
                }
                _ => None,
            };
            if let Some((connection, repute)) = proved
                && let Some(link) = inner.links.get(connection)
            {
                self.know(link, repute);
            }
            match output {
                Output::Media(changes) => {
                    let calls = self.change_media(&changes, after);
                    unsaid |= !calls.is_empty();
                    failed.extend(calls);
                }
                Output::Send { .. } if std::mem::take(&mut unsaid) => {
                    add(&self.counters.media_unsaid);
                }
                Output::Send { connection, bytes } => match inner.links.get(&connection) {
                    Some(link) => match &link.way {
                        Way::Stream(queue) => {
                            if let Some(waker) = queue.push(bytes) {
                                after.flush(link, waker);
                            }
                        }
                        Way::Datagram(_) => after.datagrams.push((Arc::clone(link), bytes)),
                        // In the order in which it is said; who waits is woken by the channel.
                        Way::Gateway(sender) => {
                            if sender.try_send(bytes).is_err() {
                                add(&self.counters.to_closed);
                            }
                        }
                    },
                    None => add(&self.counters.to_closed),
                },
                Output::Release { connection } => {
                    if let Some(link) = inner.links.get(&connection) {
                        after.close(link, CloseCause::Unneeded);
                    }
                }
                Output::Close { connection, reason } => {
                    if let Some(link) = inner.links.get(&connection) {
                        after.close(link, CloseCause::Refused(reason));
                    }
                }
                other if after.other.is_none() => after.other = Some(other),
                other => after.others.push(other),
            }
        }
        for call in failed {
            inner.core.media_failed(Instant::now(), call, out);
            if !out.is_empty() {
                // Closing fails at most once more: there is nothing to be told after that.
                let mut more = std::mem::take(out);
                self.carry_out(inner, &mut more, after);
            }
        }
    }

    /// Puts media flows in force. Gives the calls that cannot go on.
    fn change_media(&self, changes: &[MediaChange], after: &mut After) -> BTreeSet<CallId> {
        let done = match &self.media {
            Some(media) => media.apply(changes, after.began),
            None if changes.iter().all(|change| matches!(change, MediaChange::Expect(..))) => {
                MediaApplied::default()
            }
            None => MediaApplied {
                fault: Some("there is no media".to_owned()),
                ..MediaApplied::default()
            },
        };
        let took = after.began.elapsed();
        after.unsettled |= done.unsettled;
        for (call, tally) in done.calls {
            after.event(Event::MediaFlows { call, tally, took });
        }
        let Some(fault) = done.fault else { return BTreeSet::new() };
        add(&self.counters.media_failed);
        let opened = changes.iter().filter_map(|change| match change {
            MediaChange::Open(flow) => Some(flow.call),
            MediaChange::Close(_) | MediaChange::CloseCall(_) | MediaChange::Expect(..) => None,
        });
        let calls: BTreeSet<CallId> = opened.collect();
        after.event(Event::MediaFailed { calls: calls.iter().copied().collect(), fault });
        calls
    }

    fn finish(self: &Arc<Self>, after: After) {
        if after.rearm {
            self.timer.notify_one();
        }
        if let Some(media) = self.media.as_ref().filter(|_| after.unsettled) {
            // What announces the flows is still queued; whoever else speaks does not wait.
            media.settle();
        }
        for (link, waker) in after.first.into_iter().chain(after.flushes) {
            if let Way::Stream(queue) = &link.way {
                queue.flush(&link.bytes_out, waker);
            }
        }
        for waker in after.wakers {
            waker.wake();
        }
        for (link, bytes) in after.datagrams {
            if let Way::Datagram(port) = &link.way
                && !port.send(&link, &bytes)
            {
                add(&self.counters.datagrams_dropped);
            }
        }
        for (link, cause) in after.gone {
            if let Way::Datagram(port) = &link.way {
                port.forget(&link);
            }
            self.closed_by_us(&link.peer, cause);
            self.gone(link.id);
        }
        for output in after.other.into_iter().chain(after.others) {
            match output {
                Output::Connect { attempt, target } => {
                    tokio::spawn(super::connect::connect(Arc::clone(self), attempt, target));
                }
                Output::Resolve { query, question, lookup } => {
                    tokio::spawn(Arc::clone(self).resolve(query, question, lookup));
                }
                Output::Event(event) => self.event(event),
                Output::Send { .. }
                | Output::Release { .. }
                | Output::Close { .. }
                | Output::Media(_) => {}
            }
        }
    }

    async fn resolve(self: Arc<Self>, query: QueryId, question: Question, lookup: Lookup) {
        let result = if self.questions.fetch_add(1, Ordering::Relaxed) < MAX_QUESTIONS {
            self.resolver.resolve(&question, lookup).await
        } else {
            Err(ResolveError::Unavailable)
        };
        self.questions.fetch_sub(1, Ordering::Relaxed);
        self.drive(|core, now, out| core.handle(now, Input::Resolved { query, result }, out));
    }
}

/// Index of a side in [`Hub::places`], [`Hub::handshakes`] and [`Hub::paces`].
pub(super) const fn side_index(side: Side) -> usize {
    match side {
        Side::Partner => 0,
        Side::Inside => 1,
        Side::Remote => 2,
        // No listener and no handshake.
        Side::Gateway => 3,
    }
}

impl<C> fmt::Debug for Hub<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("counters", &self.counters).finish_non_exhaustive()
    }
}
