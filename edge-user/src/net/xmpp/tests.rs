//! Two shells with cores that do what the test says: TLS on the same socket in both roles, what
//! certificates are worth, bounds.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

use super::*;
use crate::{
    config::{Config, XmppService, tests_support::Folder},
    domain::Domain,
    net::{
        LowPriority,
        low_priority::Busy,
        testing::{Authority, Issued, Leaf, PATIENCE, begun, from, loopback, write_files},
    },
    xmpp::io::{
        DialId, Pair, PeerCertificate, StreamId, TlsPeer, XmppOutput, XmppRefusal, XmppTarget,
    },
};

/// Tells what it hears.
struct Toy {
    heard: mpsc::UnboundedSender<XmppInput>,
}

impl XmppCore for Toy {
    fn handle(&mut self, _now: Instant, input: XmppInput, _out: &mut Vec<SiteOutput>) {
        let _ = self.heard.send(input);
    }

    fn sip(&mut self, _now: Instant, _message: Message, _out: &mut Vec<SiteOutput>) {}

    fn next_timeout(&self) -> Option<Instant> {
        None
    }

    fn on_timeout(&mut self, _now: Instant, _out: &mut Vec<SiteOutput>) {}

    fn stop(&mut self, _now: Instant, _out: &mut Vec<SiteOutput>) {}
}

/// One shell and what its core hears.
struct End {
    shell: XmppHandle<Toy>,
    heard: mpsc::UnboundedReceiver<XmppInput>,
    events: Arc<Mutex<Vec<XmppEvent>>>,
    sip: mpsc::Receiver<Bytes>,
    _folder: Folder,
}

fn d(text: &str) -> Domain {
    text.parse().unwrap()
}

fn pair(local: &str, remote: &str) -> Pair {
    Pair { local: d(local), remote: d(remote) }
}

impl End {
    async fn new(own: &Issued, trust: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::on(LowPriority::none(), own, trust, change).await
    }

    async fn on(
        low_priority: LowPriority,
        own: &Issued,
        trust: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let folder = Folder::new();
        let files = write_files(&folder, "edge", own, trust);
        let mut config = loopback(files.clone());
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        config.services.xmpp =
            Some(XmppService { direct_tls: vec![any], ..XmppService::at(vec![any], files) });
        change(&mut config);
        let tls = Arc::new(TlsStore::load(&config).unwrap());
        let resolver = Resolver::new(&config).unwrap();
        let (sender, heard) = mpsc::unbounded_channel();
        let events = Arc::<Mutex<Vec<XmppEvent>>>::default();
        let seen = Arc::clone(&events);
        let (to_sip, sip) = mpsc::channel(16);
        let config = Arc::new(config);
        let doors = XmppShell::bind(&config, false).unwrap();
        let parts = XmppParts {
            core: Toy { heard: sender },
            config,
            tls,
            resolver,
            events: Arc::new(move |event| seen.lock().unwrap().push(event)),
            low_priority,
            sip: to_sip,
        };
        let shell = XmppShell::start(parts, doors);
        Self { shell, heard, events, sip, _folder: folder }
    }

    fn at(&self, direct: bool) -> SocketAddr {
        self.shell.listening().into_iter().find(|(_, tls, _)| *tls == direct).unwrap().2
    }

    async fn next(&mut self) -> XmppInput {
        tokio::time::timeout(PATIENCE, self.heard.recv()).await.expect("in time").expect("runs")
    }

    fn say(&self, output: XmppOutput) {
        self.shell.with_core(|_, _, out| out.push(SiteOutput::Stream(output)));
    }

    fn write(&self, stream: StreamId, text: &'static str) {
        self.say(XmppOutput::Write { stream, bytes: Bytes::from_static(text.as_bytes()) });
    }

    fn connect(&self, address: SocketAddr, direct_tls: bool, local: &str, remote: &str) {
        let target = XmppTarget {
            side: XmppSide::Partner,
            address,
            direct_tls,
            server_name: d(remote),
            local: d(local),
        };
        self.say(XmppOutput::Connect { dial: DialId(1), target });
    }

