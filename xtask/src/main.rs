//! `cargo xtask`: set-up, build, demo, test, bench, package and deploy.
//!
//! It runs before anything else can: it must not depend on the daemon's crates, whose build needs
//! the BPF toolchain that `setup` provides, and it must stay quick to compile.

mod artifacts;
mod bpf_toolchain;
mod deploy;
mod fuzz;
mod kernels;
mod lab;
mod package;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use kernels::KernelVersion;
use setup::Purpose;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up, build, demo, test, bench, package and deploy")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make this machine able to build and test; does nothing twice
    Setup {
        /// Only what this needs
        #[arg(long = "for", value_name = "PURPOSE", default_value = "test")]
        purpose: Purpose,
    },
    /// Build `edge`, the kernel half inside it, and print the path of the binary
    Build {
        /// Optimised, as it is deployed
        #[arg(long)]
        release: bool,
    },
    /// Raise the lab, play every step of the main job, print a table of evidence
    Demo {
        /// One JSON object on standard output and nothing else
        #[arg(long)]
        json: bool,
        /// Leave the lab up and say how to enter it
        #[arg(long)]
        keep: bool,
    },
    /// Formatting, clippy and every test
    Test {
        /// Run nothing but the measuring of the kernel programs' size, and write it down
        #[arg(long)]
        update_budget: bool,
        /// Only the tests of the kernel half, on this kernel of Debian's in a virtual machine
        #[arg(long, value_name = "VERSION")]
        kernel: Option<KernelVersion>,
        /// With --kernel: arguments for the test programs, such as a part of a test's name
        #[arg(last = true, requires = "kernel")]
        rest: Vec<String>,
    },
    /// Measure against real peers, side by side
    Bench {
        /// Which one, such as `xdp`; a name that does not exist is answered with those that do
        name: String,
        /// One JSON object on standard output and nothing else
        #[arg(long)]
        json: bool,
        /// Further arguments for the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Look for packets, rule sets and configurations that are judged wrongly
    Fuzz(fuzz::Arguments),
    /// Build a release archive with units, example configuration and installer; print its path
    Package,
    /// Bring a release to a host: check there, restart, put the former version back if it fails
    Deploy(deploy::Arguments),
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { purpose } => setup::command(purpose)?,
        Task::Build { release } => {
            setup::ensure(Purpose::Build)?;
            println!("{}", artifacts::edge(release)?.display());
        }
        Task::Demo { json, keep } => return lab::demo(json, keep),
        Task::Test { update_budget: true, kernel, .. } => return test::update_budget(kernel),
        Task::Test { kernel: None, .. } => return test::command(),
        Task::Test { kernel: Some(version), rest, .. } => return kernels::command(version, &rest),
        Task::Bench { name, json, rest } => return lab::bench(&name, json, &rest),
        Task::Fuzz(arguments) => return fuzz::command(&arguments),
        Task::Package => {
            setup::ensure(Purpose::Build)?;
            println!("{}", package::archive(&artifacts::edge(true)?)?.display());
        }
        Task::Deploy(arguments) => return deploy::command(&arguments),
    }
    Ok(ExitCode::SUCCESS)
}
