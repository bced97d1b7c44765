//! What the daemon answers about remote users: who is there, and who is shut out.

use serde_json::{Value, json};

use super::Daemon;
use crate::{admin::protocol::RemoteRequest, federation::Ban, proxy::Side};

impl Daemon {
    /// Lists remote users and bans, and ends bans.
    pub(super) fn remote(&self, request: RemoteRequest) -> Result<Value, String> {
        match request {
            RemoteRequest::List => {
                let all = self.shell.with_core(|core, now, _| {
                    core.proxy.tidy_users(now);
                    core.proxy.status()
                });
                let remote = all.into_iter().filter(|connection| connection.side == Side::Remote);
                Ok(remote
                    .map(|connection| {
                        json!({
                            "connection": connection.connection.0,
                            "remote": connection.remote,
                            "users": connection.users,
                        })
                    })
                    .collect())
            }
            RemoteRequest::Numbers => Ok(self.remote_numbers()),
            RemoteRequest::Bans => {
                let bans = self.shell.with_core(|core, now, _| core.proxy.bans(now));
                Ok(bans.iter().map(row).collect())
            }
            RemoteRequest::Forgive { prefix } => {
                let ended = self.shell.with_core(|core, now, _| {
                    let ended = core.proxy.forgive_source(now, &prefix);
                    core.tell_guessers(now);
                    ended
                });
                self.watching.ring();
                Ok(json!({"prefix": prefix, "bans_ended": ended}))
            }
            RemoteRequest::ForgiveUser { name, domain } => {
                let known =
                    self.shell.with_core(|core, _, _| core.proxy.forgive_user(&name, &domain));
                Ok(json!({"user": format!("{name}@{domain}"), "failures_forgotten": known}))
            }
        }
    }

    /// For `edge status` and `edge top`.
    pub(super) fn remote_numbers(&self) -> Value {
        let (counters, bans, slowed) = self.shell.with_core(|core, now, _| {
            core.proxy.tidy_users(now);
            let (bans, slowed) = (core.proxy.bans(now).len(), core.proxy.slowed_users(now));
            (core.proxy.counters(), bans, slowed)
        });
        json!({
            "connections": counters.remote_connections,
            "registered": counters.registered,
            "bans": bans,
            "slowed_users": slowed,
        })
    }
}

fn row(ban: &Ban) -> Value {
    json!({
        "source": ban.source,
        "seconds_left": ban.left.as_secs(),
        "times": ban.times,
        "failures": ban.failures,
    })
}
