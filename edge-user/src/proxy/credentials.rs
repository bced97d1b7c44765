//! Whose password a request brings. Servers read credentials in ways of their own: what can be read
//! in two ways, or names another user than the sender, is refused, or a guess about one user would be
//! counted as one about another.

use super::{Refusal, admit::sip_domain};
use crate::{
    domain::Domain,
    federation::UserName,
    sip::{HeaderName, Message, Method},
};

const CREDENTIALS: [HeaderName; 2] = [HeaderName::Authorization, HeaderName::ProxyAuthorization];
const BLANK: [char; 2] = [' ', '\t'];

/// An account of a domain of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    name: Option<String>,
    domain: Domain,
}

impl Account {
    pub(super) fn user(&self) -> UserName<'_> {
        UserName::new(self.name.as_deref(), &self.domain)
    }
}

/// The account whose password a request brings: whom it is from. `None`: it brings none.
pub(super) fn account(
    message: &Message,
    ours: impl Fn(&Domain) -> bool,
) -> Result<Option<Account>, Refusal> {
    if message.method() == Some(Method::Ack) {
        return Ok(None);
    }
    let mut found = [None, None];
    for (name, found) in CREDENTIALS.iter().zip(&mut found) {
        let mut values = message.headers(*name);
        *found = values.next().map(|header| header.value);
        if values.next().is_some() {
            return Err(Refusal::Credentials);
        }
    }
    if found == [None, None] {
        return Ok(None);
    }
    let from = message.from().map_err(|_| Refusal::Malformed)?;
    let domain = sip_domain(&from.uri).filter(&ours).ok_or(Refusal::Credentials)?;
    let account = Account { name: from.uri.user().map(str::to_owned), domain };
    if message.method() == Some(Method::Register) {
        // Servers look at To.
        let to = message.to().map_err(|_| Refusal::Malformed)?;
        let domain = sip_domain(&to.uri).ok_or(Refusal::Credentials)?;
        if UserName::new(to.uri.user(), &domain) != account.user() {
            return Err(Refusal::Credentials);
        }
    }
    for value in found.into_iter().flatten() {
        let named = named(value).ok_or(Refusal::Credentials)?;
        if named.is_some_and(|named| !is_of(&named, &account, &ours)) {
            return Err(Refusal::Credentials);
        }
    }
    Ok(Some(account))
}

/// Whether `alice`, `alice@contoso.example` or `CONTOSO\alice` is this account. A domain that is not
/// ours is one of a directory inside.
fn is_of(named: &str, account: &Account, ours: impl Fn(&Domain) -> bool) -> bool {
    let (before, name) = named.split_once('\\').unwrap_or(("", named));
    let (name, after) = name.split_once('@').unwrap_or((name, ""));
    if before.contains('@') || name.contains('\\') || after.contains(['\\', '@']) {
        return false;
    }
    let other = |domain: &Domain| *domain != account.domain && ours(domain);
    if after.parse().is_ok_and(|domain| other(&domain)) {
        return false;
    }
    UserName::new(Some(name), &account.domain) == account.user()
}

/// The name in credentials (RFC 3261 section 25.1), if they have one. `None`: they cannot be read, or
/// not in one way alone, or bear a name that we cannot read.
fn named(value: &[u8]) -> Option<Option<String>> {
    let text = std::str::from_utf8(value).ok()?.trim_matches(BLANK);
    let (scheme, rest) = text.split_once(BLANK)?;
    if text.contains(|c: char| c.is_control() && c != '\t') || !is_token(scheme) {
        return None;
    }
    let is = |name: &str| scheme.eq_ignore_ascii_case(name);
    // RFC 3261 section 22.1 forbids it.
    if is("Basic") {
        return None;
    }
    // RFC 8898: a token, no name.
    if is("Bearer") {
        return Some(None);
    }
    let name = username(rest)?;
    match name {
        None if is("Digest") => None,
        name => Some(name),
    }
}

