//! Bounds, strangers, inside servers, and what agreed features may do.

use std::{sync::Arc, time::Duration};

use rustls::pki_types::CertificateDer;

use super::{
    lone::{AUTH, Lone, answer, features, header, id_of, key, send, stanza, verdict},
    world::{UNIX, domain, good, message, names, pair, partner, policy, settings, tls},
};
use crate::xmpp::{
    io::{PeerCertificate, XmppInput, XmppRefusal, XmppSide},
    ns,
    settings::{XmppLimits, XmppPartner},
    xml::Element,
};

const OFFERS_DIALBACK: &str = "<dialback xmlns='urn:xmpp:features:dialback'/>";

#[test]
fn strangers_are_told_so_and_nothing_else() {
    let blocked = policy(settings(&["a.example"], vec![partner("b.example")]), &["b.example"]);
    let mut off = settings(&["a.example"], vec![partner("b.example")]);
    off.enabled = false;
    let off = policy(off, &[]);
    let cases = [
        (None, "b.example", "x.example", "host-unknown", XmppRefusal::UnknownDomain),
        (None, "d.example", "a.example", "host-unknown", XmppRefusal::UnknownDomain),
        (None, "a.example", "a.example", "host-unknown", XmppRefusal::UnknownDomain),
        (None, "sub.b.example", "a.example", "host-unknown", XmppRefusal::UnknownDomain),
        (None, "v@b.example", "a.example", "invalid-from", XmppRefusal::InvalidFrom),
        (Some(blocked), "b.example", "a.example", "policy-violation", XmppRefusal::DomainBlocked),
        (Some(off), "b.example", "a.example", "undefined-condition", XmppRefusal::Disabled),
    ];
    for (other, from, to, condition, reason) in cases {
        let mut end = Lone::new();
        if let Some(other) = other {
            let mut out = Vec::new();
            end.streams.set_policy(end.now, other, &mut out);
        }
        let stream = end.accept(Some(good(&["b.example", "d.example", "a.example"])));
        let said = end.write(stream, &header(from, to));
        assert!(said.contains(&format!("<{condition}")), "{from} {to}: {said}");
        assert!(!said.contains("features"), "{said}");
        assert_eq!(end.last_refusal(), Some(reason));
        // A stream without a name in its header, and a key that names a stranger.
        if reason == XmppRefusal::UnknownDomain && to == "a.example" {
            let stream = end.accept(None);
            end.write(stream, &header(from, to).replace(&format!("from='{from}'"), ""));
            end.write(stream, &key(from, to, ""));
            assert!(end.connects.is_empty(), "no connection is made for {from}");
            assert!(end.closed.contains(&stream));
        }
    }
}

