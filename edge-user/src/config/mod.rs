//! The configuration: TOML text to a validated [`Config`].
//!
//! Nothing is changed anywhere before the whole file is valid. All errors are found, not only the
//! first; each names the file, the line, the column and the mend. What this module never does:
//! guess what was meant, let an unknown key pass, or print a private key.

mod certificates;
mod conflicts;
mod federation;
mod findings;
mod firewall;
mod firewall_rules;
mod inside_routes;
mod least;
mod listeners;
mod media;
mod model;
mod model_federation;
mod model_firewall;
mod model_media;
mod model_services;
mod model_xmpp;
mod more_services;
mod peer_options;
pub mod places;
mod pool;
mod providers;
mod rates;
mod reader;
mod remote;
mod revocation;
mod sections;
mod services;
mod throttle;
mod users;
mod values;
mod xmpp;
mod xmpp_service;

#[cfg(test)]
mod certificate_tests;
#[cfg(test)]
mod federation_cases;
#[cfg(test)]
mod firewall_cases;
#[cfg(test)]
mod identity_tests;
#[cfg(test)]
mod media_cases;
#[cfg(test)]
mod pool_tests;
#[cfg(test)]
mod routing_cases;
#[cfg(test)]
mod test_cases;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tests_support;
#[cfg(test)]
mod xmpp_cases;

use std::{
    fs::File,
    io::Read,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

pub use federation::check_from_addresses;
pub use findings::{ConfigErrors, Finding};
pub use least::{Least, least};
pub use model::*;
pub use model_federation::*;
pub use model_firewall::*;
pub use model_media::*;
pub use model_services::*;
pub use model_xmpp::*;

use crate::firewall::plan;
use findings::Sink;
use reader::Section;

/// A configuration file is at most this long.
const MAX_FILE: u64 = 16 << 20;
/// Where the system names its resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What came of reading a file: the configuration if it is valid, and what was found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Present when there is no error.
    pub config: Option<Config>,
    /// Errors and warnings.
    pub findings: ConfigErrors,
}

/// Reads and validates a file, with the files it names; warnings go to the log.
///
/// When `[dns]` names no server, those of `/etc/resolv.conf` are filled in.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let Checked { config, findings } = check(path);
    match config {
        Some(config) => {
            for warning in &findings.warnings {
                let Finding { line, column, message, mend, .. } = warning;
                tracing::warn!(file = %path.display(), line, column, mend, "{message}");
            }
            Ok(config)
        }
        None => Err(findings),
    }
}

/// The same, with the warnings also when the file is valid.
pub fn check(path: &Path) -> Checked {
    match read_text(path) {
        Ok(text) => check_as(&text, path),
        Err(findings) => Checked { config: None, findings },
    }
}

/// As [`check`], for a text that is to stand in `path` (relative paths in it start there).
pub fn check_as(text: &str, path: &Path) -> Checked {
    let mut checked = check_text(text, path, SystemTime::now());
    if let Some(config) = &mut checked.config
        && config.dns.servers.is_empty()
    {
        let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        config.dns.servers = resolvers(&text);
        if config.dns.servers.is_empty() {
            checked.findings.warnings.push(Finding {
                line: 1,
                column: 1,
                message: format!("[dns] names no server, and {RESOLV_CONF} neither"),
                mend: "add [dns] with servers = [\"192.0.2.53\"]".into(),
                source: String::new(),
                length: 1,
            });
        }
    }
    checked
}

/// Validates a text as if it stood in `path` (relative paths in it start there).
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
    let Checked { config, findings } = check_text(text, path, SystemTime::now());
    config.ok_or(findings)
}

/// As [`parse`], for the sake of the rules alone: the files that the text names are not looked at.
///
/// # Errors
/// What is wrong with the text.
pub fn rules_of(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
    let Checked { config, findings } = check_with(text, path, SystemTime::now(), false);
    config.ok_or(findings)
}

/// A time as the file writes it: `500ms`, `5s`, `20min`, `1h`, `1d`.
///
/// # Errors
/// What is wrong with it, and how it is written.
pub fn duration(text: &str) -> Result<Duration, String> {
    values::duration(text).map_err(|fault| format!("{}; {}", fault.message, fault.mend))
}

/// Only `[paths]`, for commands that talk to a running daemon: what cannot be read there takes
/// its default, whatever else is wrong with the file.
pub fn paths_only(path: &Path) -> Paths {
    let text = read_text(path).unwrap_or_default();
    let (root, _) = DeTable::parse_recoverable(&text);
    let base = path.parent().unwrap_or(Path::new(""));
    let table = entry(root.get_ref(), "paths").and_then(|value| match value {
        DeValue::Table(table) => Some(table),
        _ => None,
    });
    let folder = |key: &str, default: &str| match table.and_then(|table| entry(table, key)) {
        Some(DeValue::String(text)) if !text.is_empty() => base.join(text.as_ref()),
        _ => PathBuf::from(default),
    };
    Paths {
        state: folder("state", sections::DEFAULT_STATE),
        run: folder("run", sections::DEFAULT_RUN),
        pins: folder("pins", sections::DEFAULT_PINS),
    }
}

fn entry<'t>(table: &'t DeTable<'_>, key: &str) -> Option<&'t DeValue<'t>> {
    table.iter().find(|(k, _)| k.get_ref().as_ref() == key).map(|(_, value)| value.get_ref())
}

