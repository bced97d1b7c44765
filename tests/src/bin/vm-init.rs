//! The first process of the virtual machine in which `cargo xtask test --kernel` runs tests: it
//! mounts what they need, loads the kernel's modules, runs every program in `/tests` with its own
//! arguments, and ends the machine. It must never run anywhere else, and refuses to.
//!
//! Output goes to the second serial port; the first belongs to the kernel's messages.

use std::{
    ffi::CStr,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, finit_module, reboot},
};

/// Where the tests' output goes.
const OUTPUT: &str = "/dev/ttyS1";
/// The last line of a run that went through, whatever the tests said.
const DONE: &str = "vm-init: all programs have run";
/// The machine ends after this, even when nobody outside does it.
const LIMIT: Duration = Duration::from_secs(1800);

const MOUNTS: [(&str, &str, &CStr); 7] = [
    ("proc", "/proc", c""),
    ("sysfs", "/sys", c""),
    ("devtmpfs", "/dev", c""),
    ("bpf", "/sys/fs/bpf", c""),
    ("tracefs", "/sys/kernel/tracing", c""),
    ("tmpfs", "/run", c"mode=755"),
    ("tmpfs", "/tmp", c"mode=1777"),
];

fn main() -> ExitCode {
    if !rustix::process::getpid().is_init() || !Path::new("/tests").is_dir() {
        eprintln!("vm-init: only for the virtual machine of `cargo xtask test --kernel`");
        return ExitCode::FAILURE;
    }
    if let Err(fault) = run() {
        println!("vm-init: {fault:#}");
    }
    rustix::fs::sync();
    // The machine was told to end instead of starting again.
    if let Err(fault) = reboot(RebootCommand::Restart) {
        println!("vm-init: the machine does not end: {fault}");
    }
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    for (kind, at, data) in MOUNTS {
        fs::create_dir_all(at).with_context(|| at.to_owned())?;
        match mount(kind, at, kind, MountFlags::empty(), Some(data)) {
            // The kernel mounts some of them by itself.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(fault) => return Err(fault).with_context(|| format!("mounting {kind} at {at}")),
        }
    }
    for module in sorted(Path::new("/modules"))? {
        let file = File::open(&module)?;
        finit_module(&file, c"", 0).with_context(|| module.display().to_string())?;
    }
    let output = OpenOptions::new().write(true).open(OUTPUT).context(OUTPUT)?;
    let deadline = Instant::now() + LIMIT;
    for program in sorted(Path::new("/tests"))? {
        writeln!(&output, "vm-init: running {}", program.display())?;
        run_until(deadline, &program, &output)
            .with_context(|| format!("running {}", program.display()))?;
    }
    writeln!(&output, "{DONE}")?;
    // SAFETY: the descriptor is open; the call only waits until the port has sent everything.
    let sent = unsafe { libc::tcdrain(output.as_raw_fd()) };
    anyhow::ensure!(sent == 0, "{OUTPUT}: {}", io::Error::last_os_error());
    Ok(())
}

/// Runs a program of tests to its end, which may be a failure. The end of the time is a fault.
fn run_until(deadline: Instant, program: &Path, output: &File) -> Result<()> {
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()?;
    while child.try_wait()?.is_none() {
        anyhow::ensure!(Instant::now() < deadline, "not done after {} s", LIMIT.as_secs());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files =
        entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, io::Error>>()?;
    files.sort();
    Ok(files)
}
