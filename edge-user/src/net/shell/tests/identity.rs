//! Pins, revocation lists and several identities of ours, over real connections.

use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, UnixTime},
};
use tokio::net::TcpListener;

use super::{
    outbound::{partner_server, target},
    *,
};
use crate::{
    config::{Federation, OwnIdentity, PeerOptions, Pin},
    net::tls::Exceptions,
    proxy::{ConnectError, Target},
};

const SECOND: &str = "sip.second.example";

#[tokio::test]
async fn a_pinned_key_comes_in_without_authority_and_is_marked() {
    let mut lab = lab(|_| ()).await;
    let own = Issued::by_itself(&[PARTNER]);
    if let Ok(mut client) = lab.connect(lab.access(), Some(&own)).await {
        assert!(rest(&mut client).await.is_empty());
    }
    lab.counted("handshake.unknown-authority", 1).await;
    let pins = vec![Pin(own.names().spki.unwrap())];
    let discovered = PeerOptions { pins, ..PeerOptions::default() };
    let federation = Federation { discovered, ..Federation::default() };
    lab.tls.set_exceptions(Exceptions::of(&federation));
    let mut client = lab.connect(lab.access(), Some(&own)).await.unwrap();
    let (_, peer) = lab.opened().await;
    assert!(peer.names.unchained);
    echo(&mut client, 1).await;
    let (_other, _) = lab.partner_connected().await;
    assert!(!lab.shell.connections()[1].peer.names.unchained);
    // Outward too.
    let (address, _told) = partner_server(&lab.ours, &own).await;
    let (_, peer) = lab.connect_to(target(address, Some(PARTNER))).await.unwrap();
    assert!(peer.names.unchained);
}

#[tokio::test]
async fn a_new_list_ends_a_live_connection_and_keeps_it_out() {
    let list = std::env::temp_dir().join(format!("edge-list-{}.crl", std::process::id()));
    let nobody = Authority::new("nobody's root").crl(&[], (2024, 2044));
    std::fs::write(&list, nobody).unwrap();
    let mut lab = lab(|config| config.revocation.files = vec![list.clone()]).await;
    let own = lab.partner();
    let mut client = lab.connect(lab.access(), Some(&own)).await.unwrap();
    let (id, _) = lab.opened().await;
    let (mut other, _) = lab.partner_connected().await;
    echo(&mut client, 1).await;

    let changes = lab.tls.changed_lists();
    std::fs::write(&list, lab.partners.crl(&[&own], (2024, 2044))).unwrap();
    lab.tls.reload_if_changed().unwrap().unwrap();
    std::fs::remove_file(&list).unwrap();
    assert!(changes.has_changed().unwrap());
    let revoked = |info: &ConnectionInfo| lab.tls.is_revoked(&info.peer.names);
    assert_eq!(lab.shell.close_where(revoked, Refusal::Revoked), 1);
    assert_eq!(lab.closed().await, id);
    assert!(rest(&mut client).await.is_empty());
    echo(&mut other, 2).await;

    if let Ok(mut client) = lab.connect(lab.access(), Some(&own)).await {
        assert!(rest(&mut client).await.is_empty());
    }
    lab.counted("handshake.certificate-revoked", 1).await;
    assert_eq!(lab.refusals().pop().unwrap().0, Refusal::Revoked);
    let (address, _told) = partner_server(&lab.ours, &own).await;
    match lab.connect_to(target(address, Some(PARTNER))).await {
        Err(ConnectError::Tls(words)) => {
            assert!(words.starts_with("certificate-revoked:"), "{words}")
        }
        other => panic!("{other:?}"),
    }
}

/// A lab with a second identity of ours, of another root.
async fn two_identities() -> (Lab, Issued, Authority) {
    let folder = Folder::new();
    let root = Authority::new("our other root");
    let second = root.dns(&[SECOND, "second.example"]);
    write_files(&folder, "second", &second, &root.pem);
    let lab = lab(|config| {
        config.access.identities = vec![OwnIdentity {
            names: vec![SECOND.parse().unwrap(), "second.example".parse().unwrap()],
            certificate: folder.0.join("second.pem"),
            key: folder.0.join("second.key"),
        }];
    })
    .await;
    (lab, second, root)
}

