//! What others tried, and what must come of it.

use std::time::Duration;

use super::{
    lone::{AUTH, Lone, answer, features, header, id_of, key, send, stanza, verdict},
    world::{UNIX, domain, good, names, pair, partner, settings, tls},
};
use crate::xmpp::{
    io::{PeerCertificate, TlsPeer, XmppInput, XmppRefusal, XmppSide},
    settings::{Negotiation, XmppPartner},
};

const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
const OFFERS_TLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
const OFFERS_EXTERNAL: &str = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
     <mechanism>EXTERNAL</mechanism></mechanisms>";
const OFFERS_DIALBACK: &str = "<dialback xmlns='urn:xmpp:features:dialback'/>";

#[test]
fn a_stanza_before_proof_ends_the_stream() {
    for tls in [None, Some(good(&["b.example"])), Some(good(&["evil.example"]))] {
        for before in ["", &key("b.example", "a.example", "")] {
            let mut end = Lone::new();
            let stream = end.accept(tls.clone());
            end.write(stream, &header("b.example", "a.example"));
            let text = format!("{before}{}", stanza("v@b.example", "u@a.example"));
            let said = end.write(stream, &text);
            assert!(said.contains("<not-authorized"), "{said}");
            assert!(end.delivered.is_empty());
            assert_eq!(end.closed, [stream]);
            assert_eq!(end.last_refusal(), Some(XmppRefusal::NotAuthorized));
        }
    }
}

#[test]
fn each_stanza_lies_within_what_was_proved() {
    let cases = [
        ("v@b.example", "u@a.example", None),
        ("b.example", "a.example", None),
        ("V@B.example/R", "u@a.example", None),
        ("v@c.example", "u@a.example", Some("invalid-from")),
        ("v@sub.b.example", "u@a.example", Some("invalid-from")),
        ("v@xb.example", "u@a.example", Some("invalid-from")),
        ("u@a.example", "u@a.example", Some("invalid-from")),
        ("v@b.example", "w@c.example", Some("invalid-from")),
        ("v@b.example", "w@b.example", Some("invalid-from")),
        ("", "u@a.example", Some("improper-addressing")),
        ("v@b.example", "", Some("improper-addressing")),
        ("v@b.example", "u@w@a.example", Some("improper-addressing")),
        ("v@b.example@a.example", "u@a.example", Some("improper-addressing")),
    ];
    for (from, to, error) in cases {
        let mut end = Lone::new();
        let stream = end.proved();
        let said = end.write(stream, &stanza(from, to));
        match error {
            None => {
                assert_eq!(end.delivered.len(), 1, "{from} {to}: {said}");
                let (delivered, side, stanza) = &end.delivered[0];
                assert_eq!(
                    (delivered, *side),
                    (&pair("a.example", "b.example"), XmppSide::Partner)
                );
                let folded = from.to_ascii_lowercase().replace("/r", "/R");
                assert_eq!(stanza.attribute("from"), Some(&*folded));
            }
            Some(error) => {
                assert!(said.contains(&format!("<{error}")), "{from} {to}: {said}");
                assert!(end.delivered.is_empty());
                assert_eq!(end.last_refusal(), Some(XmppRefusal::InvalidFrom));
            }
        }
    }
    let mut end = Lone::new();
    let stream = end.proved();
    let said = end.write(stream, "<message><body>x</body></message>");
    assert!(said.contains("<improper-addressing"));
}

