use super::*;
use crate::abi::{
    ACTION_DROP, ACTION_PASS, Block, FLOW_SECONDS, FlowKey, Interface, PinholeKey,
    RULE_DESTINATION4, RULE_DESTINATION6, Rule, SCOPE_ALL, SET_ANY, SETTING_CEILING, SETTING_FLOOD,
    SetMask, ZONE_EXTERNAL, ZONE_INTERNAL, mapped, media_port_index, open_word, word, word4,
};

const ME: [u8; 4] = [192, 0, 2, 1];
const STRANGER: [u8; 4] = [203, 0, 113, 9];

fn frame(from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    let total = u16::try_from(20 + payload.len()).unwrap();
    frame.extend_from_slice(&total.to_be_bytes());
    frame.extend_from_slice(&[0, 1, 0, 0, 64, protocol, 0, 0]);
    frame.extend_from_slice(&from);
    frame.extend_from_slice(&to);
    frame.extend_from_slice(payload);
    frame
}

fn frame6(from: [u8; 16], to: [u8; 16], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([protocol, 64]);
    bytes.extend(from);
    bytes.extend(to);
    bytes.extend(payload);
    bytes
}

fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    vec![a, b, c, d, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]
}

fn rule(id: u32, source_set: u8, destination_set: u8, action: u8) -> Rule {
    Rule { id, source_set, destination_set, action, ..Rule::default() }
}

fn tables(rules: &[Rule]) -> MemoryTables {
    let mut tables = MemoryTables { now_seconds: 1000, ..MemoryTables::default() };
    tables.settings.schema = SCHEMA;
    tables.settings.shadow = NO_GENERATION;
    let interface = |zone| Interface { zone_plus_one: zone + 1, trunk: 0, slot: 0, reserved: 0 };
    tables.interfaces.insert(2, interface(ZONE_EXTERNAL));
    tables.interfaces.insert(3, interface(ZONE_INTERNAL));
    let generation = &mut tables.generations[0];
    generation.rules = rules.to_vec();
    let count = u32::try_from(rules.len()).unwrap();
    generation.port_words.insert(port_index(ZONE_EXTERNAL, false, 443), word(0, count, 0));
    generation.sources4.insert([203, 0, 0, 0], 8, SetMask::default().with(4));
    generation.sources4.insert([203, 0, 113, 0], 24, SetMask::default().with(5));
    generation.destinations.insert(mapped(ME), SetMask::default().with(33));
    tables
}

fn outcome(tables: &MemoryTables, ifindex: u32, bytes: &[u8]) -> (Reason, u32) {
    let decision = judge(tables, &tables.settings, &Frame::new(bytes), &bytes, ifindex);
    (decision.reason, decision.rule)
}

#[test]
fn the_first_rule_that_fits_decides_and_none_says_how_near_it_came() {
    let (pass, drop) = (ACTION_PASS, ACTION_DROP);
    let any = SET_ANY;
    let table: [(&[Rule], (Reason, u32)); 10] = [
        (&[], (Reason::NoRule, NO_RULE)),
        (&[rule(1, any, any, pass)], (Reason::Rule, 1)),
        (&[rule(1, any, any, drop), rule(2, any, any, pass)], (Reason::RuleDrop, 1)),
        (&[rule(1, 5, any, pass), rule(2, any, any, drop)], (Reason::Rule, 1)),
        (&[rule(1, 6, any, pass), rule(2, any, any, drop)], (Reason::RuleDrop, 2)),
        (&[rule(1, 6, any, pass)], (Reason::SourceNotAllowed, NO_RULE)),
        (&[rule(1, any, 34, pass)], (Reason::DestinationNotAllowed, NO_RULE)),
        (&[rule(1, any, 34, pass), rule(2, 6, 33, pass)], (Reason::SourceNotAllowed, NO_RULE)),
        (&[rule(1, 5, 33, pass)], (Reason::Rule, 1)),
        // The longest prefix has the say: it is in set 5 only.
        (&[rule(1, 4, any, pass)], (Reason::SourceNotAllowed, NO_RULE)),
    ];
    for (number, (rules, expected)) in table.into_iter().enumerate() {
        let syn = frame(STRANGER, ME, 6, &tcp(1, 443, 2));
        assert_eq!(outcome(&tables(rules), 2, &syn), expected, "row {number}");
    }
}

