//! What partners that nobody vouches for send to servers inside is held against them where what they
//! send to SIP users is.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{
    lone::{Lone, stanza},
    relay::{between, from, to},
    world::{UNIX, partner},
};
use crate::{
    config::ThrottleSettings,
    federation::{CertificateNames, Ruling, Standing, Throttle, Time},
    xmpp::{
        io::{XmppNames, XmppRefusal, XmppSide},
        settings::{XmppPartner, XmppPartnerKind},
        watch::{WatchList, Watched},
    },
};

/// The record, as the proxy keeps it.
#[derive(Clone, Default)]
struct List(Arc<Mutex<Throttle>>);

impl List {
    fn standing(&self, now: Instant) -> Option<(Option<ipnet::IpNet>, Standing)> {
        let list = self.0.lock().unwrap();
        let report = list.report(now, &ThrottleSettings::default(), None);
        report.first().map(|report| (report.source, report.standing))
    }
}

fn time(now: Instant) -> Time {
    Time { now, unix: UNIX }
}

impl WatchList for List {
    fn comes(&mut self, now: Instant, what: Watched<'_>, names: Option<Arc<XmppNames>>) -> Ruling {
        let names = names.map_or_else(CertificateNames::default, |n| n.certificate.clone());
        let settings = ThrottleSettings::default();
        let mut list = self.0.lock().unwrap();
        list.request(time(now), &settings, what.sender, &names, Some(what.user)).0
    }

    fn failed(&mut self, now: Instant, what: Watched<'_>, status: u16) {
        let settings = ThrottleSettings::default();
        let (sender, user) = (what.sender, Some(what.user));
        self.0.lock().unwrap().outcome(time(now), &settings, sender, what.kind, user, status);
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn end(kind: XmppPartnerKind, source: &str) -> (Lone, List) {
    let list = List::default();
    let settings = between(XmppPartner { kind, keep_alive: false, ..partner("b.example") });
    let mut end = Lone::watched(settings, Box::new(list.clone()));
    end.comes_from = source.parse::<IpAddr>().unwrap();
    (end, list)
}

#[test]
fn what_goes_to_servers_inside_is_watched_too() {
    for (kind, source, prefix) in [
        (XmppPartnerKind::Federated, "192.0.2.50", None),
        (XmppPartnerKind::PublicVerified, "192.0.2.50", Some("192.0.2.50/32")),
        (XmppPartnerKind::PublicVerified, "2001:db8:1:2:3::4", Some("2001:db8:1:2::/64")),
    ] {
        let (mut end, list) = end(kind, source);
        let outside = from(&mut end, XmppSide::Partner);
        end.write(
            outside,
            &stanza("v@b.example", "u@in.example").replace(" to", " type='error' to"),
        );
        to(&mut end, XmppSide::Inside);
        // What our own users asked for, and answers, are no bother.
        for n in 0..100 {
            for text in [
                format!("<presence from='v@b.example/r' to='u{n}@in.example'/>"),
                format!("<iq type='result' id='1' from='v@b.example' to='u{n}@in.example'/>"),
                stanza("v@b.example", "u@in.example").replace(" to", " type='error' to"),
            ] {
                end.write(outside, &text);
            }
        }
        assert!(end.refused.is_empty() && list.standing(end.now).is_none(), "{kind:?}");
        for n in 0..60 {
            let to = format!("u{n}@in.example");
            let text = match n % 3 {
                0 => stanza("v@b.example", &to),
                1 => format!("<presence type='subscribe' from='v@b.example' to='{to}'/>"),
                _ => format!("<iq type='get' id='1' from='v@b.example' to='{to}'/>"),
            };
            end.write(outside, &text);
        }
        let Some(prefix) = prefix else {
            assert!(end.refused.is_empty() && list.standing(end.now).is_none());
            continue;
        };
        assert_eq!(end.refused.len(), 40);
        assert!(end.refused.iter().all(|(reason, _)| *reason == XmppRefusal::Throttled));
        let (_, said) = to(&mut end, XmppSide::Partner);
        assert_eq!(said.matches("<resource-constraint").count(), 40, "{said}");
        assert!(said.contains("type='wait'") && !said.contains("<text"), "{said}");
        // A second later it goes on, until it has written to too many.
        end.refused.clear();
        for n in 0..981 {
            end.pass(SECOND);
            end.write(outside, &stanza("v@b.example", &format!("w{n}@in.example")));
            assert_eq!(end.refused.is_empty(), n < 980, "{n}: {:?}", end.refused);
        }
        assert_eq!(end.last_refusal(), Some(XmppRefusal::WatchListed));
        // The stream of before has been idle for long.
        let (back, said) = to(&mut end, XmppSide::Partner);
        assert!(said.contains("<policy-violation"), "{said}");
        let listed = Some((Some(prefix.parse().unwrap()), Standing::Listed));
        assert_eq!(list.standing(end.now), listed);
        // Its other streams are no way round, nor is another spelling; a user of ours still writes.
        let other = from(&mut end, XmppSide::Partner);
        end.write(other, &stanza("x@b.example", "W1@in.example"));
        assert_eq!(end.last_refusal(), Some(XmppRefusal::WatchListed));
        assert!(!end.closed.contains(&outside) && !end.closed.contains(&other));
        end.refused.clear();
        let inside = from(&mut end, XmppSide::Inside);
        end.write(inside, &stanza("u@in.example/r", "v@b.example"));
        assert!(end.read(back).contains("<body>") && end.refused.is_empty());
    }
}

/// Refusals of ours and of servers inside make it suspicious, as a SIP partner's do.
#[test]
fn a_partner_whose_stanzas_fail_is_slowed_down() {
    for answered_inside in [false, true] {
        let (mut end, list) = end(XmppPartnerKind::PublicVerified, "192.0.2.50");
        let outside = from(&mut end, XmppSide::Partner);
        let inside = from(&mut end, XmppSide::Inside);
        for _ in 0..200 {
            end.pass(SECOND);
            let user = if answered_inside { "gone@in.example" } else { "mute@in.example" };
            end.write(outside, &stanza("v@b.example", user));
            if answered_inside {
                let error = "<message type='error' from='gone@in.example' to='v@b.example'><error \
                    type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
                    </error></message>";
                end.write(inside, error);
            }
        }
        let standing = list.standing(end.now).unwrap().1;
        assert!(standing >= Standing::Suspicious, "{answered_inside}: {standing:?}");
    }
    // Who is not let write is none of the partner's faults.
    let (mut end, list) = end(XmppPartnerKind::PublicVerified, "192.0.2.50");
    let outside = from(&mut end, XmppSide::Partner);
    end.write(outside, &stanza("v@b.example", "u@in.example"));
    let inside = from(&mut end, XmppSide::Inside);
    for _ in 0..200 {
        end.pass(SECOND);
        end.write(inside, &stanza("mute@in.example", "v@b.example"));
    }
    assert_eq!(list.standing(end.now).unwrap().1, Standing::Standard);
}
