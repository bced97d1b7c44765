//! What is asked of a request before its route is read.

use super::{Peer, proxy::Proxy, respond::Answer};
use crate::sip::Message;

impl Proxy {
    /// The answer that ends it here, if there is one.
    pub(super) fn preflight(&self, _message: &Message, _peer: &Peer) -> Result<(), Answer> {
        Ok(())
    }
}
