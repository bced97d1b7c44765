//! SIP users who watch XMPP users: SUBSCRIBE from inside, NOTIFY from here.
//!
//! An XMPP user approves once, for a user; a SIP user subscribes anew with every telephone and every
//! sign-in. So the end of a SIP subscription takes nothing back on the XMPP side, and each new one
//! asks again: a contact's server answers at once when it was approved before (RFC 6121 section
//! 3.1.3).

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use super::{
    super::{
        Gateway, Purpose,
        address::Party,
        bounds::{NO_ROOM, Timer, key},
        content,
        core::DialogOf,
        ua::{Answer, Dialog, DialogError, Reply, name_addr},
    },
    event_of, of_type,
    pidf::{self, Resource},
};
use crate::{
    sip::{HeaderName, Message, Method},
    xmpp::xml::Element,
};

/// Without an Expires header (RFC 3856 section 6.4).
const DEFAULT_EXPIRES: u32 = 3600;
/// Shorter is 423.
const MIN_EXPIRES: u32 = 60;
/// How long the answer to a look is waited for.
const POLL: Duration = Duration::from_secs(5);
/// Longer is shortened.
const MAX_EXPIRES: u32 = 86_400;
/// A contact's server is not asked more often for one SIP user.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// A subscription of a SIP user: one dialog.
#[derive(Debug)]
pub(in super::super) struct Watch {
    dialog: Dialog,
    sip: Party,
    xmpp: Party,
    event_id: Option<String>,
    expires_at: Instant,
    due: Option<Instant>,
    /// A NOTIFY waits for its answer.
    in_flight: bool,
    /// There is something newer than what that one says.
    dirty: bool,
    /// A digest of what it was told last.
    last: Option<u64>,
    /// One look (`Expires: 0`): it ends with the first answer.
    poll: bool,
    /// It has ended, and there was no room to say so: why.
    ends: Option<&'static str>,
}

/// What is known of an XMPP user, for one SIP user.
#[derive(Debug)]
pub(in super::super) struct Contact {
    approved: bool,
    /// Presence was seen.
    seen: bool,
    resources: Vec<Resource>,
    watches: Vec<u64>,
    /// When its server was asked last.
    asked_at: Instant,
}

/// Seconds of Expires; `None`: not a number.
fn expires_of(request: &Message) -> Option<u32> {
    match request.text(HeaderName::Expires) {
        None => Some(DEFAULT_EXPIRES),
        Some(text) => {
            text.trim().parse::<u64>().ok().map(|secs| secs.min(u64::from(MAX_EXPIRES)) as u32)
        }
    }
}

/// In the place of the one with its name, or as a new one while there is room.
fn put(resources: &mut Vec<Resource>, resource: Resource, most: usize) -> bool {
    if let Some(other) = resources.iter_mut().find(|other| other.name == resource.name) {
        *other = resource;
        return true;
    }
    if resources.len() >= most {
        return false;
    }
    resources.push(resource);
    true
}

fn digest(state: &str, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (state, body).hash(&mut hasher);
    hasher.finish()
}

fn takes_pidf(request: &Message) -> bool {
    let mut accepts = request.headers(HeaderName::Accept).peekable();
    if accepts.peek().is_none() {
        return true;
    }
    accepts
        .filter_map(|header| std::str::from_utf8(header.value).ok())
        .flat_map(|text| text.split(','))
        .any(|kind| {
            matches!(content::media_type(kind).0.as_str(), pidf::TYPE | "application/*" | "*/*")
        })
}

impl Gateway {
    /// The expiry that a SUBSCRIBE asks for, or its refusal.
    fn check_subscribe(request: &Message) -> Result<(u32, Option<String>), Reply> {
        let Some(event_id) = event_of(request) else {
            return Err(Reply::new(489).with("Allow-Events", "presence"));
        };
        if !takes_pidf(request) {
            return Err(Reply::new(406).with("Accept", pidf::TYPE));
        }
        match expires_of(request) {
            None => Err(Reply::new(400).because("Expires is not a number")),
            Some(secs) if (1..MIN_EXPIRES).contains(&secs) => {
                Err(Reply::new(423).with("Min-Expires", MIN_EXPIRES.to_string()))
            }
            Some(secs) => Ok((secs, event_id)),
        }
    }

