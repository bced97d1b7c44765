//! Where the values are that routing rests on, once a message was found good: they are read once,
//! and given again as slices. A message that is too large for the short offsets here is read
//! again each time, with the same outcome.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use super::{
    Host, Params,
    uri::{Scheme, Uri},
    value::{CSeq, NameAddr},
    via::Via,
};
use crate::sip::Method;

/// A part of a text, or none.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: u16,
    end: u16,
}

impl Part {
    const NONE: Part = Part { start: u16::MAX, end: u16::MAX };

    /// `part` is a slice of `whole`.
    fn of(whole: &str, part: Option<&str>) -> Option<Self> {
        let Some(part) = part else { return Some(Self::NONE) };
        if part.is_empty() {
            return Some(Self { start: 0, end: 0 });
        }
        let range = place(whole.as_bytes(), part.as_bytes())?;
        let part = Self { start: range.start.try_into().ok()?, end: range.end.try_into().ok()? };
        (part.end != u16::MAX).then_some(part)
    }

    fn read(self, whole: &str) -> Option<&str> {
        if self.end == u16::MAX {
            return None;
        }
        whole.get(usize::from(self.start)..usize::from(self.end))
    }
}

/// Where a slice is in what it is a slice of.
pub(super) fn place(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    (start + part.len() <= whole.len()).then_some(start..start + part.len())
}

/// Bytes of the message.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn of(whole: &[u8], part: &[u8]) -> Option<Self> {
        if part.is_empty() {
            return Some(Self { start: 0, end: 0 });
        }
        let range = place(whole, part)?;
        Some(Self { start: range.start.try_into().ok()?, end: range.end.try_into().ok()? })
    }

    fn read(self, whole: &[u8]) -> Option<&[u8]> {
        whole.get(self.start as usize..self.end as usize)
    }

    fn text(self, whole: &[u8]) -> Option<&str> {
        std::str::from_utf8(self.read(whole)?).ok()
    }
}

#[derive(Clone, Copy, Debug)]
enum HostAt {
    None,
    Name(Part),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl HostAt {
    fn of(whole: &str, host: Option<Host<'_>>) -> Option<Self> {
        Some(match host {
            None => HostAt::None,
            Some(Host::Name(name)) => HostAt::Name(Part::of(whole, Some(name))?),
            Some(Host::V4(address)) => HostAt::V4(address),
            Some(Host::V6(address)) => HostAt::V6(address),
        })
    }

    fn read(self, whole: &str) -> Option<Host<'_>> {
        match self {
            HostAt::None => None,
            HostAt::Name(part) => part.read(whole).map(Host::Name),
            HostAt::V4(address) => Some(Host::V4(address)),
            HostAt::V6(address) => Some(Host::V6(address)),
        }
    }
}

/// A URI.
#[derive(Clone, Copy, Debug)]
pub(super) struct UriAt {
    raw: Span,
    scheme: Scheme,
    user: Part,
    password: Part,
    host: HostAt,
    port: Option<u16>,
    params: Part,
    headers: Part,
}

impl UriAt {
    pub(super) fn of(message: &[u8], uri: &Uri<'_>) -> Option<Self> {
        let raw = uri.raw;
        Some(Self {
            raw: Span::of(message, raw.as_bytes())?,
            scheme: uri.scheme,
            user: Part::of(raw, uri.user)?,
            password: Part::of(raw, uri.password)?,
            host: HostAt::of(raw, uri.host)?,
            port: uri.port,
            params: Part::of(raw, Some(uri.params.as_str()))?,
            headers: Part::of(raw, uri.headers)?,
        })
    }

    pub(super) fn read<'m>(&self, message: &'m [u8]) -> Option<Uri<'m>> {
        let raw = self.raw.text(message)?;
        Some(Uri {
            raw,
            scheme: self.scheme,
            user: self.user.read(raw),
            password: self.password.read(raw),
            host: self.host.read(raw),
            port: self.port,
            params: Params::checked(self.params.read(raw)?),
            headers: self.headers.read(raw),
        })
    }
}

/// From or To.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameAddrAt {
    display: Option<Span>,
    uri: UriAt,
    params: Span,
}

impl NameAddrAt {
    pub(super) fn of(message: &[u8], value: &NameAddr<'_>) -> Option<Self> {
        let display = match value.display {
            Some(display) => Some(Span::of(message, display)?),
            None => None,
        };
        let params = Span::of(message, value.params.as_str().as_bytes())?;
        Some(Self { display, uri: UriAt::of(message, &value.uri)?, params })
    }

    pub(super) fn read<'m>(&self, message: &'m [u8]) -> Option<NameAddr<'m>> {
        Some(NameAddr {
            display: self.display.and_then(|display| display.read(message)),
            uri: self.uri.read(message)?,
            params: Params::checked(self.params.text(message)?),
        })
    }
}

/// The top Via.
#[derive(Clone, Copy, Debug)]
pub(super) struct ViaAt {
    value: Span,
    transport: Part,
    host: HostAt,
    port: Option<u16>,
    branch: Part,
    received: Option<IpAddr>,
    rport: Option<Option<u16>>,
    params: Part,
}

impl ViaAt {
    pub(super) fn of(message: &[u8], value: &[u8], via: &Via<'_>) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        Some(Self {
            value: Span::of(message, value)?,
            transport: Part::of(text, Some(via.transport))?,
            host: HostAt::of(text, Some(via.host))?,
            port: via.port,
            branch: Part::of(text, via.branch)?,
            received: via.received,
            rport: via.rport,
            params: Part::of(text, Some(via.params.as_str()))?,
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
    pub uri: Option<UriAt>,
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
    fn what_is_too_long_is_read_each_time() {
        let user = "x".repeat(70_000);
        let text = format!(
            "BYE sip:{user}@c.example SIP/2.0\r\nVia: SIP/2.0/TCP h.example\r\nFrom: sip:b@c.example\r\n\
             To: sip:c@d.example\r\nCall-ID: c\r\nCSeq: 1 BYE\r\n\r\n"
        );
        let limits = Limits { head: 200_000, line: 100_000, ..Limits::default() };
        let message = Message::parse_datagram(Bytes::from(text), &limits).unwrap();
        message.validate().unwrap();
        assert!(!message.knows_its_facts());
        assert_eq!(message.request_uri().unwrap().unwrap().user().unwrap().len(), 70_000);
    }
}
