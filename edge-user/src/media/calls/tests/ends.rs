//! How calls end, and what is left when nothing is left.

use super::*;

fn last(bench: &Bench) -> Option<EndCause> {
    bench.events.last().and_then(|event| event.ended)
}

/// What the kernel counts when every flow had so many packets.
fn counted(bench: &Bench, packets: u64) -> Vec<FlowStatus> {
    bench.open.values().map(|flow| FlowStatus::counted(flow, packets)).collect()
}

fn seen(bench: &mut Bench, packets: u64) {
    let flows = counted(bench, packets);
    bench.act(|calls, now, effects| calls.seen(now, &flows, effects));
}

#[test]
fn each_end_closes_everything_and_says_why() {
    type Script = fn(&mut Bench);
    let scripts: [(EndCause, Script); 7] = [
        (EndCause::Bye, |b| b.bye(true)),
        (EndCause::Bye, |b| b.bye(false)),
        (EndCause::Longest, |b| b.pass(24 * 3600)),
        (EndCause::Policy, |b| {
            b.act(|calls, _, effects| {
                calls.keep_partners(|partner| partner.as_str() == "x.y", effects)
            });
        }),
        (EndCause::Administrator, |b| {
            let id = b.only();
            assert!(b.act(|calls, _, effects| calls.end(id, EndCause::Administrator, effects)));
            assert!(!b.act(|calls, _, effects| calls.end(id, EndCause::Administrator, effects)));
        }),
        (EndCause::Silence, |b| {
            for packets in [0, 5, 5, 5] {
                b.pass(150);
                seen(b, packets);
            }
        }),
        (EndCause::SessionTimer, |b| {
            b.session = Some(Duration::from_secs(90));
            let say = Say::within(CallMethod::Update, 2, true);
            b.reply(&say, 200, "b", "").unwrap();
            b.pass(119);
            assert_eq!(b.open.len(), 4, "a third more");
            b.pass(1);
        }),
    ];
    for (cause, script) in scripts {
        let mut bench = Bench::up();
        assert_eq!(last(&bench), None);
        script(&mut bench);
        assert_eq!(last(&bench), Some(cause), "{cause:?}");
        assert_eq!(bench.events.len(), 2, "opened and closed: {:?}", bench.events);
        bench.assert_nothing_left();
    }
}

#[test]
fn what_ended_for_good_has_no_media_again_and_what_fell_silent_may() {
    for (cause, over) in [
        (EndCause::Administrator, true),
        (EndCause::Longest, true),
        (EndCause::Silence, false),
        (EndCause::SessionTimer, false),
    ] {
        for by_caller in [true, false] {
            let mut bench = Bench::up();
            let id = bench.only();
            bench.act(|calls, _, effects| calls.end(id, cause, effects));
            let say = Say::within(CallMethod::Invite, 2, by_caller);
            let text = audio(if by_caller { CALLER } else { CALLEE }, 4000);
            let asked = bench.ask(&say, &text);
            assert_eq!(asked.as_ref().err(), over.then_some(&MediaFault::Over), "{cause:?}");
            // What has no media goes on.
            let say = Say::within(CallMethod::Invite, 3, by_caller);
            bench.ask(&say, &text.replace("m=audio 4000", "m=audio 0")).unwrap();
            if over {
                bench.assert_nothing_left();
            }
            // So does any other call.
            let say = Say { caller: "other", ..Say::invite(4) };
            bench.ask(&say, &audio(CALLER, 4000)).unwrap();
        }
    }
}

#[test]
fn a_refresh_puts_the_session_timer_off_and_none_takes_it_away() {
    let mut bench = Bench::new();
    bench.session = Some(Duration::from_secs(1800));
    bench.set_up();
    let say = Say::within(CallMethod::Invite, 2, false);
    for _ in 0..5 {
        bench.pass(2300);
        assert_eq!(bench.reply(&say, 200, "a", ""), Ok(None));
    }
    bench.session = None;
    bench.reply(&say, 200, "a", "").unwrap();
    bench.pass(12 * 3600);
    assert_eq!(bench.open.len(), 4);
}

