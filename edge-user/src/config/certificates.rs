//! The PEM files a configuration names: readable, whole, belonging together, in force, and
//! proving what partners will ask for (RFC 5922, RFC 5280). Keys are read, compared and dropped;
//! nothing of them is shown.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    RootCertStore,
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use toml::Spanned;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use super::{
    findings::{Fault, Sink, Span, printable},
    sections::Edge,
    services::{Files, Identity},
    xmpp_service,
};
use crate::{domain::Domain, xmpp::io::XmppNames};

/// A PEM file is at most this long.
const MAX_PEM: u64 = 16 << 20;
/// A certificate that ends sooner than this earns a warning.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// Checks the files of one TLS identity. `outside`: the names its certificate must prove, and the
/// partner that wants one for TLS clients, if any does; without it (inside) only that the files
/// are good.
pub(super) fn check(
    sink: &Sink<'_>,
    files: &Files,
    now: SystemTime,
    outside: Option<(&Edge, Option<&str>)>,
) {
    check_trust(sink, &files.trust);
    let demands = outside.and_then(|(_, demands)| demands);
    check_own(sink, files, now, demands, |span, leaf| {
        if let Some((edge, _)) = outside {
            check_names(sink, span, leaf, edge);
        }
    });
}

/// Checks a further identity of the access service; `first`: the files of the first; `demands`:
/// the partner that wants a certificate for TLS clients.
pub(super) fn check_identity(
    sink: &Sink<'_>,
    own: &Identity,
    first: &Files,
    now: SystemTime,
    demands: Option<&str>,
) {
    let files = Files {
        certificate: own.certificate.clone(),
        key: own.key.clone(),
        trust: first.trust.clone(),
    };
    check_own(sink, &files, now, demands, |_, leaf| {
        let held = names(leaf);
        for name in &own.names {
            let text = name.get_ref().as_str();
            if !held.dns.iter().chain(&held.sip).any(|held| held == text) {
                sink.error(
                    &name.span(),
                    format!("the certificate does not hold {text}"),
                    "have it issued with the name (DNS name or URI sip:NAME), or take it out",
                );
            }
        }
    });
}

/// Checks what the XMPP service shows, and whether it proves the domains that partners ask for.
pub(super) fn check_xmpp(sink: &Sink<'_>, shown: &xmpp_service::ToCheck, now: SystemTime) {
    let files = &shown.files;
    if shown.own {
        check(sink, files, now, None);
    }
    // What is wrong with the file was told, here or with the access service.
    let silent = Sink::new("");
    let Some(chain) = read_chain(&silent, &files.certificate) else { return };
    let Some(leaf) = chain.first() else { return };
    let Ok(names) = XmppNames::from_der(leaf) else { return };
    for domain in &shown.domains {
        if !names.proves(domain, true) {
            sink.warn(
                &files.certificate.span(),
                format!(
                    "XMPP partners ask this certificate for {domain}, which it does not hold: they \
                     do without by dialback, or refuse us"
                ),
                format!(
                    "have one issued with {domain} (DNS name, or SRV name _xmpp-server.{domain}) \
                     and name it in [service.xmpp]"
                ),
            );
        }
    }
}

