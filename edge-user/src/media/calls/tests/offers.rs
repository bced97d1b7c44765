//! Offers and answers, wherever they stand (RFC 3264, RFC 6337).

use super::*;

fn both_ways(caller: u16, callee: u16) -> Vec<String> {
    let (c, d) = (caller + 1, callee + 1);
    vec![
        format!("0 Rtcp in: {CALLEE} {d} -> {CALLER}:{c}"),
        format!("0 Rtcp out: {CALLER} {c} -> {CALLEE}:{d}"),
        format!("0 Rtp in: {CALLEE} {callee} -> {CALLER}:{caller}"),
        format!("0 Rtp out: {CALLER} {caller} -> {CALLEE}:{callee}"),
    ]
}

#[test]
fn nothing_is_open_before_the_answer_and_all_is_with_it() {
    for inbound in [true, false] {
        let mut bench = Bench { inbound, ..Bench::new() };
        let (caller, callee) = if inbound { (CALLER, CALLEE) } else { (CALLEE, CALLER) };
        let offer = bench.ask(&Say::invite(1), &audio(caller, 4000)).unwrap();
        assert_eq!(bench.open.len(), 0);
        // The way to who offers is known by the time of the answer.
        let (side, at) = if inbound { (OUT, CALLER) } else { (IN, CALLEE) };
        assert_eq!(bench.expected, [(at.parse().unwrap(), side)]);
        let answer = bench.reply(&Say::invite(1), 200, "b", &audio(callee, 5000)).unwrap().unwrap();
        let (caller, callee) = if inbound { (4000, 5000) } else { (5000, 4000) };
        assert_eq!(bench.ways(), both_ways(caller, callee));
        // Each side sees our address of its own side, and nothing of the other.
        let (there, back) =
            if inbound { ("10.0.0.1", "203.0.113.1") } else { ("203.0.113.1", "10.0.0.1") };
        for (text, own) in [(&offer, there), (&answer, back)] {
            assert_eq!(lines(text, "c="), [format!("c=IN IP4 {own}")]);
            assert_eq!(lines(text, "o="), [format!("o=- 1 1 IN IP4 {own}")]);
            assert!(!text.contains(CALLER) && !text.contains(CALLEE), "{text}");
        }
        let port = |side| {
            let flow =
                bench.open.values().find(|f| f.side == side && f.component == Component::Rtp);
            let Way::Relay { local, .. } = flow.unwrap().way else { panic!() };
            local.port()
        };
        let (told_callee, told_caller) = (ports(&offer)[0], ports(&answer)[0]);
        let (to_us_out, to_us_in) =
            if inbound { (told_caller, told_callee) } else { (told_callee, told_caller) };
        assert_eq!((port(OUT), port(IN)), (to_us_out, to_us_in));
        bench.bye(true);
        bench.assert_nothing_left();
    }
}