#[test]
fn the_session_timer_ends_the_flows_in_the_kernel_and_goes_on_after_a_restart() {
    let ends = |bench: &Bench| {
        let mut all: Vec<_> = bench.open.values().map(|f| (f.expires.as_secs(), f.timed)).collect();
        all.dedup();
        all
    };
    let refresh = Say::within(CallMethod::Update, 2, true);
    let mut bench = Bench { session: Some(Duration::from_secs(1800)), ..Bench::new() };
    bench.set_up();
    assert_eq!((ends(&bench), bench.opened), (vec![(2400, true)], 4), "each is written once");
    bench.pass(1000);
    // Another source, or a change, does not put it off.
    let id = *bench.open.keys().next().unwrap();
    let source = SocketAddr::new(bench.open[&id].source.addr(), 7777);
    bench.act(|calls, now, effects| calls.learned(now, id, source, effects));
    assert!(ends(&bench).contains(&(1400, true)));
    let flows: Vec<Flow> = bench.open.values().cloned().collect();
    // What is left of it when another daemon starts, 400 s later.
    let restarted = || {
        let mut bench = Bench { open: bench.open.clone(), ..Bench::new() };
        let left = |flow: &Flow| Flow { expires: Duration::from_secs(1000), ..flow.clone() };
        let found: Vec<Flow> = flows.iter().map(left).collect();
        bench.open = found.iter().map(|flow| (flow.id, flow.clone())).collect();
        bench.act(|calls, now, effects| calls.adopt(now, found, effects));
        bench
    };
    let mut after = restarted();
    after.pass(999);
    assert_eq!(after.open.len(), 4);
    after.pass(1);
    assert_eq!(last(&after), Some(EndCause::SessionTimer));
    after.assert_nothing_left();
    // A refresh is one, after the restart too.
    let mut after = restarted();
    after.session = Some(Duration::from_secs(1800));
    after.reply(&refresh, 200, "b", "").unwrap();
    assert_eq!(ends(&after), [(2400, true)]);
    after.pass(2399);
    after.session = None;
    after.reply(&refresh, 200, "b", "").unwrap();
    assert_eq!(ends(&after), [(24 * 3600 - 2399, false)]);
    // A timer that is longer than any call may last is none.
    after.session = Some(Duration::from_secs(100 * 3600));
    after.reply(&refresh, 200, "b", "").unwrap();
    assert_eq!(ends(&after), [(24 * 3600 - 2399, false)]);
}

#[test]
fn a_call_that_is_heard_or_held_or_rings_is_not_silent() {
    let mut bench = Bench::up();
    for packets in 1..20 {
        bench.pass(200);
        seen(&mut bench, packets);
    }
    assert_eq!(bench.open.len(), 4, "heard");
    let say = Say::within(CallMethod::Invite, 2, true);
    bench.ask(&say, &sdp(CALLER, "m=audio 4000 RTP/AVP 8 0|a=inactive")).unwrap();
    bench.reply(&say, 200, "b", &sdp(CALLEE, "m=audio 5000 RTP/AVP 8 0|a=inactive")).unwrap();
    for _ in 1..20 {
        bench.pass(200);
        seen(&mut bench, 19);
    }
    assert_eq!(bench.open.len(), 4, "held");
    // Silence counts from the end of the hold.
    let say = Say::within(CallMethod::Invite, 3, true);
    bench.ask(&say, &audio(CALLER, 4000)).unwrap();
    bench.reply(&say, 200, "b", &audio(CALLEE, 5000)).unwrap();
    bench.pass(299);
    seen(&mut bench, 19);
    assert_eq!(bench.open.len(), 4);
    bench.pass(1);
    seen(&mut bench, 19);
    assert_eq!(last(&bench), Some(EndCause::Silence));
    let mut bench = Bench::new();
    bench.ask(&Say::invite(1), &audio(CALLER, 4000)).unwrap();
    bench.reply(&Say::invite(1), 183, "b", &audio(CALLEE, 5000)).unwrap();
    bench.pass(600);
    seen(&mut bench, 0);
    assert_eq!(bench.open.len(), 4, "it rings");
}

