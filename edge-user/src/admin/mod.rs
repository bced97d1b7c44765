//! The control socket, its protocol and the command line.
//!
//! Reading commands work on the pins when the daemon is dead; only the daemon writes. Every
//! change is logged with who asked for it and when.

pub mod cli;
pub mod client;
pub mod commands;
pub mod protocol;
pub mod server;
pub mod table;
