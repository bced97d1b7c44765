//! What is refused, with its line and reason.

use super::*;

/// The first line of the additional ones.
const FIRST: u32 = 4;

#[test]
fn what_two_readers_could_read_in_two_ways_is_refused() {
    use SdpFault::*;
    let c = "c=IN IP4 192.0.2.1";
    let m = "m=audio 4000 RTP/AVP 0";
    let cases: &[(&[&str], u32, SdpFault)] = &[
        // Connection data.
        (&["c=IN IP4 192.0.2.01", m], 0, Connection),
        (&["c=IN IP4 192.0.2", m], 0, Connection),
        (&["c=IN IP4 0xc0.0.2.1", m], 0, Connection),
        (&["c=IN IP4 3221225985", m], 0, Connection),
        (&["c=IN IP4 2001:db8::1", m], 0, Connection),
        (&["c=IN IP6 192.0.2.1", m], 0, Connection),
        (&["c=IN IP6 [2001:db8::1]", m], 0, Connection),
        (&["c=IN IP6 fe80::1%eth0", m], 0, Connection),
        (&["c=IN IP6 ::ffff:192.0.2.1", m], 0, Mapped),
        (&["c=IN IP4 224.2.36.42/127", m], 0, Multicast),
        (&["c=IN IP4 192.0.2.1/127", m], 0, Multicast),
        (&["c=IN IP4 224.2.36.42", m], 0, Multicast),
        (&["c=IN IP6 ff15::101", m], 0, Multicast),
        (&["c=IN IP4 192.0.2.1 x", m], 0, Connection),
        (&["c=IN  IP4 192.0.2.1", m], 0, Connection),
        (&["c=in IP4 192.0.2.1", m], 0, Connection),
        (&["c=IN IP4 a_b", m], 0, Connection),
        (&["c=IN IP4", m], 0, Connection),
        (&["c=", m], 0, Connection),
        (&[c, c, m], 1, Twice),
        (&[c, m, c, c], 3, Twice),
        (&[m], 0, NoConnection),
        (&["m=data 4000 TCP x"], 0, NoConnection),
        // m-lines.
        (&[c, "m=audio 65536 RTP/AVP 0"], 1, Port),
        (&[c, "m=audio 65535 RTP/AVP 0"], 1, PortRange),
        (&[c, "m=audio 65533/2 RTP/AVP 0"], 1, PortRange),
        (&[c, "m=audio 65535/2 udp 0"], 1, PortRange),
        (&[c, "m=audio 04000 RTP/AVP 0"], 1, Port),
        (&[c, "m=audio -1 RTP/AVP 0"], 1, Port),
        (&[c, "m=audio +4000 RTP/AVP 0"], 1, Port),
        (&[c, "m=audio 4000/0 RTP/AVP 0"], 1, Port),
        (&[c, "m=audio 4000/ RTP/AVP 0"], 1, Port),
        (&[c, "m=audio 4000/99999 RTP/AVP 0"], 1, Port),
        (&[c, "m=audio x RTP/AVP 0"], 1, Port),
        (&[c, "m=audio 4000 RTP/AVP"], 1, Media),
        (&[c, "m=audio 4000"], 1, Media),
        (&[c, "m=audio  4000 RTP/AVP 0"], 1, Media),
        (&[c, "m= 4000 RTP/AVP 0"], 1, Media),
        (&[c, "m=au:dio 4000 RTP/AVP 0"], 1, Media),
        (&[c, "m=audio 4000 RTP//AVP 0"], 1, Media),
        // Places.
        (&["v=0", c, m], 0, Version),
        (&["o=- 1 1 IN IP4 192.0.2.1", c, m], 0, OriginPlace),
        (&[c, m, "o=- 1 1 IN IP4 192.0.2.1"], 2, OriginPlace),
        (&[c, m, "v=0"], 2, Version),
        (&[c, m, "s=x"], 2, Place),
        (&[c, m, "t=0 0"], 2, Place),
        (&["s=x", c, m], 0, Twice),
        // Attributes.
        (&[c, m, "a=sendonly", "a=recvonly"], 3, Directions),
        (&["a=sendonly", "a=inactive", c, m], 1, Directions),
        (&[c, m, "a=rtcp:4001", "a=rtcp:4003"], 3, Twice),
        (&[c, m, "a=rtcp:65536"], 2, Rtcp),
        (&[c, m, "a=rtcp:4001 IN IP4"], 2, Rtcp),
        (&[c, m, "a=rtcp:4001 IN IP4 192.0.2.01"], 2, Connection),
        (&[c, m, "a=rtcp:"], 2, Rtcp),
        (&[c, m, "a=mid:1", "a=mid:1"], 3, Twice),
        (&[c, m, "a=mid:1", m, "a=mid:1"], 3, Group),
        (&[c, m, "a=mid:"], 2, Group),
        (&[c, m, "a=mid:a b"], 2, Group),
        (&["a=group:", c, m], 0, Group),
        (&["a=group:BUNDLE a  b", c, m], 0, Group),
        (&["a=group:BUNDLE a a", c, m, "a=mid:a"], 0, Group),
        (&["a=group:BUNDLE a", "a=group:BUNDLE b a", c, m, "a=mid:a"], 1, Group),
        (&[c, m, "b=AS:x"], 2, Bandwidth),
        (&[c, m, "b=AS"], 2, Bandwidth),
        (&[c, m, "b=AS:64", "b=AS:65"], 3, Twice),
        (&[c, m, "b=TIAS:99999999999999999999"], 2, Bandwidth),
        // Lines.
        (&[c, m, "a=x\0"], 2, Control),
        (&[c, m, "a=x\ry"], 2, Control),
        (&[c, m, "a=x\r"], 2, Control),
        (&[c, m, "a=\u{b}"], 2, Control),
        (&[c, m, "", "a=x"], 2, EmptyLine),
        (&[c, m, "x=1"], 2, UnknownType),
        (&[c, m, "M=audio 1 RTP/AVP 0"], 2, UnknownType),
        (&[c, m, "m =audio 1 RTP/AVP 0"], 2, NoLine),
        (&[c, m, " m=audio 1 RTP/AVP 0"], 2, NoLine),
        (&[c, m, "="], 2, NoLine),
        (&[c, m, "a"], 2, NoLine),
    ];
    for (lines, at, fault) in cases {
        let error = parse(&with(lines)).expect_err(&format!("{lines:?}"));
        assert_eq!((error.line, error.fault), (FIRST + at, *fault), "{lines:?}");
    }
}

