//! RFC 4475, all 49 messages, written out by hand from the document (long texts shortened), each
//! with what an element that forwards must make of it.
//!
//! `\n` stands for CRLF. `{LEN}` is the length of what follows the head.

use super::super::*;
use bytes::{Bytes, BytesMut};

/// What we make of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Is {
    /// Well formed as far as a proxy looks.
    Good,
    /// Refused by the framer; answered with this status, or not at all (0).
    Unreadable(Fault, u16),
    /// Framed, but a value that routing rests on is bad: 400.
    Invalid(ValueError),
}

pub(super) fn crlf(text: &str) -> Vec<u8> {
    let body = text.split_once("\n\n").map_or("", |(_, body)| body);
    let length = body.replace('\n', "\r\n").len().to_string();
    text.replace('\n', "\r\n").replace("{LEN}", &length).into_bytes()
}

/// The usual headers but for the ones that a case is about.
fn rest(method: &str, without: &[&str]) -> String {
    [
        "Via: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKkdjuw",
        "From: <sip:caller@example.net>;tag=9831",
        "To: <sip:user@example.com>",
        "Call-ID: torture.ASDF@192.0.2.2",
        "Max-Forwards: 70",
        &format!("CSeq: 8 {method}"),
        "Content-Length: {LEN}",
    ]
    .iter()
    .filter(|line| !without.iter().any(|name| line.starts_with(&format!("{name}:"))))
    .map(|line| format!("{line}\n"))
    .collect()
}

fn verdict(bytes: &[u8]) -> (Is, Option<Message>) {
    match Message::parse_datagram(Bytes::copy_from_slice(bytes), &Limits::default()) {
        Ok(message) => match message.validate() {
            Ok(()) => (Is::Good, Some(message)),
            Err(error) => (Is::Invalid(error), Some(message)),
        },
        Err(error) => {
            let status = error.answerable().map_or(0, |_| error.fault.status().0);
            (Is::Unreadable(error.fault, status), error.answerable().cloned())
        }
    }
}

const WSINV: &str = "INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0
TO :
 sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n
from   : \"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>
  ;
  tag = 98asjd8
MaX-fOrWaRdS: 0068
Call-ID: wsinv.ndaksdj@192.0.2.1
Content-Length   : {LEN}
cseq: 0009
  INVITE
Via  : SIP  /   2.0
 /UDP
    192.0.2.2;branch=390skdjuw
s :
NewFangledHeader:   newfangled value
 continued newfangled value
UnknownHeaderWithUnusualValue: ;;,,;;,;
Content-Type: application/sdp
Route:
 <sip:services.example.com;lr;unknownwith=value;unknown-no-value>
v:  SIP  / 2.0  / TCP     spindle.example.com   ;
  branch  =   z9hG4bK9ikj8  ,
 SIP  /    2.0   / UDP  192.168.255.111   ; branch=
 z9hG4bK30239
m:\"Quoted string \\\"\\\"\" <sip:jdrosen@example.com> ; newparam =
      newvalue ;
  secondparam ; q = 0.33

v=0
o=mhandley 29739 7272939 IN IP4 192.0.2.3
";

