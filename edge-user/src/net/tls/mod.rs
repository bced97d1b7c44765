//! TLS: our certificates, whom we trust, and their exchange while connections live.
//!
//! TLS 1.2 and 1.3 with ring. Sessions are never resumed and no tickets are given: a resumed
//! session would carry a proof past a block, a revocation or an expiry (the trust rules, section
//! 2). Our certificate is presented whatever list of authorities the peer sends. Never logs a key.
//!
//! Outside there may be several certificates of ours: which one is shown goes by the name that the
//! peer asks for (SNI), and when we connect by whom the request is from.

mod build;
mod fault;
mod files;
mod lists;
#[cfg(test)]
mod peer_tests;
mod rules;
mod stand;
#[cfg(test)]
mod tests;
mod verify;
mod xmpp;
#[cfg(test)]
mod xmpp_tests;

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    ClientConfig, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::sync::watch;
use x509_parser::time::ASN1Time;

use self::{
    build::{for_remote, side},
    files::{Identity, Stamp},
    stand::Chains,
    verify::PeerVerifier,
    xmpp::{XmppFiles, XmppTls},
};
pub use self::{
    fault::{HandshakeError, HandshakeFault},
    files::Expiring,
    rules::Exceptions,
    stand::{SentChain, Standing},
};
pub(crate) use self::{
    lists::{ListFault, MAX_LIST, RevocationList},
    rules::PeerRules,
};
use crate::{
    config::{Config, OwnIdentity, Revocation, TlsFiles},
    domain::Domain,
    federation::CertificateNames,
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
    /// Every certificate that was read, ours and those we trust, and when it expires.
    pub expiring: Vec<Expiring>,
}

/// One side's TLS: as server and as client.
#[derive(Clone)]
struct SideTls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

struct Current {
    access: SideTls,
    /// Further certificates of the access service, and the names they are for.
    others: Vec<(Vec<Domain>, SideTls)>,
    inside: Option<SideTls>,
    /// Remote users, who show no certificate.
    remote: Option<Arc<ServerConfig>>,
    /// XMPP.
    xmpp: Option<XmppTls>,
    /// Of partners.
    verifier: Arc<PeerVerifier>,
    /// Of servers inside.
    insiders: Option<Arc<PeerVerifier>>,
    loaded: Loaded,
    lists: Vec<Arc<RevocationList>>,
}

/// Our TLS identities and trust stores. Shared; exchanged as a whole.
///
/// A connection keeps what it was made with; the next handshake uses what was loaded last.
pub struct TlsStore {
    current: RwLock<Arc<Current>>,
    source: Mutex<Source>,
    rules: Arc<PeerRules>,
    chains: Mutex<Chains>,
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

/// What remote users see.
#[derive(Clone, Default)]
struct RemoteTls {
    /// Certificate and key; without them those of the access service.
    files: Option<(PathBuf, PathBuf)>,
    /// The access service takes them, too.
    shared: bool,
}

/// The files, and what they looked like when they were read.
#[derive(Clone)]
struct Source {
    access: TlsFiles,
    others: Vec<OwnIdentity>,
    inside: Option<TlsFiles>,
    remote: Option<RemoteTls>,
    xmpp: Option<XmppFiles>,
    revocation: Revocation,
    stamps: Vec<Stamp>,
}

impl TlsStore {
    /// Loads the files that the configuration names.
    pub fn load(config: &Config) -> Result<Self, TlsError> {
        Self::with(Source::of(config))
    }

    /// Loads these files.
    pub fn load_files(access: &TlsFiles, inside: Option<&TlsFiles>) -> Result<Self, TlsError> {
        Self::with(Source::new(access, &[], inside, (None, None), &Revocation::default()))
    }

    fn with(source: Source) -> Result<Self, TlsError> {
        let rules = Arc::new(PeerRules::default());
        let current = source.read(&rules)?;
        rules.set_revocation(source.revocation.clone(), current.lists.clone());
        Ok(Self {
            current: RwLock::new(Arc::new(current)),
            source: Mutex::new(source),
            rules,
            chains: Mutex::default(),
        })
    }

