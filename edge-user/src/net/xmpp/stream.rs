//! One stream's connection from its first byte to its end, in one task: reads, no faster than the
//! core lets it, and hands in; writes what is queued; begins TLS on the same socket when it is told to.
//!
//! What came before TLS and was not handed in is never handed in after: nothing is read from the
//! moment on in which the core says that TLS begins, and what the peer sent too early is taken for
//! its handshake, which fails.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{
    XmppCore, accept, connect,
    hub::{Hub, Link, Phase},
    queue::{Next, Reads, Todo},
    status::add,
};
use crate::{
    net::shell::{bind, limits::Counted, stream::last_words},
    xmpp::io::{Pair, TlsPeer, XmppInput},
};

/// What is asked from the system at once; the reader of XML wants no more.
const READ: usize = 4096;
/// Reads before other tasks get their turn.
const TURNS: usize = 16;
/// What we write must be taken, at least in part, within this time.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// So many do at one time; the others are closed at once.
const LINGERING: usize = 256;

thread_local! {
    /// Where every stream of this worker reads to: an idle one has no memory of its own.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// What the system holds of what we write: what waits beyond that waits where it is seen.
const SEND_BUFFER: usize = 128 * 1024;

/// Options of a stream's socket.
pub(super) fn set_socket(stream: &TcpStream) {
    bind::set_stream(stream);
    // It works without, too.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER);
}

/// A connection, before and after TLS.
pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Where a stream's task stops for a while, or for good.
#[derive(Debug)]
enum Step {
    /// The peer closed it, or it broke.
    Peer(Option<String>),
    /// TLS begins.
    StartTls { accepting: bool, pair: Pair },
    /// We close it; all is written.
    Close,
    /// The peer does not take what we write.
    Stuck,
}

/// Runs a connection to its end. `place` is given back when it is off the table.
pub(super) async fn run<C: XmppCore>(
    hub: &Arc<Hub<C>>,
    link: &Arc<Link>,
    io: Io,
    place: impl Send,
) {
    let mut entry = Entry { hub, link, fault: None };
    let mut driver = Driver {
        hub,
        link,
        io,
        writing: Bytes::new(),
        dirty: false,
        todo: None,
        stalled_since: None,
        sleep: Box::pin(tokio::time::sleep(WRITE_STALL)),
    };
    let mut phase = hub.phase.subscribe();
    loop {
        let step = tokio::select! {
            step = std::future::poll_fn(|cx| driver.poll(cx)) => step,
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => return,
        };
        match step {
            Step::StartTls { accepting, pair } => {
                let Io::Plain(stream) = driver.io else {
                    entry.fault = Some("TLS was to begin twice".to_owned());
                    return;
                };
                match begin_tls(hub, link, stream, accepting, &pair).await {
                    Ok((io, tls)) => {
                        driver.io = io;
                        link.set_tls(&tls);
                        link.queue.tls_begun();
                        hub.input(XmppInput::TlsDone { stream: link.id, tls });
                    }
                    Err(fault) => {
                        add(&hub.counters.handshake_failed);
                        entry.fault = Some(format!("TLS handshake failed: {fault}"));
                        return;
                    }
                }
            }
            Step::Close => {
                // The core need not wait for the peer.
                drop(entry);
                drop(place);
                if let Some(_lingering) = Counted::enter(&hub.lingering, LINGERING) {
                    last_words(driver.io).await;
                }
                return;
            }
            Step::Peer(fault) => {
                entry.fault = fault;
                return;
            }
            Step::Stuck => {
                add(&hub.counters.stuck);
                entry.fault = Some("it does not take what is written to it".to_owned());
                return;
            }
        }
    }
}

async fn begin_tls<C: XmppCore>(
    hub: &Arc<Hub<C>>,
    link: &Link,
    stream: TcpStream,
    accepting: bool,
    pair: &Pair,
) -> Result<(Io, TlsPeer), String> {
    let place = match accepting {
        true => accept::begin(hub, link.remote.ip(), link.side)?,
        false => None,
    };
    let shaking = async {
        if !accepting {
            return connect::client(hub, stream, link.side, (&pair.local, &pair.remote), false)
                .await;
        }
        accept::may_shake(hub, link.remote.ip(), link.side)?;
        let config =
            hub.tls.xmpp_server(Some(&pair.local), false).ok_or("XMPP has no TLS files")?;
        let accepting = move |stream| TlsAcceptor::from(config).accept(stream);
        let stream = accept::aside(hub, link.side, stream, accepting).await?;
        let peer = hub.tls.xmpp_peer(link.side, stream.get_ref().1);
        Ok((Io::Tls(Box::new(TlsStream::Server(stream))), peer))
    };
    tokio::select! {
        shaken = accept::shake(hub, place, shaking) => shaken,
        () = std::future::poll_fn(|cx| link.queue.poll_end(cx)) => Err("it was closed".to_owned()),
    }
}

/// A stream's place in the table: given up whatever ends the task, a fault of ours included.
struct Entry<'a, C: XmppCore> {
    hub: &'a Arc<Hub<C>>,
    link: &'a Arc<Link>,
    fault: Option<String>,
}

