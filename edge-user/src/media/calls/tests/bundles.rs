//! Bundles (RFC 9143, RFC 8843): which m-line has the transport, and what becomes of it when that
//! m-line is rejected.

use super::*;

const ICE: &str =
    "a=ice-ufrag:abcd|a=ice-pwd:0123456789012345678901|a=fingerprint:sha-256 AB|a=setup:actpass|";

/// A text with a bundle of audio `a` and video `v`, whose group is this, with these ports; ICE and keys
/// stand with the first that has a port only. Port 0 is for the bundle only where `only`.
fn bundle(address: &str, group: &str, [audio, video]: [u16; 2], only: bool) -> String {
    let line = |kind: &str, mid: &str, port: u16, tag: bool| {
        let only = if only && port == 0 { "a=bundle-only|" } else { "" };
        let tag = if tag { format!("a=rtcp-mux|{ICE}") } else { String::new() };
        format!("m={kind} {port} UDP/TLS/RTP/SAVPF 96|a=mid:{mid}|{only}{tag}")
    };
    let audio_first = !group.starts_with('v') && audio != 0;
    let lines = format!(
        "a=group:BUNDLE {group}|{}{}",
        line("audio", "a", audio, audio_first),
        line("video", "v", video, !audio_first)
    );
    sdp(address, lines.trim_end_matches('|'))
}

/// A call whose audio and video share one transport; our ports of it: outside, inside.
fn bundled() -> (Bench, u16, u16) {
    let mut bench = Bench::new();
    // Each has a port of its own at first.
    let offer = bundle(CALLER, "a v", [4000, 4002], false)
        .replace("a=mid:v\r\n", &format!("a=mid:v\r\na=rtcp-mux\r\n{}", ICE.replace('|', "\r\n")));
    let there = bench.ask(&Say::invite(1), &offer).unwrap();
    let answer = bundle(CALLEE, "a v", [5000, 5000], false);
    let back = bench.reply(&Say::invite(1), 200, "b", &answer).unwrap().unwrap();
    assert_eq!(ports(&back)[0], ports(&back)[1], "{back}");
    let ways = [
        format!("0 Rtp in: {CALLEE} 5000 -> {CALLER}:4000"),
        format!("0 Rtp out: {CALLER} 4000 -> {CALLEE}:5000"),
    ];
    assert_eq!(bench.ways(), ways, "one transport, RTP and RTCP on one port");
    (bench, ports(&back)[0], ports(&there)[0])
}

/// Ports of ours through which the flows that are open go: outside, inside.
fn through(bench: &Bench) -> Vec<(u16, u16)> {
    let ports = |flow: &Flow| match flow.way {
        Way::Relay { local, from } if flow.side == OUT => Some((local.port(), from.port())),
        _ => None,
    };
    bench.open.values().filter_map(ports).collect()
}

#[test]
fn a_bundle_goes_on_when_the_answer_rejects_the_m_line_that_it_began_with() {
    for only in [false, true] {
        let (mut bench, outside, inside) = bundled();
        let flows: Vec<FlowId> = bench.open.keys().copied().collect();
        let say = Say::within(CallMethod::Invite, 2, true);
        // As RFC 9143 writes it, and as RFC 8843 does.
        let video = if only { 0 } else { 4000 };
        let there = bench.ask(&say, &bundle(CALLER, "a v", [4000, video], only)).unwrap();
        assert_eq!(ports(&there), [inside, if only { 0 } else { inside }]);
        let answer = bundle(CALLEE, "v", [0, 5000], false);
        let back = bench.reply(&say, 200, "b", &answer).unwrap().unwrap();
        assert_eq!(ports(&back), [0, outside], "the ports that they chose: {back}");
        let ways = [
            format!("0 Rtp in: {CALLEE} 5000 -> {CALLER}:4000"),
            format!("0 Rtp out: {CALLER} 4000 -> {CALLEE}:5000"),
        ];
        assert_eq!((bench.ways(), through(&bench)), (ways.to_vec(), vec![(outside, inside)]));
        assert_eq!(bench.open.keys().copied().collect::<Vec<_>>(), flows, "the same flows");
        let status = &bench.calls.status()[0];
        let shown: Vec<usize> = status.lines.iter().map(|line| line.flows.len()).collect();
        assert_eq!(shown, [0, 2], "they are the video's now");
        // The audio comes back, into the bundle or beside it.
        let say = Say::within(CallMethod::Invite, 3, false);
        let audio = if only { 5000 } else { 5002 };
        let group = if only { "v a" } else { "v" };
        let there = bench.ask(&say, &bundle(CALLEE, group, [audio, 5000], false)).unwrap();
        assert_eq!(ports(&there)[1], outside);
        assert_eq!(ports(&there)[0] == outside, only, "{there}");
        let audio = if only { 4000 } else { 4006 };
        let answer = bundle(CALLER, group, [audio, 4000], false);
        let back = bench.reply(&say, 200, "a", &answer).unwrap().unwrap();
        assert_eq!(ports(&back)[1], inside);
        assert!(through(&bench).contains(&(outside, inside)), "{:?}", through(&bench));
        assert_eq!(through(&bench).len(), if only { 1 } else { 3 });
        bench.bye(true);
        bench.assert_nothing_left();
    }
}

