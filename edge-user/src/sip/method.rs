//! Methods: the ones the RFCs and Lync name, and any other token (RFC 3261 section 7.1).

use std::fmt;

/// A request's method. Compared case-sensitively (RFC 3261 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method<'a> {
    /// RFC 3261.
    Invite,
    /// RFC 3261.
    Ack,
    /// RFC 3261.
    Cancel,
    /// RFC 3261.
    Bye,
    /// RFC 3261.
    Options,
    /// RFC 3261.
    Register,
    /// RFC 3428.
    Message,
    /// RFC 6665.
    Subscribe,
    /// RFC 6665.
    Notify,
    /// RFC 3515.
    Refer,
    /// RFC 6086.
    Info,
    /// RFC 3311.
    Update,
    /// RFC 3262.
    Prack,
    /// RFC 3903.
    Publish,
    /// Lync: SOAP over SIP (MS-SIPRE).
    Service,
    /// Lync: a NOTIFY without a response (MS-SIP).
    Benotify,
    /// Lync: compression and keep-alive negotiation (MS-CONMGMT).
    Negotiate,
    /// Any other token of up to 64 bytes.
    Other(&'a str),
}

/// The longest method that is read; RFC 4475 section 3.1.1.2 has one of 43 bytes.
pub(super) const MAX_METHOD: usize = 64;

const KNOWN: &[(&str, Method<'static>)] = &[
    ("INVITE", Method::Invite),
    ("ACK", Method::Ack),
    ("CANCEL", Method::Cancel),
    ("BYE", Method::Bye),
    ("OPTIONS", Method::Options),
    ("REGISTER", Method::Register),
    ("MESSAGE", Method::Message),
    ("SUBSCRIBE", Method::Subscribe),
    ("NOTIFY", Method::Notify),
    ("REFER", Method::Refer),
    ("INFO", Method::Info),
    ("UPDATE", Method::Update),
    ("PRACK", Method::Prack),
    ("PUBLISH", Method::Publish),
    ("SERVICE", Method::Service),
    ("BENOTIFY", Method::Benotify),
    ("NEGOTIATE", Method::Negotiate),
];

impl<'a> Method<'a> {
    /// The method a token names. The caller has checked that it is a token.
    pub fn from_token(token: &'a str) -> Self {
        KNOWN
            .iter()
            .find(|(name, _)| *name == token)
            .map_or(Method::Other(token), |(_, method)| *method)
    }

    /// Its text.
    pub fn as_str(self) -> &'a str {
        match self {
            Method::Other(token) => token,
            known => KNOWN.iter().find(|(_, m)| *m == known).map_or("", |(name, _)| name),
        }
    }

    /// Whether a request with it forms a dialog when it has no To tag (RFC 3261 section 12,
    /// RFC 6665, RFC 3515).
    pub fn forms_dialog(self) -> bool {
        matches!(self, Method::Invite | Method::Subscribe | Method::Refer)
    }
}

impl fmt::Display for Method<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
