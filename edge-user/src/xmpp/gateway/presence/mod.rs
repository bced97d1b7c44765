//! Presence (RFC 8048), both ways. Never told to anyone but whom it is for: a watcher of one user
//! and one contact, each pair on its own.
//!
//! | part | who watches whom |
//! | --- | --- |
//! | `watch` | a SIP user an XMPP user |
//! | `subscription` | an XMPP user a SIP user |
//! | `returning` | of the latter, those of before a restart |
//! | `pidf` | the documents |

pub mod pidf;
mod returning;
mod subscription;
mod watch;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    Gateway,
    address::Party,
    bounds::{Key, Quota, key},
    document, errors,
};
use crate::{
    domain::Domain,
    ids::IdMap,
    sip::{HeaderName, Message},
    xmpp::{ns, xml::Element},
};

use self::pidf::Resource;
pub(super) use self::{subscription::Subscription, watch::Watch};

/// Subscriptions of both sides.
#[derive(Default)]
pub(super) struct Presence {
    pub watches: IdMap<u64, Watch>,
    pub contacts: HashMap<Key, watch::Contact>,
    pub subscriptions: IdMap<u64, Subscription>,
    pub by_pair: HashMap<Key, u64>,
    /// Those that may not be approved yet, by SIP user and partner, the oldest first.
    pub waiting: BTreeSet<(Arc<str>, Domain, u64)>,
    /// Subscriptions of before this program began, until their watchers come back: when each was
    /// last known to stand, in seconds since 1970.
    pub before: HashMap<Key, u64>,
    /// Of them, who is asked whether it is there.
    pub returning: returning::Returning,
    /// Counts what a file would have to be written for.
    pub changes: u64,
    pub watch_quota: Quota,
    pub subscription_quota: Quota,
}

/// `<presence/>` of a type.
fn of_type(kind: &'static str) -> Element {
    Element::new(ns::SERVER, "presence").with("type", kind)
}

/// The PIDF in a body, alone or as a part; `None`: there is none that can be read.
fn document_of(message: &Message) -> Option<Vec<Resource>> {
    let kind = message.text(HeaderName::ContentType)?;
    let body = super::content::part_of(kind, message.body(), pidf::TYPE)?;
    let mut resources = pidf::read(&document::read(body)?)?;
    let lang = message.headers_named("Content-Language").next();
    let lang = lang
        .and_then(|lang| std::str::from_utf8(lang.value).ok())
        .filter(|lang| super::content::is_lang(lang));
    for resource in resources.iter_mut().filter(|resource| resource.note.is_some()) {
        resource.lang = resource.lang.take().or_else(|| lang.map(str::to_owned));
    }
    Some(resources)
}

/// Whether the Event header names presence; its `id`.
fn event_of(message: &Message) -> Option<Option<String>> {
    let event = message.text(HeaderName::Event)?;
    let (name, params) = super::content::media_type(event);
    let id = params.into_iter().find(|(name, _)| name == "id").map(|(_, id)| id);
    (name == "presence").then_some(id)
}

impl Gateway {
    /// A `<presence/>` of an XMPP user for a SIP user.
    pub(super) fn on_presence(&mut self, xmpp: &Party, sip: &Party, stanza: &Element) {
        let kind = stanza.attribute("type");
        if kind == Some("error") {
            let (condition, _) = errors::read(stanza);
            return self.presence_failed(sip, xmpp, condition);
        }
        let begins = matches!(kind, Some("subscribe" | "probe"));
        let allowed = match begins {
            true => self.core.may_begin(sip, xmpp),
            false => self.core.may_speak(sip, xmpp),
        };
        if let Err(reason) = allowed {
            self.core.refuse_stanza(reason, sip, xmpp);
            if begins {
                // As for a user who is not there (RFC 6121 section 3.1.3).
                self.core.stanza(&sip.at(None), &xmpp.at(None), of_type("unsubscribed"));
            }
            return;
        }
        match kind {
            None => {
                self.contact_is_available(sip, xmpp, stanza);
                self.watcher_is_available(sip, xmpp);
            }
            Some("unavailable") => {
                self.contact_is_unavailable(sip, xmpp);
                self.watcher_is_unavailable(sip, xmpp);
            }
            Some("subscribe") => self.on_xmpp_subscribe(sip, xmpp),
            Some("unsubscribe") => self.on_xmpp_unsubscribe(sip, xmpp),
            Some("subscribed") => self.contact_approves(sip, xmpp),
            Some("unsubscribed") => self.contact_refuses(sip, xmpp, "rejected"),
            Some("probe") => self.on_xmpp_probe(sip, xmpp),
            Some(_) => self.refuse(sip, xmpp, stanza, "bad-request", "No such type of presence"),
        }
    }

    /// Presence could not be delivered, or was answered with an error.
    pub(super) fn presence_failed(&mut self, sip: &Party, xmpp: &Party, condition: &str) {
        self.contact_failed(sip, xmpp, condition);
        self.watcher_failed(sip, xmpp, condition);
    }

    /// Whether a resource of a SIP user is a tuple that this XMPP user was told of.
    pub(super) fn is_tuple(&self, xmpp: &Party, sip: &Party) -> bool {
        let id = self.presence.by_pair.get(&key(sip, xmpp));
        let subscription = id.and_then(|id| self.presence.subscriptions.get(id));
        subscription.is_some_and(|subscription| subscription.has_told(sip.resource.as_deref()))
    }

    /// Whether an XMPP user was let see a SIP user's presence.
    pub(super) fn sees_presence(&self, xmpp: &Party, sip: &Party) -> bool {
        let id = self.presence.by_pair.get(&key(sip, xmpp));
        id.and_then(|id| self.presence.subscriptions.get(id)).is_some_and(Subscription::is_approved)
    }
}
