//! What is asked of a packet that a rule lets in is asked of tagged packets too.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    os::fd::OwnedFd,
};

use edge_ebpf::{
    abi::{
        CONTENT_MEDIA, CONTENT_SIP, Limits, RuleLimits, SET_ANY, SETTING_CEILING, SETTING_FLOOD,
    },
    packet::{TCP_ACK, TCP_SYN},
    verdict::Reason,
};
use edge_tests::packets::*;

use crate::{
    asked::{REACHED_HERE, asking, datagram, each_minute, segment},
    fixture::*,
    reasons::{TAGS, tag},
};

/// The program, what its frames are tagged with, and what was reached.
struct Tagged {
    bench: Bench,
    tags: &'static [(u16, u16)],
    reached: BTreeSet<Reason>,
}

impl Tagged {
    #[track_caller]
    fn says(&mut self, frame: &[u8], reason: Reason) {
        self.bench.kernel_says(&tag(frame, self.tags), reason);
        self.reached.insert(reason);
    }
}

#[test]
fn with_one_tag_and_with_two_every_question_is_asked_and_with_three_none() {
    in_namespace(|| {
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
        // What a CPU counted before it told the others, it knows alone.
        stay_on_one_cpu();
        let mut bench = Bench::new();
        bench.kernel.load_rare().unwrap();
        let mut tagged = Tagged { bench, tags: &[], reached: BTreeSet::new() };
        for side in sides() {
            let mut expected = BTreeSet::from(REACHED_HERE);
            if side.me.is_ipv6() {
                expected.remove(&Reason::SourceRoute);
            }
            for tags in TAGS {
                tagged.tags = tags;
                tagged.reached.clear();
                sources(&mut tagged, side);
                contents(&mut tagged, side);
                rates(&mut tagged, side);
                fragments(&mut tagged, side);
                floods(&mut tagged, side);
                if let (IpAddr::V4(from), IpAddr::V4(to)) = (side.stranger, side.me) {
                    let route = [131, 7, 4, 192, 0, 2, 9, 0];
                    let packet = ipv4(from, to, 6, 0, &route, &tcp(1, 80, TCP_SYN));
                    tagged.says(&ethernet(&[], 0x0800, &packet), Reason::SourceRoute);
                }
                tagged.reached.remove(&Reason::Rule);
                assert_eq!(tagged.reached, expected, "tagged {tags:?}");
            }
            tagged.tags = &[(0x88a8, VLAN), (0x8100, INNER_VLAN), (0x8100, 0)];
            asking(&mut tagged.bench, CONTENT_SIP, None);
            let packet = datagram(side, side.stranger, PARTNER_PORT, b"GET / HTTP");
            tagged.says(&packet, Reason::VlanDepth);
        }
    });
}

fn sources(tagged: &mut Tagged, side: Side) {
    tagged.bench.change(|tables| tables.generations[1].rules[1].source_set = 9);
    let syn = segment(side, side.stranger, PARTNER_PORT, TCP_SYN);
    tagged.says(&syn, Reason::SourceNotAllowed);
    tagged.bench.change(|tables| tables.generations[1].rules[1].source_set = SET_ANY);
}

fn contents(tagged: &mut Tagged, side: Side) {
    let with = |data: &[u8]| datagram(side, side.stranger, PARTNER_PORT, data);
    asking(&mut tagged.bench, CONTENT_SIP, None);
    tagged.says(&with(b"OPTIONS sip:a SIP/2.0\r\n"), Reason::Rule);
    tagged.says(&with(b"GET / HTTP/1.1\r\n"), Reason::NotSip);
    let scan = b"OPTIONS sip:a SIP/2.0\r\nUser-Agent: friendly-scanner\r\n\r\n";
    tagged.says(&with(scan), Reason::SipScanner);
    asking(&mut tagged.bench, CONTENT_MEDIA, None);
    tagged.says(&with(b"\x80\0\0\0"), Reason::Rule);
    tagged.says(&with(b"SIP/2.0 200 OK\r\n"), Reason::NotMedia);
}

fn rates(tagged: &mut Tagged, side: Side) {
    let packet = datagram(side, side.stranger, PARTNER_PORT, b"x");
    let one = Limits { packets: each_minute(0), ..Limits::default() };
    asking(&mut tagged.bench, 0, Some(RuleLimits { source: one, ..RuleLimits::default() }));
    tagged.says(&packet, Reason::Rule);
    tagged.says(&packet, Reason::RateSource);
    asking(&mut tagged.bench, 0, Some(RuleLimits { total: one, ..RuleLimits::default() }));
    tagged.says(&packet, Reason::Rule);
    tagged.says(&packet, Reason::RateTotal);
    asking(&mut tagged.bench, 0, None);
    tagged.bench.change(|tables| {
        tables.settings.flags |= SETTING_CEILING;
        tables.settings.ceilings[0] = each_minute(0);
    });
    tagged.says(&packet, Reason::Rule);
    tagged.says(&packet, Reason::ZoneCeiling);
    tagged.bench.change(|tables| tables.settings.flags &= !SETTING_CEILING);
}

fn fragments(tagged: &mut Tagged, side: Side) {
    let whole = udp(4000, FEDERATION_PORT, &[0; 32]);
    let piece = |range| fragment(side.stranger, side.me, 17, &whole, range, 7);
    tagged.says(&piece(0..16), Reason::Rule);
    tagged.says(&piece(16..24), Reason::FragmentTracked);
    tagged.says(&piece(16..40), Reason::FragmentOverlap);
    tagged.bench.kernel.forget_packets().unwrap();
}

fn floods(tagged: &mut Tagged, side: Side) {
    tagged.bench.change(|tables| {
        tables.settings.flags |= SETTING_FLOOD;
        tables.settings.flood_syns = 1;
    });
    let syn = segment(side, side.stranger, FEDERATION_PORT, TCP_SYN);
    // The first of a second is within the threshold; cookies then last until the next one ends.
    let flood = |tagged: &mut Tagged| {
        for _ in 0..3 {
            tagged.bench.kernel.run(&tag(&syn, tagged.tags)).unwrap();
        }
    };
    let listener = TcpListener::bind((side.me, FEDERATION_PORT)).unwrap();
    flood(tagged);
    tagged.says(&syn, Reason::SynCookie);
    flood(tagged);
    let forged = segment(side, side.stranger, FEDERATION_PORT, TCP_ACK);
    tagged.says(&forged, Reason::SynCookieBad);
    // As where a close alone ends it later: another test beside this one may hold it for a moment.
    TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both).unwrap();
    flood(tagged);
    tagged.says(&syn, Reason::Flood);
    tagged.bench.change(|tables| tables.settings.flags &= !SETTING_FLOOD);
}
