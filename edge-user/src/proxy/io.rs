//! The proxy's inputs and outputs: the contract between the core and the shell in `net`.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    config::{NextHop, Transport},
    domain::Domain,
    federation::{Cause, CertificateNames, Lookup},
    media::{
        calls::CallEvent,
        flow::{CallId, FlowTally, MediaChange},
    },
};

/// A connection the shell holds. For UDP: one listener and one remote address. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// One try to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId(pub u64);

/// One question to DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub u64);

/// Which side a connection belongs to: fixed by the listener that accepted it, or by the attempt
/// that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The access service: a partner, with a certificate that chains to the partners' trust
    /// store.
    Partner,
    /// The internal listener, and a server that is listed (certificate name or prefix).
    Inside,
    /// A user of ours who is outside: no certificate, on the remote service's own listener, or on
    /// the access service where that is shared.
    Remote,
    /// The XMPP gateway of this appliance, in the place of XMPP partners: no socket, always there
    /// while XMPP is served.
    Gateway,
}

/// Who is at the other end, as proved when the connection was made.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its side.
    pub side: Side,
    /// How it is carried.
    pub transport: Transport,
    /// Its address.
    pub remote: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// What its certificate names; empty for TCP and UDP.
    pub names: Arc<CertificateNames>,
    /// Which of our own identities was presented to it; 0 is the first.
    pub own: u8,
}

/// An address to connect to, and what the peer there must prove.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its side.
    pub side: Side,
    /// How.
    pub transport: Transport,
    /// Where.
    pub address: SocketAddr,
    /// SNI and, for TLS, one name the certificate must hold: the host that was looked up. The
    /// proxy itself checks that the certificate also proves the domain.
    pub server_name: Option<Domain>,
    /// Which of our own identities is presented; 0 is the first.
    pub own: u8,
}

/// What is to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// A partner's edges: SRV `_sipfederationtls._tcp`, else `_sips._tcp`, then A and AAAA of the
    /// targets.
    Federation(Domain),
    /// One host's A and AAAA.
    Host(Domain, u16),
    /// A next hop given by name.
    NextHop(NextHop),
    /// A domain's XMPP servers: SRV `_xmpp-server._tcp` and `_xmpps-server._tcp`. Only verdicts ask.
    Xmpp(Domain),
}

/// An edge of a partner, as DNS names it, in the order in which to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedHost {
    /// SRV target, or the host asked for.
    pub host: Domain,
    /// Port.
    pub port: u16,
    /// Its addresses, already filtered: never ours, loopback, private or multicast unless the
    /// configuration names them.
    pub addresses: Vec<IpAddr>,
}

/// Answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// In the order in which to try; never empty.
    pub hosts: Vec<ResolvedHost>,
    /// Until when it may be used.
    pub valid_until: Instant,
}

/// Why DNS gave nothing usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No SRV record, or no such name.
    #[error("no DNS record")]
    NotFound,
    /// The SRV record says that the service does not exist (target `.`).
    #[error("the domain says in DNS that it does not federate")]
    NoService,
    /// Every SRV target lies in another domain.
    #[error("the SRV target lies in another domain")]
    ForeignTarget,
    /// Every address is ours, loopback, private or otherwise not for us to connect to.
    #[error("the name leads to addresses that are not allowed")]
    ForbiddenAddress,
    /// The answer is not signed, or its signature does not hold, and it must be.
    #[error("the DNS answer is not secured by DNSSEC")]
    NotSecure,
    /// No resolver answered in time.
    #[error("no DNS server answered")]
    Unavailable,
}

/// Why a connection was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// TCP failed or took too long.
    #[error("no TCP connection: {0}")]
    Tcp(String),
    /// TLS failed: the alert or the verifier's words.
    #[error("no TLS session: {0}")]
    Tls(String),
    /// A bound of ours is reached.
    #[error("too many connections")]
    Limit,
}

