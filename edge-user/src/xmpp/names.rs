//! Which XMPP domains a certificate names (RFC 6120 section 13.7.1.2, RFC 9525): DNS names with a
//! wildcard for their left-most label, SRV names (RFC 4985), and `id-on-xmppAddr`. Never a common
//! name.
//!
//! Reads only, and proves nothing: what it reads was validated before.

use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::io::XmppNames;
use crate::{
    domain::Domain,
    federation::{CertificateNames, NamesError},
};

/// Names of one kind that are kept.
const MAX_NAMES: usize = 256;

/// `id-on-xmppAddr` (RFC 6120 section 13.7.1.4), in DER without tag and length.
const XMPP_ADDR: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 8, 5];
/// `id-on-dnsSRV` (RFC 4985 section 2).
const DNS_SRV: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 8, 7];
/// The service of streams between servers, as SRV names have it.
const SERVICE: &str = "_xmpp-server.";

const UTF8_STRING: u8 = 0x0c;
const IA5_STRING: u8 = 0x16;
/// `[0] EXPLICIT`, which holds the value of an `otherName`.
const VALUE: u8 = 0xa0;

impl XmppNames {
    /// Reads the names of a certificate that was validated.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Self, NamesError> {
        let certificate = CertificateNames::from_der(der)?;
        let Ok((_, parsed)) = X509Certificate::from_der(der) else {
            return Err(NamesError::Unreadable);
        };
        let mut names = Self { certificate, ..Self::default() };
        let Ok(Some(extension)) = parsed.subject_alternative_name() else { return Ok(names) };
        for name in &extension.value.general_names {
            let GeneralName::OtherName(oid, value) = name else { continue };
            let (list, domain) = match oid.as_bytes() {
                DNS_SRV => (&mut names.srv, srv_domain(value)),
                XMPP_ADDR => (&mut names.addresses, address_domain(value)),
                _ => continue,
            };
            if let Some(domain) = domain
                && list.len() < MAX_NAMES
                && !list.contains(&domain)
            {
                list.push(domain);
            }
        }
        Ok(names)
    }

    /// Whether the certificate is one of this XMPP domain. `wildcard`: a wildcard in place of the
    /// left-most label counts, too.
    pub fn proves(&self, domain: &Domain, wildcard: bool) -> bool {
        let parent = domain.as_str().split_once('.').map(|(_, parent)| parent);
        let covers = |base: &Domain| wildcard && Some(base.as_str()) == parent;
        self.certificate.dns.contains(domain)
            || self.certificate.wildcards.iter().any(covers)
            || self.srv.contains(domain)
            || self.addresses.contains(domain)
    }
}

/// `_xmpp-server.DOMAIN`: the domain.
fn srv_domain(value: &[u8]) -> Option<Domain> {
    let text = text(value, IA5_STRING)?;
    let service = text.get(..SERVICE.len())?;
    if !service.eq_ignore_ascii_case(SERVICE) {
        return None;
    }
    domain(text.get(SERVICE.len()..)?)
}

/// A whole domain: an address with local part or resource names somebody in it.
fn address_domain(value: &[u8]) -> Option<Domain> {
    domain(text(value, UTF8_STRING)?)
}

fn domain(text: &str) -> Option<Domain> {
    if text.ends_with('.') { None } else { text.parse().ok() }
}

/// The text of this kind that is the whole value of an `otherName`.
fn text(value: &[u8], tag: u8) -> Option<&str> {
    let (inner, rest) = element(value, VALUE)?;
    let (text, more) = element(inner, tag)?;
    if rest.is_empty() && more.is_empty() { std::str::from_utf8(text).ok() } else { None }
}

/// A DER element's content, and what stands behind it. A name is never longer than 253 bytes, so
/// lengths of one byte, and of two, are enough.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    if *first != tag {
        return None;
    }
    match length {
        0..=0x7f => rest.split_at_checked(usize::from(*length)),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            rest.split_at_checked(usize::from(*length))
        }
        0x82 => {
            let ([high, low], rest) = rest.split_first_chunk::<2>()?;
            rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, KeyPair};

    use super::*;

    fn d(text: &str) -> Domain {
        text.parse().unwrap()
    }

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match u8::try_from(content.len()) {
            Ok(length) if length < 0x80 => out.push(length),
            Ok(length) => out.extend([0x81, length]),
            Err(_) => {
                out.push(0x82);
                out.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
            }
        }
        out.extend(content);
        out
    }

    fn other(oid: &[u8], tag: u8, text: &str) -> Vec<u8> {
        let mut content = der(6, oid);
        content.extend(der(VALUE, &der(tag, text.as_bytes())));
        der(0xa0, &content)
    }

    fn dns(name: &str) -> Vec<u8> {
        der(0x82, name.as_bytes())
    }

    fn names(alternatives: &[Vec<u8>]) -> XmppNames {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "common.example");
        let content = der(0x30, &alternatives.concat());
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
        params.custom_extensions = vec![extension];
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        XmppNames::from_der(certificate.der()).unwrap()
    }

    #[test]
    fn each_kind_of_name_proves_its_domain_and_no_other() {
        let got = names(&[
            dns("dns.example"),
            dns("*.wild.example"),
            other(DNS_SRV, IA5_STRING, "_XMPP-server.srv.example"),
            other(XMPP_ADDR, UTF8_STRING, "addr.example"),
            other(DNS_SRV, IA5_STRING, "_xmpp-client.client.example"),
            other(DNS_SRV, IA5_STRING, "_xmpp-server"),
            other(DNS_SRV, UTF8_STRING, "_xmpp-server.wrong-tag.example"),
            other(XMPP_ADDR, UTF8_STRING, "user@user.example"),
            other(XMPP_ADDR, UTF8_STRING, "res.example/r"),
            other(XMPP_ADDR, UTF8_STRING, "*.star.example"),
            other(XMPP_ADDR, UTF8_STRING, "dot.example."),
            other(&[0x2b, 6], UTF8_STRING, "oid.example"),
        ]);
        assert_eq!(got.srv, [d("srv.example")]);
        assert_eq!(got.addresses, [d("addr.example")]);
        for name in ["dns.example", "a.wild.example", "srv.example", "addr.example"] {
            assert!(got.proves(&d(name), true), "{name}");
            assert_eq!(got.proves(&d(name), false), name != "a.wild.example", "{name}");
        }
        for name in [
            "sub.dns.example",
            "wild.example",
            "a.b.wild.example",
            "sub.srv.example",
            "client.example",
            "wrong-tag.example",
            "user.example",
            "res.example",
            "star.example",
            "a.star.example",
            "dot.example",
            "oid.example",
            "common.example",
        ] {
            assert!(!got.proves(&d(name), true), "{name}");
        }
    }

    #[test]
    fn a_long_name_is_read_and_a_broken_one_is_none() {
        let label = "a".repeat(60);
        let long = format!("{label}.{label}.{label}.example");
        let got = names(&[other(XMPP_ADDR, UTF8_STRING, &long)]);
        assert_eq!(got.addresses, [d(&long)]);
        let good = der(VALUE, &der(UTF8_STRING, b"a.example"));
        assert_eq!(text(&good, UTF8_STRING), Some("a.example"));
        for cut in 0..good.len() {
            assert_eq!(text(&good[..cut], UTF8_STRING), None, "{cut}");
        }
        let more = [good.clone(), vec![0]].concat();
        assert_eq!(text(&more, UTF8_STRING), None, "something stands behind it");
        assert_eq!(text(&[VALUE, 0x84, 0, 0, 0, 1, 0], UTF8_STRING), None);
    }
}
