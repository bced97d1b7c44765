//! The trust rules, section 4: where a request may go.

use super::*;
use crate::config::Transport;

#[test]
fn from_outside_only_our_domains_are_reached() {
    for (uri, expected) in [
        ("sip:bob@contoso.example", None),
        ("sip:bob@CONTOSO.example;user=phone", None),
        ("sips:bob@contoso.example", Some("SIP/2.0 480 ")),
        ("sip:bob@fabrikam.example", Some("SIP/2.0 403 ")),
        ("sip:bob@third.example", Some("SIP/2.0 403 ")),
        ("sip:bob@it.contoso.example", Some("SIP/2.0 403 ")),
        ("sip:bob@edge.contoso.example", Some("SIP/2.0 403 ")),
        ("sip:bob@10.0.0.21:5060", Some("SIP/2.0 403 ")),
        ("sip:bob@127.0.0.1", Some("SIP/2.0 403 ")),
        ("sip:bob@[::1]", Some("SIP/2.0 403 ")),
        ("sip:contoso.example@third.example", Some("SIP/2.0 403 ")),
        ("tel:+15551234", Some("SIP/2.0 404 ")),
        ("http://contoso.example/", Some("SIP/2.0 416 ")),
    ] {
        let mut world = World::new();
        let sans = ["fabrikam.example", "third.example"];
        let partner = world.partner(CONTOSO, "203.0.113.20:5000", &sans);
        let lists = [allow("fabrikam.example"), allow("third.example")];
        world.set_policy(CONTOSO, policy("contoso.example", &lists, &[]));
        let mut request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
        request.uri = uri.into();
        world.say(CONTOSO, partner, &request.text());
        match expected {
            Some(status) => {
                world.expect(CONTOSO, partner, status);
                assert_eq!(world.edges[CONTOSO].connects, [], "{uri}");
            }
            None => {
                let (at, got) = world.one(CONTOSO);
                assert_ne!(at, partner, "{got}");
                assert_eq!(world.edges[CONTOSO].connects, [address("10.0.0.21:5060")]);
            }
        }
    }
}

#[test]
fn from_inside_only_allowed_partners_are_reached() {
    for (uri, expected) in [
        ("sip:bob@contoso.example", "403"),
        ("sip:bob@other.example", "403"),
        ("sip:bob@bad.example", "403"),
        ("sip:bob@sub.bad.example", "403"),
        ("sip:bob@sip.fabrikam.example", "403"),
        ("sip:bob@203.0.113.20", "403"),
        ("sip:bob@[2001:db8::20]", "403"),
        ("tel:+15551234", "404"),
    ] {
        let mut world = World::new();
        let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
        let lists = [allow("fabrikam.example"), allow("bad.example")];
        world.set_policy(CONTOSO, policy("contoso.example", &lists, &["bad.example"]));
        let mut request = Req::new("MESSAGE", "contoso.example", "fabrikam.example");
        request.uri = uri.into();
        world.say(CONTOSO, alice, &request.text());
        world.expect(CONTOSO, alice, &format!("SIP/2.0 {expected} "));
        assert_eq!(world.edges[CONTOSO].connects, [], "{uri}");
        assert_eq!(world.edges[CONTOSO].questions, [], "{uri}");
    }
}

