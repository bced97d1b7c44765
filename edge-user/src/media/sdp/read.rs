//! From lines to the index: one pass, then what each m-line takes over from the session.

use std::ops::Range;

use bytes::Bytes;

use super::{
    Group, OriginAt, Sdp, SdpBounds, SdpError, SdpFault,
    address::{self, ConnectionAt},
    bytes_at,
    line::{self, Line, is_token, number, port, words},
    media::{Direction, IceLine, Media, MediaLine, RtcpAt, static_clock},
};

/// Reads a text.
pub(super) fn read(text: Bytes, bounds: &SdpBounds) -> Result<Sdp, SdpError> {
    let lines = line::lines(&text, bounds)?;
    let mut reader = Reader {
        text: &text,
        bounds,
        origin: None,
        name: false,
        session: Section::default(),
        media: Vec::new(),
        groups: Vec::new(),
    };
    for (number, line) in lines.iter().enumerate() {
        reader.line(number as u32, line)?;
    }
    let Reader { origin, session, media, mut groups, .. } = reader;
    let origin = origin.ok_or(SdpError::whole(SdpFault::OriginPlace))?;
    let media = media
        .into_iter()
        .map(|part| part.finish(&session, lines.len() as u32))
        .collect::<Result<Vec<_>, _>>()?;
    join(&text, &mut groups, &media)?;
    let Section { connection, ice: session_ice, naming, .. } = session;
    Ok(Sdp { text, lines, origin, connection, groups, session_ice, naming, media })
}

struct Reader<'t> {
    text: &'t [u8],
    bounds: &'t SdpBounds,
    origin: Option<OriginAt>,
    /// `s=` was seen.
    name: bool,
    session: Section,
    media: Vec<MediaPart>,
    groups: Vec<Group>,
}

/// What the session or an m-line says for itself.
#[derive(Default)]
struct Section {
    connection: Option<ConnectionAt>,
    direction: Option<Direction>,
    specific: Option<u64>,
    kilobits: Option<u64>,
    has_ice: bool,
    ice: Vec<IceLine>,
    /// Other lines that name addresses.
    naming: Vec<u32>,
    attributes: usize,
}

impl Section {
    fn bits_per_second(&self) -> Option<u64> {
        self.specific.or_else(|| self.kilobits.map(|kilobits| kilobits.saturating_mul(1_000)))
    }
}

/// An m-line under way.
struct MediaPart {
    line: u32,
    /// One past its last line; 0: not known yet.
    end: u32,
    head: MediaLine,
    section: Section,
    rtcp: Option<(u16, Option<std::net::IpAddr>, RtcpAt)>,
    rtcp_mux: bool,
    bundle_only: Option<u32>,
    mid: Option<Range<u32>>,
    clock: Option<u32>,
    file_transfer: bool,
}

