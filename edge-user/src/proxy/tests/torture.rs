//! How the tables of RFC 4475 and RFC 5118 are played: a message is written once, and comes from
//! outside and from inside, as it is and in many other spellings that mean the same.

use bytes::Bytes;

use super::*;
use crate::{
    config::Transport,
    sip::{HeaderName, Limits, Message},
};

/// What must become of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Is {
    /// It goes on, changed by nothing but what a proxy must change.
    Forwarded,
    /// It ends here with this status.
    Answered(u16),
    /// Nothing is said.
    Silent,
}

/// A row of a table.
pub(crate) struct Row {
    /// The document's name for the message, and what is special in this form of it.
    pub name: &'static str,
    pub start: &'static str,
    /// `Name: value` takes the place of the usual header of that name (or is added), `+Name:
    /// value` is added, `-Name` takes the usual one away.
    pub headers: Vec<String>,
    pub body: &'static str,
    pub is: Is,
}

pub(crate) fn row(
    name: &'static str,
    start: &'static str,
    headers: &[&str],
    body: &'static str,
    is: Is,
) -> Row {
    Row { name, start, headers: headers.iter().map(|line| (*line).to_owned()).collect(), body, is }
}

/// Header lines, folds included: name and what follows the colon.
type Lines = Vec<(String, String)>;

fn compact(name: &str) -> Option<char> {
    let name = HeaderName::from_token(name.trim().as_bytes());
    name.compact().map(char::from)
}

fn same_name(a: &str, b: &str) -> bool {
    let known = HeaderName::from_token(a.trim().as_bytes());
    match known {
        HeaderName::Other => a.trim().eq_ignore_ascii_case(b.trim()),
        known => known == HeaderName::from_token(b.trim().as_bytes()),
    }
}

fn split(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_owned(), value.to_owned())
}

impl Row {
    fn lines(&self) -> Lines {
        let method = self.start.split(' ').next().unwrap_or_default();
        let mut lines: Lines = [
            "Via: SIP/2.0/UDP host.{from};branch=z9hG4bKkdjuw",
            "Max-Forwards: 70",
            "From: <sip:caller@{from}>;tag=9831",
            "To: <sip:user@{to}>",
            "Call-ID: torture.ASDF@192.0.2.2",
            &format!("CSeq: 8 {method}"),
            "Content-Length: {len}",
        ]
        .iter()
        .map(|line| split(line))
        .collect();
        for line in &self.headers {
            let (how, line) = match line.as_bytes().first() {
                Some(b'+' | b'-') => line.split_at(1),
                _ => ("", line.as_str()),
            };
            let (name, value) = split(line);
            let usual = lines.iter().position(|(other, _)| same_name(other, &name));
            match (how, usual) {
                ("-", Some(at)) => drop(lines.remove(at)),
                ("", Some(at)) => lines[at] = (name, value),
                _ => lines.push((name, value)),
            }
        }
        lines
    }

    fn text(&self, lines: &Lines, from: &str, to: &str) -> Vec<u8> {
        let body = self.body.replace('\n', "\r\n");
        let mut text = format!("{}\n", self.start);
        for (name, value) in lines {
            text.push_str(&format!("{name}:{value}\n"));
        }
        let head =
            format!("{text}\n").replace('\n', "\r\n").replace("{len}", &body.len().to_string());
        [head.replace("{from}", from).replace("{to}", to).into_bytes(), body.into_bytes()].concat()
    }

    /// The message as it is written, and in other spellings.
    fn spellings(&self) -> Vec<Lines> {
        let plain = self.lines();
        let mut all = Vec::new();
        for turned in [false, true] {
            for name in 0..4 {
                for fold in 0..4 {
                    let spell = |(own, value): &(String, String)| {
                        let own = match name {
                            0 => own.clone(),
                            1 => own.to_ascii_uppercase(),
                            2 => own.to_ascii_lowercase(),
                            _ => compact(own).map_or(own.clone(), String::from),
                        };
                        let empty = value.trim().is_empty();
                        match fold {
                            0 => (own, value.clone()),
                            1 => (format!("{own} \t"), format!("\t {value} \t")),
                            2 if !empty => (own, format!(" \n\t  {}", value.trim_start())),
                            3 if !empty => {
                                (format!("{own}\t"), format!("\n {}", value.trim_start()))
                            }
                            _ => (own, String::new()),
                        }
                    };
                    let mut lines: Lines = plain.iter().map(spell).collect();
                    if turned {
                        turn(&mut lines);
                    }
                    all.push(lines);
                }
            }
        }
        all
    }
}

/// The lines the other way round; those of one name keep their order.
fn turn(lines: &mut Lines) {
    let old = std::mem::take(lines);
    for (name, _) in old.iter().rev() {
        if !lines.iter().any(|(other, _)| same_name(other, name)) {
            lines.extend(old.iter().filter(|(other, _)| same_name(other, name)).cloned());
        }
    }
}