/// A user of the partner's cannot end the stream of all its users.
#[test]
fn an_address_that_is_none_is_told_to_its_sender_and_ends_nothing() {
    for (from, to, told) in [
        ("v@b.example/r", "u v@a.example", true),
        ("v@b.example/r", "u@a.example/", true),
        ("v@b.example/\u{fffd}", "u@a.example", false),
        ("v v@b.example", "u@a.example", false),
        ("@b.example", "u@a.example", false),
    ] {
        let mut end = Lone::new();
        let stream = end.proved();
        end.write(stream, &stanza(from, to));
        assert!(end.closed.is_empty() && end.delivered.is_empty(), "{from} {to}");
        assert_eq!(end.last_refusal(), Some(XmppRefusal::InvalidFrom));
        assert_eq!(end.connects.len(), usize::from(told), "{from} {to}: the error goes back");
        end.write(stream, &stanza("v@b.example", "u@a.example"));
        assert_eq!(end.delivered.len(), 1);
        if told {
            let back = end.connect(None);
            end.write(back, &format!("{}{}", answer("z"), features(OFFERS_DIALBACK)));
            let said = end.write(back, &key("b.example", "a.example", "valid"));
            assert!(said.contains("<jid-malformed") && said.contains("from='a.example'"), "{said}");
            assert!(
                said.contains("to='v@b.example/r'") && said.contains("type='modify'"),
                "{said}"
            );
        }
    }
}

/// Nor can one by a stanza that is too deep or too long for us.
#[test]
fn a_stanza_past_a_bound_is_told_to_its_sender_and_ends_nothing() {
    let deep = format!("{}{}", "<x>".repeat(40), "</x>".repeat(40));
    let long = "y".repeat(300_000);
    for inner in [deep, long] {
        let mut end = Lone::new();
        let stream = end.proved();
        end.write(stream, "<enable xmlns='urn:xmpp:sm:3'/>");
        let text = format!("<message from='v@b.example' to='u@a.example'>{inner}</message>");
        end.write(stream, &text);
        assert!(end.closed.is_empty() && end.delivered.is_empty());
        assert_eq!(end.last_refusal(), Some(XmppRefusal::XmlLimit));
        assert_eq!(end.connects.len(), 1, "the error goes back");
        end.write(stream, &stanza("v@b.example", "u@a.example"));
        assert_eq!(end.delivered.len(), 1);
        assert!(end.write(stream, "<r xmlns='urn:xmpp:sm:3'/>").contains("h='2'"));
        // For a pair that was not proved, or no stanza at all, the stream ends.
        let other = text.replace("v@b.example", "v@c.example");
        assert!(end.write(stream, &other).contains("<policy-violation"));
        assert_eq!(end.closed, [stream]);
    }
}

#[test]
fn only_stanzas_are_stanzas() {
    for (text, error) in [
        ("<letter from='v@b.example' to='u@a.example'/>", "unsupported-stanza-type"),
        ("<message xmlns='jabber:client' from='v@b.example' to='u@a.example'/>", "unsupported"),
        ("<compress xmlns='http://jabber.org/protocol/compress'/>", "unsupported-stanza-type"),
        ("<stream:features/>", "unsupported-stanza-type"),
        ("<message from='v@b.example' to='u@a.example'><!-- x --></message>", "restricted-xml"),
        ("text", "bad-format"),
    ] {
        let mut end = Lone::new();
        let stream = end.proved();
        let said = end.write(stream, text);
        assert!(said.contains(&format!("<{error}")), "{text}: {said}");
        assert!(said.ends_with("</stream:stream>"));
        assert!(end.delivered.is_empty());
    }
}

#[test]
fn a_fault_before_the_header_still_gets_a_whole_stream_with_an_error() {
    let mut end = Lone::new();
    let stream = end.accept(None);
    let said = end.write(stream, "GET / HTTP/1.1\r\n\r\n");
    assert!(said.starts_with("<?xml version='1.0'?><stream:stream "), "{said}");
    assert!(said.contains("<not-well-formed"));
    assert!(said.ends_with("</stream:error></stream:stream>"));
    assert_eq!(end.last_refusal(), Some(XmppRefusal::Xml));
}

