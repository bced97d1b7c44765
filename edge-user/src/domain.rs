//! A domain name, in the one form in which names are compared.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A fully qualified host or domain name: lower case, letters, digits and hyphens, at least two
/// labels, no trailing dot, at most 253 bytes (RFC 1035 section 2.3.4, RFC 1123 section 2.1).
/// An IP address is never one. A clone shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(Arc<str>);

/// Why a text is no domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// Longer than 253 bytes, or empty.
    #[error("a domain name has 1 to 253 characters")]
    Length,
    /// A label is empty, longer than 63 bytes, or begins or ends with a hyphen.
    #[error("each label of a domain name has 1 to 63 characters and no hyphen at its ends")]
    Label,
    /// Something other than a letter, a digit, a hyphen or a dot.
    #[error("a domain name holds letters, digits, hyphens and dots only")]
    Character,
    /// Letters that are no ASCII.
    #[error("an international domain name is written in its ASCII form (xn--)")]
    International,
    /// A single label: not fully qualified.
    #[error("a fully qualified name with at least two labels is needed")]
    NotQualified,
    /// An IP address.
    #[error("an IP address is no domain name")]
    Address,
}

impl Domain {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `other` or a name below it (`it.contoso.com` is within `contoso.com`).
    pub fn is_within(&self, other: &Domain) -> bool {
        self == other || self.0.strip_suffix(other.as_str()).is_some_and(|head| head.ends_with('.'))
    }
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > 253 {
            return Err(DomainError::Length);
        }
        let bytes = text.as_bytes();
        let (mut labels, mut label) = (0, 0);
        let (mut fits, mut known, mut upper, mut number) = (true, true, false, true);
        for (at, byte) in bytes.iter().chain(b".").enumerate() {
            match byte {
                b'.' => {
                    fits &= bytes.get(label..at).is_some_and(is_label);
                    labels += 1;
                    label = at + 1;
                    // What is known of the last label stays.
                    number |= label < bytes.len();
                }
                b'0'..=b'9' => {}
                b'a'..=b'z' | b'-' => number = false,
                b'A'..=b'Z' => (number, upper) = (false, true),
                _ => known = false,
            }
        }
        if !known {
            let fine = |byte: u8| {
                !byte.is_ascii() || byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')
            };
            return Err(match text.bytes().all(fine) {
                true => DomainError::International,
                false => DomainError::Character,
            });
        }
        if !fits {
            return Err(DomainError::Label);
        }
        // A last label of digits makes it an address, or something a resolver may read as one.
        if number {
            return Err(DomainError::Address);
        }
        if labels < 2 {
            return Err(DomainError::NotQualified);
        }
        if upper {
            return Ok(Self(text.to_ascii_lowercase().into()));
        }
        Ok(Self(text.into()))
    }
}

fn is_label(label: &[u8]) -> bool {
    let inner = |end: Option<&u8>| end.is_some_and(|byte| *byte != b'-');
    inner(label.first()) && inner(label.last()) && label.len() <= 63
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// For look-ups in maps by a text already known to be folded (`Hash` and `Eq` are the text's).
impl Borrow<str> for Domain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Domain {
    type Error = DomainError;

    fn try_from(text: String) -> Result<Self, DomainError> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> String {
        domain.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_and_checked() {
        let cases: &[(&str, Result<&str, DomainError>)] = &[
            ("Contoso.Example", Ok("contoso.example")),
            ("contoso.example.", Ok("contoso.example")),
            ("", Err(DomainError::Length)),
            ("localhost", Err(DomainError::NotQualified)),
            ("a..b", Err(DomainError::Label)),
            ("-a.example", Err(DomainError::Label)),
            ("192.0.2.1", Err(DomainError::Address)),
            ("1.2.3", Err(DomainError::Address)),
            ("a.example.4", Err(DomainError::Address)),
            ("4.example.4a", Ok("4.example.4a")),
            ("a.example..", Err(DomainError::Label)),
            ("a-.example", Err(DomainError::Label)),
            ("a.-", Err(DomainError::Label)),
            ("a._..", Err(DomainError::Character)),
            ("a_b.example", Err(DomainError::Character)),
            ("a.example\r\n", Err(DomainError::Character)),
            ("b\u{fc}ro.example", Err(DomainError::International)),
        ];
        for (text, expected) in cases {
            let got = text.parse::<Domain>();
            assert_eq!(got.as_ref().map(Domain::as_str).map_err(|e| *e), *expected, "{text:?}");
        }
    }

    #[test]
    fn a_suffix_is_within_only_at_a_label() {
        let parent: Domain = "contoso.example".parse().unwrap();
        for (name, expected) in
            [("contoso.example", true), ("it.contoso.example", true), ("xcontoso.example", false)]
        {
            assert_eq!(name.parse::<Domain>().unwrap().is_within(&parent), expected, "{name}");
        }
    }
}
