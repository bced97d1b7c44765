//! What a payload begins with: enough to drop what cannot be SIP or media in the driver. It says
//! nothing about what the payload is beyond that; nothing is trusted for it.

use super::{Cursor, Frame, Kind};
use crate::{
    abi::{CONTENT_MEDIA, CONTENT_SIP, CONTENT_STUN},
    verdict::Reason,
};

/// Bytes of a SIP message's head that are searched for the signature of a scanner.
const SCANNED: usize = 512;
/// As much of a method is looked at (the longest in use has 13 letters, RFC 4475 has one of 43).
const METHOD_SEEN: usize = 24;
/// STUN's magic cookie (RFC 8489 section 5).
const STUN_COOKIE: u32 = 0x2112_a442;

/// Where the payload of a TCP segment or UDP datagram begins whose header begins at `upper` in the
/// frame. `None`: it is neither.
#[inline(always)]
pub fn payload(frame: &Frame<'_>, upper: usize, kind: Kind) -> Option<usize> {
    let upper = upper & 0x7fff;
    let mut cursor = frame.cursor();
    cursor.skip(upper);
    match kind {
        Kind::Tcp => {
            let header = cursor.take::<20>()?;
            let options = (((header.byte::<12>() >> 4) as usize) * 4).wrapping_sub(20) & 0x3c;
            Some(upper + 20 + options)
        }
        Kind::Udp => Some(upper + 8),
        Kind::Icmp | Kind::Other => None,
    }
}

/// Looks at a payload that begins at `payload` in the frame and whose packet ends at `end`: what a
/// frame brings beyond it is padding. `None`: it may be what it should be. A payload that is empty,
/// or that lies in another piece of the frame, is not judged.
#[inline(always)]
pub fn refused_content(
    frame: &Frame<'_>,
    payload: usize,
    end: usize,
    kind: Kind,
    content: u8,
) -> Option<Reason> {
    let mut cursor = frame.cursor();
    cursor.skip(payload & 0x7fff);
    let length = end.checked_sub(payload)?;
    if length == 0 {
        return None;
    }
    let first = cursor.peek::<1>()?.byte::<0>();
    match content {
        CONTENT_SIP => refused_sip(cursor, length, first, kind),
        CONTENT_STUN => (!is_stun_or_turn(first)).then_some(Reason::NotMedia),
        CONTENT_MEDIA => (!is_media(first)).then_some(Reason::NotMedia),
        _ => None,
    }
}

/// Whether a datagram that begins so cannot be what it should be. Of nothing, nothing is said.
#[inline(always)]
pub const fn refused_first_byte(first: Option<u8>, content: u8) -> bool {
    match (content, first) {
        (CONTENT_MEDIA, Some(first)) => !is_media(first),
        (CONTENT_STUN, Some(first)) => !is_stun_or_turn(first),
        (CONTENT_MEDIA | CONTENT_STUN, None) => true,
        _ => false,
    }
}

/// The classes of RFC 7983 that a STUN and TURN port takes.
const fn is_stun_or_turn(first: u8) -> bool {
    matches!(first, 0..=3 | 64..=79)
}

/// The classes of RFC 7983: STUN, ZRTP, DTLS, TURN channel data, RTP and RTCP.
const fn is_media(first: u8) -> bool {
    matches!(first, 0..=3 | 16..=79 | 128..=191)
}

#[inline(always)]
fn refused_sip(cursor: Cursor<'_>, length: usize, first: u8, kind: Kind) -> Option<Reason> {
    match first {
        // Keep-alives: line ends, and STUN on UDP (RFC 5626 section 3.5).
        b'\r' | b'\n' => return None,
        0 | 1 if kind == Kind::Udp => {
            let cookie = cursor.peek::<8>().map(|start| u32::from_be_bytes(start.four::<4>()));
            return (cookie != Some(STUN_COOKIE) || length < 8).then_some(Reason::NotSip);
        }
        _ => {}
    }
    (!begins_like_sip(cursor, length)).then_some(Reason::NotSip)
}

