//! One stream connection from its first byte of SIP to its end, in one task: reads, frames, hands
//! messages to the core, writes what is queued (see `write`).
//!
//! A message must be whole within `message_timeout` of its first byte; a connection on which
//! nothing comes or goes for `idle_timeout` is closed, and one that takes nothing we write, too.

use std::{
    cell::RefCell,
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::Sleep,
};

use super::{
    counters::add,
    hub::{Hub, Link, Way},
    limits::Held,
    queue::{CloseCause, WriteQueue},
    write::Shared,
};
use crate::{
    net::Core,
    proxy::{Input, Refusal},
    sip::{Frame, Framer},
};

/// What is asked from the system at once in the middle of a message.
const READ: usize = 4096;
/// What is asked from the system between messages.
const SCRATCH: usize = 16 * 1024;
/// A large message's memory grows by no more than this at once, whatever its length says.
const GROWTH: usize = 64 * 1024;
/// Bytes that are read before other connections get their turn: some dozen messages, or half a long
/// one.
const TURN: usize = 32 * 1024;
/// What we write must be taken, at least in part, within this time.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// A connection we close has this long to take our last words.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What a peer still sends after we closed is read and thrown away up to here: unread bytes would
/// make the system reset the connection and our last words would be lost.
const LEFT_OVERS: usize = 256 * 1024;

thread_local! {
    /// Where every connection of this worker reads to between messages: what came is copied, so
    /// that a message lies in memory of its own size, and an idle connection has none.
    static BETWEEN: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer closed it, or it broke.
    Peer,
    /// We close it, after what is queued is written.
    Ours(CloseCause),
    /// A message came too slowly.
    Slow,
    /// Nothing came or went.
    Idle,
    /// The peer does not take what we write.
    Stuck,
}

/// Carries a connection to its end in a task of its own: what its handshake needed is given back
/// before. `place` is held until then, and the connection ends when it is another's.
pub(super) fn carry<S, C>(hub: &Arc<Hub<C>>, link: Arc<Link>, io: S, place: impl Held)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Core,
{
    let shared = Arc::new(Shared::new(io, Instant::now()));
    tokio::spawn(run(Arc::clone(hub), link, shared, place));
}

/// Runs a connection to its end.
async fn run<S, C, P>(hub: Arc<Hub<C>>, link: Arc<Link>, shared: Arc<Shared<S>>, mut place: P)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Core,
    P: Held,
{
    let (hub, link) = (&hub, &link);
    let Way::Stream(queue) = &link.way else { return };
    let _entry = Entry { hub, link };
    let changes = hub.settings.changes();
    let settings = hub.settings();
    let now = Instant::now();
    let admitted = link.admitted.load(Ordering::Relaxed);
    queue.share(shared.clone());
    let mut driver = Driver {
        hub,
        link,
        queue,
        shared,
        framer: Framer::new(settings.frame_of(link.peer.side, admitted)),
        admitted,
        changes,
        buffer: BytesMut::new(),
        inputs: Vec::new(),
        unreadable: false,
        last_activity: now,
        message_since: None,
        stalled_since: None,
        closing: None,
        message_timeout: settings.config.limits.message_timeout,
        idle_timeout: settings.config.limits.idle_timeout,
    };
    drop(settings);
    let end = {
        let first = driver.message_timeout.min(driver.idle_timeout);
        let mut sleep = pin!(tokio::time::sleep(first));
        std::future::poll_fn(|cx| {
            if !link.admitted.load(Ordering::Relaxed) && place.poll_given_up(cx).is_ready() {
                return Poll::Ready(End::Ours(CloseCause::GaveWay));
            }
            driver.poll(cx, sleep.as_mut())
        })
        .await
    };
    let io = driver.shared.take();
    match end {
        End::Ours(cause) => {
            hub.closed_by_us(&link.peer, cause);
            // The core need not wait for the peer.
            hub.gone(link.id);
            if !matches!(cause, CloseCause::Overflow | CloseCause::GaveWay)
                && let Some(io) = io
            {
                // In memory of its own: the task of a connection that lives has no need of it.
                Box::pin(last_words(io)).await;
            }
            return;
        }
        End::Slow => add(&hub.counters.slow),
        End::Idle => add(&hub.counters.idle),
        End::Stuck => add(&hub.counters.stuck),
        End::Peer => {}
    }
    tracing::debug!(remote = %link.peer.remote, ?end, "connection ended");
}

/// A connection's place in the table: given up whatever ends the task, a fault of ours included.
struct Entry<'a, C: Core> {
    hub: &'a Arc<Hub<C>>,
    link: &'a Arc<Link>,
}