#[test]
fn each_place_of_an_offer_has_its_place_of_an_answer() {
    use CallMethod::*;
    // How a call comes up with audio that was 4000 and 5000, by messages: who says what.
    type Script = fn(&mut Bench);
    let scripts: [(&str, Script); 6] = [
        ("offer in INVITE, answer in 200", |b| {
            b.ask(&Say::invite(1), &audio(CALLER, 4000)).unwrap();
            b.reply(&Say::invite(1), 200, "b", &audio(CALLEE, 5000)).unwrap();
        }),
        ("offer in INVITE, answer in 183, none in 200", |b| {
            b.ask(&Say::invite(1), &audio(CALLER, 4000)).unwrap();
            b.reply(&Say::invite(1), 183, "b", &audio(CALLEE, 5000)).unwrap();
            assert_eq!(b.ways(), both_ways(4000, 5000), "early media");
            b.reply(&Say::invite(1), 200, "b", "").unwrap();
        }),
        ("no offer in INVITE, offer in 200, answer in ACK", |b| {
            let say = Say { offered: false, ..Say::invite(1) };
            b.reply(&say, 200, "b", &audio(CALLEE, 5000)).unwrap();
            assert_eq!(b.open.len(), 0);
            let ack = Say { cseq: 1, ..Say::within(Ack, 2, true) };
            b.ask(&ack, &audio(CALLER, 4000)).unwrap();
        }),
        ("offer in a reliable 183, answer in PRACK", |b| {
            let say = Say { offered: false, reliable: true, ..Say::invite(1) };
            b.reply(&say, 183, "b", &audio(CALLEE, 5000)).unwrap();
            b.ask(&Say::within(Prack, 2, true), &audio(CALLER, 4000)).unwrap();
            assert_eq!(b.ways(), both_ways(4000, 5000), "early media");
            b.reply(&Say { offered: false, ..Say::within(Prack, 2, true) }, 200, "b", "").unwrap();
            b.reply(&say, 200, "b", "").unwrap();
        }),
        ("offer in PRACK, answer in its 200", |b| {
            b.ask(&Say::invite(1), &audio(CALLER, 4444)).unwrap();
            let say = Say { reliable: true, ..Say::invite(1) };
            b.reply(&say, 183, "b", &audio(CALLEE, 5555)).unwrap();
            b.ask(&Say::within(Prack, 2, true), &audio(CALLER, 4000)).unwrap();
            b.reply(&Say::within(Prack, 2, true), 200, "b", &audio(CALLEE, 5000)).unwrap();
            b.reply(&say, 200, "b", "").unwrap();
        }),
        ("offer in UPDATE, answer in its 200", |b| {
            b.ask(&Say::invite(1), &audio(CALLER, 4444)).unwrap();
            b.reply(&Say::invite(1), 183, "b", &audio(CALLEE, 5555)).unwrap();
            b.ask(&Say::within(Update, 2, false), &audio(CALLEE, 5000)).unwrap();
            b.reply(&Say::within(Update, 2, false), 200, "a", &audio(CALLER, 4000)).unwrap();
            b.reply(&Say::invite(1), 200, "b", "").unwrap();
        }),
    ];
    for (name, script) in scripts {
        let mut bench = Bench::new();
        script(&mut bench);
        assert_eq!(bench.ways(), both_ways(4000, 5000), "{name}");
        let call = &bench.calls.status()[0];
        assert_eq!((call.state, call.lines.len()), (CallState::Up, 1), "{name}");
        bench.pass(100);
        assert_eq!(bench.ways(), both_ways(4000, 5000), "{name}: it stays");
        bench.bye(false);
        bench.assert_nothing_left();
    }
}

#[test]
fn what_is_said_again_is_told_the_same_ports_and_changes_nothing() {
    let mut bench = Bench::new();
    let offer = bench.ask(&Say::invite(1), &audio(CALLER, 4000)).unwrap();
    // Another target, or the same again.
    assert_eq!(bench.ask(&Say::invite(1), &audio(CALLER, 4000)).unwrap(), offer);
    let answer = bench.reply(&Say::invite(1), 183, "b", &audio(CALLEE, 5000)).unwrap();
    // Once more when it comes up: for who was silent so far.
    let opened = bench.opened + 4;
    for (status, again) in [(183, false), (200, false), (200, true)] {
        let say = Say { again, ..Say::invite(1) };
        assert_eq!(bench.reply(&say, status, "b", &audio(CALLEE, 5000)).unwrap(), answer);
    }
    // A session refresh with the same session.
    for by_caller in [true, false] {
        let say = Say::within(CallMethod::Invite, 5, by_caller);
        let (one, other) = (audio(CALLER, 4000), audio(CALLEE, 5000));
        let (asked, said) = if by_caller { (one, other) } else { (other, one) };
        let there = bench.ask(&say, &asked).unwrap();
        let tag = if by_caller { "b" } else { "a" };
        let back = bench.reply(&say, 200, tag, &said).unwrap().unwrap();
        let (expected_there, expected_back) = if by_caller {
            (&offer, answer.as_ref().unwrap())
        } else {
            (answer.as_ref().unwrap(), &offer)
        };
        assert_eq!((&there, &back), (expected_there, expected_back));
    }
    assert_eq!(bench.opened, opened, "nothing was opened again");
    let ack = audio(CALLER, 4000);
    let say = Say { cseq: 1, ..Say::within(CallMethod::Ack, 9, true) };
    assert_eq!(bench.ask(&say, &ack).unwrap(), offer, "an ACK that answers nothing");
    assert_eq!(bench.opened, opened);
    bench.bye(true);
    bench.assert_nothing_left();
}

