//! TLS of XMPP: what live streams are worth, which certificate of ours is shown, and what is never
//! done. Handshakes in memory.

use std::time::Duration;

use rustls::{ClientConnection, HandshakeKind, ServerConnection};

use super::*;
use crate::{
    config::{OwnIdentity, tests_support::Folder},
    net::testing::{Authority, Issued, carry, write_files},
    xmpp::io::{Chain, PeerCertificate, StreamId, XmppSide},
};

/// 2040-01-01.
const NEW_YEAR_2040: u64 = 2_208_988_800;
const SECOND: &str = "second.example";

struct Lab {
    folder: Folder,
    root: Authority,
    /// Under the root, until 2040.
    between: Authority,
    /// Of `between`, and of the root.
    deep: Issued,
    flat: Issued,
    files: TlsFiles,
}

fn d(text: &str) -> Domain {
    text.parse().unwrap()
}

impl Lab {
    fn new() -> Self {
        let folder = Folder::new();
        let root = Authority::new("partners' root");
        let between = root.authority_until("between", &[], Some(2040));
        let (deep, flat) = (between.dns(&["b.example"]), root.dns(&["c.example"]));
        let own = Authority::new("our root").dns(&["a.example"]);
        let files = write_files(&folder, "edge", &own, &root.pem);
        folder.write("list.crl", Authority::new("nobody's").crl(&[], (2024, 2044)), 0o644);
        Self { folder, root, between, deep, flat, files }
    }

    fn store(&self) -> TlsStore {
        let second = Authority::new("our root").dns(&[SECOND]);
        let second = write_files(&self.folder, "second", &second, &self.root.pem);
        let others = [OwnIdentity {
            names: vec![d(SECOND)],
            certificate: second.certificate,
            key: second.key,
        }];
        let xmpp = XmppFiles { tls: self.files.clone(), inside: self.files.trust.clone() };
        let list = self.folder.0.join("list.crl");
        let revocation = Revocation { files: vec![list], ..Revocation::default() };
        let source = Source::new(&self.files, &others, None, (None, Some(xmpp)), &revocation);
        TlsStore::with(source).unwrap()
    }

    /// A stream by each certificate.
    fn streams(&self) -> Vec<(StreamId, XmppSide, Chain)> {
        let deep = [self.deep.chain(), vec![self.between.der.clone()]].concat();
        vec![
            (StreamId(1), XmppSide::Partner, deep.clone().into()),
            (StreamId(2), XmppSide::Partner, self.flat.chain().into()),
            (StreamId(3), XmppSide::Partner, deep.into()),
        ]
    }

    fn revoke(&self, list: Vec<u8>) {
        self.folder.write("list.crl", list, 0o644);
    }
}

/// Whatever makes a handshake fail ends a stream that lives, too: of the whole chain.
#[test]
fn a_live_stream_is_worth_what_a_handshake_would_be() {
    type Row = (&'static str, fn(&Lab), &'static [u64], &'static str);
    let rows: [Row; 5] = [
        ("nothing of theirs", |lab| lab.revoke(lab.root.crl(&[], (2024, 2044))), &[], ""),
        (
            "the certificate",
            |lab| lab.revoke(lab.between.crl(&[&lab.deep], (2024, 2044))),
            &[1, 3],
            "Revoked",
        ),
        (
            "its authority",
            |lab| lab.revoke(lab.root.crl(&[&lab.between.as_issued()], (2024, 2044))),
            &[1, 3],
            "Revoked",
        ),
        (
            "a list of somebody else",
            |lab| lab.revoke(Authority::new("partners' root").crl(&[&lab.flat], (2024, 2044))),
            &[],
            "",
        ),
        (
            "the root is trusted no longer",
            |lab| {
                lab.folder.write("edge-trust.pem", &Authority::new("another root").pem, 0o644);
            },
            &[1, 2, 3],
            "UnknownIssuer",
        ),
    ];
    for (why, change, ends, words) in rows {
        let lab = Lab::new();
        let (store, now) = (lab.store(), UnixTime::now());
        for (_, side, chain) in lab.streams() {
            let judged = store.xmpp_certificate(side, Some(&chain), now);
            assert!(matches!(judged, PeerCertificate::Valid(_)), "{judged:?}");
        }
        assert_eq!(store.xmpp_no_longer_good(lab.streams(), now), []);
        let changes = store.changed_lists();
        change(&lab);
        store.reload_if_changed().unwrap().unwrap();
        assert!(changes.has_changed().unwrap(), "{why}");
        let bad = store.xmpp_no_longer_good(lab.streams(), now);
        let ids: Vec<u64> = bad.iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, ends, "{why}");
        assert!(bad.iter().all(|(_, fault)| fault.contains(words)), "{why}: {bad:?}");
    }
}

