//! Transactions from their beginning to their end, and what a changed policy ends.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    config::{AllowedDomain, BlockedDomain, Federation, Transport},
    federation::Policy,
};

/// An INVITE from a partner that waits inside for an answer: partner, server, INVITE as got.
pub(crate) fn invited() -> (World, ConnectionId, ConnectionId, String) {
    let mut world = World::new();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    world.say(CONTOSO, partner, &Req::new("INVITE", "fabrikam.example", "contoso.example").text());
    let mut mail = world.mail(CONTOSO);
    assert_eq!(mail.len(), 2);
    assert!(mail[0].1.starts_with("SIP/2.0 100 "), "100 at once");
    let (server, got) = mail.remove(1);
    (world, partner, server, got)
}

fn cancel() -> String {
    Req::new("CANCEL", "fabrikam.example", "contoso.example").text()
}

#[test]
fn a_cancel_waits_for_a_provisional_response_and_follows_the_invite() {
    for ringing_first in [true, false] {
        let (mut world, partner, server, got) = invited();
        let ring = answer(&got, "180 Ringing", Some("b1"));
        if ringing_first {
            world.say(CONTOSO, server, &ring);
            world.expect(CONTOSO, partner, "SIP/2.0 180 ");
        }
        world.say(CONTOSO, partner, &cancel());
        let mail = world.mail(CONTOSO);
        assert!(mail[0].1.starts_with("SIP/2.0 200 OK\r\n"), "{mail:?}");
        let cancelled = if ringing_first {
            mail[1].1.clone()
        } else {
            assert_eq!(mail.len(), 1);
            world.say(CONTOSO, server, &ring);
            world.mail(CONTOSO)[0].1.clone()
        };
        assert!(cancelled.starts_with("CANCEL sip:bob@contoso.example SIP/2.0\r\n"), "{cancelled}");
        assert_eq!(headers(&cancelled, "Via"), headers(&got, "Via")[..1]);
        world.say(CONTOSO, server, &answer(&cancelled, "200 OK", Some("b1")));
        assert_eq!(world.mail(CONTOSO), []);
        world.say(CONTOSO, server, &answer(&got, "487 Request Terminated", Some("b1")));
        let mail = world.mail(CONTOSO);
        assert!(mail[0].0 == server && mail[0].1.starts_with("ACK "), "{mail:?}");
        assert!(mail[1].0 == partner && mail[1].1.starts_with("SIP/2.0 487 "), "{mail:?}");
        world.say(CONTOSO, partner, &cancel().replace("CANCEL", "ACK"));
        assert_eq!(world.live(), 0);
    }
}

/// RFC 3326 section 2: else a phone shows a call as missed that was taken elsewhere.
#[test]
fn a_cancel_says_on_why_it_was_sent() {
    let why = "Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\nreason : Q.850;cause=16\r\n\
               ms-diagnostics-public: 51004;reason=\"a\"\r\nms-diagnostics-public: 2;reason=\"b\"\r\n\
               ms-diagnostics: 3;source=\"x\"\r\nX: \"\\\u{1}\"\r\nCSeq";
    for ringing_first in [true, false] {
        let (mut world, partner, server, got) = invited();
        let ring = answer(&got, "180 Ringing", Some("b1"));
        let cancel = cancel().replacen("CSeq", why, 1);
        let order = if ringing_first {
            [(server, &ring), (partner, &cancel)]
        } else {
            [(partner, &cancel), (server, &ring)]
        };
        for (at, text) in order {
            world.say(CONTOSO, at, text);
        }
        let mail = world.mail(CONTOSO);
        let (_, sent) = mail.iter().find(|(_, text)| text.starts_with("CANCEL ")).unwrap();
        let reasons = ["SIP;cause=200;text=\"Call completed elsewhere\"", "Q.850;cause=16"];
        assert_eq!(headers(sent, "Reason"), reasons, "{sent}");
        assert_eq!(headers(sent, "ms-diagnostics-public"), ["51004;reason=\"a\""]);
        assert_eq!(headers(sent, "ms-diagnostics").len() + headers(sent, "X").len(), 0, "{sent}");
    }
    // What cannot stand in a header of ours is left out, and the call ends all the same.
    let (mut world, partner, server, got) = invited();
    world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
    let odd = cancel().replacen("CSeq", "Reason: x;text=\"\\\u{1}\"\r\nCSeq", 1);
    world.say(CONTOSO, partner, &odd);
    let mail = world.mail(CONTOSO);
    let (_, sent) = mail.iter().find(|(_, text)| text.starts_with("CANCEL ")).unwrap();
    assert_eq!(headers(sent, "Reason").len(), 0, "{sent}");
}

