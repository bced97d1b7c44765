//! What a peer's certificate says, and what it proves (RFC 5922).

use crate::domain::Domain;

/// Names in a validated end-entity certificate's subject alternative names. Wildcards, user
/// parts and anything that is no [`Domain`] are left out: they prove nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CertificateNames {
    /// Host parts of `sip:` and `sips:` URI names without a user part.
    pub sip_uris: Vec<Domain>,
    /// DNS names.
    pub dns: Vec<Domain>,
    /// Evidence for the log: subject, issuer and serial as text.
    pub description: String,
}
