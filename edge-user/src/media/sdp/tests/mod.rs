//! What is read, what is refused, what a change leaves alone.

mod properties;
mod reading;
mod refused;
mod rewriting;

use bytes::Bytes;

use super::*;

/// Reads a text.
fn parse(text: &str) -> Result<Sdp, SdpError> {
    Sdp::parse(Bytes::copy_from_slice(text.as_bytes()), &SdpBounds::default())
}

/// The session lines that every text has, and these.
fn with(lines: &[&str]) -> String {
    let head = ["v=0", "o=alice 2890844526 3 IN IP4 192.0.2.1", "s=-"];
    head.iter().chain(lines).map(|line| format!("{line}\r\n")).collect()
}

/// Reads the session lines that every text has, and these.
fn read(lines: &[&str]) -> Sdp {
    parse(&with(lines)).unwrap_or_else(|error| panic!("{error}: {lines:?}"))
}

/// A call of Lync 2013 as its client offers it, with the addresses of documentation.
const LYNC: &str = include_str!("lync.sdp");
/// A browser's offer: one transport for audio, video and data.
const BROWSER: &str = include_str!("browser.sdp");
/// A plain telephone's offer.
const PHONE: &str = include_str!("phone.sdp");
/// IPv6, late addresses, fax.
const SIX: &str = include_str!("six.sdp");

/// Texts with everything in them.
const TEXTS: &[&str] = &[LYNC, BROWSER, PHONE, SIX];

/// A text with the line ends of the wire.
fn wire(text: &str) -> String {
    text.replace('\n', "\r\n")
}