/// A status line, or a method (any token, RFC 3261 section 7.1), a space and what is no target of
/// HTTP's. Which schemes there are is the daemon's to judge: it can answer (416).
#[inline(always)]
fn begins_like_sip(mut cursor: Cursor<'_>, length: usize) -> bool {
    if let Some(start) = cursor.peek::<8>()
        && u16::from_ne_bytes(start.two::<0>()) | 0x2020 == u16::from_ne_bytes(*b"si")
        && u32::from_ne_bytes(start.four::<2>()) | 0x2020_2020 == u32::from_ne_bytes(*b"p/2.")
    {
        // Some of it may be padding, and three letters could begin a method.
        return length >= 8 || length <= 3;
    }
    for position in 0..METHOD_SEEN {
        // A head that ends so early may go on in the next segment.
        if position >= length {
            return position > 0;
        }
        let Some(byte) = cursor.take::<1>() else { return position > 0 };
        match byte.byte::<0>() {
            // The target's first letters may be in the next segment too.
            b' ' if position + 3 > length => return position > 0,
            b' ' => {
                let Some(target) = cursor.peek::<2>() else { return position > 0 };
                let http = position <= 4
                    && [target.byte::<0>() | 0x20, target.byte::<1>() | 0x20] == *b"ht";
                let path = matches!(target.byte::<0>(), b'/' | b'*');
                return position > 0 && !path && !http;
            }
            byte if is_token(byte) => {}
            _ => return false,
        }
    }
    true
}

/// RFC 3261 section 25.1 `token`, one byte of it.
#[inline(always)]
const fn is_token(byte: u8) -> bool {
    let marks = match byte >> 6 {
        0 => TOKENS[0],
        1 => TOKENS[1],
        _ => 0,
    };
    marks >> (byte & 63) & 1 == 1
}

/// One bit for each byte below 128.
const TOKENS: [u64; 2] = {
    let mut marks = [0; 2];
    let mut byte = 0_u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
        {
            marks[(byte >> 6) as usize] |= 1 << (byte & 63);
        }
        byte += 1;
    }
    marks
};

const fn word(text: &[u8; 8]) -> u64 {
    u64::from_ne_bytes(*text)
}

