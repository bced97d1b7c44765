//! Where flows stand among management, blocks, rules and replies.

use std::net::UdpSocket;

use edge_ebpf::{
    abi::{
        Block, NO_GENERATION, SCOPE_ALL, SETTING_PINHOLES, WORD_MANAGEMENT, WORD_MEDIA,
        ZONE_INTERNAL, open_word, word,
    },
    verdict::Reason,
};
use edge_tests::kernel::XDP_PASS;

use super::*;

#[test]
fn without_a_flow_a_media_port_is_closed_and_its_rules_are_as_before() {
    in_namespace(|| {
        for side in sides() {
            let mut relay = Relay::new(side, false);
            let frame = relay.sent(&rtp(1, 7, 20));
            let six = side.me.is_ipv6();
            let close = |relay: &mut Relay, slot| {
                relay.bench.kernel.set_media_port(ZONE_EXTERNAL, six, LOCAL, slot).unwrap();
            };
            close(&mut relay, 0);
            relay.bench.both_say(&frame, Reason::NoRule);
            // The other family and the other zone have flows of their own.
            relay.bench.kernel.set_media_port(ZONE_EXTERNAL, !six, LOCAL, SLOT).unwrap();
            relay.bench.kernel.set_media_port(ZONE_INTERNAL, six, LOCAL, SLOT).unwrap();
            relay.bench.both_say(&frame, Reason::NoRule);
            for (word, reason) in [
                (open_word(RULE_IDS[0], WORD_MEDIA), Reason::Rule),
                (word(0, 1, WORD_MEDIA), Reason::Rule),
                (word(3, 1, WORD_MEDIA), Reason::RuleDrop),
                (word(1, 1, WORD_MEDIA), Reason::NotPartner),
            ] {
                relay.bench.change(|tables| {
                    let words = &mut tables.generations[1].port_words;
                    words.insert(port_index(ZONE_EXTERNAL, true, LOCAL), word);
                });
                close(&mut relay, 0);
                relay.bench.both_say(&frame, reason);
                // With a flow, it is the flow's.
                close(&mut relay, SLOT);
                relay.forwarded(&frame);
            }
            // A word without the flag knows no flow.
            relay.bench.change(|tables| {
                let words = &mut tables.generations[1].port_words;
                words.remove(&port_index(ZONE_EXTERNAL, true, LOCAL));
            });
            relay.bench.both_say(&frame, Reason::NoRule);
        }
    });
}

#[test]
fn management_and_blocks_come_before_flows() {
    in_namespace(|| {
        each_way(|relay| {
            let frame = relay.sent(&rtp(1, 7, 20));
            let blocked = relay.side.stranger;
            relay.bench.change(|tables| {
                block(tables, blocked, if blocked.is_ipv4() { 32 } else { 128 }, FOREVER)
            });
            for _ in 0..3 {
                relay.dropped(&frame, Reason::BlockedAddress);
            }
            assert_eq!(relay.state().dropped, 0);
            let prefix = Block {
                until_version: 0,
                ..Block::new(SCOPE_ALL, Reason::BlockedAddress as u8, 1, 0)
            };
            let partner = relay.side.partner;
            relay.open(|flow| flow.source = sixteen(partner));
            let from_partner = relay.sent_from(partner, REMOTE, &rtp(1, 7, 20));
            relay.forwarded(&from_partner);
            let length = if partner.is_ipv4() { 24 } else { 64 };
            relay.bench.change(|tables| block(tables, partner, length, prefix));
            relay.dropped(&from_partner, Reason::BlockedAddress);
            let manager = relay.side.management;
            relay.open(|flow| flow.source = sixteen(manager));
            relay.bench.change(|tables| {
                let words = &mut tables.generations[1].port_words;
                words.insert(port_index(ZONE_EXTERNAL, true, LOCAL), WORD_MEDIA | WORD_MANAGEMENT);
            });
            let outcome = relay.outcome(&relay.sent_from(manager, REMOTE, &rtp(1, 7, 20)));
            assert_eq!((outcome.action, outcome.reason), (XDP_PASS, Reason::Management));
            relay.bench.change(|tables| tables.settings.generation = NO_GENERATION);
            relay.dropped(&from_partner, Reason::NoRuleSet);
        });
    });
}

