//! Values of headers, read from slices (RFC 3261 sections 20 and 25.1).

use std::ops::Range;

use super::{
    class::{self, NAME, TOKEN, VALUE, is_token},
    head::{self, number},
    method::{MAX_METHOD, Method},
    scan,
    uri::{Uri, UriError},
};

/// Why a header's value cannot be used. All are the sender's fault: answer 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The header is not there.
    #[error("the header is missing")]
    Missing,
    /// Not `name <uri>;params` or `uri;params`.
    #[error("not a name and address")]
    NameAddr,
    /// The URI inside is bad.
    #[error("{0}")]
    Uri(#[from] UriError),
    /// Parameters that are not well formed, or one that is there twice.
    #[error("the parameters are not well formed")]
    Params,
    /// Not `SIP/2.0/transport host:port;params`.
    #[error("not a Via")]
    Via,
    /// Not a number below 2^31 and a method, or not the request's method.
    #[error("not a CSeq, or not the request's method")]
    CSeq,
    /// Empty, or with white space in it.
    #[error("not a Call-ID")]
    CallId,
    /// Not a number from 0 to 255.
    #[error("Max-Forwards is not a number from 0 to 255")]
    MaxForwards,
}

/// `;name=value` parameters, as they are written; names compare without case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a>(&'a str);

/// More parameters than anything honest has.
const MAX_PARAMS: usize = 32;
/// As many as most have.
const FEW: usize = 4;

impl<'a> Params<'a> {
    /// None at all.
    pub const EMPTY: Params<'static> = Params("");

    /// Reads a text that begins with `;` (white space around it allowed) or is empty. A name that
    /// stands twice, or more than 32 names, is a fault.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        Self::parse_each(text, |_, _| Some(()))
    }

    /// The same, and gives each name with its value on the way, perhaps twice.
    #[inline]
    pub(super) fn parse_each(
        text: &'a str,
        mut each: impl FnMut(&'a str, Option<&'a str>) -> Option<()>,
    ) -> Option<Self> {
        let params = Params(trim(text));
        let mut few = [""; FEW];
        let mut rest = params.0;
        let mut count = 0;
        while !rest.is_empty() {
            if count == FEW {
                return params.with_many(each);
            }
            let (name, value, after) = next_param(rest)?;
            note_name(&mut few, count, name)?;
            each(name, value)?;
            (rest, count) = (after, count + 1);
        }
        Some(params)
    }

    /// Checks it with room for all names: mostly there are few.
    #[cold]
    fn with_many(
        self,
        mut each: impl FnMut(&'a str, Option<&'a str>) -> Option<()>,
    ) -> Option<Self> {
        let mut names = [""; MAX_PARAMS];
        let mut rest = self.0;
        let mut count = 0;
        while !rest.is_empty() {
            let (name, value, after) = next_param(rest)?;
            note_name(&mut names, count, name)?;
            each(name, value)?;
            (rest, count) = (after, count + 1);
        }
        Some(self)
    }

    /// Of a text that was read before.
    pub(super) const fn checked(text: &'a str) -> Self {
        Params(text)
    }

    /// Each name with its value; quotes stay on.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (name, value, after) = next_param(rest)?;
            rest = after;
            Some((name, value))
        })
    }

    /// Each name, and the text that it and its value stand in, from the `;` before them.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (name, _, after) = next_param(rest)?;
            let piece = rest.get(..rest.len() - after.len())?;
            rest = after;
            Some((name, piece))
        })
    }

    /// The value of a parameter; `None` when it is not there or has none.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).and_then(|(_, value)| value)
    }

    /// Whether a parameter is there.
    pub fn has(&self, name: &str) -> bool {
        self.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
    }

    /// The text, from the first `;`.
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

/// Notes a name as the next of `names`. No name twice: two tags would make two dialogs of one.
fn note_name<'a>(names: &mut [&'a str], count: usize, name: &'a str) -> Option<()> {
    if names.get(..count)?.iter().any(|other| other.eq_ignore_ascii_case(name)) {
        return None;
    }
    *names.get_mut(count)? = name;
    Some(())
}

