//! m-lines: what becomes of each kind, and which addresses make sense.

use super::*;

/// The offer of a caller outside, and the answer of a callee inside, each as it goes on.
fn negotiated(offer: &str, answer: &str) -> (Bench, String, String) {
    let mut bench = Bench::new();
    let there = bench.ask(&Say::invite(1), offer).unwrap();
    let back = bench.reply(&Say::invite(1), 200, "b", answer).unwrap().unwrap();
    (bench, there, back)
}

fn open_lines(bench: &Bench) -> Vec<(u8, Component)> {
    let mut lines: Vec<_> = bench
        .open
        .values()
        .filter(|flow| flow.side == OUT)
        .map(|flow| (flow.line, flow.component))
        .collect();
    lines.sort_unstable();
    lines
}

#[test]
fn what_is_over_udp_is_forwarded_and_nothing_else() {
    // (m-line, it goes on with a port of ours, flows from outside)
    let cases = [
        ("m=audio 4000 RTP/SAVP 0", true, vec![Component::Rtp, Component::Rtcp]),
        ("m=video 4000 UDP/TLS/RTP/SAVPF 96", true, vec![Component::Rtp, Component::Rtcp]),
        ("m=image 4000 udptl t38", true, vec![Component::Rtp]),
        ("m=application 4000 UDP/DTLS/SCTP webrtc-datachannel", true, vec![Component::Rtp]),
        ("m=applicationsharing 4000 TCP/RTP/SAVP 127", false, vec![]),
        ("m=message 4000 TCP/MSRP *", false, vec![]),
        ("m=data 4000 tcp *", false, vec![]),
        ("m=audio 4000 SCTP 1", false, vec![]),
        ("m=video 4000/2 RTP/AVP 31", false, vec![]),
    ];
    for (line, forwarded, expected) in cases {
        let text = |address, audio| {
            sdp(address, &format!("m=audio {audio} RTP/AVP 0|{}", line.replace("4000", "4002")))
        };
        let (mut bench, there, back) = negotiated(&text(CALLER, 4000), &text(CALLEE, 5000));
        for text in [&there, &back] {
            assert_eq!(ports(text)[1] != 0, forwarded, "{text}");
            assert_ne!(ports(text)[0], 0, "{text}");
            assert_eq!(lines(text, "c=").len(), 1);
        }
        let of_it: Vec<Component> =
            open_lines(&bench).into_iter().filter(|(at, _)| *at == 1).map(|(_, c)| c).collect();
        assert_eq!(of_it, expected, "{line}");
        if line.contains("udptl") {
            let any = |flow: &&Flow| flow.content == FlowContent::Any;
            assert_eq!(bench.open.values().filter(any).count(), 2);
        }
        bench.bye(true);
        bench.assert_nothing_left();
        // Alone, there is nothing left of what is not forwarded.
        let alone = Bench::new().ask(&Say::invite(1), &sdp(CALLER, line));
        assert_eq!(alone.err(), (!forwarded).then_some(MediaFault::Unsupported), "{line}");
    }
}

#[test]
fn messages_over_the_dialog_pass_and_show_no_address_and_nothing_is_kept_for_them() {
    let im = |address: &str| sdp(address, "m=message 5060 sip null|a=accept-types:text/plain");
    let (mut bench, there, back) = negotiated(&im(CALLER), &im(CALLEE));
    for (text, own) in [(there, "10.0.0.1"), (back, "203.0.113.1")] {
        assert_eq!(ports(&text), [5060]);
        assert!(text.contains(own) && !text.contains(CALLER) && !text.contains(CALLEE), "{text}");
    }
    bench.assert_nothing_left();
    // Audio is added by the callee, and goes again.
    let with = |address: &str, port: u16| format!("{}m=audio {port} RTP/AVP 0\r\n", im(address));
    let say = Say::within(CallMethod::Invite, 2, false);
    bench.ask(&say, &with(CALLEE, 5000)).unwrap();
    bench.reply(&say, 200, "a", &with(CALLER, 4000)).unwrap();
    assert_eq!(open_lines(&bench), [(1, Component::Rtp), (1, Component::Rtcp)]);
    let say = Say::within(CallMethod::Invite, 3, true);
    bench.ask(&say, &with(CALLER, 0)).unwrap();
    assert_eq!(bench.open.len(), 4, "not before the answer");
    bench.reply(&say, 200, "b", &with(CALLEE, 0)).unwrap();
    bench.assert_nothing_left();
    assert_eq!(bench.events.last().unwrap().ended, Some(EndCause::NoMedia));
}

