//! TLS of the generator: 1.3 with one cipher suite, so that both proxies do the same work; never
//! a resumption.

use std::{path::Path, sync::Arc};

use anyhow::{Result, ensure};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{
        CryptoProvider,
        ring::{cipher_suite::TLS13_AES_256_GCM_SHA384, default_provider},
    },
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use crate::lab::certs::Identity;

/// As the caller, and as the callee.
#[derive(Clone)]
pub struct Configs {
    /// A partner's edge: it shows its certificate.
    pub client: Arc<ClientConfig>,
    /// A server inside: it wants one.
    pub server: Arc<ServerConfig>,
}

impl Configs {
    /// Reads the certificates.
    pub fn read(trust: &Path, partner: &Identity, server: &Identity) -> Result<Self> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![TLS13_AES_256_GCM_SHA384],
            ..default_provider()
        });
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(trust)? {
            roots.add(certificate?)?;
        }
        let roots = Arc::new(roots);
        let versions = &[&rustls::version::TLS13];
        let (chain, key) = files(partner)?;
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain, key)?;
        client.resumption = Resumption::disabled();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let (chain, key) = files(server)?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        server.send_tls13_tickets = 0;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

fn files(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(&identity.certificate)?.collect::<Result<_, _>>()?;
    ensure!(!chain.is_empty(), "{} holds no certificate", identity.certificate.display());
    Ok((chain, PrivateKeyDer::from_pem_file(&identity.key)?))
}
