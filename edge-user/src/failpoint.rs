//! For tests: the process ends by itself, as `kill -9` ends it, after a given number of writes.
//! In release builds there is nothing of it.
//!
//! `EDGE_KILL_AT=start:3` ends it after the third kernel write of a start, `EDGE_KILL_AT=apply:7`
//! after the seventh of a configuration that is put in force later, and `EDGE_KILL_AT=NAME` at the
//! step of that name. `EDGE_FAIL_AT=NAME:2` makes the step of that name fail the first two times
//! (`NAME:2,OTHER:1`: several), and `EDGE_PANIC_AT=NAME` panics there.

/// What the writes that follow belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
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

    pub(crate) fn enter(phase: Phase) {
        *STATE.lock().unwrap_or_else(PoisonError::into_inner) = (phase, 0);
    }

    pub(crate) fn wrote(what: &str) {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        let name = match state.0 {
            Phase::Start => "start",
            Phase::Apply => "apply",
            Phase::Other => return,
        };
        end_at(&format!("{name}:{}", state.1), what);
    }

    pub(crate) fn step(name: &str) {
        end_at(name, "that step");
    }

    /// What is to fail, and how often still.
    static FAILS: Mutex<Option<Vec<(String, u32)>>> = Mutex::new(None);

    pub(crate) fn fails(name: &str) -> Result<(), String> {
        let mut fails = FAILS.lock().unwrap_or_else(PoisonError::into_inner);
        let fails = fails.get_or_insert_with(|| {
            let text = std::env::var("EDGE_FAIL_AT").unwrap_or_default();
            let one = |text: &str| {
                let (name, times) = text.rsplit_once(':')?;
                Some((name.to_owned(), times.parse().ok()?))
            };
            text.split(',').filter_map(one).collect()
        });
        match fails.iter_mut().find(|(what, left)| what == name && *left > 0) {
            Some((_, left)) => {
                *left -= 1;
                Err(format!("made to fail at {name}"))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn panics(name: &str) {
        if std::env::var("EDGE_PANIC_AT").is_ok_and(|at| at == name) {
            panic!("made to panic at {name}");
        }
    }

    fn end_at(now: &str, what: &str) {
        if std::env::var("EDGE_KILL_AT").is_ok_and(|at| at == now) {
            eprintln!("ends itself at {now}, after {what}");
            let us = rustix::process::getpid();
            let _ = rustix::process::kill_process(us, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(not(debug_assertions))]
mod counter {
    pub(crate) fn enter(_: super::Phase) {}
    pub(crate) fn wrote(_: &str) {}
    pub(crate) fn step(_: &str) {}
    pub(crate) fn fails(_: &str) -> Result<(), String> {
        Ok(())
    }
    pub(crate) fn panics(_: &str) {}
}

pub(crate) use counter::{enter, fails, panics, step, wrote};