/// What comes in.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are messages: no allocation for each")]
pub enum Input {
    /// A connection was accepted, or (with `attempt`) opened.
    Opened {
        /// Its id.
        connection: ConnectionId,
        /// Who is there.
        peer: Peer,
        /// The attempt it answers.
        attempt: Option<AttemptId>,
    },
    /// A whole message came, framed and indexed.
    Message {
        /// On which connection.
        connection: ConnectionId,
        /// The message.
        message: crate::sip::Message,
    },
    /// What came cannot be read as SIP; the shell closes a stream after this, unless it is known where
    /// the message ends. The core may send a 400 first (see `sip::FrameError`), and counts.
    Unreadable {
        /// On which connection.
        connection: ConnectionId,
        /// Why.
        error: crate::sip::FrameError,
    },
    /// A connection is gone.
    Closed {
        /// Its id.
        connection: ConnectionId,
    },
    /// DNS answered.
    Resolved {
        /// Which question.
        query: QueryId,
        /// The answer.
        result: Result<Resolved, ResolveError>,
    },
    /// A connection could not be made.
    ConnectFailed {
        /// Which attempt.
        attempt: AttemptId,
        /// Why.
        error: ConnectError,
    },
}

/// What the shell must do.
#[derive(Debug)]
pub enum Output {
    /// Write a message.
    Send {
        /// Where.
        connection: ConnectionId,
        /// What.
        bytes: Bytes,
    },
    /// Open a connection; answer with `Opened` or `ConnectFailed`.
    Connect {
        /// Which attempt.
        attempt: AttemptId,
        /// Where to.
        target: Target,
    },
    /// Look up; answer with `Resolved`.
    Resolve {
        /// Which question.
        query: QueryId,
        /// What.
        question: Question,
        /// How.
        lookup: Lookup,
    },
    /// Close a connection that is not needed, and that nobody is to blame for.
    Release {
        /// Which.
        connection: ConnectionId,
    },
    /// Close a connection, after what is queued is written.
    Close {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: Refusal,
    },
    /// Put media flows in force, in this order, before anything that comes after is carried out. When
    /// that fails, the next [`Output::Send`] is not written (as if it was lost), and the core is
    /// told by `media_failed`.
    Media(Vec<MediaChange>),
    /// Something an operator should be able to see.
    Event(Event),
}

