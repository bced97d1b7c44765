//! Answers to SUBSCRIBE: when it is refreshed, tried again, or given up.

use std::time::Duration;

use super::{super::document_of, PROBE, Phase};
use crate::{
    sip::HeaderName,
    xmpp::gateway::{Gateway, bounds::Timer, ua::Answer},
};

/// A subscription that ended is not forgotten before its last NOTIFY could come (timer N).
const LAST_NOTIFY: Duration = Duration::from_secs(32);
/// The first wait after a failure that may pass; doubled with each.
const RETRY: Duration = Duration::from_secs(60);
/// The longest wait.
const MAX_RETRY: Duration = Duration::from_secs(3600);
/// Failures in a row after which the watcher must come back first.
const MAX_FAILURES: u8 = 8;

/// Whether a failure may pass (RFC 8048 section 5: 423 and 481 do).
fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 423 | 430 | 480 | 481 | 486 | 491 | 600)
        || (500..600).contains(&status) && status != 501
}

impl Gateway {
    /// What came of a SUBSCRIBE in the dialog with this tag of ours.
    pub(in crate::xmpp::gateway) fn subscribe_answered(
        &mut self,
        id: u64,
        tag: &str,
        answer: &Answer<'_>,
    ) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        if subscription.dialog.local_tag != tag {
            // A newer dialog took its place.
            return;
        }
        match (subscription.phase, answer.is_success()) {
            (Phase::Ending, _) => self.finish(id),
            (Phase::Resting, _) => self.rest(id),
            (Phase::Polling, true) => {
                let fits = answer
                    .response
                    .is_none_or(|response| subscription.dialog.establish(response).is_ok());
                if fits {
                    let when = self.core.now + LAST_NOTIFY;
                    self.core.timers.set(
                        &mut subscription.due,
                        Timer::Subscription(id),
                        Some(when),
                    );
                }
            }
            (Phase::Polling, false) => self.drop_subscription(id),
            (Phase::Asking, true) => self.subscribed(id, answer),
            (Phase::Asking, false) => self.subscribe_failed(id, answer),
            // A phase that has none under way.
            (Phase::Up | Phase::Probing | Phase::Waiting | Phase::Dormant, _) => {}
        }
    }

    pub(super) fn subscribed(&mut self, id: u64, answer: &Answer<'_>) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        let Some(response) = answer.response else { return };
        // Of a fork the branch that was first stays: what another one says is of no use.
        let _ = subscription.dialog.establish(response);
        subscription.phase = Phase::Up;
        let granted =
            response.text(HeaderName::Expires).and_then(|text| text.trim().parse::<u32>().ok());
        let granted =
            granted.unwrap_or(subscription.expires).clamp(30, subscription.expires.max(30));
        self.refresh_in(id, granted);
        // Lync may put the first NOTIFY into the answer.
        if let Some(tuples) = document_of(response) {
            self.take_state(id, "active", Some(tuples));
        }
    }

    /// Before it runs out, and not later than the settings say.
    pub(super) fn refresh_in(&mut self, id: u64, secs: u32) {
        let most = self.core.policy.settings.limits.refresh;
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        let secs = u64::from(secs);
        let margin = (secs / 10).max(PROBE.as_secs() * 2).min(secs / 2);
        let wait = Duration::from_secs(secs - margin).min(most);
        let when = self.core.now + wait;
        self.core.timers.set(&mut subscription.due, Timer::Subscription(id), Some(when));
    }

    pub(super) fn subscribe_failed(&mut self, id: u64, answer: &Answer<'_>) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        let header = |name: &str| {
            let header = answer.response?.headers_named(name).next()?;
            std::str::from_utf8(header.value).ok()?.split([' ', ';']).next()?.parse::<u32>().ok()
        };
        if !may_pass(answer.status) {
            return self.cancelled(id);
        }
        subscription.failures = subscription.failures.saturating_add(1);
        if answer.status == 423
            && let Some(least) = header("Min-Expires").filter(|least| *least <= 7 * 86_400)
            && subscription.failures == 1
        {
            subscription.expires = subscription.expires.max(least);
            return self.send_subscribe(id);
        }
        if answer.status == 481 && subscription.failures == 1 {
            return self.start(id);
        }
        let after = answer.response.and_then(|response| response.text(HeaderName::RetryAfter));
        let after = after.and_then(|text| text.split([' ', ';', '(']).next()?.parse::<u64>().ok());
        self.try_later(id, after.map(Duration::from_secs));
    }

    pub(super) fn try_later(&mut self, id: u64, after: Option<Duration>) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        subscription.tuples = Some(Vec::new());
        if subscription.failures >= MAX_FAILURES {
            if !subscription.approved {
                return self.drop_subscription(id);
            }
            subscription.phase = Phase::Dormant;
            self.core.timers.set(&mut subscription.due, Timer::Subscription(id), None);
        } else {
            let doubled =
                RETRY.saturating_mul(1 << u32::from(subscription.failures.saturating_sub(1)));
            let wait = doubled.max(after.unwrap_or_default()).min(MAX_RETRY);
            subscription.phase = Phase::Waiting;
            let when = self.core.now + wait;
            self.core.timers.set(&mut subscription.due, Timer::Subscription(id), Some(when));
        }
        self.tell(id);
    }
}
