//! What a peer's certificate says, and what it proves (RFC 5922 section 7; the trust rules,
//! section 2).
//!
//! Names are compared whole: never by suffix, wildcard, common name or address. This module sees
//! only certificates whose chain was validated before; it checks no signature itself.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::partner::Partner;
use crate::{domain::Domain, proxy::Refusal};

/// Names of one certificate that are kept. A certificate with more is honest at best by mistake.
const MAX_NAMES: usize = 256;

/// Bytes of each part of the description that are kept.
const MAX_DESCRIPTION: usize = 256;

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
    /// When the certificate expires, in seconds since 1970: it proves nothing from then on, on
    /// live connections too.
    pub expires_at: Option<u64>,
    /// Extended key usages.
    pub usages: Usages,
    /// SHA-256 of its public key (SubjectPublicKeyInfo).
    pub spki: Option<[u8; 32]>,
    /// Its chain leads to no authority of ours: it was let in by a pin alone, and proves nothing
    /// without one.
    pub unchained: bool,
    /// The domains of its wildcard names: `a.example` for `*.a.example`.
    pub wildcards: Vec<Domain>,
    /// Its common name, when it has no subject alternative names.
    pub common_name: Option<Domain>,
    /// SHA-256 of issuer and serial, for revocation.
    pub serial_key: Option<[u8; 32]>,
    /// Where its revocation lists are.
    pub crl_points: Vec<Box<str>>,
}

/// A set of extended key usages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Usages(pub u8);

impl Usages {
    /// Server authentication.
    pub const SERVER: Usages = Usages(1);
    /// Client authentication.
    pub const CLIENT: Usages = Usages(2);
    /// `id-kp-sipDomain` (RFC 5924).
    pub const SIP_DOMAIN: Usages = Usages(4);
    /// Another one.
    pub const OTHER: Usages = Usages(8);

    /// Whether all of these are in it.
    pub const fn has(self, wanted: Usages) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// No usage is named.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Why a certificate's names cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamesError {
    /// Not a certificate.
    #[error("the certificate cannot be read; the peer must send an X.509 version 3 certificate")]
    Unreadable,
}

/// How a certificate proves a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A name is the domain itself.
    Domain,
    /// A name is the host that the partner's entry pins.
    PinnedHost,
    /// A name is a host of the domain's federation SRV record.
    SrvTarget,
}

impl CertificateNames {
    /// Reads the names of a certificate that was validated.
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Self, NamesError> {
        let certificate = EndEntityCert::try_from(der).map_err(|_| NamesError::Unreadable)?;
        let (description, expires_at) = describe(der);
        let mut names = Self { description, expires_at, ..Self::default() };
        for uri in certificate.valid_uri_names().take(MAX_NAMES) {
            if let Some(domain) = sip_identity(uri)
                && !names.sip_uris.contains(&domain)
            {
                names.sip_uris.push(domain);
            }
        }
        for name in certificate.valid_dns_names().take(MAX_NAMES) {
            // `a.example.` is no name of a certificate (RFC 5280 section 4.2.1.6).
            if let Ok(domain) = name.parse::<Domain>()
                && !name.ends_with('.')
                && !names.dns.contains(&domain)
            {
                names.dns.push(domain);
            }
        }
        Ok(names)
    }

    /// Whether a name is exactly this host.
    pub fn holds(&self, host: &Domain) -> bool {
        self.dns.contains(host) || self.sip_uris.contains(host)
    }

    /// Whether the certificate is one of this SIP domain itself: by its `sip:` URI names if it has
    /// any, else by its DNS names (RFC 5922 section 7.1).
    pub fn is_domain(&self, domain: &Domain) -> bool {
        let identities = if self.sip_uris.is_empty() { &self.dns } else { &self.sip_uris };
        identities.contains(domain)
    }

