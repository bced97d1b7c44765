//! The XMPP gateway's connection: no transit in any combination, dialogs that hold both ways, and
//! what a policy takes away.

use super::*;
use super::{dialogs::by_routes, policy_table::xmpp_settings};
use crate::{
    config::{Federation, Rights, Transport, UserPattern, UserPolicy},
    federation::Policy,
    xmpp::settings::{XmppPartnerKind, XmppSettings},
};

/// contoso.example with fabrikam.example as SIP partner and the domains of one XMPP partner; its
/// users may do everything.
fn world_with(settings: Option<&XmppSettings>, change: impl FnOnce(&mut Federation)) -> World {
    let mut world = World::new();
    set(&mut world, settings, change);
    world
}

fn set(world: &mut World, settings: Option<&XmppSettings>, change: impl FnOnce(&mut Federation)) {
    let mut lists = federation(&[allow("fabrikam.example")], &["bad.example"]);
    let rights =
        Rights { xmpp: true, outside: true, public_im: true, public_av: true, ..Rights::default() };
    lists.users = vec![UserPolicy { users: vec![UserPattern::Everyone], rights }];
    change(&mut lists);
    let policy = Policy::new(&[domain("contoso.example")], &lists).with_xmpp(settings);
    world.set_policy(CONTOSO, std::sync::Arc::new(policy));
}

fn partners() -> XmppSettings {
    xmpp_settings(&["jabber.example", "muc.jabber.example"])
}

/// Where a request went, or why it did not go.
fn outcome(world: &mut World, at: ConnectionId, request: &str) -> Result<ConnectionId, String> {
    world.mail(CONTOSO);
    world.say(CONTOSO, at, request);
    let mail = world.mail(CONTOSO);
    if let Some((to, _)) = mail.iter().find(|(to, _)| *to != at) {
        return Ok(*to);
    }
    let (_, got) = mail.last().unwrap();
    Err(headers(got, "Warning")[0].split('"').nth(1).unwrap().to_owned())
}

#[test]
fn the_gateway_speaks_for_xmpp_partners_only_and_to_our_users_only() {
    let rows: &[(&str, &str, Result<(), &str>)] = &[
        ("jabber.example", "contoso.example", Ok(())),
        ("muc.jabber.example", "contoso.example", Ok(())),
        // Whom the gateway does not speak for.
        ("sub.jabber.example", "contoso.example", Err("domain-not-allowed")),
        ("fabrikam.example", "contoso.example", Err("identity-not-proved")),
        ("contoso.example", "contoso.example", Err("spoofed")),
        ("anonymous.invalid", "contoso.example", Err("anonymous")),
        ("x.bad.example", "contoso.example", Err("domain-blocked")),
        // No transit.
        ("jabber.example", "fabrikam.example", Err("transit")),
        ("jabber.example", "muc.jabber.example", Err("transit")),
        ("jabber.example", "jabber.example", Err("transit")),
        ("jabber.example", "other.example", Err("transit")),
        ("jabber.example", "sub.contoso.example", Err("transit")),
        ("fabrikam.example", "jabber.example", Err("transit")),
    ];
    for (from, to, expected) in rows {
        let mut world = world_with(Some(&partners()), |_| {});
        let gateway = world.gateway(CONTOSO);
        let got = outcome(&mut world, gateway, &Req::new("MESSAGE", from, to).text());
        let got = got.map(drop);
        assert_eq!(got, expected.map_err(str::to_owned), "{from} to {to}");
    }
}

#[test]
fn nobody_outside_reaches_an_xmpp_partner_through_us() {
    let mut world = world_with(Some(&partners()), |_| {});
    let gateway = world.gateway(CONTOSO);
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let request = Req::new("MESSAGE", "fabrikam.example", "jabber.example").text();
    assert_eq!(outcome(&mut world, partner, &request), Err("transit".into()));
    // Nor is a SIP peer an XMPP partner.
    let stranger = world.partner(CONTOSO, "203.0.113.21:5000", &["jabber.example"]);
    let request = Req::new("MESSAGE", "jabber.example", "contoso.example").text();
    assert_eq!(outcome(&mut world, stranger, &request), Err("identity-not-proved".into()));
    // A remote user's goes to our own servers, as whatever it asks for does.
    let user = world.remote(CONTOSO, "198.51.100.7:5000");
    let request = Req::new("MESSAGE", "contoso.example", "jabber.example").text();
    assert!(outcome(&mut world, user, &request).is_ok_and(|to| to != gateway));
}

