//! Answers of our own. A refused sender is told why, by our reason's name: in `Warning`
//! (RFC 3261 section 20.43), and in `ms-diagnostics-public` (MS-OCER), which is made to cross
//! federation. Our own servers get `ms-diagnostics` in its place: the fault and its mend.

use bytes::Bytes;

use super::{Peer, Refusal, ResolveError, Side, drain, overload, proxy::Proxy, trust_headers};
use crate::{
    domain::Domain,
    sip::{HeaderName, Message, Method, Received, build},
};

impl Refusal {
    /// Status and reason phrase of the response.
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Refusal::Malformed | Refusal::Credentials | Refusal::SessionUnreadable => {
                (400, "Bad Request")
            }
            Refusal::Anonymous => (433, "Anonymity Disallowed"),
            Refusal::TooManyHops => (483, "Too Many Hops"),
            Refusal::Loop => (482, "Loop Detected"),
            Refusal::Overload
            | Refusal::Throttled
            | Refusal::UserSlowed
            | Refusal::Draining
            | Refusal::MediaPorts => (503, "Service Unavailable"),
            // Whoever hears it begins anew (RFC 3261 section 12.2.1.2, RFC 6665 section 4.1.2.2).
            Refusal::DialogTooOld | Refusal::CallEnded => (481, "Call/Transaction Does Not Exist"),
            Refusal::FlowFailed => (430, "Flow Failed"),
            Refusal::UserNoPublicAv | Refusal::MediaAddress | Refusal::MediaNotRelayed => {
                (488, "Not Acceptable Here")
            }
            Refusal::Unreachable
            | Refusal::NoSrv
            | Refusal::ForeignTarget
            | Refusal::ForbiddenAddress
            | Refusal::TlsFailed => (504, "Server Time-out"),
            _ => (403, "Forbidden"),
        }
    }

    /// The fault and its mend, for our own servers and their administrator. Goes into a quoted
    /// string as it is.
    pub const fn text(self) -> &'static str {
        match self {
            Refusal::FederationDisabled => {
                "Federation is switched off; set federation.enabled = true to federate"
            }
            Refusal::DomainBlocked => "The domain is blocked; edge domain unblock takes it back",
            Refusal::DomainNotAllowed => {
                "The domain is no partner; allow it, or turn federation.discovery on"
            }
            Refusal::IdentityNotProved => {
                "The certificate does not prove the domain; the partner needs one with its domain, \
                 or with the host that its SRV record names"
            }
            Refusal::Spoofed => "From is one of our own domains, and it came from outside",
            Refusal::Anonymous => {
                "The sender is anonymous; allow_anonymous in the partner's entry lets it in"
            }
            Refusal::NotOurUser => "From is in none of the domains served here; see edge.domains",
            Refusal::Transit => "It is neither from nor for one of our own users",
            Refusal::ForeignRoute => "The Route is not one that this edge wrote for this dialog",
            Refusal::DialogTooOld => {
                "The dialog began more than a week ago; its parties must begin another"
            }
            Refusal::WrongDialogPeer => {
                "The connection does not prove the partner with whom the dialog began"
            }
            Refusal::Malformed => "The message cannot be read as SIP",
            Refusal::TooManyHops => "Max-Forwards reached zero; look for a loop",
            Refusal::Loop => {
                "The request has been here before; look for servers that send to \
                              each other"
            }
            Refusal::Overload => "A bound of this edge is reached; see [limits]",
            Refusal::Unreachable => {
                "No edge of the partner could be reached; look at its DNS records and port 5061"
            }
            Refusal::NotListed => "The server is not listed; see inside.servers",
            Refusal::StrayResponse => "The response came from where no request went",
            Refusal::NoCertificate => "The peer presented no certificate",
            Refusal::BoundElsewhere => {
                "The domain belongs to another partner's entry, and this peer is not that partner"
            }
            Refusal::ProviderDisabled => "The provider is not in use; set enabled = true",
            Refusal::NotCarried => {
                "The provider does not carry this domain; list it, or let its SRV record name the \
                 provider's host"
            }
            Refusal::WrongUsage => {
                "The certificate lacks the key usage that the partner's entry demands; see usage"
            }
            Refusal::Revoked => "The certificate is revoked; the partner must replace it",
            Refusal::RevocationUnknown => {
                "No valid revocation list covers the certificate; see [revocation]"
            }
            Refusal::DnsNotSecure => {
                "The DNS answer is not signed, and the entry demands it; see dnssec"
            }
            Refusal::UnverifiedSource => {
                "The partner must say whether its user is verified, and did not; see verification"
            }
            Refusal::UserNoFederation => "The user may not federate; see [[user_policy]]",
            Refusal::UserNoPublicIm => "The user may not use public IM; see [[user_policy]]",
            Refusal::UserNoPublicAv => {
                "The user may not use audio and video with public IM; see [[user_policy]]"
            }
            Refusal::UserNoXmpp => "The user may not use XMPP; see xmpp in [[user_policy]]",
            Refusal::UserNoOutside => "The user may not sign in from outside; see [[user_policy]]",
            Refusal::Registration => {
                "Partners register nobody here; users of ours sign in at [service.remote]"
            }
            Refusal::Throttled => "The partner sends more than a discovered one may; allow it",
            Refusal::WatchListed => "The partner is on the watch list; edge partner forgive",
            Refusal::NoSrv => {
                "DNS names no edge of the partner; it must publish _sipfederationtls._tcp or _sips._tcp"
            }
            Refusal::ForeignTarget => {
                "The partner's SRV record leads to another domain; see relax_srv_domain"
            }
            Refusal::ForbiddenAddress => {
                "The partner's DNS leads to addresses that are ours, private or loopback; see \
                 federation.allow_addresses"
            }
            Refusal::Draining => "This edge is being drained; use another member of the pool",
            Refusal::TlsFailed => {
                "No TLS session with the partner's edge: cipher suites, authority or expiry; the \
                 log names the fault"
            }
            Refusal::FlowFailed => "The connection that the user registered on is gone",
            Refusal::Banned => {
                "Wrong passwords came from there too often; edge remote forgive lets it in again"
            }
            Refusal::UserSlowed => {
                "Wrong passwords came for this user too often; wait, or edge remote forgive"
            }
            Refusal::Credentials => {
                "The credentials cannot be read, or are of another user than From; a user signs in \
                 under its own name"
            }
            Refusal::ModalityForbidden => {
                "What is asked for is not allowed; see modalities in the partner's entry and in \
                 [[user_policy]]"
            }
            Refusal::MediaAddress => {
                "Media is to go to an address that is ours, private, loopback, multicast or a name; \
                 see federation.allow_addresses and behind_nat"
            }
            Refusal::MediaNotRelayed => {
                "Nothing of it can be relayed: media over TCP, several ports for one m-line, or an \
                 address family that [service.av] lacks"
            }
            Refusal::CallEnded => {
                "An administrator ended this call's media, or it lasted as long as media.longest_call"
            }
            Refusal::MediaPorts => "The ports for media are used up; see service.av.media_ports",
            Refusal::SessionUnreadable => "The session description cannot be read",
        }
    }

    /// Error id of MS-OCER that comes nearest.
    const fn ocer(self) -> u16 {
        match self {
            Refusal::FederationDisabled
            | Refusal::NotOurUser
            | Refusal::UserNoFederation
            | Refusal::UserNoXmpp => 1002,
            Refusal::UserNoPublicIm | Refusal::UserNoPublicAv => 1001,
            Refusal::UserNoOutside => 1012,
            Refusal::DomainBlocked
            | Refusal::DomainNotAllowed
            | Refusal::ProviderDisabled
            | Refusal::Transit => 1005,
            Refusal::ForeignRoute | Refusal::DialogTooOld | Refusal::WrongDialogPeer => 1004,
            Refusal::IdentityNotProved
            | Refusal::NoCertificate
            | Refusal::BoundElsewhere
            | Refusal::NotCarried
            | Refusal::WrongUsage
            | Refusal::Revoked
            | Refusal::RevocationUnknown => 1010,
            Refusal::Unreachable | Refusal::ForbiddenAddress => 1014,
            Refusal::DnsNotSecure | Refusal::NoSrv => 1008,
            Refusal::ForeignTarget => 1009,
            Refusal::TlsFailed => 1047,
            _ => 1027,
        }
    }
}

