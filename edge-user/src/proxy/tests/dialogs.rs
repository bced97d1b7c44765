//! Calls: INVITE to BYE, both ways, and what a Record-Route token lets through.

use std::time::Duration;

use super::*;
use crate::config::{AllowedDomain, Transport};

/// A call that stands: both ends with their route sets.
pub(crate) struct Call {
    pub world: World,
    /// Who called, and on which connection.
    pub caller: (usize, ConnectionId),
    pub callee: (usize, ConnectionId),
    pub invite: Req,
    /// The INVITE as the callee got it.
    pub got: String,
    /// The 200 as the caller got it.
    pub ok: String,
    /// Servers of its own before the caller's edge.
    before: usize,
}

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n";

fn names_of(edge: usize) -> &'static str {
    if edge == CONTOSO { "contoso.example" } else { "fabrikam.example" }
}

/// A call from inside one edge to inside the other, through 100, 180 and 200.
pub(crate) fn call(from: usize) -> Call {
    call_through(from, [&[], &[]])
}

/// The same, with servers inside that write these values into Record-Route, the topmost first: on
/// the caller's side, and on the callee's.
pub(crate) fn call_through(from: usize, [by_caller, by_callee]: [&[&str]; 2]) -> Call {
    let mut world = World::new();
    let to = 1 - from;
    let caller = world.inside(from, Transport::Tcp, "10.9.0.5:40000");
    let mut invite = Req::new("INVITE", names_of(from), names_of(to))
        .with("Contact: <sip:alice@10.9.0.5:5060;transport=tcp>");
    invite.body = SDP.into();
    invite.headers.extend(by_caller.iter().map(|value| format!("Record-Route: {value}")));
    world.say(from, caller, &invite.text());
    world.expect(from, caller, "SIP/2.0 100 Trying\r\n");
    let (callee, got) = world.one(to);
    world.say(to, callee, &answer(&got, "100 Trying", None));
    assert_eq!(world.mail(from), [], "a 100 of the next hop ends here");
    world.say(to, callee, &answer_through(&got, "180 Ringing", Some("b1"), by_callee));
    let ringing = world.expect(from, caller, "SIP/2.0 180 Ringing\r\n");
    world.say(to, callee, &answer_through(&got, "200 OK", Some("b1"), by_callee));
    let ok = world.expect(from, caller, "SIP/2.0 200 OK\r\n");
    assert_eq!(headers(&ok, "Record-Route"), headers(&ringing, "Record-Route"));
    let (caller, callee, before) = ((from, caller), (to, callee), by_caller.len());
    Call { world, caller, callee, invite, got, ok, before }
}

impl Call {
    /// A request of the caller's in this dialog.
    pub(crate) fn by_caller(&self, method: &'static str, cseq: u32) -> Req {
        let mut request = self.invite.clone().branch(&format!("c{method}{cseq}"));
        request.method = method;
        request.cseq = cseq;
        request.uri = "sip:bob@10.9.9.9:5060".into();
        request.to = format!("{};tag=b1", self.invite.to);
        request.body.clear();
        request.headers = vec!["Max-Forwards: 70".into()];
        for route in headers(&self.ok, "Record-Route").iter().rev().skip(self.before) {
            request.headers.push(format!("Route: {route}"));
        }
        request
    }

    /// A request of the callee's.
    pub(crate) fn by_callee(&self, method: &'static str, cseq: u32) -> Req {
        let mut request = self.by_caller(method, cseq).branch(&format!("d{method}{cseq}"));
        std::mem::swap(&mut request.from, &mut request.to);
        request.uri = "sip:alice@10.9.0.5:5060;transport=tcp".into();
        request.headers = vec!["Max-Forwards: 70".into()];
        for route in headers(&self.got, "Record-Route") {
            request.headers.push(format!("Route: {route}"));
        }
        request
    }
}

