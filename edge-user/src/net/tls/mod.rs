//! TLS: our certificates, whom we trust, and their exchange while connections live.
//!
//! TLS 1.2 and 1.3 with ring. Sessions are never resumed and no tickets are given: a resumed
//! session would carry a proof past a block, a revocation or an expiry (the trust rules, section
//! 2). Our certificate is presented whatever list of authorities the peer sends. Never logs a key.

mod fault;
mod files;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
    server::NoServerSessionStorage,
};

pub use self::fault::{HandshakeError, HandshakeFault};
use self::{
    files::{Identity, Stamp},
    verify::PeerVerifier,
};
use crate::{
    config::{Config, TlsFiles},
    domain::Domain,
    proxy::Side,
};

/// Why the TLS files cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{file}: cannot be read: {fault}; check the path and that the daemon may read it")]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's words.
        fault: String,
    },
    /// A file holds nothing of the kind.
    #[error("{file}: holds no {what} in PEM form")]
    Empty {
        /// The file.
        file: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// A file is damaged.
    #[error("{file}: {fault}; write the file anew (was it read half-written?)")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// The key belongs to another certificate.
    #[error("{key}: does not belong to the certificate in {certificate}; give the matching key")]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate's time is over or has not come.
    #[error("{file}: the certificate is valid from {from} to {to}, not now; renew it")]
    NotValidNow {
        /// The file.
        file: PathBuf,
        /// Begin.
        from: String,
        /// End.
        to: String,
    },
}

/// What a (re)load brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Subject, issuer and serial of the certificate of the access service.
    pub access: String,
    /// The same inside, where TLS is used there.
    pub inside: Option<String>,
    /// When the first of them expires, in seconds since 1970.
    pub expires_at: i64,
}

/// One side's TLS: as server and as client.
#[derive(Clone)]
struct SideTls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

struct Current {
    access: SideTls,
    inside: Option<SideTls>,
    loaded: Loaded,
}

/// Our TLS identities and trust stores. Shared; exchanged as a whole.
///
/// A connection keeps what it was made with; the next handshake uses what was loaded last.
pub struct TlsStore {
    current: RwLock<Arc<Current>>,
    source: Mutex<Source>,
}

/// Files that were read and found good, and are not in use yet.
pub struct PreparedTls {
    current: Arc<Current>,
    source: Source,
}

impl fmt::Debug for PreparedTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedTls").field("loaded", &self.current.loaded).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Source {
    access: TlsFiles,
    inside: Option<TlsFiles>,
    stamps: Vec<Stamp>,
}

impl TlsStore {
    /// Loads the files that the configuration names.
    pub fn load(config: &Config) -> Result<Self, TlsError> {
        Self::load_files(&config.access.tls, config.inside.tls.as_ref())
    }

    /// Loads these files.
    pub fn load_files(access: &TlsFiles, inside: Option<&TlsFiles>) -> Result<Self, TlsError> {
        let source = Source::new(access, inside);
        let current = source.read()?;
        Ok(Self { current: RwLock::new(Arc::new(current)), source: Mutex::new(source) })
    }

    /// Reads the files that the configuration names now; nothing is changed yet.
    pub fn prepare(config: &Config) -> Result<PreparedTls, TlsError> {
        let source = Source::new(&config.access.tls, config.inside.tls.as_ref());
        Ok(PreparedTls { current: Arc::new(source.read()?), source })
    }

    /// Uses what was prepared, from the next handshake on; gives back what was in use.
    pub fn exchange(&self, prepared: PreparedTls) -> PreparedTls {
        let mut kept = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        PreparedTls {
            source: std::mem::replace(&mut *kept, prepared.source),
            current: std::mem::replace(&mut *current, prepared.current),
        }
    }

    /// Loads the files that the configuration names now. When anything is wrong, everything stays
    /// as it was.
    pub fn reload(&self, config: &Config) -> Result<Loaded, TlsError> {
        let prepared = Self::prepare(config)?;
        let loaded = prepared.current.loaded.clone();
        self.exchange(prepared);
        Ok(loaded)
    }