    /// A SUBSCRIBE without a dialog.
    pub(in super::super) fn on_sip_subscribe(
        &mut self,
        request: &Message,
        sip: &Party,
        xmpp: &Party,
    ) {
        let (secs, event_id) = match Self::check_subscribe(request) {
            Ok(asked) => asked,
            Err(refusal) => return self.core.reply(request, &refusal),
        };
        let lasts = if secs == 0 { POLL } else { Duration::from_secs(u64::from(secs)) };
        let tag = self.core.fresh();
        let dialog = match Dialog::of_request(request, tag.clone()) {
            Ok(dialog) => dialog,
            Err(fault) => {
                return self.core.reply(request, &Reply::new(400).because(&fault.to_string()));
            }
        };
        let entry = self.core.entry(&xmpp.domain);
        if !self.presence.watch_quota.take(sip, xmpp, &entry, &self.core.limits) {
            self.core.counters.full += 1;
            return self.core.reply(
                request,
                &Reply::new(480).because("Too many subscriptions").with("Retry-After", "600"),
            );
        }
        self.core.invite(sip, xmpp);
        let id = self.core.id();
        self.core.dialogs.insert(tag, DialogOf::Watch(id));
        let (sip, xmpp) = (sip.at(None), xmpp.at(None));
        let watch = Watch {
            dialog,
            sip: sip.clone(),
            xmpp: xmpp.clone(),
            event_id,
            expires_at: self.core.now + lasts,
            due: None,
            in_flight: false,
            dirty: false,
            last: None,
            poll: secs == 0,
            ends: None,
        };
        self.presence.watches.insert(id, watch);
        self.answer_subscribe(request, id, secs);
        let now = self.core.now;
        let contact = self.presence.contacts.entry(key(&sip, &xmpp)).or_insert_with(|| Contact {
            approved: false,
            seen: false,
            resources: Vec::new(),
            watches: Vec::new(),
            asked_at: now,
        });
        contact.watches.push(id);
        contact.asked_at = now;
        let ask = if contact.approved || secs == 0 { "probe" } else { "subscribe" };
        self.core.stanza(&sip, &xmpp, of_type(ask));
        if secs > 0 {
            self.notify(id, None);
        }
    }

    /// A SUBSCRIBE in the dialog: refreshed, or ended by `Expires: 0`.
    pub(in super::super) fn on_watch_subscribe(&mut self, request: &Message, id: u64) {
        let asked = Self::check_subscribe(request);
        let Some(watch) = self.presence.watches.get_mut(&id) else { return };
        let tag = watch.dialog.local_tag.clone();
        if watch.ends.is_some() {
            return self.core.reply_as(request, &tag, &Reply::new(481));
        }
        let (secs, _) = match asked {
            Ok(asked) => asked,
            Err(refusal) => return self.core.reply_as(request, &tag, &refusal),
        };
        if watch.dialog.take(request) == Err(DialogError::Order) {
            return self.core.reply_as(
                request,
                &tag,
                &Reply::new(500).because("CSeq out of order"),
            );
        }
        watch.expires_at = self.core.now + Duration::from_secs(u64::from(secs));
        watch.last = None;
        self.answer_subscribe(request, id, secs);
        match secs {
            0 => self.end_watch(id, "timeout"),
            _ => {
                self.notify(id, None);
                self.ask_contact(id);
            }
        }
    }

    /// What is known may be true no longer: a server that died says nothing. With a refresh it is
    /// asked again, whatever number of telephones the SIP user has.
    fn ask_contact(&mut self, id: u64) {
        let Some(watch) = self.presence.watches.get(&id) else { return };
        let (sip, xmpp) = (watch.sip.clone(), watch.xmpp.clone());
        let now = self.core.now;
        let contact = self.presence.contacts.get_mut(&key(&sip, &xmpp));
        let Some(contact) = contact.filter(|contact| {
            contact.approved && now.saturating_duration_since(contact.asked_at) >= ASK_AGAIN
        }) else {
            return;
        };
        contact.asked_at = now;
        self.core.stanza(&sip, &xmpp, of_type("probe"));
    }

    fn answer_subscribe(&mut self, request: &Message, id: u64, secs: u32) {
        let Some(watch) = self.presence.watches.get_mut(&id) else { return };
        let expires_at = watch.expires_at;
        self.core.timers.set(&mut watch.due, Timer::Watch(id), Some(expires_at));
        let contact = name_addr(&watch.xmpp.sip, None);
        let reply = Reply::new(200).with("Expires", secs.to_string()).with("Contact", contact);
        let tag = watch.dialog.local_tag.clone();
        self.core.reply_as(request, &tag, &reply);
    }

