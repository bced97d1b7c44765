//! The generator's stanzas: as small a reading and writing of XML as they need.

use std::io::Write as _;

use memchr::{memchr, memmem};

/// Who sends.
pub const FROM: &str = "alice@fabrikam.example/lab";
const WORDS: &str = "The quick brown fox jumps over the lazy dog while the phones ring.";

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A message to this user.
    Message(&'static str),
    /// A message to a user whom nobody knows: an error comes back.
    Bounced(&'static str),
}

impl Ask {
    /// Writes one.
    pub fn write(self, out: &mut Vec<u8>, number: u32) {
        let (Ask::Message(to) | Ask::Bounced(to)) = self;
        let _ = write!(
            out,
            "<message from='{FROM}' to='{to}' type='chat' id='m{number}' xml:lang='en'>\
             <body>{WORDS}</body><active xmlns='http://jabber.org/protocol/chatstates'/></message>"
        );
    }

    /// Whether this is what is to come back.
    pub fn is_answer(self, stanza: &[u8]) -> bool {
        matches!(self, Ask::Bounced(_))
            && stanza.starts_with(b"<message")
            && memmem::find(stanza, b"<service-unavailable").is_some()
    }
}

/// Length of the first stanza in a stream's bytes, when it is there whole; white space counts as
/// one, so that it is passed over.
pub fn first_stanza(bytes: &[u8]) -> Option<usize> {
    if bytes.first()?.is_ascii_whitespace() {
        return Some(1);
    }
    let head = memchr(b'>', bytes)? + 1;
    if bytes[..head].ends_with(b"/>") || bytes.starts_with(b"</") {
        return Some(head);
    }
    let name_end = bytes.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'>')?;
    let end = [b"</", &bytes[1..name_end], b">"].concat();
    Some(memmem::find(bytes, &end)? + end.len())
}

/// Whether it is one of stream management (XEP-0198), which we never switch on, or a ping.
pub fn is_management(stanza: &[u8]) -> bool {
    stanza.starts_with(b"<r ") || stanza.starts_with(b"<a ") || stanza.starts_with(b"<iq")
}

/// Answers a ping; anything else is let be.
pub fn acknowledge(stanza: &[u8], out: &mut Vec<u8>) {
    if memmem::find(stanza, b"urn:xmpp:ping").is_none() {
        return;
    }
    let text = String::from_utf8_lossy(stanza);
    let value = |name| crate::lab::xmpp_client::value(&text, name).unwrap_or_default().to_owned();
    let (from, to, id) = (value("from"), value("to"), value("id"));
    let _ = write!(out, "<iq type='result' from='{to}' to='{from}' id='{id}'/>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_found_where_they_end() {
        let mut message = Vec::new();
        Ask::Message("bob@contoso.example").write(&mut message, 7);
        for (bytes, expected) in [
            (&message[..], Some(message.len())),
            (&message[..message.len() - 1], None),
            (b" <presence/>", Some(1)),
            (b"<presence/><presence/>", Some(11)),
            (b"</stream:stream>", Some(16)),
            (b"<iq id='1'><ping xmlns='urn:xmpp:ping'/></iq><", Some(45)),
        ] {
            assert_eq!(first_stanza(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
