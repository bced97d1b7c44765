//! Hosts as URIs and Via headers name them (RFC 3261 section 25.1 `host`, RFC 5954 for IPv6).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{class, plain::port_number, scan::find};
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
        let (host, end) = Self::front(text)?;
        (end == text.len()).then_some(host)
    }

    /// Reads the host that a text begins with, and tells where it ends.
    pub(super) fn front(text: &'a str) -> Option<(Self, usize)> {
        let bytes = text.as_bytes();
        if bytes.first() == Some(&b'[') {
            let close = find(bytes, b']')?;
            return Some((Host::V6(reference(text.get(1..close)?)?), close + 1));
        }
        let (end, last_label) = name_end(bytes)?;
        let name = text.get(..end)?;
        if last_label.is_ascii_alphabetic() {
            return Some((Host::Name(name), end));
        }
        // Neither `1.2.3` nor `0x7f.1` is a name, whatever a resolver would make of it.
        Some((Host::V4(name.parse().ok()?), end))
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

/// Where the name that a text begins with ends, and the first byte of its last label: labels of 1
/// to 63 letters, digits and inner hyphens, 253 bytes in all, with or without the dot of the root.
fn name_end(text: &[u8]) -> Option<(usize, u8)> {
    let (mut label, mut root) = (0, false);
    let end = loop {
        let end = class::run(text, label, class::LABEL);
        let bytes = text.get(label..end)?;
        if bytes.len() > 63 || *bytes.first()? == b'-' || *bytes.last()? == b'-' {
            return None;
        }
        if text.get(end) != Some(&b'.') {
            break end;
        }
        if !text.get(end + 1).is_some_and(|b| class::is(*b, class::LABEL)) {
            root = true;
            break end;
        }
        label = end + 1;
    };
    (end <= 253).then_some((end + usize::from(root), *text.get(label)?))
}

/// Splits `host[:port]`; the host must be whole and the port a number from 1 to 65535.
pub(super) fn host_and_port(text: &str) -> Option<(Host<'_>, Option<u16>)> {
    let (host, port, rest) = front(text)?;
    rest.is_empty().then_some((host, port))
}

/// Splits `host[:port]` off the front: host, port, rest.
pub(super) fn front(text: &str) -> Option<(Host<'_>, Option<u16>, &str)> {
    let (host, end) = Host::front(text)?;
    let rest = text.get(end..)?;
    let Some(rest) = rest.strip_prefix(':') else { return Some((host, None, rest)) };
    let end = rest.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
    let (number, rest) = rest.split_at_checked(end)?;
    Some((host, Some(port(number)?), rest))
}

/// A port: digits only, 1 to 65535.
pub(super) fn port(text: &str) -> Option<u16> {
    port_number(text.as_bytes())
}