#[test]
fn an_address_that_a_rule_names_is_in_its_set_and_no_other_is_let_in_by_it() {
    let other = [192, 0, 2, 2];
    let named = |flags, address| Rule {
        flags,
        destination4: word4(address),
        // The same number in the other family's place says nothing.
        destination6: [0, u64::from(word4(address)) << 32],
        ..rule(1, SET_ANY, 34, ACTION_PASS)
    };
    let table = [
        (named(RULE_DESTINATION4, ME), ME, Reason::Rule),
        (named(RULE_DESTINATION4, ME), other, Reason::DestinationNotAllowed),
        (named(RULE_DESTINATION6, ME), ME, Reason::DestinationNotAllowed),
        (named(0, ME), ME, Reason::DestinationNotAllowed),
        // Without the flag, even zeroes are no address.
        (named(0, [0; 4]), [0; 4], Reason::DestinationNotAllowed),
        // Addresses that are not named are still asked of the set.
        (Rule { destination_set: 33, ..named(RULE_DESTINATION4, other) }, ME, Reason::Rule),
        // A named address lets in no source that the rule does not.
        (Rule { source_set: 6, ..named(RULE_DESTINATION4, ME) }, ME, Reason::SourceNotAllowed),
    ];
    for (number, (rule, to, reason)) in table.into_iter().enumerate() {
        let syn = frame(STRANGER, to, 6, &tcp(1, 443, 2));
        assert_eq!(outcome(&tables(&[rule]), 2, &syn).0, reason, "row {number}");
    }
}

#[test]
fn a_rule_of_one_zone_says_nothing_in_another() {
    let tables = tables(&[rule(1, SET_ANY, SET_ANY, ACTION_PASS)]);
    let syn = frame(STRANGER, ME, 6, &tcp(1, 443, 2));
    assert_eq!(outcome(&tables, 2, &syn).0, Reason::Rule);
    assert_eq!(outcome(&tables, 3, &syn).0, Reason::NoRule);
    assert_eq!(outcome(&tables, 4, &syn).0, Reason::InterfaceUnknown);
}

#[test]
fn settings_of_another_schema_are_no_rule_set() {
    let mut tables = tables(&[rule(1, SET_ANY, SET_ANY, ACTION_PASS)]);
    let syn = frame(STRANGER, ME, 6, &tcp(1, 443, 2));
    for (schema, generation) in [(0, 0), (SCHEMA + 1, 0), (SCHEMA, NO_GENERATION), (SCHEMA, 7)] {
        (tables.settings.schema, tables.settings.generation) = (schema, generation);
        assert_eq!(outcome(&tables, 2, &syn).0, Reason::NoRuleSet);
    }
}

#[test]
fn a_bare_syn_is_never_a_reply() {
    let mut tables = tables(&[]);
    let key = Tuple::new(STRANGER, 5061, ME, 40_000).flow(6);
    tables.add_socket(&key);
    for (flags, reason) in [(0x10, Reason::ReplyTcp), (0x12, Reason::ReplyTcp), (2, Reason::NoRule)]
    {
        let segment = frame(STRANGER, ME, 6, &tcp(5061, 40_000, flags));
        assert_eq!(outcome(&tables, 2, &segment).0, reason, "flags {flags:#x}");
    }
}

#[test]
fn a_flow_is_remembered_for_a_minute() {
    let mut tables = tables(&[]);
    let key = Tuple::new(STRANGER, 53, ME, 700).flow(17);
    let answer = frame(STRANGER, ME, 17, &[0, 53, 2, 188, 0, 8, 0, 0]);
    let rows = [
        (1000, Reason::ReplyRemembered),
        (1001, Reason::ReplyRemembered),
        (1000 - FLOW_SECONDS, Reason::ReplyRemembered),
        (999 - FLOW_SECONDS, Reason::NoRule),
    ];
    for (left_at, reason) in rows {
        tables.flows.insert(key, left_at);
        assert_eq!(outcome(&tables, 2, &answer).0, reason, "left at {left_at}");
    }
    assert!(refresh_flow(None, 5) && refresh_flow(Some(3), 5) && !refresh_flow(Some(4), 5));
}

#[test]
fn an_outgoing_packet_names_the_flow_that_its_answer_will_have() {
    let query = frame(ME, STRANGER, 17, &[2, 188, 0, 53, 0, 8, 0, 0]);
    let key = flow_begun(&Frame::new(&query), &&query[..]);
    let expected = FlowKey {
        local: mapped(ME),
        remote: mapped(STRANGER),
        local_port: 700_u16.to_be_bytes(),
        remote_port: 53_u16.to_be_bytes(),
        protocol: 17,
        reserved: [0; 3],
    };
    assert_eq!(key, Some(expected));
    let syn = frame(ME, STRANGER, 6, &tcp(1, 443, 2));
    assert_eq!(flow_begun(&Frame::new(&syn), &&syn[..]), None);
    // An answer that leaves begins nothing.
    let reply = frame(ME, STRANGER, 1, &[0, 0, 0, 0, 0, 9, 0, 1]);
    assert_eq!(flow_begun(&Frame::new(&reply), &&reply[..]), None);
}