/// One `;name[=value]` off the front: name, value, rest.
fn next_param(text: &str) -> Option<(&str, Option<&str>, &str)> {
    plain_param(text).or_else(|| any_param(text))
}

/// One without white space and quotes, as nearly all are.
#[inline]
fn plain_param(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b';') {
        return None;
    }
    let name_end = class::run(bytes, 1, NAME);
    let (name, rest) = (text.get(1..name_end)?, text.get(name_end..)?);
    let Some(value) = rest.strip_prefix('=') else {
        let ends = !name.is_empty() && (rest.is_empty() || rest.starts_with(';'));
        return ends.then_some((name, None, rest));
    };
    let value_end = class::run(value.as_bytes(), 0, VALUE);
    let (value, rest) = value.split_at_checked(value_end)?;
    let ends = rest.is_empty() || rest.starts_with(';');
    (ends && !name.is_empty() && !value.is_empty()).then_some((name, Some(value), rest))
}

#[cold]
fn any_param(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let text = trim(trim(text).strip_prefix(';')?);
    let name_end = class::run(text.as_bytes(), 0, NAME);
    let (name, rest) = text.split_at_checked(name_end)?;
    if name.is_empty() {
        return None;
    }
    let rest = trim(rest);
    let Some(value) = rest.strip_prefix('=').map(trim) else {
        return (rest.is_empty() || rest.starts_with(';')).then_some((name, None, rest));
    };
    let value_end = match value.starts_with('"') {
        true => quoted_end(value.as_bytes())?,
        false => class::run(value.as_bytes(), 0, VALUE),
    };
    let (value, rest) = value.split_at_checked(value_end)?;
    let rest = trim(rest);
    let ends = rest.is_empty() || rest.starts_with(';');
    (ends && !value.is_empty()).then_some((name, Some(value), rest))
}

/// One past the closing quote of a text that begins with a quote.
fn quoted_end(text: &[u8]) -> Option<usize> {
    let mut i = 1;
    loop {
        match text.get(i)? {
            b'"' => return Some(i + 1),
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
}

/// What stands before and after the first such ASCII character.
pub(super) fn cut(text: &str, at: u8) -> Option<(&str, &str)> {
    let place = scan::find(text.as_bytes(), at)?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}

/// What stands before and after the first space or tab.
pub(super) fn cut_at_space(text: &str) -> Option<(&str, &str)> {
    let place = text.bytes().position(|b| matches!(b, b' ' | b'\t'))?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}

/// The text up to the first such ASCII character, and the rest with it.
pub(super) fn cut_before(text: &str, at: u8) -> (&str, &str) {
    let place = scan::find(text.as_bytes(), at).unwrap_or(text.len());
    text.split_at_checked(place).unwrap_or((text, ""))
}

/// Without spaces and tabs around it; mostly there are none.
pub(super) fn trim(text: &str) -> &str {
    let is_space = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    if !is_space(text.as_bytes().first()) && !is_space(text.as_bytes().last()) {
        return text;
    }
    text.trim_matches([' ', '\t'])
}

/// Ranges of the values in a comma-separated list, white space trimmed. Empty values are given
/// too: whoever reads them refuses them.
#[derive(Clone, Debug)]
pub(super) struct ListIter<'a> {
    text: &'a [u8],
    at: Option<usize>,
}

impl<'a> ListIter<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: Some(0) }
    }
}

impl Iterator for ListIter<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.at?;
        let mut i = start;
        let (mut quoted, mut angled) = (false, false);
        self.at = None;
        // Mostly there is one value.
        if scan::find(self.text.get(start..).unwrap_or_default(), b',').is_none() {
            i = self.text.len();
        }
        while let Some(&b) = self.text.get(i) {
            match b {
                b'\\' if quoted => i += 1,
                b'"' if !angled => quoted = !quoted,
                b'<' if !quoted => angled = true,
                b'>' if !quoted => angled = false,
                b',' if !quoted && !angled => {
                    self.at = Some(i + 1);
                    break;
                }
                _ => {}
            }
            i += 1;
        }
        let (start, end) = head::trim(self.text, start, i);
        Some(start..end)
    }
}

