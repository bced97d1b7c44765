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
