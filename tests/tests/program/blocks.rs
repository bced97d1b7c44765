//! Blocked sources: exact and prefix, expiry, scope, and what comes before them.

use std::{net::IpAddr, time::Duration};

use edge_ebpf::{
    abi::{
        Block, SETTING_BLOCKS, SOURCE_SET_MANAGEMENT, SetMask, WORD_FEDERATION, WORD_MANAGEMENT,
        ZONE_EXTERNAL, port_index, word,
    },
    decide::MemoryTables,
    verdict::Reason,
};
use edge_tests::packets::*;

use crate::fixture::*;

fn syn(from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    frame(from, to, 6, &tcp(4000, port, SYN))
}

#[test]
fn a_prefix_blocks_every_address_in_it_and_none_beside_it() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let [four, six] = sides();
        // (prefix, length, inside, beside)
        let table = [
            (four, "198.19.0.0", 16, "198.19.200.1", "198.20.0.1"),
            (four, "198.51.101.128", 25, "198.51.101.200", "198.51.101.1"),
            (four, "100.64.0.0", 10, "100.127.0.1", "100.128.0.1"),
            (six, "2001:db8:aaaa::", 48, "2001:db8:aaaa:1::1", "2001:db8:aaab::1"),
            (six, "2001:db8:bbbb:1::", 64, "2001:db8:bbbb:1::9", "2001:db8:bbbb:2::9"),
            (six, "2a00::", 12, "2a0f:1::1", "2a10::1"),
            (six, "2c0f:2000::", 19, "2c0f:3fff::1", "2c0f:4000::1"),
            (six, "2610:1000::", 20, "2610:1fff:f::1", "2610:2000::1"),
            (six, "2620:8::", 29, "2620:f:f::1", "2620:10::1"),
            (six, "2630:1::", 32, "2630:1:ffff::1", "2630:2::1"),
            (six, "2630:3:2::", 47, "2630:3:3::1", "2630:3:4::1"),
        ];
        for (side, prefix, length, inside, beside) in table {
            let parsed = |text: &str| text.parse::<IpAddr>().unwrap();
            bench.both_say(&syn(parsed(inside), side.me, 1), Reason::NoRule);
            bench.change(|tables| block(tables, parsed(prefix), length, FOREVER));
            bench.both_say(&syn(parsed(inside), side.me, 1), Reason::BlockedAddress);
            bench.both_say(&syn(parsed(beside), side.me, 1), Reason::NoRule);
        }
    });
}

#[test]
fn a_block_ends_when_its_time_has_come() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let now = u32::try_from(now_seconds()).unwrap();
        for side in sides() {
            let packet = syn(side.stranger, side.me, FEDERATION_PORT);
            let host = if side.me.is_ipv4() { 32 } else { 128 };
            let until = |expires_at_seconds| Block { expires_at_seconds, ..FOREVER };
            bench.change(|tables| block(tables, side.stranger, host, until(now + 1000)));
            bench.both_say(&packet, Reason::BlockedAddress);
            bench.change(|tables| block(tables, side.stranger, host, until(now - 1)));
            bench.both_say(&packet, Reason::Rule);
            // An address whose own block has ended is still in a blocked prefix.
            bench.change(|tables| block(tables, side.stranger, host - 8, FOREVER));
            bench.both_say(&packet, Reason::BlockedAddress);
        }
    });
}

#[test]
fn a_domains_block_drops_at_federation_ports_only() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let from = side.blocked_domain;
            bench.both_say(&syn(from, side.me, FEDERATION_PORT), Reason::BlockedDomain);
            bench.both_say(&syn(from, side.second, SECOND_PORT), Reason::Rule);
            let established = frame(from, side.me, 6, &tcp(1, FEDERATION_PORT, ACK));
            bench.both_say(&established, Reason::BlockedDomain);
        }
    });
}

#[test]
fn a_guessers_block_drops_at_remote_users_ports_only() {
    in_namespace(|| {
        // By itself, and by a prefix around it.
        for shorter in [0, 8] {
            let mut bench = Bench::new();
            for side in sides() {
                let from = side.stranger;
                let length = if side.me.is_ipv4() { 32 } else { 128 } - shorter;
                let at = |port| syn(from, side.me, port);
                bench.both_say(&at(REMOTE_PORT), Reason::Rule);
                bench.change(|tables| block(tables, from, length, GUESSER));
                bench.both_say(&at(REMOTE_PORT), Reason::BlockedAddress);
                bench.both_say(&at(FEDERATION_PORT), Reason::Rule);
                bench.both_say(&at(1), Reason::NoRule);
                let established = frame(from, side.me, 6, &tcp(1, REMOTE_PORT, ACK));
                bench.both_say(&established, Reason::BlockedAddress);
                // A blocked domain's, too.
                let scope = DOMAIN.scope | GUESSER.scope;
                bench.change(|tables| block(tables, from, length, Block { scope, ..DOMAIN }));
                bench.both_say(&at(REMOTE_PORT), Reason::BlockedDomain);
                bench.both_say(&at(FEDERATION_PORT), Reason::BlockedDomain);
                bench.both_say(&at(1), Reason::NoRule);
            }
        }
    });
}

