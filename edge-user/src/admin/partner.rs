//! `edge partner`.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use ipnet::IpNet;
use serde_json::Value;

use super::{
    cli, client,
    commands::{CommandError, Outcome, Report, block_text, string},
    partner_text,
    protocol::{PartnerRequest, Request},
    table::Table,
    targets::targets_text,
    xmpp_text,
};
use crate::{
    config::{Paths, Verification},
    domain::Domain,
    media::policy::Modality,
};

/// `edge partner`.
#[derive(Clone, Debug, Subcommand)]
pub enum PartnerCommand {
    /// Partners in force
    List {
        /// Of this kind only
        #[arg(long)]
        kind: Option<String>,
        /// Those on the watch list only
        #[arg(long)]
        watch: bool,
    },
    /// Everything about one
    Show {
        /// Domain, or provider's name
        name: String,
    },
    /// Allow a domain, and forget what was held against it
    Allow {
        /// The domain
        name: Domain,
        /// The one host that speaks for it; without it DNS SRV says
        #[arg(long, value_name = "FQDN")]
        server: Option<Domain>,
        /// always-verifiable, always-unverifiable or use-source
        #[arg(long)]
        verification: Option<Verification>,
    },
    /// Block a domain
    Block {
        /// The domain
        name: Domain,
        /// Names below it too
        #[arg(long)]
        subdomains: bool,
    },
    /// Begin anew with one: its connections and streams end, and what failed is tried again at once
    Reset {
        /// Domain, or provider's name
        name: String,
    },
    /// Take a partner from the watch list
    Forgive {
        /// The domain
        name: Domain,
        /// Only what came from here
        #[arg(long, value_name = "PREFIX", value_parser = cli::parse_prefix)]
        source: Option<IpNet>,
    },
}

/// `edge partner …`.
pub fn partner(paths: &Paths, command: &PartnerCommand) -> Outcome {
    let request = match command.clone() {
        PartnerCommand::List { kind, watch } => PartnerRequest::List { kind, watch },
        PartnerCommand::Show { name } => PartnerRequest::Show { name, dns: false },
        PartnerCommand::Allow { name, server, verification } => {
            PartnerRequest::Allow { domain: name, server, verification }
        }
        PartnerCommand::Block { name, subdomains } => {
            PartnerRequest::Block { domain: name, subdomains }
        }
        PartnerCommand::Reset { name } => PartnerRequest::Reset { name },
        PartnerCommand::Forgive { name, source } => {
            PartnerRequest::Forgive { domain: name, source }
        }
    };
    let json = client::ask(&paths.run, &Request::Partner(request))?;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = match command {
        PartnerCommand::List { watch: true, .. } => {
            partner_text::watch_table(json.as_array().ok_or(CommandError::Form)?, unix)
        }
        PartnerCommand::List { .. } => {
            partner_table(json.as_array().ok_or(CommandError::Form)?.iter())
        }
        PartnerCommand::Show { .. } => {
            let head = match json["why"].as_str() {
                Some(why) => {
                    format!("{}: {}; {why}\n", string(&json["name"]), string(&json["reason"]))
                }
                None => {
                    let row = (json["name"].as_str().unwrap_or_default(), &json);
                    partner_table(std::iter::once(&json)) + &targets_text(std::iter::once(row))
                }
            };
            let xmpp = xmpp_text::partner(&json, unix);
            head + &xmpp + &partner_text::what_it_did(&json, unix)
        }
        PartnerCommand::Allow { name, .. } => format!("{name} is allowed\n"),
        PartnerCommand::Block { name, .. } => block_text(name.as_str(), &json),
        PartnerCommand::Reset { name } => reset(name, &json),
        PartnerCommand::Forgive { name, .. } => forgiven(name, &json, unix),
    };
    Ok(Report::new(text, json))
}

fn reset(name: &str, json: &Value) -> String {
    let count = |what: &str| json[what].as_u64().unwrap_or(0);
    let (ended, failed) = match json["kind"] == "xmpp" {
        true => ("streams", "failures"),
        false => ("connections", "targets"),
    };
    format!(
        "{name}: {} {ended} ended, {} {} forgotten\n",
        count(ended),
        count(failed),
        if failed == "targets" { "dead targets" } else { failed },
    )
}

fn forgiven(name: &Domain, json: &Value, unix: u64) -> String {
    let listed = |row: &&Value| row["standing"] == "listed";
    let still: Vec<Value> =
        json["watch"].as_array().into_iter().flatten().filter(listed).cloned().collect();
    let text = match json["forgiven"].as_u64() {
        Some(0) | None => format!("nothing was held against {name}\n"),
        Some(_) => format!("{name} is forgiven\n"),
    };
    match still.is_empty() {
        true => text,
        false => {
            format!("{text}still on the watch list:\n{}", partner_text::watch_table(&still, unix))
        }
    }
}

/// What is not as usual: it is not in use, or not everything is allowed with it.
fn note(row: &Value) -> String {
    let mut notes = Vec::new();
    if row["enabled"] == false {
        notes.push("not in use".to_owned());
    }
    if let Some(modalities) = row["modalities"].as_array()
        && modalities.len() < Modality::ALL.len()
    {
        let names: Vec<String> = modalities.iter().map(string).collect();
        notes.push(format!("only {}", names.join(", ")));
    }
    if let Some(carrier) = row["carried_by"]["name"].as_str() {
        notes.push(format!("carried by {carrier}"));
    }
    notes.join("; ")
}

fn partner_table<'j>(rows: impl Iterator<Item = &'j Value>) -> String {
    let mut table =
        Table::new(&["name", "kind", "host", "verification", "from", "domains", "note"]);
    for row in rows {
        let domains = row["domains"].as_array().into_iter().flatten().map(string);
        table.row([
            string(&row["name"]),
            string(&row["kind"]),
            string(&row["host"]),
            string(&row["verification"]),
            string(&row["origin"]),
            domains.collect::<Vec<_>>().join(" "),
            note(row),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::media::policy::Modalities;

    #[test]
    fn a_reset_says_what_ended_and_what_is_forgotten() {
        let xmpp = json!({"kind": "xmpp", "streams": 2, "failures": 1});
        assert_eq!(reset("j.example", &xmpp), "j.example: 2 streams ended, 1 failures forgotten\n");
        let sip = json!({"kind": "allowed-domain", "connections": 1, "targets": 3});
        let text = "f.example: 1 connections ended, 3 dead targets forgotten\n";
        assert_eq!(reset("f.example", &sip), text);
    }

    #[test]
    fn the_note_says_what_is_not_as_usual() {
        for (row, expected) in [
            (json!({ "enabled": true, "modalities": Modalities::ALL }), ""),
            (json!({ "enabled": false, "modalities": null }), "not in use"),
            (json!({ "enabled": true, "modalities": ["im", "audio"] }), "only im, audio"),
            (json!({ "enabled": true, "carried_by": { "name": "cloud" } }), "carried by cloud"),
            (json!({ "enabled": false, "modalities": ["im"] }), "not in use; only im"),
        ] {
            assert_eq!(note(&row), expected);
        }
    }
}
