//! The only user of `rsip`: messages of our own, and typed single values where a typed model
//! helps (administration, traces, tests).
//!
//! `rsip` 0.4.0 misreads much of what is on the wire: a dot ends the user part and makes
//! `john.doe@example.com` a host; `sip:evil.com;@good.com` gets the host `evil.com`; IPv6
//! references, unknown methods and parameters with a colon fail or are cut; compact forms and
//! comma lists are lost; the body ignores Content-Length and is rewritten when it is not UTF-8.
//! So nothing reaches it that [`Uri`] and [`Message`] have not read first, that is not on the
//! subset which it reads rightly, and whose reading is not compared with ours afterwards. A
//! trust decision is never taken from it.

use std::net::SocketAddr;

use bytes::Bytes;
use rsip::{Param, prelude::HeadersExt};

use super::{HeaderName, Host, Limits, Message, Method, NameAddr, Scheme, Uri};
use crate::{config::Transport, domain::Domain};

/// Why something is not given to `rsip`, or not taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompatError {
    /// Well formed, but `rsip` would misread it: use [`Uri`], [`NameAddr`] and [`Message`].
    #[error("outside of what the typed model reads rightly")]
    Unsupported,
    /// It read something else than we do.
    #[error("the typed model read another value")]
    Differs,
    /// A value of ours cannot stand in a message.
    #[error("a value that cannot stand in a message")]
    BadValue,
}

/// Reads a URI into the typed model, if it reads it as we do.
pub fn uri(uri: &Uri<'_>) -> Result<rsip::Uri, CompatError> {
    let params_fit = uri.params().iter().all(|(name, value)| {
        // `transport`, `method` and the like are parsed further, into closed sets.
        is_plain(name, "-_")
            && !name.eq_ignore_ascii_case("method")
            && value.is_none_or(|value| is_plain(value, "-_."))
            && (!name.eq_ignore_ascii_case("transport") || value.is_some_and(is_transport))
    });
    let host_fits = match uri.host() {
        Some(Host::Name(name)) => !name.ends_with('.'),
        Some(Host::V4(_)) => true,
        Some(Host::V6(_)) | None => false,
    };
    let user_fits = uri.user().is_none_or(|user| is_plain(user, "-_+%"));
    let scheme_fits = uri.as_str().starts_with("sip:") || uri.as_str().starts_with("sips:");
    if !uri.is_sip()
        || !scheme_fits
        || !params_fit
        || !host_fits
        || !user_fits
        || uri.password().is_some()
        || uri.headers().is_some()
    {
        return Err(CompatError::Unsupported);
    }
    let theirs = rsip::Uri::try_from(uri.as_str()).map_err(|_| CompatError::Differs)?;
    if same_uri(uri, &theirs) { Ok(theirs) } else { Err(CompatError::Differs) }
}

/// Whether both read the same scheme, user, host and port, and as many parameters.
fn same_uri(ours: &Uri<'_>, theirs: &rsip::Uri) -> bool {
    let scheme = matches!(
        (ours.scheme(), &theirs.scheme),
        (Scheme::Sip, Some(rsip::Scheme::Sip)) | (Scheme::Sips, Some(rsip::Scheme::Sips))
    );
    scheme
        && ours.user() == theirs.user()
        && ours.host().is_some_and(|host| host.to_string() == theirs.host().to_string())
        && ours.port() == theirs.port().map(|port| *port.value())
        && ours.params().iter().count() == theirs.params.len()
}

/// Reads From, To or one Contact into display name, URI and tag, if it is read as we read it.
pub fn from(value: &NameAddr<'_>) -> Result<rsip::typed::From, CompatError> {
    let plain_display = value.display.is_none_or(|name| {
        let inner = name.strip_prefix(b"\"").and_then(|n| n.strip_suffix(b"\"")).unwrap_or(name);
        inner.iter().all(|b| b.is_ascii_alphanumeric() || *b == b' ') && !inner.is_empty()
    });
    let params_fit = value
        .params
        .iter()
        .all(|(name, text)| is_plain(name, "-_") && text.is_some_and(|text| is_plain(text, "-_.")));
    if !plain_display || !params_fit {
        return Err(CompatError::Unsupported);
    }
    let display_name = match value.display {
        Some(name) => {
            let name = std::str::from_utf8(name).map_err(|_| CompatError::Unsupported)?;
            Some(name.trim_matches('"').to_owned())
        }
        None => None,
    };
    let params = value
        .params
        .iter()
        .map(|(name, text)| Param::try_from((name, text)).map_err(|_| CompatError::Differs));
    Ok(rsip::typed::From {
        display_name,
        uri: uri(&value.uri)?,
        params: params.collect::<Result<_, _>>()?,
    })
}

