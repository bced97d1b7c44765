//! The table of live exchanges: by number, by the key of their transaction, by who sent them; their
//! timers, and counts of what waits.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::IpAddr,
    time::Instant,
};

use bytes::Bytes;

use super::{
    ConnectionId,
    exchange::{Exchange, Kind, NewExchange, TransactionKey},
    residue::{Residue, Residues},
};
use crate::{federation::first_of_source, ids::IdMap, media::flow::CallId};

/// Every live exchange.
#[derive(Debug)]
pub(super) struct Exchanges {
    next: u64,
    all: IdMap<u64, Exchange>,
    by_key: IdMap<TransactionKey, u64>,
    by_scope: IdMap<u64, usize>,
    /// Of remote users, by where they come from.
    by_source: HashMap<IpAddr, usize>,
    /// Open client transactions by connection.
    by_connection: IdMap<ConnectionId, usize>,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    residues: Residues,
    /// Those about media that are not live any more.
    pub gone: Vec<(CallId, u64)>,
    pub waiting: usize,
    pub waiting_bytes: usize,
    /// How often all were looked through.
    #[cfg(test)]
    pub looked_through: std::cell::Cell<usize>,
}

impl Exchanges {
    pub(super) fn new(first: u64) -> Self {
        Self {
            next: first,
            all: IdMap::default(),
            by_key: IdMap::default(),
            by_scope: IdMap::default(),
            by_source: HashMap::new(),
            by_connection: IdMap::default(),
            timers: BinaryHeap::new(),
            residues: Residues::default(),
            gone: Vec::new(),
            waiting: 0,
            waiting_bytes: 0,
            #[cfg(test)]
            looked_through: std::cell::Cell::default(),
        }
    }

