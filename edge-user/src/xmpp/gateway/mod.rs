//! SIP to XMPP and back: a user agent towards the servers inside, a server towards XMPP partners.
//!
//! Towards SIP it has one connection, within this program, to the proxy core: the proxy judges who
//! may write to whom, finds the way and fails over. That connection is reliable and keeps order, so
//! no SIP timer but those of RFC 3261 sections 17.1.1.2 (B), 17.1.2.2 (F), 13.3.1.4 (2xx) and 14 is
//! needed.

pub mod address;
pub mod errors;
pub mod io;
