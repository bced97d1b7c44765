//! What a proxy does beside routing: RFC 3261 section 16.3, 3325, 4028, 4320, 5393, 5923, and what
//! it must not do by what a message says of itself.

use std::time::Duration;

use super::*;
use crate::config::Transport;

const SANS: [&str; 1] = ["fabrikam.example"];

fn partner(world: &mut World) -> ConnectionId {
    world.partner(CONTOSO, "203.0.113.20:5000", &SANS)
}

fn inbound(method: &'static str) -> Req {
    Req::new(method, "fabrikam.example", "contoso.example")
}

/// A request of the method to contoso, from outside or from inside, with a change; the mail.
fn said(outside: bool, method: &'static str, change: impl Fn(&mut Req)) -> (World, Vec<String>) {
    let mut world = World::new();
    let (sender, mut request) = match outside {
        true => (partner(&mut world), inbound(method)),
        false => {
            let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
            (alice, Req::new(method, "contoso.example", "fabrikam.example"))
        }
    };
    change(&mut request);
    world.say(CONTOSO, sender, &request.text());
    let mail = [world.mail(CONTOSO), world.mail(FABRIKAM)].concat();
    (world, mail.into_iter().map(|(_, text)| text).collect())
}

#[test]
fn what_is_asked_before_the_route_rfc_3261_16_3() {
    type Row = (&'static str, &'static str, &'static str, Option<&'static str>);
    // Method, header, Request-URI ("" leaves it): the status, or None when it passes.
    let rows: &[Row] = &[
        ("MESSAGE", "X: y", "", None),
        ("MESSAGE", "X: y", "nobodyKnowsThisScheme:totallyopaquecontent", Some("416")),
        ("INVITE", "X: y", "soap.beep://192.0.2.103:3002", Some("416")),
        ("MESSAGE", "Proxy-Require: a, b", "", Some("420")),
        ("MESSAGE", "pRoXy-ReQuIrE :\r\n a", "", Some("420")),
        ("MESSAGE", "Proxy-Require:", "", None),
        ("MESSAGE", "Require: nothingSupportsThis", "", None),
        ("NEGOTIATE", "X: y", "", Some("405")),
        ("NEGOTIATE", "Compression: LZ77-64K", "", Some("405")),
        ("Negotiate", "X: y", "", None),
        ("MESSAGE", "Max-Breadth: 0", "", Some("440")),
        ("INVITE", "Max-Breadth: 00", "", Some("440")),
        ("MESSAGE", "Max-Breadth: 1", "", None),
        ("MESSAGE", "Max-Breadth: 99999999999999999999", "", None),
        ("MESSAGE", "Max-Breadth: -1", "", Some("400")),
        ("MESSAGE", "Max-Breadth: 3\r\nMax-Breadth: 3", "", Some("400")),
        ("MESSAGE", "Max-Breadth:", "", Some("400")),
    ];
    for outside in [true, false] {
        for (method, header, uri, expected) in rows {
            let (world, mail) = said(outside, method, |request| {
                request.headers.push((*header).into());
                if !uri.is_empty() {
                    request.uri = (*uri).into();
                }
            });
            let passed = mail.iter().any(|text| text.starts_with(method));
            assert_eq!(passed, expected.is_none(), "{method} {header} {uri}: {mail:#?}");
            if let Some(status) = expected {
                assert!(mail[0].starts_with(&format!("SIP/2.0 {status} ")), "{header} {mail:#?}");
                assert_eq!(world.live(), 0, "nothing is kept");
            }
        }
    }
    let (_, mail) = said(true, "OPTIONS", |request| {
        request.headers.push("Proxy-Require: a ,b".into());
        request.headers.push("Proxy-Require: c".into());
    });
    assert_eq!(headers(&mail[0], "Unsupported"), ["a, b, c"]);
    let (_, mail) = said(true, "NEGOTIATE", |_| {});
    let allowed = headers(&mail[0], "Allow");
    assert!(allowed[0].contains("INVITE") && !allowed[0].contains("NEGOTIATE"), "{allowed:?}");
}

