//! `edge explain address`: everything that concerns an address, from the pins, the file, the
//! store, and the daemon when it runs.

use std::{
    cell::OnceCell,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use ipnet::IpNet;
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
    firewall::{
        explain::{self, AddressFacts},
        lists::{List, ListAbout, read_all},
    },
    state::{self, AddressRecord, Store},
};

/// `edge explain address`.
pub(super) fn address(paths: &Paths, file: &Path, address: IpAddr) -> Result<Report, CommandError> {
    let address = address.to_canonical();
    let facts = explain::address(&paths.pins, &paths.state, address)?;
    let known = known(paths, file, address)?;
    let mut text = headline(&facts);
    text.push_str(&blocks_text(&facts, &known, file));
    text.push_str(&known.domains(file));
    let lists = facts.blocks.iter().flat_map(|block| {
        let row = |list: &ListAbout| {
            json!({"list": list.name, "prefix": block.prefix, "comment": list.comment,
                   "by": list.by})
        };
        known.lists_of(block.prefix).map(row).collect::<Vec<_>>()
    });
    let lists: Vec<Value> = lists.collect();
    let Known { daemon, record, notes, .. } = known;
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
    text.push_str(&daemon.as_ref().map(users_text).unwrap_or_default());
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
        "facts": facts, "record": record, "daemon": daemon, "lists": lists, "notes": notes,
        "syn": syn.as_ref().ok(), "syn_fault": syn.as_ref().err(),
    });
    Ok(Report::new(text, json))
}

/// What is known of an address beside the kernel's tables.
pub(super) struct Known {
    /// What the daemon says, when it runs.
    pub daemon: Option<Value>,
    /// What the file and the store say.
    pub record: AddressRecord,
    /// What could not be found out, and why.
    pub notes: Vec<String>,
    /// Where lists of blocks are kept; they are read when a block is asked about.
    state: PathBuf,
    lists: OnceCell<Vec<Arc<List>>>,
}

/// Asks the daemon, or reads the file and the store when it does not run.
pub(super) fn known(paths: &Paths, file: &Path, address: IpAddr) -> Result<Known, CommandError> {
    let mut notes = Vec::new();
    match client::ask(&paths.run, &Request::About { address }) {
        Ok(daemon) => {
            let record = serde_json::from_value(daemon["record"].clone()).unwrap_or_default();
            Ok(Known::new(paths, Some(daemon), record, notes))
        }
        Err(ClientError::NotRunning { .. }) => {
            notes.push(
                "the daemon is not running: live connections and remembered drops are not known"
                    .to_owned(),
            );
            let record = offline(paths, file, address, &mut notes);
            Ok(Known::new(paths, None, record, notes))
        }
        Err(error) => Err(error.into()),
    }
}

impl Known {
    fn new(
        paths: &Paths,
        daemon: Option<Value>,
        record: AddressRecord,
        notes: Vec<String>,
    ) -> Self {
        let (state, lists) = (paths.state.clone(), OnceCell::new());
        Self { daemon, record, notes, state, lists }
    }

    /// The lists that this block is of, and who brought them.
    fn lists_of(&self, prefix: IpNet) -> impl Iterator<Item = &ListAbout> {
        let all = self.lists.get_or_init(|| read_all(&self.state, SystemTime::now()).0);
        all.iter().filter(move |list| list.content.has(&prefix)).map(|list| &list.about)
    }

    /// Who holds a block, a line each: the daemon's knowledge, and the lists that are kept.
    pub fn holders(&self, prefix: IpNet) -> String {
        let rows = self.daemon.iter().flat_map(|d| d["blocks"].as_array()).flatten();
        let holds = rows
            .filter(|row| row["prefix"] == prefix.to_string())
            .flat_map(|row| row["holds"].as_array().into_iter().flatten());
        let line = |hold: &Value| {
            let comment = hold["comment"].as_str().map_or(String::new(), |c| format!(" ({c})"));
            format!("  held by {}{comment}\n", owner_text(&hold["owner"]))
        };
        let of_list = |list: &ListAbout| {
            let comment = list.comment.as_ref().map_or(String::new(), |c| format!(" ({c})"));
            format!("  held by list {}{comment}, imported by {}\n", list.name, list.by)
        };
        holds.map(line).chain(self.lists_of(prefix).map(of_list)).collect()
    }

    /// What made the blocks: administrators, and lines of the file.
    pub fn makers(&self, file: &Path) -> String {
        let mut text = String::new();
        for (prefix, block) in &self.record.administrator {
            let comment = block.comment.as_ref().map_or(String::new(), |c| format!(" ({c})"));
            text.push_str(&format!(
                "  {prefix} by an administrator: {}{comment}\n",
                block.author.by
            ));
        }
        for prefix in &self.record.file {
            let line = line_text(places::line_of_block(file, *prefix));
            text.push_str(&format!(
                "  {prefix} by [[firewall.block]] in {}{line}\n",
                file.display()
            ));
        }
        text
    }

    /// The domains behind the address.
    pub fn domains(&self, file: &Path) -> String {
        let mut text = String::new();
        for partner in &self.record.partners {
            text.push_str(&format!("partner   {}: {}\n", partner.domain, partner.why));
        }
        for domain in &self.record.blocked_domains {
            let name = domain.domain.as_str();
            let by = match places::line_of_domain(file, "blocked_domain", name) {
                Some(line) => {
                    format!("[[federation.blocked_domain]] in {} line {line}", file.display())
                }
                None => "not by the file: see `edge domain list`".to_owned(),
            };
            text.push_str(&format!("domain    {name} is blocked: {} ({by})\n", domain.why));
        }
        text
    }
}

/// ` line 12`, or nothing.
fn line_text(line: Option<usize>) -> String {
    line.map_or(String::new(), |line| format!(" line {line}"))
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

/// Remote users there, and the ban of whoever guesses passwords from there.
fn users_text(daemon: &Value) -> String {
    let mut text = String::new();
    if let Some(ban) = daemon["ban"].as_object() {
        text.push_str(&format!(
            "ban       wrong passwords came from {}: for {} s no new connection of remote users from \
             there is served; who is registered goes on (`edge remote forgive` ends it)\n",
            ban["source"].as_str().unwrap_or("?"),
            ban["seconds_left"]
        ));
    }
    let users: Vec<&str> =
        daemon["users"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !users.is_empty() {
        text.push_str(&format!("users     registered from there: {}\n", users.join(", ")));
    }
    text
}

/// Blocks with their owners: the daemon's knowledge, else what file and store say.
fn blocks_text(facts: &AddressFacts, known: &Known, file: &Path) -> String {
    let mut text = String::new();
    for block in &facts.blocks {
        text.push_str(&format!("block     {}: {}\n", block.prefix, block.words));
        text.push_str(&known.holders(block.prefix));
    }
    if facts.blocks.is_empty() {
        text.push_str("block     none\n");
    }
    text + &known.makers(file)
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