impl<C: Core> Drop for Entry<'_, C> {
    fn drop(&mut self) {
        let (hub, id) = (Arc::clone(self.hub), self.link.id);
        if std::thread::panicking() {
            // Not here: a second fault during the first would end the process.
            tokio::spawn(async move { hub.gone(id) });
        } else {
            hub.gone(id);
        }
    }
}

/// Closes our half, and listens until the peer closes its own or time is up.
pub(in crate::net) async fn last_words<S: AsyncRead + AsyncWrite + Unpin>(mut io: S) {
    let closing = async {
        if io.shutdown().await.is_err() {
            return;
        }
        let mut left = LEFT_OVERS;
        let mut scratch = vec![0; READ];
        while let Ok(read @ 1..) = io.read(&mut scratch).await {
            left = left.saturating_sub(read);
            if left == 0 {
                return;
            }
        }
    };
    // Out of time or not, the socket is closed after this.
    let _ = tokio::time::timeout(LAST_WORDS, closing).await;
}

struct Driver<'a, S, C> {
    hub: &'a Arc<Hub<C>>,
    link: &'a Arc<Link>,
    queue: &'a WriteQueue,
    shared: Arc<Shared<S>>,
    framer: Framer,
    /// The framer lets as much pass as of anybody.
    admitted: bool,
    /// Of the settings, when its limits were taken from these.
    changes: u64,
    buffer: BytesMut,
    inputs: Vec<Input>,
    /// What came is no SIP: nothing more is read.
    unreadable: bool,
    last_activity: Instant,
    message_since: Option<Instant>,
    stalled_since: Option<Instant>,
    /// A close was asked for, and the peer does not take what is queued.
    closing: Option<(Instant, CloseCause)>,
    message_timeout: Duration,
    idle_timeout: Duration,
}

impl<S, C> Driver<'_, S, C>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Core,
{
    fn poll(&mut self, cx: &mut Context<'_>, sleep: Pin<&mut Sleep>) -> Poll<End> {
        if self.changes != self.hub.settings.changes() {
            self.take_limits();
        }
        loop {
            match self.poll_write(cx) {
                Poll::Ready(Some(end)) => return Poll::Ready(end),
                Poll::Ready(None) => self.stalled_since = None,
                Poll::Pending => {
                    if self.stalled_since.is_none() {
                        self.stalled_since = Some(Instant::now());
                    }
                    match self.queue.stalled(cx) {
                        Some(CloseCause::Overflow) => {
                            return Poll::Ready(End::Ours(CloseCause::Overflow));
                        }
                        // Nothing is read any more, and the peer has not for ever to take the rest.
                        Some(cause) => {
                            self.closing.get_or_insert((Instant::now(), cause));
                            return self.poll_time(cx, sleep);
                        }
                        None => {}
                    }
                }
            }
            let end = self.read_on(cx);
            self.hand_on();
            if let Some(end) = end {
                return Poll::Ready(end);
            }
            if !std::mem::take(&mut self.unreadable) {
                return self.poll_time(cx, sleep);
            }
            self.queue.close(CloseCause::Refused(Refusal::Malformed));
        }
    }

    /// The settings are others: so are the limits, for what comes from now on.
    #[cold]
    fn take_limits(&mut self) {
        self.changes = self.hub.settings.changes();
        let settings = self.hub.settings();
        self.framer.set_limits(settings.frame_of(self.link.peer.side, self.admitted));
        let limits = &settings.config.limits;
        (self.message_timeout, self.idle_timeout) = (limits.message_timeout, limits.idle_timeout);
    }

    /// Reads until nothing more is there, or others should have their turn: what came together is
    /// handed on together.
    fn read_on(&mut self, cx: &mut Context<'_>) -> Option<End> {
        let mut taken = 0;
        while taken < TURN {
            match self.poll_read(cx) {
                Poll::Ready(Err(end)) => return Some(end),
                Poll::Ready(Ok(_)) if self.unreadable => return None,
                Poll::Ready(Ok(read)) => taken += read,
                Poll::Pending => {
                    if self.buffer.is_empty() {
                        // An idle connection holds no memory for what may come.
                        self.buffer = BytesMut::new();
                    }
                    return None;
                }
            }
        }
        // Woken at once it would go on before the runtime looks at what else has come.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        None
    }

