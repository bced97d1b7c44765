//! SDP: what a call says of its media, read and changed over its own bytes.
//!
//! | what | document |
//! | --- | --- |
//! | lines, `o=`, `c=`, `b=`, `m=` | RFC 8866 |
//! | port 0, directions, hold by address | RFC 3264 sections 5, 6, 8.4 |
//! | `a=rtcp`, `a=rtcp-mux` | RFC 3605, RFC 5761 |
//! | ICE lines | RFC 8839, and the forms that OCS and Lync write (`x-candidate…`) |
//! | `a=altc`, `a=ccap`, `a=source-filter`: other addresses | RFC 6947, RFC 7006, RFC 4570 |
//! | `a=group`, `a=mid`, `a=bundle-only` | RFC 5888, RFC 8843 |
//!
//! Reading finds out what stands where; rewriting puts other texts in a few of these places and
//! keeps every other byte: profiles, `a=crypto`, fingerprints, lines that nobody here knows, line
//! ends, and what is missing at the end.
//!
//! What this module must never do: read a text that a peer could read in another way (a second
//! `c=`, two directions, a port above 65535, an address with leading zeros: all refused, with line
//! and reason), resolve a name, or judge an address. Names and addresses are the caller's to judge.
//!
//! Why no crate: the ones that are kept up (`webrtc-sdp`, `rtc-sdp`, `sdp-types`) read into
//! strings of their own and write the text anew, in their order and with their spaces, so a line
//! that they do not know is lost or moved and a signature over the body breaks; `webrtc-sdp` also
//! reads only what browsers send and refuses Lync's m-lines. `sdp-rs` does the same and is no
//! longer worked on. None has bounds on lines or m-lines.

mod address;
mod error;
mod line;
mod media;
mod read;
mod rewrite;
mod tag;

#[cfg(test)]
mod tests;

use std::{net::IpAddr, ops::Range};

use bytes::Bytes;

use self::line::Line;
pub use self::{
    error::{SdpError, SdpFault},
    media::{Direction, Media, MediaKind, RtpProfile, Transport},
    rewrite::{Candidates, LineChange, Rewrite},
};

/// What a text may hold at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdpBounds {
    /// Bytes.
    pub bytes: usize,
    /// Lines.
    pub lines: usize,
    /// m-lines.
    pub media: usize,
    /// Attributes of one m-line, or of the session.
    pub attributes: usize,
}

impl Default for SdpBounds {
    fn default() -> Self {
        Self { bytes: 64 * 1024, lines: 2_000, media: 16, attributes: 500 }
    }
}

/// A session description: its bytes and an index into them.
#[derive(Clone, Debug)]
pub struct Sdp {
    text: Bytes,
    lines: Vec<Line>,
    origin: OriginAt,
    /// The session's `c=`.
    connection: Option<address::ConnectionAt>,
    groups: Vec<Group>,
    /// The session's ICE lines.
    session_ice: Vec<media::IceLine>,
    /// The session's other lines that name addresses.
    naming: Vec<u32>,
    media: Vec<Media>,
}

/// `o=`: which session, and which version of it (RFC 8866 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginVersion<'a> {
    /// Digits as they are written; any number of them.
    pub session: &'a str,
    /// Digits as they are written. Lync always writes 0.
    pub version: &'a str,
}

/// Where `o=` holds what.
#[derive(Clone, Debug)]
struct OriginAt {
    session: Range<u32>,
    version: Range<u32>,
    connection: address::ConnectionAt,
}

/// `a=group` (RFC 5888).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `BUNDLE`: the m-lines share one transport (RFC 8843).
    pub bundle: bool,
    /// Its m-lines, from 0, in the order of the group. The first of a bundle has the transport.
    pub media: Vec<usize>,
    line: u32,
    /// Each name, and its m-line.
    names: Vec<(Range<u32>, Option<usize>)>,
}

impl Sdp {
    /// Reads a text.
    pub fn parse(text: Bytes, bounds: &SdpBounds) -> Result<Self, SdpError> {
        read::read(text, bounds)
    }

    /// The text.
    pub fn text(&self) -> &Bytes {
        &self.text
    }

    /// The m-lines, in order.
    pub fn media(&self) -> &[Media] {
        &self.media
    }

    /// Session and version of `o=`.
    pub fn origin_version(&self) -> OriginVersion<'_> {
        let text = |range: &Range<u32>| str_at(&self.text, range);
        OriginVersion { session: text(&self.origin.session), version: text(&self.origin.version) }
    }

    /// The address of `o=`; `None` when it is a name.
    pub fn origin_address(&self) -> Option<IpAddr> {
        self.origin.connection.address
    }

    /// The groups of m-lines, bundles and others.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The groups of m-lines that share a transport (RFC 8843).
    pub fn bundle(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.bundle)
    }

    /// The first word of an m-line as it is written.
    pub fn media_name(&self, media: &Media) -> &str {
        str_at(&self.text, &media.name)
    }

    /// The name an m-line has in groups (`a=mid`).
    pub fn mid(&self, media: &Media) -> Option<&str> {
        media.mid.as_ref().map(|range| str_at(&self.text, range))
    }

    /// The answer that takes nothing of it: each of its m-lines with port 0 (RFC 3264 section 6).
    pub fn rejection(&self) -> Bytes {
        let mut text =
            String::from("v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n");
        let lines = std::str::from_utf8(&self.text).unwrap_or_default().lines();
        for line in lines.filter_map(|line| line.strip_prefix("m=")) {
            let mut words = line.splitn(3, ' ');
            if let (Some(kind), Some(_), Some(rest)) = (words.next(), words.next(), words.next()) {
                text.push_str(&format!("m={kind} 0 {}\r\n", rest.trim_end()));
            }
        }
        text.into()
    }

    /// The text with changes. What is not named stays as it is, byte for byte.
    pub fn rewrite(&self, change: &Rewrite) -> Result<Bytes, SdpError> {
        rewrite::rewrite(self, change)
    }
}

/// Bytes of a text.
fn bytes_at<'t>(text: &'t [u8], range: &Range<u32>) -> &'t [u8] {
    text.get(range.start as usize..range.end as usize).unwrap_or_default()
}

/// Text that was found to be ASCII when it was read.
fn str_at<'t>(text: &'t [u8], range: &Range<u32>) -> &'t str {
    std::str::from_utf8(bytes_at(text, range)).unwrap_or_default()
}