#[test]
fn partners_who_may_still_speak_keep_their_calls() {
    let mut bench = Bench::up();
    bench.act(|calls, _, effects| {
        calls.keep_partners(|partner| partner.as_str() == "fabrikam.example", effects)
    });
    assert_eq!(bench.open.len(), 4);
}

#[test]
fn when_ports_are_used_up_others_go_on() {
    let mut bench = Bench::with(CallSettings { ports: (50_000, 50_003), ..settings() });
    let text = |address, port| sdp(address, &format!("m=audio {port} RTP/AVP 0"));
    let calls = ["one", "two", "three"];
    let say = |caller| Say { caller, ..Say::invite(1) };
    for (n, caller) in calls.into_iter().enumerate() {
        let asked = bench.ask(&say(caller), &text(CALLER, 4000));
        assert_eq!(asked.err(), (n == 2).then_some(MediaFault::NoPorts));
    }
    assert_eq!(bench.calls.len(), 2);
    for caller in ["one", "two"] {
        bench.reply(&say(caller), 200, "b", &text(CALLEE, 5000)).unwrap();
    }
    assert_eq!(bench.open.len(), 8);
    // A change that needs more than there is changes nothing.
    let more = sdp(CALLER, "m=audio 4000 RTP/AVP 0|m=video 4002 RTP/AVP 96");
    let change = Say { caller: "one", ..Say::within(CallMethod::Invite, 2, true) };
    assert_eq!(bench.ask(&change, &more), Err(MediaFault::NoPorts));
    assert_eq!(bench.open.len(), 8);
    let partner = bench.partner.clone();
    let names = Say { caller: "two", ..change }.names(true, &partner);
    bench.act(|calls, _, effects| calls.bye(&names, effects));
    bench.ask(&change, &more).unwrap();
    assert_eq!(bench.open.len(), 4);
}

#[test]
fn nobody_has_more_than_a_quarter_of_the_ports() {
    // 64 pairs on each side: 16 lines for each.
    let range = CallSettings { ports: (50_000, 50_127), ..settings() };
    for remote in [None, Some(&b"<sip:alice@contoso.example>"[..])] {
        let mut bench = Bench { remote, ..Bench::with(range.clone()) };
        let names: Vec<String> = (0..17).map(|n| format!("caller-{n}")).collect();
        let say = |n: usize| Say { caller: &names[n], ..Say::invite(1) };
        for n in 0..16 {
            bench.ask(&say(n), &audio(CALLER, 4000)).unwrap();
        }
        assert_eq!(bench.ask(&say(16), &audio(CALLER, 4000)), Err(MediaFault::NoPorts));
        assert_eq!(bench.calls.len(), 16);
        // Others have theirs; of remote users those of another place.
        match remote.is_some() {
            true => bench.peers.outside = ip("2a00:1450::9"),
            false => bench.partner = "third.example".parse().unwrap(),
        }
        bench.ask(&Say { caller: "other", ..say(16) }, &audio(CALLER, 4000)).unwrap();
        // What is given back may be had again.
        let ids: Vec<CallId> = bench.calls.all.keys().copied().collect();
        for id in ids {
            bench.act(|calls, _, effects| calls.end(id, EndCause::Administrator, effects));
        }
        bench.assert_nothing_left();
        bench.ask(&say(16), &audio(CALLER, 4000)).unwrap();
    }
}

#[test]
fn calls_from_before_a_restart_count_once_they_are_known() {
    let mut before = Bench::up();
    let flows: Vec<Flow> = before.open.values().cloned().collect();
    let mut bench = Bench::new();
    bench.open = std::mem::take(&mut before.open);
    bench.act(|calls, now, effects| calls.adopt(now, flows, effects));
    assert!(bench.calls.pools.held.is_empty());
    bench.ask(&Say::within(CallMethod::Invite, 2, true), &audio(CALLER, 4000)).unwrap();
    assert!(!bench.calls.pools.held.is_empty());
    bench.bye(true);
    bench.assert_nothing_left();
}

