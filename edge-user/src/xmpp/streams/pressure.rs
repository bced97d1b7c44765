//! Back-pressure: a server inside that takes less than partners write for it holds their streams
//! back, and none is cut off. What waits for a partner holds back nobody: who reads slowly outside
//! must not stop what is for others, and its stream ends at the bound of what may wait.
//!
//! Whoever is not listened to still hears that we live, and what of its stanzas was handled; nobody
//! is asked for an answer that stands behind what waits.

use std::time::{Duration, Instant};

use super::{Fault, Streams};
use crate::xmpp::io::{StreamId, XmppOutput, XmppRefusal, XmppSide};

/// A server inside that does not take within this time what waits for it is as good as gone.
pub(super) const FULL: Duration = Duration::from_secs(60);
/// Whoever is not listened to hears of us so often.
const WORD: Duration = Duration::from_secs(15);

impl Streams {
    /// More waits to be written to a stream than is good.
    pub(super) fn full(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|s| s.full_since.is_none()) else {
            return;
        };
        stream.full_since = Some(now);
        let side = stream.side;
        self.arm(id);
        if side == XmppSide::Inside {
            let of_it = |feeds: Option<StreamId>, held: Option<StreamId>| {
                feeds == Some(id) && held.is_none()
            };
            for from in self.ids(|stream| of_it(stream.feeds, stream.held_by)) {
                self.hold(now, from, id);
            }
        }
    }

    /// Most of it is written.
    pub(super) fn drained(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.full_since = None;
        // What was asked stood behind what waited.
        stream.asked_at = stream.asked_at.map(|_| now);
        self.arm(id);
        self.let_go(now, id);
    }

    /// A stanza of one stream was written to another.
    pub(super) fn feeds(&mut self, now: Instant, from: StreamId, to: StreamId) {
        let full = self.streams.get(&to);
        let full = full.is_some_and(|to| to.full_since.is_some() && to.side == XmppSide::Inside);
        let Some(stream) = self.streams.get_mut(&from) else {
            return;
        };
        stream.feeds = Some(to);
        if full && stream.held_by.is_none() {
            self.hold(now, from, to);
        }
    }

    fn hold(&mut self, now: Instant, from: StreamId, to: StreamId) {
        let Some(stream) = self.streams.get_mut(&from) else {
            return;
        };
        stream.held_by = Some(to);
        stream.word_at = now + WORD;
        self.push(XmppOutput::Hold { stream: from });
        self.arm(from);
    }

    /// Those that a stream held back are listened to again.
    pub(super) fn let_go(&mut self, now: Instant, id: StreamId) {
        for from in self.ids(|stream| stream.held_by == Some(id)) {
            if let Some(stream) = self.streams.get_mut(&from) {
                stream.held_by = None;
                // What it sent meanwhile is still to be read.
                stream.last_in = now;
                stream.last_stanza = now;
                stream.asked_at = stream.asked_at.map(|_| now);
            }
            self.push(XmppOutput::Resume { stream: from });
            self.arm(from);
        }
    }

    /// A word to whom we do not listen to: what was handled, or a blank.
    pub(super) fn word(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.word_at = now + WORD;
        match stream.management.received {
            Some(_) => self.write_ack(id),
            None => self.buffer(id).push(b' '),
        }
        self.arm(id);
    }

    /// A server inside took too little for too long.
    pub(super) fn too_slow(&mut self, now: Instant, id: StreamId) {
        let text = format!(
            "it took too little of what was written to it within {} s, and partners wait",
            FULL.as_secs()
        );
        self.fail(now, id, Fault::new("connection-timeout", XmppRefusal::Slow, text));
    }

    fn ids(&self, of_it: impl Fn(&super::stream::Stream) -> bool) -> Vec<StreamId> {
        let mut ids: Vec<_> = self.streams.values().filter(|s| of_it(s)).map(|s| s.id).collect();
        ids.sort_unstable();
        ids
    }
}
