//! What waits to be written on one connection: bounded in bytes, pushed from any task, taken by
//! the connection's own task.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicU64},
    task::{Context, Waker},
};

use bytes::{Bytes, BytesMut};

use super::write::Flush;
use crate::proxy::Refusal;

/// What an item costs beside its bytes: many small items are bounded too.
const ITEM_COST: usize = 64;
/// Small items are joined up to this size: one TLS record, one system call.
const BATCH: usize = 16 * 1024;

/// Why a connection is closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseCause {
    /// The core, an operator or the shell refuses the peer.
    Refused(Refusal),
    /// The peer does not take what we write.
    Overflow,
    /// It proved nothing yet, and its place is another's.
    GaveWay,
    /// Nobody needs it, and nobody is to blame.
    Unneeded,
    /// The appliance stops.
    Stop,
}

impl CloseCause {
    pub(super) const fn name(self) -> &'static str {
        match self {
            CloseCause::Refused(reason) => reason.name(),
            CloseCause::Overflow => "write-queue-full",
            CloseCause::GaveWay => "gave-way",
            CloseCause::Unneeded => "not-needed",
            CloseCause::Stop => "stopping",
        }
    }
}

/// What the connection's task finds.
pub(super) enum Next {
    /// Write this.
    Write(Bytes),
    /// Nothing for now; the task is woken when that changes.
    Empty,
    /// All is written: close.
    Close(CloseCause),
}

pub(super) struct WriteQueue {
    state: Mutex<State>,
    limit: usize,
    end: OnceLock<Arc<dyn Flush>>,
}

impl fmt::Debug for WriteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteQueue").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Bytes>,
    cost: usize,
    closing: Option<CloseCause>,
    waker: Option<Waker>,
}

impl State {
    fn register(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

impl WriteQueue {
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), limit, end: OnceLock::new() }
    }

    /// Where it is written to, from now on by whoever queues something.
    pub(super) fn share(&self, end: Arc<dyn Flush>) {
        // There is one end for each queue.
        let _ = self.end.set(end);
    }

    /// Writes what is queued now, if nobody is at it; otherwise its task is woken.
    pub(super) fn flush(&self, written: &AtomicU64, owner: Waker) {
        match self.end.get() {
            Some(end) => end.flush(self, written, owner),
            None => owner.wake(),
        }
    }

    /// Queues bytes; returns whom to wake. When the queue would outgrow its bound the connection
    /// is closed instead: it cannot be known which message the peer could do without.
    pub(super) fn push(&self, bytes: Bytes) -> Option<Waker> {
        let mut state = self.lock();
        if state.closing.is_some() || bytes.is_empty() {
            return None;
        }
        let cost = state.cost.saturating_add(bytes.len()).saturating_add(ITEM_COST);
        if cost > self.limit {
            state.items.clear();
            state.cost = 0;
            state.closing = Some(CloseCause::Overflow);
        } else {
            state.cost = cost;
            state.items.push_back(bytes);
        }
        state.waker.take()
    }

    /// Asks for the connection to be closed once all is written. The first cause holds.
    pub(super) fn close(&self, cause: CloseCause) -> Option<Waker> {
        let mut state = self.lock();
        state.closing.get_or_insert(cause);
        state.waker.take()
    }

    /// Whom to wake, for another reason than what is queued.
    pub(super) fn owner(&self) -> Option<Waker> {
        self.lock().waker.clone()
    }

    /// For a task that cannot write on: whether a close was asked for. It is woken when that
    /// changes.
    pub(super) fn stalled(&self, cx: &Context<'_>) -> Option<CloseCause> {
        let mut state = self.lock();
        state.register(cx);
        state.closing
    }

    /// The next piece to write.
    pub(super) fn next(&self, cx: &Context<'_>) -> Next {
        let mut state = self.lock();
        let Some(first) = state.items.pop_front() else {
            if let Some(cause) = state.closing {
                return Next::Close(cause);
            }
            state.register(cx);
            return Next::Empty;
        };
        state.cost = state.cost.saturating_sub(first.len() + ITEM_COST);
        let joins = |state: &State, size: usize| {
            state.items.front().is_some_and(|next| size + next.len() <= BATCH)
        };
        if !joins(&state, first.len()) {
            return Next::Write(first);
        }
        let mut batch = BytesMut::with_capacity(BATCH.min(first.len() + state.cost));
        batch.extend_from_slice(&first);
        while joins(&state, batch.len()) {
            let Some(item) = state.items.pop_front() else { break };
            state.cost = state.cost.saturating_sub(item.len() + ITEM_COST);
            batch.extend_from_slice(&item);
        }
        Next::Write(batch.freeze())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn small_items_leave_together_and_in_order() {
        let queue = WriteQueue::new(1 << 20);
        for part in ["a", "b", "c"] {
            queue.push(Bytes::from_static(part.as_bytes()));
        }
        queue.push(Bytes::from(vec![b'x'; BATCH]));
        assert!(matches!(queue.next(&cx()), Next::Write(b) if b == "abc"));
        assert!(matches!(queue.next(&cx()), Next::Write(b) if b.len() == BATCH));
        assert!(matches!(queue.next(&cx()), Next::Empty));
    }

    #[test]
    fn a_full_queue_closes_and_frees_what_it_held() {
        for size in [0, 1, 1000] {
            let queue = WriteQueue::new(10_000);
            for _ in 0..100_000 {
                queue.push(Bytes::from(vec![b'x'; size]));
            }
            if size > 0 {
                assert_eq!(queue.lock().closing, Some(CloseCause::Overflow), "{size}");
            }
            assert!(queue.lock().items.len() <= 10_000 / ITEM_COST, "{size}");
        }
    }

    #[test]
    fn what_is_queued_before_a_close_is_still_written() {
        let queue = WriteQueue::new(1000);
        queue.push(Bytes::from_static(b"last words"));
        queue.close(CloseCause::Refused(Refusal::Malformed));
        queue.push(Bytes::from_static(b"too late"));
        queue.close(CloseCause::Stop);
        assert!(matches!(queue.next(&cx()), Next::Write(b) if b == "last words"));
        assert!(matches!(queue.next(&cx()), Next::Close(CloseCause::Refused(Refusal::Malformed))));
    }
}
