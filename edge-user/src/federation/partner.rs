//! A partner as the policy names it.

use crate::{
    config::{
        AllowedDomain, DefaultRoute, HostingProvider, PeerOptions, PublicImProvider, SrvOrder,
        Verification,
    },
    domain::Domain,
    media::policy::{Modalities, Modality},
    proxy::Question,
    xmpp::settings::{XmppPartner, XmppPartnerKind},
};

/// The kinds of federation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PartnerKind {
    /// No entry: DNS names its edges, and its certificate proves it.
    DiscoveredDomain,
    /// An allowed domain, found in DNS.
    AllowedDomain,
    /// An allowed domain with a pinned host.
    AllowedServer,
    /// A peer that carries many domains, each allowed or discovered.
    HostingProvider,
    /// A peer that carries the domains of public IM.
    PublicImProvider,
    /// The clearing house for everything without an entry.
    DefaultRoute,
    /// A domain that speaks XMPP: the gateway of this appliance speaks for it.
    Xmpp,
}

impl PartnerKind {
    /// All of them.
    pub const ALL: &'static [PartnerKind] = &[
        PartnerKind::DiscoveredDomain,
        PartnerKind::AllowedDomain,
        PartnerKind::AllowedServer,
        PartnerKind::HostingProvider,
        PartnerKind::PublicImProvider,
        PartnerKind::DefaultRoute,
        PartnerKind::Xmpp,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            PartnerKind::DiscoveredDomain => "discovered-domain",
            PartnerKind::AllowedDomain => "allowed-domain",
            PartnerKind::AllowedServer => "allowed-server",
            PartnerKind::HostingProvider => "hosting-provider",
            PartnerKind::PublicImProvider => "public-im-provider",
            PartnerKind::DefaultRoute => "default-route",
            PartnerKind::Xmpp => "xmpp",
        }
    }

    /// One peer carries many domains: it is known by its host.
    pub const fn is_shared(self) -> bool {
        matches!(
            self,
            PartnerKind::HostingProvider
                | PartnerKind::PublicImProvider
                | PartnerKind::DefaultRoute
        )
    }
}

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a partner to us.
    In,
    /// From us to a partner.
    Out,
}

/// How a partner's edges are found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// Its federation SRV record says.
    Srv,
    /// One host, whose addresses DNS says.
    Host {
        /// It.
        fqdn: Domain,
        /// Its port.
        port: u16,
    },
}

/// How DNS is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lookup {
    /// SRV targets may lie outside the domain.
    pub relax: bool,
    /// The order of the targets.
    pub order: SrvOrder,
    /// Only signed answers count.
    pub secure: bool,
}

/// A partner as the policy names it: everything that is asked about it while messages pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partner {
    /// Its kind.
    pub kind: PartnerKind,
    /// The domain that is spoken for.
    pub domain: Domain,
    /// How its edges are found.
    pub route: Route,
    /// Provider's name; the domain's for the others.
    pub name: Box<str>,
    /// SRV targets may lie outside the domain.
    pub relax_srv_domain: bool,
    /// Requests of nobody in particular are accepted.
    pub allow_anonymous: bool,
    /// What is asked of it.
    pub options: PeerOptions,
    /// What it carries is public IM.
    pub public_im: bool,
    /// Its SRV record may name a provider, which carries it then: DNS is asked for targets
    /// anywhere, and [`Partner::accepts_target`] says which count.
    pub may_be_carried: bool,
}

impl Partner {
    /// The partner of an allowed entry.
    pub fn of_allowed(entry: &AllowedDomain) -> Self {
        let (kind, route) = match &entry.proxy_fqdn {
            Some(fqdn) => {
                (PartnerKind::AllowedServer, Route::Host { fqdn: fqdn.clone(), port: entry.port })
            }
            None => (PartnerKind::AllowedDomain, Route::Srv),
        };
        Self {
            kind,
            domain: entry.domain.clone(),
            route,
            name: entry.domain.as_str().into(),
            relax_srv_domain: entry.relax_srv_domain,
            allow_anonymous: entry.allow_anonymous,
            options: entry.options.clone(),
            public_im: false,
            may_be_carried: false,
        }
    }

    /// A domain without an entry.
    pub fn discovered(domain: &Domain, options: &PeerOptions) -> Self {
        Self {
            kind: PartnerKind::DiscoveredDomain,
            domain: domain.clone(),
            route: Route::Srv,
            name: domain.as_str().into(),
            relax_srv_domain: false,
            allow_anonymous: false,
            options: options.clone(),
            public_im: false,
            may_be_carried: false,
        }
    }

