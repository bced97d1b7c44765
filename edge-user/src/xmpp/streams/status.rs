//! What an operator sees of streams (RFC 7590 section 3.6).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    Streams,
    proof::How,
    rules::turned,
    stream::{Phase, Role, Traffic},
};
use crate::{
    domain::Domain,
    xmpp::io::{Pair, StreamId, XmppSide},
};

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// Which.
    pub stream: StreamId,
    /// Partner or inside server.
    pub side: XmppSide,
    /// Who opened it.
    pub role: Role,
    /// The other end.
    pub address: SocketAddr,
    /// The other end's domain, as the header named it.
    pub remote: Option<Domain>,
    /// What was proved, and how; local domains are the organisation's.
    pub proved: Vec<(Pair, How)>,
    /// How far it is: `header`, `features`, `tls`, `authentication`, `open`, `closing`.
    pub step: &'static str,
    /// TLS version and cipher suite.
    pub tls: Option<(&'static str, &'static str)>,
    /// TLS from the first byte.
    pub direct_tls: bool,
    /// Why the other end's certificate proves nothing.
    pub certificate_fault: Option<String>,
    /// Subject, issuer and serial.
    pub certificate: Option<String>,
    /// The one before, when the domain proved itself by another key since this program began.
    pub certificate_before: Option<String>,
    /// Stanzas go both ways (XEP-0288).
    pub bidi: bool,
    /// Stanzas are acknowledged (XEP-0198).
    pub acknowledged: bool,
    /// What went over it.
    pub traffic: Traffic,
    /// How long it is open.
    pub age: Duration,
    /// How long nothing came.
    pub silent: Duration,
}

/// A domain that could not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackoffStatus {
    /// Partner or inside server.
    pub side: XmppSide,
    /// The domain.
    pub domain: Domain,
    /// Failures in a row.
    pub failures: u32,
    /// Until it is tried again.
    pub wait: Duration,
    /// Side, step, check, certificate subject, mend.
    pub text: String,
}

impl Streams {
    /// Every stream, the oldest first.
    pub fn status(&self, now: Instant) -> Vec<StreamStatus> {
        let mut all: Vec<_> = self
            .streams
            .values()
            .map(|stream| StreamStatus {
                stream: stream.id,
                side: stream.side,
                role: stream.role,
                address: stream.address,
                remote: stream.remote.clone(),
                proved: stream
                    .proofs
                    .iter()
                    .map(|proof| (turned(stream.side, proof.pair.clone()), proof.how))
                    .collect(),
                step: match stream.phase {
                    Phase::Header => "header",
                    Phase::Features => "features",
                    Phase::AskedForTls | Phase::Handshake => "tls",
                    Phase::Sasl => "authentication",
                    Phase::Open if stream.is_proved() => "open",
                    Phase::Open => "authentication",
                    Phase::Closing => "closing",
                },
                tls: stream.tls.as_ref().map(|tls| (tls.version, tls.cipher)),
                direct_tls: stream.direct_tls,
                certificate_fault: stream.certified.as_ref().err().cloned(),
                certificate: Self::certificate_words(stream).map(str::to_owned),
                certificate_before: stream
                    .known_remote()
                    .and_then(|remote| self.seen.get(&(stream.side, remote.clone())))
                    .and_then(|seen| seen.before.clone()),
                bidi: stream.bidi,
                acknowledged: stream.management.received.is_some(),
                traffic: stream.traffic,
                age: now.saturating_duration_since(stream.opened),
                silent: now.saturating_duration_since(stream.last_in),
            })
            .collect();
        all.sort_unstable_by_key(|status| status.stream);
        all
    }

    /// Domains that could not be reached, and when they are tried again.
    pub fn backoffs(&self, now: Instant) -> Vec<BackoffStatus> {
        let mut all: Vec<_> = self
            .failures()
            .map(|((side, domain), backoff)| BackoffStatus {
                side: *side,
                domain: domain.clone(),
                failures: backoff.failures,
                wait: backoff.until.saturating_duration_since(now),
                text: backoff.text.clone(),
            })
            .collect();
        all.sort_unstable_by(|one, other| one.domain.cmp(&other.domain));
        all
    }
}
