//! Targets that failed, and when they are tried again.

use std::time::Instant;

/// What is known of the targets of all partners and next hops.
#[derive(Debug, Default)]
pub struct Targets {}

impl Targets {
    /// When something is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        None
    }
}
