//! Ways to a stream that are taken less often.

use std::time::Duration;

use super::{
    lone::{AUTH, Lone, answer, features, header, id_of, stanza},
    world::{domain, good, message, names, pair, partner, policy, settings, tls},
};
use crate::xmpp::{
    io::{PeerCertificate, XmppInput, XmppQuestion, XmppRefusal, XmppSide},
    settings::{Negotiation, XmppPartner},
    streams::Role,
};

const OFFERS_EXTERNAL: &str = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
     <mechanism>PLAIN</mechanism><mechanism>EXTERNAL</mechanism></mechanisms>";
const SASL_FAILURE: &str =
    "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>";

fn send(end: &mut Lone) {
    let stanza = message("u@a.example", "v@b.example", "x");
    end.give(XmppInput::Send {
        pair: pair("a.example", "b.example"),
        side: XmppSide::Partner,
        stanza,
    });
}

/// XEP-0178 said: close. Everybody falls back, and so do we, where the entry allows it.
#[test]
fn after_a_failure_of_sasl_comes_dialback_where_the_entry_allows_it() {
    for (sasl, falls_back) in [(Negotiation::Optional, true), (Negotiation::Required, false)] {
        let entry = XmppPartner { tls: Negotiation::Required, sasl, ..partner("b.example") };
        let mut end = Lone::with(settings(&["a.example"], vec![entry]));
        send(&mut end);
        let stream = end.connect(Some(good(&["b.example"])));
        let said = end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_EXTERNAL)));
        // base64 of a.example
        assert!(said.contains("mechanism='EXTERNAL'>YS5leGFtcGxl</auth>"), "{said}");
        let said = end.write(stream, SASL_FAILURE);
        assert_eq!(said.contains("<db:result"), falls_back, "{said}");
        assert_eq!(end.closed.is_empty(), falls_back);
        if falls_back {
            end.write(stream, "<db:result from='b.example' to='a.example' type='valid'/>");
            assert!(end.read(stream).contains("<message") || end.undelivered.is_empty());
        }
    }
    // Receiving.
    let mut end = Lone::new();
    let stream = end.accept(Some(good(&["x.example"])));
    end.write(stream, &header("b.example", "a.example"));
    assert!(end.write(stream, AUTH).contains("<failure"));
    end.write(stream, "<db:result from='b.example' to='a.example'>k</db:result>");
    assert_eq!(end.connects.len(), 1, "the key is verified");
}

/// Else the other end might use both ways of a stream that proves one.
#[test]
fn after_a_failure_of_sasl_with_bidi_comes_a_stream_without() {
    let mut end = Lone::new();
    end.hosts = vec![("192.0.2.8:5269", false), ("192.0.2.9:5269", false)];
    send(&mut end);
    let offers = format!("{OFFERS_EXTERNAL}<bidi xmlns='urn:xmpp:features:bidi'/>");
    let first = end.connect(Some(good(&["b.example"])));
    let said = end.write(first, &format!("{}{}", answer("i"), features(&offers)));
    assert!(said.contains("<bidi ") && said.contains("<auth "), "{said}");
    assert!(!end.write(first, SASL_FAILURE).contains("<db:result"));
    assert_eq!(end.closed, [first]);
    assert_eq!(end.connects[0].1.address.to_string(), "192.0.2.8:5269", "the same");
    let second = end.connect(Some(good(&["b.example"])));
    let said = end.write(second, &format!("{}{}", answer("j"), features(&offers)));
    assert!(!said.contains("<bidi ") && said.contains("<auth "), "{said}");
    assert!(end.write(second, SASL_FAILURE).contains("<db:result"));
    let said = end.write(second, "<db:result from='b.example' to='a.example' type='valid'/>");
    assert!(said.contains("<message"), "{said}");
    assert!(end.connects.is_empty() && end.undelivered.is_empty());
}

/// Servers from before RFC 3920 have no version and no features.
#[test]
fn old_servers_are_spoken_with_by_dialback_where_plain_is_allowed() {
    let old =
        |text: &str| text.replace(" version='1.0'", "").replace("<?xml?>", "<?xml version='1.0'?>");
    for (negotiation, works) in [(Negotiation::Optional, true), (Negotiation::Required, false)] {
        let entry = XmppPartner { tls: negotiation, ..partner("b.example") };
        let ours = settings(&["a.example"], vec![entry]);
        let mut end = Lone::with(ours.clone());
        send(&mut end);
        let stream = end.connect(None);
        let said = end.write(stream, &old(&answer("i")));
        assert_eq!(said.contains("<db:result"), works, "{said}");
        let mut end = Lone::with(ours);
        let stream = end.accept(None);
        let header =
            old(&header("b.example", "a.example").replace("<?xml version='1.0'?>", "<?xml?>"));
        let said = end.write(stream, &header);
        assert!(!said.contains("features") && !said.contains("version='1.0' xml"), "{said}");
        end.write(stream, "<db:result from='b.example' to='a.example'>k</db:result>");
        assert_eq!(end.connects.len(), usize::from(works));
    }
}