#[test]
fn a_cancel_for_nothing_is_told_so_and_nobody_cancels_for_another() {
    let (mut world, _, server, got) = invited();
    world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
    world.mail(CONTOSO);
    let other = world.partner(CONTOSO, "203.0.113.99:5000", &["third.example"]);
    world.say(CONTOSO, other, &cancel());
    world.expect(CONTOSO, other, "SIP/2.0 481 ");
    assert_eq!(world.live(), 1);
}

#[test]
fn a_cancel_reaches_a_request_that_still_waits() {
    let mut world = World::new();
    world.dns.clear();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["sip.fabrikam.example"]);
    world.say(CONTOSO, partner, &Req::new("INVITE", "fabrikam.example", "contoso.example").text());
    // RFC 3261 section 17.2.1: within 200 ms, however long DNS takes.
    assert_eq!(world.mail(CONTOSO), []);
    world.pass(Duration::from_millis(200));
    world.expect(CONTOSO, partner, "SIP/2.0 100 ");
    world.say(CONTOSO, partner, &cancel());
    let mail = world.mail(CONTOSO);
    assert!(mail[0].1.starts_with("SIP/2.0 200 "), "{mail:?}");
    assert!(mail[1].1.starts_with("SIP/2.0 487 "), "{mail:?}");
    let question = Question::Federation(domain("fabrikam.example"));
    assert_eq!(world.edges[CONTOSO].questions, std::slice::from_ref(&question));
    world
        .input(CONTOSO, Input::Resolved { query: QueryId(0), result: Err(ResolveError::NotFound) });
    assert_eq!(world.mail(CONTOSO), []);
    // It is said once.
    let mut world = World::new();
    let answer = world.dns.remove(&question).unwrap();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["sip.fabrikam.example"]);
    world.say(CONTOSO, partner, &Req::new("INVITE", "fabrikam.example", "contoso.example").text());
    world.pass(Duration::from_millis(200));
    world.expect(CONTOSO, partner, "SIP/2.0 100 ");
    let (hosts, valid_until) = (answer.unwrap(), world.now + Duration::from_secs(60));
    let result = Ok(Resolved { hosts, valid_until });
    world.input(CONTOSO, Input::Resolved { query: QueryId(0), result });
    let (_, got) = world.one(CONTOSO);
    assert!(got.starts_with("INVITE "), "{got}");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.mail(CONTOSO), []);
}

#[test]
fn an_ack_for_a_refusal_ends_at_the_edge() {
    let (mut world, partner, server, got) = invited();
    world.say(CONTOSO, server, &answer(&got, "486 Busy Here", Some("b1")));
    let mail = world.mail(CONTOSO);
    assert!(mail[0].0 == server && mail[0].1.starts_with("ACK sip:bob@contoso.example "));
    assert!(mail[1].0 == partner && mail[1].1.starts_with("SIP/2.0 486 "));
    world.say(CONTOSO, partner, &cancel().replace("CANCEL", "ACK"));
    assert_eq!(world.mail(CONTOSO), []);
    assert_eq!(world.live(), 0);
}

