//! What the daemon answers about partners: who they are, and how one becomes or ceases to be one.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::Daemon;
use crate::{
    admin::protocol::PartnerRequest,
    config::{AllowedDomain, BlockedDomain, Federation, PeerOptions},
    domain::Domain,
    federation::{Partner, PartnerKind, Policy},
    proxy::Refusal,
    state::{Author, effective},
};

impl Daemon {
    /// Lists, shows and changes partners. Allowing and blocking are what `edge domain` does.
    pub(super) async fn partner(
        &self,
        request: PartnerRequest,
        author: &Author,
    ) -> Result<Value, String> {
        match request {
            PartnerRequest::List { watch: true, .. } => Err(NO_WATCH_LIST.to_owned()),
            PartnerRequest::List { kind, watch: false } => {
                let known = |kind: &String| PartnerKind::ALL.iter().any(|k| k.name() == kind);
                if kind.as_ref().is_some_and(|kind| !known(kind)) {
                    let names: Vec<_> = PartnerKind::ALL.iter().map(|kind| kind.name()).collect();
                    return Err(format!("this is no kind; write one of {}", names.join(", ")));
                }
                let mut rows = self.partners();
                rows.retain(|row| kind.as_ref().is_none_or(|kind| row["kind"] == kind.as_str()));
                Ok(Value::Array(rows))
            }
            PartnerRequest::Show { name } => self.show_partner(&name),
            PartnerRequest::Allow { domain, server, verification } => {
                let entry = AllowedDomain {
                    proxy_fqdn: server,
                    options: PeerOptions { verification, ..PeerOptions::default() },
                    ..AllowedDomain::new(domain)
                };
                self.change(|store, config| store.domain_allow(config, entry, author)).await
            }
            PartnerRequest::Block { domain, subdomains } => {
                self.block_domain(BlockedDomain { domain, subdomains }, author).await
            }
            PartnerRequest::Forgive { .. } => Err(NO_WATCH_LIST.to_owned()),
        }
    }

    fn federation(&self) -> Federation {
        effective(&self.config(), &self.store(), SystemTime::now()).federation
    }

    /// A row for each entry in force.
    fn partners(&self) -> Vec<Value> {
        let file = &self.config().federation;
        let federation = self.federation();
        let mut rows: Vec<Value> = federation
            .allowed_domains
            .iter()
            .map(|entry| {
                let origin = if file.allowed_domains.contains(entry) { "file" } else { "runtime" };
                row(&Partner::of_allowed(entry), true, origin, std::slice::from_ref(&entry.domain))
            })
            .collect();
        for provider in &federation.hosting_providers {
            let peer = Partner::of_hosting(provider);
            rows.push(row(&peer, provider.enabled, "file", &provider.domains));
        }
        for provider in &federation.public_im_providers {
            let peer = Partner::of_public_im(provider);
            rows.push(row(&peer, provider.enabled, "file", &provider.domains));
        }
        if let Some(route) = &federation.default_route {
            rows.push(row(&Partner::of_default_route(route), true, "file", &[]));
        }
        rows
    }

    /// Everything about the partner of this name, or about what would become of this domain.
    fn show_partner(&self, name: &str) -> Result<Value, String> {
        if let Some(mut row) = self.partners().into_iter().find(|row| row["name"] == name) {
            let key = row["host"].as_str().filter(|_| row["kind"] != "allowed-server");
            if let Ok(key) = key.unwrap_or(name).parse() {
                self.add_targets(&key, &mut row);
            }
            return Ok(row);
        }
        let domain: Domain =
            name.parse().map_err(|_| format!("{name} is neither a partner nor a domain"))?;
        let policy = Policy::new(&self.config().domains, &self.federation());
        match policy.partner(&domain) {
            Ok(partner) => {
                let mut row = row(&partner, true, "policy", std::slice::from_ref(&domain));
                self.add_targets(partner.key(), &mut row);
                Ok(row)
            }
            Err(reason) => Ok(refused(&domain, reason)),
        }
    }
}

const NO_WATCH_LIST: &str =
    "the watch list cannot be asked yet; edge partner allow ends what is held against a domain";

fn row(partner: &Partner, enabled: bool, origin: &str, domains: &[Domain]) -> Value {
    json!({
        "name": partner.name,
        "kind": partner.kind.name(),
        "domains": domains,
        "host": partner.pinned(),
        "verification": partner.verification().name(),
        "enabled": enabled,
        "origin": origin,
    })
}

fn refused(domain: &Domain, reason: Refusal) -> Value {
    json!({
        "name": domain, "kind": null, "domains": [domain], "host": null, "verification": null,
        "enabled": false, "origin": "policy", "reason": reason.name(), "why": reason.text(),
    })
}