#[test]
fn external_is_offered_to_a_good_certificate_and_nobody_else() {
    let srv = {
        let mut names = (*names(&["host.b.example"], None)).clone();
        names.srv = vec![domain("b.example")];
        tls(PeerCertificate::Valid(names.into()))
    };
    let xmpp_addr = {
        let mut names = (*names(&["host.b.example"], None)).clone();
        names.addresses = vec![domain("b.example")];
        tls(PeerCertificate::Valid(names.into()))
    };
    let wildcard = |of: &str| {
        let mut names = (*names(&["x.example"], None)).clone();
        names.certificate.wildcards = vec![domain(of)];
        tls(PeerCertificate::Valid(names.into()))
    };
    let common_name = {
        let mut names = (*names(&["x.example"], None)).clone();
        names.certificate.common_name = Some(domain("b.example"));
        tls(PeerCertificate::Valid(names.into()))
    };
    let unchained = {
        let mut names = (*names(&["b.example"], None)).clone();
        names.certificate.unchained = true;
        tls(PeerCertificate::Valid(names.into()))
    };
    let expired = tls(PeerCertificate::Valid(names(&["b.example"], Some(UNIX))));
    let invalid = tls(PeerCertificate::Invalid {
        description: "CN=b.example".into(),
        fault: "unknown issuer".into(),
    });
    let cases: &[(Option<TlsPeer>, bool, &str)] = &[
        (Some(good(&["b.example"])), true, "DNS name"),
        (Some(good(&["x.example", "b.example"])), true, "one of several"),
        (Some(srv), true, "SRV name"),
        (Some(xmpp_addr), true, "XmppAddr"),
        (Some(wildcard("example.org")), false, "another domain's wildcard"),
        (Some(wildcard("b.example")), false, "a wildcard below the domain"),
        (Some(common_name), false, "common name"),
        (Some(unchained), false, "pinned, without a chain"),
        (Some(expired), false, "expired"),
        (Some(invalid), false, "invalid"),
        (Some(tls(PeerCertificate::Missing)), false, "none"),
        (Some(good(&["sub.b.example"])), false, "a host below"),
        (Some(good(&["xb.example"])), false, "a suffix"),
        (Some(good(&["b.example.evil.example"])), false, "a prefix"),
        (None, false, "no TLS"),
    ];
    for (tls, offered, what) in cases {
        let mut end = Lone::new();
        let stream = end.accept(tls.clone());
        let said = end.write(stream, &header("b.example", "a.example"));
        assert_eq!(said.contains("EXTERNAL"), *offered, "{what}: {said}");
        // Asked for all the same.
        let said = end.write(stream, AUTH);
        assert_eq!(said.contains("<success"), *offered, "{what}: {said}");
        assert_eq!(said.contains("<failure"), !offered, "{what}: {said}");
        if *offered {
            continue;
        }
        assert!(said.contains("<invalid-mechanism"), "{what}: {said}");
        for _ in 0..2 {
            end.write(stream, AUTH);
        }
        assert_eq!(end.closed, [stream], "{what}: not for ever");
        assert!(end.refused.iter().all(|(reason, _)| *reason == XmppRefusal::Certificate));
    }
    // A wildcard stands for the left-most label, where the entry lets it.
    for lets in [true, false] {
        let entry = XmppPartner { wildcard: lets, ..partner("im.b.example") };
        let mut end = Lone::with(settings(&["a.example"], vec![entry]));
        let stream = end.accept(Some(wildcard("b.example")));
        let said = end.write(stream, &header("im.b.example", "a.example"));
        assert_eq!(said.contains("EXTERNAL"), lets, "{said}");
    }
}

#[test]
fn the_authorization_identity_is_the_stream_s_own() {
    let auth = |authzid: &str| {
        format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{authzid}</auth>"
        )
    };
    // base64 of b.example, c.example, garbage
    for (authzid, accepted) in
        [("", true), ("=", true), ("Yi5leGFtcGxl", true), ("Yy5leGFtcGxl", false), ("!!", false)]
    {
        let mut end = Lone::new();
        let stream = end.accept(Some(good(&["b.example", "c.example"])));
        end.write(stream, &header("b.example", "a.example"));
        let said = end.write(stream, &auth(authzid));
        assert_eq!(said.contains("<success"), accepted, "{authzid}: {said}");
    }
}

#[test]
fn the_header_after_sasl_names_the_same_pair() {
    for (from, to) in [("c.example", "a.example"), ("b.example", "aa.example")] {
        let mut end = Lone::with(settings(
            &["a.example", "aa.example"],
            vec![partner("b.example"), partner("c.example")],
        ));
        let stream = end.accept(Some(good(&["b.example", "c.example"])));
        end.write(stream, &header("b.example", "a.example"));
        end.write(stream, AUTH);
        let said = end.write(stream, &header(from, to));
        assert!(said.contains("<invalid-from"), "{said}");
    }
}

