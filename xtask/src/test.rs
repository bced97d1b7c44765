//! `cargo xtask test`: formatting, clippy, every test of the workspace, and a few on an older
//! kernel.
//!
//! Its last line on standard output is for machines: `N passed, N failed`. Formatting, clippy and
//! a build that fails count as one check each, so that "0 failed" means that all is well.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    kernels::{self, KernelVersion},
    setup::{self, Purpose},
    shell::{cargo, is_root, output, run, say, show, sudo_works, workspace},
};

/// How many checks passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// These passed.
    pub passed: u64,
    /// These did not.
    pub failed: u64,
}

impl Tally {
    /// Counts those too.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Prints the last line; the exit code.
    pub fn end(self) -> ExitCode {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn check(&mut self, name: &str, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                say(format!("{name}: {error:#}"));
            }
        }
    }
}

/// Runs everything, also after a failure, so that one run shows all there is to mend.
pub fn command() -> Result<ExitCode> {
    let start = Instant::now();
    setup::ensure(Purpose::Test)?;
    let runner = runner()?;
    let mut tally = Tally::default();
    tally.check("formatting", run(cargo().args(["fmt", "--all", "--check"])));
    tally.check(
        "clippy",
        run(cargo()
            .args(["clippy", "--workspace", "--all-targets", "--locked"])
            .args(["--", "-D", "warnings"])),
    );
    tally.check("build", build());
    tally.add(tests(runner)?);
    match kernels::short(KernelVersion::V6_1) {
        Ok(older) => tally.add(older),
        Err(error) => tally.check("kernel 6.1", Err(error)),
    }
    say(format!("took {} s", start.elapsed().as_secs()));
    Ok(tally.end())
}

/// Builds what the tests run, and the tests.
fn build() -> Result<()> {
    // The lab runs the daemon itself; cargo would not build it for another package's tests.
    run(cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
    run(cargo().args(["test", "--workspace", "--no-run", "--locked"]))?;
    // All that goes to the disk now, and not while daemons wait for what they write.
    run(&mut Command::new("sync"))
}

/// `cargo xtask test --update-budget`: writes down what the kernel programs cost on this kernel, or
/// on one of Debian's.
pub fn update_budget(kernel: Option<KernelVersion>) -> Result<ExitCode> {
    const RECORD: &str = "tests/tests/program/budget.json";
    if let Some(version) = kernel {
        let file = workspace().join(RECORD);
        fs::write(&file, kernels::measure(version)?).with_context(|| file.display().to_string())?;
    } else {
        setup::ensure(Purpose::Test)?;
        run(cargo()
            .args(["test", "--package", "edge-tests", "--test", "program", "--locked", "--"])
            .arg("the_programs_have_not_grown_by_a_tenth_without_a_word")
            .env("EDGE_UPDATE_BUDGET", "1")
            .envs(runner()?))?;
    }
    say(format!("{RECORD} is written: look at what changed, then commit it"));
    Ok(ExitCode::SUCCESS)
}

/// How test programs become root: not at all when we are, else through sudo, by cargo's setting
/// for a runner.
fn runner() -> Result<Option<(String, &'static str)>> {
    if is_root() {
        return Ok(None);
    }
    if !sudo_works() {
        bail!(
            "the lab makes network namespaces and the program tests load XDP programs, which \
             needs root: run `cargo xtask test` as root, or let sudo work without a password. \
             Tests that need no root: `cargo test -p edge-ebpf -p xtask`"
        );
    }
    let about = output(Command::new("rustc").arg("-vV"))?;
    let host = about
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc -vV names no host")?;
    let host = host.replace('-', "_").to_uppercase();
    Ok(Some((format!("CARGO_TARGET_{host}_RUNNER"), "sudo -n -E --")))
}

/// Runs `cargo test`, passes its output on and counts.
fn tests(runner: Option<(String, &'static str)>) -> Result<Tally> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast", "--locked"]);
    command.envs(runner).stdin(Stdio::null()).stdout(Stdio::piped());
    say(format!("$ {}", show(&command)));
    let mut child = command.spawn().context("cannot start cargo")?;
    let mut tally = Tally::default();
    let stdout = child.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.add(result_of(&line).unwrap_or_default());
    }
    let status = child.wait()?;
    // A test program that does not compile, or dies before it can count, fails all the same.
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// Reads `test result: ok. 3 passed; 0 failed; …`.
pub fn result_of(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |name: &str| {
        counts.split(';').find_map(|part| part.trim().strip_suffix(name)?.trim().parse().ok())
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_lines_of_libtest() {
        let tally = |passed, failed| Some(Tally { passed, failed });
        let table = [
            (
                "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
                tally(3, 0),
            ),
            ("test result: FAILED. 12 passed; 2 failed; 0 ignored; finished in 0.1s", tally(12, 2)),
            ("test a::b ... ok", None),
            ("test result: ok. many passed; 0 failed;", None),
            ("", None),
        ];
        for (line, expected) in table {
            assert_eq!(result_of(line), expected, "{line}");
        }
    }
}
