//! `[[federation.hosting_provider]]`, `[[federation.public_im_provider]]` and
//! `[federation.default_route]`: peers that carry many domains.

use toml::Spanned;

use super::{
    findings::{Fault, quoted},
    model_federation::{DefaultRoute, HostingProvider, PublicImProvider},
    peer_options,
    reader::Section,
    sections::{Edge, no_duplicates},
    values,
};
use crate::domain::Domain;

/// The providers of one configuration.
const MAX_PROVIDERS: usize = 1000;
/// Domains of all providers.
const MAX_DOMAINS: usize = 20_000;

/// A provider of either kind, with places.
pub(super) struct Provider {
    pub name: Spanned<String>,
    pub host: Spanned<Domain>,
    pub domains: Vec<Spanned<Domain>>,
    pub enabled: bool,
    /// It also hosts users of ours: where that is said.
    pub shared: Option<super::findings::Span>,
    pub hosting: bool,
}

/// What the three kinds of sections hold.
pub(super) struct Providers {
    pub hosting: Vec<HostingProvider>,
    pub public_im: Vec<PublicImProvider>,
    pub default_route: Option<(Spanned<Domain>, DefaultRoute)>,
    /// All providers, for the checks that look at more than one.
    pub all: Vec<Provider>,
}

pub(super) fn providers(federation: &Section<'_>, edge: &Edge) -> Providers {
    let mut all = Vec::new();
    let mut hosting = Vec::new();
    for section in federation.tables("hosting_provider") {
        hosting.extend(hosting_provider(section, edge, &mut all));
    }
    let mut public_im = Vec::new();
    for section in federation.tables("public_im_provider") {
        public_im.extend(public_im_provider(section, edge, &mut all));
    }
    let default_route = default_route(federation.section("default_route"), edge);
    let domains: usize = all.iter().map(|provider| provider.domains.len()).sum();
    for (count, most, what) in
        [(all.len(), MAX_PROVIDERS, "providers"), (domains, MAX_DOMAINS, "domains of providers")]
    {
        if count > most {
            federation.sink.error(
                &federation.span,
                format!("{count} {what} are more than {most}"),
                "take some out; domains may be found by their SRV record instead",
            );
        }
    }
    Providers { hosting, public_im, default_route, all }
}

fn common(section: &Section<'_>, edge: &Edge, hosting: bool) -> Option<Provider> {
    section.require("name", "add name = \"cloud\", by which edge partner show knows it");
    let name = section.parsed("name", name);
    let host = host(section, edge);
    let domains = section.parsed_list("domains", values::domain);
    no_duplicates(section, &domains, "the domain");
    let enabled = section.boolean("enabled", true);
    Some(Provider { name: name?, host: host?, domains, enabled, shared: None, hosting })
}

fn host(section: &Section<'_>, edge: &Edge) -> Option<Spanned<Domain>> {
    section.require(
        "proxy_fqdn",
        "add proxy_fqdn = \"sipfed.cloud.example\", the host in its certificate",
    );
    let host = section.parsed("proxy_fqdn", values::domain)?;
    let own = edge.fqdn.as_ref().is_some_and(|fqdn| fqdn.get_ref() == host.get_ref());
    if own || edge.domains.iter().any(|ours| ours.get_ref() == host.get_ref()) {
        section.sink.error(
            &host.span(),
            "proxy_fqdn is the name of this appliance itself",
            "name the provider's host",
        );
    }
    Some(host)
}

/// A name for people and commands.
fn name(text: &str) -> Result<String, Fault> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(good) {
        return Err(Fault::new(
            format!("{} is no name for a partner", quoted(text)),
            "write 1 to 64 letters, digits, hyphens, dots and underscores",
        ));
    }
    Ok(text.to_owned())
}

fn plain(domains: &[Spanned<Domain>]) -> Vec<Domain> {
    domains.iter().map(|domain| domain.get_ref().clone()).collect()
}

fn port(section: &Section<'_>) -> u16 {
    section.port("port").map_or(5061, Spanned::into_inner)
}

fn hosting_provider(
    section: Section<'_>,
    edge: &Edge,
    all: &mut Vec<Provider>,
) -> Option<HostingProvider> {
    let found = common(&section, edge, true);
    let port = port(&section);
    let shared_address_space = section.boolean("shared_address_space", false);
    let options = peer_options::options(&section, true);
    let shared = shared_address_space.then(|| section.key_span("shared_address_space"));
    section.finish();
    let found = Provider { shared, ..found? };
    let provider = HostingProvider {
        name: found.name.get_ref().clone(),
        proxy_fqdn: found.host.get_ref().clone(),
        port,
        enabled: found.enabled,
        shared_address_space,
        domains: plain(&found.domains),
        options,
    };
    all.push(found);
    Some(provider)
}

fn public_im_provider(
    section: Section<'_>,
    edge: &Edge,
    all: &mut Vec<Provider>,
) -> Option<PublicImProvider> {
    let found = common(&section, edge, false);
    let port = port(&section);
    let options = peer_options::options(&section, true);
    section.finish();
    let found = found?;
    let provider = PublicImProvider {
        name: found.name.get_ref().clone(),
        proxy_fqdn: found.host.get_ref().clone(),
        port,
        enabled: found.enabled,
        domains: plain(&found.domains),
        options,
    };
    all.push(found);
    Some(provider)
}

fn default_route(section: Section<'_>, edge: &Edge) -> Option<(Spanned<Domain>, DefaultRoute)> {
    if !section.exists() {
        return None;
    }
    let host = host(&section, edge);
    let port = port(&section);
    let public_im = section.boolean("public_im", false);
    let options = peer_options::options(&section, true);
    section.finish();
    let host = host?;
    let proxy_fqdn = host.get_ref().clone();
    Some((host, DefaultRoute { proxy_fqdn, port, public_im, options }))
}
