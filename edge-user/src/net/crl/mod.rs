//! Fetches revocation lists from where certificates say (RFC 5280 section 4.2.1.13), beside the
//! handshakes and never in their way.
//!
//! Only for chains that validated; over plain HTTP, because the list is signed; only from
//! addresses that may be used (the trust rules, section 6). A list is taken when it is in its
//! time, signed by the issuer of the certificate that named the place, and not older than the one
//! in force. When none comes, what was there stays, and the mode (soft or hard) decides.

mod http;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;

use self::http::{FetchError, Url, UrlHost};
use super::{
    dns::Resolver,
    tls::{ListFault, MAX_LIST, RevocationList, TlsStore},
};
use crate::{
    federation::{CrlPoints, Lookup},
    proxy::Question,
};

/// A fetch has this long, DNS included.
const TIME: Duration = Duration::from_secs(10);
/// A list that no handshake asked for in this time is forgotten.
const UNUSED: u64 = 7 * 86_400;

/// Why no list was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum CrlError {
    #[error("{0}")]
    Fetch(#[from] FetchError),
    #[error("{0}")]
    List(#[from] ListFault),
    #[error("{0}")]
    NoRoom(#[from] crate::federation::NoRoom),
}

type Chain = Arc<[CertificateDer<'static>]>;

/// What a fetch tells.
enum Told {
    /// Where it goes.
    Host(Box<str>, Vec<IpAddr>),
    /// What came of it.
    Fetched(Box<str>, Result<Box<RevocationList>, CrlError>),
}

/// Fetches for as long as the store lives. A second call for the same store ends at once. Whenever
/// the addresses of a place's host are learned, `hosts` is told, and with none when nothing is
/// fetched from there any more.
pub async fn run(
    tls: Arc<TlsStore>,
    resolver: Arc<Resolver>,
    hosts: impl Fn(Box<str>, Vec<IpAddr>) + Send,
) {
    let Some(mut wants) = tls.rules().take_wants() else { return };
    let (tell, mut told) = mpsc::channel::<Told>(16);
    let mut places = Places { tls, points: CrlPoints::default(), chains: HashMap::new(), hosts };
    loop {
        if !places.tls.rules().settings().points {
            places.points = CrlPoints::default();
            places.forget_hosts();
        }
        while let Some((point, chain)) = places.take_due() {
            let (tls, resolver) = (Arc::clone(&places.tls), Arc::clone(&resolver));
            tokio::spawn(fetch(tls, resolver, point, chain, tell.clone()));
        }
        let due = places.points.next_timeout();
        let wait = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            wanted = wants.recv() => {
                let Some(wanted) = wanted else { return };
                places.want(wanted.point, wanted.chain);
            }
            Some(told) = told.recv() => places.told(told),
            () = wait => {}
        }
    }
}

/// The places that lists are fetched from, with a chain that names each.
struct Places<H> {
    tls: Arc<TlsStore>,
    points: CrlPoints,
    chains: HashMap<Box<str>, Chain>,
    hosts: H,
}

impl<H: Fn(Box<str>, Vec<IpAddr>)> Places<H> {
    fn want(&mut self, point: Box<str>, chain: Chain) {
        if self.points.want(Instant::now(), &point) {
            self.chains.insert(point, chain);
            // One that nobody wanted may have made room.
            self.forget_hosts();
        } else {
            tracing::warn!(point, "too many places of revocation lists");
        }
    }

    /// A place whose list is to be fetched now. Those that nobody uses are forgotten.
    fn take_due(&mut self) -> Option<(Box<str>, Chain)> {
        while let Some(point) = self.points.take_due(Instant::now()) {
            let used_at = self.tls.rules().used_at(&point);
            let unused = used_at.is_some_and(|at| at + UNUSED < unix_seconds());
            match self.chains.get(&point) {
                Some(chain) if !unused => return Some((point, Arc::clone(chain))),
                _ => {
                    self.tls.rules().forget(&point);
                    self.points.forget(&point);
                    self.forget_hosts();
                }
            }
        }
        None
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Host(point, addresses) if self.points.contains(&point) => {
                (self.hosts)(point, addresses);
            }
            Told::Host(..) => {}
            Told::Fetched(point, result) => {
                settle(&self.tls, &mut self.points, &point, result.map(|list| *list));
            }
        }
    }

    /// Tells of those that are no places any more.
    fn forget_hosts(&mut self) {
        let (points, hosts) = (&self.points, &self.hosts);
        for (point, _) in self.chains.extract_if(|point, _| !points.contains(point)) {
            hosts(point, Vec::new());
        }
    }
}

/// Puts a list in force, or says why not.
fn settle(
    tls: &TlsStore,
    points: &mut CrlPoints,
    point: &str,
    result: Result<RevocationList, CrlError>,
) {
    let now = Instant::now();
    let result = result.and_then(|list| {
        let refresh = tls.rules().settings().refresh;
        points.fetched(now, point, list.bytes(), list.valid_for(unix_seconds()), refresh)?;
        tls.rules().add_fetched(list).then_some(()).ok_or(ListFault::Older)?;
        Ok(())
    });
    match result {
        Ok(()) => tracing::info!(point, "revocation list fetched"),
        Err(error) => {
            points.failed(now, point);
            tracing::warn!(point, %error, "no revocation list");
        }
    }
}

/// Fetches a list, and tells where from and what came of it.
async fn fetch(
    tls: Arc<TlsStore>,
    resolver: Arc<Resolver>,
    point: Box<str>,
    chain: Chain,
    tell: mpsc::Sender<Told>,
) {
    let result = fetched(tls, &resolver, &point, chain, &tell).await.map(Box::new);
    let _ = tell.send(Told::Fetched(point, result)).await;
}

async fn fetched(
    tls: Arc<TlsStore>,
    resolver: &Arc<Resolver>,
    point: &str,
    chain: Chain,
    tell: &mpsc::Sender<Told>,
) -> Result<RevocationList, CrlError> {
    let url = Url::parse(point)?;
    let getting = async {
        let addresses = addresses(resolver, &url).await?;
        let _ = tell.send(Told::Host(point.into(), addresses.clone())).await;
        http::get(&addresses, &url, MAX_LIST, TIME).await
    };
    let bytes = tokio::time::timeout(TIME, getting).await.unwrap_or(Err(FetchError::Timeout))?;
    let point = point.into();
    // A large list takes a while to read and check.
    let read = tokio::task::spawn_blocking(move || {
        let list = RevocationList::read(&bytes, Some(point))?;
        tls.check_list(&chain, &list)?;
        Ok::<_, ListFault>(list)
    });
    let failed = |_| ListFault::Unreadable("reading it failed".to_owned());
    Ok(read.await.map_err(failed)??)
}

async fn addresses(resolver: &Arc<Resolver>, url: &Url) -> Result<Vec<IpAddr>, FetchError> {
    match &url.host {
        UrlHost::Address(address) if resolver.may_be_used(*address) => Ok(vec![*address]),
        UrlHost::Address(_) => Err(FetchError::ForbiddenAddress),
        UrlHost::Name(name) => {
            let question = Question::Host(name.clone(), url.port);
            let resolved = resolver.resolve(&question, Lookup::default()).await?;
            Ok(resolved.hosts.into_iter().flat_map(|host| host.addresses).collect())
        }
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
