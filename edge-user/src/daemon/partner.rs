//! What the daemon answers about partners: who they are, and how one becomes or ceases to be one.

use std::{sync::Arc, time::SystemTime};

use serde_json::{Value, json};

use super::Daemon;
use crate::{
    admin::protocol::PartnerRequest,
    config::{AllowedDomain, BlockedDomain, Federation, PeerOptions},
    domain::Domain,
    federation::{Partner, PartnerKind, Policy},
    net::shell::ConnectionInfo,
    proxy::{Question, Refusal, RefusalSeen, Traffic},
    state::{Author, effective},
};

/// Connections shown of one partner.
const MAX_SHOWN: usize = 100;
/// Refusals shown of one partner.
const REFUSALS: usize = 8;

impl Daemon {
    /// Lists, shows and changes partners. Allowing and blocking are what `edge domain` does.
    pub(super) async fn partner(
        &self,
        request: PartnerRequest,
        author: &Author,
    ) -> Result<Value, String> {
        match request {
            PartnerRequest::List { watch: true, .. } => Ok(Value::Array(self.watch_list().await)),
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
            PartnerRequest::Show { name, dns } => {
                let mut row = self.show_partner(&name)?;
                if dns {
                    row["dns"] = self.asked(&name).await;
                }
                Ok(self.with_what_it_did(row).await)
            }
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
            PartnerRequest::Reset { name } => self.reset_partner(&name),
            PartnerRequest::Forgive { domain, source } => self.forgive(domain, source).await,
        }
    }

    /// What DNS says of a domain's edges, or why none can be used. Null for who is found otherwise:
    /// who does not federate, XMPP, and providers by their own name.
    async fn asked(&self, name: &str) -> Value {
        let Ok(domain) = name.parse::<Domain>() else { return Value::Null };
        let partner = match self.policy().partner(&domain) {
            Ok(partner) if partner.kind != PartnerKind::Xmpp => partner,
            _ => return Value::Null,
        };
        match self.resolver.resolve(&partner.question(), partner.lookup()).await {
            Ok(found) => {
                let hosts = found.hosts.iter().map(|host| {
                    json!({ "host": host.host, "port": host.port, "addresses": host.addresses })
                });
                json!({ "hosts": hosts.collect::<Vec<_>>() })
            }
            Err(error) => json!({
                "fault": error.to_string(),
                "asked": match partner.question() {
                    Question::Federation(domain) => {
                        format!("_sipfederationtls._tcp.{domain} and _sips._tcp.{domain}")
                    }
                    _ => partner.pinned().map(Domain::to_string).unwrap_or_default(),
                },
            }),
        }
    }

    /// Adds what is known from watching: connections, messages, refusals, and the watch list.
    async fn with_what_it_did(&self, mut row: Value) -> Value {
        let (domains, keys) = names_of(&row);
        let (proved, traffic) = self.shell.with_core(|core, _, _| {
            let traffic: Vec<(Domain, Traffic)> = domains
                .iter()
                .filter_map(|domain| Some((domain.clone(), core.proxy.traffic(domain)?.clone())))
                .collect();
            (core.proxy.status(), traffic)
        });
        let connections = self.shell.connections();
        let live: Vec<Value> = proved
            .iter()
            .filter(|status| status.domains.iter().any(|domain| keys.contains(domain)))
            .filter_map(|status| {
                let info = connections.iter().find(|info| info.id == status.connection)?;
                Some(connection(info, &status.domains))
            })
            .take(MAX_SHOWN)
            .collect();
        let mut watch = Vec::new();
        for domain in &domains {
            watch.extend(self.watch_rows(Some(domain)).await);
        }
        row["connections"] = Value::Array(live);
        row["messages_in"] = json!(traffic.iter().map(|(_, t)| t.messages_in).sum::<u64>());
        row["messages_out"] = json!(traffic.iter().map(|(_, t)| t.messages_out).sum::<u64>());
        row["refused"] = json!(traffic.iter().map(|(_, t)| t.refused).sum::<u64>());
        row["refusals"] = Value::Array(last_refusals(&traffic));
        row["watch"] = Value::Array(watch);
        row
    }

