//! How much comes in, and from whom: bounds for everybody, and what discovered partners may send.

use std::time::{Duration, Instant};

use super::{Event, Output, Peer, Refusal, Side, WatchChange, admit::sip_domain, proxy::Proxy};
use crate::{
    federation::{PartnerKind, Ruling, Throttle, ThrottleChange, UserName},
    sip::{Message, Method},
};

/// What is remembered of discovered partners.
#[derive(Debug, Default)]
pub(super) struct Meter {
    throttle: Throttle,
}

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

    /// A request from outside was admitted: whether it goes on. Only discovered partners are
    /// metered.
    pub(super) fn meter_request(
        &mut self,
        now: Instant,
        id: u64,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let Some(exchange) = self.exchanges.get(id) else { return Ok(()) };
        let Some(entry) = &exchange.entry else { return Ok(()) };
        if entry.kind != PartnerKind::DiscoveredDomain {
            return Ok(());
        }
        let Some(request) = &exchange.request else { return Ok(()) };
        if request.method() == Some(Method::Ack) {
            return Ok(());
        }
        let source = exchange.from_peer.remote.ip();
        let uri = request.request_uri().and_then(Result::ok);
        let called = uri.and_then(|uri| Some((uri.user(), sip_domain(&uri)?)));
        let Some((user, ours)) = called else { return Ok(()) };
        let user = UserName::new(user, &ours);
        let settings = self.policy.throttle();
        let (ruling, change) =
            self.meter.throttle.request(now, settings, &entry.domain, source, &user);
        watched(change, &entry.domain, source, out);
        match ruling {
            Ruling::Pass => Ok(()),
            Ruling::Slow => Err(Refusal::Throttled),
            Ruling::Listed => Err(Refusal::WatchListed),
        }
    }

    /// An exchange has its final response.
    pub(super) fn meter_outcome(
        &mut self,
        now: Instant,
        id: u64,
        status: u16,
        out: &mut Vec<Output>,
    ) {
        let Some(exchange) = self.exchanges.get(id).filter(|exchange| exchange.inbound) else {
            return;
        };
        let Some(entry) = &exchange.entry else { return };
        if entry.kind != PartnerKind::DiscoveredDomain {
            return;
        }
        let source = exchange.from_peer.remote.ip();
        let settings = self.policy.throttle();
        let change = self.meter.throttle.outcome(now, settings, &entry.domain, source, status);
        watched(change, &entry.domain, source, out);
    }

    /// Does what is due.
    pub(super) fn meter_due(&mut self, _now: Instant, _out: &mut Vec<Output>) {}
}

/// Tells what changed.
fn watched(
    change: Option<ThrottleChange>,
    domain: &crate::domain::Domain,
    source: std::net::IpAddr,
    out: &mut Vec<Output>,
) {
    let what = match change {
        None => return,
        Some(ThrottleChange::Suspicious) => WatchChange::Suspicious,
        Some(ThrottleChange::Listed(time)) => {
            WatchChange::Listed { seconds: Duration::as_secs(&time) }
        }
    };
    out.push(Output::Event(Event::Watch { domain: domain.clone(), source, what }));
}