impl<C: XmppCore> Drop for Entry<'_, C> {
    fn drop(&mut self) {
        let (hub, id, fault) = (Arc::clone(self.hub), self.link.id, self.fault.take());
        if std::thread::panicking() {
            // Not here: a second fault during the first would end the process.
            tokio::spawn(async move { hub.gone(id, fault) });
        } else {
            hub.gone(id, fault);
        }
    }
}

struct Driver<'a, C> {
    hub: &'a Arc<Hub<C>>,
    link: &'a Arc<Link>,
    io: Io,
    writing: Bytes,
    /// Something was written and not flushed.
    dirty: bool,
    /// What is done when all before it is written.
    todo: Option<Step>,
    stalled_since: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
}

impl<C: XmppCore> Driver<'_, C> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        for _ in 0..TURNS {
            match self.poll_write(cx) {
                Poll::Ready(Some(step)) => return Poll::Ready(step),
                Poll::Ready(None) => self.stalled_since = None,
                Poll::Pending => {
                    self.stalled_since.get_or_insert_with(Instant::now);
                }
            }
            match self.link.queue.reads(cx, Instant::now()) {
                _ if self.todo.is_some() => return self.poll_time(cx, None),
                Reads::No => return self.poll_time(cx, None),
                Reads::From(until) => return self.poll_time(cx, Some(until)),
                Reads::Now => {}
            }
            match self.poll_read(cx) {
                Poll::Ready(Some(step)) => return Poll::Ready(step),
                Poll::Ready(None) => {}
                Poll::Pending => return self.poll_time(cx, None),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is queued. `Ready(None)`: all of it.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        let broken = |error: io::Error| Poll::Ready(Some(Step::Peer(Some(error.to_string()))));
        loop {
            while self.writing.has_remaining() {
                match ready!(Pin::new(&mut self.io).poll_write(cx, &self.writing)) {
                    Ok(0) => return Poll::Ready(Some(Step::Peer(None))),
                    Ok(count) => {
                        self.writing.advance(count);
                        self.dirty = true;
                        self.stalled_since = None;
                        self.link.bytes_out.fetch_add(count as u64, Ordering::Relaxed);
                    }
                    Err(error) => return broken(error),
                }
            }
            if self.todo.is_none() {
                match self.link.queue.next(cx) {
                    Next::Todo(Todo::Write(bytes)) => {
                        self.writing = bytes;
                        continue;
                    }
                    Next::Todo(Todo::StartTls { accepting, pair }) => {
                        self.todo = Some(Step::StartTls { accepting, pair });
                    }
                    Next::Todo(Todo::Close) => self.todo = Some(Step::Close),
                    Next::Drained => {
                        self.hub.input(XmppInput::Drained { stream: self.link.id });
                        continue;
                    }
                    Next::Overflow => return Poll::Ready(Some(Step::Stuck)),
                    Next::Empty => {}
                }
            }
            if self.dirty {
                match ready!(Pin::new(&mut self.io).poll_flush(cx)) {
                    Ok(()) => self.dirty = false,
                    Err(error) => return broken(error),
                }
            }
            return Poll::Ready(self.todo.take());
        }
    }

    /// Reads once and hands in. `Ready(None)`: something came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        let read = SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            Poll::Ready(Ok::<_, io::Error>(Bytes::copy_from_slice(read.filled())))
        });
        match ready!(read) {
            Ok(bytes) if bytes.is_empty() => Poll::Ready(Some(Step::Peer(None))),
            // A peer that leaves without a word of TLS is no fault to speak of.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Some(Step::Peer(None)))
            }
            Err(error) => Poll::Ready(Some(Step::Peer(Some(error.to_string())))),
            Ok(bytes) => {
                self.link.bytes_in.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                self.hub.input(XmppInput::Bytes { stream: self.link.id, bytes });
                Poll::Ready(None)
            }
        }
    }

    /// Whether the peer has not taken for too long what we write; wakes again `at`, too.
    fn poll_time(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<Step> {
        let stall = self.stalled_since.map(|since| since + WRITE_STALL);
        let Some(until) = at.into_iter().chain(stall).min() else { return Poll::Pending };
        loop {
            let now = Instant::now();
            if stall.is_some_and(|stall| stall <= now) {
                return Poll::Ready(Step::Stuck);
            }
            if until <= now {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.sleep.as_mut().reset(until.into());
            ready!(self.sleep.as_mut().poll(cx));
        }
    }
}
