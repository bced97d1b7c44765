//! XMPP users who watch SIP users: SUBSCRIBE from here, NOTIFY from inside.
//!
//! An XMPP subscription lasts until it is taken back; a SIP one is a dialog that must be refreshed.
//! The gateway owns that dialog: it refreshes it while the watcher is there, lets it go when the
//! watcher is not (RFC 8048 section 8.1: nobody is sent what nobody reads), and makes a new one when
//! the watcher comes back or its server probes.

mod answer;
mod notify;

use std::time::{Duration, Instant};

use super::{
    of_type,
    pidf::{self, Resource},
};
use crate::{
    domain::Domain,
    sip::Method,
    xmpp::gateway::{
        Gateway, Purpose,
        address::Party,
        bounds::{Timer, key},
        core::DialogOf,
        errors,
        ua::{Answer, Dialog, name_addr},
    },
};

/// How long the answer to a probe of the watcher is waited for.
pub(super) const PROBE: Duration = Duration::from_secs(10);
/// Who is not let see by then is not waited for.
const APPROVAL: Duration = Duration::from_secs(3 * 86_400);

/// Where a subscription is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A SUBSCRIBE is under way.
    Asking,
    /// It is in force.
    Up,
    /// The watcher is asked whether it is there, before a refresh.
    Probing,
    /// After a failure that may pass.
    Waiting,
    /// The watcher is away: no dialog.
    Dormant,
    /// The dialog ends, since the watcher is away.
    Resting,
    /// The watcher took it back; `unsubscribed` is owed.
    Ending,
    /// One look (`Expires: 0`), for a probe without a subscription.
    Polling,
}

/// A subscription of an XMPP user.
#[derive(Debug)]
pub(in crate::xmpp::gateway) struct Subscription {
    dialog: Dialog,
    sip: Party,
    xmpp: Party,
    /// The partner's name, when it began.
    entry: Domain,
    since: Instant,
    phase: Phase,
    /// The SIP side says that the watcher may see.
    approved: bool,
    /// The watcher asked and was not told yet.
    owes_answer: bool,
    /// The watcher asked while the former dialog was ending: another one is begun after it.
    again: bool,
    /// What the SIP side said last; `None`: nothing yet.
    tuples: Option<Vec<Resource>>,
    /// What the watcher was told.
    told: Vec<Resource>,
    /// Resources of the watcher that were seen.
    online: Vec<String>,
    expires: u32,
    failures: u8,
    due: Option<Instant>,
}

impl Subscription {
    /// The watcher may see the user's presence.
    pub fn is_approved(&self) -> bool {
        self.approved
    }

    /// Whose they are, when it outlives a restart: the watcher may see.
    pub fn kept(&self) -> Option<(&Party, &Party)> {
        (self.approved && self.phase != Phase::Polling).then_some((&self.sip, &self.xmpp))
    }

    /// The watcher was told of a tuple with this name.
    pub fn has_told(&self, name: Option<&str>) -> bool {
        self.told.iter().any(|tuple| Some(&*tuple.name) == name)
    }
}

impl Gateway {
    /// `subscribe`.
    pub(super) fn on_xmpp_subscribe(&mut self, sip: &Party, xmpp: &Party) {
        let (sip, xmpp) = (sip.at(None), xmpp.at(None));
        let Some(id) = self.presence.by_pair.get(&key(&sip, &xmpp)).copied() else {
            match self.new_subscription(&sip, &xmpp, Phase::Asking) {
                Some(id) => {
                    if let Some(subscription) = self.presence.subscriptions.get_mut(&id) {
                        subscription.owes_answer = true;
                    }
                    self.send_subscribe(id);
                }
                None => {
                    let error = of_type("error").with_child(errors::element(
                        "resource-constraint",
                        "Too many subscriptions",
                    ));
                    self.core.stanza(&sip, &xmpp, error);
                }
            }
            return;
        };
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        subscription.owes_answer = true;
        match subscription.phase {
            Phase::Dormant | Phase::Waiting | Phase::Polling => self.start(id),
            Phase::Resting | Phase::Ending => {
                subscription.phase = Phase::Resting;
                subscription.again = true;
            }
            Phase::Asking | Phase::Up | Phase::Probing => {
                if subscription.approved {
                    subscription.told.clear();
                    self.tell(id);
                }
            }
        }
    }

    /// `unsubscribe`.
    pub(super) fn on_xmpp_unsubscribe(&mut self, sip: &Party, xmpp: &Party) {
        let pair = key(sip, xmpp);
        if self.presence.before.remove(&pair).is_some() {
            self.presence.changes += 1;
        }
        let Some(id) = self.presence.by_pair.get(&pair).copied() else {
            return self.core.stanza(&sip.at(None), &xmpp.at(None), of_type("unsubscribed"));
        };
        self.end_dialog(id, Phase::Ending);
    }

