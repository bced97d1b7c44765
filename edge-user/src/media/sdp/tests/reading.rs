//! What is read.

use std::net::IpAddr;

use super::*;

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn a_call_of_lync_is_read() {
    let sdp = parse(&wire(LYNC)).unwrap();
    let kinds: Vec<_> = sdp.media().iter().map(|m| (m.kind, m.port, m.protocol)).collect();
    assert_eq!(
        kinds,
        [
            (MediaKind::Audio, 21836, Transport::Rtp(RtpProfile::Savp)),
            (MediaKind::Video, 24090, Transport::Rtp(RtpProfile::Savp)),
            (MediaKind::ApplicationSharing, 29134, Transport::Tcp),
            (MediaKind::Message, 5060, Transport::Sip),
        ]
    );
    assert!(sdp.media().iter().all(|m| m.address == ip("198.51.100.20")));
    let [audio, video, sharing, im] = sdp.media() else { panic!("four") };
    assert_eq!((audio.rtcp, audio.clock, audio.has_ice), (Some((21837, None)), Some(16_000), true));
    assert_eq!(audio.bits_per_second, None, "CT is for the whole conference");
    assert_eq!((video.bits_per_second, video.clock), (Some(1_500_000), Some(90_000)));
    assert_eq!(sdp.mid(sharing), Some("1"));
    assert!(sharing.has_ice && !im.has_ice);
    assert_eq!(sdp.origin_version(), OriginVersion { session: "0", version: "0" });
    assert_eq!(sdp.origin_address(), ip("198.51.100.20"));
}

#[test]
fn a_browsers_bundle_is_read() {
    let sdp = parse(BROWSER).unwrap();
    let bundles: Vec<_> = sdp.bundle().map(|group| group.media.clone()).collect();
    assert_eq!(bundles, [[0, 1, 2]]);
    let [audio, video, data] = sdp.media() else { panic!("three") };
    assert_eq!(audio.protocol, Transport::Rtp(RtpProfile::DtlsSavpf));
    assert_eq!((audio.address, audio.clock), (ip("203.0.113.77"), Some(48_000)));
    assert!(audio.rtcp_mux && !audio.bundle_only && audio.is_on());
    assert_eq!(audio.rtcp_address(), None, "all zeros are nowhere");
    assert!(video.bundle_only && video.port == 0 && video.is_on(), "offered all the same");
    assert_eq!((data.kind, data.protocol), (MediaKind::Application, Transport::Udp));
    assert_eq!(data.direction, Direction::SendRecv, "port 9 with ICE: no hold");
    assert_eq!(sdp.origin_version().session, "4611731400430051336");
}

#[test]
fn what_the_session_says_counts_where_the_m_line_is_silent() {
    let sdp = parse(&wire(PHONE)).unwrap();
    let [audio, video, text] = sdp.media() else { panic!("three") };
    assert_eq!((audio.address, audio.direction), (ip("192.0.2.10"), Direction::SendOnly));
    assert_eq!((audio.bits_per_second, video.bits_per_second), (Some(64_000), Some(100_000)));
    assert_eq!((audio.clock, video.clock), (Some(8_000), Some(90_000)));
    assert_eq!((video.address, video.direction), (ip("192.0.2.11"), Direction::Inactive));
    assert_eq!(video.rtcp, Some((51400, ip("192.0.2.12"))));
    assert_eq!(video.rtcp_address(), Some((ip("192.0.2.12").unwrap(), 51400)));
    assert_eq!(audio.rtcp_address(), Some((ip("192.0.2.10").unwrap(), 49171)));
    assert_eq!((text.kind, text.port, text.is_on()), (MediaKind::Text, 0, false));
    assert_eq!(text.rtcp_address(), None);
    assert_eq!(sdp.media_name(audio), "audio");
}

#[test]
fn ipv6_fax_files_and_names_are_read() {
    let sdp = parse(&wire(SIX)).unwrap();
    let [audio, fax, file, named] = sdp.media() else { panic!("four") };
    assert_eq!((audio.address, audio.rtcp_mux), (ip("2001:db8::5"), true));
    assert_eq!((fax.kind, fax.protocol), (MediaKind::Image, Transport::Udptl));
    assert_eq!((fax.clock, fax.rtcp_address()), (None, None));
    assert!(file.file_transfer && file.protocol == Transport::Tcp);
    assert!(named.host_is_name && named.address.is_none());
}

#[test]
fn what_only_ices_checks_told_is_known_by_its_candidate() {
    let at = "a=candidate:1 1 UDP 1 192.0.2.1 4000 typ";
    let rows = [
        (format!("{at} prflx raddr 10.0.0.1 rport 5"), true),
        (format!("{at} prflx"), true),
        (at.replace("a=candidate", "a=x-candidate-ipv6") + " prflx", true),
        (format!("{at} host"), false),
        (format!("{at} srflx raddr 10.0.0.1 rport 5"), false),
        (at.replace("4000", "4001") + " prflx", true),
        (at.replace("4000", "4002") + " prflx", false),
        (at.replace("192.0.2.1", "192.0.2.2") + " prflx", false),
    ];
    for (line, reflexive) in rows {
        let sdp = read(&["c=IN IP4 192.0.2.1", "m=audio 4000 RTP/AVP 0", &line]);
        assert_eq!(sdp.media()[0].is_reflexive, reflexive, "{line}");
    }
}

