//! `fuzz differential [--pairs N | --seconds N] [--seed S]`: the loaded kernel program against
//! the plain model, on rule sets and packets made up by a seed.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use edge_tests::model::differential::{Until, run};

/// The loaded kernel program against the plain model. Needs root.
#[derive(Parser)]
struct Arguments {
    /// Which one: differential
    name: String,
    /// Pairs of a rule set and a packet
    #[arg(long, default_value_t = 1_000_000)]
    pairs: u64,
    /// Seconds, instead of pairs
    #[arg(long)]
    seconds: Option<u64>,
    /// Seed of the first rule set; the time when there is none
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.name != "differential" {
        eprintln!("no fuzz run `{}`: there is differential", arguments.name);
        return ExitCode::from(2);
    }
    let until = match arguments.seconds {
        Some(seconds) => Until::Time(Duration::from_secs(seconds)),
        None => Until::Pairs(arguments.pairs),
    };
    let seed = arguments.seed.unwrap_or_else(|| {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        time.map_or(1, |time| time.as_secs())
    });
    eprintln!("fuzz differential: seed {seed}");
    match run(seed, until) {
        Ok(done) => {
            for (reason, count) in &done.reasons {
                println!("{:<24} {count:>10}", reason.name());
            }
            println!("{} pairs of {} rule sets: no two answers", done.pairs, done.worlds);
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("fuzz differential: {fault:#}");
            ExitCode::FAILURE
        }
    }
}
