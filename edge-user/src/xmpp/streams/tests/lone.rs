//! One end, and a hand that writes and reads bytes.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::world::{UNIX, domain, message, pair, partner, policy, settings};
use crate::xmpp::{
    io::{
        Pair, StreamId, TlsPeer, XmppEvent, XmppHost, XmppInput, XmppOutput, XmppQuestion,
        XmppRefusal, XmppSide,
    },
    settings::XmppSettings,
    streams::{OwnCertificates, Streams, StreamsConfig},
    watch::{NobodyWatches, WatchList},
    xml::Element,
};

/// An end that serves `a.example`.
pub(super) struct Lone {
    pub(super) now: Instant,
    pub(super) streams: Streams,
    next: u64,
    /// Where connections come from.
    pub(super) comes_from: std::net::IpAddr,
    pub(super) delivered: Vec<(Pair, XmppSide, Element)>,
    pub(super) undelivered: Vec<(Element, &'static str)>,
    /// Messages on their way: their ids, and whether they were acknowledged.
    pub(super) passed: Vec<(String, bool)>,
    pub(super) refused: Vec<(XmppRefusal, String)>,
    /// Who it was that was refused last, by its own word.
    pub(super) claimed: Option<crate::domain::Domain>,
    pub(super) closed: Vec<StreamId>,
    pub(super) connects: Vec<(crate::xmpp::io::DialId, crate::xmpp::io::XmppTarget)>,
    pub(super) questions: Vec<XmppQuestion>,
    /// What DNS says.
    pub(super) hosts: Vec<(&'static str, bool)>,
    pub(super) pauses: Vec<Instant>,
    /// Streams that are not listened to.
    pub(super) held: std::collections::BTreeSet<StreamId>,
    pub(super) handshakes: Vec<(StreamId, bool)>,
    written: Vec<(StreamId, String)>,
}

impl Lone {
    pub(super) fn new() -> Self {
        Self::with(settings(&["a.example"], vec![partner("b.example"), partner("c.example")]))
    }

    pub(super) fn with(settings: XmppSettings) -> Self {
        Self::watched(settings, Box::new(NobodyWatches))
    }

    pub(super) fn watched(settings: XmppSettings, watch: Box<dyn WatchList>) -> Self {
        let now = Instant::now();
        let config = StreamsConfig {
            policy: policy(settings, &[]),
            secrets: crate::proxy::Secrets { current: [7; 32], former: None },
            own: OwnCertificates::default(),
            watch,
            unix_seconds: UNIX,
        };
        Self {
            now,
            streams: Streams::new(now, config),
            next: 0,
            comes_from: "192.0.2.50".parse().unwrap(),
            delivered: Vec::new(),
            undelivered: Vec::new(),
            passed: Vec::new(),
            refused: Vec::new(),
            claimed: None,
            closed: Vec::new(),
            connects: Vec::new(),
            questions: Vec::new(),
            hosts: vec![("192.0.2.9:5269", false)],
            pauses: Vec::new(),
            held: Default::default(),
            handshakes: Vec::new(),
            written: Vec::new(),
        }
    }

    pub(super) fn give(&mut self, input: XmppInput) {
        let mut out = Vec::new();
        self.streams.handle(self.now, input, &mut out);
        self.take(out);
    }

    pub(super) fn take(&mut self, outputs: Vec<XmppOutput>) {
        for output in outputs {
            match output {
                XmppOutput::Write { stream, bytes } => {
                    let text = String::from_utf8(bytes.to_vec()).unwrap();
                    self.written.push((stream, text));
                }
                XmppOutput::StartTls { stream, accepting, .. } => {
                    self.handshakes.push((stream, accepting));
                }
                XmppOutput::Close { stream } => self.closed.push(stream),
                XmppOutput::Connect { dial, target } => self.connects.push((dial, target)),
                XmppOutput::Resolve { lookup, question } => {
                    self.questions.push(question);
                    let host = |(address, direct_tls): &(&str, bool)| XmppHost {
                        host: domain("host.example"),
                        address: address.parse().unwrap(),
                        direct_tls: *direct_tls,
                    };
                    let hosts = self.hosts.iter().map(host).collect();
                    self.give(XmppInput::Resolved { lookup, result: Ok((hosts, self.now)) });
                }
                XmppOutput::Deliver(delivery) => self.delivered.push(delivery.into_parts()),
                XmppOutput::Undelivered { stanza, condition, .. } => {
                    self.undelivered.push((stanza, condition));
                }
                XmppOutput::Event(XmppEvent::Refused { reason, text, claimed, .. }) => {
                    self.claimed = claimed;
                    self.refused.push((reason, text));
                }
                XmppOutput::Pause { until, .. } => self.pauses.push(until),
                XmppOutput::Passed { pair, stanza, acknowledged } => {
                    assert_eq!(pair, super::world::pair("a.example", "b.example"));
                    self.passed.push((stanza, acknowledged));
                }
                XmppOutput::Hold { stream } => assert!(self.held.insert(stream)),
                XmppOutput::Resume { stream } => assert!(self.held.remove(&stream)),
                XmppOutput::Event(_) => {}
            }
        }
    }

    pub(super) fn accept_on(&mut self, side: XmppSide, tls: Option<TlsPeer>) -> StreamId {
        self.next += 1;
        let stream = StreamId(self.next);
        let port = 1000 + self.next as u16;
        let remote = std::net::SocketAddr::new(self.comes_from, port);
        let local = "192.0.2.1:5269".parse().unwrap();
        self.give(XmppInput::Accepted { stream, side, remote, local, tls });
        stream
    }

    pub(super) fn accept(&mut self, tls: Option<TlsPeer>) -> StreamId {
        self.accept_on(XmppSide::Partner, tls)
    }

    /// The connection that was asked for last is there.
    pub(super) fn connect(&mut self, tls: Option<TlsPeer>) -> StreamId {
        self.next += 1;
        let stream = StreamId(self.next);
        let (dial, _) = self.connects.pop().expect("no connection was asked for");
        self.give(XmppInput::Connected { dial, stream, tls });
        stream
    }

    /// Writes to a stream, and reads all that came of it on that stream.
    pub(super) fn write(&mut self, stream: StreamId, text: &str) -> String {
        self.give(XmppInput::Bytes { stream, bytes: Bytes::copy_from_slice(text.as_bytes()) });
        self.read(stream)
    }

    /// What was written to a stream and not yet read.
    pub(super) fn read(&mut self, stream: StreamId) -> String {
        let mut text = String::new();
        self.written.retain(|(to, what)| {
            if *to == stream {
                text.push_str(what);
            }
            *to != stream
        });
        text
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.streams.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let mut out = Vec::new();
            self.streams.on_timeout(self.now, &mut out);
            self.take(out);
        }
        self.now = end;
    }

    /// A stream whose certificate names `b.example`, proved by EXTERNAL.
    pub(super) fn proved(&mut self) -> StreamId {
        let stream = self.accept(Some(super::world::good(&["b.example"])));
        assert!(self.write(stream, &header("b.example", "a.example")).contains("EXTERNAL"));
        assert!(self.write(stream, AUTH).contains("<success"));
        assert!(self.write(stream, &header("b.example", "a.example")).contains("<sm "));
        stream
    }

    pub(super) fn last_refusal(&self) -> Option<XmppRefusal> {
        self.refused.last().map(|(reason, _)| *reason)
    }
}

pub(super) const AUTH: &str =
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";

pub(super) fn header(from: &str, to: &str) -> String {
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='jabber:server' \
         xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' \
         from='{from}' to='{to}' version='1.0'>"
    )
}

