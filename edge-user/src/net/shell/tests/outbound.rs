//! Connections we open: what the other end must prove, and what we show it.

use std::net::Ipv4Addr;

use rustls::{DistinguishedName, ServerConfig, server::WebPkiClientVerifier};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    domain::Domain,
    proxy::{AttemptId, ConnectError, Target},
};

/// A partner's server: echoes, and tells the SNI it got and the certificate it was shown.
pub(super) async fn partner_server(
    trust: &Authority,
    own: &Issued,
) -> (SocketAddr, UnboundedReceiver<(Option<String>, usize)>) {
    let mut roots = RootCertStore::empty();
    roots.add(trust.der.clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    // The list of authorities names somebody else: we present our certificate all the same.
    let foreign = RootCertStore {
        roots: {
            let mut store = RootCertStore::empty();
            store.add(Authority::new("somebody else's root").der).unwrap();
            store.roots
        },
    };
    let hints: Vec<DistinguishedName> = foreign.subjects();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .clear_root_hint_subjects()
        .add_root_hint_subjects(hints)
        .build()
        .unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(own.chain(), own.key())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, tell) = (acceptor.clone(), tell.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let session = stream.get_ref().1;
                let shown = session.peer_certificates().map_or(0, <[_]>::len);
                let _ = tell.send((session.server_name().map(str::to_owned), shown));
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                    let _ = stream.flush().await;
                }
            });
        }
    });
    (address, told)
}

pub(super) fn target(address: SocketAddr, name: Option<&str>) -> Target {
    Target {
        side: Side::Partner,
        transport: Transport::Tls,
        address,
        server_name: name.map(|name| name.parse::<Domain>().unwrap()),
        own: 0,
    }
}