const INTMETH: &str = "!interesting-Method0123456789_*+`.%indeed'~ \
sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)\
@example.com SIP/2.0
Via: SIP/2.0/TCP host1.example.com;branch=z9hG4bK-.!%66*_+`'~
To: \"BEL:\\\u{7} NUL:\\\u{0} DEL:\\\u{7f}\" \
<sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com>
From: token1~` token2'+_ token3*%!.- <sip:mundane@example.com>\
;fromParam''~+*_!.-%=\"\u{440}\u{430}\u{431}\u{43e}\u{442}\u{430}\";tag=_token~1'+`*%!-.
Call-ID: intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{
CSeq: 139122385 !interesting-Method0123456789_*+`.%indeed'~
Max-Forwards: 255
extensionHeader-!.%*+_`'~:\u{5927}\u{505c}\u{96fb}
Content-Length: 0

";

/// Section 3.1.1: well formed, however it looks.
#[test]
fn valid_messages_are_read_rfc_4475_3_1_1() {
    let (is, wsinv) = verdict(&crlf(WSINV));
    let wsinv = wsinv.unwrap();
    assert_eq!(is, Is::Good);
    assert_eq!(wsinv.to().unwrap().tag(), Some("1918181833n"));
    assert_eq!(wsinv.from().unwrap().tag(), Some("98asjd8"));
    assert_eq!(wsinv.max_forwards().unwrap(), Some(68));
    assert_eq!(wsinv.cseq().unwrap().number, 9);
    let vias: Vec<_> =
        wsinv.list(HeaderName::Via).map(|e| Via::parse(e.value).unwrap().branch.unwrap()).collect();
    assert_eq!(vias, ["390skdjuw", "z9hG4bK9ikj8", "z9hG4bK30239"]);
    assert_eq!(wsinv.header(HeaderName::Subject).unwrap().value, b"");
    assert!(wsinv.all_headers().all(|h| !h.value.contains(&b'\n')), "no line end in a value");

    // Control characters between quotes, each behind a backslash.
    let intmeth = crlf(INTMETH);
    let (is, message) = verdict(&intmeth);
    assert_eq!(is, Is::Good);
    let message = message.unwrap();
    assert!(matches!(message.method(), Some(Method::Other(m)) if m.len() == 43));
    let uri = message.request_uri().unwrap().unwrap();
    assert_eq!(uri.host(), Host::parse("example.com"));
    assert_eq!(uri.password(), Some("&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"));

    let users = [
        // esc01, escnull, semiuri: what is in the user part stays there.
        ("sip:sips%3Auser%40example.com@example.net", "sips%3Auser%40example.com", "example.net"),
        ("sip:null-%00-null@example.com", "null-%00-null", "example.com"),
        ("sip:user;par=u%40example.net@example.com", "user;par=u%40example.net", "example.com"),
    ];
    for (uri, user, host) in users {
        let (is, message) = verdict(&crlf(&format!(
            "INVITE {uri} SIP/2.0\n{}Contact: <{uri}>\n\n",
            rest("INVITE", &[])
        )));
        assert_eq!(is, Is::Good, "{uri}");
        let message = message.unwrap();
        let uri = message.request_uri().unwrap().unwrap();
        assert_eq!((uri.user(), uri.host()), (Some(user), Host::parse(host)));
    }
    // esc02: an escape in a method is no escape.
    let (is, message) = verdict(&crlf(&format!(
        "RE%47IST%45R sip:registrar.example.com SIP/2.0\n{}From: \"%Z%45\" \
         <sip:resource@example.com>;tag=f232jadfj23\n\n",
        rest("RE%47IST%45R", &["From"])
    )));
    assert_eq!(is, Is::Good);
    assert_eq!(message.unwrap().method(), Some(Method::Other("RE%47IST%45R")));
}

#[test]
fn more_valid_messages_are_read_rfc_4475_3_1_1() {
    let long = "very".repeat(60);
    let vias: String = (1..30).map(|i| format!("v: SIP/2.0/TCP host{i}.example.com\n")).collect();
    let multipart = "--7a9cbec02ceef655\n\u{0}\u{1}binary\n\n--7a9cbec02ceef655--\n";
    let cases = [
        // lwsdisp
        format!(
            "OPTIONS sip:user@example.com SIP/2.0\n{}From: caller<sip:caller@example.com>;tag=323\n\n",
            rest("OPTIONS", &["From"])
        ),
        // longreq
        format!(
            "INVITE sip:user@example.com SIP/2.0\nTo: \"I have a user name of {long}\" \
             <sip:user@example.com:6000;unknownparam1={long};longparam{long}=shortvalue>\nF: \
             sip:{long}@example.net;tag=12982982982{long}; unknownheaderparam{long}=value\n\
             Unknown-{long}: {long}; {long}\n{vias}{}",
            rest("INVITE", &["From", "To"]) + "\n"
        ),
        // transports
        format!(
            "OPTIONS sip:user@example.com SIP/2.0\nVia: SIP/2.0/UDP t1.example.com;branch=z9hG4bKk1\n\
             Via: SIP/2.0/SCTP t2.example.com;branch=z9hG4bKk2\nVia: SIP/2.0/TLS \
             t3.example.com;branch=z9hG4bKk3\nVia: SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKk4\n\
             {}\n",
            rest("OPTIONS", &[])
        ),
        // mpart01
        format!(
            "MESSAGE sip:kumiko@example.org SIP/2.0\n{}Content-Type: multipart/mixed; \
             boundary=7a9cbec02ceef655\n\n{multipart}",
            rest("MESSAGE", &[])
        ),
        // unreason, noreason
        format!(
            "SIP/2.0 200 = 2**3 * 5**2 \u{43d}\u{43e} \u{441}\u{442}\u{43e}\n{}\n",
            rest("INVITE", &["Max-Forwards"])
        ),
        format!("SIP/2.0 100 \n{}\n", rest("INVITE", &["Max-Forwards"])),
    ];
    for text in cases {
        let (is, message) = verdict(&crlf(&text));
        assert_eq!(is, Is::Good, "{text}");
        assert_eq!(&message.unwrap().bytes()[..], crlf(&text), "not a byte is changed");
    }
    // dblreq: a datagram is one message, a stream is two.
    let first = format!("REGISTER sip:example.com SIP/2.0\n{}\n", rest("REGISTER", &[]));
    let second = format!("INVITE sip:joe@example.com SIP/2.0\n{}\n", rest("INVITE", &[]));
    let both = [crlf(&first), crlf(&second)].concat();
    let (is, message) = verdict(&both);
    assert_eq!((is, message.unwrap().bytes().to_vec()), (Is::Good, crlf(&first)));
    let mut buffer = BytesMut::from(&both[..]);
    let mut framer = Framer::new(Limits::default());
    for expected in [Method::Register, Method::Invite] {
        let Ok(Some(Frame::Message(message))) = framer.next(&mut buffer) else { panic!() };
        assert_eq!(message.method(), Some(expected));
    }
}

/// Section 3.1.2 and what else is refused: the fault, and whether 400 (or 505) can be said.
#[test]
fn invalid_messages_are_refused_rfc_4475_3_1_2() {
    use Is::{Good, Invalid, Unreadable};
    let invite = "INVITE sip:user@example.com SIP/2.0\n";
    let options = "OPTIONS sip:user@example.com SIP/2.0\n";
    let with = |line: &str, method: &str, header: &str| {
        let name = header.split(':').next().unwrap_or_default();
        format!("{line}{}{header}\n\n", rest(method, &[name]))
    };
    let line = |line: &str, method: &str| format!("{line}\n{}\n", rest(method, &[]));
    let start = Unreadable(Fault::StartLine, 400);
    let cases: &[(&str, String, Is)] = &[
        (
            "badinv01",
            with(invite, "INVITE", "Via: SIP/2.0/UDP 192.0.2.15;;,;,,"),
            Invalid(ValueError::Via),
        ),
        (
            "clerr",
            with(invite, "INVITE", "Content-Length: 9999"),
            Unreadable(Fault::Truncated, 400),
        ),
        (
            "ncl",
            with(invite, "INVITE", "Content-Length: -999"),
            Unreadable(Fault::ContentLength, 400),
        ),
        (
            "scalar02",
            with(invite, "INVITE", "CSeq: 36893488147419103232 INVITE"),
            Invalid(ValueError::CSeq),
        ),
        ("scalar02", with(invite, "INVITE", "Max-Forwards: 300"), Invalid(ValueError::MaxForwards)),
        // Zeros in front make no number larger.
        ("wsinv", with(invite, "INVITE", "CSeq: 000000000000000000000008 INVITE"), Good),
        ("wsinv", with(invite, "INVITE", "Max-Forwards: 000000000000000000000255"), Good),
        ("wsinv", with(invite, "INVITE", "Content-Length: 000000000000000000000000"), Good),
        (
            "scalarlg",
            with("SIP/2.0 503 Service Unavailable\n", "X", "CSeq: 9292394834772304023312 OPTIONS"),
            Invalid(ValueError::CSeq),
        ),
        (
            "quotbal",
            with(invite, "INVITE", "To: \"Mr. J. User <sip:j.user@example.com>"),
            Invalid(ValueError::NameAddr),
        ),
        (
            "ltgtruri",
            line("INVITE <sip:user@example.com> SIP/2.0", "INVITE"),
            Invalid(ValueError::Uri(UriError::Character)),
        ),
        ("lwsruri", line("INVITE sip:user@example.com; lr SIP/2.0", "INVITE"), start),
        ("lwsstart", line("INVITE  sip:user@example.com  SIP/2.0", "INVITE"), start),
        ("trws", line("OPTIONS sip:remote-target@example.com SIP/2.0  ", "OPTIONS"), start),
        (
            "escruri",
            line("INVITE sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0", "INVITE"),
            Invalid(ValueError::Uri(UriError::Headers)),
        ),
        // Not for a proxy to judge.
        ("baddate", with(invite, "INVITE", "Date: Fri, 01 Jan 2010 16:00:00 EST"), Good),
        (
            "regbadct",
            with(options, "OPTIONS", "Contact: sip:user@example.com?Route=%3Csip:x.example.com%3E"),
            Good,
        ),
        (
            "badaspec",
            with(options, "OPTIONS", "To: \"Watson, Thomas\" < sip:t.watson@example.org >"),
            Invalid(ValueError::Uri(UriError::Character)),
        ),
        (
            "baddn",
            with(options, "OPTIONS", "From: Bell, Alexander <sip:a.g.bell@example.com>;tag=43"),
            Invalid(ValueError::NameAddr),
        ),
        (
            "badvers",
            line("OPTIONS sip:t.watson@example.org SIP/7.0", "OPTIONS"),
            Unreadable(Fault::Version, 505),
        ),
        ("mismatch01", with(options, "X", "CSeq: 8 INVITE"), Invalid(ValueError::CSeq)),
        (
            "mismatch02",
            with("NEWMETHOD sip:user@example.com SIP/2.0\n", "X", "CSeq: 8 INVITE"),
            Invalid(ValueError::CSeq),
        ),
        (
            "bigcode",
            line("SIP/2.0 4294967301 better not break the receiver", "INVITE"),
            Unreadable(Fault::StartLine, 0),
        ),
    ];
    for (name, text, expected) in cases {
        assert_eq!(verdict(&crlf(text)).0, *expected, "{name}");
    }
}

/// Sections 3.2 to 3.4: transaction and application layer, backward compatibility.
#[test]
fn odd_messages_get_the_verdict_of_rfc_4475_3_2_to_3_4() {
    use Is::{Good, Unreadable};
    let invite = "INVITE sip:user@example.com SIP/2.0\n";
    let with = |line: &str, method: &str, header: &str| {
        let name = header.split(':').next().unwrap_or_default();
        format!("{line}{}{header}\n\n", rest(method, &[name]))
    };
    let twice = |header: &str| format!("{invite}{}{header}\n\n", rest("INVITE", &[]));
    let duplicate = |name| Unreadable(Fault::Duplicate(name), 400);
    let register = "REGISTER sip:example.com SIP/2.0\n";
    let cases: &[(&str, String, Is)] = &[
        ("badbranch", with(invite, "INVITE", "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK"), Good),
        (
            "insuf",
            format!("{invite}{}\n", rest("INVITE", &["From", "To", "Call-ID"])),
            Unreadable(Fault::Missing(HeaderName::From), 400),
        ),
        (
            "unkscm",
            format!(
                "OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0\n{}\n",
                rest("OPTIONS", &[])
            ),
            Good,
        ),
        (
            "novelsc",
            format!("OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0\n{}\n", rest("OPTIONS", &[])),
            Good,
        ),
        ("unksm2", with(register, "REGISTER", "To: <isbn:2983792873>"), Good),
        ("unksm2", with(register, "REGISTER", "From: <http://www.example.com>;tag=3"), Good),
        (
            "bext01",
            with(invite, "INVITE", "Require: nothingSupportsThis, nothingSupportsThisEither"),
            Good,
        ),
        ("invut", with(invite, "INVITE", "Content-Type: application/unknownformat"), Good),
        (
            "regaut01",
            with(register, "REGISTER", "Authorization: NoOneKnowsThisScheme opaque-data=here"),
            Good,
        ),
        ("multi01", twice("CSeq: 59 INVITE"), duplicate(HeaderName::CSeq)),
        ("multi01", twice("Call-ID: multi01.dskdlk@192.0.2.1"), duplicate(HeaderName::CallId)),
        ("multi01", twice("Max-Forwards: 5"), duplicate(HeaderName::MaxForwards)),
        ("multi01", twice("f: sip:second@example.com;tag=2"), duplicate(HeaderName::From)),
        ("multi01", twice("TO: sip:second@example.com"), duplicate(HeaderName::To)),
        ("mcl01", twice("l: 5"), duplicate(HeaderName::ContentLength)),
        (
            "bcast",
            format!(
                "SIP/2.0 200 OK\nVia: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1\nVia: SIP/2.0/UDP \
                255.255.255.255;branch=z9hG4bK2;received=192.0.2.200\n{}\n",
                rest("INVITE", &["Via"])
            ),
            Good,
        ),
        ("zeromf", with("OPTIONS sip:u@example.com SIP/2.0\n", "OPTIONS", "Max-Forwards: 0"), Good),
        (
            "cparam01",
            with(register, "REGISTER", "Contact: sip:+19725552222@gw1.example.net;unknownparam"),
            Good,
        ),
        (
            "cparam02",
            with(register, "REGISTER", "Contact: <sip:+19725552222@gw1.example.net;unknownparam>"),
            Good,
        ),
        (
            "regescrt",
            with(
                register,
                "REGISTER",
                "Contact: <sip:user@example.com?Route=%3Csip:s.example.com%3E>",
            ),
            Good,
        ),
        ("sdp01", with(invite, "INVITE", "Accept: text/nobodyKnowsThis"), Good),
        (
            "inv2543",
            format!(
                "INVITE sip:UserB@example.com SIP/2.0\nVia: SIP/2.0/UDP iftgw.example.com\nFrom: \
                <sip:+13035551111@ift.client.example.net;user=phone>\nRecord-Route: \
                <sip:UserB@example.com;maddr=ss1.example.com>\n{}\n",
                rest("INVITE", &["Via", "From", "Max-Forwards"])
            ),
            Good,
        ),
    ];
    for (name, text, expected) in cases {
        assert_eq!(verdict(&crlf(text)).0, *expected, "{name}");
    }
    let (_, badbranch) = verdict(&crlf(&cases[0].1));
    assert_eq!(badbranch.unwrap().via().unwrap().unique_branch(), None);
    let (_, unkscm) = verdict(&crlf(&cases[2].1));
    assert_eq!(unkscm.unwrap().request_uri().unwrap().unwrap().scheme(), Scheme::Other);
}

/// Texts for the mutation test.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![crlf(WSINV), crlf(INTMETH), super::INVITE.as_bytes().to_vec()];
    for method in ["INVITE", "SERVICE", "ACK"] {
        seeds.push(crlf(&format!(
            "{method} sip:bob@[2001:db8::1]:5061;transport=tls SIP/2.0\n{}Contact: <sip:a@b.example;\
             opaque=user:epid:x;gruu>, *\nRecord-Route: <sip:x.example;lr>,<sip:y.example;lr>\n\nbody\n",
            rest(method, &[])
        )));
    }
    seeds.push(crlf(&format!("SIP/2.0 486 Busy Here\n{}\n", rest("INVITE", &[]))));
    seeds
}