#[test]
fn a_server_that_hangs_leaves_time_for_the_next() {
    let mut end = Lone::new();
    end.hosts = vec![("192.0.2.8:5269", false), ("192.0.2.9:5270", true)];
    send(&mut end);
    assert_eq!(end.connects[0].1.address.to_string(), "192.0.2.8:5269");
    let first = end.connect(None);
    end.pass(Duration::from_secs(31));
    assert_eq!(end.closed, [first]);
    assert_eq!(end.connects[0].1.address.to_string(), "192.0.2.9:5270");
    assert!(end.connects[0].1.direct_tls);
    end.connect(Some(good(&["b.example"])));
    end.pass(Duration::from_secs(31));
    assert_eq!(end.undelivered.len(), 1);
    assert_eq!(end.undelivered[0].1, "remote-server-timeout");
}

/// A domain that is left alone after failures, and shows a key, is asked about it.
#[test]
fn who_is_there_again_need_not_wait_for_us() {
    let mut end = Lone::new();
    end.hosts = Vec::new();
    for _ in 0..4 {
        send(&mut end);
        let wait = end.streams.backoffs(end.now)[0].wait;
        end.pass(wait);
    }
    send(&mut end);
    assert_eq!(end.streams.backoffs(end.now)[0].wait.as_secs(), 80);
    end.hosts = vec![("192.0.2.9:5269", false)];
    for (seconds, asked) in [(1, false), (6, true)] {
        end.pass(Duration::from_secs(seconds));
        let stream = end.accept(None);
        end.write(stream, &header("b.example", "a.example"));
        end.write(stream, "<db:result from='b.example' to='a.example'>k</db:result>");
        assert_eq!(!end.connects.is_empty(), asked, "{seconds}");
    }
}

#[test]
fn direct_tls_is_not_for_partners_without_tls() {
    let entry = XmppPartner { tls: Negotiation::NotSupported, ..partner("b.example") };
    let mut end = Lone::with(settings(&["a.example"], vec![entry]));
    end.hosts = vec![("192.0.2.8:5270", true), ("192.0.2.9:5269", false)];
    send(&mut end);
    assert_eq!(end.connects.len(), 1);
    assert_eq!(end.connects[0].1.address.to_string(), "192.0.2.9:5269");
    let stream = end.connect(None);
    let required = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>";
    end.write(stream, &format!("{}{}", answer("i"), features(required)));
    assert!(end.refused.iter().any(|(reason, _)| *reason == XmppRefusal::NoTls));
}

