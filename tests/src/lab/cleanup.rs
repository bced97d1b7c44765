//! Takes away everything a lab left: on drop, at exit, on Ctrl-C, and at the next start when a
//! run crashed. Works from names alone: `edge-<tag>-<pid>` is in every namespace, folder and pin.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, Once,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::netns::Namespace;
use crate::patience::BUSY;

/// Where pins live.
pub const BPFFS: &str = "/sys/fs/bpf";

static LIVE: Mutex<Vec<String>> = Mutex::new(Vec::new());
static HOOKS: Once = Once::new();
static ENDING: AtomicBool = AtomicBool::new(false);

/// The process was told to end: nothing new is to be started.
pub fn ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

/// The lab called `prefix` exists from now on, until [`remove`].
pub fn register(prefix: &str) {
    if let Ok(mut live) = LIVE.lock() {
        live.push(prefix.to_owned());
    }
    HOOKS.call_once(|| {
        // SAFETY: `at_exit` is an `extern "C"` function without arguments that does not unwind
        // (it catches panics), as atexit(3) wants.
        let _ = unsafe { libc::atexit(at_exit) };
        std::thread::spawn(end_on_signal);
    });
}

/// The lab is to stay after the process ends.
pub fn forget(prefix: &str) {
    if let Ok(mut live) = LIVE.lock() {
        live.retain(|name| name != prefix);
    }
}

/// Ends the processes in the lab's namespaces, removes these, the pins and the folder.
pub fn remove(prefix: &str) {
    forget(prefix);
    let namespaces = Namespace::with_prefix(&format!("{prefix}-"));
    end_processes(&namespaces);
    for name in &namespaces {
        Namespace::delete(name);
    }
    for pins in entries(Path::new(BPFFS), prefix) {
        let _ = std::fs::remove_dir_all(pins);
    }
    let _ = std::fs::remove_dir_all(directory(prefix));
}

/// Removes labs whose process is dead, unless they were kept on purpose.
pub fn remove_stale() {
    let mut prefixes: Vec<String> = Namespace::with_prefix("edge-");
    prefixes
        .extend(entries(&std::env::temp_dir(), "edge-").iter().filter_map(|path| file_name(path)));
    let mut seen: Vec<String> = prefixes.iter().filter_map(|name| lab_prefix(name)).collect();
    seen.sort();
    seen.dedup();
    for prefix in seen {
        let owner = prefix.rsplit('-').next().and_then(|pid| pid.parse().ok());
        let alive = owner.and_then(Pid::from_raw).is_some_and(|pid| test_kill_process(pid).is_ok());
        if !alive && directory(&prefix).join(MARKER).exists() && !kept(&prefix) {
            remove(&prefix);
        }
    }
}

/// Removes the lab called `prefix`, kept or not; false when there is none.
pub fn remove_kept(prefix: &str) -> bool {
    let exists =
        lab_prefix(prefix).as_deref() == Some(prefix) && directory(prefix).join(MARKER).exists();
    if exists {
        remove(prefix);
    }
    exists
}

/// In a lab's folder: this folder is a lab's.
pub const MARKER: &str = "lab";
/// In a lab's folder: it was kept on purpose.
pub const KEPT: &str = "kept";

fn kept(prefix: &str) -> bool {
    directory(prefix).join(KEPT).exists()
}

/// The lab's folder.
pub fn directory(prefix: &str) -> PathBuf {
    std::env::temp_dir().join(prefix)
}

/// `edge-demo-123` of `edge-demo-123-contoso`.
fn lab_prefix(name: &str) -> Option<String> {
    let mut parts = name.splitn(4, '-');
    let (edge, tag, pid) = (parts.next()?, parts.next()?, parts.next()?);
    let valid = edge == "edge" && !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| format!("{edge}-{tag}-{pid}"))
}

fn file_name(path: &Path) -> Option<String> {
    path.file_name().and_then(|name| name.to_str()).map(str::to_owned)
}

fn entries(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| file_name(path).is_some_and(|name| name.starts_with(prefix)))
        .collect()
}

fn end_processes(namespaces: &[String]) {
    let own = std::process::id();
    let pids = || -> Vec<Pid> {
        namespaces
            .iter()
            .flat_map(|name| Namespace::pids(name))
            .filter(|&pid| u32::try_from(pid) != Ok(own))
            .filter_map(Pid::from_raw)
            .collect()
    };
    // What still runs would write into the folder that is taken away.
    for (signal, wait) in [(Signal::TERM, Duration::from_secs(2)), (Signal::KILL, BUSY)] {
        for pid in pids() {
            let _ = kill_process(pid, signal);
        }
        let deadline = Instant::now() + wait;
        while !pids().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn remove_all() {
    let live = LIVE.lock().map(|live| live.clone()).unwrap_or_default();
    for prefix in &live {
        remove(prefix);
    }
    // A thread that was at work may have made a folder since.
    for _ in 0..if ending() { 5 } else { 0 } {
        std::thread::sleep(Duration::from_millis(100));
        for prefix in &live {
            remove(prefix);
        }
    }
}

extern "C" fn at_exit() {
    let _ = std::panic::catch_unwind(remove_all);
}

/// Ctrl-C and SIGTERM: clean up first, then end.
fn end_on_signal() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    });
    ENDING.store(true, Ordering::Relaxed);
    eprintln!("interrupted: taking the lab away");
    std::process::exit(130);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_known_by_its_first_three_parts() {
        for (name, prefix) in [
            ("edge-demo-123-contoso", Some("edge-demo-123")),
            ("edge-demo-123-contoso-inside", Some("edge-demo-123")),
            ("edge-demo-123", Some("edge-demo-123")),
            ("edge-demo-12x-contoso", None),
            ("edge", None),
            ("other-demo-123", None),
        ] {
            assert_eq!(lab_prefix(name).as_deref(), prefix, "{name}");
        }
    }
}