#[test]
fn a_block_counts_as_the_domains_only_when_it_says_so() {
    let mut tables = tables(&[rule(1, SET_ANY, SET_ANY, ACTION_PASS)]);
    let syn = frame(STRANGER, ME, 6, &tcp(1, 443, 2));
    for (number, reason) in
        [(33, Reason::BlockedDomain), (32, Reason::BlockedAddress), (7, Reason::BlockedAddress)]
    {
        let block = Block::new(SCOPE_ALL, number, 1, 0);
        tables.block4(STRANGER, 32, block);
        assert_eq!(outcome(&tables, 2, &syn), (reason, NO_RULE));
    }
}

#[test]
fn short_prefixes_reach_every_bit_of_the_presence_bitmap() {
    let mut tables = tables(&[]);
    let block = Block::new(SCOPE_ALL, 32, 1, 0);
    tables.block4([203, 0, 0, 0], 8, block);
    for last in [[203, 0, 0, 0], [203, 0, 113, 9], [203, 255, 255, 255]] {
        let syn = frame(last, ME, 6, &tcp(1, 443, 2));
        assert_eq!(outcome(&tables, 2, &syn).0, Reason::BlockedAddress, "{last:?}");
    }
    let syn = frame([204, 0, 0, 1], ME, 6, &tcp(1, 443, 2));
    assert_eq!(outcome(&tables, 2, &syn).0, Reason::NoRule);
}

/// A source beside a short IPv6 prefix does not pay for it: its table is not asked, so that not
/// even what stands there unmarked is found.
#[test]
fn where_ipv6_prefixes_shorter_than_48_are_is_known_without_their_table() {
    const ME6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let block = Block::new(SCOPE_ALL, 0, 1, 0);
    let at = |net: u32, last: u8| {
        let mut address = [last; 16];
        address[..4].copy_from_slice(&net.to_be_bytes());
        address
    };
    let said = |tables: &MemoryTables, source: [u8; 16]| {
        outcome(tables, 2, &frame6(source, ME6, 6, &tcp(1, 443, 2))).0
    };
    // Length, networks inside, beside.
    let table: [(u8, &[u32], &[u32]); 7] = [
        (0, &[0x2a00_0000, 0x3fff_ffff, 0x2001_0db8], &[]),
        (3, &[0x2a00_0000, 0x3fff_ffff, 0x2000_0000], &[0x4000_0000]),
        (16, &[0x2a00_0000, 0x2a00_ffff], &[0x2a01_0000, 0x29ff_ffff]),
        // The whole /16 asks for these; what lies beyond it does not.
        (19, &[0x2a00_0000, 0x2a00_1fff], &[0x2a01_0000]),
        (20, &[0x2a00_0000, 0x2a00_0fff], &[0x2a00_1000, 0x29ff_ffff, 0x2a00_ffff]),
        (29, &[0x2a00_0000, 0x2a00_0007], &[0x2a00_0008, 0x2a01_0000]),
        (32, &[0x2a00_0000], &[0x2a00_0001, 0x29ff_ffff]),
    ];
    for (length, inside, beside) in table {
        let mut tables = tables(&[]);
        tables.block6(at(0x2a00_0000, 0), length, block);
        for net in inside {
            for last in [0, 1, 0xff] {
                assert_eq!(
                    said(&tables, at(*net, last)),
                    Reason::BlockedAddress,
                    "/{length} {net:x}"
                );
            }
        }
        for net in beside {
            assert_eq!(said(&tables, at(*net, 1)), Reason::NoRule, "/{length} {net:x}");
            tables.blocked6_prefixes.insert(at(*net, 1), 127, block);
            assert_eq!(said(&tables, at(*net, 1)), Reason::NoRule, "/{length} {net:x} asks");
        }
    }
    let mut tables = tables(&[]);
    tables.block6(at(0x2a00_0000, 0), 47, block);
    let neighbour = |third: u8| {
        let mut address = at(0x2a00_0000, 0);
        address[5] = third;
        address
    };
    assert_eq!(said(&tables, neighbour(1)), Reason::BlockedAddress);
    assert_eq!(said(&tables, neighbour(2)), Reason::NoRule);
}

/// Gives the decision.
struct Same;

impl Done for Same {
    type Output = Decision;

    fn done(&self, decision: &Decision) -> Decision {
        *decision
    }
}

