//! Between partners and inside servers.

use std::time::Duration;

use super::{
    lone::{AUTH, Lone, answer, features, header, key, stanza},
    world::{domain, good, partner, settings},
};
use crate::xmpp::{
    io::{StreamId, XmppInput, XmppRefusal, XmppSide},
    settings::{XmppPartner, XmppPartnerKind, XmppSettings},
};

const OFFERS_DIALBACK: &str = "<dialback xmlns='urn:xmpp:features:dialback'/>";

/// `in.example` is an inside server's.
pub(super) fn between(partner: XmppPartner) -> XmppSettings {
    let mut ours = settings(&["a.example", "in.example"], vec![partner]);
    ours.inside = vec![(vec![domain("in.example")], (domain("host.in.example"), 5269))];
    ours
}

/// A stream from one of the two to the other, proved by a certificate.
pub(super) fn from(end: &mut Lone, side: XmppSide) -> StreamId {
    let (from, to) = match side {
        XmppSide::Partner => ("b.example", "in.example"),
        XmppSide::Inside => ("in.example", "b.example"),
    };
    let stream = end.accept_on(side, Some(good(&[from])));
    end.write(stream, &header(from, to));
    assert!(end.write(stream, AUTH).contains("<success"));
    end.write(stream, &header(from, to));
    stream
}

/// The stream of ours to one of the two that was asked for, proved by dialback, and what went out.
pub(super) fn to(end: &mut Lone, side: XmppSide) -> (StreamId, String) {
    let (local, remote) = match side {
        XmppSide::Partner => ("in.example", "b.example"),
        XmppSide::Inside => ("b.example", "in.example"),
    };
    let stream = end.connect(Some(good(&[remote])));
    end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_DIALBACK)));
    let said = end.write(stream, &key(remote, local, "valid"));
    (stream, said)
}

/// The user's right is asked for in both ways, and outsiders do not see that.
#[test]
fn a_user_without_the_right_neither_sends_nor_receives() {
    let mut end = Lone::with(between(partner("b.example")));
    let outside = from(&mut end, XmppSide::Partner);
    end.write(outside, &stanza("v@b.example/r", "MUTE@in.example/r"));
    assert_eq!(end.last_refusal(), Some(XmppRefusal::UserNoXmpp));
    let (back, said) = to(&mut end, XmppSide::Partner);
    assert!(said.contains("<service-unavailable") && !said.contains("<text"), "{said}");
    assert!(end.connects.is_empty());
    // Errors get no answer, nor does presence that nobody asked an answer for.
    end.write(outside, "<presence from='v@b.example/r' to='mute@in.example'/>");
    let error = stanza("v@b.example", "mute@in.example").replace(" to", " type='error' to");
    end.write(outside, &error);
    assert!(end.connects.is_empty() && end.read(back).is_empty());
    end.write(outside, "<presence type='subscribe' from='v@b.example' to='mute@in.example'/>");
    assert!(end.read(back).contains("<presence type='error'"));
    // From inside.
    let inside = from(&mut end, XmppSide::Inside);
    end.write(inside, &stanza("mute@in.example/r", "v@b.example"));
    assert!(end.read(back).is_empty());
    let (_, said) = to(&mut end, XmppSide::Inside);
    assert!(said.contains("<forbidden"), "{said}");
    // Others are others.
    for user in ["u", "mute;x", "mut%65"] {
        end.write(inside, &stanza(&format!("{user}@in.example/r"), "v@b.example"));
        assert!(end.read(back).contains("<body>"), "{user}");
    }
}

