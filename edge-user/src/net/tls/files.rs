//! Reads PEM files: our chain and key, and the roots we trust.

use std::{
    fs,
    io::Read,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, pem::PemObject};
use x509_parser::prelude::FromDer;

use super::TlsError;
use crate::{config::TlsFiles, federation::CertificateNames};

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
    pub(super) expires_at: i64,
}

impl Identity {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate)?;
        let Some(leaf) = chain.first() else {
            return Err(TlsError::Empty { file: files.certificate.clone(), what: "certificate" });
        };
        let damaged = |fault: String| TlsError::Damaged { file: files.certificate.clone(), fault };
        let names = CertificateNames::from_der(leaf).map_err(|e| damaged(e.to_string()))?;
        let expires_at = valid_until(leaf, &files.certificate)?;
        let pem = read(&files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| TlsError::Empty { file: files.key.clone(), what: "private key" })?;
        Ok(Self { chain, key, description: names.description, expires_at })
    }
}

/// The roots of a trust store.
pub(super) fn trust_anchors(file: &Path) -> Result<Vec<TrustAnchor<'static>>, TlsError> {
    let mut anchors = Vec::new();
    for (index, certificate) in certificates(file)?.iter().enumerate() {
        let anchor =
            webpki::anchor_from_trusted_cert(certificate).map_err(|error| TlsError::Damaged {
                file: file.to_owned(),
                fault: format!("certificate {} is no root: {error}", index + 1),
            })?;
        anchors.push(anchor.to_owned());
    }
    if anchors.is_empty() {
        return Err(TlsError::Empty { file: file.to_owned(), what: "certificate" });
    }
    Ok(anchors)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(file)?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Damaged { file: file.to_owned(), fault: error.to_string() })
}

/// The end of the certificate's time; it must be in it now.
fn valid_until(leaf: &CertificateDer<'_>, file: &Path) -> Result<i64, TlsError> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|error| TlsError::Damaged { file: file.to_owned(), fault: error.to_string() })?;
    let validity = parsed.validity();
    if !validity.is_valid() {
        return Err(TlsError::NotValidNow {
            file: file.to_owned(),
            from: validity.not_before.to_string(),
            to: validity.not_after.to_string(),
        });
    }
    Ok(validity.not_after.timestamp())
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let fault =
        |error: std::io::Error| TlsError::Read { file: file.to_owned(), fault: error.to_string() };
    let mut bytes = Vec::new();
    let opened = fs::File::open(file).map_err(fault)?;
    if !opened.metadata().map_err(fault)?.is_file() {
        return Err(TlsError::Read { file: file.to_owned(), fault: "not a file".to_owned() });
    }
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(TlsError::Read {
            file: file.to_owned(),
            fault: "larger than 4 MiB".to_owned(),
        });
    }
    Ok(bytes)
}
