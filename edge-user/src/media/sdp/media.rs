//! m-lines: what they are for, and where.

use std::{net::IpAddr, ops::Range};

use super::{
    SdpFault,
    address::ConnectionAt,
    line::{is_token, number, port, words},
};

/// What an m-line is for: its first word, whatever its case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// `audio`
    Audio,
    /// `video`
    Video,
    /// `application`
    Application,
    /// `applicationsharing`: Lync's screen sharing
    ApplicationSharing,
    /// `data`: Lync's meeting data and file transfer
    Data,
    /// `message`, and `x-ms-message` of Live Communications Server
    Message,
    /// `text`
    Text,
    /// `image`
    Image,
    /// Anything else
    Other,
}

impl MediaKind {
    fn of(word: &[u8]) -> Self {
        const NAMES: &[(&str, MediaKind)] = &[
            ("audio", MediaKind::Audio),
            ("video", MediaKind::Video),
            ("application", MediaKind::Application),
            ("applicationsharing", MediaKind::ApplicationSharing),
            ("data", MediaKind::Data),
            ("message", MediaKind::Message),
            ("x-ms-message", MediaKind::Message),
            ("text", MediaKind::Text),
            ("image", MediaKind::Image),
        ];
        let known = |(name, _): &&(&str, MediaKind)| word.eq_ignore_ascii_case(name.as_bytes());
        NAMES.iter().find(known).map_or(MediaKind::Other, |(_, kind)| *kind)
    }
}

/// A profile of RTP over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RtpProfile {
    /// `RTP/AVP`
    Avp,
    /// `RTP/SAVP`
    Savp,
    /// `RTP/AVPF`
    Avpf,
    /// `RTP/SAVPF`
    Savpf,
    /// `UDP/TLS/RTP/SAVP`
    DtlsSavp,
    /// `UDP/TLS/RTP/SAVPF`
    DtlsSavpf,
}

/// What an m-line is carried by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// RTP over UDP
    Rtp(RtpProfile),
    /// `udptl` and `UDP/TLS/UDPTL`: fax
    Udptl,
    /// Anything else over UDP: data channels, BFCP, plain `udp`
    Udp,
    /// Anything over TCP: Lync's application sharing, MSRP
    Tcp,
    /// The SIP dialog itself: `m=message 5060 sip null` of Lync
    Sip,
    /// Anything else
    Other,
}

impl Transport {
    fn of(word: &[u8]) -> Self {
        const NAMES: &[(&str, Transport)] = &[
            ("RTP/AVP", Transport::Rtp(RtpProfile::Avp)),
            ("RTP/SAVP", Transport::Rtp(RtpProfile::Savp)),
            ("RTP/AVPF", Transport::Rtp(RtpProfile::Avpf)),
            ("RTP/SAVPF", Transport::Rtp(RtpProfile::Savpf)),
            ("UDP/TLS/RTP/SAVP", Transport::Rtp(RtpProfile::DtlsSavp)),
            ("UDP/TLS/RTP/SAVPF", Transport::Rtp(RtpProfile::DtlsSavpf)),
            ("udptl", Transport::Udptl),
            ("UDP/TLS/UDPTL", Transport::Udptl),
            ("udp", Transport::Udp),
            ("DTLS/SCTP", Transport::Udp),
            ("tcp", Transport::Tcp),
            ("sip", Transport::Sip),
        ];
        let known = |(name, _): &&(&str, Transport)| word.eq_ignore_ascii_case(name.as_bytes());
        if let Some((_, transport)) = NAMES.iter().find(known) {
            return *transport;
        }
        match word.get(..4) {
            Some(start) if start.eq_ignore_ascii_case(b"UDP/") => Transport::Udp,
            Some(start) if start.eq_ignore_ascii_case(b"TCP/") => Transport::Tcp,
            _ => Transport::Other,
        }
    }

