//! Ends that speak with one another over wires of virtual time. TLS is played: each end is told what
//! the other's certificate is worth.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    config::{BlockedDomain, Federation, Rights, UserPattern, UserPolicy},
    domain::Domain,
    federation::{CertificateNames, Policy},
    xmpp::{
        io::{
            DialId, Pair, PeerCertificate, ResolveError, StreamId, TlsPeer, XmppEvent, XmppHost,
            XmppInput, XmppNames, XmppOutput, XmppQuestion, XmppRefusal, XmppSide,
        },
        ns,
        settings::{
            Negotiation, XmppLimits, XmppPartner, XmppPartnerKind, XmppPolicy, XmppSettings,
        },
        streams::{Certificate, OwnCertificates, Streams, StreamsConfig},
        watch::NobodyWatches,
        xml::Element,
    },
};

pub(super) const UNIX: u64 = 1_800_000_000;

pub(super) fn domain(text: &str) -> Domain {
    text.parse().unwrap()
}

pub(super) fn pair(local: &str, remote: &str) -> Pair {
    Pair { local: domain(local), remote: domain(remote) }
}

/// An entry that allows everything.
pub(super) fn partner(name: &str) -> XmppPartner {
    XmppPartner {
        kind: XmppPartnerKind::Federated,
        tls: Negotiation::Optional,
        sasl: Negotiation::Optional,
        ..XmppPartner::new(domain(name))
    }
}

/// What is configured at an end with these domains and partners.
pub(super) fn settings(domains: &[&str], partners: Vec<XmppPartner>) -> XmppSettings {
    XmppSettings {
        enabled: true,
        domains: domains.iter().map(|name| domain(name)).collect(),
        inside: Vec::new(),
        chats: Default::default(),
        partners: partners.into_iter().map(Arc::new).collect(),
        limits: XmppLimits { bytes_per_second: 1 << 30, ..XmppLimits::default() },
    }
}

/// Everybody may federate over XMPP, but for `mute@in.example`.
pub(super) fn policy(settings: XmppSettings, blocked: &[&str]) -> XmppPolicy {
    let blocked_domains = blocked
        .iter()
        .map(|name| BlockedDomain { domain: domain(name), subdomains: false })
        .collect();
    let may = |pattern, xmpp| UserPolicy {
        users: vec![pattern],
        rights: Rights { xmpp, ..Rights::default() },
    };
    let mute = UserPattern::User("mute".to_owned(), domain("in.example"));
    let users = vec![may(UserPattern::Everyone, true), may(mute, false)];
    let federation = Federation { enabled: true, blocked_domains, users, ..Federation::default() };
    XmppPolicy { settings: Arc::new(settings), federation: Arc::new(Policy::new(&[], &federation)) }
}

pub(super) fn message(from: &str, to: &str, body: &str) -> Element {
    Element::new(ns::SERVER, "message")
        .with("from", from)
        .with("to", to)
        .with_child(Element::new(ns::SERVER, "body").with_text(body))
}

/// A certificate with these names.
pub(super) fn names(all: &[&str], expires_at: Option<u64>) -> Arc<XmppNames> {
    let certificate = CertificateNames {
        dns: all.iter().map(|name| domain(name)).collect(),
        description: format!("CN={}", all.first().unwrap_or(&"?")),
        expires_at,
        ..CertificateNames::default()
    };
    Arc::new(XmppNames { certificate, ..XmppNames::default() })
}

pub(super) fn tls(certificate: PeerCertificate) -> TlsPeer {
    let (version, cipher) = ("TLSv1.3", "TLS13_AES_256_GCM_SHA384");
    TlsPeer { version, cipher, certificate, chain: Default::default() }
}

pub(super) fn good(all: &[&str]) -> TlsPeer {
    tls(PeerCertificate::Valid(names(all, None)))
}

