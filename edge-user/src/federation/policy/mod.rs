//! Who may federate: lists, providers and users' rights as one immutable answer.
//!
//! Built from the file and the administrator's runtime changes (already merged into one
//! [`Federation`]), and swapped whole, so that every decision sees one state. A block always wins:
//! over an allowed domain, over its own subdomains' entries, over everything.
//!
//! | part | what it answers |
//! | --- | --- |
//! | `lists` | which partner a domain belongs to, and who may carry it |
//! | `users` | what a user of ours may do |
//! | `media` | whether a body asks for audio or video |

mod lists;
pub mod media;
mod users;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    config::{Federation, PeerOptions, Rights, ThrottleSettings},
    domain::Domain,
    media::policy::Modalities,
    proxy::Refusal,
    xmpp::settings::XmppSettings,
};

use super::partner::{Partner, PartnerKind};

pub use lists::Carrier;
pub use users::{UserName, Users};

/// The policy in force. Cheap to ask, never changed: share it as an `Arc` and swap it.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    enabled: bool,
    discovery: bool,
    discovered: PeerOptions,
    ours: Vec<Domain>,
    /// Allowed domains and allowed servers.
    allowed: HashMap<Domain, Arc<Partner>>,
    /// Domains that are bound to a provider.
    bound: HashMap<Domain, Arc<Partner>>,
    /// Providers and the default route, by their host.
    carriers: HashMap<Domain, Carrier>,
    /// Allowed servers, by the host that their entry pins.
    pinned: HashMap<Domain, Vec<Arc<Partner>>>,
    /// Allowed domains whose SRV targets may lie anywhere.
    relaxed: Vec<Arc<Partner>>,
    default_route: Option<Arc<Partner>>,
    /// The provider that also hosts users of our own domains.
    shared_space: Option<Arc<Partner>>,
    /// A domain's SRV record may name a provider.
    carries_allowed: bool,
    carries_discovered: bool,
    users: Users,
    /// Domains of XMPP partners, which the gateway speaks for.
    xmpp: HashMap<Domain, Arc<Partner>>,
    /// The organisation's switch for XMPP, and domains of ours whose users it is for.
    xmpp_domains: Option<Vec<Domain>>,
    throttle: ThrottleSettings,
    mark_unverifiable: bool,
    archiving: Option<(Arc<str>, Arc<str>)>,
    /// Blocked name -> names below it too.
    blocked: HashMap<Domain, bool>,
    generation: u64,
}

/// Policies made so far.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

impl Policy {
    /// `ours`: the SIP domains served here.
    pub fn new(ours: &[Domain], federation: &Federation) -> Self {
        let mut policy = Self {
            enabled: federation.enabled,
            discovery: federation.discovery,
            discovered: federation.discovered.clone(),
            ours: ours.to_vec(),
            users: Users::new(&federation.users, &federation.groups),
            throttle: federation.throttle.clone(),
            mark_unverifiable: federation.mark_unverifiable,
            archiving: federation.archiving_disclaimer.as_deref().and_then(header_line),
            generation: GENERATIONS.fetch_add(1, Ordering::Relaxed) + 1,
            ..Self::default()
        };
        for entry in &federation.blocked_domains {
            // Two entries for one name (file and runtime): the wider one holds.
            *policy.blocked.entry(entry.domain.clone()).or_insert(false) |= entry.subdomains;
        }
        policy.take_carriers(federation);
        policy.take_allowed(federation);
        policy
    }

    /// With XMPP partners; without settings there is no XMPP here.
    #[must_use]
    pub fn with_xmpp(mut self, settings: Option<&XmppSettings>) -> Self {
        let Some(settings) = settings else { return self };
        for partner in &settings.partners {
            for domain in partner.domains() {
                let entry = Arc::new(Partner::of_xmpp(domain, partner));
                self.xmpp.insert(domain.clone(), entry);
            }
        }
        let of_server =
            |domain: &Domain| settings.inside.iter().any(|(domains, _)| domains.contains(domain));
        let served = settings.domains.iter().filter(|domain| !of_server(domain)).cloned();
        self.xmpp_domains = settings.enabled.then(|| served.collect());
        self
    }

    /// The domains served here.
    pub fn ours(&self) -> &[Domain] {
        &self.ours
    }

    /// Whether this is one of the domains served here (exactly; a subdomain is not).
    pub fn is_ours(&self, domain: &Domain) -> bool {
        self.ours.contains(domain)
    }

