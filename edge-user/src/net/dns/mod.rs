//! DNS: a partner's edges, and hosts (RFC 2782; the trust rules, section 6).
//!
//! Answers are written by strangers: they are filtered, bounded in number and time, and kept in a
//! cache of bounded size. Every UDP socket is connected to its name server, since the kernel half
//! lets in replies for connected sockets only. Names are always asked as fully qualified: no
//! search list. `/etc/hosts` counts for next hops only, never for what strangers name.

mod cache;
mod connected;
mod files;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_resolver::{
    Resolver as Backend,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, NoRecords},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType},
    },
};
use tokio::sync::Semaphore;

use self::{
    cache::{Answer, Cache, Key, Step},
    connected::ConnectedProvider,
};
use super::local::own_addresses;
use crate::{
    config::{Config, Host, Transport},
    domain::Domain,
    federation::{
        discovery::{self, Edge, HostAnswer, SrvRecord, SrvTarget},
        usable,
    },
    proxy::{Question, ResolveError, Resolved, ResolvedHost},
};

/// Questions to servers at one time.
const MAX_LOOKUPS: usize = 64;
/// Addresses of one answer that are looked at.
const MAX_ANSWER_ADDRESSES: usize = 1024;
/// Answers hickory keeps by itself, so that domains behind one host share its addresses.
const BACKEND_ANSWERS: u64 = 1024;

