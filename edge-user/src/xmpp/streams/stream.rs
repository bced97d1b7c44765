//! One stream.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{certify::Certified, proof::Proofs, write::Offer};
use crate::{
    domain::Domain,
    xmpp::{
        io::{Pair, StreamId, TlsPeer, XmppSide},
        xml::{Element, XmlReader},
    },
};

/// Who opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// We did.
    Initiating,
    /// The other end did.
    Receiving,
}

/// How far it is. What is proved is told by its proofs alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The other end's header is awaited.
    Header,
    /// We opened it and wait for features.
    Features,
    /// We asked for TLS.
    AskedForTls,
    /// The shell does the handshake.
    Handshake,
    /// We sent EXTERNAL.
    Sasl,
    /// Dialback and, what is proved, stanzas.
    Open,
    /// We ended it and wait for the other end to do so.
    Closing,
}

/// Where a pair goes on one side; the pair is seen from the stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RouteKey {
    pub(super) side: XmppSide,
    pub(super) pair: Pair,
}

/// Acknowledgements (XEP-0198), without resumption.
#[derive(Debug, Default)]
pub(super) struct Management {
    /// Stanzas of the other end since they count; `None`: they do not.
    pub(super) received: Option<u32>,
    /// Stanzas of ours are counted.
    pub(super) sending: bool,
    /// Acknowledged so far.
    pub(super) acknowledged: u32,
    /// Sent and not acknowledged.
    pub(super) unacknowledged: VecDeque<Sent>,
    /// Bytes of those that are kept.
    pub(super) kept: usize,
    /// `<r/>` is on its way.
    pub(super) asked: bool,
}

impl Management {
    /// An end that lets so many pile up is dead.
    pub(super) const MOST: usize = 65_536;
    /// Stanzas of so many bytes are kept, to be told when they do not arrive; more are only counted.
    pub(super) const KEPT: usize = 1 << 20;

    /// A stanza was written.
    pub(super) fn sent(&mut self, pair: &Pair, stanza: Element, bytes: usize) {
        let keep = self.kept + bytes <= Self::KEPT;
        let (stanza, bytes) = if keep { (Some(stanza), bytes) } else { (None, 0) };
        self.kept += bytes;
        self.unacknowledged.push_back(Sent { pair: pair.clone(), stanza, bytes });
    }

    /// So many more were acknowledged, which are handed to `each`. `false`: more than were sent.
    #[must_use]
    pub(super) fn acknowledge(&mut self, handled: u32, mut each: impl FnMut(Sent)) -> bool {
        let done = handled.wrapping_sub(self.acknowledged) as usize;
        if done > self.unacknowledged.len() {
            return false;
        }
        for sent in self.unacknowledged.drain(..done) {
            self.kept -= sent.bytes;
            each(sent);
        }
        self.acknowledged = handled;
        true
    }
}

/// A stanza that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) pair: Pair,
    /// Kept, unless too much is.
    pub(super) stanza: Option<Element>,
    bytes: usize,
}

/// What went over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Stanzas from the other end.
    pub stanzas_in: u64,
    /// Stanzas of ours.
    pub stanzas_out: u64,
    /// Bytes from the other end, after TLS.
    pub bytes_in: u64,
    /// Bytes of ours.
    pub bytes_out: u64,
}

/// A stream.
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) role: Role,
    pub(super) side: XmppSide,
    pub(super) address: SocketAddr,
    pub(super) reader: XmlReader,
    pub(super) phase: Phase,
    pub(super) tls: Option<TlsPeer>,
    pub(super) direct_tls: bool,
    /// Our header was written in this stream.
    pub(super) header_sent: bool,
    /// The other end's is of version 1.0.
    pub(super) modern: bool,
    /// The id that the receiving end gave it.
    pub(super) xml_id: String,
    /// The pair of the headers: whom the initiating end asked for, as far as it said.
    pub(super) local: Option<Domain>,
    pub(super) remote: Option<Domain>,
    /// What the other end's certificate proves of `remote`, or why nothing.
    pub(super) certified: Result<Certified, String>,
    /// Receiving: what we offered.
    pub(super) offer: Offer,
    /// Initiating: what was offered to us, beside SASL.
    pub(super) offered: Offer,
    pub(super) proofs: Proofs,
    /// Both ends agreed on it.
    pub(super) bidi: bool,
    pub(super) management: Management,
    /// Initiating: `db:result` sent and not answered.
    pub(super) asked_for: Vec<Pair>,
    /// Initiating: `db:verify` may be sent.
    pub(super) may_verify: bool,
    /// A key was asked about on it.
    pub(super) served: bool,
    /// Initiating: for whom it was opened.
    pub(super) home: Option<RouteKey>,
    pub(super) sasl_failures: u8,
    /// The longest stanza that the other end takes.
    pub(super) max_bytes: Option<usize>,
    /// It closes after so long without a byte.
    pub(super) idle_limit: Option<Duration>,
    /// The entry that it counts for.
    pub(super) entry: Option<Domain>,
    pub(super) opened: Instant,
    pub(super) last_in: Instant,
    pub(super) last_stanza: Instant,
    /// The other end was asked whether it lives, and was silent since.
    pub(super) asked_at: Option<Instant>,
    /// The certificate's end.
    pub(super) expires: Option<Instant>,
    pub(super) closing_since: Option<Instant>,
    pub(super) traffic: Traffic,
    /// More waits to be written to it than is good.
    pub(super) full_since: Option<Instant>,
    /// Where its last stanza went.
    pub(super) feeds: Option<StreamId>,
    /// The stream for which it is not listened to.
    pub(super) held_by: Option<StreamId>,
    /// When it hears of us next, while it is held.
    pub(super) word_at: Instant,
    /// Bytes over the rate, for `Pause`.
    pub(super) level: f64,
    pub(super) levelled: Instant,
    /// The instant in the list of timers.
    pub(super) due: Option<Instant>,
}

