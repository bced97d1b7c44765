//! What is asked of a packet that a rule lets in: content, rates, floods, fragments; and what is
//! only tried.

use std::{
    net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use edge_ebpf::{
    abi::{
        CONTENT_MEDIA, CONTENT_SIP, CONTENT_STUN, FLOOD_ROUND, GENERATION_SHADOW, KnownKey, Limit,
        Limits, NO_GENERATION, RuleLimits, SETTING_CEILING, SETTING_FLOOD, shadow_slot,
    },
    packet::{TCP_ACK, TCP_SYN},
    verdict::{Reason, Verdict},
};
use edge_tests::packets::*;

use crate::fixture::*;

/// Reasons that this file reaches, and `reasons.rs` does not.
pub const REACHED_HERE: [Reason; 13] = [
    Reason::FragmentTracked,
    Reason::SynCookie,
    Reason::FragmentOverlap,
    Reason::SourceRoute,
    Reason::SourceNotAllowed,
    Reason::NotSip,
    Reason::SipScanner,
    Reason::NotMedia,
    Reason::RateSource,
    Reason::RateTotal,
    Reason::ZoneCeiling,
    Reason::Flood,
    Reason::SynCookieBad,
];

/// The second rule of the fixture, which stands for [`PARTNER_PORT`], opens it to everybody and
/// asks for more.
pub fn asking(bench: &mut Bench, content: u8, limits: Option<RuleLimits>) {
    bench.change(|tables| {
        let generation = &mut tables.generations[1];
        let rule = &mut generation.rules[1];
        rule.source_set = edge_ebpf::abi::SET_ANY;
        rule.content = content;
        rule.limits = u16::from(limits.is_some());
        generation.rates = vec![RuleLimits::default(), limits.unwrap_or_default()];
        tables.source_buckets.borrow_mut().clear();
        tables.total_buckets.borrow_mut().clear();
    });
    bench.kernel.empty_buckets().unwrap();
}

/// A packet a minute, and so many more at once: no machine is so slow that one comes back in time.
pub fn each_minute(burst: u64) -> Limit {
    let increment = 60 * Limit::new(1, 0).increment;
    Limit { increment, tolerance: increment * burst }
}

pub fn datagram(side: Side, from: IpAddr, port: u16, data: &[u8]) -> Vec<u8> {
    frame(from, side.me, 17, &udp(4000, port, data))
}

pub fn segment(side: Side, from: IpAddr, port: u16, flags: u8) -> Vec<u8> {
    frame(from, side.me, 6, &tcp(4000, port, flags))
}

#[test]
fn a_set_that_is_not_the_partners_has_its_own_reason() {
    in_namespace(|| {
        let mut bench = Bench::new();
        bench.change(|tables| tables.generations[1].rules[1].source_set = 9);
        for side in sides() {
            let syn = segment(side, side.stranger, PARTNER_PORT, TCP_SYN);
            bench.both_say(&syn, Reason::SourceNotAllowed);
        }
    });
}

#[test]
fn the_payload_must_be_what_the_rule_says() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let options = b"OPTIONS sip:a@b SIP/2.0\r\nUser-Agent: phone\r\n\r\n";
        let scan = b"OPTIONS sip:100@b SIP/2.0\r\nUser-Agent: friendly-scanner\r\n\r\n";
        let table: [(u8, &[u8], Reason); 9] = [
            (CONTENT_SIP, options, Reason::Rule),
            (CONTENT_SIP, b"\r\n\r\n", Reason::Rule),
            (CONTENT_SIP, scan, Reason::SipScanner),
            (CONTENT_SIP, b"GET / HTTP/1.1\r\n\r\n", Reason::NotSip),
            (CONTENT_SIP, b"\x80\0\0\0", Reason::NotSip),
            (CONTENT_STUN, b"\0\x01\0\0", Reason::Rule),
            (CONTENT_STUN, b"\x80\0\0\0", Reason::NotMedia),
            (CONTENT_MEDIA, b"\x80\0\0\0", Reason::Rule),
            (CONTENT_MEDIA, b"SIP/2.0 200 OK\r\n", Reason::NotMedia),
        ];
        for (content, data, reason) in table {
            asking(&mut bench, content, None);
            for side in sides() {
                bench.both_say(&datagram(side, side.stranger, PARTNER_PORT, data), reason);
            }
        }
    });
}

