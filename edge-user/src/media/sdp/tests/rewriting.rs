//! What a change changes, and that nothing else changes.

use super::*;

const OURS: &str = "203.0.113.5";
const SIX_OF_OURS: &str = "2001:db8:ffff::5";

fn anchor(address: &str, rtp: u16, rtcp: impl Into<Option<u16>>) -> LineChange {
    LineChange::Anchor { address: address.parse().unwrap(), rtp, rtcp: rtcp.into() }
}

fn change(origin: &str, lines: Vec<LineChange>, candidates: Candidates) -> Rewrite {
    Rewrite { origin: Some(origin.parse().unwrap()), lines, candidates }
}

/// Lines that are gone, and lines that came.
fn difference(text: &str, change: &Rewrite) -> (Vec<String>, Vec<String>) {
    let sdp = parse(text).unwrap();
    let new = sdp.rewrite(change).unwrap();
    let new = String::from_utf8(new.to_vec()).unwrap();
    parse(&new).unwrap_or_else(|error| panic!("{error}: {new}"));
    let lines = |text: &str| text.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (lines(text), lines(&new));
    let only = |these: &[String], those: &[String]| {
        let mut those = those.to_vec();
        let mut only = Vec::new();
        for line in these {
            match those.iter().position(|other| other == line) {
                Some(at) => drop(those.remove(at)),
                None => only.push(line.trim_end_matches("\r\n").to_owned()),
            }
        }
        only
    };
    (only(&before, &after), only(&after, &before))
}

#[test]
fn a_telephone_is_anchored() {
    let text = wire(PHONE);
    let lines = vec![anchor(OURS, 30_000, 30_001), anchor(OURS, 30_002, 30_003), LineChange::Keep];
    let (gone, came) = difference(&text, &change(OURS, lines, Candidates::Strip));
    assert_eq!(
        gone,
        [
            "o=alice 2890844526 2890844527 IN IP4 192.0.2.10",
            "c=IN IP4 192.0.2.10",
            "m=audio 49170 RTP/AVP 0 8 97",
            "m=video 51372 RTP/AVP 31",
            "c=IN IP4 192.0.2.11",
            "a=rtcp:51400 IN IP4 192.0.2.12",
            "a=rtpmap:98 t140/1000",
        ]
    );
    assert_eq!(
        came,
        [
            "o=alice 2890844526 2890844527 IN IP4 203.0.113.5",
            "c=IN IP4 203.0.113.5",
            "m=audio 30000 RTP/AVP 0 8 97",
            "m=video 30002 RTP/AVP 31",
            "c=IN IP4 203.0.113.5",
            "a=rtcp:30003 IN IP4 203.0.113.5",
        ]
    );
}

#[test]
fn the_family_changes_with_the_address() {
    let text = wire(PHONE);
    let lines = vec![
        anchor(SIX_OF_OURS, 30_000, 30_001),
        anchor(SIX_OF_OURS, 30_002, 30_003),
        LineChange::Reject,
    ];
    let (_, came) = difference(&text, &change(SIX_OF_OURS, lines, Candidates::Keep));
    assert_eq!(
        came,
        [
            "o=alice 2890844526 2890844527 IN IP6 2001:db8:ffff::5",
            "c=IN IP6 2001:db8:ffff::5",
            "m=audio 30000 RTP/AVP 0 8 97",
            "m=video 30002 RTP/AVP 31",
            "c=IN IP6 2001:db8:ffff::5",
            "a=rtcp:30003 IN IP6 2001:db8:ffff::5",
        ]
    );
}