#[test]
fn a_bundle_goes_on_when_the_m_line_that_it_began_with_is_forbidden() {
    for only in [false, true] {
        let (mut bench, outside, inside) = bundled();
        bench.forbidden = 0b01;
        let say = Say::within(CallMethod::Invite, 2, true);
        let video = if only { 0 } else { 4000 };
        let there = bench.ask(&say, &bundle(CALLER, "a v", [4000, video], only)).unwrap();
        assert_eq!(ports(&there), [0, inside], "{there}");
        assert!(
            !there.contains("bundle-only") && there.contains("a=group:BUNDLE v\r\n"),
            "{there}"
        );
        // The transport's attributes stand with who has it now.
        let (audio, video) = there.split_at(there.find("m=video").unwrap());
        for name in ["a=rtcp-mux", "a=ice-ufrag:abcd", "a=ice-pwd:", "a=fingerprint:", "a=setup:"] {
            assert!(video.contains(name) && !audio.contains(name), "{name}: {there}");
        }
        let candidate = format!("10.0.0.1 {inside} typ host");
        assert!(video.contains(&candidate) && !there.contains("4000"), "{there}");
        // Whatever the answer says.
        let answer = bundle(CALLEE, "a v", [5000, 5000], false);
        let back = bench.reply(&say, 200, "b", &answer).unwrap().unwrap();
        assert_eq!(ports(&back), [0, outside], "{back}");
        let ways = [
            format!("0 Rtp in: {CALLEE} 5000 -> {CALLER}:4000"),
            format!("0 Rtp out: {CALLER} 4000 -> {CALLEE}:5000"),
        ];
        assert_eq!((bench.ways(), through(&bench)), (ways.to_vec(), vec![(outside, inside)]));
        // Room for what is allowed alone.
        let lone = bench.open.values().next().unwrap().packets_per_second;
        assert!(lone < bundled().0.open.values().next().unwrap().packets_per_second);
        // Nothing of it is allowed any more: nothing changes, and everything is closed by the end.
        bench.forbidden = 0b11;
        let again = bench.ask(
            &Say::within(CallMethod::Invite, 3, true),
            &bundle(CALLER, "a v", [4000, 4000], false),
        );
        assert_eq!(again, Err(MediaFault::Forbidden));
        assert_eq!(bench.ways(), ways);
        bench.bye(true);
        bench.assert_nothing_left();
    }
}

#[test]
fn a_bundle_goes_on_when_the_offer_switches_off_the_m_line_that_it_began_with() {
    let (mut bench, outside, inside) = bundled();
    let say = Say::within(CallMethod::Invite, 2, true);
    let there = bench.ask(&say, &bundle(CALLER, "v", [0, 4000], false)).unwrap();
    assert_eq!(ports(&there), [0, inside]);
    // Refused: all is as it was.
    bench.failed(2);
    assert_eq!((bench.open.len(), through(&bench)), (2, vec![(outside, inside)]));
    let there = bench.ask(&say, &bundle(CALLER, "v", [0, 4000], false)).unwrap();
    assert_eq!(ports(&there), [0, inside]);
    let back = bench.reply(&say, 200, "b", &bundle(CALLEE, "v", [0, 5000], false)).unwrap();
    assert_eq!(ports(&back.unwrap()), [0, outside]);
    assert_eq!(through(&bench), [(outside, inside)]);
    bench.bye(false);
    bench.assert_nothing_left();
}

#[test]
fn the_group_says_which_m_line_has_the_transport() {
    // The second of the offer's m-lines is the first of its bundle.
    let mut bench = Bench::new();
    let there = bench.ask(&Say::invite(1), &bundle(CALLER, "v a", [4000, 4002], false)).unwrap();
    let told = ports(&there);
    assert_ne!(told[0], told[1]);
    let answer = bundle(CALLEE, "v a", [5000, 5000], false);
    let back = bench.reply(&Say::invite(1), 200, "b", &answer).unwrap().unwrap();
    assert_eq!(ports(&back)[0], ports(&back)[1]);
    let ways = [
        format!("1 Rtp in: {CALLEE} 5000 -> {CALLER}:4002"),
        format!("1 Rtp out: {CALLER} 4002 -> {CALLEE}:5000"),
    ];
    assert!(bench.ways().iter().all(|way| ways.contains(way)), "{:?}", bench.ways());
    assert_eq!(through(&bench)[0], (ports(&back)[0], told[1]));
    bench.bye(true);
    bench.assert_nothing_left();
    // Only the others are taken: the first of these has it.
    let mut bench = Bench::new();
    let there = bench.ask(&Say::invite(1), &bundle(CALLER, "a v", [4000, 4002], false)).unwrap();
    let back = bench.reply(&Say::invite(1), 200, "b", &bundle(CALLEE, "v", [0, 5000], false));
    assert_eq!(ports(&back.unwrap().unwrap())[0], 0);
    assert!(through(&bench).iter().all(|(_, inside)| *inside & !1 == ports(&there)[1]));
}