    /// RTP over UDP.
    pub fn is_rtp(self) -> bool {
        matches!(self, Transport::Rtp(_))
    }

    /// Packets of UDP.
    pub fn is_udp(self) -> bool {
        matches!(self, Transport::Rtp(_) | Transport::Udptl | Transport::Udp)
    }
}

/// Which way media goes, seen from who wrote the text (RFC 3264 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// Both ways
    #[default]
    SendRecv,
    /// The writer sends only
    SendOnly,
    /// The writer receives only
    RecvOnly,
    /// Neither
    Inactive,
}

impl Direction {
    pub(super) fn of(attribute: &[u8]) -> Option<Self> {
        match attribute {
            b"sendrecv" => Some(Direction::SendRecv),
            b"sendonly" => Some(Direction::SendOnly),
            b"recvonly" => Some(Direction::RecvOnly),
            b"inactive" => Some(Direction::Inactive),
            _ => None,
        }
    }

    /// The writer does not receive: hold by address.
    pub(super) fn without_receiving(self) -> Self {
        match self {
            Direction::SendRecv | Direction::SendOnly => Direction::SendOnly,
            Direction::RecvOnly | Direction::Inactive => Direction::Inactive,
        }
    }

    /// Anything but both ways: the leg is on hold, silence on it means nothing.
    pub fn is_held(self) -> bool {
        self != Direction::SendRecv
    }
}

/// One m-line with what belongs to it, and with what it takes over from the session.
#[derive(Clone, Debug)]
pub struct Media {
    /// What it is for.
    pub kind: MediaKind,
    /// Its port; 0: rejected, or switched off, unless [`Media::bundle_only`].
    pub port: u16,
    /// How many ports it asks for (`m=audio 5000/2`); 1 if it says nothing.
    pub ports: u16,
    /// What it is carried by.
    pub protocol: Transport,
    /// Where it is received: its own `c=`, or the session's. All zeros: hold, or an address that
    /// comes later (RFC 8840). `None`: a name, or no `c=` at all.
    pub address: Option<IpAddr>,
    /// `c=` has a host name.
    pub host_is_name: bool,
    /// `a=rtcp` (RFC 3605).
    pub rtcp: Option<(u16, Option<IpAddr>)>,
    /// RTP and RTCP on one port (RFC 5761).
    pub rtcp_mux: bool,
    /// It is offered with port 0, as part of a bundle only (RFC 8843).
    pub bundle_only: bool,
    /// Which way media goes. An address of all zeros is hold as of old (RFC 3264 section 8.4).
    pub direction: Direction,
    /// RTP clock of the first format, Hz.
    pub clock: Option<u32>,
    /// `b=TIAS`, else `b=AS`; the session's if it has none.
    pub bits_per_second: Option<u64>,
    /// It has ICE candidates or a name for them.
    pub has_ice: bool,
    /// It is received at an address that only ICE's checks told its writer (a candidate of the type
    /// `prflx`, RFC 8445 section 7.2.5.3.1): where the other end sees its packets come from.
    pub is_reflexive: bool,
    /// It is a file (RFC 5547).
    pub file_transfer: bool,
    pub(super) name: Range<u32>,
    pub(super) mid: Option<Range<u32>>,
    pub(super) port_at: Range<u32>,
    /// Its own `c=`.
    pub(super) connection: Option<ConnectionAt>,
    /// Its line in the text, and where its lines end.
    pub(super) lines: Range<u32>,
    pub(super) rtcp_at: Option<RtcpAt>,
    pub(super) bundle_only_line: Option<u32>,
    /// Its ICE lines.
    pub(super) ice: Vec<IceLine>,
    /// Its other lines that name addresses.
    pub(super) naming: Vec<u32>,
}

/// `a=rtcp`.
#[derive(Clone, Debug)]
pub(super) struct RtcpAt {
    /// Its line.
    pub line: u32,
    /// Its value.
    pub value: Range<u32>,
}