#[test]
fn nothing_comes_between_starttls_and_the_handshake() {
    for after in ["<x/>", " ", "\n"] {
        let mut end = Lone::new();
        let stream = end.accept(None);
        end.write(stream, &header("b.example", "a.example"));
        end.write(stream, &format!("{STARTTLS}{after}"));
        assert_eq!(end.closed, [stream], "{after:?}");
        assert_eq!(end.last_refusal(), Some(XmppRefusal::Protocol));
    }
    let mut end = Lone::new();
    let stream = end.accept(None);
    end.write(stream, &header("b.example", "a.example"));
    assert!(end.write(stream, STARTTLS).contains("<proceed"));
    assert_eq!(end.handshakes, [(stream, true)]);
    // And TLS is done once.
    end.give(XmppInput::TlsDone { stream, tls: good(&["b.example"]) });
    let said = end.write(stream, &header("b.example", "a.example"));
    assert!(!said.contains("<starttls"), "{said}");
    assert!(end.write(stream, STARTTLS).contains("<failure"));
    assert_eq!(end.closed, [stream]);
}

#[test]
fn who_demands_tls_never_speaks_without_it() {
    let strict = XmppPartner { tls: Negotiation::Required, ..partner("b.example") };
    let strict = || settings(&["a.example"], vec![strict.clone()]);
    // Receiving: a key, and a question about a key, over TCP.
    for text in [
        key("b.example", "a.example", ""),
        "<db:verify from='b.example' to='a.example' id='i'>k</db:verify>".to_owned(),
    ] {
        let mut end = Lone::with(strict());
        let stream = end.accept(None);
        let said = end.write(stream, &header("b.example", "a.example"));
        assert!(said.contains("<required"), "{said}");
        assert!(!said.contains("features:dialback"), "{said}");
        let said = end.write(stream, &text);
        assert!(said.contains("<policy-violation") && !said.contains("valid'"), "{said}");
        assert!(end.connects.is_empty());
    }
    // Initiating: the offer was taken out on the way; TLS is asked for all the same.
    for (reply, reason) in [
        ("<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", XmppRefusal::NoTls),
        (
            "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
          </stream:error>",
            XmppRefusal::PeerError,
        ),
    ] {
        let mut end = Lone::with(strict());
        send(&mut end, "a.example", "b.example");
        let stream = end.connect(None);
        let said = end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_DIALBACK)));
        assert!(said.ends_with(STARTTLS), "{said}");
        let said = end.write(stream, reply);
        assert!(!said.contains("db:result") && !said.contains("<message"), "{said}");
        assert!(end.refused.iter().any(|(r, _)| *r == reason));
        assert_eq!(end.undelivered.len(), 1);
    }
}

/// What stands behind it is said, and what mends it.
#[test]
fn a_key_that_counts_for_nothing_is_refused_for_what_is_missing() {
    use Negotiation::{Optional, Required};
    for (tls, dialback, peer, reason, mend) in [
        (Required, true, None, XmppRefusal::NoTls, "take the STARTTLS"),
        (Required, false, None, XmppRefusal::NoTls, "take the STARTTLS"),
        (Optional, false, None, XmppRefusal::NoTls, "take STARTTLS and show a certificate"),
        (Required, false, Some(good(&["b.example"])), XmppRefusal::Dialback, "SASL EXTERNAL"),
    ] {
        let entry = XmppPartner { tls, dialback, ..partner("b.example") };
        let mut end = Lone::with(settings(&["a.example"], vec![entry]));
        let stream = end.accept(peer);
        end.write(stream, &header("b.example", "a.example"));
        end.write(stream, &key("b.example", "a.example", ""));
        let (said, text) = end.refused.last().unwrap();
        assert_eq!(*said, reason, "{text}");
        assert!(text.contains("step dialback") && text.contains(mend), "{text}");
    }
}