    /// Loads the files again if one of them changed since the last time. `None`: nothing changed.
    /// A fault is reported once for each change.
    pub fn reload_if_changed(&self) -> Option<Result<Loaded, TlsError>> {
        let mut kept = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let source = Source::new(&kept.access, kept.inside.as_ref());
        if source.stamps == kept.stamps {
            return None;
        }
        let result = source.read();
        *kept = source;
        Some(result.map(|current| self.install(current)))
    }

    /// Looks for changed files every few seconds, for ever; tells of each load and each fault.
    pub async fn watch(
        self: Arc<Self>,
        every: Duration,
        mut report: impl FnMut(Result<Loaded, TlsError>) + Send,
    ) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let store = Arc::clone(&self);
            // Files may lie on a slow disk.
            let looked = tokio::task::spawn_blocking(move || store.reload_if_changed()).await;
            if let Ok(Some(result)) = looked {
                report(result);
            }
        }
    }

    /// What is loaded now.
    pub fn loaded(&self) -> Loaded {
        self.current().loaded.clone()
    }

    /// For a listener of this side. `None`: no TLS files are configured inside.
    pub fn server(&self, side: Side) -> Option<Arc<ServerConfig>> {
        self.current().side(side).map(|tls| Arc::clone(&tls.server))
    }

    /// For a connection to this side. `None`: no TLS files are configured inside.
    pub fn client(&self, side: Side) -> Option<Arc<ClientConfig>> {
        self.current().side(side).map(|tls| Arc::clone(&tls.client))
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn install(&self, current: Current) -> Loaded {
        let loaded = current.loaded.clone();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
        loaded
    }
}

impl fmt::Debug for TlsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStore").field("loaded", &self.loaded()).finish_non_exhaustive()
    }
}

impl Current {
    fn side(&self, side: Side) -> Option<&SideTls> {
        match side {
            Side::Partner => Some(&self.access),
            Side::Inside => self.inside.as_ref(),
        }
    }
}

impl Source {
    /// The stamps are taken before the files are read: a change in between is seen next time.
    fn new(access: &TlsFiles, inside: Option<&TlsFiles>) -> Self {
        let stamps = std::iter::once(access)
            .chain(inside)
            .flat_map(|files| [&files.certificate, &files.key, &files.trust])
            .map(|file| Stamp::of(file))
            .collect();
        Self { access: access.clone(), inside: inside.cloned(), stamps }
    }

    fn read(&self) -> Result<Current, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let (access, access_identity) = side(&self.access, &provider)?;
        let mut loaded = Loaded {
            access: access_identity.description,
            inside: None,
            expires_at: access_identity.expires_at,
        };
        let mut inside = None;
        if let Some(files) = &self.inside {
            let (tls, identity) = side(files, &provider)?;
            inside = Some(tls);
            loaded.inside = Some(identity.description);
            loaded.expires_at = loaded.expires_at.min(identity.expires_at);
        }
        Ok(Current { access, inside, loaded })
    }
}

struct Described {
    description: String,
    expires_at: i64,
}

/// Both configurations of one side.
fn side(
    files: &TlsFiles,
    provider: &Arc<CryptoProvider>,
) -> Result<(SideTls, Described), TlsError> {
    let Identity { chain, key, description, expires_at } = Identity::read(files)?;
    let anchors = files::trust_anchors(&files.trust)?;
    let verifier = PeerVerifier::new(anchors, provider.signature_verification_algorithms);
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let refused = |error: rustls::Error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::Mismatch { key: files.key.clone(), certificate: files.certificate.clone() }
        }
        other => TlsError::Damaged { file: files.certificate.clone(), fault: other.to_string() },
    };

    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&versions)
        .map_err(refused)?
        .with_client_cert_verifier(Arc::clone(&verifier) as _)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(refused)?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;

    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&versions)
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .map_err(refused)?;
    client.resumption = Resumption::disabled();
    client.enable_early_data = false;

    let tls = SideTls { server: Arc::new(server), client: Arc::new(client) };
    Ok((tls, Described { description, expires_at }))
}

/// The name to connect to: sent as SNI when it is a host name, and expected in the certificate.
pub fn server_name(host: Option<&Domain>, address: IpAddr) -> ServerName<'static> {
    host.and_then(|host| ServerName::try_from(host.as_str().to_owned()).ok())
        .unwrap_or_else(|| ServerName::IpAddress(address.to_canonical().into()))
}
