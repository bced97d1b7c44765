//! DNS: a partner's edges, and hosts (RFC 2782; the trust rules, section 6).
//!
//! Answers are written by strangers: they are filtered, bounded in number and time, and kept in a
//! cache of bounded size. Every UDP socket is connected to its name server, since the kernel half
//! lets in replies for connected sockets only. Names are always asked as fully qualified: no
//! search list. `/etc/hosts` counts for next hops only, never for what strangers name.

mod ask;
mod cache;
mod connected;
mod files;
#[cfg(test)]
mod lies;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_resolver::{
    Resolver as Backend,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup as BackendAnswer,
    net::{DnsError, NetError},
    proto::{
        dnssec::TrustAnchors,
        rr::{Name, RecordType},
        serialize::txt::ParseError,
    },
};
use tokio::sync::Semaphore;

use self::{
    ask::Asking,
    cache::{Answer, Cache, Key, Step},
    connected::ConnectedProvider,
};
use super::local::own_addresses;
use crate::{
    config::{Config, Host, MediaMode, NextHop, Transport},
    federation::{Lookup, discovery, usable},
    proxy::{Question, ResolveError},
    xmpp::io::{XmppHost, XmppQuestion},
};

/// Records that are asked for at one time, while their servers may be quick.
const MAX_QUICK: usize = 64;
/// How long they may be: some servers are somebody's who wants nobody to be answered.
const QUICK: Duration = Duration::from_millis(500);
/// Records of slow servers that are waited for at one time.
const MAX_SLOW: usize = 256;
/// Answers hickory keeps by itself, so that domains behind one host share its addresses.
const BACKEND_ANSWERS: u64 = 1024;

/// Answers the proxy's questions, and those of whoever needs a domain's edges.
pub struct Resolver {
    state: RwLock<Arc<State>>,
    cache: Mutex<Cache>,
    permits: Permits,
    seed: AtomicU64,
    files: Files,
}

/// Why no resolver can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolverError {
    /// Neither the configuration nor `/etc/resolv.conf` names a server.
    #[error("no DNS server is known; name one in [dns] servers or in /etc/resolv.conf")]
    NoServers,
    /// The resolver refuses its settings.
    #[error("the DNS resolver cannot be set up: {0}")]
    SetUp(String),
}

/// Files of the system that are read.
#[derive(Clone, Debug)]
struct Files {
    resolv_conf: PathBuf,
    hosts: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }
}

/// Whoever is slow makes room for who is quick, so that a stranger whose name servers never answer
/// holds up questions about nobody else.
struct Permits {
    quick: Semaphore,
    slow: Semaphore,
}

impl Default for Permits {
    fn default() -> Self {
        Self { quick: Semaphore::new(MAX_QUICK), slow: Semaphore::new(MAX_SLOW) }
    }
}

impl Permits {
    /// Waits for an answer. `None`: too many are slow.
    async fn carry<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = pin!(answer);
        let quick = self.quick.acquire().await;
        if let Ok(answer) = tokio::time::timeout(QUICK, answer.as_mut()).await {
            return Some(answer);
        }
        drop(quick);
        let _slow = self.slow.try_acquire().ok()?;
        Some(answer.await)
    }
}

/// The name servers of a configuration.
struct Servers {
    all: Backend<ConnectedProvider>,
    /// Each alone, where there are several.
    each: Vec<Backend<ConnectedProvider>>,
}

impl Servers {
    /// Records, from whichever server has them. All are asked together; but where one says at once that
    /// it cannot or will not answer, the backend waits for no other, so each is asked alone then.
    async fn lookup(&self, name: Name, kind: RecordType) -> Result<BackendAnswer, NetError> {
        let mut answer = self.all.lookup(name.clone(), kind).await;
        for one in &self.each {
            match &answer {
                Err(fault) if is_one_servers(fault) => {
                    answer = one.lookup(name.clone(), kind).await
                }
                _ => break,
            }
        }
        answer
    }

    fn clear_cache(&self) {
        self.all.clear_cache();
        self.each.iter().for_each(Backend::clear_cache);
    }
}

/// Whether another server may do better: this one failed (RFC 2308 section 7.1), refused, or sent what
/// cannot be read. When none said anything, all were waited for.
fn is_one_servers(fault: &NetError) -> bool {
    match fault {
        NetError::Dns(DnsError::ResponseCode(_)) => true,
        NetError::Dns(_) | NetError::Timeout | NetError::Io(_) | NetError::NoConnections => false,
        _ => true,
    }
}