/// A request in the dialog of an INVITE, by the caller or by the callee: `learned` is what its sender
/// got, the 200 or the INVITE.
pub(crate) fn by_routes(
    invite: &Req,
    learned: &str,
    by_caller: bool,
    method: &'static str,
    cseq: u32,
) -> Req {
    let mut request = invite.clone().branch(&format!("{method}{cseq}{by_caller}"));
    (request.method, request.cseq) = (method, cseq);
    request.uri = "sip:bob@10.9.9.9:5060".into();
    request.to = format!("{};tag=b1", invite.to);
    if !by_caller {
        std::mem::swap(&mut request.from, &mut request.to);
        request.uri = "sip:alice@10.9.0.5:5060;transport=tcp".into();
    }
    request.body.clear();
    request.headers = vec!["Max-Forwards: 70".into()];
    let mut routes = headers(learned, "Record-Route");
    if by_caller {
        routes.reverse();
    }
    request.headers.extend(routes.iter().map(|route| format!("Route: {route}")));
    request
}

#[test]
fn a_call_goes_from_invite_to_bye_both_ways() {
    for from in [CONTOSO, FABRIKAM] {
        for caller_hangs_up in [true, false] {
            let mut call = call(from);
            // Two entries an edge: one name for each side (RFC 5658).
            let routes = headers(&call.got, "Record-Route");
            assert_eq!(routes.len(), 4, "{routes:?}");
            assert!(headers(&call.got, "Contact")[0].contains("10.9.0.5:5060"));
            assert!(call.got.ends_with(SDP), "{}", call.got);

            let (to, callee) = call.callee;
            call.world.say(from, call.caller.1, &call.by_caller("ACK", 1).text());
            let ack = call.world.expect(to, callee, "ACK sip:bob@10.9.9.9:5060 SIP/2.0\r\n");
            assert_eq!(headers(&ack, "Route").len(), 0, "{ack}");

            call.world.say(to, callee, &call.by_callee("INVITE", 7).text());
            call.world.expect(to, callee, "SIP/2.0 100 ");
            let (at, reinvite) = call.world.one(from);
            assert_eq!(at, call.caller.1, "to the connection the dialog came on");
            assert!(reinvite.starts_with("INVITE sip:alice@10.9.0.5:5060;transport=tcp "));
            call.world.say(from, at, &answer(&reinvite, "200 OK", None));
            call.world.expect(to, callee, "SIP/2.0 200 OK");
            call.world.say(to, callee, &call.by_callee("ACK", 7).text());
            call.world.expect(from, at, "ACK ");

            let (side, sender, bye) = match caller_hangs_up {
                true => (from, call.caller.1, call.by_caller("BYE", 2)),
                false => (to, callee, call.by_callee("BYE", 8)),
            };
            call.world.say(side, sender, &bye.text());
            let (at, got) = call.world.one(1 - side);
            assert!(got.starts_with("BYE "), "{got}");
            call.world.say(1 - side, at, &answer(&got, "200 OK", None));
            call.world.expect(side, sender, "SIP/2.0 200 OK");
            call.world.pass(std::time::Duration::from_secs(33));
            assert_eq!(call.world.live(), 0);
        }
    }
}

#[test]
fn a_retransmitted_2xx_passes_and_a_second_branch_of_it_too() {
    let mut call = call(CONTOSO);
    let (to, callee) = call.callee;
    for tag in ["b1", "b2"] {
        call.world.say(to, callee, &answer(&call.got, "200 OK", Some(tag)));
        let ok = call.world.expect(CONTOSO, call.caller.1, "SIP/2.0 200 OK");
        assert!(headers(&ok, "To")[0].ends_with(tag));
    }
}

#[test]
fn a_subscription_and_its_notifies_pass_in_the_dialog() {
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Tcp, "10.9.0.5:40000");
    let subscribe = Req::new("SUBSCRIBE", "contoso.example", "fabrikam.example");
    world.say(CONTOSO, alice, &subscribe.text());
    let (bob, got) = world.one(FABRIKAM);
    // The NOTIFY overtakes the 200 (RFC 6665 section 4.4.1).
    let mut notify = subscribe.clone().branch("n");
    notify.method = "NOTIFY";
    notify.from = "<sip:bob@fabrikam.example>;tag=b1".into();
    notify.to = subscribe.from.clone();
    notify.uri = "sip:alice@10.9.0.5".into();
    notify.headers = vec![];
    for route in headers(&got, "Record-Route") {
        notify.headers.push(format!("Route: {route}"));
    }
    world.say(FABRIKAM, bob, &notify.text());
    let notified = world.expect(CONTOSO, alice, "NOTIFY sip:alice@10.9.0.5 SIP/2.0\r\n");
    assert_eq!(headers(&notified, "Record-Route").len(), 4, "it may be what forms the dialog");
    world.say(CONTOSO, alice, &answer(&notified, "200 OK", None));
    world.expect(FABRIKAM, bob, "SIP/2.0 200 OK");
    world.say(FABRIKAM, bob, &answer(&got, "202 Accepted", Some("b1")));
    world.expect(CONTOSO, alice, "SIP/2.0 202 ");
}