    /// A hosting provider, speaking for its own host.
    pub fn of_hosting(provider: &HostingProvider) -> Self {
        let HostingProvider { name, proxy_fqdn, port, options, .. } = provider;
        Self::carrier(PartnerKind::HostingProvider, name, proxy_fqdn, *port, options)
    }

    /// A public IM provider, speaking for its own host.
    pub fn of_public_im(provider: &PublicImProvider) -> Self {
        let PublicImProvider { name, proxy_fqdn, port, options, .. } = provider;
        let peer = Self::carrier(PartnerKind::PublicImProvider, name, proxy_fqdn, *port, options);
        Self { public_im: true, ..peer }
    }

    /// The default route, speaking for its own host.
    pub fn of_default_route(route: &DefaultRoute) -> Self {
        let DefaultRoute { proxy_fqdn, port, public_im, options } = route;
        let name = proxy_fqdn.as_str();
        let peer = Self::carrier(PartnerKind::DefaultRoute, name, proxy_fqdn, *port, options);
        Self { public_im: *public_im, ..peer }
    }

    /// How much it sends is watched: nobody vouches for its users. Those are discovered partners, and
    /// public services of XMPP, where anybody has an account.
    pub fn is_watched(&self) -> bool {
        match self.kind {
            PartnerKind::DiscoveredDomain => true,
            PartnerKind::Xmpp => self.public_im,
            PartnerKind::AllowedDomain
            | PartnerKind::AllowedServer
            | PartnerKind::HostingProvider
            | PartnerKind::PublicImProvider
            | PartnerKind::DefaultRoute => false,
        }
    }

    /// A domain of an XMPP partner: messages and presence, and nothing else.
    pub fn of_xmpp(domain: &Domain, partner: &XmppPartner) -> Self {
        let verification = match partner.kind {
            XmppPartnerKind::PublicUnverified => Verification::AlwaysUnverifiable,
            XmppPartnerKind::Federated | XmppPartnerKind::PublicVerified => {
                Verification::AlwaysVerifiable
            }
        };
        Self {
            kind: PartnerKind::Xmpp,
            domain: domain.clone(),
            route: Route::Srv,
            name: partner.domain.as_str().into(),
            relax_srv_domain: false,
            allow_anonymous: false,
            options: PeerOptions {
                verification: Some(verification),
                modalities: Modalities::NONE.with(Modality::Im).with(Modality::Presence),
                ..PeerOptions::default()
            },
            public_im: partner.kind != XmppPartnerKind::Federated,
            may_be_carried: false,
        }
    }

    fn carrier(
        kind: PartnerKind,
        name: &str,
        fqdn: &Domain,
        port: u16,
        options: &PeerOptions,
    ) -> Self {
        Self {
            kind,
            domain: fqdn.clone(),
            route: Route::Host { fqdn: fqdn.clone(), port },
            name: name.into(),
            relax_srv_domain: false,
            allow_anonymous: false,
            options: options.clone(),
            public_im: false,
            may_be_carried: false,
        }
    }

    /// The same peer, speaking for a domain that it carries.
    pub fn speaking_for(&self, domain: &Domain) -> Self {
        Self { domain: domain.clone(), ..self.clone() }
    }

    /// What it carries is public IM.
    pub fn is_public(&self) -> bool {
        self.public_im
    }

    /// Whether a host that its SRV record names is one of its edges.
    pub fn accepts_target(&self, host: &Domain) -> bool {
        self.relax_srv_domain || host.is_within(&self.domain)
    }

    /// Whether its users are believed: as its entry says, or as its kind is by default.
    pub fn verification(&self) -> Verification {
        self.options.verification.unwrap_or(match self.kind {
            PartnerKind::DiscoveredDomain | PartnerKind::DefaultRoute => {
                Verification::AlwaysUnverifiable
            }
            _ => Verification::AlwaysVerifiable,
        })
    }

    /// What connections to it are known by: its domain, or the host of a peer that carries many.
    pub fn key(&self) -> &Domain {
        match &self.route {
            Route::Host { fqdn, .. } if self.kind.is_shared() => fqdn,
            _ => &self.domain,
        }
    }

    /// The one host that its certificate must name.
    pub fn pinned(&self) -> Option<&Domain> {
        match &self.route {
            Route::Host { fqdn, .. } => Some(fqdn),
            Route::Srv => None,
        }
    }

    /// What DNS is asked before it is dialled.
    pub fn question(&self) -> Question {
        match &self.route {
            Route::Host { fqdn, port } => Question::Host(fqdn.clone(), *port),
            Route::Srv => Question::Federation(self.domain.clone()),
        }
    }

    /// How DNS is asked.
    pub fn lookup(&self) -> Lookup {
        Lookup {
            relax: self.relax_srv_domain || self.may_be_carried,
            order: self.options.srv_order,
            secure: self.options.dnssec,
        }
    }
}