#[test]
fn what_is_forbidden_goes_on_with_port_0_both_ways() {
    let text = |address| sdp(address, "m=audio 4000 RTP/AVP 0|m=video 4002 RTP/AVP 96");
    let mut bench = Bench { forbidden: 0b10, ..Bench::new() };
    let there = bench.ask(&Say::invite(1), &text(CALLER)).unwrap();
    assert_eq!((ports(&there)[0] != 0, ports(&there)[1]), (true, 0));
    // Whatever the answer says.
    let back = bench.reply(&Say::invite(1), 200, "b", &text(CALLEE)).unwrap().unwrap();
    assert_eq!((ports(&back)[0] != 0, ports(&back)[1]), (true, 0));
    assert_eq!(open_lines(&bench), [(0, Component::Rtp), (0, Component::Rtcp)]);
    // It is judged again when more is asked for, and when nobody forbids it any more it may.
    bench.forbidden = 0b11;
    let say = Say::within(CallMethod::Invite, 2, true);
    assert_eq!(bench.ask(&say, &text(CALLER)), Err(MediaFault::Forbidden));
    assert_eq!(bench.open.len(), 4, "a refused change changes nothing");
    bench.forbidden = 0;
    bench.ask(&say, &text(CALLER)).unwrap();
    // Forbidden between offer and answer.
    bench.forbidden = 0b01;
    let back = bench.reply(&say, 200, "b", &text(CALLEE)).unwrap().unwrap();
    assert_eq!((ports(&back)[0], ports(&back)[1] != 0), (0, true));
    assert_eq!(open_lines(&bench), [(1, Component::Rtp), (1, Component::Rtcp)]);
    bench.bye(true);
    bench.assert_nothing_left();
    bench.forbidden = 1;
    assert_eq!(bench.ask(&Say::invite(1), &audio(CALLER, 4000)), Err(MediaFault::Forbidden));
    assert!(bench.ask(&Say::invite(1), &audio(CALLER, 0)).is_ok(), "nothing is asked for");
    bench.assert_nothing_left();
}

#[test]
fn an_answer_takes_nothing_that_was_not_offered() {
    let offer = sdp(CALLER, "m=audio 4000 RTP/AVP 0|m=video 0 RTP/AVP 96");
    let answer =
        sdp(CALLEE, "m=audio 5000 RTP/AVP 0|m=video 5002 RTP/AVP 96|m=video 5004 RTP/AVP 96");
    let (bench, _, back) = negotiated(&offer, &answer);
    assert_eq!(ports(&back)[1..], [0, 0]);
    assert_eq!(open_lines(&bench), [(0, Component::Rtp), (0, Component::Rtcp)]);
}

#[test]
fn rtcp_is_where_both_say() {
    // (offer's attributes, answer's, flows from outside, RTCP from there comes from)
    let mux = "a=rtcp-mux";
    let cases = [
        ("", "", 2, Some(4001)),
        ("a=rtcp:4007", "", 2, Some(4007)),
        ("a=rtcp:4007 IN IP4 198.41.0.5", "", 2, Some(4007)),
        (mux, "", 2, Some(4001)),
        ("", mux, 2, Some(4001)),
        (mux, mux, 1, None),
        ("a=rtcp:4000|a=rtcp-mux", mux, 1, None),
    ];
    for (offered, answered, flows, rtcp) in cases {
        let text = |address, port, more| sdp(address, &format!("m=audio {port} RTP/AVP 0|{more}"));
        let (offer, answer) = (text(CALLER, 4000, offered), text(CALLEE, 5000, answered));
        let (bench, there, back) = negotiated(offer.trim_end(), answer.trim_end());
        let out: Vec<&Flow> = bench.open.values().filter(|flow| flow.side == OUT).collect();
        assert_eq!(out.len(), flows, "{offered} {answered}");
        let found = out.iter().find(|flow| flow.component == Component::Rtcp);
        assert_eq!(found.map(|flow| flow.source_port.unwrap()), rtcp, "{offered} {answered}");
        if offered.contains("IN IP4") {
            assert_eq!(found.unwrap().source.addr(), ip("198.41.0.5"));
        }
        for text in [there, back] {
            assert!(!text.contains("4007") && !text.contains("198.41"), "{text}");
        }
    }
}