/// A changed pool key is in force at once, and who was shown a key before is told that it is ours.
#[test]
fn a_changed_secret_makes_new_keys_and_those_of_before_hold() {
    let mut end = Lone::new();
    let shown = |end: &mut Lone, to: &str, id: &str| {
        send(end, "a.example", to);
        let stream = end.connect(None);
        let said = end.write(stream, &format!("{}{}", answer(id), features(OFFERS_DIALBACK)));
        let (_, rest) = said.split_once("<db:result").unwrap();
        rest.split(['>', '<']).nth(1).unwrap().to_owned()
    };
    let before = shown(&mut end, "b.example", "i");
    end.streams.set_secrets(crate::proxy::Secrets { current: [8; 32], former: None });
    let asker = end.accept(None);
    end.write(asker, &header("b.example", "a.example"));
    let mut asked = |key: &str| {
        let from = "from='b.example' to='a.example' id='i'";
        end.write(asker, &format!("<db:verify {from}>{key}</db:verify>"))
    };
    assert!(asked(&before).contains("type='valid'"));
    let mut other = Lone::new();
    other.streams.set_secrets(crate::proxy::Secrets { current: [8; 32], former: None });
    let after = shown(&mut other, "b.example", "i");
    assert_ne!(before, after);
    assert!(asked(&after).contains("type='valid'"));
}

#[test]
fn who_demands_certificates_gives_nothing_to_an_end_without() {
    let strict = XmppPartner {
        tls: Negotiation::Required,
        sasl: Negotiation::Required,
        ..partner("b.example")
    };
    for (peer, offers) in [
        (good(&["evil.example"]), OFFERS_EXTERNAL),
        (tls(PeerCertificate::Missing), OFFERS_EXTERNAL),
        (good(&["b.example"]), OFFERS_DIALBACK),
    ] {
        let mut end = Lone::with(settings(&["a.example"], vec![strict.clone()]));
        send(&mut end, "a.example", "b.example");
        let stream = end.connect(None);
        end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_TLS)));
        end.write(stream, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        assert_eq!(end.handshakes, [(stream, false)]);
        end.give(XmppInput::TlsDone { stream, tls: peer });
        let said = end.write(stream, &format!("{}{}", answer("j"), features(offers)));
        assert!(said.contains("<not-authorized"), "{said}");
        assert!(!said.contains("<auth") && !said.contains("db:result"), "{said}");
        assert_eq!(end.undelivered.len(), 1);
        let (_, text) = end.refused.iter().find(|r| r.0 == XmppRefusal::Certificate).unwrap();
        assert!(text.contains("our stream to b.example") && text.contains("192.0.2.9"), "{text}");
    }
}

/// 2012: answers that nobody had asked for were believed.
#[test]
fn dialback_answers_that_nobody_asked_for_prove_nothing() {
    for text in
        [key("b.example", "a.example", "valid"), verdict("b.example", "a.example", "i", "valid")]
    {
        let mut end = Lone::new();
        let stream = end.accept(Some(good(&["x.example"])));
        let said = end.write(stream, &header("b.example", "a.example"));
        end.write(stream, &text.replace("'i'", &format!("'{}'", id_of(&said))));
        let said = end.write(stream, &stanza("v@b.example", "u@a.example"));
        assert!(!said.contains("type='valid'"), "{said}");
        assert!(end.delivered.is_empty(), "{text}");
    }
    // On a stream that we opened.
    let mut end = Lone::new();
    send(&mut end, "a.example", "b.example");
    let stream = end.connect(None);
    end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_DIALBACK)));
    let said = end.write(stream, &key("c.example", "a.example", "valid"));
    assert!(said.contains("<policy-violation"), "{said}");
    assert_eq!(end.last_refusal().map(|_| end.undelivered.len()), Some(1));
    // What it says of keys that nobody waits for may be late: it proves nothing, and ends nothing.
    let mut end = Lone::new();
    send(&mut end, "a.example", "b.example");
    let stream = end.connect(None);
    end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_DIALBACK)));
    assert!(end.write(stream, &verdict("b.example", "a.example", "i", "valid")).is_empty());
    assert_eq!(end.last_refusal(), Some(XmppRefusal::Dialback));
    assert!(end.closed.is_empty() && end.undelivered.is_empty() && end.delivered.is_empty());
}

