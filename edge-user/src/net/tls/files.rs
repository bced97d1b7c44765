//! Reads PEM files: our chain and key, and the roots we trust.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, pem::PemObject};
use x509_parser::prelude::FromDer;

use super::{TlsError, lists::RevocationList};
use crate::federation::CertificateNames;

/// A file larger than this is no PEM file of ours (every public root together is about 250 KB).
const MAX_FILE: u64 = 4 << 20;

/// What tells that a file changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<(SystemTime, u64, u64)>);

impl Stamp {
    pub(super) fn of(file: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self(
            fs::metadata(file)
                .ok()
                .map(|meta| (meta.modified().unwrap_or(UNIX_EPOCH), meta.len(), meta.ino())),
        )
    }
}

/// Our certificate chain and key.
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) description: String,
    /// When its time begins and ends, in seconds since 1970.
    pub(super) validity: (i64, i64),
}

/// A certificate that ends some day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    /// It is ours; else one that we trust.
    pub own: bool,
    /// Its file.
    pub file: PathBuf,
    /// Subject, issuer and serial.
    pub description: String,
    /// When its time begins, in seconds since 1970.
    pub valid_from: i64,
    /// When it ends, in seconds since 1970.
    pub expires_at: i64,
}

impl Identity {
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = certificates(certificate)?;
        let Some(leaf) = chain.first() else {
            return Err(TlsError::Empty { file: certificate.to_owned(), what: "certificate" });
        };
        let damaged = |fault: String| TlsError::Damaged { file: certificate.to_owned(), fault };
        let names = CertificateNames::from_der(leaf).map_err(|e| damaged(e.to_string()))?;
        let validity = validity(leaf, certificate)?;
        let pem = read(key, MAX_FILE)?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| TlsError::Empty { file: key.to_owned(), what: "private key" })?;
        Ok(Self { chain, key, description: names.description, validity })
    }
}

/// The roots of a trust store, and when they end.
pub(super) fn trust_anchors(
    file: &Path,
) -> Result<(Vec<TrustAnchor<'static>>, Vec<Expiring>), TlsError> {
    let mut anchors = Vec::new();
    let mut expiring = Vec::new();
    for (index, certificate) in certificates(file)?.iter().enumerate() {
        let anchor =
            webpki::anchor_from_trusted_cert(certificate).map_err(|error| TlsError::Damaged {
                file: file.to_owned(),
                fault: format!("certificate {} is no root: {error}", index + 1),
            })?;
        anchors.push(anchor.to_owned());
        if let Ok(names) = CertificateNames::from_der(certificate)
            && let Some(expires_at) = names.expires_at
        {
            expiring.push(Expiring {
                own: false,
                file: file.to_owned(),
                description: names.description,
                valid_from: 0,
                expires_at: i64::try_from(expires_at).unwrap_or(i64::MAX),
            });
        }
    }
    if anchors.is_empty() {
        return Err(TlsError::Empty { file: file.to_owned(), what: "certificate" });
    }
    Ok((anchors, expiring))
}

/// A revocation list that the administrator keeps in a file.
pub(super) fn revocation_list(file: &Path) -> Result<RevocationList, TlsError> {
    RevocationList::read(&read(file, 2 * MAX_FILE)?, None)
        .map_err(|fault| TlsError::Damaged { file: file.to_owned(), fault: fault.to_string() })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(file, MAX_FILE)?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Damaged { file: file.to_owned(), fault: error.to_string() })
}

/// When the certificate's time begins and ends. It need not be in it: what is ours is used as it
/// is, and the administrator is told.
fn validity(leaf: &CertificateDer<'_>, file: &Path) -> Result<(i64, i64), TlsError> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|error| TlsError::Damaged { file: file.to_owned(), fault: error.to_string() })?;
    let validity = parsed.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn read(file: &Path, most: u64) -> Result<Vec<u8>, TlsError> {
    let fault =
        |error: std::io::Error| TlsError::Read { file: file.to_owned(), fault: error.to_string() };
    let mut bytes = Vec::new();
    let opened = fs::File::open(file).map_err(fault)?;
    if !opened.metadata().map_err(fault)?.is_file() {
        return Err(TlsError::Read { file: file.to_owned(), fault: "not a file".to_owned() });
    }
    opened.take(most + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > most {
        return Err(TlsError::Read {
            file: file.to_owned(),
            fault: format!("larger than {} MiB", most >> 20),
        });
    }
    Ok(bytes)
}
