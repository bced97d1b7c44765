//! Where session descriptions are found, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::{media::invariants::body as check, sip::Limits};

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\n";

fn found(kind: &str, body: &str) -> Result<Vec<String>, BodyFault> {
    let found = of(kind.as_bytes(), false, body.as_bytes())?;
    Ok(found.sdp.into_iter().map(|range| body[range].to_owned()).collect())
}

fn multipart(parts: &[(&str, &str)]) -> String {
    let parts = parts.iter().map(|(head, body)| format!("--b1\r\n{head}\r\n\r\n{body}\r\n"));
    format!("{}--b1--\r\n", parts.collect::<String>())
}

const MIXED: &str = "multipart/mixed;boundary=b1";
const TYPE: &str = "Content-Type: application/sdp";

#[test]
fn every_description_is_found() {
    let lync = "--1Ar3Yl\r\nContent-Type: application/sdp\r\nContent-Transfer-Encoding: 7bit\r\n\
        Content-Disposition: session; handling=optional; ms-proxy-2007fallback\r\n\r\n\
        old\r\n--1Ar3Yl\r\nContent-Type: application/sdp\r\nContent-Transfer-Encoding: 7bit\r\n\
        Content-Disposition: session; handling=optional\r\n\r\nnew\r\n--1Ar3Yl--\r\n";
    let nested = multipart(&[
        ("Content-Type: text/plain", "x"),
        (
            "Content-Type: Multipart/Alternative ; boundary=\"b2;x\"",
            "--b2;x\r\nc: application/sdp\r\n\r\none\r\n--b2;x--",
        ),
        ("Content-Type: application/SDP; charset=utf-8", "two"),
    ]);
    let nested = nested.replace("b2;x", "b2");
    let rows: &[(&str, &str, &[&str])] = &[
        ("application/sdp", SDP, &[SDP]),
        ("APPLICATION/Sdp ; x=1", SDP, &[SDP]),
        ("text/plain", SDP, &[]),
        ("application/sdpng", SDP, &[]),
        ("multipart/alternative;boundary=\"1Ar3Yl\"", lync, &["old", "new"]),
        ("multipart/related; a=b; Boundary = b1 ;c", &multipart(&[(TYPE, "x")]), &["x"]),
        (MIXED, &format!("before\r\n{}after", multipart(&[(TYPE, "x")])), &["x"]),
        (MIXED, &multipart(&[("X: y", "x")]), &[]),
        (MIXED, &multipart(&[("X: y\r\n folded", "x"), (TYPE, "\r\ny\r\n")]), &["\r\ny\r\n"]),
        (MIXED, &multipart(&[(TYPE, "x")]).replace('\r', ""), &["x"]),
        (MIXED, "--b1\r\n\r\nx\r\n--b1--", &[]),
        (MIXED, &nested, &["one", "two"]),
        (MIXED, &multipart(&[(&format!("{TYPE}\r\nContent-Encoding: identity"), "x")]), &["x"]),
    ];
    for (kind, body, expected) in rows {
        let kind = kind.replace("b2;x", "b2");
        assert_eq!(found(&kind, body).unwrap(), *expected, "{kind} {body}");
    }
}

