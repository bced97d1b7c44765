//! RFC 4475 through the proxy, section by section, written anew from what the document describes:
//! what goes on and unchanged, and what is answered with which status. (Responses are in
//! [`responses_are_taken_as_they_are`]; how each is read is tested in `sip`.)

use super::{
    torture::{Is::*, Row, cut_at_every_byte, play, row},
    *,
};
use crate::{config::Transport, proxy::tests::lifecycle::invited};

const SDP: &str = "v=0\no=mhandley 29739 7272939 IN IP4 192.0.2.3\ns=-\nc=IN IP4 192.0.2.4\nt=0 0\n\
                   m=audio 49217 RTP/AVP 0 12\n";
const MULTIPART: &str = "--7a9cbec02ceef655\nContent-Type: text/plain\n\nHello\n\
                         --7a9cbec02ceef655\nContent-Type: application/octet-stream\n\n\u{0}\u{1}\
                         \u{82}0\u{7f}\n--7a9cbec02ceef655--\n";
const INVITE: &str = "INVITE sip:user@{to} SIP/2.0";
const OPTIONS: &str = "OPTIONS sip:user@{to} SIP/2.0";
const REGISTER: &str = "REGISTER sip:{to} SIP/2.0";

/// Section 3.1.1: well formed, however it looks.
fn valid() -> Vec<Row> {
    let odd = &[
        "TO :\n sip:vivekg@{to} ;   tag    = 1918181833n",
        "from   : \"J Rosenberg \\\\\\\"\"       <sip:jdrosen@{from}>\n  ;\n  tag = 98asjd8",
        "MaX-fOrWaRdS: 0068",
        "cseq: 0009\n  INVITE",
        "Via  : SIP  /   2.0\n /UDP\n    192.0.2.2;branch=390skdjuw",
        "s :",
        "NewFangledHeader:   newfangled value\n continued newfangled value",
        "UnknownHeaderWithUnusualValue: ;;,,;;,;",
        "+v:  SIP  / 2.0  / TCP     spindle.example.com   ;\n  branch  =   z9hG4bK9ikj8  ,\n SIP  /    \
         2.0   / UDP  192.168.255.111   ; branch=\n z9hG4bK30239",
        "m:\"Quoted string \\\"\\\"\" <sip:jdrosen@example.com> ; newparam =\n      newvalue ;\n  \
         secondparam ; q = 0.33",
    ];
    let route = "Route:\n <sip:services.example.com;lr;unknownwith=value;unknown-no-value>";
    let with_route: Vec<&str> = odd.iter().copied().chain([route]).collect();
    let weird = "!interesting-Method0123456789_*+`.%indeed'~ \
                 sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.\
                 (doesn't-it)@{to} SIP/2.0";
    let vias: Vec<String> = (1..=33)
        .map(|i| format!("+{}: SIP/2.0/TCP sip{i}.example.com", ["Via", "v"][i % 2]))
        .collect();
    let mut long = row("longreq", INVITE, &[], SDP, Forwarded);
    let very = "very".repeat(60);
    long.headers = vec![
        format!(
            "To: \"I have a user name of {very} proportion\"<sip:user@{{to}}:6000;unknownparam1={very};\
             longparam{very}=shortvalue;very{very}ParameterNameWithNoValue>"
        ),
        format!(
            "F: sip:{very}@{{from}};tag=12982{};unknownheaderparam{very}={very};unknownValueless{very}",
            "982".repeat(60)
        ),
        format!("Call-ID: longreq.one{}longcallid", "really".repeat(20)),
        "CSeq: 3882340 INVITE".into(),
        format!(
            "Unknown-{}-Name: unknown-{very}-value; unknown-{very}-parameter",
            "Long".repeat(20)
        ),
    ];
    long.headers.extend(vias);
    vec![
        row("3.1.1.1 wsinv", "INVITE sip:vivekg@{to};unknownparam SIP/2.0", odd, SDP, Forwarded),
        row(
            "3.1.1.1 wsinv, more zeros",
            INVITE,
            &["CSeq: 00000000000000000000009 INVITE", "Max-Forwards: 00000000000000000000068"],
            SDP,
            Forwarded,
        ),
        // The document's own Route leads to a server that is none of ours: no relay.
        row("3.1.1.1 wsinv, its Route", INVITE, &with_route, SDP, Answered(403)),
        row(
            "3.1.1.2 intmeth",
            weird,
            &[
                "Via: SIP/2.0/TCP host1.example.com;branch=z9hG4bK-.!%66*_+`'~",
                "To: \"BEL:\\\u{7} NUL:\\\u{0} DEL:\\\u{7f}\" \
                 <sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@{to}>",
                "From: token1~` token2'+_ token3*%!.- <sip:mundane@{from}>;fromParam''~+*_!.-%=\"\u{440}\
                 \u{430}\u{431}\u{43e}\u{442}\u{430}\";tag=_token~1'+`*%!-.",
                "Call-ID: intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{",
                "CSeq: 139122385 !interesting-Method0123456789_*+`.%indeed'~",
                "Max-Forwards: 255",
                "extensionHeader-!.%*+_`'~:\u{5927}\u{505c}\u{96fb}",
            ],
            "",
            Forwarded,
        ),
        row(
            "3.1.1.3 esc01",
            "INVITE sip:sips%3Auser%40example.com@{to} SIP/2.0",
            &[
                "To: sip:%75se%72@example.com",
                "From: <sip:I%20have%20spaces@{from}>;tag=938",
                "Contact:\n  <sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31>",
            ],
            SDP,
            Forwarded,
        ),
        row(
            "3.1.1.4 escnull",
            REGISTER,
            &[
                "To: sip:null-%00-null@example.com",
                "From: sip:null-%00-null@{from};tag=839",
                "Contact: \
             <sip:%00@host5.example.com>, <sip:%00%00@host5.example.com>",
            ],
            "",
            Forwarded,
        ),
        row(
            "3.1.1.5 esc02",
            "RE%47IST%45R sip:registrar@{to} SIP/2.0",
            &["To: \"%Z%45\" <sip:resource@example.com>"],
            "",
            Forwarded,
        ),
        row(
            "3.1.1.6 lwsdisp",
            OPTIONS,
            &["From: caller<sip:caller@{from}>;tag=323"],
            "",
            Forwarded,
        ),
        long,
        row(
            "3.1.1.9 semiuri",
            "OPTIONS sip:user;par=u%40example.net@{to} SIP/2.0",
            &["To: sip:j_user@example.com", "Accept: application/sdp, application/pkcs7-mime"],
            "",
            Forwarded,
        ),
        row(
            "3.1.1.10 transports",
            OPTIONS,
            &[
                "Via: SIP/2.0/UDP t1.example.com;branch=z9hG4bKkdjuw",
                "+Via: SIP/2.0/SCTP t2.example.com;branch=z9hG4bKklasjdhf",
                "+Via: SIP/2.0/TLS t3.example.com;branch=z9hG4bK2980unddj",
                "+Via: SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKasd0f3en",
                "+Via: SIP/2.0/TCP t5.example.com;branch=z9hG4bK0a9idfnee",
            ],
            "",
            Forwarded,
        ),
        row(
            "3.1.1.11 mpart01",
            "MESSAGE sip:kumiko@{to} SIP/2.0",
            &[
                "Content-Type: multipart/mixed;boundary=7a9cbec02ceef655",
                "Identity: r5mwreLuyDRYBi/0=",
            ],
            MULTIPART,
            Forwarded,
        ),
        row(
            "3.1.1.11 mpart01, its Route",
            "MESSAGE sip:kumiko@{to} SIP/2.0",
            &["Route: <sip:127.0.0.1:5080>"],
            MULTIPART,
            Answered(403),
        ),
    ]
}