#[test]
fn management_comes_before_blocks_but_only_at_its_ports() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for side in sides() {
            let host = if side.me.is_ipv4() { 32 } else { 128 };
            bench.change(|tables| block(tables, side.management, host, FOREVER));
            bench.both_say(&syn(side.management, side.me, MANAGEMENT_PORT), Reason::Management);
            bench.both_say(&syn(side.management, side.me, FEDERATION_PORT), Reason::BlockedAddress);
        }
        // A port can be for management and for others.
        bench.change(|tables| {
            let both = word(0, 1, WORD_MANAGEMENT | WORD_FEDERATION);
            let index = port_index(ZONE_EXTERNAL, false, MANAGEMENT_PORT);
            tables.generations[1].port_words.insert(index, both);
        });
        for side in sides() {
            bench.both_say(&syn(side.stranger, side.me, MANAGEMENT_PORT), Reason::Rule);
        }
    });
}

#[test]
fn without_the_switch_no_block_is_asked() {
    in_namespace(|| {
        let mut bench = Bench::new();
        bench.change(|tables| tables.settings.flags &= !SETTING_BLOCKS);
        for side in sides() {
            bench.both_say(&syn(side.blocked, side.me, FEDERATION_PORT), Reason::Rule);
        }
    });
}

/// Both times alike: from the tables, and as it was remembered.
/// What is found is remembered at the first, what need not be asked again at the second, and not
/// asked again at the third.
fn again_and_again(bench: &mut Bench, packet: &[u8], reason: Reason) {
    for _ in 0..4 {
        bench.both_say(packet, reason);
    }
}

#[test]
fn a_blocked_source_that_manages_is_let_in_to_manage_however_much_it_sends() {
    in_namespace(|| {
        stay_on_one_cpu();
        let mut bench = Bench::new();
        for side in sides() {
            let host = if side.me.is_ipv4() { 32 } else { 128 };
            let manage = syn(side.management, side.me, MANAGEMENT_PORT);
            let other = syn(side.management, side.me, FEDERATION_PORT);
            bench.change(|tables| block(tables, side.management, host, FOREVER));
            for _ in 0..3 {
                again_and_again(&mut bench, &other, Reason::BlockedAddress);
                again_and_again(&mut bench, &manage, Reason::Management);
            }
            // A stranger becomes one who manages: what is remembered of it ends with the swap.
            let other = syn(side.blocked, side.me, MANAGEMENT_PORT);
            again_and_again(&mut bench, &other, Reason::BlockedAddress);
            bench.change(|tables| {
                let generation = &mut tables.generations[1];
                let mask = SetMask::default().with(SOURCE_SET_MANAGEMENT);
                match side.blocked {
                    IpAddr::V4(it) => generation.sources4.insert(it.octets(), 32, mask),
                    IpAddr::V6(it) => generation.sources6.insert(it.octets(), 128, mask),
                }
            });
            again_and_again(&mut bench, &other, Reason::Management);
        }
    });
}

#[test]
fn a_remembered_block_says_what_the_tables_say() {
    in_namespace(|| {
        stay_on_one_cpu();
        let mut bench = Bench::new();
        for side in sides() {
            let host = if side.me.is_ipv4() { 32 } else { 128 };
            let federation = syn(side.stranger, side.me, FEDERATION_PORT);
            let other = syn(side.stranger, side.me, 81);
            // A domain's address in a prefix that is blocked altogether: each port its reason.
            bench.change(|tables| {
                block(tables, side.stranger, host - 8, FOREVER);
                block(tables, side.stranger, host, DOMAIN);
            });
            again_and_again(&mut bench, &other, Reason::BlockedAddress);
            again_and_again(&mut bench, &federation, Reason::BlockedDomain);
            again_and_again(&mut bench, &other, Reason::BlockedAddress);
            // The prefix alone.
            let exact = |tables: &mut MemoryTables| {
                tables.blocked4.clear();
                tables.blocked6.clear();
            };
            bench.change(exact);
            again_and_again(&mut bench, &federation, Reason::BlockedAddress);
            // Remembered or not, it ends when its time has come.
            let soon = u32::try_from(now_seconds()).unwrap() + 6;
            let ends = Block { expires_at_seconds: soon, ..FOREVER };
            bench.change(|tables| block(tables, side.stranger, host - 8, ends));
            again_and_again(&mut bench, &federation, Reason::BlockedAddress);
            while now_seconds() <= u64::from(soon) {
                std::thread::sleep(Duration::from_millis(50));
            }
            again_and_again(&mut bench, &federation, Reason::Rule);
        }
    });
}

#[test]
fn a_change_of_the_tables_ends_what_was_remembered() {
    in_namespace(|| {
        stay_on_one_cpu();
        let mut bench = Bench::new();
        for side in sides() {
            let packet = syn(side.blocked, side.me, FEDERATION_PORT);
            again_and_again(&mut bench, &packet, Reason::BlockedAddress);
            let kept = bench.tables.clone();
            bench.change(|tables| {
                tables.blocked4.clear();
                tables.blocked6.clear();
            });
            // The neighbourhood is still marked, so this too is remembered, and ended below.
            again_and_again(&mut bench, &packet, Reason::Rule);
            bench.change(|tables| *tables = kept.clone());
            again_and_again(&mut bench, &packet, Reason::BlockedAddress);
            // While the tables are being written nothing is remembered, and nothing is asked
            // that was.
            bench.change(|tables| *tables = kept.clone());
            let settings = bench.tables.settings;
            assert_eq!(settings.block_epoch, 0);
            bench.kernel.set_settings(settings).unwrap();
            again_and_again(&mut bench, &packet, Reason::BlockedAddress);
            bench.kernel.forget_block(side.blocked).unwrap();
            bench.kernel_says(&packet, Reason::Rule);
            bench.change(|tables| *tables = kept);
        }
    });
}
