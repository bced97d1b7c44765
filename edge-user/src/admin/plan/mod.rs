//! `edge plan …`: what follows from the configuration file. A daemon that runs is asked for
//! nothing but where partners are now.

mod names;
mod nftables;

use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use serde_json::json;

use super::{
    commands::{CommandError, Report},
    table::Table,
};
use crate::{
    config::{self, Checked, Config, MediaMode, Zone},
    firewall::{
        inspect,
        plan::{self, AvStyle, Direction, OuterRow, RuleRow},
    },
};

/// `edge plan`.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Every port: the appliance's rules, and what firewalls around it must let through
    Ports(PortsArguments),
    /// DNS records that are to be published: SIP, remote users, XMPP
    Dns,
    /// Names that our certificates are to hold, and whether they do
    Certificates,
}

/// Which tables, and how.
#[derive(Debug, Args)]
pub struct PortsArguments {
    /// The appliance's own rules, the firewalls around it, or both
    #[arg(long = "for", value_enum, default_value_t, value_name = "WHOM")]
    whom: Whom,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Outgoing audio and video by destination port only, or by source and destination port
    #[arg(long, value_enum, default_value_t)]
    av_style: Style,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Whom {
    Appliance,
    Outer,
    #[default]
    Both,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
    Nftables,
    Csv,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Style {
    #[default]
    Destination,
    SourceAndDestination,
}

/// What `edge plan …` prints.
pub fn plan(file: &Path, command: &PlanCommand) -> Result<Report, CommandError> {
    let Checked { config, findings } = config::check(file);
    let Some(config) = config else { return Err(CommandError::Configuration(findings)) };
    let arguments = match command {
        PlanCommand::Ports(arguments) => arguments,
        PlanCommand::Dns => return Ok(names::dns(&config)),
        PlanCommand::Certificates => return Ok(names::certificates(&config)),
    };
    let partners = inspect::partners(&config.paths.pins, &config.paths.state);
    ports(&config, arguments, partners.as_deref())
}

/// The two tables.
struct Tables {
    /// What calls open, beside the appliance's rules.
    media: Option<String>,
    appliance: Option<Vec<RuleRow>>,
    outer: Option<Vec<OuterRow>>,
}

/// `partners` are their addresses, when a daemon knows them.
fn ports(
    config: &Config,
    arguments: &PortsArguments,
    partners: Option<&[IpNet]>,
) -> Result<Report, CommandError> {
    let set = plan::compile(config).map_err(|fault| CommandError::Firewall(fault.into()))?;
    let style = match arguments.av_style {
        Style::Destination => AvStyle::Destination,
        Style::SourceAndDestination => AvStyle::Both,
    };
    let tables = Tables {
        media: media(config),
        outer: (arguments.whom != Whom::Appliance).then(|| plan::outer(config, &set, style)),
        appliance: (arguments.whom != Whom::Outer).then_some(set.rows),
    };
    let json = json!({
        "appliance": tables.appliance,
        "media": tables.media,
        "outer": tables.outer,
    });
    let text = match arguments.format {
        Format::Text => text(&tables),
        Format::Json => format!("{json}\n"),
        Format::Csv => csv(&tables),
        Format::Nftables => nftables::write(config, &tables, partners),
    };
    Ok(Report::new(text, json))
}

/// What calls open on the appliance, which no rule does.
fn media(config: &Config) -> Option<String> {
    let av = config.services.av.as_ref()?;
    let whose = "for its own packets only, and closed when it ends";
    match config.media.mode {
        MediaMode::Off => None,
        MediaMode::Relay => {
            let addresses = av.listen.iter().chain(&av.inside).map(ToString::to_string);
            let (first, last) = av.media_ports;
            Some(format!(
                "Media: each call has udp ports of {first}-{last} opened at {}, {whose} \
                 ([media] mode = \"relay\").",
                addresses.collect::<Vec<_>>().join(", ")
            ))
        }
        MediaMode::Pinhole => Some(format!(
            "Media: each call has the ways between its two endpoints opened, {whose} \
             ([media] mode = \"pinhole\")."
        )),
    }
}

fn zone(zone: Zone) -> &'static str {
    match zone {
        Zone::External => "external",
        Zone::Internal => "internal",
    }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}

const APPLIANCE: &[&str] = &[
    "rule", "zone", "protocol", "ports", "to", "from", "action", "content", "made by", "why",
    "limits",
];
const OUTER: &[&str] = &[
    "rule",
    "zone",
    "direction",
    "protocol",
    "from",
    "from ports",
    "to",
    "to ports",
    "made by",
    "partners",
    "why",
];

fn appliance_cells(row: &RuleRow) -> Vec<String> {
    vec![
        row.name.clone(),
        zone(row.zone).to_owned(),
        row.protocol.clone(),
        row.ports_text(),
        row.to_text(),
        row.from_text(),
        row.action.clone(),
        row.content.name().to_owned(),
        row.made_by(),
        row.why.clone(),
        row.limits_text(),
    ]
}

fn outer_cells(row: &OuterRow) -> Vec<String> {
    vec![
        row.name.clone(),
        zone(row.zone).to_owned(),
        direction(row.direction).to_owned(),
        row.protocol.clone(),
        row.from.text(),
        row.from.ports_text(),
        row.to.text(),
        row.to.ports_text(),
        row.made_by(),
        row.partner_kinds.clone(),
        row.why.clone(),
    ]
}

fn text(tables: &Tables) -> String {
    let mut text = String::new();
    if let Some(rows) = &tables.appliance {
        text.push_str("On the appliance: what comes in. The first row that matches decides.\n\n");
        let mut table = Table::new(APPLIANCE);
        rows.iter().for_each(|row| table.row(appliance_cells(row)));
        text.push_str(&table.render());
        if let Some(media) = &tables.media {
            text.push_str(&format!("\n{media}\n"));
        }
    }
    if let Some(rows) = &tables.outer {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(
            "On the firewalls around it: what they must let through, with the answers. External \
             rows: towards the Internet;\ninternal rows: towards the organisation. A row with \
             partners is needed for these kinds only.\n\n",
        );
        let mut table = Table::new(OUTER);
        rows.iter().for_each(|row| table.row(outer_cells(row)));
        text.push_str(&table.render());
    }
    text
}

/// RFC 4180, one table after the other, an empty line between them.
fn csv(tables: &Tables) -> String {
    let mut text = String::new();
    let mut line = |cells: &[String]| {
        let quoted: Vec<String> = cells.iter().map(|cell| csv_cell(cell)).collect();
        text.push_str(&quoted.join(","));
        text.push_str("\r\n");
    };
    let names = |names: &[&str]| -> Vec<String> {
        std::iter::once("table").chain(names.iter().copied()).map(str::to_owned).collect()
    };
    let row = |table: &str, cells: Vec<String>| {
        std::iter::once(table.to_owned()).chain(cells).collect::<Vec<String>>()
    };
    if let Some(rows) = &tables.appliance {
        line(&names(APPLIANCE));
        rows.iter().for_each(|r| line(&row("appliance", appliance_cells(r))));
    }
    if let Some(rows) = &tables.outer {
        line(&names(OUTER));
        rows.iter().for_each(|r| line(&row("outer", outer_cells(r))));
    }
    text
}

fn csv_cell(cell: &str) -> String {
    if cell.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests;