#[test]
fn what_is_judged_at_once_is_judged_alike_at_length() {
    let mut tables = tables(&[rule(1, SET_ANY, SET_ANY, ACTION_PASS)]);
    let words = &mut tables.generations[0].port_words;
    words.insert(port_index(ZONE_EXTERNAL, true, 7000), open_word(7, 0));
    words.insert(port_index(ZONE_EXTERNAL, true, 7001), open_word(8, WORD_MANAGEMENT));
    words.insert(port_index(ZONE_EXTERNAL, false, 7000), open_word(9, 0));
    tables.block4([198, 51, 100, 0], 24, Block::new(SCOPE_ALL, 0, 1, 0));
    let flags = tables.settings.flags;
    // The two sides' answers, and whether the short way had one.
    let short = |tables: &MemoryTables, ifindex: u32, bytes: &[u8]| {
        let frame = Frame::new(bytes);
        let long = judge(tables, &tables.settings, &frame, &bytes, ifindex);
        let short = at_once(tables, &tables.settings, &frame, || ifindex, &Same);
        assert!(short.is_none_or(|short| short == long), "{short:?} {long:?}");
        short.is_some()
    };
    let datagram = |port: u16| {
        let [a, b] = port.to_be_bytes();
        [0, 80, a, b, 0, 12, 0, 0, 1, 2, 3, 4]
    };
    let to = |port| frame(STRANGER, ME, 17, &datagram(port));
    assert!(short(&tables, 2, &to(7000)), "open to everybody");
    assert!(short(&tables, 2, &frame(STRANGER, ME, 6, &tcp(80, 7000, 2))));
    assert!(short(&tables, 2, &frame(STRANGER, ME, 6, &tcp(80, 7001, 2))), "open to nobody");
    assert!(short(&tables, 2, &frame(STRANGER, ME, 6, &tcp(80, 7001, 0x12))));
    assert!(short(&tables, 3, &to(7000)), "open to nobody in this zone");
    assert!(short(&tables, 2, &to(7002)));
    let flow = Tuple::new(STRANGER, 80, ME, 7002).flow(17);
    tables.flows.insert(flow, 999);
    assert!(short(&tables, 2, &to(7002)), "an answer");
    let blocked = [198, 51, 100, 9];
    assert!(short(&tables, 2, &frame(blocked, ME, 17, &datagram(7000))), "blocked");
    assert!(short(&tables, 2, &frame(blocked, ME, 6, &tcp(80, 7000, 2))), "blocked");
    for (ifindex, bytes) in [
        (4, to(7000)),
        (2, to(7001)),
        (2, frame(STRANGER, ME, 6, &tcp(80, 443, 2))),
        (2, frame([198, 51, 100, 9], ME, 17, &datagram(7001))),
        (2, frame([0, 0, 0, 0], ME, 17, &datagram(7000))),
        (2, frame(STRANGER, ME, 17, &[0, 80, 0x1b, 0x58, 0, 13, 0, 0, 1, 2, 3, 4])),
    ] {
        assert!(!short(&tables, ifindex, &bytes), "{bytes:?} on {ifindex}");
    }
    for more in [SETTING_CEILING, SETTING_MONITOR] {
        tables.settings.flags = flags | more;
        assert!(!short(&tables, 2, &to(7000)), "{more}");
    }
    tables.settings.flags = flags | SETTING_CEILING;
    assert!(!short(&tables, 2, &to(7002)), "an answer is asked for the ceiling");
    assert!(short(&tables, 2, &to(7003)), "what is dropped is not");
    tables.settings.flags = flags | SETTING_FLOOD;
    let segment = |port, flags| frame(STRANGER, ME, 6, &tcp(80, port, flags));
    assert!(short(&tables, 2, &to(7000)), "floods are a matter of TCP");
    assert!(!short(&tables, 2, &segment(7000, 2)), "a new connection counts");
    assert!(short(&tables, 2, &segment(7000, 0x10)), "what stands is not asked");
    assert!(short(&tables, 2, &segment(7003, 2)), "what is dropped does not count");
    tables.floods.borrow_mut()[0].cookies_until = 1000;
    assert!(!short(&tables, 2, &segment(7000, 0x10)), "it may bring a cookie");
    tables.floods.borrow_mut()[0].cookies_until = 0;
    tables.settings.flags = flags | SETTING_PINHOLES;
    assert!(short(&tables, 2, &to(7000)), "no endpoint behind us");
    let key = PinholeKey {
        address: mapped(ME),
        port: 7000_u16.to_be_bytes(),
        zone: ZONE_EXTERNAL,
        reserved: 0,
    };
    tables.pinholes.insert(key, 5);
    assert!(short(&tables, 2, &to(7000)), "an endpoint behind us");
    tables.generations[0].port_words.insert(port_index(ZONE_EXTERNAL, true, 7004), WORD_MEDIA);
    tables.media_ports.insert(media_port_index(ZONE_EXTERNAL, false, 7004), 6);
    assert!(short(&tables, 2, &to(7004)), "a flow of ours");
    tables.media_ports.clear();
    assert!(short(&tables, 2, &to(7004)), "a media port without a flow");
    tables.settings.flags = flags;
    tables.settings.shadow = 2;
    assert!(!short(&tables, 2, &to(7000)), "a shadow counts every packet");
    tables.settings.shadow = NO_GENERATION;
    tables.settings.schema = SCHEMA + 1;
    assert!(!short(&tables, 2, &to(7000)));
}