/// Takes whatever certificate it is shown: the test looks at it.
#[derive(Debug)]
struct TakesAll;

impl ServerCertVerifier for TakesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client that takes any certificate and resumes whenever it can.
fn lax_client(own: &Issued, version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAll))
        .with_client_auth_cert(own.chain(), own.key())
        .unwrap()
}

async fn ask(lab: &Lab, config: &Arc<ClientConfig>, name: &str) -> Client {
    let stream = TcpStream::connect(lab.access()).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn which_certificate_a_peer_sees_goes_by_the_name_it_asks_for() {
    let (mut lab, second, _) = two_identities().await;
    let first = std::fs::read_to_string(lab.folder.0.join("edge.pem")).unwrap();
    let first = Issued { certificate: first, key: String::new() };
    for (name, shown, own) in [
        (Some(OUR_NAME), &first, 0),
        (Some(SECOND), &second, 1),
        (Some("SIP.second.example"), &second, 1),
        (Some("second.example"), &second, 1),
        (Some("other.second.example"), &first, 0),
        (None, &first, 0),
    ] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let mut config = lax_client(&lab.partner(), version);
            config.enable_sni = name.is_some();
            let client = ask(&lab, &Arc::new(config), name.unwrap_or(SECOND)).await;
            let (_, peer) = lab.opened().await;
            assert_eq!(peer.own, own, "{name:?}");
            assert!(peer.names.holds(&PARTNER.parse().unwrap()));
            let seen = client.get_ref().1.peer_certificates().unwrap();
            assert_eq!(seen[0], shown.chain()[0], "{name:?}");
        }
    }
}

#[tokio::test]
async fn no_session_is_resumed_where_the_name_decides_either() {
    let (mut lab, ..) = two_identities().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(lax_client(&lab.partner(), version));
        for _ in 0..3 {
            let mut client = ask(&lab, &config, SECOND).await;
            lab.opened().await;
            echo(&mut client, 1).await;
            let kind = client.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        }
    }
}

#[tokio::test]
async fn outward_we_are_who_the_core_says() {
    let (mut lab, _, root) = two_identities().await;
    // It trusts the second identity's root only.
    let (address, mut told) = partner_server(&root, &lab.partner()).await;
    let as_own = |own| Target { own, ..target(address, Some(PARTNER)) };
    let (_, peer) = lab.connect_to(as_own(1)).await.unwrap();
    assert_eq!((peer.own, told.recv().await.unwrap().1), (1, 1));
    match lab.connect_to(as_own(9)).await {
        Err(ConnectError::Tls(words)) => assert!(words.contains("no TLS files"), "{words}"),
        other => panic!("{other:?}"),
    }
}

/// Answers a hello as a server does that has no suite in common with us.
#[tokio::test]
async fn a_server_with_cbc_suites_only_is_named() {
    let mut lab = lab(|_| ()).await;
    for (answer, fault) in [
        (&[0x15, 3, 3, 0, 2, 2, 40][..], "no-common-cipher-suite"),
        (&[0x15, 3, 3, 0, 2, 2, 71][..], "no-common-cipher-suite"),
        (&[0x15, 3, 1, 0, 2, 2, 70][..], "no-common-version"),
        (&[0x15, 3, 3, 0, 2, 2, 48][..], "refused-by-peer"),
        (&[][..], "closed-by-peer"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut hello).await;
        });
        match lab.connect_to(target(address, Some(PARTNER))).await {
            Err(ConnectError::Tls(words)) => assert!(words.starts_with(fault), "{fault}: {words}"),
            other => panic!("{fault}: {other:?}"),
        }
        serving.await.unwrap();
    }
}