#[test]
fn nobody_is_asked_to_wait_for_ever_or_to_take_everything() {
    // Time.
    let mut end = Lone::new();
    let stream = end.accept(None);
    end.pass(Duration::from_secs(59));
    assert!(end.closed.is_empty());
    end.write(stream, &header("b.example", "a.example"));
    end.pass(Duration::from_secs(2));
    assert_eq!(end.closed, [stream]);
    assert_eq!(end.last_refusal(), Some(XmppRefusal::Slow));
    // Bytes.
    let mut end = Lone::new();
    let stream = end.accept(None);
    end.write(stream, &header("b.example", "a.example"));
    for _ in 0..20 {
        end.write(stream, &" ".repeat(1000));
    }
    assert_eq!(end.closed, [stream]);
    assert_eq!(end.last_refusal(), Some(XmppRefusal::XmlLimit));
    // Connections of one source.
    let mut end = Lone::new();
    for _ in 0..20 {
        end.accept(None);
    }
    assert!(end.closed.is_empty());
    let last = end.accept(None);
    assert_eq!(end.closed, [last]);
    assert_eq!(end.last_refusal(), Some(XmppRefusal::Limit));
    // Streams of one partner.
    let few = XmppPartner { connections: Some(2), ..partner("b.example") };
    let mut end = Lone::with(settings(&["a.example"], vec![few]));
    end.proved();
    end.proved();
    let third = end.accept(Some(good(&["b.example"])));
    let said = end.write(third, &header("b.example", "a.example"));
    assert!(said.contains("<resource-constraint"), "{said}");
    // Who only says that it is the partner takes none of its places.
    let few = XmppPartner { connections: Some(2), ..partner("b.example") };
    let mut end = Lone::with(settings(&["a.example"], vec![few]));
    for _ in 0..5 {
        let stream = end.accept(Some(good(&["x.example"])));
        end.write(stream, &header("b.example", "a.example"));
    }
    end.proved();
    end.proved();
    assert!(end.closed.is_empty());
    assert!(end.refused.is_empty());
    // Streams in all.
    let mut all = settings(&["a.example"], vec![partner("b.example")]);
    all.limits.connections = 4;
    let mut end = Lone::with(all);
    // Of streams that prove nothing, the oldest makes room.
    let early = end.accept(None);
    end.accept(None);
    let late = end.accept(None);
    assert_eq!(end.closed, [early]);
    // Proved ones keep their places.
    for _ in 0..2 {
        end.proved();
    }
    assert!(end.closed.len() == 2 && !end.closed.contains(&late));
    end.accept(None);
    end.accept(None);
    assert_eq!(end.closed.last(), Some(&late));
    assert_eq!(end.streams.status(end.now).len(), 4);
    // They keep no stream of ours out, either.
    send(&mut end, "a.example", "b.example");
    assert_eq!((end.connects.len(), end.undelivered.len()), (1, 0));
    end.connects.clear();
    for _ in 0..2 {
        end.proved();
    }
    let last = end.accept(None);
    assert_eq!(end.closed.last(), Some(&last), "all others are proved");
    // Keys on one stream.
    let mut of_b = partner("b.example");
    of_b.additional = (0..20).map(|n| domain(&format!("b{n}.example"))).collect();
    let mut end = Lone::with(settings(&["a.example"], vec![of_b]));
    let stream = end.accept(None);
    end.write(stream, &header("b.example", "a.example"));
    for n in 0..20 {
        end.write(stream, &key(&format!("b{n}.example"), "a.example", ""));
    }
    assert_eq!(end.connects.len(), 8);
    assert_eq!(end.closed, [stream]);
}

#[test]
fn who_sends_faster_than_allowed_is_read_slower() {
    let mut slow = settings(&["a.example"], vec![partner("b.example")]);
    slow.limits.bytes_per_second = 1000;
    let mut end = Lone::with(slow);
    let stream = end.proved();
    end.pass(Duration::from_secs(10));
    end.write(stream, &" ".repeat(1900));
    assert!(end.pauses.is_empty());
    end.write(stream, &" ".repeat(600));
    assert_eq!(end.pauses, [end.now + Duration::from_millis(500)]);
}

#[test]
fn a_proof_ends_with_its_certificate() {
    let until = |seconds| tls(PeerCertificate::Valid(names(&["b.example"], Some(UNIX + seconds))));
    let prove = |end: &mut Lone, peer| {
        let stream = end.accept(Some(peer));
        end.write(stream, &header("b.example", "a.example"));
        end.write(stream, AUTH);
        end.write(stream, &header("b.example", "a.example"));
        stream
    };
    let mut end = Lone::new();
    let stream = prove(&mut end, until(100));
    end.pass(Duration::from_secs(99));
    assert!(end.closed.is_empty());
    end.pass(Duration::from_secs(2));
    assert_eq!(end.closed, [stream]);
    assert!(end.read(stream).contains("<reset "));
    // The wall clock was wrong.
    let mut end = Lone::new();
    let stream = prove(&mut end, until(100));
    end.streams.set_clock(end.now, UNIX + 99);
    end.pass(Duration::from_secs(2));
    assert_eq!(end.closed, [stream]);
    // An authority that it hangs on ends before it.
    let mut end = Lone::new();
    let mut named = (*names(&["b.example"], Some(UNIX + 1000))).clone();
    named.authorities_end = Some(UNIX + 100);
    let stream = prove(&mut end, tls(PeerCertificate::Valid(Arc::new(named))));
    end.pass(Duration::from_secs(99));
    assert!(end.closed.is_empty());
    end.pass(Duration::from_secs(2));
    assert_eq!(end.closed, [stream]);
    assert!(end.read(stream).contains("<reset "));
    // Found to be no longer good; what is there without a chain cannot be judged.
    let mut end = Lone::new();
    let plain = prove(&mut end, until(100));
    let mut peer = until(100);
    peer.chain = Arc::new([CertificateDer::from(vec![1])]);
    let stream = prove(&mut end, peer.clone());
    assert_eq!(end.streams.chains(), [(stream, XmppSide::Partner, peer.chain)]);
    let mut out = Vec::new();
    end.streams.no_longer_good(end.now, vec![(stream, "Revoked".to_owned())], &mut out);
    end.take(out);
    assert_eq!(end.closed, [stream]);
    let said = end.read(stream);
    assert!(said.contains("<reset ") && said.contains("Revoked"), "{said}");
    assert_eq!(end.last_refusal(), Some(XmppRefusal::Certificate));
    end.write(plain, &stanza("u@b.example", "v@a.example"));
    assert_eq!(end.delivered.len(), 1, "the other goes on");
}

