//! What a peer's certificate says: names, usages, key, serial, and where its revocation lists are.
//!
//! Reads only; checks no signature and proves nothing (see `identity`). What it reads was
//! validated before, or let in by a pin.

use ring::digest::SHA256;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{DistributionPointName, GeneralName, ParsedExtension},
    prelude::FromDer as _,
};

use crate::domain::Domain;

/// Names of one certificate that are kept. A certificate with more is honest at best by mistake.
const MAX_NAMES: usize = 256;

/// Places of revocation lists that are kept, and how long one may be.
const MAX_CRL_POINTS: usize = 4;
const MAX_CRL_POINT: usize = 512;

/// `id-kp-sipDomain` (RFC 5924 section 4), in DER without tag and length.
const SIP_DOMAIN: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 20];

/// Bytes of each part of the description that are kept.
const MAX_DESCRIPTION: usize = 256;

/// Names in a validated end-entity certificate's subject alternative names. Wildcards, user
/// parts and anything that is no [`Domain`] are left out: they prove nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CertificateNames {
    /// Host parts of `sip:` URI names without a user part.
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

impl CertificateNames {
    /// Reads the names of a certificate that was validated.
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Self, NamesError> {
        let certificate = EndEntityCert::try_from(der).map_err(|_| NamesError::Unreadable)?;
        let mut names = read(der)?;
        for uri in certificate.valid_uri_names().take(MAX_NAMES) {
            if let Some(domain) = sip_identity(uri)
                && !names.sip_uris.contains(&domain)
            {
                names.sip_uris.push(domain);
            }
        }
        for name in certificate.valid_dns_names().take(MAX_NAMES) {
            // `a.example.` is no name of a certificate (RFC 5280 section 4.2.1.6).
            let (list, host) = match name.strip_prefix("*.") {
                Some(parent) => (&mut names.wildcards, parent),
                None => (&mut names.dns, name),
            };
            if let Ok(domain) = host.parse::<Domain>()
                && !host.ends_with('.')
                && !list.contains(&domain)
            {
                list.push(domain);
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

/// The host of a `sip:` URI that names a domain and not a user. No other scheme counts, `sips:` included
/// (RFC 5922 section 7.1).
fn sip_identity(uri: &str) -> Option<Domain> {
    let (scheme, rest) = uri.split_once(':')?;
    if !scheme.eq_ignore_ascii_case("sip") {
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

/// Everything but the names.
fn read(der: &CertificateDer<'_>) -> Result<CertificateNames, NamesError> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Err(NamesError::Unreadable);
    };
    let mut names = CertificateNames {
        // Control characters cannot reach the log.
        description: format!(
            "subject \"{}\", issuer \"{}\", serial {}",
            printable(&certificate.subject().to_string()),
            printable(&certificate.issuer().to_string()),
            printable(&certificate.raw_serial_as_string()),
        ),
        expires_at: u64::try_from(certificate.validity().not_after.timestamp()).ok(),
        spki: Some(sha256(&[certificate.public_key().raw])),
        serial_key: Some(serial_key(certificate.issuer().as_raw(), certificate.raw_serial())),
        ..CertificateNames::default()
    };
    let mut named = false;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let mut add = |there: bool, bit: Usages| {
                    names.usages.0 |= if there { bit.0 } else { 0 };
                };
                add(usage.server_auth, Usages::SERVER);
                add(usage.client_auth, Usages::CLIENT);
                let sip_domain =
                    |oid: &x509_parser::der_parser::Oid<'_>| oid.as_bytes() == SIP_DOMAIN;
                add(usage.other.iter().any(sip_domain), Usages::SIP_DOMAIN);
                let others = usage.other.iter().any(|oid| !sip_domain(oid));
                let known = usage.any
                    || usage.code_signing
                    || usage.email_protection
                    || usage.time_stamping
                    || usage.ocsp_signing;
                add(known || others, Usages::OTHER);
            }
            ParsedExtension::SubjectAlternativeName(list) => {
                let counts = |name: &GeneralName<'_>| {
                    matches!(name, GeneralName::DNSName(_) | GeneralName::URI(_))
                };
                named |= list.general_names.iter().any(counts);
            }
            ParsedExtension::CRLDistributionPoints(points) => {
                names.crl_points =
                    points.iter().flat_map(point_urls).take(MAX_CRL_POINTS).collect();
            }
            // What is there and cannot be read is there all the same.
            ParsedExtension::ParseError { .. } | ParsedExtension::UnsupportedExtension { .. } => {
                named |= extension.oid == x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
                if extension.oid == x509_parser::oid_registry::OID_X509_EXT_EXTENDED_KEY_USAGE {
                    names.usages.0 |= Usages::OTHER.0;
                }
            }
            _ => {}
        }
    }
    if !named {
        names.common_name = common_name(&certificate);
    }
    Ok(names)
}

/// The one common name, when it is a domain name.
fn common_name(certificate: &X509Certificate<'_>) -> Option<Domain> {
    let mut all = certificate.subject().iter_common_name();
    let text = all.next()?.as_str().ok()?;
    if all.next().is_some() || text.ends_with('.') { None } else { text.parse().ok() }
}

/// The `http` URLs of a whole list: one for some reasons only, or another issuer's, is not for us.
fn point_urls(
    point: &x509_parser::extensions::CRLDistributionPoint<'_>,
) -> impl Iterator<Item = Box<str>> {
    let whole = point.reasons.is_none() && point.crl_issuer.is_none();
    let names = match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) if whole => names.as_slice(),
        _ => &[],
    };
    let urls: Vec<Box<str>> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(url)
                if url.len() <= MAX_CRL_POINT
                    && url.get(..7).is_some_and(|s| s.eq_ignore_ascii_case("http://"))
                    && url.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Some(Box::from(*url))
            }
            _ => None,
        })
        .collect();
    urls.into_iter()
}