/// Section 3.1.2: broken where a proxy looks, and where it does not.
fn invalid() -> Vec<Row> {
    let bad = Answered(400);
    let one = |name, header: &str, is| row(name, INVITE, &[header], "", is);
    vec![
        one("3.1.2.1 badinv01", "Via: SIP/2.0/UDP 192.0.2.15;;,;,,", bad),
        one("3.1.2.1 badinv01", "Via: SIP/2.0/UDP 192.0.2.15;branch=z9hG4bK1,", bad),
        one("3.1.2.1 badinv01", "To: sip:j.user@{to};;", bad),
        one(
            "3.1.2.1 badinv01, where nobody looks",
            "Contact: \"Joe\" <sip:joe@x.org>;;;;",
            Forwarded,
        ),
        row("3.1.2.2 clerr", INVITE, &["Content-Length: 9999"], SDP, bad),
        one("3.1.2.3 ncl", "Content-Length: -999", bad),
        one("3.1.2.4 scalar02", "CSeq: 36893488147419103232 INVITE", bad),
        one("3.1.2.4 scalar02", "CSeq: 2147483648 INVITE", bad),
        one("3.1.2.4 scalar02", "Max-Forwards: 300", bad),
        one("3.1.2.4 scalar02", "Max-Forwards: -1", bad),
        one("3.1.2.4 scalar02", "Max-Forwards: seven", bad),
        row(
            "3.1.2.4 scalar02, where nobody looks",
            REGISTER,
            &["Expires: 10000000000000000000", "Contact: <sip:u@x.org>;expires=280297596632815"],
            "",
            Forwarded,
        ),
        one("3.1.2.6 quotbal", "To: \"Mr. J. User <sip:j.user@{to}>", bad),
        one("3.1.2.6 quotbal", "From: \"Mr. J. User <sip:j.user@{from}>;tag=1", bad),
        one("3.1.2.6 quotbal", "Route: \"A <sip:{to};lr>", bad),
        row("3.1.2.7 ltgtruri", "INVITE <sip:user@{to}> SIP/2.0", &[], "", bad),
        row("3.1.2.7 ltgtruri", "INVITE \"sip:user@{to}\" SIP/2.0", &[], "", bad),
        row("3.1.2.8 lwsruri", "INVITE sip:user@{to}; lr SIP/2.0", &[], "", bad),
        row("3.1.2.8 lwsruri", "INVITE sip:user@{to};\tlr SIP/2.0", &[], "", bad),
        row("3.1.2.9 lwsstart", "INVITE  sip:user@{to}  SIP/2.0", &[], "", bad),
        row("3.1.2.9 lwsstart", "INVITE sip:user@{to}  SIP/2.0", &[], "", bad),
        row("3.1.2.10 trws", "OPTIONS sip:remote-target@{to} SIP/2.0  ", &[], "", bad),
        row("3.1.2.10 trws", "OPTIONS sip:remote-target@{to} SIP/2.0\t", &[], "", Answered(505)),
        row("3.1.2.11 escruri", "INVITE sip:user@{to}?Route=%3Csip:{to}%3E SIP/2.0", &[], "", bad),
        one("3.1.2.12 baddate", "Date: Fri, 01 Jan 2010 16:00:00 EST", Forwarded),
        row(
            "3.1.2.13 regbadct",
            REGISTER,
            &["Contact: sip:user@x.org?Route=%3Csip:sip.x.org%3E"],
            "",
            Forwarded,
        ),
        one("3.1.2.14 badaspec", "To: \"Watson, Thomas\" < sip:t.watson@{to} >", bad),
        one("3.1.2.15 baddn", "From: Bell, Alexander <sip:a.g.bell@{from}>;tag=43", bad),
        row("3.1.2.16 badvers", "OPTIONS sip:t.watson@{to} SIP/7.0", &[], "", Answered(505)),
        row(
            "3.1.2.16 badvers, its Via",
            "OPTIONS sip:t.watson@{to} SIP/7.0",
            &["Via: SIP/7.0/UDP c.example.com;branch=z9hG4bKkdjuw"],
            "",
            Answered(505),
        ),
        row("3.1.2.17 mismatch01", OPTIONS, &["CSeq: 8 INVITE"], "", bad),
        row("3.1.2.17 mismatch01", OPTIONS, &["CSeq: 8 options"], "", bad),
        row(
            "3.1.2.18 mismatch02",
            "NEWMETHOD sip:user@{to} SIP/2.0",
            &["CSeq: 8 INVITE"],
            "",
            Answered(501),
        ),
    ]
}

