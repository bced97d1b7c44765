//! One question and the records that answer it.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use hickory_resolver::{
    net::{DnsError, NetError, NoRecords},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, Record, RecordType},
    },
};

use tokio::sync::Semaphore;

use super::{
    Permits, State,
    cache::{self, Answer},
    files,
};
use crate::{
    config::{Host, NextHop},
    domain::Domain,
    federation::{
        Lookup,
        discovery::{self, Edge, HostAnswer, SrvRecord, SrvTarget},
    },
    net::local::own_addresses,
    proxy::{ResolveError, Resolved, ResolvedHost},
    xmpp::io::XmppHost,
};

/// Addresses of one XMPP domain that are tried.
const MAX_XMPP_ADDRESSES: usize = 16;
/// How long a host's addresses of one family are waited for when those of the other are there: some
/// name servers never say a word about AAAA (RFC 4074 section 4.1).
const OTHER_FAMILY: Duration = Duration::from_secs(1);
/// Addresses of one answer that are looked at.
const MAX_ANSWER_ADDRESSES: usize = 1024;
/// Records that one question asks for at one time.
const AT_ONE_TIME: usize = 4;
/// Where a partner's edges stand: Lync's name first, then that of RFC 3263.
const SERVICES: [&str; 2] = ["_sipfederationtls._tcp", "_sips._tcp"];

/// Records, and until when they hold.
type Records = Result<(Vec<RData>, Instant), ResolveError>;

/// Addresses, and until when they hold.
type Found = Result<(Vec<IpAddr>, Instant), ResolveError>;

const XMPP_SERVER: &str = "_xmpp-server._tcp";
const XMPPS_SERVER: &str = "_xmpps-server._tcp";
const XMPP_PORT: u16 = 5269;

/// A question under way.
pub(super) struct Asking<'s> {
    state: &'s State,
    lookup: Lookup,
    seed: u64,
    permits: &'s Permits,
    turns: Semaphore,
    /// The shortest time, in seconds, for which a zone says that something does not exist.
    negative: AtomicU64,
}

impl<'s> Asking<'s> {
    pub(super) fn new(state: &'s State, lookup: Lookup, seed: u64, permits: &'s Permits) -> Self {
        let (turns, negative) = (Semaphore::new(AT_ONE_TIME), AtomicU64::new(u64::MAX));
        Self { state, lookup, seed, permits, turns, negative }
    }

    /// How long it holds that there is no answer: as the zone's SOA says, within bounds (RFC 2308
    /// section 5).
    pub(super) fn negative(&self) -> Duration {
        match self.negative.load(Ordering::Relaxed) {
            u64::MAX => cache::NEGATIVE,
            seconds => Duration::from_secs(seconds).clamp(cache::MIN_NEGATIVE, cache::MAX_NEGATIVE),
        }
    }