#[test]
fn an_ack_for_a_refusal_of_ours_is_no_offence() {
    let mut world = World::new();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let mut invite = Req::new("INVITE", "fabrikam.example", "third.example");
    world.say(CONTOSO, partner, &invite.text());
    let refused = world.expect(CONTOSO, partner, "SIP/2.0 403 ");
    invite.method = "ACK";
    invite.to = headers(&refused, "To")[0].into();
    world.say(CONTOSO, partner, &invite.text());
    assert_eq!(world.mail(CONTOSO), []);
    assert_eq!(world.refused(CONTOSO, Refusal::Transit), 1);
}

#[test]
fn an_invite_that_nobody_answers_ends_with_408_and_other_requests_silently() {
    for (method, expected) in [("INVITE", "SIP/2.0 408 "), ("MESSAGE", "SIP/2.0 100 ")] {
        let mut world = World::new();
        world.configure(CONTOSO, |config| config.next_hops.truncate(1));
        let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
        world.say(
            CONTOSO,
            partner,
            &Req::new(method, "fabrikam.example", "contoso.example").text(),
        );
        world.mail(CONTOSO);
        world.pass(Duration::from_secs(40));
        let late: Vec<_> = world.mail(CONTOSO);
        assert_eq!(late.len(), 1, "{late:?}");
        assert!(late[0].0 == partner && late[0].1.starts_with(expected), "{late:?}");
        world.pass(Duration::from_secs(40));
        assert_eq!(world.live(), 0);
    }
}

#[test]
fn timer_c_cancels_a_call_that_rings_for_ever() {
    let (mut world, partner, server, got) = invited();
    world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
    world.mail(CONTOSO);
    world.pass(Duration::from_secs(100));
    world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
    world.mail(CONTOSO);
    world.pass(Duration::from_secs(180));
    assert_eq!(world.mail(CONTOSO), [], "each provisional response starts it again");
    world.pass(Duration::from_secs(10));
    world.expect(CONTOSO, server, "CANCEL ");
    world.pass(Duration::from_secs(40));
    world.expect(CONTOSO, partner, "SIP/2.0 487 ");
    world.pass(Duration::from_secs(40));
    assert_eq!(world.live(), 0);
}

#[test]
fn a_lost_sender_cancels_its_call() {
    let (mut world, partner, server, got) = invited();
    world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
    world.mail(CONTOSO);
    world.listeners.remove(&address("203.0.113.20:5061"));
    world.cut(CONTOSO, partner);
    world.expect(CONTOSO, server, "CANCEL ");
    world.say(CONTOSO, server, &answer(&got, "487 Request Terminated", Some("b1")));
    world.expect(CONTOSO, server, "ACK ");
    world.pass(Duration::from_secs(40));
    assert_eq!(world.live(), 0);
}

#[test]
fn a_block_ends_what_is_live_from_the_domain() {
    let (mut world, partner, server, got) = invited();
    world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
    world.mail(CONTOSO);
    let both = world.partner(CONTOSO, "203.0.113.30:5000", &["fabrikam.example", "third.example"]);
    let lists = [allow("fabrikam.example"), allow("third.example")];
    world.set_policy(CONTOSO, policy("contoso.example", &lists, &["fabrikam.example"]));
    let mail = world.mail(CONTOSO);
    assert!(mail[0].0 == server && mail[0].1.starts_with("CANCEL "), "{mail:?}");
    assert!(mail[1].0 == partner && mail[1].1.starts_with("SIP/2.0 403 "), "{mail:?}");
    assert_eq!(world.edges[CONTOSO].closed, [(partner, Refusal::DomainBlocked)]);
    // One that also proves somebody else stays, and speaks for that one only.
    for (from, expected) in [("fabrikam.example", "SIP/2.0 403 "), ("third.example", "MESSAGE ")] {
        world.say(CONTOSO, both, &Req::new("MESSAGE", from, "contoso.example").branch(from).text());
        let (_, got) = world.one(CONTOSO);
        assert!(got.starts_with(expected), "{got}");
    }
}