#[test]
fn what_the_firewall_could_not_open_is_opened_when_it_is_said_again() {
    let mut bench = Bench::up();
    let id = bench.only();
    bench.act(|calls, now, effects| calls.not_opened(now, id, effects));
    assert_eq!((bench.open.len(), bench.calls.len()), (0, 1));
    let say = Say { again: true, ..Say::invite(1) };
    bench.reply(&say, 200, "b", &audio(CALLEE, 5000)).unwrap();
    assert_eq!(bench.open.len(), 4);
    bench.bye(true);
    bench.assert_nothing_left();
}

#[test]
fn after_a_restart_calls_are_known_by_their_flows() {
    for (six, nat) in [(false, false), (true, false), (false, true)] {
        let mut before = Bench { behind_nat: nat, ..Bench::new() };
        let caller = if six { "2a00:1450::7" } else { CALLER };
        let text = |address, port, video| {
            sdp(address, &format!("m=audio {port} RTP/AVP 0|m=video {video} RTP/AVP 96|a=rtcp-mux"))
        };
        before.ask(&Say::invite(1), &text(caller, 4000, 4002)).unwrap();
        let told =
            before.reply(&Say::invite(1), 200, "b", &text(CALLEE, 5000, 5002)).unwrap().unwrap();
        assert_eq!(before.open.len(), 6);
        let flows: Vec<Flow> = before.open.values().cloned().collect();
        let start = |mode| {
            let mut bench =
                Bench { behind_nat: nat, ..Bench::with(CallSettings { mode, ..settings() }) };
            bench.open = before.open.clone();
            let found = flows.clone();
            let mut effects = Effects::default();
            bench.calls.adopt(bench.now, found, &mut effects);
            (bench, effects)
        };
        // BYE by either side finds it.
        for by_caller in [true, false] {
            let (mut bench, effects) = start(MediaMode::Relay);
            assert!(effects.changes.is_empty() && effects.events.is_empty());
            let status = bench.calls.status();
            assert_eq!((status.len(), status[0].state), (1, CallState::Adopted));
            assert_eq!(bench.calls.flows(), 6);
            bench.bye(by_caller);
            bench.assert_nothing_left();
        }
        // A change finds its ports, and nothing is opened that is open.
        for by_caller in [true, false] {
            let (mut bench, _) = start(MediaMode::Relay);
            let say = Say::within(CallMethod::Invite, 7, by_caller);
            let (one, other) = (text(caller, 4000, 4002), text(CALLEE, 5000, 5002));
            let (asked, said) = if by_caller { (one, other) } else { (other, one) };
            let tag = if by_caller { "b" } else { "a" };
            let there = bench.ask(&say, &asked).unwrap();
            let back = bench.reply(&say, 200, tag, &said).unwrap().unwrap();
            assert_eq!(if by_caller { back } else { there }, told);
            assert_eq!(bench.calls.status()[0].state, CallState::Up);
            let ids: Vec<FlowId> = bench.open.keys().copied().collect();
            assert_eq!(ids, before.open.keys().copied().collect::<Vec<_>>());
            bench.bye(!by_caller);
            bench.assert_nothing_left();
        }
        // Ports and flows in use are nobody else's.
        let (mut bench, _) = start(MediaMode::Relay);
        let say = Say { caller: "other", ..Say::invite(1) };
        bench.ask(&say, &audio(CALLER, 4000)).unwrap();
        bench.reply(&say, 200, "b", &audio(CALLEE, 5000)).unwrap();
        assert_eq!(bench.open.len(), 10);
        bench.pass(24 * 3600);
        bench.assert_nothing_left();
        // Media is done otherwise now, but not this call's.
        for mode in [MediaMode::Off, MediaMode::Pinhole] {
            let (mut bench, effects) = start(mode);
            assert!(effects.changes.is_empty());
            assert_eq!((bench.calls.len(), bench.calls.flows()), (1, 6));
            let say = Say::within(CallMethod::Invite, 7, true);
            bench.ask(&say, &text(caller, 4000, 4002)).unwrap();
            let back = bench.reply(&say, 200, "b", &text(CALLEE, 5000, 5002)).unwrap().unwrap();
            assert_eq!(back, told);
            bench.bye(true);
            bench.assert_nothing_left();
        }
    }
}