    /// A partner's edges. Only a domain that says nothing under the one name is asked for the
    /// other: one that says that it does not federate is believed.
    pub(super) async fn federation(&self, domain: &Domain) -> Answer {
        let Lookup { relax, order, .. } = self.lookup;
        for service in SERVICES {
            let found = self.srv(service, domain).await.and_then(|(records, until)| {
                Ok((discovery::edges(domain, records, relax, order, self.seed)?, until))
            });
            match found {
                Ok((edges, until)) => return self.hosts(edges, Some(until)).await,
                Err(ResolveError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ResolveError::NotFound)
    }

    pub(super) async fn host(&self, host: &Domain, port: u16) -> Answer {
        self.hosts(vec![Edge { host: host.clone(), port }], None).await
    }

    /// Where the XMPP servers of a domain are, for verdicts. Of a domain that is to be blocked only
    /// what its records name inside itself counts: `relax` says that it is another.
    pub(super) async fn xmpp_servers(&self, domain: &Domain) -> Answer {
        let (edges, until) = match self.xmpp_edges(domain).await {
            Ok(found) => found,
            Err(ResolveError::NotFound) if self.lookup.relax => {
                return self.host(domain, XMPP_PORT).await;
            }
            Err(error) => return Err(error),
        };
        let counts = |(edge, _): &(Edge, bool)| self.lookup.relax || edge.host.is_within(domain);
        let places: Vec<Edge> = edges.into_iter().filter(counts).map(|(edge, _)| edge).collect();
        if places.is_empty() {
            return Err(ResolveError::ForeignTarget);
        }
        self.hosts(places, Some(until)).await
    }

    /// A domain's XMPP servers: what its records of both kinds name, else its own addresses.
    pub(super) async fn xmpp(
        &self,
        domain: &Domain,
    ) -> Result<(Vec<XmppHost>, Instant), ResolveError> {
        let (edges, until) = match self.xmpp_edges(domain).await {
            Ok(found) => found,
            Err(ResolveError::NotFound) => return self.host(domain, XMPP_PORT).await.map(plain),
            Err(error) => return Err(error),
        };
        let places = edges.iter().map(|(edge, _)| edge.clone()).collect();
        let found = self.hosts(places, Some(until)).await?;
        let direct_tls = |host: &ResolvedHost| {
            let same = |(edge, _): &&(Edge, bool)| edge.host == host.host && edge.port == host.port;
            edges.iter().find(same).is_some_and(|(_, direct)| *direct)
        };
        Ok(places_of(found, direct_tls))
    }

    /// What a domain's records of both kinds name, in the order in which to try.
    async fn xmpp_edges(
        &self,
        domain: &Domain,
    ) -> Result<(Vec<(Edge, bool)>, Instant), ResolveError> {
        let (starttls, direct) =
            tokio::join!(self.srv(XMPP_SERVER, domain), self.srv(XMPPS_SERVER, domain));
        let mut until = Instant::now() + discovery::MAX_TTL;
        let mut records = |found: Result<(Vec<SrvRecord>, Instant), ResolveError>| match found {
            Ok((records, valid)) => {
                until = until.min(valid);
                Ok(records)
            }
            Err(ResolveError::NotFound) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let (starttls, direct) = (records(starttls), records(direct));
        let (starttls, direct) = discovery::both_kinds(starttls, direct)?;
        let edges = discovery::xmpp_edges(starttls, direct, self.seed)?;
        Ok((edges, until))
    }

    async fn srv(
        &self,
        service: &str,
        domain: &Domain,
    ) -> Result<(Vec<SrvRecord>, Instant), ResolveError> {
        let name = format!("{service}.{domain}.");
        let (records, until) = self.lookup(&name, RecordType::SRV).await?;
        let record = |data| match data {
            RData::SRV(srv) => Some(SrvRecord {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: target(&srv.target),
            }),
            _ => None,
        };
        Ok((records.into_iter().filter_map(record).collect(), until))
    }

    /// Addresses of each edge, asked for at one time.
    async fn hosts(&self, edges: Vec<Edge>, until: Option<Instant>) -> Answer {
        let (answers, until) = self.all_addresses(edges, until).await;
        let config = &self.state.config;
        let own = own_addresses(config);
        let hosts = discovery::hosts(answers, &own, &config.federation.allow_addresses)?;
        Ok(Resolved { hosts, valid_until: valid_until(Instant::now(), until) })
    }

    async fn all_addresses(
        &self,
        edges: Vec<Edge>,
        until: Option<Instant>,
    ) -> (Vec<(Edge, HostAnswer)>, Instant) {
        let asked = edges.into_iter().map(|edge| async {
            let found = self.addresses(&edge.host).await;
            (edge, found)
        });
        let mut until = until.unwrap_or(Instant::now() + discovery::MAX_TTL);
        let mut answers = Vec::new();
        for (edge, found) in join_all(asked).await {
            let found = found.map(|(addresses, valid)| {
                until = until.min(valid);
                addresses
            });
            answers.push((edge, found));
        }
        (answers, until)
    }

    /// A next hop is the administrator's own word: `/etc/hosts` counts, inside addresses too, and
    /// its SRV record may lead anywhere.
    pub(super) async fn next_hop(&self, hop: &NextHop, hosts_file: &Path) -> Answer {
        let now = Instant::now();
        let (answers, until) = match &hop.host {
            // Nothing to look up: the core connects to it.
            Host::Address(_) => return Err(ResolveError::NotFound),
            Host::Srv { service, domain } => {
                let (records, until) = self.srv(service, domain).await?;
                let order = self.lookup.order;
                let edges = discovery::edges(domain, records, true, order, self.seed)?;
                self.all_addresses(edges, Some(until)).await
            }
            Host::Name(host) => {
                let (file, name) = (hosts_file.to_owned(), host.clone());
                let listed = tokio::task::spawn_blocking(move || files::hosts(&file, &name)).await;
                let (found, until) = match listed {
                    Ok(listed) if !listed.is_empty() => (listed, now + discovery::MIN_TTL),
                    _ => self.addresses(host).await?,
                };
                (vec![(Edge { host: host.clone(), port: hop.port }, Ok(found))], until)
            }
        };
        let mut fault = ResolveError::NotFound;
        let mut hosts = Vec::new();
        for (edge, found) in answers {
            match found {
                Ok(mut addresses) => {
                    addresses.retain(|ip| !ip.is_unspecified() && !ip.is_multicast());
                    addresses.truncate(discovery::MAX_ADDRESSES);
                    if addresses.is_empty() {
                        fault = ResolveError::ForbiddenAddress;
                    } else {
                        hosts.push(ResolvedHost { host: edge.host, port: edge.port, addresses });
                    }
                }
                Err(error) => fault = error,
            }
        }
        if hosts.is_empty() {
            return Err(fault);
        }
        Ok(Resolved { hosts, valid_until: valid_until(now, until) })
    }

    /// A and AAAA of a host; IPv6 first where we have such an address ourselves (RFC 6724).
    async fn addresses(&self, host: &Domain) -> Found {
        let name = format!("{host}.");
        let mut v4 = pin!(self.lookup(&name, RecordType::A));
        let mut v6 = pin!(self.lookup(&name, RecordType::AAAA));
        let (v4, v6) = tokio::select! {
            v4 = v4.as_mut() => {
                let v6 = other_family(&v4, v6).await;
                (v4, v6)
            }
            v6 = v6.as_mut() => (other_family(&v6, v4).await, v6),
        };
        let has_v6 = own_addresses(&self.state.config).iter().any(
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
                Err(ResolveError::NotFound) => {}
                Err(error) => {
                    fault = error;
                    // Half an answer holds no longer than that there is none.
                    until = until.min(Instant::now() + cache::MAX_NEGATIVE);
                }
            }
        }
        addresses.truncate(MAX_ANSWER_ADDRESSES);
        if addresses.is_empty() { Err(fault) } else { Ok((addresses, until)) }
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Records {
        let name = Name::from_ascii(name).map_err(|_| ResolveError::NotFound)?;
        let secure = self.lookup.secure;
        let servers = if secure { &self.state.validating } else { &self.state.plain };
        let _turn = self.turns.acquire().await;
        let found = self.permits.carry(servers.lookup(name, kind)).await;
        match found.ok_or(ResolveError::Unavailable)? {
            Ok(found) if secure && !all_secure(found.answers()) => Err(ResolveError::NotSecure),
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
                negative_ttl,
                authorities,
                ..
            }))) => {
                // That something does not exist must be signed too.
                if secure && !authorities.is_some_and(|records| all_secure(&records)) {
                    return Err(ResolveError::NotSecure);
                }
                if let Some(seconds) = negative_ttl {
                    self.negative.fetch_min(seconds.into(), Ordering::Relaxed);
                }
                Err(ResolveError::NotFound)
            }
            Err(NetError::Dns(DnsError::DnssecBogus | DnsError::Nsec { .. })) => {
                Err(ResolveError::NotSecure)
            }
            Err(error) => {
                tracing::debug!(%error, "DNS");
                Err(ResolveError::Unavailable)
            }
        }
    }
}

