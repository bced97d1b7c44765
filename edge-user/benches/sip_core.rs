//! What a message costs in the core, without a socket: time (the best of many rounds) and
//! allocations. `cargo bench -p edge-user --bench sip_core`.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use edge_user::{
    config::{AllowedDomain, Federation, Host, NextHop, Transport},
    domain::Domain,
    federation::{CertificateNames, Policy},
    proxy::{Bounds, ConnectionId, Input, Output, Peer, Proxy, ProxyConfig, RemoteSettings, Side},
    sip::{ForwardRequest, ForwardResponse, Limits, Message, Received},
};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// Counts.
struct Counting;

// SAFETY: every call goes to the system's allocator, with what it was called with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROUNDS: usize = 200;
const TIMES: u32 = 200;

fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    if wanted("parts") {
        parts();
    }
    if wanted("call") {
        for inbound in [true, false] {
            for transport in [Transport::Tcp, Transport::Udp] {
                calls(inbound, transport);
            }
        }
    }
    if wanted("residue") {
        residues();
    }
}

fn invite() -> String {
    let body = "v=0\r\no=- 20518 0 IN IP4 203.0.113.1\r\ns=-\r\nc=IN IP4 203.0.113.1\r\n\
        t=0 0\r\nm=audio 54400 RTP/SAVP 0 8 97\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:97 iLBC/8000\r\n";
    format!(
        "INVITE sip:bob@contoso.example SIP/2.0\r\n\
         Via: SIP/2.0/TLS sip.fabrikam.example:5061;branch=z9hG4bK74bf9;rport\r\n\
         Max-Forwards: 70\r\n\
         From: \"Alice\" <sip:alice@fabrikam.example>;tag=9fxced76sl\r\n\
         To: \"Bob\" <sip:bob@contoso.example>\r\n\
         Call-ID: 3848276298220188511@fabrikam.example\r\n\
         CSeq: 1 INVITE\r\n\
         Contact: <sip:alice@192.0.2.101:5061;transport=tls>\r\n\
         User-Agent: UCCAPI/15.0.4420.1017 OC/15.0.4420.1017\r\n\
         Supported: timer, 100rel, replaces, ms-early-media\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE, INFO, UPDATE\r\n\
         Content-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The best time of one call, and its allocations.
fn measure(name: &str, mut work: impl FnMut()) {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..TIMES {
            work();
        }
        best = best.min(start.elapsed() / TIMES);
    }
    println!("{name:<32} {:>8} ns {allocations:>6} allocations", best.as_nanos());
}

fn parts() {
    let limits = Limits::default();
    let text = Bytes::from(invite());
    let parse = |bytes: &Bytes| Message::parse_datagram(bytes.clone(), &limits);
    let message = parse(&text).expect("an INVITE");
    measure("index", || {
        black_box(parse(&text).is_ok());
    });
    measure("index and validate", || {
        black_box(parse(&text).is_ok_and(|message| message.validate().is_ok()));
    });
    let via = "SIP/2.0/TLS edge.contoso.example:5061;branch=z9hG4bK0123456789abcdef01deadbeef";
    let token = "AQAAAMO".repeat(16);
    let route = format!("<sip:{token}@edge.contoso.example:5061;transport=tls;lr>");
    let address = "198.51.100.7".parse().expect("an address");
    let routes = [route.as_str(), route.as_str()];
    let mut forward = ForwardRequest::new(via, 69);
    forward.received = Some(Received { address, port: 40_000 });
    forward.record_routes = &routes;
    measure("forward request", || {
        black_box(forward.apply(&message).is_ok());
    });
    measure("index, validate, forward", || {
        let forwarded = parse(&text)
            .is_ok_and(|message| message.validate().is_ok() && forward.apply(&message).is_ok());
        black_box(forwarded);
    });
    let sent = forward.apply(&message).expect("forwarded");
    let request = parse(&sent).expect("an INVITE");
    let response = Bytes::from(answer(&request, "200 OK", Some("b1")));
    let response = parse(&response).expect("a response");
    let changed = [(0, route.as_str()), (1, route.as_str())];
    let back = ForwardResponse { record_routes: &changed, ..ForwardResponse::default() };
    measure("forward response", || {
        black_box(back.apply(&response).is_ok());
    });
    let text = invite();
    measure("rsip parse and serialise", || {
        let message = rsip::SipMessage::try_from(text.as_str()).expect("an INVITE");
        black_box(message.to_string());
    });
}

/// The answer of a server.
fn answer(request: &Message, status: &str, tag: Option<&str>) -> String {
    use edge_user::sip::HeaderName as Name;
    let mut text = format!("SIP/2.0 {status}\r\n");
    for header in request.all_headers() {
        let copied = [Name::Via, Name::RecordRoute, Name::From, Name::To, Name::CallId, Name::CSeq];
        if copied.contains(&header.name) {
            let value = String::from_utf8_lossy(header.value);
            text.push_str(&format!("{}: {value}", header.raw_name));
            if let Some(tag) = tag.filter(|_| header.name == Name::To && !value.contains(";tag=")) {
                text.push_str(&format!(";tag={tag}"));
            }
            text.push_str("\r\n");
        }
    }
    text + "Contact: <sip:bob@10.0.0.21:5060;transport=tcp>\r\nContent-Length: 0\r\n\r\n"
}

fn domain(text: &str) -> Domain {
    text.parse().expect("a domain")
}

/// A proxy with a partner and a server inside, each connected.
struct World {
    proxy: Proxy,
    now: Instant,
    partner: ConnectionId,
    inside: ConnectionId,
    out: Vec<Output>,
    time: Duration,
    allocations: usize,
    messages: u32,
}

impl World {
    fn new(transport: Transport) -> Self {
        let address = |text: &str| text.parse::<std::net::SocketAddr>().expect("an address");
        let hop =
            NextHop { host: Host::Address(address("10.0.0.21:5060").ip()), port: 5060, transport };
        let config = ProxyConfig {
            fqdn: domain("edge.contoso.example"),
            outside: vec![address("203.0.113.10:5061")],
            inside: vec![
                (Transport::Tcp, address("10.0.0.10:5060")),
                (Transport::Udp, address("10.0.0.10:5060")),
            ],
            identities: Vec::new(),
            remote: RemoteSettings::default(),
            next_hops: vec![hop],
            routed_only: 0,
            routes: vec![],
            probe: None,
            bounds: Bounds::default(),
            media: edge_user::media::calls::CallSettings::default(),
            token_secret: [7; 32],
            former_secret: None,
            unix_time: 1_790_000_000,
        };
        let federation = Federation {
            enabled: true,
            allowed_domains: vec![AllowedDomain::new(domain("fabrikam.example"))],
            ..Federation::default()
        };
        let policy = Arc::new(Policy::new(&[domain("contoso.example")], &federation));
        let now = Instant::now();
        let names = CertificateNames {
            dns: vec![domain("fabrikam.example"), domain("sip.fabrikam.example")],
            ..CertificateNames::default()
        };
        let (partner, inside) = (ConnectionId(1), ConnectionId(2));
        let mut world = Self {
            proxy: Proxy::new(now, config, policy),
            now,
            partner,
            inside,
            out: Vec::new(),
            time: Duration::ZERO,
            allocations: 0,
            messages: 0,
        };
        let peer = Peer {
            side: Side::Partner,
            transport: Transport::Tls,
            remote: address("203.0.113.20:40000"),
            local: address("203.0.113.10:5061"),
            names: Arc::new(names),
            own: 0,
        };
        world.handle(Input::Opened { connection: partner, peer, attempt: None });
        let first = invite().replace("INVITE", "OPTIONS");
        world.say(partner, first);
        let attempt = world.out.iter().find_map(|output| match output {
            Output::Connect { attempt, .. } => Some(*attempt),
            _ => None,
        });
        let peer = Peer {
            side: Side::Inside,
            transport,
            remote: address("10.0.0.21:5060"),
            local: address("10.0.0.10:5060"),
            names: Arc::default(),
            own: 0,
        };
        world.handle(Input::Opened { connection: inside, peer, attempt });
        let sent = world.sent(inside).pop().expect("forwarded");
        world.say(inside, answer(&sent, "200 OK", Some("o")));
        (world.time, world.allocations, world.messages) = (Duration::ZERO, 0, 0);
        world
    }

    fn handle(&mut self, input: Input) {
        self.out.clear();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let start = Instant::now();
        self.proxy.handle(self.now, input, &mut self.out);
        self.time += start.elapsed();
        self.allocations += ALLOCATIONS.load(Ordering::Relaxed) - before;
        self.messages += 1;
    }

    fn say(&mut self, connection: ConnectionId, text: String) {
        let message = Message::parse_datagram(Bytes::from(text), &Limits::default());
        self.handle(Input::Message { connection, message: message.expect("a message") });
    }

    fn sent(&self, to: ConnectionId) -> Vec<Message> {
        self.out
            .iter()
            .filter_map(|output| match output {
                Output::Send { connection, bytes } if *connection == to => {
                    Message::parse_datagram(bytes.clone(), &Limits::default()).ok()
                }
                _ => None,
            })
            .collect()
    }

    /// INVITE, 100, 180, 200, ACK, BYE, 200: seven messages come in.
    fn call(&mut self, inbound: bool, number: usize) {
        let (caller, callee) =
            if inbound { (self.partner, self.inside) } else { (self.inside, self.partner) };
        let mut text = invite().replace("3848276298220188511", &format!("{number:016}"));
        text = text.replace("74bf9", &format!("{number:08}a"));
        if !inbound {
            text = text
                .replace("bob@contoso", "bob@FABRIKAM")
                .replace("alice@fabrikam", "alice@contoso")
                .replace("FABRIKAM", "fabrikam");
        }
        self.say(caller, text);
        let got = self.sent(callee).pop().expect("an INVITE");
        self.say(callee, answer(&got, "100 Trying", None));
        self.say(callee, answer(&got, "180 Ringing", Some("b1")));
        self.say(callee, answer(&got, "200 OK", Some("b1")));
        let ok = self.sent(caller).pop().expect("a 200");
        for (method, cseq) in [("ACK", 1), ("BYE", 2)] {
            self.say(caller, in_dialog(&ok, method, cseq, number));
            let got = self.sent(callee).pop().expect(method);
            if method == "BYE" {
                self.say(callee, answer(&got, "200 OK", None));
                assert_eq!(self.sent(caller).len(), 1);
            }
        }
    }
}

/// A request of the caller's, by the 200 that it got.
fn in_dialog(ok: &Message, method: &str, cseq: u32, number: usize) -> String {
    use edge_user::sip::HeaderName as Name;
    let mut text = format!(
        "{method} sip:bob@10.0.0.21:5060;transport=tcp SIP/2.0\r\n\
         Via: SIP/2.0/TLS sip.fabrikam.example:5061;branch=z9hG4bK{number:08}{method};rport\r\n\
         Max-Forwards: 70\r\n"
    );
    let routes: Vec<_> = ok.list(Name::RecordRoute).map(|element| element.value).collect();
    for route in routes.iter().rev() {
        text.push_str(&format!("Route: {}\r\n", String::from_utf8_lossy(route)));
    }
    for name in [Name::From, Name::To, Name::CallId] {
        let value = ok.text(name).unwrap_or_default();
        text.push_str(&format!("{}: {value}\r\n", name.as_str()));
    }
    text + &format!("CSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n")
}

fn calls(inbound: bool, transport: Transport) {
    let mut best = f64::MAX;
    let mut allocations = 0.0;
    for _ in 0..10 {
        let mut world = World::new(transport);
        for number in 0..2000 {
            world.call(inbound, number);
            // A thousand calls a second.
            world.now += Duration::from_millis(1);
        }
        best = best.min(world.time.as_nanos() as f64 / f64::from(world.messages));
        allocations = world.allocations as f64 / f64::from(world.messages);
    }
    let way = if inbound { "from outside" } else { "from inside" };
    println!(
        "call {way}, {transport:?} inside: {best:.0} ns and {allocations:.2} allocations a message"
    );
}

/// What 200,000 accepted calls hold.
fn residues() {
    let mut world = World::new(Transport::Tcp);
    let before = BYTES.load(Ordering::Relaxed);
    for number in 0..200_000 {
        world.call(true, number);
        world.now += Duration::from_micros(100);
    }
    let held = BYTES.load(Ordering::Relaxed).saturating_sub(before);
    let live = world.proxy.counters().transactions;
    println!("200,000 accepted calls: {} KiB held, {live} live", held / 1024);
    assert!(held < 64 * 1024 * 1024, "{held} bytes");
    assert_eq!(live, 0);
}