/// Reads a configuration file without judging it: text of a bounded length, from a plain file.
///
/// # Errors
/// As findings at the file's first line, or where it is no UTF-8.
pub fn read_text(path: &Path) -> Result<String, ConfigErrors> {
    let failed = |line, column, message: String, mend: &str| {
        let finding = Finding {
            line,
            column,
            message,
            mend: mend.to_owned(),
            source: String::new(),
            length: 1,
        };
        ConfigErrors { file: path.to_owned(), errors: vec![finding], warnings: Vec::new() }
    };
    let unreadable = |error: std::io::Error| {
        failed(1, 1, format!("the file cannot be read: {error}"), "check the path and its rights")
    };
    // A FIFO or a device would block, or never end.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(failed(1, 1, "this is no file".into(), "name the configuration file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(failed(1, 1, "the file is longer than 16 MiB".into(), "make it shorter"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let good = String::from_utf8_lossy(good);
        let line = good.matches('\n').count() + 1;
        let column = good.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        failed(line, column, "this is no UTF-8 text".into(), "save the file as UTF-8")
    })
}

fn check_text(text: &str, path: &Path, now: SystemTime) -> Checked {
    check_with(text, path, now, true)
}

/// `files`: the files that it names are looked at, too.
fn check_with(text: &str, path: &Path, now: SystemTime, files: bool) -> Checked {
    let sink = Sink::new(text);
    let (root, syntax) = DeTable::parse_recoverable(text);
    let config = if syntax.is_empty() {
        read(&Reading { sink: &sink, root: &root, path, now, files })
            .filter(|_| !sink.failed())
            .filter(|config| fits_the_kernel(&sink, root.get_ref(), config))
    } else {
        for error in syntax.iter().take(20) {
            let span = error.span().unwrap_or(0..0);
            sink.error(&span, error.message(), "write it as TOML has it (https://toml.io)");
        }
        None
    };
    if config.is_none() && !sink.failed() {
        sink.error(&(0..0), "the configuration is incomplete", "compare it with the example file");
    }
    Checked { config, findings: sink.into_errors(path.to_owned()) }
}

/// Whether the rules fit the kernel's tables.
fn fits_the_kernel(sink: &Sink<'_>, root: &DeTable<'_>, config: &Config) -> bool {
    let Err(error) = plan::compile(config) else { return true };
    let key = root.iter().find(|(key, _)| key.get_ref().as_ref() == "firewall");
    let span = key.map_or(0..0, |(key, _)| key.span());
    let text = error.to_string();
    let (fault, mend) = text.rsplit_once(": ").unwrap_or((&text, "use fewer rules"));
    sink.error(&span, fault, mend);
    false
}

struct Reading<'a> {
    sink: &'a Sink<'a>,
    root: &'a Spanned<DeTable<'a>>,
    path: &'a Path,
    now: SystemTime,
    /// Look at the files that it names.
    files: bool,
}

/// Reads every section, whatever is wrong with the others; whole only when nothing is missing.
fn read(from: &Reading<'_>) -> Option<Config> {
    let base = from.path.parent().unwrap_or(Path::new(""));
    let root = Section::root(from.sink, from.root.get_ref());
    let edge = sections::edge(&root);
    let paths = sections::paths(&root, base);
    let interfaces = sections::interfaces(&root);
    let management = sections::management(&root, &interfaces);
    let service = root.section("service");
    let access = services::access(&service, base);
    let mut listeners = Vec::new();
    let (inside, inside_files) = services::inside(&root, base, &access, &edge, &mut listeners);
    let firewall_section = root.section("firewall");
    let sets = firewall::sets(&firewall_section);
    let around = more_services::Around {
        base,
        access: &access,
        edge: &edge,
        inside: &inside.listen,
        management: management.as_ref(),
        interfaces: &interfaces,
        sets: &sets,
    };
    let (services, to_check) = more_services::services(&root, &service, &around, &mut listeners);
    service.finish();
    let known = firewall::Known {
        addresses: listeners.iter().map(|l| (l.service, l.zone, l.address)).collect(),
    };
    listeners::check(from.sink, listeners);
    let mut federation = federation::federation(&root, &edge, access.partners_only.as_ref());
    (federation.users, federation.groups) = users::users(&root, &edge);
    let beside = xmpp::Around { edge: &edge, federation: &federation, services: &services };
    let xmpp = xmpp::xmpp(&root, &beside);
    let firewall = firewall::firewall(firewall_section, &known, management.as_ref(), sets);
    let media = media::media(&root, services.av.as_ref(), &interfaces, firewall.monitor);
    let revocation = revocation::revocation(&root, base, from.files.then_some(from.now));
    let pool = pool::pool(&root, base, from.files);
    let dns = sections::dns(&root, base);
    let limits = sections::limits(&root);
    let log = sections::log(&root);
    root.finish();
    if let Some(files) = access.files.as_ref().filter(|_| from.files) {
        let demands = federation.needs_client_usage();
        certificates::check(from.sink, files, from.now, Some((&edge, demands)));
        for identity in &access.identities {
            certificates::check_identity(from.sink, identity, files, from.now, demands);
        }
        // Remote users see it as a server's only.
        if let Some(identity) = &to_check.remote {
            certificates::check_identity(from.sink, identity, files, from.now, None);
        }
    }
    if let Some(files) = inside_files.as_ref().filter(|_| from.files) {
        certificates::check(from.sink, files, from.now, None);
    }
    if let Some(xmpp) = to_check.xmpp.as_ref().filter(|_| from.files) {
        certificates::check_xmpp(from.sink, xmpp, from.now);
    }
    Some(Config {
        file: from.path.to_owned(),
        fqdn: edge.fqdn?.into_inner(),
        domains: edge.domains.into_iter().map(Spanned::into_inner).collect(),
        paths,
        interfaces,
        management: management?,
        access: access.plain()?,
        inside,
        services,
        media,
        federation,
        xmpp,
        revocation,
        firewall,
        pool,
        dns,
        limits,
        log,
    })
}

/// The resolvers that resolv.conf(5) names.
fn resolvers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())??.parse::<IpAddr>().ok()
        })
        .take(3)
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}
