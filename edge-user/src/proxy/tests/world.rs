//! The world around the edges: connections, DNS and a clock.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    config::{AllowedDomain, BlockedDomain, Federation, Host, NextHop, Transport},
    domain::Domain,
    federation::{CertificateNames, Policy},
    media::{
        calls::CallSettings,
        flow::{Flow, FlowId, MediaChange},
    },
    proxy::*,
    sip::{Limits, Message},
};

pub(crate) const CONTOSO: usize = 0;
pub(crate) const FABRIKAM: usize = 1;

/// The far end of an edge's connection.
#[derive(Clone, Copy, Debug)]
enum Far {
    Edge(usize, ConnectionId),
    Script,
}

/// Who listens at an address.
#[derive(Clone)]
pub(crate) enum Listener {
    Edge(usize),
    /// A script, with these names in its certificate.
    Script(Arc<CertificateNames>),
    /// Nobody can talk to it.
    Fails(ConnectError),
    /// What connects to it hears nothing; the attempts.
    Silent,
    /// Opens over UDP and takes no TCP.
    UdpOnly(Arc<CertificateNames>),
    /// Opens over UDP; of TCP nothing is heard.
    UdpAndSilence(Arc<CertificateNames>),
}

pub(crate) struct Edge {
    pub proxy: Proxy,
    pub names: Arc<CertificateNames>,
    pub address: SocketAddr,
    far: HashMap<ConnectionId, Far>,
    pub mail: Vec<(ConnectionId, Bytes)>,
    pub closed: Vec<(ConnectionId, Refusal)>,
    pub released: Vec<ConnectionId>,
    pub events: Vec<Event>,
    pub questions: Vec<Question>,
    pub connects: Vec<SocketAddr>,
    /// Those that hear nothing.
    pub attempts: Vec<(AttemptId, Target)>,
    /// Media flows that are open.
    pub flows: BTreeMap<FlowId, Flow>,
    /// How many were open when each message was sent.
    pub open_at: Vec<usize>,
}

pub(crate) struct World {
    pub now: Instant,
    pub edges: Vec<Edge>,
    pub listeners: HashMap<SocketAddr, Listener>,
    /// What DNS answers; a question that is not here is never answered.
    pub dns: HashMap<Question, Result<Vec<ResolvedHost>, ResolveError>>,
    /// Answers that are signed.
    pub signed: Vec<Question>,
    next: u64,
}