/// Who can prove itself by nothing is told so, and the operator sees why.
#[test]
fn a_certificate_that_does_not_do_is_named_where_nothing_else_may() {
    let strict = XmppPartner { dialback: false, ..partner("b.example") };
    let mut end = Lone::with(settings(&["a.example"], vec![strict]));
    let stream = end.accept(Some(good(&["x.example"])));
    let said = end.write(stream, &header("b.example", "a.example"));
    let words = "its certificate (CN=x.example) does not name b.example";
    assert!(said.contains("<not-authorized") && said.contains(words), "{said}");
    let (reason, text) = end.refused.last().unwrap();
    assert_eq!(*reason, XmppRefusal::Certificate);
    assert!(text.contains(words) && text.contains("the stream from b.example"), "{text}");
    assert!(text.contains("_xmpp-server.b.example is needed"), "{text}");
    assert_eq!(end.claimed, Some(domain("b.example")));
    // Of one that is known by its certificate it is no claim.
    let stream = end.accept(Some(good(&["b.example"])));
    end.write(stream, &header("b.example", "a.example"));
    end.write(stream, "<!-- x -->");
    assert_eq!((end.last_refusal(), end.claimed), (Some(XmppRefusal::Xml), None));
}

/// Both ways on one connection where certificates prove both ends, and by the right namespaces.
#[test]
fn bidi_is_for_good_certificates() {
    let bidi = "<bidi xmlns='urn:xmpp:bidi'/>";
    let mut end = Lone::new();
    let stream = end.accept(Some(good(&["b.example"])));
    let said = end.write(stream, &header("b.example", "a.example"));
    assert!(said.contains("<bidi xmlns='urn:xmpp:features:bidi'/>"), "{said}");
    end.write(stream, bidi);
    end.write(stream, AUTH);
    send(&mut end, "a.example", "b.example");
    assert!(!end.read(stream).contains("<message"), "not before the new stream");
    end.write(stream, &header("b.example", "a.example"));
    send(&mut end, "a.example", "b.example");
    assert!(end.read(stream).contains("<message"));
    // Without it, not on this connection.
    let mut end = Lone::new();
    let stream = end.proved();
    send(&mut end, "a.example", "b.example");
    assert!(end.read(stream).is_empty());
    assert_eq!(end.connects.len(), 1);
    // By the feature's name, or where it was not offered.
    for (peer, text) in [
        (Some(good(&["b.example"])), "<bidi xmlns='urn:xmpp:features:bidi'/>"),
        (Some(good(&["x.example"])), bidi),
        (None, bidi),
    ] {
        let mut end = Lone::new();
        let stream = end.accept(peer);
        end.write(stream, &header("b.example", "a.example"));
        end.write(stream, text);
        assert_eq!(end.closed, [stream]);
    }
    // On a stream that we opened, nothing comes back that was not agreed on.
    let mut end = Lone::new();
    send(&mut end, "a.example", "b.example");
    let stream = end.connect(None);
    end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_DIALBACK)));
    end.write(stream, &key("b.example", "a.example", "valid"));
    assert!(end.undelivered.is_empty());
    end.write(stream, &stanza("v@b.example", "u@a.example"));
    assert!(end.delivered.is_empty());
    assert_eq!(end.last_refusal(), Some(XmppRefusal::NotAuthorized));
}

#[test]
fn acks_count_and_do_not_lie() {
    let mut end = Lone::new();
    let stream = end.proved();
    assert!(
        end.write(stream, "<enable xmlns='urn:xmpp:sm:3' resume='true'/>").contains("<enabled")
    );
    end.write(stream, &stanza("v@b.example", "u@a.example").repeat(3));
    assert_eq!(end.write(stream, "<r xmlns='urn:xmpp:sm:3'/>"), "<a xmlns='urn:xmpp:sm:3' h='3'/>");
    let said = end.write(stream, "<a xmlns='urn:xmpp:sm:3' h='7'/>");
    assert!(said.contains("<undefined-condition"), "{said}");
    // Not before proof, and no resumption.
    for text in
        ["<enable xmlns='urn:xmpp:sm:3'/>", "<resume xmlns='urn:xmpp:sm:3' previd='x' h='0'/>"]
    {
        let mut end = Lone::new();
        let stream = end.accept(Some(good(&["b.example"])));
        end.write(stream, &header("b.example", "a.example"));
        assert!(end.write(stream, text).contains("<not-authorized"));
    }
    let mut end = Lone::new();
    let stream = end.proved();
    let said = end.write(stream, "<resume xmlns='urn:xmpp:sm:3' previd='x' h='0'/>");
    assert!(said.contains("<unsupported-stanza-type"));
}

