//! `edge apply`, `confirm`, `rollback`, `version` and `shadow`.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use super::{
    cli::{ApplyArguments, ShadowCommand, VersionCommand},
    client::{self, ClientError},
    commands::{CommandError, Report, string},
    protocol::{Request, SentFile},
    table::Table,
};
use crate::{
    apply::{Difference, Side},
    config::{self, Checked, Config, Paths},
    firewall::{self, plan},
    plain::plain,
    state::{Choice, MAX_VERSIONS, Moment, Pending, Version, VersionError, Versions, choose},
};

type Outcome = Result<Report, CommandError>;

/// What `edge run` and `edge load` take: the configured file, unless a version waits for its
/// confirmation. `settled`: nobody stays who could go back.
pub fn chosen(file: &Path, settled: bool) -> (Option<Choice>, Checked) {
    let text = match config::read_text(file) {
        Ok(text) => text,
        Err(findings) => return (None, Checked { config: None, findings }),
    };
    let versions = Versions::in_folder(&config::paths_only(file).state);
    let choose = |settled| choose(&versions, text.clone(), &Moment::now(), settled);
    let choice = choose(settled);
    let checked = config::check_as(&choice.text, file);
    if checked.config.is_none() && choice.pending.is_some() {
        // What waits cannot be taken any more: the one before it can.
        let choice = choose(true);
        let checked = config::check_as(&choice.text, file);
        return (Some(choice), checked);
    }
    (Some(choice), checked)
}

/// `edge apply`.
pub fn apply(paths: &Paths, configured: &Path, arguments: &ApplyArguments) -> Outcome {
    let file = arguments.file.as_deref().map(sent).transpose()?;
    if arguments.dry_run {
        return dry_run(paths, configured, file);
    }
    if arguments.shadow {
        let seconds = arguments.time.map(|time| time.as_secs());
        let json = client::ask(&paths.run, &Request::ShadowStart { file, seconds })?;
        let text = format!(
            "{} counts as a shadow{}; `edge shadow status` shows what it would do otherwise\n{}",
            string(&json["file"]),
            arguments.time.map_or(String::new(), |time| format!(" for {} s", time.as_secs())),
            warnings(&json)
        );
        return Ok(Report::new(text, json));
    }
    let confirm_seconds = arguments.confirm.map(|time| time.as_secs());
    let json = client::ask(&paths.run, &Request::Apply { file, confirm_seconds })?;
    let mut text = match &json["version"] {
        Value::Null => "in force\n".to_owned(),
        version => format!("version {version} is in force\n"),
    };
    if let Some(seconds) = confirm_seconds {
        text.push_str(&format!(
            "run `edge confirm` within {seconds} s, or version {} comes back\n",
            json["former"]
        ));
    }
    text.push_str(&warnings(&json));
    Ok(Report::new(text, json))
}