/// A line of ICE.
#[derive(Clone, Copy, Debug)]
pub(super) struct IceLine {
    /// Its line.
    pub line: u32,
    /// It names an address.
    pub candidate: bool,
    /// It is a candidate as RFC 8839 writes it.
    pub standard: bool,
    /// Address and port of a candidate of the type `prflx`.
    pub reflexive: Option<(IpAddr, u16)>,
}

impl Media {
    /// It is offered or taken: it has a port, or is part of a bundle.
    pub fn is_on(&self) -> bool {
        self.port != 0 || self.bundle_only
    }

    /// Its address is all zeros: hold as of old (RFC 3264 section 8.4). With port 9 and ICE it is
    /// an address that comes later instead (RFC 8840 section 4.1.1).
    pub fn held_by_address(&self) -> bool {
        self.address.is_some_and(|address| address.is_unspecified())
            && !(self.has_ice && self.port == 9)
    }

    /// Where RTCP is received; `None`: on the port of RTP, nowhere (all zeros, port 0), or it is not
    /// RTP.
    pub fn rtcp_address(&self) -> Option<(IpAddr, u16)> {
        if !self.protocol.is_rtp() || self.port == 0 {
            return None;
        }
        let (port, address) = match self.rtcp {
            Some((port, address)) => (port, address.or(self.address)?),
            None => (self.port.checked_add(1)?, self.address?),
        };
        let nowhere = port == 0 || address.is_unspecified();
        let own = port != self.port || Some(address) != self.address;
        (own && !nowhere).then_some((address, port))
    }
}

/// The value of `m=`.
pub(super) struct MediaLine {
    pub kind: MediaKind,
    pub name: Range<u32>,
    pub port: u16,
    pub ports: u16,
    pub port_at: Range<u32>,
    pub protocol: Transport,
    /// The first format.
    pub format: Range<u32>,
}

impl MediaLine {
    /// Reads the value; `base` is where it begins.
    pub(super) fn read(value: &[u8], base: u32) -> Result<Self, SdpFault> {
        let mut words = words(value);
        let mut next = || words.next().filter(|(_, word)| !word.is_empty()).ok_or(SdpFault::Media);
        let (_, kind) = next()?;
        let (port_start, ports) = next()?;
        let (_, protocol) = next()?;
        let (format_start, format) = next()?;
        if !is_token(kind) || !protocol.split(|b| *b == b'/').all(is_token) {
            return Err(SdpFault::Media);
        }
        let (first, count) = match ports.iter().position(|b| *b == b'/') {
            None => (ports, 1),
            Some(slash) => {
                let (first, count) = ports.split_at(slash);
                let count = number(count.get(1..).unwrap_or_default(), u64::from(u16::MAX));
                (first, count.filter(|count| *count > 0).ok_or(SdpFault::Port)?)
            }
        };
        let first = port(first).ok_or(SdpFault::Port)?;
        let at = |start: usize, word: &[u8]| {
            let start = base + start as u32;
            start..start + word.len() as u32
        };
        Ok(Self {
            kind: MediaKind::of(kind),
            name: at(0, kind),
            port: first,
            ports: u16::try_from(count).map_err(|_| SdpFault::Port)?,
            port_at: at(port_start, ports),
            protocol: Transport::of(protocol),
            format: at(format_start, format),
        })
    }
}

/// RTP clocks of the formats that need no `a=rtpmap` (RFC 3551 section 6).
pub(super) fn static_clock(format: &[u8]) -> Option<u32> {
    match number(format, 127)? {
        0 | 3..=5 | 7..=9 | 12 | 13 | 15 | 18 => Some(8_000),
        6 => Some(16_000),
        10 | 11 => Some(44_100),
        14 | 25 | 26 | 28 | 31..=34 => Some(90_000),
        16 => Some(11_025),
        17 => Some(22_050),
        _ => None,
    }
}
