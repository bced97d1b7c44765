//! What the shell counts, and how often it speaks.

use super::limits::Full;
pub(super) use crate::net::counters::add;
use crate::{
    net::{counters::counters, tls::HandshakeFault},
    proxy::Refusal,
};

counters! {
    reasons {
        refused: Refusal => "closed",
        handshake: HandshakeFault => "handshake",
    }
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
    /// Closed: it proved nothing yet, and others wanted its place.
    gave_way => "closed.gave-way",
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
    pub(super) fn full(&self, full: Full) {
        add(match full {
            Full::Total => &self.full_total,
            Full::Source => &self.full_source,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own_name() {
        let counters = Counters::default();
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
