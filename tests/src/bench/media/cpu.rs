//! CPU time of the threads that relay: the kernel thread of a device, and processes.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};

/// The kernel threads that receive for `device`.
pub fn device_threads(device: &str) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    let beginning = format!("napi/{device}");
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        // The kernel cuts the name off.
        let name = name.trim_end();
        if name.starts_with("napi/")
            && (name.starts_with(&beginning) || beginning.starts_with(name))
        {
            found.push(id);
        }
    }
    ensure!(!found.is_empty(), "no kernel thread receives for {device}");
    Ok(found)
}

/// The threads of a process.
pub fn threads_of(process: u32) -> Result<Vec<i32>> {
    let folder = format!("/proc/{process}/task");
    let ids = fs::read_dir(&folder).with_context(|| folder.clone())?.flatten();
    Ok(ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The threads of our own process with this name.
pub fn threads_named(name: &str) -> Result<Vec<i32>> {
    let own = threads_of(std::process::id())?;
    let is = |id: &i32| {
        std::fs::read_to_string(format!("/proc/self/task/{id}/comm"))
            .is_ok_and(|found| found.trim_end() == name)
    };
    Ok(own.into_iter().filter(is).collect())
}

/// What these threads have used so far.
pub fn used(threads: &[i32]) -> Result<Duration> {
    let mut total = 0;
    for thread in threads {
        // Of a thread, whoever it belongs to.
        let path = format!("/proc/{thread}/schedstat");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let first = text.split_whitespace().next().unwrap_or_default();
        total += first.parse::<u64>().with_context(|| path.clone())?;
    }
    Ok(Duration::from_nanos(total))
}

/// Keeps threads on one CPU, ahead of what else runs on the machine: a packet waits for nobody, or
/// the queues between the namespaces run over. Of two on one CPU, the one with more `urgency` goes first.
pub fn pin(threads: &[i32], cpu: usize, urgency: i32) {
    for thread in threads {
        // SAFETY: both are plain data; a failure only makes the figures less steady.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(*thread, size_of::<libc::cpu_set_t>(), &set);
            let first = libc::sched_param { sched_priority: urgency };
            // What a thread starts is ahead of nobody.
            let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
            if libc::sched_setscheduler(*thread, policy, &first) != 0 {
                // A group of processes may have no share of such time.
                libc::setpriority(libc::PRIO_PROCESS, *thread as libc::id_t, -20);
            }
        }
    }
}
