//! Joins `sip` and `federation`: a state machine without sockets. Inputs in, intents out.

mod io;

pub use io::*;
