//! Every row of what two entries may say of one another, played for real and compared with the
//! oracle.

use std::time::Duration;

use super::world::{World, partner, settings};
use crate::xmpp::{
    settings::{Negotiation, XmppPartner},
    streams::{Certificate, Methods, Outcome, Settings, expected},
};

const NEGOTIATIONS: [Negotiation; 3] =
    [Negotiation::Required, Negotiation::Optional, Negotiation::NotSupported];
const CERTIFICATES: [Certificate; 3] =
    [Certificate::Missing, Certificate::Invalid, Certificate::Valid];

fn rows() -> Vec<Settings> {
    let mut rows = Vec::new();
    for tls in NEGOTIATIONS {
        for sasl in NEGOTIATIONS {
            for certificate in CERTIFICATES {
                for dialback in [true, false] {
                    rows.push(Settings { tls, certificate, sasl, dialback });
                }
            }
        }
    }
    rows
}

fn entry(name: &str, row: Settings) -> XmppPartner {
    XmppPartner { tls: row.tls, sasl: row.sasl, dialback: row.dialback, ..partner(name) }
}

/// What really happens when `local` sends a stanza to `remote`, and the words of both.
fn played(local: Settings, remote: Settings) -> (Outcome, String) {
    let mut world = World::new();
    let a = world.add(local.certificate, settings(&["a.example"], vec![entry("b.example", local)]));
    let b =
        world.add(remote.certificate, settings(&["b.example"], vec![entry("a.example", remote)]));
    world.send(a, "u@a.example", "v@b.example", "hello");
    world.pass(Duration::from_secs(100));
    let words = format!(
        "{:?} {:?} {:?}",
        world.ends[a].undelivered, world.ends[a].refused, world.ends[b].refused
    );
    if world.ends[b].bodies().is_empty() {
        assert_eq!(world.ends[a].undelivered.len(), 1, "neither delivered nor told: {words}");
        assert!(world.ends[b].delivered.is_empty());
        return (Outcome::NoConnection, words);
    }
    assert!(world.ends[a].undelivered.is_empty(), "delivered, and told that it was not: {words}");
    assert_eq!(world.ends[b].bodies(), ["hello"]);
    let status = world.ends[b].streams.status(world.now);
    let carrier = status.iter().find(|s| s.traffic.stanzas_in > 0).unwrap();
    let (_, how) = &carrier.proved[0];
    let outcome = match (how.name(), carrier.tls) {
        ("sasl-external", Some(_)) => Outcome::TlsExternal,
        ("dialback", Some(_)) => Outcome::TlsDialback,
        ("dialback", None) => Outcome::PlainDialback,
        other => panic!("{other:?}"),
    };
    (outcome, words)
}

#[test]
fn every_row_comes_out_as_foretold() {
    let mut wrong = Vec::new();
    let mut counts = [0; 4];
    for local in rows() {
        for remote in rows() {
            let (outcome, why) = expected(local, remote);
            let (really, words) = played(local, remote);
            counts[outcome as usize] += 1;
            if outcome != really {
                wrong.push(format!(
                    "{local:?}\n to {remote:?}:\n foretold {outcome:?} ({why}), was {really:?}: {words}"
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} rows, the first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(3)].join("\n")
    );
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

/// Lync's table of negotiation settings, for ends that have the same settings and good certificates.
#[test]
fn lyncs_rows_mean_what_they_say() {
    use Negotiation::{NotSupported as No, Optional as Opt, Required as Req};
    let rows: &[(Negotiation, Negotiation, bool, &[Outcome])] = &[
        (Req, Req, true, &[Outcome::TlsExternal]),
        (Req, Req, false, &[Outcome::TlsExternal]),
        (Opt, Req, true, &[Outcome::TlsExternal, Outcome::TlsDialback, Outcome::PlainDialback]),
        (Opt, Req, false, &[Outcome::TlsExternal]),
        (No, Req, true, &[Outcome::PlainDialback]),
        (No, Req, false, &[]),
        (Req, Opt, true, &[Outcome::TlsExternal, Outcome::TlsDialback]),
        (Req, Opt, false, &[Outcome::TlsExternal]),
        (Opt, Opt, true, &[Outcome::TlsExternal, Outcome::TlsDialback, Outcome::PlainDialback]),
        (Opt, Opt, false, &[Outcome::TlsExternal]),
        (No, Opt, true, &[Outcome::PlainDialback]),
        (No, Opt, false, &[]),
        (Req, No, true, &[Outcome::TlsDialback]),
        (Req, No, false, &[]),
        (Opt, No, true, &[Outcome::TlsDialback, Outcome::PlainDialback]),
        (Opt, No, false, &[]),
        (No, No, true, &[Outcome::PlainDialback]),
        (No, No, false, &[]),
    ];
    for (tls, sasl, dialback, outcomes) in rows {
        let methods = Methods::new(*tls, *sasl, *dialback);
        let ways = [
            (methods.external, Outcome::TlsExternal),
            (methods.dialback_over_tls, Outcome::TlsDialback),
            (methods.dialback_in_plain, Outcome::PlainDialback),
        ];
        let ways: Vec<_> = ways.into_iter().filter(|(on, _)| *on).map(|(_, way)| way).collect();
        assert_eq!(ways, *outcomes, "{tls:?} {sasl:?} {dialback}");
        assert_eq!(methods.is_empty(), outcomes.is_empty());
    }
}
