//! One certificate revocation list (RFC 5280 section 5), read and bounded. Its signature is
//! checked where its issuer is known: in a chain.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::{prelude::FromDer as _, revocation_list::CertificateRevocationList};

use crate::federation::serial_key;

/// Bytes of one list at most.
pub(crate) const MAX_LIST: usize = 4 << 20;

/// A list in force. Delta lists and indirect ones are not taken.
#[derive(Debug)]
pub(crate) struct RevocationList {
    pub(super) list: CertRevocationList<'static>,
    /// The issuer's name, in DER.
    pub(super) issuer: Box<[u8]>,
    /// Issuer and part: a newer list with the same takes its place.
    pub(super) scope: (Vec<u8>, Option<Vec<u8>>),
    /// When it was issued, and when the next is to be, in seconds since 1970.
    pub(super) this_update: i64,
    pub(super) next_update: i64,
    /// The first half of each entry's `serial_key`, sorted.
    revoked: Box<[[u8; 16]]>,
    /// Where it was fetched; `None`: from a file.
    pub(super) point: Option<Box<str>>,
    /// When a handshake last asked for it, in seconds since 1970.
    pub(super) used_at: AtomicU64,
    pub(super) bytes: usize,
}

/// Why a list cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListFault {
    /// Larger than is read.
    #[error("larger than 4 MiB")]
    TooLarge,
    /// Neither DER nor PEM of a list that is understood.
    #[error("not a certificate revocation list that can be used: {0}")]
    Unreadable(String),
    /// Its time is over.
    #[error("its time is over")]
    Outdated,
    /// It is not of the certificate's issuer, or not signed by it.
    #[error("it does not speak for the certificate that names it: {0}")]
    NotTheIssuers(String),
    /// One that is in force is newer.
    #[error("older than the list in force")]
    Older,
}

impl RevocationList {
    /// Reads a list, in DER or PEM.
    pub(crate) fn read(bytes: &[u8], point: Option<Box<str>>) -> Result<Self, ListFault> {
        let unreadable = |fault: String| ListFault::Unreadable(fault);
        let pem;
        let der = if bytes.first() == Some(&0x30) {
            bytes
        } else {
            pem = CertificateRevocationListDer::from_pem_slice(bytes)
                .map_err(|error| unreadable(error.to_string()))?;
            pem.as_ref()
        };
        if der.len() > MAX_LIST {
            return Err(ListFault::TooLarge);
        }
        let owned =
            OwnedCertRevocationList::from_der(der).map_err(|e| unreadable(e.to_string()))?;
        let (_, parsed) = CertificateRevocationList::from_der(der)
            .map_err(|error| unreadable(error.to_string()))?;
        let issuer = parsed.issuer().as_raw();
        let half = |key: [u8; 32]| {
            let mut half = [0; 16];
            half.copy_from_slice(&key[..16]);
            half
        };
        let mut revoked: Vec<[u8; 16]> = parsed
            .iter_revoked_certificates()
            .map(|entry| half(serial_key(issuer, entry.raw_serial())))
            .collect();
        revoked.sort_unstable();
        let list = CertRevocationList::from(owned);
        Ok(Self {
            issuer: issuer.into(),
            scope: (list.issuer().to_vec(), list.issuing_distribution_point().map(<[u8]>::to_vec)),
            this_update: parsed.last_update().timestamp(),
            next_update: parsed.next_update().map_or(i64::MAX, |time| time.timestamp()),
            revoked: revoked.into_boxed_slice(),
            used_at: AtomicU64::new(0),
            bytes: der.len(),
            list,
            point,
        })
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How long until the next is to be.
    pub(crate) fn valid_for(&self, now: u64) -> Duration {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let left = u64::try_from(self.next_update.saturating_sub(now)).unwrap_or(0);
        // Later than any refresh: the clock's own range must not matter.
        Duration::from_secs(left.min(366 * 86_400))
    }

    /// Whether it names this certificate.
    pub(super) fn names(&self, serial_key: &[u8; 32]) -> bool {
        serial_key.first_chunk::<16>().is_some_and(|half| self.revoked.binary_search(half).is_ok())
    }

    pub(super) fn note_use(&self, now: u64) {
        self.used_at.store(now, Ordering::Relaxed);
    }
}

/// The lists in force: of each issuer and part the newest.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    files: Vec<Arc<RevocationList>>,
    fetched: Vec<Arc<RevocationList>>,
    /// Both, without those that a newer one replaces.
    all: Vec<Arc<RevocationList>>,
}

impl Lists {
    pub(super) fn all(&self) -> &[Arc<RevocationList>] {
        &self.all
    }

    pub(super) fn fetched(&self) -> &[Arc<RevocationList>] {
        &self.fetched
    }

    pub(super) fn with_files(&self, files: Vec<Arc<RevocationList>>) -> Self {
        Self::joined(files, self.fetched.clone())
    }

    /// With a list that was fetched, in the place of what came from there before.
    pub(super) fn with_fetched(&self, list: Arc<RevocationList>) -> Self {
        let mut fetched = self.fetched.clone();
        fetched.retain(|old| old.point != list.point);
        fetched.push(list);
        Self::joined(self.files.clone(), fetched)
    }

    pub(super) fn without_point(&self, point: &str) -> Self {
        let mut fetched = self.fetched.clone();
        fetched.retain(|old| old.point.as_deref() != Some(point));
        Self::joined(self.files.clone(), fetched)
    }

    fn joined(files: Vec<Arc<RevocationList>>, fetched: Vec<Arc<RevocationList>>) -> Self {
        let mut all: Vec<Arc<RevocationList>> = Vec::new();
        for list in files.iter().chain(&fetched) {
            match all.iter_mut().find(|other| other.scope == list.scope) {
                Some(other) if other.this_update < list.this_update => *other = Arc::clone(list),
                Some(_) => {}
                None => all.push(Arc::clone(list)),
            }
        }
        Self { files, fetched, all }
    }
}
