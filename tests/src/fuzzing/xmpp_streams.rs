//! The core of all streams, by a script of bytes: connections come and go, the other ends write
//! pieces of the protocol in and out of place, raw bytes, or what was written to somebody else; DNS
//! and connects succeed and fail; time goes by, and the policy changes.
//!
//! What must hold whatever happens: bytes are written to connections that are open; a stanza is
//! handed on only for a pair that was proved before, and its `from` and `to` lie in it; when everybody
//! is silent for long enough, no stream is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use edge_user::{
    config::Federation,
    domain::Domain,
    federation::{CertificateNames, Policy},
    proxy::{ResolveError, Secrets},
    xmpp::{
        io::{
            Pair, PeerCertificate, StreamId, TlsPeer, XmppEvent, XmppHost, XmppInput, XmppNames,
            XmppOutput, XmppSide,
        },
        ns,
        settings::{
            Negotiation, XmppLimits, XmppPartner, XmppPartnerKind, XmppPolicy, XmppSettings,
        },
        streams::{Streams, StreamsConfig},
        watch::NobodyWatches,
        xml::Element,
    },
};

const OURS: &str = "contoso.example";
const INSIDE: &str = "chat.contoso.example";
const WEAK: &str = "fabrikam.example";
const STRICT: &str = "strict.example";
const PIECES: &[&str] = &[
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' from='fabrikam.example' \
     to='contoso.example' version='1.0' xmlns:stream='http://etherx.jabber.org/streams' \
     xmlns:db='jabber:server:dialback'>",
    "<?xml version='1.0'?><stream:stream xmlns='jabber:server' from='strict.example' \
     to='chat.contoso.example' id='i' version='1.0' xmlns:db='jabber:server:dialback' \
     xmlns:stream='http://etherx.jabber.org/streams'>",
    "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>",
    "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
     <mechanism>EXTERNAL</mechanism></mechanisms><bidi xmlns='urn:xmpp:features:bidi'/>\
     <dialback xmlns='urn:xmpp:features:dialback'/><sm xmlns='urn:xmpp:sm:3'/></stream:features>",
    "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>",
    "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
    "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>",
    "<bidi xmlns='urn:xmpp:bidi'/>",
    "<db:result from='fabrikam.example' to='contoso.example'>k</db:result>",
    "<db:result from='fabrikam.example' to='contoso.example' type='valid'/>",
    "<db:verify from='fabrikam.example' to='contoso.example' id='i' type='valid'/>",
    "<db:verify from='fabrikam.example' to='contoso.example' id='i'>k</db:verify>",
    "<message from='a@fabrikam.example' to='b@contoso.example'><body>x</body></message>",
    "<message from='a@strict.example' to='b@contoso.example'><body>x</body></message>",
    "<iq from='fabrikam.example' to='contoso.example' type='get' id='1'>\
     <ping xmlns='urn:xmpp:ping'/></iq>",
    "<enable xmlns='urn:xmpp:sm:3'/><r xmlns='urn:xmpp:sm:3'/><a xmlns='urn:xmpp:sm:3' h='1'/>",
    "</stream:stream>",
    " ",
];

fn domain(name: &str) -> Domain {
    name.parse().expect("a domain name")
}

fn policy(enabled: bool) -> XmppPolicy {
    let partner = |name: &str, need: Negotiation, dialback| {
        Arc::new(XmppPartner {
            kind: XmppPartnerKind::Federated,
            tls: need,
            sasl: need,
            dialback,
            ..XmppPartner::new(domain(name))
        })
    };
    let settings = XmppSettings {
        enabled,
        domains: vec![domain(OURS), domain(INSIDE)],
        inside: vec![(vec![domain(INSIDE)], (domain("xmpp.contoso.example"), 5269))],
        chats: Default::default(),
        partners: vec![
            partner(WEAK, Negotiation::Optional, true),
            partner(STRICT, Negotiation::Required, false),
        ],
        limits: XmppLimits { partner_connections: 4, ..XmppLimits::default() },
    };
    let federation = Federation { enabled: true, ..Federation::default() };
    let federation = Policy::new(&[domain(OURS)], &federation);
    XmppPolicy { settings: Arc::new(settings), federation: Arc::new(federation) }
}

