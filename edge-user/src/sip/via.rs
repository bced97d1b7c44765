//! Via (RFC 3261 sections 20.42 and 25.1, RFC 3581 for `rport`).

use std::net::IpAddr;

use super::{
    head::is_token,
    host::{Host, host_and_port, port},
    value::{Params, ValueError, cut, cut_at_space, cut_before, header_params, trim},
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
        Self::read(value).ok_or(ValueError::Via)
    }

    fn read(value: &'a [u8]) -> Option<Self> {
        let text = trim(std::str::from_utf8(value).ok()?);
        let (name, rest) = cut(text, b'/')?;
        let (version, rest) = cut(rest, b'/')?;
        if !trim(name).eq_ignore_ascii_case("SIP") || trim(version) != "2.0" {
            return None;
        }
        let (transport, rest) = cut_at_space(trim(rest))?;
        if transport.is_empty() || transport.len() > 16 || !transport.bytes().all(is_token) {
            return None;
        }
        let (sent_by, params) = cut_before(rest, b';');
        let (host, port_number) = sent_by_parts(trim(sent_by))?;
        let params = header_params(params).ok()?;
        let (mut branch, mut received, mut rport) = (None, None, None);
        for (name, value) in params.iter() {
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
        }
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

/// `host : port`, white space around the colon allowed.
fn sent_by_parts(text: &str) -> Option<(Host<'_>, Option<u16>)> {
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
