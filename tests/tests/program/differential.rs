//! The same packets against the same tables, in the kernel and on the host: never two answers.

use std::net::IpAddr;

use edge_ebpf::{
    abi::{
        Block, Interface, RULE_DESTINATION4, RULE_DESTINATION6, Rule, SET_ANY, SETTING_DHCP_CLIENT,
        SETTING_LACP, SETTING_LLDP, SetMask, VlanKey, open_word, port_index, protocol_index, word,
        word4, words6,
    },
    decide::MemoryTables,
    verdict::Reason,
};
use edge_tests::{
    kernel::TEST_IFINDEX,
    model::differential as model,
    packets::*,
    patience::{emulated, left_out},
};

use crate::fixture::*;

/// A small generator (SplitMix64): the same run for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = self.below(from.len() as u64);
        from[usize::try_from(index).unwrap()]
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

const PORTS: [u16; 6] = [22, 53, 68, 443, 5061, 546];
const PROTOCOLS: [u8; 8] = [1, 6, 6, 6, 17, 17, 58, 47];

fn any_address(random: &mut Random, four: bool) -> IpAddr {
    let low = random.below(4) as u8;
    if four {
        IpAddr::from([198, 18, random.below(3) as u8, low])
    } else {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        address[5] = random.below(3) as u8;
        address[15] = low;
        IpAddr::from(address)
    }
}

/// The rule itself names the address, whether or not its set has it: the kernel and the host
/// must read it alike.
fn name_one(rule: &mut Rule, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            rule.flags |= RULE_DESTINATION4;
            rule.destination4 = word4(address.octets());
        }
        IpAddr::V6(address) => {
            rule.flags |= RULE_DESTINATION6;
            rule.destination6 = words6(address.octets());
        }
    }
}

fn any_tables(random: &mut Random) -> MemoryTables {
    let mut tables = tables();
    tables.settings.flags |=
        random.pick(&[0, SETTING_LLDP, SETTING_LACP, SETTING_DHCP_CLIENT, SETTING_LLDP]);
    let zone = random.below(2) as u8;
    let interface =
        Interface { zone_plus_one: zone + 1, trunk: random.below(2) as u8, slot: 0, reserved: 0 };
    tables.interfaces.insert(TEST_IFINDEX, interface);
    for outer in 1..3 {
        let key = VlanKey { ifindex: TEST_IFINDEX, outer, inner: random.below(2) as u16 };
        tables.vlans.insert(key, Interface { trunk: 0, ..interface });
    }
    let generation = &mut tables.generations[1];
    generation.rules = (0..40)
        .map(|id| Rule {
            id,
            source_set: random.pick(&[SET_ANY, 0, 1, 2, 33]),
            destination_set: random.pick(&[SET_ANY, SET_ANY, 3, 63]),
            action: random.pick(&[0, 0, 0, 1]),
            ..Rule::default()
        })
        .collect();
    for zone in 0..2 {
        for _ in 0..12 {
            let flags = (random.below(4) as u32) << 30;
            let some = word(random.below(30) as u32, random.below(8) as u32, flags);
            let open = open_word(random.below(30) as u32, flags);
            let some = random.pick(&[some, some, open]);
            let udp = random.below(2) == 0;
            generation.port_words.insert(port_index(zone, udp, random.pick(&PORTS)), some);
        }
        for protocol in [1, 47, 58] {
            let some = word(random.below(30) as u32, random.below(4) as u32, 0);
            generation.protocol_words.insert(protocol_index(zone, protocol), some);
        }
    }
    for _ in 0..12 {
        let four = random.below(2) == 0;
        let mask = SetMask { low: random.next() as u32 & 7, high: random.next() as u32 & 2 };
        match any_address(random, four) {
            IpAddr::V4(address) => {
                let length = 16 + random.below(17) as u8;
                generation.sources4.insert(address.octets(), length, mask);
            }
            IpAddr::V6(address) => {
                let length = 32 + random.below(97) as u8;
                generation.sources6.insert(address.octets(), length, mask);
            }
        }
        let own = SetMask { low: 8, high: random.pick(&[0, 1 << 31]) };
        generation.destinations.insert(sixteen(any_address(random, four)), own);
    }
    for rule in &mut generation.rules {
        let four = random.below(2) == 0;
        name_one(rule, any_address(random, four));
    }
    let now = u32::try_from(now_seconds()).unwrap();
    for _ in 0..6 {
        let four = random.below(2) == 0;
        let entry = Block {
            scope: random.below(2) as u8,
            reason: random.pick(&[Reason::BlockedAddress as u8, Reason::BlockedDomain as u8, 99]),
            owners: 1,
            expires_at_seconds: random.pick(&[0, now.saturating_sub(100).max(1), now + 10_000]),
            from_version: 0,
            until_version: 0,
        };
        let (fewest, most) = if four { (20, 32) } else { (30, 128) };
        let length = fewest + random.below(u64::from(most - fewest) + 1) as u8;
        let length = random.pick(&[length, most]);
        block(&mut tables, any_address(random, four), length, entry);
    }
    tables
}