/// Whether the head of a SIP message that begins at `payload` in the frame names a scanner:
/// SIPVicious (under all its names) or sipcli. Of a stream only what its first segment brings.
#[inline(always)]
pub fn is_scanner(frame: &Frame<'_>, payload: usize) -> bool {
    let mut cursor = frame.cursor();
    cursor.skip(payload & 0x7fff);
    for _ in 0..SCANNED {
        let Some(here) = cursor.peek::<8>() else { return false };
        let eight = here.eight::<0>();
        if eight as u32 == u32::from_ne_bytes(*b"\r\n\r\n") {
            return false;
        }
        if eight == word(b"sipvicio") || eight == word(b"sundaydd") || eight == word(b"sipcli/v") {
            return true;
        }
        if eight == word(b"friendly") {
            let more = cursor.peek::<16>();
            if more.is_some_and(|more| more.eight::<8>() == word(b"-scanner")) {
                return true;
            }
        }
        cursor.skip(1);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(payload: &[u8], content: u8) -> Option<Reason> {
        let bytes = [&[0; 8], payload].concat();
        let frame = Frame::new(&bytes);
        let payload = super::payload(&frame, 0, Kind::Udp)?;
        let scanner = content == CONTENT_SIP && is_scanner(&frame, payload);
        refused_content(&frame, payload, bytes.len(), Kind::Udp, content)
            .or_else(|| scanner.then_some(Reason::SipScanner))
    }

    #[test]
    fn what_begins_like_sip_passes_and_nothing_else() {
        let table: [(&[u8], Option<Reason>); 28] = [
            (b"", None),
            (b"OPTIONS sip:a@b SIP/2.0\r\n", None),
            (b"SIP/2.0 200 OK\r\n", None),
            (b"sip/2.0 200 OK\r\n", None),
            (b"REGISTER sips:b SIP/2.0\r\n", None),
            (b"MESSAGE im:a@b SIP/2.0\r\n", None),
            (b"INVITE tel:+1 SIP/2.0\r\n", None),
            (b"NEWTHING-2 SIP:b SIP/2.0\r\n", None),
            // RFC 4475: a method is any token, of any length, and whoever writes a scheme that nobody
            // knows, or none, is to be answered.
            (b"!interesting-Method0123456789_*+`.%indeed'~ sip:a@b SIP/2.0\r\n", None),
            (b"RE%47IST%45R sip:a@b SIP/2.0\r\n", None),
            (b"1NVITE sip:a", None),
            (b"OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0\r\n", None),
            (b"OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0\r\n", None),
            (b"OPTIONS http://a SIP/2.0\r\n", None),
            (b"INVITE <sip:a@b> SIP/2.0\r\n", None),
            (b"INVITE  sip:a@b  SIP/2.0\r\n", None),
            (b"\r\n\r\n", None),
            (b"\0\x01\0\0\x21\x12\xa4\x42", None),
            (b"\0\x01\0\0\0\0\0\0", Some(Reason::NotSip)),
            (b"\0", Some(Reason::NotSip)),
            (b"GET / HTTP/1.1\r\n", Some(Reason::NotSip)),
            (b"GET http://a/ HTTP/1.1\r\n", Some(Reason::NotSip)),
            (b"OPTIONS * HTTP/1.1\r\n", Some(Reason::NotSip)),
            (b"SIP/7.0 200 OK\r\n", Some(Reason::NotSip)),
            (b"\x16\x03\x01\0", Some(Reason::NotSip)),
            (b" sip:a", Some(Reason::NotSip)),
            (b"INV<TE sip:a", Some(Reason::NotSip)),
            (b"\x80\0\0\0", Some(Reason::NotSip)),
        ];
        for (payload, expected) in table {
            assert_eq!(udp(payload, CONTENT_SIP), expected, "{}", payload.escape_ascii());
        }
    }

    #[test]
    fn scanners_are_known_by_their_head_and_nobody_by_their_body() {
        let message = |agent: &str, body: &str| {
            format!(
                "OPTIONS sip:100@b SIP/2.0\r\nVia: x\r\nUser-Agent: {agent}\r\n\r\n{body}      "
            )
        };
        for agent in ["friendly-scanner", "sipvicious", "sundayddr", "sipcli/v1.8"] {
            let found = udp(message(agent, "").as_bytes(), CONTENT_SIP);
            assert_eq!(found, Some(Reason::SipScanner), "{agent}");
            assert_eq!(udp(message("phone", agent).as_bytes(), CONTENT_SIP), None, "{agent}");
        }
        assert_eq!(udp(message("user-friendly-phone 1", "").as_bytes(), CONTENT_SIP), None);
    }

    #[test]
    fn media_ports_take_the_classes_of_rfc_7983() {
        for first in 0..=255_u8 {
            let stun = matches!(first, 0..=3 | 64..=79);
            let media = stun || matches!(first, 16..=63 | 128..=191);
            assert_eq!(udp(&[first], CONTENT_STUN).is_none(), stun, "{first}");
            assert_eq!(udp(&[first], CONTENT_MEDIA).is_none(), media, "{first}");
        }
    }

    #[test]
    fn the_payload_lies_between_the_options_and_the_end_of_the_packet() {
        let mut segment = vec![0; 24];
        segment[12] = 0x60;
        segment.extend_from_slice(b"GET / HTTP/1.1");
        let frame = Frame::new(&segment);
        assert_eq!(payload(&frame, 0, Kind::Tcp), Some(24));
        let found = |end| refused_content(&frame, 24, end, Kind::Tcp, CONTENT_SIP);
        assert_eq!(found(segment.len()), Some(Reason::NotSip));
        // What follows the packet is padding, and a method may go on in the next segment.
        assert_eq!(found(24), None);
        assert_eq!(found(27), None);
        assert_eq!(found(28), None, "nor is a method and its space judged by what follows");
        assert_eq!(found(30), Some(Reason::NotSip));
    }

    #[test]
    fn what_follows_a_datagram_makes_nothing_of_it() {
        for text in [b"SIP/2.0 ", b"\0\x01\0\0\x21\x12\xa4\x42"] {
            let bytes = [&[0; 8], &text[..], &[0xff; 8]].concat();
            let frame = Frame::new(&bytes);
            let found =
                |length: usize| refused_content(&frame, 8, 8 + length, Kind::Udp, CONTENT_SIP);
            assert_eq!(found(8), None, "{}", text.escape_ascii());
            for length in 4..8 {
                assert_eq!(found(length), Some(Reason::NotSip), "{}", text.escape_ascii());
            }
        }
    }
}
