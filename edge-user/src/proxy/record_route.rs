//! Our Record-Route values: in a request as it goes out, and edited in its responses (RFC 3261
//! section 16.7 step 8), which bring what was not known before: the callee's tag, and for a dialog
//! from outside the Routes of our own servers that will follow ours.
//!
//! A response from outside brings back what it was sent: ours, and behind it what our own servers
//! recorded. Whoever answers may put its own before that, and nothing else: what stands last is where
//! our users send to next.

use std::time::Instant;

use bytes::Bytes;

use super::{
    ConnectionId, Peer, Side,
    descriptions::NewBody,
    exchange::Exchange,
    proxy::Proxy,
    route_set::RouteSet,
    token::{Dialog, Token},
    trust_headers::{HeaderChange, refuses_remote_user},
};
use crate::sip::{ForwardResponse, HeaderName, Message, NameAddr};

/// What we wrote into Record-Route.
#[derive(Debug)]
pub(super) struct Rewrite {
    pub initial: String,
    /// What our own servers had recorded, in a request that goes out.
    behind: Option<RouteSet>,
    /// What it became in the last response.
    full: Option<Full>,
}

#[derive(Debug)]
struct Full {
    tag: String,
    routes: Option<RouteSet>,
    text: String,
}

/// New values by their place in Record-Route.
pub(super) type Records = Vec<(usize, String)>;

impl Proxy {
    /// Our Record-Route text in a request that goes to this peer.
    pub(super) fn record(
        &mut self,
        now: Instant,
        exchange: u64,
        connection: ConnectionId,
        peer: &Peer,
    ) -> Option<Rewrite> {
        let exchange = self.exchanges.get(exchange)?;
        let request = exchange.request.as_ref()?;
        let routes = recorded_inside(exchange.inbound, request);
        let token = self.token_for(exchange, connection, peer, routes)?;
        let (caller, callee) = (request.from().ok()?, request.to().ok()?);
        let dialog = Dialog { call_id: request.call_id().ok()?, caller: &caller, callee: &callee };
        let initial = self.keys.sign(now, &token, &dialog);
        Some(Rewrite { initial, behind: routes, full: None })
    }

    /// Whether a response to a request that went out leaves the way back as we wrote it.
    pub(super) fn keeps_the_way(&self, exchange: &Exchange, message: &Message) -> bool {
        match &exchange.rewrite {
            Some(rewrite) if !exchange.inbound => {
                leads_back(message, &rewrite.initial, rewrite.behind)
            }
            _ => true,
        }
    }

    /// The same, when we do not know any more what we wrote.
    pub(super) fn keeps_the_way_again(
        &mut self,
        now: Instant,
        inbound: bool,
        message: &Message,
    ) -> bool {
        let (Ok(caller), Ok(callee), Ok(call_id)) =
            (message.from(), message.to(), message.call_id())
        else {
            return false;
        };
        let known = message.list(HeaderName::RecordRoute).find_map(|element| {
            let value = NameAddr::parse_bracketed(element.value).ok()?;
            let text = value.uri.user()?;
            let token = self.keys.verify(now, text, inbound, call_id, &caller, &callee)?;
            Some((text.to_owned(), token.routes))
        });
        match known {
            _ if inbound => true,
            Some((text, behind)) => leads_back(message, &text, behind),
            None => leads_back(message, "", None),
        }
    }

    /// Our Record-Route values for a response of a live exchange.
    pub(super) fn records(&mut self, now: Instant, id: u64, message: &Message) -> Records {
        let Some(exchange) = self.exchanges.get(id) else { return Vec::new() };
        if refuses_remote_user(exchange, message) {
            return Vec::new();
        }
        let (Some(rewrite), inbound) = (&exchange.rewrite, exchange.inbound) else {
            return Vec::new();
        };
        let initial = rewrite.initial.clone();
        let place = place_of(message, &initial);
        match place.and_then(|place| self.full_text(now, id, place, message)) {
            Some(full) => replaced(message, &initial, &full),
            None => self.records_again(now, inbound, message),
        }
    }

    /// The same, when we do not know any more what we wrote: it is verified and signed anew.
    pub(super) fn records_again(
        &mut self,
        now: Instant,
        inbound: bool,
        message: &Message,
    ) -> Records {
        for (place, element) in message.list(HeaderName::RecordRoute).enumerate() {
            let Ok(value) = NameAddr::parse_bracketed(element.value) else { continue };
            let Some(initial) = value.uri.user() else { continue };
            if let Some(full) = self.signed_again(now, inbound, (place, initial), message) {
                return replaced(message, initial, &full);
            }
        }
        Vec::new()
    }

    fn signed_again(
        &mut self,
        now: Instant,
        inbound: bool,
        (place, text): (usize, &str),
        message: &Message,
    ) -> Option<String> {
        let (caller, callee) = (message.from().ok()?, message.to().ok()?);
        let call_id = message.call_id().ok()?;
        let mut token = self.keys.verify(now, text, inbound, call_id, &caller, &callee)?;
        if inbound {
            token.routes = answered_inside(message, place);
        }
        let dialog = Dialog { call_id, caller: &caller, callee: &callee };
        Some(self.keys.sign(now, &token, &dialog))
    }

