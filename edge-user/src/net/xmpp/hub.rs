//! What all tasks share: the core and the table of streams behind one lock, settings, counts.
//!
//! What is said to a stream, and to the SIP proxy, is queued while the lock is held, so that it
//! leaves in the order in which it was said. Everything else is done after.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use tokio::sync::{
    Notify,
    mpsc::{self, error::TrySendError},
    watch,
};

use super::{
    StreamInfo, XmppCore, XmppEventSink, XmppParts,
    queue::{Queue, Todo},
    status::{Counters, XmppCounts, add},
};
use crate::{
    config::Config,
    net::{
        LowPriority,
        dns::Resolver,
        shell::limits::{Admission, Pace},
        timer,
        tls::TlsStore,
    },
    proxy::{Repute, ResolveError},
    sip::Message,
    xmpp::{
        io::{
            LookupId, Pair, StreamId, TlsPeer, XmppEvent, XmppInput, XmppOutput, XmppQuestion,
            XmppSide,
        },
        site::SiteOutput,
    },
};

/// Questions to DNS the core may have open.
const MAX_QUESTIONS: usize = 1024;
/// A partner whose stanzas come faster than the SIP proxy takes what comes of them waits so long.
const BACKLOG: Duration = Duration::from_millis(50);
/// What a stream proved, and is shown of it.
const MAX_PROOFS: usize = 32;

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// No new streams.
    Stopping,
    /// Every task ends.
    Stopped,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: StreamId,
    pub(super) side: XmppSide,
    pub(super) remote: SocketAddr,
    pub(super) outbound: bool,
    pub(super) since: SystemTime,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) tls: Mutex<Option<TlsPeer>>,
    /// What it proved, and how.
    proofs: Mutex<Vec<(Pair, &'static str)>>,
    pub(super) queue: Queue,
}

impl Link {
    pub(super) fn info(&self) -> StreamInfo {
        StreamInfo {
            id: self.id,
            side: self.side,
            remote: self.remote,
            outbound: self.outbound,
            since: self.since,
            tls: self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            proved: self.proofs.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }

    pub(super) fn set_tls(&self, peer: &TlsPeer) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer.clone());
    }

    fn proved(&self, pair: &Pair, how: &'static str) {
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        if proofs.len() < MAX_PROOFS && !proofs.iter().any(|(known, _)| known == pair) {
            proofs.push((pair.clone(), how));
        }
    }
}

struct Inner<C> {
    core: C,
    links: HashMap<StreamId, Arc<Link>>,
    armed: Option<Instant>,
    scratch: Vec<SiteOutput>,
    /// Messages for the SIP proxy that have no room in the channel: none is lost, and while there are
    /// any, partners are not listened to.
    backlog: VecDeque<Bytes>,
}

pub(super) struct Hub<C> {
    inner: Mutex<Inner<C>>,
    timer: Notify,
    config: RwLock<Arc<Config>>,
    pub(super) tls: Arc<TlsStore>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) low_priority: LowPriority,
    events: XmppEventSink,
    sip: mpsc::Sender<Bytes>,
    pub(super) counters: Counters,
    /// Places outside and inside.
    pub(super) places: [Arc<Admission>; 2],
    /// Attempts to connect and streams we opened.
    pub(super) outbound: Arc<AtomicUsize>,
    /// Of handshakes.
    pub(super) pace: Pace,
    /// Handshakes under way, of each repute.
    pub(super) handshakes: [Arc<Admission>; Repute::COUNT],
    /// Streams that are closed and wait for the other end to hear our last words.
    pub(super) lingering: Arc<AtomicUsize>,
    questions: AtomicUsize,
    pub(super) phase: watch::Sender<Phase>,
    next_id: AtomicU64,
}

/// What is done once the lock is free.
#[derive(Default)]
struct After {
    wakers: Vec<Waker>,
    /// What waits for these became more than is good.
    full: Vec<StreamId>,
    others: Vec<XmppOutput>,
    rearm: bool,
    /// The first message had no room in the channel.
    backlog: bool,
}