/// Why the proxy refused something. One name for log, counters, CLI and documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The organisation's federation switch is off.
    FederationDisabled,
    /// The domain is blocked.
    DomainBlocked,
    /// The domain is not an allowed partner.
    DomainNotAllowed,
    /// The certificate does not prove the From domain.
    IdentityNotProved,
    /// From outside with a From in one of our domains.
    Spoofed,
    /// Anonymous without an asserted identity.
    Anonymous,
    /// From inside with a From that is not in one of our domains.
    NotOurUser,
    /// Outside to outside.
    Transit,
    /// A Route or Record-Route that we did not write, or for another dialog.
    ForeignRoute,
    /// A Route that this edge wrote for this very dialog, so long ago that it is believed no more.
    DialogTooOld,
    /// An in-dialog request on a connection that does not prove the dialog's partner.
    WrongDialogPeer,
    /// Not readable as SIP, or with headers that no honest sender writes.
    Malformed,
    /// Max-Forwards reached zero.
    TooManyHops,
    /// The request has been here before.
    Loop,
    /// A bound of ours is reached.
    Overload,
    /// The partner's edges cannot be found or reached.
    Unreachable,
    /// A server that is not listed on the internal listener.
    NotListed,
    /// A response on a connection its request did not go to.
    StrayResponse,
    /// A peer without a (good) certificate.
    NoCertificate,
    /// The domain belongs to another partner's entry.
    BoundElsewhere,
    /// The provider is not in use.
    ProviderDisabled,
    /// The provider does not carry this domain.
    NotCarried,
    /// The certificate lacks the key usage that the entry demands.
    WrongUsage,
    /// The certificate is revoked.
    Revoked,
    /// No valid list says that the certificate is not revoked, and one is demanded.
    RevocationUnknown,
    /// The DNS answer is not signed, and the entry demands it.
    DnsNotSecure,
    /// The partner must say whether its user is verified, and did not.
    UnverifiedSource,
    /// The user may not federate.
    UserNoFederation,
    /// The user may not exchange messages with public IM providers.
    UserNoPublicIm,
    /// The user may not use audio and video with public IM providers.
    UserNoPublicAv,
    /// The user may not exchange messages with XMPP partners.
    UserNoXmpp,
    /// The user may not sign in from outside.
    UserNoOutside,
    /// A partner would register somebody.
    Registration,
    /// A discovered partner sends more than it may.
    Throttled,
    /// A discovered partner is on the watch list.
    WatchListed,
    /// DNS names no edge of the partner.
    NoSrv,
    /// The partner's SRV record leads to another domain.
    ForeignTarget,
    /// The partner's hosts lead to addresses that nobody outside can have.
    ForbiddenAddress,
    /// No TLS session with the partner's edge.
    TlsFailed,
    /// The connection that a remote user registered on is gone.
    FlowFailed,
    /// Wrong passwords came from this address too often.
    Banned,
    /// Wrong passwords came for this user too often.
    UserSlowed,
    /// Credentials that are not the sender's alone, or cannot be read.
    Credentials,
    /// Nothing new begins here: the appliance is being drained.
    Draining,
    /// What is asked for is not among the modalities of the partner or the user.
    ModalityForbidden,
    /// A session description names an address that nobody there can have.
    MediaAddress,
    /// Nothing of what is asked for can be relayed.
    MediaNotRelayed,
    /// Its media was ended for good, and is offered again.
    CallEnded,
    /// Ports for media are used up.
    MediaPorts,
    /// A session description cannot be read.
    SessionUnreadable,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: &'static [Refusal] = &[
        Refusal::FederationDisabled,
        Refusal::DomainBlocked,
        Refusal::DomainNotAllowed,
        Refusal::IdentityNotProved,
        Refusal::Spoofed,
        Refusal::Anonymous,
        Refusal::NotOurUser,
        Refusal::Transit,
        Refusal::ForeignRoute,
        Refusal::DialogTooOld,
        Refusal::WrongDialogPeer,
        Refusal::Malformed,
        Refusal::TooManyHops,
        Refusal::Loop,
        Refusal::Overload,
        Refusal::Unreachable,
        Refusal::NotListed,
        Refusal::StrayResponse,
        Refusal::NoCertificate,
        Refusal::BoundElsewhere,
        Refusal::ProviderDisabled,
        Refusal::NotCarried,
        Refusal::WrongUsage,
        Refusal::Revoked,
        Refusal::RevocationUnknown,
        Refusal::DnsNotSecure,
        Refusal::UnverifiedSource,
        Refusal::UserNoFederation,
        Refusal::UserNoPublicIm,
        Refusal::UserNoPublicAv,
        Refusal::UserNoXmpp,
        Refusal::UserNoOutside,
        Refusal::Registration,
        Refusal::Throttled,
        Refusal::WatchListed,
        Refusal::NoSrv,
        Refusal::ForeignTarget,
        Refusal::ForbiddenAddress,
        Refusal::TlsFailed,
        Refusal::FlowFailed,
        Refusal::Banned,
        Refusal::UserSlowed,
        Refusal::Credentials,
        Refusal::Draining,
        Refusal::ModalityForbidden,
        Refusal::MediaAddress,
        Refusal::MediaNotRelayed,
        Refusal::CallEnded,
        Refusal::MediaPorts,
        Refusal::SessionUnreadable,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::FederationDisabled => "federation-disabled",
            Refusal::DomainBlocked => "domain-blocked",
            Refusal::DomainNotAllowed => "domain-not-allowed",
            Refusal::IdentityNotProved => "identity-not-proved",
            Refusal::Spoofed => "spoofed",
            Refusal::Anonymous => "anonymous",
            Refusal::NotOurUser => "not-our-user",
            Refusal::Transit => "transit",
            Refusal::ForeignRoute => "foreign-route",
            Refusal::DialogTooOld => "dialog-too-old",
            Refusal::WrongDialogPeer => "wrong-dialog-peer",
            Refusal::Malformed => "malformed",
            Refusal::TooManyHops => "too-many-hops",
            Refusal::Loop => "loop",
            Refusal::Overload => "overload",
            Refusal::Unreachable => "unreachable",
            Refusal::NotListed => "not-listed",
            Refusal::StrayResponse => "stray-response",
            Refusal::NoCertificate => "no-certificate",
            Refusal::BoundElsewhere => "bound-elsewhere",
            Refusal::ProviderDisabled => "provider-disabled",
            Refusal::NotCarried => "not-carried",
            Refusal::WrongUsage => "wrong-usage",
            Refusal::Revoked => "revoked",
            Refusal::RevocationUnknown => "revocation-unknown",
            Refusal::DnsNotSecure => "dns-not-secure",
            Refusal::UnverifiedSource => "unverified-source",
            Refusal::UserNoFederation => "user-no-federation",
            Refusal::UserNoPublicIm => "user-no-public-im",
            Refusal::UserNoPublicAv => "user-no-public-av",
            Refusal::UserNoXmpp => "user-no-xmpp",
            Refusal::UserNoOutside => "user-no-outside",
            Refusal::Registration => "registration",
            Refusal::Throttled => "throttled",
            Refusal::WatchListed => "watch-listed",
            Refusal::NoSrv => "no-srv",
            Refusal::ForeignTarget => "foreign-target",
            Refusal::ForbiddenAddress => "forbidden-address",
            Refusal::TlsFailed => "tls-failed",
            Refusal::FlowFailed => "flow-failed",
            Refusal::Banned => "banned",
            Refusal::UserSlowed => "user-slowed",
            Refusal::Credentials => "credentials",
            Refusal::Draining => "draining",
            Refusal::ModalityForbidden => "modality-forbidden",
            Refusal::MediaAddress => "media-address",
            Refusal::MediaNotRelayed => "media-not-relayed",
            Refusal::CallEnded => "call-ended",
            Refusal::MediaPorts => "media-ports",
            Refusal::SessionUnreadable => "session-unreadable",
        }
    }
}