    /// The next stream, whatever others end meanwhile.
    async fn accepted(&mut self) -> StreamId {
        loop {
            match self.next().await {
                XmppInput::Accepted { stream, .. } => return stream,
                XmppInput::Closed { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Everything that comes until this text is whole.
    async fn hears(&mut self, text: &str) {
        let mut heard = String::new();
        while heard.len() < text.len() {
            match self.next().await {
                XmppInput::Bytes { bytes, .. } => {
                    heard.push_str(std::str::from_utf8(&bytes).unwrap())
                }
                other => panic!("{other:?} after {heard:?}"),
            }
        }
        assert_eq!(heard, text);
    }

    async fn tls(&mut self) -> TlsPeer {
        match self.next().await {
            XmppInput::TlsDone { tls, .. } => tls,
            other => panic!("{other:?}"),
        }
    }
}

/// A stream from the one to the other, without TLS.
async fn joined(from: &mut End, to: &mut End) -> (StreamId, StreamId) {
    from.connect(to.at(false), false, "a.example", "b.example");
    let XmppInput::Connected { stream: ours, tls: None, .. } = from.next().await else { panic!() };
    let XmppInput::Accepted { stream: theirs, side: XmppSide::Partner, tls: None, .. } =
        to.next().await
    else {
        panic!()
    };
    (ours, theirs)
}

/// TLS on a stream that stands; what each found out.
async fn begin_tls(
    (client, ours): (&mut End, StreamId),
    (server, theirs): (&mut End, StreamId),
) -> (TlsPeer, TlsPeer) {
    server.write(theirs, "<proceed/>");
    let (ab, ba) = (pair("a.example", "b.example"), pair("b.example", "a.example"));
    server.say(XmppOutput::StartTls { stream: theirs, accepting: true, pair: ba });
    client.hears("<proceed/>").await;
    client.say(XmppOutput::StartTls { stream: ours, accepting: false, pair: ab });
    (client.tls().await, server.tls().await)
}

fn valid(peer: &TlsPeer, domain: &str) -> bool {
    match &peer.certificate {
        PeerCertificate::Valid(names) => names.proves(&d(domain), true),
        _ => false,
    }
}

fn fault(peer: &TlsPeer) -> String {
    match &peer.certificate {
        PeerCertificate::Invalid { description, fault } => format!("{description}: {fault}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn tls_begins_on_the_same_socket_in_both_roles_and_says_what_both_are_worth() {
    let root = Authority::new("root");
    let (a, b) = (root.dns(&["a.example"]), root.dns(&["b.example", "*.b.example"]));
    let mut client = End::new(&a, &root.pem, |_| {}).await;
    let mut server = End::new(&b, &root.pem, |_| {}).await;
    let (ours, theirs) = joined(&mut client, &mut server).await;
    client.write(ours, "<stream>");
    server.hears("<stream>").await;
    let (of_server, of_client) = begin_tls((&mut client, ours), (&mut server, theirs)).await;
    assert!(valid(&of_client, "a.example") && !valid(&of_client, "b.example"));
    assert!(valid(&of_server, "b.example") && valid(&of_server, "a.b.example"));
    assert!(!valid(&of_server, "a.a.b.example"));
    assert_eq!(of_client.version, "TLSv1.3");
    assert!(of_client.cipher.contains("TLS13"), "{}", of_client.cipher);
    client.write(ours, "after");
    server.hears("after").await;
    server.write(theirs, "back");
    client.hears("back").await;
    // What is shown of it.
    let proved = pair("b.example", "a.example");
    let remote = client.at(false);
    server.say(XmppOutput::Event(XmppEvent::Proved {
        stream: theirs,
        pair: proved.clone(),
        how: "sasl-external",
        side: XmppSide::Partner,
        remote,
        names: None,
    }));
    let streams = server.shell.streams();
    assert_eq!(streams.len(), 1);
    assert_eq!(streams[0].proved, [(proved, "sasl-external")]);
    assert!(streams[0].tls.is_some() && !streams[0].outbound && streams[0].bytes_in > 0);
    // We close: the other end hears of it, and so do we.
    server.say(XmppOutput::Close { stream: theirs });
    assert!(matches!(server.next().await, XmppInput::Closed { fault: None, .. }));
    assert!(matches!(client.next().await, XmppInput::Closed { fault: None, .. }));
    assert!(server.shell.streams().is_empty());
}

#[tokio::test]
async fn a_bad_certificate_goes_through_and_is_told() {
    let (root, other) = (Authority::new("root"), Authority::new("other"));
    let foreign = other.dns(&["b.example"]);
    let own = Issued::by_itself(&["b.example"]);
    let usages = &[rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    let code = root.issue(&Leaf { dns: &["b.example"], usages, ..Leaf::default() });
    for (certificate, words) in
        [(&foreign, "UnknownIssuer"), (&own, "UnknownIssuer"), (&code, "extended key usage")]
    {
        let mut client = End::new(&root.dns(&["a.example"]), &root.pem, |_| {}).await;
        let mut server = End::new(certificate, &root.pem, |_| {}).await;
        let (ours, theirs) = joined(&mut client, &mut server).await;
        let (of_server, of_client) = begin_tls((&mut client, ours), (&mut server, theirs)).await;
        assert!(valid(&of_client, "a.example"));
        assert!(fault(&of_server).contains(words), "{}", fault(&of_server));
        client.write(ours, "all the same");
        server.hears("all the same").await;
    }
}

#[tokio::test]
async fn direct_tls_stands_before_the_core_hears_of_it_and_a_client_may_show_nothing() {
    let root = Authority::new("root");
    let mut client = End::new(&root.dns(&["a.example"]), &root.pem, |_| {}).await;
    let mut server = End::new(&root.dns(&["b.example"]), &root.pem, |_| {}).await;
    client.connect(server.at(true), true, "a.example", "b.example");
    let XmppInput::Connected { tls: Some(of_server), .. } = client.next().await else { panic!() };
    let XmppInput::Accepted { tls: Some(of_client), .. } = server.next().await else { panic!() };
    assert!(valid(&of_server, "b.example") && valid(&of_client, "a.example"));
    // A stranger without a certificate.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der.clone()).unwrap();
    let plain = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let socket = TcpStream::connect(server.at(true)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(plain));
    let _stranger = connector.connect("b.example".try_into().unwrap(), socket).await.unwrap();
    let XmppInput::Accepted { tls: Some(stranger), .. } = server.next().await else { panic!() };
    assert!(matches!(stranger.certificate, PeerCertificate::Missing));
}

#[tokio::test]
async fn a_strangers_handshake_keeps_no_stream_waiting() {
    let root = Authority::new("root");
    let (low, busy) = Busy::start();
    let mut client = End::new(&root.dns(&["a.example"]), &root.pem, |_| {}).await;
    let mut server = End::on(low, &root.dns(&["b.example"]), &root.pem, |_| {}).await;
    let (ours, theirs) = joined(&mut client, &mut server).await;
    let (ab, ba) = (pair("a.example", "b.example"), pair("b.example", "a.example"));
    server.say(XmppOutput::StartTls { stream: theirs, accepting: true, pair: ba });
    client.say(XmppOutput::StartTls { stream: ours, accepting: false, pair: ab });
    client.connect(server.at(true), true, "a.example", "b.example");
    let waited = tokio::time::timeout(Duration::from_millis(300), server.next()).await;
    assert!(waited.is_err(), "{waited:?}");
    let (_, plain) = joined(&mut client, &mut server).await;
    server.write(plain, "<a/>");
    client.hears("<a/>").await;
    busy.go_on();
    let (mut begun, mut direct) = (false, false);
    while !(begun && direct) {
        match server.next().await {
            XmppInput::TlsDone { .. } => begun = true,
            XmppInput::Accepted { tls, .. } => direct = tls.is_some(),
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_came_too_early_is_never_handed_in() {
    let root = Authority::new("root");
    let mut server = End::new(&root.dns(&["b.example"]), &root.pem, |_| {}).await;
    let mut peer = TcpStream::connect(server.at(false)).await.unwrap();
    let XmppInput::Accepted { stream, .. } = server.next().await else { panic!() };
    peer.write_all(b"<starttls/>").await.unwrap();
    server.hears("<starttls/>").await;
    server.write(stream, "<proceed/>");
    let ba = pair("b.example", "a.example");
    server.say(XmppOutput::StartTls { stream, accepting: true, pair: ba });
    let mut proceed = [0; 10];
    peer.read_exact(&mut proceed).await.unwrap();
    peer.write_all(b"<message>smuggled</message>").await.unwrap();
    let XmppInput::Closed { fault, .. } = server.next().await else { panic!() };
    assert!(fault.unwrap().contains("TLS handshake failed"));
}

#[tokio::test]
async fn one_source_has_its_share() {
    let root = Authority::new("root");
    let mut server = End::new(&root.dns(&["b.example"]), &root.pem, |config| {
        config.limits.connections_per_source = 2;
    })
    .await;
    let at = server.at(false);
    let _first = TcpStream::connect(at).await.unwrap();
    let _second = TcpStream::connect(at).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(server.next().await, XmppInput::Accepted { .. }));
    }
    let mut third = TcpStream::connect(at).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0);
    let counts = server.shell.counts();
    assert!(counts.contains(&("refused.source-full".to_owned(), 1)), "{counts:?}");
}

#[tokio::test]
async fn nothing_is_read_while_the_core_wants_a_pause() {
    let root = Authority::new("root");
    let mut server = End::new(&root.dns(&["b.example"]), &root.pem, |_| {}).await;
    let mut peer = TcpStream::connect(server.at(false)).await.unwrap();
    let XmppInput::Accepted { stream, .. } = server.next().await else { panic!() };
    peer.write_all(b"first").await.unwrap();
    server.hears("first").await;
    let pause = Duration::from_millis(300);
    let began = Instant::now();
    server.say(XmppOutput::Pause { stream, until: began + pause });
    // One read may be under way: what it brings came before the pause.
    peer.write_all(b"now").await.unwrap();
    server.hears("now").await;
    peer.write_all(b"then").await.unwrap();
    server.hears("then").await;
    assert!(began.elapsed() >= pause, "{:?}", began.elapsed());
    // What we say is written all the same.
    server.say(XmppOutput::Pause { stream, until: Instant::now() + PATIENCE });
    server.write(stream, "word");
    let mut word = [0; 4];
    tokio::time::timeout(PATIENCE, peer.read_exact(&mut word)).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_core_hears_when_too_much_waits_and_when_that_is_taken() {
    let root = Authority::new("root");
    let mut server = End::new(&root.dns(&["b.example"]), &root.pem, |_| {}).await;
    let mut peer = TcpStream::connect(server.at(false)).await.unwrap();
    let XmppInput::Accepted { stream, .. } = server.next().await else { panic!() };
    let block = Bytes::from(vec![b'x'; 64 * 1024]);
    for _ in 0..12 {
        server.say(XmppOutput::Write { stream, bytes: block.clone() });
    }
    assert!(matches!(server.next().await, XmppInput::Full { .. }));
    server.say(XmppOutput::Hold { stream });
    peer.write_all(b"later").await.unwrap();
    let mut all = vec![0; 12 * block.len()];
    tokio::time::timeout(PATIENCE, peer.read_exact(&mut all)).await.unwrap().unwrap();
    assert!(matches!(server.next().await, XmppInput::Drained { .. }), "and nothing was read");
    // What we say is written all the same, and then nothing has come.
    server.write(stream, "word");
    let mut word = [0; 4];
    tokio::time::timeout(PATIENCE, peer.read_exact(&mut word)).await.unwrap().unwrap();
    assert!(server.heard.is_empty());
    server.say(XmppOutput::Resume { stream });
    server.hears("later").await;
    assert!(server.shell.counts().contains(&("held".to_owned(), 1)));
}

/// Who reached us goes on, and who comes finds nobody: another server of the domain is tried.
#[tokio::test]
async fn a_drain_lets_nobody_in_and_whoever_is_in_stay() {
    let root = Authority::new("root");
    let mut server = End::new(&root.dns(&["b.example"]), &root.pem, |config| {
        // A port that stays the same, at an address of no other test.
        let port = std::net::TcpListener::bind("127.0.7.2:0").unwrap();
        let service = config.services.xmpp.as_mut().unwrap();
        service.listen = vec![port.local_addr().unwrap()];
        service.direct_tls.clear();
    })
    .await;
    let at = server.at(false);
    let mut peer = TcpStream::connect(at).await.unwrap();
    let XmppInput::Accepted { .. } = server.next().await else { panic!() };
    server.shell.set_draining(true).await.unwrap();
    assert!(TcpStream::connect(at).await.is_err());
    peer.write_all(b"on").await.unwrap();
    server.hears("on").await;
    // A changed file opens nothing.
    let new = server.shell.bind(&server.shell.hub.config()).await.unwrap();
    server.shell.install(new).await;
    assert!(TcpStream::connect(at).await.is_err());
    server.shell.set_draining(false).await.unwrap();
    TcpStream::connect(at).await.unwrap();
}

/// A flood of strangers has all the handshakes that strangers may have.
#[tokio::test]
async fn who_proved_something_before_is_let_in_during_a_flood_of_handshakes() {
    let root = Authority::new("root");
    let mut server = End::new(&root.dns(&["b.example"]), &root.pem, |config| {
        config.limits.handshakes_per_second = 1;
        config.limits.handshakes_per_second_per_source = 1000;
    })
    .await;
    let client = End::new(&root.dns(&["a.example"]), &root.pem, |_| {}).await;
    client.connect(server.at(true), true, "a.example", "b.example");
    let stream = server.accepted().await;
    server.say(XmppOutput::Event(XmppEvent::Proved {
        stream,
        pair: pair("b.example", "a.example"),
        how: "sasl-external",
        side: XmppSide::Partner,
        remote: client.at(false),
        names: None,
    }));
    let _begun = begun(1..=10, server.at(true)).await;
    let refused = |(name, count): &(String, u64)| name == "handshake-failed" && *count > 0;
    tokio::time::timeout(PATIENCE, async {
        while !server.shell.counts().iter().any(refused) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    client.connect(server.at(true), true, "a.example", "b.example");
    server.accepted().await;
}

/// Connections that say nothing, and handshakes that do not go on, keep nobody out.
#[tokio::test]
async fn who_does_not_go_on_with_a_handshake_keeps_nobody_out() {
    let root = Authority::new("root");
    let mut server = End::new(&root.dns(&["b.example"]), &root.pem, |config| {
        config.limits.handshakes = 4;
        config.limits.handshake_timeout = 10 * PATIENCE;
        config.xmpp.limits.connections = 6;
        config.limits.connections_per_source = 100;
    })
    .await;
    let (direct, plain) = (server.at(true), server.at(false));
    let mut silent = Vec::new();
    for last in 1..101 {
        silent.push(from(last, direct).await);
    }
    // The same after STARTTLS.
    for last in 101..111 {
        silent.push(from(last, plain).await);
        let stream = server.accepted().await;
        let ba = pair("b.example", "a.example");
        server.say(XmppOutput::StartTls { stream, accepting: true, pair: ba });
    }
    let mut client = End::new(&root.dns(&["a.example"]), &root.pem, |_| {}).await;
    for (at, direct) in [(direct, true), (plain, false)] {
        client.connect(at, direct, "a.example", "b.example");
        loop {
            match server.next().await {
                XmppInput::Accepted { tls, .. } => break assert_eq!(tls.is_some(), direct),
                XmppInput::Closed { fault, .. } => {
                    assert!(fault.unwrap().contains("others waited"));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(client.next().await, XmppInput::Connected { .. }));
    }
    // Who is told to go goes, also in the middle of one.
    let _peer = TcpStream::connect(plain).await.unwrap();
    let stream = server.accepted().await;
    let ba = pair("b.example", "a.example");
    server.say(XmppOutput::StartTls { stream, accepting: true, pair: ba });
    server.say(XmppOutput::Close { stream });
    loop {
        match server.next().await {
            XmppInput::Closed { stream: gone, .. } if gone == stream => break,
            XmppInput::Closed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_refused_is_counted_sip_leaves_and_a_stop_ends_all() {
    let root = Authority::new("root");
    let mut server = End::new(&root.dns(&["b.example"]), &root.pem, |_| {}).await;
    let mut peer = TcpStream::connect(server.at(false)).await.unwrap();
    let XmppInput::Accepted { .. } = server.next().await else { panic!() };
    server.say(XmppOutput::Event(XmppEvent::Refused {
        reason: XmppRefusal::Certificate,
        remote: None,
        domain: None,
        claimed: None,
        text: String::new(),
    }));
    assert!(server.shell.counts().contains(&("refused.xmpp-certificate".to_owned(), 1)));
    assert_eq!(server.events.lock().unwrap().len(), 1);
    server.shell.with_core(|_, _, out| out.push(SiteOutput::Sip(Bytes::from_static(b"SIP"))));
    assert_eq!(server.sip.recv().await.unwrap(), "SIP");
    // However much is said at once, all of it arrives, in order; and partners wait meanwhile.
    let number = |n: usize| Bytes::from(n.to_string());
    server.shell.with_core(|_, _, out| out.extend((0..500).map(number).map(SiteOutput::Sip)));
    server.shell.with_core(|_, _, out| out.push(SiteOutput::Sip(number(500))));
    for n in 0..=500 {
        let next = tokio::time::timeout(PATIENCE, server.sip.recv()).await.unwrap().unwrap();
        assert_eq!(next, number(n));
    }
    let dropped = |(name, count): &(String, u64)| name == "sip.dropped" && *count == 0;
    assert!(server.shell.counts().iter().any(dropped));
    // Nobody listens: told, not waited for.
    server.connect("127.0.0.1:9".parse().unwrap(), false, "b.example", "c.example");
    assert!(matches!(server.next().await, XmppInput::ConnectFailed { .. }));
    let at = server.at(false);
    let shell = server.shell.clone();
    tokio::time::timeout(PATIENCE, shell.stop()).await.unwrap();
    assert_eq!(peer.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(at).await.is_err(), "nobody listens any more");
}
