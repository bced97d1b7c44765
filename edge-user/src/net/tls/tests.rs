use std::{io::Write, time::Duration};

use rustls::{ClientConnection, HandshakeKind, ServerConnection, version};

use super::*;
use crate::{
    config::tests_support::Folder,
    net::testing::{Authority, Issued, Leaf, carry, write_files},
};

struct Made {
    folder: Folder,
    authority: Authority,
    own: Issued,
    files: TlsFiles,
}

fn made() -> Made {
    let folder = Folder::new();
    let authority = Authority::new("test root");
    let own = authority.dns(&["edge.contoso.example"]);
    let files = write_files(&folder, "edge", &own, &authority.pem);
    Made { folder, authority, own, files }
}

#[test]
fn bad_files_are_refused_with_the_file_and_the_mend() {
    let made = made();
    let other = made.authority.dns(&["edge.contoso.example"]);
    let certificate = &made.own.certificate;
    let half = &certificate[..certificate.len() / 2];
    for (file, content, expected) in [
        ("edge.key", other.key.as_str(), "does not belong"),
        ("edge.key", "", "no private key"),
        ("edge.key", certificate, "no private key"),
        ("edge.pem", "", "no certificate"),
        ("edge.pem", half, "edge.pem"),
        ("edge.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "edge.pem"),
        ("edge-trust.pem", "nothing", "no certificate"),
        ("edge-trust.pem", half, "edge-trust.pem"),
    ] {
        write_files(&made.folder, "edge", &made.own, &made.authority.pem);
        assert!(TlsStore::load_files(&made.files, None).is_ok());
        made.folder.write(file, content, 0o600);
        let fault = TlsStore::load_files(&made.files, None).unwrap_err().to_string();
        assert!(fault.contains(expected) && fault.contains(file), "{file}: {fault}");
        assert!(!fault.contains("PRIVATE KEY"), "{fault}");
    }
    for missing in ["edge.pem", "edge.key", "edge-trust.pem"] {
        write_files(&made.folder, "edge", &made.own, &made.authority.pem);
        std::fs::remove_file(made.folder.0.join(missing)).unwrap();
        let fault = TlsStore::load_files(&made.files, None).unwrap_err().to_string();
        assert!(fault.contains(missing) && fault.contains("cannot be read"), "{fault}");
    }
}

/// A certificate whose time is over must not keep rules from being changed; but it does not take
/// the place of a good one.
#[test]
fn a_certificate_of_ours_that_has_ended_is_used_where_there_is_no_better() {
    let made = made();
    let expired = made.authority.issue(&Leaf {
        dns: &["edge.contoso.example"],
        expired: true,
        ..Leaf::default()
    });
    let store = TlsStore::load_files(&made.files, None).unwrap();
    let good = store.loaded();
    write_files(&made.folder, "edge", &expired, &made.authority.pem);
    let fault = store.reload_if_changed().unwrap().unwrap_err().to_string();
    assert!(fault.contains("edge.pem") && fault.contains("renew"), "{fault}");
    assert_eq!(store.loaded(), good);
    let store = TlsStore::load_files(&made.files, None).unwrap();
    assert!(store.server(Side::Partner).is_some());
    assert_ne!(store.loaded().access, good.access);
    // What else changes is taken: what is in use is no better.
    let other = made.authority.issue(&Leaf {
        dns: &["edge.contoso.example", "contoso.example"],
        expired: true,
        ..Leaf::default()
    });
    write_files(&made.folder, "edge", &other, &made.authority.pem);
    assert_ne!(store.reload_if_changed().unwrap().unwrap().access, good.access);
    write_files(&made.folder, "edge", &made.own, &made.authority.pem);
    assert_eq!(store.reload_if_changed().unwrap().unwrap().access, good.access);
}

#[test]
fn a_bad_reload_keeps_the_old_and_is_told_once() {
    let made = made();
    let store = TlsStore::load_files(&made.files, None).unwrap();
    let before = store.loaded();
    assert_eq!(store.reload_if_changed(), None, "nothing changed");

    made.folder.write("edge.pem", "half-written", 0o644);
    assert!(matches!(store.reload_if_changed(), Some(Err(_))));
    assert_eq!(store.loaded(), before);
    assert!(store.server(Side::Partner).is_some());
    assert_eq!(store.reload_if_changed(), None, "told already");

    let new = made.authority.dns(&["edge.contoso.example"]);
    write_files(&made.folder, "edge", &new, &made.authority.pem);
    let loaded = store.reload_if_changed().unwrap().unwrap();
    assert_ne!(loaded.access, before.access, "another serial");
    assert_eq!(store.loaded(), loaded);
}

#[tokio::test]
async fn changed_files_are_noticed() {
    let made = made();
    let store = Arc::new(TlsStore::load_files(&made.files, None).unwrap());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let watching = tokio::spawn(Arc::clone(&store).watch(Duration::from_millis(20), move |r| {
        let _ = tell.send(r);
    }));
    let new = made.authority.dns(&["edge.contoso.example", "new.contoso.example"]);
    write_files(&made.folder, "edge", &new, &made.authority.pem);
    let told = tokio::time::timeout(Duration::from_secs(20), async {
        // A file may be seen between two writes: the pair does not match then.
        loop {
            if let Some(Ok(loaded)) = told.recv().await {
                return loaded;
            }
        }
    });
    assert_eq!(told.await.unwrap(), store.loaded());
    watching.abort();
}

/// Shakes hands in memory; the client's and the server's view of it.
fn shake(client: ClientConfig, server: Arc<ServerConfig>) -> (HandshakeKind, HandshakeKind) {
    let name = ServerName::try_from("edge.contoso.example").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    // A few rounds beyond the handshake, so that tickets would arrive.
    for _ in 0..10 {
        let _ = client.writer().write(b"x");
        carry(&mut client, &mut server);
        carry(&mut server, &mut client);
    }
    (client.handshake_kind().unwrap(), server.handshake_kind().unwrap())
}

/// A client that resumes whenever it can.
fn eager_client(made: &Made, version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.authority.der.clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(made.own.chain(), made.own.key())
        .unwrap()
}

#[test]
fn a_session_is_never_resumed() {
    let made = made();
    for version in [&version::TLS12, &version::TLS13] {
        // The client alone would resume: with a server that allows it, it does.
        let eager = eager_client(&made, version);
        let lax = Arc::new(
            ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(made.own.chain(), made.own.key())
                .unwrap(),
        );
        shake(eager.clone(), Arc::clone(&lax));
        assert_eq!(shake(eager, lax).0, HandshakeKind::Resumed, "{version:?}");

        let eager = eager_client(&made, version);
        let store = TlsStore::load_files(&made.files, None).unwrap();
        for _ in 0..3 {
            let server = store.server(Side::Partner).unwrap();
            let kinds = shake(eager.clone(), server);
            assert_eq!(kinds, (HandshakeKind::Full, HandshakeKind::Full), "{version:?}");
        }
    }
}

/// A client's certificate, and how many authorities it was asked to be of.
#[derive(Debug)]
struct Asked {
    own: Arc<rustls::sign::CertifiedKey>,
    authorities: std::sync::Mutex<Vec<usize>>,
}

impl rustls::client::ResolvesClientCert for Asked {
    fn resolve(
        &self,
        authorities: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.authorities.lock().unwrap().push(authorities.len());
        Some(Arc::clone(&self.own))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A list of hundreds of authorities does not fit into what some peers read, and others show no
/// certificate when theirs is not in it.
#[test]
fn a_certificate_is_asked_for_without_a_list_of_authorities() {
    let made = made();
    let store = TlsStore::load_files(&made.files, Some(&made.files)).unwrap();
    let key = ring::default_provider().key_provider.load_private_key(made.own.key()).unwrap();
    let own = Arc::new(rustls::sign::CertifiedKey::new(made.own.chain(), key));
    for version in [&version::TLS12, &version::TLS13] {
        for side in [Side::Partner, Side::Inside] {
            let asked = Arc::new(Asked { own: Arc::clone(&own), authorities: Default::default() });
            let mut client = eager_client(&made, version);
            client.client_auth_cert_resolver = Arc::clone(&asked) as _;
            shake(client, store.server(side).unwrap());
            assert_eq!(*asked.authorities.lock().unwrap(), [0], "{version:?} {side:?}");
        }
    }
}

#[test]
fn we_never_resume_as_a_client() {
    let made = made();
    let lax = Arc::new(
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(made.own.chain(), made.own.key())
            .unwrap(),
    );
    let store = TlsStore::load_files(&made.files, None).unwrap();
    for _ in 0..3 {
        let client = store.client(Side::Partner).unwrap();
        let kinds = shake((*client).clone(), Arc::clone(&lax));
        assert_eq!(kinds, (HandshakeKind::Full, HandshakeKind::Full));
    }
}

#[test]
fn every_fault_has_a_name_and_words_of_its_own() {
    let names: std::collections::HashSet<_> =
        HandshakeFault::ALL.iter().map(|f| f.name()).collect();
    let words: std::collections::HashSet<_> =
        HandshakeFault::ALL.iter().map(|f| f.words()).collect();
    assert_eq!(names.len(), HandshakeFault::ALL.len());
    assert_eq!(words.len(), HandshakeFault::ALL.len());
}
