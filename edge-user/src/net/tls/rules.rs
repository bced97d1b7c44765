//! What is asked of partners' certificates beyond their chain: pins, exceptions for names, and
//! revocation lists. Exchanged while connections live, apart from our own certificates.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};

use super::lists::{Lists, RevocationList};
use crate::{
    config::{Federation, Pin, Revocation},
    federation::CertificateNames,
};

/// Chains that wait to have their lists fetched.
const MAX_WANTED: usize = 64;
/// Certificates that a pin alone let in and that are remembered as such.
const MAX_UNCHAINED: usize = 4096;

/// What partners' entries let pass at the handshake; each request is judged by the entry itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exceptions {
    /// Keys that need no authority.
    pub pins: HashSet<[u8; 32]>,
    /// Some entry takes wildcards.
    pub wildcard: bool,
    /// Some entry takes common names.
    pub common_name: bool,
}

impl Exceptions {
    /// Of every entry.
    pub fn of(federation: &Federation) -> Self {
        let mut exceptions = Self::default();
        let allowed = federation.allowed_domains.iter().map(|entry| &entry.options);
        let hosting = federation.hosting_providers.iter().map(|entry| &entry.options);
        let public = federation.public_im_providers.iter().map(|entry| &entry.options);
        let default = federation.default_route.iter().map(|route| &route.options);
        let discovered = std::iter::once(&federation.discovered);
        for options in allowed.chain(hosting).chain(public).chain(default).chain(discovered) {
            exceptions.pins.extend(options.pins.iter().map(|Pin(key)| *key));
            exceptions.wildcard |= options.wildcard;
            exceptions.common_name |= options.common_name;
        }
        exceptions
    }
}

/// A chain that is good but for the list that its certificate names.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) point: Box<str>,
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
}

/// The rules in force. Shared by the verifiers of one side; outlives a change of certificates.
#[derive(Debug)]
pub(crate) struct PeerRules {
    exceptions: RwLock<Arc<Exceptions>>,
    revocation: RwLock<Arc<(Revocation, Lists)>>,
    unchained: Mutex<HashSet<[u8; 32]>>,
    unchained_count: AtomicUsize,
    wanted: mpsc::Sender<Wanted>,
    wants: Mutex<Option<mpsc::Receiver<Wanted>>>,
    changed: watch::Sender<u64>,
}

impl Default for PeerRules {
    fn default() -> Self {
        let (wanted, wants) = mpsc::channel(MAX_WANTED);
        Self {
            exceptions: RwLock::default(),
            revocation: RwLock::default(),
            unchained: Mutex::default(),
            unchained_count: AtomicUsize::new(0),
            wanted,
            wants: Mutex::new(Some(wants)),
            changed: watch::Sender::new(0),
        }
    }
}

