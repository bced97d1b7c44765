//! What the daemon knows: configuration, firewall, SIP, federation, verdicts and the shell that
//! joins them to sockets, clocks and the kernel.
//!
//! Pure cores, thin shell: `sip`, `federation`, `proxy` and `verdicts` are state machines that
//! take input and `now` and return outputs. Only `net` and `daemon` know sockets, and only
//! `firewall` knows the kernel's maps.

// Tests that libFuzzer's targets share name the crate as these do.
#[cfg(test)]
extern crate self as edge_user;

pub mod admin;
pub mod apply;
pub mod config;
pub mod daemon;
pub mod domain;
mod failpoint;
pub mod federation;
pub mod firewall;
mod ids;
pub mod media;
pub mod net;
pub mod plain;
pub mod proxy;
pub mod sip;
pub mod state;
pub mod verdicts;
pub mod xmpp;