fn tls(kind: u8) -> TlsPeer {
    let names = |name: &str| {
        PeerCertificate::Valid(Arc::new(XmppNames {
            certificate: CertificateNames { dns: vec![domain(name)], ..Default::default() },
            ..Default::default()
        }))
    };
    let certificate = match kind % 4 {
        0 => PeerCertificate::Missing,
        1 => names(WEAK),
        2 => names(STRICT),
        _ => PeerCertificate::Invalid { description: "x".to_owned(), fault: "old".to_owned() },
    };
    TlsPeer { version: "TLSv1.3", cipher: "x", certificate, chain: Default::default() }
}

fn host_of(jid: &str) -> &str {
    let bare = jid.split('/').next().unwrap_or(jid);
    bare.split_once('@').map_or(bare, |(_, host)| host)
}

struct World {
    streams: Streams,
    now: Instant,
    next: u64,
    open: BTreeMap<StreamId, Vec<u8>>,
    proved: BTreeSet<(String, String)>,
    handshakes: Vec<StreamId>,
    /// Streams that are not listened to.
    held: BTreeSet<StreamId>,
    pending: Vec<XmppOutput>,
}

impl World {
    fn give(&mut self, input: XmppInput) {
        let mut out = Vec::new();
        self.streams.handle(self.now, input, &mut out);
        self.take(out);
    }

    fn take(&mut self, out: Vec<XmppOutput>) {
        for output in out {
            match output {
                XmppOutput::Write { stream, bytes } => {
                    let last = self.open.get_mut(&stream).expect("bytes for no stream");
                    *last = bytes.to_vec();
                }
                XmppOutput::StartTls { stream, .. } => {
                    assert!(self.open.contains_key(&stream), "TLS for no stream");
                    self.handshakes.push(stream);
                }
                XmppOutput::Close { stream } => {
                    assert!(self.open.remove(&stream).is_some(), "closed twice");
                    self.held.remove(&stream);
                }
                XmppOutput::Event(XmppEvent::Proved { pair, .. }) => {
                    let (local, remote) = (pair.local.to_string(), pair.remote.to_string());
                    self.proved.insert((local.clone(), remote.clone()));
                    self.proved.insert((remote, local));
                }
                XmppOutput::Deliver(delivery) => {
                    let (pair, _, stanza) = delivery.into_parts();
                    let names = (pair.local.to_string(), pair.remote.to_string());
                    assert!(self.proved.contains(&names), "nobody proved {names:?}");
                    let of =
                        |name| host_of(stanza.attribute(name).expect("from and to")).to_owned();
                    let (from, to) = (of("from"), of("to"));
                    let both = [(from.clone(), to.clone()), (to, from)];
                    assert!(both.contains(&names), "{both:?} is not in {names:?}");
                }
                XmppOutput::Hold { stream } => {
                    assert!(self.open.contains_key(&stream), "holds no stream");
                    assert!(self.held.insert(stream), "held twice");
                }
                XmppOutput::Resume { stream } => {
                    assert!(self.held.remove(&stream), "resumes what was not held");
                }
                XmppOutput::Connect { .. } | XmppOutput::Resolve { .. } => {
                    self.pending.push(output);
                }
                _ => {}
            }
        }
    }

    fn new_stream(&mut self) -> StreamId {
        self.next += 1;
        let stream = StreamId(self.next);
        self.open.insert(stream, Vec::new());
        stream
    }

    fn some(&self, which: u8) -> Option<StreamId> {
        let at = usize::from(which) % self.open.len().max(1);
        self.open.keys().nth(at).copied()
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        let mut turns = 0;
        while let Some(at) = self.streams.next_timeout().filter(|at| *at <= until) {
            assert!(turns < 100_000, "time stands still");
            turns += 1;
            self.now = at.max(self.now);
            let mut out = Vec::new();
            self.streams.on_timeout(self.now, &mut out);
            self.take(out);
        }
        self.now = until;
    }