#[test]
fn candidates_are_ours() {
    let ice = |address: &str, port: u16| {
        sdp(
            address,
            &format!(
                "m=audio {port} RTP/SAVP 0|a=ice-ufrag:abcd|a=ice-pwd:0123456789012345678901|\
                 a=candidate:1 1 UDP 2130706431 {address} {port} typ host|\
                 a=candidate:2 1 TCP-ACT 1684798975 {address} {port} typ srflx raddr 10.9.9.9 rport 9"
            ),
        )
    };
    let (_, there, back) = negotiated(&ice(CALLER, 4000), &ice(CALLEE, 5000));
    for (text, own) in [(there, "10.0.0.1"), (back, "203.0.113.1")] {
        let candidates = lines(&text, "a=candidate");
        assert!(
            !candidates.is_empty() && candidates.iter().all(|line| line.contains(own)),
            "{text}"
        );
        assert!(!text.contains(CALLER) && !text.contains(CALLEE) && !text.contains("10.9.9.9"));
    }
}

#[test]
fn what_ice_has_found_out_is_a_port_of_an_edge_and_changes_nothing() {
    // Each says at the end where the other sees it: at a port of ours there, or of another edge.
    let seen = |seen: [&str; 2], own: &str, port: u16| {
        let [rtp, rtcp] = seen.map(|at| at.rsplit_once(':').unwrap());
        let family = if rtp.0.contains(':') { "IP6" } else { "IP4" };
        sdp(
            own,
            &format!(
                "m=audio {} RTP/AVP 0|c=IN {family} {}|a=rtcp:{} IN {family} {}|\
                 a=ice-ufrag:abcd|a=ice-pwd:0123456789012345678901|\
                 a=candidate:1 1 UDP 2130706431 {own} {port} typ host|\
                 a=candidate:2 1 UDP 1862270975 {} {} typ prflx raddr {own} rport {port}|\
                 a=candidate:3 2 UDP 1862270974 {} {} typ prflx raddr {own} rport {}|\
                 a=remote-candidates:1 192.0.2.1 50000 2 192.0.2.1 50001",
                rtp.1,
                rtp.0,
                rtcp.1,
                rtcp.0,
                rtp.0,
                rtp.1,
                rtcp.0,
                rtcp.1,
                port + 1
            ),
        )
    };
    for at in [["10.0.0.1:50000", "10.0.0.1:50001"], ["192.168.7.7:9000", "192.168.7.7:9001"]] {
        for adopted in [false, true] {
            let mut bench = Bench::up();
            let (ways, opened) = (bench.ways(), bench.opened);
            if adopted {
                let flows = bench.open.values().cloned().collect();
                bench.calls = Calls::new(settings(), &[7; 32], None);
                bench.act(|calls, now, effects| calls.adopt(now, flows, effects));
            }
            let say = Say::within(CallMethod::Invite, 2, true);
            let there = bench.ask(&say, &seen(at, CALLER, 4000)).unwrap();
            let answer = seen(["203.0.113.1:50000", "203.0.113.1:50001"], CALLEE, 5000);
            let back = bench.reply(&say, 200, "b", &answer).unwrap().unwrap();
            assert_eq!((bench.ways(), adopted || bench.opened == opened), (ways, true));
            for text in [there, back] {
                for gone in ["prflx", "remote-candidates", "192.168", "raddr"] {
                    assert!(!text.contains(gone), "{gone}: {text}");
                }
            }
            bench.bye(true);
        }
    }
    // Of who is heard there a candidate of any other type is where it is.
    let mut bench = Bench::up();
    let say = Say::within(CallMethod::Invite, 2, true);
    let moved = seen(["198.41.0.5:6000", "198.41.0.5:6001"], CALLER, 4000);
    bench.ask(&say, &moved.replace("prflx", "srflx")).unwrap();
    bench.reply(&say, 200, "b", &audio(CALLEE, 5000)).unwrap();
    assert!(bench.ways().contains(&format!("0 Rtp out: 198.41.0.5 6000 -> {CALLEE}:5000")));
    // Where nobody relays, what is said is what is.
    let mut bench = Bench::with(CallSettings {
        mode: MediaMode::Pinhole,
        outside: OwnAddresses::default(),
        inside: OwnAddresses::default(),
        ..settings()
    });
    bench.ask(&Say::invite(1), &moved).unwrap();
    bench.reply(&Say::invite(1), 200, "b", &audio("198.41.1.50", 5000)).unwrap();
    assert!(bench.ways().contains(&"0 Rtp out: 198.41.0.5 6000 -> 198.41.1.50:5000".to_owned()));
}

