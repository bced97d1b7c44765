//! What of the gateway outlives a restart: who subscribed to whose presence, and whom users of ours
//! invited. Sessions, and dialogs of presence, are made anew by who needs them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Gateway,
    address::Party,
    bounds::{Key, key},
};
use crate::xmpp::settings::XmppPartnerKind;

/// Subscriptions that are kept, and invitations of either kind.
pub const MAX_SAVED: usize = 50_000;
/// A subscription of before is forgotten when its watcher did not come for so long, in seconds.
const FORGOTTEN: u64 = 90 * 86_400;

/// What is kept over a restart: pairs of bare JIDs, ours first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedGateway {
    /// XMPP users who may see presence of ours, and when that was last known, in seconds since 1970.
    pub subscriptions: Vec<(String, String, u64)>,
    /// XMPP users of partners that must be invited, and who invited them; the oldest first.
    pub invited: Vec<(String, String)>,
    /// The same of users of XMPP servers inside, as hashes in hexadecimal; the oldest first.
    #[serde(default)]
    pub invited_inside: Vec<String>,
}

impl SavedGateway {
    /// Whether it is what this program may have written.
    pub fn is_within_bounds(&self) -> bool {
        let is_user = |jid: &str| {
            Party::of_jid(jid).is_ok_and(|party| party.resource.is_none() && &*party.jid == jid)
        };
        self.subscriptions.len() <= MAX_SAVED
            && self.invited.len() <= MAX_SAVED
            && self.subscriptions.iter().all(|(sip, xmpp, _)| is_user(sip) && is_user(xmpp))
            && self.invited.iter().all(|(sip, xmpp)| is_user(sip) && is_user(xmpp))
            && self.invited_inside.len() <= MAX_SAVED
            && self.invited_inside.iter().all(|hash| is_hash(hash))
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Gateway {
    /// Counts changes of what [`Gateway::save`] gives.
    pub fn changes(&self) -> u64 {
        self.presence.changes + self.core.invited.changes()
    }

    /// What must outlive a restart. `unix`: the wall clock.
    pub fn save(&self, unix: u64) -> SavedGateway {
        let live = self.presence.subscriptions.values().filter_map(|own| own.kept());
        let live = live.map(|(sip, xmpp)| (sip.jid.to_string(), xmpp.jid.to_string(), unix));
        let before = self.presence.before.iter();
        let before = before.map(|((sip, xmpp), at)| (sip.to_string(), xmpp.to_string(), *at));
        let mut subscriptions: Vec<_> = live.chain(before).collect();
        subscriptions.sort_unstable_by(|a, b| b.2.cmp(&a.2).then_with(|| a.cmp(b)));
        subscriptions.truncate(MAX_SAVED);
        let must_be_invited = |jid: &str| {
            let party = Party::of_jid(jid).ok();
            let partner = party.and_then(|party| self.core.partner(&party.domain).ok());
            partner.is_some_and(|own| own.kind == XmppPartnerKind::PublicUnverified)
        };
        let invited = self.core.invited.all().filter(|(_, xmpp)| must_be_invited(xmpp));
        let mut invited: Vec<_> =
            invited.map(|(sip, xmpp)| (sip.to_string(), xmpp.to_string())).collect();
        let first = invited.len().saturating_sub(MAX_SAVED);
        invited.drain(..first);
        SavedGateway { subscriptions, invited, ..SavedGateway::default() }
    }

    /// Takes it back, before anything else. Whether it is allowed still is asked when it is used.
    /// Watchers of before are asked whether they are there.
    pub fn restore(&mut self, unix: u64, saved: SavedGateway) {
        let limits = &self.core.limits;
        for (sip, xmpp, at) in saved.subscriptions.into_iter().take(limits.total) {
            let at = at.min(unix);
            if unix - at < FORGOTTEN {
                let pair = (Arc::from(sip), Arc::from(xmpp));
                self.presence.before.insert(Key::clone(&pair), at);
                self.presence.returning.expect(self.core.now, pair);
            }
        }
        for (sip, xmpp) in saved.invited {
            let (Ok(sip), Ok(xmpp)) = (Party::of_jid(&sip), Party::of_jid(&xmpp)) else { continue };
            self.core.invited.put(key(&sip, &xmpp), limits.invited);
        }
    }
}