/// A name, an address and parameters: From, To, Contact, Route, Record-Route,
/// P-Asserted-Identity.
#[derive(Clone, Copy, Debug)]
pub struct NameAddr<'a> {
    /// The display name as it is written, quotes included.
    pub display: Option<&'a [u8]>,
    /// The address.
    pub uri: Uri<'a>,
    /// The header's parameters (not the URI's).
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Reads one value: `"Name" <uri>;params`, `Name <uri>;params` or `uri;params`.
    pub fn parse(value: &'a [u8]) -> Result<Self, ValueError> {
        let value = value.trim_ascii();
        let quoted = match value.first() {
            Some(b'"') => quoted_end(value).ok_or(ValueError::NameAddr)?,
            _ => 0,
        };
        let rest = value.get(quoted..).ok_or(ValueError::NameAddr)?;
        let Some(open) = scan::find(rest, b'<') else {
            if quoted != 0 {
                return Err(ValueError::NameAddr);
            }
            return Self::bare(value);
        };
        // Between the quoted name and `<` only white space; or an unquoted name.
        let between = rest[..open].trim_ascii();
        let is_name = |b: &u8| is_token(*b) || *b >= 0x80 || matches!(b, b' ' | b'\t');
        if (quoted != 0 && !between.is_empty()) || !between.iter().all(is_name) {
            return Err(ValueError::NameAddr);
        }
        let display = match quoted {
            0 => between,
            end => &value[..end],
        };
        let inner = &rest[open + 1..];
        let close = scan::find(inner, b'>').ok_or(ValueError::NameAddr)?;
        let uri = std::str::from_utf8(&inner[..close]).map_err(|_| UriError::Character)?;
        let params = std::str::from_utf8(&inner[close + 1..]).map_err(|_| ValueError::Params)?;
        Ok(Self {
            display: (!display.is_empty()).then_some(display),
            uri: Uri::parse(uri)?,
            params: header_params(params)?,
        })
    }

    /// Reads one value of Route, Record-Route or Path: the angle brackets must be there.
    pub fn parse_bracketed(value: &'a [u8]) -> Result<Self, ValueError> {
        match scan::find(value, b'<') {
            Some(_) => Self::parse(value),
            None => Err(ValueError::NameAddr),
        }
    }

    /// Without brackets every parameter is the header's, and the URI may hold neither comma nor
    /// question mark (RFC 3261 section 20).
    fn bare(value: &'a [u8]) -> Result<Self, ValueError> {
        let text = std::str::from_utf8(value).map_err(|_| ValueError::NameAddr)?;
        let (uri, params) = cut_before(text, b';');
        if uri.bytes().any(|b| matches!(b, b',' | b'?')) {
            return Err(ValueError::NameAddr);
        }
        Ok(Self { display: None, uri: Uri::parse(trim(uri))?, params: header_params(params)? })
    }

    /// The tag (RFC 3261 section 19.3).
    pub fn tag(&self) -> Option<&'a str> {
        self.params.get("tag")
    }
}

/// Parameters of a header.
pub(super) fn header_params(text: &str) -> Result<Params<'_>, ValueError> {
    Params::parse(text).ok_or(ValueError::Params)
}

/// CSeq (RFC 3261 section 20.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// Below 2^31.
    pub number: u32,
    /// The method of the request.
    pub method: Method<'a>,
}

impl<'a> CSeq<'a> {
    /// Reads `number method`.
    pub fn parse(value: &'a [u8]) -> Result<Self, ValueError> {
        let text = std::str::from_utf8(value.trim_ascii()).map_err(|_| ValueError::CSeq)?;
        let (digits, method) = cut_at_space(text).ok_or(ValueError::CSeq)?;
        let method = trim(method);
        let number = number(digits.as_bytes()).filter(|n| *n < 1 << 31).ok_or(ValueError::CSeq)?;
        if method.is_empty() || method.len() > MAX_METHOD || !class::all(method.as_bytes(), TOKEN) {
            return Err(ValueError::CSeq);
        }
        Ok(Self { number, method: Method::from_token(method) })
    }
}
