//! A 2xx that the caller is not told: the callee is hung up.

use super::*;

const VIDEO: &str = "m=video 5002 RTP/AVP 96";

/// bob's 200 with this text, which does not reach alice as one; what she hears, and what he does.
fn refused(call: &mut Call, text: &str) -> (String, Vec<(ConnectionId, String)>) {
    call.world.say(FABRIKAM, call.bob, &ok_of(&call.got, text));
    let (_, heard) = call.world.one(CONTOSO);
    (heard, call.world.mail(FABRIKAM))
}

/// bob's answer, with where he is.
fn ok_of(request: &str, text: &str) -> String {
    let ok = answer_with(request, "200 OK", "b1", text);
    ok.replace("Content-Type", "Contact: <sip:bob@10.9.9.9:5070>\r\nContent-Type")
}

/// The callee's two messages: an ACK and a BYE of its dialog.
#[track_caller]
fn ack_and_bye(call: &Call, mail: &[(ConnectionId, String)]) -> (String, String) {
    let [(first, ack), (second, bye)] = mail else { panic!("{mail:#?}") };
    assert_eq!((*first, *second), (call.bob, call.bob));
    for (got, begins, cseq) in [(ack, "ACK ", "1 ACK"), (bye, "BYE ", "2 BYE")] {
        assert!(got.starts_with(&format!("{begins}sip:bob@10.9.9.9:5070 ")), "{got}");
        assert_eq!(headers(got, "CSeq"), [cseq]);
        assert_eq!(headers(got, "Call-ID"), headers(&call.got, "Call-ID"));
        assert_eq!(headers(got, "From"), headers(&call.got, "From"));
        assert!(headers(got, "To")[0].ends_with(";tag=b1"), "{got}");
        assert_whole(got);
    }
    (ack.clone(), bye.clone())
}

/// alice's edge forbids what bob offers to her; his edge lets all of it through.
fn late_offer() -> Call {
    let mut world = world();
    world.set_policy(CONTOSO, only(&[Modality::Audio]));
    begin(world, "")
}

#[test]
fn an_offer_that_is_all_forbidden_is_rejected_in_the_ack_and_hung_up() {
    let mut call = late_offer();
    let (heard, mail) = refused(&mut call, &sdp(BOB, VIDEO));
    assert!(heard.starts_with("SIP/2.0 488 "), "{heard}");
    let (ack, bye) = ack_and_bye(&call, &mail);
    assert_eq!(ports(&ack), [0], "{ack}");
    assert!(ack.contains("\r\nm=video 0 RTP/AVP 96\r\n"), "{ack}");
    assert_eq!((call.open(), call.calls()), ([0, 0], [0, 0]));
    // It is answered, and that is no offence.
    call.world.say(FABRIKAM, call.bob, &answer(&bye, "200 OK", None));
    assert_eq!(call.world.mail(CONTOSO), []);
    for edge in [CONTOSO, FABRIKAM] {
        assert_eq!(call.world.refused(edge, Refusal::StrayResponse), 0);
    }
    call.world.pass(Duration::from_secs(60));
    assert_eq!((call.world.mail(FABRIKAM), call.world.live()), (vec![], 0));
}

#[test]
fn an_answer_that_makes_no_sense_is_acknowledged_and_hung_up() {
    for text in ["nonsense", &audio("127.0.0.1", 5000)] {
        let mut call = begin(world(), &audio(ALICE, 4000));
        let (heard, mail) = refused(&mut call, text);
        assert!(!heard.starts_with("SIP/2.0 2"), "{heard}");
        let (ack, _) = ack_and_bye(&call, &mail);
        assert_eq!(body(&ack), "", "the INVITE brought the offer: {ack}");
    }
}

/// What the callee agreed to is not what the caller is told: the call ends on both sides.
#[test]
fn a_change_whose_answer_cannot_pass_ends_the_call() {
    // What the re-INVITE offers, what the 2xx says, the ports of the ACK, and whose edge refuses it.
    for (offer, says, acknowledged, edge) in [
        (String::new(), sdp(BOB, VIDEO), vec![0], CONTOSO),
        (audio(ALICE, 4002), "nonsense".to_owned(), vec![], FABRIKAM),
    ] {
        let mut world = world();
        world.set_policy(CONTOSO, only(&[Modality::Audio]));
        let mut call = begin(world, &audio(ALICE, 4000));
        let ok = call.bob_says("200 OK", &audio(BOB, 5000));
        let again = call.within(&ok, true, "INVITE", 2);
        let again = if offer.is_empty() { again } else { with_sdp(again, &offer) };
        call.world.say(CONTOSO, call.alice, &again.text());
        call.world.mail(CONTOSO);
        let (_, again) = call.world.one(FABRIKAM);
        call.world.say(FABRIKAM, call.bob, &ok_of(&again, &says));
        // 481 ends alice's dialog (RFC 3261 section 12.2.1.2).
        let (_, heard) = call.world.one(CONTOSO);
        assert!(heard.starts_with("SIP/2.0 481 "), "{heard}");
        let mail = call.world.mail(FABRIKAM);
        let [(_, ack), (at, bye)] = &mail[..] else { panic!("{mail:#?}") };
        assert!(ack.starts_with("ACK sip:bob@10.9.9.9:5070 "), "{ack}");
        assert_eq!((ports(ack), headers(ack, "CSeq")), (acknowledged, vec!["2 ACK"]));
        assert!(bye.starts_with("BYE sip:bob@10.9.9.9:5070 "), "{bye}");
        assert_eq!((*at, headers(bye, "CSeq")), (call.bob, vec!["3 BYE"]));
        assert!(headers(bye, "To")[0].ends_with(";tag=b1"), "{bye}");
        call.world.say(FABRIKAM, call.bob, &answer(bye, "200 OK", None));
        assert_eq!((call.open()[edge], call.calls()[edge]), (0, 0));
        // What alice does then ends it everywhere.
        call.world.say(CONTOSO, call.alice, &call.within(&ok, true, "BYE", 3).text());
        assert_eq!((call.open(), call.calls()), ([0, 0], [0, 0]));
    }
}

