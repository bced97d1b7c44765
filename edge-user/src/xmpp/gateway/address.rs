//! Addresses of users on both sides (RFC 7247 section 6), and the traps that it leaves.
//!
//! After percent-decoding any byte can stand in a SIP user part. So the whole set of XEP-0106 is
//! escaped, not only what RFC 7247 names: `%40` makes no second `@`, `%2F` no resource. Control
//! characters have no counterpart at all: they never reach a SIP header, a stanza or a log. What
//! preparation (RFC 6122) turns into another escape is refused, so that two users never become one.
//! Domains are A-labels in SIP and U-labels in XMPP.

use std::{fmt, sync::Arc};

use jid::{Jid, NodePart, ResourcePart};

use crate::{
    domain::Domain,
    sip::{Scheme, Uri},
};

/// Why an address has no counterpart on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AddressError {
    /// `tel:` and the like.
    #[error("neither sip: nor sips:")]
    Scheme,
    /// A domain alone.
    #[error("no user part")]
    NoUser,
    /// Percent escapes that are not UTF-8.
    #[error("the escapes are not UTF-8")]
    Utf8,
    /// A line end, NUL or the like.
    #[error("a control character")]
    Control,
    /// It begins or ends with a space (XEP-0106 section 3.1).
    #[error("a space at an end")]
    Space,
    /// Prepared, it would be another user.
    #[error("prepared, it would be another user")]
    Ambiguous,
    /// What RFC 6122 does not allow, or more than 1023 bytes.
    #[error("not a local part or resource of an XMPP address")]
    NotPrepared,
    /// An IP address, or a name that IDNA does not know.
    #[error("the domain is not a name that both sides can write")]
    Domain,
}

/// What XEP-0106 escapes, and how.
const ESCAPES: &[(char, &str)] = &[
    (' ', "20"),
    ('"', "22"),
    ('&', "26"),
    ('\'', "27"),
    ('/', "2f"),
    (':', "3a"),
    ('<', "3c"),
    ('>', "3e"),
    ('@', "40"),
    ('\\', "5c"),
];

/// A user, as each side writes them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Party {
    /// The domain.
    pub domain: Domain,
    /// The bare JID, prepared: two parties are the same user when these are equal.
    pub jid: Arc<str>,
    /// `sip:user@domain`, the user's case as it was written.
    pub sip: Arc<str>,
    /// What stands after `/`, or in `gr`.
    pub resource: Option<Arc<str>>,
}

impl Party {
    /// From a SIP URI.
    pub fn of_uri(uri: &Uri<'_>) -> Result<Self, AddressError> {
        if !uri.is_sip() {
            return Err(match uri.scheme() {
                Scheme::Sip | Scheme::Sips => AddressError::NoUser,
                Scheme::Tel | Scheme::Other => AddressError::Scheme,
            });
        }
        let domain = uri.host().and_then(|host| host.domain()).ok_or(AddressError::Domain)?;
        let user = decode(uri.user().ok_or(AddressError::NoUser)?)?;
        let node = local_part(&user)?;
        let resource = match uri.params().get("gr") {
            Some(gr) => Some(resource(&decode(gr)?)?),
            None => None,
        };
        let jid = format!("{node}@{}", unicode(&domain)?);
        Ok(Self { sip: sip_uri(&user, &domain).into(), jid: jid.into(), resource, domain })
    }

    /// From a JID with a local part.
    pub fn of_jid(jid: &str) -> Result<Self, AddressError> {
        let jid = Jid::new(jid).map_err(|_| AddressError::NotPrepared)?;
        let node = jid.node().ok_or(AddressError::NoUser)?.as_str();
        let domain = ascii(jid.domain().as_str())?;
        if !is_sip_host(&domain) {
            return Err(AddressError::Domain);
        }
        let user = unescape(node);
        if user.starts_with(' ') || user.ends_with(' ') {
            return Err(AddressError::Space);
        }
        // `\26` and `\5c26` are two users; another spelling of one would be a third.
        if escape(&user) != node {
            return Err(AddressError::Ambiguous);
        }
        let bare = format!("{node}@{}", unicode(&domain)?);
        Ok(Self {
            sip: sip_uri(&user, &domain).into(),
            jid: bare.into(),
            resource: jid.resource().map(|resource| resource.as_str().into()),
            domain,
        })
    }

    /// The JID with its resource.
    pub fn full_jid(&self) -> String {
        match &self.resource {
            Some(resource) => format!("{}/{resource}", self.jid),
            None => self.jid.as_ref().to_owned(),
        }
    }

