//! XMPP federation: streams between servers, and the gateway between XMPP and SIP. No sockets, no
//! clock.
//!
//! | part | what it does | document |
//! | --- | --- | --- |
//! | `xml` | the guard that reads what comes from outside, and the tree that it makes of a stanza | RFC 6120 section 11 |
//! | `names` | which domains a certificate names | RFC 6120 section 13.7.1.2 |
//! | `io` | the contract between the streams and the shell, and between the streams and who takes stanzas | |
//! | `streams` | the core of all streams: who proves what, where a pair goes | RFC 6120, XEP-0220 |
//! | `gateway` | SIP to XMPP and back | RFC 7247, 7572, 8048 |
//! | `site` | streams and gateway as one machine | |
//! | `watch` | the watch list, as the streams ask it | |
//!
//! What this module must never do: build a tree of XML that the guard has not passed, hand on a
//! stanza of a stream that has not proved its domain, or pass bytes of one stream to another: a
//! stanza is read once and written anew.

pub mod gateway;
pub mod io;
mod names;
pub mod ns;
mod recent;
pub mod settings;
pub mod site;
pub mod streams;
pub mod watch;
pub mod xml;