#[test]
fn lync_is_anchored_with_candidates_of_ours() {
    let text = wire(LYNC);
    let lines = vec![
        anchor(OURS, 30_000, 30_001),
        anchor(OURS, 30_002, None),
        LineChange::Reject,
        LineChange::Keep,
    ];
    let (gone, came) = difference(&text, &change(OURS, lines, Candidates::Replace));
    assert_eq!(
        came,
        [
            "o=- 0 0 IN IP4 203.0.113.5",
            "c=IN IP4 203.0.113.5",
            "m=audio 30000 RTP/SAVP 114 9 112 111 0 8 116 115 97 13 118 101",
            "a=rtcp:30001",
            "a=candidate:1 1 UDP 2130706431 203.0.113.5 30000 typ host",
            "a=candidate:1 2 UDP 2130706430 203.0.113.5 30001 typ host",
            "m=video 30002 RTP/SAVP 122 121 123",
            "a=rtcp:30002",
            "a=candidate:1 1 UDP 2130706431 203.0.113.5 30002 typ host",
            "m=applicationsharing 0 TCP/RTP/SAVP 127",
        ]
    );
    let kept =
        ["v=", "s=", "a=crypto", "a=ice-ufrag:WF9X", "a=ice-ufrag:bmJe", "a=x-", "m=message"];
    // Of the rejected one its name in groups is left.
    let rejected = "a=x-applicationsharing-session-id:1";
    for line in gone.iter().filter(|line| *line != rejected) {
        assert!(
            line.starts_with("a=x-candidate") || !kept.iter().any(|kept| line.starts_with(kept)),
            "{line}"
        );
    }
}

#[test]
fn stripped_ice_leaves_no_line_of_it() {
    for text in TEXTS {
        let text = wire(text);
        let sdp = parse(&text).unwrap();
        let lines = vec![LineChange::Keep; sdp.media().len()];
        let strip = Rewrite { origin: None, lines, candidates: Candidates::Strip };
        let (gone, came) = difference(&text, &strip);
        assert!(came.is_empty(), "{came:?}");
        let ice = |line: &String| line.contains("candidate") || line.starts_with("a=ice-");
        assert!(gone.iter().all(ice), "{gone:?}");
        let left = sdp.rewrite(&strip).unwrap();
        assert!(!String::from_utf8_lossy(&left).lines().any(|line| ice(&line.to_owned())));
    }
}

#[test]
fn ice_is_stripped_in_any_spelling() {
    let text = with(&[
        "c=IN IP4 192.0.2.1",
        "a=ICE-Lite",
        "m=audio 4000 RTP/AVP 0",
        "a=Candidate:1 1 UDP 1 10.0.0.1 4000 typ host",
        "a=X-CANDIDATE-IPV6:1",
    ]);
    let strip = Rewrite {
        lines: vec![LineChange::Keep],
        candidates: Candidates::Strip,
        ..Rewrite::default()
    };
    assert_eq!(difference(&text, &strip).0.len(), 3);
}

#[test]
fn no_address_of_the_writer_is_left_when_all_is_anchored_or_rejected() {
    let text = wire(LYNC);
    let lines = vec![
        anchor(OURS, 30_000, 30_001),
        LineChange::Reject,
        LineChange::Reject,
        LineChange::Keep,
    ];
    for candidates in [Candidates::Strip, Candidates::Replace] {
        let sdp = parse(&text).unwrap();
        let new = sdp.rewrite(&change(OURS, lines.clone(), candidates)).unwrap();
        let new = String::from_utf8_lossy(&new);
        for address in ["10.10.1.15", "198.51.100.20", "2001:db8:10::15"] {
            assert!(!new.contains(address), "{address}: {new}");
        }
    }
}

