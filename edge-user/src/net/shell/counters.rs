//! What the shell counts, and how often it speaks.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use super::limits::Full;
use crate::{
    net::{LineLimiter, tls::HandshakeFault},
    proxy::Refusal,
};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident => $name:literal,)+) => {
        /// Counters. Each only grows.
        #[derive(Debug)]
        pub(super) struct Counters {
            $($(#[doc = $doc])+ pub(super) $field: AtomicU64,)+
            refused: Vec<AtomicU64>,
            handshakes: Vec<AtomicU64>,
            lines: LineLimiter,
        }

        impl Counters {
            pub(super) fn new() -> Self {
                let zeros = |n: usize| (0..n).map(|_| AtomicU64::new(0)).collect();
                Self {
                    $($field: AtomicU64::new(0),)+
                    refused: zeros(Refusal::ALL.len()),
                    handshakes: zeros(HandshakeFault::ALL.len()),
                    lines: LineLimiter::default(),
                }
            }

            /// Names and values.
            pub(super) fn list(&self) -> Vec<(String, u64)> {
                let mut list = vec![$(($name.to_owned(), get(&self.$field)),)+];
                for (reason, count) in Refusal::ALL.iter().zip(&self.refused) {
                    list.push((format!("closed.{}", reason.name()), get(count)));
                }
                for (fault, count) in HandshakeFault::ALL.iter().zip(&self.handshakes) {
                    list.push((format!("handshake.{}", fault.name()), get(count)));
                }
                list
            }
        }
    };
}

counters! {
    /// Connections that came in.
    accepted => "accepted",
    /// Connections we opened.
    opened => "opened",
    /// Connections we could not open.
    connect_failed => "connect-failed",
    /// Connections that are gone.
    closed => "closed",
    /// Not admitted: the table is full.
    full_total => "refused.table-full",
    /// Not admitted: the source has its share.
    full_source => "refused.source-full",
    /// Closed: a message came too slowly.
    slow => "closed.slow-sender",
    /// Closed: nothing came or went for too long.
    idle => "closed.idle",
    /// Closed: what we wrote was not taken.
    stuck => "closed.slow-receiver",
    /// Messages that came in.
    messages => "messages",
    /// Keep-alives that were answered.
    pings => "pings",
    /// Datagrams that could not be sent, or came from nowhere we know.
    datagrams_dropped => "datagrams-dropped",
    /// Sent by the core to a connection that is gone.
    to_closed => "sent-to-closed",
    /// Changes of media flows that failed.
    media_failed => "media-failed",
    /// Messages that were not sent because what they announce could not be opened.
    media_unsaid => "media-unsaid",
    /// `accept` failed.
    accept_failed => "accept-failed",
}

impl Counters {
    pub(super) fn refused(&self, reason: Refusal) {
        if let Some(counter) = position(Refusal::ALL, &reason).and_then(|i| self.refused.get(i)) {
            add(counter);
        }
    }

    pub(super) fn handshake(&self, fault: HandshakeFault) {
        let index = position(HandshakeFault::ALL, &fault);
        if let Some(counter) = index.and_then(|i| self.handshakes.get(i)) {
            add(counter);
        }
    }

    /// Whether a line may be logged now, and how many were left out before it. Strangers cause
    /// these lines: they must not fill a disk.
    pub(super) fn line(&self) -> Option<u64> {
        self.lines.admit(Instant::now())
    }

    pub(super) fn full(&self, full: Full) {
        add(match full {
            Full::Total => &self.full_total,
            Full::Source => &self.full_source,
        });
    }
}

fn position<T: PartialEq>(all: &[T], one: &T) -> Option<usize> {
    all.iter().position(|other| other == one)
}

/// One more.
pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own_name() {
        let counters = Counters::new();
        counters.refused(Refusal::NotListed);
        counters.handshake(HandshakeFault::Expired);
        counters.full(Full::Source);
        let list = counters.list();
        let names: std::collections::HashSet<_> = list.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), list.len(), "no name twice");
        let set: Vec<_> = list.iter().filter(|(_, n)| *n > 0).map(|(name, _)| &name[..]).collect();
        assert_eq!(
            set,
            ["refused.source-full", "closed.not-listed", "handshake.certificate-expired"]
        );
    }
}