#[test]
fn a_bundle_shares_one_transport() {
    let head = |address: &str| {
        format!(
            "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\na=group:BUNDLE a v\r\n"
        )
    };
    let text = |address: &str, audio: u16, video: u16, more: &str| {
        format!(
            "{}m=audio {audio} RTP/AVP 0\r\na=mid:a\r\na=rtcp-mux\r\nb=AS:64\r\n\
             m=video {video} RTP/AVP 96\r\na=mid:v\r\na=rtcp-mux\r\nb=AS:2000\r\n{more}",
            head(address)
        )
    };
    for (offer, video_offered) in
        [(text(CALLER, 4000, 4002, ""), true), (text(CALLER, 4000, 0, "a=bundle-only\r\n"), false)]
    {
        let (mut bench, there, back) = negotiated(&offer, &text(CALLEE, 5000, 5000, ""));
        assert_eq!(ports(&there)[1] != 0, video_offered, "{there}");
        assert_ne!(ports(&there)[0], ports(&there)[1]);
        assert_eq!(ports(&back)[0], ports(&back)[1], "{back}");
        assert_eq!(open_lines(&bench), [(0, Component::Rtp)], "one flow each way");
        let both = bench.open.values().next().unwrap().bytes_per_second;
        let (one, _, _) = negotiated(&audio(CALLER, 4000), &audio(CALLEE, 5000));
        assert!(both > one.open.values().next().unwrap().bytes_per_second, "room for both");
        assert_eq!(
            bench.calls.all.values().next().unwrap().lines[0].ports.outside,
            ports(&back)[0]
        );
        // Bundled from the start from now on.
        let say = Say::within(CallMethod::Invite, 2, true);
        let there = bench.ask(&say, &text(CALLER, 4000, 4000, "")).unwrap();
        assert_eq!(ports(&there)[0], ports(&there)[1]);
        bench.reply(&say, 200, "b", &text(CALLEE, 5000, 5000, "")).unwrap();
        assert_eq!(open_lines(&bench), [(0, Component::Rtp)]);
        bench.bye(true);
        bench.assert_nothing_left();
    }
}

#[test]
fn a_line_that_goes_off_is_closed_and_its_ports_are_free() {
    let text = |address, audio, video| {
        sdp(address, &format!("m=audio {audio} RTP/AVP 0|m=video {video} RTP/AVP 96"))
    };
    let (mut bench, ..) = negotiated(&text(CALLER, 4000, 4002), &text(CALLEE, 5000, 5002));
    assert_eq!(bench.open.len(), 8);
    let free = bench.calls.pools.ports.free();
    let say = Say::within(CallMethod::Invite, 2, true);
    bench.ask(&say, &text(CALLER, 4000, 0)).unwrap();
    bench.reply(&say, 200, "b", &text(CALLEE, 5000, 0)).unwrap();
    assert_eq!(open_lines(&bench), [(0, Component::Rtp), (0, Component::Rtcp)]);
    assert_eq!(bench.calls.pools.ports.free(), free + 2);
}

