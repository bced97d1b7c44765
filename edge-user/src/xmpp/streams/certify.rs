//! Whether a certificate proves an XMPP domain.
//!
//! Names that count (RFC 6120 section 13.7.1.2, XEP-0178): DNS; SRV names `_xmpp-server`;
//! `id-on-xmppAddr`; where the partner's entry says so a wildcard in place of the left-most label; and
//! the host that the entry pins, exactly. Never a common name, never a suffix.

use crate::{
    domain::Domain,
    xmpp::io::{PeerCertificate, TlsPeer},
};

/// A certificate was valid, in date, and names this domain. Made here alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certified {
    domain: Domain,
}

impl Certified {
    /// The domain that it names.
    pub(super) fn domain(&self) -> &Domain {
        &self.domain
    }
}

/// What an entry takes beside the name of the domain itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Also<'a> {
    /// The host that it pins.
    pub(super) pinned: Option<&'a Domain>,
    /// A wildcard.
    pub(super) wildcard: bool,
}

/// What the other end's certificate proves of `domain`; else what is wrong with it, with its subject.
/// `unix_seconds`: the time.
pub(super) fn certify(
    tls: Option<&TlsPeer>,
    domain: &Domain,
    also: Also<'_>,
    unix_seconds: u64,
) -> Result<Certified, String> {
    let names = match tls.map(|tls| &tls.certificate) {
        None => return Err("there is no TLS".to_owned()),
        Some(PeerCertificate::Missing) => {
            return Err(format!(
                "it showed no certificate; to mend: one that names {domain} is needed"
            ));
        }
        Some(PeerCertificate::Invalid { description, fault }) => {
            return Err(format!(
                "its certificate ({description}) is not valid: {fault}; to mend: one of a trusted authority \
                 that names {domain} is needed"
            ));
        }
        Some(PeerCertificate::Valid(names)) => names,
    };
    let certificate = &names.certificate;
    if names.ends_at().is_some_and(|end| end <= unix_seconds) {
        return Err(format!(
            "its certificate ({}) or an authority that it hangs on has expired; to mend: it needs a new one",
            certificate.description
        ));
    }
    if certificate.unchained {
        return Err(format!(
            "its certificate ({}) is of no authority that is trusted here; to mend: one that is, and names \
             {domain}, is needed",
            certificate.description
        ));
    }
    let pinned = also.pinned.is_some_and(|host| certificate.dns.contains(host));
    if pinned || names.proves(domain, also.wildcard) {
        return Ok(Certified { domain: domain.clone() });
    }
    Err(format!(
        "its certificate ({}) does not name {domain}; to mend: a DNS name or an SRV name \
         _xmpp-server.{domain} is needed",
        certificate.description
    ))
}

/// The certificate's subject, for people.
pub(super) fn subject(tls: Option<&TlsPeer>) -> Option<&str> {
    match &tls?.certificate {
        PeerCertificate::Missing => None,
        PeerCertificate::Valid(names) => Some(&names.certificate.description),
        PeerCertificate::Invalid { description, .. } => Some(description),
    }
}
