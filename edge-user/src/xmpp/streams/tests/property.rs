//! Two ends, wires that mix and cut bytes by chance, cables that are pulled: each stanza arrives
//! once and in order, or is told not to have arrived.

use std::{collections::HashSet, time::Duration};

use proptest::prelude::*;

use super::world::{World, partner, settings};
use crate::xmpp::streams::Certificate;

/// What happens next.
#[derive(Clone, Debug)]
enum Do {
    Send { from_a: bool },
    Steps(usize),
    Pass(u64),
    Cut,
}

fn anything() -> impl Strategy<Value = Do> {
    prop_oneof![
        6 => any::<bool>().prop_map(|from_a| Do::Send { from_a }),
        4 => (1..60_usize).prop_map(Do::Steps),
        1 => (0..700_u64).prop_map(Do::Pass),
        1 => Just(Do::Cut),
    ]
}

fn certificate() -> impl Strategy<Value = Certificate> {
    prop_oneof![Just(Certificate::Missing), Just(Certificate::Invalid), Just(Certificate::Valid)]
}

fn world(a: Certificate, b: Certificate, chance: u64) -> World {
    let mut world = World::new();
    world.add(a, settings(&["a.example"], vec![partner("b.example")]));
    world.add(b, settings(&["b.example"], vec![partner("a.example")]));
    world.chance = Some(chance | 1);
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn each_stanza_arrives_once_in_order_or_is_told_not_to_have(
        a in certificate(),
        b in certificate(),
        script in prop::collection::vec(anything(), 1..40),
        alone in any::<bool>(),
        chance in any::<u64>(),
    ) {
        let mut world = world(a, b, chance);
        let mut sent = [0_usize; 2];
        let cuts = script.iter().any(|what| matches!(what, Do::Cut));
        for what in script {
            match what {
                Do::Send { from_a } => {
                    let from_a = from_a || alone;
                    let end = usize::from(!from_a);
                    let (from, to) = [("u@a.example", "v@b.example"), ("v@b.example", "u@a.example")][end];
                    let number = sent[end];
                    sent[end] += 1;
                    world.send(end, from, to, &number.to_string());
                }
                Do::Steps(count) => for _ in 0..count {
                    world.step();
                },
                Do::Pass(seconds) => world.pass(Duration::from_secs(seconds)),
                Do::Cut => world.cut(),
            }
        }
        world.pass(Duration::from_secs(300));
        let opened_by_a = sent[1] == 0;
        for (end, sent) in sent.iter().enumerate() {
            let got: Vec<usize> =
                world.ends[1 - end].bodies().iter().map(|body| body.parse().unwrap()).collect();
            prop_assert!(got.windows(2).all(|two| two[0] < two[1]), "once and in order: {got:?}");
            let told: HashSet<usize> = world.ends[end]
                .undelivered
                .iter()
                .map(|(_, stanza, _, _)| stanza.children().next().unwrap().text().parse().unwrap())
                .collect();
            let missing = (0..*sent).find(|number| !got.contains(number) && !told.contains(number));
            // Without acks, what was on a cable that is pulled is lost; with them it is told.
            let silent = missing.filter(|_| !cuts);
            prop_assert_eq!(silent, None, "got {:?}, told {:?}", got, told);
            if !cuts {
                let twice = got.iter().find(|number| told.contains(number));
                prop_assert_eq!(twice, None, "delivered, and told not to be");
            }
            // What goes back on the other end's stream is counted only once that asks for it.
            let acks = a == Certificate::Valid && b == Certificate::Valid && end == 0;
            if cuts && acks && opened_by_a {
                prop_assert_eq!(missing, None, "with acks: got {:?}, told {:?}", got, told);
            }
        }
    }
}
