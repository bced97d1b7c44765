//! What a call may carry: modalities by partner, by whoever follows a REFER, and by who was called.

use super::*;

#[test]
fn each_modality_is_refused_both_ways_when_it_is_not_among_the_partners() {
    use Modality::*;
    let offer = |line: &str, address: &str| sdp(address, line);
    // (what is sent, without what it is refused, status)
    let call = |line: &'static str| ("INVITE", line);
    let cases = [
        (call("m=audio 4000 RTP/AVP 0"), Audio, 488),
        (call("m=video 4000 RTP/AVP 96"), Video, 488),
        (call("m=message 5060 sip null"), Im, 488),
        (call("m=applicationsharing 4000 RTP/AVP 127"), WebConferencing, 488),
        (call("m=message 4000 TCP/MSRP *|a=file-selector:name:\"x\""), FileTransfer, 488),
        (("MESSAGE", ""), Im, 403),
        (("SUBSCRIBE", "presence"), Presence, 403),
        (("NOTIFY", "presence"), Presence, 403),
    ];
    for mode in [MediaMode::Relay, MediaMode::Off] {
        for inbound in [true, false] {
            for ((method, text), modality, status) in cases {
                let mut world = world();
                for edge in [CONTOSO, FABRIKAM] {
                    world.configure(edge, |config| config.media.mode = mode);
                }
                let others: Vec<Modality> =
                    Modality::ALL.iter().copied().filter(|one| *one != modality).collect();
                world.set_policy(CONTOSO, only(&others));
                let (at, from, to, address) = match inbound {
                    true => {
                        let at =
                            world.partner(CONTOSO, "203.0.113.20:40001", &["sip.fabrikam.example"]);
                        (at, "fabrikam.example", "contoso.example", "203.0.113.99")
                    }
                    false => {
                        let at = world.inside(CONTOSO, Transport::Tcp, "10.9.0.5:40000");
                        (at, "contoso.example", "fabrikam.example", ALICE)
                    }
                };
                let request = Req::new(method, from, to);
                let request = match method {
                    "INVITE" => with_sdp(request, &offer(text, address)),
                    "MESSAGE" => request,
                    _ => request.with(format!("Event: {text}")),
                };
                world.say(CONTOSO, at, &request.text());
                let (_, refused) = world.mail(CONTOSO).pop().unwrap();
                assert!(
                    refused.starts_with(&format!("SIP/2.0 {status} ")),
                    "{mode:?} {text} {refused}"
                );
                assert!(headers(&refused, "Warning")[0].ends_with("\"modality-forbidden\""));
                let public = headers(&refused, "ms-diagnostics-public");
                assert_eq!(public.len(), usize::from(inbound), "{refused}");
                assert_eq!(world.refused(CONTOSO, Refusal::ModalityForbidden), 1);
                assert_eq!(world.edges[CONTOSO].proxy.calls().len(), 0);
                // Everything is allowed: it passes, unless nothing of it can be relayed.
                world.set_policy(CONTOSO, only(Modality::ALL));
                world.say(CONTOSO, at, &request.clone().branch("2").text());
                let mail = world.mail(CONTOSO);
                let tcp = text.contains("TCP") && mode == MediaMode::Relay;
                let refused = mail.iter().any(|(_, got)| got.contains("media-not-relayed"));
                assert_eq!(refused, tcp, "{mail:#?}");
                assert_eq!(world.refused(CONTOSO, Refusal::ModalityForbidden), 1);
            }
        }
    }
}

#[test]
fn of_a_mixed_offer_what_is_allowed_goes_on() {
    let mut world = world();
    world.set_policy(CONTOSO, only(&[Modality::Audio]));
    let both = |address| sdp(address, "m=audio 4000 RTP/AVP 0|m=video 4002 RTP/AVP 96");
    let mut call = begin(world, &both(ALICE));
    assert_eq!((ports(&call.got)[0] != 0, ports(&call.got)[1]), (true, 0));
    let ok = call.bob_says("200 OK", &both(BOB));
    assert_eq!((ports(&ok)[0] != 0, ports(&ok)[1]), (true, 0));
    assert_eq!(call.open(), [4, 4]);
    // Escalation is judged again.
    let video = sdp(ALICE, "m=audio 0 RTP/AVP 0|m=video 4002 RTP/AVP 96");
    let change = with_sdp(call.within(&ok, true, "INVITE", 2), &video);
    call.world.say(CONTOSO, call.alice, &change.text());
    let (_, refused) = call.world.mail(CONTOSO).pop().unwrap();
    assert!(refused.starts_with("SIP/2.0 488 "), "{refused}");
    assert_eq!(call.open(), [4, 4]);
}

