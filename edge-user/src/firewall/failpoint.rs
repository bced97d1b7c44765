//! For tests: the process ends by itself, as `kill -9` ends it, after a given number of writes.
//! In release builds there is nothing of it.
//!
//! `EDGE_KILL_AT=start:3` ends it after the third write of a start, `EDGE_KILL_AT=apply:7` after
//! the seventh of the first configuration that is put in force later.

/// What the writes that follow belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Loading or adopting, and the first rule set.
    Start,
    /// Another configuration.
    Apply,
    /// Everything else: not counted.
    Other,
}

#[cfg(debug_assertions)]
mod counter {
    use std::sync::{Mutex, PoisonError};

    use super::Phase;

    static STATE: Mutex<(Phase, u32)> = Mutex::new((Phase::Other, 0));

    pub(in crate::firewall) fn enter(phase: Phase) {
        *STATE.lock().unwrap_or_else(PoisonError::into_inner) = (phase, 0);
    }

    pub(in crate::firewall) fn wrote(what: &str) {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        let name = match state.0 {
            Phase::Start => "start",
            Phase::Apply => "apply",
            Phase::Other => return,
        };
        let now = format!("{name}:{}", state.1);
        if std::env::var("EDGE_KILL_AT").is_ok_and(|at| at == now) {
            eprintln!("ends itself at {now}, after {what}");
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
    }
}

#[cfg(not(debug_assertions))]
mod counter {
    pub(in crate::firewall) fn enter(_: super::Phase) {}
    pub(in crate::firewall) fn wrote(_: &str) {}
}

pub(super) use counter::{enter, wrote};