    /// `probe`: the watcher's server asks, since the watcher came.
    ///
    /// Of one that subscribed before this program began, the subscription is taken up again. Whoever
    /// did not subscribe gets one look (RFC 8048 section 6): another gateway probes too, for no more
    /// than to know whether a user is there.
    pub(super) fn on_xmpp_probe(&mut self, sip: &Party, xmpp: &Party) {
        let pair = key(sip, xmpp);
        let Some(id) = self.presence.by_pair.get(&pair).copied() else {
            if self.presence.before.contains_key(&pair) {
                self.take_up(sip, xmpp);
            } else if let Some(id) =
                self.new_subscription(&sip.at(None), &xmpp.at(None), Phase::Polling)
            {
                self.send_subscribe(id);
            }
            return;
        };
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        match subscription.phase {
            Phase::Dormant | Phase::Waiting => self.start(id),
            Phase::Up | Phase::Probing | Phase::Asking if subscription.approved => {
                // Not known yet: it is told when it comes.
                let Some(tuples) = subscription.tuples.clone() else { return };
                let (sip, to) = (subscription.sip.clone(), xmpp.clone());
                if tuples.is_empty() {
                    self.core.stanza(&sip, &to, of_type("unavailable"));
                }
                for tuple in &tuples {
                    self.core.counters.presence_to_xmpp += 1;
                    self.core.stanza(&sip.at(Some(&tuple.name)), &to, tuple.stanza());
                }
            }
            _ => {}
        }
    }

    /// A subscription of before this program began is in force again, where that may be.
    pub(super) fn take_up(&mut self, sip: &Party, xmpp: &Party) {
        let pair = key(sip, xmpp);
        let stands = self.presence.before.contains_key(&pair)
            && !self.presence.by_pair.contains_key(&pair)
            && self.core.may_begin(sip, xmpp).is_ok();
        if !stands {
            return;
        }
        let new = self.new_subscription(&sip.at(None), &xmpp.at(None), Phase::Asking);
        let Some(id) = new else { return };
        if let Some(subscription) = self.presence.subscriptions.get_mut(&id) {
            // Until the SIP side says otherwise.
            subscription.approved = true;
        }
        self.presence.before.remove(&pair);
        self.presence.returning.answered(&pair);
        self.send_subscribe(id);
    }

    /// Presence of the watcher: it is there.
    pub(super) fn watcher_is_available(&mut self, sip: &Party, xmpp: &Party) {
        self.take_up(sip, xmpp);
        let most = self.core.limits.resources;
        let Some((id, subscription)) = self.subscription_of(sip, xmpp) else { return };
        let resource = xmpp.resource.as_deref().unwrap_or_default().to_owned();
        if subscription.online.len() < most && !subscription.online.contains(&resource) {
            subscription.online.push(resource);
        }
        match subscription.phase {
            Phase::Dormant => self.start(id),
            // It is there: no need to wait.
            Phase::Probing => self.refresh(id),
            _ => {}
        }
    }

    /// The watcher went.
    pub(super) fn watcher_is_unavailable(&mut self, sip: &Party, xmpp: &Party) {
        self.presence.returning.answered(&key(sip, xmpp));
        let Some((id, subscription)) = self.subscription_of(sip, xmpp) else { return };
        match &xmpp.resource {
            Some(resource) => subscription.online.retain(|other| **other != **resource),
            None => subscription.online.clear(),
        }
        // Before it may see, there is nothing that it could miss.
        let gone = subscription.online.is_empty() && subscription.approved;
        if gone && matches!(subscription.phase, Phase::Up | Phase::Probing | Phase::Waiting) {
            self.end_dialog(id, Phase::Resting);
        }
    }

    /// The watcher cannot be reached: a probe came back.
    pub(super) fn watcher_failed(&mut self, sip: &Party, xmpp: &Party, condition: &str) {
        let pair = key(sip, xmpp);
        self.presence.returning.answered(&pair);
        if matches!(condition, "item-not-found" | "gone" | "forbidden")
            && self.presence.before.remove(&pair).is_some()
        {
            self.presence.changes += 1;
        }
        let Some((id, subscription)) = self.subscription_of(sip, xmpp) else { return };
        if subscription.phase != Phase::Probing {
            return;
        }
        match condition {
            "item-not-found" | "gone" | "forbidden" => self.drop_subscription(id),
            _ => {
                subscription.online.clear();
                self.end_dialog(id, Phase::Resting);
            }
        }
    }

