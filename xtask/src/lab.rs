//! `cargo xtask demo`, `bench` and `fuzz`: set up, build, run the program of the tests crate.
//!
//! Standard output is the program's alone.

use std::{
    path::Path,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    artifacts,
    setup::{self, Purpose},
    shell::{as_root, say, show},
};

/// Plays the demo.
pub fn demo(json: bool, keep: bool) -> Result<ExitCode> {
    setup::ensure(Purpose::Demo)?;
    let program = artifacts::edge_and("demo", false)?;
    let mut arguments = Vec::new();
    arguments.extend(json.then_some("--json"));
    arguments.extend(keep.then_some("--keep"));
    run(&program, &arguments)
}

/// Runs a benchmark.
pub fn bench(name: &str, json: bool, rest: &[String]) -> Result<ExitCode> {
    setup::ensure(Purpose::Bench)?;
    let program = artifacts::edge_and("bench", true)?;
    let mut arguments = vec![name];
    arguments.extend(json.then_some("--json"));
    arguments.extend(rest.iter().map(String::as_str));
    run(&program, &arguments)
}

/// Builds and runs another program of the tests.
pub fn program(name: &str, release: bool, arguments: &[String]) -> Result<ExitCode> {
    let program = artifacts::edge_and(name, release)?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(&program, &arguments)
}

/// Runs it as root with our standard output; its exit code is ours.
fn run(program: &Path, arguments: &[&str]) -> Result<ExitCode> {
    let mut command = as_root(program)?;
    command.args(arguments).stdin(Stdio::null());
    say(format!("$ {}", show(&command)));
    let status = command.status().with_context(|| format!("cannot start {}", program.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