#[test]
fn a_foreign_route_is_refused_on_both_sides() {
    for (route, passes) in [
        ("<sip:10.0.0.22:5060;lr>", false),
        ("<sip:127.0.0.1;lr>", false),
        ("<sip:sip.fabrikam.example;lr>", false),
        ("<sip:user@edge.contoso.example;lr>", false),
        ("<sip:edge.contoso.example:5061;transport=tls;lr>", true),
        ("<sip:edge.contoso.example;lr>, <sip:10.0.0.22;lr>", false),
        ("<sip:edge.contoso.example;lr>, <sip:edge.contoso.example;lr>", false),
    ] {
        for outside in [true, false] {
            let mut world = World::new();
            let (sender, from, to) = match outside {
                true => {
                    let sans = ["fabrikam.example"];
                    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &sans);
                    (partner, "fabrikam.example", "contoso.example")
                }
                false => {
                    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
                    (alice, "contoso.example", "fabrikam.example")
                }
            };
            let request = Req::new("MESSAGE", from, to).with(format!("Route: {route}"));
            world.say(CONTOSO, sender, &request.text());
            let refused = world.refused(CONTOSO, Refusal::ForeignRoute);
            assert_eq!(refused, u64::from(!passes), "{route}");
            let mail = world.mail(if outside { CONTOSO } else { FABRIKAM });
            let passed: Vec<_> = mail.iter().filter(|(_, got)| got.starts_with("MES")).collect();
            assert_eq!(passed.len(), usize::from(passes), "{route}");
            for (_, got) in passed {
                assert_eq!(headers(got, "Route").len(), 0, "ours is taken off");
            }
        }
    }
}

#[test]
fn a_request_that_comes_round_unchanged_is_a_loop() {
    let mut world = World::new();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    world.say(CONTOSO, partner, &Req::new("MESSAGE", "fabrikam.example", "contoso.example").text());
    let (_, got) = world.one(CONTOSO);
    let again = got.replacen("Via: ", "Via: SIP/2.0/TLS x.example;branch=z9hG4bK-x\r\nVia: ", 1);
    world.say(CONTOSO, partner, &again);
    world.expect(CONTOSO, partner, "SIP/2.0 482 ");
    assert_eq!(world.refused(CONTOSO, Refusal::Loop), 1);
    // Sent round for somebody else it is a spiral, and passes.
    let spiral = again.replacen("sip:bob@", "sip:carol@", 1).replacen("-x", "-y", 1);
    world.say(CONTOSO, partner, &spiral);
    let (at, got) = world.one(CONTOSO);
    assert_ne!(at, partner, "{got}");
}

/// RFC 3261 sections 16.4 and 16.5: a server inside would send to where `maddr` says.
#[test]
fn nobody_outside_names_another_place_beside_our_domain() {
    for (maddr, expected) in [
        ("10.0.0.77", None),
        ("other.example", None),
        ("[2001:db8::7]", None),
        ("127.0.0.1", None),
        ("nonsense..", None),
        ("203.0.113.10", Some("sip:bob@contoso.example;user=phone")),
        ("EDGE.contoso.example", Some("sip:bob@contoso.example;user=phone")),
    ] {
        for outside in [true, false] {
            let mut world = World::new();
            let sender = match outside {
                true => world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]),
                false => world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000"),
            };
            let far = Listener::Script(names(&["sip.fabrikam.example"]));
            world.listeners.insert(address("203.0.113.20:5061"), far);
            let (from, to) = match outside {
                true => ("fabrikam.example", "contoso.example"),
                false => ("contoso.example", "fabrikam.example"),
            };
            let mut request = Req::new("MESSAGE", from, to);
            let plain = format!("sip:bob@{to};user=phone");
            request.uri = format!("{plain};maddr={maddr};transport=tls");
            world.say(CONTOSO, sender, &request.text());
            let (at, got) = world.one(CONTOSO);
            match (outside, expected) {
                (true, None) => {
                    assert!(at == sender && got.starts_with("SIP/2.0 403 "), "{maddr}: {got}");
                    assert_eq!(world.refused(CONTOSO, Refusal::Transit), 1);
                }
                (true, Some(uri)) => {
                    assert!(got.starts_with(&format!("MESSAGE {uri} SIP/2.0\r\n")), "{got}");
                }
                // Where a partner's URI leads is the partner's, but for what led to us.
                (false, None) => {
                    assert!(got.starts_with(&format!("MESSAGE {} ", request.uri)), "{got}");
                }
                (false, Some(_)) => {
                    assert!(got.starts_with(&format!("MESSAGE {plain} SIP/2.0\r\n")), "{got}");
                }
            }
        }
    }
}

