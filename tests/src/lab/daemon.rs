//! An `edge` daemon in a namespace of the lab, and the `edge` command that talks to it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::{Lab, cleanup, config::EdgeConfig, netns::Namespace, process::Process};
use crate::patience::BUSY;

/// A running daemon; dropping it ends it and takes its pins away.
pub struct Edge {
    /// What its file says.
    pub config: EdgeConfig,
    /// A program that launcher the daemon, with its arguments, at its next start.
    pub launcher: Vec<String>,
    /// More variables of its environment, at its next start.
    pub environment: Vec<(String, String)>,
    namespace: Namespace,
    dir: PathBuf,
    pins: PathBuf,
    process: Option<Process>,
}

/// What a command of `edge` came to.
#[derive(Debug)]
pub struct Answer {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Edge {
    /// Writes the file and starts the daemon; returns when it is ready.
    pub fn start(lab: &Lab, config: EdgeConfig) -> Result<Self> {
        let mut edge = Self::prepare(lab, config)?;
        edge.run()?;
        Ok(edge)
    }

    /// Writes the file only.
    pub fn prepare(lab: &Lab, config: EdgeConfig) -> Result<Self> {
        let name = config.site.name();
        let dir = lab.dir().join(name);
        for folder in ["state", "run"] {
            std::fs::create_dir_all(dir.join(folder))?;
        }
        let pins = Path::new(cleanup::BPFFS).join(format!("{}-{name}", lab.prefix()));
        let namespace = lab.site(config.site).clone();
        let environment = Vec::new();
        let launcher = Vec::new();
        let edge = Self { config, launcher, environment, namespace, dir, pins, process: None };
        edge.write_config()?;
        Ok(edge)
    }

    /// Writes the file again, after `config` was changed.
    pub fn write_config(&self) -> Result<()> {
        let text = self.config.to_toml(&self.dir, &self.pins)?;
        std::fs::write(self.file(), text).with_context(|| self.file().display().to_string())
    }

    /// Starts the daemon (again) and waits until it is ready.
    pub fn run(&mut self) -> Result<()> {
        let (binary, before) = (binary()?, self.launcher.iter().map(PathBuf::from));
        let mut words = before.chain([binary]);
        let mut command = self.namespace.command(words.next().context("no program")?);
        command.args(words).arg("run").arg("-c").arg(self.file()).env("NO_COLOR", "1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::spawn("edge", command, &self.log_file())?;
        process.wait_ready(BUSY, || {
            Ok((self.status()?["ready"] == Value::Bool(true)).then_some(()))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Runs `edge ARGUMENTS -c FILE` to its end.
    pub fn command(&self, arguments: &[&str]) -> Result<Answer> {
        let output = self.cli(arguments)?.output().context("edge does not start")?;
        Ok(Answer::from(output))
    }

    /// Runs `edge ARGUMENTS --json -c FILE` and reads the answer; a failure is an error.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.push("--json");
        let answer = self.command(&all)?;
        if answer.code != 0 {
            bail!("edge {}: exit {}: {}", arguments.join(" "), answer.code, answer.stderr.trim());
        }
        serde_json::from_str(&answer.stdout)
            .with_context(|| format!("edge {}: {}", arguments.join(" "), answer.stdout))
    }

    /// The command, not yet run, outside the namespace: the control socket and the pins are files.
    pub fn cli(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("-c").arg(self.file());
        Ok(command)
    }

    /// `edge status --json`.
    pub fn status(&self) -> Result<Value> {
        self.json(&["status"])
    }

    /// How often the daemon refused something for this reason.
    pub fn refusals(&self, reason: &str) -> Result<u64> {
        Ok(self.status()?["refusals"][reason].as_u64().unwrap_or(0))
    }

    /// A count of the network shell: `handshake.no-certificate`, `refused.table-full` and so on.
    pub fn count(&self, name: &str) -> Result<u64> {
        self.status()?["counts"][name].as_u64().with_context(|| format!("no count {name}"))
    }

    /// The row of `edge domain list` about `name`, if there is one.
    pub fn domain(&self, name: &str) -> Result<Option<Value>> {
        let list = self.json(&["domain", "list"])?;
        let rows = list.as_array().context("edge domain list gives no array")?;
        Ok(rows.iter().find(|row| row["domain"] == name).cloned())
    }

    /// Whether `name` is listed as `state` (`allowed`, `blocked`).
    pub fn domain_is(&self, name: &str, state: &str) -> Result<bool> {
        Ok(self.domain(name)?.is_some_and(|row| row["state"] == state))
    }

    /// Ends the daemon without warning: `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.signal(Signal::KILL)?;
        process.wait(BUSY)?;
        Ok(())
    }

    /// Waits until the daemon has ended by itself.
    pub fn ended(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.wait(BUSY)?;
        Ok(())
    }

    /// Ends the daemon in order: SIGTERM.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        let status = process.stop()?;
        if !status.success() {
            bail!("edge ended with {status}\n{}", process.log_tail());
        }
        Ok(())
    }

    /// The child, while it runs.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("the daemon does not run")
    }

    /// Everything the daemon logged, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read(self.log_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Its configuration file.
    pub fn file(&self) -> PathBuf {
        self.dir.join("edge.toml")
    }

    /// Its pins.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where it runs.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Leaves the daemon running when the guard goes.
    pub fn keep(mut self) {
        if let Some(process) = self.process.take() {
            std::mem::forget(process);
        }
        std::mem::forget(self);
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("edge.log")
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        drop(self.process.take());
        let _ = self.command(&["detach", "--force"]);
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The `edge` binary of this build: beside our own executable, or one folder up for tests. Named
/// otherwise by `EDGE_BINARY`.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("EDGE_BINARY") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    let candidate =
        own.ancestors().skip(1).take(2).map(|dir| dir.join("edge")).find(|p| p.exists());
    candidate.context("the edge binary is not built: run `cargo build -p edge-user`")
}
