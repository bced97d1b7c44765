//! What happens by itself: set-up that takes too long, silence, idleness, certificates that expire.

use std::time::{Duration, Instant};

use super::{
    Fault, Streams, pressure,
    stream::{Phase, Role, RouteKey, Stream},
};
use crate::xmpp::io::{StreamId, XmppRefusal, XmppSide};

/// Who was asked whether it lives answers by then.
const ANSWER: Duration = Duration::from_secs(60);
/// After our end of a stream the other end closes by then.
const CLOSING: Duration = Duration::from_secs(10);

/// Nobody is asked more often.
const SHORTEST: Duration = Duration::from_secs(1);

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Stream(StreamId),
    Route(RouteKey),
}

/// What a stream waits for next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wait {
    Close,
    Setup,
    Expiry,
    Answer,
    Idle,
    KeepAlive,
    /// It takes too little of what is written to it.
    Full,
    /// It is not listened to, and hears of us all the same.
    Word,
}

impl Streams {
    /// The next thing that a stream waits for.
    fn waits_for(&self, stream: &Stream) -> Option<(Instant, Wait)> {
        let limits = self.rules.limits();
        if let Some(since) = stream.closing_since {
            return Some((since + CLOSING, Wait::Close));
        }
        if !stream.is_proved() || stream.phase != Phase::Open {
            // Ours leave time to try another address.
            let setup = match stream.role {
                Role::Receiving => limits.setup,
                Role::Initiating => limits.setup / 2,
            };
            return Some((stream.opened + setup, Wait::Setup));
        }
        let proof_ends = stream
            .proofs
            .iter()
            .any(|proof| proof.how == super::proof::How::External)
            .then_some(stream.expires)
            .flatten();
        let proof_ends = proof_ends.map(|at| (at, Wait::Expiry));
        let full = stream.full_since.filter(|_| stream.side == XmppSide::Inside);
        let full = full.map(|since| (since + pressure::FULL, Wait::Full));
        if stream.held_by.is_some() {
            // What it says is not read: it is neither silent nor idle.
            let word = Some((stream.word_at, Wait::Word));
            return [proof_ends, full, word].into_iter().flatten().min();
        }
        let keep_alive = stream.pair().is_some_and(|pair| {
            self.rules.terms(stream.side, &pair).is_ok_and(|terms| terms.keep_alive)
        });
        let silent = match stream.asked_at {
            // What it is asked stands behind what waits.
            _ if stream.full_since.is_some() => None,
            Some(asked) => Some((asked + ANSWER, Wait::Answer)),
            None => keep_alive.then(|| {
                // Also before the other end thinks the stream idle.
                let theirs = stream.idle_limit.map_or(limits.keep_alive, |idle| idle * 3 / 4);
                (stream.last_in + limits.keep_alive.min(theirs).max(SHORTEST), Wait::KeepAlive)
            }),
        };
        // While something waits to be written, it is not idle.
        let idle = full.is_none().then_some((stream.last_stanza + limits.idle, Wait::Idle));
        [proof_ends, full, silent, idle].into_iter().flatten().min()
    }

    /// Sets a stream's timer by what it waits for.
    pub(super) fn arm(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let due = self.waits_for(stream).map(|(at, _)| at);
        self.set_due(id, due);
    }

    fn set_due(&mut self, id: StreamId, due: Option<Instant>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.due == due {
            return;
        }
        if let Some(before) = stream.due.take() {
            self.due.remove(&(before, Timer::Stream(id)));
        }
        stream.due = due;
        if let Some(at) = due {
            self.due.insert((at, Timer::Stream(id)));
        }
    }

    pub(super) fn run_timers(&mut self, now: Instant) {
        for unverified in self.verifications.late(now) {
            self.not_verified(now, &unverified, "its server did not answer in time");
        }
        while let Some((at, _)) = self.due.first()
            && *at <= now
            && let Some((_, timer)) = self.due.pop_first()
        {
            match timer {
                Timer::Route(key) => self.route_is_late(now, &key),
                Timer::Stream(id) => {
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.due = None;
                    }
                    self.stream_is_due(now, id);
                    self.arm(id);
                }
            }
        }
    }

    fn stream_is_due(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        // Traffic does not move the timer: it is looked at when it comes.
        let Some((at, wait)) = self.waits_for(stream) else {
            return;
        };
        if at > now {
            return;
        }
        match wait {
            Wait::Close => {
                self.finish(
                    now,
                    id,
                    "the other end did not close in time",
                    "remote-server-timeout",
                );
            }
            Wait::Setup if self.has_served(id) => {
                self.end(now, id, None, "it has served to verify a key", "remote-server-timeout");
            }
            Wait::Setup => {
                let text = "nothing was proved in time";
                self.fail(now, id, Fault::new("connection-timeout", XmppRefusal::Slow, text));
            }
            Wait::Expiry => {
                let subject = self.subject(id);
                let text = format!(
                    "the certificate ({subject}) or an authority that it hangs on has expired; to mend: \
                     its server needs a new one"
                );
                self.fail(now, id, Fault::new("reset", XmppRefusal::Certificate, text));
            }
            Wait::Answer => {
                let text = "it did not answer whether it lives";
                self.fail(now, id, Fault::new("connection-timeout", XmppRefusal::Slow, text));
            }
            Wait::Idle => self.close_idle(now, id),
            Wait::KeepAlive => self.ask(now, id),
            Wait::Full => self.too_slow(now, id),
            Wait::Word => self.word(now, id),
        }
    }

    /// A stream on which a key was asked about, by either end, and nothing more.
    fn has_served(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.served)
    }

    /// Ends a stream without stanzas; what the other end has on its way is still taken.
    fn close_idle(&mut self, now: Instant, id: StreamId) {
        self.write_end(id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.phase = Phase::Closing;
        stream.closing_since = Some(now);
        self.leave(now, id);
    }
}
