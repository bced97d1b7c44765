//! How long tests wait, and how they say what they leave out.

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

/// `1` in a machine whose processor is emulated; `cargo xtask test --kernel` sets it.
const EMULATED: &str = "EDGE_TEST_EMULATED";
/// An emulated processor is about this much slower, with others at work beside it.
const SLOWER: u32 = 10;

/// How long what takes a moment may take on a machine that is busy with other work. Whoever waits
/// for it goes on as soon as it is there.
pub const BUSY: Duration = Duration::from_secs(120);

/// Whether the processor is emulated.
pub fn emulated() -> bool {
    is_emulated(std::env::var(EMULATED).ok().as_deref())
}

fn is_emulated(value: Option<&str>) -> bool {
    value == Some("1")
}

/// How long to wait for what a real processor has done within `limit`.
pub fn patience(limit: Duration) -> Duration {
    if emulated() { limit * SLOWER } else { limit }
}

/// Waits until `check` holds, which takes a moment.
///
/// # Panics
/// When it does not come to hold.
#[track_caller]
pub fn eventually(what: &str, check: impl Fn() -> bool) {
    let (began, limit) = (Instant::now(), patience(BUSY));
    while !check() {
        assert!(began.elapsed() < limit, "not after {} s: {what}", limit.as_secs());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Says what a test leaves out on this machine and why: to standard output itself, where no
/// successful test's output is kept back.
pub fn left_out(what: &str) {
    // The test's own outcome does not hang on a line that nobody can read.
    let _ = writeln!(std::io::stdout(), "\nleft out: {what}");
}

/// The running kernel's version: `(6, 18)`.
///
/// # Panics
/// When the kernel does not tell it.
#[must_use]
pub fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .expect("the kernel tells its version");
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_one_says_that_the_processor_is_emulated() {
        for (value, expected) in [(Some("1"), true), (Some("0"), false), (Some(""), false)] {
            assert_eq!(is_emulated(value), expected, "{value:?}");
        }
        assert!(!is_emulated(None));
    }
}
