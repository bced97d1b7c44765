//! What goes into the table and what comes out.

use std::{fmt::Debug, hash::Hash, time::Duration};

use bytes::Bytes;

use super::{super::Method, table::Slot};

/// A handle for where bytes are written: a connection, or a UDP listener and remote.
pub trait Flow: Copy + Eq + Hash + Debug {}

impl<T: Copy + Eq + Hash + Debug> Flow for T {}

/// Where a message came from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<F> {
    /// The flow.
    pub flow: F,
    /// Who is there: messages from another scope never match. See the module's text.
    pub scope: u64,
    /// TCP or TLS: no retransmissions, no waiting for them.
    pub reliable: bool,
}

/// Timer values (RFC 3261 appendix A) and the bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Round-trip estimate.
    pub t1: Duration,
    /// Longest time between retransmissions.
    pub t2: Duration,
    /// How long a message may stay in the network.
    pub t4: Duration,
    /// Timer D on unreliable transports.
    pub d: Duration,
    /// Timer C: longer than three minutes (RFC 3261 section 16.6 step 11).
    pub c: Duration,
    /// Most server transactions at a time, and most client transactions.
    pub max: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            d: Duration::from_secs(33),
            c: Duration::from_secs(185),
            max: 100_000,
        }
    }
}

impl Timing {
    /// Timers B, F, H, J, L, M.
    pub fn t1_64(&self) -> Duration {
        self.t1.saturating_mul(64)
    }
}

/// A server transaction: a request that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub(super) Slot);

/// A client transaction: a request that went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub(super) Slot);

/// What a request from the wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// New: handle it, and answer with [`super::Transactions::respond`].
    New(ServerId),
    /// A CANCEL: answer it (200, or 481 when there is nothing to cancel). It has a transaction
    /// of its own.
    Cancel {
        /// The CANCEL's transaction.
        cancel: ServerId,
        /// The INVITE it is for, while that has no final response.
        invite: Option<ServerId>,
    },
    /// Seen before, or an ACK that ends a transaction: dealt with.
    Absorbed,
    /// An ACK for a 2xx, or a BENOTIFY: forward it without a transaction and answer nothing.
    Stateless,
    /// The table is full: answer 503 without a transaction, or drop.
    Full,
    /// No top Via that can be read: drop, or answer 400 without a transaction.
    Unkeyed,
}

/// What a response from the wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// For this transaction: handle it.
    Deliver(ClientId),
    /// Seen before, or for a CANCEL of the table's own: dealt with.
    Absorbed,
    /// For no request that went to this peer: drop and count it. Never forward it.
    Stray,
}

/// What comes of it all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<F> {
    /// Write these bytes.
    Send {
        /// Where.
        flow: F,
        /// What.
        bytes: Bytes,
    },
    /// No final response in time (timers B and F, or nothing after a CANCEL): act as on 408.
    Timeout(ClientId),
    /// The flow closed before a final response: act as on 503, or try the next target.
    TransportError(ClientId),
    /// Timer C: rang too long. The table cancels by itself; a 487 or a `Timeout` follows.
    TimerC(ClientId),
    /// Nobody acknowledged our final response (timer H).
    NotAcknowledged(ServerId),
    /// The flow of a request closed before the final response: nothing will be written unless
    /// [`super::Transactions::reroute`] names another flow. RFC 3261 section 18.2.2.
    FlowLost(ServerId),
    /// The id is dead.
    ServerEnded(ServerId),
    /// The id is dead.
    ClientEnded(ClientId),
}

/// A request to send.
#[derive(Clone, Debug)]
pub struct Outgoing<'a, F> {
    /// Where to.
    pub to: Origin<F>,
    /// The branch of the top Via, which is ours.
    pub branch: &'a str,
    /// Its method. Never ACK.
    pub method: Method<'a>,
    /// The whole message.
    pub bytes: Bytes,
}

/// Why the table did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// [`Timing::max`] is reached.
    #[error("too many transactions")]
    Full,
    /// A transaction with this branch and method is there already.
    #[error("the branch is in use")]
    BranchInUse,
    /// The transaction has ended.
    #[error("the transaction has ended")]
    Ended,
    /// A final response has been sent already.
    #[error("the request has been answered already")]
    Answered,
}
