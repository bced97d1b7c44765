//! `edge remote`.

use clap::Subcommand;
use ipnet::IpNet;
use serde_json::Value;

use super::{
    cli, client,
    commands::{CommandError, Outcome, Report, string},
    protocol::{RemoteRequest, Request},
    table::Table,
};
use crate::{config::Paths, domain::Domain};

/// `edge remote`.
#[derive(Clone, Debug, Subcommand)]
pub enum RemoteCommand {
    /// Connections of remote users, and who is registered on each
    List,
    /// Addresses that are shut out for wrong passwords
    Bans,
    /// Let an address or prefix in again, or slow a user down no more
    Forgive {
        /// Address, prefix, or user (ann@contoso.example)
        #[arg(value_name = "ADDRESS|PREFIX|USER", value_parser = forgiven)]
        whom: Forgiven,
    },
}

/// Who is forgiven.
#[derive(Clone, Debug)]
pub enum Forgiven {
    /// Whoever is there.
    Prefix(IpNet),
    /// A user, wherever.
    User(String, Domain),
}

fn forgiven(text: &str) -> Result<Forgiven, String> {
    match text.rsplit_once('@') {
        None => cli::parse_prefix(text).map(Forgiven::Prefix),
        Some((name, domain)) => {
            let domain = domain.parse().map_err(|error| format!("{error}"))?;
            Ok(Forgiven::User(name.to_owned(), domain))
        }
    }
}

/// How many remote users there are, for people; `None`: there is nothing to say.
pub(super) fn summary(numbers: &Value) -> Option<String> {
    let number = |name: &str| numbers[name].as_u64().unwrap_or(0);
    let all = ["connections", "registered", "bans", "slowed_users"].map(number);
    let [connections, registered, bans, slowed] = all;
    all.iter().any(|number| *number > 0).then(|| {
        format!(
            "{connections} connections, {registered} registered, {bans} banned, {slowed} users \
             slowed down"
        )
    })
}

/// `edge remote …`.
pub fn remote(paths: &Paths, command: &RemoteCommand) -> Outcome {
    let request = match command.clone() {
        RemoteCommand::List => RemoteRequest::List,
        RemoteCommand::Bans => RemoteRequest::Bans,
        RemoteCommand::Forgive { whom: Forgiven::Prefix(prefix) } => {
            RemoteRequest::Forgive { prefix }
        }
        RemoteCommand::Forgive { whom: Forgiven::User(name, domain) } => {
            RemoteRequest::ForgiveUser { name, domain }
        }
    };
    let json = client::ask(&paths.run, &Request::Remote(request))?;
    let rows = || json.as_array().ok_or(CommandError::Form);
    let text = match command {
        RemoteCommand::List => {
            let mut table = Table::new(&["peer", "registered"]);
            for row in rows()? {
                let users = row["users"].as_array().into_iter().flatten().map(string);
                table.row([string(&row["remote"]), users.collect::<Vec<_>>().join(" ")]);
            }
            table.render()
        }
        RemoteCommand::Bans => {
            let mut table = Table::new(&["source", "seconds left", "times", "failures"]);
            for row in rows()? {
                let cells = ["source", "seconds_left", "times", "failures"];
                table.row(cells.map(|name| string(&row[name])));
            }
            table.render()
        }
        RemoteCommand::Forgive { whom: Forgiven::Prefix(prefix) } => {
            let ended = json["bans_ended"].as_u64().unwrap_or(0);
            format!("{prefix} is forgiven: {ended} bans ended\n")
        }
        RemoteCommand::Forgive { whom: Forgiven::User(name, domain) } => {
            format!("{name}@{domain} is forgiven\n")
        }
    };
    Ok(Report::new(text, json))
}