fn any_frame(random: &mut Random) -> Vec<u8> {
    let four = random.below(2) == 0;
    let (source, destination) = (any_address(random, four), any_address(random, four));
    let protocol = random.pick(&PROTOCOLS);
    let (from, to) = (random.pick(&PORTS), random.pick(&PORTS));
    let mut payload = match protocol {
        6 => tcp(from, to, random.pick(&[SYN, ACK, SYN_ACK, 0x04, 0x11, 0, 3])),
        17 => udp(from, to, &[0; 20]),
        1 | 58 => {
            let kind = random.pick(&[0, 1, 2, 3, 8, 11, 12, 128, 129, 130, 133, 135, 137]);
            let quoted = ip(destination, source, 17, &udp(to, from, &[]));
            icmp(kind, 9, &quoted)
        }
        _ => vec![0; 12],
    };
    let mut next = protocol;
    if !four {
        for _ in 0..random.pick(&[0, 0, 0, 1, 2, 6]) {
            let rest = [random.pick(&[0, 2, 4]), random.pick(&[0, 0, 1, 8]), 0, 0, 0, 0];
            payload = extension(next, rest, &payload);
            next = random.pick(&[0, 43, 44, 60, 60, 135]);
        }
    }
    let packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let fragment = random.pick(&[0, 0, 0, 0x2000, 0x0001]);
            let options = vec![1; random.pick(&[0, 0, 4, 40])];
            ipv4(source, destination, next, fragment, &options, &payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ipv6(source, destination, next, random.pick(&[1, 64, 255]), &payload)
        }
        _ => vec![],
    };
    let tag =
        |random: &mut Random| (random.pick(&[0x8100, 0x88a8, 0x9100]), random.below(4) as u16);
    let tags: Vec<(u16, u16)> =
        (0..random.pick(&[0, 0, 0, 1, 2, 3])).map(|_| tag(random)).collect();
    let kind = if four { 0x0800 } else { 0x86dd };
    let kind = random.pick(&[kind, kind, kind, kind, kind, 0x0806, 0x88cc, 0x8809, 0x1234]);
    let mut frame = ethernet(&tags, kind, &packet);
    // Damage some: a byte here and there, or the end cut off.
    if random.below(4) == 0 {
        let at = usize::try_from(random.below(frame.len() as u64)).unwrap();
        frame[at] = random.byte();
    }
    if random.below(8) == 0 {
        let length = 14 + usize::try_from(random.below(frame.len() as u64 - 13)).unwrap();
        frame.truncate(length);
    }
    frame
}

fn say_what_is_left_out() {
    if emulated() {
        left_out("five of six random packets: each costs an emulated processor milliseconds");
    }
}

#[test]
fn the_kernel_and_the_host_decide_alike() {
    let rounds = if emulated() { 8 } else { 40 };
    say_what_is_left_out();
    in_namespace(move || {
        let mut bench = Bench::new();
        let seed = u64::from(std::process::id());
        let mut random = Random(seed);
        let mut reached = std::collections::BTreeMap::<Reason, u32>::new();
        for round in 0..rounds {
            let tables = any_tables(&mut random);
            bench.change(|old| *old = tables);
            for _ in 0..250 {
                let frame = any_frame(&mut random);
                let expected = bench.on_host(&frame);
                let (verdict, reason) = bench.kernel.judge(&frame).unwrap();
                let told = format!("seed {seed}, round {round}, frame {frame:02x?}");
                assert_eq!((verdict, reason), (expected.verdict, expected.reason), "{told}");
                *reached.entry(reason).or_default() += 1;
            }
        }
        // The packets are not all of one kind.
        assert!(reached.len() >= 20, "{reached:?}");
    });
}

#[test]
fn the_kernel_and_the_plain_model_decide_alike() {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    // A failure names the seed of its world.
    let seed = u64::from(time.subsec_nanos());
    let (pairs, kinds) = if emulated() { (4_000, 20) } else { (24_000, 30) };
    say_what_is_left_out();
    let done = match model::run(seed, model::Until::Pairs(pairs)) {
        Ok(done) => done,
        Err(fault) => panic!("{fault:#}"),
    };
    assert!(done.pairs >= pairs);
    // The packets are not all of one kind.
    assert!(done.reasons.len() >= kinds, "{:?}", done.reasons);
}
