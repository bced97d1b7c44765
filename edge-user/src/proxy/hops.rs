//! Our next hops: which are tried first, and which serve a domain.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::{proxy::Proxy, route::Destination};
use crate::domain::Domain;

/// How long a next hop that failed is tried last.
const HOP_DOWN: Duration = Duration::from_secs(15);

/// What is known of the next hops.
#[derive(Debug, Default)]
pub(super) struct Hops {
    /// Those that failed: not first until then.
    down: Vec<Option<Instant>>,
}

impl Hops {
    pub(super) fn new(count: usize) -> Self {
        Self { down: vec![None; count] }
    }

    /// Puts those that failed lately last, in their order.
    pub(super) fn order(&self, now: Instant, ways: &mut [Destination]) {
        ways.sort_by_key(|way| match way {
            Destination::NextHop(index) => {
                self.down.get(*index).is_some_and(|down| down.is_some_and(|until| now < until))
            }
            _ => false,
        });
    }

    pub(super) fn failed(&mut self, now: Instant, index: usize) {
        if let Some(down) = self.down.get_mut(index) {
            *down = Some(now + HOP_DOWN);
        }
    }

    pub(super) fn alive(&mut self, index: usize) {
        if let Some(down) = self.down.get_mut(index) {
            *down = None;
        }
    }

    /// The list changed, and has so many now.
    pub(super) fn renumber(&mut self, count: usize) {
        *self = Self::new(count);
    }
}

impl Proxy {
    /// The next hops that serve one of our domains.
    pub(super) fn hops_for(&self, _domain: Option<&Domain>) -> Range<usize> {
        0..self.config.next_hops.len()
    }
}
