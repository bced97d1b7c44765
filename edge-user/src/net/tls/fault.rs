//! Why a handshake failed, in words that name the mend.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible, PeerMisbehaved};

use crate::proxy::Refusal;

/// Why a handshake failed. One name for log, counters, CLI and documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HandshakeFault {
    /// The peer presented no certificate.
    NoCertificate,
    /// The chain does not lead to the trust store.
    UnknownAuthority,
    /// A certificate of the chain is past its time.
    Expired,
    /// A certificate of the chain is before its time.
    NotYetValid,
    /// Extended key usage for something else.
    WrongUsage,
    /// The server's certificate does not hold the host that was looked up.
    WrongName,
    /// A revocation list names the certificate.
    Revoked,
    /// No current list says that it is not revoked, and one is demanded.
    RevocationUnknown,
    /// Another fault of the certificate or its signature.
    BadCertificate,
    /// No cipher suite, group or signature scheme in common.
    NoCommonCipherSuite,
    /// Older than TLS 1.2.
    NoCommonVersion,
    /// The peer refuses our certificate.
    RefusedByPeer,
    /// What came is no TLS.
    NotTls,
    /// A fault of the peer's TLS.
    Protocol,
    /// The peer closed the connection.
    Closed,
    /// Not finished in time.
    Timeout,
    /// More handshakes at one time or in a second than there may be.
    TooMany,
}

impl HandshakeFault {
    /// Every fault.
    pub const ALL: &'static [HandshakeFault] = &[
        HandshakeFault::NoCertificate,
        HandshakeFault::UnknownAuthority,
        HandshakeFault::Expired,
        HandshakeFault::NotYetValid,
        HandshakeFault::WrongUsage,
        HandshakeFault::WrongName,
        HandshakeFault::Revoked,
        HandshakeFault::RevocationUnknown,
        HandshakeFault::BadCertificate,
        HandshakeFault::NoCommonCipherSuite,
        HandshakeFault::NoCommonVersion,
        HandshakeFault::RefusedByPeer,
        HandshakeFault::NotTls,
        HandshakeFault::Protocol,
        HandshakeFault::Closed,
        HandshakeFault::Timeout,
        HandshakeFault::TooMany,
    ];

    /// Whether the peer's certificate, or the lack of one, is at fault.
    pub const fn is_certificate(self) -> bool {
        matches!(
            self,
            HandshakeFault::NoCertificate
                | HandshakeFault::UnknownAuthority
                | HandshakeFault::Expired
                | HandshakeFault::NotYetValid
                | HandshakeFault::WrongUsage
                | HandshakeFault::WrongName
                | HandshakeFault::Revoked
                | HandshakeFault::RevocationUnknown
                | HandshakeFault::BadCertificate
        )
    }

    /// Whether the two have nothing in common, which an administrator of one must change.
    pub const fn is_mismatch(self) -> bool {
        matches!(self, HandshakeFault::NoCommonCipherSuite | HandshakeFault::NoCommonVersion)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            HandshakeFault::NoCertificate => "no-certificate",
            HandshakeFault::UnknownAuthority => "unknown-authority",
            HandshakeFault::Expired => "certificate-expired",
            HandshakeFault::NotYetValid => "certificate-not-yet-valid",
            HandshakeFault::WrongUsage => "certificate-wrong-usage",
            HandshakeFault::WrongName => "certificate-wrong-name",
            HandshakeFault::Revoked => "certificate-revoked",
            HandshakeFault::RevocationUnknown => "certificate-revocation-unknown",
            HandshakeFault::BadCertificate => "certificate-bad",
            HandshakeFault::NoCommonCipherSuite => "no-common-cipher-suite",
            HandshakeFault::NoCommonVersion => "no-common-version",
            HandshakeFault::RefusedByPeer => "refused-by-peer",
            HandshakeFault::NotTls => "not-tls",
            HandshakeFault::Protocol => "tls-protocol",
            HandshakeFault::Closed => "closed-by-peer",
            HandshakeFault::Timeout => "handshake-timeout",
            HandshakeFault::TooMany => "too-many",
        }
    }

    /// What it means and what to do.
    pub const fn words(self) -> &'static str {
        match self {
            HandshakeFault::NoCertificate => {
                "the peer presented no certificate; federation needs one on both sides"
            }
            HandshakeFault::UnknownAuthority => {
                "the peer's certificate does not chain to our trust store; add its root to the \
                 `trust` file, or have the peer send its intermediate certificates"
            }
            HandshakeFault::Expired => {
                "the peer's certificate, or one above it, has expired; the peer must renew it \
                 (and check our clock)"
            }
            HandshakeFault::NotYetValid => {
                "the peer's certificate, or one above it, is not valid yet; check both clocks"
            }
            HandshakeFault::WrongUsage => {
                "the extended key usage of the peer's certificate holds none of serverAuth, \
                 clientAuth and id-kp-sipDomain"
            }
            HandshakeFault::WrongName => {
                "the peer's certificate does not hold the host name that was looked up; a \
                 wildcard or a common name does not count"
            }
            HandshakeFault::Revoked => {
                "a revocation list of its authority names the peer's certificate; the peer must \
                 have a new one issued"
            }
            HandshakeFault::RevocationUnknown => {
                "no current revocation list says that the peer's certificate is not revoked, and \
                 [revocation] mode is hard: it is being fetched if `points` is on and the \
                 certificate names a place; else name a file under [revocation] files"
            }
            HandshakeFault::BadCertificate => "the peer's certificate cannot be accepted",
            HandshakeFault::NoCommonCipherSuite => {
                "no cipher suite in common: ours are TLS 1.3, and ECDHE with AES-GCM or \
                 ChaCha20-Poly1305 in TLS 1.2; a peer with CBC suites only (Lync on Windows \
                 Server 2012 R2 and older with an RSA certificate) has none"
            }
            HandshakeFault::NoCommonVersion => {
                "the peer's TLS is older than 1.2; it must switch TLS 1.2 on"
            }
            HandshakeFault::RefusedByPeer => {
                "the peer refused us with a TLS alert: it may not trust the authority of our \
                 certificate, or want other names in it"
            }
            HandshakeFault::NotTls => "what the peer sent is no TLS",
            HandshakeFault::Protocol => "the peer broke the TLS protocol",
            HandshakeFault::Closed => "the peer closed the connection during the handshake",
            HandshakeFault::Timeout => "the peer did not finish the handshake in time",
            HandshakeFault::TooMany => {
                "too many handshakes at one time or in a second; see [limits]"
            }
        }
    }
}