    fn step(&mut self, op: u8, a: u8, b: u8, rest: &mut &[u8]) {
        let address = SocketAddr::from(([192, 0, 2, a % 4], 5269));
        match op % 13 {
            0 => {
                let stream = self.new_stream();
                let side = if a & 1 == 0 { XmppSide::Partner } else { XmppSide::Inside };
                let tls = (a & 2 != 0).then(|| tls(b));
                self.give(XmppInput::Accepted {
                    stream,
                    side,
                    remote: address,
                    local: address,
                    tls,
                });
            }
            1..=3 => {
                let piece = PIECES[usize::from(b) % PIECES.len()];
                let Some(stream) = self.some(a) else { return };
                self.give(XmppInput::Bytes { stream, bytes: Bytes::from_static(piece.as_bytes()) });
            }
            4 => {
                let length = usize::from(b).min(rest.len());
                let (piece, more) = rest.split_at(length);
                *rest = more;
                let Some(stream) = self.some(a) else { return };
                self.give(XmppInput::Bytes { stream, bytes: Bytes::copy_from_slice(piece) });
            }
            5 => {
                let Some(stream) = self.handshakes.pop() else { return };
                if self.open.contains_key(&stream) {
                    self.give(XmppInput::TlsDone { stream, tls: tls(b) });
                }
            }
            6 => self.answer(a, b, address),
            7 => {
                let remote = if a & 1 == 0 { WEAK } else { STRICT };
                let (local, side) = match (a & 2 != 0, a & 4 != 0) {
                    (false, _) => (OURS, XmppSide::Partner),
                    (true, false) => (INSIDE, XmppSide::Partner),
                    (true, true) => (INSIDE, XmppSide::Inside),
                };
                let inside = side == XmppSide::Inside;
                let (from, to) = if inside { (remote, local) } else { (local, remote) };
                let stanza = Element::new(ns::SERVER, "message")
                    .with("from", format!("u@{from}"))
                    .with("to", format!("v@{to}"));
                let pair = Pair { local: domain(local), remote: domain(remote) };
                self.give(XmppInput::Send { pair, side, stanza });
            }
            8 => {
                let Some(stream) = self.some(a) else { return };
                self.open.remove(&stream);
                self.held.remove(&stream);
                self.give(XmppInput::Closed { stream, fault: None });
            }
            9 => self.pass(Duration::from_secs(u64::from(a) * u64::from(b) / 16)),
            10 => {
                // What was written to one end is written by another.
                let (Some(from), Some(stream)) = (self.some(a), self.some(b)) else { return };
                let bytes = Bytes::from(self.open.get(&from).cloned().unwrap_or_default());
                self.give(XmppInput::Bytes { stream, bytes });
            }
            11 => {
                let Some(stream) = self.some(a) else { return };
                self.give(match b & 1 {
                    0 => XmppInput::Full { stream },
                    _ => XmppInput::Drained { stream },
                });
            }
            _ => {
                let mut out = Vec::new();
                self.streams.set_policy(self.now, policy(a & 1 == 0), &mut out);
                self.take(out);
            }
        }
    }

    fn answer(&mut self, a: u8, b: u8, address: SocketAddr) {
        match self.pending.pop() {
            Some(XmppOutput::Connect { dial, target }) if a & 8 == 0 => {
                let stream = self.new_stream();
                let tls = target.direct_tls.then(|| tls(b));
                self.give(XmppInput::Connected { dial, stream, tls });
            }
            Some(XmppOutput::Connect { dial, .. }) => {
                self.give(XmppInput::ConnectFailed { dial, fault: "refused".to_owned() });
            }
            Some(XmppOutput::Resolve { lookup, .. }) => {
                let host = XmppHost { host: domain(WEAK), address, direct_tls: b & 1 == 0 };
                let result = match a & 8 {
                    0 => Ok((vec![host], self.now + Duration::from_secs(u64::from(b)))),
                    _ => Err(ResolveError::NotFound),
                };
                self.give(XmppInput::Resolved { lookup, result });
            }
            _ => {}
        }
    }
}

/// Whatever comes, what must hold does: else it panics.
pub fn run(data: &[u8]) {
    // Longer ones find nothing more, and take long.
    if data.len() > 1024 {
        return;
    }
    let now = Instant::now();
    let config = StreamsConfig {
        policy: policy(true),
        secrets: Secrets { current: [7; 32], former: None },
        own: Default::default(),
        watch: Box::new(NobodyWatches),
        unix_seconds: 1_800_000_000,
    };
    let mut world = World {
        streams: Streams::new(now, config),
        now,
        next: 0,
        open: BTreeMap::new(),
        proved: BTreeSet::new(),
        handshakes: Vec::new(),
        held: BTreeSet::new(),
        pending: Vec::new(),
    };
    let mut rest = data;
    while let [op, a, b, more @ ..] = rest {
        rest = more;
        world.step(*op, *a, *b, &mut rest);
    }
    world.pass(Duration::from_secs(7 * 86_400));
    assert!(world.held.is_empty(), "held for ever");
    assert!(world.open.is_empty(), "left: {:?}", world.streams.status(world.now));
}
