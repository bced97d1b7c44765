//! `edge block`: single blocks and lists of them.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Subcommand;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{
    cli::parse_prefix,
    client::{self, ClientError},
    commands::{CommandError, Report, string},
    protocol::{ListImport, Request},
    table::Table,
};
use crate::{
    config::Paths,
    firewall::{
        inspect,
        lists::{List, ListAbout, list_name, read_all},
    },
};

type Outcome = Result<Report, CommandError>;

/// Name of the list that an import without one replaces.
const USUAL_LIST: &str = "imported";

/// `edge block`.
#[derive(Debug, Subcommand)]
pub enum BlockCommand {
    /// The blocks in the kernel
    List {
        /// The lists of blocks instead: name, size, end
        #[arg(long)]
        lists: bool,
        /// At most so many; 0: all
        #[arg(long, default_value_t = 1000, value_name = "NUMBER")]
        limit: usize,
    },
    /// Drop everything from an address or prefix
    Add {
        /// Address or prefix
        #[arg(value_parser = parse_prefix)]
        prefix: IpNet,
        /// Why
        #[arg(long)]
        comment: Option<String>,
        /// For how long, in seconds; without it until it is removed
        #[arg(long = "for", value_name = "SECONDS")]
        seconds: Option<u64>,
    },
    /// Take an administrator's block back
    Remove {
        /// Address or prefix, as it was added
        #[arg(value_parser = parse_prefix)]
        prefix: IpNet,
    },
    /// Drop everything from what a file names: one address or prefix a line, `#` for comments.
    /// It replaces the list of the same name in one step
    Import {
        /// The file; `-`: standard input
        file: PathBuf,
        /// Name of the list
        #[arg(long, default_value = USUAL_LIST, value_parser = list_name, value_name = "NAME")]
        list: String,
        /// For how long, in seconds; without it until it is replaced or removed
        #[arg(long = "for", value_name = "SECONDS")]
        seconds: Option<u64>,
        /// Why
        #[arg(long)]
        comment: Option<String>,
        /// Say what would change and whether it fits, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Leave out lines that name nothing, instead of refusing the file
        #[arg(long)]
        skip_bad: bool,
    },
    /// Print what is blocked, one address or prefix a line
    Export {
        /// One list; without it every block that drops everything
        #[arg(long, value_parser = list_name, value_name = "NAME")]
        list: Option<String>,
    },
    /// Take a list away in one step
    RemoveList {
        /// Its name, as `edge block list --lists` shows it
        #[arg(value_parser = list_name)]
        name: String,
    },
}

/// `edge block …`.
pub fn block(paths: &Paths, command: &BlockCommand) -> Outcome {
    let (request, word) = match command {
        BlockCommand::List { lists: true, .. } => return lists(paths),
        BlockCommand::List { limit, .. } => return list(paths, *limit),
        BlockCommand::Import { .. } => return import(paths, command),
        BlockCommand::Export { list } => return export(paths, list.as_deref()),
        BlockCommand::RemoveList { name } => return remove_list(paths, name),
        BlockCommand::Add { prefix, comment, seconds } => {
            let (prefix, comment, seconds) = (*prefix, comment.clone(), *seconds);
            (Request::BlockAdd { prefix, comment, seconds }, "blocked")
        }
        BlockCommand::Remove { prefix } => (Request::BlockRemove { prefix: *prefix }, "unblocked"),
    };
    let json = client::ask(&paths.run, &request)?;
    let text = format!("{word} {} in {} µs\n", string(&json["prefix"]), json["took_microseconds"]);
    Ok(Report::new(text, json))
}