#[test]
fn hold_keeps_flows_and_marks_them() {
    // (the holding side's text, the other's)
    let direction = |address: &str, port: u16, word: &str| {
        sdp(address, &format!("m=audio {port} RTP/AVP 8 0|a={word}"))
    };
    let cases = [
        (direction(CALLER, 4000, "sendonly"), direction(CALLEE, 5000, "recvonly")),
        (direction(CALLER, 4000, "inactive"), direction(CALLEE, 5000, "inactive")),
        (audio("0.0.0.0", 4000), audio(CALLEE, 5000)),
    ];
    for (hold, held) in cases {
        let mut bench = Bench::up();
        let before = bench.ways();
        let say = Say::within(CallMethod::Invite, 2, true);
        bench.ask(&say, &hold).unwrap();
        bench.reply(&say, 200, "b", &held).unwrap();
        let marked: Vec<String> = before.iter().map(|way| format!("{way} held")).collect();
        assert_eq!(bench.ways(), marked, "{hold}");
        assert!(bench.calls.status()[0].lines[0].held);
        // And back.
        let say = Say::within(CallMethod::Invite, 3, true);
        bench.ask(&say, &audio(CALLER, 4000)).unwrap();
        bench.reply(&say, 200, "b", &audio(CALLEE, 5000)).unwrap();
        assert_eq!(bench.ways(), before);
        bench.bye(true);
        bench.assert_nothing_left();
    }
    // From the start: nobody knows where to, until somebody says.
    let (mut bench, ..) = negotiated(&audio("0.0.0.0", 4000), &audio(CALLEE, 5000));
    assert_eq!((bench.open.len(), bench.calls.len()), (0, 1));
    let say = Say::within(CallMethod::Invite, 2, true);
    bench.ask(&say, &audio(CALLER, 4000)).unwrap();
    bench.reply(&say, 200, "b", &audio(CALLEE, 5000)).unwrap();
    assert_eq!(bench.open.len(), 4);
}

#[test]
fn a_pinhole_leaves_the_text_as_it_is_and_leads_to_the_endpoint() {
    let mut bench = Bench::with(CallSettings {
        mode: MediaMode::Pinhole,
        outside: OwnAddresses::default(),
        inside: OwnAddresses::default(),
        ..settings()
    });
    let callee = "198.41.1.50";
    let offer = sdp(CALLER, "m=audio 4000 RTP/AVP 0|a=candidate:1 1 UDP 1 1.2.3.4 5 typ host");
    assert_eq!(bench.ask(&Say::invite(1), &offer).unwrap(), offer);
    let answer = audio(callee, 5000);
    assert_eq!(bench.reply(&Say::invite(1), 200, "b", &answer).unwrap().unwrap(), answer);
    assert_eq!(bench.open.len(), 4);
    assert!(bench.open.values().all(|flow| flow.way == Way::Pinhole));
    assert!(bench.ways().contains(&format!("0 Rtp out: {CALLER} 4000 -> {callee}:5000")));
    // What is forbidden is still taken out, and TCP is not ours to judge.
    bench.forbidden = 0b10;
    let more = sdp(CALLER, "m=audio 4000 RTP/AVP 0|m=video 4002 RTP/AVP 96|m=data 9 tcp *");
    let there = bench.ask(&Say::within(CallMethod::Invite, 2, true), &more).unwrap();
    assert_eq!(ports(&there), [4000, 0, 9]);
    bench.failed(2);
    bench.bye(true);
    bench.assert_nothing_left();
}

#[test]
fn without_media_nothing_is_kept_and_what_is_forbidden_is_still_taken_out() {
    let off = CallSettings { mode: MediaMode::Off, ..settings() };
    let mut bench = Bench { forbidden: 0b10, ..Bench::with(off) };
    let text = sdp("10.0.0.1", "m=audio 4000 RTP/AVP 0|m=video 4002 RTP/AVP 96|m=data 9 tcp *");
    let there = bench.ask(&Say::invite(1), &text).unwrap();
    assert_eq!(there, text.replace("4002", "0"));
    let back = bench.reply(&Say::invite(1), 200, "b", &text).unwrap().unwrap();
    assert_eq!(back, there);
    bench.assert_nothing_left();
}

