//! Where the values are that routing rests on, once a message was found good: they are read once,
//! and given again as slices.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::Range,
};

use super::{
    Host, Params,
    scan::find,
    uri::{Uri, UriAt},
    value::{CSeq, NameAddr},
    via::Via,
};
use crate::sip::Method;

/// A part of a value, or none: its start, and above it its end, in one number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part(u32);

impl Part {
    pub(super) const NONE: Part = Part(u32::MAX);
    /// A value that a part is told of is shorter: no line is so long.
    pub(super) const END: usize = u16::MAX as usize;

    /// From one place to another, both below [`Part::END`].
    pub(super) const fn new(start: usize, end: usize) -> Self {
        Self((end as u32) << 16 | start as u16 as u32)
    }

    /// `part` is a slice of `whole`.
    fn of(whole: &[u8], part: &str) -> Option<Self> {
        let Range { start, end } = place(whole, part.as_bytes())?;
        (end < Self::END).then_some(Self::new(start, end))
    }

    pub(super) fn read(self, whole: &str) -> Option<&str> {
        let (start, end) = (self.0 & 0xffff, self.0 >> 16);
        if end == 0xffff {
            return None;
        }
        whole.get(start as usize..end as usize)
    }
}

/// A part of the message, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) const NONE: Span = Span { start: u32::MAX, end: u32::MAX };

    /// From one place of a head to another.
    pub(super) const fn new(range: Range<usize>) -> Self {
        Self { start: range.start as u32, end: range.end as u32 }
    }

    fn of(whole: &[u8], part: &[u8]) -> Option<Self> {
        let range = place(whole, part)?;
        (range.end < u32::MAX as usize).then_some(Self::new(range))
    }

    fn read(self, whole: &[u8]) -> Option<&[u8]> {
        if self.end == u32::MAX {
            return None;
        }
        whole.get(self.start as usize..self.end as usize)
    }

    fn text(self, whole: &[u8]) -> Option<&str> {
        std::str::from_utf8(self.read(whole)?).ok()
    }
}

/// Where a slice is in what it is a slice of.
pub(super) fn place(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    if part.is_empty() {
        return Some(0..0);
    }
    // What is no slice of it begins far behind its end.
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// A host, in a text: two words, which are handed on in registers.
#[derive(Clone, Copy, Debug)]
pub(super) enum HostAt {
    None,
    Name(Part),
    /// The address.
    V4(u32),
    /// Where it begins: it is read again.
    V6(u32),
}

impl HostAt {
    /// A host that begins there.
    pub(super) fn at(start: usize, host: Host<'_>) -> Self {
        match host {
            Host::Name(name) => HostAt::Name(Part::new(start, start + name.len())),
            Host::V4(address) => HostAt::V4(address.to_bits()),
            Host::V6(_) => HostAt::V6(start as u32),
        }
    }

    fn of(whole: &[u8], host: Host<'_>) -> Option<Self> {
        let start = match host {
            Host::Name(name) => place(whole, name.as_bytes())?.start,
            Host::V4(_) => 0,
            // Nothing before it holds one.
            Host::V6(_) => find(whole, b'[')?,
        };
        Some(Self::at(start, host))
    }

    pub(super) fn read(self, whole: &str) -> Option<Host<'_>> {
        match self {
            HostAt::None => None,
            HostAt::Name(part) => part.read(whole).map(Host::Name),
            HostAt::V4(address) => Some(Host::V4(Ipv4Addr::from_bits(address))),
            HostAt::V6(start) => Some(Host::front(whole.get(start as usize..)?)?.0),
        }
    }
}

/// A URI and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct WholeUriAt {
    raw: Span,
    at: UriAt,
}

impl WholeUriAt {
    pub(super) fn new(raw: Range<usize>, at: UriAt) -> Self {
        Self { raw: Span::new(raw), at }
    }

    pub(super) fn of(message: &[u8], uri: &Uri<'_>) -> Option<Self> {
        Some(Self { raw: Span::of(message, uri.raw.as_bytes())?, at: uri.at })
    }

    pub(super) fn read<'m>(&self, message: &'m [u8]) -> Option<Uri<'m>> {
        Some(Uri { raw: self.raw.text(message)?, at: self.at })
    }
}

/// From or To.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameAddrAt {
    display: Span,
    uri: WholeUriAt,
    params: Span,
}

impl NameAddrAt {
    pub(super) const fn new(display: Span, uri: WholeUriAt, params: Span) -> Self {
        Self { display, uri, params }
    }

    pub(super) fn of(message: &[u8], value: &NameAddr<'_>) -> Option<Self> {
        let display = match value.display {
            Some(display) => Span::of(message, display)?,
            None => Span::NONE,
        };
        let params = Span::of(message, value.params.as_str().as_bytes())?;
        Some(Self { display, uri: WholeUriAt::of(message, &value.uri)?, params })
    }

    pub(super) fn read<'m>(&self, message: &'m [u8]) -> Option<NameAddr<'m>> {
        Some(NameAddr {
            display: self.display.read(message),
            uri: self.uri.read(message)?,
            params: Params::checked(self.params.text(message)?),
        })
    }
}

/// The top Via.
#[derive(Clone, Copy, Debug)]
pub(super) struct ViaAt {
    pub value: Span,
    pub transport: Part,
    pub host: HostAt,
    pub port: Option<u16>,
    pub branch: Part,
    pub received: Option<IpAddr>,
    pub rport: Option<Option<u16>>,
    pub params: Part,
}

