//! Addresses of stanzas (RFC 7622).

use std::borrow::Cow;

use jid::Jid;

/// An address whose domain can be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address<'a> {
    /// Its domain, folded.
    pub(super) domain: Cow<'a, str>,
    /// It has neither local part nor resource.
    pub(super) bare_domain: bool,
    /// The whole address, where it was not in its one form.
    pub(super) folded: Option<String>,
    /// Local part and resource are valid too. Whose are not is a user's doing, not a server's.
    pub(super) valid: bool,
}

/// Reads an address. `None`: not even its domain can be read.
pub(super) fn address(text: &str) -> Option<Address<'_>> {
    plain(text).or_else(|| prepared(text)).or_else(|| malformed(text))
}

/// The way of most addresses: ASCII in its one form, for which nothing need be prepared.
fn plain(text: &str) -> Option<Address<'_>> {
    let (bare, resource) = match text.split_once('/') {
        Some((bare, resource)) => (bare, Some(resource)),
        None => (text, None),
    };
    let (local, domain) = match bare.split_once('@') {
        Some((local, domain)) => (Some(local), domain),
        None => (None, bare),
    };
    let local_byte =
        |b: u8| matches!(b, b'!'..=b'~') && !b.is_ascii_uppercase() && !br#""&'/:<>@"#.contains(&b);
    let length = |part: &str| (1..=1023).contains(&part.len());
    let good_local = local.is_none_or(|part| length(part) && part.bytes().all(local_byte));
    let good_resource =
        resource.is_none_or(|part| length(part) && part.bytes().all(|b| matches!(b, b' '..=b'~')));
    (good_local && good_resource && plain_domain(domain)).then(|| Address {
        domain: Cow::Borrowed(domain),
        bare_domain: local.is_none() && resource.is_none(),
        folded: None,
        valid: true,
    })
}

/// A domain name of letters, digits and hyphens in lower case; not one that a name of other letters
/// stands behind, and no address.
fn plain_domain(domain: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.as_bytes().get(2..4) != Some(b"--")
    };
    let named =
        domain.rsplit('.').next().is_some_and(|l| l.bytes().any(|b| b.is_ascii_lowercase()));
    domain.len() <= 253 && named && domain.split('.').all(label)
}

fn prepared(text: &str) -> Option<Address<'static>> {
    if text.len() > 3071 {
        return None;
    }
    let jid = Jid::new(text).ok()?;
    // A domain of other letters is compared, and looked up, in its ASCII form.
    let domain = idna::domain_to_ascii(jid.domain().as_str()).ok()?;
    let bare_domain = jid.node().is_none() && jid.resource().is_none();
    let whole = jid.into_inner();
    let folded = (whole != text).then_some(whole);
    Some(Address { domain: Cow::Owned(domain), bare_domain, folded, valid: true })
}

fn malformed(text: &str) -> Option<Address<'static>> {
    let bare = text.split_once('/').map_or(text, |(bare, _)| bare);
    let domain = bare.split_once('@').map_or(bare, |(_, domain)| domain);
    let domain = prepared(domain).filter(|domain| domain.bare_domain)?.domain;
    Some(Address { domain, bare_domain: false, folded: None, valid: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_valid_and_in_one_form() {
        type Parts<'a> = (&'a str, bool, Option<&'a str>);
        let malformed = Some(("a.example", false, Some("malformed")));
        let cases: &[(&str, Option<Parts<'_>>)] = &[
            ("a.example", Some(("a.example", true, None))),
            ("u@a.example", Some(("a.example", false, None))),
            ("u@a.example/R s", Some(("a.example", false, None))),
            ("a.example/r@x/y", Some(("a.example", false, None))),
            ("U@A.Example", Some(("a.example", false, Some("u@a.example")))),
            ("a.example.", Some(("a.example", true, Some("a.example")))),
            ("", None),
            ("@a.example", malformed),
            ("u@", None),
            ("u@a.example/", malformed),
            ("u@v@a.example", None),
            ("u v@a.example", malformed),
            ("u&v@a.example", malformed),
            ("u@a..example", None),
            ("u@-a.example", None),
            ("u@a.example/\u{1}", malformed),
            ("u\n@a.example", malformed),
        ];
        for (text, expected) in cases {
            let got = address(text);
            let got = got.as_ref().map(|a| {
                let folded = if a.valid { a.folded.as_deref() } else { Some("malformed") };
                (&*a.domain, a.bare_domain, folded)
            });
            assert_eq!(got, *expected, "{text:?}");
        }
    }

    /// What the short way says is what the long one says.
    #[test]
    fn the_short_way_agrees_with_the_library() {
        for text in ["u@a.example", "a.example", "a-b.example/x", "u!#$@a.example/ x"] {
            assert_eq!(plain(text), prepared(text), "{text}");
        }
        let long = "x".repeat(1024);
        for text in [format!("{long}@a.example"), format!("a.example/{long}")] {
            assert_eq!(plain(&text), None);
            assert_eq!(prepared(&text), None);
        }
    }
}
