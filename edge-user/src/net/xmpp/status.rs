//! What is shown of streams, and what is counted.

use std::{net::SocketAddr, time::SystemTime};

pub(super) use crate::net::counters::add;
use crate::{
    net::counters::counters,
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

counters! {
    reasons {
        refused: XmppRefusal => "refused",
    }
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
    /// Streams that were not listened to for a while: what they sent could not be handed on.
    held => "held",
    /// Said by the core to a stream that is gone.
    to_closed => "sent-to-closed",
    /// Messages of the gateway to the SIP proxy.
    to_sip => "sip.sent",
    /// Of them, dropped: the proxy did not take them in time.
    sip_dropped => "sip.dropped",
    /// `accept` failed.
    accept_failed => "accept-failed",
}