#[test]
fn the_gateway_hears_what_becomes_of_its_messages_and_of_nothing_else() {
    for acks in [false, true] {
        let mut end = Lone::new();
        let offer = if acks { "<sm xmlns='urn:xmpp:sm:3'/>" } else { "" };
        let say = |end: &mut Lone, id: &str, name: &'static str| {
            let mut stanza = Element::new(ns::SERVER, name).with("id", id.to_owned());
            stanza.set("from", "u@a.example");
            stanza.set("to", "v@b.example");
            let pair = pair("a.example", "b.example");
            end.give(XmppInput::Send { pair, side: XmppSide::Partner, stanza });
        };
        say(&mut end, "m1", "message");
        let stream = end.connect(None);
        let offers = format!("{OFFERS_DIALBACK}{offer}");
        end.write(stream, &format!("{}{}", answer("i"), features(&offers)));
        assert!(end.passed.is_empty(), "nothing is written yet");
        end.write(stream, &key("b.example", "a.example", "valid"));
        say(&mut end, "p1", "presence");
        say(&mut end, "m2", "message");
        let expected = [("m1".to_owned(), acks), ("m2".to_owned(), acks)];
        if acks {
            assert!(end.passed.is_empty(), "nothing is acknowledged yet");
            end.write(stream, "<enabled xmlns='urn:xmpp:sm:3'/><a xmlns='urn:xmpp:sm:3' h='2'/>");
            assert_eq!(end.passed, expected[..1]);
            end.write(stream, "<a xmlns='urn:xmpp:sm:3' h='3'/>");
        }
        assert_eq!(end.passed, expected, "acks {acks}");
    }
}

#[test]
fn the_other_end_s_limits_are_obeyed() {
    let limits = "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>12000</max-bytes></limits>";
    let mut end = Lone::new();
    send(&mut end, "a.example", "b.example");
    let stream = end.connect(None);
    end.write(
        stream,
        &format!("{}{}", answer("i"), features(&format!("{OFFERS_DIALBACK}{limits}"))),
    );
    end.write(stream, &key("b.example", "a.example", "valid"));
    let long = message("u@a.example", "v@b.example", &"x".repeat(12_000));
    end.give(XmppInput::Send {
        pair: pair("a.example", "b.example"),
        side: XmppSide::Partner,
        stanza: long,
    });
    assert_eq!(end.undelivered.last().unwrap().1, "policy-violation");
    assert!(end.read(stream).is_empty());
    // And ours are told.
    let mut end = Lone::new();
    let stream = end.accept(None);
    let said = end.write(stream, &header("b.example", "a.example"));
    assert!(said.contains("<max-bytes>262144</max-bytes><idle-seconds>600</idle-seconds>"));
}

/// As long as a stanza may be, it may be the first.
#[test]
fn a_long_stanza_waits_for_a_stream_as_any_other() {
    let mut end = Lone::new();
    let long = message("u@a.example", "v@b.example", &"x".repeat(200_000));
    let send = |stanza| XmppInput::Send {
        pair: pair("a.example", "b.example"),
        side: XmppSide::Partner,
        stanza,
    };
    end.give(send(long.clone()));
    assert!(end.undelivered.is_empty());
    end.give(send(long));
    assert_eq!(end.undelivered.len(), 1, "one alone");
    let stream = end.connect(None);
    end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_DIALBACK)));
    assert!(end.write(stream, &key("b.example", "a.example", "valid")).len() > 200_000);
}

