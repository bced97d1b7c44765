//! Running other programs, and saying so.
//!
//! Everything goes to standard error: standard output belongs to what a machine reads.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// One line about what is being done.
pub fn say(text: impl AsRef<str>) {
    eprintln!("xtask: {}", text.as_ref());
}

/// The command as one could type it.
pub fn show(command: &Command) -> String {
    let mut words = Vec::new();
    for word in [command.get_program()].into_iter().chain(command.get_args()) {
        words.push(quote(&word.to_string_lossy()));
    }
    words.join(" ")
}

/// A word as the shell must read it. Safe for anything without a NUL.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Says and runs it; its output goes to standard error. An error when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    say(format!("$ {}", show(command)));
    run_quietly(command)
}

/// Runs it without saying so; its output goes to standard error.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .with_context(|| format!("cannot start {}", show(command)))?;
    if !status.success() {
        bail!("failed ({status}): {}", show(command));
    }
    Ok(())
}

/// Says and runs it, and ends it when it takes longer than `limit`.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    say(format!("$ {}   (at most {} s)", show(command), limit.as_secs()));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .spawn()
        .with_context(|| format!("cannot start {}", show(command)))?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                bail!("failed ({status}): {}", show(command));
            }
            return Ok(());
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("gave up after {} s: {}", limit.as_secs(), show(command));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Its standard output, when it succeeds.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", show(command)))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("failed ({}): {}\n{}", output.status, show(command), reason.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where the shell would find this program; the folders of system programs count too.
pub fn on_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|folder| folder.join(name.as_ref())).find(|file| {
        fs::metadata(file)
            .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    })
}

/// Whether we run as root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0)
}

/// Whether sudo gives root without asking.
pub fn sudo_works() -> bool {
    on_path("sudo").is_some()
        && Command::new("sudo")
            .args(["-n", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

/// A command for this program that runs as root: itself, or through sudo.
pub fn as_root(program: &Path) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if sudo_works() {
        let mut command = Command::new("sudo");
        command.args(["-n", "-E", "--"]).arg(program);
        return Ok(command);
    }
    bail!(
        "this makes network namespaces and loads kernel programs, which needs root: run it as \
         root, or let sudo work without a password"
    )
}

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// cargo, the same that runs us, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_reaches_the_program_unchanged() {
        for word in ["plain", "", "two words", "it's", "$HOME `id` ;|&", "a\nb", "\\", "'"] {
            let shell = format!("printf %s {}", quote(word));
            let seen = output(Command::new("sh").arg("-c").arg(shell)).expect("sh runs");
            assert_eq!(seen, word);
        }
    }

    #[test]
    fn a_command_over_its_time_limit_is_ended() {
        let start = Instant::now();
        let result = run_within(Command::new("sleep").arg("30"), Duration::from_millis(200));
        assert!(result.is_err());
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
