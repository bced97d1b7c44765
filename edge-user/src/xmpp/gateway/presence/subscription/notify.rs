//! What the SIP side says: NOTIFY, and what the watcher is told of it.

use std::time::Duration;

use super::{
    super::{document_of, event_of, of_type, pidf::Resource},
    Phase,
};
use crate::{
    sip::{HeaderName, Message, Method},
    xmpp::gateway::{
        Gateway, content,
        ua::{DialogError, Reply},
    },
};

impl Gateway {
    /// A NOTIFY or BENOTIFY for a subscription. `id`: the one that the To tag names.
    pub(in crate::xmpp::gateway) fn on_notify(&mut self, request: &Message, id: Option<u64>) {
        let answers = request.method() != Some(Method::Benotify);
        let reply = self.take_notify(request, id);
        if let (true, Err(reply)) = (answers, &reply) {
            return self.core.reply(request, reply);
        }
        let Ok((id, state, reason, after)) = reply else { return };
        if answers {
            self.core.reply(request, &Reply::new(200));
        }
        let tuples = document_of(request);
        self.take_state(id, &state, tuples);
        if state == "terminated" {
            self.terminated(id, &reason, after);
        }
    }

    fn take_notify(
        &mut self,
        request: &Message,
        id: Option<u64>,
    ) -> Result<(u64, String, String, Option<Duration>), Reply> {
        if event_of(request).is_none() {
            return Err(Reply::new(489).with("Allow-Events", "presence"));
        }
        let gone = || Reply::new(481);
        let id = id.ok_or_else(gone)?;
        let subscription = self.presence.subscriptions.get_mut(&id).ok_or_else(gone)?;
        if !subscription.dialog.has(request) {
            return Err(gone());
        }
        let state = request.text(HeaderName::SubscriptionState).ok_or_else(|| Reply::new(400))?;
        let (state, params) = content::media_type(state);
        let param =
            |name: &str| params.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        subscription.dialog.establish(request).map_err(|_| gone())?;
        if subscription.dialog.take(request) == Err(DialogError::Order) {
            return Err(Reply::new(500).because("CSeq out of order"));
        }
        let after =
            param("retry-after").and_then(|secs| secs.parse().ok()).map(Duration::from_secs);
        Ok((id, state, param("reason").unwrap_or_default().to_ascii_lowercase(), after))
    }

    /// What the SIP side says of the subscription, and of the user.
    pub(super) fn take_state(&mut self, id: u64, state: &str, tuples: Option<Vec<Resource>>) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        let poll = subscription.phase == Phase::Polling;
        match state {
            "active" if !poll && !subscription.approved => {
                subscription.approved = true;
                self.presence.changes += 1;
            }
            "active" => subscription.approved = true,
            // The answer to a poll: with a document, the watcher may see.
            "terminated" if poll => subscription.approved = tuples.is_some(),
            "terminated" => {}
            _ => return,
        }
        if matches!(subscription.phase, Phase::Ending | Phase::Resting) {
            return;
        }
        match tuples {
            Some(tuples) => subscription.tuples = Some(tuples),
            // Without a document nothing is known: as if away.
            None if state == "active" && subscription.tuples.is_none() => {
                subscription.tuples = Some(Vec::new())
            }
            None => {}
        }
        if subscription.approved {
            self.tell(id);
        }
    }

    /// Tells the watcher what changed, first that it may see at all.
    pub(super) fn tell(&mut self, id: u64) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        if !subscription.approved {
            return;
        }
        if std::mem::take(&mut subscription.owes_answer) {
            let (sip, xmpp) = (subscription.sip.clone(), subscription.xmpp.clone());
            self.core.stanza(&sip, &xmpp, of_type("subscribed"));
        }
        self.tell_tuples(id);
    }

    pub(super) fn tell_tuples(&mut self, id: u64) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        let Some(now) = subscription.tuples.clone() else { return };
        let before = std::mem::replace(&mut subscription.told, now.clone());
        let (sip, xmpp) = (subscription.sip.clone(), subscription.xmpp.clone());
        for tuple in before.iter().filter(|tuple| now.iter().all(|other| other.name != tuple.name))
        {
            self.core.counters.presence_to_xmpp += 1;
            self.core.stanza(&sip.at(Some(&tuple.name)), &xmpp, of_type("unavailable"));
        }
        for tuple in now.iter().filter(|tuple| !before.contains(tuple)) {
            self.core.counters.presence_to_xmpp += 1;
            self.core.stanza(&sip.at(Some(&tuple.name)), &xmpp, tuple.stanza());
        }
    }

    /// The SIP side ended it (RFC 6665 section 4.1.3).
    fn terminated(&mut self, id: u64, reason: &str, after: Option<Duration>) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        match subscription.phase {
            Phase::Ending => return self.finish(id),
            Phase::Resting => return self.rest(id),
            Phase::Polling => return self.drop_subscription(id),
            _ => {}
        }
        match reason {
            "rejected" | "noresource" | "invariant" => self.cancelled(id),
            "deactivated" | "timeout" if subscription.failures == 0 => {
                subscription.failures = 1;
                self.start(id);
            }
            _ => {
                subscription.failures = subscription.failures.saturating_add(1);
                self.try_later(id, after);
            }
        }
    }
}
