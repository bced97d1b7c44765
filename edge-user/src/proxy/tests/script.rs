//! A proxy, and all that can happen to it, by a script of bytes: connections come and go, requests
//! of every kind and their answers pass, DNS and connects succeed and fail in any order, time goes
//! by. Used by a property test here and by libFuzzer's `proxy` target; it knows the public API
//! only.
//!
//! What must hold whatever happens: nothing is sent to a connection that is not open; what is sent
//! is one well-formed message; what comes from outside goes inside only, and what comes from inside
//! goes out, to a remote user over the connection of its Path and no other; a request gets
//! one final response (or 2xx after 2xx); and when everybody is silent for long enough, nothing is
//! left, no call is in setup, no flow outlives its call, each INVITE was answered, and what was no
//! INVITE was answered or was sent on.

#[path = "script/outcome.rs"]
mod outcome;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use edge_user::{
    config::{
        AllowedDomain, BlockedDomain, Federation, Host, MediaMode, NextHop, Rights, Transport,
        UserPattern, UserPolicy,
    },
    domain::Domain,
    federation::{CertificateNames, Policy},
    media::{
        calls::{CallSettings, CallState, OwnAddresses},
        flow::{CallId, FlowId, MediaChange},
    },
    proxy::{
        AttemptId, Bounds, ConnectError, ConnectionId, Input, Output, Peer, Proxy, ProxyConfig,
        QueryId, Question, RemoteSettings, ResolveError, Resolved, ResolvedHost, Side, Target,
    },
    sip::{HeaderName, Limits, Message, Method, Via},
};

/// What connections from outside may show.
const CERTIFICATES: [&[&str]; 6] = [
    &["fabrikam.example"],
    &["sip.fabrikam.example"],
    &["third.example"],
    &["sip.third.example", "fabrikam.example"],
    &[],
    &["contoso.example"],
];
const DOMAINS: [&str; 5] =
    ["fabrikam.example", "contoso.example", "third.example", "blocked.example", "[2001:db8::1]"];
const METHODS: [&str; 9] = [
    "INVITE",
    "MESSAGE",
    "INVITE",
    "OPTIONS",
    "BENOTIFY",
    "SUBSCRIBE",
    "NEGOTIATE",
    "odd!",
    "REGISTER",
];
const EXTRAS: [&str; 12] = [
    "X: y",
    "Route: <sip:edge.contoso.example;lr>",
    "Route: <sip:10.0.0.22;lr>",
    "Max-Forwards: 0",
    "Proxy-Require: x",
    "Max-Breadth: 0",
    "P-Asserted-Identity: <sip:a@contoso.example>",
    "Record-Route: <sip:r.example;lr>, <sip:s.example>",
    "Privacy: id",
    "From: <sip:second@contoso.example>",
    "Authorization: Digest username=\"alice\", response=\"0\"",
    "Path: <sip:x@10.0.0.9;lr>",
];
const STATUSES: [&str; 10] = ["100", "180", "200", "200", "404", "486", "503", "603", "401", "403"];
/// Longer than any timer.
const QUIET: Duration = Duration::from_secs(400);

/// The script, read byte by byte.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn next(&mut self) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(usize::from(*first))
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> Option<T> {
        let at = self.next()?;
        list.get(at % list.len().max(1)).copied()
    }
}

/// A request that the script sent.
struct Asked {
    connection: ConnectionId,
    side: Side,
    at: Instant,
    method: &'static str,
    text: String,
    /// The remote user's connection that it is for, by its Path.
    flow: Option<ConnectionId>,
    /// Bytes of it were changed: nothing is expected of it.
    changed: bool,
    /// It was sent on.
    went: bool,
    /// Its sender's connection was closed at some time.
    left: bool,
    finals: Vec<Bytes>,
    accepted: Option<String>,
}

/// The proxy and its surroundings.
struct Driver {
    proxy: Proxy,
    now: Instant,
    next: u64,
    open: BTreeMap<ConnectionId, Peer>,
    questions: Vec<(QueryId, Question)>,
    attempts: Vec<(AttemptId, Target)>,
    asked: Vec<Asked>,
    /// Of the next request: see [`Asked`].
    next_flow: Option<ConnectionId>,
    /// Media flows that are open, and their calls.
    flows: BTreeMap<FlowId, CallId>,
    /// Requests that the proxy sent.
    got: Vec<(ConnectionId, String)>,
}

