//! What the daemon knows of one address, for `edge explain address`.

use std::{net::IpAddr, time::SystemTime};

use serde_json::{Value, json};

use super::Daemon;
use crate::{
    admin::protocol::DropFilter,
    state::{self, DomainRecord},
};

impl Daemon {
    /// Blocks with their owners, domains, live connections, remote users and remembered drops.
    pub(super) async fn about(&self, address: IpAddr) -> Result<Value, String> {
        let blocks = self.firewall.blocks().await.map_err(|error| error.to_string())?;
        let blocks: Vec<_> =
            blocks.into_iter().filter(|row| row.prefix.contains(&address)).collect();
        let mut record = state::about(&self.config(), &self.store(), SystemTime::now(), address);
        for domain in self.blocks.partners_at(address).await {
            if record.partners.iter().all(|known| known.domain != domain) {
                record.partners.push(DomainRecord { domain, why: state::BY_DNS.to_owned() });
            }
        }
        let reports = self.blocks.report().await;
        let not_blocked: Vec<Value> = reports
            .iter()
            .flat_map(|report| report.refused.iter().map(move |refused| (report, refused)))
            .filter(|(_, refused)| refused.address == address)
            .map(|(report, refused)| {
                json!({ "domain": report.domain.domain, "why": refused.why.to_string() })
            })
            .collect();
        let connections = self.shell.connections();
        let connections: Vec<Value> = connections
            .iter()
            .filter(|connection| connection.peer.remote.ip() == address)
            .map(|connection| {
                let names = &connection.peer.names;
                let proved: Vec<_> = names.sip_uris.iter().chain(&names.dns).collect();
                json!({ "remote": connection.peer.remote, "names": proved })
            })
            .collect();
        let (ban, users) = self.shell.with_core(|core, now, _| {
            let of_here = |remote: IpAddr| remote.to_canonical() == address;
            let all = core.proxy.status().into_iter();
            let users = all.filter(|status| of_here(status.remote.ip())).flat_map(|s| s.users);
            (core.proxy.ban_of(now, address), users.collect::<Vec<_>>())
        });
        let ban = ban.map(|ban| {
            json!({ "source": ban.source, "seconds_left": ban.left.as_secs(), "times": ban.times })
        });
        let filter = DropFilter { reason: None, source: Some(address.into()) };
        Ok(json!({
            "blocks": blocks,
            "record": record,
            "not_blocked": not_blocked,
            "connections": connections,
            "ban": ban,
            "users": users,
            "drops": self.drops.recent(&filter),
        }))
    }
}