/// RFC 3261 section 16.7 step 3: it would go back to nobody.
#[test]
fn a_response_that_lost_the_via_of_whoever_asked_goes_no_further() {
    for method in ["MESSAGE", "INVITE"] {
        let mut world = World::new();
        let partner = partner(&mut world);
        world.say(CONTOSO, partner, &inbound(method).text());
        let (server, got) = world.mail(CONTOSO).pop().unwrap();
        let whole = answer(&got, "200 OK", Some("b1"));
        let vias: Vec<&str> =
            whole.split("\r\n").filter(|line| line.starts_with("Via: ")).collect();
        assert_eq!(vias.len(), 2);
        world.say(CONTOSO, server, &whole.replacen(&format!("{}\r\n", vias[1]), "", 1));
        assert_eq!(world.mail(CONTOSO), [], "{method}");
        assert_eq!(world.refused(CONTOSO, Refusal::Malformed), 1);
        world.say(CONTOSO, server, &whole);
        world.expect(CONTOSO, partner, "SIP/2.0 200 OK\r\n");
    }
}

#[test]
fn an_ack_is_never_answered_whatever_is_wrong_with_it() {
    for header in ["Proxy-Require: a", "Max-Breadth: 0", "Max-Breadth: x", "CSeq: x"] {
        let (_, mail) = said(true, "ACK", |request| {
            request.headers.push(header.into());
            request.uri = "nobodyKnowsThisScheme:x".into();
        });
        assert_eq!(mail, [""; 0], "{header}");
    }
}

#[test]
fn a_method_that_nobody_knows_with_anothers_cseq_is_not_implemented() {
    // RFC 4475 sections 3.1.2.17 and 3.1.2.18.
    for (method, cseq, expected) in
        [("OPTIONS", "8 INVITE", "400"), ("NEWMETHOD", "8 INVITE", "501"), ("X", "8", "400")]
    {
        let mut world = World::new();
        let partner = partner(&mut world);
        let text = inbound(method).text();
        let (before, rest) = text.split_once("CSeq: ").unwrap();
        let (_, after) = rest.split_once("\r\n").unwrap();
        world.say(CONTOSO, partner, &format!("{before}CSeq: {cseq}\r\n{after}"));
        world.expect(CONTOSO, partner, &format!("SIP/2.0 {expected} "));
    }
}

#[test]
fn max_breadth_is_put_in_and_passed_on_rfc_5393_5_3() {
    for (method, header, expected) in [
        ("MESSAGE", "X: y", vec!["60"]),
        ("INVITE", "X: y", vec!["60"]),
        ("MESSAGE", "max-breadth: 7", vec!["7"]),
    ] {
        let (_, mail) = said(true, method, |request| request.headers.push(header.into()));
        let got = mail.iter().find(|text| text.starts_with(method)).unwrap();
        assert_eq!(headers(got, "Max-Breadth"), expected, "{got}");
    }
    // Tries one after the other are one branch: each gets all of it.
    let mut world = World::new();
    let partner = partner(&mut world);
    let request = inbound("INVITE").with("Max-Breadth: 1");
    world.say(CONTOSO, partner, &request.text());
    let (first, got) = world.mail(CONTOSO).remove(1);
    world.say(CONTOSO, first, &answer(&got, "503 Service Unavailable", Some("b1")));
    let mail = world.mail(CONTOSO);
    let (_, second) = mail.iter().find(|(_, got)| got.starts_with("INVITE")).unwrap();
    assert_eq!(headers(second, "Max-Breadth"), ["1"]);
}

#[test]
fn what_is_no_invite_gets_100_after_a_while_and_nothing_else_that_is_provisional_rfc_4320() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut world = World::new();
        let alice = world.inside(CONTOSO, transport, "10.0.0.5:5060");
        let request = Req::new("MESSAGE", "contoso.example", "fabrikam.example");
        world.say(CONTOSO, alice, &request.text());
        let (bob, got) = world.one(FABRIKAM);
        world.say(FABRIKAM, bob, &answer(&got, "180 Ringing", Some("b1")));
        world.pass(Duration::from_millis(3499));
        assert_eq!(world.mail(CONTOSO), [], "nothing before timer E would reach T2");
        world.say(CONTOSO, alice, &request.text());
        assert_eq!(world.mail(CONTOSO), [], "nor when it comes again");
        world.pass(Duration::from_millis(1));
        world.expect(CONTOSO, alice, "SIP/2.0 100 Trying\r\n");
        world.say(CONTOSO, alice, &request.text());
        world.expect(CONTOSO, alice, "SIP/2.0 100 Trying\r\n");
        world.say(FABRIKAM, bob, &answer(&got, "200 OK", Some("b1")));
        world.expect(CONTOSO, alice, "SIP/2.0 200 OK\r\n");
        world.pass(Duration::from_secs(33));
        assert_eq!(world.mail(CONTOSO), []);
        assert_eq!(world.live(), 0);
    }
    // An answer in time leaves no 100 behind, and a late one is not passed on (section 4.2).
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Udp, "10.0.0.5:5060");
    world.say(CONTOSO, alice, &Req::new("MESSAGE", "contoso.example", "fabrikam.example").text());
    let (bob, got) = world.one(FABRIKAM);
    world.pass(Duration::from_secs(33));
    world.expect(CONTOSO, alice, "SIP/2.0 100 Trying\r\n");
    world.say(FABRIKAM, bob, &answer(&got, "200 OK", Some("b1")));
    assert_eq!(world.mail(CONTOSO), []);
    assert_eq!(world.live(), 0);
}

