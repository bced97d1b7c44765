//! Via (RFC 3261 sections 20.42 and 25.1, RFC 3581 for `rport`).

use std::net::IpAddr;

use super::{
    class::{self, TOKEN},
    host::{Host, front, host_and_port, port},
    value::{Params, ValueError, cut, cut_at_space, cut_before, trim},
};

/// One Via.
#[derive(Clone, Copy, Debug)]
pub struct Via<'a> {
    /// `TLS`, `TCP`, `UDP`, `WSS`, ... as it is written.
    pub transport: &'a str,
    /// The host of sent-by.
    pub host: Host<'a>,
    /// The port of sent-by.
    pub port: Option<u16>,
    /// `;branch=`.
    pub branch: Option<&'a str>,
    /// `;received=`: the address the next element saw.
    pub received: Option<IpAddr>,
    /// `;rport` (without a value in a request) or `;rport=`.
    pub rport: Option<Option<u16>>,
    /// All parameters.
    pub params: Params<'a>,
}

/// What a branch begins with since RFC 3261 (section 8.1.1.7).
pub const MAGIC_COOKIE: &str = "z9hG4bK";

impl<'a> Via<'a> {
    /// Reads one value: `SIP/2.0/TLS host:port;params`, white space where the grammar has it.
    pub fn parse(value: &'a [u8]) -> Result<Self, ValueError> {
        std::str::from_utf8(value).ok().and_then(Self::read).ok_or(ValueError::Via)
    }

    fn read(text: &'a str) -> Option<Self> {
        let (transport, rest) = protocol(trim(text))?;
        if transport.is_empty() || transport.len() > 16 || !class::all(transport.as_bytes(), TOKEN)
        {
            return None;
        }
        let (host, port_number, params) = sent_by(trim(rest))?;
        let (mut branch, mut received, mut rport) = (None, None, None);
        let params = Params::parse_each(params, |name, value| {
            if name.eq_ignore_ascii_case("branch") {
                branch = Some(value?);
            } else if name.eq_ignore_ascii_case("received") {
                received = Some(address(value?)?);
            } else if name.eq_ignore_ascii_case("rport") {
                rport = match value {
                    Some(text) => Some(Some(port(text)?)),
                    None => Some(None),
                };
            }
            Some(())
        })?;
        Some(Self { transport, host, port: port_number, branch, received, rport, params })
    }

    /// What follows the magic cookie; `None` when the branch was made by an RFC 2543 sender.
    pub fn unique_branch(&self) -> Option<&'a str> {
        let branch = self.branch?;
        let (cookie, rest) = branch.split_at_checked(MAGIC_COOKIE.len())?;
        (cookie.eq_ignore_ascii_case(MAGIC_COOKIE) && !rest.is_empty()).then_some(rest)
    }

    /// Whether responses go back over the same stream (RFC 3261 section 17.1.1.2 "reliable").
    pub fn is_reliable(&self) -> bool {
        !self.transport.eq_ignore_ascii_case("UDP")
    }
}

/// `SIP/2.0/` off the front, and the transport from what follows it; white space around each.
fn protocol(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix("SIP/2.0/")
        && !rest.starts_with([' ', '\t'])
    {
        return cut_at_space(rest);
    }
    let (name, rest) = cut(text, b'/')?;
    let (version, rest) = cut(rest, b'/')?;
    if !trim(name).eq_ignore_ascii_case("SIP") || trim(version) != "2.0" {
        return None;
    }
    cut_at_space(trim(rest))
}

/// `host:port` off the front, and the parameters behind it.
fn sent_by(text: &str) -> Option<(Host<'_>, Option<u16>, &str)> {
    if let Some((host, port, rest)) = front(text)
        && (rest.is_empty() || rest.starts_with(';'))
    {
        return Some((host, port, rest));
    }
    let (sent_by, params) = cut_before(text, b';');
    let (host, port) = spaced_sent_by(trim(sent_by))?;
    Some((host, port, params))
}

/// `host : port`, white space around the colon allowed.
fn spaced_sent_by(text: &str) -> Option<(Host<'_>, Option<u16>)> {
    if cut_at_space(text).is_none() {
        return host_and_port(text);
    }
    let (host, number) = text.rsplit_once(':')?;
    Some((Host::parse(trim(host))?, Some(port(trim(number))?)))
}

/// An address with or without brackets: senders write IPv6 both ways (RFC 5118 section 4.5).
fn address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}
