//! The gateway's inputs and outputs.

use bytes::Bytes;

use crate::{
    sip::Message,
    xmpp::{io::Pair, xml::Element},
};

/// What comes in.
#[derive(Debug)]
pub enum GatewayInput {
    /// A SIP message for an XMPP user, or a response to one of ours. From and request line were
    /// judged by the proxy.
    Sip(Message),
    /// A stanza of an XMPP user for a SIP user; the pair is proved.
    Stanza {
        /// From and to lie in it.
        pair: Pair,
        /// The stanza.
        stanza: Element,
    },
    /// A stanza of ours did not reach the XMPP partner.
    Undelivered {
        /// For which pair.
        pair: Pair,
        /// The stanza.
        stanza: Element,
        /// Condition of a stanza error.
        condition: &'static str,
        /// For people.
        text: String,
    },
    /// A message of ours was written to a stream that acknowledges nothing, or is acknowledged
    /// (XEP-0198).
    Passed {
        /// For which pair.
        pair: Pair,
        /// Its `id`.
        stanza: String,
        /// The partner's server has it.
        acknowledged: bool,
    },
}

/// What is to be done.
#[derive(Debug)]
pub enum GatewayOutput {
    /// Give this message to the proxy core.
    Sip(Bytes),
    /// Send this stanza to the XMPP partner.
    Stanza {
        /// From and to lie in it.
        pair: Pair,
        /// The stanza.
        stanza: Element,
    },
    /// Something an operator should be able to see.
    Event(crate::xmpp::io::XmppEvent),
}