/// A pin that is changed or taken away: the old host speaks for the domain no longer, nor is it
/// written to.
#[test]
fn what_a_pinned_host_proved_ends_with_the_pin() {
    let host = |name: &str| Some((domain(name), 5269));
    let entry = |proxy| XmppPartner { proxy, ..partner("b.example") };
    let with = |proxy| settings(&["a.example"], vec![entry(proxy)]);
    let old = || with(host("old.example"));
    for (next, stays) in [(host("old.example"), true), (host("new.example"), false), (None, false)]
    {
        let mut end = Lone::with(old());
        // Proved; before SASL; ours by SASL; ours by dialback.
        let proved = end.accept(Some(good(&["old.example"])));
        end.write(proved, &header("b.example", "a.example"));
        assert!(end.write(proved, AUTH).contains("<success"));
        end.write(proved, &header("b.example", "a.example"));
        let begun = end.accept(Some(good(&["old.example"])));
        end.write(begun, &header("b.example", "a.example"));
        send(&mut end);
        let ours = end.connect(Some(good(&["old.example"])));
        end.write(ours, &format!("{}{}", answer("i"), features(OFFERS_EXTERNAL)));
        let mut other = Lone::with(old());
        send(&mut other);
        let dialled = other.connect(None);
        other.write(dialled, &format!("{}{}", answer("i"), features("")));
        other.write(dialled, "<db:result from='b.example' to='a.example' type='valid'/>");
        for end in [&mut end, &mut other] {
            let mut out = Vec::new();
            end.streams.set_policy(end.now, policy(with(next.clone()), &[]), &mut out);
            end.take(out);
        }
        assert_eq!(!end.closed.contains(&proved), stays, "{next:?}");
        assert_eq!(!other.closed.contains(&dialled), stays, "{next:?}");
        assert_eq!(end.write(begun, AUTH).contains("<success"), stays, "{next:?}");
        end.write(ours, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
        assert_eq!(!end.closed.contains(&ours), stays, "{next:?}");
    }
}

/// The host that the entry pins, exactly.
#[test]
fn a_pinned_host_is_looked_up_and_its_certificate_does() {
    let entry = XmppPartner {
        proxy: Some((domain("xmpp.hoster.example"), 5299)),
        tls: Negotiation::Required,
        sasl: Negotiation::Required,
        ..partner("b.example")
    };
    for (name, does) in [
        ("xmpp.hoster.example", true),
        ("b.example", true),
        ("other.hoster.example", false),
        ("hoster.example", false),
    ] {
        let mut end = Lone::with(settings(&["a.example"], vec![entry.clone()]));
        send(&mut end);
        let host = XmppQuestion::Host(domain("xmpp.hoster.example"), 5299);
        assert_eq!(end.questions, [host]);
        assert_eq!(end.connects[0].1.server_name, domain("b.example"), "SNI is the domain");
        let stream = end.connect(Some(good(&[name])));
        let said = end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_EXTERNAL)));
        assert_eq!(said.contains("<auth"), does, "{name}: {said}");
        let stream = end.accept(Some(good(&[name])));
        let said = end.write(stream, &header("b.example", "a.example"));
        assert_eq!(said.contains("EXTERNAL"), does, "{name}");
    }
}

#[test]
fn what_the_other_end_says_of_its_error_is_told() {
    let mut end = Lone::new();
    send(&mut end);
    let stream = end.connect(None);
    end.write(
        stream,
        &format!(
            "{}<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>your certificate\n has expired\
             </text></stream:error></stream:stream>",
            answer("i")
        ),
    );
    let (reason, text) = &end.refused[0];
    assert_eq!(*reason, XmppRefusal::PeerError);
    assert!(
        text.contains("our stream to b.example, to 192.0.2.9:5269, step stream features"),
        "{text}"
    );
    assert!(text.contains("not-authorized (your certificate  has expired)"), "{text}");
    assert_eq!(end.undelivered.len(), 1);
}

#[test]
fn the_operator_sees_how_a_stream_was_verified_and_why_not() {
    let mut end = Lone::new();
    end.proved();
    let invalid = tls(PeerCertificate::Invalid {
        description: "CN=c.example, serial 7".into(),
        fault: "self-signed".into(),
    });
    let other = end.accept(Some(invalid));
    end.write(other, &header("c.example", "a.example"));
    end.pass(Duration::from_secs(5));
    let [good, bad] = &end.streams.status(end.now)[..] else { panic!("two streams") };
    assert_eq!(
        (good.role, good.step, good.certificate_fault.as_deref()),
        (Role::Receiving, "open", None)
    );
    assert_eq!(good.certificate.as_deref(), Some("CN=b.example"));
    let (of, how) = &good.proved[0];
    assert_eq!((of, how.name()), (&pair("a.example", "b.example"), "sasl-external"));
    assert_eq!(
        (good.age, good.remote.as_ref()),
        (Duration::from_secs(5), Some(&domain("b.example")))
    );
    assert_eq!((bad.step, bad.proved.len()), ("authentication", 0));
    let fault = bad.certificate_fault.as_deref().unwrap();
    assert!(fault.contains("CN=c.example, serial 7") && fault.contains("self-signed"), "{fault}");
}

/// RFC 7590 section 3.6.
#[test]
fn a_changed_certificate_is_shown() {
    let of_key = |key: u8| {
        let mut names = (*names(&["b.example"], None)).clone();
        names.certificate.spki = Some([key; 32]);
        names.certificate.description = format!("CN=b.example, key {key}");
        tls(PeerCertificate::Valid(names.into()))
    };
    let mut end = Lone::new();
    for (key, before) in [(1, None), (1, None), (2, Some("CN=b.example, key 1"))] {
        let stream = end.accept(Some(of_key(key)));
        end.write(stream, &header("b.example", "a.example"));
        end.write(stream, AUTH);
        let status = end.streams.status(end.now);
        assert_eq!(status.last().unwrap().certificate_before.as_deref(), before);
    }
}

