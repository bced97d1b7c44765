//! The quick reader of plain values against the readers of everything: what it takes, they take,
//! and read the same.

use std::ops::Range;

use proptest::prelude::*;

use super::super::{CSeq, NameAddr, Uri, Via, plain};

const VALUES: &[&str] = &[
    "sip:bob@contoso.example",
    "sips:alice:pw@192.0.2.7:5061;transport=tls;lr?x=y",
    "\"A B\" <sip:alice@fabrikam.example>;tag=9fx",
    "Alice <sips:contoso.example:5061;lr>",
    "<sip:a_b@10.0.0.1:5060;transport=tls;lr>",
    "SIP/2.0/TLS sip.fabrikam.example:5061;branch=z9hG4bK74bf9;rport",
    "SIP/2.0/UDP 192.0.2.1;rport=5;received=192.0.2.9;branch=z9hG4bKq;x=y",
    "1 INVITE",
];

const PIECES: &[&str] = &[
    "sip:",
    "@",
    ":",
    ";",
    "?",
    "=",
    "<",
    ">",
    "\"",
    "\\",
    ",",
    " ",
    "\t",
    "x",
    "-",
    ".",
    "_",
    "%41",
    "contoso.example",
    "a-.b",
    "x.",
    "..",
    "1.2.3.4",
    "256.1.1.1",
    "01.2.3.4",
    "1.2.3",
    "[::1]",
    "0",
    "65535",
    "65536",
    "00506",
    ";lr",
    ";tag=1",
    ";TAG=2",
    ";branch=z",
    ";rport",
    ";received=1.2.3.4",
    ";a;b;c;d",
    "SIP/2.0/",
    "2147483648 ",
    "\u{e9}",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];

/// A value of these with up to four changes.
fn value() -> impl Strategy<Value = String> {
    let change = (any::<prop::sample::Index>(), 0..5_usize, prop::sample::select(PIECES));
    let changes = prop::collection::vec(change, 0..5);
    (prop::sample::select(VALUES), changes).prop_map(|(value, changes)| {
        let mut value: Vec<char> = value.chars().collect();
        for (at, taken, piece) in changes {
            let at = at.index(value.len() + 1);
            let end = value.len().min(at + taken);
            value.splice(at..end, piece.chars());
        }
        value.into_iter().collect()
    })
}

/// The value in a message, between others.
fn in_message(value: &str) -> (Vec<u8>, Range<usize>) {
    let text = format!("From: {value}\r\nTo: <sip:b@c.example>\r\n\r\nand a body");
    (text.into_bytes(), 6..6 + value.len())
}

fn told<T: std::fmt::Debug, E>(value: Result<T, E>) -> String {
    value.map_or_else(|_| "a fault".to_owned(), |value| format!("{value:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn what_is_read_quickly_is_read_the_same(value in value()) {
        // Values come without white space around them.
        let value = value.trim_matches([' ', '\t']);
        let (bytes, range) = in_message(value);
        if let Some(at) = plain::name_addr(&bytes, range.clone()) {
            let quick = told(at.read(&bytes).ok_or(()));
            prop_assert_eq!(quick, told(NameAddr::parse_bracketed(value.as_bytes())));
        }
        if let Some(at) = plain::via(&bytes, range.clone()) {
            prop_assert_eq!(told(at.read(&bytes).ok_or(())), told(Via::parse(value.as_bytes())));
        }
        if let Some(at) = plain::cseq(&bytes, range.clone()) {
            prop_assert_eq!(told(at.read(&bytes).ok_or(())), told(CSeq::parse(value.as_bytes())));
        }
        if let Some(at) = plain::whole_uri(&bytes, range) {
            prop_assert_eq!(told(at.read(&bytes).ok_or(())), told(Uri::parse(value)));
        }
    }
}

#[test]
fn what_everybody_writes_is_read_quickly() {
    for (place, value) in VALUES.iter().enumerate() {
        let (bytes, range) = in_message(value);
        let quick = [
            plain::whole_uri(&bytes, range.clone()).is_some(),
            plain::name_addr(&bytes, range.clone()).is_some(),
            plain::via(&bytes, range.clone()).is_some(),
            plain::cseq(&bytes, range).is_some(),
        ];
        // The second has a password.
        let wanted = [place == 0, (2..5).contains(&place), (5..7).contains(&place), place == 7];
        assert_eq!(quick, wanted, "{value}");
    }
}
