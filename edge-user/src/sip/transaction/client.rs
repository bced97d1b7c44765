//! Client transactions: RFC 3261 section 17.1, RFC 6026 section 7.2, timer C (16.6, 16.8),
//! CANCEL (9.1).

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Timing,
    timer::{Expiry, Timers},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Sent, nothing came back (INVITE: Calling; else: Trying).
    Calling,
    /// A provisional response.
    Proceeding,
    /// A final response (INVITE: other than 2xx).
    Completed,
    /// INVITE: a 2xx.
    Accepted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancel {
    No,
    /// As soon as a provisional response comes.
    Wanted,
    Sent,
}

/// One request that went out.
#[derive(Debug)]
pub(super) struct Client {
    invite: bool,
    reliable: bool,
    /// The table's own CANCEL: the proxy does not know of it.
    hidden: bool,
    state: State,
    cancel: Cancel,
    /// The request while it may be needed; later the ACK.
    bytes: Option<Bytes>,
    timers: Timers,
}

/// What a response leads to.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// To the proxy with it.
    pub deliver: bool,
    /// To be sent: an ACK.
    pub send: Option<Bytes>,
    /// The CANCEL may go now.
    pub cancel: bool,
    /// The transaction has ended.
    pub ended: bool,
}

impl Client {
    /// A transaction whose request is being sent now.
    pub fn new(
        now: Instant,
        timing: &Timing,
        invite: bool,
        reliable: bool,
        hidden: bool,
        request: &Bytes,
    ) -> Self {
        // Timers B, F; A, E.
        let mut timers = Timers { resend: None, end: Some(now + timing.t1_64()) };
        if !reliable {
            timers.resend_after(now, timing.t1);
        }
        let bytes = (invite || !reliable).then(|| request.clone());
        let (state, cancel) = (State::Calling, Cancel::No);
        Self { invite, reliable, hidden, state, cancel, bytes, timers }
    }

    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// No final response yet.
    pub fn is_unanswered(&self) -> bool {
        matches!(self.state, State::Calling | State::Proceeding)
    }

    /// A 2xx came: it may come again.
    pub fn is_accepted(&self) -> bool {
        self.state == State::Accepted
    }

    /// The INVITE, until its final response.
    pub fn request(&self) -> Option<&Bytes> {
        self.bytes.as_ref().filter(|_| self.is_unanswered())
    }

    /// A response; `make_ack` builds the ACK from the INVITE.
    pub fn response(
        &mut self,
        now: Instant,
        timing: &Timing,
        status: u16,
        make_ack: impl FnOnce(&Bytes) -> Option<Bytes>,
    ) -> Verdict {
        match self.state {
            State::Completed => {
                let send = self.bytes.clone().filter(|_| self.invite && status >= 300);
                return Verdict { send, ..Verdict::default() };
            }
            State::Accepted => {
                let deliver = (200..300).contains(&status);
                return Verdict { deliver, ..Verdict::default() };
            }
            State::Calling | State::Proceeding => {}
        }
        if status < 200 {
            return self.provisional(now, timing, status);
        }
        let mut verdict = Verdict { deliver: true, ..Verdict::default() };
        self.timers.resend = None;
        if self.invite && status < 300 {
            self.state = State::Accepted;
            self.bytes = None;
            // Timer M.
            self.timers.end = Some(now + timing.t1_64());
            return verdict;
        }
        self.state = State::Completed;
        if self.invite {
            let ack = self.bytes.take().and_then(|invite| make_ack(&invite));
            self.bytes = ack.clone().filter(|_| !self.reliable);
            verdict.send = ack;
        } else {
            self.bytes = None;
        }
        // Timers D, K: zero on reliable transports.
        self.timers.end = Some(now + if self.invite { timing.d } else { timing.t4 });
        verdict.ended = self.reliable;
        verdict
    }

    fn provisional(&mut self, now: Instant, timing: &Timing, status: u16) -> Verdict {
        let first = self.state == State::Calling;
        self.state = State::Proceeding;
        let mut verdict = Verdict { deliver: true, ..Verdict::default() };
        if !self.invite {
            if self.timers.resend.is_some() {
                self.timers.resend_after(now, timing.t2);
            }
            return verdict;
        }
        self.timers.resend = None;
        match self.cancel {
            // Timer C; 100 does not lengthen it (RFC 3261 section 16.7 step 2).
            Cancel::No if first || status > 100 => self.timers.end = Some(now + timing.c),
            Cancel::No | Cancel::Sent => {}
            Cancel::Wanted => verdict.cancel = self.cancel_sent(now, timing),
        }
        verdict
    }

    fn cancel_sent(&mut self, now: Instant, timing: &Timing) -> bool {
        self.cancel = Cancel::Sent;
        self.timers.end = Some(now + timing.t1_64());
        true
    }

    /// The proxy wants it cancelled. Whether the CANCEL goes out now.
    pub fn cancel(&mut self, now: Instant, timing: &Timing) -> bool {
        match (self.invite && self.cancel != Cancel::Sent, self.state) {
            (true, State::Proceeding) => self.cancel_sent(now, timing),
            (true, State::Calling) => {
                self.cancel = Cancel::Wanted;
                false
            }
            _ => false,
        }
    }

    pub fn timeout(&mut self, now: Instant, timing: &Timing) -> Expiry {
        if self.timers.ended(now) {
            return match self.state {
                State::Completed | State::Accepted => Expiry::Ended,
                State::Proceeding if self.invite && self.cancel == Cancel::No => {
                    self.cancel_sent(now, timing);
                    Expiry::TimerC
                }
                State::Calling | State::Proceeding => Expiry::Timeout,
            };
        }
        // Timer A doubles without end; timer E up to T2 (sections 17.1.1.2, 17.1.2.2).
        let longest = if self.invite { Duration::MAX } else { timing.t2 };
        match self.timers.take_resend(now, longest) {
            true => self.bytes.clone().map_or(Expiry::Nothing, Expiry::Resend),
            false => Expiry::Nothing,
        }
    }
}