/// What one configuration gives.
struct State {
    plain: Servers,
    /// Validates (RFC 4035): for partners of whom signed answers are demanded.
    validating: Servers,
    servers: Vec<SocketAddr>,
    config: Config,
}

/// A configuration's resolver that is not in use yet.
pub struct PreparedResolver(Arc<State>);

impl fmt::Debug for PreparedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PreparedResolver").field(&self.0.servers).finish()
    }
}

impl Resolver {
    /// A resolver for this configuration. Must be called within a tokio runtime.
    pub fn new(config: &Config) -> Result<Arc<Self>, ResolverError> {
        Self::with_files(config, Files::default())
    }

    fn with_files(config: &Config, files: Files) -> Result<Arc<Self>, ResolverError> {
        let state = Arc::new(State::new(config, &files)?);
        Ok(Arc::new(Self {
            state: RwLock::new(state),
            cache: Mutex::default(),
            permits: Permits::default(),
            seed: AtomicU64::new(RandomState::new().build_hasher().finish()),
            files,
        }))
    }

    /// Uses another configuration from now on; forgets what was cached. When it is bad,
    /// everything stays as it was.
    pub fn reconfigure(&self, config: &Config) -> Result<(), ResolverError> {
        self.install(self.prepare(config)?);
        Ok(())
    }

    /// Sets another configuration up; nothing is changed yet.
    pub fn prepare(&self, config: &Config) -> Result<PreparedResolver, ResolverError> {
        Ok(PreparedResolver(Arc::new(State::new(config, &self.files)?)))
    }

    /// Uses what was prepared from now on; forgets what was cached.
    pub fn install(&self, prepared: PreparedResolver) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = prepared.0;
        self.flush();
    }

    /// Answers a question: from the cache, together with others who ask the same, or from DNS.
    pub async fn resolve(self: &Arc<Self>, question: &Question, lookup: Lookup) -> Answer {
        let key: Key = (question.clone(), lookup);
        let (step, generation) = {
            let mut cache = self.cache();
            (cache.step(&key, Instant::now()), cache.generation())
        };
        let mut wait = match step {
            Step::Known(answer) => return answer,
            Step::Full => return Err(ResolveError::Unavailable),
            Step::Wait(wait) => wait,
            Step::Ask(tell, wait) => {
                // A task of its own: whoever asked first may lose interest, others wait too.
                let resolver = Arc::clone(self);
                tokio::spawn(async move {
                    let (answer, holds) = resolver.ask(&key).await;
                    resolver.cache().finish(key, &answer, holds, Instant::now(), generation);
                    tell.send_replace(Some(answer));
                });
                wait
            }
        };
        match wait.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or(Err(ResolveError::Unavailable)),
            Err(_) => Err(ResolveError::Unavailable),
        }
    }

    /// Where the XMPP servers of a domain are, or of a host that is configured; `inside`: it is a
    /// server of our own. Not cached but by the resolver itself: streams are few and long.
    ///
    /// # Errors
    /// There is none, or none that may be used.
    pub async fn xmpp(
        &self,
        question: &XmppQuestion,
        inside: bool,
    ) -> Result<(Vec<XmppHost>, Instant), ResolveError> {
        let state = self.state();
        let bound = state.config.dns.timeout.saturating_mul(4) + Duration::from_secs(1);
        let seed = self.seed.fetch_add(0x9e37_79b9, Ordering::Relaxed);
        let asking = Asking::new(&state, Lookup::default(), seed, &self.permits);
        let asked = tokio::time::timeout(bound, async {
            match question {
                XmppQuestion::Domain(domain) => asking.xmpp(domain).await,
                XmppQuestion::Host(host, port) if inside => {
                    let hop = NextHop {
                        host: Host::Name(host.clone()),
                        port: *port,
                        transport: Transport::Tls,
                    };
                    asking.next_hop(&hop, &self.files.hosts).await.map(ask::plain)
                }
                XmppQuestion::Host(host, port) => asking.host(host, *port).await.map(ask::plain),
            }
        });
        asked.await.unwrap_or(Err(ResolveError::Unavailable))
    }

    /// Whether an address that was learned from outside may be connected to.
    pub fn may_be_used(&self, address: IpAddr) -> bool {
        let state = self.state();
        let allow = &state.config.federation.allow_addresses;
        usable(address, &own_addresses(&state.config), allow).is_ok()
    }

    /// Forgets what was cached.
    pub fn flush(&self) {
        self.cache().flush();
        let state = self.state();
        state.plain.clear_cache();
        state.validating.clear_cache();
    }

    /// The servers that are asked.
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.state().servers.clone()
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, and how long it holds that there is none.
    async fn ask(&self, (question, lookup): &Key) -> (Answer, Duration) {
        let state = self.state();
        let bound = state.config.dns.timeout.saturating_mul(4) + Duration::from_secs(1);
        let seed = self.seed.fetch_add(0x9e37_79b9, Ordering::Relaxed);
        let asking = Asking::new(&state, *lookup, seed, &self.permits);
        let asked = tokio::time::timeout(bound, async {
            match question {
                Question::Federation(domain) => asking.federation(domain).await,
                Question::Host(host, port) => asking.host(host, *port).await,
                Question::NextHop(hop) => asking.next_hop(hop, &self.files.hosts).await,
                Question::Xmpp(domain) => asking.xmpp_servers(domain).await,
            }
        });
        let answer = asked.await.unwrap_or(Err(ResolveError::Unavailable));
        (answer, asking.negative())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("servers", &self.servers()).finish_non_exhaustive()
    }
}