#[test]
fn other_settings_leave_calls_as_they_are_and_are_for_those_that_begin() {
    let with = |mode, ports| CallSettings { mode, ports, ..settings() };
    let first = settings().ports;
    let other = (first.1 + 1, first.1 + 100);
    for (before, after) in [
        (with(MediaMode::Relay, first), with(MediaMode::Relay, other)),
        (with(MediaMode::Relay, first), with(MediaMode::Pinhole, first)),
        (with(MediaMode::Relay, first), with(MediaMode::Off, first)),
        (with(MediaMode::Pinhole, first), with(MediaMode::Relay, first)),
        (with(MediaMode::Pinhole, first), with(MediaMode::Off, first)),
    ] {
        let mut bench = Bench::with(before.clone());
        bench.ask(&Say::invite(1), &audio(CALLER, 4000)).unwrap();
        let told = bench.reply(&Say::invite(1), 200, "b", &audio(CALLEE, 5000)).unwrap();
        let open = bench.open.clone();
        bench.calls.set(after.clone(), &[7; 32], None);
        assert_eq!(bench.open, open);
        // What is said again is told as before, and opens nothing.
        let say = Say::within(CallMethod::Invite, 7, true);
        bench.ask(&say, &audio(CALLER, 4000)).unwrap();
        let again = bench.reply(&say, 200, "b", &audio(CALLEE, 5000)).unwrap();
        assert_eq!((again, &bench.open), (told, &open), "{after:?}");
        assert_eq!(
            bench.calls.relays(),
            before.mode == MediaMode::Relay || after.mode == MediaMode::Relay
        );
        assert!(!bench.calls.is_off());
        // Another call is as the new ones say.
        let say = Say { caller: "other", ..Say::invite(8) };
        bench.ask(&say, &audio(CALLER, 4010)).unwrap();
        let new = bench.reply(&say, 200, "b", &audio(CALLEE, 5010)).unwrap().unwrap();
        match after.mode {
            MediaMode::Relay => {
                let port = ports(&new)[0];
                assert!((after.ports.0..=after.ports.1).contains(&port), "{port}");
            }
            MediaMode::Pinhole | MediaMode::Off => assert!(new.contains(CALLEE), "{new}"),
        }
        // As from its first side: the second call has a name of its own.
        bench.bye(true);
        let gone = open.keys().any(|id| bench.open.contains_key(id));
        assert!(!gone, "what it had is closed");
        bench.calls.set(before, &[7; 32], None);
        bench.pass(24 * 3600);
        bench.assert_nothing_left();
    }
}

#[test]
fn what_the_kernel_learned_is_followed_when_nobody_told_of_it() {
    // (behind NAT, caller, callee, where RTP comes from)
    let cases = [
        (false, CALLER, CALLEE, "198.41.0.4:61000"),
        (true, "192.168.1.5", CALLEE, "198.41.0.9:61000"),
        (false, "2a00:1450::7", "fd00::50", "[2a00:1450::7]:61000"),
    ];
    for (nat, caller, callee, from) in cases {
        let mut bench = Bench { behind_nat: nat, ..Bench::new() };
        bench.peers.inside = ip(callee);
        bench.ask(&Say::invite(1), &audio(caller, 4000)).unwrap();
        bench.reply(&Say::invite(1), 200, "b", &audio(callee, 5000)).unwrap();
        let leads = |bench: &Bench| {
            let rtp = |flow: &&Flow| flow.side == IN && flow.component == Component::Rtp;
            bench.open.values().find(rtp).unwrap().to
        };
        let told = |bench: &mut Bench| {
            let of = |flow: &Flow| (flow.side, flow.component) == (OUT, Component::Rtp);
            let mut flows = counted(bench, 7);
            for flow in flows.iter_mut().filter(|flow| of(&bench.open[&flow.id])) {
                flow.source = Some(at(from));
            }
            bench.act(|calls, now, effects| calls.seen(now, &flows, effects));
        };
        // It was not told for want of room.
        told(&mut bench);
        assert_eq!(leads(&bench), at(from));
        let opened = bench.opened;
        told(&mut bench);
        assert_eq!(bench.opened, opened, "nothing new");
        // Another daemon knows it as well, and after what is said again too.
        let mut next = Bench { behind_nat: nat, ..Bench::new() };
        next.open = bench.open.clone();
        let found = bench.open.values().cloned().collect();
        next.calls.adopt(next.now, found, &mut Effects::default());
        assert_eq!(leads(&next), at(from));
        let say = Say::within(CallMethod::Update, 2, true);
        next.ask(&say, &audio(caller, 4000)).unwrap();
        next.reply(&say, 200, "b", &audio(callee, 5000)).unwrap();
        if !nat {
            assert_eq!(leads(&next), at(from), "SDP says what it said");
        }
        told(&mut next);
        assert_eq!(leads(&next), at(from));
        // What was counted for another call under the name is not its.
        let mut flows = counted(&next, 9);
        for flow in &mut flows {
            (flow.call, flow.source) = (CallId(1), Some(SocketAddr::new(ip(callee), 9)));
        }
        let ways = next.ways();
        next.act(|calls, now, effects| calls.seen(now, &flows, effects));
        assert_eq!(next.ways(), ways);
    }
}

