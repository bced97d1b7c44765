//! The shell on loopback, with real TLS and a core that echoes.

mod access;
mod identity;
mod inside;
mod life;
mod media;
mod outbound;
mod remote;
mod strangers;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::UnboundedReceiver,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{
    config::tests_support::Folder,
    net::{
        dns::Resolver,
        testing::{
            Authority, Issued, Leaf, PATIENCE, REASON, Seen, TestCore, begun, from, loopback,
            message, write_files,
        },
        tls::TlsStore,
    },
    proxy::Repute,
};

/// A running shell and everything to talk to it.
struct Lab {
    folder: Folder,
    /// Who issues partners' certificates.
    partners: Authority,
    /// Who issues ours.
    ours: Authority,
    config: Arc<Config>,
    tls: Arc<TlsStore>,
    shell: ShellHandle<TestCore>,
    seen: UnboundedReceiver<Seen>,
    events: Arc<Mutex<Vec<Event>>>,
}

const OUR_NAME: &str = "edge.contoso.example";
const PARTNER: &str = "sip.fabrikam.example";

async fn lab(change: impl FnOnce(&mut Config)) -> Lab {
    lab_with(None, change).await
}

async fn lab_with(media: Option<Arc<dyn MediaSink>>, change: impl FnOnce(&mut Config)) -> Lab {
    lab_on(LowPriority::none(), media, change).await
}

async fn lab_on(
    low_priority: LowPriority,
    media: Option<Arc<dyn MediaSink>>,
    change: impl FnOnce(&mut Config),
) -> Lab {
    let folder = Folder::new();
    let partners = Authority::new("partners' root");
    let ours = Authority::new("our root");
    let files = write_files(&folder, "edge", &ours.dns(&[OUR_NAME]), &partners.pem);
    let mut config = loopback(files);
    change(&mut config);
    let config = Arc::new(config);
    let tls = Arc::new(TlsStore::load(&config).unwrap());
    let (core, seen) = TestCore::new();
    let events = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&events);
    let parts = ShellParts {
        core,
        config: Arc::clone(&config),
        tls: Arc::clone(&tls),
        resolver: Resolver::new(&config).unwrap(),
        events: Arc::new(move |event| kept.lock().unwrap().push(event)),
        low_priority,
        media,
    };
    let shell = Shell::start(parts, Shell::bind(&config).unwrap());
    Lab { folder, partners, ours, config, tls, shell, seen, events }
}

impl Lab {
    fn address(&self, side: Side, transport: Transport) -> SocketAddr {
        let all = self.shell.listening();
        all.iter().find(|l| l.side == side && l.transport == transport).unwrap().address
    }

    /// Takes another configuration.
    async fn rebind(&self, config: Config) {
        let listeners = self.shell.bind(&Arc::new(config)).await.unwrap();
        self.shell.install(listeners).await;
    }

    fn access(&self) -> SocketAddr {
        self.address(Side::Partner, Transport::Tls)
    }

    fn partner(&self) -> Issued {
        self.partners.dns(&[PARTNER])
    }

    /// Connects as a client that trusts our root.
    async fn connect(&self, to: SocketAddr, own: Option<&Issued>) -> io::Result<Client> {
        tls_client(to, &self.ours, own).await
    }

    /// A partner's connection that the core has seen.
    async fn partner_connected(&mut self) -> (Client, ConnectionId) {
        let client = self.connect(self.access(), Some(&self.partner())).await.unwrap();
        let (id, _) = self.opened().await;
        (client, id)
    }

    /// The core admits a request of this connection.
    fn proved(&self, connection: ConnectionId) {
        self.proved_as(connection, Repute::Known);
    }

    fn proved_as(&self, connection: ConnectionId, repute: Repute) {
        let (domain, remote) = ("fabrikam.example".parse().unwrap(), self.access());
        let event = Event::Proved { connection, domain, remote, repute };
        self.shell.with_core(|_, _, out| out.push(Output::Event(event)));
    }

    async fn next(&mut self) -> Seen {
        timeout(PATIENCE, self.seen.recv()).await.expect("the core sees something").unwrap()
    }

    async fn opened(&mut self) -> (ConnectionId, Peer) {
        loop {
            if let Seen::Opened(id, peer, _) = self.next().await {
                return (id, peer);
            }
        }
    }

    async fn closed(&mut self) -> ConnectionId {
        loop {
            if let Seen::Closed(id) = self.next().await {
                return id;
            }
        }
    }

    fn count(&self, name: &str) -> u64 {
        let counts = self.shell.counts();
        counts.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }

    /// Waits until a counter has this value.
    async fn counted(&self, name: &str, value: u64) {
        let waiting = async {
            while self.count(name) < value {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "{name}: {:?}", self.shell.counts());
    }

    fn refusals(&self) -> Vec<(Refusal, String)> {
        let events = self.events.lock().unwrap();
        let refusals = events.iter().filter_map(|event| match event {
            Event::Refused { reason, detail, .. } => Some((*reason, detail.clone())),
            _ => None,
        });
        refusals.collect()
    }
}

type Client = TlsStream<TcpStream>;

async fn tls_client(to: SocketAddr, trust: &Authority, own: Option<&Issued>) -> io::Result<Client> {
    let mut roots = RootCertStore::empty();
    roots.add(trust.der.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        Some(own) => builder.with_client_auth_cert(own.chain(), own.key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(to).await?;
    let name = ServerName::try_from(OUR_NAME).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Sends a message and gets it back.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, number: usize) {
    let text = message(number);
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut back = vec![0; text.len()];
    timeout(PATIENCE, stream.read_exact(&mut back)).await.expect("an answer").unwrap();
    assert_eq!(String::from_utf8(back).unwrap(), text);
}

/// Reads until the peer closes; what came.
async fn rest<S: AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let reading = async {
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..read]);
        }
    };
    timeout(PATIENCE, reading).await.expect("the connection is closed");
    bytes
}
