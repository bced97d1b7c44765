//! Bodies that are no offers and no answers: whose addresses they show, and what they are for.

use super::{
    media::{ALICE, audio, body, only, world},
    *,
};
use crate::{config::Transport, media::policy::Modality};

/// The bodies that show alice's address, with their types.
fn showing() -> Vec<(&'static str, String)> {
    let part =
        |kind: &str, text: &str| format!("--x\r\nContent-Type: {kind}\r\n\r\n{text}\r\n--x--\r\n");
    let sdp = audio(ALICE, 4000);
    let fragment = format!("a=ice-ufrag:F7gI\r\na=candidate:1 1 UDP 1 {ALICE} 4000 typ host\r\n");
    let mixed = "multipart/mixed;boundary=x";
    vec![
        ("application/sdp", sdp.clone()),
        ("application / SDP ;x=1", sdp.clone()),
        ("application/sdp charset=utf-8", sdp.clone()),
        ("text/plain, application/sdp", sdp.clone()),
        (mixed, part("application/sdp", &sdp)),
        (mixed, part("application/sdp", &sdp).replace("--x--", "")),
        ("application/trickle-ice-sdpfrag", fragment.clone()),
        (mixed, part("application/trickle-ice-sdpfrag", &fragment)),
    ]
}

fn with_body(text: &str, kind: &str, body: &str) -> String {
    let head = text.replace("Content-Length: 0\r\n\r\n", "");
    format!("{head}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn no_request_and_no_answer_shows_an_address_of_inside() {
    for (kind, text) in showing() {
        for (method, status) in [("OPTIONS", "200 OK"), ("INFO", "488 Not Acceptable Here")] {
            let mut world = world();
            let alice = world.inside(CONTOSO, Transport::Tcp, &format!("{ALICE}:40000"));
            let mut request = Req::new(method, "contoso.example", "fabrikam.example");
            request.headers.push(format!("Content-Type: {kind}"));
            request.body = text.clone();
            world.say(CONTOSO, alice, &request.text());
            let (bob, got) = world.one(FABRIKAM);
            assert_eq!((body(&got), headers(&got, "Content-Type").len()), ("", 0), "{kind} {got}");
            let answer = with_body(&answer(&got, status, Some("b1")), kind, &text);
            world.say(FABRIKAM, bob, &answer);
            let (_, heard) = world.one(CONTOSO);
            assert!(heard.starts_with(&format!("SIP/2.0 {status}")), "{heard}");
            assert_eq!((body(&heard), headers(&heard, "Content-Type").len()), ("", 0), "{heard}");
        }
    }
}

#[test]
fn candidates_beside_an_offer_are_refused_and_alone_in_its_place_they_are_taken_out() {
    let part = |kind: &str, text: &str| format!("--x\r\nContent-Type: {kind}\r\n\r\n{text}\r\n");
    let fragment = format!("a=ice-ufrag:F7gI\r\na=candidate:1 1 UDP 1 {ALICE} 4000 typ host\r\n");
    let one = part("application/trickle-ice-sdpfrag", &fragment);
    let beside = format!("{}{one}--x--\r\n", part("application/sdp", &audio(ALICE, 4000)));
    let mixed = "multipart/mixed;boundary=x";
    for (kind, text, passes) in [
        (mixed, beside, false),
        (mixed, format!("{one}--x--\r\n"), true),
        ("application/trickle-ice-sdpfrag", fragment, true),
    ] {
        let mut world = world();
        let alice = world.inside(CONTOSO, Transport::Tcp, &format!("{ALICE}:40000"));
        let mut request = Req::new("INVITE", "contoso.example", "fabrikam.example");
        request.headers.push(format!("Content-Type: {kind}"));
        request.body = text;
        world.say(CONTOSO, alice, &request.text());
        if passes {
            world.expect(CONTOSO, alice, "SIP/2.0 100 ");
            let (bob, got) = world.one(FABRIKAM);
            assert_eq!((body(&got), headers(&got, "Content-Type").len()), ("", 0), "{got}");
            // So in the answer.
            let ok = with_body(&answer(&got, "200 OK", Some("b1")), kind, &request.body);
            world.say(FABRIKAM, bob, &ok);
            let heard = world.expect(CONTOSO, alice, "SIP/2.0 200 OK");
            assert_eq!(body(&heard), "", "{heard}");
        } else {
            let (_, refused) = world.mail(CONTOSO).pop().unwrap();
            assert!(refused.starts_with("SIP/2.0 4"), "{refused}");
            assert_eq!(world.refused(CONTOSO, Refusal::SessionUnreadable), 1);
            assert_eq!(world.mail(FABRIKAM), []);
        }
    }
}

#[test]
fn bodies_without_addresses_pass_as_they_are() {
    let parts = "--x\r\nContent-Type: text/plain\r\n\r\nhi\r\n--x--\r\n";
    for (method, kind, text) in [
        ("MESSAGE", "text/plain", "hi"),
        ("MESSAGE", "multipart/alternative;boundary=x", parts),
        ("MESSAGE", "application/pkcs7-mime", "x"),
        ("NOTIFY", "multipart/related;boundary=x", &*parts.repeat(2)),
    ] {
        let mut world = world();
        let alice = world.inside(CONTOSO, Transport::Tcp, &format!("{ALICE}:40000"));
        let mut request =
            Req::new(method, "contoso.example", "fabrikam.example").with("Event: presence");
        request.headers.push(format!("Content-Type: {kind}"));
        request.body = text.into();
        world.say(CONTOSO, alice, &request.text());
        let (_, got) = world.one(FABRIKAM);
        assert_eq!(body(&got), text, "{kind}");
    }
}

#[test]
fn a_file_among_other_parts_is_refused_and_so_is_what_cannot_be_read() {
    let file = "--x\r\nContent-Type: text/x-msmsgsinvite\r\n\r\nfile\r\n--x--\r\n";
    let plain = file.replace("x-msmsgsinvite", "plain");
    let cut = plain.replace("--x--", "");
    let others: Vec<Modality> =
        Modality::ALL.iter().copied().filter(|one| *one != Modality::FileTransfer).collect();
    for (allowed, text, passes) in [
        (&*others, file, false),
        (&*others, &*plain, true),
        (&*others, &*cut, false),
        (Modality::ALL, file, true),
    ] {
        let mut world = world();
        world.set_policy(CONTOSO, only(allowed));
        let alice = world.inside(CONTOSO, Transport::Tcp, &format!("{ALICE}:40000"));
        let mut request = Req::new("MESSAGE", "contoso.example", "fabrikam.example");
        request.headers.push("Content-Type: multipart/alternative;boundary=x".into());
        request.body = text.into();
        world.say(CONTOSO, alice, &request.text());
        if passes {
            assert_eq!(body(&world.one(FABRIKAM).1), text);
        } else {
            let (_, refused) = world.mail(CONTOSO).pop().unwrap();
            assert!(refused.starts_with("SIP/2.0 403 "), "{refused}");
            assert_eq!(world.refused(CONTOSO, Refusal::ModalityForbidden), 1);
            assert_eq!(world.mail(FABRIKAM), []);
        }
    }
}