#[test]
fn forks_share_ports_and_the_flow_follows_the_last_answer_and_the_200_at_the_end() {
    let callee = |n: u16| audio(&format!("10.0.0.{n}"), 5000 + n);
    let to = |bench: &Bench| {
        let flow = bench.open.values().find(|f| f.side == OUT && f.component == Component::Rtp);
        flow.unwrap().to.to_string()
    };
    // With an answer of its own in the 200, or with the one from before.
    for text in [callee(51), String::new()] {
        let mut bench = Bench::new();
        bench.ask(&Say::invite(1), &audio(CALLER, 4000)).unwrap();
        let mut told = Vec::new();
        for (tag, n) in [("b", 51), ("c", 52), ("d", 53), ("c", 52)] {
            let answer = bench.reply(&Say::invite(1), 183, tag, &callee(n)).unwrap().unwrap();
            told.push(ports(&answer));
            assert_eq!(to(&bench), format!("10.0.0.{n}:{}", 5000 + n));
            assert_eq!(bench.open.len(), 4);
        }
        told.dedup();
        assert_eq!(told.len(), 1, "one port for all of them");
        bench.reply(&Say::invite(1), 200, "b", &text).unwrap();
        assert_eq!(to(&bench), "10.0.0.51:5051");
        // A second 200 is the caller's to end.
        let late = bench.reply(&Say { again: true, ..Say::invite(1) }, 200, "d", &callee(53));
        assert_eq!(ports(&late.unwrap().unwrap()), told[0]);
        assert_eq!(to(&bench), "10.0.0.51:5051");
        let partner = bench.partner.clone();
        let other = Say { to_tag: Some("d"), ..Say::invite(3) };
        let names = other.names(true, &partner);
        bench.act(|calls, _, effects| calls.bye(&names, effects));
        assert_eq!(bench.open.len(), 4, "the other dialog's BYE");
        bench.bye(true);
        bench.assert_nothing_left();
    }
}

#[test]
fn forks_by_requests_of_their_own_fail_alone() {
    let mut bench = Bench { inbound: false, ..Bench::new() };
    for exchange in [1, 2] {
        bench.ask(&Say::invite(exchange), &audio(CALLEE, 4000)).unwrap();
    }
    bench.reply(&Say::invite(1), 183, "b", &audio(CALLER, 5000)).unwrap();
    bench.reply(&Say::invite(2), 183, "c", &audio("198.41.0.5", 5002)).unwrap();
    bench.reply(&Say::invite(2), 200, "c", &audio("198.41.0.5", 5002)).unwrap();
    bench.failed(1);
    let to = bench.ways();
    assert!(to.contains(&"0 Rtp in: 10.0.0.50 4000 -> 198.41.0.5:5002".to_owned()), "{to:?}");
    assert_eq!(to.len(), 4);
}

#[test]
fn a_call_that_fails_leaves_nothing() {
    type Script = fn(&mut Bench);
    let scripts: [(&str, Script); 6] = [
        ("refused after an offer", |b| b.failed(1)),
        ("refused after early media", |b| {
            b.reply(&Say::invite(1), 183, "b", &audio(CALLEE, 5000)).unwrap();
            assert_eq!(b.open.len(), 4);
            b.failed(1);
        }),
        ("its transaction is gone", |b| {
            let id = b.only();
            b.act(|calls, now, effects| calls.gone(now, id, 1, effects));
        }),
        ("accepted without an answer", |b| {
            b.reply(&Say::invite(1), 200, "b", "").unwrap();
        }),
        ("accepted, and everything is off", |b| {
            b.reply(&Say::invite(1), 200, "b", &audio(CALLEE, 0)).unwrap();
        }),
        ("nothing more is heard", |b| b.pass(24 * 3600)),
    ];
    for (name, script) in scripts {
        let mut bench = Bench::new();
        bench.ask(&Say::invite(1), &audio(CALLER, 4000)).unwrap();
        script(&mut bench);
        assert_eq!(bench.calls.len(), 0, "{name}");
        bench.assert_nothing_left();
    }
}