#[test]
fn a_pinhole_is_found_whatever_rules_its_port_has_here() {
    in_namespace(|| {
        for side in sides() {
            let mut relay = Relay::new(side, side.me.is_ipv6());
            relay.bench.change(|tables| tables.settings.flags |= SETTING_PINHOLES);
            let (_, to) = inside(side.me.is_ipv6());
            let pinhole = MediaFlow {
                local: sixteen(to),
                local_port: TO.to_be_bytes(),
                flags: MEDIA_RTP,
                ..relay.flow
            };
            relay.bench.kernel.set_media_flow(SLOT, &pinhole).unwrap();
            relay.bench.kernel.set_pinhole(ZONE_EXTERNAL, to, TO, SLOT).unwrap();
            for (word, reason) in [
                (0, Reason::NoRule),
                (open_word(RULE_IDS[0], 0), Reason::Rule),
                (word(0, 1, 0), Reason::Rule),
                (word(3, 1, 0), Reason::RuleDrop),
                (word(1, 1, 0), Reason::NotPartner),
                (WORD_MANAGEMENT, Reason::NoRule),
                (WORD_MEDIA, Reason::NoRule),
            ] {
                relay.bench.change(|tables| {
                    let words = &mut tables.generations[1].port_words;
                    words.insert(port_index(ZONE_EXTERNAL, true, TO), word);
                });
                let sent = |to| datagram((side.stranger, REMOTE), (to, TO), &rtp(1, 7, 20));
                for tags in TAGS {
                    relay.forwarded(&tag(&sent(to), tags));
                }
                // What is for us is a matter of the rules.
                relay.bench.both_say(&sent(side.me), reason);
                // Without pinholes, so is all.
                relay.bench.change(|tables| tables.settings.flags &= !SETTING_PINHOLES);
                relay.bench.both_say(&sent(to), reason);
                relay.bench.change(|tables| tables.settings.flags |= SETTING_PINHOLES);
            }
        }
    });
}

#[test]
fn a_reply_to_our_own_socket_among_the_media_ports_still_passes() {
    in_namespace(|| {
        for side in sides() {
            let mut relay = Relay::new(side, false);
            let socket = UdpSocket::bind((side.me, LOCAL + 2)).unwrap();
            socket.connect((side.stranger, 53)).unwrap();
            for flags in [0, SETTING_PINHOLES] {
                relay.bench.change(|tables| {
                    tables.settings.flags |= flags;
                    let words = &mut tables.generations[1].port_words;
                    words.insert(port_index(ZONE_EXTERNAL, true, LOCAL + 2), WORD_MEDIA);
                });
                for port in [53, 54] {
                    let answer = datagram((side.stranger, port), (side.me, LOCAL + 2), &[0x80; 20]);
                    let reason = if port == 53 { Reason::ReplyUdp } else { Reason::NoRule };
                    relay.bench.kernel_says(&answer, reason);
                }
                relay.bench.change(|tables| {
                    let words = &mut tables.generations[1].port_words;
                    words.remove(&port_index(ZONE_EXTERNAL, true, LOCAL + 2));
                });
                let answer = datagram((side.stranger, 53), (side.me, LOCAL + 2), &[0x80; 20]);
                relay.bench.kernel_says(&answer, Reason::ReplyUdp);
            }
        }
    });
}

#[test]
fn a_packet_for_somebody_else_without_an_entry_is_dropped() {
    in_namespace(|| {
        for flags in [0, SETTING_PINHOLES] {
            each_way(|relay| {
                relay.bench.change(|tables| tables.settings.flags |= flags);
                let (_, behind) = inside(relay.side.me.is_ipv6());
                for (to, port) in [(behind, TO), (behind, LOCAL + 1), (relay.side.partner, TO)] {
                    let frame = datagram((relay.side.stranger, REMOTE), (to, port), &rtp(1, 7, 20));
                    relay.dropped(&frame, Reason::NoRule);
                }
                // At the flow's port, but for another address.
                let frame =
                    datagram((relay.side.stranger, REMOTE), (behind, LOCAL), &rtp(1, 7, 20));
                relay.dropped(&frame, Reason::MediaShape);
                assert_eq!(relay.state().packets, 0);
            });
        }
    });
}

#[test]
fn a_flow_whose_program_is_not_there_drops() {
    in_namespace(|| {
        for side in sides() {
            let mut bench = Bench::new();
            bench.change(|tables| {
                let words = &mut tables.generations[1].port_words;
                words.insert(port_index(ZONE_EXTERNAL, true, LOCAL), WORD_MEDIA);
            });
            bench.kernel.set_media_port(ZONE_EXTERNAL, side.me.is_ipv6(), LOCAL, SLOT).unwrap();
            let frame = datagram((side.stranger, REMOTE), (side.me, LOCAL), &rtp(1, 7, 20));
            bench.kernel_says(&frame, Reason::MediaNoRoute);
        }
    });
}