#[test]
fn lines_that_name_other_addresses_go_when_the_writer_is_not_to_be_seen() {
    let naming = [
        "a=rtcp:4001 IN IP4 192.0.2.1",
        "a=source-filter: incl IN IP4 * 192.0.2.1",
        "m=audio 4000 RTP/AVP 0",
        "a=altc:1 IP4 192.0.2.1 4000",
        "a=ALTC:2 IP6 2001:db8::1 4000",
        "a=ccap:1 IN IP4 192.0.2.1 4000",
        "a=RTCP:4001 IN IP4 192.0.2.1",
        "a=source-filter: incl IN IP4 * 192.0.2.1",
        "m=message 5060 sip null",
        "a=altc:1 IP4 192.0.2.1 5060",
    ];
    let text = with(&[&["c=IN IP4 192.0.2.1"], &naming[..]].concat());
    let lines = vec![anchor(OURS, 30_000, 30_007), LineChange::Keep];
    let new = parse(&text).unwrap().rewrite(&change(OURS, lines, Candidates::Replace)).unwrap();
    let new = String::from_utf8_lossy(&new).replace("\r\n", "|");
    assert!(!new.contains("192.0.2.1|") && !new.contains("192.0.2.1 "), "{new}");
    assert!(
        new.ends_with("|m=audio 30000 RTP/AVP 0|a=rtcp:30007|m=message 5060 sip null|"),
        "{new}"
    );
    // Where nothing is rewritten they stay.
    let keep = Rewrite { lines: vec![LineChange::Keep; 2], ..Rewrite::default() };
    assert_eq!(parse(&text).unwrap().rewrite(&keep).unwrap(), text);
}

#[test]
fn what_is_off_or_carried_by_sip_shows_no_address_nor_does_the_sessions_ice() {
    for (writer, ours) in [("10.0.0.5", OURS), ("fd00::5", SIX_OF_OURS)] {
        let six = if writer.contains(':') { "6" } else { "4" };
        let own = format!("c=IN IP{six} {writer}");
        let candidate = format!("a=candidate:1 1 UDP 1 {writer} 4000 typ host");
        let path = format!("a=path:msrps://{writer}:2855/x;tcp");
        let rtcp = format!("a=rtcp:5061 IN IP{six} {writer}");
        let text = with(&[
            &own,
            "a=ice-ufrag:F7gI",
            &candidate,
            "a=group:BUNDLE au",
            "m=audio 4000 RTP/AVP 0",
            "a=mid:au",
            "m=message 5060 sip null",
            &own,
            &rtcp,
            &candidate,
            "a=accept-types:text/plain",
            "m=message 2855 TCP/TLS/MSRP *",
            &own,
            &path,
            "a=mid:chat",
            "m=message 0 TCP/TLS/MSRP *",
            "i=off",
            &path,
        ]);
        let lines = vec![
            anchor(ours, 30_000, 30_001),
            LineChange::Keep,
            LineChange::Reject,
            LineChange::Keep,
        ];
        let sdp = parse(&text).unwrap();
        let new = sdp.rewrite(&change(ours, lines, Candidates::Replace)).unwrap();
        let new = String::from_utf8_lossy(&new).replace("\r\n", "|");
        assert!(!new.contains(writer), "{new}");
        let shown = format!("c=IN IP{six} {ours}");
        let end = format!(
            "|m=message 5060 sip null|{shown}|a=accept-types:text/plain|\
             m=message 0 TCP/TLS/MSRP *|{shown}|a=mid:chat|m=message 0 TCP/TLS/MSRP *|i=off|"
        );
        assert!(new.ends_with(&end), "{new}");
        assert!(new.contains("|a=ice-ufrag:F7gI|a=group:BUNDLE au|m=audio 30000 "), "{new}");
        // Ours, one for each component.
        assert_eq!(new.matches("a=candidate:").count(), 2, "{new}");
    }
}

#[test]
fn a_rejected_m_line_leaves_its_bundle() {
    let text = wire(BROWSER);
    let lines = vec![anchor(OURS, 30_000, None), LineChange::Reject, LineChange::Reject];
    let (gone, came) = difference(&text, &change(OURS, lines, Candidates::Replace));
    assert!(came.contains(&"a=group:BUNDLE 0".to_owned()), "{came:?}");
    assert!(came.iter().any(|line| line.starts_with("m=application 0 ")), "{came:?}");
    assert!(gone.iter().any(|line| line.trim() == "a=bundle-only"), "{gone:?}");
    let all = Rewrite { lines: vec![LineChange::Reject; 3], ..Rewrite::default() };
    let (gone, came) = difference(&text, &all);
    assert!(gone.iter().any(|line| line.starts_with("a=group:")));
    assert!(!came.iter().any(|line| line.starts_with("a=group:")));
}