/// One certificate's number, the same in a certificate and in its issuer's revocation list.
pub(crate) fn serial_key(issuer: &[u8], serial: &[u8]) -> [u8; 32] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    sha256(&[issuer, serial.get(zeros..).unwrap_or_default()])
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_DESCRIPTION)
        .map(|c| if c == '"' || !crate::plain::is_plain(c) { '?' } else { c })
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

    #[test]
    fn a_uri_names_a_domain_only_without_a_user() {
        for (text, expected) in [
            ("sip:fabrikam.com", Some("fabrikam.com")),
            ("SIP:Fabrikam.COM", Some("fabrikam.com")),
            ("sips:fabrikam.com", None),
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

    #[test]
    fn places_of_lists_are_kept_when_they_can_be_used() {
        use rcgen::CrlDistributionPoint;
        let mut params = CertificateParams::default();
        let point = |urls: &[&str]| CrlDistributionPoint {
            uris: urls.iter().map(|url| (*url).to_owned()).collect(),
        };
        let long = format!("http://a.example/{}", "x".repeat(600));
        params.crl_distribution_points = vec![
            point(&["ldap://a.example/x", "HTTP://a.example/1.crl", "https://a.example/2.crl"]),
            point(&[&long, "http://a.example/a b", "http://b.example:8080/3"]),
            point(&["http://c.example/4", "http://d.example/5", "http://e.example/6"]),
        ];
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let names = CertificateNames::from_der(certificate.der()).unwrap();
        let got: Vec<&str> = names.crl_points.iter().map(|url| &**url).collect();
        let expected = [
            "HTTP://a.example/1.crl",
            "http://b.example:8080/3",
            "http://c.example/4",
            "http://d.example/5",
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn a_serial_is_one_number_however_it_is_padded() {
        assert_eq!(serial_key(b"a", &[0, 0x80]), serial_key(b"a", &[0x80]));
        assert_ne!(serial_key(b"a", &[0x80]), serial_key(b"b", &[0x80]));
        assert_ne!(serial_key(b"a", &[1]), serial_key(b"a", &[2]));
    }
}