impl<C: XmppCore> Hub<C> {
    pub(super) fn new(parts: XmppParts<C>) -> Arc<Self> {
        let XmppParts { core, config, tls, resolver, events, low_priority, sip } = parts;
        let inner = Inner {
            core,
            links: HashMap::new(),
            armed: None,
            scratch: Vec::new(),
            backlog: VecDeque::new(),
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            timer: Notify::new(),
            config: RwLock::new(config),
            tls,
            resolver,
            low_priority,
            events,
            sip,
            counters: Counters::default(),
            places: Default::default(),
            outbound: Arc::default(),
            pace: Pace::default(),
            handshakes: Default::default(),
            lingering: Arc::default(),
            questions: AtomicUsize::new(0),
            phase: watch::Sender::new(Phase::Running),
            next_id: AtomicU64::new(1),
        })
    }

    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_config(&self, config: Arc<Config>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    pub(super) fn counts(&self) -> XmppCounts {
        let mut counts = self.counters.list();
        let [outside, inside] = &self.places;
        for (name, value) in [
            ("open.outside", outside.total()),
            ("open.inside", inside.total()),
            ("open.outbound", self.outbound.load(Ordering::Relaxed)),
        ] {
            counts.push((name.to_owned(), value as u64));
        }
        counts
    }

    pub(super) fn event(&self, event: XmppEvent) {
        if let XmppEvent::Refused { reason, .. } = &event {
            self.counters.refused(*reason);
        }
        (self.events)(event);
    }

    /// Calls the core and carries out what it says.
    pub(super) fn drive<R>(
        self: &Arc<Self>,
        call: impl FnOnce(&mut C, Instant, &mut Vec<SiteOutput>) -> R,
    ) -> R {
        let mut after = After::default();
        let mut inner = self.lock();
        let result = self.call(&mut inner, call, &mut after);
        drop(inner);
        self.finish(after);
        result
    }

    pub(super) fn input(self: &Arc<Self>, input: XmppInput) {
        let from = match &input {
            XmppInput::Bytes { stream, .. } => Some(*stream),
            _ => None,
        };
        let mut after = After::default();
        let mut inner = self.lock();
        self.call(&mut inner, |core, now, out| core.handle(now, input, out), &mut after);
        if !inner.backlog.is_empty()
            && let Some(link) = from.and_then(|from| inner.links.get(&from))
            && link.side == XmppSide::Partner
        {
            link.queue.pause(Instant::now() + BACKLOG);
        }
        drop(inner);
        self.finish(after);
    }

    /// The SIP proxy says something to the gateway.
    pub(super) fn sip(self: &Arc<Self>, message: Message) {
        self.drive(|core, now, out| core.sip(now, message, out));
    }

    /// Enters a connection in the table and tells the core with what this makes.
    pub(super) fn open(
        self: &Arc<Self>,
        (side, remote, outbound): (XmppSide, SocketAddr, bool),
        tls: Option<TlsPeer>,
        told: impl FnOnce(StreamId, Option<TlsPeer>) -> XmppInput,
    ) -> Arc<Link> {
        let id = StreamId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let limits = &self.config().xmpp.limits;
        // Room for what waits for a pair, and for one stanza of the greatest size more.
        let limit = limits.stanza_bytes.saturating_add(limits.queue_bytes).max(1 << 20);
        let link = Arc::new(Link {
            id,
            side,
            remote,
            outbound,
            since: SystemTime::now(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            tls: Mutex::new(tls.clone()),
            proofs: Mutex::default(),
            queue: Queue::new(limit),
        });
        add(if outbound { &self.counters.opened } else { &self.counters.accepted });
        let mut after = After::default();
        let mut inner = self.lock();
        inner.links.insert(id, Arc::clone(&link));
        let input = told(id, tls);
        self.call(&mut inner, |core, now, out| core.handle(now, input, out), &mut after);
        drop(inner);
        self.finish(after);
        link
    }

    /// Takes a connection off the table and tells the core, once.
    pub(super) fn gone(self: &Arc<Self>, stream: StreamId, fault: Option<String>) {
        let mut after = After::default();
        let mut inner = self.lock();
        if inner.links.remove(&stream).is_none() {
            return;
        }
        let input = XmppInput::Closed { stream, fault };
        self.call(&mut inner, |core, now, out| core.handle(now, input, out), &mut after);
        drop(inner);
        add(&self.counters.closed);
        self.finish(after);
    }

    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.lock().links.values().cloned().collect()
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
        call: impl FnOnce(&mut C, Instant, &mut Vec<SiteOutput>) -> R,
        after: &mut After,
    ) -> R {
        let mut out = std::mem::take(&mut inner.scratch);
        let result = call(&mut inner.core, Instant::now(), &mut out);
        loop {
            for output in out.drain(..) {
                self.carry_out(inner, output, after);
            }
            let Some(stream) = after.full.pop() else { break };
            inner.core.handle(Instant::now(), XmppInput::Full { stream }, &mut out);
        }
        inner.scratch = out;
        if let Some(next) = inner.core.next_timeout()
            && inner.armed.is_none_or(|armed| next < armed)
        {
            inner.armed = Some(next);
            after.rearm = true;
        }
        result
    }

    /// What must be done under the lock: queues what is said, in order.
    fn carry_out(&self, inner: &mut Inner<C>, output: SiteOutput, after: &mut After) {
        let output = match output {
            SiteOutput::Sip(bytes) => return self.say_to_proxy(inner, bytes, after),
            SiteOutput::Stream(output) => output,
        };
        if let XmppOutput::Event(XmppEvent::Proved { stream, pair, how, .. }) = &output
            && let Some(link) = inner.links.get(stream)
        {
            link.proved(pair, how);
            if link.side == XmppSide::Partner {
                self.pace.know(link.remote.ip(), Repute::Known);
            }
        }
        let (stream, todo) = match output {
            XmppOutput::Write { stream, bytes } => (stream, Todo::Write(bytes)),
            XmppOutput::StartTls { stream, accepting, pair } => {
                (stream, Todo::StartTls { accepting, pair })
            }
            XmppOutput::Close { stream } => (stream, Todo::Close),
            XmppOutput::Pause { stream, until } => {
                if let Some(link) = inner.links.get(&stream) {
                    link.queue.pause(until);
                }
                return;
            }
            XmppOutput::Hold { stream } | XmppOutput::Resume { stream } => {
                let held = matches!(output, XmppOutput::Hold { .. });
                if held {
                    add(&self.counters.held);
                }
                if let Some(link) = inner.links.get(&stream) {
                    after.wakers.extend(link.queue.hold(held));
                }
                return;
            }
            other => return after.others.push(other),
        };
        match inner.links.get(&stream) {
            Some(link) => {
                let pushed = link.queue.push(todo);
                after.wakers.extend(pushed.waker);
                after.full.extend(pushed.full.then_some(stream));
            }
            None => add(&self.counters.to_closed),
        }
    }

    /// In the order in which it is said.
    fn say_to_proxy(&self, inner: &mut Inner<C>, bytes: Bytes, after: &mut After) {
        add(&self.counters.to_sip);
        if !inner.backlog.is_empty() {
            return inner.backlog.push_back(bytes);
        }
        match self.sip.try_send(bytes) {
            Ok(()) => {}
            Err(TrySendError::Full(bytes)) => {
                inner.backlog.push_back(bytes);
                after.backlog = true;
            }
            Err(TrySendError::Closed(_)) => add(&self.counters.sip_dropped),
        }
    }

    /// Hands on what had no room, until nothing is left of it.
    async fn work_off(self: Arc<Self>) {
        loop {
            let place = self.sip.reserve().await;
            let mut inner = self.lock();
            let Ok(place) = place else {
                // Nobody takes SIP any more: XMPP ends.
                self.counters.sip_dropped.fetch_add(inner.backlog.len() as u64, Ordering::Relaxed);
                return inner.backlog.clear();
            };
            match inner.backlog.pop_front() {
                Some(bytes) => place.send(bytes),
                None => {
                    inner.backlog.shrink_to_fit();
                    return;
                }
            }
        }
    }

    fn finish(self: &Arc<Self>, after: After) {
        if after.backlog {
            tokio::spawn(Arc::clone(self).work_off());
        }
        if after.rearm {
            self.timer.notify_one();
        }
        for waker in after.wakers {
            waker.wake();
        }
        for output in after.others {
            match output {
                XmppOutput::Connect { dial, target } => {
                    tokio::spawn(super::connect::connect(Arc::clone(self), dial, target));
                }
                XmppOutput::Resolve { lookup, question } => {
                    tokio::spawn(Arc::clone(self).resolve(lookup, question));
                }
                XmppOutput::Event(event) => self.event(event),
                // The core keeps these to itself, and the rest is done already.
                XmppOutput::Deliver(_)
                | XmppOutput::Passed { .. }
                | XmppOutput::Undelivered { .. }
                | XmppOutput::Write { .. }
                | XmppOutput::StartTls { .. }
                | XmppOutput::Pause { .. }
                | XmppOutput::Hold { .. }
                | XmppOutput::Resume { .. }
                | XmppOutput::Close { .. } => {}
            }
        }
    }

    async fn resolve(self: Arc<Self>, lookup: LookupId, question: XmppQuestion) {
        let result = if self.questions.fetch_add(1, Ordering::Relaxed) < MAX_QUESTIONS {
            let inside = self.is_inside(&question);
            self.resolver.xmpp(&question, inside).await
        } else {
            Err(ResolveError::Unavailable)
        };
        self.questions.fetch_sub(1, Ordering::Relaxed);
        self.input(XmppInput::Resolved { lookup, result });
    }

    /// Whether a host is the administrator's own word for a server inside.
    fn is_inside(&self, question: &XmppQuestion) -> bool {
        let XmppQuestion::Host(host, port) = question else { return false };
        let config = self.config();
        let servers = config.services.xmpp.iter().flat_map(|service| &service.servers);
        servers.into_iter().any(|server| server.next_hop == (host.clone(), *port))
    }
}

impl<C> fmt::Debug for Hub<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("counters", &self.counters).finish_non_exhaustive()
    }
}