impl From<ResolveError> for Refusal {
    /// Why a partner is not found.
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::NotFound | ResolveError::NoService => Refusal::NoSrv,
            ResolveError::ForeignTarget => Refusal::ForeignTarget,
            ResolveError::NotSecure => Refusal::DnsNotSecure,
            ResolveError::ForbiddenAddress => Refusal::ForbiddenAddress,
            ResolveError::Unavailable => Refusal::Unreachable,
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
    /// The line of a session description that is at fault; for the inside.
    pub line: Option<u32>,
}

impl Answer {
    pub(super) const fn new(status: u16, phrase: &'static str) -> Self {
        Self { status, phrase, reason: None, line: None }
    }

    pub(super) const fn with(status: u16, phrase: &'static str, reason: Refusal) -> Self {
        Self { status, phrase, reason: Some(reason), line: None }
    }
}

impl From<Refusal> for Answer {
    fn from(reason: Refusal) -> Self {
        let (status, phrase) = reason.status();
        Self::with(status, phrase, reason)
    }
}

/// What passes; and whatever else there is, but for what two neighbours agree on (NEGOTIATE).
const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, MESSAGE, SUBSCRIBE, NOTIFY, \
    REFER, INFO, UPDATE, PRACK, PUBLISH, SERVICE, BENOTIFY";

