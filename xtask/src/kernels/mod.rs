//! `cargo xtask test --kernel`: the kernel-program tests and the firewall's tests on Debian's
//! older kernels, in a virtual machine that holds nothing else.

mod cpio;
mod image;
mod machine;
mod root;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};

pub use image::KernelVersion;

use crate::{
    artifacts,
    setup::{self, Purpose},
    shell::say,
    test::{Tally, result_of},
};
use image::Image;
use machine::Machine;

/// Programs of tests that run there: what loads, attaches and runs the kernel half.
const TESTS: [&str; 3] = ["program", "firewall", "egress"];
/// The first process.
const INIT: &str = "vm-init";
/// What it says when it has run everything.
const DONE: &str = "vm-init: all programs have run";
/// The machine is ended after this.
const LIMIT: Duration = Duration::from_secs(900);

/// Runs them and prints the closing line.
pub fn command(version: KernelVersion, arguments: &[String]) -> Result<ExitCode> {
    Ok(test(version, arguments)?.end())
}

/// Runs them. `arguments` go to each program of tests, as after `cargo test --`.
fn test(version: KernelVersion, arguments: &[String]) -> Result<Tally> {
    setup::ensure(Purpose::Kernels)?;
    let init = artifacts::helper(INIT)?;
    let programs = artifacts::tests(&TESTS)?;
    let folder = target(&init)?.join("kernels").join(version.number());
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let image = Image::provide(version, &folder)?;
    let root = folder.join("root.cpio");
    root::write(&image, &init, &programs, &root)?;
    let messages = folder.join("messages.log");
    let kernel = image.kernel()?;
    let machine =
        Machine { kernel: &kernel, root: &root, messages: &messages, arguments, limit: LIMIT };
    let (mut tally, mut done) = (Tally::default(), false);
    let ending = machine.run(|line| {
        println!("{line}");
        done |= line == DONE;
        tally.add(result_of(line).unwrap_or_default());
    })?;
    say(format!("kernel {}: {} s in the machine", version.number(), ending.took.as_secs()));
    if !done {
        tally.failed += 1;
        let why = if ending.late { "took too long" } else { "ended too early" };
        let said = fs::read_to_string(&messages).unwrap_or_default();
        say(format!("the machine {why}; its kernel said ({}):", messages.display()));
        for line in last_lines(&said, 30) {
            say(line);
        }
    }
    Ok(tally)
}

/// The folder that cargo builds into: above the profile's.
fn target(program: &Path) -> Result<PathBuf> {
    let folder = program.parent().and_then(Path::parent);
    folder.map(PathBuf::from).context("cargo built into no folder")
}

fn last_lines(text: &str, count: usize) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}