    /// Reads the files that the configuration names now; nothing is changed yet.
    pub fn prepare(&self, config: &Config) -> Result<PreparedTls, TlsError> {
        let source = Source::of(config);
        Ok(PreparedTls { current: Arc::new(source.read(&self.rules)?), source })
    }

    /// Uses what was prepared, from the next handshake on.
    pub fn exchange(&self, prepared: PreparedTls) {
        let mut kept = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        self.install(prepared.current, &prepared.source.revocation);
        *kept = prepared.source;
    }

    /// Loads the files that the configuration names now. When anything is wrong, everything stays
    /// as it was.
    pub fn reload(&self, config: &Config) -> Result<Loaded, TlsError> {
        let prepared = self.prepare(config)?;
        let loaded = prepared.current.loaded.clone();
        self.exchange(prepared);
        Ok(loaded)
    }

    /// Loads the files again if one of them changed since the last time. `None`: nothing changed.
    /// A fault is reported once for each change.
    pub fn reload_if_changed(&self) -> Option<Result<Loaded, TlsError>> {
        let mut kept = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let source = kept.again();
        if source.stamps == kept.stamps {
            return None;
        }
        let in_use = self.current();
        let result = source.read(&self.rules).and_then(|new| match out_of_time(&in_use.loaded) {
            None => in_its_time(new),
            // What is in use is no better.
            Some(_) => Ok(new),
        });
        let result = result.map(|current| {
            let loaded = current.loaded.clone();
            self.install(Arc::new(current), &source.revocation);
            loaded
        });
        *kept = source;
        Some(result)
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
        let current = self.current();
        match side {
            Side::Remote => current.remote.clone(),
            _ => current.side(side, 0).map(|tls| Arc::clone(&tls.server)),
        }
    }

    /// For a connection to this side. `None`: no TLS files are configured inside.
    pub fn client(&self, side: Side) -> Option<Arc<ClientConfig>> {
        self.client_as(side, 0)
    }

    /// Whether it depends on the name a peer asks for which certificate it sees.
    pub fn asks_for_name(&self, side: Side) -> bool {
        side == Side::Partner && !self.current().others.is_empty()
    }

    /// For a listener of this side, when the peer asks for this name; and which of our identities
    /// that is. The first is for every name that is no other's.
    pub fn server_for(&self, side: Side, name: Option<&str>) -> Option<(Arc<ServerConfig>, u8)> {
        let current = self.current();
        let name: Option<Domain> = name.and_then(|name| name.parse().ok());
        let holds = |(names, _): &(Vec<Domain>, SideTls)| {
            name.as_ref().is_some_and(|name| names.contains(name))
        };
        let other = current.others.iter().position(holds).filter(|_| side == Side::Partner);
        let own = other.and_then(|index| u8::try_from(index + 1).ok()).unwrap_or(0);
        current.side(side, own).map(|tls| (Arc::clone(&tls.server), own))
    }

    /// For a connection to this side as one of our identities. `None`: there is no such one.
    pub fn client_as(&self, side: Side, own: u8) -> Option<Arc<ClientConfig>> {
        self.current().side(side, own).map(|tls| Arc::clone(&tls.client))
    }

