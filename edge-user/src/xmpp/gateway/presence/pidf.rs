//! Presence documents: PIDF (RFC 3863) with RPID (RFC 4480), and `<presence/>` (RFC 8048 section
//! 7).
//!
//! An XMPP user's resources become tuples, the most available first; what one value must say of the
//! whole person is said by that one. Documents from inside are read as far as they make sense.

use std::sync::Arc;

use jid::ResourcePart;

use crate::xmpp::{
    gateway::{address::Party, content},
    ns,
    xml::Element,
};

/// RFC 3863.
const PIDF: &str = "urn:ietf:params:xml:ns:pidf";
/// RFC 4479.
const DATA_MODEL: &str = "urn:ietf:params:xml:ns:pidf:data-model";
/// RFC 4480.
const RPID: &str = "urn:ietf:params:xml:ns:pidf:rpid";
/// Whose `<show/>` PIDF carries (RFC 8048 section 7).
const CLIENT: &str = "jabber:client";
/// The type of such a document.
pub const TYPE: &str = "application/pidf+xml";
/// Tuples that are read.
const MAX_TUPLES: usize = 16;
/// Characters of a note.
const MAX_NOTE: usize = 256;

/// How available someone is (RFC 6121 section 4.7.2.1); the greater is the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Show {
    /// Do not disturb.
    Dnd,
    /// Away for long.
    Xa,
    /// Away.
    Away,
    /// No `<show/>`.
    Online,
    /// Wants to chat.
    Chat,
}

impl Show {
    fn of(text: &str) -> Option<Self> {
        Some(match text.trim() {
            "dnd" => Show::Dnd,
            "xa" => Show::Xa,
            "away" => Show::Away,
            "chat" => Show::Chat,
            _ => return None,
        })
    }

    /// The text of `<show/>`.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Show::Dnd => Some("dnd"),
            Show::Xa => Some("xa"),
            Show::Away => Some("away"),
            Show::Chat => Some("chat"),
            Show::Online => None,
        }
    }

    /// Of an activity of RPID.
    fn of_activity(name: &str) -> Option<Self> {
        Some(match name {
            "away" => Show::Away,
            "holiday" | "permanent-absence" | "sleeping" | "travel" | "vacation" => Show::Xa,
            "appointment" | "busy" | "in-transit" | "meeting" | "on-the-phone" | "performance"
            | "presentation" | "steering" => Show::Dnd,
            _ => return None,
        })
    }
}

/// One resource that is there, or one tuple.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name: never empty.
    pub name: Arc<str>,
    /// How available.
    pub show: Show,
    /// What the user says of it.
    pub note: Option<String>,
    /// In which language.
    pub lang: Option<String>,
    /// -128 to 127; of a tuple 0.
    pub priority: i8,
}

impl Resource {
    /// Of `<presence/>` without a type.
    pub fn of_stanza(name: Arc<str>, stanza: &Element) -> Self {
        let text =
            |name: &str| stanza.child(ns::SERVER, name).map(|child| child.text().into_owned());
        let show = text("show").and_then(|show| Show::of(&show));
        let priority = text("priority").and_then(|text| text.trim().parse().ok());
        Self {
            name,
            show: show.unwrap_or(Show::Online),
            note: text("status").and_then(|note| a_note(&note)),
            lang: stanza.lang().filter(|lang| content::is_lang(lang)).map(str::to_owned),
            priority: priority.unwrap_or(0),
        }
    }

    /// `<presence/>` without addresses.
    pub fn stanza(&self) -> Element {
        let mut stanza = Element::new(ns::SERVER, "presence");
        if let Some(lang) = &self.lang {
            stanza.set_ns(ns::XML, "lang", lang.clone());
        }
        if let Some(show) = self.show.name() {
            stanza.push(Element::new(ns::SERVER, "show").with_text(show));
        }
        if let Some(note) = &self.note {
            stanza.push(Element::new(ns::SERVER, "status").with_text(note.clone()));
        }
        stanza
    }
}

fn a_note(text: &str) -> Option<String> {
    let note: String = content::clean(text).trim().chars().take(MAX_NOTE).collect();
    (!note.is_empty()).then_some(note)
}

/// Sorts resources, the most available first.
pub fn sort(resources: &mut [Resource]) {
    resources.sort_by(|a, b| {
        b.show.cmp(&a.show).then(b.priority.cmp(&a.priority)).then(a.name.cmp(&b.name))
    });
}

