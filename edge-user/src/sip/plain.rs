//! Values of the plain kind, as nearly all are: no escapes, no white space but where everybody
//! writes it, nothing odd. They are read in one pass, from separator to separator: what stands
//! between two is letters, digits, dots, hyphens and underscores, which may stand in a user, in a
//! token, in a parameter; only a host is looked at closer.
//!
//! What is not plain is no fault: it is left to the readers of [`super::Uri`],
//! [`super::NameAddr`] and [`super::Via`], which take all that the grammar has. What is taken here,
//! they read the same (tested).

use std::{net::Ipv4Addr, ops::Range};

use super::{
    class::{self, TOKEN},
    facts::{CSeqAt, HostAt, NameAddrAt, Part, Span, ViaAt, WholeUriAt},
    head::number,
    method::MAX_METHOD,
    scan::{WIDTH, equal, words},
    uri::{Scheme, UriAt},
};

/// A separator: where it is, and which.
type Separator = (usize, u8);

/// Steps through bytes from separator to separator.
struct Steps<'m> {
    bytes: &'m [u8],
    /// Where the chunk begins that is looked at.
    chunk: usize,
    /// The separators in it that were not yet given.
    left: u32,
}

impl<'m> Steps<'m> {
    #[inline]
    fn new(bytes: &'m [u8], start: usize) -> Option<Self> {
        let chunk: &[u8; WIDTH] = bytes.get(start..)?.first_chunk()?;
        Some(Self { bytes, chunk: start, left: separators(chunk) })
    }

    /// `None` also when fewer bytes are left than are looked at together.
    #[inline]
    fn next(&mut self) -> Option<Separator> {
        while self.left == 0 {
            self.chunk += WIDTH;
            self.left = separators(self.bytes.get(self.chunk..)?.first_chunk()?);
        }
        let at = self.chunk + self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        Some((at, *self.bytes.get(at)?))
    }

    #[inline]
    fn part(&self, range: Range<usize>) -> Option<&'m [u8]> {
        self.bytes.get(range)
    }
}

#[inline]
fn separators(chunk: &[u8; WIDTH]) -> u32 {
    words(chunk) ^ 0xffff
}

/// Where a value begins, when it is short enough to tell parts of it.
fn short(range: &Range<usize>) -> Option<usize> {
    (range.len() < Part::END).then_some(range.start)
}

/// Reads a Request-URI.
pub(super) fn whole_uri(bytes: &[u8], range: Range<usize>) -> Option<WholeUriAt> {
    let mut steps = Steps::new(bytes, short(&range)?)?;
    let (uri, (at, _)) = uri(&mut steps, range.start)?;
    (at == range.end).then(|| WholeUriAt::new(range, uri))
}

/// Reads From, To, or one value of Route or Record-Route: angle brackets must be there.
pub(super) fn name_addr(bytes: &[u8], range: Range<usize>) -> Option<NameAddrAt> {
    let mut steps = Steps::new(bytes, short(&range)?)?;
    let mut at = steps.next()?;
    let mut display = Span::NONE;
    if at == (range.start, b'"') {
        at = steps.next()?;
        while at.1 != b'"' {
            // An escape may hide a quote.
            if at.1 == b'\\' || at.0 >= range.end {
                return None;
            }
            at = steps.next()?;
        }
        let end = at.0 + 1;
        display = Span::new(range.start..end);
        at = steps.next()?;
        if at == (end, b' ') {
            at = steps.next()?;
            if at.0 != end + 1 {
                return None;
            }
        } else if at.0 != end {
            return None;
        }
    } else if at.1 == b' ' && at.0 > range.start {
        let end = at.0;
        display = Span::new(range.start..end);
        at = steps.next()?;
        if at.0 != end + 1 {
            return None;
        }
    } else if at.0 != range.start {
        return None;
    }
    if at.1 != b'<' {
        return None;
    }
    let start = at.0 + 1;
    let (uri, (close, b'>')) = uri(&mut steps, start)? else { return None };
    let params = match close + 1 {
        end if end == range.end => Span::new(0..0),
        semicolon => {
            let first = steps.next()?;
            if first != (semicolon, b';')
                || params(&mut steps, first, |_, _| Some(()))?.0 != range.end
            {
                return None;
            }
            Span::new(semicolon..range.end)
        }
    };
    (close < range.end)
        .then(|| NameAddrAt::new(display, WholeUriAt::new(start..close, uri), params))
}

