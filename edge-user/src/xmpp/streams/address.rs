//! Addresses of stanzas (RFC 7622).

use std::borrow::Cow;

use jid::Jid;

/// A valid address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address<'a> {
    /// Its domain, folded.
    pub(super) domain: Cow<'a, str>,
    /// It has neither local part nor resource.
    pub(super) bare_domain: bool,
    /// The whole address, where it was not in its one form.
    pub(super) folded: Option<String>,
}

/// Reads an address. `None`: it is none.
pub(super) fn address(text: &str) -> Option<Address<'_>> {
    plain(text).or_else(|| prepared(text))
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
    Some(Address { domain: Cow::Owned(domain), bare_domain, folded })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_valid_and_in_one_form() {
        type Parts<'a> = (&'a str, bool, Option<&'a str>);
        let cases: &[(&str, Option<Parts<'_>>)] = &[
            ("a.example", Some(("a.example", true, None))),
            ("u@a.example", Some(("a.example", false, None))),
            ("u@a.example/R s", Some(("a.example", false, None))),
            ("a.example/r@x/y", Some(("a.example", false, None))),
            ("U@A.Example", Some(("a.example", false, Some("u@a.example")))),
            ("a.example.", Some(("a.example", true, Some("a.example")))),
            ("", None),
            ("@a.example", None),
            ("u@", None),
            ("u@a.example/", None),
            ("u@v@a.example", None),
            ("u v@a.example", None),
            ("u&v@a.example", None),
            ("u@a..example", None),
            ("u@-a.example", None),
            ("u@a.example/\u{1}", None),
            ("u\n@a.example", None),
        ];
        for (text, expected) in cases {
            let got = address(text);
            let got = got.as_ref().map(|a| (&*a.domain, a.bare_domain, a.folded.as_deref()));
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