#[test]
fn who_is_heard_late_can_still_be_learned() {
    let whole = Duration::from_secs(15);
    let v4 = ("198.41.0.9", CALLER, CALLEE);
    let v6 = ("2a00:1450::9", "2a00:1450::7", "fd00::50");
    for ((peer, caller, callee), said) in [(v4, true), (v4, false), (v6, true), (v6, false)] {
        let mut bench = Bench { behind_nat: true, ..Bench::new() };
        bench.peers.outside = ip(peer);
        bench.peers.inside = ip(callee);
        let answer = audio(callee, 5000);
        bench.ask(&Say::invite(1), &audio(caller, 4000)).unwrap();
        bench.reply(&Say::invite(1), 183, "b", &answer).unwrap();
        let of = |side| move |f: &&Flow| f.side == side && f.component == Component::Rtp;
        let (known, late) = (bench.open.values().find(of(IN)), bench.open.values().find(of(OUT)));
        let (known, late) = (known.unwrap().clone(), late.unwrap().clone());
        let source = SocketAddr::new(ip(callee), 5000);
        bench.act(|calls, now, effects| calls.learned(now, known.id, source, effects));
        // While it rings, nobody is waited for any longer.
        bench.pass(20);
        seen(&mut bench, 0);
        assert_eq!(bench.opened, 4);
        // The 200 says the same, or nothing.
        bench.reply(&Say::invite(1), 200, "b", if said { &answer } else { "" }).unwrap();
        assert_eq!(bench.opened, 7, "all but the one that is known");
        assert_eq!(bench.open[&known.id], known);
        let mut last = bench.open[&late.id].clone();
        let left = Duration::from_secs(24 * 3600 - 20);
        assert_eq!((last.learn, last.expires), (whole, left));
        assert_ne!(last.learned_anew, late.learned_anew, "or the kernel would not learn");
        for (seconds, opens) in [(5, 0), (5, 3), (5, 0), (5, 3)] {
            bench.pass(seconds);
            let before = bench.opened;
            let mut flows = counted(&bench, 0);
            for flow in flows.iter_mut().filter(|flow| flow.id == known.id) {
                flow.source = Some(source);
            }
            bench.act(|calls, now, effects| calls.seen(now, &flows, effects));
            assert_eq!(bench.opened - before, opens);
            let now = bench.open[&late.id].clone();
            assert_eq!(now.learned_anew != last.learned_anew, opens > 0);
            last = now;
        }
        assert_eq!(last.expires, left - Duration::from_secs(20), "it ends when it was to end");
        bench.bye(true);
        bench.assert_nothing_left();
    }
    assert_eq!(Bench::up().opened, 4, "what is opened by the 200 is not opened twice");
}

