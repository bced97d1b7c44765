//! The contract of the streams' core with the shell, and with who takes stanzas.
//!
//! A *pair* is a local and a remote domain, in that order, as in XEP-0220: what is proved of a
//! stream is proved for pairs. A stanza leaves this core only for a pair that its stream has proved
//! in that direction.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use rustls::pki_types::CertificateDer;

pub use super::streams::Delivery;
use super::xml::Element;
use crate::{domain::Domain, federation::CertificateNames};

/// A connection the shell holds. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// One try to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(pub u64);

/// One question to DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LookupId(pub u64);

/// Which side a connection belongs to: fixed by the listener that accepted it, or by the dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum XmppSide {
    /// An XMPP partner.
    Partner,
    /// An XMPP server of the organisation's own.
    Inside,
}

/// A local and a remote domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// Served here.
    pub local: Domain,
    /// The other end's.
    pub remote: Domain,
}

/// What TLS found out about the other end. The handshake goes through whatever the certificate is
/// worth: whether that is enough is for the core to say (dialback may do without).
#[derive(Clone, Debug)]
pub struct TlsPeer {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// Cipher suite.
    pub cipher: &'static str,
    /// The certificate, if it sent one.
    pub certificate: PeerCertificate,
    /// What a good one was judged by, to be judged again while the stream lives.
    pub chain: Chain,
}

/// A certificate, and those that were sent with it. Empty: none that is good.
pub type Chain = Arc<[CertificateDer<'static>]>;

/// What the other end's certificate is worth.
#[derive(Clone, Debug)]
pub enum PeerCertificate {
    /// None was sent.
    Missing,
    /// It chains to the trust store, is in date and not revoked.
    Valid(Arc<XmppNames>),
    /// It does not.
    Invalid {
        /// Subject, issuer and serial, for people.
        description: String,
        /// The verifier's words.
        fault: String,
    },
}

/// Names of a validated certificate that speak of XMPP domains (RFC 6120 section 13.7.1.2).
#[derive(Clone, Debug, Default)]
pub struct XmppNames {
    /// DNS names, wildcards, expiry, serial, description.
    pub certificate: CertificateNames,
    /// SRV names `_xmpp-server.DOMAIN` (RFC 4985): the domains.
    pub srv: Vec<Domain>,
    /// `id-on-xmppAddr` without local part and resource (RFC 6120 section 13.7.1.4).
    pub addresses: Vec<Domain>,
    /// When the first of the authorities between it and the trust store ends, in seconds since 1970.
    pub authorities_end: Option<u64>,
}

impl XmppNames {
    /// When it proves nothing more, in seconds since 1970: it has ended, or an authority that it
    /// hangs on has (RFC 6120 section 13.7.2.3).
    pub fn ends_at(&self) -> Option<u64> {
        self.certificate.expires_at.into_iter().chain(self.authorities_end).min()
    }
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XmppTarget {
    /// Its side.
    pub side: XmppSide,
    /// Address and port.
    pub address: SocketAddr,
    /// TLS from the first byte (XEP-0368): the shell does the handshake before it says `Connected`.
    pub direct_tls: bool,
    /// SNI: the remote domain.
    pub server_name: Domain,
    /// Whose certificate of ours is presented: the local domain.
    pub local: Domain,
}

/// An address that DNS names, in the order in which to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XmppHost {
    /// SRV target, or the domain itself.
    pub host: Domain,
    /// Address and port. Never ours, loopback or private unless the configuration names it.
    pub address: SocketAddr,
    /// From `_xmpps-server`.
    pub direct_tls: bool,
}

/// What is to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XmppQuestion {
    /// `_xmpps-server._tcp` and `_xmpp-server._tcp` mixed by priority and weight (XEP-0368), else
    /// A and AAAA with port 5269.
    Domain(Domain),
    /// A and AAAA of a host that is configured.
    Host(Domain, u16),
}

/// Why DNS gave nothing.
pub use crate::proxy::ResolveError;