/// Sections 3.2 to 3.4: transaction and application layer, and what was before RFC 3261.
fn odd() -> Vec<Row> {
    let bad = Answered(400);
    let twice = |header: &str| row("3.3.8 multi01", INVITE, &[header], "", bad);
    let scheme = "OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0";
    vec![
        row(
            "3.2.1 badbranch",
            OPTIONS,
            &["Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK"],
            "",
            Forwarded,
        ),
        row("3.3.1 insuf", INVITE, &["-Call-ID", "-From", "-To"], SDP, bad),
        row("3.3.1 insuf", INVITE, &["-Call-ID"], "", bad),
        row("3.3.1 insuf", INVITE, &["-From"], "", bad),
        row("3.3.1 insuf", INVITE, &["-To"], "", bad),
        row("3.3.1 insuf", INVITE, &["-CSeq"], "", bad),
        row("3.3.1 insuf, without a way back", INVITE, &["-Via"], "", Silent),
        row("3.3.2 unkscm", scheme, &[], "", Answered(416)),
        row(
            "3.3.3 novelsc",
            "OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0",
            &[],
            "",
            Answered(416),
        ),
        row(
            "3.3.4 unksm2",
            REGISTER,
            &["To: isbn:2983792873", "Contact: <name:John_Smith>"],
            "",
            Forwarded,
        ),
        // Somebody whose address is no SIP address is nobody that a certificate proves, or of ours.
        row("3.3.4 unksm2", REGISTER, &["From: <http://www.example.com>;tag=3"], "", Answered(403)),
        row(
            "3.3.5 bext01",
            OPTIONS,
            &[
                "Require: nothingSupportsThis, nothingSupportsThisEither",
                "Proxy-Require: \
             noProxiesSupportThis, norDoAnyProxiesSupportThis",
            ],
            "",
            Answered(420),
        ),
        row(
            "3.3.5 bext01, the ends' part",
            OPTIONS,
            &["Require: nothingSupportsThis"],
            "",
            Forwarded,
        ),
        row(
            "3.3.6 invut",
            INVITE,
            &["Content-Type: application/unknownformat"],
            "<audio/>\n",
            Forwarded,
        ),
        row(
            "3.3.7 regaut01",
            REGISTER,
            &["Authorization: NoOneKnowsThisScheme opaque-data=here"],
            "",
            Forwarded,
        ),
        twice("+CSeq: 59 INVITE"),
        twice("+Call-ID: multi01.98asdh@192.0.2.2"),
        twice("+From: sip:caller@{from};tag=2"),
        twice("+To: sip:user@{to}"),
        twice("+Max-Forwards: 5"),
        row("3.3.9 mcl01", OPTIONS, &["+l: 5"], "There's no way to know\n", bad),
        row("3.3.9 mcl01, the same twice", OPTIONS, &["+Content-Length: 0"], "", bad),
        row("3.3.11 zeromf", OPTIONS, &["Max-Forwards: 0"], "", Answered(483)),
        row("3.3.11 zeromf", INVITE, &["Max-Forwards: 000"], "", Answered(483)),
        row(
            "3.3.12 cparam01",
            REGISTER,
            &["Contact: sip:+19725552222@gw1.example.net;unknownparam"],
            "",
            Forwarded,
        ),
        row(
            "3.3.13 cparam02",
            REGISTER,
            &["Contact: <sip:+19725552222@gw1.example.net;unknownparam>"],
            "",
            Forwarded,
        ),
        row(
            "3.3.14 regescrt",
            REGISTER,
            &["Contact: <sip:user@example.com?Route=%3Csip:sip.example.com%3E>"],
            "",
            Forwarded,
        ),
        row("3.3.15 sdp01", INVITE, &["Accept: text/nobodyKnowsThis"], SDP, Forwarded),
        row(
            "3.4.1 inv2543",
            "INVITE sip:UserB@{to} SIP/2.0",
            &[
                "Via: SIP/2.0/UDP iftgw.example.com",
                "From: <sip:+13035551111@{from};user=phone>",
                "Record-Route: <sip:UserB@example.com;maddr=ss1.example.com>",
                "To: sip:+16505552222@ss1.example.net;user=phone",
                "-Max-Forwards",
                "-Content-Length",
            ],
            SDP,
            Forwarded,
        ),
    ]
}

