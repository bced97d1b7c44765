//! What fails is tried elsewhere, before anything was passed back.

use std::time::Duration;

use super::*;
use crate::config::Transport;

fn invite_from_partner(world: &mut World) -> ConnectionId {
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    world.say(CONTOSO, partner, &Req::new("INVITE", "fabrikam.example", "contoso.example").text());
    partner
}

#[test]
fn a_next_hop_that_cannot_be_reached_is_passed_over() {
    let mut world = World::new();
    world.listeners.remove(&address("10.0.0.21:5060"));
    invite_from_partner(&mut world);
    let hops = [address("10.0.0.21:5060"), address("10.0.0.22:5060")];
    assert_eq!(world.edges[CONTOSO].connects, hops);
    assert!(world.mail(CONTOSO)[1].1.starts_with("INVITE "));
}

#[test]
fn no_next_hop_at_all_is_504() {
    let mut world = World::new();
    world.listeners.clear();
    let partner = invite_from_partner(&mut world);
    let mail = world.mail(CONTOSO);
    assert!(mail[1].0 == partner && mail[1].1.starts_with("SIP/2.0 504 "), "{mail:?}");
    assert_eq!(world.refused(CONTOSO, Refusal::Unreachable), 1);
}

#[test]
fn a_next_hop_that_answers_503_is_passed_over_and_the_last_503_becomes_500() {
    let mut world = World::new();
    let partner = invite_from_partner(&mut world);
    let (first, got) = world.mail(CONTOSO).remove(1);
    world.say(CONTOSO, first, &answer(&got, "503 Service Unavailable", Some("x")));
    let mail = world.mail(CONTOSO);
    assert!(mail[0].0 == first && mail[0].1.starts_with("ACK "), "{mail:?}");
    let (second, again) = mail[1].clone();
    assert_ne!(first, second);
    assert_ne!(headers(&got, "Via")[0], headers(&again, "Via")[0], "another branch");
    world.say(CONTOSO, second, &answer(&again, "503 Service Unavailable", Some("y")));
    let mail = world.mail(CONTOSO);
    assert!(mail[1].0 == partner && mail[1].1.starts_with("SIP/2.0 500 "), "{mail:?}");
}

#[test]
fn a_silent_next_hop_is_passed_over_for_an_invite() {
    let mut world = World::new();
    invite_from_partner(&mut world);
    let first = world.mail(CONTOSO).remove(1).0;
    world.pass(Duration::from_secs(5));
    let (second, got) = world.one(CONTOSO);
    assert_ne!(first, second);
    assert!(got.starts_with("INVITE "));
    // It is remembered: the next request goes there first.
    let partner = world.partner(CONTOSO, "203.0.113.20:5001", &["fabrikam.example"]);
    let next = Req::new("MESSAGE", "fabrikam.example", "contoso.example").branch("n");
    world.say(CONTOSO, partner, &next.text());
    assert_eq!(world.one(CONTOSO).0, second);
}

#[test]
fn a_lost_next_hop_is_replaced_only_before_anything_was_passed_back() {
    for ringing in [false, true] {
        let mut world = World::new();
        let partner = invite_from_partner(&mut world);
        let (first, got) = world.mail(CONTOSO).remove(1);
        if ringing {
            world.say(CONTOSO, first, &answer(&got, "180 Ringing", Some("x")));
            world.expect(CONTOSO, partner, "SIP/2.0 180 ");
        }
        world.cut(CONTOSO, first);
        let (at, got) = world.one(CONTOSO);
        match ringing {
            true => assert!(at == partner && got.starts_with("SIP/2.0 500 "), "{got}"),
            false => assert!(at != partner && got.starts_with("INVITE "), "{got}"),
        }
    }
}

/// fabrikam's edges as DNS names them: both families, two hosts.
fn two_hosts(world: &mut World) -> ConnectionId {
    let hosts = vec![
        host("sip1.fabrikam.example", &["203.0.113.31", "2001:db8::31"]),
        host("sip2.fabrikam.example", &["203.0.113.32"]),
    ];
    world.dns.insert(Question::Federation(domain("fabrikam.example")), Ok(hosts));
    world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000")
}

fn message() -> String {
    Req::new("MESSAGE", "contoso.example", "fabrikam.example").text()
}

