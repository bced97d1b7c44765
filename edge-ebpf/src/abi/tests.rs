use std::collections::BTreeSet;

use super::*;

#[test]
fn layouts_have_no_padding() {
    assert_eq!((size_of::<Settings>(), align_of::<Settings>()), (88, 8));
    assert_eq!((size_of::<Interface>(), align_of::<Interface>()), (4, 4));
    assert_eq!(size_of::<VlanKey>(), 8);
    assert_eq!((size_of::<Rule>(), align_of::<Rule>()), (32, 8));
    assert_eq!((size_of::<SetMask>(), align_of::<SetMask>()), (8, 4));
    assert_eq!((size_of::<Block>(), align_of::<Block>()), (16, 4));
    assert_eq!(size_of::<RememberedBlock<[u64; 2]>>(), 40);
    assert_eq!(size_of::<Counter>(), 16);
    assert_eq!(size_of::<ReasonCounter>(), 32);
    assert_eq!(size_of::<Event>(), 8 + 32 + 12 + 4 + 8 + 8 + EVENT_DATA);
    assert_eq!(size_of::<RuleLimits>(), 96);
    assert_eq!(size_of::<Bucket>(), 32);
    assert_eq!((size_of::<KnownKey>(), align_of::<KnownKey>()), (24, 8));
    assert_eq!((size_of::<FragmentKey>(), align_of::<FragmentKey>()), (40, 8));
    assert_eq!(size_of::<Fragment>(), 8);
    assert_eq!(size_of::<Flood>(), 16);
    assert_eq!(size_of::<Trial>(), 32);
    assert_eq!(size_of::<Handed>(), 16);
    assert_eq!((size_of::<FlowKey>(), align_of::<FlowKey>()), (40, 8));
}

#[test]
fn a_word_gives_back_what_was_put_in() {
    let word = word(4095, 32, WORD_FEDERATION);
    assert_eq!((word_first(word), word_count(word)), (4095, 32));
    assert_ne!(word & WORD_FEDERATION, 0);
    assert_eq!(word_scopes(word), SCOPE_FEDERATION);
    assert_eq!(word_scopes(WORD_REMOTE | 7), SCOPE_REMOTE);
    assert_eq!(word_scopes(WORD_MANAGEMENT | WORD_MEDIA | WORD_OPEN), 0);
    assert_eq!(word_open_rule(word), None);
    let open = open_word(MAX_RULE_IDS - 1, WORD_MANAGEMENT);
    assert_eq!((word_open_rule(open), word_count(open)), (Some(MAX_RULE_IDS - 1), 0));
    assert_ne!(open & WORD_MANAGEMENT, 0);
    assert_eq!(word & WORD_MANAGEMENT, 0);
}

#[test]
fn indices_stay_inside_their_maps() {
    assert!(port_index(ZONE_INTERNAL, true, 65_535) < PORT_WORD_SLOTS);
    assert!(protocol_index(ZONE_INTERNAL, 255) < PROTOCOL_WORD_SLOTS);
    assert!(media_port_index(ZONE_INTERNAL, true, 65_535) < MEDIA_PORT_SLOTS);
    assert!(presence4([255; 4]).0 < PRESENCE4_SLOTS);
    for byte in 0..=255 {
        for (slot, at) in [presence6([byte; 16]), presence6_again([byte; 16])] {
            assert!(slot < PRESENCE6_SLOTS && at < 64);
        }
        let (wide, short) = (presence6_wide([byte; 16]), presence6_short([byte; 16]));
        assert!(wide.0 < WIDE_SLOTS && wide.1 < 64);
        assert!((WIDE_SLOTS..PRESENCE6_SHORT_SLOTS).contains(&short.0) && short.1 < 64);
    }
    for byte in 0..=255 {
        assert!(remembered4([byte; 4]) < REMEMBERED_BLOCKS);
        assert!(
            remembered6([0, byte, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4]) < REMEMBERED_BLOCKS
        );
    }
}

#[test]
fn an_ipv4_address_has_its_mapped_form() {
    let expected = std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets();
    assert_eq!(mapped([192, 0, 2, 1]), expected);
}

