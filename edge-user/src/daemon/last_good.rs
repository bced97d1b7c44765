//! Last good addresses on their way to the disk: the newest of each domain, written together, away
//! from whoever learned them.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::Notify;
use tracing::warn;

use super::Daemon;
use crate::domain::Domain;

/// How long after a write the next one comes: what changes meanwhile is written together.
const PAUSE: Duration = Duration::from_millis(200);
/// How long after a disk that failed it is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// What waits: at most one entry for each domain that is asked for.
#[derive(Debug, Default)]
pub(super) struct LastGoodQueue {
    waiting: Mutex<BTreeMap<Domain, Waits>>,
    bell: Notify,
}

/// What is new of a domain.
#[derive(Debug, Default)]
struct Waits {
    addresses: Option<Vec<IpAddr>>,
    blocked: Option<Vec<IpAddr>>,
}

impl LastGoodQueue {
    /// Takes a domain's addresses, over those of it that wait.
    pub fn put(&self, domain: Domain, addresses: Vec<IpAddr>) {
        self.waiting().entry(domain).or_default().addresses = Some(addresses);
        self.ring();
    }

    /// Takes those of a domain's addresses that are blocked.
    pub fn put_blocked(&self, domain: Domain, addresses: Vec<IpAddr>) {
        self.waiting().entry(domain).or_default().blocked = Some(addresses);
        self.ring();
    }

    /// Has the store looked at.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Domain, Waits>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Daemon {
    /// Writes last good addresses whenever they change.
    pub(super) async fn keep_last_good(self: Arc<Self>) {
        loop {
            self.last_good.bell.notified().await;
            let pause = if self.save_last_good() {
                PAUSE
            } else {
                self.last_good.ring();
                RETRY
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits for the disk. `false`: it did not take them.
    pub(super) fn save_last_good(&self) -> bool {
        tokio::task::block_in_place(|| {
            let waiting = std::mem::take(&mut *self.last_good.waiting());
            let unwritten = {
                let (mut store, now) = (self.store(), SystemTime::now());
                for (domain, Waits { addresses, blocked }) in waiting {
                    let put = addresses.map_or(Ok(false), |addresses| {
                        store.set_last_good(&domain, &addresses, now)
                    });
                    let put = put.and_then(|_| match blocked {
                        Some(blocked) => store.set_blocked_at(&domain, &blocked),
                        None => Ok(()),
                    });
                    if let Err(error) = put {
                        warn!(%domain, %error, "the domain's last good addresses were not kept");
                    }
                }
                store.unwritten()
            };
            let written = match unwritten {
                Ok(None) => return true,
                Ok(Some(unwritten)) => unwritten.write(),
                // For good: the start said so.
                Err(_) => return true,
            };
            if let Err(error) = written {
                warn!(%error, "last good addresses were not kept");
                self.store().last_good_not_written();
                return false;
            }
            true
        })
    }
}