#[test]
fn what_is_for_a_bundle_only_is_off_without_one() {
    for group in ["v", "x y", "a"] {
        let mut bench = Bench::new();
        let there = bench.ask(&Say::invite(1), &bundle(CALLER, group, [4000, 0], true)).unwrap();
        assert_eq!((ports(&there)[0] != 0, ports(&there)[1]), (true, 0));
        assert!(!there.contains("bundle-only"), "{there}");
        let answer = bundle(CALLEE, "a v", [5000, 5000], false);
        let back = bench.reply(&Say::invite(1), 200, "b", &answer).unwrap().unwrap();
        assert_eq!(ports(&back)[1], 0, "it was not offered: {back}");
        bench.bye(true);
        bench.assert_nothing_left();
    }
}

#[test]
fn in_pinhole_mode_a_bundle_goes_on_without_its_first_m_line() {
    let callee = "198.41.1.50";
    for (only, forbidden) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
        let mut bench = Bench::with(CallSettings {
            mode: MediaMode::Pinhole,
            outside: OwnAddresses::default(),
            inside: OwnAddresses::default(),
            ..settings()
        });
        bench.ask(&Say::invite(1), &bundle(CALLER, "a v", [4000, 4002], false)).unwrap();
        let answer = bundle(callee, "a v", [5000, 5000], false);
        bench.reply(&Say::invite(1), 200, "b", &answer).unwrap();
        bench.forbidden = forbidden;
        let say = Say::within(CallMethod::Invite, 2, true);
        let video = if only { 0 } else { 4000 };
        let offer = bundle(CALLER, "a v", [4000, video], only);
        let there = bench.ask(&say, &offer).unwrap();
        match forbidden {
            0 => assert_eq!(there, offer),
            _ => assert_eq!(ports(&there), [0, 4000], "{there}"),
        }
        bench.reply(&say, 200, "b", &bundle(callee, "v", [0, 5000], false)).unwrap();
        let ways = [
            format!("0 Rtp in: {callee} 5000 -> {CALLER}:4000"),
            format!("0 Rtp out: {CALLER} 4000 -> {callee}:5000"),
        ];
        assert_eq!(bench.ways(), ways, "{only} {forbidden}");
        bench.bye(true);
        bench.assert_nothing_left();
    }
}

#[test]
fn a_bundle_that_was_adopted_keeps_its_ports() {
    // The caller's port may be another by now, and so may the callee's: they move.
    for (from, to) in [(4000, 5000), (4100, 5000), (4000, 5100), (4100, 5100)] {
        let (mut bench, outside, inside) = bundled();
        let say = Say::within(CallMethod::Invite, 2, true);
        bench.ask(&say, &bundle(CALLER, "v", [0, 4000], false)).unwrap();
        bench.reply(&say, 200, "b", &bundle(CALLEE, "v", [0, 5000], false)).unwrap();
        let flows = bench.open.values().cloned().collect();
        bench.calls = Calls::new(settings(), &[7; 32], None);
        bench.act(|calls, now, effects| calls.adopt(now, flows, effects));
        let say = Say::within(CallMethod::Invite, 3, true);
        let there = bench.ask(&say, &bundle(CALLER, "v", [0, from], false)).unwrap();
        assert_eq!(ports(&there), [0, inside]);
        let back = bench.reply(&say, 200, "b", &bundle(CALLEE, "v", [0, to], false)).unwrap();
        assert_eq!(ports(&back.unwrap()), [0, outside]);
        assert_eq!(through(&bench), [(outside, inside)]);
        bench.bye(true);
    }
    // Of a call whose m-lines are known, another one has ports of its own.
    let mut bench = Bench::new();
    let text = |audio: u16, video: u16| {
        sdp(CALLER, &format!("m=audio {audio} RTP/AVP 0|m=video {video} RTP/AVP 96"))
    };
    let there = bench.ask(&Say::invite(1), &text(0, 4002)).unwrap();
    let answer = sdp(CALLEE, "m=audio 0 RTP/AVP 0|m=video 5002 RTP/AVP 96");
    bench.reply(&Say::invite(1), 200, "b", &answer).unwrap();
    let say = Say::within(CallMethod::Invite, 2, true);
    assert_ne!(ports(&bench.ask(&say, &text(4200, 0)).unwrap())[0], ports(&there)[1]);
}