#[test]
fn a_session_has_a_version_and_an_origin() {
    use SdpFault::*;
    for (text, line, fault) in [
        ("", 0, OriginPlace),
        ("\r\n", 1, Version),
        ("v=0\r\n", 0, OriginPlace),
        ("v=1\r\n", 1, Version),
        ("v=0 \r\n", 1, Version),
        ("o=- 1 1 IN IP4 192.0.2.1\r\nv=0\r\n", 1, Version),
        ("v=0\r\no=- 1 IN IP4 192.0.2.1\r\n", 2, Origin),
        ("v=0\r\no=- 1 x IN IP4 192.0.2.1\r\n", 2, Origin),
        ("v=0\r\no=- 1 1 IN IP4 192.0.2.1 x\r\n", 2, Origin),
        ("v=0\r\no= 1 1 IN IP4 192.0.2.1\r\n", 2, Origin),
        ("v=0\r\no=- 1 1 IN IP4 192.0.02.1\r\n", 2, Connection),
        ("\u{feff}v=0\r\n", 1, NoLine),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!((error.line, error.fault), (line, fault), "{text:?}");
    }
}

#[test]
fn bounds_hold() {
    let bounds = SdpBounds { bytes: 400, lines: 12, media: 2, attributes: 3 };
    let parse = |text: String| Sdp::parse(Bytes::from(text), &bounds);
    let c = "c=IN IP4 192.0.2.1";
    let m = "m=audio 4000 RTP/AVP 0";
    assert!(parse(with(&[c, m, "a=1", "a=2", "a=3", m, "a=1", "a=2", "a=3"])).is_ok());
    for (lines, line, fault) in [
        (vec![c, m, m, m], 7, SdpFault::TooManyMedia),
        (vec![c, m, "a=1", "a=2", "a=ice-lite", "a=4"], 9, SdpFault::TooManyAttributes),
        (vec!["a=1", "a=2", "a=3", "a=4"], 7, SdpFault::TooManyAttributes),
        (vec!["b=X:1"; 10], 13, SdpFault::TooManyLines),
        (vec![&"a=".repeat(400)], 0, SdpFault::TooLong),
    ] {
        let error = parse(with(&lines)).expect_err("beyond the bounds");
        assert_eq!((error.line, error.fault), (line, fault), "{lines:?}");
    }
}

#[test]
fn a_bomb_is_refused_at_once() {
    let lines = "a=x\n".repeat(16_000);
    let error = parse(&format!("v=0\no=- 1 1 IN IP4 192.0.2.1\n{lines}")).unwrap_err();
    assert_eq!(error.fault, SdpFault::TooManyLines);
    let error = parse(&"v=0\n".repeat(20_000)).unwrap_err();
    assert_eq!(error.fault, SdpFault::TooLong);
}

#[test]
fn an_error_names_its_line() {
    let error = parse(&with(&["c=IN IP4 224.0.0.1"])).unwrap_err();
    assert_eq!(error.to_string(), "line 4: multicast: this is for calls between two parties");
}
