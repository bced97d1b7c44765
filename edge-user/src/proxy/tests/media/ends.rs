//! Nothing stays open for whoever wants it so: BYE that reaches nobody, and calls that fail half way.

use super::{
    super::remote::{HOME, invite_by, outside_policy, registered},
    *,
};

#[test]
fn a_bye_closes_its_call_though_the_partner_is_not_there_to_hear_it() {
    for edge in [CONTOSO, FABRIKAM] {
        let mut call = begin(world(), &audio(ALICE, 4000));
        let ok = call.bob_says("200 OK", &audio(BOB, 5000));
        assert_eq!(call.open(), [4, 4]);
        let connections = &call.world.edges[edge].proxy.connections;
        let partner = connections.iter().find(|(_, c)| c.peer.side == Side::Partner).unwrap().0;
        call.world.cut(edge, partner);
        call.world.listeners.clear();
        let bye = call.within(&ok, edge == CONTOSO, "BYE", 2);
        let from = if edge == CONTOSO { call.alice } else { call.bob };
        call.world.say(edge, from, &bye.text());
        assert_eq!((call.open()[edge], call.calls()[edge]), (0, 0));
        call.world.expect(edge, from, "SIP/2.0 504 ");
    }
}

/// bob's call to alice, who is at home; the server's connection, hers, and a BYE of bob's.
fn with_remote_user() -> (World, ConnectionId, ConnectionId, Req) {
    let mut world = world();
    world.set_policy(CONTOSO, outside_policy(&["fabrikam.example"], &[]));
    let alice = world.remote(CONTOSO, HOME);
    let (server, path) = registered(&mut world, alice);
    let invite = with_sdp(invite_by(&path), &audio(BOB, 5000));
    world.say(CONTOSO, server, &invite.text());
    let mail = world.mail(CONTOSO);
    let (_, got) = mail.iter().find(|(at, _)| *at == alice).unwrap();
    let ok = answer_with(got, "200 OK", "a1", &audio("192.168.1.5", 4000));
    world.say(CONTOSO, alice, &ok);
    let ok = world.expect(CONTOSO, server, "SIP/2.0 200 OK");
    assert_eq!(world.edges[CONTOSO].flows.len(), 4);
    let mut bye = invite.branch("bye");
    (bye.method, bye.cseq) = ("BYE", 2);
    bye.body.clear();
    bye.to.push_str(";tag=a1");
    bye.headers = vec!["Max-Forwards: 70".into()];
    let routes = headers(&ok, "Record-Route");
    bye.headers.extend(routes.iter().rev().map(|route| format!("Route: {route}")));
    (world, server, alice, bye)
}

#[test]
fn a_bye_closes_its_call_though_the_remote_user_has_left() {
    let (mut world, server, alice, bye) = with_remote_user();
    world.cut(CONTOSO, alice);
    assert_eq!(world.edges[CONTOSO].flows.len(), 4, "it may come again");
    world.say(CONTOSO, server, &bye.text());
    world.expect(CONTOSO, server, "SIP/2.0 430 ");
    assert_eq!(world.edges[CONTOSO].flows.len(), 0);
    assert_eq!(world.edges[CONTOSO].proxy.calls().len(), 0);
}

/// An answer with two descriptions, of which the second makes no sense.
fn half_good(request: &str, first: &str) -> String {
    let part = |text: &str| format!("--x\r\nContent-Type: application/sdp\r\n\r\n{text}\r\n");
    let text = format!("{}{}--x--\r\n", part(first), part(&audio("127.0.0.1", 5000)));
    let answer = answer_with(request, "200 OK", "b1", &text);
    answer.replace(
        "Content-Type: application/sdp\r\nContent-L",
        "Content-Type: multipart/mixed;boundary=x\r\nContent-L",
    )
}

#[test]
fn an_answer_of_which_one_part_makes_no_sense_opens_nothing() {
    for text in [&*audio(ALICE, 4000), ""] {
        let mut call = begin(world(), text);
        let answer = half_good(&call.got, &audio(BOB, 5000));
        call.world.say(FABRIKAM, call.bob, &answer);
        assert_eq!(call.world.refused(FABRIKAM, Refusal::MediaAddress), 1);
        let (_, heard) = call.world.one(CONTOSO);
        assert!(heard.starts_with("SIP/2.0 488 "), "{heard}");
        assert_eq!((call.open(), call.calls()), ([0, 0], [0, 0]));
    }
    // A change that bob alone agreed to ends the call.
    let mut call = begin(world(), &audio(ALICE, 4000));
    let ok = call.bob_says("200 OK", &audio(BOB, 5000));
    let change = with_sdp(call.within(&ok, true, "INVITE", 2), &audio(ALICE, 4000));
    call.world.say(CONTOSO, call.alice, &change.text());
    call.world.mail(CONTOSO);
    let (bob, got) = call.world.one(FABRIKAM);
    call.world.say(FABRIKAM, bob, &half_good(&got, &audio(BOB, 5100)));
    assert_eq!((call.open()[FABRIKAM], call.calls()[FABRIKAM]), (0, 0));
}

