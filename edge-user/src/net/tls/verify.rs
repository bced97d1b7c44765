//! Whose certificate is accepted: one rule for both directions.
//!
//! - The chain leads to the trust store of that side, by the rules of webpki (RFC 5280), now.
//! - Extended key usage: absent, or one of `serverAuth`, `clientAuth`, `id-kp-sipDomain`
//!   (RFC 5924). A certificate with any of them is accepted in both directions: an edge is client
//!   and server with one certificate, and public authorities no longer issue `clientAuth`.
//! - A client must present a certificate, and no list of authorities is sent to it: such a list
//!   may outgrow a TLS record, and some peers send nothing when theirs is not in it.
//! - A server's certificate holds exactly the host that was looked up: no wildcard, no common
//!   name (RFC 5922 section 7.2), unless some partner's entry takes them.
//! - Revocation lists are asked about the end entity. Soft: only what a list names is refused.
//!   Hard: only what a current list of its issuer does not name is accepted. An authority between it
//!   and the trust store is refused, soft and hard, when a list of its own issuer names it.
//! - A key that a partner's entry pins needs no authority, and is marked: it proves nothing but by
//!   that pin. What is revoked, or not in its time, is refused all the same.
//!
//! What a certificate proves about a SIP domain is judged later, for each request.

use std::sync::Arc;

use rustls::{
    CertificateError, DistinguishedName, Error, OtherError,
    client::danger::{ServerCertVerified, ServerCertVerifier},
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator,
    KeyPurposeIdIter, KeyUsage, RequiredEkuNotFoundContext, RevocationCheckDepth,
    RevocationOptions, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};
use x509_parser::prelude::FromDer as _;

use super::{
    lists::{ListFault, RevocationList},
    rules::PeerRules,
};
use crate::{domain::Domain, federation::CertificateNames};

/// The part of a verifier that says whether a handshake was signed by the certificate's key.
macro_rules! signatures {
    ($self:ident, $algorithms:expr) => {
        fn verify_tls12_signature(
            &$self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(message, certificate, signed, &$algorithms)
        }

        fn verify_tls13_signature(
            &$self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, certificate, signed, &$algorithms)
        }

        fn supported_verify_schemes(&$self) -> Vec<rustls::SignatureScheme> {
            $algorithms.supported_schemes()
        }
    };
}
pub(super) use signatures;

/// `id-kp-serverAuth`, `id-kp-clientAuth` (RFC 5280 section 4.2.1.12), `id-kp-sipDomain`
/// (RFC 5924 section 4).
const USAGES: [&[usize]; 3] =
    [&[1, 3, 6, 1, 5, 5, 7, 3, 1], &[1, 3, 6, 1, 5, 5, 7, 3, 2], &[1, 3, 6, 1, 5, 5, 7, 3, 20]];

/// Verifies peers of one side, as client and as server.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    anchors: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Of partners only.
    rules: Option<Arc<PeerRules>>,
}

/// What a peer's certificate lacks, where rustls has no variant for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PeerCertificateFault {
    #[error(
        "its extended key usage holds none of serverAuth, clientAuth and id-kp-sipDomain; the \
         peer needs a certificate with one of them"
    )]
    Usage,
}

impl PeerVerifier {
    pub(super) fn new(
        anchors: Vec<TrustAnchor<'static>>,
        algorithms: WebPkiSupportedAlgorithms,
        rules: Option<Arc<PeerRules>>,
    ) -> Arc<Self> {
        Arc::new(Self { anchors, algorithms, rules })
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(certificate_error)?;
        self.path(&certificate, end_entity, intermediates, now).map(drop)
    }

