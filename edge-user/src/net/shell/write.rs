//! The far end of a stream, shared: its own task reads and writes, and whoever queues something
//! for it writes too, at once, when nobody else is at it. That saves a wake and a turn of the
//! task for each message.
//!
//! The socket is always asked with the waker of the connection's own task: what is left over
//! wakes that task, and no other.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::{
    queue::{Next, WriteQueue},
    stream::End,
};

/// A connection's end that can be written to from any task.
pub(super) trait Flush: Send + Sync {
    /// Writes what is queued; what cannot be written now wakes the connection's own task.
    fn flush(&self, queue: &WriteQueue, written: &AtomicU64, owner: Waker);
}

/// The end, until its task takes it out.
pub(super) struct Shared<S> {
    end: Mutex<Option<FarEnd<S>>>,
}

pub(super) struct FarEnd<S> {
    pub(super) io: S,
    writing: Bytes,
    /// Something was written and not flushed.
    dirty: bool,
    /// When something was last taken.
    pub(super) wrote: Instant,
}

impl<S> Shared<S> {
    pub(super) fn new(io: S, now: Instant) -> Self {
        let end = FarEnd { io, writing: Bytes::new(), dirty: false, wrote: now };
        Self { end: Mutex::new(Some(end)) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Option<FarEnd<S>>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the end out: nobody writes to it any more.
    pub(super) fn take(&self) -> Option<S> {
        self.lock().take().map(|end| end.io)
    }
}

impl<S> fmt::Debug for Shared<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<S: AsyncWrite + Unpin + Send> Flush for Shared<S> {
    fn flush(&self, queue: &WriteQueue, written: &AtomicU64, owner: Waker) {
        let mut end = match self.end.try_lock() {
            Ok(end) => end,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody is at it, and may have looked at the queue before we filled it.
            Err(TryLockError::WouldBlock) => return owner.wake(),
        };
        let Some(end) = end.as_mut() else { return };
        let mut cx = Context::from_waker(&owner);
        match end.poll_write(&mut cx, queue, written) {
            // All is written, and the queue has the waker back.
            Poll::Ready(None) => {}
            // Its own task says what this means.
            _ => owner.wake(),
        }
    }
}

impl<S: AsyncWrite + Unpin> FarEnd<S> {
    /// Writes what is queued. `Ready(None)`: all of it.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        queue: &WriteQueue,
        written: &AtomicU64,
    ) -> Poll<Option<End>> {
        loop {
            while self.writing.has_remaining() {
                match ready!(Pin::new(&mut self.io).poll_write(cx, &self.writing)) {
                    Ok(0) | Err(_) => return Poll::Ready(Some(End::Peer)),
                    Ok(count) => {
                        self.writing.advance(count);
                        self.dirty = true;
                        self.wrote = Instant::now();
                        written.fetch_add(count as u64, Ordering::Relaxed);
                    }
                }
            }
            match queue.next(cx) {
                Next::Write(bytes) => self.writing = bytes,
                next => {
                    if self.dirty {
                        match ready!(Pin::new(&mut self.io).poll_flush(cx)) {
                            Ok(()) => self.dirty = false,
                            Err(_) => return Poll::Ready(Some(End::Peer)),
                        }
                    }
                    return Poll::Ready(match next {
                        Next::Close(cause) => Some(End::Ours(cause)),
                        _ => None,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_queued_is_written_at_once_and_what_is_left_wakes_the_owner() {
        let (near, _far) = tokio::io::duplex(8);
        let queue = WriteQueue::new(1000);
        let shared = Arc::new(Shared::new(near, Instant::now()));
        queue.share(shared.clone());
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let written = AtomicU64::new(0);
        let seen = || (written.load(Ordering::Relaxed), wakes.0.load(Ordering::Relaxed));
        let push = |text: &'static str| {
            let owner = queue.push(Bytes::from_static(text.as_bytes()));
            queue.flush(&written, owner.expect("the owner waits"));
        };
        let cx = Context::from_waker(&waker);
        assert!(matches!(queue.next(&cx), Next::Empty));
        push("12345");
        assert_eq!(seen(), (5, 0), "no wake");
        push("67890");
        assert_eq!(seen(), (8, 1), "the owner has had its waker back, and waits for room");
        queue.stalled(&cx);
        let guard = shared.lock();
        push("x");
        assert_eq!(seen(), (8, 2), "somebody is at it");
        drop(guard);
        assert!(shared.take().is_some());
        queue.stalled(&cx);
        push("y");
        assert_eq!(seen(), (8, 2), "nobody is there any more");
    }
}