fn check_own(
    sink: &Sink<'_>,
    files: &Files,
    now: SystemTime,
    demands: Option<&str>,
    check_leaf_names: impl FnOnce(&Span, &X509Certificate<'_>),
) {
    let chain = read_chain(sink, &files.certificate);
    let key = read_key(sink, &files.key);
    let Some(chain) = chain else { return };
    if let Some(key) = key {
        check_pair(sink, files, &chain, &key);
    }
    let span = files.certificate.span();
    let mut parsed = Vec::new();
    for (index, der) in chain.iter().enumerate() {
        match X509Certificate::from_der(der) {
            Ok((_, certificate)) => parsed.push(certificate),
            Err(error) => {
                sink.error(
                    &span,
                    format!("certificate {} in the file is not readable: {error}", index + 1),
                    "have it issued again",
                );
                return;
            }
        }
    }
    check_order(sink, &span, &parsed);
    for (index, certificate) in parsed.iter().enumerate() {
        check_validity(sink, &span, index, certificate, now);
    }
    if let Some(leaf) = parsed.first() {
        check_leaf(sink, &span, leaf, demands);
        check_leaf_names(&span, leaf);
    }
}

fn read(sink: &Sink<'_>, path: &Spanned<std::path::PathBuf>) -> Option<Vec<u8>> {
    match read_bytes(path.get_ref()) {
        Ok(bytes) => Some(bytes),
        Err(fault) => {
            sink.fault(&path.span(), fault);
            None
        }
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Fault> {
    let shown = printable(&path.display().to_string(), 200);
    let unreadable = |error: std::io::Error| {
        let mend = match error.kind() {
            std::io::ErrorKind::NotFound => "put the file there, or correct the path",
            _ => "let the daemon's user read it",
        };
        Fault::new(format!("{shown} cannot be read: {error}"), mend)
    };
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(Fault::new(format!("{shown} is no file"), "name a PEM file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_PEM + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_PEM {
        return Err(Fault::new(format!("{shown} is longer than 16 MiB"), "name a PEM file"));
    }
    Ok(bytes)
}

/// The certificates of a file; an error when there is none or PEM is broken.
fn read_certificates(
    sink: &Sink<'_>,
    path: &Spanned<std::path::PathBuf>,
) -> Option<Vec<CertificateDer<'static>>> {
    let bytes = read(sink, path)?;
    let shown = printable(&path.get_ref().display().to_string(), 200);
    match CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => {
            sink.error(
                &path.span(),
                format!("{shown} holds no certificate in PEM"),
                "name a file with -----BEGIN CERTIFICATE-----",
            );
            None
        }
        Ok(certificates) => Some(certificates),
        Err(error) => {
            sink.error(&path.span(), format!("{shown} is no good PEM: {error}"), "write it anew");
            None
        }
    }
}

fn read_chain(
    sink: &Sink<'_>,
    path: &Spanned<std::path::PathBuf>,
) -> Option<Vec<CertificateDer<'static>>> {
    let chain = read_certificates(sink, path)?;
    if chain.len() > 16 {
        sink.error(
            &path.span(),
            format!("{} certificates are no chain", chain.len()),
            "leave our certificate and its intermediates only",
        );
        return None;
    }
    Some(chain)
}

fn check_trust(sink: &Sink<'_>, path: &Spanned<std::path::PathBuf>) {
    let Some(roots) = read_certificates(sink, path) else { return };
    let count = roots.len();
    let (good, bad) = RootCertStore::empty().add_parsable_certificates(roots);
    if good == 0 {
        sink.error(
            &path.span(),
            "the trust store holds no usable certificate: nobody could be trusted",
            "put the partners' root certificates there",
        );
    } else if bad > 0 {
        sink.warn(
            &path.span(),
            format!("{bad} of {count} certificates in the trust store are not usable"),
            "take them out",
        );
    }
}

/// The bytes of a file that nobody else may read.
pub(super) fn read_secret(sink: &Sink<'_>, path: &Spanned<std::path::PathBuf>) -> Option<Vec<u8>> {
    let bytes = read(sink, path)?;
    let shown = printable(&path.get_ref().display().to_string(), 200);
    if let Ok(metadata) = std::fs::metadata(path.get_ref()) {
        let mode = metadata.mode() & 0o7777;
        if mode & 0o007 != 0 || mode & 0o020 != 0 {
            sink.error(
                &path.span(),
                format!("{shown} is open to others (mode {mode:04o})"),
                format!("chmod 0640 {shown} (owner and group only, written by the owner)"),
            );
        }
    }
    Some(bytes)
}

fn read_key(sink: &Sink<'_>, path: &Spanned<std::path::PathBuf>) -> Option<PrivateKeyDer<'static>> {
    let bytes = read_secret(sink, path)?;
    let shown = printable(&path.get_ref().display().to_string(), 200);
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Some(key),
        Err(_) => {
            sink.error(
                &path.span(),
                format!("{shown} holds no private key in PEM"),
                "name a file with an unencrypted key (PKCS#8, PKCS#1 or SEC1)",
            );
            None
        }
    }
}

fn check_pair(
    sink: &Sink<'_>,
    files: &Files,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) {
    let span = files.key.span();
    let signing = match any_supported_type(key) {
        Ok(signing) => signing,
        Err(_) => {
            let mend = "use an RSA (2048 bits or more), ECDSA P-256 or P-384, or Ed25519 key";
            sink.error(&span, "this kind of private key is not supported", mend);
            return;
        }
    };
    if CertifiedKey::new(chain.to_vec(), signing).keys_match().is_err() {
        sink.error(
            &span,
            "the key does not belong to the first certificate of the chain",
            "name the key that the certificate was requested with; the leaf stands first",
        );
    }
}

fn check_order(sink: &Sink<'_>, span: &Span, chain: &[X509Certificate<'_>]) {
    for (index, pair) in chain.windows(2).enumerate() {
        if let [certificate, issuer] = pair
            && certificate.issuer().as_raw() != issuer.subject().as_raw()
        {
            sink.error(
                span,
                format!(
                    "certificate {} of the chain was not issued by certificate {}",
                    index + 1,
                    index + 2
                ),
                "order the file: our certificate, then its issuer, then the issuer's issuer",
            );
        }
    }
}