/// What is known of a source by what was proved from there, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repute {
    /// Nothing, or that it is blocked.
    Stranger,
    /// A partner that anybody can be: nobody named it.
    Discovered,
    /// A partner with an entry, or a user of ours.
    Known,
}

impl Repute {
    /// How many there are.
    pub const COUNT: usize = 3;
}

/// What an operator can see. Never a body, a key or a password.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request was refused.
    Refused {
        /// Why.
        reason: Refusal,
        /// Who sent it.
        remote: SocketAddr,
        /// The domain it is about (From's for requests from outside), when it could be read.
        domain: Option<Domain>,
        /// More for people: method, what was expected.
        detail: String,
    },
    /// A request was forwarded.
    Forwarded {
        /// Method.
        method: Cow<'static, str>,
        /// The partner's domain.
        partner: Domain,
        /// Outside to inside, or the other way.
        inbound: bool,
    },
    /// A connection proved a domain (its address is in use by an honest partner, or by a blocked
    /// one).
    Proved {
        /// Which connection.
        connection: ConnectionId,
        /// The domain.
        domain: Domain,
        /// From where.
        remote: SocketAddr,
        /// What that makes of its source.
        repute: Repute,
    },
    /// A server began to fail, or answers again.
    Health {
        /// Where it is.
        address: SocketAddr,
        /// How it is spoken to.
        transport: Transport,
        /// Whose it is; `None`: one of ours, or it answers again.
        partner: Option<Domain>,
        /// Why it counts as dead; `None`: it answers again.
        cause: Option<Cause>,
    },
    /// A discovered partner on the watch list sent from here.
    Offender {
        /// Its domain.
        domain: Domain,
        /// The address.
        source: IpAddr,
        /// Until when it is listed.
        until: Instant,
    },
    /// A remote user registered: its address is in use by one of us.
    SignedIn {
        /// On which connection.
        connection: ConnectionId,
        /// From where.
        remote: SocketAddr,
    },
    /// Wrong passwords came from this address too often: it is shut out.
    Banned {
        /// The address; of IPv6 the /64.
        source: IpAddr,
        /// For so long.
        seconds: u64,
    },
    /// Media flows of a call were opened, changed or closed. Said by the shell.
    MediaFlows {
        /// The call.
        call: CallId,
        /// How many.
        tally: FlowTally,
        /// From when the message that caused it had been read until they were in force.
        took: Duration,
    },
    /// Media flows could not be put in force. Said by the shell.
    MediaFailed {
        /// The calls that were to be opened.
        calls: Vec<CallId>,
        /// Why.
        fault: String,
    },
    /// What is thought of a discovered partner changed.
    Watch {
        /// Its domain.
        domain: Domain,
        /// Where it sends from; `None`: wherever.
        source: Option<IpAddr>,
        /// What changed.
        what: WatchChange,
    },
    /// A call's first flows were opened, or its media ended.
    Call(CallEvent),
}

/// What is thought of a discovered partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchChange {
    /// Too many of its requests fail: it is slowed down.
    Suspicious,
    /// It is on the watch list, and refused.
    Listed {
        /// For so long.
        seconds: u64,
    },
    /// It is as any other again.
    Forgiven,
}
