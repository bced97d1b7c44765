//! What calls are known by: the same after a restart, and nobody else's to choose.

use std::fmt;

use ring::hmac;

use crate::{
    domain::Domain,
    media::flow::CallId,
    sip::{Host, Uri},
};

/// What a message says of its dialog.
#[derive(Clone, Copy, Debug)]
pub struct CallNames<'a> {
    /// Call-ID.
    pub call_id: &'a str,
    /// From's tag, as in the request.
    pub from_tag: &'a str,
    /// To's tag; `None` before there is a dialog.
    pub to_tag: Option<&'a str>,
    /// The request came from outside.
    pub inbound: bool,
    /// The partner that is outside; `None`: a remote user.
    pub partner: Option<&'a Domain>,
    /// The remote user that is outside: From's or To's URI.
    pub user: Option<Uri<'a>>,
}

impl<'a> CallNames<'a> {
    /// The callee's tag in a dialog that began in this direction.
    pub(super) fn callee_tag(&self, inbound: bool) -> Option<&'a str> {
        if self.inbound == inbound { self.to_tag } else { Some(self.from_tag) }
    }
}

/// Keys that names are made with.
pub(super) struct NameKeys {
    /// The first makes new names.
    keys: Vec<hmac::Key>,
}

impl fmt::Debug for NameKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameKeys").finish_non_exhaustive()
    }
}

impl NameKeys {
    pub(super) fn new(secret: &[u8; 32], former: Option<&[u8; 32]>) -> Self {
        let key = |secret: &[u8; 32]| {
            let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
            let derived = hmac::sign(&secret, b"edge call name");
            hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
        };
        Self { keys: std::iter::once(secret).chain(former).map(key).collect() }
    }

    /// The names that the call may have: as its caller speaks, and as its callee; under each key.
    pub(super) fn candidates(&self, names: &CallNames<'_>) -> impl Iterator<Item = CallId> {
        let callee = names.to_tag.map(|tag| (tag, !names.inbound));
        let ways = [Some((names.from_tag, names.inbound)), callee];
        self.keys.iter().flat_map(move |key| {
            ways.into_iter().flatten().map(move |(tag, inbound)| name(key, names, tag, inbound))
        })
    }

    /// Whether it is this call's caller that is From here.
    pub(super) fn began_by_from(&self, id: CallId, names: &CallNames<'_>) -> bool {
        let by_from = |key| name(key, names, names.from_tag, names.inbound) == id;
        self.keys.iter().any(by_from)
    }

    /// The name of a call that begins with this request.
    pub(super) fn new_name(&self, names: &CallNames<'_>) -> Option<CallId> {
        Some(name(self.keys.first()?, names, names.from_tag, names.inbound))
    }
}

/// A code over who calls whom: each part with its length, so that no two inputs look alike.
fn name(key: &hmac::Key, names: &CallNames<'_>, tag: &str, inbound: bool) -> CallId {
    let mut context = hmac::Context::with_key(key);
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    part(names.call_id.as_bytes());
    part(tag.as_bytes());
    // One call may come through here twice: in from one side, and out again to a user elsewhere.
    part(&[u8::from(inbound)]);
    part(names.partner.map_or("", Domain::as_str).as_bytes());
    // Remote users are nobody's domain: each has names of its own. Parameters may change.
    if let Some(user) = names.user {
        part(user.user().unwrap_or_default().as_bytes());
        match user.host() {
            Some(Host::Name(name)) => part(name.to_ascii_lowercase().as_bytes()),
            Some(address) => part(address.to_string().as_bytes()),
            None => part(user.as_str().as_bytes()),
        }
    }
    let code = context.sign();
    let first = code.as_ref().first_chunk::<8>().copied().unwrap_or_default();
    CallId(u64::from_be_bytes(first).max(1))
}
