//! A shadow counts what its rules would have done otherwise, and changes nothing.

use edge_tests::wire::{PEER4, PEER6, Wire};
use edge_user::firewall::{Intent, ShadowRow, inspect, shadow_status};

use super::{
    faults::{BOTH, NEW, OLD, new, old},
    passes, start,
};

fn rows(wire: &Wire) -> Vec<(&'static str, &'static str, u64)> {
    let row = |row: &ShadowRow| (row.would, row.reason, row.packets);
    shadow_status(&wire.pins).unwrap().rows.iter().map(row).collect()
}

#[test]
fn a_shadow_counts_by_reason_what_it_would_do_otherwise_and_judges_nothing() {
    let wire = Wire::new("ash").unwrap();
    let (handle, _) = start(&wire, wire.config_with(old)).unwrap();
    assert!(!shadow_status(&wire.pins).unwrap().counting);
    assert!(passes(&wire, OLD) && !passes(&wire, NEW) && passes(&wire, BOTH));
    assert_eq!(rows(&wire), [], "nobody counts yet");

    handle.apply_blocking(vec![Intent::SetShadow(wire.config_with(new))]).unwrap();
    assert!(shadow_status(&wire.pins).unwrap().counting);
    // One datagram of each family to each port.
    assert!(passes(&wire, OLD) && !passes(&wire, NEW) && passes(&wire, BOTH));
    assert_eq!(rows(&wire), [("drop", "no-rule", 2), ("pass", "no-rule", 2)]);
    assert!(passes(&wire, BOTH));
    assert_eq!(rows(&wire), [("drop", "no-rule", 2), ("pass", "no-rule", 2)]);
    let rules = inspect::rules(&wire.pins, &wire.state).unwrap();
    assert!(!rules.iter().any(|row| row.rule.name == format!("port-{NEW}")), "not in force");

    // The same rules again: from zero, and no packet would be judged otherwise.
    handle.apply_blocking(vec![Intent::SetShadow(wire.config_with(old))]).unwrap();
    assert!(passes(&wire, OLD) && !passes(&wire, NEW));
    assert_eq!(rows(&wire), []);

    handle.apply_blocking(vec![Intent::SetShadow(wire.config_with(new))]).unwrap();
    assert!(passes(&wire, OLD));
    handle.apply_blocking(vec![Intent::StopShadow]).unwrap();
    assert!(!shadow_status(&wire.pins).unwrap().counting);
    assert!(passes(&wire, OLD));
    assert_eq!(rows(&wire), [("drop", "no-rule", 2)], "what it counted can still be read");

    // A configuration that is put in force ends it, and so does another daemon.
    handle.apply_blocking(vec![Intent::SetShadow(wire.config_with(new))]).unwrap();
    handle.apply_blocking(vec![Intent::SetConfig(wire.config_with(old))]).unwrap();
    assert!(!shadow_status(&wire.pins).unwrap().counting);
    handle.apply_blocking(vec![Intent::SetShadow(wire.config_with(new))]).unwrap();
    drop(handle);
    wire.wait_lock_free();
    assert!(shadow_status(&wire.pins).unwrap().counting, "it goes on without a daemon");
    let (_handle, _) = start(&wire, wire.config_with(old)).unwrap();
    assert!(!shadow_status(&wire.pins).unwrap().counting);
    assert!(passes(&wire, OLD) && !passes(&wire, NEW) && passes(&wire, BOTH));
}

#[test]
fn a_shadow_follows_the_partners_whoever_is_in_force() {
    let wire = Wire::new("asp").unwrap();
    let (handle, _) = start(&wire, wire.config_with(old)).unwrap();
    let shadow = wire.config_with(|config| {
        old(config);
        for rule in &mut config.firewall.rules {
            rule.from.partners = true;
        }
    });
    handle.apply_blocking(vec![Intent::SetShadow(shadow)]).unwrap();
    assert!(passes(&wire, OLD));
    assert_eq!(rows(&wire), [("drop", "not-partner", 2)], "no partner yet");
    let partners = |all: &[std::net::IpAddr]| {
        vec![Intent::SetPartners(all.iter().copied().map(ipnet::IpNet::from).collect())]
    };
    handle.apply_blocking(partners(&[PEER4.into(), PEER6.into()])).unwrap();
    assert!(passes(&wire, OLD));
    assert_eq!(rows(&wire), [("drop", "not-partner", 2)], "they are partners now");
    handle.apply_blocking(partners(&[PEER4.into()])).unwrap();
    assert!(passes(&wire, OLD));
    assert_eq!(rows(&wire), [("drop", "not-partner", 3)], "one of them moved");
}