/// The document about an XMPP user with these resources, sorted. None: closed.
pub fn write(user: &Party, resources: &[Resource]) -> Vec<u8> {
    let mut presence = Element::new(PIDF, "presence").with("entity", user.pres());
    if resources.is_empty() {
        let basic = Element::new(PIDF, "basic").with_text("closed");
        let status = Element::new(PIDF, "status").with_child(basic);
        presence.push(Element::new(PIDF, "tuple").with("id", "ID-").with_child(status));
    }
    for resource in resources {
        presence.push(tuple(user, resource));
    }
    if let Some(best) = resources.first() {
        let activity = match best.show {
            Show::Away | Show::Xa => Some("away"),
            Show::Dnd => Some("busy"),
            Show::Online | Show::Chat => None,
        };
        if let Some(activity) = activity {
            let activities =
                Element::new(RPID, "activities").with_child(Element::new(RPID, activity));
            presence.push(
                Element::new(DATA_MODEL, "person").with("id", "person").with_child(activities),
            );
        }
    }
    let mut out = b"<?xml version='1.0' encoding='UTF-8'?>".to_vec();
    presence.write_in("", &mut out);
    out
}

fn tuple(user: &Party, resource: &Resource) -> Element {
    let mut status =
        Element::new(PIDF, "status").with_child(Element::new(PIDF, "basic").with_text("open"));
    if let Some(show) = resource.show.name() {
        status.push(Element::new(CLIENT, "show").with_text(show));
    }
    let mut tuple =
        Element::new(PIDF, "tuple").with("id", tuple_id(&resource.name)).with_child(status);
    // A negative priority has no counterpart (RFC 8048 section 7).
    if let Ok(priority) = u32::try_from(resource.priority) {
        let thousandths = priority * 1000 / 127;
        let value = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
        let contact =
            Element::new(PIDF, "contact").with("priority", value).with_text(user.sip.as_ref());
        tuple.push(contact);
    }
    if let Some(note) = &resource.note {
        let mut element = Element::new(PIDF, "note").with_text(note.clone());
        if let Some(lang) = &resource.lang {
            element.set_ns(ns::XML, "lang", lang.clone());
        }
        tuple.push(element);
    }
    tuple
}

/// `ID-` and the resource, as an xs:ID may be: what may not stand there is written as `_HH`.
fn tuple_id(resource: &str) -> String {
    let mut id = String::from("ID-");
    for c in resource.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') {
            id.push(c);
        } else {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                id.push_str(&format!("_{byte:02X}"));
            }
        }
    }
    id
}

/// What a document says: tuples that are open, sorted. `None`: it is no such document.
pub fn read(document: &Element) -> Option<Vec<Resource>> {
    if !document.is(PIDF, "presence") {
        return None;
    }
    let person = document.children().find(|child| child.is(DATA_MODEL, "person"));
    let of_person = person.and_then(activity);
    let note = |of: &Element, ns: &str| {
        let note = of.child(ns, "note");
        note.and_then(|note| {
            Some((
                a_note(&note.text())?,
                note.lang().filter(|l| content::is_lang(l)).map(str::to_owned),
            ))
        })
    };
    let common =
        note(document, PIDF).or_else(|| person.and_then(|person| note(person, DATA_MODEL)));
    let mut found: Vec<Resource> = Vec::new();
    for tuple in document.children().filter(|child| child.is(PIDF, "tuple")).take(MAX_TUPLES) {
        let Some(status) = tuple.child(PIDF, "status") else { continue };
        let basic = status
            .child(PIDF, "basic")
            .map(|basic| basic.text().trim().eq_ignore_ascii_case("open"));
        if basic != Some(true) {
            continue;
        }
        let shown =
            status.children().chain(tuple.children()).find(|child| child.is(CLIENT, "show"));
        let show = shown.and_then(|show| Show::of(&show.text()));
        let show = show.or_else(|| activity(tuple)).or_else(|| activity(status)).or(of_person);
        let (note, lang) = match note(tuple, PIDF).or_else(|| common.clone()) {
            Some((note, lang)) => (Some(note), lang),
            None => (None, None),
        };
        let name = resource_name(tuple.attribute("id").unwrap_or_default());
        if found.iter().all(|other| other.name != name) {
            let show = show.unwrap_or(Show::Online);
            found.push(Resource { name, show, note, lang, priority: 0 });
        }
    }
    sort(&mut found);
    Some(found)
}

/// The activity of RPID that says most; idle is away.
fn activity(element: &Element) -> Option<Show> {
    let activities = element.children().filter(|child| child.is(RPID, "activities"));
    let shows =
        activities.flat_map(Element::children).filter_map(|child| Show::of_activity(child.name()));
    let idle = element
        .children()
        .any(|child| child.is(RPID, "user-input") && child.text().trim() == "idle");
    shows.min().or(idle.then_some(Show::Away))
}

/// The resource that a tuple stands for.
fn resource_name(id: &str) -> Arc<str> {
    let id = id.strip_prefix("ID-").unwrap_or(id);
    let id: String = id.chars().take(128).collect();
    match ResourcePart::new(&id) {
        Ok(name) => name.as_str().into(),
        Err(_) => "sip".into(),
    }
}
