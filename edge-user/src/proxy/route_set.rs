//! Which Routes may follow ours in a request from outside (trust rules, section 4): those that our
//! own servers wrote into Record-Route when the dialog was formed, all of them, in their order, and
//! none else. Whatever else stood there would choose a host inside.
//!
//! A digest of them goes into the token, so that nothing is kept for the dialog and every member of
//! a pool knows it. The token's code covers it; that it is no secret costs nothing, since the far end
//! gets the values themselves.

use ring::digest::{Context, SHA256};

use crate::sip::{Host, NameAddr, Scheme, Uri};

/// 96 bits: nobody finds another set with the same digest.
pub(super) const DIGEST_BYTES: usize = 12;

/// A digest of Route values, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSet([u8; DIGEST_BYTES]);

impl RouteSet {
    /// Of these values in this order; `None`: there are none.
    ///
    /// A route set is a list of URIs (RFC 3261 section 12.1): parameters of the header do not count.
    /// Neither does what a URI may be written in two ways for: the case of names, `lr` or `lr=on`.
    pub(super) fn of<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut context = Context::new(&SHA256);
        let mut count = 0;
        for value in values {
            count += 1;
            match NameAddr::parse(value) {
                Ok(route) => put_uri(&mut context, &route.uri),
                Err(_) => {
                    context.update(b"?");
                    put(&mut context, Some(value));
                }
            }
        }
        let digest = context.finish();
        let first = digest.as_ref().first_chunk()?;
        (count > 0).then_some(Self(*first))
    }

    pub(super) fn bytes(&self) -> &[u8; DIGEST_BYTES] {
        &self.0
    }

    /// From what a token carries; the rest of it.
    pub(super) fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (digest, rest) = bytes.split_first_chunk()?;
        Some((Self(*digest), rest))
    }
}

/// A part with its length, so that no two lists look alike.
fn put(context: &mut Context, part: Option<&[u8]>) {
    let length = part.map_or(u64::MAX, |part| part.len() as u64);
    context.update(&length.to_be_bytes());
    context.update(part.unwrap_or_default());
}

fn put_uri(context: &mut Context, uri: &Uri<'_>) {
    let scheme: &[u8] = match uri.scheme() {
        Scheme::Sip => b"s",
        Scheme::Sips => b"S",
        Scheme::Tel | Scheme::Other => {
            context.update(b"o");
            return put(context, Some(uri.as_str().as_bytes()));
        }
    };
    context.update(scheme);
    put(context, uri.user().map(str::as_bytes));
    put(context, uri.password().map(str::as_bytes));
    let host = match uri.host() {
        Some(Host::Name(name)) => name.to_ascii_lowercase(),
        Some(address) => address.to_string(),
        None => String::new(),
    };
    put(context, Some(host.as_bytes()));
    put(context, uri.port().map(u16::to_be_bytes).as_ref().map(<[u8; 2]>::as_slice));
    context.update(&(uri.params().iter().count() as u64).to_be_bytes());
    for (name, value) in uri.params().iter() {
        let name = name.to_ascii_lowercase();
        let value = match name.as_str() {
            "lr" => None,
            "transport" => value.map(str::to_ascii_lowercase),
            _ => value.map(str::to_owned),
        };
        put(context, Some(name.as_bytes()));
        put(context, value.as_deref().map(str::as_bytes));
    }
    put(context, uri.headers().map(str::as_bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<RouteSet> {
        RouteSet::of(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn a_set_is_its_uris_in_their_order() {
        let set = ["<sip:10.0.0.5;transport=tcp;lr>", "<sip:p1@hub.contoso.example:5070;lr;x=Ab>"];
        let same: &[[&str; 2]] = &[
            set,
            ["<SIP:10.0.0.5;Transport=TCP;LR>", "Hub <sip:p1@HUB.contoso.example:5070;lr;x=Ab>"],
            [
                "<sip:10.0.0.5;transport=tcp;lr=on>;ftag=1",
                "<sip:p1@hub.contoso.example:5070;lr;X=Ab>",
            ],
        ];
        for values in same {
            assert_eq!(of(values), of(&set), "{values:?}");
        }
        let [one, two] = set;
        let others: &[&[&str]] = &[
            &[],
            &[one],
            &[two],
            &[two, one],
            &[one, two, one],
            &[one, one, two],
            &["<sip:10.0.0.6;transport=tcp;lr>", two],
            &["<sip:10.0.0.5:5060;transport=tcp;lr>", two],
            &["<sip:10.0.0.5;transport=udp;lr>", two],
            &["<sip:10.0.0.5;transport=tcp>", two],
            &["<sip:10.0.0.5;transport=tcp;lr;maddr=10.0.0.9>", two],
            &["<sips:10.0.0.5;transport=tcp;lr>", two],
            &["<sip:x@10.0.0.5;transport=tcp;lr>", two],
            &["<sip:10.0.0.5;transport=tcp;lr?Route=x>", two],
            &[one, "<sip:P1@hub.contoso.example:5070;lr;x=Ab>"],
            &[one, "<sip:p1@hub.contoso.example:5070;lr;x=ab>"],
            &[one, "<sip:p1@hub.contoso.example:5071;lr;x=Ab>"],
            &[one, "<sip:p1:pw@hub.contoso.example:5070;lr;x=Ab>"],
            &[one, "<tel:+15551234>"],
            &[one, "<"],
        ];
        for values in others {
            assert_ne!(of(values), of(&set), "{values:?}");
        }
        assert_eq!(of(&[]), None);
        assert!(of(&["<"]).is_some() && of(&["<"]) != of(&["<<"]), "what nobody can read counts");
    }
}
