//! Header names: the ones the appliance looks at, with their compact forms (RFC 3261 section
//! 7.3.3 and the IANA registry), and `Other` for the rest.

macro_rules! names {
    ($( $(#[$doc:meta])* $variant:ident = $text:literal $(, $compact:literal)? ;)*) => {
        /// The name of a header that the appliance knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum HeaderName {
            $( $(#[$doc])* $variant, )*
            /// A header the appliance does not know: carried as it is.
            Other,
        }

        impl HeaderName {
            /// Every name but `Other`.
            pub const KNOWN: &'static [HeaderName] = &[$( HeaderName::$variant, )*];

            /// The long form; empty for `Other`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( HeaderName::$variant => $text, )*
                    HeaderName::Other => "",
                }
            }

            /// The compact form, if there is one.
            pub const fn compact(self) -> Option<u8> {
                match self {
                    $( $( HeaderName::$variant => Some($compact), )? )*
                    _ => None,
                }
            }
        }
    };
}

names! {
    /// RFC 3261 section 20.42.
    Via = "Via", b'v';
    /// RFC 3261 section 20.20.
    From = "From", b'f';
    /// RFC 3261 section 20.39.
    To = "To", b't';
    /// RFC 3261 section 20.8.
    CallId = "Call-ID", b'i';
    /// RFC 3261 section 20.16.
    CSeq = "CSeq";
    /// RFC 3261 section 20.22.
    MaxForwards = "Max-Forwards";
    /// RFC 3261 section 20.14.
    ContentLength = "Content-Length", b'l';
    /// RFC 3261 section 20.10.
    Contact = "Contact", b'm';
    /// RFC 3261 section 20.34.
    Route = "Route";
    /// RFC 3261 section 20.30.
    RecordRoute = "Record-Route";
    /// RFC 3261 section 20.15.
    ContentType = "Content-Type", b'c';
    /// RFC 3261 section 20.12.
    ContentEncoding = "Content-Encoding", b'e';
    /// RFC 3261 section 20.37.
    Supported = "Supported", b'k';
    /// RFC 3261 section 20.40.
    Unsupported = "Unsupported";
    /// RFC 3261 section 20.32.
    Require = "Require";
    /// RFC 3261 section 20.29.
    ProxyRequire = "Proxy-Require";
    /// RFC 3261 section 20.5.
    Allow = "Allow";
    /// RFC 3261 section 20.1.
    Accept = "Accept";
    /// RFC 3261 section 20.19.
    Expires = "Expires";
    /// RFC 3261 section 20.17.
    Date = "Date";
    /// RFC 3261 section 20.36.
    Subject = "Subject", b's';
    /// RFC 3261 section 20.38.
    Timestamp = "Timestamp";
    /// RFC 3261 section 20.41.
    UserAgent = "User-Agent";
    /// RFC 3261 section 20.35.
    Server = "Server";
    /// RFC 3261 section 20.33.
    RetryAfter = "Retry-After";
    /// RFC 3261 section 20.43.
    Warning = "Warning";
    /// RFC 3261 section 20.7.
    Authorization = "Authorization";
    /// RFC 3261 section 20.28.
    ProxyAuthorization = "Proxy-Authorization";
    /// RFC 3261 section 20.44.
    WwwAuthenticate = "WWW-Authenticate";
    /// RFC 3261 section 20.27.
    ProxyAuthenticate = "Proxy-Authenticate";
    /// RFC 3325 section 9.1.
    PAssertedIdentity = "P-Asserted-Identity";
    /// RFC 3325 section 9.2.
    PPreferredIdentity = "P-Preferred-Identity";
    /// RFC 3323.
    Privacy = "Privacy";
    /// RFC 3326.
    Reason = "Reason";
    /// RFC 6665.
    Event = "Event", b'o';
    /// RFC 6665.
    AllowEvents = "Allow-Events", b'u';
    /// RFC 6665.
    SubscriptionState = "Subscription-State";
    /// RFC 3515.
    ReferTo = "Refer-To", b'r';
    /// RFC 3892.
    ReferredBy = "Referred-By", b'b';
    /// RFC 3891.
    Replaces = "Replaces";
    /// RFC 4028.
    SessionExpires = "Session-Expires", b'x';
    /// RFC 8224.
    Identity = "Identity", b'y';
    /// RFC 3327.
    Path = "Path";
    /// RFC 7044.
    HistoryInfo = "History-Info";
    /// MS-SIPRE: only an edge writes it, so what a peer sends is taken away.
    MsEdgeProxyMessageTrust = "ms-edge-proxy-message-trust";
    /// MS-OCER.
    MsDiagnostics = "ms-diagnostics";
    /// MS-OCER: the form that crosses federation.
    MsDiagnosticsPublic = "ms-diagnostics-public";
    /// MS-OCER: from a client to its own servers.
    MsClientDiagnostics = "ms-client-diagnostics";
    /// Lync: what an edge says to another of its user.
    MsAssertedVerificationLevel = "ms-asserted-verification-level";
    /// MS-CONMGMT.
    MsKeepAlive = "Ms-Keep-Alive";
    /// RFC 5393 section 5.1.
    MaxBreadth = "Max-Breadth";
    /// MS-SIPCOMP.
    Compression = "Compression";
    /// draft-ietf-sip-privacy: what came before RFC 3325.
    RemotePartyId = "Remote-Party-ID";
    /// RFC 3608.
    ServiceRoute = "Service-Route";
}

impl HeaderName {
    /// The name a header line's token stands for; case does not matter.
    pub fn from_token(token: &[u8]) -> Self {
        let Some(&first) = token.first() else { return HeaderName::Other };
        let first = first.to_ascii_lowercase();
        if token.len() == 1 {
            return COMPACT.get(usize::from(first)).copied().unwrap_or(HeaderName::Other);
        }
        // Names are grouped by first letter in a table made at compile time. Few have the same
        // length, so that mostly one text is compared.
        BY_FIRST[usize::from(first) & 31]
            .iter()
            .take_while(|(text, _)| !text.is_empty())
            .find(|(text, _)| is_same_name(text.as_bytes(), token))
            .map_or(HeaderName::Other, |(_, name)| *name)
    }

    /// Whether a message holds it at most once, and a second one is an attack or a fault
    /// (RFC 3261 sections 7.3.1, 20; two From are the oldest way to fool a gateway).
    pub const fn is_singleton(self) -> bool {
        matches!(
            self,
            HeaderName::From
                | HeaderName::To
                | HeaderName::CallId
                | HeaderName::CSeq
                | HeaderName::MaxForwards
                | HeaderName::ContentLength
        )
    }

    /// Its bit in a set of names.
    pub(super) const fn bit(self) -> u64 {
        1 << (self as u8)
    }
}

/// Whether two names are the same, but for case. `name` is one of ours: letters and hyphens.
/// In both halves of ASCII a letter differs from its other case by one bit, and no token but a
/// hyphen becomes one with that bit set.
fn is_same_name(name: &[u8], token: &[u8]) -> bool {
    const CASE: u64 = 0x2020_2020_2020_2020;
    if name.len() != token.len() {
        return false;
    }
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes) | CASE;
    match (name.last_chunk(), token.last_chunk()) {
        (Some(a), Some(b)) => {
            // The last word may overlap the one before it.
            let (a_words, _) = name.as_chunks::<8>();
            let (b_words, _) = token.as_chunks::<8>();
            a_words.iter().zip(b_words).all(|(a, b)| word(a) == word(b)) && word(a) == word(b)
        }
        _ => name.iter().zip(token).all(|(a, b)| a | 0x20 == b | 0x20),
    }
}

