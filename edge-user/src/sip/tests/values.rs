//! Values, limits and edits, as tables.

use bytes::{Bytes, BytesMut};

use super::{super::*, INVITE, message};

#[test]
fn a_uri_has_one_reading() {
    // (text, user, host, port) or why not.
    type Read = Result<(Option<&'static str>, &'static str, Option<u16>), UriError>;
    let cases: &[(&str, Read)] = &[
        ("sip:evil.com;@good.com", Ok((Some("evil.com;"), "good.com", None))),
        ("sip:john.doe@example.com:5061", Ok((Some("john.doe"), "example.com", Some(5061)))),
        ("SIPS:a@EXAMPLE.com.", Ok((Some("a"), "EXAMPLE.com.", None))),
        ("sip:bob@c.example;opaque=user:epid:Aj_x;gruu", Ok((Some("bob"), "c.example", None))),
        (
            "sip:good.com?Route=%3Csip:a@evil.com",
            Ok((Some("good.com?Route=%3Csip"), "evil.com", None)),
        ),
        ("sip:localhost", Ok((None, "localhost", None))),
        ("sip:a@b@c.example", Err(UriError::User)),
        ("sip:a%40b@c.example", Ok((Some("a%40b"), "c.example", None))),
        ("sip:a%4@c.example", Err(UriError::User)),
        ("sip:@c.example", Err(UriError::User)),
        ("sip:a@", Err(UriError::Host)),
        ("sip:", Err(UriError::Host)),
        ("sip:a@c.example:0", Err(UriError::Host)),
        ("sip:a@c.example:65536", Err(UriError::Host)),
        ("sip:a@c.example:+5061", Err(UriError::Host)),
        ("sip:a@-c.example", Err(UriError::Host)),
        ("sip:a@c..example", Err(UriError::Host)),
        ("sip:a@c_d.example", Err(UriError::Host)),
        ("sip:a@1.2.3", Err(UriError::Host)),
        ("sip:a@1.2.3.256", Err(UriError::Host)),
        ("sip:a@010.1.1.1", Err(UriError::Host)),
        ("sip:a@0x7f.1", Err(UriError::Host)),
        ("sip:a@2130706433", Err(UriError::Host)),
        ("sip:a@c.example;", Err(UriError::Params)),
        ("sip:a@c.example;lr;LR", Err(UriError::Params)),
        ("sip:a@c.example?", Err(UriError::Character)),
        ("sip:a b@c.example", Err(UriError::Character)),
        ("sip:a\u{e9}@c.example", Err(UriError::Character)),
        ("sip:a@c.example\r\nRoute: x", Err(UriError::Character)),
        ("no-colon", Err(UriError::Scheme)),
        (":a@c.example", Err(UriError::Scheme)),
        ("1sip:a@c.example", Err(UriError::Scheme)),
    ];
    for (text, expected) in cases {
        let got = Uri::parse(text);
        let got = got.map(|u| (u.user(), u.host().unwrap().to_string(), u.port()));
        let expected = expected.map(|(user, host, port)| (user, host.to_owned(), port));
        assert_eq!(got, expected, "{text}");
    }
    let gruu = Uri::parse("sip:b@c.example;opaque=user:epid:Aj_x;gruu").unwrap();
    assert_eq!(gruu.params().get("OPAQUE"), Some("user:epid:Aj_x"));
    let tel = Uri::parse("tel:+1-201-555-0123;phone-context=x").unwrap();
    assert_eq!((tel.user(), tel.host().is_none()), (Some("+1-201-555-0123"), true));
}

