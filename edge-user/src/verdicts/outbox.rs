//! What the firewall is told, until it has done it: what failed is told again after a while, unless
//! something newer about the same was told meanwhile. So a release is never lost, also when whoever
//! it was for is forgotten here.

use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::firewall::{BlockOwner, Intent};

/// How long after a failure the firewall is told again.
pub const RETELL: Duration = Duration::from_secs(5);

/// Intents on their way. Each says the whole of one owner's blocks, of one block, or of the partners: a
/// newer one stands for the older.
#[derive(Debug, Default)]
pub struct Outbox {
    new: Vec<Intent>,
    under_way: Vec<Intent>,
    failed: Vec<Intent>,
    retry_at: Option<Instant>,
}

impl Outbox {
    /// To be told.
    pub fn put(&mut self, intent: Intent) {
        self.failed.retain(|older| !is_about_the_same(older, &intent));
        self.new.push(intent);
    }

    /// What must be told now; [`Self::done`] says what came of it.
    pub fn take(&mut self, now: Instant) -> Vec<Intent> {
        self.under_way = match self.retry_at.take_if(|at| *at <= now) {
            Some(_) => std::mem::take(&mut self.failed),
            None => Vec::new(),
        };
        self.under_way.append(&mut self.new);
        self.under_way.clone()
    }

    /// What was taken last is done, or has to be told again: which part of it failed is not known.
    pub fn done(&mut self, now: Instant, well: bool) {
        let told = std::mem::take(&mut self.under_way);
        if well {
            return;
        }
        for intent in told {
            self.failed.retain(|older| !is_about_the_same(older, &intent));
            self.failed.push(intent);
        }
        self.retry_at = Some(now + RETELL);
    }

    /// When [`Self::take`] has something again.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.retry_at
    }
}

/// Whose block of which prefix it puts in force or takes back, if it is about one.
fn one_block(intent: &Intent) -> Option<(&BlockOwner, &IpNet)> {
    match intent {
        Intent::Block(block) => Some((&block.owner, &block.prefix)),
        Intent::Unblock { prefix, owner } => Some((owner, prefix)),
        _ => None,
    }
}

fn is_about_the_same(a: &Intent, b: &Intent) -> bool {
    match (a, b) {
        (Intent::SetOwnerBlocks { owner: a, .. }, Intent::SetOwnerBlocks { owner: b, .. }) => {
            a == b
        }
        (Intent::SetPartners(_), Intent::SetPartners(_)) => true,
        _ => one_block(a).is_some_and(|block| one_block(b) == Some(block)),
    }
}
