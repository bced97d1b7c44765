//! Whether targets that failed live again.

use std::time::Instant;

use super::{Output, proxy::Proxy};

impl Proxy {
    /// Does what is due for targets.
    pub(super) fn targets_due(&mut self, _now: Instant, _out: &mut Vec<Output>) {}
}