/// Reads a whole message into the typed model, if it is read as we read it. Slow: for
/// administration and tests, never on the way of a message.
pub fn message(message: &Message) -> Result<rsip::SipMessage, CompatError> {
    let text = std::str::from_utf8(message.bytes()).map_err(|_| CompatError::Unsupported)?;
    let length = message.text(HeaderName::ContentLength).and_then(|text| text.parse().ok());
    let headers_fit = message.all_headers().all(|header| {
        // Long forms, one value a line, no white space before the colon, nothing empty.
        header.raw_name.len() > 1
            && !header.value.is_empty()
            && text.contains(&format!("\r\n{}: ", header.raw_name))
            && (!is_list(header.name) || message.list(header.name).count() == 1)
    });
    if !headers_fit || length != Some(message.body().len()) || message.validate().is_err() {
        return Err(CompatError::Unsupported);
    }
    if let Some(request_uri) = message.request_uri() {
        uri(&request_uri.map_err(|_| CompatError::Unsupported)?)?;
        if matches!(message.method(), None | Some(Method::Other(_))) {
            return Err(CompatError::Unsupported);
        }
    }
    let theirs = rsip::SipMessage::try_from(text).map_err(|_| CompatError::Differs)?;
    let same = match &theirs {
        rsip::SipMessage::Request(request) => {
            message.method().is_some_and(|m| m.as_str() == request.method.to_string())
                && same_headers(message, request)
                && request.body == message.body()
        }
        rsip::SipMessage::Response(response) => {
            message.status() == Some(response.status_code.code())
                && same_headers(message, response)
                && response.body == message.body()
        }
    };
    if same { Ok(theirs) } else { Err(CompatError::Differs) }
}

/// Whether the headers that name a transaction and a dialog read the same.
fn same_headers(ours: &Message, theirs: &impl HeadersExt) -> bool {
    use rsip::prelude::UntypedHeader as _;
    let same = |name, theirs: Option<&str>| ours.text(name) == theirs;
    same(HeaderName::CallId, theirs.call_id_header().ok().map(|h| h.value()))
        && same(HeaderName::From, theirs.from_header().ok().map(|h| h.value()))
        && same(HeaderName::To, theirs.to_header().ok().map(|h| h.value()))
        && same(HeaderName::CSeq, theirs.cseq_header().ok().map(|h| h.value()))
        && same(HeaderName::Via, theirs.via_header().ok().map(|h| h.value()))
}

/// A probe of our own: OPTIONS to a next hop, to see whether it is alive.
#[derive(Clone, Debug)]
pub struct Probe<'a> {
    /// Who we are: From, Via and Contact hold it.
    pub edge: &'a Domain,
    /// Our port, in Via and Contact.
    pub port: u16,
    /// How it is carried.
    pub transport: Transport,
    /// The next hop's name, or its address.
    pub target: Result<&'a Domain, SocketAddr>,
    /// The branch's unique part, after the magic cookie.
    pub branch: &'a str,
    /// From tag.
    pub tag: &'a str,
    /// Call-ID.
    pub call_id: &'a str,
    /// CSeq number.
    pub number: u32,
}

/// The OPTIONS request of a probe (RFC 3261 section 11.1), built with the typed model and read
/// again with ours.
pub fn options(probe: &Probe<'_>) -> Result<Bytes, CompatError> {
    let fits = |text: &str| is_plain(text, "-_.@");
    if ![probe.branch, probe.tag, probe.call_id].into_iter().all(fits) || probe.number >= 1 << 31 {
        return Err(CompatError::BadValue);
    }
    let transport = match probe.transport {
        Transport::Tls => rsip::Transport::Tls,
        Transport::Tcp => rsip::Transport::Tcp,
        Transport::Udp => rsip::Transport::Udp,
    };
    let at = |host_with_port: rsip::HostWithPort| rsip::Uri {
        scheme: Some(rsip::Scheme::Sip),
        host_with_port,
        ..Default::default()
    };
    let edge = rsip::Domain::from(probe.edge.as_str());
    let target = at(match probe.target {
        Ok(name) => rsip::Domain::from(name.as_str()).into(),
        Err(address) => match address {
            SocketAddr::V4(v4) => (std::net::IpAddr::V4(*v4.ip()), v4.port()).into(),
            // Its Display writes an IPv6 address without brackets: give it the text as a name.
            SocketAddr::V6(v6) => (rsip::Domain::from(format!("[{}]", v6.ip())), v6.port()).into(),
        },
    });
    let via = rsip::typed::Via {
        version: rsip::Version::V2,
        transport,
        uri: rsip::Uri { host_with_port: (edge.clone(), probe.port).into(), ..Default::default() },
        params: vec![Param::Branch(format!("{}{}", super::via::MAGIC_COOKIE, probe.branch).into())],
    };
    let from = rsip::typed::From {
        display_name: None,
        uri: at(edge.clone().into()),
        params: vec![Param::Tag(probe.tag.into())],
    };
    let to =
        rsip::typed::To { display_name: None, uri: target.clone(), params: Default::default() };
    let cseq = rsip::typed::CSeq { seq: probe.number, method: rsip::Method::Options };
    let headers: Vec<rsip::Header> = vec![
        via.into(),
        rsip::headers::MaxForwards::from(0).into(),
        from.into(),
        to.into(),
        rsip::headers::CallId::from(probe.call_id).into(),
        cseq.into(),
        rsip::headers::ContentLength::from(0).into(),
    ];
    let request = rsip::Request {
        method: rsip::Method::Options,
        uri: target,
        version: rsip::Version::V2,
        headers: headers.into(),
        body: Vec::new(),
    };
    let bytes = Bytes::from(request.to_string().into_bytes());
    let read =
        Message::parse_datagram(bytes, &Limits::default()).map_err(|_| CompatError::BadValue)?;
    read.validate().map_err(|_| CompatError::BadValue)?;
    Ok(read.bytes().clone())
}

fn is_list(name: HeaderName) -> bool {
    matches!(
        name,
        HeaderName::Via | HeaderName::Route | HeaderName::RecordRoute | HeaderName::Contact
    )
}

fn is_transport(text: &str) -> bool {
    ["udp", "tcp", "tls", "sctp", "ws", "wss"].iter().any(|t| t.eq_ignore_ascii_case(text))
}

fn is_plain(text: &str, more: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b))
}

#[cfg(test)]
mod tests;
