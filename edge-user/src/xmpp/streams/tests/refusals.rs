//! Every refusal tells the operator side, step, check, the certificate's subject where there is one,
//! and what mends it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    lone::{AUTH, Lone, header, key, send, stanza},
    relay::{between, from},
    world::{good, partner, policy, settings},
};
use crate::{
    federation::Ruling,
    xmpp::{
        io::{StreamId, TO_MEND, XmppInput, XmppNames, XmppRefusal, XmppSide},
        settings::{Negotiation, XmppPartner, XmppPartnerKind},
        watch::{WatchList, Watched},
    },
};

struct Always(Ruling);

impl WatchList for Always {
    fn comes(&mut self, _: Instant, _: Watched<'_>, _: Option<Arc<XmppNames>>) -> Ruling {
        self.0
    }

    fn failed(&mut self, _: Instant, _: Watched<'_>, _: u16) {}
}

/// What a proved stream may do wrong.
fn proved(text: &str) -> Lone {
    let mut end = Lone::new();
    let stream = end.proved();
    end.write(stream, text);
    end
}

/// An end with this entry for `b.example`, and a stream that says it is that.
fn says(entry: XmppPartner, tls: bool) -> (Lone, StreamId) {
    let mut end = Lone::with(settings(&["a.example"], vec![entry]));
    let stream = end.accept(tls.then(|| good(&["x.example"])));
    end.write(stream, &header("b.example", "a.example"));
    (end, stream)
}

fn without(blocked: &[&str], enabled: bool) -> Lone {
    let mut end = Lone::new();
    end.proved();
    let mut settings = settings(&["a.example"], vec![partner("b.example")]);
    settings.enabled = enabled;
    let mut out = Vec::new();
    end.streams.set_policy(end.now, policy(settings, blocked), &mut out);
    end.take(out);
    end
}

fn public(kind: XmppPartnerKind, ruling: Ruling, to: &str) -> Lone {
    let entry = XmppPartner { kind, ..partner("b.example") };
    let mut end = Lone::watched(between(entry), Box::new(Always(ruling)));
    let outside = from(&mut end, XmppSide::Partner);
    end.write(outside, &stanza("v@b.example", to));
    end
}

fn dialled(mut end: Lone) -> Lone {
    while let Some((dial, _)) = end.connects.pop() {
        end.give(XmppInput::ConnectFailed { dial, fault: "refused".to_owned() });
    }
    end
}

/// Has this reason come up; whether there is a certificate by then.
fn provoke(reason: XmppRefusal) -> (Lone, bool) {
    let strict = || XmppPartner {
        tls: Negotiation::Required,
        sasl: Negotiation::Required,
        ..partner("b.example")
    };
    let federated = XmppPartnerKind::Federated;
    match reason {
        XmppRefusal::Xml => (proved("<!DOCTYPE x>"), true),
        XmppRefusal::XmlLimit => {
            let deep = "<a>".repeat(40) + &"</a>".repeat(40);
            let head = "<message from='u@b.example' to='v@a.example'>";
            (proved(&format!("{head}{deep}</message>")), true)
        }
        XmppRefusal::NotAuthorized => {
            let (mut end, stream) = says(partner("b.example"), true);
            end.write(stream, &stanza("u@b.example", "v@a.example"));
            (end, true)
        }
        XmppRefusal::Slow => {
            let (mut end, _) = says(partner("b.example"), false);
            end.pass(Duration::from_secs(61));
            (end, false)
        }
        XmppRefusal::UnknownDomain => {
            let mut end = Lone::new();
            let stream = end.accept(Some(good(&["x.example"])));
            end.write(stream, &header("x.example", "a.example"));
            (end, true)
        }
        XmppRefusal::DomainBlocked => (without(&["b.example"], true), true),
        XmppRefusal::Disabled => (without(&[], false), true),
        XmppRefusal::NoTls => {
            let (mut end, stream) = says(strict(), false);
            end.write(stream, &key("b.example", "a.example", ""));
            (end, false)
        }
        XmppRefusal::TlsFailed => {
            let (mut end, stream) = says(strict(), false);
            end.write(stream, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
            let fault = Some("no cipher in common".to_owned());
            end.give(XmppInput::Closed { stream, fault });
            (end, false)
        }
        XmppRefusal::Certificate => {
            let (mut end, stream) = says(strict(), true);
            for _ in 0..3 {
                end.write(stream, AUTH);
            }
            (end, true)
        }
        XmppRefusal::Dialback => {
            let (mut end, stream) = says(partner("b.example"), true);
            end.write(stream, &key("b.example", "a.example", ""));
            (dialled(end), true)
        }
        XmppRefusal::InvalidFrom => (proved(&stanza("u@x.example", "v@a.example")), true),
        XmppRefusal::Limit => {
            let mut end = Lone::new();
            for _ in 0..21 {
                end.accept(None);
            }
            (end, false)
        }
        XmppRefusal::PeerError => {
            let (mut end, stream) = says(partner("b.example"), true);
            let error = "<host-gone xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>";
            end.write(stream, &format!("<stream:error>{error}</stream:error>"));
            (end, true)
        }
        XmppRefusal::Unreachable => {
            let mut end = Lone::new();
            send(&mut end, "a.example", "b.example");
            (dialled(end), false)
        }
        XmppRefusal::UserNoXmpp => (public(federated, Ruling::Pass, "mute@in.example"), true),
        XmppRefusal::NotInvited => {
            (public(XmppPartnerKind::PublicUnverified, Ruling::Pass, "u@in.example"), true)
        }
        XmppRefusal::Throttled => {
            (public(XmppPartnerKind::PublicVerified, Ruling::Slow, "u@in.example"), true)
        }
        XmppRefusal::WatchListed => {
            (public(XmppPartnerKind::PublicVerified, Ruling::Listed, "u@in.example"), true)
        }
        XmppRefusal::Protocol => (proved("<x xmlns='urn:x'/>"), true),
    }
}

#[test]
fn every_refusal_says_side_step_check_subject_and_mend() {
    let mut texts = BTreeMap::new();
    for &reason in XmppRefusal::ALL {
        let (end, certificate) = provoke(reason);
        let of_it = |(why, text): &(XmppRefusal, String)| (*why == reason).then(|| text.clone());
        let found = end.refused.iter().find_map(of_it);
        let text = found.unwrap_or_else(|| panic!("{reason:?} did not come up: {:?}", end.refused));
        // And every other that came up beside it.
        for (why, text) in &end.refused {
            let side = ["the stream from ", "our stream to ", "a stream from "];
            assert!(side.iter().any(|side| text.starts_with(side)), "{why:?}: {text}");
            assert!(text.contains(", step "), "{why:?}: {text}");
            let (check, mend) = text.split_once(TO_MEND).unwrap_or_else(|| panic!("{text}"));
            assert!(!mend.is_empty() && check.matches(", step ").count() >= 1, "{text}");
        }
        assert_eq!(text.contains("CN="), certificate, "{reason:?}: {text}");
        texts.insert(reason, text);
    }
    let all: BTreeSet<_> = texts.values().map(|text| text.split(TO_MEND).last()).collect();
    assert_eq!(all.len(), XmppRefusal::ALL.len(), "each has a mend of its own: {texts:#?}");
}