#[test]
fn every_address_of_a_partner_is_tried_in_order() {
    let mut world = World::new();
    let alice = two_hosts(&mut world);
    let last = Listener::Script(names(&["sip2.fabrikam.example"]));
    world.listeners.insert(address("203.0.113.32:5061"), last);
    world.say(CONTOSO, alice, &message());
    let expected = ["203.0.113.31:5061", "[2001:db8::31]:5061", "203.0.113.32:5061"].map(address);
    assert_eq!(world.edges[CONTOSO].connects, expected);
    assert!(world.one(CONTOSO).1.starts_with("MESSAGE "));
}

#[test]
fn an_address_that_does_not_prove_the_domain_is_passed_over() {
    let mut world = World::new();
    let alice = two_hosts(&mut world);
    for (at, name) in [
        ("203.0.113.31:5061", "sip1.fabrikam.example.evil.example"),
        ("203.0.113.32:5061", "sip2.fabrikam.example"),
    ] {
        world.listeners.insert(address(at), Listener::Script(names(&[name])));
    }
    world.say(CONTOSO, alice, &message());
    assert!(world.one(CONTOSO).1.starts_with("MESSAGE "));
    assert_eq!(world.refused(CONTOSO, Refusal::IdentityNotProved), 1);
    assert_eq!(world.edges[CONTOSO].closed.len(), 1);
}

#[test]
fn a_partner_that_dns_does_not_know_is_504_without_a_connection() {
    for error in [
        ResolveError::NotFound,
        ResolveError::NoService,
        ResolveError::ForeignTarget,
        ResolveError::ForbiddenAddress,
        ResolveError::Unavailable,
    ] {
        let mut world = World::new();
        let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
        world.dns.insert(Question::Federation(domain("fabrikam.example")), Err(error));
        world.say(CONTOSO, alice, &message());
        world.expect(CONTOSO, alice, "SIP/2.0 504 ");
        assert_eq!(world.edges[CONTOSO].connects, []);
    }
}

#[test]
fn a_lost_partner_connection_is_made_again_for_the_request_on_it() {
    let mut world = World::new();
    let alice = two_hosts(&mut world);
    let first = Listener::Script(names(&["sip1.fabrikam.example"]));
    world.listeners.insert(address("203.0.113.31:5061"), first);
    world.say(CONTOSO, alice, &message());
    let (old, got) = world.one(CONTOSO);
    world.say(CONTOSO, old, &answer(&got, "200 OK", Some("b")));
    world.expect(CONTOSO, alice, "SIP/2.0 200 ");
    // The connection had been lying idle, and goes as the next request is written.
    world.say(
        CONTOSO,
        alice,
        &Req::new("MESSAGE", "contoso.example", "fabrikam.example").branch("2").text(),
    );
    assert_eq!(world.one(CONTOSO).0, old);
    world.cut(CONTOSO, old);
    let (new, got) = world.one(CONTOSO);
    assert_ne!(new, old);
    world.say(CONTOSO, new, &answer(&got, "200 OK", Some("b")));
    world.expect(CONTOSO, alice, "SIP/2.0 200 ");
}

#[test]
fn a_pinned_server_is_looked_up_by_its_own_name() {
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    let mut entry = allow("fabrikam.example");
    entry.proxy_fqdn = Some(domain("edge.hoster.example"));
    entry.port = 5091;
    world.set_policy(CONTOSO, policy("contoso.example", &[entry], &[]));
    let question = Question::Host(domain("edge.hoster.example"), 5091);
    let mut hosts = vec![host("edge.hoster.example", &["2001:db8::40"])];
    hosts[0].port = 5091;
    world.dns.insert(question.clone(), Ok(hosts));
    let pinned = Listener::Script(names(&["edge.hoster.example"]));
    world.listeners.insert(address("[2001:db8::40]:5091"), pinned);
    world.say(CONTOSO, alice, &message());
    assert!(world.one(CONTOSO).1.starts_with("MESSAGE "));
    assert_eq!(world.edges[CONTOSO].questions, [question]);
}