#[test]
fn a_certificate_ends_with_the_first_of_its_authorities() {
    let lab = Lab::new();
    let store = lab.store();
    let ends = |chain: &Chain| match store.xmpp_certificate(
        XmppSide::Partner,
        Some(chain),
        UnixTime::now(),
    ) {
        PeerCertificate::Valid(names) => (names.certificate.expires_at, names.ends_at()),
        other => panic!("{other:?}"),
    };
    let streams = lab.streams();
    let (leaf, whole) = ends(&streams[0].2);
    assert!(leaf > whole);
    assert_eq!(whole, Some(NEW_YEAR_2040));
    let (leaf, whole) = ends(&streams[1].2);
    assert_eq!(leaf, whole);
    // What is sent beside the chain ends nothing.
    let stray = lab.root.authority_until("stray", &[], Some(2030));
    let more = [lab.flat.chain(), vec![stray.der.clone(), lab.between.der.clone()]].concat();
    assert_eq!(ends(&more.into()).1, leaf);
    let later = UnixTime::since_unix_epoch(Duration::from_secs(NEW_YEAR_2040 + 1));
    let bad = store.xmpp_no_longer_good(streams, later);
    assert_eq!(bad.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [1, 3], "{bad:?}");
}

/// Shakes hands as our client for one domain of ours with our server for another.
fn shake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (ClientConnection, ServerConnection) {
    let name = ServerName::try_from("whatever.example").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..10 {
        carry(&mut client, &mut server);
        carry(&mut server, &mut client);
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    (client, server)
}

fn names(chain: Option<&[CertificateDer<'static>]>) -> Vec<Domain> {
    CertificateNames::from_der(&chain.unwrap()[0]).unwrap().dns
}

/// Each domain of ours shows its own certificate, as server and as client; one without its own the
/// service's.
#[test]
fn each_domain_of_ours_shows_its_certificate_in_both_roles() {
    let store = Lab::new().store();
    for direct in [false, true] {
        for (domain, shown) in
            [(SECOND, SECOND), ("a.example", "a.example"), ("x.example", "a.example")]
        {
            let client = store.xmpp_client(&d(domain), direct).unwrap();
            let server = store.xmpp_server(Some(&d(domain)), direct).unwrap();
            let (client, server) = shake(client, server);
            assert_eq!(names(client.peer_certificates()), [d(shown)], "{domain} as server");
            assert_eq!(names(server.peer_certificates()), [d(shown)], "{domain} as client");
        }
    }
    let (client, _) =
        shake(store.xmpp_client(&d(SECOND), true).unwrap(), store.xmpp_server(None, true).unwrap());
    assert_eq!(names(client.peer_certificates()), [d("a.example")], "no name was asked for");
}

/// XEP-0368: TLS from the first byte says which protocol it is for, TLS by STARTTLS does not.
#[test]
fn direct_tls_names_its_protocol() {
    let store = Lab::new().store();
    for direct in [false, true] {
        let (client, server) = shake(
            store.xmpp_client(&d("a.example"), direct).unwrap(),
            store.xmpp_server(None, direct).unwrap(),
        );
        let expected = direct.then_some(&b"xmpp-server"[..]);
        assert_eq!((client.alpn_protocol(), server.alpn_protocol()), (expected, expected));
    }
}

/// A resumed session would carry a proof past a block, a revocation or an expiry.
#[test]
fn a_session_is_never_resumed_over_xmpp() {
    let lab = Lab::new();
    let store = lab.store();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        // A client that resumes whenever it can, and takes any certificate of the root.
        let mut roots = rustls::RootCertStore::empty();
        roots.add(lab.root.der.clone()).unwrap();
        let ours = store.xmpp_client(&d("a.example"), false).unwrap();
        assert!(!ours.enable_early_data);
        let mut eager = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(lab.flat.chain(), lab.flat.key())
            .unwrap();
        eager.dangerous().set_certificate_verifier(any());
        let eager = Arc::new(eager);
        for direct in [false, true] {
            for _ in 0..3 {
                let server = store.xmpp_server(None, direct).unwrap();
                let (client, server) = shake(Arc::clone(&eager), server);
                let kinds = (client.handshake_kind(), server.handshake_kind());
                assert_eq!(kinds, (Some(HandshakeKind::Full), Some(HandshakeKind::Full)));
            }
        }
        // And ours, with a server that gives tickets.
        let lax = Arc::new(
            ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(lab.flat.chain(), lab.flat.key())
                .unwrap(),
        );
        shake(Arc::clone(&eager), Arc::clone(&lax));
        let (client, _) = shake(Arc::clone(&eager), Arc::clone(&lax));
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Resumed), "it would");
        for direct in [false, true] {
            for _ in 0..3 {
                let ours = store.xmpp_client(&d("a.example"), direct).unwrap();
                let (client, _) = shake(ours, Arc::clone(&lax));
                assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
            }
        }
    }
}

fn any() -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
    let algorithms = ring::default_provider().signature_verification_algorithms;
    Arc::new(xmpp::Whatever { algorithms })
}

/// What partners see of ours: whether it names the domain, by the certificate that is shown for it.
#[test]
fn our_certificate_is_worth_what_others_read_in_it() {
    use crate::xmpp::streams::Certificate;

    let lab = Lab::new();
    let store = lab.store();
    let now = UnixTime::now();
    for (domain, worth) in [
        ("a.example", Certificate::Valid),
        (SECOND, Certificate::Valid),
        ("chat.a.example", Certificate::Invalid),
        ("c.example", Certificate::Invalid),
    ] {
        assert_eq!(store.xmpp_own(&d(domain), now), worth, "{domain}");
    }
    let late = UnixTime::since_unix_epoch(Duration::from_secs(1 << 40));
    assert_eq!(store.xmpp_own(&d("a.example"), late), Certificate::Invalid);
}