/// What an edge that is asked for itself says of itself: whatever it is brought passes.
const CAPABILITIES: [(&str, &str); 5] = [
    ("Allow", ALLOW),
    ("Accept", "*/*"),
    ("Accept-Encoding", "*"),
    ("Accept-Language", "*"),
    ("Supported", ""),
];

/// The extensions that a request asks of a proxy, for `Unsupported` (RFC 3261 section 16.3).
fn required(request: &Message) -> String {
    let mut tags = String::new();
    for tag in request.list(HeaderName::ProxyRequire) {
        let tag = String::from_utf8_lossy(tag.value);
        if !tag.is_empty() && tag.bytes().all(|b| b.is_ascii_graphic()) {
            tags.push_str(if tags.is_empty() { "" } else { ", " });
            tags.push_str(&tag);
        }
    }
    tags
}

/// Where a request came from, for its Via.
pub(super) fn received(peer: &Peer) -> Received {
    Received { address: peer.remote.ip(), port: peer.remote.port() }
}

/// What an answer is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    /// The partner's domain.
    pub domain: Option<&'a Domain>,
    /// Our To tag.
    pub tag: &'a str,
}

/// The response to a request; `None` when the request lacks what a response copies.
///
/// A partner is told the reason's name; the inside the fault and its mend, and that it is the edge
/// which speaks.
pub(super) fn answer(
    proxy: &Proxy,
    request: &Message,
    peer: &Peer,
    about: About<'_>,
    answer: Answer,
) -> Option<Bytes> {
    let fqdn = &proxy.config.fqdn;
    let mut headers: Vec<(&str, &str)> = Vec::new();
    let (warning, diagnostics);
    if let Some(reason) = answer.reason {
        let name = reason.name();
        warning = format!("399 {fqdn} \"{name}\"");
        headers.push(("Warning", &warning));
        let mut value = diagnostics_value(reason, fqdn, peer.side, about.domain);
        if let Some(line) = answer.line.filter(|_| peer.side == Side::Inside) {
            value.push_str(&format!(";sdp-line=\"{line}\""));
        }
        diagnostics = value;
        headers.push(match peer.side {
            Side::Partner | Side::Remote | Side::Gateway => {
                (HeaderName::MsDiagnosticsPublic.as_str(), &diagnostics)
            }
            Side::Inside => (HeaderName::MsDiagnostics.as_str(), &diagnostics),
        });
    }
    if answer.status > 100 && peer.side == Side::Inside {
        headers.push((trust_headers::TRUST, proxy.trust_values.generated()));
    }
    let (unsupported, retry_after);
    match answer.status {
        503 => {
            let key = request.text(HeaderName::CallId).unwrap_or_default();
            retry_after = match answer.reason {
                Some(Refusal::Draining) => drain::RETRY_AFTER.to_owned(),
                _ => overload::retry_after(key.as_bytes()).to_string(),
            };
            headers.push(("Retry-After", &retry_after));
        }
        405 => headers.push(("Allow", ALLOW)),
        // RFC 3261 section 11.2.
        200 if request.method() == Some(Method::Options) => headers.extend(CAPABILITIES),
        420 => {
            unsupported = required(request);
            headers.push(("Unsupported", &unsupported));
        }
        _ => {}
    }
    let response = build::Response {
        status: answer.status,
        reason: answer.phrase,
        to_tag: (answer.status > 100).then_some(about.tag),
        received: Some(received(peer)),
        headers: &headers,
    };
    build::response(request, &response).ok()
}

/// `ID;reason="name"` for partners; `ID;source="fqdn";reason="text";domain="D"` inside.
fn diagnostics_value(
    reason: Refusal,
    fqdn: &Domain,
    side: Side,
    domain: Option<&Domain>,
) -> String {
    let id = reason.ocer();
    match (side, domain) {
        (Side::Partner | Side::Remote | Side::Gateway, _) => {
            format!("{id};reason=\"{}\"", reason.name())
        }
        (Side::Inside, Some(domain)) => {
            let text = reason.text();
            format!("{id};source=\"{fqdn}\";reason=\"{text}\";domain=\"{domain}\"")
        }
        (Side::Inside, None) => {
            format!("{id};source=\"{fqdn}\";reason=\"{}\"", reason.text())
        }
    }
}