/// Anybody may show a key for a partner's domain, and be gone before its server has spoken.
#[test]
fn who_shows_a_key_and_leaves_does_no_harm_to_the_stream_that_asks() {
    let mut end = Lone::new();
    send(&mut end, "a.example", "b.example");
    let ours = end.connect(None);
    end.write(ours, &format!("{}{}", answer("i"), features(OFFERS_DIALBACK)));
    end.write(ours, &key("b.example", "a.example", "valid"));
    for wait in [0, 31] {
        let shown = end.accept(None);
        let own = id_of(&end.write(shown, &header("b.example", "a.example")));
        end.write(shown, &key("b.example", "a.example", ""));
        assert!(
            end.read(ours)
                .contains(&format!("<db:verify from='a.example' to='b.example' id='{own}'"))
        );
        match wait {
            0 => drop(end.write(shown, "</stream:stream>")),
            wait => end.pass(Duration::from_secs(wait)),
        }
        assert!(end.closed.contains(&shown));
        end.write(ours, &verdict("b.example", "a.example", &own, "invalid"));
        assert!(!end.closed.contains(&ours) && end.undelivered.is_empty());
        send(&mut end, "a.example", "b.example");
        assert!(end.read(ours).contains("<message"));
    }
}

/// A key is verified over a connection of our own to the domain's server, and only what that says
/// for the same pair and id counts.
#[test]
fn a_key_is_verified_where_it_must_be() {
    for (from, id, kind, proved) in [
        ("b.example", "same", "valid", true),
        ("b.example", "same", "invalid", false),
        ("b.example", "same", "error", false),
        ("b.example", "other", "valid", false),
        ("c.example", "same", "valid", false),
    ] {
        let mut end = Lone::new();
        let shown = end.accept(None);
        let said = end.write(shown, &header("b.example", "a.example"));
        let own = id_of(&said);
        end.write(shown, &key("b.example", "a.example", ""));
        let asked = end.connect(None);
        let text = format!("{}{}", answer("z"), features(OFFERS_DIALBACK));
        let said = end.write(asked, &text);
        let question =
            format!("<db:verify from='a.example' to='b.example' id='{own}'>k</db:verify>");
        assert!(said.contains(&question), "{said}");
        // Not where it was shown.
        let id = if id == "same" { own.clone() } else { id.to_owned() };
        end.write(asked, &verdict(from, "a.example", &id, kind));
        let said = end.read(shown);
        assert_eq!(said.contains("type='valid'"), proved, "{from} {id} {kind}: {said}");
        end.write(shown, &stanza("v@b.example", "u@a.example"));
        assert_eq!(end.delivered.len(), usize::from(proved), "{from} {id} {kind}");
    }
    // Said where it was shown.
    let mut end = Lone::new();
    let shown = end.accept(None);
    let own = id_of(&end.write(shown, &header("b.example", "a.example")));
    end.write(shown, &key("b.example", "a.example", ""));
    let asked = end.connect(None);
    end.write(asked, &format!("{}{}", answer("z"), features(OFFERS_DIALBACK)));
    end.write(shown, &verdict("b.example", "a.example", &own, "valid"));
    end.write(shown, &stanza("v@b.example", "u@a.example"));
    assert!(end.delivered.is_empty());
}