#[test]
fn a_bye_says_nothing_of_where_media_was() {
    let mut call = begin(world(), &audio(ALICE, 4000));
    let ok = call.bob_says("200 OK", &audio(BOB, 5000));
    let bye = with_sdp(call.within(&ok, true, "BYE", 2), &audio(ALICE, 4000));
    call.world.say(CONTOSO, call.alice, &bye.text());
    let (bob, got) = call.world.one(FABRIKAM);
    assert!(got.starts_with("BYE ") && body(&got).is_empty(), "{got}");
    assert_eq!((call.open(), headers(&got, "Content-Type").len()), ([0, 0], 0));
    call.world.say(FABRIKAM, bob, &answer_with(&got, "200 OK", "b1", &audio(BOB, 5000)));
    let heard = call.world.expect(CONTOSO, call.alice, "SIP/2.0 200 OK");
    assert!(body(&heard).is_empty(), "{heard}");
}

#[test]
fn a_body_without_a_description_is_no_offer() {
    let mut request = invite("");
    request.headers.push("Content-Type: text/plain".into());
    request.body = "hi".into();
    let mut world = world();
    let alice = world.inside(CONTOSO, Transport::Tcp, &format!("{ALICE}:40000"));
    world.say(CONTOSO, alice, &request.text());
    world.expect(CONTOSO, alice, "SIP/2.0 100 ");
    let (bob, got) = world.one(FABRIKAM);
    let mut call = Call { world, alice, bob, invite: request, got };
    let ok = call.bob_says("200 OK", &audio(BOB, 5000));
    call.invite.headers.clear();
    let ack = with_sdp(call.within(&ok, true, "ACK", 1), &audio(ALICE, 4000));
    call.world.say(CONTOSO, call.alice, &ack.text());
    assert_eq!(call.open(), [4, 4]);
}

#[test]
fn what_an_update_opened_goes_when_the_invite_fails() {
    for (status, open) in [("486 Busy Here", 0), ("200 OK", 4)] {
        let mut call = begin(world(), "");
        let early = call.bob_says("183 Session Progress", "");
        let update = with_sdp(call.within(&early, true, "UPDATE", 2), &audio(ALICE, 4000));
        call.world.say(CONTOSO, call.alice, &update.text());
        let (bob, got) = call.world.one(FABRIKAM);
        call.world.say(FABRIKAM, bob, &answer_with(&got, "200 OK", "b1", &audio(BOB, 5000)));
        call.world.expect(CONTOSO, call.alice, "SIP/2.0 200 OK");
        assert_eq!(call.open(), [4, 4]);
        call.bob_says(status, "");
        assert_eq!(call.open(), [open, open], "{status}");
    }
}

#[test]
fn a_remote_user_without_the_right_to_be_outside_has_no_call() {
    let denied = || policy("contoso.example", &[allow("fabrikam.example")], &[]);
    // Her connection is there, or is gone.
    for gone in [false, true] {
        let (mut world, _, alice, _) = with_remote_user();
        if gone {
            world.cut(CONTOSO, alice);
        }
        world.set_policy(CONTOSO, outside_policy(&["fabrikam.example"], &["x.example"]));
        assert_eq!(world.edges[CONTOSO].flows.len(), 4);
        world.set_policy(CONTOSO, denied());
        assert_eq!(world.edges[CONTOSO].flows.len(), 0);
    }
    // Somebody is shut out with the connection.
    let (mut world, _, alice, _) = with_remote_user();
    world.act(CONTOSO, |proxy, now, out| proxy.close(now, alice, Refusal::Banned, out));
    assert_eq!(world.edges[CONTOSO].flows.len(), 0);
}

#[test]
fn a_block_ends_what_is_open_from_before_a_restart() {
    let allowed = || [allow("fabrikam.example")];
    let mut call = Call::up();
    let flows: Vec<_> = call.world.edges[CONTOSO].flows.values().cloned().collect();
    call.world.set_policy(CONTOSO, policy("contoso.example", &allowed(), &[]));
    call.world.configure(CONTOSO, |_| {});
    call.world.act(CONTOSO, |proxy, now, out| proxy.adopt_flows(now, flows, out));
    call.world.set_policy(CONTOSO, policy("contoso.example", &allowed(), &[]));
    assert_eq!(call.open()[CONTOSO], 4, "nothing is forbidden that was not before");
    let blocked = policy("contoso.example", &allowed(), &["fabrikam.example"]);
    call.world.set_policy(CONTOSO, blocked);
    assert_eq!((call.open()[CONTOSO], call.calls()[CONTOSO]), (0, 0));
}