fn list(paths: &Paths, limit: usize) -> Outcome {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let (blocks, count) = inspect::first_blocks(&paths.pins, limit)?;
    // Owners and comments are the daemon's knowledge; without it the kernel's fields remain.
    let status = client::ask(&paths.run, &Request::Status).unwrap_or_default();
    let rows = status["blocks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let owners: HashMap<&str, &Value> =
        rows.iter().filter_map(|row| Some((row["prefix"].as_str()?, &row["holds"]))).collect();
    let (lists, _) = read_all(&paths.state, SystemTime::now());
    let mut table = Table::new(&["prefix", "scope", "reason", "owners", "ends in", "held by"]);
    let mut rows = Vec::new();
    for block in &blocks {
        let holds = owners.get(block.prefix.to_string().as_str());
        let mut holds: Vec<Value> =
            holds.and_then(|holds| holds.as_array()).cloned().unwrap_or_default();
        let of_lists = lists.iter().filter(|list| list.content.has(&block.prefix));
        holds.extend(of_lists.map(|list| {
            let ListAbout { name, comment, expires_at, .. } = &list.about;
            json!({"owner": {"list": name}, "comment": comment, "expires_at": expires_at})
        }));
        let names: Vec<String> = holds.iter().map(|hold| owner_text(&hold["owner"])).collect();
        table.row([
            block.prefix.to_string(),
            block.scope.to_owned(),
            block.reason.to_owned(),
            block.owners.to_string(),
            block.expires_in_seconds.map_or("never".to_owned(), |s| format!("{s} s")),
            names.join(", "),
        ]);
        let mut row = json!(block);
        row["holds"] = Value::Array(holds);
        rows.push(row);
    }
    let mut text = table.render();
    let more = count.saturating_sub(blocks.len() as u64);
    if more > 0 {
        let note = format!("{more} more: `--limit 0` shows all, `edge block export` prints them");
        text.push_str(&format!("{note}\n"));
        // Machines have the rows on standard output and nothing else.
        eprintln!("edge: {note}");
    }
    Ok(Report::new(text, Value::Array(rows)))
}

pub(super) fn owner_text(owner: &Value) -> String {
    match owner {
        Value::Object(object) => object
            .iter()
            .map(|(kind, name)| format!("{kind} {}", string(name)))
            .collect::<Vec<_>>()
            .join(" "),
        other => string(other),
    }
}

/// The lists, as the daemon has them; without it, as they are kept.
fn lists(paths: &Paths) -> Outcome {
    let json = match client::ask(&paths.run, &Request::Lists) {
        Ok(json) => json,
        Err(ClientError::NotRunning { .. }) => {
            let (lists, faults) = read_all(&paths.state, SystemTime::now());
            for fault in faults {
                eprintln!("edge: {fault}");
            }
            lists_json(&lists)
        }
        Err(error) => return Err(error.into()),
    };
    let mut table = Table::new(&["list", "entries", "ends in", "by", "comment"]);
    for row in json.as_array().into_iter().flatten() {
        let ends = row["expires_in_seconds"].as_u64();
        table.row([
            string(&row["name"]),
            string(&row["entries"]),
            ends.map_or("never".to_owned(), |seconds| format!("{seconds} s")),
            string(&row["by"]),
            string(&row["comment"]),
        ]);
    }
    Ok(Report::new(table.render(), json))
}

/// Lists without their members.
pub fn lists_json(lists: &[Arc<List>]) -> Value {
    let now = SystemTime::now();
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let row = |list: &Arc<List>| {
        let about = &list.about;
        json!({
            "name": about.name,
            "entries": list.content.len(),
            "comment": about.comment,
            "expires_in_seconds": about.expires_at.map(|at| {
                at.duration_since(now).unwrap_or_default().as_secs()
            }),
            "by": about.by,
            "at": seconds(about.at),
        })
    };
    lists.iter().map(row).collect()
}

fn import(paths: &Paths, command: &BlockCommand) -> Outcome {
    let BlockCommand::Import { file, list, seconds, comment, dry_run, skip_bad } = command else {
        return Err(CommandError::Form);
    };
    let (name, source) = open(file)?;
    let request = Request::ListImport(ListImport {
        name: list.clone(),
        file: name,
        comment: comment.clone(),
        seconds: *seconds,
        dry_run: *dry_run,
        skip_bad: *skip_bad,
    });
    let json = client::ask_with(&paths.run, &request, source)?;
    let count = |name: &str| json[name].as_u64().unwrap_or_default();
    let mut text = format!(
        "list {list}: {} {} added, {} removed, {} kept",
        if *dry_run { "would have" } else { "has" },
        count("added"),
        count("removed"),
        count("kept"),
    );
    for (name, words) in
        [("repeated", "lines repeat others"), ("bad", "lines skipped"), ("refused", "left out")]
    {
        if count(name) > 0 {
            text.push_str(&format!(", {} {words}", count(name)));
        }
    }
    match json["took_milliseconds"].as_u64() {
        Some(took) => text.push_str(&format!(", in {took} ms\n")),
        None => text.push('\n'),
    }
    for note in json["notes"].as_array().into_iter().flatten() {
        text.push_str(&format!("{}\n", string(note)));
    }
    Ok(Report::new(text, json))
}

/// The file, or standard input; only what has an end: a device or a pipe in the file system may
/// have none.
fn open(file: &Path) -> Result<(String, Box<dyn Read>), CommandError> {
    if file == Path::new("-") {
        return Ok(("standard input".to_owned(), Box::new(std::io::stdin().lock())));
    }
    let what = file.display().to_string();
    let fault = |error: String| CommandError::File { what: what.clone(), error };
    let opened = File::open(file).map_err(|error| fault(error.to_string()))?;
    let metadata = opened.metadata().map_err(|error| fault(error.to_string()))?;
    if !metadata.is_file() {
        return Err(fault("it is no plain file; pipe it in with `-`".to_owned()));
    }
    Ok((what, Box::new(opened)))
}

fn remove_list(paths: &Paths, name: &str) -> Outcome {
    let json = client::ask(&paths.run, &Request::ListRemove { name: name.to_owned() })?;
    let text = format!("list {name} is gone: {} entries\n", string(&json["removed"]));
    Ok(Report::new(text, json))
}

fn export(paths: &Paths, name: Option<&str>) -> Outcome {
    let prefixes: Vec<IpNet> = match name {
        Some(name) => {
            let (lists, faults) = read_all(&paths.state, SystemTime::now());
            let list = lists.into_iter().find(|list| list.about.name == name);
            let Some(list) = list else {
                let fault =
                    faults.into_iter().find(|fault| fault.file.ends_with(format!("{name}.list")));
                let error = fault.map_or("there is no such list".to_owned(), |f| f.fault);
                return Err(CommandError::File { what: format!("list {name}"), error });
            };
            list.content.iter().collect()
        }
        None => inspect::blocks(&paths.pins)?
            .into_iter()
            .filter(|block| block.scope == "all")
            .map(|block| block.prefix)
            .collect(),
    };
    let mut text = String::with_capacity(prefixes.len() * 20);
    for prefix in &prefixes {
        text.push_str(&plain(prefix));
        text.push('\n');
    }
    let json = prefixes.iter().map(plain).collect();
    Ok(Report::new(text, json))
}

/// An address without the length that says that it is one.
fn plain(prefix: &IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        prefix.addr().to_string()
    } else {
        prefix.to_string()
    }
}