    /// Whether this is a name below one of the domains served here.
    pub fn is_below_ours(&self, domain: &Domain) -> bool {
        self.ours.iter().any(|ours| domain != ours && domain.is_within(ours))
    }

    /// The blocked name that covers this domain, if any.
    pub fn blocked_by(&self, domain: &Domain) -> Option<&Domain> {
        if self.blocked.is_empty() {
            return None;
        }
        if let Some((name, _)) = self.blocked.get_key_value(domain) {
            return Some(name);
        }
        let mut rest = domain.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some((name, true)) = self.blocked.get_key_value(parent) {
                return Some(name);
            }
            rest = parent;
        }
        None
    }

    /// Whether some domain may no longer federate that could under a former policy.
    pub fn is_narrower_than(&self, former: &Self) -> bool {
        let fewer = |now: &HashMap<Domain, Arc<Partner>>, then: &HashMap<Domain, Arc<Partner>>| {
            then.keys().any(|domain| !now.contains_key(domain))
        };
        let more_blocked =
            self.blocked.iter().any(|(name, below)| match former.blocked.get(name) {
                Some(then) => *below && !then,
                None => true,
            });
        let carriers = former.carriers.keys().any(|host| !self.carriers.contains_key(host));
        let switched_off =
            (former.enabled && !self.enabled) || (former.discovery && !self.discovery);
        switched_off
            || more_blocked
            || carriers
            || (former.xmpp_domains.is_some() && self.xmpp_domains.is_none())
            || fewer(&self.xmpp, &former.xmpp)
            || self.users.fewer_outside(&former.users)
            || fewer(&self.allowed, &former.allowed)
            || fewer(&self.bound, &former.bound)
    }

    /// What a user of ours may not do with a partner of this kind. `media`: audio or video is
    /// asked for. Public IM is a right of its own: federation is not needed for it.
    pub fn user(
        &self,
        user: &UserName<'_>,
        partner: &Partner,
        media: impl FnOnce() -> bool,
    ) -> Result<(), Refusal> {
        let rights = self.users.rights(user);
        if partner.kind == PartnerKind::Xmpp {
            return self.xmpp_user(user, rights);
        }
        if !partner.is_public() {
            return if rights.federation { Ok(()) } else { Err(Refusal::UserNoFederation) };
        }
        if !rights.public_im {
            return Err(Refusal::UserNoPublicIm);
        }
        if !rights.public_av && media() {
            return Err(Refusal::UserNoPublicAv);
        }
        Ok(())
    }

    /// XMPP is a right beside that to federate, for users of the domains that the gateway serves.
    fn xmpp_user(&self, user: &UserName<'_>, rights: Rights) -> Result<(), Refusal> {
        let served = self.xmpp_domains.iter().flatten().any(|domain| domain == user.domain());
        match (rights.federation, rights.xmpp && served) {
            (false, _) => Err(Refusal::UserNoFederation),
            (true, false) => Err(Refusal::UserNoXmpp),
            (true, true) => Ok(()),
        }
    }

    /// What this user and a partner may do with one another: what the partner's entry and the
    /// user's policy both name. Of a domain that a provider carries, its own entry says too.
    pub fn modalities(&self, partner: &Partner, user: &UserName<'_>) -> Modalities {
        let entry = self.allowed.get(&partner.domain).filter(|_| partner.kind.is_shared());
        let entry = entry.map_or(Modalities::ALL, |entry| entry.options.modalities);
        let both = partner.options.modalities.intersection(self.users.rights(user).modalities);
        both.intersection(entry)
    }

    /// What users may do.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// How much a discovered partner may send.
    pub fn throttle(&self) -> &ThrottleSettings {
        &self.throttle
    }

    /// What goes to partners says that its sender is not verified.
    pub fn marks_unverifiable(&self) -> bool {
        self.mark_unverifiable
    }

    /// The header that tells partners that what they say is archived.
    pub fn archiving(&self) -> Option<&(Arc<str>, Arc<str>)> {
        self.archiving.as_ref()
    }

    /// Another number for each policy: what was found under one is not true under the next.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The organisation's switch.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Domains without an entry may federate.
    pub fn discovery(&self) -> bool {
        self.discovery
    }
}

/// `name: value` as name and value.
fn header_line(line: &str) -> Option<(Arc<str>, Arc<str>)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim().into(), value.trim().into()))
}

/// The name itself, then each name above it.
pub(super) fn upwards(domain: &Domain) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(domain.as_str()), |name| name.split_once('.').map(|(_, up)| up))
}