impl PeerRules {
    pub(super) fn exceptions(&self) -> Arc<Exceptions> {
        Arc::clone(&self.exceptions.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_exceptions(&self, exceptions: Exceptions) {
        *self.exceptions.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(exceptions);
    }

    pub(super) fn revocation(&self) -> Arc<(Revocation, Lists)> {
        Arc::clone(&self.revocation.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes other settings, with the lists that their files hold.
    pub(super) fn set_revocation(&self, settings: Revocation, files: Vec<Arc<RevocationList>>) {
        self.change(|old| {
            let lists = if settings.points { old.1.clone() } else { Lists::default() };
            Some((settings, lists.with_files(files)))
        });
    }

    /// Takes a list that was fetched and checked; `false`: what is there is newer.
    pub(crate) fn add_fetched(&self, list: RevocationList) -> bool {
        let point = list.point.clone();
        self.change(|(settings, lists)| {
            // Fetching it again is no use of it.
            let former = lists.fetched().iter().find(|old| old.point == point);
            if let Some(former) = former {
                list.note_use(former.used_at.load(Ordering::Relaxed));
            }
            let newer = |old: &Arc<RevocationList>| {
                old.scope == list.scope && old.this_update > list.this_update
            };
            let taken = settings.points && !lists.fetched().iter().any(newer);
            taken.then(|| (settings.clone(), lists.with_fetched(Arc::new(list))))
        })
    }

    /// Forgets a list that nobody asks for.
    pub(crate) fn forget(&self, point: &str) {
        self.change(|(settings, lists)| Some((settings.clone(), lists.without_point(point))));
    }

    fn change(
        &self,
        new: impl FnOnce(&(Revocation, Lists)) -> Option<(Revocation, Lists)>,
    ) -> bool {
        let mut revocation = self.revocation.write().unwrap_or_else(PoisonError::into_inner);
        let Some(new) = new(&revocation) else { return false };
        *revocation = Arc::new(new);
        drop(revocation);
        self.changed.send_modify(|generation| *generation += 1);
        true
    }

    /// Tells of each change of the lists.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether a list in force names this certificate.
    pub(crate) fn is_revoked(&self, names: &CertificateNames) -> bool {
        let revocation = self.revocation();
        names.serial_key.is_some_and(|key| revocation.1.all().iter().any(|list| list.names(&key)))
    }

    /// How often lists are fetched again, and whether at all.
    pub(crate) fn settings(&self) -> Revocation {
        self.revocation().0.clone()
    }

    /// When a handshake last asked for what is from there, in seconds since 1970.
    pub(crate) fn used_at(&self, point: &str) -> Option<u64> {
        let revocation = self.revocation();
        let list = revocation.1.fetched().iter().find(|l| l.point.as_deref() == Some(point))?;
        Some(list.used_at.load(Ordering::Relaxed))
    }

    /// Has the lists of a good chain fetched, where they are not there; never waits.
    pub(super) fn want(
        &self,
        names: &CertificateNames,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: u64,
    ) {
        let revocation = self.revocation();
        if !revocation.0.points {
            return;
        }
        let fetched = revocation.1.fetched();
        let have = |point: &str| {
            let list = fetched.iter().find(|list| list.point.as_deref() == Some(point));
            list.map(|list| list.note_use(now)).is_some()
        };
        // Each place holds the same list: one of them is enough.
        let points = &names.crl_points;
        if points.iter().filter(|point| have(point)).count() > 0 {
            return;
        }
        let chain: Arc<[_]> = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        for point in points {
            // Full: whoever comes next asks again.
            let wanted = Wanted { point: point.clone(), chain: Arc::clone(&chain) };
            let _ = self.wanted.try_send(wanted);
        }
    }

    /// What is to be fetched, for the one who fetches.
    pub(crate) fn take_wants(&self) -> Option<mpsc::Receiver<Wanted>> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Remembers that this very certificate leads to no authority of ours; `false`: no room.
    pub(super) fn note_unchained(&self, end_entity: &CertificateDer<'_>) -> bool {
        let mut unchained = self.unchained.lock().unwrap_or_else(PoisonError::into_inner);
        let key = hash(end_entity);
        let noted =
            unchained.contains(&key) || (unchained.len() < MAX_UNCHAINED && unchained.insert(key));
        self.unchained_count.store(unchained.len(), Ordering::Release);
        noted
    }

    /// It leads to one now.
    pub(super) fn note_chained(&self, end_entity: &CertificateDer<'_>) {
        if self.unchained_count.load(Ordering::Acquire) > 0 {
            let mut unchained = self.unchained.lock().unwrap_or_else(PoisonError::into_inner);
            unchained.remove(&hash(end_entity));
            self.unchained_count.store(unchained.len(), Ordering::Release);
        }
    }

    pub(super) fn is_unchained(&self, end_entity: &CertificateDer<'_>) -> bool {
        self.unchained_count.load(Ordering::Acquire) > 0 && {
            let unchained = self.unchained.lock().unwrap_or_else(PoisonError::into_inner);
            unchained.contains(&hash(end_entity))
        }
    }
}

fn hash(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, certificate).as_ref());
    hash
}
