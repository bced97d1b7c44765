//! A TLS server that shows a certificate of one's choice and keeps whatever it is told: what an
//! impostor at a partner's address would learn.

use std::{io::Read as _, net::SocketAddr, sync::Arc, thread::JoinHandle};

use anyhow::Result;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{certs::Identity, netns::Namespace, process::wait_for};
use crate::patience::BUSY;

/// Waits for one connection.
pub struct Impostor {
    thread: JoinHandle<Result<Vec<u8>>>,
}

impl Impostor {
    /// Listens at `address` in `namespace` with `identity`; asks nobody for a certificate.
    pub fn start(namespace: &Namespace, address: SocketAddr, identity: &Identity) -> Result<Self> {
        let chain =
            CertificateDer::pem_file_iter(&identity.certificate)?.collect::<Result<Vec<_>, _>>()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&identity.key)?)?;
        let listener = namespace.listen(address)?;
        listener.set_nonblocking(true)?;
        let thread = std::thread::spawn(move || {
            let stream = wait_for("a caller", BUSY, || Ok(Some(listener.accept()?.0)))?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(BUSY))?;
            let connection = ServerConnection::new(Arc::new(config))?;
            let mut told = Vec::new();
            // Ends with the alert, the end of the stream, or when nothing comes.
            let _ = StreamOwned::new(connection, stream).read_to_end(&mut told);
            Ok(told)
        });
        Ok(Self { thread })
    }

    /// All that the first caller told, after it is gone. Waits for that caller.
    pub fn told(self) -> Result<Vec<u8>> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