impl Stream {
    pub(super) fn new(
        now: Instant,
        id: StreamId,
        role: Role,
        (side, address): (XmppSide, SocketAddr),
        reader: XmlReader,
    ) -> Self {
        Self {
            id,
            role,
            side,
            address,
            reader,
            phase: Phase::Header,
            tls: None,
            direct_tls: false,
            header_sent: false,
            modern: false,
            xml_id: String::new(),
            local: None,
            remote: None,
            certified: Err("there is no TLS".to_owned()),
            offer: Offer::default(),
            offered: Offer::default(),
            proofs: Proofs::default(),
            bidi: false,
            management: Management::default(),
            asked_for: Vec::new(),
            may_verify: false,
            served: false,
            home: None,
            sasl_failures: 0,
            max_bytes: None,
            idle_limit: None,
            entry: None,
            opened: now,
            last_in: now,
            last_stanza: now,
            asked_at: None,
            expires: None,
            closing_since: None,
            traffic: Traffic::default(),
            full_since: None,
            feeds: None,
            held_by: None,
            word_at: now,
            level: 0.0,
            levelled: now,
            due: None,
        }
    }

    /// A new stream begins on the connection, after TLS or SASL.
    pub(super) fn restart(&mut self) {
        self.reader.restart();
        self.phase = Phase::Header;
        self.header_sent = false;
        self.offer = Offer::default();
        self.offered = Offer::default();
    }

    /// The pair of its headers.
    pub(super) fn pair(&self) -> Option<Pair> {
        Some(Pair { local: self.local.clone()?, remote: self.remote.clone()? })
    }

    /// The other end's domain, where it is more than a word in a header.
    pub(super) fn known_remote(&self) -> Option<&Domain> {
        let known = self.role == Role::Initiating || self.is_proved() || self.certified.is_ok();
        self.remote.as_ref().filter(|_| known)
    }

    /// Something was proved in either direction.
    pub(super) fn is_proved(&self) -> bool {
        !self.proofs.is_empty()
    }

    /// Until when the bytes over the rate are worked off, when they are too many.
    pub(super) fn over_rate(&mut self, now: Instant, bytes: usize, rate: usize) -> Option<Instant> {
        let rate = rate.max(1) as f64;
        let passed = now.saturating_duration_since(self.levelled).as_secs_f64();
        self.levelled = now;
        self.level = (self.level - passed * rate).max(0.0) + bytes as f64;
        // Two seconds' worth may come at once.
        let over = self.level - 2.0 * rate;
        (over > 0.0).then(|| now + Duration::from_secs_f64(over / rate))
    }

    /// For people: which side, who, and how far.
    pub(super) fn describe(&self) -> String {
        let who = self.remote.as_ref().map_or("an unknown domain", Domain::as_str);
        let (whose, how) = match self.role {
            Role::Initiating => ("our stream to", "to"),
            Role::Receiving => ("the stream from", "from"),
        };
        let step = match self.phase {
            Phase::Header => "stream header",
            Phase::Features => "stream features",
            Phase::AskedForTls => "STARTTLS",
            Phase::Handshake => "TLS handshake",
            Phase::Sasl => "SASL",
            Phase::Open if self.is_proved() => "stanzas",
            Phase::Open => "authentication",
            Phase::Closing => "end",
        };
        let inside = if self.side == XmppSide::Inside { " (inside server)" } else { "" };
        format!("{whose} {who}{inside}, {how} {}, step {step}", self.address)
    }
}
