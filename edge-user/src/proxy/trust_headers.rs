//! What the two sides say to each other about their users, and what an edge takes out or puts in.

use std::sync::Arc;

use super::{exchange::Exchange, proxy::Proxy};
use crate::sip::{HeaderName, Message};

/// Headers to take away and to add.
#[derive(Debug, Default)]
pub(super) struct HeaderChange {
    pub remove: &'static [HeaderName],
    pub add: [Option<(&'static str, Arc<str>)>; 2],
}

impl HeaderChange {
    /// What is added, as text.
    pub(super) fn added(&self) -> Vec<(&str, &str)> {
        self.add.iter().flatten().map(|(name, value)| (*name, &**value)).collect()
    }
}

impl Proxy {
    /// For a request on its way.
    pub(super) fn request_headers(&self, exchange: &Exchange) -> HeaderChange {
        // Only an edge says this to the inside (MS-SIPRE section 2.2.15); no partner does.
        let remove: &'static [HeaderName] =
            if exchange.inbound { &[HeaderName::MsEdgeProxyMessageTrust] } else { &[] };
        HeaderChange { remove, ..HeaderChange::default() }
    }

    /// For a response on its way back.
    pub(super) fn response_headers(&self, exchange: &Exchange, response: &Message) -> HeaderChange {
        let remove: &'static [HeaderName] = match exchange.inbound {
            true => &[],
            false if self.asserts_ours(response) => {
                &[HeaderName::MsEdgeProxyMessageTrust, HeaderName::PAssertedIdentity]
            }
            false => &[HeaderName::MsEdgeProxyMessageTrust],
        };
        HeaderChange { remove, ..HeaderChange::default() }
    }
}