#[test]
fn what_is_valid_goes_on_unchanged_3_1_1() {
    play(&valid());
}

#[test]
fn what_is_invalid_is_answered_and_goes_no_further_3_1_2() {
    play(&invalid());
}

#[test]
fn what_is_odd_gets_what_the_document_asks_for_3_2_to_3_4() {
    play(&odd());
}

#[test]
fn cut_at_any_byte_no_message_goes_on() {
    cut_at_every_byte(&valid());
    cut_at_every_byte(&invalid());
    cut_at_every_byte(&odd());
}

#[test]
fn two_messages_in_one_datagram_are_one_3_1_1_8() {
    let mut world = World::new();
    let alice = world.inside(CONTOSO, Transport::Udp, "10.0.0.5:5060");
    let first = Req::new("MESSAGE", "contoso.example", "fabrikam.example").text();
    let second = Req::new("INVITE", "contoso.example", "fabrikam.example").branch("2").text();
    world.say(CONTOSO, alice, &format!("{first}{second}"));
    let (_, got) = world.one(FABRIKAM);
    assert!(got.starts_with("MESSAGE ") && !got.contains("INVITE"), "{got}");
}

#[test]
fn responses_are_taken_as_they_are() {
    // The answer's status line and a change of its text: as what it arrives, if at all.
    type Change = fn(String) -> String;
    let rows: &[(&str, &str, Change, Option<&str>)] = &[
        (
            "3.1.1.12 unreason",
            "200 = 2**3 * 5**2 \u{43d}\u{43e} \u{441}\u{442}\u{43e}",
            |t| t,
            None,
        ),
        ("3.1.1.13 noreason", "486 ", |t| t, None),
        ("noreason without its space", "486", |t| t, None),
        (
            "3.1.2.5 scalarlg",
            "503 Service Unavailable",
            |t| t.replace("CSeq: 1 ", "CSeq: 9292394834772304023312 "),
            Some("dropped"),
        ),
        ("3.1.2.19 bigcode", "4294967301 better not break the receiver", |t| t, Some("dropped")),
        ("bigcode, a little", "700 Too Much", |t| t, Some("dropped")),
        ("bigcode, too small", "99 Too Little", |t| t, Some("dropped")),
        ("unheard of but in its class", "299 Who Knows", |t| t, None),
        (
            "3.3.10 bcast",
            "200 OK",
            |t| t.replacen("Via: ", "Via: SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1\r\nVia: ", 1),
            Some("dropped"),
        ),
        (
            "bcast below ours",
            "200 OK",
            |t| {
                t.replacen(
                    "Content-Length",
                    "v: SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1\r\nContent-Length",
                    1,
                )
            },
            None,
        ),
        ("another call's", "200 OK", |t| t.replace("call-1", "call-2"), Some("dropped")),
        ("another method's", "200 OK", |t| t.replace(" INVITE\r\n", " BYE\r\n"), Some("dropped")),
    ];
    for (name, status, change, dropped) in rows {
        let (mut world, partner, server, got) = invited();
        let text = change(answer(&got, status, Some("b1")));
        world.say(CONTOSO, server, &text);
        let mail = world.mail(CONTOSO);
        let back: Vec<_> = mail.iter().filter(|(at, _)| *at == partner).collect();
        assert_eq!(back.len(), usize::from(dropped.is_none()), "{name}: {mail:?}");
        if let Some((_, text)) = back.first() {
            assert!(text.starts_with(&format!("SIP/2.0 {status}\r\n")), "{name}: {text}");
        }
        // Whatever it was, the call itself can still be answered, or is.
        world.say(CONTOSO, server, &answer(&got, "486 Busy Here", Some("b1")));
        let still = world.mail(CONTOSO).iter().filter(|(at, _)| *at == partner).count();
        assert_eq!(still, usize::from(dropped.is_some()), "{name}");
    }
}