#[test]
fn a_token_is_good_for_its_own_dialog_only() {
    type Change = fn(&mut Req);
    let spoil: &[(&str, Change)] = &[
        ("another Call-ID", |r| r.call_id = "call-9".into()),
        ("another From tag", |r| r.from = r.from.replace("tag=a1", "tag=a9")),
        ("another To tag", |r| r.to = r.to.replace("tag=b1", "tag=b9")),
        ("another user in From", |r| r.from = r.from.replace("alice", "ceo")),
        ("another domain in From", |r| r.from = r.from.replace("fabrikam", "other")),
        ("another user in To", |r| r.to = r.to.replace("bob", "ceo")),
        ("no To tag", |r| r.to = r.to.replace(";tag=b1", "")),
        ("forged", |r| {
            let at = r.headers.iter().position(|h| h.starts_with("Route:")).unwrap();
            r.headers[at] = r.headers[at].replacen("sip:A", "sip:B", 1);
        }),
        ("cut", |r| {
            let at = r.headers.iter().position(|h| h.starts_with("Route:")).unwrap();
            r.headers[at] = r.headers[at].replacen("sip:AQ", "sip:", 1);
        }),
    ];
    for (why, change) in spoil {
        // fabrikam called; its own edge is left out, so that a hostile one is played.
        let mut call = call(FABRIKAM);
        let (to, _) = call.callee;
        let mut bye = call.by_caller("BYE", 2);
        bye.headers.drain(1..3);
        change(&mut bye);
        let partner = call.world.partner(to, "203.0.113.20:7000", &["fabrikam.example"]);
        call.world.say(to, partner, &bye.text());
        call.world.expect(to, partner, "SIP/2.0 403 ");
        assert_eq!(call.world.refused(to, Refusal::ForeignRoute), 1, "{why}");
    }
}

#[test]
fn an_in_dialog_request_needs_the_dialogs_partner() {
    for (sans, expected) in [
        (&["fabrikam.example"][..], None),
        (&["sip.fabrikam.example"], None),
        (&["third.example"], Some(Refusal::WrongDialogPeer)),
        (&["xfabrikam.example"], Some(Refusal::WrongDialogPeer)),
        (&[], Some(Refusal::WrongDialogPeer)),
    ] {
        let mut call = call(FABRIKAM);
        let (to, callee) = call.callee;
        let lists = [allow("fabrikam.example"), allow("third.example")];
        call.world.set_policy(to, policy("contoso.example", &lists, &[]));
        let mut bye = call.by_caller("BYE", 2);
        bye.headers.drain(1..3);
        let partner = call.world.partner(to, "203.0.113.77:7000", sans);
        call.world.say(to, partner, &bye.text());
        match expected {
            None => {
                call.world.expect(to, callee, "BYE ");
            }
            Some(reason) => {
                call.world.expect(to, partner, "SIP/2.0 403 ");
                assert_eq!(call.world.refused(to, reason), 1, "{sans:?}");
            }
        }
    }
}

