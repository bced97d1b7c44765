//! URIs (RFC 3261 sections 19.1 and 25.1, RFC 3966 for `tel:`, RFC 5954 for IPv6).
//!
//! Trust decisions rest on the host, so there is one reading and no repair: the user part ends
//! at the only `@`, a second one is an error, and what the grammar does not allow is refused.

use super::{Host, Params, host::host_and_port, value::cut};

/// A URI, in slices of the message.
#[derive(Clone, Copy, Debug)]
pub struct Uri<'a> {
    pub(super) raw: &'a str,
    pub(super) scheme: Scheme,
    pub(super) user: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    pub(super) host: Option<Host<'a>>,
    pub(super) port: Option<u16>,
    pub(super) params: Params<'a>,
    pub(super) headers: Option<&'a str>,
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
        Self::read(raw).map_err(|fault| match is_of(raw, ANYWHERE) {
            true => fault,
            false => UriError::Character,
        })
    }

    fn read(raw: &'a str) -> Result<Self, UriError> {
        let (scheme, rest) = cut(raw, b':').ok_or(UriError::Scheme)?;
        let mut letters = scheme.bytes();
        if !letters.next().is_some_and(|b| b.is_ascii_alphabetic())
            || !letters.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        {
            return Err(UriError::Scheme);
        }
        if scheme.eq_ignore_ascii_case("sip") {
            Self::sip(raw, Scheme::Sip, rest)
        } else if scheme.eq_ignore_ascii_case("sips") {
            Self::sip(raw, Scheme::Sips, rest)
        } else if scheme.eq_ignore_ascii_case("tel") {
            Self::tel(raw, rest)
        } else if rest.is_empty() {
            Err(UriError::Host)
        } else if !is_of(rest, ANYWHERE) {
            Err(UriError::Character)
        } else {
            Ok(Self { scheme: Scheme::Other, ..Self::opaque(raw) })
        }
    }

    fn opaque(raw: &'a str) -> Self {
        Self {
            raw,
            scheme: Scheme::Other,
            user: None,
            password: None,
            host: None,
            port: None,
            params: Params::EMPTY,
            headers: None,
        }
    }

    fn sip(raw: &'a str, scheme: Scheme, rest: &'a str) -> Result<Self, UriError> {
        let mut uri = Self { scheme, ..Self::opaque(raw) };
        let places = Places::of(rest).ok_or(UriError::User)?;
        let text = |from: usize, to: usize| rest.get(from..to).unwrap_or_default();
        if let Some(at) = places.at {
            let (user, password) = match cut(text(0, at), b':') {
                Some((user, password)) => (user, Some(password)),
                None => (text(0, at), None),
            };
            if user.is_empty()
                || !is_escaped_text(user, USER)
                || !password.is_none_or(|p| is_escaped_text(p, PASSWORD))
            {
                return Err(UriError::User);
            }
            (uri.user, uri.password) = (Some(user), password);
        }
        let start = places.at.map_or(0, |at| at + 1);
        let end = places.question.unwrap_or(rest.len());
        let address_end = places.semicolon.unwrap_or(end);
        uri.headers = places.question.map(|question| text(question + 1, rest.len()));
        if !uri.headers.is_none_or(|h| !h.is_empty() && is_escaped_text(h, HEADER)) {
            return Err(UriError::Character);
        }
        let (address, params) = (text(start, address_end), text(address_end, end));
        let (host, port) = host_and_port(address).ok_or(UriError::Host)?;
        (uri.host, uri.port) = (Some(host), port);
        uri.params = uri_params(params)?;
        Ok(uri)
    }

    fn tel(raw: &'a str, rest: &'a str) -> Result<Self, UriError> {
        let params_at = rest.find(';').unwrap_or(rest.len());
        let (number, params) = rest.split_at(params_at);
        let digits = number.strip_prefix('+').unwrap_or(number);
        let phone =
            |b: u8| b.is_ascii_hexdigit() || matches!(b, b'*' | b'#' | b'-' | b'.' | b'(' | b')');
        if digits.is_empty() || !digits.bytes().all(phone) {
            return Err(UriError::User);
        }
        let params = uri_params(params)?;
        Ok(Self { scheme: Scheme::Tel, user: Some(number), params, ..Self::opaque(raw) })
    }

    /// The whole text.
    pub fn as_str(&self) -> &'a str {
        self.raw
    }

    /// Its scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether it is `sip:` or `sips:`.
    pub fn is_sip(&self) -> bool {
        matches!(self.scheme, Scheme::Sip | Scheme::Sips)
    }

    /// The user part as it is written, escapes and `;` included, without the password; for
    /// `tel:` the number.
    pub fn user(&self) -> Option<&'a str> {
        self.user
    }

    /// The password. Never log it.
    pub fn password(&self) -> Option<&'a str> {
        self.password
    }

    /// The host: always there for `sip:` and `sips:`, never otherwise.
    pub fn host(&self) -> Option<Host<'a>> {
        self.host
    }

    /// The port, if one is written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The parameters.
    pub fn params(&self) -> Params<'a> {
        self.params
    }

    /// What follows `?`, undecoded.
    pub fn headers(&self) -> Option<&'a str> {
        self.headers
    }

    /// Whether it has `;lr` (RFC 3261 section 19.1.1).
    pub fn is_loose_router(&self) -> bool {
        self.params.has("lr")
    }

    /// `;transport=`, as it is written.
    pub fn transport(&self) -> Option<&'a str> {
        self.params.get("transport")
    }
}