/// Contoso alone, and somebody who sends to it.
fn world(outside: bool) -> (World, ConnectionId, [&'static str; 2]) {
    let mut world = World::new();
    if outside {
        let partner = world.partner(CONTOSO, "203.0.113.20:5000", &["fabrikam.example"]);
        return (world, partner, ["fabrikam.example", "contoso.example"]);
    }
    let far = Listener::Script(names(&["sip.fabrikam.example"]));
    world.listeners.insert(address("203.0.113.20:5061"), far);
    let alice = world.inside(CONTOSO, Transport::Udp, "10.0.0.5:5060");
    (world, alice, ["contoso.example", "fabrikam.example"])
}

/// Plays a table.
pub(crate) fn play(rows: &[Row]) {
    for row in rows {
        for outside in [true, false] {
            for lines in row.spellings() {
                let (mut world, sender, [from, to]) = world(outside);
                let text = row.text(&lines, from, to);
                let shown = String::from_utf8_lossy(&text).into_owned();
                world.say_bytes(CONTOSO, sender, &text);
                let mail = std::mem::take(&mut world.edges[CONTOSO].mail);
                let (back, on): (Vec<_>, Vec<_>) = mail.into_iter().partition(|m| m.0 == sender);
                let status: Vec<u16> = back
                    .iter()
                    .filter_map(|(_, bytes)| std::str::from_utf8(&bytes[8..11]).ok()?.parse().ok())
                    .filter(|status| *status != 100)
                    .collect();
                let got = match (&on[..], &status[..]) {
                    ([(_, bytes)], []) => {
                        only_what_must_be_changed(&text, bytes, row.name);
                        Is::Forwarded
                    }
                    ([], [status]) => Is::Answered(*status),
                    ([], []) => Is::Silent,
                    other => panic!("{}: {other:?}", row.name),
                };
                // What partners may not say at all is still read as far as all else.
                let is = match row.is {
                    Is::Forwarded if outside && row.start.starts_with("REGISTER ") => {
                        Is::Answered(403)
                    }
                    is => is,
                };
                assert_eq!(got, is, "{} outside {outside}:\n{shown}\n{back:?}", row.name);
                if got != Is::Forwarded {
                    assert_eq!(world.live(), 0, "{}", row.name);
                }
            }
        }
    }
}

/// The lines of a head with folds made spaces, and the body.
fn parts(bytes: &[u8]) -> (Vec<String>, Vec<u8>) {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let head = head.replace("\r\n ", "   ").replace("\r\n\t", "  \t");
    (head.split("\r\n").map(str::to_owned).collect(), bytes[end + 4..].to_vec())
}

/// Our Via and Record-Route on top, what was noted in theirs, one less in Max-Forwards, Max-Breadth
/// and what was missing at the end: nothing else.
fn only_what_must_be_changed(came: &[u8], went: &[u8], name: &str) {
    let came = Message::parse_datagram(Bytes::copy_from_slice(came), &Limits::default()).unwrap();
    let ((before, body), (after, body_after)) = (parts(came.bytes()), parts(went));
    assert_eq!(body, body_after, "{name}");
    assert_eq!(before[0], after[0], "{name}: the start line");
    let is_ours = |line: &&String| {
        line.starts_with("Via: SIP/2.0/") || line.starts_with("Record-Route: <sip:")
    };
    let ours = after[1..].iter().take(3).take_while(is_ours).count();
    let expected_ours = after[0].starts_with("INVITE ");
    assert!(after[1].starts_with("Via: SIP/2.0/"), "{name}: {after:#?}");
    let ours = if expected_ours { ours } else { 1 };
    let mut theirs = after[1 + ours..].iter();
    let mut topmost = true;
    for line in &before[1..] {
        let got = theirs.next().unwrap_or_else(|| panic!("{name}: {line} is gone"));
        let (own, _) = line.split_once(':').unwrap();
        match HeaderName::from_token(own.trim_end().as_bytes()) {
            HeaderName::Via if topmost => {
                topmost = false;
                let host = |line: &str| line.split(';').next().unwrap().trim_end().to_owned();
                assert_eq!(host(line), host(got), "{name}");
            }
            HeaderName::MaxForwards => assert!(got.starts_with(own), "{name}: {got}"),
            _ => assert_eq!(line, got, "{name}"),
        }
    }
    let said = ["ms-edge-proxy-message-trust", "ms-asserted-verification-level"];
    let added: Vec<&str> = theirs
        .map(|line| line.split(':').next().unwrap())
        .filter(|name| !said.contains(name))
        .collect();
    let mut expected = vec![];
    for (header, text) in [
        (HeaderName::MaxForwards, "Max-Forwards"),
        (HeaderName::ContentLength, "Content-Length"),
        (HeaderName::MaxBreadth, "Max-Breadth"),
    ] {
        if came.header(header).is_none() {
            expected.push(text);
        }
    }
    assert_eq!(added, expected, "{name}");
}

/// Cut at every byte, nothing is passed on and at most a fault is said.
pub(crate) fn cut_at_every_byte(rows: &[Row]) {
    for row in rows.iter().filter(|row| row.headers.iter().all(|h| h != "-Content-Length")) {
        for outside in [true, false] {
            let (mut world, sender, [from, to]) = world(outside);
            let text = row.text(&row.lines(), from, to);
            for end in 0..text.len() {
                world.say_bytes(CONTOSO, sender, &text[..end]);
                for (at, bytes) in std::mem::take(&mut world.edges[CONTOSO].mail) {
                    let status = String::from_utf8_lossy(&bytes[..12]).into_owned();
                    let said = ["SIP/2.0 400 ", "SIP/2.0 413 ", "SIP/2.0 505 "];
                    assert!(
                        at == sender && said.contains(&&*status),
                        "{} at {end}: {status}",
                        row.name
                    );
                }
            }
            assert_eq!(world.live(), 0);
        }
    }
}
