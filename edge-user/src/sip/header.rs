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
        if token.len() > SHORT {
            let is = |name: &&HeaderName| name.as_str().as_bytes().eq_ignore_ascii_case(token);
            return LONG.iter().find(is).copied().unwrap_or(HeaderName::Other);
        }
        let mut chunk = [0; SHORT];
        chunk.iter_mut().zip(token).for_each(|(to, from)| *to = *from);
        Self::from_chunk(&chunk, token.len())
    }

    /// The same, of the first `length` bytes of a chunk: mostly all there is to look at of a line.
    #[inline]
    pub(super) fn from_chunk(chunk: &[u8; SHORT], length: usize) -> Self {
        let Some(last) = length.checked_sub(1).and_then(|last| chunk.get(last)) else {
            return HeaderName::Other;
        };
        if length == 1 {
            let letter = usize::from(last.to_ascii_lowercase());
            return COMPACT.get(letter).copied().unwrap_or(HeaderName::Other);
        }
        let slot = slot(chunk[0], *last, length);
        let Some(name) = NAMES.get(usize::from(SLOTS[slot])) else { return HeaderName::Other };
        let differs = (u128::from_le_bytes(*chunk) ^ name.text) & name.care;
        match differs == 0 && usize::from(name.length) == length {
            true => name.name,
            false => HeaderName::Other,
        }
    }

    /// Its bit in a set of names.
    pub(super) const fn bit(self) -> u64 {
        1 << (self as u8)
    }
}

/// What a message holds at most once; a second one is an attack or a fault (RFC 3261 sections
/// 7.3.1, 20; two From are the oldest way to fool a gateway).
pub(super) const SINGLETONS: u64 = set(&[
    HeaderName::From,
    HeaderName::To,
    HeaderName::CallId,
    HeaderName::CSeq,
    HeaderName::MaxForwards,
    HeaderName::ContentLength,
]);

/// A set of names.
pub(super) const fn set(names: &[HeaderName]) -> u64 {
    let mut bits = 0;
    let mut i = 0;
    while i < names.len() {
        bits |= names[i].bit();
        i += 1;
    }
    bits
}

/// Names up to this length are compared as one number.
pub(super) const SHORT: usize = 16;

/// A name of up to [`SHORT`] bytes.
#[derive(Clone, Copy)]
struct Short {
    text: u128,
    /// The bits that tell it from others: in a letter all but that of its case.
    care: u128,
    length: u8,
    name: HeaderName,
}

/// Where a name stands: no two short ones share a slot.
const fn slot(first: u8, last: u8, length: usize) -> usize {
    let (first, last) = ((first | 0x20) as usize, (last | 0x20) as usize);
    (first + last * 6 + length * 14) % PLACES
}

const PLACES: usize = 256;
/// No name in this slot.
const FREE: u8 = u8::MAX;

static SLOTS: [u8; PLACES] = place_names();
static NAMES: [Short; HeaderName::KNOWN.len()] = read_names();
static LONG: [HeaderName; long()] = long_names();
static COMPACT: [HeaderName; 128] = group_compact();

const fn place_names() -> [u8; PLACES] {
    let mut slots = [FREE; PLACES];
    let mut i = 0;
    while i < HeaderName::KNOWN.len() {
        let text = HeaderName::KNOWN[i].as_str().as_bytes();
        if text.len() <= SHORT {
            let slot = slot(text[0], text[text.len() - 1], text.len());
            // Evaluated by the compiler: with two names in one slot this does not build.
            assert!(slots[slot] == FREE);
            slots[slot] = i as u8;
        }
        i += 1;
    }
    slots
}

const fn read_names() -> [Short; HeaderName::KNOWN.len()] {
    let mut names =
        [Short { text: 0, care: 0, length: 0, name: HeaderName::Other }; HeaderName::KNOWN.len()];
    let mut i = 0;
    while i < names.len() {
        let name = HeaderName::KNOWN[i];
        let text = name.as_str().as_bytes();
        names[i].name = name;
        names[i].length = text.len() as u8;
        let mut at = 0;
        while at < text.len() && at < SHORT {
            let care = if text[at].is_ascii_alphabetic() { !0x20 } else { 0xff_u8 };
            names[i].text |= (text[at] as u128) << (8 * at);
            names[i].care |= (care as u128) << (8 * at);
            at += 1;
        }
        i += 1;
    }
    names
}

/// How many names are longer than [`SHORT`].
const fn long() -> usize {
    let mut count = 0;
    let mut i = 0;
    while i < HeaderName::KNOWN.len() {
        count += (HeaderName::KNOWN[i].as_str().len() > SHORT) as usize;
        i += 1;
    }
    count
}

const fn long_names() -> [HeaderName; long()] {
    let mut names = [HeaderName::Other; long()];
    let (mut i, mut count) = (0, 0);
    while i < HeaderName::KNOWN.len() {
        if HeaderName::KNOWN[i].as_str().len() > SHORT {
            names[count] = HeaderName::KNOWN[i];
            count += 1;
        }
        i += 1;
    }
    names
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

    #[test]
    fn one_other_byte_is_another_name() {
        for &name in HeaderName::KNOWN {
            for at in 0..name.as_str().len() {
                let mut text = name.as_str().as_bytes().to_vec();
                for b in 0..=255 {
                    text[at] = b;
                    let same = text.eq_ignore_ascii_case(name.as_str().as_bytes());
                    assert_eq!(HeaderName::from_token(&text) == name, same, "{name:?} {at} {b}");
                }
            }
        }
    }
}
