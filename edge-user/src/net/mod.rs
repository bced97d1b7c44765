//! The shell: tokio sockets, TLS, DNS and timers; drives the pure cores.
//!
//! It decides nothing about SIP: it frames what comes in, proves who is at the other end, bounds
//! what strangers can make us hold, and carries out what the core says. It never blocks while it
//! holds the core's lock.

mod counters;
pub mod crl;
pub mod dns;
mod lines;
pub mod local;
mod low_priority;
mod moderation;
pub mod shell;
#[cfg(test)]
mod testing;
mod timer;
pub mod tls;
pub mod xmpp;

pub use lines::LineLimiter;
pub use local::{interface_addresses, own_addresses};
pub use low_priority::{LowPriority, lower_priority};
pub use moderation::moderate;

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use crate::{
    media::flow::{CallId, FlowId, FlowStatus},
    proxy::{Input, Output},
};

/// A state machine that the shell drives.
pub trait Core: Send + 'static {
    /// Takes an input; appends what is to be done.
    fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Output>);

    /// When [`Core::on_timeout`] is to be called next. Asked after every input: must be cheap.
    fn next_timeout(&self) -> Option<Instant>;

    /// A point in time given by [`Core::next_timeout`] has come.
    fn on_timeout(&mut self, now: Instant, out: &mut Vec<Output>);

    /// Whether a remote user's connection from there is refused before anything is said.
    fn refuses(&self, _now: Instant, _remote: IpAddr) -> bool {
        false
    }

    /// The source of a flow was learned.
    fn media_learned(
        &mut self,
        _now: Instant,
        _flow: FlowId,
        _source: SocketAddr,
        _out: &mut Vec<Output>,
    ) {
    }

    /// What the kernel has counted: said every few seconds.
    fn media_seen(&mut self, _now: Instant, _flows: &[FlowStatus], _out: &mut Vec<Output>) {}

    /// A change of this call's flows could not be put in force: see [`Output::Media`].
    fn media_failed(&mut self, _now: Instant, _call: CallId, _out: &mut Vec<Output>) {}

    /// Work that a graceful stop waits for: live transactions.
    fn live(&self) -> usize {
        0
    }
}
