//! How much a flow may carry: generously what its SDP says. It is there to bound what one call can
//! do, not to police codecs.

use super::said::Said;
use crate::media::{flow::Component, sdp::MediaKind};

/// What sound takes at most: 48 kHz stereo without compression takes three times as much, and
/// nobody calls with that.
const AUDIO_BITS: u64 = 512_000;
/// One packet each 2.5 ms.
const AUDIO_PACKETS: u32 = 400;
/// When nothing is said of pictures.
const VIDEO_BITS: u64 = 8_000_000;
/// Beyond this nothing goes, whatever is said.
const MOST_BITS: u64 = 200_000_000;
/// Of Ethernet with two tags, IPv6 and UDP.
const FRAME: u64 = 78;

/// Packets and bytes of frames a second that may go to who said this.
pub(super) fn ceiling(said: &Said, component: Component) -> (u32, u32) {
    let (packets, bytes) = rtp(said);
    match component {
        Component::Rtp => (packets, bytes),
        // RFC 3550 section 6.2: 5 %; with room for what feedback needs (RFC 4585).
        Component::Rtcp => ((packets / 20).max(25), (bytes / 20).max(8_000)),
    }
}

fn rtp(said: &Said) -> (u32, u32) {
    let least = match said.kind {
        MediaKind::Audio | MediaKind::Text | MediaKind::Image => AUDIO_BITS,
        _ if said.bits == 0 => VIDEO_BITS,
        _ => AUDIO_BITS,
    };
    // What is said is an average; key frames and repairs come on top.
    let bits = said.bits.saturating_mul(2).clamp(least, MOST_BITS);
    let packets = u32::try_from(bits / 8 / 400).unwrap_or(u32::MAX).max(AUDIO_PACKETS);
    let bytes = bits / 8 + u64::from(packets) * FRAME;
    (packets, u32::try_from(bytes).unwrap_or(u32::MAX))
}
