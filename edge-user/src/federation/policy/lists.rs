//! Which partner a domain belongs to, and which provider may carry it.

use std::sync::Arc;

use super::{Partner, PartnerKind, Policy, upwards};
use crate::{
    config::Federation,
    domain::Domain,
    federation::{CertificateNames, partner::Route},
    proxy::Refusal,
};

/// A peer that carries many domains.
#[derive(Clone, Debug)]
pub struct Carrier {
    /// It, speaking for its own host.
    pub peer: Arc<Partner>,
    /// It is in use.
    pub enabled: bool,
}

impl Policy {
    pub(super) fn take_carriers(&mut self, federation: &Federation) {
        for provider in &federation.hosting_providers {
            let peer = Partner::of_hosting(provider);
            if provider.enabled {
                self.carries_allowed = true;
                self.carries_discovered = true;
                if provider.shared_address_space {
                    self.shared_space.get_or_insert_with(|| Arc::new(peer.clone()));
                }
            }
            self.take_carrier(peer, provider.enabled, &provider.domains);
        }
        for provider in &federation.public_im_providers {
            self.carries_discovered |= provider.enabled;
            let peer = Partner::of_public_im(provider);
            self.take_carrier(peer, provider.enabled, &provider.domains);
        }
        if let Some(route) = &federation.default_route {
            let peer = Arc::new(Partner::of_default_route(route));
            self.default_route = Some(peer.clone());
            self.carriers.insert(route.proxy_fqdn.clone(), Carrier { peer, enabled: true });
        }
    }

    fn take_carrier(&mut self, peer: Partner, enabled: bool, domains: &[Domain]) {
        let host = peer.key().clone();
        for domain in domains {
            self.bound.insert(domain.clone(), Arc::new(peer.speaking_for(domain)));
        }
        self.carriers.insert(host, Carrier { peer: Arc::new(peer), enabled });
    }

    pub(super) fn take_allowed(&mut self, federation: &Federation) {
        for entry in &federation.allowed_domains {
            let mut partner = Partner::of_allowed(entry);
            partner.may_be_carried = self.carries_allowed;
            let partner = Arc::new(partner);
            match &partner.route {
                Route::Host { fqdn, .. } => {
                    self.pinned.entry(fqdn.clone()).or_default().push(partner.clone());
                }
                Route::Srv if partner.relax_srv_domain => self.relaxed.push(partner.clone()),
                Route::Srv => {}
            }
            self.allowed.insert(entry.domain.clone(), partner);
        }
    }

    /// The partner that messages to or from this domain belong to, if they are let through.
    ///
    /// Says nothing about proof: the caller must also know that the connection proves the
    /// partner. A domain whose entry asks DNS may turn out to be carried by a provider
    /// ([`Policy::carried`]).
    pub fn partner(&self, domain: &Domain) -> Result<Arc<Partner>, Refusal> {
        if self.blocked_by(domain).is_some() {
            return Err(Refusal::DomainBlocked);
        }
        if !self.enabled {
            return Err(Refusal::FederationDisabled);
        }
        if self.is_ours(domain) {
            // One of ours is never a partner, unless a provider hosts users of ours too.
            let shared = self.shared_space.as_ref().ok_or(Refusal::Transit)?;
            return Ok(Arc::new(shared.speaking_for(domain)));
        }
        if let Some(partner) = self.xmpp.get(domain) {
            // Never another way of federation, were it off or not.
            return match self.xmpp_domains {
                Some(_) => Ok(partner.clone()),
                None => Err(Refusal::FederationDisabled),
            };
        }
        let allowed = self.allowed.get(domain);
        if let Some(partner) = allowed
            && partner.kind == PartnerKind::AllowedServer
        {
            return Ok(partner.clone());
        }
        if let Some(partner) = self.bound.get(domain) {
            let hosting = partner.kind == PartnerKind::HostingProvider;
            if hosting && allowed.is_none() && !self.discovery {
                return Err(Refusal::DomainNotAllowed);
            }
            return match self.carriers.get(partner.key()) {
                Some(carrier) if carrier.enabled => Ok(partner.clone()),
                _ => Err(Refusal::ProviderDisabled),
            };
        }
        if let Some(carrier) = self.carriers.get(domain) {
            // A provider's own host is no domain that another could speak for.
            return match carrier.enabled {
                true => Ok(carrier.peer.clone()),
                false => Err(Refusal::ProviderDisabled),
            };
        }
        if let Some(partner) = allowed {
            return Ok(partner.clone());
        }
        if let Some(route) = &self.default_route {
            return Ok(Arc::new(route.speaking_for(domain)));
        }
        if !self.discovery {
            return Err(Refusal::DomainNotAllowed);
        }
        let mut partner = Partner::discovered(domain, &self.discovered);
        partner.may_be_carried = self.carries_discovered;
        Ok(Arc::new(partner))
    }