#[test]
fn an_address_of_zeros_is_hold() {
    for (zeros, attribute, is) in [
        ("IP4 0.0.0.0", "sendrecv", Direction::SendOnly),
        ("IP4 0.0.0.0", "sendonly", Direction::SendOnly),
        ("IP4 0.0.0.0", "recvonly", Direction::Inactive),
        ("IP6 ::", "inactive", Direction::Inactive),
        ("IP4 192.0.2.1", "recvonly", Direction::RecvOnly),
    ] {
        let connection = format!("c=IN {zeros}");
        let sdp = read(&[&connection, "m=audio 4000 RTP/AVP 0", &format!("a={attribute}")]);
        assert_eq!(sdp.media()[0].direction, is, "{zeros} {attribute}");
    }
    let later = read(&["c=IN IP4 0.0.0.0", "m=audio 9 RTP/AVP 0", "a=ice-ufrag:F7gI"]);
    assert_eq!(later.media()[0].direction, Direction::SendRecv);
}

#[test]
fn clocks_come_from_the_first_format() {
    for (line, attribute, clock) in [
        ("m=audio 4000 RTP/AVP 9 0", "a=ptime:20", Some(8_000)),
        ("m=audio 4000 RTP/AVP 14", "a=ptime:20", Some(90_000)),
        ("m=audio 4000 RTP/AVP 10", "a=ptime:20", Some(44_100)),
        ("m=audio 4000 RTP/AVP 101", "a=rtpmap:101 opus/48000/2", Some(48_000)),
        ("m=audio 4000 RTP/AVP 0 101", "a=rtpmap:101 opus/48000/2", Some(8_000)),
        ("m=audio 4000 RTP/AVP 101", "a=rtpmap:102 opus/48000/2", None),
        ("m=audio 4000 RTP/AVP 101", "a=rtpmap:101 opus/99999999999", None),
        ("m=image 4000 udptl 0", "a=x", None),
    ] {
        let sdp = read(&["c=IN IP4 192.0.2.1", line, attribute]);
        assert_eq!(sdp.media()[0].clock, clock, "{line} {attribute}");
    }
}

#[test]
fn protocols_and_kinds_are_known_in_any_case() {
    for (text, protocol) in [
        ("rtp/avp", Transport::Rtp(RtpProfile::Avp)),
        ("RTP/SAVPF", Transport::Rtp(RtpProfile::Savpf)),
        ("RTP/AVPF", Transport::Rtp(RtpProfile::Avpf)),
        ("UDP/TLS/RTP/SAVP", Transport::Rtp(RtpProfile::DtlsSavp)),
        ("UDPTL", Transport::Udptl),
        ("UDP/TLS/UDPTL", Transport::Udptl),
        ("UDP/BFCP", Transport::Udp),
        ("DTLS/SCTP", Transport::Udp),
        ("udp", Transport::Udp),
        ("TCP", Transport::Tcp),
        ("TCP/DTLS/RTP/SAVPF", Transport::Tcp),
        ("tcp/MSRP", Transport::Tcp),
        ("SIP", Transport::Sip),
        ("ATM", Transport::Other),
        ("TCPX", Transport::Other),
    ] {
        let sdp = read(&["c=IN IP4 192.0.2.1", &format!("m=audio 4000 {text} 0")]);
        assert_eq!(sdp.media()[0].protocol, protocol, "{text}");
    }
    for (text, kind) in [
        ("VIDEO", MediaKind::Video),
        ("Audio", MediaKind::Audio),
        ("x-ms-message", MediaKind::Message),
        ("data", MediaKind::Data),
        ("audio2", MediaKind::Other),
        ("control", MediaKind::Other),
    ] {
        let sdp = read(&["c=IN IP4 192.0.2.1", &format!("m={text} 4000 RTP/AVP 0")]);
        assert_eq!(sdp.media()[0].kind, kind, "{text}");
    }
}

#[test]
fn line_ends_of_either_kind_and_none_at_the_end_are_read() {
    let text = with(&["c=IN IP4 192.0.2.1", "m=audio 4000 RTP/AVP 0", "a=sendonly"]);
    let cut = text.trim_end().to_owned();
    for text in [text.replace('\r', ""), cut, format!("{text}\r\n\r\n"), format!("{text}\n")] {
        let sdp = parse(&text).unwrap();
        assert_eq!(sdp.media()[0].direction, Direction::SendOnly, "{text:?}");
    }
}

#[test]
fn several_ports_are_read() {
    let sdp = read(&["c=IN IP4 192.0.2.1", "m=audio 5000/2 RTP/AVP 0"]);
    assert_eq!((sdp.media()[0].port, sdp.media()[0].ports), (5000, 2));
}

#[test]
fn an_im_session_needs_no_address() {
    let sdp = read(&["m=message 5060 sip null"]);
    let im = &sdp.media()[0];
    assert_eq!((im.address, im.host_is_name), (None, false));
}