#[test]
fn an_identity_asserted_in_a_dialog_is_judged_too() {
    for (asserted, expected) in [
        ("<sip:alice@fabrikam.example>", None),
        ("\"A\" <sip:al@fabrikam.example>, <tel:+1555>", None),
        ("<sip:ceo@contoso.example>", Some(Refusal::Spoofed)),
        ("<sip:alice@fabrikam.example>, <sip:ceo@contoso.example>", Some(Refusal::Spoofed)),
        ("<sip:x@third.example>", Some(Refusal::IdentityNotProved)),
        ("<sip:x@203.0.113.1>", Some(Refusal::IdentityNotProved)),
    ] {
        let mut call = call(FABRIKAM);
        let (to, callee) = call.callee;
        let mut update = call.by_caller("UPDATE", 2);
        update.headers.drain(1..3);
        update.headers.push(format!("P-Asserted-Identity: {asserted}"));
        let partner = call.world.partner(to, "203.0.113.20:7000", &["fabrikam.example"]);
        call.world.say(to, partner, &update.text());
        match expected {
            None => drop(call.world.expect(to, callee, "UPDATE ")),
            Some(reason) => {
                call.world.expect(to, partner, "SIP/2.0 403 ");
                assert_eq!(call.world.refused(to, reason), 1, "{asserted}");
            }
        }
    }
}

#[test]
fn a_partner_blocked_in_mid_dialog_is_refused_both_ways() {
    let mut call = call(FABRIKAM);
    let (to, callee) = call.callee;
    let lists = [allow("fabrikam.example")];
    call.world.set_policy(to, policy("contoso.example", &lists, &["fabrikam.example"]));
    assert_eq!(call.world.edges[to].closed.len(), 1, "its connection is closed");
    let bye = call.by_callee("BYE", 2);
    call.world.say(to, callee, &bye.text());
    call.world.expect(to, callee, "SIP/2.0 403 ");
    let partner = call.world.partner(to, "203.0.113.20:7000", &["sip.fabrikam.example"]);
    let mut bye = call.by_caller("BYE", 2);
    bye.headers.drain(1..3);
    if call.world.edges[to].closed.len() == 1 {
        call.world.say(to, partner, &bye.text());
        call.world.expect(to, partner, "SIP/2.0 403 ");
    }
    assert!(call.world.refused(to, Refusal::DomainBlocked) >= 2);
}

#[test]
fn a_dialog_does_not_outlive_that_its_domain_is_ours() {
    for from in [CONTOSO, FABRIKAM] {
        let mut call = call(from);
        let (user, partner) = match from {
            CONTOSO => (call.caller.1, call.callee.1),
            _ => (call.callee.1, call.caller.1),
        };
        let say = |call: &Call, by_user: bool, method, cseq| {
            let by_caller = by_user == (from == CONTOSO);
            if by_caller { call.by_caller(method, cseq) } else { call.by_callee(method, cseq) }
        };
        let ours = |call: &mut Call, ours: &str, allowed: &[AllowedDomain]| {
            call.world.set_policy(CONTOSO, policy(ours, allowed, &[]));
        };
        let lists = [allow("fabrikam.example")];
        ours(&mut call, "other.example", &lists);
        call.world.say(CONTOSO, user, &say(&call, true, "INFO", 11).text());
        call.world.expect(CONTOSO, user, "SIP/2.0 403 ");
        call.world.say(FABRIKAM, partner, &say(&call, false, "INFO", 12).text());
        call.world.expect(FABRIKAM, partner, "SIP/2.0 403 ");
        let refused = [Refusal::NotOurUser, Refusal::Transit];
        assert_eq!(refused.map(|reason| call.world.refused(CONTOSO, reason)), [1, 1]);
        // It comes back, and another that was ours is the partner's own.
        ours(&mut call, "fabrikam.example", &[]);
        ours(&mut call, "contoso.example", &lists);
        call.world.say(CONTOSO, user, &say(&call, true, "INFO", 13).text());
        let (at, got) = call.world.one(FABRIKAM);
        assert!(at == partner && got.starts_with("INFO "), "{got}");
        // What ends it is let through.
        ours(&mut call, "other.example", &lists);
        call.world.say(FABRIKAM, partner, &say(&call, false, "BYE", 14).text());
        call.world.expect(CONTOSO, user, "BYE ");
    }
}

