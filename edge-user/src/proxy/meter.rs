//! How much comes in, and from whom: bounds for everybody, and what discovered partners may send.

use std::time::Instant;

use super::{Output, Peer, Refusal, Side, proxy::Proxy};
use crate::sip::Message;

/// What is remembered of discovered partners.
#[derive(Debug, Default)]
pub(super) struct Meter {}

impl Meter {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

impl Proxy {
    /// Whether a bound of ours is reached for this request.
    pub(super) fn overloaded(
        &self,
        _message: &Message,
        peer: &Peer,
        scope: u64,
    ) -> Option<Refusal> {
        let bounds = &self.config.bounds;
        let full = self.exchanges.len() >= bounds.transactions
            || self.exchanges.waiting >= bounds.waiting
            || self.exchanges.waiting_bytes >= bounds.waiting_bytes
            || (peer.side == Side::Partner
                && self.exchanges.live_of(scope) >= bounds.transactions_of_one());
        full.then_some(Refusal::Overload)
    }

    /// A request from outside was admitted: whether it goes on.
    pub(super) fn meter_request(
        &mut self,
        _now: Instant,
        _id: u64,
        _out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// An exchange has its final response.
    pub(super) fn meter_outcome(
        &mut self,
        _now: Instant,
        _id: u64,
        _status: u16,
        _out: &mut Vec<Output>,
    ) {
    }

    /// Does what is due.
    pub(super) fn meter_due(&mut self, _now: Instant, _out: &mut Vec<Output>) {}
}