impl Lab {
    pub(super) async fn connect_to(
        &mut self,
        target: Target,
    ) -> Result<(ConnectionId, Peer), ConnectError> {
        let attempt = AttemptId(7);
        self.shell.with_core(|_, _, out| out.push(Output::Connect { attempt, target }));
        loop {
            match self.next().await {
                Seen::Opened(id, peer, got) => {
                    assert_eq!(got, Some(attempt));
                    return Ok((id, peer));
                }
                Seen::ConnectFailed(error) => return Err(error),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn we_send_sni_show_our_certificate_and_talk() {
    let mut lab = lab(|_| ()).await;
    let (address, mut told) = partner_server(&lab.ours, &lab.partner()).await;
    let (id, peer) = lab.connect_to(target(address, Some(PARTNER))).await.unwrap();
    assert_eq!(told.recv().await.unwrap(), (Some(PARTNER.to_owned()), 1));
    assert_eq!(peer.remote, address);
    assert_eq!(peer.local.ip(), lab.access().ip(), "we leave by the access address");
    assert!(peer.names.holds(&PARTNER.parse().unwrap()));
    let bytes = bytes::Bytes::from(message(1));
    lab.shell.with_core(|_, _, out| out.push(Output::Send { connection: id, bytes }));
    assert!(matches!(lab.next().await, Seen::Message(from, _) if from == id));
    assert!(lab.shell.connections()[0].outbound);
    // The core's echo goes round and round: end it.
    lab.shell.close_where(|_| true, REASON);
    assert_eq!(lab.closed().await, id);
}

#[tokio::test]
async fn the_certificate_must_hold_exactly_the_host_that_was_looked_up() {
    let mut lab = lab(|_| ()).await;
    let stranger = Authority::new("nobody's root");
    let issue = |dns: &[&str]| lab.partners.dns(dns);
    let rows = [
        ("another host", issue(&["www.fabrikam.example"]), Some(PARTNER), "does not hold the host"),
        ("a wildcard", issue(&["*.fabrikam.example"]), Some(PARTNER), "does not hold the host"),
        ("the domain only", issue(&["fabrikam.example"]), Some(PARTNER), "does not hold the host"),
        (
            "a longer name",
            issue(&["sip.fabrikam.example.evil.example"]),
            Some(PARTNER),
            "does not hold the host",
        ),
        ("no name to expect", issue(&[PARTNER]), None, "name to expect"),
        ("another root", stranger.dns(&[PARTNER]), Some(PARTNER), "trust store"),
        (
            "expired",
            lab.partners.issue(&Leaf { dns: &[PARTNER], expired: true, ..Leaf::default() }),
            Some(PARTNER),
            "expired",
        ),
    ];
    for (why, own, name, expected) in rows {
        let (address, _told) = partner_server(&lab.ours, &own).await;
        match lab.connect_to(target(address, name)).await {
            Err(ConnectError::Tls(words)) => assert!(words.contains(expected), "{why}: {words}"),
            other => panic!("{why}: {other:?}"),
        }
    }
    let uri = Leaf { uri: &["sip:sip.fabrikam.example"], ..Leaf::default() };
    let own = lab.partners.issue(&uri);
    let (address, _told) = partner_server(&lab.ours, &own).await;
    lab.connect_to(target(address, Some(PARTNER))).await.expect("a URI name counts");
}

#[tokio::test]
async fn what_does_not_answer_is_reported_in_time() {
    let mut lab = lab(|config| config.limits.handshake_timeout = Duration::from_secs(2)).await;
    let closed = "127.0.0.1:9".parse().unwrap();
    let error = lab.connect_to(target(closed, Some(PARTNER))).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tcp(_)), "{error}");

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = lab.connect_to(target(silent.local_addr().unwrap(), Some(PARTNER))).await;
    assert!(error.unwrap_err().to_string().contains("in time"));

    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"SIP/2.0 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let error = lab.connect_to(target(address, Some(PARTNER))).await.unwrap_err();
    assert!(error.to_string().contains("no TLS"), "{error}");
    assert_eq!(lab.count("connect-failed"), 3);
    lab.counted("open.outbound", 0).await;
}

#[tokio::test]
async fn connections_we_open_are_bounded() {
    let mut lab = lab(|config| config.limits.connections = 1).await;
    let (address, _told) = partner_server(&lab.ours, &lab.partner()).await;
    lab.connect_to(target(address, Some(PARTNER))).await.unwrap();
    let error = lab.connect_to(target(address, Some(PARTNER))).await.unwrap_err();
    assert_eq!(error, ConnectError::Limit);
}

#[tokio::test]
async fn inside_goes_by_tcp_and_udp_too() {
    let mut lab = lab(|config| {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.inside.listen = vec![(Transport::Udp, any)];
    })
    .await;
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for (transport, address) in
        [(Transport::Tcp, tcp.local_addr().unwrap()), (Transport::Udp, udp.local_addr().unwrap())]
    {
        let target = Target { side: Side::Inside, transport, address, server_name: None, own: 0 };
        let (connection, peer) = lab.connect_to(target).await.unwrap();
        assert_eq!((peer.side, peer.transport), (Side::Inside, transport));
        let bytes = bytes::Bytes::from(message(3));
        lab.shell.with_core(|_, _, out| out.push(Output::Send { connection, bytes }));
        let mut buffer = [0; 2000];
        let length = if transport == Transport::Tcp {
            let (mut stream, _) = tcp.accept().await.unwrap();
            stream.read(&mut buffer).await.unwrap()
        } else {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            assert_eq!(from, lab.address(Side::Inside, Transport::Udp), "from our own port");
            length
        };
        assert_eq!(&buffer[..length], message(3).as_bytes());
        if transport == Transport::Udp {
            // In no listed prefix, but we spoke first.
            udp.send_to(message(4).as_bytes(), lab.address(Side::Inside, Transport::Udp))
                .await
                .unwrap();
            // The TCP connection of before is closed meanwhile.
            while !matches!(lab.next().await, Seen::Message(from, _) if from == connection) {}
        }
    }
    let target = Target {
        side: Side::Inside,
        transport: Transport::Udp,
        address: "[::1]:5060".parse().unwrap(),
        server_name: None,
        own: 0,
    };
    assert!(lab.connect_to(target).await.is_err(), "no listener of that family");
    let target = Target {
        side: Side::Inside,
        transport: Transport::Tls,
        address: "127.0.0.1:5061".parse().unwrap(),
        server_name: None,
        own: 0,
    };
    assert!(lab.connect_to(target).await.is_err(), "nobody listens, and no files");
}

#[tokio::test]
async fn questions_are_answered() {
    let mut lab = lab(|config| config.dns.timeout = Duration::from_millis(200)).await;
    lab.shell.with_core(|_, _, out| {
        out.push(Output::Resolve {
            query: crate::proxy::QueryId(1),
            question: crate::proxy::Question::Federation("fabrikam.example".parse().unwrap()),
            lookup: crate::federation::Lookup::default(),
        });
    });
    let Seen::Resolved(result) = lab.next().await else { panic!("no answer") };
    assert_eq!(result, Err(crate::proxy::ResolveError::Unavailable));
}

#[tokio::test]
async fn a_next_hop_given_by_address_shows_it_in_its_certificate() {
    let folder = Folder::new();
    let inside = Authority::new("inside root");
    let files = write_files(&folder, "inside", &inside.dns(&[OUR_NAME]), &inside.pem);
    let mut lab = lab(|config| config.inside.tls = Some(files)).await;
    for (own, good) in [
        (Leaf { ip: &["127.0.0.1"], ..Leaf::default() }, true),
        (Leaf { ip: &["127.0.0.2"], ..Leaf::default() }, false),
        (Leaf { dns: &["director.contoso.example"], ..Leaf::default() }, false),
    ] {
        let (address, _told) = partner_server(&inside, &inside.issue(&own)).await;
        let target = Target { side: Side::Inside, ..target(address, None) };
        assert_eq!(lab.connect_to(target).await.is_ok(), good, "{:?} {:?}", own.ip, own.dns);
    }
}
