//! Contacts of registrations (RFC 3261 section 10): for how long each is asked for and granted, and
//! whether two are the same. An answer names every contact that a user has; only those of the
//! request are its sender's.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::sip::{Element, HeaderName, Message, NameAddr};

/// How long a registration lasts that says nothing of it (RFC 3261 section 10.2).
const REGISTERED: u64 = 3600;
/// Nothing is believed to last longer.
const LONGEST: u64 = 24 * REGISTERED;

/// What tells contacts of one user apart: the user agent's own number where it has one (RFC 5626
/// section 4.1), else the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContactKey(u64);

impl ContactKey {
    fn of(contact: &NameAddr<'_>) -> Self {
        let mut hasher = DefaultHasher::new();
        match contact.params.get("+sip.instance") {
            Some(instance) => {
                hasher.write_u8(1);
                instance.to_ascii_lowercase().hash(&mut hasher);
                contact.params.get("reg-id").hash(&mut hasher);
            }
            None => {
                let uri = &contact.uri;
                let host = uri.host().map(|host| host.to_string().to_ascii_lowercase());
                (uri.user(), host, uri.port()).hash(&mut hasher);
            }
        }
        Self(hasher.finish())
    }
}

/// One contact, and for how many seconds it is asked for or granted.
struct Binding {
    /// `None`: all of them (`*`), or one that cannot be read.
    contact: Option<ContactKey>,
    seconds: u64,
}

fn bindings(message: &Message) -> impl Iterator<Item = Binding> {
    let header = message.text(HeaderName::Expires).and_then(|text| text.trim().parse().ok());
    message.list(HeaderName::Contact).map(move |contact: Element<'_>| {
        let contact = NameAddr::parse(contact.value).ok();
        let own = contact.and_then(|contact| contact.params.get("expires")?.parse().ok());
        let seconds = own.or(header).unwrap_or(REGISTERED).min(LONGEST);
        Binding { contact: contact.as_ref().map(ContactKey::of), seconds }
    })
}

/// Whether a registration is to stand afterwards: it neither asks only nor signs off.
pub(super) fn binds(request: &Message) -> bool {
    bindings(request).any(|binding| binding.seconds > 0)
}

/// What came of a registration.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The contact that it has bound, of several the one that lasts longest, and for how many seconds.
    pub bound: Option<(ContactKey, u64)>,
    /// The contacts that are no longer where they were bound: those it has ended (`None`: all of
    /// them), and what is bound here now.
    pub ended: Vec<Option<ContactKey>>,
}

/// What a good answer makes of a registration: it lasts as long as the answer says of its own contact,
/// and where that does not tell it from others, as was asked.
pub(super) fn outcome(request: &Message, response: &Message) -> Outcome {
    let mut outcome = Outcome::default();
    for asked in bindings(request) {
        let granted = || {
            let same = |granted: &Binding| granted.contact == asked.contact;
            let mut all = bindings(response);
            let only = all.next().filter(|_| all.next().is_none());
            let own = bindings(response).filter(same).map(|granted| granted.seconds).max();
            own.or(only.map(|only| only.seconds)).unwrap_or(asked.seconds)
        };
        let seconds = if asked.seconds == 0 { 0 } else { granted() };
        outcome.ended.push(asked.contact);
        if let Some(contact) = asked.contact.filter(|_| seconds > 0)
            && outcome.bound.is_none_or(|(_, longest)| longest < seconds)
        {
            outcome.bound = Some((contact, seconds));
        }
    }
    outcome
}