/// The parameter `username`; `None` outside: these are no parameters, or one comes twice.
fn username(mut rest: &str) -> Option<Option<String>> {
    let mut seen: Vec<&str> = Vec::new();
    let mut found = None;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(found);
        }
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end_matches(BLANK);
        if !is_token(name) || seen.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            return None;
        }
        seen.push(name);
        let (value, after, quoted) = value(after.trim_start_matches(BLANK))?;
        rest = after.trim_start_matches(BLANK);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
        // `username*` (RFC 7616 section 3.4) is in no SIP, and a second name.
        if name.eq_ignore_ascii_case("username*") {
            return None;
        }
        if name.eq_ignore_ascii_case("username") {
            found = Some(if quoted { unescaped(value)? } else { value.to_owned() });
        }
    }
}

/// A value, what comes after it, and whether it was in quotes.
fn value(text: &str) -> Option<(&str, &str, bool)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        let (value, after) = text.split_at_checked(end)?;
        let value = value.trim_end_matches(BLANK);
        return (!value.contains([' ', '\t', '"'])).then_some((value, after, false));
    };
    let (value, after) = quoted_value(quoted)?;
    Some((value, after, true))
}

/// What stands before the closing quote, escapes as they are, and what comes after it.
pub(super) fn quoted_value(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

/// Without escapes: none but that of the backslash, since some servers read none.
fn unescaped(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\\' && chars.next() != Some('\\') {
            return None;
        }
        plain.push(c);
    }
    Some(plain)
}

fn is_token(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b);
    !text.is_empty() && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_in_one_way_or_not_at_all() {
        let some = |name: &str| Some(Some(name.to_owned()));
        for (value, expected) in [
            (
                r#"Digest realm="a, username=\"x\"", Username="ann", uri=sip:a , qop=auth"#,
                some("ann"),
            ),
            ("Digest\tusername=ann", some("ann")),
            (r#"Digest  username = "CONTOSO\\ann",realm="""#, some(r"CONTOSO\ann")),
            (r#"Digest username="Zoë""#, some("Zoë")),
            (r#"NTLM qop="auth", gssapi-data="TlRMTVNTUAAB==", version=3"#, Some(None)),
            ("Kerberos gssapi-data=YII==, crand=\"1\"", Some(None)),
            ("Bearer a.b.c", Some(None)),
            (r#"Digest realm="a""#, None),
            (r#"Digest username="ann", username="bob""#, None),
            (r#"Digest username="ann", Digest username="bob""#, None),
            (r#"Digest username="ann" realm="a""#, None),
            (r#"Digest username="a\nn""#, None),
            (r#"Digest username="ann"#, None),
            (r#"Digest username="ann", username*=UTF-8''bob"#, None),
            ("Digest user name=ann", None),
            ("Digest username=ann bob", None),
            ("Digest", None),
            ("Basic YW5uOnNlY3JldA==", None),
            ("", None),
        ] {
            assert_eq!(named(value.as_bytes()), expected, "{value}");
        }
        assert_eq!(named(b"Digest username=\"\xe9\""), None);
    }

    #[test]
    fn an_account_has_several_names_and_no_other_s() {
        let domain: Domain = "contoso.example".parse().unwrap();
        let account = Account { name: Some("ann".to_owned()), domain };
        let ours = |domain: &Domain| domain.as_str().ends_with(".example");
        for (name, is) in [
            ("ann", true),
            ("Ann@Contoso.example", true),
            ("ann@corp.local", true),
            (r"CORP\ann", true),
            ("bob", false),
            ("", false),
            ("ann@fabrikam.example", false),
            (r"CORP\bob", false),
            (r"ann\bob", false),
            (r"A\B\ann", false),
            (r"bob@x\ann", false),
            (r"ann@x\bob", false),
            ("ann@x@y", false),
        ] {
            assert_eq!(is_of(name, &account, ours), is, "{name}");
        }
    }
}