#[test]
fn a_uri_that_has_arrived_names_nothing_but_its_user_and_domain() {
    for (text, maddr, arrived) in [
        ("sip:a@b.example", "none", "sip:a@b.example"),
        (
            "SIPS:a:pw@b.example:5061;x=1;maddr=192.0.2.1;y",
            "192.0.2.1",
            "SIPS:a:pw@b.example;x=1;y",
        ),
        ("sip:a;maddr=c.example@b.example", "none", "sip:a;maddr=c.example@b.example"),
        ("sip:b.example:5060;MADDR=C.example;Transport=tcp", "C.example", "sip:b.example"),
        ("sip:[2001:db8::1]:5;maddr=[2001:db8::2]", "[2001:db8::2]", "sip:[2001:db8::1]"),
        ("sip:a@b.example;maddr", "bad", "sip:a@b.example"),
        ("sip:a@b.example;maddr=2001:db8::2", "bad", "sip:a@b.example"),
        ("sip:a@b.example;maddr=192.0.2.1:5060", "bad", "sip:a@b.example"),
    ] {
        let uri = Uri::parse(text).unwrap();
        let got = match uri.maddr() {
            None => "none".to_owned(),
            Some(None) => "bad".to_owned(),
            Some(Some(host)) => host.to_string(),
        };
        assert_eq!(got, maddr, "{text}");
        assert_eq!(uri.arrived().unwrap(), arrived, "{text}");
    }
    assert_eq!(Uri::parse("tel:+1;maddr=x").unwrap().arrived(), None);
}

#[test]
fn a_host_is_compared_as_a_name_and_never_by_its_end() {
    let domain: crate::domain::Domain = "contoso.example".parse().unwrap();
    for (host, same) in [
        ("contoso.example", true),
        ("Contoso.Example.", true),
        ("xcontoso.example", false),
        ("contoso.example.evil.example", false),
        ("192.0.2.1", false),
    ] {
        assert_eq!(Host::parse(host).unwrap().is(&domain), same, "{host}");
    }
}