/// Many domains of ours on one stream: what is past its bound has a stream of its own.
#[test]
fn a_stream_carries_so_many_pairs_and_no_more() {
    let names: Vec<String> = (0..70).map(|n| format!("a{n}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut end = Lone::with(settings(&names, vec![partner("b.example")]));
    send(&mut end, names[0], "b.example");
    let stream = end.connect(None);
    end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_DIALBACK)));
    end.write(stream, &key("b.example", names[0], "valid"));
    for name in &names[1..] {
        send(&mut end, name, "b.example");
        if end.read(stream).contains("<db:result") {
            end.write(stream, &key("b.example", name, "valid"));
        }
    }
    assert_eq!(end.connects.len(), 70 - 64);
    assert_eq!(end.streams.status(end.now)[0].proved.len(), 64);
    // And those that are asked for count.
    let mut end = Lone::with(settings(&names, vec![partner("b.example")]));
    send(&mut end, names[0], "b.example");
    let stream = end.connect(None);
    end.write(stream, &format!("{}{}", answer("i"), features(OFFERS_DIALBACK)));
    end.write(stream, &key("b.example", names[0], "valid"));
    for name in &names[1..] {
        send(&mut end, name, "b.example");
    }
    assert_eq!(end.read(stream).matches("<db:result").count(), 63);
}

#[test]
fn an_inside_connection_speaks_for_inside_domains_alone() {
    let mut ours = settings(&["a.example", "in.example"], vec![partner("b.example")]);
    ours.inside = vec![(vec![domain("in.example")], (domain("host.in.example"), 5269))];
    let cases = [
        (XmppSide::Inside, good(&["in.example"]), "in.example", "b.example", true),
        (XmppSide::Inside, good(&["host.in.example"]), "in.example", "b.example", true),
        (XmppSide::Inside, good(&["x.example"]), "in.example", "b.example", false),
        (XmppSide::Inside, good(&["in.example"]), "a.example", "b.example", false),
        (XmppSide::Inside, good(&["in.example"]), "in.example", "d.example", false),
        (XmppSide::Inside, good(&["b.example"]), "b.example", "in.example", false),
        (XmppSide::Partner, good(&["in.example"]), "in.example", "b.example", false),
    ];
    for (side, peer, from, to, opens) in cases {
        let mut end = Lone::with(ours.clone());
        let stream = end.accept_on(side, Some(peer));
        let said = end.write(stream, &header(from, to));
        assert_eq!(said.contains("EXTERNAL"), opens, "{side:?} {from} {to}: {said}");
        // A key is no way round the certificate.
        let said = end.write(stream, &format!("<db:result from='{from}' to='{to}'>k</db:result>"));
        assert_eq!(said.contains("type='valid'"), opens, "{side:?} {from} {to}: {said}");
        end.write(stream, &stanza(&format!("u@{from}"), &format!("v@{to}")));
        assert!(end.delivered.is_empty());
        // What is carried outside waits for a stream to the partner.
        assert_eq!(end.connects.len(), usize::from(opens), "{side:?} {from} {to}");
    }
}

#[test]
fn policy_that_changes_while_a_key_is_verified_wins() {
    let mut end = Lone::new();
    let shown = end.accept(None);
    let own = id_of(&end.write(shown, &header("b.example", "a.example")));
    end.write(shown, &key("b.example", "a.example", ""));
    let asked = end.connect(None);
    end.write(asked, &format!("{}{}", answer("z"), features(OFFERS_DIALBACK)));
    let strict = XmppPartner { dialback: false, ..partner("b.example") };
    let mut out = Vec::new();
    let policy = policy(settings(&["a.example"], vec![strict]), &[]);
    end.streams.set_policy(end.now, policy, &mut out);
    end.take(out);
    end.write(asked, &verdict("b.example", "a.example", &own, "valid"));
    end.write(shown, &stanza("v@b.example", "u@a.example"));
    assert!(end.delivered.is_empty());
}