#[test]
fn a_set_mask_holds_every_set() {
    for set in 0..MAX_SETS {
        let mask = SetMask::default().with(set);
        assert!((0..MAX_SETS).all(|other| mask.contains(other) == (other == set)));
    }
}

/// Source addresses of a /48, from the number that its bits are.
fn in_net48(net: u64) -> [u8; 16] {
    (u128::from(net) << 80 | 7).to_be_bytes()
}

#[test]
fn networks_of_a_40_have_cells_of_their_own_in_two_cache_lines() {
    for first in [0x2001_0db8_0000, 0x2a00_1450_4000, 0xffff_ffff_ff00_u64] {
        for cell in [presence6, presence6_again] {
            let cells: BTreeSet<(u32, u32)> =
                (0..256).map(|low| cell(in_net48(first + low))).collect();
            assert_eq!(cells.len(), 256, "{first:x}");
            let lines: BTreeSet<u32> = cells.iter().map(|(slot, _)| slot / 8).collect();
            assert_eq!(lines.len(), 1, "{first:x}");
        }
    }
}

#[test]
fn ten_thousand_networks_mark_one_other_in_a_hundred() {
    let mut words = vec![0_u64; PRESENCE6_SHORT_SLOTS as usize];
    let in_net32 = |net: u32| (u128::from(net) << 96).to_be_bytes();
    let all = 0x2a00_0000..0x2a10_0000_u32;
    // A /29 is eight /32; one in 104 of them.
    let is_listed = |net: &u32| net / 8 % 13 == 5 && net / 104 % 8 == 3;
    for net in all.clone().filter(is_listed) {
        let (slot, at) = presence6_short(in_net32(net));
        words[slot as usize] |= 1 << at;
    }
    let others = all.filter(|net| !is_listed(net));
    let (mut marked, mut count) = (0_u32, 0_u32);
    for net in others {
        let (slot, at) = presence6_short(in_net32(net));
        marked += u32::from(words[slot as usize] >> at & 1 != 0);
        count += 1;
    }
    let share = f64::from(marked) / f64::from(count);
    assert!(share < 0.01, "{share}");
}

#[test]
fn homes_of_flows_are_slots_and_those_of_one_family_and_zone_are_all_different() {
    let mut homes = std::collections::HashSet::new();
    for index in 1..MEDIA_PORT_SLOTS {
        let (slot, state) = media_home(index);
        assert!(slot < MEDIA_FLOW_SLOTS && state < MEDIA_STATE_SLOTS);
        assert!(media_home_of(slot).contains(&index));
        assert!(homes.insert((index >> 16, slot)));
    }
    // Ports of the usual range disturb no other side's, nor does RTP the RTP of any.
    let even = (0..4).flat_map(|k| (50_000..60_000).step_by(2).map(move |port| k << 16 | port));
    let all: Vec<_> = even.map(media_home).collect();
    for of in [|home: &(u32, u32)| home.0, |home: &(u32, u32)| home.1] {
        let different: std::collections::HashSet<u32> = all.iter().map(of).collect();
        assert_eq!(different.len(), all.len());
    }
}

#[test]
fn of_random_sources_beside_a_million_random_networks_one_in_eighty_is_taken_for_blocked() {
    const NETS: u64 = 1_000_000;
    let mut state = 0x1234_5678_9abc_def1_u64;
    // All networks; and the zeroth of each /40, as people number them.
    for mask in [0xffff_ffff_ffff_u64, 0xffff_ffff_ff00] {
        let mut any = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            in_net48(state & mask)
        };
        let mut words = vec![0_u64; PRESENCE6_SLOTS as usize];
        for _ in 0..NETS {
            let net = any();
            for (slot, at) in [presence6(net), presence6_again(net)] {
                words[slot as usize] |= 1 << at;
            }
        }
        let is_set = |(slot, at): (u32, u32)| words[slot as usize] >> at & 1 != 0;
        let taken = (0..NETS)
            .map(|_| any())
            .filter(|net| is_set(presence6(*net)) && is_set(presence6_again(*net)));
        let share = taken.count() as f64 / NETS as f64;
        assert!((0.01..0.015).contains(&share), "{mask:x}: {share}");
    }
}
