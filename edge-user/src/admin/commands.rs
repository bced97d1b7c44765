//! What each command does: asks the daemon or reads the pins, and gives a table and JSON.

use std::{path::Path, time::SystemTime};

use serde_json::{Value, json};

use super::{
    cli::{DomainCommand, MapCommand, RuleCommand, exit},
    client::{self, ClientError},
    protocol::Request,
    table::Table,
    targets::targets_text,
};
use crate::{
    config::{self, Config, ConfigErrors, Paths},
    firewall::{
        self, Attached, EgressHook, FirewallError, LoadSource, OwnerOptions,
        counters::{self, InterfaceCount, ServiceCount},
        inspect::{self, RuleCount},
    },
    plain::plain,
    state::{Store, VersionError, effective},
    verdicts::Setting,
};

/// A command's outcome: for people and for machines.
#[derive(Debug)]
pub struct Report {
    /// For people; ends in a newline unless empty.
    pub text: String,
    /// For machines.
    pub json: Value,
    /// Exit code.
    pub code: u8,
}

impl Report {
    /// Done, with this to say.
    pub(super) fn new(text: String, json: Value) -> Self {
        Self { text, json, code: exit::OK }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The daemon did not answer, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The firewall's pins could not be read or changed.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The command line does not say enough, or names what is not there.
    #[error("{0}")]
    Arguments(String),
    /// A configuration is wrong; nothing was changed.
    #[error("{0}")]
    Configuration(ConfigErrors),
    /// A version of the configuration cannot be had.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A file could not be read.
    #[error("{what}: {error}")]
    File {
        /// Which.
        what: String,
        /// Why.
        error: String,
    },
    /// The answer is not of the form this version knows.
    #[error("the daemon's answer has an unknown form; are `edge` and the daemon the same version?")]
    Form,
}

impl CommandError {
    /// The exit code that tells of it.
    pub fn code(&self) -> u8 {
        match self {
            Self::Client(ClientError::NotRunning { .. }) => exit::NOT_RUNNING,
            Self::Client(ClientError::Configuration(_)) | Self::Configuration(_) => {
                exit::BAD_CONFIGURATION
            }
            Self::Arguments(_) => exit::BAD_CONFIGURATION,
            _ => exit::FAILED,
        }
    }
}

pub(super) type Outcome = Result<Report, CommandError>;

/// `edge status`: the daemon's own words when it runs, the firewall's counters in any case.
pub fn status(paths: &Paths) -> Outcome {
    let daemon = match client::ask(&paths.run, &Request::Status) {
        Ok(value) => Some(value),
        Err(ClientError::NotRunning { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let firewall = match inspect::status(&paths.pins) {
        Ok(status) => Some(status),
        Err(FirewallError::NotLoaded { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let (mut reasons, mut interfaces, mut services) = (Vec::new(), Vec::new(), Vec::new());
    if firewall.is_some() {
        reasons = inspect::reasons(&paths.pins)?;
        interfaces = counters::interfaces(&paths.pins)?;
        services = counters::services(&inspect::rules(&paths.pins, &paths.state)?);
    }
    let mut text = String::new();
    text.push_str(&daemon_text(daemon.as_ref()));
    match &firewall {
        None => text.push_str("firewall  not loaded: nothing is enforced\n"),
        Some(status) => {
            let mode = if status.monitor {
                "monitor only: drops are counted, not done"
            } else {
                "enforcing"
            };
            text.push_str(&format!(
                "firewall  {mode}, {} passed, {} dropped\n",
                status.passed, status.dropped
            ));
            for device in &status.attached {
                text.push_str(&format!("          {}\n", attached_text(device)));
            }
        }
    }
    let mut table = Table::new(&["reason", "verdict", "packets", "bytes", "meaning"]);
    for row in reasons.iter().filter(|row| row.packets > 0) {
        table.row([
            row.name.to_owned(),
            row.verdict.to_owned(),
            row.packets.to_string(),
            row.bytes.to_string(),
            row.explain.to_owned(),
        ]);
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render());
    }
    text.push_str(&counter_tables(&interfaces, &services));
    let hops = daemon.iter().flat_map(|d| d["next_hops"].as_array().into_iter().flatten());
    text.push_str(&targets_text(
        hops.map(|hop| (hop["next_hop"].as_str().unwrap_or_default(), hop)),
    ));
    let mut json = daemon.clone().unwrap_or_else(|| json!({}));
    if let Some(object) = json.as_object_mut() {
        object.insert("ready".into(), json!(daemon.is_some()));
        object.entry("version").or_insert(json!(env!("CARGO_PKG_VERSION")));
        object.insert("firewall".into(), json!(firewall));
        let rows = reasons.iter().map(|row| {
            json!({"reason": row.name, "verdict": row.verdict, "packets": row.packets, "bytes": row.bytes})
        });
        object.insert("reasons".into(), rows.collect());
        object.insert("interfaces".into(), json!(interfaces));
        object.insert("services".into(), json!(services));
    }
    let code = if daemon.is_some() { exit::OK } else { exit::NOT_RUNNING };
    Ok(Report { text, json, code })
}

/// What each interface and each service has counted.
fn counter_tables(interfaces: &[InterfaceCount], services: &[ServiceCount]) -> String {
    let mut table = Table::new(&["interface", "zone", "passed", "dropped", "answered"]);
    for row in interfaces {
        let numbers = [row.passed, row.dropped, row.answered].map(|number| number.to_string());
        table.row([row.interface.clone(), row.zone.to_owned()].into_iter().chain(numbers));
    }
    let mut text = String::new();
    if !table.is_empty() {
        text.push_str(&format!("\n{}", table.render()));
    }
    let mut table = Table::new(&["service", "packets", "bytes", "rules"]);
    for row in services.iter().filter(|row| row.packets > 0) {
        let (packets, bytes) = (row.packets.to_string(), row.bytes.to_string());
        table.row([row.service.clone(), packets, bytes, row.rules.join(" ")]);
    }
    if !table.is_empty() {
        text.push_str(&format!("\n{}", table.render()));
    }
    text
}

fn daemon_text(daemon: Option<&Value>) -> String {
    let Some(daemon) = daemon else {
        return "daemon    not running; what is loaded stays in force\n".to_owned();
    };
    let mut text = format!(
        "daemon    {} version {}, up {} s\n",
        string(&daemon["fqdn"]),
        string(&daemon["version"]),
        daemon["uptime_seconds"]
    );
    let list = |name: &str| daemon[name].as_array().cloned().unwrap_or_default();
    for listener in list("listening") {
        text.push_str(&format!(
            "listens   {} {} ({})\n",
            string(&listener["transport"]),
            string(&listener["address"]),
            string(&listener["side"])
        ));
    }
    text.push_str(&super::drain::text(&daemon["drain"]));
    text.push_str(&super::apply::status_lines(&daemon["configuration"]));
    if let Some(remote) = super::remote::summary(&daemon["remote"]) {
        text.push_str(&format!("remote    {remote}\n"));
    }
    if let Some(xmpp) = super::xmpp_text::summary(&daemon["xmpp"]) {
        text.push_str(&format!("xmpp      {xmpp}\n"));
    }
    if let Some(media) = super::call_text::summary(&daemon["media"]) {
        text.push_str(&format!("media     {media}\n"));
    }
    for (word, name) in [("ALARM", "alarms"), ("differs", "differences"), ("warning", "warnings")] {
        for item in list(name) {
            text.push_str(&format!("{word:<9} {}\n", string(&item)));
        }
    }
    let mut table = Table::new(&["peer", "side", "transport", "names", "in", "out"]);
    for connection in list("connections") {
        let names = connection["names"].as_array().cloned().unwrap_or_default();
        table.row([
            string(&connection["remote"]),
            string(&connection["side"]),
            string(&connection["transport"]),
            names.iter().map(string).collect::<Vec<_>>().join(" "),
            connection["bytes_in"].to_string(),
            connection["bytes_out"].to_string(),
        ]);
    }
    if !table.is_empty() {
        text.push_str(&format!("\n{}\n", table.render()));
    }
    let mut table = Table::new(&["refused because", "count"]);
    for (name, count) in daemon["refusals"].as_object().into_iter().flatten() {
        if count.as_u64() != Some(0) {
            table.row([name.clone(), count.to_string()]);
        }
    }
    if !table.is_empty() {
        text.push_str(&format!("{}\n", table.render()));
    }
    text
}

/// A JSON value as people read it: what strangers wrote is plain.
pub(super) fn string(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// `edge reload`.
pub fn reload(paths: &Paths) -> Outcome {
    let json = client::ask(&paths.run, &Request::Reload)?;
    let mut text = "the configuration is in force\n".to_owned();
    for warning in json["warnings"].as_array().into_iter().flatten() {
        text.push_str(&format!("warning: {}\n", string(warning)));
    }
    Ok(Report::new(text, json))
}

/// `edge map …`.
pub fn map(paths: &Paths, command: &MapCommand) -> Outcome {
    match command {
        MapCommand::List => {
            let maps = inspect::maps(&paths.pins)?;
            let mut table = Table::new(&["map", "type", "entries", "room", "bytes", "pin"]);
            for map in &maps {
                table.row([
                    map.name.clone(),
                    map.kind.clone(),
                    map.entries.to_string(),
                    map.max_entries.to_string(),
                    map.bytes.to_string(),
                    map.path.display().to_string(),
                ]);
            }
            Ok(Report::new(table.render(), json!(maps)))
        }
        MapCommand::Dump { name } => {
            let rows = inspect::dump(&paths.pins, name)?;
            let mut text = String::new();
            for row in &rows {
                text.push_str(&fields(row));
                text.push('\n');
            }
            if rows.is_empty() {
                text.push_str("(empty)\n");
            }
            Ok(Report::new(text, json!(rows)))
        }
    }
}

/// `name=value` pairs of an object, in its order; nested objects are flattened.
fn fields(row: &Value) -> String {
    match row {
        Value::Object(object) => object
            .iter()
            .map(|(name, value)| match value {
                Value::Object(_) => fields(value),
                value => format!("{name}={}", string(value)),
            })
            .collect::<Vec<_>>()
            .join("  "),
        other => string(other),
    }
}

/// `edge rule …`.
pub fn rule(paths: &Paths, command: &RuleCommand) -> Outcome {
    let RuleCommand::List = command;
    let rules = inspect::rules(&paths.pins, &paths.state)?;
    let mut table = Table::new(&[
        "rule", "zone", "protocol", "ports", "to", "from", "action", "limits", "content",
        "made by", "packets", "bytes",
    ]);
    for RuleCount { rule, packets, bytes } in &rules {
        table.row([
            rule.name.clone(),
            format!("{:?}", rule.zone).to_lowercase(),
            rule.protocol.clone(),
            rule.ports_text(),
            rule.to_text(),
            rule.from_text(),
            rule.action.clone(),
            rule.limits_text(),
            rule.content.name().to_owned(),
            rule.made_by(),
            packets.to_string(),
            bytes.to_string(),
        ]);
    }
    Ok(Report::new(table.render(), json!(rules)))
}

/// `edge domain …`.
pub fn domain(paths: &Paths, command: &DomainCommand) -> Outcome {
    let request = match command.clone() {
        DomainCommand::List => Request::DomainList,
        DomainCommand::Allow { name, server, port, from_addresses } => {
            Request::DomainAllow { domain: name, server, port, from_addresses }
        }
        DomainCommand::Block { name, subdomains } => {
            Request::DomainBlock { domain: name, subdomains }
        }
        DomainCommand::Unblock { name } => Request::DomainUnblock { domain: name },
        DomainCommand::Remove { name } => Request::DomainRemove { domain: name },
    };
    let json = client::ask(&paths.run, &request)?;
    let text = match command {
        DomainCommand::List => domain_table(&json)?,
        DomainCommand::Block { name, .. } => block_text(name.as_str(), &json),
        DomainCommand::Allow { name, .. } => format!("{name} is allowed\n"),
        DomainCommand::Unblock { name } => format!("{name} is no longer blocked\n"),
        DomainCommand::Remove { name } => format!("{name} is no longer allowed\n"),
    };
    Ok(Report::new(text, json))
}

pub(super) fn block_text(name: &str, json: &Value) -> String {
    let addresses: Vec<_> =
        json["addresses"].as_array().into_iter().flatten().map(string).collect();
    let mut text = format!(
        "{name}{} is blocked; {} connections closed, in {} µs\n",
        if json["subdomains"] == true { " with its subdomains" } else { "" },
        json["connections_closed"],
        json["took_microseconds"]
    );
    if addresses.is_empty() {
        text.push_str("none of its addresses is known yet: it is refused by name\n");
    } else {
        text.push_str(&format!("dropped in the driver: {}\n", addresses.join(" ")));
    }
    for refused in json["refused"].as_array().into_iter().flatten() {
        text.push_str(&format!("not dropped: {}\n", string(refused)));
    }
    text
}

fn domain_table(json: &Value) -> Result<String, CommandError> {
    let mut table = Table::new(&["domain", "state", "server", "from", "addresses", "note"]);
    for row in json.as_array().ok_or(CommandError::Form)? {
        let list = |name: &str| {
            row[name].as_array().into_iter().flatten().map(string).collect::<Vec<_>>().join(" ")
        };
        table.row([
            string(&row["domain"]),
            string(&row["state"]),
            string(&row["server"]),
            string(&row["origin"]),
            [list("addresses"), list("from_addresses")].join(" ").trim().to_owned(),
            list("notes"),
        ]);
    }
    Ok(table.render())
}

/// `edge detach`.
pub fn detach(paths: &Paths, force: bool) -> Outcome {
    let report = firewall::detach(&paths.pins, force)?;
    let text = format!(
        "detached from {}; {} pins removed\n",
        if report.devices.is_empty() { "nothing".to_owned() } else { report.devices.join(" ") },
        report.pins
    );
    Ok(Report::new(text, json!(report)))
}

/// A device and how the programs sit on it. The usual way at egress is not worth a word.
fn attached_text(device: &Attached) -> String {
    let mode = format!("{:?}", device.mode).to_lowercase();
    let egress = match device.egress {
        EgressHook::Tcx => "",
        EgressHook::Clsact => ", egress by clsact",
    };
    format!("{} ({mode}{egress})", device.device)
}

/// `edge load`: with the configuration when it is good, else with what was last in force, else
/// nobody but administrators gets in.
pub fn load(paths: Paths, file: &Path, config: Option<Config>) -> Outcome {
    let (store, mut faults) = Store::peek(&paths.state);
    let now = SystemTime::now();
    let domain_blocks = config.as_ref().map(|config| {
        let federation = effective(config, &store, now).federation;
        let blocks = store.domain_blocks(&federation.blocked_domains);
        let setting = Setting::new(config, federation);
        blocks.into_iter().filter(|block| setting.may_block(block.prefix.addr())).collect()
    });
    let options = OwnerOptions {
        pins: paths.pins,
        state: paths.state,
        settle_after: std::time::Duration::ZERO,
        keep_unclaimed: true,
        debug_log: false,
        without_tcx: false,
        partners: None,
        blocks: Some(store.block_requests(now)),
        domain_blocks: domain_blocks.unwrap_or_default(),
    };
    let least = || config::least(file);
    let report = firewall::load_last_good(options, config.map(std::sync::Arc::new), least)?;
    faults.extend(report.faults.iter().chain(&report.start.faults).cloned());
    let mut text = match report.source {
        LoadSource::Config => "loaded from the configuration\n",
        LoadSource::LastGood => "loaded from what was last in force\n",
        LoadSource::Deny => {
            "ALARM: no good configuration, and no rules of before: nobody but administrators gets \
             in; correct it, and start the daemon\n"
        }
    }
    .to_owned();
    for device in &report.start.attached {
        text.push_str(&format!("attached to {}\n", attached_text(device)));
    }
    for device in &report.start.missing {
        text.push_str(&format!("{device} does not exist yet: load again when it does\n"));
    }
    for fault in &faults {
        text.push_str(&format!("ALARM: {fault}\n"));
    }
    for warning in &report.start.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    let whole = report.source != LoadSource::Deny && report.start.faults.is_empty();
    let code = if whole { exit::OK } else { exit::FAILED };
    Ok(Report { text, json: json!(report), code })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_wrote_neither_turns_nor_breaks_a_line() {
        let value = json!("CN=good\u{202e}live\nsecond\u{2028}third\u{1b}[2J");
        assert_eq!(string(&value), "CN=good?live?second?third?[2J");
        assert_eq!((string(&json!(null)), string(&json!(5))), (String::new(), "5".to_owned()));
    }
}