    /// Writes what is queued. `Ready(None)`: all of it.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        let mut end = self.shared.lock();
        let Some(end) = end.as_mut() else { return Poll::Ready(Some(End::Peer)) };
        let result = end.poll_write(cx, self.queue, &self.link.bytes_out);
        if end.wrote > self.last_activity {
            // Some of it was taken, here or by whoever had something to say.
            self.last_activity = end.wrote;
            self.stalled_since = None;
        }
        result
    }

    /// Reads once and takes what is whole. `Ready(Ok(_))`: so many bytes came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, End>> {
        let read = match self.buffer.is_empty() {
            true => ready!(self.poll_between(cx)),
            false => {
                let spare = self.buffer.capacity() - self.buffer.len();
                let wanted = self.framer.wants(self.buffer.len()).min(GROWTH);
                if spare < wanted.max(READ / 4) {
                    self.buffer.reserve(wanted.max(READ));
                }
                let mut end = self.shared.lock();
                let Some(end) = end.as_mut() else { return Poll::Ready(Err(End::Peer)) };
                let reading = pin!(end.io.read_buf(&mut self.buffer));
                ready!(reading.poll(cx))
            }
        };
        let Some(read) = read.ok().filter(|read| *read > 0) else {
            return Poll::Ready(Err(End::Peer));
        };
        self.link.bytes_in.fetch_add(read as u64, Ordering::Relaxed);
        self.last_activity = Instant::now();
        self.take_frames();
        Poll::Ready(Ok(read))
    }

    fn poll_between(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        BETWEEN.with_borrow_mut(|between| {
            let mut read = ReadBuf::new(between);
            let mut end = self.shared.lock();
            let Some(end) = end.as_mut() else { return Poll::Ready(Ok(0)) };
            ready!(Pin::new(&mut end.io).poll_read(cx, &mut read))?;
            self.buffer = BytesMut::from(read.filled());
            Poll::Ready(Ok(self.buffer.len()))
        })
    }

    fn take_frames(&mut self) {
        let connection = self.link.id;
        let mut ping = false;
        let mut whole = false;
        if !self.admitted && self.link.admitted.load(Ordering::Relaxed) {
            self.admitted = true;
            self.framer.set_limits(self.hub.settings().frame_of(self.link.peer.side, true));
        }
        loop {
            match self.framer.next(&mut self.buffer) {
                Ok(Some(Frame::Message(message))) => {
                    whole = true;
                    self.inputs.push(Input::Message { connection, message });
                }
                Ok(Some(Frame::Faulty(error))) => {
                    whole = true;
                    self.inputs.push(Input::Unreadable { connection, error });
                }
                Ok(Some(Frame::Ping)) => ping = true,
                Ok(None) => break,
                Err(error) => {
                    self.unreadable = true;
                    self.buffer.clear();
                    self.inputs.push(Input::Unreadable { connection, error });
                    break;
                }
            }
        }
        if ping {
            // RFC 5626 section 4.4.1. One answer for all that came together.
            add(&self.hub.counters.pings);
            if let Some(waker) = self.queue.push(Bytes::from_static(b"\r\n")) {
                self.queue.flush(&self.link.bytes_out, waker);
            }
        }
        if !self.framer.in_message() {
            self.message_since = None;
        } else if whole || self.message_since.is_none() {
            self.message_since = Some(self.last_activity);
        }
    }

    fn hand_on(&mut self) {
        if !self.inputs.is_empty() {
            let messages = self.inputs.len() as u64;
            self.hub.counters.messages.fetch_add(messages, Ordering::Relaxed);
            self.hub.deliver(&mut self.inputs);
        }
    }

    /// Whether time is up, and if not, when it will be.
    fn poll_time(&self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<End> {
        let mut deadline = (self.last_activity + self.idle_timeout, End::Idle);
        let closing = self.closing.unwrap_or((self.last_activity, CloseCause::Stop));
        for (since, bound, end) in [
            (self.message_since, self.message_timeout, End::Slow),
            (self.stalled_since, WRITE_STALL, End::Stuck),
            (self.closing.map(|(since, _)| since), LAST_WORDS, End::Ours(closing.1)),
        ] {
            if let Some(since) = since
                && since + bound < deadline.0
            {
                deadline = (since + bound, end);
            }
        }
        // The alarm is set anew only when it would ring too late; ringing early costs little.
        if tokio::time::Instant::from(deadline.0) < sleep.deadline() {
            sleep.as_mut().reset(deadline.0.into());
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline.0 {
                return Poll::Ready(deadline.1);
            }
            sleep.as_mut().reset(deadline.0.into());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::TestCore;

    fn size_of_future<A, B, D, E, F: Future>(_: fn(A, B, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_a_connections_task_keeps_is_little() {
        type Tls = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;
        let size = size_of_future(run::<Tls, TestCore, super::super::limits::Place>);
        assert!(size <= 2048, "{size} bytes");
    }
}
