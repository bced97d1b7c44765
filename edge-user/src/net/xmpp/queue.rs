//! What waits to be done on one stream: bytes to write, TLS to begin, the close; bounded in bytes,
//! pushed from any task, taken by the stream's own.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::{Bytes, BytesMut};

use crate::xmpp::io::Pair;

/// What an item costs beside its bytes: many small items are bounded too.
const ITEM_COST: usize = 64;
/// Small items are joined up to this size: one TLS record, one system call.
const BATCH: usize = 16 * 1024;
/// This part of the bound is more than is good: who writes is told while there is room.
const FULL: usize = 4;
/// Down to this part of the bound most of it is taken.
const DRAINED: usize = 16;

/// One thing to do.
#[derive(Debug)]
pub(super) enum Todo {
    /// Write this.
    Write(Bytes),
    /// Begin TLS.
    StartTls {
        /// We are the server of the handshake.
        accepting: bool,
        /// For whom.
        pair: Pair,
    },
    /// Close.
    Close,
}

/// Whether the peer is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// Now.
    Now,
    /// From then on.
    From(Instant),
    /// Not until TLS stands, or never again.
    No,
}

/// What the stream's task finds.
#[derive(Debug)]
pub(super) enum Next {
    Todo(Todo),
    /// After [`Pushed::full`]: most of what waited is taken.
    Drained,
    /// Nothing for now; the task is woken when that changes.
    Empty,
    /// More was to be written than there is room for.
    Overflow,
}