    /// Judges a chain as a handshake does. Of a good one: when the first of the authorities between
    /// the certificate and the trust store ends, in seconds since 1970.
    pub(super) fn authorities_end(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Option<u64>, Error> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(certificate_error)?;
        let path = self.path(&certificate, end_entity, intermediates, now)?;
        let ends = |authority: &CertificateDer<'_>| {
            CertificateNames::from_der(authority).ok().and_then(|names| names.expires_at)
        };
        Ok(path.and_then(|path| {
            let authorities = path.intermediate_certificates();
            authorities.filter_map(|authority| ends(&authority.der())).min()
        }))
    }

    /// The path to the trust store; none for a key that a partner's entry pins.
    fn path<'p>(
        &'p self,
        certificate: &'p EndEntityCert<'p>,
        end_entity: &CertificateDer<'_>,
        intermediates: &'p [CertificateDer<'p>],
        now: UnixTime,
    ) -> Result<Option<VerifiedPath<'p>>, Error> {
        let Some(rules) = &self.rules else {
            let path = self.chain(certificate, intermediates, now, None);
            return path.map(Some).map_err(certificate_error);
        };
        match self.judge(rules, certificate, end_entity, intermediates, now) {
            Ok(path) => {
                rules.note_chained(end_entity);
                Ok(Some(path))
            }
            Err(error) => {
                let pinned = error != webpki::Error::CertRevoked
                    && is_pinned(rules, certificate, end_entity, now)
                    && rules.note_unchained(end_entity);
                if pinned { Ok(None) } else { Err(certificate_error(error)) }
            }
        }
    }

    /// The chain, and what the lists in force say of its end.
    fn judge<'p>(
        &'p self,
        rules: &PeerRules,
        certificate: &'p EndEntityCert<'p>,
        end_entity: &CertificateDer<'_>,
        intermediates: &'p [CertificateDer<'p>],
        now: UnixTime,
    ) -> Result<VerifiedPath<'p>, webpki::Error> {
        let revocation = rules.revocation();
        let (settings, lists) = &*revocation;
        let seconds = now.as_secs();
        let current = |list: &&Arc<RevocationList>| {
            i64::try_from(seconds).is_ok_and(|t| t < list.next_update)
        };
        // An old list names what is revoked all the same, but says nothing good of anybody.
        let old = lists.all().iter().filter(|list| !settings.hard && !current(list));
        let used: Vec<&CertRevocationList<'_>> =
            lists.all().iter().filter(current).chain(old).map(|list| &list.list).collect();
        let plain = || self.chain(certificate, intermediates, now, None);
        let unknown = webpki::Error::UnknownRevocationStatus;
        // The path, and what is to be said when all else is well. The chain's own fault comes first.
        let without = || {
            let path = plain()?;
            Ok((path, if settings.hard { Err(unknown.clone()) } else { Ok(()) }))
        };
        let (mut path, judged) = match RevocationOptionsBuilder::new(&used) {
            Err(_) => without()?,
            Ok(options) => {
                let status = match settings.hard {
                    true => UnknownStatusPolicy::Deny,
                    false => UnknownStatusPolicy::Allow,
                };
                let options = options
                    .with_depth(RevocationCheckDepth::EndEntity)
                    .with_status_policy(status)
                    .with_expiration_policy(ExpirationPolicy::Ignore)
                    .build();
                match self.chain(certificate, intermediates, now, Some(options)) {
                    Err(error) if is_about_lists(&error) => without()?,
                    path => (path?, Ok(())),
                }
            }
        };
        for list in lists.all().iter().filter(|list| is_of_an_authority(list, intermediates)) {
            match self.authorities(certificate, intermediates, now, list, ExpirationPolicy::Ignore)
            {
                Ok(other) => path = other,
                Err(error @ webpki::Error::CertRevoked) => return Err(error),
                // Not signed by its issuer: no list.
                Err(_) => {}
            }
        }
        if settings.points {
            want(rules, &path, end_entity, intermediates, now);
        }
        judged.map(|()| path)
    }

    /// The chain, and what one list says of any certificate in it.
    fn authorities<'p>(
        &'p self,
        certificate: &'p EndEntityCert<'p>,
        intermediates: &'p [CertificateDer<'p>],
        now: UnixTime,
        list: &RevocationList,
        expiration: ExpirationPolicy,
    ) -> Result<VerifiedPath<'p>, webpki::Error> {
        let used = [&list.list];
        let options = RevocationOptionsBuilder::new(&used)
            .map_err(|_| webpki::Error::BadDer)?
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(expiration)
            .build();
        self.chain(certificate, intermediates, now, Some(options))
    }

    fn chain<'p>(
        &'p self,
        certificate: &'p EndEntityCert<'p>,
        intermediates: &'p [CertificateDer<'p>],
        now: UnixTime,
        revocation: Option<RevocationOptions<'_>>,
    ) -> Result<VerifiedPath<'p>, webpki::Error> {
        certificate.verify_for_usage(
            self.algorithms.all,
            &self.anchors,
            intermediates,
            now,
            AnyOfUsages,
            revocation,
            None,
        )
    }

    /// Whether a list that was fetched is in its time, of an issuer in this chain, and signed by it.
    pub(super) fn check_list(
        &self,
        chain: &[CertificateDer<'_>],
        list: &RevocationList,
        now: UnixTime,
    ) -> Result<(), ListFault> {
        let refused = |error: webpki::Error| ListFault::NotTheIssuers(error.to_string());
        let Some((end_entity, intermediates)) = chain.split_first() else {
            return Err(refused(webpki::Error::BadDer));
        };
        let certificate = EndEntityCert::try_from(end_entity).map_err(refused)?;
        let used = [&list.list];
        let options = RevocationOptionsBuilder::new(&used)
            .map_err(|_| refused(webpki::Error::BadDer))?
            .with_depth(RevocationCheckDepth::EndEntity)
            .with_status_policy(UnknownStatusPolicy::Deny)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build();
        match self.chain(&certificate, intermediates, now, Some(options)) {
            Ok(_) | Err(webpki::Error::CertRevoked) => Ok(()),
            Err(webpki::Error::CrlExpired { .. }) => Err(ListFault::Outdated),
            Err(webpki::Error::UnknownRevocationStatus)
                if is_of_an_authority(list, intermediates) =>
            {
                let expiration = ExpirationPolicy::Enforce;
                match self.authorities(&certificate, intermediates, now, list, expiration) {
                    Ok(_) | Err(webpki::Error::CertRevoked) => Ok(()),
                    Err(webpki::Error::CrlExpired { .. }) => Err(ListFault::Outdated),
                    Err(error) => Err(refused(error)),
                }
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// Whether the certificate of a server that we dialled names its host.
    fn names_host(&self, names: &CertificateNames, host: &Domain) -> bool {
        names.holds(host)
            || self.rules.as_ref().is_some_and(|rules| {
                let exceptions = rules.exceptions();
                let parent = host.as_str().split_once('.').map(|(_, parent)| parent);
                let wildcard = || names.wildcards.iter().any(|name| Some(name.as_str()) == parent);
                (exceptions.wildcard && wildcard())
                    || (exceptions.common_name && names.common_name.as_ref() == Some(host))
            })
    }
}

/// Asks for the lists that the certificates of a good path name: not for those of whatever else was
/// sent.
fn want(
    rules: &PeerRules,
    path: &VerifiedPath<'_>,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) {
    let ask = |certificate: &CertificateDer<'_>| {
        if let Ok(names) = CertificateNames::from_der(certificate) {
            rules.want(&names, end_entity, intermediates, now.as_secs());
        }
    };
    ask(end_entity);
    path.intermediate_certificates().for_each(|authority| ask(&authority.der()));
}

/// Whether an entry pins this key, and the certificate is in its time.
fn is_pinned(
    rules: &PeerRules,
    certificate: &EndEntityCert<'_>,
    der: &CertificateDer<'_>,
    now: UnixTime,
) -> bool {
    let exceptions = rules.exceptions();
    if exceptions.pins.is_empty() {
        return false;
    }
    let key = ring::digest::digest(&ring::digest::SHA256, &certificate.subject_public_key_info());
    let in_time = || {
        let Ok((_, parsed)) = x509_parser::certificate::X509Certificate::from_der(der) else {
            return false;
        };
        let validity = parsed.validity();
        i64::try_from(now.as_secs()).is_ok_and(|now| {
            (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
        })
    };
    exceptions.pins.iter().any(|pin| pin == key.as_ref()) && in_time()
}

/// Whether a list is of the issuer of one of these authorities.
fn is_of_an_authority(list: &RevocationList, intermediates: &[CertificateDer<'_>]) -> bool {
    intermediates.iter().any(|der| {
        x509_parser::certificate::X509Certificate::from_der(der)
            .is_ok_and(|(_, authority)| authority.issuer().as_raw() == &*list.issuer)
    })
}

/// Whether this is a fault of a list and not of the certificate.
fn is_about_lists(error: &webpki::Error) -> bool {
    use webpki::Error as W;
    matches!(
        error,
        W::UnknownRevocationStatus
            | W::CrlExpired { .. }
            | W::InvalidCrlSignatureForPublicKey
            | W::IssuerNotCrlSigner
            | W::UnsupportedCrlSignatureAlgorithmContext(_)
            | W::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
    )
}

/// Accepts a certificate without extended key usage, or with one that an edge may have.
struct AnyOfUsages;

impl ExtendedKeyUsageValidator for AnyOfUsages {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut present = Vec::new();
        for usage in usages {
            let oid = usage?.to_decoded_oid();
            if USAGES.contains(&oid.as_slice()) {
                return Ok(());
            }
            present.push(oid);
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = KeyUsage::server_auth();
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext {
            required,
            present,
        }))
    }
}

/// webpki's fault as the one that rustls turns into the right alert.
fn certificate_error(error: webpki::Error) -> Error {
    use webpki::Error as W;
    Error::InvalidCertificate(match error {
        W::CertExpired { .. } => CertificateError::Expired,
        W::CertNotValidYet { .. } => CertificateError::NotValidYet,
        W::UnknownIssuer => CertificateError::UnknownIssuer,
        W::CertRevoked => CertificateError::Revoked,
        W::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        W::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        W::BadDer | W::BadDerTime | W::TrailingData(_) => CertificateError::BadEncoding,
        W::RequiredEkuNotFoundContext(_) => {
            CertificateError::Other(OtherError(Arc::new(PeerCertificateFault::Usage)))
        }
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify_chain(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!(self, self.algorithms);
}

/// The same for who shows a certificate; who shows none is let in, and proves nothing.
#[derive(Debug)]
pub(super) struct Optional(pub(super) Arc<PeerVerifier>);

impl ClientCertVerifier for Optional {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        ClientCertVerifier::root_hint_subjects(&*self.0)
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    signatures!(self, self.0.algorithms);
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_chain(end_entity, intermediates, now)?;
        let bad_name = Error::InvalidCertificate(CertificateError::NotValidForName);
        let holds = match server_name {
            ServerName::DnsName(name) => name.as_ref().parse::<Domain>().is_ok_and(|host| {
                CertificateNames::from_der(end_entity)
                    .is_ok_and(|names| self.names_host(&names, &host))
            }),
            // A next hop given by address: an IP address name.
            ServerName::IpAddress(_) => EndEntityCert::try_from(end_entity)
                .is_ok_and(|c| c.verify_is_valid_for_subject_name(server_name).is_ok()),
            _ => false,
        };
        if holds { Ok(ServerCertVerified::assertion()) } else { Err(bad_name) }
    }

    signatures!(self, self.algorithms);
}