/// Where the parts of what follows `sip:` begin.
struct Places {
    /// The only `@`.
    at: Option<usize>,
    /// The first `;` after it, and before any `?`.
    semicolon: Option<usize>,
    /// The first `?` after it.
    question: Option<usize>,
}

impl Places {
    /// `None`: a second `@`.
    fn of(text: &str) -> Option<Self> {
        let mut places = Self { at: None, semicolon: None, question: None };
        for (place, b) in text.bytes().enumerate() {
            match b {
                // The user part may hold the others.
                b'@' if places.at.is_none() => {
                    places = Self { at: Some(place), semicolon: None, question: None };
                }
                b'@' => return None,
                b';' if places.question.is_none() => {
                    places.semicolon.get_or_insert(place);
                }
                b'?' => {
                    places.question.get_or_insert(place);
                }
                _ => {}
            }
        }
        Some(places)
    }
}

/// `;`-separated parameters of a URI: no white space, no quotes, no name twice.
fn uri_params(text: &str) -> Result<Params<'_>, UriError> {
    if text.is_empty() {
        return Ok(Params::EMPTY);
    }
    if !is_escaped_text(text, PARAM) {
        return Err(UriError::Params);
    }
    Params::parse(text).ok_or(UriError::Params)
}

// Which bytes may stand where (RFC 3261 section 25.1), one bit a place.
const ANYWHERE: u8 = 1;
const USER: u8 = 2;
const PASSWORD: u8 = 4;
const PARAM: u8 = 8;
const HEADER: u8 = 16;

static ALLOWED: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0x21;
    while b < 0x7f {
        let c = b as u8;
        if !matches!(c, b'<' | b'>' | b'"' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') {
            table[b] = ANYWHERE;
        }
        b += 1;
    }
    let alphanumeric = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    table = allow(table, alphanumeric, USER | PASSWORD | PARAM | HEADER);
    table = allow(table, b"-_.!~*'()", USER | PASSWORD | PARAM | HEADER);
    // `#` is not in the grammar, but phones send it and it delimits nothing here.
    table = allow(table, b"&=+$,;?/#", USER);
    table = allow(table, b"&=+$,", PASSWORD);
    table = allow(table, b"[]/:&+$;=,#", PARAM);
    allow(table, b"[]/?:+$=&;,", HEADER)
};

const fn allow(mut table: [u8; 256], bytes: &[u8], places: u8) -> [u8; 256] {
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] |= places;
        i += 1;
    }
    table
}

/// Only bytes that may stand in a place.
fn is_of(text: &str, place: u8) -> bool {
    text.bytes().all(|b| ALLOWED[usize::from(b)] & place != 0)
}

/// Every byte may stand there, or is a `%` with two hex digits.
fn is_escaped_text(text: &str, place: u8) -> bool {
    let bytes = text.as_bytes();
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        if ALLOWED[usize::from(b)] & place != 0 {
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