/// What comes in.
#[derive(Debug)]
pub enum XmppInput {
    /// A connection was accepted. With `tls`: a direct TLS listener, the handshake is done.
    Accepted {
        /// Its id.
        stream: StreamId,
        /// Its side.
        side: XmppSide,
        /// The other end.
        remote: SocketAddr,
        /// Ours.
        local: SocketAddr,
        /// What TLS found out.
        tls: Option<TlsPeer>,
    },
    /// A connection that was asked for is there. With `tls`: direct TLS.
    Connected {
        /// Which try.
        dial: DialId,
        /// Its id.
        stream: StreamId,
        /// What TLS found out.
        tls: Option<TlsPeer>,
    },
    /// It could not be made.
    ConnectFailed {
        /// Which try.
        dial: DialId,
        /// Why, for people.
        fault: String,
    },
    /// Bytes came (after TLS). At most a few KiB at once.
    Bytes {
        /// On which connection.
        stream: StreamId,
        /// What.
        bytes: Bytes,
    },
    /// The handshake that `StartTls` asked for is done.
    TlsDone {
        /// On which connection.
        stream: StreamId,
        /// What it found out.
        tls: TlsPeer,
    },
    /// A connection is gone (also after a failed handshake).
    Closed {
        /// Which.
        stream: StreamId,
        /// Why, when it was not in good order.
        fault: Option<String>,
    },
    /// DNS answered.
    Resolved {
        /// Which question.
        lookup: LookupId,
        /// In the order in which to try, never empty, and until when it holds.
        result: Result<(Vec<XmppHost>, Instant), ResolveError>,
    },
    /// More waits to be written to a connection than is good.
    Full {
        /// Which.
        stream: StreamId,
    },
    /// After `Full`: most of that is written.
    Drained {
        /// Which.
        stream: StreamId,
    },
    /// A stanza is to be sent. `from` and `to` are set and name a pair; the core looks for a stream
    /// that serves it, or makes one.
    Send {
        /// For which pair.
        pair: Pair,
        /// To an XMPP partner, or to an inside server.
        side: XmppSide,
        /// The stanza.
        stanza: Element,
    },
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum XmppOutput {
    /// Write bytes.
    Write {
        /// Where.
        stream: StreamId,
        /// What.
        bytes: Bytes,
    },
    /// Begin TLS, after what was written before; answer with `TlsDone` or `Closed`. Bytes read but
    /// not yet handed in before the handshake are an error of the peer: close.
    StartTls {
        /// Where.
        stream: StreamId,
        /// We are the server of the handshake.
        accepting: bool,
        /// SNI when we are the client, and whose certificate of ours is presented.
        pair: Pair,
    },
    /// Read nothing from it until then: it sends more than `bytes_per_second`.
    Pause {
        /// Which.
        stream: StreamId,
        /// When to read on.
        until: Instant,
    },
    /// Read nothing from it until `Resume`: what it sends cannot be handed on.
    Hold {
        /// Which.
        stream: StreamId,
    },
    /// Read on.
    Resume {
        /// Which.
        stream: StreamId,
    },
    /// Close a connection after what was written before.
    Close {
        /// Which.
        stream: StreamId,
    },
    /// Connect; answer with `Connected` or `ConnectFailed`.
    Connect {
        /// Which try.
        dial: DialId,
        /// Where to.
        target: XmppTarget,
    },
    /// Look up; answer with `Resolved`.
    Resolve {
        /// Which question.
        lookup: LookupId,
        /// What.
        question: XmppQuestion,
    },
    /// A stanza for a domain of the gateway's came on a stream that proved this pair. `from` and `to`
    /// are set, valid JIDs, and lie in the pair. What goes between partners and inside servers is
    /// handed over within this core and never seen here.
    Deliver(Delivery),
    /// A stanza that was to be sent was not: no stream could be had.
    Undelivered {
        /// For which pair.
        pair: Pair,
        /// The stanza.
        stanza: Element,
        /// The condition of RFC 6120 section 8.3.3: `remote-server-not-found`,
        /// `remote-server-timeout`, `resource-constraint`, `policy-violation` or `forbidden`.
        condition: &'static str,
        /// What went wrong: side, step, check, certificate subject, mend.
        text: String,
    },
    /// A message of the gateway's is on its way: written to a stream that acknowledges nothing, or
    /// acknowledged (XEP-0198).
    Passed {
        /// For which pair.
        pair: Pair,
        /// Its `id`.
        stanza: String,
        /// The partner's server has it.
        acknowledged: bool,
    },
    /// Something an operator should be able to see.
    Event(XmppEvent),
}

/// What an operator can see. Never a body, a key or a password.
#[derive(Clone, Debug)]
pub enum XmppEvent {
    /// A pair was proved on a stream.
    Proved {
        /// Which stream.
        stream: StreamId,
        /// The pair.
        pair: Pair,
        /// `sasl-external` or `dialback`.
        how: &'static str,
        /// Which side the other end is of. An inside server's address is none of the partner's to
        /// whom it writes.
        side: XmppSide,
        /// The other end.
        remote: SocketAddr,
        /// Its certificate, when that is good.
        names: Option<Arc<XmppNames>>,
    },
    /// Something was refused.
    Refused {
        /// One name for log, counters and documentation.
        reason: XmppRefusal,
        /// The other end's address, when there is a connection.
        remote: Option<SocketAddr>,
        /// The other end's domain, when it is known.
        domain: Option<Domain>,
        /// Else the domain that its header names: a word of anybody's.
        claimed: Option<Domain>,
        /// Side, step, check, certificate subject, mend.
        text: String,
    },
    /// A stream ended.
    Ended {
        /// Which.
        stream: StreamId,
        /// For people.
        text: String,
    },
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum XmppRefusal {
    /// XML that XMPP does not allow, or that is not well-formed.
    Xml,
    /// Deeper, longer or with more attributes than is allowed.
    XmlLimit,
    /// A stanza, or more, before anything was proved.
    NotAuthorized,
    /// Not done in time.
    Slow,
    /// The domain is not an XMPP partner, or none of ours was asked for.
    UnknownDomain,
    /// The domain is blocked.
    DomainBlocked,
    /// XMPP federation is off.
    Disabled,
    /// TLS is demanded, and there is none.
    NoTls,
    /// TLS failed.
    TlsFailed,
    /// The certificate does not prove the domain, and nothing else may.
    Certificate,
    /// Dialback says no, or could not be done.
    Dialback,
    /// A `from` or `to` outside of what was proved.
    InvalidFrom,
    /// Too many streams or stanzas.
    Limit,
    /// The other end ended the stream with an error.
    PeerError,
    /// DNS names no server, or none can be reached.
    Unreachable,
    /// The user may not.
    UserNoXmpp,
    /// A partner whose users must be invited first.
    NotInvited,
    /// A partner whose users nobody vouches for sends too much.
    Throttled,
    /// It is on the watch list.
    WatchListed,
    /// Out of step with the protocol.
    Protocol,
}

impl TlsPeer {
    /// The names in its certificate, when that is good.
    pub fn names(&self) -> Option<Arc<XmppNames>> {
        match &self.certificate {
            PeerCertificate::Valid(names) => Some(Arc::clone(names)),
            PeerCertificate::Missing | PeerCertificate::Invalid { .. } => None,
        }
    }
}

/// Stands before what mends a fault, in the words about it.
pub const TO_MEND: &str = "; to mend: ";

impl XmppRefusal {
    /// What mends it, where nothing better is known.
    pub const fn mend(self) -> &'static str {
        match self {
            XmppRefusal::Xml => "its server must write XML that RFC 6120 section 11 allows",
            XmppRefusal::XmlLimit => {
                "its server must write less; or raise stanza_bytes, first_bytes, depth, attributes \
                 or namespaces in [xmpp]"
            }
            XmppRefusal::NotAuthorized => {
                "its server must prove its domain, by SASL EXTERNAL or dialback, before it says more"
            }
            XmppRefusal::Slow => {
                "look at what is slow or filtered on the way between the two servers, and at the \
                 other's log; or raise setup in [xmpp]"
            }
            XmppRefusal::UnknownDomain => {
                "write an entry [[xmpp.partner]] for the domain; what is ours stands in domains"
            }
            XmppRefusal::DomainBlocked => "edge domain unblock, if it is to federate",
            XmppRefusal::Disabled => "write enabled = true in [xmpp] and [federation]",
            XmppRefusal::NoTls => {
                "its server must offer and take STARTTLS; or write tls = \"optional\" in its entry"
            }
            XmppRefusal::TlsFailed => {
                "both must have a version of TLS (1.2, 1.3) in common, and each must take the other's \
                 certificate; the other's log says more"
            }
            XmppRefusal::Certificate => {
                "its server needs a certificate in its time, of an authority that is trusted here, \
                 that names its domain"
            }
            XmppRefusal::Dialback => {
                "DNS must lead to a server of the domain that knows its keys and can be reached; or \
                 certificates do, with SASL EXTERNAL"
            }
            XmppRefusal::InvalidFrom => {
                "its server must write for domains that it proved on this stream alone"
            }
            XmppRefusal::Limit => {
                "if so many are wanted, raise connections in its entry, or connections and \
                 partner_connections in [xmpp]"
            }
            XmppRefusal::PeerError => "the other's operator can say why: it stands in its log",
            XmppRefusal::Unreachable => {
                "look at its SRV records, and whether port 5269 of their hosts can be reached from \
                 here; or write proxy_fqdn in its entry"
            }
            XmppRefusal::UserNoXmpp => "write xmpp = true for the user in [[user_policy]]",
            XmppRefusal::NotInvited => {
                "the user here writes first; or write type = \"public-verified\" in its entry"
            }
            XmppRefusal::Throttled => {
                "[federation.throttle] says how much; or write type = \"federated\" in its entry, \
                 when somebody vouches for its users"
            }
            XmppRefusal::WatchListed => {
                "edge partner show says why; edge partner forgive takes it from the list"
            }
            XmppRefusal::Protocol => {
                "its server departs from RFC 6120 or XEP-0220, which its operator can mend"
            }
        }
    }

