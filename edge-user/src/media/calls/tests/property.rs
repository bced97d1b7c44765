//! Whatever is said in whatever order: no port and no flow is left when all is over, and none is
//! opened after its end. (What holds of each flow is looked at by the bench.)

use proptest::prelude::*;

use super::*;

const TAGS: [&str; 3] = ["b", "c", "d"];
const LINES: [&str; 12] = [
    "m=audio 4000 RTP/AVP 0",
    "m=audio 4000 RTP/AVP 0|a=inactive",
    "m=audio 0 RTP/AVP 0",
    "m=audio 4000 RTP/AVP 0|a=rtcp-mux|m=video 4002 RTP/AVP 96|a=rtcp-mux",
    "m=audio 4000 RTP/AVP 0|m=video 4000 RTP/AVP 96",
    "m=audio 4000 RTP/AVP 0|m=video 0 RTP/AVP 96|a=bundle-only|m=data 9 tcp *",
    "a=group:BUNDLE a v|m=audio 4000 RTP/AVP 0|a=mid:a|a=rtcp-mux|m=video 0 RTP/AVP 96|a=mid:v|a=bundle-only",
    "a=group:BUNDLE v a|m=audio 4000 RTP/AVP 0|a=mid:a|m=video 4000 RTP/AVP 96|a=mid:v|a=rtcp-mux",
    "a=group:BUNDLE v|m=audio 0 RTP/AVP 0|a=mid:a|m=video 4000 RTP/AVP 96|a=mid:v",
    "a=group:BUNDLE v w|m=audio 4008 RTP/AVP 0|m=video 4000 RTP/AVP 96|a=mid:v|m=video 4000 RTP/AVP 96|a=mid:w",
    "m=message 5060 sip null",
    "m=image 4004 udptl t38",
];

fn text(outside: bool, which: u8) -> String {
    let addresses = match outside {
        true => [CALLER, "198.41.0.5", "2a00:1450::7", "0.0.0.0"],
        false => [CALLEE, "10.0.0.51", "fd00::50", "0.0.0.0"],
    };
    sdp(addresses[usize::from(which >> 4) % 4], LINES[usize::from(which) % LINES.len()])
}

fn step(bench: &mut Bench, [what, who, which, number]: [u8; 4]) {
    let methods = [CallMethod::Invite, CallMethod::Update, CallMethod::Prack, CallMethod::Ack];
    let tag = TAGS[usize::from(who >> 4) % TAGS.len()];
    let by_caller = who & 1 == 0;
    let first = who & 6 == 0 && by_caller;
    let say = Say {
        method: if first { CallMethod::Invite } else { methods[usize::from(which >> 6)] },
        exchange: u64::from(number % 6) + 1,
        cseq: u32::from(number % 6) + 1,
        by_caller,
        to_tag: (!first).then_some(tag),
        offered: who & 8 == 0,
        again: number & 64 != 0,
        reliable: number & 32 != 0,
        ..Say::invite(1)
    };
    bench.inbound = number & 128 == 0;
    bench.forbidden = u32::from(what >> 6 == 3);
    bench.behind_nat = what >> 4 == 9;
    bench.peers.outside = if what >> 5 == 5 { ip("2a00:1450::9") } else { ip("198.41.0.9") };
    bench.session = (who & 32 != 0).then_some(Duration::from_secs(90));
    let from_outside = bench.inbound == by_caller;
    let status = [180, 183, 200, 200][usize::from(number >> 3) % 4];
    let reply_tag = if by_caller { tag } else { say.caller };
    match what % 16 {
        0..=4 => drop(bench.ask(&say, &text(from_outside, which))),
        5..=8 => drop(bench.reply(&say, status, reply_tag, &text(!from_outside, which))),
        9 => drop(bench.reply(&say, 200, reply_tag, "")),
        10 | 11 => {
            let ids: Vec<CallId> = bench.calls.all.keys().copied().collect();
            for id in ids {
                bench.act(|calls, now, effects| match which & 1 {
                    0 => calls.failed(now, id, say.exchange, effects),
                    _ => calls.gone(now, id, say.exchange, effects),
                });
            }
        }
        12 => bench.pass(u64::from(which)),
        13 => {
            let partner = bench.partner.clone();
            let names = Say { to_tag: Some(tag), ..say }.names(bench.inbound, &partner);
            bench.act(|calls, _, effects| calls.bye(&names, effects));
        }
        14 => {
            let nth = bench.open.keys().nth(usize::from(which) % 8).copied();
            if let Some(id) = nth {
                let source = SocketAddr::new(bench.open[&id].source.addr(), 7777);
                bench.act(|calls, now, effects| calls.learned(now, id, source, effects));
            }
        }
        _ => {
            if let Some(id) = bench.calls.all.keys().next().copied() {
                bench.act(|calls, now, effects| calls.not_opened(now, id, effects));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn nothing_leaks_and_nothing_opens_after_its_end(
        steps in prop::collection::vec(any::<[u8; 4]>(), 1..60),
        few in any::<bool>(),
    ) {
        let ports = if few { (50_000, 50_005) } else { (50_000, 59_999) };
        let mut bench = Bench::with(CallSettings { ports, ..settings() });
        for one in steps {
            step(&mut bench, one);
        }
        // All is over: what was begun fails, what came up lasts no longer than any call.
        bench.pass(24 * 3600);
        bench.assert_nothing_left();
    }
}