/// Answers the proxy's questions, and those of whoever needs a domain's edges.
pub struct Resolver {
    state: RwLock<Arc<State>>,
    cache: Mutex<Cache>,
    permits: Semaphore,
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

/// What one configuration gives.
struct State {
    backend: Backend<ConnectedProvider>,
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

/// Addresses, and until when they hold.
type Found = Result<(Vec<IpAddr>, Instant), ResolveError>;

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
            permits: Semaphore::new(MAX_LOOKUPS),
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
    pub async fn resolve(self: &Arc<Self>, question: &Question, relax_srv_domain: bool) -> Answer {
        let key: Key = (question.clone(), relax_srv_domain);
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
                    let answer = resolver.ask(&key).await;
                    resolver.cache().finish(key, &answer, Instant::now(), generation);
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

    /// A domain's edges: SRV `_sipfederationtls._tcp`, then the addresses of its targets.
    pub async fn federation(self: &Arc<Self>, domain: &Domain, relax_srv_domain: bool) -> Answer {
        self.resolve(&Question::Federation(domain.clone()), relax_srv_domain).await
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
        self.state().backend.clear_cache();
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

    async fn ask(&self, (question, relax): &Key) -> Answer {
        let state = self.state();
        let bound = state.config.dns.timeout.saturating_mul(4) + Duration::from_secs(1);
        let asked = tokio::time::timeout(bound, async {
            let _permit = self.permits.acquire().await;
            match question {
                Question::Federation(domain) => {
                    let seed = self.seed.fetch_add(0x9e37_79b9, Ordering::Relaxed);
                    state.federation(domain, *relax, seed).await
                }
                Question::Host(host, port) => {
                    let edge = Edge { host: host.clone(), port: *port };
                    state.hosts(vec![edge], None).await
                }
                Question::NextHop(hop) => match &hop.host {
                    Host::Name(host) => state.next_hop(host, hop.port, &self.files.hosts).await,
                    // Nothing to look up: the core connects to it.
                    Host::Address(_) => Err(ResolveError::NotFound),
                },
            }
        });
        asked.await.unwrap_or(Err(ResolveError::Unavailable))
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
        let groups = servers
            .iter()
            .map(|server| {
                let mut group = NameServerConfig::udp_and_tcp(server.ip());
                for connection in &mut group.connections {
                    connection.port = server.port();
                }
                group
            })
            .collect();
        let mut builder = Backend::builder_with_config(
            ResolverConfig::from_parts(None, Vec::new(), groups),
            ConnectedProvider::default(),
        );
        *builder.options_mut() = options(config);
        let backend = builder.build().map_err(|error| ResolverError::SetUp(error.to_string()))?;
        Ok(Self { backend, servers, config: config.clone() })
    }

    async fn federation(&self, domain: &Domain, relax: bool, seed: u64) -> Answer {
        let name = format!("_sipfederationtls._tcp.{domain}.");
        let (records, until) = self.lookup(&name, RecordType::SRV).await?;
        let records = records
            .into_iter()
            .filter_map(|data| match data {
                RData::SRV(srv) => Some(SrvRecord {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                    target: target(&srv.target),
                }),
                _ => None,
            })
            .collect();
        let edges = discovery::edges(domain, records, relax, seed)?;
        self.hosts(edges, Some(until)).await
    }

    /// Addresses of each edge, asked for at one time.
    async fn hosts(&self, edges: Vec<Edge>, until: Option<Instant>) -> Answer {
        let asked = edges.into_iter().map(|edge| async {
            let found = self.addresses(&edge.host).await;
            (edge, found)
        });
        let found = join_all(asked).await;
        let now = Instant::now();
        let mut until = until.unwrap_or(now + discovery::MAX_TTL);
        let mut answers: Vec<(Edge, HostAnswer)> = Vec::with_capacity(found.len());
        for (edge, found) in found {
            answers.push((
                edge,
                found.map(|(addresses, valid)| {
                    until = until.min(valid);
                    addresses
                }),
            ));
        }
        let own = own_addresses(&self.config);
        let hosts = discovery::hosts(answers, &own, &self.config.federation.allow_addresses)?;
        Ok(Resolved { hosts, valid_until: valid_until(now, until) })
    }

    /// A next hop is the administrator's own word: `/etc/hosts` counts, inside addresses too.
    async fn next_hop(&self, host: &Domain, port: u16, hosts_file: &std::path::Path) -> Answer {
        let now = Instant::now();
        let (file, name) = (hosts_file.to_owned(), host.clone());
        let listed = tokio::task::spawn_blocking(move || files::hosts(&file, &name)).await;
        let (mut addresses, until) = match listed {
            Ok(listed) if !listed.is_empty() => (listed, now + discovery::MIN_TTL),
            _ => self.addresses(host).await?,
        };
        addresses.retain(|ip| !ip.is_unspecified() && !ip.is_multicast());
        addresses.truncate(discovery::MAX_ADDRESSES);
        if addresses.is_empty() {
            return Err(ResolveError::ForbiddenAddress);
        }
        let hosts = vec![ResolvedHost { host: host.clone(), port, addresses }];
        Ok(Resolved { hosts, valid_until: valid_until(now, until) })
    }

    /// A and AAAA of a host; IPv6 first where we have such an address ourselves (RFC 6724).
    async fn addresses(&self, host: &Domain) -> Found {
        let name = format!("{host}.");
        let (v4, v6) =
            tokio::join!(self.lookup(&name, RecordType::A), self.lookup(&name, RecordType::AAAA));
        let has_v6 = own_addresses(&self.config).iter().any(
            |ip| matches!(ip, IpAddr::V6(v6) if !v6.is_loopback() && !v6.is_unicast_link_local()),
        );
        let order = if has_v6 { [v6, v4] } else { [v4, v6] };
        let mut addresses = Vec::new();
        let mut until = Instant::now() + discovery::MAX_TTL;
        let mut fault = ResolveError::NotFound;
        for answer in order {
            match answer {
                Ok((records, valid)) => {
                    until = until.min(valid);
                    addresses.extend(records.iter().filter_map(RData::ip_addr));
                }
                Err(ResolveError::Unavailable) => fault = ResolveError::Unavailable,
                Err(_) => {}
            }
        }
        addresses.truncate(MAX_ANSWER_ADDRESSES);
        if addresses.is_empty() { Err(fault) } else { Ok((addresses, until)) }
    }

    async fn lookup(
        &self,
        name: &str,
        kind: RecordType,
    ) -> Result<(Vec<RData>, Instant), ResolveError> {
        let name = Name::from_ascii(name).map_err(|_| ResolveError::NotFound)?;
        match self.backend.lookup(name, kind).await {
            Ok(found) => {
                let records: Vec<_> = found
                    .answers()
                    .iter()
                    .filter(|record| record.record_type() == kind)
                    .take(MAX_ANSWER_ADDRESSES)
                    .map(|record| record.data.clone())
                    .collect();
                Ok((records, found.valid_until()))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code: ResponseCode::NXDomain | ResponseCode::NoError,
                ..
            }))) => Err(ResolveError::NotFound),
            Err(error) => {
                tracing::debug!(%error, "DNS");
                Err(ResolveError::Unavailable)
            }
        }
    }
}

fn options(config: &Config) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = config.dns.timeout;
    options.attempts = 2;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = BACKEND_ANSWERS;
    options.positive_max_ttl = Some(discovery::MAX_TTL);
    options.negative_max_ttl = Some(cache::NEGATIVE);
    // A port we listen on must not become a resolver's source port.
    options.avoid_local_udp_ports = Arc::new(
        config
            .inside
            .listen
            .iter()
            .filter(|(transport, _)| *transport == Transport::Udp)
            .map(|(_, address)| address.port())
            .collect::<HashSet<_>>(),
    );
    options
}

fn target(name: &Name) -> SrvTarget {
    if name.is_root() {
        return SrvTarget::None;
    }
    name.to_ascii().parse().map_or(SrvTarget::Unusable, SrvTarget::Host)
}

fn valid_until(now: Instant, until: Instant) -> Instant {
    now + discovery::validity(until.saturating_duration_since(now))
}

/// Runs a few futures at one time (no more than there are targets).
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        let mut done = true;
        for (future, result) in &mut futures {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *result = Some(value),
                    std::task::Poll::Pending => done = false,
                }
            }
        }
        if done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    futures.into_iter().filter_map(|(_, result)| result).collect()
}