#[test]
fn the_inside_reaches_an_xmpp_partner_through_the_gateway_without_dns() {
    let mut world = world_with(Some(&partners()), |lists| lists.discovery = true);
    let inside = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    let to = |domain: &str| Req::new("MESSAGE", "contoso.example", domain).text();
    let refused = outcome(&mut world, inside, &to("jabber.example"));
    assert_eq!(refused, Err("unreachable".into()), "XMPP is not served");
    let gateway = world.gateway(CONTOSO);
    let request = Req::new("MESSAGE", "contoso.example", "jabber.example").branch("second");
    assert_eq!(outcome(&mut world, inside, &request.text()), Ok(gateway));
    assert!(world.edges[CONTOSO].questions.is_empty());
    assert!(world.edges[CONTOSO].connects.is_empty());
    let proved = world.edges[CONTOSO].events.iter();
    let proved = proved.filter(|event| matches!(event, Event::Proved { .. })).count();
    assert_eq!(proved, 0, "the gateway's address is nobody's");
}

#[test]
fn switched_off_or_without_its_right_there_is_no_other_way() {
    let off = XmppSettings { enabled: false, ..partners() };
    let elsewhere = XmppSettings {
        inside: vec![(vec![domain("contoso.example")], (domain("x.contoso.example"), 5269))],
        ..partners()
    };
    let cases: &[(XmppSettings, bool, &str)] = &[
        (off, true, "federation-disabled"),
        (partners(), false, "user-no-xmpp"),
        (elsewhere, true, "user-no-xmpp"),
    ];
    for (settings, right, reason) in cases {
        for inbound in [false, true] {
            let mut world = world_with(Some(settings), |lists| {
                lists.discovery = true;
                lists.users[0].rights.xmpp = *right;
            });
            let gateway = world.gateway(CONTOSO);
            let (at, from, to) = match inbound {
                true => (gateway, "jabber.example", "contoso.example"),
                false => {
                    let inside = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
                    (inside, "contoso.example", "jabber.example")
                }
            };
            let got = outcome(&mut world, at, &Req::new("MESSAGE", from, to).text());
            assert_eq!(got, Err((*reason).to_owned()), "inbound {inbound}");
        }
    }
}

#[test]
fn a_dialog_holds_both_ways_and_is_nobody_else_s() {
    let mut world = world_with(Some(&partners()), |_| {});
    let gateway = world.gateway(CONTOSO);
    let invite = Req::new("INVITE", "jabber.example", "contoso.example")
        .with("Contact: <sip:alice@10.9.0.5:5060;transport=tcp>");
    world.say(CONTOSO, gateway, &invite.text());
    let mail = world.mail(CONTOSO);
    let (server, got) = mail.into_iter().find(|(at, _)| *at != gateway).unwrap();
    world.say(CONTOSO, server, &answer(&got, "200 OK", Some("b1")));
    let ok = world.expect(CONTOSO, gateway, "SIP/2.0 200 OK\r\n");

    let by_gateway = by_routes(&invite, &ok, true, "MESSAGE", 2);
    world.say(CONTOSO, gateway, &by_gateway.text());
    assert_eq!(world.one_of(CONTOSO, "MESSAGE"), server);
    let by_server = by_routes(&invite, &got, false, "MESSAGE", 1);
    world.say(CONTOSO, server, &by_server.text());
    assert_eq!(world.one_of(CONTOSO, "MESSAGE"), gateway);

    // A SIP partner that learned of it is not let in.
    let partner =
        world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example", "jabber.example"]);
    let stolen = by_routes(&invite, &ok, true, "BYE", 3).branch("stolen");
    assert_eq!(outcome(&mut world, partner, &stolen.text()), Err("wrong-dialog-peer".into()));

    // When the right is gone, so is the dialog.
    set(&mut world, Some(&partners()), |lists| lists.users[0].rights.xmpp = false);
    let late = by_routes(&invite, &ok, true, "MESSAGE", 4);
    assert_eq!(outcome(&mut world, gateway, &late.text()), Err("user-no-xmpp".into()));
    // And when the gateway is, the inside is told.
    set(&mut world, Some(&partners()), |_| {});
    world.cut(CONTOSO, gateway);
    let late = by_routes(&invite, &got, false, "MESSAGE", 5);
    assert_eq!(outcome(&mut world, server, &late.text()), Err("unreachable".into()));
}

