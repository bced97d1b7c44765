//! What `rsip` misreads, as a table, and that it agrees with us wherever we let it read.

use proptest::prelude::*;

use super::*;

/// What `rsip` makes of a URI by itself: user and host, or nothing.
fn rsip_reads(text: &str) -> Option<(Option<String>, String)> {
    let uri = rsip::Uri::try_from(text).ok()?;
    Some((uri.user().map(str::to_owned), uri.host().to_string()))
}

#[test]
fn the_known_misreadings_never_reach_rsip() {
    // (URI, user, host): each is well formed and read so by us; rsip reads something else.
    let cases: &[(&str, Option<&str>, &str)] = &[
        ("sip:john.doe@example.com", Some("john.doe"), "example.com"),
        ("sip:evil.com;@good.com", Some("evil.com;"), "good.com"),
        ("sip:bob@[2001:db8::1]:5061", Some("bob"), "[2001:db8::1]"),
        ("sip:[2001:db8::1]", None, "[2001:db8::1]"),
        ("sip:example.com?subject=x", None, "example.com"),
    ];
    for (text, user, host) in cases {
        let ours = Uri::parse(text).unwrap();
        let read = (ours.user(), ours.host().unwrap().to_string());
        assert_eq!(read, (*user, (*host).to_owned()), "{text}");
        assert_eq!(uri(&ours), Err(CompatError::Unsupported), "{text}");
        let right = Some((user.map(str::to_owned), (*host).to_owned()));
        assert_ne!(rsip_reads(text), right, "rsip reads {text} rightly now: let it");
    }
    // Read rightly as far as user and host go, but parameters are cut or refused.
    for text in [
        "sip:bob@contoso.example;opaque=user:epid:xyz;gruu",
        "sip:bob@contoso.example;maddr=[::1]",
        "sip:bob@contoso.example;method=SERVICE",
        "tel:+15551234",
    ] {
        assert_eq!(uri(&Uri::parse(text).unwrap()), Err(CompatError::Unsupported), "{text}");
    }
}

#[test]
fn what_rsip_reads_rightly_it_may_read() {
    for text in [
        "sip:bob@contoso.example",
        "sips:bob@contoso.example:5061;transport=tls;lr",
        "sip:192.0.2.1",
        "sip:a%40b@contoso.example",
        "sip:+15551234@contoso.example;user=phone",
    ] {
        let theirs = uri(&Uri::parse(text).unwrap()).unwrap();
        assert!(theirs.to_string().eq_ignore_ascii_case(text), "{theirs}");
    }
}

#[test]
fn a_probe_is_a_message_that_we_read_ourselves() {
    let edge: Domain = "edge.contoso.example".parse().unwrap();
    let director: Domain = "director.contoso.example".parse().unwrap();
    let targets: &[(Result<&Domain, SocketAddr>, &str)] = &[
        (Ok(&director), "sip:director.contoso.example"),
        (Err("10.0.0.1:5061".parse().unwrap()), "sip:10.0.0.1:5061"),
        (Err("[2001:db8::1]:5061".parse().unwrap()), "sip:[2001:db8::1]:5061"),
    ];
    for (target, uri) in targets {
        let probe = Probe {
            edge: &edge,
            port: 5061,
            transport: Transport::Tls,
            target: *target,
            branch: "abc",
            tag: "t1",
            call_id: "c1@edge.contoso.example",
            number: 1,
        };
        let bytes = options(&probe).unwrap();
        let read = Message::parse_datagram(bytes, &Limits::default()).unwrap();
        read.validate().unwrap();
        assert_eq!(read.method(), Some(Method::Options));
        assert_eq!(read.request_uri().unwrap().unwrap().as_str(), *uri);
        assert_eq!(read.via().unwrap().unique_branch(), Some("abc"));
        assert_eq!(read.via().unwrap().transport, "TLS");
        assert_eq!(read.from().unwrap().tag(), Some("t1"));
        assert_eq!(read.max_forwards().unwrap(), Some(0));
        let bad = Probe { tag: "x\r\nRoute: <sip:evil.example>", ..probe };
        assert_eq!(options(&bad), Err(CompatError::BadValue));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// On the subset, the two read the same user, host and port (`uri` compares them).
    #[test]
    fn we_and_rsip_agree_on_plain_uris(
        text in "sips?:([a-z0-9+_-]{1,8}@)?([a-z][a-z0-9]{0,6}(\\.[a-z]{2,5}){0,2}|192\\.0\\.2\\.[0-9])(:[1-9][0-9]{0,3})?(;[a-z]{3,5}(=[a-z0-9.]{1,5})?){0,3}"
    ) {
        if let Ok(ours) = Uri::parse(&text) {
            prop_assert_ne!(uri(&ours).err(), Some(CompatError::Differs), "{}", text);
        }
    }

    /// Whatever a URI looks like, rsip never gives us another host than we read ourselves.
    #[test]
    fn no_uri_gets_another_host_from_rsip(text in "sip:[a-c.;:@?%=\\[\\]0-2-]{1,24}") {
        if let Ok(ours) = Uri::parse(&text) && let Ok(theirs) = uri(&ours) {
            prop_assert_eq!(ours.host().unwrap().to_string(), theirs.host().to_string());
        }
    }

    /// The same for whole messages.
    #[test]
    fn we_and_rsip_agree_on_plain_messages(
        method in "INVITE|BYE|MESSAGE|OPTIONS",
        user in "[a-z]{1,8}",
        tag in "[a-z0-9]{1,8}",
        body in "[ -~]{0,40}",
        number in 1u32..1 << 31,
    ) {
        let text = format!(
            "{method} sip:{user}@contoso.example SIP/2.0\r\n\
             Via: SIP/2.0/TLS a.example;branch=z9hG4bK{tag}\r\nMax-Forwards: 70\r\n\
             From: <sip:{user}@fabrikam.example>;tag={tag}\r\nTo: <sip:b@contoso.example>\r\n\
             Call-ID: {tag}\r\nCSeq: {number} {method}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let ours = Message::parse_datagram(Bytes::from(text), &Limits::default()).unwrap();
        prop_assert!(message(&ours).is_ok());
        let from = super::from(&ours.from().unwrap()).unwrap();
        prop_assert_eq!(from.uri.user(), Some(user.as_str()));
    }
}
