//! What a message is matched by (RFC 3261 sections 17.1.3 and 17.2.3), as 128 keyed bits: small,
//! and nobody outside can aim for a collision.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use crate::sip::{HeaderName, Host, Message, Method};

/// A transaction's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(u64, u64);

/// Makes keys; each process has its own secret.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyMaker {
    first: RandomState,
    second: RandomState,
}

impl KeyMaker {
    fn make(&self, parts: impl Hash) -> Key {
        Key(self.first.hash_one(&parts), self.second.hash_one(&parts))
    }

    /// A request that came in. `method` is INVITE for an ACK or to find what a CANCEL is for.
    pub fn server(&self, scope: u64, message: &Message, method: Method<'_>) -> Option<Key> {
        let via = message.via().ok()?;
        if let Some(branch) = via.unique_branch() {
            let sent_by = SentBy(via.host, via.port);
            return Some(self.make(("server", scope, branch, sent_by, method)));
        }
        // An RFC 2543 sender. The To tag is left out: an ACK has one that its INVITE had not.
        let top = message.list(HeaderName::Via).next()?;
        let from = message.from().ok()?;
        let uri = message.request_uri()?.ok()?;
        let number = message.cseq().ok()?.number;
        let ids = (message.call_id().ok()?, from.tag(), number, uri.as_str(), top.value);
        Some(self.make(("server without a cookie", scope, ids, method)))
    }

    /// A request that we sent, or a response to it.
    pub fn client(&self, scope: u64, branch: &str, method: Method<'_>) -> Key {
        self.make(("client", scope, branch, method))
    }
}

/// Host and port of a Via; names hash without regard to case.
struct SentBy<'a>(Host<'a>, Option<u16>);

impl Hash for SentBy<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            Host::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                for b in name.bytes() {
                    state.write_u8(b.to_ascii_lowercase());
                }
                state.write_u8(0xff);
            }
            Host::V4(address) => address.hash(state),
            Host::V6(address) => address.hash(state),
        }
        self.1.hash(state);
    }
}