#[test]
fn an_address_makes_sense_or_the_call_is_refused() {
    let private = "192.168.7.7";
    // (address, from outside, from inside)
    let cases = [
        (CALLER, true, true),
        ("2a00:1450::1", true, true),
        (private, false, true),
        ("10.0.0.50", false, true),
        ("fd00::50", false, true),
        ("100.64.0.1", false, true),
        ("127.0.0.1", false, false),
        ("::1", false, false),
        ("192.0.2.1", false, false),
        ("203.0.113.1", false, false),
        ("10.0.0.1", false, false),
        ("fd00::1", false, false),
        ("64:ff9b::a00:1", false, false),
        ("255.255.255.255", false, false),
        ("media.fabrikam.example", false, false),
    ];
    let text = |address: &str| {
        audio("192.168.1.1", 4000).replace(
            "c=IN IP4 192.168.1.1",
            &format!("c=IN {} {address}", if address.contains(':') { "IP6" } else { "IP4" }),
        )
    };
    let fault = MediaFault::Address { line: 0 };
    for (address, outside, inside) in cases {
        for (inbound, good) in [(true, outside), (false, inside)] {
            let mut bench = Bench { inbound, ..Bench::new() };
            let asked = bench.ask(&Say::invite(1), &text(address));
            assert_eq!(asked.err(), (!good).then_some(fault.clone()), "{address} {inbound}");
            // The same of RTCP's own.
            let rtcp = format!(
                "m=audio 4000 RTP/AVP 0|a=rtcp:4001 IN {} {address}",
                if address.contains(':') { "IP6" } else { "IP4" }
            );
            let (mut bench, from) =
                (Bench { inbound, ..Bench::new() }, if inbound { CALLER } else { CALLEE });
            if address.parse::<IpAddr>().is_ok() {
                let asked = bench.ask(&Say::invite(1), &sdp(from, &rtcp));
                assert_eq!(asked.err(), (!good).then_some(fault.clone()), "{address} {inbound}");
            }
        }
    }
    // The configuration may name it.
    let mut bench = Bench::new();
    bench.calls.settings.allow = vec!["192.168.0.0/16".parse().unwrap()];
    assert!(bench.ask(&Say::invite(1), &text(private)).is_ok());
    // An answer is judged too, and is off by then where it does not matter.
    let mut bench = Bench { inbound: false, ..Bench::new() };
    bench.ask(&Say::invite(1), &audio(CALLEE, 4000)).unwrap();
    let bad = bench.reply(&Say::invite(1), 200, "b", &text(private));
    assert_eq!(bad, Err(fault));
    assert_eq!(bench.open.len(), 0);
    let off = bench.reply(&Say::invite(1), 183, "b", &text(private).replace("4000", "0"));
    assert!(off.is_ok());
}

#[test]
fn each_side_is_shown_an_address_of_the_family_it_speaks() {
    let global = "2a00:1450::7";
    // (caller's media, signalling outside, signalling inside, shown inside, shown outside)
    let cases = [
        (CALLER, "198.41.0.9", "10.0.0.9", "10.0.0.1", "203.0.113.1"),
        (CALLER, "198.41.0.9", "fd00::9", "fd00::1", "203.0.113.1"),
        (global, "2a00:1450::9", "10.0.0.9", "10.0.0.1", "2001:db8::1"),
        (global, "198.41.0.9", "fd00::9", "fd00::1", "2001:db8::1"),
        (CALLER, "2a00:1450::9", "10.0.0.9", "10.0.0.1", "203.0.113.1"),
    ];
    for (media, outside, inside, shown_inside, shown_outside) in cases {
        let peers = Peers { outside: ip(outside), inside: ip(inside) };
        let mut bench = Bench { peers, ..Bench::new() };
        let there = bench.ask(&Say::invite(1), &audio(media, 4000)).unwrap();
        assert!(lines(&there, "c=")[0].ends_with(&format!(" {shown_inside}")), "{there}");
        let callee = if inside.contains(':') { "fd00::50" } else { CALLEE };
        let back = bench.reply(&Say::invite(1), 200, "b", &audio(callee, 5000)).unwrap().unwrap();
        assert!(lines(&back, "c=")[0].ends_with(&format!(" {shown_outside}")), "{back}");
        assert_eq!(bench.open.len(), 4);
        bench.bye(true);
        bench.assert_nothing_left();
    }
    // What there is, is used; and a family that is not there is nobody's to reach.
    let four = OwnAddresses::new(&[ip("192.0.2.1")], &[]);
    let mut bench = Bench::with(CallSettings { outside: four, ..settings() });
    bench.peers.outside = ip("2a00:1450::9");
    let six = bench.ask(&Say::invite(1), &audio(global, 4000));
    assert_eq!(six, Err(MediaFault::Unsupported));
    bench.assert_nothing_left();
    bench.ask(&Say::invite(1), &audio(CALLER, 4000)).unwrap();
    // Told IPv4, it answers that it is at an IPv6 address: nothing can come from there.
    let back = bench.reply(&Say::invite(1), 200, "b", &audio("fd00::50", 5000)).unwrap().unwrap();
    assert_eq!((ports(&back), bench.open.len()), (vec![0], 0));
}