#[test]
fn many_requests_wait_for_one_connection() {
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    let answer = world.dns.remove(&Question::Federation(domain("fabrikam.example"))).unwrap();
    for branch in ["1", "2", "3"] {
        let request = Req::new("MESSAGE", "contoso.example", "fabrikam.example").branch(branch);
        world.say(CONTOSO, alice, &request.text());
    }
    let edge = &world.edges[CONTOSO];
    assert_eq!((edge.questions.len(), edge.connects.len()), (1, 0));
    world.dns.insert(
        Question::Federation(domain("contoso.example")),
        Ok(vec![host("edge.contoso.example", &["203.0.113.10"])]),
    );
    let valid_until = world.now + Duration::from_secs(60);
    let result = answer.map(|hosts| Resolved { hosts, valid_until });
    world.input(CONTOSO, Input::Resolved { query: QueryId(0), result });
    assert_eq!(world.edges[CONTOSO].connects.len(), 1);
    assert_eq!(world.mail(FABRIKAM).len(), 3);
}

#[test]
fn a_next_hop_that_failed_is_first_again_after_a_while() {
    let mut world = World::new();
    let first = world.listeners.remove(&address("10.0.0.21:5060")).unwrap();
    let partner = invite_from_partner(&mut world);
    world.mail(CONTOSO);
    world.listeners.insert(address("10.0.0.21:5060"), first);
    let request = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
    world.say(CONTOSO, partner, &request.clone().branch("2").text());
    assert_eq!(world.edges[CONTOSO].connects.len(), 2, "the other one still");
    world.pass(Duration::from_secs(16));
    world.say(CONTOSO, partner, &request.branch("3").text());
    assert_eq!(world.edges[CONTOSO].connects.last(), Some(&address("10.0.0.21:5060")));
}

#[test]
fn a_next_hop_that_was_taken_out_gets_nothing_more() {
    let tcp = Transport::Tcp;
    let mut world = World::new();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let message = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
    world.say(CONTOSO, partner, &message.text());
    let (old, _) = world.one(CONTOSO);
    // The first goes, the second moves to its place, and back.
    world.reconfigure(CONTOSO, |config| config.next_hops = vec![hop("10.0.0.22:5060", tcp)]);
    world.say(CONTOSO, partner, &message.clone().branch("2").text());
    let (new, _) = world.one(CONTOSO);
    assert_ne!(old, new, "the connection of the old next hop is not used");
    let hops = [hop("10.0.0.21:5060", tcp), hop("10.0.0.22:5060", tcp)];
    world.reconfigure(CONTOSO, |config| config.next_hops = hops.to_vec());
    world.say(CONTOSO, partner, &message.clone().branch("3").text());
    assert_ne!(world.one(CONTOSO).0, new, "the first is the first again");
    let connects = ["10.0.0.21:5060", "10.0.0.22:5060", "10.0.0.21:5060"].map(address);
    assert_eq!(world.edges[CONTOSO].connects, connects);
}

#[test]
fn a_request_that_waits_for_a_next_hop_that_is_taken_out_goes_to_another() {
    let mut world = World::new();
    let tcp = Transport::Tcp;
    let named = crate::config::NextHop {
        host: crate::config::Host::Name(domain("pool.contoso.example")),
        port: 5060,
        transport: tcp,
    };
    let question = Question::NextHop(named.clone());
    let hops = [named, hop("10.0.0.22:5060", tcp)];
    world.configure(CONTOSO, |config| config.next_hops = hops.to_vec());
    let partner = invite_from_partner(&mut world);
    world.expect(CONTOSO, partner, "SIP/2.0 100 ");
    assert_eq!(world.edges[CONTOSO].questions, [question]);
    world.reconfigure(CONTOSO, |config| config.next_hops = vec![hop("10.0.0.22:5060", tcp)]);
    let hosts = vec![host("pool.contoso.example", &["10.0.0.21"])];
    let valid_until = world.now + Duration::from_secs(300);
    let result = Ok(Resolved { hosts, valid_until });
    world.input(CONTOSO, Input::Resolved { query: QueryId(0), result });
    let mail = world.mail(CONTOSO);
    assert!(mail.iter().any(|(_, got)| got.starts_with("INVITE ")), "{mail:?}");
    assert_eq!(world.edges[CONTOSO].connects.last(), Some(&address("10.0.0.22:5060")));
}

/// An INVITE whose first next hop was silent and that is with the second: partner, the first hop's
/// connection and INVITE, the second's.
pub(super) fn passed_over() -> (World, ConnectionId, (ConnectionId, String), (ConnectionId, String))
{
    let mut world = World::new();
    let partner = invite_from_partner(&mut world);
    let first = world.mail(CONTOSO).remove(1);
    world.pass(Duration::from_secs(5));
    let second = world.one(CONTOSO);
    (world, partner, first, second)
}