impl ViaAt {
    pub(super) fn of(message: &[u8], value: &[u8], via: &Via<'_>) -> Option<Self> {
        Some(Self {
            value: Span::of(message, value)?,
            transport: Part::of(value, via.transport)?,
            host: HostAt::of(value, via.host)?,
            port: via.port,
            branch: via.branch.map_or(Some(Part::NONE), |branch| Part::of(value, branch))?,
            received: via.received,
            rport: via.rport,
            params: Part::of(value, via.params.as_str())?,
        })
    }

    pub(super) fn read<'m>(&self, message: &'m [u8]) -> Option<Via<'m>> {
        let text = self.value.text(message)?;
        Some(Via {
            transport: self.transport.read(text)?,
            host: self.host.read(text)?,
            port: self.port,
            branch: self.branch.read(text),
            received: self.received,
            rport: self.rport,
            params: Params::checked(self.params.read(text)?),
        })
    }
}

/// CSeq.
#[derive(Clone, Copy, Debug)]
pub(super) struct CSeqAt {
    number: u32,
    method: Span,
}

impl CSeqAt {
    pub(super) const fn new(number: u32, method: Span) -> Self {
        Self { number, method }
    }

    /// The method's bytes.
    pub(super) fn method(self, message: &[u8]) -> Option<&[u8]> {
        self.method.read(message)
    }

    pub(super) fn of(message: &[u8], value: &[u8], cseq: &CSeq<'_>) -> Option<Self> {
        // The method is the end of the value, whoever's text it was read into.
        let value = value.trim_ascii_end();
        let method = value.get(value.len().checked_sub(cseq.method.as_str().len())?..)?;
        Some(Self { number: cseq.number, method: Span::of(message, method)? })
    }

    pub(super) fn read<'m>(&self, message: &'m [u8]) -> Option<CSeq<'m>> {
        let method = Method::from_token(self.method.text(message)?);
        Some(CSeq { number: self.number, method })
    }
}

/// All of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub via: ViaAt,
    pub from: NameAddrAt,
    pub to: NameAddrAt,
    pub cseq: CSeqAt,
    /// A request's.
    pub uri: Option<WholeUriAt>,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::sip::{Limits, Message};

    fn values(message: &Message) -> String {
        format!(
            "{:?}\n{:?}\n{:?}\n{:?}\n{:?}",
            message.via(),
            message.from(),
            message.to(),
            message.cseq(),
            message.request_uri()
        )
    }

    #[test]
    fn what_is_known_is_what_is_read() {
        let texts: &[&[u8]] = &[
            b"INVITE sip:bob:pw@[2001:db8::1]:5070;user=phone SIP/2.0\r\nv: SIP / 2.0 / TLS  \
              a.example : 5061 ;branch=z9hG4bKx;received=192.0.2.1;rport=9, SIP/2.0/UDP b\r\n\
              f: \"\xff \\\" x\" <sips:a:@A.Example.?x=1>;tag=t;x=\"\xc3\xa9\"\r\nTo: tel:+1;phone-context=x;tag=q\r\n\
              Call-ID: c\r\nCSeq:  7   INVITE \r\n\r\n",
            b"SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP 192.0.2.7;rport;branch=z9hG4bKx\r\n\
              From: Bob <sip:b@c.example>\r\nTo: <sip:192.0.2.9>;tag=1\r\nCall-ID: c\r\n\
              CSeq: 2147483647 FOO\r\n\r\n",
            b"BYE sip:[2001:db8::2];lr SIP/2.0\r\nVia: SIP/2.0/TLS [2001:db8::7]:5061;received=2001:db8::9\r\n\
              From: sip:b@[2001:db8::3]\r\nTo: <sip:[::192.0.2.1]:5061>\r\nCall-ID: c\r\nCSeq: 1 BYE\r\n\r\n",
            b"FOO urn:service:sos SIP/2.0\r\nVia: SIP/2.0/TCP h.example\r\nFrom: sip:b@c.example\r\n\
              To: <urn:x:y>\r\nCall-ID: c\r\nCSeq: 0 FOO\r\n\r\n",
        ];
        for text in texts {
            let bytes = Bytes::from_static(text);
            let message = Message::parse_datagram(bytes, &Limits::default()).unwrap();
            let before = values(&message);
            message.validate().unwrap();
            assert!(message.knows_its_facts());
            assert_eq!(values(&message), before);
            assert_eq!(values(&message.clone()), before);
        }
    }

    #[test]
    fn a_uri_longer_than_any_line_is_refused() {
        for (length, good) in [(16_000, true), (65_000, true), (70_000, false)] {
            let user = "x".repeat(length);
            let text = format!(
                "BYE sip:{user}@c.example SIP/2.0\r\nVia: SIP/2.0/TCP h.example\r\nFrom: sip:b@c.example\r\n\
                 To: sip:c@d.example\r\nCall-ID: c\r\nCSeq: 1 BYE\r\n\r\n"
            );
            let limits = Limits { head: 200_000, line: 100_000, ..Limits::default() };
            let message = Message::parse_datagram(Bytes::from(text), &limits).unwrap();
            assert_eq!(message.validate().is_ok(), good);
            assert_eq!(message.knows_its_facts(), good);
            let uri = message.request_uri().unwrap();
            assert_eq!(uri.ok().and_then(|uri| uri.user()).map(str::len), good.then_some(length));
        }
    }
}
