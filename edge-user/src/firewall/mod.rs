//! The only place that uses aya: load, attach, pin, compile rules, apply verdicts, read counters
//! and events. One owner (a thread) for all writes to kernel maps; it takes [`Intent`]s and
//! reconciles what should be with what is.

mod intent;

pub use intent::*;
