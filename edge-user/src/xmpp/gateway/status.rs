//! What an operator can see of the gateway.

use std::collections::BTreeMap;

use super::{Gateway, GatewayCounters};
use crate::domain::Domain;

/// What one partner's users have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartnerStatus {
    /// Its users that SIP users watch.
    pub watched: usize,
    /// SIP users that its users watch.
    pub subscriptions: usize,
    /// Sessions.
    pub sessions: usize,
    /// Messages to its users, since the start.
    pub messages_to_it: u64,
    /// Messages of its users, since the start.
    pub messages_from_it: u64,
}

/// The state of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayStatus {
    /// By domain.
    pub partners: BTreeMap<Domain, PartnerStatus>,
    /// Subscriptions of SIP users.
    pub watched: usize,
    /// Subscriptions of XMPP users.
    pub subscriptions: usize,
    /// Sessions.
    pub sessions: usize,
    /// Requests of ours that wait for an answer.
    pub transactions: usize,
    /// Messages of SIP users that wait for a word from the XMPP side.
    pub held: usize,
    /// Pairs of users of which the SIP user began.
    pub invited: usize,
    /// Timers.
    pub timers: usize,
    /// Dialogs.
    pub dialogs: usize,
    /// Bytes of messages that wait in sessions.
    pub queued: usize,
    /// Since the start.
    pub counters: GatewayCounters,
}

impl Gateway {
    /// Its state now.
    pub fn status(&self) -> GatewayStatus {
        let mut partners: BTreeMap<Domain, PartnerStatus> = BTreeMap::new();
        for (domain, count) in self.presence.watch_quota.domains() {
            partners.entry(domain.clone()).or_default().watched = count;
        }
        for (domain, count) in self.presence.subscription_quota.domains() {
            partners.entry(domain.clone()).or_default().subscriptions = count;
        }
        for (domain, count) in self.sessions.quota.domains() {
            partners.entry(domain.clone()).or_default().sessions = count;
        }
        for (domain, (to, from)) in &self.core.messages {
            let partner = partners.entry(domain.clone()).or_default();
            (partner.messages_to_it, partner.messages_from_it) = (*to, *from);
        }
        GatewayStatus {
            partners,
            watched: self.presence.watch_quota.len(),
            subscriptions: self.presence.subscription_quota.len(),
            sessions: self.sessions.quota.len(),
            transactions: self.core.clients.len(),
            held: self.held.len(),
            invited: self.core.invited.len(),
            timers: self.core.timers.len(),
            dialogs: self.core.dialogs.len(),
            queued: self.core.queued,
            counters: self.core.counters,
        }
    }
}