impl Reader<'_> {
    fn line(&mut self, number: u32, line: &Line) -> Result<(), SdpError> {
        let range = line.value_start()..line.end;
        self.value(number, line.kind, range).map_err(|fault| SdpError::at(number, fault))
    }

    fn value(&mut self, number: u32, kind: u8, range: Range<u32>) -> Result<(), SdpFault> {
        let value = bytes_at(self.text, &range);
        if (number == 0) != (kind == b'v') {
            return Err(SdpFault::Version);
        }
        match kind {
            b'v' if value != b"0" => Err(SdpFault::Version),
            b'o' if self.origin.is_some() || !self.media.is_empty() => Err(SdpFault::OriginPlace),
            b'o' => {
                self.origin = Some(origin(value, range.start)?);
                Ok(())
            }
            b's' | b'u' | b'e' | b'p' | b't' | b'r' | b'z' if !self.media.is_empty() => {
                Err(SdpFault::Place)
            }
            b's' if self.name => Err(SdpFault::Twice),
            b's' => {
                self.name = true;
                Ok(())
            }
            b'c' => self.connection(value, range.start),
            b'b' => self.bandwidth(value),
            b'm' => self.media_line(number, value, range.start),
            b'a' => self.attribute(number, value, range.start),
            _ => Ok(()),
        }
    }

    fn section(&mut self) -> &mut Section {
        match self.media.last_mut() {
            Some(part) => &mut part.section,
            None => &mut self.session,
        }
    }

    fn connection(&mut self, value: &[u8], base: u32) -> Result<(), SdpFault> {
        let words = three_words(value, base).ok_or(SdpFault::Connection)?;
        let connection = address::read(words)?;
        match self.section().connection.replace(connection) {
            Some(_) => Err(SdpFault::Twice),
            None => Ok(()),
        }
    }

    fn bandwidth(&mut self, value: &[u8]) -> Result<(), SdpFault> {
        let colon = memchr::memchr(b':', value).ok_or(SdpFault::Bandwidth)?;
        let (word, rest) = value.split_at(colon);
        let place = match word {
            b"TIAS" => &mut self.section().specific,
            b"AS" => &mut self.section().kilobits,
            _ => return Ok(()),
        };
        let rest = rest.get(1..).unwrap_or_default().trim_ascii_end();
        let bits = number(rest, u64::MAX).ok_or(SdpFault::Bandwidth)?;
        match place.replace(bits) {
            Some(_) => Err(SdpFault::Twice),
            None => Ok(()),
        }
    }

    fn media_line(&mut self, number: u32, value: &[u8], base: u32) -> Result<(), SdpFault> {
        if self.media.len() >= self.bounds.media {
            return Err(SdpFault::TooManyMedia);
        }
        let head = MediaLine::read(value, base)?;
        if let Some(before) = self.media.last_mut() {
            before.end = number;
        }
        self.media.push(MediaPart {
            line: number,
            end: 0,
            clock: head
                .protocol
                .is_rtp()
                .then(|| static_clock(bytes_at(self.text, &head.format)))
                .flatten(),
            head,
            section: Section::default(),
            rtcp: None,
            rtcp_mux: false,
            bundle_only: None,
            mid: None,
            file_transfer: false,
        });
        Ok(())
    }

    fn attribute(&mut self, number: u32, value: &[u8], base: u32) -> Result<(), SdpFault> {
        let (bound, of_session) = (self.bounds.attributes, self.media.is_empty());
        let section = self.section();
        section.attributes += 1;
        if section.attributes > bound {
            return Err(SdpFault::TooManyAttributes);
        }
        let (name, rest) = match memchr::memchr(b':', value) {
            Some(colon) => {
                (value.get(..colon).unwrap_or_default(), value.get(colon + 1..).unwrap_or_default())
            }
            None => (value.trim_ascii_end(), &b""[..]),
        };
        let at = base + (value.len() - rest.len()) as u32;
        if let Some(ice) = ice(number, name, rest) {
            section.has_ice |= ice.candidate || name == b"ice-ufrag";
            section.ice.push(ice);
            return Ok(());
        }
        // Of the session, and in another case, `a=rtcp` means something to some readers only.
        let rtcp = name.eq_ignore_ascii_case(b"rtcp");
        if names_address(name) || rtcp && (name != b"rtcp" || of_session) {
            section.naming.push(number);
            return Ok(());
        }
        if let Some(direction) = Direction::of(name) {
            return match section.direction.replace(direction) {
                Some(before) if before != direction => Err(SdpFault::Directions),
                _ => Ok(()),
            };
        }
        match self.media.last_mut() {
            Some(part) => part.attribute(self.text, number, name, at..at + rest.len() as u32),
            None if name == b"group" => {
                self.groups.push(group(number, rest, at)?);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl MediaPart {
    /// An attribute that only m-lines have.
    fn attribute(
        &mut self,
        text: &[u8],
        line: u32,
        name: &[u8],
        value: Range<u32>,
    ) -> Result<(), SdpFault> {
        let rest = bytes_at(text, &value);
        let twice = match name {
            b"rtcp" => {
                let (port, address) = rtcp(rest, value.start)?;
                self.rtcp.replace((port, address, RtcpAt { line, value })).is_some()
            }
            b"mid" => {
                let word = rest.trim_ascii_end();
                if !is_token(word) {
                    return Err(SdpFault::Group);
                }
                self.mid.replace(value.start..value.start + word.len() as u32).is_some()
            }
            b"bundle-only" => self.bundle_only.replace(line).is_some(),
            b"rtcp-mux" => {
                self.rtcp_mux = true;
                false
            }
            b"file-selector" => {
                self.file_transfer = true;
                false
            }
            b"rtpmap" => {
                if let Some((format, clock)) = rtpmap(rest)
                    && format == bytes_at(text, &self.head.format)
                {
                    self.clock = Some(clock);
                }
                false
            }
            _ => false,
        };
        if twice { Err(SdpFault::Twice) } else { Ok(()) }
    }

    /// Joins it with what the session says.
    fn finish(self, session: &Section, lines: u32) -> Result<Media, SdpError> {
        let fail = |fault| Err(SdpError::at(self.line, fault));
        let (head, section) = (self.head, self.section);
        let effective = section.connection.as_ref().or(session.connection.as_ref());
        let bundle_only = head.port == 0 && self.bundle_only.is_some();
        let stream = head.protocol.is_udp() || head.protocol == super::Transport::Tcp;
        if effective.is_none() && stream && head.port != 0 {
            return fail(SdpFault::NoConnection);
        }
        let shared = self.rtcp_mux || self.rtcp.is_some();
        let each: u32 = if head.protocol.is_rtp() && !shared { 2 } else { 1 };
        let last = u32::from(head.port) + u32::from(head.ports) * each - 1;
        if last > u32::from(u16::MAX) && head.port != 0 {
            return fail(SdpFault::PortRange);
        }
        let address = effective.and_then(|connection| connection.address);
        let has_ice = section.has_ice || session.has_ice;
        let direction = section.direction.or(session.direction).unwrap_or_default();
        let mut media = Media {
            kind: head.kind,
            port: head.port,
            ports: head.ports,
            protocol: head.protocol,
            address,
            host_is_name: effective.is_some() && address.is_none(),
            rtcp: self.rtcp.as_ref().map(|(port, address, _)| (*port, *address)),
            rtcp_mux: self.rtcp_mux,
            bundle_only,
            direction,
            clock: self.clock,
            bits_per_second: section.bits_per_second().or(session.bits_per_second()),
            has_ice,
            is_reflexive: false,
            file_transfer: self.file_transfer,
            name: head.name,
            mid: self.mid,
            port_at: head.port_at,
            connection: section.connection,
            lines: self.line..if self.end == 0 { lines } else { self.end },
            rtcp_at: self.rtcp.map(|(_, _, at)| at),
            bundle_only_line: self.bundle_only,
            ice: section.ice,
            naming: section.naming,
        };
        if media.held_by_address() {
            media.direction = direction.without_receiving();
        }
        let places = [media.address.map(|address| (address, media.port)), media.rtcp_address()];
        let reflexive = |ice: &IceLine| ice.reflexive.is_some() && places.contains(&ice.reflexive);
        media.is_reflexive = media.ice.iter().any(reflexive);
        Ok(media)
    }
}

/// Three words and no more.
fn three_words(value: &[u8], base: u32) -> Option<[(u32, &[u8]); 3]> {
    let mut words = words(value).map(|(at, word)| (base + at as u32, word));
    let three = [words.next()?, words.next()?, words.next()?];
    words.next().is_none().then_some(three)
}

/// `o=name session version IN IP4 address`.
fn origin(value: &[u8], base: u32) -> Result<OriginAt, SdpFault> {
    let mut words = words(value).map(|(at, word)| (base + at as u32, word));
    let mut next = || words.next().ok_or(SdpFault::Origin);
    let name = next()?;
    let (session, version) = (next()?, next()?);
    let connection = [next()?, next()?, next()?];
    let digits = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    if words.next().is_some() || name.1.is_empty() || !digits(session.1) || !digits(version.1) {
        return Err(SdpFault::Origin);
    }
    let range = |(at, word): (u32, &[u8])| at..at + word.len() as u32;
    Ok(OriginAt {
        session: range(session),
        version: range(version),
        connection: address::read(connection)?,
    })
}

/// `port [IN IP4 address]`. A name is left out: it is not where packets come from or go to.
fn rtcp(value: &[u8], base: u32) -> Result<(u16, Option<std::net::IpAddr>), SdpFault> {
    let value = value.trim_ascii_end();
    let (first, rest) = match memchr::memchr(b' ', value) {
        Some(space) => value.split_at(space),
        None => (value, &b""[..]),
    };
    let port = port(first).ok_or(SdpFault::Rtcp)?;
    let Some(rest) = rest.get(1..) else { return Ok((port, None)) };
    let words = three_words(rest, base).ok_or(SdpFault::Rtcp)?;
    Ok((port, address::read(words)?.address))
}

/// Format and clock of `format name/clock[/channels]`.
fn rtpmap(value: &[u8]) -> Option<(&[u8], u32)> {
    let mut words = words(value);
    let (_, format) = words.next()?;
    let (_, encoding) = words.next()?;
    let clock = encoding.split(|b| *b == b'/').nth(1)?;
    Some((format, u32::try_from(number(clock, u64::from(u32::MAX))?).ok()?))
}

/// Attributes of ICE that name addresses, and the others.
const CANDIDATES: &[&str] = &["candidate", "remote-candidates", "remote-candidate"];
const ICE: &[&str] = &[
    "ice-ufrag",
    "ice-pwd",
    "ice-options",
    "ice-lite",
    "ice-pacing",
    "ice-mismatch",
    "end-of-candidates",
];

/// Other addresses to send to, or to hear from: RFC 6947, RFC 7006, RFC 4570. In any case, as with
/// ICE.
fn names_address(name: &[u8]) -> bool {
    const NAMES: &[&str] = &["altc", "ccap", "source-filter"];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// A line of ICE, of RFC 8839 or older. In any case: what is stripped is stripped for every reader.
fn ice(line: u32, name: &[u8], value: &[u8]) -> Option<IceLine> {
    let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
    let extension = name.get(..11).is_some_and(|head| head.eq_ignore_ascii_case(b"x-candidate"));
    let candidate = extension || CANDIDATES.iter().any(is);
    // Before RFC 5245 the name and the password stood in each candidate, and no type.
    let standard = name == b"candidate" && words(value).any(|(_, word)| word == b"typ");
    let reflexive = if candidate { reflexive(value) } else { None };
    (candidate || ICE.iter().any(is)).then_some(IceLine { line, candidate, standard, reflexive })
}

/// Address and port of `foundation component transport priority address port typ prflx…`.
fn reflexive(value: &[u8]) -> Option<(std::net::IpAddr, u16)> {
    let mut words = words(value).map(|(_, word)| word).skip(4);
    let (address, at) = (words.next()?, port(words.next()?)?);
    let kind = [words.next()?, words.next()?];
    let address = std::str::from_utf8(address).ok()?.parse().ok()?;
    (kind == [&b"typ"[..], b"prflx"]).then_some((address, at))
}

/// `BUNDLE name name…`.
fn group(line: u32, value: &[u8], base: u32) -> Result<Group, SdpFault> {
    let mut words = words(value);
    let (_, semantics) = words.next().ok_or(SdpFault::Group)?;
    let names = words
        .map(|(at, word)| {
            let at = base + at as u32;
            is_token(word).then(|| (at..at + word.len() as u32, None)).ok_or(SdpFault::Group)
        })
        .collect::<Result<Vec<_>, _>>()?;
    if !is_token(semantics) {
        return Err(SdpFault::Group);
    }
    Ok(Group { bundle: semantics == b"BUNDLE", media: Vec::new(), line, names })
}

/// Finds the m-lines that groups name. No two have one name, and none is in a bundle twice, or in two
/// (RFC 9143 section 5).
fn join(text: &[u8], groups: &mut [Group], media: &[Media]) -> Result<(), SdpError> {
    let mid = |media: &Media| media.mid.as_ref().map(|mid| bytes_at(text, mid));
    for (at, one) in media.iter().enumerate() {
        let same = |other: &Media| mid(one).is_some() && mid(other) == mid(one);
        if media.iter().take(at).any(same) {
            return Err(SdpError::at(one.lines.start, SdpFault::Group));
        }
    }
    let mut bundled = Vec::new();
    for group in groups {
        for (range, index) in &mut group.names {
            let name = bytes_at(text, range);
            *index = media.iter().position(|media| mid(media) == Some(name));
            if let Some(index) = index.filter(|_| group.bundle) {
                if bundled.contains(&index) {
                    return Err(SdpError::at(group.line, SdpFault::Group));
                }
                bundled.push(index);
            }
        }
        group.media = group.names.iter().filter_map(|(_, index)| *index).collect();
    }
    Ok(())
}