#[test]
fn one_xmpp_partner_leaves_room_for_the_others() {
    let mut settings = partners();
    let mut other = xmpp_settings(&["other.example"]).partners;
    settings.partners.append(&mut other);
    let mut world = World::new();
    world.configure(CONTOSO, |config| config.bounds.transactions = 20);
    set(&mut world, Some(&settings), |_| {});
    let gateway = world.gateway(CONTOSO);
    let mut say = |from: &str, n: usize| {
        let request = Req::new("MESSAGE", from, "contoso.example").branch(&format!("{from}{n}"));
        outcome(&mut world, gateway, &request.text()).map(drop)
    };
    // Nobody inside answers; all domains of a partner have one share.
    for n in 0..10 {
        let from = if n % 2 == 0 { "jabber.example" } else { "muc.jabber.example" };
        assert_eq!(say(from, n), Ok(()), "{n}");
    }
    assert_eq!(say("jabber.example", 10), Err("overload".to_owned()));
    assert_eq!(say("muc.jabber.example", 11), Err("overload".to_owned()));
    assert_eq!(say("other.example", 12), Ok(()));
}

/// A message of an XMPP user to a user of ours; what the gateway is told, if anything.
fn writes(
    world: &mut World,
    gateway: ConnectionId,
    method: &'static str,
    user: &str,
) -> Option<String> {
    let mut request = Req::new(method, "muc.jabber.example", "contoso.example").branch(user);
    request.uri = format!("sip:{user}@contoso.example");
    world.say(CONTOSO, gateway, &request.text());
    let mail = world.mail(CONTOSO);
    let told = |(to, got): &(_, String)| *to == gateway && !got.starts_with("SIP/2.0 100 ");
    mail.into_iter().find(told).map(|(_, got)| got)
}

