//! `cargo xtask demo`: the whole chain, live, with evidence for each step.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use edge_tests::demo::{
    self,
    report::{Outcome, Report},
    world::World,
};

/// Raises a lab of network namespaces, runs two edge daemons in it and plays every step.
#[derive(Debug, Parser)]
#[command(name = "demo", after_help = "Exit codes: 0 every step held; 1 one did not.")]
struct Arguments {
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long)]
    json: bool,
    /// Leave the lab up, and print how to enter it and how to remove it
    #[arg(long)]
    keep: bool,
    /// Remove what an earlier run left with --keep, and end
    #[arg(long, value_name = "LAB")]
    remove: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(lab) = &arguments.remove {
        return remove(lab);
    }
    let report = match run(&arguments) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("demo: {error:#}");
            let raised = Outcome::new("raise the lab", Err(error), std::time::Duration::ZERO);
            Report { steps: vec![raised] }
        }
    };
    if arguments.json {
        println!("{}", report.to_json());
    } else {
        println!("\n{}", report.to_table());
    }
    if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(arguments: &Arguments) -> Result<Report> {
    eprintln!("raising the lab and starting two edge daemons");
    let mut world = World::raise("demo")?;
    eprintln!("lab {} is up", world.lab.prefix());
    let report = demo::play(&mut world, |name, outcome| match outcome {
        None => eprint!("{name} ... "),
        Some(outcome) => eprintln!("{} ({:.1} s)", outcome.word(), outcome.took.as_secs_f64()),
    });
    if arguments.keep {
        keep(world)?;
    }
    Ok(report)
}

fn keep(world: World) -> Result<()> {
    let World { contoso, fabrikam, mut lab, .. } = world;
    lab.keep()?;
    let prefix = lab.prefix().to_owned();
    eprintln!("\nThe lab stays. Its namespaces: ip netns list | grep {prefix}");
    eprintln!("  enter one:   nsenter --net=/run/netns/{prefix}-contoso");
    eprintln!("  its edge:    {} status -c {}", binary(), contoso.file().display());
    eprintln!("  its partner: {} status -c {}", binary(), fabrikam.file().display());
    let own = std::env::current_exe()?;
    eprintln!("  remove it:   {} --remove {prefix}", own.display());
    contoso.keep();
    fabrikam.keep();
    std::mem::forget(lab);
    Ok(())
}

fn binary() -> String {
    edge_tests::lab::daemon::binary()
        .map_or_else(|_| "edge".into(), |path| path.display().to_string())
}

fn remove(lab: &str) -> ExitCode {
    if edge_tests::lab::cleanup::remove_kept(lab) {
        eprintln!("{lab} is gone");
        ExitCode::SUCCESS
    } else {
        eprintln!("there is no lab {lab}; `ip netns list` shows the names");
        ExitCode::FAILURE
    }
}