#[test]
fn what_cannot_be_read_for_sure_is_refused() {
    use BodyFault::*;
    let sdp = multipart(&[(TYPE, SDP)]);
    let deep = "--b1\r\nContent-Type: multipart/mixed;boundary=b2\r\n\r\n--b2\r\n\
        Content-Type: multipart/mixed;boundary=b3\r\n\r\n--b3\r\n\r\nx\r\n--b3--\r\n--b2--\r\n--b1--";
    let with = |line: &str| multipart(&[(&format!("{TYPE}\r\n{line}"), SDP)]);
    let rows: &[(&str, String, BodyFault)] = &[
        ("sdp", SDP.into(), Type),
        ("application/sdp charset=utf-8", SDP.into(), Type),
        ("text/plain, application/sdp", SDP.into(), Type),
        ("application/sdp,", SDP.into(), Type),
        ("application/sdp(x)", SDP.into(), Type),
        ("application/", SDP.into(), Type),
        ("/sdp", SDP.into(), Type),
        ("application sdp/sdp", SDP.into(), Type),
        (MIXED, multipart(&[("c: application/sdp x", SDP)]), Type),
        ("multipart/mixed", sdp.clone(), Boundary),
        ("multipart/mixed;boundary=", sdp.clone(), Boundary),
        ("multipart/mixed;boundary=\"b1 \"", sdp.clone(), Boundary),
        ("multipart/mixed;boundary=b{1", sdp.clone(), Boundary),
        ("multipart/mixed;boundary=b1;boundary=b2", sdp.clone(), Boundary),
        ("multipart/mixed;boundary=\"b1", sdp.clone(), Type),
        (MIXED, SDP.into(), Unfinished),
        (MIXED, sdp.replace("--b1--", ""), Unfinished),
        (MIXED, sdp.replace("--b1--", "--b1--x"), DoubtfulBoundary),
        (MIXED, sdp.replace("--b1\r\n", "--b1x\r\n"), DoubtfulBoundary),
        (MIXED, format!("{sdp}{sdp}"), DoubtfulBoundary),
        (MIXED, deep.into(), TooDeep),
        (MIXED, multipart(&[(TYPE, "x"); 5]), TooManyDescriptions),
        (MIXED, multipart(&[("X: y", "x"); 33]), TooManyParts),
        (MIXED, with("Content-Transfer-Encoding: base64"), Hidden),
        (MIXED, with("Content-Encoding: gzip"), Hidden),
        (MIXED, with("e: deflate"), Hidden),
        (MIXED, multipart(&[("Content-Type: application/pkcs7-mime", "x")]), Hidden),
        ("multipart/encrypted;boundary=b1", sdp.clone(), Hidden),
        (
            MIXED,
            multipart(&[("c: multipart/mixed;boundary=b2\r\nContent-Encoding: gzip", "x")]),
            Hidden,
        ),
        (MIXED, with("Content-Type: text/plain"), PartHeader),
        (MIXED, with("no colon"), PartHeader),
        (MIXED, format!("--b1\r\n{TYPE}\r\n--b1--"), PartHeader),
        (MIXED, format!("--b1\r\n{SDP}--b1--"), PartHeader),
        (MIXED, with("Content-Transfer-Encoding:\r\n base64"), PartHeader),
        (MIXED, with("X: a\0b"), PartHeader),
        (MIXED, with("Content-Length: 1"), Length),
        (MIXED, with("Content-Length: 0035"), Length),
        (MIXED, with("Content-Length: 35\r\nl: 35"), PartHeader),
    ];
    for (kind, body, fault) in rows {
        assert_eq!(found(kind, body), Err(*fault), "{kind} {body}");
    }
    assert_eq!(of(b"application/sdp", true, SDP.as_bytes()), Err(Hidden));
    assert_eq!(of(b"text/plain", true, b"x").map(|found| found.sdp), Ok(vec![]));
}

