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
    assert!(presence6([255; 16]).0 < PRESENCE6_SLOTS);
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