#[test]
fn a_peer_that_thinks_streams_idle_soon_is_written_to_in_time() {
    let limits =
        "<limits xmlns='urn:xmpp:stream-limits:0'><idle-seconds>100</idle-seconds></limits>";
    let mut end = Lone::new();
    send(&mut end);
    let stream = end.connect(None);
    end.write(stream, &format!("{}{}", answer("i"), features(limits)));
    end.write(stream, "<db:result from='b.example' to='a.example' type='valid'/>");
    end.read(stream);
    end.pass(Duration::from_secs(76));
    let said = end.read(stream);
    assert!(said.contains("<ping xmlns='urn:xmpp:ping'/>"), "{said}");
    // The answer comes on the other end's stream, and is nobody's.
    let id = said.split("id='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    let back = end.proved();
    end.write(back, &format!("<iq type='result' from='b.example' to='a.example' id='{id}'/>"));
    assert!(end.delivered.is_empty());
    end.pass(Duration::from_secs(70));
    assert!(end.closed.is_empty());
    // Unanswered, the stream is dead.
    end.pass(Duration::from_secs(140));
    assert!(end.closed.contains(&stream));
}

/// Who is asked about a key has time to answer.
#[test]
fn a_stream_that_is_asked_about_a_key_is_not_idle() {
    let mut end = Lone::new();
    send(&mut end);
    let ours = end.connect(None);
    end.write(ours, &format!("{}{}", answer("i"), features("")));
    end.write(ours, "<db:result from='b.example' to='a.example' type='valid'/>");
    let live = |end: &mut Lone, seconds: u64| {
        for _ in 0..seconds / 10 {
            end.pass(Duration::from_secs(10));
            end.write(ours, " ");
        }
    };
    let ask = |end: &mut Lone| {
        let shown = end.accept(None);
        let id = id_of(&end.write(shown, &header("b.example", "a.example")));
        end.write(shown, "<db:result from='b.example' to='a.example'>k</db:result>");
        let verdict =
            format!("<db:verify from='b.example' to='a.example' id='{id}' type='valid'/>");
        (shown, verdict)
    };
    live(&mut end, 590);
    let (shown, verdict) = ask(&mut end);
    assert!(end.read(ours).contains("<db:verify"));
    live(&mut end, 20);
    assert!(!end.read(ours).contains("</stream:stream>"));
    end.write(ours, &verdict);
    assert!(end.read(shown).contains("type='valid'"));
}

#[test]
fn an_end_in_good_order_takes_what_is_under_way() {
    let mut end = Lone::new();
    let stream = end.proved();
    end.write(stream, "<enable xmlns='urn:xmpp:sm:3'/>");
    end.write(stream, &stanza("v@b.example", "u@a.example"));
    end.read(stream);
    // The partner is alive all the time, and idle.
    for _ in 0..59 {
        end.pass(Duration::from_secs(10));
        end.write(stream, " ");
    }
    end.pass(Duration::from_secs(11));
    let said = end.read(stream);
    assert!(said.ends_with("<a xmlns='urn:xmpp:sm:3' h='1'/></stream:stream>"), "{said}");
    end.write(stream, &stanza("v@b.example", "u@a.example"));
    assert_eq!(end.delivered.len(), 2, "it was on its way");
    assert!(end.closed.is_empty());
    assert!(end.write(stream, "</stream:stream>").is_empty());
    assert_eq!(end.closed, [stream]);
    // And who shuts down says so.
    let mut end = Lone::new();
    let stream = end.proved();
    let mut out = Vec::new();
    end.streams.shut_down(end.now, &mut out);
    end.take(out);
    assert!(end.read(stream).contains("<system-shutdown"));
    assert_eq!(end.closed, [stream]);
}

#[test]
fn the_other_end_s_close_gets_ours() {
    let mut end = Lone::new();
    let stream = end.proved();
    let said = end.write(stream, "</stream:stream>");
    assert_eq!(said, "</stream:stream>");
    assert_eq!(end.closed, [stream]);
    assert!(end.refused.is_empty());
    // A certificate that expires while nobody looks proves nothing to a new stream.
    let late = tls(PeerCertificate::Valid(names(&["b.example"], Some(super::world::UNIX + 10))));
    end.pass(Duration::from_secs(11));
    let stream = end.accept(Some(late));
    assert!(!end.write(stream, &header("b.example", "a.example")).contains("EXTERNAL"));
}