#[test]
fn a_call_from_before_a_restart_is_its_partners_again_with_its_first_message() {
    for (inbound, by_caller, sdp) in [
        (true, true, true),
        (true, false, true),
        (false, true, true),
        (false, false, false),
        (true, false, false),
    ] {
        let mut before = Bench { inbound, ..Bench::new() };
        let (caller, callee) = if inbound { (CALLER, CALLEE) } else { (CALLEE, CALLER) };
        before.ask(&Say::invite(1), &audio(caller, 4000)).unwrap();
        before.reply(&Say::invite(1), 200, "b", &audio(callee, 5000)).unwrap();
        let flows: Vec<Flow> = before.open.values().cloned().collect();
        let start = || {
            let mut bench = Bench { inbound, ..Bench::new() };
            bench.open = before.open.clone();
            let found = flows.clone();
            bench.calls.adopt(bench.now, found, &mut Effects::default());
            bench
        };
        // Of nobody known: whoever is blocked, it may be.
        let mut bench = start();
        bench.act(|calls, _, effects| calls.keep_partners(|_| false, effects));
        assert_eq!(bench.open.len(), 4);
        bench.act(|calls, _, effects| calls.end_unknown(effects));
        bench.assert_nothing_left();
        let mut bench = start();
        let say = Say::within(CallMethod::Update, 7, by_caller);
        let (from, to) = if by_caller { (caller, callee) } else { (callee, caller) };
        let port = if by_caller { 4000 } else { 5000 };
        if sdp {
            bench.ask(&say, &audio(from, port)).unwrap();
        }
        let answer = if sdp { audio(to, 9000 - port) } else { String::new() };
        bench.reply(&say, 200, "x", &answer).unwrap();
        let status = bench.calls.status().remove(0);
        assert_eq!(status.partner.as_ref(), Some(&bench.partner));
        assert_eq!((status.inbound, &*status.caller), (inbound, "sip:a@fabrikam.example"));
        bench.act(|calls, _, effects| calls.end_unknown(effects));
        assert_eq!(bench.open.len(), 4);
        bench.act(|calls, _, effects| calls.keep_partners(|_| false, effects));
        assert_eq!(last(&bench), Some(EndCause::Policy));
        bench.assert_nothing_left();
    }
}

#[test]
fn another_range_of_ports_holds_for_what_comes_next() {
    let mut bench = Bench::up();
    let range = CallSettings { ports: (40_000, 40_001), ..settings() };
    bench.calls.set(range.clone(), &[7; 32], None);
    let say = Say { caller: "other", ..Say::invite(1) };
    let there = bench.ask(&say, &audio(CALLER, 4000)).unwrap();
    assert_eq!(ports(&there), [40_000]);
    bench.bye(true);
    let free = bench.calls.pools.ports.free();
    assert_eq!(free, 2, "ports of the old range are not free again");
    // A new key: calls are found by the former one.
    bench.reply(&say, 200, "b", &audio(CALLEE, 5000)).unwrap();
    bench.calls.set(range, &[8; 32], Some(&[7; 32]));
    let partner = bench.partner.clone();
    let names = Say { to_tag: Some("b"), ..say }.names(true, &partner);
    bench.act(|calls, _, effects| calls.bye(&names, effects));
    assert_eq!(bench.calls.len(), 0);
}

#[test]
fn a_call_with_one_audio_line_takes_less_than_4_kib() {
    let mut bench = Bench::up();
    bench.act(|calls, now, effects| calls.seen(now, &[], effects));
    let call = bench.calls.all.values().next().unwrap();
    let said = |list: &Vec<said::Said>| list.capacity() * size_of::<said::Said>();
    let session = |session: &said::Session| said(&session.outside) + said(&session.inside);
    let parties = &call.parties;
    let texts = parties.call_id.len() + parties.caller.len() + parties.callee.len();
    let heap = texts
        + parties.partner.as_ref().map_or(0, |partner| partner.as_str().len())
        + call.lines.capacity() * size_of::<call::Line>()
        + call.flows.capacity() * size_of::<Flow>()
        + session(&call.session)
        + call.offers.capacity() * size_of::<call::Offer>()
        + call.offers.iter().map(|offer| said(&offer.said)).sum::<usize>()
        + call.forks.capacity() * size_of::<(u64, said::Session)>();
    // Tables and trees are twice as large as what is in them, at most.
    let tables = 2 * (size_of::<(CallId, Box<Call>)>() + size_of::<(Instant, CallId)>() + 4 * 16);
    let all = size_of::<Call>() + heap + tables;
    assert!(all < 4096, "{all}");
}
