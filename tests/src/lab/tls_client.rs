//! A small SIP client over TLS or TCP for what real user agents do not do: wrong certificates, no
//! certificate, broken messages, slow writing.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};

use super::{certs::Identity, netns::Namespace};
use crate::patience::BUSY;

/// How long the client waits for what it is told.
const PATIENCE: Duration = BUSY;
/// How long it waits for a connection, which some are not to have: a SYN that was lost is sent
/// again after one, three and seven seconds.
const CONNECT: Duration = Duration::from_secs(9);

/// A connection that speaks SIP.
pub struct SipClient {
    carrier: Carrier,
    unread: Vec<u8>,
}

enum Carrier {
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Tcp(TcpStream),
}

impl Carrier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Carrier::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
            Carrier::Tcp(stream) => stream.write_all(bytes),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Carrier::Tls(stream) => stream.read(buffer),
            Carrier::Tcp(stream) => stream.read(buffer),
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Carrier::Tls(stream) => &stream.sock,
            Carrier::Tcp(stream) => stream,
        }
    }
}

/// A SIP response: status and the whole text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Start line, headers and body.
    pub text: String,
}

/// Who calls, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Where it stands.
    pub namespace: &'a Namespace,
    /// The address it comes from; any when `None`.
    pub from: Option<IpAddr>,
    /// Its certificate; none at all when `None`.
    pub identity: Option<&'a Identity>,
    /// The roots it trusts.
    pub trust: &'a Path,
}

impl Caller<'_> {
    /// Opens TCP only.
    pub fn tcp(&self, to: SocketAddr) -> Result<TcpStream> {
        let stream = self.namespace.run(|| connect(self.from, to))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Opens TLS; `server` is the SNI and the name the server's certificate must hold. In TLS 1.3
    /// a server's refusal of our certificate shows only at the first read.
    pub fn tls(&self, to: SocketAddr, server: &str) -> Result<SipClient> {
        let stream = self.tcp(to)?;
        let name = ServerName::try_from(server.to_owned())?;
        let connection = ClientConnection::new(Arc::new(self.tls_config()?), name)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        stream.flush()?;
        Ok(SipClient { carrier: Carrier::Tls(Box::new(stream)), unread: Vec::new() })
    }

    /// Opens SIP over plain TCP, as an inside server does.
    pub fn plain(&self, to: SocketAddr) -> Result<SipClient> {
        Ok(SipClient { carrier: Carrier::Tcp(self.tcp(to)?), unread: Vec::new() })
    }

    fn tls_config(&self) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(self.trust)? {
            roots.add(certificate?)?;
        }
        let builder =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots);
        let Some(identity) = self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain =
            CertificateDer::pem_file_iter(&identity.certificate)?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(&identity.key)?;
        Ok(builder.with_client_auth_cert(chain, key)?)
    }
}

