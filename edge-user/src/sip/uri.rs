//! URIs (RFC 3261 sections 19.1 and 25.1, RFC 3966 for `tel:`, RFC 5954 for IPv6).
//!
//! Trust decisions rest on the host, so there is one reading and no repair: the user part ends
//! at the only `@`, a second one is an error, and what the grammar does not allow is refused.

use std::ops::Range;

use super::{
    Host, Params,
    class::{self, ANYWHERE, HEADER, PARAM, PASSWORD, USER},
    facts::{HostAt, Part},
    host::front,
    scan::find,
    value::cut,
};

/// A URI, in slices of the message.
#[derive(Clone, Copy, Debug)]
pub struct Uri<'a> {
    pub(super) raw: &'a str,
    pub(super) at: UriAt,
}

/// Where the parts of a URI are in its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct UriAt {
    pub scheme: Scheme,
    pub user: Part,
    pub password: Part,
    pub host: HostAt,
    pub port: Option<u16>,
    pub params: Part,
    pub headers: Part,
}

impl UriAt {
    pub const fn opaque(scheme: Scheme) -> Self {
        Self {
            scheme,
            user: Part::NONE,
            password: Part::NONE,
            host: HostAt::None,
            port: None,
            params: Part::NONE,
            headers: Part::NONE,
        }
    }
}

/// A URI's scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `sip:`
    Sip,
    /// `sips:`
    Sips,
    /// `tel:`
    Tel,
    /// Anything else: opaque, without user or host.
    Other,
}

/// Why a text is no URI that the appliance accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No scheme, or one with characters that no scheme has.
    #[error("a URI begins with a scheme and a colon")]
    Scheme,
    /// White space, a control character, an angle bracket, a quote or something else that must
    /// be escaped.
    #[error("a character that a URI does not hold unescaped")]
    Character,
    /// An empty user part, a bad escape in it, or a second `@`.
    #[error("the user part is not well formed")]
    User,
    /// No host, or neither a host name nor an address as RFC 3261 writes them.
    #[error("the host is neither a name nor an address")]
    Host,
    /// A parameter without a name, one that appears twice, or too many.
    #[error("the URI's parameters are not well formed")]
    Params,
    /// Headers (`?Route=...`) in a Request-URI (RFC 3261 section 19.1.1).
    #[error("a Request-URI holds no headers")]
    Headers,
}

impl<'a> Uri<'a> {
    /// Reads a whole text as a URI.
    pub fn parse(raw: &'a str) -> Result<Self, UriError> {
        // What the parts may hold, a URI may hold: a good one is looked at once.
        Self::read(raw).map_err(|fault| Self::fault(raw, fault))
    }

    /// What is told of a bad one.
    #[cold]
    fn fault(raw: &str, fault: UriError) -> UriError {
        if !class::all(raw.as_bytes(), ANYWHERE) {
            return UriError::Character;
        }
        match sip_scheme(raw) {
            Some(_) if raw.bytes().filter(|b| *b == b'@').count() > 1 => UriError::User,
            _ => fault,
        }
    }

    fn read(raw: &'a str) -> Result<Self, UriError> {
        // Longer than any line: what is told of places below fits.
        if raw.len() >= Part::END {
            return Err(UriError::Character);
        }
        if let Some((scheme, start)) = sip_scheme(raw) {
            return Ok(Self { raw, at: Self::sip(raw, scheme, start)? });
        }
        let (scheme, rest) = cut(raw, b':').ok_or(UriError::Scheme)?;
        let mut letters = scheme.bytes();
        if !letters.next().is_some_and(|b| b.is_ascii_alphabetic())
            || !letters.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        {
            return Err(UriError::Scheme);
        }
        let at = if scheme.eq_ignore_ascii_case("tel") {
            Self::tel(raw, scheme.len() + 1)?
        } else if rest.is_empty() {
            return Err(UriError::Host);
        } else if !class::all(rest.as_bytes(), ANYWHERE) {
            return Err(UriError::Character);
        } else {
            UriAt::opaque(Scheme::Other)
        };
        Ok(Self { raw, at })
    }

    /// `user:password@host:port;params?headers`, from front to back.
    fn sip(raw: &str, scheme: Scheme, start: usize) -> Result<UriAt, UriError> {
        let mut uri = UriAt::opaque(scheme);
        let find = |from: usize, wanted| {
            find(raw.as_bytes().get(from..).unwrap_or_default(), wanted).map(|place| from + place)
        };
        let text = |range: Range<usize>| raw.get(range).unwrap_or_default();
        let mut host = start;
        // What follows may not hold another.
        if let Some(at) = find(start, b'@') {
            let end = user_end(text(start..at)).ok_or(UriError::User)?;
            uri.user = Part::new(start, start + end);
            if start + end < at {
                uri.password = Part::new(start + end + 1, at);
            }
            host = at + 1;
        }
        let mut end = raw.len();
        if let Some(question) = find(host, b'?') {
            let headers = text(question + 1..end);
            if headers.is_empty() || !is_escaped_text(headers, HEADER) {
                return Err(UriError::Character);
            }
            uri.headers = Part::new(question + 1, end);
            end = question;
        }
        let (found, port, rest) = front(text(host..end)).ok_or(UriError::Host)?;
        (uri.host, uri.port) = (HostAt::at(host, found), port);
        if !rest.is_empty() {
            if !rest.starts_with(';') {
                return Err(UriError::Host);
            }
            uri_params(rest)?;
            uri.params = Part::new(end - rest.len(), end);
        }
        Ok(uri)
    }