#[test]
fn of_tcp_only_the_first_bytes_of_a_connection_are_looked_at() {
    in_namespace(|| {
        let mut bench = Bench::new();
        asking(&mut bench, CONTENT_SIP, None);
        for side in sides() {
            let with = |sequence: u32, flags: u8, data: &[u8]| {
                let mut segment = tcp(4000, PARTNER_PORT, flags);
                segment[4..8].copy_from_slice(&sequence.to_be_bytes());
                segment.extend_from_slice(data);
                frame(side.stranger, side.me, 6, &segment)
            };
            bench.kernel_says(&with(99, TCP_SYN, b""), Reason::Rule);
            bench.kernel_says(&with(100, TCP_ACK, b"GET / HTTP"), Reason::NotSip);
            bench.kernel_says(&with(100, TCP_ACK, b"OPTIONS sip:a SIP/2.0"), Reason::Rule);
            bench.kernel_says(&with(121, TCP_ACK, b"\x80 anything"), Reason::Rule);
        }
    });
}

#[test]
fn a_scanner_is_known_over_tcp_too() {
    in_namespace(|| {
        let mut bench = Bench::new();
        asking(&mut bench, CONTENT_SIP, None);
        let scan = b"OPTIONS sip:100@b SIP/2.0\r\nUser-Agent: friendly-scanner\r\n\r\n";
        for side in sides() {
            // With and without options between the header and what it brings.
            for options in [&[][..], &[1; 4], &[1; 40]] {
                let with = |sequence: u32, flags: u8, data: &[u8]| {
                    let mut segment = tcp(4000, PARTNER_PORT, flags);
                    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
                    segment[12] = (5 + options.len() as u8 / 4) << 4;
                    let segment = [&segment, options, data].concat();
                    frame(side.stranger, side.me, 6, &segment)
                };
                bench.both_say(&with(99, TCP_SYN, b""), Reason::Rule);
                bench.kernel_says(&with(100, TCP_ACK, scan), Reason::SipScanner);
                assert_eq!(bench.on_host(&with(100, TCP_ACK, scan)).reason, Reason::SipScanner);
                // Later bytes are the daemon's.
                bench.kernel_says(&with(500, TCP_ACK, scan), Reason::Rule);
                bench.kernel_says(&with(100, TCP_ACK, b"OPTIONS sip:a SIP/2.0"), Reason::Rule);
            }
        }
    });
}

#[test]
fn a_syn_that_is_refused_makes_nobody_forget_where_a_connection_begins() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let one = Limits { new: each_minute(0), ..Limits::default() };
        for side in sides() {
            let limits = RuleLimits { source: one, ..RuleLimits::default() };
            asking(&mut bench, CONTENT_SIP, Some(limits));
            let with = |sequence: u32, flags: u8, data: &[u8]| {
                let mut segment = tcp(4000, PARTNER_PORT, flags);
                segment[4..8].copy_from_slice(&sequence.to_be_bytes());
                frame(side.stranger, side.me, 6, &[&segment, data].concat())
            };
            bench.kernel_says(&with(99, TCP_SYN, b""), Reason::Rule);
            bench.kernel_says(&with(7000, TCP_SYN, b""), Reason::RateSource);
            bench.kernel_says(&with(100, TCP_ACK, b"GET / HTTP"), Reason::NotSip);
            bench.kernel_says(&with(7001, TCP_ACK, b"GET / HTTP"), Reason::Rule);
        }
    });
}

#[test]
fn padding_is_no_payload() {
    in_namespace(|| {
        let mut bench = Bench::new();
        asking(&mut bench, CONTENT_SIP, None);
        for side in sides() {
            let mut empty = datagram(side, side.stranger, PARTNER_PORT, b"");
            empty.extend_from_slice(&[0xff; 18]);
            bench.both_say(&empty, Reason::Rule);
            let mut begun = datagram(side, side.stranger, PARTNER_PORT, b"OPT");
            begun.extend_from_slice(&[0; 15]);
            bench.both_say(&begun, Reason::Rule);
        }
    });
}