#[test]
fn an_answer_goes_over_another_connection_of_the_same_partner_when_its_own_is_gone() {
    for (other, takes) in [
        (Some(&SANS[..]), true),
        (Some(&["third.example"][..]), false),
        (Some(&["fabrikam.example", "third.example"][..]), false),
        (None, false),
    ] {
        for method in ["MESSAGE", "INVITE"] {
            let mut world = World::new();
            world.listeners.remove(&address("203.0.113.20:5061"));
            let first = partner(&mut world);
            let second = other.map(|sans| world.partner(CONTOSO, "203.0.113.21:5001", sans));
            world.say(CONTOSO, first, &inbound(method).text());
            let (server, got) = world.mail(CONTOSO).pop().unwrap();
            world.say(CONTOSO, server, &answer(&got, "183 Progress", Some("b1")));
            world.mail(CONTOSO);
            world.cut(CONTOSO, first);
            let cancelled = world.mail(CONTOSO);
            assert_eq!(cancelled.len(), usize::from(!takes && method == "INVITE"), "{cancelled:?}");
            world.say(CONTOSO, server, &answer(&got, "486 Busy Here", Some("b1")));
            let mail = world.mail(CONTOSO);
            let answers: Vec<_> = mail.iter().filter(|(at, _)| *at != server).collect();
            assert_eq!(answers.len(), usize::from(takes), "{method} {other:?}: {mail:?}");
            if let Some((at, got)) = answers.first() {
                assert_eq!(Some(*at), second);
                assert!(got.starts_with("SIP/2.0 486 "), "{got}");
                // Its Via is as it was noted when it came.
                assert!(headers(got, "Via")[0].contains(";received=203.0.113.20;rport=5000"));
            }
        }
    }
}

#[test]
fn an_answer_inside_goes_over_another_connection_of_the_same_server() {
    for (other, transport, takes) in [
        ("10.0.0.5:40001", Transport::Tcp, true),
        ("10.0.0.6:40001", Transport::Tcp, false),
        ("10.0.0.5:40001", Transport::Udp, false),
    ] {
        let mut world = World::new();
        let first = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
        let second = world.inside(CONTOSO, transport, other);
        let request = Req::new("MESSAGE", "contoso.example", "fabrikam.example");
        world.say(CONTOSO, first, &request.text());
        let (bob, got) = world.one(FABRIKAM);
        world.cut(CONTOSO, first);
        world.say(FABRIKAM, bob, &answer(&got, "200 OK", Some("b1")));
        match takes {
            true => drop(world.expect(CONTOSO, second, "SIP/2.0 200 OK")),
            false => assert_eq!(world.mail(CONTOSO), [], "{other}"),
        }
    }
}

