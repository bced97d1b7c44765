//! Our next hops: which serve a domain.

use super::proxy::Proxy;
use crate::domain::Domain;

impl Proxy {
    /// The next hops that serve one of our domains, by their places in the list: those of its
    /// route, else those that are for everybody.
    pub(super) fn hops_for(&self, domain: Option<&Domain>) -> Vec<usize> {
        let routed = domain.and_then(|domain| {
            self.config.routes.iter().find(|(domains, _)| domains.contains(domain))
        });
        match routed {
            Some((_, hops)) => hops.clone(),
            None => {
                let all = self.config.next_hops.len();
                (0..all.saturating_sub(self.config.routed_only)).collect()
            }
        }
    }
}