#[test]
fn a_next_hop_that_rings_too_late_is_called_off() {
    let (mut world, partner, (first, late), (second, got)) = passed_over();
    world.say(CONTOSO, first, &answer(&late, "180 Ringing", Some("l1")));
    let cancel = world.expect(CONTOSO, first, "CANCEL ");
    assert_eq!(headers(&cancel, "Via"), headers(&late, "Via")[..1], "of its own INVITE");
    world.say(CONTOSO, first, &answer(&late, "180 Ringing", Some("l1")));
    world.say(CONTOSO, first, &answer(&cancel, "200 OK", Some("l1")));
    assert_eq!(world.mail(CONTOSO), [], "once");
    world.say(CONTOSO, first, &answer(&late, "487 Request Terminated", Some("l1")));
    world.expect(CONTOSO, first, "ACK ");
    world.say(CONTOSO, second, &answer(&got, "200 OK", Some("b1")));
    world.expect(CONTOSO, partner, "SIP/2.0 200 OK");
    world.pass(Duration::from_secs(40));
    assert_eq!(world.live(), 0);
}

#[test]
fn a_2xx_that_comes_late_is_not_lost() {
    for rings in [true, false] {
        let (mut world, partner, (first, late), (second, got)) = passed_over();
        if rings {
            world.say(CONTOSO, second, &answer(&got, "180 Ringing", Some("b1")));
            world.expect(CONTOSO, partner, "SIP/2.0 180 ");
        }
        world.say(CONTOSO, first, &answer(&late, "200 OK", Some("l1")));
        let mail = world.mail(CONTOSO);
        let ok = mail.iter().find(|(at, _)| *at == partner).unwrap();
        assert!(ok.1.starts_with("SIP/2.0 200 ") && headers(&ok.1, "To")[0].ends_with("l1"));
        let called_off =
            |mail: &[(_, String)]| mail.iter().any(|(at, m)| *at == second && m.starts_with("CAN"));
        assert_eq!(called_off(&mail), rings, "{mail:?}");
        let elsewhere = |(_, text): &(_, String)| {
            headers(text, "Reason") == ["SIP;cause=200;text=\"Call completed elsewhere\""]
        };
        assert_eq!(mail.iter().any(elsewhere), rings, "no missed call: {mail:?}");
        if !rings {
            world.say(CONTOSO, second, &answer(&got, "180 Ringing", Some("b1")));
            let mail = world.mail(CONTOSO);
            assert!(called_off(&mail) && mail.iter().any(elsewhere), "{mail:?}");
        }
        world.say(CONTOSO, second, &answer(&got, "487 Request Terminated", Some("b1")));
        world.expect(CONTOSO, second, "ACK ");
        // Again, as long as its ACK has not come.
        world.say(CONTOSO, first, &answer(&late, "200 OK", Some("l1")));
        world.expect(CONTOSO, partner, "SIP/2.0 200 OK");
        world.pass(Duration::from_secs(40));
        assert_eq!(world.live(), 0);
    }
}

#[test]
fn of_two_answers_both_reach_the_caller() {
    let (mut world, partner, (first, late), (second, got)) = passed_over();
    world.say(CONTOSO, second, &answer(&got, "200 OK", Some("b1")));
    world.expect(CONTOSO, partner, "SIP/2.0 200 OK");
    // Not from anybody else.
    world.say(CONTOSO, second, &answer(&late, "200 OK", Some("l1")));
    assert_eq!(world.mail(CONTOSO), []);
    world.say(CONTOSO, first, &answer(&late, "200 OK", Some("l1")));
    let ok = world.expect(CONTOSO, partner, "SIP/2.0 200 OK");
    assert!(headers(&ok, "To")[0].ends_with("l1"));
    assert_eq!(headers(&ok, "Via").len(), 1, "ours is off");
}

/// Two servers of a partner that take connections; alice's request went to the first.
fn silent_partner(request: &str) -> (World, ConnectionId, (ConnectionId, String)) {
    let mut world = World::new();
    let hosts = vec![
        host("sip1.fabrikam.example", &["203.0.113.31"]),
        host("sip2.fabrikam.example", &["203.0.113.32"]),
    ];
    world.dns.insert(Question::Federation(domain("fabrikam.example")), Ok(hosts));
    for (at, name) in [("203.0.113.31", "sip1"), ("203.0.113.32", "sip2")] {
        let script = Listener::Script(names(&[&format!("{name}.fabrikam.example")]));
        world.listeners.insert(address(&format!("{at}:5061")), script);
    }
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    world.say(CONTOSO, alice, request);
    let mail = world.mail(CONTOSO);
    let first = mail.into_iter().find(|(at, _)| *at != alice).unwrap();
    assert_eq!(world.edges[CONTOSO].connects, [address("203.0.113.31:5061")]);
    (world, alice, first)
}