    fn subscription_of(&mut self, sip: &Party, xmpp: &Party) -> Option<(u64, &mut Subscription)> {
        let id = *self.presence.by_pair.get(&key(sip, xmpp))?;
        Some((id, self.presence.subscriptions.get_mut(&id)?))
    }

    fn new_subscription(&mut self, sip: &Party, xmpp: &Party, phase: Phase) -> Option<u64> {
        let entry = self.core.entry(&xmpp.domain);
        let mut take =
            || self.presence.subscription_quota.take(sip, xmpp, &entry, &self.core.limits);
        if !take() {
            // The oldest of those that nobody approved gives place.
            let given = self.oldest_waiting(sip, &entry).map(|id| self.forget(id)).is_some();
            let mut take =
                || self.presence.subscription_quota.take(sip, xmpp, &entry, &self.core.limits);
            if !given || !take() {
                self.core.counters.full += 1;
                return None;
            }
        }
        let id = self.core.id();
        self.presence.waiting.insert((sip.jid.clone(), entry.clone(), id));
        let dialog = self.new_dialog(id, sip, xmpp);
        let subscription = Subscription {
            dialog,
            sip: sip.clone(),
            xmpp: xmpp.clone(),
            entry,
            since: self.core.now,
            phase,
            approved: false,
            owes_answer: false,
            again: false,
            tuples: None,
            told: Vec::new(),
            online: Vec::new(),
            expires: self.core.policy.settings.limits.refresh.as_secs().clamp(60, 7 * 86_400)
                as u32,
            failures: 0,
            due: None,
        };
        self.presence.subscriptions.insert(id, subscription);
        self.presence.by_pair.insert(key(sip, xmpp), id);
        Some(id)
    }

    /// The oldest subscription to a user that is not approved, of one partner's users.
    fn oldest_waiting(&mut self, sip: &Party, entry: &Domain) -> Option<u64> {
        let from = (sip.jid.clone(), entry.clone(), 0);
        loop {
            let next = self.presence.waiting.range(from.clone()..).next()?.clone();
            if next.0 != from.0 || next.1 != from.1 {
                return None;
            }
            let subscription = self.presence.subscriptions.get(&next.2);
            if subscription.is_some_and(|subscription| !subscription.approved) {
                return Some(next.2);
            }
            self.presence.waiting.remove(&next);
        }
    }

    /// Ends it on the SIP side, and nothing more is said of it.
    pub(in crate::xmpp::gateway) fn forget(&mut self, id: u64) {
        if let Some(subscription) = self.presence.subscriptions.get_mut(&id)
            && subscription.dialog.remote_tag.is_some()
            && !matches!(subscription.phase, Phase::Ending | Phase::Resting)
        {
            subscription.phase = Phase::Resting;
            self.send_subscribe(id);
        }
        self.drop_subscription(id);
    }

    fn new_dialog(&mut self, id: u64, sip: &Party, xmpp: &Party) -> Dialog {
        let tag = self.core.fresh();
        let call_id = format!("{}@{}", self.core.fresh(), self.core.host);
        self.core.dialogs.insert(tag.clone(), DialogOf::Subscription(id));
        Dialog::begin(call_id, &xmpp.sip, tag, &sip.sip)
    }

    /// A new dialog, and a SUBSCRIBE.
    fn start(&mut self, id: u64) {
        let Some(subscription) = self.presence.subscriptions.get(&id) else { return };
        let (sip, xmpp) = (subscription.sip.clone(), subscription.xmpp.clone());
        let dialog = self.new_dialog(id, &sip, &xmpp);
        if let Some(subscription) = self.presence.subscriptions.get_mut(&id) {
            self.core.dialogs.remove(&subscription.dialog.local_tag);
            subscription.dialog = dialog;
            subscription.phase = Phase::Asking;
        }
        self.send_subscribe(id);
    }

    fn refresh(&mut self, id: u64) {
        if let Some(subscription) = self.presence.subscriptions.get_mut(&id) {
            subscription.phase = Phase::Asking;
            self.send_subscribe(id);
        }
    }

