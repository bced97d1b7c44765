//! What is asked of a request before its route is read (RFC 3261 section 16.3, RFC 5393), and what
//! a request of an old router is made into before anything is asked (section 16.4).

use std::time::Instant;

use super::{Peer, Refusal, Side, proxy::Proxy, respond::Answer, send::own_limits};
use crate::sip::{Edit, HeaderName, Message, Method, NameAddr, Scheme};

use super::admit::sip_domain;

impl Proxy {
    /// The answer that ends it here, if there is one.
    pub(super) fn preflight(&self, message: &Message, peer: &Peer) -> Result<(), Answer> {
        let method = message.method();
        // RFC 3261 section 20.29: neither ACK nor CANCEL asks for an extension.
        if method == Some(Method::Ack) {
            return Ok(());
        }
        // Compression and keep-alives are agreed on by two neighbours (MS-CONMGMT, MS-SIPCOMP): who
        // hears that we do not know it goes on without, and nobody agrees on it over our head.
        if method == Some(Method::Negotiate) {
            return Err(Answer::new(405, "Method Not Allowed"));
        }
        if let Some(Ok(uri)) = message.request_uri()
            && uri.scheme() == Scheme::Other
        {
            return Err(Answer::new(416, "Unsupported URI Scheme"));
        }
        if message.headers(HeaderName::ProxyRequire).any(|header| !header.value.is_empty()) {
            return Err(Answer::new(420, "Bad Extension"));
        }
        match breadth(message) {
            Breadth::Absent | Breadth::Left => {}
            Breadth::None => return Err(Answer::new(440, "Max-Breadth Exceeded")),
            Breadth::Bad => return Err(Refusal::Malformed.into()),
        }
        if matches!(peer.side, Side::Partner | Side::Gateway) {
            // The address of a user of ours would be whatever a partner says, and a password could be
            // guessed past the bans. Who signs in from outside is a remote user (trust rules, section 1).
            if method == Some(Method::Register) {
                return Err(Refusal::Registration.into());
            }
            if self.claims_our_party(message) {
                return Err(Refusal::Spoofed.into());
            }
        }
        Ok(())
    }

    /// Remote-Party-ID is what was before P-Asserted-Identity: whoever believes it inside would
    /// believe a partner that it is one of us.
    fn claims_our_party(&self, message: &Message) -> bool {
        message.list(HeaderName::RemotePartyId).any(|value| {
            NameAddr::parse(value.value).is_ok_and(|party| {
                sip_domain(&party.uri).is_some_and(|domain| self.policy.is_ours(&domain))
            })
        })
    }

    /// The request without a `maddr` that has led to us (RFC 3261 section 16.4). `None`: it has none.
    pub(super) fn without_own_maddr(&self, message: &Message) -> Option<Message> {
        let uri = message.request_uri()?.ok()?;
        let maddr = uri.maddr()??;
        if !self.config.is_me(maddr, uri.port()) {
            return None;
        }
        let mut edit = Edit::new(message);
        edit.request_uri(&uri.arrived()?);
        checked(edit)
    }

    /// Where a Request-URI from outside names a place beside its domain (`maddr`), one of our servers would
    /// send to it: within a dialog that is for who told it in its Contact, and never this machine.
    pub(super) fn judge_maddr(&self, message: &Message, in_dialog: bool) -> Result<(), Refusal> {
        let uri = message.request_uri().and_then(Result::ok);
        match uri.and_then(|uri| uri.maddr()) {
            None => Ok(()),
            Some(Some(host)) if in_dialog && !self.config.is_no_target(host, None) => Ok(()),
            Some(_) => Err(Refusal::Transit),
        }
    }

    /// The request as a loose router would have sent it (RFC 3261 section 16.4): a strict one puts
    /// what we wrote into Record-Route in the place of the Request-URI, and that as the last Route.
    /// Only for our own URI, signed by us for this very dialog: nothing else is guessed.
    /// `None`: it is no such request.
    pub(super) fn loosen_strict_router(
        &mut self,
        now: Instant,
        message: &Message,
        side: Side,
    ) -> Option<Message> {
        let uri = message.request_uri()?.ok()?;
        if !uri.is_loose_router() || !self.config.is_me(uri.host()?, uri.port()) {
            return None;
        }
        let last = message.list(HeaderName::Route).last()?;
        let (from, to) = (message.from().ok()?, message.to().ok()?);
        let outside = side != Side::Inside;
        self.keys.verify(now, uri.user()?, outside, message.call_id().ok()?, &from, &to)?;
        let target = NameAddr::parse(last.value).ok()?.uri;
        if target.host().is_some_and(|host| self.config.is_me(host, target.port())) {
            return None;
        }
        let ours = format!("<{}>", uri.as_str());
        let routes = message.list(HeaderName::Route).map(|route| route.value);
        let count = message.list(HeaderName::Route).count();
        let routes = std::iter::once(ours.as_bytes()).chain(routes.take(count - 1));
        with_routes(message, target.as_str(), routes)
    }
}

/// The request as a strict router after us wants it (RFC 3261 section 16.6 step 6): its URI in the
/// place of the Request-URI, and that as the last Route. `ours` are the Route values that we take
/// off; where the request goes is decided by then and does not change. `None`: no strict router.
pub(super) fn for_strict_router(message: &Message, ours: usize) -> Option<Message> {
    let mut routes: Vec<&[u8]> = message.list(HeaderName::Route).map(|route| route.value).collect();
    let next = NameAddr::parse(routes.get(ours)?).ok()?.uri;
    if next.is_loose_router() {
        return None;
    }
    let target = format!("<{}>", message.request_uri()?.ok()?.as_str());
    routes.remove(ours);
    routes.push(target.as_bytes());
    with_routes(message, next.as_str(), routes.into_iter())
}

/// The message with another Request-URI and other Route values; `None` when that makes no good
/// message.
fn with_routes<'a>(
    message: &Message,
    request_uri: &str,
    routes: impl Iterator<Item = &'a [u8]>,
) -> Option<Message> {
    let mut edit = Edit::new(message);
    edit.request_uri(request_uri).remove(HeaderName::Route);
    for route in routes {
        edit.append(HeaderName::Route.as_str(), route);
    }
    checked(edit)
}

fn checked(mut edit: Edit<'_>) -> Option<Message> {
    let changed = Message::parse_datagram(edit.finish().ok()?, &own_limits()).ok()?;
    changed.validate().is_ok().then_some(changed)
}

/// How many branches a request may still have (RFC 5393 section 5.3).
enum Breadth {
    Absent,
    Left,
    None,
    Bad,
}

fn breadth(message: &Message) -> Breadth {
    let mut values = message.headers(HeaderName::MaxBreadth).map(|header| header.value);
    match (values.next(), values.next()) {
        (None, _) => Breadth::Absent,
        (Some(value), None) if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
            if value.iter().all(|digit| *digit == b'0') { Breadth::None } else { Breadth::Left }
        }
        _ => Breadth::Bad,
    }
}