/// Names that begin with one letter; the longest group has room to spare.
const GROUP: usize = 10;

static BY_FIRST: [[(&str, HeaderName); GROUP]; 32] = group_by_first();
static COMPACT: [HeaderName; 128] = group_compact();

const fn group_by_first() -> [[(&'static str, HeaderName); GROUP]; 32] {
    let mut table = [[("", HeaderName::Other); GROUP]; 32];
    let mut used = [0; 32];
    let mut i = 0;
    while i < HeaderName::KNOWN.len() {
        let name = HeaderName::KNOWN[i];
        let slot = (name.as_str().as_bytes()[0].to_ascii_lowercase() & 31) as usize;
        // Evaluated by the compiler: a group that overflows does not build.
        table[slot][used[slot]] = (name.as_str(), name);
        used[slot] += 1;
        i += 1;
    }
    table
}

const fn group_compact() -> [HeaderName; 128] {
    let mut table = [HeaderName::Other; 128];
    let mut i = 0;
    while i < HeaderName::KNOWN.len() {
        let name = HeaderName::KNOWN[i];
        if let Some(letter) = name.compact() {
            table[letter as usize] = name;
        }
        i += 1;
    }
    table
}

// The set of names fits one word.
const _: () = assert!((HeaderName::Other as u8) < 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_in_its_compact_form() {
        for &name in HeaderName::KNOWN {
            let text = name.as_str();
            assert_eq!(HeaderName::from_token(text.as_bytes()), name);
            assert_eq!(HeaderName::from_token(text.to_ascii_uppercase().as_bytes()), name);
            assert_eq!(HeaderName::from_token(text.to_ascii_lowercase().as_bytes()), name);
            if let Some(letter) = name.compact() {
                assert_eq!(HeaderName::from_token(&[letter]), name);
                assert_eq!(HeaderName::from_token(&[letter.to_ascii_uppercase()]), name);
            }
        }
        for unknown in ["", "q", "X-Via", "Vi", "Viaa", "\u{e9}", "ms-", "@"] {
            assert_eq!(HeaderName::from_token(unknown.as_bytes()), HeaderName::Other, "{unknown}");
        }
    }
}