#[test]
fn a_public_xmpp_partner_is_watched_as_a_discovered_one_is_but_never_blocked() {
    let source: std::net::IpAddr = "203.0.113.40".parse().unwrap();
    let muc = domain("muc.jabber.example");
    for kind in [
        XmppPartnerKind::Federated,
        XmppPartnerKind::PublicVerified,
        XmppPartnerKind::PublicUnverified,
    ] {
        let watched = kind != XmppPartnerKind::Federated;
        let mut settings = partners();
        std::sync::Arc::make_mut(&mut settings.partners[0]).kind = kind;
        let mut world = world_with(Some(&settings), |_| {});
        let gateway = world.gateway(CONTOSO);
        // Nobody else's stream, and no other domain's, counts.
        let names = crate::federation::CertificateNames {
            description: "CN=jabber".to_owned(),
            ..Default::default()
        };
        let proxy = &mut world.edges[CONTOSO].proxy;
        proxy.note_stream(&domain("fabrikam.example"), source, None);
        proxy.note_stream(&muc, source, Some(std::sync::Arc::new(names)));
        // What our users asked for is not counted.
        for n in 0..100 {
            assert_eq!(writes(&mut world, gateway, "NOTIFY", &format!("n{n}")), None);
        }
        let told: Vec<String> = (0..60)
            .filter_map(|n| writes(&mut world, gateway, "MESSAGE", &format!("u{n}")))
            .collect();
        assert_eq!(told.len(), if watched { 40 } else { 0 }, "{kind:?}");
        assert!(
            told.iter().all(|got| got.starts_with("SIP/2.0 503 ") && got.contains("throttled"))
        );
        if !watched {
            assert!(world.edges[CONTOSO].proxy.watch_report(world.now, None).is_empty());
            continue;
        }
        for n in 0..981 {
            world.pass(std::time::Duration::from_secs(1));
            let got = writes(&mut world, gateway, "MESSAGE", &format!("v{n}"));
            assert_eq!(got.is_some(), n == 980, "{n}: {got:?}");
            assert!(got.is_none_or(|got| got.contains("watch-listed")));
        }
        let report = world.edges[CONTOSO].proxy.watch_report(world.now, Some(&muc));
        assert_eq!(report[0].source.unwrap().to_string(), "203.0.113.40/32");
        assert_eq!(report[0].evidence.certificates[0].description, "CN=jabber");
        // The kernel is told of nobody, now or after a restart, and the gateway stays.
        let now = world.now;
        let offender = |event: &Event| matches!(event, Event::Offender { .. });
        assert!(!world.edges[CONTOSO].events.iter().any(offender));
        let proxy = &mut world.edges[CONTOSO].proxy;
        assert_eq!(proxy.offenders(now), []);
        let saved = proxy.save_watch_list(now, 1_800_000_000);
        assert_eq!(proxy.restore_watch_list(now, 1_800_000_000, saved), []);
        world.pass(std::time::Duration::from_secs(1));
        assert!(writes(&mut world, gateway, "MESSAGE", "w").unwrap().contains("watch-listed"));
        // A change of policy forgives nothing; `forgive` does.
        set(&mut world, Some(&settings), |_| {});
        assert!(writes(&mut world, gateway, "MESSAGE", "x").unwrap().contains("watch-listed"));
        let mut out = Vec::new();
        assert!(world.edges[CONTOSO].proxy.forgive(&muc, None, &mut out) > 0);
        world.pass(std::time::Duration::from_secs(1));
        assert_eq!(writes(&mut world, gateway, "MESSAGE", "y"), None);
    }
}

/// What goes to servers inside without coming here is held against the same partner.
#[test]
fn stanzas_and_messages_of_a_public_partner_are_one_record() {
    use crate::federation::{Ruling, Sender, UserName};

    let muc = domain("muc.jabber.example");
    for source in ["203.0.113.40", "2001:db8:7::1"] {
        let source: std::net::IpAddr = source.parse().unwrap();
        let mut settings = partners();
        std::sync::Arc::make_mut(&mut settings.partners[0]).kind = XmppPartnerKind::PublicVerified;
        let mut world = world_with(Some(&settings), |_| {});
        let gateway = world.gateway(CONTOSO);
        world.edges[CONTOSO].proxy.note_stream(&muc, source, None);
        for n in 0..10 {
            assert_eq!(writes(&mut world, gateway, "MESSAGE", &format!("u{n}")), None);
        }
        let now = world.now;
        let ours = domain("chat.contoso.example");
        let (names, mut out) = (Default::default(), Vec::new());
        let mut stanza = |world: &mut World, user: &str| {
            let (sender, user) =
                (Sender { domain: &muc, source }, UserName::new(Some(user), &ours));
            world.edges[CONTOSO].proxy.meter_stanza(now, sender, &names, &user, &mut out)
        };
        for n in 0..10 {
            assert_eq!(stanza(&mut world, &format!("u{n}")), Ruling::Pass, "{n}");
        }
        assert_eq!(stanza(&mut world, "x"), Ruling::Slow);
        assert!(writes(&mut world, gateway, "MESSAGE", "y").unwrap().contains("throttled"));
        // What fails there is known here.
        let (sender, user) = (Sender { domain: &muc, source }, UserName::new(Some("u1"), &ours));
        let proxy = &mut world.edges[CONTOSO].proxy;
        proxy.meter_stanza_failed(now, sender, ("message", &user), 404, &mut out);
        let report = proxy.watch_report(now, Some(&muc));
        let sample = report[0].evidence.samples.back().unwrap();
        assert_eq!((sample.method.as_str(), sample.status), ("message", 404));
    }
}