#[test]
fn behind_nat_the_source_is_the_signalling_peers_and_the_way_back_follows_it() {
    // (signalling peer, prefix, what SDP says, where it goes at first, what comes)
    let cases = [
        ("198.41.0.9", "198.41.0.9", "192.168.1.5", "198.41.0.9:4000", "198.41.0.9:61000"),
        ("198.41.0.9", "198.41.0.9", "198.41.0.9", "198.41.0.9:4000", "198.41.0.9:61000"),
        (
            "2a00:1450::9",
            "2a00:1450::/64",
            "fd00::5",
            "[2a00:1450::9]:4000",
            "[2a00:1450::77]:61000",
        ),
    ];
    for (peer, prefix, said, first, seen) in cases {
        let mut bench = Bench { behind_nat: true, ..Bench::new() };
        bench.peers.outside = ip(peer);
        bench.ask(&Say::invite(1), &audio(said, 4000)).unwrap();
        bench.reply(&Say::invite(1), 200, "b", &audio(CALLEE, 5000)).unwrap();
        let ways = bench.ways();
        assert!(ways.contains(&format!("0 Rtp in: {CALLEE} 5000 -> {first}")), "{ways:?}");
        assert!(ways.contains(&format!("0 Rtp out: {prefix} * -> {CALLEE}:5000")), "{ways:?}");
        let learner = |bench: &Bench| {
            let rtp = |flow: &&Flow| flow.side == OUT && flow.component == Component::Rtp;
            bench.open.values().find(rtp).unwrap().clone()
        };
        let id = learner(&bench).id;
        let wrong = at("198.41.9.9:1");
        bench.act(|calls, now, effects| calls.learned(now, id, wrong, effects));
        assert_eq!(bench.ways(), ways, "not of the prefix");
        bench.act(|calls, now, effects| calls.learned(now, id, at(seen), effects));
        assert!(bench.ways().contains(&format!("0 Rtp in: {CALLEE} 5000 -> {seen}")));
        assert_eq!(bench.ways().iter().filter(|way| way.contains(seen)).count(), 1, "RTP only");
        // It says the same again: what was learned holds. Something else: it does not.
        for (port, expected) in [(4000, seen.to_owned()), (4010, first.replace("4000", "4010"))] {
            let before = learner(&bench).learned_anew;
            let say = Say::within(CallMethod::Update, u64::from(port), true);
            bench.ask(&say, &audio(said, port)).unwrap();
            bench.reply(&say, 200, "b", &audio(CALLEE, 5000)).unwrap();
            let way = format!("0 Rtp in: {CALLEE} 5000 -> {expected}");
            assert!(bench.ways().contains(&way), "{:?}", bench.ways());
            assert_eq!(learner(&bench).id, id);
            let anew = learner(&bench).learned_anew != before;
            assert_eq!(anew, port == 4010, "the kernel is to forget it too");
        }
        bench.bye(true);
        bench.assert_nothing_left();
    }
}