fn domain(text: &str) -> Domain {
    text.parse().expect("a domain")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn names(dns: &[&str]) -> Arc<CertificateNames> {
    let dns = dns.iter().map(|name| domain(name)).collect();
    Arc::new(CertificateNames { dns, ..CertificateNames::default() })
}

fn settings(hops: &[(&str, Transport)]) -> ProxyConfig {
    let hop = |(at, transport): &(&str, Transport)| {
        let at = address(at);
        NextHop { host: Host::Address(at.ip()), port: at.port(), transport: *transport }
    };
    ProxyConfig {
        fqdn: domain("edge.contoso.example"),
        outside: vec![address("203.0.113.10:5061")],
        inside: vec![
            (Transport::Tls, address("10.0.0.10:5061")),
            (Transport::Tcp, address("10.0.0.10:5060")),
            (Transport::Udp, address("10.0.0.10:5060")),
        ],
        identities: vec![],
        remote: RemoteSettings::default(),
        next_hops: hops.iter().map(hop).collect(),
        routed_only: 0,
        routes: vec![],
        probe: None,
        bounds: Bounds::default(),
        media: media(),
        token_secret: [7; 32],
        former_secret: None,
        unix_time: 1_790_000_000,
    }
}

/// Media is relayed; few ports.
fn media() -> CallSettings {
    let own = |text: &str| OwnAddresses::new(&[address(text).ip()], &[]);
    CallSettings {
        mode: MediaMode::Relay,
        outside: own("203.0.113.11:0"),
        inside: own("10.0.0.11:0"),
        ports: (50_000, 50_011),
        ..CallSettings::default()
    }
}

/// The message with a session description, or with none, as the number says.
fn with_media(text: &str, outside: bool, number: usize) -> String {
    let at = if outside { "198.41.0.4" } else { "10.0.0.50" };
    let lines = match number % 8 {
        0 => return text.to_owned(),
        1 => "m=audio 4000 RTP/AVP 0\r\nm=video 4002 RTP/AVP 96\r\n",
        2 => "m=audio 0 RTP/AVP 0\r\n",
        _ => "m=audio 4000 RTP/AVP 0\r\n",
    };
    let sdp = format!("v=0\r\no=- 1 1 IN IP4 {at}\r\ns=-\r\nc=IN IP4 {at}\r\nt=0 0\r\n{lines}");
    let head = format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n", sdp.len());
    text.replace("Content-Length: 0\r\n\r\n", &format!("{head}{sdp}"))
}

fn policy() -> Policy {
    let federation = Federation {
        enabled: true,
        allowed_domains: ["fabrikam.example", "third.example"]
            .iter()
            .map(|name| AllowedDomain::new(domain(name)))
            .collect(),
        blocked_domains: vec![BlockedDomain {
            domain: domain("blocked.example"),
            subdomains: true,
        }],
        users: vec![UserPolicy {
            users: vec![UserPattern::User("alice".into(), domain("contoso.example"))],
            rights: Rights { outside: true, ..Rights::default() },
        }],
        ..Federation::default()
    };
    Policy::new(&[domain("contoso.example")], &federation)
}

/// Plays a script to its end; tells how many requests went to remote users along a Path.
pub fn run(script: &[u8]) -> usize {
    let mut reader = Reader(script);
    let hops: &[(&str, Transport)] = match reader.next().unwrap_or(0) % 4 {
        0 => &[("10.0.0.21:5060", Transport::Tcp), ("10.0.0.22:5060", Transport::Tcp)],
        1 => &[("10.0.0.21:5060", Transport::Udp)],
        2 => &[("10.0.0.21:5060", Transport::Udp), ("10.0.0.22:5061", Transport::Tls)],
        _ => &[("10.0.0.21:5060", Transport::Tcp)],
    };
    let now = Instant::now();
    let mut driver = Driver {
        proxy: Proxy::new(now, settings(hops), Arc::new(policy())),
        now,
        next: 1,
        open: BTreeMap::new(),
        questions: vec![],
        attempts: vec![],
        asked: vec![],
        next_flow: None,
        flows: BTreeMap::new(),
        got: vec![],
    };
    // Somebody is there on every side.
    driver.open(Side::Partner, Transport::Tls, CERTIFICATES[0], None);
    driver.open(Side::Inside, Transport::Tcp, &[], None);
    driver.open(Side::Remote, Transport::Tls, &[], None);
    while driver.step(&mut reader).is_some() {}
    driver.pass(QUIET);
    driver.check_the_end();
    driver.pass(Duration::from_secs(25 * 3600));
    assert!(driver.flows.is_empty() && driver.proxy.calls().is_empty(), "media is left");
    driver.asked.iter().filter(|asked| asked.flow.is_some() && asked.went).count()
}

impl Driver {
    fn step(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        match reader.next()? % 16 {
            0 => match reader.next()? {
                which if which % 3 == 2 => self.open(Side::Remote, Transport::Tls, &[], None),
                which => {
                    let certificate = CERTIFICATES[which % CERTIFICATES.len()];
                    self.open(Side::Partner, Transport::Tls, certificate, None);
                }
            },
            1 => {
                let transport = reader.of(&[Transport::Udp, Transport::Tcp])?;
                self.open(Side::Inside, transport, &[], None);
            }
            2..=4 => self.ask(reader)?,
            5 | 6 => self.answer(reader)?,
            7 => self.by_path(reader)?,
            8 => self.resolve(reader)?,
            9 | 10 => self.connect(reader)?,
            11 => {
                let step = reader.next()? as u64;
                self.pass(Duration::from_millis(if step < 200 { step * 25 } else { step * 400 }));
            }
            12 => {
                let at = self.connection(reader)?;
                self.close(at);
            }
            13 => self.again(reader)?,
            14 => self.in_dialog(reader)?,
            _ => {
                let at = self.connection(reader)?;
                let count = reader.next()?.min(reader.0.len());
                let (raw, rest) = reader.0.split_at(count);
                reader.0 = rest;
                self.say(at, raw);
            }
        }
        Some(())
    }

    fn connection(&self, reader: &mut Reader<'_>) -> Option<ConnectionId> {
        let all: Vec<ConnectionId> = self.open.keys().copied().collect();
        reader.of(&all)
    }

    fn open(
        &mut self,
        side: Side,
        transport: Transport,
        certificate: &[&str],
        dialled: Option<(AttemptId, SocketAddr)>,
    ) {
        self.next += 1;
        let connection = ConnectionId(self.next);
        let port = 40_000 + u16::try_from(self.next % 20_000).unwrap_or(0);
        let (remote, local) = match side {
            Side::Partner => ("203.0.113.20:0", "203.0.113.10:5061"),
            Side::Remote => ("198.51.100.7:0", "203.0.113.10:443"),
            _ => ("10.0.0.5:0", "10.0.0.10:5060"),
        };
        let mut remote = address(remote);
        remote.set_port(port);
        let peer = Peer {
            side,
            transport,
            remote: dialled.map_or(remote, |(_, at)| at),
            local: address(local),
            names: names(certificate),
            own: 0,
        };
        self.open.insert(connection, peer.clone());
        let attempt = dialled.map(|(attempt, _)| attempt);
        self.input(Input::Opened { connection, peer, attempt });
    }

    fn input(&mut self, input: Input) {
        let mut out = vec![];
        self.proxy.handle(self.now, input, &mut out);
        self.carry_out(out);
    }

    fn say(&mut self, connection: ConnectionId, bytes: &[u8]) {
        if !self.open.contains_key(&connection) {
            return;
        }
        match Message::parse_datagram(Bytes::copy_from_slice(bytes), &Limits::default()) {
            Ok(message) => self.input(Input::Message { connection, message }),
            Err(error) => self.input(Input::Unreadable { connection, error }),
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        if self.open.remove(&connection).is_some() {
            self.left(connection);
            self.input(Input::Closed { connection });
        }
    }

    fn left(&mut self, connection: ConnectionId) {
        for asked in self.asked.iter_mut().filter(|asked| asked.connection == connection) {
            asked.left = true;
        }
    }

    /// A new request.
    fn ask(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let connection = self.connection(reader)?;
        let method = reader.of(&METHODS)?;
        let choice = reader.next()?;
        let side = self.open.get(&connection)?.side;
        // Mostly what may pass.
        let (from, to) = match (choice % 4, side) {
            (0, _) => (reader.of(&DOMAINS)?, reader.of(&DOMAINS)?),
            (_, Side::Inside) => (DOMAINS[1], DOMAINS[0]),
            (_, Side::Partner | Side::Gateway) => (DOMAINS[0], DOMAINS[1]),
            (1, Side::Remote) => (DOMAINS[1], DOMAINS[0]),
            (_, Side::Remote) => (DOMAINS[1], DOMAINS[1]),
        };
        let extra = if choice & 8 == 0 { EXTRAS[0] } else { reader.of(&EXTRAS)? };
        let (user, called) = if method == "REGISTER" { ("", "alice") } else { ("bob@", "bob") };
        let number = self.asked.len();
        let text = format!(
            "{method} sip:{user}{to} SIP/2.0\r\nVia: SIP/2.0/TLS h.example;branch=z9hG4bKs{number}\r\n\
             {extra}\r\nFrom: <sip:alice@{from}>;tag=a{number}\r\nTo: <sip:{called}@{to}>\r\nCall-ID: \
             c{number}\r\nCSeq: 1 {method}\r\nContact: <sip:c@h.example>\r\nContent-Length: 0\r\n\r\n"
        );
        let text = match method {
            "INVITE" => with_media(&text, side != Side::Inside, number),
            _ => text,
        };
        let mut bytes = text.clone().into_bytes();
        let changes = if choice & 0x70 == 0x70 { 1 + (choice >> 7) } else { 0 };
        for _ in 0..changes {
            let at = (reader.next()? * 256 + reader.next()?) % bytes.len();
            bytes[at] = u8::try_from(reader.next()?).unwrap_or(0);
        }
        self.send(connection, method, text, &bytes, changes > 0)
    }

    fn send(
        &mut self,
        connection: ConnectionId,
        method: &'static str,
        text: String,
        bytes: &[u8],
        changed: bool,
    ) -> Option<()> {
        let side = self.open.get(&connection)?.side;
        self.asked.push(Asked {
            connection,
            side,
            at: self.now,
            method,
            text,
            flow: self.next_flow.take(),
            changed,
            went: false,
            left: false,
            finals: vec![],
            accepted: None,
        });
        self.say(connection, bytes);
        Some(())
    }

    /// A request from inside along the Path of somebody who registered.
    fn by_path(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let (choice, which) = (reader.next()?, reader.next()?);
        let path = |text: &str| {
            text.split("\r\n").find_map(|l| l.strip_prefix("Path: ")).map(str::to_owned)
        };
        let paths: Vec<(String, Option<ConnectionId>)> = self
            .got
            .iter()
            .filter_map(|(_, text)| {
                let via = text.split("\r\n").filter(|line| line.starts_with("Via: ")).nth(1);
                let via = via.and_then(|line| Via::parse(line.get(5..)?.as_bytes()).ok());
                let asked = Self::number(via).and_then(|number| self.asked.get(number))?;
                let flow =
                    (asked.side == Side::Remote && !asked.changed).then_some(asked.connection);
                Some((path(text)?, flow))
            })
            .collect();
        if paths.is_empty() {
            return Some(());
        }
        let (path, flow) = &paths[which % paths.len()];
        let method = ["INVITE", "MESSAGE", "BENOTIFY"][choice % 3];
        let number = self.asked.len();
        let text = format!(
            "{method} sip:alice@192.168.1.5:5061 SIP/2.0\r\nVia: SIP/2.0/TCP \
             h.example;branch=z9hG4bKs{number}\r\nRoute: {path}\r\nFrom: \
             <sip:bob@{}>;tag=a{number}\r\nTo: <sip:alice@contoso.example>\r\nCall-ID: \
             c{number}\r\nCSeq: 1 {method}\r\nContact: <sip:c@h.example>\r\nContent-Length: 0\r\n\r\n",
            DOMAINS[choice / 3 % 3],
        );
        let connection = self.connection(reader)?;
        let bytes = text.clone().into_bytes();
        let flow = *flow;
        self.next_flow = flow;
        self.send(connection, method, text, &bytes, false)
    }

    /// CANCEL, ACK, or over UDP the same request once more.
    fn again(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let (choice, which) = (reader.next()?, reader.next()?);
        let asked = self.asked.get(which % self.asked.len().max(1))?;
        let (connection, method) = (asked.connection, asked.method);
        let text = match choice % 3 {
            0 => asked.text.replace(&format!("{method} sip:"), "CANCEL sip:"),
            1 => asked.text.replace(&format!("{method} sip:"), "ACK sip:"),
            // Later it is no retransmission but another request.
            _ if self.now.duration_since(asked.at) < Duration::from_secs(30)
                && !asked.changed
                && self.open.get(&connection)?.transport == Transport::Udp =>
            {
                asked.text.clone()
            }
            _ => return Some(()),
        };
        // In a dialog the number is another one.
        let cseq = if choice % 3 == 0 { " CANCEL\r\n" } else { " ACK\r\n" };
        let text = match choice % 3 {
            2 => text,
            _ => text.replace(&format!(" {method}\r\n"), cseq),
        };
        self.say(connection, text.as_bytes());
        Some(())
    }

    /// A request in a dialog that stands, along the route that was signed for it.
    fn in_dialog(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let (choice, which) = (reader.next()?, reader.next()?);
        let stand: Vec<&Asked> = self.asked.iter().filter(|a| a.accepted.is_some()).collect();
        let asked = stand.get(which % stand.len().max(1))?;
        let ok = asked.accepted.clone()?;
        let method = ["BYE", "INFO", "INVITE", "ACK"][choice % 4];
        let lines = |name: &str| -> Vec<String> {
            let value = |line: &str| line.strip_prefix(&format!("{name}: ")).map(str::to_owned);
            ok.split("\r\n").filter_map(value).collect()
        };
        let (from, to) = (lines("From").pop()?, lines("To").pop()?);
        let call_id = lines("Call-ID").pop()?;
        let mut routes = lines("Record-Route");
        if choice & 0x40 != 0 {
            routes.pop();
        }
        let routes: String = routes.iter().rev().map(|r| format!("Route: {r}\r\n")).collect();
        // The target may be refused or unreadable: then nothing is expected but an answer.
        let number = self.asked.len();
        let text = format!(
            "{method} sip:target@h.example SIP/2.0\r\nVia: SIP/2.0/TLS \
             h.example;branch=z9hG4bKs{number}\r\n{routes}From: {from}\r\nTo: {to}\r\nCall-ID: \
             {call_id}\r\nCSeq: {} {method}\r\nContent-Length: 0\r\n\r\n",
            2 + number
        );
        let connection = match choice & 0x80 {
            0 => asked.connection,
            _ => self.connection(reader)?,
        };
        let outside = self.open.get(&connection)?.side != Side::Inside;
        let text = match method {
            "INVITE" | "ACK" => with_media(&text, outside, number),
            _ => text,
        };
        let bytes = text.clone().into_bytes();
        self.send(connection, method, text, &bytes, false)
    }

    /// An answer to a request that the proxy sent, mostly from where it went.
    fn answer(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let (which, status, choice) = (reader.next()?, reader.of(&STATUSES)?, reader.next()?);
        // The newest first.
        let back = which % self.got.len().max(1);
        let (at, request) = self.got.iter().rev().nth(back)?.clone();
        let at = if choice >= 0xf0 { self.connection(reader)? } else { at };
        let tag = if status == "100" { String::new() } else { format!(";tag=b{}", choice % 2) };
        let mut text = format!("SIP/2.0 {status} Said\r\n");
        for line in request.split("\r\n") {
            let name = line.split(':').next().unwrap_or_default();
            match name {
                "Via" | "Record-Route" | "From" | "Call-ID" | "CSeq" => {
                    text.push_str(&format!("{line}\r\n"));
                }
                "To" if line.contains(";tag=") => text.push_str(&format!("{line}\r\n")),
                "To" => text.push_str(&format!("{line}{tag}\r\n")),
                _ => {}
            }
        }
        text.push_str("Content-Length: 0\r\n\r\n");
        let outside = self.open.get(&at)?.side != Side::Inside;
        if request.starts_with("INVITE ") {
            text = with_media(&text, outside, choice / 2);
        }
        self.say(at, text.as_bytes());
        Some(())
    }

    fn resolve(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let (which, choice) = (reader.next()?, reader.next()?);
        if self.questions.is_empty() {
            return Some(());
        }
        let (query, question) = self.questions.remove(which % self.questions.len());
        let name = match question {
            Question::Federation(name) | Question::Host(name, _) => name,
            _ => domain("inside.example"),
        };
        let host = |label: &str, at: &str| ResolvedHost {
            host: domain(&format!("{label}.{name}")),
            port: 5061,
            addresses: vec![at.parse::<IpAddr>().expect("an address")],
        };
        let result = match choice % 6 {
            0 => Err(ResolveError::NotFound),
            1 => Err(ResolveError::Unavailable),
            2 => Ok(vec![host("other", "203.0.113.40")]),
            3 => Ok(vec![host("sip", "203.0.113.20"), host("sip2", "2001:db8::21")]),
            _ => Ok(vec![host("sip", "203.0.113.20")]),
        };
        let valid_until = self.now + Duration::from_secs(if choice & 0x40 == 0 { 300 } else { 1 });
        let result = result.map(|hosts| Resolved { hosts, valid_until });
        self.input(Input::Resolved { query, result });
        Some(())
    }

    fn connect(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let (which, choice) = (reader.next()?, reader.next()?);
        if self.attempts.is_empty() {
            return Some(());
        }
        let (attempt, target) = self.attempts.remove(which % self.attempts.len());
        if choice % 4 == 0 {
            let error = ConnectError::Tcp("refused".into());
            self.input(Input::ConnectFailed { attempt, error });
            return Some(());
        }
        let certificate = match (target.side, choice % 4) {
            (Side::Partner, 1) => reader.of(&CERTIFICATES)?,
            (Side::Partner, _) => CERTIFICATES[1],
            _ => CERTIFICATES[4],
        };
        let dialled = Some((attempt, target.address));
        self.open(target.side, target.transport, certificate, dialled);
        Some(())
    }
}