/// Who follows a REFER, or takes another's place in a call (RFC 3515, 3891), makes a call like any.
#[test]
fn what_a_refer_or_replaces_leads_to_is_judged_like_any_call() {
    const BY: [(&str, &str); 2] =
        [("contoso.example", "fabrikam.example"), ("fabrikam.example", "contoso.example")];
    let both = |address| sdp(address, "m=audio 4100 RTP/AVP 0|m=video 4102 RTP/AVP 96");
    for inside_refers in [true, false] {
        let mut world = world();
        world.set_policy(CONTOSO, only(&[Modality::Audio]));
        let mut call = begin(world, &audio(ALICE, 4000));
        let ok = call.bob_says("200 OK", &audio(BOB, 5000));
        // The request itself goes through and opens nothing.
        let (from, to) = if inside_refers { BY[0] } else { BY[1] };
        let target = format!("Refer-To: <sip:carol@{from}?Replaces=x%3Bto-tag%3D1%3Bfrom-tag%3D2>");
        let refer = call.within(&ok, inside_refers, "REFER", 7).with(&target);
        let (asks, at, hears) = match inside_refers {
            true => (CONTOSO, call.alice, FABRIKAM),
            false => (FABRIKAM, call.bob, CONTOSO),
        };
        call.world.say(asks, at, &refer.text());
        let (follows, got) = call.world.one(hears);
        assert!(got.starts_with("REFER ") && got.contains(&target), "{got}");
        assert_eq!((call.open(), call.calls()), ([4, 4], [1, 1]));
        // What it leads to comes the other way, as a call of its own.
        for (number, more) in
            ["Referred-By: <sip:x@contoso.example>", "Replaces: call-1;to-tag=b1;from-tag=a1"]
                .iter()
                .enumerate()
        {
            let new = |text: &str, branch: &str| {
                let mut invite = Req::new("INVITE", to, from).branch(&format!("{branch}{number}"));
                invite.call_id = format!("second-{number}");
                with_sdp(invite.with(*more), text)
            };
            let address = if inside_refers { BOB } else { ALICE };
            let video = sdp(address, "m=video 4102 RTP/AVP 96");
            call.world.say(hears, follows, &new(&video, "v").text());
            let mut mail = call.world.mail(hears);
            let (_, refused) = mail.pop().unwrap();
            assert!(refused.starts_with("SIP/2.0 488 "), "{inside_refers} {more}: {refused}");
            call.world.say(hears, follows, &new(&both(address), "m").text());
            let (_, got) = call.world.one(asks);
            assert!(got.contains(more), "{got}");
            assert_eq!((ports(&got)[0] != 0, ports(&got)[1]), (true, 0), "{got}");
        }
        assert_eq!(call.world.refused(CONTOSO, Refusal::ModalityForbidden), 2);
        assert_eq!(call.calls(), [3, 3]);
    }
}

#[test]
fn who_was_called_bounds_the_dialog_whomever_to_names() {
    let users = vec![UserPolicy {
        users: vec![UserPattern::User("carol".into(), domain("contoso.example"))],
        rights: Rights { modalities: Modalities::NONE.with(Modality::Im), ..Rights::default() },
    }];
    let federation = Federation { users, ..federation(&[allow("fabrikam.example")], &[]) };
    let policy = crate::federation::Policy::new(&[domain("contoso.example")], &federation);
    let mut world = world();
    world.set_policy(CONTOSO, std::sync::Arc::new(policy));
    let at = world.partner(CONTOSO, "203.0.113.20:40001", &["sip.fabrikam.example"]);
    let mut invite = Req::new("INVITE", "fabrikam.example", "contoso.example");
    // To names bob, who may do everything.
    invite.uri = "sip:carol@contoso.example".into();
    let im = |address: &str| sdp(address, "m=message 5060 sip null");
    let invite = with_sdp(invite, &im("203.0.113.99"));
    assert!(!invite.to.contains("carol"));
    world.say(CONTOSO, at, &invite.text());
    let (server, got) = world.mail(CONTOSO).pop().unwrap();
    assert!(got.starts_with("INVITE "), "{got}");
    world.say(CONTOSO, server, &answer_with(&got, "200 OK", "b1", &im(BOB)));
    let ok = world.expect(CONTOSO, at, "SIP/2.0 200 OK");
    for by_caller in [true, false] {
        let (connection, learned, address) =
            if by_caller { (at, &ok, "203.0.113.99") } else { (server, &got, BOB) };
        for (text, passes) in [(im(address), true), (audio(address, 4000), false)] {
            let cseq = if passes { 2 } else { 3 };
            let change = by_routes(&invite, learned, by_caller, "INVITE", cseq);
            world.say(CONTOSO, connection, &with_sdp(change, &text).text());
            let (_, heard) = world.mail(CONTOSO).pop().unwrap();
            let expected = if passes { "INVITE " } else { "SIP/2.0 488 " };
            assert!(heard.starts_with(expected), "{by_caller} {heard}");
        }
    }
}
