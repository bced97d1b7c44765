//! What is shown of streams, and what is counted.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Instant, SystemTime},
};

use crate::{
    net::LineLimiter,
    xmpp::io::{Pair, StreamId, TlsPeer, XmppRefusal, XmppSide},
};

/// A live stream, for people and for blocks.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// Its id.
    pub id: StreamId,
    /// Its side.
    pub side: XmppSide,
    /// The other end.
    pub remote: SocketAddr,
    /// We opened it.
    pub outbound: bool,
    /// Since when, by the wall clock.
    pub since: SystemTime,
    /// What TLS found out; `None`: there is no TLS (yet).
    pub tls: Option<TlsPeer>,
    /// What it proved, and how.
    pub proved: Vec<(Pair, &'static str)>,
    /// Bytes of XML that came in.
    pub bytes_in: u64,
    /// Bytes of XML that went out.
    pub bytes_out: u64,
}

/// Names and values, in a fixed order.
pub type XmppCounts = Vec<(String, u64)>;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident => $name:literal,)+) => {
        /// Counters. Each only grows.
        #[derive(Debug)]
        pub(super) struct Counters {
            $($(#[doc = $doc])+ pub(super) $field: AtomicU64,)+
            refused: Vec<AtomicU64>,
            lines: LineLimiter,
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $($field: AtomicU64::new(0),)+
                    refused: XmppRefusal::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
                    lines: LineLimiter::default(),
                }
            }
        }

        impl Counters {
            /// Names and values.
            pub(super) fn list(&self) -> XmppCounts {
                let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                let mut list = vec![$(($name.to_owned(), get(&self.$field)),)+];
                for (reason, count) in XmppRefusal::ALL.iter().zip(&self.refused) {
                    list.push((format!("refused.{}", reason.name()), get(count)));
                }
                list
            }
        }
    };
}

counters! {
    /// Streams that came in.
    accepted => "accepted",
    /// Streams we opened.
    opened => "opened",
    /// Streams we could not open.
    connect_failed => "connect-failed",
    /// Streams that are gone.
    closed => "closed",
    /// Not admitted: the table is full.
    full_total => "refused.table-full",
    /// Not admitted: the source has its share.
    full_source => "refused.source-full",
    /// Handshakes that failed.
    handshake_failed => "handshake-failed",
    /// Closed: what we wrote was not taken.
    stuck => "closed.slow-receiver",
    /// Said by the core to a stream that is gone.
    to_closed => "sent-to-closed",
    /// Messages of the gateway to the SIP proxy.
    to_sip => "sip.sent",
    /// Of them, dropped: the proxy did not take them in time.
    sip_dropped => "sip.dropped",
    /// `accept` failed.
    accept_failed => "accept-failed",
}

impl Counters {
    pub(super) fn refused(&self, reason: XmppRefusal) {
        let index = XmppRefusal::ALL.iter().position(|other| *other == reason);
        if let Some(counter) = index.and_then(|index| self.refused.get(index)) {
            add(counter);
        }
    }

    /// Whether a line may be logged now, and how many were left out before it.
    pub(super) fn line(&self) -> Option<u64> {
        self.lines.admit(Instant::now())
    }
}

/// One more.
pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
