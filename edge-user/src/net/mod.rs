//! The shell: tokio sockets, TLS, DNS and timers; drives the pure cores.
//!
//! It decides nothing about SIP: it frames what comes in, proves who is at the other end, bounds
//! what strangers can make us hold, and carries out what the core says. It never blocks while it
//! holds the core's lock.

pub mod crl;
pub mod dns;
pub mod local;
pub mod shell;
#[cfg(test)]
mod testing;
pub mod tls;

pub use local::own_addresses;

use std::{net::IpAddr, time::Instant};

use crate::proxy::{Input, Output};

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

    /// Work that a graceful stop waits for: live transactions.
    fn live(&self) -> usize {
        0
    }
}