    /// Begins anew with a partner: its connections or streams end, and what failed is forgotten.
    fn reset_partner(&self, name: &str) -> Result<Value, String> {
        let row = self.show_partner(name)?;
        if let Some(why) = row["why"].as_str() {
            return Err(format!("{name} is no partner: {why}"));
        }
        let (domains, keys) = names_of(&row);
        if row["kind"] == PartnerKind::Xmpp.name() {
            let (streams, failures) = self.reset_xmpp(&domains);
            return Ok(json!({"kind": row["kind"], "streams": streams, "failures": failures}));
        }
        let (connections, targets) =
            self.shell.with_core(|core, now, out| core.proxy.reset(now, &keys, out));
        Ok(json!({"kind": row["kind"], "connections": connections, "targets": targets}))
    }

    /// The policy in force.
    fn policy(&self) -> Arc<Policy> {
        self.shell.with_core(|core, _, _| core.proxy.policy())
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
        rows.extend(self.xmpp_partners());
        rows
    }

    /// Everything about the partner of this name, or about what would become of this domain.
    fn show_partner(&self, name: &str) -> Result<Value, String> {
        if let Some(mut row) = self.partners().into_iter().find(|row| row["name"] == name) {
            if row["kind"] == PartnerKind::Xmpp.name() {
                self.add_xmpp(&mut row);
                return Ok(row);
            }
            let key = row["host"].as_str().filter(|_| row["kind"] != "allowed-server");
            if let Ok(key) = key.unwrap_or(name).parse() {
                self.add_targets(&key, &mut row);
                if row["kind"] == PartnerKind::AllowedDomain.name() {
                    self.add_carrier(&key, &mut row);
                }
            }
            return Ok(row);
        }
        let domain: Domain =
            name.parse().map_err(|_| format!("{name} is neither a partner nor a domain"))?;
        match self.policy().partner(&domain) {
            Ok(partner) if partner.kind == PartnerKind::Xmpp => {
                // A further domain of one that has another name.
                self.show_partner(&partner.name)
            }
            Ok(partner) => {
                let mut row = row(&partner, true, "policy", std::slice::from_ref(&domain));
                self.add_targets(partner.key(), &mut row);
                Ok(row)
            }
            Err(reason) => Ok(refused(&domain, reason)),
        }
    }

    /// The provider that carries a domain: what a connection proves is the provider's host.
    fn add_carrier(&self, domain: &Domain, row: &mut Value) {
        let carrier = self.shell.with_core(|core, now, _| core.proxy.carrier(now, domain));
        if let Some(carrier) = carrier {
            row["carried_by"] = json!({
                "name": carrier.name, "kind": carrier.kind.name(), "host": carrier.key(),
            });
        }
    }
}

/// A row's domains, and what its connections prove: the domain, or the host of the provider
/// that it is or that carries it.
fn names_of(row: &Value) -> (Vec<Domain>, Vec<Domain>) {
    let named = |value: &Value| value.as_str().and_then(|text| text.parse::<Domain>().ok());
    let domains: Vec<Domain> =
        row["domains"].as_array().into_iter().flatten().filter_map(named).collect();
    let carrier = named(&row["carried_by"]["host"]);
    let keys = domains.iter().cloned().chain(named(&row["host"])).chain(carrier).collect();
    (domains, keys)
}

/// A live connection: what it proved, and how long its certificate is good.
fn connection(info: &ConnectionInfo, proved: &[Domain]) -> Value {
    let names = &info.peer.names;
    let since = info.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({
        "remote": info.peer.remote,
        "transport": info.peer.transport,
        "outbound": info.outbound,
        "since": since.as_secs(),
        "proved": proved,
        "certificate": names.description,
        "expires_at": names.expires_at,
        "bytes_in": info.bytes_in,
        "bytes_out": info.bytes_out,
    })
}

/// The last refusals of all these domains, the newest last.
fn last_refusals(traffic: &[(Domain, Traffic)]) -> Vec<Value> {
    let all = traffic.iter().flat_map(|(domain, t)| t.refusals.iter().map(move |r| (domain, r)));
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|(_, refusal)| refusal.at);
    let last = all.split_off(all.len().saturating_sub(REFUSALS));
    let one = |(domain, refusal): (&Domain, &RefusalSeen)| {
        json!({
            "at": refusal.at,
            "domain": domain,
            "reason": refusal.reason.name(),
            "remote": refusal.remote,
            "detail": refusal.detail,
        })
    };
    last.into_iter().map(one).collect()
}

fn row(partner: &Partner, enabled: bool, origin: &str, domains: &[Domain]) -> Value {
    json!({
        "name": partner.name,
        "kind": partner.kind.name(),
        "domains": domains,
        "host": partner.pinned(),
        "verification": partner.verification().name(),
        "modalities": partner.options.modalities,
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