#[test]
fn each_pair_of_a_stream_is_proved_by_itself() {
    let mut of_b = partner("b.example");
    of_b.additional = vec![domain("bb.example")];
    let mut end = Lone::with(settings(&["a.example"], vec![of_b, partner("c.example")]));
    let stream = end.proved();
    // Another partner's domain has its own streams.
    assert!(end.write(stream, &key("c.example", "a.example", "")).contains("<not-allowed"));
    assert!(end.connects.is_empty());
    assert!(end.write(stream, &key("bb.example", "a.example", "")).is_empty());
    let asked = end.connect(None);
    let said = end.write(asked, &format!("{}{}", answer("z"), features(OFFERS_DIALBACK)));
    let own = said.split("id='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    end.write(asked, &verdict("bb.example", "a.example", &own, "valid"));
    assert!(end.read(stream).contains("from='a.example' to='bb.example' type='valid'"));
    end.write(stream, &stanza("v@bb.example", "u@a.example"));
    end.write(stream, &stanza("v@b.example", "u@a.example"));
    assert_eq!(end.delivered.len(), 2);
    let said = end.write(stream, &stanza("v@c.example", "u@a.example"));
    assert!(said.contains("<invalid-from"));
}

/// A question about a key of a domain that is none here is answered, and costs the others nothing.
#[test]
fn a_question_about_a_strange_domain_s_key_ends_no_proved_stream() {
    let mut end = Lone::new();
    let stream = end.proved();
    let question = "<db:verify from='x.example' to='a.example' id='7'>k</db:verify>";
    let said = end.write(stream, question);
    assert!(said.contains("type='error' id='7'") && said.contains("<item-not-found"), "{said}");
    assert!(end.closed.is_empty());
    let stream = end.accept(None);
    end.write(stream, &header("b.example", "a.example"));
    assert!(end.write(stream, question).contains("<host-unknown"));
}

#[test]
fn our_keys_are_known_again_and_others_are_not() {
    let mut end = Lone::new();
    send(&mut end, "a.example", "b.example");
    let stream = end.connect(None);
    let said = end.write(stream, &format!("{}{}", answer("id7"), features(OFFERS_DIALBACK)));
    let key = said.split("to='b.example'>").nth(1).unwrap().split('<').next().unwrap();
    for (from, to, id, key, valid) in [
        ("b.example", "a.example", "id7", key, true),
        ("b.example", "a.example", "id8", key, false),
        ("c.example", "a.example", "id7", key, false),
        ("b.example", "a.example", "id7", "", false),
        ("b.example", "a.example", "id7", &key[1..], false),
    ] {
        let question = format!("<db:verify from='{from}' to='{to}' id='{id}'>{key}</db:verify>");
        let asks = end.accept(None);
        end.write(asks, &header(from, to));
        let said = end.write(asks, &question);
        assert_eq!(said.contains("type='valid'"), valid, "{question}: {said}");
        assert_eq!(said.contains("type='invalid'"), !valid, "{question}: {said}");
    }
}

/// What was shown or proved before TLS is nothing after it (RFC 6120 section 5.4.3.3).
#[test]
fn a_key_shown_before_tls_proves_nothing_after_it() {
    let mut end = Lone::new();
    let shown = end.accept(None);
    let own = id_of(&end.write(shown, &header("b.example", "a.example")));
    end.write(shown, &key("b.example", "a.example", ""));
    let asked = end.connect(None);
    end.write(asked, &format!("{}{}", answer("z"), features(OFFERS_DIALBACK)));
    end.write(shown, STARTTLS);
    end.write(asked, &verdict("b.example", "a.example", &own, "valid"));
    assert!(end.read(shown).is_empty(), "nothing is written within the handshake");
    end.give(XmppInput::TlsDone { stream: shown, tls: good(&["x.example"]) });
    let new = id_of(&end.write(shown, &header("b.example", "a.example")));
    assert_ne!(new, own, "each stream has an id of its own");
    end.write(shown, &stanza("v@b.example", "u@a.example"));
    assert!(end.delivered.is_empty());
    // Proved first: then no TLS.
    let mut end = Lone::new();
    let shown = end.accept(None);
    let own = id_of(&end.write(shown, &header("b.example", "a.example")));
    end.write(shown, &key("b.example", "a.example", ""));
    let asked = end.connect(None);
    end.write(asked, &format!("{}{}", answer("z"), features(OFFERS_DIALBACK)));
    end.write(asked, &verdict("b.example", "a.example", &own, "valid"));
    assert!(end.read(shown).contains("type='valid'"));
    assert!(end.write(shown, STARTTLS).contains("<failure"));
}