/// RFC 3261 section 16.6 step 4: then in-dialog requests go by TLS all the way too.
#[test]
fn a_secure_dialog_is_recorded_with_secure_uris() {
    for scheme in ["sip", "sips"] {
        let mut world = World::new();
        world.configure(CONTOSO, |config| {
            config.next_hops = vec![hop("10.0.0.22:5061", Transport::Tls)];
        });
        world.listeners.insert(address("10.0.0.22:5061"), Listener::Script(names(&["d.example"])));
        let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
        let mut invite = Req::new("INVITE", "fabrikam.example", "contoso.example");
        invite.uri = format!("{scheme}:bob@contoso.example");
        world.say(CONTOSO, partner, &invite.text());
        let (server, got) = world.mail(CONTOSO).pop().unwrap();
        let recorded = headers(&got, "Record-Route");
        let begins = format!("<{scheme}:");
        assert!(recorded.iter().all(|value| value.starts_with(&begins)), "{recorded:?}");
        let transport = if scheme == "sips" { ";transport=" } else { "sips:" };
        assert!(!recorded.concat().contains(transport), "{recorded:?}");
        // And it is understood when it comes back.
        world.say(CONTOSO, server, &answer(&got, "200 OK", Some("b1")));
        let ok = world.expect(CONTOSO, partner, "SIP/2.0 200 ");
        let mut bye = Req::new("BYE", "fabrikam.example", "contoso.example").branch("2");
        (bye.cseq, bye.to) = (2, headers(&ok, "To")[0].into());
        for route in headers(&ok, "Record-Route").iter().rev() {
            bye.headers.push(format!("Route: {route}"));
        }
        bye.uri = format!("{scheme}:bob@10.0.0.30");
        world.say(CONTOSO, partner, &bye.text());
        assert_eq!(world.one_of(CONTOSO, "BYE "), server, "{scheme}");
    }
}

#[test]
fn a_secure_uri_goes_to_tls_next_hops_only() {
    let mut world = World::new();
    world.configure(CONTOSO, |config| {
        config.next_hops =
            vec![hop("10.0.0.21:5060", Transport::Tcp), hop("10.0.0.22:5061", Transport::Tls)];
    });
    world.listeners.insert(address("10.0.0.22:5061"), Listener::Script(names(&["d.example"])));
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let mut request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
    request.uri = "sips:bob@contoso.example".into();
    world.say(CONTOSO, partner, &request.text());
    world.one(CONTOSO);
    assert_eq!(world.edges[CONTOSO].connects, [address("10.0.0.22:5061")]);
}

const SECRETS: crate::proxy::Secrets = crate::proxy::Secrets { current: [0; 32], former: None };

#[test]
fn the_advertised_address_is_ours_too() {
    // Behind a 1:1 NAT the outside knows another address than the one that is listened on.
    let mut config = crate::config::tests_support::config();
    for (advertise, route) in [("198.51.100.10", "198.51.100.10"), ("2001:db8::9", "[2001:db8::9]")]
    {
        config.access.advertise = vec![advertise.parse().unwrap()];
        let port = config.access.listen[0].port();
        let outside = crate::proxy::ProxyConfig::new(&config, SECRETS, 0).outside;
        assert!(outside.contains(&address(&format!("{route}:{port}"))), "{outside:?}");
        for known in [true, false] {
            let mut world = World::new();
            if known {
                world.configure(CONTOSO, |settings| settings.outside.clone_from(&outside));
            }
            let at = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
            let message = Req::new("MESSAGE", "fabrikam.example", "contoso.example")
                .with(format!("Route: <sip:{route}:{port};lr>"));
            world.say(CONTOSO, at, &message.text());
            let refused = world.refused(CONTOSO, Refusal::ForeignRoute);
            assert_eq!(refused, u64::from(!known), "{route}");
        }
    }
}