#[test]
fn a_message_says_what_its_body_is() {
    use BodyFault::*;
    let rows: &[(&str, &str, Result<usize, BodyFault>)] = &[
        ("Content-Type: application/sdp\r\n", SDP, Ok(1)),
        ("c: application/sdp\r\n", SDP, Ok(1)),
        ("", "", Ok(0)),
        ("Content-Type: application/sdp\r\n", "", Ok(0)),
        ("", SDP, Err(NoType)),
        ("c: application/sdp\r\nContent-Encoding: gzip\r\n", SDP, Err(Hidden)),
        ("c: application/sdp\r\nContent-Encoding: identity\r\n", SDP, Ok(1)),
        ("c: application/sdp\r\nContent-Transfer-Encoding: base64\r\n", SDP, Err(Hidden)),
        ("c: text/plain\r\nContent-Encoding: gzip\r\n", SDP, Ok(0)),
    ];
    for (head, body, expected) in rows {
        let text = format!(
            "INVITE sip:a@b.example SIP/2.0\r\nVia: SIP/2.0/TLS h.example;branch=z9hG4bK1\r\n\
             From: <sip:a@b.example>;tag=1\r\nTo: <sip:a@b.example>\r\nCall-ID: 1\r\n\
             CSeq: 1 INVITE\r\n{head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let message = Message::parse_datagram(text.into(), &Limits::default()).unwrap();
        let found = descriptions(&message).map(|found| found.sdp.len());
        assert_eq!(found, *expected, "{head}{body}");
    }
}

#[test]
fn files_and_candidates_are_seen_in_any_depth() {
    let rows = [
        ("application/ms-filetransfer+xml", true, false),
        ("Text/x-MSMSGSInvite; charset=utf-8", true, false),
        ("application / trickle-ice-sdpfrag", false, true),
        ("application/SDPfrag", false, true),
        ("application/sdp", false, false),
        ("text/plain", false, false),
    ];
    for (kind, file, fragment) in rows {
        let part = multipart(&[(&format!("Content-Type: {kind}"), "x")]);
        let deep = multipart(&[(
            "c: multipart/alternative;boundary=b2",
            part.replace("b1", "b2").trim_end(),
        )]);
        for (kind, body) in [(MIXED, &*part), (MIXED, &*deep), (kind, "x")] {
            let found = of(kind.as_bytes(), false, body.as_bytes()).unwrap();
            assert_eq!((found.file_transfer, found.fragment), (file, fragment), "{kind} {body}");
        }
    }
}

#[test]
fn new_descriptions_take_the_old_ones_places() {
    let body = multipart(&[("Content-Type: text/plain", "x"), (TYPE, "old"), (TYPE, "older")]);
    let found = of(MIXED.as_bytes(), false, body.as_bytes()).unwrap();
    let new = [Bytes::from_static(b"a new one"), Bytes::new()];
    let expected = multipart(&[("Content-Type: text/plain", "x"), (TYPE, "a new one"), (TYPE, "")]);
    assert_eq!(found.replace(body.as_bytes(), &new).unwrap(), expected.as_bytes());
    assert_eq!(found.replace(body.as_bytes(), &new[..1]), Err(BodyFault::Count));
    let alone = of(b"application/sdp", false, b"old").unwrap();
    assert_eq!(alone.replace(b"old", &[Bytes::from_static(b"new!")]).unwrap(), &b"new!"[..]);
}

#[test]
fn stated_lengths_follow_in_every_depth() {
    let nested = |sdp: &str| {
        let part =
            format!("--b2\r\n{TYPE}\r\nContent-Length: {}\r\n\r\n{sdp}\r\n--b2--", sdp.len());
        let head = format!("c: multipart/mixed;boundary=b2\r\nl: {}", part.len());
        multipart(&[(&head, &part)])
    };
    let (old, new) = (nested("12345678"), nested(&"x".repeat(1234)));
    let found = of(MIXED.as_bytes(), false, old.as_bytes()).unwrap();
    let changed = found.replace(old.as_bytes(), &[Bytes::from("x".repeat(1234))]).unwrap();
    assert_eq!(String::from_utf8_lossy(&changed), new);
    of(MIXED.as_bytes(), false, &changed).unwrap();
}

#[test]
fn truncation_at_every_byte_never_panics() {
    let inner = "--b2\r\nc: application/sdp\r\nl: 3\r\n\r\none\r\n--b2--";
    let body = multipart(&[(TYPE, SDP), ("c: multipart/mixed;boundary=b2", inner)]);
    for end in 0..=body.len() {
        check(&body.as_bytes()[..end]);
    }
    assert!(found(MIXED, &body).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_in_any_order(picks in proptest::collection::vec(0..PIECES.len(), 0..16)) {
        check(picks.iter().map(|pick| PIECES[*pick]).collect::<String>().as_bytes());
    }
}

const PIECES: &[&str] = &[
    "--b1\r\n",
    "--b1\r\n",
    "--b1--",
    "--b2\r\n",
    "--b2--\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "c: application/sdp\r\n",
    "c: multipart/mixed;boundary=b2\r\n",
    "l: 3\r\n",
    "abc",
    "v=0\r\n",
    "e: gzip\r\n",
];