/// Shows what would change: by the daemon, or, when none runs, against the newest version.
fn dry_run(paths: &Paths, configured: &Path, file: Option<SentFile>) -> Outcome {
    match client::ask(&paths.run, &Request::ApplyDryRun { file: file.clone() }) {
        Ok(json) => {
            let lines = json["text"].as_str().unwrap_or_default().lines();
            let lines: String = lines.map(|line| format!("{}\n", plain(line))).collect();
            let text = format!("{lines}{}", warnings(&json));
            return Ok(Report::new(text, json));
        }
        Err(ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let newest = Versions::in_folder(&paths.state).newest();
    let newest = newest.ok_or(CommandError::Version(VersionError::NoFormer))?;
    let (new, name) = match file {
        Some(file) => (file.text, file.name),
        None => {
            let text = config::read_text(configured).map_err(CommandError::Configuration)?;
            (text, configured.display().to_string())
        }
    };
    let compiled = |text: &str, name: &str| {
        let Checked { config, mut findings } = config::check_as(text, configured);
        findings.file = name.into();
        let config: Config = config.ok_or(CommandError::Configuration(findings))?;
        plan::compile(&config).map_err(|fault| CommandError::Firewall(fault.into()))
    };
    let old = compiled(&newest.text, &format!("version {}", newest.number))?;
    let plan = compiled(&new, &name)?;
    let sides = (Side { plan: &old, text: &newest.text }, Side { plan: &plan, text: &new });
    let difference = Difference::between(sides.0, sides.1);
    let text = format!("(no daemon runs: compared with version {})\n{difference}", newest.number);
    let json = json!({"text": difference.to_string(), "difference": difference,
                      "compared_with": newest.number});
    Ok(Report::new(text, json))
}

/// The file is read here, with the caller's rights, not with the daemon's.
fn sent(path: &Path) -> Result<SentFile, CommandError> {
    let text = config::read_text(path).map_err(CommandError::Configuration)?;
    Ok(SentFile { name: path.display().to_string(), text })
}

fn warnings(json: &Value) -> String {
    let list = json["warnings"].as_array().into_iter().flatten();
    list.map(|warning| format!("warning: {}\n", string(warning))).collect()
}

/// What `edge status` says about the configuration.
pub(super) fn status_lines(about: &Value) -> String {
    let mut text = String::new();
    if !about["version"].is_null() {
        let at = utc(about["at"].as_u64().unwrap_or_default());
        let (how, by) = (string(&about["how"]), string(&about["by"]));
        text.push_str(&format!("version   {} since {at} ({how}, by {by})\n", about["version"]));
    }
    if let Some(why) = about["unsettled"].as_str() {
        text.push_str(&format!(
            "ALARM     the rules in force are not those of this version; trying again: {why}\n"
        ));
    }
    if let Some(waits) = about["waits"].as_object() {
        text.push_str(&format!(
            "WAITS     version {} for `edge confirm`: {} s left, then {} comes back\n",
            waits["version"], waits["seconds_left"], waits["former"]
        ));
    }
    if let Some(shadow) = about["shadow"].as_object() {
        text.push_str(&format!("shadow    {} counts\n", string(&shadow["file"])));
    }
    text
}

/// `edge confirm`.
pub fn confirm(paths: &Paths) -> Outcome {
    let json = client::ask(&paths.run, &Request::Confirm)?;
    let text = format!(
        "version {} is confirmed, and {} holds it\n{}",
        json["version"],
        string(&json["file"]),
        warnings(&json)
    );
    Ok(Report::new(text, json))
}

/// `edge rollback`.
pub fn rollback(paths: &Paths, version: Option<u32>) -> Outcome {
    let json = client::ask(&paths.run, &Request::Rollback { version })?;
    let text = format!(
        "version {} is in force again ({})\n{}",
        json["version"],
        string(&json["how"]),
        warnings(&json)
    );
    Ok(Report::new(text, json))
}

/// `edge version …`. Reads the disk when no daemon runs.
pub fn version(paths: &Paths, command: &VersionCommand) -> Outcome {
    let versions = Versions::in_folder(&paths.state);
    match command {
        VersionCommand::List => {
            let json = match client::ask(&paths.run, &Request::VersionList) {
                Ok(json) => json,
                Err(ClientError::NotRunning { .. }) => {
                    let list = versions.list()?;
                    let newest = list.0.last().map(|version| version.text.clone());
                    let pending = versions.pending().ok().flatten();
                    version_list(list, &newest.unwrap_or_default(), pending.as_ref())
                }
                Err(error) => return Err(error.into()),
            };
            Ok(Report::new(version_table(&json), json))
        }
        VersionCommand::Show { number } => {
            let request = Request::VersionShow { number: *number };
            let json = match client::ask(&paths.run, &request) {
                Ok(json) => json,
                Err(ClientError::NotRunning { .. }) => json!(versions.get(*number)?),
                Err(error) => return Err(error.into()),
            };
            // As it is: it may be written to a file.
            let text = json["text"].as_str().unwrap_or_default().to_owned();
            Ok(Report::new(text, json))
        }
    }
}

/// Versions without their texts: newest first; and what is damaged. Of those that say what is in
/// force the newest is marked: none, where the disk did not take it.
pub fn version_list(
    (versions, damaged): (Vec<Version>, Vec<String>),
    in_force: &str,
    pending: Option<&Pending>,
) -> Value {
    let newest = versions.iter().rfind(|version| version.text == in_force);
    let newest = newest.map(|version| version.number);
    let rows = versions.iter().rev().map(|version| {
        let waits = pending.is_some_and(|pending| pending.version == version.number);
        json!({
            "number": version.number,
            "in_force": Some(version.number) == newest,
            "waits": waits,
            "at": version.author.at,
            "by": version.author.by,
            "how": version.how,
            "bytes": version.text.len(),
        })
    });
    json!({"versions": rows.collect::<Vec<_>>(), "damaged": damaged, "kept": MAX_VERSIONS})
}

fn version_table(json: &Value) -> String {
    let mut table = Table::new(&["version", "when", "by", "how", "bytes", ""]);
    for row in json["versions"].as_array().into_iter().flatten() {
        let state = match (&row["waits"], &row["in_force"]) {
            (Value::Bool(true), _) => "in force, waits for `edge confirm`",
            (_, Value::Bool(true)) => "in force",
            _ => "",
        };
        table.row([
            row["number"].to_string(),
            utc(row["at"].as_u64().unwrap_or_default()),
            string(&row["by"]),
            string(&row["how"]),
            row["bytes"].to_string(),
            state.to_owned(),
        ]);
    }
    let mut text = table.render();
    for fault in json["damaged"].as_array().into_iter().flatten() {
        text.push_str(&format!("damaged: {}\n", string(fault)));
    }
    text
}

/// `edge shadow …`.
pub fn shadow(paths: &Paths, command: &ShadowCommand) -> Outcome {
    match command {
        ShadowCommand::Status => shadow_status(paths),
        ShadowCommand::Stop => {
            let json = client::ask(&paths.run, &Request::ShadowStop)?;
            let was = json["was_counting"] == true;
            let text = if was { "the shadow counts no more\n" } else { "no shadow counted\n" };
            Ok(Report::new(text.to_owned(), json))
        }
    }
}

fn shadow_status(paths: &Paths) -> Outcome {
    let counters = firewall::shadow_status(&paths.pins)?;
    let about = match client::ask(&paths.run, &Request::ShadowStatus) {
        Ok(json) => json,
        Err(ClientError::NotRunning { .. }) => Value::Null,
        Err(error) => return Err(error.into()),
    };
    let mut text = match (counters.counting, &about) {
        (false, _) => "no shadow counts; what the last one counted:\n".to_owned(),
        (true, Value::Null) => "a shadow counts (no daemon runs)\n".to_owned(),
        (true, about) => format!(
            "{} counts as a shadow since {} ({}){}\n",
            string(&about["file"]),
            utc(about["since"].as_u64().unwrap_or_default()),
            string(&about["by"]),
            about["ends_in_seconds"].as_u64().map_or(String::new(), |s| format!(", {s} s left")),
        ),
    };
    if counters.rows.is_empty() {
        text.push_str("no packet would have been judged otherwise\n");
    } else {
        let mut table = Table::new(&["would", "reason", "packets", "bytes", "meaning"]);
        for row in &counters.rows {
            table.row([
                row.would.to_owned(),
                row.reason.to_owned(),
                row.packets.to_string(),
                row.bytes.to_string(),
                shadow_meaning(row),
            ]);
        }
        text.push_str(&table.render());
    }
    text.push_str(&format!("note: {SHADOW_NOTE}\n"));
    let json = json!({
        "counting": counters.counting, "rows": counters.rows, "about": about, "note": SHADOW_NOTE,
    });
    Ok(Report::new(text, json))
}

/// What a shadow cannot tell.
const SHADOW_NOTE: &str = "a shadow uses up no rates: what only the new rules' rates would refuse \
                           is not counted";

fn shadow_meaning(row: &firewall::ShadowRow) -> String {
    match row.would {
        "drop" => format!("passes now, the new rules would drop it: {}", row.explain),
        _ => format!("is dropped now, the new rules would pass it: {}", row.explain),
    }
}

/// Seconds since 1970 as `2026-11-26 13:00:00` (UTC; the proleptic Gregorian calendar).
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0, in eras of 400 years, so that leap days come last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// A time on the command line: `60s`, `10min`, `2h`, or plain seconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    config::duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_told_as_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (1_795_957_200, "2026-11-29 13:00:00"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }

    #[test]
    fn times_have_a_unit_or_are_seconds() {
        for (text, seconds) in [("60", 60), ("60s", 60), ("10min", 600), ("2h", 7200)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "ten", "-1s", "1w"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