#[test]
fn an_offer_in_a_response_that_nobody_answers_is_forgotten() {
    let say = Say { offered: false, ..Say::invite(1) };
    let mut bench = Bench::new();
    bench.reply(&say, 200, "b", &audio(CALLEE, 5000)).unwrap();
    let id = bench.only();
    bench.act(|calls, now, effects| calls.gone(now, id, 1, effects));
    assert_eq!(bench.calls.len(), 1, "its ACK is still to come");
    bench.pass(41);
    bench.assert_nothing_left();
    // No PRACK comes.
    let reliable = Say { reliable: true, ..say };
    bench.reply(&reliable, 183, "b", &audio(CALLEE, 5000)).unwrap();
    bench.pass(41);
    bench.assert_nothing_left();
    // One came, and the telephone rings.
    for accepted in [true, false] {
        bench.reply(&reliable, 183, "b", &audio(CALLEE, 5000)).unwrap();
        let prack = Say::within(CallMethod::Prack, 2, true);
        bench.ask(&prack, &audio(CALLER, 4000)).unwrap();
        bench.reply(&Say { offered: false, ..prack }, 200, "b", "").unwrap();
        bench.pass(180);
        assert_eq!(bench.ways(), both_ways(4000, 5000), "early media");
        if accepted {
            bench.reply(&reliable, 200, "b", "").unwrap();
            bench.pass(180);
            assert_eq!(bench.ways(), both_ways(4000, 5000));
            bench.bye(true);
        } else {
            bench.failed(1);
        }
        bench.assert_nothing_left();
    }
    // In vain: the whole INVITE fails.
    let say = Say { reliable: true, ..say };
    bench.reply(&say, 183, "b", &audio(CALLEE, 5000)).unwrap();
    bench.ask(&Say::within(CallMethod::Prack, 2, true), &audio(CALLER, 4000)).unwrap();
    assert_eq!(bench.open.len(), 4);
    bench.failed(1);
    bench.assert_nothing_left();
}

#[test]
fn a_change_that_fails_leaves_what_was_before() {
    use CallMethod::*;
    let added =
        format!("{}m=video 4002 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n", audio(CALLER, 4000));
    for method in [Invite, Update] {
        // (answered early, offered)
        for (early, text) in [(false, &added), (true, &added), (true, &audio("198.41.0.77", 4000))]
        {
            if early && method == Update {
                continue;
            }
            let mut bench = Bench::up();
            let before = bench.open.clone();
            let say = Say::within(method, 2, true);
            bench.ask(&say, text).unwrap();
            assert_eq!(bench.open, before, "an offer alone changes nothing");
            if early {
                let lines = if text.contains("video") {
                    "m=audio 5000 RTP/AVP 8|m=video 5002 RTP/AVP 96"
                } else {
                    "m=audio 5000 RTP/AVP 8"
                };
                bench.reply(&say, 183, "b", &sdp(CALLEE, lines)).unwrap();
                assert_ne!(bench.open, before);
            }
            bench.failed(2);
            let now: Vec<_> = bench.open.values().map(|f| (f.line, f.side, f.to)).collect();
            let then: Vec<_> = before.values().map(|f| (f.line, f.side, f.to)).collect();
            assert_eq!(now, then, "{method:?} {early}");
            bench.bye(true);
            bench.assert_nothing_left();
        }
    }
}

#[test]
fn a_change_that_is_accepted_counts() {
    let mut bench = Bench::up();
    let before: Vec<FlowId> = bench.open.keys().copied().collect();
    let say = Say::within(CallMethod::Invite, 2, false);
    bench.ask(&say, &audio("10.0.0.60", 6000)).unwrap();
    bench.reply(&say, 200, "a", &audio(CALLER, 4000)).unwrap();
    let after: Vec<FlowId> = bench.open.keys().copied().collect();
    assert_eq!(before, after, "the flows keep their names");
    assert!(bench.ways().contains(&format!("0 Rtp out: {CALLER} 4000 -> 10.0.0.60:6000")));
    bench.bye(true);
    bench.assert_nothing_left();
}

