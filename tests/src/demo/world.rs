//! The lab with the two daemons the demo and the end-to-end tests run: Contoso's edge, which is
//! under test, and Fabrikam's, its partner.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::lab::{
    Lab,
    certs::Identity,
    config::EdgeConfig,
    counters::Counters,
    daemon::Edge,
    layout::Site,
    links::Forwarding,
    sipp::{self, Agent, Carrier, Dialogue, Play},
    tls_client::Caller,
};

/// The SIP federation port.
pub const FEDERATION_PORT: u16 = 5061;

/// Everything a step needs. Fields are dropped in this order: daemons before the lab.
pub struct World {
    /// The edge under test.
    pub contoso: Edge,
    /// The partner's edge.
    pub fabrikam: Edge,
    /// What XDP needs to forward over veth pairs.
    _forwarding: Forwarding,
    /// The lab.
    pub lab: Lab,
}

impl World {
    /// Raises the lab and starts both daemons with their plain configuration.
    pub fn raise(tag: &str) -> Result<Self> {
        Self::raise_with(tag, |config| config)
    }

    /// The same, with Contoso's configuration changed by `change`.
    pub fn raise_with(tag: &str, change: impl FnOnce(EdgeConfig) -> EdgeConfig) -> Result<Self> {
        let lab = Lab::raise(tag)?;
        let forwarding = Forwarding::prepare(&lab, &[Site::Contoso, Site::Fabrikam])?;
        let fabrikam = Edge::start(&lab, fabrikam_config(&lab)).context("Fabrikam's edge")?;
        let contoso = Edge::start(&lab, change(contoso_config(&lab))).context("Contoso's edge")?;
        Ok(Self { contoso, fabrikam, _forwarding: forwarding, lab })
    }

    /// The edge of a site that has one.
    pub fn edge(&self, site: Site) -> &Edge {
        if site == Site::Fabrikam { &self.fabrikam } else { &self.contoso }
    }

    /// Plays a dialogue of a user behind `from` with a user behind `to`.
    pub fn play(&self, play: Play, from: Site, to: Site, carrier: Carrier) -> Result<Duration> {
        let dialogue = Dialogue::once(play, &user(from), &user(to));
        let begun = std::time::Instant::now();
        sipp::play(
            &self.agent(from, carrier),
            self.edge(from).config.inside_address(),
            &self.agent(to, Carrier::Tcp),
            self.lab.dir(),
            &dialogue,
        )?;
        Ok(begun.elapsed())
    }

    /// A user agent on a site's inside.
    pub fn agent(&self, site: Site, carrier: Carrier) -> Agent<'_> {
        let address = IpAddr::V4(site.server4());
        Agent { namespace: self.lab.inside(site), address, carrier }
    }

    /// A caller at `site` with a certificate, or none.
    pub fn caller<'a>(&'a self, site: Site, identity: Option<&'a Identity>) -> Caller<'a> {
        Caller {
            namespace: self.lab.site(site),
            from: None,
            identity,
            trust: &self.lab.identities.trust,
        }
    }

    /// The kernel counters of Contoso's edge.
    pub fn counters(&self) -> Result<Counters> {
        Counters::open(self.contoso.pins())
    }
}

/// A world that the tests of one binary share: raised by the first, taken away at exit.
pub struct Shared {
    cell: OnceLock<Result<Mutex<World>, String>>,
}

impl Shared {
    /// Not raised yet.
    pub const fn new() -> Self {
        Self { cell: OnceLock::new() }
    }

    /// The world, one test at a time.
    ///
    /// # Panics
    /// When it could not be raised: every test that needs it fails with the reason.
    pub fn lock(
        &'static self,
        raise: impl FnOnce() -> Result<World>,
    ) -> MutexGuard<'static, World> {
        let raised = self
            .cell
            .get_or_init(|| raise().map(Mutex::new).map_err(|error| format!("no lab: {error:#}")));
        match raised {
            Ok(world) => world.lock().unwrap_or_else(PoisonError::into_inner),
            Err(error) => panic!("{error}"),
        }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

/// Contoso's edge: Fabrikam and Northwind are allowed by SRV, Adatum is too.
pub fn contoso_config(lab: &Lab) -> EdgeConfig {
    EdgeConfig::new(Site::Contoso, &lab.identities.contoso, &lab.identities.trust)
        .allow(&Site::Fabrikam.domain())
        .allow(&Site::Northwind.domain())
        .allow(&Site::Adatum.domain())
}

/// Fabrikam's edge: Contoso is allowed.
pub fn fabrikam_config(lab: &Lab) -> EdgeConfig {
    EdgeConfig::new(Site::Fabrikam, &lab.identities.fabrikam, &lab.identities.trust)
        .allow(&Site::Contoso.domain())
}

/// The user of a site: `alice@contoso.example`, `bob@fabrikam.example` and so on.
pub fn user(site: Site) -> String {
    let name = match site {
        Site::Contoso => "alice",
        Site::Fabrikam => "bob",
        Site::Northwind => "carol",
        Site::Adatum => "dave",
        Site::Evil | Site::Stranger | Site::Dns => "mallory",
    };
    format!("{name}@{}", site.domain())
}

/// Contoso's federation service, by IPv4 and by IPv6.
pub fn contoso_access() -> [SocketAddr; 2] {
    Site::Contoso.outside().map(|address| SocketAddr::new(address, FEDERATION_PORT))
}