#[test]
fn a_bundle_only_line_keeps_port_0() {
    let lines = vec![anchor(OURS, 30_000, None); 3];
    let (_, came) = difference(&wire(BROWSER), &change(OURS, lines, Candidates::Replace));
    assert!(!came.iter().any(|line| line.starts_with("m=video")), "{came:?}");
    assert!(came.iter().any(|line| line.starts_with("m=application 30000 ")), "{came:?}");
}

#[test]
fn hold_by_address_stays_hold() {
    let text = with(&["c=IN IP4 0.0.0.0", "m=audio 4000 RTP/AVP 0", "a=rtcp:4001"]);
    let rewrite = change(OURS, vec![anchor(OURS, 30_000, 30_001)], Candidates::Keep);
    let new = parse(&text).unwrap().rewrite(&rewrite).unwrap();
    let sdp = Sdp::parse(new, &SdpBounds::default()).unwrap();
    assert_eq!(sdp.media()[0].direction, Direction::SendOnly);
    assert_eq!(sdp.media()[0].port, 30_000);
    assert_eq!(sdp.media()[0].rtcp, Some((30_001, Some(OURS.parse().unwrap()))));
}

#[test]
fn a_connection_of_its_own_is_written_where_the_sessions_does_not_fit() {
    let text = with(&["c=IN IP4 192.0.2.1", "m=audio 4000 RTP/AVP 0", "i=x", "b=AS:64"]);
    let only = |origin: Option<&str>| Rewrite {
        origin: origin.map(|origin| origin.parse().unwrap()),
        lines: vec![anchor(OURS, 30_000, 30_001)],
        candidates: Candidates::Keep,
    };
    let new = parse(&text).unwrap().rewrite(&only(None)).unwrap();
    let new = String::from_utf8(new.to_vec()).unwrap();
    let expected = "m=audio 30000 RTP/AVP 0\r\ni=x\r\nc=IN IP4 203.0.113.5\r\nb=AS:64\r\n";
    assert!(new.ends_with(expected), "{new}");
    let (_, came) = difference(&text, &only(Some(SIX_OF_OURS)));
    assert!(came.contains(&"c=IN IP4 203.0.113.5".to_owned()), "{came:?}");
    let (_, came) = difference(&text, &only(Some(OURS)));
    assert_eq!(came.iter().filter(|line| line.starts_with("c=")).count(), 1, "{came:?}");
}

#[test]
fn the_sessions_address_stays_while_a_kept_line_needs_it() {
    let text = with(&["c=IN IP4 192.0.2.1", "m=audio 4000 RTP/AVP 0", "m=data 5000 TCP x"]);
    let rewrite =
        change(OURS, vec![anchor(OURS, 30_000, 30_001), LineChange::Keep], Candidates::Keep);
    let new = parse(&text).unwrap().rewrite(&rewrite).unwrap();
    let sdp = Sdp::parse(new, &SdpBounds::default()).unwrap();
    assert_eq!(sdp.media()[0].address, Some(OURS.parse().unwrap()));
    assert_eq!(sdp.media()[1].address, Some("192.0.2.1".parse().unwrap()));
}

#[test]
fn rtcp_is_written_only_where_it_must_be() {
    let text = with(&["c=IN IP4 192.0.2.1", "m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVP 31"]);
    let lines = vec![anchor(OURS, 30_000, 30_001), anchor(OURS, 30_002, 30_009)];
    let (_, came) = difference(&text, &change(OURS, lines, Candidates::Keep));
    let rtcp: Vec<_> = came.iter().filter(|line| line.starts_with("a=rtcp")).collect();
    assert_eq!(rtcp, ["a=rtcp:30009"]);
}

