//! What the daemon does when it is asked through the control socket.

use std::{
    net::IpAddr,
    sync::PoisonError,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use super::Daemon;
use crate::{
    admin::{
        protocol::{Fault, ListImport, Request},
        server::{Caller, Handler, Lines},
    },
    config::{AllowedDomain, BlockedDomain},
    domain::Domain,
    firewall::{BlockOwner, BlockRequest, Intent, lists::Parsed},
    proxy::Refusal,
    state::{Author, Store, StoreError, effective, words},
    verdicts::DomainReport,
};

/// Connections that a status lists at most.
const LISTED_CONNECTIONS: usize = 1000;

impl Handler for Daemon {
    fn follow(&self, _caller: Caller, request: &Request) -> Option<Result<Lines, String>> {
        match request {
            Request::Drops { follow: true, filter } => Some(self.drops.follow(filter.clone())),
            _ => None,
        }
    }

    async fn handle(&self, caller: Caller, request: Request) -> Result<Value, Fault> {
        let author = Author::new(&caller.to_string(), SystemTime::now());
        let answer = match request {
            Request::Status => self.status().await,
            Request::Drain { on } => self.drain(on, &author).await,
            Request::Reload => {
                return self.reload(&author).await.map(|warnings| json!({"warnings": warnings}));
            }
            Request::Apply { file, confirm_seconds } => {
                return self.apply(file, confirm_seconds, &author).await;
            }
            Request::ApplyDryRun { file } => return self.dry_run(file).await,
            Request::ShadowStart { file, seconds } => {
                return self.shadow_start(file, seconds, &author).await;
            }
            Request::Rollback { version } => return self.rollback(version, &author).await,
            Request::ShadowStatus => Ok(self.shadow()),
            Request::ShadowStop => self.shadow_stop().await,
            Request::Confirm => self.confirm(&author).await,
            Request::VersionList => self.version_list(),
            Request::VersionShow { number } => self.version_show(number),
            Request::Drops { filter, .. } => Ok(json!(self.drops.recent(&filter))),
            Request::About { address } => self.about(address).await,
            Request::Partner(request) => self.partner(request, &author).await,
            Request::Remote(request) => self.remote(request),
            Request::Call(request) => self.call(request, &author).await,
            Request::DomainList => self.domains().await,
            Request::DomainAllow { domain, server, port, from_addresses } => {
                let entry = AllowedDomain {
                    proxy_fqdn: server,
                    port: port.unwrap_or(5061),
                    from_addresses,
                    ..AllowedDomain::new(domain)
                };
                self.change(|store, config| store.domain_allow(config, entry, &author)).await
            }
            Request::DomainBlock { domain, subdomains } => {
                self.block_domain(BlockedDomain { domain, subdomains }, &author).await
            }
            Request::DomainUnblock { domain } => {
                self.change(|store, config| store.domain_unblock(config, &domain, &author)).await
            }
            Request::DomainRemove { domain } => {
                self.change(|store, config| store.domain_remove(config, &domain, &author)).await
            }
            Request::BlockAdd { prefix, comment, seconds } => {
                self.block_address(prefix, comment, seconds, &author).await
            }
            Request::BlockRemove { prefix } => self.unblock_address(prefix).await,
            Request::ListImport(_) => Err("the list did not come along".to_owned()),
            Request::ListRemove { name } => self.remove_list(&name).await,
            Request::Lists => self.list_lists().await,
        };
        answer.map_err(Fault::from)
    }

    fn list_bound(&self) -> usize {
        self.most_list_entries()
    }

    async fn take_list(
        &self,
        caller: Caller,
        import: ListImport,
        list: Parsed,
    ) -> Result<Value, String> {
        self.import_list(caller, import, list).await
    }
}

impl Daemon {
    /// Makes a change in the store and puts it in force.
    pub(super) async fn change(
        &self,
        make: impl FnOnce(&mut Store, &crate::config::Config) -> Result<(), StoreError>,
    ) -> Result<Value, String> {
        let _one = self.change.lock().await;
        let config = self.config();
        let made = tokio::task::block_in_place(|| make(&mut self.store(), &config));
        refused(&made)?;
        let outcome = self.enforce().await?;
        made.map_err(|error| error.to_string())?;
        Ok(json!({ "took_microseconds": outcome.took.as_micros() as u64 }))
    }

    pub(super) async fn block_domain(
        &self,
        entry: BlockedDomain,
        author: &Author,
    ) -> Result<Value, String> {
        let _one = self.change.lock().await;
        let config = self.config();
        let domain = entry.domain.clone();
        let entry = self.store().widened(&config, entry);
        let subdomains = entry.subdomains;
        Store::may_block(&config, &entry).map_err(|error| error.to_string())?;
        let began = Instant::now();
        // The kernel first: a disk may take longer than an attacker needs.
        let mut federation = effective(&config, &self.store(), SystemTime::now()).federation;
        federation.blocked_domains.retain(|other| other.domain != domain);
        federation.allowed_domains.retain(|allowed| match entry.subdomains {
            true => !allowed.domain.is_within(&domain),
            false => allowed.domain != domain,
        });
        federation.blocked_domains.push(entry.clone());
        let enforced = self.enforce_domains(federation).await;
        let took = began.elapsed();
        let kept =
            tokio::task::block_in_place(|| self.store().domain_block(&config, entry, author));
        // What is kept is what holds: the same again, or what was before. A kernel that fails is
        // tried again; it is no reason to forget the block.
        let again = self.enforce().await;
        kept.map_err(|error| error.to_string())?;
        let outcome = enforced?;
        again?;
        // The kernel holds what is known; DNS may know more, and is given a moment.
        let report = self.blocks.resolved(&domain).await;
        let (addresses, notes) = report.map_or_else(Default::default, |r| summary(&r));
        Ok(json!({
            "domain": domain,
            "subdomains": subdomains,
            "addresses": addresses,
            "refused": notes,
            "connections_closed": outcome.connections_closed,
            "took_microseconds": took.as_micros() as u64,
        }))
    }

    async fn block_address(
        &self,
        prefix: ipnet::IpNet,
        comment: Option<String>,
        seconds: Option<u64>,
        author: &Author,
    ) -> Result<Value, String> {
        let _one = self.change.lock().await;
        Store::may_block_address(prefix).map_err(|error| error.to_string())?;
        let comment = comment.as_deref().map(words);
        let expires_at =
            seconds.and_then(|s| SystemTime::now().checked_add(Duration::from_secs(s)));
        let request = BlockRequest {
            prefix: prefix.trunc(),
            owner: BlockOwner::Administrator,
            comment: comment.clone(),
            expires_at,
        };
        // The kernel first: it refuses what would lock the administrator out.
        let applied = self
            .firewall
            .apply(vec![Intent::Block(request)])
            .await
            .map_err(|error| error.to_string())?;
        let kept = tokio::task::block_in_place(|| {
            self.store().block_add(prefix, comment.as_deref(), expires_at, author)
        });
        if let Err(error) = kept {
            if error.is_in_force() {
                return Err(error.to_string());
            }
            // What the store holds is what holds: the prefix may have been blocked before.
            let blocks = self.store().block_requests(SystemTime::now());
            let _ = self.enforce_blocks(blocks).await;
            return Err(error.to_string());
        }
        Ok(json!({"prefix": prefix, "took_microseconds": applied.took.as_micros() as u64}))
    }

    async fn unblock_address(&self, prefix: ipnet::IpNet) -> Result<Value, String> {
        let _one = self.change.lock().await;
        let config = self.config();
        let kept = tokio::task::block_in_place(|| self.store().block_remove(&config, prefix));
        refused(&kept)?;
        let owner = BlockOwner::Administrator;
        let applied = self
            .firewall
            .apply(vec![Intent::Unblock { prefix: prefix.trunc(), owner }])
            .await
            .map_err(|error| error.to_string())?;
        kept.map_err(|error| error.to_string())?;
        Ok(json!({"prefix": prefix, "took_microseconds": applied.took.as_micros() as u64}))
    }

    async fn status(&self) -> Result<Value, String> {
        let config = self.config();
        let differences: Vec<String> = effective(&config, &self.store(), SystemTime::now())
            .differences
            .iter()
            .map(ToString::to_string)
            .collect();
        let counters = self.shell.with_core(|core, _, _| core.proxy.counters());
        let counts = self.shell.counts();
        let mut refusals: serde_json::Map<String, Value> = counters
            .refusals()
            .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
            .collect();
        // What the shell refuses never reaches the core.
        for reason in [Refusal::NotListed, Refusal::NoCertificate] {
            let wanted = format!("closed.{}", reason.name());
            let shell = counts.iter().find(|(name, _)| *name == wanted);
            if let (Some((_, count)), Some(total)) = (shell, refusals.get_mut(reason.name())) {
                *total = json!(total.as_u64().unwrap_or(0) + count);
            }
        }
        for (reason, count) in self.xmpp_refusals() {
            refusals.insert(reason.to_owned(), json!(count));
        }
        let forwarded: Vec<Value> = counters
            .forwarded()
            .map(|(method, inbound, count)| {
                json!({"method": method, "inbound": inbound, "count": count})
            })
            .collect();
        let blocks = self.firewall.blocks().await.map_err(|error| error.to_string())?;
        let enforced = self.firewall.alarms().await.map_err(|error| error.to_string())?;
        let loaded = self.tls.loaded();
        let unkept = self.store().unkept().map(|why| {
            format!("what was changed at runtime would not hold after a restart: {why}")
        });
        let warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "fqdn": config.fqdn,
            "file": config.file,
            "configuration": self.configuration(),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "listening": self.shell.listening().iter().map(|listener| json!({
                "side": format!("{:?}", listener.side).to_lowercase(),
                "transport": listener.transport,
                "address": listener.address,
            })).collect::<Vec<_>>(),
            "connections": self.connections(),
            "next_hops": self.next_hops(),
            "drain": self.drain_state(),
            "remote": self.remote_numbers(),
            "xmpp": self.xmpp_state(),
            "media": self.media.as_ref().map(|media| media.numbers()),
            "transactions": counters.transactions,
            "refusals": refusals,
            "forwarded": forwarded,
            "counts": counts.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "certificate": {"access": loaded.access, "inside": loaded.inside,
                            "expires_at": loaded.expires_at},
            "blocks": blocks,
            "alarms": self.alarms.iter().cloned().chain(enforced).chain(unkept)
                .chain(self.endings()).collect::<Vec<_>>(),
            "differences": differences,
            "warnings": warnings,
        }))
    }

    fn connections(&self) -> Vec<Value> {
        let list = self.shell.connections();
        list.iter()
            .take(LISTED_CONNECTIONS)
            .map(|connection| {
                let names = &connection.peer.names;
                let since = connection.since.duration_since(SystemTime::UNIX_EPOCH);
                json!({
                    "id": connection.id.0,
                    "side": format!("{:?}", connection.peer.side).to_lowercase(),
                    "transport": connection.peer.transport,
                    "remote": connection.peer.remote,
                    "local": connection.peer.local,
                    "names": names.sip_uris.iter().chain(&names.dns).collect::<Vec<&Domain>>(),
                    "outbound": connection.outbound,
                    "since": since.unwrap_or_default().as_secs(),
                    "bytes_in": connection.bytes_in,
                    "bytes_out": connection.bytes_out,
                })
            })
            .collect()
    }

    /// Allowed and blocked domains: file and runtime, with what the kernel drops for each.
    async fn domains(&self) -> Result<Value, String> {
        let config = self.config();
        let now_in_force = effective(&config, &self.store(), SystemTime::now());
        let file = &config.federation;
        let mut rows = Vec::new();
        for entry in &now_in_force.federation.allowed_domains {
            let origin = if file.allowed_domains.contains(entry) { "file" } else { "runtime" };
            rows.push(json!({
                "domain": entry.domain, "state": "allowed", "server": entry.proxy_fqdn,
                "origin": origin, "addresses": [], "from_addresses": entry.from_addresses,
                "notes": [],
            }));
        }
        let reports = self.blocks.report().await;
        for entry in &now_in_force.federation.blocked_domains {
            let origin = if file.blocked_domains.contains(entry) { "file" } else { "runtime" };
            let report = reports.iter().find(|report| report.domain == *entry);
            let (addresses, notes) = report.map_or_else(Default::default, summary);
            rows.push(json!({
                "domain": entry.domain, "state": "blocked", "subdomains": entry.subdomains,
                "origin": origin, "addresses": addresses, "notes": notes,
            }));
        }
        for difference in &now_in_force.differences {
            let row = rows.iter_mut().find(|row| row["domain"] == difference.domain.as_str());
            match row.and_then(|row| row["notes"].as_array_mut()) {
                Some(notes) => notes.push(json!(difference.to_string())),
                None => rows.push(json!({
                    "domain": difference.domain, "state": "neither", "origin": "runtime",
                    "addresses": [], "notes": [difference.to_string()],
                })),
            }
        }
        Ok(Value::Array(rows))
    }
}

/// Ends a change that was not made; one that only was not kept goes on, and is told at its end.
fn refused(made: &Result<(), StoreError>) -> Result<(), String> {
    match made {
        Err(error) if !error.is_in_force() => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// A blocked domain's addresses, and what is to be said about those that are not dropped.
fn summary(report: &DomainReport) -> (Vec<IpAddr>, Vec<String>) {
    let refused = report.refused.iter().map(|r| format!("{}: {}", r.address, r.why));
    let error = report.dns_error.iter().map(|error| format!("DNS: {error}"));
    (report.blocked.clone(), refused.chain(error).collect())
}
