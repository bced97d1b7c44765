//! Whose certificate is accepted: one rule for both directions.
//!
//! - The chain leads to the trust store of that side, by the rules of webpki (RFC 5280), now.
//! - Extended key usage: absent, or one of `serverAuth`, `clientAuth`, `id-kp-sipDomain`
//!   (RFC 5924). A certificate with any of them is accepted in both directions: an edge is client
//!   and server with one certificate, and public authorities no longer issue `clientAuth`.
//! - A client must present a certificate, and no list of authorities is sent to it: such a list
//!   may outgrow a TLS record, and some peers send nothing when theirs is not in it.
//! - A server's certificate holds exactly the host that was looked up: no wildcard, no common
//!   name (RFC 5922 section 7.2).
//!
//! What a certificate proves about a SIP domain is judged later, for each request.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext,
};

use crate::{domain::Domain, federation::CertificateNames};

/// `id-kp-serverAuth`, `id-kp-clientAuth` (RFC 5280 section 4.2.1.12), `id-kp-sipDomain`
/// (RFC 5924 section 4).
const USAGES: [&[usize]; 3] =
    [&[1, 3, 6, 1, 5, 5, 7, 3, 1], &[1, 3, 6, 1, 5, 5, 7, 3, 2], &[1, 3, 6, 1, 5, 5, 7, 3, 20]];

/// Verifies peers of one side, as client and as server.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    anchors: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
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
    ) -> Arc<Self> {
        Arc::new(Self { anchors, algorithms })
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(certificate_error)?;
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                intermediates,
                now,
                AnyOfUsages,
                None,
                None,
            )
            .map_err(certificate_error)?;
        Ok(())
    }
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

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
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
                CertificateNames::from_der(end_entity).is_ok_and(|names| names.holds(&host))
            }),
            // A next hop given by address: an IP address name.
            ServerName::IpAddress(_) => EndEntityCert::try_from(end_entity)
                .is_ok_and(|c| c.verify_is_valid_for_subject_name(server_name).is_ok()),
            _ => false,
        };
        if holds { Ok(ServerCertVerified::assertion()) } else { Err(bad_name) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