#[test]
fn a_connection_of_a_blocked_domain_is_closed_when_it_comes() {
    let mut world = World::new();
    world.set_policy(CONTOSO, policy("contoso.example", &[], &["bad.example"]));
    for sans in [&["bad.example"][..], &["sip.bad.example"]] {
        let at = world.partner(CONTOSO, "203.0.113.66:5000", sans);
        let edge = &world.edges[CONTOSO];
        assert_eq!(edge.closed.last(), Some(&(at, Refusal::DomainBlocked)), "{sans:?}");
        assert!(edge.events.iter().any(|event| matches!(event, Event::Proved { .. })));
    }
    assert_eq!(world.edges[CONTOSO].proxy.counters().partner_connections, 0);
}

#[test]
fn a_shared_certificate_stays_as_long_as_an_allowed_partner_may_use_it() {
    // A hoster's edge: hosts of several domains in one certificate, one of them blocked.
    for (sans, stays) in [
        (&["sip.bad.example", "sip.fabrikam.example"][..], true),
        (&["sip.bad.example", "fabrikam.example"], true),
        (&["sip.bad.example", "xfabrikam.example"], false),
        (&["sip.bad.example", "fabrikam.example.evil.example"], false),
    ] {
        let mut world = World::new();
        let lists = [allow("fabrikam.example")];
        world.set_policy(CONTOSO, policy("contoso.example", &lists, &["bad.example"]));
        let at = world.partner(CONTOSO, "203.0.113.66:5000", sans);
        assert_eq!(world.edges[CONTOSO].closed.is_empty(), stays, "{sans:?}");
        if stays {
            for (from, expected) in [("bad.example", "SIP/2.0 403 "), ("fabrikam.example", "MESS")]
            {
                let message = Req::new("MESSAGE", from, "contoso.example").branch(from);
                world.say(CONTOSO, at, &message.text());
                let (_, got) = world.one(CONTOSO);
                assert!(got.starts_with(expected), "{sans:?} {from}: {got}");
            }
            assert_eq!(world.edges[CONTOSO].closed, [], "{sans:?}");
        }
    }
}

#[test]
fn a_hosters_edge_counts_where_the_entry_relaxes_the_domain_and_dns_named_it() {
    let mut world = World::new();
    let relaxed = AllowedDomain { relax_srv_domain: true, ..allow("fabrikam.example") };
    world.set_policy(CONTOSO, policy("contoso.example", &[relaxed], &["bad.example"]));
    let hosts = vec![host("edge.hoster.example", &["203.0.113.20"])];
    world.dns.insert(Question::Federation(domain("fabrikam.example")), Ok(hosts));
    let first = world.partner(CONTOSO, "203.0.113.20:5000", &["edge.hoster.example"]);
    let message = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
    world.say(CONTOSO, first, &message.text());
    assert!(world.one(CONTOSO).1.starts_with("MESSAGE "));
    for (host, stays) in [("edge.hoster.example", true), ("evil.hoster.example", false)] {
        let at = world.partner(CONTOSO, "203.0.113.20:5001", &[host, "sip.bad.example"]);
        let closed = world.edges[CONTOSO].closed.contains(&(at, Refusal::DomainBlocked));
        assert_eq!(closed, !stays, "{host}");
    }
}

#[test]
fn a_partner_that_is_taken_off_the_list_is_refused_on_its_live_connection() {
    let mut world = World::new();
    let at = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.0.0.5:40000");
    let message = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
    world.say(CONTOSO, at, &message.text());
    assert!(world.one(CONTOSO).1.starts_with("MESSAGE "));
    world.set_policy(CONTOSO, policy("contoso.example", &[], &[]));
    world.say(CONTOSO, at, &message.branch("2").text());
    world.expect(CONTOSO, at, "SIP/2.0 403 ");
    world.say(CONTOSO, alice, &Req::new("MESSAGE", "contoso.example", "fabrikam.example").text());
    world.expect(CONTOSO, alice, "SIP/2.0 403 ");
    assert_eq!(world.refused(CONTOSO, Refusal::DomainNotAllowed), 2);
}