    /// The SIP URI, with its resource in `gr`.
    pub fn full_sip(&self) -> String {
        let mut uri = self.sip.as_ref().to_owned();
        if let Some(resource) = &self.resource {
            uri.push_str(";gr=");
            percent(resource, b"-_.!~*'()", &mut uri);
        }
        uri
    }

    /// `pres:user@domain`, as PIDF names it (RFC 7247 section 6, RFC 3859).
    pub fn pres(&self) -> String {
        let node = self.jid.split('@').next().unwrap_or_default();
        let mut uri = String::from("pres:");
        percent(&unescape(node), b"!#$%&'*+-/=?^_`{|}~.", &mut uri);
        uri.push('@');
        uri.push_str(self.domain.as_str());
        uri
    }

    /// The user part as SIP writes it.
    pub fn sip_user(&self) -> &str {
        let user = self.sip.strip_prefix("sip:").unwrap_or(&self.sip);
        user.split('@').next().unwrap_or_default()
    }

    /// The same user with another resource.
    #[must_use]
    pub fn at(&self, resource: Option<&str>) -> Self {
        Self { resource: resource.map(Arc::from), ..self.clone() }
    }

    /// Whether both are the same user, whatever the resource.
    pub fn is_user(&self, other: &Party) -> bool {
        self.jid == other.jid
    }
}

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full_jid())
    }
}

/// The domain of a JID, with or without a local part.
pub fn domain_of(jid: &str) -> Result<Domain, AddressError> {
    let jid = Jid::new(jid).map_err(|_| AddressError::NotPrepared)?;
    ascii(jid.domain().as_str())
}

/// A domain as XMPP writes it: U-labels.
pub fn unicode(domain: &Domain) -> Result<String, AddressError> {
    let (text, result) = idna::domain_to_unicode(domain.as_str());
    // Back again it must be the same name, or the other side would speak of another domain.
    let back = idna::domain_to_ascii(&text);
    match (result, back) {
        (Ok(()), Ok(back)) if back == domain.as_str() => Ok(text),
        _ => Err(AddressError::Domain),
    }
}

/// Whether SIP can write it: XMPP takes names that RFC 3261 section 25.1 does not, such as one whose
/// last label begins with a digit.
fn is_sip_host(domain: &Domain) -> bool {
    let uri = format!("sip:{domain}");
    Uri::parse(&uri).ok().and_then(|uri| uri.host()?.domain()).as_ref() == Some(domain)
}

fn ascii(domain: &str) -> Result<Domain, AddressError> {
    let text = idna::domain_to_ascii(domain).map_err(|_| AddressError::Domain)?;
    text.parse().map_err(|_| AddressError::Domain)
}

/// Percent escapes undone; the text must be UTF-8 without control characters.
fn decode(text: &str) -> Result<String, AddressError> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).filter(|_| byte == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    let text = String::from_utf8(out).map_err(|_| AddressError::Utf8)?;
    match text.chars().any(char::is_control) {
        true => Err(AddressError::Control),
        false => Ok(text),
    }
}

/// A user part as a local part: escaped, then prepared.
fn local_part(user: &str) -> Result<String, AddressError> {
    if user.starts_with(' ') || user.ends_with(' ') {
        return Err(AddressError::Space);
    }
    let escaped = escape(user);
    let node = NodePart::new(&escaped).map_err(|_| AddressError::NotPrepared)?;
    // Compatibility characters can become a backslash or its digits.
    let same = escape(&unescape(&node)) == node.as_str() && codes(&node) == codes(&escaped);
    if same { Ok(node.into_owned().into_inner()) } else { Err(AddressError::Ambiguous) }
}

fn resource(text: &str) -> Result<Arc<str>, AddressError> {
    let prepared = ResourcePart::new(text).map_err(|_| AddressError::NotPrepared)?;
    Ok(prepared.as_str().into())
}

/// The code that follows a backslash, if it is one.
fn code_at(rest: &str) -> Option<(char, &'static str)> {
    ESCAPES.iter().copied().find(|(_, code)| rest.starts_with(code))
}

fn codes(text: &str) -> usize {
    text.match_indices('\\')
        .filter(|(at, _)| text.get(at + 1..).is_some_and(|rest| code_at(rest).is_some()))
        .count()
}

/// XEP-0106: a backslash is escaped only where it would begin a code.
fn escape(user: &str) -> String {
    let mut out = String::with_capacity(user.len());
    for (at, c) in user.char_indices() {
        let code = ESCAPES.iter().find(|(special, _)| *special == c).map(|(_, code)| *code);
        let begins = |rest: &str| {
            let lower = rest.get(..2).map(str::to_ascii_lowercase);
            lower.is_some_and(|lower| code_at(&lower).is_some())
        };
        match code {
            Some(_) if c == '\\' && !user.get(at + 1..).is_some_and(begins) => out.push(c),
            Some(code) => {
                out.push('\\');
                out.push_str(code);
            }
            None => out.push(c),
        }
    }
    out
}