/// What went to another server than the first, or to alice, but for 100.
fn others(world: &mut World, first: ConnectionId) -> Vec<(ConnectionId, String)> {
    let mut mail = world.mail(CONTOSO);
    mail.retain(|(at, got)| *at != first && !got.starts_with("SIP/2.0 100 "));
    mail
}

fn from_alice(method: &'static str) -> String {
    Req::new(method, "contoso.example", "fabrikam.example").text()
}

#[test]
fn a_partners_silent_server_is_passed_over_within_the_transaction() {
    for (method, patience) in [("INVITE", 4), ("MESSAGE", 16), ("BYE", 16)] {
        let (mut world, alice, (first, _)) = silent_partner(&from_alice(method));
        world.pass(Duration::from_millis(patience * 1000 - 1));
        assert_eq!(others(&mut world, first), [], "{method}");
        world.pass(Duration::from_millis(1));
        let [(second, got)] = &others(&mut world, first)[..] else { panic!("{method}") };
        assert!(got.starts_with(&format!("{method} ")), "{got}");
        assert_eq!(world.edges[CONTOSO].connects.last(), Some(&address("203.0.113.32:5061")));
        world.say(CONTOSO, *second, &answer(got, "200 OK", Some("b2")));
        world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
        world.pass(Duration::from_secs(40));
        assert_eq!((others(&mut world, first), world.live()), (vec![], 0), "{method}");
    }
}

#[test]
fn a_server_that_says_100_has_all_the_time_there_is() {
    let (mut world, alice, (first, got)) = silent_partner(&from_alice("MESSAGE"));
    world.pass(Duration::from_secs(4));
    world.say(CONTOSO, first, &answer(&got, "100 Trying", None));
    world.pass(Duration::from_secs(27));
    assert_eq!(others(&mut world, first), []);
    world.say(CONTOSO, first, &answer(&got, "200 OK", Some("b1")));
    world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
}

#[test]
fn the_first_answer_counts_whoever_gives_it() {
    for late in [true, false] {
        let (mut world, alice, (first, got)) = silent_partner(&from_alice("MESSAGE"));
        world.pass(Duration::from_secs(16));
        let (second, again) = others(&mut world, first).remove(0);
        let mut answers = [(first, &got, "b1"), (second, &again, "b2")];
        if !late {
            answers.reverse();
        }
        let [(at, of, tag), (other, of_other, other_tag)] = answers;
        world.say(CONTOSO, at, &answer(of, "200 OK", Some(tag)));
        let ok = world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
        assert!(headers(&ok, "To")[0].ends_with(tag), "{ok}");
        world.say(CONTOSO, other, &answer(of_other, "404 Not Found", Some(other_tag)));
        assert_eq!(world.mail(CONTOSO), [], "once");
        world.pass(Duration::from_secs(40));
        assert_eq!(world.live(), 0);
    }
}

#[test]
fn where_all_are_silent_nothing_is_said_to_what_is_no_invite() {
    let (mut world, _, (first, _)) = silent_partner(&from_alice("MESSAGE"));
    world.pass(Duration::from_secs(16));
    assert_eq!(others(&mut world, first).len(), 1);
    world.pass(Duration::from_secs(60));
    assert_eq!((others(&mut world, first), world.live()), (vec![], 0));
}

#[test]
fn a_slow_server_is_waited_for_where_no_other_can_be_reached() {
    let (mut world, alice, (first, got)) = silent_partner(&from_alice("MESSAGE"));
    world.listeners.remove(&address("203.0.113.32:5061"));
    world.pass(Duration::from_secs(20));
    assert_eq!(world.edges[CONTOSO].connects.last(), Some(&address("203.0.113.32:5061")));
    assert_eq!(others(&mut world, first), []);
    world.say(CONTOSO, first, &answer(&got, "200 OK", Some("b1")));
    world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
    world.pass(Duration::from_secs(40));
    assert_eq!(world.live(), 0);
}
