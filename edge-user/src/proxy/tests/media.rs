//! Media in the proxy: what bodies become on their way, which flows are open when, and what is
//! refused.

mod allowed;
mod ends;
mod hang_up;

use std::time::Duration;

use super::{dialogs::by_routes, *};
use crate::{
    config::{AllowedDomain, Federation, MediaMode, Rights, Transport, UserPattern, UserPolicy},
    media::{
        calls::{CallSettings, CallState, OwnAddresses},
        flow::{FlowStatus, MediaSide},
        policy::{Modalities, Modality},
    },
};

/// Who calls inside contoso, and who is called inside fabrikam.
pub(super) const ALICE: &str = "10.9.0.5";
const BOB: &str = "10.9.9.9";

fn settings(outside: &str, inside: &str) -> CallSettings {
    let ip = |text: &str| text.parse().unwrap();
    CallSettings {
        mode: MediaMode::Relay,
        outside: OwnAddresses::new(&[ip(outside)], &[]),
        inside: OwnAddresses::new(&[ip(inside)], &[]),
        own: vec![ip(outside), ip(inside)],
        allow: vec!["203.0.113.0/24".parse().unwrap()],
        ..CallSettings::default()
    }
}

/// Two edges that relay media.
pub(super) fn world() -> World {
    let mut world = World::new();
    world.configure(CONTOSO, |config| config.media = settings("203.0.113.11", "10.0.0.11"));
    world.configure(FABRIKAM, |config| config.media = settings("203.0.113.21", "10.1.0.11"));
    world
}

fn sdp(address: &str, lines: &str) -> String {
    let lines = lines.replace('|', "\r\n");
    format!("v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\n{lines}\r\n")
}

pub(super) fn audio(address: &str, port: u16) -> String {
    sdp(address, &format!("m=audio {port} RTP/AVP 0"))
}

pub(super) fn body(text: &str) -> &str {
    text.split_once("\r\n\r\n").unwrap().1
}

fn with_sdp(mut request: Req, text: &str) -> Req {
    request.headers.push("Content-Type: application/sdp".into());
    request.body = text.into();
    request
}