#[test]
fn the_same_call_id_of_another_partner_or_the_other_way_is_another_call() {
    let mut bench = Bench::up();
    let ours = bench.partner.clone();
    bench.partner = "third.example".parse().unwrap();
    bench.bye(true);
    assert_eq!(bench.open.len(), 4, "somebody else's BYE");
    bench.partner = ours;
    // In from outside, and out again to a user who is outside.
    bench.inbound = false;
    bench.ask(&Say::invite(2), &audio("10.0.0.9", 4000)).unwrap();
    bench.reply(&Say::invite(2), 200, "b", &audio("198.41.0.8", 5000)).unwrap();
    assert_eq!((bench.calls.len(), bench.open.len()), (2, 8));
    bench.bye(false);
    assert_eq!((bench.calls.len(), bench.open.len()), (1, 4));
    bench.inbound = true;
    bench.bye(false);
    bench.assert_nothing_left();
}

#[test]
fn before_anything_is_answered_another_target_may_be_of_another_family() {
    let mut bench = Bench { inbound: false, ..Bench::new() };
    let first = bench.ask(&Say::invite(1), &audio(CALLEE, 4000)).unwrap();
    assert_eq!(lines(&first, "c="), ["c=IN IP4 203.0.113.1"]);
    bench.peers.outside = ip("2001:db8:1::9");
    let second = bench.ask(&Say::invite(1), &audio(CALLEE, 4000)).unwrap();
    assert_eq!(lines(&second, "c="), ["c=IN IP6 2001:db8::1"]);
    bench.calls.settings.allow = vec!["2001:db8:1::/48".parse().unwrap()];
    bench.reply(&Say::invite(1), 200, "b", &audio("2001:db8:1::7", 5000)).unwrap();
    assert!(
        bench.ways().contains(&"0 Rtp in: 10.0.0.50 4000 -> [2001:db8:1::7]:5000".to_owned()),
        "IPv4 inside, IPv6 outside: {:?}",
        bench.ways()
    );
    bench.bye(false);
    bench.assert_nothing_left();
}

#[test]
fn a_remote_users_call_is_nobody_elses() {
    const ALICE: &[u8] = b"<sip:alice@contoso.example>";
    let remote = |user| Bench { remote: Some(user), behind_nat: true, ..Bench::new() };
    let (home, elsewhere) = (ip("198.41.0.9"), ip("198.41.0.66"));
    let invite = |exchange| Say::invite(exchange);
    // Another user's names are others; parameters and the spelling of the host do not count.
    let mut bench = remote(ALICE);
    bench.set_up();
    bench.remote = Some(b"<sip:eve@contoso.example>");
    bench.bye(true);
    assert_eq!(bench.open.len(), 4);
    let ways = bench.ways();
    // Who says to be alice and begins again is not: neither elsewhere, nor behind the same router.
    bench.remote = Some(b"<sip:alice@CONTOSO.example;user=phone>");
    for place in [elsewhere, home] {
        bench.peers.outside = place;
        let offer = audio("192.168.9.9", 4444);
        assert_eq!(bench.ask(&invite(2), &offer), Err(MediaFault::Another));
        assert_eq!(bench.ways(), ways);
    }
    bench.bye(false);
    bench.assert_nothing_left();
    // While it rings, too; alice herself may ask again, with a password.
    bench.ask(&invite(1), &audio("192.168.1.5", 4000)).unwrap();
    bench.peers.outside = elsewhere;
    assert_eq!(bench.ask(&invite(2), &audio(CALLER, 4444)), Err(MediaFault::Another));
    bench.peers.outside = home;
    bench.ask(&invite(3), &audio("192.168.1.5", 4000)).unwrap();
    bench.reply(&invite(3), 200, "b", &audio(CALLEE, 5000)).unwrap();
    bench.bye(true);
    bench.assert_nothing_left();
}