/// Reads one Via.
pub(super) fn via(bytes: &[u8], range: Range<usize>) -> Option<ViaAt> {
    const PROTOCOL: &[u8; 8] = b"SIP/2.0/";
    let start = short(&range)?;
    if bytes.get(start..)?.first_chunk::<8>()? != PROTOCOL {
        return None;
    }
    let transport = start + PROTOCOL.len();
    let mut steps = Steps::new(bytes, transport)?;
    let (space, b' ') = steps.next()? else { return None };
    if !(1..=16).contains(&(space - transport)) {
        return None;
    }
    let (host, port, at) = host_and_port(&mut steps, space + 1, start)?;
    let mut via = ViaAt {
        value: Span::new(range.clone()),
        transport: Part::new(transport - start, space - start),
        host,
        port,
        branch: Part::NONE,
        received: None,
        rport: None,
        params: Part::new(0, 0),
    };
    if at.0 == range.end {
        return Some(via);
    }
    via.params = Part::new(at.0 - start, range.end - start);
    let end = params(&mut steps, at, |name, value| {
        let text = value.clone().and_then(|value| bytes.get(value));
        match name.len() {
            6 if name.eq_ignore_ascii_case(b"branch") => {
                let value = value?;
                via.branch = Part::new(value.start - start, value.end - start);
            }
            8 if name.eq_ignore_ascii_case(b"received") => {
                via.received = Some(quad(text?)?.into());
            }
            5 if name.eq_ignore_ascii_case(b"rport") => {
                via.rport = match text {
                    Some(text) => Some(Some(port_number(text)?)),
                    None => Some(None),
                };
            }
            _ => {}
        }
        Some(())
    })?;
    (end.0 == range.end).then_some(via)
}

/// Reads a CSeq.
pub(super) fn cseq(bytes: &[u8], range: Range<usize>) -> Option<CSeqAt> {
    let value = bytes.get(range.clone())?;
    let space = value.iter().position(|b| !b.is_ascii_digit())?;
    let (digits, rest) = value.split_at_checked(space)?;
    let method = rest.strip_prefix(b" ")?;
    if method.is_empty() || method.len() > MAX_METHOD || !class::all(method, TOKEN) {
        return None;
    }
    let number = number(digits).filter(|number| *number < 1 << 31)?;
    Some(CSeqAt::new(number, Span::new(range.end - method.len()..range.end)))
}

/// A `sip:` or `sips:` URI and the separator behind it: all that it holds was looked at.
fn uri(steps: &mut Steps<'_>, start: usize) -> Option<(UriAt, Separator)> {
    let (colon, b':') = steps.next()? else { return None };
    let mut uri = UriAt::opaque(match steps.part(start..colon)? {
        [b's' | b'S', b'i' | b'I', b'p' | b'P'] => Scheme::Sip,
        [b's' | b'S', b'i' | b'I', b'p' | b'P', b's' | b'S'] => Scheme::Sips,
        _ => return None,
    });
    let before = Steps { ..*steps };
    let mut host = colon + 1;
    match steps.next()? {
        (at, b'@') if at > host => {
            uri.user = Part::new(host - start, at - start);
            host = at + 1;
        }
        _ => *steps = before,
    }
    let mut at;
    (uri.host, uri.port, at) = host_and_port(steps, host, start)?;
    if at.1 == b';' {
        let first = at.0;
        at = params(steps, at, |_, _| Some(()))?;
        uri.params = Part::new(first - start, at.0 - start);
    }
    Some((uri, at))
}