/// The header of an end that was connected to.
pub(super) fn answer(id: &str) -> String {
    format!(
        "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
         xmlns:db='jabber:server:dialback' id='{id}' version='1.0'>"
    )
}

pub(super) fn features(inside: &str) -> String {
    format!("<stream:features>{inside}</stream:features>")
}

pub(super) fn stanza(from: &str, to: &str) -> String {
    format!("<message from='{from}' to='{to}'><body>x</body></message>")
}

pub(super) fn key(from: &str, to: &str, kind: &str) -> String {
    let kind = if kind.is_empty() { String::new() } else { format!(" type='{kind}'") };
    format!("<db:result from='{from}' to='{to}'{kind}>k</db:result>")
}

pub(super) fn verdict(from: &str, to: &str, id: &str, kind: &str) -> String {
    format!("<db:verify from='{from}' to='{to}' id='{id}' type='{kind}'/>")
}

/// The id that we gave to a stream.
pub(super) fn id_of(header: &str) -> String {
    header.split(" id='").nth(1).unwrap().split('\'').next().unwrap().to_owned()
}

/// A stanza of ours, from one of these domains to the other.
pub(super) fn send(end: &mut Lone, from: &str, to: &str) {
    let stanza = message(&format!("u@{from}"), &format!("v@{to}"), "x");
    end.give(XmppInput::Send { pair: pair(from, to), side: XmppSide::Partner, stanza });
}