impl fmt::Display for HandshakeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// A failed handshake: the fault, and the library's words for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault} ({detail})")]
pub struct HandshakeError {
    /// The fault.
    pub fault: HandshakeFault,
    /// More for people.
    pub detail: String,
}

impl HandshakeError {
    /// Its name and its words: one text that can be searched for either.
    pub fn named(&self) -> String {
        format!("{}: {self}", self.fault.name())
    }

    /// What the proxy calls this.
    pub const fn refusal(&self) -> Refusal {
        match self.fault {
            HandshakeFault::Revoked => Refusal::Revoked,
            HandshakeFault::RevocationUnknown => Refusal::RevocationUnknown,
            HandshakeFault::WrongUsage => Refusal::WrongUsage,
            fault if fault.is_certificate() => Refusal::NoCertificate,
            _ => Refusal::TlsFailed,
        }
    }

    /// A handshake too many.
    pub(crate) fn too_many() -> Self {
        Self { fault: HandshakeFault::TooMany, detail: "not begun".to_owned() }
    }

    /// A handshake that took long, and others came.
    pub(crate) fn gave_way() -> Self {
        let detail = "it took long, and others waited".to_owned();
        Self { fault: HandshakeFault::TooMany, detail }
    }

    /// A handshake that took too long.
    pub(crate) fn timeout() -> Self {
        Self { fault: HandshakeFault::Timeout, detail: "timed out".to_owned() }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let fault = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(tls) => fault_of(tls),
            None => match error.kind() {
                io::ErrorKind::TimedOut => HandshakeFault::Timeout,
                _ => HandshakeFault::Closed,
            },
        };
        Self { fault, detail: error.to_string() }
    }
}

fn fault_of(error: &Error) -> HandshakeFault {
    match error {
        Error::NoCertificatesPresented => HandshakeFault::NoCertificate,
        Error::InvalidCertificate(certificate) => certificate_fault(certificate),
        Error::PeerIncompatible(incompatible) => match incompatible {
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired => {
                HandshakeFault::NoCommonVersion
            }
            _ => HandshakeFault::NoCommonCipherSuite,
        },
        // It chose what was not offered: it has nothing else.
        Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedCipherSuite) => {
            HandshakeFault::NoCommonCipherSuite
        }
        Error::AlertReceived(alert) => match alert {
            AlertDescription::ProtocolVersion => HandshakeFault::NoCommonVersion,
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
                HandshakeFault::NoCommonCipherSuite
            }
            AlertDescription::CloseNotify | AlertDescription::UserCanceled => {
                HandshakeFault::Closed
            }
            _ => HandshakeFault::RefusedByPeer,
        },
        Error::InvalidMessage(_) => HandshakeFault::NotTls,
        _ => HandshakeFault::Protocol,
    }
}

fn certificate_fault(error: &CertificateError) -> HandshakeFault {
    match error {
        CertificateError::UnknownIssuer => HandshakeFault::UnknownAuthority,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            HandshakeFault::Expired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            HandshakeFault::NotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            HandshakeFault::WrongName
        }
        CertificateError::Revoked => HandshakeFault::Revoked,
        CertificateError::UnknownRevocationStatus => HandshakeFault::RevocationUnknown,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            HandshakeFault::WrongUsage
        }
        CertificateError::Other(other)
            if other.0.downcast_ref::<super::verify::PeerCertificateFault>().is_some() =>
        {
            HandshakeFault::WrongUsage
        }
        _ => HandshakeFault::BadCertificate,
    }
}