    /// Tells a watcher what is known. `ends`: for the last time, and why. `false`: there was no room.
    fn notify(&mut self, id: u64, ends: Option<&str>) -> bool {
        let Some(watch) = self.presence.watches.get_mut(&id) else { return true };
        if ends.is_none() && watch.ends.is_some() {
            return true;
        }
        if watch.in_flight && ends.is_none() {
            watch.dirty = true;
            return true;
        }
        if !self.core.has_room(&watch.xmpp.domain) {
            self.core.counters.full += 1;
            watch.dirty = true;
            let when = self.core.now + NO_ROOM;
            let when = if ends.is_none() { when.min(watch.expires_at) } else { when };
            self.core.timers.set(&mut watch.due, Timer::Watch(id), Some(when));
            return false;
        }
        let contact = self.presence.contacts.get(&key(&watch.sip, &watch.xmpp));
        let approved = contact.is_some_and(|contact| contact.approved);
        let left = watch.expires_at.saturating_duration_since(self.core.now).as_secs();
        let state = match ends {
            Some("probation") => "terminated;reason=probation;retry-after=300".to_owned(),
            Some(reason) => format!("terminated;reason={reason}"),
            None if approved => format!("active;expires={left}"),
            None => format!("pending;expires={left}"),
        };
        // A server answers a look only for those who may see.
        let may_see = |contact: &&Contact| contact.seen && (contact.approved || watch.poll);
        let body =
            contact.filter(may_see).map(|contact| pidf::write(&watch.xmpp, &contact.resources));
        let state_name = state.split(';').next().unwrap_or_default();
        let says = digest(state_name, body.as_deref().unwrap_or_default());
        watch.dirty = false;
        if ends.is_none() && watch.last == Some(says) {
            return true;
        }
        watch.last = Some(says);
        let event = match &watch.event_id {
            Some(id) => format!("presence;id={id}"),
            None => "presence".to_owned(),
        };
        let lang =
            contact.filter(may_see).and_then(|contact| contact.resources.first()?.lang.clone());
        let mut headers = vec![
            ("Event", event),
            ("Subscription-State", state),
            ("Contact", name_addr(&watch.xmpp.sip, None)),
        ];
        headers.extend(lang.map(|lang| ("Content-Language", lang)));
        watch.in_flight = true;
        let body = body.as_deref().map(|body| (pidf::TYPE, body));
        let request = watch.dialog.request(Method::Notify, headers, body);
        self.core.counters.presence_to_sip += 1;
        if self.core.send(&watch.xmpp.domain, &request, Purpose::Notify(id)).is_err() {
            // It could not be written.
            watch.in_flight = false;
            watch.last = None;
        }
        true
    }

    /// What came of a NOTIFY (RFC 6665 section 4.2.2).
    pub(in super::super) fn notify_answered(&mut self, id: u64, answer: &Answer<'_>) {
        let Some(watch) = self.presence.watches.get_mut(&id) else { return };
        watch.in_flight = false;
        let again = answer
            .response
            .is_some_and(|response| response.header(HeaderName::RetryAfter).is_some());
        if !answer.is_success() && !again {
            return self.remove_watch(id);
        }
        if std::mem::take(&mut watch.dirty) {
            self.notify(id, None);
        }
    }

    /// The last NOTIFY, and the end: when there is room for it.
    pub(in super::super) fn end_watch(&mut self, id: u64, reason: &'static str) {
        if self.notify(id, Some(reason)) {
            self.remove_watch(id);
        } else if let Some(watch) = self.presence.watches.get_mut(&id) {
            watch.ends = Some(reason);
        }
    }

    fn remove_watch(&mut self, id: u64) {
        let Some(mut watch) = self.presence.watches.remove(&id) else { return };
        self.core.timers.set(&mut watch.due, Timer::Watch(id), None);
        self.core.dialogs.remove(&watch.dialog.local_tag);
        self.presence.watch_quota.give(&watch.sip, &watch.xmpp);
        let key = key(&watch.sip, &watch.xmpp);
        if let Some(contact) = self.presence.contacts.get_mut(&key) {
            contact.watches.retain(|other| *other != id);
            if contact.watches.is_empty() {
                self.presence.contacts.remove(&key);
            }
        }
    }

    /// Its time is over, or something is to be said that there was no room for.
    pub(in super::super) fn watch_is_due(&mut self, id: u64) {
        let Some(watch) = self.presence.watches.get_mut(&id) else { return };
        watch.due = None;
        if let Some(reason) = watch.ends {
            return self.end_watch(id, reason);
        }
        let expires_at = watch.expires_at;
        if expires_at <= self.core.now {
            return self.end_watch(id, "timeout");
        }
        self.core.timers.set(&mut watch.due, Timer::Watch(id), Some(expires_at));
        self.notify(id, None);
    }

