//! SIP: messages, framing, editing and typed values. No sockets, no clock, no policy. (The
//! transactions, a proxy's pairs of server and client joined, are in `proxy`.)
//!
//! | part | what it does | document |
//! | --- | --- | --- |
//! | [`Message`], [`Framer`] | find where a message ends and index its headers, in one pass and with one piece of code, so that the two can never disagree | RFC 3261 sections 7, 18.3; RFC 5626 section 4.4.1 |
//! | [`Uri`], [`NameAddr`], [`Via`], [`CSeq`] | typed values, read from slices of the message, without copies | RFC 3261 sections 19.1, 20, 25.1 |
//! | [`Edit`], [`ForwardRequest`], [`ForwardResponse`] | change a few ranges, keep every foreign byte | RFC 3261 section 16.6, 16.7 |
//! | [`build`] | responses, ACK and CANCEL of our own | RFC 3261 sections 8.2.6, 9.1, 17.1.1.3 |
//! | [`compat`] | the only user of rsip: messages of our own, single typed values, and the oracle of differential tests | |
//!
//! What this module must never do: repair what a peer sent by guessing, hand out a value that
//! holds a CR, LF or NUL, or read a value in two ways.

pub mod build;
mod class;
pub mod compat;
mod edit;
mod facts;
mod forward;
mod framer;
mod head;
mod header;
mod host;
mod message;
mod method;
mod plain;
mod scan;
mod uri;
mod value;
mod via;

#[cfg(test)]
mod tests;

pub use edit::{Edit, EditError};
pub use forward::{ForwardRequest, ForwardResponse, Received};
pub use framer::{Frame, Framer};
pub use head::Fault;
pub use header::HeaderName;
pub use host::Host;
pub use message::{Element, FrameError, Header, Limits, Message};
pub use method::Method;
pub use uri::{Scheme, Uri, UriError};
pub use value::{CSeq, NameAddr, Params, ValueError};
pub use via::Via;