pub(crate) fn domain(text: &str) -> Domain {
    text.parse().unwrap()
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn names(dns: &[&str]) -> Arc<CertificateNames> {
    Arc::new(CertificateNames {
        dns: dns.iter().map(|name| domain(name)).collect(),
        description: format!("{dns:?}"),
        ..CertificateNames::default()
    })
}

pub(crate) fn allow(name: &str) -> AllowedDomain {
    AllowedDomain::new(domain(name))
}

pub(crate) fn federation(allowed: &[AllowedDomain], blocked: &[&str]) -> Federation {
    Federation {
        enabled: true,
        allowed_domains: allowed.to_vec(),
        blocked_domains: blocked
            .iter()
            .map(|name| BlockedDomain { domain: domain(name), subdomains: true })
            .collect(),
        ..Federation::default()
    }
}

pub(crate) fn policy(ours: &str, allowed: &[AllowedDomain], blocked: &[&str]) -> Arc<Policy> {
    Arc::new(Policy::new(&[domain(ours)], &federation(allowed, blocked)))
}

pub(crate) fn host(name: &str, addresses: &[&str]) -> ResolvedHost {
    ResolvedHost {
        host: domain(name),
        port: 5061,
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

pub(crate) fn hop(address: &str, transport: Transport) -> NextHop {
    let address: SocketAddr = address.parse().unwrap();
    NextHop { host: Host::Address(address.ip()), port: address.port(), transport }
}

fn settings(fqdn: &str, outside: &str, inside: &str, hops: &[NextHop]) -> ProxyConfig {
    ProxyConfig {
        fqdn: domain(fqdn),
        outside: vec![address(outside)],
        inside: vec![
            (Transport::Tls, address(&format!("{inside}:5061"))),
            (Transport::Tcp, address(&format!("{inside}:5060"))),
            (Transport::Udp, address(&format!("{inside}:5060"))),
        ],
        identities: vec![],
        remote: RemoteSettings::default(),
        next_hops: hops.to_vec(),
        routed_only: 0,
        routes: vec![],
        probe: None,
        bounds: Bounds::default(),
        media: CallSettings::default(),
        token_secret: [fqdn.len() as u8; 32],
        former_secret: None,
        unix_time: 1_790_000_000,
    }
}

impl World {
    /// contoso (two next hops) and fabrikam (one), which allow each other and prove their
    /// domains.
    pub(crate) fn new() -> Self {
        let mut world = Self {
            now: Instant::now(),
            edges: vec![],
            listeners: HashMap::new(),
            dns: HashMap::new(),
            signed: vec![],
            next: 1,
        };
        let tcp = Transport::Tcp;
        world.add(
            settings(
                "edge.contoso.example",
                "203.0.113.10:5061",
                "10.0.0.10",
                &[hop("10.0.0.21:5060", tcp), hop("10.0.0.22:5060", tcp)],
            ),
            policy("contoso.example", &[allow("fabrikam.example")], &[]),
            &["edge.contoso.example", "contoso.example"],
        );
        world.add(
            settings(
                "sip.fabrikam.example",
                "203.0.113.20:5061",
                "10.1.0.10",
                &[hop("10.1.0.21:5060", tcp)],
            ),
            policy("fabrikam.example", &[allow("contoso.example")], &[]),
            &["sip.fabrikam.example"],
        );
        for listener in ["10.0.0.21:5060", "10.0.0.22:5060", "10.1.0.21:5060"] {
            world.listeners.insert(address(listener), Listener::Script(names(&[])));
        }
        let fabrikam = vec![host("sip.fabrikam.example", &["203.0.113.20"])];
        let contoso = vec![host("edge.contoso.example", &["203.0.113.10"])];
        world.dns.insert(Question::Federation(domain("fabrikam.example")), Ok(fabrikam));
        world.dns.insert(Question::Federation(domain("contoso.example")), Ok(contoso));
        world
    }

    pub(crate) fn add(&mut self, config: ProxyConfig, policy: Arc<Policy>, sans: &[&str]) {
        let address = config.outside[0];
        self.listeners.insert(address, Listener::Edge(self.edges.len()));
        self.edges.push(Edge {
            proxy: Proxy::new(self.now, config, policy),
            names: names(sans),
            address,
            far: HashMap::new(),
            mail: vec![],
            closed: vec![],
            released: vec![],
            events: vec![],
            questions: vec![],
            connects: vec![],
            attempts: vec![],
            flows: BTreeMap::new(),
            open_at: vec![],
        });
    }

    /// Changes an edge's settings before anything happened.
    pub(crate) fn configure(&mut self, edge: usize, change: impl FnOnce(&mut ProxyConfig)) {
        let proxy = &self.edges[edge].proxy;
        let (mut config, policy) = (proxy.config.clone(), proxy.policy.clone());
        change(&mut config);
        self.edges[edge].proxy = Proxy::new(self.now, config, policy);
    }

    /// Calls the proxy itself.
    pub(crate) fn act<R>(
        &mut self,
        edge: usize,
        act: impl FnOnce(&mut Proxy, Instant, &mut Vec<Output>) -> R,
    ) -> R {
        let mut out = vec![];
        let result = act(&mut self.edges[edge].proxy, self.now, &mut out);
        self.carry_out(edge, out);
        result
    }

    /// Changes an edge's settings while it runs.
    pub(crate) fn reconfigure(&mut self, edge: usize, change: impl FnOnce(&mut ProxyConfig)) {
        let mut config = self.edges[edge].proxy.config.clone();
        change(&mut config);
        self.edges[edge].proxy.set_config(config);
    }

    pub(crate) fn set_policy(&mut self, edge: usize, policy: Arc<Policy>) {
        let mut out = vec![];
        self.edges[edge].proxy.set_policy(self.now, policy, &mut out);
        self.carry_out(edge, out);
    }

    fn connection(&mut self) -> ConnectionId {
        self.next += 1;
        ConnectionId(self.next)
    }

    fn opened(
        &mut self,
        edge: usize,
        side: Side,
        transport: Transport,
        remote: SocketAddr,
        names: Arc<CertificateNames>,
        attempt: Option<AttemptId>,
    ) -> ConnectionId {
        self.opened_as(edge, (side, transport, 0), remote, names, attempt)
    }

    /// The same, as one of our own identities.
    fn opened_as(
        &mut self,
        edge: usize,
        (side, transport, own): (Side, Transport, u8),
        remote: SocketAddr,
        names: Arc<CertificateNames>,
        attempt: Option<AttemptId>,
    ) -> ConnectionId {
        let connection = self.connection();
        self.edges[edge].far.insert(connection, Far::Script);
        let local = match side {
            Side::Partner | Side::Gateway => self.edges[edge].address,
            Side::Remote => SocketAddr::new(self.edges[edge].address.ip(), 443),
            Side::Inside => {
                let inside = &self.edges[edge].proxy.config.inside;
                inside.iter().find(|(own, _)| *own == transport).unwrap().1
            }
        };
        let peer = Peer { side, transport, remote, local, names, own };
        self.input(edge, Input::Opened { connection, peer, attempt });
        connection
    }

    /// An attempt that nothing was heard of ends well: a script with these names is there.
    pub(crate) fn script_opens(
        &mut self,
        edge: usize,
        attempt: AttemptId,
        target: &Target,
        names: Arc<CertificateNames>,
    ) -> ConnectionId {
        let kind = (target.side, target.transport, target.own);
        self.opened_as(edge, kind, target.address, names, Some(attempt))
    }

    /// A partner's script connects.
    pub(crate) fn partner(&mut self, edge: usize, remote: &str, sans: &[&str]) -> ConnectionId {
        let (remote, names) = (address(remote), names(sans));
        self.opened(edge, Side::Partner, Transport::Tls, remote, names, None)
    }

    /// The same, when it asked for one of our further identities.
    pub(crate) fn partner_asking(&mut self, edge: usize, remote: &str, own: u8) -> ConnectionId {
        let kind = (Side::Partner, Transport::Tls, own);
        self.opened_as(edge, kind, address(remote), names(&["fabrikam.example"]), None)
    }

    /// The same, with all of its certificate.
    pub(crate) fn partner_named(
        &mut self,
        edge: usize,
        remote: &str,
        names: CertificateNames,
    ) -> ConnectionId {
        let (remote, names) = (address(remote), Arc::new(names));
        self.opened(edge, Side::Partner, Transport::Tls, remote, names, None)
    }

    /// A remote user connects.
    pub(crate) fn remote(&mut self, edge: usize, remote: &str) -> ConnectionId {
        self.opened(edge, Side::Remote, Transport::Tls, address(remote), names(&[]), None)
    }

    /// The XMPP gateway is there.
    pub(crate) fn gateway(&mut self, edge: usize) -> ConnectionId {
        let remote = address("127.0.0.1:5269");
        self.opened(edge, Side::Gateway, Transport::Tls, remote, names(&[]), None)
    }

    /// A server inside connects.
    pub(crate) fn inside(&mut self, edge: usize, transport: Transport, at: &str) -> ConnectionId {
        self.opened(edge, Side::Inside, transport, address(at), names(&[]), None)
    }

    pub(crate) fn input(&mut self, edge: usize, input: Input) {
        let mut out = vec![];
        self.edges[edge].proxy.handle(self.now, input, &mut out);
        self.carry_out(edge, out);
    }

    /// A script sends.
    pub(crate) fn say(&mut self, edge: usize, connection: ConnectionId, text: &str) {
        self.say_bytes(edge, connection, text.as_bytes());
    }

    pub(crate) fn say_bytes(&mut self, edge: usize, connection: ConnectionId, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        match Message::parse_datagram(bytes, &Limits::default()) {
            Ok(message) => self.input(edge, Input::Message { connection, message }),
            Err(error) => self.input(edge, Input::Unreadable { connection, error }),
        }
    }

    /// A connection ends, for both.
    pub(crate) fn cut(&mut self, edge: usize, connection: ConnectionId) {
        let far = self.edges[edge].far.remove(&connection);
        self.input(edge, Input::Closed { connection });
        if let Some(Far::Edge(edge, connection)) = far {
            self.edges[edge].far.remove(&connection);
            self.input(edge, Input::Closed { connection });
        }
    }

    fn carry_out(&mut self, edge: usize, out: Vec<Output>) {
        for output in out {
            if matches!(output, Output::Send { .. }) {
                let open = self.edges[edge].flows.len();
                self.edges[edge].open_at.push(open);
            }
            match output {
                Output::Send { connection, bytes } => match self.edges[edge].far.get(&connection) {
                    Some(Far::Edge(far, at)) => {
                        let (far, at) = (*far, *at);
                        self.say_bytes(far, at, &bytes);
                    }
                    Some(Far::Script) => self.edges[edge].mail.push((connection, bytes)),
                    None => {}
                },
                Output::Connect { attempt, target } => self.connect(edge, attempt, target),
                Output::Resolve { query, question, lookup } => {
                    self.edges[edge].questions.push(question.clone());
                    let answer = match lookup.secure {
                        false => self.dns.get(&question).cloned(),
                        true => Some(self.signed(&question)),
                    };
                    if let Some(answer) = answer {
                        let valid_until = self.now + Duration::from_secs(300);
                        let result = answer.map(|hosts| Resolved { hosts, valid_until });
                        self.input(edge, Input::Resolved { query, result });
                    }
                }
                Output::Release { connection } => {
                    self.edges[edge].released.push(connection);
                    let far = self.edges[edge].far.remove(&connection);
                    if let Some(Far::Edge(far, at)) = far {
                        self.edges[far].far.remove(&at);
                        self.input(far, Input::Closed { connection: at });
                    }
                }
                Output::Close { connection, reason } => {
                    self.edges[edge].closed.push((connection, reason));
                    let far = self.edges[edge].far.remove(&connection);
                    if let Some(Far::Edge(far, at)) = far {
                        self.edges[far].far.remove(&at);
                        self.input(far, Input::Closed { connection: at });
                    }
                }
                Output::Media(changes) => {
                    for change in changes {
                        let flows = &mut self.edges[edge].flows;
                        match change {
                            MediaChange::Open(flow) => drop(flows.insert(flow.id, flow)),
                            MediaChange::Close(id) => drop(flows.remove(&id)),
                            MediaChange::CloseCall(call) => flows.retain(|_, f| f.call != call),
                            MediaChange::Expect(..) => {}
                        }
                    }
                }
                Output::Event(event) => self.edges[edge].events.push(event),
            }
        }
    }

    /// What DNS answers when only signed answers count.
    fn signed(&self, question: &Question) -> Result<Vec<ResolvedHost>, ResolveError> {
        match self.signed.contains(question) {
            true => self.dns.get(question).cloned().unwrap_or(Err(ResolveError::NotFound)),
            false => Err(ResolveError::NotSecure),
        }
    }

    fn connect(&mut self, edge: usize, attempt: AttemptId, target: Target) {
        self.edges[edge].connects.push(target.address);
        let Some(listener) = self.listeners.get(&target.address).cloned() else {
            let error = ConnectError::Tcp("refused".into());
            return self.input(edge, Input::ConnectFailed { attempt, error });
        };
        let (side, transport) = (target.side, target.transport);
        match listener {
            Listener::Fails(error) => {
                self.input(edge, Input::ConnectFailed { attempt, error });
            }
            Listener::Silent => self.edges[edge].attempts.push((attempt, target)),
            Listener::UdpOnly(_) if transport != Transport::Udp => {
                let error = ConnectError::Tcp("refused".into());
                self.input(edge, Input::ConnectFailed { attempt, error });
            }
            Listener::UdpAndSilence(_) if transport != Transport::Udp => {
                self.edges[edge].attempts.push((attempt, target));
            }
            Listener::Script(names) | Listener::UdpOnly(names) | Listener::UdpAndSilence(names) => {
                let at = target.address;
                let kind = (side, transport, target.own);
                self.opened_as(edge, kind, at, names, Some(attempt));
            }
            Listener::Edge(far) => {
                // Both ends get an id before either hears of the connection.
                let (near_id, far_id) = (self.connection(), self.connection());
                let near = (self.edges[edge].names.clone(), self.edges[edge].address);
                let far_names = self.edges[far].names.clone();
                self.edges[edge].far.insert(near_id, Far::Edge(far, far_id));
                self.edges[far].far.insert(far_id, Far::Edge(edge, near_id));
                let ephemeral = SocketAddr::new(near.1.ip(), 40_000 + (near_id.0 as u16));
                let accepted = Peer {
                    side: Side::Partner,
                    transport,
                    remote: ephemeral,
                    local: target.address,
                    names: near.0,
                    own: 0,
                };
                let opened = Peer {
                    side,
                    transport,
                    remote: target.address,
                    local: ephemeral,
                    names: far_names,
                    own: target.own,
                };
                let input = |connection, peer, attempt| Input::Opened { connection, peer, attempt };
                self.input(far, input(far_id, accepted, None));
                self.input(edge, input(near_id, opened, Some(attempt)));
            }
        }
    }

    /// Time goes by; timers fire when they are due.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.edges.iter().filter_map(|edge| edge.proxy.next_timeout()).min();
            match next.filter(|at| *at <= end) {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
            for edge in 0..self.edges.len() {
                if self.edges[edge].proxy.next_timeout().is_some_and(|at| at <= self.now) {
                    let mut out = vec![];
                    self.edges[edge].proxy.on_timeout(self.now, &mut out);
                    self.carry_out(edge, out);
                }
            }
        }
        self.now = end;
    }

    /// Everything that scripts got from an edge, oldest first.
    pub(crate) fn mail(&mut self, edge: usize) -> Vec<(ConnectionId, String)> {
        let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
        self.edges[edge].mail.drain(..).map(|(at, bytes)| (at, text(bytes))).collect()
    }

    /// The one message that scripts got from an edge.
    pub(crate) fn one(&mut self, edge: usize) -> (ConnectionId, String) {
        let mut mail = self.mail(edge);
        assert_eq!(mail.len(), 1, "{mail:#?}");
        mail.remove(0)
    }

    /// The one message, which goes to this connection and begins so.
    pub(crate) fn expect(&mut self, edge: usize, at: ConnectionId, begins: &str) -> String {
        let (connection, text) = self.one(edge);
        assert_eq!(connection, at, "{text}");
        assert!(text.starts_with(begins), "expected {begins}, got {text}");
        text
    }

    /// Where the message that begins so went, among what scripts got from an edge.
    pub(crate) fn one_of(&mut self, edge: usize, begins: &str) -> ConnectionId {
        let mail = self.mail(edge);
        let found = mail.iter().find(|(_, got)| got.starts_with(begins));
        found.unwrap_or_else(|| panic!("no {begins} in {mail:#?}")).0
    }

    pub(crate) fn refused(&self, edge: usize, reason: Refusal) -> u64 {
        self.edges[edge].proxy.counters().refused(reason)
    }

    pub(crate) fn live(&self) -> usize {
        self.edges.iter().map(|edge| edge.proxy.counters().transactions).sum()
    }
}

/// A request as a script writes it.
#[derive(Clone, Debug)]
pub(crate) struct Req {
    pub method: &'static str,
    pub uri: String,
    pub from: String,
    pub to: String,
    pub call_id: String,
    pub cseq: u32,
    pub branch: String,
    pub transport: &'static str,
    pub sent_by: String,
    pub headers: Vec<String>,
    pub body: String,
}

impl Req {
    /// From alice@`from` to bob@`to`.
    pub(crate) fn new(method: &'static str, from: &str, to: &str) -> Self {
        Self {
            method,
            uri: format!("sip:bob@{to}"),
            from: format!("<sip:alice@{from}>;tag=a1"),
            to: format!("<sip:bob@{to}>"),
            call_id: "call-1".into(),
            cseq: 1,
            branch: "z9hG4bK-1".into(),
            transport: "TLS",
            sent_by: "host.invalid".into(),
            headers: vec!["Max-Forwards: 70".into()],
            body: String::new(),
        }
    }

    pub(crate) fn with(mut self, header: impl Into<String>) -> Self {
        self.headers.push(header.into());
        self
    }

    pub(crate) fn branch(mut self, branch: &str) -> Self {
        self.branch = format!("z9hG4bK-{branch}");
        self
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{} {} SIP/2.0\r\nVia: SIP/2.0/{} {};branch={};rport\r\n",
            self.method, self.uri, self.transport, self.sent_by, self.branch
        );
        for header in &self.headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        text.push_str(&format!(
            "From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} {}\r\nContent-Length: {}\r\n\r\n{}",
            self.from,
            self.to,
            self.call_id,
            self.cseq,
            self.method,
            self.body.len(),
            self.body
        ));
        text
    }
}

/// The header lines of a message with a name, in order.
pub(crate) fn headers<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.split("\r\n\r\n")
        .next()
        .unwrap_or("")
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .filter(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

/// The answer of a server to a request that it got.
pub(crate) fn answer(request: &str, status: &str, tag: Option<&str>) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
        for value in headers(request, name) {
            let tag = match tag {
                Some(tag) if name == "To" && !value.contains(";tag=") => format!(";tag={tag}"),
                _ => String::new(),
            };
            text.push_str(&format!("{name}: {value}{tag}\r\n"));
        }
    }
    text + "Content-Length: 0\r\n\r\n"
}

/// The same by way of servers that wrote these Record-Route values, the topmost first.
pub(crate) fn answer_through(
    request: &str,
    status: &str,
    tag: Option<&str>,
    recorded: &[&str],
) -> String {
    let recorded: String = recorded.iter().map(|v| format!("Record-Route: {v}\r\n")).collect();
    let text = answer(request, status, tag);
    text.replacen("Record-Route: ", &format!("{recorded}Record-Route: "), 1)
}