#[test]
fn a_source_has_its_rate_and_all_sources_theirs() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let few = Limits { packets: each_minute(2), ..Limits::default() };
        for side in sides() {
            asking(&mut bench, 0, Some(RuleLimits { source: few, ..RuleLimits::default() }));
            let from = |source| datagram(side, source, PARTNER_PORT, b"x");
            for _ in 0..3 {
                bench.kernel_says(&from(side.stranger), Reason::Rule);
            }
            bench.kernel_says(&from(side.stranger), Reason::RateSource);
            bench.kernel_says(&from(side.partner), Reason::Rule);
            asking(&mut bench, 0, Some(RuleLimits { total: few, ..RuleLimits::default() }));
            for source in [side.stranger, side.partner, side.stranger] {
                bench.kernel_says(&from(source), Reason::Rule);
            }
            bench.kernel_says(&from(side.partner), Reason::RateTotal);
        }
    });
}

#[test]
fn new_connections_are_what_a_rate_of_new_counts() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let one = Limits { new: each_minute(0), ..Limits::default() };
        for side in sides() {
            asking(&mut bench, 0, Some(RuleLimits { source: one, ..RuleLimits::default() }));
            let from = |flags| segment(side, side.stranger, PARTNER_PORT, flags);
            bench.kernel_says(&from(TCP_SYN), Reason::Rule);
            bench.kernel_says(&from(TCP_SYN), Reason::RateSource);
            bench.kernel_says(&from(TCP_ACK), Reason::Rule);
        }
    });
}

#[test]
fn a_source_that_proved_itself_has_a_bucket_of_its_own() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let one = Limits { packets: each_minute(0), ..Limits::default() };
        let [side, _] = sides();
        asking(&mut bench, 0, Some(RuleLimits { source: one, ..RuleLimits::default() }));
        let key = KnownKey { source: sixteen(side.stranger), rule: RULE_IDS[1], reserved: 0 };
        bench.change(|tables| {
            tables.known_sources.borrow_mut().insert(key, Default::default());
        });
        let packet = datagram(side, side.stranger, PARTNER_PORT, b"x");
        for _ in 0..2 {
            bench.kernel_says(&packet, Reason::Rule);
        }
        bench.kernel_says(&packet, Reason::RateSource);
    });
}

#[test]
fn later_fragments_pass_after_their_first_and_never_over_it() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let data = [0_u8; 32];
            let whole = udp(4000, FEDERATION_PORT, &data);
            let piece = |offset: usize, end: usize, id: u32| {
                fragment(side.stranger, side.me, 17, &whole, offset..end, id)
            };
            bench.kernel_says(&piece(16, 40, 1), Reason::Fragment);
            bench.kernel_says(&piece(0, 16, 1), Reason::Rule);
            bench.kernel_says(&piece(16, 24, 1), Reason::FragmentTracked);
            bench.kernel_says(&piece(24, 40, 1), Reason::FragmentTracked);
            bench.kernel_says(&piece(16, 40, 2), Reason::Fragment);
            // One that reaches back, and what comes after it.
            bench.kernel_says(&piece(0, 16, 3), Reason::Rule);
            bench.kernel_says(&piece(8, 24, 3), Reason::FragmentOverlap);
            bench.kernel_says(&piece(16, 40, 3), Reason::FragmentOverlap);
            // The first one twice.
            bench.kernel_says(&piece(0, 16, 4), Reason::Rule);
            bench.kernel_says(&piece(0, 16, 4), Reason::FragmentOverlap);
            // A first one that is dropped lets nothing in.
            let closed = udp(4000, 9, &data);
            let (from, to) = (side.stranger, side.me);
            bench.kernel_says(&fragment(from, to, 17, &closed, 0..16, 5), Reason::NoRule);
            bench.kernel_says(&fragment(from, to, 17, &closed, 16..40, 5), Reason::Fragment);
            bench.kernel.forget_packets().unwrap();
        }
    });
}

#[test]
fn a_source_route_is_refused() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let packet = ipv4(
            Ipv4Addr::new(203, 0, 113, 9),
            Ipv4Addr::new(192, 0, 2, 1),
            6,
            0,
            &[131, 7, 4, 192, 0, 2, 9, 0],
            &tcp(1, 80, TCP_SYN),
        );
        bench.both_say(&ethernet(&[], 0x0800, &packet), Reason::SourceRoute);
    });
}

