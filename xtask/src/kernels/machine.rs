//! One virtual machine under qemu, from its start to its end. Its second serial port is our
//! standard input of lines; its first, with the kernel's messages, goes to a file.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::shell::{say, show};

/// The program, from the package qemu-system-x86.
pub const QEMU: &str = "qemu-system-x86_64";

/// What to start.
pub struct Machine<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// The first root file system.
    pub root: &'a Path,
    /// Where the kernel's messages go.
    pub messages: &'a Path,
    /// More of the first process's environment: a name, `=` and a value.
    pub environment: Option<&'a str>,
    /// Arguments for the first process.
    pub arguments: &'a [String],
    /// It is ended after this.
    pub limit: Duration,
}

/// How it ended.
pub struct Ending {
    /// It did not end by itself.
    pub late: bool,
    /// How long it ran.
    pub took: Duration,
}

impl Machine<'_> {
    /// Runs it and hands every line of its output to `line`.
    pub fn run(&self, mut line: impl FnMut(&str)) -> Result<Ending> {
        let mut command = self.command();
        say(format!("$ {}   (at most {} s)", show(&command), self.limit.as_secs()));
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {QEMU} (package qemu-system-x86)"))?;
        let output = child.stdout.take().context("qemu has no output")?;
        let late = Arc::new(AtomicBool::new(false));
        let guard = {
            let (late, limit) = (Arc::clone(&late), self.limit);
            thread::spawn(move || end_within(child, began + limit, &late))
        };
        for text in BufReader::new(output).split(b'\n') {
            let text = text?;
            line(String::from_utf8_lossy(&text).trim_end_matches('\r'));
        }
        if guard.join().is_err() {
            anyhow::bail!("waiting for qemu failed");
        }
        Ok(Ending { late: late.load(Ordering::Relaxed), took: began.elapsed() })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(QEMU);
        let processor = if has_virtualisation() { ["kvm", "host"] } else { ["tcg", "max"] };
        command.args(["-accel", processor[0], "-cpu", processor[1]]);
        command.args(["-m", "2048", "-smp", "2", "-nodefaults", "-display", "none"]);
        command.arg("-no-reboot").arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.root);
        command.arg("-serial").arg(format!("file:{}", self.messages.display()));
        command.args(["-serial", "stdio"]);
        let mut line = String::from("console=ttyS0 panic=-1 loglevel=4 EDGE_TEST_EMULATED=");
        line += if processor[0] == "tcg" { "1" } else { "0" };
        if let Some(more) = self.environment {
            line += &format!(" {more}");
        }
        if !self.arguments.is_empty() {
            line += " -- ";
            line += &self.arguments.join(" ");
        }
        command.args(["-append", &line]);
        command
    }
}

/// Waits for the end and makes it come at the deadline.
fn end_within(mut child: Child, deadline: Instant, late: &AtomicBool) {
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
            Ok(Some(_)) => return,
            Ok(None) | Err(_) => {
                late.store(true, Ordering::Relaxed);
                // Both fail only when it has ended.
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
        }
    }
}

/// Whether the processor can run the machine itself: some machines have a `/dev/kvm` that leads
/// nowhere.
fn has_virtualisation() -> bool {
    let usable = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    usable && virtualises(&processor)
}

fn virtualises(cpuinfo: &str) -> bool {
    let mut flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_processor_that_says_so_virtualises() {
        let table = [
            ("model name : vmx\nflags\t\t: fpu sse2 vmx lm\n", true),
            ("flags\t\t: fpu svm\n", true),
            ("flags\t\t: fpu sse2 svm_lock\n", false),
            ("model name : svm\nbugs : vmx\n", false),
        ];
        for (text, expected) in table {
            assert_eq!(virtualises(text), expected, "{text}");
        }
    }
}