/// A host and its port, and the separator behind them; the host's place is told from `start`.
fn host_and_port(
    steps: &mut Steps<'_>,
    host: usize,
    start: usize,
) -> Option<(HostAt, Option<u16>, Separator)> {
    let at = steps.next()?;
    let found = host_at(steps.bytes, host..at.0, start)?;
    if at.1 != b':' {
        return Some((found, None, at));
    }
    let end = steps.next()?;
    Some((found, Some(port_number(steps.part(at.0 + 1..end.0)?)?), end))
}

/// `;name=value` again and again, and the separator behind them; `first` is the first semicolon.
#[inline]
fn params<'m>(
    steps: &mut Steps<'m>,
    first: Separator,
    mut each: impl FnMut(&'m [u8], Option<Range<usize>>) -> Option<()>,
) -> Option<Separator> {
    let mut names: [&[u8]; 4] = [&[]; 4];
    let mut count = 0;
    let mut at = first;
    while at.1 == b';' {
        let start = at.0 + 1;
        at = steps.next()?;
        let name = steps.part(start..at.0)?;
        let same = |other: &&[u8]| other.eq_ignore_ascii_case(name);
        if name.is_empty() || names.get(..count)?.iter().any(same) {
            return None;
        }
        *names.get_mut(count)? = name;
        count += 1;
        let mut value = None;
        if at.1 == b'=' {
            let start = at.0 + 1;
            at = steps.next()?;
            if start == at.0 {
                return None;
            }
            value = Some(start..at.0);
        }
        each(name, value)?;
    }
    Some(at)
}

/// A host that is all letters, digits, dots, hyphens and underscores: labels of letters, digits
/// and inner hyphens, or four numbers.
fn host_at(bytes: &[u8], range: Range<usize>, start: usize) -> Option<HostAt> {
    let length = range.len();
    // One bit for each byte; so no label is too long.
    if !(1..=63).contains(&length) {
        return None;
    }
    let (mut dots, mut hyphens, mut others) = (0_u64, 0_u64, 0_u64);
    let mut done = 0;
    for chunk in bytes.get(range.start..)?.as_chunks().0 {
        dots |= u64::from(equal(chunk, b'.')) << done;
        hyphens |= u64::from(equal(chunk, b'-')) << done;
        others |= u64::from(equal(chunk, b'_')) << done;
        done += WIDTH;
        if done >= length {
            break;
        }
    }
    if done < length {
        return None;
    }
    let all = (1 << length) - 1;
    let (dots, hyphens) = (dots & all, hyphens & all);
    let before = dots << 1 | 1;
    let behind = dots >> 1 | 1 << (length - 1);
    // No dot at either end, none behind another, no hyphen at a label's ends.
    if (dots | hyphens) & before | (dots & 1 << (length - 1)) | hyphens & behind | others & all != 0
    {
        return None;
    }
    let last_label = (u64::BITS - dots.leading_zeros()) as usize;
    if bytes.get(range.start + last_label)?.is_ascii_alphabetic() {
        return Some(HostAt::Name(Part::new(range.start - start, range.end - start)));
    }
    quad(bytes.get(range)?).map(|address| HostAt::V4(address.to_bits()))
}

/// Four numbers as everybody writes them, without needless zeros.
fn quad(text: &[u8]) -> Option<Ipv4Addr> {
    let (mut octets, mut dots) = (0_u32, 0);
    // The number in progress; none yet is more than any.
    let mut number = None;
    for b in text {
        match (number, b) {
            (None, b'0'..=b'9') => number = Some(u32::from(b - b'0')),
            (Some(1..=25), b'0'..=b'9') => {
                number = number.map(|number| number * 10 + u32::from(b - b'0'));
            }
            (Some(octet @ ..=255), b'.') if dots < 3 => {
                octets = octets << 8 | octet;
                (number, dots) = (None, dots + 1);
            }
            _ => return None,
        }
    }
    let last = number.filter(|last| *last <= 255 && dots == 3)?;
    Some(Ipv4Addr::from_bits(octets << 8 | last))
}

/// A port: digits only, 1 to 65535.
pub(super) fn port_number(text: &[u8]) -> Option<u16> {
    let port = if text.len() <= 5 { number(text)? } else { return None };
    u16::try_from(port).ok().filter(|port| *port != 0)
}