/// One end.
pub(super) struct End {
    pub(super) streams: Streams,
    pub(super) address: SocketAddr,
    /// Its certificate, as others see it, and the names in it.
    pub(super) certificate: Certificate,
    pub(super) certified: Vec<String>,
    /// Whoever connects is of this side.
    pub(super) side_of: HashMap<SocketAddr, XmppSide>,
    pub(super) delivered: Vec<(Pair, Element)>,
    pub(super) undelivered: Vec<(Pair, Element, &'static str, String)>,
    pub(super) proved: Vec<(Pair, &'static str)>,
    pub(super) refused: Vec<(XmppRefusal, String)>,
    next_stream: u64,
}

impl End {
    pub(super) fn bodies(&self) -> Vec<String> {
        let body = |e: &Element| {
            e.child(ns::SERVER, "body").map(|b| b.text().into_owned()).unwrap_or_default()
        };
        self.delivered.iter().map(|(_, stanza)| body(stanza)).collect()
    }

    fn seen(&self) -> PeerCertificate {
        let all: Vec<&str> = self.certified.iter().map(String::as_str).collect();
        match self.certificate {
            Certificate::Missing => PeerCertificate::Missing,
            Certificate::Invalid => PeerCertificate::Invalid {
                description: format!("CN={}", all[0]),
                fault: "unknown issuer".to_owned(),
            },
            Certificate::Valid => PeerCertificate::Valid(names(&all, None)),
        }
    }
}

/// A connection between two ends.
struct Wire {
    ends: [(usize, StreamId); 2],
    /// Which ends asked for TLS.
    tls: [bool; 2],
    /// What an end wrote last is still plain to the other.
    open: [bool; 2],
}

/// What is under way to an end.
#[derive(Debug)]
enum Under {
    Bytes(usize, Vec<u8>),
    Closed(usize, Option<String>),
    Input(XmppInput),
}

/// Everything.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) ends: Vec<End>,
    /// Domain to address and whether TLS comes first.
    pub(super) dns: HashMap<Domain, Vec<(SocketAddr, bool)>>,
    /// What one end alone is told.
    pub(super) dns_of: HashMap<(usize, Domain), SocketAddr>,
    wires: Vec<Wire>,
    /// By receiving end and wire; what has no wire has its own.
    under: BTreeMap<(usize, usize), VecDeque<Under>>,
    /// Cuts bytes and mixes wires, when there is one.
    pub(super) chance: Option<u64>,
    pub(super) lookups: usize,
    pub(super) dials: usize,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            now: Instant::now(),
            ends: Vec::new(),
            dns: HashMap::new(),
            dns_of: HashMap::new(),
            wires: Vec::new(),
            under: BTreeMap::new(),
            chance: None,
            lookups: 0,
            dials: 0,
        }
    }

    /// An end whose certificate names all its domains.
    pub(super) fn add(&mut self, certificate: Certificate, settings: XmppSettings) -> usize {
        let index = self.ends.len();
        let address = format!("192.0.2.{}:5269", index + 1).parse().unwrap();
        for name in &settings.domains {
            self.dns.insert(name.clone(), vec![(address, false)]);
        }
        let certified: Vec<String> = settings.domains.iter().map(ToString::to_string).collect();
        let of = |name: &Domain| (name.clone(), certificate);
        let own: OwnCertificates = settings.domains.iter().map(of).collect();
        let config = StreamsConfig {
            policy: policy(settings, &[]),
            secrets: crate::proxy::Secrets { current: [index as u8 + 1; 32], former: None },
            own,
            watch: Box::new(NobodyWatches),
            unix_seconds: UNIX,
        };
        self.ends.push(End {
            streams: Streams::new(self.now, config),
            address,
            certificate,
            certified,
            side_of: HashMap::new(),
            delivered: Vec::new(),
            undelivered: Vec::new(),
            proved: Vec::new(),
            refused: Vec::new(),
            next_stream: 0,
        });
        index
    }

    fn random(&mut self, below: usize) -> usize {
        let Some(state) = &mut self.chance else {
            return 0;
        };
        // xorshift64
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state % below.max(1) as u64) as usize
    }

    /// An end is given an input, and does what comes of it.
    pub(super) fn give(&mut self, end: usize, input: XmppInput) {
        let mut out = Vec::new();
        self.ends[end].streams.handle(self.now, input, &mut out);
        self.take(end, out);
    }

    pub(super) fn send(&mut self, end: usize, from: &str, to: &str, body: &str) {
        self.send_on(end, XmppSide::Partner, from, to, body);
    }

    pub(super) fn send_on(&mut self, end: usize, side: XmppSide, from: &str, to: &str, body: &str) {
        let host = |text: &str| domain(text.rsplit('@').next().unwrap());
        let (ours, other) = match side {
            XmppSide::Partner => (from, to),
            XmppSide::Inside => (to, from),
        };
        let pair = Pair { local: host(ours), remote: host(other) };
        self.give(end, XmppInput::Send { pair, side, stanza: message(from, to, body) });
    }

    pub(super) fn take(&mut self, end: usize, outputs: Vec<XmppOutput>) {
        for output in outputs {
            self.do_one(end, output);
        }
    }

    fn wire_of(&self, end: usize, stream: StreamId) -> Option<(usize, usize)> {
        self.wires.iter().enumerate().find_map(|(wire, w)| {
            w.ends.iter().position(|e| *e == (end, stream)).map(|place| (wire, place))
        })
    }

    fn put(&mut self, end: usize, wire: usize, what: Under) {
        self.under.entry((end, wire)).or_default().push_back(what);
    }

    fn do_one(&mut self, end: usize, output: XmppOutput) {
        match output {
            XmppOutput::Write { stream, bytes } => {
                let Some((wire, place)) = self.wire_of(end, stream) else {
                    panic!("bytes for no stream");
                };
                if self.wires[wire].open[place] {
                    let (other, _) = self.wires[wire].ends[1 - place];
                    self.put(other, wire, Under::Bytes(wire, bytes.to_vec()));
                }
            }
            XmppOutput::StartTls { stream, accepting, .. } => {
                let (wire, place) = self.wire_of(end, stream).unwrap();
                assert_eq!(accepting, place == 1, "who connected is the client of TLS");
                self.wires[wire].tls[place] = true;
                if self.wires[wire].tls == [true, true] {
                    self.handshake(wire);
                }
            }
            XmppOutput::Close { stream } => {
                if let Some((wire, place)) = self.wire_of(end, stream) {
                    self.wires[wire].open[place] = false;
                    let (other, _) = self.wires[wire].ends[1 - place];
                    self.put(other, wire, Under::Closed(wire, None));
                }
            }
            XmppOutput::Connect { dial, target } => {
                self.dials += 1;
                self.connect(end, dial, target.address, target.direct_tls);
            }
            XmppOutput::Resolve { lookup, question } => {
                self.lookups += 1;
                let (XmppQuestion::Domain(name) | XmppQuestion::Host(name, _)) = question;
                let own = self.dns_of.get(&(end, name.clone())).map(|to| vec![(*to, false)]);
                let all = self.dns.get(&name).cloned();
                let hosts = own.or(all).unwrap_or_default();
                let hosts: Vec<_> = hosts
                    .into_iter()
                    .map(|(address, direct_tls)| XmppHost {
                        host: name.clone(),
                        address,
                        direct_tls,
                    })
                    .collect();
                let result = match hosts.is_empty() {
                    true => Err(ResolveError::NotFound),
                    false => Ok((hosts, self.now)),
                };
                let input = XmppInput::Resolved { lookup, result };
                self.put(end, usize::MAX, Under::Input(input));
            }
            XmppOutput::Deliver(delivery) => {
                let (pair, _, stanza) = delivery.into_parts();
                self.ends[end].delivered.push((pair, stanza));
            }
            XmppOutput::Undelivered { pair, stanza, condition, text } => {
                self.ends[end].undelivered.push((pair, stanza, condition, text));
            }
            XmppOutput::Passed { .. } => {}
            XmppOutput::Event(XmppEvent::Proved { pair, how, .. }) => {
                self.ends[end].proved.push((pair, how));
            }
            XmppOutput::Event(XmppEvent::Refused { reason, text, .. }) => {
                self.ends[end].refused.push((reason, text));
            }
            XmppOutput::Event(XmppEvent::Ended { .. })
            | XmppOutput::Pause { .. }
            | XmppOutput::Hold { .. }
            | XmppOutput::Resume { .. } => {}
        }
    }

    fn stream_id(&mut self, end: usize) -> StreamId {
        self.ends[end].next_stream += 1;
        StreamId(self.ends[end].next_stream)
    }

    fn connect(&mut self, end: usize, dial: DialId, address: SocketAddr, direct: bool) {
        let Some(other) = self.ends.iter().position(|e| e.address == address) else {
            let fault = "connection refused".to_owned();
            let input = XmppInput::ConnectFailed { dial, fault };
            return self.put(end, usize::MAX, Under::Input(input));
        };
        let ours = self.stream_id(end);
        let theirs = self.stream_id(other);
        let wire = self.wires.len();
        self.wires.push(Wire {
            ends: [(end, ours), (other, theirs)],
            tls: [false; 2],
            open: [true; 2],
        });
        let from = self.ends[end].address;
        let side = self.ends[other].side_of.get(&from).copied().unwrap_or(XmppSide::Partner);
        let (mine, its) = (tls(self.ends[end].seen()), tls(self.ends[other].seen()));
        let accepted = XmppInput::Accepted {
            stream: theirs,
            side,
            remote: from,
            local: address,
            tls: direct.then_some(mine),
        };
        let connected = XmppInput::Connected { dial, stream: ours, tls: direct.then_some(its) };
        self.put(other, wire, Under::Input(accepted));
        self.put(end, wire, Under::Input(connected));
    }

    fn handshake(&mut self, wire: usize) {
        for place in [0, 1] {
            let (end, stream) = self.wires[wire].ends[place];
            let (other, _) = self.wires[wire].ends[1 - place];
            let input = XmppInput::TlsDone { stream, tls: tls(self.ends[other].seen()) };
            self.put(end, wire, Under::Input(input));
        }
    }

    /// Cuts every wire between two ends, as when a cable is pulled.
    pub(super) fn cut(&mut self) {
        for wire in 0..self.wires.len() {
            for place in [0, 1] {
                let (end, _) = self.wires[wire].ends[place];
                if !self.wires[wire].open[place] {
                    continue;
                }
                self.wires[wire].open[place] = false;
                self.under.entry((end, wire)).or_default().clear();
                self.put(end, wire, Under::Closed(wire, Some("connection reset".to_owned())));
            }
        }
    }

    /// Does one thing that is under way. `false`: nothing is.
    pub(super) fn step(&mut self) -> bool {
        self.under.retain(|_, queue| !queue.is_empty());
        let count = self.under.len();
        if count == 0 {
            return false;
        }
        let at = self.random(count);
        let key = *self.under.keys().nth(at).unwrap();
        let cut = self.random(200) + 1;
        let whole = self.chance.is_none();
        let queue = self.under.get_mut(&key).unwrap();
        let Some(what) = queue.pop_front() else {
            return true;
        };
        match what {
            Under::Bytes(wire, bytes) => {
                let (now, rest) =
                    bytes.split_at(if whole { bytes.len() } else { cut.min(bytes.len()) });
                if !rest.is_empty() {
                    queue.push_front(Under::Bytes(wire, rest.to_vec()));
                }
                let place = usize::from(self.wires[wire].ends[1].0 == key.0);
                let (end, stream) = self.wires[wire].ends[place];
                let bytes = Bytes::copy_from_slice(now);
                if self.wires[wire].open[place] {
                    self.give(end, XmppInput::Bytes { stream, bytes });
                }
            }
            Under::Closed(wire, fault) => {
                let place = usize::from(self.wires[wire].ends[1].0 == key.0);
                let (end, stream) = self.wires[wire].ends[place];
                self.wires[wire].open[place] = false;
                self.give(end, XmppInput::Closed { stream, fault });
            }
            Under::Input(input) => self.give(key.0, input),
        }
        true
    }

    /// Until nothing is under way.
    pub(super) fn run(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 200_000, "the ends never come to rest");
        }
    }

    /// Time passes; what is due is done.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.run();
        loop {
            let next = self.ends.iter().filter_map(|e| e.streams.next_timeout()).min();
            let Some(at) = next.filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            for index in 0..self.ends.len() {
                let mut out = Vec::new();
                self.ends[index].streams.on_timeout(self.now, &mut out);
                self.take(index, out);
            }
            self.run();
        }
        self.now = end;
    }

    pub(super) fn set_policy(&mut self, end: usize, policy: XmppPolicy) {
        let mut out = Vec::new();
        self.ends[end].streams.set_policy(self.now, policy, &mut out);
        self.take(end, out);
    }
}