fn unescape(node: &str) -> String {
    let mut out = String::with_capacity(node.len());
    let mut rest = node;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match code_at(after) {
            Some((c, code)) => {
                out.push(c);
                rest = after.get(code.len()..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Everything but letters, digits and `keep` as `%HH` of its bytes.
fn percent(text: &str, keep: &[u8], out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn sip_uri(user: &str, domain: &Domain) -> String {
    let mut uri = String::from("sip:");
    // RFC 3261 section 25.1: unreserved and user-unreserved.
    percent(user, b"!$&'()*+,-./;=?_~", &mut uri);
    uri.push('@');
    uri.push_str(domain.as_str());
    uri
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_uri(uri: &str) -> Result<String, AddressError> {
        Party::of_uri(&Uri::parse(uri).unwrap()).map(|party| party.full_jid())
    }

    fn of_jid(jid: &str) -> Result<String, AddressError> {
        Party::of_jid(jid).map(|party| party.full_sip())
    }

    #[test]
    fn both_sides_write_one_user() {
        for (uri, jid) in [
            ("sip:f%C3%BC@sip.example", "fü@sip.example"),
            ("sip:o'malley@sip.example", "o\\27malley@sip.example"),
            ("sip:foo@sip.example;gr=bar", "foo@sip.example/bar"),
            ("sip:m&m@x.example", "m\\26m@x.example"),
            ("sip:tsch%C3%BCss@x.example", "tschüss@x.example"),
            ("sip:baz@x.example;gr=qux", "baz@x.example/qux"),
            ("sip:and/or@x.example", "and\\2for@x.example"),
            ("sip:a%40b@x.example", "a\\40b@x.example"),
            ("sip:a%20b@x.example", "a\\20b@x.example"),
            ("sip:%22%3A%3C%3E@x.example", "\\22\\3a\\3c\\3e@x.example"),
            ("sip:a%5Cb@x.example", "a\\b@x.example"),
            ("sip:a%5C26@x.example", "a\\5c26@x.example"),
            ("sip:a;b=c@x.example", "a;b=c@x.example"),
            ("sip:a%23%25%5B%5D%5E%60%7B%7C%7D@x.example", "a#%[]^`{|}@x.example"),
            ("sip:ann@xn--bcher-kva.example", "ann@bücher.example"),
            ("sip:a@x.example;gr=a%20%3B%3F%3C%3E%22%2F%40b", "a@x.example/a ;?<>\"/@b"),
            ("sip:a@x.example;gr=%C3%BC", "a@x.example/ü"),
        ] {
            assert_eq!(of_uri(uri).as_deref(), Ok(jid), "{uri}");
            assert_eq!(of_jid(jid).as_deref(), Ok(uri), "{jid}");
        }
    }

    #[test]
    fn one_user_has_one_jid_however_it_is_written() {
        for (uri, jid) in [
            ("sip:Ann.Lee@X.Example", "ann.lee@x.example"),
            ("sips:%61nn:secret@x.example:5061;transport=tcp;gr", "ann@x.example"),
            ("sip:F%C3%9C@x.example", "fü@x.example"),
            ("sip:a%5C2F@x.example", "a\\5c2f@x.example"),
        ] {
            assert_eq!(of_uri(uri).as_deref(), Ok(jid), "{uri}");
        }
        // The case that SIP wrote is kept for SIP.
        let party = Party::of_uri(&Uri::parse("sip:Ann@X.Example").unwrap()).unwrap();
        assert_eq!(&*party.sip, "sip:Ann@x.example");
        for (jid, same) in
            [("Ann@X.example", "ann@x.example"), ("a@bücher.example", "a@xn--bcher-kva.example")]
        {
            assert_eq!(Party::of_jid(jid), Party::of_jid(same), "{jid}");
        }
    }

    #[test]
    fn what_could_be_another_user_or_another_line_is_refused() {
        use AddressError::*;
        for (uri, error) in [
            ("sip:a%0D%0AVia:x@x.example", Control),
            ("sip:a%00@x.example", Control),
            ("sip:a%C2%85@x.example", Control),
            ("sip:a%7F@x.example", Control),
            ("sip:a@x.example;gr=a%0Ab", Control),
            ("sip:a%FF@x.example", Utf8),
            ("sip:%20a@x.example", Space),
            ("sip:a%20@x.example", Space),
            ("tel:+15551234", Scheme),
            ("sip:x.example", NoUser),
            ("sip:a@192.0.2.1", Domain),
            ("sip:a@[2001:db8::1]", Domain),
            ("sip:a@xn--a.example", Domain),
            // A full-width 2 becomes `2` when prepared: this would be the user `m&m`.
            ("sip:m%5C%EF%BC%926m@x.example", Ambiguous),
            // A full-width backslash.
            ("sip:m%EF%BC%BC26m@x.example", Ambiguous),
            // A full-width `@`.
            ("sip:a%EF%BC%A0b@x.example", NotPrepared),
        ] {
            assert_eq!(of_uri(uri), Err(error), "{uri}");
        }
        for (jid, error) in [
            ("x.example", NoUser),
            ("a@b@x.example", NotPrepared),
            ("a@x.example/a\r\nb", NotPrepared),
            ("a\u{0}@x.example", NotPrepared),
            ("\\20a@x.example", Space),
            ("a\\20@x.example", Space),
            ("a\\5cb@x.example", Ambiguous),
            ("a@192.0.2.1", Domain),
            ("a@localhost", Domain),
            // The last label of a SIP host begins with a letter.
            ("a@montague.exa2.0mple", Domain),
            ("a@montague.0", Domain),
        ] {
            assert_eq!(of_jid(jid), Err(error), "{jid}");
        }
    }

    #[test]
    fn parts_have_1023_bytes_at_most() {
        for (length, fits) in [(1023, true), (1024, false)] {
            let text = "a".repeat(length);
            assert_eq!(of_uri(&format!("sip:{text}@x.example")).is_ok(), fits);
            assert_eq!(of_uri(&format!("sip:a@x.example;gr={text}")).is_ok(), fits);
            assert_eq!(of_jid(&format!("{text}@x.example")).is_ok(), fits);
            assert_eq!(of_jid(&format!("a@x.example/{text}")).is_ok(), fits);
        }
        // What counts is the escaped form.
        let text = "%40".repeat(342);
        assert_eq!(of_uri(&format!("sip:{text}@x.example")), Err(AddressError::NotPrepared));
    }

    #[test]
    fn pidf_names_an_entity_of_its_own_scheme() {
        let party = Party::of_jid("o\\27ma(l)@x.example/r").unwrap();
        assert_eq!(party.pres(), "pres:o'ma%28l%29@x.example");
    }

    proptest! {
        #[test]
        fn what_has_a_counterpart_comes_back(user in ".{1,12}", resource in proptest::option::of(".{1,8}")) {
            let mut uri = sip_uri(&user, &"x.example".parse().unwrap());
            if let Some(resource) = &resource {
                uri.push_str(";gr=");
                percent(resource, b"", &mut uri);
            }
            let parsed = Uri::parse(&uri).unwrap();
            if let Ok(party) = Party::of_uri(&parsed) {
                let jid = party.full_jid();
                prop_assert!(!jid.chars().any(char::is_control));
                prop_assert_eq!(party.jid.matches('@').count(), 1);
                let back = Party::of_jid(&jid).unwrap();
                prop_assert_eq!(&back.full_jid(), &jid);
                let again = back.full_sip();
                let again = Uri::parse(&again).unwrap();
                prop_assert_eq!(Party::of_uri(&again).unwrap().full_jid(), jid);
            }
        }

        #[test]
        fn what_a_jid_becomes_is_what_sip_reads(
            node in ".{1,6}",
            domain in "[a-z0-9ü_.-]{1,8}\\.[a-z0-9-]{1,6}",
            resource in proptest::option::of(".{1,6}"),
        ) {
            let mut jid = format!("{}@{domain}", escape(&node));
            if let Some(resource) = resource {
                jid = format!("{jid}/{resource}");
            }
            if let Ok(party) = Party::of_jid(&jid) {
                let uri = party.full_sip();
                let parsed = Uri::parse(&uri).unwrap();
                prop_assert_eq!(parsed.host().unwrap().domain(), Some(party.domain.clone()));
                prop_assert_eq!(Party::of_uri(&parsed).unwrap(), party);
            }
        }

        #[test]
        fn a_jid_comes_back(node in "[a-z\\\\0-9&'/ @:<>\"ü.]{1,10}", escaped in any::<bool>()) {
            let node = if escaped { escape(&node) } else { node };
            if let Ok(party) = Party::of_jid(&format!("{node}@x.example")) {
                let uri = party.full_sip();
                prop_assert!(uri.bytes().all(|b| b.is_ascii_graphic()));
                let parsed = Uri::parse(&uri).unwrap();
                prop_assert_eq!(Party::of_uri(&parsed).unwrap(), party);
            }
        }
    }
}
