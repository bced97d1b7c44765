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
type Fetched = (Box<str>, Result<RevocationList, CrlError>);

/// Fetches for as long as the store lives. A second call for the same store ends at once.
pub async fn run(tls: Arc<TlsStore>, resolver: Arc<Resolver>) {
    let Some(mut wants) = tls.rules().take_wants() else { return };
    let (tell, mut told) = mpsc::channel::<Fetched>(16);
    let mut points = CrlPoints::default();
    let mut chains: HashMap<Box<str>, Chain> = HashMap::new();
    loop {
        if !tls.rules().settings().points && !points.is_empty() {
            points = CrlPoints::default();
            chains.clear();
        }
        while let Some(point) = points.take_due(Instant::now()) {
            let unused = tls.rules().used_at(&point).is_some_and(|at| at + UNUSED < unix_seconds());
            match chains.get(&point) {
                Some(chain) if !unused => {
                    let fetch = fetch(
                        Arc::clone(&tls),
                        Arc::clone(&resolver),
                        point.clone(),
                        Arc::clone(chain),
                    );
                    let tell = tell.clone();
                    tokio::spawn(async move {
                        let result = fetch.await;
                        let _ = tell.send((point, result)).await;
                    });
                }
                _ => {
                    tls.rules().forget(&point);
                    points.forget(&point);
                    chains.remove(&point);
                }
            }
        }
        let due = points.next_timeout();
        let wait = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            wanted = wants.recv() => {
                let Some(wanted) = wanted else { return };
                if points.want(Instant::now(), &wanted.point) {
                    chains.insert(wanted.point, wanted.chain);
                } else {
                    tracing::warn!(point = wanted.point, "too many places of revocation lists");
                }
            }
            Some((point, result)) = told.recv() => settle(&tls, &mut points, &point, result),
            () = wait => {}
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

async fn fetch(
    tls: Arc<TlsStore>,
    resolver: Arc<Resolver>,
    point: Box<str>,
    chain: Chain,
) -> Result<RevocationList, CrlError> {
    let url = Url::parse(&point)?;
    let getting = async {
        let addresses = addresses(&resolver, &url).await?;
        http::get(&addresses, &url, MAX_LIST, TIME).await
    };
    let bytes = tokio::time::timeout(TIME, getting).await.unwrap_or(Err(FetchError::Timeout))?;
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