#[test]
fn an_offer_alone_moves_no_source() {
    let mut bench = Bench { behind_nat: true, ..Bench::new() };
    bench.ask(&Say::invite(1), &audio("192.168.1.5", 4000)).unwrap();
    bench.reply(&Say::invite(1), 200, "b", &audio(CALLEE, 5000)).unwrap();
    let ways = bench.ways();
    bench.peers.outside = ip("198.41.0.66");
    let change = Say::within(CallMethod::Invite, 2, true);
    bench.ask(&change, &audio("192.168.1.5", 4000)).unwrap();
    let inside = |flow: &&Flow| flow.side == IN && flow.component == Component::Rtp;
    let id = bench.open.values().find(inside).unwrap().id;
    let seen = at("10.0.0.50:5010");
    bench.act(|calls, now, effects| calls.learned(now, id, seen, effects));
    let outside = |ways: Vec<String>| -> Vec<String> {
        let source = |way: String| way.split(" -> ").next().unwrap().to_owned();
        ways.into_iter().filter(|way| way.contains(" out: ")).map(source).collect()
    };
    assert_eq!(outside(bench.ways()), outside(ways));
}

#[test]
fn nobody_has_more_than_a_quarter_of_the_pinholes() {
    let pinholes = CallSettings {
        mode: MediaMode::Pinhole,
        outside: OwnAddresses::default(),
        inside: OwnAddresses::default(),
        ..settings()
    };
    let mut bench = Bench::with(pinholes);
    let holder = ports::Holder::Partner(bench.partner.clone());
    let most = edge_ebpf::abi::MEDIA_STATE_SLOTS as usize / 4;
    bench.calls.pools.pinholes.add(&holder, most - 6);
    let other = |caller, exchange| Say { caller, ..Say::invite(exchange) };
    bench.ask(&Say::invite(1), &audio(CALLER, 4000)).unwrap();
    bench.ask(&other("x", 2), &audio(CALLER, 4002)).unwrap();
    bench.reply(&Say::invite(1), 200, "b", &audio("198.41.1.50", 5000)).unwrap();
    let full = bench.reply(&other("x", 2), 200, "b", &audio("198.41.1.50", 5002));
    assert_eq!((full, bench.open.len()), (Err(MediaFault::NoPorts), 4));
    // What is up may change, and somebody else is not disturbed.
    let say = Say::within(CallMethod::Invite, 3, true);
    bench.ask(&say, &audio(CALLER, 4010)).unwrap();
    bench.reply(&say, 200, "b", &audio("198.41.1.50", 5000)).unwrap();
    bench.partner = "northwind.example".parse().unwrap();
    bench.ask(&Say::invite(4), &audio(CALLER, 4020)).unwrap();
    bench.reply(&Say::invite(4), 200, "b", &audio("198.41.1.50", 5020)).unwrap();
    assert_eq!(bench.open.len(), 8);
    bench.bye(true);
    // Who has all is told at once.
    bench.partner = "fabrikam.example".parse().unwrap();
    bench.calls.pools.pinholes.add(&holder, 2);
    let told = bench.ask(&other("y", 5), &audio(CALLER, 4004));
    assert_eq!(told, Err(MediaFault::NoPorts));
    bench.bye(false);
    bench.ask(&other("z", 6), &audio(CALLER, 4006)).unwrap();
    bench.reply(&other("z", 6), 200, "b", &audio("198.41.1.50", 5006)).unwrap();
    assert_eq!(bench.open.len(), 4);
    // After a restart too, once it is known whose they are.
    let flows: Vec<Flow> = bench.open.values().cloned().collect();
    let mut bench = Bench { open: bench.open, ..Bench::with(bench.calls.settings.clone()) };
    bench.act(|calls, now, effects| calls.adopt(now, flows, effects));
    bench.calls.pools.pinholes.add(&holder, most - 4);
    let say = Say { caller: "z", ..Say::within(CallMethod::Invite, 7, true) };
    bench.ask(&say, &audio(CALLER, 4006)).unwrap();
    assert_eq!(bench.ask(&other("y", 8), &audio(CALLER, 4008)), Err(MediaFault::NoPorts));
}
