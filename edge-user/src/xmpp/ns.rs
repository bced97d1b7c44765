//! Namespaces.

/// Stanzas between servers (RFC 6120 section 4.8.3). Stanzas inside this program have it too,
/// whichever side they come from.
pub const SERVER: &str = "jabber:server";
/// Stream header, features and errors (RFC 6120 section 4.8.1). Written with the prefix `stream`.
pub const STREAMS: &str = "http://etherx.jabber.org/streams";
/// Conditions of stream errors (RFC 6120 section 4.9.2).
pub const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// Conditions of stanza errors (RFC 6120 section 8.3.2).
pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// STARTTLS (RFC 6120 section 5).
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// SASL (RFC 6120 section 6).
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// Dialback (XEP-0220). Written with the prefix `db`.
pub const DIALBACK: &str = "jabber:server:dialback";
/// The stream feature of dialback (XEP-0220 section 2.3).
pub const DIALBACK_FEATURE: &str = "urn:xmpp:features:dialback";
/// Both ways on one connection (XEP-0288).
pub const BIDI: &str = "urn:xmpp:bidi";
/// The stream feature of that.
pub const BIDI_FEATURE: &str = "urn:xmpp:features:bidi";
/// Stream management (XEP-0198).
pub const SM: &str = "urn:xmpp:sm:3";
/// Stream limits (XEP-0478).
pub const STREAM_LIMITS: &str = "urn:xmpp:stream-limits:0";
/// Ping (XEP-0199).
pub const PING: &str = "urn:xmpp:ping";
/// The `xml` prefix.
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";
/// Chat states (XEP-0085).
pub const CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";
/// Delivery receipts (XEP-0184).
pub const RECEIPTS: &str = "urn:xmpp:receipts";
/// Service discovery (XEP-0030).
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
/// Software version (XEP-0092).
pub const VERSION: &str = "jabber:iq:version";