/// Each bound of XML is the configured one, in what is read of a stream.
#[test]
fn configured_bounds_are_those_that_act() {
    type Row = (fn(&mut XmppLimits), fn(usize) -> String, usize);
    let message =
        |inside: &str| format!("<message from='u@b.example' to='v@a.example'>{inside}</message>");
    let deep = |n: usize| "<a>".repeat(n - 1) + &"</a>".repeat(n - 1);
    let attributes = |n: usize| {
        let all: String = (0..n).map(|n| format!(" a{n}=''")).collect();
        format!("<a{all}/>")
    };
    let namespaces = |n: usize| {
        let all: String = (0..n).map(|n| format!(" xmlns:p{n}='urn:{n}'")).collect();
        format!("<a{all}/>")
    };
    let long = |n: usize| "x".repeat(n - 55);
    let rows: [Row; 8] = [
        (|limits| limits.depth = 8, deep, 8),
        (|limits| limits.depth = 40, deep, 40),
        (|limits| limits.attributes = 10, attributes, 10),
        (|limits| limits.attributes = 90, attributes, 90),
        (|limits| limits.namespaces = 8, namespaces, 8),
        (|limits| limits.namespaces = 50, namespaces, 50),
        (|limits| limits.stanza_bytes = 10_000, long, 10_000),
        (|limits| limits.stanza_bytes = 20_000, long, 20_000),
    ];
    for (n, (set, make, most)) in rows.into_iter().enumerate() {
        let mut ours = settings(&["a.example"], vec![partner("b.example")]);
        set(&mut ours.limits);
        let mut end = Lone::with(ours);
        let stream = end.proved();
        end.write(stream, &message(&make(most)));
        assert_eq!((end.delivered.len(), end.last_refusal()), (1, None), "{n}");
        end.write(stream, &message(&make(most + 1)));
        assert_eq!(end.delivered.len(), 1, "{n}");
        assert_eq!(end.last_refusal(), Some(XmppRefusal::XmlLimit), "{n}");
    }
    for first_bytes in [4096, 8192] {
        let mut ours = settings(&["a.example"], vec![partner("b.example")]);
        ours.limits.first_bytes = first_bytes;
        let mut end = Lone::with(ours);
        let stream = end.accept(None);
        let head = header("b.example", "a.example");
        end.write(stream, &format!("{head}{}", " ".repeat(first_bytes - head.len())));
        assert_eq!(end.last_refusal(), None, "{first_bytes}");
        end.write(stream, " ");
        assert_eq!(end.last_refusal(), Some(XmppRefusal::XmlLimit), "{first_bytes}");
    }
}

/// XEP-0478 section 3: the limits of a connection that is used both ways stand in `<bidi/>`.
#[test]
fn limits_of_both_ways_are_said_and_obeyed() {
    let limits = "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>12000</max-bytes>\
                  <idle-seconds>100</idle-seconds></limits>";
    let mut end = Lone::new();
    let stream = end.accept(Some(good(&["b.example"])));
    end.write(stream, &header("b.example", "a.example"));
    end.write(stream, &format!("<bidi xmlns='urn:xmpp:bidi'>{limits}</bidi>"));
    end.write(stream, AUTH);
    end.write(stream, &header("b.example", "a.example"));
    let send_long = |end: &mut Lone, length: usize| {
        let stanza = message("u@a.example", "v@b.example", &"x".repeat(length));
        end.give(XmppInput::Send {
            pair: pair("a.example", "b.example"),
            side: XmppSide::Partner,
            stanza,
        });
    };
    send_long(&mut end, 11_000);
    assert!(end.read(stream).contains("<message"));
    send_long(&mut end, 13_000);
    assert_eq!(end.undelivered.last().unwrap().1, "policy-violation");
    // It is written to before it thinks the stream idle.
    end.pass(Duration::from_secs(76));
    assert!(end.read(stream).contains("<ping "));
    // And ours are said, where we open it.
    let mut end = Lone::new();
    send(&mut end, "a.example", "b.example");
    let stream = end.connect(Some(good(&["b.example"])));
    let offers = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL\
                  </mechanism></mechanisms><bidi xmlns='urn:xmpp:features:bidi'/>";
    let said = end.write(stream, &format!("{}{}", answer("i"), features(offers)));
    let bidi = said.split("<bidi ").nth(1).unwrap().split("</bidi>").next().unwrap();
    assert!(bidi.contains("<max-bytes>262144</max-bytes>"), "{said}");
    assert!(bidi.contains("<idle-seconds>600</idle-seconds>"), "{said}");
}

/// A partner that wants none is not asked whether it lives.
#[test]
fn who_wants_no_keep_alive_is_not_asked() {
    for (keep_alive, asked) in [(true, true), (false, false)] {
        let entry = XmppPartner { keep_alive, ..partner("b.example") };
        let mut end = Lone::with(settings(&["a.example"], vec![entry]));
        send(&mut end, "a.example", "b.example");
        let stream = end.connect(None);
        end.write(stream, &format!("{}{}", answer("i"), features("")));
        end.write(stream, "<db:result from='b.example' to='a.example' type='valid'/>");
        end.read(stream);
        end.pass(Duration::from_secs(310));
        assert_eq!(end.read(stream).contains("<ping "), asked);
        assert!(end.closed.is_empty());
    }
}
