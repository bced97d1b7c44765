//! Watchers of before a restart. A server tells of its user when that one signs in, and asks of others
//! then: whoever stays signed in would see for ever what was true before. So each of them is asked
//! whether it is there, some at a time; who is, or whose server says nothing, is subscribed for anew.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::{
    super::{Gateway, address::Party, bounds::Key},
    of_type,
    subscription::PROBE,
};

/// The first are asked so long after the start.
const FIRST: Duration = Duration::from_secs(1);
/// So many are asked at one time.
const AT_ONCE: usize = 50;
/// Between two times.
const PAUSE: Duration = Duration::from_millis(250);

/// Who is to be asked, and who was.
#[derive(Default)]
pub(in super::super) struct Returning {
    to_ask: VecDeque<Key>,
    next: Option<Instant>,
    /// Until when an answer is waited for, in this order.
    asked: VecDeque<(Instant, Key)>,
    /// Of those, whose did not come.
    silent: HashSet<Key>,
}

impl Returning {
    /// A watcher of before.
    pub fn expect(&mut self, now: Instant, pair: Key) {
        self.next.get_or_insert(now + FIRST);
        self.to_ask.push_back(pair);
    }

    /// It said whether it is there: its silence means nothing more.
    pub fn answered(&mut self, pair: &Key) {
        self.silent.remove(pair);
    }

    /// When something is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.next.into_iter().chain(self.asked.front().map(|(at, _)| *at)).min()
    }
}

impl Gateway {
    /// Asks some, and takes up again what nobody said anything about.
    pub(in super::super) fn returning_is_due(&mut self) {
        let now = self.core.now;
        if self.presence.returning.next.is_some_and(|at| at <= now) {
            for _ in 0..AT_ONCE {
                let Some(pair) = self.presence.returning.to_ask.pop_front() else { break };
                self.ask_watcher(pair);
            }
            let more = !self.presence.returning.to_ask.is_empty();
            self.presence.returning.next = more.then(|| now + PAUSE);
        }
        while let Some((at, _)) = self.presence.returning.asked.front()
            && *at <= now
            && let Some((_, pair)) = self.presence.returning.asked.pop_front()
        {
            if self.presence.returning.silent.remove(&pair)
                && let Some((sip, xmpp)) = parties(&pair)
            {
                self.take_up(&sip, &xmpp);
            }
        }
    }

    fn ask_watcher(&mut self, pair: Key) {
        let Some((sip, xmpp)) = parties(&pair) else { return };
        // It may have come by itself, and policy may have changed.
        if !self.presence.before.contains_key(&pair) || self.core.may_begin(&sip, &xmpp).is_err() {
            return;
        }
        self.core.stanza(&sip, &xmpp, of_type("probe"));
        self.presence.returning.silent.insert(pair.clone());
        self.presence.returning.asked.push_back((self.core.now + PROBE, pair));
    }
}

fn parties((sip, xmpp): &Key) -> Option<(Party, Party)> {
    Some((Party::of_jid(sip).ok()?, Party::of_jid(xmpp).ok()?))
}