    /// Every one.
    pub const ALL: &'static [XmppRefusal] = &[
        XmppRefusal::Xml,
        XmppRefusal::XmlLimit,
        XmppRefusal::NotAuthorized,
        XmppRefusal::Slow,
        XmppRefusal::UnknownDomain,
        XmppRefusal::DomainBlocked,
        XmppRefusal::Disabled,
        XmppRefusal::NoTls,
        XmppRefusal::TlsFailed,
        XmppRefusal::Certificate,
        XmppRefusal::Dialback,
        XmppRefusal::InvalidFrom,
        XmppRefusal::Limit,
        XmppRefusal::PeerError,
        XmppRefusal::Unreachable,
        XmppRefusal::UserNoXmpp,
        XmppRefusal::NotInvited,
        XmppRefusal::Throttled,
        XmppRefusal::WatchListed,
        XmppRefusal::Protocol,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            XmppRefusal::Xml => "xmpp-xml",
            XmppRefusal::XmlLimit => "xmpp-xml-limit",
            XmppRefusal::NotAuthorized => "xmpp-not-authorized",
            XmppRefusal::Slow => "xmpp-slow",
            XmppRefusal::UnknownDomain => "xmpp-unknown-domain",
            XmppRefusal::DomainBlocked => "xmpp-domain-blocked",
            XmppRefusal::Disabled => "xmpp-disabled",
            XmppRefusal::NoTls => "xmpp-no-tls",
            XmppRefusal::TlsFailed => "xmpp-tls-failed",
            XmppRefusal::Certificate => "xmpp-certificate",
            XmppRefusal::Dialback => "xmpp-dialback",
            XmppRefusal::InvalidFrom => "xmpp-invalid-from",
            XmppRefusal::Limit => "xmpp-limit",
            XmppRefusal::PeerError => "xmpp-peer-error",
            XmppRefusal::Unreachable => "xmpp-unreachable",
            XmppRefusal::UserNoXmpp => "xmpp-user-no-xmpp",
            XmppRefusal::NotInvited => "xmpp-not-invited",
            XmppRefusal::Throttled => "xmpp-throttled",
            XmppRefusal::WatchListed => "xmpp-watch-listed",
            XmppRefusal::Protocol => "xmpp-protocol",
        }
    }
}