/// A partner's connection whose certificate names its host only, proved by DNS.
fn proved_by_host() -> (World, ConnectionId) {
    let mut world = World::new();
    let at = world.partner(CONTOSO, "203.0.113.20:5000", &["sip.fabrikam.example"]);
    let message = Req::new("MESSAGE", "fabrikam.example", "contoso.example");
    world.say(CONTOSO, at, &message.text());
    assert!(world.one(CONTOSO).1.starts_with("MESSAGE "));
    (world, at)
}

#[test]
fn a_block_closes_the_connection_of_a_host_that_proved_the_domain() {
    let (mut world, at) = proved_by_host();
    let blocked_domains =
        vec![BlockedDomain { domain: domain("fabrikam.example"), subdomains: false }];
    let lists = Federation { blocked_domains, ..federation(&[], &[]) };
    world.set_policy(CONTOSO, Arc::new(Policy::new(&[domain("contoso.example")], &lists)));
    assert_eq!(world.edges[CONTOSO].closed, [(at, Refusal::DomainBlocked)]);
}

#[test]
fn a_proof_made_under_another_entry_does_not_hold() {
    let (mut world, at) = proved_by_host();
    let pinned = AllowedDomain {
        proxy_fqdn: Some(domain("edge.fabrikam.example")),
        ..allow("fabrikam.example")
    };
    world.set_policy(CONTOSO, policy("contoso.example", &[pinned], &[]));
    let message = Req::new("MESSAGE", "fabrikam.example", "contoso.example").branch("2");
    world.say(CONTOSO, at, &message.text());
    world.expect(CONTOSO, at, "SIP/2.0 403 ");
    assert_eq!(world.refused(CONTOSO, Refusal::IdentityNotProved), 1);
}

#[test]
fn an_unreadable_request_is_answered_when_it_can_be() {
    let mut world = World::new();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    let text =
        Req::new("MESSAGE", "fabrikam.example", "contoso.example").with("Content-Length: 7").text();
    world.say(CONTOSO, partner, &text);
    world.expect(CONTOSO, partner, "SIP/2.0 400 ");
    world.say(CONTOSO, partner, "garbage\r\n\r\n");
    assert_eq!(world.mail(CONTOSO), []);
    assert_eq!(world.refused(CONTOSO, Refusal::Malformed), 2);
}

#[test]
fn an_inside_connection_knows_nothing_of_domains() {
    let mut world = World::new();
    world.inside(CONTOSO, Transport::Tls, "10.0.0.5:40000");
    let status = world.edges[CONTOSO].proxy.status();
    assert_eq!(status.len(), 1);
    assert!(status[0].domains.is_empty() && status[0].side == Side::Inside);
}

#[test]
fn a_branch_that_another_partner_uses_too_disturbs_nobody() {
    let (mut world, partner, server, got) = invited();
    world.say(CONTOSO, server, &answer(&got, "180 Ringing", Some("b1")));
    world.mail(CONTOSO);
    let lists = [allow("fabrikam.example"), allow("third.example")];
    world.set_policy(CONTOSO, policy("contoso.example", &lists, &[]));
    let other = world.partner(CONTOSO, "203.0.113.20:6000", &["third.example"]);
    world.say(CONTOSO, other, &Req::new("INVITE", "third.example", "contoso.example").text());
    assert_eq!(world.mail(CONTOSO).len(), 2, "100 and its own INVITE");
    // The first partner's CANCEL, on a second connection of the same certificate.
    let again = world.partner(CONTOSO, "203.0.113.20:5002", &["fabrikam.example"]);
    world.say(CONTOSO, again, &cancel());
    let mail = world.mail(CONTOSO);
    assert!(mail[0].0 == again && mail[0].1.starts_with("SIP/2.0 200 "), "{mail:?}");
    assert_eq!(headers(&mail[1].1, "Via"), headers(&got, "Via")[..1], "its own INVITE's");
    world.say(CONTOSO, server, &answer(&got, "487 Request Terminated", Some("b1")));
    assert!(world.mail(CONTOSO).iter().any(|(at, got)| *at == partner && got.contains(" 487 ")));
}

