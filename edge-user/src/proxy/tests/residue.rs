//! What is left of transactions that are done: small, not counted as live, and enough.

use std::time::Duration;

use super::{dialogs::call, *};
use crate::config::Transport;

/// Calls that were accepted in the last 32 seconds, ten times what may be live.
#[test]
fn accepted_calls_are_not_counted_as_live_and_leave_nothing() {
    let mut world = World::new();
    world.configure(CONTOSO, |config| config.bounds.transactions = 200);
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    for number in 0..2000 {
        let invite =
            Req::new("INVITE", "fabrikam.example", "contoso.example").branch(&format!("n{number}"));
        world.say(CONTOSO, partner, &invite.text());
        let mail = world.mail(CONTOSO);
        assert!(mail[0].1.starts_with("SIP/2.0 100 "), "{number}: {mail:?}");
        world.say(CONTOSO, mail[1].0, &answer(&mail[1].1, "200 OK", Some("b")));
        world.expect(CONTOSO, partner, "SIP/2.0 200 ");
        world.pass(Duration::from_millis(10));
    }
    assert_eq!(world.live(), 0);
    assert_eq!(world.edges[CONTOSO].proxy.exchanges.residues(), 2000);
    world.pass(Duration::from_secs(34));
    assert_eq!(world.edges[CONTOSO].proxy.exchanges.residues(), 0);
    assert_eq!(world.edges[CONTOSO].proxy.next_timeout(), None);
}

#[test]
fn an_accepted_invite_that_comes_again_is_dropped_until_its_timer_ends() {
    let mut world = World::new();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let invite = Req::new("INVITE", "fabrikam.example", "contoso.example");
    world.say(CONTOSO, partner, &invite.text());
    let (hop, got) = world.mail(CONTOSO).remove(1);
    world.say(CONTOSO, hop, &answer(&got, "200 OK", Some("b")));
    world.expect(CONTOSO, partner, "SIP/2.0 200 ");
    world.pass(Duration::from_secs(31));
    world.say(CONTOSO, partner, &invite.text());
    assert_eq!(world.mail(CONTOSO), []);
    let mut cancel = invite.clone();
    cancel.method = "CANCEL";
    world.say(CONTOSO, partner, &cancel.text());
    world.expect(CONTOSO, partner, "SIP/2.0 200 ");
    world.pass(Duration::from_secs(3));
    world.say(CONTOSO, partner, &invite.text());
    assert_eq!(world.mail(CONTOSO).len(), 2, "100, and the INVITE to the next hop");
}

#[test]
fn a_2xx_that_comes_again_is_as_the_first_and_only_from_where_it_may_come() {
    for from in [CONTOSO, FABRIKAM] {
        let mut call = call(from);
        let (to, callee) = call.callee;
        let again = answer(&call.got, "200 OK", Some("b1"));
        call.world.say(to, callee, &again);
        let ok = call.world.expect(from, call.caller.1, "SIP/2.0 200 OK");
        assert_eq!(headers(&ok, "Record-Route"), headers(&call.ok, "Record-Route"));
        call.world.say(to, callee, &again.replace("200 OK", "180 Ringing"));
        call.world.say(to, callee, &again.replace("200 OK", "486 Busy Here"));
        assert_eq!(call.world.mail(from), []);
        let stranger = call.world.inside(to, Transport::Tcp, "10.7.7.7:5060");
        call.world.say(to, stranger, &again);
        assert_eq!(call.world.mail(from), []);
        call.world.pass(Duration::from_secs(34));
        call.world.say(to, callee, &again);
        assert_eq!(call.world.mail(from), []);
    }
}

#[test]
fn requests_over_udp_that_were_answered_are_not_counted_as_live() {
    let mut world = World::new();
    world.configure(CONTOSO, |config| config.bounds.transactions = 20);
    let alice = world.inside(CONTOSO, Transport::Udp, "10.0.0.5:5060");
    let request = |number: usize| {
        let mut request = Req::new("MESSAGE", "contoso.example", "fabrikam.example");
        request.transport = "UDP";
        request.branch(&format!("n{number}"))
    };
    for number in 0..200 {
        world.say(CONTOSO, alice, &request(number).text());
        let (bob, got) = world.one(FABRIKAM);
        world.say(FABRIKAM, bob, &answer(&got, "200 OK", Some("b")));
        world.expect(CONTOSO, alice, "SIP/2.0 200 ");
    }
    world.say(CONTOSO, alice, &request(0).text());
    world.expect(CONTOSO, alice, "SIP/2.0 200 ");
    assert_eq!(world.mail(FABRIKAM), []);
    assert_eq!(world.edges[CONTOSO].proxy.exchanges.residues(), 200);
}

#[test]
fn what_is_left_of_a_call_is_small() {
    let size = std::mem::size_of::<crate::proxy::residue::Residue>();
    assert!(size <= 112, "{size}");
}