    /// The names of a peer's certificate, which the verifier has accepted.
    ///
    /// # Errors
    /// It cannot be read, or a list that came meanwhile names it.
    pub fn peer_names(
        &self,
        side: Side,
        chain: Option<&[CertificateDer<'static>]>,
    ) -> Result<CertificateNames, HandshakeError> {
        let fault = |fault: HandshakeFault, detail: String| HandshakeError { fault, detail };
        let leaf = chain
            .and_then(<[_]>::first)
            .ok_or_else(|| fault(HandshakeFault::NoCertificate, "none".to_owned()))?;
        let mut names = CertificateNames::from_der(leaf)
            .map_err(|error| fault(HandshakeFault::BadCertificate, error.to_string()))?;
        if side == Side::Partner {
            names.unchained = self.rules.is_unchained(leaf);
            if self.rules.is_revoked(&names) {
                return Err(fault(HandshakeFault::Revoked, names.description));
            }
        }
        Ok(names)
    }

    /// Lets pass at the handshake what these entries allow.
    pub fn set_exceptions(&self, exceptions: Exceptions) {
        self.rules.set_exceptions(exceptions);
    }

    /// What is asked of partners beyond their chain.
    pub(crate) fn rules(&self) -> &Arc<PeerRules> {
        &self.rules
    }

    /// Tells of each change of the revocation lists and of the trust stores.
    pub fn changed_lists(&self) -> watch::Receiver<u64> {
        self.rules.changes()
    }

    /// Whether a list in force names this certificate.
    pub fn is_revoked(&self, names: &CertificateNames) -> bool {
        self.rules.is_revoked(names)
    }

    /// Whether a list that was fetched speaks for this chain's end, and is in its time.
    pub(crate) fn check_list(
        &self,
        chain: &[CertificateDer<'_>],
        list: &RevocationList,
    ) -> Result<(), ListFault> {
        let now = UnixTime::now();
        list.note_use(now.as_secs());
        self.current().verifier.check_list(chain, list, now)
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses these, with their lists. Whoever is told of the change sees both.
    fn install(&self, new: Arc<Current>, revocation: &Revocation) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        self.rules.set_revocation(revocation.clone(), new.lists.clone());
        *current = new;
    }
}

impl fmt::Debug for TlsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStore").field("loaded", &self.loaded()).finish_non_exhaustive()
    }
}

impl Current {
    fn side(&self, side: Side, own: u8) -> Option<&SideTls> {
        match (side, usize::from(own)) {
            (Side::Partner, 0) => Some(&self.access),
            (Side::Partner, other) => self.others.get(other - 1).map(|(_, tls)| tls),
            (Side::Inside, _) => self.inside.as_ref(),
            // We never connect to them, and what we show them is a server's alone.
            (Side::Remote | Side::Gateway, _) => None,
        }
    }
}

impl Source {
    fn of(config: &Config) -> Self {
        let access = &config.access;
        let remote = config.services.remote.as_ref();
        let remote = remote.map(|r| RemoteTls { files: r.files.clone(), shared: r.shared });
        let inside = config.inside.tls.as_ref();
        let beside = (remote, XmppFiles::of(config));
        Self::new(&access.tls, &access.identities, inside, beside, &config.revocation)
    }

    /// The stamps are taken before the files are read: a change in between is seen next time.
    fn new(
        access: &TlsFiles,
        others: &[OwnIdentity],
        inside: Option<&TlsFiles>,
        (remote, xmpp): (Option<RemoteTls>, Option<XmppFiles>),
        revocation: &Revocation,
    ) -> Self {
        let of_remote = remote.as_ref().and_then(|remote| remote.files.as_ref());
        let stamps = std::iter::once(access)
            .chain(inside)
            .flat_map(|files| [&files.certificate, &files.key, &files.trust])
            .chain(others.iter().flat_map(|other| [&other.certificate, &other.key]))
            .chain(of_remote.iter().flat_map(|(certificate, key)| [certificate, key]))
            .chain(xmpp.iter().flat_map(XmppFiles::all))
            .chain(&revocation.files)
            .map(|file| Stamp::of(file))
            .collect();
        Self {
            access: access.clone(),
            others: others.to_vec(),
            inside: inside.cloned(),
            remote,
            xmpp,
            revocation: revocation.clone(),
            stamps,
        }
    }

    /// The same files as they are now.
    fn again(&self) -> Self {
        let beside = (self.remote.clone(), self.xmpp.clone());
        Self::new(&self.access, &self.others, self.inside.as_ref(), beside, &self.revocation)
    }

    fn read(&self, rules: &Arc<PeerRules>) -> Result<Current, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut expiring = Vec::new();
        let mut verifier = |files: &TlsFiles, rules: Option<&Arc<PeerRules>>| {
            let (anchors, found) = files::trust_anchors(&files.trust)?;
            expiring.extend(found);
            let algorithms = provider.signature_verification_algorithms;
            Ok::<_, TlsError>(PeerVerifier::new(anchors, algorithms, rules.cloned()))
        };
        let partners = verifier(&self.access, Some(rules))?;
        let insiders = self.inside.as_ref().map(|files| verifier(files, None)).transpose()?;