#[test]
fn lines_put_in_have_the_line_ends_of_their_place() {
    let unix = with(&["c=IN IP4 192.0.2.1", "m=audio 4000 RTP/AVP 0"]).replace('\r', "");
    let other = Rewrite { lines: vec![anchor(OURS, 30_000, 30_009)], ..Rewrite::default() };
    for (text, end) in [
        (unix.clone(), "m=audio 30000 RTP/AVP 0\nc=IN IP4 203.0.113.5\na=rtcp:30009\n"),
        (unix.trim_end().to_owned(), "m=audio 30000 RTP/AVP 0\nc=IN IP4 203.0.113.5\na=rtcp:30009"),
        (
            format!("{}\r\n\r\n", unix.trim_end()),
            "m=audio 30000 RTP/AVP 0\r\nc=IN IP4 203.0.113.5\r\na=rtcp:30009\r\n\r\n",
        ),
    ] {
        let new = parse(&text).unwrap().rewrite(&other).unwrap();
        assert!(new.ends_with(end.as_bytes()), "{text:?}: {:?}", String::from_utf8_lossy(&new));
    }
    let ice = with(&[
        "c=IN IP4 192.0.2.1",
        "m=audio 4000 RTP/AVP 0",
        "a=ice-ufrag:F7gI",
        "a=candidate:1 1 UDP 1 192.0.2.1 4000 typ host",
    ]);
    let replace = Rewrite { candidates: Candidates::Replace, ..other };
    let new = parse(ice.trim_end()).unwrap().rewrite(&replace).unwrap();
    Sdp::parse(new, &SdpBounds::default()).unwrap();
}

#[test]
fn old_candidates_are_stripped_and_late_ones_get_ours() {
    let old = with(&[
        "c=IN IP4 192.0.2.1",
        "m=audio 4000 RTP/AVP 0",
        "a=candidate:user 1 password UDP 0.830 192.0.2.1 4000",
        "a=remote-candidate:x",
    ]);
    let lines = vec![anchor(OURS, 30_000, 30_001)];
    let (gone, came) = difference(&old, &change(OURS, lines.clone(), Candidates::Replace));
    assert_eq!(gone.iter().filter(|line| line.contains("candidate")).count(), 2);
    assert!(!came.iter().any(|line| line.contains("candidate")), "{came:?}");
    let late = with(&["c=IN IP4 0.0.0.0", "m=audio 9 RTP/AVP 0", "a=ice-ufrag:F7gI"]);
    let (_, came) = difference(&late, &change(OURS, lines, Candidates::Replace));
    assert!(came.contains(&"c=IN IP4 203.0.113.5".to_owned()), "{came:?}");
    assert_eq!(came.iter().filter(|line| line.starts_with("a=candidate")).count(), 2);
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let sdp = read(&["c=IN IP4 192.0.2.1", "m=audio 4000/2 RTP/AVP 0", "m=video 5000 RTP/AVP 31"]);
    let good = anchor(OURS, 30_000, None);
    for (lines, line, fault) in [
        (vec![], 0, SdpFault::LineCount),
        (vec![LineChange::Keep; 3], 0, SdpFault::LineCount),
        (vec![good, LineChange::Keep], 5, SdpFault::SeveralPorts),
        (vec![LineChange::Keep, anchor("0.0.0.0", 1, None)], 6, SdpFault::Anchor),
        (vec![LineChange::Keep, anchor("ff02::1", 1, None)], 6, SdpFault::Anchor),
        (vec![LineChange::Keep, anchor(OURS, 0, None)], 6, SdpFault::Anchor),
        (vec![LineChange::Keep, anchor(OURS, 2, 0)], 6, SdpFault::Anchor),
    ] {
        let error = sdp.rewrite(&Rewrite { lines, ..Rewrite::default() }).unwrap_err();
        assert_eq!((error.line, error.fault), (line, fault));
    }
    let rejected = Rewrite { lines: vec![LineChange::Reject, good], ..Rewrite::default() };
    let new = sdp.rewrite(&rejected).unwrap();
    assert!(String::from_utf8_lossy(&new).contains("m=audio 0 RTP/AVP 0\r\n"));
}
