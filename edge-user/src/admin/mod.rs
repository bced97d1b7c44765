//! The control socket, its protocol and the command line.
//!
//! Reading commands work on the pins when the daemon is dead; only the daemon writes. Every
//! change is logged with who asked for it and when.

pub mod apply;
pub mod blocks;
pub mod call;
mod call_text;
pub mod cli;
pub mod client;
mod clock;
pub mod commands;
mod drain;
pub mod drops;
pub mod explain;
mod explain_address;
pub mod partner;
mod partner_text;
pub mod plan;
pub mod protocol;
mod remote;
pub mod server;
pub mod table;
mod targets;
pub mod top;
mod xmpp_text;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use serde_json::json;

use self::{
    cli::{CheckArguments, Cli, Command, Global, exit},
    commands::{CommandError, Report},
};
use crate::{
    config::{self, Checked, Config, ConfigErrors},
    daemon,
};

/// The `edge` command: reads the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let code = match cli.command {
        Command::Run => run(&cli.global),
        Command::Check(arguments) => check(&cli.global, &arguments),
        Command::Drops(arguments) if arguments.follow => {
            drops::follow(&config::paths_only(&cli.global.config), &cli.global, &arguments)
        }
        Command::Top(arguments) if !arguments.once && !cli.global.json => {
            top::live(&config::paths_only(&cli.global.config))
        }
        command => {
            let result = ask(&cli.global, command);
            print(&cli.global, result)
        }
    };
    ExitCode::from(code)
}

fn run(global: &Global) -> u8 {
    let (choice, Checked { config, findings }) = apply::chosen(&global.config, false);
    report_findings(&findings);
    let Some((config, choice)) = config.zip(choice) else { return exit::BAD_CONFIGURATION };
    match daemon::run(config, choice) {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("edge: {error:#}");
            exit::FAILED
        }
    }
}

fn check(global: &Global, arguments: &CheckArguments) -> u8 {
    let Checked { config, findings } = config::check(&global.config);
    let outside = config.as_ref().zip(arguments.management_source).and_then(|(config, source)| {
        let inside = config.management.from.iter().any(|prefix| prefix.contains(&source));
        (!inside).then(|| {
            format!("{source} is not inside [management] from: it would be locked out; add it")
        })
    });
    let code =
        if config.is_some() && outside.is_none() { exit::OK } else { exit::BAD_CONFIGURATION };
    if global.json {
        let errors = json!({
            "ok": code == exit::OK,
            "file": global.config,
            "errors": findings.errors,
            "warnings": findings.warnings,
            "management_source": outside,
        });
        print_text(&format!("{errors}\n"), code)
    } else {
        report_findings(&findings);
        if let Some(fault) = &outside {
            eprintln!("{}: error: {fault}", global.config.display());
        }
        match code {
            exit::OK => print_text(
                &format!("{}: the configuration is good\n", global.config.display()),
                code,
            ),
            _ => code,
        }
    }
}

fn report_findings(findings: &ConfigErrors) {
    let _ = write!(std::io::stderr(), "{}", findings.render(std::io::stderr().is_terminal()));
}

fn ask(global: &Global, command: Command) -> Result<Report, CommandError> {
    let paths = config::paths_only(&global.config);
    match command {
        Command::Run | Command::Check(_) => Err(CommandError::Form),
        Command::Load => commands::load(paths, &global.config, good_config(global)),
        Command::Detach { force } => commands::detach(&paths, force),
        Command::Status => commands::status(&paths),
        Command::Drain { off } => drain::drain(&paths, off),
        Command::Reload => commands::reload(&paths),
        Command::Apply(arguments) => apply::apply(&paths, &global.config, &arguments),
        Command::Confirm => apply::confirm(&paths),
        Command::Rollback { version } => apply::rollback(&paths, version),
        Command::Version(command) => apply::version(&paths, &command),
        Command::Shadow(command) => apply::shadow(&paths, &command),
        Command::Map(command) => commands::map(&paths, &command),
        Command::Block(command) => blocks::block(&paths, &command),
        Command::Rule(command) => commands::rule(&paths, &command),
        Command::Plan(command) => plan::plan(&global.config, &command),
        Command::Domain(command) => commands::domain(&paths, &command),
        Command::Partner(command) => partner::partner(&paths, &command),
        Command::Remote(command) => remote::remote(&paths, &command),
        Command::Call(command) => call::call(&paths, &command),
        Command::Top(_) => top::once(&paths),
        Command::Drops(arguments) => drops::recent(&paths, &arguments),
        Command::Explain(command) => explain::explain(&paths, &global.config, &command),
    }
}

/// The configuration when it is valid; what is wrong with it is said all the same.
fn good_config(global: &Global) -> Option<Config> {
    let (choice, Checked { config, findings }) = apply::chosen(&global.config, true);
    report_findings(&findings);
    for note in choice.iter().flat_map(|choice| &choice.notes) {
        eprintln!("edge: {note}");
    }
    config
}

fn print(global: &Global, result: Result<Report, CommandError>) -> u8 {
    match result {
        Ok(report) if global.json => print_text(&format!("{}\n", report.json), report.code),
        Ok(report) => print_text(&report.text, report.code),
        Err(error) => {
            let code = match global.json {
                true => {
                    print_text(&format!("{}\n", json!({"error": error.to_string()})), error.code())
                }
                false => error.code(),
            };
            eprintln!("edge: {error}");
            code
        }
    }
}

/// Gives `code`, or what tells that the text did not arrive whole: a file of rules that is cut must
/// not pass for one. Standard output may be a pipe that is closed already (`edge map dump … | head`).
fn print_text(text: &str, code: u8) -> u8 {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("edge: the output could not be written whole: {error}");
            if code == exit::OK { exit::FAILED } else { code }
        }
        _ => code,
    }
}