/// An answer with a body.
fn answer_with(request: &str, status: &str, tag: &str, text: &str) -> String {
    let head = answer(request, status, Some(tag));
    let head = head.replace("Content-Length: 0\r\n\r\n", "");
    format!("{head}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

#[track_caller]
fn assert_whole(text: &str) {
    assert_eq!(headers(text, "Content-Length"), [body(text).len().to_string()], "{text}");
}

/// The ports of the m-lines.
fn ports(text: &str) -> Vec<u16> {
    let lines = text.lines().filter(|line| line.starts_with("m="));
    lines.map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect()
}

/// alice's INVITE from inside contoso to bob at fabrikam.
fn invite(text: &str) -> Req {
    let invite = Req::new("INVITE", "contoso.example", "fabrikam.example");
    if text.is_empty() { invite } else { with_sdp(invite, text) }
}

struct Call {
    world: World,
    alice: ConnectionId,
    bob: ConnectionId,
    invite: Req,
    got: String,
}

fn begin(mut world: World, text: &str) -> Call {
    let alice = world.inside(CONTOSO, Transport::Tcp, &format!("{ALICE}:40000"));
    let invite = invite(text);
    world.say(CONTOSO, alice, &invite.text());
    world.expect(CONTOSO, alice, "SIP/2.0 100 ");
    let (bob, got) = world.one(FABRIKAM);
    Call { world, alice, bob, invite, got }
}

impl Call {
    fn up() -> Self {
        let mut call = begin(world(), &audio(ALICE, 4000));
        call.bob_says("200 OK", &audio(BOB, 5000));
        call
    }

    /// What alice hears of an answer of bob's.
    fn bob_says(&mut self, status: &str, text: &str) -> String {
        let answer = match text {
            "" => answer(&self.got, status, Some("b1")),
            text => answer_with(&self.got, status, "b1", text),
        };
        self.world.say(FABRIKAM, self.bob, &answer);
        let (at, heard) = self.world.one(CONTOSO);
        assert_eq!(at, self.alice);
        heard
    }

    fn open(&self) -> [usize; 2] {
        [CONTOSO, FABRIKAM].map(|edge| self.world.edges[edge].flows.len())
    }

    fn calls(&self) -> [usize; 2] {
        [CONTOSO, FABRIKAM].map(|edge| self.world.edges[edge].proxy.calls().len())
    }

    /// A request in the dialog, by alice or by bob, with Route as the ends learned it.
    fn within(&self, ok: &str, by_alice: bool, method: &'static str, cseq: u32) -> Req {
        by_routes(&self.invite, if by_alice { ok } else { &self.got }, by_alice, method, cseq)
    }
}

#[test]
fn a_call_is_relayed_by_both_edges_and_nobody_sees_who_is_inside() {
    let mut call = begin(world(), &audio(ALICE, 4000));
    assert_whole(&call.got);
    assert!(call.got.contains("c=IN IP4 10.1.0.11\r\n"), "{}", call.got);
    assert_eq!(call.open(), [0, 0]);
    let early = call.bob_says("183 Session Progress", &audio(BOB, 5000));
    assert_whole(&early);
    assert!(early.contains("c=IN IP4 10.0.0.11\r\n"), "{early}");
    assert_eq!(call.open(), [4, 4]);
    for edge in [CONTOSO, FABRIKAM] {
        assert_eq!(call.world.edges[edge].open_at.last(), Some(&4), "open before it is told");
    }
    let ok = call.bob_says("200 OK", &audio(BOB, 5000));
    assert_eq!(body(&ok), body(&early));
    for text in [&call.got, &ok] {
        assert!(!body(text).contains(ALICE) && !body(text).contains(BOB), "{text}");
    }
    // From end to end: what one edge sends to is where the other listens.
    let flows = |edge: usize| call.world.edges[edge].flows.values();
    let there: Vec<_> =
        flows(CONTOSO).filter(|f| f.side == MediaSide::Inside).map(|f| f.to).collect();
    let here: Vec<_> = flows(FABRIKAM)
        .filter(|f| f.side == MediaSide::Outside)
        .map(|f| match f.way {
            crate::media::flow::Way::Relay { local, .. } => local,
            crate::media::flow::Way::Pinhole => panic!(),
        })
        .collect();
    assert!(there.iter().all(|at| here.contains(at)), "{there:?} {here:?}");
    let status = &call.world.edges[CONTOSO].proxy.calls()[0];
    assert_eq!((status.state, status.inbound), (CallState::Up, false));
    assert_eq!(status.partner.as_ref().map(|p| p.as_str()), Some("fabrikam.example"));
    assert_eq!((&*status.lines[0].kind, status.lines[0].flows.len()), ("audio", 4));

    let bye = call.within(&ok, true, "BYE", 2);
    call.world.say(CONTOSO, call.alice, &bye.text());
    assert_eq!((call.open(), call.calls()), ([0, 0], [0, 0]), "closed as it passes");
    let (bob, got) = call.world.one(FABRIKAM);
    call.world.say(FABRIKAM, bob, &answer(&got, "200 OK", None));
    call.world.pass(Duration::from_secs(100));
    assert_eq!(call.world.live(), 0);
}

#[test]
fn an_offer_in_the_200_is_answered_in_the_ack() {
    let mut call = begin(world(), "");
    let ok = call.bob_says("200 OK", &audio(BOB, 5000));
    assert!(ok.contains("c=IN IP4 10.0.0.11\r\n"), "{ok}");
    assert_eq!(call.open(), [0, 0]);
    let ack = with_sdp(call.within(&ok, true, "ACK", 1), &audio(ALICE, 4000));
    call.world.say(CONTOSO, call.alice, &ack.text());
    let (_, got) = call.world.one(FABRIKAM);
    assert_whole(&got);
    assert_eq!(call.open(), [4, 4]);
    // An ACK that cannot be read passes without its body: nobody could be told.
    let mut call = begin(world(), "");
    let ok = call.bob_says("200 OK", &audio(BOB, 5000));
    let ack = with_sdp(call.within(&ok, true, "ACK", 1), "nonsense");
    call.world.say(CONTOSO, call.alice, &ack.text());
    let (_, got) = call.world.one(FABRIKAM);
    assert_eq!((body(&got), headers(&got, "Content-Type").len()), ("", 0));
    assert_eq!(call.world.refused(CONTOSO, Refusal::SessionUnreadable), 1);
    call.world.pass(Duration::from_secs(60));
    assert_eq!((call.open(), call.calls()), ([0, 0], [0, 0]));
}

#[test]
fn whatever_ends_an_invite_without_success_closes_everything() {
    type Script = fn(&mut Call);
    let scripts: [(&str, Script); 5] = [
        ("refused", |c| {
            let heard = c.bob_says("486 Busy Here", &audio(BOB, 5000));
            // It would tell where bob is.
            assert_eq!((body(&heard), headers(&heard, "Content-Type").len()), ("", 0));
            assert_whole(&heard);
        }),
        ("cancelled", |c| {
            let mut cancel = c.invite.clone();
            (cancel.method, cancel.body) = ("CANCEL", String::new());
            cancel.headers.retain(|header| !header.starts_with("Content"));
            c.world.say(CONTOSO, c.alice, &cancel.text());
            c.world.mail(CONTOSO);
            let got = c.world.mail(FABRIKAM);
            assert!(got[0].1.starts_with("CANCEL "), "{got:?}");
            let heard = c.bob_says("487 Request Terminated", "");
            assert!(heard.starts_with("SIP/2.0 487 "), "{heard}");
        }),
        ("nobody answers", |c| {
            c.world.pass(Duration::from_secs(400));
        }),
        ("the caller is gone", |c| {
            c.world.cut(CONTOSO, c.alice);
            c.world.pass(Duration::from_secs(100));
        }),
        ("the partner is blocked", |c| {
            let blocked =
                policy("contoso.example", &[allow("fabrikam.example")], &["fabrikam.example"]);
            c.world.set_policy(CONTOSO, blocked);
            assert_eq!(c.open()[CONTOSO], 0);
            c.world.pass(Duration::from_secs(100));
        }),
    ];
    for (name, script) in scripts {
        let mut call = begin(world(), &audio(ALICE, 4000));
        call.bob_says("183 Session Progress", &audio(BOB, 5000));
        assert_eq!(call.open(), [4, 4]);
        script(&mut call);
        assert_eq!((call.open(), call.calls()), ([0, 0], [0, 0]), "{name}");
    }
}

#[test]
fn a_change_that_is_refused_leaves_the_call_as_it_was() {
    let mut call = begin(world(), &audio(ALICE, 4000));
    let ok = call.bob_says("200 OK", &audio(BOB, 5000));
    let before = call.world.edges[CONTOSO].flows.clone();
    let more = sdp(ALICE, "m=audio 4000 RTP/AVP 0|m=video 4002 RTP/AVP 96");
    for (cseq, status) in [(2, "488 Not Acceptable Here"), (3, "200 OK")] {
        let change = with_sdp(call.within(&ok, true, "INVITE", cseq), &more);
        call.world.say(CONTOSO, call.alice, &change.text());
        call.world.expect(CONTOSO, call.alice, "SIP/2.0 100 ");
        let (bob, got) = call.world.one(FABRIKAM);
        assert_eq!(ports(&got).len(), 2);
        let text = sdp(BOB, "m=audio 5000 RTP/AVP 0|m=video 5002 RTP/AVP 96");
        let answer = match status {
            "200 OK" => answer_with(&got, status, "b1", &text),
            _ => answer(&got, status, None),
        };
        call.world.say(FABRIKAM, bob, &answer);
        call.world.mail(CONTOSO);
        call.world.mail(FABRIKAM);
        if status != "200 OK" {
            assert_eq!(call.world.edges[CONTOSO].flows, before);
        }
    }
    assert_eq!(call.open(), [8, 8]);
}

#[test]
fn a_2xx_that_comes_again_says_the_same() {
    let mut call = begin(world(), &audio(ALICE, 4000));
    let ok = call.bob_says("200 OK", &audio(BOB, 5000));
    // At once, and when nothing but a residue is left.
    for wait in [0, 20] {
        call.world.pass(Duration::from_secs(wait));
        let again = call.bob_says("200 OK", &audio(BOB, 5000));
        assert_eq!(body(&again), body(&ok));
        assert_eq!(headers(&again, "Record-Route"), headers(&ok, "Record-Route"));
    }
    assert_eq!(call.open(), [4, 4]);
}

#[test]
fn another_next_hop_is_told_the_same_ports() {
    let mut world = world();
    let partner = world.partner(CONTOSO, "203.0.113.20:40001", &["sip.fabrikam.example"]);
    let invite = Req::new("INVITE", "fabrikam.example", "contoso.example");
    let invite = with_sdp(invite, &audio("203.0.113.99", 4000));
    world.say(CONTOSO, partner, &invite.text());
    let mail = world.mail(CONTOSO);
    let (first, got) = mail.iter().find(|(_, got)| got.starts_with("INVITE ")).unwrap();
    world.say(CONTOSO, *first, &answer(got, "503 Service Unavailable", Some("x")));
    let mail = world.mail(CONTOSO);
    let (second, again) = mail.iter().find(|(_, got)| got.starts_with("INVITE ")).unwrap();
    assert_ne!(first, second);
    assert_eq!(body(again), body(got));
    assert_eq!(world.edges[CONTOSO].proxy.calls().len(), 1);
}

/// contoso's policy with what it may do with fabrikam.
pub(super) fn only(modalities: &[Modality]) -> std::sync::Arc<crate::federation::Policy> {
    let mut entry: AllowedDomain = allow("fabrikam.example");
    entry.options.modalities = modalities.iter().copied().collect::<Modalities>();
    policy("contoso.example", &[entry], &[])
}

#[test]
fn what_cannot_be_read_or_makes_no_sense_is_refused_and_goes_nowhere() {
    let several = format!("{}a=sendonly\r\na=recvonly\r\n", audio(ALICE, 4000));
    let long = format!("{}{}", audio(ALICE, 4000), "a=x\r\n".repeat(3000));
    // (body, status, reason, line)
    let cases = [
        ("nonsense", "400", "session-unreadable", Some("1")),
        (&*several, "400", "session-unreadable", Some("8")),
        (&*long, "400", "session-unreadable", None),
        (&*audio("10.0.0.11", 4000), "488", "media-address", None),
        (&*audio("127.0.0.1", 4000), "488", "media-address", None),
        (&*sdp(ALICE, "m=data 9 tcp *"), "488", "media-not-relayed", None),
        (&*audio("2a00:1450::1", 4000).replace("IP4", "IP6"), "488", "media-not-relayed", None),
    ];
    for (text, status, reason, line) in cases {
        let mut world = world();
        let alice = world.inside(CONTOSO, Transport::Tcp, &format!("{ALICE}:40000"));
        world.say(CONTOSO, alice, &invite(text).text());
        let (_, refused) = world.mail(CONTOSO).pop().unwrap();
        assert!(refused.starts_with(&format!("SIP/2.0 {status} ")), "{refused}");
        assert!(headers(&refused, "Warning")[0].ends_with(&format!("\"{reason}\"")), "{refused}");
        if let Some(line) = line {
            let inside = headers(&refused, "ms-diagnostics")[0];
            assert!(inside.ends_with(&format!(";sdp-line=\"{line}\"")), "{inside}");
        }
        assert_eq!(world.mail(FABRIKAM), []);
        assert_eq!(world.edges[CONTOSO].proxy.calls().len(), 0);
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_a_502_and_a_provisional_one_loses_its_body() {
    for text in ["nonsense", &audio("127.0.0.1", 5000)] {
        let mut call = begin(world(), &audio(ALICE, 4000));
        let early = call.bob_says("183 Session Progress", text);
        assert!(early.starts_with("SIP/2.0 183 ") && body(&early).is_empty(), "{early}");
        let heard = call.bob_says("200 OK", text);
        let expected = if text == "nonsense" { "SIP/2.0 502 " } else { "SIP/2.0 488 " };
        assert!(heard.starts_with(expected), "{heard}");
        assert_eq!((call.open(), call.calls()), ([0, 0], [0, 0]));
    }
}

#[test]
fn when_ports_are_used_up_it_is_a_503_and_others_go_on() {
    let mut world = world();
    world.configure(CONTOSO, |config| config.media.ports = (50_000, 50_001));
    let mut call = begin(world, &audio(ALICE, 4000));
    let mut second = invite(&audio(ALICE, 4100)).branch("2");
    second.call_id = "call-2".into();
    call.world.say(CONTOSO, call.alice, &second.text());
    let (_, refused) = call.world.mail(CONTOSO).pop().unwrap();
    assert!(refused.starts_with("SIP/2.0 503 "), "{refused}");
    assert_eq!(headers(&refused, "Retry-After").len(), 1);
    call.bob_says("200 OK", &audio(BOB, 5000));
    assert_eq!(call.open(), [4, 4]);
}

#[test]
fn capabilities_show_nobodys_address() {
    let mut call = Call::up();
    let options = Req::new("OPTIONS", "contoso.example", "fabrikam.example").branch("o");
    call.world.say(CONTOSO, call.alice, &options.text());
    let (bob, got) = call.world.one(FABRIKAM);
    call.world.say(FABRIKAM, bob, &answer_with(&got, "200 OK", "b9", &audio(BOB, 0)));
    let (_, heard) = call.world.one(CONTOSO);
    assert_eq!((body(&heard), headers(&heard, "Content-Type").len()), ("", 0));
}

#[test]
fn a_description_among_other_parts_is_found_and_changed_alone() {
    let text = audio(ALICE, 4000);
    let parts = format!(
        "--x\r\nContent-Type: application/sdp\r\n\r\n{text}\r\n--x\r\nContent-Type: text/plain\r\n\r\nhi\r\n--x--\r\n"
    );
    let mut request = invite("");
    request.headers.push("Content-Type: multipart/mixed;boundary=x".into());
    request.body = parts.clone();
    let mut world = world();
    let alice = world.inside(CONTOSO, Transport::Tcp, &format!("{ALICE}:40000"));
    world.say(CONTOSO, alice, &request.text());
    let (_, got) = world.one(FABRIKAM);
    assert_whole(&got);
    assert!(!body(&got).contains(ALICE) && body(&got).contains("hi\r\n--x--"), "{got}");
}

#[test]
fn calls_end_by_silence_by_command_and_by_policy_while_their_dialogs_live() {
    let mut call = Call::up();
    let statuses = |call: &Call| {
        let status = |flow| FlowStatus::counted(flow, 7);
        call.world.edges[CONTOSO].flows.values().map(status).collect::<Vec<_>>()
    };
    for (wait, open) in [(0, 4), (299, 4), (1, 0)] {
        call.world.pass(Duration::from_secs(wait));
        let seen = statuses(&call);
        call.world.act(CONTOSO, |proxy, now, out| proxy.media_seen(now, &seen, out));
        assert_eq!(call.open()[CONTOSO], open);
    }
    let ended = call.world.edges[CONTOSO].events.iter().filter(|e| matches!(e, Event::Call(_)));
    assert_eq!(ended.count(), 2);
    let mut call = Call::up();
    let id = call.world.edges[FABRIKAM].proxy.calls()[0].id;
    assert!(call.world.act(FABRIKAM, |proxy, now, out| proxy.end_call(now, id, out)));
    assert!(!call.world.act(FABRIKAM, |proxy, now, out| proxy.end_call(now, id, out)));
    call.world.set_policy(CONTOSO, policy("contoso.example", &[], &[]));
    assert_eq!(call.open(), [0, 0]);
}

#[test]
fn media_that_an_administrator_ended_is_ended_for_good() {
    let mut call = begin(world(), &audio(ALICE, 4000));
    let ok = call.bob_says("200 OK", &audio(BOB, 5000));
    let id = call.world.edges[CONTOSO].proxy.calls()[0].id;
    assert!(call.world.act(CONTOSO, |proxy, now, out| proxy.end_call(now, id, out)));
    let again = with_sdp(call.within(&ok, true, "INVITE", 2), &audio(ALICE, 4000));
    call.world.say(CONTOSO, call.alice, &again.text());
    let (_, refused) = call.world.mail(CONTOSO).pop().unwrap();
    assert!(refused.starts_with("SIP/2.0 481 "), "{refused}");
    assert_eq!(call.world.refused(CONTOSO, Refusal::CallEnded), 1);
    assert_eq!(call.open()[CONTOSO], 0);
}

#[test]
fn the_session_timer_ends_a_call_that_is_not_refreshed() {
    let mut call = begin(world(), &audio(ALICE, 4000));
    let text = audio(BOB, 5000);
    let ok = answer_with(&call.got, "200 OK", "b1", &text)
        .replace("Content-Type", "x: 1800;refresher=uac\r\nContent-Type");
    call.world.say(FABRIKAM, call.bob, &ok);
    call.world.mail(CONTOSO);
    call.world.pass(Duration::from_secs(2399));
    assert_eq!(call.open(), [4, 4]);
    call.world.pass(Duration::from_secs(1));
    assert_eq!((call.open(), call.calls()), ([0, 0], [0, 0]));
}

#[test]
fn after_a_restart_bye_finds_its_call() {
    let mut call = begin(world(), &audio(ALICE, 4000));
    let ok = call.bob_says("200 OK", &audio(BOB, 5000));
    let flows: Vec<_> = call.world.edges[CONTOSO].flows.values().cloned().collect();
    call.world.configure(CONTOSO, |_| {});
    call.world.act(CONTOSO, |proxy, now, out| proxy.adopt_flows(now, flows, out));
    assert_eq!(call.world.edges[CONTOSO].proxy.calls()[0].state, CallState::Adopted);
    let alice = call.world.inside(CONTOSO, Transport::Tcp, &format!("{ALICE}:40002"));
    let bye = call.within(&ok, true, "BYE", 2);
    call.world.say(CONTOSO, alice, &bye.text());
    assert_eq!((call.open()[CONTOSO], call.calls()[CONTOSO]), (0, 0));
}

#[test]
fn what_the_firewall_could_not_open_is_opened_with_the_next_2xx() {
    let mut call = Call::up();
    let id = call.world.edges[CONTOSO].proxy.calls()[0].id;
    call.world.act(CONTOSO, |proxy, now, out| proxy.media_failed(now, id, out));
    assert_eq!(call.open(), [0, 4]);
    call.bob_says("200 OK", &audio(BOB, 5000));
    assert_eq!(call.open(), [4, 4]);
}

/// A remote user's call through contoso, and the connections of its caller and of the server.
fn remote_call() -> (World, Req, ConnectionId, String) {
    let mut world = world();
    world.set_policy(CONTOSO, super::remote::outside_policy(&["fabrikam.example"], &[]));
    let alice = world.remote(CONTOSO, super::remote::HOME);
    let mut invite = Req::new("INVITE", "contoso.example", "contoso.example")
        .with("Contact: <sip:alice@192.168.1.5:5061;transport=tls>");
    invite.uri = "sip:bob@contoso.example".into();
    let invite = with_sdp(invite, &audio("192.168.1.5", 4000));
    world.say(CONTOSO, alice, &invite.text());
    let (server, got) = world.mail(CONTOSO).pop().unwrap();
    world.say(CONTOSO, server, &answer_with(&got, "200 OK", "b1", &audio(BOB, 5000)));
    let ok = world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
    assert_eq!(world.edges[CONTOSO].flows.len(), 4);
    (world, invite, alice, ok)
}

#[test]
fn a_remote_users_media_ends_with_its_dialogs_token_and_not_without() {
    let (mut world, invite, alice, ok) = remote_call();
    let flows = world.edges[CONTOSO].flows.clone();
    let eve = world.remote(CONTOSO, "198.51.100.66:50000");
    for (at, method) in [(eve, "BYE"), (alice, "BYE"), (eve, "INVITE"), (eve, "UPDATE")] {
        let mut request = invite.clone().branch(&format!("{method}{at:?}"));
        (request.method, request.cseq) = (method, 7);
        request.to.push_str(";tag=b1");
        if method == "BYE" {
            request =
                Req { body: String::new(), headers: vec!["Max-Forwards: 70".into()], ..request };
        }
        world.say(CONTOSO, at, &request.text());
        let mail = world.mail(CONTOSO);
        let got = mail.iter().find(|(_, text)| text.starts_with(method));
        let (server, got) = got.unwrap_or_else(|| panic!("{mail:#?}"));
        assert_eq!(body(got), "", "{got}");
        let reply = match method {
            "BYE" => answer(got, "200 OK", Some("b1")),
            _ => answer_with(got, "200 OK", "b1", &audio(BOB, 6000)),
        };
        world.say(CONTOSO, *server, &reply);
        let heard = world.expect(CONTOSO, at, "SIP/2.0 200 OK");
        assert_eq!(body(&heard), "", "{heard}");
        assert_eq!(world.edges[CONTOSO].flows, flows, "{method}");
    }
    let bye = by_routes(&invite, &ok, true, "BYE", 2);
    world.say(CONTOSO, alice, &bye.text());
    assert_eq!(world.edges[CONTOSO].flows.len(), 0);
}
