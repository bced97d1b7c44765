//! Server transactions: RFC 3261 section 17.2, RFC 6026 section 7.1.

use std::time::Instant;

use bytes::Bytes;

use super::{
    Timing, TransactionError,
    timer::{Expiry, Timers},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No response yet.
    Trying,
    /// A provisional response.
    Proceeding,
    /// INVITE: a final response other than 2xx, waiting for ACK. Else: a final response.
    Completed,
    /// INVITE: the ACK has come.
    Confirmed,
    /// INVITE: a 2xx.
    Accepted,
}

/// One request that came in.
#[derive(Debug)]
pub(super) struct Server {
    invite: bool,
    reliable: bool,
    state: State,
    /// The last response, where a repeated request may ask for it.
    last: Option<Bytes>,
    timers: Timers,
}

/// Who an ACK is for.
pub(super) enum AckFor {
    /// The transaction.
    Us {
        /// And it ends it.
        ended: bool,
    },
    /// The proxy: the response was a 2xx.
    User,
}

impl Server {
    pub fn new(now: Instant, timing: &Timing, invite: bool, reliable: bool) -> Self {
        let mut server =
            Self { invite, reliable, state: State::Trying, last: None, timers: Timers::default() };
        server.guard(now, timing);
        server
    }

    /// Not in the RFC: a request that the proxy never answers does not stay for ever.
    fn guard(&mut self, now: Instant, timing: &Timing) {
        let patience = if self.invite { timing.c } else { timing.t1_64() };
        self.timers.end = Some(now + patience.saturating_mul(2));
    }

    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// No final response yet.
    pub fn is_unanswered(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }

    /// The request again: what to send.
    pub fn retransmitted(&self) -> Option<Bytes> {
        match self.state {
            State::Proceeding | State::Completed => self.last.clone(),
            State::Trying | State::Confirmed | State::Accepted => None,
        }
    }

    /// An ACK for the INVITE.
    pub fn ack(&mut self, now: Instant, timing: &Timing) -> AckFor {
        match self.state {
            State::Accepted => AckFor::User,
            State::Completed => {
                self.state = State::Confirmed;
                self.last = None;
                // Timer I: zero on reliable transports.
                self.timers = Timers { resend: None, end: Some(now + timing.t4) };
                AckFor::Us { ended: self.reliable }
            }
            State::Trying | State::Proceeding | State::Confirmed => AckFor::Us { ended: false },
        }
    }

    /// A response from the proxy, to be sent. Whether the transaction ends with it.
    pub fn respond(
        &mut self,
        now: Instant,
        timing: &Timing,
        status: u16,
        bytes: &Bytes,
    ) -> Result<bool, TransactionError> {
        match self.state {
            State::Trying | State::Proceeding => {}
            State::Accepted if (200..300).contains(&status) => return Ok(false),
            _ => return Err(TransactionError::Answered),
        }
        self.last = (!self.reliable).then(|| bytes.clone());
        if status < 200 {
            self.state = State::Proceeding;
            self.guard(now, timing);
            return Ok(false);
        }
        // Timers H, J, L.
        self.timers = Timers { resend: None, end: Some(now + timing.t1_64()) };
        if self.invite && status < 300 {
            self.state = State::Accepted;
            self.last = None;
            return Ok(false);
        }
        self.state = State::Completed;
        if self.invite && !self.reliable {
            self.timers.resend_after(now, timing.t1);
        }
        Ok(!self.invite && self.reliable)
    }

    pub fn timeout(&mut self, now: Instant, timing: &Timing) -> Expiry {
        if self.timers.ended(now) {
            return match self.state {
                State::Completed if self.invite => Expiry::NotAcknowledged,
                _ => Expiry::Ended,
            };
        }
        match self.timers.take_resend(now, timing.t2) {
            true => self.last.clone().map_or(Expiry::Nothing, Expiry::Resend),
            false => Expiry::Nothing,
        }
    }
}