#[test]
fn what_a_contact_or_a_later_route_names_changes_nothing() {
    let mut call = call(FABRIKAM);
    let (to, callee) = call.callee;
    let mut bye = call.by_caller("BYE", 2);
    bye.uri = "sip:x@10.0.0.99:22".into();
    call.world.say(FABRIKAM, call.caller.1, &bye.text());
    call.world.expect(to, callee, "BYE sip:x@10.0.0.99:22 SIP/2.0\r\n");
    bye.branch = "z9hG4bK-again".into();
    bye.headers.push("Route: <sip:10.0.0.99:5060;lr>".into());
    call.world.say(FABRIKAM, call.caller.1, &bye.text());
    call.world.expect(FABRIKAM, call.caller.1, "SIP/2.0 403 ");
    assert_eq!((call.world.mail(to), call.world.refused(to, Refusal::ForeignRoute)), (vec![], 1));
    assert_eq!(call.world.edges[to].connects, [address("10.0.0.21:5060")]);
}

#[test]
fn within_a_dialog_nobody_names_this_machine_or_everybody_as_target() {
    let uris = [
        "sip:x@127.0.0.1:22",
        "sip:x@[::1]",
        "sip:x@[::ffff:127.0.0.1]",
        "sip:x@0.0.0.0:5060",
        "sip:x@[::]",
        "sip:x@224.0.1.75",
        "sip:x@255.255.255.255",
        "sip:x@169.254.169.254:80",
        "sip:x@[fe80::1]",
        "sip:x@203.0.113.10:5061",
        "sip:x@10.9.9.9;maddr=127.0.0.1",
        "sip:x@10.9.9.9;maddr=224.0.1.75",
        "sip:x@10.9.9.9;maddr=nonsense..",
    ];
    for uri in uris {
        let mut call = call(FABRIKAM);
        let (to, _) = call.callee;
        let mut bye = call.by_caller("BYE", 2);
        bye.uri = uri.into();
        // The caller's own side hands it on: what is inside there is not for it to say.
        call.world.say(FABRIKAM, call.caller.1, &bye.text());
        let refused = call.world.refused(to, Refusal::Transit);
        assert_eq!(refused, 1, "{uri}: {:?}", call.world.mail(to));
    }
}

/// Whoever hears 481 begins anew (RFC 6665 section 4.1.2.2); after 403 a subscription would be waited for.
#[test]
fn a_dialog_that_is_too_old_is_told_that_it_is_over() {
    for (days, expected) in [(6, None), (8, Some("SIP/2.0 481 "))] {
        let mut call = call(FABRIKAM);
        call.world.pass(Duration::from_secs(days * 86_400));
        let bye = call.by_caller("BYE", 2);
        call.world.say(FABRIKAM, call.caller.1, &bye.text());
        match expected {
            None => {
                let (to, callee) = call.callee;
                call.world.expect(to, callee, "BYE ");
            }
            Some(status) => {
                call.world.expect(FABRIKAM, call.caller.1, status);
                assert_eq!(call.world.refused(FABRIKAM, Refusal::DialogTooOld), 1);
                // Of another dialog nothing is said.
                let mut other = call.by_caller("BYE", 3).branch("o");
                other.call_id = "another".into();
                call.world.say(FABRIKAM, call.caller.1, &other.text());
                call.world.expect(FABRIKAM, call.caller.1, "SIP/2.0 403 ");
            }
        }
    }
}

#[test]
fn a_response_cannot_have_another_dialog_signed() {
    let mut world = World::new();
    let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
    world.say(CONTOSO, partner, &Req::new("INVITE", "fabrikam.example", "contoso.example").text());
    let mail = world.mail(CONTOSO);
    let (server, got) = mail.iter().find(|(_, got)| got.starts_with("INVITE")).unwrap();
    let token = |text: &str| headers(text, "Record-Route")[0].to_owned();
    let honest = answer(got, "200 OK", Some("b1"));
    world.say(
        CONTOSO,
        *server,
        &honest.replace("<sip:bob@contoso.example>", "<sip:ceo@contoso.example>"),
    );
    let first = world.expect(CONTOSO, partner, "SIP/2.0 200 OK");
    world.say(CONTOSO, *server, &honest);
    let second = world.expect(CONTOSO, partner, "SIP/2.0 200 OK");
    assert_eq!(token(&first), token(&second), "signed for the request's own To");
    assert_ne!(token(&first), token(got), "with the tag");
}