#[test]
fn identities_stay_in_their_trust_domain_rfc_3325() {
    const PAI: &str = "P-Asserted-Identity: <sip:alice@contoso.example>";
    type Row = (bool, &'static [&'static str], &'static str, usize);
    // From outside?, headers, the header that is counted, how many are left.
    let rows: &[Row] = &[
        (false, &[PAI], "P-Asserted-Identity", 1),
        (false, &[PAI, "Privacy: none"], "P-Asserted-Identity", 1),
        (false, &[PAI, "Privacy: id"], "P-Asserted-Identity", 0),
        (false, &[PAI, "privacy: header ; ID;critical"], "P-Asserted-Identity", 0),
        (false, &[PAI, "P-Asserted-Identity: <tel:+1>", "Privacy: id"], "P-Asserted-Identity", 0),
        (false, &["P-Preferred-Identity: <sip:x@contoso.example>"], "P-Preferred-Identity", 0),
        (true, &["P-Preferred-Identity: <sip:x@contoso.example>"], "P-Preferred-Identity", 0),
        (
            true,
            &["P-Asserted-Identity: <sip:alice@fabrikam.example>", "Privacy: id"],
            "P-Asserted-Identity",
            1,
        ),
        (true, &["Privacy: id"], "Privacy", 1),
        (true, &["Remote-Party-ID: <sip:a@fabrikam.example>"], "Remote-Party-ID", 1),
        (false, &["Remote-Party-ID: <sip:a@contoso.example>"], "Remote-Party-ID", 1),
    ];
    for (outside, lines, counted, expected) in rows {
        let (_, mail) = said(*outside, "MESSAGE", |request| {
            request.headers.extend(lines.iter().map(|line| (*line).to_owned()));
        });
        assert!(mail[0].starts_with("MESSAGE "), "{lines:?}: {mail:?}");
        assert_eq!(headers(&mail[0], counted).len(), *expected, "{lines:?}");
    }
    for claim in ["<sip:ceo@contoso.example>", "\"CEO\" <sips:ceo@CONTOSO.example.>;party=calling"]
    {
        let claim = format!("Remote-Party-ID: {claim}");
        let (world, mail) = said(true, "INVITE", |request| request.headers.push(claim.clone()));
        assert!(mail[0].starts_with("SIP/2.0 403 "), "{claim}: {mail:?}");
        assert_eq!(world.refused(CONTOSO, Refusal::Spoofed), 1);
    }
    // In an answer too: who answered stays inside when it wishes so.
    let mut world = World::new();
    let partner = partner(&mut world);
    world.say(CONTOSO, partner, &inbound("MESSAGE").text());
    let (server, got) = world.one(CONTOSO);
    let with = format!("{PAI}\r\nPrivacy: id\r\nContent-Length");
    world.say(
        CONTOSO,
        server,
        &answer(&got, "200 OK", Some("b1")).replace("Content-Length", &with),
    );
    let got = world.expect(CONTOSO, partner, "SIP/2.0 200 OK");
    assert_eq!(headers(&got, "P-Asserted-Identity").len(), 0);
}

#[test]
fn a_keep_alive_is_agreed_on_by_neighbours_only() {
    for (offer, agreed) in [
        ("Ms-Keep-Alive: UAC;hop-hop=yes", true),
        ("ms-keep-alive: uac ; tcp=no; HOP-HOP=yes", true),
        ("Ms-Keep-Alive: UAC;hop-hop=no", false),
        ("Ms-Keep-Alive: UAS;hop-hop=yes", false),
        ("X: y", false),
    ] {
        let mut world = World::new();
        let partner = partner(&mut world);
        world.say(CONTOSO, partner, &inbound("MESSAGE").with(offer).text());
        let (server, got) = world.one(CONTOSO);
        assert_eq!(headers(&got, "Ms-Keep-Alive").len(), 0, "{offer}");
        let with = "Ms-Keep-Alive: UAS;hop-hop=yes;timeout=5\r\nContent-Length";
        world.say(
            CONTOSO,
            server,
            &answer(&got, "200 OK", Some("b1")).replace("Content-Length", with),
        );
        let got = world.expect(CONTOSO, partner, "SIP/2.0 200 OK");
        let said = headers(&got, "Ms-Keep-Alive");
        assert_eq!(said.len(), usize::from(agreed), "{offer}: {said:?}");
        assert!(said.iter().all(|said| said.ends_with("timeout=300")), "{said:?}");
    }
}