/// Records of the other family: not waited for without end when there are some of the one.
async fn other_family(one: &Records, other: impl Future<Output = Records>) -> Records {
    match one {
        Ok((records, _)) if !records.is_empty() => tokio::time::timeout(OTHER_FAMILY, other)
            .await
            .unwrap_or(Err(ResolveError::Unavailable)),
        _ => other.await,
    }
}

/// Whether there are records, and each of them is proved by its signature.
fn all_secure(records: &[Record]) -> bool {
    let mut signed = records.iter().filter(|r| r.record_type() != RecordType::RRSIG).peekable();
    signed.peek().is_some() && signed.all(|record| record.proof.is_secure())
}

fn target(name: &Name) -> SrvTarget {
    if name.is_root() {
        return SrvTarget::None;
    }
    name.to_ascii().parse().map_or(SrvTarget::Unusable, SrvTarget::Host)
}

/// The addresses of each host, in its order.
fn places_of(
    found: Resolved,
    direct_tls: impl Fn(&ResolvedHost) -> bool,
) -> (Vec<XmppHost>, Instant) {
    let place = |host: &ResolvedHost| {
        let (direct_tls, name, port) = (direct_tls(host), host.host.clone(), host.port);
        let addresses = host.addresses.clone();
        addresses.into_iter().map(move |ip| XmppHost {
            host: name.clone(),
            address: SocketAddr::new(ip, port),
            direct_tls,
        })
    };
    (found.hosts.iter().flat_map(place).take(MAX_XMPP_ADDRESSES).collect(), found.valid_until)
}

/// Hosts that begin without TLS.
pub(super) fn plain(found: Resolved) -> (Vec<XmppHost>, Instant) {
    places_of(found, |_| false)
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
