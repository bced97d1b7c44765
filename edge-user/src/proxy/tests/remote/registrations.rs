//! How long remote users are registered, and over which connection.

use std::time::Duration;

use super::{super::*, register, registered_as, world};

/// A registration of alice's that asks for this contact is answered with these.
fn binds(world: &mut World, at: ConnectionId, asked: &str, granted: &str) {
    let own = "<sip:alice@192.168.1.5:5061;transport=tls>;expires=600;reg-id=1";
    let text =
        register("alice").branch(&format!("{}-{}", at.0, asked.len())).text().replace(own, asked);
    world.say(CONTOSO, at, &text);
    let (server, got) = world.one(CONTOSO);
    let contacts = match granted {
        "" => String::new(),
        granted => format!("Contact: {granted}\r\n"),
    };
    let ok = answer(&got, "200 OK", Some("r1"));
    world.say(CONTOSO, server, &ok.replace("Content-Length", &format!("{contacts}Content-Length")));
    world.expect(CONTOSO, at, "SIP/2.0 200 OK");
}

#[test]
fn a_registration_lasts_as_long_as_the_answer_says_of_its_own_contact() {
    const OWN: &str = "<sip:alice@192.168.1.5:5061;transport=tls>";
    const PHONE: &str = "<sip:alice@192.168.1.9:5061>;expires=3000";
    const DESK: &str = "<sip:alice@192.168.1.8:5061>;expires=2000";
    let own = |seconds: u32| format!("{OWN};expires={seconds}");
    for (asked, granted, seconds) in [
        (own(600), format!("{PHONE}, {}, {DESK}", own(300)), 300),
        (own(600), "<sip:ALICE@192.168.1.5:5061>;expires=120".into(), 120),
        (own(600), String::new(), 600),
        (own(600), format!("{PHONE}, {DESK}"), 600),
        // By the user agent's own number, wherever it is.
        (
            format!("{OWN};+sip.instance=\"<urn:uuid:A>\";reg-id=1;expires=600"),
            "<sip:gone@192.168.1.7>;+sip.instance=\"<urn:uuid:a>\";reg-id=1;expires=60, \
             <sip:alice@192.168.1.5:5061>;+sip.instance=\"<urn:uuid:b>\";expires=900"
                .into(),
            60,
        ),
        (own(600), format!("{PHONE}, {}", own(0)), 0),
    ] {
        let (mut world, alice) = world();
        binds(&mut world, alice, &asked, &granted);
        let mut shown = |after: u64| {
            world.pass(Duration::from_secs(after));
            world.act(CONTOSO, |proxy, now, _| proxy.tidy_users(now));
            world.edges[CONTOSO].proxy.counters().registered
        };
        if seconds > 0 {
            assert_eq!(shown(seconds - 1), 1, "{granted}");
        }
        assert_eq!(shown(1), 0, "{granted}");
    }
}

#[test]
fn who_signs_off_or_comes_over_another_connection_is_not_shown_on_the_first() {
    const OWN: &str = "<sip:alice@192.168.1.5:5061;transport=tls>";
    for (asked, left) in [
        (format!("{OWN};expires=0"), [0, 0]),
        ("*\r\nExpires: 0".into(), [0, 0]),
        ("<sip:alice@192.168.1.9:5061>;expires=0".into(), [1, 0]),
        (format!("{OWN};expires=600"), [0, 1]),
        ("<sip:alice@192.168.1.9:5061>;expires=600".into(), [1, 1]),
        // From one access to another, of one device.
        (format!("{OWN};expires=0, <sip:alice@198.51.100.9:5061>;expires=600"), [0, 1]),
    ] {
        let (mut world, first) = world();
        binds(&mut world, first, &format!("{OWN};expires=600"), "");
        let second = world.remote(CONTOSO, "198.51.100.9:50000");
        let carol = world.remote(CONTOSO, "198.51.100.7:50001");
        registered_as(&mut world, carol, "carol");
        binds(&mut world, second, &asked, "");
        let users = |at: ConnectionId| {
            let status = world.edges[CONTOSO].proxy.status();
            status.into_iter().find(|c| c.connection == at).unwrap().users.len()
        };
        assert_eq!([users(first), users(second)], left, "{asked}");
        assert_eq!(users(carol), 1, "nobody else's");
    }
}