#[test]
fn names_and_addresses() {
    // (value, display, uri, tag)
    type Read = Option<(Option<&'static str>, &'static str, Option<&'static str>)>;
    let cases: &[(&str, Read)] = &[
        (
            "\"A, <sip:x@y.example>\" <sip:a@b.example>;tag=1",
            Some((Some("\"A, <sip:x@y.example>\""), "sip:a@b.example", Some("1"))),
        ),
        ("<sip:a@b.example;tag=2>", Some((None, "sip:a@b.example;tag=2", None))),
        ("sip:a@b.example;tag=3", Some((None, "sip:a@b.example", Some("3")))),
        (
            "Anna M\u{fc}ller <sip:a@b.example>",
            Some((Some("Anna M\u{fc}ller"), "sip:a@b.example", None)),
        ),
        (
            "\"a\"<sip:a@b.example>;tag=4;epid=01",
            Some((Some("\"a\""), "sip:a@b.example", Some("4"))),
        ),
        ("<sip:a@b.example>;x=\"y;tag=no\";tag=5", Some((None, "sip:a@b.example", Some("5")))),
        ("<sip:a@b.example>;tag=1;tag=2", None),
        ("<sip:a@b.example>;tag=1;TAG=1", None),
        ("<sip:a@b.example> <sip:c@d.example>", None),
        ("<sip:a@b.example>, <sip:c@d.example>", None),
        ("sip:a@b.example, sip:c@d.example", None),
        ("\"open <sip:a@b.example>", None),
        ("<sip:a@b.example", None),
        ("<>", None),
        ("", None),
        ("ceo@contoso.example <sip:a@b.example>", None),
        ("\"x\" y <sip:a@b.example>", None),
        ("<sip:a@b.example>;=x", None),
        ("<sip:a@b.example>;tag=", None),
    ];
    for (text, expected) in cases {
        let got = NameAddr::parse(text.as_bytes()).ok();
        let got = got.map(|n| (n.display, n.uri.as_str(), n.tag()));
        let expected = expected.map(|(d, uri, tag)| (d.map(str::as_bytes), uri, tag));
        assert_eq!(got, expected, "{text}");
    }
    assert!(NameAddr::parse_bracketed(b"sip:edge.example;lr").is_err());
}

#[test]
fn a_via_is_read_whole_or_not_at_all() {
    let cases: &[(&str, bool)] = &[
        ("SIP/2.0/TLS a.example:5061;branch=z9hG4bK{a}", true),
        ("SIP / 2.0 / UDP a.example : 5061 ; branch = z9hG4bK1", true),
        ("SIP/2.0/TLS 192.0.2.1:50230;ms-received-port=50230;ms-received-cid=1A00", true),
        ("SIP/2.0/UDP a.example;rport=5060;received=192.0.2.1", true),
        ("SIP/2.0/UDP a.example;branch", false),
        ("SIP/2.0/UDP a.example;branch=1;branch=2", false),
        ("SIP/2.0/UDP a.example;received=x", false),
        ("SIP/2.0/UDP a.example;rport=0", false),
        ("SIP/2.0/UDP", false),
        ("SIP/2.0/UDP ;branch=1", false),
        ("SIP/2.0/UDP a.example b.example", false),
        ("SIP/3.0/UDP a.example", false),
        ("XIP/2.0/UDP a.example", false),
        ("SIP/2.0/UDP a.example, SIP/2.0/UDP b.example", false),
    ];
    for (text, good) in cases {
        assert_eq!(Via::parse(text.as_bytes()).is_ok(), *good, "{text}");
    }
}

#[test]
fn lists_split_at_commas_outside_quotes_and_brackets_over_all_lines() {
    let text = INVITE.replace(
        "X-Foreign:",
        "Contact: \"a, \\\" b\" <sip:a,b@c.example>, <sip:d@e.example;x=\",\">\r\nm: *\r\nX-Foreign:",
    );
    let message = message(&text);
    let values: Vec<_> = message
        .list(HeaderName::Contact)
        .map(|element| String::from_utf8(element.value.to_vec()).unwrap())
        .collect();
    let expected = ["\"a, \\\" b\" <sip:a,b@c.example>", "<sip:d@e.example;x=\",\">", "*"];
    assert_eq!(values, expected);
}

#[test]
fn what_could_smuggle_a_second_message_or_header_is_refused() {
    use Fault::*;
    let cases: &[(&str, &str, Fault)] = &[
        ("CSeq:", "X: a\nCSeq:", BareLineEnd),
        ("CSeq:", "X: a\rb\r\nCSeq:", BareLineEnd),
        ("CSeq:", "X: a\0b\r\nCSeq:", ControlCharacter),
        ("CSeq:", "X: a\u{1b}b\r\nCSeq:", ControlCharacter),
        ("CSeq:", "X: a\\\0b\r\nCSeq:", ControlCharacter),
        ("CSeq:", "X: \"a\0b\"\r\nCSeq:", ControlCharacter),
        ("CSeq:", "X: \"a\\\\\0b\"\r\nCSeq:", ControlCharacter),
        ("CSeq:", "X: \"a\"\\\0b\"\r\nCSeq:", ControlCharacter),
        ("CSeq:", "X: \"a\\\rb\"\r\nCSeq:", BareLineEnd),
        ("CSeq:", "X: \"a\\\nb\"\r\nCSeq:", BareLineEnd),
        ("CSeq:", "X: \"a\r\n \0b\"\r\nCSeq:", ControlCharacter),
        ("CSeq:", "X: \"a\r\nY: \\\0b\"\r\nCSeq:", ControlCharacter),
        ("CSeq:", "X\\\0: \"a\"\r\nCSeq:", ControlCharacter),
        ("INVITE sip", "INVITE sip:\"\\\0\"", ControlCharacter),
        ("CSeq:", "no colon\r\nCSeq:", HeaderLine),
        ("CSeq:", "bad name: x\r\nCSeq:", HeaderLine),
        ("CSeq:", ": x\r\nCSeq:", HeaderLine),
        ("CSeq:", "X: a\r\n \t\r\nCSeq:", Folding),
        ("Via:", " folded\r\nVia:", Folding),
        ("Content-Length: 4", "Content-Length: 4\r\nl: 4", Duplicate(HeaderName::ContentLength)),
        ("Content-Length: 4", "Content-Length: +4", ContentLength),
        ("Content-Length: 4", "Content-Length: 0x4", ContentLength),
        ("Content-Length: 4", "Content-Length: 4, 4", ContentLength),
        ("Content-Length: 4", "Content-Length: 4\r\n 0", ContentLength),
        ("Content-Length: 4", "Content-Length:", ContentLength),
        ("Content-Length: 4", "Content-Length: 99999999999", ContentLength),
        ("Content-Length: 4\r\n", "", Missing(HeaderName::ContentLength)),
        ("INVITE sip", "IN(VITE sip", StartLine),
        ("SIP/2.0\r\nVia", "SIP/2.00\r\nVia", Version),
        ("SIP/2.0\r\nVia", "SIP/2.0 \r\nVia", StartLine),
    ];
    for (from, to, fault) in cases {
        let text = INVITE.replacen(from, to, 1);
        let mut buffer = BytesMut::from(text.as_bytes());
        let mut framer = Framer::new(Limits::default());
        assert_eq!(framer.next(&mut buffer).unwrap_err().fault, *fault, "{to:?}");
        assert_eq!(framer.next(&mut buffer).unwrap_err().fault, OutOfStep);
    }
}

#[test]
fn a_control_character_may_stand_escaped_between_quotes() {
    for value in [
        "\"\\\0\"",
        "a \"b\" \"\\\\\\\u{7f}\\\u{1}\" c",
        "\"a\r\n \\\u{7}\"",
        "\"\\\0a\r\n \\\u{7}\r\n\t\\\u{7}\"",
        "\"a\\\r\n \\\u{7}\"",
    ] {
        let text = INVITE.replacen("CSeq:", &format!("X: {value}\r\nCSeq:"), 1);
        for chunk in [1, 7, text.len()] {
            let mut framer = Framer::new(Limits::default());
            let mut buffer = BytesMut::new();
            let mut messages = 0;
            for part in text.as_bytes().chunks(chunk) {
                buffer.extend_from_slice(part);
                while let Some(frame) = framer.next(&mut buffer).unwrap() {
                    let Frame::Message(message) = frame else { panic!() };
                    message.validate().unwrap();
                    messages += 1;
                }
            }
            assert_eq!(messages, 1, "{value:?} in chunks of {chunk}");
        }
    }
}

#[test]
fn limits_hold_before_a_message_is_whole() {
    let limits = Limits { head: 400, body: 100, headers: 10, line: 200 };
    let long_line = format!("INVITE sip:{}", "a".repeat(300));
    let many = format!("A B SIP/2.0\r\n{}", "X: y\r\n".repeat(11));
    let long_head = format!("A B SIP/2.0\r\n{}", format!("X: {}\r\n", "y".repeat(150)).repeat(3));
    let body = INVITE.replace("Content-Length: 4", "Content-Length: 101");
    let wide = Limits { head: 4096, ..limits.clone() };
    let cases = [
        (&limits, long_line, Fault::LineTooLong),
        (&limits, many, Fault::TooManyHeaders),
        (&limits, long_head, Fault::HeadTooLong),
        (&wide, body, Fault::BodyTooLong),
    ];
    for (limits, text, fault) in cases {
        let mut framer = Framer::new(limits.clone());
        let mut buffer = BytesMut::from(text.as_bytes());
        assert_eq!(framer.next(&mut buffer).unwrap_err().fault, fault);
    }
}

#[test]
fn keep_alives_are_told_from_messages() {
    let mut framer = Framer::new(Limits::default());
    let mut buffer = BytesMut::new();
    // A lone CRLF before a message is nothing (RFC 3261 section 7.5); two are a ping.
    for (bytes, pings, messages) in
        [("\r\n", 0, 0), (INVITE, 0, 1), ("\r\n\r", 0, 0), ("\n", 1, 0), ("\r\n\r\n\r\n\r\n", 2, 0)]
    {
        buffer.extend_from_slice(bytes.as_bytes());
        let mut seen = (0, 0);
        while let Some(frame) = framer.next(&mut buffer).unwrap() {
            match frame {
                Frame::Ping => seen.0 += 1,
                Frame::Message(_) => seen.1 += 1,
                Frame::Faulty(error) => panic!("{error}"),
            }
        }
        assert_eq!(seen, (pings, messages), "{bytes:?}");
    }
    assert!(!framer.in_message());
    buffer.extend_from_slice(b"I");
    assert!(framer.next(&mut buffer).unwrap().is_none() && framer.in_message());
}

#[test]
fn an_edit_cannot_break_a_message() {
    let invite = message(INVITE);
    for value in ["a\r\nRoute: <sip:evil.example>", "a\nb", "a\0b", "a\u{7f}"] {
        assert_eq!(Edit::new(&invite).append("X", value).finish(), Err(EditError::Injection));
        assert_eq!(Edit::new(&invite).request_uri(value).finish(), Err(EditError::Injection));
        assert_eq!(Edit::new(&invite).replace_value(0, value).finish(), Err(EditError::Injection));
        let response =
            build::Response { headers: &[("X", value)], ..build::Response::new(400, "X") };
        assert_eq!(build::response(&invite, &response), Err(EditError::Injection));
    }
    for name in ["", "X Y", "X:", "X\r\nY"] {
        assert_eq!(Edit::new(&invite).append(name, "v").finish(), Err(EditError::Injection));
    }
    assert_eq!(Edit::new(&invite).remove_line(99).finish(), Err(EditError::NoSuchPlace));
    let twice = Edit::new(&invite).replace_value(0, "a").remove_line(0).finish();
    assert_eq!(twice, Err(EditError::Overlap));
}

#[test]
fn elements_lines_and_bodies_change_alone() {
    let invite = message(INVITE);
    let without = |count| {
        let bytes = Edit::new(&invite).remove_front(HeaderName::Route, count).finish();
        bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    };
    let first = INVITE.replace("<sip:edge.contoso.example;lr>, ", "");
    let line = "Route: <sip:edge.contoso.example;lr>, <sip:other.example;lr>\r\n";
    assert_eq!(without(0).unwrap(), INVITE);
    assert_eq!(without(1).unwrap(), first);
    assert_eq!(without(2).unwrap(), INVITE.replace(line, ""));
    assert_eq!(without(3), Err(EditError::NoSuchPlace));
    let body = Edit::new(&invite).body(b"longer body").finish().unwrap();
    let expected =
        INVITE.replace("v=0\n", "longer body").replace("Content-Length: 4", "Content-Length: 11");
    assert_eq!(body, expected.as_bytes());
    let named = Edit::new(&invite).remove_named("x-foreign").append("A", "b").finish().unwrap();
    let expected = INVITE
        .replace("X-Foreign:   kept , as is\t\r\n", "")
        .replace("Content-Length: 4\r\n", "Content-Length: 4\r\nA: b\r\n");
    assert_eq!(named, expected.as_bytes());
}

#[test]
fn a_response_loses_one_via_and_no_more() {
    let text = "SIP/2.0 200 OK\r\nVia: SIP/2.0/TLS edge.example;branch=z9hG4bK9\r\n\
        v: SIP/2.0/TLS a.example;branch=z9hG4bK1,SIP/2.0/TLS b.example;branch=z9hG4bK0\r\n\
        Record-Route: <sip:in.example;lr>, <sip:out.example;lr>\r\nf: <sip:a@b.example>;tag=1\r\n\
        t: <sip:b@c.example>;tag=2\r\ni: 1\r\nCSeq: 1 INVITE\r\nl: 0\r\n\r\n";
    let response = message(text);
    let once =
        ForwardResponse { record_routes: &[(1, "<sip:x.example;lr>")], ..Default::default() };
    let once = once.apply(&response).unwrap();
    let expected = text
        .replace("Via: SIP/2.0/TLS edge.example;branch=z9hG4bK9\r\n", "")
        .replace("<sip:out.example;lr>", "<sip:x.example;lr>");
    assert_eq!(once, expected.as_bytes());
    let again = message(&expected);
    let twice = ForwardResponse::default().apply(&again).unwrap();
    let expected = expected.replace("SIP/2.0/TLS a.example;branch=z9hG4bK1,", "");
    assert_eq!(twice, expected.as_bytes());
}

#[test]
fn the_source_of_a_request_is_noted_as_we_saw_it() {
    // (sent-by and parameters, source, expected parameters)
    let cases = [
        ("192.0.2.7;branch=z9hG4bK1", "192.0.2.7", "192.0.2.7;branch=z9hG4bK1"),
        ("a.example;branch=z9hG4bK1", "192.0.2.7", "a.example;branch=z9hG4bK1;received=192.0.2.7"),
        (
            "a.example;received=10.0.0.1;branch=z9hG4bK1",
            "192.0.2.7",
            "a.example;branch=z9hG4bK1;received=192.0.2.7",
        ),
        ("192.0.2.7;received=10.0.0.1;branch=z9hG4bK1", "192.0.2.7", "192.0.2.7;branch=z9hG4bK1"),
        (
            "192.0.2.7;rport;branch=z9hG4bK1",
            "192.0.2.7",
            "192.0.2.7;branch=z9hG4bK1;received=192.0.2.7;rport=9",
        ),
        (
            "[2001:db8::1];branch=z9hG4bK1",
            "2001:db8::2",
            "[2001:db8::1];branch=z9hG4bK1;received=2001:db8::2",
        ),
    ];
    for (via, source, expected) in cases {
        let old = "Via: SIP/2.0/TLS sip.fabrikam.example:5061;branch=z9hG4bK1;rport,";
        let request = message(&INVITE.replace(old, &format!("Via: SIP/2.0/TLS {via},")));
        let received = Some(Received { address: source.parse().unwrap(), port: 9 });
        let response = build::Response { received, ..build::Response::new(100, "Trying") };
        let bytes = build::response(&request, &response).unwrap();
        let answer = Message::parse_datagram(Bytes::clone(&bytes), &Limits::default()).unwrap();
        let top = answer.list(HeaderName::Via).next().unwrap();
        assert_eq!(top.value, format!("SIP/2.0/TLS {expected}").as_bytes());
        assert_eq!(answer.to().unwrap().tag(), None);
    }
}

#[test]
fn a_message_from_a_datagram_says_its_length_when_it_goes_on() {
    let text = INVITE.replace("Content-Length: 4\r\n", "");
    let request = message(&text);
    assert_eq!(request.body(), b"v=0\n");
    let sent = ForwardRequest::new("SIP/2.0/TLS e.example;branch=z9hG4bKx", 9).apply(&request);
    let mut framer = Framer::new(Limits::default());
    let mut buffer = BytesMut::from(&sent.unwrap()[..]);
    let Ok(Some(Frame::Message(sent))) = framer.next(&mut buffer) else { panic!("not framed") };
    assert_eq!(sent.body(), b"v=0\n");
}

#[test]
fn a_header_of_many_folds_costs_what_its_bytes_cost() {
    let folds = format!("X:{}\r\n{}", " ".repeat(16_000), " a\r\n".repeat(10_000));
    let text = INVITE.replace("X-Foreign:", &format!("{folds}X-Foreign:"));
    let took = |text: &str| {
        let started = std::time::Instant::now();
        let read = message(text);
        assert_eq!(read.headers_named("X").next().unwrap().value.len(), 10_000 * 4 - 3);
        started.elapsed()
    };
    // The best of a few, since the machine may be busy. Quadratic, each is over half a second.
    let best = (0..5).map(|_| took(&text)).min().unwrap();
    assert!(best < std::time::Duration::from_millis(150), "{best:?}");
}

#[test]
fn a_refusal_is_no_longer_than_what_it_refuses() {
    let text = INVITE.replace("X-Foreign:", &format!("Via: {}\r\nX-Foreign:", "a,".repeat(8000)));
    let request = message(&text);
    let received = Some(Received { address: [192, 0, 2, 1].into(), port: 1 });
    let response = build::Response { received, ..build::Response::new(400, "Bad Request") };
    assert!(build::response(&request, &response).unwrap().len() < text.len() + 64);
}
