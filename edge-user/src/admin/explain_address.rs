//! `edge explain address`: everything that concerns an address, from the pins, the file, the
//! store, and the daemon when it runs.

use std::{net::IpAddr, path::Path, time::SystemTime};

use serde_json::{Value, json};

use super::{
    blocks::owner_text,
    client::{self, ClientError},
    commands::{CommandError, Report},
    drops,
    protocol::{DropLine, Request},
};
use crate::{
    config::{self, Paths, places},
    firewall::explain::{self, AddressFacts},
    state::{self, AddressRecord, Store},
};

/// `edge explain address`.
pub(super) fn address(paths: &Paths, file: &Path, address: IpAddr) -> Result<Report, CommandError> {
    let address = address.to_canonical();
    let facts = explain::address(&paths.pins, &paths.state, address)?;
    let daemon = match client::ask(&paths.run, &Request::About { address }) {
        Ok(value) => Some(value),
        Err(ClientError::NotRunning { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let mut notes = Vec::new();
    let record = match &daemon {
        Some(daemon) => serde_json::from_value(daemon["record"].clone()).unwrap_or_default(),
        None => {
            notes.push("the daemon is not running: live connections, remembered drops and members of lists are not known".to_owned());
            offline(paths, file, address, &mut notes)
        }
    };
    let mut text = headline(&facts);
    text.push_str(&blocks_text(&facts, &record, daemon.as_ref(), file));
    for partner in &record.partners {
        text.push_str(&format!("partner   {}: {}\n", partner.domain, partner.why));
    }
    for domain in &record.blocked_domains {
        text.push_str(&format!("domain    {} is blocked: {}\n", domain.domain, domain.why));
    }
    text.push_str(&rules_text(&facts));
    let list = |name: &str| -> Vec<Value> {
        daemon.as_ref().and_then(|d| d[name].as_array()).cloned().unwrap_or_default()
    };
    for refused in list("not_blocked") {
        let (domain, why) = (&refused["domain"], &refused["why"]);
        text.push_str(&format!(
            "shared    of {domain}, which is blocked, but not dropped: {why}\n"
        ));
    }
    for connection in list("connections") {
        text.push_str(&format!("live      {} {}\n", connection["remote"], connection["names"]));
    }
    let seen: Vec<DropLine> = daemon
        .as_ref()
        .and_then(|daemon| serde_json::from_value(daemon["drops"].clone()).ok())
        .unwrap_or_default();
    for line in seen.iter().rev().take(10) {
        if let DropLine::Drop(dropped) = line {
            text.push_str(&format!("dropped   {}", drops::line(dropped)));
        }
    }
    let syn = syn(paths, address);
    match &syn {
        Ok(found) => text.push_str(&format!(
            "a SYN     to {} port {}: {}, {}: {}\n",
            found["packet"]["destination"].as_str().unwrap_or("?"),
            found["packet"]["destination_port"],
            found["verdict"].as_str().unwrap_or("?"),
            found["reason"].as_str().unwrap_or("?"),
            found["meaning"].as_str().unwrap_or("?")
        )),
        Err(why) => text.push_str(&format!("a SYN     cannot be tried: {why}\n")),
    }
    for note in &notes {
        text.push_str(&format!("note      {note}\n"));
    }
    let json = json!({
        "facts": facts, "record": record, "daemon": daemon, "notes": notes,
        "syn": syn.as_ref().ok(), "syn_fault": syn.as_ref().err(),
    });
    Ok(Report::new(text, json))
}

/// Without the daemon: the file and the store as they are on disk.
fn offline(paths: &Paths, file: &Path, address: IpAddr, notes: &mut Vec<String>) -> AddressRecord {
    let Some(config) = config::check(file).config else {
        notes.push(format!("{}: not valid, so nothing is known of it", file.display()));
        return AddressRecord::default();
    };
    let (store, faults) = Store::peek(&paths.state);
    notes.extend(faults);
    state::about(&config, &store, SystemTime::now(), address)
}

fn headline(facts: &AddressFacts) -> String {
    let mut text = format!("{}\n", facts.address);
    for (holds, word) in [
        (facts.ours, "ours      it is one of our addresses"),
        (facts.management, "manages   it is inside the management prefixes: no block touches it"),
        (facts.partner, "partner   it is in the live set of partners"),
    ] {
        if holds {
            text.push_str(&format!("{word}\n"));
        }
    }
    text
}

/// Blocks with their owners: the daemon's knowledge, else what file and store say.
fn blocks_text(
    facts: &AddressFacts,
    record: &AddressRecord,
    daemon: Option<&Value>,
    file: &Path,
) -> String {
    let mut text = String::new();
    for block in &facts.blocks {
        text.push_str(&format!("block     {}: {}\n", block.prefix, block.words));
        let rows = daemon.iter().flat_map(|d| d["blocks"].as_array()).flatten();
        for hold in rows
            .filter(|row| row["prefix"] == block.prefix.to_string())
            .flat_map(|row| row["holds"].as_array().into_iter().flatten())
        {
            let comment = hold["comment"].as_str().map_or(String::new(), |c| format!(" ({c})"));
            text.push_str(&format!("  held by {}{comment}\n", owner_text(&hold["owner"])));
        }
    }
    if facts.blocks.is_empty() {
        text.push_str("block     none\n");
    }
    for (prefix, block) in &record.administrator {
        let comment = block.comment.as_ref().map_or(String::new(), |c| format!(" ({c})"));
        text.push_str(&format!("  {prefix} by an administrator: {}{comment}\n", block.author.by));
    }
    for prefix in &record.file {
        let line = places::line_of_block(file, *prefix);
        let line = line.map_or(String::new(), |line| format!(" line {line}"));
        text.push_str(&format!("  {prefix} by [[firewall.block]] in {}{line}\n", file.display()));
    }
    text
}

fn rules_text(facts: &AddressFacts) -> String {
    let mut text = format!("sets      {}\n", facts.sets);
    for rule in &facts.rules {
        text.push_str(&format!(
            "rule      {} ({} {} in the {} zone), made by {}\n",
            rule.name,
            rule.protocol,
            rule.ports_text(),
            format!("{:?}", rule.zone).to_lowercase(),
            rule.made_by()
        ));
    }
    for rule in &facts.known_under {
        text.push_str(&format!(
            "known     has proved who it is under {rule}: a bucket of its own\n"
        ));
    }
    text
}

/// What the live program does with a SYN to the access service from this address.
fn syn(paths: &Paths, address: IpAddr) -> Result<Value, String> {
    let (device, spec) = explain::syn_to_access(&paths.state, address)
        .ok_or("the rules in force have no access service in its family")?;
    let frame = explain::frame(&spec, &device).map_err(|fault| fault.to_string())?;
    let found = explain::packet(&paths.pins, &paths.state, &device, &frame);
    found.map(|found| json!(found)).map_err(|fault| fault.to_string())
}