#[test]
fn behind_nat_an_address_that_makes_sense_is_the_source() {
    for (peer, said) in [
        ("198.41.0.9", CALLER),
        ("198.41.0.9", "2a00:1450::7"),
        ("2a00:1450::9", CALLER),
        ("2a00:1450::9", "2a00:1450:0:1::7"),
    ] {
        let mut bench = Bench { behind_nat: true, ..Bench::new() };
        bench.peers.outside = ip(peer);
        bench.ask(&Say::invite(1), &audio(said, 4000)).unwrap();
        bench.reply(&Say::invite(1), 200, "b", &audio(CALLEE, 5000)).unwrap();
        let ways = bench.ways();
        assert!(ways.contains(&format!("0 Rtp out: {said} 4000 -> {CALLEE}:5000")), "{ways:?}");
        assert_eq!(ways.len(), 4, "{ways:?}");
        bench.bye(true);
        bench.assert_nothing_left();
    }
}

#[test]
fn another_port_of_the_named_address_is_followed() {
    let mut bench = Bench::up();
    let rtp = |flow: &&Flow| flow.side == IN && flow.component == Component::Rtcp;
    let id = bench.open.values().find(rtp).unwrap().id;
    let seen = at("10.0.0.50:5009");
    bench.act(|calls, now, effects| calls.learned(now, id, seen, effects));
    assert!(bench.ways().contains(&format!("0 Rtcp out: {CALLER} 4001 -> {seen}")));
}

#[test]
fn a_pinhole_stays_where_sdp_said_whatever_is_learned() {
    let v6 = ("2a00:1450::7", "fd00::50");
    for (caller, callee) in [(CALLER, CALLEE), v6] {
        let mut bench = Bench::with(CallSettings { mode: MediaMode::Pinhole, ..settings() });
        bench.ask(&Say::invite(1), &audio(caller, 4000)).unwrap();
        bench.reply(&Say::invite(1), 200, "b", &audio(callee, 5000)).unwrap();
        let (ways, opened) = (bench.ways(), bench.opened);
        let flows: Vec<Flow> = bench.open.values().cloned().collect();
        for flow in flows {
            let seen = SocketAddr::new(flow.source.addr(), 7777);
            bench.act(|calls, now, effects| calls.learned(now, flow.id, seen, effects));
        }
        assert_eq!((bench.ways(), bench.opened), (ways, opened));
    }
}

#[test]
fn ceilings_are_generous_and_there() {
    // (m-line and more, least and most bits a second of RTP, least packets)
    let cases = [
        ("m=audio 4000 RTP/AVP 0", 512_000, 800_000, 100),
        ("m=audio 4000 RTP/AVP 0|b=AS:1", 512_000, 800_000, 100),
        ("m=video 4000 RTP/AVP 96", 8_000_000, 12_000_000, 1000),
        ("m=video 4000 RTP/AVP 96|b=AS:20000", 40_000_000, 60_000_000, 5000),
        ("m=video 4000 RTP/AVP 96|b=TIAS:18446744073709551615", 0, 300_000_000, 5000),
    ];
    for (line, least, most, packets) in cases {
        let (bench, ..) = negotiated(&sdp(CALLER, line), &sdp(CALLEE, line));
        let of = |component| bench.open.values().find(|flow| flow.component == component).unwrap();
        let rtp = of(Component::Rtp);
        let bits = u64::from(rtp.bytes_per_second) * 8;
        assert!(bits >= least && bits <= most, "{line}: {bits}");
        assert!(rtp.packets_per_second >= packets, "{line}");
        let rtcp = of(Component::Rtcp);
        assert!(rtcp.bytes_per_second < rtp.bytes_per_second / 5, "{line}");
        assert!(rtcp.packets_per_second >= 25 && rtcp.clock.is_none(), "{line}");
    }
    let (bench, ..) = negotiated(&audio(CALLER, 4000), &audio(CALLEE, 5000));
    let rtp = bench.open.values().find(|flow| flow.component == Component::Rtp).unwrap();
    assert_eq!((rtp.clock, rtp.expires), (Some(8000), Duration::from_secs(24 * 3600)));
}
