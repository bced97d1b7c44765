//! XML as XMPP restricts it (RFC 6120 section 11.1).
//!
//! | part | what it does |
//! | --- | --- |
//! | `reader` | the guard: bytes to stanzas, each part bounded before it costs memory |
//! | `event` | what it gives |
//! | `limits` | its bounds, and what it says when one is passed |
//! | `names` | names known at build time |
//! | `element` | the tree of a stanza, and how it is written |

mod element;
mod event;
mod limits;
mod names;
mod reader;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

pub use element::{Attribute, Element, Name, Node};
pub use event::{StreamHeader, XmlEvent};
pub use limits::{XmlFault, XmlLimits};
pub use reader::XmlReader;
