//! Messages in an envelope (`message/cpim`, RFC 3862), and the reports of delivery that one may ask
//! for (RFC 5438).
//!
//! Who speaks is said by SIP, never by an envelope: its `From` and `To` are not read.

use super::content;
use crate::{
    sip::{HeaderName, Message},
    xmpp::xml::Element,
};

/// The type of an envelope.
pub const CPIM: &str = "message/cpim";
/// The type of a report.
pub const IMDN: &str = "message/imdn+xml";
/// Names of headers that are about reports (RFC 5438 section 6).
const IMDN_HEADERS: &str = "urn:ietf:params:imdn";
const IMDN_NS: &str = "urn:ietf:params:xml:ns:imdn";

/// Headers of an envelope.
const MAX_HEADERS: usize = 32;
/// Characters of an id, and of a time, that a report repeats.
const MAX_WORD: usize = 128;

/// What a message says: its body, or what lies in the envelope that its body is.
#[derive(Debug, PartialEq, Eq)]
pub struct Content<'b> {
    /// Content-Type of the content.
    pub kind: String,
    /// The content.
    pub body: &'b [u8],
    /// What the message is about.
    pub subject: Option<String>,
    /// What the sender wants to be told.
    pub asked: Option<Asked>,
}

/// Reports that a sender asked for: of this message, from this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `Message-ID`: a word without what XML or a header would read otherwise.
    id: String,
    /// `DateTime`, as it came.
    time: String,
    /// That it was delivered.
    pub delivery: bool,
    /// That it was not.
    pub failure: bool,
}

impl<'b> Content<'b> {
    /// Of a request; `None`: it is encoded, or an envelope that cannot be opened.
    pub fn of(request: &'b Message) -> Option<Self> {
        let encoded = request.header(HeaderName::ContentEncoding);
        if encoded.is_some_and(|header| !header.value.eq_ignore_ascii_case(b"identity")) {
            return None;
        }
        let kind = request.text(HeaderName::ContentType).unwrap_or("text/plain");
        let body = request.body();
        let mut content = match content::media_type(kind).0.as_str() {
            CPIM => Self::open(body)?,
            _ => Self { kind: kind.to_owned(), body, subject: None, asked: None },
        };
        let subject = request.text(HeaderName::Subject).map(content::clean);
        content.subject = subject.or(content.subject).filter(|subject| !subject.is_empty());
        Some(content)
    }

    /// Opens an envelope; `None`: it is none, its content is encoded, or it demands what is not
    /// understood (RFC 3862 section 2.3.7).
    pub fn open(envelope: &'b [u8]) -> Option<Self> {
        if envelope.len() > content::MAX_TEXT {
            return None;
        }
        let mut rest = envelope;
        let mut prefix = "imdn".to_owned();
        let (mut subject, mut id, mut time) = (None, None, None);
        let mut wants = String::new();
        for (name, value) in headers(&mut rest)? {
            match name {
                "NS" => {
                    let (short, uri) = value.split_once('<').unwrap_or(("", value));
                    if uri.trim_end_matches('>').trim() == IMDN_HEADERS {
                        prefix = short.trim().to_owned();
                    }
                }
                "Subject" => subject = subject.or(Some(value)),
                "DateTime" => time = Some(value),
                "Require" if !value.split(',').all(|name| is_understood(name.trim(), &prefix)) => {
                    return None;
                }
                _ => match name.split_once('.') {
                    Some((short, "Message-ID")) if short == prefix => id = Some(value),
                    Some((short, "Disposition-Notification")) if short == prefix => {
                        wants = value.to_ascii_lowercase();
                    }
                    _ => {}
                },
            }
        }
        let mut kind = "text/plain".to_owned();
        for (name, value) in headers(&mut rest)? {
            if name.eq_ignore_ascii_case("content-type") {
                kind = value.to_owned();
            } else if name.eq_ignore_ascii_case("content-transfer-encoding")
                && !content::is_unencoded(value)
            {
                return None;
            }
        }
        let wants = |what: &str| wants.split(',').any(|one| one.trim() == what);
        let asked = match (id.and_then(word), time.and_then(word)) {
            (Some(id), Some(time)) => Some(Asked {
                id,
                time,
                delivery: wants("positive-delivery"),
                failure: wants("negative-delivery"),
            }),
            _ => None,
        };
        Some(Self {
            kind,
            body: rest,
            subject: subject.map(content::clean),
            asked: asked.filter(|asked| asked.delivery || asked.failure),
        })
    }
}

impl Asked {
    /// The report in its envelope. `from`, `to`: URIs of whom the message was for, and of its sender;
    /// `id`: a name for the report itself.
    pub fn report(&self, (from, to): (&str, &str), id: &str, delivered: bool) -> Vec<u8> {
        let child = |name: &'static str, text: &str| Element::new(IMDN_NS, name).with_text(text);
        let outcome = Element::new(IMDN_NS, if delivered { "delivered" } else { "failed" });
        let status = Element::new(IMDN_NS, "status").with_child(outcome);
        let document = Element::new(IMDN_NS, "imdn")
            .with_child(child("message-id", &self.id))
            .with_child(child("datetime", &self.time))
            .with_child(child("recipient-uri", from))
            .with_child(Element::new(IMDN_NS, "delivery-notification").with_child(status));
        let mut xml = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n".to_vec();
        document.write(&mut xml);
        let mut out = format!(
            "From: <{from}>\r\nTo: <{to}>\r\nNS: imdn <{IMDN_HEADERS}>\r\nimdn.Message-ID: {id}\r\n\
             \r\nContent-Type: {IMDN}\r\nContent-Disposition: notification\r\n\
             Content-Length: {}\r\n\r\n",
            xml.len()
        )
        .into_bytes();
        out.append(&mut xml);
        out
    }
}

