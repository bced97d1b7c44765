//! Our certificates as configurations of rustls. Sessions are never resumed.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, ServerConfig,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
};

use super::{
    SideTls, TlsError,
    files::Identity,
    verify::{Optional, PeerVerifier},
};

const VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];

fn refused(error: rustls::Error, certificate_file: &Path, key_file: &Path) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
            key: key_file.to_owned(),
            certificate: certificate_file.to_owned(),
        },
        other => TlsError::Damaged { file: certificate_file.to_owned(), fault: other.to_string() },
    }
}

fn without_resumption(mut server: ServerConfig) -> ServerConfig {
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;
    server
}

/// For remote users: no certificate is asked of them.
pub(super) fn for_remote(
    identity: Identity,
    (certificate_file, key_file): (&Path, &Path),
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let refused = |error| refused(error, certificate_file, key_file);
    let server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&VERSIONS)
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .map_err(refused)?;
    Ok(Arc::new(without_resumption(server)))
}

/// Who verifies the other end.
pub(super) struct Asked {
    /// As a client, when we are the server.
    pub client: Arc<dyn ClientCertVerifier>,
    /// As a server, when we are the client.
    pub server: Arc<dyn ServerCertVerifier>,
}

/// Both configurations of one of our identities. `optional`: whoever has no certificate is let in,
/// and is no partner.
pub(super) fn side(
    identity: Identity,
    files: (&Path, &Path),
    verifier: &Arc<PeerVerifier>,
    optional: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<SideTls, TlsError> {
    let client: Arc<dyn ClientCertVerifier> = match optional {
        true => Arc::new(Optional(Arc::clone(verifier))),
        false => Arc::clone(verifier) as _,
    };
    both(identity, files, Asked { client, server: Arc::clone(verifier) as _ }, provider)
}

/// The same, with these verifiers.
pub(super) fn both(
    identity: Identity,
    (certificate_file, key_file): (&Path, &Path),
    asked: Asked,
    provider: &Arc<CryptoProvider>,
) -> Result<SideTls, TlsError> {
    let Identity { chain, key, .. } = identity;
    let refused = |error| refused(error, certificate_file, key_file);
    let server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&VERSIONS)
        .map_err(refused)?
        .with_client_cert_verifier(asked.client)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(refused)?;
    let server = without_resumption(server);

    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&VERSIONS)
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(asked.server)
        .with_client_auth_cert(chain, key)
        .map_err(refused)?;
    client.resumption = Resumption::disabled();
    client.enable_early_data = false;

    Ok(SideTls { server: Arc::new(server), client: Arc::new(client) })
}