    /// The SUBSCRIBE of the phase.
    fn send_subscribe(&mut self, id: u64) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        self.core.timers.set(&mut subscription.due, Timer::Subscription(id), None);
        let expires = match subscription.phase {
            Phase::Ending | Phase::Resting | Phase::Polling => 0,
            _ => subscription.expires,
        };
        let headers = vec![
            ("Event", "presence".to_owned()),
            ("Accept", pidf::TYPE.to_owned()),
            ("Expires", expires.to_string()),
            ("Contact", name_addr(&subscription.xmpp.sip, None)),
        ];
        let tag = subscription.dialog.local_tag.clone();
        let request = subscription.dialog.request(Method::Subscribe, headers, None);
        let remote = &subscription.xmpp.domain;
        if self.core.send(remote, &request, Purpose::Subscribe(id, tag.clone())).is_err() {
            self.subscribe_answered(id, &tag, &Answer::without_response(500));
        }
    }

    /// Refused for good, by the SIP side: the watcher is told, and it is forgotten.
    fn cancelled(&mut self, id: u64) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        subscription.tuples = Some(Vec::new());
        subscription.approved = false;
        self.tell_tuples(id);
        self.finish(id);
    }

    /// `unsubscribed`, and the end.
    fn finish(&mut self, id: u64) {
        let Some(subscription) = self.presence.subscriptions.get(&id) else { return };
        let (sip, xmpp) = (subscription.sip.clone(), subscription.xmpp.clone());
        self.drop_subscription(id);
        self.core.stanza(&sip, &xmpp, of_type("unsubscribed"));
    }

    fn drop_subscription(&mut self, id: u64) {
        let Some(mut subscription) = self.presence.subscriptions.remove(&id) else { return };
        self.presence.changes += 1;
        self.core.timers.set(&mut subscription.due, Timer::Subscription(id), None);
        self.core.dialogs.remove(&subscription.dialog.local_tag);
        self.presence.by_pair.remove(&key(&subscription.sip, &subscription.xmpp));
        self.presence.subscription_quota.give(&subscription.sip, &subscription.xmpp);
        let Subscription { sip, entry, .. } = subscription;
        self.presence.waiting.remove(&(sip.jid, entry, id));
    }

    /// `Expires: 0` in the dialog, if there is one.
    fn end_dialog(&mut self, id: u64, phase: Phase) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        let has_dialog = subscription.dialog.remote_tag.is_some();
        let before = std::mem::replace(&mut subscription.phase, phase);
        match (before, phase) {
            // Under way already: what comes of it is for the new phase.
            (Phase::Ending | Phase::Resting, _) => {}
            (Phase::Dormant | Phase::Waiting | Phase::Polling, Phase::Ending) => self.finish(id),
            (Phase::Dormant | Phase::Waiting | Phase::Polling, _) => self.rest(id),
            _ if has_dialog => self.send_subscribe(id),
            // The first SUBSCRIBE is not answered yet. Its answer finds the phase changed.
            _ => {}
        }
    }

    /// The dialog is gone, the subscription is not.
    fn rest(&mut self, id: u64) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        if !subscription.approved && !subscription.owes_answer {
            return self.drop_subscription(id);
        }
        subscription.phase = Phase::Dormant;
        subscription.told.clear();
        subscription.tuples = None;
        self.core.timers.set(&mut subscription.due, Timer::Subscription(id), None);
        if std::mem::take(&mut subscription.again) || !subscription.online.is_empty() {
            self.start(id);
        }
    }

    /// Time to refresh, or to try again, or the end of a wait.
    pub(in crate::xmpp::gateway) fn subscription_is_due(&mut self, id: u64) {
        let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { return };
        subscription.due = None;
        let waited = self.core.now.saturating_duration_since(subscription.since);
        let waits = matches!(subscription.phase, Phase::Up | Phase::Waiting);
        if waits && !subscription.approved && waited >= APPROVAL {
            return self.end_dialog(id, Phase::Ending);
        }
        match subscription.phase {
            // Who may not see yet has nothing to say to a probe.
            Phase::Up if !subscription.approved => self.refresh(id),
            Phase::Up => {
                subscription.phase = Phase::Probing;
                // It was up for long: what failed before is past.
                subscription.failures = 0;
                let when = self.core.now + PROBE;
                self.core.timers.set(&mut subscription.due, Timer::Subscription(id), Some(when));
                let (sip, xmpp) = (subscription.sip.clone(), subscription.xmpp.clone());
                self.core.stanza(&sip, &xmpp, of_type("probe"));
            }
            Phase::Probing => self.refresh(id),
            Phase::Waiting => self.start(id),
            Phase::Polling => self.drop_subscription(id),
            Phase::Asking | Phase::Dormant | Phase::Resting | Phase::Ending => {}
        }
    }

    /// Subscriptions that policy does not allow.
    pub(in crate::xmpp::gateway) fn forbidden_subscriptions(&self) -> impl Iterator<Item = u64> {
        let all = self.presence.subscriptions.iter();
        all.filter(|(_, subscription)| {
            self.core.may_begin(&subscription.sip, &subscription.xmpp).is_err()
        })
        .map(|(id, _)| *id)
    }

    pub(in crate::xmpp::gateway) fn subscription_parties(
        &self,
        id: u64,
    ) -> Option<(&Party, &Party)> {
        let found = self.presence.subscriptions.get(&id);
        found.map(|subscription| (&subscription.sip, &subscription.xmpp))
    }
}
