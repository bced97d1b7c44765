//! Children of the lab: started inside a namespace, their output in a file, and ended with the
//! guard that holds them. Only processes that the lab started are ever ended, by their id.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::cleanup;

/// How long a child may take to end by itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(40);

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, both outputs going to `log` (appended).
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        if cleanup::ending() {
            bail!("interrupted");
        }
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exited() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} did not end within {limit:?}; it wrote:\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks again and again until `check` gives something; not once more when the process ends.
    pub fn wait_ready<T>(
        &mut self,
        limit: Duration,
        mut check: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let last = check();
            if let Ok(Some(value)) = last {
                return Ok(value);
            }
            if let Some(status) = self.exited() {
                bail!("{} ended: {status}\n{}", self.name, self.log_tail());
            }
            if Instant::now() >= deadline {
                let why = last.err().map(|error| format!("{error:#}\n")).unwrap_or_default();
                let (log, stands) = (self.log_tail(), self.stands());
                bail!("{} not ready within {limit:?}: {why}{log}\n{stands}", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where its threads stand in the kernel, for error messages.
    fn stands(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).into_iter().flatten();
        let about = tasks.flatten().map(|task| {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name));
            ["comm", "stat", "stack"].map(|name| read(name).unwrap_or_default()).concat()
        });
        about.collect::<Vec<_>>().join("\n")
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and ends it when it does not.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.exited() {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        self.wait(GRACE)
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
            .context("no VmRSS")
    }

    /// The last lines of its output, for error messages.
    pub fn log_tail(&self) -> String {
        tail(&self.log(), 30)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.stop().is_err() {
            self.kill();
        }
    }
}

/// The last `lines` lines.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Asks again and again until `check` gives something.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let last = check();
        if let Ok(Some(value)) = last {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return match last {
                Err(error) => Err(error.context(format!("{what}: not within {limit:?}"))),
                _ => bail!("{what}: not within {limit:?}"),
            };
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