        let mut ours = Vec::new();
        let shared = self.remote.as_ref().is_some_and(|remote| remote.shared);
        let mut make = |certificate: &Path, key: &Path, verifier: &Arc<PeerVerifier>| {
            let identity = Identity::read(certificate, key)?;
            ours.push((identity.description.clone(), identity.validity, certificate.to_owned()));
            let optional = shared && Arc::ptr_eq(verifier, &partners);
            side(identity, (certificate, key), verifier, optional, &provider)
        };
        let access = make(&self.access.certificate, &self.access.key, &partners)?;
        let inside = match (&self.inside, &insiders) {
            (Some(files), Some(verifier)) => Some(make(&files.certificate, &files.key, verifier)?),
            _ => None,
        };
        let others = self
            .others
            .iter()
            .map(|o| Ok((o.names.clone(), make(&o.certificate, &o.key, &partners)?)))
            .collect::<Result<_, TlsError>>()?;
        let remote = match &self.remote {
            Some(remote) => {
                let (certificate, key) = match &remote.files {
                    Some((certificate, key)) => (certificate, key),
                    None => (&self.access.certificate, &self.access.key),
                };
                let identity = Identity::read(certificate, key)?;
                if remote.files.is_some() {
                    let text = identity.description.clone();
                    ours.push((text, identity.validity, certificate.clone()));
                }
                Some(for_remote(identity, (certificate, key), &provider)?)
            }
            None => None,
        };
        let xmpp = self.xmpp.as_ref();
        let xmpp =
            xmpp.map(|files| XmppTls::read(files, &self.others, rules, &provider)).transpose()?;
        if let Some(xmpp) = &xmpp {
            // What the access service shows is told of once.
            if !ours.contains(&xmpp.told) {
                ours.push(xmpp.told.clone());
            }
            let new = xmpp.roots.iter().filter(|root| !expiring.contains(root)).cloned();
            let new: Vec<Expiring> = new.collect();
            expiring.extend(new);
        }
        let lists = self
            .revocation
            .files
            .iter()
            .map(|file| files::revocation_list(file).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let loaded = Loaded {
            access: ours.first().map(|(text, ..)| text.clone()).unwrap_or_default(),
            inside: inside.is_some().then(|| ours.get(1).map(|(text, ..)| text.clone())).flatten(),
            expires_at: ours.iter().map(|(_, (_, end), _)| *end).min().unwrap_or(i64::MAX),
            expiring: ours
                .into_iter()
                .map(|(description, (valid_from, expires_at), file)| Expiring {
                    own: true,
                    file,
                    description,
                    valid_from,
                    expires_at,
                })
                .chain(expiring)
                .collect(),
        };
        let verifier = partners;
        Ok(Current { access, others, inside, remote, xmpp, verifier, insiders, loaded, lists })
    }
}

/// A certificate of ours whose time is over, or has not come.
fn out_of_time(loaded: &Loaded) -> Option<&Expiring> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let is_good = |found: &Expiring| (found.valid_from..=found.expires_at).contains(&now);
    loaded.expiring.iter().find(|found| found.own && !is_good(found))
}

/// New files are not used when the time of a certificate of ours in them is over, or has not come.
fn in_its_time(current: Current) -> Result<Current, TlsError> {
    let Some(found) = out_of_time(&current.loaded) else { return Ok(current) };
    let text = |at| ASN1Time::from_timestamp(at).map(|at| at.to_string());
    Err(TlsError::NotValidNow {
        file: found.file.clone(),
        from: text(found.valid_from).unwrap_or_default(),
        to: text(found.expires_at).unwrap_or_default(),
    })
}

/// Reads a list from a file; when the next is to be, in seconds since 1970.
///
/// # Errors
/// It is no list that can be used.
pub fn list_file(file: &Path) -> Result<i64, TlsError> {
    files::revocation_list(file).map(|list| list.next_update)
}

/// The name to connect to: sent as SNI when it is a host name, and expected in the certificate.
pub fn server_name(host: Option<&Domain>, address: IpAddr) -> ServerName<'static> {
    host.and_then(|host| ServerName::try_from(host.as_str().to_owned()).ok())
        .unwrap_or_else(|| ServerName::IpAddress(address.to_canonical().into()))
}