impl SipClient {
    /// SIP over a connection that came in.
    pub fn accepted(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { carrier: Carrier::Tcp(stream), unread: Vec::new() })
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.carrier.write(bytes)
    }

    /// The certificate the other side showed, in DER; empty without TLS.
    pub fn server_certificate(&self) -> Vec<u8> {
        let Carrier::Tls(stream) = &self.carrier else { return Vec::new() };
        let chain = stream.conn.peer_certificates().unwrap_or_default();
        chain.first().map(|certificate| certificate.to_vec()).unwrap_or_default()
    }

    /// Waits for the next response; provisional ones are skipped.
    pub fn response(&mut self) -> Result<Response> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(response) = self.take_response()? {
                if response.status >= 200 {
                    return Ok(response);
                }
                continue;
            }
            if Instant::now() >= deadline {
                bail!("no response within {PATIENCE:?}");
            }
            let mut buffer = [0_u8; 16 * 1024];
            match self.carrier.read(&mut buffer).context("no response")? {
                0 => bail!("the connection was closed"),
                length => self.unread.extend_from_slice(&buffer[..length]),
            }
        }
    }

    /// Waits for the next message of any kind: its whole text. `limit` is for a machine that is busy.
    pub fn message(&mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        self.carrier.socket().set_read_timeout(Some(Duration::from_millis(200)))?;
        loop {
            if let Some(text) = self.take_message() {
                return Ok(text);
            }
            if Instant::now() >= deadline {
                bail!("no message within {limit:?}");
            }
            let mut buffer = [0_u8; 16 * 1024];
            match self.carrier.read(&mut buffer) {
                Ok(0) => bail!("the connection was closed"),
                Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error).context("no message"),
            }
        }
    }

    /// The next message, if one is there or comes within a moment.
    pub fn poll(&mut self) -> Result<Option<String>> {
        if let Some(text) = self.take_message() {
            return Ok(Some(text));
        }
        self.carrier.socket().set_read_timeout(Some(Duration::from_millis(1)))?;
        let mut buffer = [0_u8; 16 * 1024];
        match self.carrier.read(&mut buffer) {
            Ok(0) => bail!("the connection was closed"),
            Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("no message"),
        }
        Ok(self.take_message())
    }

    /// Our own end.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.carrier.socket().local_addr()?)
    }

    /// Whether the other side closes the connection (or has) within `limit`.
    pub fn closed_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut buffer = [0_u8; 16 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let _ = self.carrier.socket().set_read_timeout(Some(left));
            match self.carrier.read(&mut buffer) {
                Ok(0) => return true,
                Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return false;
                }
                Err(_) => return true,
            }
        }
    }

    /// Sends a request and waits for its final response.
    pub fn ask(&mut self, request: &str) -> Result<Response> {
        self.write(request.as_bytes())?;
        self.response()
    }

    fn take_response(&mut self) -> Result<Option<Response>> {
        let Some(text) = self.take_message() else { return Ok(None) };
        let status = text
            .strip_prefix("SIP/2.0 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("no response: {}", text.lines().next().unwrap_or("")))?;
        Ok(Some(Response { status, text }))
    }

    /// A whole message, if there is one.
    fn take_message(&mut self) -> Option<String> {
        // The answer to a keep-alive (RFC 5626).
        while self.unread.starts_with(b"\r\n") {
            self.unread.drain(..2);
        }
        let head = self.unread.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head_text = String::from_utf8_lossy(&self.unread[..head]).into_owned();
        let body: usize = head_text
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned)
            })
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(0);
        let end = head + 4 + body;
        if self.unread.len() < end {
            return None;
        }
        let text = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end);
        Some(text)
    }
}

/// A stand-alone request with everything a proxy needs, as `host` would write it; its body is
/// what the receiver of [`super::sipp::Play::Message`] looks for.
pub fn request(method: &str, from: &str, to: &str, host: &str) -> String {
    let unique = unique();
    let body = format!("hello from {from} to {to}");
    let length = body.len();
    format!(
        "{method} sip:{to} SIP/2.0\r\n\
         Via: SIP/2.0/TLS {host}:5061;branch=z9hG4bK{unique}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:{from}>;tag=f{unique}\r\n\
         To: <sip:{to}>\r\n\
         Call-ID: {unique}@{host}\r\n\
         CSeq: 1 {method}\r\n\
         Content-Type: text/plain\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// A word no other request of this process holds.
pub fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn connect(from: Option<IpAddr>, to: SocketAddr) -> Result<TcpStream> {
    let Some(from) = from else { return Ok(TcpStream::connect_timeout(&to, CONNECT)?) };
    // std cannot bind before connecting: tokio's socket can.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = if to.is_ipv4() {
            tokio::net::TcpSocket::new_v4()?
        } else {
            tokio::net::TcpSocket::new_v6()?
        };
        socket.bind(SocketAddr::new(from, 0))?;
        let stream = tokio::time::timeout(CONNECT, socket.connect(to)).await??.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    })
}