/// Of a public service whose users may be anybody, only those speak that were spoken to.
#[test]
fn users_of_an_unverified_service_wait_until_they_are_invited() {
    let public = XmppPartner { kind: XmppPartnerKind::PublicUnverified, ..partner("b.example") };
    let mut end = Lone::with(between(public));
    let outside = from(&mut end, XmppSide::Partner);
    let written = [
        stanza("v@b.example", "u@in.example"),
        stanza("v@b.example", "u@in.example").replace(" to", " type='error' to"),
        "<presence type='subscribe' from='v@b.example' to='u@in.example'/>".to_owned(),
        "<iq type='get' id='1' from='v@b.example' to='u@in.example'><q xmlns='urn:x'/></iq>".into(),
        "<iq type='result' id='1' from='v@b.example' to='u@in.example'/>".to_owned(),
    ];
    for text in &written {
        end.refused.clear();
        end.write(outside, text);
        assert_eq!(end.last_refusal(), Some(XmppRefusal::NotInvited), "{text}");
    }
    let (back, said) = to(&mut end, XmppSide::Partner);
    assert_eq!(said.matches("<service-unavailable").count(), 3, "{said}");
    assert!(end.connects.is_empty());
    // Saying no is no invitation.
    let inside = from(&mut end, XmppSide::Inside);
    end.write(inside, "<presence type='unsubscribed' from='u@in.example' to='v@b.example'/>");
    assert!(end.read(back).contains("unsubscribed"));
    end.write(outside, &written[0]);
    assert!(end.connects.is_empty());
    end.read(back);
    end.write(inside, &stanza("u@in.example/r", "V@b.example/x"));
    assert!(end.read(back).contains("<body>"));
    for text in &written {
        end.write(outside, text);
    }
    let (way, said) = to(&mut end, XmppSide::Inside);
    assert_eq!(said.matches("from='v@b.example'").count(), written.len(), "{said}");
    // Nobody else.
    for (from, to) in [("w@b.example", "u@in.example"), ("v@b.example", "w@in.example")] {
        end.write(outside, &stanza(from, to));
        assert!(end.read(way).is_empty());
    }
    // After a restart, too.
    let kept = end.streams.invitations(usize::MAX);
    assert_eq!((kept.len(), end.streams.invitation_changes()), (1, 1));
    let public = XmppPartner { kind: XmppPartnerKind::PublicUnverified, ..partner("b.example") };
    let mut end = Lone::with(between(public));
    end.streams.restore_invitations(&kept);
    assert_eq!(end.streams.invitations(usize::MAX), kept);
    let outside = from(&mut end, XmppSide::Partner);
    end.write(outside, &stanza("v@b.example", "u@in.example"));
    assert_eq!(end.last_refusal(), None);
    end.write(outside, &stanza("w@b.example", "u@in.example"));
    assert_eq!(end.last_refusal(), Some(XmppRefusal::NotInvited));
}

/// What is short for us may be long for who reads it next, and end the stream of all.
#[test]
fn a_stanza_that_grows_when_it_is_written_goes_no_further() {
    let mut end = Lone::with(between(partner("b.example")));
    let outside = from(&mut end, XmppSide::Partner);
    let long = "x".repeat(200);
    let open = format!("<message from='v@b.example' to='u@in.example' xmlns:a='urn:{long}'>");
    end.write(outside, &format!("{open}{}</message>", "<a:x/>".repeat(2000)));
    assert_eq!(end.last_refusal(), Some(XmppRefusal::XmlLimit));
    assert!(!end.closed.contains(&outside));
    let (_, said) = to(&mut end, XmppSide::Partner);
    assert!(said.contains("<policy-violation"), "{said}");
    assert!(end.connects.is_empty());
    // Few elements, and marks that need no reference.
    end.write(outside, &format!("{open}{}</message>", "<a:x/>".repeat(1000)));
    let marks = "'\"\n\t".repeat(60_000);
    let (way, said) = to(&mut end, XmppSide::Inside);
    assert_eq!(said.matches("<message").count(), 1);
    end.write(outside, &format!("{open}<body>{marks}</body></message>"));
    let said = end.read(way);
    assert!(said.ends_with(&format!("<body>{marks}</body></message>")));
}

/// A server inside that does not keep up holds partners back; nobody is cut off, and the partners
/// hear that we live.
#[test]
fn a_slow_server_inside_holds_back_who_writes_to_it() {
    let mut end = Lone::with(between(partner("b.example")));
    let (first, second) = (from(&mut end, XmppSide::Partner), from(&mut end, XmppSide::Partner));
    let word = stanza("v@b.example", "u@in.example");
    end.write(first, &word);
    let (inside, _) = to(&mut end, XmppSide::Inside);
    end.write(first, "<enable xmlns='urn:xmpp:sm:3'/>");
    end.write(first, &word);
    end.give(XmppInput::Full { stream: inside });
    assert_eq!(end.held, [first].into(), "who wrote to it");
    end.write(second, &word);
    assert_eq!(end.held, [first, second].into(), "who begins to");
    // What was read before goes out: it is in nobody's hands but ours.
    end.write(second, &word);
    assert_eq!(end.read(inside).matches("<body>").count(), 3);
    end.pass(Duration::from_secs(50));
    let (said, blanks) = (end.read(first), end.read(second));
    assert_eq!(said.matches("<a xmlns='urn:xmpp:sm:3' h='1'/>").count(), 3, "{said}");
    assert_eq!(blanks, "   ");
    end.give(XmppInput::Drained { stream: inside });
    assert!(end.held.is_empty() && end.closed.is_empty());
    end.write(first, &word);
    assert!(end.held.is_empty());
    assert!(end.read(inside).contains("<body>"));
    // Not a word from the partner for so long, and it is no sign of anything.
    for _ in 0..20 {
        end.give(XmppInput::Full { stream: inside });
        end.pass(Duration::from_secs(59));
        end.give(XmppInput::Drained { stream: inside });
        assert!(end.closed.is_empty());
    }
}