#[test]
fn a_blocked_domains_host_that_speaks_for_it_is_closed_and_its_address_is_told() {
    for (sans, from, closed) in [
        (&["sip.bad.example"][..], "bad.example", true),
        (&["a.b.bad.example"], "bad.example", true),
        // No host of the blocked domain: anybody can write its name into From.
        (&["sip.third.example"], "bad.example", false),
        (&["xbad.example"], "bad.example", false),
        (&["bad.example.third.example"], "bad.example", false),
        // An allowed partner's own certificate; and a neighbour that did not speak for it.
        (&["sip.bad.example", "fabrikam.example"], "bad.example", false),
        (&["sip.bad.example"], "it.bad.example", false),
    ] {
        let mut world = World::new();
        let lists = federation(&[allow("fabrikam.example")], &[]);
        let blocked_domains =
            vec![BlockedDomain { domain: domain("bad.example"), subdomains: false }];
        let lists = Federation { blocked_domains, ..lists };
        world.set_policy(CONTOSO, Arc::new(Policy::new(&[domain("contoso.example")], &lists)));
        let at = world.partner(CONTOSO, "203.0.113.66:5000", sans);
        assert_eq!(world.edges[CONTOSO].closed, [], "{sans:?}");
        world.say(CONTOSO, at, &Req::new("MESSAGE", from, "contoso.example").text());
        world.expect(CONTOSO, at, "SIP/2.0 403 ");
        let edge = &world.edges[CONTOSO];
        let expected: &[_] = if closed { &[(at, Refusal::DomainBlocked)] } else { &[] };
        assert_eq!(edge.closed, expected, "{sans:?}");
        let told = edge.events.iter().any(|event| matches!(event, Event::Proved { .. }));
        assert_eq!(told, closed, "{sans:?}");
    }
}

#[test]
fn a_policy_change_forgets_only_what_was_proved_of_partners_that_changed() {
    let mut world = World::new();
    let (a, b) = ("fabrikam.example", "northwind.example");
    let lists = |relax: bool| {
        let changed = AllowedDomain { relax_srv_domain: relax, ..allow(a) };
        policy("contoso.example", &[changed, allow(b)], &[])
    };
    world.set_policy(CONTOSO, lists(false));
    let northwind = vec![host("sip.northwind.example", &["203.0.113.40"])];
    world.dns.insert(Question::Federation(domain(b)), Ok(northwind));
    let ends = [
        (world.partner(CONTOSO, "203.0.113.20:5000", &["sip.fabrikam.example"]), a),
        (world.partner(CONTOSO, "203.0.113.40:5000", &["sip.northwind.example"]), b),
    ];
    let say = |world: &mut World, branch: &str| {
        for (at, from) in ends {
            let request = Req::new("MESSAGE", from, "contoso.example").branch(branch);
            world.say(CONTOSO, at, &request.text());
            assert_ne!(world.one(CONTOSO).0, at, "{from} {branch}");
        }
        std::mem::take(&mut world.edges[CONTOSO].questions)
    };
    let both = [Question::Federation(domain(a)), Question::Federation(domain(b))];
    assert_eq!(say(&mut world, "1"), both);
    assert_eq!(say(&mut world, "2"), []);
    world.set_policy(CONTOSO, lists(false));
    assert_eq!(say(&mut world, "3"), []);
    world.set_policy(CONTOSO, lists(true));
    assert_eq!(say(&mut world, "4"), both[..1]);
    world.set_policy(CONTOSO, policy("contoso.example", &[allow(a)], &[]));
    world.set_policy(CONTOSO, lists(true));
    assert_eq!(say(&mut world, "5"), both);
}