impl State {
    fn new(config: &Config, files: &Files) -> Result<Self, ResolverError> {
        let mut servers = config.dns.servers.clone();
        if servers.is_empty() {
            servers = files::name_servers(&files.resolv_conf);
        }
        if servers.is_empty() {
            return Err(ResolverError::NoServers);
        }
        let anchors = match &config.dns.trust_anchor {
            Some(file) => Some(Arc::new(trust_anchors(file).map_err(ResolverError::SetUp)?)),
            None => None,
        };
        let backend = |servers: &[SocketAddr], validate: bool| {
            let groups = servers.iter().map(name_server).collect();
            let servers = ResolverConfig::from_parts(None, Vec::new(), groups);
            let mut builder = Backend::builder_with_config(servers, ConnectedProvider::default());
            *builder.options_mut() = options(config);
            builder.options_mut().validate = validate;
            if let Some(anchors) = anchors.as_ref().filter(|_| validate) {
                builder = builder.with_trust_anchor(Arc::clone(anchors));
            }
            builder.build().map_err(|error| ResolverError::SetUp(error.to_string()))
        };
        let all = |validate| {
            let several = servers.iter().filter(|_| servers.len() > 1);
            let each = several.map(|one| backend(std::slice::from_ref(one), validate));
            let each = each.collect::<Result<_, _>>()?;
            Ok(Servers { all: backend(&servers, validate)?, each })
        };
        let (plain, validating) = (all(false)?, all(true)?);
        Ok(Self { plain, validating, servers, config: config.clone() })
    }
}

/// A server, by UDP and for long answers by TCP.
fn name_server(at: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(at.ip());
    for connection in &mut server.connections {
        connection.port = at.port();
    }
    server
}

/// The keys that a file of DNSKEY records holds.
pub(crate) fn trust_anchors(file: &Path) -> Result<TrustAnchors, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let anchors: TrustAnchors = text.parse().map_err(|error: ParseError| error.to_string())?;
    if anchors.is_empty() { Err("it holds no key".to_owned()) } else { Ok(anchors) }
}

fn options(config: &Config) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = config.dns.timeout;
    options.attempts = 2;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = BACKEND_ANSWERS;
    options.positive_max_ttl = Some(discovery::MAX_TTL);
    options.negative_min_ttl = Some(cache::MIN_NEGATIVE);
    options.negative_max_ttl = Some(cache::MAX_NEGATIVE);
    // A port we listen on must not become a resolver's source port, nor one that a call's media may
    // come in at: the answer would be taken for it.
    let listened =
        config.inside.listen.iter().filter(|(transport, _)| *transport == Transport::Udp);
    let av = config.services.av.iter().filter(|_| config.media.mode == MediaMode::Relay);
    options.avoid_local_udp_ports = Arc::new(
        listened
            .map(|(_, address)| address.port())
            .chain(av.flat_map(|av| av.media_ports.0..=av.media_ports.1))
            .collect::<HashSet<_>>(),
    );
    options
}
