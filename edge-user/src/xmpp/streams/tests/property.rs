//! Two ends, wires that mix and cut bytes by chance, cables that are pulled: each stanza arrives
//! once and in order, or is told not to have arrived.

use std::{collections::HashSet, time::Duration};

use proptest::prelude::*;

use super::{
    lone::{AUTH, Lone, answer, features, header, stanza},
    world::{World, good, partner, settings},
};
use crate::xmpp::{io::XmppInput, streams::Certificate};

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

/// Pieces of the protocol, in place and out of place.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(header("b.example", "a.example")),
        Just(header("c.example", "a.example")),
        Just(answer("i")),
        Just(AUTH.to_owned()),
        Just(stanza("v@b.example", "u@a.example")),
        Just(stanza("v@c.example", "u@a.example")),
        Just(features("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")),
        Just(features(
            "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism>\
             </mechanisms><bidi xmlns='urn:xmpp:features:bidi'/><sm xmlns='urn:xmpp:sm:3'/>"
        )),
        "<(starttls|proceed|failure) xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        "<(success|failure|abort) xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
        "<(enable|enabled|failed|r|resume) xmlns='urn:xmpp:sm:3'/>",
        "<a xmlns='urn:xmpp:sm:3' h='[0-9]{0,10}'/>",
        "<bidi xmlns='urn:xmpp:(features:)?bidi'/>",
        "<db:(result|verify) from='[bc].example' to='a.example' id='i'( type='(valid|invalid|error)')?>k</db:(result|verify)>",
        Just("</stream:stream>".to_owned()),
        "[ -~]{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Whatever others write, in whatever order: no panic, and nothing is delivered for a domain that
    /// nobody proved. No answer about a key comes from where it was asked, and no certificate names
    /// `c.example`.
    #[test]
    fn whatever_is_written_nothing_unproved_is_delivered(
        script in prop::collection::vec((0..4_u8, piece(), 0..90_u64), 1..30),
        certificate in any::<bool>(),
    ) {
        let mut end = Lone::new();
        let tls = || good(&[if certificate { "b.example" } else { "x.example" }]);
        let ours = crate::xmpp::io::XmppSide::Partner;
        let stanza = super::world::message("u@a.example", "v@b.example", "x");
        let pair = super::world::pair("a.example", "b.example");
        end.give(XmppInput::Send { pair, side: ours, stanza });
        let streams = [end.accept(None), end.accept(Some(tls())), end.connect(Some(tls())), end.accept(None)];
        for (which, text, seconds) in script {
            let stream = streams[usize::from(which)];
            if end.closed.contains(&stream) {
                continue;
            }
            end.write(stream, &text);
            for (stream, _) in std::mem::take(&mut end.handshakes) {
                end.give(XmppInput::TlsDone { stream, tls: tls() });
            }
            if seconds > 80 {
                end.pass(Duration::from_secs(seconds - 80));
            }
        }
        for (pair, _, _) in &end.delivered {
            prop_assert_eq!(pair.remote.as_str(), "b.example");
            prop_assert!(certificate);
        }
    }
}
