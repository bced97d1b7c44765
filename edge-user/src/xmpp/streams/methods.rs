//! What a partner's entry lets two ends agree on, and the oracle that foretells what they do.

use std::collections::HashMap;

use crate::{
    domain::Domain,
    xmpp::settings::{Negotiation, XmppPartner},
};

/// Ways to prove a pair that an entry allows (Lync's negotiation settings for XMPP partners).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Methods {
    /// SASL EXTERNAL over TLS (XEP-0178).
    pub external: bool,
    /// Dialback over TLS (XEP-0220).
    pub dialback_over_tls: bool,
    /// Dialback over TCP.
    pub dialback_in_plain: bool,
}

impl Methods {
    /// Those of these settings.
    pub fn new(tls: Negotiation, sasl: Negotiation, dialback: bool) -> Self {
        let secure = tls != Negotiation::NotSupported;
        let both = tls == Negotiation::Required && sasl == Negotiation::Required;
        Self {
            external: secure && sasl != Negotiation::NotSupported,
            dialback_over_tls: dialback && secure && !both,
            dialback_in_plain: dialback && tls != Negotiation::Required,
        }
    }

    /// Those of an entry.
    pub fn of(partner: &XmppPartner) -> Self {
        Self::new(partner.tls, partner.sasl, partner.dialback)
    }

    /// There is none: the entry is a configuration error.
    pub fn is_empty(self) -> bool {
        !(self.external || self.dialback_over_tls || self.dialback_in_plain)
    }

    /// Dialback on a stream with or without TLS.
    pub fn dialback(self, over_tls: bool) -> bool {
        if over_tls { self.dialback_over_tls } else { self.dialback_in_plain }
    }
}

/// What an end's certificate is worth to the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certificate {
    /// It has none: it cannot be the server of TLS, and proves nothing as the client.
    Missing,
    /// It is expired, revoked, of an unknown authority, or names another domain.
    Invalid,
    /// It is valid and names the end's domain.
    Valid,
}

/// One end's settings for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// TLS.
    pub tls: Negotiation,
    /// Its own certificate, as the other end sees it.
    pub certificate: Certificate,
    /// SASL EXTERNAL.
    pub sasl: Negotiation,
    /// Dialback.
    pub dialback: bool,
}

/// What other ends see of our certificates, by domain of ours. One that is not named has a good one.
pub type OwnCertificates = HashMap<Domain, Certificate>;

/// What becomes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// No stanza passes.
    NoConnection,
    /// Dialback, nothing encrypted.
    PlainDialback,
    /// Dialback within TLS.
    TlsDialback,
    /// Certificates, both ends'.
    TlsExternal,
}

/// What happens when `local` opens a stream to `remote` to send a stanza, and why. It knows nothing
/// of how the streams are built: the tests play every row and compare, and `edge explain domain`
/// says its words.
pub fn expected(local: Settings, remote: Settings) -> (Outcome, &'static str) {
    use Outcome::{NoConnection, PlainDialback, TlsDialback, TlsExternal};
    if invalid(local) || invalid(remote) {
        return (NoConnection, "an entry allows neither dialback nor SASL over TLS");
    }
    let both_dialback = local.dialback && remote.dialback;
    match tls_between(local, remote) {
        Err(why) => (NoConnection, why),
        Ok(false) => {
            if !both_dialback {
                (NoConnection, "without TLS only dialback is left, and one end does without it")
            } else {
                match tls_between(remote, local) {
                    Err(_) => (
                        NoConnection,
                        "dialback asks back over a connection of its own, for which TLS fails",
                    ),
                    Ok(_) => (PlainDialback, "one end has no TLS, and both allow dialback"),
                }
            }
        }
        Ok(true) => {
            let sasl = |end: Settings| end.sasl != Negotiation::NotSupported;
            let good = |end: Settings| end.certificate == Certificate::Valid;
            if sasl(local) && sasl(remote) && good(local) && good(remote) {
                return (TlsExternal, "both certificates are valid and name their domains");
            }
            let certificates_only = |end: Settings| {
                end.tls == Negotiation::Required && end.sasl == Negotiation::Required
            };
            if !both_dialback || certificates_only(local) || certificates_only(remote) {
                return (NoConnection, certificate_words(local, remote));
            }
            match tls_between(remote, local) {
                Err(_) => (
                    NoConnection,
                    "dialback asks back over a connection of its own, for which TLS fails",
                ),
                Ok(_) => (TlsDialback, "certificates do not do for both ends, dialback does"),
            }
        }
    }
}

/// Whether the entry allows nothing.
fn invalid(end: Settings) -> bool {
    let no_sasl = end.tls == Negotiation::NotSupported || end.sasl == Negotiation::NotSupported;
    no_sasl && !end.dialback
}

/// Whether `from` and `to` speak TLS when `from` connects, or why they cannot speak at all.
fn tls_between(from: Settings, to: Settings) -> Result<bool, &'static str> {
    let accepts = to.tls != Negotiation::NotSupported && to.certificate != Certificate::Missing;
    match (from.tls, to.tls) {
        (Negotiation::Required, _) if !accepts => {
            Err("the end that connects demands TLS, and the other does not offer it")
        }
        (Negotiation::NotSupported, Negotiation::Required) => {
            Err("the end that accepts demands TLS, and the other does not do it")
        }
        (_, Negotiation::Required) if !accepts => {
            Err("the end that accepts demands TLS and has no certificate for it")
        }
        (from, _) => Ok(accepts && from != Negotiation::NotSupported),
    }
}

fn certificate_words(local: Settings, remote: Settings) -> &'static str {
    let sasl = |end: Settings| end.sasl != Negotiation::NotSupported;
    match (local.certificate, remote.certificate) {
        _ if !sasl(local) => "the end that connects does without SASL, and dialback is not allowed",
        _ if !sasl(remote) => "the end that accepts does without SASL, and dialback is not allowed",
        (Certificate::Missing, _) => "the end that connects shows no certificate",
        (Certificate::Invalid, _) => "the certificate of the end that connects proves nothing",
        (_, _) => "the certificate of the end that accepts proves nothing",
    }
}