#[test]
fn what_a_message_says_of_itself_opens_nothing() {
    // RFC 8224 Identity, RFC 5923 alias, RFC 3261 maddr and received: none proves, none leads.
    let lines = [
        "Identity: \"c2lnbmVk\";info=<https://third.example/cert>;alg=ES256",
        "y: c2lnbmVk",
        "Authorization: Digest username=\"a\"",
    ];
    for line in lines {
        let mut world = World::new();
        let stranger = world.partner(CONTOSO, "203.0.113.99:5000", &["third.example"]);
        world.say(CONTOSO, stranger, &inbound("MESSAGE").with(line).text());
        world.expect(CONTOSO, stranger, "SIP/2.0 403 ");
        assert_eq!(world.refused(CONTOSO, Refusal::IdentityNotProved), 1, "{line}");
    }
    for via in [
        "evil.example;alias",
        "fabrikam.example;alias;maddr=10.0.0.21",
        "10.0.0.21:5060;received=10.0.0.22;rport=5060",
        "[::1];maddr=239.1.1.1;ttl=1",
    ] {
        let mut world = World::new();
        let partner = partner(&mut world);
        let mut request = inbound("MESSAGE");
        request.sent_by = via.into();
        let text = request.text().replace(";rport\r\n", "\r\n");
        world.say(CONTOSO, partner, &text);
        let (server, got) = world.one(CONTOSO);
        assert!(headers(&got, "Via")[1].contains(";received=203.0.113.20"), "{got}");
        world.say(CONTOSO, server, &answer(&got, "200 OK", Some("b1")));
        let connects = world.edges[CONTOSO].connects.clone();
        assert_eq!(connects, [address("10.0.0.21:5060")], "{via}");
        world.expect(CONTOSO, partner, "SIP/2.0 200 OK");
    }
}

#[test]
fn there_is_one_from_however_it_is_written() {
    let second = [
        "From: <sip:ceo@contoso.example>;tag=z",
        "f: <sip:ceo@contoso.example>;tag=z",
        "fRoM  :\r\n <sip:ceo@contoso.example>;tag=z",
        "F\t:<sip:alice@fabrikam.example>;tag=a1",
    ];
    for line in second {
        for first in [true, false] {
            let mut world = World::new();
            let partner = partner(&mut world);
            let text = inbound("MESSAGE").text();
            let (place, with) = match first {
                true => ("From: ", format!("{line}\r\nFrom: ")),
                false => ("Call-ID: ", format!("{line}\r\nCall-ID: ")),
            };
            world.say(CONTOSO, partner, &text.replacen(place, &with, 1));
            world.expect(CONTOSO, partner, "SIP/2.0 400 ");
            assert_eq!(world.refused(CONTOSO, Refusal::Malformed), 1, "{line}");
        }
    }
    // One inside a body is text, whatever the body is.
    for kind in ["message/sip", "multipart/mixed; boundary=b"] {
        let (_, mail) = said(true, "MESSAGE", |request| {
            request.headers.push(format!("Content-Type: {kind}"));
            request.body = "--b\r\n\r\nFrom: <sip:ceo@contoso.example>;tag=z\r\n--b--\r\n".into();
        });
        assert!(mail[0].starts_with("MESSAGE "), "{mail:?}");
    }
}

#[test]
fn what_is_not_ours_to_read_passes_both_ways() {
    // RFC 3327, 3608, 4028, 3262 and others: the ends' business.
    let lines = [
        "Path: <sip:p1.fabrikam.example;lr>,<sip:p2.fabrikam.example;lr>",
        "Supported: path, timer, 100rel, outbound",
        "Session-Expires: 1800;refresher=uac",
        "Min-SE: 90",
        "Require: 100rel",
        "Subject: \u{43f}\u{440}\u{438}\u{432}\u{435}\u{442}",
        "s: ",
        "Accept: ;;,, odd",
    ];
    let mut world = World::new();
    let partner = partner(&mut world);
    let mut request = inbound("PUBLISH");
    request.headers.extend(lines.iter().map(|line| (*line).to_owned()));
    world.say(CONTOSO, partner, &request.text());
    let (server, got) = world.one(CONTOSO);
    for line in lines {
        assert!(got.contains(&format!("\r\n{line}\r\n")), "{line}: {got}");
    }
    let more = "Service-Route: <sip:s.contoso.example;lr>\r\nMin-SE: 90\r\nContent-Length";
    let reply = answer(&got, "422 Session Interval Too Small", Some("b1"));
    world.say(CONTOSO, server, &reply.replace("Content-Length", more));
    let got = world.expect(CONTOSO, partner, "SIP/2.0 422 Session Interval Too Small\r\n");
    assert_eq!(headers(&got, "Service-Route"), ["<sip:s.contoso.example;lr>"]);
    assert_eq!(headers(&got, "Min-SE"), ["90"]);
}
