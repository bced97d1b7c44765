//! Hosts as URIs and Via headers name them (RFC 3261 section 25.1 `host`, RFC 5954 for IPv6).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::value::find;
use crate::domain::Domain;

/// A host: a name, or an address that is written as the RFCs say and not otherwise.
#[derive(Clone, Copy, Debug)]
pub enum Host<'a> {
    /// A name as it was written: labels of letters, digits and hyphens, the last one beginning
    /// with a letter; perhaps a trailing dot. Compare with [`Host::is`] or [`Host::domain`].
    Name(&'a str),
    /// `192.0.2.1`.
    V4(Ipv4Addr),
    /// `[2001:db8::1]`.
    V6(Ipv6Addr),
}

impl<'a> Host<'a> {
    /// Reads a whole text as a host; IPv6 in brackets.
    pub fn parse(text: &'a str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            return reference(inner.strip_suffix(']')?).map(Host::V6);
        }
        if last_label(text)?.is_ascii_alphabetic() {
            return Some(Host::Name(text));
        }
        // Neither `1.2.3` nor `0x7f.1` is a name, whatever a resolver would make of it.
        text.parse().ok().map(Host::V4)
    }

    /// The address, when it is one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Host::Name(_) => None,
            Host::V4(address) => Some(IpAddr::V4(address)),
            Host::V6(address) => Some(IpAddr::V6(address)),
        }
    }

    /// The domain, when it is a fully qualified name.
    pub fn domain(self) -> Option<Domain> {
        match self {
            Host::Name(name) => name.parse().ok(),
            _ => None,
        }
    }

    /// Whether it names this domain (case and a trailing dot do not matter).
    pub fn is(self, domain: &Domain) -> bool {
        match self {
            Host::Name(name) => {
                name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case(domain.as_str())
            }
            _ => false,
        }
    }
}

/// Same host: names without regard to case or a trailing dot (RFC 3261 section 19.1.4).
impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Host::Name(a), Host::Name(b)) => a
                .strip_suffix('.')
                .unwrap_or(a)
                .eq_ignore_ascii_case(b.strip_suffix('.').unwrap_or(b)),
            (Host::V4(a), Host::V4(b)) => a == b,
            (Host::V6(a), Host::V6(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Host<'_> {}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::V4(address) => write!(f, "{address}"),
            Host::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// What stands between brackets. The grammar of RFC 3261 lets a third colon stand before an IPv4
/// address, and RFC 5118 section 4.10 wants that tolerated: it is the address with two.
fn reference(text: &str) -> Option<Ipv6Addr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (before, after) = text.split_once(":::")?;
    after.parse::<Ipv4Addr>().ok()?;
    format!("{before}::{after}").parse().ok()
}

static ALPHANUMERIC: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = (b as u8).is_ascii_alphanumeric();
        b += 1;
    }
    table
};

/// The first byte of the last label of a name: labels of 1 to 63 letters, digits and inner
/// hyphens, 253 bytes in all, with or without the dot of the root.
fn last_label(text: &str) -> Option<u8> {
    let name = text.strip_suffix('.').unwrap_or(text).as_bytes();
    if name.len() > 253 {
        return None;
    }
    let (mut label, mut before) = (0, b'.');
    for (at, &b) in name.iter().enumerate() {
        if b == b'.' {
            if matches!(before, b'.' | b'-') || at - label > 63 {
                return None;
            }
            label = at + 1;
        } else if !ALPHANUMERIC[usize::from(b)] && (b != b'-' || before == b'.') {
            return None;
        }
        before = b;
    }
    let fits = !matches!(before, b'.' | b'-') && name.len() - label <= 63;
    fits.then(|| name.get(label).copied())?
}

/// Splits `host[:port]`; the host must be whole and the port a number from 1 to 65535.
pub(super) fn host_and_port(text: &str) -> Option<(Host<'_>, Option<u16>)> {
    let host_end = match text.strip_prefix('[') {
        Some(inner) => inner.find(']')? + 2,
        None => find(text, b':').unwrap_or(text.len()),
    };
    let host = Host::parse(text.get(..host_end)?)?;
    let rest = text.get(host_end..)?;
    if rest.is_empty() {
        return Some((host, None));
    }
    Some((host, Some(port(rest.strip_prefix(':')?)?)))
}

/// A port: digits only, 1 to 65535.
pub(super) fn port(text: &str) -> Option<u16> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}
