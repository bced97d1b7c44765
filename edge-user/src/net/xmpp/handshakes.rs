//! Handshakes with strangers, and connections that are to begin with one: bounded in number, in all
//! and by source. When more come, the oldest of all gives up its place: whoever does not go on with
//! theirs keeps nobody out.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::federation::first_of_source;

/// Of one source at one time.
const OF_A_SOURCE: usize = 20;

/// Those that go on.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By age; dropped, its handshake is given up.
    open: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    by_source: HashMap<IpAddr, usize>,
}

impl State {
    fn remove(&mut self, number: u64) {
        let Some((source, _)) = self.open.remove(&number) else { return };
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

/// A place among them; free again when dropped.
#[derive(Debug)]
pub(super) struct Handshake {
    table: Arc<Handshakes>,
    number: u64,
    given_up: oneshot::Receiver<()>,
}

impl Handshakes {
    /// Takes a place. `None`: this source has many.
    pub(super) fn begin(self: &Arc<Self>, remote: IpAddr, most: usize) -> Option<Handshake> {
        let source = first_of_source(remote);
        let mut state = self.lock();
        let count = state.by_source.entry(source).or_insert(0);
        if *count >= OF_A_SOURCE.min(most.max(1)) {
            return None;
        }
        *count += 1;
        while state.open.len() >= most.max(1)
            && let Some(oldest) = state.open.keys().next().copied()
        {
            state.remove(oldest);
        }
        let (number, (alive, given_up)) = (state.next, oneshot::channel());
        state.next += 1;
        state.open.insert(number, (source, alive));
        Some(Handshake { table: Arc::clone(self), number, given_up })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handshake {
    /// Ends when the place is another's.
    pub(super) async fn given_up(&mut self) {
        // Nothing is ever sent: it ends when the other half is dropped.
        let _ = (&mut self.given_up).await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.table.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(handshake: &mut Handshake) -> bool {
        handshake.given_up.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_oldest_gives_its_place_to_who_comes_and_a_source_has_its_share() {
        let table = Arc::new(Handshakes::default());
        let begin = |last: u8| table.begin(IpAddr::from([192, 0, 2, last]), 30);
        let mut first: Vec<_> = (0..20).map(|_| begin(1).unwrap()).collect();
        assert!(begin(1).is_none(), "its share");
        let mut others: Vec<_> = (2..12).map(|last| begin(last).unwrap()).collect();
        assert!(!first.iter_mut().chain(&mut others).any(ended));
        let mut more: Vec<_> = (12..32).map(|last| begin(last).unwrap()).collect();
        assert!(first.iter_mut().all(ended), "the oldest");
        assert!(!others.iter_mut().chain(&mut more).any(ended));
        assert_eq!(table.lock().open.len(), 30);
        // What gave up its place has none to give back.
        drop(first);
        assert_eq!(table.lock().open.len(), 30);
        assert!(begin(1).is_some());
        drop((others, more));
        assert!(table.lock().open.is_empty() && table.lock().by_source.is_empty());
    }
}