/// Bounded: a server that takes nothing is given up, and who waited is told and goes on.
#[test]
fn a_server_inside_that_takes_nothing_is_given_up() {
    let mut end = Lone::with(between(partner("b.example")));
    let outside = from(&mut end, XmppSide::Partner);
    end.write(outside, &stanza("v@b.example", "u@in.example"));
    let (inside, _) = to(&mut end, XmppSide::Inside);
    end.give(XmppInput::Full { stream: inside });
    end.write(outside, &stanza("v@b.example", "u@in.example"));
    end.pass(Duration::from_secs(59));
    assert_eq!(end.held, [outside].into());
    end.pass(Duration::from_secs(1));
    assert_eq!(end.closed, [inside]);
    assert_eq!(end.last_refusal(), Some(XmppRefusal::Slow));
    assert!(end.held.is_empty());
}

/// Who reads slowly outside stops nobody else, and is not asked for what stands behind what waits.
#[test]
fn a_slow_partner_holds_back_nobody() {
    let mut end = Lone::with(between(partner("b.example")));
    let inside = from(&mut end, XmppSide::Inside);
    end.write(inside, &stanza("u@in.example", "v@b.example"));
    let (outside, _) = to(&mut end, XmppSide::Partner);
    end.give(XmppInput::Full { stream: outside });
    for _ in 0..40 {
        end.write(inside, &stanza("u@in.example", "v@b.example"));
        end.pass(Duration::from_secs(10));
    }
    assert!(end.held.is_empty() && end.closed.is_empty());
    let said = end.read(outside);
    assert!(!said.contains("<iq"), "{said}");
    end.give(XmppInput::Drained { stream: outside });
    end.pass(Duration::from_secs(301));
    assert!(end.read(outside).contains("<ping"));
}

/// Addresses, ports and certificates of the inside are not for partners.
#[test]
fn outsiders_are_not_told_why_the_inside_cannot_be_reached() {
    let mut end = Lone::with(between(partner("b.example")));
    end.hosts = vec![("10.1.2.3:5269", false)];
    let outside = from(&mut end, XmppSide::Partner);
    end.write(outside, &stanza("v@b.example", "u@in.example"));
    end.hosts = vec![("192.0.2.9:5269", false)];
    let stream = end.connect(Some(good(&["wrong.in.example"])));
    end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_DIALBACK)));
    assert!(end.refused.iter().any(|(_, text)| text.contains("10.1.2.3")));
    let (_, said) = to(&mut end, XmppSide::Partner);
    assert!(said.contains("<remote-server-timeout"), "{said}");
    assert!(!said.contains("<text") && !said.contains("10.1.2.3"), "{said}");
}

/// The answer to a ping in an inside domain's name is not the inside server's.
#[test]
fn pings_in_the_name_of_inside_domains_are_answered() {
    let mut end = Lone::with(between(partner("b.example")));
    let inside = from(&mut end, XmppSide::Inside);
    end.write(inside, &stanza("u@in.example", "v@b.example"));
    let (ours, _) = to(&mut end, XmppSide::Partner);
    let outside = from(&mut end, XmppSide::Partner);
    let mut pings = 0;
    for _ in 0..60 {
        end.pass(Duration::from_secs(10));
        end.write(inside, &stanza("u@in.example", "v@b.example"));
        let said = end.read(ours);
        if let Some((_, rest)) = said.split_once("<iq ") {
            pings += 1;
            assert!(rest.contains("<ping "), "{rest}");
            let id = rest.split("id='").nth(1).unwrap().split('\'').next().unwrap();
            let pong = format!("<iq type='result' from='b.example' to='in.example' id='{id}'/>");
            end.write(outside, &pong);
        }
    }
    assert_eq!(pings, 2);
    assert!(!end.closed.contains(&ours));
    assert!(end.connects.is_empty(), "nothing of it went inside");
}