    fn tel(raw: &str, start: usize) -> Result<UriAt, UriError> {
        let rest = raw.get(start..).unwrap_or_default();
        let params_at = rest.find(';').unwrap_or(rest.len());
        let (number, params) = rest.split_at(params_at);
        let digits = number.strip_prefix('+').unwrap_or(number);
        let phone =
            |b: u8| b.is_ascii_hexdigit() || matches!(b, b'*' | b'#' | b'-' | b'.' | b'(' | b')');
        if digits.is_empty() || !digits.bytes().all(phone) {
            return Err(UriError::User);
        }
        uri_params(params)?;
        let mut uri = UriAt::opaque(Scheme::Tel);
        uri.user = Part::new(start, start + params_at);
        uri.params = Part::new(start + params_at, raw.len());
        Ok(uri)
    }

    /// The whole text.
    pub fn as_str(&self) -> &'a str {
        self.raw
    }

    /// Its scheme.
    pub fn scheme(&self) -> Scheme {
        self.at.scheme
    }

    /// Whether it is `sip:` or `sips:`.
    pub fn is_sip(&self) -> bool {
        matches!(self.at.scheme, Scheme::Sip | Scheme::Sips)
    }

    /// The user part as it is written, escapes and `;` included, without the password; for
    /// `tel:` the number.
    pub fn user(&self) -> Option<&'a str> {
        self.at.user.read(self.raw)
    }

    /// The password. Never log it.
    pub fn password(&self) -> Option<&'a str> {
        self.at.password.read(self.raw)
    }

    /// The host: always there for `sip:` and `sips:`, never otherwise.
    pub fn host(&self) -> Option<Host<'a>> {
        self.at.host.read(self.raw)
    }

    /// The port, if one is written.
    pub fn port(&self) -> Option<u16> {
        self.at.port
    }

    /// The parameters.
    pub fn params(&self) -> Params<'a> {
        Params::checked(self.at.params.read(self.raw).unwrap_or_default())
    }

    /// What follows `?`, undecoded.
    pub fn headers(&self) -> Option<&'a str> {
        self.at.headers.read(self.raw)
    }

    /// Whether it has `;lr` (RFC 3261 section 19.1.1).
    pub fn is_loose_router(&self) -> bool {
        self.params().has("lr")
    }

    /// Where `;maddr=` says that it goes in place of the host (RFC 3261 section 19.1.1). `None`: nowhere;
    /// `Some(None)`: what it says is no host.
    pub fn maddr(&self) -> Option<Option<Host<'a>>> {
        let params = self.params();
        params.has("maddr").then(|| params.get("maddr").and_then(Host::parse))
    }

    /// A `sip:` or `sips:` URI without `maddr`, port and transport: what is left when they have led to
    /// where they should (RFC 3261 section 16.4).
    pub fn arrived(&self) -> Option<String> {
        let scheme = self.raw.split_once(':').filter(|_| self.is_sip())?.0;
        let mut text = format!("{scheme}:");
        if let Some(user) = self.user() {
            text.push_str(user);
            if let Some(password) = self.password() {
                text.push(':');
                text.push_str(password);
            }
            text.push('@');
        }
        text.push_str(&self.host()?.to_string());
        for (name, piece) in self.params().pieces() {
            if !name.eq_ignore_ascii_case("maddr") && !name.eq_ignore_ascii_case("transport") {
                text.push_str(piece);
            }
        }
        Some(text)
    }

    /// `;transport=`, as it is written.
    pub fn transport(&self) -> Option<&'a str> {
        self.params().get("transport")
    }
}

/// The scheme of a `sip:` or `sips:` URI, and how long it is with its colon.
fn sip_scheme(raw: &str) -> Option<(Scheme, usize)> {
    match raw.as_bytes() {
        [b's' | b'S', b'i' | b'I', b'p' | b'P', b':', ..] => Some((Scheme::Sip, 4)),
        [b's' | b'S', b'i' | b'I', b'p' | b'P', b's' | b'S', b':', ..] => Some((Scheme::Sips, 5)),
        _ => None,
    }
}

/// Where the user part ends in what stands before the `@`; what is left is a password.
fn user_end(text: &str) -> Option<usize> {
    // Mostly there is neither a password nor an escape.
    if class::all(text.as_bytes(), USER) {
        return (!text.is_empty()).then_some(text.len());
    }
    let (user, password) = match cut(text, b':') {
        Some((user, password)) => (user, password),
        None => (text, ""),
    };
    let fits =
        !user.is_empty() && is_escaped_text(user, USER) && is_escaped_text(password, PASSWORD);
    fits.then_some(user.len())
}

/// `;`-separated parameters of a URI: no white space, no quotes, no name twice.
fn uri_params(text: &str) -> Result<(), UriError> {
    let fits = is_escaped_text(text, PARAM) && Params::parse(text).is_some();
    if fits { Ok(()) } else { Err(UriError::Params) }
}

/// Every byte may stand there, or is a `%` with two hex digits.
fn is_escaped_text(text: &str, place: u16) -> bool {
    let bytes = text.as_bytes();
    if class::all(bytes, place) {
        return true;
    }
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        if class::is(b, place) {
            i += 1;
        } else if b == b'%' {
            match bytes.get(i + 1..i + 3) {
                Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => i += 3,
                _ => return false,
            }
        } else {
            return false;
        }
    }
    true
}