    /// The partner whose connections are known by this key ([`Partner::key`]), unless it is
    /// refused.
    pub fn by_key(&self, key: &Domain) -> Option<Arc<Partner>> {
        match self.carriers.get(key) {
            Some(carrier) => (self.enabled && carrier.enabled && self.blocked_by(key).is_none())
                .then(|| carrier.peer.clone()),
            None => self.partner(key).ok(),
        }
    }

    /// A peer that a certificate names, other than the one whose host is given. Who holds several
    /// such names is the first.
    pub fn carrier(&self, names: &CertificateNames) -> Option<&Carrier> {
        if self.carriers.is_empty() {
            return None;
        }
        let mut found = names.all().filter_map(|name| self.carriers.get(name)).peekable();
        let first = found.peek().copied();
        found.find(|carrier| carrier.enabled).or(first)
    }

    /// Whether a provider carries a domain that no entry binds: its SRV record names exactly the
    /// provider's host, and the provider may carry what this entry says.
    pub fn carries(&self, carrier: &Partner, entry: &Partner, srv_targets: &[Domain]) -> bool {
        let kind = match entry.kind {
            PartnerKind::AllowedDomain => carrier.kind == PartnerKind::HostingProvider,
            PartnerKind::DiscoveredDomain => {
                matches!(carrier.kind, PartnerKind::HostingProvider | PartnerKind::PublicImProvider)
            }
            _ => false,
        };
        kind && srv_targets.contains(carrier.key())
    }

    /// The provider that a domain's SRV record sends us to, in place of edges of its own: what the
    /// first usable target says.
    pub fn carried(&self, entry: &Partner, srv_targets: &[Domain]) -> Option<Arc<Partner>> {
        if !entry.may_be_carried {
            return None;
        }
        for target in srv_targets {
            let carrier = self.carriers.get(target).filter(|carrier| carrier.enabled);
            if let Some(carrier) = carrier
                && self.carries(&carrier.peer, entry, srv_targets)
            {
                return Some(Arc::new(carrier.peer.speaking_for(&entry.domain)));
            }
            if entry.accepts_target(target) {
                return None;
            }
        }
        None
    }

    /// Whether this host lies in the domain of an allowed partner (by name alone: whether it
    /// speaks for it, DNS says), is one that an entry pins, or a provider's.
    pub fn is_an_allowed_host(&self, host: &Domain) -> bool {
        let good = |partner: &Arc<Partner>| self.partner(&partner.domain).is_ok();
        upwards(host).any(|name| self.allowed.get(name).is_some_and(good))
            || self.pinned.get(host).is_some_and(|partners| partners.iter().any(good))
            || self.by_key(host).is_some_and(|partner| partner.kind.is_shared())
    }

    /// Allowed domains whose SRV targets may lie anywhere, and that are let through.
    pub fn relaxed(&self) -> impl Iterator<Item = &Arc<Partner>> {
        self.relaxed.iter().filter(|partner| self.partner(&partner.domain).is_ok())
    }

    /// Entries that accept requests of nobody in particular, and that a certificate with these
    /// names could prove: by the domain, by a host in it, by the pinned host, or by an SRV target
    /// anywhere.
    pub fn anonymous(&self, names: &CertificateNames) -> Vec<Arc<Partner>> {
        let mut found: Vec<Arc<Partner>> = Vec::new();
        let mut take = |partner: &Arc<Partner>| {
            if partner.allow_anonymous
                && self.partner(&partner.domain).is_ok_and(|holds| holds == *partner)
                && !found.iter().any(|other| other.domain == partner.domain)
            {
                found.push(partner.clone());
            }
        };
        for name in names.all().chain(&names.wildcards).chain(&names.common_name) {
            upwards(name).filter_map(|up| self.allowed.get(up)).for_each(&mut take);
            self.pinned.get(name).into_iter().flatten().for_each(&mut take);
        }
        self.relaxed.iter().for_each(take);
        found
    }
}