fn check_validity(
    sink: &Sink<'_>,
    span: &Span,
    index: usize,
    certificate: &X509Certificate<'_>,
    now: SystemTime,
) {
    let seconds = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    };
    let (validity, number) = (certificate.validity(), index + 1);
    if seconds(now) < validity.not_before.timestamp() {
        // A time that is over, or has not come, must not keep rules from being changed: it is a
        // matter between us and our peers.
        sink.warn(
            span,
            format!("certificate {number} is not valid before {}", validity.not_before),
            "peers refuse it until then: check the clock, or wait",
        );
    } else if seconds(now) > validity.not_after.timestamp() {
        let message = format!("certificate {number} expired on {}", validity.not_after);
        sink.warn(span, message, "peers refuse it: have it renewed");
    } else if seconds(now + SOON) > validity.not_after.timestamp() {
        let message = format!("certificate {number} expires on {}", validity.not_after);
        sink.warn(span, message, "have it renewed soon");
    }
}

/// Both directions use the one certificate: it serves, and it is shown when we connect. `demands`:
/// a partner that refuses what is not meant for clients.
fn check_leaf(sink: &Sink<'_>, span: &Span, leaf: &X509Certificate<'_>, demands: Option<&str>) {
    if leaf.is_ca() {
        sink.warn(
            span,
            "the certificate is a CA's; peers refuse it as a server's",
            "have a server certificate issued",
        );
    }
    let Some(usage) = leaf.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::ExtendedKeyUsage(usage) => Some(usage),
        _ => None,
    }) else {
        return;
    };
    let no_client = !usage.client_auth && !usage.any;
    if no_client && let Some(partner) = demands {
        sink.error(
            span,
            format!(
                "the certificate is not meant for TLS clients (clientAuth), and {partner} accepts \
                 no other (needs_client_usage)"
            ),
            "have it issued with serverAuth and clientAuth",
        );
        return;
    }
    for (missing, name) in [
        (!usage.server_auth && !usage.any, "TLS servers (serverAuth)"),
        (no_client, "TLS clients (clientAuth)"),
    ] {
        if missing {
            sink.warn(
                span,
                format!("the certificate is not meant for {name}, and federation needs both ways"),
                "have it issued with serverAuth and clientAuth",
            );
        }
    }
}

/// Names of the certificate: DNS names as written, and `sip:` URIs' hosts.
#[derive(Default)]
struct Names {
    dns: Vec<String>,
    sip: Vec<String>,
}

fn names(leaf: &X509Certificate<'_>) -> Names {
    let mut names = Names::default();
    let Ok(Some(extension)) = leaf.subject_alternative_name() else { return names };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => names.dns.push(name.to_ascii_lowercase()),
            GeneralName::URI(uri) => {
                let lower = uri.to_ascii_lowercase();
                names.sip.extend(lower.strip_prefix("sip:").map(str::to_owned));
            }
            _ => {}
        }
    }
    names
}

fn check_names(sink: &Sink<'_>, span: &Span, leaf: &X509Certificate<'_>, edge: &Edge) {
    let names = names(leaf);
    let holds = |list: &[String], name: &Domain| list.iter().any(|n| n == name.as_str());
    let Some(fqdn) = edge.fqdn.as_ref().map(Spanned::get_ref) else { return };
    if !holds(&names.dns, fqdn) {
        let shown = printable(&names.dns.join(", "), 200);
        let wildcard = names.dns.iter().any(|name| {
            let parent = fqdn.as_str().split_once('.').map(|(_, parent)| parent);
            name.strip_prefix("*.").is_some_and(|rest| Some(rest) == parent)
        });
        let message = match (names.dns.is_empty(), wildcard) {
            (true, _) => format!("the certificate holds no DNS name at all, so not {fqdn}"),
            (_, true) => format!("the certificate names {fqdn} by a wildcard only ({shown})"),
            _ => format!("the certificate does not hold {fqdn}, but {shown}"),
        };
        let mend = "have it issued with the name as a DNS subject alternative name (partners \
                    accept no wildcard and no common name), or correct edge.fqdn";
        sink.error(span, message, mend);
    }
    for domain in &edge.domains {
        let name = domain.get_ref();
        let by_itself = holds(&names.dns, name) || holds(&names.sip, name);
        if !by_itself && !fqdn.is_within(name) {
            sink.warn(
                &domain.span(),
                format!(
                    "partners cannot prove that we speak for {name}: the certificate does not \
                     name it, and {fqdn} does not lie inside it"
                ),
                format!("have the certificate issued with {name} (DNS name or URI sip:{name})"),
            );
        }
    }
}