    /// Everyone of this SIP user who watches that XMPP user.
    fn watchers(&self, sip: &Party, xmpp: &Party) -> Vec<u64> {
        let contact = self.presence.contacts.get(&key(sip, xmpp));
        let ids = contact.into_iter().flat_map(|contact| &contact.watches).copied();
        let goes_on = |id: &u64| self.presence.watches.get(id).is_some_and(|w| w.ends.is_none());
        ids.filter(goes_on).collect()
    }

    fn tell_watchers(&mut self, sip: &Party, xmpp: &Party) {
        for id in self.watchers(sip, xmpp) {
            match self.presence.watches.get(&id).is_some_and(|watch| watch.poll) {
                true => self.end_watch(id, "timeout"),
                false => {
                    self.notify(id, None);
                }
            }
        }
    }

    pub(super) fn contact_is_available(&mut self, sip: &Party, xmpp: &Party, stanza: &Element) {
        let most = self.core.limits.resources;
        let Some(contact) = self.presence.contacts.get_mut(&key(sip, xmpp)) else { return };
        let name = xmpp.resource.clone().unwrap_or_else(|| "xmpp".into());
        let resource = Resource::of_stanza(name, stanza);
        if !put(&mut contact.resources, resource, most) {
            return;
        }
        pidf::sort(&mut contact.resources);
        contact.seen = true;
        self.tell_watchers(sip, xmpp);
    }

    pub(super) fn contact_is_unavailable(&mut self, sip: &Party, xmpp: &Party) {
        let Some(contact) = self.presence.contacts.get_mut(&key(sip, xmpp)) else { return };
        match &xmpp.resource {
            Some(name) => contact.resources.retain(|other| other.name != *name),
            None => contact.resources.clear(),
        }
        contact.seen = true;
        self.tell_watchers(sip, xmpp);
    }

    pub(super) fn contact_approves(&mut self, sip: &Party, xmpp: &Party) {
        let Some(contact) = self.presence.contacts.get_mut(&key(sip, xmpp)) else { return };
        contact.approved = true;
        self.tell_watchers(sip, xmpp);
    }

    /// Refused, taken back, or not to be had: the subscription ends.
    pub(super) fn contact_refuses(&mut self, sip: &Party, xmpp: &Party, reason: &'static str) {
        if let Some(contact) = self.presence.contacts.get_mut(&key(sip, xmpp)) {
            contact.approved = false;
        }
        for id in self.watchers(sip, xmpp) {
            self.end_watch(id, reason);
        }
    }

    pub(super) fn contact_failed(&mut self, sip: &Party, xmpp: &Party, condition: &str) {
        let Some(contact) = self.presence.contacts.get_mut(&key(sip, xmpp)) else { return };
        if contact.approved {
            contact.resources.clear();
            contact.seen = true;
            return self.tell_watchers(sip, xmpp);
        }
        let reason = match condition {
            "item-not-found" | "gone" | "remote-server-not-found" | "jid-malformed" => "noresource",
            "forbidden" | "not-allowed" | "not-authorized" | "service-unavailable" => "rejected",
            _ => "probation",
        };
        self.contact_refuses(sip, xmpp, reason);
    }

    /// Watches that policy does not allow.
    pub(in super::super) fn forbidden_watches(&self) -> impl Iterator<Item = u64> {
        let all = self.presence.watches.iter();
        all.filter(|(_, watch)| self.core.may_speak(&watch.sip, &watch.xmpp).is_err())
            .map(|(id, _)| *id)
    }

    pub(in super::super) fn watch_parties(&self, id: u64) -> Option<(&Party, &Party)> {
        self.presence.watches.get(&id).map(|watch| (&watch.sip, &watch.xmpp))
    }

    /// Ends one that policy does not allow: the user sees no more of what was seen before.
    pub(in super::super) fn reject_watch(&mut self, id: u64) {
        if let Some(watch) = self.presence.watches.get(&id)
            && let Some(contact) = self.presence.contacts.get_mut(&key(&watch.sip, &watch.xmpp))
        {
            contact.approved = false;
        }
        self.end_watch(id, "rejected");
    }

    /// Whether a request belongs to it.
    pub(in super::super) fn watch_has(&self, id: u64, request: &Message) -> bool {
        self.presence.watches.get(&id).is_some_and(|watch| watch.dialog.has(request))
    }
}
