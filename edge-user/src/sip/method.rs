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

impl Method<'static> {
    /// The method a token names, when it is one that has a name here.
    pub(super) fn named(token: &[u8]) -> Option<Self> {
        Some(match token {
            b"INVITE" => Method::Invite,
            b"ACK" => Method::Ack,
            b"CANCEL" => Method::Cancel,
            b"BYE" => Method::Bye,
            b"OPTIONS" => Method::Options,
            b"REGISTER" => Method::Register,
            b"MESSAGE" => Method::Message,
            b"SUBSCRIBE" => Method::Subscribe,
            b"NOTIFY" => Method::Notify,
            b"REFER" => Method::Refer,
            b"INFO" => Method::Info,
            b"UPDATE" => Method::Update,
            b"PRACK" => Method::Prack,
            b"PUBLISH" => Method::Publish,
            b"SERVICE" => Method::Service,
            b"BENOTIFY" => Method::Benotify,
            b"NEGOTIATE" => Method::Negotiate,
            _ => return None,
        })
    }
}

impl<'a> Method<'a> {
    /// The method a token names. The caller has checked that it is a token.
    pub fn from_token(token: &'a str) -> Self {
        Method::named(token.as_bytes()).unwrap_or(Method::Other(token))
    }

    /// Its text.
    pub fn as_str(self) -> &'a str {
        self.known().unwrap_or(match self {
            Method::Other(token) => token,
            _ => "",
        })
    }

    /// Its text, when it is one of those that have a name here.
    pub const fn known(self) -> Option<&'static str> {
        Some(match self {
            Method::Invite => "INVITE",
            Method::Ack => "ACK",
            Method::Cancel => "CANCEL",
            Method::Bye => "BYE",
            Method::Options => "OPTIONS",
            Method::Register => "REGISTER",
            Method::Message => "MESSAGE",
            Method::Subscribe => "SUBSCRIBE",
            Method::Notify => "NOTIFY",
            Method::Refer => "REFER",
            Method::Info => "INFO",
            Method::Update => "UPDATE",
            Method::Prack => "PRACK",
            Method::Publish => "PUBLISH",
            Method::Service => "SERVICE",
            Method::Benotify => "BENOTIFY",
            Method::Negotiate => "NEGOTIATE",
            Method::Other(_) => return None,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_read_as_it_is_written() {
        let known = [
            "INVITE",
            "ACK",
            "CANCEL",
            "BYE",
            "OPTIONS",
            "REGISTER",
            "MESSAGE",
            "SUBSCRIBE",
            "NOTIFY",
            "REFER",
            "INFO",
            "UPDATE",
            "PRACK",
            "PUBLISH",
            "SERVICE",
            "BENOTIFY",
            "NEGOTIATE",
        ];
        for name in known {
            let method = Method::from_token(name);
            assert_eq!((method.as_str(), method.known()), (name, Some(name)));
            assert_eq!(Method::from_token(&name.to_lowercase()).known(), None, "{name}");
        }
        assert_eq!(Method::from_token("FOO"), Method::Other("FOO"));
    }
}
