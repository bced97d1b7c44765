//! For tests: authorities, certificates, a configuration on loopback and a core that does little.

use std::{net::SocketAddr, ops::RangeInclusive, time::Instant};

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams,
    SanType, SerialNumber, date_time_ymd, string::Ia5String,
};
use rustls::{
    ConnectionCommon, SideData,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};

use super::Core;
use crate::{
    config::{Config, TlsFiles, tests_support::Folder},
    federation::CertificateNames,
    media::flow::{CallId, MediaChange},
    proxy::{AttemptId, ConnectError, ConnectionId, Input, Output, Peer, Refusal, ResolveError},
    sip::Message,
};

pub(super) use crate::config::tests_support;

/// Connects from a source of its own.
pub(super) async fn from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 1, last], 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// Each of these sources begins a handshake, and does not go on.
pub(super) async fn begun(sources: RangeInclusive<u8>, to: SocketAddr) -> Vec<TcpStream> {
    let mut begun = Vec::new();
    for last in sources {
        let mut stream = from(last, to).await;
        stream.write_all(&[0x16]).await.unwrap();
        begun.push(stream);
    }
    begun
}

/// A certificate authority.
pub(super) struct Authority {
    pub(super) pem: String,
    pub(super) der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// What a certificate is to say.
#[derive(Default)]
pub(super) struct Leaf<'a> {
    pub(super) dns: &'a [&'a str],
    pub(super) uri: &'a [&'a str],
    pub(super) ip: &'a [&'a str],
    pub(super) usages: &'a [ExtendedKeyUsagePurpose],
    pub(super) crl_points: &'a [&'a str],
    pub(super) expired: bool,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// An authority under this one, whose certificate names these places of lists.
    pub(super) fn authority(&self, name: &str, crl_points: &[&str]) -> Self {
        self.authority_until(name, crl_points, None)
    }

    /// The same, whose time is over on the first of January of a year.
    pub(super) fn authority_until(
        &self,
        name: &str,
        crl_points: &[&str],
        until: Option<i32>,
    ) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(year) = until {
            params.not_after = date_time_ymd(year, 1, 1);
        }
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if !crl_points.is_empty() {
            let uris = crl_points.iter().map(|url| (*url).to_owned()).collect();
            params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Its own certificate, as one that was issued.
    pub(super) fn as_issued(&self) -> Issued {
        Issued { certificate: self.pem.clone(), key: String::new() }
    }

    pub(super) fn issue(&self, leaf: &Leaf<'_>) -> Issued {
        let mut params = CertificateParams::default();
        let name = |text: &&str| Ia5String::try_from(*text).unwrap();
        params.subject_alt_names = leaf.dns.iter().map(|n| SanType::DnsName(name(n))).collect();
        params.subject_alt_names.extend(leaf.uri.iter().map(|n| SanType::URI(name(n))));
        let addresses = leaf.ip.iter().map(|ip| SanType::IpAddress(ip.parse().unwrap()));
        params.subject_alt_names.extend(addresses);
        params.extended_key_usages = leaf.usages.to_vec();
        if !leaf.crl_points.is_empty() {
            let uris = leaf.crl_points.iter().map(|url| (*url).to_owned()).collect();
            params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
        }
        if leaf.expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A certificate with a common name and no alternative names.
    pub(super) fn common_name(&self, name: &str) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A revocation list in DER, issued on the first of January of a year, good until another.
    pub(super) fn crl(&self, revoked: &[&Issued], (from, until): (i32, i32)) -> Vec<u8> {
        let day = |year| date_time_ymd(year, 1, 1);
        let entry = |issued: &&Issued| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&issued.serial()),
            revocation_time: day(from),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: day(from),
            next_update: day(until),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    pub(super) fn dns(&self, names: &[&str]) -> Issued {
        self.issue(&Leaf { dns: names, ..Leaf::default() })
    }
}

impl Issued {
    /// A certificate that its own key signs.
    pub(super) fn by_itself(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        Self { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    pub(super) fn names(&self) -> CertificateNames {
        CertificateNames::from_der(&self.chain()[0]).unwrap()
    }

    fn serial(&self) -> Vec<u8> {
        use x509_parser::prelude::FromDer as _;
        let chain = self.chain();
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&chain[0]).unwrap();
        parsed.raw_serial().to_vec()
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()]
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// Writes `NAME.pem`, `NAME.key` and `NAME-trust.pem`.
pub(super) fn write_files(folder: &Folder, name: &str, own: &Issued, trust: &str) -> TlsFiles {
    folder.write(&format!("{name}.pem"), &own.certificate, 0o644);
    folder.write(&format!("{name}.key"), &own.key, 0o600);
    folder.write(&format!("{name}-trust.pem"), trust, 0o644);
    TlsFiles {
        certificate: folder.0.join(format!("{name}.pem")),
        key: folder.0.join(format!("{name}.key")),
        trust: folder.0.join(format!("{name}-trust.pem")),
    }
}

/// A configuration with one access listener on loopback and nothing inside.
pub(super) fn loopback(files: TlsFiles) -> Config {
    let mut config = tests_support::config();
    config.access.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.access.advertise = Vec::new();
    config.access.tls = files;
    config.inside.listen = Vec::new();
    config.inside.tls = None;
    config.inside.servers = Vec::new();
    // Nobody listens there: a test that does not want DNS gets none.
    config.dns.servers = vec!["127.0.0.1:9".parse().unwrap()];
    config
}

/// What a test's core saw.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a test holds few of them")]
pub(super) enum Seen {
    Opened(ConnectionId, Peer, Option<AttemptId>),
    Message(ConnectionId, Message),
    Unreadable(ConnectionId),
    Closed(ConnectionId),
    Resolved(Result<crate::proxy::Resolved, ResolveError>),
    ConnectFailed(ConnectError),
    Timeout,
    MediaFailed(CallId),
}

/// Tells what it sees, and sends each message back as it came.
#[derive(Debug)]
pub(super) struct TestCore {
    seen: mpsc::UnboundedSender<Seen>,
    pub(super) timeout: Option<Instant>,
    pub(super) live: usize,
    pub(super) refused: Vec<std::net::IpAddr>,
}

impl TestCore {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Seen>) {
        let (seen, receiver) = mpsc::unbounded_channel();
        (Self { seen, timeout: None, live: 0, refused: Vec::new() }, receiver)
    }
}

impl Core for TestCore {
    fn handle(&mut self, _now: Instant, input: Input, out: &mut Vec<Output>) {
        let seen = match input {
            Input::Opened { connection, peer, attempt } => Seen::Opened(connection, peer, attempt),
            Input::Message { message, .. } if message.bytes().starts_with(b"PANIC") => {
                panic!("a fault of ours");
            }
            Input::Message { connection, message } => {
                out.push(Output::Send { connection, bytes: message.bytes().clone() });
                Seen::Message(connection, message)
            }
            Input::Unreadable { connection, .. } => {
                let bytes = Bytes::from_static(b"SIP/2.0 400 Bad Request\r\n\r\n");
                out.push(Output::Send { connection, bytes });
                Seen::Unreadable(connection)
            }
            Input::Closed { connection } => Seen::Closed(connection),
            Input::Resolved { result, .. } => Seen::Resolved(result),
            Input::ConnectFailed { error, .. } => Seen::ConnectFailed(error),
        };
        let _ = self.seen.send(seen);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    fn on_timeout(&mut self, _now: Instant, _out: &mut Vec<Output>) {
        self.timeout = None;
        let _ = self.seen.send(Seen::Timeout);
    }

    fn media_failed(&mut self, _now: Instant, call: CallId, out: &mut Vec<Output>) {
        out.push(Output::Media(vec![MediaChange::CloseCall(call)]));
        let _ = self.seen.send(Seen::MediaFailed(call));
    }

    fn refuses(&self, _now: Instant, remote: std::net::IpAddr) -> bool {
        self.refused.contains(&remote)
    }

    fn live(&self) -> usize {
        self.live
    }
}

/// A small whole message.
pub(super) fn message(number: usize) -> String {
    format!(
        "MESSAGE sip:bob@contoso.example SIP/2.0\r\n\
         Via: SIP/2.0/TLS sip.fabrikam.example;branch=z9hG4bK{number}\r\n\
         From: <sip:alice@fabrikam.example>;tag=a\r\n\
         To: <sip:bob@contoso.example>\r\n\
         Call-ID: {number}@fabrikam.example\r\n\
         CSeq: {number} MESSAGE\r\n\
         Content-Length: 2\r\n\r\nhi"
    )
}

/// Shorter than waiting for a human, longer than a busy machine needs.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// A refusal that a test closes connections with.
pub(super) const REASON: Refusal = Refusal::DomainBlocked;

/// Carries what one end of a TLS connection in memory has to say to the other.
pub(super) fn carry<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
) {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut bytes = &wire[..];
    while !bytes.is_empty() {
        to.read_tls(&mut bytes).unwrap();
        to.process_new_packets().unwrap();
    }
}
