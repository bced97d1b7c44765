//! XML as XMPP restricts it (RFC 6120 section 11.1).

mod element;

pub use element::{Attribute, Element, Name, Node};