/// A header that a sender may demand to be understood.
fn is_understood(name: &str, prefix: &str) -> bool {
    matches!(name, "From" | "To" | "cc" | "DateTime" | "Subject" | "NS" | "Require")
        || name.split_once('.').is_some_and(|(short, _)| short == prefix)
}

/// Takes header lines off, and the empty line behind them.
fn headers<'b>(rest: &mut &'b [u8]) -> Option<Vec<(&'b str, &'b str)>> {
    let mut found = Vec::new();
    loop {
        let end = memchr::memchr(b'\n', rest)?;
        let (line, after) = rest.split_at_checked(end)?;
        *rest = after.get(1..)?;
        let line = std::str::from_utf8(line).ok()?.trim_end();
        if line.is_empty() {
            return Some(found);
        }
        let (name, value) = line.split_once(':')?;
        if found.len() == MAX_HEADERS {
            return None;
        }
        found.push((name.trim(), value.trim()));
    }
}

fn word(text: &str) -> Option<String> {
    let fits = (1..=MAX_WORD).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASKING: &str = "From: Ann <im:ann@contoso.example>\r\nTo: <im:rob@montague.example>\r\n\
        NS: imdn <urn:ietf:params:imdn>\r\nimdn.Message-ID: 34jk324j\r\n\
        DateTime: 2006-04-04T12:16:49-05:00\r\n\
        imdn.Disposition-Notification: positive-delivery, negative-delivery\r\nSubject: so\r\n\r\n\
        Content-Type: text/plain; charset=utf-8\r\nContent-length: 2\r\n\r\nhi";

    #[test]
    fn an_envelope_gives_its_content_and_what_is_asked() {
        let envelope = Content::open(ASKING.as_bytes()).unwrap();
        assert_eq!(
            (envelope.kind.as_str(), envelope.body),
            ("text/plain; charset=utf-8", &b"hi"[..])
        );
        assert_eq!(envelope.subject.as_deref(), Some("so"));
        let asked = envelope.asked.unwrap();
        assert!(asked.delivery && asked.failure);
        assert_eq!((asked.id.as_str(), asked.time.len()), ("34jk324j", 25));
    }

    #[test]
    fn what_is_asked_needs_its_own_names_an_id_and_a_time() {
        for (change, asks) in [
            (("", ""), true),
            (("imdn.", "i."), false),
            (("NS: imdn <urn:ietf:params:imdn>", "NS: i <urn:ietf:params:imdn>"), false),
            (("NS: imdn <urn:ietf:params:imdn>\r\n", ""), true),
            (("positive-delivery, negative-delivery", "display"), false),
            (("positive-delivery, ", "display,"), true),
            (("imdn.Message-ID: 34jk324j\r\n", ""), false),
            (("34jk324j", "a b"), false),
            (("DateTime: 2006-04-04T12:16:49-05:00\r\n", ""), false),
        ] {
            let text = ASKING.replace(change.0, change.1);
            let envelope = Content::open(text.as_bytes()).unwrap();
            assert_eq!(envelope.asked.is_some(), asks, "{change:?}");
        }
        let renamed = ASKING.replace("imdn.", "i.").replace("NS: imdn", "NS: i");
        assert!(Content::open(renamed.as_bytes()).unwrap().asked.is_some());
    }

    #[test]
    fn what_is_no_envelope_or_demands_too_much_is_not_opened() {
        for (change, opens) in [
            (("Subject: so", "Require: imdn.Message-ID,Subject"), true),
            (("Subject: so", "Require: MyFeatures.VitalHeader"), false),
            (("Content-length: 2", "Content-Transfer-Encoding: 8bit"), true),
            (("Content-length: 2", "Content-Transfer-Encoding: base64"), false),
            (("\r\n\r\nhi", ""), false),
            (("Subject: so", "no header"), false),
            (("Subject: so", &"a: b\r\n".repeat(40)), false),
        ] {
            let text = ASKING.replace(change.0, change.1);
            assert_eq!(Content::open(text.as_bytes()).is_some(), opens, "{change:?}");
        }
        assert_eq!(Content::open(b"hi"), None);
    }

    #[test]
    fn a_report_says_of_which_message_and_what() {
        let asked = Content::open(ASKING.replace("34jk324j", "a<&b").as_bytes()).unwrap().asked;
        let asked = asked.unwrap();
        for (delivered, word) in [(true, "<delivered/>"), (false, "<failed/>")] {
            let parties = ("sip:rob@montague.example", "sip:ann@contoso.example");
            let report = asked.report(parties, "r1", delivered);
            let opened = Content::open(&report).unwrap();
            assert_eq!((opened.kind.as_str(), opened.asked.as_ref()), (IMDN, None));
            let document = super::super::document::read(opened.body).unwrap();
            assert!(document.is(IMDN_NS, "imdn"));
            assert_eq!(document.child(IMDN_NS, "message-id").unwrap().text(), "a<&b");
            let xml = String::from_utf8(report.clone()).unwrap();
            assert!(xml.contains(word) && xml.contains("2006-04-04T12:16:49-05:00"), "{xml}");
            assert!(xml.contains("imdn.Message-ID: r1\r\n"), "{xml}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_opened_without_harm(text in "([A-Za-z.:<> -]{0,12}(\r\n|\n|: )){0,12}.{0,20}") {
            if let Some(Content { asked: Some(asked), .. }) = Content::open(text.as_bytes()) {
                asked.report(("sip:a@b.example", "sip:c@d.example"), "x", true);
            }
        }
    }
}