#[test]
fn a_zone_has_a_ceiling_that_management_does_not_know() {
    in_namespace(|| {
        let mut bench = Bench::new();
        bench.change(|tables| {
            tables.settings.flags |= SETTING_CEILING;
            tables.settings.ceilings[0] = each_minute(1);
        });
        let [side, six] = sides();
        let open = datagram(side, side.stranger, FEDERATION_PORT, b"x");
        bench.kernel_says(&open, Reason::Rule);
        bench.kernel_says(&datagram(six, six.stranger, FEDERATION_PORT, b"x"), Reason::Rule);
        bench.kernel_says(&open, Reason::ZoneCeiling);
        let management = segment(side, side.management, MANAGEMENT_PORT, TCP_SYN);
        bench.kernel_says(&management, Reason::Management);
        // A connection that stands is not disturbed.
        let listener = TcpListener::bind((side.me, FEDERATION_PORT)).unwrap();
        let client = TcpStream::connect((side.me, FEDERATION_PORT)).unwrap();
        let (server, _) = listener.accept().unwrap();
        let remote = client.local_addr().unwrap();
        let data = frame(remote.ip(), side.me, 6, &tcp(remote.port(), FEDERATION_PORT, TCP_ACK));
        bench.kernel_says(&data, Reason::Rule);
        drop((client, server));
    });
}

#[test]
fn in_a_flood_a_syn_is_answered_with_a_cookie_that_the_kernel_takes() {
    in_namespace(|| {
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
        // What a CPU counted before it told the others, it knows alone.
        stay_on_one_cpu();
        let mut bench = Bench::new();
        bench.kernel.load_rare().unwrap();
        for side in sides() {
            bench.change(|tables| {
                tables.settings.flags |= SETTING_FLOOD;
                tables.settings.flood_syns = 1;
            });
            let listener = TcpListener::bind((side.me, FEDERATION_PORT)).unwrap();
            let syn = segment(side, side.stranger, FEDERATION_PORT, TCP_SYN);
            // It goes on at least until the next second ends, however slow this machine is. The
            // first of a second is within the threshold.
            let flood = |bench: &Bench| {
                for _ in 0..3 {
                    bench.kernel.run(&syn).unwrap();
                }
            };
            flood(&bench);
            bench.kernel_says(&syn, Reason::SynCookie);
            flood(&bench);
            let answer = bench.kernel.answer(&syn).unwrap();
            let (source, destination, segment) = answered(&answer, side.me.is_ipv4());
            assert_eq!((source, destination), (side.me, side.stranger));
            assert_eq!(segment[13], TCP_SYN | TCP_ACK);
            assert_eq!(&segment[8..12], &2_u32.to_be_bytes(), "it acknowledges the SYN");
            assert_eq!(&segment[20..22], &[2, 4], "it offers a segment size");
            assert!(checksum_is_right(source, destination, 6, &segment));
            // The ACK that brings the cookie back passes, and one that brings another does not.
            let cookie = u32::from_be_bytes(segment[4..8].try_into().unwrap());
            let ack = |acknowledged: u32| {
                let mut segment = tcp(4000, FEDERATION_PORT, TCP_ACK);
                segment[4..8].copy_from_slice(&2_u32.to_be_bytes());
                segment[8..12].copy_from_slice(&acknowledged.to_be_bytes());
                frame(side.stranger, side.me, 6, &segment)
            };
            flood(&bench);
            bench.kernel_says(&ack(cookie.wrapping_add(1)), Reason::Rule);
            flood(&bench);
            bench.kernel_says(&ack(cookie.wrapping_add(77)), Reason::SynCookieBad);
            // A close alone ends it later where a test beside this one is starting a process: until
            // that one has become its program, it holds the socket too.
            TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both).unwrap();
            // Nobody listens: there is nothing to answer with.
            flood(&bench);
            bench.kernel_says(&syn, Reason::Flood);
        }
    });
}

/// Runs on this CPU from now on; whether it may.
fn go_to(cpu: usize) -> bool {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).is_ok()
}