    /// The text for a response in which ours is at this place. Call-ID, From and the rest of To are
    /// the request's: a response chooses nothing but its tag. `None`: the request is not known any
    /// more.
    fn full_text(
        &mut self,
        now: Instant,
        id: u64,
        place: usize,
        message: &Message,
    ) -> Option<String> {
        let exchange = self.exchanges.get(id)?;
        let to = message.to().ok()?;
        let tag = to.tag()?;
        let inbound = exchange.inbound;
        let mut routes = inbound.then(|| answered_inside(message, place)).flatten();
        if let Some(full) = exchange.rewrite.as_ref().and_then(|rewrite| rewrite.full.as_ref())
            && full.tag == tag
            && (full.routes == routes || !inbound)
        {
            return Some(full.text.clone());
        }
        let request = exchange.request.as_ref()?;
        if !inbound {
            routes = recorded_inside(inbound, request);
        }
        let connection = exchange.client()?.connection;
        let peer = &self.connections.get(connection)?.peer;
        let token = self.token_for(exchange, connection, peer, routes)?;
        let (caller, mut callee) = (request.from().ok()?, request.to().ok()?);
        callee.params = to.params;
        let dialog = Dialog { call_id: request.call_id().ok()?, caller: &caller, callee: &callee };
        let text = self.keys.sign(now, &token, &dialog);
        let full = Full { tag: tag.to_owned(), routes, text: text.clone() };
        self.exchanges.update(id, |exchange| {
            if let Some(rewrite) = &mut exchange.rewrite {
                rewrite.full = Some(full);
            }
        });
        Some(text)
    }

    /// The dialog between a request's sender and the peer it goes to, over this connection.
    fn token_for(
        &self,
        exchange: &Exchange,
        connection: ConnectionId,
        peer: &Peer,
        routes: Option<RouteSet>,
    ) -> Option<Token> {
        let (outside, inside, flow) = match peer.side {
            Side::Partner | Side::Remote | Side::Gateway => (peer, &exchange.from_peer, connection),
            Side::Inside => (&exchange.from_peer, peer, exchange.from),
        };
        let partner = match exchange.remote {
            // Nobody's: it is the connection that counts.
            true => self.config.fqdn.clone(),
            false => exchange.partner.clone()?,
        };
        Some(Token {
            inbound: exchange.inbound,
            partner,
            partner_remote: outside.remote,
            inside_transport: inside.transport,
            inside_remote: inside.remote,
            flow: exchange.remote.then(|| self.flows.flow(flow)),
            routes,
            allowed: exchange.allowed,
        })
    }
}

/// What our servers wrote into a request that goes out: whoever is called there sends it back in
/// this order. Of a request from outside it is not known before the response.
fn recorded_inside(inbound: bool, request: &Message) -> Option<RouteSet> {
    let values = request.list(HeaderName::RecordRoute).map(|element| element.value);
    (!inbound).then(|| RouteSet::of(values)).flatten()
}

/// What our servers wrote into a request from outside, by its response: it stands before ours, and
/// who called sends it back the other way round.
fn answered_inside(message: &Message, place: usize) -> Option<RouteSet> {
    let values = message.list(HeaderName::RecordRoute).take(place).map(|element| element.value);
    let values: Vec<&[u8]> = values.collect();
    RouteSet::of(values.into_iter().rev())
}

/// Whether what a response from outside says of the way ends with ours and what stood behind it.
/// Only what makes a dialog matters; whoever forgets it all in a provisional response is spared.
fn leads_back(message: &Message, ours: &str, behind: Option<RouteSet>) -> bool {
    let status = message.status().unwrap_or_default();
    if !(101..300).contains(&status) {
        return true;
    }
    let values: Vec<&[u8]> = message.list(HeaderName::RecordRoute).map(|e| e.value).collect();
    let Some(last) = values.iter().rposition(|value| is_ours(value, ours)) else {
        let forms = message.cseq().is_ok_and(|cseq| cseq.method.forms_dialog());
        return values.is_empty() && !(forms && status >= 200);
    };
    RouteSet::of(values.iter().skip(last + 1).copied()) == behind
}

fn is_ours(value: &[u8], text: &str) -> bool {
    text.len() < value.len()
        && NameAddr::parse(value).is_ok_and(|value| value.uri.user() == Some(text))
}

/// What stands before and after our text in a value of ours.
fn around_ours<'a>(value: &'a [u8], text: &str) -> Option<(&'a str, &'a str)> {
    let user = NameAddr::parse(value).ok()?.uri.user().filter(|user| *user == text)?;
    // It is a slice of the value.
    let value = std::str::from_utf8(value).ok()?;
    let start = (user.as_ptr() as usize).checked_sub(value.as_ptr() as usize)?;
    Some((value.get(..start)?, value.get(start + user.len()..)?))
}

fn place_of(message: &Message, text: &str) -> Option<usize> {
    message.list(HeaderName::RecordRoute).position(|element| is_ours(element.value, text))
}

/// Each of our values with the new text in it.
fn replaced(message: &Message, initial: &str, full: &str) -> Records {
    let ours = |(place, element): (usize, crate::sip::Element<'_>)| {
        let (before, after) = around_ours(element.value, initial)?;
        Some((place, [before, full, after].concat()))
    };
    message.list(HeaderName::RecordRoute).enumerate().filter_map(ours).collect()
}

/// A response as it goes back: our Via off, our Record-Route values edited, perhaps another body.
pub(super) fn sent_back(
    message: &Message,
    mut change: HeaderChange,
    more: Option<(&'static str, &'static str)>,
    records: &Records,
    body: Option<NewBody>,
) -> Option<Bytes> {
    if body.as_ref().is_some_and(NewBody::is_taken_out) {
        change.remove.push(HeaderName::ContentType);
    }
    let mut add = change.added();
    add.extend(more);
    let records: Vec<(usize, &str)> =
        records.iter().map(|(place, text)| (*place, text.as_str())).collect();
    let body = body.as_ref().map(NewBody::bytes);
    let forward =
        ForwardResponse { record_routes: &records, remove: &change.remove, add: &add, body };
    forward.apply(message).ok()
}