/// What came of adding something.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    /// Whom to wake.
    pub(super) waker: Option<Waker>,
    /// More waits now than is good: told once, until it is drained.
    pub(super) full: bool,
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Todo>,
    cost: usize,
    overflow: bool,
    /// More waits than is good, since then.
    full: bool,
    /// Nothing is read until further notice.
    held: bool,
    /// Nothing of the peer's is read any more: TLS begins, or the end.
    no_reading: bool,
    /// Nothing is read before.
    paused: Option<Instant>,
    waker: Option<Waker>,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), limit }
    }

    /// Adds something.
    pub(super) fn push(&self, todo: Todo) -> Pushed {
        let mut state = self.lock();
        if state.overflow {
            return Pushed::default();
        }
        let bytes = match &todo {
            Todo::Write(bytes) => bytes.len(),
            Todo::StartTls { .. } | Todo::Close => {
                state.no_reading = true;
                0
            }
        };
        state.cost = state.cost.saturating_add(bytes).saturating_add(ITEM_COST);
        if state.cost > self.limit {
            // Which stanza the peer could do without cannot be known.
            state.items.clear();
            state.overflow = true;
        } else {
            state.items.push_back(todo);
        }
        let full = !state.full && state.cost > self.limit / FULL;
        state.full |= full;
        Pushed { waker: state.waker.take(), full }
    }

    /// The next thing to do.
    pub(super) fn next(&self, cx: &Context<'_>) -> Next {
        let mut state = self.lock();
        if state.overflow {
            return Next::Overflow;
        }
        if state.full && state.cost <= self.limit / DRAINED {
            state.full = false;
            return Next::Drained;
        }
        let Some(first) = state.items.pop_front() else {
            register(&mut state, cx);
            return Next::Empty;
        };
        let Todo::Write(first) = first else {
            state.cost = state.cost.saturating_sub(ITEM_COST);
            return Next::Todo(first);
        };
        state.cost = state.cost.saturating_sub(first.len() + ITEM_COST);
        let joins = |state: &State, size: usize| matches!(state.items.front(), Some(Todo::Write(next)) if size + next.len() <= BATCH);
        if !joins(&state, first.len()) {
            return Next::Todo(Todo::Write(first));
        }
        let mut batch = BytesMut::from(&first[..]);
        while joins(&state, batch.len()) {
            let Some(Todo::Write(item)) = state.items.pop_front() else { break };
            state.cost = state.cost.saturating_sub(item.len() + ITEM_COST);
            batch.extend_from_slice(&item);
        }
        Next::Todo(Todo::Write(batch.freeze()))
    }

    /// Nothing is read before then.
    pub(super) fn pause(&self, until: Instant) {
        let mut state = self.lock();
        state.paused = state.paused.max(Some(until));
    }

    /// Nothing is read until this is taken back; whom to wake.
    pub(super) fn hold(&self, held: bool) -> Option<Waker> {
        let mut state = self.lock();
        state.held = held;
        state.waker.take()
    }

    /// Whether the peer is listened to; the task is woken when something is added.
    pub(super) fn reads(&self, cx: &Context<'_>, now: Instant) -> Reads {
        let mut state = self.lock();
        register(&mut state, cx);
        state.paused = state.paused.filter(|until| *until > now);
        match state.paused {
            _ if state.no_reading || state.overflow || state.held => Reads::No,
            Some(until) => Reads::From(until),
            None => Reads::Now,
        }
    }

    /// Ready when the stream is to be closed, whatever is to be done before: there is a handshake
    /// that may never end.
    pub(super) fn poll_end(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        let closes = state.items.iter().any(|todo| matches!(todo, Todo::Close));
        if closes || state.overflow {
            return Poll::Ready(());
        }
        register(&mut state, cx);
        Poll::Pending
    }

    /// TLS stands: the peer is listened to again.
    pub(super) fn tls_begun(&self) {
        let mut state = self.lock();
        state.no_reading = state.items.iter().any(|todo| !matches!(todo, Todo::Write(_)));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn register(state: &mut State, cx: &Context<'_>) {
    if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        state.waker = Some(cx.waker().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(text: &'static str) -> Todo {
        Todo::Write(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn writes_are_joined_but_not_past_tls_or_the_end() {
        let queue = Queue::new(10_000);
        let pair =
            Pair { local: "a.example".parse().unwrap(), remote: "b.example".parse().unwrap() };
        queue.push(write("a"));
        queue.push(write("b"));
        let reads = || queue.reads(&cx(), Instant::now());
        assert_eq!(reads(), Reads::Now);
        queue.push(Todo::StartTls { accepting: true, pair });
        queue.push(write("c"));
        assert_eq!(reads(), Reads::No, "what comes now is TLS");
        assert!(matches!(queue.next(&cx()), Next::Todo(Todo::Write(b)) if b == "ab"));
        assert!(matches!(queue.next(&cx()), Next::Todo(Todo::StartTls { .. })));
        queue.tls_begun();
        let until = Instant::now() + std::time::Duration::from_secs(60);
        queue.pause(until);
        assert_eq!(reads(), Reads::From(until));
        assert_eq!(queue.reads(&cx(), until), Reads::Now);
        queue.push(Todo::Close);
        assert_eq!(reads(), Reads::No, "nothing is heard after the end");
        assert!(matches!(queue.next(&cx()), Next::Todo(Todo::Write(b)) if b == "c"));
        assert!(matches!(queue.next(&cx()), Next::Todo(Todo::Close)));
        assert!(matches!(queue.next(&cx()), Next::Empty));
    }

    #[test]
    fn who_writes_is_told_once_that_it_is_full_and_once_that_it_is_drained() {
        let queue = Queue::new(64 * 1024);
        let kilobyte = || Todo::Write(Bytes::from(vec![b'x'; 1024 - ITEM_COST]));
        for round in 0..3 {
            let told: Vec<usize> = (1..=32).filter(|_| queue.push(kilobyte()).full).collect();
            assert_eq!(told, [17], "{round}: at a quarter, and once");
            let mut taken = 0;
            loop {
                match queue.next(&cx()) {
                    Next::Todo(Todo::Write(bytes)) => taken += bytes.len(),
                    Next::Drained => break,
                    other => panic!("{other:?}"),
                }
            }
            assert!(taken >= 28 * (1024 - ITEM_COST), "{taken}");
            while !matches!(queue.next(&cx()), Next::Empty) {}
        }
        assert!(queue.hold(true).is_some());
        assert_eq!(queue.reads(&cx(), Instant::now()), Reads::No);
        queue.hold(false);
        assert_eq!(queue.reads(&cx(), Instant::now()), Reads::Now);
    }

    #[test]
    fn a_full_queue_is_the_end_and_frees_what_it_held() {
        for size in [0, 1, 1000] {
            let queue = Queue::new(10_000);
            for _ in 0..100_000 {
                queue.push(Todo::Write(Bytes::from(vec![b'x'; size])));
            }
            assert!(matches!(queue.next(&cx()), Next::Overflow), "{size}");
            assert!(queue.lock().items.is_empty(), "{size}");
        }
    }
}