    /// Every name once, URI names first.
    pub fn all(&self) -> impl Iterator<Item = &Domain> {
        self.sip_uris.iter().chain(self.dns.iter().filter(|name| !self.sip_uris.contains(name)))
    }
}

/// Whether a connection whose certificate holds these names may speak for `domain`.
///
/// `pinned` is the one host that the partner's entry names. `srv_targets` are the hosts that our
/// own lookup of the domain's federation SRV record returned; they count when they lie in the
/// domain, or when the entry relaxes that.
pub fn proves(
    names: &CertificateNames,
    domain: &Domain,
    pinned: Option<&Domain>,
    srv_targets: &[Domain],
    relax_srv_domain: bool,
) -> Option<Proof> {
    if names.is_domain(domain) {
        return Some(Proof::Domain);
    }
    if pinned.is_some_and(|host| names.holds(host)) {
        return Some(Proof::PinnedHost);
    }
    srv_targets
        .iter()
        .any(|host| (relax_srv_domain || host.is_within(domain)) && names.holds(host))
        .then_some(Proof::SrvTarget)
}

/// Whether a connection whose certificate holds these names may speak for a partner: pins and
/// usage as its entry demands, then the names.
pub fn proves_partner(
    names: &CertificateNames,
    partner: &Partner,
    srv_targets: &[Domain],
    _dialled_by_us: bool,
) -> Result<Proof, Refusal> {
    proves(names, partner.key(), partner.pinned(), srv_targets, partner.relax_srv_domain)
        .ok_or(Refusal::IdentityNotProved)
}

/// The host of a `sip:` or `sips:` URI that names a domain and not a user.
fn sip_identity(uri: &str) -> Option<Domain> {
    let (scheme, rest) = uri.split_once(':')?;
    if !scheme.eq_ignore_ascii_case("sip") && !scheme.eq_ignore_ascii_case("sips") {
        return None;
    }
    if rest.contains(['@', '?', '%', '/']) {
        return None;
    }
    let host_port = rest.split(';').next().unwrap_or(rest);
    let host = match host_port.split_once(':') {
        Some((host, port)) => {
            port.parse::<u16>().ok()?;
            host
        }
        None => host_port,
    };
    if host.ends_with('.') { None } else { host.parse().ok() }
}

/// Subject, issuer and serial for people, and when it expires. Control characters cannot reach the
/// log.
fn describe(der: &CertificateDer<'_>) -> (String, Option<u64>) {
    use x509_parser::prelude::FromDer;
    let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(der) else {
        return ("unreadable".to_owned(), None);
    };
    let expires_at = u64::try_from(certificate.validity().not_after.timestamp()).ok();
    let text = format!(
        "subject \"{}\", issuer \"{}\", serial {}",
        printable(&certificate.subject().to_string()),
        printable(&certificate.issuer().to_string()),
        printable(&certificate.raw_serial_as_string()),
    );
    (text, expires_at)
}

fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_DESCRIPTION)
        .map(|c| if c.is_control() || c == '"' { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, string::Ia5String};

    use super::*;

    fn domain(text: &str) -> Domain {
        text.parse().unwrap()
    }

    fn certificate(sans: &[SanType], common_name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = sans.to_vec();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(Ia5String::try_from(name).unwrap())
    }

    fn uri(name: &str) -> SanType {
        SanType::URI(Ia5String::try_from(name).unwrap())
    }

    fn names(sans: &[SanType]) -> CertificateNames {
        CertificateNames::from_der(&certificate(sans, "x")).unwrap()
    }

    #[test]
    fn a_uri_names_a_domain_only_without_a_user() {
        for (text, expected) in [
            ("sip:fabrikam.com", Some("fabrikam.com")),
            ("SIPS:Fabrikam.COM", Some("fabrikam.com")),
            ("sip:fabrikam.com:5061", Some("fabrikam.com")),
            ("sip:fabrikam.com;transport=tls", Some("fabrikam.com")),
            ("sip:alice@fabrikam.com", None),
            ("sip:fabrikam.com@evil.example", None),
            ("sip:fabrikam.com?x=y", None),
            ("sip:fabrikam.com:5061:1", None),
            ("sip:fabrikam.com:99999", None),
            ("sip:*.fabrikam.com", None),
            ("sip:fabrikam.com.", None),
            ("sip:[2001:db8::1]", None),
            ("sip:192.0.2.1", None),
            ("sip:", None),
            ("sip://fabrikam.com", None),
            ("xmpp:fabrikam.com", None),
            ("https://fabrikam.com", None),
            ("fabrikam.com", None),
        ] {
            assert_eq!(sip_identity(text), expected.map(domain), "{text}");
        }
    }

    #[test]
    fn names_come_from_the_alternative_names_only() {
        let got = CertificateNames::from_der(&certificate(
            &[
                dns("Sip.Fabrikam.com"),
                dns("*.fabrikam.com"),
                dns("localhost"),
                uri("sip:fabrikam.com"),
                uri("sip:alice@fabrikam.com"),
                SanType::IpAddress("192.0.2.1".parse().unwrap()),
                SanType::Rfc822Name(Ia5String::try_from("a@mail.example").unwrap()),
            ],
            "common.fabrikam.com",
        ))
        .unwrap();
        assert_eq!(got.dns, [domain("sip.fabrikam.com")]);
        assert_eq!(got.sip_uris, [domain("fabrikam.com")]);
        assert!(got.description.contains("common.fabrikam.com"), "{}", got.description);
    }

    #[test]
    fn a_description_cannot_forge_a_log_line() {
        let got =
            CertificateNames::from_der(&certificate(&[dns("a.example")], "x\"\r\nroot login"))
                .unwrap();
        assert!(!got.description.contains(['\r', '\n']), "{:?}", got.description);
    }

    #[test]
    fn garbage_is_no_certificate() {
        for bytes in [&b""[..], b"\x30", b"garbage", &[0x30, 0x82, 0xff, 0xff]] {
            assert_eq!(
                CertificateNames::from_der(&CertificateDer::from(bytes)),
                Err(NamesError::Unreadable)
            );
        }
    }

    /// The trust rules, section 2, row by row. The domain is always `fabrikam.com`.
    #[test]
    fn what_a_certificate_proves() {
        struct Row {
            why: &'static str,
            sans: Vec<SanType>,
            pinned: Option<&'static str>,
            srv: &'static [&'static str],
            relax: bool,
            expected: Option<Proof>,
        }
        let row = |why, sans: &[SanType], pinned, srv, relax, expected| Row {
            why,
            sans: sans.to_vec(),
            pinned,
            srv,
            relax,
            expected,
        };
        const SRV: &[&str] = &["sip.fabrikam.com"];
        const FOREIGN: &[&str] = &["edge.hoster.example"];
        let rows = [
            // (a) the domain itself
            row(
                "DNS name is the domain",
                &[dns("fabrikam.com")],
                None,
                &[],
                false,
                Some(Proof::Domain),
            ),
            row(
                "URI name is the domain",
                &[uri("sip:fabrikam.com")],
                None,
                &[],
                false,
                Some(Proof::Domain),
            ),
            row(
                "case does not matter",
                &[dns("FABRIKAM.com")],
                None,
                &[],
                false,
                Some(Proof::Domain),
            ),
            row(
                "one of many names",
                &[dns("a.example"), dns("fabrikam.com")],
                None,
                &[],
                false,
                Some(Proof::Domain),
            ),
            row(
                "URI names win over DNS names (RFC 5922)",
                &[uri("sip:other.example"), dns("fabrikam.com")],
                None,
                &[],
                false,
                None,
            ),
            row(
                "a user's URI is no domain",
                &[uri("sip:alice@fabrikam.com")],
                None,
                &[],
                false,
                None,
            ),
            row(
                "a user's URI does not hide the DNS name",
                &[uri("sip:alice@fabrikam.com"), dns("fabrikam.com")],
                None,
                &[],
                false,
                Some(Proof::Domain),
            ),
            // (b) the pinned host
            row(
                "pinned host, elsewhere",
                &[dns("edge.hoster.example")],
                Some("edge.hoster.example"),
                &[],
                false,
                Some(Proof::PinnedHost),
            ),
            row(
                "pinned host beside a URI name",
                &[uri("sip:other.example"), dns("edge.hoster.example")],
                Some("edge.hoster.example"),
                &[],
                false,
                Some(Proof::PinnedHost),
            ),
            row(
                "neighbour of the pinned host",
                &[dns("edge2.hoster.example")],
                Some("edge.hoster.example"),
                &[],
                false,
                None,
            ),
            row(
                "name below the pinned host",
                &[dns("x.edge.hoster.example")],
                Some("edge.hoster.example"),
                &[],
                false,
                None,
            ),
            // (c) an SRV target
            row(
                "host-only certificate",
                &[dns("sip.fabrikam.com")],
                None,
                SRV,
                false,
                Some(Proof::SrvTarget),
            ),
            row("host without an SRV record", &[dns("sip.fabrikam.com")], None, &[], false, None),
            row("another host of the domain", &[dns("www.fabrikam.com")], None, SRV, false, None),
            row(
                "the target as a prefix",
                &[dns("sip.fabrikam.com.evil.example")],
                None,
                SRV,
                false,
                None,
            ),
            row(
                "the domain as a prefix",
                &[dns("fabrikam.com.evil.example")],
                None,
                SRV,
                false,
                None,
            ),
            row("the domain as a suffix", &[dns("xfabrikam.com")], None, SRV, false, None),
            row("the target as a suffix", &[dns("xsip.fabrikam.com")], None, SRV, false, None),
            row("the domain above", &[dns("com.example")], None, SRV, false, None),
            row("foreign target", &[dns("edge.hoster.example")], None, FOREIGN, false, None),
            row(
                "foreign target, relaxed",
                &[dns("edge.hoster.example")],
                None,
                FOREIGN,
                true,
                Some(Proof::SrvTarget),
            ),
            row(
                "relaxed, but another host of the hoster",
                &[dns("www.hoster.example")],
                None,
                FOREIGN,
                true,
                None,
            ),
            row(
                "a target in a domain that only ends alike",
                &[dns("sip.xfabrikam.com")],
                None,
                &["sip.xfabrikam.com"],
                false,
                None,
            ),
            // what never counts
            row("wildcard", &[dns("*.fabrikam.com")], None, SRV, false, None),
            row(
                "wildcard, pinned",
                &[dns("*.hoster.example")],
                Some("edge.hoster.example"),
                &[],
                false,
                None,
            ),
            row(
                "address",
                &[SanType::IpAddress("192.0.2.1".parse().unwrap())],
                None,
                SRV,
                true,
                None,
            ),
            row("no alternative name", &[], Some("edge.hoster.example"), SRV, true, None),
        ];
        for row in rows {
            let names = names(&row.sans);
            let pinned = row.pinned.map(domain);
            let srv: Vec<_> = row.srv.iter().map(|host| domain(host)).collect();
            let got = proves(&names, &domain("fabrikam.com"), pinned.as_ref(), &srv, row.relax);
            assert_eq!(got, row.expected, "{}", row.why);
        }
    }

    #[test]
    fn a_common_name_proves_nothing() {
        for common_name in ["fabrikam.com", "sip.fabrikam.com", "edge.hoster.example"] {
            let names = CertificateNames::from_der(&certificate(&[], common_name)).unwrap();
            let srv = [domain("sip.fabrikam.com")];
            let pinned = domain("edge.hoster.example");
            assert_eq!(
                proves(&names, &domain("fabrikam.com"), Some(&pinned), &srv, true),
                None,
                "{common_name}"
            );
        }
    }
}
