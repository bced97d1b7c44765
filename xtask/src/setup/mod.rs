//! `cargo xtask setup`: makes a fresh machine able to build, test and deploy.
//!
//! It looks first and then does only what is missing, so that a second run does nothing, and a
//! call from `build`, `test` or `demo` costs a few file look-ups and no output. Without root, or
//! on a system that is not Debian, it changes nothing that needs either: it prints the commands.

mod kernel;
pub mod packages;
mod toolchain;

use std::{fmt, time::Duration};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::shell::{is_root, say};

/// What the machine is to be made able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// Build the daemon.
    Build,
    /// Run all tests: everything but what only deploying needs.
    Test,
    /// Run the kernel half's tests on older kernels.
    Kernels,
    /// Run the demo.
    Demo,
    /// Run the benchmarks.
    Bench,
    /// Build libFuzzer's targets.
    Fuzz,
    /// Build a release and bring it to a host.
    Deploy,
}

/// Something that is missing, and how to get it.
#[derive(Debug)]
pub struct Step {
    /// What is missing, in words.
    missing: String,
    /// The commands a person would type.
    commands: Vec<String>,
    /// Why we cannot do it ourselves on this machine, if so.
    barred: Option<Barrier>,
    /// How to do it.
    action: Action,
}

/// What keeps us from doing a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Barrier {
    NotRoot,
    NotDebian,
    NoRustup,
}

impl fmt::Display for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRoot => "needs root",
            Self::NotDebian => "this is not Debian",
            Self::NoRustup => "rustup is not installed",
        })
    }
}

/// The ways in which something missing is made.
#[derive(Debug)]
enum Action {
    BpfToolchain,
    BpfLinker,
    MountBpffs,
    Packages(Vec<&'static str>),
}

impl Action {
    fn perform(&self) -> Result<()> {
        match self {
            Self::BpfToolchain => toolchain::provide(),
            Self::BpfLinker => toolchain::install_linker(),
            Self::MountBpffs => kernel::mount_bpffs(),
            Self::Packages(names) => packages::install(names),
        }
    }
}

/// One line of the closing table.
pub struct Row {
    what: &'static str,
    found: String,
}

/// `cargo xtask setup`: with a table at the end.
pub fn command(purpose: Purpose) -> Result<()> {
    provide(purpose)?;
    print!("{}", table(&rows(purpose)));
    Ok(())
}

/// Called by the other commands first: says nothing when everything is there.
pub fn ensure(purpose: Purpose) -> Result<()> {
    if provide(purpose)? {
        eprint!("{}", table(&rows(purpose)));
    }
    Ok(())
}

/// Makes what is missing; whether anything was.
fn provide(purpose: Purpose) -> Result<bool> {
    let steps = missing(purpose)?;
    if steps.is_empty() {
        return Ok(false);
    }
    if steps.iter().any(|step| step.barred.is_some()) {
        bail!(instructions(&steps));
    }
    for step in &steps {
        say(format!("missing: {}", step.missing));
        step.action.perform()?;
    }
    let left = missing(purpose)?;
    if !left.is_empty() {
        bail!("still missing after set-up.\n{}", instructions(&left));
    }
    Ok(true)
}

fn missing(purpose: Purpose) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    steps.extend(toolchain::missing_toolchain());
    steps.extend(toolchain::missing_linker());
    if matches!(purpose, Purpose::Test | Purpose::Demo | Purpose::Bench) {
        steps.extend(kernel::missing_bpffs());
    }
    steps.extend(packages::missing(purpose)?);
    Ok(steps)
}

/// What a person has to type when we may not do it.
fn instructions(steps: &[Step]) -> String {
    let mut text = String::from("set-up is not complete, and not all of it can be done from here:");
    for step in steps {
        text += &format!("\n  missing: {}", step.missing);
        if let Some(barrier) = step.barred {
            text += &format!(" ({barrier})");
        }
    }
    text += "\nRun these commands, then try again:";
    for command in steps.iter().flat_map(|step| &step.commands) {
        text += &format!("\n  {command}");
    }
    text
}

fn rows(purpose: Purpose) -> Vec<Row> {
    let mut rows = toolchain::rows();
    rows.extend(kernel::rows());
    rows.extend(packages::rows(purpose));
    rows
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
    rows.iter().map(|row| format!("{:width$}  {}\n", row.what, row.found)).collect()
}

/// The barrier for a step that only root can do.
fn root_barrier() -> Option<Barrier> {
    (!is_root()).then_some(Barrier::NotRoot)
}

/// How long a download of a toolchain may take.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_name_every_missing_thing_its_barrier_and_its_commands() {
        let step = |missing: &str, command: &str, barred| Step {
            missing: missing.to_owned(),
            commands: vec![command.to_owned()],
            barred,
            action: Action::MountBpffs,
        };
        let text = instructions(&[
            step("bpffs", "mount -t bpf bpf /sys/fs/bpf", Some(Barrier::NotRoot)),
            step("bpf-linker", "cargo install bpf-linker", None),
        ]);
        for part in ["bpffs (needs root)", "mount -t bpf", "missing: bpf-linker", "cargo install"] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let rows = [
            Row { what: "kernel", found: "6.18".to_owned() },
            Row { what: "bpf-linker", found: "0.10.3".to_owned() },
        ];
        assert_eq!(table(&rows), "kernel      6.18\nbpf-linker  0.10.3\n");
    }
}
