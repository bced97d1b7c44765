//! What processes cost: CPU of all their threads from the scheduler's own clock, and memory.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// A process and all its descendants.
pub fn family(id: u32) -> Vec<u32> {
    let mut all = vec![id];
    let mut at = 0;
    while let Some(&parent) = all.get(at) {
        let tasks = fs::read_dir(format!("/proc/{parent}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        at += 1;
    }
    all
}

/// CPU time of every thread of these processes: `/proc/PID/schedstat` alone is the main thread's.
/// A thread that has ended is no more counted: none may end while this is measured.
pub fn of(processes: &[u32]) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for id in processes {
        let tasks = fs::read_dir(format!("/proc/{id}/task"))
            .with_context(|| format!("process {id} is gone"))?;
        for task in tasks.flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            sum += nanoseconds(&text).unwrap_or_default();
        }
    }
    Ok(sum)
}

/// CPU time of the thread that asks.
pub fn of_thread() -> Result<Duration> {
    nanoseconds(&fs::read_to_string("/proc/thread-self/schedstat")?).context("no schedstat")
}

fn nanoseconds(schedstat: &str) -> Option<Duration> {
    Some(Duration::from_nanos(schedstat.split_whitespace().next()?.parse().ok()?))
}

/// Memory of these processes in KiB; what they share counts once.
pub fn resident_kib(processes: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for id in processes {
        let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup"))
            .with_context(|| format!("process {id} is gone"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        sum += line.trim().trim_end_matches("kB").trim().parse::<u64>()?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_work_is_seen_in_its_process() {
        let id = std::process::id();
        let before = of(&[id]).unwrap();
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let own = of_thread().unwrap();
                    while of_thread().unwrap() < own + Duration::from_millis(30) {}
                    assert!(of(&[id]).unwrap() >= before + Duration::from_millis(25));
                })
                .join()
                .unwrap();
        });
        assert!(family(id).contains(&id));
        assert!(resident_kib(&[id]).unwrap() > 100);
    }
}