#[test]
fn a_flood_is_one_whatever_cpus_its_packets_come_in_on() {
    in_namespace(|| {
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
        if !(go_to(1) && go_to(0)) {
            eprintln!("left out: there is one CPU");
            return;
        }
        let mut bench = Bench::new();
        bench.kernel.load_rare().unwrap();
        bench.change(|tables| {
            tables.settings.flags |= SETTING_FLOOD;
            tables.settings.flood_syns = 4 * FLOOD_ROUND;
        });
        for side in sides() {
            let _listener = TcpListener::bind((side.me, FEDERATION_PORT)).unwrap();
            let syn = segment(side, side.stranger, FEDERATION_PORT, TCP_SYN);
            // Each CPU counts less than makes a flood, both together more: all of it in one second,
            // and if one ends in between, once more.
            let flooded = (0..20).any(|_| {
                std::thread::sleep(Duration::from_millis(1100));
                (0..6 * FLOOD_ROUND).any(|number| {
                    assert!(go_to((number / FLOOD_ROUND % 2) as usize));
                    let answered = bench.kernel.run(&syn).unwrap() == Verdict::Answer;
                    assert!(!answered || number >= 4 * FLOOD_ROUND, "a flood of {number}");
                    answered
                })
            });
            assert!(flooded, "each CPU counts for itself");
            // It is over before the other family begins.
            std::thread::sleep(Duration::from_millis(2100));
            for cpu in [1, 0] {
                assert!(go_to(cpu));
                bench.kernel.run(&syn).unwrap();
            }
        }
    });
}

#[test]
fn a_trial_tells_what_would_happen_and_changes_nothing() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let one = Limits { packets: each_minute(0), ..Limits::default() };
        asking(&mut bench, 0, Some(RuleLimits { source: one, ..RuleLimits::default() }));
        bench.change(|tables| {
            tables.settings.trial = 0x5eed;
            tables.settings.events_per_second = 100;
        });
        for side in sides() {
            let before = bench.kernel.all_counters().unwrap();
            let packet = datagram(side, side.stranger, PARTNER_PORT, b"x");
            for _ in 0..3 {
                let trial = bench.kernel.trial(&packet, 0x5eed).unwrap().unwrap();
                let told = (trial.reason, trial.verdict, trial.rule, trial.zone);
                assert_eq!(told, (Reason::Rule as u8, 0, RULE_IDS[1], 0));
            }
            let closed = segment(side, side.stranger, 9, TCP_SYN);
            let trial = bench.kernel.trial(&closed, 0x5eed).unwrap().unwrap();
            assert_eq!((trial.reason, trial.verdict), (Reason::NoRule as u8, 1));
            assert_eq!(bench.kernel.all_counters().unwrap(), before);
            assert!(bench.kernel.events().unwrap().is_empty());
            // Whoever does not know the number is real traffic.
            assert_eq!(bench.kernel.trial(&closed, 0x5eee).unwrap(), None);
            assert_ne!(bench.kernel.all_counters().unwrap(), before);
            assert_eq!(bench.kernel.events().unwrap().len(), 1);
        }
    });
}

#[test]
fn the_shadow_counts_what_it_would_do_otherwise_and_does_nothing() {
    in_namespace(|| {
        let mut bench = Bench::new();
        bench.kernel.load_rare().unwrap();
        bench.change(|tables| {
            tables.settings.shadow = GENERATION_SHADOW;
            let mut shadow = tables.generations[1].clone();
            // The shadow opens what is closed, and closes what is open.
            shadow.rules[0].action = edge_ebpf::abi::ACTION_DROP;
            for udp in [false, true] {
                let index = |port| edge_ebpf::abi::port_index(0, udp, port);
                let words = &mut shadow.port_words;
                words.insert(index(FEDERATION_PORT), edge_ebpf::abi::word(0, 1, 0));
                words.insert(index(9), edge_ebpf::abi::word(4, 1, 0));
            }
            tables.generations[2] = shadow;
        });
        for (times, side) in (1..).zip(sides()) {
            let table = [
                (FEDERATION_PORT, Verdict::Pass, shadow_slot(true, Reason::RuleDrop as u8)),
                (9, Verdict::Drop, shadow_slot(false, Reason::NoRule as u8)),
            ];
            for (port, verdict, slot) in table {
                let syn = segment(side, side.stranger, port, TCP_SYN);
                assert_eq!(bench.kernel.run(&syn).unwrap(), verdict);
                assert_eq!(bench.kernel.shadow_counter(slot).unwrap().packets, times);
            }
            // Where they agree nothing is counted.
            let closed = segment(side, side.stranger, CLOSED_PORT, TCP_SYN);
            assert_eq!(bench.kernel.run(&closed).unwrap(), Verdict::Drop);
            let same = shadow_slot(true, Reason::RuleDrop as u8);
            assert_eq!(bench.kernel.shadow_counter(same).unwrap().packets, times);
        }
        bench.change(|tables| tables.settings.shadow = NO_GENERATION);
    });
}