/// Whoever else accepts, behind a proxy that forks, has a dialog of its own, and is hung up too.
#[test]
fn each_callee_of_a_fork_is_hung_up() {
    let mut world = world();
    let partner = world.partner(CONTOSO, "203.0.113.20:40001", &["sip.fabrikam.example"]);
    let invite = Req::new("INVITE", "fabrikam.example", "contoso.example");
    world.say(CONTOSO, partner, &with_sdp(invite, &audio("203.0.113.99", 4000)).text());
    let (server, got) = world.mail(CONTOSO).pop().unwrap();
    for (tag, expected) in [("b1", 3), ("b2", 2), ("b1", 1), ("b2", 1)] {
        let accepted = ok_of(&got, "nonsense").replace("tag=b1", &format!("tag={tag}"));
        world.say(CONTOSO, server, &accepted);
        let mail = world.mail(CONTOSO);
        let to_server: Vec<_> = mail.iter().filter(|(at, _)| *at == server).collect();
        // The first one's caller is told, too.
        assert_eq!(mail.len(), expected, "{tag}: {mail:#?}");
        let begins =
            |begins: &str| to_server.iter().filter(|(_, got)| got.starts_with(begins)).count();
        assert_eq!((begins("ACK "), begins("BYE ")), (1, usize::from(expected > 1)), "{mail:#?}");
        assert!(to_server.iter().all(|(_, got)| headers(got, "To")[0].ends_with(tag)), "{mail:#?}");
    }
    assert_eq!(world.refused(CONTOSO, Refusal::StrayResponse), 0);
}

/// Over UDP the 2xx comes again until it is acknowledged, and BYE goes again until it is answered.
#[test]
fn over_udp_what_is_lost_is_sent_again() {
    let mut world = world();
    world.configure(FABRIKAM, |config| {
        config.next_hops = vec![hop("10.1.0.21:5060", Transport::Udp)];
    });
    let mut call = begin(world, &audio(ALICE, 4000));
    let again = ok_of(&call.got, "nonsense");
    let (_, mail) = refused(&mut call, "nonsense");
    let (ack, bye) = ack_and_bye(&call, &mail);
    call.world.say(FABRIKAM, call.bob, &again);
    assert_eq!(call.world.one(FABRIKAM), (call.bob, ack));
    call.world.pass(Duration::from_millis(3_600));
    let again = call.world.mail(FABRIKAM);
    assert_eq!(again, vec![(call.bob, bye.clone()); 3], "after 0.5, 1.5 and 3.5 s");
    call.world.say(FABRIKAM, call.bob, &answer(&bye, "200 OK", None));
    call.world.pass(Duration::from_secs(60));
    assert_eq!((call.world.mail(FABRIKAM), call.world.live()), (vec![], 0));
}

/// We answered in the callee's place, and it accepts all the same.
#[test]
fn a_call_that_is_accepted_after_its_time_is_hung_up() {
    let mut world = world();
    world.set_policy(CONTOSO, only(Modality::ALL));
    let mut call = begin(world, &audio(ALICE, 4000));
    // The partner is blocked while it rings.
    call.world.say(FABRIKAM, call.bob, &answer(&call.got, "180 Ringing", Some("b1")));
    call.world.mail(CONTOSO);
    call.world.set_policy(FABRIKAM, policy("fabrikam.example", &[], &["contoso.example"]));
    let mail = call.world.mail(FABRIKAM);
    assert!(mail.iter().any(|(_, got)| got.starts_with("CANCEL ")), "{mail:#?}");
    call.world.say(FABRIKAM, call.bob, &ok_of(&call.got, &audio(BOB, 5000)));
    let mail = call.world.mail(FABRIKAM);
    ack_and_bye(&call, &mail);
}