    /// A number that no exchange has, for a request of our own.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// How many are live; what is left of those that are done is not.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn insert(&mut self, new: NewExchange) -> u64 {
        let id = self.next;
        self.next += 1;
        let exchange = Exchange::new(new);
        if exchange.kind != Kind::OneWay {
            self.by_key.insert(exchange.key(), id);
        }
        *self.by_scope.entry(exchange.scope).or_default() += 1;
        if let Some(source) = exchange.source() {
            *self.by_source.entry(source).or_default() += 1;
        }
        self.all.insert(id, exchange);
        id
    }

    pub(super) fn get(&self, id: u64) -> Option<&Exchange> {
        self.all.get(&id)
    }

    /// Changes an exchange, and keeps count of what waits and of its timers.
    pub(super) fn update<R>(
        &mut self,
        id: u64,
        change: impl FnOnce(&mut Exchange) -> R,
    ) -> Option<R> {
        let exchange = self.all.get_mut(&id)?;
        let (waited, bytes) = (exchange.waits(), exchange.waiting_bytes());
        let (before, open) = (exchange.deadline(), exchange.open_on());
        let result = change(exchange);
        let open_now = exchange.open_on();
        if open != open_now {
            count_open(&mut self.by_connection, open, open_now);
        }
        self.waiting = self.waiting + usize::from(exchange.waits()) - usize::from(waited);
        self.waiting_bytes = self.waiting_bytes + exchange.waiting_bytes() - bytes;
        match exchange.deadline() {
            // Later than before: the entry that is there wakes us, and is put back then.
            Some(at) if before.is_none_or(|before| at < before) => {
                self.timers.push(Reverse((at, id)));
            }
            _ => {}
        }
        Some(result)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Exchange> {
        let exchange = self.take(id)?;
        self.forget_key(exchange.key(), id);
        Some(exchange)
    }

    /// Takes one off the table; requests with its key are still known.
    fn take(&mut self, id: u64) -> Option<Exchange> {
        let exchange = self.all.remove(&id)?;
        self.gone.extend(exchange.call.map(|call| (call, id)));
        if let Some(live) = self.by_scope.get_mut(&exchange.scope) {
            *live -= 1;
            if *live == 0 {
                self.by_scope.remove(&exchange.scope);
            }
        }
        if let Some(source) = exchange.source()
            && let Some(live) = self.by_source.get_mut(&source)
        {
            *live -= 1;
            if *live == 0 {
                self.by_source.remove(&source);
            }
        }
        self.waiting -= usize::from(exchange.waits());
        self.waiting_bytes -= exchange.waiting_bytes();
        count_open(&mut self.by_connection, exchange.open_on(), None);
        // Old entries go when they outnumber what lives.
        if self.timers.len() > 4 * self.all.len() + 1024 {
            let all = &self.all;
            self.timers = all
                .iter()
                .filter_map(|(id, exchange)| Some(Reverse((exchange.deadline()?, *id))))
                .collect();
        }
        Some(exchange)
    }

    fn forget_key(&mut self, key: TransactionKey, id: u64) {
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
    }

    /// Keeps no more of an exchange than what its last timer needs, if that is enough.
    pub(super) fn retire(&mut self, now: Instant, id: u64) {
        let Some(residue) = self.all.get(&id).and_then(Residue::of) else { return };
        self.take(id);
        for (id, residue) in self.residues.insert(now, id, residue) {
            self.forget_key(residue.key(), id);
        }
    }

    /// What is left of an exchange that is done.
    pub(super) fn residue(&self, id: u64) -> Option<&Residue> {
        self.residues.get(id)
    }

    #[cfg(test)]
    pub(super) fn residues(&self) -> usize {
        self.residues.len()
    }

    /// Whether it is, or was, an INVITE.
    pub(super) fn is_invite(&self, id: u64) -> bool {
        self.get(id).is_some_and(|exchange| exchange.kind == Kind::Invite)
            || self.residue(id).is_some_and(Residue::is_invite)
    }

    /// What is said to a request that comes again.
    pub(super) fn last_response(&self, id: u64) -> Option<Bytes> {
        match self.get(id) {
            Some(exchange) => exchange.last_response.clone(),
            None => self.residue(id)?.answer().cloned(),
        }
    }

    /// Client transactions that are open on a connection.
    pub(super) fn open_on(&self, connection: ConnectionId) -> usize {
        self.by_connection.get(&connection).copied().unwrap_or(0)
    }

    /// How many came from one sender.
    pub(super) fn live_of(&self, scope: u64) -> usize {
        self.by_scope.get(&scope).copied().unwrap_or(0)
    }

    /// How many came from remote users at one source, over all their connections.
    pub(super) fn live_from(&self, remote: IpAddr) -> usize {
        self.by_source.get(&first_of_source(remote)).copied().unwrap_or(0)
    }

    pub(super) fn by_key(&self, key: &TransactionKey) -> Option<u64> {
        self.by_key.get(key).copied()
    }

    pub(super) fn ids(&self, wanted: impl Fn(&Exchange) -> bool) -> Vec<u64> {
        #[cfg(test)]
        self.looked_through.update(|times| times + 1);
        self.all.iter().filter(|(_, exchange)| wanted(exchange)).map(|(id, _)| *id).collect()
    }

    /// The list of next hops changed: says where each stands now, if it still does.
    pub(super) fn renumber_next_hops(&mut self, place: impl Fn(usize) -> Option<usize>) {
        for exchange in self.all.values_mut() {
            exchange.destinations.iter_mut().for_each(|way| way.renumber(&place));
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        timer.into_iter().chain(self.residues.next_timeout()).min()
    }

    /// The next exchange that has something due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u64> {
        loop {
            let next = self.timers.peek().map(|Reverse(entry)| *entry);
            let Some((_, id)) = next.filter(|(at, _)| *at <= now) else {
                self.sweep(now);
                return None;
            };
            self.timers.pop();
            match self.all.get(&id).and_then(Exchange::deadline) {
                Some(due) if due <= now => return Some(id),
                Some(due) => self.timers.push(Reverse((due, id))),
                None => {}
            }
        }
    }

    fn sweep(&mut self, now: Instant) {
        if self.residues.next_timeout().is_some_and(|at| at <= now) {
            while let Some((id, residue)) = self.residues.pop_due(now) {
                self.forget_key(residue.key(), id);
            }
        }
    }

    /// After its due things were done: when next.
    pub(super) fn rearm(&mut self, id: u64) {
        if let Some(due) = self.all.get(&id).and_then(Exchange::deadline) {
            self.timers.push(Reverse((due, id)));
        }
    }
}

/// An open transaction went from one connection to another.
fn count_open(
    counts: &mut IdMap<ConnectionId, usize>,
    from: Option<ConnectionId>,
    to: Option<ConnectionId>,
) {
    if let Some(to) = to {
        *counts.entry(to).or_default() += 1;
    }
    if let Some(from) = from
        && let Some(count) = counts.get_mut(&from)
    {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&from);
        }
    }
}
