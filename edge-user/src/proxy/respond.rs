//! Answers of our own. A refused sender is told why, by our reason's name: in `Warning`
//! (RFC 3261 section 20.43) and in `ms-diagnostics-public` (MS-OCER), which is made to cross
//! federation.

use bytes::Bytes;

use super::{Peer, Refusal};
use crate::{
    domain::Domain,
    sip::{Message, Received, build},
};

impl Refusal {
    /// Status and reason phrase of the response.
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Refusal::Malformed => (400, "Bad Request"),
            Refusal::Anonymous => (433, "Anonymity Disallowed"),
            Refusal::TooManyHops => (483, "Too Many Hops"),
            Refusal::Loop => (482, "Loop Detected"),
            Refusal::Overload | Refusal::Throttled => (503, "Service Unavailable"),
            Refusal::UserNoPublicAv => (488, "Not Acceptable Here"),
            Refusal::Unreachable | Refusal::NoSrv | Refusal::ForeignTarget | Refusal::TlsFailed => {
                (504, "Server Time-out")
            }
            _ => (403, "Forbidden"),
        }
    }

    /// Error id of MS-OCER that comes nearest.
    const fn ocer(self) -> u16 {
        match self {
            Refusal::FederationDisabled | Refusal::NotOurUser | Refusal::UserNoFederation => 1002,
            Refusal::UserNoPublicIm | Refusal::UserNoPublicAv => 1001,
            Refusal::UserNoOutside => 1012,
            Refusal::DomainBlocked
            | Refusal::DomainNotAllowed
            | Refusal::ProviderDisabled
            | Refusal::Transit => 1005,
            Refusal::ForeignRoute | Refusal::WrongDialogPeer => 1004,
            Refusal::IdentityNotProved
            | Refusal::NoCertificate
            | Refusal::BoundElsewhere
            | Refusal::NotCarried
            | Refusal::WrongUsage
            | Refusal::Revoked
            | Refusal::RevocationUnknown => 1010,
            Refusal::Unreachable => 1007,
            Refusal::DnsNotSecure | Refusal::NoSrv => 1008,
            Refusal::ForeignTarget => 1009,
            Refusal::TlsFailed => 1047,
            _ => 1027,
        }
    }
}

/// A final response of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    pub phrase: &'static str,
    /// Named to the sender.
    pub reason: Option<Refusal>,
}

impl Answer {
    pub(super) const fn new(status: u16, phrase: &'static str) -> Self {
        Self { status, phrase, reason: None }
    }

    pub(super) const fn with(status: u16, phrase: &'static str, reason: Refusal) -> Self {
        Self { status, phrase, reason: Some(reason) }
    }
}

impl From<Refusal> for Answer {
    fn from(reason: Refusal) -> Self {
        let (status, phrase) = reason.status();
        Self::with(status, phrase, reason)
    }
}

/// Where a request came from, for its Via.
pub(super) fn received(peer: &Peer) -> Received {
    Received { address: peer.remote.ip(), port: peer.remote.port() }
}

/// The response to a request; `None` when the request lacks what a response copies.
pub(super) fn answer(
    request: &Message,
    peer: &Peer,
    fqdn: &Domain,
    tag: &str,
    answer: Answer,
) -> Option<Bytes> {
    let mut headers: Vec<(&str, &str)> = Vec::new();
    let (warning, diagnostics);
    if let Some(reason) = answer.reason {
        let name = reason.name();
        warning = format!("399 {fqdn} \"{name}\"");
        diagnostics = format!("{};reason=\"{name}\"", reason.ocer());
        headers.push(("Warning", &warning));
        headers.push(("ms-diagnostics-public", &diagnostics));
    }
    if answer.status == 503 {
        headers.push(("Retry-After", "10"));
    }
    let response = build::Response {
        status: answer.status,
        reason: answer.phrase,
        to_tag: (answer.status > 100).then_some(tag),
        received: Some(received(peer)),
        headers: &headers,
    };
    build::response(request, &response).ok()
}
